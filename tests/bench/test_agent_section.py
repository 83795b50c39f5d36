"""The agent section of a report: made from the files of experiments alone, and checked against them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import sage.testing  # noqa: F401 - registers the fake engine's addresses
from sage.bench.agent_data.sets import read_agent_set
from sage.bench.agent_items import KINDS, AgentItem
from sage.bench.audit import audit
from sage.bench.report.build import check_report, make_report
from sage.bench.results import read_experiment
from sage.bench.suites.agent import Order, measure
from sage.settings import Settings

pytest.importorskip("matplotlib")

STRATEGIES: dict[Any, tuple[str, ...]] = {
    "selection": ("hybrid", "llm"),
    "planning": ("direct",),
    "timing": ("rule",),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small experiment of each kind."""
    base = tmp_path_factory.mktemp("agents")
    tasks, settings = base / "tasks", Settings(home=base / "home")
    tasks.mkdir()
    words = ("weather", "hotel", "music")
    files: dict[str, list[Any]] = {
        "tools": [{"name": f"get_{word}", "description": f"Tell about {word}."} for word in words],
        "selection": [
            *({"id": word, "query": f"some {word}", "gold": [f"get_{word}"]} for word in words),
            *({"id": f"few {word}", "query": word, "gold": [f"get_{word}"], "among": ["get_music", f"get_{word}"], "group": "few"} for word in words),
            *({"id": f"no {word}", "query": word, "gold": [], "among": ["get_music"], "group": "none"} for word in words[:2]),
        ],
        "planning": [{"id": word, "query": f"some {word}", "gold": [f"get_{word}"]} for word in words],
        "timing": [
            {"id": f"{number}", "query": f"music {number}" if number % 3 else f"why {number}", "label": "call" if number % 3 else "answer"}
            for number in range(12)
        ],
    }  # fmt: skip
    for name, lines in files.items():
        (tasks / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for kind in KINDS:
        order = Order(
            kind=kind,
            strategies=STRATEGIES[kind],
            engines={"embedder": "fake:words?dimension=64", "llm": "fake:echo"},
            settings=settings,
        )
        measure(read_agent_set(tasks), order, base / "results" / kind, lambda *_: None)
    return base / "results"


def test_every_cell_passes_the_audit(results: Path) -> None:
    for kind in KINDS:
        assert audit(results / kind).refused == ()


def test_a_figure_that_its_items_do_not_give_is_refused(results: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(results / "timing", copy)
    path = copy / "all-rule" / "summary.json"
    path.write_text(path.read_text().replace('"unparsable": {\n  "good": 0', '"unparsable": {\n  "good": 1'))
    assert {finding.check for finding in audit(copy).refused} >= {"hashes", "figures"}


@pytest.mark.slow
def test_the_report_tells_each_kind_with_pictures_and_checks(results: Path, tmp_path: Path) -> None:
    make_report([results], tmp_path / "report")
    check_report(tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "How agents behave" in page
    drawn = {path.stem for path in (tmp_path / "report" / "figures").glob("*.svg")}
    assert "agents-timing-all-confusion-rule" in drawn
    assert "agents-timing-all-classes" in drawn
    assert "agents-selection-all-tokens" in drawn
    assert "agents-selection-none-threshold" in drawn


def test_items_alone_are_enough_to_score_again(results: Path) -> None:
    cells = read_experiment(results / "timing").cells
    items = next(cell for cell in cells if cell.manifest.name == "all-majority").lines(
        "items.jsonl", AgentItem
    )
    assert sum(item.said == item.label for item in items) == 8
