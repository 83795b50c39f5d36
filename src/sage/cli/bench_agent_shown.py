"""How ``sage bench agent`` shows what it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sage.cli.output import shown_seconds

if TYPE_CHECKING:
    from sage.bench.agent_items import AgentFigures, Kind
    from sage.bench.agent_report import AgentReport
    from sage.bench.stats import Mean, Share

__all__ = ["COSTS", "figure_names", "print_report", "shown_costs", "shown_figure"]

#: Kind -> the columns besides cost: (title, name of a share or mean).
COLUMNS = {
    "selection": ("hit@1", "hit@5", "recall@5", "complete@5", "mrr", "none_accuracy"),
    "timing": ("accuracy", "macro_f1", "over_call", "under_call"),
    "planning": ("node_f1", "edge_f1", "edge_f1_linked", "ordered_f1", "exact", "simulated"),
}


def print_report(report: AgentReport) -> None:
    """A table for each part, with confusion and differences below it."""
    from sage.cli.output import table

    for part in dict.fromkeys(cell.part for cell in report.cells):
        cells = [cell for cell in report.cells if cell.part == part]
        names = figure_names(report.kind, cells)
        print(f"{report.data} {part}: {cells[0].n:,} tasks of {report.kind}; percent with 95 % intervals")
        rows = [
            (cell.strategy, *(shown_figure(cell, name) for name in names), *shown_costs(cell))
            for cell in cells
        ]
        print(table(("strategy", *names, *COSTS), rows))
        for cell in cells:
            if cell.confusion:
                print(f"{cell.strategy}, right -> said: {_confusion(cell)}")
        for one in report.differences:
            if one.part == part and one.gain.mean is not None:
                print(f"{one.one} - {one.other}: {_gain(one.gain)}")
        print()
    print(", ".join(f"{pool} {address}" for pool, address in report.engines.items()))


def figure_names(kind: Kind, cells: Sequence[AgentFigures]) -> list[str]:
    """The figures of a kind that some of these cells have."""
    return [name for name in COLUMNS[kind] if any(name in {**cell.shares, **cell.means} for cell in cells)]


def shown_figure(cell: AgentFigures, name: str) -> str:
    """A share or mean of a cell in percent, with its interval."""
    if name in cell.shares:
        return _share(cell.shares[name])
    return _mean(cell.means[name]) if name in cell.means else "-"


#: What a task costs, as ``shown_costs`` gives it.
COSTS = ("unparsable", "invented", "median", "tokens", "calls")


def shown_costs(cell: AgentFigures) -> tuple[str, ...]:
    """What could not be read or was invented, and what a task costs: see ``COSTS``."""
    return (
        f"{100 * (cell.unparsable.share or 0):.1f} %",
        f"{100 * (cell.invented.share or 0):.1f} %",
        shown_seconds(cell.latency_s.p50),
        f"{cell.prompt_tokens + cell.completion_tokens:,.0f}",
        f"{cell.llm_calls + cell.embed_calls:.1f}",
    )


def _confusion(cell: AgentFigures) -> str:
    return "; ".join(
        f"{right} -> " + ", ".join(f"{said} {count}" for said, count in sorted(row.items()))
        for right, row in cell.confusion.items()
    )


def _share(share: Share) -> str:
    if share.share is None or share.low is None or share.high is None:
        return "-"
    return f"{100 * share.share:.1f} ({100 * share.low:.1f}-{100 * share.high:.1f})"


def _mean(mean: Mean) -> str:
    if mean.mean is None:
        return "-"
    interval = (
        "" if mean.low is None or mean.high is None else f" ({100 * mean.low:.1f}-{100 * mean.high:.1f})"
    )
    return f"{100 * mean.mean:.1f}{interval}"


def _gain(mean: Mean) -> str:
    assert mean.mean is not None
    interval = "" if mean.low is None else f" ({100 * mean.low:+.1f} to {100 * (mean.high or 0.0):+.1f})"
    return f"{100 * mean.mean:+.1f} points{interval}"
