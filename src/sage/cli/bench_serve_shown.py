"""How ``sage bench serve`` tells what a load came to: a table, one JSON object, a file with vLLM's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage.bench.stats import LEAST_RUNS, spread_of
from sage.bench.sweetspot import Point, SweetSpot, find_sweet_spot
from sage.cli.output import print_json, say, shown_seconds, table
from sage.errors import InputError, nearest
from sage.runtime.figures import LEAST

if TYPE_CHECKING:
    from sage.bench.metrics import LoadSummary
    from sage.bench.results import Axis
    from sage.bench.stats import Spread
    from sage.bench.suites.serve import Served

__all__ = ["Shown"]

#: Latency as it is asked for -> fields of the summary, each with its title.
METRICS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "ttft": (("ttft_sched_s", "TTFT"), ("ttft_s", "TTFT of the server")),
    "tpot": (("tpot_s", "TPOT"),),
    "itl": (("itl_s", "ITL"),),
    "tbt": (("tbt_s", "TBT"), ("worst_tbt_s", "longest TBT")),
    "e2el": (("e2e_sched_s", "E2E"), ("e2e_s", "E2E of the server")),
    "lag": (("lag_s", "generator lag"),),
    "queue": (("queue_s", "queue"),),
}
IN_TIME = 95.0  # of a hundred requests, for a load to count as meeting its objectives
PERCENTILES = {"50": "p50", "90": "p90", "95": "p95", "99": "p99", "99.9": "p999"}


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown of a load."""

    metrics: Sequence[str]
    percentiles: Sequence[str]  # fields of a Stat

    @classmethod
    def parse(cls, metrics: str, percentiles: str) -> Shown:
        """Read what was asked for.

        Raises:
            InputError: there is no such metric or percentile.
        """
        names = [name.strip() for name in metrics.split(",") if name.strip()]
        for name in names:
            if name not in METRICS:
                raise InputError(f"--percentile-metrics {name!r}: {nearest(name, METRICS)}")
        wanted = [text.strip() for text in percentiles.split(",") if text.strip()]
        for text in wanted:
            if text not in PERCENTILES:
                raise InputError(f"--metric-percentiles {text!r}: choose from {', '.join(PERCENTILES)}")
        return cls(names, [PERCENTILES[text] for text in wanted])

    def tell(self, found: Served, *, as_json: bool) -> None:
        """Print it."""
        points, manifest = found.points, found.stored.manifest
        if as_json:
            print_json(
                {
                    "experiment": manifest.experiment,
                    "kind": manifest.kind,
                    "status": manifest.status,
                    "out": str(found.stored.path),
                    "loads": [{"axes": axes, "repeats": summaries} for axes, summaries in points],
                    **({"sweet_spot": sweet_spot(points)} if len(points) > 1 else {}),
                }
            )
        elif len(points) > 1:
            print(self.sweep(points))
        elif points:
            print(self.text(points[0][1]))
        for cell, summary in zip(found.stored.cells, found.summaries, strict=True):
            for flag in summary.flags:
                say(
                    f"{f'{cell.manifest.name}: ' if len(found.summaries) > 1 else ''}{flag.kind}: {flag.text}"
                )
        if found.ended:
            say(found.ended)
        say(f"{manifest.status} -> {found.stored.path}")

    def sweep(self, points: Sequence[tuple[Mapping[str, Axis], Sequence[LoadSummary]]]) -> str:
        """A row a load, and where more load stops paying."""
        axis = next(iter(points[0][0]))
        tail = next((name for name in reversed(self.percentiles) if _carries(name, points)), "p50")
        has_slo = any(summary.goodput is not None for _, summaries in points for summary in summaries)
        header = (
            axis, "requests/s", "tokens/s", "TTFT p50", "TPOT p50", "E2E p50", f"E2E {tail}",
            *(("in time",) if has_slo else ()), "failed",
        )  # fmt: skip
        rows = [
            (
                f"{axes[axis]:g}",
                *(
                    _number(spread_of([getattr(s, name) for s in summaries]))
                    for name in ("requests_per_s", "output_tokens_per_s")
                ),
                *(
                    _seconds(spread_of([getattr(getattr(s, field), stat) for s in summaries]))
                    for field, stat in (
                        ("ttft_sched_s", "p50"),
                        ("tpot_s", "p50"),
                        ("e2e_sched_s", "p50"),
                        ("e2e_sched_s", tail),
                    )
                ),
                *((f"{_number(_attained(summaries))} %",) if has_slo else ()),
                str(sum(sum(s.requests.values()) - s.requests["done"] for s in summaries)),
            )
            for axes, summaries in points
        ]
        spot = sweet_spot(points)
        if spot.low is not None:
            verdict = f"more {axis} stops paying at {spot.low:.3g}; worth running at {spot.low:.3g} to {spot.high:g}"
        else:
            verdict = f"no knee: {spot.why}"
        return f"{table(header, rows)}\n{verdict}"

    def text(self, summaries: Sequence[LoadSummary]) -> str:
        """Tables of the figures; of several repeats, their means."""
        return "\n".join([self._counts(summaries), self._latencies(summaries), *self._rates(summaries)])

    def _counts(self, summaries: Sequence[LoadSummary]) -> str:
        counted = sum(sum(summary.requests.values()) for summary in summaries)
        bad = {
            outcome: total
            for outcome in ("failed", "timeout", "rejected", "cancelled")
            if (total := sum(summary.requests[outcome] for summary in summaries))
        }
        not_done = "".join(f", {total} {outcome}" for outcome, total in bad.items())
        warmup = sum(summary.warmup for summary in summaries)
        runs = "" if len(summaries) == 1 else f" in {len(summaries)} repeats"
        return f"{counted} requests{runs}: {counted - sum(bad.values())} done{not_done}; {warmup} of warm-up not counted"

    def _latencies(self, summaries: Sequence[LoadSummary]) -> str:
        rows = []
        for name in self.metrics:
            fields = METRICS[name]
            if len(fields) > 1 and name in {"ttft", "e2el"} and not _waited(summaries):
                fields = fields[:1]  # nothing was waited for: both say the same
            rows += [self._row(title, field, summaries) for field, title in fields]
        titles = [
            next(text for text, field in PERCENTILES.items() if field == name) for name in self.percentiles
        ]
        least = {PERCENTILES[title]: LEAST[PERCENTILES[title]][1] for title in titles}
        missing = [title for title in titles if any(self._lacks(PERCENTILES[title], s) for s in summaries)]
        note = "".join(f"; p{title} needs {least[PERCENTILES[title]]} requests" for title in missing)
        body = table(("", "mean", *(f"p{title}" for title in titles), "max"), rows)
        return f"{body}\nTTFT and E2E are from the scheduled start{note}"

    def _lacks(self, percentile: str, summary: LoadSummary) -> bool:
        return summary.e2e_sched_s.n > 0 and getattr(summary.e2e_sched_s, percentile) is None

    def _row(self, title: str, field: str, summaries: Sequence[LoadSummary]) -> tuple[str, ...]:
        stats = [getattr(summary, field) for summary in summaries]
        return (
            title,
            *(
                _seconds(spread_of([getattr(stat, name) for stat in stats]))
                for name in ("mean", *self.percentiles, "max")
            ),
        )

    def _rates(self, summaries: Sequence[LoadSummary]) -> list[str]:
        def over(name: str, unit: str) -> str:
            return f"{_number(spread_of([getattr(summary, name) for summary in summaries]))} {unit}"

        mean = _number(spread_of([summary.in_flight.mean for summary in summaries]))
        in_flight = f"{mean} in flight on average, {max(s.in_flight.most for s in summaries)} at most"
        lines = [
            ", ".join(
                (
                    over("requests_per_s", "requests/s"),
                    over("output_tokens_per_s", "output tokens/s"),
                    over("total_tokens_per_s", "tokens/s in and out"),
                )
            ),
            in_flight,
        ]
        goodputs = [summary.goodput for summary in summaries if summary.goodput is not None]
        if goodputs:
            share = goodputs[0].attainment
            interval = (
                f" ({100 * share.low:.1f}-{100 * share.high:.1f})"
                if len(goodputs) == 1 and share.low is not None and share.high is not None
                else ""
            )
            attained = _attained(summaries)
            said = ", ".join(f"{name} {1000 * limit:g} ms" for name, limit in _objectives(goodputs[0].slo))
            lines.append(
                f"goodput {_number(spread_of([g.per_s for g in goodputs]))} requests/s, "
                f"{_number(attained)} %{interval} within {said}"
            )
        if len(summaries) >= LEAST_RUNS:
            lines.append("± is half of a 95 % t-interval over repeats")
        return lines

    def save(self, found: Served, folder: Path, name: str | None) -> None:
        """Write the flat file: one object, or a list of them where there are repeats."""
        from sage.bench.results import write_json
        from sage.bench.vllm_keys import vllm_keys

        flat: list[dict[str, Any]] = [
            {**vllm_keys(summary, cell.run()), "status": summary.status}
            for summary, cell in zip(found.summaries, found.stored.cells, strict=True)
        ]
        path = folder / (name or f"{found.stored.path.name}.json")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, flat[0] if len(flat) == 1 else flat)
        say(f"flat result -> {path}")


def sweet_spot(points: Sequence[tuple[Mapping[str, Axis], Sequence[LoadSummary]]]) -> SweetSpot:
    """Where throughput bends over the one axis of a sweep, and how far beyond it most requests are in time."""
    found = []
    for axes, summaries in points:
        (place,) = axes.values()
        rate = spread_of([summary.requests_per_s for summary in summaries]).mean
        attained = _attained(summaries).mean
        found.append(Point(float(place), rate or 0.0, attained is None or attained >= IN_TIME))
    return find_sweet_spot(found)


def _attained(summaries: Sequence[LoadSummary]) -> Spread:
    """How many of a hundred requests met every objective."""
    shares = [None if s.goodput is None else s.goodput.attainment.share for s in summaries]
    return spread_of([None if share is None else 100 * share for share in shares])


def _carries(percentile: str, points: Sequence[tuple[Mapping[str, Axis], Sequence[LoadSummary]]]) -> bool:
    return all(getattr(s.e2e_sched_s, percentile) is not None for _, summaries in points for s in summaries)


def _waited(summaries: Sequence[LoadSummary]) -> bool:
    """Whether requests waited before they were sent, by more than a hundredth of what they took."""
    return any(
        summary.e2e_sched_s.mean is not None
        and summary.e2e_s.mean is not None
        and summary.e2e_sched_s.mean > 1.01 * summary.e2e_s.mean
        for summary in summaries
    )


def _objectives(slo: Any) -> list[tuple[str, float]]:
    said = (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s), ("E2E", slo.e2e_s))
    return [(name, limit) for name, limit in said if limit is not None]


def _seconds(spread: Spread) -> str:
    if spread.mean is None:
        return "-"
    return shown_seconds(spread.mean) + ("" if spread.half is None else f" ±{shown_seconds(spread.half)}")


def _number(spread: Spread) -> str:
    if spread.mean is None:
        return "-"
    return f"{spread.mean:.4g}" + ("" if spread.half is None else f" ±{spread.half:.2g}")
