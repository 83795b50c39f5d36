"""Whatever ends a run on Ray, nothing of it is left: a driver that is killed, a Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

DRIVER = """
import asyncio, os, sys, time
from sage import Pipeline, Session
from sage.ops import step
from sage.runtime.ray_cluster import RayCluster

def work(x):
    time.sleep(0.05)
    return os.getpid()

async def main():
    async with Session(runtime=RayCluster(nodes=1, cpus=1), record=False) as session:
        stream = session.stream(Pipeline("p", pid=step(work, pool="cpu")), ({"x": x} for x in range(100_000)))
        async for record in stream:
            sys.stdout.write(f"{record['pid']}\\n")
            sys.stdout.flush()

asyncio.run(main())
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs on a cluster of its own and says the worker's pid again and again."""
    pytest.importorskip("ray", reason="the package ray is not installed")
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        cwd=tmp_path,
    ) as process:
        yield process
        process.kill()


def descendants(pid: int) -> set[int]:
    """Every process below one, itself included."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(holds: Callable[[], bool], seconds: float) -> bool:
    give_up = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "ctrl-c"])
def test_nothing_is_left_of_a_run_that_is_ended(driver: subprocess.Popen[str], how: signal.Signals) -> None:
    assert driver.stdout is not None
    worker = int(driver.stdout.readline())
    processes = descendants(driver.pid)
    assert worker in processes
    assert len(processes) > 4
    os.kill(driver.pid, how)
    assert until(lambda: not any(map(is_running, processes)), 20.0), [
        Path(f"/proc/{pid}/cmdline").read_bytes()[:80] for pid in processes if is_running(pid)
    ]


PIPELINE = """
import time
from sage import Pipeline
from sage.ops import step

def slow(x):
    time.sleep(0.02)
    return x

p = Pipeline("p", y=step(slow, pool="cpu"))
"""
SAGE = "import sys; from sage.cli import main; sys.exit(main())"


def test_a_command_that_is_terminated_keeps_what_is_done(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the package ray is not installed")
    (tmp_path / "p.py").write_text(PIPELINE)
    (tmp_path / "in.jsonl").write_text("".join(f'{{"x": {x}}}\n' for x in range(100_000)))
    line = [
        "run",
        "p.py:p",
        "--input",
        "in.jsonl",
        "--output",
        "out.jsonl",
        "--runtime",
        "ray",
        "--nodes",
        "1",
    ]
    output = tmp_path / "out.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", SAGE, *line],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=tmp_path,
    ) as process:
        assert until(lambda: output.exists() and output.stat().st_size > 0, 40.0)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20.0)
    assert process.returncode == 130
    *before, last = told.strip().splitlines()
    assert last.startswith("interrupted: "), told
    assert not any("SIGTERM" in line for line in before), told
    assert int(last.split()[1]) == len(output.read_text().splitlines()) > 0
