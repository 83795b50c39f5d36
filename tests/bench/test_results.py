"""The folder of an experiment: written whole, gone on with, read back, and never taken for what it is not."""

import json
from pathlib import Path

import pytest

from sage.bench.records import Request, requests_of
from sage.bench.results import (
    ExperimentFolder,
    compact,
    open_experiment,
    read_experiment,
    write_json,
    write_lines,
)
from sage.errors import InputError
from sage.events import JobEnded, TaskEnded

REQUEST = Request(id=0, outcome="done", scheduled=0.0, handed=0.1, ended=2.0)
CONFIG = {"concurrency": (1, 2), "workload": "rag"}


def fill(folder: ExperimentFolder, name: str, concurrency: int = 1) -> None:
    with folder.running(name, axes={"concurrency": concurrency}, seed=7) as cell:
        write_lines(cell / "requests.jsonl", [REQUEST])
        write_json(cell / "summary.json", {"jobs_per_s": 1.0})


def test_an_experiment_reads_back_as_it_was_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_experiment(out, "concurrency", kind="measured", config=CONFIG, seed=3, planned=1) as folder:
        fill(folder, "c-1")
    stored = read_experiment(out)
    assert (stored.manifest.status, stored.manifest.seed) == ("complete", 3)
    (cell,) = stored.cells
    assert cell.manifest.axes == {"concurrency": 1}
    assert cell.requests() == [REQUEST]
    assert cell.fault() is None


def test_it_says_what_it_ran_on(tmp_path: Path) -> None:
    with open_experiment(tmp_path / "out", "concurrency", kind="simulated", config={}) as folder:
        said = folder.manifest
    assert said.machine is not None
    assert said.packages["msgspec"]
    assert said.load_average is not None
    assert "/" not in said.commit


def test_what_was_interrupted_is_partial_and_keeps_whole_cells_only(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def interrupted() -> None:
        with open_experiment(out, "concurrency", kind="measured", config=CONFIG) as folder:
            fill(folder, "c-1")
            with folder.running("c-2", axes={"concurrency": 2}) as cell:
                write_json(cell / "summary.json", {})
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    stored = read_experiment(out)
    assert stored.manifest.status == "partial"
    assert [cell.manifest.name for cell in stored.cells] == ["c-1"]
    assert sorted(item.name for item in out.iterdir()) == ["c-1", "experiment.json"]


def test_fewer_cells_than_planned_are_partial(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_experiment(out, "concurrency", kind="measured", config=CONFIG, planned=2) as folder:
        fill(folder, "c-1")
    assert read_experiment(out).manifest.status == "partial"


def test_started_again_it_runs_only_what_is_missing_or_changed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_experiment(out, "concurrency", kind="measured", config=CONFIG) as folder:
        fill(folder, "c-1")
        fill(folder, "c-2", 2)
    (out / "c-2" / "summary.json").write_text("{}")
    with open_experiment(out, "concurrency", kind="measured", config=CONFIG) as folder:
        assert folder.has("c-1")
        assert not folder.has("c-2")
        fill(folder, "c-2", 2)
    assert [cell.fault() for cell in read_experiment(out).cells] == [None, None]


def test_another_configuration_is_not_mixed_in(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_experiment(out, "concurrency", kind="measured", config=CONFIG, command="sage bench …"):
        pass
    with (
        pytest.raises(InputError, match="differs in its config"),
        open_experiment(out, "concurrency", kind="measured", config={"workload": "mixed"}),
    ):
        pass


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with (
        pytest.raises(InputError, match="no empty folder"),
        open_experiment(tmp_path, "concurrency", kind="measured", config={}),
    ):
        pass


def test_compacting_changes_no_hash(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_experiment(out, "concurrency", kind="measured", config=CONFIG) as folder:
        fill(folder, "c-1")
    compact(out)
    (cell,) = read_experiment(out).cells
    assert (cell.path / "requests.jsonl.gz").exists()
    assert cell.fault() is None
    assert cell.requests() == [REQUEST]


def test_a_changed_log_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_experiment(out, "concurrency", kind="measured", config=CONFIG) as folder:
        fill(folder, "c-1")
    write_lines(out / "c-1" / "requests.jsonl", [REQUEST, REQUEST])
    (cell,) = read_experiment(out).cells
    assert "was changed after it was written" in (cell.fault() or "")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "is .* the --out of a suite"),
        ("{", "is no manifest"),
        (
            json.dumps({"experiment": "x", "kind": "measured", "schema_version": 99}),
            "written by a later SAGE",
        ),
        (
            json.dumps({"experiment": "x", "kind": "measured", "cells": [{"name": "../y"}]}),
            "no name of a folder",
        ),
        (
            json.dumps(
                {"experiment": "x", "kind": "measured", "cells": [{"name": "y", "sha256": {"../z": ""}}]}
            ),
            "no file of a cell",
        ),
    ],
)
def test_what_is_no_experiment_is_refused_with_the_reason(
    tmp_path: Path, content: str | None, why: str
) -> None:
    if content is not None:
        (tmp_path / "experiment.json").write_text(content)
    with pytest.raises(InputError, match=why):
        read_experiment(tmp_path)


def test_a_job_of_two_calls_has_the_first_token_of_its_output_step() -> None:
    def call(step: str, dispatched: float, first: float | None, t: float, tokens: int) -> TaskEnded:
        pieces = () if first is None else (first, t)
        return TaskEnded(
            t=t, job=0, step=step, pool="llm", endpoint="e", outcome="done", ready=dispatched,
            dispatched=dispatched, first=first, pieces=pieces, completion_tokens=tokens,
        )  # fmt: skip

    events = [call("vector", 1.0, None, 1.5, 0), call("answer", 2.0, 2.5, 4.0, 9)]
    end = JobEnded(t=4.1, job=0, pipeline="rag", outcome="done", arrived=0.5)
    (request,) = requests_of([*events, end], scheduled={0: 0.25})
    assert (request.scheduled, request.handed, request.dispatched) == (0.25, 0.5, 1.0)
    assert (request.first, request.last, request.ended) == (2.5, 4.0, 4.1)
    assert request.output_tokens == 9
