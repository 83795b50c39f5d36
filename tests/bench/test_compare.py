"""Two results side by side: what changed, how sure that is, and what a gate makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sage import InputError
from sage.bench.compare import Gate, compare, figures_in, parse_gate
from sage.bench.results import open_experiment, write_json


def stat(value: float | None) -> dict[str, Any]:
    return {
        "n": 400,
        "mean": value,
        "min": value,
        "max": value,
        "p50": value,
        "p90": value,
        "p95": value,
        "p99": value,
    }


def experiment(
    folder: Path, name: str, values: Sequence[float | None], *, kind: Any = "measured", **axes: Any
) -> Path:
    """An experiment with one repeat for each latency."""
    out = folder / name
    with open_experiment(out, "serve", kind=kind, config={"seed": 1}) as made:
        for number, value in enumerate(values):
            with made.running(f"repeat-{number}", axes=axes, repeat=number) as cell:
                summary = {
                    "requests_per_s": None if value is None else 1 / value,
                    "requests": {"done": 400, "failed": 0},
                    "e2e_s": stat(value),
                    "goodput": {"per_s": 1.0, "attainment": {"share": 0.5}},
                }
                write_json(cell / "summary.json", summary)
    return out


def gated(
    folder: Path, old: Sequence[float | None], new: Sequence[float | None], gate: str
) -> tuple[str, str]:
    found = compare(
        experiment(folder, "old", old), experiment(folder, "new", new), gates=[parse_gate(gate)]
    ).gates[0]
    return found.verdict, found.text


def test_figures_have_names_to_be_compared_by(tmp_path: Path) -> None:
    found = figures_in(
        {
            "e2e_s": stat(0.5),
            "requests_per_s": 2,
            "requests": {"done": 3, "failed": 2},
            "goodput": {"per_s": 1.5, "attainment": {"share": 0.75}},
            "status": "complete",
            "generator_limited": False,
        }
    )
    assert (found["e2e_p95"], found["requests_per_s"], found["failed"]) == (0.5, 2.0, 2.0)
    assert (found["goodput_per_s"], found["attainment"]) == (1.5, 0.75)
    assert found.keys().isdisjoint({"status", "generator_limited"})


@pytest.mark.parametrize(
    ("old", "new", "gate", "verdict"),
    [
        ([1.0, 1.01, 0.99], [1.2, 1.21, 1.19], "e2e_p95:+5%", "failed"),
        ([1.0, 1.01, 0.99], [1.2, 1.21, 1.19], "e2e_p95:+50%", "passed"),
        ([1.0, 1.01, 0.99], [0.5, 0.51, 0.49], "e2e_p95:+5%", "passed"),  # better is never worse
        ([1.0, 1.2, 0.8], [1.1, 1.3, 0.9], "e2e_p95:+5%", "unsure"),
        ([1.0], [1.2], "e2e_p95:+5%", "failed"),
        ([1.0], [1.04], "e2e_p95:+5%", "passed"),
        ([1.0], [1.04], "e2e_p95:+0%", "failed"),
        ([1.0], [1.2], "requests_per_s:-5%", "failed"),
        ([1.0], [0.8], "requests_per_s:-5%", "passed"),
        ([1.0], [1.03], "e2e_p95:+20ms", "failed"),
        ([1.0], [1.01], "e2e_p95:+20ms", "passed"),
        ([1.0], [None], "e2e_p95:+5%", "failed"),  # what is not there is no pass
    ],
)
def test_a_gate_fails_only_what_is_surely_beyond_it(
    tmp_path: Path, old: list[float | None], new: list[float | None], gate: str, verdict: str
) -> None:
    assert gated(tmp_path, old, new, gate)[0] == verdict


def test_a_gate_says_what_it_rests_on(tmp_path: Path) -> None:
    assert (
        gated(tmp_path, [1.0], [1.2], "e2e_p95:+5%")[1]
        == "e2e_p95:+5%: 1 -> 1.2, +20.0 %, 1 run each: no interval"
    )


def test_nothing_failed_before_and_something_now_is_a_failure(tmp_path: Path) -> None:
    old, new = experiment(tmp_path, "old", [1.0]), experiment(tmp_path, "new", [1.0])
    assert compare(old, new, gates=[parse_gate("failed:+0%")]).gates[0].verdict == "passed"


def test_a_change_is_better_or_worse_only_with_an_interval(tmp_path: Path) -> None:
    old = experiment(tmp_path, "old", [1.0, 1.01, 0.99])
    slow = experiment(tmp_path, "slow", [1.2, 1.21, 1.19])
    once = experiment(tmp_path, "once", [1.2])
    by_figure = {change.figure: change.sure for change in compare(old, slow).changes}
    assert (by_figure["e2e_p95"], by_figure["requests_per_s"]) == ("worse", "worse")
    assert by_figure["attainment"] == "no difference shown"
    assert {change.sure for change in compare(slow, old).changes} == {"better", "no difference shown", ""}
    assert {change.sure for change in compare(old, once).changes} == {""}


def test_simulated_and_measured_are_never_compared(tmp_path: Path) -> None:
    old = experiment(tmp_path, "old", [1.0], kind="simulated")
    with pytest.raises(InputError, match="never compared"):
        compare(old, experiment(tmp_path, "new", [1.0]))


def test_points_are_compared_by_their_axes(tmp_path: Path) -> None:
    old = experiment(tmp_path, "old", [1.0], concurrency=4)
    assert compare(old, experiment(tmp_path, "same", [1.0], concurrency=4)).changes[0].axes == {
        "concurrency": 4
    }
    with pytest.raises(InputError, match="differ in concurrency"):
        compare(old, experiment(tmp_path, "other", [1.0], concurrency=8))


def test_an_unknown_figure_is_refused_with_the_nearest(tmp_path: Path) -> None:
    old, new = experiment(tmp_path, "old", [1.0]), experiment(tmp_path, "new", [1.0])
    with pytest.raises(InputError, match="did you mean 'attainment'"):
        compare(old, new, figures=["atainment"])


@pytest.mark.parametrize("text", ["e2e_p95", "e2e_p95:5%", "e2e_p95:+5h", "E2E:+5%", ":+5%", "e2e_p95:+%"])
def test_a_gate_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"expected FIGURE:\+5%"):
        parse_gate(text)


def test_gates_are_read() -> None:
    assert parse_gate("ttft_p99:+20ms") == Gate("ttft_p99", 0.02, True, False, "ttft_p99:+20ms")
    assert parse_gate("failed:-3") == Gate("failed", 3.0, False, False, "failed:-3")


def test_what_makes_two_results_hard_to_compare_is_noted(tmp_path: Path) -> None:
    old = experiment(tmp_path, "old", [1.0])
    with open_experiment(tmp_path / "new", "other", kind="measured", config={"seed": 2}) as made:
        with made.running("repeat-0", axes={}) as cell:
            write_json(cell / "summary.json", {"e2e_s": stat(1.0)})
        made.update(python="2.7")
    notes = compare(old, tmp_path / "new").notes
    assert notes == (
        "they are different experiments: serve and other",
        "their python differ",
        "they differ in seed",
    )
