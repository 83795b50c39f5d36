"""What an inference server says of its own load under ``/metrics``: vLLM, SGLang and llama.cpp, in Prometheus' text.

These figures help and are never needed: a server that has none, or says nonsense, is served as before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import msgspec

__all__ = ["EngineMetrics", "Measured", "parse_metrics"]

MAX_BYTES = 4 << 20


class EngineMetrics(msgspec.Struct, frozen=True, gc=False):
    """A server's load at one moment; None: it does not say."""

    running: float | None = None  # requests in its batch, whoever sent them
    waiting: float | None = None  # requests in its queue
    kv_used: float | None = None  # share of its KV cache in use, 0 to 1


@runtime_checkable
class Measured(Protocol):
    """An engine that learns of its server's load, now and then."""

    def on_metrics(self, tell: Callable[[EngineMetrics], None]) -> None:
        """Have somebody told, on the event loop, each time it does."""


#: Figure -> the names it goes by, of vLLM, SGLang and llama.cpp; and how those of several models are put together.
NAMES: Mapping[str, tuple[str, ...]] = {
    "running": ("vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing"),
    "waiting": ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred"),
    "kv_used": (
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        "sglang:token_usage",
        "llamacpp:kv_cache_usage_ratio",
    ),
}
_FIGURE = {name: figure for figure, names in NAMES.items() for name in names}
_LINE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{[^}]*\})?\s+(?P<value>\S+)")


def parse_metrics(text: str) -> EngineMetrics | None:
    r"""The figures in a server's metrics; None if it has none that is known.

    >>> parse_metrics('vllm:num_requests_running{model_name="m"} 3.0\nvllm:kv_cache_usage_perc 0.25')
    EngineMetrics(running=3.0, waiting=None, kv_used=0.25)
    """
    found: dict[str, float] = {}
    for line in text.splitlines():
        matched = _LINE.match(line)
        figure = _FIGURE.get(matched["name"]) if matched else None
        if matched is None or figure is None:
            continue
        value = _number(matched["value"])
        if value is None or (figure == "kv_used" and value > 1.0 + 1e-9):
            continue
        before = found.get(figure, 0.0)
        found[figure] = max(before, value) if figure == "kv_used" else before + value
    return EngineMetrics(**found) if found else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None
