"""One line of ``requests.jsonl``: a request, or a job of a pipeline, with every time that figures are made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from sage.events import Event, JobEnded, Outcome, TaskEnded

__all__ = ["Request", "requests_of"]


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One request of a client. Times are seconds on the clock of its run's log; None: it did not come to that.

    Times of METRICS: s scheduled, g handed, d dispatched, f first, l last. Of a job of several calls, d is the
    start of the first call, f and the chunks are those of the call that ended last (its output step), l its end.
    """

    id: int  # counted from 0 within the run; of a job, its number in the event log
    outcome: Literal["done", "failed", "rejected", "cancelled", "timeout"]
    scheduled: float  # open loop: as drawn or replayed; closed loop: when its slot became free
    handed: float  # to SAGE, or to the client's HTTP stack
    ended: float  # its outcome stood
    dispatched: float | None = None  # sent to an endpoint
    first: float | None = None  # first chunk with a generated token of any channel
    last: float | None = None  # last chunk with a token; of work without tokens, its end
    chunks: tuple[float, ...] = ()  # arrival of every chunk with tokens
    chunk_tokens: tuple[int, ...] = ()  # aligned with chunks; empty: not known
    answer_tokens: int | None = (
        None  # in the chunks, where that is not output_tokens: of the last of several calls
    )
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, from a prefix cache
    tokens_from: str = ""  # who counted: "server", "tokenizer" or "pieces"
    endpoint: str = ""
    pipeline: str = ""
    tenant: str = ""
    deadline: float | None = None  # absolute, same clock
    error: str | None = None  # one line, without prompts or keys
    warmup: bool = False  # never counted


def requests_of(events: Iterable[Event], scheduled: Mapping[int, float] | None = None) -> list[Request]:
    """The jobs of a log as requests, in the order of their numbers.

    Args:
        events: the log.
        scheduled: job -> when it was due, where that is not when it was handed over.
    """
    calls: dict[int, list[TaskEnded]] = {}
    ends: list[JobEnded] = []
    for event in events:
        if isinstance(event, TaskEnded):
            calls.setdefault(event.job, []).append(event)
        elif isinstance(event, JobEnded):
            ends.append(event)
    due = scheduled or {}
    ends.sort(key=lambda end: end.job)
    return [_request(end, calls.get(end.job, ()), due.get(end.job, end.arrived)) for end in ends]


def _request(end: JobEnded, calls: Sequence[TaskEnded], due: float) -> Request:
    good = [call for call in calls if call.outcome == "done"]
    timed_out = end.outcome == "failed" and calls and max(calls, key=lambda call: call.t).error == "timeout"
    outcome: Outcome | Literal["timeout"] = "timeout" if timed_out else end.outcome
    output = max(good, key=lambda call: call.t, default=None)
    return Request(
        id=end.job,
        outcome=outcome,
        scheduled=due,
        handed=end.arrived,
        ended=end.t,
        dispatched=min((call.dispatched for call in calls), default=None),
        first=output.first if output else None,
        last=_last(end, output) if end.outcome == "done" else None,
        chunks=output.pieces if output else (),
        chunk_tokens=output.piece_tokens if output else (),
        answer_tokens=output.completion_tokens if output and len(good) > 1 else None,
        prompt_tokens=sum(call.prompt_tokens for call in calls),
        output_tokens=sum(call.completion_tokens for call in good),
        cached_tokens=sum(call.cached_tokens for call in good),
        tokens_from=output.usage_from if output else "",
        endpoint=output.endpoint if output else "",
        pipeline=end.pipeline,
        tenant=end.tenant,
        deadline=end.deadline,
        error=end.error,
    )


def _last(end: JobEnded, output: TaskEnded | None) -> float:
    """When the last token of a job's answer came; its end, where that is not known.

    Emulated engines may tell of the first token only (``pieces=first``): the last one then came with the end of the call.
    """
    if output is None or not output.pieces:
        return end.t
    is_first_only = len(output.pieces) == 1 and not output.piece_tokens and output.completion_tokens > 1
    return output.t if is_first_only else output.pieces[-1]
