"""A Ray cluster: which one is meant, how one is started on this machine, and what can be seen of its nodes."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import logging
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from sage.engines.cpus import usable_cpus
from sage.errors import InputError, SetupError
from sage.runtime.ray_nodes import Look, NodeFacts, Rows, node_rows, nodes_in
from sage.settings import changed_environment

__all__ = ["Connection", "Host", "RayCluster", "connected", "nodes_of", "require_ray"]

LOCAL = "local"
AUTO = "auto"
CLIENT = "ray://"
KNOCK_S = 5.0
CLIENT_TRIES = 3  # a head forks a process for each client, which at times crashes before it is up
STOP_S = 20.0  # how long a cluster that was started here may take to end

logger = logging.getLogger("sage")


@dataclass(frozen=True, slots=True, kw_only=True)
class RayCluster:
    """Which Ray cluster a session uses, and how.

    Attributes:
        address: ``"local"`` starts a cluster on this machine, for the session alone; ``"auto"`` means the one this
            machine is part of; ``HOST:PORT`` is a head node, whose network this machine is part of; and
            ``ray://HOST:PORT`` one that is reached from outside, through Ray Client.
        nodes: of a cluster that is started, how many.
        cpus: of a cluster that is started, the CPUs of each node; None: this machine's.
        workers: processes a node and pool; None: as many as the node has CPUs free for.
        slots: functions at once in one worker. They share a Python interpreter: more than one is worth it
            for functions that wait or compute outside it.
        credits: calls that are sent to a worker ahead of its free slots, so that it never waits for the next.

    Raises:
        InputError: an option out of its range, or one that does not fit the address.
    """

    address: str = LOCAL
    nodes: int | None = None
    cpus: int | None = None
    workers: int | None = None
    slots: int = 1
    credits: int = 2

    def __post_init__(self) -> None:
        counts = {"nodes": self.nodes, "cpus": self.cpus, "workers": self.workers, "slots": self.slots}
        for name, count in counts.items():
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):  # type: ignore[redundant-expr]  # a caller may not check types
                raise InputError(f"{name} is {count!r}, expected a whole number above 0")
        if isinstance(self.credits, bool) or not isinstance(self.credits, int) or self.credits < 0:  # type: ignore[redundant-expr]  # as above
            raise InputError(f"credits is {self.credits!r}, expected a whole number from 0 up")
        if not isinstance(self.address, str) or not self.address.strip():  # type: ignore[redundant-expr]  # as above
            raise InputError(f"address is {self.address!r}, expected 'local', 'auto' or an address")
        if self.address != LOCAL and (self.nodes is not None or self.cpus is not None):
            raise InputError(
                f"nodes and cpus are of a cluster that is started here, but {self.address!r} is one that runs already"
            )


def require_ray() -> Any:
    """The module ``ray``, imported on first use.

    Raises:
        SetupError: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise SetupError(
            "the runtime 'ray' needs the package ray, which is not installed; pip install \"sage-dataflow[ray]\""
        )
    import ray

    return ray


@dataclass(slots=True)
class Connection:
    """This process's connection to a cluster; Ray has one a process, so sessions share it."""

    ray: Any
    cluster: RayCluster  # as it was asked for
    closing: contextlib.ExitStack  # takes back what connecting did; nothing, if the user had connected
    look: Look = node_rows
    host: Host | None = None  # holds the cluster, if it was started here
    users: int = 0


_lock = threading.Lock()  # protects _current: sessions may open on several threads
_current: list[Connection] = []


@contextlib.contextmanager
def connected(cluster: RayCluster) -> Iterator[Connection]:
    """Be connected to a cluster, started first if need be. Blocks for seconds; sessions at one time share it.

    Raises:
        SetupError: Ray is not installed, the cluster does not answer or does not start.
        InputError: this process is connected to another cluster.
    """
    with _lock:
        connection = _joined(cluster) or _connect(cluster)
        connection.users += 1
    try:
        yield connection
    finally:
        with _lock:
            connection.users -= 1
            if connection.users == 0:
                _current.remove(connection)
                connection.closing.close()


def _joined(cluster: RayCluster) -> Connection | None:
    """The connection that is there, if it will do."""
    if not _current:
        return None
    connection = _current[0]
    here = connection.cluster
    if (cluster.address, cluster.nodes, cluster.cpus) == (here.address, here.nodes, here.cpus):
        return connection
    if cluster.address != LOCAL:
        _knock(cluster.address)  # what is wrong with an address is said first
    raise InputError(
        f"this process is connected to Ray cluster {here.address!r}, and Ray has one a process; "
        f"close the session that uses it before opening one for {cluster.address!r}"
    )


def _connect(cluster: RayCluster) -> Connection:
    connection = _start(cluster) if cluster.address == LOCAL else _join(cluster)
    _current.append(connection)
    return connection


def _join(cluster: RayCluster) -> Connection:
    ray = require_ray()
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            _knock(cluster.address)
            stack.enter_context(_messages_in_the_log())
            _init(ray, cluster.address)
            stack.callback(_hang_up, ray)
        return Connection(ray, cluster, stack.pop_all(), _look_by(ray))


def _hang_up(ray: Any) -> None:
    """Disconnect. Ray Client logs its own hanging up as an error, which would only alarm."""
    client = logging.getLogger("ray.util.client")
    before = client.level
    client.setLevel(logging.CRITICAL)
    try:
        ray.shutdown()
    finally:
        client.setLevel(before)


def _look_by(ray: Any) -> Look:
    """How this process can look at the nodes: by itself, or through a task where it is outside of the cluster."""
    from ray._private.client_mode_hook import client_mode_should_convert

    if not client_mode_should_convert():  # type: ignore[no-untyped-call]  # Ray's
        return node_rows
    task = ray.remote(num_cpus=0)(node_rows)

    def look() -> Rows:
        rows: Rows = ray.get(task.remote())
        return rows

    return look


def _knock(address: str) -> None:
    """Ray itself would try for a minute, and say so, where nobody listens."""
    host, colon, port = address.removeprefix(CLIENT).rpartition(":")
    if not colon or not port.isdigit():
        if address != AUTO:
            raise InputError(
                f"address is {address!r}, expected 'local', 'auto', HOST:PORT of a head node, or ray://HOST:PORT"
            )
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
    except OSError as error:
        raise SetupError(
            f"no Ray cluster can be reached at {address!r}: {error}; is it running? "
            "`ray start --head` starts one, and address 'local' one for this run alone"
        ) from error


def _init(ray: Any, address: str, **options: Any) -> None:
    for left in reversed(range(CLIENT_TRIES if address.startswith(CLIENT) else 1)):
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
        except (ConnectionError, ImportError, ValueError, RuntimeError, OSError) as error:
            if left and isinstance(error, ConnectionAbortedError):
                continue
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise SetupError(
                f"no Ray cluster can be reached at {address!r}: {said}; is it running, and does this machine have "
                "its token? `ray start --head` starts one, and address 'local' one for this run alone"
            ) from error
        else:
            return


def _start(cluster: RayCluster) -> Connection:
    """A cluster on this machine that listens on the loopback address only and asks for a token."""
    with contextlib.ExitStack() as stack:
        stack.callback(_read_anew)
        stack.enter_context(changed_environment(**_private_to_us()))
        ray = require_ray()
        _read_anew()
        if ray.is_initialized():
            raise InputError(
                "this process is connected to a Ray cluster already; "
                "give runtime=RayCluster(address='auto') to use it"
            )
        host = stack.enter_context(Host())
        for _ in range(cluster.nodes or 1):
            host.add(cluster.cpus if cluster.cpus is not None else usable_cpus())
        stack.enter_context(_messages_in_the_log())
        _connect_to(ray, host, stack)
        return Connection(ray, cluster, stack.pop_all(), host=host)


@contextlib.contextmanager
def _messages_in_the_log() -> Iterator[None]:
    """Log what the nodes of a cluster tell a driver, such as that one died.

    Ray prints it on standard output whatever it is told, and there our records go.
    """
    worker: Any = importlib.import_module("ray._private.worker")
    printed = worker.print_to_stdstream

    def log(data: Mapping[str, Any], **_: object) -> None:
        for message in data["lines"]:
            logger.warning("Ray says: %s", " ".join(message.split()))

    worker.print_to_stdstream = log
    try:
        yield
    finally:
        worker.print_to_stdstream = printed


def _read_anew() -> None:
    """Have Ray read from the environment how to prove who it is, as it does by itself when it is imported."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def _connect_to(ray: Any, host: Host, stack: contextlib.ExitStack) -> None:
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = (
        False  # 127.0.0.1 is then taken as said; the nodes are told by environment
    )
    stack.callback(setattr, ray_constants, "ENABLE_RAY_CLUSTER", before)
    _init(ray, host.address, _node_ip_address="127.0.0.1")
    stack.callback(ray.shutdown)


def _private_to_us() -> dict[str, str]:
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


class Host:
    """A process of its own that holds the nodes of a cluster; see ``sage.runtime.ray_host``. Blocks.

    It ends when this process does, whatever ended it, since its standard input ends then.
    """

    def __init__(self) -> None:
        self.address = ""
        self.nodes: list[str] = []  # ids, in the order they were added

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sage.runtime.ray_host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C is for us
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def add(self, cpus: int, resources: Mapping[str, float] | None = None) -> str:
        """Add a node; its id.

        Raises:
            SetupError: it does not start; those that run already go on.
        """
        answer = self._tell(f"add {cpus} {json.dumps(dict(resources or {}))}")
        if "error" in answer:
            said = answer["error"].strip().splitlines()[0]
            raise SetupError(f"no Ray node can be started on this machine: {said}")
        self.address = answer["address"]
        self.nodes.append(answer["node"])
        return answer["node"]

    def kill(self, node: str) -> None:
        """End a node's processes at once, as if its machine had failed."""
        self._tell(f"kill {node}")
        self.nodes.remove(node)

    def _tell(self, command: str) -> dict[str, str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            raise SetupError(f"no Ray cluster can be started on this machine: {self._last_words()}")
        said: dict[str, str] = json.loads(answer)
        return said

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        if self._process.poll() is None or self._process.stderr is None:
            return "it does not answer"
        lines = self._process.stderr.read().strip().splitlines()
        return lines[-1] if lines else f"it ended with {self._process.returncode}"


def nodes_of(connection: Connection) -> list[NodeFacts]:
    """The nodes that are alive, in the order of their ids. Blocks for some milliseconds."""
    return nodes_in(connection.look())
