"""A witness's own account of endpoints: what runs on them, and whether their breakers ought to be open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sage.errors import EngineFault, InternalError
from sage.scheduling.lanes import Late
from sage.scheduling.views import BatchLimits, TaskView

__all__ = ["Call", "Host", "Violation", "Work", "hold"]


class Violation(InternalError):  # noqa: N818 - says what it is, as the rest of the tree does
    """The core broke an invariant. The message begins with its name."""


def hold(holds: bool, invariant: str, otherwise: str) -> None:
    """Raise a Violation if an invariant does not hold."""
    if not holds:
        raise Violation(f"{invariant}: {otherwise}")


#: Faults that speak against an endpoint, as RELIABILITY R17 has them.
SICK: frozenset[EngineFault | None] = frozenset(
    {"unreachable", "timeout", "failed", "stalled", "garbled", "overloaded", "lost"}
)


@dataclass(slots=True)
class Call:
    """A call in flight."""

    host: Host
    tasks: set[int]
    tokens: int
    started: float
    era: int
    size: int
    fault: EngineFault | None = None
    done: bool = False

    def note(self, fault: EngineFault | None, *, done: bool) -> None:
        """One of its tasks ended."""
        self.fault = fault or self.fault
        self.done |= done


@dataclass(slots=True)
class Host:
    """An endpoint: a member, or ending its last calls. Its breaker is recounted from all calls it ever ended."""

    name: str
    pool: str
    said: int = 0
    limit: int = 0  # what the policy made of it
    joined: bool = False
    calls: list[Call] = field(default_factory=list)
    breaker: Literal["healthy", "open", "half_open"] = "healthy"
    until: float = 0.0
    opened: int = 0  # times
    failed_probes: int = 0  # since it was healthy
    ended: list[tuple[int, bool]] = field(
        default_factory=list
    )  # (second, whether it failed), since it opened

    @property
    def state(self) -> str:
        """As a snapshot shows it."""
        return self.breaker if self.joined else "draining"

    @property
    def probing(self) -> bool:
        """Whether the one call it was let is under way."""
        return any(call.era == self.opened for call in self.calls)

    @property
    def allowed(self) -> int:
        """Calls at once that it gets now."""
        if not self.joined or self.breaker == "open":
            return 0
        return self.limit if self.breaker == "healthy" else len(self.calls) + (not self.probing)

    @property
    def room(self) -> int:
        """Calls it could take now."""
        return max(0, self.allowed - len(self.calls))

    @property
    def tokens(self) -> int:
        """Of all its calls."""
        return sum([call.tokens for call in self.calls])

    @property
    def load(self) -> tuple[float, int]:
        """What is in flight for what is allowed, and its tokens."""
        return len(self.calls) / max(1, self.allowed), self.tokens

    def join(self, said: int) -> None:
        """It is a member, and says how many calls it takes."""
        if not self.joined:
            self.breaker, self.opened, self.failed_probes, self.ended = "healthy", 0, 0, []
        self.said, self.joined = said, True

    def start(self, tasks: set[int], tokens: int, now: float) -> Call:
        """A call begins."""
        call = Call(self, tasks, tokens, now, self.opened, len(tasks))
        self.calls.append(call)
        return call

    def is_probe_due(self, now: float) -> bool:
        """Let a probe through, if it is time; whether it was."""
        due = self.joined and self.breaker == "open" and self.until <= now
        if due:
            self.breaker = "half_open"
        return due

    def end(self, call: Call, now: float, *, judged: bool) -> str | None:
        """A call ended. Returns what its breaker changes to, if it does."""
        self.calls.remove(call)
        says_nothing = not call.done and call.fault is None
        if not judged or says_nothing or not self.joined or call.era != self.opened or self.breaker == "open":
            return None
        failed = not call.done and call.fault in SICK
        if self.breaker == "half_open":
            if failed:
                self.failed_probes += 1
                return self._open(now)
            self.failed_probes, self.breaker = 0, "healthy"
            return "healthy"
        self.ended.append((int(now), failed))
        last = [failure for second, failure in self.ended if second > int(now) - 10]
        in_a_row = len(self.ended) >= 5 and all(failure for _, failure in self.ended[-5:])
        if failed and (in_a_row or (len(last) >= 20 and sum(last) * 2 >= len(last))):
            return self._open(now)
        return None

    def _open(self, now: float) -> str:
        self.breaker, self.ended = "open", []
        self.opened += 1
        self.until = now + min(30.0, 2.0**self.failed_probes)
        return "open"


@dataclass(slots=True)
class Work:
    """A task from TaskReady to its end."""

    view: TaskView
    key: tuple[float, ...]
    late: Late
    limits: BatchLimits | None
    since: float  # when it was queued last
    state: Literal["queued", "running", "delayed", "failing"] = "queued"
    due: float = 0.0  # of a delayed task
    failures: int = 0
    call: Call | None = None
