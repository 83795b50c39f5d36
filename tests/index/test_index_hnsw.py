"""Searching by a graph: nearly what an exact search finds, with the very same scores."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sage import InputError, Passage, SetupError
from sage.cli import app, exit_code
from sage.index import Index
from sage.index.vectors import nearest_rows, unit_rows

pytest.importorskip("faiss", reason="the extra faiss is not installed")

NUM_ROWS, DIMENSION = 2_000, 16


def rows(seed: int, num_rows: int = NUM_ROWS) -> NDArray[np.float32]:
    return unit_rows(np.random.default_rng(seed).standard_normal((num_rows, DIMENSION)))


def passages(num_rows: int = NUM_ROWS) -> list[Passage]:
    return [Passage(str(n), f"word{n}", meta={"odd": n % 2, "tenth": n % 10}) for n in range(num_rows)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Index:
    path = tmp_path_factory.mktemp("graph") / "docs.index"
    return Index.build(passages(), path=path, vectors=rows(1), fingerprint="random", hnsw=1000)


def test_a_graph_finds_nearly_all_and_scores_exactly(built: Index) -> None:
    recall = built.recall()
    assert recall is not None
    assert recall.of == 2000
    assert recall.found >= 0.95 * recall.of
    for query in rows(2, 20):
        exact = dict(
            zip(*(part.tolist() for part in nearest_rows(rows(1), query[np.newaxis], 50)[0]), strict=True)
        )
        for found in built.search(vector=query, k=5):
            assert found.score == exact[int(found.id)]


def test_a_saved_graph_is_opened_again(built: Index) -> None:
    path = built.info().path
    assert path is not None
    again = Index.open(path, verify=True)
    assert again.info().graph
    query = rows(3, 1)[0]
    assert again.search(vector=query, k=9) == built.search(vector=query, k=9)
    assert again.recall() == built.recall()


def test_below_the_size_and_unless_asked_every_vector_is_looked_at() -> None:
    for hnsw in (None, NUM_ROWS + 1):
        index = Index.build(passages(), vectors=rows(1), fingerprint="random", hnsw=hnsw)
        assert not index.info().graph
        assert index.recall() is None


@pytest.mark.parametrize(("where", "expected"), [({"odd": 1}, 1), ({"tenth": 3}, 3)])
def test_a_filter_holds_whether_the_graph_or_an_exact_search_answers(
    built: Index, where: dict[str, Any], expected: int
) -> None:
    (key,) = where
    found = built.search(vector=rows(4, 1)[0], k=20, where=where)
    assert len(found) == 20
    assert {passage.meta[key] for passage in found} == {expected}


def test_deleted_passages_are_not_found_and_added_ones_are() -> None:
    index = Index.build(passages(), vectors=rows(1), fingerprint="random", hnsw=1000)
    query = rows(5, 1)[0]
    best = index.search(vector=query, k=1)[0]
    index.delete([best.id])
    assert best.id not in [passage.id for passage in index.search(vector=query, k=50)]
    index.add([Passage("new", "new word")], vectors=query[np.newaxis])
    assert index.search(vector=query, k=1)[0].id == "new"


def test_more_than_half_of_all_are_searched_exactly(built: Index) -> None:
    assert len(built.search(vector=rows(6, 1)[0], k=NUM_ROWS)) == NUM_ROWS


def test_an_index_grows_into_its_graph(tmp_path: Path) -> None:
    small = Index.build(passages(900), path=tmp_path / "x", vectors=rows(1, 900), fingerprint="r", hnsw=1000)
    assert not small.info().graph
    more = [Passage(f"m{n}", "more") for n in range(200)]
    small.add(more, vectors=rows(2, 200))
    small.save()
    assert Index.open(tmp_path / "x").info().graph


def test_without_faiss_the_search_is_exact_and_a_graph_cannot_be_built(
    built: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = built.info().path
    assert path is not None
    monkeypatch.setitem(sys.modules, "faiss", None)
    again = Index.open(path)
    assert not again.info().graph
    query = rows(7, 1)[0]
    assert [p.id for p in again.search(vector=query, k=5)] == [
        str(row) for row in nearest_rows(rows(1), query[np.newaxis], 5)[0].rows
    ]
    with pytest.raises(SetupError, match=r"pip install 'sage-dataflow\[faiss\]'"):
        Index.build(passages(), vectors=rows(1), fingerprint="random", hnsw=1000)


@pytest.mark.parametrize(
    ("hnsw", "said"), [(0, "hnsw is 0"), ("many", "hnsw is 'many'"), (True, "hnsw is True")]
)
def test_a_size_that_makes_no_sense_is_refused(hnsw: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Index.build(passages(10), vectors=rows(1, 10), fingerprint="random", hnsw=hnsw)
    with pytest.raises(InputError, match="this index has none"):
        Index.build(passages(10), hnsw=5)


def test_a_graph_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    index = Index.build(passages(), path=tmp_path / "x", vectors=rows(1), fingerprint="r", hnsw=1000)
    del index
    (graph,) = (tmp_path / "x").glob("data-*/graph.faiss")
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.chmod(0o600)
    graph.write_bytes(content)
    with pytest.raises(SetupError, match=r"the sha256 of graph\.faiss"):
        Index.open(tmp_path / "x", verify=True)


def test_info_prints_the_recall(built: Index, capsys: pytest.CaptureFixture[str]) -> None:
    path = built.info().path
    assert path is not None
    assert exit_code(lambda: app(args=["index", "info", path], prog_name="sage")) == 0
    out = capsys.readouterr().out
    assert "a graph (HNSW) finds " in out
    assert " of 2,000, beside an exact search)" in out
