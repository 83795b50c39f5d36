"""How agents behave: which tools they choose, how they plan, and whether they call at all.

Each strategy is a pipeline and each of its cells one recorded run, so that what it got right and what it cost the
engines stand together. Floors are always run beside: BM25, the majority, plans without a model. Every task counts in
every denominator. No tool is called.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sage.bench.agent_data.sets import AgentSet, Task, picked
from sage.bench.agent_fit import FOLDS, Progress, Scored, fit_decision, fit_selection, fold_of, shown_fit
from sage.bench.agent_items import AgentItem, Kind, figures_of
from sage.bench.agent_outcomes import items_of
from sage.bench.model_files import ModelFiles
from sage.bench.records import requests_of
from sage.bench.results import ExperimentFolder, open_experiment, write_json, write_lines
from sage.engines.base import EmbedRequest
from sage.index.tool_index import ToolIndex
from sage.index.tool_words import clauses
from sage.ops import route, step
from sage.ops.agents.deciding import DECIDERS, ToolFit, Verdict, decide, tool_fit
from sage.ops.agents.planning import PLANNERS, plan
from sage.ops.agents.ranking import documents_of
from sage.ops.agents.selecting import SELECTORS, select_tools
from sage.ops.agents.strategies import Strategy
from sage.pipeline import Pipeline
from sage.registry import Registry
from sage.session import Session
from sage.settings import Settings

__all__ = [
    "FIT_TASKS",
    "FLOORS",
    "INFLIGHT",
    "MAJORITY",
    "SHORTLIST",
    "STRATEGIES",
    "Order",
    "Part",
    "measure",
    "parts_of",
]

STRATEGIES: Mapping[Kind, Registry[Strategy]] = {
    "selection": SELECTORS,
    "planning": PLANNERS,
    "timing": DECIDERS,
}
MAJORITY = "majority"
WHOLE = "all"  # the part that tasks without groups are
#: Run beside whatever is asked for.
FLOORS: Mapping[Kind, str] = {"selection": "bm25", "planning": "clauses", "timing": MAJORITY}

K = 10  # tools a selection gives, so that rankings can be read that far
FIT_TASKS = 2_000  # tasks that fitting may look at, those of other folds
EMBED_AT_ONCE = 128
SHORTLIST = 10
INFLIGHT = 8  # tasks under way together, where nobody says; latencies are of this load


@dataclass(frozen=True, slots=True)
class Part:
    """Tasks that are run and scored together."""

    name: str
    tasks: tuple[Task, ...]

    @property
    def has_among(self) -> bool:
        """Whether each task has tools of its own."""
        return any(task.among is not None for task in self.tasks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be measured."""

    kind: Kind
    strategies: Sequence[str]
    engines: Mapping[str, str | tuple[str, ...]]
    settings: Settings
    group: str | None = None
    limit: int | None = None  # tasks of each part, picked by hash; None: all
    fit: int = FIT_TASKS
    max_inflight: int = INFLIGHT
    shortlist: int = SHORTLIST  # tools that retrieval shows a model, where both choose
    command: str = ""


def parts_of(data: AgentSet, kind: Kind, group: str | None = None) -> list[Part]:
    """What is measured apart: of a selection each group, the tasks where no tool fits with those that compare to them.

    Raises:
        InputError: the set has no such tasks.
    """
    tasks = data.of(kind)
    groups = sorted({task.group for task in tasks})
    if kind != "selection":
        chosen = data.of(kind, group)
        return [Part(group or WHOLE, _levelled(data, chosen))]
    empty = {task.group for task in tasks if not task.gold}
    parts = [Part(name or WHOLE, data.of(kind, name)) for name in groups if name not in empty]
    for name in sorted(empty):
        beside = [
            task
            for task in tasks
            if task.group == name or (task.among is not None and task.group not in empty)
        ]
        parts.append(Part(name or WHOLE, _levelled(data, beside)))
    if group is not None and group not in groups:
        data.of(kind, group)  # says what there is
    return [part for part in parts if group in {None, part.name}]


def _levelled(data: AgentSet, tasks: Sequence[Task]) -> tuple[Task, ...]:
    """If some tasks offer only some tools, then the others offer all of them, in so many words."""
    if all(task.among is None for task in tasks) or all(task.among is not None for task in tasks):
        return tuple(tasks)
    every = tuple(data.tools)
    return tuple(msgspec.structs.replace(task, among=task.among or every) for task in tasks)


def measure(data: AgentSet, order: Order, out: Path, progress: Progress) -> Any:
    """Run every strategy on every part of a set and keep the results in a folder.

    Raises:
        InputError: an unknown strategy, or a folder that holds something else.
    """
    known = STRATEGIES[order.kind]
    wanted = list(dict.fromkeys([*order.strategies, FLOORS[order.kind]]))
    for name in wanted:
        if name != MAJORITY or order.kind != "timing":
            _ = known[name]
    parts = [
        Part(part.name, tuple(picked(part.tasks, order.limit)))
        for part in parts_of(data, order.kind, order.group)
    ]
    models = ModelFiles.of(order.engines)
    config = {
        "data": data.name,
        "kind": order.kind,
        "strategies": wanted,
        "engines": models.engines(order.engines),
        "models": dict(models.sha256),
        "group": order.group,
        "limit": order.limit,
        "fit": order.fit,
        "folds": FOLDS,
        "max_inflight": order.max_inflight,
        "shortlist": order.shortlist,
    }
    with open_experiment(
        out,
        f"agent-{order.kind}",
        kind="measured",
        config=config,
        command=models.named(order.command),
        data=dict(data.sha256),
        planned=len(wanted) * len(parts),
    ) as folder:
        asyncio.run(_measure(data, order, parts, wanted, folder, models, progress))
    return folder.manifest


async def _measure(
    data: AgentSet,
    order: Order,
    parts: Sequence[Part],
    wanted: Sequence[str],
    folder: ExperimentFolder,
    models: ModelFiles,
    progress: Progress,
) -> None:
    async with Session(engines=order.engines, settings=order.settings, record=True) as session:
        for part in parts:
            lab = Lab(data, order, part, session, models, progress)
            for name in wanted:
                cell = f"{part.name}-{name}"
                if not folder.has(cell):
                    with folder.running(cell, axes={"part": part.name, "strategy": name}) as draft:
                        await lab.run(name, draft)


class Lab:
    """Measures strategies on one part of a set."""

    def __init__(
        self,
        data: AgentSet,
        order: Order,
        part: Part,
        session: Session,
        models: ModelFiles,
        progress: Progress,
    ) -> None:
        self._data, self._order, self._part = data, order, part
        self._session, self._models, self._progress = session, models, progress
        self._fit_tasks: list[Task] = []
        self._scored: dict[bool, list[Scored]] = {}
        self._seen: dict[bool, list[ToolFit]] = {}  # by whether they have the meaning too

    async def run(self, name: str, draft: Path) -> None:
        """One cell: fit, run, score, write."""
        part, kind = self._part, self._order.kind
        fitted: dict[int, dict[str, Any]] = {}
        if name == MAJORITY:
            pipeline = Pipeline(name, made=step(_always, action=commonest(part.tasks)))
        else:
            strategy = STRATEGIES[kind][name]
            await self._index(with_rows="embedder" in strategy.uses)
            fitted = await self._fitted(strategy)
            pipeline = self._pipeline(strategy, fitted)
        records = [_record(task, by_fold=bool(fitted)) for task in part.tasks]
        total = len(records)
        done = 0

        def ended(*_outcome: object) -> None:
            nonlocal done
            done += 1
            self._progress(f"{part.name} by {name}", done, total)

        result = await self._session.run(
            pipeline, records, on_end=ended, max_inflight=self._order.max_inflight
        )
        items = items_of(kind, part.tasks, result, folds=bool(fitted), every=len(self._data.tools))
        shown = {str(fold): shown_fit(said) for fold, said in fitted.items()}
        assert result.folder is not None
        for file in ("run.json", "events.jsonl"):
            shutil.copyfile(result.folder / file, draft / file)
        write_lines(draft / "requests.jsonl", requests_of(result.events))
        _write(draft, kind, name, part.name, items, shown)
        self._models.shorten(draft)

    def _pipeline(self, strategy: Strategy, fitted: Mapping[int, Mapping[str, Any]]) -> Pipeline:
        if not fitted:
            return Pipeline(strategy.name, made=self._step(strategy, {}))
        ways = {str(fold): self._step(strategy, said) for fold, said in fitted.items()}
        return Pipeline(strategy.name, made=route("{fold}", ways))

    def _step(self, strategy: Strategy, fitted: Mapping[str, Any]) -> Any:
        among = "among" if self._part.has_among else None
        box, shown = self._data.tools, self._order.shortlist
        if self._order.kind == "selection":
            return select_tools(
                "{query}", tools=box, by=strategy.name, k=K, among=among, shortlist=shown, fitted=fitted
            )
        if self._order.kind == "timing":
            return decide("{query}", tools=box, by=strategy.name, among=among, fitted=fitted)
        return plan("{query}", tools=box, by=strategy.name, among=among, shortlist=shown)

    async def _fitted(self, strategy: Strategy) -> dict[int, dict[str, Any]]:
        """What the strategy takes, for each fold from the tasks of the others; nothing if it takes nothing."""
        fits = [
            name
            for name in strategy.fits
            if name != "least" or self._order.kind == "timing" or self._has_empty()
        ]
        if not fits:
            return {}
        if not self._fit_tasks:
            whole = next(
                p
                for p in parts_of(self._data, self._order.kind, self._order.group)
                if p.name == self._part.name
            )
            self._fit_tasks = picked(whole.tasks, self._order.fit)
        if fits == ["actions"]:
            actions = {"actions": tuple(sorted({task.label for task in self._fit_tasks}))}
            return dict.fromkeys(range(FOLDS), actions)
        if self._order.kind == "timing":
            return await self._fitted_decision(fits)
        with_rows = strategy.name != "bm25"
        scored, index = await self._ranked(with_rows=with_rows)
        return {
            fold: fit_selection(
                strategy.name, fits, index, [one for one in scored if fold_of(one.task) != fold]
            )
            for fold in range(FOLDS)
        }

    def _has_empty(self) -> bool:
        return any(not task.gold for task in self._part.tasks)

    async def _fitted_decision(self, fits: Sequence[str]) -> dict[int, dict[str, Any]]:
        with_meaning = "model" in fits
        if with_meaning not in self._seen:
            self._seen[with_meaning] = await self._features("both" if with_meaning else "words")
        labels = [task.label for task in self._fit_tasks]
        fitted: dict[int, dict[str, Any]] = {}
        for fold in range(FOLDS):
            kept = [at for at, task in enumerate(self._fit_tasks) if fold_of(task) != fold]
            seen = [self._seen[with_meaning][at] for at in kept]
            fitted[fold] = fit_decision(fits, [labels[at] for at in kept], seen)
        return fitted

    async def _features(self, by: str) -> list[ToolFit]:
        among = "among" if self._part.has_among else None
        pipeline = Pipeline("features", fit=tool_fit("{query}", tools=self._data.tools, among=among, by=by))
        records = [_record(task, by_fold=False) for task in self._fit_tasks]
        done = 0

        def ended(*_outcome: object) -> None:
            nonlocal done
            done += 1
            self._progress("tasks looked at to fit", done, len(records))

        result = await self._session.run(pipeline, records, on_end=ended, record=False)
        if result.failures:
            raise result.failures[0].error
        return [record["fit"] for record in result.records]

    async def _ranked(self, *, with_rows: bool) -> tuple[list[Scored], ToolIndex]:
        """The tasks to fit on with their vectors, and the index of the tools."""
        index = await self._index(with_rows=with_rows)
        if with_rows not in self._scored:
            parts = [clauses(task.query) for task in self._fit_tasks]
            flat = [part for each in parts for part in each]
            table = await self._embedded(flat, "texts embedded to fit") if with_rows else None
            scored, at = [], 0
            for task, each in zip(self._fit_tasks, parts, strict=True):
                rows = None if table is None else table[at : at + len(each)]
                scored.append(Scored(task, each, rows))
                at += len(each)
            self._scored[with_rows] = scored
        return self._scored[with_rows], index

    async def _index(self, *, with_rows: bool) -> ToolIndex:
        """The index of the tools, embedded now if need be, so that no task waits for it."""
        box = self._data.tools
        index: ToolIndex = box.index(documents_of)
        if not with_rows:
            return index
        engine = await self._session.engine("embedder")
        key = engine.info.fingerprint or ""
        if key not in box.embedded:
            rows = await self._embedded(index.views(), "texts of tools embedded")
            box.embedded[key] = index.with_views(rows)
        known: ToolIndex = box.embedded[key]
        return known

    async def _embedded(self, texts: Sequence[str], what: str) -> Any:
        engine = await self._session.engine("embedder")
        parts = []
        for at in range(0, len(texts), EMBED_AT_ONCE):
            reply = await engine.embed(EmbedRequest(texts=tuple(texts[at : at + EMBED_AT_ONCE])))
            parts.append(reply.vectors)
            self._progress(what, min(len(texts), at + EMBED_AT_ONCE), len(texts))
        return np.vstack(parts)


def _record(task: Task, *, by_fold: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"id": task.id, "query": task.query}
    record |= {} if task.among is None else {"among": list(task.among)}
    return record | ({"fold": str(fold_of(task))} if by_fold else {})


def commonest(tasks: Sequence[Task]) -> str:
    """The action that is right most often among these tasks: always taking it is the best that reads no request."""
    counts = Counter(task.label for task in tasks)
    return min(counts, key=lambda label: (-counts[label], label))


def _always(action: str) -> Verdict:
    return msgspec.convert({"action": action}, Verdict)


def _write(
    draft: Path, kind: Kind, name: str, part: str, items: Sequence[AgentItem], fitted: Mapping[str, Any]
) -> None:
    write_lines(draft / "items.jsonl", items)
    write_json(draft / "summary.json", figures_of(kind, name, part, items, fitted))
