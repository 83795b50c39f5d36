"""How the emulated server behaves: its timing, its capacity and the faults it commits. Pure."""

from __future__ import annotations

import hashlib
import random
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any

import msgspec

from sage.errors import InputError, nearest

__all__ = ["FAULTS", "Behaviour", "Fault", "FaultPlan", "from_arguments", "to_arguments"]

#: Every fault besides a status from 400 to 599, and what the client sees.
FAULTS: Mapping[str, str] = {
    "reset": "the connection is reset before the answer begins",
    "hang": "no answer comes, until the client goes away",
    "cut": "the connection is reset after the first token",
    "stall": "no token follows the first one, until the client goes away",
    "truncated": "the stream ends in good order after the first token",
    "garbage": "a piece of the answer is no JSON",
    "negative_usage": "the token counts are negative",
    "non_utf8": "a piece of the answer is not UTF-8",
    "giant": "a piece of the answer is larger than any client should take",
    "too_long": "status 400: the prompt does not fit the context",
    "poison": "status 400, for this prompt on every attempt",
}

MAX_PROMPTS_KEPT = 1_000_000


class Behaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the emulated server is told to do. Times are seconds of real time."""

    ttft_s: float = 0.0  # from dispatch to the first token
    token_s: float = 0.0  # between two tokens; between two pieces, so many times as a piece has tokens
    text_s: float = 0.0  # per embedded text
    concurrency: int = 64  # calls worked on at once; further ones wait
    context_tokens: int = 8192
    dimension: int = 64  # of the embeddings
    answer_tokens: int | None = None  # length of plain answers; None: "You said: …"
    piece_tokens: int = 1  # tokens in each piece of a stream
    role_first: bool = False  # a piece with nothing but the role comes at once, before the first token
    prefix_cache: bool = (
        False  # remember prompts and say how many leading tokens were there; takes no less time
    )
    reasoning: bool = False  # two tokens of reasoning before each plain answer
    usage: bool = True  # send token counts
    models: bool = True  # GET /v1/models works; otherwise it answers 404
    api_key: str | None = None  # the only key accepted; None: any, or none
    script: tuple[str, ...] = ()  # faults of the first calls in order of arrival; "ok" for none
    rates: Mapping[str, float] = {}  # fault -> share of the calls after the script
    seed: int = 0  # of the rates, and of the lengths that ``output`` draws
    profile: str | None = (
        None  # of an emulated engine, whose times and answers these calls get; None: those above
    )
    output: str = "max"  # with a profile: the lengths of answers


class Fault(msgspec.Struct, frozen=True):
    """One fault: a status from 400 to 599, or a name of FAULTS."""

    name: str
    retry_after: str | None = None  # of a status: sent as the header Retry-After

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``429``, ``503@2`` (Retry-After: 2) or a name of FAULTS.

        >>> Fault.parse("429@1.5")
        Fault(name='429', retry_after='1.5')

        Raises:
            InputError: no such fault.
        """
        name, at, retry_after = text.partition("@")
        if name not in FAULTS and not (name.isdecimal() and 400 <= int(name) <= 599):
            raise InputError(f"unknown fault {name!r}: {nearest(name, ('429', '503', *FAULTS))}")
        return cls(name, retry_after if at else None)

    @property
    def status(self) -> int | None:
        """The HTTP status of the answer, if the fault is one."""
        if self.name in {"too_long", "poison"}:
            return 400
        return int(self.name) if self.name.isdecimal() else None


class FaultPlan:
    """Which call meets which fault.

    Calls after the script draw their fault from (seed, request, number of the attempt), so that it does not
    depend on the order in which concurrent calls arrive.

    Raises:
        InputError: an unknown fault, or rates that add up to more than 1.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._script = deque(None if said == "ok" else Fault.parse(said) for said in behaviour.script)
        self._rates = [(Fault.parse(said), rate) for said, rate in behaviour.rates.items()]
        self._seed = behaviour.seed
        self._attempts: OrderedDict[str, int] = OrderedDict()
        if any(rate < 0 for _, rate in self._rates) or sum(rate for _, rate in self._rates) > 1:
            raise InputError(
                f"fault rates must lie between 0 and 1 and add up to at most 1, got {behaviour.rates}"
            )

    def next(self, body: bytes) -> tuple[Fault | None, int]:
        """The fault of a call (None: it succeeds), and which attempt at this request it is, from 1."""
        key = hashlib.blake2b(body, digest_size=8).hexdigest()
        attempt = self._attempts.pop(key, 0) + 1
        self._attempts[key] = attempt
        if len(self._attempts) > MAX_PROMPTS_KEPT:
            self._attempts.popitem(last=False)
        if self._script:
            return self._script.popleft(), attempt
        return self._draw(key, attempt), attempt

    def _draw(self, key: str, attempt: int) -> Fault | None:
        poisoned = random.Random(f"{self._seed}:{key}").random()
        drawn = random.Random(f"{self._seed}:{key}:{attempt}").random()
        for fault, rate in self._rates:
            if fault.name == "poison":
                if poisoned < rate:
                    return fault
            elif drawn < rate:
                return fault
            else:
                drawn -= rate
        return None


def to_arguments(behaviour: Behaviour) -> list[str]:
    """The command line that says this behaviour."""
    said = msgspec.to_builtins(behaviour)
    said["script"] = ",".join(said["script"])
    said["rates"] = ",".join(f"{fault}={rate}" for fault, rate in said["rates"].items())
    return [f"--{name.replace('_', '-')}={value}" for name, value in said.items() if value not in {None, ""}]


def from_arguments(said: Mapping[str, Any]) -> Behaviour:
    """The behaviour that a command line says.

    Raises:
        InputError: a value that cannot be read.
    """
    known = {
        name: value
        for name, value in said.items()
        if value is not None and name in Behaviour.__struct_fields__
    }
    if "script" in known:
        known["script"] = known["script"].split(",")
    if "rates" in known:
        known["rates"] = dict(rate.split("=", 1) for rate in known["rates"].split(",") if "=" in rate)
    try:
        return msgspec.convert(known, Behaviour, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(f"an option of the emulated server cannot be read: {error}") from error
