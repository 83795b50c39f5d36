"""Every way of selecting, planning and deciding, on engines that answer by rule."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sage import InputError, Pipeline
from sage.engines.base import GenerateRequest
from sage.events import TaskEnded
from sage.index.linear import fit_linear
from sage.ops import Toolbox, decide, plan, rank_tools, register_tools, select_tools, tool_fit
from sage.ops.agents.deciding import DECIDERS, ToolFit, Verdict
from sage.ops.agents.planning import PLANNERS, ToolPlan
from sage.ops.agents.ranking import Examples, Selection
from sage.ops.agents.selecting import SELECTORS
from sage.ops.agents.strategies import menu
from sage.testing import FakeEngine


def forecast(city: str) -> str:
    "Tell what the weather of a city will be."
    return city


def reserve(hotel: str, nights: int) -> str:
    "Book a hotel room for some nights."
    return f"{hotel} {nights}"


def translate(text: str) -> str:
    "Say a text in another language."
    return text


BOX = register_tools(Toolbox("strategies-test", forecast, reserve, translate))
QUERY = "What will the weather be in Rome? Then book a hotel room for that."
CALL = {"tool": "forecast", "arguments": {"city": "Rome"}}
PLAN = {"steps": [{**CALL, "after": []}, {"tool": "reserve", "arguments": {"hotel": "$1"}, "after": []}]}
GOALS = {"goals": [{"goal": "know the weather", "after": []}, {"goal": "book the hotel room", "after": [1]}]}


def by_schema(request: GenerateRequest) -> str:
    """What a well-behaved model would say to each of the prompts."""
    wanted = list((request.schema or {}).get("properties", {}))
    if wanted == ["tool", "arguments"]:
        _, _, goal = request.messages[-1].content.partition("Goal: ")
        return json.dumps({"tool": "reserve", "arguments": {}} if "hotel" in goal else CALL)
    return json.dumps(
        {
            "tools": {"tools": ["reserve", "teleport"]},
            "steps": PLAN,
            "goals": GOALS,
            "action": {"action": "ask"},
        }[wanted[0]]
    )


def mute(_request: GenerateRequest) -> str:
    return "I would rather not."


def made(step: Any, answer: Any = by_schema, **fields: Any) -> Any:
    engines = {"llm": FakeEngine(answer=answer), "embedder": FakeEngine(dimension=256)}
    result = Pipeline("p", made=step).run([{"q": QUERY, **fields}], engines=engines)
    assert not result.failures, result.failures
    return result.records[0]["made"]


def fitted(by: str, registry: Any) -> dict[str, Any]:
    """What the ways need that cannot do without."""
    if "model" not in registry[by].fits:
        return {}
    features = made(tool_fit("{q}", tools=BOX)).features
    import numpy as np

    table = np.array([features, [number + 1 for number in features]])
    return {"model": fit_linear(table, ["call", "answer"])}


@pytest.mark.parametrize("by", SELECTORS)
def test_every_way_of_selecting_gives_tools_of_the_box(by: str) -> None:
    chosen: Selection = made(select_tools("{q}", tools=BOX, by=by, k=2))
    assert 0 < len(chosen.tools) <= 2
    assert set(chosen.tools) <= set(BOX)
    assert len(chosen.scores) == len(chosen.tools)


@pytest.mark.parametrize("by", SELECTORS)
def test_it_keeps_to_the_tools_that_are_offered(by: str) -> None:
    chosen: Selection = made(
        select_tools("{q}", tools=BOX, by=by, among="offered"), offered=["reserve", "translate"]
    )
    assert set(chosen.tools) <= {"reserve", "translate"}
    assert made(select_tools("{q}", tools=BOX, by=by, among="offered"), offered=[]).tools == ()


@pytest.mark.parametrize("by", ["llm", "two_stage"])
def test_a_name_that_no_tool_has_is_reported_and_not_chosen(by: str) -> None:
    chosen: Selection = made(select_tools("{q}", tools=BOX, by=by))
    assert (chosen.tools[0], chosen.invented) == ("reserve", ("teleport",))


def test_a_name_is_read_from_a_copied_line_of_the_menu() -> None:
    line = menu(BOX, ["reserve"], parameters=True)
    choice = json.dumps({"tools": [line, "Forecast: what it does"]})
    chosen: Selection = made(select_tools("{q}", tools=BOX, by="llm"), answer=lambda _: choice)
    assert (chosen.tools, chosen.invented) == (("reserve", "forecast"), ())
    steps = json.dumps({"steps": [{"tool": line, "arguments": {}, "after": []}]})
    planned: ToolPlan = made(plan("{q}", tools=BOX), answer=lambda _: steps)
    assert [step.tool for step in planned.steps] == ["reserve"]


def test_a_schema_lists_the_tools_there_are_so_that_no_other_can_be_written() -> None:
    engine = FakeEngine(answer=by_schema)
    box = Toolbox("two", forecast, reserve, translate, allow=["forecast", "reserve"])
    Pipeline("p", made=select_tools("{q}", tools=box, by="llm")).run([{"q": QUERY}], engines={"llm": engine})
    (request,) = engine.requests
    assert isinstance(request, GenerateRequest)
    assert request.schema is not None
    assert request.schema["properties"]["tools"]["items"] == {"enum": ["forecast", "reserve"]}


@pytest.mark.parametrize("by", ["llm", "two_stage"])
def test_a_choice_that_cannot_be_read_is_a_fault(by: str) -> None:
    chosen: Selection = made(select_tools("{q}", tools=BOX, by=by), answer=mute)
    assert (chosen.tools, chosen.fault) == ((), "it names no tools in JSON")


@pytest.mark.parametrize("by", ["llm", "two_stage"])
def test_a_model_may_say_that_none_fits(by: str) -> None:
    chosen: Selection = made(select_tools("{q}", tools=BOX, by=by), answer=lambda _: '{"tools": []}')
    assert (chosen.tools, chosen.fault) == ((), None)


def test_adaptive_asks_the_model_only_where_it_is_unsure() -> None:
    for margin, calls in ((0.0, 0), (10.0, 1)):
        engine = FakeEngine(answer=by_schema)
        step = select_tools("{q}", tools=BOX, by="adaptive", fitted={"margin": margin})
        Pipeline("p", made=step).run([{"q": QUERY}], engines={"llm": engine, "embedder": FakeEngine()})
        assert len(engine.requests) == calls


def test_a_score_that_is_too_low_is_no_choice() -> None:
    chosen: Selection = made(rank_tools("{q}", tools=BOX, by="words", least=1e6))
    assert chosen.tools == ()
    assert chosen.best is not None
    assert chosen.best > 0


def test_examples_move_a_tool_towards_what_it_was_needed_for() -> None:
    known = Examples(requests=("umbrella or sunglasses today",), tools=("forecast",), weight=4.0)
    step = rank_tools("{ask}", tools=BOX, k=1, examples=known)
    assert made(step, ask="umbrella or sunglasses").tools == ("forecast",)


def test_tools_are_embedded_once_for_all_jobs() -> None:
    box = Toolbox("fresh", forecast, reserve)
    pipeline = Pipeline("p", made=rank_tools("{q}", tools=box, by="meaning"))
    result = pipeline.run(
        [{"q": f"{QUERY} {number}"} for number in range(4)], engines={"embedder": FakeEngine()}
    )
    steps = [event.step for event in result.events if isinstance(event, TaskEnded)]
    assert len([step for step in steps if "[tools" in step]) == 1


def test_only_allowed_tools_are_found() -> None:
    found: Selection = made(rank_tools("{q}", tools=BOX.only("translate"), by="both"))
    assert found.tools == ("translate",)


@pytest.mark.parametrize("by", PLANNERS)
def test_every_way_of_planning_finds_both_steps(by: str) -> None:
    planned: ToolPlan = made(plan("{q}", tools=BOX, by=by))
    assert planned.fault is None
    assert planned.steps[0].tool == "forecast"
    if by != "react":  # whose model here says the same call again, which ends the plan
        assert [(step.tool, step.after) for step in planned.steps] == [("forecast", ()), ("reserve", (0,))]


@pytest.mark.parametrize("by", ["direct", "hierarchical", "react"])
def test_a_plan_that_cannot_be_read_is_a_fault(by: str) -> None:
    planned: ToolPlan = made(plan("{q}", tools=BOX, by=by), answer=mute)
    assert planned.fault is not None
    assert planned.steps == ()


def test_a_plan_leaves_out_what_no_tool_does_and_says_so() -> None:
    steps = [
        {"tool": "teleport", "arguments": {}, "after": []},
        {"tool": "reserve", "arguments": {}, "after": [1]},
    ]
    planned: ToolPlan = made(plan("{q}", tools=BOX), answer=lambda _: json.dumps({"steps": steps}))
    assert planned.invented == ("teleport",)
    assert [(step.tool, step.after) for step in planned.steps] == [("reserve", ())]


def test_react_ends_when_it_says_so_and_when_it_never_does() -> None:
    finish = json.dumps({"tool": "finish", "arguments": {}})
    assert made(plan("{q}", tools=BOX, by="react"), answer=lambda _: finish).steps == ()
    counted = iter(range(100))

    def never(_request: GenerateRequest) -> str:
        return json.dumps({"tool": "forecast", "arguments": {"city": str(next(counted))}})

    assert len(made(plan("{q}", tools=BOX, by="react"), answer=never).steps) == 8


@pytest.mark.parametrize("by", DECIDERS)
def test_every_way_of_deciding_says_an_action(by: str) -> None:
    verdict: Verdict = made(decide("{q}", tools=BOX, by=by, fitted=fitted(by, DECIDERS)))
    assert verdict.action in {"call", "ask", "answer", "decline"}


def test_a_verdict_that_cannot_be_read_is_none() -> None:
    verdict: Verdict = made(decide("{q}", tools=BOX, by="llm"), answer=mute)
    assert (verdict.action, verdict.fault) == (None, "it names no action")


def test_a_classifier_must_have_been_fitted() -> None:
    with pytest.raises(InputError, match="needs fitted"):
        decide("{q}", tools=BOX, by="classifier")


def test_the_rule_asks_where_a_value_is_missing() -> None:
    said = {"least": 0.1, "asks": True}
    ask = decide("{q}", tools=BOX, by="rule", fitted=said)
    assert made(ask, q="book a hotel room for some nights").action == "ask"
    assert made(ask, q="book the hotel room 'Roma' for 3 nights").action == "call"
    assert made(ask, q="seven times eight").action == "answer"


def test_how_tools_fit_is_said_in_numbers() -> None:
    fit: ToolFit = made(tool_fit("{q}", tools=BOX))
    assert fit.best in {"forecast", "reserve"}
    assert (fit.num_tools, len(fit.features)) == (3, 7 + 256)
    assert made(tool_fit("{q}", tools=BOX, among="offered"), offered=[]).best is None


@pytest.mark.parametrize(
    ("registry", "operator"),
    [(SELECTORS, select_tools), (PLANNERS, plan), (DECIDERS, decide)],
    ids=["select_tools", "plan", "decide"],
)
def test_every_way_stands_in_yaml(registry: Any, operator: Any) -> None:
    for by in registry:
        said = {"fitted": {"model": vars_of(fitted(by, registry)["model"])}} if fitted(by, registry) else {}
        pipeline = Pipeline("p", made=operator("{q}", tools=BOX, by=by, among="names", **said))
        assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline


def vars_of(model: Any) -> dict[str, Any]:
    """As a file would hold it."""
    import msgspec

    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(model))
    return plain


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: select_tools("{q}", tools=BOX, by="magic"),
        lambda: select_tools("{q}", tools=BOX, by="bm25", fitted={"margin": 1.0}),
        lambda: rank_tools("{q}", tools=BOX, by="luck"),  # type: ignore[arg-type]  # what a user may do
        lambda: rank_tools("{q}", tools=BOX, by="words", examples=Examples(requests=("a",), tools=("b",))),
        lambda: tool_fit("{q}", tools=BOX, by="luck"),
    ],
)
def test_an_unknown_way_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError):
        wrong()
