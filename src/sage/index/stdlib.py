"""The documentation of Python's own standard library as passages: real text that is on every machine."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import pkgutil
import re
import sys
import warnings
from collections import ChainMap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sage.graph.values import Passage

__all__ = ["stdlib_passages"]

#: What one passage may hold, in characters: what a docstring says first says what the thing is for. Of 42
#: questions, the built-in embedder had the right passage first for 21 and among three for 32; with 400
#: characters for 20 and 29, at a third more cost.
MAX_CHARS = 250

#: Shorter docstrings ("Return nothing.") say less than the name does.
MIN_CHARS = 24

MAX_SIGNATURE_CHARS = 120  # longer ones are not worth showing

#: Top-level modules that are left out: what they do when imported, or whom they are for.
LEFT_OUT = frozenset(
    {
        # they act on import: print, open a browser, change the terminal
        *("antigravity", "this", "readline", "rlcompleter"),
        # programs, demonstrations and data rather than a library; windows on a screen
        *("idlelib", "turtledemo", "pydoc_data", "ensurepip", "encodings", "tkinter", "turtle", "curses"),
        # Python's own compiler and build files
        *("sre_compile", "sre_constants", "sre_parse", "opcode", "lib2to3"),
        # another platform's os.path; the real one is os.path
        *("ntpath", "nturl2path", "posixpath", "genericpath"),
        # deprecated, gone in Python 3.12 or 3.13 (PEP 594, PEP 632)
        *("aifc", "asynchat", "asyncore", "audioop", "cgi", "cgitb", "chunk", "crypt", "distutils", "imghdr"),
        *("imp", "mailcap", "msilib", "nis", "nntplib", "ossaudiodev", "pipes", "smtpd", "sndhdr", "spwd"),
        *("sunau", "telnetlib", "uu", "xdrlib"),
    }
)

_TEST_PACKAGES = frozenset({"test", "tests"})


class _Member(NamedTuple):
    """A documented thing and the public name that was found for it."""

    name: str  # qualified: module.Class.method
    module: str
    value: Any


def stdlib_passages() -> list[Passage]:
    """The docstrings of the standard library's public functions, classes and methods, sorted by name.

    A passage's id and title are the public qualified name (``bisect.bisect_left``,
    ``collections.Counter.most_common``; built-ins stand without a module: ``str.split``). Its text is the
    docstring, cut after a paragraph or sentence to MAX_CHARS. Its metadata are the ``module`` and, where
    Python knows it, the ``signature``. Something with several names appears once, under the shortest.

    Imports the whole library on the first call (300 modules, half a second, 30 MB); what cannot be imported
    here (another platform's modules) is left out. The result depends on the Python version and platform, and
    on what the process has replaced in the library, such as ``sys.excepthook``.

    >>> passages = {passage.id: passage for passage in stdlib_passages()}
    >>> passages["heapq.nlargest"].meta["signature"]
    '(n, iterable, key=None)'
    """
    passages: dict[str, Passage] = {}
    seen: set[tuple[str, str]] = set()  # (last part of the name, text): the same thing implemented twice
    for member in sorted(_members(), key=lambda member: (member.name.count("."), member.name)):
        call, text = _split_call(member, _docstring(member.value))
        key = (member.name.rpartition(".")[2], text)
        if len(text) < MIN_CHARS or key in seen:
            continue
        seen.add(key)
        signature = _signature(member) or call
        meta = {"module": member.module} | ({"signature": signature} if signature else {})
        passages[member.name] = Passage(member.name, _shortened(text), title=member.name, meta=meta)
    return [passages[name] for name in sorted(passages)]


def _members() -> Iterator[_Member]:
    """Every public function, class, method and property, each under one name."""
    best: dict[int, _Member] = {}  # id of the object -> the name it is best known by
    for module in _public_modules():
        for member in _exports(module):
            known = best.get(id(member.value))
            if known is None or _rank(member) < _rank(known):
                best[id(member.value)] = member
    for member in best.values():
        yield member
        if inspect.isclass(member.value):
            yield from _methods(member)


def _public_modules() -> list[ModuleType]:
    """The standard library's public modules and their public submodules, imported quietly."""
    modules = []
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for name in sorted(sys.stdlib_module_names - LEFT_OUT):
            if not name.startswith("_"):
                modules += _imported(name)
    return modules


def _imported(name: str) -> list[ModuleType]:
    """A module and its public submodules; nothing when it does not exist on this platform."""
    try:
        module = importlib.import_module(name)
    except (ImportError, AttributeError, OSError, ValueError):
        return []  # how a module for another platform fails
    modules = [module]
    for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if not info.name.startswith("_") and info.name not in _TEST_PACKAGES:
            modules += _imported(f"{name}.{info.name}")
    if name == "os":
        modules += _imported("os.path")
    return modules


def _exports(module: ModuleType) -> Iterator[_Member]:
    """What a module offers: what it lists in ``__all__``, otherwise the public names it defines itself."""
    name = "os.path" if module is sys.modules["os.path"] else module.__name__
    prefix = "" if name == "builtins" else name + "."
    listed = getattr(module, "__all__", None)
    for attribute in vars(module) if listed is None else listed:
        value = getattr(module, attribute, None)
        if attribute.startswith("_") or not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        if listed is not None or not prefix or _home(value) in {name, "_" + name, module.__name__, None}:
            yield _Member(prefix + attribute, name, value)


def _home(value: Any) -> str | None:
    """The module something says it was defined in."""
    home = getattr(value, "__module__", None)
    return home if isinstance(home, str) else None


def _rank(member: _Member) -> tuple[int, bool, str]:
    """Lower is better: short, not an alias, early in the alphabet."""
    last = member.name.rpartition(".")[2]
    return (member.name.count("."), last != getattr(member.value, "__name__", last), member.name)


def _methods(owner: _Member) -> Iterator[_Member]:
    """The public methods and properties of a class: its own, and those of bases that nobody can name."""
    nameless = [base for base in owner.value.__mro__[1:] if base.__name__.startswith("_")]
    for attribute, value in ChainMap(*(vars(cls) for cls in (owner.value, *nameless))).items():
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        documented = inspect.isroutine(function) or isinstance(function, property)
        an_alias = getattr(function, "__name__", attribute) != attribute
        if documented and not an_alias and not attribute.startswith("_"):
            yield _Member(f"{owner.name}.{attribute}", owner.module, function)


def _docstring(value: Any) -> str:
    """The thing's own docstring, without indentation, and without the signature that some begin with."""
    written = getattr(value, "__doc__", None)
    if not isinstance(written, str):
        return ""
    if inspect.isclass(value) and any(base.__doc__ is written for base in value.__mro__[1:]):
        return ""
    return inspect.cleandoc(written).strip()


def _split_call(member: _Member, text: str) -> tuple[str, str]:
    """The parameters and the rest of a docstring that begins with how to call the thing.

    Functions written in C say it in words where Python cannot ask: ``product(*iterables, repeat=1) --> …``.
    """
    head, _, rest = text.partition("\n\n")
    name = re.escape(member.name.rpartition(".")[2])
    calls = [re.match(rf"(?:\w+\.)*{name}(\([^()]*\))", line) for line in head.splitlines()]
    if calls and calls[0] and rest and all(calls):
        return calls[0].group(1), rest.strip()
    return "", text


def _signature(member: _Member) -> str:
    """The call's parameters as Python prints them; nothing where they are unknown."""
    try:
        signature = inspect.signature(member.value)
    except (ValueError, TypeError, AttributeError):  # the last: defaults that name constants of the platform
        return ""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_plain(parameter.default))
        for name, parameter in signature.parameters.items()
        if name not in {"self", "cls"}
    ]
    text = str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    return text if len(text) <= MAX_SIGNATURE_CHARS else "(…)"


class _Unsaid:
    """Stands for a default whose form depends on the process: no constant, or a path on this machine."""

    def __repr__(self) -> str:
        return "…"


def _plain(default: Any) -> Any:
    if isinstance(default, str) and Path(default).is_absolute():
        return _Unsaid()
    constant = default is None or default is inspect.Parameter.empty or default == ()
    return default if constant or type(default) in {bool, int, float, str, bytes} else _Unsaid()


def _shortened(text: str) -> str:
    """The text up to MAX_CHARS, ended after a paragraph, else a sentence, else a word."""
    if len(text) <= MAX_CHARS:
        return text
    head = text[:MAX_CHARS]
    for end in ("\n\n", ".\n", ". ", "\n", " "):
        cut = head.rfind(end)
        if cut > MAX_CHARS // 3:
            return head[: cut + end.startswith(".")].rstrip()
    return head
