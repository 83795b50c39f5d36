"""How do throughput and latency change with the number of jobs in flight?"""

from __future__ import annotations

from collections.abc import Iterator

from sage.bench.experiments import EXPERIMENTS, Preset, Suite, closed
from sage.bench.results import Axis
from sage.bench.rig import Setup


def _cells(preset: Preset) -> Iterator[tuple[dict[str, Axis], Setup]]:
    for workload in preset.workloads:
        for system in preset.systems:
            for clients in preset.concurrency:
                axes: dict[str, Axis] = {"workload": workload, "system": system, "concurrency": clients}
                yield axes, closed(preset, workload, clients=clients, system=system)


EXPERIMENTS["concurrency"] = Suite("how throughput and latency change with the jobs in flight", _cells)
