"""Why tasks waited: causes that add up, and the story of one job."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage import Pipeline, Session
from sage.cli.output import shown_seconds
from sage.engines.base import EmbedReply, EmbedRequest, GenerateRequest, Reply
from sage.errors import EngineError, InputError
from sage.events import EndpointSwitched, JobEnded, TaskEnded, Why, decode_event, encode_events
from sage.ops import embed, generate
from sage.ops.flow import each
from sage.runtime.options import Tenant
from sage.runtime.runs import StoredRun, list_runs
from sage.runtime.story import Story, story
from sage.runtime.trail import Call
from sage.runtime.waits import Started, Waits, down_times, holds, reason, waits
from sage.settings import Settings
from sage.testing import FakeEngine, run_virtual

CHAT = Pipeline("chat", draft=generate("{q}", max_tokens=4), answer=generate("{draft} {q}", max_tokens=4))


def record(
    home: Settings,
    policy: str,
    *,
    engines: Any = None,
    pipeline: Pipeline = CHAT,
    records: list[dict[str, Any]] | None = None,
    tenants: dict[str, Tenant] | None = None,
    singles: bool = False,
    **arguments: Any,
) -> StoredRun:
    """A run in virtual time, by default of 24 jobs of two tenants on one endpoint with two places."""
    given = records or [{"q": f"q{n}", "t": "acme" if n % 4 == 0 else "flood", "p": n % 3} for n in range(24)]

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        async with Session(
            engines=engines or {"llm": FakeEngine(limit=2, token_s=0.1, name="a")},
            policy=policy,
            settings=home,
            clock=clock,
            tenants=tenants,
        ) as session:
            if not singles:
                await session.run(pipeline, given, **arguments)
                return
            async with asyncio.TaskGroup() as group:
                for one in given:
                    group.create_task(session.call(pipeline, one, **arguments))

    run_virtual(main())
    return list_runs(home)[0]


def causes(found: Waits, pool: str = "llm") -> dict[str, float]:
    (one,) = [one for one in found.pools if one.pool == pool]
    return {cause.cause: cause.seconds for cause in one.causes}


def of(run: StoredRun) -> Waits:
    return waits(run.events(), run.manifest)


@pytest.mark.parametrize(
    "policy",
    ["fifo", "slack", "order=priority", "share=weighted_fair", "order=job_fifo,share=fair_pipelines"],
)
def test_causes_and_holders_add_up_to_all_the_waiting(policy: str, tmp_home: Settings) -> None:
    run = record(tmp_home, policy, tenant="{t}", priority="{p}", deadline_s=5.0)
    waited = sum(e.dispatched - e.ready for e in run.events() if isinstance(e, TaskEnded))
    (pool,) = of(run).pools
    assert pool.seconds == pytest.approx(waited)
    assert math.fsum(cause.seconds for cause in pool.causes) == pytest.approx(waited)
    assert math.fsum(claim.seconds for claim in pool.holders) == pytest.approx(waited)


def test_under_fifo_everyone_waits_for_those_who_came_before(tmp_home: Settings) -> None:
    assert causes(of(record(tmp_home, "fifo"))).keys() == {"ahead", "full"}


def test_an_order_that_looks_at_priority_lets_later_ones_go_first(tmp_home: Settings) -> None:
    found = of(record(tmp_home, "order=strict_priority", priority="{p}"))
    assert causes(found)["order"] > 0
    assert found.pools[0].overtakers


def test_a_fair_share_is_named_where_it_was_the_others_turn(tmp_home: Settings) -> None:
    run = record(tmp_home, "share=weighted_fair", tenant="{t}", tenants={"acme": Tenant(weight=4)})
    assert causes(of(run))["share"] > 0


def test_who_cannot_be_in_time_waits_because_it_stepped_aside(tmp_home: Settings) -> None:
    run = record(tmp_home, "order=slack", deadline_s="{d}", records=[
        {"q": f"q{n}", "d": 1.0 if n % 2 else 9.0} for n in range(24)
    ])  # fmt: skip
    assert causes(of(run))["late"] > 0


class SlowEmbedder(FakeEngine):
    async def embed(self, request: EmbedRequest) -> EmbedReply:
        await asyncio.sleep(0.3)
        return await super().embed(request)


def test_waiting_for_company_is_the_batchs(tmp_home: Settings) -> None:
    run = record(
        tmp_home,
        "admit=stagger(seconds=0.1),batch=window(max_items=4,max_wait_ms=500)",
        engines={"embedder": SlowEmbedder(limit=8)},
        singles=True,
        pipeline=Pipeline("vectors", a=embed("{q}"), b=embed("{q} again")),
    )
    assert causes(of(run), "embedder")["batch"] > 0


class Down(FakeEngine):
    async def generate(self, request: GenerateRequest, emit: Any) -> Reply:
        if asyncio.get_running_loop().time() < 6.0:
            raise EngineError("down", fault="unreachable")
        return await super().generate(request, emit)


def test_a_pool_that_is_out_and_pauses_between_attempts_are_causes(tmp_home: Settings) -> None:
    run = record(tmp_home, "retry_budget=off", engines={"llm": Down(limit=8, token_s=0.01)}, max_inflight=4)
    found = of(run)
    assert causes(found)["breaker"] > 1.0
    assert found.pause.seconds > 0


def test_jobs_kept_outside_are_told_by_the_rule(tmp_home: Settings) -> None:
    run = record(tmp_home, "admit=stagger(seconds=0.5)+max_inflight(jobs=1)", singles=True)
    found = {hold.rule: hold for hold in of(run).outside}
    assert found.keys() == {"stagger", "max_inflight"}
    ends = [event for event in run.events() if isinstance(event, JobEnded)]
    outside = sum((end.admitted or 0.0) - end.arrived for end in ends)
    assert sum(hold.seconds for hold in found.values()) == pytest.approx(outside)


def test_other_runs_on_the_same_endpoints_are_counted(tmp_home: Settings) -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        engines = {"llm": FakeEngine(limit=3, token_s=0.1)}
        opened = Session(engines=engines, settings=tmp_home, clock=clock)
        async with opened as session, asyncio.TaskGroup() as group:
            for word in ("one", "two"):
                group.create_task(session.run(CHAT, [{"q": f"{word} {n}"} for n in range(20)]))

    run_virtual(main())
    assert all(of(run).pools[0].others > 0 for run in list_runs(tmp_home))


def test_calls_inside_a_body_count_too(tmp_home: Settings) -> None:
    notes = Pipeline("notes", notes=each("{items}", generate("{item}", max_tokens=4)))
    run = record(
        tmp_home, "fifo", pipeline=notes, records=[{"items": ["a", "b", "c"]}, {"items": ["d", "e"]}]
    )
    found = of(run)
    assert found.pools[0].tasks == 5
    told = tell(run, 1, "notes")
    assert [task.step for task in told.tasks] == ["notes[0]", "notes[1]"]


@given(data=st.data())
@settings(max_examples=25)
def test_the_causes_of_single_tasks_are_those_of_the_run(data: st.DataObject, tmp_path_factory: Any) -> None:
    """What the story tells of each task adds up to what the overview says of all, whatever the policy."""
    home = Settings(home=tmp_path_factory.mktemp("run"))
    policy = data.draw(st.sampled_from(["fifo", "slack", "order=priority,share=weighted_fair", "order=edf"]))
    number = data.draw(st.integers(2, 12))
    rows = st.tuples(
        st.sampled_from("ab"), st.integers(-2, 2), st.sampled_from([0.4, 3.0]), st.integers(1, 30)
    )
    records = [
        {"q": f"{n} " + "x" * size, "t": t, "p": p, "d": d}
        for n, (t, p, d, size) in enumerate(data.draw(st.lists(rows, min_size=number, max_size=number)))
    ]
    run = record(home, policy, records=records, tenant="{t}", priority="{p}", deadline_s="{d}")
    told: defaultdict[str, float] = defaultdict(float)
    for job in range(number):
        for task in tell(run, job).tasks:
            for cause in task.causes:
                told[cause.cause] += cause.seconds
    found = causes(of(run))
    assert told.keys() == found.keys()
    assert told == pytest.approx(dict(found), abs=1e-6)


# ---- the story


def tell(run: StoredRun, job: int, step: str | None = None) -> Story:
    return story(run.events(), run.manifest, shown_seconds, job=job, step=step)


def test_a_story_names_who_went_first_and_by_which_rule(tmp_home: Settings) -> None:
    run = record(
        tmp_home, "order=strict_priority,share=weighted_fair", tenant="{t}", priority="{p}", deadline_s=2.0
    )
    told = tell(run, 21)
    said = "\n".join(moment.text for task in told.tasks for moment in task.moments)
    for expected in (
        "of tenant 'flood'",
        "had its turn",
        "tokens by weight",
        "by order strict_priority",
        "call 2 of 2",
    ):
        assert expected in said
    assert "after its deadline" in told.moments[-1].text


def test_moments_are_in_the_order_of_time(tmp_home: Settings) -> None:
    run = record(tmp_home, "slack", tenant="{t}", deadline_s=5.0)
    for job in range(24):
        for task in tell(run, job).tasks:
            times = [moment.t for moment in task.moments]
            assert times == sorted(times)


def test_a_story_of_a_retried_task_tells_every_attempt(tmp_home: Settings) -> None:
    run = record(tmp_home, "retry_budget=off", engines={"llm": Down(limit=8, token_s=0.01)}, max_inflight=4)
    retried = next(e.job for e in run.events() if isinstance(e, TaskEnded) and e.attempt > 1)
    told = tell(run, retried)
    assert [task.attempt for task in told.tasks][:2] == [1, 2]
    assert "paused" in told.tasks[1].moments[0].text


def test_a_job_or_step_that_is_not_there_is_refused(tmp_home: Settings) -> None:
    run = record(tmp_home, "fifo")
    with pytest.raises(InputError, match="no job 99 that ended; jobs are counted from 0 to 23"):
        tell(run, 99)
    with pytest.raises(InputError, match="no call in step 'anwser': did you mean 'answer'"):
        tell(run, 0, "anwser")


# ---- the parts


def switch(t: float, endpoint: str, state: Any) -> EndpointSwitched:
    return EndpointSwitched(t, endpoint, "llm", state, "")


def test_a_pool_is_down_while_all_its_endpoints_are() -> None:
    switches = [
        switch(1, "a", "open"),
        switch(2, "b", "open"),
        switch(5, "a", "healthy"),
        switch(6, "b", "healthy"),
    ]
    assert down_times(switches, ["a", "b"]) == [(2, 5)]
    assert down_times(switches, ["a", "b", "c"]) == []
    assert down_times([switch(1, "a", "open")], ["a"]) == [(1, math.inf)]


def test_a_log_without_decisions_is_read_as_well(tmp_home: Settings) -> None:
    run = record(tmp_home, "fifo")
    bare = [decode_event(line) for event in run.events() for line in encode_events([event]).splitlines()]
    old = [
        decode_event(encode_events([e]).replace(b'"why"', b'"ignored"')) if isinstance(e, TaskEnded) else e
        for e in bare
    ]
    assert bare == list(run.events())
    found = waits(old, run.manifest)
    assert not found.is_known
    assert causes(found) == causes(of(run))


def test_a_later_task_with_a_smaller_key_went_first_by_the_order() -> None:
    def started(job: int, ready: float, sent: float, key: float, tenant: str = "a") -> Started:
        why = Why((key,), 1, 1)
        task = TaskEnded(sent + 1, job, "s", "llm", "e", "done", ready, sent, why=why)
        return Started(Call(task, None, ready), tenant, "p")

    mine = started(0, 0.0, 9.0, 5.0)
    assert reason(mine, started(1, 1.0, 2.0, 1.0), "") == "order"
    assert reason(mine, started(1, -1.0, 2.0, 6.0), "") == "ahead"
    assert reason(mine, started(1, 1.0, 2.0, 1.0, "b"), "tenant") == "share"


def test_holds_follow_each_other(tmp_home: Settings) -> None:
    run = record(tmp_home, "admit=stagger(seconds=0.5)+max_inflight(jobs=1)", singles=True)
    for event in run.events():
        if isinstance(event, JobEnded) and event.held:
            since = [hold.since for hold in event.held] + [event.admitted or event.t]
            assert [seconds for _, seconds in holds(event)] == pytest.approx(
                [after - before for before, after in itertools.pairwise(since)]
            )
