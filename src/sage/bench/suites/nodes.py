"""How does throughput grow with nodes? Once with a fixed number of jobs in flight, once with as many per node.

With as many per node, each node gets as many jobs in all, so that every cell is as long.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from sage.bench.experiments import EXPERIMENTS, Preset, Suite, closed
from sage.bench.results import Axis
from sage.bench.rig import Setup


def _cells(preset: Preset) -> Iterator[tuple[dict[str, Axis], Setup]]:
    for workload in preset.workloads:
        for scaling in preset.scaling:
            for nodes in preset.nodes:
                times = nodes if scaling == "per_node" else 1
                scaled = msgspec.structs.replace(preset, jobs=preset.jobs * times)
                axes: dict[str, Axis] = {"workload": workload, "scaling": scaling, "nodes": nodes}
                yield axes, closed(scaled, workload, clients=preset.concurrency[0] * times, nodes=nodes)


EXPERIMENTS["nodes"] = Suite("how throughput grows with nodes", _cells)
