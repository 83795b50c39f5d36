"""CPU time and memory of processes, by /proc; nothing where there is none. Needs nothing but Python."""

from __future__ import annotations

import contextlib
import os
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
