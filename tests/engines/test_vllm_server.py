"""``vllm:`` with a stand-in for the server: a folder whose ``serve PORT`` starts an emulated one, as vLLM's would."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from sage import Pipeline, Session
from sage.engines.base import GenerateRequest, MayEnd, Message, ignore_pieces, open_engine
from sage.errors import EngineError, InputError, SetupError
from sage.ops import generate
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


def has_begun(folder: Path, servers: int) -> bool:
    return len(pids(folder)) == servers


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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


def test_calls_of_a_server_that_dies_are_lost_and_whoever_opened_it_is_told_first(
    folder: Path, tmp_home: Settings
) -> None:
    async def main() -> None:
        told: list[str] = []
        async with open_engine(f"vllm:{folder}", tmp_home) as engine:
            assert isinstance(engine, MayEnd)
            engine.on_end(lambda: told.append("early"))
            os.kill(pids(folder)[0], signal.SIGKILL)
            with pytest.raises(EngineError) as caught:
                while True:
                    await engine.generate(HELLO, ignore_pieces)
            assert (caught.value.fault, told) == ("lost", ["early"])
            engine.on_end(lambda: told.append("late"))
            assert told == ["early", "late"]

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_server_that_dies_in_a_session_is_started_anew_and_no_job_is_lost(
    folder: Path, tmp_home: Settings
) -> None:
    ask = Pipeline("ask", answer=generate("say {x}", max_tokens=4))

    async def main() -> None:
        async with Session(engines={"llm": f"vllm:{folder}?limit=4"}, settings=tmp_home) as session:
            await session.ready(ask)
            (before,) = session.snapshot().endpoints

            async def records() -> AsyncIterator[dict[str, int]]:
                for x in range(60):
                    if x in {20, 40}:
                        os.kill(pids(folder)[-1], signal.SIGKILL)
                        await until(partial(has_begun, folder, x // 20 + 1))
                    yield {"x": x}

            result = await session.run(ask, records(), max_inflight=4)
            assert len(result.records) == 60
            (after,) = session.snapshot().endpoints
            assert (after.name, after.state) == (before.name, "healthy")

    asyncio.run(main())
    assert len(pids(folder)) == 3
    assert not any(map(is_running, pids(folder)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_server_started_ends_with_it(tmp_path: Path, tmp_home: Settings) -> None:
    (tmp_path / "serve").write_text(
        SERVE.replace("from sage", "import subprocess\nsubprocess.Popen(['sleep', '1000'])\nfrom sage", 1)
    )
    (tmp_path / "serve").chmod(0o700)

    async def main() -> None:
        async with open_engine(f"vllm:{tmp_path}", tmp_home):
            (pid,) = pids(tmp_path)
            (child,) = children(pid)
            assert is_running(child)
            os.kill(pid, signal.SIGKILL)
            await until(lambda: not is_running(child))

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_guard_whose_front_is_killed_still_ends_the_program(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("import os, sys, time\nprint(os.getpid(), flush=True)\ntime.sleep(1000)\n")
    command = [sys.executable, "-m", "sage.engines.guard", sys.executable, str(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as front:
        assert front.stdout is not None
        program = int(front.stdout.readline())
        front.kill()
        front.wait()
        assert is_running(program)
        assert front.stdin is not None
        front.stdin.close()
        asyncio.run(until(lambda: not is_running(program)))


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
