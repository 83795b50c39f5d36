"""Two experiments side by side: how much each figure changed, how sure that is, and whether it may. Pure.

Each run is one observation. Three repeats or more on both sides give the difference an interval (Welch); with fewer,
the difference stands alone and proves nothing, which is said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from sage.bench.results import Axis, StoredExperiment, read_experiment
from sage.bench.stats import Mean, welch
from sage.errors import InputError, nearest

__all__ = ["Change", "Comparison", "Gate", "Verdict", "compare", "figures_in", "parse_gate"]

_GATE = re.compile(r"(?P<figure>[a-z0-9_]+):(?P<sign>[+-])(?P<by>\d+(\.\d+)?)(?P<unit>%|ms|s|)")
_STATS = ("mean", "min", "max", "p50", "p90", "p95", "p99", "p999")

#: Figures of which less is better; of all others more is, as far as they tell good from bad.
_LESS = re.compile(r"(ttft|tpot|itl|tbt|e2e|queue|lag|adjusted|failed|not_done|cpu)")

Verdict = Literal["passed", "failed", "unsure"]


class Gate(msgspec.Struct, frozen=True):
    """A change that must not be: a figure more than so much above (or below) what it was."""

    figure: str
    by: float  # at least 0: a share of the old figure, or in its own unit
    above: bool  # or below
    is_share: bool
    text: str  # as it was said


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One figure on both sides. ``share`` and its interval are of the old one."""

    figure: str
    axes: Mapping[str, Axis]
    old: float | None  # mean over its runs
    new: float | None
    runs: tuple[int, int]
    share: float | None = None  # (new - old) / old
    low: float | None = None  # of the share, 95 %
    high: float | None = None
    sure: Literal["better", "worse", "no difference shown", ""] = ""  # "": too few runs to say


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A gate, and what became of it at one point."""

    gate: str
    axes: Mapping[str, Axis]
    verdict: Verdict
    text: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What two experiments have to tell of each other."""

    old: str
    new: str
    changes: tuple[Change, ...]
    gates: tuple[Checked, ...] = ()
    notes: tuple[str, ...] = ()  # why they may not be comparable

    @property
    def failed(self) -> bool:
        """Whether a gate was."""
        return any(gate.verdict == "failed" for gate in self.gates)

    @property
    def unsure(self) -> bool:
        """Whether of a gate nobody can tell."""
        return any(gate.verdict == "unsure" for gate in self.gates)


def parse_gate(text: str) -> Gate:
    """A gate as ``FIGURE:+5%``, ``FIGURE:-5%`` or ``FIGURE:+20ms``.

    >>> gate = parse_gate("e2e_p95:+5%")
    >>> gate.by, gate.above, gate.is_share
    (0.05, True, True)

    Raises:
        InputError: it is not of that form.
    """
    found = _GATE.fullmatch(text.strip())
    if found is None:
        raise InputError(
            f"--fail-if {text!r}: expected FIGURE:+5% (more than 5 % above), FIGURE:-5% (below) or FIGURE:+20ms"
        )
    by = float(found["by"]) * {"%": 0.01, "ms": 0.001}.get(found["unit"], 1.0)
    return Gate(found["figure"], by, found["sign"] == "+", found["unit"] == "%", text.strip())


def figures_in(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of a ``summary.json`` by the names that they are compared by.

    ``e2e_s: {p95: …}`` is ``e2e_p95``; numbers keep their name; attainment and goodput, failed and all requests have
    names of their own. None: the sample does not carry it.
    """
    found: dict[str, float | None] = {}
    for name, value in summary.items():
        if isinstance(value, Mapping) and "p50" in value:
            found |= {f"{name.removesuffix('_s')}_{stat}": value.get(stat) for stat in _STATS}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(value)
    goodput = summary.get("goodput")
    if isinstance(goodput, Mapping):
        found["goodput_per_s"] = goodput.get("per_s")
        found["attainment"] = (goodput.get("attainment") or {}).get("share")
    outcomes = summary.get("requests") or summary.get("jobs")
    if isinstance(outcomes, Mapping):
        found["failed"] = float(sum(outcomes.values()) - outcomes.get("done", 0))
    return found


def compare(old: Path, new: Path, *, figures: Sequence[str] = (), gates: Sequence[Gate] = ()) -> Comparison:
    """Compare two experiments, point by point: cells with equal axes, over their repeats.

    Args:
        old: the folder of one.
        new: and of the other, whose figures are judged.
        figures: which; none: the usual ones that both have.
        gates: what must not be.

    Raises:
        InputError: a folder cannot be read, they have no point in common, one is simulated and the other is not, or
            a figure is in neither.
    """
    ours, theirs = read_experiment(new), read_experiment(old)
    if ours.manifest.kind != theirs.manifest.kind:
        raise InputError(
            f"{old} is {theirs.manifest.kind}, {new} is {ours.manifest.kind}: these are never compared"
        )
    points, others = _points(ours), _points(theirs)
    common = [key for key in others if key in points]
    if not common:
        raise InputError(
            f"{old} and {new} have no point in common: their cells differ in {_axes_of(points, others)}"
        )
    known = sorted({name for key in common for one in (*points[key], *others[key]) for name in one})
    for name in (*figures, *(gate.figure for gate in gates)):
        if name not in known:
            raise InputError(f"figure {name!r} is in neither folder: {nearest(name, known)}")
    wanted = list(figures) or [name for name in USUAL if name in known]
    changes = tuple(
        _change(name, key, others[key], points[key])
        for key in common
        for name in dict.fromkeys((*wanted, *(gate.figure for gate in gates)))
    )
    checked = tuple(
        _checked(gate, change) for gate in gates for change in changes if change.figure == gate.figure
    )
    return Comparison(
        old=str(old), new=str(new), changes=changes, gates=checked, notes=tuple(_notes(theirs, ours))
    )


#: What is shown if nothing is asked for.
USUAL = (
    "requests_per_s", "jobs_per_s", "output_tokens_per_s", "goodput_per_s", "attainment", "failed",
    "ttft_p50", "ttft_p95", "ttft_p99", "tpot_p50", "tpot_p95", "itl_p99",
    "e2e_mean", "e2e_p50", "e2e_p95", "e2e_p99", "e2e_sched_p50", "e2e_sched_p95", "e2e_sched_p99",
)  # fmt: skip

_Key = tuple[tuple[str, Axis], ...]


def _points(stored: StoredExperiment) -> dict[_Key, list[dict[str, float | None]]]:
    """Per combination of axes, the figures of each repeat."""
    found: dict[_Key, list[dict[str, float | None]]] = {}
    for cell in stored.cells:
        key = tuple(sorted(cell.manifest.axes.items()))
        found.setdefault(key, []).append(figures_in(cell.summary(dict[str, Any])))
    return found


def _axes_of(*sides: Mapping[_Key, Any]) -> str:
    names = {name for side in sides for key in side for name, _ in key}
    return ", ".join(sorted(names)) or "nothing, for one of them has none"


def _change(
    figure: str,
    key: _Key,
    olds: Iterable[Mapping[str, float | None]],
    news: Iterable[Mapping[str, float | None]],
) -> Change:
    old, new = (_known(figure, side) for side in (olds, news))
    bare = Change(figure=figure, axes=dict(key), old=_mean(old), new=_mean(new), runs=(len(old), len(new)))
    if bare.old is None or bare.new is None:
        return bare
    difference: Mean = welch(new, old)
    if difference.mean is None or bare.old == 0:
        return bare
    of = abs(bare.old)
    low = None if difference.low is None else difference.low / of
    high = None if difference.high is None else difference.high / of
    return msgspec.structs.replace(
        bare, share=difference.mean / of, low=low, high=high, sure=_sure(figure, low, high)
    )


def _known(figure: str, runs: Iterable[Mapping[str, float | None]]) -> list[float]:
    """A figure of each run; nothing where a run could not give it."""
    values = [run.get(figure) for run in runs]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _sure(
    figure: str, low: float | None, high: float | None
) -> Literal["better", "worse", "no difference shown", ""]:
    if low is None or high is None:
        return ""
    if low <= 0 <= high:
        return "no difference shown"
    return "worse" if (low > 0) == bool(_LESS.search(figure)) else "better"


def _checked(gate: Gate, change: Change) -> Checked:
    """Beyond the limit for sure, within it for sure, or neither; the bare figure where there is no interval."""
    old, new = change.old, change.new
    if old is None or new is None:
        text = f"{gate.text}: one side has no {gate.figure}; its sample is too small, or nothing was answered"
        return Checked(gate=gate.text, axes=change.axes, verdict="failed", text=text)
    if gate.is_share and old == 0:
        verdict: Verdict = "failed" if (new > old) == gate.above and new != old else "passed"
        return Checked(gate=gate.text, axes=change.axes, verdict=verdict, text=f"{gate.text}: 0 -> {new:.4g}")
    scale = abs(old) if gate.is_share else 1.0
    middle = (new - old) / scale
    low = middle if change.low is None else change.low * abs(old) / scale
    high = middle if change.high is None else change.high * abs(old) / scale
    near, far = (low, high) if gate.above else (-high, -low)
    verdict = "failed" if near > gate.by else "passed" if far <= gate.by else "unsure"
    shown = f"{100 * middle:+.1f} %" if gate.is_share else f"{middle:+.4g}"
    if change.low is not None:
        shown += (
            f" ({100 * low:+.1f} to {100 * high:+.1f})" if gate.is_share else f" ({low:+.4g} to {high:+.4g})"
        )
    else:
        shown += f", {min(change.runs)} run{'' if min(change.runs) == 1 else 's'} each: no interval"
    return Checked(
        gate=gate.text,
        axes=change.axes,
        verdict=verdict,
        text=f"{gate.text}: {old:.4g} -> {new:.4g}, {shown}",
    )


def _notes(old: StoredExperiment, new: StoredExperiment) -> Iterator[str]:
    """Why two experiments may not be comparable."""
    if old.manifest.experiment != new.manifest.experiment:
        yield f"they are different experiments: {old.manifest.experiment} and {new.manifest.experiment}"
    for name in ("machine", "python", "packages"):
        if getattr(old.manifest, name) != getattr(new.manifest, name):
            yield f"their {name} differ"
    for name in sorted(old.manifest.config.keys() | new.manifest.config.keys()):
        if old.manifest.config.get(name) != new.manifest.config.get(name):
            yield f"they differ in {name}"
    for stored in (old, new):
        if stored.manifest.status != "complete":
            yield f"{stored.path} is {stored.manifest.status}"
