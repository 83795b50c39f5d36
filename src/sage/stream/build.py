"""From a stream's nodes to its stages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from sage.errors import InputError
from sage.graph.values import Record
from sage.runtime.base import JobFailure
from sage.stream.joins import JoinStage, SortedMerge, Waiting
from sage.stream.node import Node
from sage.stream.singles import FilterStage, MapStage, MergeStage, ScanStage, SelectStage, TakeStage
from sage.stream.sinks import write_stage
from sage.stream.sources import lists_of
from sage.stream.specs import (
    Documents,
    Filter,
    FlatMap,
    Join,
    Map,
    Merge,
    Read,
    Records,
    Reduce,
    Scan,
    Select,
    Take,
    Through,
    Write,
)
from sage.stream.stages import Gate, Host, Items, Stage
from sage.stream.waits import Feed, FlatMapStage, ThroughStage
from sage.stream.windows import window_stage

__all__ = ["Building", "End", "Out", "SourceStage", "stage_of"]

#: Gets what comes out at the end: records, and failures as they happen.
Out = Callable[[Record | JobFailure], None]


class Building(Host, Feed, Protocol):
    """What is at hand when stages are made."""

    @property
    def waiting(self) -> Waiting:
        """The sources that wait for each other."""

    @property
    def max_inflight(self) -> int | None:
        """Jobs at once, where a stage does not say."""


def stage_of(node: Node, name: str, host: Building) -> Stage:
    """The stage that a node becomes.

    Raises:
        InputError: a file cannot be opened.
    """
    match node.spec:
        case Read() | Documents() | Records() as spec:
            source = SourceStage(name, host)
            source.lists = lists_of(spec, source.refuse, host.clock)
            return source
        case Map() as spec:
            return MapStage(name, host, spec)
        case Filter() as spec:
            return FilterStage(name, host, spec)
        case FlatMap() as spec:
            return FlatMapStage(name, host, spec)
        case Select() as spec:
            return SelectStage(name, host, spec)
        case Take() as spec:
            return TakeStage(name, host, spec)
        case Scan() as spec:
            return ScanStage(name, host, spec)
        case Reduce() as spec:
            return window_stage(spec)(name, host, spec)
        case Join() as spec:
            return JoinStage(name, host, spec, host.waiting)
        case Merge(by=None):
            return MergeStage(name, host)
        case Merge() as spec:
            return SortedMerge(name, host, spec, host.waiting, len(node.inputs))
        case Through() as spec:
            return ThroughStage(name, host, spec, host, host.max_inflight)
        case Write() as spec:
            return write_stage(name, host, spec)
        case other:
            raise InputError(f"there is no way to carry out a {type(other).__name__}")


class SourceStage(Stage):
    """The node at which records come in."""

    lists: AsyncIterator[Items]

    def refuse(self, error: InputError) -> None:
        """A row cannot be read."""
        self.taken += 1
        self.failed += 1
        self.host.failed(JobFailure(self.taken - 1, {}, "failed", error, self.name))


class End(Stage):
    """Hands records to whoever asked for them."""

    def __init__(self, host: Host, out: Out, gate: Gate | None) -> None:
        super().__init__("", host)
        self._to = out
        self._gate = gate

    def inlets(self, _number: int, /) -> list[Gate]:
        """What has to have room before records may come in here."""
        return [] if self._gate is None else [self._gate]

    def take(self, items: Items, _number: int, /) -> None:
        """Deal with records that came in."""
        for record in items:
            self._to(record)
