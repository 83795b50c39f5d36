"""What every test stands on: no network, a home of its own, no thread left behind, and the Makefile's options."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from sage.runtime.ray_cluster import Connection, RayCluster, connected, nodes_of
from sage.settings import VARIABLES, Settings

ROOT = Path(__file__).parents[1]
IN_CI = os.environ.get("CI", "").lower() not in {"", "0", "false"}

#: Examples per property. `make test`, `make check` and `make soak` choose one by --hypothesis-profile.
PROFILES = {"default": 200, "check": 2_000, "soak": 50_000}

for _name, _examples in PROFILES.items():
    hypothesis.settings.register_profile(
        _name,
        max_examples=_examples,
        deadline=None,  # a shared machine pauses when it likes
        derandomize=IN_CI and _name != "soak",
        print_blob=True,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
hypothesis.settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--vllm", default="", help="address of a vLLM server, or a folder whose `serve PORT` starts one"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("models") is not None and missing_models():
        say = f"not in the model cache: {', '.join(missing_models())}; type make models"
        if IN_CI:
            pytest.fail(say, pytrace=False)
        pytest.skip(say)
    if item.get_closest_marker("vllm") is not None and not item.config.getoption("--vllm"):
        pytest.skip("no vLLM server named; type make test-vllm VLLM=URL")


# ---- folders


@pytest.fixture(scope="session", autouse=True)
def session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SAGE_HOME of this test session: empty but for the machine's model cache. Nothing else is inherited."""
    models = Settings.load().models_dir
    home = tmp_path_factory.mktemp("home")
    if models.is_dir():
        (home / "models").symlink_to(models)
    with pytest.MonkeyPatch.context() as patch:
        for variable in VARIABLES:
            patch.delenv(variable, raising=False)
        patch.setenv("SAGE_HOME", str(home))
        yield home


@pytest.fixture
def tmp_home(tmp_path: Path) -> Settings:
    """Default settings over an empty home: no models, no indexes, no runs."""
    return Settings(home=tmp_path / "home")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository; tests that need it are skipped without."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}")
    return folder


@cache
def missing_models() -> tuple[str, ...]:
    """The built-in models that are not cached on this machine."""
    from sage.engines.models import MODELS, is_cached

    return tuple(name for name in MODELS if not is_cached(name))


# ---- nothing leaves the machine


def is_here(address: Any) -> bool:
    """Whether a socket address is on this machine: a path, or a loopback address."""
    if not isinstance(address, tuple):
        return True
    try:
        return address[0] == "localhost" or ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def refused_addresses() -> Iterator[list[str]]:
    """Lets sockets reach this machine only; collects what else they were asked for."""
    refused: list[str] = []

    def guarded(connect: Any) -> Any:
        def only_here(self: socket.socket, address: Any) -> Any:
            if not is_here(address):
                refused.append(str(address))
                raise PermissionError(f"tests have no network: {address}")
            return connect(self, address)

        return only_here

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name and not is_here((name,)):
            raise socket.gaierror(socket.EAI_NONAME, f"tests have no network: {name}")
        return getaddrinfo(host, *args, **kwargs)

    getaddrinfo = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
        patch.setattr(socket, "getaddrinfo", resolve)
        yield refused


@pytest.fixture(autouse=True)
def nothing_leaves_the_machine(refused_addresses: list[str]) -> Iterator[None]:
    yield
    asked, refused_addresses[:] = list(refused_addresses), []
    assert not asked, f"the test reached for {', '.join(asked)}"


# ---- nothing is left behind

GRACE_S = 2.0


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Closes the default session, then fails a test after which a thread that keeps the process alive runs."""
    before = set(threading.enumerate())
    yield
    if "sage.default" in sys.modules:
        sys.modules["sage.default"].DEFAULT.close()
    left = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in left:
        thread.join(GRACE_S / len(left))
    names = sorted(thread.name for thread in left if thread.is_alive())
    assert not names, f"the test left threads running: {', '.join(names)}"


# ---- a real Ray cluster


@pytest.fixture(scope="session")
def ray_connection() -> Iterator[Connection]:
    """A cluster of two nodes with one CPU each on this machine, for sessions of all tests to share."""
    pytest.importorskip("ray", reason="the package ray is not installed")
    with connected(RayCluster(nodes=2, cpus=1)) as connection:
        yield connection


@pytest.fixture
def ray_cluster(ray_connection: Connection) -> RayCluster:
    """What a session is told, to use that cluster, once nothing of earlier tests is left on it."""
    give_up = time.monotonic() + 50.0
    while not _is_idle(ray_connection):
        assert time.monotonic() < give_up, nodes_of(ray_connection)
        time.sleep(0.02)
    return ray_connection.cluster


def _is_idle(connection: Connection) -> bool:
    """Whether the workers of other sessions are gone, and nodes that were killed are known to be."""
    assert connection.host is not None
    nodes = nodes_of(connection)
    free = all(node.free.get("cpu") == node.total["cpu"] for node in nodes)
    return free and len(nodes) == len(connection.host.nodes)


#: Nodes that are killed one after the other in one run, by profile.
KILLS = {"default": 1, "check": 2, "soak": 50}


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How many nodes a test kills."""
    return KILLS[request.config.getoption("--hypothesis-profile") or "default"]


# ---- a real vLLM

VLLM_START_S = 300.0


@pytest.fixture(scope="session")
def vllm_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running vLLM, up to /v1; started and stopped here when a folder was named."""
    said: str = request.config.getoption("--vllm")
    if "://" in said:
        yield said.rstrip("/")
        return
    port = free_port()
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("wb") as out:
        command = [str(Path(said).resolve() / "serve"), str(port)]
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        wait_until_it_answers(server, url, log)
        yield url
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_it_answers(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    give_up = time.monotonic() + VLLM_START_S
    while time.monotonic() < give_up:
        if server.poll() is not None:
            pytest.fail(f"vLLM ended with {server.returncode}; the end of {log}:\n{log.read_text()[-2000:]}")
        try:
            with opener.open(f"{url}/models", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"vLLM did not answer within {VLLM_START_S:g} s; see {log}")
