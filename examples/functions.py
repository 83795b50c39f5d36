"""Functions as steps: what they take and give is checked when the pipeline is built. No model needed.

    python examples/functions.py README.md docs/pipelines.md

Three branches read the same text and run side by side; ``report`` starts when the last of them is done.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sage import Pipeline, PipelineError
from sage.ops import step, template


@dataclass(frozen=True)
class Size:
    words: int
    sentences: int


def load(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def size(text: str) -> Size:
    return Size(len(text.split()), max(1, len(re.findall(r"[.!?](?:\s|$)", text))))


def common(text: str, least_letters: int = 6, how_many: int = 3) -> list[str]:
    words = re.findall(rf"[a-z]{{{least_letters},}}", text.lower())
    return [word for word, _ in Counter(words).most_common(how_many)]


async def digest(text: str) -> str:
    """Async, as a look-up over the network would be."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def pace(size: Size) -> float:
    return round(size.words / size.sentences, 1)


def report(path: str, size: Size, pace: float, common: list[str], digest: str) -> str:
    return f"{path}: {size.words} words, {pace} a sentence, often {', '.join(common)} ({digest})"


readability = Pipeline(
    "readability",
    text=step(load, pool="cpu"),  # reads a file: blocking, so it goes to the worker threads
    size=size,
    common=step(common, least_letters=8),
    digest=step(digest).retry(2).timeout(5),
    pace=pace,
    report=report,
)


def faults() -> str:
    """What happens when the parts do not fit: everything wrong at once, before anything runs."""
    try:
        Pipeline("wrong", size=size, pace=lambda sise: sise, line=template("{size.word}"), text=pace)
    except PipelineError as error:
        return str(error)
    raise AssertionError


def main(arguments: list[str]) -> int:
    print(readability.show())
    result = readability.run({"path": path} for path in arguments)
    for record in result.records:
        print(record["report"])
    for failure in result.failures:
        print(failure, file=sys.stderr)
    print(f"\nand a pipeline that does not fit together:\n{faults()}")
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [__file__]))
