"""The simulated runtime: the product in virtual time, the same every time, marked as what it is."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sage import EngineError, InputError, Pipeline, PipelineError, Session
from sage.bench.simulation import Sweep, simulate, with_choices
from sage.bench.simulation_figures import row_of
from sage.bench.simulation_spec import Spec, filler, read_spec
from sage.engines.base import EmbedRequest, GenerateRequest, Message, ignore_pieces
from sage.engines.emulated import EmulatedEngine, EmulatedOptions
from sage.engines.emulated_profile import PROFILES
from sage.ops import generate
from sage.runtime.manifest import read_manifest
from sage.runtime.options import Tenant
from sage.runtime.runs import read_events
from sage.runtime.simulated import FailingEngine, Outage, closed_loop, open_loop
from sage.runtime.summary import summarize
from sage.testing import FakeEngine, run_virtual

CHAT: dict[str, Any] = {
    "pipeline": "chat",
    "steps": {"answer": {"generate": "{question}", "max_tokens": 400}},
}
DIGEST: dict[str, Any] = {
    "pipeline": "digest",
    "steps": {
        "summaries": {"each": "pages", "body": {"generate": "Summarise: {item}", "max_tokens": 80}},
        "digest": {"generate": "{summaries}", "max_tokens": 120},
    },
}


def spec_of(**changes: Any) -> Spec:
    """Chat and digests on two endpoints; a small one."""
    said: dict[str, Any] = {
        "simulate": "small",
        "engines": {
            "llm": {
                "profile": "vllm-llama-3.1-8b", "count": 2, "output": "lognormal(100,0.6)", "limit": 8,
            },
        },
        "tenants": {
            "people": {"weight": 2, "priority": "interactive", "deadline_s": 6},
            "nightly": {"priority": "batch", "deadline_s": 40},
        },
        "traffic": {
            "chat": {
                "pipeline": CHAT,
                "arrivals": {"process": "poisson", "rate": 3.0, "jobs": 60},
                "record": {"question": {"tokens": "lognormal(200,0.8)"}},
                "tenant": "people",
            },
            "digest": {
                "pipeline": DIGEST,
                "arrivals": {"process": "gamma", "burstiness": 0.5, "rate": 0.5, "jobs": 10},
                "record": {"pages": {"list": "uniform(2,5)", "of": {"tokens": 300}}},
                "tenant": "nightly",
            },
        },
    }  # fmt: skip
    return msgspec.convert(said | changes, Spec)


def logs(sweep: Sweep, out: Path) -> dict[str, bytes]:
    return {
        cell.folder or "": (out / (cell.folder or "") / "events.jsonl").read_bytes() for cell in sweep.cells
    }


def test_the_same_spec_gives_byte_identical_logs(tmp_path: Path) -> None:
    spec = spec_of(policies=("fifo", "load_aware"), loads=(1.0, 2.0), seeds=2)
    first, second = tmp_path / "a", tmp_path / "b"
    assert logs(simulate(spec, first), first) == logs(simulate(spec, second), second)
    assert (
        len(set(logs(simulate(spec, tmp_path / "c"), tmp_path / "c").values())) == 8
    )  # and no two cells are alike


def test_a_runs_files_say_that_it_is_simulated_and_how_to_have_it_again(tmp_path: Path) -> None:
    spec = spec_of()
    sweep = simulate(spec, tmp_path / "out")
    (cell,) = sweep.cells
    folder = tmp_path / "out" / "load_aware_load-1_seed-0"
    assert sorted(path.name for path in folder.iterdir()) == [
        "events.jsonl",
        "requests.jsonl",
        "run.json",
        "summary.json",
    ]
    manifest = read_manifest(folder / "run.json")
    assert (manifest.kind, manifest.status, manifest.seed) == ("simulated", "complete", 0)
    assert manifest.arguments["schedules"] == cell.schedules
    assert msgspec.convert(manifest.arguments["spec"], Spec) == spec
    summary = summarize(read_events(folder / "events.jsonl"))
    assert not summary.faults
    assert summary.jobs == cell.jobs == {"done": 70, "failed": 0, "rejected": 0, "cancelled": 0}
    kept = msgspec.json.decode((tmp_path / "out" / "summary.json").read_bytes(), type=Sweep)
    assert (kept, kept.kind) == (sweep, "simulated")


def test_every_policy_meets_the_same_load() -> None:
    one, other = simulate(spec_of(policies=("fifo", "order=job_fifo"))).cells
    assert one.schedules == other.schedules
    assert one.tasks == other.tasks
    assert one.out_tokens_per_s != other.out_tokens_per_s


def test_more_endpoints_answer_sooner_and_more_load_later() -> None:
    def mean_s(**changes: Any) -> float:
        (row,) = simulate(spec_of(**changes)).rows
        assert row.mean_s.mean is not None
        return row.mean_s.mean

    engine = spec_of().engines["llm"]
    more = {"llm": msgspec.to_builtins(msgspec.structs.replace(engine, count=6))}
    assert mean_s(engines=more) < mean_s() < mean_s(loads=(4.0,))


def test_attainment_is_weighed_by_jobs_by_work_and_by_the_worst_class() -> None:
    tenants = {"people": {"deadline_s": 1000}, "nightly": {"deadline_s": 0.01}}
    (cell,) = simulate(spec_of(tenants=tenants)).cells
    assert cell.in_time.share == pytest.approx(60 / 70)
    assert cell.worst_class == 0.0
    assert cell.work_in_time is not None
    assert 0 < cell.work_in_time < 60 / 70  # a digest is more work than a chat
    assert [(one.name, one.in_time.good) for one in cell.classes] == [
        ("chat/people", 60),
        ("digest/nightly", 0),
    ]


def test_an_endpoint_that_fails_is_worked_around() -> None:
    failures = [{"pool": "llm", "endpoint": 2, "at_s": 5, "for_s": 10}]
    (cell,) = simulate(spec_of(failures=failures)).cells
    (calm,) = simulate(spec_of()).cells
    assert cell.jobs["done"] == 70
    assert cell.tasks > calm.tasks  # some calls were made again
    assert cell.e2e_sched_s.mean is not None
    assert calm.e2e_sched_s.mean is not None
    assert cell.e2e_sched_s.mean > calm.e2e_sched_s.mean


def test_what_expires_counts_as_missed() -> None:
    tenants = {"people": {"deadline_s": 0.5, "expire": True}, "nightly": {}}
    (cell,) = simulate(spec_of(tenants=tenants)).cells
    assert cell.jobs["failed"] > 0
    assert cell.in_time.n == 60
    assert cell.in_time.good == cell.classes[0].jobs["done"]


def test_a_closed_loop_keeps_its_clients_busy() -> None:
    traffic = {
        "chat": {
            "pipeline": CHAT,
            "arrivals": {"process": "closed", "clients": 4, "jobs": 40},
            "record": {"question": {"tokens": 50}},
        }
    }
    (cell,) = simulate(spec_of(traffic=traffic)).cells
    assert cell.jobs["done"] == 40
    assert cell.e2e_sched_s.mean is not None
    assert cell.jobs_per_s == pytest.approx(4 / cell.e2e_sched_s.mean, rel=0.1)  # Little's law


def test_records_follow_a_trace(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00.0,300,20\n2023-11-16 18:00:01.0,500,30\n"
    )
    (tmp_path / "spec.json").write_bytes(
        msgspec.json.encode(
            {
                "simulate": "replay",
                "engines": {"llm": {"profile": "constant"}},
                "traffic": {
                    "azure": {
                        "pipeline": {
                            "pipeline": "p",
                            "steps": {"a": {"generate": "{prompt}", "max_tokens": "{most}"}},
                        },
                        "arrivals": {"process": "trace", "trace": "t.csv"},
                        "record": {"prompt": {"tokens": "prompt"}, "most": {"number": "output"}},
                    }
                },
            }
        )
    )
    out = tmp_path / "out"
    (cell,) = simulate(read_spec(tmp_path / "spec.json"), out).cells
    summary = summarize(read_events(out / (cell.folder or "") / "events.jsonl"))
    assert (summary.completion_tokens, summary.prompt_tokens) == (50, 802)
    assert cell.window_s == pytest.approx(2.0)


def test_functions_run_and_choices_are_drawn() -> None:
    pipeline = {
        "pipeline": "p",
        "steps": {
            "answer": {
                "route": "{kind}",
                "to": {"long": {"generate": "{text}", "max_tokens": 50}, "short": {"template": "none"}},
            }
        },
    }
    traffic = {
        "t": {
            "pipeline": pipeline,
            "arrivals": {"process": "constant", "rate": 1.0, "jobs": 40},
            "record": {"kind": {"pick": ["long", "short"]}, "text": {"tokens": 9}},
        }
    }
    (cell,) = simulate(spec_of(traffic=traffic)).cells
    assert cell.jobs["done"] == 40
    assert 10 < cell.tasks < 30


def test_a_sweep_that_is_interrupted_keeps_what_is_over(tmp_path: Path) -> None:
    def interrupt(done: int, _total: int) -> None:
        if done == 512:
            signal.raise_signal(signal.SIGINT)

    traffic = msgspec.to_builtins(spec_of().traffic["chat"])
    traffic["arrivals"] = {"process": "constant", "rate": 5.0, "jobs": 400}
    with pytest.raises(KeyboardInterrupt):
        simulate(spec_of(traffic={"chat": traffic}, seeds=3), tmp_path, interrupt)
    kept = msgspec.json.decode((tmp_path / "summary.json").read_bytes(), type=Sweep)
    assert (kept.status, len(kept.cells)) == ("partial", 1)
    assert {path.name for path in tmp_path.iterdir()} == {
        "experiment.json",
        "load_aware_load-1_seed-0",
        "summary.json",
    }


def test_a_sweep_that_was_interrupted_goes_on_to_the_same_figures(tmp_path: Path) -> None:
    whole = simulate(spec_of(seeds=2), tmp_path / "whole")
    simulate(spec_of(seeds=2), tmp_path / "twice")
    shutil.rmtree(tmp_path / "twice" / str(whole.cells[1].folder))
    assert simulate(spec_of(seeds=2), tmp_path / "twice") == whole


def test_a_session_that_closes_waits_for_the_calls_under_way() -> None:
    async def main() -> tuple[float, str]:
        loop = asyncio.get_running_loop()
        pipeline = Pipeline("p", answer=generate("{question}", max_tokens=3))
        engine = EmulatedEngine(PROFILES["constant"])
        async with asyncio.TaskGroup() as users:
            async with Session(engines={"llm": engine}, record=False, clock=loop.time) as session:
                record = users.create_task(session.call(pipeline, {"question": "why?"}))
                await asyncio.sleep(0.25)
            closed = loop.time()
        return closed, record.result()["question"]

    assert run_virtual(main()) == (1.0, "why?")


def test_a_job_that_is_cancelled_frees_the_place_of_its_call() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        pipeline = Pipeline("p", answer=generate("{question}", max_tokens=3))
        options = EmulatedOptions(limit=1)
        engine = EmulatedEngine(PROFILES["constant"], options)
        async with Session(engines={"llm": engine}, record=False, clock=loop.time) as session:
            first = asyncio.ensure_future(session.call(pipeline, {"question": "why?"}))
            await asyncio.sleep(0.25)
            first.cancel()
            await session.call(pipeline, {"question": "what?"})
        return loop.time()

    assert run_virtual(main()) == 1.25


# ---- what cannot be


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policies": ("order=fifu",)}, "did you mean 'fifo'"),
        ({"engines": {"llm": {"profile": "vllm"}}}, "vllm-llama-3.1-8b"),
        ({"engines": {"lm": {"profile": "constant"}}}, "unknown engine pool 'llm': did you mean 'lm'"),
    ],
)
def test_what_cannot_be_simulated_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises((InputError, PipelineError), match=said):
        simulate(spec_of(**changes))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("simulate: x\nengines: {}\ntraffic: {}", "no traffic"),
        ("simulate: x\nengine: {}\ntraffic: {}", "unknown field `engine`"),
        (
            "simulate: x\nengines: {llm: {profile: 3}}\ntraffic: {}",
            "Expected `str`, got `int` - at `$.engines",
        ),
        ("simulate: [", "is no YAML"),
        ("- x", "Expected `object`"),
    ],
)
def test_a_spec_that_is_wrong_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_spec(path)
    assert said in str(caught.value) or said == "is no YAML"
    assert "\n" not in str(caught.value)


def changed_traffic(**changes: Any) -> Spec:
    spec = spec_of()
    chat = msgspec.to_builtins(spec.traffic["chat"]) | changes
    arrivals = {key: value for key, value in chat["arrivals"].items() if value is not None}
    return spec_of(traffic={"chat": chat | {"arrivals": arrivals}})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"record": {}}, "reads 'question', which its record lacks"),
        ({"record": {"question": {"token": 3}}}, "expected {tokens: …}"),
        ({"record": {"question": {"tokens": "many"}}}, "chat.question: answer length 'many'"),
        ({"record": {"question": {"tokens": "prompt"}}}, "its arrivals are no trace"),
        ({"arrivals": {"process": "poisson", "rate": 3.0}}, "traffic 'chat': arrivals: 'poisson' has no end"),
        ({"priority": "urgent"}, "priority 'urgent'"),
        ({"deadline_s": -1.0}, "deadline_s is -1.0"),
    ],
)
def test_traffic_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        simulate(changed_traffic(**changes))
    assert said in str(caught.value)


def test_choices_of_the_caller_stand_in_for_the_specs() -> None:
    spec = with_choices(spec_of(), policies=["fifo"], loads=[2.0, 3.0], seeds=4)
    assert (spec.policies, spec.loads, spec.seeds) == (("fifo",), (2.0, 3.0), 4)
    assert with_choices(spec, policies=[], loads=[], seeds=None) == spec


def test_an_interval_needs_three_seeds_and_a_figure_needs_all() -> None:
    cells = simulate(spec_of(seeds=3)).cells
    assert row_of(cells[:2]).mean_s.half is None
    assert (row_of(cells).mean_s.half or 0) > 0
    assert row_of(cells).p99_s.mean is None  # 70 jobs carry no p99


# ---- parts


def test_jobs_come_on_time_however_many_are_under_way() -> None:
    async def main() -> list[float]:
        loop, seen = asyncio.get_running_loop(), list[float]()

        async def carry(_job: int) -> None:
            seen.append(loop.time())
            await asyncio.sleep(100)

        await open_loop(iter([(0.0, 1), (1.5, 2), (1.5, 3), (4.0, 4)]), carry)
        return seen

    assert run_virtual(main()) == [0.0, 1.5, 1.5, 4.0]


def test_clients_take_turns() -> None:
    async def main() -> float:
        async def carry(_job: int) -> None:
            await asyncio.sleep(1)

        await closed_loop(iter(range(10)), carry, clients=2, think_s=0.5)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 7.5


@pytest.mark.parametrize(("at_s", "fault"), [(0.5, "unreachable"), (1.5, "stalled"), (None, None)])
def test_calls_fail_when_their_endpoint_goes(at_s: float | None, fault: str | None) -> None:
    async def main() -> tuple[str | None, float]:
        engine = FakeEngine(answer=lambda _: "one two three", ttft_s=1.0, token_s=1.0)
        failing = FailingEngine(engine, [] if at_s is None else [Outage(at_s, 10.0)])
        try:
            await failing.generate(GenerateRequest(messages=(Message("user", "x"),)), ignore_pieces)
        except EngineError as error:
            return error.fault, asyncio.get_running_loop().time()
        return None, asyncio.get_running_loop().time()

    assert run_virtual(main()) == (fault, 3.0 if at_s is None else at_s)


def test_an_endpoint_that_is_gone_answers_nothing_and_then_again() -> None:
    async def main() -> None:
        failing = FailingEngine(EmulatedEngine(PROFILES["constant"]), [Outage(0.0, 5.0)])
        with pytest.raises(EngineError) as caught:
            await failing.embed(EmbedRequest(texts=("x",)))
        assert caught.value.fault == "unreachable"
        await asyncio.sleep(5)
        assert len((await failing.embed(EmbedRequest(texts=("x",)))).vectors) == 1

    run_virtual(main())


def test_failures_that_overlap_are_refused() -> None:
    with pytest.raises(InputError, match="not overlap"):
        FailingEngine(FakeEngine(), [Outage(0.0, 5.0), Outage(4.0, 6.0)])


def test_tenants_of_a_session_have_weights() -> None:
    async def main() -> list[str]:
        loop, ended = asyncio.get_running_loop(), list[str]()
        tenants = {"heavy": Tenant(weight=3.0)}
        engine = FakeEngine(answer=lambda _: "x", limit=1, ttft_s=1.0)
        pipeline = Pipeline("p", a=generate("{x}"))
        arguments: dict[str, Any] = {"policy": "share=weighted_fair", "tenants": tenants}
        async with Session(engines={"llm": engine}, record=False, clock=loop.time, **arguments) as session:

            async def carry(job: tuple[str, int]) -> None:
                await session.call(pipeline, {"x": f"{job}"}, tenant=job[0])
                ended.append(job[0])

            jobs = [(0.0, (tenant, n)) for n in range(24) for tenant in ("light", "heavy")]
            await open_loop(iter(jobs), carry)
        return ended

    first = run_virtual(main())[:16]
    assert first.count("heavy") == pytest.approx(12, abs=2)


def test_filler_is_as_long_as_asked_and_differs() -> None:
    assert len(filler("chat/1/question", 50)) == 200
    assert filler("a/1", 50) != filler("a/2", 50)
