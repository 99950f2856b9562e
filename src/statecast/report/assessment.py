"""What a report has: the scores, the calibration, the best and worst items and the influence of the
static features, of a fitted model on items whose values are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from statecast.checks import check_numbers, check_whole
from statecast.errors import ArgumentError, DataError, MissingExtraError, silent
from statecast.evaluate.baselines import (
    Baseline,
    LastValue,
    MeanCurve,
    Neighbours,
    Ridge,
    need_sklearn,
)
from statecast.evaluate.cross_validation import OURS, checked_known
from statecast.evaluate.scores import LEVELS, Row, Scores, score_of, sums_of
from statecast.forecast.base import StateModel, chunks
from statecast.forecast.explanation import effects
from statecast.forecast.forecaster import Forecaster
from statecast.plots.fans import Fan
from statecast.progress import Stage, Verbose, check_verbose, display
from statecast.tables.features import Columns
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema

BINS = 10  # of the histogram of the probability integral transform
# Quantiles between which its values are found: several for a tenth, so that ties are divided well.
FINE = tuple(round(i / 40, 3) for i in range(1, 40))
_SCORED = slice(3, None, 4)  # those at `LEVELS`
_ROWS = 2048  # items that are forecast at once: it bounds memory
_EXPLAINED = 200  # the most items on which the influence of static features is measured
_INSIDE, _VALUES = 3, 5  # columns of `sums_of`


@dataclass(frozen=True)
class Item:
    """An item, its score and the chart of its forecast.

    Attributes
    ----------
    name : str
        The id.
    crps : float
        As ``Scores``, of this item alone.
    coverage : float
        The share of its values within the 80 % interval.
    fan : Fan

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Forecaster
    >>> from statecast.report import assess
    >>> Y = np.random.default_rng(0).normal(size=(28, 6)).cumsum(axis=1)
    >>> f = Forecaster(units=4, ensemble=2, epochs=1).fit(Y[:20], verbose=0)
    >>> found = assess(f, Y[20:], known=[1, 3], items=2, verbose=0)
    >>> worst = found.findings[0].worst[0]
    >>> 0 <= worst.coverage <= 1
    True
    """

    name: str
    crps: float
    coverage: float
    fan: Fan


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found about the forecasts of one target.

    Attributes
    ----------
    target : str
    scores : Scores
        By prefix length, beside those of the baselines.
    horizons : dict of (method, k) to array, float64, ``(horizons, 6)``
        The sums of ``sums_of`` by the number of steps after the prefix, from 1.
    histogram : array, float64, ``(BINS,)``
        The share of the values in each tenth of their predictive distribution. A value that equals
        several quantiles is divided among the tenths that it may be in, as in Czado, Gneiting and
        Held (2009).
    inside : dict of float to array, float64, ``(horizons, 2)``
        By the level of an interval in percent: the number of values within it, and of all values,
        by horizon; of all prefix lengths together.
    coverage : tuple of float
        The share of all values within the 80 % interval, and its 95 % interval by a bootstrap over
        items; NaN with one group of items.
    best, worst : tuple of Item
        The best first, and the worst first. They are forecast from ``shown`` steps.
    influence : dict of int to dict of str to float
        By prefix length and static feature: the mean absolute change of the median forecast
        without the feature, in the units of the target.
    size : float
        The mean absolute value of the observations.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Forecaster
    >>> from statecast.report import assess
    >>> Y = np.random.default_rng(0).normal(size=(28, 6)).cumsum(axis=1)
    >>> f = Forecaster(units=4, ensemble=2, epochs=1).fit(Y[:20], verbose=0)
    >>> found = assess(f, Y[20:], known=[1, 3], items=2, verbose=0)
    >>> found.findings[0].histogram.round(6).sum().item()
    1.0
    """

    target: str
    scores: Scores
    horizons: dict[tuple[str, int], np.ndarray]
    histogram: np.ndarray
    inside: dict[float, np.ndarray]
    coverage: tuple[float, float, float]
    best: tuple[Item, ...]
    worst: tuple[Item, ...]
    influence: dict[int, dict[str, float]]
    size: float


@dataclass(frozen=True, eq=False)
class Assessment:
    """A fitted model on items whose values are known, from ``assess``.

    Attributes
    ----------
    model : Forecaster
    findings : tuple of Findings
        Of each target.
    items, values : int
        The items that were scored, and all their observed values.
    trained : int or None
        The number of these items whose ids are among those of the training items; None if the model
        file has no ids of training items, or the items are rows of arrays.
    first, last : str
        The first and the last step of the observations, as text: dates if steps are dates.
    longest : int
        The last step that was scored, counted from an item's first.
    shown : int
        The prefix length of the charts.
    levels : tuple of float
    warnings : tuple of str
        What a forecast of these tables warns of.
    notes : tuple of str
        Why there is no baseline, or why there are few.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Forecaster
    >>> from statecast.report import assess
    >>> Y = np.random.default_rng(0).normal(size=(28, 6)).cumsum(axis=1)
    >>> f = Forecaster(units=4, ensemble=2, epochs=1).fit(Y[:20], verbose=0)
    >>> found = assess(f, Y[20:], known=[1, 3], items=2, verbose=0)
    >>> found.items, found.values
    (8, 48)
    """

    model: Forecaster
    findings: tuple[Findings, ...]
    items: int
    values: int
    trained: int | None
    first: str
    last: str
    longest: int
    shown: int
    levels: tuple[float, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def assess(
    model: Any,
    series: Any,
    static: Any = None,
    *,
    future: Any = None,
    known: Sequence[int] = (0, 1, 3, 5),
    until: int | None = None,
    level: float | Sequence[float] = (80,),
    items: int = 3,
    verbose: Verbose = "auto",
) -> Assessment:
    """Forecast items whose values are known, and compare the forecasts with the values.

    Parameters
    ----------
    model : Forecaster
        Fitted. Nothing is fitted here but the baselines.
    series, static, future : table, path or array
        As in ``Forecaster.predict``, with all observations. These items should not have been in
        training: otherwise the scores are too good.
    known : sequence of int
        The prefix lengths k to forecast from. An item is scored at k if it was observed after step
        k. Prefix lengths after which no item was observed are left out.
    until : int, optional
        The last step that is scored, numbered as in the tables; by default the last one observed.
    level : float or sequence of float
        The coverages of the intervals in the charts, in percent.
    items : int
        The number of best and of worst items to show.
    verbose : "auto", 0, 1 or 2
        0 shows nothing. The others show the progress as ``Forecaster.fit`` does.

    Returns
    -------
    Assessment

    The baselines are fitted to the values of the training items that are in the model file. Without
    them (``analogues=False``, or series of more than 1,000 steps) the last value alone is a
    baseline.

    Raises
    ------
    DataError
        Tables that cannot be used, or without an observation after the shortest prefix.
    ArgumentError
        A model that is not a ``Forecaster``; an argument outside its range.
    NotFittedError
        The model is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Forecaster
    >>> from statecast.report import assess
    >>> Y = np.random.default_rng(0).normal(size=(28, 6)).cumsum(axis=1)
    >>> f = Forecaster(units=4, ensemble=2, epochs=1).fit(Y[:20], verbose=0)
    >>> found = assess(f, Y[20:], known=[1, 3], items=2, verbose=0)
    >>> found.findings[0].scores.known
    (1, 3)
    """
    if not isinstance(model, Forecaster):
        received = type(model).__name__
        why = ", whose sequences have no intervals" if isinstance(model, StateModel) else ""
        raise ArgumentError(f"model: expected a Forecaster; received a {received}{why}.")
    check_verbose(verbose)
    schema = model.schema
    known = checked_known(known)
    items = check_whole("items", items, 1, 20)
    levels = tuple(sorted({*check_numbers("level", level)}, reverse=True))
    if not levels or not all(0 < each < 100 for each in levels):
        raise ArgumentError(f"level: expected numbers above 0 and below 100; received {level!r}.")
    end = None
    if until is not None:
        end = check_whole("until", until, schema.first) - schema.first + 1
    with silent() as warnings:
        panel = schema.panel(series, static, future=future)
        if end is not None:
            panel = panel.prefix(end * panel.targets)
        ks = [k for k in known if (panel.known // panel.targets > k).any()]
        if not ks:
            raise DataError(
                f"The series table: expected an item that is observed after step {known[0]}; "
                "received none. Pass all observations, not the prefixes only, or shorter prefixes "
                "in known.",
                column=schema.target_cols[0],
            )
        panel = panel.take(panel.known // panel.targets > ks[0])
        learnt, notes = _baselines(model)
        shown = ks[len(ks) // 2]
        with display(verbose) as progress:
            work = _Work(model, panel, ks, levels, learnt, progress.stage)
            findings = work.findings(items, shown)
    return Assessment(
        model,
        findings,
        panel.rows,
        int(panel.mask.sum()),
        _in_training(model, panel),
        *_span(schema, panel),
        int(panel.known.max()) // panel.targets,
        shown,
        levels,
        tuple(dict.fromkeys(warnings)),
        notes,
    )


def _in_training(model: Forecaster, panel: Panel) -> int | None:
    """The number of items of a panel whose ids training items have."""
    found = model._companions.analogues
    if found is None or "arrays" in (panel.kind.library, model.schema.kind.library):
        return None
    # As text, as the id 7 of one file may be the text "7" of another.
    return len({*map(str, found.ids.tolist())} & {*map(str, panel.ids.tolist())})


def _span(schema: Schema, panel: Panel) -> tuple[str, str]:
    """The first and the last observed step as text."""
    row, position = np.nonzero(panel.mask)
    step = position // panel.targets + 1
    if schema.spacing is None or panel.origin is None:
        return str(schema.number(int(step.min()))), str(schema.number(int(step.max())))
    form = schema.output(panel.kind).form
    place = schema.spacing.dates(panel.origin[row].astype("datetime64[us]"), step)
    when = schema.spacing.date(place, form.zone)
    return form.say(when.min()), form.say(when.max())


# -- baselines ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Learnt:
    """A baseline of one target, and how it sees the static features of a panel."""

    method: Baseline
    features: Callable[[Panel], Panel]


def _baselines(model: Forecaster) -> tuple[list[list[_Learnt]], tuple[str, ...]]:
    """The baselines of each target, fitted to the training items that the model holds; and notes
    about those that are left out."""
    schema, found = model.schema, model._companions.analogues
    count = len(schema.targets)
    if found is None:
        same: Callable[[Panel], Panel] = lambda panel: panel  # noqa: E731
        none = Panel(
            np.zeros(0, np.int64),
            np.zeros((0, schema.steps), np.float32),
            np.zeros((0, schema.steps), bool),
            np.zeros((0, schema.static.width), np.float32),
            np.zeros((0, len(schema.static.categories)), np.int32),
        )
        note = (
            "The model file does not have the values of the training items, so the last value is "
            "the only baseline. `statecast evaluate` compares with all of them."
        )
        last = [
            [_Learnt(LastValue().fit(none, schema.of(name)), same)] for name in schema.target_cols
        ]
        return last, (note,)
    methods: list[Baseline] = [LastValue(), MeanCurve()]
    notes: tuple[str, ...] = ()
    try:
        need_sklearn("ridge")
        methods += [Ridge(), Neighbours()]
    except MissingExtraError:
        notes = (
            "Ridge regression and nearest neighbours are left out, as scikit-learn is not "
            "installed: pip install 'statecast[evaluate]'.",
        )

    def features(panel: Panel) -> Panel:
        codes = np.zeros((panel.rows, 0), np.int32)
        return replace(panel, numeric=found.features(panel.numeric, panel.codes), codes=codes)

    nothing = Columns((), np.zeros((0, 3)), {}, ())
    learnt = []
    for place, name in enumerate(schema.target_cols):
        own = found.y[:, place::count]
        seen = ~np.isnan(own)
        codes = np.zeros((len(own), 0), np.int32)
        panel = Panel(found.ids, np.where(seen, own, np.float32(0)), seen, found.x, codes)
        one = replace(schema.of(name), static=nothing)
        learnt.append([_Learnt(method.fit(panel, one), features) for method in methods])
    return learnt, notes


# -- the work ----------------------------------------------------------------------------------


@dataclass(eq=False)
class _Sums:
    """Sums over the forecasts of one target; the attributes are as in ``Findings``."""

    items: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)  # (rows, 6)
    horizons: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    inside: dict[float, np.ndarray] = field(default_factory=dict)


class _Work:
    """The forecasts of a panel from several prefix lengths, and what they add up to."""

    def __init__(
        self,
        model: Forecaster,
        panel: Panel,
        known: Sequence[int],
        levels: Sequence[float],
        baselines: list[list[_Learnt]],
        stage: Stage,
    ) -> None:
        self.model, self.panel, self.known, self.levels = model, panel, known, levels
        self.baselines, self.stage = baselines, stage
        self.schema, self.count = model.schema, panel.targets
        y = np.where(panel.mask, panel.y.astype(np.float64), np.nan)
        self.y = self.schema.unscale(y)
        self.steps = panel.known // self.count
        self.group = np.unique(panel.groups, return_inverse=True)[1].ravel()
        # For the histogram and the scores, then the ends of the intervals that are shown.
        ends = [end for level in levels for end in (0.5 - level / 200, 0.5 + level / 200)]
        self.asked = (*FINE, *ends)

    def findings(self, items: int, shown: int) -> tuple[Findings, ...]:
        done, total = 0, len(self.known) + 2
        sums = [_Sums() for _ in range(self.count)]
        for k in self.known:
            self.stage(f"forecast from k = {k}", done, total)
            self._add(k, sums)
            done += 1
        self.stage("the influence of the static features", done, total)
        influence = [{} for _ in range(self.count)]
        for k in dict.fromkeys((self.known[0], shown)):
            for place, found in enumerate(self._influence(k)):
                influence[place][k] = found
        self.stage("charts", done + 1, total)
        found = tuple(
            self._found(place, sums[place], influence[place], items, shown)
            for place in range(self.count)
        )
        self.stage("done", total, total)
        return found

    def _parts(self, k: int) -> Iterator[tuple[np.ndarray, Panel, int]]:
        """The rows that are observed after step k, in parts: their numbers, their panel with their
        first k steps, and the last step."""
        rows = np.flatnonzero(self.steps > k)
        for part in (rows[chunk] for chunk in chunks(len(rows), _ROWS)):
            cut = self.panel.take(part).prefix(k * self.count)
            yield part, cut, int(self.steps[part].max())

    def _add(self, k: int, sums: list[_Sums]) -> None:
        for rows, begun, until in self._parts(k):
            quantiles = self.model.quantiles(begun, until * self.count, self.asked)
            for place, own in enumerate(sums):
                truth = self.y[rows, place : until * self.count : self.count][:, k:]
                ours = quantiles[:, place :: self.count][:, k:]
                self._add_method(own, OURS, k, rows, truth, ours[..., : len(FINE)][..., _SCORED])
                _add_histogram(own.histogram, truth, ours[..., : len(FINE)])
                for i, level in enumerate(self.levels):
                    low, high = (ours[..., len(FINE) + 2 * i + side] for side in (0, 1))
                    seen = ~np.isnan(truth)
                    within = (low <= truth) & (truth <= high)
                    both = np.stack([within.sum(axis=0), seen.sum(axis=0)], axis=1)
                    own.inside[level] = _added(own.inside.get(level), both.astype(np.float64))
                alone = begun if self.count == 1 else begun.of(place)
                for learnt in self.baselines[place]:
                    if k >= learnt.method.needs:
                        found = learnt.method.quantiles(learnt.features(alone), k, until, LEVELS)
                        name = learnt.method.name
                        self._add_method(own, name, k, rows, truth, np.asarray(found)[:, k:])

    def _add_method(
        self,
        sums: _Sums,
        name: str,
        k: int,
        rows: np.ndarray,
        truth: np.ndarray,
        quantiles: np.ndarray,
    ) -> None:
        each = sums_of(truth, quantiles, LEVELS)
        nothing = np.zeros((self.panel.rows, each.shape[1]))
        sums.items.setdefault((name, k), nothing)[rows] = each
        by_step = sums_of(truth.T, quantiles.swapaxes(0, 1), LEVELS)
        sums.horizons[name, k] = _added(sums.horizons.get((name, k)), by_step)

    def _found(
        self,
        place: int,
        sums: _Sums,
        influence: dict[int, dict[str, float]],
        items: int,
        shown: int,
    ) -> Findings:
        ours = {k: sums.items[OURS, k] for k in self.known}
        scores = self._scores(place, sums)
        order = self._order(ours[shown])
        count = min(items, len(order) // 2) or len(order)
        best, worst = order[:count], order[::-1][: min(count, len(order) - count)]
        within = self._by_group(np.sum([*ours.values()], axis=0))[:, [_INSIDE, _VALUES]]
        mean = np.nanmean(np.abs(self.y[:, place :: self.count]))
        return Findings(
            self.schema.target_cols[place],
            scores,
            sums.horizons,
            sums.histogram / max(sums.histogram.sum(), 1e-300),
            sums.inside,
            _share(within),
            tuple(self._items(place, best, ours[shown], shown)),
            tuple(self._items(place, worst, ours[shown], shown)),
            influence,
            float(mean),
        )

    def _scores(self, place: int, sums: _Sums) -> Scores:
        points = {each.method.name for each in self.baselines[place] if each.method.point}
        names = [OURS, *(each.method.name for each in self.baselines[place])]
        rows, drawn = [], {}
        for k in self.known:
            scored = self.steps > k
            for name in names:
                if (name, k) not in sums.items:
                    continue
                each = sums.items[name, k]
                found = score_of(each.sum(axis=0))
                if name in points:
                    found = replace(found, coverage=None, width=None)
                rows.append(
                    Row(
                        found.wape,
                        found.crps,
                        found.coverage,
                        found.width,
                        found.values,
                        name,
                        k,
                        int(scored.sum()),
                    )
                )
                drawn[name, k] = self._by_group(each)[np.unique(self.group[scored])]
        covariates = bool(self.schema.future.kinds or self.schema.past.kinds)
        return Scores(tuple(rows), OURS, 1, drawn, covariates=covariates)

    def _by_group(self, sums: np.ndarray) -> np.ndarray:
        """The sums of items ``(rows, n)`` added up by group, ``(groups, n)``."""
        found = np.zeros((self.group.max() + 1, sums.shape[1]))
        np.add.at(found, self.group, sums)
        return found

    def _order(self, sums: np.ndarray) -> np.ndarray:
        """The rows that have a score, the best first."""
        rows = np.flatnonzero((sums[:, _VALUES] > 0) & (sums[:, 0] > 0))
        return rows[np.argsort(sums[rows, 2] / sums[rows, 0], kind="stable")]

    def _items(self, place: int, rows: np.ndarray, sums: np.ndarray, k: int) -> Iterator[Item]:
        if not len(rows):
            return
        until = int(self.steps[rows].max())
        begun = self.panel.take(rows).prefix(k * self.count)
        found = self.model.quantiles(begun, until * self.count, (0.5, *self.asked[len(FINE) :]))
        for at, row in enumerate(rows.tolist()):
            last = int(self.steps[row])
            own = found[at, place :: self.count][k:last]
            columns = {"statecast": own[:, 0]}
            for i, level in enumerate(self.levels):
                columns[f"statecast-lo-{level:g}"] = own[:, 1 + 2 * i]
                columns[f"statecast-hi-{level:g}"] = own[:, 2 + 2 * i]
            when = self._when(row, last)
            y = self.y[row, place :: self.count][:last]
            seen = ~np.isnan(y)
            name = str(self.panel.ids[row : row + 1].tolist()[0])
            fan = Fan.of(name, when[k:], columns, self.levels, (when[seen], y[seen]))
            score = score_of(sums[row])
            coverage = float("nan") if score.coverage is None else score.coverage
            yield Item(name, score.crps, coverage, fan)

    def _when(self, row: int, last: int) -> np.ndarray:
        """The first ``last`` steps of an item: their numbers, or their local dates."""
        step, panel, spacing = np.arange(1, last + 1), self.panel, self.schema.spacing
        if spacing is None or panel.origin is None or np.isnat(panel.origin[row]):
            return (step + self.schema.first - 1).astype(np.float64)
        place = spacing.dates(np.repeat(panel.origin[row], last).astype("datetime64[us]"), step)
        return spacing.clock_of(place, self.schema.output(panel.kind).form.zone)

    def _influence(self, k: int) -> list[dict[str, float]]:
        """By target: the mean absolute change of the median forecast without each feature."""
        names = [*self.schema.static.numeric, *self.schema.static.categories]
        rows = np.flatnonzero(self.steps > k)
        if not names or not len(rows):
            return [{} for _ in range(self.count)]
        if len(rows) > _EXPLAINED:
            rows = np.sort(np.random.default_rng(0).permutation(rows)[:_EXPLAINED])
        until = int(self.steps[rows].max()) * self.count
        begun = self.panel.take(rows).prefix(k * self.count)

        def median(part: Panel) -> np.ndarray:
            return self.model.quantiles(part, until, (0.5,))[..., 0]

        _, found = effects(
            median, begun, len(self.schema.static.numeric), len(self.schema.static.categories)
        )
        there = self.panel.mask[rows, :until]  # the steps that are scored
        return [
            {
                name: _mean(np.abs(found[:, i, place :: self.count]), there[:, place :: self.count])
                for i, name in enumerate(names)
            }
            for place in range(self.count)
        ]


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    there = where & ~np.isnan(values)
    return float(values[there].mean()) if there.any() else 0.0


def _added(sums: np.ndarray | None, more: np.ndarray) -> np.ndarray:
    """The sum of two arrays by step, of which one may have more steps."""
    if sums is None:
        return more
    found = np.zeros((max(len(sums), len(more)), more.shape[1]))
    for each in (sums, more):
        found[: len(each)] += each
    return found


def _add_histogram(histogram: np.ndarray, truth: np.ndarray, quantiles: np.ndarray) -> None:
    """Add the tenths in which values lie; ``quantiles`` are those at ``FINE``."""
    seen = ~np.isnan(truth)
    y, q = truth[seen][:, None], quantiles[seen]
    # A value that equals quantiles may be anywhere from below the first to above the last of them:
    # the parts between them count in full, and the ones at the ends by half.
    first, last = (q < y).sum(axis=1), (q <= y).sum(axis=1)
    wide = (last - first).astype(np.float64)
    for shift in range(q.shape[1] + 1):
        part = first + shift
        inside = part <= last
        if not inside.any():
            break
        share = np.where(wide == 0, 1.0, 1.0 / np.maximum(wide, 1))
        share = np.where((wide > 0) & ((shift == 0) | (part == last)), share / 2, share)
        np.add.at(histogram, part[inside] * BINS // (q.shape[1] + 1), share[inside])


def _share(by_group: np.ndarray) -> tuple[float, float, float]:
    """The share of values within the interval, and its 95 % interval by a bootstrap."""
    by_group = by_group[by_group[:, 1] > 0]
    within, values = by_group.sum(axis=0)
    if len(by_group) < 2:
        return float(within / values), float("nan"), float("nan")
    rng = np.random.default_rng([0, len(by_group)])
    times = rng.multinomial(len(by_group), np.full(len(by_group), 1 / len(by_group)), 1000)
    drawn = times @ by_group
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    return float(within / values), float(low), float(high)
