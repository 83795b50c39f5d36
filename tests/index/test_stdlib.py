from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from sage.graph.values import Passage
from sage.index.stdlib import MAX_CHARS, stdlib_passages

pytestmark = pytest.mark.slow

QUIET = """
import json, locale, os, signal, sys, threading, warnings
from sage.index.stdlib import stdlib_passages

def state():
    return [
        [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        [str(thread) for thread in threading.enumerate()],
        [str(entry) for entry in warnings.filters],
        locale.setlocale(locale.LC_ALL), os.getcwd(), sys.path, str(sys.stdout), str(sys.excepthook),
        sorted(os.environ.items()),
    ]

before = state()
passages = stdlib_passages()
assert state() == before, (before, state())
assert not {"antigravity", "this", "tkinter", "readline"} & set(sys.modules)
print(json.dumps([[p.id, p.title, p.text, dict(p.meta)] for p in passages]))
"""


@pytest.fixture(scope="module")
def passages() -> dict[str, Passage]:
    return {passage.id: passage for passage in stdlib_passages()}


def test_the_library_gives_thousands_of_passages_with_names_of_their_own() -> None:
    found = stdlib_passages()
    assert len(found) >= 1_500
    assert len({passage.id for passage in found}) == len(found)
    assert [passage.id for passage in found] == sorted(passage.id for passage in found)


@pytest.mark.parametrize(
    "name",
    [
        "bisect.bisect_left",
        "collections.Counter.most_common",
        "str.split",
        "open",
        "os.path.join",
        "itertools.product",
        "asyncio.gather",
        "ipaddress.IPv4Network.subnet_of",  # of a base class without a public name
    ],
)
def test_things_go_by_their_public_names(passages: dict[str, Passage], name: str) -> None:
    assert passages[name].title == name


@pytest.mark.parametrize("name", ["io.open", "posixpath.join", "_bisect.bisect_left", "asyncio.tasks.gather"])
def test_a_thing_with_several_names_appears_once(passages: dict[str, Passage], name: str) -> None:
    assert name not in passages


def test_no_part_of_a_name_is_private(passages: dict[str, Passage]) -> None:
    assert not [name for name in passages if any(part.startswith("_") for part in name.split("."))]


def test_no_text_is_empty_or_too_long(passages: dict[str, Passage]) -> None:
    assert all(
        0 < len(passage.text.strip()) == len(passage.text) <= MAX_CHARS for passage in passages.values()
    )


def test_a_signature_stands_in_the_metadata(passages: dict[str, Passage]) -> None:
    assert passages["heapq.nlargest"].meta == {"module": "heapq", "signature": "(n, iterable, key=None)"}


def test_a_signature_is_taken_out_of_a_text_that_begins_with_it(passages: dict[str, Passage]) -> None:
    product = passages["itertools.product"]
    assert product.text.startswith("Cartesian product")
    assert str(product.meta["signature"]).startswith("(*iterables")


def test_signatures_hold_no_addresses(passages: dict[str, Passage]) -> None:
    assert not [p.id for p in passages.values() if " at 0x" in str(p.meta.get("signature", ""))]


def test_signatures_hold_nothing_of_this_machine(passages: dict[str, Passage]) -> None:
    places = (sys.executable, sys.prefix, sys.base_prefix, str(Path.home()))
    shown = {name: str(passage.meta.get("signature", "")) for name, passage in passages.items()}
    assert not [name for name, text in shown.items() if any(f"'{place}" in text for place in places)]


def test_processes_find_the_same_and_stay_as_they_were() -> None:
    def found(seed: str, before: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-c", before + QUIET],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert found("1") == found("2", "import logging, rich.console, numpy; logging.basicConfig()\n")


def test_it_may_be_asked_again_without_a_trace(capfd: pytest.CaptureFixture[str]) -> None:
    before = (signal.getsignal(signal.SIGINT), threading.enumerate(), list(warnings.filters))
    assert stdlib_passages() == stdlib_passages()
    assert (signal.getsignal(signal.SIGINT), threading.enumerate(), list(warnings.filters)) == before
    assert capfd.readouterr() == ("", "")
