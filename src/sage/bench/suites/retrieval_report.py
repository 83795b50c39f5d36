"""What the retrieval suite reports, and how its results are kept."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sage.bench.stats import Mean, Share
from sage.errors import InputError
from sage.runtime.figures import Stat
from sage.runtime.manifest import Machine
from sage.runtime.runs import write_private

__all__ = ["Answered", "Found", "Measured", "Report", "keep_report", "refuse_full"]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """How well one mode of search finds the right passages, over all questions.

    With one right passage a question, hit@k, complete@k and recall@k are the same.
    """

    mode: str
    hit: Mapping[int, Share]  # k -> questions with a right passage among the first k
    complete: Mapping[int, Share]  # k -> questions with all of them there
    mrr: Mean  # mean reciprocal rank of the first right one, within ``depth``
    ndcg: Mean  # at ``depth``


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """How well the picked questions were answered, and what that took."""

    questions: int
    failed: int  # ended without an answer; wrong in every score
    exact: Share
    f1: Mean
    shown: Share  # questions whose prompt held a right passage
    f1_shown: Mean  # of these alone
    inflight: int  # answered at once
    e2e_s: Stat
    ttft_s: Stat
    prompt_tokens: int  # of all answers
    completion_tokens: int
    answers_per_s: float | None
    prompt: str
    max_tokens: int
    passages: int  # in a prompt


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the suite found; ``summary.json``."""

    suite: str = "retrieval"
    kind: str = "measured"
    at: str  # when it ended; wall time, UTC
    python: str
    packages: Mapping[str, str]
    machine: Machine
    data: str
    passages: int
    questions: int
    passages_sha256: str
    questions_sha256: str
    single_gold: bool  # every question has one right passage
    engines: Mapping[str, str]  # pool -> address
    fingerprint: str | None  # of the embedder
    depth: int  # how far down rankings were read
    failed_searches: int = 0
    found: tuple[Found, ...] = ()
    gain: Mapping[str, Mean] = {}  # "hybrid - vector": by how much hit@1 differs, question by question
    answered: Answered | None = None
    runs: Mapping[str, str] = {}  # "search", "answers" -> run id
    percentile_method: str = "linear"


@dataclass(frozen=True, slots=True)
class Measured:
    """The report, and the runs it was computed from."""

    report: Report
    folders: Mapping[str, Path]  # "search", "answers" -> manifest and event log


def keep_report(measured: Measured, out: Path) -> None:
    """Write ``summary.json``, and a copy of the manifest and event log of each run, into a folder.

    Raises:
        InputError: the folder holds something already. SetupError: it cannot be written.
    """
    refuse_full(out)
    for name, folder in measured.folders.items():
        shutil.copytree(folder, out / name)
    out.mkdir(parents=True, exist_ok=True)
    content = msgspec.json.format(msgspec.json.encode(measured.report), indent=1)
    write_private(out / "summary.json", content + b"\n")


def refuse_full(out: Path) -> None:
    """Refuse a folder in which results would be written over others.

    Raises:
        InputError: it is a file, or holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"{out} exists and is not an empty folder; results are never overwritten, name another"
        )
