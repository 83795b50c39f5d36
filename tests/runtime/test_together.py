"""Several pipelines at once, and tenants: one scheduler in front of all, each kept to what it may claim."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import sage
from sage import InputError, Pipeline, Session, Tenant
from sage.cli import app, exit_code
from sage.errors import Rejected
from sage.events import JobEnded, TaskEnded
from sage.ops import generate, template
from sage.runtime.recorder import RunResult
from sage.runtime.runs import list_runs
from sage.runtime.summary import summarize
from sage.runtime.tenants_file import read_tenants
from sage.runtime.virtual import run_virtual
from sage.settings import Settings
from sage.tenants import tenants_from
from sage.testing import FakeEngine

ONE = Pipeline("one", answer=generate("one {q}", max_tokens=4))
TWO = Pipeline("two", draft=generate("two {q}", max_tokens=4), answer=generate("{draft} {q}", max_tokens=4))


def records(count: int, word: str = "q") -> list[dict[str, Any]]:
    return [{"q": f"{word}{n}"} for n in range(count)]


def together(
    home: Settings,
    parts: list[Any],
    *,
    limit: int = 2,
    policy: str = "load_aware",
    tenants: Any = None,
    **said: Any,
) -> list[RunResult]:
    async def main() -> list[RunResult]:
        clock = asyncio.get_running_loop().time
        engines = {"llm": FakeEngine(limit=limit, token_s=0.1)}
        async with Session(
            engines=engines, settings=home, clock=clock, policy=policy, tenants=tenants
        ) as session:
            return await session.run_all(parts, **said)

    return run_virtual(main())


def ends(result: RunResult) -> list[JobEnded]:
    return [event for event in result.events if isinstance(event, JobEnded)]


def test_results_come_by_pipeline_and_the_log_is_one(tmp_home: Settings) -> None:
    one, two = together(tmp_home, [(ONE, records(5)), (TWO, records(7))])
    assert [len(one.records), len(two.records)] == [5, 7]
    assert one.run_id == two.run_id
    assert [record["q"] for record in two.records] == [f"q{n}" for n in range(7)]
    assert sorted(end.job for end in ends(one)) == list(range(12))
    assert not summarize(one.events).faults
    (stored,) = list_runs(tmp_home)
    assert set(stored.manifest.pipelines) == {"one", "two"}
    assert stored.manifest.counts["done"] == 12


def test_a_failure_names_its_place_in_its_own_source(tmp_home: Settings) -> None:
    bad = [{"q": "a"}, {"wrong": "b"}, {"q": "c"}]
    one, two = together(tmp_home, [(ONE, records(3)), (TWO, bad)])
    assert not one.failures
    assert [failure.index for failure in two.failures] == [1]


def test_each_pipeline_has_options_of_its_own(tmp_home: Settings) -> None:
    parts = [(ONE, records(2), {"tenant": "acme", "priority": 5}), (TWO, records(2), {"deadline_s": 9.0})]
    result, _ = together(tmp_home, parts, tenant="shared")
    said = {(end.pipeline, end.tenant, end.priority, end.deadline is not None) for end in ends(result)}
    assert said == {("one", "acme", 5, False), ("two", "shared", 0, True)}


def test_a_start_is_staggered_by_seconds(tmp_home: Settings) -> None:
    result, *_ = together(tmp_home, [(ONE, records(2)), (TWO, records(2))], stagger_s=3.0)
    first = {
        end.pipeline: min(e.arrived for e in ends(result) if e.pipeline == end.pipeline)
        for end in ends(result)
    }
    assert first == {"one": 0.0, "two": 3.0}


def test_a_computed_start_waits_for_the_first_job_of_the_one_before(tmp_home: Settings) -> None:
    result, *_ = together(tmp_home, [(TWO, records(8)), (ONE, records(2))], stagger_s="computed")
    by_pipeline = {name: [e for e in ends(result) if e.pipeline == name] for name in ("one", "two")}
    assert min(e.arrived for e in by_pipeline["one"]) == min(e.t for e in by_pipeline["two"]) > 0


def test_a_pipeline_without_records_lets_the_next_one_start(tmp_home: Settings) -> None:
    results = together(tmp_home, [(ONE, []), (TWO, records(2))], stagger_s="computed")
    assert [len(result.records) for result in results] == [0, 2]


def test_functions_only_run_together_too() -> None:
    hello = Pipeline("hello", line=template("Hello, {name}!"))
    results = sage.run_all([(hello, [{"name": "Ada"}]), (hello, [{"name": "Alan"}, {}])], record=False)
    assert [len(result.records) for result in results] == [1, 1]
    assert results[1].failures[0].index == 1


def test_a_source_that_raises_ends_all_and_is_named(tmp_home: Settings) -> None:
    def broken() -> Any:
        yield {"q": "a"}
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        together(tmp_home, [(ONE, broken()), (TWO, records(50))])
    assert list_runs(tmp_home)[0].manifest.status == "partial"


@pytest.mark.parametrize(
    ("parts", "said", "message"),
    [
        ([], {}, "no pipeline to run"),
        ([(ONE,)], {}, r"part 0 is a 'tuple', expected \(pipeline, records\)"),
        ([(ONE, []), "two"], {}, "part 1 is a 'str'"),
        ([(ONE, [], {"tennant": "a"})], {}, "unknown option 'tennant': did you mean 'tenant'"),
        ([(ONE, [], 3)], {}, "its options are 3"),
        (
            [(ONE, []), (Pipeline("one", x=template("{q}")), [])],
            {},
            "two pipelines that differ are named 'one'",
        ),
        ([(ONE, [], {"max_inflight": 0})], {}, "max_inflight is 0"),
        ([(ONE, [], {"deadline_s": -1})], {}, "deadline_s is -1, expected seconds above 0"),
        ([(ONE, [])], {"stagger_s": -2}, "stagger_s is -2"),
        ([(ONE, [])], {"stagger_s": "later"}, "stagger_s is 'later', expected seconds"),
    ],
)
def test_what_cannot_be_is_refused(
    parts: list[Any], said: dict[str, Any], message: str, tmp_home: Settings
) -> None:
    with pytest.raises(InputError, match=message):
        together(tmp_home, parts, **said)


# ---- isolation: SCHEDULING's invariant 6, with the real session, in virtual time


def p99(result: RunResult, tenant: str) -> float:
    times = sorted(
        end.t - end.arrived for end in ends(result) if end.tenant == tenant and end.outcome == "done"
    )
    return times[int(0.99 * (len(times) - 1))]


def longest(result: RunResult) -> float:
    return max(event.t - event.dispatched for event in result.events if isinstance(event, TaskEnded))


@pytest.mark.parametrize("share", ["weighted_fair", "fair_pipelines"])
def test_a_flood_does_not_move_the_tail_of_a_tenant_below_its_share(share: str, tmp_path: Path) -> None:
    policy = f"order=job_fifo,share={share}"
    calm = (ONE, records(400, "calm"), {"tenant": "calm", "max_inflight": 2})
    flood = (TWO, records(900, "flood"), {"tenant": "flood", "max_inflight": 200})
    alone, *_ = together(Settings(home=tmp_path / "alone"), [calm], limit=8, policy=policy)
    shared, *_ = together(Settings(home=tmp_path / "shared"), [calm, flood], limit=8, policy=policy)
    assert p99(shared, "calm") <= 1.2 * p99(alone, "calm") + longest(shared)
    unfair, *_ = together(Settings(home=tmp_path / "unfair"), [calm, flood], limit=8, policy="fifo")
    assert p99(unfair, "calm") > 1.2 * p99(alone, "calm") + longest(unfair)


# ---- tenants


def test_a_tenants_rate_is_kept_though_the_policy_names_none(tmp_home: Settings) -> None:
    tenants = {"paid": {"weight": 1}, "capped": {"weight": 1, "tokens_per_s": 10, "burst_tokens": 10}}
    parts = [
        (ONE, records(40), {"tenant": "paid"}),
        (ONE, records(40, "c"), {"tenant": "capped", "max_inflight": 1}),
    ]
    result, _ = together(tmp_home, parts, limit=64, tenants=tenants)
    last = {name: max(e.t for e in ends(result) if e.tenant == name) for name in ("paid", "capped")}
    used = sum(
        e.prompt_tokens + e.completion_tokens
        for e in result.events
        if isinstance(e, TaskEnded) and e.job in {end.job for end in ends(result) if end.tenant == "capped"}
    )
    assert last["paid"] < 1.0
    assert used / last["capped"] <= 10 * 1.15 + 10 / last["capped"]
    held = {hold.rule for end in ends(result) if end.tenant == "capped" for hold in end.held}
    assert held == {"token_bucket"}


def test_a_tenants_own_rate_replaces_the_policys(tmp_home: Settings) -> None:
    policy = "admit=token_bucket(rate=1,burst_s=1,wait_s=1)"
    tenants = {"rich": Tenant(tokens_per_s=1e6)}
    parts = [(ONE, records(20), {"tenant": "rich", "max_inflight": 1})]
    result, *_ = together(tmp_home, parts, policy=policy, tenants=tenants)
    assert not any(end.held for end in ends(result))


def test_whoever_is_above_its_rate_is_told_when_to_come_again(tmp_home: Settings) -> None:
    async def main() -> Rejected:
        clock = asyncio.get_running_loop().time
        tenants = {"capped": Tenant(tokens_per_s=0.1, burst_tokens=1)}
        engines = {"llm": FakeEngine(limit=2)}
        async with Session(engines=engines, settings=tmp_home, clock=clock, tenants=tenants) as session:
            await session.call(ONE, {"q": "first"}, tenant="capped")
            with pytest.raises(Rejected) as caught:
                await session.call(ONE, {"q": "second"}, tenant="capped")
            return caught.value

    rejected = run_virtual(main())
    assert rejected.retry_after_s is not None
    assert rejected.retry_after_s > 30
    assert "above its 0.1 tokens per second" in str(rejected)


def test_jobs_have_the_priority_of_their_tenant_unless_they_say_theirs(tmp_home: Settings) -> None:
    tenants = {"vip": {"weight": 1, "priority": "interactive"}}
    parts = [(ONE, records(1), {"tenant": "vip"}), (TWO, records(1), {"tenant": "vip", "priority": -3})]
    result, _ = together(tmp_home, parts, tenants=tenants)
    assert {end.pipeline: end.priority for end in ends(result)} == {"one": 10, "two": -3}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"acme": {}}, "tenant 'acme' has no weight; say weight = 1"),
        ({"acme": {"weight": 0}}, "tenant 'acme': a tenant's weight is 0, expected a number above 0"),
        ({"acme": {"weight": "2"}}, "weight is '2'"),
        ({"acme": {"weight": True}}, "weight is True"),
        ({"acme": {"weight": 1, "reserved": -1}}, "reserved calls are -1"),
        ({"acme": {"weight": 1, "reserved": 1.5}}, "reserved calls are 1.5"),
        ({"acme": {"weight": 1, "tokens_per_s": 0}}, "tokens_per_s is 0, expected a number above 0"),
        ({"acme": {"weight": 1, "burst_tokens": 9}}, "burst_tokens is 9 without tokens_per_s"),
        ({"acme": {"weight": 1, "priority": "hgih"}}, "priority 'hgih' is neither"),
        ({"acme": {"wieght": 1}}, "unknown setting 'wieght': did you mean 'weight'"),
        ({"acme": 3}, "tenant 'acme' is 3, expected a table"),
        ([1], r"tenants are \[1\], expected a table"),
    ],
)
def test_tenants_that_cannot_be_are_refused_by_name(said: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tenants_from(said)


def test_tenants_stand_in_sage_toml_and_in_files(tmp_path: Path) -> None:
    toml = "[tenants.acme]\nweight = 2\ntokens_per_s = 500\npriority = 'batch'\n"
    yaml = "tenants:\n  acme: {weight: 2, tokens_per_s: 500, priority: batch}\n"
    (tmp_path / "sage.toml").write_text(toml)
    (tmp_path / "t.yaml").write_text(yaml)
    expected = {"acme": Tenant(weight=2, tokens_per_s=500, priority=-10)}
    assert Settings.load(tmp_path).tenants == expected
    assert read_tenants(tmp_path / "sage.toml") == read_tenants(tmp_path / "t.yaml") == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.toml", "[tenants.acme]\n", "tenant 'acme' has no weight"),
        ("t.toml", "[tenants", "is not TOML"),
        ("t.yaml", "acme: {weight: 1}\n", "expected a table 'tenants'"),
        ("t.yaml", "tenants: {}\npolicy: fifo\n", "unknown entry 'policy'"),
        ("t.yaml", "tenants: [1]\n", "expected a table of name"),
    ],
)
def test_a_bad_file_of_tenants_is_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_tenants(tmp_path / name)
    assert name in str(caught.value)


# ---- as typed


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text(
            f"pipeline: {name}\nsteps:\n  answer: {{generate: '{name} {{q}}', max_tokens: 4}}\n"
        )
    (tmp_path / "q.jsonl").write_text("".join(f'{{"q": "q{n}"}}\n' for n in range(3)))
    (tmp_path / "fast.toml").write_text('name = "f"\nsource = "s"\n[fixed]\nfirst_token_s = 0.001\n')

    def run(*args: str) -> int:
        line = ["run", "a.yaml", "b.yaml", "--engine", "llm=emulated:fast.toml", *args]
        return exit_code(lambda: app(args=line, prog_name="sage"))

    return run


def test_two_pipelines_are_run_as_typed(
    typed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.yaml").write_text("tenants: {x: {weight: 3}, y: {weight: 1}}\n")
    code = typed(
        "--input", "q.jsonl", "--output", "a.jsonl", "--output", "b.jsonl", "--share", "weighted_fair",
        "--tenants", "t.yaml", "--tenant", "x", "--tenant", "y", "--stagger-s", "computed", "--json",
    )  # fmt: skip
    assert code == 0
    shown = capsys.readouterr()
    assert '"written": 3' in shown.out
    assert "6 done" in shown.err
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 3
    (stored,) = list_runs(Settings.load())
    tenants = {e.pipeline: e.tenant for e in stored.events() if isinstance(e, JobEnded)}
    assert tenants == {"a": "x", "b": "y"}
    assert stored.manifest.policy == "share=weighted_fair"


def test_failed_records_of_several_are_kept_with_their_pipeline(
    typed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = ("--output", "a.jsonl", "--output", "b.jsonl")
    code = typed("--input", "q.jsonl", *outputs, "--errors", "e.jsonl", "--timeout-s", "0.0001")
    assert code == 1
    assert '"pipeline":"b"' in (tmp_path / "e.jsonl").read_text()
    assert "6 failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "2 pipelines have 0 inputs; give --input once for each"),
        (["--input", "q.jsonl", "--output", "o", "--output", "o"], "are the same file"),
        (["--input", "q.jsonl", "--output", "o"], "2 pipelines have 1 outputs"),
        (["--input", "q.jsonl", "--ordered"], "--ordered is for one pipeline; there are 2"),
        (["--input", "q.jsonl", "--set", "q=1"], "--set is for one pipeline"),
        (["--input", "q.jsonl", "--stagger-s", "soon"], "stagger_s is 'soon'"),
        (["--input", "q.jsonl", "--share", "wighted_fair"], "did you mean 'weighted_fair'"),
        (["--input", "q.jsonl", "--policy", "share=none", "--share", "none"], "says 'share' twice"),
        (["--input", "q.jsonl", "--tenants", "none.yaml"], "none.yaml"),
        (["--input", "q.jsonl", "--json", "--deadline-s", "-3"], "deadline_s is -3"),
        (["--input", "q.jsonl", "--max-inflight", "0"], "Invalid value for '--max-inflight'"),
    ],
)
def test_what_cannot_be_run_together_is_one_line_and_exit_2(
    options: list[str], message: str, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(*options) == 2
    assert message in capsys.readouterr().err


def test_a_run_outside_a_session_takes_tenants_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    engines = {"llm": FakeEngine()}
    result = ONE.run(records(1), engines=engines, tenants={"vip": {"weight": 1, "priority": 7}}, tenant="vip")
    assert [end.priority for end in ends(result)] == [7]


def test_what_is_stopped_stops_though_jobs_waited_for_each_others_calls(tmp_home: Settings) -> None:
    same = Pipeline("same", answer=generate("one {q}", max_tokens=4))  # asks what ONE asks

    async def main() -> float:
        loop = asyncio.get_running_loop()
        engines = {"llm": FakeEngine(limit=1, token_s=0.1)}
        async with (
            Session(engines=engines, settings=tmp_home, clock=loop.time) as session,
            asyncio.TaskGroup() as group,
        ):
            running = group.create_task(session.run_all([(ONE, records(100)), (same, records(100))]))
            await asyncio.sleep(1.0)
            running.cancel()
            await asyncio.wait([running])
            return loop.time()

    assert run_virtual(main()) == pytest.approx(1.0)
    (stored,) = list_runs(tmp_home)
    assert stored.manifest.status == "partial"
