"""A stream in forms to look at: text, a mermaid chart, an svg picture, JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from sage.errors import InputError, nearest
from sage.graph.picture import Box, boxes_svg
from sage.graph.render import escaped
from sage.stream.node import Graph, Node
from sage.stream.specs import Through

__all__ = ["shown"]


def shown(graph: Graph, form: str) -> str:
    """The graph in one of the forms.

    Raises:
        InputError: there is no such form.
    """
    if form not in _RENDERERS:
        raise InputError(f"unknown form {form!r}: {nearest(form, _RENDERERS)}")
    return _RENDERERS[form](graph)


def _text(graph: Graph) -> str:
    rows = [("stage", "kind", "about", "reads")]
    for node, name, reads in zip(graph.nodes, graph.names, graph.after(), strict=True):
        rows.append((name, node.spec.KIND, node.spec.about() or "-", ", ".join(reads) or "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    table.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([f"stream  {graph.name}", "", *table]) + "\n"


def _mermaid(graph: Graph) -> str:
    place = {id(node): f"n{number}" for number, node in enumerate(graph.nodes)}
    lines = ["flowchart TD"]
    for node, name in zip(graph.nodes, graph.names, strict=True):
        words = "<br/>".join(escaped(line) for line in (name, _below(node, name)) if line)
        lines.append(f'    {place[id(node)]}["{words}"]')
    for node in graph.nodes:
        for item in node.inputs:
            port = f'-- "{escaped(item.port)}" -->' if item.port else "-->"
            lines.append(f"    {place[id(item.node)]} {port} {place[id(node)]}")
    return "\n".join(lines) + "\n"


def _svg(graph: Graph) -> str:
    names = {id(node): name for node, name in zip(graph.nodes, graph.names, strict=True)}
    boxes = []
    for node, name in zip(graph.nodes, graph.names, strict=True):
        kind = "input" if not node.inputs else "model" if isinstance(node.spec, Through) else "step"
        ports = "".join(f"{item.port} of {names[id(item.node)]}: " for item in node.inputs if item.port)
        after = tuple(names[id(item.node)] for item in node.inputs)
        boxes.append(Box(name, ports + _below(node, name), kind, after))
    return boxes_svg(graph.name, boxes)


def _below(node: Node, name: str) -> str:
    """What a stage does, without saying its name again."""
    kind, about = node.spec.KIND, node.spec.about()
    said = [kind] if name.rstrip("_0123456789") != kind else []
    return " ".join([*said, about] if about and about != name else said)


def _json(graph: Graph) -> str:
    stages = [
        {"name": name, "kind": node.spec.KIND, "about": node.spec.about(), "reads": list(reads)}
        for node, name, reads in zip(graph.nodes, graph.names, graph.after(), strict=True)
    ]
    content = msgspec.json.encode({"stream": graph.name, "stages": stages})
    return msgspec.json.format(content, indent=2).decode() + "\n"


_RENDERERS: Mapping[str, Callable[[Graph], str]] = {
    "text": _text,
    "mermaid": _mermaid,
    "svg": _svg,
    "json": _json,
}
