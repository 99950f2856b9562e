"""The grid of steps: find the step of each row of a table, and check the steps of a series."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np

from statecast.errors import DataError, listed, quoted
from statecast.tables.dates import Calendar, Spacing, first_dates, learn_calendar, learn_spacing
from statecast.tables.parse import Parsed
from statecast.tables.source import BATCH, fail
from statecast.tables.steps import MAX_STEPS, Long, Names, Series, Steps, check_cells

_SPARSE_STEPS, _FILLED = 3000, 0.1  # longer grids need rows at this share of their steps
_LEAD = 10, 100  # see ``Schema.first``: numbers below the first one in the series


def spacing_of(series: Series, ids: list[Any], step_col: str) -> Spacing:
    """Return the grid of the dates.

    The distance is learnt from the first items, which have about ``BATCH`` rows together.
    """
    rows = np.zeros(len(ids), np.int64)
    for long in series:
        rows += np.bincount(long.row, minlength=len(ids))
    some = np.flatnonzero(rows >= 2)
    some = some[: max(1, int(np.searchsorted(np.cumsum(rows[some]), BATCH, side="right")))]
    chosen = np.isin(np.arange(len(ids)), some)
    parts = [(long.when[chosen[long.row]], long.row[chosen[long.row]]) for long in series]
    when, row = (np.concatenate(part) for part in zip(*parts, strict=True))
    spacing = learn_spacing(
        when, row, lambda: ((long.when, long.row) for long in series), len(ids), series.form.zone
    )
    if spacing is None:
        raise DataError(
            f"{series.label}, column {step_col!r}: expected an item with two dates, to learn how "
            "far apart steps are; received one date for each item. Number the steps 1, 2, ... "
            "instead.",
            column=step_col,
            item=ids[0],
        )
    return spacing


@dataclass(frozen=True, eq=False)
class PlacedRows:
    """The rows of the series on the grid.

    Iteration gives batches of rows, each with the step of every row (int64).
    """

    series: Series | None
    spacing: Spacing | None
    origin: np.ndarray | None  # (items,): the place of step 1; None if steps are numbers
    ids: list[Any]
    names: Names
    launched: np.ndarray  # (items,) bool: those whose step 1 is at a launch date
    first: int  # the number of step 1, where steps are numbers

    def __iter__(self) -> Iterator[tuple[Long, np.ndarray]]:
        if self.series is None:
            return
        if not self.series.several:
            yield self._only
            return
        for long in self.series:
            yield long, self._steps(long)

    @cached_property
    def _only(self) -> tuple[Long, np.ndarray]:
        """The rows of a series that is one batch, and the step of each."""
        assert self.series is not None  # it has a batch
        (long,) = self.series
        return long, self._steps(long)

    def _steps(self, long: Long) -> np.ndarray:
        """Return the step of each row of a batch."""
        if self.spacing is None or self.origin is None:
            return self._numbered(long)
        origin = self.origin[long.row]
        place = self.spacing.place(long.when, long.form.zone)
        step, on_grid = self.spacing.steps(place, origin)
        good = on_grid & (step >= 1) & (step <= MAX_STEPS)
        if not good.all():
            at = int(np.argmin(good))
            launch = self.names.start_col if self.launched[long.row[at]] else None
            step_col = self.names.step_col
            _fail_off_grid(long, at, origin, self.spacing, self.ids, step_col, launch)
        return step

    def _numbered(self, long: Long) -> np.ndarray:
        """Return the step of each row, from 1, if steps are numbers."""
        step = long.when.astype(np.int64) - (self.first - 1)
        if step.min(initial=1) < 1:
            at = int(np.argmin(step))
            fail(
                long.label,
                self.names.step_col,
                f"steps from {self.first}, the first step of the training items",
                f"{long.when[at]:g}",
                self.ids[long.row[at]],
                "Leave such rows out; or fit with them, or with a row of that step without a value "
                f"of {listed(self.names.targets)}.",
            )
        return step

    def values(self, target: int) -> Iterator[np.ndarray]:
        """Yield the observed values of a target, by its index, one array for each batch."""
        for long in self.series or ():
            y = long.y[:, target]
            yield y[~np.isnan(y)]

    def observed(self, target: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the observed values of a target and their steps, from 1, as ``values`` does."""
        for long, step in self:
            y = long.y[:, target]
            there = ~np.isnan(y)
            yield y[there], step[there]


def calendar_of(placed: PlacedRows, seen: Survey) -> Calendar:
    """Return the calendar of the series; see ``learn_calendar``."""
    if placed.spacing is None or placed.origin is None or placed.series is None:
        return Calendar()
    spacing, zone = placed.spacing, placed.series.form.zone
    observed = (
        spacing.place(long.when[~np.isnan(long.y).all(axis=1)], zone) for long in placed.series
    )
    return learn_calendar(spacing, zone, observed, placed.origin, seen.known, seen.observed)


def place_rows(
    parsed: Parsed,
    spacing: Spacing | None,
    names: Names,
    zone: str | None,
    number: int,
    origin: np.ndarray | None = None,
) -> PlacedRows:
    """Return the rows of the series on the grid.

    Step 1 is at ``origin`` (of an earlier result of this function), else at the launch date, else
    at the item's first row.

    Parameters
    ----------
    zone : str or None
        The time zone of the series.
    number : int
        The number of step 1, if steps are numbers.
    origin : ndarray, shape (items,), datetime64[us], optional
        NaT for an item without one.
    """
    series, rows = parsed.series, len(parsed.ids)
    if series is not None:
        _check_form(series, spacing, names.step_col, parsed.ids)
    launched = np.zeros(rows, bool)
    if spacing is None:
        origin = None
    else:
        given = np.full(rows, "NaT") if origin is None else np.asarray(origin)
        origin = given.astype("datetime64[us]")
        start = parsed.start
        if start is not None and names.start_col is not None:
            _check_form(start, spacing, names.start_col, parsed.ids)
            launched[start.row] = np.isnat(origin[start.row])
            at = spacing.place(start.when, zone)
            origin[start.row] = np.where(np.isnat(origin[start.row]), at, origin[start.row])
        places = ((spacing.place(long.when, long.form.zone), long.row) for long in series or ())
        first = first_dates(places, rows)
        origin = np.where(np.isnat(origin), first, origin)
    return PlacedRows(series, spacing, origin, parsed.ids, names, launched, number)


def planned_steps(
    parsed: Parsed,
    spacing: Spacing | None,
    step_col: str,
    origin: np.ndarray | None,
    first: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the step of each row of the future table, and the place of each item's step 1.

    Rows before step 1 have steps below 1. An item without ``origin`` has step 1 at its first row
    in this table.
    """
    table = parsed.future
    if table is None:
        return np.zeros(0, np.int64), origin
    _check_form(table, spacing, step_col, parsed.ids)
    if spacing is None or origin is None:
        return table.when.astype(np.int64) - (first - 1), None
    ours = np.flatnonzero(table.row >= 0)
    place, row = spacing.place(table.when[ours], table.form.zone), table.row[ours]
    step = np.zeros(len(table.row), np.int64)
    origin = np.where(np.isnat(origin), first_dates([(place, row)], len(origin)), origin)
    step[ours], on_grid = spacing.steps(place, origin[row])
    if not on_grid.all():
        at = int(ours[np.argmin(on_grid)])
        _fail_off_grid(table, at, origin[table.row], spacing, parsed.ids, step_col)
    return step, origin


def _check_form(
    table: Steps | Series, spacing: Spacing | None, column: str, ids: list[Any]
) -> None:
    """Raise unless the steps are dates, with or without a time zone, or numbers, as in ``fit``."""

    def named(dated: bool, zoned: bool, number: str) -> str:
        return f"dates {'with' if zoned else 'without'} a time zone" if dated else number

    expected = (spacing is not None, spacing is not None and spacing.clock != "none")
    received = (table.form.dated, table.form.zone is not None)
    if received != expected:
        fail(
            table.label,
            column,
            f"{named(*expected, 'steps from 1')}, as in fit",
            named(*received, "numbers"),
            ids[0],
            "Convert them.",
        )


def _fail_off_grid(
    table: Steps,
    at: int,
    origin: np.ndarray,
    spacing: Spacing,
    ids: list[Any],
    step_col: str,
    start_col: str | None = None,
) -> NoReturn:
    """Raise for row ``at`` of a table, which is not on the grid.

    ``origin`` is the place of step 1 of each row's item: a launch date if ``start_col`` is given.
    """
    zone = table.form.zone
    start = table.form.say(spacing.date(origin[at : at + 1], zone)[0])
    first, advice = "item's first", "Correct the date, or number the steps 1, 2, ... yourself."
    if start_col is not None:
        first = f"launch date in column {quoted(start_col)}"
        advice = "Correct the date, or the launch date."
    fail(
        table.label,
        step_col,
        f"dates from the {first}, {start}, one every {spacing.short}",
        table.form.say(table.when[at]),
        ids[table.row[at]],
        advice,
    )


@dataclass(frozen=True, eq=False)
class Survey:
    """Counts and extremes of the series."""

    placed: PlacedRows
    rows: np.ndarray  # (items,) int64: the rows of each item
    observed: np.ndarray  # (items,) int64: its rows with a value of any target
    known: np.ndarray  # (items,) int64: its last step at which any target was observed
    last: int  # the largest step of all rows

    @classmethod
    def of(cls, placed: PlacedRows) -> Survey:
        """Return the survey of a series."""
        items = len(placed.ids)
        rows, observed, known = (np.zeros(items, np.int64) for _ in range(3))
        last = 0
        for long, step in placed:
            some = ~np.isnan(long.y).all(axis=1)
            row = long.row[some]
            rows += np.bincount(long.row, minlength=items)
            observed += np.bincount(row, minlength=items)
            np.maximum.at(known, row, step[some])
            last = int(step.max(initial=last))
        return cls(placed, rows, observed, known, last)

    @cached_property
    def _extent(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``at``, ``least`` and ``most``, which only ``fit`` needs, from another pass."""
        targets = len(self.placed.names.targets)
        at = np.zeros((int(self.known.max(initial=0)), targets), bool)
        least, most = np.full(targets, math.inf), np.full(targets, -math.inf)
        for long, step in self.placed:
            for target, own in enumerate(~np.isnan(long.y).T):
                at[step[own] - 1, target] = True
                least[target] = long.y[own, target].min(initial=least[target])
                most[target] = long.y[own, target].max(initial=most[target])
        return at, least, most

    @property
    def at(self) -> np.ndarray:
        """Whether any item has the target at the step, shape (steps, targets), bool."""
        return self._extent[0]

    @property
    def least(self) -> np.ndarray:
        """The smallest value of each target, shape (targets,), float64."""
        return self._extent[1]

    @property
    def most(self) -> np.ndarray:
        """The largest value of each target, shape (targets,), float64."""
        return self._extent[2]


def first_number(series: Series) -> int:
    """Return the number of step 1 of a series whose steps are numbers; see ``Schema.first``."""
    least = int(min(long.when.min(initial=MAX_STEPS) for long in series))
    most = int(max(long.when.max(initial=1) for long in series))
    below = least - 1
    shortest, longest = _LEAD
    return least if below >= min(longest, max(shortest, most - below)) else 1


def check_no_years(series: Series, seen: Survey, step_col: str, first: int) -> None:
    """Raise if every step is a year followed by a month, a week or a quarter, as in 202401."""
    numbers = np.flatnonzero(seen.at.any(axis=1)) + first
    for what, size, most in (("month", 100, 12), ("week", 100, 53), ("quarter", 10, 4)):
        year, part = np.divmod(numbers, size)
        if not len(numbers) or year[0] < 1900 or year[-1] > 2100:
            continue
        # Quarters of one year may be steps of their own: 20,201 to 20,204.
        if part.min() < 1 or part.max() > most or (what == "quarter" and year[0] == year[-1]):
            continue
        number, in_year, part = int(numbers[0]), int(year[0]), int(part[0])
        if what == "week":
            date = dt.date.fromisocalendar(in_year, min(part, 52), 1)
        else:
            date = dt.date(in_year, part if what == "month" else 3 * part - 2, 1)
        raise DataError(
            f"{series.label}, column {quoted(step_col)}: expected steps from 1, or dates; received "
            f"numbers such as {number}, a year and a {what} in one. Most numbers between two years "
            f"would be empty steps. Convert them to dates: {date} for {number}.",
            column=step_col,
        )


def check_filled(placed: PlacedRows, seen: Survey) -> None:
    """Raise if a long grid has rows at few of its steps: all steps take memory and time."""
    steps, share = int(seen.known.max(initial=0)), seen.rows.sum() / max(seen.known.sum(), 1)
    if steps <= _SPARSE_STEPS or share >= _FILLED:
        return
    assert placed.series is not None  # its rows have been counted
    at = np.flatnonzero(seen.at.any(axis=1)) + 1
    apart = int(np.gcd.reduce(np.diff(at))) if len(at) > 1 else 1
    if placed.spacing is not None:
        advice = "Round the dates to a coarser grid, or number the rows of each item 1, 2, ..."
    elif apart > 1:
        advice = f"Steps are multiples of {apart:,} apart: count in units of {apart:,}."
    else:
        advice = "Correct a step that is too large, or number the rows of each item 1, 2, ..."
    fail(
        placed.series.label,
        placed.names.step_col,
        f"rows at {_FILLED:.0%} of the steps or more, in series of over {_SPARSE_STEPS:,} steps",
        f"{int(seen.rows.sum()):,} rows for {int(seen.known.sum()):,} steps, up to "
        f"{steps + placed.first - 1:,}",
        placed.ids[int(np.argmax(seen.known))],
        advice,
    )


def check_points(placed: PlacedRows, seen: Survey, all_missing: bool = True) -> None:
    """Raise for a repeated item and step; if ``all_missing``, also for an item without
    observations."""
    series, step_col = placed.series, placed.names.step_col
    if series is None:
        return
    met = None
    if series.several:  # a row may repeat a row of an earlier batch
        check_cells(len(placed.ids), seen.last, "the table")
        met = np.zeros((len(placed.ids), seen.last), bool)
    for long, step in placed:
        every = np.arange(len(step))
        check_once(long, every, long.row, step, placed.ids, step_col, placed.first, met)
    empty = (seen.rows > 0) & (seen.observed == 0)
    if all_missing and empty.any():
        column, *others = placed.names.targets
        fail(
            series.label,
            column,
            "at least one observation for each item"
            + (f", in this column or in {listed(others)}" if others else ""),
            "missing values everywhere",
            placed.ids[int(np.argmax(empty))],
            "For a forecast from k = 0, leave the item out of the series table.",
        )


def check_new(placed: PlacedRows, known: np.ndarray, *, arrays: bool) -> None:
    """Raise for a row at a step that its item has taken; ``known (items,)`` are the last ones."""
    for long, step in placed:
        stale = step <= known[long.row]
        if stale.any():
            at = int(np.argmax(stale))
            last, number = int(known[long.row[at]]), placed.first - 1
            fail(
                long.label,
                placed.names.step_col,
                f"steps after {last + number}, the last step that the item has taken",
                f"step {int(step[at]) + number}",
                placed.ids[long.row[at]],
                "An array begins at step 1: the steps that were taken before must be NaN."
                if arrays
                else "Pass the new rows only.",
            )


def check_once(
    table: Steps,
    at: np.ndarray,
    row: np.ndarray,
    step: np.ndarray,
    ids: list[Any],
    step_col: str,
    first: int,
    met: np.ndarray | None = None,
) -> None:
    """Raise for a repeated item and step among the rows ``at`` of a table.

    ``first`` is the number of step 1. ``met (items, steps)``, bool, marks the items and steps of
    earlier batches; those of this table are added to it.
    """
    place = row * (MAX_STEPS + 1) + step
    if met is None and (place[1:] > place[:-1]).all():  # the table is sorted
        return
    again = np.ones(len(step), bool)
    again[np.unique(place, return_index=True)[1]] = False
    if met is not None:
        again |= met[row, step - 1]
        met[row, step - 1] = True
    if again.any():
        which = int(np.argmax(again))
        fail(
            table.label,
            step_col,
            "each step of an item once",
            f"{table.form.say(table.when[at[which]])} again"
            if table.form.dated
            else f"step {step[which] + first - 1} again",
            ids[row[which]],
            "Keep one row of them."
            + " If the clock was set back between them, pass dates with their "
            "time zone, or in UTC." * (table.form.type == "Datetime" and table.form.zone is None),
        )
