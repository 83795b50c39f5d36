"""``sage explain RUN --under POLICY``: what the run would have been, replayed from its log in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sage.cli.output import Bar, print_json, shown_seconds, table

if TYPE_CHECKING:
    from sage.bench.replay import Replay
    from sage.bench.simulation_figures import CellFigures
    from sage.runtime.runs import StoredRun

__all__ = ["explain_under"]

HEADER = (
    "policy", "jobs done", "rejected", "in time", "by work", "worst class", "mean", "p50", "p95", "p99", "jobs/s",
)  # fmt: skip

#: Figures that are compared, in the words of the table.
NAMES = {
    "mean_s": "mean",
    "p50_s": "p50",
    "p95_s": "p95",
    "p99_s": "p99",
    "in_time": "in time",
    "jobs_per_s": "jobs/s",
}


def explain_under(stored: StoredRun, policies: Sequence[str], profile: str | None, *, as_json: bool) -> None:
    """Replay a run and print what came of it."""
    from sage.bench.replay import replay

    with ExitStack() as stack:
        bar: Bar | None = None

        def progress(_number: int, total: int) -> None:
            nonlocal bar
            bar = bar or stack.enter_context(Bar("replayed jobs", total))
            bar.advance()
            bar.tick()

        found = replay(stored, policies, profile=profile, progress=progress)
    if as_json:
        print_json(found)
    else:
        print(_shown(found))


def _shown(found: Replay) -> str:
    own = found.rows[0]
    recorded = table(HEADER, [_cells(found.recorded)])
    replayed = table(HEADER, [_cells(row.figures, " (its own)" if row.is_own else "") for row in found.rows])
    errors = ", ".join(
        f"{NAMES[name]} {round(100 * off, 1) + 0.0:+.1f} %" for name, off in found.error.items()
    )
    assumed = "\n".join(f"  - {text}" for text in found.assumptions)
    return (
        f"run {found.run_id}, as it was ({found.recorded_kind})\n{recorded}\n\n"
        f"replayed, not {found.recorded_kind}: its {sum(own.figures.jobs.values())} jobs in virtual time, through the "
        f"same scheduler\n{replayed}\n\n"
        f"error of the replay, its own policy against what was {found.recorded_kind}: {errors or 'nothing to compare'}\n"
        f"assumed:\n{assumed}"
    )


def _cells(figures: CellFigures, note: str = "") -> tuple[str, ...]:
    e2e = figures.e2e_sched_s
    return (
        f"{figures.policy}{note}",
        f"{figures.jobs['done']} of {sum(figures.jobs.values())}",
        str(figures.rejected),
        _percent(figures.in_time.share),
        _percent(figures.work_in_time),
        _percent(figures.worst_class),
        *(shown_seconds(value) for value in (e2e.mean, e2e.p50, e2e.p95, e2e.p99)),
        "-" if figures.jobs_per_s is None else f"{figures.jobs_per_s:.2f}",
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
