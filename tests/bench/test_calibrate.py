"""Calibration: it finds again what an emulated engine was made with, and is honest about a real one."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import msgspec
import pytest

from sage import InputError
from sage.bench.calibrate import Served, calibrate, play, read_served, served_in
from sage.bench.calibrate_run import measure
from sage.engines.emulated_profile import Profile, load_profile
from sage.engines.emulated_steps import Capacity, StepTimes
from sage.events import TaskEnded
from sage.settings import Settings
from sage.testing import run_virtual

TRUE = StepTimes(a_s=0.012, b_s=5e-5, c_s=1.2e-4, d_s=4e-8)
CAPACITY = Capacity(max_seqs=48, max_step_tokens=2048)


def drawn(n: int, rate: float, seed: int = 0) -> list[Served]:
    """Requests as the true engine would serve them."""
    rng, at, asked = random.Random(seed), 0.0, []
    for _ in range(n):
        at += rng.expovariate(rate)
        asked.append(Served(at, at, at, rng.randrange(20, 2000), rng.randrange(2, 400)))
    return play(asked, TRUE, CAPACITY)


@pytest.mark.parametrize("rate", [3.0, 12.0])
def test_what_an_engine_was_made_with_is_found_again(rate: float) -> None:
    found = calibrate(drawn(200, rate), name="x", source="y", max_seqs=48, max_step_tokens=2048)
    assert found.e2e_mape is not None
    assert found.e2e_mape < 0.003
    assert found.held_out == 100
    step = found.profile.step
    assert step is not None
    assert step.a_s == pytest.approx(TRUE.a_s, rel=0.05)
    assert step.b_s == pytest.approx(TRUE.b_s, rel=0.05)


def test_no_coefficient_is_ever_negative() -> None:
    rng = random.Random(4)
    noisy = [
        msgspec.structs.replace(one, last=one.first + (one.last - one.first) * rng.uniform(0.3, 3))
        for one in drawn(60, 5.0)
    ]
    step = calibrate(noisy, name="x", source="y").profile.step
    assert step is not None
    assert min(msgspec.structs.astuple(step)) >= 0


def test_endpoints_of_one_kind_are_fitted_together() -> None:
    served = [
        msgspec.structs.replace(one, endpoint=name)
        for name, seed in (("a", 1), ("b", 2))
        for one in drawn(80, 6.0, seed)
    ]
    found = calibrate(served, name="x", source="y", max_seqs=48, max_step_tokens=2048)
    assert found.e2e_mape is not None
    assert found.e2e_mape < 0.01


def test_a_fit_with_nothing_held_out_claims_no_error() -> None:
    found = calibrate(drawn(50, 3.0), name="x", source="y", fit=50)
    assert (found.held_out, found.e2e_mape, dict(found.figures["e2e_s"])) == (0, None, {})


@pytest.mark.parametrize(
    ("served", "said"),
    [
        ([], "measure more"),
        (drawn(15, 1.0), "measure more"),
        ([Served(1.0, 0.5, 2.0, 3, 4)] * 60, "cannot be"),
        ([Served(1.0, 1.5, 2.0, 3, 0)] * 60, "cannot be"),
        ([Served(1.0, 1.0, 1.0, 3, 1)] * 60, "was the answer streamed"),
    ],
)
def test_measurements_that_say_nothing_are_refused(served: list[Served], said: str) -> None:
    with pytest.raises(InputError, match=said):
        calibrate(served, name="x", source="y")


def test_what_a_run_says_of_generations_is_taken_and_nothing_else() -> None:
    done = TaskEnded(
        3.0, 0, "answer", "llm", "e", "done", ready=0.5, dispatched=1.0, first=2.0,
        prompt_tokens=7, completion_tokens=9,
    )  # fmt: skip
    embedded = TaskEnded(3.0, 0, "v", "embedder", "f", "done", ready=0.5, dispatched=1.0)
    failed = msgspec.structs.replace(done, outcome="failed")
    assert served_in([done, embedded, failed]) == [Served(1.0, 2.0, 3.0, 7, 9, "e")]
    assert served_in([done], pool="other") == []


def test_measured_requests_come_as_json_lines(tmp_path: Path) -> None:
    ours = {"at": 0.0, "first": 1.0, "last": 2.0, "prompt_tokens": 3, "output_tokens": 4}
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps(ours) + "\n")
    assert read_served(path) == [Served(0.0, 1.0, 2.0, 3, 4)]
    path.write_text(json.dumps(ours) + '\n{"at": 1}\n')
    with pytest.raises(InputError, match=r":2: is no measured request"):
        read_served(path)


def test_an_engine_is_measured_by_a_load_that_rises(tmp_path: Path) -> None:
    profile = tmp_path / "true.json"
    profile.write_bytes(msgspec.json.encode(Profile(name="t", source="t", step=TRUE, capacity=CAPACITY)))

    async def main() -> list[Served]:
        clock = asyncio.get_running_loop().time
        settings = Settings(home=tmp_path / "home")
        address = f"emulated:{profile}?output=lognormal(60,0.7)&pieces=first"
        served, _ = await measure(address, settings, requests=120, rate=8.0, clock=clock)
        return served

    served = run_virtual(main())
    assert len(served) == 120
    found = calibrate(served, name="x", source="y", max_seqs=48, max_step_tokens=2048)
    assert found.e2e_mape is not None
    assert found.e2e_mape < 0.01


def test_a_published_vllm_run_is_predicted_within_one_percent(shared_data: Path) -> None:
    path = shared_data / "traces" / "vllm-measured" / "RTXPRO6000_Llama-3.1-8B__requests.jsonl"
    found = calibrate(
        read_served(path), name="x", source="y", fit=100, hold_out=150, max_seqs=128, max_step_tokens=2048
    )
    assert found.held_out == 150
    assert found.e2e_mape is not None
    assert found.e2e_mape < 0.005
    assert all(abs(one.error) < 0.01 for one in found.figures["ttft_s"].values())
    assert all(abs(one.error) < 0.01 for one in found.figures["tpot_s"].values())


def test_the_builtin_profile_is_what_that_run_gives(shared_data: Path) -> None:
    path = shared_data / "traces" / "vllm-measured" / "RTXPRO6000_Llama-3.1-8B__requests.jsonl"
    served = read_served(path)
    found = calibrate(served, name="x", source="y", fit=300, max_seqs=128, max_step_tokens=2048).profile.step
    builtin = load_profile("vllm-llama-3.1-8b").step
    assert found is not None
    assert builtin is not None
    for step in ((0, 1, 500), (0, 40, 40_000), (500, 100, 150_000)):
        assert found.of(*step) == pytest.approx(builtin.of(*step), rel=0.01)
