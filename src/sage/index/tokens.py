"""Texts into the words that a search by words compares."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

__all__ = ["RULE", "tokenize"]

#: The name of this rule; an index made by another one must be built again.
RULE = "words-1"

_MARKS = r"\u0300-\u036f\u0591-\u05c7\u0610-\u065f\u0900-\u0963\u0966-\u0dff\u0e31-\u0e4e"  # vowel signs and the like
_WORD = re.compile(rf"[\w{_MARKS}]+")
_CASES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z]+")  # HTTPServer -> HTTP, Server
_FIRST_WIDE = "\u3041"
_WIDE_RANGES = r"\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WIDE = re.compile(f"[{_WIDE_RANGES}]")
_RUN = re.compile(f"[{_WIDE_RANGES}]+|[^{_WIDE_RANGES}]+")


def tokenize(text: str) -> list[str]:
    """The words of a text in order, case folded, compatibility forms unified (NFKC); no stemming, no stop words.

    An identifier gives itself and its parts. Runs of Chinese or Japanese give overlapping pairs of characters.

    >>> tokenize("Use bisect_left, or HTTPServer.")
    ['use', 'bisect_left', 'bisect', 'left', 'or', 'httpserver', 'http', 'server']
    """
    return [token for word in _WORD.findall(unicodedata.normalize("NFKC", text)) for token in _expand(word)]


@lru_cache(maxsize=65536)
def _expand(word: str) -> tuple[str, ...]:
    if any(letter >= _FIRST_WIDE for letter in word):
        runs = _RUN.findall(word)
        if len(runs) > 1:
            return tuple(token for run in runs for token in _expand(run))
        if _WIDE.match(word):
            return tuple(word[at : at + 2] for at in range(len(word) - 1)) or (word,)
    whole = word.casefold()
    names = [name for name in word.split("_") if name]
    parts = [part for name in names for part in (_CASES.findall(name) if name.isascii() else [name])]
    return (whole,) if parts == [word] else (whole, *(part.casefold() for part in parts))
