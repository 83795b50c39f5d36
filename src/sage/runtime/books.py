"""The runs of a session while they go on: begun, counted, sent on as spans, flushed to the disk, and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from sage.clock import Clock
from sage.errors import InputError
from sage.runtime.manifest import Kind
from sage.runtime.options import JobOptions
from sage.runtime.prometheus import EventCounts
from sage.runtime.recorder import Recorder, begin_run
from sage.settings import Settings
from sage.tenants import Tenant

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from sage.runtime.telemetry import Telemetry

__all__ = ["Books", "check_limits"]

FLUSH_S = 0.5  # events reach the disk this soon


class Books:
    """Begins and ends the runs of a session.

    Args:
        settings: where runs are kept, and what holds for all of them.
        clock: the session's.
        policy: as text, for the manifests.
        seed: of the session, for the manifests.
        kind: what the manifests say the runs are.
        tenants: as the manifests tell them.
        telemetry: an exporter of spans, closed by ``close``.

    Raises:
        InputError: a limit below 1, or telemetry without records.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        policy: str,
        seed: int,
        kind: Kind,
        tenants: Mapping[str, Tenant],
        telemetry: SpanExporter | None,
    ) -> None:
        if telemetry is not None and not settings.record:
            raise InputError("telemetry is made from the event log, but record is False; say record=True")
        self._settings = settings
        self._clock = clock
        self._policy = policy
        self._seed = seed
        self._kind: Kind = kind
        self._tenants = tenants
        self._telemetry = _telemetry(telemetry) if telemetry is not None else None
        self._counts = EventCounts()
        self._recorders: set[Recorder] = set()  # of the runs that are going on

    def begin(self, arguments: Mapping[str, Any], **about: Any) -> Recorder:
        """Begin a run; ``about`` goes into its manifest.

        Raises:
            InputError: an option that is none, or cannot be.
        """
        given: dict[str, Any] = dict(arguments)
        limit = given.pop("max_inflight", self._settings.max_inflight)
        record = given.pop("record", self._settings.record)
        on_end = given.pop("on_end", None)
        budget = given.pop("budget_tokens", None)
        check_limits(arguments)
        recorder = begin_run(
            replace(self._settings, record=record),
            self._clock,
            options=JobOptions(**given),
            policy=self._policy,
            seed=self._seed,
            max_inflight=limit,
            budget_tokens=budget,
            on_end=on_end,
            kind=self._kind,
            about=about | {"tenants": msgspec.to_builtins(self._tenants)} if self._tenants else about,
        )
        self._recorders.add(recorder)
        recorder.observe(self._counts.add)
        if self._telemetry is not None and recorder.manifest is not None:
            recorder.observe(self._telemetry.observer(recorder.manifest))
        return recorder

    def end(self, recorder: Recorder, status: Literal["complete", "partial", "failed"]) -> None:
        """End a run."""
        self._recorders.discard(recorder)
        recorder.finish(status)

    def joined(self, name: str, pool: str, limit: int) -> None:
        """An endpoint takes calls from now on."""
        for recorder in self._recorders:
            recorder.joined(name, pool, limit)

    def counts(self) -> EventCounts | None:
        """What was counted until now; None where nothing is recorded."""
        for recorder in self._recorders:
            recorder.tell()
        return self._counts if self._settings.record else None

    async def flush(self) -> None:
        """Write events to the disk, again and again, so that a run that is killed loses little of its log."""
        while True:
            await asyncio.sleep(FLUSH_S)
            for recorder in self._recorders:
                recorder.flush()

    async def close(self) -> None:
        """Close the exporter, if there is one."""
        if self._telemetry is not None:
            await asyncio.to_thread(self._telemetry.close)


def check_limits(said: Mapping[str, Any]) -> None:
    """Refuse limits of a run that cannot be.

    Raises:
        InputError: one is below 1, or no whole number.
    """
    for name in ("max_inflight", "budget_tokens"):
        value = said.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InputError(f"{name} is {value!r}, expected a whole number above 0")


def _telemetry(exporter: SpanExporter) -> Telemetry:
    """The way to an exporter; the module is loaded only here, for it needs an extra."""
    from sage.runtime.telemetry import Telemetry

    return Telemetry(exporter)
