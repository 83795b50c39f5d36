"""The Gantt chart of a run: as data, as text, as svg."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from sage import EngineError, Pipeline
from sage.events import JobEnded, PipelineSeen
from sage.ops import each, generate, template
from sage.runtime.gantt import chart, gantt_text
from sage.runtime.gantt_svg import gantt_svg
from sage.runtime.runs import StoredRun
from sage.testing import FakeEngine

SVG = "{http://www.w3.org/2000/svg}"


def shown(seconds: float) -> str:
    return f"{seconds:g} s"


@pytest.fixture
def run(recorded: Any) -> StoredRun:
    """Four jobs, one call at a time: three seconds of queue and one of service for the last."""
    pipeline = Pipeline("p", prompt=template("say {q}"), answer=generate("{prompt}"))
    engine = FakeEngine(name="fake:one", limit=1, ttft_s=1.0)
    stored: StoredRun = recorded(pipeline, [{"q": str(n)} for n in range(4)], {"llm": engine})
    return stored


def test_the_slowest_jobs_are_shown_slowest_first(run: StoredRun) -> None:
    found = chart(run.events(), run.manifest, jobs=2)
    assert [job.job for job in found.jobs] == [3, 2]
    assert found.scale_s == pytest.approx(4.0)
    assert [row.name for row in found.jobs[0].rows] == ["prompt", "answer"]


def test_an_endpoint_is_as_full_as_its_calls_made_it(run: StoredRun) -> None:
    (lane,) = chart(run.events(), run.manifest, columns=8).lanes
    assert lane.cells == pytest.approx((1.0,) * 8)
    assert lane.full == 1.0


def test_text_shows_queue_then_service(run: StoredRun) -> None:
    lines = gantt_text(chart(run.events(), run.manifest, jobs=1), 60, shown)
    (answer,) = (line for line in lines if line.startswith("answer"))
    assert max(len(line) for line in lines if "█" in line and "at an" not in line) == 60
    bars = answer.split(maxsplit=1)[1]
    assert set(bars) == {"░", "█"}
    assert bars.count("░") == pytest.approx(3 * bars.count("█"), abs=2)
    (lane,) = (line for line in lines if line.startswith("fake:one"))
    assert set(lane.split(maxsplit=1)[1]) == {"█"}


def test_pauses_before_retries_are_drawn(recorded: Any) -> None:
    engine = FakeEngine(ttft_s=0.1, faults=[EngineError("x", fault="overloaded", retry_after_s=5.0)])
    run = recorded(Pipeline("p", answer=generate("{q}")), [{"q": "a"}], {"llm": engine})
    found = chart(run.events(), run.manifest)
    kinds = [bar.kind for bar in found.jobs[0].rows[0].bars]
    assert kinds.count("paused") == 1
    assert "~~~~" in "\n".join(gantt_text(found, 80, shown))


def test_a_step_with_a_body_shows_what_is_inside(recorded: Any) -> None:
    pipeline = Pipeline("p", notes=each("xs", generate("{item}")))
    run = recorded(pipeline, [{"xs": list("abc")}], {"llm": FakeEngine(limit=1, ttft_s=1.0)})
    rows = chart(run.events(), run.manifest).jobs[0].rows
    assert [row.name for row in rows] == ["notes", "notes[0]", "notes[1]", "notes[2]"]
    assert [bar.kind for bar in rows[0].bars] == ["inside"]


def test_many_places_inside_share_a_row(recorded: Any) -> None:
    pipeline = Pipeline("p", notes=each("xs", generate("{item}")))
    run = recorded(pipeline, [{"xs": list(map(str, range(50)))}], {"llm": FakeEngine(ttft_s=1.0)})
    assert [row.name for row in chart(run.events()).jobs[0].rows] == ["notes", "notes[*]"]


def test_rows_beyond_the_limit_are_counted() -> None:
    names = tuple(f"s{number}" for number in range(30))
    plan = PipelineSeen(0.0, "p", names, ("fn",) * 30, ((),) * 30)
    found = chart([plan, JobEnded(1.0, 0, "p", "done", 0.0, 0.0, (0.0, 1.0) * 30)])
    assert found.jobs[0].num_left_out == 6
    assert gantt_text(found, 80, shown)[-1] == "and 6 rows more"
    assert "and 6 rows more" in gantt_svg(found, "t", shown)


def test_an_empty_log_draws_nothing_and_breaks_nothing() -> None:
    found = chart([])
    assert (found.window_s, found.jobs, found.lanes) == (0.0, (), ())
    assert gantt_text(found, 80, shown) == []
    ET.fromstring(gantt_svg(found, "empty", shown))


def test_a_job_that_took_no_time_is_drawn() -> None:
    plan = PipelineSeen(0.0, "p", ("a",), ("fn",), ((),))
    found = chart([plan, JobEnded(0.0, 0, "p", "done", 0.0, 0.0, (0.0, 0.0))])
    assert gantt_text(found, 80, shown)[-1].split() == ["a", "▓"]
    ET.fromstring(gantt_svg(found, "t", shown))


def test_svg_is_well_formed_needs_nothing_else_and_keeps_inside_its_frame(run: StoredRun) -> None:
    text = gantt_svg(chart(run.events(), run.manifest), 'Run <1> & "2"\x01', shown)
    root = ET.fromstring(text)
    assert "href" not in text
    assert "url(" not in text
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for box in root.iter(f"{SVG}rect"):
        if "x" in box.attrib:
            assert float(box.attrib["x"]) + float(box.attrib["width"]) <= width
            assert float(box.attrib["y"]) + float(box.attrib["height"]) <= height


def test_rows_of_svg_do_not_lie_on_each_other(run: StoredRun) -> None:
    root = ET.fromstring(gantt_svg(chart(run.events(), run.manifest, jobs=4), "t", shown))
    names = [
        float(text.attrib["y"]) for text in root.iter(f"{SVG}text") if "name" in text.attrib.get("class", "")
    ]
    assert len(names) == 1 + 4 * 2
    assert all(
        later - earlier >= 20 for earlier, later in zip(sorted(names), sorted(names)[1:], strict=False)
    )
