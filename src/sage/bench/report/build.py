"""Makes a report from folders of results, and checks one that was made."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

import sage.bench.report.sections.all  # noqa: F401 - registers them
from sage.bench.audit import refuse_unsound
from sage.bench.report.canvas import Canvas, Drawn
from sage.bench.report.document import Part
from sage.bench.report.evidence import Evidence, gather
from sage.bench.report.frame import document_of
from sage.bench.report.latex import escaped, files_of
from sage.bench.report.page import page_of
from sage.bench.report.sections import SECTIONS
from sage.bench.report.values import Files, Origin, Read, Shown, evaluated, written
from sage.bench.results import read_experiment, write_json
from sage.clock import wall_time
from sage.errors import InputError
from sage.runtime.runs import write_private

__all__ = ["Checked", "Made", "check_report", "make_report", "parts_of"]

SCHEMA_VERSION = 1
TEX = ("section.tex", "tables.tex", "introduction.tex", "abstract.tex")


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One value of a report: where it comes from, and what is read."""

    text: str
    form: str
    origin: Origin
    half: Origin | None = None


class Values(msgspec.Struct, frozen=True, kw_only=True):
    """``values.json``: every number of a report with its file, and what its figures were drawn from."""

    made: str  # wall time, UTC
    schema_version: int = SCHEMA_VERSION
    roots: Mapping[str, str]  # name of a source -> its folder, from the report's
    sha256: Mapping[str, str]  # file -> hash
    values: Mapping[str, Kept]
    figures: Mapping[str, Drawn]


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What was made."""

    folder: str
    parts: tuple[str, ...]
    missing: tuple[str, ...]
    figures: tuple[str, ...]
    values: int


def make_report(folders: Sequence[Path], out: Path) -> Made:
    """Make the report of all results in some folders.

    Args:
        folders: of experiments, or with such in them.
        out: gets ``report.html``, ``figures/``, ``tables.tex``, ``section.tex``, ``introduction.tex``,
            ``abstract.tex``, ``paper.tex`` and ``values.json``; what an earlier report left there is replaced.

    Raises:
        InputError: a folder has no results, or results that cannot be true. SetupError: matplotlib is missing.
    """
    evidence = gather(folders, _audited)
    out.mkdir(parents=True, exist_ok=True)
    canvas = Canvas(out / "figures")
    document = document_of(evidence, parts_of(evidence, canvas))
    parts = document.parts
    names = Names()
    roots = {name: _from(out, path) for name, path in evidence.files.roots.items()}
    links = {source.root: f"{roots[source.root]}/experiment.json" for source in evidence.sources}
    links |= {
        file: f"{roots[file.split('/')[0]]}/{file.split('/')[1]}"
        for found in evidence.single.values()
        for file in found
    }
    texts = {"report.html": page_of(document, names, out / "figures", links), **files_of(document, names)}
    for name, text in texts.items():
        _write(out / name, text)
    kept = Values(
        made=wall_time(),
        roots=roots,
        sha256=evidence.files.sha256,
        values=names.kept,
        figures=canvas.drawn,
    )
    write_json(out / "values.json", kept)
    found = check_report(out)
    if found.faults:
        raise InputError(f"the report does not agree with itself: {found.faults[0]}; this is a bug in SAGE")
    return Made(
        folder=str(out),
        parts=tuple(part.key for part in parts),
        missing=tuple(title for title, _ in document.missing),
        figures=tuple(canvas.drawn),
        values=len(names.kept),
    )


def parts_of(evidence: Evidence, canvas: Canvas) -> list[Part]:
    """What every section has to say of the evidence."""
    built = (section.build(evidence, canvas) for section in SECTIONS.values())
    return [part for part in built if part is not None]


def _audited(path: Path) -> None:
    """Refuse what cannot be true. Where a simulation kept no logs, only what it kept can be checked.

    Raises:
        InputError: it cannot be true.
    """
    stored = read_experiment(path)
    if stored.manifest.kind != "simulated" or any(cell.manifest.events_sha256 for cell in stored.cells):
        refuse_unsound(path)
        return
    for cell in stored.cells:
        fault = cell.fault()
        if fault is not None:
            raise InputError(f"{path}: cannot be true, and is not reported: {fault}")


def _from(out: Path, path: Path) -> str:
    """A folder as seen from the report, so that both can be moved together."""
    return Path(os.path.relpath(path.resolve(), out.resolve())).as_posix()


def _write(path: Path, text: str) -> None:
    write_private(path, text.encode())
    path.chmod(0o644)


class Names:
    """Gives every value an id, the same to equal ones."""

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        self._ids: dict[bytes, str] = {}

    def __call__(self, part: Shown) -> str:
        """The id of a value as it is shown."""
        kept = Kept(
            text=part.text,
            form=part.form,
            origin=part.value.origin,
            half=None if part.half is None else part.half.origin,
        )
        key = msgspec.json.encode(kept)
        if key not in self._ids:
            self._ids[key] = f"v{len(self._ids) + 1}"
            self.kept[self._ids[key]] = kept
        return self._ids[key]


# --- checking ---------------------------------------------------------------------------------------------


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of a report came to."""

    values: int  # that agree with their files
    places: int  # where they stand in the page and the LaTeX files
    figures: int
    faults: tuple[str, ...] = ()


_IN_PAGE = re.compile(r'<data id-of="(v\d+)" value="[^"]*" title="[^"]*">([^<]*)</data>')
_IN_TEX = re.compile(r"\\sageval\{(v\d+)\}\{((?:[^{}]|\{[^{}]*\})*)\}")
#: Digits in our own LaTeX that are no results.
_OURS = re.compile(
    r"\\(?:providecommand|setlength|label|includegraphics|csname|expandafter)[^\n]*|%[^\n]*"
    r"|\bp(?:50|90|95|99|999)\b|95 \\%|Qwen2\.5-3B|A100"
)


def check_report(out: Path) -> Checked:
    """Whether every number of a report agrees with its file, and stands alike in the page and the LaTeX files.

    Raises:
        InputError: there is no report, or another version of SAGE made it.
    """
    kept = _kept(out)
    files = Files({name: out / folder for name, folder in kept.roots.items()})
    faults = [*_values_faults(kept, files), *_figures_faults(kept, files), *_hash_faults(kept, files)]
    places = 0
    for name in ("report.html", *TEX):
        try:
            text = (out / name).read_text(encoding="utf-8")
        except OSError as error:
            faults.append(f"{name}: cannot be read ({os.strerror(error.errno or 0)})")
            continue
        is_page = name == "report.html"
        found = list((_IN_PAGE if is_page else _IN_TEX).finditer(text))
        places += len(found)
        for match in found:
            value = kept.values.get(match[1])
            wanted = None if value is None else value.text if is_page else escaped(value.text)
            got = html.unescape(match[2]) if is_page else match[2].replace("~", " ")
            if wanted != got:
                faults.append(f"{name}: {match[1]} reads {got!r}, its file gives {wanted!r}")
        faults += _stray(name, _IN_TEX.sub("", text)) if not is_page else ()
    return Checked(values=len(kept.values), places=places, figures=len(kept.figures), faults=tuple(faults))


def _kept(out: Path) -> Values:
    try:
        content = (out / "values.json").read_bytes()
        version = msgspec.json.decode(content, type=dict[str, msgspec.Raw]).get("schema_version", b"1")
        if bytes(version) != str(SCHEMA_VERSION).encode():
            raise InputError(f"{out}: is a report of another version of SAGE; make it again")
        return msgspec.json.decode(content, type=Values)
    except OSError as error:
        raise InputError(
            f"{out}: is no report ({os.strerror(error.errno or 0)}: values.json); make one with sage bench report DIR --out {out}"
        ) from error
    except msgspec.MsgspecError as error:
        raise InputError(f"{out / 'values.json'}: is not what sage bench report writes: {error}") from error


def _values_faults(kept: Values, files: Files) -> Iterator[str]:
    for name, value in kept.values.items():
        try:
            half = None if value.half is None else evaluated(value.half, files)
            text = written(value.form, evaluated(value.origin, files), half)
        except (InputError, KeyError, ValueError, TypeError) as error:
            yield f"{name}: cannot be reckoned again: {error}"
            continue
        if text != value.text:
            yield f"{name}: the report says {value.text!r}, {_where(value.origin)} gives {text!r}"


def _figures_faults(kept: Values, files: Files) -> Iterator[str]:
    for key, drawn in kept.figures.items():
        for label, origins in drawn.values.items():
            for origin, number in zip(origins, drawn.numbers[label], strict=True):
                try:
                    again = None if origin is None else evaluated(origin, files)
                except InputError as error:
                    yield f"figure {key}: {error}"
                    continue
                if again != number:
                    yield f"figure {key}: {label} shows {number}, its file gives {again}"


def _hash_faults(kept: Values, files: Files) -> Iterator[str]:
    for file, wanted in kept.sha256.items():
        try:
            files.content(file)
        except InputError as error:
            yield str(error)
            continue
        if files.sha256[file] != wanted:
            yield f"{file}: was changed after the report was made"


def _stray(name: str, text: str) -> Iterator[str]:
    """Numbers in LaTeX that are no values: there must be none."""
    for line in _OURS.sub("", text).splitlines():
        for found in re.findall(r"(?<![\w-])\d[\d.,]*", line):
            if not re.search(r"\\(?:input|section|subsection|begin|end|centering|resizebox)", line):
                yield f"{name}: has {found!r}, which comes from no file: {line.strip()[:80]!r}"


def _where(origin: Origin) -> str:
    return f"{origin.file} at {origin.pointer}" if isinstance(origin, Read) else f"its {origin.operation}"
