from __future__ import annotations

import contextlib
import io
import os
import stat
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import InputError, SetupError
from sage.graph.values import Passage
from sage.runtime.files import RecordWriter, check_file, format_of, read_records


def written(tmp_path: Path, content: str | bytes, name: str = "in.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "records"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": [2]}', [{"a": 1}, {"a": [2]}]),
        ("a.ndjson", '\ufeff{"a": 1}\r\n{"a": 2}\r\n', [{"a": 1}, {"a": 2}]),
        ("a.jsonl", '\ufeff\n{"a": 1}\n', [{"a": 1}]),
        ("a.json", '[\n {"a": 1},\n {"b": null}\n]', [{"a": 1}, {"b": None}]),
        (
            "a.csv",
            'q,k\n"a, b",1\n\n"two\nlines",\n',
            [{"q": "a, b", "k": "1"}, {"q": "two\nlines", "k": ""}],
        ),
        ("a.CSV", "\ufeffq\r\nä\r\n", [{"q": "ä"}]),
        ("a.tsv", "q\tk\na, b\t1\n", [{"q": "a, b", "k": "1"}]),
    ],
)
def test_records_are_read_in_order(tmp_path: Path, name: str, content: str, records: list[Any]) -> None:
    path = written(tmp_path, content, name)
    assert list(read_records(path)) == records
    assert check_file(path) == len(records)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"a": 1}\n{"ä": }\n', r"a.jsonl:2:7: JSON is malformed: invalid character"),
        ("a.jsonl", '{"a": 1\n', r"a.jsonl:1:8: JSON ends too early"),
        ("a.jsonl", "[1]\n", r"a.jsonl:1:1: expected a JSON object, got array"),
        ("a.jsonl", '{"a": 1} {"a": 2}\n', r"a.jsonl:1:10: JSON is malformed: trailing characters"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a.jsonl:2:8: is not UTF-8"),
        ("a.jsonl", "\ufeff[1]\n", r"a.jsonl:1:1: expected a JSON object"),
        ("a.jsonl", '{"a":' * 50_000, r"a.jsonl:1:1: is nested too deeply"),
        ("a.jsonl", "", "has no records"),
        ("a.jsonl", "\n \n", "has no records"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', r"a.json:2:7: JSON is malformed.*one object a line is .jsonl"),
        ("a.json", '{"a": 1}', "expected an array of objects, got object; for one object a line use .jsonl"),
        ("a.json", '[{"a": 1}, 2]', "item 2 of the array: expected a JSON object, got int"),
        ("a.json", "", "has no records"),
        ("a.json", "[]", "has no records"),
        ("a.csv", "", "has no records"),
        ("a.csv", "q,k\n", "has no records"),
        ("a.csv", "q,q\n1,2\n", "a.csv:1: the column 'q' stands twice"),
        ("a.csv", "q,\n1,2\n", "column 2 of the header has no name"),
        ("a.csv", "q,k\n1,2\n1,2,3\n", "a.csv:3: the row has 3 columns, expected 2"),
        ("a.csv", "q,k\n1\n", "a.csv:2: the row has 1 columns, expected 2"),
        ("a.csv", b"q,k\n1,\xff\n", "a.csv:2:3: is not UTF-8"),
        ("a.csv", b"\xff,k\n1,2\n", "a.csv:1:1: is not UTF-8"),
        ("a.csv", 'q\n"a"b\n', "a.csv:2: .*is a quote missing"),
        ("a.csv", 'q\n"a\n', "unexpected end of data"),
    ],
)
def test_a_bad_record_is_named_by_its_place(
    tmp_path: Path, name: str, content: str | bytes, says: str
) -> None:
    path = written(tmp_path, content, name)
    with pytest.raises(InputError, match=says):
        check_file(path)


@pytest.mark.parametrize(
    ("name", "content", "good", "bad"),
    [
        ("a.jsonl", b'{"a": "1"}\n[]\n{"a"\n{"a": "\xff"}\n{"a": "2"}\n', 2, 3),
        ("a.json", b'[{"a": "1"}, 5, {"a": "2"}]', 2, 1),
        ("a.csv", b'a\n1\n1,2\n\xff\n"x"y\n2\n', 2, 3),
    ],
)
def test_bad_records_can_be_left_out_and_told(
    tmp_path: Path, name: str, content: bytes, good: int, bad: int
) -> None:
    told: list[InputError] = []
    path = written(tmp_path, content, name)
    records = list(read_records(path, skip_bad=True, on_bad=told.append))
    assert [record["a"] for record in records] == ["1", "2"][:good]
    assert len(told) == bad
    assert check_file(path, skip_bad=True) == good


def test_a_missing_file_offers_the_nearest_one(tmp_path: Path) -> None:
    written(tmp_path, "{}", "questions.jsonl")
    with pytest.raises(InputError, match=r"no such file; did you mean 'questions.jsonl'\?"):
        read_records(tmp_path / "question.jsonl")


def test_what_cannot_be_opened_says_why_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_records(tmp_path / "folder.jsonl")
    with pytest.raises(InputError, match="is a folder"):
        RecordWriter(tmp_path / "folder.jsonl")
    with pytest.raises(InputError, match="no such folder"):
        RecordWriter(tmp_path / "nowhere" / "out.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, "{}")
    path.chmod(0)
    with pytest.raises(InputError, match="no permission to read"):
        read_records(path)


def test_the_format_is_said_or_told_by_the_extension() -> None:
    assert format_of("x.txt", "csv") == "csv"
    assert format_of("-") == "jsonl"
    with pytest.raises(InputError, match="did you mean 'jsonl'"):
        format_of("x.txt", "jsonll")
    with pytest.raises(InputError, match=r"cannot tell the format from '\.txt'"):
        format_of("x.txt")


def test_standard_input_is_read_as_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b'{"a": 1}\n{')))
    assert check_file("-") is None
    records = read_records("-")
    assert next(records) == {"a": 1}
    with pytest.raises(InputError, match="standard input:2:2"):
        next(records)


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_bytes, args=(b'{"a": 1}\n',))
    assert check_file(path) is None
    records = read_records(path)
    thread.start()
    assert list(records) == [{"a": 1}]
    thread.join()


def test_written_records_leave_vectors_out_and_are_private(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("longer than what comes now, and open to everyone")
    path.chmod(0o644)
    with RecordWriter(path) as out:
        out.write(
            {"vector": np.zeros(3, np.float32), "passages": [Passage("1", "text", meta={"n": np.int64(3)})]}
        )
    assert list(read_records(path)) == [
        {"passages": [{"id": "1", "text": "text", "title": "", "score": 0.0, "meta": {"n": 3}}]}
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_csv_takes_its_columns_from_the_first_record_and_nests_as_json(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with RecordWriter(path) as out:
        out.write({"q": "a, b", "k": 2, "ok": True, "tags": ["x"], "none": None, "v": np.zeros(2)})
        out.write({"k": 3, "q": "c", "ok": False, "none": 1.5, "tags": {}})
    assert path.read_text() == 'q,k,ok,tags,none\n"a, b",2,true,"[""x""]",\nc,3,false,{},1.5\n'


@pytest.mark.parametrize(
    ("later", "says"),
    [
        ({"a": 1, "b": 2, "c": 3}, "record 2 has the new field 'c'"),
        ({"a": 1}, "record 2 lacks the field 'b'"),
    ],
)
def test_a_csv_record_with_other_fields_is_refused(tmp_path: Path, later: dict[str, Any], says: str) -> None:
    path = tmp_path / "out.csv"
    with RecordWriter(path) as out:
        out.write({"a": 1, "b": 2})
        with pytest.raises(InputError, match=says):
            out.write(later)
        out.write({"b": 4, "a": 3})
    assert list(read_records(path)) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_a_record_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "out.jsonl") as out:
        out.write({"a": 1})
        with pytest.raises(InputError, match="record 2 cannot be written: a value of type 'object'"):
            out.write({"a": object()})
        with pytest.raises(InputError, match="record 2 cannot be written"):
            out.write({"a": "\ud800"})
    assert out.num_records == 1


def test_what_was_flushed_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with contextlib.suppress(KeyboardInterrupt), RecordWriter(path) as out:
        out.write({"a": 1})
        assert path.read_bytes() == b""
        out.flush()
        assert check_file(path) == 1
        out.write({"a": 2})
        raise KeyboardInterrupt
    assert check_file(path) == 2
    out.close()


def test_a_full_disk_is_the_machines_fault() -> None:
    out = RecordWriter("/dev/full", "jsonl")
    out.write({"a": 1})
    with pytest.raises(SetupError, match="No space left"):
        out.close()
    out.close()


def test_an_array_is_not_written_record_by_record(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"name it \.jsonl"):
        RecordWriter(tmp_path / "out.json")


@pytest.mark.slow
def test_many_records_leave_memory_flat(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    tracemalloc.start()
    with RecordWriter(path) as out:
        for number in range(20_000):
            out.write({"id": number, "text": "x" * 200})
    assert check_file(path) == 20_000
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 4_000_000
    assert peak_bytes < 1_000_000


texts = st.text(st.characters(codec="utf-8"), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.slow
@given(st.lists(st.dictionaries(texts, json_values, max_size=4), min_size=1, max_size=5))
def test_json_lines_come_back_equal(folder: Path, records: list[dict[str, Any]]) -> None:
    with RecordWriter(folder / "trip.jsonl") as out:
        for record in records:
            out.write(record)
    assert list(read_records(folder / "trip.jsonl")) == records


names = st.lists(texts.filter(lambda name: name and name[0] != "\ufeff"), min_size=1, max_size=4, unique=True)


@pytest.mark.slow
@given(names, st.data(), st.sampled_from(["csv", "tsv"]))
def test_csv_text_comes_back_equal(folder: Path, columns: list[str], data: st.DataObject, kind: str) -> None:
    row = st.fixed_dictionaries(dict.fromkeys(columns, texts))
    records = data.draw(st.lists(row, min_size=1, max_size=5))
    with RecordWriter(folder / f"trip.{kind}") as out:
        for record in records:
            out.write(record)
    assert list(read_records(folder / f"trip.{kind}")) == records


@pytest.mark.slow
@given(st.binary(max_size=60), st.sampled_from(["jsonl", "json", "csv"]))
def test_any_bytes_are_read_or_refused_never_worse(folder: Path, content: bytes, kind: str) -> None:
    path = folder / f"odd.{kind}"
    path.write_bytes(content)
    try:
        assert all(isinstance(record, dict) for record in read_records(path, skip_bad=True))
    except InputError as error:
        reason = str(error)
        assert reason.startswith(str(path))
