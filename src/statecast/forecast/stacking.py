"""Stacking: one forecast of the network's and the analogues', with intervals that hold.

Both are learnt from training items that the forecasts in question never met. The mean of
two forecasts' quantiles (Vincent 1912), with a weight for each prefix length, is that whose
CRPS is least (stacking: Wolpert 1992). Its quantiles are then moved to where the held-out
truths fell (split-conformal: Romano, Patterson and Candes 2019, each side by itself), for
each prefix length and horizon. What holds for held-out items holds for new ones.

Arrays only, scaled as a panel has them; a distribution is its quantiles at ``heads.KNOTS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from statecast.files import check_finite
from statecast.heads.quantiles import KNOTS
from statecast.state import outline

MOST_ITEMS = 2000  # held-out items it is learnt from
FEWEST = 8  # below, there is nothing to learn it from
_WEIGHTS = np.linspace(0.0, 1.0, 11)
_ENOUGH = 400  # held-out values that a quantile's place is read from: else more horizons count
_MOST_OFFSET = 1e13  # a width is at least 1e-6, and scaled values are at most 1e6
_LEVELS = np.array(KNOTS)
_MIDDLE = len(KNOTS) // 2


@dataclass(frozen=True, eq=False)
class Stacking:
    """What was learnt from held-out items.

    Attributes
    ----------
    known : array of int, ``(n,)``
        The prefix lengths it was learnt at, rising from 0; one in between goes by the one
        below.
    weight : array, ``(n,)``
        The network's; the analogues have the rest.
    offset : array, ``(n, steps, len(KNOTS))``
        By horizon: how far each quantile is moved, as a share of the 80 % interval's width.
    targets : int
        How many there are. Of several "steps" are positions, of which a step has one for each.
    """

    known: np.ndarray
    weight: np.ndarray
    offset: np.ndarray
    targets: int = 1

    __repr__ = outline

    @classmethod
    def fit(
        cls,
        y: np.ndarray,
        network: Mapping[int, np.ndarray],
        analogues: Mapping[int, np.ndarray] | None,
        targets: int = 1,
    ) -> Stacking:
        """Learn from held-out items.

        Parameters
        ----------
        y : array, ``(items, steps)``
            What happened, NaN where nothing was observed.
        network, analogues : mapping of int to array ``(items, steps, len(KNOTS))``
            By prefix length, the forecasts of items that the forecaster never met. Without
            analogues the network has all the weight.
        targets : int
        """
        known = np.array(sorted(network))
        weight, offset = np.ones(len(known)), np.zeros((len(known), y.shape[1], len(KNOTS)))
        for i, k in enumerate(known):
            truth, knots = y[:, k:], network[k][:, k:]
            if analogues is not None:
                other = analogues[k][:, k:]
                losses = [_crps(truth, w * knots + (1 - w) * other) for w in _WEIGHTS]
                weight[i] = _WEIGHTS[int(np.argmin(losses))]
                knots = weight[i] * knots + (1 - weight[i]) * other
            rest = y.shape[1] - k
            for own in (slice(target, None, targets) for target in range(targets)):
                offset[i, :rest][own] = _offsets(truth[:, own], knots[:, own])
                offset[i, rest:][own] = offset[i, :rest][own][-1]
        return cls(known, weight, offset, targets)

    def share(self, known: np.ndarray) -> np.ndarray:
        """The network's part in the forecasts of rows with prefixes of these lengths."""
        return self.weight[self._at(known)]

    def blend(self, network: np.ndarray, analogues: np.ndarray, known: np.ndarray) -> np.ndarray:
        """One forecast of two, ``(rows, steps, len(KNOTS))``; ``known`` is ``(rows,)``."""
        weight = self.share(known)[:, None, None]
        return weight * network + (1 - weight) * analogues

    def calibrate(self, knots: np.ndarray, known: np.ndarray) -> np.ndarray:
        """The forecast with its quantiles where they belong; the median stays."""
        ahead = np.arange(knots.shape[1]) - known[:, None]
        last = self.offset.shape[1] - self.targets + ahead % self.targets  # of the same target
        ahead = np.clip(ahead, 0, last)
        offset = self.offset[self._at(known)[:, None], ahead]
        return np.sort(knots + offset * _width(knots), axis=-1)

    def _at(self, known: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.known, known, side="right") - 1

    # -- files -------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything by name, as a model file has it."""
        return {"known": self.known, "weight": self.weight, "offset": self.offset}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], steps: int, targets: int = 1
    ) -> Stacking:
        """What ``arrays`` gave, for series of so many steps and targets.

        Raises
        ------
        ValueError
            Another set of names, or shapes or types that do not fit together.
        """
        known = arrays.get("known", np.zeros(0))
        count = known.size
        expected = {
            "known": ((count,), "int64"),
            "weight": ((count,), "float64"),
            "offset": ((count, steps, len(KNOTS)), "float64"),
        }
        found = {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
        if found != expected:
            raise ValueError(f"stacking: expected {expected}; received {found}")
        if not count or known[0] != 0 or (known[1:] <= known[:-1]).any() or known[-1] >= steps:
            raise ValueError(f"stacking: known: expected them to rise from 0 to below {steps}")
        check_finite("stacking: offset", arrays["offset"], _MOST_OFFSET)
        check_finite("stacking: weight", arrays["weight"], 1.0)
        if arrays["weight"].min() < 0:
            raise ValueError("stacking: weight: expected numbers from 0 to 1")
        return cls(**arrays, targets=targets)


def _width(knots: np.ndarray) -> np.ndarray:
    low, high = KNOTS.index(0.1), KNOTS.index(0.9)
    return np.maximum(knots[..., high] - knots[..., low], 1e-6)[..., None]


def _crps(y: np.ndarray, knots: np.ndarray) -> float:
    error = y[..., None] - knots
    return float(np.nanmean(np.maximum(_LEVELS * error, (_LEVELS - 1) * error)))


def _offsets(y: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """For each horizon and quantile, where the truth lies relative to it at that level."""
    score = (y[..., None] - knots) / _width(knots)  # (items, horizons, levels)
    horizons = y.shape[1]
    counts = np.cumsum(np.concatenate([[0], (~np.isnan(y)).sum(axis=0)]))
    out = np.zeros((horizons, len(KNOTS)))
    for h in range(horizons):
        reach = 0
        first, last = h, h + 1
        while counts[last] - counts[first] < _ENOUGH and (first > 0 or last < horizons):
            reach += 1
            first, last = max(0, h - reach), min(horizons, h + reach + 1)
        own = score[:, first:last].reshape(-1, len(KNOTS))
        own = own[~np.isnan(own[:, 0])]
        if len(own):
            out[h] = _conformal(own)
    return out


def _conformal(score: np.ndarray) -> np.ndarray:
    """Of scores ``(n, levels)`` the level's quantile, outward: the ceil((n + 1) level)-th."""
    n, score = len(score), np.sort(score, axis=0)
    out = np.zeros(len(KNOTS))
    for i, level in enumerate(KNOTS):
        if i == _MIDDLE:
            continue
        outer = max(level, 1 - level)
        rank = min(int(np.ceil((n + 1) * outer)), n)
        out[i] = score[rank - 1, i] if level > 0.5 else score[n - rank, i]
    return out
