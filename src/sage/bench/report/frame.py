"""What stands around the experiments of a report: set-up, abstract, discussion, limitations, what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from sage.bench.report.document import Block, Document, Paragraph, Part, Table, Text, cells, prose
from sage.bench.report.evidence import Evidence, Source
from sage.bench.report.sections import SECTIONS
from sage.bench.report.values import Shown, Value, computed

__all__ = ["document_of"]

TITLE = "SAGE: what was measured"


def document_of(evidence: Evidence, parts: Sequence[Part]) -> Document:
    """The whole report around its parts."""
    keys = {part.key for part in parts}
    missing = tuple((one.title, one.command) for key, one in SECTIONS.items() if key not in keys)
    return Document(
        title=TITLE,
        setup=tuple(_setup(evidence)),
        parts=tuple(parts),
        missing=missing,
        abstract=(Paragraph(_abstract(evidence, parts)),),
        introduction=(Paragraph(_introduction(evidence, parts)),),
        discussion=tuple(_discussion(parts)),
        limitations=tuple(Paragraph(text) for text in _limitations(evidence, parts)),
        future=tuple(Paragraph(text) for text in _future(evidence, missing)),
    )


def _setup(evidence: Evidence) -> list[Block]:
    blocks: list[Block] = []
    sources = evidence.sources
    if sources:
        blocks.append(
            Paragraph(
                prose(
                    "Each experiment is a folder of runs with their event logs; every figure here is computed from those, "
                    "after an audit that refuses logs that cannot be true. Times of a job go from when it was due to when "
                    "it was done, so waiting before SAGE is in them. Percentiles interpolate linearly between order "
                    "statistics and are given only where the sample carries them. Jobs of the warm-up are not counted. "
                    "Measured and simulated results are never put together."
                )
            )
        )
        blocks.append(_sources_table(sources))
        blocks.append(Paragraph(_machines(sources)))
    return blocks


def _sources_table(sources: Sequence[Source]) -> Table:
    rows = []
    for source in sources:
        runs = _runs(source)
        commit, preset = source.maybe("commit"), source.maybe("preset")
        load = source.maybe("load_average")
        rows.append(
            cells(
                Shown(source.fact("experiment"), "text"),
                Shown(source.fact("kind"), "text"),
                Shown(preset, "text") if preset is not None and preset.content else "own",
                Shown(source.fact("status"), "text"),
                Shown(runs, "count") if runs is not None else "none",
                Shown(commit, "short") if commit is not None and commit.content else "no clone",
                Shown(load, "times") if load is not None else "not known",
            )
        )
    caption = prose(
        "What was run: the kind of its results, its preset, how it ended, its cells, the commit of SAGE ('+' after a "
        "commit stands in the file where its source was changed), and how busy the machine was over the minute before."
    )
    header = ("experiment", "kind", "preset", "status", "cells", "commit", "load average")
    return Table("table-setup", caption, header, tuple(rows), num_labels=4)


def _runs(source: Source) -> Value | None:
    """How many cells there are: as many as have a summary."""
    return computed(
        "count", [source.fact(f"cells/{place}/repeat") for place in range(len(source.stored.cells))]
    )


def _machines(sources: Sequence[Source]) -> Text:
    """The machines, told apart by what they say of themselves."""
    seen: dict[object, Source] = {}
    for source in sources:
        seen.setdefault(source.stored.manifest.machine, source)
    text: list[str | Shown] = []
    for source in seen.values():
        machine = source.stored.manifest.machine
        if machine is None:
            continue
        text += [*prose("Machine: ")] if not text else [*prose("; another: ")]
        text += prose(
            "{cpus} processors ({cpu}), {memory} of memory, {system}, Python {python}, SAGE {sage}",
            cpus=Shown(source.fact("machine/num_cpus"), "plain"),
            cpu=Shown(source.fact("machine/cpu"), "text") if machine.cpu else "model not known",
            memory=Shown(source.fact("machine/memory_bytes"), "gigabytes"),
            system=Shown(source.fact("machine/system"), "text"),
            python=Shown(source.fact("python"), "text"),
            sage=Shown(source.fact("sage"), "text"),
        )
    return (*text, ".") if text else prose("No machine is named in the results.")


def _joined(findings: Sequence[Text]) -> list[str | Shown]:
    """Findings in one sentence."""
    text: list[str | Shown] = []
    for place, finding in enumerate(findings):
        text += [("" if place == 0 else "; ")] if place else []
        text += finding
    return text


def _leading(parts: Sequence[Part], each: int) -> list[Text]:
    return [finding for part in parts for finding in part.findings[:each]]


def _abstract(evidence: Evidence, parts: Sequence[Part]) -> Text:
    opening = prose(
        "SAGE is a declarative dataflow framework for LLM inference orchestration. "
        + _kinds(evidence)
        + " What came out: "
    )
    return (*opening, *_joined(_leading(parts, 1)), ".")


def _kinds(evidence: Evidence) -> str:
    kinds = {source.kind for source in evidence.sources}
    if kinds == {"simulated"}:
        return "All results of experiments here are simulated: the product's own driver and policies in virtual time."
    if kinds == {"measured"}:
        return "All results here are measured in real time."
    return "Some results here are measured in real time, others simulated; each says which."


def _introduction(evidence: Evidence, parts: Sequence[Part]) -> Text:
    if not parts:
        return prose("No results were given.")
    told = len(parts) > 1
    opening = prose(
        f"We report {'these experiments' if told else 'one experiment'} with every number drawn from audited event logs, "
        "results in SAGE's disfavour included. In short: "
    )
    return (*opening, *_joined(_leading(parts, 2)), ". ", *prose(_kinds(evidence)))


def _discussion(parts: Sequence[Part]) -> list[Paragraph]:
    found = []
    for part in parts:
        if part.findings:
            opening = prose(f"{part.title}: ")
            found.append(Paragraph((*opening, *_joined(part.findings), ".")))
    return found or [Paragraph(prose("There is nothing to discuss: no experiment has a finding."))]


def _limitations(evidence: Evidence, parts: Sequence[Part]) -> list[Text]:
    said: list[Text] = []
    kinds = {source.kind for source in evidence.sources}
    if "simulated" in kinds:
        said.append(
            prose(
                "Simulated results come from SAGE's own driver and policies on engines whose times follow a profile fitted "
                "to published measurements; they leave out what SAGE itself costs, and networks. They show what scheduling "
                "does, not what a machine does."
            )
        )
    if "measured" in kinds:
        said.append(
            prose(
                "Measured results were taken on the one machine named above, beside what else it ran; the load average in "
                "the table says how busy it was."
            )
        )
    small = [
        source
        for source in evidence.sources
        if min((len(point.cells) for point in source.points), default=0) < 3
    ]
    if small:
        names = ", ".join(dict.fromkeys(source.stored.manifest.experiment for source in small))
        said.append(
            prose(f"Too few repeats for intervals: {names}. Differences there are those of single runs.")
        )
    partial = [source for source in evidence.sources if source.stored.manifest.status != "complete"]
    if partial:
        names = ", ".join(dict.fromkeys(source.stored.manifest.experiment for source in partial))
        said.append(prose(f"Not complete, and reported as far as they go: {names}."))
    bare = [source for source in evidence.sources if not source.stored.cells[0].manifest.events_sha256]
    if bare:
        names = ", ".join(dict.fromkeys(source.stored.manifest.experiment for source in bare))
        said.append(
            prose(
                f"Figures without event logs: {names}. These simulations give the same logs to the byte when they are run "
                "again, and did not keep them; only the hashes of their figures could be checked."
            )
        )
    said.append(
        prose(
            "The hardware of the study that SAGE comes from (sixteen nodes, A100 accelerators, Qwen2.5-3B and BGE-large) was "
            "not reproduced here, and its tables are not aimed at."
        )
    )
    said += [limit for part in parts for limit in part.limits]
    return said


def _future(evidence: Evidence, missing: Sequence[tuple[str, str]]) -> list[Text]:
    said: list[Text] = []
    if missing:
        names = ", ".join(title.lower() for title, _ in missing)
        said.append(prose(f"No results were given for: {names}. They are missing here, not estimated."))
    measured = {source.stored.manifest.experiment for source in evidence.sources if source.kind == "measured"}
    simulated = {
        source.stored.manifest.experiment for source in evidence.sources if source.kind == "simulated"
    }
    if only := sorted(simulated - measured):
        said.append(prose(f"Only simulated so far, and to be measured: {', '.join(only)}."))
    said.append(
        prose("Next is the same on accelerators and on a cluster, with models of the size that people serve.")
    )
    return said
