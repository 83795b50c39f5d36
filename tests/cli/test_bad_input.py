"""What cannot be is refused as typed: one line that names it, exit code 2, and nothing has run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage.cli import app, exit_code

SPEC: dict[str, Any] = {
    "simulate": "small",
    "engines": {"llm": {"profile": "constant"}},
    "tenants": {"people": {"weight": 1}},
    "traffic": {
        "chat": {
            "pipeline": {"pipeline": "chat", "steps": {"answer": {"generate": "{q}", "max_tokens": 4}}},
            "arrivals": {"process": "constant", "rate": 1, "jobs": 2},
            "record": {"q": "why"},
            "tenant": "people",
        }
    },
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    (tmp_path / "chat.yaml").write_text(
        "pipeline: chat\nsteps:\n  answer: {generate: '{q}', max_tokens: 4}\n"
    )
    (tmp_path / "q.jsonl").write_text('{"q": "a"}\n{"q": "b"}\n{"q": "c"}\n')
    return tmp_path


def typed(*args: str) -> int:
    return exit_code(lambda: app(args=list(args), prog_name="sage"))


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that a refusal prints."""
    assert typed(*args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--policy", "ordr=edf"], "unknown axis 'ordr': did you mean 'order'?"),
        (["--policy", "order=edff"], "unknown order 'edff': did you mean 'edf'?"),
        (["--policy", "slak"], "unknown policy 'slak': did you mean 'slack'?"),
        (["--policy", "order=priority(ageing_s=1)"], "no argument 'ageing_s': did you mean 'aging_s'?"),
        (["--policy", "order=edf,order=fifo"], "says 'order' twice; keep one"),
        (["--policy", "admit=max_inflight(jobs=2),max_inflight=3"], "says 'max_inflight' twice; keep one"),
        (["--policy", "share=none", "--share", "weighted_fair"], "says 'share' twice; keep one"),
        (["--policy", "max_inflight=0"], "max_inflight is 0, expected at least 1"),
        (["--policy", "max_inflight=-3"], "max_inflight is -3"),
        (["--policy", "admit=token_bucket(rate=0)"], "rate is 0.0, expected more than 0"),
        (["--policy", "admit=token_bucket(rate=-1)"], "rate is -1.0"),
        (["--policy", "limit=adaptive(target_ms=-5)"], "target_ms is -5.0"),
        (["--policy", "batch=window(max_items=0)"], "max_items"),
        (["--policy", "retry_budget=2"], "retry_budget is 2.0, expected 0 to 1"),
        (["--policy", "order=priority(aging_s=nan)"], "expected a number"),
        (["--deadline-s", "0"], "deadline_s is 0.0, expected seconds above 0"),
        (["--deadline-s", "-2"], "deadline_s is -2.0, expected seconds above 0"),
        (["--priority", "hgih"], "priority 'hgih' is neither a whole number nor known"),
        (["--timeout-s", "-1"], "--timeout-s is -1, expected seconds above 0"),
        (["--budget-tokens", "0"], "budget_tokens is 0, expected a whole number above 0"),
        (["--stagger-s", "1"], "--stagger-s is between the starts of several pipelines"),
        (["--tenants", "t.yaml"], "tenant 'acme' has no weight; say weight = 1"),
    ],
)
def test_a_run_that_cannot_be(
    options: list[str], said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "t.yaml").write_text("tenants: {acme: {reserved: 2}}\n")
    run = [
        "run",
        "chat.yaml",
        "--input",
        "q.jsonl",
        "--output",
        "o.jsonl",
        "--engine",
        "llm=emulated:constant",
    ]
    assert said in refused(capsys, *run, *options)
    assert not (home / "home" / "runs").exists() or not any((home / "home" / "runs").iterdir())


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[tenants.acme]\n", "tenant 'acme' has no weight"),
        ("[tenants.acme]\nweight = -1\n", "weight is -1, expected a number above 0"),
        ("policy = 'order=fifu'\n", "did you mean 'fifo'?"),
        ("max_inflight = 0\n", "'max_inflight' is 0, expected a whole number above 0"),
    ],
)
def test_settings_that_cannot_be(
    toml: str, said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "sage.toml").write_text(toml)
    assert said in refused(capsys, "run", "chat.yaml", "--set", "q=a", "--output", "o.jsonl")


def changed(path: str, value: Any) -> dict[str, Any]:
    """The spec with another value at a path."""
    spec: dict[str, Any] = json.loads(json.dumps(SPEC))
    *outer, last = path.split("/")
    at = spec
    for name in outer:
        at = at[name]
    at[last] = value
    return spec


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("tenants/people", {"weight": 0}, "weight is 0"),
        ("tenants/people", {"weight": -1}, "weight is -1"),
        ("tenants/people", {"tokens_per_s": 0}, "tokens_per_s is 0"),
        ("tenants/people", {"deadline_s": -4}, "deadline_s is -4"),
        ("policies", ["order=fifu"], "did you mean 'fifo'?"),
        ("loads", [0], "loads are (0.0,), expected numbers above 0"),
        ("max_inflight", 0, "max_inflight is 0"),
        ("engines/llm/count", 0, "has count 0, expected at least 1 endpoint"),
        ("engines/llm/limit", 0, "limit is 0, expected at least 1 call at once"),
        ("engines/llm/profile", "old.json", "profile of another schema, 99; this SAGE reads 1"),
        ("traffic/chat/tenant", "peple", "unknown tenant 'peple': did you mean 'people'?"),
        ("traffic/chat/deadline_s", 0, "deadline_s is 0"),
        ("traffic/chat/arrivals/rate", -1, "rate is -1"),
        ("traffic/chat/arrivals", {"process": "trace", "trace": "broken.csv"}, "broken.csv:3: broken row"),
        ("traffic/chat/arrivals", {"process": "trace", "trace": "back.csv"}, "back.csv:3: time goes back"),
        ("traffic/chat/arrivals", {"process": "poison", "rate": 1, "jobs": 1}, "did you mean 'poisson'?"),
    ],
)
def test_a_simulation_that_cannot_be(
    path: str, value: Any, said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "old.json").write_text('{"schema_version": 99, "name": "old"}')
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
    (home / "broken.csv").write_text(head + "2023-11-16 18:15:50.9951690,many,109\n")
    (home / "back.csv").write_text(head + "2023-11-16 18:15:40.0000000,396,109\n")
    (home / "spec.json").write_text(json.dumps(changed(path, value)))
    assert said in refused(capsys, "simulate", "spec.json")
    assert said in refused(capsys, "advise", "spec.json", "--slo", "e2e:3")


def test_rejected_records_are_kept_with_why_and_when_to_come_again(home: Path) -> None:
    code = typed(
        "run", "chat.yaml", "--input", "q.jsonl", "--output", "o.jsonl", "--errors", "e.jsonl",
        "--engine", "llm=emulated:constant", "--budget-tokens", "2", "--max-inflight", "1",
    )  # fmt: skip
    assert code == 1
    rows = [json.loads(line) for line in (home / "e.jsonl").read_text().splitlines()]
    assert [row["outcome"] for row in rows] == ["rejected", "rejected"]
    assert all(row["retry_after_s"] is None and "budget of 2 tokens" in row["error"] for row in rows)
