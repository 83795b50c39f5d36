"""Answers kept on disk: files that are foreign, full disks, and logs that cannot be written."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from sage import Pipeline, Session, SetupError
from sage.engines.base import Reply, Usage
from sage.runtime.reuse import Reuse, key_of

REPLY = Reply("text", Usage(1, 1))


async def made() -> Reply:
    return REPLY


def test_a_file_of_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    with sqlite3.connect(path) as disk:
        disk.execute("PRAGMA user_version = 99")
    disk.close()
    reuse = Reuse(path)
    for _ in range(2):  # nor is it read when asked again
        with pytest.raises(SetupError, match=r"another version .* remove the file"):
            asyncio.run(reuse.get("k", "disk", made, joins=False))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(SetupError, match="set SAGE_HOME"):
        asyncio.run(Reuse(path).get("k", "disk", made, joins=False))


def test_a_full_disk_costs_a_warning_and_not_the_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reuse = Reuse(tmp_path / "answers.sqlite")
    reuse._open().execute("PRAGMA max_page_count = 1")
    reuse._open().execute("PRAGMA query_only = 1")  # every write fails, as on a full disk
    with caplog.at_level(logging.WARNING, logger="sage"):
        answers = [asyncio.run(reuse.get(key, "disk", made, joins=False))[0] for key in ("a", "b")]
    reuse.close()
    assert answers == [REPLY, REPLY]
    assert len(caplog.records) == 1


def test_equal_arguments_have_equal_keys_in_any_order_of_writing() -> None:
    assert key_of("f", {"a": 1, "b": [2]}) == key_of("f", {"b": [2], "a": 1})
    assert key_of("f", {"a": 1}) != key_of("g", {"a": 1})


def test_a_log_that_cannot_be_written_stops_the_run_with_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sage.runtime.runs import EventLog

    def full(_log: EventLog) -> None:
        raise SetupError("events.jsonl: cannot be written (No space left on device); free some space")

    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x

    async def main() -> Any:
        async with Session() as session:
            monkeypatch.setattr(EventLog, "flush", full)
            await session.run(Pipeline("p", y=later), [{"x": x} for x in range(2_000)])

    with pytest.raises(SetupError, match="No space left"):
        asyncio.run(main())


def test_who_is_cancelled_together_with_the_one_it_waits_for_does_not_go_on(tmp_path: Path) -> None:
    calls = 0

    async def slow() -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(60)
        return "late"

    async def main() -> None:
        reuse = Reuse(tmp_path / "answers.sqlite")
        asked = [reuse.get("same", None, slow, joins=True) for _ in range(3)]
        async with asyncio.timeout(5):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one) for one in asked]
                await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
            assert all(task.cancelled() for task in tasks)
        reuse.close()

    asyncio.run(main())
    assert calls == 1


def test_who_waits_for_one_that_is_cancelled_makes_the_call_itself(tmp_path: Path) -> None:
    async def main() -> Any:
        reuse = Reuse(tmp_path / "answers.sqlite")
        hang = asyncio.Event()

        async def never() -> None:
            await hang.wait()

        async def quick() -> str:
            return "mine"

        async with asyncio.TaskGroup() as group:
            first = group.create_task(reuse.get("same", None, never, joins=True))
            await asyncio.sleep(0)
            second = group.create_task(reuse.get("same", None, quick, joins=True))
            await asyncio.sleep(0)
            first.cancel()
        reuse.close()
        return second.result()

    assert asyncio.run(main()) == ("mine", None)
