"""Analogues: forecasts from the training items that are most similar in X and in the prefix.

A Gaussian model, ``Linear``, gives the mean: y given X by ridge regression, and the steps after the
prefix given the first k observations by conditioning. One fit serves every k and every pattern of
gaps.

The distribution around the mean is that of the training items' residuals, with weights. An item
that is nearer in X and in the prefix has a larger weight. The distance is learnt (kernel regression
with a learnt metric: Weinberger and Tesauro 2007; in weather forecasting, the analog ensemble:
Delle Monache et al. 2013).

Everything is on arrays that are scaled as in a panel, without tables and Keras.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from statecast.files import check_finite, packed_ids, read_ids
from statecast.networks.arrays import native
from statecast.recurrence.kernels.native import weighted
from statecast.state import outline
from statecast.tables.features import one_hot

MOST_ITEMS = 50_000  # the most training items that a model keeps
NEAREST = 100  # the number of training items with a weight in a forecast
MOST_STEPS = 1000  # the most steps of a series: a covariance matrix has their square
WINDOW = 100  # the Gaussian is conditioned on at most this many observations, the last ones
FOLDS = 8  # the residuals of an item are from a fit on the other folds
_MOST_FEATURES = 256  # of X; if it has more, their principal components are used
_MOST_CATEGORIES = 64  # of a categorical static feature: the most frequent, with 3 items or more
_TRIED = 3000  # the most items on which ridges are chosen, and whose gaps are filled
_RIDGES = (0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_SMALL_RIDGES = (1e-6, 1e-5, 1e-4, 1e-3)  # further ones for observations, for smooth series
_ROUNDS = 5  # the most rounds of expectation-maximisation
_EFFORT = 6e9  # the most rounds x patterns of gaps x steps cubed: a few seconds
_LAG_RIDGE = 3.0  # of the earlier steps, in `Linear.fit_sequentially`
_FILL_RIDGE = 0.1  # added to the variances of the observations from which gaps are filled
# The penalty of the metric: this times the sum of its weights, divided by the number of items. With
# few items a metric is learnt that gives nearly all the weight to one or two of them.
_METRIC_PENALTY = 0.1
_LAGS = 64  # in the distance, all observations with a larger lag have the same weight
_ENOUGH = 10  # the estimate of a step with fewer items is shrunk towards the mean
_MOST_KEPT = 1 << 30  # bytes of arrays by prefix length that are kept for the next call
GRAIN = 1e-6  # distances are rounded to multiples of it: ties are the same on every machine


def prefixes(steps: int, targets: int = 1) -> list[int]:
    """The prefix lengths below ``steps`` at which forecasts are scored: 0 and Fibonacci numbers.

    With several targets, ``steps`` and the lengths count positions; each length is a multiple of
    the number of targets.
    """
    known = [0, targets]
    while known[-1] < steps:
        known.append(known[-1] + (known[-2] or targets))
    return known[:-1] if len(known) > 2 else [0]


# -- the linear model --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Linear:
    """The model y = (x - centre) kernel + bias + e; e is normal with mean 0 and a full covariance.

    Attributes
    ----------
    centre : array, ``(features,)``
    kernel : array, ``(features, steps)``
    bias : array, ``(steps,)``
    covariance : array, ``(steps, steps)``
    """

    centre: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    covariance: np.ndarray

    __repr__ = outline

    @classmethod
    def regress(cls, x: np.ndarray, y: np.ndarray, mask: np.ndarray, ridge: float) -> Linear:
        """Fit a ridge regression of each step on x. The covariance of the result is zero.

        Parameters
        ----------
        x : array, ``(items, features)``
        y, mask : arrays, ``(items, steps)``
        ridge : float
        """
        centre = x.mean(axis=0)
        steps, features = y.shape[1], x.shape[1]
        design = np.concatenate([x - centre, np.ones((len(x), 1))], axis=1)
        penalty = np.diag([ridge] * features + [1e-6])
        weights = np.zeros((features + 1, steps))
        if mask.all():
            weights = np.linalg.solve(design.T @ design + penalty, design.T @ y)
        else:
            # A step at which few items were observed is shrunk towards the mean, which is 0.
            for step in np.flatnonzero(mask.any(axis=0)):
                rows = mask[:, step]
                inputs, share = design[rows], rows.mean()  # the ridge is relative to the items
                few = 1e-6 if rows.sum() >= _ENOUGH else 1.0
                penalty = np.diag([ridge * share] * features + [few])
                normal = inputs.T @ inputs + penalty
                weights[:, step] = np.linalg.solve(normal, inputs.T @ y[rows, step])
        return cls(centre, weights[:-1], weights[-1], np.zeros((steps, steps)))

    @classmethod
    def fit_sequentially(
        cls, x: np.ndarray, y: np.ndarray, mask: np.ndarray, ridge: float
    ) -> Linear:
        """Fit a regression of each step on x and the earlier steps, and derive the joint Gaussian.

        If all gaps are after an item's last observation, this is the maximum-likelihood fit, apart
        from the ridges (Little and Rubin 2002, chapter 7). The estimate of a step that few items
        reach then uses earlier steps, which more items reach. Other gaps are filled with the
        prediction of the regression on the steps before them.
        """
        (items, features), steps = x.shape, y.shape[1]
        centre, filled = x.mean(axis=0), np.where(mask, y, 0.0)
        kernel, bias = np.zeros((features, steps)), np.zeros(steps)
        covariance = np.zeros((steps, steps))
        for step in range(steps):
            rows, before = mask[:, step], np.arange(max(0, step - WINDOW), step)
            design = np.concatenate([x - centre, filled[:, before]], axis=1)
            inputs, truth, count = design[rows], y[rows, step], int(rows.sum())
            share = count / items  # the ridge is relative to the number of items
            penalty = share * np.repeat([ridge, _LAG_RIDGE], [features, len(before)])
            # A step at which few items were observed is shrunk towards the mean, which is 0.
            middle = inputs.sum(axis=0) / max(count, 1)
            level = truth.sum() / (count if count >= _ENOUGH else count + 1)
            weight = _ridge_solved(inputs - middle, truth - level, penalty)
            error = truth - level - (inputs - middle) @ weight
            of_x, lags = weight[:features], weight[features:]
            constant = level - middle @ weight
            filled[~rows, step] = constant + design[~rows] @ weight
            kernel[:, step] = of_x + kernel[:, before] @ lags
            bias[step] = constant + bias[before] @ lags
            beside = lags @ covariance[before, :step]
            covariance[step, :step] = covariance[:step, step] = beside
            spread = error @ error / count if count else 1.0
            covariance[step, step] = spread + beside[before] @ lags
        return cls(centre, kernel, bias, covariance)

    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray, mask: np.ndarray, ridge: float) -> Linear:
        """Fit the regression on x and the covariance of its residuals.

        Without gaps both are direct. With gaps and at most ``_TRIED`` items it is
        ``fit_sequentially``. With gaps and more items each step is regressed on x for the items
        that were observed at this step, and each entry of the covariance is estimated from the
        items that were observed at both steps.

        If there are gaps before an item's last observation, or many items, the gaps are then filled
        and the model is fitted again, by expectation-maximisation (Dempster, Laird and Rubin 1977),
        for at most ``_ROUNDS`` rounds.
        """
        if mask.all():
            path = cls.regress(x, y, mask, ridge)
            error = y - path.of_x(x)
            return replace(path, covariance=error.T @ error / len(error))
        few = len(x) <= _TRIED
        if few:
            path = cls.fit_sequentially(x, y, mask, ridge)
        else:
            path, seen = cls.regress(x, y, mask, ridge), mask.astype(np.float64)
            error = np.where(mask, y - path.of_x(x), 0.0)
            # The 1 is a pseudo-count: two steps that were never observed together have covariance 0
            path = replace(path, covariance=_definite(error.T @ error / (seen.T @ seen + 1.0)))
            x, y, mask = x[:_TRIED], y[:_TRIED], mask[:_TRIED]
        if few and not (mask[:, 1:] & ~mask[:, :-1]).any():
            return path
        patterns, whole = list(_patterns(mask)), np.ones_like(mask)
        rounds = int(_EFFORT / (len(patterns) * mask.shape[1] ** 3))
        for _ in range(min(rounds, _ROUNDS)):
            prior = path.of_x(x)
            error = np.where(mask, y - prior, 0.0)
            filled, uncertain = _expectation(path.covariance, error, patterns)
            filled += prior
            if few:
                path = replace(cls.regress(x, filled, whole, ridge), covariance=path.covariance)
            error = filled - path.of_x(x)
            path = replace(path, covariance=(uncertain + error.T @ error) / len(x))
        return path

    def of_x(self, x: np.ndarray) -> np.ndarray:
        """The mean given X alone, ``(rows, steps)``."""
        return (x - self.centre) @ self.kernel + self.bias

    def mean(self, x: np.ndarray, y: np.ndarray, mask: np.ndarray, ridge: float) -> np.ndarray:
        """The mean of every step given X and the observations of y, ``(rows, steps)``.

        ``ridge`` is added to the variances of the observations.
        """
        prior = self.of_x(x)
        error, mean = np.where(mask, y - prior, 0.0), prior.copy()
        for rows, seen in _patterns(mask):
            at = np.flatnonzero(seen)[-WINDOW:]
            solved = _condition(self.covariance, at, ridge, error[np.ix_(rows, at)].T)
            mean[rows] += solved.T @ self.covariance[at]
        return mean


def _ridge_solved(design: np.ndarray, y: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """The weights of a ridge regression with a penalty for each column.

    It solves the system of the smaller size: of the rows or of the columns.
    """
    if len(design) < len(penalty):
        scaled = design / penalty
        return scaled.T @ np.linalg.solve(scaled @ design.T + np.eye(len(y)), y)
    return np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ y)


def _condition(
    covariance: np.ndarray, at: np.ndarray, ridge: float, right: np.ndarray
) -> np.ndarray:
    """The inverse of the covariance of the steps ``at``, with ``ridge`` added to each variance,
    times ``right (len(at), n)``: a part of the conditioning of a Gaussian on these steps."""
    return np.linalg.solve(covariance[np.ix_(at, at)] + ridge * np.eye(len(at)), right)


def _expectation(
    covariance: np.ndarray, error: np.ndarray, patterns: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """The expectation step of the fit.

    Returns the errors with their gaps filled by the conditional means, and the sum over the rows of
    the conditional covariances of the gaps.
    """
    uncertain, error = np.zeros_like(covariance), error.copy()
    for rows, seen in patterns:
        at, gaps = np.flatnonzero(seen), np.flatnonzero(~seen)
        solved = _condition(covariance, at, _FILL_RIDGE, covariance[np.ix_(at, gaps)])
        error[np.ix_(rows, gaps)] = error[np.ix_(rows, at)] @ solved
        rest = covariance[np.ix_(gaps, gaps)] - covariance[np.ix_(gaps, at)] @ solved
        uncertain[np.ix_(gaps, gaps)] += len(rows) * rest
    return error, uncertain


def _definite(covariance: np.ndarray) -> np.ndarray:
    """The matrix with its eigenvalues raised to at least 1e-6, so that it is positive definite."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, 1e-6)) @ vectors.T


def _patterns(mask: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the indices of the rows with the same mask, and this mask, for every distinct mask."""
    if len(mask) < 2:  # what follows takes longer than the forecast of one row
        yield from ((np.zeros(1, int), row) for row in mask)
        return
    _, which = np.unique(np.packbits(mask, axis=1), axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    cuts = np.flatnonzero(np.diff(which.ravel()[order])) + 1
    for rows in np.split(order, cuts):
        yield rows, mask[rows[0]]


# -- the analogues -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Analogues:
    """The training items and the linear models, from ``Analogues.fit``.

    Attributes
    ----------
    ids : array of objects, ``(items,)``
    categories : array of int, ``(n, 2)``
        The categories that have a column of X: the index of the static feature, and the code.
    gaps : array of int, ``(numeric / 2 + categorical,)``
        For each static feature 1 if it was missing for enough training items, else 0. A categorical
        feature counts as missing if its code has no column.
    basis : array, ``(numeric + n, features)``
        The principal components of a wide X; otherwise the identity matrix.
    x : array, float32, ``(items, features)``
    y : array, float32, ``(items, steps)``
        NaN where nothing was observed.
    fold : array of int, ``(items,)``
        The fold of each item: the index of the linear model that was fitted without it.
    group : array of int, ``(items,)``
        Items of the same group are not analogues of each other in training.
    paths : tuple of Linear
        A linear model for each fold, fitted on the other folds. The last one is fitted on all
        items.
    ridge : float
        Added to the variances of the observations that the Gaussian is conditioned on.
    metric : array, ``(features + lags,)``
        The logarithms of the weights of the squared differences in the distance: of each feature,
        and of the observations at each lag.
    """

    ids: np.ndarray
    categories: np.ndarray
    gaps: np.ndarray
    basis: np.ndarray
    x: np.ndarray
    y: np.ndarray
    fold: np.ndarray
    group: np.ndarray
    paths: tuple[Linear, ...]
    ridge: float
    metric: np.ndarray
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    __repr__ = outline

    @classmethod
    def fit(
        cls,
        ids: np.ndarray,
        numeric: np.ndarray,
        codes: np.ndarray,
        y: np.ndarray,
        mask: np.ndarray,
        group: np.ndarray,
        *,
        seed: int,
        targets: int = 1,
    ) -> Analogues:
        """Fit to training items. The arrays are those of a panel.

        Parameters
        ----------
        ids : array, ``(items,)``
            Whole numbers or text.
        numeric, codes : arrays, ``(items, 2 * n)`` and ``(items, m)``
            The items must be in random order: of items at the same distance the first are used.
        y, mask : arrays, ``(items, steps)``
        group : array of int, ``(items,)``
        seed : int
            For the folds, and for the learning of the metric.
        targets : int
            With several targets, ``steps`` counts positions: one for each target of a step.
        """
        rng = np.random.default_rng([seed, 3])
        y = y.astype(np.float64)
        categories = _frequent(codes)
        raw = one_hot(numeric, codes, categories)
        basis = _components(raw)
        x = raw @ basis
        # All items of a group are in the same fold.
        names, which = np.unique(group, return_inverse=True)
        fold = (rng.permutation(len(names)) % FOLDS)[which.ravel()]
        paths, ridge = _linear_paths(x, y, mask, fold, targets)
        found = cls(
            ids.astype(object),
            categories,
            (_gaps(numeric, codes, categories).sum(axis=0) >= max(3, len(x) / 100)).astype(int),
            basis,
            x.astype(np.float32),
            np.where(mask, y, np.nan).astype(np.float32),
            fold,
            group,
            paths,
            ridge,
            np.zeros(0),
        )
        return replace(found, metric=_learnt_metric(found, rng, targets))

    @property
    def steps(self) -> int:
        """The length of the longest training item. Later steps are not forecast."""
        return self.y.shape[1]

    def fits(self, numeric: int, cardinalities: Sequence[int], steps: int) -> bool:
        """Whether the arrays agree with these sizes of static features and series."""
        column, code = self.categories.T
        return (
            len(self.basis) == numeric + len(self.categories)
            and len(self.gaps) == numeric // 2 + len(cardinalities)
            and bool(((column >= 0) & (column < len(cardinalities)) & (code >= 0)).all())
            and steps == self.steps
        )

    def features(self, numeric: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """The static features of a panel in the form of ``x``, float32 ``(rows, features)``."""
        x = one_hot(numeric, codes, self.categories) @ self.basis
        return x.astype(np.float32)

    def usable(self, numeric: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Whether the analogues can forecast each row, bool ``(rows,)``.

        False if a static feature is missing that was hardly ever missing in training, or if a
        category is new and training had hardly any rare categories: the training items then do not
        show the uncertainty that the missing feature causes.
        """
        return ~(_gaps(numeric, codes, self.categories) & (self.gaps == 0)).any(axis=1)

    def forecast(
        self,
        x: np.ndarray,
        y: np.ndarray,
        mask: np.ndarray,
        known: np.ndarray,
        levels: Sequence[float],
        *,
        until: int | None = None,
        items: np.ndarray | None = None,
    ) -> np.ndarray:
        """Quantiles of the steps after each row's prefix.

        Parameters
        ----------
        x : array, ``(rows, features)``
            From ``features``.
        y, mask : arrays, ``(rows, steps)``
            The prefix, and where it was observed.
        known : array of int, ``(rows,)``
            The prefix length.
        levels : sequence of float
            Increasing, between 0 and 1.
        until : int, optional
            The number of steps; by default those of the longest training item.
        items : array of int, ``(rows,)``, optional
            If the rows are training items: their indices. The mean of a row is then that of the
            linear model that was fitted without it, and items of its group are no analogues. The
            residuals of the analogues are still from linear models that were fitted on the row,
            too.

        Returns
        -------
        array, float64, ``(rows, until, len(levels))``
            NaN on the prefix.
        """
        until = self.steps if until is None else min(until, self.steps)
        out = np.full((len(y), until, len(levels)), np.nan)
        for k in np.unique(known):
            if k >= until:
                continue
            rows = np.flatnonzero(known == k)
            for part in np.array_split(rows, -(-len(rows) // 512)):
                which = None if items is None else items[part]
                near, weight, mean = self.nearest(x[part], y[part], mask[part], int(k), items=which)
                ahead, left = range(int(k), until), self.residuals(int(k))
                quantiles = weighted.quantiles if native() else weighted_quantiles
                found = quantiles(left, near, weight, ahead, levels)
                out[part, k:] = mean[:, k:until, None] + found
        return out

    def deviations(self, mask: np.ndarray, known: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Joint samples of the steps after the prefix minus their mean, from the Gaussian model.

        Parameters
        ----------
        mask : array of bool, ``(rows, steps)``
            Where the prefix was observed.
        known : array of int, ``(rows,)``
            The prefix length, below ``steps``.
        normal : array, ``(rows, paths, steps)``
            Standard normal numbers. The numbers of a step have no effect on earlier steps.

        Returns
        -------
        array, float64, ``(rows, paths, steps)``
            NaN on the prefix.
        """
        out, covariance = np.full(normal.shape, np.nan), self.paths[-1].covariance
        for k in np.unique(known):
            same, rest = np.flatnonzero(known == k), slice(int(k), None)
            for among, seen in _patterns(mask[same] & (np.arange(self.steps) < k)):
                rows, at = same[among], np.flatnonzero(seen)[-WINDOW:]
                solved = _condition(covariance, at, self.ridge, covariance[at, rest])
                left = covariance[rest, rest] - covariance[rest, at] @ solved
                root = np.linalg.cholesky(_definite(left))
                out[rows, :, rest] = normal[rows, :, rest] @ root.T
        return out

    def nearest(
        self,
        x: np.ndarray,
        y: np.ndarray,
        mask: np.ndarray,
        k: int,
        *,
        items: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The analogues of rows with a prefix of k steps. The parameters are those of ``forecast``.

        Returns
        -------
        items : array of int, ``(rows, n)``
            The indices of training items, the nearest first.
        weights : array, float64, ``(rows, n)``
            Those of a row add up to 1.
        mean : array, float64, ``(rows, steps)``
            Of the linear model.
        """
        seen = mask & (np.arange(self.steps) < k)
        mean = np.empty((len(x), self.steps))
        which = np.full(len(x), len(self.paths) - 1) if items is None else self.fold[items]
        for path in np.unique(which):
            rows = which == path
            mean[rows] = self.paths[path].mean(x[rows], y[rows], seen[rows], self.ridge)
        scale = self.scale(k)
        ours = np.concatenate([x, np.where(seen, y, mean)[:, :k]], axis=1) * scale
        theirs = self._places(k)
        # In place: for rows x items numbers, allocating memory takes longer than the arithmetic.
        distance = -2.0 * ours @ theirs.T
        distance += self._kept(("squares", k), lambda: (theirs**2).sum(axis=1))
        distance += (ours**2).sum(axis=1)[:, None]
        np.clip(distance, 0.0, 1e6, out=distance)
        distance /= GRAIN
        # Distances become distinct whole numbers, so that the order does not depend on rounding.
        rank = np.rint(distance, out=distance).astype(np.int64)
        if items is not None:
            same_group = self.group[items][:, None] == self.group
            rank[same_group] = int(2e6 / GRAIN)
        rank *= len(self.x)
        rank += np.arange(len(self.x))
        count = min(NEAREST, len(self.x))
        near = np.argpartition(rank, count - 1, axis=1)[:, :count]
        rank = np.take_along_axis(rank, near, axis=1)
        order = np.argsort(rank, axis=1)
        near, rank = (np.take_along_axis(a, order, axis=1) for a in (near, rank))
        distance = rank // len(self.x) * GRAIN
        # Only items of the same group have a weight of exactly 0.
        weight = np.exp(np.maximum(distance[:, :1] - distance, -600.0)) * (distance < 1.5e6)
        return near, weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-30), mean

    # -- files -------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, as a model file stores them."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        stacked = {
            f"paths/{name}": np.stack([getattr(path, name) for path in self.paths])
            for name in _LINEAR
        }
        return plain | stacked | {"ridge": np.array([self.ridge])} | packed_ids(self.ids.tolist())

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Analogues:
        """Restore from the result of ``arrays``.

        Raises
        ------
        ValueError
            Other names, or shapes, types or values that do not fit together.
        """
        arrays = dict(arrays)
        ids = {name: arrays.pop(name) for name in tuple(arrays) if name.partition("/")[0] == "ids"}
        x, y = arrays.get("x", np.zeros(0)), arrays.get("y", np.zeros(0))
        basis, categories = arrays.get("basis", np.zeros(0)), arrays.get("categories", np.zeros(0))
        if x.ndim != 2 or y.ndim != 2 or basis.ndim != 2 or categories.ndim != 2:
            raise ValueError("analogues: expected x, y, basis and categories with two axes")
        (items, features), steps, paths = x.shape, y.shape[1], FOLDS + 1
        expected = {
            "categories": ((len(categories), 2), "int64"),
            "gaps": ((arrays.get("gaps", np.zeros(0)).size,), "int64"),
            "basis": ((len(basis), features), "float64"),
            "x": ((items, features), "float32"),
            "y": ((items, steps), "float32"),
            "fold": ((items,), "int64"),
            "group": ((items,), "int64"),
            "metric": ((features + min(steps, _LAGS),), "float64"),
            "ridge": ((1,), "float64"),
            "paths/centre": ((paths, features), "float64"),
            "paths/kernel": ((paths, features, steps), "float64"),
            "paths/bias": ((paths, steps), "float64"),
            "paths/covariance": ((paths, steps, steps), "float64"),
        }
        found = {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
        if found != expected:
            raise ValueError(f"analogues: expected {expected}, received {found}")
        if not 1 <= items <= MOST_ITEMS or not 1 <= steps <= MOST_STEPS:
            raise ValueError(
                f"analogues: expected 1 to {MOST_ITEMS:,} items of 1 to {MOST_STEPS:,} steps, "
                f"received {items:,} of {steps:,}"
            )
        for name in expected:
            # A NaN in y is a step that was not observed.
            array = np.nan_to_num(y, posinf=np.inf, neginf=-np.inf) if name == "y" else arrays[name]
            check_finite(f"analogues: {name}", array, _LARGEST.get(name, _LARGE))
        fold, ridge = arrays["fold"], float(arrays["ridge"][0])
        if fold.min() < 0 or fold.max() >= FOLDS:
            raise ValueError(f"analogues: fold: expected numbers from 0 to {FOLDS - 1}")
        if not np.isin(arrays["gaps"], (0, 1)).all():
            raise ValueError("analogues: gaps: expected flags 0 or 1")
        least = min(_SMALL_RIDGES) / MOST_ITEMS
        if ridge < least:
            raise ValueError(f"analogues: ridge: expected {least:g} or more, received {ridge:g}")
        for covariance in arrays["paths/covariance"]:
            _check_covariance(covariance, ridge)
        linear = tuple(
            Linear(*(arrays[f"paths/{name}"][i] for name in _LINEAR)) for i in range(paths)
        )
        rest: dict[str, Any] = {name: arrays[name] for name in _PLAIN}
        return cls(
            read_ids(ids, items).astype(object),
            **rest,
            paths=linear,
            ridge=ridge,
        )

    # -- inside ------------------------------------------------------------------------

    def residuals(self, k: int) -> np.ndarray:
        """The residuals of each training item given its first k steps, from the linear model that
        was fitted without it; float32 ``(items, steps)``, NaN where nothing was observed."""

        def compute() -> np.ndarray:
            y, mask = np.nan_to_num(self.y).astype(np.float64), ~np.isnan(self.y)
            seen = mask & (np.arange(self.steps) < k)
            left = np.empty(self.y.shape, np.float32)
            for fold in range(FOLDS):
                rows = self.fold == fold
                mean = self.paths[fold].mean(self.x[rows], y[rows], seen[rows], self.ridge)
                left[rows] = np.where(mask[rows], y[rows] - mean, np.nan)
            return left

        return self._kept(("residuals", k), compute)

    def filled(self) -> np.ndarray:
        """The training items' y, with gaps filled by the mean of the linear model."""

        def compute() -> np.ndarray:
            y, mask = np.nan_to_num(self.y).astype(np.float64), ~np.isnan(self.y)
            return np.where(mask, y, self.paths[-1].mean(self.x, y, mask, self.ridge))

        return self._kept(("filled",), compute)

    def scale(self, k: int) -> np.ndarray:
        """The square roots of the weights in the distance, of x and of k observations."""
        at = _metric_at(self.x.shape[1], len(self.metric), k)
        return np.exp(0.5 * self.metric[at])

    def _places(self, k: int) -> np.ndarray:
        """The training items' x and first k values, scaled so that the distance is Euclidean."""

        def compute() -> np.ndarray:
            return np.concatenate([self.x, self.filled()[:, :k]], axis=1) * self.scale(k)

        return self._kept(("places", k), compute)

    def _kept(self, key: tuple[Any, ...], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """What ``compute`` returned the last time, unless much else has been computed since."""
        found = self._cache.get(key)
        if found is not None:
            return found
        found = self._cache[key] = compute()
        # Others are dropped at random: a call goes through the prefix lengths in order, so that the
        # oldest array is the next one that is needed.
        others = [each for each in list(self._cache) if each != key]
        random.shuffle(others)
        while others and sum(each.nbytes for each in list(self._cache.values())) > _MOST_KEPT:
            self._cache.pop(others.pop(), None)  # None if another thread was faster
        return found


_PLAIN = ("categories", "gaps", "basis", "x", "y", "fold", "group", "metric")
_LINEAR = ("centre", "kernel", "bias", "covariance")
_LARGE = 1e15  # the largest number accepted; scaled values are at most 1e6
_LARGEST = {"y": 1e6, "metric": 100.0}


def _check_covariance(covariance: np.ndarray, ridge: float) -> None:
    """Raise ``ValueError`` unless the matrix is symmetric, and positive definite with ``ridge``
    added to its diagonal."""
    spread = max(1.0, float(np.abs(covariance).max()))
    if np.abs(covariance - covariance.T).max() > 1e-6 * spread:
        raise ValueError("analogues: covariance: expected a symmetric matrix")
    try:
        added = max(ridge, 1e-12 * spread)  # by rounding a variance may be slightly below 0
        np.linalg.cholesky(covariance + added * np.eye(len(covariance)))
    except np.linalg.LinAlgError:
        raise ValueError("analogues: covariance: expected no negative variance") from None


def _frequent(codes: np.ndarray) -> np.ndarray:
    """The categories that get a column of X: int ``(n, 2)``, the static feature and the code."""
    found = []
    for column in range(codes.shape[1]):
        values, counts = np.unique(codes[:, column], return_counts=True)
        often = np.argsort(-counts, kind="stable")[:_MOST_CATEGORIES]
        found += [(column, values[i]) for i in sorted(often) if counts[i] >= 3]
    return np.array(found, np.int64).reshape(-1, 2)


def _gaps(numeric: np.ndarray, codes: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Where a numeric static feature is missing, or the code of a categorical one has no column;
    bool ``(rows, n + m)``."""
    listed = np.zeros(codes.shape, bool)
    for column, code in categories:
        listed[:, column] |= codes[:, column] == code
    return np.concatenate([numeric[:, numeric.shape[1] // 2 :] > 0, ~listed], axis=1)


def _components(raw: np.ndarray) -> np.ndarray:
    """The identity matrix, or the principal components of features that are too many."""
    width = raw.shape[1]
    if width <= _MOST_FEATURES:
        return np.eye(width)
    centred = raw - raw.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return vectors[:, : -_MOST_FEATURES - 1 : -1]


def _linear_paths(
    x: np.ndarray, y: np.ndarray, mask: np.ndarray, fold: np.ndarray, targets: int
) -> tuple[tuple[Linear, ...], float]:
    """The linear models, fitted without each fold and on all items, and the ridge of observations.

    The ridge of X and the ridge of observations are those with the smallest error on the folds that
    were left out.
    """
    few = slice(_TRIED)

    def without(left: int, ridge: float) -> Linear:
        others = fold[few] != left
        return Linear.regress(x[few][others], y[few][others], mask[few][others], ridge)

    def error(means: np.ndarray, known: int) -> float:
        counts = mask[few] & (np.arange(y.shape[1]) >= known)
        return float(np.abs(np.where(counts, y[few] - means, 0.0)).sum() / max(counts.sum(), 1))

    def at_left_out(of: Any) -> np.ndarray:
        means = np.zeros_like(y[few])
        for left in range(FOLDS):
            rows = np.flatnonzero(fold[few] == left)
            if len(rows):
                means[rows] = of(left, rows)
        return means

    ridge_x = min(
        _RIDGES,
        key=lambda ridge: error(at_left_out(lambda s, r: without(s, ridge).of_x(x[r])), 0),
    )
    every = [
        Linear.fit(x[others], y[others], mask[others], ridge_x)
        for others in (fold != s for s in range(FOLDS))
    ]
    every.append(Linear.fit(x, y, mask, ridge_x))

    def of_prefixes(ridge: float) -> float:
        total = 0.0
        for k in prefixes(y.shape[1], targets)[1:]:
            seen = mask & (np.arange(y.shape[1]) < k)
            means = at_left_out(lambda s, r, seen=seen: every[s].mean(x[r], y[r], seen[r], ridge))
            total += error(means, k)
        return total

    ridges = [each / len(x) for each in (*_SMALL_RIDGES, *_RIDGES)]
    return tuple(every), min(ridges, key=of_prefixes)


def _metric_at(features: int, size: int, k: int) -> np.ndarray:
    """The indices of the metric's entries for x and for k observations."""
    back = np.minimum(np.arange(k)[::-1], size - features - 1)
    return np.concatenate([np.arange(features), features + back]).astype(int)


def _learnt_metric(
    items: Analogues,
    rng: np.random.Generator,
    targets: int,
    *,
    updates: int = 300,
    queries: int = 128,
    keys: int = 16384,
    nearest: int = 64,
    horizons: int = 12,
    rate: float = 0.1,
) -> np.ndarray:
    """The metric that minimises the CRPS of forecasts of training items by other training items.

    The CRPS of the weighted sample of residuals is
    ``sum_j w_j |v_j - y| - 1/2 sum_ij w_i w_j |v_i - v_j|``. It is minimised by stochastic gradient
    descent (Adam: Kingma and Ba 2015), on random items and steps, with the penalty
    ``_METRIC_PENALTY``: without evidence for a weight, the residuals of all items count equally.
    """
    features, steps, count = items.x.shape[1], items.steps, len(items.x)
    metric = np.concatenate(
        [np.full(features, np.log(4.0 / max(features, 1))), np.full(min(steps, _LAGS), np.log(2.0))]
    )
    filled = items.filled()
    known = np.array(prefixes(steps, targets))
    chance = 1.0 / (1.0 + known // targets)
    mean, square = np.zeros_like(metric), np.zeros_like(metric)
    for update in range(1, updates + 1):
        k = int(rng.choice(known, p=chance / chance.sum()))
        ask = rng.choice(count, min(queries, count), replace=False)
        answer = rng.choice(count, min(keys, count), replace=False)
        at = _metric_at(features, len(metric), k)
        weights = np.exp(metric[at])
        ours, theirs = (
            np.concatenate([items.x[rows], filled[rows, :k]], axis=1) for rows in (ask, answer)
        )
        distance = (theirs**2 @ weights) - 2.0 * (ours * weights) @ theirs.T
        distance[items.group[ask][:, None] == items.group[answer]] = np.inf
        most = min(nearest, len(answer))
        near = np.argpartition(distance, most - 1, axis=1)[:, :most]
        distance = np.take_along_axis(distance, near, axis=1)
        least = distance.min(axis=1, keepdims=True)
        w = np.exp(np.where(np.isfinite(least), least, 0.0) - distance)
        w /= np.maximum(w.sum(axis=1, keepdims=True), 1e-30)

        ahead = k + rng.choice(steps - k, min(horizons, steps - k), replace=False)
        # (horizons, queries, nearest): sorts and sums run along the contiguous axis.
        left = items.residuals(k)[:, ahead].T
        value, truth = left[:, answer[near]], left[:, ask][..., None]
        has, counts = ~np.isnan(value), ~np.isnan(truth)
        value, truth = np.nan_to_num(value), np.nan_to_num(truth)
        share = w * has
        whole = np.maximum(share.sum(axis=-1, keepdims=True), 1e-9)
        share = (share / whole).astype(np.float32)
        slope = np.abs(value - truth) - _mean_distances(value, share)
        # The derivatives of both normalisations: at each step, and over all items.
        slope = (slope - (share * slope).sum(axis=-1, keepdims=True)) * has / whole
        slope = (slope * counts).sum(axis=0) / max(counts.sum(), 1)
        slope = -w * (slope - (w * slope).sum(axis=1, keepdims=True))
        gradient = np.zeros_like(metric)
        np.add.at(
            gradient,
            at,
            weights * np.einsum("qj,qjf->f", slope, (ours[:, None] - theirs[near]) ** 2)
            + _METRIC_PENALTY / count * weights,
        )
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        step = mean / (1 - 0.9**update) / (np.sqrt(square / (1 - 0.99**update)) + 1e-12)
        metric = metric - rate * (1.0 - update / (updates + 1)) * step
    return metric


def _mean_distances(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """For each value the weighted sum of its distances to all values, ``sum_i w_i |v_j - v_i|``.

    Along the last axis, by cumulative sums over the sorted values.
    """
    order = np.argsort(values, axis=-1)
    order += np.arange(0, values.size, values.shape[-1]).reshape(*values.shape[:-1], 1)
    values, weight = values.ravel()[order], weight.ravel()[order]
    below, moment = np.cumsum(weight, axis=-1), np.cumsum(weight * values, axis=-1)
    inside = values * (2 * below - below[..., -1:]) - (2 * moment - moment[..., -1:])
    out = np.empty_like(inside)
    out.ravel()[order] = inside
    return out


def weighted_quantiles(
    values: np.ndarray,
    item: np.ndarray,
    weight: np.ndarray,
    steps: range,
    levels: Sequence[float],
) -> np.ndarray:
    """``kernels.native.weighted.quantiles`` in NumPy; float64 ``(rows, len(steps), levels)``."""
    values = values[:, steps.start : steps.stop][item]
    count = values.shape[1]
    # Of each row and step the samples lie side by side in memory: (rows, steps, n).
    values, weight = np.ascontiguousarray(values.swapaxes(1, 2)), weight[:, None]
    has = ~np.isnan(values) & (weight > 0)
    order = np.argsort(np.where(has, values, np.inf), axis=-1, kind="stable")
    # A minimum weight, because at some steps only distant items have a value, with tiny weights.
    share = np.where(has, weight + 1e-9, 0.0)
    values, share = (
        np.take_along_axis(each, order, axis=-1) for each in (np.where(has, values, 0.0), share)
    )
    upto = np.cumsum(share, axis=-1)
    middle = (upto - 0.5 * share) / np.maximum(upto[..., -1:], 1e-30)  # each value's level
    wanted, cases = (
        np.asarray(levels),
        np.arange(len(values) * len(steps)).reshape(-1, len(steps), 1),
    )
    # The number of values below each level, from the levels that are not above each value.
    reached = np.searchsorted(wanted, middle, side="right") + cases * (len(wanted) + 1)
    after = np.bincount(reached.ravel(), minlength=cases.size * (len(wanted) + 1))
    after = np.cumsum(after.reshape(*cases.shape[:2], -1)[..., :-1], axis=-1)
    start = count * cases
    middle, values = middle.ravel(), values.ravel()
    after = start + np.minimum(after, np.maximum(has.sum(axis=-1, keepdims=True) - 1, 0))
    before = np.maximum(after - 1, start)
    first, low = middle[before], values[before]
    part = (wanted - first) / np.maximum(middle[after] - first, 1e-12)
    return low + (values[after] - low) * np.clip(part, 0.0, 1.0)
