"""Policies side by side at the same offered load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sage.bench.report.canvas import Canvas, Lined
from sage.bench.report.document import Block, Figure, Paragraph, Part, Table, Text, cells, prose, sentence
from sage.bench.report.evidence import Evidence, Point, Source
from sage.bench.report.sections import SECTIONS, Section
from sage.bench.report.values import Shown, Value, computed
from sage.bench.suites.policies_goals import MANAGED, UNMANAGED
from sage.scheduling.policy import PRESETS, Policy, parse_policy

MOST_IN_RADAR = 6

#: Spokes: title, place in a cell's summary, whether more is better.
SPOKES = (
    ("throughput", "figures/jobs_per_s", True),
    ("jobs in time", "figures/in_time/share", True),
    ("worst class", "figures/worst_class", True),
    ("p99", "figures/e2e_sched_s/p99", False),
    ("mean", "figures/e2e_sched_s/mean", False),
    ("decision time", "decision_us/mean", False),
)

COLUMNS = (
    ("in time", "figures/in_time/share", "percent"),
    ("by work", "figures/work_in_time", "percent"),
    ("worst class", "figures/worst_class", "percent"),
    ("mean", "figures/e2e_sched_s/mean", "seconds"),
    ("p50", "figures/e2e_sched_s/p50", "seconds"),
    ("p95", "figures/e2e_sched_s/p95", "seconds"),
    ("p99", "figures/e2e_sched_s/p99", "seconds"),
    ("jobs/s", "figures/jobs_per_s", "number"),
    ("rejected", "figures/rejected", "count"),
    ("decision, \N{MICRO SIGN}s", "decision_us/mean", "number"),
)


def _build(evidence: Evidence, canvas: Canvas) -> Part | None:
    sources = evidence.of("policies")
    if not sources:
        return None
    blocks: list[Block] = []
    findings: list[Text] = []
    for source in sources:
        points = [point for point in source.points if point.mean("figures/jobs_per_s") is not None]
        shares = sorted({float(point.axes["share"]) for point in points})
        if not shares:
            continue
        below = [share for share in shares if share <= 1.0]
        chosen = below[-1] if below else shares[0]
        at = [point for point in points if point.axes["share"] == chosen]
        blocks += _radar(source, _few(at), canvas)
        findings += _finding(source, at)
        blocks += [Paragraph(sentence(text)) for text in _finding(source, at)]
        blocks.append(_table(source, points))
        blocks += _goals(source)
    return Part(
        key="policies",
        title="Policies",
        blocks=tuple(blocks),
        findings=tuple(findings),
        sources=tuple(source.root for source in sources),
    )


def _few(points: Sequence[Point]) -> list[Point]:
    """Those with the shortest names, presets before combinations of axes; one of those that read alike."""
    named: dict[str, Point] = {}
    for point in sorted(points, key=lambda point: len(str(point.axes["policy"]))):
        named.setdefault(_short(str(point.axes["policy"])), point)
    return list(named.values())[:MOST_IN_RADAR]


def _radar(source: Source, points: Sequence[Point], canvas: Canvas) -> list[Block]:
    spokes: dict[str, list[Value | None]] = {}
    for title, pointer, more in SPOKES:
        values = [point.mean(pointer) for point in points]
        known = [value for value in values if value is not None and value.number > 0]
        best = computed("most" if more else "least", known)
        spokes[title] = [computed("ratio", [value, best] if more else [best, value]) for value in values]
    shown = {title: values for title, values in spokes.items() if all(value is not None for value in values)}
    if len(shown) < 3:
        return []
    key = f"policies-{source.root}"
    series: dict[str, Lined] = {
        _short(str(point.axes["policy"])): ([values[place] for values in shown.values()], ())
        for place, point in enumerate(points)
    }
    canvas.radar(key, spokes=list(shown), series=series)
    caption = prose(
        f"Policies at {{share}} of saturation, {source.kind}. Outwards is better: each spoke is the figure over the best "
        "of these policies or, where less is better, the best over the figure; so the best of each spoke stands at its "
        "end, and distances on different spokes do not compare.",
        share=Shown(points[0].axis("share"), "percent"),
    )
    return [Figure(key, caption, "A closed line on spokes for each policy")]


def _short(said: str) -> str:
    """A policy's name as a legend has room for it: how many jobs are let in at once is left out.

    >>> _short("admit=max_inflight(jobs=9),place=round_robin"), _short("admit=feasible,order=edf")
    ('fifo', 'admit=feasible,order=edf')
    """
    policy = _without_places(parse_policy(said))
    for name, preset in PRESETS.items():
        if _without_places(preset) == policy:
            return name
    return str(policy) or "load_aware"


def _without_places(policy: Policy) -> Policy:
    rules = [rule for rule in policy.admit.split("+") if not rule.startswith("max_inflight")]
    return replace(policy, admit="+".join(rules) or Policy().admit)


def _finding(source: Source, points: Sequence[Point]) -> list[Text]:
    known = [point for point in points if point.mean("figures/in_time/share") is not None]
    if len(known) < 2:
        return []

    def attained(point: Point) -> float:
        value = point.mean("figures/in_time/share")
        return 0.0 if value is None else value.number

    best, worst = max(known, key=attained), min(known, key=attained)
    return [
        prose(
            f"at {{share}} of saturation ({source.kind}), policy {{best}} has {{most}} of jobs done in time, {{worst}} "
            "{least}",
            share=Shown(best.axis("share"), "percent"),
            best=Shown(best.axis("policy"), "text"),
            most=best.shown("figures/in_time/share", "percent"),
            worst=Shown(worst.axis("policy"), "text"),
            least=worst.shown("figures/in_time/share", "percent"),
        )
    ]


def _table(source: Source, points: Sequence[Point]) -> Table:
    rows = tuple(
        cells(
            Shown(point.axis("policy"), "text"),
            Shown(point.axis("share"), "times"),
            *(point.shown(pointer, form) for _, pointer, form in COLUMNS),
        )
        for point in points
    )
    seeds = computed("count", points[0].each("figures/jobs_per_s"))
    caption = prose(
        f"Policies by offered load, {source.kind}, over {{seeds}} seeds. Load is a share of saturation, which the same "
        "engines reached in a closed loop. In time: of all jobs with a deadline; by work: the same with each job weighing "
        "its tokens; worst class: the least of the classes' shares. Decision: CPU time of one event of the scheduler.",
        seeds=Shown(seeds, "count") if seeds is not None else "some",
    )
    header = ("policy", "load", *(title for title, _, _ in COLUMNS))
    return Table(f"table-{source.root}", caption, header, rows, num_labels=2)


def _goals(source: Source) -> list[Block]:
    """What was to be reached before anything was run, and what was; where the loads it speaks of were run."""
    file = f"{source.root}/summary.json"
    if not source.files.path(file).exists():
        return []
    rows = []
    for place, goal in enumerate(source.files.content(file)["goals"]):
        reached = source.files.at(file, f"goals/{place}/reached")
        if reached is not None:
            wanted = source.files.sure(file, f"goals/{place}/wanted")
            what = source.files.sure(file, f"goals/{place}/what")
            form = "percent" if str(wanted.content).endswith("%") else "number"
            rows.append(
                cells(
                    Shown(what, "text"),
                    Shown(wanted, "text"),
                    Shown(reached, form),
                    "yes" if goal["met"] else "no",
                )
            )
    if not rows:
        return []
    caption = prose(
        f"Goals of the policy {MANAGED}, which were set before anything was measured, and what it reached, "
        f"{source.kind}; unmanaged is {UNMANAGED}."
    )
    return [Table(f"goals-{source.root}", caption, ("goal", "wanted", "reached", "met"), tuple(rows))]


SECTIONS["policies"] = Section("Policies", "sage bench policies", _build)
