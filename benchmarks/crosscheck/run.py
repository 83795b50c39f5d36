"""SAGE's load generator beside guidellm and aiperf, each loading the same server in the same way, one after the other.

    python benchmarks/crosscheck/run.py [--only sage,aiperf] [--out results/crosscheck]

The server is the emulated one, in a process of its own; it writes down what really happened to each call, and each
tool is compared with that: a closed loop of 8 clients, 64 words in, 32 tokens out. Makes an environment for each tool in
``.venv-peers`` (once, pinned versions; guidellm wants torch, which is large). A tool that cannot be installed or
fails stands in the result with its reason. Nothing is downloaded while a tool runs: it gets a tokenizer of words.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".venv-peers"
sys.path.insert(0, str(HERE.parent))

from rounds import noise, say, surroundings  # noqa: E402 - found beside this folder

from sage.bench.arrivals import Arrivals  # noqa: E402
from sage.bench.load_run import load  # noqa: E402
from sage.bench.prompts import Prompts  # noqa: E402
from sage.bench.serve_spec import Serve, Target  # noqa: E402
from sage.runtime.figures import percentile  # noqa: E402
from sage.settings import Settings  # noqa: E402
from sage.testing.server import MODEL, Behaviour, separate_server  # noqa: E402

CLIENTS, WORDS_IN, TOKENS_OUT = 8, 64, 32
BEHAVIOUR = Behaviour(ttft_s=0.05, token_s=0.01)
TIMEOUT_S = 900

#: What is compared, all in seconds but the rate.
FIGURES = ("ttft mean", "ttft p50", "tpot mean", "tpot p50", "e2e mean", "e2e p50", "requests_per_s")

TOKENIZER = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
words = Tokenizer(models.WordLevel({f"word{n}": n for n in range(512)}, unk_token="word0"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(sys.argv[1])
"""


@dataclass(frozen=True)
class Tool:
    """A load generator: what is installed for it (None: nothing), and how it is run and read."""

    name: str
    requirement: str | None
    run: Callable[[Path, str, int, Path], Mapping[str, float | None]]


# ---- the tools


def run_sage(_: Path, url: str, requests: int, folder: Path) -> Mapping[str, float | None]:
    """In this process, as ``sage bench serve`` does it."""
    spec = Serve(
        arrivals=Arrivals(process="closed", clients=CLIENTS, jobs=requests),
        target=Target(base_url=url, extra={"ignore_eos": True}),
        prompts=Prompts(input_len=str(WORDS_IN), output_len=str(TOKENS_OUT)),
        warmups=0,
    )
    found = asyncio.run(load(spec, folder, Settings(home=folder / "home"))).summary
    named = {"ttft": found.ttft_s, "tpot": found.tpot_s, "e2e": found.e2e_s}
    figures = {
        f"{name} {stat}": getattr(one, stat) for name, one in named.items() for stat in ("mean", "p50")
    }
    return {**figures, "requests_per_s": found.requests_per_s}


def run_guidellm(python: Path, url: str, requests: int, folder: Path) -> Mapping[str, float | None]:
    tokenizer = tokenizer_in(python, folder)
    call(
        [
            str(python.parent / "guidellm"), "run", "--disable-console",
            "--backend", f"kind=openai_http,target={url.removesuffix('/v1')},model={MODEL}",
            "--profile", f"kind=concurrent,streams={CLIENTS}",
            "--constraint", f"kind=max_requests,count={requests}",
            "--tokenizer", f"kind=huggingface_auto,model={tokenizer}",
            "--data", f"kind=synthetic_text,prompt_tokens={WORDS_IN},output_tokens={TOKENS_OUT}",
            "--output", f"kind=json,path={folder / 'guidellm.json'}",
        ],
        folder,
    )  # fmt: skip
    metrics = json.loads((folder / "guidellm.json").read_text())["benchmarks"][0]["metrics"]

    def of(name: str, stat: str, scale: float = 1.0) -> float | None:
        found = metrics[name]["successful"]
        value = found["mean"] if stat == "mean" else found["percentiles"]["p50"]
        return None if value is None else scale * value

    return {
        "ttft mean": of("time_to_first_token_ms", "mean", 0.001),
        "ttft p50": of("time_to_first_token_ms", "p50", 0.001),
        "tpot mean": of("inter_token_latency_ms", "mean", 0.001),
        "tpot p50": of("inter_token_latency_ms", "p50", 0.001),
        "e2e mean": of("request_latency", "mean"),
        "e2e p50": of("request_latency", "p50"),
        "requests_per_s": of("requests_per_second", "mean"),
    }


def run_aiperf(python: Path, url: str, requests: int, folder: Path) -> Mapping[str, float | None]:
    tokenizer = tokenizer_in(python, folder)
    call(
        [
            str(python.parent / "aiperf"), "profile", "--model", MODEL, "--url", url.removesuffix("/v1"),
            "--endpoint-type", "chat", "--streaming", "--concurrency", str(CLIENTS),
            "--request-count", str(requests), "--tokenizer", str(tokenizer),
            "--synthetic-input-tokens-mean", str(WORDS_IN), "--synthetic-input-tokens-stddev", "0",
            "--output-tokens-mean", str(TOKENS_OUT), "--output-tokens-stddev", "0",
            "--extra-inputs", "ignore_eos:true", "--artifact-dir", str(folder / "aiperf"), "--ui", "none",
        ],
        folder,
        hub_offline=False,  # told to be offline, it takes no folder for a tokenizer
    )  # fmt: skip
    found = json.loads(next((folder / "aiperf").rglob("profile_export_aiperf.json")).read_text())

    def of(name: str, stat: str, scale: float = 0.001) -> float | None:
        value = found.get(name, {}).get(stat)
        return None if value is None else scale * value

    return {
        "ttft mean": of("time_to_first_token", "avg"),
        "ttft p50": of("time_to_first_token", "p50"),
        "tpot mean": of("inter_token_latency", "avg"),
        "tpot p50": of("inter_token_latency", "p50"),
        "e2e mean": of("request_latency", "avg"),
        "e2e p50": of("request_latency", "p50"),
        "requests_per_s": of("request_throughput", "avg", 1.0),
    }


TOOLS = (
    Tool("sage", None, run_sage),
    Tool("guidellm", "guidellm==0.8.1", run_guidellm),
    Tool("aiperf", "aiperf==0.13.0", run_aiperf),
)


def call(command: Sequence[str], folder: Path, *, hub_offline: bool = True) -> None:
    """Run a tool in a home of its own.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    environment = {**os.environ, "HOME": str(folder)}
    if hub_offline:
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=folder, env=environment
    )
    if done.returncode:
        end = " ".join((done.stderr or done.stdout).split())[-300:]
        raise RuntimeError(f"{Path(command[0]).name}: exit code {done.returncode}: {end}")


def tokenizer_in(python: Path, folder: Path) -> Path:
    """A tokenizer that takes words for tokens, as the emulated server does."""
    call([str(python), "-c", TOKENIZER, str(folder / "words")], folder)
    return folder / "words"


def python_of(tool: Tool) -> Path:
    """The interpreter that has the tool installed; installs it if need be."""
    if tool.requirement is None:
        return Path(sys.executable)
    folder = ENVIRONMENTS / tool.requirement
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        say(f"installing {tool.requirement}")
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", tool.requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"cannot be installed: {' '.join(done.stderr.split())[-300:]}")
        (folder / ".installed").touch()
    return python


# ---- beside the truth


def truth_of(url: str) -> tuple[dict[str, float], int]:
    """The same figures as the server wrote them down, over all calls that it answered whole; and how many."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url.removesuffix("/v1") + "/truth", timeout=30) as answer:
        calls = [
            one
            for one in json.load(answer)["requests"]
            if one["status"] == 200 and one["pieces"] and one["ended"]
        ]
    samples = {
        "ttft": [one["pieces"][0] - one["arrived"] for one in calls],
        "tpot": [
            (one["pieces"][-1] - one["pieces"][0]) / (one["completion_tokens"] - 1)
            for one in calls
            if one["completion_tokens"] > 1
        ],
        "e2e": [one["pieces"][-1] - one["arrived"] for one in calls],
    }
    figures: dict[str, float] = {}
    for name, sample in samples.items():
        if sample:
            figures |= {
                f"{name} mean": statistics.fmean(sample),
                f"{name} p50": percentile(sorted(sample), 0.5),
            }
    if len(calls) > 1:
        span_s = max(one["ended"] for one in calls) - min(one["arrived"] for one in calls)
        figures["requests_per_s"] = len(calls) / span_s
    return figures, len(calls)


def checked(tool: Tool, requests: int) -> dict[str, Any]:
    """One tool's figures beside the server's."""
    try:
        python = python_of(tool)
        with separate_server(BEHAVIOUR) as url, tempfile.TemporaryDirectory() as folder:
            told = tool.run(python, url, requests, Path(folder))
            truth, calls = truth_of(url)
        if not calls:
            raise RuntimeError("no call of it was answered")
    except (RuntimeError, OSError, KeyError, StopIteration, subprocess.TimeoutExpired) as error:
        why = f"{type(error).__name__}: {error}".replace(f"{ROOT}/", "")
        say(f"{tool.name}: {why}")
        return {"tool": tool.name, "requirement": tool.requirement, "skipped": why[:400]}
    off = {
        name: None if told.get(name) is None or name not in truth else told[name] / truth[name] - 1  # type: ignore[operator]
        for name in FIGURES
    }
    say(
        f"{tool.name}: "
        + ", ".join(f"{name} {100 * by:+.1f} %" for name, by in off.items() if by is not None)
    )
    return {
        "tool": tool.name,
        "requirement": tool.requirement,
        "calls": calls,
        "told": told,
        "truth": truth,
        "off": off,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """How far each tool is off the server's truth, as Markdown."""
    lines = ["| | calls | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 2) + "|"]
    for row in rows:
        if "skipped" in row:
            lines.append(f"| {row['requirement'] or row['tool']} | {row['skipped']} |" + " |" * len(FIGURES))
            continue
        cells = ["-" if row["off"][name] is None else f"{100 * row['off'][name]:+.2f} %" for name in FIGURES]
        lines.append(f"| {row['requirement'] or row['tool']} | {row['calls']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--only", help=f"by comma: {', '.join(tool.name for tool in TOOLS)}")
    parser.add_argument("--out", type=Path, help="folder for crosscheck.json and crosscheck.md")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [tool.name for tool in TOOLS]
    before = noise()
    rows = [checked(tool, options.requests) for tool in TOOLS if tool.name in names]
    report = {
        **surroundings(),
        "noise": {"before": before, "after": noise()},
        "load": {
            "clients": CLIENTS,
            "words_in": WORDS_IN,
            "tokens_out": TOKENS_OUT,
            "requests": options.requests,
        },
        "tools": rows,
    }
    print(table(rows))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "crosscheck.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        (options.out / "crosscheck.md").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
