"""``--runtime ray`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sage.cli import app
from sage.runtime.ray_cluster import RayCluster

RUNNER = CliRunner()

PIPELINE = """
from sage import Pipeline
from sage.ops import step

def where(x: str) -> str:
    import os
    return f"{x} {os.getpid()}"

p = Pipeline("p", y=step(where, pool="cpu"))
"""

#: As the shared cluster was asked for, so that it is used.
SHARED = ["--runtime", "ray", "--nodes", "2"]


@pytest.fixture
def pipeline(tmp_path: Path) -> str:
    (tmp_path / "p.py").write_text(PIPELINE)
    return f"{tmp_path / 'p.py'}:p"


def said(*line: str) -> tuple[int, str]:
    done = RUNNER.invoke(app, line)
    return done.exit_code, str(done.exception) if done.exception is not None else done.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--runtime", "rai"], "unknown runtime 'rai'"),
        (["--nodes", "2"], "--nodes is of a Ray cluster; say --runtime ray too"),
        (["--runtime", "ray", "--address", "auto", "--nodes", "2"], "'auto' is one that runs already"),
        (["--runtime", "ray", "--address", "here"], "expected 'local', 'auto', HOST:PORT of a head"),
        (["--runtime", "ray", "--address", "ray://127.0.0.1:1"], "can be reached at 'ray://127.0.0.1:1'"),
        (["--runtime", "ray", "--address", "127.0.0.1:1"], "no Ray cluster can be reached at '127.0.0.1:1'"),
    ],
)
def test_what_makes_no_sense_is_refused(pipeline: str, options: list[str], expected: str) -> None:
    pytest.importorskip("ray", reason="the package ray is not installed")
    code, message = said("run", pipeline, "--set", "x=1", *options)
    assert code != 0
    assert expected in message


@pytest.mark.ray
@pytest.mark.slow
def test_a_pipeline_runs_on_the_nodes(
    ray_cluster: RayCluster, pipeline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage.cli.run.cluster_from", lambda *_: ray_cluster)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"x": str(x)}) + "\n" for x in range(20)))
    output = tmp_path / "out.jsonl"
    line = [
        "run",
        pipeline,
        *SHARED,
        "--input",
        str(tmp_path / "in.jsonl"),
        "--output",
        str(output),
        "--ordered",
    ]
    assert RUNNER.invoke(app, line).exit_code == 0
    found = [json.loads(one)["y"].split() for one in output.read_text().splitlines()]
    assert [x for x, _ in found] == [str(x) for x in range(20)]


@pytest.mark.ray
@pytest.mark.slow
def test_doctor_shows_every_node(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage.cli.doctor.cluster_from", lambda *_: ray_cluster)
    done = RUNNER.invoke(app, ["doctor", "--json", *SHARED])
    nodes = [check for check in json.loads(done.stdout)["checks"] if check["name"].startswith("node")]
    assert len(nodes) == 2
    assert all(check["status"] == "ok" for check in nodes)
    assert all("python 3" in check["detail"] and "1 cpu" in check["detail"] for check in nodes)
