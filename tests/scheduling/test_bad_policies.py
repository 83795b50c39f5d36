"""A member of a policy that raises or answers nonsense ends its run, by name, and nothing hangs."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from sage import Pipeline, PolicyError, Session
from sage.cli import app, exit_code
from sage.engines.base import GenerateRequest, Reply
from sage.errors import EngineError
from sage.events import JobEnded, RunEnded
from sage.ops import embed, generate
from sage.runtime.runs import list_runs
from sage.runtime.virtual import run_virtual
from sage.scheduling.batch import Window
from sage.scheduling.limit import Static
from sage.scheduling.place import LeastLoaded
from sage.scheduling.policy import AXES, parse_policy
from sage.scheduling.rules import Stagger
from sage.scheduling.share import OneLane
from sage.scheduling.views import BatchLimits
from sage.settings import Settings
from sage.testing import FakeEngine

CHAT = Pipeline("chat", draft=generate("{q}", max_tokens=4), answer=generate("{draft}", max_tokens=4))
RECORDS = [{"q": f"q{n}"} for n in range(12)]


class Fifo:
    def key(self, task: Any) -> Any:
        return (task.ready, task.id)


#: Sound members of users' own, by axis, and the method that decides.
SOUND: dict[str, tuple[type, str]] = {
    "admit": (type("Admit", (Stagger,), {}), "judge"),
    "share": (type("Share", (OneLane,), {}), "pop"),
    "order": (Fifo, "key"),
    "place": (type("Place", (LeastLoaded,), {}), "choose"),
    "limit": (type("Limit", (Static,), {}), "ended"),
    "batch": (type("Batch", (Window,), {}), "limits"),
}

#: What a method may wrongly give, by axis.
NONSENSE: dict[str, list[Any]] = {
    "admit": ["soon", math.nan, (1, 2)],
    "share": [None, 7],
    "order": [(), None, 3.0, (1.0, math.nan), ("a",), [1.0]],
    "place": ["nowhere", None, 3],
    "limit": [0, -1, 99, 1.5, True],
    "batch": [3, BatchLimits(max_items=0), BatchLimits(max_wait_s=-1.0)],
}


def bad(axis: str, answer: Any, after: int) -> type:
    """A member that decides soundly so many times, and then raises or gives an answer."""
    sound, method = SOUND[axis]
    decide = getattr(sound, method)

    def wrong(self: Any, *given: Any) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls <= after:
            return decide(self, *given)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return type("Bad", (sound,), {method: wrong, "__module__": "mine"})


def run(axis: str, home: Settings, policy: str | None = None, *, singles: bool = False, **said: Any) -> Any:
    """Twelve jobs under a policy with the member ``mine``, in virtual time, where hanging is an error."""
    pipeline = Pipeline("vectors", v=embed("{q}"), w=embed("{v}")) if axis == "batch" else CHAT

    async def main() -> Any:
        clock = asyncio.get_running_loop().time
        engines = {"llm": FakeEngine(limit=2, token_s=0.1), "embedder": FakeEngine(limit=2)}
        policy_ = policy or f"{axis}=mine"
        async with Session(engines=engines, policy=policy_, settings=home, clock=clock) as session:
            if not singles:
                return await session.run(pipeline, RECORDS, **said)
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(session.call(pipeline, one)) for one in RECORDS]
            return [one.result() for one in asked]

    return run_virtual(main())


@pytest.fixture(params=list(SOUND))
def axis(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def put(monkeypatch: pytest.MonkeyPatch, axis: str, member: type) -> None:
    monkeypatch.setitem(AXES[axis]._members, "mine", member)


def test_a_sound_member_of_ones_own_decides(
    axis: str, monkeypatch: pytest.MonkeyPatch, tmp_home: Settings
) -> None:
    put(monkeypatch, axis, type("Mine", (SOUND[axis][0],), {"__module__": "mine"}))
    assert len(run(axis, tmp_home).records) == 12


@pytest.mark.parametrize("after", [0, 5])
def test_one_that_raises_ends_the_run_by_its_name(
    axis: str, after: int, monkeypatch: pytest.MonkeyPatch, tmp_home: Settings
) -> None:
    put(monkeypatch, axis, bad(axis, ZeroDivisionError("by zero"), after if axis != "batch" else 0))
    with pytest.raises(PolicyError) as caught:
        run(axis, tmp_home)
    said = str(caught.value)
    assert f"policy '{axis}=mine'" in said
    assert f"{SOUND[axis][1]}() raised ZeroDivisionError: by zero; it saw " in said
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("axis", "answer"), [(axis, answer) for axis, answers in NONSENSE.items() for answer in answers]
)
def test_one_that_answers_nonsense_ends_the_run_with_what_it_saw(
    axis: str, answer: Any, monkeypatch: pytest.MonkeyPatch, tmp_home: Settings
) -> None:
    put(monkeypatch, axis, bad(axis, answer, 0))
    with pytest.raises(PolicyError, match=r"gave .*, expected .*; it saw "):
        run(axis, tmp_home)


def test_keys_of_different_lengths_are_nonsense(monkeypatch: pytest.MonkeyPatch, tmp_home: Settings) -> None:
    put(monkeypatch, "order", bad("order", (1.0,), 3))
    with pytest.raises(PolicyError, match="expected a tuple of 2 numbers"):
        run("order", tmp_home)


def test_the_log_says_that_the_run_failed_and_every_job_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_home: Settings
) -> None:
    put(monkeypatch, "place", bad("place", "nowhere", 4))
    with pytest.raises(PolicyError):
        run("place", tmp_home)
    (stored,) = list_runs(tmp_home)
    events = list(stored.events())
    assert events[-1] == RunEnded(events[-1].t, "failed")
    ends = [event for event in events if isinstance(event, JobEnded)]
    assert {end.job for end in ends} == set(range(12))
    assert any("place=mine" in (end.error or "") for end in ends)


def test_single_calls_fail_alike(monkeypatch: pytest.MonkeyPatch, tmp_home: Settings) -> None:
    put(monkeypatch, "order", bad("order", None, 6))
    with pytest.raises(ExceptionGroup) as caught:
        run("order", tmp_home, singles=True)
    assert caught.value.split(PolicyError)[1] is None


class Broken(FakeEngine):
    async def generate(self, request: GenerateRequest, emit: Any) -> Reply:
        await asyncio.sleep(0.5)
        raise EngineError("broken", fault="failed")


def test_calls_that_fail_after_the_policy_did_do_not_hang(
    monkeypatch: pytest.MonkeyPatch, tmp_home: Settings
) -> None:
    put(monkeypatch, "order", bad("order", None, 3))

    async def main() -> None:
        clock = asyncio.get_running_loop().time
        engines = {"llm": Broken(limit=2)}
        async with Session(engines=engines, policy="order=mine", settings=tmp_home, clock=clock) as session:
            results = [session.call(CHAT, one) for one in RECORDS[:4]]
            async with asyncio.TaskGroup() as group:
                for one in results:
                    group.create_task(one)

    with pytest.raises(BaseExceptionGroup):
        run_virtual(main())


def test_members_of_sage_are_used_as_they_are() -> None:
    from sage.scheduling.order import ORDERS, Slack
    from sage.scheduling.policy import make

    assert type(make(ORDERS, "slack")) is Slack


def test_on_the_command_line_it_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(AXES["order"], "_members", dict(AXES["order"]._members))
    (tmp_path / "mine.py").write_text(
        "from sage.scheduling.order import ORDERS\n"
        "class Mine:\n    'Nonsense.'\n    def key(self, task):\n        return 'first'\n"
        "ORDERS['mine'] = Mine\n"
    )
    (tmp_path / "chat.yaml").write_text("pipeline: chat\nsteps:\n  answer: {generate: '{q}'}\n")
    args = [
        "run",
        "chat.yaml",
        "--set",
        "q=why",
        "--engine",
        "llm=emulated:constant",
        "--output",
        "out.jsonl",
    ]
    assert (
        exit_code(
            lambda: app(args=[*args, "--import", "mine.py", "--policy", "order=mine"], prog_name="sage")
        )
        == 2
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: policy 'order=mine': its key() gave 'first', expected a tuple")
    assert "TaskView(" in line
    assert parse_policy("order=mine").order == "mine"
