"""How near an answer is to the right one: exact match and token F1 as for SQuAD.

Method: Rajpurkar, Zhang, Lopyrev and Liang, "SQuAD: 100,000+ Questions for Machine Comprehension of Text",
EMNLP 2016, section 6. Both texts are lowered, ASCII punctuation and the articles a, an, the are taken out; of
several right answers the best match counts. Where nothing is left of either text, they match only if nothing
is left of both, as in SQuAD 2.0 (Rajpurkar, Jia and Liang, ACL 2018).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

__all__ = ["exact_match", "normalize", "token_f1"]

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """A text as the scores see it.

    >>> normalize("The  Panthers' defence.")
    'panthers defence'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact_match(answer: str, right: Iterable[str]) -> bool:
    """Whether an answer is one of the right ones, up to normalization.

    >>> exact_match("the Eiffel Tower!", ["Eiffel Tower", "Paris"])
    True
    """
    given = normalize(answer)
    return any(given == normalize(each) for each in right)


def token_f1(answer: str, right: Iterable[str]) -> float:
    """The harmonic mean of precision and recall over words, against the nearest right answer; 0 to 1.

    >>> token_f1("in the city of Paris", ["Paris"])
    0.4
    """
    given = normalize(answer).split()
    return max((_f1(given, normalize(each).split()) for each in right), default=0.0)


def _f1(given: list[str], wanted: list[str]) -> float:
    if not given or not wanted:
        return float(given == wanted)
    shared = sum((Counter(given) & Counter(wanted)).values())
    return 2 * shared / (len(given) + len(wanted))
