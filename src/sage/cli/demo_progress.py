"""Progress of things that are counted: a bar on a terminal, a line every tenth of the way elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from sage.cli.output import say, shown_bytes

__all__ = ["Counted", "counted"]


#: Told how many are done, and how many there are (None: not known yet).
Counted = Callable[[int, int | None], None]


@contextmanager
def counted(what: str, unit: Literal["bytes", "items"]) -> Iterator[Counted]:
    """Progress on stderr of what the body does; nothing appears if it never reports any."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _tenths(what, shown_bytes if unit == "bytes" else lambda count: f"{count:,.0f}")
        return
    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    with Progress(TextColumn(what), BarColumn(), count, TimeRemainingColumn(), console=console) as bar:

        def show(done: int, total: int | None) -> None:
            task = bar.task_ids[0] if bar.task_ids else bar.add_task(what)
            bar.update(task, completed=done, total=total)

        yield show


def _tenths(what: str, shown: Callable[[float], str]) -> Counted:
    said = 0

    def show(done: int, total: int | None) -> None:
        nonlocal said
        if total and done * 10 // total > said:
            said = done * 10 // total
            say(f"{what}: {shown(done)} of {shown(total)}")

    return show
