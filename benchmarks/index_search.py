"""How fast an index opens and searches, in CPU time: ``python benchmarks/index_search.py [--json]``.

Vectors are random unit rows of 384 numbers. Words are drawn from a vocabulary of 50,000 by Zipf's law, 100 a
passage; a query has eight words drawn alike, so it holds frequent ones. Every figure is the median of a
few rounds, and BLAS may use as many threads as it likes: CPU time counts them all.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sage.graph.values import Passage
from sage.index import Index
from sage.index.vectors import unit_rows

DIMENSION = 384
SEED = 20


def median_cpu_ms(act: Callable[[], object], rounds: int) -> float:
    """Of several calls after a first one that is not counted."""
    act()
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        act()
        spent.append((time.process_time() - began) * 1e3)
    return statistics.median(spent)


def draw_texts(rng: np.random.Generator, num_texts: int, num_words: int) -> list[str]:
    words = [f"word{number}" for number in range(50_000)]
    chances = 1 / np.arange(1, len(words) + 1)
    drawn = rng.choice(len(words), size=(num_texts, num_words), p=chances / chances.sum())
    return [" ".join(words[number] for number in row) for row in drawn.tolist()]


def measure(num_passages: int, folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    passages = [Passage(str(row), text) for row, text in enumerate(draw_texts(rng, num_passages, 100))]
    vectors = unit_rows(rng.standard_normal((num_passages, DIMENSION), dtype=np.float32))
    queries = unit_rows(rng.standard_normal((400, DIMENSION), dtype=np.float32))
    texts = draw_texts(rng, 400, 8)
    began = time.process_time()
    Index.build(passages, path=folder, vectors=vectors, fingerprint="random")
    build_cpu_s = time.process_time() - began
    index = Index.open(folder)
    batched_ms = median_cpu_ms(lambda: index.search_many(vectors=queries, k=10), rounds=3)
    return {
        "passages": num_passages,
        "build_cpu_s": round(build_cpu_s, 2),
        "open_ms": round(median_cpu_ms(lambda: Index.open(folder), rounds=25), 2),
        "vector_queries_per_cpu_s": round(len(queries) / batched_ms * 1e3),
        "one_vector_query_ms": round(
            median_cpu_ms(lambda: index.search(vector=queries[0], k=10), rounds=9), 2
        ),
        "words_query_ms": round(
            median_cpu_ms(lambda: index.search_many(texts=texts, k=10), rounds=3) / 400, 2
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--passages", type=int, nargs="*", default=[2_000, 100_000])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(number, Path(folder) / str(number)) for number in arguments.passages]
    if arguments.json:
        versions = {"python": platform.python_version(), "numpy": np.__version__}
        print(json.dumps({"dimension": DIMENSION, "seed": SEED, **versions, "rows": rows}))
        return
    for row in rows:
        print("  ".join(f"{name} {value:,}" for name, value in row.items()))


if __name__ == "__main__":
    main()
