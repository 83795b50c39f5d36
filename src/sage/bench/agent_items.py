"""One line of ``items.jsonl`` of an agent suite, and the figures that are made from such lines alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from sage.bench.agent_scores import (
    UNPARSABLE,
    edge_match,
    is_valid_plan,
    none_curve,
    ordered_match,
    same_up_to_order,
    score_classes,
    set_match,
)
from sage.bench.retrieval_scores import complete, hit, ndcg, recall, reciprocal_rank
from sage.bench.stats import Mean, Share, mean_of, wilson
from sage.runtime.figures import Stat, stat_of

__all__ = ["KINDS", "AgentFigures", "AgentItem", "Kind", "figures_of", "headline"]

Kind = Literal["selection", "planning", "timing"]
KINDS: tuple[Kind, ...] = ("selection", "planning", "timing")

CUTS = (1, 5)
DEPTH = 10
RESAMPLES = 1_000
CURVE_POINTS = 20


class AgentItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One task and what one strategy made of it."""

    id: str
    group: str = ""
    fold: int | None = None  # what was fitted for it saw only tasks of other folds; None: nothing is fitted
    offered: int = 0  # tools to choose from
    gold: tuple[str, ...] = ()  # right tools; of a plan, one per step; empty: no tool fits
    gold_edges: tuple[tuple[int, int], ...] = ()
    label: str = ""  # right action
    tools: tuple[str, ...] = ()  # chosen, the best first; of a plan, one per step
    edges: tuple[tuple[int, int], ...] = ()
    scores: tuple[float, ...] = ()  # aligned with tools
    best: float | None = None  # the highest score, whether or not it was enough
    said: str | None = None  # the action; None: it could not be read
    likely: Mapping[str, float] = {}  # action -> probability
    invented: tuple[str, ...] = ()  # names that no offered tool has
    fault: str | None = None  # why an answer could not be read
    error: str | None = None  # the job failed; wrong in every score
    latency_s: float | None = None  # from handing over to the end
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # of the prompt
    llm_calls: int = 0
    embed_calls: int = 0


class AgentFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a strategy reached on some tasks: ``summary.json`` of a cell. Every task counts in every share."""

    kind: Kind
    strategy: str
    part: str  # which tasks of the set
    n: int
    failed: int = 0  # jobs that ended without a result
    unparsable: Share
    invented: Share  # tasks for which at least one tool was invented
    shares: Mapping[str, Share] = {}
    means: Mapping[str, Mean] = {}
    actions: tuple[str, ...] | msgspec.UnsetType = (
        msgspec.UNSET
    )  # of decisions, those that are right for some task
    confusion: Mapping[str, Mapping[str, int]] = {}  # right action -> said action -> tasks
    curve: tuple[tuple[float, float, float], ...] = ()  # threshold, accuracy with a right tool, and without
    groups: Mapping[str, Share] = {}  # group -> the headline share of its tasks
    latency_s: Stat
    prompt_tokens: float = 0.0  # mean per task
    completion_tokens: float = 0.0
    cached_tokens: float = 0.0
    llm_calls: float = 0.0
    embed_calls: float = 0.0
    fitted: Mapping[str, Any] = {}  # what was fitted, by fold; large parts as their size


def headline(kind: Kind, item: AgentItem) -> float:
    """The one score of an item that strategies are compared by.

    Selection: whether the first tool is right (where none fits: whether none was chosen). Timing: whether the action
    is right. Planning: F1 over the tools.
    """
    if item.error is not None:
        return 0.0
    if kind == "timing":
        return float(item.said == item.label)
    if kind == "planning":
        return set_match(item.tools, item.gold).f1
    return float(hit(item.tools, item.gold, 1) if item.gold else is_none(item))


def is_none(item: AgentItem) -> bool:
    """Whether a strategy said that no tool fits. An answer that could not be read does not say so."""
    return not item.tools and not item.invented and item.fault is None and item.error is None


def figures_of(
    kind: Kind, strategy: str, part: str, items: Sequence[AgentItem], fitted: Mapping[str, Any] | None = None
) -> AgentFigures:
    """The figures of one cell, from its items."""
    n = len(items)
    make = {"selection": _selection, "planning": _planning, "timing": _timing}[kind]
    done = [item.latency_s for item in items if item.error is None and item.latency_s is not None]
    failed = sum(item.error is not None for item in items)
    groups = sorted({item.group for item in items})
    return AgentFigures(
        kind=kind,
        strategy=strategy,
        part=part,
        n=n,
        failed=failed,
        unparsable=wilson(sum(item.fault is not None for item in items), n),
        invented=wilson(sum(bool(item.invented) for item in items), n),
        groups={
            group: wilson(
                sum(headline(kind, item) >= 1.0 for item in items if item.group == group),
                sum(item.group == group for item in items),
            )
            for group in groups
        },
        latency_s=stat_of(done, endless=failed if done else 0),
        prompt_tokens=_per(items, lambda item: item.prompt_tokens),
        completion_tokens=_per(items, lambda item: item.completion_tokens),
        cached_tokens=_per(items, lambda item: item.cached_tokens),
        llm_calls=_per(items, lambda item: item.llm_calls),
        embed_calls=_per(items, lambda item: item.embed_calls),
        fitted=fitted or {},
        **make(items),
    )


def _per(items: Sequence[AgentItem], amount: Callable[[AgentItem], int]) -> float:
    return sum(map(amount, items)) / len(items) if items else 0.0


def _selection(items: Sequence[AgentItem]) -> dict[str, Any]:
    some = [item for item in items if item.gold]
    none = [item for item in items if not item.gold]
    shares = {
        f"hit@{k}": wilson(sum(hit(item.tools, item.gold, k) for item in some), len(some)) for k in CUTS
    }
    if any(len(item.gold) > 1 for item in some):
        shares |= {
            f"complete@{k}": wilson(sum(complete(item.tools, item.gold, k) for item in some), len(some))
            for k in CUTS[1:]
        }
    if none:
        shares["none_accuracy"] = wilson(sum(map(is_none, none)), len(none))
    means = {
        "recall@5": mean_of([recall(item.tools, item.gold, 5) for item in some]),
        "mrr": mean_of([reciprocal_rank(item.tools, item.gold, DEPTH) for item in some]),
        "ndcg": mean_of([ndcg(item.tools, item.gold, DEPTH) for item in some]),
        "set_f1": mean_of([set_match(item.tools[: len(item.gold)], item.gold).f1 for item in some]),
    }
    answered = [(item.best, hit(item.tools, item.gold, 1)) for item in some if item.best is not None]
    empty = [item.best for item in none if item.best is not None]
    whole = len(answered) == len(some) and len(empty) == len(none)
    curve = none_curve(answered, empty, CURVE_POINTS) if whole else []
    return {"shares": shares, "means": means if some else {}, "curve": tuple(curve)}


def _timing(items: Sequence[AgentItem]) -> dict[str, Any]:
    said = [UNPARSABLE if item.error is not None else item.said for item in items]
    right = [item.label for item in items]
    classes = score_classes(said, right)
    calls = sum(label == "call" for label in right)
    shares = {"accuracy": wilson(classes.right, len(items))}
    if classes.over_call is not None:
        others = len(items) - calls
        shares["over_call"] = wilson(round(classes.over_call * others), others)
    if classes.under_call is not None:
        shares["under_call"] = wilson(round(classes.under_call * calls), calls)
    for name, row in classes.confusion.items():
        shares[f"recall_{name}"] = wilson(row.get(name, 0), sum(row.values()))
    return {
        "shares": shares,
        "means": {"macro_f1": _macro_f1(said, right)},
        "actions": tuple(classes.confusion),
        "confusion": classes.confusion,
    }


def _macro_f1(said: Sequence[str | None], right: Sequence[str]) -> Mean:
    """Macro F1 with a percentile interval over resampled items, seeded."""
    mean = score_classes(said, right).macro_f1
    if len(right) < 10:
        return Mean(n=len(right), mean=mean)
    names = {
        name: number
        for number, name in enumerate(dict.fromkeys([*right, *(what or UNPARSABLE for what in said)]))
    }
    gold = np.array([names[label] for label in right])
    ours = np.array([names[what or UNPARSABLE] for what in said])
    rng = np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLES):
        rows = rng.integers(len(gold), size=len(gold))
        one, other = gold[rows], ours[rows]
        present = np.unique(one)
        values.append(
            float(
                np.mean(
                    [
                        2
                        * np.sum((one == name) & (other == name))
                        / (np.sum(one == name) + np.sum(other == name))
                        for name in present
                    ]
                )
            )
        )
    low, high = np.quantile(values, (0.025, 0.975))
    return Mean(n=len(right), mean=mean, low=float(low), high=float(high))


def _planning(items: Sequence[AgentItem]) -> dict[str, Any]:
    n = len(items)
    linked = [item for item in items if item.gold_edges]

    def edges(item: AgentItem) -> float:
        return edge_match(item.tools, item.edges, item.gold, item.gold_edges).f1

    ordered = [ordered_match(item.tools, item.gold) for item in items]
    means = {
        "node_f1": mean_of([set_match(item.tools, item.gold).f1 for item in items]),
        "edge_f1": mean_of([edges(item) for item in items]),
        "ordered_precision": mean_of([match.precision for match in ordered]),
        "ordered_recall": mean_of([match.recall for match in ordered]),
        "ordered_f1": mean_of([match.f1 for match in ordered]),
    }
    if linked:
        means["edge_f1_linked"] = mean_of([edges(item) for item in linked])
    shares = {
        "exact": wilson(sum(same_up_to_order(item.tools, item.gold, item.gold_edges) for item in items), n),
        "valid": wilson(
            sum(
                item.error is None and is_valid_plan(len(item.tools), item.edges, item.invented)
                for item in items
            ),
            n,
        ),
        "simulated": wilson(sum(simulated(item) for item in items), n),
    }
    return {"shares": shares, "means": means}


def simulated(item: AgentItem) -> bool:
    """Whether carrying the plan out would have done everything that is right, in an order that its dependencies allow.

    No tool runs: calls beyond the right ones are taken to do no harm, and arguments are not looked at.
    """
    wanted = Counter(item.gold)
    kept: list[str] = []
    for name in item.tools:
        if wanted[name] > 0:
            wanted[name] -= 1
            kept.append(name)
    return same_up_to_order(kept, item.gold, item.gold_edges)
