"""What a report is made from: experiments and other results, found in folders, checked before a number is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sage.bench.report.values import Files, Shown, Value, computed, shown
from sage.bench.results import Axis, StoredCell, StoredExperiment, is_experiment, read_experiment
from sage.errors import InputError
from sage.registry import Registry

__all__ = ["FILES", "Evidence", "Point", "Source", "gather"]

#: Results that are one JSON file and no experiment: the file's name, by what it holds.
FILES: Registry[str] = Registry("result file")
FILES["overhead"] = "overhead.json"
FILES["peers"] = "peers.json"

_DEPTH = 4  # folders below a given one that are searched


@dataclass(frozen=True, slots=True)
class Point:
    """Cells of an experiment that differ only by their repeat."""

    source: Source
    places: tuple[int, ...]  # of its cells in experiment.json

    @property
    def axes(self) -> Mapping[str, Axis]:
        """Where it stands."""
        return self.cells[0].manifest.axes

    @property
    def cells(self) -> list[StoredCell]:
        """Its cells."""
        every = self.source.stored.cells
        return [every[place] for place in self.places]

    def axis(self, name: str) -> Value:
        """Where it stands on an axis, as a value."""
        return self.source.fact(f"cells/{self.places[0]}/axes/{name}")

    def each(self, pointer: str) -> list[Value | None]:
        """A figure of each of its cells."""
        files = self.source.files
        return [
            files.at(f"{self.source.root}/{cell.manifest.name}/summary.json", pointer) for cell in self.cells
        ]

    def mean(self, pointer: str) -> Value | None:
        """A figure over its repeats; None if one of them cannot tell it."""
        several = self.each(pointer)
        return several[0] if len(several) == 1 else computed("mean", several)

    def half(self, pointer: str) -> Value | None:
        """Half of that figure's interval, where there are repeats enough."""
        return computed("half", self.each(pointer))

    def shown(self, pointer: str, form: str) -> Shown | str:
        """A figure as it stands in a table."""
        return shown(self.mean(pointer), form, self.half(pointer))

    def sum(self, pointer: str) -> Value | None:
        """The numbers of a mapping, added up over its repeats."""
        return computed(
            "sum",
            [
                self.source.files.sum_at(f"{self.source.root}/{cell.manifest.name}/summary.json", pointer)
                for cell in self.cells
            ],
        )


@dataclass(frozen=True, slots=True)
class Source:
    """One experiment that was checked."""

    root: str  # its name in the report
    stored: StoredExperiment
    files: Files

    @property
    def kind(self) -> str:
        """measured, simulated or replayed."""
        return self.stored.manifest.kind

    @property
    def points(self) -> list[Point]:
        """Its points, in the order they were first run."""
        groups: dict[tuple[tuple[str, Axis], ...], list[int]] = {}
        for place, cell in enumerate(self.stored.manifest.cells):
            groups.setdefault(tuple(cell.axes.items()), []).append(place)
        return [Point(self, tuple(places)) for places in groups.values()]

    def where(self, **axes: Axis) -> list[Point]:
        """The points at some place of some axes."""
        return [p for p in self.points if all(p.axes.get(name) == value for name, value in axes.items())]

    def along(self, axis: str) -> list[Axis]:
        """Every place of an axis, in order of appearance."""
        return list(dict.fromkeys(point.axes[axis] for point in self.points))

    def fact(self, pointer: str) -> Value:
        """Something its manifest says."""
        return self.files.sure(f"{self.root}/experiment.json", pointer)

    def maybe(self, pointer: str) -> Value | None:
        """The same, where it may be missing."""
        return self.files.at(f"{self.root}/experiment.json", pointer)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a report is made from."""

    files: Files
    sources: Sequence[Source]
    single: Mapping[str, Sequence[str]]  # kind of result file -> names in the report

    def of(self, experiment: str) -> list[Source]:
        """The experiments of a name, measured ones first."""
        found = [source for source in self.sources if source.stored.manifest.experiment == experiment]
        return sorted(found, key=lambda source: source.kind != "measured")


def gather(folders: Sequence[Path], audit: Callable[[Path], None]) -> Evidence:
    """Find results in folders, and check each.

    Args:
        folders: of experiments, or with such in them.
        audit: raises InputError for an experiment that cannot be true.

    Raises:
        InputError: a folder has no results; an experiment is not sound or not complete.
    """
    roots: dict[str, Path] = {}
    stored: dict[str, StoredExperiment] = {}
    single: dict[str, list[str]] = {kind: [] for kind in FILES}
    for folder in folders:
        found = False
        for path in _experiments(folder):
            name = _name_of(path, folder, roots)
            audit(path)
            experiment = read_experiment(path)
            if not experiment.cells:
                raise InputError(f"{path}: holds no cell; run it first")
            roots[name], stored[name], found = path, experiment, True
        for kind, file in FILES.items():
            for path in _files(folder, file):
                name = _name_of(path.parent, folder, roots, kind)
                roots[name], found = path.parent, True
                single[kind].append(f"{name}/{file}")
        if not found:
            raise InputError(
                f"{folder}: holds no results; expected folders that sage bench made with --out, "
                f"or {' or '.join(FILES.values())}"
            )
    files = Files(roots)
    sources = [Source(name, experiment, files) for name, experiment in stored.items()]
    return Evidence(files, sources, single)


def _experiments(folder: Path) -> Iterator[Path]:
    if is_experiment(folder):
        yield folder
        return
    for depth in range(1, _DEPTH):
        for file in sorted(folder.glob("/".join(["*"] * depth + ["experiment.json"]))):
            yield file.parent


def _files(folder: Path, name: str) -> Iterator[Path]:
    for depth in range(_DEPTH):
        yield from sorted(folder.glob("/".join(["*"] * depth + [name])))


def _name_of(path: Path, folder: Path, taken: Mapping[str, Path], prefix: str = "") -> str:
    """A short name for a folder that no other has."""
    parts = [*path.resolve().relative_to(folder.resolve()).parts] or [path.resolve().name]
    if prefix and prefix not in parts:
        parts.insert(0, prefix)
    name = "-".join(parts)
    if name in taken and taken[name].resolve() != path.resolve():
        name = f"{path.resolve().parent.name}-{name}"
    if name in taken and taken[name].resolve() != path.resolve():
        raise InputError(
            f"{path}: another folder is named {name!r} in this report; give their common parent instead"
        )
    return name
