"""Runs a program that must not outlive whoever started it: ``python -m sage.engines.guard PROGRAM ARGUMENT…``.

When standard input ends, because it was closed or because its owner was killed, the program and all it started are
ended: politely, and after ten seconds by force. Otherwise it ends as the program does, and ends what that left.

The guard proper is a child of the process that was started: a worker of Ray's kills its children when it ends, and
they could not guard anything any more, but not the children of those.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

__all__ = ["guard", "main"]

GRACE_S = 10.0


def guard(command: Sequence[str]) -> int:
    """Run a command until it ends or standard input does; its exit code."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as program:  # noqa: S603 - what the user named

        def end() -> None:
            with contextlib.suppress(OSError):
                while os.read(sys.stdin.fileno(), 1024):
                    pass
            _end(program)

        threading.Thread(target=end, daemon=True).start()
        code = program.wait()
        with contextlib.suppress(
            ProcessLookupError
        ):  # servers may leave processes behind when they are killed
            os.killpg(program.pid, signal.SIGKILL)
        return code


def _end(program: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(GRACE_S)
            return


def main() -> int:
    """Guard in a child, and end as it does."""
    child = os.fork()
    if not child:
        return guard(sys.argv[1:])
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
