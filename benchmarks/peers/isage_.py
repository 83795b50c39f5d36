"""isage, the framework of the paper: a batch stream of maps in its local environment.

Its maps are synchronous, one at a time for each operator, so waiting steps cannot overlap between records.
"""

from __future__ import annotations

import logging
from typing import Any

from contest import main
from sage.runtime.environments import LocalEnvironment

logging.disable(logging.CRITICAL)


def overhead(records: int) -> None:
    out: list[Any] = []
    environment = LocalEnvironment("four")
    stream = environment.from_batch([{"x": x} for x in range(records)])
    for before, name in zip("xabc", "abcd", strict=True):
        stream = stream.map(lambda record, b=before, n=name: {**record, n: record[b]})
    stream.sink(out.append)
    environment.submit(autostop=True)
    assert len(out) == records, f"{len(out)} of {records} records came out"


main("isage", overhead=overhead)
