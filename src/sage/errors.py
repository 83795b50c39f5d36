"""Every error SAGE raises, in one tree, split by who must act.

    SageError
    ├── PipelineError      the author of the pipeline: wrong graph, found before anything runs
    ├── InputError         the caller: a bad record, file, option or name
    ├── StepError          the author of a function step: it raised
    ├── PolicyError        the author of a member of a policy: it raised, or answered nonsense
    ├── SetupError         the operator of the machine: something is missing, corrupt or misconfigured
    ├── EngineError        the engine: it refused, failed, stalled or answered nonsense
    ├── Rejected           admission control: the job was not let in
    ├── Expired            the job ran out of its deadline or time limit
    └── InternalError      SAGE itself: a bug worth reporting

A message says what happened, what was got, what was expected, the likely cause and the next step.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "EngineError",
    "EngineFault",
    "Expired",
    "Fault",
    "InputError",
    "InternalError",
    "PipelineError",
    "PolicyError",
    "Rejected",
    "SageError",
    "SetupError",
    "StepError",
    "nearest",
]


class SageError(Exception):
    """The base of every error that SAGE raises on purpose.

    Attributes:
        exit_code: what the command line ends with when this error stops it.
    """

    exit_code: int = 2

    def __reduce__(self) -> tuple[object, ...]:
        """So that it comes back from another process as it was, whatever its own parameters are."""
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[SageError], args: tuple[object, ...], state: dict[str, object]) -> SageError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a pipeline: the step it was found in (None: the whole) and a sentence."""

    step: str | None
    message: str

    def __str__(self) -> str:
        return self.message if self.step is None else f"step {self.step!r}: {self.message}"


class PipelineError(SageError):
    """A pipeline, or a stream, that cannot run. Raised when it is built, with every fault at once."""

    def __init__(self, pipeline: str, faults: Sequence[Fault], *, what: str = "pipeline") -> None:
        self.pipeline = pipeline
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = "".join(f"\n  - {fault}" for fault in self.faults)
        super().__init__(f"{what} {pipeline!r} has {count}:{lines}")


class InputError(SageError):
    """Something the caller handed in cannot be used: a record, a file, an option, a name."""


class SetupError(SageError):
    """Something on this machine is missing, corrupt or misconfigured."""


class StepError(SageError):
    """A step of one job failed. The cause is chained (``__cause__``).

    Attributes:
        step: the step's name.
        attempts: how often it was tried.
    """

    exit_code = 1

    def __init__(self, step: str, message: str, *, attempts: int = 1) -> None:
        self.step = step
        self.attempts = attempts
        super().__init__(f"step {step!r}: {message}")


class PolicyError(SageError):
    """A member of a policy raised or answered nonsense. Ends the runs it decides for; the cause is chained."""


EngineFault = Literal[
    "unreachable",  # no connection could be made, or it broke before the first token
    "timeout",  # no first token in time
    "overloaded",  # 429, 503, 529
    "failed",  # other 5xx, 408, 409, 425
    "refused",  # 4xx that a second try would not change
    "too_long",  # prompt and answer do not fit the context
    "garbled",  # the answer is not what the protocol says
    "stalled",  # the stream stopped, or broke, after the first token
    "lost",  # the worker that it ran on is gone, or its node
]

_RETRYABLE: frozenset[EngineFault] = frozenset({"unreachable", "timeout", "overloaded", "failed", "lost"})


class EngineError(SageError):
    """An engine could not answer one call.

    Attributes:
        fault: what kind of failure it was.
        status: the HTTP status, if there was one.
        retry_after_s: how long the engine asked us to wait, in seconds.
        prompt_tokens: for ``too_long``, the size the engine counted, if it said.
        context_tokens: for ``too_long``, the size the engine allows, if it said.
    """

    def __init__(
        self,
        message: str,
        *,
        fault: EngineFault,
        status: int | None = None,
        retry_after_s: float | None = None,
        prompt_tokens: int | None = None,
        context_tokens: int | None = None,
    ) -> None:
        super().__init__(message)
        self.fault: EngineFault = fault
        self.status = status
        self.retry_after_s = retry_after_s
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens
        self.exit_code = 3 if fault == "unreachable" else 1

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later, with no token of it seen yet."""
        return self.fault in _RETRYABLE


class Rejected(SageError):  # noqa: N818 - an outcome of admission, named as in the event log
    """The job was not let in. ``retry_after_s`` is None when waiting would not help."""

    exit_code = 1

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        self.reason = reason
        self.retry_after_s = retry_after_s
        later = "" if retry_after_s is None else f"; try again in {retry_after_s:.3g} s"
        super().__init__(f"rejected: {reason}{later}")


class Expired(SageError):  # noqa: N818 - an outcome of a job, named as in the event log
    """The job passed its hard deadline or its time limit."""

    exit_code = 1


class InternalError(SageError):
    """A broken invariant inside SAGE."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """The end of an error line about an unknown name: the nearest choice, or all of them.

    >>> nearest("qestion", ["question", "answer"])
    "did you mean 'question'?"
    >>> nearest("zzz", ["a", "b"])
    "choose from 'a', 'b'"
    >>> nearest("zzz", [])
    'there are none'
    """
    known = list(dict.fromkeys(choices))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if not known:
        return "there are none"
    shown = ", ".join(repr(choice) for choice in sorted(known)[:12])
    return f"choose from {shown}" + (", …" if len(known) > 12 else "")
