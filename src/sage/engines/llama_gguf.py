"""What a GGUF file says about itself, read without loading it, and whether all of it is there.

The layout is that of ggml-org/ggml ``docs/gguf.md``, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.errors import SetupError

__all__ = ["GgufInfo", "read_gguf"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 8

#: Type number -> struct format. 8 is a string, 9 an array.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GgufInfo:
    """A model in a GGUF file."""

    architecture: str
    context_tokens: int | None  # that it was trained for


class _Reader:
    """Walks through a file's bytes; a step beyond their end is a struct.error."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def number(self, form: str) -> Any:
        layout = "<" + form
        (value,) = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return value

    def string(self) -> bytes:
        length = self.number("Q")
        self.skip(length)
        return self.data[self.at - length : self.at]

    def value(self, kind: int) -> Any:
        """A value; an array's contents are passed over."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(_scalar(kind))
        item, count = self.number("I"), self.number("Q")
        if item == _STRING:
            for _ in range(count):
                self.skip(self.number("Q"))
        elif item == _ARRAY:
            raise ValueError("arrays of arrays")
        else:
            self.skip(struct.calcsize("<" + _scalar(item)) * count)
        return None

    def skip(self, length: int) -> None:
        if length > len(self.data) - self.at:
            raise struct.error("beyond the end of the file")
        self.at += length


def read_gguf(path: Path) -> GgufInfo:
    """What a GGUF file says.

    Raises:
        SetupError: it is a folder, no GGUF, of an unknown version, or cut short.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
            if start != MAGIC:
                raise SetupError(
                    f"{path} is no GGUF file: it begins with {start!r}, not {MAGIC!r}; "
                    "was an error page saved in its place?"
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(_Reader(data))
    except IsADirectoryError as error:
        raise SetupError(
            f"{path} is a folder; llama: takes a GGUF file, folders of embedders open with bert:"
        ) from error
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from error
    except struct.error as error:
        raise SetupError(f"{path} is cut short; download it again") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} is no GGUF file that we can read: {error}; download it again") from error


def _read(reader: _Reader) -> GgufInfo:
    reader.skip(len(MAGIC))
    version = reader.number("I")
    if version not in VERSIONS:
        raise ValueError(f"its version is {version}, expected 2 or 3")
    num_tensors, num_keys = reader.number("Q"), reader.number("Q")
    facts: dict[bytes, Any] = {}
    for _ in range(num_keys):
        key = reader.string()
        facts[key] = reader.value(reader.number("I"))
    last_offset = max((_tensor_offset(reader) for _ in range(num_tensors)), default=0)
    alignment = facts.get(b"general.alignment") or DEFAULT_ALIGNMENT
    data_start = -(-reader.at // alignment) * alignment
    if data_start + last_offset >= len(reader.data):
        raise struct.error("tensors lie beyond the end of the file")
    architecture = facts.get(b"general.architecture")
    if not isinstance(architecture, bytes):
        raise ValueError("it does not say its architecture")  # noqa: TRY004 - the file's fault, not a caller's
    context_tokens = facts.get(architecture + b".context_length")
    known = isinstance(context_tokens, int) and context_tokens > 0
    return GgufInfo(architecture.decode(), context_tokens if known else None)


def _tensor_offset(reader: _Reader) -> int:
    """Where a tensor's data begin, after the header; reads past its description."""
    reader.string()
    num_dimensions = reader.number("I")
    if num_dimensions > MAX_DIMENSIONS:
        raise ValueError(f"a tensor has {num_dimensions} dimensions")
    reader.skip(8 * num_dimensions + 4)
    offset: int = reader.number("Q")
    return offset


def _scalar(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"it holds a value of the unknown type {kind}")
    return _SCALARS[kind]
