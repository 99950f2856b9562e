"""Simple forecasting methods, whose scores are compared with those of a forecaster.

Each is fitted to the panel of the training items, and forecasts in the units of y.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from statecast.errors import ArgumentError, MissingExtraError
from statecast.tables.features import every_category, one_hot
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema

_ENOUGH = 10  # a step with fewer training items has no regression
_FEW = 10  # the most categories of a feature for a mean curve of each category
_ALPHAS = np.logspace(-3, 4, 15)


class Baseline(Protocol):
    """The interface of a baseline.

    Attributes
    ----------
    name : str
    point : bool
        Whether it is a point forecast. Its quantiles are then equal, and its intervals are not
        scored.
    needs : int
        The shortest prefix from which it can forecast, in steps.
    needs_sklearn : bool
        Whether it needs scikit-learn.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Schema
    >>> rng = np.random.default_rng(0)
    >>> Y = rng.normal(size=(20, 6)).cumsum(axis=1)
    >>> schema = Schema.fit(Y)
    >>> all(hasattr(each, "quantiles") for each in default_baselines(schema))
    True
    """

    @property
    def name(self) -> str: ...
    @property
    def point(self) -> bool: ...
    @property
    def needs(self) -> int: ...
    @property
    def needs_sklearn(self) -> bool: ...

    def fit(self, panel: Panel, schema: Schema) -> Baseline:
        """Return a baseline that is fitted to training items; this one is not changed."""
        ...

    def quantiles(
        self, panel: Panel, known: int, until: int, levels: Sequence[float]
    ) -> np.ndarray:
        """Forecast the steps ``known + 1`` to ``until`` of items from their first ``known`` steps.

        Returns
        -------
        array, float64, ``(rows, until, len(levels))``
            In the units of y; NaN at the steps of the prefix.
        """
        ...


def default_baselines(schema: Schema) -> list[Baseline]:
    """Return the baselines that ``cross_validation`` uses for tables of this schema.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Schema
    >>> rng = np.random.default_rng(0)
    >>> Y = rng.normal(size=(20, 6)).cumsum(axis=1)
    >>> schema = Schema.fit(Y)
    >>> [each.name for each in default_baselines(schema)]
    ['last value', 'mean curve', 'ridge', 'nearest neighbours', 'boosted trees']
    """
    counts = {name: len(known) for name, known in schema.static.categories.items()}
    few = [name for name, count in counts.items() if 2 <= count <= _FEW]
    by = [MeanCurve(min(few, key=counts.__getitem__))] if few else []
    return [LastValue(), MeanCurve(), *by, Ridge(), Neighbours(), Trees()]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Fitted:
    """The training items of a fitted baseline."""

    panel: Panel | None = field(default=None, repr=False)
    schema: Schema | None = field(default=None, repr=False)

    point = False
    needs = 0
    needs_sklearn = False

    def fit(self, panel: Panel, schema: Schema) -> Any:
        """Return a baseline that is fitted to these training items."""
        return replace(self, panel=panel, schema=schema)

    def _training(self) -> tuple[Panel, Schema]:
        if self.panel is None or self.schema is None:
            raise ArgumentError("This baseline is not fitted: call fit first.")
        return self.panel, self.schema

    def _at(self, known: int, until: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield groups of steps to forecast, counted from 0, with the rows of training items.

        A group has the steps at which the same training items were observed, so that one regression
        or one search for neighbours is enough for all of them. A step beyond the training data has
        no items.
        """
        panel, _ = self._training()
        rows, width = panel.mask.shape
        mask = np.zeros((rows, max(until, width)), bool)
        mask[:, :width] = panel.mask
        groups: dict[bytes, list[int]] = {}
        for step in range(known, until):
            groups.setdefault(np.packbits(mask[:, step]).tobytes(), []).append(step)
        for steps in groups.values():
            yield np.array(steps), np.flatnonzero(mask[:, steps[0]])

    def _targets(self, rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
        panel, _ = self._training()
        if not len(rows):  # also for steps that the training panel does not have
            return np.zeros((0, len(steps)))
        return panel.y[np.ix_(rows, steps)].astype(np.float64)


@dataclass(frozen=True, eq=False)
class LastValue(_Fitted):
    """The last observed value, as the forecast of every step.

    The forecast of an item without observations is the mean of each step.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Schema
    >>> rng = np.random.default_rng(0)
    >>> Y = rng.normal(size=(20, 6)).cumsum(axis=1)
    >>> schema = Schema.fit(Y)
    >>> panel = schema.panel(Y)
    >>> forecast = LastValue().fit(panel, schema).quantiles(panel, 2, 6, [0.5])
    >>> forecast.shape, bool(np.isnan(forecast[:, :2]).all())
    ((20, 6, 1), True)
    """

    name = "last value"
    point = True
    needs = 1

    def quantiles(
        self, panel: Panel, known: int, until: int, levels: Sequence[float]
    ) -> np.ndarray:
        """Forecast; see ``Baseline``."""
        _, schema = self._training()
        last = panel.known
        rest = np.broadcast_to(schema.unscale(np.zeros(until)), (panel.rows, until)).copy()
        seen = last > 0
        values = schema.unscale(panel.y)
        rest[seen] = values[seen, last[seen] - 1][:, None]
        rest[:, :known] = np.nan
        return np.repeat(rest[..., None], len(levels), axis=-1)


@dataclass(frozen=True, eq=False)
class MeanCurve(_Fitted):
    """The mean of the training items at each step.

    The quantiles are those of the training items, shifted so that the median is the mean. At a step
    at which no training item was observed, the forecast is the mean that the schema interpolates.

    Parameters
    ----------
    by : str, optional
        A categorical static feature: each category has a separate mean curve. For a category with
        fewer than ten training items at a step, the mean of all items is used at this step.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Schema
    >>> rng = np.random.default_rng(0)
    >>> Y = rng.normal(size=(20, 6)).cumsum(axis=1)
    >>> schema = Schema.fit(Y)
    >>> panel = schema.panel(Y)
    >>> forecast = MeanCurve().fit(panel, schema).quantiles(panel, 2, 6, [0.5])
    >>> forecast.shape, bool(np.isnan(forecast[:, :2]).all())
    ((20, 6, 1), True)
    """

    by: str | None = None

    @property
    def name(self) -> str:
        """The method's name in the scores."""
        return "mean curve" if self.by is None else f"mean curve by {self.by}"

    def quantiles(
        self, panel: Panel, known: int, until: int, levels: Sequence[float]
    ) -> np.ndarray:
        """Forecast; see ``Baseline``."""
        training, schema = self._training()
        out = np.full((panel.rows, until, len(levels)), np.nan)
        group = of_training = None
        if self.by is not None:
            column = list(schema.static.categories).index(self.by)
            group, of_training = panel.codes[:, column], training.codes[:, column]
        for steps, rows in self._at(known, until):
            targets = self._targets(rows, steps)
            out[:, steps] = _around_mean(targets, levels)
            if group is None or of_training is None:
                continue
            for code in np.unique(group):
                of_code = targets[of_training[rows] == code]
                if len(of_code) >= _ENOUGH:
                    out[np.ix_(group == code, steps)] = _around_mean(of_code, levels)
        return _unscaled(schema, out)


class _FromFeatures(_Fitted, ABC):
    """A baseline that forecasts each step from the static features and the prefix.

    At a step with too few training items, and at all steps if there are no features, the forecast
    is the quantiles of the training items.
    """

    needs_sklearn = True

    @property
    @abstractmethod
    def _fewest(self) -> int:
        """The fewest training items at a step for ``_predict``."""

    @abstractmethod
    def _predict(
        self, inputs: np.ndarray, targets: np.ndarray, ours: np.ndarray, levels: Sequence[float]
    ) -> np.ndarray:
        """Return the quantiles ``(len(ours), steps, levels)`` of items with features ``ours``.

        ``inputs`` and ``targets (items, steps)`` are those of the training items.
        """

    def quantiles(
        self, panel: Panel, known: int, until: int, levels: Sequence[float]
    ) -> np.ndarray:
        """Forecast; see ``Baseline``."""
        training, schema = self._training()
        inputs, ours = _features(training, schema, known), _features(panel, schema, known)
        out = np.full((panel.rows, until, len(levels)), np.nan)
        for steps, rows in self._at(known, until):
            targets = self._targets(rows, steps)
            if len(rows) < self._fewest or not inputs.shape[1]:
                out[:, steps] = _quantiles(targets, levels)
            else:
                out[:, steps] = self._predict(inputs[rows], targets, ours, levels)
        return _unscaled(schema, out)


@dataclass(frozen=True, eq=False)
class Ridge(_FromFeatures):
    """Ridge regression of each step on the static features and the prefix.

    The penalty of each step is chosen by leave-one-out cross-validation. A quantile is the
    prediction plus the quantile of the leave-one-out residuals. A gap in the prefix is filled with
    the mean of the step. At a step with fewer than ten training items, the forecast is their
    quantiles; at a step without training items, it is the mean that the schema interpolates. The
    same holds for all steps if there are neither static features nor a prefix.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Schema
    >>> rng = np.random.default_rng(0)
    >>> Y = rng.normal(size=(20, 6)).cumsum(axis=1)
    >>> schema = Schema.fit(Y)
    >>> panel = schema.panel(Y)
    >>> Ridge().fit(panel, schema).quantiles(panel, 2, 6, [0.1, 0.5, 0.9]).shape
    (20, 6, 3)
    """

    name = "ridge"

    @property
    def _fewest(self) -> int:
        return _ENOUGH

    def _predict(
        self, inputs: np.ndarray, targets: np.ndarray, ours: np.ndarray, levels: Sequence[float]
    ) -> np.ndarray:
        predicted, residuals = _ridge(inputs, targets, ours)
        return predicted[..., None] + np.quantile(residuals, levels, axis=0).T


@dataclass(frozen=True, eq=False)
class Neighbours(_FromFeatures):
    """The quantiles of the training items with the nearest static features and prefix.

    At each step the neighbours are chosen among the training items that were observed at this step.
    All of them are used if there are at most ``count``, or if there are neither static features nor
    a prefix. At a step without training items, the forecast is the mean that the schema
    interpolates.

    Parameters
    ----------
    count : int
        The number of neighbours.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Schema
    >>> rng = np.random.default_rng(0)
    >>> Y = rng.normal(size=(20, 6)).cumsum(axis=1)
    >>> schema = Schema.fit(Y)
    >>> panel = schema.panel(Y)
    >>> forecast = Neighbours().fit(panel, schema).quantiles(panel, 2, 6, [0.5])
    >>> forecast.shape, bool(np.isnan(forecast[:, :2]).all())
    ((20, 6, 1), True)
    """

    count: int = 20

    name = "nearest neighbours"

    @property
    def _fewest(self) -> int:
        return self.count + 1

    def _predict(
        self, inputs: np.ndarray, targets: np.ndarray, ours: np.ndarray, levels: Sequence[float]
    ) -> np.ndarray:
        near = _nearest(inputs, ours, self.count)
        out = np.empty((len(ours), targets.shape[1], len(levels)))
        for part in range(0, len(ours), 1024):  # in parts, to bound memory
            paths = targets[near[part : part + 1024]]  # (rows, neighbours, steps)
            out[part : part + 1024] = np.moveaxis(np.quantile(paths, levels, axis=1), 0, -1)
        return out


@dataclass(frozen=True, eq=False)
class Trees(_Fitted):
    """Gradient-boosted trees on the static features, the prefix and the step, for each level.

    For each prefix length and level, one model forecasts all steps. It minimises the pinball loss
    with histogram-based trees (as LightGBM: Ke et al. 2017). The quantiles of each step are then
    sorted. On one core, nine levels at four prefix lengths took 7 s for 74 items, 11 s for 540
    items, and 6 minutes for 12,500 items with all their values. As this is the slowest baseline,
    ``most`` limits the number of its training values.

    Parameters
    ----------
    most : int or None
        The largest number of training values; if there are more, they are drawn at random. None for
        all.
    seed : int
        Seed of the random draw and of the trees.

    Examples
    --------
    >>> Trees(most=1000).name
    'boosted trees'
    """

    most: int | None = 100_000
    seed: int = 0

    name = "boosted trees"
    needs_sklearn = True

    def quantiles(
        self, panel: Panel, known: int, until: int, levels: Sequence[float]
    ) -> np.ndarray:
        """Forecast; see ``Baseline``."""
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        training, schema = self._training()
        out = np.full((panel.rows, until, len(levels)), np.nan)
        row, step = np.nonzero(training.mask & (np.arange(training.mask.shape[1]) >= known))
        if not len(row):
            out[:, known:] = 0
            return _unscaled(schema, out)
        if self.most is not None and len(row) > self.most:
            drawn = np.random.default_rng(self.seed).permutation(len(row))[: self.most]
            row, step = row[drawn], step[drawn]
        inputs, ours = _for_trees(training, known), _for_trees(panel, known)
        few = [count <= _BINS for count in schema.static.cardinalities]
        numeric = panel.numeric.shape[1]
        kinds = [False] * numeric + few + [False] * (inputs.shape[1] - numeric - len(few) + 1)
        grown = np.column_stack([inputs[row], step])
        at = np.repeat(np.arange(panel.rows), until - known)
        asked = np.column_stack([ours[at], np.tile(np.arange(known, until), panel.rows)])
        # One thread: for 100,000 values two threads are slightly faster on an idle machine, and 15
        # times slower on a busy one, where they wait for each other.
        with threadpool_limits(1, user_api="openmp"):
            for place, level in enumerate(levels):
                model = HistGradientBoostingRegressor(
                    loss="quantile",
                    quantile=level,
                    categorical_features=kinds,
                    random_state=self.seed,
                )
                model.fit(grown, training.y[row, step])
                out[:, known:, place] = model.predict(asked).reshape(panel.rows, until - known)
        return _unscaled(schema, np.sort(out, axis=-1))


_BINS = 255  # the most categories that the trees distinguish


def _for_trees(panel: Panel, known: int) -> np.ndarray:
    """Return [X, prefix], with categories as codes and gaps as NaN, which the trees accept."""
    prefix = np.where(panel.mask, panel.y, np.nan)[:, :known]
    return np.concatenate([panel.numeric, panel.codes, prefix], axis=1)


def _quantiles(targets: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Return the quantiles of training items ``(items, steps)``, shape ``(steps, levels)``."""
    if not len(targets):  # the mean of a scaled value is 0
        return np.zeros((targets.shape[1], len(levels)))
    return np.quantile(targets, levels, axis=0).T


def _around_mean(targets: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """As ``_quantiles``, shifted so that the median is the mean."""
    found = _quantiles(targets, levels)
    if not len(targets):
        return found
    return found + (targets.mean(axis=0) - np.median(targets, axis=0))[:, None]


def _features(panel: Panel, schema: Schema, known: int) -> np.ndarray:
    """Return [X, prefix], float64: categories one-hot encoded, and gaps as 0, the mean."""
    prefix = np.where(panel.mask, panel.y, 0)[:, :known]
    categories = every_category(schema.static.cardinalities, first=1)
    return np.concatenate([one_hot(panel.numeric, panel.codes, categories), prefix], axis=1)


def _ridge(
    inputs: np.ndarray, targets: np.ndarray, ours: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions for ``ours`` and the training items' leave-one-out residuals."""
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(_ALPHAS, alpha_per_target=True).fit(inputs, targets)
    predicted = model.predict(ours).reshape(len(ours), targets.shape[1])
    fitted = model.predict(inputs).reshape(targets.shape)
    # The leave-one-out residual of item i is its residual divided by 1 - h_i, where h is the
    # diagonal of the hat matrix.
    left, size, _ = np.linalg.svd(inputs - inputs.mean(axis=0), full_matrices=False)
    penalty = np.broadcast_to(np.asarray(model.alpha_), targets.shape[1])
    shrink = size[:, None] ** 2 / (size[:, None] ** 2 + penalty)
    leverage = left**2 @ shrink + 1 / len(inputs)
    return predicted, (targets - fitted) / np.maximum(1 - leverage, 1e-9)


def _nearest(inputs: np.ndarray, ours: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of ``inputs`` nearest to each of ``ours``, shape (rows, count)."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(inputs)
    return search.kneighbors(ours, return_distance=False)


def _unscaled(schema: Schema, scaled: np.ndarray) -> np.ndarray:
    """Return quantiles ``(rows, steps, levels)``, whose first step is step 1, in the units of y."""
    return np.moveaxis(schema.unscale(np.moveaxis(scaled, -1, 1)), 1, -1)


def need_sklearn(method: str) -> None:
    """Raise ``MissingExtraError`` for the baseline ``method`` without scikit-learn."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"The baseline {method!r} needs scikit-learn, which is not installed: "
            "pip install 'statecast[evaluate]', or pass baselines=False."
        ) from error
