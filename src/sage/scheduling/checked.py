"""Members of a policy that users wrote, held to their word: what they raise or answer wrongly is named as theirs.

Built-in members are proved by tests and used as they are, so this costs them nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from sage.errors import PolicyError
from sage.scheduling.admit import Refusal, Rule
from sage.scheduling.lanes import Key, Late, Task
from sage.scheduling.limit import Limit
from sage.scheduling.order import Order
from sage.scheduling.place import Place
from sage.scheduling.share import Share
from sage.scheduling.views import (
    BatchLimits,
    ClusterView,
    EndedCall,
    EndpointView,
    Forecast,
    JobView,
    TaskView,
)

__all__ = ["checked"]

T = TypeVar("T")


def checked(axis: str, name: str, member: Any) -> Any:
    """The member, or a stand-in that checks what it answers if it is not one of SAGE's own.

    The stand-in raises PolicyError, with the member's name and the view it was shown.
    """
    made = CHECKED.get(axis)
    if made is None or type(member).__module__.startswith("sage.scheduling."):
        return member
    return made(member, f"{axis}={name}")


class _Checked:
    """What all stand-ins have in common."""

    def __init__(self, member: Any, name: str) -> None:
        self._member = member
        self._name = name

    def _ask(self, method: str, view: object, call: Callable[..., T], *given: Any) -> T:
        try:
            return call(*given)
        except Exception as error:
            raise PolicyError(
                f"policy {self._name!r}: its {method}() raised {type(error).__name__}: {error}; it saw {view!r}"
            ) from error

    def _nonsense(self, method: str, answer: object, expected: str, view: object) -> PolicyError:
        return PolicyError(
            f"policy {self._name!r}: its {method}() gave {answer!r}, expected {expected}; it saw {view!r}"
        )


class CheckedOrder(_Checked):
    """Keys are tuples of numbers, always as long."""

    def __init__(self, member: Order, name: str) -> None:
        super().__init__(member, name)
        self.is_blind: bool = getattr(member, "is_blind", False)
        self.lingers: bool = getattr(member, "lingers", True)
        self._length: int | None = None
        if hasattr(member, "late"):
            self.late = self._late

    def key(self, task: TaskView) -> Key:
        """The member's key."""
        key: Any = self._ask("key", task, self._member.key, task)
        numbers = isinstance(key, tuple) and key and all(map(_is_number, key))
        if not numbers or len(key) != (self._length or len(key)):
            expected = f"a tuple of {self._length or 'one or more'} numbers"
            raise self._nonsense("key", key, expected, task)
        self._length = len(key)
        return key  # type: ignore[no-any-return]  # checked above

    def _late(self, task: TaskView) -> Late | None:
        late: Any = self._ask("late", task, self._member.late, task)
        if late is None or (isinstance(late, Late) and _is_number(late.after) and _is_number(late.key)):
            return late
        raise self._nonsense("late", late, "None or a Late of two numbers", task)


class CheckedPlace(_Checked):
    """It chooses an endpoint that is here and has room."""

    def __init__(self, member: Place, name: str) -> None:
        super().__init__(member, name)
        self._endpoints: dict[str, EndpointView] = {}

    def update(self, endpoint: EndpointView) -> None:
        """Tell the member."""
        self._endpoints[endpoint.name] = endpoint
        self._ask("update", endpoint, self._member.update, endpoint)

    def remove(self, name: str) -> None:
        """Tell the member."""
        self._endpoints.pop(name, None)
        self._ask("remove", name, self._member.remove, name)

    def choose(self, task: TaskView) -> str:
        """The member's choice."""
        chosen: Any = self._ask("choose", task, self._member.choose, task)
        seen = self._endpoints.get(chosen) if isinstance(chosen, str) else None
        if seen is None or seen.in_flight >= seen.limit:
            free = [name for name, view in self._endpoints.items() if view.in_flight < view.limit]
            expected = f"an endpoint that is here and has room: {', '.join(map(repr, free))}"
            raise self._nonsense("choose", chosen, expected, task)
        return seen.name


class CheckedLimit(_Checked):
    """Limits are whole numbers from 1 to what the endpoint says of itself."""

    def __init__(self, member: Limit, name: str) -> None:
        super().__init__(member, name)
        self._said: dict[str, int] = {}

    def of(self, endpoint: str, said: int) -> int:
        """The member's limit."""
        self._said[endpoint] = said
        return self._sound("of", self._ask("of", endpoint, self._member.of, endpoint, said), endpoint, said)

    def ended(self, endpoint: str, call: EndedCall) -> int | None:
        """The member's limit from now on."""
        limit = self._ask("ended", call, self._member.ended, endpoint, call)
        return None if limit is None else self._sound("ended", limit, endpoint, call)

    def left(self, endpoint: str) -> None:
        """Tell the member."""
        self._said.pop(endpoint, None)
        self._ask("left", endpoint, self._member.left, endpoint)

    def _sound(self, method: str, limit: object, endpoint: str, view: object) -> int:
        most = self._said[endpoint]
        if isinstance(limit, int) and not isinstance(limit, bool) and 1 <= limit <= most:
            return limit
        raise self._nonsense(method, limit, f"a whole number from 1 to {most} for {endpoint!r}", view)


class CheckedRule(_Checked, Rule):
    """It lets in, puts off until a time, or refuses."""

    @property
    def name(self) -> str:
        """What it goes by on its axis."""
        return self._name.partition("=")[2]

    def judge(self, job: JobView, forecast: Forecast, cluster: ClusterView) -> Refusal | float | None:
        """The member's verdict."""
        verdict: Any = self._ask("judge", job, self._member.judge, job, forecast, cluster)
        if verdict is None or isinstance(verdict, Refusal) or _is_number(verdict):
            return verdict  # type: ignore[no-any-return]  # checked
        raise self._nonsense("judge", verdict, "None, a time or a Refusal", job)

    def passed(self, job: JobView, forecast: Forecast) -> None:
        """Tell the member."""
        self._ask("passed", job, self._member.passed, job, forecast)

    def served(self, job: int, pool: str, service_s: float, tokens: float) -> None:
        """Tell the member."""
        self._ask("served", job, self._member.served, job, pool, service_s, tokens)

    def over(self, job: int) -> None:
        """Tell the member."""
        self._ask("over", job, self._member.over, job)


class CheckedShare(_Checked):
    """It gives back every task that lines up, once, and somebody while anybody waits."""

    def __init__(self, member: Share, name: str) -> None:
        super().__init__(member, name)
        self._queued: set[int] = set()

    def push(self, task: Task) -> None:
        """Tell the member."""
        self._queued.add(task.view.id)
        self._ask("push", task.view, self._member.push, task)

    def pop(self, now: float) -> Task | None:
        """The member's task."""
        task: Any = self._ask("pop", now, self._member.pop, now)
        if task is None and not self._queued:
            return None
        if not isinstance(task, Task) or task.view.id not in self._queued:
            shown = task.view if isinstance(task, Task) else task
            raise self._nonsense("pop", shown, f"one of the {len(self._queued)} tasks that queue", now)
        self._queued.discard(task.view.id)
        return task

    def left(self, task: Task) -> None:
        """Tell the member."""
        self._queued.discard(task.view.id)
        self._ask("left", task.view, self._member.left, task)

    def charge(self, task: Task) -> None:
        """Tell the member."""
        self._ask("charge", task.view, self._member.charge, task)

    def settle(self, task: Task, tokens: float | None) -> None:
        """Tell the member."""
        self._ask("settle", task.view, self._member.settle, task, tokens)

    def check(self) -> None:
        """Have the member check its books."""
        self._member.check()


class CheckedBatch(_Checked):
    """Limits of a batch hold at least one task."""

    def limits(self, task: TaskView) -> BatchLimits | None:
        """The member's limits."""
        limits: Any = self._ask("limits", task, self._member.limits, task)
        if limits is None or (
            isinstance(limits, BatchLimits)
            and limits.max_items >= 1
            and limits.max_tokens >= 1
            and 0 <= limits.max_wait_s < math.inf
        ):
            return limits
        raise self._nonsense("limits", limits, "None or BatchLimits of at least one item and token", task)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


CHECKED: dict[str, Callable[[Any, str], Any]] = {
    "admit": CheckedRule,
    "share": CheckedShare,
    "order": CheckedOrder,
    "place": CheckedPlace,
    "limit": CheckedLimit,
    "batch": CheckedBatch,
}
