"""``sage run``, ``show``, ``explain`` and ``runs`` of streams."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.cli import app, exit_code

COUNTS = """
stream: per_user
stages:
  - read: messages.jsonl
  - filter: {words: {gte: 2}}
  - through: {pipeline: greet, steps: {line: {template: "Hello {user}"}}}
  - reduce: {count: count, words: {total: words}}
    key_by: user
    window: {size: 1m, time: at}
"""
FLOWS = """
import asyncio, sys
from sage import Pipeline, stream

async def ticks():
    n = 0
    while True:
        yield {"n": n, "time": n}
        n += 1
        await asyncio.sleep(0.001)

async def stuck(n):
    if n == 3:
        print("stuck", file=sys.stderr, flush=True)
        await asyncio.Event().wait()
    return n

endless = stream.records(ticks).window(10).reduce(stream.count)
hangs = stream.records(ticks).through(Pipeline("p", m=stuck))
unreachable = stream.read("messages.jsonl").through(Pipeline("p", m=lambda at: 1 / (at - at)))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with streams in it, and an empty home."""
    (tmp_path / "counts.yaml").write_text(COUNTS, encoding="utf-8")
    (tmp_path / "flows.py").write_text(FLOWS, encoding="utf-8")
    records = [{"user": "ab"[n % 2], "at": 10 * n, "words": n} for n in range(10)]
    records += [{"user": "a", "at": 1, "words": 9}]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "messages.jsonl").write_text(text + "{broken\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - modules:
        if name.startswith("sage_file_"):
            del sys.modules[name]


def sage(*args: str) -> int:
    return exit_code(lambda: app(args=list(args), prog_name="sage"))


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_stream_without_a_sink_prints_its_records(capfd: pytest.CaptureFixture[str]) -> None:
    assert sage("run", "counts.yaml") == 1
    out, err = capfd.readouterr()
    assert lines(out)[0] == {"user": "a", "window_start": 0, "window_end": 60, "count": 2, "words": 6}
    assert "failed: messages.jsonl:12:2: JSON is malformed" in err
    assert "12 in, 4 out, 1 late, 1 failed, " in err


def test_results_go_where_output_says(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert sage("run", "counts.yaml", "--output", "out.csv", "--errors", "bad.jsonl") == 1
    assert (
        (folder / "out.csv")
        .read_text(encoding="utf-8")
        .startswith("user,window_start,window_end,count,words\n")
    )
    (bad,) = lines((folder / "bad.jsonl").read_text(encoding="utf-8"))
    assert (bad["step"], bad["outcome"]) == ("read", "failed")
    table = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert ["reduce", "9", "4", "0", "1", "0", "2", "0"] in table


def test_one_json_object_tells_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert sage("run", "counts.yaml", "--json") == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["num_failed"] == 1
    assert shown["stages"]["reduce"]["late"] == 1
    assert [record["count"] for record in shown["records"]] == [2, 2, 2, 2]
    assert shown["metrics"]["jobs"]["done"] == 9


def test_runs_and_explain_show_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    sage("run", "counts.yaml", "--output", "out.jsonl")
    capsys.readouterr()
    for verb in (("runs", "show"), ("explain",)):
        assert sage(*verb) == 0
        out = capsys.readouterr().out
        row = next(line.split() for line in out.splitlines() if line.startswith("reduce"))
        assert row[1:7] == ["reduce", "greet", "9", "4", "0", "1"]
    sage("runs", "list")
    assert "per_user, greet" in capsys.readouterr().out
    sage("explain", "--json")
    assert json.loads(capsys.readouterr().out)["explanation"]["stages"][0]["stage"] == "read"


def test_show_draws_a_stream(capsys: pytest.CaptureFixture[str]) -> None:
    assert sage("show", "counts.yaml") == 0
    assert "greet   through  greet" in capsys.readouterr().out
    assert sage("show", "flows.py:endless", "--form", "mermaid") == 0
    assert "n0 --> n1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("counts.yaml", "--input", "x.jsonl"), "--input is for pipelines"),
        (("counts.yaml", "--set", "x=1"), "--set is for pipelines"),
        (("counts.yaml", "--ordered"), "--ordered is for pipelines"),
        (("counts.yaml", "--engine", "llm=fake:"), "no pipeline of the stream uses pool 'llm'"),
        (("flows.py",), "has 3 streams; say which"),
        (("flows.py:endles",), "has no pipeline or stream 'endles': did you mean 'endless'?"),
        (("none.yaml",), "no such file"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    args: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sage("run", *args) == 2
    assert said in capsys.readouterr().err


def test_a_source_that_is_missing_or_a_disk_that_is_full_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.yaml").write_text(
        "stream: a\nstages: [{read: none.jsonl}, {write: a.jsonl}]", encoding="utf-8"
    )
    assert sage("run", "a.yaml") == 2
    assert "error: none.jsonl: no such file" in capsys.readouterr().err
    full = "stream: a\nstages:\n  - read: messages.jsonl\n  - write: /dev/full\n    format: jsonl"
    (folder / "b.yaml").write_text(full, encoding="utf-8")
    assert sage("run", "b.yaml") == 2
    err = capsys.readouterr().err
    assert "/dev/full: cannot write it: No space left on device; 0 records were written before" in err


def test_a_stream_of_which_nothing_succeeds_ends_with_one(capfd: pytest.CaptureFixture[str]) -> None:
    assert sage("run", "flows.py:unreachable") == 1
    assert "… and 7 more; --errors FILE keeps them all" in capfd.readouterr().err


def interrupted(target: str, *signals: signal.Signals) -> tuple[int, str, str]:
    """A stream in a process of its own that gets these signals once it has given three records."""
    code = "import sys; from sage.cli import main; sys.argv = ['sage', *sys.argv[1:]]; main()"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, "run", target],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    first = "".join(process.stdout.readline() for _ in range(3))
    if len(signals) > 1:
        assert process.stderr.readline() == "stuck\n"
    for last, number in enumerate(signals, 1):
        process.send_signal(number)
        if last < len(signals):
            assert process.stderr.readline().startswith("stopping: ")
    out, err = process.communicate(timeout=20)
    return process.returncode, first + out, err


@pytest.mark.slow
def test_one_who_stops_reading_ends_the_stream_without_a_word() -> None:
    code = "import sys; from sage.cli import main; sys.argv = ['sage', *sys.argv[1:]]; main()"
    command = [sys.executable, "-u", "-c", code, "run", "flows.py:endless"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 1
        assert process.stderr.read() == ""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_endless_stream_is_stopped_and_says_what_is_not_complete(number: signal.Signals) -> None:
    code, out, err = interrupted("flows.py:endless", number)
    assert code == 130
    assert all(record["count"] == 10 for record in lines(out))
    assert "stopping: what is under way is finished; once more to abort it" in err
    assert "interrupted: " in err
    unfinished = int(next(line for line in err.splitlines() if line.startswith("reduce")).split()[-1])
    read = int(next(line for line in err.splitlines() if line.startswith("records")).split()[1])
    assert read == 10 * len(lines(out)) + unfinished


@pytest.mark.slow
def test_a_second_interrupt_aborts_what_hangs() -> None:
    code, out, err = interrupted("flows.py:hangs", signal.SIGINT, signal.SIGINT)
    assert code == 130
    assert [record["m"] for record in lines(out)][:3] == [0, 1, 2]
    assert int(next(line for line in err.splitlines() if line.startswith("p ")).split()[-1]) >= 1
