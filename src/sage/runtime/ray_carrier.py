"""How functions get to the workers of a Ray cluster: by Ray's own way to send things, their code included."""

from __future__ import annotations

import contextlib
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sage.graph.values import Record
from sage.runtime.hops import Hop
from sage.runtime.ray_worker import first_line

__all__ = ["RayCarrier"]

MAX_CODE_BYTES = 1_000_000  # a function that is larger drags data along


class RayCarrier:
    """Brings functions to workers, their code included.

    What a user's own module defines is sent by value, since a worker may not find the module; what is installed
    is found there under its name.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._checked: dict[int, tuple[Any, str | None]] = {}

    def check(self, call: Callable[[Record], Any]) -> str | None:
        """Why a function cannot travel; None if it can."""
        known = self._checked.get(id(call))
        if known is None:
            known = self._checked[id(call)] = call, self._why_not(call)
        return known[1]

    def put(self, hop: Hop) -> Any:
        """A reference to a hop's functions; they are kept as long as it."""
        return self._ray.put(tuple(zip(hop.steps, hop.calls, strict=True)))

    def _why_not(self, call: Callable[[Record], Any]) -> str | None:
        modules = [module for module in _modules_of(call) if _is_own(module)]
        for module in modules:
            self._ray.cloudpickle.register_pickle_by_value(sys.modules[module])
        try:
            size = len(self._ray.cloudpickle.dumps(call))
        except Exception as error:  # noqa: BLE001 - whatever an object's own methods raise
            return first_line(error)
        if size > MAX_CODE_BYTES:
            return (
                f"it takes {size:,} bytes with what it refers to; give it that as a field, or load it inside"
            )
        return None


def _modules_of(call: Any, depth: int = 4) -> set[str]:
    """The modules that a function, and those it closes over, are defined in."""
    found = {getattr(call, "__module__", None) or ""}
    if depth:
        for cell in getattr(call, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # an empty cell
                content = cell.cell_contents
                for inner in content if isinstance(content, list | tuple) else (content,):
                    if callable(inner):
                        found |= _modules_of(inner, depth - 1)
    return found


def _is_own(module: str) -> bool:
    """Whether a module is the user's rather than installed, and so may be missing on a node."""
    loaded = sys.modules.get(module)
    if (
        loaded is None
        or module == "__main__"
        or module.partition(".")[0] in {"sage", *sys.stdlib_module_names}
    ):
        return False
    file = getattr(loaded, "__file__", None)
    if file is None:  # made by hand, as notebooks and tests do
        return True
    path = Path(file).resolve()
    return not any(path.is_relative_to(Path(folder).resolve()) for folder in _INSTALLED)


_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
