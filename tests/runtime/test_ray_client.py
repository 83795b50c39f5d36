"""A cluster that is reached from outside, through Ray Client."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

#: Two nodes, of which the first takes clients; there until its input ends.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster()
for more in ({"ray_client_server_port": int(sys.argv[1])}, {}):
    cluster.add_node(
        num_cpus=1, include_dashboard=False, node_ip_address="127.0.0.1", object_store_memory=100 * 2**20, **more
    )
print("ready", flush=True)
sys.stdin.read()
cluster.shutdown()
"""

DRIVER = """
import asyncio, os, signal, sys
from sage import Pipeline, Session
from sage.ops import generate, step
from sage.runtime.ray_cluster import RayCluster

class Graded:
    def __init__(self, score):
        self.score = score

def grade(x):
    if x == 7:
        raise ValueError("seven is bad luck")
    return Graded(x / 2)

def kill_once(x, marker):
    if x == 20 and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()

pipeline = Pipeline(
    "p",
    grade=step(grade, pool="cpu"),
    score=lambda grade: grade.score,
    long=step(lambda x: "y" * 300_000, pool="cpu"),
    length=step(lambda long: len(long), pool="cpu"),
    pid=step(kill_once, pool="cpu"),
    answer=generate("{x}", max_tokens=4),
)

async def main():
    cluster = RayCluster(address=sys.argv[1])
    async with Session(runtime=cluster, engines={"llm": "emulated:constant?where=node"}, record=False) as session:
        result = await session.run(pipeline, [{"x": x, "marker": sys.argv[2]} for x in range(60)])
    for record in result.records:
        print(record["x"], record["score"], record["length"], record["answer"] != "", record["pid"])
    for failure in result.failures:
        print("failed", failure.index, failure.error)

asyncio.run(main())
"""


SAGE = ("-c", "import sys; from sage.cli import main; sys.exit(main())")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a cluster that only its clients' port is used of."""
    pytest.importorskip("ray", reason="the package ray is not installed")
    script = tmp_path_factory.mktemp("cluster") / "cluster.py"
    script.write_text(CLUSTER)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, str(script), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"},
    ) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()).strip() != "ready":
            assert line, f"the cluster ended with {process.wait()}"
        yield f"ray://127.0.0.1:{port}"


def ran(*line: str, cwd: Path) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, *line], check=False, capture_output=True, text=True, cwd=cwd, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_run_from_outside_loses_nothing_when_a_worker_dies(address: str, tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    said, told = ran("driver.py", address, str(tmp_path / "marker"), cwd=tmp_path)
    *records, failed = said.splitlines()
    rows = [line.split() for line in records]
    assert [row[:4] for row in rows] == [[str(x), str(x / 2), "300000", "True"] for x in range(60) if x != 7]
    assert failed.startswith("failed 7 step 'grade'")
    assert "seven is bad luck" in failed
    assert len({row[4] for row in rows}) >= 2  # workers
    assert re.search(r"^cpu@node\d/\d is gone; its calls are made again elsewhere$", told, re.MULTILINE)


def test_the_command_line_and_the_doctor_reach_it_from_outside(address: str, tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(
        "from sage import Pipeline\nfrom sage.ops import step\n\np = Pipeline('p', y=step(lambda x: x * 2, pool='cpu'))\n"
    )
    where = ("--runtime", "ray", "--address", address)
    said, _ = ran(*SAGE, "run", "p.py:p", "--set", "x=1", *where, cwd=tmp_path)
    assert json.loads(said)["y"] == "11"
    said, _ = ran(*SAGE, "doctor", *where, cwd=tmp_path)
    assert "node2" in said
