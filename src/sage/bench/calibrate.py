"""Fit the emulated engine to a real one, from the times of requests it served; and say how far off it is.

One step of an engine takes ``a + b * prefill tokens + c * decoding sequences + d * context tokens``. Steps are
not seen from outside, sums of them are: between its first and its last token, a request of ``n`` tokens took part
in ``n - 1`` steps; which other sequences decoded meanwhile, how long their contexts were and which prompts were
prefilled follows from everybody's first and last tokens, taking each answer as evenly paced. That gives one linear
equation a request. Where prompts were seldom prefilled meanwhile, requests that met an idle engine give another,
by their first token. They are solved by least squares of relative errors, without negative coefficients.

From there the fit is refined with the emulated engine itself, which knows its steps one by one: all requests are
played through it, the equations are set up anew from the steps it took, and solved; all of the way to the solution
is gone, or less where that made things worse; and so on, until nothing is gained. Of requests that are not fitted,
only what is known before they run is used here: when they come and how long they are.

The error is then measured where it was not fitted: the requests that came later are compared, one by one and in
their percentiles.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sage.engines.emulated_profile import Profile
from sage.engines.emulated_steps import Batching, Capacity, StepTimes
from sage.engines.emulated_steps import Sequence as Seq
from sage.errors import InputError
from sage.events import Event, TaskEnded
from sage.runtime.figures import Stat, stat_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Calibration", "Deviation", "Served", "calibrate", "fit_steps", "play", "read_served", "served_in"]

LEAST_FITTED = 20
_ROUNDS = 60  # of the refinement, at most
_PATIENCE = 12  # rounds without a gain

PERCENTILES = ("mean", "p50", "p90", "p95", "p99")


class Served(msgspec.Struct, frozen=True, gc=False):
    """One request that a real engine answered. Times in seconds on one clock."""

    at: float  # sent to the engine
    first: float  # first token
    last: float  # last token
    prompt_tokens: int
    output_tokens: int
    endpoint: str = ""


class Deviation(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of the held-out requests: measured, emulated, and the difference as a share of the measured."""

    measured: float
    emulated: float
    error: float


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """A fit and its error. ``figures`` is by metric (``e2e_s``, ``ttft_s``, ``tpot_s``) and statistic."""

    profile: Profile
    fitted: int  # requests it was fitted to
    held_out: int  # requests it was judged by
    residual: float  # mean of |error| / time over the equations of the fit
    e2e_mape: (
        float | None
    )  # mean over held-out requests of |emulated - measured| / measured; None: none held out
    figures: Mapping[str, Mapping[str, Deviation]]


def calibrate(
    served: Sequence[Served],
    *,
    name: str,
    source: str,
    fit: int | None = None,
    hold_out: int | None = None,
    max_seqs: int | None = None,
    max_step_tokens: int = 8192,
) -> Calibration:
    """A profile fitted to the first requests, judged by the others.

    Args:
        served: requests of one engine, or of several that are alike.
        name: of the profile.
        source: what was measured, for the profile.
        fit: how many requests, in the order they were sent, to fit; None: the first half.
        hold_out: how many of those after them to judge it by; None: all.
        max_seqs: sequences in a step; None: the most that were under way at once.
        max_step_tokens: tokens in a step.

    Raises:
        InputError: there are too few requests, or their times cannot be.
    """
    ordered = sorted(_sound(served), key=lambda one: one.at)
    fit = max(LEAST_FITTED, len(ordered) // 2) if fit is None else fit
    if not LEAST_FITTED <= fit <= len(ordered):
        raise InputError(
            f"{fit} of {len(ordered)} requests to fit, expected {LEAST_FITTED} to {len(ordered)}; measure more"
        )
    seqs = max_seqs or _most_at_once(ordered)
    longest = max(one.prompt_tokens + one.output_tokens for one in ordered)
    capacity = Capacity(max_seqs=seqs, max_step_tokens=max(seqs, max_step_tokens))
    capacity = msgspec.structs.replace(capacity, context_tokens=max(capacity.context_tokens, longest))
    times, residual = _refined(ordered, fit, fit_steps(ordered, fit, capacity.max_step_tokens), capacity)
    try:
        profile = Profile(name=name, source=source, step=times, capacity=capacity)
    except ValueError as error:
        raise InputError(
            f"the fit of {name!r} cannot be used: it {error}; measure under more load"
        ) from error
    end = len(ordered) if hold_out is None else fit + hold_out
    later = list(zip(ordered[fit:end], play(ordered, times, capacity)[fit:end], strict=True))
    return Calibration(
        profile=profile,
        fitted=fit,
        held_out=len(later),
        residual=residual,
        e2e_mape=_mape(later),
        figures=_compared(later),
    )


# --- what was measured ---------------------------------------------------------------------------------


def served_in(events: Iterable[Event], pool: str | None = None) -> list[Served]:
    """The generations that ended well in a run's event log, of one pool or all.

    The end of a call stands for its last token.
    """
    return [
        Served(
            event.dispatched,
            event.first,
            event.t,
            event.prompt_tokens,
            event.completion_tokens,
            event.endpoint,
        )
        for event in events
        if isinstance(event, TaskEnded)
        and event.outcome == "done"
        and event.first is not None
        and event.completion_tokens >= 1
        and (pool is None or event.pool == pool)
    ]


def read_served(path: Path) -> list[Served]:
    """Measured requests from JSON lines.

    Either our own fields (``at``, ``first``, ``last``, ``prompt_tokens``, ``output_tokens``, all times on one
    clock), or those of LLMServingSim's vLLM runs (``queued_ts``, ``first_token_ts``, ``last_token_ts``,
    ``input_toks``, ``output_toks``).

    Raises:
        InputError: it cannot be read, or a line is neither.
    """
    found = []
    try:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                found.append(_served(msgspec.json.decode(line, type=dict[str, Any])))
            except (msgspec.MsgspecError, KeyError) as error:
                raise InputError(f"{path}:{number}: is no measured request: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from error
    return found


def _served(row: dict[str, Any]) -> Served:
    if "queued_ts" in row:
        row = {
            "at": row["queued_ts"],
            "first": row["first_token_ts"],
            "last": row["last_token_ts"],
            "prompt_tokens": row["input_toks"],
            "output_tokens": row["output_toks"],
        }
    return msgspec.convert(row, Served)


def _sound(served: Sequence[Served]) -> list[Served]:
    for number, one in enumerate(served, 1):
        if not one.at <= one.first <= one.last or one.output_tokens < 1 or one.prompt_tokens < 0:
            raise InputError(
                f"request {number} was sent at {one.at:g}, its tokens came from {one.first:g} to {one.last:g}, "
                f"{one.prompt_tokens} in and {one.output_tokens} out: that cannot be"
            )
    return list(served)


def _most_at_once(served: Sequence[Served]) -> int:
    """The most requests that were between their first and their last token, on one endpoint."""
    most = 1
    for endpoint in {one.endpoint for one in served}:
        own = [one for one in served if one.endpoint == endpoint]
        changes = sorted([(one.first, 1) for one in own] + [(one.last, -1) for one in own])
        most = max(most, *itertools.accumulate(change for _, change in changes))
    return most


# --- the fit -------------------------------------------------------------------------------------------


def fit_steps(served: Sequence[Served], fit: int, max_step_tokens: int = 8192) -> StepTimes:
    """The four coefficients by linear least squares, from the times of the first ``fit`` requests.

    What else the engine did in those times is taken from all requests.
    """
    import numpy as np

    alone, waited = _met_idle(served, fit, max_step_tokens)
    rows, took = list(alone), list(waited)
    for own in _by_endpoint(served):
        load = _Load([served[index] for index in own])
        for one in (served[index] for index in own if index < fit):
            if one.output_tokens > 1 and one.last > one.first:
                rows.append(np.array(load.between(one)))
                took.append(one.last - one.first)
    if len(took) == len(waited):
        raise InputError(
            "no request to fit has two tokens that came at different times; was the answer streamed?"
        )
    features = np.stack(rows) / np.array(took)[:, None]
    return _step_times(_least_squares(features, np.ones(len(took))))


def _met_idle(
    served: Sequence[Served], fit: int, max_step_tokens: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of fitted requests that met an idle engine: what their prompts went through, shape (n, 4), and the time."""
    import numpy as np

    rows, took = [], []
    for own in _by_endpoint(served):
        load = _Load([served[index] for index in own])
        for place, index in enumerate(own):
            one = served[index]
            if index < fit and one.first > one.at and load.was_idle(place):
                rows.append((max(1, math.ceil(one.prompt_tokens / max_step_tokens)), one.prompt_tokens, 0, 0))
                took.append(one.first - one.at)
    return np.array(rows, dtype=np.float64).reshape(-1, 4), np.array(took)


def _by_endpoint(served: Sequence[Served]) -> list[list[int]]:
    """The places of the requests of each endpoint."""
    found: dict[str, list[int]] = {}
    for index, one in enumerate(served):
        found.setdefault(one.endpoint, []).append(index)
    return list(found.values())


def _step_times(coefficients: NDArray[np.float64]) -> StepTimes:
    a_s, b_s, c_s, d_s = map(float, coefficients)
    return StepTimes(a_s=a_s, b_s=b_s, c_s=c_s, d_s=d_s)


def _refined(
    served: Sequence[Served], fit: int, start: StepTimes, capacity: Capacity
) -> tuple[StepTimes, float]:
    """The coefficients that make the emulated engine agree best, and the mean relative error that is left."""
    import numpy as np

    took = np.array([one.last - one.first for one in served[:fit]])
    fitted = np.flatnonzero(took > 0)
    alone, waited = _met_idle(served, fit, capacity.max_step_tokens)
    at = np.array(msgspec.structs.astuple(start))
    best, least, last_gain = at, float("inf"), 0
    share, before = 1.0, float("inf")
    for number in range(_ROUNDS):
        features = _played(served, _step_times(at), capacity)[1]
        if (features[fitted, 1] > 0).mean() > 0.5:  # what a prompt costs shows in the answers it slowed down
            alone, waited = alone[:0], waited[:0]
        rows = np.concatenate([features[fitted] / took[fitted, None], alone / waited[:, None]])
        error = float(np.abs(rows @ at - 1).mean())
        if error < least * (1 - 1e-6):
            best, least, last_gain = at, error, number
        elif number - last_gain >= _PATIENCE:
            break
        share, before = (min(1.0, 1.5 * share) if error < before else max(0.25, share / 2)), error
        at = (1 - share) * at + share * _least_squares(rows, np.ones(len(rows)))
    return _step_times(best), least


class _Load:
    """What an engine did between two moments, from the requests it served."""

    def __init__(self, served: Sequence[Served]) -> None:
        import numpy as np

        self._at = np.array([one.at for one in served])
        self._first = np.array([one.first for one in served])
        self._last = np.array([one.last for one in served])
        self._prompt = np.array([float(one.prompt_tokens) for one in served])
        steps = np.array([one.output_tokens - 1.0 for one in served])
        span = self._last - self._first
        self._pace = np.divide(steps, span, out=np.zeros_like(steps), where=span > 0)  # tokens a second

    def between(self, one: Served) -> tuple[float, float, float, float]:
        """Steps, prefilled tokens, decoded tokens and context tokens while a request was decoding."""
        import numpy as np

        start, end = np.maximum(self._first, one.first), np.minimum(self._last, one.last)
        decoded = np.clip(end - start, 0.0, None) * self._pace
        context = self._prompt + 1 + ((start + end) / 2 - self._first) * self._pace
        prefilled = self._prompt[(self._first > one.first) & (self._first <= one.last)]
        return (
            one.output_tokens - 1.0,
            float(prefilled.sum()),
            float(decoded.sum()),
            float((decoded * context).sum()),
        )

    def was_idle(self, place: int) -> bool:
        """Whether a request met nobody else before its first token."""
        at, first = self._at[place], self._first[place]
        overlapping = (self._at <= first) & (self._last >= at)
        return int(overlapping.sum()) == 1


def _least_squares(features: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best coefficients that are not negative: of every subset of columns, the best fit that is not.

    Exact, and quick for four columns (Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 23, asks
    the same of an active set).
    """
    import numpy as np

    columns = features.shape[1]
    scale = np.abs(features).max(axis=0)
    scale[scale == 0] = 1.0
    best, least = np.zeros(columns), float(wanted @ wanted)
    for size in range(1, columns + 1):
        for chosen in itertools.combinations(range(columns), size):
            part = features[:, chosen] / scale[list(chosen)]
            found, *_ = np.linalg.lstsq(part, wanted, rcond=None)
            error = float(((part @ found - wanted) ** 2).sum())
            if (found >= 0).all() and error < least:
                best, least = np.zeros(columns), error
                best[list(chosen)] = found / scale[list(chosen)]
    return best


# --- how far off it is ---------------------------------------------------------------------------------


def play(served: Sequence[Served], times: StepTimes, capacity: Capacity) -> list[Served]:
    """The same requests, sent at the same times, as the emulated engine would have answered them."""
    return _played(served, times, capacity)[0]


def _played(
    served: Sequence[Served], times: StepTimes, capacity: Capacity
) -> tuple[list[Served], NDArray[np.float64]]:
    """The same, and what each request's steps between first and last token went through, shape (requests, 4)."""
    import numpy as np

    played = list(served)
    features = np.zeros((len(served), 4))
    for endpoint in sorted({one.endpoint for one in served}):
        batch = Batching(times, capacity)
        number: dict[Seq, int] = {}
        firsts: dict[int, tuple[float, tuple[int, ...]]] = {}
        own = [(one.at, index) for index, one in enumerate(served) if one.endpoint == endpoint]
        for at, index in [*sorted(own), (float("inf"), -1)]:
            while (due := batch.next_time) is not None and due < at:
                for told in batch.advance(due):
                    which = number[told.sequence]
                    first, before = firsts.setdefault(which, (told.time, batch.totals))
                    if told.token == told.sequence.output:
                        played[which] = msgspec.structs.replace(served[which], first=first, last=told.time)
                        features[which] = np.subtract(batch.totals, before)
            if index >= 0:
                one = served[index]
                sequence = Seq(one.prompt_tokens, one.output_tokens)
                number[sequence] = index
                batch.submit(sequence, at)
    return played, features


def _mape(pairs: Sequence[tuple[Served, Served]]) -> float | None:
    errors = [abs((ours.last - one.last) / (one.last - one.at)) for one, ours in pairs if one.last > one.at]
    return sum(errors) / len(errors) if errors else None


def _compared(pairs: Sequence[tuple[Served, Served]]) -> dict[str, dict[str, Deviation]]:
    found: dict[str, dict[str, Deviation]] = {}
    for metric in ("e2e_s", "ttft_s", "tpot_s"):
        measured = _stat(metric, [one for one, _ in pairs])
        emulated = _stat(metric, [ours for _, ours in pairs])
        found[metric] = {
            name: Deviation(measured=theirs, emulated=ours, error=ours / theirs - 1)
            for name in PERCENTILES
            if (theirs := getattr(measured, name)) and (ours := getattr(emulated, name)) is not None
        }
    return found


def _stat(metric: str, served: Sequence[Served]) -> Stat:
    if metric == "e2e_s":
        return stat_of(one.last - one.at for one in served)
    if metric == "ttft_s":
        return stat_of(one.first - one.at for one in served)
    return stat_of(
        (one.last - one.first) / (one.output_tokens - 1) for one in served if one.output_tokens > 1
    )
