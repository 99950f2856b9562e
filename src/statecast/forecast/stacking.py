"""Stacking: combines the forecasts of the network and of the analogues, and calibrates the result.

The quantiles of the two forecasts are averaged (Vincent 1912). The weight of each prefix length
minimises the CRPS (stacking: Wolpert 1992) plus a penalty, which keeps it near 1/2 if there are few
items. The combined quantiles are then adjusted by split conformal calibration, for each prefix
length and horizon, and separately above and below the median (Romano, Patterson and Candes 2019).
Both steps are fitted on held-out items: training items that the models of these forecasts were not
fitted on.

Everything is on arrays that are scaled as in a panel. A distribution is given by its quantiles at
``heads.quantiles.QUANTILE_LEVELS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from statecast.files import check_finite
from statecast.heads.quantiles import QUANTILE_LEVELS
from statecast.state import outline

MOST_ITEMS = 2000  # the most held-out items that are used
FEWEST = 8  # with fewer held-out items nothing is fitted
_WEIGHTS = np.linspace(0.0, 1.0, 11)
# The penalty of a weight w is _PULL / items * (w - 1/2)**2, as a share of the CRPS. A weight that
# is chosen on few items is uncertain. It also favours the network: a member's training stops by its
# score on the items that it holds out, so that its error on these items is about 4.5 / items too
# small (17 data sets of 37 to 476 held-out items; decision 52).
_PULL = 10.0
_ENOUGH = 400  # values for an offset; if a horizon has fewer, those of adjacent ones are added
MOST_OFFSET = 1e13  # a width is at least 1e-6, and scaled values are at most 1e6
_LEVELS = np.array(QUANTILE_LEVELS)
_MIDDLE = len(QUANTILE_LEVELS) // 2


@dataclass(frozen=True, eq=False)
class Stacking:
    """Weights and offsets, fitted on held-out items.

    Attributes
    ----------
    known : array of int, ``(n,)``
        The prefix lengths that were fitted, increasing from 0. Other lengths use the values of the
        next lower one.
    weight : array, ``(n,)``
        The weight of the network. The weight of the analogues is 1 minus it.
    offset : array, ``(n, steps, len(QUANTILE_LEVELS))``
        By horizon, what is added to each quantile, as a multiple of the 80 % interval's width.
    targets : int
        The number of targets. With several targets ``steps`` counts positions: one for each target
        of a step.
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
        """Fit to held-out items.

        Parameters
        ----------
        y : array, ``(items, steps)``
            The observations, NaN where nothing was observed.
        network, analogues : mapping of int to array ``(items, steps, len(QUANTILE_LEVELS))``
            By prefix length, forecasts of the items by models that were not fitted on them.
            ``analogues`` is None without analogues; the weight of the network is then 1.
        targets : int
        """
        known = np.array(sorted(network))
        weight, offset = (
            np.ones(len(known)),
            np.zeros((len(known), y.shape[1], len(QUANTILE_LEVELS))),
        )
        for i, k in enumerate(known):
            truth, quantiles = y[:, k:], network[k][:, k:]
            if np.isnan(truth).all():  # nothing to fit to
                weight[i], offset[i] = (weight[i - 1], offset[i - 1]) if i else (1.0, 0.0)
                continue
            if analogues is not None:
                other = analogues[k][:, k:]
                losses = [_crps(truth, w * quantiles + (1 - w) * other) for w in _WEIGHTS]
                weight[i] = _chosen(np.array(losses), int((~np.isnan(truth)).any(axis=1).sum()))
                quantiles = weight[i] * quantiles + (1 - weight[i]) * other
            rest = y.shape[1] - k
            for target in range(targets):
                at = slice(target, None, targets)  # the positions of this target
                offset[i, :rest][at] = _offsets(truth[:, at], quantiles[:, at])
                offset[i, rest:][at] = offset[i, :rest][at][-1]
        return cls(known, weight, offset, targets)

    def share(self, known: np.ndarray) -> np.ndarray:
        """The weight of the network for each of these prefix lengths, ``(rows,)``."""
        return self.weight[fitted_at(self.known, known)]

    def blend(self, network: np.ndarray, analogues: np.ndarray, known: np.ndarray) -> np.ndarray:
        """The weighted mean of two forecasts ``(rows, steps, len(QUANTILE_LEVELS))``."""
        weight = self.share(known)[:, None, None]
        return weight * network + (1 - weight) * analogues

    def calibrate(self, quantiles: np.ndarray, known: np.ndarray) -> np.ndarray:
        """The calibrated quantiles of a forecast, ``(rows, steps, len(QUANTILE_LEVELS))``.

        The median has no offset. It changes only if quantiles cross by the offsets and are sorted.
        """
        ahead = np.arange(quantiles.shape[1]) - known[:, None]
        # The last position of the same target: longer horizons have its offset.
        last = self.offset.shape[1] - self.targets + ahead % self.targets
        ahead = np.clip(ahead, 0, last)
        offset = self.offset[fitted_at(self.known, known)[:, None], ahead]
        return np.sort(quantiles + offset * width(quantiles), axis=-1)

    # -- files -------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, as a model file stores them."""
        return {"known": self.known, "weight": self.weight, "offset": self.offset}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], steps: int, targets: int = 1
    ) -> Stacking:
        """Restore from the result of ``arrays``, for these numbers of steps and targets.

        Raises
        ------
        ValueError
            Other names, or shapes, types or values that do not fit together.
        """
        known = arrays.get("known", np.zeros(0))
        count = known.size
        expected = {
            "known": ((count,), "int64"),
            "weight": ((count,), "float64"),
            "offset": ((count, steps, len(QUANTILE_LEVELS)), "float64"),
        }
        check_fitted("stacking", arrays, expected, steps)
        check_finite("stacking: offset", arrays["offset"], MOST_OFFSET)
        check_finite("stacking: weight", arrays["weight"], 1.0)
        if arrays["weight"].min() < 0:
            raise ValueError("stacking: weight: expected numbers from 0 to 1")
        return cls(**arrays, targets=targets)


def fitted_at(fitted: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The index of the largest fitted prefix length that is not above each of ``known``."""
    return np.searchsorted(fitted, known, side="right") - 1


def check_fitted(
    name: str,
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[tuple[int, ...], str]],
    steps: int,
) -> None:
    """Check arrays by prefix length from a model file.

    Raises
    ------
    ValueError
        Other names, shapes or types than expected; prefix lengths ``known`` that do not increase
        from 0 to below ``steps``.
    """
    found = {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
    if found != expected:
        raise ValueError(f"{name}: expected {expected}; received {found}")
    known = arrays["known"]
    if not known.size or known[0] != 0 or (known[1:] <= known[:-1]).any() or known[-1] >= steps:
        raise ValueError(f"{name}: known: expected increasing lengths from 0 to below {steps}")


def width(quantiles: np.ndarray) -> np.ndarray:
    """The widths of 80 % intervals, ``(..., 1)``, at least 1e-6."""
    low, high = QUANTILE_LEVELS.index(0.1), QUANTILE_LEVELS.index(0.9)
    return np.maximum(quantiles[..., high] - quantiles[..., low], 1e-6)[..., None]


def _crps(y: np.ndarray, quantiles: np.ndarray) -> float:
    error = y[..., None] - quantiles
    return float(np.nanmean(np.maximum(_LEVELS * error, (_LEVELS - 1) * error)))


def _chosen(losses: np.ndarray, items: int) -> float:
    """The weight of the network, from the CRPS on ``items`` held-out items at ``_WEIGHTS``."""
    penalty = _PULL / max(items, 1) * np.square(_WEIGHTS - 0.5)
    return float(_WEIGHTS[np.argmin(losses + losses.min() * penalty)])


def _offsets(y: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """The conformal offset of each horizon and quantile, ``(horizons, len(QUANTILE_LEVELS))``."""
    score = (y[..., None] - quantiles) / width(quantiles)  # (items, horizons, levels)
    horizons = y.shape[1]
    counts = np.cumsum(np.concatenate([[0], (~np.isnan(y)).sum(axis=0)]))
    out = np.zeros((horizons, len(QUANTILE_LEVELS)))
    for h in range(horizons):
        reach = 0
        first, last = h, h + 1
        while counts[last] - counts[first] < _ENOUGH and (first > 0 or last < horizons):
            reach += 1
            first, last = max(0, h - reach), min(horizons, h + reach + 1)
        scores = score[:, first:last].reshape(-1, len(QUANTILE_LEVELS))
        scores = scores[~np.isnan(scores[:, 0])]
        if len(scores):
            out[h] = conformal(scores)
    return out


def conformal(score: np.ndarray) -> np.ndarray:
    """The conformal quantiles of scores ``(n, levels)``: for each level the score with rank
    ceil((n + 1) level), counted from the median outwards. The median's is 0."""
    n, score = len(score), np.sort(score, axis=0)
    out = np.zeros(len(QUANTILE_LEVELS))
    for i, level in enumerate(QUANTILE_LEVELS):
        if i == _MIDDLE:
            continue
        outer = max(level, 1 - level)
        rank = min(int(np.ceil((n + 1) * outer)), n)
        out[i] = score[rank - 1, i] if level > 0.5 else score[n - rank, i]
    return out
