"""What a load asks: prompts of random words, lines of a file, or what a trace says. Deterministic by seed.

A *token* of a random prompt is one common English word, which most tokenizers take as one token. What the server
really counted stands in the results.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from sage.bench.traces import Asked
from sage.engines.base import GenerateRequest, Message
from sage.engines.emulated_profile import answer_lengths
from sage.errors import InputError

__all__ = ["Prompts", "Sampling", "read_prompts", "requests_for"]

MOST_TOKENS = 1 << 20
OWN_WORDS = 6  # that a text begins with, drawn for it alone: enough to tell billions apart
POOL_WORDS = 1 << 14

#: Short, common, and different from each other in their first letters as far as that goes.
_COMMON = (
    "able back call dark each face game half idea join keep lake main name only page quick rain same take under "
    "very wait year about begin carry doubt early field great happy image judge known large match never often "
    "paper quite reach small table until voice water young after blue cold door east fire gold hand ice jump king "
    "land mind night open plan queen road snow tree use view wind zero area bread chair dream earth fresh glass "
    "house inside jacket kitchen letter market nature office people quiet river school travel uncle valley window "
    "answer bridge corner distance effort follow garden height island journey knowledge listen morning number order "
    "picture question reason summer thought unit village weather yellow across between church doctor enough figure"
)
WORDS = tuple(_COMMON.split())


class Prompts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What requests ask. Lengths are a number of tokens, ``uniform(LOW,HIGH)`` or ``lognormal(MEDIAN,SIGMA)``."""

    dataset: Literal["random", "file", "trace"] = "random"
    path: str | None = None  # of a file or a trace
    input_len: str = "1024"  # of random prompts
    output_len: str = "128"  # most tokens of an answer, where file or trace do not say
    prefix_len: int = 0  # words that all random prompts begin with, beside input_len

    def check(self) -> None:
        """Refuse what cannot be, before anything is opened.

        Raises:
            InputError: a file or a length cannot be used.
        """
        _lengths(self, "")
        _lines(self)


class Sampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How answers are drawn, and how long one may take."""

    temperature: float = 0.0
    top_p: float | None = None
    timeout_s: float = 600.0


class Line(msgspec.Struct, kw_only=True):
    """One line of a file of prompts, by any of the names that are common for it."""

    prompt: str | None = None
    question: str | None = None
    messages: list[dict[str, Any]] | None = None
    output_tokens: int | None = None
    output_len: int | None = None
    max_tokens: int | None = None

    def asked(self) -> tuple[tuple[Message, ...], int | None]:
        """Its messages, and the most tokens of its answer if it says.

        Raises:
            ValueError: it asks nothing.
        """
        text = self.prompt if self.prompt is not None else self.question
        if self.messages is not None:
            messages = msgspec.convert(self.messages, tuple[Message, ...])
        elif text is not None:
            messages = (Message("user", text),)
        else:
            raise ValueError("it has neither 'prompt' nor 'messages'")
        most = next(
            (n for n in (self.output_tokens, self.output_len, self.max_tokens) if n is not None), None
        )
        if not messages or (most is not None and most < 1):
            raise ValueError(f"it has {len(messages)} messages and asks for {most} tokens")
        return messages, most


def read_prompts(path: Path) -> list[tuple[tuple[Message, ...], int | None]]:
    """The lines of a JSONL file of prompts: ``{"prompt": "…", "output_tokens": 64}``, or with ``messages``.

    Raises:
        InputError: it cannot be read, a line asks nothing, or there is none.
    """
    found = []
    try:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if not line.strip():
                continue
            try:
                found.append(msgspec.json.decode(line, type=Line).asked())
            except (msgspec.MsgspecError, ValueError) as error:
                raise InputError(f"{path}:{number}: is no prompt: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from error
    if not found:
        raise InputError(f"{path}: has no prompts")
    return found


def requests_for(
    prompts: Prompts,
    sampling: Sampling,
    *,
    seed: str,
    warmups: int,
    count: int,
    asked: Sequence[Asked] = (),
) -> Iterator[GenerateRequest]:
    """The warm-up requests, then the counted ones, made as they are needed; no warm-up prompt comes again.

    Args:
        prompts: what to ask.
        sampling: how.
        seed: equal ones give equal requests.
        warmups: how many there are of warm-up.
        count: and of the others.
        asked: what each of the others asks, of a trace.

    Raises:
        InputError: a file or a length cannot be used; at once, not when the requests are taken.
    """
    input_len, output_len = _lengths(prompts, seed)
    words = _Words(seed, prompts.prefix_len)
    lines = _lines(prompts)

    def warmup(number: int) -> GenerateRequest:
        key = f"warm-up {number}"
        messages = (Message("user", words.text(key, input_len(f"{key} in"))),)
        return request(messages, output_len(f"{key} out"))

    def counted(number: int) -> GenerateRequest:
        if lines:
            messages, most = lines[number % len(lines)]
            return request(messages, most or output_len(f"{number} out"))
        if asked:
            one = asked[number]
            text = words.text(str(number), max(1, one.prompt_tokens - one.shared_tokens), one.shared_tokens)
            return request((Message("user", text),), max(1, one.output_tokens))
        text = words.text(str(number), input_len(f"{number} in"))
        return request((Message("user", text),), output_len(f"{number} out"))

    def request(messages: tuple[Message, ...], most: int) -> GenerateRequest:
        return GenerateRequest(
            messages=messages,
            max_tokens=most,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            timeout_s=sampling.timeout_s,
        )

    return itertools.chain(map(warmup, range(warmups)), map(counted, range(count)))


def _lines(prompts: Prompts) -> list[tuple[tuple[Message, ...], int | None]]:
    if prompts.dataset != "file":
        return []
    if prompts.path is None:
        raise InputError("a dataset of a file needs its path")
    return read_prompts(Path(prompts.path))


def _lengths(prompts: Prompts, seed: str) -> tuple[Callable[[str], int], Callable[[str], int]]:
    """From a key to the tokens of a prompt, and of its answer."""
    if prompts.prefix_len < 0:
        raise InputError(f"the common prefix has {prompts.prefix_len} tokens, expected 0 or more")
    number = random.Random(seed).getrandbits(32)
    return _length("input", prompts.input_len, number), _length("output", prompts.output_len, number)


def _length(name: str, said: str, seed: int) -> Callable[[str], int]:
    if said.replace(" ", "") == "max":
        raise InputError(f"{name} length 'max' says nothing here; give a number of tokens")
    try:
        drawn = answer_lengths(said, seed)
    except InputError as error:
        raise InputError(f"{name} length: {error}") from error
    return lambda key: drawn(key, MOST_TOKENS)


class _Words:
    """Random text by key. Texts share the beginning that they are told to share, and nothing else.

    What comes after the first few words of a text is cut out of one long text: drawing every word would cost more
    than sending it. A prefix cache cannot tell, for it needs equal beginnings.
    """

    def __init__(self, seed: str, prefix: int) -> None:
        self._seed = seed
        self._prefix = prefix
        self._common: list[str] = []
        self._source = random.Random(f"{seed}/common")
        self._pool = ""
        self._starts: list[int] = []  # of each word of the pool, and its end

    def text(self, key: str, tokens: int, shared: int = 0) -> str:
        """So many tokens of one's own, after the common beginning."""
        drawn = int.from_bytes(
            hashlib.blake2b(f"{self._seed}/{key}".encode(), digest_size=16).digest(), "big"
        )
        own = []
        for _ in range(min(tokens, OWN_WORDS)):
            drawn, word = divmod(drawn, len(WORDS))
            own.append(WORDS[word])
        if tokens > OWN_WORDS:
            own.append(self._cut(drawn, tokens - OWN_WORDS))
        return " ".join([*self._beginning(self._prefix + shared), *own])

    def _cut(self, drawn: int, tokens: int) -> str:
        """So many words of the pool, from somewhere in it."""
        if len(self._starts) <= tokens:
            self._draw(max(POOL_WORDS, 2 * tokens))
        first = drawn % (len(self._starts) - tokens)
        return self._pool[self._starts[first] : self._starts[first + tokens] - 1]

    def _draw(self, words: int) -> None:
        drawn = random.Random(f"{self._seed}/pool").choices(WORDS, k=words)
        self._pool = " ".join(drawn) + " "
        self._starts = [0, *itertools.accumulate(len(word) + 1 for word in drawn)]

    def _beginning(self, tokens: int) -> list[str]:
        missing = tokens - len(self._common)
        if missing > 0:
            self._common += self._source.choices(WORDS, k=missing)
        return self._common[:tokens]
