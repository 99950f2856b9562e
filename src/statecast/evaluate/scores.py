"""Scores of forecasts, and their uncertainty.

The measures pool the values of all folds, or of all cutoffs. With y the observed value, m the
median forecast and q_l the forecast quantile at level l:

- WAPE: ``sum |y - m| / sum |y|``;
- CRPS: the mean over the levels of ``2 * sum max(l (y - q_l), (l - 1) (y - q_l)) / sum |y|``,
  the mean weighted quantile loss; for a point forecast it is the WAPE;
- coverage: the share of values within the 80 % interval, or at its ends; for whole numbers it is
  above 80 % even if the forecast is exact, because each end has a probability of its own: about 85
  to 90 % for counts below 10 (decision 52);
- width: of the 80 % interval, ``sum (q_0.9 - q_0.1) / sum |y|``.

The uncertainty of a score is estimated by a bootstrap over items. Items are drawn with replacement,
all methods are scored on the same draw, and the interval has the middle 95 % of the scores (or of
the skills). Items with the same static features (a basin's years) are drawn together, as they are
held out together in training (``Panel.groups``). The interval does not include the uncertainty from
the training set and the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from statecast import notebook
from statecast.checks import check_choice
from statecast.errors import ArgumentError

if TYPE_CHECKING:
    import polars as pl

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_DRAWS = 2000  # of the bootstrap: another seed then moves the interval's ends by a few per cent
_MIDDLE = (0.025, 0.975)


@dataclass(frozen=True)
class Score:
    """The scores of some forecasts; the how-to page "Evaluate on your data" defines the measures.

    Attributes
    ----------
    wape, crps : float
        Smaller is better. NaN if all values are 0, or if a forecast is NaN.
    coverage, width : float or None
        Of the 80 % interval; None for a point forecast, or without the levels 0.1 and 0.9. The
        coverage of counts is expected to be above 80 %.
    values : int
        The number of values that were scored.

    Examples
    --------
    >>> from statecast.evaluate import score
    >>> found = score([10.0, 20.0], [[9.0, 11.0, 12.0], [18.0, 20.0, 24.0]], (0.1, 0.5, 0.9))
    >>> round(found.wape, 3), found.values
    (0.033, 2)
    """

    wape: float
    crps: float
    coverage: float | None
    width: float | None
    values: int


def score(y: Any, quantiles: Any, levels: Sequence[float] = LEVELS) -> Score:
    """Score quantile forecasts against observed values.

    Parameters
    ----------
    y : array, shape (...)
        The observed values. NaN is a missing value, which is not scored.
    quantiles : array, shape (..., levels)
        The forecasts, in the units of y.
    levels : sequence of float
        Increasing, between 0 and 1, with 0.5 among them.

    Returns
    -------
    Score

    Raises
    ------
    ArgumentError
        Other levels, or shapes that do not agree.

    Examples
    --------
    >>> score([10.0, 20.0], [[9.0, 11.0, 12.0], [18.0, 20.0, 24.0]], (0.1, 0.5, 0.9)).coverage
    1.0
    """
    levels = check_levels(levels)
    y = np.asarray(y, np.float64)
    quantiles = np.asarray(quantiles, np.float64)
    if quantiles.shape != (*y.shape, len(levels)):
        raise ArgumentError(
            f"quantiles: expected shape {(*y.shape, len(levels))}, the shape of y and a last axis "
            f"for the levels; received {quantiles.shape}."
        )
    return score_of(sums_of(y.ravel()[None], quantiles.reshape(1, -1, len(levels)), levels)[0])


_SIZE, _ERROR, _LOSS = 0, 1, 2  # columns of `sums_of`, from which WAPE and CRPS are computed


def sums_of(y: np.ndarray, quantiles: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Return sums over the values of each row, from which scores are computed.

    Parameters
    ----------
    y : array, float64, ``(rows, n)``
    quantiles : array, float64, ``(rows, n, len(levels))``
    levels : tuple of float

    Returns
    -------
    array, float64, ``(rows, 6)``
        The sums of |y|, of |error| and of the quantile loss; the number of values within the 80 %
        interval; the sum of its widths; and the number of values. The sums of several rows are
        the totals of their columns.
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


def score_of(totals: np.ndarray) -> Score:
    """Return the score from sums of values, ``(6,)``; see ``sums_of``."""
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


def check_levels(levels: Sequence[float]) -> tuple[float, ...]:
    """Return the levels as a tuple, rounded to nine digits.

    Raises
    ------
    ArgumentError
        Levels that are not increasing, not between 0 and 1, or without 0.5.
    """
    # Rounded, because computed levels may differ in the last digit: 0.1 * 3 is not 0.3.
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


@dataclass(frozen=True)
class Row(Score):
    """The score of one method at one prefix length.

    Attributes
    ----------
    method : str
    known : int
        The prefix length k; with cutoffs, the largest one of a group.
    items : int
        The number of items that were scored: those observed after step k.
    fewest : int or None
        The smallest prefix length of the group; None is ``known``.

    Examples
    --------
    >>> from statecast.evaluate import Row
    >>> row = Row(0.1, 0.08, 0.79, 0.3, 540, method="ridge", known=3, items=20)
    >>> row.method, row.crps
    ('ridge', 0.08)
    """

    method: str
    known: int
    items: int
    fewest: int | None = None

    @property
    def prefixes(self) -> str:
        """The prefix lengths as text: "3", or "2 to 3"."""
        single = self.fewest is None or self.fewest == self.known
        return str(self.known) if single else f"{self.fewest} to {self.known}"


@dataclass(frozen=True)
class Scores:
    """The scores from ``cross_validation``: ``print`` them, use ``scores[method, k]``, or call
    ``table()``.

    Attributes
    ----------
    rows : tuple of Row
        A row for each method and prefix length, in order of prefix length, the forecaster first.
        The baseline "last value" has no row at k = 0.
    forecaster : str
        The forecaster's name among the methods.
    folds : int
        The number of folds, or of cutoffs, that were forecast.
    sums : mapping of (method, k) to array, float64, ``(groups, 6)``
        The sums of each group of items (see ``sums_of``), which the bootstrap draws from. Without
        them there are no intervals.
    seed : int
        Of the bootstrap.
    covariates : bool
        Whether the forecaster had covariates. The baselines have none.
    by : {"item", "launch"}
        Whether items were held out, or what came after cutoffs.
    refit : bool
        Whether the forecaster was fitted at each cutoff, or at the first only.
    trained : int or None
        For the scores of one cutoff: the number of training items.
    cutoffs : mapping of a number or a date to Scores
        The scores of each cutoff, in the order of time; empty by item, and for the scores of one
        cutoff.

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
    by: Literal["item", "launch"] = "item"
    refit: bool = True
    trained: int | None = None
    cutoffs: Mapping[Any, Scores] = field(default_factory=dict, repr=False)

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
        """Return the row of the best baseline at a prefix length; None without baselines.

        Parameters
        ----------
        known : int
            The prefix length.
        measure : {"wape", "crps"}

        Raises
        ------
        ArgumentError
            Another measure.
        """
        check_choice("measure", measure, ("wape", "crps"))
        others = [r for r in self.rows if r.known == known and r.method != self.forecaster]
        others = [row for row in others if not np.isnan(getattr(row, measure))]
        return min(others, key=lambda row: getattr(row, measure), default=None)

    def skill(
        self, known: int, measure: str = "wape", *, against: str | None = None
    ) -> float | None:
        """Return ``1 - forecaster / baseline``, which is above 0 if the forecaster is better.

        Parameters
        ----------
        known : int
            The prefix length.
        measure : {"wape", "crps"}
        against : str, optional
            The baseline; by default the best one at this prefix length.

        Returns
        -------
        float or None
            None without a baseline; minus infinity if only the baseline has no error.

        Raises
        ------
        ArgumentError
            Another measure, or a name that is no baseline.
        """
        pair = self._pair(known, measure, against)
        return None if pair is None else _skill(*(getattr(row, measure) for row in pair))

    def interval(
        self, method: str, known: int, measure: str = "wape"
    ) -> tuple[float, float] | None:
        """Return the 95 % interval of a score, by the bootstrap over items.

        None if all items are in one group.

        Raises
        ------
        KeyError
            A method or a prefix length without a score.
        """
        self[method, known]
        drawn = self._drawn(method, known, measure)
        return None if drawn is None else _middle(drawn)

    def skill_interval(
        self, known: int, measure: str = "wape", *, against: str | None = None
    ) -> tuple[float, float] | None:
        """Return the 95 % interval of ``skill``, by the bootstrap over items.

        Both methods are scored on the same draws. By default the baseline of every draw is the one
        that is best on all items. None as for ``interval``, or without a baseline.
        """
        pair = self._pair(known, measure, against)
        if pair is None:
            return None
        ours, theirs = (self._drawn(row.method, known, measure) for row in pair)
        return None if ours is None or theirs is None else _middle(_skill(ours, theirs))

    def useful(self, measure: str = "crps", *, against: str = "mean curve") -> int | None:
        """Return the smallest prefix length from which on the forecast is useful.

        A forecast is useful at k if it is significantly better than the mean curve: the whole 95 %
        interval of its skill is above 0. It must be useful at every longer prefix length too.

        Parameters
        ----------
        measure : {"wape", "crps"}
        against : str
            The baseline to compare with.

        Returns
        -------
        int or None
            One of ``known``; None if the forecast is not useful at the longest one.
        """
        found = None
        for k in reversed(self.known):
            interval = self.skill_interval(k, measure, against=against)
            if interval is None or not interval[0] > 0:
                break
            found = k
        return found

    def table(self) -> pl.DataFrame:
        """Return the rows as a polars table.

        The rows of the forecaster also have its skill against the best baseline. The ends of the
        95 % intervals are in the columns ``..._lo`` and ``..._hi``. With cutoffs there are two more
        columns. ``cutoff`` is null in the rows of all cutoffs together, which come first; the rows
        of each cutoff follow. ``known_from`` is the smallest prefix length of the group of which
        ``known`` is the largest.
        """
        import polars as pl

        if self.cutoffs:
            parts = [self._rows_table(), *(own._rows_table() for own in self.cutoffs.values())]
            times = pl.Series("cutoff", list(self.cutoffs))
            for place, part in enumerate(parts):
                time = times[[place - 1] * part.height] if place else times.clear(part.height)
                parts[place] = part.select(time, pl.all())
            return pl.concat(parts)
        return self._rows_table()

    def _rows_table(self) -> pl.DataFrame:
        """``table`` without the rows of each cutoff."""
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
            ks = [row.known if row.method == self.forecaster else None for row in self.rows]
            values = [None if k is None else self.skill(k, measure) for k in ks]
            ends = [None if k is None else self.skill_interval(k, measure) for k in ks]
            add(f"skill_{measure}", values, ends)
        table = pl.DataFrame(columns, schema_overrides=dict.fromkeys(floats, pl.Float64))
        if self.by == "launch":
            fewest = pl.Series("known_from", [row.fewest for row in self.rows], pl.Int64)
            table.insert_column(table.get_column_index("known"), fewest)
        return table

    def __repr__(self) -> str:
        known = ", ".join(map(str, self.known))
        what = "folds" if self.by == "item" else "cutoffs"
        return f"<Scores of {', '.join(self.methods)}; k = {known}; {what}: {self.folds}>"

    def _repr_html_(self) -> str:
        head = ["CRPS", *(f"k = {self[self.forecaster, k].prefixes}" for k in self.known)]
        rows = [
            [method, *(self._cells[method, k].crps if (method, k) in self._cells else None
                       for k in self.known)]
            for method in self.methods
        ]  # fmt: skip
        shown = notebook.heading(self._heading())
        shown += notebook.table(head, rows, bold=self.forecaster)
        # Below the table of the text, there are sentences.
        return shown + "".join(notebook.line(text) for text in self._curve() if text.endswith("."))

    def __str__(self) -> str:
        return self.text()

    def text(self, known: Sequence[int] | None = None) -> str:
        """Return the scores, and a summary over all prefix lengths, as text.

        Parameters
        ----------
        known : sequence of int, optional
            The prefix lengths at which the scores of every method are listed; by default all.

        Raises
        ------
        KeyError
            A prefix length that was not scored.
        """
        lines = [self._heading()]
        wide = max(len(method) for method in self.methods)
        for k in self.known if known is None else known:
            first, rows = self[self.forecaster, k], [row for row in self.rows if row.known == k]
            head = f"k = {first.prefixes}: {first.items:,} items, {first.values:,} values"
            lines += ["", head]
            lines.append(f"  {'':{wide}}    WAPE    CRPS  in 80 %   width")
            for row in rows:
                cover = "-" if row.coverage is None else f"{100 * row.coverage:.0f} %"
                width = "-" if row.width is None else f"{row.width:.4f}"
                lines.append(
                    f"  {row.method:{wide}}  {row.wape:.4f}  {row.crps:.4f}  {cover:>7}  {width:>6}"
                )
            lines += [f"  {verdict}" for verdict in self._verdicts(k)]
        lines += self._curve()
        lines += self._by_cutoff()
        if self.covariates and len(self.methods) > 1:
            lines.append("The baselines have no covariates; the forecaster had some.")
        return "\n".join(lines)

    def _heading(self) -> str:
        """The first line of the text."""
        of = "fold" if self.by == "item" else "cutoff"
        count = f"1 {of}" if self.folds == 1 else f"{self.folds} {of}s"
        if self.by == "item":
            return f"Forecasts of items held out from training: {count}, smaller is better."
        fit = "at the cutoff" if self.folds == 1 else "at each cutoff"
        fit = fit if self.refit else "at the first cutoff only"
        return (
            f"Forecasts of what came after {count}, by a fit to what was known {fit}, smaller is "
            "better."
        )

    def _by_cutoff(self) -> Iterator[str]:
        """Yield a table of the CRPS by cutoff and k."""
        if not self.cutoffs:
            return
        yield from ("", "CRPS by cutoff, and skill over the best baseline in %")
        wide = max(6, *(len(str(time)) for time in self.cutoffs))
        yield f"  {'cutoff':{wide}}  trained  {'k':>8}   items   values    CRPS  skill"
        for time, own in self.cutoffs.items():
            for k in own.known:
                row, best = own[self.forecaster, k], own.best(k, "crps")
                skill = f"{own._percent(k)}, {best.method}" if best else "-"
                yield (
                    f"  {time!s:{wide}}  {own.trained:>7,}  {row.prefixes:>8}  {row.items:>6,}  "
                    f"{row.values:>7,}  {row.crps:>6.4f}  {skill}"
                )

    def _verdicts(self, k: int) -> Iterator[str]:
        """Yield for each measure whether the forecaster beats the best baseline."""
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
                text += "; the difference is within chance"
            yield f"{measure.upper()}: {self.forecaster} {text}{_in_percent(ends)}."

    def _curve(self) -> Iterator[str]:
        """Yield a table of the CRPS by k, and the prefix lengths with significant differences."""
        if not self.sums:
            return
        mean = "mean curve" if "mean curve" in self.methods else None
        yield from ("", "CRPS against k with its 95 % interval over items, and skill in %")
        text = {k: self[self.forecaster, k].prefixes for k in self.known}
        wide = max(3, *map(len, text.values()))
        head = f"  {'k':>{wide}}  {'CRPS':>6}  {'interval':>16}"
        yield head + (f"  {'over the mean curve':>22}" if mean else "") + "  over the best baseline"
        found: dict[str, list[str]] = {"beaten": [], "equal": [], "better": []}
        for k in self.known:
            ends = self.interval(self.forecaster, k, "crps")
            span = "-" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"
            line = f"  {text[k]:>{wide}}  {self[self.forecaster, k].crps:.4f}  {span:>16}"
            if mean:
                line += f"  {self._percent(k, mean):>22}"
            best = self.best(k, "crps")
            yield line + (f"  {self._percent(k)}, {best.method}" if best else "  -")
            skill = self.skill_interval(k, "crps")
            if skill is not None:
                what = "beaten" if skill[0] > 0 else "better" if skill[1] < 0 else "equal"
                found[what].append(text[k])
        if mean:
            useful = self.useful()
            yield (
                f"Useful from k = {text[useful].split()[0]} on: from there CRPS is below the mean "
                "curve's beyond chance."
                if useful is not None
                else "Not useful at the longest prefix scored: CRPS is not below the mean curve's "
                "beyond chance."
            )
        if not found["beaten"] and found["equal"] + found["better"]:
            yield f"At no k does {self.forecaster} beat the best baseline in CRPS beyond chance."
        for what, text in (
            ("beaten", f"{self.forecaster} beats the best baseline in CRPS beyond chance"),
            ("equal", "the difference to the best baseline is within chance"),
            ("better", "the best baseline is better beyond chance: use that baseline"),
        ):
            if found[what]:
                yield f"At k = {', '.join(found[what])} {text}."

    def _percent(self, k: int, against: str | None = None) -> str:
        skill = self.skill(k, "crps", against=against)
        ends = self.skill_interval(k, "crps", against=against)
        return "-" if skill is None else f"{100 * skill:+z.1f}{_in_percent(ends)}"

    def _pair(self, known: int, measure: str, against: str | None) -> tuple[Row, Row] | None:
        """The row of the forecaster and the row of the baseline to compare it with."""
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
        """The score of every draw of the bootstrap; None with fewer than two groups of items."""
        sums = self.sums.get((method, known))
        if sums is None or len(sums) < 2:
            return None
        rng = np.random.default_rng([self.seed, len(sums)])  # the same draws for every method
        drawn = []
        for _ in range(0, _DRAWS, 100):  # 100 draws at once, to bound memory
            times = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), 100)
            drawn.append(times @ sums[:, : _LOSS + 1])
        found = np.concatenate(drawn)
        with np.errstate(divide="ignore", invalid="ignore"):
            return found[:, _ERROR if measure == "wape" else _LOSS] / found[:, _SIZE]


@dataclass(frozen=True)
class TargetScores:
    """The scores of several targets from ``cross_validation``.

    Attributes
    ----------
    each : mapping of str to Scores
        The scores by target, which ``scores["lat"]`` returns.

    Examples
    --------
    >>> from statecast.evaluate import Row, Scores, TargetScores
    >>> row = Row(0.1, 0.08, 0.79, 0.3, 540, method="statecast", known=3, items=20)
    >>> TargetScores({"lat": Scores((row,), "statecast", folds=5)})["lat"].known
    (3,)
    """

    each: Mapping[str, Scores]

    def __getitem__(self, target: str) -> Scores:
        """Return the scores of one target."""
        if target not in self.each:
            raise KeyError(f"{target!r}: expected a target of {list(self.each)}")
        return self.each[target]

    @property
    def cutoffs(self) -> dict[Any, TargetScores]:
        """The scores of each cutoff, in the order of time; empty by item."""
        first = next(iter(self.each.values()))
        return {
            time: TargetScores({target: own.cutoffs[time] for target, own in self.each.items()})
            for time in first.cutoffs
        }

    def mean(self, method: str, known: int, measure: str = "crps") -> float:
        """Return the mean of a method's score over the targets.

        WAPE and CRPS are relative to the size of the values, so targets in different units can be
        averaged.
        """
        check_choice("measure", measure, ("wape", "crps"))
        scores = [getattr(each[method, known], measure) for each in self.each.values()]
        return float(np.mean(scores))

    def table(self) -> pl.DataFrame:
        """Return the tables of all targets as one table, with the target in the first column."""
        import polars as pl

        return pl.concat(
            scores.table().select(pl.lit(target).alias("target"), pl.all())
            for target, scores in self.each.items()
        )

    def __repr__(self) -> str:
        first = next(iter(self.each.values()))
        return f"<TargetScores of {', '.join(self.each)}: each {first!r}>"

    def _repr_html_(self) -> str:
        return "".join(
            notebook.heading(target) + scores._repr_html_() for target, scores in self.each.items()
        )

    def __str__(self) -> str:
        lines = []
        for target, scores in self.each.items():
            lines += [f"== {target} ==", str(scores), ""]
        first = next(iter(self.each.values()))
        wide = max(len(method) for method in first.methods)
        lines.append(f"== the mean of {', '.join(self.each)} ==")
        for k in first.known:
            text = first[first.forecaster, k].prefixes
            lines += ["", f"k = {text}", f"  {'':{wide}}    WAPE    CRPS"]
            for method in first.methods:
                if all((method, k) in scores._cells for scores in self.each.values()):
                    wape, crps = (self.mean(method, k, each) for each in ("wape", "crps"))
                    lines.append(f"  {method:{wide}}  {wape:.4f}  {crps:.4f}")
        return "\n".join(lines)


def _skill(ours: Any, theirs: Any) -> Any:
    """``1 - ours / theirs``. If theirs is 0, it is 0 if ours is 0 too, else minus infinity."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.divide(ours, theirs)
    exact = np.equal(theirs, 0)
    found = np.where(exact, np.where(np.equal(ours, 0), 0.0, -np.inf), 1 - ratio)
    return found if found.ndim else found.item()


def _middle(drawn: np.ndarray) -> tuple[float, float] | None:
    """The middle 95 % of the scores of the draws; None if a draw has no score."""
    if np.isnan(drawn).any():
        return None
    low, high = np.quantile(drawn, _MIDDLE, method="nearest")  # scores may be infinite
    return float(low), float(high)


def _in_percent(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f" ({100 * ends[0]:+z.1f} to {100 * ends[1]:+z.1f})"
