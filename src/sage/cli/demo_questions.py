"""The dozen questions of the demo, and how to tell whether an answer names a function that is right."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

__all__ = ["QUESTIONS", "Question", "names_one_of"]


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody wants to do, in words that do not give the function away, and what does it."""

    text: str
    accepted: frozenset[str]  # qualified names, aliases among them


def _question(text: str, *accepted: str) -> Question:
    return Question(text, frozenset(accepted))


QUESTIONS = (
    _question(
        "How do I find where to insert an item into a sorted list so that it stays sorted?",
        *("bisect.bisect", "bisect.bisect_left", "bisect.bisect_right"),
        *("bisect.insort", "bisect.insort_left", "bisect.insort_right"),
    ),
    _question("How do I get the three biggest numbers of a long list?", "heapq.nlargest"),
    _question(
        "How do I find the most frequent words in a list?",
        *(
            "collections.Counter",
            "collections.Counter.most_common",
            "statistics.mode",
            "statistics.multimode",
        ),
    ),
    _question(
        "How do I remember the results of a slow function so that it is not computed twice?",
        *("functools.cache", "functools.lru_cache"),
    ),
    _question(
        "How do I turn a dictionary into JSON text?",
        *("json.dumps", "json.JSONEncoder", "json.JSONEncoder.encode"),
    ),
    _question("How do I delete a folder together with everything in it?", "shutil.rmtree"),
    _question(
        "How do I list all files whose names match a pattern such as *.txt?",
        *("glob.glob", "glob.iglob", "pathlib.Path.glob", "pathlib.Path.rglob", "fnmatch.filter"),
    ),
    _question(
        "How do I start another program and capture what it prints?",
        *("subprocess.run", "subprocess.check_output", "subprocess.getoutput", "subprocess.getstatusoutput"),
        *("subprocess.Popen", "subprocess.Popen.communicate"),
    ),
    _question("How do I pair every item of one list with every item of another?", "itertools.product"),
    _question(
        "How do I break a long paragraph into lines of at most 70 characters?",
        *("textwrap.wrap", "textwrap.fill", "textwrap.TextWrapper"),
        *("textwrap.TextWrapper.wrap", "textwrap.TextWrapper.fill"),
    ),
    _question(
        "How do I get the middle value of a list of numbers?",
        *("statistics.median", "statistics.median_low", "statistics.median_high"),
        "statistics.median_grouped",
    ),
    _question(
        "How do I split a URL into its host, path and query?",
        *("urllib.parse.urlparse", "urllib.parse.urlsplit"),
    ),
)

_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
#: A name where it is written as code: in backticks, with a dot, as a call, or with an underscore inside.
_CODE = re.compile(rf"`({_NAME})[^`]*`|({_NAME}\.[A-Za-z_]\w*)|({_NAME})\(|\b([a-z]+_\w+)\b")


def names_one_of(answer: str, accepted: Collection[str]) -> bool:
    """Whether the first function that an answer names is an accepted one. Names of modules do not count.

    >>> names_one_of("Use `nlargest(3, numbers)`.", {"heapq.nlargest"})
    True
    >>> names_one_of("Sort them with sorted() or use heapq.nlargest.", {"heapq.nlargest"})
    False
    """
    first = next(_named(answer), None)
    return first is not None and any(f".{name}".endswith(f".{first}") for name in accepted)


def _named(answer: str) -> Iterator[str]:
    for match in _CODE.finditer(answer):
        name = next(group for group in match.groups() if group)
        if not re.match(r"[`()]*\s+(?:module|package|library)\b", answer[match.end() :]):
            yield name
