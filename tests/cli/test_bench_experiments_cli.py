"""``sage bench concurrency`` and its like, and ``sage bench report``, as they are typed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sage.bench.results import read_experiment
from sage.cli.bench import app
from sage.cli.bench_experiments import NAMES
from sage.errors import InputError

RUNNER = CliRunner()
SMALL = ("--jobs", "4", "--workload", "rag", "--concurrency", "1", "--concurrency", "2")


def test_an_experiment_prints_a_table_and_keeps_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = RUNNER.invoke(app, ["concurrency", *SMALL, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "jobs/s" in done.stdout
    assert "simulated" in done.stdout
    stored = read_experiment(out)
    assert stored.manifest.command == (
        "sage bench concurrency --preset quick --workload rag --concurrency 1 --concurrency 2 --jobs 4"
    )
    assert len(stored.cells) == 4


def test_json_is_one_object(tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["concurrency", *SMALL, "--out", str(tmp_path / "out"), "--json"])
    found = json.loads(done.stdout)
    assert (found["kind"], found["status"], len(found["points"])) == ("simulated", "complete", 4)


def test_a_dry_run_shows_the_cells_and_the_time_and_keeps_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = RUNNER.invoke(app, ["concurrency", *SMALL, "--out", str(out), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "4 cells to run, simulated; expected time" in done.stdout
    assert not out.exists()


def test_a_dry_run_knows_what_is_there_already(tmp_path: Path) -> None:
    out = tmp_path / "out"
    RUNNER.invoke(app, ["concurrency", *SMALL, "--out", str(out)])
    done = RUNNER.invoke(app, ["concurrency", *SMALL, "--out", str(out), "--dry-run", "--json"])
    found = json.loads(done.stdout)
    assert [cell["held"] for cell in found["cells"]] == [True] * 4
    assert found["expected"]["most_s"] == 0


@pytest.mark.parametrize("name", list(NAMES))
@pytest.mark.parametrize("arguments", [("--preset", "quik"), ("--workload", "ragg"), ("--engines", "cloud")])
def test_what_cannot_be_is_refused(name: str, arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = RUNNER.invoke(app, [name, *arguments, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, InputError)
    assert not (tmp_path / "out").exists()


def test_a_report_is_made_and_checked(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    RUNNER.invoke(app, ["stagger", "--out", str(tmp_path / "stagger"), "--file", str(_bursts(tmp_path))])
    made = RUNNER.invoke(app, ["report", str(tmp_path / "stagger"), "--out", str(tmp_path / "report")])
    assert made.exit_code == 0, made.output
    assert "1 section, 1 figure" in made.stdout
    found = RUNNER.invoke(app, ["report", "--check", str(tmp_path / "report"), "--json"])
    assert json.loads(found.stdout)["faults"] == []
    (tmp_path / "report" / "abstract.tex").write_text("twice as fast, 2.0 times")
    found = RUNNER.invoke(app, ["report", "--check", str(tmp_path / "report")])
    assert found.exit_code == 1
    assert "'2.0', which comes from no file" in found.stderr


def test_a_report_of_nothing_says_what_to_give_it() -> None:
    done = RUNNER.invoke(app, ["report"])
    assert "which folders hold the results" in str(done.exception)


def _bursts(folder: Path) -> Path:
    file = folder / "mine.yaml"
    file.write_text(
        "experiment: stagger\npresets:\n  quick:\n    pipelines: [2]\n    delays_s: [0, 1]\n"
        "    bursts: {size: 2, period_s: 5, count: 2}\n"
    )
    return file
