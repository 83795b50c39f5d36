"""Record how agents behave on every set that is there: ``make bench-agents AGENTS=DIR LLM=ADDRESS``.

DIR holds a folder for each set (bfcl-v4, metatool, seal-tools, nestful, when2call); those that are missing are left out.
Without LLM only the strategies that need no model are run. Each experiment is a folder; started again, what is whole is
kept and the rest is run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sage.bench.results import compact
from sage.errors import nearest


@dataclass(frozen=True, slots=True)
class Recorded:
    """One experiment: a folder of results."""

    data: str
    kind: str
    group: str | None = None
    strategies: tuple[str, ...] = ()  # none: all that need no model
    limit: int | None = None  # tasks, picked by hash
    options: tuple[str, ...] = ()
    ctx: int = 4096  # tokens of a call, where a model is asked

    @property
    def name(self) -> str:
        """Of its folder."""
        return "-".join(filter(None, (self.data, self.kind, self.group, "llm" if self.strategies else None)))


WITHOUT = (
    Recorded("metatool", "selection", "single", limit=2_000),
    Recorded("metatool", "selection", "multi"),
    Recorded("metatool", "selection", "reliability"),
    Recorded("bfcl-v4", "selection", "live_multiple"),
    Recorded("seal-tools", "selection"),
    Recorded("bfcl-v4", "timing"),
    Recorded("metatool", "timing"),
    Recorded("when2call", "timing"),
    Recorded("nestful", "planning"),
    Recorded("seal-tools", "planning"),
)
CHOOSE = ("hybrid", "examples", "llm", "two_stage", "adaptive")
DECIDE = ("rule", "classifier", "llm", "hybrid")
PLAN = ("direct", "hierarchical", "react")
FEW = ("--shortlist", "5", "--fit", "500")
#: Beside the best that need no model. Where every tool is shown, the context is longer.
WITH = (
    Recorded("metatool", "timing", None, DECIDE, 200, ctx=8192),
    Recorded("metatool", "selection", "single", CHOOSE, 200, FEW, ctx=8192),
    Recorded("nestful", "planning", None, PLAN, 20),
    Recorded("bfcl-v4", "timing", None, DECIDE, 200),
    Recorded("when2call", "timing", None, DECIDE),
    Recorded("bfcl-v4", "selection", "live_multiple", CHOOSE, 200, FEW),
    Recorded("seal-tools", "planning", None, PLAN, 20),
)

SAGE = "import sys; from sage.cli import main; sys.exit(main())"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with a folder for each set")
    parser.add_argument("--out", type=Path, default=Path("results/agents"))
    parser.add_argument("--llm", help="address of an engine without options, such as llama:FILE.gguf")
    parser.add_argument("--only", action="append", metavar="FOLDER", help="several times: what to record")
    asked = parser.parse_args()
    every = {one.name: one for one in (*WITHOUT, *(WITH if asked.llm else ()))}
    if unknown := set(asked.only or ()) - every.keys():
        parser.error(f"--only {min(unknown)!r}: {nearest(min(unknown), every)}")
    worst = 0
    for one in (every[name] for name in asked.only or every):
        data, out = asked.data / one.data, asked.out / one.name
        if not data.is_dir():
            sys.stderr.write(f"no {data}: left out\n")
            continue
        words = [
            sys.executable,
            "-c",
            SAGE,
            "bench",
            "agent",
            one.kind,
            "--data",
            str(data),
            "--out",
            str(out),
        ]
        words += ["--group", one.group] if one.group else []
        words += ["--limit", str(one.limit)] if one.limit else []
        words += [word for strategy in one.strategies for word in ("--strategy", strategy)]
        if one.strategies:
            engine = f"llm={asked.llm}?slots=1&ctx={one.ctx}&threads=1"
            words += ["--engine", engine, "--max-inflight", "1", *one.options]
        worst = max(worst, subprocess.run(words, check=False).returncode)
        if (out / "experiment.json").exists():
            compact(out)
    return worst


if __name__ == "__main__":
    sys.exit(main())
