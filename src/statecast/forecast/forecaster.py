"""``Forecaster``: forecasts of numbers, as quantiles and as joint sample paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np

from statecast.checks import check_flag, check_numbers, check_whole
from statecast.errors import ArgumentError, DataError, quoted, warn
from statecast.forecast.base import CHUNK, Ahead, Frame, StateModel, check_drawn, chunks
from statecast.forecast.companions import Companions, at_levels, score_of
from statecast.forecast.dependence import Dependence, Scores, known_in_time, normal_scores
from statecast.forecast.endings import Endings, statics, stop_difference
from statecast.forecast.engine import NumberEngine, first_steps, panel_covariates
from statecast.forecast.explanation import ForecastExplanation, effects
from statecast.forecast.paths import (
    MEAN,
    MEAN_LEVELS,
    MOST_VALUES,
    Paths,
    distribution,
    equal_levels,
    quantile_columns,
    sums_by_group,
)
from statecast.forecast.pooling import MOST_POSITIONS, Pooling, moved_quantiles
from statecast.forecast.settings import ForecasterSettings, takes
from statecast.forecast.stacking import FEWEST, MOST_ITEMS
from statecast.heads.by_name import HEADS
from statecast.heads.special import LEAST_LEVEL, normal_quantile
from statecast.interrupt import noted
from statecast.networks.decoder import ALL, EMPTY, Decoder
from statecast.progress import Verbose, count, say
from statecast.state import State
from statecast.tables.groups import Groups, read_weight, without_columns
from statecast.tables.horizon import Horizon
from statecast.tables.ids import Kind
from statecast.tables.output import column_of
from statecast.tables.panel import Covariates, Panel
from statecast.tables.schema import Schema

if TYPE_CHECKING:
    import polars as pl

    from statecast.networks.batches import Batches
    from statecast.networks.network import Network

# The quantiles of a mean are computed for this many levels at a time, and for this many values, so
# that they fit into the CPU's caches.
_MEAN_BLOCK, _MEAN_VALUES = 50, 1 << 17
_SHOWN = 8  # parts of a forecast, from which on its progress is shown
_SCORED_PATHS = 200  # of an item whose total is scored for the dependence within groups


class _Quantiles(Ahead, total=False):
    """The keywords that ``predict`` and ``predict_total`` share."""

    future: Any
    level: float | Sequence[float] | None
    quantiles: float | Sequence[float] | None
    mean: bool
    context: Any


class _Predict(_Quantiles, total=False):
    """The keywords of ``predict``, for its overloads; a test compares the two."""

    calibrated: bool


class _PredictTotal(_Quantiles, total=False):
    """The keywords of ``predict_total``, for its overloads; a test compares the two."""

    by: Any
    since: int | None
    weight: Any
    across_targets: bool
    paths: int


@dataclass(frozen=True)
class _Begun:
    """The items of a call after their prefixes, from tables or from a state.

    Attributes
    ----------
    ids : array, ``(rows,)``
        With a state without ids the numbers of its rows, from 0.
    known, last : array of int, ``(rows,)``
        The prefix length and the last position to forecast, in positions.
    origin : array of datetime64, ``(rows,)``, or None
        The date of step 1.
    plans : Covariates or None
        The future covariates.
    source : Panel or State
        A state has ids.
    moved : array, ``(rows, positions, 2)``, or None
        How the forecast moves by ``context``: the result of ``Pooling.moves``.
    """

    ids: np.ndarray
    known: np.ndarray
    last: np.ndarray
    origin: np.ndarray | None
    plans: Covariates | None
    source: Panel | State
    moved: np.ndarray | None = None

    @property
    def kind(self) -> Kind | None:
        """The kind of the tables; None with a state."""
        return self.source.kind if isinstance(self.source, Panel) else None

    def take(self, rows: np.ndarray) -> _Begun:
        """Some of the items."""
        return _Begun(
            self.ids[rows],
            self.known[rows],
            self.last[rows],
            None if self.origin is None else self.origin[rows],
            self.plans and self.plans.take(rows),
            self.source.take(rows),
            None if self.moved is None else self.moved[rows],
        )


class Forecaster(StateModel[ForecasterSettings]):
    """Forecast the rest of a sequence of numbers from its static features and its first values.

    One fitted model serves every prefix length k from 0 up. The static features X set the initial
    state of a recurrent network, and the first k observations advance it. After them the network
    runs in a closed loop: where nothing was observed, its median forecast is the next input. All
    prefix lengths are trained at once, and the members of the ensemble are trained as one batch.
    ``TokenForecaster`` is the class for tokens.

    Several threads may use a fitted forecaster at once.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    settings : ForecasterSettings
        The settings, with every default filled in.
    schema : Schema
        What was learnt about the tables.
    history : dict of str to list of float
        Per epoch: ``loss``, ``crps``, ``val_loss``, ``val_crps`` (scaled units). Heads trained by
        their likelihood (Student's t, counts) have ``nats`` in place of ``crps``.

    Raises
    ------
    ArgumentError
        A value outside its range, an unknown name, or a setting without an effect.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(20, 1))
    >>> Y = X + 0.1 * rng.normal(size=(20, 6)).cumsum(axis=1)
    >>> f = Forecaster(units=4, ensemble=2, epochs=1).fit(Y, X, verbose=0)
    >>> f.predict(Y[:3, :2], X[:3], until=6)["statecast"].shape
    (3, 6)
    """

    settings_class = ForecasterSettings

    @takes(ForecasterSettings)
    def __init__(self, **given: Any) -> None:
        self._set(given)

    # -- forecasts ---------------------------------------------------------------------

    @overload
    def predict(
        self, series: np.ndarray, static: Any = None, **options: Unpack[_Predict]
    ) -> dict[str, np.ndarray]: ...
    @overload
    def predict(
        self, series: str | os.PathLike[str], static: Any = None, **options: Unpack[_Predict]
    ) -> pl.DataFrame: ...
    @overload
    def predict(
        self,
        series: None = None,
        static: Any = None,
        *,
        state: State | None = None,
        **options: Unpack[_Predict],
    ) -> Any: ...
    @overload
    def predict(self, series: Frame, static: Any = None, **options: Unpack[_Predict]) -> Frame: ...
    def predict(
        self,
        series: Any = None,
        static: Any = None,
        *,
        until: Any = None,
        h: int | None = None,
        strict: bool = False,
        future: Any = None,
        level: float | Sequence[float] | None = (80,),
        quantiles: float | Sequence[float] | None = (),
        mean: bool = False,
        calibrated: bool = True,
        context: Any = None,
        state: State | None = None,
    ) -> Any:
        """Forecast the steps after each item's prefix, up to ``until``, as quantiles.

        Parameters
        ----------
        series : table, path or array, optional
            The prefixes; k may differ between items. An item that is in ``static`` only has k = 0.
        static : table, path or array, optional
            The same columns as in ``fit``.
        until : int, mapping, table, path or array
            The last step to forecast. Steps are numbered as in the tables: as years where they are
            years; from 1 in arrays and where they are dates. Give one number for all items; or one
            for each item, as a mapping of ids to steps, a table with the ids and a column
            ``until``, or an array ``(items,)``. An item that is observed up to ``until`` has no
            rows in the forecast. Steps beyond the longest training item raise a ``DataWarning``:
            nothing was learnt about them, so the forecast may drift and its intervals are not
            calibrated.
        h : int, optional
            The number of steps to forecast after each prefix, in place of ``until``.
        strict : bool
            Raise an error for an item that is observed up to ``until``.
        future : table, path or array, optional
            As in ``fit``, with a row for every step up to ``until``; with ``state``, for every step
            from the state's next one to ``until``.
        level : float or sequence of float, optional
            The coverages of the central intervals, in percent; None or an empty list for no
            interval.
        quantiles : float or sequence of float, optional
            Further quantiles, between 0 and 1.
        mean : bool
            Whether to add the mean, in the column ``statecast-mean``: for expected values, and for
            forecasts that are added up. Sums of medians are too small where the distribution has a
            long upper tail. The mean is that of the 1,000 quantiles at the levels 0.0005, 0.0015,
            ..., 0.9995, in the units of y; so it is the mean of 1,000 paths of ``simulate``, and it
            is finite also where the tail alone would have no mean (decision 47). With ``ends=True``
            it is the mean of an item that has not ended; ``predict_total`` counts items as 0 after
            their end.
        calibrated : bool
            Whether to calibrate the quantiles on held-out items, for each prefix length and
            horizon, so that an interval contains its share of the values of new items
            (split-conformal calibration). False returns the quantiles of the models.
        context : pair of tables, paths or arrays, optional
            What other items of the groups (``group_col``) did, as far as it is known: ``(series,
            static)``, with the columns of ``fit``, or ``(series, static, future)``. Their values
            are compared with their own forecasts from k = 0, and the forecasts of items of the same
            group are moved by what that adds to the item's own prefix, and narrowed. For groups
            that were not in training: the model knows the others already, so context of these is
            ignored with a ``DataWarning``. The strength is learnt from held-out items; it is 0
            where context did not pay (decision 51). A ``DataWarning`` says if context has no
            effect. Not with ``state``.
        state : State, optional
            Forecast from this state, in place of ``series`` and ``static``. If the state has no
            ids (a fork has none), its rows are numbered from 0. The forecast is a table of the
            library of the training tables.

        Returns
        -------
        A table of the input's kind (pandas, polars, Arrow; polars for a path) with the columns:
        the id, the step, ``statecast`` (the median), ``statecast-lo-80``, ``statecast-hi-80``, ...,
        ``statecast-q-0.1``, ... and ``statecast-mean``, float64 in the units of y. Several targets
        have a column for each: ``statecast-lat``, ``statecast-lat-lo-80``, ... For arrays it is a
        dict of float64 arrays ``(items, until)``, for several targets ``(items, until, targets)``,
        NaN on the prefix.

        Raises
        ------
        DataError
            Tables that cannot be used; with ``strict``, ``until`` not beyond an item's prefix.
        ArgumentError
            Neither or both of ``until`` and ``h``; an argument outside its range; both ``state``
            and tables; a forecast that leaves the range of float32.
        StateError
            A state that this forecaster did not make.
        NotFittedError
            The forecaster is not fitted.
        """
        horizon = Horizon.read(until, h, self.schema.id_col, self.schema.first)
        columns = quantile_columns(level, quantiles)
        levels, names = list(columns.values()), list(columns)
        names += [MEAN] if check_flag("mean", mean) else []
        calibrated = check_flag("calibrated", calibrated)
        begun = self._begun(series, static, future, horizon, strict, state, context)
        reach, rows = self._reach(begun.last), np.flatnonzero(begun.known < begun.last)
        found = self._quantiles_after(begun.take(rows), reach, levels, calibrated, mean=mean)
        values = np.full((len(begun.ids), *found.shape[1:]), np.nan)
        values[rows] = found
        self._warn_undated(begun.ids, begun.origin)
        return self.schema.output(begun.kind).table(
            {name: values[..., i] for i, name in enumerate(names)},
            ids=begun.ids,
            known=begun.known,
            origin=begun.origin,
            last=begun.last,
        )

    def quantiles(
        self, panel: Panel, until: int, levels: Sequence[float], *, calibrated: bool = True
    ) -> np.ndarray:
        """Quantile forecasts of a panel, as an array.

        Every step is forecast from X and the observations before it. At the steps of the prefix
        these are one-step-ahead forecasts of the network, without analogues and calibration. With
        several targets the axis of steps has the panel's positions: one for each target of a step.

        Parameters
        ----------
        panel : Panel
            From ``schema.panel``. Future covariates that it does not have are unknown.
        until : int
            The last step (the last position, with several targets), from 1.
        levels : sequence of float
            Between 0 and 1.
        calibrated : bool
            As in ``predict``.

        Returns
        -------
        array, float64, ``(rows, until, len(levels))``
            In the units of y.

        Raises
        ------
        ArgumentError
            ``until`` or a level outside its range; ``calibrated`` is not a boolean; a forecast
            leaves the range of float32.
        """
        until = check_whole("until", until)
        levels = check_numbers("levels", levels)
        if not all(0 < each < 1 for each in levels):
            raise ArgumentError(f"levels: expected numbers above 0 and below 1, received {levels}.")
        check_flag("calibrated", calibrated)
        last = np.full(panel.rows, until)
        return self._quantiles(panel, last, until, levels, calibrated, prefix=True)

    def _quantiles(
        self,
        panel: Panel,
        last: np.ndarray,
        until: int,
        levels: Sequence[float],
        calibrated: bool,
        *,
        moved: np.ndarray | None = None,
        mean: bool = False,
        prefix: bool = False,
    ) -> np.ndarray:
        """``quantiles``, and with ``mean`` the mean after them. They must be finite up to each
        row's ``last`` position. Those of the prefix are computed with ``prefix``, and otherwise
        undefined."""
        parts, reach, pieces = [], self.schema.reach(until), chunks(len(panel.ids))
        for number, rows in enumerate(pieces):
            if len(pieces) > _SHOWN:
                count(f"forecasts of {len(panel.ids):,} items", number, len(pieces))
            own = panel.take(rows)
            part = self.schema.inputs(own)
            value, observed = first_steps(part.y, reach), first_steps(part.mask, reach)
            covariates = panel_covariates(part, np.arange(reach)[None], part.known)
            leaves, first = self._start(part), 0 if prefix else part.known.min(initial=reach)
            if first:
                before = _steps((value, observed, covariates), slice(first))
                leaves |= self._engine.advance(leaves, *before)
            after = _steps((value, observed, covariates), slice(first, None))
            network, _ = self._engine.quantiles(leaves, *after)
            skipped = np.full((part.rows, first, network.shape[2]), np.nan, "float32")
            network = np.concatenate([skipped, network], axis=1)
            leaves |= self._companions.advance(leaves, part)
            latest = own.latest if self.schema.bridges else None
            quantiles = self._combine(network, leaves, own.known, calibrated)
            if moved is not None:
                quantiles = moved_quantiles(quantiles, moved[rows])
            upto = last[rows] + reach - until
            parts.append(self._in_units(quantiles, own.ids, own.known, upto, latest, levels, mean))
        return _joined(parts, (reach, len(levels) + mean))[:, :until]

    def simulate(
        self,
        series: Any = None,
        static: Any = None,
        *,
        until: Any = None,
        h: int | None = None,
        strict: bool = False,
        future: Any = None,
        paths: int = 200,
        context: Any = None,
        state: State | None = None,
    ) -> Paths:
        """Joint sample paths of the steps after each item's prefix.

        A path is drawn step by step, and each draw is the network's next input. At every step the
        drawn values are then replaced by quantiles of the calibrated forecast, in the order of
        their ranks (ensemble copula coupling: Schefzik et al. 2013). So the paths have the
        dependence between steps that the network learnt, and the quantiles that ``predict`` gives.
        A random number depends on the seed, the item's id, the path and the step alone.

        With the setting ``group_col``, path i of all items of a group is one joint sample: the
        paths of each item are put in an order in which their totals, up to the item's last step,
        depend on those of the group (Iman and Conover 1982). The set of an item's paths and their
        order do not depend on the other items of the call.

        Parameters
        ----------
        series, static, until, h, strict, future, context, state
            As in ``predict``.
        paths : int
            The number of paths of each item.

        Returns
        -------
        Paths
            All paths are in memory. Items may be simulated in several calls: their paths are the
            same.

        Raises
        ------
        DataError, StateError, NotFittedError
            As ``predict``.
        ArgumentError
            As ``predict``; more than 250,000,000 values (items x paths x steps x targets) in one
            call.
        """
        horizon = Horizon.read(until, h, self.schema.id_col, self.schema.first)
        paths = check_whole("paths", paths)
        begun = self._begun(series, static, future, horizon, strict, state, context)
        reach = self._reach(begun.last)
        check_drawn("paths", len(begun.ids), paths, reach)
        self._warn_undated(begun.ids, begun.origin)
        return self._paths(begun, reach, paths)

    @overload
    def predict_total(
        self, series: np.ndarray, static: Any = None, **options: Unpack[_PredictTotal]
    ) -> dict[str, np.ndarray]: ...
    @overload
    def predict_total(
        self, series: str | os.PathLike[str], static: Any = None, **options: Unpack[_PredictTotal]
    ) -> pl.DataFrame: ...
    @overload
    def predict_total(
        self,
        series: None = None,
        static: Any = None,
        *,
        state: State | None = None,
        **options: Unpack[_PredictTotal],
    ) -> Any: ...
    @overload
    def predict_total(
        self, series: Frame, static: Any = None, **options: Unpack[_PredictTotal]
    ) -> Frame: ...
    def predict_total(
        self,
        series: Any = None,
        static: Any = None,
        *,
        until: Any = None,
        h: int | None = None,
        strict: bool = False,
        future: Any = None,
        by: Any = None,
        since: int | None = None,
        weight: Any = None,
        across_targets: bool = False,
        level: float | Sequence[float] | None = (80,),
        quantiles: float | Sequence[float] | None = (),
        mean: bool = False,
        paths: int = 1000,
        context: Any = None,
        state: State | None = None,
    ) -> Any:
        """Forecast totals: sums over the steps after each item's prefix, of each item or of groups
        of items, as quantiles.

        The quantiles are those of the sums of joint sample paths (``simulate``). Quantiles of a sum
        are not sums of quantiles: bounds that are added up give an interval that is too wide, and
        medians that are added up are too small where the distribution has a long upper tail.

        With the setting ``group_col`` the totals of the items of a group depend on each other as
        they did in training. Other items are independent, given their prefixes and features. If
        they share shocks that their prefixes do not show (a season, a change of the law), the true
        interval of their total is wider.

        Parameters
        ----------
        series, static, until, h, strict, future, context, state
            As in ``predict``. An item that is observed up to its ``until`` counts with its
            observations from ``since`` on, and else as 0.
        by : str or sequence of str, mapping, table or path, optional
            The groups. Default: each item. The name of a column of ``static``, or several; it need
            not be a feature of ``fit``. Columns of an array X are ``x1``, ``x2``, ... Or a mapping
            of ids to groups, or a table of the ids and the columns of the groups; with ``state``
            only these two. An empty list: one total of all items. Items whose group is missing
            (null, NaN) are a group of their own, so that no item is lost.
        since : int, optional
            As in ``Paths.total``: the first step that is counted. If it is in the prefix, the
            observations from it on are counted too. From the first step on, a total is what was
            observed and what is forecast.
        weight : str, array, mapping, table or path, optional
            A number for each item, by which its values are multiplied: the exposure or the premium
            if y is a ratio. The name of a column of ``static``, which need not be a feature of
            ``fit``; an array ``(items,)``; a mapping of ids to numbers; or a table of the ids and
            one column of numbers.
        across_targets : bool
            With several targets, one total of all of them; they have the same unit. Default: a
            total of each target.
        level, quantiles
            As in ``predict``.
        mean : bool
            Whether to add the mean of the total, in the column ``statecast-mean``.
        paths : int
            The number of paths of each item. A quantile of a total has a sampling error, which
            halves if the number is four times as large.

        Returns
        -------
        A table of the input's kind with a row for each group, in the order in which the groups
        first appear among the items: the columns of the groups (``group`` with a mapping, the id
        with ``by=None``), then ``statecast`` (the median), ``statecast-lo-80``, ..., float64. With
        several targets: ``statecast-lat``, ``statecast-lat-lo-80``, ... For arrays, a dict of
        arrays ``(groups,)``. The items are computed in parts, so that memory does not grow with the
        number of paths times items. The total of an item does not depend on the others.

        Raises
        ------
        DataError
            As ``predict`` and ``Paths.total``; an item without a weight, or without a group in a
            mapping or table; a column that is not in ``static``.
        ArgumentError
            As ``predict`` and ``Paths.total``; groups or weights of another form.
        StateError, NotFittedError
            As ``predict``.

        Examples
        --------
        >>> import numpy as np
        >>> from statecast import Forecaster
        >>> rng = np.random.default_rng(0)
        >>> Y = rng.normal(size=(20, 6)).cumsum(axis=1) + 10
        >>> f = Forecaster(units=4, ensemble=2, epochs=1).fit(Y, verbose=0)
        >>> total = f.predict_total(Y[:4, :2], until=6, by={0: "a", 1: "a", 2: "b", 3: "b"})
        >>> total["group"].tolist(), total["statecast"].shape
        (['a', 'b'], (2,))
        """
        horizon = Horizon.read(until, h, self.schema.id_col, self.schema.first)
        columns = quantile_columns(level, quantiles)
        mean, across = check_flag("mean", mean), check_flag("across_targets", across_targets)
        paths = check_whole("paths", paths)
        series, static, future = self.schema.opened(series, static, future)
        features = without_columns(static, (by, weight), self.schema)
        begun = self._begun(series, features, future, horizon, strict, state, context)
        output = self.schema.output(begun.kind)
        groups = Groups.read(by, static, begun.ids, self.schema.id_col)
        factor = read_weight(weight, static, begun.ids, self.schema.id_col)
        reach = self._reach(begun.last)
        check_drawn("paths", 1, paths, reach)
        order = np.argsort(groups.row, kind="stable")
        self._check_since(begun, since, reach)
        self._warn_undated(begun.ids, begun.origin)
        targets = self.schema.target_cols

        def totals() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            """Parts of the items: the group of each, and its totals ``(rows, targets, paths)``."""
            for part in chunks(len(order), max(1, MOST_VALUES // (paths * reach))):
                rows = order[part]
                drawn = self._paths(begun.take(rows), reach, paths)
                found = np.stack([drawn.of(name).totals(since) for name in targets], axis=1)
                if factor is not None:
                    found = found * factor[rows, None, None]
                yield groups.row[rows], found.sum(axis=1, keepdims=True) if across else found

        names = [None] if across or len(targets) == 1 else targets
        parts = [
            {
                name if target is None else column_of(name, target): values
                for i, target in enumerate(names)
                for name, values in distribution(sums[:, i], columns, mean).items()
            }
            for sums in sums_by_group(totals(), len(names), paths)
        ]
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if by is None:
            return output.summary(found, ids=begun.ids)
        return output.grouped(groups.columns, found)

    def explain(
        self,
        series: Any = None,
        static: Any = None,
        *,
        until: Any = None,
        h: int | None = None,
        strict: bool = False,
        future: Any = None,
        analogues: int = 5,
    ) -> ForecastExplanation:
        """The effects of each item's observations and static features on its forecast, and the most
        similar training items.

        Each observation and each static feature is masked in turn (occlusion), and the forecast
        without it is compared with the forecast; ``forecast.explanation`` describes what an effect
        means. The cost is one forecast for each observation and feature. With several targets, each
        target's observation at a step is masked separately, and the effect on the forecast of every
        target is given.

        Parameters
        ----------
        series, static, until, h, strict, future
            As in ``predict``. Covariates are never masked, so they have no effects.
        analogues : int
            The number of most similar training items to name; 0 for none.

        Returns
        -------
        ForecastExplanation

        Raises
        ------
        DataError, NotFittedError
            As ``predict``.
        ArgumentError
            As ``predict``; ``analogues`` below 0.
        """
        analogues = check_whole("analogues", analogues, 0)
        targets, schema = self.settings.targets, self.schema
        horizon = Horizon.read(until, h, schema.id_col, schema.first)
        panel = self._panel(series, static, future, horizon)
        last = self._last(horizon, panel.ids, panel.known, strict)
        rows = np.flatnonzero(panel.known < last)
        panel, last, reach = panel.take(rows), last[rows], self._reach(last)
        last_of = dict(zip(panel.ids.tolist(), last.tolist(), strict=True))

        def median(part: Panel) -> np.ndarray:
            last = np.array([last_of[item] for item in part.ids.tolist()], int)
            return self._quantiles(part, last, reach, [0.5], True)[..., 0]

        observations, statics = effects(
            median,
            panel,
            len(schema.static.numeric),
            len(schema.static.categories),
        )
        count = len(targets)
        open_ = schema.output(panel.kind).open(panel.origin, reach // count)
        open_ = np.repeat(open_, count, axis=1)
        forecast = open_ & (np.arange(reach) < last[:, None])
        for effect in (observations, statics):
            effect[np.broadcast_to(~forecast[:, None], effect.shape)] = np.nan
        if count > 1:
            steps = reach // count
            observations = observations.reshape(panel.rows, -1, count, steps, count)
            statics = statics.reshape(panel.rows, statics.shape[1], steps, count)
        names = list(schema.static.kinds)
        near, weights = self._companions.nearest(schema.inputs(panel), schema, analogues)
        return ForecastExplanation(
            panel.ids,
            panel.known // count,
            observations,
            {name: statics[:, i] for i, name in enumerate(names)},
            near,
            weights,
            schema.id_col,
            panel.kind,
            targets,
            last // count,
            schema.first,
        )

    # -- what was fitted ---------------------------------------------------------------

    @property
    def engine(self) -> NumberEngine:
        """The trained network on NumPy arrays.

        It takes scaled values, and the leaves of a state that its ``decoder.state_shapes`` names.
        A state has further leaves, for the analogues.
        """
        self.schema  # noqa: B018  raises if nothing is fitted
        return self._engine

    @property
    def dependence(self) -> Dependence | None:
        """How the totals of the items of a group depend on each other (the loadings by prefix
        length), and how much wider forecasts in time are. None without ``group_col``, and with few
        held-out items (``fit`` warns)."""
        self.schema  # noqa: B018  raises if nothing is fitted
        return self._companions.dependence

    @property
    def pooling(self) -> Pooling | None:
        """How forecasts move by a ``context``: the strength by prefix length, 0 where it does not
        pay. None without ``dependence``, and with more than 120 steps times targets."""
        self.schema  # noqa: B018  raises if nothing is fitted
        return self._companions.pooling

    # -- fitting -----------------------------------------------------------------------

    def _learn_schema(self, series: Any, static: Any, future: Any) -> Schema:
        s = self.settings
        transform = s.transform if s.transform != "auto" else s.needed_transform or "auto"
        return Schema.fit(
            series, static, future=future, transform=transform, bounds=s.bounds, **s.columns
        )

    def _learn_before(self, schema: Schema, panel: Panel) -> Companions:
        return Companions(endings=self._learn_endings(schema, panel))

    def _batches(
        self, decoder: Decoder, panel: Panel, held: np.ndarray, own: slice = ALL
    ) -> tuple[Batches, Batches]:
        from statecast.networks.batches import LARGEST_BATCH, HeldOutBatches, TrainingBatches

        # A multiple of 8, so that the folds of a cross-validation share a compiled program.
        eighth = int(np.clip(panel.rows // 64 * 8, 32, LARGEST_BATCH))
        batch = self.settings.batch_size or eighth
        training = TrainingBatches(panel, held, batch, self.settings.seed, own)
        return training, HeldOutBatches(panel, held, batch, own)

    def _learn_after(
        self,
        schema: Schema,
        weights: Mapping[str, np.ndarray],
        panel: Panel,
        held: np.ndarray,
        before: Companions,
        verbose: Verbose,
    ) -> Companions:
        s, engine = self.settings, NumberEngine(self._plan(schema)[0], weights)
        found = before.fit(engine, panel, held, schema, analogues=s.analogues, seed=s.seed)
        if found.stacking is None:
            warn(
                f"Expected at least {FEWEST} held-out items to calibrate intervals on; received "
                f"{held.any(axis=0).sum()} of {panel.rows} training items. The intervals are not "
                "calibrated, and too narrow."
            )
        elif found.dependence is not None:
            scores = self._scores_in_time(schema, panel, before, verbose)
            assert panel.group is not None  # with a dependence
            group = panel.group[held.any(axis=0)]
            if scores is not None:
                group = scores[0]
                dependence = Dependence.fit(found.stacking.known, [scores], in_time=True)
                found = replace(found, dependence=dependence)
            several = (np.unique(group[group != 0], return_counts=True)[1] > 1).sum()
            if several < FEWEST:
                more = scores is None and not held.any(axis=0).all()
                warn(
                    f"Column {schema.group_col!r}: expected at least {FEWEST} groups with two or "
                    "more held-out items, to measure how the items of a group depend on each "
                    f"other; received {several}. In totals and paths they are independent."
                    + " A larger ensemble holds out more items."
                    * more
                )
        return found

    def _scores_in_time(
        self, schema: Schema, panel: Panel, before: Companions, verbose: Verbose
    ) -> Scores | None:
        """The normal scores of totals of the second half of the training data in time, which a
        network forecasts that was trained on the first half.

        The items of a group share what happens after the training data. Held-out items do not show
        it, as other items of their group were observed at the same time. Half of the members are
        enough for the scores.

        Returns
        -------
        Scores or None
            None if times or later values are unknown, if there are few items, or after Ctrl-C.
        """
        from statecast.networks.batches import held_out
        from statecast.networks.training import mean_history

        if panel.begin is None or panel.group is None:
            return None
        cut = known_in_time(panel.begin, panel.mask, panel.targets)
        if cut is None:
            timed = np.isfinite(panel.begin).sum()
            self._warn_untimed(
                f"{timed} of {panel.rows} items have a time of step 1, and no time divides the "
                "values of these into an earlier and a later half"
            )
            return None
        past, s = panel.prefix(cut), self.settings
        training = past.take(past.known > 0)
        first = panel.mask & (np.arange(panel.mask.shape[1]) % panel.targets == 0)
        after = first & ~past.mask & training.mask.any(axis=0)
        after &= (np.arange(panel.mask.shape[1]) >= cut[:, None]) & (cut >= 0)[:, None]
        grouped = np.flatnonzero(after.any(axis=1) & (panel.group != 0))
        # Whole groups, in random order.
        numbers, number = np.unique(panel.group[grouped], return_inverse=True)
        place = np.random.default_rng([s.seed, 7]).permutation(len(numbers))[number]
        rows = grouped[place.argsort(kind="stable")[:MOST_ITEMS]]
        model = self.clone().set_params(ensemble=max(2, s.ensemble // 2))
        held = held_out(training.groups, model.settings.ensemble, s.seed)
        if held.any(axis=0).sum() < FEWEST or not len(rows):
            self._warn_untimed(
                f"forecasts of the later half of the values need at least {FEWEST} held-out items "
                f"in the earlier half and items with a group in both; there are "
                f"{held.any(axis=0).sum()} and {len(rows)}"
            )
            return None
        with noted() as interrupt:
            if interrupt.count:
                return None
            if verbose != 0:
                say("Forecasts in time: a smaller network is trained on the values of the past.")
            try:
                trained = model._train(schema, training, held, interrupt, verbose=verbose)
            except KeyboardInterrupt:
                if interrupt.count > 1:
                    raise
                return None
        engine = NumberEngine(model._plan(schema)[0], trained.weights)
        companions = before.fit(engine, training, held, schema, analogues=s.analogues, seed=s.seed)
        model._adopt(schema, trained.weights, mean_history(trained.history), companions)
        last, found = panel.known[rows], []
        reach, own = int(last.max()), past.take(rows)
        begun = _Begun(own.ids, own.known, last, own.origin, own.future, own)
        counted = after[rows, : reach : panel.targets]
        truth = schema.unscale(panel.y[rows, :reach])[:, :: panel.targets]
        for part in chunks(len(rows), max(1, MOST_VALUES // (_SCORED_PATHS * reach))):
            paths = model._paths(begun.take(part), reach, _SCORED_PATHS).of(schema.target_cols[0])
            drawn, known = np.where(counted[part, None], paths.values, 0.0), counted[part]
            total = np.where(known, truth[part], 0.0).sum(axis=1)
            found.append(normal_scores(np.nan_to_num(drawn).sum(axis=2), total))
        return panel.group[rows], own.known, np.concatenate(found)

    def _warn_untimed(self, why: str) -> None:
        """Warn that ``origin_col`` has no effect."""
        if self.settings.origin_col is not None:
            warn(
                f"Column {quoted(self.settings.origin_col)}: {why}. So the dependence of the items "
                "of a group is measured on held-out items, as without origin_col."
            )

    def _plan(self, schema: Schema) -> tuple[Decoder, dict[str, Any]]:
        s = self.settings
        stack, static, options = self._recurrent_options(schema)
        past = 1 + s.encoding if schema.past.kinds else 0
        future = 1 + s.encoding if schema.future.kinds else 0
        one = schema.targets[0]  # a head that needs a scale has one target
        head = HEADS[s.head].on_scale(
            one.transform.centre, float(one.location[0]), float(one.scaling[0])
        )
        intervals, divided = s.division(schema.items, schema.static.distinct)
        decoder = Decoder(
            stack, head, schema.steps, static, past, future, len(s.targets), intervals, divided
        )
        return decoder, options

    def _build(
        self,
        schema: Schema,
        seed: int,
        weights: Mapping[str, np.ndarray] = EMPTY,
        own: slice = ALL,
    ) -> Network:
        from statecast.networks.network import Network

        decoder, options = self._plan(schema)
        options |= {"precision": self.settings.precision, "seed": seed}
        return Network(decoder, **options, weights=weights, own=own)

    def _use(self, decoder: Any, weights: Mapping[str, np.ndarray]) -> None:
        super()._use(decoder, weights)
        self._engine = NumberEngine(decoder, weights)

    def _check_schema(self, schema: Schema) -> None:
        super()._check_schema(schema)
        s = self.settings
        roles = (schema.group_col, schema.origin_col) == (s.group_col, s.origin_col)
        if not roles or {*schema.past.kinds} != {*(s.past_cols or ())}:
            raise ValueError("the schema's columns are not those of the settings")
        asked = s.transform if s.transform != "auto" else s.needed_transform
        if asked is not None and any(each.transform.name != asked for each in schema.targets):
            raise ValueError("the schema's transform is not that of the settings")
        if schema.vocabulary is not None:
            raise ValueError("schema: expected no vocabulary, as the file holds a Forecaster")

    def _read_companions(
        self, arrays: Mapping[str, Mapping[str, np.ndarray]], schema: Schema
    ) -> Companions:
        return Companions.from_arrays(arrays, schema, ends=self.settings.ends)

    def _learn_endings(self, schema: Schema, panel: Panel) -> Endings | None:
        """The endings, with ``ends=True``. Otherwise None, with a warning if the items that stop
        being observed differ from the others."""
        s, count = self.settings, len(self.settings.targets)
        if not s.ends:
            for place, target in enumerate(s.targets):
                alone = panel.of(place) if count > 1 else panel
                difference, stops = stop_difference(alone.y, alone.mask)
                if difference:
                    side = "below" if difference < 0 else "above"
                    warn(
                        f"Column {target!r}: {stops} of {panel.rows} items stop being observed "
                        f"before the longest one. On average they lie {abs(difference):.2g} "
                        f"standard deviations of a step {side} the items that go on. A forecast is "
                        "the value of an item that goes on, and totals count every item up to the "
                        "last step. Fit with ends=True if these items ended."
                    )
            return None
        (one,) = schema.targets  # with ends=True
        line = panel.y * one.scaling + one.location
        x = statics(panel.numeric, panel.codes, schema.static.cardinalities)
        censored = panel.known >= schema.steps
        if schema.spacing is not None and panel.origin is not None:
            last = schema.spacing.dates(panel.origin, panel.known)
            censored |= last >= last.max()
        found = Endings.fit(line, panel.mask, x, censored, s.seed)
        if found is None:
            raise DataError(
                "ends: expected at least 8 items that end before the longest one's last step; "
                f"received {(~censored).sum()}. Fit with ends=False.",
                column=s.step_col,
            )
        return found

    # -- states ------------------------------------------------------------------------

    def _start(self, panel: Panel) -> dict[str, np.ndarray]:
        leaves = self._engine.start(panel.numeric, panel.codes)
        leaves |= self._companions.start(panel, self.schema)
        if self.schema.bridges:
            leaves["latest"] = np.zeros((panel.rows, panel.targets, 2), "float32")
        return leaves

    def _advance(
        self, leaves: dict[str, np.ndarray], panel: Panel, known: np.ndarray
    ) -> dict[str, np.ndarray]:
        latest = panel.latest if self.schema.bridges else None
        panel = self.schema.inputs(panel)
        # The panel's steps from each row's `known + 1` on, moved to begin at column 0.
        more = (panel.known - known)[:, None]
        ahead = np.arange(more.max(initial=0))
        at = known[:, None] + ahead
        covariates = panel_covariates(panel, at, panel.known)
        at = np.minimum(at, panel.y.shape[1] - 1)
        row = np.arange(panel.rows)[:, None]
        value, observed = panel.y[row, at], panel.mask[row, at]
        after = leaves | self._engine.advance(leaves, value, observed, ahead < more, covariates)
        self._check_leaves(after, panel.ids)
        after |= self._companions.advance(after, panel)
        if latest is not None:
            after["latest"] = np.where(latest[..., 1:] > 0, latest, after["latest"])
        return after

    def _leaf_shapes(self) -> dict[str, tuple[int, ...]]:
        s, shapes = self.settings, self._decoder.state_shapes
        spec = {name: (s.ensemble, *shape) for name, shape in shapes.items()}
        spec |= self._companions.leaf_shapes(self.schema)
        if self.schema.bridges:
            spec["latest"] = (len(s.targets), 2)
        return spec

    # -- inside ------------------------------------------------------------------------

    def _begun(
        self,
        series: Any,
        static: Any,
        future: Any,
        horizon: Horizon,
        strict: bool,
        state: State | None,
        context: Any,
    ) -> _Begun:
        """The items of a forecast, from the arguments of ``predict``, checked."""
        if context is not None:
            self._check_context(context, state)
        if state is None:
            panel = self._panel(series, static, future, horizon)
            last = self._last(horizon, panel.ids, panel.known, strict)
            moved = None if context is None else self._moves(panel, context)
            return _Begun(panel.ids, panel.known, last, panel.origin, panel.future, panel, moved)
        self._check_state(state, series, static)
        known, ids, origin = self._position(state)
        last = self._last(horizon, ids, known, strict)
        plans, origin = self._plans(future, horizon, ids, known, origin)
        if state.ids is None:  # a fork: the number of a row takes the place of its id
            state = State(state.leaves, ids, state.fingerprint)
        return _Begun(ids, known, last, origin, plans, state)

    def _check_context(self, context: Any, state: State | None) -> None:
        """Raise ``ArgumentError`` for a context that is no pair of tables, or cannot be used."""
        if self.schema.group_col is None:
            raise ArgumentError(
                "context: expected a forecaster that was fitted with group_col, which says which "
                "items belong together. Fit again with group_col=..."
            )
        if state is not None:
            raise ArgumentError(
                "context: expected tables of the items, as a state does not hold their "
                "observations; received a state too. Pass series and static instead."
            )
        if not (isinstance(context, (tuple, list)) and len(context) in (2, 3)):
            raise ArgumentError(
                "context: expected a pair of tables (series, static), or (series, static, future); "
                f"received {quoted(context)}."
            )
        if self._companions.pooling is None:
            raise ArgumentError(
                "context: expected a forecaster that learnt how the items of a group belong "
                f"together, from {FEWEST} held-out items or more, of at most {MOST_POSITIONS} "
                "steps x targets; this one did not."
            )

    def _moves(self, panel: Panel, context: Any) -> np.ndarray:
        """How the forecasts of a panel's items move by a context that ``_check_context`` passed."""
        pooling, future = self._companions.pooling, context[2] if len(context) > 2 else None
        try:
            others = self.schema.panel(*context[:2], future=future)
        except DataError as error:  # the tables of the items to forecast have the same labels
            message = f"context: {error}"
            raise DataError(message, column=error.column, item=error.item) from error
        assert pooling is not None
        assert panel.group is not None
        assert others.group is not None
        # As text, as the id 7 of one file may be the text "7" of another.
        same = set(map(str, panel.ids.tolist())) & set(map(str, others.ids.tolist()))
        if same and others.kind.library != "arrays":  # the ids of arrays are the numbers of rows
            item = next(each for each in others.ids.tolist() if str(each) in same)
            raise DataError(
                f"context: expected other items than those to forecast; item {quoted(item)} is "
                "among both. Leave it out of the context.",
                item=item,
            )
        known_groups = np.isin(others.group, pooling.groups)
        if known_groups.any():
            warn(
                f"context: {known_groups.sum():,} items are of groups that were in training (the "
                f"first is item {others.ids[known_groups][:1].tolist()[0]!r}). The model knows "
                "these groups, so their context is ignored."
            )
        shared = np.intersect1d(panel.group, others.group[~known_groups & (others.group != 0)])
        reached = np.isin(panel.group, shared)
        if not len(shared) and not known_groups.all():
            warn(
                "context: none of its items is of the group of an item to forecast, so it has no "
                f"effect. Are the names of the groups in {self.schema.group_col!r} the same?"
            )
        elif len(shared) and not pooling.has_effect(panel.known[reached]).any():
            warn(
                "context: it has no effect on these forecasts. Other items of a group were no "
                "sure help to the forecasts of held-out training items from such prefixes."
            )
        prefix = self._start_scores(panel)
        return pooling.moves(
            prefix, panel.known, panel.group, self._start_scores(others), others.group
        )

    def _start_scores(self, panel: Panel) -> np.ndarray:
        """The normal scores of a panel's values in the forecasts from k = 0, for as many positions
        as training items had; NaN where nothing was observed."""
        found, steps = [], self.schema.positions
        for rows in chunks(panel.rows):
            whole = self.schema.inputs(panel.take(rows))
            part = whole.prefix(0)
            nothing = np.zeros((len(rows), steps), bool)
            covariates = panel_covariates(part, np.arange(steps)[None], part.known)
            leaves = self._start(part)
            network, _ = self._engine.quantiles(leaves, nothing, nothing, ~nothing, covariates)
            quantiles = self._combine(network, leaves, part.known, True)
            value, mask = first_steps(whole.y, steps), first_steps(whole.mask, steps)
            found.append(score_of(np.where(mask, value, np.nan), quantiles.astype(np.float64)))
        return _joined(found, (steps,))

    def _paths(self, begun: _Begun, reach: int, paths: int) -> Paths:
        """``simulate``, up to the position ``reach``."""
        ids, known, last, source = begun.ids, begun.known, begun.last, begun.source
        state = self.state_of(source) if isinstance(source, Panel) else source
        values = np.full((len(ids), paths, reach), np.nan)
        levels = equal_levels(paths)
        count = len(self.settings.targets)
        open_ = self.schema.output(begun.kind).open(begun.origin, reach // count)
        open_ = np.broadcast_to(np.repeat(open_, count, axis=1), (len(ids), reach))
        ahead = np.flatnonzero(known < last)
        for chunk in chunks(len(ahead), max(1, 8 * CHUNK // paths)):
            rows = ahead[chunk]
            part = state.take(rows)
            plan = begun.plans and begun.plans.take(rows)
            drawn = self._draw(part, known[rows], reach, paths, plan)
            self._check_range(drawn.swapaxes(1, 2), ids[rows], known[rows], last[rows])
            if count > 1:
                drawn = self._couple_targets(drawn, part, known[rows])
            ranks = drawn.argsort(axis=1).argsort(axis=1)
            marginal = self._quantiles_from(
                part, known[rows], last[rows], reach, levels, True, plan, begun.take(rows).moved
            )
            marginal = np.moveaxis(marginal, -1, 1)  # (rows, paths, reach), rising along paths
            if self._companions.endings is not None:
                found = self._end_paths(part, known[rows], drawn, marginal)
            else:
                found = np.take_along_axis(marginal, ranks, axis=1)
            ahead_of = open_[rows] & (np.arange(reach) < last[rows, None])
            found = np.where(ahead_of[:, None], found, np.nan)
            values[rows] = self._in_group_order(found, part, known[rows])
        return self._paths_of(begun, values)

    def _in_group_order(self, values: np.ndarray, state: State, known: np.ndarray) -> np.ndarray:
        """Paths ``(rows, paths, positions)``, in the order in which their totals depend on those of
        the other items of the group; of several targets, the totals of the first one."""
        dependence = self._companions.dependence
        if dependence is None:
            return values
        group = state.at_rest()["group"]
        totals = np.nan_to_num(values[..., :: len(self.settings.targets)]).sum(axis=2)

        def draw(rows: np.ndarray, shared: bool) -> np.ndarray:
            ids, use = (group, "/group") if shared else (state.ids, "/order")
            return self._uniform(ids[rows], 1, values.shape[1], use)[:, 0]

        order = dependence.order(totals, group, known, draw)
        return np.take_along_axis(values, order[..., None], axis=1)

    def _paths_of(self, begun: _Begun, values: np.ndarray) -> Paths:
        """Paths from their values ``(rows, paths, positions)``."""
        count, source, observed = len(self.settings.targets), begun.source, None
        if isinstance(source, Panel):
            observed = np.where(source.mask, source.y.astype("float64"), np.nan)
            observed = self.schema.unscale(observed)
        if count > 1:
            values = values.reshape(*values.shape[:2], values.shape[2] // count, count)
            observed = None if observed is None else observed.reshape(len(observed), -1, count)
        return Paths(
            begun.ids,
            begun.known // count,
            values,
            self.schema,
            begun.origin,
            begun.kind,
            observed,
            begun.last // count,
        )

    def _check_since(self, begun: _Begun, since: int | None, reach: int) -> None:
        """Raise as ``Paths.total`` does, for all items and targets, before any path is drawn."""
        if since is None:  # only forecast steps are counted
            return
        for rows in chunks(len(begun.ids)):
            nothing = self._paths_of(begun.take(rows), np.zeros((len(rows), 0, reach)))
            for target in self.schema.target_cols:
                nothing.of(target).totals(since)

    def _combine(
        self,
        network: np.ndarray,
        leaves: Mapping[str, np.ndarray],
        known: np.ndarray,
        calibrated: bool,
    ) -> np.ndarray:
        """``Companions.combine`` with this schema."""
        return self._companions.combine(network, leaves, known, self.schema, calibrated=calibrated)

    def _reach(self, last: np.ndarray) -> int:
        """The largest last position of all rows. Warns if it is beyond the training items."""
        count = len(self.settings.targets)
        longest = int(last.max(initial=0)) // count
        schema = self.schema
        if longest > schema.steps:
            begins = f" from {schema.first} on" if schema.first > 1 else ""
            warn(
                f"until: {schema.number(longest)} is beyond the longest training item, which had "
                f"{schema.steps} steps{begins}. Nothing was learnt about later steps: their "
                "forecasts may drift, and their intervals are not calibrated."
            )
        return max(longest, 1) * count

    def _panel(self, series: Any, static: Any, future: Any, horizon: Horizon) -> Panel:
        """The panel of a forecast.

        ``Schema.reach`` may ask for steps after a row's last step. The future covariates of these
        steps are optional; missing ones are unknown.
        """
        panel = self.schema.panel(series, static, future=future, until=horizon.last)
        return replace(panel, future=self._unknown(panel.future, horizon, panel.ids, panel.known))

    def _unknown(
        self, plans: Covariates | None, horizon: Horizon, ids: np.ndarray, known: np.ndarray
    ) -> Covariates | None:
        """The future covariates; those missing after a row's last step are marked as unknown."""
        count = len(self.settings.targets)
        return plans and plans.unknown(horizon.last(ids, known // count) * count)

    def _plans(
        self,
        future: Any,
        horizon: Horizon,
        ids: np.ndarray,
        known: np.ndarray,
        origin: np.ndarray | None,
    ) -> tuple[Covariates | None, np.ndarray | None]:
        """The future covariates of a state's items, and the date of step 1 of each."""
        if future is None and not self.schema.future.kinds:
            return None, origin
        panel = self.schema.new_rows(
            None, ids, future=future, known=known, origin=origin, until=horizon.last
        )
        assert panel.future is not None  # the schema has future covariates
        return self._unknown(panel.future, horizon, ids, known), panel.origin

    def _check_leaves(self, leaves: Mapping[str, np.ndarray], ids: np.ndarray) -> None:
        """Raise ``ArgumentError`` unless the numbers of a new state are finite.

        They may not be: over a long gap the network's forecasts are its inputs, and may grow.
        """
        for leaf in leaves.values():
            finite = np.isfinite(leaf)
            if not finite.all():
                row = int(np.argwhere(~finite)[0, 0])
                item = ids[row : row + 1].tolist()[0]
                raise ArgumentError(
                    f"The state of item {quoted(item)} leaves the range of float32 over the steps "
                    f"at which it was not observed. {self._growth()} Fit again."
                )

    def _check_range(
        self, found: np.ndarray, ids: np.ndarray, known: np.ndarray, last: np.ndarray
    ) -> None:
        """Raise ``ArgumentError`` unless a scaled forecast ``(rows, positions, n)`` is finite from
        the end of each row's prefix to its last position; see decision 30."""
        finite = np.isfinite(found).all(axis=2)
        at = np.arange(found.shape[1])
        wrong = np.argwhere(~finite & (at >= known[:, None]) & (at < last[:, None]))
        if len(wrong):
            row, position = wrong[0].tolist()
            raise ArgumentError(
                f"until: the forecast of item {quoted(ids[row : row + 1].tolist()[0])} leaves the "
                "range of float32 at step "
                f"{self.schema.number(position // len(self.settings.targets) + 1)}. "
                f"{self._growth()} Ask for fewer steps, or fit again."
            )

    def _growth(self) -> str:
        """The weight that makes the values of this model leave float32, for messages."""
        weights = {n: float(np.abs(w).max(initial=0.0)) for n, w in self._trained.items()}
        factor, largest = weights["decoder/head/residual"], max(weights, key=weights.__getitem__)
        if factor > 1:
            return (
                f"Each step takes up to {factor:.3g} times the value before it (weight "
                "decoder/head/residual), so that values grow at every step."
            )
        return f"The largest of the model's weights, {largest}, is {weights[largest]:.3g}."

    def _in_units(
        self,
        quantiles: np.ndarray,
        ids: np.ndarray,
        known: np.ndarray,
        last: np.ndarray,
        latest: np.ndarray | None,
        levels: Sequence[float],
        mean: bool,
    ) -> np.ndarray:
        """A scaled forecast ``(rows, positions, len(QUANTILE_LEVELS))`` as quantiles at ``levels``,
        and with ``mean`` the mean after them; float64, in the units of y.

        They must be finite up to each row's ``last`` position. Steps at which no training item was
        observed are interpolated.
        """
        scaled = at_levels(quantiles, levels)
        self._check_range(scaled, ids, known, last)
        found = self._unscale(scaled, known, latest)
        if not mean:
            return found
        every = equal_levels(MEAN_LEVELS)
        self._check_range(at_levels(quantiles, [every[0], every[-1]]), ids, known, last)
        total = np.zeros(quantiles.shape[:2])
        size = max(1, _MEAN_VALUES // (_MEAN_BLOCK * quantiles.shape[1]))
        for first in range(0, len(quantiles), size):
            rows = slice(first, first + size)
            own = None if latest is None else latest[rows]
            for start in range(0, MEAN_LEVELS, _MEAN_BLOCK):
                block = at_levels(quantiles[rows], every[start : start + _MEAN_BLOCK])
                values = self._unscale(block, known[rows], own)
                # One after the other: NumPy's order of a sum depends on the shape.
                for each in np.moveaxis(values, -1, 0):
                    total[rows] += each
        return np.concatenate([found, total[..., None] / MEAN_LEVELS], axis=-1)

    def _unscale(
        self, scaled: np.ndarray, known: np.ndarray, latest: np.ndarray | None
    ) -> np.ndarray:
        """A scaled forecast ``(rows, steps, levels)`` in the units of y, float64.

        Steps at which no training item was observed are interpolated.
        """
        levels = np.moveaxis(scaled, -1, 1)
        return np.moveaxis(self.schema.unscale_rest(levels, known, latest), 1, -1)

    def _quantiles_from(
        self,
        state: State,
        known: np.ndarray,
        last: np.ndarray,
        until: int,
        levels: Sequence[float],
        calibrated: bool,
        plans: Covariates | None,
        moved: np.ndarray | None = None,
        *,
        mean: bool = False,
    ) -> np.ndarray:
        """Quantiles from a state with ids, ``(rows, until, levels)``, NaN at the steps it has
        taken; with ``mean`` the mean after them.

        They must be finite up to each row's ``last`` position.
        """
        assert state.ids is not None  # `_begun` gives a state ids
        parts, reach = [], self.schema.reach(until)
        for rows in chunks(state.rows):
            first = int(known[rows].min())
            nothing = np.zeros((len(rows), reach - first), bool)
            part = state if len(rows) == state.rows else state.take(rows)
            leaves = dict(part.at_rest().leaves)
            covariates = self._covariates_ahead(plans, rows, known[rows], reach)
            network, _ = self._engine.quantiles(leaves, nothing, nothing, ~nothing, covariates)
            network = _aligned(network, known[rows], reach)
            latest = leaves["latest"] if self.schema.bridges else None
            quantiles = self._combine(network, leaves, known[rows], calibrated)
            if moved is not None:
                quantiles = moved_quantiles(quantiles, moved[rows])
            own, upto = state.ids[rows], last[rows] + reach - until
            parts.append(self._in_units(quantiles, own, known[rows], upto, latest, levels, mean))
        return _joined(parts, (reach, len(levels) + mean))[:, :until]

    def _quantiles_after(
        self,
        begun: _Begun,
        until: int,
        levels: Sequence[float],
        calibrated: bool,
        *,
        mean: bool,
    ) -> np.ndarray:
        """``_quantiles`` or ``_quantiles_from``, by where the items come from."""
        known, last, source = begun.known, begun.last, begun.source
        if isinstance(source, Panel):
            return self._quantiles(
                source, last, until, levels, calibrated, moved=begun.moved, mean=mean
            )
        plans = begun.plans
        return self._quantiles_from(
            source, known, last, until, levels, calibrated, plans, mean=mean
        )

    def _covariates_ahead(
        self, plans: Covariates | None, rows: np.ndarray, known: np.ndarray, until: int
    ) -> dict[str, np.ndarray]:
        """The covariates of the steps after each row's first ``known`` steps."""
        steps, covariates = until - int(known.min()), {}
        if plans is not None:
            covariates |= plans.take(rows).at(known[:, None] + np.arange(steps)).named("future")
        if self.schema.past.kinds:
            covariates |= Covariates.absent(self.schema.past, len(rows), steps).named("past")
        return covariates

    def _draw(
        self, state: State, known: np.ndarray, until: int, paths: int, plans: Covariates | None
    ) -> np.ndarray:
        """Scaled paths ``(rows, paths, until)``, drawn step by step."""
        members, rows = self.settings.ensemble, state.rows
        share = -(-paths // members)
        first = int(known.min())
        uniform = self._uniform(state.ids, until, share * members).astype("float32")
        # A step has the same draw for every prefix, so a row's draws begin at its step `known`.
        steps = np.minimum(known[:, None] + np.arange(until - first), until - 1)
        uniform = np.take_along_axis(uniform, steps[..., None], axis=1)
        uniform = uniform.reshape(rows, until - first, share, members).transpose(0, 2, 3, 1)
        covariates = self._covariates_ahead(plans, np.arange(rows), known, until)
        drawn = self._engine.sample(
            state.fork(share).leaves,
            uniform.reshape(rows * share, members, until - first),
            {name: np.repeat(value, share, axis=0) for name, value in covariates.items()},
        )
        drawn = drawn.reshape(rows, share * members, until - first)[:, :paths]
        return _aligned(drawn.swapaxes(1, 2), known, until).swapaxes(1, 2)

    def _couple_targets(self, drawn: np.ndarray, state: State, known: np.ndarray) -> np.ndarray:
        """The relative ranks of the paths of several targets.

        The network and the linear model both learn how targets depend on each other. The linear
        model draws a share of the paths: the weight of the analogues in the forecast. The rank of a
        path is the one among the paths of the same model.

        Returns
        -------
        array, float64, ``(rows, paths, positions)``
            Between 0 and 1.
        """
        found, stacking = self._companions.analogues, self._companions.stacking
        _, paths, until = drawn.shape
        if found is None or stacking is None:
            return drawn
        share = np.rint((1.0 - stacking.share(known)) * paths).astype(int)
        usable = state.at_rest()["analogues/usable"] > 0
        share = np.where((known < found.steps) & usable, share, 0)
        # Beyond the longest training item the deviations stay as they are at its last step.
        count = len(self.settings.targets)
        at = np.arange(until)
        at = np.where(at < found.steps, at, found.steps - count + at % count)
        places = np.empty(drawn.shape)
        for size in np.unique(share):
            rows = np.flatnonzero(share == size)
            parts = [drawn[rows, : paths - size]]
            if size:
                uniform = self._uniform(state.ids[rows], found.steps, size, "/linear")
                normal = normal_quantile(np.clip(uniform, LEAST_LEVEL, 1.0 - LEAST_LEVEL))
                normal = normal.swapaxes(1, 2)
                seen = state["analogues/seen"][rows] > 0
                parts.append(found.deviations(seen, known[rows], normal)[..., at])
            ranked = [(p.argsort(axis=1).argsort(axis=1) + 0.5) / max(p.shape[1], 1) for p in parts]
            places[rows] = np.concatenate(ranked, axis=1)
        return places

    def _end_paths(
        self, state: State, known: np.ndarray, drawn: np.ndarray, marginal: np.ndarray
    ) -> np.ndarray:
        """End paths at random, with the learnt probability after each step.

        Parameters
        ----------
        state : State
        known : array of int, ``(rows,)``
        drawn : array, ``(rows, paths, steps)``
            Scaled paths.
        marginal : array, ``(rows, paths, steps)``
            Quantiles of an item that does not end, in the units of y, increasing along the paths.

        Returns
        -------
        array, float64, ``(rows, paths, steps)``
            In the units of y, NaN after the end of a path. At each step the paths that have not
            ended have quantiles of ``marginal``, in the order of ``drawn``.
        """
        endings, (one,) = self._companions.endings, self.schema.targets
        assert endings is not None  # with ends=True
        rows, paths, reach = drawn.shape
        leaves = state.at_rest()
        last = leaves["pending" if "pending" in leaves.names else "last"][..., 0].mean(axis=1)
        hold = np.clip(known - 1, 0, one.steps - 1)
        seen = last * one.scaling[hold] + one.location[hold]
        x = np.zeros((rows, 0), "float32")
        if "endings/x" in leaves.names:
            x = leaves["endings/x"]
        x = np.repeat(x, paths, axis=0)
        uniform = self._uniform(state.ids, reach, paths, "/ends")
        values, alive = np.full(drawn.shape, np.nan), np.ones((rows, paths), bool)
        for step in range(int(known.min()), reach):  # from 0
            begun = known <= step
            if step:
                before = one.transform.to_line(values[:, :, step - 1])
                before = np.where((known == step)[:, None], seen[:, None], before)
                taken = np.full(rows * paths, step)
                chance = endings.chance(x, taken, before.ravel()).reshape(rows, paths)
                alive &= ~(begun[:, None] & (uniform[:, step] < chance))
            order = np.where(alive, drawn[:, :, step], np.inf).argsort(axis=1).argsort(axis=1)
            place = (order + 0.5) / np.maximum(alive.sum(axis=1), 1)[:, None] * paths - 0.5
            place = np.clip(np.rint(place), 0, paths - 1).astype(int)
            found = np.take_along_axis(marginal[:, :, step], place, axis=1)
            values[:, :, step] = np.where(alive & begun[:, None], found, np.nan)
        return values

    def _warn_undated(self, ids: np.ndarray, origin: np.ndarray | None) -> None:
        """Warn about items without a date: it is unknown which of their steps are closed."""
        undated = np.zeros(0, int) if origin is None else np.flatnonzero(np.isnat(origin))
        if self.schema.calendar and len(undated):
            warn(
                f"{len(undated):,} items have no date (the first is item "
                f"{ids[undated[:1]].tolist()[0]!r}). Their forecasts and totals include steps that "
                f"may be closed ({self.schema.calendar})."
            )


def _steps(
    inputs: tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]], steps: slice
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """The engine's inputs at some steps, none of which is skipped."""
    value, observed, covariates = inputs
    own = {name: each[:, steps] for name, each in covariates.items()}
    return value[:, steps], observed[:, steps], np.ones_like(observed[:, steps]), own


def _joined(parts: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros((0, *shape))


def _aligned(array: np.ndarray, known: np.ndarray, until: int) -> np.ndarray:
    """Move each row of ``(rows, steps, n)``, whose first step follows the row's prefix, to the
    right by the prefix length; the result is ``(rows, until, n)``, NaN on the prefix."""
    out = np.full((len(array), until, array.shape[2]), np.nan, array.dtype)
    row, step = np.nonzero(np.arange(until) >= known[:, None])
    out[row, step] = array[row, step - known[row]]
    return out
