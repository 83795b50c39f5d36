"""What to run with so that jobs meet an objective: searched by trial, with the evidence."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage import InputError, Pipeline, Session
from sage.bench.advise import Advice, Setting, advise
from sage.bench.advise_trials import RunTrials, SpecTrials, slo_in_seconds
from sage.bench.records import Request
from sage.bench.simulation_figures import CellFigures
from sage.bench.simulation_spec import read_spec
from sage.bench.slo import Slo
from sage.cli import app, exit_code
from sage.ops import generate
from sage.runtime.figures import Share, Stat
from sage.runtime.runs import list_runs
from sage.runtime.virtual import run_virtual
from sage.settings import Settings
from sage.testing import FakeEngine

SPEC = """
simulate: small
engines:
  llm: {profile: vllm-llama-3.1-8b, count: 2, output: "60", limit: 4}
traffic:
  chat:
    pipeline: {pipeline: chat, steps: {answer: {generate: "{question}", max_tokens: 400}}}
    arrivals: {process: poisson, rate: 8, jobs: 24}
    record: {question: {tokens: 100}}
"""


class Made:
    """Trials with a made-up answer: attainment by policy, endpoints and limit."""

    of = "made"
    kind: Literal["simulated", "replayed"] = "simulated"
    seeds = 3
    assumptions = ()
    candidates = ()

    def __init__(self, attained: Any, endpoints: int = 4, limit: int | None = 16) -> None:
        self.attained = attained
        self.endpoints = endpoints
        self.limit = limit
        self.tried: list[Setting] = []

    def run(self, setting: Setting, seed: int, *, at_once: bool = False) -> tuple[CellFigures, list[Request]]:
        if not at_once and seed == 0:
            self.tried.append(setting)
        good = round(100 * self.attained(setting))
        requests = [
            Request(id=n, outcome="done", scheduled=0.0, handed=0.0, ended=1.0, last=1.0 if n < good else 9.0)
            for n in range(100)
        ]
        none: Any = None
        figures = CellFigures(
            policy=setting.policy, load=1.0, seed=seed, jobs={"done": 100}, in_time=Share(good=0, n=0),
            work_in_time=none, worst_class=none, classes=(), e2e_sched_s=Stat(n=100, p95=1.0),
            jobs_per_s=float(min(setting.limit or 16, 8)), out_tokens_per_s=none, rejected=0, schedules={},
            window_s=1.0, tasks=100,
        )  # fmt: skip
        return figures, requests


def search(trials: Any, **said: Any) -> Advice:
    return advise(trials, Slo(e2e_s=3.0), **said)


@given(st.integers(1, 64), st.integers(1, 64))
@settings(max_examples=30)
def test_the_fewest_endpoints_that_meet_it_are_found(needed: int, there: int) -> None:
    trials = Made(
        lambda setting: 1.0 if setting.endpoints >= needed else 0.9 * setting.endpoints / needed, there
    )
    found = search(trials, policies=["fifo"])
    assert found.is_met
    assert found.best.setting.endpoints == needed
    endpoints = {setting.endpoints for setting in trials.tried}
    assert len(endpoints) <= 14  # doubling and bisection, no scan


def test_the_policy_that_meets_it_with_fewer_is_chosen() -> None:
    trials = Made(lambda s: 1.0 if s.endpoints >= (2 if s.policy.startswith("slack") else 5) else 0.5)
    found = search(trials)
    assert found.best.setting.policy.startswith("slack")
    assert found.best.setting.endpoints == 2


def test_more_endpoints_that_do_not_help_are_not_bought() -> None:
    trials = Made(lambda _: 0.4)
    found = search(trials, policies=["fifo"])
    assert not found.is_met
    assert found.best.setting.endpoints == 4
    assert max(setting.endpoints for setting in trials.tried) == 8
    assert "nothing that was tried meets it" in found.lines[0]
    assert any("more do not help" in line for line in found.lines)


def test_where_only_fewer_calls_at_once_meet_it_that_is_the_advice() -> None:
    found = search(
        Made(lambda s: 1.0 if (s.limit or 16) <= 8 and s.endpoints >= 4 else 0.6), policies=["fifo"]
    )
    assert found.is_met
    assert found.best.setting.limit == 8
    assert "with 8 calls at once on each endpoint, no more" in found.lines


def test_where_only_admission_meets_it_that_is_the_advice() -> None:
    found = search(Made(lambda s: 1.0 if "admit=feasible" in s.policy else 0.6), policies=["fifo"])
    assert found.is_met
    assert "admit=feasible" in found.best.setting.policy


def test_the_region_goes_from_the_knee_to_the_most_that_meets_it() -> None:
    found = search(Made(lambda s: 0.99 if s.endpoints >= 4 else 0.3), wanted=0.95, policies=["fifo"])
    assert found.region.low == pytest.approx(8.0, abs=0.2)
    assert found.region.high == 16
    assert found.limits_met == (1, 16)


def test_the_low_end_of_the_interval_must_be_what_is_wanted() -> None:
    def uneven(setting: Setting) -> float:
        return 0.96 if setting.endpoints < 8 else 1.0

    class Uneven(Made):
        def run(self, setting: Setting, seed: int, *, at_once: bool = False) -> Any:
            good = self.attained
            self.attained = lambda one: good(one) - 0.03 * (seed - 1 if setting.endpoints < 8 else 0)
            try:
                return super().run(setting, seed, at_once=at_once)
            finally:
                self.attained = good

    found = search(Uneven(uneven), policies=["fifo"])
    assert found.best.setting.endpoints == 8
    assert any(row.attainment > 0.95 and not row.meets for row in found.evidence)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    return path


def test_a_spec_is_simulated_and_more_is_asked_of_more_endpoints(spec: Path) -> None:
    slo = slo_in_seconds("e2e:1.5")
    trials = SpecTrials(read_spec(spec), slo, pool=None, load=1.0, seeds=3)
    found = advise(trials, slo, policies=["load_aware"])
    assert found.is_met
    counts = {"policy", "endpoints"}
    met = [row.setting.endpoints for row in found.evidence if row.meets and row.why in counts]
    missed = [row.setting.endpoints for row in found.evidence if not row.meets and row.why in counts]
    assert max(missed, default=0) < min(met) == found.best.setting.endpoints
    assert found == advise(trials, slo, policies=["load_aware"])


def test_times_between_tokens_are_looked_at_where_they_are_asked_for(spec: Path) -> None:
    for limit, meets in (("0.001", False), ("1", True)):
        slo = slo_in_seconds(f"tpot:{limit}")
        trials = SpecTrials(read_spec(spec), slo, pool=None, load=0.1, seeds=1)
        _, requests = trials.run(Setting("fifo", 2), 0)
        assert any(len(request.chunks) > 2 for request in requests)
        found = advise(trials, slo, policies=["fifo"], wanted=0.8, most_endpoints=2)
        assert found.is_met is meets


def test_a_recorded_run_is_replayed(tmp_home: Settings) -> None:
    chat = Pipeline("chat", answer=generate("{q}", max_tokens=4))

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        engines = {"llm": [FakeEngine(limit=2, token_s=0.1, name=name) for name in "ab"]}
        async with Session(engines=engines, settings=tmp_home, clock=clock) as session:

            async def one(number: int) -> None:
                await asyncio.sleep(0.15 * number)
                await session.call(chat, {"q": f"q{number}"})

            async with asyncio.TaskGroup() as group:
                for number in range(60):
                    group.create_task(one(number))

    run_virtual(main())
    slo = slo_in_seconds("e2e:0.6")
    trials = RunTrials(list_runs(tmp_home)[0], slo, pool=None, profile=None)
    found = advise(trials, slo, wanted=0.9, policies=["load_aware"])
    assert found.kind == "replayed"
    assert found.is_met
    assert found.best.interval == "jobs"
    assert found.region.low is None
    assert "--profile" in found.region.why
    with pytest.raises(InputError, match="no times of single tokens"):
        RunTrials(list_runs(tmp_home)[0], slo_in_seconds("tpot:1"), pool=None, profile=None)


# ---- as typed


def typed(*args: str) -> int:
    return exit_code(lambda: app(args=["advise", *args], prog_name="sage"))


def test_advice_as_typed(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(str(spec), "--slo", "e2e:4 ttft:1", "--policy", "fifo") == 0
    shown = capsys.readouterr().out
    for said in (
        "small, simulated: ttft:1 e2e:4 (seconds) for 95 % of jobs",
        "meets it",
        "what was tried",
        "assumed",
    ):
        assert said in shown
    assert typed(str(spec), "--slo", "e2e:10ms", "--policy", "fifo", "--seeds", "1", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["is_met"]
    assert found["evidence"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--slo", ""], "there is no objective"),
        (["--slo", "e2e:0"], "objective 'e2e:0': expected e2e:SECONDS"),
        (["--slo", "e2e:-1"], "expected e2e:SECONDS"),
        (["--slo", "e2e:1.2.3"], "expected e2e:SECONDS"),
        (["--slo", "tft:1"], "unknown name 'tft': did you mean 'ttft'?"),
        (["--slo", "e2e:1 e2e:2"], "'e2e' stands twice"),
        (["--slo", "e2e:1", "--attain", "95"], "--attain is 95, expected a share"),
        (["--slo", "e2e:1", "--policy", "order=fifu"], "did you mean 'fifo'"),
        (["--slo", "e2e:1", "--pool", "lm"], "unknown engine pool 'lm': did you mean 'llm'"),
        (["--slo", "e2e:1", "--load", "0"], "load is 0, expected a number above 0"),
        (["--slo", "e2e:1", "--profile", "constant"], "a spec names its profiles itself"),
    ],
)
def test_what_cannot_be_advised_on_is_one_line_and_exit_2(
    options: list[str], message: str, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(str(spec), *options) == 2
    assert message in capsys.readouterr().err


def test_the_last_token_of_an_emulated_answer_comes_with_its_end(spec: Path) -> None:
    trials = SpecTrials(read_spec(spec), Slo(e2e_s=1.0), pool=None, load=1.0, seeds=1)
    _, requests = trials.run(Setting("fifo", 2), 0)
    assert all(request.last == request.ended for request in requests)
    assert all(request.first < request.ended for request in requests if request.first is not None)
