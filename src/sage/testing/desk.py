"""A desk to talk to a scheduler from: events in, commands out. For unit tests of policies and of the core."""

from __future__ import annotations

import random
from typing import Any

from sage.scheduling.core import Scheduler
from sage.scheduling.messages import (
    Command,
    EndpointJoined,
    EndpointLeft,
    Event,
    JobArrived,
    JobOver,
    Start,
    TaskDone,
    TaskFailed,
    TaskReady,
    Tick,
)
from sage.scheduling.policy import parse_policy
from sage.scheduling.views import JobView, TaskView

__all__ = ["Desk", "open_desk", "started"]


class Desk:
    """Hands events to a scheduler at ``now``, which the test moves; the core checks itself after each.

    >>> desk = open_desk()
    >>> desk.join("a")
    []
    >>> started(desk.ready(1))
    [((1,), 'a')]
    """

    def __init__(self, policy: str = "load_aware") -> None:
        self.scheduler = Scheduler(parse_policy(policy), random.Random(0))
        self.now = 100.0

    def tell(self, event: Event) -> list[Command]:
        """Hand over any event."""
        commands = self.scheduler.handle(event, self.now)
        self.scheduler.check()
        return commands

    def join(self, name: str, pool: str = "llm", limit: int = 1) -> list[Command]:
        """An endpoint joins."""
        return self.tell(EndpointJoined(name, pool, limit))

    def leave(self, name: str) -> list[Command]:
        """An endpoint leaves."""
        return self.tell(EndpointLeft(name))

    def arrive(self, job: int, run: str = "r", **fields: Any) -> list[Command]:
        """A job arrives; ``fields`` are those of JobView."""
        return self.tell(JobArrived(JobView(job, run, "p", self.now, **fields)))

    def over(self, job: int) -> list[Command]:
        """A job is over."""
        return self.tell(JobOver(job))

    def ready(self, task: int, job: int = 1, pool: str = "llm", **fields: Any) -> list[Command]:
        """A task of an LLM step is ready; ``fields`` are those of TaskView."""
        fields = {"arrived": float(job), "ready": self.now, "kind": "generate", **fields}
        return self.tell(TaskReady(TaskView(task, job, "s", "p", pool, **fields)))

    def embed(self, task: int, job: int = 1, key: str | None = "m", **fields: Any) -> list[Command]:
        """A task of an embedding step is ready."""
        return self.ready(task, job, "embedder", kind="embed", batch_key=key, **{"in_tokens": 10, **fields})

    def done(self, task: int) -> list[Command]:
        """A task is done."""
        return self.tell(TaskDone(task))

    def fail(self, task: int, *args: Any, **fields: Any) -> list[Command]:
        """A task failed; the rest as in TaskFailed."""
        return self.tell(TaskFailed(task, *args, **fields))

    def tick(self, at: float) -> list[Command]:
        """The time passes, and a Tick comes."""
        self.now = at
        return self.tell(Tick())


def open_desk(policy: str = "load_aware") -> Desk:
    """A scheduler with a policy, and job 1 let in."""
    desk = Desk(policy)
    desk.arrive(1)
    return desk


def started(commands: list[Command]) -> list[tuple[tuple[int, ...], str]]:
    """The calls among commands: (tasks, endpoint)."""
    return [(command.tasks, command.endpoint) for command in commands if isinstance(command, Start)]
