"""Where a run's time went: critical paths, queues and what to change first, on runs in virtual time."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage import EngineError, Pipeline
from sage.errors import EngineFault
from sage.events import Event, JobEnded, Notice, PipelineSeen, RunEnded, TaskEnded, TaskRetried, TaskReused
from sage.ops import Batch, each, embed, generate, template
from sage.runtime.explain import explain
from sage.runtime.timings import Explanation, StepTime
from sage.runtime.trail import critical_path, pattern, trails
from sage.testing import FakeEngine

ASK = Pipeline("ask", answer=generate("{q}"))


def questions(count: int) -> list[dict[str, Any]]:
    return [{"q": str(number)} for number in range(count)]


def words(count: int) -> Any:
    return lambda _: " ".join("w" * count)


def failing(fault: EngineFault) -> EngineError:
    return EngineError(f"it is {fault}", fault=fault)


def step_of(found: Explanation, name: str) -> StepTime:
    (step,) = (step for step in found.steps if step.step == name)
    return step


def rules(found: Explanation) -> list[str]:
    return [finding.rule for finding in found.advice]


# ---- the critical path

FORK = PipelineSeen(
    0.0, "p", ("a", "b", "c", "d"), ("fn", "fn", "fn", "fn"), ((), ("a",), ("a",), ("b", "c"))
)


def job(*stamps: float | None, **more: Any) -> JobEnded:
    said: dict[str, Any] = {"outcome": "done", "arrived": 0.0, "admitted": 0.0, "stamps": stamps}
    return JobEnded(more.pop("t", 10.0), 0, "p", **{**said, **more})


def path_of(*events: Event) -> list[tuple[str, float]]:
    (trail,) = trails(events)
    return [(part.step, round(part.seconds, 9)) for part in critical_path(trail)]


def test_the_path_goes_through_the_input_that_came_last() -> None:
    ended = job(0.0, 1.0, 1.0, 3.0, 1.0, 7.0, 7.0, 10.0)
    assert path_of(FORK, ended) == [("a", 1.0), ("c", 6.0), ("d", 3.0)]


def test_a_step_that_ended_last_without_readers_ends_the_path() -> None:
    ended = job(0.0, 1.0, 1.0, 9.0, 1.0, 2.0, None, None, outcome="failed")
    assert path_of(FORK, ended) == [("a", 1.0), ("b", 8.0)]


def test_who_reads_pieces_holds_the_job_only_after_who_gives_them() -> None:
    live = PipelineSeen(0.0, "p", ("text", "spoken"), ("generate", "fn"), ((), ("text",)))
    assert path_of(live, job(0.0, 6.0, 0.0, 10.0)) == [("text", 6.0), ("spoken", 4.0)]


def test_the_time_before_admission_is_nobodys() -> None:
    one = PipelineSeen(0.0, "p", ("a",), ("fn",), ((),))
    assert path_of(one, job(4.0, 10.0, admitted=4.0)) == [("a", 6.0)]


def test_a_job_that_never_began_has_no_path() -> None:
    assert path_of(FORK, job(outcome="rejected")) == []


def test_a_log_that_does_not_describe_the_pipeline_has_no_path() -> None:
    assert path_of(job(0.0, 1.0)) == []


def test_queue_service_and_pause_are_told_apart() -> None:
    one = PipelineSeen(0.0, "p", ("a",), ("generate",), ((),))
    first = TaskEnded(3.0, 0, "a", "llm", "e", "failed", 0.5, 2.0, error="overloaded")
    retry = TaskRetried(3.0, 0, "a", "e", 1, 1.0, "overloaded")
    second = TaskEnded(9.0, 0, "a", "llm", "e", "done", 0.5, 6.0, attempt=2)
    (trail,) = trails([one, first, retry, second, job(0.0, 10.0)])
    (part,) = critical_path(trail)
    assert (part.queued, part.paused, part.service, part.other) == (1.5 + 2.0, 1.0, 1.0 + 3.0, 0.5 + 1.0)


@pytest.mark.slow
@given(st.data())
def test_the_parts_of_a_path_are_all_of_a_jobs_time(data: st.DataObject) -> None:
    """Whatever the graph and the times: no second is counted twice, and none is lost."""
    size = data.draw(st.integers(1, 6))
    times = st.floats(0, 5, allow_nan=False)
    after: list[tuple[str, ...]] = []
    stamps: list[float | None] = []
    done: list[float] = []
    for number in range(size):
        chosen = data.draw(st.sets(st.integers(0, number - 1))) if number else set()
        ready = max([0.0, *(done[one] for one in chosen)]) + data.draw(times)
        after.append(tuple(f"s{one}" for one in sorted(chosen)))
        done.append(ready + data.draw(times))
        stamps += [ready, done[-1]]
    names = tuple(f"s{number}" for number in range(size))
    calls = [
        TaskEnded(start + 2, 0, data.draw(st.sampled_from(names)), "llm", "e", "done", start, start + 1)
        for start in data.draw(st.lists(times, max_size=4))
    ]
    plan = PipelineSeen(0.0, "p", names, ("fn",) * size, tuple(after))
    (trail,) = trails([plan, *calls, job(*stamps, t=max(done))])
    parts = critical_path(trail)
    assert sum(part.seconds for part in parts) == pytest.approx(max(done))
    assert all(one.end == pytest.approx(other.start) for one, other in itertools.pairwise(parts))
    for part in parts:
        inner = part.waited + part.queued + part.paused + part.service + part.other + part.shared
        assert inner == pytest.approx(part.seconds)
        assert min(part.waited, part.queued, part.paused, part.service, part.other) >= 0


def test_places_in_lists_are_not_told_apart() -> None:
    assert pattern("notes[12].parts[3].x") == "notes[*].parts[*].x"
    assert pattern("race[first]") == "race[first]"


# ---- runs


def test_a_queue_that_holds_jobs_up_is_named_with_its_pool(recorded: Any) -> None:
    engine = FakeEngine(limit=1, ttft_s=1.0)
    run = recorded(ASK, questions(30), {"llm": engine}, max_inflight=10)
    found = explain(run.events(), run.manifest)
    assert rules(found) == ["queue"]
    assert "waited 88 % of that for pool 'llm'" in found.advice[0].text
    assert "100 % used" in found.advice[0].text
    assert found.advice[0].numbers["queued_share"] == pytest.approx(0.882, abs=0.001)
    (end,) = found.endpoints
    assert (end.limit, end.calls) == (1, 30)
    assert end.utilisation == pytest.approx(1.0)


def test_the_figures_of_a_step_are_exact_in_virtual_time(recorded: Any) -> None:
    engine = FakeEngine(answer=words(5), limit=8, ttft_s=1.0, token_s=0.25)
    pipeline = Pipeline("p", note=template("note {q}"), answer=generate("{note}", max_tokens=5))
    run = recorded(pipeline, questions(8), {"llm": engine})
    found = explain(run.events(), run.manifest)
    answer = step_of(found, "answer")
    assert answer.first_s.mean == pytest.approx(1.0)
    assert answer.service_s.mean == pytest.approx(2.0)
    assert answer.queue_s.mean == pytest.approx(0.0)
    assert (answer.n, answer.calls, answer.completion_tokens) == (8, 8, 40)
    assert answer.path_share == pytest.approx(1.0)
    assert found.paths[0].steps == ("note", "answer")
    assert found.e2e_s.p95 is None
    assert "too small" in found.e2e_s.why["p95"]
    assert rules(found) == ["service"]
    assert "50 % of a call is the wait for its first token" in found.advice[0].text
    assert "8 jobs: too few" in found.note


def test_writing_that_takes_most_of_a_call_asks_for_shorter_answers(recorded: Any) -> None:
    engine = FakeEngine(answer=words(9), ttft_s=1.0, token_s=1.0)
    run = recorded(ASK, questions(4), {"llm": engine})
    assert "so a shorter answer helps most" in explain(run.events()).advice[0].text


def test_calls_inside_a_body_have_a_row_of_their_own(recorded: Any) -> None:
    pipeline = Pipeline("p", notes=each("xs", generate("{item}", temperature=1.0)))
    run = recorded(pipeline, [{"xs": ["a", "b", "c"]}] * 2, {"llm": FakeEngine(ttft_s=1.0)})
    found = explain(run.events())
    assert [step.step for step in found.steps] == ["notes", "notes[*]"]
    inside = step_of(found, "notes[*]")
    assert (inside.n, inside.is_inside, inside.path_share) == (6, True, None)
    assert step_of(found, "notes").path_s["service"] == pytest.approx(2.0)


def test_retries_name_the_endpoint_where_calls_fail(recorded: Any) -> None:
    bad = FakeEngine(name="fake:bad", ttft_s=1.0, faults=[failing("overloaded")] * 4)
    run = recorded(ASK, questions(30), {"llm": [bad, FakeEngine(name="fake:good", ttft_s=1.0)]})
    found = explain(run.events(), run.manifest)
    (retries,) = (finding for finding in found.advice if finding.rule == "retries")
    assert "4 of the 4 that failed did so at 'fake:bad', most often with 'overloaded'" in retries.text
    assert step_of(found, "answer").retries == 4


def test_jobs_that_fail_come_first(recorded: Any) -> None:
    engine = FakeEngine(ttft_s=1.0, faults=[failing("refused")] * 3)
    found = explain(recorded(ASK, questions(30), {"llm": engine}).events())
    assert rules(found)[0] == "failures"
    assert "3 of 30 jobs failed, 3 of them in step 'answer'" in found.advice[0].text


def test_single_inputs_while_others_wait_ask_for_larger_batches(recorded: Any) -> None:
    engine = FakeEngine(limit=1, text_s=0.1)
    pipeline = Pipeline("p", vector=embed("{q}", batch=Batch(max_items=1)))
    found = explain(recorded(pipeline, questions(30), {"embedder": engine}).events())
    assert rules(found) == ["batches", "queue"]
    assert "29 of 30 calls of step 'vector' took one input" in found.advice[0].text


def test_batches_are_one_call_each(recorded: Any) -> None:
    engine = FakeEngine(limit=1, text_s=0.01)
    run = recorded(Pipeline("p", vector=embed("{q}")), questions(40), {"embedder": engine}, max_inflight=40)
    (end,) = explain(run.events(), run.manifest).endpoints
    assert (end.calls, end.tasks) == (2, {"done": 40})
    assert end.utilisation == pytest.approx(1.0)


def test_a_step_with_a_limit_of_its_own_is_held_back_not_queued(recorded: Any) -> None:
    pipeline = Pipeline("p", answer=generate("{q}", max_concurrency=1))
    run = recorded(pipeline, questions(30), {"llm": FakeEngine(ttft_s=1.0)}, max_inflight=30)
    found = explain(run.events())
    assert rules(found)[0] == "held_back"
    assert "max_concurrency" in found.advice[0].text


def test_answers_that_were_reused_are_counted(recorded: Any) -> None:
    run = recorded(ASK, [{"q": "same"}] * 5, {"llm": FakeEngine(ttft_s=1.0)})
    answer = step_of(explain(run.events()), "answer")
    assert (answer.calls, answer.reused) == (1, 4)
    assert answer.path_s["shared"] == pytest.approx(4.0)


def test_a_balanced_run_is_told_that_nothing_stands_out() -> None:
    plan = PipelineSeen(0.0, "p", ("a", "b", "c"), ("fn",) * 3, ((), ("a",), ("b",)))
    jobs = [
        JobEnded(number + 3.0, number, "p", "done", number, number, (number, number + 1.0) * 3)
        for number in range(25)
    ]
    found = explain([plan, *jobs, RunEnded(30.0, "complete")])
    assert found.advice == ()
    assert found.note.startswith(
        "Nothing stands out: the largest share of the critical path is that of step "
    )


def test_inline_steps_that_block_are_named() -> None:
    plan = PipelineSeen(0.0, "p", ("slow",), ("fn",), ((),))
    events: list[Event] = [plan, Notice(0.1, "slow_step", "…", 0, "slow")]
    events += [JobEnded(n + 1.0, n, "p", "done", n, n, (n, n + 0.5)) for n in range(20)]
    found = explain(events)
    assert rules(found) == ["blocking"]
    assert "'slow' held everything else up for 50 % of the run, up to 500 ms" in found.advice[0].text


def test_no_job_that_was_done_is_said_so() -> None:
    found = explain([FORK, job(outcome="rejected"), RunEnded(1.0, "complete")])
    assert "No job was done" in found.note
    assert explain([]).jobs == {"done": 0, "failed": 0, "rejected": 0, "cancelled": 0}


def test_the_slowest_jobs_come_slowest_first(recorded: Any) -> None:
    run = recorded(ASK, questions(12), {"llm": FakeEngine(limit=1, ttft_s=1.0)}, max_inflight=12)
    slowest = explain(run.events()).slowest
    assert [job.job for job in slowest] == [11, 10, 9, 8, 7]
    assert slowest[0].path[0].queued == pytest.approx(11.0)


def test_an_explanation_is_json(recorded: Any) -> None:
    run = recorded(ASK, questions(3), {"llm": FakeEngine()})
    found = explain([*run.events(), TaskReused(9.0, 99, "answer", "memory")], run.manifest)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Explanation) == found
