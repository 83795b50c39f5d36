"""A stage in its place: what it is and which streams it reads; and the graph that hangs together below one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from sage.errors import Fault, PipelineError
from sage.stream.specs import Spec, Through, Write

__all__ = ["Graph", "Input", "Node", "graph_of"]


@dataclass(frozen=True, eq=False)
class Node:
    """One stage. Its identity counts: two branches that begin at one node share it."""

    spec: Spec
    inputs: tuple[Input, ...] = ()
    name: str | None = None  # None: named after its kind


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """An output of a node, as another one reads it."""

    node: Node
    port: str = ""


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which each stands behind what it reads, with a name of its own for each."""

    name: str
    nodes: tuple[Node, ...]
    names: tuple[str, ...]

    @cached_property
    def form(self) -> tuple[object, ...]:
        """Equal for graphs that are made alike, whatever their objects."""
        place = {id(node): number for number, node in enumerate(self.nodes)}
        return tuple(
            (node.spec, self.names[number], tuple((place[id(item.node)], item.port) for item in node.inputs))
            for number, node in enumerate(self.nodes)
        )

    def after(self) -> tuple[tuple[str, ...], ...]:
        """Per node, the outputs it reads: ``name`` or ``name.port``."""
        names = {id(node): name for node, name in zip(self.nodes, self.names, strict=True)}
        return tuple(
            tuple(f"{names[id(item.node)]}{item.port and '.'}{item.port}" for item in node.inputs)
            for node in self.nodes
        )

    @property
    def keeps(self) -> bool:
        """Whether what comes out at the end is for the caller, not written away already."""
        return any(not isinstance(node.spec, Write) for node in _ends(self.nodes[-1]))


def graph_of(name: str, last: Node) -> Graph:
    """The graph that ends in a node.

    Raises:
        PipelineError: two stages were given the same name, or write the same file.
    """
    nodes: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Node, Iterator[Input]]] = [(last, iter(last.inputs))]
    seen.add(id(last))
    while stack:
        node, inputs = stack[-1]
        below = next((item.node for item in inputs if id(item.node) not in seen), None)
        if below is None:
            nodes.append(node)
            stack.pop()
        else:
            seen.add(id(below))
            stack.append((below, iter(below.inputs)))
    faults = [*_twice(nodes), *_overwritten(nodes)]
    if faults:
        raise PipelineError(name, faults, what="stream")
    return Graph(name, tuple(nodes), _names(nodes))


def _ends(node: Node) -> Iterator[Node]:
    """Where the records of a stream come to rest: behind a merge, at each of its inputs."""
    if node.spec.KIND == "merge":
        for item in node.inputs:
            yield from _ends(item.node)
    else:
        yield node


def _names(nodes: Sequence[Node]) -> tuple[str, ...]:
    """As said, else after the pipeline or the kind, with a number where that is taken."""
    taken = {node.name for node in nodes if node.name is not None}
    found: list[str] = []
    for node in nodes:
        if node.name is not None:
            found.append(node.name)
            continue
        base = node.spec.pipeline.name if isinstance(node.spec, Through) else node.spec.KIND
        base = base.replace(".", "_")
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        found.append(name)
    return tuple(found)


def _twice(nodes: Sequence[Node]) -> Iterator[Fault]:
    seen: set[str] = set()
    for node in nodes:
        if node.name is not None and node.name in seen:
            yield Fault(node.name, "two stages are called so; rename one")
        seen.add(node.name or "")


def _overwritten(nodes: Sequence[Node]) -> Iterator[Fault]:
    """Files that would be written twice, or read and written."""
    written: set[str] = set()
    read = {path for node in nodes if (path := getattr(node.spec, "path", None)) and node.spec.KIND == "read"}
    for node in nodes:
        if not isinstance(node.spec, Write) or node.spec.path is None or node.spec.path == "-":
            continue
        path = node.spec.path
        if path in written:
            yield Fault(
                None, f"two stages write {path!r}; give one another file, or merge their streams first"
            )
        if path in read:
            yield Fault(None, f"{path!r} is read and written; it would be overwritten before it is read")
        written.add(path)
