"""Measurements that are ready to run: each a module here and a command of ``sage bench``."""

from __future__ import annotations

from dataclasses import dataclass

from sage.registry import Registry

__all__ = ["SUITES", "Suite"]


@dataclass(frozen=True, slots=True)
class Suite:
    """One measurement, as ``sage bench list`` shows it."""

    measures: str
    needs: str


SUITES: Registry[Suite] = Registry("suite")
SUITES["retrieval"] = Suite(
    measures="whether search finds the right passage, and whether the model then answers rightly",
    needs="a folder with passages.jsonl and questions.jsonl",
)
SUITES["policies"] = Suite(
    measures="who is done in time under which policy and load, weighed by jobs, by work and by the worst class",
    needs="nothing: engines are emulated, in virtual time",
)
for _name, _measures in {
    "concurrency": "how throughput and latency change with the jobs in flight, beside a plain asyncio loop",
    "complexity": "the same by what a job is made of: light, medium, heavy",
    "pipelines": "what pipelines cost each other when several run at once",
    "stagger": "what a delay between the starts of pipelines gains, at equal load",
    "nodes": "how throughput grows with nodes, and how evenly they are used",
}.items():
    SUITES[_name] = Suite(
        measures=_measures, needs="nothing: engines are emulated; --engines embedded needs models"
    )
SUITES["serve"] = Suite(
    measures="what a client of a server, or of a pipeline, sees under load: TTFT, TPOT, latency, goodput",
    needs="the URL of an OpenAI-compatible server, or a pipeline and records",
)
for _kind, _measures in {
    "selection": "which tools an agent chooses, by several strategies, and what that costs the engines",
    "planning": "which calls it plans, and how they depend on each other",
    "timing": "whether it calls, asks, answers or declines",
}.items():
    SUITES[f"agent {_kind}"] = Suite(
        measures=_measures, needs="--data bfcl, or a folder in one of the formats of docs/agents.md"
    )
