"""Cross-validation by item: scores of a forecaster and of simple baselines.

The items of each fold are forecast by a forecaster that was fitted on the other folds, from their
first k steps, for each prefix length k. The baselines forecast the same items at the same steps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol, overload

import numpy as np

from statecast import process
from statecast.checks import is_whole
from statecast.errors import ArgumentError, DataWarning
from statecast.evaluate.baselines import Baseline, default_baselines, need_sklearn
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
from statecast.progress import Verbose, check_verbose, say, stage_lines
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema
from statecast.tokens.forecaster import TokenForecaster

OURS = "statecast"  # the forecaster's name among the methods


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
    folds: Any = 5,
    known: Sequence[int] = (0, 1, 3, 5),
    test_folds: Sequence[Any] | None = None,
    baselines: bool | None = True,
    seed: int = 0,
    callbacks: Sequence[Any] | None = (),
    progress: Callable[[str, int, int], None] | None = None,
    verbose: Verbose = "auto",
) -> TokenScores: ...
@overload
def cross_validation(
    forecaster: Forecasters,
    series: Any,
    static: Any = None,
    *,
    future: Any = None,
    folds: Any = 5,
    known: Sequence[int] = (0, 1, 3, 5),
    test_folds: Sequence[Any] | None = None,
    levels: Sequence[float] = LEVELS,
    baselines: bool | Sequence[Baseline] | None = True,
    seed: int = 0,
    callbacks: Sequence[Any] | None = (),
    progress: Callable[[str, int, int], None] | None = None,
    verbose: Verbose = "auto",
) -> Scores | TargetScores: ...
def cross_validation(
    forecaster: Forecasters | TokenForecaster,
    series: Any,
    static: Any = None,
    *,
    future: Any = None,
    folds: Any = 5,
    known: Sequence[int] = (0, 1, 3, 5),
    test_folds: Sequence[Any] | None = None,
    levels: Sequence[float] = LEVELS,
    baselines: bool | Sequence[Baseline] | None = True,
    seed: int = 0,
    callbacks: Sequence[Any] | None = (),
    progress: Callable[[str, int, int], None] | None = None,
    verbose: Verbose = "auto",
) -> Scores | TargetScores | TokenScores:
    """Forecast the items of every fold by a fit on the other folds, and score the forecasts.

    Parameters
    ----------
    forecaster : Forecaster or TokenForecaster
        Its settings are used: a ``clone()`` of it is fitted for each fold.
    series, static, future : table, path or array
        As in ``Forecaster.fit``. An item without observations is not scored. The baselines do not
        use covariates.
    folds : int, table, path or array
        The number of random folds; or the fold of each item, as a table with the id column and a
        column ``fold``, or for arrays as an array ``(items,)`` of whole numbers or text. Use a
        table if items belong together, such as the years of one river. Rows of other items are
        ignored.
    known : sequence of int
        The prefix lengths k. An item is scored at k if it was observed after step k.
    test_folds : sequence, optional
        The folds to forecast; by default all.
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
        0 shows nothing. "auto" and 1 show a line before each stage, which goes where the lines of
        ``Forecaster.fit`` go. 2 also shows the lines of each fit.

    Returns
    -------
    Scores, TargetScores or TokenScores
        ``TargetScores`` for several targets; their baselines forecast each target on its own.
        ``evaluate.tokens.TokenScores`` for tokens.

    Raises
    ------
    DataError
        Tables that cannot be used; an item without a fold, or all items in one fold.
    ArgumentError
        An argument outside its range; a k after which no item was observed.
    MissingExtraError
        Keras and a backend, or scikit-learn for a baseline, are not installed.

    Errors that can be found in the whole data are raised before the first fit. Ctrl-C raises
    ``KeyboardInterrupt``, because scores of only some of the folds would be misleading.
    """
    process.check_backend()
    check_verbose(verbose)
    levels, callbacks = check_levels(levels), callbacks or ()
    baselines = False if baselines is None else baselines
    known = _checked_known(known)
    items = Items.read(forecaster.settings, series, static, future)
    fold = folds_of(items, folds, seed)
    tested = _checked_test_folds(test_folds, fold)
    scored = np.isin(fold, np.array(tested, fold.dtype)) & (items.last > 0)
    _check_shorter(known, items.last[scored])
    stage = progress or stage_lines(say if verbose != 0 else lambda line: None)
    of_fits: Verbose = 2 if verbose == 2 else 0
    if isinstance(forecaster, TokenForecaster):
        if not isinstance(baselines, bool):
            raise ArgumentError(
                "baselines: expected True or False for tokens, whose baselines are n-grams; "
                f"received {baselines!r}."
            )
        parts = (
            (name, items.take(fold != name), items.take((fold == name) & scored)) for name in tested
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
            verbose=of_fits,
        )
    methods = _checked_baselines(baselines, items.schema)
    totals = _Totals(items, known, levels)
    stages, done = len(tested) * (1 + len(known)), 0
    for number, name in enumerate(tested, 1):
        where = f"fold {name} ({number} of {len(tested)})"
        stage(f"{where}: fit", done, stages)
        train, forecast = items.take(fold != name), (fold == name) & scored
        fitted = _fitted(forecaster, train, callbacks, of_fits)
        learnt = _learn(methods, fitted.schema, train)
        test = fitted.schema.panel(**items.take(forecast))
        done += 1
        for k in known:
            stage(f"{where}: forecast from k = {k}", done, stages)
            totals.add(k, fitted, learnt, test, np.flatnonzero(forecast))
            done += 1
    stage("done", done, stages)
    return totals.scores(methods, scored, len(tested), seed)


def _fitted(
    forecaster: Forecasters, train: dict[str, Any], callbacks: Sequence[Any], verbose: Verbose
) -> Forecaster:
    """Return a clone of the forecaster that is fitted to these tables. Ctrl-C is an error."""
    fitted = forecaster.clone()
    with noted() as interrupt:
        fitted.fit(**train, callbacks=callbacks, verbose=verbose)
        interrupt.check()
    return fitted


class _Totals:
    """Sums of values, from which the scores are computed, by target, method, k and group."""

    def __init__(self, items: Items, known: Sequence[int], levels: tuple[float, ...]) -> None:
        self.schema, self.known, self.levels = items.schema, known, levels
        self.group = np.unique(items.groups, return_inverse=True)[1].ravel()
        self.items = dict.fromkeys(known, 0)
        self.sums: dict[str, dict[tuple[str, int], np.ndarray]] = {
            target: {} for target in self.schema.target_cols
        }

    def add(
        self,
        k: int,
        fitted: Any,
        learnt: dict[str, list[Baseline]],
        test: Panel,
        rows: np.ndarray,
    ) -> None:
        """Forecast the test items from their first ``k`` steps, and add the sums of each method.

        Items that were not observed after step k are left out.

        Parameters
        ----------
        k : int
        fitted : Forecaster
        learnt : dict of str to list of Baseline
            The fitted baselines by target.
        test : Panel
        rows : array of int
            The indices of the test items among all items.
        """
        schema, count = fitted.schema, len(learnt)
        longer = np.flatnonzero(test.known // count > k)
        part, groups = test.take(longer), self.group[rows[longer]]
        until = int(part.known.max(initial=0))
        if not until:
            return
        self.items[k] += part.rows
        # A panel has float32, so y differs from the input by a relative error of about 1e-7.
        y = schema.unscale(np.where(part.mask, part.y.astype(np.float64), np.nan))
        cut = part.prefix(k * count)
        found = fitted.quantiles(cut, until, self.levels)
        until //= count
        for place, (target, methods) in enumerate(learnt.items()):
            positions = slice(place, None, count)
            forecasts = {OURS: found[:, positions]}
            for method in methods:
                if k >= method.needs:
                    alone = _only(cut, place)
                    forecasts[method.name] = method.quantiles(alone, k, until, self.levels)
            truth = y[:, positions][:, k:until]
            for name, quantiles in forecasts.items():
                each = sums_of(truth, np.asarray(quantiles, np.float64)[:, k:], self.levels)
                nothing = np.zeros((self.group.max() + 1, each.shape[1]))
                np.add.at(self.sums[target].setdefault((name, k), nothing), groups, each)

    def scores(
        self, methods: Sequence[Baseline], scored: np.ndarray, folds: int, seed: int
    ) -> Scores | TargetScores:
        """Return the scores of the forecaster and the baselines.

        ``scored``, bool ``(items,)``, are the items of the folds that were forecast.
        """
        names = (OURS, *(method.name for method in methods))
        points = {method.name for method in methods if method.point}
        covariates = bool(self.schema.future.kinds or self.schema.past.kinds)
        groups = np.unique(self.group[scored])
        found = {}
        for target, sums in self.sums.items():
            rows = []
            for name, k in ((name, k) for k in self.known for name in names if (name, k) in sums):
                score = score_of(sums[name, k].sum(axis=0))
                if name in points:
                    score = replace(score, coverage=None, width=None)
                rows.append(Row(**asdict(score), method=name, known=k, items=self.items[k]))
            drawn = {cell: each[groups] for cell, each in sums.items()}
            found[target] = Scores(tuple(rows), OURS, folds, drawn, seed, covariates)
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


def _checked_known(known: Any) -> tuple[int, ...]:
    """Return the distinct prefix lengths, in increasing order."""
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
