"""Which pipeline or stream a user means: a YAML file, a pipeline in a Python file, or one in a module."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from sage import Pipeline
from sage.errors import InputError, SageError, nearest
from sage.runtime.formats import cannot

if TYPE_CHECKING:
    from sage.stream import Stream

__all__ = ["import_files", "load_flow", "load_target"]

T = TypeVar("T")
YAML_ENDINGS = (".yaml", ".yml", ".json")


def load_target(target: str) -> Pipeline:
    """The pipeline at ``FILE.yaml``, ``FILE.py:NAME`` or ``package.module:NAME``.

    NAME may be left out where there is one pipeline only. Python files are imported, which runs them.

    Raises:
        InputError: no such file, module or name, or importing it failed.
        PipelineError: the pipeline has faults.
    """
    if target.lower().endswith(YAML_ENDINGS):
        return Pipeline.from_yaml(_existing(Path(target)))
    found: Pipeline = _loaded(target, (Pipeline,))
    return found


def _loaded(target: str, kinds: tuple[type[Any], ...]) -> Any:
    """What of these kinds stands in a Python file or module."""
    where, _, name = target.rpartition(":") if ":" in target else (target, "", "")
    if where.endswith(".py"):
        return _named(where, _import_file(_existing(Path(where))), name, kinds)
    if "/" in where or Path(where).is_file():
        raise InputError(
            f"{target}: expected a .yaml or .py file; a module is named with dots: package.module:NAME"
        )
    return _named(where, _imported(where, lambda: _import_module(where)), name, kinds)


def load_flow(target: str) -> Pipeline | Stream:
    """The pipeline or the stream at such a place; a YAML file is a stream if it says ``stream:``.

    Raises:
        InputError: no such file, module or name, or importing it failed.
        PipelineError: it has faults.
    """
    if not target.lower().endswith(YAML_ENDINGS):
        found: Pipeline | Stream = _loaded(target, (Pipeline, _streams()))
        return found
    from sage.graph.yaml import load_document

    path = _existing(Path(target))
    _, data, _ = load_document(path)
    if isinstance(data, dict) and "stream" in data:
        return _streams().from_yaml(path)
    return Pipeline.from_yaml(path)


def _streams() -> type[Stream]:
    from sage.stream import Stream

    return Stream


def import_files(paths: Iterable[Path]) -> None:
    """Import Python files, so that the functions they register can be named in YAML.

    Raises:
        InputError: no such file, or importing it failed.
    """
    for path in paths:
        _import_file(_existing(path))


def _existing(path: Path) -> Path:
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise InputError(cannot("read", path, error)) from error


def _import_file(path: Path) -> ModuleType:
    """The module in a file; what stands beside it can be imported from it, as when Python runs the file."""
    name = f"sage_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    loader, module = spec.loader, importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.modules[name] = module
    _imported(str(path), lambda: loader.exec_module(module))
    return module


def _import_module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise InputError(
                f"no module {error.name!r} here; name a file as FILE.py:NAME or FILE.yaml, or a module on the path"
            ) from error
        raise


def _imported(where: str, load: Callable[[], T]) -> T:
    """Import something of the user's; what goes wrong in it is their error, with its line."""
    try:
        return load()
    except SageError:
        raise
    except SyntaxError as error:
        raise InputError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        frames = [
            frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
        ]
        line = f"{frames[-1].filename}:{frames[-1].lineno}" if len(frames) > 1 else where
        raise InputError(f"{line}: importing it raised {type(error).__name__}: {error}") from error


def _named(where: str, module: ModuleType, name: str, kinds: tuple[type[Any], ...]) -> Any:
    found = {key: value for key, value in vars(module).items() if isinstance(value, kinds)}
    what = " or ".join(kind.__name__ for kind in kinds)
    if name in found:
        return found[name]
    if name and hasattr(module, name):
        kind = type(getattr(module, name)).__name__
        raise InputError(f"{where}:{name} is of type {kind!r}, expected a {what}: {nearest(name, found)}")
    if name:
        raise InputError(f"{where} has no {what.lower()} {name!r}: {nearest(name, found)}")
    different = {id(one): one for one in found.values()}
    if len(different) == 1:
        return next(iter(different.values()))
    if not found:
        raise InputError(f"{where} has no {what.lower()}; make one at its top level: NAME = Pipeline(…)")
    many = " and ".join(sorted({f"{type(one).__name__.lower()}s" for one in found.values()}))
    raise InputError(
        f"{where} has {len(different)} {many}; say which: {', '.join(f'{where}:{key}' for key in found)}"
    )
