"""The tests every peer takes, and how one round of them is timed. Needs nothing but Python.

A peer's file defines the tests it can take, as functions that do the whole work once, and calls ``main``:

    overhead(records)   four steps that only pass a value on, per record; 64 in flight where there is a choice
    io(records)         two awaited steps, 5 ms and 50 ms, per record; 64 in flight
    join(times)         a join of a + b (10 ms, then 100 ms) and c (60 ms); 110 ms at best; seconds of each time
    rag(records, url)   retrieve, prompt, generate against the emulated server at a URL, as ``rag.py`` says; its figures

Run by hand: ``python benchmarks/peers/PEER.py overhead 2000`` prints one JSON object; for rag, after
``python -m sage.testing.server --text-s 0.005 --ttft-s 0.05 --token-s 0.01 --answer-tokens 32`` has said its URL,
``python benchmarks/peers/PEER.py rag 256 URL``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

INFLIGHT = 64
FAST_S, SLOW_S = 0.005, 0.050
JOIN_S = {"a": 0.010, "b": 0.100, "c": 0.060}


def main(
    package: str | None, why: str = "cannot be expressed in this framework", **tests: Callable[..., Any]
) -> None:
    """Run the test the command line names, timed, and print what came of it; of others, ``why`` not."""
    name, size = sys.argv[1], int(sys.argv[2])
    if name not in tests:
        print(json.dumps({"test": name, "skipped": why}))
        return
    version = metadata.version(package) if package else sys.version.split()[0]
    if name == "rag":
        print(json.dumps({"test": name, "n": size, "version": version, **tests[name](size, sys.argv[3])}))
        return
    tests[name](min(size, INFLIGHT))  # warm
    wall, cpu = time.perf_counter(), time.process_time()
    result = tests[name](size)
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    told = {"test": name, "n": size, "cpu_s": cpu_s, "wall_s": wall_s, "version": version}
    print(json.dumps(told | ({"each_s": result} if name == "join" else {})))
