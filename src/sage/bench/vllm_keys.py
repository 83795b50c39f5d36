"""The figures of a load under the names that ``vllm bench serve`` writes, for scripts that read those. Pure.

Latencies are vLLM's own, from the moment a request is sent: what it waited before is in ours (``summary.json``), not in
these. What the sample does not carry is null.
"""

from __future__ import annotations

from typing import Any

from sage.bench.metrics import LoadSummary, Metric
from sage.runtime.manifest import Manifest

__all__ = ["vllm_keys"]

_PERCENTILES = {"p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p99.9": "p999"}


def vllm_keys(summary: LoadSummary, manifest: Manifest) -> dict[str, Any]:
    """One flat object: ``request_throughput``, ``mean_ttft_ms``, ``p99_tpot_ms``, ``request_goodput`` and so on."""
    said = manifest.arguments
    arrivals, target = said.get("arrivals") or {}, said.get("target") or {}
    flat: dict[str, Any] = {
        "date": manifest.started,
        "backend": "sage",
        "model_id": target.get("model"),
        "num_prompts": sum(summary.requests.values()),
        "request_rate": arrivals.get("rate") or "inf",
        "burstiness": arrivals.get("burstiness") or 1.0,
        "max_concurrency": arrivals.get("clients") or said.get("max_concurrency"),
        "duration": summary.window_s,
        "completed": summary.requests["done"],
        "failed": sum(summary.requests.values()) - summary.requests["done"],
        "total_input_tokens": summary.prompt_tokens,
        "total_output_tokens": summary.output_tokens,
        "request_throughput": summary.requests_per_s,
        "request_goodput": None if summary.goodput is None else summary.goodput.per_s,
        "output_throughput": summary.output_tokens_per_s,
        "total_token_throughput": summary.total_tokens_per_s,
        "max_concurrent_requests": summary.in_flight.most,
    }
    for name, metric in (
        ("ttft", summary.ttft_s),
        ("tpot", summary.tpot_s),
        ("itl", summary.itl_s),
        ("e2el", summary.e2e_s),
    ):
        flat |= _in_ms(name, metric)
    return flat


def _in_ms(name: str, metric: Metric) -> dict[str, float | None]:
    figures = {"mean": metric.mean, "median": metric.p50, "std": metric.std}
    figures |= {shown: getattr(metric, field) for shown, field in _PERCENTILES.items()}
    return {f"{stat}_{name}_ms": None if value is None else 1000 * value for stat, value in figures.items()}
