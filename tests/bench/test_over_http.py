"""Simulated and measured: the same schedule in virtual time and over HTTP in real time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sage.bench.over_http import measure_cell
from sage.bench.simulation import simulate
from sage.bench.simulation_spec import FailureSpec, Spec
from sage.errors import InputError


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    profile = tmp_path / "quick.json"
    step = {"a_s": 0.02, "b_s": 1e-5, "c_s": 5e-4}
    capacity = {"max_seqs": 4}
    profile.write_text(
        json.dumps(
            {
                "name": "quick",
                "source": "made up",
                "step": step,
                "capacity": capacity,
                "embed": {"call_s": 0.01},
            }
        )
    )
    said: dict[str, Any] = {
        "simulate": "both",
        "engines": {
            "llm": {"profile": str(profile), "count": 2, "limit": 4, "output": "uniform(3,9)"},
            "embedder": {"profile": str(profile)},
        },
        "traffic": {
            "ask": {
                "pipeline": {
                    "pipeline": "ask",
                    "steps": {"v": {"embed": "{q}"}, "answer": {"generate": "{q} {v}", "max_tokens": 20}},
                },
                "arrivals": {"process": "poisson", "rate": 30, "jobs": 60},
                "record": {"q": {"tokens": 50}},
                "deadline_s": 2,
            }
        },
    }
    return msgspec.convert(said, Spec)


@pytest.mark.slow
def test_the_same_jobs_are_done_over_http_as_in_virtual_time(spec: Spec, tmp_path: Path) -> None:
    folder = tmp_path / "measured"
    folder.mkdir()
    measured = measure_cell(spec, "load_aware", 1.0, 0, folder)
    (simulated,) = simulate(spec).cells
    assert measured.schedules == simulated.schedules
    assert measured.jobs == simulated.jobs == {"done": 60, "failed": 0, "rejected": 0, "cancelled": 0}
    assert measured.tasks == simulated.tasks
    p50s = [cell.e2e_sched_s.p50 or 0.0 for cell in (measured, simulated)]
    assert p50s[1] <= p50s[0] <= p50s[1] + 1.0  # reality is slower, on a busy machine by whatever
    assert json.loads((folder / "run.json").read_text())["kind"] == "measured"


def test_failures_have_no_place_in_real_time(spec: Spec, tmp_path: Path) -> None:
    failing = msgspec.structs.replace(spec, failures=(FailureSpec(pool="llm", at_s=1.0),))
    with pytest.raises(InputError, match="simulated only"):
        measure_cell(failing, "fifo", 1.0, 0, tmp_path)
