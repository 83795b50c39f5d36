"""The examples of streams: with answers of a few tokens where real models answer."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import sage.testing  # noqa: F401 - adds the engine fake:
from sage.stream import Stream

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
FAKE = ("--engine", "fake:memory")


def example(name: str) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_file_says_the_same_stream_as_the_code() -> None:
    module = example("stream_classify")
    assert Stream.from_yaml(EXAMPLES / "stream_classify.yaml") == module.counted(module.MESSAGES)


def test_paid_orders_are_joined_and_summarised_by_the_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    assert example("stream_join").main(list(FAKE)) == 0
    found = printed(capsys)
    assert [(record["orders"], record["paid"]) for record in found] == [(3, 122.4), (2, 45.5)]
    assert found[0]["window_start"] == "2026-11-26T09:00:00+00:00"


@pytest.mark.slow
def test_the_index_follows_its_documents(capsys: pytest.CaptureFixture[str]) -> None:
    assert example("stream_index").main([*FAKE, "--embedder", "fake:memory"]) == 0
    out = capsys.readouterr().out
    assert "new: lending.html, 1 passages" in out
    assert "changed: opening.md, 1 passages" in out


@pytest.mark.models
@pytest.mark.slow
def test_messages_are_sorted_and_counted_on_the_embedded_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert example("stream_classify").main([]) == 0
    found = printed(capsys)
    windows = [record for record in found if "count" in record]
    assert sum(record["count"] for record in windows) == 8
    assert {record["topic"] for record in windows} <= {"billing", "delivery", "defect"}
    assert [record["user"] for record in found if "count" not in record] == ["ida"]


@pytest.mark.models
@pytest.mark.slow
def test_the_second_answer_knows_the_changed_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert example("stream_index").main(["--max-tokens", "6"]) == 0
    first, second = [line for line in capsys.readouterr().out.splitlines() if "library open?" in line]
    assert "from nine to five" in first
    assert "from ten to eight" in second


@pytest.mark.models
@pytest.mark.slow
def test_windows_are_summarised_on_the_embedded_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert example("stream_join").main(["--max-tokens", "6"]) == 0
    assert all(record["summary"] for record in printed(capsys))
