"""The experiments: what their cells are, that every cell leaves true files, and that a stopped one goes on."""

import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sage.bench.arrivals import Arrivals
from sage.bench.cell_figures import CellFigures, cell_figures
from sage.bench.experiments import Preset, cells_of, expected, lab_of, presets_of, read_preset, run_experiment
from sage.bench.points import points_of
from sage.bench.records import Request
from sage.bench.results import read_experiment
from sage.bench.rig import Load, Setup, run_cell
from sage.bench.suites.experiments import EXPERIMENTS
from sage.bench.workloads import SIZES, filler_corpus, jobs_of
from sage.errors import InputError
from sage.events import TaskEnded

SMALL = Preset(
    workloads=("rag",), systems=("sage", "asyncio"), concurrency=(2,), jobs=12, output="uniform(4,40)"
)


def small(**changes: Any) -> Preset:
    return msgspec.structs.replace(SMALL, **changes)


@pytest.mark.parametrize("name", list(EXPERIMENTS))
@pytest.mark.parametrize("preset", ["quick", "full", "paper"])
def test_every_preset_has_cells_of_distinct_names(name: str, preset: str) -> None:
    cells = cells_of(name, read_preset(name, preset))
    assert len({cell.name for cell in cells}) == len(cells) > 1


def test_the_presets_of_the_paper_have_its_sizes() -> None:
    assert read_preset("concurrency", "paper").jobs == 5000
    assert read_preset("concurrency", "paper").concurrency == (1, 2, 4, 8, 16)
    assert read_preset("pipelines", "paper").pipelines == (1, 2, 4, 8)
    assert read_preset("stagger", "paper").delays_s == (0, 1, 2, 5)
    assert read_preset("nodes", "paper").nodes == (1, 2, 4, 8, 16)


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_an_experiment_in_virtual_time_leaves_sound_cells(name: str, tmp_path: Path) -> None:
    quick = read_preset(name, "quick", jobs=6, concurrency=(2,))
    bursts = None if quick.bursts is None else msgspec.structs.replace(quick.bursts, size=2, count=2)
    changes = {"nodes": quick.nodes[:2], "pipelines": quick.pipelines[-2:], "bursts": bursts}
    stored = run_experiment(name, msgspec.structs.replace(quick, **changes), tmp_path / "out")
    assert (stored.manifest.status, stored.manifest.kind) == ("complete", "simulated")
    for cell in stored.cells:
        run, requests = cell.run(), cell.requests()
        again = cell_figures(list(cell.events()), requests, run.engines, cpu_s=None)
        assert again == cell.summary(CellFigures)
        assert not again.faults
        assert sum(request.warmup for request in requests) > 0


def test_the_same_seed_gives_the_same_logs(tmp_path: Path) -> None:
    logs = [
        [
            cell.manifest.sha256["requests.jsonl"]
            for cell in run_experiment("concurrency", SMALL, tmp_path / name).cells
        ]
        for name in ("one", "other")
    ]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("workload", ["compute", "rag", "mixed"])
def test_by_hand_and_by_sage_the_same_work_is_done(workload: str, tmp_path: Path) -> None:
    stored = run_experiment("concurrency", small(workloads=(workload,)), tmp_path / "out")
    by_sage, by_hand = (cell.requests() for cell in stored.cells)
    assert [r.output_tokens for r in by_sage] == [r.output_tokens for r in by_hand]
    assert [r.prompt_tokens for r in by_sage] == [r.prompt_tokens for r in by_hand]


def test_a_stopped_experiment_runs_only_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen: list[int] = []

    def stop(_what: str, done: int, _total: int) -> None:
        seen.append(done)
        if done >= 16:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_experiment("concurrency", small(jobs=14), out, progress=stop)
    assert read_experiment(out).manifest.status == "partial"
    before = {
        cell.name: (out / cell.name / "run.json").read_bytes() for cell in read_experiment(out).manifest.cells
    }
    stored = run_experiment("concurrency", small(jobs=14), out)
    assert (stored.manifest.status, len(stored.cells)) == ("complete", 2)
    assert all((out / name / "run.json").read_bytes() == content for name, content in before.items())


def test_repeats_are_one_point_with_an_interval(tmp_path: Path) -> None:
    stored = run_experiment("concurrency", small(systems=("sage",), repeats=3), tmp_path / "out")
    (point,) = points_of(stored)
    assert (point.repeats, point.jobs, point.not_done) == (3, 36, 0)
    assert point.figures["jobs_per_s"].half is not None
    assert point.figures["p99_s"].mean is None  # 12 jobs carry no p99


def test_over_http_the_cells_are_measured(tmp_path: Path) -> None:
    stored = run_experiment("concurrency", small(engines="http", runtime="local", jobs=6), tmp_path / "out")
    assert stored.manifest.kind == "measured"
    for cell in stored.cells:
        figures = cell.summary(CellFigures)
        assert figures.jobs == {"done": 6}
        assert figures.cpu_s_per_job


def test_jobs_that_fail_are_counted_and_no_time_is_made_of_them(tmp_path: Path) -> None:
    with lab_of(small(profile="constant")) as lab:
        load = Load(arrivals=Arrivals(process="closed", clients=2, jobs=6))
        short = msgspec.structs.replace(
            lab.profile, capacity=msgspec.structs.replace(lab.profile.capacity, context_tokens=8)
        )
        broken = type(lab)(**{name: getattr(lab, name) for name in lab.__slots__} | {"profile": short})
        figures = run_cell(
            broken, Setup(workload="rag", size=SIZES["light"], loads=(load,), warmup=2), 0, tmp_path
        )
    assert figures.jobs == {"failed": 4}
    assert figures.jobs_per_s is None
    assert (figures.e2e_s.n, figures.e2e_s.mean) == (0, None)


def test_idle_endpoints_count_in_the_balance() -> None:
    request = Request(id=0, outcome="done", scheduled=0.0, handed=0.0, ended=1.0)

    call = TaskEnded(
        t=1.0, job=0, step="a", pool="llm", endpoint="llm-1", outcome="done", ready=0.0, dispatched=0.0
    )
    figures = cell_figures([call], [request], {"llm": ("llm-1", "llm-2")}, cpu_s=None)
    assert figures.pools["llm"].tasks == {"llm-1": 1, "llm-2": 0}
    assert figures.pools["llm"].balance.balance == 0.0
    assert figures.pools["llm"].balance.jain == 0.5


def test_a_late_generator_is_said_to_be_the_bottleneck() -> None:
    late = [
        Request(id=n, outcome="done", scheduled=float(n), handed=n + 0.5, ended=n + 0.6) for n in range(5)
    ]
    assert cell_figures([], late, {}, cpu_s=None).generator_limited


def test_the_expected_time_comes_from_jobs_that_were_run(tmp_path: Path) -> None:
    with lab_of(SMALL) as lab:
        time = expected(lab, cells_of("concurrency", SMALL))
    assert 0 < time.least_s <= time.most_s < 60
    assert time.probed_jobs == 8


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"concurrency": (0,)}, "whole numbers above 0"),
        ({"workloads": ("ragg",)}, "did you mean 'rag'"),
        ({"policies": ("fifu",)}, "did you mean"),
        ({"engines": "embedded", "runtime": "simulated"}, "take real time"),
        ({"complexity": ("hefty",)}, "unknown complexity"),
        ({"jobz": 3}, "unknown field"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        read_preset("concurrency", "quick", **changes)


def test_a_file_of_another_experiment_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("experiment: nodes\npresets: {quick: {jobs: 3}}\n")
    with pytest.raises(InputError, match="is of experiment 'nodes'"):
        presets_of("concurrency", file)


def test_no_two_jobs_of_a_workload_are_alike() -> None:
    jobs = jobs_of("mixed", "mixed", SIZES["light"], filler_corpus(), seed=0, timed=True)
    records = [msgspec.json.encode(next(jobs)[1]) for _ in range(50)]
    assert len(set(records)) == 50
