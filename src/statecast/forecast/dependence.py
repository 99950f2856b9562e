"""The dependence between the items of a group: how their totals move together.

The total of an item is the sum of its values over the steps to forecast. The normal score of a
total is the standard normal quantile at its rank among the item's paths. For the items of a group
it is modelled as ``loading * z + sqrt(1 - loading**2) * e``, where z is common to the group, e is
the item's own, and both are standard normal. The loading depends on the prefix length. It is
estimated from the scores of known totals, by the products of pairs of items.

Paths are put in an order in which their totals have this dependence (Iman and Conover 1982). The
set of an item's paths does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from statecast.forecast.stacking import FEWEST, check_fitted, fitted_at
from statecast.heads.special import LEAST_LEVEL, normal_quantile
from statecast.state import outline

_LARGEST = 0.99  # of a loading
_GRID = np.linspace(0.0, _LARGEST, 100)
_SWEEPS = 30  # over all prefix lengths
# The pairs that the estimate from all prefix lengths counts for, for each two lengths. The products
# of as many pairs have a standard error of a tenth.
_PRIOR = 100.0
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
    """

    known: np.ndarray
    loading: np.ndarray

    __repr__ = outline

    @classmethod
    def fit(cls, known: np.ndarray, scores: Iterable[Scores]) -> Dependence:
        """Fit to the scores of known totals.

        The correlation of all pairs is shrunk towards 0 by its standard error, in which a group is
        one observation, and is never negative. The products of pairs with two prefix lengths are
        shrunk towards this correlation. The loadings are those of the one-factor model that is
        nearest to them by least squares.

        Parameters
        ----------
        known : array of int, ``(n,)``
            The prefix lengths to fit, increasing from 0.
        scores : iterable of (group, known, score), arrays ``(rows,)``
            Forecasts that were made together. Only pairs of items within one of them are compared.
            ``group`` is 0 for an item in no group.
        """
        n = len(known)
        product, pairs = np.zeros((n, n)), np.zeros((n, n))
        by_group: dict[int, np.ndarray] = {}
        for group, own, score in scores:
            at = fitted_at(known, own)
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
        pooled = _pooled(np.array(list(by_group.values())).reshape(-1, 2))
        mean = (product + _PRIOR * pooled) / (pairs + _PRIOR)
        return cls(known, _loadings(mean, pairs + _PRIOR, pooled))

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
        return {"known": self.known, "loading": self.loading}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], steps: int) -> Dependence:
        """Restore from the result of ``arrays``, for this number of steps.

        Raises
        ------
        ValueError
            Other names, or shapes, types or values that do not fit together.
        """
        size = arrays.get("known", np.zeros(0)).size
        expected = {"known": ((size,), "int64"), "loading": ((size,), "float64")}
        check_fitted("dependence", arrays, expected, steps)
        if not ((arrays["loading"] >= 0) & (arrays["loading"] <= _LARGEST)).all():
            raise ValueError(f"dependence: loading: expected numbers from 0 to {_LARGEST}")
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


def _pooled(sums: np.ndarray) -> float:
    """The correlation of all pairs, shrunk; 0 with fewer than ``FEWEST`` groups.

    ``sums (groups, 2)`` has the sum of the products of a group's pairs, and the number of pairs.
    """
    sums = sums[sums[:, 1] > 0]
    product, pairs = sums.sum(axis=0)
    if len(sums) < FEWEST or product <= 0:
        return 0.0
    mean, free = product / pairs, 1.0 - 1.0 / len(sums)
    variance = ((sums[:, 0] - mean * sums[:, 1]) ** 2).sum() / pairs**2 / free
    return float(np.clip(mean * (1.0 - variance / mean**2), 0.0, _LARGEST**2))


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
