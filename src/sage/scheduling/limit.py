"""How many calls at once an endpoint gets."""

from __future__ import annotations

from collections.abc import Callable

from sage.registry import Registry

__all__ = ["LIMITS", "Static"]


class Static:
    """As many as the endpoint says of itself, always."""

    def of(self, said: int) -> int:
        """The limit of an endpoint that joined saying ``said``."""
        return said


LIMITS: Registry[Callable[..., Static]] = Registry("limit")
LIMITS["static"] = Static
