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
from sage.ops import (
    OPERATORS,
    Batch,
    each,
    embed,
    first_of,
    generate,
    loop,
    nested,
    parse_json,
    register,
    rerank,
    route,
    search,
    sentences,
    step,
    template,
)
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


TURN = Pipeline("turn", more=template("{n}+"), done=lambda more: len(more) > 3)


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
    "rerank": rerank("{hits.best}", by="{q} {r}", k="{depth}", engine="small"),
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


# ---- control flow

INNER = Pipeline("inner", note=template("{text}!"), line=sentences("note")).outputs("line")
FLOWS_YAML = """\
pipeline: flows
steps:
  said:      {pipeline: inner, outputs: [line], steps: {note: {template: "{text}!"}, line: {sentences: note}}}
  renamed:
    pipeline:
      pipeline: inner
      outputs: [line]
      steps:
        note: {template: "{text}!"}
        line: {sentences: note}
    inputs: {text: "{question}"}
    when: said
  summaries: {each: chunks, body: {generate: "Summarise: {chunk}"}, item: chunk, max_concurrency: 4}
  replied:
    route: "{intent}"
    to: {small talk: {generate: "{question}"}, look up: {fn: graded_for_yaml}}
    default: {template: Ask me something else.}
    step: {default: ""}
  best:      {first_of: [{generate: "{question}"}, {generate: "{question}", engine: quick}]}
  safe:      {generate: "{best}", fallback: {template: "Sorry, {user}."}}
  grown:     {parse_json: best}
  turns:
    loop:
      pipeline: turn
      inputs: [draft, unit]
      steps:
        better: {generate: "Make this better, as much as there is room for in the answer: {draft}"}
        grade:  {fn: graded_for_yaml, answer: "{better}"}
    until: {template: "{grade}"}
    carry: {draft: better}
    max_steps: 3
"""
FLOWS = Pipeline(
    "flows",
    said=INNER,
    renamed=INNER.rename(text="{question}").when("said"),
    summaries=each("chunks", generate("Summarise: {chunk}"), item="chunk", max_concurrency=4),
    replied=route(
        "{intent}",
        {"small talk": generate("{question}"), "look up": graded_for_yaml},
        default=template("Ask me something else."),
    ).default(""),
    best=first_of(generate("{question}"), generate("{question}", engine="quick")),
    safe=generate("{best}").fallback(template("Sorry, {user}.")),
    grown=parse_json("best"),
    turns=loop(
        Pipeline(
            "turn",
            better=generate("Make this better, as much as there is room for in the answer: {draft}"),
            grade=step(graded_for_yaml, answer="{better}"),
        ).with_inputs("draft", "unit"),
        until=template("{grade}"),
        carry={"draft": "better"},
        max_steps=3,
    ),
)


def test_control_flow_loads_to_what_python_declares() -> None:
    assert Pipeline.from_yaml(FLOWS_YAML) == FLOWS


def test_control_flow_is_written_as_one_would_write_it() -> None:
    assert FLOWS.to_yaml() == FLOWS_YAML


def test_control_flow_from_a_file_runs() -> None:
    pipeline = Pipeline.from_yaml("""\
pipeline: p
steps:
  marks: {each: words, body: {pipeline: mark, steps: {marked: {template: "{word}{mark}"}}}, item: word}
  final:
    loop: {pipeline: turn, steps: {longer: {template: "{text}."}, over: {template: "{full}"}}}
    until: over
    carry: {text: longer, full: text}
""")
    record = pipeline(words=["a", "b"], mark="!", text="", full="")
    assert record["final"] == {"text": "..", "longer": "...", "full": ".", "over": ".", "stopped": "until"}
    assert record["marks"] == [
        {"word": "a", "mark": "!", "marked": "a!"},
        {"word": "b", "mark": "!", "marked": "b!"},
    ]


def test_each_fault_in_a_body_is_told_with_its_line_and_the_steps_around_it() -> None:
    with pytest.raises(PipelineError) as caught:
        Pipeline.from_yaml(
            """\
pipeline: p
steps:
  notes:
    each: chunks
    body:
      pipeline: note
      steps:
        a: {genrate: x}
        b: {template: "{b}"}
        _c: {template: x}
  answer:
    route: "{intent}"
    to: {chat: {template: 5}, search: nowhere}
  turns: {loop: {pipeline: turn, stps: {}}, until: done}
  race: {first_of: {generate: x}}
  only: {first_of: [{generate: x}]}
  safe: {generate: x, fallback: {template: {}}}
  more: {each: xs, body: {template: "{a} {b}"}, step: {default: 1, on_error: skp}}
  sub: {pipeline: {pipeline: inner, steps: {x: {template: "{y}"}}}, inputs: {z: x}}
"""
        )
    assert [str(fault) for fault in caught.value.faults] == [
        "step 'notes.body.a': names no operator; unknown operator 'genrate': did you mean 'generate'? (line 8)",
        "step 'notes.body._c': a field's name does not start with an underscore; rename the step (line 10)",
        "step 'notes.body.b': is part of a cycle: 'b' -> 'b'; a step cannot need its own result (line 9)",
        "step 'answer.to.chat': template is 5: expected 'str', got 'int' (line 13)",
        "step 'answer.to.search': is 'nowhere', expected {OPERATOR: …} such as {template: 'Hello'} (line 13)",
        "step 'turns': unknown key 'stps': did you mean 'steps'? (line 14)",
        "step 'turns': it has no steps; expected steps: {FIELD: {OPERATOR: …}} (line 14)",
        "step 'race': is {'generate': 'x'}, expected a list of steps or pipelines (line 15)",
        "step 'only': first_of needs at least two racers, got 1 (line 16)",
        "step 'safe.fallback': template is {}: expected 'str', got 'object' (line 17)",
        "step 'more': step takes only 'on_error' here, got 'default' (line 18)",
        "step 'more': on_error is 'skp': invalid enum value 'skp' (line 18)",
        "step 'sub': pipeline 'inner' has no input 'z': choose from 'y' (line 19)",
    ]


def test_what_is_nested_too_deep_to_be_read_is_not_written() -> None:
    pipeline = Pipeline("p0", x=template("{y}"))
    for number in range(9):
        pipeline = Pipeline(f"p{number + 1}", inner=pipeline.rename(y="{y}"), x=template("{inner}"))
        assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline
    with pytest.raises(InputError, match=r"nested 4[0-9] deep in YAML, more than the 40"):
        for _ in range(12):
            pipeline = Pipeline("p", inner=nested(pipeline, y="{y}"))
            pipeline.to_yaml()


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
        (each("xs", lambda x: x), "step 'made.body' cannot be written.*'<lambda>' is not registered"),
        (first_of(template("x"), TURN.rename(n="{m}")), r"step 'made\[1\].done' cannot .*'<lambda>' is not"),
        (loop(TURN, until=lambda done: done), "step 'made.done' cannot be written.*'<lambda>'"),
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
        ("pipeline: p\nsteps: {a: {each: x, body: y}}", r"step 'a.body': is 'y', expected {OPERATOR: …}"),
        ("pipeline: p\nsteps: {a: {each: x}}", "each needs body: as well"),
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
        lambda index, **options: _fitting(lambda: search(index, **options)),
        TEXTS.filter(bool),
        near=FIELDS,
        text=st.none() | TEXTS,
        k=WHOLE,
        where=st.none() | st.dictionaries(TEXTS, PLAIN, max_size=3),
    ),
    st.builds(lambda **bound: step(looked_up_for_yaml, **bound), first=PLAIN, second=TEXTS),
)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True) | TEXTS.filter(
    lambda text: text != "" and not text.startswith("_")
)


def _modified(made: Any, modifiers: dict[str, Any]) -> Any:
    for modifier, value in modifiers.items():
        if modifier != "fallback" or made.otherwise is None:
            with contextlib.suppress(InputError):  # a plain function has no timeout
                made = getattr(made, modifier)(value)
    return made


def _fitting(make: Callable[[], Any]) -> Any:
    """A step, or a plain one where what was drawn for it does not fit together."""
    try:
        return make()
    except (InputError, PipelineError):
        return template("{x}")


def _flows(bodies: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Every construct around these bodies."""
    pipelines = st.builds(
        _inner, NAMES.filter(str.strip), st.dictionaries(NAMES, bodies, min_size=1, max_size=3)
    )
    body = bodies | pipelines.filter(bool)
    return st.one_of(
        pipelines.filter(bool).map(nested),
        st.builds(
            lambda inner: nested(inner, **dict.fromkeys(inner.plan.inputs[:1], "{z.y}")),
            pipelines.filter(bool),
        ),
        st.builds(
            lambda made, item, most, error: _fitting(
                lambda: each("xs", made, item=item, max_concurrency=most, on_error=error)
            ),
            body,
            st.sampled_from(["x", "y"]),
            st.integers(1, 64),
            st.sampled_from(["fail", "skip"]),
        ),
        st.builds(
            lambda label, to, other: _fitting(lambda: route(label, to, default=other)),
            TEXTS,
            st.dictionaries(TEXTS, body, min_size=1, max_size=2),
            st.none() | body,
        ),
        st.builds(
            lambda made, until: _fitting(lambda: _turns(made, until)),
            pipelines.filter(bool),
            st.none() | bodies,
        ),
        st.builds(lambda *racers: _fitting(lambda: first_of(*racers)), body, body),
        st.builds(
            lambda made, other: _fitting(lambda: made if made.otherwise else made.fallback(other)),
            bodies,
            body,
        ),
    )


def _inner(name: str, steps: dict[str, Any]) -> Pipeline | None:
    """A pipeline for a body, with its inputs said or its outputs narrowed, as its name has it."""
    pipeline = _buildable(name, steps)
    if pipeline is not None and len(name) % 3 == 0:
        return pipeline.with_inputs(*reversed(pipeline.plan.inputs), "unread")
    return pipeline.outputs(next(iter(steps))) if pipeline is not None and len(name) % 3 == 1 else pipeline


def _turns(made: Pipeline, until: Any) -> Any:
    last = next(iter(made.steps))
    return loop(made, until=until or last, carry=dict.fromkeys(made.plan.inputs[:1], last))


MODIFIERS = st.fixed_dictionaries(
    {},
    optional={
        "retry": st.integers(1, 5),
        "timeout": st.floats(1e-6, 1e6, allow_nan=False),
        "when": FIELDS,
        "on_error": st.just("skip"),
        "default": PLAIN,
        "fallback": BARE_STEPS,
    },
)
ANY_STEP = st.builds(
    _modified,
    st.recursive(
        BARE_STEPS | st.builds(sentences, FIELDS) | st.builds(parse_json, FIELDS), _flows, max_leaves=4
    ),
    MODIFIERS,
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
