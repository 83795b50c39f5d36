"""What the policies meet: the mixes of jobs, and the presets that say which policies, at which loads, how often."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from sage.bench.simulation_spec import Spec, read_spec
from sage.bench.suites.policies_goals import MANAGED, UNMANAGED
from sage.errors import InputError, nearest
from sage.scheduling.policy import parse_policy

__all__ = ["PRESETS", "Preset", "mix", "read_preset"]


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """How much is run."""

    policies: tuple[str, ...]
    shares: tuple[float, ...] = (0.5, 0.7, 0.85, 0.95, 1.2)  # of saturation
    seeds: int = 5
    first_seed: int = 0
    duration_s: float = 300.0  # in which jobs come
    warmup_s: float = 100.0  # of it; jobs that come then are not counted
    saturation_seeds: int = 3
    kind: Literal["simulated", "measured"] = "simulated"  # measured: over HTTP, in real time
    mix: str = ""  # the name of its mix, where the caller has none


#: The preset with fewer calls at once on an engine, where tokens come more slowly than 50 ms instead of 60: on this mix more
#: jobs are in time beyond saturation, at the cost of the longest.
QUICK_TOKENS = "slack,limit=adaptive(target_ms=50)"

#: Slots of the mix's engines: the cap that keeps them just busy.
CAP = 512
#: The same of the mix over HTTP.
HTTP_CAP = 24


def _grid() -> tuple[str, ...]:
    """Every order with every place and every admission, and what else is worth a row."""
    orders, places = ("fifo", "job_fifo", "edf", "slack"), ("least_loaded", "prefix_affinity")
    admits = ("admit=open", f"max_inflight={CAP}", "admit=feasible")
    crossed = (
        f"order={order},place={place},{admit}"
        for order, place, admit in itertools.product(orders, places, admits)
    )
    others = (
        "order=shortest_remaining_job", "order=least_attained", "priority", "share=weighted_fair,order=slack",
        "slack,limit=static", QUICK_TOKENS, "slack,share=none", "slack,place=least_loaded",
    )  # fmt: skip
    return (UNMANAGED, MANAGED, *crossed, *others)


PRESETS: Mapping[str, Preset] = {
    "quick": Preset(
        policies=(UNMANAGED, f"order=slack,max_inflight={CAP}", MANAGED),
        shares=(0.7, 0.95, 1.2),
        seeds=3,
        duration_s=120.0,
        warmup_s=40.0,
        saturation_seeds=1,
    ),
    "presets": Preset(
        policies=(UNMANAGED, "load_aware", "priority", MANAGED, "slack,limit=static", QUICK_TOKENS)
    ),
    "full": Preset(policies=_grid()),
    # No job of the mix has a priority, so that "priority" decides as "load_aware" does: what lies between the rows of
    # the two is what measuring them twice differs by.
    "http": Preset(
        policies=(
            UNMANAGED,
            "load_aware",
            "priority",
            MANAGED,
            f"order=slack,max_inflight={HTTP_CAP}",
            "order=edf,place=least_loaded,admit=feasible",
        ),
        shares=(0.7, 0.95, 1.2),
        seeds=3,
        duration_s=8.0,
        warmup_s=2.4,
        saturation_seeds=2,
        kind="measured",
        mix="http",
    ),
}

#: Mixes that are built in, by name; "" is the one that policies were made by.
MIXES: Mapping[str, str] = {
    "": "policies.yaml",
    "bursty": "policies_bursty.yaml",
    "http": "policies_http.yaml",
}


def mix(file: Path | None = None) -> Spec:
    """A mix that is built in, by its name, or that of a file of the same form; None: the one policies were made by.

    Raises:
        InputError: it cannot be read, or its rates are no shares of jobs.
    """
    name = "" if file is None else str(file)
    spec = read_spec(Path(__file__).with_name(MIXES[name]) if name in MIXES else Path(name))
    for name, traffic in spec.traffic.items():
        if traffic.arrivals.rate is None:
            raise InputError(f"{file}: traffic {name!r} has no rate: its share of the jobs is asked for")
    total = sum(traffic.arrivals.rate or 0.0 for traffic in spec.traffic.values())
    if abs(total - 1) > 1e-6:
        raise InputError(
            f"{file}: the rates of its traffic add up to {total:g}; they are shares of jobs, expected 1"
        )
    return spec


def read_preset(name: str, **chosen: Any) -> Preset:
    """A preset, with what the caller chose in place of what it says; what is empty or None changes nothing.

    Raises:
        InputError: there is no such preset, or a policy is none.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}: {nearest(name, PRESETS)}")
    changes = {key: value for key, value in chosen.items() if value not in (None, (), [])}
    preset = msgspec.structs.replace(PRESETS[name], **changes)
    for policy in preset.policies:
        parse_policy(policy)
    if any(not share > 0 for share in preset.shares):
        raise InputError(f"loads are {preset.shares}, expected shares of saturation above 0")
    if not preset.duration_s > 0:
        raise InputError(f"duration is {preset.duration_s:g} s, expected more than 0")
    return preset
