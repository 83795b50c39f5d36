"""Many short byte strings in two arrays, so that a file of them opens at once and any one is read alone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blob"]


@dataclass(frozen=True, slots=True)
class Blob:
    """Lines, each ended by a newline in ``data``; line ``i`` is ``data[offsets[i]:offsets[i + 1]]``."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, lines: Iterable[bytes]) -> Blob:
        """Lines without newlines in them, packed.

        >>> list(Blob.of([b"one", b"", b"three"]))
        [b'one', b'', b'three']
        """
        ended = [line + b"\n" for line in lines]
        offsets = np.zeros(len(ended) + 1, dtype=np.int64)
        np.cumsum([len(line) for line in ended], out=offsets[1:])
        return cls(np.frombuffer(b"".join(ended), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> bytes:
        return self.data[self.offsets[row] : self.offsets[row + 1] - 1].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        offsets = self.offsets.tolist()
        data = self.data.tobytes()
        for start, end in pairwise(offsets):
            yield data[start : end - 1]

    def find(self, line: bytes) -> int | None:
        """Where a line stands, in a blob whose lines are sorted and distinct."""
        row = bisect_left(range(len(self)), line, key=self.__getitem__)
        return row if row < len(self) and self[row] == line else None

    @property
    def sound(self) -> bool:
        """Whether the offsets cut the data into lines."""
        offsets = self.offsets
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != len(self.data):
            return False
        return bool(np.all(offsets[1:] > offsets[:-1]))
