"""One BLAS thread while many small products are made, as threadpoolctl does it, without the dependency.

OpenBLAS wakes a thread per CPU for each product and lets them spin in between: on two CPUs the products of an
embedder cost two to four times the CPU time of one thread. Its thread count is one number for the whole process,
so it is lowered only while an embedder computes, and raised again after.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np

__all__ = ["one_blas_thread"]


class Switch(NamedTuple):
    """OpenBLAS's own functions."""

    get: Callable[[], int]
    set: Callable[[int], None]


class _Users:
    """How many blocks want one thread now, and what the count was before the first of them."""

    lock = Lock()  # held for both fields and for the change they stand for
    num_inside = 0
    num_threads_before = 1


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """While any thread is inside, products use one BLAS thread. Does nothing if numpy has another BLAS."""
    switch = _switch()
    if switch is None:
        yield
        return
    with _Users.lock:
        if _Users.num_inside == 0:
            _Users.num_threads_before = switch.get()
            switch.set(1)
        _Users.num_inside += 1
    try:
        yield
    finally:
        with _Users.lock:
            _Users.num_inside -= 1
            if _Users.num_inside == 0:
                switch.set(_Users.num_threads_before)


@cache
def _switch() -> Switch | None:
    """The functions of the OpenBLAS inside numpy's wheel; None: numpy was built otherwise."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            library = ctypes.CDLL(str(path))  # already loaded by numpy: the same one
            for suffix in ("64_", ""):
                names = [f"scipy_openblas_{verb}_num_threads{suffix}" for verb in ("get", "set")]
                if all(hasattr(library, name) for name in names):
                    get, set_ = (getattr(library, name) for name in names)
                    get.argtypes, get.restype = [], ctypes.c_int
                    set_.argtypes, set_.restype = [ctypes.c_int], None
                    return Switch(get, set_)
    return None
