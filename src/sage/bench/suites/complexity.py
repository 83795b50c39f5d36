"""How do throughput and latency change with what a job is made of?"""

from __future__ import annotations

from collections.abc import Iterator

from sage.bench.experiments import EXPERIMENTS, Preset, Suite, closed, size_of
from sage.bench.results import Axis
from sage.bench.rig import Setup


def _cells(preset: Preset) -> Iterator[tuple[dict[str, Axis], Setup]]:
    clients = preset.concurrency[0]
    for workload in preset.workloads:
        for system in preset.systems:
            for complexity in preset.complexity:
                axes: dict[str, Axis] = {"workload": workload, "system": system, "complexity": complexity}
                size = size_of(preset, complexity)
                yield axes, closed(preset, workload, clients=clients, system=system, size=size)


EXPERIMENTS["complexity"] = Suite("how throughput and latency change with what a job is made of", _cells)
