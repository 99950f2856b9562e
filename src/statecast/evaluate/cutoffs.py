"""Cutoffs: what is known of each item at a time, and what is scored after it.

The time of an item's step is its date; or, if steps are numbers, the time of its step 1 plus the
number of steps after it. What is at the time of a cutoff or before is known.
"""

from __future__ import annotations

import datetime
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from statecast.checks import check_whole, is_number, is_whole
from statecast.errors import ArgumentError, DataError, listed, quoted
from statecast.evaluate.folds import Items
from statecast.tables.columns import read_floats
from statecast.tables.dates import Form, Spacing
from statecast.tables.source import Table, open_table
from statecast.tables.steps import read_when

_FARTHEST = 1e12  # of a launch and a cutoff that are numbers: steps are exact in float64
_Time = TypeVar("_Time")  # a float, or a place on the grid of the dates


@dataclass(frozen=True, eq=False)
class Cutoff:
    """What is known of each item at a time, and what is scored after it.

    Attributes
    ----------
    time : int, float, datetime.date or datetime.datetime
        The last time that is known. A datetime of a time zone is in UTC.
    text : str
        The time, for messages.
    step : ndarray, shape (items,), int64
        The step of each item at this time; below 1 for an item that is launched later.
    known : ndarray, shape (items,), int64
        The prefix lengths: the last observed step up to ``step``.
    last : ndarray, shape (items,), int64
        The last step that is scored.
    group : ndarray, shape (items,), int64
        The largest k of the group in which the item is scored; -1 for an item that is not forecast.
    """

    time: Any
    text: str
    step: np.ndarray
    known: np.ndarray
    last: np.ndarray
    group: np.ndarray

    @property
    def trained(self) -> np.ndarray:
        """The training items, ``(items,)``, bool: those with an observation."""
        return self.known > 0

    @property
    def forecast(self) -> np.ndarray:
        """The items to forecast, ``(items,)``, bool."""
        return self.group >= 0


def fewest_known(known: Sequence[int]) -> dict[int, int]:
    """Return the smallest k of each group by its largest one. The first group has a single k."""
    return {k: before + 1 for before, k in zip((known[0] - 1, *known), known, strict=False)}


def read_cutoffs(
    items: Items, cutoffs: Any, launch: Any, static: Any, known: Sequence[int], h: int | None
) -> list[Cutoff]:
    """Return the cutoffs in the order of time.

    The parameters are those of ``cross_validation``; ``known`` is checked.

    Raises
    ------
    ArgumentError
        Steps without times, times outside the data, a cutoff at which no item is known or after
        which nothing is scored.
    DataError
        A launch that is missing or no number.
    """
    if h is not None:
        h = check_whole("h", h)
    times = _times_of(items, launch, static)
    if is_whole(cutoffs):
        chosen = times.spread(cutoffs, _last_young(items, known[-1]))
    else:
        chosen = times.read(_listed(cutoffs))
    found = []
    for time in sorted(set(chosen)):
        text = times.text(time)
        if not times.first <= time < times.end:
            raise ArgumentError(
                f"cutoffs: expected times from {times.text(times.first)}, the first launch, to "
                f"before {times.text(times.end)}, the last observation; received {text}."
            )
        step = times.steps(time)
        prefix = items.last_up_to(step)
        last = items.last if h is None else items.last_up_to(step + h)
        place = np.searchsorted(known, prefix)
        group = np.append(known, -1)[place]
        group[(prefix < known[0]) | (last <= prefix)] = -1
        cutoff = Cutoff(times.value(time), text, step, prefix, last, group)
        if not cutoff.trained.any():
            raise ArgumentError(
                f"cutoffs: expected an item with an observation up to each; received {text}, "
                "without one. Choose a later time."
            )
        if not cutoff.forecast.any():
            raise ArgumentError(
                f"cutoffs: expected observations to score after each, of items with a prefix of "
                f"{known[0]} to {known[-1]} steps; received {text}, after which there are none"
                + ("" if h is None else f" within {h} steps")
                + ". Choose another time, or pass a larger prefix length in known."
            )
        found.append(cutoff)
    return found


def _last_young(items: Items, known: int) -> np.ndarray:
    """Return the last step of each item up to which it has at most ``known`` observed steps and
    after which it is observed, int64; undefined for an item without observations."""
    observed = items.observed
    older = observed & (np.arange(observed.shape[1]) >= known)
    return np.where(older.any(axis=1), older.argmax(axis=1), items.last - 1)


def _listed(cutoffs: Any) -> list[Any]:
    """Return one time or several as a list."""
    if isinstance(cutoffs, (str, datetime.date, np.datetime64)) or is_number(cutoffs):
        return [cutoffs]
    try:
        several = list(cutoffs)
    except TypeError:
        several = []
    if not several:
        raise ArgumentError(
            f"cutoffs: expected times, or a number of cutoffs; received {cutoffs!r}."
        )
    return several


class _Times(ABC, Generic[_Time]):
    """The times of the steps of all items.

    Attributes
    ----------
    launch : ndarray, shape (items,)
        The time of step 1; undefined for an item without an observation.
    first, end
        The first launch and the time of the last observation.
    """

    def __init__(self, launch: np.ndarray, last: np.ndarray) -> None:
        self.launch, self._observed = launch, last > 0
        self.first: _Time = launch[self._observed].min()
        self.end: _Time = self._at(launch, last)[self._observed].max()

    def steps(self, time: _Time) -> np.ndarray:
        """Return the step of each item at a time, int64; 0 for an item without observations."""
        step = np.zeros(len(self.launch), np.int64)
        step[self._observed] = self._steps(time, self.launch[self._observed])
        return step

    def spread(self, count: int, young: np.ndarray) -> list[_Time]:
        """Return a number of cutoffs that divide the second half of a time into equal parts.

        They are ``first`` plus ``total (count + j) / (2 count)`` steps, rounded down, for j from 0
        to ``count - 1``, where ``total`` is the number of steps from ``first`` to the latest time
        of the steps ``young (items,)``.
        """
        count = check_whole("cutoffs", count, expected="times, or a number of cutoffs from 1")
        end = self._at(self.launch, young)[self._observed].max()
        total = int(self._steps(end, np.array([self.first]))[0]) - 1
        after = {total * (count + j) // (2 * count) for j in range(count)}
        if len(after) < count:
            raise ArgumentError(
                f"cutoffs: expected times, or a number of cutoffs up to {max(total // 2, 1)}, as "
                f"there are {max(total, 0)} steps from the first launch to the last time at which "
                f"an item to forecast is young; received {count}. If it is a time, pass it in a "
                "list."
            )
        return [self._at(np.array([self.first]), np.array([1 + each]))[0] for each in after]

    @abstractmethod
    def _at(self, launch: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Return the times of steps."""

    @abstractmethod
    def _steps(self, time: _Time, launch: np.ndarray) -> np.ndarray:
        """Return the last step up to a time, int64; below 1 before the launch."""

    @abstractmethod
    def read(self, given: list[Any]) -> list[_Time]:
        """Return times that the user passes."""

    @abstractmethod
    def value(self, time: _Time) -> Any:
        """Return a time as ``Cutoff.time``."""

    @abstractmethod
    def text(self, time: _Time) -> str:
        """Return a time as text."""


class _Numbers(_Times[float]):
    """Times that are numbers, in the unit of the steps."""

    def _at(self, launch: np.ndarray, step: np.ndarray) -> np.ndarray:
        return launch + (step - 1)

    def _steps(self, time: float, launch: np.ndarray) -> np.ndarray:
        return np.floor(time - launch).astype(np.int64) + 1

    def read(self, given: list[Any]) -> list[float]:
        for time in given:
            if not is_number(time, -_FARTHEST, _FARTHEST):
                raise ArgumentError(
                    "cutoffs: expected numbers in the unit of the steps, as the steps are numbers; "
                    f"received {time!r}."
                )
        return [float(time) for time in given]

    def value(self, time: float) -> int | float:
        return int(time) if float(time).is_integer() else float(time)

    def text(self, time: float) -> str:
        return str(self.value(time))


class _Dates(_Times[np.datetime64]):
    """Times that are dates. In this class they are places on the grid; see ``Spacing``."""

    def __init__(self, launch: np.ndarray, last: np.ndarray, spacing: Spacing, form: Form) -> None:
        self._spacing, self._form = spacing, form
        super().__init__(launch, last)

    def _at(self, launch: np.ndarray, step: np.ndarray) -> np.ndarray:
        return self._spacing.dates(launch, step)

    def _steps(self, time: np.datetime64, launch: np.ndarray) -> np.ndarray:
        place = np.full(len(launch), time)
        step, _ = self._spacing.steps(place, launch)
        # Calendar months are counted without their days: a step may still be to come.
        return step - (self._spacing.dates(launch, step) > place)

    def read(self, given: list[Any]) -> list[np.datetime64]:
        import narwhals.stable.v2 as nw
        import polars as pl

        zone = self._form.zone
        expected = (
            f"cutoffs: expected dates {'without' if zone is None else 'with'} a time zone, as "
            "those of the steps (of a date type, or ISO text such as 2026-01-31)"
        )
        text = all(isinstance(time, str) for time in given)
        if not text and not all(isinstance(t, (datetime.date, np.datetime64)) for t in given):
            raise ArgumentError(f"{expected}; received {listed(given)}.")
        column = pl.Series("cutoffs", given, dtype=pl.String if text else pl.Object)
        table = Table(nw.from_native(pl.DataFrame([column])), "cutoffs", "polars", False)
        try:
            when, form = read_when(table, "cutoffs", given)
        except DataError as error:
            raise ArgumentError(f"{expected}; received {listed(given)}.") from error
        if (form.zone is None) != (zone is None):
            raise ArgumentError(f"{expected}; received {listed(given)}.")
        return list(self._spacing.place(when, zone))

    def value(self, time: np.datetime64) -> datetime.date:
        date: Any = self._date(time).item()
        if self._form.zone is not None:
            return date.replace(tzinfo=datetime.UTC)
        whole = self._form.type == "Date" and date.time() == datetime.time()
        return date.date() if whole else date

    def text(self, time: np.datetime64) -> str:
        return self._form.say(self._date(time))

    def _date(self, place: np.datetime64) -> np.datetime64:
        return self._spacing.date(np.array([place]), self._form.zone)[0]


def _times_of(items: Items, launch: Any, static: Any) -> _Times[Any]:
    """Return the times of the steps; see ``read_cutoffs``."""
    spacing, form = items.schema.spacing, items.panel.kind.steps
    if spacing is None or form is None:
        if launch is None:
            raise ArgumentError(
                "by='launch': expected steps that are dates, or launch=, the time of each item's "
                "step 1; the steps are numbers and launch is None. Pass the name of a column of "
                "the static table, or a mapping of ids to numbers."
            )
        return _Numbers(_launches(items, launch, static), items.last)
    if launch is not None:
        raise ArgumentError(
            "launch: expected None if steps are dates, as the launch is the date of step 1 (an "
            f"item's first row, or start_col); received {quoted(launch)}."
        )
    assert items.panel.origin is not None  # steps are dates
    return _Dates(items.panel.origin, items.last, spacing, form)


def _launches(items: Items, launch: Any, static: Any) -> np.ndarray:
    """Return the time of each item's step 1 as a number, float64."""
    ids = items.ids.tolist()
    if isinstance(launch, str):
        values, where = _column(static, launch), f"column {launch!r}"
    elif isinstance(launch, Mapping):
        values, where = [launch.get(item) for item in ids], "the mapping"
    elif isinstance(items.tables["series"], np.ndarray) and np.shape(launch) == (len(ids),):
        values, where = list(launch), "the array"
    else:
        raise ArgumentError(
            "launch: expected the name of a column of the static table, a mapping of ids to "
            "numbers, or for arrays a number for each row; received "
            f"{type(launch).__name__}{f' of shape {np.shape(launch)}' * bool(np.shape(launch))}."
        )
    for item, value, observed in zip(ids, values, items.last > 0, strict=True):
        if observed and not is_number(value, -_FARTHEST, _FARTHEST):
            missing = value is None or (isinstance(value, float) and math.isnan(value))
            raise DataError(
                f"launch, {where}: expected the time of step 1 for each item, a number in the unit "
                f"of the steps; item {quoted(item)} has {'none' if missing else quoted(value)}. "
                "If launches are dates, pass dates as steps.",
                column=launch if isinstance(launch, str) else None,
                item=item,
            )
    return np.array([v if is_number(v) else np.nan for v in values], np.float64)


def _column(static: Any, name: str) -> list[Any]:
    """Return a column of the static table: numbers, or its cells as they are."""
    table = None if static is None else open_table(static, "static", "X")
    if not isinstance(table, Table) or name not in table.columns:
        columns = listed(table.columns) if isinstance(table, Table) else "no table"
        raise ArgumentError(
            f"launch: expected the name of a column of the static table; received {name!r}, and "
            f"{columns}."
        )
    values, bad = read_floats(table.column(name), table.text)
    return table.column(name).to_list() if bad.any() else values.tolist()
