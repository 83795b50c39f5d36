"""CPU time and memory of processes, by /proc; nothing where there is none. Needs nothing but Python."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path


def parents() -> dict[int, int]:
    """Every process of this machine, and the one it was started by."""
    found: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found[int(entry.name)] = int(_fields(int(entry.name))[1])
    return found


def below(top: int) -> list[int]:
    """The processes that a process started, and those that they did."""
    above = parents()

    def is_below(process: int) -> bool:
        while process in above and process != top:
            process = above[process]
        return process == top

    return [process for process in above if process != top and is_below(process)]


def cpu_s(process: int) -> float:
    """CPU seconds a process has taken, and those it started that have ended; 0 for one that is gone."""
    with contextlib.suppress(OSError):
        return sum(map(int, _fields(process)[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


class Below:
    """The CPU of the processes below this one, from when it is made until ``end``.

    Each is counted for itself: what one took that has ended by then is known only if it told of it.
    """

    def __init__(self) -> None:
        self._before_s = _taken_s()
        self._after_s: dict[int, float] = {}

    def end(self) -> None:
        """Look a second time."""
        self._after_s = _taken_s()

    @property
    def processes(self) -> list[int]:
        """Those that were there in the end."""
        return list(self._after_s)

    def spent_s(self, told_s: Mapping[int, float] | None = None) -> float:
        """CPU seconds between; ``told_s`` is what processes said they had taken in all, by process."""
        taken_s = {**(told_s or {}), **self._after_s}
        return sum(taken - self._before_s.get(process, 0.0) for process, taken in taken_s.items())


def _taken_s() -> dict[int, float]:
    return {process: cpu_s(process) for process in below(os.getpid())}


def tell(folder: str) -> None:
    """Leave in a folder what this process has taken until now, for whoever outlives it."""
    said = Path(folder, str(os.getpid()))
    said.with_suffix(".new").write_text(repr(time.process_time()), encoding="ascii")
    said.with_suffix(".new").replace(said)  # whole, or not at all


def told(folder: str) -> dict[int, float]:
    """What processes left in a folder."""
    return {
        int(entry.name): float(entry.read_text(encoding="ascii")) for entry in Path(folder).glob("*[0-9]")
    }


def peak_mb(process: int) -> float:
    """The most memory a process ever held, shared pages counted; 0 for one that is gone."""
    with contextlib.suppress(OSError):
        for line in (
            Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
        ):
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def _fields(process: int) -> list[str]:
    """Of its stat file, from its state on."""
    return (
        Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    )
