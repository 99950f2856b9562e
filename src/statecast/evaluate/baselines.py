"""Simple baselines: what a forecast has to beat.

Each is fitted on the panel of the training items and forecasts in original units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from statecast.errors import ArgumentError, MissingExtraError
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema

_ENOUGH = 10  # training items at a step for a regression there
_FEW = 10  # categories, for a curve of their own to make sense
_ALPHAS = np.logspace(-3, 4, 15)


class Baseline(Protocol):
    """What a baseline is. It works on a panel's scaled values and answers in original units.

    Attributes
    ----------
    name : str
    point : bool
        Whether it forecasts points: all quantiles alike, and no interval to score.
    needs : int
        The shortest prefix that it can forecast from.
    needs_sklearn : bool
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
        """Learn from training items and return a fitted baseline; this one stays as it is."""
        ...

    def quantiles(
        self, panel: Panel, known: int, until: int, levels: Sequence[float]
    ) -> np.ndarray:
        """Forecast steps ``known + 1`` to ``until`` of items cut to their first ``known`` steps.

        Returns
        -------
        array, float64, ``(rows, until, len(levels))``
            In original units; NaN at the steps of the prefix.
        """
        ...


def default_baselines(schema: Schema) -> list[Baseline]:
    """Return the baselines that ``cross_validation`` takes for tables of this schema."""
    counts = {name: len(known) for name, known in schema.static.categories.items()}
    few = [name for name, count in counts.items() if 2 <= count <= _FEW]
    by = [MeanCurve(min(few, key=counts.__getitem__))] if few else []
    return [LastValue(), MeanCurve(), *by, Ridge(), Neighbours(), Trees()]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Fitted:
    """What baselines remember of the training items."""

    panel: Panel | None = field(default=None, repr=False)
    schema: Schema | None = field(default=None, repr=False)

    point = False
    needs = 0
    needs_sklearn = False

    def fit(self, panel: Panel, schema: Schema) -> Any:
        """Return a baseline of these training items."""
        return replace(self, panel=panel, schema=schema)

    def _training(self) -> tuple[Panel, Schema]:
        if self.panel is None or self.schema is None:
            raise ArgumentError("This baseline is not fitted: call fit first.")
        return self.panel, self.schema

    def _at(self, known: int, until: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the steps to forecast (from 0) in groups, with the training items to use.

        Steps at which the same items were observed go together: one regression, one search
        for neighbours, however many steps. A step beyond the training data has no items.
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
    """The last observed value goes on for ever.

    An item with nothing but gaps in its prefix is given the mean of each step.
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
    """The mean of each step, with the spread of the training items around it.

    Their quantiles are shifted so that the middle one is the mean. A step at which no
    training item was observed is forecast by the mean that the schema interpolates.

    Parameters
    ----------
    by : str, optional
        A categorical static: each of its categories has its own curve. A category with
        fewer than ten training items at a step is given that of all items.
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
        group = seen = None
        if self.by is not None:
            column = list(schema.static.categories).index(self.by)
            group, seen = panel.codes[:, column], training.codes[:, column]
        for steps, rows in self._at(known, until):
            targets = self._targets(rows, steps)
            out[:, steps] = _around_mean(targets, levels)
            if group is None or seen is None:
                continue
            for code in np.unique(group):
                own = targets[seen[rows] == code]
                if len(own) >= _ENOUGH:
                    out[np.ix_(group == code, steps)] = _around_mean(own, levels)
        return _unscaled(schema, out)


@dataclass(frozen=True, eq=False)
class Ridge(_Fitted):
    """Ridge regression of each step on the static features and the prefix.

    The strength of the penalty is chosen for each step by leave-one-out; a level's
    quantile is the prediction plus that quantile of the leave-one-out residuals. Gaps in
    the prefix count as the step's mean. A step with fewer than ten training items is
    forecast by their quantiles, and one without any by the mean that the schema
    interpolates; so are all steps where there is neither a static nor a prefix.
    """

    name = "ridge"
    needs_sklearn = True

    def quantiles(
        self, panel: Panel, known: int, until: int, levels: Sequence[float]
    ) -> np.ndarray:
        """Forecast; see ``Baseline``."""
        training, schema = self._training()
        inputs, ours = _features(training, schema, known), _features(panel, schema, known)
        out = np.full((panel.rows, until, len(levels)), np.nan)
        for steps, rows in self._at(known, until):
            targets = self._targets(rows, steps)
            if len(rows) < _ENOUGH or not inputs.shape[1]:
                out[:, steps] = _climate(targets, levels)
                continue
            predicted, residuals = _ridge(inputs[rows], targets, ours)
            out[:, steps] = predicted[..., None] + np.quantile(residuals, levels, axis=0).T
        return _unscaled(schema, out)


@dataclass(frozen=True, eq=False)
class Neighbours(_Fitted):
    """The quantiles of the training items nearest by static features and prefix.

    At each step they are the nearest among the items that were observed there: all of
    them, where they are fewer, or where there is neither a static nor a prefix. A step at
    which none was is forecast by the mean that the schema interpolates.

    Parameters
    ----------
    count : int
        How many neighbours.
    """

    count: int = 20

    name = "nearest neighbours"
    needs_sklearn = True

    def quantiles(
        self, panel: Panel, known: int, until: int, levels: Sequence[float]
    ) -> np.ndarray:
        """Forecast; see ``Baseline``."""
        training, schema = self._training()
        inputs, ours = _features(training, schema, known), _features(panel, schema, known)
        out = np.full((panel.rows, until, len(levels)), np.nan)
        for steps, rows in self._at(known, until):
            targets = self._targets(rows, steps)
            if len(rows) <= self.count or not inputs.shape[1]:
                out[:, steps] = _climate(targets, levels)
                continue
            near = _nearest(inputs[rows], ours, self.count)
            for part in range(0, panel.rows, 1024):  # a bound on memory
                paths = targets[near[part : part + 1024]]  # (rows, neighbours, steps)
                found = np.quantile(paths, levels, axis=1)
                out[part : part + 1024, steps] = np.moveaxis(found, 0, -1)
        return _unscaled(schema, out)


@dataclass(frozen=True, eq=False)
class Trees(_Fitted):
    """Gradient-boosted trees, grown for each level on the static features, the prefix and the step.

    For each prefix length one model a level forecasts all steps (the pinball loss,
    histogram-based, as in LightGBM; Ke et al. 2017); the quantiles of a step are then sorted.
    Nine levels at four prefix lengths took 7 s on 74 items, 11 s on 540, and 6 minutes on all
    values of 12,500, on one core: by far the most of all baselines, so ``most`` bounds it.

    Parameters
    ----------
    most : int or None
        Training values to grow on, drawn at random where there are more; None for all.
    seed : int
        For what is drawn.
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
        # One thread: on 100,000 values two win a little on an idle machine, and on one with other
        # work lose a factor of 15 by waiting for each other.
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


_BINS = 255  # categories that trees can tell apart


def _for_trees(panel: Panel, known: int) -> np.ndarray:
    """Return [X, prefix]: categories as codes, gaps NaN, which trees take as they are."""
    prefix = np.where(panel.mask, panel.y, np.nan)[:, :known]
    return np.concatenate([panel.numeric, panel.codes, prefix], axis=1)


def _climate(targets: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Return the quantiles of training items ``(items, steps)``, shape ``(steps, levels)``."""
    if not len(targets):  # 0 is the mean on the scale of the panel
        return np.zeros((targets.shape[1], len(levels)))
    return np.quantile(targets, levels, axis=0).T


def _around_mean(targets: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """As ``_climate``, shifted so that the median comes to lie at the mean."""
    found = _climate(targets, levels)
    if not len(targets):
        return found
    return found + (targets.mean(axis=0) - np.median(targets, axis=0))[:, None]


def _features(panel: Panel, schema: Schema, known: int) -> np.ndarray:
    """Return [X, prefix], float64: a 0/1 column a category, none for never seen; gaps 0."""
    prefix = np.where(panel.mask, panel.y, 0)[:, :known]
    parts = [panel.numeric]
    for column, codes in enumerate(schema.static.cardinalities):
        parts.append(panel.codes[:, column, None] == np.arange(1, codes))
    return np.concatenate([*parts, prefix], axis=1).astype(np.float64)


def _ridge(
    inputs: np.ndarray, targets: np.ndarray, ours: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions for ``ours`` and the training items' leave-one-out residuals."""
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(_ALPHAS, alpha_per_target=True).fit(inputs, targets)
    predicted = model.predict(ours).reshape(len(ours), targets.shape[1])
    fitted = model.predict(inputs).reshape(targets.shape)
    # Leaving item i out divides its residual by 1 - h_i, h the diagonal of the hat matrix.
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
    """``(rows, steps from 1, levels)`` to original units; increasing, so quantiles stay so."""
    return np.moveaxis(schema.unscale(np.moveaxis(scaled, -1, 1)), 1, -1)


def need_sklearn(method: str) -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"The baseline {method!r} needs scikit-learn, which is not installed: "
            "pip install 'statecast[evaluate]', or pass baselines=False."
        ) from error
