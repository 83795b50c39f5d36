"""What does it gain to start pipelines one after the other, the offered load being equal?

Each pipeline sends bursts of jobs at fixed times. Without a delay, the bursts of all fall on the same moments; with
one, they are spread. Every pipeline offers the same jobs at the same rate, whatever the delay.
"""

from __future__ import annotations

from collections.abc import Iterator

from sage.bench.arrivals import Arrivals
from sage.bench.experiments import EXPERIMENTS, Preset, Suite, size_of
from sage.bench.results import Axis
from sage.bench.rig import Load, Setup
from sage.errors import InputError


def _cells(preset: Preset) -> Iterator[tuple[dict[str, Axis], Setup]]:
    bursts = preset.bursts
    if bursts is None:
        raise InputError("experiment 'stagger' needs 'bursts': their size, period_s and count")
    arrivals = Arrivals(
        process="burst",
        rate=bursts.size / bursts.period_s,
        size=bursts.size,
        jobs=bursts.size * (bursts.count + 1),
    )
    for workload in preset.workloads:
        for pipelines in preset.pipelines:
            for delay_s in preset.delays_s:
                axes: dict[str, Axis] = {"workload": workload, "pipelines": pipelines, "delay_s": delay_s}
                yield (
                    axes,
                    Setup(
                        workload=workload,
                        size=size_of(preset, preset.complexity[0]),
                        loads=tuple(
                            Load(arrivals=arrivals, start_s=number * delay_s) for number in range(pipelines)
                        ),
                        warmup=bursts.size,
                        policy=preset.policies[0],
                    ),
                )


EXPERIMENTS["stagger"] = Suite("what a delay between the starts of pipelines gains at equal load", _cells)
