"""The guards of conftest.py, tried out."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sage.settings import Settings


def test_a_socket_cannot_leave_the_machine(refused_addresses: list[str]) -> None:
    with socket.socket() as outward, pytest.raises(PermissionError, match="no network"):
        outward.connect(("192.0.2.1", 9))
    assert refused_addresses.pop() == "('192.0.2.1', 9)"


def test_a_name_outside_the_machine_does_not_resolve() -> None:
    with pytest.raises(socket.gaierror, match="no network"):
        socket.getaddrinfo("example.org", 80)


def test_a_socket_reaches_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass


def test_settings_point_to_the_home_of_the_session(session_home: Path, tmp_path: Path) -> None:
    assert Settings.load(start=tmp_path) == Settings(home=session_home)
