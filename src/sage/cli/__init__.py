"""The command line: one verb a file, imported when it is used.

Exit codes: 0 done, 1 some records failed, 2 usage or a fault in the pipeline, 3 engine unreachable, 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sage.errors import InternalError, SageError

__all__ = ["VERBS", "app", "is_broken_pipe", "main"]

#: Verb -> its line in ``sage --help``. Each is the ``app`` of the module of its name.
VERBS = {
    "run": "Run a pipeline over records of a file, or over one record.",
    "demo": "Answer questions about Python's standard library with the embedded models.",
    "show": "Show what a pipeline is made of: text, mermaid, svg or JSON.",
    "explain": "Say where a run's time went, and what to change first.",
    "runs": "List, look at and remove recorded runs.",
    "advise": "Say with what policy, endpoints and admission an objective is met.",
    "simulate": "Try policies and loads on emulated engines in virtual time.",
    "index": "Build, search and look at indexes of passages.",
    "bench": "Measure quality and speed, by suites whose results can be checked.",
    "models": "List and fetch the models that run inside SAGE.",
    "doctor": "Say what is installed, what is missing, and what to type.",
}

INTERRUPTED = 130


class Verbs(TyperGroup):
    """Imports a verb when it is asked for; ``sage --help`` imports none."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb to run, with its own options."""
        if args and args[0] in VERBS:
            module = importlib.import_module(f"sage.cli.{args[0]}")
            self.commands[args[0]] = typer.main.get_command(module.app)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="sage",
    cls=Verbs,
    help="Declarative dataflows of LLM inference.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _named() -> None:
    """Stands for a verb until it is imported."""


for _verb, _help in VERBS.items():
    app.command(_verb, help=_help)(_named)


def _print_version(asked: bool) -> None:
    if asked:
        from sage import __version__

        print(f"sage {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole traceback of an error. May stand anywhere.")
    ] = False,
) -> None:
    """What may be said before any verb; both are dealt with elsewhere."""


def main() -> None:
    """Run the command line of this process, and end it. SIGTERM, as supervisors send it, is taken as Ctrl-C."""
    _hold_back_ctrl_c()
    signal.signal(signal.SIGTERM, _interrupt)
    args = sys.argv[1:]
    debug = "--debug" in args
    code = exit_code(
        lambda: app(args=[arg for arg in args if arg != "--debug"], prog_name="sage"), debug=debug
    )
    _leave(code)


def _hold_back_ctrl_c() -> None:
    """Where Ctrl-C is ignored, as for what a script put into the background, let only SIGTERM be taken as one."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(*_: object) -> None:
    is_pending = signal.SIGINT in signal.sigpending()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if not is_pending:
        signal.raise_signal(signal.SIGINT)


def exit_code(run: Callable[[], object], *, debug: bool = False) -> int:
    """Run a command; errors become a line on stderr and the code the process ends with."""
    try:
        run()
        sys.stdout.flush()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the edge of the process: every error becomes a line and a code
        if is_broken_pipe(error):
            return 1
        if debug:
            traceback.print_exception(error)
        _say(_lines(error))
        return error.exit_code if isinstance(error, SageError) else 1
    return 0


def _lines(error: Exception) -> list[str]:
    """What the user reads: the message, where it happened, and for a bug what to do."""
    if isinstance(error, SageError) and not isinstance(error, InternalError):
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        return [f"error: {error}{notes}"]
    said = str(error) if isinstance(error, SageError) else f"{type(error).__name__}: {error}"
    return [
        f"error: {said}",
        "this looks like a bug in SAGE; run again with --debug and report what it prints",
    ]


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def is_broken_pipe(error: BaseException | None) -> bool:
    """Whether whoever read our output has gone, as in ``sage run … | head``."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            return True
        error = error.__cause__
    return False


def _leave(code: int) -> None:
    """End the process now, even if a function of the user's still runs in a thread that nobody waits for."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # the reader has gone; Python would complain once more when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if any(thread is not threading.main_thread() for thread in threading.enumerate()):
        os._exit(code)
    sys.exit(code)
