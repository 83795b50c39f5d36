from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage import Pipeline
from sage.errors import InputError
from sage.graph.render import RENDERERS, levels
from sage.ops import each, embed, first_of, generate, route, search, template

RAG = Pipeline(
    "rag",
    vector=embed("{question}"),
    passages=search("docs", near="vector"),
    hint=template("{user}"),
    prompt=template("{passages}\n{question}{hint}"),
    answer=generate("{prompt}").retry(2).timeout(s=3),
)
SVG = "{http://www.w3.org/2000/svg}"


def test_a_step_stands_one_level_below_the_last_it_waits_for() -> None:
    assert levels(RAG.plan) == {"vector": 1, "hint": 1, "passages": 2, "prompt": 3, "answer": 4}


def test_text_is_a_table_of_the_levels() -> None:
    assert (
        RAG.show()
        == """\
pipeline  rag
inputs    question, user
outputs   every field

level  step      operator  reads                     runs
-----  --------  --------  ------------------------  ------------------------------
1      vector    embed     question                  pool embedder
       hint      template  user                      inline
2      passages  search    vector                    inline
3      prompt    template  passages, question, hint  inline
4      answer    generate  prompt                    pool llm, 2 attempts, 3 s each

Steps of one level can run at the same time.
"""
    )


def test_text_says_what_goes_in_and_comes_out() -> None:
    shown = Pipeline("p", a=template("x")).with_inputs("y").outputs("a").show()
    assert "inputs    none (optional: y)" in shown
    assert "outputs   a" in shown
    assert "at the same time" not in shown


def test_json_has_the_steps_in_order_with_what_they_need() -> None:
    shown = json.loads(Pipeline("p", b=template("{a}{x}"), a=template("{x}")).show("json"))
    assert shown == {
        "name": "p",
        "inputs": ["x"],
        "steps": [
            {"name": "a", "operator": "template", "needs": ["x"], "after": []},
            {"name": "b", "operator": "template", "needs": ["a", "x"], "after": ["a"]},
        ],
    }


def test_mermaid_draws_every_edge_between_plain_ids() -> None:
    assert Pipeline("p", a=template("{x}"), b=generate("{a}{x}")).show("mermaid") == (
        "flowchart TD\n"
        '    n0(["x"])\n'
        '    n1["a<br/>template"]\n'
        '    n2["b<br/>generate · llm"]\n'
        "    n0 --> n1\n    n1 --> n2\n    n0 --> n2\n"
    )


def test_mermaid_escapes_what_would_end_a_label() -> None:
    shown = Pipeline("p", **{'a"]<b>': template("x")}).show("mermaid")
    assert 'n0["a#34;#93;#60;b#62;<br/>template"]' in shown


FLOW = Pipeline(
    "flow",
    parts=lambda text: text.split(),
    notes=each("parts", Pipeline("note", said=generate("{item}"), line=template("- {said}"))),
    answer=route("{kind}", {"small talk": generate("{text}")}, look=template("{notes}")).fallback(
        template("…")
    ),
)


def test_text_has_what_is_inside_a_step_below_it() -> None:
    assert (
        FLOW.show()
        == """\
pipeline  flow
inputs    text, kind
outputs   every field

level  step           operator  reads              runs
-----  -------------  --------  -----------------  --------
1      parts          fn        text               inline
2      notes          each      parts
         body: note   pipeline  item
    1      said       generate  item               pool llm
    2      line       template  said               inline
3      answer         route     kind, text, notes
         small talk:  generate  text               pool llm
         look:        template  notes              inline
         fallback:    template  -                  inline
"""
    )


def test_json_has_the_plans_inside_a_step_by_label() -> None:
    steps = {step["name"]: step for step in json.loads(FLOW.show("json"))["steps"]}
    assert "bodies" not in steps["parts"]
    (note,) = steps["notes"]["bodies"].values()
    assert (note["name"], note["value"], [step["name"] for step in note["steps"]]) == (
        "note",
        None,
        ["said", "line"],
    )
    assert list(steps["answer"]["bodies"]) == ["to.small talk", "to.look", "fallback"]


def test_mermaid_has_a_subgraph_for_each_body() -> None:
    shown = FLOW.show("mermaid")
    assert 'subgraph n5["body: note"]\n        n6(["item"])\n        n7["said<br/>generate · llm"]' in shown
    assert "n3 -.-> n5" in shown
    assert 'subgraph n9["small talk"]\n        n10["generate · llm"]\n    end' in shown
    assert shown.count("subgraph") == shown.count("    end\n") == 4


def test_svg_draws_what_is_inside_a_step_in_its_box() -> None:
    boxes, num_arrows = drawn(FLOW)
    assert len(boxes) == 5 + 3 + 3
    assert num_arrows == 5 + 2
    notes = next(box for box in boxes if sum(holds(box, other) for other in boxes) == 3)
    answer = next(box for box in boxes if box != notes and sum(holds(box, other) for other in boxes) == 3)
    assert apart(notes, answer)


Box = tuple[float, float, float, float]  # left, top, right, bottom


def holds(outer: Box, inner: Box) -> bool:
    """Whether a box lies inside another one."""
    return (
        outer != inner
        and (outer[0] <= inner[0] and outer[1] <= inner[1])
        and (inner[2] <= outer[2] and inner[3] <= outer[3])
    )


def apart(one: Box, other: Box) -> bool:
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def drawn(pipeline: Pipeline) -> tuple[list[Box], int]:
    """The boxes where they stand in the picture, and the number of arrows."""
    boxes: list[Box] = []

    def look(element: ET.Element, x: float, y: float) -> None:
        if shift := re.fullmatch(r"translate\((\S+) (\S+)\)", element.get("transform", "")):
            x, y = x + float(shift[1]), y + float(shift[2])
        if element.tag == f"{SVG}rect":
            left, top, width, height = (float(element.attrib[key]) for key in ("x", "y", "width", "height"))
            boxes.append((x + left, y + top, x + left + width, y + top + height))
        for inner in element:
            look(inner, x, y)

    root = ET.fromstring(pipeline.show("svg"))
    look(root, 0.0, 0.0)
    return boxes, sum(path.get("class") == "edge" for path in root.iter(f"{SVG}path"))


def test_svg_has_a_box_for_each_field_and_an_arrow_for_each_need() -> None:
    boxes, num_arrows = drawn(RAG)
    assert len(boxes) == len(RAG.plan.inputs) + len(RAG.steps)
    assert num_arrows == sum(len(step.needs) for step in RAG.plan.steps)


def test_svg_names_may_hold_anything() -> None:
    shown = Pipeline('<p & "q">', **{'<b a="c">\x00': template("x")}).show("svg")
    assert "&lt;b a=" in shown
    assert "<title>&lt;p &amp;" in shown


def edges_of(count: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    pairs = [(start, end) for end in range(count) for start in range(end)]
    return st.lists(st.sampled_from(pairs), unique=True, max_size=2 * count)


@pytest.mark.slow
@given(st.integers(2, 12).flatmap(lambda count: st.tuples(st.just(count), edges_of(count))))
def test_svg_boxes_never_touch_and_stay_in_the_picture(graph: tuple[int, list[tuple[int, int]]]) -> None:
    count, edges = graph
    steps: dict[str, Any] = {}
    for end in range(count):
        needs = "".join(f"{{s{start}}}" for start, other in edges if other == end)
        made = template(f"{needs}{{x}} ")
        steps[f"s{end}"] = first_of(made, Pipeline("inner", a=made, b=made)) if end % 3 == 2 else made
    pipeline = Pipeline("p", **steps)
    boxes, num_arrows = drawn(pipeline)
    root = ET.fromstring(pipeline.show("svg"))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert num_arrows >= count + len(edges)
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0
        assert top >= 0
        assert right <= width
        assert bottom <= height
        for other in boxes[:number]:
            box = (left, top, right, bottom)
            assert apart(box, other) or holds(box, other) or holds(other, box)


@pytest.mark.parametrize("form", RENDERERS)
def test_every_form_ends_its_last_line(form: Any) -> None:
    assert RAG.show(form).endswith("\n")


def test_an_unknown_form_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"unknown form 'dot'.*'text', 'mermaid', 'svg', 'json'"):
        RAG.show("dot")  # type: ignore[arg-type]  # the mistake that is tested
