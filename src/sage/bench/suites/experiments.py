"""Every experiment that can be run: importing this fills the registry."""

from __future__ import annotations

from sage.bench.experiments import EXPERIMENTS
from sage.bench.suites import complexity, concurrency, nodes, pipelines, stagger

__all__ = ["EXPERIMENTS", "complexity", "concurrency", "nodes", "pipelines", "stagger"]
