"""Analogues: forecasts from the training items that are most similar in X and in the prefix.

A Gaussian model, the linear path, gives the mean: y given X by ridge regression, and the rest
given the first k observations by conditioning. One fit serves every k and every pattern of gaps.
The distribution around the mean is that of the training items' residuals. The nearest items in X
and in the prefix have the largest weights, by a learnt distance (kernel regression with a learnt
metric: Weinberger and Tesauro 2007; in weather forecasting, the analog ensemble: Delle Monache et
al. 2013).

Arrays only, scaled as in a panel; no tables and no Keras.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from statecast.files import check_finite, packed_ids, read_ids
from statecast.state import outline

MOST_ITEMS = 50_000  # the most training items that a model keeps
NEAREST = 100  # the training items that have a weight in a forecast
MOST_STEPS = 1000  # of a series; a covariance matrix has the square of its steps
WINDOW = 100  # the Gaussian is conditioned on so many observations, the last ones
SHARES = 8  # folds: an item's residuals are from a fit on the other folds
_MOST_FEATURES = 256  # of X; if there are more, its principal components are used
_MOST_CATEGORIES = 64  # of a categorical static: the most frequent, with at least 3 items
_TRIED = 3000  # the most items that ridges are chosen on, and whose gaps are filled
_RIDGES = (0.01, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_SMALL_RIDGES = (1e-6, 1e-5, 1e-4, 1e-3)  # for observations too, as smooth series need them
_ROUNDS = 5  # the most rounds of expectation-maximisation
_EFFORT = 6e9  # the most rounds x patterns of gaps x steps cubed: a few seconds
_LAG_RIDGE = 3.0  # of the earlier steps, in `Linear.in_turn`
_FILL_RIDGE = 0.1  # added to the variance of the observations by which gaps are filled
_LAGS = 64  # all observations further back share one weight in the distance
_ENOUGH = 10  # a step with fewer items is shrunk towards the mean
_GRAIN = 1e-6  # distances are rounded to it, so that ties are the same on every machine


def prefixes(steps: int, targets: int = 1) -> list[int]:
    """The prefix lengths below ``steps`` at which a forecaster is scored: Fibonacci numbers.

    With several targets ``steps`` and the lengths are in positions, and the lengths are those of
    whole steps.
    """
    known = [0, targets]
    while known[-1] < steps:
        known.append(known[-1] + (known[-2] or targets))
    return known[:-1] if len(known) > 2 else [0]


# -- the linear path ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Linear:
    """y = (x - centre) kernel + bias + e, with e normal with mean 0 and a full covariance.

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
        """Ridge regression of each step on x. The covariance is left at zero."""
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
                own, share = design[rows], rows.mean()  # the ridge relative to the items observed
                few = 1e-6 if rows.sum() >= _ENOUGH else 1.0
                penalty = np.diag([ridge * share] * features + [few])
                weights[:, step] = np.linalg.solve(own.T @ own + penalty, own.T @ y[rows, step])
        return cls(centre, weights[:-1], weights[-1], np.zeros((steps, steps)))

    @classmethod
    def in_turn(cls, x: np.ndarray, y: np.ndarray, mask: np.ndarray, ridge: float) -> Linear:
        """Regress each step on x and the steps before it, and derive the joint Gaussian.

        Where the only gaps are those after an item's last observation, this is the maximum
        likelihood fit but for the ridges (Little and Rubin 2002, chapter 7). A step that few items
        reach is then estimated with the help of earlier steps, which more items reach. Other gaps
        are filled with the regression on the steps before them.
        """
        (items, features), steps = x.shape, y.shape[1]
        centre, filled = x.mean(axis=0), np.where(mask, y, 0.0)
        kernel, bias = np.zeros((features, steps)), np.zeros(steps)
        covariance = np.zeros((steps, steps))
        for step in range(steps):
            rows, before = mask[:, step], np.arange(max(0, step - WINDOW), step)
            design = np.concatenate([x - centre, filled[:, before]], axis=1)
            own, truth, count = design[rows], y[rows, step], int(rows.sum())
            share = count / items  # the ridge relative to the items observed
            penalty = share * np.repeat([ridge, _LAG_RIDGE], [features, len(before)])
            # A step at which few items were observed is shrunk towards the mean, which is 0.
            middle = own.sum(axis=0) / max(count, 1)
            level = truth.sum() / (count if count >= _ENOUGH else count + 1)
            weight = _ridge_solved(own - middle, truth - level, penalty)
            error = truth - level - (own - middle) @ weight
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

        Without gaps both are direct. With gaps and few items the fit is ``in_turn``. With gaps and
        many items each step is regressed on the items observed there, and each entry of the
        covariance comes from the items observed at both steps. Gaps before an item's last
        observation are then filled and the model is fitted again, by expectation-maximisation
        (Dempster, Laird and Rubin 1977), for at most ``_ROUNDS`` rounds.
        """
        if mask.all():
            path = cls.regress(x, y, mask, ridge)
            error = y - path.of_x(x)
            return replace(path, covariance=error.T @ error / len(error))
        few = len(x) <= _TRIED
        if few:
            path = cls.in_turn(x, y, mask, ridge)
        else:
            path, seen = cls.regress(x, y, mask, ridge), mask.astype(np.float64)
            error = np.where(mask, y - path.of_x(x), 0.0)
            # One pseudo-count of no covariance: two steps never observed together have 0.
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
        """The mean of every step given X and the observations of y, ``(rows, steps)``."""
        prior = self.of_x(x)
        error, mean = np.where(mask, y - prior, 0.0), prior.copy()
        for rows, seen in _patterns(mask):
            at = np.flatnonzero(seen)[-WINDOW:]
            solved = _condition(self.covariance, at, ridge, error[np.ix_(rows, at)].T)
            mean[rows] += solved.T @ self.covariance[at]
        return mean


def _ridge_solved(design: np.ndarray, y: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """Ridge regression with a penalty for each column, solved in the smaller dimension."""
    if len(design) < len(penalty):
        scaled = design / penalty
        return scaled.T @ np.linalg.solve(scaled @ design.T + np.eye(len(y)), y)
    return np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ y)


def _condition(
    covariance: np.ndarray, at: np.ndarray, ridge: float, right: np.ndarray
) -> np.ndarray:
    """Solve for the conditioning of a Gaussian on the steps ``at``.

    The result is the inverse of their covariance, with ``ridge`` added to each variance, times
    ``right (len(at), n)``.
    """
    return np.linalg.solve(covariance[np.ix_(at, at)] + ridge * np.eye(len(at)), right)


def _expectation(
    covariance: np.ndarray, error: np.ndarray, patterns: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """The expectation step: errors with their gaps filled by their conditional means, and the
    conditional covariance of the gaps, summed over the rows."""
    uncertain, error = np.zeros_like(covariance), error.copy()
    for rows, seen in patterns:
        at, gaps = np.flatnonzero(seen), np.flatnonzero(~seen)
        solved = _condition(covariance, at, _FILL_RIDGE, covariance[np.ix_(at, gaps)])
        error[np.ix_(rows, gaps)] = error[np.ix_(rows, at)] @ solved
        rest = covariance[np.ix_(gaps, gaps)] - covariance[np.ix_(gaps, at)] @ solved
        uncertain[np.ix_(gaps, gaps)] += len(rows) * rest
    return error, uncertain


def _definite(covariance: np.ndarray) -> np.ndarray:
    """The nearest covariance matrix: eigenvalues below 1e-6 are raised to it."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, 1e-6)) @ vectors.T


def _patterns(mask: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Groups of rows with the same mask, and that mask."""
    if not len(mask):
        return
    _, which = np.unique(np.packbits(mask, axis=1), axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    cuts = np.flatnonzero(np.diff(which.ravel()[order])) + 1
    for rows in np.split(order, cuts):
        yield rows, mask[rows[0]]


# -- the analogues -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Analogues:
    """The training items and the linear path; made by ``Analogues.fit``.

    Attributes
    ----------
    ids : array of objects, ``(items,)``
    categories : array of int, ``(n, 2)``
        The categorical features: which static, and which of its codes.
    met : array of int, ``(numeric / 2 + statics,)``
        1 where training items had such a gap in X, else 0: a numeric static that is missing, a
        categorical one with a code that has no column.
    basis : array, ``(numeric + n, features)``
        The principal components of a wide X; otherwise the unit matrix.
    x : array, float32, ``(items, features)``
    y : array, float32, ``(items, steps)``
        NaN where nothing was observed.
    share : array of int, ``(items,)``
        The item's fold: the index of the path that was fitted without it.
    group : array of int, ``(items,)``
        Items of one group are not analogues of each other in training.
    paths : tuple of Linear
        A path for each fold, fitted on the other folds; the last one is fitted on all items.
    ridge : float
        Added to the variances of the observations that the Gaussian is conditioned on.
    metric : array, ``(features + lags,)``
        Logarithms of the weights of the squared differences: one for each feature, and one for
        each lag of the observations.
    """

    ids: np.ndarray
    categories: np.ndarray
    met: np.ndarray
    basis: np.ndarray
    x: np.ndarray
    y: np.ndarray
    share: np.ndarray
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
        """Fit to training items: statics and observations as in a panel.

        Parameters
        ----------
        ids : array, ``(items,)``
            Whole numbers or text.
        numeric, codes : arrays, ``(items, 2 * n)`` and ``(items, m)``
            In random order: of items at the same distance the first are taken.
        y, mask : arrays, ``(items, steps)``
        group : array of int, ``(items,)``
        seed : int
        targets : int
            The number of targets. With several, ``steps`` counts positions, one for each target
            of a step.
        """
        rng = np.random.default_rng([seed, 3])
        y = y.astype(np.float64)
        categories = _frequent(codes)
        raw = _indicators(numeric, codes, categories)
        basis = _components(raw)
        x = raw @ basis
        # A group is in one fold.
        names, which = np.unique(group, return_inverse=True)
        share = (rng.permutation(len(names)) % SHARES)[which.ravel()]
        paths, ridge = _linear_paths(x, y, mask, share, targets)
        found = cls(
            ids.astype(object),
            categories,
            (_gaps(numeric, codes, categories).sum(axis=0) >= max(3, len(x) / 100)).astype(int),
            basis,
            x.astype(np.float32),
            np.where(mask, y, np.nan).astype(np.float32),
            share,
            group,
            paths,
            ridge,
            np.zeros(0),
        )
        return replace(found, metric=_learnt_metric(found, rng, targets))

    @property
    def steps(self) -> int:
        """The length of the longest training item; forecasts end there."""
        return self.y.shape[1]

    def fits(self, numeric: int, cardinalities: Sequence[int], steps: int) -> bool:
        """Whether the arrays fit statics and series of these sizes."""
        column, code = self.categories.T
        return (
            len(self.basis) == numeric + len(self.categories)
            and len(self.met) == numeric // 2 + len(cardinalities)
            and bool(((column >= 0) & (column < len(cardinalities)) & (code >= 0)).all())
            and steps == self.steps
        )

    def features(self, numeric: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """The x of this class from the statics of a panel, float32 ``(rows, features)``."""
        x = _indicators(numeric, codes, self.categories) @ self.basis
        return x.astype(np.float32)

    def familiar(self, numeric: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Whether training had items with the same gaps in X, bool ``(rows,)``.

        False where a static is missing that was hardly ever missing in training, or where a
        category is new and training had hardly any rare ones. The training items do not show how
        such an item goes on.
        """
        return ~(_gaps(numeric, codes, self.categories) & (self.met == 0)).any(axis=1)

    def forecast(
        self,
        x: np.ndarray,
        y: np.ndarray,
        mask: np.ndarray,
        known: np.ndarray,
        levels: Sequence[float],
        *,
        items: np.ndarray | None = None,
    ) -> np.ndarray:
        """Quantiles of the steps after each row's prefix.

        Parameters
        ----------
        x : array, ``(rows, features)``
            By ``features``.
        y, mask : arrays, ``(rows, steps)``
            The prefix, and where it was observed.
        known : array of int, ``(rows,)``
            The prefix's length.
        levels : sequence of float
            Rising, between 0 and 1.
        items : array of int, ``(rows,)``, optional
            If the rows are training items, which ones: the path is then one that was fitted
            without them, and items of their group are no analogues. The analogues' residuals are
            from paths fitted on them too, among all other items.

        Returns
        -------
        array, float64, ``(rows, steps, len(levels))``
            NaN on the prefix.
        """
        out = np.full((*y.shape, len(levels)), np.nan)
        for k in np.unique(known):
            if k >= self.steps:
                continue
            rows = np.flatnonzero(known == k)
            for part in np.array_split(rows, -(-len(rows) // 512)):
                own = None if items is None else items[part]
                near, weight, mean = self.nearest(x[part], y[part], mask[part], int(k), items=own)
                left = self._residuals(int(k))[near][:, :, k:]
                found = _weighted_quantiles(left, weight, levels)
                out[part, k:] = mean[:, k:, None] + found
        return out

    def deviations(self, mask: np.ndarray, known: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Joint samples of the rest around its mean, from the Gaussian given the observations.

        Parameters
        ----------
        mask : array of bool, ``(rows, steps)``
            Where the prefix was observed.
        known : array of int, ``(rows,)``
            The prefix's length, below ``steps``.
        normal : array, ``(rows, paths, steps)``
            Standard normal numbers. Those of a step do not change earlier steps.

        Returns
        -------
        array, float64, ``(rows, paths, steps)``
            NaN on the prefix.
        """
        out, covariance = np.full(normal.shape, np.nan), self.paths[-1].covariance
        for k in np.unique(known):
            own, rest = np.flatnonzero(known == k), slice(int(k), None)
            for among, seen in _patterns(mask[own] & (np.arange(self.steps) < k)):
                rows, at = own[among], np.flatnonzero(seen)[-WINDOW:]
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
        """The analogues of rows with a prefix of k steps.

        Returns the indices of training items ``(rows, n)``, their weights, which sum to 1, and the
        linear path's mean ``(rows, steps)``.
        """
        seen = mask & (np.arange(self.steps) < k)
        mean = np.empty((len(x), self.steps))
        which = np.full(len(x), len(self.paths) - 1) if items is None else self.share[items]
        for path in np.unique(which):
            rows = which == path
            mean[rows] = self.paths[path].mean(x[rows], y[rows], seen[rows], self.ridge)
        scale = self._scale(k)
        ours = np.concatenate([x, np.where(seen, y, mean)[:, :k]], axis=1) * scale
        theirs, squares = self._places(k)
        # In place: with rows x items numbers, allocating memory takes longer than the arithmetic.
        distance = -2.0 * ours @ theirs.T
        distance += squares
        distance += (ours**2).sum(axis=1)[:, None]
        np.clip(distance, 0.0, 1e6, out=distance)
        distance /= _GRAIN
        # Distinct whole numbers: which items are nearest does not depend on rounding.
        rank = np.rint(distance, out=distance).astype(np.int64)
        if items is not None:
            same_group = self.group[items][:, None] == self.group
            rank[same_group] = int(2e6 / _GRAIN)
        rank *= len(self.x)
        rank += np.arange(len(self.x))
        count = min(NEAREST, len(self.x))
        near = np.argpartition(rank, count - 1, axis=1)[:, :count]
        rank = np.take_along_axis(rank, near, axis=1)
        order = np.argsort(rank, axis=1)
        near, rank = (np.take_along_axis(a, order, axis=1) for a in (near, rank))
        distance = rank // len(self.x) * _GRAIN
        # Only items of the same group have a weight of exactly 0.
        weight = np.exp(np.maximum(distance[:, :1] - distance, -600.0)) * (distance < 1.5e6)
        return near, weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-30), mean

    # -- files -------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, as a model file stores them."""
        own = {name: getattr(self, name) for name in _PLAIN}
        stacked = {
            f"paths/{name}": np.stack([getattr(path, name) for path in self.paths])
            for name in _LINEAR
        }
        return own | stacked | {"ridge": np.array([self.ridge])} | packed_ids(self.ids.tolist())

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
        (items, features), steps, paths = x.shape, y.shape[1], SHARES + 1
        expected = {
            "categories": ((len(categories), 2), "int64"),
            "met": ((arrays.get("met", np.zeros(0)).size,), "int64"),
            "basis": ((len(basis), features), "float64"),
            "x": ((items, features), "float32"),
            "y": ((items, steps), "float32"),
            "share": ((items,), "int64"),
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
        share, ridge = arrays["share"], float(arrays["ridge"][0])
        if share.min() < 0 or share.max() >= SHARES:
            raise ValueError(f"analogues: share: expected numbers from 0 to {SHARES - 1}")
        if not np.isin(arrays["met"], (0, 1)).all():
            raise ValueError("analogues: met: expected flags 0 or 1")
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

    def _residuals(self, k: int) -> np.ndarray:
        """The residuals of each training item given its first k steps, from the linear path fitted
        without it; float32 ``(items, steps)``, NaN where nothing was observed."""
        if ("residuals", k) not in self._cache:
            y, mask = np.nan_to_num(self.y).astype(np.float64), ~np.isnan(self.y)
            seen = mask & (np.arange(self.steps) < k)
            left = np.empty(self.y.shape, np.float32)
            for share in range(SHARES):
                rows = self.share == share
                mean = self.paths[share].mean(self.x[rows], y[rows], seen[rows], self.ridge)
                left[rows] = np.where(mask[rows], y[rows] - mean, np.nan)
            self._cache["residuals", k] = left
        return self._cache["residuals", k]

    def _filled(self) -> np.ndarray:
        """The training items' y, with gaps filled by the linear path's mean."""
        if "filled" not in self._cache:
            y, mask = np.nan_to_num(self.y).astype(np.float64), ~np.isnan(self.y)
            mean = self.paths[-1].mean(self.x, y, mask, self.ridge)
            self._cache["filled"] = np.where(mask, y, mean)
        return self._cache["filled"]

    def _scale(self, k: int) -> np.ndarray:
        """The square roots of the metric's weights for x and k observations."""
        at = _metric_at(self.x.shape[1], len(self.metric), k)
        return np.exp(0.5 * self.metric[at])

    def _places(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The training items' scaled features, whose distances are Euclidean, and their squared
        norms."""
        if ("places", k) not in self._cache:
            places = np.concatenate([self.x, self._filled()[:, :k]], axis=1) * self._scale(k)
            self._cache["places", k] = places, (places**2).sum(axis=1)
        return self._cache["places", k]


_PLAIN = ("categories", "met", "basis", "x", "y", "share", "group", "metric")
_LINEAR = ("centre", "kernel", "bias", "covariance")
_LARGE = 1e15  # the largest number accepted; scaled values are at most 1e6
_LARGEST = {"y": 1e6, "metric": 100.0}


def _check_covariance(covariance: np.ndarray, ridge: float) -> None:
    """Raise ``ValueError`` unless it is symmetric, and positive definite with ``ridge`` added."""
    spread = max(1.0, float(np.abs(covariance).max()))
    if np.abs(covariance - covariance.T).max() > 1e-6 * spread:
        raise ValueError("analogues: covariance: expected a symmetric matrix")
    try:
        own = max(ridge, 1e-12 * spread)  # rounding may leave a variance a little below 0
        np.linalg.cholesky(covariance + own * np.eye(len(covariance)))
    except np.linalg.LinAlgError:
        raise ValueError("analogues: covariance: expected no negative variance") from None


def _frequent(codes: np.ndarray) -> np.ndarray:
    """The codes that get a column of their own: ``(n, 2)``, static and code."""
    found = []
    for column in range(codes.shape[1]):
        values, counts = np.unique(codes[:, column], return_counts=True)
        often = np.argsort(-counts, kind="stable")[:_MOST_CATEGORIES]
        found += [(column, values[i]) for i in sorted(often) if counts[i] >= 3]
    return np.array(found, np.int64).reshape(-1, 2)


def _indicators(numeric: np.ndarray, codes: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """The numeric features and a column of 0 and 1 for each category, float64."""
    met = codes[:, categories[:, 0]] == categories[:, 1]
    return np.concatenate([numeric, met], axis=1, dtype=np.float64)


def _gaps(numeric: np.ndarray, codes: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Where numeric statics are missing and categorical ones have no column, bool
    ``(rows, n + m)``."""
    listed = np.zeros(codes.shape, bool)
    for column, code in categories:
        listed[:, column] |= codes[:, column] == code
    return np.concatenate([numeric[:, numeric.shape[1] // 2 :] > 0, ~listed], axis=1)


def _components(raw: np.ndarray) -> np.ndarray:
    width = raw.shape[1]
    if width <= _MOST_FEATURES:
        return np.eye(width)
    centred = raw - raw.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return vectors[:, : -_MOST_FEATURES - 1 : -1]


def _linear_paths(
    x: np.ndarray, y: np.ndarray, mask: np.ndarray, share: np.ndarray, targets: int
) -> tuple[tuple[Linear, ...], float]:
    """A path without each fold and one of all items, and the ridge of the observations. Both ridges
    are those with the smallest error on the folds left out."""
    few = slice(_TRIED)

    def without(left: int, ridge: float) -> Linear:
        others = share[few] != left
        return Linear.regress(x[few][others], y[few][others], mask[few][others], ridge)

    def error(means: np.ndarray, known: int) -> float:
        counts = mask[few] & (np.arange(y.shape[1]) >= known)
        return float(np.abs(np.where(counts, y[few] - means, 0.0)).sum() / max(counts.sum(), 1))

    def at_left_out(of: Any) -> np.ndarray:
        means = np.zeros_like(y[few])
        for left in range(SHARES):
            rows = np.flatnonzero(share[few] == left)
            if len(rows):
                means[rows] = of(left, rows)
        return means

    ridge_x = min(
        _RIDGES,
        key=lambda ridge: error(at_left_out(lambda s, r: without(s, ridge).of_x(x[r])), 0),
    )
    every = [
        Linear.fit(x[others], y[others], mask[others], ridge_x)
        for others in (share != s for s in range(SHARES))
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
    """The entries of the metric for x and for k observations."""
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
    """The metric with which the residuals of others forecast an item's own best.

    Stochastic gradient descent (Adam: Kingma and Ba 2015) on the CRPS of the weighted sample,
    ``sum_j w_j |v_j - y| - 1/2 sum_ij w_i w_j |v_i - v_j|``, at some steps of some items.
    """
    features, steps, count = items.x.shape[1], items.steps, len(items.x)
    metric = np.concatenate(
        [np.full(features, np.log(4.0 / max(features, 1))), np.full(min(steps, _LAGS), np.log(2.0))]
    )
    filled = items._filled()
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
        left = items._residuals(k)
        value, truth = left[answer[near]][:, :, ahead], left[np.ix_(ask, ahead)][:, None]
        has, counts = ~np.isnan(value), ~np.isnan(truth[:, 0])
        value, truth = np.nan_to_num(value), np.nan_to_num(truth)
        share = w[..., None] * has
        whole = np.maximum(share.sum(axis=1, keepdims=True), 1e-9)
        share = (share / whole).astype(np.float32)
        slope = np.abs(value - truth) - _mean_distances(value, share)
        # The derivatives of both normalisations: at each step, and over all items.
        slope = (slope - (share * slope).sum(axis=1, keepdims=True)) * has / whole
        slope = (slope * counts[:, None]).sum(axis=2) / max(counts.sum(), 1)
        slope = -w * (slope - (w * slope).sum(axis=1, keepdims=True))
        gradient = np.zeros_like(metric)
        np.add.at(
            gradient,
            at,
            weights * np.einsum("qj,qjf->f", slope, (ours[:, None] - theirs[near]) ** 2),
        )
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        step = mean / (1 - 0.9**update) / (np.sqrt(square / (1 - 0.99**update)) + 1e-12)
        metric = metric - rate * (1.0 - update / (updates + 1)) * step
    return metric


def _mean_distances(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """For each value the weighted sum of its distances to all, ``sum_i w_i |v_j - v_i|``, along
    axis 1. In sorted order these are cumulative sums."""
    order = np.argsort(values, axis=1)
    values, weight = (np.take_along_axis(a, order, axis=1) for a in (values, weight))
    below, moment = np.cumsum(weight, axis=1), np.cumsum(weight * values, axis=1)
    inside = values * (2 * below - below[:, -1:]) - (2 * moment - moment[:, -1:])
    out = np.empty_like(inside)
    np.put_along_axis(out, order, inside, axis=1)
    return out


def _weighted_quantiles(
    values: np.ndarray, weight: np.ndarray, levels: Sequence[float]
) -> np.ndarray:
    """Quantiles ``(rows, steps, levels)`` of weighted samples.

    Values are ``(rows, n, steps)``, NaN where there is none. Weights are ``(rows, n)``; a value
    with weight 0 is left out. A step without values has quantiles of 0.
    """
    has = ~np.isnan(values) & (weight[..., None] > 0)
    # A minimum weight: at some steps only the farthest items have a value, with tiny weights.
    share = np.where(has, weight[..., None] + 1e-9, 0.0)
    share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-30)
    order = np.argsort(np.where(has, values, np.inf), axis=1)
    values = np.take_along_axis(np.nan_to_num(values), order, axis=1)
    share = np.take_along_axis(share, order, axis=1)
    upto = np.cumsum(share, axis=1)
    middle = upto - 0.5 * share  # each value's level
    last = np.maximum(has.sum(axis=1, keepdims=True) - 1, 0)
    out = np.empty((len(values), values.shape[2], len(levels)))
    for i, level in enumerate(levels):
        after = np.minimum((middle < level).sum(axis=1, keepdims=True), last)
        before = np.maximum(after - 1, 0)
        low, high = (np.take_along_axis(values, at, axis=1) for at in (before, after))
        first, second = (np.take_along_axis(middle, at, axis=1) for at in (before, after))
        part = np.clip((level - first) / np.maximum(second - first, 1e-12), 0.0, 1.0)
        out[..., i] = (low + (high - low) * part)[:, 0]
    return out
