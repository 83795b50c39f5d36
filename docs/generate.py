"""Writes what can be read off the code into the docs: ``cli.md`` as a whole, and marked tables of other pages.

python docs/generate.py            write
python docs/generate.py --check    end with 1 if something is not current
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import statistics
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from sage.cli import VERBS, app
from sage.scheduling.policy import AXES, PRESETS, Policy
from sage.settings import VARIABLES

DOCS = Path(__file__).parent
PAGES = ("../README.md", "agents.md", "benchmarks.md", "cli.md", "engines.md", "policies.md", "ray.md")

_MARKED = re.compile(r"(<!-- generated: (?P<what>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

DASH = "\N{EN DASH}"  # where there is nothing to tell

QUESTIONS = {
    "admit": "whether a job gets in",
    "share": "whose turn it is",
    "order": "which task is next",
    "place": "on which endpoint",
    "limit": "how many calls at once an endpoint gets",
    "batch": "which tasks share one call",
}


def written(page: Path) -> str:
    """What a page should say."""
    if page.name == "cli.md":
        return "\n".join(cli_lines(command(), "sage"))
    tables = {
        "agents": agents,
        "axes": axes,
        "experiments": experiments,
        "peers": peers,
        "presets": presets,
        "ray_beside": ray_beside,
        "ray_nodes": ray_nodes,
        "results": results,
        "variables": variables,
    }
    return _MARKED.sub(
        lambda found: found[1] + "\n".join(tables[found["what"]]()) + "\n" + found[3],
        page.read_text(encoding="utf-8"),
    )


# ---- results


def experiments() -> Iterator[str]:
    """Every experiment, and what its presets are made of."""
    import sage.bench.suites.experiments  # noqa: F401 - registers them
    from sage.bench.experiments import EXPERIMENTS, cells_of, presets_of, read_preset

    def rows() -> Iterator[tuple[str, ...]]:
        for name, suite in EXPERIMENTS.items():
            for preset in presets_of(name):
                said = read_preset(name, preset)
                kind = "simulated" if said.runtime == "simulated" else "measured"
                cells = cells_of(name, said)
                jobs = sum(cell.setup.jobs for cell in cells)
                shown = name if preset == next(iter(presets_of(name))) else ""
                question = suite.question if shown else ""
                yield (
                    f"`{shown}`" if shown else "", question, f"`{preset}`", said.engines, kind, str(len(cells)), f"{jobs:,}",
                )  # fmt: skip

    yield from table(("experiment", "shows", "preset", "engines", "", "cells", "jobs"), rows())


def results() -> Iterator[str]:
    """What the committed results came to: the paragraphs and tables of the report's sections."""
    from sage.bench.report.build import parts_of
    from sage.bench.report.canvas import Canvas
    from sage.bench.report.evidence import gather

    kept = DOCS.parent / "results"
    roots = [kept / name for name in ("experiments", "policies", "serve") if (kept / name).is_dir()]
    if not roots:
        yield "No results are recorded yet."
        return
    evidence = gather(roots, lambda _path: None)
    for part in parts_of(evidence, Canvas(None)):
        yield f"### {part.title}"
        yield ""
        for block in part.blocks:
            yield from block_lines(block)
        for source in part.sources:
            made = evidence.files.sure(f"{source}/experiment.json", "command").content
            where = (
                evidence.files.path(f"{source}/experiment.json").resolve().relative_to(kept.parent.resolve())
            )
            yield f"Made by `{made}`, see [{where.parent}](../{where})."
            yield ""


def agents() -> Iterator[str]:
    """What the committed results say of agents: the figures of every cell, a table for each kind of behaviour."""
    from sage.bench.agent_items import KINDS, AgentFigures
    from sage.bench.results import read_experiment
    from sage.cli.bench_agent_shown import COSTS, figure_names, shown_costs, shown_figure

    found: list[tuple[str, AgentFigures]] = []
    writers: set[str] = set()
    for path in sorted((DOCS.parent / "results" / "agents").glob("*/experiment.json")):
        stored = read_experiment(path.parent)
        config = stored.manifest.config
        for cell in stored.cells:
            figures = cell.summary(AgentFigures)
            said = config["data"] if figures.part == "all" else f"{config['data']}, {figures.part}"
            found.append((f"[{said}](../results/agents/{path.parent.name})", figures))
            writers |= {str(config["engines"]["llm"])} if figures.llm_calls else set()
    for kind in KINDS:
        cells = [(where, figures) for where, figures in found if figures.kind == kind]
        if not cells:
            continue
        names = figure_names(kind, [figures for _, figures in cells])
        rows = (
            (
                where,
                one.strategy,
                f"{one.n:,}",
                *(shown_figure(one, name) for name in names),
                *shown_costs(one),
            )
            for where, one in cells
        )
        yield from ("", f"**{kind.capitalize()}**", "")
        yield from table(("set", "strategy", "tasks", *names, *COSTS), rows)
    yield ""
    if writers:
        yield paragraph(f"What calls a model calls {', '.join(f'`{said}`' for said in sorted(writers))}.")
    yield ""


def ray_nodes() -> Iterator[str]:
    """Nodes of a Ray cluster on one machine, beside as many that are simulated."""
    from sage.bench.report.evidence import Point, gather

    kept = DOCS.parent / "results"
    evidence = gather(
        [kept / "experiments" / f"nodes-{name}" for name in ("ray", "ray16")], lambda _path: None
    )
    measured: dict[tuple[object, object], Point] = {
        (point.axes["workload"], point.axes["nodes"]): point
        for source in evidence.of("nodes")
        for point in source.points
    }
    large = max(kept.glob("simulated/*/nodes.json"))
    said = json.loads(large.read_bytes())
    simulated = {
        (point["axes"]["workload"], point["axes"]["nodes"]): point["figures"] for point in said["points"]
    }

    def rows() -> Iterator[tuple[str, ...]]:
        for (workload, nodes), figures in simulated.items():
            found = measured.get((workload, nodes))
            one = simulated[workload, 1]["jobs_per_s"]["mean"]
            speed_up = figures["jobs_per_s"]["mean"] / one
            shown = found.shown if found else lambda _name, _form: DASH
            yield (
                str(workload), str(nodes),
                *(plain_text((shown(name, form),)) for name, form in NODE_FIGURES.items()),
                f"{figures['jobs_per_s']['mean']:,.0f}", f"{speed_up:,.1f}", _milliseconds(figures["p99_s"]["mean"]),
            )  # fmt: skip

    head = ("jobs/s", "p50", "p99", "CPU a job", "simulated: jobs/s", "simulated: speed-up", "simulated: p99")
    yield from table(("workload", "nodes", *head), rows())
    yield ""
    commands = [
        evidence.files.sure(f"{one.root}/experiment.json", "command").content for one in evidence.of("nodes")
    ]
    yield f"Made by {', '.join(f'`{command}`' for command in (*commands, said['command']))}."


NODE_FIGURES = {
    "jobs_per_s": "number",
    "e2e_s/p50": "seconds",
    "e2e_s/p99": "seconds",
    "cpu_s_per_job": "seconds",
}


def _milliseconds(seconds: float | None) -> str:
    return DASH if seconds is None else f"{seconds * 1000:,.0f} ms"


def ray_beside() -> Iterator[str]:
    """The newest results of ``make bench-ray``: the middle of each contender's rounds."""
    newest = max((DOCS.parent / "results" / "ray").glob("*/ray.json"))
    rounds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in json.loads(newest.read_bytes())["rounds"]:
        rounds.setdefault((one["case"], one["contender"]), []).append(one)

    def middle(several: list[dict[str, Any]], name: str) -> float:
        return statistics.median(one[name] for one in several)

    def rows() -> Iterator[tuple[str, ...]]:
        for (case, contender), several in rounds.items():
            ideal = several[0]["times_ideal"] is not None
            yield (
                case, contender, f"{middle(several, 'per_s'):,.0f}", f"{middle(several, 'driver_us'):,.0f} µs",
                f"{middle(several, 'all_us'):,.0f} µs", f"{middle(several, 'times_ideal'):.2f}" if ideal else DASH,
            )  # fmt: skip

    head = ("records/s", "CPU of the driver a record", "CPU of all processes", "times the ideal")
    yield from table(("", "by", *head), rows())
    yield ""
    yield f"Made by `make bench-ray`, see [{newest.parent.name}](../{newest.relative_to(DOCS.parent)})."


def block_lines(block: Any) -> Iterator[str]:
    """A paragraph or a table of the report; its figures stand in the report only."""
    from sage.bench.report.document import Paragraph, Table

    match block:
        case Paragraph():
            yield plain_text(block.text)
            yield ""
        case Table():
            yield plain_text(block.caption)
            yield ""
            yield from table(block.header, (tuple(map(plain_text, row)) for row in block.rows))
            yield ""


def plain_text(text: tuple[Any, ...]) -> str:
    """A text of the report, with its numbers."""
    return "".join(part if isinstance(part, str) else part.text for part in text)


# ---- the command line


def command() -> Any:
    """The whole command line as one command object, of typer's own kind, with every verb imported."""
    root: Any = typer.main.get_command(app)
    for verb in VERBS:
        root.commands[verb] = typer.main.get_command(importlib.import_module(f"sage.cli.{verb}").app)
    return root


def cli_lines(root: Any, name: str) -> Iterator[str]:
    """The page about the command line, verb by verb."""
    yield "# The command line"
    yield ""
    yield "<!-- written by docs/generate.py: type make docs -->"
    yield ""
    yield paragraph(root.help)
    yield ""
    yield "Exit codes: 0 done, 1 some records failed, 2 a fault in what was typed or in a pipeline, 3 an engine cannot be"
    yield "reached, 130 interrupted. With `--json` a verb prints one JSON object on stdout; progress and warnings go to stderr."
    yield ""
    yield from table(
        ("verb", ""),
        ((f"[`{name} {verb}`](#{name}-{verb})", first_sentence(sub.help)) for verb, sub in commands_of(root)),
    )
    for verb, sub in commands_of(root):
        yield from verb_lines(sub, f"{name} {verb}", level=2)
    yield ""


def verb_lines(verb: Any, name: str, level: int) -> Iterator[str]:
    """One verb: how it is typed, what it does, its arguments and options; then the verbs inside it."""
    yield ""
    yield f"{'#' * level} `{name}`"
    yield ""
    yield paragraph(verb.help)
    parameters = [item for item in verb.params if not item.hidden and item.name != "help"]
    if parameters:
        arguments = " ".join(map(usage, filter(is_argument, parameters)))
        options = " [OPTIONS]" if not all(map(is_argument, parameters)) else ""
        yield ""
        yield f"`{name}{options}{' ' if arguments else ''}{arguments}`"
        yield ""
        yield from table(("", ""), ((spelling(item), meaning(item)) for item in parameters))
    for inner, sub in commands_of(verb):
        yield from verb_lines(sub, f"{name} {inner}", level + 1)


def commands_of(group: Any) -> list[tuple[str, Any]]:
    """Name and command of everything inside a group that is not hidden."""
    return [(name, sub) for name, sub in getattr(group, "commands", {}).items() if not sub.hidden]


def is_argument(parameter: Any) -> bool:
    """Whether it stands in its place, without a name."""
    return not parameter.opts[0].startswith("-")


def usage(argument: Any) -> str:
    """An argument in a usage line."""
    name = f"{(argument.metavar or argument.name).upper()}{'…' if argument.nargs < 0 or argument.multiple else ''}"
    return name if argument.required else f"[{name}]"


def spelling(parameter: Any) -> str:
    """How a parameter is typed."""
    if is_argument(parameter):
        return f"`{usage(parameter)}`"
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    takes_value = not (parameter.is_flag or parameter.count)
    return names + (f" {(parameter.metavar or parameter.name).upper()}" if takes_value else "")


def meaning(parameter: Any) -> str:
    """What a parameter says, with its default."""
    text = paragraph(parameter.help).rstrip(".")
    choices = getattr(parameter.type_descriptor, "choices", None)
    if choices:
        text += f". One of {', '.join(f'`{choice.value}`' for choice in choices)}"
    default = parameter.default
    if parameter.required:
        return text if is_argument(parameter) else f"{text}. Required"
    if default in (None, False, "", []) or callable(default) or parameter.show_default is False:
        return text
    return f"{text}. Default: `{getattr(default, 'value', default)}`"


def paragraph(text: str | None) -> str:
    """A help text as Markdown: paragraphs kept, lines joined."""
    parts = re.split(r"\n\s*\n", inspect.cleandoc(text or ""))
    return "\n\n".join(" ".join(part.split()) for part in parts).replace("|", r"\|")


def first_sentence(text: str | None) -> str:
    """The start of a help text, for a list."""
    return re.split(r"(?<=\.)\s", paragraph(text), maxsplit=1)[0]


# ---- tables


def table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def axes() -> Iterator[str]:
    """Every member of every axis of a policy: its arguments, and what its docstring says, under a heading per axis."""
    default = Policy()
    for axis, registry in AXES.items():
        yield ""
        yield f"### `{axis}`: {QUESTIONS[axis]}"
        yield ""
        for name, member in registry.items():
            parameters = inspect.signature(member).parameters.values()
            said = [f"{p.name}={p.default}" for p in parameters if p.default is not p.empty]
            arguments = ", ".join(said)
            chosen = " (default)" if getattr(default, axis) == name else ""
            taken = f", or with arguments `{name}({arguments})`" if arguments else ""
            yield wrapped(f"**`{name}`**{chosen}{taken}. {said_of(name, member)}")
    yield ""


def said_of(name: str, member: Any) -> str:
    """The docstring of a policy's member in one paragraph, its "When:" and "Source:" set off."""
    text = " ".join((member.__doc__ or "").replace("``", "`").split()).removeprefix(f"`{name}`: ")
    for word in ("When:", "When not:", "Source:"):
        text = text.replace(f" {word}", f" *{word}*")
    return text[0].upper() + text[1:]


def peers() -> Iterator[str]:
    """The tables that the benchmark of the peers wrote."""
    yield (DOCS.parent / "results" / "peers" / "peers.md").read_text(encoding="utf-8").rstrip()


def wrapped(text: str) -> str:
    """An item of a list."""
    return textwrap.fill(
        text, 118, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def presets() -> Iterator[str]:
    """Every preset and what it chooses."""
    shown = ("order", "place", "share", "admit", "limit", "batch")
    rows = (
        (f"`{name}`", *(f"`{getattr(preset, axis)}`" for axis in shown)) for name, preset in PRESETS.items()
    )
    yield from table(("preset", *shown), rows)


def variables() -> Iterator[str]:
    """Every environment variable."""
    yield from table(("variable", ""), ((f"`{name}`", what) for name, what in VARIABLES.items()))


def main(arguments: list[str]) -> int:
    """Write the pages, or say which are not current."""
    stale = []
    for page in (DOCS / name for name in PAGES):
        text = written(page)
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            stale.append(page)
            if "--check" not in arguments:
                page.write_text(text, encoding="utf-8")
    for page in stale:
        sys.stdout.write(f"{'stale' if '--check' in arguments else 'written'}: {page.name}\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
