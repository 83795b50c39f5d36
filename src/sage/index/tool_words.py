"""The words that a request and a tool are compared by, and the parts that a request is made of."""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["clauses", "content_words", "spoken"]

_WORD = re.compile(r"[^\W_]+")
_CASES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W_]")
_CUT = re.compile(
    r"(?<=[.!?;])\s+|\n+|[,;]?\s+(?:and then|then|after that|afterwards|finally|also|additionally)\b[,\s]+",
    re.IGNORECASE,
)
_LEAST_WORDS = 3  # a shorter part asks for nothing by itself

#: Words that stand in any request, and say nothing of what it wants.
_COMMON = frozenset(
    [
        "a",
        "about",
        "after",
        "all",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "by",
        "can",
        "could",
        "do",
        "does",
        "finally",
        "first",
        "for",
        "from",
        "get",
        "has",
        "have",
        "how",
        "i",
        "in",
        "information",
        "is",
        "it",
        "its",
        "like",
        "me",
        "my",
        "need",
        "next",
        "of",
        "on",
        "or",
        "our",
        "please",
        "provide",
        "second",
        "some",
        "that",
        "the",
        "then",
        "this",
        "to",
        "us",
        "use",
        "using",
        "want",
        "we",
        "what",
        "which",
        "who",
        "will",
        "with",
        "would",
        "you",
        "your",
    ]
)
_ENDINGS = ("ations", "ation", "ings", "ing", "ies", "ers", "er", "ed", "es", "s", "e")
_LEAST_STEM = 3


def spoken(name: str) -> str:
    """An identifier as one would say it.

    >>> spoken("getHTTPStatus"), spoken("math.triangle_area2")
    ('get http status', 'math triangle area 2')
    """
    return " ".join(part.lower() for word in _WORD.findall(name) for part in _CASES.findall(word))


def content_words(text: str) -> str:
    """A text's words, lower case, cut to their stems, without those that stand in any request.

    The stems are crude (an ending is cut where three letters remain) and only meet each other.

    >>> content_words("Please provide the published works of the librarian")
    'publish work librarian'
    """
    return " ".join(_stem(word) for word in _WORD.findall(text.lower()) if word not in _COMMON)


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _LEAST_STEM:
            return word[: -len(ending)]
    return word


def clauses(request: str) -> list[str]:
    """The request itself and, where it has several, the parts that may each ask for something.

    A part ends with a sentence, a line, or a word such as "then"; parts of fewer than three words are left out.

    >>> clauses("Book a room in Rome. Then tell me the weather there.")
    ['Book a room in Rome. Then tell me the weather there.', 'Book a room in Rome.', 'tell me the weather there.']
    >>> clauses("Hi there")
    ['Hi there']
    """
    parts = [part.strip() for part in _CUT.split(_sentences(request))]
    parts = [part for part in parts if len(part.split()) >= _LEAST_WORDS]
    return [request, *parts] if len(parts) > 1 else [request]


def _sentences(request: str) -> str:
    """The request with a line break for every joining word that begins a sentence."""
    return re.sub(
        r"(?<=[.!?;])\s+(?:then|finally|also|additionally|afterwards|after that)\b[,\s]*",
        "\n",
        request,
        flags=re.IGNORECASE,
    )
