"""Bytewax: the windowed aggregate of ``benchmarks/stream_windows.py``. Prints one JSON object."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as w
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rows(num_records: int) -> list[dict[str, Any]]:
    """The records of the SAGE side, with datetimes, which is what Bytewax's clock takes."""
    return [
        {"user": f"user{n * 7919 % 100}", "time": EPOCH + timedelta(seconds=n / 100), "words": n % 40}
        for n in range(num_records)
    ]


def run(records: list[dict[str, Any]]) -> list[Any]:
    out: list[Any] = []
    flow = Dataflow("windows")
    stream = op.input("in", flow, TestingSource(records, batch_size=512))
    keyed = op.key_on("key", stream, lambda record: record["user"])
    clock = w.EventClock(ts_getter=lambda record: record["time"], wait_for_system_duration=timedelta(0))
    windower = w.TumblingWindower(length=timedelta(minutes=5), align_to=EPOCH)
    folded = w.fold_window(
        "fold",
        keyed,
        clock,
        windower,
        builder=lambda: (0, 0),
        folder=lambda state, record: (state[0] + 1, state[1] + record["words"]),
        merger=lambda one, other: (one[0] + other[0], one[1] + other[1]),
    )
    op.output("out", folded.down, TestingSink(out))
    run_main(flow)
    return out


def main() -> None:
    num_records = int(sys.argv[1])
    run(rows(1000))
    records = rows(num_records)
    wall, cpu = time.perf_counter(), time.process_time()
    found = run(records)
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    counted = sum(count for _, (_, (count, _)) in found)
    told = {"n": num_records, "cpu_s": cpu_s, "wall_s": wall_s, "counted": counted, "groups": len(found)}
    print(json.dumps(told | {"version": metadata.version("bytewax")}))


main()
