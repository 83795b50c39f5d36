"""Continuous batching in step times, without an event loop: requests and times go in, times of tokens come out.

The engine runs step after step while it has work. In each step

1. every decoding sequence yields one token;
2. sequences under prefill, oldest first, then waiting requests, first come first served, take the rest of
   ``max_step_tokens``; a prompt may be spread over several steps (chunked prefill);
3. the step takes ``a + b * prefill tokens + c * decoding sequences + d * their context tokens`` seconds;
4. at its end, a sequence whose prompt is complete yields its first token.

A request is let in if a sequence (``max_seqs``) and room in the KV cache for its whole prompt are free. If the
cache cannot take one more token of every decoding sequence, the sequence let in last is preempted: its cache is
dropped, it goes to the head of the line, and its prompt and what it had answered are prefilled again; nobody is
let in during that step. These are the rules of vLLM's v1 scheduler (vllm-project/vllm,
``vllm/v1/core/sched/scheduler.py``), with tokens instead of blocks, and admission by the whole prompt where vLLM
asks for its first chunk.

Steps in which nothing changes are taken together: the time of ``k`` equal steps has a closed form, since the
context grows by the same number of tokens in each.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush
from typing import Literal, NamedTuple

import msgspec

__all__ = ["Batching", "Capacity", "Sequence", "StepTimes", "Told"]


class StepTimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The time of one step, in seconds."""

    a_s: float  # of any step
    b_s: float = 0.0  # per token of prompts
    c_s: float = 0.0  # per decoding sequence
    d_s: float = 0.0  # per token in the context of the decoding sequences

    def of(self, prefill: int, decoding: int, context: int) -> float:
        """Seconds that a step takes."""
        return self.a_s + self.b_s * prefill + self.c_s * decoding + self.d_s * context


class Capacity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What fits at once."""

    max_seqs: int = 256  # sequences in a step
    max_step_tokens: int = 8192  # tokens in a step: one for each decoding sequence, the rest of prompts
    kv_tokens: int = 1 << 24  # in the KV cache, of all sequences together
    context_tokens: int = 131_072  # of one sequence, prompt and answer


class Sequence:
    """One request on its way through an engine.

    Args:
        prompt: tokens to prefill, without those that a prefix cache holds.
        output: tokens it will yield, at least 1.
        cached: tokens of its prompt that a prefix cache holds; they take room, but no time.
        streams: told of each token; else of the first and the last only.
    """

    __slots__ = ("cached", "context", "left", "output", "prompt", "since", "state", "streams", "yielded")

    def __init__(self, prompt: int, output: int, cached: int = 0, streams: bool = False) -> None:
        assert prompt >= 0
        assert output >= 1
        self.prompt = prompt
        self.output = output
        self.cached = cached
        self.streams = streams
        self.state: Literal["waiting", "prefill", "decode", "over"] = "waiting"
        self.left = prompt  # of its prompt, while it is prefilled
        self.context = cached + prompt  # in the cache when it began to decode; while it waits: tokens to come
        self.since = 0  # decode steps of the engine when it began to decode
        self.yielded = 0  # tokens, when it began to decode or was preempted last


class Told(NamedTuple):
    """A sequence yielded a token; which of its tokens, counted from 1."""

    sequence: Sequence
    token: int
    time: float


class Batching:
    """One engine's batch. Its owner calls ``advance`` at ``next_time``, or later: the times come out the same.

    >>> batch = Batching(StepTimes(a_s=1.0), Capacity())
    >>> batch.submit(Sequence(prompt=10, output=3), now=0.0)
    >>> [(told.token, told.time) for told in batch.advance(now=5.0)]
    [(1, 1.0), (3, 3.0)]
    """

    def __init__(self, times: StepTimes, capacity: Capacity) -> None:
        self._times = times
        self._capacity = capacity
        self._waiting: deque[Sequence] = deque()
        self._running: dict[Sequence, None] = {}  # in the order they were let in
        self._prefilling: dict[Sequence, None] = {}
        self._aborted: list[Sequence] = []  # running ones, until the end of the step
        self._streaming: dict[Sequence, None] = {}  # decoding ones that are told of each token
        self._ends: list[tuple[int, int, Sequence]] = []  # heap: decode step of the last token, tie-break
        self._pushed = 0
        self._decoding = 0  # sequences
        self._context = 0  # tokens in the cache, of decoding sequences
        self._kv = 0  # tokens in the cache, of running sequences, prompts under prefill counted whole
        self._decoded = 0  # decode steps since the beginning
        self._chunks: list[tuple[Sequence, int]] = []  # prompt tokens of the step under way
        self._began = 0.0  # of the steps under way
        self._steps = 0  # equal steps under way; 0: none
        self._step_s = 0.0  # the first of them
        self._growth_s = 0.0  # by which each is longer than the one before
        #: When ``advance`` has something to do: steps end, or a first one begins. None: not until something is submitted.
        self.next_time: float | None = None
        self._prefilled = 0  # tokens of prompts since the beginning
        self._yielded = 0  # decoding sequences, added up over all steps
        self._attended = 0  # their context tokens, added up likewise
        self._ended = 0  # steps

    @property
    def totals(self) -> tuple[int, int, int, int]:
        """What all steps so far went through: steps, prefilled tokens, decoding sequences, their context tokens."""
        return self._ended, self._prefilled, self._yielded, self._attended

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that are not in it yet."""
        return len(self._waiting)

    def submit(self, sequence: Sequence, now: float) -> None:
        """Line up a request. It must fit the cache by itself, to its last token."""
        assert sequence.context + sequence.output <= self._capacity.kv_tokens
        self._waiting.append(sequence)
        if not self._steps:
            self.next_time = now if self.next_time is None else self.next_time
        elif len(self._waiting) == 1 and len(self._running) < self._capacity.max_seqs:
            self._cut(now)

    def abort(self, sequence: Sequence, now: float) -> None:
        """Take a request out: at once if it waits, else at the end of the step under way. If it is over, nothing changes."""
        if sequence.state == "waiting":
            is_first = self._waiting[0] is sequence
            self._waiting.remove(sequence)
            sequence.state = "over"
            if is_first and self._waiting and self._steps:
                self._cut(now)  # those behind it may fit
        elif sequence.state != "over":
            self._aborted.append(sequence)
            self._cut(now)

    def advance(self, now: float) -> list[Told]:
        """End every step that is over at ``now`` and begin the next; the tokens yielded, in order."""
        told: list[Told] = []
        while (at := self.next_time) is not None and at <= now:
            if self._steps:
                self._end(at, told)
            self._begin(at)
        return told

    # Steps

    def _span(self, steps: int) -> float:
        """How long so many of the steps under way take."""
        return steps * self._step_s + self._growth_s * (steps * (steps - 1) // 2)

    def _cut(self, now: float) -> None:
        """Plan no further than the end of the step that runs at ``now``: something will change then."""
        if self._steps <= 1:
            return
        elapsed = now - self._began
        low, high = 1, self._steps
        while low < high:  # the first end of a step that is not before now
            middle = (low + high) // 2
            if self._span(middle) < elapsed:
                low = middle + 1
            else:
                high = middle
        self._steps = low
        self.next_time = self._began + self._span(low)

    def _begin(self, now: float) -> None:
        """Plan the next step, and with it all that will be like it."""
        capacity, decoding = self._capacity, self._decoding
        preempted = self._kv + decoding > capacity.kv_tokens
        if preempted:
            self._make_room()
            decoding = self._decoding
        budget = room = capacity.max_step_tokens - decoding
        chunks = self._chunks
        for sequence in self._prefilling:
            if budget <= 0:
                break
            taken = min(sequence.left, budget)
            budget -= taken
            chunks.append((sequence, taken))
        while self._waiting and budget > 0 and not preempted and len(self._running) < capacity.max_seqs:
            sequence = self._waiting[0]
            if self._kv + decoding + sequence.context + 1 > capacity.kv_tokens:
                break
            self._waiting.popleft()
            self._let_in(sequence)
            taken = min(sequence.left, budget)
            budget -= taken
            chunks.append((sequence, taken))
        self._began = now
        if not self._running:
            self._steps, self.next_time = 0, None
            return
        self._step_s = self._times.of(room - budget, decoding, self._context)
        self._growth_s = self._times.d_s * decoding
        self._steps = steps = 1 if chunks or self._streaming else self._equal_steps()
        self.next_time = now + self._span(steps)

    def _equal_steps(self) -> int:
        """Steps until a sequence ends or the cache is full, when nobody else comes or goes."""
        first_end = self._ends[0][0]
        while self._ends[0][2].state != "decode" or self._ends[0][0] != self._end_of(self._ends[0][2]):
            heappop(self._ends)
            first_end = self._ends[0][0]
        room = (self._capacity.kv_tokens - self._kv) // self._decoding
        return min(first_end - self._decoded, room)

    def _end(self, now: float, told: list[Told]) -> None:
        """Account for the steps under way, all of them over."""
        steps, decoding = self._steps, self._decoding
        self._steps = 0
        self._ended += steps
        self._yielded += steps * decoding
        self._attended += steps * self._context + decoding * (steps * (steps - 1) // 2)
        self._decoded += steps
        self._kv += steps * decoding
        self._context += steps * decoding
        if self._aborted:
            for sequence in self._aborted:
                self._leave(sequence)
            self._aborted.clear()
        ends = self._ends
        while ends and ends[0][0] <= self._decoded:
            end, _, sequence = heappop(ends)
            if sequence.state == "decode" and end == self._end_of(sequence):
                self._leave(sequence)
                told.append(Told(sequence, sequence.output, now))
        for sequence in self._streaming:
            token = sequence.yielded + self._decoded - sequence.since
            told.append(Told(sequence, token, now))
        if not self._chunks:
            return
        chunks, self._chunks = self._chunks, []
        for sequence, taken in chunks:
            self._prefilled += taken
            sequence.left -= taken
            if sequence.left == 0 and sequence.state == "prefill":
                self._yield_first(sequence, now, told)

    def _yield_first(self, sequence: Sequence, now: float, told: list[Told]) -> None:
        """The prompt of a sequence is complete, which gives a token."""
        del self._prefilling[sequence]
        sequence.state = "decode"
        sequence.yielded += 1
        sequence.context += 1
        sequence.since = self._decoded
        self._decoding += 1
        self._kv += 1
        self._context += sequence.context
        if sequence.yielded == sequence.output:
            self._leave(sequence)
        else:
            self._pushed += 1
            heappush(self._ends, (self._end_of(sequence), self._pushed, sequence))
            if sequence.streams:
                self._streaming[sequence] = None
        if sequence.yielded == 1 or sequence.streams or sequence.yielded == sequence.output:
            told.append(Told(sequence, sequence.yielded, now))

    def _end_of(self, sequence: Sequence) -> int:
        """The decode step with the last token of a sequence."""
        return sequence.since + sequence.output - sequence.yielded

    # Who is in

    def _let_in(self, sequence: Sequence) -> None:
        sequence.state = "prefill"
        self._running[sequence] = None
        self._prefilling[sequence] = None
        self._kv += sequence.context

    def _make_room(self) -> None:
        """Preempt the last ones in, until every decoding sequence has room for one more token."""
        while self._kv + self._decoding > self._capacity.kv_tokens:
            last = next(reversed(self._running))
            grown = self._decoded - last.since if last.state == "decode" else 0
            self._leave(last)
            last.state = "waiting"
            last.yielded += grown
            last.context += grown
            last.left, last.cached = last.context, 0
            self._waiting.appendleft(last)

    def _leave(self, sequence: Sequence) -> None:
        """Free what a running sequence holds."""
        if sequence.state == "decode":
            held = sequence.context + self._decoded - sequence.since
            self._decoding -= 1
            self._context -= held
            self._streaming.pop(sequence, None)
        else:
            held = sequence.context
            del self._prefilling[sequence]
        self._kv -= held
        del self._running[sequence]
        sequence.state = "over"


def service_s(times: StepTimes, prompt: int, output: int, max_step_tokens: int) -> float:
    """How long a request takes on an idle engine.

    >>> service_s(StepTimes(a_s=1.0, b_s=0.1), prompt=10, output=3, max_step_tokens=5)
    5.0
    """
    chunks = max(1, math.ceil(prompt / max_step_tokens))
    decode = output - 1
    context = prompt * decode + decode * (decode + 1) // 2
    return times.a_s * (chunks + decode) + times.b_s * prompt + times.c_s * decode + times.d_s * context
