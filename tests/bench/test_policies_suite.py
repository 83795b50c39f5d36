"""The policy suite: saturation comes first, loads are shares of it, every row has its intervals, goals are judged."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sage.bench.audit import audit
from sage.bench.report.build import make_report
from sage.bench.results import read_experiment, write_json
from sage.bench.simulation import simulate
from sage.bench.simulation_figures import figures_of
from sage.bench.simulation_spec import Spec
from sage.bench.suites.policies import Report, run_policies
from sage.bench.suites.policies_goals import goals_of
from sage.bench.suites.policies_presets import PRESETS, Preset, mix, read_preset
from sage.bench.suites.policies_saturation import saturation_run
from sage.errors import InputError
from sage.runtime.packed import sha256_of
from sage.scheduling.policy import parse_policy

SMALL = Preset(
    policies=("fifo", "slack"), shares=(0.5, 1.5), seeds=3, duration_s=25.0, warmup_s=5.0, saturation_seeds=1
)


def small_mix() -> Spec:
    """Chats and fan-outs on one engine of four slots."""
    said: dict[str, Any] = {
        "simulate": "small",
        "engines": {"llm": {"profile": "vllm-llama-3.1-8b", "limit": 4, "output": "uniform(20,80)"}},
        "tenants": {"people": {"deadline_s": 4}, "digests": {"deadline_s": 8}},
        "traffic": {
            "chat": {
                "pipeline": {"pipeline": "chat", "steps": {"answer": {"generate": "{q}", "max_tokens": 80}}},
                "arrivals": {"process": "poisson", "rate": 0.8, "duration_s": 1},
                "record": {"q": {"tokens": 100}},
                "tenant": "people",
            },
            "digest": {
                "pipeline": {
                    "pipeline": "digest",
                    "steps": {
                        "parts": {"each": "pages", "body": {"generate": "{item}", "max_tokens": 60}},
                        "all": {"generate": "{parts}", "max_tokens": 60},
                    },
                },
                "arrivals": {"process": "poisson", "rate": 0.2, "duration_s": 1},
                "record": {"pages": {"list": 3, "of": {"tokens": 200}}},
                "tenant": "digests",
            },
        },
    }
    return msgspec.convert(said, Spec)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("policies") / "out"
    return run_policies(SMALL, name="small", spec=small_mix(), out=out), out


@pytest.mark.slow
def test_every_policy_has_a_row_for_every_load_with_intervals(kept: tuple[Report, Path]) -> None:
    report, _ = kept
    assert [(row.figures.policy, row.share) for row in report.rows] == [
        (policy, share) for policy in ("fifo", "slack") for share in (0.5, 1.5)
    ]
    for row in report.rows:
        assert row.figures.in_time.half is not None
        assert row.figures.load == pytest.approx(row.share * report.saturation.jobs_per_s)
        assert row.classes.keys() == {"chat/people", "digest/digests"}
        assert 0.5 <= (row.fairness.mean or 0) <= 1
        assert (row.decision_us.p50 or 0) > 0
    calm, busy = report.rows[0], report.rows[1]
    assert (calm.figures.in_time.mean or 0) > (busy.figures.in_time.mean or 1)


@pytest.mark.slow
def test_policies_meet_the_same_load(kept: tuple[Report, Path]) -> None:
    _, out = kept
    cells = [
        msgspec.json.decode((out / name / "summary.json").read_bytes())["figures"]["schedules"]
        for name in ("fifo_share-1.5_seed-0", "slack_share-1.5_seed-0", "slack_share-1.5_seed-1")
    ]
    assert cells[0] == cells[1] != cells[2]


@pytest.mark.slow
def test_the_folder_is_an_experiment_and_a_second_run_runs_nothing(kept: tuple[Report, Path]) -> None:
    report, out = kept
    stored = read_experiment(out)
    assert (stored.manifest.kind, stored.manifest.status) == ("simulated", "complete")
    assert len(stored.cells) == 1 + 2 * 2 * 3
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/summary.json")}
    assert run_policies(SMALL, name="small", spec=small_mix(), out=out) == report
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/summary.json")}


@pytest.mark.slow
def test_the_audit_simulates_cells_again_for_they_keep_no_logs(
    kept: tuple[Report, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(kept[1], out)
    found = audit(out, repeat=100)
    assert found.is_sound
    assert not found.notes
    assert len(found.repeated) == len(read_experiment(out).cells) == 13


@pytest.mark.slow
def test_a_figure_that_was_changed_is_refused_even_with_its_hash(
    kept: tuple[Report, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(kept[1], out)
    file = out / "slack_share-1.5_seed-1" / "summary.json"
    said = msgspec.json.decode(file.read_bytes())
    said["figures"]["rejected"] += 1
    file.write_bytes(msgspec.json.encode(said))
    (finding,) = audit(out).refused
    assert (finding.cell, finding.check) == ("slack_share-1.5_seed-1", "hashes")

    manifest = read_experiment(out).manifest
    cells = [
        msgspec.structs.replace(cell, sha256={"summary.json": sha256_of(out / cell.name / "summary.json")})
        for cell in manifest.cells
    ]
    write_json(out / "experiment.json", msgspec.structs.replace(manifest, cells=tuple(cells)))
    assert audit(out).is_sound  # nothing is simulated again
    (finding,) = audit(out, repeat=100).refused
    assert (finding.cell, finding.check) == ("slack_share-1.5_seed-1", "repeated")
    assert "figures/rejected" in finding.text


@pytest.mark.slow
def test_saturation_is_what_a_loop_gets_done_that_never_waits_for_work(tmp_path: Path) -> None:
    run = saturation_run(small_mix(), "simulated", 0, tmp_path)
    assert run.clients == 5
    assert not list(tmp_path.iterdir())
    assert sum(run.work_shares.values()) == pytest.approx(1)
    spec = msgspec.structs.replace(
        small_mix(), loads=(2 * run.jobs_per_s,), policies=("load_aware",), max_inflight=1000
    )
    spec = msgspec.structs.replace(
        spec,
        traffic={
            name: msgspec.structs.replace(
                one, arrivals=msgspec.structs.replace(one.arrivals, duration_s=60.0)
            )
            for name, one in spec.traffic.items()
        },
    )
    (cell,) = simulate(spec).cells  # twice as much as that comes, and no more is done
    assert cell.jobs_per_s == pytest.approx(run.jobs_per_s, rel=0.15)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """One policy at one load with one seed, over HTTP."""
    out = tmp_path_factory.mktemp("policies") / "http"
    return run_policies(TINY, name="tiny", spec=over_http(small_mix()), out=out), out


def over_http(spec: Spec) -> Spec:
    """On an engine with steps of 20 ms and short answers: over in two seconds."""
    engine = msgspec.structs.replace(spec.engines["llm"], profile="unhurried", output="uniform(1,4)")
    return msgspec.structs.replace(spec, engines={"llm": engine})


TINY = Preset(
    policies=("slack",),
    shares=(0.7,),
    seeds=1,
    duration_s=2.0,
    warmup_s=0.5,
    saturation_seeds=1,
    kind="measured",
)


@pytest.mark.slow
def test_measured_policies_have_the_rows_of_simulated_ones(measured: tuple[Report, Path]) -> None:
    report, _ = measured
    (row,) = report.rows
    assert report.kind == "measured"
    assert row.figures.load == pytest.approx(0.7 * report.saturation.jobs_per_s)
    assert row.classes.keys() == {"chat/people", "digest/digests"}
    assert (row.figures.p50_s.mean or 0) > 0.02
    assert (row.decision_us.p50 or 0) > 0


@pytest.mark.slow
def test_what_was_measured_keeps_its_logs_and_is_not_measured_again(measured: tuple[Report, Path]) -> None:
    report, out = measured
    stored = read_experiment(out)
    assert stored.manifest.kind == "measured"
    assert [cell.manifest.name for cell in stored.cells] == ["saturation_seed-0", "slack_share-0.7_seed-0"]
    assert all(cell.run().kind == "measured" for cell in stored.cells)
    assert audit(out).refused == ()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*")}
    assert run_policies(TINY, name="tiny", spec=over_http(small_mix()), out=out) == report
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/*")}


@pytest.mark.slow
def test_a_job_that_was_handed_over_late_has_lost_that_time(measured: tuple[Report, Path]) -> None:
    _, out = measured
    cell = read_experiment(out).cells[-1]
    said: dict[str, Any] = {"policy": "slack", "load": 1.0, "seed": 0, "schedules": {}}
    handed = {request.id: request.handed for request in cell.requests()}
    _, prompt = figures_of(cell.events(), due=handed, **said)
    _, late = figures_of(cell.events(), due={job: time - 10 for job, time in handed.items()}, **said)
    assert late.e2e_sched_s.p50 == pytest.approx((prompt.e2e_sched_s.p50 or 0) + 10)
    assert (late.in_time.good, late.in_time.n) == (0, prompt.in_time.n)
    assert late.lag_s is not None
    assert late.lag_s.p50 == pytest.approx(10)


@pytest.mark.slow
def test_the_report_keeps_measured_and_simulated_policies_apart(
    kept: tuple[Report, Path], measured: tuple[Report, Path], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    make_report([kept[1], measured[1]], tmp_path / "report")
    tables = (tmp_path / "report" / "tables.tex").read_text()
    captions = re.findall(r"\\caption\{(Policies by offered load, \w+)", tables)
    assert captions == ["Policies by offered load, measured", "Policies by offered load, simulated"]


def test_jobs_of_the_warmup_are_run_and_not_counted() -> None:
    spec = msgspec.structs.replace(small_mix(), loads=(2.0,), warmup_s=10.0)
    spec = msgspec.structs.replace(
        spec,
        traffic={
            name: msgspec.structs.replace(
                one, arrivals=msgspec.structs.replace(one.arrivals, duration_s=20.0)
            )
            for name, one in spec.traffic.items()
        },
    )
    (with_warmup,) = simulate(spec).cells
    (whole,) = simulate(msgspec.structs.replace(spec, warmup_s=0.0)).cells
    assert 0 < sum(with_warmup.jobs.values()) < sum(whole.jobs.values())
    assert with_warmup.tasks == whole.tasks
    assert with_warmup.in_time.n == sum(with_warmup.jobs.values())


def test_goals_that_were_not_run_are_neither_met_nor_missed() -> None:
    assert {goal.met for goal in goals_of((), "fifo", "slack")} == {None}


@pytest.mark.parametrize("name", PRESETS)
def test_every_policy_of_a_preset_is_one(name: str) -> None:
    policies = PRESETS[name].policies
    assert len({str(parse_policy(policy)) for policy in policies}) == len(policies)


@pytest.mark.parametrize("file", [None, Path("bursty"), Path("http")])
def test_every_mix_says_shares_of_jobs(file: Path | None) -> None:
    assert sum(one.arrivals.rate or 0 for one in mix(file).traffic.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shares": (0.0,)}, "shares of saturation above 0"),
        ({"policies": ("slak",)}, "did you mean 'slack'"),
        ({"duration_s": -1.0}, "expected more than 0"),
    ],
)
def test_what_cannot_be_run_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_preset("quick", **changes)


def test_an_unknown_preset_and_a_warmup_longer_than_all_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'quick'"):
        read_preset("quik")
    with pytest.raises(InputError, match="expected less than all of it"):
        run_policies(read_preset("quick", warmup_s=500.0))
