"""Bytewax: a dataflow of synchronous maps. Its operators cannot await."""

from __future__ import annotations

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main
from contest import main


def overhead(records: int) -> None:
    out: list[dict[str, int]] = []
    flow = Dataflow("four")
    stream = op.input("in", flow, TestingSource(({"x": x} for x in range(records)), batch_size=64))
    for before, name in zip("xabc", "abcd", strict=True):
        stream = op.map(name, stream, lambda record, b=before, n=name: {**record, n: record[b]})
    op.output("out", stream, TestingSink(out))
    run_main(flow)
    assert len(out) == records


main("bytewax", overhead=overhead)
