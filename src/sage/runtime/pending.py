"""A step that waits for an endpoint: what it asks, and what the scheduler gets to see of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sage.engines.base import GenerateRequest
from sage.errors import EngineError, SageError
from sage.events import Why
from sage.graph.fields import getter
from sage.ops.base import Embed, Generate
from sage.runtime.base import Job
from sage.runtime.program import Node
from sage.scheduling.views import BatchLimits, TaskKind, TaskView

__all__ = ["Pending", "Request", "fault_of", "request_of", "view_of"]

CHARS_PER_TOKEN = 4  # to estimate a prompt's size before the engine has counted it

#: What is asked: of an engine, or of a compute function by its arguments.
Request = GenerateRequest | tuple[str, ...] | dict[str, Any] | None

#: A call under way: the task that makes it, or what aborts it where none does.
Call = asyncio.Task[None] | Callable[[], None]


@dataclass(slots=True, eq=False)
class Pending:
    """A task the scheduler knows of, until its value is there or it is given up."""

    id: int
    job: Job
    node: Node
    request: Request
    ready: float
    answer: asyncio.Future[Any]
    call: Call | None = None  # while it runs
    together: Sequence[Pending] = ()  # those in its call, itself included
    attempt: int = 1
    endpoint: str = ""
    dispatched: float = 0.0
    first: float | None = None
    pieces: Sequence[float] = ()  # when each came, if somebody cares
    piece_tokens: Sequence[int] = ()
    error: SageError | None = None  # of the latest attempt
    why: Why | None = None  # the decision that started it, where it is recorded

    @property
    def is_seen(self) -> bool:
        """Whether somebody watches its pieces come."""
        return self.job.listen is not None or self.node.name in self.job.pipes

    @property
    def step(self) -> str:
        """Its step's name in events."""
        return self.job.shown(self.node.name)


def request_of(job: Job, node: Node) -> tuple[Request, bool]:
    """What a step asks; and whether it is one text to embed, whose value is a row and not rows."""
    work = node.work
    if isinstance(work, Generate):
        return work.request(job.record), False
    if isinstance(work, Embed):
        texts = work.texts(job.record)
        return ((texts,), True) if isinstance(texts, str) else (texts, False)
    if node.planned.step.reuse is None:
        return None, False
    return {name: getter(argument)(job.record) for name, argument in node.planned.arguments.items()}, False


def view_of(pending: Pending) -> TaskView:
    """The task as the scheduler sees it."""
    job, node, request = pending.job, pending.node, pending.request
    step = node.planned.step
    assert step.pool is not None
    kind: TaskKind = "compute"
    chars = max_out = 0
    batch_key = prefix_key = None
    if isinstance(request, GenerateRequest):
        kind, max_out = "generate", request.max_tokens
        prefix_key = node.path[0]  # whose prompts begin alike: those of one step, or of one conversation
        for message in request.messages:
            chars += len(message.content)
            if message.role == "assistant":
                prefix_key = f"job {job.id}"
    elif isinstance(request, tuple):
        kind = "embed"
        chars = sum(map(len, request))
        batch_key = step.pool if step.batch is None else f"{step.pool}/{step.batch}"
    batch = (
        None
        if step.batch is None
        else BatchLimits(step.batch.max_items, max_wait_s=step.batch.max_wait_ms / 1000)
    )
    if node.hop is not None:
        batch_key, batch = node.hop.company
    return TaskView(  # by position: naming eighteen fields takes longer than all the rest
        pending.id,
        job.id,
        job.shown(node.name),
        job.program.plan.name,
        step.pool,
        kind,
        job.arrived,
        pending.ready,
        job.tenant,
        job.priority,
        job.deadline,
        chars // CHARS_PER_TOKEN,
        max_out,
        batch_key,
        node.remaining_steps + len(job.path_after),
        batch,
        node.path + job.path_after,
        prefix_key,
    )


def fault_of(error: Exception | None) -> str:
    """An error in one or two words, for the log."""
    if isinstance(error, EngineError):
        return error.fault if error.status is None else f"{error.fault} {error.status}"
    return type(error).__name__
