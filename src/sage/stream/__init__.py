"""Streams of records: filters, windows, joins and sinks around pipelines, on the same driver and event log.

>>> from sage import stream
>>> stream.records([{"n": 1}, {"n": 2}]).filter(lambda n: n > 1).run(record=False).records
[{'n': 2}]
"""

from sage.stream.aggregates import Aggregate, count, first, fold, gather, last, least, mean, most, total
from sage.stream.begin import documents, read, records
from sage.stream.grouped import Keyed, Windowed
from sage.stream.result import StreamResult
from sage.stream.sinks import Sink
from sage.stream.sources import Source
from sage.stream.stream import Stream

__all__ = [
    "Aggregate",
    "Keyed",
    "Sink",
    "Source",
    "Stream",
    "StreamResult",
    "Windowed",
    "count",
    "documents",
    "first",
    "fold",
    "gather",
    "last",
    "least",
    "mean",
    "most",
    "read",
    "records",
    "total",
]
