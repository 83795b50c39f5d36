"""Reading folders and files of text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sage.errors import InputError
from sage.graph.values import Passage
from sage.index.chunk import Document
from sage.index.corpus import read_corpus


def write(folder: Path, **files: str | bytes) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_corpus(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_gives_its_documents_sorted_by_path(tmp_path: Path) -> None:
    write(tmp_path, b_txt="Words.", a__c_md="# Title\n\nText", d_rst="Top\n===\n\nText", e_png="no")
    corpus = read_corpus(tmp_path)
    assert [(item.id, item.title) for item in corpus.items] == [("a/c.md", ""), ("b.txt", "b"), ("d.rst", "")]
    assert (corpus.num_files, corpus.num_skipped) == (3, 1)


def test_a_single_file_is_a_corpus(tmp_path: Path) -> None:
    write(tmp_path, b_txt="\ufeffWords.")
    (document,) = read_corpus(tmp_path / "b.txt").items
    assert isinstance(document, Document)
    assert (document.id, document.text, document.form) == ("b.txt", "Words.", "text")


def test_rows_become_documents_and_passages(tmp_path: Path) -> None:
    rows = (
        '{"text": "One", "id": 7, "lang": "en", "meta": {"year": 2001}}\n\n'
        '{"text": "Two", "pid": "p", "title": "T"}\n{"text": "Three", "id": null}\n'
    )
    one, two, three = read_corpus(write(tmp_path, r_jsonl=rows)).items
    assert one == Document("7", "One", meta={"lang": "en", "year": 2001})
    assert two == Passage("p", "Two", title="T")
    assert three.id == "r.jsonl:4"


def test_hidden_files_and_inner_links_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, a_txt="Words.", _git__b_txt="Hidden.")
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    assert [item.id for item in read_corpus(tmp_path).items] == ["a.txt"]


@pytest.mark.parametrize("target", ["secret.txt", "."])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, target: str) -> None:
    write(tmp_path, secret_txt="Secret.", in__a_txt="Words.")
    (tmp_path / "in" / "link.txt").symlink_to(tmp_path / target)
    assert "leads out of the folder" in refusal(tmp_path / "in")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"text": a}', "line 2, column 10: not JSON"),
        ('{"text": NaN}', "line 2: not JSON: NaN is no JSON number"),
        ('["a"]', "line 2: expected an object"),
        ('{"txt": "a"}', "line 2: no \"text\"; got 'txt'"),
        ('{"text": 5}', 'line 2: "text" is 5, expected a string'),
        ('{"text": null}', 'line 2: "text" is None, expected a string'),
        ('{"text": "a", "title": []}', None),
        ('{"text": "a", "title": [1]}', 'line 2: "title" is [1]'),
        ('{"text": "a", "meta": "x"}', "line 2: \"meta\" is 'x'"),
        ('{"text": "a", "id": true}', 'line 2: "id" is True'),
        ('{"text": "\\ud800"}', "line 2: \\ud800 is half a character"),
        ("[" * 100_000, "line 2: not JSON"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: str, said: str | None) -> None:
    path = write(tmp_path, r_jsonl='{"text": "fine"}\n' + row) / "r.jsonl"
    if said is None:
        assert read_corpus(path).items[1].title == ""
    else:
        assert said in refusal(path)


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    write(tmp_path, a_txt="Grüße".encode("latin-1"))
    assert "a.txt' is not UTF-8: byte 2 is 0xfc" in refusal(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (write(tmp_path, a_txt="Words.") / "a.txt").chmod(0)
    assert "Permission denied" in refusal(tmp_path)


def test_no_text_is_refused(tmp_path: Path) -> None:
    assert "no such file or folder" in refusal(tmp_path / "none")
    assert "no file of a known kind; expected text in .txt" in refusal(tmp_path)
    assert "1 files of a known kind hold no text" in refusal(write(tmp_path, a_txt=" \n"))
    assert "is of no known kind" in refusal(write(tmp_path, a_doc="x") / "a.doc")


def test_ids_that_repeat_are_refused(tmp_path: Path) -> None:
    rows = '{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}'
    assert "two rows" in refusal(write(tmp_path, r_jsonl=rows))
