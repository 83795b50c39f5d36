"""What do pipelines cost each other when several run at once? Each brings its own clients, so the load grows."""

from __future__ import annotations

from collections.abc import Iterator

from sage.bench.experiments import EXPERIMENTS, Preset, Suite, closed
from sage.bench.results import Axis
from sage.bench.rig import Setup


def _cells(preset: Preset) -> Iterator[tuple[dict[str, Axis], Setup]]:
    clients = preset.concurrency[0]
    for workload in preset.workloads:
        for policy in preset.policies:
            for pipelines in preset.pipelines:
                axes: dict[str, Axis] = {"workload": workload, "policy": policy, "pipelines": pipelines}
                yield axes, closed(preset, workload, clients=clients, policy=policy, pipelines=pipelines)


EXPERIMENTS["pipelines"] = Suite("what pipelines cost each other when several run at once", _cells)
