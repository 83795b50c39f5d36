from __future__ import annotations

import io
import subprocess
import sys

import pytest

import sage.cli.output
from sage import __version__
from sage.cli import VERBS, app, exit_code
from sage.cli.output import Bar, table
from sage.errors import EngineError, Fault, InputError, InternalError, PipelineError, StepError


def called(*args: str) -> int:
    return exit_code(lambda: app(args=list(args), prog_name="sage"))


def raising(error: BaseException, *, debug: bool = False) -> int:
    def run() -> None:
        raise error

    return exit_code(run, debug=debug)


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("--help") == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


@pytest.mark.slow
def test_help_imports_no_verb() -> None:
    code = (
        "import sys; from sage.cli import app, exit_code; exit_code(lambda: app(args=['--help']));"
        "print([name for name in sys.modules if name.startswith('sage.cli.')], 'sage.session' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.endswith("[] False\n")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("--version") == 0
    assert capsys.readouterr().out == f"sage {__version__}\n"


def test_an_unknown_verb_is_a_fault_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("rnu") == 2
    assert "No such command 'rnu'" in capsys.readouterr().err


def test_an_unknown_option_is_a_fault_of_usage() -> None:
    assert called("show", "p.yaml", "--fromat", "svg") == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("no such file"), 2),
        (StepError("a", "raised"), 1),
        (EngineError("down", fault="unreachable"), 3),
        (EngineError("busy", fault="overloaded"), 1),
    ],
)
def test_an_error_is_one_line_and_its_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(error) == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_where_an_error_happened_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    error = EngineError("down", fault="unreachable")
    error.add_note("in step 'answer'")
    raising(error)
    assert capsys.readouterr().err == "error: down (in step 'answer')\n"


def test_a_pipeline_s_faults_are_all_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(PipelineError("p", [Fault("a", "is odd"), Fault("b", "is even")])) == 2
    shown = capsys.readouterr().err
    assert "step 'a': is odd" in shown
    assert "step 'b': is even" in shown


@pytest.mark.parametrize(("error", "code"), [(KeyError("x"), 1), (InternalError("lost"), 2)])
def test_a_bug_is_told_with_what_to_do(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(error) == code
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert "run again with --debug" in shown
    assert "Traceback" not in shown


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    raising(InputError("x"), debug=True)
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_ends_with_130() -> None:
    assert raising(KeyboardInterrupt()) == 130


def test_a_reader_that_has_gone_is_no_news(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(BrokenPipeError(32, "Broken pipe")) == 1
    assert capsys.readouterr().err == ""


# ---- printing


def test_a_table_is_as_wide_as_it_needs() -> None:
    assert table(("a", "b"), [("long one", "1"), ("x", "")]) == "a         b\nlong one  1\nx"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sage.cli.output, "monotonic", clock)
    return clock


def test_a_bar_off_a_terminal_is_a_line_every_ten_seconds(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Bar("records", 100) as bar:
        for second in range(25):
            clock.now = second
            bar.advance(bad=second == 0)
            bar.tick()
    assert capsys.readouterr().err == (
        "3 of 100 records, 1 failed, 2.00 s\n"
        "13 of 100 records, 1 failed, 12.00 s\n"
        "23 of 100 records, 1 failed, 22.00 s\n"
    )


def test_a_bar_on_a_terminal_is_drawn_after_two_seconds(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Bar("records", None) as bar:
        bar.tick()
        assert terminal.getvalue() == ""
        clock.now = 3
        bar.advance()
        bar.tick()
    assert "1 records" in terminal.getvalue()
