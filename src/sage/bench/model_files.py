"""Model files by their names: results say which file a model was, not where it lay on somebody's disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sage.engines.base import parse_address
from sage.engines.models import MODELS
from sage.errors import InputError
from sage.runtime.packed import sha256_of

__all__ = ["ModelFiles"]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The models among some engines that are files named by their path.

    Attributes:
        paths: as addresses say them.
        sha256: name -> hash of the file. Folders have none.
    """

    paths: tuple[str, ...]
    sha256: Mapping[str, str]

    @classmethod
    def of(cls, engines: Mapping[str, str | tuple[str, ...]]) -> ModelFiles:
        """Those of all pools. Reads every byte of each file.

        Raises:
            InputError: two files have one name, so that results could not tell them apart.
        """
        files = {target: Path(target).expanduser() for target in _targets(engines) if target not in MODELS}
        files = {target: path for target, path in files.items() if path.name and path.exists()}
        names = [path.name for path in files.values()]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"two models are called {name!r}, and results name them so; rename one")
        hashes = {path.name: sha256_of(path) for path in files.values() if path.is_file()}
        return cls(tuple(sorted(files, key=len, reverse=True)), hashes)

    def named(self, said: str) -> str:
        """A text, such as an address or JSON, with each path in it shortened to the file's name.

        >>> ModelFiles(("models/tiny.gguf",), {}).named("llama:models/tiny.gguf?slots=1")
        'llama:tiny.gguf?slots=1'
        """
        for path in self.paths:
            name = Path(path).name
            said = said.replace(path, name).replace(_in_json(path), _in_json(name))
        return said

    def engines(self, engines: Mapping[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
        """The addresses of pools, shortened."""
        return {
            pool: self.named(said) if isinstance(said, str) else tuple(map(self.named, said))
            for pool, said in engines.items()
        }

    def shorten(self, folder: Path) -> None:
        """Shorten the paths in the text files of a folder."""
        for file in folder.iterdir() if self.paths else ():
            file.write_text(self.named(file.read_text(encoding="utf-8")), encoding="utf-8")


def _targets(engines: Mapping[str, str | tuple[str, ...]]) -> Iterable[str]:
    for said in engines.values():
        for address in (said,) if isinstance(said, str) else said:
            yield parse_address(address).target


def _in_json(text: str) -> str:
    return msgspec.json.encode(text).decode()[1:-1]
