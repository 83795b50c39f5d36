"""Published traces of LLM traffic, read from files a user has.

- Azure: CSV with ``TIMESTAMP,ContextTokens,GeneratedTokens`` (Patel et al. 2024, "Splitwise", and its data set).
- Mooncake: JSON lines with ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids`` (Qin et al. 2024,
  "Mooncake"); equal leading hashes are equal leading blocks of 512 tokens.
- Calls of agents: JSON lines with ``session``, ``step``, ``t_s``, ``input_chars``, ``output_chars``,
  ``shared_prefix_chars_with_prev``, as derived from LMCache's agent traces. Times are within a session.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from sage.errors import InputError

__all__ = ["Asked", "read_trace"]

CHARS_PER_TOKEN = 4
MOONCAKE_BLOCK_TOKENS = 512


class Asked(msgspec.Struct, frozen=True, gc=False):
    """One call of a trace."""

    at_s: float  # seconds on the trace's own clock
    prompt_tokens: int
    output_tokens: int
    session: str = ""  # calls with equal ones belong together
    shared_tokens: int = 0  # of the prompt, begun alike by an earlier call


def read_trace(path: Path) -> list[Asked]:
    """The calls of a trace, in the order of their times.

    Raises:
        InputError: it cannot be read, is of no known form, a row is broken, or time goes back.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            if first.startswith("TIMESTAMP,"):
                rows = _azure(path, csv.DictReader(file))
            elif '"hash_ids"' in first or '"input_length"' in first:
                rows = _mooncake(path, enumerate(file, 1))
            elif '"input_chars"' in first:
                rows = _agents(path, enumerate(file, 1))
            else:
                raise InputError(
                    f"{path}: is no known trace; expected Azure CSV (TIMESTAMP,ContextTokens,GeneratedTokens), "
                    "Mooncake JSON lines (timestamp, input_length, output_length) or calls of agents (t_s, input_chars)"
                )
            calls = list(rows)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is not text that can be read: {error}") from error
    if not calls:
        raise InputError(f"{path}: has no calls")
    return calls


def _azure(path: Path, rows: csv.DictReader[str]) -> Iterator[Asked]:
    earlier, start = 0.0, None
    for row in rows:
        line = rows.line_num
        try:
            stamp = row["TIMESTAMP"][:26]  # ticks of 100 ns: one digit more than Python reads
            moment = datetime.fromisoformat(stamp)
            sizes = int(row["ContextTokens"]), int(row["GeneratedTokens"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}:{line}: broken row: {error}") from error
        start = moment if start is None else start
        yield _sound(path, line, Asked((moment - start).total_seconds(), *sizes), earlier)
        earlier = (moment - start).total_seconds()


def _mooncake(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[Asked]:
    earlier, seen = 0.0, set[int]()
    for line, text in lines:
        row = _row(path, line, text)
        try:
            at_s, prompt, output = (
                row["timestamp"] / 1000,
                int(row["input_length"]),
                int(row["output_length"]),
            )
            hashes = [int(key) for key in row.get("hash_ids", ())]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}:{line}: broken row: {error!r}") from error
        shared = 0
        while shared < len(hashes) and hashes[shared] in seen:
            shared += 1
        seen.update(hashes)
        asked = Asked(at_s, prompt, output, "", min(prompt, shared * MOONCAKE_BLOCK_TOKENS))
        yield _sound(path, line, asked, earlier)
        earlier = at_s


def _agents(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[Asked]:
    """Sessions one after the other as they stand, each on its own clock: time goes on within a session only."""
    at: dict[str, float] = {}
    calls: list[Asked] = []
    for line, text in lines:
        row = _row(path, line, text)
        try:
            session, at_s = str(row["session"]), float(row["t_s"])
            prompt, output = int(row["input_chars"]), int(row["output_chars"])
            shared = int(row.get("shared_prefix_chars_with_prev", 0))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}:{line}: broken row: {error!r}") from error
        asked = Asked(
            at_s,
            prompt // CHARS_PER_TOKEN + 1,
            output // CHARS_PER_TOKEN + 1,
            session,
            shared // CHARS_PER_TOKEN,
        )
        calls.append(_sound(path, line, asked, at.get(session, 0.0)))
        at[session] = at_s
    calls.sort(key=lambda call: call.at_s)
    yield from calls


def _row(path: Path, line: int, text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InputError(f"{path}:{line}: broken row: {error}") from error


def _sound(path: Path, line: int, asked: Asked, earlier: float) -> Asked:
    if asked.at_s < earlier:
        raise InputError(
            f"{path}:{line}: time goes back, from {earlier:g} s to {asked.at_s:g} s; sort the trace"
        )
    if asked.prompt_tokens < 0 or asked.output_tokens < 0 or not asked.at_s < float("inf"):
        raise InputError(
            f"{path}:{line}: broken row: {asked.prompt_tokens} and {asked.output_tokens} tokens at {asked.at_s} s"
        )
    return asked
