"""``vllm:`` with a stand-in for the server: a folder whose ``serve PORT`` starts an emulated one, as vLLM's would."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sage.engines.base import GenerateRequest, Message, ignore_pieces, open_engine
from sage.errors import EngineError, InputError, SetupError
from sage.settings import Settings

pytestmark = pytest.mark.slow

HELLO = GenerateRequest(messages=(Message("user", "hello"),), max_tokens=4)

SERVE = f"""#!{sys.executable}
import os, sys
open(os.path.join(os.path.dirname(__file__), "pids"), "a").write(f"{{os.getpid()}}\\n")
from sage.testing.server import main
main(["--port", sys.argv[1]])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    serve = tmp_path / "serve"
    serve.write_text(SERVE)
    serve.chmod(0o700)
    return tmp_path


def pids(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "pids").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.02)


def test_a_server_is_started_used_and_ended(folder: Path, tmp_home: Settings) -> None:
    async def main() -> None:
        async with open_engine(f"vllm:{folder}?limit=3", tmp_home) as engine:
            assert (engine.info.limit, engine.info.address) == (3, f"vllm:{folder}")
            assert (await engine.generate(HELLO, ignore_pieces)).text
        (pid,) = pids(folder)
        await until(lambda: not is_running(pid))

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_server_that_dies_is_started_anew(folder: Path, tmp_home: Settings) -> None:
    async def main() -> None:
        async with open_engine(f"vllm:{folder}", tmp_home) as engine:
            os.kill(pids(folder)[0], signal.SIGKILL)
            await until(lambda: len(pids(folder)) == 2)
            async with asyncio.timeout(30):
                while True:
                    try:
                        assert (await engine.generate(HELLO, ignore_pieces)).text
                        break
                    except EngineError as error:
                        assert error.fault == "unreachable"  # noqa: PT017 - any other is raised
                        await asyncio.sleep(0.05)

    asyncio.run(main())
    assert not any(map(is_running, pids(folder)))


def test_a_server_that_ends_at_once_says_its_last_words(folder: Path, tmp_home: Settings) -> None:
    (folder / "serve").write_text(f"#!{sys.executable}\nraise SystemExit('no such model')\n")

    async def main() -> None:
        async with open_engine(f"vllm:{folder}", tmp_home):
            pass

    with pytest.raises(SetupError, match="ended with 1 instead of starting; it said last: no such model"):
        asyncio.run(main())


def test_a_start_time_that_makes_no_sense_is_refused(tmp_home: Settings) -> None:
    async def main() -> None:
        async with open_engine("vllm:m?start_s=soon", tmp_home):
            pass

    with pytest.raises(InputError, match="start_s is 'soon'"):
        asyncio.run(main())
