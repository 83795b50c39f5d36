"""Runs the numbered examples on their inputs and prints what comes out.

python examples/run_ten.py                         all ten, on the embedded models
python examples/run_ten.py 04_agent --records 1    one of them
python examples/run_ten.py --engine openai:http://127.0.0.1:8000/v1

Every numbered folder holds a ``pipeline.py``, the same pipeline as ``pipeline.yaml``, an ``input.jsonl``, and the
``pages`` of its index where it has one.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import sys
from pathlib import Path

from sage import Index, Pipeline, RunResult
from sage.graph.values import to_json
from sage.index import read_corpus

EXAMPLES = Path(__file__).parent
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("[0-9]*/pipeline.py"))
EMBEDDER = "bert:all-minilm-l6-v2"


@functools.cache
def load(name: str) -> Pipeline:
    """The pipeline of an example; its functions are registered, so its YAML file can be read as well."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / name / "pipeline.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pipeline: Pipeline = module.pipeline
    return pipeline


def run(name: str, engine: str, num_records: int | None = None) -> RunResult:
    """An example's result for its input. All its pools of language models are the one engine."""
    pipeline = load(name)
    lines = (EXAMPLES / name / "input.jsonl").read_text(encoding="utf-8").splitlines()
    pages = EXAMPLES / name / "pages"
    indexes = {"pages": Index.build(read_corpus(pages).items, embedder=EMBEDDER)} if pages.exists() else {}
    engines = {
        pool: EMBEDDER if pool == "embedder" else engine for pool in pipeline.plan.pools() if pool != "cpu"
    }
    return pipeline.run(map(json.loads, lines[:num_records]), engines=engines, indexes=indexes)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--records", type=int, help="only so many of each input")
    parser.add_argument("--engine", default="llama:smollm2-135m-instruct", help="address of what answers")
    said = parser.parse_args(arguments)
    num_failures = 0
    for name in said.names:
        result = run(name, said.engine, said.records)
        print(
            f"\n== {name}: {len(result.records)} done, {len(result.failures)} failed; sage explain {result.run_id}"
        )
        for record in result.records:
            print(json.dumps(to_json(record), indent=2, ensure_ascii=False))
        for failure in result.failures:
            print(failure)
        num_failures += len(result.failures)
    return 1 if num_failures else 0


if __name__ == "__main__":
    sys.exit(main())
