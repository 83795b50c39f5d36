"""The agent suites on a small set with fake engines: what is counted, what is fitted on what, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sage.testing  # noqa: F401 - registers the fake engine's addresses
from sage.bench.agent_data.sets import AgentSet, Task, read_agent_set
from sage.bench.agent_fit import FOLDS, fit_decision, fold_of
from sage.bench.agent_items import KINDS, AgentItem, Kind, figures_of, headline, simulated
from sage.bench.agent_report import AgentReport, read_agent_report
from sage.bench.model_files import ModelFiles
from sage.bench.results import read_experiment
from sage.bench.suites.agent import FLOORS, MAJORITY, STRATEGIES, Order, measure, parts_of
from sage.errors import InputError
from sage.ops.agents.deciding import ToolFit
from sage.runtime.packed import sha256_of
from sage.settings import Settings

WORDS = ["weather", "hotel", "music", "stock", "recipe", "route"]
ENGINES = {"embedder": "fake:words?dimension=128", "llm": "fake:echo?answer_tokens=4"}


@pytest.fixture
def data(tmp_path: Path) -> AgentSet:
    """Tools named after words, and requests that say those words."""
    folder = tmp_path / "set"
    folder.mkdir()
    files: dict[str, list[Any]] = {
        "tools": [{"name": f"get_{word}", "description": f"Tell about {word}."} for word in WORDS],
        "selection": [
            {
                "id": f"s{n}-{word}",
                "query": f"what of {word} number {n}",
                "gold": [f"get_{word}"],
                "group": "plain",
            }
            for word in WORDS
            for n in range(3)
        ],
        "timing": [
            {
                "id": f"t{n}",
                "query": f"{WORDS[n % 6]} please {n}" if n % 2 else f"hello there {n}",
                "label": "call" if n % 2 else "answer",
            }
            for n in range(24)
        ],
        "planning": [
            {
                "id": f"p{n}",
                "query": f"Tell me about {WORDS[n]} today. Then tell me about {WORDS[n - 1]} for that.",
                "gold": [f"get_{WORDS[n]}", f"get_{WORDS[n - 1]}"],
                "edges": [[0, 1]],
            }
            for n in range(6)
        ],
    }
    some = [f"get_{word}" for word in WORDS[:3]]
    files["selection"] += [
        {"id": f"m{n}", "query": f"{word} {n}", "gold": [f"get_{word}"], "among": some, "group": "few"}
        for n, word in enumerate(WORDS[:3])
    ]
    files["selection"] += [
        {"id": f"e{n}", "query": f"{word} {n}", "gold": [], "among": some, "group": "none"}
        for n, word in enumerate(WORDS[3:])
    ]
    for name, lines in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_agent_set(folder)


Measure = Callable[..., AgentReport]


@pytest.fixture
def run(data: AgentSet, tmp_path: Path, tmp_home: Settings) -> Measure:
    def measured(kind: Kind, *strategies: str, out: Path = tmp_path / "out", **options: Any) -> AgentReport:
        engines = options.pop("engines", ENGINES)
        order = Order(kind=kind, strategies=strategies, engines=engines, settings=tmp_home, **options)
        measure(data, order, out, lambda *_: None)
        return read_agent_report(out)

    return measured


@pytest.mark.parametrize("kind", KINDS)
def test_every_strategy_gives_an_item_for_every_task(kind: Kind, run: Measure, data: AgentSet) -> None:
    report = run(kind, *STRATEGIES[kind])
    parts = parts_of(data, kind)
    names = {*STRATEGIES[kind], FLOORS[kind]}
    assert {(cell.part, cell.strategy) for cell in report.cells} == {
        (p.name, name) for p in parts for name in names
    }
    for cell in report.cells:
        assert cell.n == len(next(part.tasks for part in parts if part.name == cell.part))
        assert cell.failed == 0


def test_words_find_tools_named_by_words(run: Measure) -> None:
    report = run("selection", "hybrid", group="plain")
    assert {cell.strategy: cell.shares["hit@1"].good for cell in report.cells} == {"hybrid": 18, "bm25": 18}
    hybrid = report.cells[0]
    assert hybrid.llm_calls == 0
    assert hybrid.embed_calls == 1
    assert hybrid.latency_s.p50 is not None
    assert set(hybrid.fitted) == {str(fold) for fold in range(FOLDS)}


def test_tasks_without_a_tool_are_scored_with_those_they_compare_to(run: Measure, data: AgentSet) -> None:
    assert {part.name for part in parts_of(data, "selection")} == {"plain", "few", "none"}
    report = run("selection", "bm25", group="none")
    (cell,) = report.cells
    assert (cell.n, cell.shares["hit@1"].n, cell.shares["none_accuracy"].n) == (6, 3, 3)
    assert cell.shares["none_accuracy"].good == 3, "no tool that is offered shares a word with the request"


def test_the_majority_stands_beside_every_decision(run: Measure) -> None:
    report = run("timing", "rule", "classifier")
    shares = {cell.strategy: cell.shares["accuracy"].share for cell in report.cells}
    assert shares[MAJORITY] == 0.5
    assert shares["rule"] == 1.0, "requests that need a tool say its name"
    (one,) = (one for one in report.differences if (one.one, one.other) == ("rule", MAJORITY))
    assert one.gain.mean == 0.5


def test_plans_by_clauses_find_steps_and_what_they_need(run: Measure) -> None:
    (cell,) = run("planning", "clauses").cells
    assert cell.shares["exact"].share == cell.shares["simulated"].share == 1.0
    assert cell.means["edge_f1"].mean == 1.0


def test_a_model_that_chooses_nothing_is_wrong_where_a_tool_fits(run: Measure) -> None:
    report = run("selection", "llm", group="few")  # whose fake model writes the shortest list: an empty one
    llm = report.cells[0]
    assert (llm.unparsable.good, llm.shares["hit@1"].good) == (0, 0)
    assert llm.llm_calls == 1
    assert llm.prompt_tokens > 0


def test_a_model_that_names_one_tool_every_time_is_right_where_that_one_fits(run: Measure) -> None:
    llm = run("selection", "llm", group="plain").cells[
        0
    ]  # whose fake model writes the first name of the schema
    assert (llm.invented.good, llm.shares["hit@1"].good, llm.n) == (0, 3, 18)


def test_what_fails_counts_as_wrong(run: Measure) -> None:
    engines = {**ENGINES, "llm": "fake:tiny?context_tokens=8"}
    llm = run("selection", "llm", group="plain", engines=engines).cells[0]
    assert (llm.failed, llm.n, llm.shares["hit@1"].n, llm.shares["hit@1"].good) == (18, 18, 18, 0)


def test_a_limit_picks_the_same_tasks_for_every_strategy(run: Measure, tmp_path: Path) -> None:
    run("selection", "embedding", "hybrid", group="plain", limit=5)
    ids = [
        [item.id for item in cell.lines("items.jsonl", AgentItem)]
        for cell in read_experiment(tmp_path / "out").cells
    ]
    assert len(ids[0]) == 5
    assert all(one == ids[0] for one in ids)


def test_results_can_be_gone_on_with_and_are_refused_once_changed(run: Measure, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run("timing", "rule")
    assert run("timing", "rule") == first
    with pytest.raises(InputError, match="differs in its config"):
        run("timing", "classifier")
    items = out / "all-rule" / "items.jsonl"
    items.write_text(items.read_text().replace('"said":"call"', '"said":"ask"', 1))
    with pytest.raises(InputError, match="was changed after it was written"):
        read_agent_report(out)


def test_the_run_of_a_cell_is_kept_with_its_requests(run: Measure, tmp_path: Path) -> None:
    run("selection", "embedding", group="few")
    cell = next(
        cell
        for cell in read_experiment(tmp_path / "out").cells
        if cell.manifest.axes["strategy"] == "embedding"
    )
    assert len(cell.requests()) == 3
    assert sum(1 for _ in cell.events()) > 3
    assert cell.run().status == "complete"


# ---- fitting


def test_equal_requests_share_a_fold_and_folds_are_all_used() -> None:
    assert fold_of(Task(id="1", query="A  b")) == fold_of(Task(id="2", query="a B"))
    assert {fold_of(Task(id="", query=str(number))) for number in range(60)} == set(range(FOLDS))


def test_what_is_fitted_for_a_fold_has_not_seen_it(run: Measure, data: AgentSet) -> None:
    report = run("selection", "examples", group="plain")
    tasks = data.of("selection", "plain")
    for fold, said in report.cells[0].fitted.items():
        assert said["examples"]["requests"] == sum(fold_of(task) != int(fold) for task in tasks)


def test_a_rule_learns_what_to_say_otherwise() -> None:
    seen = [ToolFit(best="a", words=score, missing=0) for score in (1.0, 2.0, 8.0, 9.0)]
    fitted = fit_decision(("least", "asks", "otherwise"), ["decline", "decline", "call", "call"], seen)
    assert 2.0 < fitted["least"] <= 8.0
    assert fitted["otherwise"] == "decline"


# ---- figures


def test_a_choice_of_nothing_is_right_only_where_nothing_fits() -> None:
    assert headline("selection", AgentItem(id="1")) == 1.0
    assert headline("selection", AgentItem(id="1", fault="unread")) == 0.0
    assert headline("selection", AgentItem(id="1", gold=("a",))) == 0.0
    assert headline("selection", AgentItem(id="1", invented=("x",))) == 0.0
    assert headline("timing", AgentItem(id="1", label="call", said="call", error="it broke")) == 0.0


def test_a_plan_with_more_calls_than_needed_still_gets_there() -> None:
    gold: dict[str, Any] = {"gold": ("a", "b"), "gold_edges": ((0, 1),)}
    assert simulated(AgentItem(id="1", tools=("x", "a", "b", "y"), **gold))
    assert not simulated(AgentItem(id="1", tools=("b", "a"), **gold))


@pytest.mark.parametrize("kind", KINDS)
def test_no_item_at_all_gives_figures_without_shares(kind: Kind) -> None:
    figures = figures_of(kind, "s", "p", [])
    assert figures.n == 0
    assert all(share.share is None for share in figures.shares.values())


def test_unknown_names_are_refused_before_anything_runs(run: Measure) -> None:
    with pytest.raises(InputError, match="did you mean 'hybrid'"):
        run("selection", "hybrd")
    with pytest.raises(InputError, match="no group 'x'"):
        run("selection", "bm25", group="x")


def test_results_name_model_files_and_not_where_they_lie(tmp_path: Path) -> None:
    file = tmp_path / "models" / 'tiny "1".gguf'
    file.parent.mkdir()
    file.write_bytes(b"weights")
    engines: dict[str, str | tuple[str, ...]] = {
        "llm": (f"llama:{file}?slots=1", "llama:smollm2-135m-instruct"),
        "embedder": f"bert:{file.parent}",
    }
    models = ModelFiles.of(engines)
    assert models.engines(engines) == {
        "llm": ('llama:tiny "1".gguf?slots=1', "llama:smollm2-135m-instruct"),
        "embedder": "bert:models",
    }
    assert models.sha256 == {file.name: sha256_of(file)}
    (log := tmp_path / "cell" / "events.jsonl").parent.mkdir()
    log.write_text(json.dumps({"endpoint": engines["llm"][0]}))
    models.shorten(log.parent)
    assert json.loads(log.read_text()) == {"endpoint": 'llama:tiny "1".gguf?slots=1'}


def test_a_model_beside_the_user_has_its_hash_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.gguf").write_bytes(b"weights")
    models = ModelFiles.of({"llm": "llama:tiny.gguf", "embedder": "bert:all-minilm-l6-v2"})
    assert models.sha256 == {"tiny.gguf": sha256_of(Path("tiny.gguf"))}
    assert models.named("llama:tiny.gguf?slots=1") == "llama:tiny.gguf?slots=1"
    assert ModelFiles.of({"embedder": "bert:."}).named("1.5") == "1.5", (
        "this folder has no name to shorten to"
    )


def test_two_model_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tiny.gguf").touch()
    with pytest.raises(InputError, match="two models are called"):
        ModelFiles.of({"llm": (f"llama:{tmp_path}/a/tiny.gguf", f"llama:{tmp_path}/b/tiny.gguf")})


def test_a_shortlist_bounds_what_a_model_is_shown(run: Measure, tmp_path: Path) -> None:
    tokens = {
        shown: run("selection", "two_stage", group="plain", shortlist=shown, out=tmp_path / str(shown)).cells[
            0
        ]
        for shown in (1, 5)
    }
    assert tokens[1].prompt_tokens < tokens[5].prompt_tokens
