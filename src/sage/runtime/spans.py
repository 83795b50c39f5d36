"""A run as spans in the sense of OpenTelemetry: a trace for each job, in it its steps, in these their calls.

Calls to models carry the ``gen_ai.*`` attributes of the semantic conventions for generative AI: operation, provider,
model, tokens. Ids are drawn from the run's id and the place of the span, so the same run always gives the same
spans. No prompts, no answers, no keys: the event log holds none. ``sage.runtime.telemetry`` hands spans to an
exporter; ``otlp`` writes them in OTLP's own JSON, without any further package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec

from sage.events import TaskEnded
from sage.runtime.manifest import Manifest
from sage.runtime.trail import StepSpan, Trail

__all__ = ["Attribute", "SpanData", "job_spans", "otlp", "resource"]

Attribute = str | int | float | bool

SCOPE = "sage"
COMPUTE_POOL = "cpu"  # its calls run functions, not models


class SpanData(msgspec.Struct, frozen=True, kw_only=True):
    """One span. Times are nanoseconds since 1970; ids are hexadecimal."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: Literal["internal", "client"]
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Attribute]
    error: str | None = None  # what went wrong, in a line; None: nothing


def resource(manifest: Manifest) -> dict[str, Attribute]:
    """What all spans of a run have in common."""
    return {"service.name": SCOPE, "service.version": manifest.sage, "sage.run.id": manifest.run_id}


def job_spans(trail: Trail, manifest: Manifest) -> Iterator[SpanData]:
    """The spans of one job, the job's own first.

    The log counts from the start of the run, which the manifest gives to the second: spans of one run fit each
    other to the microsecond, and other systems' to the second.
    """
    job = trail.job
    zero_ns = int(datetime.fromisoformat(manifest.started).timestamp()) * 10**9
    trace_id = _id(16, manifest.run_id, job.job)
    top = _id(8, manifest.run_id, job.job, "job")

    def span(parent: str | None, place: str, name: str, start: float, end: float, **more: Any) -> SpanData:
        return SpanData(
            trace_id=trace_id,
            span_id=top if parent is None else _id(8, manifest.run_id, job.job, place),
            parent_id=parent,
            name=name,
            start_ns=zero_ns + round(start * 1e9),
            end_ns=zero_ns + round(max(start, end) * 1e9),
            **{"kind": "internal", **more},
        )

    said: dict[str, Attribute] = {
        "sage.pipeline": job.pipeline,
        "sage.job": job.job,
        "sage.outcome": job.outcome,
        "sage.tenant": job.tenant,
        "sage.priority": job.priority,
    }
    error = None if job.outcome == "done" else job.error or job.outcome
    if error is not None:
        said["error.type"] = job.outcome
    yield span(None, "job", f"pipeline {job.pipeline}", job.arrived, job.t, attributes=said, error=error)
    for step in trail.steps:
        within = _span_of(trail, step)
        if within is None:
            continue
        failed = job.step == step.name
        about: dict[str, Attribute] = {"sage.step": step.name, "sage.operator": step.operator}
        own = span(
            top, f"step {step.name}", f"step {step.name}", *within,
            attributes=about | ({"error.type": job.outcome} if failed else {}), error=error if failed else None,
        )  # fmt: skip
        yield own
        for number, call in enumerate(step.calls):
            task = call.task
            given = _call_attributes(task, step.operator)
            model = given.get("gen_ai.request.model", task.endpoint)
            operation = given.get("gen_ai.operation.name", "compute")
            yield span(
                own.span_id, f"call {step.name} {number}", f"{operation} {model}", task.dispatched, task.t,
                kind="client" if "gen_ai.operation.name" in given else "internal",
                attributes=given, error=None if task.outcome == "done" else task.error or task.outcome,
            )  # fmt: skip


def _span_of(trail: Trail, step: StepSpan) -> tuple[float, float] | None:
    """From when to when a step ran; one that failed, as far as its calls and the job's end tell."""
    if step.ready is not None and step.done is not None:
        return step.ready, step.done
    if not step.calls:
        return None
    end = trail.job.t if trail.job.step == step.name else max(call.task.t for call in step.calls)
    return min(call.task.ready for call in step.calls), end


def _call_attributes(task: TaskEnded, operator: str) -> dict[str, Attribute]:
    said: dict[str, Attribute] = {
        "sage.step": task.step,
        "sage.pool": task.pool,
        "sage.endpoint": task.endpoint,
        "sage.attempt": task.attempt,
        "sage.batch": task.batch,
        "sage.queue_s": max(0.0, task.dispatched - task.ready),
    }
    if task.first is not None:
        said["sage.first_token_s"] = task.first - task.dispatched
    if task.outcome != "done":
        said["error.type"] = task.error or task.outcome
    if task.pool == COMPUTE_POOL:
        return said
    is_embedding = operator == "embed" or (task.outcome == "done" and not task.completion_tokens)
    said["gen_ai.operation.name"] = "embeddings" if is_embedding else "chat"
    said |= _endpoint_attributes(task.endpoint)
    if task.outcome == "done":
        said["gen_ai.usage.input_tokens"] = task.prompt_tokens
        if not is_embedding:
            said["gen_ai.usage.output_tokens"] = task.completion_tokens
        if task.cached_tokens:
            said["gen_ai.usage.cache_read.input_tokens"] = task.cached_tokens
    return said


def _endpoint_attributes(endpoint: str) -> dict[str, Attribute]:
    """Provider, model and server, as far as the endpoint's name says: ``openai:http://host:8000/v1?model=m``."""
    scheme, colon, rest = endpoint.partition(":")
    if not colon:
        return {"gen_ai.provider.name": SCOPE, "gen_ai.request.model": endpoint}
    said: dict[str, Attribute] = {"gen_ai.provider.name": scheme}
    rest = rest.partition("#")[0]
    model = parse_qs(rest.partition("?")[2]).get("model")
    if "//" in rest:
        url = urlsplit(rest)
        if url.hostname:
            said["server.address"] = url.hostname
        if url.port:
            said["server.port"] = url.port
        if model:
            said["gen_ai.request.model"] = model[0]
    else:
        said["gen_ai.request.model"] = rest.partition("?")[0]
    return said


def _id(num_bytes: int, *place: object) -> str:
    """Never all zeros, which would be no id: a hash's chance of that is none to speak of."""
    return hashlib.blake2b("\0".join(map(str, place)).encode(), digest_size=num_bytes).hexdigest()


# ---- OTLP


def otlp(spans: Iterable[SpanData], manifest: Manifest) -> dict[str, Any]:
    """Spans as an OTLP export request in JSON, as the OpenTelemetry Collector reads from a file or over HTTP."""
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource(manifest))},
                "scopeSpans": [
                    {
                        "scope": {"name": SCOPE, "version": manifest.sage},
                        "spans": [_otlp_span(span) for span in spans],
                    }
                ],
            }
        ]
    }


def _otlp_span(span: SpanData) -> dict[str, Any]:
    return {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        **({} if span.parent_id is None else {"parentSpanId": span.parent_id}),
        "name": span.name,
        "kind": 3 if span.kind == "client" else 1,
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": _attributes(span.attributes),
        "status": {} if span.error is None else {"code": 2, "message": span.error},
    }


def _attributes(given: Mapping[str, Attribute]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in given.items()]


def _value(value: Attribute) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}  # 64-bit numbers are text in JSON
        case float():
            return {"doubleValue": value}
    return {"stringValue": value}
