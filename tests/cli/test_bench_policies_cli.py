"""``sage bench policies`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sage.cli.bench import app
from sage.errors import InputError

RUNNER = CliRunner()

MIX = """\
simulate: tiny
engines:
  llm: {profile: vllm-llama-3.1-8b, limit: 3, output: "uniform(5,20)"}
tenants:
  people: {deadline_s: 2}
traffic:
  chat:
    pipeline: {pipeline: chat, steps: {answer: {generate: "{q}", max_tokens: 20}}}
    arrivals: {process: poisson, rate: RATE, duration_s: 1}
    record: {q: {tokens: 30}}
    tenant: people
"""
CALM = [
    "--preset",
    "quick",
    "--policy",
    "slack",
    "--load",
    "0.5",
    "--seeds",
    "1",
    "--duration",
    "10",
    "--warmup",
    "2",
]


@pytest.fixture
def mix(tmp_path: Path) -> Path:
    path = tmp_path / "mix.yaml"
    path.write_text(MIX.replace("RATE", "1"))
    return path


def test_a_table_says_that_it_is_simulated_and_what_was_wanted(mix: Path) -> None:
    done = RUNNER.invoke(app, ["policies", "--mix", str(mix), *CALM])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("simulated; saturation ")
    for word in ("worst class", "fairness", "decision p99", "jobs in time at 0.95 of saturation"):
        assert word in done.stdout
    assert "slack   0.5" in done.stdout


def test_json_is_what_the_folder_keeps_and_the_command_makes_it_again(mix: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = RUNNER.invoke(app, ["policies", "--mix", str(mix), *CALM, "--json", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((out / "summary.json").read_text())
    manifest = json.loads((out / "experiment.json").read_text())
    assert manifest["command"] == (
        "sage bench policies --preset quick --mix mix.yaml --policy slack --load 0.5 --seeds 1 --duration 10.0 "
        "--warmup 2.0"
    )


def test_a_mix_whose_rates_are_no_shares_is_refused(mix: Path) -> None:
    mix.write_text(MIX.replace("RATE", "3"))
    done = RUNNER.invoke(app, ["policies", "--mix", str(mix), *CALM])
    assert isinstance(done.exception, InputError)
    assert "shares of jobs, expected 1" in str(done.exception)
