"""Tensors of a safetensors file, mapped into memory: nothing is read before it is used.

The layout is that of huggingface/safetensors: 8 bytes of header length, a JSON header, then the data.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sage.errors import SetupError

__all__ = ["read_tensors"]

MAX_HEADER_BYTES = 100_000_000
Count = Annotated[int, msgspec.Meta(ge=0)]

#: Those a model's weights come in. BF16 is the upper half of a float32.
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64}


class Entry(msgspec.Struct):
    """Where a tensor lies."""

    dtype: str
    shape: list[Count]
    data_offsets: tuple[Count, Count]


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file by name. Float32 ones are views of the file; F16 and BF16 ones are widened.

    Raises:
        SetupError: the file cannot be read, is cut short or is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise SetupError(f"{path} cannot be read: {error}") from error
    start = 8 + int.from_bytes(data[:8], "little")
    if start > min(len(data), MAX_HEADER_BYTES):
        raise SetupError(f"{path} is no safetensors file, or is cut short; download it again")
    try:
        header = msgspec.json.decode(data[8:start], type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(raw, type=Entry) for name, raw in header.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} is no safetensors file: {error}; download it again") from error
    return {name: _tensor(path, name, entry, data, start) for name, entry in entries.items()}


def _tensor(path: Path, name: str, entry: Entry, data: mmap.mmap, start: int) -> NDArray[Any]:
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise SetupError(
            f"{path}: tensor {name!r} has type {entry.dtype!r}; expected one of {', '.join(_DTYPES)}"
        )
    begin, end = entry.data_offsets
    count = math.prod(entry.shape)
    if end - begin != count * np.dtype(dtype).itemsize or start + end > len(data):
        raise SetupError(f"{path} is cut short or damaged at tensor {name!r}; download it again")
    flat: NDArray[Any] = np.frombuffer(data, dtype, count, start + begin)
    if entry.dtype == "BF16":
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    elif entry.dtype in {"F16", "F64"}:
        flat = flat.astype(np.float32)
    return flat.reshape(entry.shape)
