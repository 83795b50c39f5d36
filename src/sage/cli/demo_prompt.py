"""What the demo sends: the question and the best passage's first sentence, after four worked examples.

A model of 135 million parameters cannot choose among passages, but it can say one in other words. Shown four
times how, it nearly always names the function it was given; so it is right about as often as the search is. The
demo counts and prints how often that was.
"""

from __future__ import annotations

import re

from sage.engines.base import Message
from sage.graph.values import Passage

__all__ = ["OF_TEXTS", "conversation"]

#: For passages of any kind: one worked example, and the best passage. Of several the small model takes the last.
OF_TEXTS = (
    "Text: Mount Kenya is 5,199 metres high. It was first climbed in 1899.\n"
    "Question: When did people first climb Mount Kenya?\n"
    "Answer: It was first climbed in 1899.\n\n"
    "Text: {passages[0].text}\n"
    "Question: {question}\n"
    "Answer:"
)

SYSTEM = "Answer with the function that the documentation names, in one sentence."
MAX_CHARS = 160  # of the sentence that is sent

#: Question, function, first sentence of its documentation, answer. None is about what the demo asks.
EXAMPLES = (
    (
        "How do I calculate a square root?",
        "math.sqrt",
        "Return the square root of x.",
        "it returns the square root of x.",
    ),
    (
        "How do I make a string lower case?",
        "str.lower",
        "Return a copy of the string converted to lowercase.",
        "it returns a copy of the string converted to lowercase.",
    ),
    (
        "How do I rename a file?",
        "os.rename",
        "Rename a file or directory.",
        "it renames a file or directory.",
    ),
    (
        "How do I wait until a thread has finished?",
        "threading.Thread.join",
        "Wait until the thread terminates.",
        "it waits until the thread terminates.",
    ),
)


def conversation(question: str, passages: list[Passage]) -> list[Message]:
    """The turns to answer: the examples, then the question with the passage that fits best."""
    turns = [Message("system", SYSTEM)]
    for asked, name, sentence, answer in EXAMPLES:
        turns += [
            Message("user", _turn(asked, name, sentence)),
            Message("assistant", f"Use `{name}`: {answer}"),
        ]
    best = passages[0]
    return [*turns, Message("user", _turn(question, best.id, first_sentence(best.text)))]


def first_sentence(text: str) -> str:
    """The first sentence of a text's first paragraph, in one line."""
    line = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    match = re.match(r".+?[.](?= [A-Z]|$)", line)
    return (match[0] if match else line)[:MAX_CHARS]


def _turn(question: str, name: str, sentence: str) -> str:
    return f"{question}\n\n{name}: {sentence}"
