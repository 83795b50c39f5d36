"""Records the paper's experiments into results/experiments, compact, and makes the report and the pictures of the docs.

python benchmarks/experiments.py            simulated, over HTTP, on Ray, one server loaded, on embedded models: an hour
python benchmarks/experiments.py --only simulated

Each experiment is one command of ``sage bench``, which its folder holds; one that is whole is not run again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

from sage.bench.results import compact, is_experiment, read_experiment
from sage.testing.server import Behaviour, separate_server

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"

#: Folder -> what is typed after ``sage bench``. Sizes are such that a percentile has its sample and git its peace.
RUNS: dict[str, dict[str, list[str]]] = {
    "simulated": {
        "concurrency-simulated": [
            "concurrency",
            "--workload",
            "compute",
            "--workload",
            "rag",
            "--repeats",
            "3",
        ],
        "complexity-simulated": ["complexity", "--workload", "rag", "--repeats", "3"],
        "pipelines-simulated": ["pipelines", "--repeats", "3"],
        "stagger-simulated": ["stagger", "--repeats", "3"],
        "nodes-simulated": ["nodes", "--workload", "compute", "--workload", "rag", "--jobs", "100"],
    },
    "http": {
        "nodes-http": ["nodes", "--preset", "full", "--jobs", "150"],
    },
    "ray": {
        "nodes-ray": ["nodes", "--preset", "ray"],
        "nodes-ray16": ["nodes", "--preset", "ray16"],
    },
    "serve": {
        "serve-emulated": [
            *("serve", "--num-prompts", "100", "--random-input-len", "256", "--random-output-len", "32"),
            *("--ignore-eos", "--goodput", "e2el:1000"),
            *(word for clients in (1, 2, 4, 8, 16, 32, 64) for word in ("--max-concurrency", str(clients))),
        ],
    },
    "embedded": {
        "concurrency-embedded": ["concurrency", "--preset", "full", "--repeats", "1"],
        "complexity-embedded": ["complexity", "--preset", "full", "--jobs", "8"],
        "pipelines-embedded": ["pipelines", "--preset", "full", "--jobs", "24", "--repeats", "1"],
        "stagger-embedded": ["stagger", "--preset", "full", "--repeats", "1"],
    },
}

#: What is loaded: an emulated server, in a process of its own.
SERVER = Behaviour(profile="vllm-llama-3.1-8b")

#: Folders of results that go into the report, where they are there.
REPORTED = ("experiments", "policies", "agents", "serve", "overhead", "peers")

#: Picture in docs/pictures -> figure of the report.
PICTURES = {
    "bench-concurrency": "concurrency-concurrency-simulated-compute",
    "bench-cdf": "cdf-concurrency-simulated-rag",
    "bench-gantt": "gantt-concurrency-simulated-rag",
    "bench-complexity": "complexity-complexity-simulated-rag",
    "bench-pipelines": "pipelines-pipelines-simulated-rag-load_aware",
    "bench-stagger": "stagger-stagger-simulated-rag",
    "bench-nodes": "nodes-nodes-simulated-per_node",
    "bench-policies": "policies-simulated",
    "bench-serve": "serve-serve-emulated",
    "bench-agents-selection": "agents-metatool-selection-single-single-latency",
    "bench-agents-timing": "agents-metatool-timing-all-classes",
    "bench-agents-confusion": "agents-when2call-timing-all-confusion-classifier",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(RUNS), action="append", help="run these kinds only")
    parser.add_argument(
        "--report", type=Path, default=ROOT / "build" / "report", help="where the report goes"
    )
    said = parser.parse_args()
    for kind in said.only or RUNS:
        for folder, arguments in RUNS[kind].items():
            with separate_server(SERVER) if kind == "serve" else nullcontext() as url:
                where = [] if url is None else ["--base-url", url]
                record(RESULTS / "experiments" / folder, [*arguments, *where])
    given = [str(RESULTS / name) for name in REPORTED if (RESULTS / name).is_dir()]
    sage("bench", "report", *given, "--out", str(said.report))
    sage("bench", "report", "--check", str(said.report))
    for picture, figure in PICTURES.items():
        shutil.copyfile(
            said.report / "figures" / f"{figure}.png", ROOT / "docs" / "pictures" / f"{picture}.png"
        )
    subprocess.run([sys.executable, "docs/generate.py"], check=True, cwd=ROOT)


def record(out: Path, arguments: list[str]) -> None:
    """Run one experiment unless its folder is whole, and gzip its logs."""
    if is_experiment(out) and read_experiment(out).manifest.status == "complete":
        print(f"{out.relative_to(ROOT)}: is there")
        return
    sage("bench", *arguments, "--out", str(out))
    print(f"{out.relative_to(ROOT)}: {compact(out) / 1e6:.1f} MB")


def sage(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-c", "from sage.cli import main; main()", *arguments], check=True, cwd=ROOT
    )


if __name__ == "__main__":
    main()
