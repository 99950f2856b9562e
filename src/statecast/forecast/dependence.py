"""The dependence between the items of a group: how their totals move together.

The total of an item is the sum of its values over the steps to forecast. The normal score of a
total is the standard normal quantile at its rank among the item's paths. For the items of a group
it is modelled as ``loading * z + sqrt(1 - loading**2) * e``, where z is common to the group, e is
the item's own, and both are standard normal. The loading depends on the prefix length. It is
estimated from the scores of known totals, by the products of pairs of items.

Paths are put in an order in which their totals have this dependence (Iman and Conover 1982). The
set of an item's paths does not change.

Where the known totals are later than the training data, their scores also show whether intervals
are wide enough. If fewer than 80 % of the totals are within their 80 % intervals, the forecasts
become wider.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from statecast.forecast.stacking import FEWEST, check_fitted, fitted_at
from statecast.heads.quantiles import QUANTILE_LEVELS
from statecast.heads.special import LEAST_LEVEL, normal_quantile
from statecast.state import outline

_LARGEST = 0.99  # of a loading
_WIDEST = 3.0  # of a spread
_WITHIN = 0.8  # the share of the totals that should be within the interval of this share
_LIMIT = float(normal_quantile(np.array(0.5 + _WITHIN / 2)))  # of the scores in this interval
_GRID = np.linspace(0.0, _LARGEST, 100)
_SWEEPS = 30  # over all prefix lengths
# The pairs that the estimate from all prefix lengths counts for, for each two lengths. The products
# of as many pairs have a standard error of a tenth.
_PRIOR = 100.0
_MIDDLE = QUANTILE_LEVELS.index(0.5)
_PAST = 1 / 2  # the share of the values that are known where forecasts in time begin

# The groups, prefix lengths and normal scores of items that were forecast together
Scores = tuple[np.ndarray, np.ndarray, np.ndarray]
# Uniform random numbers of some rows, ``(rows, paths)``: of their items, or of their groups
Draw = Callable[[np.ndarray, bool], np.ndarray]


@dataclass(frozen=True, eq=False)
class Dependence:
    """The loadings of items on what is common to their group.

    Attributes
    ----------
    known : array of int, ``(n,)``
        The prefix lengths that were fitted, increasing from 0. Other lengths use the loading of the
        next lower one.
    loading : array, ``(n,)``
        From 0 to 0.99. Two items with the loadings a and b have the correlation a b.
    spread : array, ``(n,)``
        What the distance of a quantile from the median is multiplied by, from 1 to 3.
    """

    known: np.ndarray
    loading: np.ndarray
    spread: np.ndarray

    __repr__ = outline

    @classmethod
    def fit(
        cls, known: np.ndarray, scores: Iterable[Scores], *, in_time: bool = False
    ) -> Dependence:
        """Fit to the scores of known totals.

        The correlation of all pairs is shrunk towards 0 by its standard error, in which a group is
        one observation, and is never negative. The products of pairs with two prefix lengths are
        shrunk towards this correlation. The loadings are those of the one-factor model that is
        nearest to them by least squares. The spread is the factor with which 80 % of the totals are
        within their 80 % intervals, shrunk likewise towards 1.

        Parameters
        ----------
        known : array of int, ``(n,)``
            The prefix lengths to fit, increasing from 0.
        scores : iterable of (group, known, score), arrays ``(rows,)``
            Forecasts that were made together. Only pairs of items within one of them are compared.
            ``group`` is 0 for an item in no group.
        in_time : bool
            Whether the totals are later than the training data. Otherwise the spread is 1, as
            forecasts of held-out items are calibrated.
        """
        n = len(known)
        product, pairs = np.zeros((n, n)), np.zeros((n, n))
        by_group: dict[int, np.ndarray] = {}
        scores = [(group, fitted_at(known, own), score) for group, own, score in scores]
        for group, at, score in scores:
            for number in np.unique(group[group != 0]).tolist():
                rows = np.flatnonzero(group == number)
                total, squares, count = (
                    np.bincount(at[rows], values, n)
                    for values in (score[rows], score[rows] ** 2, np.ones(len(rows)))
                )
                added = np.outer(total, total) - np.diag(squares)
                more = np.outer(count, count) - np.diag(count)
                product, pairs = product + added, pairs + more
                sums = by_group.setdefault(number, np.zeros(2))
                sums += added.sum(), more.sum()
        pooled = _pooled(np.array(list(by_group.values())).reshape(-1, 2), _LARGEST**2)
        mean = (product + _PRIOR * pooled) / (pairs + _PRIOR)
        spread = _spread(scores, n) if in_time and scores else np.ones(n)
        return cls(known, _loadings(mean, pairs + _PRIOR, pooled), spread)

    def widen(self, quantiles: np.ndarray, known: np.ndarray) -> np.ndarray:
        """The quantiles ``(rows, steps, levels)`` of a forecast, with the spread of their prefix
        lengths ``(rows,)``. The median does not change."""
        middle = quantiles[..., _MIDDLE : _MIDDLE + 1]
        spread = self.spread[fitted_at(self.known, known)][:, None, None]
        return middle + spread * (quantiles - middle)

    def order(
        self, totals: np.ndarray, group: np.ndarray, known: np.ndarray, draw: Draw
    ) -> np.ndarray:
        """The order in which the paths of each item have the dependence of its group.

        Parameters
        ----------
        totals : array, ``(rows, paths)``
        group, known : arrays of int, ``(rows,)``
        draw : callable
            Of row indices, and whether the random numbers are those of the groups.

        Returns
        -------
        array of int, ``(rows, paths)``
            The index of the path that comes first, second, ... It is unchanged for items without a
            group, and where the loading is 0.
        """
        order = np.broadcast_to(np.arange(totals.shape[1]), totals.shape).copy()
        loading = np.where(group == 0, 0.0, self.loading[fitted_at(self.known, known)])
        rows = np.flatnonzero(loading > 0)
        if len(rows):
            common, own = (
                normal_quantile(np.clip(draw(rows, shared), LEAST_LEVEL, 1.0 - LEAST_LEVEL))
                for shared in (True, False)
            )
            a = loading[rows, None]
            score = a * common + np.sqrt(1.0 - a * a) * own
            rank = score.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
            by_total = totals[rows].argsort(axis=1, kind="stable")
            order[rows] = np.take_along_axis(by_total, rank, axis=1)
        return order

    # -- files -------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, as a model file stores them."""
        return {"known": self.known, "loading": self.loading, "spread": self.spread}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], steps: int) -> Dependence:
        """Restore from the result of ``arrays``, for this number of steps.

        Raises
        ------
        ValueError
            Other names, or shapes, types or values that do not fit together.
        """
        size = arrays.get("known", np.zeros(0)).size
        numbers = dict.fromkeys(("loading", "spread"), ((size,), "float64"))
        check_fitted("dependence", arrays, {"known": ((size,), "int64")} | numbers, steps)
        for name, least, most in (("loading", 0.0, _LARGEST), ("spread", 1.0, _WIDEST)):
            if not ((arrays[name] >= least) & (arrays[name] <= most)).all():
                raise ValueError(f"dependence: {name}: expected numbers from {least} to {most}")
        return cls(**arrays)


def known_in_time(begin: np.ndarray, mask: np.ndarray, targets: int) -> np.ndarray | None:
    """What was known of each item at the time up to which half of the values were observed.

    Parameters
    ----------
    begin : array, ``(rows,)``
        The time of step 1, in steps; NaN where it is unknown.
    mask : array of bool, ``(rows, positions)``
        Where a value was observed.
    targets : int
        The positions of a step.

    Returns
    -------
    array of int, ``(rows,)``, or None
        The last position at that time; below 1 for an item that begins later or at an unknown time.
        None if there is no such time.
    """
    row, at = np.nonzero(mask)
    time = begin[row] + at // targets
    time = time[~np.isnan(time)]
    found, count = np.unique(time, return_counts=True)
    early = np.flatnonzero(np.cumsum(count) <= _PAST * count.sum())
    if not len(early):
        return None
    steps = np.nan_to_num(found[early[-1]] - begin + 1.0, nan=-1.0)
    return (np.clip(steps, -1.0, mask.shape[1] // targets) * targets).astype(np.int64)


def normal_scores(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The normal score of the truth ``(rows,)`` among samples ``(rows, n)``."""
    below = (samples < truth[:, None]).sum(axis=1) + 0.5 * (samples == truth[:, None]).sum(axis=1)
    return normal_quantile((below + 0.5) / (samples.shape[1] + 1.0))


def _pooled(sums: np.ndarray, most: float) -> float:
    """The mean of all values, shrunk, from 0 to ``most``; 0 with fewer than ``FEWEST`` groups.

    ``sums (groups, 2)`` has the sum of a group's values, and their number.
    """
    sums = sums[sums[:, 1] > 0]
    total, count = sums.sum(axis=0)
    if len(sums) < FEWEST or total <= 0:
        return 0.0
    mean, free = total / count, 1.0 - 1.0 / len(sums)
    variance = ((sums[:, 0] - mean * sums[:, 1]) ** 2).sum() / count**2 / free
    return float(np.clip(mean * (1.0 - variance / mean**2), 0.0, most))


def _spread(scores: Sequence[Scores], n: int) -> np.ndarray:
    """The spread of each of the ``n`` prefix lengths, from totals that were forecast in time.

    The scores have the indices of the prefix lengths in place of these. The spread of all items is
    shrunk in proportion to the share of totals beyond their intervals, in whose standard error a
    group is one observation. A prefix length's own spread counts for its number of items.
    """
    group, at, size = (np.concatenate([each[i] for each in scores]) for i in range(3))
    at, size, group = (each[group != 0] for each in (at, np.abs(size), group))
    beyond = (size > _LIMIT) - (1.0 - _WITHIN)
    number = np.unique(group, return_inverse=True)[1].ravel()
    sums = np.stack([np.bincount(number, beyond), np.bincount(number)], axis=1)
    excess = _pooled(sums, 1.0)
    if not excess:
        return np.ones(n)
    whole, spread = excess / beyond.mean() * _log_ratio(size), np.empty(n)
    for i in range(n):
        own = size[at == i]
        ratio = len(own) * _log_ratio(own) if len(own) else 0.0
        spread[i] = np.exp((ratio + _PRIOR * whole) / (len(own) + _PRIOR))
    return np.clip(spread, 1.0, _WIDEST)


def _log_ratio(size: np.ndarray) -> float:
    """The logarithm of the factor of the interval that holds 80 % of absolute scores (n,): the one
    with rank ceil(0.8 (n + 1)), as in split conformal calibration."""
    rank = min(int(np.ceil(_WITHIN * (len(size) + 1))), len(size))
    return float(np.log(np.sort(size)[rank - 1] / _LIMIT))


def _loadings(mean: np.ndarray, weight: np.ndarray, pooled: float) -> np.ndarray:
    """The loadings ``(n,)`` whose products are nearest to the mean products ``(n, n)``."""
    found = np.full(len(mean), np.sqrt(pooled))
    if pooled == 0.0:
        return found
    for _ in range(_SWEEPS):
        for i in range(len(found)):
            error = weight[i] * (mean[i] - _GRID[:, None] * found) ** 2
            error[:, i] = weight[i, i] * (mean[i, i] - _GRID**2) ** 2
            error[:, np.arange(len(found)) != i] *= 2
            found[i] = _GRID[error.sum(axis=1).argmin()]
    return found
