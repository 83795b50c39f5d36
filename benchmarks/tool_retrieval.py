"""What finding tools costs once the request is embedded: CPU time per request over all tools of a set, as JSON.

Usage: python benchmarks/tool_retrieval.py SET [--out FILE]. The vectors are drawn by a seed: time does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from sage.bench.agent_data.sets import read_agent_set
from sage.index.tool_index import ToolIndex
from sage.index.tool_words import clauses
from sage.ops.agents.ranking import documents_of

DIMENSION = 384  # of the built-in embedder
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    data = read_agent_set(asked.data)
    rng = np.random.default_rng(0)
    documents = documents_of(data.tools)
    index = ToolIndex(documents, rng.normal(size=(len(documents), DIMENSION)))
    requests = [clauses(task.query) for task in data.of("selection")]
    rows = [rng.normal(size=(len(parts), DIMENSION)).astype(np.float32) for parts in requests]
    index.rank(requests[0], rows[0], k=10)  # the index is made with the first request
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for parts, vectors in zip(requests, rows, strict=True):
            index.rank(parts, vectors, k=10)
        rounds.append(1000 * (time.process_time() - began) / len(requests))
    found = {
        "data": data.name,
        "tools": len(documents),
        "requests": len(requests),
        "clauses_per_request": sum(map(len, requests)) / len(requests),
        "cpu_ms_per_request": min(rounds),
        "rounds": rounds,
    }
    text = json.dumps(found, indent=1) + "\n"
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
