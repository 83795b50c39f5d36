"""The workload that ``benchmarks/peers`` gives every peer, by those two that need nothing else installed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.testing.server import Behaviour, separate_server

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
NUM_RECORDS = 70  # more than are in flight


@pytest.fixture(scope="module")
def contest() -> Iterator[Any]:
    """The module that runs the peers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(PEERS), *sys.path])
        yield importlib.import_module("run")
    for name in ("run", "rag", "rounds", "proc"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def server(contest: Any) -> Iterator[str]:
    tokens = contest.BEHAVIOUR.answer_tokens
    with separate_server(Behaviour(answer_tokens=tokens, concurrency=contest.BEHAVIOUR.concurrency)) as url:
        yield url


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["plain_asyncio", "sage_"])
def test_answers_are_those_of_the_server_to_the_right_prompts(peer: str, contest: Any, server: str) -> None:
    command = [sys.executable, f"{peer}.py", "rag", str(NUM_RECORDS), server]
    done = subprocess.run(command, cwd=PEERS, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["answers"] == contest.right_answers(NUM_RECORDS)
    assert len(figures["each_s"]) == NUM_RECORDS
    assert 0 < figures["cpu_s"] < 50


def test_the_table_shows_who_took_part_only(contest: Any) -> None:
    round_of = {
        "n": 64,
        "client": "aiohttp 3",
        "wall_s": 2 * contest.rag.IDEAL_S,
        "cpu_s": 0.064,
        "each_s": [0.5],
    }
    ran: dict[str, list[Any]] = {test: [] for test in contest.TESTS} | {
        "rag": [round_of | {"peak_mb": 50.0, "others_peak_mb": 0, "version": "1"}]
    }
    skipped: dict[str, list[Any]] = {test: [] for test in contest.TESTS} | {
        "rag": [{"test": "rag", "skipped": "it cannot"}]
    }
    rows = [contest.summary("SAGE", ran), contest.summary("isage", skipped)]
    assert rows[1]["skipped"] == {"rag": "it cannot"}
    lines = contest.table(rows).splitlines()
    assert len(lines) == 3
    assert lines[2] == "| SAGE | 1 | aiohttp 3 | 2.00 | 1.00 ms | 500 ms | 500 ms | 50 MB | – | – |"  # noqa: RUF001 - for people
