"""What a run would have been under another policy: its log, replayed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage import InputError, Pipeline, Session
from sage.bench.replay import Replay, replay
from sage.bench.replay_log import read_recorded
from sage.cli import app, exit_code
from sage.engines.base import EmbedReply, EmbedRequest, GenerateRequest, Reply
from sage.errors import EngineError, SageError
from sage.ops import embed, generate, step, template
from sage.ops.flow import each, loop
from sage.runtime.runs import StoredRun, list_runs
from sage.runtime.virtual import run_virtual
from sage.settings import Settings
from sage.testing import FakeEngine


async def tidy(answer: str) -> str:
    await asyncio.sleep(0.2)
    return answer


CHAT = Pipeline("chat", draft=generate("{q}", max_tokens=4), answer=generate("{draft} {q}", max_tokens=4))
NOTES = Pipeline(
    "notes",
    notes=each(
        "{items}", Pipeline("note", a=generate("{item}", max_tokens=6), b=generate("{a} b", max_tokens=3))
    ),
    answer=generate("{notes} {q}", max_tokens=5),
    out=tidy,
)
AGENT = Pipeline(
    "agent",
    work=loop(
        Pipeline(
            "turn",
            think=generate("{q} {n}", max_tokens=3),
            left=lambda n, think: n - 1,
            over=lambda left: left <= 0,
        ),
        until="over",
        carry={"n": "left"},
        max_steps=9,
    ),
)


def jobs(count: int) -> list[dict[str, Any]]:
    return [
        {
            "q": f"q{n} {'x' * (n * 7 % 50)}",
            "items": [f"i{n} {k}" for k in range(n % 4 + 1)],
            "n": n % 3 + 1,
            "t": "acme" if n % 4 == 0 else "flood",
            "p": n % 3,
        }
        for n in range(count)
    ]


def record(
    home: Settings,
    pipeline: Pipeline,
    policy: str = "fifo",
    *,
    count: int = 40,
    engines: Any = None,
    gap_s: float | None = None,
    **said: Any,
) -> StoredRun:
    """A run in virtual time on two endpoints; with ``gap_s``, jobs that come one by one."""
    wanted = {*pipeline.inputs, "t", "p"}
    rows = [{name: value for name, value in row.items() if name in wanted} for row in jobs(count)]

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        pools = engines or {"llm": [FakeEngine(limit=2, token_s=0.05, name=name) for name in "ab"]}
        tenants = {"acme": {"weight": 3}, "flood": {"weight": 1}}
        async with Session(
            engines=pools, policy=policy, settings=home, clock=clock, tenants=tenants
        ) as session:
            if gap_s is None:
                await session.run(pipeline, rows, tenant="{t}", priority="{p}", **said)
                return
            rng, group = random.Random(1), asyncio.TaskGroup()

            async def one(row: dict[str, Any], at: float) -> None:
                await asyncio.sleep(at)
                with contextlib.suppress(SageError):
                    await session.call(pipeline, row, tenant=row["t"], priority=row["p"], **said)

            at = 0.0
            async with group:
                for row in rows:
                    at += rng.expovariate(1 / gap_s)
                    group.create_task(one(row, at))

    run_virtual(main())
    return list_runs(home)[0]


@pytest.mark.parametrize("policy", ["fifo", "order=job_fifo", "slack", "order=edf,share=weighted_fair"])
@pytest.mark.parametrize("gap_s", [None, 0.1])
def test_a_chain_replayed_under_its_own_policy_is_what_it_was(
    policy: str, gap_s: float | None, tmp_home: Settings
) -> None:
    found = replay(record(tmp_home, CHAT, policy, gap_s=gap_s, deadline_s=3.0), [])
    assert found.kind == "replayed"
    assert all(abs(off) < 0.005 for off in found.error.values()), found.error
    assert found.rows[0].is_own
    assert found.rows[0].figures.jobs == found.recorded.jobs


@pytest.mark.parametrize("pipeline", [NOTES, AGENT])
def test_calls_inside_bodies_are_made_again_in_their_order(pipeline: Pipeline, tmp_home: Settings) -> None:
    found = replay(record(tmp_home, pipeline, "order=job_fifo"), ["fifo"])
    assert found.rows[0].figures.tasks == found.rows[1].figures.tasks == found.recorded.tasks
    assert all(abs(off) < 0.06 for off in found.error.values()), found.error


def test_another_policy_is_what_the_run_itself_would_have_been_under_it(tmp_path: Path) -> None:
    homes = [Settings(home=tmp_path / name) for name in ("one", "two")]
    was, other = (
        record(home, CHAT, policy, deadline_s=3.0)
        for home, policy in zip(homes, ("fifo", "order=job_fifo"), strict=True)
    )
    told = replay(was, ["order=job_fifo"]).rows[1].figures
    truth = replay(other, []).recorded
    assert told.e2e_sched_s.mean == pytest.approx(truth.e2e_sched_s.mean, rel=0.002)
    assert told.in_time == truth.in_time


def test_a_replay_is_deterministic(tmp_home: Settings) -> None:
    run = record(tmp_home, NOTES, "slack", gap_s=0.2, deadline_s=4.0)
    assert replay(run, ["order=edf"]) == replay(run, ["order=edf"])


def test_refused_jobs_are_stood_in_for_and_that_is_said(tmp_home: Settings) -> None:
    run = record(tmp_home, NOTES, "slack", gap_s=0.05, deadline_s=1.5)
    found = replay(run, ["fifo"])
    refused = found.recorded.rejected
    assert refused > 0
    assert found.rows[1].figures.jobs["done"] == 40
    assert any(f"{refused} jobs that were refused would have done" in said for said in found.assumptions)


class Flaky(FakeEngine):
    async def generate(self, request: GenerateRequest, emit: Any) -> Reply:
        reply = await super().generate(request, emit)
        if "q3" in request.messages[-1].content and not hasattr(self, "failed"):
            self.failed = True
            raise EngineError("flaky", fault="failed")
        return reply


def test_failed_attempts_fail_again(tmp_home: Settings) -> None:
    run = record(tmp_home, CHAT, engines={"llm": Flaky(limit=2, token_s=0.05)})
    found = replay(run, [])
    assert found.rows[0].figures.tasks == found.recorded.tasks == 81
    assert found.rows[0].figures.jobs["done"] == 40


def grumble(answer: str) -> str:
    if "q5" in answer:
        raise ValueError("no")
    return answer


def test_a_job_that_failed_by_itself_fails_again(tmp_home: Settings) -> None:
    pipeline = Pipeline("grumbler", answer=generate("{q}", max_tokens=4), out=grumble)
    found = replay(record(tmp_home, pipeline, count=12), [])
    assert found.recorded.jobs["failed"] == found.rows[0].figures.jobs["failed"] > 0


class SlowEmbedder(FakeEngine):
    async def embed(self, request: EmbedRequest) -> EmbedReply:
        await asyncio.sleep(0.3)
        return await super().embed(request)


def test_embeddings_travel_together_again(tmp_home: Settings) -> None:
    pipeline = Pipeline("vectors", v=embed("{q}"), w=template("{q}"))
    run = record(tmp_home, pipeline, engines={"embedder": SlowEmbedder(limit=1)})
    found = replay(run, ["batch=none"])
    assert abs(found.error["mean_s"]) < 0.01
    alone, together = found.rows[1].figures, found.rows[0].figures
    assert (alone.e2e_sched_s.mean or 0) > 3 * (together.e2e_sched_s.mean or 0)


def test_with_a_profile_calls_take_its_time(tmp_home: Settings) -> None:
    run = record(tmp_home, CHAT)
    found = replay(run, [], profile="constant")
    assert any("profile 'constant'" in said for said in found.assumptions)
    assert (found.rows[0].figures.e2e_sched_s.mean or 0) > 2.0


@given(data=st.data())
@settings(max_examples=6)
def test_whatever_the_mix_every_job_ends_as_often_as_it_was_recorded(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = Settings(home=tmp_path_factory.mktemp("run"))
    pipeline = data.draw(st.sampled_from([CHAT, NOTES, AGENT]))
    policy = data.draw(st.sampled_from(["fifo", "slack", "order=least_attained,place=pack"]))
    gap_s = data.draw(st.sampled_from([None, 0.02, 0.5]))
    run = record(home, pipeline, policy, count=data.draw(st.integers(1, 15)), gap_s=gap_s)
    found: Replay = replay(run, ["order=priority,share=fair_pipelines", "load_aware"])
    for row in found.rows:
        assert row.figures.jobs == found.recorded.jobs
        assert row.figures.tasks == found.recorded.tasks


def test_a_run_without_calls_has_nothing_to_replay(tmp_home: Settings) -> None:
    run = record(tmp_home, Pipeline("words", line=template("{q}")))
    with pytest.raises(InputError, match="made no calls to engines that can be replayed"):
        read_recorded(run.events(), run.manifest)


# ---- as typed


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    record(Settings.load(), CHAT, deadline_s=3.0)
    return lambda *args: exit_code(lambda: app(args=["explain", "last", *args], prog_name="sage"))


def test_explain_under_another_policy(typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed("--under", "order=job_fifo", "--under", "slack") == 0
    shown = capsys.readouterr().out
    for said in (
        "as it was (measured)",
        "replayed, not measured",
        "fifo (its own)",
        "order=job_fifo",
        "assumed:",
    ):
        assert said in shown
    assert "error of the replay, its own policy against what was measured: mean +0.0 %" in shown
    assert typed("--under", "order=job_fifo", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "replayed"
    assert [row["is_own"] for row in found["rows"]] == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--under", "order=eddf"], "unknown order 'eddf': did you mean 'edf'?"),
        (["--under", "fifo", "--gantt"], "--under replays the whole run"),
        (["--profile", "constant"], "--profile constant is for a replay"),
        (["--under", "fifo", "--profile", "nothing"], "unknown profile 'nothing'"),
    ],
)
def test_what_cannot_be_replayed_is_one_line_and_exit_2(
    options: list[str], message: str, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(*options) == 2
    assert message in capsys.readouterr().err


def test_with_a_profile_answers_are_as_long_as_they_were(tmp_home: Settings) -> None:
    lengths = {f"q{n} {'x' * (n * 7 % 50)}": n % 4 + 1 for n in range(40)}

    class Uneven(FakeEngine):
        async def generate(self, request: GenerateRequest, emit: Any) -> Reply:
            wanted = lengths.get(request.messages[-1].content, 4)
            return await super().generate(msgspec.structs.replace(request, max_tokens=wanted), emit)

    run = record(tmp_home, CHAT, engines={"llm": Uneven(limit=2, token_s=0.05)})
    found = replay(run, [], profile="vllm-llama-3.1-8b")
    assert found.rows[0].figures.tasks == found.recorded.tasks
    told, was = (
        (figures.out_tokens_per_s or 0) * figures.window_s
        for figures in (found.rows[0].figures, found.recorded)
    )
    assert told == pytest.approx(was)


def test_pipelines_that_ran_together_are_replayed_together(tmp_home: Settings) -> None:
    rows = [{"q": f"q{n}"} for n in range(20)]
    more = [{"q": f"q{n}", "items": ["a", "b"]} for n in range(10)]

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        engines = {"llm": FakeEngine(limit=3, token_s=0.05)}
        async with Session(
            engines=engines, settings=tmp_home, clock=clock, policy="share=fair_pipelines"
        ) as session:
            parts = [(CHAT, rows, {"max_inflight": 4}), (NOTES, more)]
            await session.run_all(parts, stagger_s=1.0)

    run_virtual(main())
    found = replay(list_runs(tmp_home)[0], ["fifo"])
    assert found.rows[0].figures.tasks == found.recorded.tasks
    assert abs(found.error["mean_s"]) < 0.03
    assert [one.name for one in found.rows[0].figures.classes] == ["chat/default", "notes/default"]


def doubled(q: str) -> str:
    return q + q


def test_functions_in_worker_slots_are_calls_like_others(tmp_home: Settings) -> None:
    pipeline = Pipeline("cpu", twice=step(doubled, pool="cpu"), answer=generate("{twice}", max_tokens=2))
    rows = [{"q": f"q{n}"} for n in range(6)]

    async def main() -> None:
        async with Session(engines={"llm": FakeEngine()}, settings=tmp_home) as session:
            await session.run(pipeline, rows)

    asyncio.run(main())
    found = replay(list_runs(tmp_home)[0], ["slack"])
    assert found.rows[1].figures.tasks == found.recorded.tasks == 12
