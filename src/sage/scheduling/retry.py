"""Whether a failed call is made again, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.errors import EngineFault
from sage.scheduling.messages import TaskFailed

if TYPE_CHECKING:
    import random

__all__ = ["BACKOFF_S", "MAX_BACKOFF_S", "RESERVE", "RETRYABLE", "UNSERVED", "Budget", "Retries"]

#: Faults after which the same call may succeed. A stream that stalled or was broken belongs to them as long as
#: no consumer saw its tokens: then it is restarted.
RETRYABLE: frozenset[EngineFault] = frozenset(
    {"unreachable", "timeout", "overloaded", "failed", "stalled", "garbled", "lost"}
)

#: Faults of calls that the engine did no work for: they cost their tenant nothing.
UNSERVED: frozenset[EngineFault | None] = frozenset(
    {"unreachable", "overloaded", "refused", "too_long", "lost"}
)

BACKOFF_S = 0.25  # longest wait after the first failure; doubled by each further one
MAX_BACKOFF_S = 20.0

#: Retries that may be made before, or at once beyond, the budget's share of calls: a short run can retry, and
#: one loss of all calls in flight is survived.
RESERVE = 100.0


class Budget:
    """How many retries there may be: each call adds ``share`` of one, each retry takes one.

    A token bucket, so that retries cannot multiply the load of engines that are failing already.
    """

    __slots__ = ("_allowance", "_share")

    def __init__(self, share: float | None) -> None:
        self._share = share  # None: as many as one likes
        self._allowance = RESERVE

    @property
    def is_spent(self) -> bool:
        """Whether no retry is left."""
        return self._share is not None and self._allowance < 1

    def called(self) -> None:
        """A call is made, for the first time or again."""
        if self._share is not None and self._allowance < RESERVE:
            self._allowance = min(RESERVE, self._allowance + self._share)

    def take(self) -> None:
        """A call will be made again."""
        if self._share is not None:
            self._allowance -= 1


class Retries:
    """One retry layer: limited attempts, full-jitter exponential backoff, and two budgets.

    The backoff is Marc Brooker's "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), full jitter.
    One budget is for all calls together; each endpoint has one more, charged for its own failures, so that one
    bad endpoint does not spend everyone's.
    """

    def __init__(self, share: float | None, rng: random.Random) -> None:
        self._share = share
        self._rng = rng
        self._budget = Budget(share)

    def called(self, endpoint: Budget) -> None:
        """A call is made on an endpoint with this budget, for the first time or again."""
        self._budget.called()
        endpoint.called()

    def refusal(self, failed: TaskFailed, attempt: int, endpoint: Budget, *, paid: bool) -> str | None:
        """Why the task is not tried again; None when it is. ``paid``: the budgets were charged for its call."""
        if failed.fault is None:
            return "cancelled"
        if failed.fault not in RETRYABLE:
            return f"a second try would not change the fault {failed.fault!r}"
        if failed.seen_tokens:
            return "its tokens were seen already"
        if attempt >= failed.attempts_allowed:
            return "its only attempt is used" if attempt == 1 else f"all {attempt} attempts are used"
        if failed.fault == "lost":  # says nothing of the load, and the endpoint has left: no budget guards it
            return None
        if not paid and (self._budget.is_spent or endpoint.is_spent):
            whose = "" if self._budget.is_spent else " of this endpoint"
            return f"the retry budget{whose}, {self._share:.0%} of calls, is spent"
        return None

    def next_call(self, failed: TaskFailed, attempt: int, endpoint: Budget, now: float) -> float:
        """Charge the budgets, and say when the call is made again: not before the engine asked for it.

        At once where the worker was lost: another one takes over.
        """
        if failed.fault == "lost":
            return now
        self._budget.take()
        endpoint.take()
        delay_s = self._rng.uniform(0.0, min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** (attempt - 1)))
        return now + max(delay_s, failed.retry_after_s or 0.0)


def by_deadline(time: float, deadline: float | None, now: float) -> float:
    """The time, or the deadline if that comes first and is still ahead."""
    return time if deadline is None or deadline <= now else min(time, deadline)
