"""What a verb prints: results on stdout, progress and everything else on stderr."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from sage.clock import monotonic

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Bar", "print_json", "say", "shown_bytes", "shown_seconds", "table", "typed_command"]

QUIET_S = 2.0  # what is done sooner shows no bar
LINE_EVERY_S = 10.0  # between plain lines, when stderr is no terminal


def print_json(content: Any) -> None:
    """One JSON object on stdout."""
    print(msgspec.json.format(msgspec.json.encode(content), indent=2).decode())


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of text, as wide as they need."""
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def shown_bytes(count: float) -> str:
    """A size in the unit that fits.

    >>> shown_bytes(512), shown_bytes(12_300_000)
    ('512 B', '12.3 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def shown_seconds(seconds: float | None) -> str:
    """A time in the unit that fits.

    >>> shown_seconds(0.0000042), shown_seconds(0.0123), shown_seconds(75.0), shown_seconds(None)
    ('4 µs', '12.3 ms', '1 min 15 s', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 0.0001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


class Bar:
    """Progress on stderr, once it takes longer than two seconds: a bar on a terminal, else a line now and then.

    Args:
        what: what is counted, such as "records".
        total: how many there will be; None if nobody knows.
        text: what is said instead of the number done.
    """

    def __init__(self, what: str, total: int | None, text: Callable[[], str] | None = None) -> None:
        self._said_text = text
        self._what = what
        self._total = total
        self._done = 0
        self._bad = 0
        self._began = monotonic()
        self._said = self._began + QUIET_S - LINE_EVERY_S
        self._rich: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self.tick()
            self._rich.stop()

    def advance(self, *, bad: bool = False) -> None:
        """One more is done."""
        self._done += 1
        self._bad += bad

    def tick(self) -> None:
        """Show how far it is; call it about twice a second."""
        now = monotonic()
        if now - self._began < QUIET_S:
            return
        if sys.stderr.isatty():
            self._draw()
        elif now - self._said >= LINE_EVERY_S:
            self._said = now
            say(f"{self._text()}, {shown_seconds(now - self._began)}")

    def _draw(self) -> None:
        if self._rich is None:
            self._rich = _rich_bar()
            self._rich.add_task("", total=self._total, start=True)
            self._rich.start()
        self._rich.update(self._rich.task_ids[0], completed=self._done, description=self._text())

    def _text(self) -> str:
        if self._said_text is not None:
            return self._said_text()
        of = "" if self._total is None else f" of {self._total}"
        bad = f", {self._bad} failed" if self._bad else ""
        return f"{self._done}{of} {self._what}{bad}"


def _rich_bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=True)


def typed_command() -> str:
    """The command that was typed, with folders by their names: where they are is this machine's business."""
    words = (Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])
    return shlex.join(["sage", *words])
