"""Loads of a server in a report: as they were, or not at all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from sage.bench.arrivals import Arrivals
from sage.bench.load_run import load
from sage.bench.prompts import Prompts
from sage.bench.report.build import check_report, make_report
from sage.bench.results import open_experiment
from sage.bench.serve_spec import Serve
from sage.bench.slo import Slo
from sage.errors import InputError
from sage.settings import Settings
from sage.testing import FakeEngine, run_virtual

pytest.importorskip("matplotlib")

SPEC = Serve(
    arrivals=Arrivals(process="closed", clients=4, jobs=80),
    prompts=Prompts(input_len="3", output_len="4"),
    slo=Slo(e2e_s=1.0),
)


def loaded(out: Path, repeats: int) -> Path:
    async def main(cell: Path, repeat: int) -> None:
        clock, engine = asyncio.get_running_loop().time, FakeEngine(ttft_s=0.1, token_s=0.02, limit=1000)
        settings = Settings(home=out.parent / "home")
        await load(SPEC, cell, settings, repeat=repeat, engine=engine, clock=clock, kind="simulated")

    with open_experiment(out, "serve", kind="simulated", config={}) as experiment:
        for repeat in range(repeats):
            with experiment.running(f"repeat-{repeat}", axes={}, repeat=repeat) as cell:
                run_virtual(main(cell, repeat))
    return out


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_load_is_reported_with_every_number_from_its_files(repeats: int, tmp_path: Path) -> None:
    made = make_report([loaded(tmp_path / "load", repeats)], tmp_path / "report")
    assert made.parts == ("serve",)
    assert not check_report(tmp_path / "report").faults
    section = (tmp_path / "report" / "section.tex").read_text()
    assert "requests were answered" in section
    assert "met every objective" in section
    assert ".." not in section.replace("...", "")


def test_a_sweep_is_drawn_over_what_it_was_along(tmp_path: Path) -> None:
    async def main(cell: Path, clients: int) -> None:
        clock, engine = asyncio.get_running_loop().time, FakeEngine(ttft_s=0.1, limit=4)
        arrivals = Arrivals(process="closed", clients=clients, jobs=80)
        spec = msgspec.structs.replace(SPEC, arrivals=arrivals)
        await load(spec, cell, Settings(home=tmp_path / "home"), engine=engine, clock=clock, kind="simulated")

    with open_experiment(tmp_path / "sweep", "serve", kind="simulated", config={}) as experiment:
        for clients in (1, 2, 4, 8, 16):
            with experiment.running(f"c-{clients}", axes={"concurrency": clients}) as cell:
                run_virtual(main(cell, clients))
    made = make_report([tmp_path / "sweep"], tmp_path / "report")
    assert made.figures == ("serve-sweep",)
    assert not check_report(tmp_path / "report").faults
    section = (tmp_path / "report" / "section.tex").read_text()
    assert "The region worth running at is shaded." in section


def test_a_load_whose_log_was_changed_is_not_reported(tmp_path: Path) -> None:
    out = loaded(tmp_path / "load", 1)
    log = out / "repeat-0" / "events.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"completion_tokens":4', b'"completion_tokens":9', 1))
    with pytest.raises(InputError, match="cannot be true, and is not reported"):
        make_report([out], tmp_path / "report")
