"""The values that travel along edges, and their two outer forms: text in a prompt, JSON in a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    #: One embedding: unit length, float32, shape (dimension,).
    Vector = NDArray[np.float32]
else:
    Vector = Any

__all__ = ["Passage", "Record", "Vector", "render", "to_json"]

#: What goes in and comes out of a pipeline: field -> value.
Record = dict[str, Any]


class Passage(msgspec.Struct, frozen=True):
    """A piece of a document, as found by a search.

    ``score`` compares passages of one search only: cosine for vectors, BM25 for words, RRF for both.
    """

    id: str
    text: str
    title: str = ""
    score: float = 0.0
    meta: Mapping[str, Any] = {}


def render(value: Any) -> str:
    """A value as it stands in a prompt.

    A str is itself; a list of str is joined by blank lines; passages are numbered; None is empty; anything
    else is JSON.

    >>> render([Passage("b", "Locate the place.", title="bisect")])
    '[1] bisect: Locate the place.'
    >>> render({"a": 1}), render(None), render(2.5)
    ('{"a":1}', '', '2.5')
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, Passage):
        value = [value]
    if isinstance(value, list | tuple) and value:
        if all(isinstance(item, str) for item in value):
            return "\n\n".join(value)
        if all(isinstance(item, Passage) for item in value):
            return "\n\n".join(_numbered(number, item) for number, item in enumerate(value, 1))
    return msgspec.json.encode(value, enc_hook=_plain).decode()


def to_json(value: Any) -> Any:
    """A value as plain JSON data; vectors become None, and fields that hold one are left out of records.

    Raises:
        TypeError: the value has no JSON form.
    """
    return msgspec.to_builtins(_without_vectors(value), enc_hook=_plain)


def is_vector(value: Any) -> bool:
    """Whether the value is a numpy array (of any shape). Does not import numpy."""
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray"


def _numbered(number: int, passage: Passage) -> str:
    title = f"{passage.title}: " if passage.title else ""
    return f"[{number}] {title}{passage.text}"


def _without_vectors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_vectors(item) for key, item in value.items() if not is_vector(item)}
    if isinstance(value, list | tuple):
        return [_without_vectors(item) for item in value if not is_vector(item)]
    return None if is_vector(value) else value


def _plain(value: Any) -> Any:
    """Types that msgspec does not know: pydantic models, numpy scalars and arrays."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump()
    if type(value).__module__ == "numpy":
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    raise TypeError(f"a value of type {type(value).__name__!r} has no JSON form")
