"""What strategies learn from other tasks: thresholds, weights, examples and classifiers, by folds.

A task is in the fold that the sha256 of its text says, so equal texts share one. What is fitted for a fold has seen the
tasks of the other folds only: no task is scored by what was fitted on it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.bench.agent_data.sets import Task
from sage.index.linear import fit_linear
from sage.index.tool_index import ToolIndex, Weights
from sage.ops.agents.deciding import ToolFit
from sage.ops.agents.ranking import Examples

__all__ = ["FOLDS", "Scored", "fit_decision", "fit_selection", "fold_of", "shown_fit"]

FOLDS = 5
WORDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
EXAMPLE_WEIGHTS = (0.25, 0.5, 1.0, 2.0)
ASKED_SHARE = 0.3  # of the tasks, the least sure, that adaptive strategies hand to a model
WANTED = 5  # tools a request gets, where it is fitted whether its clauses take turns
BEST_OF = 64  # thresholds looked at


def fold_of(task: Task) -> int:
    """The fold of a task.

    >>> fold_of(Task(id="1", query="Book a room")) == fold_of(Task(id="2", query=" book  a room"))
    True
    """
    text = " ".join(task.query.lower().split())
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % FOLDS


@dataclass(frozen=True, slots=True)
class Scored:
    """A task with its clauses and their vectors, so that it can be ranked again and again."""

    task: Task
    clauses: list[str]
    rows: NDArray[np.float32] | None

    def best(
        self, index: ToolIndex, weights: Weights, k: int = 1, *, turns: bool = False
    ) -> tuple[list[str], list[float]]:
        """The k tools that fit best, and their scores."""
        found = index.rank(self.clauses, self.rows, k=k, among=self.task.among, weights=weights, turns=turns)
        return found.names, found.scores


def fit_selection(
    strategy: str, fits: Sequence[str], index: ToolIndex, scored: Sequence[Scored]
) -> dict[str, Any]:
    """What a way of selecting takes, learnt from these tasks."""
    fitted: dict[str, Any] = {}
    known = [one for one in scored if one.task.gold]
    base = Weights(meaning=0.0, words=1.0) if strategy == "bm25" else Weights(words=0.0)
    if "words" in fits:
        fitted["words"] = _best_words(index, known)
        base = Weights(words=fitted["words"])
    if "examples" in fits and known:
        fitted["examples"] = _best_examples(index, known, base)
        index = _with(index, fitted["examples"])
    if "turns" in fits:
        fitted["turns"] = _are_turns_better(index, known, base)
    if "margin" in fits:
        gaps = sorted(_gap(one.best(index, base, 2)[1]) for one in scored)
        fitted["margin"] = gaps[int(len(gaps) * ASKED_SHARE)] if gaps else 0.0
    if "least" in fits and len(known) < len(scored):
        fitted["least"] = _best_least(index, scored, base)
    return fitted


def _gap(scores: Sequence[float]) -> float:
    return scores[0] - scores[1] if len(scores) > 1 else float("inf")


def _best_words(index: ToolIndex, known: Sequence[Scored]) -> float:
    """The weight with which most first tools are right; of equals the middle one."""
    tables = [(index.parts(one.clauses, one.rows, one.task.among), one.task) for one in known]
    names = [document.name for document in index.documents]
    hits = []
    for words in WORDS:
        right = 0
        for (meaning, bm25), task in tables:
            best = int((meaning + words * bm25).max(axis=0).argmax())
            right += (task.among or names)[best] in task.gold
        hits.append(right)
    ties = [words for words, right in zip(WORDS, hits, strict=True) if right == max(hits)]
    return ties[len(ties) // 2]


def _are_turns_better(index: ToolIndex, known: Sequence[Scored], base: Weights) -> bool:
    """Whether more of the right tools are found where clauses take turns."""

    def recall(turns: bool) -> float:
        return sum(
            len(set(one.task.gold).intersection(one.best(index, base, WANTED, turns=turns)[0]))
            / len(set(one.task.gold))
            for one in known
        )

    return recall(turns=True) > recall(turns=False)


def _best_examples(index: ToolIndex, known: Sequence[Scored], base: Weights) -> Examples:
    """The weight of an example that does best on a fifth of the tasks, given the others; then with all of them."""
    held = [one for one in known if _inner(one.task) == 0]
    rest = [one for one in known if _inner(one.task) != 0]
    right = {
        weight: sum(
            one.best(_index, base)[0][:1] == [one.task.gold[0]]
            or one.best(_index, base)[0][0] in one.task.gold
            for one in held
        )
        for weight in EXAMPLE_WEIGHTS
        for _index in (_with(index, _examples(rest, weight)),)
    }
    return _examples(known, max(EXAMPLE_WEIGHTS, key=lambda weight: right[weight]))


def _inner(task: Task) -> int:
    """A second split, that has nothing to do with the folds."""
    return hashlib.sha256(b"inner" + task.query.encode()).digest()[0] % FOLDS


def _examples(known: Sequence[Scored], weight: float) -> Examples:
    pairs = [(one, name) for one in known for name in one.task.gold]
    rows = [one.rows[0] for one, _ in pairs if one.rows is not None]
    return Examples(
        requests=tuple(one.task.query for one, _ in pairs),
        tools=tuple(name for _, name in pairs),
        weight=weight,
        rows=np.stack(rows) if rows else None,
    )


def _with(index: ToolIndex, examples: Examples) -> ToolIndex:
    return (
        index
        if examples.rows is None
        else index.with_examples(examples.tools, examples.rows, examples.weight)
    )


def _best_least(index: ToolIndex, scored: Sequence[Scored], base: Weights) -> float:
    """The threshold with the best mean of both accuracies: where a tool fits, and where none does."""
    with_tool, without = [], []
    for one in scored:
        names, scores = one.best(index, base)
        top = scores[0] if scores else 0.0
        if one.task.gold:
            with_tool.append((top, bool(names) and names[0] in one.task.gold))
        else:
            without.append(top)

    def balanced(least: float) -> float:
        right = sum(ok for top, ok in with_tool if top >= least) / max(1, len(with_tool))
        return right + sum(top < least for top in without) / max(1, len(without))

    return max(_thresholds([top for top, _ in with_tool] + without), key=balanced)


def _thresholds(values: Sequence[float]) -> list[float]:
    ordered = sorted(set(values)) or [0.0]
    return sorted({ordered[round(number * (len(ordered) - 1) / BEST_OF)] for number in range(BEST_OF + 1)})


# ---- decisions


def fit_decision(fits: Sequence[str], labels: Sequence[str], seen: Sequence[ToolFit]) -> dict[str, Any]:
    """What a way of deciding takes, learnt from how tools fit some tasks whose right action is known."""
    fitted: dict[str, Any] = {}
    if "actions" in fits:
        fitted["actions"] = tuple(sorted(set(labels)))
    if "model" in fits:
        table = np.array([fit.features for fit in seen], dtype=np.float64)
        fitted["model"] = fit_linear(table, labels, penalty=0.1)
    if "sure" in fits:
        sure = sorted(max(fitted["model"].probabilities(fit.features).values()) for fit in seen)
        fitted["sure"] = sure[int(len(sure) * ASKED_SHARE)]
    if "least" in fits:
        fitted |= _best_rule(labels, seen)
    return fitted


def _best_rule(labels: Sequence[str], seen: Sequence[ToolFit]) -> dict[str, Any]:
    """The threshold, and the two things the rule may say instead of "call", with the most right decisions."""
    others = Counter(label for label in labels if label not in {"call", "ask"})
    otherwise = others.most_common(1)[0][0] if others else "answer"

    def right(least: float, asks: bool) -> int:
        return sum(
            label
            == (
                otherwise
                if fit.best is None or fit.words < least
                else "ask"
                if asks and fit.missing
                else "call"
            )
            for label, fit in zip(labels, seen, strict=True)
        )

    ways = [
        (least, asks)
        for least in _thresholds([fit.words for fit in seen])
        for asks in ({False, "ask" in labels})
    ]
    least, asks = max(ways, key=lambda way: right(*way))
    return {"least": least, "asks": asks, "otherwise": otherwise}


def shown_fit(fitted: Mapping[str, Any]) -> dict[str, Any]:
    """What was fitted, for a file: numbers as they are, large parts by their size."""
    shown: dict[str, Any] = {}
    for name, value in fitted.items():
        if isinstance(value, Examples):
            shown[name] = {"requests": len(value.requests), "weight": value.weight}
        elif name == "model":
            shown[name] = {"features": len(value.centre), "labels": value.labels}
        else:
            shown[name] = value
    return shown


#: Told what is counted, how many are done, and how many there are.
Progress = Callable[[str, int, int], None]
