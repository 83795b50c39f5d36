"""One run's bookkeeping: its identity, where its events go, and what is handed back at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from sage.clock import Clock
from sage.events import Event, RunEnded
from sage.graph.plan import Plan
from sage.graph.values import Record
from sage.runtime.base import JobFailure, Run
from sage.runtime.endpoints import Endpoints
from sage.runtime.manifest import Kind, Manifest
from sage.runtime.options import MAX_INFLIGHT, JobOptions, Progress
from sage.runtime.runs import Observer, RunFolder, create_run, new_run_id, read_events
from sage.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from sage.runtime.summary import Summary

__all__ = ["Recorder", "RunResult", "begin_run"]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run gave.

    Attributes:
        records: the finished ones, in the order of the source.
        failures: the jobs that did not end well, in the order of the source.
        run_id: names the run in ``sage runs``.
        folder: its manifest and event log; None if it was not recorded.
    """

    records: list[Record]
    failures: list[JobFailure]
    run_id: str
    folder: Path | None

    @property
    def events(self) -> Iterator[Event]:
        """The run's event log, from its file; empty if it was not recorded."""
        return iter(()) if self.folder is None else read_events(self.folder / "events.jsonl")

    @property
    def metrics(self) -> Summary | None:
        """Everything the event log tells, computed anew; None if it was not recorded."""
        from sage.runtime.summary import summarize

        return None if self.folder is None else summarize(self.events)

    def _repr_html_(self) -> str:
        from sage.graph.html import table_html

        return table_html(
            self.records, f"run {self.run_id}: {len(self.records)} done, {len(self.failures)} failed"
        )


class Recorder:
    """Keeps the folder of one run, if it has one. Made by :func:`begin_run`; its owner calls ``finish``."""

    def __init__(self, run: Run, folder: RunFolder | None, clock: Clock) -> None:
        self.run = run
        self._folder = folder
        self._clock = clock
        self._joined: dict[str, dict[str, int]] = {}  # pool -> endpoint -> limit, since it began
        self._cluster: Callable[[], Mapping[str, Any]] = dict  # what is known of it now

    def uses(self, plan: Plan, endpoints: Endpoints, cluster: Callable[[], Mapping[str, Any]]) -> None:
        """Write a pipeline, and the engines and nodes it runs on, into the manifest."""
        folder = self._folder
        if folder is None or plan.name in folder.manifest.pipelines:
            return
        self._cluster = cluster
        steps = [{"name": s.name, "operator": s.step.operator, "after": s.after} for s in plan.steps]
        described = {"inputs": plan.inputs, "steps": steps}
        folder.update(
            pipelines={**folder.manifest.pipelines, plan.name: described},
            engines=dict(endpoints.pools),
            limits=dict(endpoints.limits),
            cluster=cluster(),
        )

    def joined(self, name: str, pool: str, limit: int) -> None:
        """An endpoint takes calls from now on, perhaps of this run: the manifest will name it too."""
        self._joined.setdefault(pool, {})[name] = limit

    def streams(self, name: str, stages: Mapping[str, str]) -> None:
        """Write a stream into the manifest: its stages, and the kind of each."""
        if self._folder is not None:
            self._folder.update(streams={name: dict(stages)})

    @property
    def folder(self) -> Path | None:
        """Where the run is kept; None if it is not recorded."""
        return None if self._folder is None else self._folder.path

    @property
    def manifest(self) -> Manifest | None:
        """What is said of the run so far; None if it is not recorded."""
        return None if self._folder is None else self._folder.manifest

    def observe(self, observer: Observer) -> None:
        """Tell someone of the run's events in chunks, if it is recorded."""
        if self._folder is not None:
            self._folder.log.observe(observer)

    def tell(self) -> None:
        """Tell the observers of the events so far."""
        if self._folder is not None:
            self._folder.log.tell()

    def flush(self) -> None:
        """Write the events so far to the file."""
        if self._folder is not None:
            self._folder.log.flush()

    def finish(self, status: Literal["complete", "partial", "failed"]) -> None:
        """Close the log, and say in the manifest how the run ended."""
        folder = self._folder
        if folder is not None:
            folder.log.append(RunEnded(self._clock() - self.run.began, status))
            counts = {str(outcome): n for outcome, n in self.run.counts.items()}
            folder.finish(status, counts, **self._members(folder.manifest))

    def _members(self, manifest: Manifest) -> dict[str, Any]:
        """Endpoints of the run's pools, with those that joined later, and the cluster as it is known in the end."""
        joined = {pool: several for pool, several in self._joined.items() if pool in manifest.engines}
        engines = {
            pool: tuple(dict.fromkeys((*manifest.engines[pool], *several)))
            for pool, several in joined.items()
        }
        limits = {name: limit for several in joined.values() for name, limit in several.items()}
        return {
            "engines": {**manifest.engines, **engines},
            "limits": {**manifest.limits, **limits},
            "cluster": self._cluster(),
        }

    def result(self, results: list[Record | JobFailure]) -> RunResult:
        """The results of a finished run, sorted into good and bad."""
        return RunResult(
            records=[result for result in results if not isinstance(result, JobFailure)],
            failures=[result for result in results if isinstance(result, JobFailure)],
            run_id=self.run.id,
            folder=None if self._folder is None else self._folder.path,
        )


def begin_run(
    settings: Settings,
    clock: Clock,
    *,
    options: JobOptions,
    policy: str,
    seed: int,
    max_inflight: int | None,
    budget_tokens: int | None = None,
    on_end: Progress | None = None,
    kind: Kind = "measured",
    about: Mapping[str, Any] | None = None,
) -> Recorder:
    """Begin a run; with a folder unless the settings say not to record. ``about`` is JSON data for the manifest.

    Raises:
        InputError: an option is out of its range. SetupError: the folder for runs cannot be written to.
    """
    options.resolver()  # refuses what cannot be, before there is a folder
    folder = None
    if settings.record:
        arguments = {"max_inflight": max_inflight, **msgspec.to_builtins(options), **(about or {})}
        folder = create_run(settings, policy=policy, seed=seed, arguments=arguments, kind=kind)
    run = Run(
        id=folder.manifest.run_id if folder is not None else new_run_id(),
        began=clock(),
        options=options,
        log=folder.log if folder is not None else None,
        max_inflight=max_inflight or MAX_INFLIGHT,
        said_inflight=max_inflight,
        budget_tokens=budget_tokens,
        on_end=on_end,
    )
    return Recorder(run, folder, clock)
