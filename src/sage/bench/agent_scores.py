"""How well an agent chose, planned and decided: scores of one item, and counts over all of them.

Choosing is scored with ``sage.bench.retrieval_scores``; here stands what it lacks. Every function is pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import msgspec

__all__ = [
    "UNPARSABLE",
    "Classes",
    "Match",
    "edge_match",
    "is_valid_plan",
    "none_curve",
    "ordered_match",
    "same_up_to_order",
    "score_classes",
    "set_match",
]

#: What stands for a decision that could not be read; a class of its own, and always wrong.
UNPARSABLE = "unparsable"


class Match(msgspec.Struct, frozen=True):
    """Precision, recall and F1 of what was found against what is right."""

    precision: float
    recall: float
    f1: float


def _match(common: int, found: int, gold: int) -> Match:
    """Nothing found where nothing is right counts as perfect."""
    if not found and not gold:
        return Match(1.0, 1.0, 1.0)
    precision = common / found if found else 0.0
    recall = common / gold if gold else 0.0
    return Match(precision, recall, 2 * common / (found + gold))


def set_match(found: Sequence[str], gold: Sequence[str]) -> Match:
    """How two collections agree, whatever the order; what stands twice must be found twice.

    >>> set_match(["a", "b"], ["a"]).f1 == 2 / 3
    True
    """
    common = sum((Counter(found) & Counter(gold)).values())
    return _match(common, len(found), len(gold))


def edge_match(
    found: Sequence[str],
    found_edges: Collection[tuple[int, int]],
    gold: Sequence[str],
    gold_edges: Collection[tuple[int, int]],
) -> Match:
    """How two plans' dependencies agree, each edge as the names of the tools at its ends.

    >>> edge_match(["a", "b"], [(0, 1)], ["x", "a", "b"], [(1, 2)]).f1
    1.0
    """
    ours = [f"{found[before]}\0{found[after]}" for before, after in found_edges]
    theirs = [f"{gold[before]}\0{gold[after]}" for before, after in gold_edges]
    return set_match(ours, theirs)


def ordered_match(found: Sequence[str], gold: Sequence[str]) -> Match:
    """How much of two sequences is common in this order: their longest common subsequence.

    >>> ordered_match(["a", "x", "b"], ["a", "b"])
    Match(precision=0.6666666666666666, recall=1.0, f1=0.8)
    """
    longest = [0] * (len(gold) + 1)
    for name in found:
        before = 0
        for place, right in enumerate(gold, 1):
            before, longest[place] = (
                longest[place],
                before + 1 if name == right else max(longest[place], longest[place - 1]),
            )
    return _match(longest[-1], len(found), len(gold))


def same_up_to_order(
    found: Sequence[str], gold: Sequence[str], gold_edges: Collection[tuple[int, int]]
) -> bool:
    """Whether a sequence of tools is the plan in one of the orders that its dependencies allow.

    >>> same_up_to_order(["b", "a", "c"], ["a", "b", "c"], [(0, 2), (1, 2)])
    True
    >>> same_up_to_order(["c", "a", "b"], ["a", "b", "c"], [(0, 2), (1, 2)])
    False
    """
    if Counter(found) != Counter(gold):
        return False
    needs: dict[int, set[int]] = {place: set() for place in range(len(gold))}
    for before, after in gold_edges:
        needs[after].add(before)
    return _placed(found, gold, needs, frozenset())


def _placed(
    found: Sequence[str], gold: Sequence[str], needs: Mapping[int, set[int]], done: frozenset[int]
) -> bool:
    """Whether the rest can be placed; steps of one name are tried in turn, those with more dependants first."""
    if len(done) == len(gold):
        return True
    name = found[len(done)]
    free = [place for place in needs if place not in done and gold[place] == name and needs[place] <= done]
    seen: set[tuple[frozenset[int], frozenset[int]]] = set()
    for place in free:
        dependants = frozenset(after for after, before in needs.items() if place in before)
        kind = (frozenset(needs[place]), dependants)
        if kind in seen:  # exchangeable with one that was tried
            continue
        seen.add(kind)
        if _placed(found, gold, needs, done | {place}):
            return True
    return False


def is_valid_plan(num_steps: int, edges: Collection[tuple[int, int]], invented: Collection[str] = ()) -> bool:
    """Whether a plan could be carried out: it has steps, no tool is invented, and each needs only earlier ones."""
    return num_steps > 0 and not invented and all(0 <= before < after < num_steps for before, after in edges)


class Classes(msgspec.Struct, frozen=True, kw_only=True):
    """How decisions agree with what was right."""

    n: int
    right: int
    macro_f1: float  # over the classes that are right for some item
    recall: Mapping[str, float]  # class -> share of its items
    confusion: Mapping[str, Mapping[str, int]]  # right -> said -> items
    over_call: float | None  # of the items where no call is right, the share that was called
    under_call: float | None  # of the items where a call is right, the share that was not
    unparsable: int


def score_classes(said: Sequence[str | None], right: Sequence[str], call: str = "call") -> Classes:
    """Counts over all items; a decision that could not be read is ``UNPARSABLE``.

    >>> found = score_classes(["call", "answer", None], ["call", "call", "answer"])
    >>> found.right, found.recall["call"], found.unparsable, found.over_call
    (1, 0.5, 1, 0.0)
    """
    pairs = [(label, UNPARSABLE if what is None else what) for what, label in zip(said, right, strict=True)]
    names = sorted(set(right))
    confusion = {name: dict(Counter(what for label, what in pairs if label == name)) for name in names}
    recall: dict[str, float] = {}
    f1: list[float] = []
    for name in names:
        common = confusion[name].get(name, 0)
        of_gold = sum(confusion[name].values())
        of_said = sum(what == name for _, what in pairs)
        recall[name] = common / of_gold
        f1.append(2 * common / (of_gold + of_said))
    calls = [what for label, what in pairs if label == call]
    others = [what for label, what in pairs if label != call]
    return Classes(
        n=len(pairs),
        right=sum(label == what for label, what in pairs),
        macro_f1=sum(f1) / len(f1) if f1 else 0.0,
        recall=recall,
        confusion=confusion,
        over_call=sum(what == call for what in others) / len(others) if others else None,
        under_call=sum(what != call for what in calls) / len(calls) if calls else None,
        unparsable=sum(what == UNPARSABLE for _, what in pairs),
    )


def none_curve(
    answered: Sequence[tuple[float, bool]], empty: Sequence[float], points: int = 20
) -> list[tuple[float, float, float]]:
    """What a threshold on the best score costs and gains: (threshold, accuracy where a tool fits, where none does).

    Args:
        answered: of items with a right tool, the best score and whether that tool is right.
        empty: of items without one, the best score.
        points: how many thresholds, at equal shares of all scores.

    >>> none_curve([(0.9, True), (0.3, False)], [0.2], points=1)
    [(0.2, 0.5, 0.0), (0.9, 0.5, 1.0)]
    """
    scores = sorted({score for score, _ in answered} | set(empty))
    if not scores or not answered or not empty:
        return []
    chosen = sorted({scores[round(number * (len(scores) - 1) / points)] for number in range(points + 1)})
    return [
        (
            least,
            sum(right for score, right in answered if score >= least) / len(answered),
            sum(score < least for score in empty) / len(empty),
        )
        for least in chosen
    ]
