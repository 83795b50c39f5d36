"""A report as one page of HTML that needs nothing else: styles, script and figures are in it."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sage.bench.report.document import Block, Document, Figure, Paragraph, Part, Table, Text
from sage.bench.report.values import Shown

__all__ = ["page_of"]

Named = Callable[[Shown], str]

_STYLE = """
:root { color-scheme: light dark; --fg: #1a1a1a; --bg: #fff; --quiet: #595959; --line: #d0d0d0; --stripe: #f6f6f6; }
@media (prefers-color-scheme: dark) {
  :root { --fg: #e8e8e8; --bg: #161616; --quiet: #a8a8a8; --line: #444; --stripe: #202020; }
}
body { font: 16px/1.55 system-ui, sans-serif; color: var(--fg); background: var(--bg); max-width: 66rem; margin: auto;
  padding: 1.5rem; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
nav { font-size: .9rem; } nav a { margin-right: .9rem; }
a { color: inherit; }
figure { margin: 1.5rem 0; } figure svg { width: 100%; height: auto; max-height: 34rem; background: #fff; }
figcaption, caption { font-size: .88rem; color: var(--quiet); text-align: left; }
caption { padding-bottom: .4rem; }
.wide { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; min-width: 60%; }
th, td { padding: .25rem .5rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th.l, td.l { text-align: left; }
tbody tr:nth-child(even) { background: var(--stripe); }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid; } th button::after { content: " \\2195"; color: var(--quiet); }
th[aria-sort=ascending] button::after { content: " \\2191"; } th[aria-sort=descending] button::after { content: " \\2193"; }
data { cursor: help; }
@media print { body { max-width: none; } th button::after { content: ""; } figure, table { break-inside: avoid; } }
"""

_SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  table.querySelectorAll("th button").forEach((button, column) => button.addEventListener("click", () => {
    const head = button.parentElement, up = head.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => {
      const cell = row.cells[column], data = cell.querySelector("data");
      const number = data ? Number(data.value) : NaN;
      return Number.isNaN(number) ? cell.textContent : number;
    };
    const body = table.tBodies[0];
    [...body.rows].sort((one, other) => {
      const a = key(one), b = key(other);
      const order = typeof a === "number" && typeof b === "number" ? a - b
        : typeof a === "number" ? -1 : typeof b === "number" ? 1 : a.localeCompare(b);
      return up ? order : -order;
    }).forEach(row => body.append(row));
  }));
}
"""


def page_of(document: Document, named: Named, figures: Path, links: Mapping[str, str]) -> str:
    """The page.

    Args:
        document: what it says.
        named: the id of a value, as in ``values.json``.
        figures: folder with the figures as svg.
        links: source -> address of its raw files.
    """
    sections = [
        _section("setup", "Set-up", _blocks(document.setup, named, figures)),
        *(_section(part.key, part.title, _part(part, named, figures, links)) for part in document.parts),
        *([_section("missing", "Missing experiments", _missing(document))] if document.missing else []),
        _section("discussion", "Discussion", _blocks(document.discussion, named, figures)),
        _section("limitations", "Limitations", _blocks(document.limitations, named, figures)),
        _section("future", "Future work", _blocks(document.future, named, figures)),
    ]
    titles = [("setup", "Set-up"), *((part.key, part.title) for part in document.parts)]
    if document.missing:
        titles.append(("missing", "Missing"))
    titles += [("discussion", "Discussion"), ("limitations", "Limitations"), ("future", "Future work")]
    nav = "".join(f'<a href="#{key}">{html.escape(title)}</a>' for key, title in titles)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(document.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(document.title)}</h1>\n{_blocks(document.abstract, named, figures)}\n"
        f"<nav>{nav}</nav>\n"
        "<p>Every number comes from a result file: point at one to see which. Tables sort by their headers.</p>\n"
        f"{''.join(sections)}\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _section(key: str, title: str, content: str) -> str:
    return f'<section id="{key}">\n<h2>{html.escape(title)}</h2>\n{content}\n</section>\n'


def _part(part: Part, named: Named, figures: Path, links: Mapping[str, str]) -> str:
    raw = ", ".join(
        f'<a href="{html.escape(links[source])}">{html.escape(source)}</a>'
        for source in part.sources
        if source in links
    )
    return _blocks(part.blocks, named, figures) + (f"\n<p>Raw files: {raw}</p>" if raw else "")


def _missing(document: Document) -> str:
    items = "".join(
        f"<li>{html.escape(title)}: no results were given; <code>{html.escape(command)}</code> makes them</li>"
        for title, command in document.missing
    )
    return f"<ul>{items}</ul>"


def _blocks(blocks: Sequence[Block], named: Named, figures: Path) -> str:
    return "\n".join(_block(block, named, figures) for block in blocks)


def _block(block: Block, named: Named, figures: Path) -> str:
    match block:
        case Paragraph():
            return f"<p>{_text(block.text, named)}</p>"
        case Figure():
            drawing = _drawing(figures / f"{block.key}.svg", block)
            return f'<figure id="{block.key}">\n{drawing}\n<figcaption>{_text(block.caption, named)}</figcaption>\n</figure>'
        case Table():
            return _table(block, named)


def _drawing(path: Path, block: Figure) -> str:
    """The svg, with names of its own inside, for several stand on one page."""
    text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    for name in set(re.findall(r'\bid="([^"]+)"', text)):
        text = re.sub(
            rf'(id="|url\(#|xlink:href="#){re.escape(name)}(?=["\)])', rf"\g<1>{block.key}-{name}", text
        )
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(block.alt)}"', 1)


def _table(table: Table, named: Named) -> str:
    def side(column: int) -> str:
        return ' class="l"' if column < table.num_labels else ""

    head = "".join(
        f'<th scope="col"{side(column)}><button type="button">{html.escape(title)}</button></th>'
        for column, title in enumerate(table.header)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(f"<td{side(column)}>{_text(cell, named)}</td>" for column, cell in enumerate(row))
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="wide"><table id="{table.key}">\n<caption>{_text(table.caption, named)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _text(text: Text, named: Named) -> str:
    return "".join(html.escape(part) if isinstance(part, str) else _value(part, named(part)) for part in text)


def _value(part: Shown, name: str) -> str:
    content = html.escape(str(part.value.content))
    origin = html.escape(described(part))
    return f'<data id-of="{name}" value="{content}" title="{origin}">{html.escape(part.text)}</data>'


def described(part: Shown) -> str:
    """Where a value comes from, for people."""
    from sage.bench.report.values import Origin, Read

    def say(origin: Origin) -> str:
        if isinstance(origin, Read):
            return f"{origin.file} {origin.pointer}"
        several = [say(each) for each in origin.of]
        shown = ", ".join(several[:3]) + (f" and {len(several) - 3} more" if len(several) > 3 else "")
        return f"{origin.operation} of ({shown})"

    return say(part.value.origin)
