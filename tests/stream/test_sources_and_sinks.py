"""Files, objects, documents: what is read comes out, what is written stays, and what is broken is told of."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sage import InputError, Pipeline, SageError, Session, SetupError, stream
from sage.ops import search
from sage.runtime.virtual import run_virtual
from sage.stream import StreamResult, count
from sage.stream.flow import Flow
from sage.testing.conformance_streams import check_sink, check_source

from .conftest import Carry

RECORDS = [{"n": 1, "text": "a"}, {"n": 2, "text": "b"}]


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- files


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.tsv", "x.parquet"])
def test_what_is_written_can_be_read(run: Carry, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    result = run(stream.records(RECORDS).write(path))
    assert result.records == []
    assert result.counts["write"].given == 2
    found = run(stream.read(path)).records
    assert [{"n": int(r["n"]), "text": r["text"]} for r in found] == RECORDS


def test_a_write_in_the_middle_passes_records_on(run: Carry, tmp_path: Path) -> None:
    result = run(stream.records(RECORDS).write(tmp_path / "x.jsonl").reduce(count))
    assert result.records == [{"count": 2}]


def test_text_is_read_line_by_line(run: Carry, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("one\ntwo", encoding="utf-8")
    assert run(stream.read(path)).records == [{"text": "one", "line": 1}, {"text": "two", "line": 2}]


def test_broken_rows_are_counted_and_told_with_their_line(run: Carry, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"n": 1}\n{"n": \n[1]\n{"n": 2}\n', encoding="utf-8")
    result = run(stream.read(path))
    assert [r["n"] for r in result.records] == [1, 2]
    assert (result.counts["read"].taken, result.counts["read"].failed, result.num_failed) == (4, 2, 2)
    assert [str(failure.error).split(": ")[0] for failure in result.failures] == [
        f"{path}:2:6",
        f"{path}:3:1",
    ]


def test_a_file_that_is_not_there_is_told_before_anything_is_written(run: Carry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        run(stream.read(tmp_path / "none.jsonl").merge(stream.records(RECORDS)).write(tmp_path / "out.jsonl"))


def test_what_a_pipeline_lacks_is_told_before_anything_is_read_or_written(run: Carry, tmp_path: Path) -> None:
    def source() -> list[dict[str, Any]]:
        raise AssertionError("was read")

    find = Pipeline("find", found=search("nowhere", text="{text}"))
    with pytest.raises(SageError, match="unknown index 'nowhere'"):
        run(stream.records(source).through(find).write(tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()


def test_a_file_that_is_no_parquet_is_told_of(run: Carry, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.parquet", {"n": 1})
    with pytest.raises(InputError, match="is no Parquet file"):
        run(stream.read(path))


def test_parquet_refuses_records_of_another_shape_alone(run: Carry, tmp_path: Path) -> None:
    from sage.stream.parquet import GROUP_ROWS

    many = [{"n": n} for n in range(GROUP_ROWS)]
    result = run(
        stream.records([*many, {"n": "text"}, {"n": 1, "m": 2}, {"n": 7}]).write(tmp_path / "x.parquet")
    )
    assert result.num_failed == 2
    assert len(run(stream.read(tmp_path / "x.parquet")).records) == GROUP_ROWS + 1


def test_a_record_that_has_no_form_in_the_file_fails_alone(run: Carry, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    result = run(stream.records([{"a": 1}, {"a": 1, "b": 2}, {"a": object()}, {"a": 2}]).write(path))
    assert path.read_text(encoding="utf-8") == "a\n1\n2\n"
    assert result.num_failed == 2
    assert "has the new field 'b'" in str(result.failures[0].error)


def test_a_full_disk_stops_the_stream_and_says_what_is_written(run: Carry, tmp_path: Path) -> None:
    made = stream.records([{"n": n} for n in range(1000)])
    with pytest.raises(
        SetupError, match="/dev/full: cannot write it: No space left on device; 0 records were written"
    ):
        run(made.write("/dev/full", "jsonl"))


@pytest.mark.slow
def test_a_disk_that_fills_up_half_way_loses_nothing_that_was_counted(run: Carry, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SetupError) as raised:
            run(stream.records([{"n": n, "pad": "x" * 50} for n in range(5000)]).write(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    written = int(str(raised.value).split("; ")[1].split()[0].replace(",", ""))
    whole = [line for line in path.read_text(encoding="utf-8").split("\n") if line.endswith("}")]
    assert 0 < written <= len(whole)


# ---- objects


def test_sources_may_be_functions_async_iterators_and_sources(run: Carry) -> None:
    async def numbers() -> AsyncIterator[dict[str, int]]:
        yield {"n": 1}
        yield {"n": 2}

    assert len(run(stream.records(numbers)).records) == 2
    assert len(run(stream.records(numbers())).records) == 2
    assert len(run(stream.records(lambda: RECORDS)).records) == 2


def test_a_source_that_dies_is_told_after_what_came_before_is_dealt_with(run: Carry, tmp_path: Path) -> None:
    def dying() -> Iterator[dict[str, int]]:
        for n in range(25):
            yield {"time": n}
        raise OSError("the cable is cut")

    windows = stream.records(dying).through(Pipeline("p", m=lambda time: time)).window(10).reduce(count)
    with pytest.raises(OSError, match="the cable is cut"):
        run(windows.write(tmp_path / "x.jsonl"))
    assert [r["count"] for r in read(tmp_path / "x.jsonl")] == [10, 10]


def test_the_log_of_a_stream_that_failed_says_what_is_not_finished() -> None:
    def dying() -> Iterator[dict[str, int]]:
        yield from ({"time": n} for n in range(25))
        raise InputError("the cable is cut")

    async def main() -> Any:
        async with Session():
            await stream.records(dying).window(10).reduce(count).arun()

    with pytest.raises(InputError, match="the cable is cut") as raised:
        asyncio.run(main())
    assert raised.value.__notes__ == ["after 25 records were read; not finished: reduce 5"]


def test_what_is_no_record_stops_the_stream(run: Carry) -> None:
    with pytest.raises(InputError, match="the source gave 3, expected records"):
        run(stream.records([{"n": 1}, 3]))


class Slow:
    """A sink that has to be awaited."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.most_waiting = 0
        self.is_closed = False

    async def write(self, records: list[Any]) -> None:
        await asyncio.sleep(1)
        self.records += records

    async def close(self) -> None:
        self.is_closed = True


def test_a_slow_sink_holds_the_source_back() -> None:
    pulled = 0

    def source() -> Iterator[dict[str, int]]:
        nonlocal pulled
        for n in range(20_000):
            pulled += 1
            yield {"n": n}

    sink = Slow()

    async def main() -> StreamResult:
        clock = asyncio.get_running_loop().time
        async with Session(record=False, clock=clock):
            return await stream.records(source).write(sink).arun()

    result = run_virtual(main())
    assert len(sink.records) == pulled == 20_000
    assert result.counts["write"].most_pending <= 3 * 512
    assert sink.is_closed


def test_a_sink_that_fails_stops_the_stream_and_is_closed(run: Carry) -> None:
    class Failing(Slow):
        async def write(self, records: list[Any]) -> None:
            raise SetupError("the database is gone")

    sink = Failing()
    with pytest.raises(SetupError, match="the database is gone"):
        run(stream.records(RECORDS).write(sink))
    assert sink.is_closed


def test_a_sink_that_cannot_be_closed_leaves_no_complete_run(run: Carry, tmp_path: Path) -> None:
    class Unclosed(Slow):
        async def write(self, records: list[Any]) -> None:
            """Takes them."""

        async def close(self) -> None:
            raise SetupError("the last block did not fit")

    async def main() -> Any:
        async with Session() as session:
            flow = Flow(stream.records(RECORDS).write(Unclosed()), session, {})
            with pytest.raises(SetupError, match="the last block did not fit"):
                await flow.carry_out()
            return flow.result([])

    assert asyncio.run(main()).metrics.status == "partial"


class Kept:
    """The smallest sink there is."""

    last: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        self.records: list[Any] = []

    def write(self, records: list[Any]) -> None:
        self.records += records

    def close(self) -> None:
        Kept.last = self.records


class AsyncKept(Kept):
    async def write(self, records: list[Any]) -> None:  # type: ignore[override]  # a sink may be either
        self.records += records


class Numbers:
    """A source of two records."""

    def records(self) -> Iterator[dict[str, int]]:
        yield {"n": 1}
        yield {"n": 2}

    async def close(self) -> None:
        pass


class AsyncNumbers(Numbers):
    async def records(self) -> AsyncIterator[dict[str, int]]:  # type: ignore[override]  # a source may be either
        yield {"n": 1}
        yield {"n": 2}


@pytest.mark.parametrize("kind", [Numbers, AsyncNumbers])
def test_a_source_of_ones_own_conforms(kind: Any) -> None:
    asyncio.run(check_source(kind, [{"n": 1}, {"n": 2}]))


@pytest.mark.parametrize("kind", [Kept, AsyncKept])
def test_a_sink_of_ones_own_conforms(kind: Any) -> None:
    asyncio.run(check_sink(kind, lambda: Kept.last))


def test_the_suite_finds_what_does_not_conform() -> None:
    class Forgets(Kept):
        def write(self, records: list[Any]) -> None:
            self.records = records[-1:]

    with pytest.raises(AssertionError, match="kept"):
        asyncio.run(check_sink(Forgets, lambda: Kept.last))


def test_a_pipe_is_read_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    first_seen = threading.Event()

    def write() -> None:
        with path.open("w", encoding="utf-8") as pipe:
            pipe.write('{"n": 1}\n' + " " * (1 << 16) + '\n{"n": 2}\n')  # past the reader's buffer
            pipe.flush()
            first_seen.wait(5)
            pipe.write('{"n": 3}\n')

    async def main() -> list[int]:
        seen = []
        async with Session(record=False):
            async for record in stream.read(path):
                seen.append(record["n"])
                first_seen.set()
        return seen

    writer = threading.Thread(target=write)
    writer.start()
    assert asyncio.run(main()) == [1, 2, 3]
    writer.join()


# ---- endless sources


def test_a_file_that_is_followed_gives_what_is_appended(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {"n": 1})

    async def main() -> list[int]:
        seen: list[int] = []
        async with Session(record=False, clock=asyncio.get_running_loop().time):
            async for record in stream.read(path, follow=True).take(3):
                seen.append(record["n"])
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"n": len(seen) + 1})[:4])
                    file.flush()
                    file.write(json.dumps({"n": len(seen) + 1})[4:] + "\n")
        return seen

    assert run_virtual(main()) == [1, 2, 3]


def test_a_file_that_becomes_shorter_is_told_of(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", {"n": 1})

    async def main() -> None:
        async with Session(record=False, clock=asyncio.get_running_loop().time):
            async for _ in stream.read(path, follow=True):
                path.write_text("", encoding="utf-8")

    with pytest.raises(SetupError, match="became shorter while it was followed"):
        run_virtual(main())


def test_documents_are_given_when_they_are_new_changed_and_gone(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.md").write_text("# Heaps\n\nA tree.", encoding="utf-8")
    (folder / "b.html").write_text("<title>Bisect</title><p>Halves.", encoding="utf-8")
    (folder / "c.dat").write_text("left alone", encoding="utf-8")
    seen: list[tuple[str, str, str]] = []

    async def main() -> None:
        async with Session(record=False):
            async for record in stream.documents(folder, every="1ms").take(5):
                seen.append((record["id"], record["change"], record["text"]))
                if len(seen) == 2:
                    (folder / "a.md").write_text("# Heaps\n\nA heap.", encoding="utf-8")
                    os.utime(folder / "a.md", ns=(1, 1))
                    (folder / "b.html").unlink()
                if len(seen) == 4:
                    (folder / "d.txt").write_text("New.", encoding="utf-8")

    asyncio.run(main())
    assert sorted(seen[:2]) == [("a.md", "new", "# Heaps\n\nA tree."), ("b.html", "new", "Halves.")]
    assert sorted(seen[2:4]) == [("a.md", "changed", "# Heaps\n\nA heap."), ("b.html", "gone", "")]
    assert seen[4] == ("d.txt", "new", "New.")


def test_documents_that_cannot_be_read_are_counted(run: Carry, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "b.pdf").write_bytes(b"no pdf")
    (tmp_path / "c.txt").write_text("fine", encoding="utf-8")
    result = run(stream.documents(tmp_path))
    assert [r["id"] for r in result.records] == ["c.txt"]
    assert result.num_failed == 2
    assert "is no PDF that can be read" in str(result.failures[1].error)


def test_a_folder_that_is_not_there_is_told_of(run: Carry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file or folder"):
        run(stream.documents(tmp_path / "none"))


# ---- stopping


def test_a_stream_that_is_stopped_finishes_jobs_and_says_what_is_not_complete() -> None:
    async def ticking() -> AsyncIterator[dict[str, int]]:
        n = 0
        while True:
            yield {"time": n}
            n += 1
            await asyncio.sleep(1)

    async def main() -> Any:
        out: list[Any] = []
        async with Session(clock=asyncio.get_running_loop().time) as session:
            made = (
                stream.records(ticking).through(Pipeline("p", m=lambda time: time)).window(10).reduce(count)
            )
            flow = Flow(made, session, {}, out.append)
            asyncio.get_running_loop().call_later(24.5, flow.stop)
            await flow.carry_out()
            return out, flow.result([])

    out, result = run_virtual(main())
    assert [r["count"] for r in out] == [10, 10]
    assert result.counts["reduce"].unfinished == 5
    assert result.metrics.status == "partial"
    assert [(s.stage, s.unfinished) for s in result.metrics.stages] == [
        ("records", 0),
        ("p", 0),
        ("reduce", 5),
    ]


def test_a_stream_that_is_cancelled_hands_on_what_is_finished(tmp_path: Path) -> None:
    """The first job never ends; the others have, and wait for their turn."""

    async def stuck(n: int) -> int:
        if n == 0:
            await asyncio.Event().wait()
        return n

    async def main() -> None:
        async with Session() as session:
            made = stream.records([{"n": n} for n in range(5)]).through(Pipeline("p", m=stuck))
            task = session.keep(_carry(made.write(tmp_path / "x.jsonl")))
            for _ in range(200):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

    async def _carry(made: Any) -> None:
        await made.arun()

    asyncio.run(main())
    assert [r["n"] for r in read(tmp_path / "x.jsonl")] == [1, 2, 3, 4]


def test_failures_are_named_in_the_log_without_what_users_wrote(tmp_path: Path) -> None:
    def refuse(n: int) -> int:
        raise ValueError(f"secret {n}")

    async def main() -> Any:
        async with Session():
            return await stream.records([{"n": n} for n in range(50)]).map(m=refuse).arun()

    result = asyncio.run(main())
    text = (result.folder / "events.jsonl").read_text(encoding="utf-8")
    assert text.count('"failed_record"') == 20
    assert "secret" not in text
    assert len(result.failures) == 50


def test_a_session_that_closes_ends_its_streams() -> None:
    async def main() -> None:
        async with Session(record=False):
            results = aiter(stream.records(_endless))
            await anext(results)

    async def _endless() -> AsyncIterator[dict[str, int]]:
        while True:
            yield {"n": 1}
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(main(), 5))


def test_every_error_of_a_stream_is_one_of_ours(run: Carry, tmp_path: Path) -> None:
    for made in (
        stream.read(tmp_path / "none.jsonl"),
        stream.records(RECORDS).write(tmp_path / "none" / "x.jsonl"),
        stream.records(RECORDS).write(tmp_path / "none" / "x.parquet"),
    ):
        with pytest.raises(SageError):
            run(made)
