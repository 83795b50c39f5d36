"""Every section, in the order of the report: importing this fills the registry."""

# ruff: noqa: I001 - the order is that of the report

from __future__ import annotations

from sage.bench.report.sections import concurrency
from sage.bench.report.sections import policies
from sage.bench.report.sections import complexity
from sage.bench.report.sections import pipelines
from sage.bench.report.sections import stagger
from sage.bench.report.sections import nodes
from sage.bench.report.sections import serve
from sage.bench.report.sections import agents
from sage.bench.report.sections import overhead
from sage.bench.report.sections import peers

__all__ = [
    "agents",
    "complexity",
    "concurrency",
    "nodes",
    "overhead",
    "peers",
    "pipelines",
    "policies",
    "serve",
    "stagger",
]
