from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sage import Pipeline
from sage.errors import InputError, PipelineError
from sage.graph.form_write import write_form
from sage.graph.yaml import MAX_BYTES
from sage.ops import OPERATORS, Batch, each, embed, generate, register, search, step, template
from sage.ops.functions import FUNCTIONS

RAG_YAML = """\
pipeline: rag
steps:
  vector:   {embed: "{question}"}
  passages: {search: docs, near: vector, k: 5}
  prompt:   {template: "Answer from the passages only. {passages} {question}"}
  answer:   {generate: "{prompt}", max_tokens: 96}
"""

RAG = Pipeline(
    "rag",
    vector=embed("{question}"),
    passages=search("docs", near="vector", k=5),
    prompt=template("Answer from the passages only. {passages} {question}"),
    answer=generate("{prompt}", max_tokens=96),
)


@register
def graded_for_yaml(answer: str, strictness: int = 1, *, unit: str = "points") -> float:
    return len(answer) / strictness


@register
async def looked_up_for_yaml(**fields: Any) -> str:
    return str(fields)


# ---- the form


def test_yaml_loads_to_the_pipeline_that_python_declares() -> None:
    assert Pipeline.from_yaml(RAG_YAML) == RAG


def test_a_pipeline_is_written_as_one_would_write_it() -> None:
    assert RAG.to_yaml() == RAG_YAML


def test_a_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "rag.yaml"
    path.write_text("\ufeff" + RAG_YAML, encoding="utf-8")
    assert Pipeline.from_yaml(path) == RAG


def test_json_is_yaml_too() -> None:
    assert Pipeline.from_yaml('{"pipeline": "p", "steps": {"a": {"template": "x"}}}') == Pipeline(
        "p", a=template("x")
    )


def test_inputs_and_outputs_are_kept() -> None:
    pipeline = RAG.with_inputs("question").outputs("answer", "passages")
    assert "inputs: [question]\noutputs: [answer, passages]\n" in pipeline.to_yaml()
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline


def test_text_of_several_lines_stands_as_it_is() -> None:
    pipeline = Pipeline("p", prompt=template('Say "{x}":\n\n  {"json": 1} # no comment\n\tend \n'))
    assert '    template: |\n      Say "{x}":\n\n        {"json": 1} # no comment\n' in pipeline.to_yaml()
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline


MODIFIED = {
    "retry": template("x").retry(3),
    "timeout_s": generate("x").timeout(s=0.5),
    "batch": embed("x", batch=Batch(max_items=8, max_wait_ms=5)),
    "when": template("x").when("{ready}"),
    "on_error": template("x").on_error("skip"),
    "default": template("x").default({"a": [1, None]}),
    "cache": generate("x").cache("disk"),
    "fallback": generate("x").retry(2).fallback("big"),
    "max_concurrency": step(graded_for_yaml, max_concurrency=2),
}


@pytest.mark.parametrize("key", MODIFIED)
def test_a_modifier_is_written_and_read(key: str) -> None:
    pipeline = Pipeline("p", made=MODIFIED[key])
    assert f"{key}: " in pipeline.to_yaml()
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline


STEPS = {
    "where": search("docs", text="{q}", where={"topic": "{t}", "a.b": [1, 2.5], "on": True, "": None}),
    "references": search("{docs}", near="hits[0].vector", k="{depth}"),
    "conversation": generate(messages="{history}", system="Be {mood}.", full=True, stop=["\n", "x"]),
    "tools": generate("{q}", tools=[{"type": "function", "function": {"name": "f"}}], seed="{seed}"),
    "schema": generate("{q}", schema={"type": "object", "properties": {"no": {"type": "integer"}}}),
    "pool": embed("{q}", engine="small"),
    "function": step(graded_for_yaml),
    "bound": step(graded_for_yaml, answer="{reply.text}", strictness=3, unit="{unit}"),
    "threads": step(graded_for_yaml, pool="cpu"),
    "any option": step(looked_up_for_yaml, template="{a}", search="b", question="{q}"),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_comes_back_equal(name: str) -> None:
    pipeline = Pipeline("p", made=STEPS[name])
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline


def test_what_goes_without_saying_is_not_written() -> None:
    assert "{fn: graded_for_yaml}" in Pipeline("p", score=graded_for_yaml).to_yaml()


# ---- what cannot be written


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda x: x, "step 'made'.*'<lambda>' is not registered.*sage.ops.register"),
        (generate("x", schema=list[int]), "step 'made'.*schema=list.*is a Python type.*JSON schema"),
        (generate("x", stop=("a", "b")), "stop=.*of type 'tuple'"),
        (step(looked_up_for_yaml, x=float("nan")), "x=nan"),
        (step(looked_up_for_yaml, x=10**40), "x is a number of more than 30 digits"),
        (step(looked_up_for_yaml, x={1: 2}), r"x=\{1: 2\} is of type 'dict'"),
        (each("chunks", template("{item}!")), "each holds other pipelines, for which YAML has no form"),
        (generate("x").fallback(template("y")), "its fallback is another step"),
        (step(looked_up_for_yaml, retry="{x}"), "it would load as another step"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(made: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Pipeline("p", made=made).to_yaml()


def test_another_function_of_a_registered_name_is_refused() -> None:
    def graded_for_yaml(answer: str) -> float:
        return 0.0

    with pytest.raises(InputError, match="is not registered"):
        Pipeline("p", score=graded_for_yaml).to_yaml()


# ---- faults


def test_every_fault_is_told_at_once_with_its_line_and_the_nearest_name() -> None:
    with pytest.raises(PipelineError) as caught:
        Pipeline.from_yaml(
            """\
pipeline: broken
step: {}
outputs: answer
steps:
  a: {genrate: "{b}"}
  b: {template: 5}
  c: {generate: "{a}", max_token: 3, full: yes}
  d: {embed: "{a}", batch: {max_item: 4}}
  e: hello
  f: {template: x, search: docs}
  g: {fn: graded_for_yam}
  h: {template: "{x}", retry: 0}
  i: {template: "{i}"}
"""
        )
    assert [str(fault) for fault in caught.value.faults] == [
        "unknown key 'step': did you mean 'steps'? (line 2)",
        "step 'a': names no operator; unknown operator 'genrate': did you mean 'generate'? (line 5)",
        "step 'b': template is 5: expected 'str', got 'int' (line 6)",
        "step 'c': generate has no option 'max_token': did you mean 'max_tokens'? (line 7)",
        "step 'c': full is 'yes': expected 'bool', got 'str'; write true (line 7)",
        "step 'd': batch has no 'max_item': did you mean 'max_items'? (line 8)",
        "step 'e': is 'hello', expected {OPERATOR: …} such as {template: 'Hello'} (line 9)",
        "step 'f': names the operators 'template', 'search'; expected one, make a step of each (line 10)",
        "step 'g': unknown function 'graded_for_yam': did you mean 'graded_for_yaml'? (line 11)",
        "step 'h': retry(0): expected the number of attempts in all, 1 or more (line 12)",
        "outputs is 'answer', expected a list of field names (line 3)",
        "step 'i': is part of a cycle: 'i' -> 'i'; a step cannot need its own result",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps: {a: {template: x}}", "it has no name; begin with pipeline: NAME"),
        ("pipeline: 7\nsteps: {a: {template: x}}", r"its name is 7, expected text.*\(line 1\)"),
        ("pipeline: p", "it has no steps"),
        (
            "pipeline: p\nsteps: {a: {each: x, body: y}}",
            "each holds other pipelines, for which YAML has no form",
        ),
        ("pipeline: p\nsteps: [a]", r"steps is \['a'\]; expected steps:"),
        ("pipeline: p\nsteps: {a: {template: null}}", "template is empty: expected 'str', got 'null'"),
        ("pipeline: p\nsteps: {a: {template: x, batch: {max_items: 3}}}", "has no option 'batch'"),
        ("pipeline: p\nsteps: {a: {embed: x, batch: {max_items: 0}}}", "max_items is at least 1"),
        ("pipeline: p\nsteps: {a: {template: x, retry: true}}", "retry is true: expected 'int', got 'bool'"),
        ("pipeline: p\ninputs: [x]\nsteps: {a: {template: '{y}'}}", "reads 'y', which is neither a step"),
    ],
)
def test_a_wrong_form_is_a_fault(text: str, says: str) -> None:
    with pytest.raises(PipelineError, match=says):
        Pipeline.from_yaml(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "yaml: expected a mapping with 'pipeline' and 'steps', got empty"),
        ("rag.yaml", "got 'rag.yaml'; give a file as a Path"),
        ("a: b: c", "yaml:1:5: mapping values are not allowed here"),
        ("a: {b: {question}}", "yaml:1:9: 'question' has no value.*\"{question}\""),
        ("a: 1\nb: 2\na: 3", "yaml:3:1: the key 'a' stands twice, first on line 1"),
        ("1: 2", "yaml:1:1: the key 1 is no text; put it in quotes"),
        ("true: 2", "yaml:1:1: the key true is no text"),
        ("? [a]\n: 2", "yaml:1:3: the key a list is no text"),
        ("a: &x 1\nb: *x", "yaml:1:4: anchors and aliases"),
        ("b: *x", "yaml:1:4: anchors and aliases"),
        ("a: !!python/object:os.system x", "yaml:1:4: the tag .* is not allowed"),
        ("a: !x {}", "yaml:1:4: the tag '!x' is not allowed"),
        ("a: " + "[" * 100, "yaml:1:44: is nested more than 40 deep"),
        ("a: 1\n--- \nb: 2", "yaml:2:1: a second document begins here"),
        ("a: 1\nb: \x07", r"yaml:2:4: the character .* may not stand in YAML"),
        ("a: 'x", "yaml:1:6: found unexpected end of stream"),
        ("a: " + "9" * 500, "yaml:1:4: the number is too long"),
        ("a: 1e999", "yaml:1:4: the number is too long"),
        ("a: " + "x" * MAX_BYTES, "larger than 1 MiB"),
    ],
)
def test_what_is_no_pipeline_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(InputError, match=re.compile(says, re.DOTALL)):
        Pipeline.from_yaml(text)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe", "p.yaml: is not UTF-8"),
        (b"a: b: c", r"p.yaml:1:5: mapping values"),
        (b"x" * (MAX_BYTES + 1), "p.yaml: is larger than 1 MiB"),
        (None, "p.yaml: cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_pipeline_is_refused_by_name(
    content: bytes | None, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "p.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        Pipeline.from_yaml(path)


def test_words_that_older_yaml_takes_for_truth_are_names() -> None:
    pipeline = Pipeline.from_yaml("pipeline: p\nsteps:\n  on: {template: '{no}'}\n  yes: {template: 1:30}")
    assert pipeline(no="x") == {"no": "x", "on": "x", "yes": "1:30"}
    assert '"on":' in pipeline.to_yaml()


def test_a_million_laughs_are_refused_before_the_first() -> None:
    laughs = "a: &a [ha, ha]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcd", "bcde", strict=True)
    )
    with pytest.raises(InputError, match="anchors and aliases"):
        Pipeline.from_yaml(laughs)


# ---- any pipeline


TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            [
                "{x}",
                "{y.z[0]}",
                "{{x}}",
                "{",
                "}",
                '"',
                "'",
                "\n",
                " ",
                ":",
                ": ",
                " #",
                "- ",
                "|",
                "\\",
                "\t",
                "é",
                "\U0001f600",
                "null",
                "yes",
                "1_000",
                "0x1f",
                "1e5",
                "~",
                "!x",
                "&a",
                "*a",
                "%",
                "@",
                "\x85",
                "\u2028",
                "\ufeff",
                "\ud800",
                "---\n",
                "...\n",
            ]
        ),
        max_size=12,
    ).map("".join),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(["vector", "{hits[0].vector}", "x.y"])
WHOLE = st.integers(1, 9) | st.just("{k}")


def _modified(made: Any, attempts: int | None, timeout_s: float | None) -> Any:
    made = made if attempts is None else made.retry(attempts)
    return made if timeout_s is None else made.timeout(s=timeout_s)


BARE_STEPS = st.one_of(
    st.builds(template, TEXTS),
    st.builds(embed, TEXTS, engine=st.sampled_from(["embedder", "other"])),
    st.builds(
        generate,
        TEXTS,
        system=st.none() | TEXTS,
        max_tokens=WHOLE,
        stop=st.none() | st.lists(TEXTS, max_size=2),
    ),
    st.builds(
        search,
        TEXTS.filter(bool),
        near=FIELDS,
        text=st.none() | TEXTS,
        k=WHOLE,
        where=st.none() | st.dictionaries(TEXTS, PLAIN, max_size=3),
    ),
    st.builds(lambda **bound: step(looked_up_for_yaml, **bound), first=PLAIN, second=TEXTS),
)
ANY_STEP = st.builds(
    _modified, BARE_STEPS, st.none() | st.integers(1, 5), st.none() | st.floats(1e-6, 1e6, allow_nan=False)
)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True) | TEXTS.filter(
    lambda text: text != "" and not text.startswith("_")
)


def _buildable(name: str, steps: dict[str, Any]) -> Pipeline | None:
    """The pipeline, unless the steps drawn happen to wait for one another or to have unfit types."""
    try:
        return Pipeline(name, **steps)
    except PipelineError:
        return None


@pytest.mark.slow
@given(NAMES.filter(str.strip), st.dictionaries(NAMES, ANY_STEP, min_size=1, max_size=4))
def test_any_pipeline_comes_back_equal(name: str, steps: dict[str, Any]) -> None:
    pipeline = _buildable(name, steps)
    if pipeline is not None:
        text = pipeline.to_yaml()
        assert Pipeline.from_yaml(text) == pipeline
        form = write_form(pipeline.name, pipeline.steps, None, None, OPERATORS)
        assert yaml.safe_load(text) == form  # a reader of YAML 1.1 sees the same


@given(
    st.text(max_size=60)
    | TEXTS
    | st.sampled_from([RAG_YAML]).flatmap(lambda t: st.integers(0, len(t)).map(lambda n: t[:n]))
)
def test_no_text_ends_in_anything_but_a_pipeline_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(InputError, PipelineError):
        Pipeline.from_yaml(text)


def test_the_functions_of_these_tests_are_registered() -> None:
    names: list[Callable[..., Any]] = [FUNCTIONS["graded_for_yaml"], FUNCTIONS["looked_up_for_yaml"]]
    assert names == [graded_for_yaml, looked_up_for_yaml]
