"""The forward pass of BERT-family embedders in numpy (Devlin et al. 2019; pooling: Reimers and Gurevych 2019).

Everything is float32. Arrays are (texts, tokens, hidden) between layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["BertShape", "BertWeights", "Pooling", "embed_batch", "gelu"]

Floats: TypeAlias = NDArray[np.float32]
Pooling = Literal["mean", "cls"]

#: gelu(x) = x * Phi(x), Phi the normal distribution, and Phi(x) = (1 + tanh(x * p(x^2))) / 2 for
#: p(x^2) = log(Phi(x) / Phi(-x)) / 2x. These are p's coefficients, lowest first, fitted to that on (0, 6] so that
#: the largest error of gelu is least: 7e-8, below float32's own. numpy has no erf, and its tanh is fast.
GELU = (
    0.7978842161142016,
    0.036334283513592906,
    -3.312999203542635e-05,
    -5.524015917818858e-05,
    3.969109570322157e-06,
    -1.3344641680772473e-07,
    1.805616592650663e-09,
)
#: The "new" or "tanh" gelu of some models is this one by definition.
GELU_TANH = (0.7978845608028654, 0.7978845608028654 * 0.044715)
ACTIVATIONS: Mapping[str, tuple[float, ...]] = {
    "gelu": GELU,
    "gelu_new": GELU_TANH,
    "gelu_pytorch_tanh": GELU_TANH,
}
#: Rows worked on at once where many steps go over the same numbers: they stay in the CPU's cache.
BLOCK_ROWS = 64
MASKED = np.float32(-1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class BertShape:
    """The numbers of a model."""

    num_layers: int
    num_heads: int
    norm_epsilon: float
    activation: str  # a key of ACTIVATIONS


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix (outputs, inputs), as it is stored, and a bias."""

    weight: Floats
    bias: Floats

    def __call__(self, x: Floats) -> Floats:
        rows = x.reshape(-1, x.shape[-1]) @ self.weight.T
        rows += self.bias
        return rows.reshape(*x.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation (Ba et al. 2016)."""

    weight: Floats
    bias: Floats
    epsilon: float

    def update(self, x: Floats) -> Floats:
        """Normalise in place."""
        x -= x.mean(axis=-1, keepdims=True)
        variance = np.einsum("...i,...i->...", x, x) / np.float32(x.shape[-1])
        x *= (1.0 / np.sqrt(variance + np.float32(self.epsilon)))[..., None]
        x *= self.weight
        x += self.bias
        return x


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer block."""

    query_key_value: Linear  # one product instead of three
    attended: Linear
    attended_norm: Norm
    inner: Linear
    outer: Linear
    outer_norm: Norm


@dataclass(frozen=True, slots=True)
class BertWeights:
    """A model, ready to run."""

    shape: BertShape
    words: Floats
    positions: Floats  # the type of a single text's tokens is added in
    norm: Norm
    layers: tuple[Layer, ...]

    @property
    def dimension(self) -> int:
        """Of its vectors."""
        return int(self.words.shape[1])

    @classmethod
    def build(cls, tensors: Mapping[str, NDArray[Any]], shape: BertShape) -> BertWeights:
        """Put named tensors in their places.

        Raises:
            KeyError: one is missing; its argument is the name.
            ValueError: one has another shape than its neighbours ask for.
        """
        names = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
        words = names["embeddings.word_embeddings.weight"]
        hidden = words.shape[-1]

        def tensor(name: str, *wanted: int | None) -> Floats:
            found = names[name]
            if found.ndim != len(wanted) or any(
                want not in {None, got} for want, got in zip(wanted, found.shape, strict=True)
            ):
                raise ValueError(f"tensor {name!r} has shape {found.shape}, expected {wanted}")
            return np.ascontiguousarray(found, dtype=np.float32)

        def linear(name: str, outputs: int | None, inputs: int | None) -> Linear:
            weight = tensor(f"{name}.weight", outputs, inputs)
            return Linear(weight, tensor(f"{name}.bias", weight.shape[0]))

        def norm(name: str) -> Norm:
            return Norm(tensor(f"{name}.weight", hidden), tensor(f"{name}.bias", hidden), shape.norm_epsilon)

        def layer(at: str) -> Layer:
            parts = [
                linear(f"{at}.attention.self.{part}", hidden, hidden) for part in ("query", "key", "value")
            ]
            inner = linear(f"{at}.intermediate.dense", None, hidden)
            return Layer(
                Linear(
                    np.concatenate([part.weight for part in parts]),
                    np.concatenate([part.bias for part in parts]),
                ),
                linear(f"{at}.attention.output.dense", hidden, hidden),
                norm(f"{at}.attention.output.LayerNorm"),
                inner,
                linear(f"{at}.output.dense", hidden, inner.weight.shape[0]),
                norm(f"{at}.output.LayerNorm"),
            )

        types = tensor("embeddings.token_type_embeddings.weight", None, hidden)
        return cls(
            shape,
            tensor("embeddings.word_embeddings.weight", None, hidden),
            tensor("embeddings.position_embeddings.weight", None, hidden) + types[0],
            norm("embeddings.LayerNorm"),
            tuple(layer(f"encoder.layer.{number}") for number in range(shape.num_layers)),
        )


def embed_batch(model: BertWeights, texts: Sequence[Sequence[int]], pooling: Pooling) -> Floats:
    """Unit vectors of texts given as token ids, shape (texts, dimension). Texts of like length are fastest."""
    lengths = np.array([len(text) for text in texts])
    longest = int(lengths.max())
    ids = np.zeros((len(texts), longest), dtype=np.int64)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    real = np.arange(longest) < lengths[:, None]
    x = model.words[ids]
    x += model.positions[:longest]
    model.norm.update(x)
    mask = None if bool(real.all()) else np.where(real, np.float32(0), MASKED)[:, None, None, :]
    for layer in model.layers:
        x = _block(layer, x, mask, model.shape)
    return _update_unit(_pool(x, real, pooling))


def gelu(x: Floats, coefficients: Sequence[float] = GELU) -> Floats:
    """The activation, in place, a block of rows at a time."""
    rows = x.reshape(-1, x.shape[-1])
    with np.errstate(over="ignore"):  # far out, infinity is the right side of tanh
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            square = block * block
            argument = square * np.float32(coefficients[-1])
            for coefficient in reversed(coefficients[1:-1]):
                argument += np.float32(coefficient)
                argument *= square
            argument += np.float32(coefficients[0])
            argument *= block
            np.tanh(argument, out=argument)
            argument += np.float32(1)
            argument *= np.float32(0.5)
            block *= argument
    return x


def _block(layer: Layer, x: Floats, mask: Floats | None, shape: BertShape) -> Floats:
    attended = layer.attended(_attend(layer.query_key_value(x), mask, shape.num_heads))
    attended += x
    x = layer.attended_norm.update(attended)
    out = layer.outer(gelu(layer.inner(x), ACTIVATIONS[shape.activation]))
    out += x
    return layer.outer_norm.update(out)


def _attend(query_key_value: Floats, mask: Floats | None, num_heads: int) -> Floats:
    """Scaled dot-product attention, all heads; (texts, tokens, 3 * hidden) to (texts, tokens, hidden)."""
    num_texts, num_tokens, width = query_key_value.shape
    size = width // 3 // num_heads
    parts = query_key_value.reshape(num_texts, num_tokens, 3, num_heads, size)
    query, key, value = parts.transpose(2, 0, 3, 1, 4)
    query *= np.float32(size**-0.5)
    scores = query @ key.transpose(0, 1, 3, 2)
    if mask is not None:
        scores += mask
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    heads: Floats = scores @ value
    return heads.transpose(0, 2, 1, 3).reshape(num_texts, num_tokens, num_heads * size)


def _pool(x: Floats, real: NDArray[np.bool_], pooling: Pooling) -> Floats:
    if pooling == "cls":
        return x[:, 0]
    weights = real.astype(np.float32)
    pooled: Floats = np.einsum("tns,tn->ts", x, weights)
    pooled /= weights.sum(axis=1, keepdims=True)
    return pooled


def _update_unit(vectors: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.maximum(lengths, np.float32(1e-12))
    return vectors
