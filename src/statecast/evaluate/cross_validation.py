"""Cross-validation by item or in time: scores of a forecaster and of simple baselines.

By item, the items of each fold are forecast by a forecaster that was fitted on the other folds,
from their first k steps, for each prefix length k. In time, what came after a cutoff is forecast by
a forecaster that was fitted to what was known at the cutoff. The baselines forecast the same items
at the same steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal, Protocol, overload

import numpy as np

from statecast import process
from statecast.checks import check_choice, check_flag, is_whole
from statecast.errors import ArgumentError, DataError, DataWarning
from statecast.evaluate.baselines import Baseline, default_baselines, need_sklearn
from statecast.evaluate.cutoffs import Cutoff, fewest_known, read_cutoffs
from statecast.evaluate.folds import Items, folds_of
from statecast.evaluate.scores import (
    LEVELS,
    Row,
    Scores,
    TargetScores,
    check_levels,
    score_of,
    sums_of,
)
from statecast.evaluate.tokens import TokenScores, token_scores
from statecast.forecast.forecaster import Forecaster
from statecast.forecast.settings import ForecasterSettings
from statecast.interrupt import noted
from statecast.progress import Stage, Verbose, check_verbose, display
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema
from statecast.tokens.forecaster import TokenForecaster

OURS = "statecast"  # the forecaster's name among the methods
By = Literal["item", "launch"]
_FOLDS = 5


class Forecasters(Protocol):
    """What makes the forecaster of each fold: a ``Forecaster``, or an object with these two."""

    @property
    def settings(self) -> ForecasterSettings:
        """The settings of all of them."""
        ...

    def clone(self) -> Forecaster:
        """Return the forecaster that is fitted for the next fold."""
        ...


@overload
def cross_validation(
    forecaster: TokenForecaster,
    series: Any,
    static: Any = None,
    *,
    folds: Any = None,
    known: Sequence[int] = (0, 1, 3, 5),
    test_folds: Sequence[Any] | None = None,
    baselines: bool | None = True,
    seed: int = 0,
    callbacks: Sequence[Any] | None = (),
    progress: Stage | None = None,
    verbose: Verbose = "auto",
) -> TokenScores: ...
@overload
def cross_validation(
    forecaster: Forecasters,
    series: Any,
    static: Any = None,
    *,
    future: Any = None,
    by: By = "item",
    folds: Any = None,
    known: Sequence[int] = (0, 1, 3, 5),
    test_folds: Sequence[Any] | None = None,
    cutoffs: Any = None,
    launch: Any = None,
    h: int | None = None,
    refit: bool = True,
    levels: Sequence[float] = LEVELS,
    baselines: bool | Sequence[Baseline] | None = True,
    seed: int = 0,
    callbacks: Sequence[Any] | None = (),
    progress: Stage | None = None,
    verbose: Verbose = "auto",
) -> Scores | TargetScores: ...
def cross_validation(
    forecaster: Forecasters | TokenForecaster,
    series: Any,
    static: Any = None,
    *,
    future: Any = None,
    by: By = "item",
    folds: Any = None,
    known: Sequence[int] = (0, 1, 3, 5),
    test_folds: Sequence[Any] | None = None,
    cutoffs: Any = None,
    launch: Any = None,
    h: int | None = None,
    refit: bool = True,
    levels: Sequence[float] = LEVELS,
    baselines: bool | Sequence[Baseline] | None = True,
    seed: int = 0,
    callbacks: Sequence[Any] | None = (),
    progress: Stage | None = None,
    verbose: Verbose = "auto",
) -> Scores | TargetScores | TokenScores:
    """Score forecasts of what was held out from training: of items, or of what came later.

    With ``by="item"``, the items of every fold are forecast by a fit on the other folds. With
    ``by="launch"``, the forecaster is fitted at each cutoff to what was known then: the items with
    an observation up to the cutoff, and their steps up to it. It forecasts what came after: from
    the first k steps of the items that had k steps then, which are training items too, and from
    k = 0 of the items without an observation, whose launch counts as planned.

    Errors that can be found in the whole data are raised before the first fit. Ctrl-C raises
    ``KeyboardInterrupt``, because scores of only some of the folds would be misleading. The how-to
    page "Evaluate on your data" defines the measures.

    Parameters
    ----------
    forecaster : Forecaster or TokenForecaster
        Its settings are used: a ``clone()`` of it is fitted for each fold.
    series, static, future : table, path or array
        As in ``Forecaster.fit``. An item without observations is not scored. The baselines do not
        use covariates.
    by : {"item", "launch"}
        Whether items or later times are held out. Tokens have no times.
    folds : int, table, path or array, optional
        By item: the number of random folds (default: 5); or the fold of each item, as a table with
        the id column and a column ``fold``, or for arrays as an array ``(items,)`` of whole numbers
        or text. Use a table if items belong together, such as the years of one river. Rows of other
        items are ignored.
    known : sequence of int
        The prefix lengths k. By item: an item is scored at k if it was observed after step k. By
        launch: the largest k of each group; (0, 1, 3, 5) are the groups k = 0, 1, 2 to 3 and 4 to
        5. The smallest number is a group of its own. Items with a k in no group are not forecast,
        and a group without items has no row.
    test_folds : sequence, optional
        By item: the folds to forecast; by default all.
    cutoffs : int, or sequence of dates or numbers
        By launch: the last times that are known, in the kind and the time zone of the steps; a date
        without a time of day is its midnight. Numbers if steps are numbers. An int n chooses n
        times: the first launch plus ``N (n + j) / (2 n)`` steps, rounded down, for j from 0 to
        n - 1. N is the number of steps from the first launch to the last time at which an item has
        at most ``max(known)`` observed steps and a later observation.
    launch : str, mapping or array, optional
        By launch, if steps are numbers: the time of each item's step 1, a number in the unit of the
        steps; the time of step t is ``launch + t - 1``. The name of a column of ``static`` (which
        stays a static feature), a mapping of ids to numbers, or for arrays an array ``(items,)``.
        If steps are dates, the launch is the date of step 1.
    h : int, optional
        By launch: the number of steps of time after a cutoff that are scored. Default: all.
    refit : bool
        By launch: whether to fit at each cutoff, or at the first only.
    levels : sequence of float
        The levels of the quantiles from which the CRPS is computed, with 0.5 among them.
    baselines : bool or sequence of Baseline, optional
        True for numbers: the last value, the mean curve (also by group, if a categorical static
        feature has 2 to 10 categories), ridge regression, nearest neighbours and boosted trees. The
        last three need scikit-learn, and the trees take most of the time. True for tokens: a
        unigram model, an n-gram model, and an n-gram model with classes of X.
    seed : int
        For random folds and for the bootstrap. Random folds do not depend on the order of the
        items.
    callbacks : sequence of keras.callbacks.Callback
        Passed to each ``fit``.
    progress : callable, optional
        Called as ``progress(text, done, total)`` before each stage and at the end, in place of
        the lines of the stages.
    verbose : "auto", 0, 1 or 2
        0 shows nothing. 1 shows a line before each stage, which goes where the lines of
        ``Forecaster.fit`` go. 2 also shows the lines of each fit. "auto" shows bars with the time
        left if standard error is a terminal, and otherwise is 1.

    Returns
    -------
    Scores, TargetScores or TokenScores
        ``TargetScores`` for several targets; their baselines forecast each target on its own.
        ``evaluate.tokens.TokenScores`` for tokens.

    Raises
    ------
    DataError
        Tables that cannot be used, as a whole or up to a cutoff; an item without a fold or a
        launch, or all items in one fold.
    ArgumentError
        An argument outside its range, or one that ``by`` does not use; a k or a cutoff after which
        no item was observed; steps without times.
    MissingExtraError
        Keras and a backend, or scikit-learn for a baseline, are not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Forecaster, cross_validation
    >>> from statecast.evaluate import LastValue
    >>> rng = np.random.default_rng(0)
    >>> Y = rng.normal(size=(24, 6)).cumsum(axis=1)
    >>> f = Forecaster(units=4, ensemble=2, epochs=1)
    >>> scores = cross_validation(
    ...     f, Y, folds=2, known=[2], test_folds=[0], baselines=[LastValue()], verbose=0
    ... )
    >>> scores.known
    (2,)
    """
    process.check_backend()
    check_verbose(verbose)
    _check_by(by, refit, folds=folds, test_folds=test_folds, cutoffs=cutoffs, launch=launch, h=h)
    if by == "launch" and isinstance(forecaster, TokenForecaster):
        raise ArgumentError(
            "by: expected 'item' for tokens, whose steps are places in a sequence and not times; "
            "received 'launch'."
        )
    levels, callbacks = check_levels(levels), callbacks or ()
    baselines = False if baselines is None else baselines
    known = checked_known(known)
    items = Items.read(forecaster.settings, series, static, future)
    own: Verbose = verbose if progress is None or verbose == 2 else 0
    with display(own) as shown:
        stage = progress or shown.stage
        if by == "launch":
            assert not isinstance(forecaster, TokenForecaster)  # refused above
            return _in_time(
                forecaster,
                items,
                read_cutoffs(items, cutoffs, launch, static, known, h),
                known,
                levels,
                _checked_baselines(baselines, items.schema),
                refit=refit,
                seed=seed,
                callbacks=callbacks,
                progress=stage,
            )
        fold = folds_of(items, _FOLDS if folds is None else folds, seed)
        tested = _checked_test_folds(test_folds, fold)
        scored = np.isin(fold, np.array(tested, fold.dtype)) & (items.last > 0)
        _check_shorter(known, items.last[scored])
        if isinstance(forecaster, TokenForecaster):
            if not isinstance(baselines, bool):
                raise ArgumentError(
                    "baselines: expected True or False for tokens, whose baselines are n-grams; "
                    f"received {baselines!r}."
                )
            parts = (
                (name, items.take(fold != name), items.take((fold == name) & scored))
                for name in tested
            )
            return token_scores(
                forecaster,
                parts,
                len(tested),
                known,
                baselines=baselines,
                seed=seed,
                callbacks=callbacks,
                progress=stage,
            )
        methods = _checked_baselines(baselines, items.schema)
        totals = _Totals(items, known, levels, "item")
        stages, done = len(tested) * (1 + len(known)), 0
        for number, name in enumerate(tested, 1):
            where = f"fold {name} ({number} of {len(tested)})"
            stage(f"{where}: fit", done, stages)
            train, forecast = items.take(fold != name), (fold == name) & scored
            fitted = _fitted(forecaster, train, callbacks)
            learnt = _learn(methods, fitted.schema, train)
            test = fitted.schema.panel(**items.take(forecast))
            done += 1
            for k in known:
                stage(f"{where}: forecast from k = {k}", done, stages)
                longer = test.known // test.targets > k
                part = test.take(longer)
                until = int(part.known.max(initial=0))
                if until:
                    y = _observed(part, fitted.schema)[:, :until]
                    cut = part.prefix(k * test.targets)
                    totals.add(k, k, fitted, learnt, cut, y, np.flatnonzero(forecast)[longer])
                done += 1
        stage("done", done, stages)
        return _of_targets(totals.scores(methods, len(tested), seed))


def _in_time(
    forecaster: Forecasters,
    items: Items,
    cutoffs: Sequence[Cutoff],
    known: tuple[int, ...],
    levels: tuple[float, ...],
    methods: Sequence[Baseline],
    *,
    refit: bool,
    seed: int,
    callbacks: Sequence[Any],
    progress: Stage,
) -> Scores | TargetScores:
    """Forecast what came after each cutoff; the parameters are those of ``cross_validation``."""
    fits = cutoffs if refit else cutoffs[:1]
    _check_tables(items, forecaster.settings, cutoffs, len(fits))
    y, count = _observed(items.panel, items.schema), items.panel.targets
    every, each = _Totals(items, known, levels, "launch"), {}
    stages, done = len(cutoffs) + len(fits), 0
    fitted, learnt, trained = None, {}, 0
    for number, cutoff in enumerate(cutoffs, 1):
        where = f"cutoff {cutoff.text} ({number} of {len(cutoffs)})"
        if number <= len(fits):
            progress(f"{where}: fit", done, stages)
            train = _training(items, cutoff)
            fitted = _fitted(forecaster, train, callbacks)
            learnt = _learn(methods, fitted.schema, train)
            trained = int(cutoff.trained.sum())
            done += 1
        assert fitted is not None  # at the first cutoff
        progress(f"{where}: forecast", done, stages)
        begun = _begun(items, cutoff, fitted.schema)
        totals, rows = _Totals(items, known, levels, "launch"), np.flatnonzero(cutoff.forecast)
        for k in np.unique(cutoff.known[rows]).tolist():
            own = cutoff.known[rows] == k
            last = cutoff.last[rows[own]] * count
            until = int(last.max())
            late = np.arange(until) >= last[:, None]
            truth = np.where(late, np.nan, y[rows[own], :until])
            group = int(cutoff.group[rows[own]][0])
            totals.add(group, k, fitted, learnt, begun.take(own), truth, rows[own])
        every.include(totals)
        each[cutoff.time] = totals.scores(methods, 1, seed, refit=refit, trained=trained)
        done += 1
    progress("done", done, stages)
    found = every.scores(methods, len(cutoffs), seed, refit=refit)
    return _of_targets(
        {
            target: replace(scores, cutoffs={time: own[target] for time, own in each.items()})
            for target, scores in found.items()
        }
    )


def _training(items: Items, cutoff: Cutoff) -> dict[str, Any]:
    """Return the tables to fit to at a cutoff."""
    return items.take_up_to(cutoff.trained, cutoff.step, plans=False)


def _begun(items: Items, cutoff: Cutoff, schema: Schema) -> Panel:
    """Return the panel of the items to forecast, with their prefixes at a cutoff."""
    tables = items.take_up_to(cutoff.forecast, cutoff.step, plans=True)
    last = cutoff.last[cutoff.forecast]
    return schema.panel(**tables, until=lambda ids, known: last)


def _check_tables(
    items: Items, settings: ForecasterSettings, cutoffs: Sequence[Cutoff], fits: int
) -> None:
    """Raise ``DataError`` if the tables of a cutoff cannot be used, before any fit."""
    whole, schema = items.schema.spacing, None
    for number, cutoff in enumerate(cutoffs):
        try:
            with warnings.catch_warnings():  # the fit warns about its data
                warnings.simplefilter("ignore", DataWarning)
                if number < fits:
                    train = _training(items, cutoff)
                    schema = Schema.fit(**train, transform="none", **settings.columns)
                    schema.panel(**train, for_fit=True)
                assert schema is not None  # of the first cutoff
                _begun(items, cutoff, schema)
        except DataError as error:
            raise DataError(
                f"At the cutoff {cutoff.text}: {error}", column=error.column, item=error.item
            ) from error
        own = schema.spacing
        if own and whole and (own.unit, own.count) != (whole.unit, whole.count):
            raise DataError(
                f"At the cutoff {cutoff.text}: expected dates one every {whole.short}, as in the "
                f"whole series; up to this cutoff there is one every {own.short}. Choose a later "
                "cutoff.",
                column=schema.step_col,
            )


def _observed(panel: Panel, schema: Schema) -> np.ndarray:
    """Return y in original units, ``(rows, positions)``, float64, NaN where nothing was observed.

    A panel has float32, so y differs from the input by a relative error of about 1e-7.
    """
    return schema.unscale(np.where(panel.mask, panel.y.astype(np.float64), np.nan))


def _fitted(forecaster: Forecasters, train: dict[str, Any], callbacks: Sequence[Any]) -> Forecaster:
    """Return a clone of the forecaster that is fitted to these tables. Ctrl-C is an error.

    Its progress is shown by the display of the cross-validation."""
    fitted = forecaster.clone()
    with noted() as interrupt:
        fitted.fit(**train, callbacks=callbacks)
        interrupt.check()
    return fitted


class _Totals:
    """Sums of values, from which the scores are computed, by target, method, group of k and group
    of items.

    ``known`` has the largest k of each group, and ``fewest`` the smallest one; by item, a group is
    a single k.
    """

    def __init__(
        self, items: Items, known: Sequence[int], levels: tuple[float, ...], by: By
    ) -> None:
        self.schema, self.known, self.levels = items.schema, known, levels
        self.by: By = by
        self.fewest = fewest_known(known) if by == "launch" else {k: k for k in known}
        self.group = np.unique(items.panel.groups, return_inverse=True)[1].ravel()
        self.scored = {k: np.zeros(len(items.ids), bool) for k in known}
        self.sums: dict[str, dict[tuple[str, int], np.ndarray]] = {
            target: {} for target in self.schema.target_cols
        }

    def add(
        self,
        group: int,
        k: int,
        fitted: Any,
        learnt: dict[str, list[Baseline]],
        begun: Panel,
        y: np.ndarray,
        rows: np.ndarray,
    ) -> None:
        """Forecast items from their first ``k`` steps, and add the sums of each method.

        Parameters
        ----------
        group : int
            The largest k of the group.
        k : int
        fitted : Forecaster
        learnt : dict of str to list of Baseline
            The fitted baselines by target.
        begun : Panel
            The items with their first k steps.
        y : array, float64, ``(rows, positions)``
            Their observations up to the last position that is scored.
        rows : array of int
            The indices of these items among all items.
        """
        self.scored[group][rows] = True
        found, count = fitted.quantiles(begun, y.shape[1], self.levels), len(learnt)
        until, groups = y.shape[1] // count, self.group[rows]
        for place, (target, methods) in enumerate(learnt.items()):
            positions = slice(place, None, count)
            forecasts = {OURS: found[:, positions]}
            for method in methods:
                if self.fewest[group] >= method.needs:  # so that all methods have the same items
                    alone = _only(begun, place)
                    forecasts[method.name] = method.quantiles(alone, k, until, self.levels)
            truth = y[:, positions][:, k:]
            for name, quantiles in forecasts.items():
                each = sums_of(truth, np.asarray(quantiles, np.float64)[:, k:], self.levels)
                np.add.at(self._cell(target, name, group, each.shape[1]), groups, each)

    def include(self, other: _Totals) -> None:
        """Add the sums of another object for the same items."""
        for k, scored in other.scored.items():
            self.scored[k] |= scored
        for target, sums in other.sums.items():
            for (name, k), each in sums.items():
                self._cell(target, name, k, each.shape[1])[...] += each

    def _cell(self, target: str, name: str, group: int, size: int) -> np.ndarray:
        """The sums of a method and a group of k, ``(groups of items, size)``."""
        nothing = np.zeros((self.group.max() + 1, size))
        return self.sums[target].setdefault((name, group), nothing)

    def scores(
        self,
        methods: Sequence[Baseline],
        folds: int,
        seed: int,
        *,
        refit: bool = True,
        trained: int | None = None,
    ) -> dict[str, Scores]:
        """Return the scores of the forecaster and the baselines by target; ``folds``, ``refit`` and
        ``trained`` are those of ``Scores``."""
        names = (OURS, *(method.name for method in methods))
        points = {method.name for method in methods if method.point}
        covariates = bool(self.schema.future.kinds or self.schema.past.kinds)
        groups = {k: np.unique(self.group[scored]) for k, scored in self.scored.items()}
        found = {}
        for target, sums in self.sums.items():
            rows = []
            for name, k in ((name, k) for k in self.known for name in names if (name, k) in sums):
                score = score_of(sums[name, k].sum(axis=0))
                if name in points:
                    score = replace(score, coverage=None, width=None)
                items, fewest = int(self.scored[k].sum()), self.fewest[k]
                row = Row(**asdict(score), method=name, known=k, items=items, fewest=fewest)
                rows.append(row)
            drawn = {(name, k): each[groups[k]] for (name, k), each in sums.items()}
            found[target] = Scores(
                tuple(rows),
                OURS,
                folds,
                drawn,
                seed,
                covariates,
                by=self.by,
                refit=refit,
                trained=trained,
            )
        return found


def _of_targets(found: dict[str, Scores]) -> Scores | TargetScores:
    """Return the scores of one target, or of several."""
    return TargetScores(found) if len(found) > 1 else next(iter(found.values()))


def _learn(
    methods: Sequence[Baseline], schema: Schema, train: dict[str, Any]
) -> dict[str, list[Baseline]]:
    """Return the baselines of each target, fitted to the training tables."""
    if not methods:
        return {target: [] for target in schema.target_cols}
    with warnings.catch_warnings():  # the fit of the forecaster warned about the same tables
        warnings.simplefilter("ignore", DataWarning)
        panel = schema.panel(**train, for_fit=True)
    return {
        target: [method.fit(_only(panel, place), schema.of(target)) for method in methods]
        for place, target in enumerate(schema.target_cols)
    }


def _only(panel: Panel, place: int) -> Panel:
    """The panel of one target, by its index."""
    return panel if panel.targets == 1 else panel.of(place)


def _checked_baselines(baselines: bool | Sequence[Baseline], schema: Schema) -> list[Baseline]:
    """Return the list of baselines.

    Raises
    ------
    ArgumentError
        Two baselines of the same name.
    MissingExtraError
        A baseline needs scikit-learn, which is not installed.
    """
    if baselines is True:
        baselines = default_baselines(schema.of(schema.target_cols[0]))
    methods, names = [] if baselines is False else list(baselines), {OURS}
    for method in methods:
        if method.name in names:
            raise ArgumentError(
                f"baselines: expected distinct names; received {method.name!r} twice."
            )
        names.add(method.name)
        if method.needs_sklearn:
            need_sklearn(method.name)
    return methods


def _check_by(by: By, refit: bool, **given: Any) -> None:
    """Raise ``ArgumentError`` for an argument that ``by`` does not use, or that it needs."""
    check_choice("by", by, ("item", "launch"))
    check_flag("refit", refit)
    other = "launch" if by == "item" else "item"
    unused = ("cutoffs", "launch", "h") if by == "item" else ("folds", "test_folds")
    for name in unused:
        if given[name] is not None:
            raise ArgumentError(
                f"{name}: expected None with by={by!r}; received {given[name]!r}. Leave it out, or "
                f"pass by={other!r}."
            )
    if by == "item" and not refit:
        raise ArgumentError(
            "refit: expected True with by='item', as each fold has another fit; received False. "
            "Leave it out, or pass by='launch'."
        )
    if by == "launch" and given["cutoffs"] is None:
        raise ArgumentError(
            "cutoffs: expected times (dates, or numbers if steps are numbers), or a number of "
            "cutoffs, with by='launch'; received None. For example cutoffs=3."
        )


def checked_known(known: Any) -> tuple[int, ...]:
    """Return the distinct prefix lengths, in increasing order.

    Raises
    ------
    ArgumentError
        None, or one that is not a whole number from 0.
    """
    several = isinstance(known, (Sequence, np.ndarray)) and not isinstance(known, (str, bytes))
    values: list[Any] = list(known) if several else [known]
    if not values or not all(is_whole(k, 0) for k in values):
        raise ArgumentError(f"known: expected prefix lengths, 0 or more; received {known!r}.")
    return tuple(sorted({int(k) for k in values}))


def _check_shorter(known: tuple[int, ...], last: np.ndarray) -> None:
    """Raise ``ArgumentError`` unless an item is observed after the longest prefix."""
    longest = last.max(initial=0)
    if known[-1] >= longest:
        raise ArgumentError(
            f"known: expected prefixes shorter than the longest item to forecast, which is "
            f"observed up to step {longest}; received {known[-1]}."
        )


def _checked_test_folds(test_folds: Sequence[Any] | None, fold: np.ndarray) -> list[Any]:
    """Return the folds to forecast; each must have an item."""
    names = sorted(set(fold.tolist()), key=lambda name: (isinstance(name, str), name))
    if test_folds is None:
        return names
    wanted = [test_folds] if isinstance(test_folds, (str, int)) else list(test_folds)
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        received = repr(unknown[0]) if unknown else "none"
        raise ArgumentError(f"test_folds: expected some of {names}; received {received}.")
    return list(dict.fromkeys(wanted))
