"""Pipelines in YAML files: read with the place of every fault, written back in a compact form.

Scalars are read as YAML 1.2 says (``yes``, ``on`` and ``1:30`` are text); what is written reads the same in 1.1.
Tags, anchors and aliases are refused, so a small file cannot grow in memory or make objects.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sage.errors import InputError
from sage.graph.form import Operators
from sage.graph.form_read import Written, read_form
from sage.graph.form_write import write_form
from sage.graph.step import Step
from sage.graph.yamltext import yaml_text

__all__ = ["dump_pipeline", "load_data", "load_document", "load_pipeline"]

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
MAX_DIGITS = 32

_WORDS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


def load_pipeline(source: str | Path, operators: Operators) -> Written:
    """The pipeline in YAML text, or in the file at a Path.

    Raises:
        InputError: the file cannot be read, it is no YAML (with line and column), or no pipeline.
    """
    name, data, lines = load_document(source)
    try:
        return read_form(data, operators, lines)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def load_document(source: str | Path) -> tuple[str, Any, Mapping[tuple[str, ...], int]]:
    """What YAML text is called, or the file at a Path; its data; and the line of every key, by the keys to it.

    Raises:
        InputError: the file cannot be read, or it is no YAML (with line and column).
    """
    name, text = ("yaml", source) if isinstance(source, str) else (str(source), _content(source))
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InputError(f"{name}: is larger than {MAX_BYTES >> 20} MiB; that is no pipeline")
    document = _Document(name, text)
    return name, document.data, document.lines


def load_data(path: Path) -> Any:
    """The data in a YAML file that is no pipeline, read by the same rules.

    Raises:
        InputError: the file cannot be read, or it is no YAML (with line and column).
    """
    return _Document(str(path), _content(path)).data


def dump_pipeline(
    name: str,
    steps: Mapping[str, Step],
    declared: tuple[str, ...] | None,
    outputs: tuple[str, ...] | None,
    operators: Operators,
) -> str:
    """The pipeline as YAML, which :func:`load_pipeline` turns into equal steps.

    Raises:
        InputError: a step cannot be written, such as a function that is not registered.
    """
    form = write_form(name, steps, declared, outputs, operators)
    if (depth := _depth(form)) > MAX_DEPTH:
        raise InputError(
            f"pipeline {name!r} would be nested {depth} deep in YAML, more than the {MAX_DEPTH} that are read; "
            "make steps of the inner pipelines"
        )
    return yaml_text(form)


def _depth(value: Any) -> int:
    """How deep the deepest scalar stands, as ``_Document`` counts."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return max((1 + _depth(item) for item in inner), default=0)


def _content(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: is larger than {MAX_BYTES >> 20} MiB; that is no pipeline")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8; save the file in that encoding") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


class _Document:
    """One parsed document: its data, and the line of every key by the keys that lead to it."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._lines: dict[tuple[str, ...], int] = {}
        self._events = self._parsed(text)
        self.data = self._read()

    @property
    def lines(self) -> Mapping[tuple[str, ...], int]:
        """Counted from 1."""
        return self._lines

    def _read(self) -> Any:
        next(self._events)  # the start of the stream
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        data = self._value(next(self._events), (), 0)
        next(self._events)  # the end of the document
        if not isinstance(event := next(self._events), yaml.StreamEndEvent):
            raise self._fault(event, "a second document begins here; expected one pipeline a file")
        return data

    def _parsed(self, text: str) -> Iterator[Any]:
        try:
            yield from yaml.parse(text, Loader=yaml.SafeLoader)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            column = error.position - text.rfind("\n", 0, error.position)
            raise InputError(
                f"{self._name}:{line}:{column}: the character {error.character!r} may not stand in YAML; "
                "write it as an escape in double quotes"
            ) from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{mark.line + 1}:{mark.column + 1}: " if mark is not None else ""
            context = f" {error.context}" if error.context else ""
            raise InputError(
                f"{self._name}:{where}{error.problem}{context}; text with braces, a colon or a quote in it "
                "stands in double quotes"
            ) from error

    def _value(self, event: Any, path: tuple[str, ...], depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self._fault(event, "anchors and aliases (&, *) are not allowed; write the value out")
        if event.tag is not None:
            raise self._fault(event, f"the tag {event.tag!r} is not allowed; write a plain value")
        if depth > MAX_DEPTH:
            raise self._fault(event, f"is nested more than {MAX_DEPTH} deep; that is no pipeline")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(event, path, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path, depth)
        return self._scalar(event)

    def _sequence(self, path: tuple[str, ...], depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, str(len(items))), depth + 1))
        return items

    def _mapping(self, start: Any, path: tuple[str, ...], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._value(event, path, depth + 1)
            if not isinstance(key, str):
                said = event.value if isinstance(event, yaml.ScalarEvent) else f"a {type(key).__name__}"
                raise self._fault(event, f"the key {said} is no text; put it in quotes")
            here = (*path, key)
            if key in found:
                first = self._lines[here]
                raise self._fault(event, f"the key {key!r} stands twice, first on line {first}; rename one")
            self._lines[here] = event.start_mark.line + 1
            value = next(self._events)
            if (
                start.flow_style
                and isinstance(value, yaml.ScalarEvent)
                and value.value == ""
                and not value.style
            ):
                raise self._fault(
                    event,
                    f'{key!r} has no value; to read the field {key!r}, put the braces in quotes: "{{{key}}}"',
                )
            found[key] = self._value(value, here, depth + 1)
        return found

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.style:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text) and len(text) <= MAX_DIGITS:
            return int(text)
        if not _FLOAT.fullmatch(text):
            return text
        if math.isinf(number := float(text)) or _INT.fullmatch(text):
            raise self._fault(event, "the number is too long; put it in quotes if it is text")
        return number

    def _fault(self, event: Any, message: str) -> InputError:
        mark = event.start_mark
        return InputError(f"{self._name}:{mark.line + 1}:{mark.column + 1}: {message}")
