"""Loads in virtual time: what is sent when, what is written down, and what becomes of a load that is cut short."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sage import Pipeline
from sage.bench.arrivals import Arrivals
from sage.bench.load_run import INTERRUPTED, Loaded, Records, load
from sage.bench.prompts import Prompts
from sage.bench.serve_spec import Serve, plan_of
from sage.engines.base import Emit, Engine, EngineInfo, GenerateRequest, Piece, Reply, Usage
from sage.errors import EngineError, InputError
from sage.ops import generate, template
from sage.settings import Settings
from sage.testing import FakeEngine, run_virtual

SHORT = Prompts(input_len="3", output_len="4")


def spec(**said: Any) -> Serve:
    usual: dict[str, Any] = {"prompts": SHORT, "arrivals": Arrivals(process="closed", clients=4, jobs=40)}
    return Serve(**{**usual, **said})


def loaded(folder: Path, what: Serve, engine: Engine | None = None, **said: Any) -> Loaded:
    """A load in virtual time."""
    cell = folder / "cell"
    cell.mkdir()

    async def main() -> Loaded:
        clock = asyncio.get_running_loop().time
        used = engine or FakeEngine(ttft_s=0.1, token_s=0.02, limit=1000)
        return await load(
            what, cell, Settings(home=folder / "home"), engine=used, clock=clock, kind="simulated", **said
        )

    return run_virtual(main())


# ---- what is sent when


def test_a_closed_loop_keeps_every_client_busy_and_warm_up_is_followed_without_a_pause(
    tmp_path: Path,
) -> None:
    found = loaded(tmp_path, spec())
    counted = [request for request in found.requests if not request.warmup]
    assert (len(found.requests), len(counted)) == (44, 40)
    assert found.summary.requests["done"] == 40
    assert found.summary.status == "complete"
    first = min(request.scheduled for request in counted)
    assert first == pytest.approx(min(r.ended for r in found.requests if r.warmup))
    assert found.summary.requests_per_s == pytest.approx(4 / 0.16, rel=0.01)
    assert found.summary.in_flight.mean == pytest.approx(4, rel=0.01)


def test_a_client_thinks_before_its_next_request_is_due(tmp_path: Path) -> None:
    arrivals = Arrivals(process="closed", clients=1, jobs=3, think_s=1.0)
    found = loaded(tmp_path, spec(arrivals=arrivals, warmups=0))
    assert [r.scheduled for r in found.requests] == pytest.approx([0.0, 1.16, 2.32])
    assert found.summary.lag_s.max == pytest.approx(0.0, abs=1e-6)


def test_an_open_loop_sends_at_its_times_however_many_are_under_way(tmp_path: Path) -> None:
    what = spec(arrivals=Arrivals(process="constant", rate=100.0, jobs=50), warmups=20)
    found = loaded(tmp_path, what, FakeEngine(ttft_s=3.0, limit=1000))
    counted = [request for request in found.requests if not request.warmup]
    assert [r.scheduled for r in counted] == pytest.approx([0.2 + n / 100 for n in range(50)])
    assert [r.handed for r in counted] == pytest.approx([r.scheduled for r in counted], abs=1e-5)
    assert found.summary.in_flight.most == 50
    assert found.summary.offered_per_s == pytest.approx(100)


def test_waiting_for_a_slot_is_never_left_out(tmp_path: Path) -> None:
    """Coordinated omission: ten requests a second for one slot of half a second, again and again."""
    rows = [f"2023-11-16 18:{n // 6:02}:{n % 6 * 10 + k / 10:09.6f},3,1" for n in range(46) for k in range(8)]
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    what = spec(
        arrivals=Arrivals(process="trace", trace=str(trace)),
        prompts=Prompts(dataset="trace", path=str(trace)),
        max_concurrency=1,
        warmups=0,
    )
    summary = loaded(tmp_path, what, FakeEngine(ttft_s=0.5)).summary
    assert summary.e2e_sched_s.p99 == pytest.approx(3.3, rel=0.01)
    assert summary.e2e_s.p99 == pytest.approx(0.5, rel=0.01)
    assert summary.queue_s.max == pytest.approx(2.8, rel=0.01)
    assert summary.status == "complete"  # the slot was the bottleneck, not the generator


def test_a_burst_is_sent_at_once(tmp_path: Path) -> None:
    found = loaded(tmp_path, spec(arrivals=Arrivals(process="burst", rate=1.0, size=30, jobs=30), warmups=0))
    assert {round(r.handed, 4) for r in found.requests} == {0.0}


@pytest.mark.parametrize("process", ["constant", "poisson", "gamma", "ramp"])
def test_the_counted_schedule_is_the_one_that_was_drawn_whatever_the_warm_up(process: str) -> None:
    more: dict[str, Any] = {"gamma": {"burstiness": 0.5}, "ramp": {"to_rate": 40.0}}.get(process, {})
    arrivals = Arrivals(process=process, rate=20.0, jobs=30, **more)
    bare, warm = plan_of(spec(arrivals=arrivals, warmups=0)).table, plan_of(spec(arrivals=arrivals)).table
    assert bare.schedule.sha256 == warm.schedule.sha256
    assert warm.num_warmups == 40
    shifted = [time - warm.due[40] for time in warm.due[40:]]
    assert shifted == pytest.approx([time - bare.due[0] for time in bare.due])


def test_repeats_differ_and_the_same_repeat_does_not(tmp_path: Path) -> None:
    poisson = spec(arrivals=Arrivals(rate=20.0, jobs=30))
    hashes = [plan_of(poisson, repeat).schedule.sha256 for repeat in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


# ---- what is written down


def test_a_cell_holds_all_that_its_figures_are_made_of(tmp_path: Path) -> None:
    loaded(tmp_path, spec())
    names = {path.name for path in (tmp_path / "cell").iterdir()}
    assert names == {"run.json", "events.jsonl", "requests.jsonl", "schedule.json", "summary.json"}
    manifest = msgspec.json.decode((tmp_path / "cell" / "run.json").read_bytes())
    assert manifest["arguments"]["schedule_sha256"] == plan_of(spec()).schedule.sha256
    assert manifest["counts"] == {"done": 44}
    assert manifest["kind"] == "simulated"


def test_requests_are_told_as_they_end(tmp_path: Path) -> None:
    outcomes: list[str] = []
    loaded(tmp_path, spec(), on_end=outcomes.append)
    assert outcomes == ["done"] * 44


def test_equal_requests_are_sent_as_often_as_they_are_said(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "the same", "output_tokens": 3}\n')
    engine = FakeEngine(ttft_s=0.1)
    found = loaded(tmp_path, spec(prompts=Prompts(dataset="file", path=str(file), output_len="9")), engine)
    assert len(engine.requests) == 44
    assert {request.output_tokens for request in found.requests if not request.warmup} == {3}


# ---- failures


class Leaving:
    """An engine that is gone after so many calls."""

    def __init__(self, calls: int) -> None:
        self._left = calls
        self.info = EngineInfo(address="leaving:", model="m", can=frozenset({"generate"}), limit=8)

    async def generate(self, request: GenerateRequest, emit: Emit) -> Reply:
        await asyncio.sleep(0.1)
        self._left -= 1
        if self._left < 0:
            raise EngineError("it is gone", fault="unreachable")
        emit(Piece("word"))
        return Reply("word", Usage(3, 1))

    async def embed(self, request: object) -> Any:
        raise AssertionError


def test_a_server_that_goes_away_ends_the_load_and_leaves_a_partial_result(tmp_path: Path) -> None:
    found = loaded(tmp_path, spec(arrivals=Arrivals(process="closed", clients=4, jobs=1000)), Leaving(60))
    assert found.summary.status == "partial"
    assert found.summary.requests["done"] == 56
    assert found.summary.flags[0].kind == "partial"
    assert "23 requests in a row could not reach it, the first 1.6 s after" in found.ended
    assert len(found.requests) < 120
    assert found.summary.errors["unreachable"] >= 20


def test_single_failures_are_counted_and_the_load_goes_on(tmp_path: Path) -> None:
    errors = [EngineError("no", fault=fault) for fault in ("unreachable", "timeout", "failed")]
    faults = itertools.chain([None] * 10, errors, itertools.repeat(None))
    found = loaded(tmp_path, spec(), FakeEngine(ttft_s=0.1, faults=faults))
    assert (found.summary.requests["done"], found.summary.requests["failed"]) == (37, 2)
    assert found.summary.requests["timeout"] == 1
    assert found.summary.status == "complete"
    assert [flag.kind for flag in found.summary.flags] == ["failures"]


def test_a_load_of_nothing_but_failures_is_no_result(tmp_path: Path) -> None:
    faults = itertools.repeat(EngineError("no", fault="failed", status=500))
    found = loaded(tmp_path, spec(), FakeEngine(ttft_s=0.1, faults=faults))
    assert found.summary.status == "failed"
    assert found.summary.e2e_s.n == 0
    assert "none of 40 requests was answered, 40 of them: failed 500" in found.summary.flags[0].text


def test_an_interrupted_load_keeps_what_was_seen(tmp_path: Path) -> None:
    cell = tmp_path / "cell"
    cell.mkdir()

    async def main() -> Loaded:
        clock = asyncio.get_running_loop().time
        what = spec(arrivals=Arrivals(process="closed", clients=4, jobs=10_000))
        engine = FakeEngine(ttft_s=0.1, limit=8)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(
                load(
                    what, cell, Settings(home=tmp_path / "home"), engine=engine, clock=clock, kind="simulated"
                )
            )
            await asyncio.sleep(5.05)
            task.cancel()
        return task.result()

    found = run_virtual(main())
    assert found.ended == INTERRUPTED
    assert found.summary.status == "partial"
    assert found.summary.requests["done"] == 196
    assert found.summary.requests["cancelled"] == 4


# ---- a pipeline


RAG = Pipeline("ask", prompt=template("Q: {question}"), answer=generate("{prompt}", max_tokens=4))


def records(count: int) -> Records:
    def coming(what: str) -> Any:
        return ({"question": f"{what} {number}?"} for number in range(count))

    return Records(RAG, coming("warm-up"), coming("question"))


def of_pipeline(folder: Path, what: Serve, engines: Sequence[FakeEngine], count: int = 40) -> Loaded:
    cell = folder / "cell"
    cell.mkdir()

    async def main() -> Loaded:
        clock = asyncio.get_running_loop().time
        given = records(count)
        given = Records(given.pipeline, given.warmup, given.counted, {"engines": {"llm": engines}})
        return await load(
            what, cell, Settings(home=folder / "home"), records=given, clock=clock, kind="simulated"
        )

    return run_virtual(main())


def test_a_pipeline_is_loaded_like_a_server(tmp_path: Path) -> None:
    engines = [FakeEngine(ttft_s=0.1, name=f"fake:{name}", limit=2) for name in "ab"]
    found = of_pipeline(tmp_path, spec(arrivals=Arrivals(process="closed", clients=4, jobs=40)), engines)
    assert found.summary.requests["done"] == 40
    assert found.summary.requests_per_s == pytest.approx(4 / 0.1, rel=0.01)
    assert found.summary.balance["llm"].balance == pytest.approx(1.0, abs=0.05)
    assert found.requests[0].pipeline == "ask"
    assert sum(request.warmup for request in found.requests) == 4


def test_a_job_that_waits_in_sages_queue_waits_in_its_latency(tmp_path: Path) -> None:
    what = spec(arrivals=Arrivals(process="constant", rate=10.0, jobs=8), warmups=0)
    found = of_pipeline(tmp_path, what, [FakeEngine(ttft_s=0.5, limit=1)])
    assert found.summary.e2e_sched_s.max == pytest.approx(3.3, rel=0.01)
    assert found.summary.queue_s.max == pytest.approx(2.8, rel=0.01)


def test_equal_questions_are_asked_once_and_that_is_said(tmp_path: Path) -> None:
    cell = tmp_path / "cell"
    cell.mkdir()
    engine = FakeEngine(ttft_s=0.5)

    async def main() -> Loaded:
        clock = asyncio.get_running_loop().time
        given = Records(
            RAG, iter(()), ({"question": "again?"} for _ in range(20)), {"engines": {"llm": engine}}
        )
        what = spec(arrivals=Arrivals(process="constant", rate=100.0, jobs=20), warmups=0)
        settings = Settings(home=tmp_path / "home")
        return await load(what, cell, settings, records=given, clock=clock, kind="simulated")

    found = run_virtual(main())
    assert len(engine.requests) == 1
    assert [flag.kind for flag in found.summary.flags] == ["reused_calls"]
    assert "19 of 20 jobs were spared a call" in found.summary.flags[0].text
    assert found.summary.e2e_sched_s.n == 20


# ---- what cannot be


@pytest.mark.parametrize(
    ("prompts", "wrong"),
    [
        (Prompts(input_len="max"), "says nothing here"),
        (Prompts(output_len="some"), "output length"),
        (Prompts(prefix_len=-1), "expected 0 or more"),
        (Prompts(dataset="file"), "needs its path"),
    ],
)
def test_prompts_that_cannot_be_are_refused_before_anything_is_sent(
    tmp_path: Path, prompts: Prompts, wrong: str
) -> None:
    engine = FakeEngine()
    with pytest.raises(InputError, match=wrong):
        loaded(tmp_path, spec(prompts=prompts), engine)
    assert not engine.requests
