"""Telling that an engine has ended, once, to whoever wants to know."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Ending"]


class Ending:
    """That an engine ended by itself; see ``sage.engines.base.MayEnd``.

    >>> ending, told = Ending(), []
    >>> ending.tell(lambda: told.append("early"))
    >>> ending.over()
    >>> ending.over()
    >>> ending.tell(lambda: told.append("late"))
    >>> told
    ['early', 'late']
    """

    def __init__(self) -> None:
        self.is_over = False
        self._tells: list[Callable[[], None]] = []

    def tell(self, tell: Callable[[], None]) -> None:
        """Have somebody told once it is over; at once if it is."""
        if self.is_over:
            tell()
        else:
            self._tells.append(tell)

    def over(self) -> None:
        """It is over."""
        self.is_over = True
        tells, self._tells = self._tells, []
        for tell in tells:
            tell()
