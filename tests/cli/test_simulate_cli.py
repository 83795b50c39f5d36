"""``sage simulate`` and ``sage bench calibrate`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sage.bench.simulation_spec import read_spec
from sage.cli.bench import app as bench
from sage.cli.simulate import app
from sage.engines.emulated_profile import load_profile
from sage.errors import InputError, SetupError

RUNNER = CliRunner()

SPEC = """\
simulate: tiny
engines:
  llm: {profile: constant, output: "uniform(5,20)"}
tenants:
  acme: {deadline_s: 3}
traffic:
  ask:
    pipeline: ask.yaml
    arrivals: {process: poisson, rate: 5, jobs: 30}
    record: {question: {tokens: 20}}
    tenant: acme
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "ask.yaml").write_text('pipeline: ask\nsteps: {answer: {generate: "{question}"}}\n')
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def test_a_table_says_that_it_is_simulated(spec: Path) -> None:
    done = RUNNER.invoke(app, [str(spec), "--policy", "fifo", "--policy", "load_aware", "--seeds", "3"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tiny: simulated, 3 seeds")
    for column in ("in time", "by work", "worst class", "p99", "jobs/s", "rejected"):
        assert column in lines[1]
    assert [line.split()[:3] for line in lines[2:4]] == [["fifo", "1", "90"], ["load_aware", "1", "90"]]


def test_json_is_one_object_and_is_what_the_folder_keeps(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = RUNNER.invoke(app, [str(spec), "--json", "--load", "0.5", "--load", "1.5", "--out", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["kind"] == "simulated"
    assert [row["load"] for row in found["rows"]] == [0.5, 1.5]
    assert found == json.loads((out / "summary.json").read_text())
    assert {path.name for path in out.iterdir()} == {
        "experiment.json",
        "summary.json",
        *(cell["folder"] for cell in found["cells"]),
    }


def test_functions_that_a_pipeline_names_are_imported_and_run(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "fns.py").write_text(
        "from sage.ops import register\n\n@register\ndef sim_len(answer: str) -> int:\n    return len(answer)\n"
    )
    (tmp_path / "ask.yaml").write_text(
        'pipeline: ask\nsteps: {answer: {generate: "{question}"}, size: {fn: sim_len}}\n'
    )
    done = RUNNER.invoke(app, [str(spec), "--json", "--import", str(tmp_path / "fns.py")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["cells"][0]["jobs"]["done"] == 30


def test_results_are_never_written_over_others(spec: Path, tmp_path: Path) -> None:
    done = RUNNER.invoke(app, [str(spec), "--out", str(tmp_path)])
    assert isinstance(done.exception, InputError)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "fifoo"], "did you mean 'fifo'"),
        (["--load", "0"], "load is 0.0, expected a number above 0"),
        (["--load", "-1"], "expected a number above 0"),
    ],
)
def test_choices_that_cannot_be_are_refused(spec: Path, arguments: list[str], said: str) -> None:
    done = RUNNER.invoke(app, [str(spec), *arguments])
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)


def test_files_are_found_beside_the_spec(spec: Path) -> None:
    assert read_spec(spec).traffic["ask"].pipeline == str(spec.parent / "ask.yaml")


# ---- calibrate


def trace(folder: Path, n: int = 60) -> Path:
    rows = [
        {"at": i * 1.0, "first": i + 0.07 + 0.001 * i, "last": i + 0.07 + 0.001 * i + 0.02 * (i % 7 + 9), "prompt_tokens": 50 + i, "output_tokens": i % 7 + 10}
        for i in range(n)
    ]  # fmt: skip
    path = folder / "measured.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_calibration_prints_its_error_and_keeps_a_profile_that_can_be_used(tmp_path: Path) -> None:
    out = tmp_path / "mine.json"
    done = RUNNER.invoke(
        bench, ["calibrate", "--trace", str(trace(tmp_path)), "--out", str(out), "--name", "m"]
    )
    assert done.exit_code == 0, done.output
    assert "held-out requests, one by one" in done.stdout
    step = load_profile(str(out)).step
    assert step is not None
    assert step.a_s + step.c_s == pytest.approx(0.02, rel=0.05)


def test_a_calibration_is_json_too(tmp_path: Path) -> None:
    done = RUNNER.invoke(bench, ["calibrate", "--trace", str(trace(tmp_path)), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["fitted"], found["held_out"]) == (30, 30)
    assert found["e2e_mape"] < 0.05


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say one of --log"),
        (["--log", "last", "--engine", "embedded"], "say one of --log"),
        (["--engine", "embedded", "--rate", "0"], "--rate is 0.0"),
        (["--trace", "x.jsonl", "--out", "p.toml"], "expected a new .json file"),
    ],
)
def test_calibrations_that_cannot_be_are_refused(arguments: list[str], said: str) -> None:
    done = RUNNER.invoke(bench, ["calibrate", *arguments])
    assert isinstance(done.exception, InputError | SetupError)
    assert said in str(done.exception)
