"""Hands the spans of a run to an OpenTelemetry exporter, while it goes on or later. Needs the extra ``otel``.

What the exporter does, or fails to do, never touches the run: spans wait in a bounded queue, a thread of the SDK
exports them, and the first failure is told once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sage.errors import SetupError
from sage.events import Event
from sage.runtime.manifest import Manifest
from sage.runtime.runs import Observer
from sage.runtime.spans import SCOPE, SpanData, job_spans, resource
from sage.runtime.trail import Trails

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["Telemetry", "export_spans"]

logger = logging.getLogger("sage")

MAX_WAITING = 8192  # spans; beyond it the oldest are dropped
CLOSE_S = 5.0  # how long what is left may take to be exported at the end


class Telemetry:
    """Exports spans as jobs end. One for a session, whose exporter is closed with it.

    Args:
        exporter: of the OpenTelemetry SDK, such as OTLPSpanExporter.

    Raises:
        SetupError: the SDK is not installed.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        sdk = _sdk()
        self._exporter = _Forgiving(exporter)
        self._processor = sdk.BatchSpanProcessor(
            self._exporter, max_queue_size=MAX_WAITING, schedule_delay_millis=1000
        )

    def observer(self, manifest: Manifest) -> Observer:
        """What is to be told of a run's events, in their order."""
        trails, common = Trails(), _resource(manifest)

        def observe(events: Sequence[Event]) -> None:
            for event in events:
                trail = trails.add(event)
                if trail is not None:
                    for span in job_spans(trail, manifest):
                        self._processor.on_end(_readable(span, common))

        return observe

    def close(self) -> None:
        """Export what is left and close the exporter; takes a while, so call it from a thread."""
        self._processor.force_flush(int(CLOSE_S * 1000))
        self._processor.shutdown()


def export_spans(spans: Iterable[SpanData], manifest: Manifest, exporter: SpanExporter) -> int:
    """Export spans of a run that is over; how many there were.

    Raises:
        SetupError: the SDK is not installed, or the exporter did not take them.
    """
    sdk = _sdk()
    common = _resource(manifest)
    given = [_readable(span, common) for span in spans]
    try:
        taken = exporter.export(given)
    except Exception as error:
        raise SetupError(f"the exporter failed: {type(error).__name__}: {error}") from error
    if taken is not sdk.SpanExportResult.SUCCESS:
        raise SetupError("the exporter did not take the spans; is its collector running?")
    return len(given)


class _Forgiving:
    """An exporter that never fails: the first failure becomes one warning."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._has_warned = False

    def export(self, spans: Sequence[ReadableSpan]) -> Any:
        success = _sdk().SpanExportResult.SUCCESS
        try:
            if self._exporter.export(spans) is not success:
                self._warn("it did not take them")
        except Exception as error:  # noqa: BLE001 - somebody else's code, in a thread nobody waits for
            self._warn(f"{type(error).__name__}: {error}")
        return success

    def shutdown(self) -> None:
        try:
            self._exporter.shutdown()
        except Exception as error:  # noqa: BLE001 - the same
            self._warn(f"{type(error).__name__}: {error}")

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def _warn(self, why: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("spans could not be exported and are lost, the run goes on: %s", why)


def _sdk() -> Any:
    try:
        from opentelemetry.sdk.trace import export
    except ImportError as error:
        raise SetupError("OpenTelemetry's SDK is not installed: pip install 'sage-dataflow[otel]'") from error
    return export


def _resource(manifest: Manifest) -> Resource:
    from opentelemetry.sdk.resources import Resource

    return Resource(resource(manifest))


def _readable(span: SpanData, common: Resource) -> ReadableSpan:
    """The span as the SDK holds one that has ended."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    def context(span_id: str) -> SpanContext:
        return SpanContext(
            int(span.trace_id, 16),
            int(span_id, 16),
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )

    return ReadableSpan(
        name=span.name,
        context=context(span.span_id),
        parent=None if span.parent_id is None else context(span.parent_id),
        resource=common,
        attributes=span.attributes,
        kind=SpanKind.CLIENT if span.kind == "client" else SpanKind.INTERNAL,
        status=Status(StatusCode.UNSET) if span.error is None else Status(StatusCode.ERROR, span.error),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=InstrumentationScope(SCOPE),
    )
