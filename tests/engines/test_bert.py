"""The embedded BERT: its arithmetic against a plain reading of the paper, its files, and the real model."""

from __future__ import annotations

import asyncio
import json
import math
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sage.engines.base import EmbedRequest, Engine, GenerateRequest, Message, ignore_pieces, open_engine
from sage.engines.bert import BATCH_TOKENS, length_batches
from sage.engines.bert_blas import _switch, one_blas_thread
from sage.engines.bert_model import GELU_TANH, gelu
from sage.engines.bert_weights import read_tensors
from sage.errors import EngineError, InputError, SetupError
from sage.settings import Settings
from sage.testing.conformance import EMBED_CHECKS, Check

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "sea", "list", "is", "sorted", "deep"]
HIDDEN, HEADS, LAYERS, INNER, LONGEST = 12, 3, 2, 20, 16
TEXTS = (
    "the sea is deep",
    "list",
    "",
    "the list is sorted the list is sorted",
    "nonsense sea",
    "the sea is deep",
)

Tensors = dict[str, NDArray[Any]]


def random_tensors(prefix: str = "") -> Tensors:
    rng = np.random.default_rng(7)

    def normal(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) / 2).astype(np.float32)

    out: Tensors = {
        "embeddings.word_embeddings.weight": normal(len(WORDS), HIDDEN),
        "embeddings.position_embeddings.weight": normal(LONGEST, HIDDEN),
        "embeddings.token_type_embeddings.weight": normal(2, HIDDEN),
    }
    norms = ["embeddings.LayerNorm"]
    linears: dict[str, tuple[int, int]] = {}
    for number in range(LAYERS):
        at = f"encoder.layer.{number}"
        linears |= {f"{at}.attention.self.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
        linears[f"{at}.attention.output.dense"] = (HIDDEN, HIDDEN)
        linears[f"{at}.intermediate.dense"] = (INNER, HIDDEN)
        linears[f"{at}.output.dense"] = (HIDDEN, INNER)
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
    for name, shape in linears.items():
        out |= {f"{name}.weight": normal(*shape), f"{name}.bias": normal(shape[0])}
    for name in norms:
        out |= {f"{name}.weight": 1 + normal(HIDDEN), f"{name}.bias": normal(HIDDEN)}
    return {prefix + name: tensor for name, tensor in out.items()}


def safetensors(tensors: Tensors, dtype: str = "F32") -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, tensor in tensors.items():
        if dtype == "BF16":
            raw = (tensor.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
        else:
            raw = tensor.astype({"F32": np.float32, "F16": np.float16}[dtype]).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": tensor.shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


CONFIG = {
    "model_type": "bert",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder with a small random BERT."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path / "tiny"
    folder.mkdir()
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=32)  # as published ones do; to be ignored
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(safetensors(random_tensors()))
    return folder


def opened(address: str, use: Callable[[Engine], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_engine(address, Settings.load()) as engine:
            await use(engine)

    asyncio.run(main())


def vectors_of(address: str, texts: tuple[str, ...] = TEXTS) -> NDArray[np.float32]:
    found: list[NDArray[np.float32]] = []

    async def use(engine: Engine) -> None:
        found.append((await engine.embed(EmbedRequest(texts=texts))).vectors)

    opened(address, use)
    return found[0]


async def nothing(_engine: Engine) -> None:
    """Opening is all."""


# ---- the same model, written down as the papers have it: one text, one head, one row at a time


def expected_vector(tensors: Tensors, text: str, pooling: str = "mean") -> NDArray[np.float64]:
    weight = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    ids = [2, *(WORDS.index(word) if word in WORDS else 1 for word in text.split()), 3][:LONGEST]

    def linear(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x @ weight[f"{name}.weight"].T + weight[f"{name}.bias"]

    def norm(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        out: NDArray[np.float64] = scaled * weight[f"{name}.weight"] + weight[f"{name}.bias"]
        return out

    x = np.stack(
        [
            weight["embeddings.word_embeddings.weight"][token]
            + weight["embeddings.position_embeddings.weight"][place]
            + weight["embeddings.token_type_embeddings.weight"][0]
            for place, token in enumerate(ids)
        ]
    )
    x = norm("embeddings.LayerNorm", x)
    size = HIDDEN // HEADS
    for number in range(LAYERS):
        at = f"encoder.layer.{number}"
        query, key, value = (linear(f"{at}.attention.self.{part}", x) for part in ("query", "key", "value"))
        heads = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = np.exp(query[:, part] @ key[:, part].T / math.sqrt(size))
            heads.append(scores / scores.sum(-1, keepdims=True) @ value[:, part])
        attended = linear(f"{at}.attention.output.dense", np.concatenate(heads, axis=-1))
        x = norm(f"{at}.attention.output.LayerNorm", x + attended)
        inner = linear(f"{at}.intermediate.dense", x)
        inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(f"{at}.output.LayerNorm", x + linear(f"{at}.output.dense", inner))
    pooled: NDArray[np.float64] = x[0] if pooling == "cls" else x.mean(0)
    unit: NDArray[np.float64] = pooled / np.linalg.norm(pooled)
    return unit


def test_vectors_equal_those_of_the_plain_model(tiny: Path) -> None:
    got = vectors_of(f"bert:{tiny}")
    want = np.stack([expected_vector(random_tensors(), text) for text in TEXTS])
    assert got.dtype == np.float32
    assert np.abs(got - want).max() < 2e-6


def test_cls_pooling_by_option_and_by_folder(tiny: Path) -> None:
    want = np.stack([expected_vector(random_tensors(), text, "cls") for text in TEXTS])
    assert np.abs(vectors_of(f"bert:{tiny}?pooling=cls") - want).max() < 2e-6
    (tiny / "1_Pooling").mkdir()
    (tiny / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    assert np.abs(vectors_of(f"bert:{tiny}") - want).max() < 2e-6


def test_texts_are_cut_at_what_the_folder_says(tiny: Path) -> None:
    (tiny / "sentence_bert_config.json").write_text('{"max_seq_length": 4}')
    long, short = vectors_of(f"bert:{tiny}", ("the sea is deep", "the sea"))
    assert np.allclose(long, short)


def test_prefixed_names_and_half_numbers_load(tiny: Path) -> None:
    want = vectors_of(f"bert:{tiny}")
    for dtype, tolerance in (("F16", 5e-3), ("BF16", 5e-2)):
        (tiny / "model.safetensors").write_bytes(safetensors(random_tensors("bert."), dtype))
        assert np.abs(vectors_of(f"bert:{tiny}") - want).max() < tolerance


def test_the_fingerprint_names_what_decides_the_vectors(tiny: Path) -> None:
    found: list[str | None] = []

    async def use(engine: Engine) -> None:
        found.append(engine.info.fingerprint)

    opened(f"bert:{tiny}", use)
    opened(f"bert:{tiny}?threads=1", use)
    opened(f"bert:{tiny}?pooling=cls", use)
    (tiny / "model.safetensors").write_bytes(safetensors(random_tensors("bert."), "F16"))
    opened(f"bert:{tiny}", use)
    assert found[0] == found[1]
    assert len({*found}) == 3


def test_usage_counts_the_tokens_of_the_model(tiny: Path) -> None:
    async def use(engine: Engine) -> None:
        usage = (await engine.embed(EmbedRequest(texts=("the sea", "list")))).usage
        assert (usage.prompt_tokens, usage.counted_by) == (7, "tokenizer")

    opened(f"bert:{tiny}", use)


def test_a_time_limit_ends_the_call(tiny: Path) -> None:
    async def use(engine: Engine) -> None:
        with pytest.raises(EngineError, match=r"not embedded in their 0\.01 s") as caught:
            await engine.embed(EmbedRequest(texts=("the sea is deep",) * 20_000, timeout_s=0.01))
        assert caught.value.fault == "timeout"

    opened(f"bert:{tiny}", use)


def test_half_a_surrogate_pair_is_refused(tiny: Path) -> None:
    async def use(engine: Engine) -> None:
        with pytest.raises(EngineError, match="no valid Unicode"):
            await engine.embed(EmbedRequest(texts=("sea \ud800",)))

    opened(f"bert:{tiny}", use)


def test_it_does_not_generate(tiny: Path) -> None:
    async def use(engine: Engine) -> None:
        with pytest.raises(EngineError, match="cannot generate"):
            await engine.generate(GenerateRequest(messages=(Message("user", "hi"),)), ignore_pieces)

    opened(f"bert:{tiny}", use)


# ---- what may be wrong with a folder


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", '{"model_type": "roberta"}', "holds a roberta"),
        ("config.json", '{"hidden_act": "gelo"}', "did you mean 'gelu'"),
        ("config.json", '{"num_attention_heads": "many"}', "cannot be read"),
        (
            "config.json",
            '{"num_hidden_layers": 3, "num_attention_heads": 3}',
            "lacks the tensor 'encoder.layer.2",
        ),
        ("config.json", "{}", "add num_attention_heads to its config.json"),
        ("tokenizer.json", "{}", "is no tokenizer"),
        ("modules.json", '[{"type": "sentence_transformers.models.Dense"}]', "models.Dense"),
        ("model.safetensors", "nothing", "is no safetensors file"),
        ("model.safetensors", "", "cannot be read"),
    ],
)
def test_a_folder_that_cannot_be_run_is_one_clear_error(
    file: str, content: str, said: str, tiny: Path
) -> None:
    (tiny / file).write_text(content)
    with pytest.raises(SetupError, match=said):
        opened(f"bert:{tiny}", nothing)


def test_a_tensor_of_another_shape_is_named(tiny: Path) -> None:
    tensors = random_tensors()
    tensors["encoder.layer.1.output.dense.weight"] = np.zeros((HIDDEN, INNER + 1), np.float32)
    (tiny / "model.safetensors").write_bytes(safetensors(tensors))
    with pytest.raises(SetupError, match=r"'encoder\.layer\.1\.output\.dense\.weight' has shape \(12, 21\)"):
        opened(f"bert:{tiny}", nothing)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(name: str, tiny: Path) -> None:
    (tiny / name).unlink()
    with pytest.raises(SetupError, match=f"has no {name}"):
        opened(f"bert:{tiny}", nothing)


@pytest.mark.parametrize("option", ["pooling=max", "threads=0", "thread=1"])
def test_a_wrong_option_is_refused(option: str, tiny: Path) -> None:
    with pytest.raises(InputError):
        opened(f"bert:{tiny}?{option}", nothing)


@given(st.integers(0, 600))
def test_a_safetensors_file_cut_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    whole = safetensors({"a": np.ones((3, 4)), "b": np.ones(100)})
    path.write_bytes(whole[: min(at, len(whole) - 1)])
    with pytest.raises(SetupError):
        read_tensors(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]},
        {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
        {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]},
        {"dtype": "Q4", "shape": [4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]},
        {"dtype": "F32"},
    ],
)
def test_a_tensor_that_lies_wrongly_is_refused(entry: dict[str, Any], tmp_path: Path) -> None:
    text = json.dumps({"a": entry}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 16)
    with pytest.raises(SetupError):
        read_tensors(path)


# ---- parts


def test_gelu_is_exact_to_float32() -> None:
    x = np.linspace(-12, 12, 48_001, dtype=np.float32)
    wide = x.astype(np.float64)
    want = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
    assert np.abs(gelu(x.copy()[:, None])[:, 0] - want).max() < 1e-6


def test_gelu_stays_right_far_out() -> None:
    x = np.array([[-1e30, -1e4, -40.0, 40.0, 1e4, 1e30]], dtype=np.float32)
    assert gelu(x.copy()).tolist() == [[0, 0, 0, *x[0, 3:].tolist()]]


def test_the_tanh_gelu_is_the_one_of_its_paper() -> None:
    x = np.linspace(-8, 8, 999, dtype=np.float32)
    want = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    assert np.abs(gelu(x.copy()[:, None], GELU_TANH)[:, 0] - want).max() < 1e-6


@given(st.lists(st.integers(1, 512), max_size=200))
def test_batches_hold_every_text_once_and_keep_their_size(lengths: list[int]) -> None:
    batches = length_batches(lengths)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or longest * len(batch) <= BATCH_TOKENS


def test_blas_has_its_threads_back_afterwards() -> None:
    switch = _switch()
    if switch is None:
        pytest.skip("this numpy has another BLAS")
    before = switch.get()
    with one_blas_thread():
        with one_blas_thread():
            assert switch.get() == 1
        assert switch.get() == 1
    assert switch.get() == before


# ---- with the built-in model


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("check", EMBED_CHECKS, ids=lambda check: check.__name__)
def test_bert_is_an_engine(check: Check) -> None:
    opened("bert:all-minilm-l6-v2", check)


@pytest.mark.models
@pytest.mark.slow
def test_minilm_puts_like_beside_like() -> None:
    texts = ("How do I sort a list?", "Ordering the items of an array", "The weather in Paris is mild.")
    vectors = vectors_of("bert:all-minilm-l6-v2", texts)
    assert vectors[0] @ vectors[1] > 0.4 > 0.2 > vectors[0] @ vectors[2]
