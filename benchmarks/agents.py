"""Record how agents behave on every set that is there: ``make bench-agents AGENTS=DIR LLM=ADDRESS``.

DIR holds a folder for each set (bfcl-v4, metatool, seal-tools, nestful, when2call); those that are missing are left out.
Without LLM only the strategies that need no model are run. Each experiment is a folder; started again, what is whole is
kept and the rest is run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

#: Set, kind, group: all tasks, by every strategy that needs no model.
WITHOUT = (
    ("metatool", "selection", "single"),
    ("metatool", "selection", "multi"),
    ("metatool", "selection", "reliability"),
    ("bfcl-v4", "selection", "live_multiple"),
    ("seal-tools", "selection", "easy"),
    ("seal-tools", "selection", "difficult"),
    ("bfcl-v4", "timing", None),
    ("metatool", "timing", None),
    ("when2call", "timing", None),
    ("nestful", "planning", None),
    ("seal-tools", "planning", None),
)
#: The same with a model, on tasks picked by hash, beside the best that need none.
WITH = (
    ("metatool", "selection", "single", ("hybrid", "examples", "llm", "two_stage", "adaptive")),
    ("bfcl-v4", "selection", "live_multiple", ("hybrid", "examples", "llm", "adaptive")),
    ("bfcl-v4", "timing", None, ("rule", "classifier", "llm", "hybrid")),
    ("metatool", "timing", None, ("rule", "classifier", "llm", "hybrid")),
    ("when2call", "timing", None, ("rule", "classifier", "llm", "hybrid")),
    ("nestful", "planning", None, ("direct", "hierarchical", "react")),
    ("seal-tools", "planning", None, ("direct", "hierarchical", "react")),
)

SAGE = "import sys; from sage.cli import main; sys.exit(main())"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with a folder for each set")
    parser.add_argument("--out", type=Path, default=Path("results/agents"))
    parser.add_argument("--llm", help="address of an engine, such as llama:FILE.gguf?slots=1&ctx=12288")
    parser.add_argument("--limit", type=int, default=200, help="tasks of each set with a model")
    asked = parser.parse_args()
    runs: list[tuple[str, str, str | None, tuple[str, ...], str]]
    runs = [(data, kind, group, (), "") for data, kind, group in WITHOUT]
    if asked.llm:
        runs += [(*one, "-llm") for one in WITH]
    worst = 0
    for data, kind, group, strategies, ending in runs:
        if not (asked.data / data).is_dir():
            sys.stderr.write(f"no {asked.data / data}: left out\n")
            continue
        name = "-".join(filter(None, (data, kind, group))) + ending
        words = [sys.executable, "-c", SAGE, "bench", "agent", kind, "--data", str(asked.data / data)]
        words += ["--out", str(asked.out / name), *(["--group", group] if group else [])]
        words += [word for strategy in strategies for word in ("--strategy", strategy)]
        if ending:
            words += ["--engine", f"llm={asked.llm}", "--limit", str(asked.limit), "--max-inflight", "1"]
        worst = max(worst, subprocess.run(words, check=False).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
