"""Passages ranked again by their best sentence."""

from __future__ import annotations

import pytest

from sage import Passage, Pipeline, PipelineError
from sage.ops import rerank, template
from sage.testing import FakeEngine

FOUND = [
    Passage("a", "Nothing of the kind. Something else!"),
    Passage("b", "Much that is beside the point. Where is the key? And more."),
    Passage("c", ""),
]


def best(pipeline: Pipeline, **record: object) -> list[Passage]:
    result = pipeline.run([record], engines={"embedder": FakeEngine(), "small": FakeEngine()})
    assert not result.failures, result.failures
    passages: list[Passage] = result.records[0]["best"]
    return passages


def test_a_passage_counts_as_much_as_its_best_sentence() -> None:
    first, *rest = best(Pipeline("p", best=rerank("found", by="{q}")), q="Where is the key?", found=FOUND)
    assert (first.id, first.text) == ("b", FOUND[1].text)
    assert first.score == pytest.approx(1.0)
    assert [passage.score for passage in rest] == sorted((p.score for p in rest), reverse=True)


def test_it_keeps_as_many_as_are_wanted() -> None:
    pipeline = Pipeline("p", best=rerank("found", by="{q}", k="{depth}", engine="small"))
    assert len(best(pipeline, q="Where is the key?", found=FOUND, depth=1)) == 1
    assert best(pipeline, q="Where is the key?", found=[], depth=1) == []


def test_it_takes_passages_only() -> None:
    with pytest.raises(PipelineError, match="'best'"):
        Pipeline("p", found=template("no {x} list"), best=rerank("found", by="{q}"))
