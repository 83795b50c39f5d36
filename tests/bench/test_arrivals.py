"""Schedules of arrivals: drawn from a seed, of the rate that was asked for, or as a trace says."""

from __future__ import annotations

import json
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage import InputError
from sage.bench.arrivals import PROCESSES, Arrivals, draw
from sage.bench.traces import Asked, read_trace

OPEN: dict[str, dict[str, Any]] = {
    "constant": {},
    "poisson": {},
    "gamma": {"burstiness": 0.4},
    "burst": {"size": 5},
    "ramp": {"to_rate": 40.0},
}


def gaps(times: tuple[float, ...]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


@pytest.mark.parametrize("process", OPEN)
@given(st.integers(0, 1 << 30), st.floats(0.1, 50), st.integers(1, 200))
def test_jobs_come_in_order_within_their_number_over_their_rate(
    process: str, seed: int, rate: float, jobs: int
) -> None:
    more = OPEN[process] | ({"to_rate": 3 * rate} if process == "ramp" else {})
    times = draw(Arrivals(process=process, rate=rate, jobs=jobs, **more), seed).times
    mean = 2 * rate if process == "ramp" else rate
    assert len(times) == jobs
    assert times == tuple(sorted(times))
    assert times[0] >= 0
    assert times[-1] <= jobs / mean * (1 + 1e-9)


@pytest.mark.parametrize("process", OPEN)
def test_the_same_seed_draws_the_same_schedule_and_another_seed_another(process: str) -> None:
    arrivals = Arrivals(process=process, rate=20.0, jobs=100, **OPEN[process])
    assert draw(arrivals, 1).sha256 == draw(arrivals, 1).sha256
    is_drawn = process not in {"constant", "burst"}
    assert (draw(arrivals, 1).sha256 != draw(arrivals, 2).sha256) == is_drawn


def test_every_process_is_tried_here() -> None:
    assert PROCESSES.keys() == OPEN.keys() | {"closed", "trace"}


def test_a_load_stretches_time_and_nothing_else() -> None:
    arrivals = Arrivals(rate=2.0, jobs=50)
    slow, fast = draw(arrivals, 0).times, draw(arrivals, 0, load=2.0).times
    assert slow == pytest.approx([2 * time for time in fast])


def test_a_duration_says_how_many_come() -> None:
    assert len(draw(Arrivals(rate=3.0, duration_s=100.0), 0).times) == 300


def test_gamma_is_burstier_the_smaller_its_shape() -> None:
    def variation(shape: float) -> float:
        found = gaps(draw(Arrivals(process="gamma", rate=1.0, jobs=5000, burstiness=shape), 3).times)
        return statistics.stdev(found) / statistics.mean(found)

    assert variation(0.25) == pytest.approx(2.0, rel=0.15)  # 1 / sqrt(shape)
    assert variation(1.0) == pytest.approx(1.0, rel=0.1)
    assert variation(4.0) == pytest.approx(0.5, rel=0.1)


def test_a_burst_comes_at_one_moment() -> None:
    times = draw(Arrivals(process="burst", rate=10.0, size=4, jobs=8), 0).times
    assert times == pytest.approx((0.0,) * 4 + (0.4,) * 4)


def test_a_ramp_grows_denser() -> None:
    times = draw(Arrivals(process="ramp", rate=1.0, to_rate=9.0, jobs=4000), 0).times
    first, last = (sum(low <= time < low + 160 for time in times) for low in (0, 640))
    assert first / last == pytest.approx((1 + 2.6) / (7.4 + 9), rel=0.15)


def test_a_closed_loop_has_clients_and_no_times() -> None:
    schedule = draw(Arrivals(process="closed", clients=4, jobs=10, think_s=0.5), 0, load=1.5)
    assert (schedule.clients, schedule.think_s, len(schedule.times)) == (6, 0.5, 10)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"process": "poison", "rate": 1.0, "jobs": 1}, "did you mean 'poisson'"),
        ({"jobs": 5}, "needs 'rate'"),
        ({"rate": 1.0}, "has no end"),
        ({"rate": 0.0, "jobs": 1}, "above 0"),
        ({"rate": -1.0, "jobs": 1}, "above 0"),
        ({"rate": 1.0, "jobs": 5, "size": 3}, "takes no 'size'"),
        ({"process": "gamma", "rate": 1.0, "jobs": 5}, "needs 'burstiness'"),
        ({"process": "closed", "clients": 3}, "needs 'jobs'"),
        ({"process": "closed", "clients": 3, "jobs": 3, "rate": 2.0}, "takes no 'rate'"),
        ({"process": "trace"}, "needs 'trace'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(said: dict[str, Any], wrong: str) -> None:
    with pytest.raises(InputError) as caught:
        draw(Arrivals(**said), 0)
    assert wrong in str(caught.value)


# ---- traces

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:50.6805900,396,109\n"
)
MOONCAKE = "".join(
    json.dumps(row) + "\n"
    for row in (
        {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]},
        {"timestamp": 2500, "input_length": 1500, "output_length": 6, "hash_ids": [0, 1, 9]},
    )
)
AGENT = "".join(
    json.dumps({"agent": "a", "session": s, "step": 0, "t_s": t, "input_chars": 400, "output_chars": 80})
    + "\n"
    for s, t in (("x", 0.0), ("x", 5.0), ("y", 0.0), ("y", 2.0))
)


def written(folder: Path, content: str) -> str:
    path = folder / "trace"
    path.write_text(content)
    return str(path)


def test_azure_rows_are_read(tmp_path: Path) -> None:
    assert read_trace(Path(written(tmp_path, AZURE))) == [Asked(0.0, 374, 44), Asked(4.0, 396, 109)]


def test_mooncake_rows_say_what_was_seen_before(tmp_path: Path) -> None:
    calls = read_trace(Path(written(tmp_path, MOONCAKE)))
    assert calls == [Asked(0.0, 1100, 5), Asked(2.5, 1500, 6, "", 1024)]


def test_sessions_of_agents_run_side_by_side(tmp_path: Path) -> None:
    calls = read_trace(Path(written(tmp_path, AGENT)))
    assert [(call.session, call.at_s) for call in calls] == [("x", 0.0), ("y", 0.0), ("y", 2.0), ("x", 5.0)]
    assert (calls[0].prompt_tokens, calls[0].output_tokens) == (101, 21)


def test_a_trace_keeps_its_own_times_unless_a_rate_is_said(tmp_path: Path) -> None:
    trace = written(tmp_path, AZURE)
    assert draw(Arrivals(process="trace", trace=trace), 0).times == (0.0, 4.0)
    assert draw(Arrivals(process="trace", trace=trace), 0, load=2.0).times == (0.0, 2.0)
    assert draw(Arrivals(process="trace", trace=trace, rate=1.0), 0).times == (0.0, 1.0)
    assert len(draw(Arrivals(process="trace", trace=trace, jobs=1), 0).asked) == 1
    assert draw(Arrivals(process="trace", trace=trace, duration_s=3.0), 0).times == (0.0,)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("", "is no known trace"),
        ("a,b\n1,2\n", "is no known trace"),
        (AZURE + "2023-11-16 18:15:51.0,many,3\n", ":4: broken row"),
        (AZURE + "yesterday,1,3\n", ":4: broken row"),
        (AZURE + "2023-11-16 18:15:52.0\n", ":4: broken row"),
        (AZURE + "2023-11-16 18:15:47.0,1,3\n", ":4: time goes back"),
        (MOONCAKE + '{"timestamp": 9000}\n', ":3: broken row"),
        (MOONCAKE + '{"timestamp": 1, "input_length": 1, "output_length": 1}\n', ":3: time goes back"),
        (MOONCAKE + "{\n", ":3: broken row"),
        (MOONCAKE + '{"timestamp": 9000, "input_length": -1, "output_length": 1}\n', "-1 and 1 tokens"),
        (AZURE.splitlines()[0] + "\n", "has no calls"),
    ],
)
def test_a_broken_trace_is_refused_with_its_line(tmp_path: Path, content: str, wrong: str) -> None:
    with pytest.raises(InputError) as caught:
        read_trace(Path(written(tmp_path, content)))
    assert wrong in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_published_traces_are_read(shared_data: Path) -> None:
    folder = shared_data / "traces"
    sizes = {
        "AzureLLMInferenceTrace_conv.csv": 19_366,
        "mooncake_conversation_trace.jsonl": 12_031,
        "lmcache_agent_calls_derived.jsonl": 1_619,
    }
    for name, size in sizes.items():
        assert len(read_trace(folder / name)) == size
