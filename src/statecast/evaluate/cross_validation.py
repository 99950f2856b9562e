"""Cross-validation by item: scores at every prefix length, beside simple baselines.

Every fold's items are forecast by a forecaster that was fitted on the other folds, from
their first k observations, for each k asked for. The same items at the same steps are
forecast by baselines; whoever claims accuracy has those to beat.

The measures pool all values of all folds. With y the truth, m the median forecast and
q_l the forecast quantile at level l:

- WAPE: ``sum |y - m| / sum |y|``;
- CRPS: the mean over the levels of ``2 * sum max(l (y - q_l), (l - 1) (y - q_l)) / sum |y|``,
  the mean weighted quantile loss; of a point forecast it is the WAPE;
- coverage: the share of values within the 80 % interval, its ends included;
- width: of that interval, ``sum (q_0.9 - q_0.1) / sum |y|``.

Other items would have given other scores. How far off, the bootstrap says: items are drawn again
with replacement, all methods scored on the same draw, and the middle 95 % of so many scores, or
of the skills, are the interval. Items with the very same statics (a basin's years) are drawn
together, as they are held out together in training (``Panel.groups``). The fits are taken as they
are: what another training set or seed would have changed is not in it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from statecast.errors import ArgumentError, DataError, DataWarning, MissingExtraError, quoted
from statecast.evaluate.tokens import token_scores
from statecast.interrupt import noted
from statecast.progress import Verbose, check_verbose, say, stage_lines

# How a table is opened and its ids are read stays in one place.
from statecast.tables.parse import (
    ROLES,
    Table,
    agree,
    check_columns,
    open_table,
    read_column,
    read_floats,
    read_ids,
    token_cells,
)
from statecast.tables.schema import Panel, Schema
from statecast.tables.targets import Targets, learn

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Baseline",
    "LastValue",
    "MeanCurve",
    "Neighbours",
    "Ridge",
    "Row",
    "Score",
    "Scores",
    "TargetScores",
    "Trees",
    "cross_validation",
    "score",
]

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_ENOUGH = 10  # training items at a step for a regression there
_FEW = 10  # categories, for a curve of their own to make sense
_ALPHAS = np.logspace(-3, 4, 15)
_DRAWS = 2000  # of the bootstrap: the ends of its 95 % are then steady to a few per cent
_MIDDLE = (0.025, 0.975)


# -- the measures ----------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """How good forecasts were; the measures are defined at the top of this module.

    Attributes
    ----------
    wape, crps : float
        Smaller is better. NaN where all truth is 0 or a forecast is NaN.
    coverage, width : float or None
        Of the 80 % interval; None for a point forecast, or without the levels 0.1 and 0.9.
    values : int
        How many values were scored.
    """

    wape: float
    crps: float
    coverage: float | None
    width: float | None
    values: int


def score(y: Any, quantiles: Any, levels: Sequence[float] = LEVELS) -> Score:
    """Score quantile forecasts against the truth.

    Parameters
    ----------
    y : array, shape (...)
        The truth, NaN where there is none; those values are not scored.
    quantiles : array, shape (..., levels)
        The forecasts, in the units of y.
    levels : sequence of float
        Increasing, between 0 and 1; 0.5 is among them.

    Returns
    -------
    Score

    Raises
    ------
    ArgumentError
        Levels as above they are not, or shapes that do not fit.

    Examples
    --------
    >>> score([10.0, 20.0], [[9.0, 11.0, 12.0], [18.0, 20.0, 24.0]], (0.1, 0.5, 0.9)).coverage
    1.0
    """
    levels = _checked_levels(levels)
    y = np.asarray(y, np.float64)
    quantiles = np.asarray(quantiles, np.float64)
    if quantiles.shape != (*y.shape, len(levels)):
        raise ArgumentError(
            f"quantiles: expected shape {(*y.shape, len(levels))}, that of y and a last axis "
            f"for the levels; received {quantiles.shape}."
        )
    return _score(_sums(y.ravel()[None], quantiles.reshape(1, -1, len(levels)), levels)[0])


_SIZE, _ERROR, _LOSS = 0, 1, 2  # of the sums, those that WAPE and CRPS are made of


def _sums(y: np.ndarray, quantiles: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Return the sums of each row that scores are made of, ``(rows, 6)``; those of rows add up.

    They are: |y|, |error|, CRPS, values within the 80 % interval, its width, values.
    """
    known = ~np.isnan(y)
    level = np.array(levels)
    error = y[..., None] - quantiles
    loss = 2 * np.maximum(level * error, (level - 1) * error).mean(axis=-1)
    inside = width = np.full(y.shape, np.nan)
    if 0.1 in levels and 0.9 in levels:
        low, high = (quantiles[..., levels.index(each)] for each in (0.1, 0.9))
        inside, width = (low <= y) & (y <= high), high - low
    middle = error[..., levels.index(0.5)]
    sums = (np.abs(y), np.abs(middle), loss, inside, width, known)
    return np.stack([np.sum(each, axis=1, where=known, dtype=np.float64) for each in sums], axis=1)


def _score(totals: np.ndarray) -> Score:
    size, error, loss, inside, width, values = totals.tolist()
    coverage = inside / values if values else np.nan
    wape, crps, width = (each / size if size else np.nan for each in (error, loss, width))
    interval = not np.isnan(totals[3])
    return Score(
        wape,
        crps,
        coverage if interval else None,
        width if interval else None,
        int(values),
    )


def _checked_levels(levels: Sequence[float]) -> tuple[float, ...]:
    # 0.1 * 3 is not 0.3; rounding finds 0.1, 0.5 and 0.9 however they were computed
    try:
        checked = tuple(round(float(level), 9) for level in levels)
    except (TypeError, ValueError):
        checked = ()
    rising = all(low < high for low, high in zip((0.0, *checked), (*checked, 1.0), strict=True))
    if not rising or 0.5 not in checked:
        raise ArgumentError(
            "levels: expected increasing numbers between 0 and 1, with 0.5 among them; "
            f"received {levels!r}."
        )
    return checked


# -- the scores ------------------------------------------------------------------------


@dataclass(frozen=True)
class Row(Score):
    """The score of one method at one prefix length.

    Attributes
    ----------
    method : str
    known : int
        The prefix length k.
    items : int
        How many items were scored: those observed after step k.
    """

    method: str
    known: int
    items: int


@dataclass(frozen=True)
class Scores:
    """What ``cross_validation`` found. ``print`` it, index it, or take its ``table()``.

    Attributes
    ----------
    rows : tuple of Row
        A row a method and prefix length, by prefix length; the forecaster comes first.
        Last value has none at k = 0.
    forecaster : str
        The forecaster's name among the methods.
    folds : int
        How many folds were forecast.
    sums : mapping of (method, k) to array, float64, ``(groups, 6)``
        What the bootstrap draws from: the sums that each group of items adds to a score.
        Without them no interval is known.
    seed : int
        Of the bootstrap.
    covariates : bool
        Whether the forecaster had covariates, which no baseline knows.

    Examples
    --------
    >>> ours = Row(0.02, 0.015, 0.79, 0.05, 900, "statecast", 3, 30)
    >>> ridge = Row(0.025, 0.02, 0.77, 0.06, 900, "ridge", 3, 30)
    >>> scores = Scores((ours, ridge), "statecast", 1)
    >>> scores["ridge", 3].wape
    0.025
    >>> round(scores.skill(3), 3), scores.best(3).method
    (0.2, 'ridge')
    """

    rows: tuple[Row, ...]
    forecaster: str
    folds: int
    sums: Mapping[tuple[str, int], np.ndarray] = field(default_factory=dict, repr=False)
    seed: int = 0
    covariates: bool = False

    @cached_property
    def _cells(self) -> dict[tuple[str, int], Row]:
        return {(row.method, row.known): row for row in self.rows}

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, the forecaster first."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    @property
    def known(self) -> tuple[int, ...]:
        """The prefix lengths."""
        return tuple(dict.fromkeys(row.known for row in self.rows))

    def __getitem__(self, cell: tuple[str, int]) -> Row:
        """Return the row of ``scores[method, k]``."""
        if cell not in self._cells:
            raise KeyError(f"{cell}: expected a method of {self.methods} and a k of {self.known}")
        return self._cells[cell]

    def best(self, known: int, measure: str = "wape") -> Row | None:
        """Return the best baseline at a prefix length; None where there is no baseline.

        Parameters
        ----------
        known : int
        measure : {"wape", "crps"}
        """
        if measure not in ("wape", "crps"):
            raise ArgumentError(f"measure: expected 'wape' or 'crps'; received {measure!r}.")
        others = [r for r in self.rows if r.known == known and r.method != self.forecaster]
        others = [row for row in others if not np.isnan(getattr(row, measure))]
        return min(others, key=lambda row: getattr(row, measure), default=None)

    def skill(
        self, known: int, measure: str = "wape", *, against: str | None = None
    ) -> float | None:
        """Return ``1 - ours / theirs``: above 0 where the forecaster is better.

        Parameters
        ----------
        known : int
        measure : {"wape", "crps"}
        against : str, optional
            A baseline; default the best one at this k, so that above 0 is better than all.

        Returns
        -------
        float or None
            None where there is no baseline; minus infinity if it makes no error and the
            forecaster does.
        """
        pair = self._pair(known, measure, against)
        return None if pair is None else _skill(*(getattr(row, measure) for row in pair))

    def interval(
        self, method: str, known: int, measure: str = "wape"
    ) -> tuple[float, float] | None:
        """Return the 95 % interval of a score over items; None with a single group of them."""
        self[method, known]
        drawn = self._drawn(method, known, measure)
        return None if drawn is None else _middle(drawn)

    def skill_interval(
        self, known: int, measure: str = "wape", *, against: str | None = None
    ) -> tuple[float, float] | None:
        """Return the 95 % interval of ``skill`` over items, both scored on the same draws.

        The best baseline is that of all items, in every draw. None as for ``interval``, and
        where there is no baseline.
        """
        pair = self._pair(known, measure, against)
        if pair is None:
            return None
        ours, theirs = (self._drawn(row.method, known, measure) for row in pair)
        return None if ours is None or theirs is None else _middle(_skill(ours, theirs))

    def useful(self, measure: str = "crps", *, against: str = "mean curve") -> int | None:
        """Return how many observations it takes until the forecast is useful.

        It is useful from the first k on from which, at every k scored, it is better than the
        mean curve beyond chance: the whole interval of its skill lies above 0.

        Parameters
        ----------
        measure : {"wape", "crps"}
        against : str
            Another baseline to measure by.

        Returns
        -------
        int or None
            One of ``known``; None if the forecast is useful at none.
        """
        found = None
        for k in reversed(self.known):
            interval = self.skill_interval(k, measure, against=against)
            if interval is None or not interval[0] > 0:
                break
            found = k
        return found

    def table(self) -> pl.DataFrame:
        """Return the rows as a polars table, with the forecaster's skill in its own rows.

        The ends of the 95 % intervals are in columns ``..._lo`` and ``..._hi``.
        """
        import polars as pl

        names = ["method", "known", "wape", "crps", "coverage", "width", "items", "values"]
        columns: dict[str, list[Any]] = {n: [getattr(r, n) for r in self.rows] for n in names}
        floats = ["wape", "crps", "coverage", "width"]

        def add(name: str, values: list[float | None], ends: list[Any]) -> None:
            columns.setdefault(name, values)
            for place, end in enumerate(("lo", "hi")):
                columns[f"{name}_{end}"] = [None if each is None else each[place] for each in ends]
            floats.extend([name, f"{name}_lo", f"{name}_hi"])

        for measure in ("wape", "crps"):
            ends = [self.interval(row.method, row.known, measure) for row in self.rows]
            add(measure, [], ends)
        for measure in ("wape", "crps"):
            own = [row.known if row.method == self.forecaster else None for row in self.rows]
            values = [None if k is None else self.skill(k, measure) for k in own]
            ends = [None if k is None else self.skill_interval(k, measure) for k in own]
            add(f"skill_{measure}", values, ends)
        return pl.DataFrame(columns, schema_overrides=dict.fromkeys(floats, pl.Float64))

    def __repr__(self) -> str:
        known = ", ".join(map(str, self.known))
        return f"<Scores of {', '.join(self.methods)}; k = {known}; folds: {self.folds}>"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def __str__(self) -> str:
        return self.text()

    def text(self, known: Sequence[int] | None = None) -> str:
        """Say the scores, and what they come to over all prefix lengths.

        Parameters
        ----------
        known : sequence of int, optional
            The prefix lengths whose methods to list one by one; default all.

        Raises
        ------
        KeyError
            A prefix length that was not scored.
        """
        count = "1 fold" if self.folds == 1 else f"{self.folds} folds"
        lines = [f"Forecasts of items never met in training: {count}, smaller is better."]
        wide = max(len(method) for method in self.methods)
        for k in self.known if known is None else known:
            first, rows = self[self.forecaster, k], [row for row in self.rows if row.known == k]
            lines += ["", f"k = {k}: {first.items:,} items, {first.values:,} values"]
            lines.append(f"  {'':{wide}}    WAPE    CRPS  in 80 %   width")
            for row in rows:
                cover = "-" if row.coverage is None else f"{100 * row.coverage:.0f} %"
                width = "-" if row.width is None else f"{row.width:.4f}"
                lines.append(
                    f"  {row.method:{wide}}  {row.wape:.4f}  {row.crps:.4f}  {cover:>7}  {width:>6}"
                )
            lines += [f"  {verdict}" for verdict in self._verdicts(k)]
        lines += self._curve()
        if self.covariates and len(self.methods) > 1:
            lines.append("No baseline knows the covariates that the forecaster had.")
        return "\n".join(lines)

    def _verdicts(self, k: int) -> Iterator[str]:
        """Say for each measure whether the forecaster beats the best baseline."""
        for measure in ("wape", "crps"):
            best, skill = self.best(k, measure), self.skill(k, measure)
            if best is None or skill is None:
                continue
            ends = self.skill_interval(k, measure)
            if skill > 0:
                text = f"beats the best baseline, {best.method}, by {100 * skill:.1f} %"
            elif skill == 0:
                text = f"does not beat the best baseline, {best.method}: they are equal"
            elif np.isfinite(skill):
                text = f"does not beat the best baseline, {best.method}: {-100 * skill:.1f} % worse"
            else:
                text = f"does not beat the best baseline, {best.method}"
            if ends is not None and ends[0] <= 0 <= ends[1]:
                text += "; that is within chance"
            yield f"{measure.upper()}: {self.forecaster} {text}{_said(ends)}."

    def _curve(self) -> Iterator[str]:
        """The score against k in one place, what comes of it, and what chance may have done."""
        if not self.sums:
            return
        mean = "mean curve" if "mean curve" in self.methods else None
        yield from ("", "CRPS against k, with its 95 % interval over items; skill in % of theirs")
        head = f"  {'k':>3}  {'CRPS':>6}  {'interval':>16}"
        yield head + (f"  {'over the mean curve':>22}" if mean else "") + "  over the best baseline"
        found: dict[str, list[str]] = {"beaten": [], "equal": [], "better": []}
        for k in self.known:
            ends = self.interval(self.forecaster, k, "crps")
            span = "-" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"
            line = f"  {k:>3}  {self[self.forecaster, k].crps:.4f}  {span:>16}"
            if mean:
                line += f"  {self._percent(k, mean):>22}"
            best = self.best(k, "crps")
            yield line + (f"  {self._percent(k)}, {best.method}" if best else "  -")
            skill = self.skill_interval(k, "crps")
            if skill is not None:
                what = "beaten" if skill[0] > 0 else "better" if skill[1] < 0 else "equal"
                found[what].append(str(k))
        if mean:
            useful = self.useful()
            yield (
                f"Useful from k = {useful} on: from there CRPS is below the mean curve's beyond "
                "chance."
                if useful is not None
                else "Not useful at the longest prefix scored: CRPS is not below the mean curve's "
                "beyond chance."
            )
        if not found["beaten"] and found["equal"] + found["better"]:
            yield f"At no k does {self.forecaster} beat the best baseline in CRPS beyond chance."
        for what, text in (
            ("beaten", f"{self.forecaster} beats the best baseline in CRPS beyond chance"),
            ("equal", "the difference to the best baseline is within chance"),
            ("better", "the best baseline is better beyond chance: take that"),
        ):
            if found[what]:
                yield f"At k = {', '.join(found[what])} {text}."

    def _percent(self, k: int, against: str | None = None) -> str:
        skill = self.skill(k, "crps", against=against)
        ends = self.skill_interval(k, "crps", against=against)
        return "-" if skill is None else f"{100 * skill:+z.1f}{_said(ends)}"

    def _pair(self, known: int, measure: str, against: str | None) -> tuple[Row, Row] | None:
        """The forecaster's row and that of the baseline to compare it with."""
        best = self.best(known, measure)
        if against is None:
            return None if best is None else (self[self.forecaster, known], best)
        if against not in self.methods or against == self.forecaster:
            others = [method for method in self.methods if method != self.forecaster]
            raise ArgumentError(f"against: expected one of {others}; received {against!r}.")
        if (against, known) not in self._cells:
            return None
        return self[self.forecaster, known], self[against, known]

    def _drawn(self, method: str, known: int, measure: str) -> np.ndarray | None:
        """A score on every draw of the bootstrap; None with fewer than two groups of items."""
        sums = self.sums.get((method, known))
        if sums is None or len(sums) < 2:
            return None
        rng = np.random.default_rng([self.seed, len(sums)])  # the same draws for every method
        drawn = []
        for _ in range(0, _DRAWS, 100):  # a bound on memory
            times = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), 100)
            drawn.append(times @ sums[:, : _LOSS + 1])
        found = np.concatenate(drawn)
        with np.errstate(divide="ignore", invalid="ignore"):
            return found[:, _ERROR if measure == "wape" else _LOSS] / found[:, _SIZE]


@dataclass(frozen=True)
class TargetScores:
    """What ``cross_validation`` found of several targets: the scores of each, and their mean.

    Attributes
    ----------
    each : mapping of str to Scores
        By target. Take one with ``scores["lat"]``.
    """

    each: Mapping[str, Scores]

    def __getitem__(self, target: str) -> Scores:
        """Return the scores of one target."""
        if target not in self.each:
            raise KeyError(f"{target!r}: expected a target of {list(self.each)}")
        return self.each[target]

    def mean(self, method: str, known: int, measure: str = "crps") -> float:
        """Return the mean of a method's score over the targets: each counts alike, as WAPE and
        CRPS are in shares of its size."""
        if measure not in ("wape", "crps"):
            raise ArgumentError(f"measure: expected 'wape' or 'crps'; received {measure!r}.")
        return float(np.mean([getattr(own[method, known], measure) for own in self.each.values()]))

    def table(self) -> pl.DataFrame:
        """Return the tables of all targets as one, the target in the first column."""
        import polars as pl

        return pl.concat(
            own.table().select(pl.lit(target).alias("target"), pl.all())
            for target, own in self.each.items()
        )

    def __repr__(self) -> str:
        first = next(iter(self.each.values()))
        return f"<TargetScores of {', '.join(self.each)}: each {first!r}>"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def __str__(self) -> str:
        lines = []
        for target, own in self.each.items():
            lines += [f"== {target} ==", str(own), ""]
        first = next(iter(self.each.values()))
        wide = max(len(method) for method in first.methods)
        lines.append(f"== the mean of {', '.join(self.each)} ==")
        for k in first.known:
            lines += ["", f"k = {k}", f"  {'':{wide}}    WAPE    CRPS"]
            for method in first.methods:
                if all((method, k) in own._cells for own in self.each.values()):
                    wape, crps = (self.mean(method, k, each) for each in ("wape", "crps"))
                    lines.append(f"  {method:{wide}}  {wape:.4f}  {crps:.4f}")
        return "\n".join(lines)


def _skill(ours: Any, theirs: Any) -> Any:
    """``1 - ours / theirs``; where they make no error, 0 if neither do we, or minus infinity."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.divide(ours, theirs)
    exact = np.equal(theirs, 0)
    found = np.where(exact, np.where(np.equal(ours, 0), 0.0, -np.inf), 1 - ratio)
    return found if found.ndim else found.item()


def _middle(drawn: np.ndarray) -> tuple[float, float] | None:
    """The middle 95 % of what a bootstrap drew; None where a draw had no score."""
    if np.isnan(drawn).any():
        return None
    low, high = np.quantile(drawn, _MIDDLE, method="nearest")  # of infinite ends too
    return float(low), float(high)


def _said(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f" ({100 * ends[0]:+z.1f} to {100 * ends[1]:+z.1f})"


# -- cross-validation ------------------------------------------------------------------


def cross_validation(
    forecaster: Any,
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
) -> Any:
    """Forecast every fold's items by a fit on the other folds, and score it.

    Parameters
    ----------
    forecaster : Forecaster
        Its settings are what counts: each fold fits a ``clone()`` of it.
    series, static, future : table, path or array
        As in ``Forecaster.fit``. An item without observations is not scored. The baselines
        know no covariates.
    folds : int, table, path or array
        How many random folds; or the fold of each item, in a table with the id column and
        a column ``fold`` (items of no series are ignored), or for arrays in an array
        ``(n,)``. Give a table where items belong together, such as one river's years.
    known : sequence of int
        The prefix lengths k. An item counts at a k if it was observed after step k.
    test_folds : sequence, optional
        The folds to forecast; default all.
    levels : sequence of float
        The quantiles that CRPS is the mean over; 0.5 is among them.
    baselines : bool or sequence of Baseline, optional
        True: last value, mean curve (also by group, where a categorical static has 2 to 10
        categories), ridge regression, nearest neighbours and boosted trees, which need
        scikit-learn; the trees take most of the time. For
        tokens: unigram, and n-grams without and with classes of X.
    seed : int
        For random folds, which do not depend on the order of the items, and for the bootstrap.
    callbacks : sequence
        Passed on to each ``fit``.
    progress : callable, optional
        Called as ``progress(text, done, total)`` before each stage, and at the end; no line is
        given of the stages then.
    verbose : "auto", 0, 1 or 2
        0 says nothing; "auto" and 1 give a line before each stage, logged as those of
        ``Forecaster.fit`` are; 2 adds the lines of each fit.

    Returns
    -------
    Scores
        Of several targets ``TargetScores``: those of each, with baselines that know this target
        alone. For tokens ``bits.TokenScores``: bits a token.

    Raises
    ------
    DataError
        Tables that cannot be used; an item without a fold, or all in one.
    ArgumentError
        An argument outside what it may be; a k after which nothing was observed.
    MissingExtraError
        scikit-learn is not installed.

    All of them come before the first fit, if the whole data show them. Ctrl-C raises
    ``KeyboardInterrupt``: there are no scores of some folds alone.
    """
    check_verbose(verbose)
    levels, callbacks = _checked_levels(levels), callbacks or ()
    baselines = False if baselines is None else baselines
    known = _checked_known(known)
    items = _Items.read(forecaster.settings, series, static, future)
    fold = _folds_of(items, folds, seed)
    names = sorted(set(fold.tolist()), key=lambda name: (isinstance(name, str), name))
    tested = _checked_test_folds(test_folds, names)
    last = items.last[np.isin(fold, np.array(tested, fold.dtype))].max(initial=0)
    if known[-1] >= last:
        raise ArgumentError(
            f"known: expected prefixes shorter than the longest item to forecast, which is "
            f"observed up to step {last}; received {known[-1]}."
        )
    stage = progress or stage_lines(say if verbose != 0 else lambda line: None)
    of_fits: Verbose = 2 if verbose == 2 else 0
    if items.schema.vocabulary is not None:
        if not isinstance(baselines, bool):
            raise ArgumentError("baselines: for tokens expected True or False, the n-grams.")
        parts = (
            (name, items.take(fold != name), items.take((fold == name) & (items.last > 0)))
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
            verbose=of_fits,
        )
    if baselines is True:
        baselines = default_baselines(items.schema.of(items.schema.targets[0]))
    methods = [] if baselines is False else list(baselines)
    ours = "statecast"
    taken = [ours]
    for method in methods:
        if method.name in taken:
            raise ArgumentError(f"baselines: expected distinct names; {method.name!r} is a second.")
        taken.append(method.name)
        if method.needs_sklearn:
            _need_sklearn(method.name)

    targets = items.schema.targets
    sums: dict[str, dict[tuple[str, int], np.ndarray]] = {target: {} for target in targets}
    scored = np.isin(fold, np.array(tested, fold.dtype)) & (items.last > 0)
    group = np.unique(items.groups, return_inverse=True)[1].ravel()
    count = dict.fromkeys(known, 0)
    stages, done = len(tested) * (1 + len(known)), 0

    def tell(text: str) -> None:
        stage(text, done, stages)

    for number, name in enumerate(tested, 1):
        where = f"fold {name} ({number} of {len(tested)})"
        tell(f"{where}: fit")
        train = items.take(fold != name)
        fitted = forecaster.clone()
        with noted() as interrupt:
            fitted.fit(**train, callbacks=callbacks, verbose=of_fits)
            interrupt.check()
        schema = fitted.schema
        forecast = (fold == name) & scored
        test = schema.panel(**items.take(forecast))
        done += 1
        learnt: dict[str, list[Baseline]] = {target: [] for target in targets}
        if methods:
            with warnings.catch_warnings():  # fit has said it of the same tables
                warnings.simplefilter("ignore", DataWarning)
                panel = schema.panel(**train, for_fit=True)
            learnt = {
                target: [method.fit(_only(panel, place), schema.of(target)) for method in methods]
                for place, target in enumerate(targets)
            }
        for k in known:
            tell(f"{where}: forecast from k = {k}")
            there = np.flatnonzero(test.known // len(targets) > k)
            part, at = test.take(there), group[forecast][there]
            until = int(part.known.max(initial=0))
            if until:
                count[k] += part.rows
                # float32 at its scale, so within 1e-7 or so of what was handed in
                y = schema.unscale(np.where(part.mask, part.y.astype(np.float64), np.nan))
                cut = part.prefix(k * len(targets))
                found = fitted.quantiles(cut, until, levels)
                until //= len(targets)
                for place, target in enumerate(targets):
                    own = slice(place, None, len(targets))
                    forecasts = {ours: found[:, own]}
                    for method in learnt[target]:
                        if k >= method.needs:
                            alone = _only(cut, place)
                            forecasts[method.name] = method.quantiles(alone, k, until, levels)
                    for method, quantiles in forecasts.items():
                        rest = np.asarray(quantiles, np.float64)[:, k:]
                        each = _sums(y[:, own][:, k:until], rest, levels)
                        nothing = np.zeros((group.max() + 1, each.shape[1]))
                        total = sums[target].setdefault((method, k), nothing)
                        np.add.at(total, at, each)
            done += 1
    tell("done")

    points = {method.name for method in methods if method.point}
    told = bool(items.schema.future.kinds or items.schema.past.kinds)
    scores = {}
    for target, own in sums.items():
        rows = []
        for k in known:
            for name in taken:
                if (name, k) not in own:
                    continue
                found = _score(own[name, k].sum(axis=0))
                if name in points:
                    found = replace(found, coverage=None, width=None)
                rows.append(Row(**asdict(found), method=name, known=k, items=count[k]))
        drawn = {cell: each[np.unique(group[scored])] for cell, each in own.items()}
        scores[target] = Scores(tuple(rows), ours, len(tested), drawn, seed, told)
    return TargetScores(scores) if len(scores) > 1 else scores[targets[0]]


def _only(panel: Panel, place: int) -> Panel:
    """The panel of one target; a single one's as it is."""
    return panel if panel.targets == 1 else panel.of(place)


def _checked_known(known: Sequence[int]) -> tuple[int, ...]:
    whole = (int, np.integer)
    values = list(known) if isinstance(known, (Sequence, np.ndarray, range)) else [known]
    good = bool(values) and not isinstance(known, str)
    for k in values:
        if not good or isinstance(k, bool) or not isinstance(k, whole) or k < 0:
            raise ArgumentError(f"known: expected prefix lengths, 0 or more; received {known!r}.")
    if not good:
        raise ArgumentError(f"known: expected prefix lengths, 0 or more; received {known!r}.")
    return tuple(sorted({int(k) for k in values}))


def _checked_test_folds(test_folds: Sequence[Any] | None, names: list[Any]) -> list[Any]:
    if test_folds is None:
        return names
    wanted = [test_folds] if isinstance(test_folds, (str, int)) else list(test_folds)
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        received = repr(unknown[0]) if unknown else "none"
        raise ArgumentError(f"test_folds: expected some of {names}; received {received}.")
    return list(dict.fromkeys(wanted))


# -- items and folds -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Items:
    """Both tables, checked as a whole and ready to be cut by item.

    Attributes
    ----------
    ids : ndarray, shape (n,)
    last : ndarray, shape (n,), int
        The last observed step of each.
    schema : Schema or Targets
        Of the whole. It is used for names and checks alone: no forecast sees it.
    tables : dict of str to narwhals DataFrame or ndarray
        ``series``, and ``static`` and ``future`` where they were given.
    rows : dict of str to ndarray, int
        The item of each row of these, -1 for one that is not among the items.
    groups : ndarray, shape (n,), int
        Which items belong together.
    """

    ids: np.ndarray
    last: np.ndarray
    schema: Schema | Targets
    tables: dict[str, Any]
    rows: dict[str, np.ndarray]
    groups: np.ndarray

    @classmethod
    def read(cls, settings: Any, series: Any, static: Any, future: Any) -> _Items:
        """Open and check the tables; every error that the whole data show is raised here."""
        columns = ("id_col", "step_col", "target_col", "start_col")
        names = {each: getattr(settings, each) for each in columns}
        given = {"series": (series, "Y"), "static": (static, "X"), "future": (future, "future")}
        opened = {
            role: open_table(source, role, letter)
            for role, (source, letter) in given.items()
            if source is not None
        }
        with warnings.catch_warnings():  # each fold's fit says it of what it uses
            warnings.simplefilter("ignore", DataWarning)
            schema = learn(
                series,
                static,
                future=future,
                past_cols=settings.past_cols,
                categorical=settings.categorical,
                transform="none",
                tokens=settings.head == "categorical",
                **names,
            )
            panel = schema.panel(series, static, future=future)
        position = {item: row for row, item in enumerate(panel.ids.tolist())}
        features = {"series": schema.past, "static": schema.static, "future": schema.future}
        tables, rows = {}, {}
        for role, table in opened.items():
            if isinstance(table, Table):
                ids = _in_kind_of(panel.ids, read_ids(table, schema.id_col))
                tables[role] = _typed(table, schema, panel.ids, features[role].kinds)
                rows[role] = np.array([position.get(item, -1) for item in ids], np.int64)
            else:
                tables[role], rows[role] = table, np.arange(panel.rows)
        last = panel.known // panel.targets
        return cls(panel.ids, last, schema, tables, rows, panel.groups)

    def take(self, keep: np.ndarray) -> dict[str, Any]:
        """Return the tables of some items, by a mask of shape (n,)."""
        found = {}
        for role, table in self.tables.items():
            rows = self.rows[role]
            inside = np.flatnonzero((rows >= 0) & keep[rows])
            found[role] = table[inside]
            if not isinstance(table, np.ndarray):
                found[role] = self._part(role, found[role])
        return found

    def _part(self, role: str, frame: Any) -> Any:
        """Return some rows of a table as a table of its library. Where rows of the series lack the
        first step of all items, return a ``Table``, as step 1 is still that step."""
        first, native = self.schema.first, frame.to_native()
        if role != "series" or self.schema.spacing is not None or not len(frame):
            return native
        if read_floats(frame[self.schema.step_col], text=False)[0].min() <= first:
            return native
        return Table(frame, "The series table", frame.implementation.value, False, first=first)


def _in_kind_of(ids: np.ndarray, found: list[Any]) -> list[Any]:
    """Return ids as text where the items are text: a CSV file's 7 may be the text '7'."""
    as_text = ids.dtype == object and isinstance(ids[0], str)
    return list(map(str, found)) if as_text else found


def _typed(
    table: Table, schema: Schema | Targets, ids: np.ndarray, kinds: Mapping[str, str]
) -> Any:
    """Return a narwhals frame whose columns have types, also where they came as text.

    A CSV file is read as text, and what a column means is settled by all of its rows. Parts
    of it must mean the same.
    """
    frame = table.frame
    if not table.text:
        return frame
    import narwhals.stable.v2 as nw
    import polars as pl

    numbers: set[str] = set()
    if schema.vocabulary is None:
        numbers.update(schema.targets)
    if schema.spacing is None:
        numbers.add(schema.step_col)
    columns: dict[str, pl.Series] = {}
    for name in frame.columns:
        if name == schema.id_col:
            columns[name] = pl.Series(_in_kind_of(ids, read_ids(table, name)))
        elif name in kinds:
            rows = range(len(frame))  # nothing is refused that the whole table was read with
            values = read_column(table, name, rows, kinds[name], learning=True)
            text = values.dtype == object
            columns[name] = pl.Series(
                values, dtype=pl.String if text else pl.Float64, nan_to_null=not text
            )
        elif name in numbers:
            columns[name] = pl.Series(read_floats(frame[name], True)[0]).fill_nan(None)
        elif schema.vocabulary is not None and name in schema.targets:
            columns[name] = pl.Series(token_cells(table, name, schema.vocabulary))
        else:
            columns[name] = frame[name].to_native()
    return nw.from_native(pl.DataFrame(columns))


def _folds_of(items: _Items, folds: Any, seed: int) -> np.ndarray:
    """Return the fold of each item."""
    n = len(items.ids)
    if isinstance(folds, (int, np.integer)) and not isinstance(folds, bool):
        if not 2 <= folds <= n:
            raise ArgumentError(f"folds: expected 2 to {n} (the items) folds; received {folds}.")
        order = sorted(range(n), key=items.ids.tolist().__getitem__)
        fold = np.zeros(n, np.int64)
        fold[order] = np.random.default_rng(seed).permutation(n) % folds
        return fold
    table = open_table(folds, "folds", "folds")
    if isinstance(table, np.ndarray):
        fold = table
        if fold.shape != (n,) or fold.dtype.kind not in "iuU":
            raise DataError(
                f"folds: expected how many, a table, or an array of whole numbers or text of "
                f"shape ({n},); received {fold.dtype} of shape {fold.shape}."
            )
    else:
        id_col = items.schema.id_col
        check_columns(table, (id_col, "fold"), ROLES[:1])
        found, wanted = read_ids(table, id_col), items.ids.tolist()
        found, _ = agree(found, table, wanted, None, id_col)
        of = dict(zip(found, read_ids(table, "fold"), strict=True))
        if len(of) < len(found):
            item = next(item for i, item in enumerate(found) if item in found[:i])
            raise DataError(
                f"{table.label}, column {id_col!r}: expected one row an item; received another "
                f"(item {quoted(item)}). Keep one of them.",
                column=id_col,
                item=item,
            )
        for item in wanted:
            if item not in of:
                raise DataError(
                    f"{table.label}, column {id_col!r}: expected a row for every item; there is "
                    f"none for item {quoted(item)}. Add it, or take the item out of the tables.",
                    column=id_col,
                    item=item,
                )
        fold = np.array([of[item] for item in wanted])
    distinct = set(fold[items.last > 0].tolist())
    if len(distinct) < 2:
        raise DataError(
            f"folds: expected two or more; all items are in fold {min(distinct)!r}. There would "
            "be nothing to fit on.",
            column="fold",
        )
    return fold


# -- the baselines ---------------------------------------------------------------------


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


def _need_sklearn(method: str) -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"The baseline {method!r} needs scikit-learn, which is not installed: "
            "pip install 'statecast[evaluate]', or pass baselines=False."
        ) from error
