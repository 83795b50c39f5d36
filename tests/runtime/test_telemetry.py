"""Spans of runs: what they say, that they hold no prompts, and that a broken exporter stops nothing."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from sage import EngineError, InputError, Pipeline, Session, SetupError
from sage.events import JobEnded, PipelineSeen, TaskEnded
from sage.ops import each, embed, generate, template
from sage.runtime.manifest import Manifest
from sage.runtime.perfetto import perfetto_trace
from sage.runtime.runs import StoredRun
from sage.runtime.spans import SpanData, job_spans, otlp
from sage.runtime.trail import trails
from sage.settings import Settings
from sage.testing import FakeEngine

SECRET = "a-very-secret-prompt"
MANIFEST = Manifest(run_id="20260101-0000-abcd", started="2026-01-01T00:00:00+00:00", sage="0.1")
PIPELINE = Pipeline(
    "rag",
    vector=embed("{q}"),
    prompt=template(SECRET + " {q}"),
    answer=generate("{prompt}", max_tokens=4),
)


def spans_of(run: StoredRun) -> list[SpanData]:
    return [span for trail in trails(run.events()) for span in job_spans(trail, run.manifest)]


def one_call(endpoint: str, **more: Any) -> SpanData:
    """The span of a single call at an endpoint."""
    plan = PipelineSeen(0.0, "p", ("a",), ("generate",), ((),))
    said: dict[str, Any] = {"outcome": "done", "completion_tokens": 2, **more}
    task = TaskEnded(2.0, 0, "a", said.pop("pool", "llm"), endpoint, ready=0.5, dispatched=1.0, **said)
    (trail,) = trails([plan, task, JobEnded(3.0, 0, "p", "done", 0.0, 0.0, (0.0, 3.0))])
    return list(job_spans(trail, MANIFEST))[-1]


@pytest.fixture
def run(recorded: Any) -> StoredRun:
    engines = {
        "llm": FakeEngine(name="fake:model", answer=lambda _: "a b c d", ttft_s=1.0, token_s=0.5),
        "embedder": FakeEngine(name="fake:vectors", text_s=0.1),
    }
    stored: StoredRun = recorded(PIPELINE, [{"q": f"{SECRET} {n}"} for n in range(2)], engines)
    return stored


# ---- what spans say


def test_a_job_is_a_trace_of_its_steps_and_their_calls(run: StoredRun) -> None:
    spans = [span for span in spans_of(run) if span.trace_id == spans_of(run)[0].trace_id]
    names = {span.span_id: span.name for span in spans}
    assert [(span.name, names.get(span.parent_id or "")) for span in spans] == [
        ("pipeline rag", None),
        ("step vector", "pipeline rag"),
        ("embeddings vectors", "step vector"),
        ("step prompt", "pipeline rag"),
        ("step answer", "pipeline rag"),
        ("chat model", "step answer"),
    ]
    for span in spans:
        assert spans[0].start_ns <= span.start_ns <= span.end_ns <= spans[0].end_ns


def test_calls_carry_the_attributes_of_the_conventions(run: StoredRun) -> None:
    (call, *_) = (span for span in spans_of(run) if span.name == "chat model")
    said = call.attributes
    assert call.kind == "client"
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.provider.name"] == "fake"
    assert said["gen_ai.request.model"] == "model"
    assert said["gen_ai.usage.output_tokens"] == 4
    assert int(said["gen_ai.usage.input_tokens"]) > 0
    assert said["sage.first_token_s"] == pytest.approx(1.0)
    assert call.end_ns - call.start_ns == pytest.approx(2.5e9)


def test_embeddings_have_no_output_tokens(run: StoredRun) -> None:
    (call, *_) = (span for span in spans_of(run) if span.name == "embeddings vectors")
    assert call.attributes["gen_ai.operation.name"] == "embeddings"
    assert "gen_ai.usage.output_tokens" not in call.attributes


def test_a_server_is_named_with_its_port_and_model() -> None:
    said = one_call("openai:http://127.0.0.1:8000/v1?model=Qwen2.5#2", cached_tokens=7).attributes
    assert said["server.address"] == "127.0.0.1"
    assert said["server.port"] == 8000
    assert said["gen_ai.request.model"] == "Qwen2.5"
    assert said["gen_ai.provider.name"] == "openai"
    assert said["gen_ai.usage.cache_read.input_tokens"] == 7


def test_functions_on_the_cpu_pool_are_no_calls_to_models() -> None:
    span = one_call("cpu", pool="cpu")
    assert span.kind == "internal"
    assert not any(name.startswith("gen_ai") for name in span.attributes)


def test_what_failed_is_an_error_on_the_call_the_step_and_the_job(recorded: Any) -> None:
    engine = FakeEngine(faults=[EngineError("x", fault="refused", status=400)])
    spans = spans_of(recorded(Pipeline("p", answer=generate("{q}")), [{"q": "a"}], {"llm": engine}))
    assert [span.error is not None for span in spans] == [True, True, True]
    assert spans[-1].attributes["error.type"] == "refused 400"


def test_ids_are_unique_and_the_same_each_time(recorded: Any) -> None:
    pipeline = Pipeline("p", notes=each("xs", generate("{item}")))
    run = recorded(pipeline, [{"xs": ["a", "b"]}] * 3, {"llm": FakeEngine()})
    spans = spans_of(run)
    assert len({span.span_id for span in spans}) == len(spans)
    assert spans == spans_of(run)
    assert all(len(span.trace_id) == 32 and len(span.span_id) == 16 for span in spans)


def test_no_export_holds_a_prompt(run: StoredRun) -> None:
    exports = (otlp(spans_of(run), run.manifest), perfetto_trace(run.events(), run.manifest))
    for export in exports:
        assert SECRET.encode() not in msgspec.json.encode(export)


def test_otlp_is_in_the_form_of_the_protocol(run: StoredRun) -> None:
    request = msgspec.json.decode(msgspec.json.encode(otlp(spans_of(run), run.manifest)))
    (scope,) = request["resourceSpans"][0]["scopeSpans"]
    first = scope["spans"][0]
    assert first.keys() == {
        "traceId", "spanId", "name", "kind", "startTimeUnixNano", "endTimeUnixNano", "attributes", "status",
    }  # fmt: skip
    assert first["startTimeUnixNano"].isdigit()
    kinds = {key for span in scope["spans"] for item in span["attributes"] for key in item["value"]}
    assert kinds == {"stringValue", "intValue", "doubleValue"}


# ---- Perfetto


def check_trace(trace: dict[str, Any]) -> None:
    """Complete events have what the Trace Event Format asks for; on one thread they nest or follow."""
    named = {(e["pid"], e["tid"]) for e in trace["traceEvents"] if e["name"] == "thread_name"}
    lanes: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in trace["traceEvents"]:
        assert event["ph"] in {"X", "M"}
        if event["ph"] == "X":
            assert event.keys() == {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"}
            assert event["dur"] >= 0
            assert (event["pid"], event["tid"]) in named
            lanes.setdefault((event["pid"], event["tid"]), []).append(
                (event["ts"], event["ts"] + event["dur"])
            )
    for spans in lanes.values():
        open_: list[float] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_ and open_[-1] <= start + 0.001:
                open_.pop()
            assert not open_ or end <= open_[-1] + 0.001
            open_.append(end)


def test_a_trace_is_valid_and_says_where_calls_ran(run: StoredRun) -> None:
    trace = msgspec.json.decode(msgspec.json.encode(perfetto_trace(run.events(), run.manifest)))
    check_trace(trace)
    processes = [e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"]
    assert processes == ["jobs", "embedder: fake:vectors", "llm: fake:model"]
    calls = [e for e in trace["traceEvents"] if e.get("cat") == "call" and e["name"] == "answer"]
    assert [call["dur"] for call in calls] == pytest.approx([2.5e6] * 2)
    assert trace["otherData"]["run"] == run.manifest.run_id


def test_overlapping_jobs_and_steps_get_threads_of_their_own(recorded: Any) -> None:
    pipeline = Pipeline("p", a=generate("a {q}"), b=generate("b {q}"), c=template("{a} {b}"))
    engine = FakeEngine(limit=3, ttft_s=1.0)
    run = recorded(pipeline, [{"q": str(n)} for n in range(9)], {"llm": engine}, max_inflight=4)
    trace = perfetto_trace(run.events(), run.manifest)
    check_trace(trace)
    assert len({e["tid"] for e in trace["traceEvents"] if e.get("cat") == "call"}) == 3


def test_a_batch_is_one_slice(recorded: Any) -> None:
    engine = FakeEngine(limit=1, text_s=0.01)
    run = recorded(
        Pipeline("p", vector=embed("{q}")),
        [{"q": str(n)} for n in range(20)],
        {"embedder": engine},
        max_inflight=20,
    )
    trace = perfetto_trace(run.events(), run.manifest)
    check_trace(trace)
    batches = [len(e["args"]["jobs"]) for e in trace["traceEvents"] if e.get("cat") == "call"]
    assert batches == [1, 19]


# ---- the SDK

sdk = pytest.importorskip("opentelemetry.sdk.trace.export", reason="needs the extra otel")


def exported(settings: Settings, exporter: Any, count: int = 3) -> StoredRun:
    """Run some records with an exporter, on the real clock: it exports from a thread."""
    from sage.runtime.runs import list_runs

    async def main() -> None:
        engines = {"llm": FakeEngine(name="fake:model"), "embedder": FakeEngine(name="fake:vectors")}
        async with Session(engines=engines, settings=settings, telemetry=exporter) as session:
            result = await session.run(PIPELINE, [{"q": str(n)} for n in range(count)])
            assert len(result.records) == count

    asyncio.run(main())
    return list_runs(settings)[0]


def test_a_session_exports_the_spans_of_its_jobs(tmp_home: Settings) -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    run = exported(tmp_home, exporter)
    got = exporter.get_finished_spans()
    assert sorted(f"{span.context.span_id:016x}" for span in got) == sorted(
        span.span_id for span in spans_of(run)
    )
    (chat, *_) = (span for span in got if span.name == "chat model")
    assert (chat.attributes or {})["gen_ai.operation.name"] == "chat"
    assert chat.kind.name == "CLIENT"
    assert chat.parent is not None
    assert chat.resource.attributes["sage.run.id"] == run.manifest.run_id
    assert SECRET not in "".join(span.to_json() for span in got)


def test_a_stored_run_can_be_exported_later(run: StoredRun) -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from sage.runtime.telemetry import export_spans

    exporter = InMemorySpanExporter()
    assert export_spans(spans_of(run), run.manifest, exporter) == len(exporter.get_finished_spans()) == 12


class Down(sdk.SpanExporter):  # type: ignore[misc, name-defined]  # the SDK may be absent
    """A collector that is not there."""

    def __init__(self, *, raises: bool) -> None:
        self.raises = raises

    def export(self, spans: Any) -> Any:
        if self.raises:
            raise ConnectionRefusedError("nobody listens")
        return sdk.SpanExportResult.FAILURE

    def shutdown(self) -> None:
        raise ConnectionRefusedError("nobody listens")


@pytest.mark.slow
@pytest.mark.parametrize("raises", [True, False])
def test_an_exporter_that_is_down_costs_one_warning_and_no_run(
    raises: bool, tmp_home: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run = exported(tmp_home, Down(raises=raises), count=200)
    assert run.manifest.counts["done"] == 200
    assert caplog.text.count("the run goes on") == 1


def test_an_export_that_is_asked_for_says_why_it_failed(run: StoredRun) -> None:
    from sage.runtime.telemetry import export_spans

    with pytest.raises(SetupError, match="nobody listens"):
        export_spans(spans_of(run), run.manifest, Down(raises=True))
    with pytest.raises(SetupError, match="did not take"):
        export_spans(spans_of(run), run.manifest, Down(raises=False))


def test_spans_need_a_log(tmp_home: Settings) -> None:
    with pytest.raises(InputError, match="record=True"):
        Session(settings=tmp_home, record=False, telemetry=Down(raises=False))
