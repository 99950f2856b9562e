"""Partial pooling: what other items of a new group did is evidence about an item of the group.

The score of a value is its normal score in the forecast from k = 0. The scores of an item are
``u + e`` at each step: u is common to the items of its group, e is the item's own, and both are
normal with mean 0 and a covariance over the steps. Scores of other items of the group, at any
steps, give the distribution of u. A forecast moves by what they add to the item's own prefix, and
becomes narrower (the best linear unbiased prediction of a mixed model: Henderson 1975).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from statecast.files import check_finite
from statecast.forecast.stacking import FEWEST, check_fitted, fitted_at
from statecast.heads.quantiles import QUANTILE_LEVELS
from statecast.heads.special import normal_quantile
from statecast.state import outline

MOST_POSITIONS = 120  # of an item: covariances are inverted
_STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
_NARROWINGS = (0.0, 0.5, 1.0)
_LEAST = 0.05  # the least eigenvalue of the covariance of an item's own part
_SURE = 2.0  # standard errors: a smaller gain counts as none
_MOST_ITEMS = 600  # held-out items, in whole groups, that strength and narrowing are fitted to
_MOST_OTHERS = 20  # items of a group that are evidence about another one, in `fit`
_LARGEST = 1e3  # of a covariance: scores are from -3 to 3
_LOW, _MIDDLE, _HIGH = (QUANTILE_LEVELS.index(level) for level in (0.1, 0.5, 0.9))
_UNIT = 2.0 * float(normal_quantile(np.array(0.9)))  # the width of an 80 % interval of a score
_LEVELS = np.array(QUANTILE_LEVELS)


@dataclass(frozen=True, eq=False)
class Pooling:
    """The covariances of scores, and how far a forecast moves.

    Attributes
    ----------
    common, own : arrays, ``(positions, positions)``
        The covariances of the parts u and e.
    known : array of int, ``(n,)``
        The prefix lengths that were fitted, increasing from 0. Other lengths use the values of the
        next lower one.
    strength : array, ``(n,)``
        The share of the expected move that is made; 0 where it does not pay.
    narrowing : array, ``(n,)``
        The exponent of the ratio of the standard deviations with and without the evidence.
    groups : array of int, ``(m,)``
        The groups of the training items, increasing.
    """

    common: np.ndarray
    own: np.ndarray
    known: np.ndarray
    strength: np.ndarray
    narrowing: np.ndarray
    groups: np.ndarray

    __repr__ = outline

    @classmethod
    def fit(
        cls,
        y: np.ndarray,
        score: np.ndarray,
        forecasts: Mapping[int, np.ndarray],
        group: np.ndarray,
        training: np.ndarray,
    ) -> Pooling:
        """Fit to held-out items.

        The covariances are means of products: of pairs of items of a group, and of items. Strength
        and narrowing have the least CRPS, where the covariances are those of the other half of the
        groups. Both are 0 unless the gain is two standard errors above 0, in which a group is one
        observation. The evidence about an item is what the others of its group did at all steps, or
        for every other item in their first k steps.

        Parameters
        ----------
        y, score : arrays, ``(items, positions)``
            The scaled observations, and their scores; NaN where nothing was observed.
        forecasts : mapping of int to array ``(items, positions, len(QUANTILE_LEVELS))``
            By prefix length, calibrated.
        group : array of int, ``(items,)``
            0 for an item in no group.
        training : array of int
            The groups of all training items.
        """
        known = np.array(sorted(forecasts))
        strength, narrowing = np.zeros(len(known)), np.zeros(len(known))
        names, number = np.unique(group, return_inverse=True)
        half = np.where(group == 0, -1, number.ravel() % 2)
        common, own = _covariances(score, group)
        # Groups are numbered by a hash, so the first ones are a random sample.
        used = np.argsort(group, kind="stable")
        used = used[group[used] != 0][:_MOST_ITEMS]
        if len(names[names != 0]) >= FEWEST:
            halves = [_covariances(score[half == 1 - i], group[half == 1 - i]) for i in (0, 1)]
            inverses: list[dict[bytes, np.ndarray]] = [{}, {}]
            for at, k in enumerate(known.tolist()):
                moved = np.zeros((*score.shape, 2))
                for row in used.tolist():
                    others = np.flatnonzero((group == group[row]) & (np.arange(len(y)) != row))
                    seen = score[others[:_MOST_OTHERS]].copy()
                    if row % 2:
                        seen[:, k:] = np.nan
                    prefix = np.where(np.arange(y.shape[1]) < k, score[row], np.nan)
                    parts, kept = halves[half[row]], inverses[half[row]]
                    moved[row] = _move(parts, _evidence(parts, seen, kept), prefix)
                strength[at], narrowing[at] = _best(
                    y[used, k:], forecasts[k][used, k:], moved[used, k:], group[used]
                )
        groups = np.unique(training[training != 0])
        return cls(common, own, known, strength, narrowing, groups)

    def moves(
        self,
        score: np.ndarray,
        known: np.ndarray,
        group: np.ndarray,
        others: np.ndarray,
        other_group: np.ndarray,
    ) -> np.ndarray:
        """How the forecasts of items move by what other items of their groups did.

        Parameters
        ----------
        score : array, ``(rows, positions)``
            The scores of the items' prefixes, NaN where nothing was observed.
        known, group : arrays of int, ``(rows,)``
        others : array, ``(n, positions)``
            The scores of the other items.
        other_group : array of int, ``(n,)``

        Returns
        -------
        array, ``(rows, positions, 2)``
            The move, in standard deviations of the forecast, and the factor of its width; 0 and 1
            without other items of the group, and for a group of the training items.
        """
        moved = np.zeros((*score.shape, 2))
        moved[..., 1] = 1.0
        parts, at = (self.common, self.own), fitted_at(self.known, known)
        inverses: dict[bytes, np.ndarray] = {}
        usable = (group != 0) & ~np.isin(group, self.groups)
        for number in np.unique(group[usable]).tolist():
            # In an order that does not depend on that of the rows, for the same sums.
            seen = others[other_group == number]
            seen = seen[np.lexsort(np.nan_to_num(seen, nan=9.0).T)]
            if np.isnan(seen).all():
                continue
            evidence = _evidence(parts, seen, inverses)
            for row in np.flatnonzero(group == number).tolist():
                found = _move(parts, evidence, score[row])
                moved[row, :, 0] = self.strength[at[row]] * found[:, 0]
                moved[row, :, 1] = found[:, 1] ** self.narrowing[at[row]]
        return moved

    def has_effect(self, known: np.ndarray) -> np.ndarray:
        """Whether other items of a group count at prefix lengths ``(rows,)``; bool."""
        at = fitted_at(self.known, known)
        return (self.strength[at] != 0) | (self.narrowing[at] != 0)

    # -- files -------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, as a model file stores them."""
        names = ("common", "own", "known", "strength", "narrowing", "groups")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], steps: int) -> Pooling:
        """Restore from the result of ``arrays``, for this number of steps.

        Raises
        ------
        ValueError
            Other names, or shapes, types or values that do not fit together.
        """
        size, groups = (arrays.get(name, np.zeros(0)).size for name in ("known", "groups"))
        expected = {
            "common": ((steps, steps), "float64"),
            "own": ((steps, steps), "float64"),
            "known": ((size,), "int64"),
            "strength": ((size,), "float64"),
            "narrowing": ((size,), "float64"),
            "groups": ((groups,), "int64"),
        }
        check_fitted("pooling", arrays, expected, steps)
        for name, most in (("common", _LARGEST), ("own", _LARGEST)):
            check_finite(f"pooling: {name}", arrays[name], most)
            if not np.allclose(arrays[name], arrays[name].T):
                raise ValueError(f"pooling: {name}: expected a covariance")
        if np.linalg.eigvalsh(arrays["own"]).min() < _LEAST / 2:
            raise ValueError("pooling: own: expected a covariance that can be inverted")
        if np.linalg.eigvalsh(arrays["common"]).min() < -1e-6:
            raise ValueError("pooling: common: expected a covariance")
        known = arrays["groups"]
        if not ((known[1:] > known[:-1]).all() and known.all()):
            raise ValueError("pooling: groups: expected increasing numbers other than 0")
        for name, allowed in (("strength", _STRENGTHS), ("narrowing", _NARROWINGS)):
            if not set(arrays[name].tolist()) <= set(allowed):
                raise ValueError(f"pooling: {name}: expected numbers of {allowed}")
        return cls(**arrays)


def moved_quantiles(quantiles: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Quantiles ``(rows, steps, len(QUANTILE_LEVELS))``, moved by the result of ``Pooling.moves``.

    Steps after the last one of ``moved`` are moved as that one.
    """
    at = np.minimum(np.arange(quantiles.shape[1]), moved.shape[1] - 1)
    move, factor = moved[:, at, :1], moved[:, at, 1:]
    middle = quantiles[..., _MIDDLE : _MIDDLE + 1]
    deviation = (quantiles[..., _HIGH] - quantiles[..., _LOW])[..., None] / _UNIT
    found = middle + move * deviation + (quantiles - middle) * factor
    # To the bit where nothing moves.
    return np.where((move == 0.0) & (factor == 1.0), quantiles, found)


def _covariances(score: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The covariances of the common and the own part of scores ``(items, positions)``."""
    steps = score.shape[1]
    value, there = np.nan_to_num(score), (~np.isnan(score)).astype(float)
    pairs, counts = np.zeros((steps, steps)), np.zeros((steps, steps))
    for number in np.unique(group[group != 0]).tolist():
        rows = group == number
        for found, each in ((pairs, value[rows]), (counts, there[rows])):
            total = each.sum(axis=0)
            found += np.outer(total, total) - each.T @ each
    # Means over few products are shrunk towards 0, as if there were a group's worth more of them.
    common = _positive(pairs / (counts + FEWEST), 0.0)
    total = (value.T @ value) / np.maximum(there.T @ there, 1.0)
    return common, _positive(total - common, _LEAST)


def _positive(matrix: np.ndarray, least: float) -> np.ndarray:
    """The nearest symmetric matrix whose eigenvalues are at least ``least``."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2.0)
    found = (vectors * np.maximum(values, least)) @ vectors.T
    return (found + found.T) / 2.0


def _evidence(
    parts: tuple[np.ndarray, np.ndarray], seen: np.ndarray, inverses: dict[bytes, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the covariance of the common part, given scores of items of the group.

    ``inverses`` keeps those of the own part by the steps that were observed.
    """
    common, own = parts
    steps = len(common)
    precision, total = np.zeros((steps, steps)), np.zeros(steps)
    for score in seen:
        at = np.flatnonzero(~np.isnan(score))
        if len(at):
            inverse = inverses.get(at.tobytes())
            if inverse is None:
                inverse = inverses[at.tobytes()] = np.linalg.inv(own[np.ix_(at, at)])
            precision[np.ix_(at, at)] += inverse
            total[at] += inverse @ score[at]
    # Without the inverse of `common`, which may be singular.
    covariance = np.linalg.solve(np.eye(steps) + common @ precision, common)
    return covariance @ total, (covariance + covariance.T) / 2.0


def _move(
    parts: tuple[np.ndarray, np.ndarray],
    evidence: tuple[np.ndarray, np.ndarray],
    prefix: np.ndarray,
) -> np.ndarray:
    """What the evidence adds to an item's own prefix, ``(positions, 2)``: the difference of the
    means of its scores, and the ratio of their standard deviations."""
    common, own = parts
    at = np.flatnonzero(~np.isnan(prefix))

    def given(mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not len(at):
            return mean, np.diag(covariance)
        gain = np.linalg.solve(covariance[np.ix_(at, at)], covariance[at]).T
        left = np.diag(covariance) - (gain * covariance[:, at]).sum(axis=1)
        return mean + gain @ (prefix[at] - mean[at]), left

    (mean, covariance), nothing = evidence, np.zeros(len(common))
    (after, narrow), (before, wide) = given(mean, covariance + own), given(nothing, common + own)
    ratio = np.sqrt(np.clip(narrow, 1e-6, None) / np.clip(wide, 1e-6, None))
    return np.stack([after - before, np.minimum(ratio, 1.0)], axis=1)


def _best(
    y: np.ndarray, quantiles: np.ndarray, moved: np.ndarray, group: np.ndarray
) -> tuple[float, float]:
    """The strength and the narrowing with the least CRPS; (0, 0) unless they are surely better."""
    seen = ~np.isnan(y)
    numbers, number = np.unique(group, return_inverse=True)

    def losses(strength: float, narrowing: float) -> np.ndarray:
        own = np.stack([strength * moved[..., 0], moved[..., 1] ** narrowing], axis=-1)
        error = np.where(seen, y, 0.0)[..., None] - moved_quantiles(quantiles, own)
        loss = np.maximum(_LEVELS * error, (_LEVELS - 1) * error).mean(axis=-1)
        return np.bincount(number.ravel(), np.where(seen, loss, 0.0).sum(axis=1), len(numbers))

    base = losses(0.0, 0.0)
    gains = {(s, n): base - losses(s, n) for s in _STRENGTHS for n in _NARROWINGS if s or n}
    best = max(gains, key=lambda each: float(gains[each].sum()))
    gain = gains[best]
    error = np.sqrt(len(gain) * gain.var(ddof=1)) if len(gain) > 1 else np.inf
    return best if gain.sum() > _SURE * error else (0.0, 0.0)
