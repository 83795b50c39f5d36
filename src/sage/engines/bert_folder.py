"""A BERT-family embedder's folder: what its files say, checked, and the model they hold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from sage.engines.bert_model import ACTIVATIONS, BertShape, BertWeights, Pooling
from sage.engines.bert_weights import read_tensors
from sage.engines.models_files import file_sha256
from sage.errors import SetupError, nearest

__all__ = ["TOKENIZER", "BertFolder", "read_folder"]

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
#: Heads by hidden size in the published BERTs, for folders without a config.json.
USUAL_HEADS = {128: 2, 256: 4, 384: 12, 512: 8, 768: 12, 1024: 16}
MODULES = ("Transformer", "Pooling", "Normalize")

T = TypeVar("T")
Count = Annotated[int, msgspec.Meta(ge=1)]


class Config(msgspec.Struct):
    """``config.json``."""

    num_attention_heads: Count | None = None
    num_hidden_layers: Count | None = None
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    model_type: str = "bert"
    position_embedding_type: str = "absolute"


class SentenceConfig(msgspec.Struct):
    """``sentence_bert_config.json``."""

    max_seq_length: Count | None = None


class PoolingConfig(msgspec.Struct):
    """``1_Pooling/config.json``."""

    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False


class Module(msgspec.Struct):
    """One entry of ``modules.json``."""

    type: str


@dataclass(frozen=True, slots=True)
class BertFolder:
    """An embedder, read from its folder."""

    path: Path
    weights: BertWeights
    pooling: Pooling
    max_tokens: int  # of one text; the rest of it is cut
    fingerprint: str


def read_folder(path: Path, pooling: Pooling | None) -> BertFolder:
    """The embedder in a folder. ``pooling`` goes before what the folder says; without either it is "mean".

    Raises:
        SetupError: a file is missing, damaged, or of a model that this code does not run.
    """
    if not path.is_dir():
        raise SetupError(
            f"{path} is no folder; bert: takes one with {WEIGHTS} and {TOKENIZER}, GGUF files open with llama:"
        )
    for name in (WEIGHTS, TOKENIZER):
        if not (path / name).is_file():
            raise SetupError(f"{path} has no {name}, so it is no folder of a BERT-family embedder")
    config = _said(path / "config.json", Config) or Config()
    _refuse_other_models(path, config)
    weights = _weights(path, config)
    pooling = pooling or _pooling(path)
    sentence = _said(path / "sentence_bert_config.json", SentenceConfig)
    longest = len(weights.positions)
    max_tokens = min((sentence and sentence.max_seq_length) or longest, longest)
    return BertFolder(path, weights, pooling, max_tokens, _fingerprint(path, pooling, max_tokens))


def _refuse_other_models(path: Path, config: Config) -> None:
    if config.model_type != "bert" or config.position_embedding_type != "absolute":
        kind = f"{config.model_type} with {config.position_embedding_type} positions"
        raise SetupError(
            f"{path} holds a {kind}; this engine runs bert with absolute positions, as in MiniLM and BGE"
        )
    if config.hidden_act not in ACTIVATIONS:
        raise SetupError(
            f"{path}: activation {config.hidden_act!r} is not known; {nearest(config.hidden_act, ACTIVATIONS)}"
        )
    for module in _said(path / "modules.json", list[Module]) or []:
        if module.type.rpartition(".")[2] not in MODULES:
            raise SetupError(
                f"{path} has a module {module.type!r} after BERT; this engine runs {', '.join(MODULES)}"
            )


def _weights(path: Path, config: Config) -> BertWeights:
    file = path / WEIGHTS
    tensors = read_tensors(file)
    names = [name.removeprefix("bert.") for name in tensors]
    held = {int(name.split(".")[2]) for name in names if name.startswith("encoder.layer.")}
    try:
        words = next(tensor for name, tensor in tensors.items() if name.endswith("word_embeddings.weight"))
        hidden = words.shape[-1]
        num_heads = config.num_attention_heads or USUAL_HEADS.get(hidden)
        if num_heads is None or hidden % num_heads:
            raise SetupError(
                f"{path}: it says no number of heads and {hidden} hidden units have no usual one; add num_attention_heads to its config.json"
            )
        shape = BertShape(
            num_layers=config.num_hidden_layers or len(held),
            num_heads=num_heads,
            norm_epsilon=config.layer_norm_eps,
            activation=config.hidden_act,
        )
        return BertWeights.build(tensors, shape)
    except StopIteration:
        raise SetupError(f"{file} holds no word embeddings, so it is no BERT") from None
    except KeyError as error:
        raise SetupError(
            f"{file} lacks the tensor {error.args[0]!r}, so it is no BERT that this engine runs"
        ) from None
    except ValueError as error:
        raise SetupError(f"{file}: {error}") from error


def _pooling(path: Path) -> Pooling:
    config = _said(path / "1_Pooling" / "config.json", PoolingConfig)
    if config is None:
        return "mean"
    if config.pooling_mode_cls_token == config.pooling_mode_mean_tokens:
        raise SetupError(f"{path}/1_Pooling asks for a pooling other than mean or cls; choose with ?pooling=")
    return "cls" if config.pooling_mode_cls_token else "mean"


def _said(path: Path, kind: type[T]) -> T | None:
    """A JSON file as a type; None if it is not there."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} cannot be read: {error}") from error


def _fingerprint(path: Path, pooling: Pooling, max_tokens: int) -> str:
    """Names what decides the vectors. Hashing takes 0.1 s for 100 MB."""
    hashes = [file_sha256(path / name) for name in (WEIGHTS, TOKENIZER)]
    said = f"{'/'.join(hashes)}/{pooling}/{max_tokens}"
    return f"bert:{hashlib.sha256(said.encode()).hexdigest()[:16]}"
