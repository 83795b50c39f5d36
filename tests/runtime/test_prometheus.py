"""What a running session tells Prometheus: valid text, and the same counts as the log."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage import EngineError, Pipeline, Session
from sage.events import JobEnded
from sage.ops import embed, generate
from sage.runtime.prometheus import EventCounts, exposition
from sage.runtime.runs import list_runs
from sage.scheduling.views import EndpointView, Snapshot
from sage.settings import Settings
from sage.testing import FakeEngine, run_virtual

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"(?P<name>{NAME})(?:\{{(?P<labels>.*)\}})? (?P<value>-?[0-9.e+-]+)")
LABEL = re.compile(r'(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)="(?P<value>(?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Samples:
    """A strict reader of the exposition format: HELP and TYPE before the samples of each family, all together."""
    assert text.endswith("\n")
    found: Samples = {}
    family, helped = "", set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, _, about = line[7:].partition(" ")
            assert name not in helped
            assert about
            helped.add(name)
        elif line.startswith("# TYPE "):
            family, kind = line[7:].split(" ")
            assert family in helped
            assert kind in {"counter", "gauge"}
            assert family.endswith("_total") == (kind == "counter")
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample is not None, line
            assert sample["name"] == family
            said = sample["labels"] or ""
            labels = list(LABEL.finditer(said))
            assert "".join(label[0] for label in labels) == said
            key = frozenset(
                (label["name"], re.sub(r"\\.", lambda m: UNESCAPED[m[0]], label["value"])) for label in labels
            )
            assert (family, key) not in found
            found[family, key] = float(sample["value"])
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def session_of(settings: Settings, main: Any, **arguments: Any) -> Any:
    async def opened() -> Any:
        clock = asyncio.get_running_loop().time
        engines = {
            "llm": FakeEngine(name="fake:llm", limit=2, ttft_s=1.0, answer=lambda _: "a b c",
                              faults=[EngineError("x", fault="failed")]),
            "embedder": FakeEngine(name="fake:e", text_s=0.1),
        }  # fmt: skip
        async with Session(engines=engines, settings=settings, clock=clock, **arguments) as session:
            return await main(session)

    return run_virtual(opened())


PIPELINE = Pipeline("rag", vector=embed("{q}"), answer=generate("{q}"))


def test_counters_say_what_happened(tmp_home: Settings) -> None:
    async def main(session: Session) -> str:
        await session.run(PIPELINE, [{"q": str(n)} for n in range(5)])
        await session(PIPELINE, q="6")
        return session.prometheus()

    samples = parse(session_of(tmp_home, main))
    assert value(samples, "sage_jobs_total", pipeline="rag", outcome="done") == 6
    assert value(samples, "sage_tasks_total", pool="llm", endpoint="fake:llm", outcome="done") == 6
    assert value(samples, "sage_tasks_total", pool="llm", endpoint="fake:llm", outcome="failed") == 1
    assert value(samples, "sage_tokens_total", pool="llm", endpoint="fake:llm", kind="completion") == 18
    assert value(samples, "sage_retries_total", endpoint="fake:llm") == 1
    assert value(samples, "sage_endpoint_limit", pool="llm", endpoint="fake:llm") == 2


def test_counting_twice_changes_nothing(tmp_home: Settings) -> None:
    async def main(session: Session) -> tuple[str, str]:
        await session(PIPELINE, q="1")
        return session.prometheus(), session.prometheus()

    first, second = session_of(tmp_home, main)
    assert first == second


@pytest.mark.slow
def test_counts_are_those_of_the_log(tmp_home: Settings) -> None:
    async def main(session: Session) -> str:
        for _ in range(3):
            session.prometheus()
            await session.run(PIPELINE, [{"q": str(n)} for n in range(250)])
        return session.prometheus()

    samples = parse(session_of(tmp_home, main))
    logged = sum(isinstance(event, JobEnded) for run in list_runs(tmp_home) for event in run.events())
    assert value(samples, "sage_jobs_total", pipeline="rag", outcome="done") == logged == 750


def test_a_scrape_in_the_middle_sees_queue_and_running_calls(tmp_home: Settings) -> None:
    async def main(session: Session) -> str:
        async with asyncio.TaskGroup() as group:
            run = group.create_task(session.run(PIPELINE, [{"q": str(n)} for n in range(10)]))
            await asyncio.sleep(1.5)
            text = session.prometheus()
            await run
        return text

    samples = parse(session_of(tmp_home, main))
    assert value(samples, "sage_tasks_running") == 2
    assert value(samples, "sage_tasks_queued", pool="llm") > 0
    assert value(samples, "sage_jobs_admitted") > 0
    assert value(samples, "sage_endpoint_in_flight", pool="llm", endpoint="fake:llm") == 2


def test_without_a_log_there_are_no_counters(tmp_home: Settings) -> None:
    async def main(session: Session) -> str:
        await session(PIPELINE, q="1")
        return session.prometheus()

    text = session_of(tmp_home, main, record=False)
    assert not any(name.endswith("_total") for name, _ in parse(text))


@pytest.mark.slow
@given(st.text(), st.text())
def test_any_name_is_a_label(pool: str, endpoint: str) -> None:
    counts = EventCounts()
    counts.add([JobEnded(1.0, 0, pool, "done", 0.0)])
    view = EndpointView(name=endpoint, pool=pool, limit=3)
    text = exposition(Snapshot(0, 0, {pool: 1}, 0, 0, (view,)), counts)
    lines = text.split("\n")
    assert all("\r" not in line or line.count('"') >= 2 for line in lines)
    samples = parse_lines(text)
    assert value(samples, "sage_endpoint_limit", pool=pool, endpoint=endpoint) == 3
    assert value(samples, "sage_jobs_total", pipeline=pool, outcome="done") == 1


def parse_lines(text: str) -> Samples:
    """The format ends lines with a line feed only; Python's splitlines also breaks at others."""
    odd = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
    private = {ord(letter): 0xE000 + number for number, letter in enumerate(odd)}
    back = {there: here for here, there in private.items()}
    return {
        (name, frozenset((label, said.translate(back)) for label, said in labels)): found
        for (name, labels), found in parse(text.translate(private)).items()
    }
