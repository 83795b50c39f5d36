"""A linear classifier: small, exact enough, and the same for the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from sage.errors import InputError

__all__ = ["Linear", "fit_linear"]

_STEPS = 300
_FLOOR = 1e-6  # of a feature's spread


class Linear(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted softmax regression. Plain numbers, so that it can stand in a file."""

    labels: tuple[str, ...]
    weights: tuple[
        tuple[float, ...], ...
    ]  # a row per label, aligned with the features; the last is the intercept
    centre: tuple[float, ...]  # of each feature, taken off first
    spread: tuple[float, ...]  # of each feature, divided by then

    def probabilities(self, features: Sequence[float]) -> Mapping[str, float]:
        """How likely each label is.

        Raises:
            InputError: another number of features than it was fitted on.
        """
        if len(features) != len(self.centre):
            raise InputError(f"the classifier was fitted on {len(self.centre)} features, got {len(features)}")
        scaled = (np.asarray(features, dtype=np.float64) - self.centre) / self.spread
        scores = np.asarray(self.weights) @ np.append(scaled, 1.0)
        return dict(zip(self.labels, _softmax(scores[np.newaxis])[0].tolist(), strict=True))


def fit_linear(features: NDArray[np.float64], labels: Sequence[str], *, penalty: float = 0.03) -> Linear:
    """A softmax regression with an L2 penalty, by accelerated gradient descent from zero: no chance in it.

    >>> model = fit_linear(np.array([[0.0], [1.0], [4.0], [5.0]]), ["no", "no", "yes", "yes"])
    >>> model.probabilities([5.0])["yes"] > 0.8
    True

    Args:
        features: a row an item, shape (items, features).
        labels: one an item.
        penalty: on the squared weights of the scaled features, per item.

    Raises:
        InputError: no item, or not one label an item.
    """
    if not len(labels) or len(features) != len(labels):
        raise InputError(
            f"a classifier needs a label an item, got {len(features)} items and {len(labels)} labels"
        )
    names = tuple(sorted(set(labels)))
    centre = features.mean(axis=0)
    spread = np.maximum(features.std(axis=0), _FLOOR)
    table = np.hstack([(features - centre) / spread, np.ones((len(features), 1))])
    wanted = np.array([[label == name for name in names] for label in labels], dtype=np.float64)
    shrink = np.full(table.shape[1], penalty)
    shrink[-1] = 0.0  # the intercept is free
    # The softmax's curvature is at most a half of the data's largest.
    rate = 1.0 / (0.5 * np.linalg.norm(table, 2) ** 2 / len(table) + penalty)
    weights = np.zeros((len(names), table.shape[1]))
    before = weights
    for number in range(_STEPS):  # Nesterov, "A method of solving a convex programming problem", 1983
        ahead = weights + number / (number + 3) * (weights - before)
        gradient = (_softmax(table @ ahead.T) - wanted).T @ table / len(table) + ahead * shrink
        before, weights = weights, ahead - rate * gradient
    return Linear(
        labels=names,
        weights=tuple(map(tuple, weights.tolist())),
        centre=tuple(centre.tolist()),
        spread=tuple(spread.tolist()),
    )


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return shares
