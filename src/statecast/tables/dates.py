"""Steps that are dates: time zones, the spacing of a grid, the hours, weekdays and months at which
nothing is ever observed, and how a column of steps is written.

Inside the library a date is a ``datetime64[us]``: of a column with a time zone the instant in
UTC, of one without a zone the clock it shows. A grid may count either; see ``Spacing``.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from statecast.checks import is_whole
from statecast.errors import ModelFileError

_DAY = 86_400_000_000  # microseconds
_OFFSET = re.compile(r"(?:UTC)?([+-])(\d\d):?(\d\d)")
_INTEGERS = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
_FLOATS = ("Float32", "Float64")
_DATES = ("Date", "Datetime")
_CELLS = ("typed", "arrow", "objects", "text")
_UNITS = ("s", "ms", "us", "ns")  # of a typed column
_PRECISIONS = ("M", "D", "m", "s", "ms", "us")  # of a text


# -- time zones ------------------------------------------------------------------------


def _fixed(zone: str) -> np.timedelta64 | None:
    """Return the offset that a name such as +02:00 or UTC-03:30 means; None for other names."""
    found = _OFFSET.fullmatch(zone)
    if found is None:
        return None
    minutes = 60 * int(found[2]) + int(found[3])
    return np.timedelta64(-minutes if found[1] == "-" else minutes, "m")


@lru_cache
def known_zone(zone: str) -> bool:
    """Return whether a time zone can be computed with: a fixed offset, or an IANA name."""
    import polars as pl

    try:
        pl.Series([0]).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(zone)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return _fixed(zone) is not None
    return True


def wall(when: np.ndarray, zone: str | None) -> np.ndarray:
    """Return the clock of a time zone at instants in UTC; both datetime64[us], NaT stays."""
    if zone is None:
        return when
    fixed = _fixed(zone)
    if fixed is not None:
        return when + fixed
    import polars as pl

    column = pl.Series(np.ascontiguousarray(when, "datetime64[us]")).dt
    column = column.replace_time_zone("UTC").dt.convert_time_zone(zone).dt
    return column.replace_time_zone(None).to_numpy().astype("datetime64[us]")


def instant(clock: np.ndarray, zone: str | None) -> np.ndarray:
    """Return the instants in UTC at which a time zone's clock shows some times.

    Of a time that comes twice, as the clock is set back, it is the first. A time that is left out,
    as the clock is set forward, is as long after the change as it would have been.
    """
    if zone is None:
        return clock
    fixed = _fixed(zone)
    if fixed is not None:
        return clock - fixed
    import polars as pl

    def convert(times: np.ndarray) -> np.ndarray:
        column = pl.Series(np.ascontiguousarray(times, "datetime64[us]")).dt
        column = column.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt
        column = column.convert_time_zone("UTC").dt.replace_time_zone(None)
        return column.to_numpy().astype("datetime64[us]")

    found = convert(clock)
    left_out = np.isnat(found) & ~np.isnat(clock)
    if left_out.any():  # counted on from the day before
        day = np.timedelta64(_DAY, "us")
        found[left_out] = convert(clock[left_out] - day) + day
    return found


def in_utc(column: Any) -> Any:
    """Return a column of dates with a time zone as one without, in UTC."""
    native = column.to_native()
    if getattr(getattr(native, "dtype", None), "tz", None) is not None:  # see Form.of
        return nw.from_native(native.dt.tz_convert(None), series_only=True)
    return column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)


# -- how steps are written -------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """How a column of steps is written, so that those of a forecast are written alike.

    Attributes
    ----------
    type : str
        ``"Date"``, ``"Datetime"``, or a type of numbers: ``"Int64"``, ``"Float32"``, ...
    unit : {"s", "ms", "us", "ns"}
        Of a datetime; of a text its precision, ``"M"`` to ``"us"``.
    zone : str or None
        The time zone.
    cells : {"typed", "arrow", "objects", "text"}
        Whether the column has that type, is one of pandas that Arrow stores, or holds Python's
        dates, or ISO text.
    separator : {"T", " "}
        Between the date and the time of a text.
    """

    type: str = "Int64"
    unit: str = "us"
    zone: str | None = None
    cells: str = "typed"
    separator: str = "T"

    @classmethod
    def of(cls, column: Any) -> Form:
        """Return the form of a column that has a type, of numbers or of dates."""
        dtype = column.dtype
        native: Any = getattr(column.to_native(), "dtype", None)
        cells = "arrow" if str(native).endswith("[pyarrow]") else "typed"
        zone = getattr(native, "tz", None)
        if zone is not None:  # narwhals reads no zone such as America/New_York in pandas's name
            return cls("Datetime", native.unit, str(zone), cells)
        if isinstance(dtype, nw.Datetime):
            return cls("Datetime", dtype.time_unit, dtype.time_zone, cells)
        name = type(dtype).__name__
        known = name in (*_INTEGERS, *_FLOATS, *_DATES)
        return cls(name, cells=cells) if known else cls()

    @classmethod
    def of_text(cls, text: str, zone: str | None = None) -> Form:
        """Return the form of ISO texts like this one."""
        time = re.sub(r" ?(Z|[+-]\d\d:?\d\d)$", "", text[11:])
        units = {7: "M", 10: "D", 16: "m", 19: "s"}
        unit = units.get(len(text[:11] + time[:8]), "s")
        if "." in time:
            unit = "ms" if len(time.partition(".")[2]) <= 3 else "us"
        separator = " " if text[10:11] == " " else "T"
        return cls("Datetime" if time else "Date", unit, zone, "text", separator)

    @property
    def dated(self) -> bool:
        """Whether steps are dates; else they are numbers."""
        return self.type in _DATES

    def say(self, when: Any) -> str:
        """Return a date in words, on the clock of its zone."""
        text = np.datetime_as_string(wall(np.array([when], "datetime64[us]"), self.zone)[0], "auto")
        return text if self.zone is None else f"{text} ({self.zone})"

    def column(self, name: str, steps: np.ndarray, library: str) -> Any:
        """Return steps as a column of narwhals of this form, as far as the library has it.

        ``steps`` are whole numbers, or dates as the library computes with them.
        """
        backend: Any = library
        if not self.dated:
            series = nw.from_dict({name: steps}, backend=backend)[name]
            small = self.type in _INTEGERS and len(steps)
            if small and steps.max() > np.iinfo(self.type.lower()).max:
                return series
            return series.cast(getattr(nw, self.type)())
        if self.cells == "text":
            clock = wall(steps, self.zone)
            unit: Any = self.unit
            texts = np.datetime_as_string(clock.astype(f"datetime64[{unit}]")).tolist()
            texts = [None if t == "NaT" else t.replace("T", self.separator) for t in texts]
            if self.zone is not None:
                after = [_offset(minutes) for minutes in _minutes(clock - steps)]
                after = ["Z"] * len(after) if self.zone == "UTC" else after
                texts = [t and t + sign for t, sign in zip(texts, after, strict=True)]
            return nw.new_series(name, texts, nw.String(), backend=backend)
        if self.type == "Date":
            series = nw.from_dict({name: steps.astype("datetime64[D]")}, backend=backend)[name]
        else:
            steps = steps.astype("datetime64[us]")
            series = nw.from_dict({name: steps}, backend=backend)[name]
            series = series.cast(nw.Datetime(self._time_unit))
            if self.zone is not None:
                series = series.dt.replace_time_zone("UTC").dt.convert_time_zone(self.zone)
        if library != "pandas" or self.cells == "typed":
            return series
        native = series.to_native()
        if self.cells == "objects":
            native = native.dt.date if self.type == "Date" else native.astype(object)
        else:
            zone = "" if self.zone is None else f", tz={self.zone}"
            stored = f"timestamp[{self.unit}{zone}]" if self.type == "Datetime" else "date32[day]"
            native = native.astype(f"{stored}[pyarrow]")
        return nw.from_native(native, series_only=True)

    @property
    def _time_unit(self) -> Any:
        return self.unit if self.unit in _UNITS else "us"

    def to_config(self) -> dict[str, Any]:
        """Return the fields as strict JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_config(cls, config: Any) -> Form:
        """Rebuild a form; ``ModelFileError`` on anything unexpected."""
        config = closed(config, tuple(cls.__dataclass_fields__), "steps")
        allowed = {
            "type": (*_INTEGERS, *_FLOATS, *_DATES),
            "unit": _PRECISIONS if config["cells"] == "text" else _UNITS,
            "cells": _CELLS,
            "separator": ("T", " "),
        }
        for name, values in allowed.items():
            must(config[name] in values, f"steps {name}", f"one of {values}", config[name])
        zone = config["zone"]
        good = zone is None or (isinstance(zone, str) and len(zone) <= 64 and known_zone(zone))
        must(good, "steps zone", "a time zone", zone)
        return cls(**config)


def _minutes(offset: np.ndarray) -> list[int]:
    offset = np.where(np.isnat(offset), np.timedelta64(0, "us"), offset)
    return offset.astype("timedelta64[m]").astype(np.int64).tolist()


def _offset(minutes: int) -> str:
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


# -- the grid --------------------------------------------------------------------------


@dataclass(frozen=True)
class Spacing:
    """The distance between two steps, where steps are dates.

    Dates become places on a grid (``place``) and places dates (``date``): the clock that the
    distance is counted on. ``steps`` and ``dates`` work on places, datetime64[us].

    Attributes
    ----------
    unit : {"microseconds", "months"}
        A fixed distance, or one by the calendar (a quarter is 3 months, a year is 12).
    count : int
        How many of the unit.
    day : int or None
        The day of the month that all dates have, 29 to 31, or the month's last one where it is
        shorter (31: month ends). None: each item keeps the day of its first date.
    clock : {"none", "wall", "absolute"}
        What is counted: dates have no zone; the clock of their zone, on which a day may have 23
        or 25 hours; or absolute time.
    """

    unit: str
    count: int
    day: int | None = None
    clock: str = "none"

    def __str__(self) -> str:
        if self.unit == "months":
            text = f"{self.count} month" + "s" * (self.count > 1)
            return text + " (month ends)" * (self.day == 31)
        return str(datetime.timedelta(microseconds=self.count))

    def place(self, when: np.ndarray, zone: str | None) -> np.ndarray:
        """Return the places of dates. The first moment of a day whose midnight the clock leaves
        out stands for that midnight."""
        if self.clock != "wall":
            return when
        clock = wall(when, zone)
        midnight = clock.astype("datetime64[D]").astype("datetime64[us]")
        return np.where(instant(midnight, zone) == when, midnight, clock)

    def date(self, place: np.ndarray, zone: str | None) -> np.ndarray:
        """Return the dates of places."""
        return instant(place, zone) if self.clock == "wall" else place

    def clock_of(self, place: np.ndarray, zone: str | None) -> np.ndarray:
        """Return what the clock of the zone shows at places."""
        return wall(place, zone) if self.clock == "absolute" else place

    def dates(self, origin: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Return the places of steps, given those of step 1; shape (n,), datetime64[us]."""
        if self.unit == "microseconds":
            return origin + (step - 1) * np.timedelta64(self.count, "us")
        first = origin.astype("datetime64[D]")
        month = origin.astype("datetime64[M]")
        day = (first - month.astype("datetime64[D]")).astype(np.int64)  # from 0
        if self.day is not None:
            last = (_last_of(month) - month.astype("datetime64[D]")).astype(np.int64)
            day = np.where(day == np.minimum(self.day - 1, last), self.day - 1, day)
        month = month + (step - 1) * np.timedelta64(self.count, "M")
        # 31 January + 1 month is the last of February
        date = np.minimum(month.astype("datetime64[D]") + day, _last_of(month))
        return date.astype("datetime64[us]") + (origin - first)

    def steps(self, place: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps of places (int64) and whether each is on the grid (bool)."""
        if self.unit == "microseconds":
            passed = (place - origin).astype("timedelta64[us]").astype(np.int64)
        else:
            months = place.astype("datetime64[M]") - origin.astype("datetime64[M]")
            passed = months.astype(np.int64)
        step = passed // self.count + 1
        return step, self.dates(origin, step) == place

    def to_config(self) -> dict[str, Any]:
        """Return the fields as strict JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_config(cls, config: Any) -> Spacing:
        """Rebuild a spacing; ``ModelFileError`` on anything unexpected."""
        config = closed(config, tuple(cls.__dataclass_fields__), "spacing")
        unit, count, day = config["unit"], config["count"], config["day"]
        must(unit in ("microseconds", "months"), "spacing unit", "a known one", unit)
        most = 12_000 if unit == "months" else 10**17  # either is more than a thousand years
        must(is_whole(count, 1, most), "spacing count", f"1 to {most}", count)
        must(day is None or is_whole(day, 29, 31), "spacing day", "29 to 31, or null", day)
        clock = config["clock"]
        must(clock in ("none", "wall", "absolute"), "spacing clock", "a known one", clock)
        return cls(**config)


Dated = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]  # dates and their rows, in batches


def learn_spacing(
    when: np.ndarray, row: np.ndarray, dated: Dated, rows: int, zone: str | None
) -> Spacing | None:
    """Return the grid that most dates are on; None where no item has two dates.

    Its distance is the most common one between an item's dates. Below a day it is one of
    absolute time, from a day on one of the clock, by the calendar if that fits.

    Parameters
    ----------
    when, row : ndarray, shape (n,)
        Dates and their items, from which the distance is learnt.
    dated : callable
        All dates and their items, in batches.
    rows : int
        The number of items.
    zone : str or None
        The zone of the dates.
    """
    order = np.lexsort((when, row))
    when, row = when[order], row[order]
    apart = (row[1:] == row[:-1]) & (when[1:] > when[:-1])
    if not apart.any():
        return None

    def fixed(clock: str) -> Spacing:
        places = Spacing("microseconds", 1, None, clock).place(when, zone)
        passed = (places[1:] - places[:-1])[apart].astype(np.int64)
        return Spacing("microseconds", max(_most_common(passed), 1), None, clock)

    clock = "none" if zone is None else "wall"
    by_clock = fixed(clock)
    candidates = [*_by_month(by_clock, when, apart, dated, zone), by_clock]
    if zone is not None:
        absolute = fixed("absolute")
        candidates.insert(0 if absolute.count < _DAY else len(candidates), absolute)
    best, most, total = candidates[0], -1, 0
    for spacing in candidates if len(candidates) > 1 else ():
        total = on_grid = 0
        origin = first_dates(((spacing.place(w, zone), r) for w, r in dated()), rows)
        for dates, items in dated():
            total += len(dates)
            on_grid += int(spacing.steps(spacing.place(dates, zone), origin[items])[1].sum())
        if on_grid > most:
            best, most = spacing, on_grid
        if on_grid == total:
            break
    return best


def _by_month(
    fixed: Spacing, when: np.ndarray, apart: np.ndarray, dated: Dated, zone: str | None
) -> list[Spacing]:
    """Return the grids by the calendar that dates may be on, the likelier ones first."""
    if fixed.count < 28 * _DAY:
        return []
    places = fixed.place(when, zone)
    count = _most_common(np.diff(places.astype("datetime64[M]").astype(np.int64))[apart])
    if not count:
        return []
    last, ends = 1, True
    for dates, _ in dated():
        day = fixed.place(dates, zone).astype("datetime64[D]")
        month = day.astype("datetime64[M]")
        ends = ends and bool((day == _last_of(month)).all())
        last = max(last, int((day - month.astype("datetime64[D]")).astype(np.int64).max()) + 1)
    days: list[int | None] = [31] if ends else []
    days += [day for day in dict.fromkeys((last, 31, 30, 29)) if last >= 29 and day not in days]
    return [Spacing("months", count, day, fixed.clock) for day in (*days, None)]


def _last_of(month: np.ndarray) -> np.ndarray:
    """Return the last day of each month."""
    return (month + np.timedelta64(1, "M")).astype("datetime64[D]") - np.timedelta64(1, "D")


def _most_common(values: np.ndarray) -> int:
    """Return the most frequent value, the smallest of equals."""
    distinct, count = np.unique(values, return_counts=True)
    return int(distinct[np.argmax(count)])


def first_dates(parts: Iterable[tuple[np.ndarray, np.ndarray]], rows: int) -> np.ndarray:
    """Return the earliest place of each row, NaT where it has none, from places and their rows."""
    latest = np.iinfo(np.int64).max
    first = np.full(rows, latest)
    for place, row in parts:
        np.minimum.at(first, row, place.astype("datetime64[us]").astype(np.int64))
    return np.where(first == latest, np.datetime64("NaT", "us"), first.astype("datetime64[us]"))


# -- the calendar ----------------------------------------------------------------------

_SLOTS = {"weekdays": 7, "hours": 24, "week_hours": 168, "months": 12}
_WEEKDAYS = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
           "October", "November", "December")  # fmt: skip
_CHANCE = 1e-6  # that gaps at random hit every date of a slot: below it the slot is closed
_SAMPLE = 2**18  # steps of items that are looked at


@dataclass(frozen=True)
class Calendar:
    """The slots of the calendar at which no training item was ever observed, though many passed
    them: closed weekdays, hours, hours of a week and months.

    Attributes
    ----------
    weekdays : tuple of int
        0 is Monday.
    hours : tuple of int
        0 to 23.
    week_hours : tuple of int
        24 times the weekday and the hour; those that neither of the two above says.
    months : tuple of int
        0 is January.
    """

    weekdays: tuple[int, ...] = ()
    hours: tuple[int, ...] = ()
    week_hours: tuple[int, ...] = ()
    months: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in _SLOTS)

    def __str__(self) -> str:
        said = [_WEEKDAYS[i] for i in self.weekdays] + [_MONTHS[i] for i in self.months]
        said += [f"{_hours(self.hours)} of every day"] if self.hours else []
        for day, name in enumerate(_WEEKDAYS):
            own = tuple(i % 24 for i in self.week_hours if i // 24 == day)
            said += [f"{name} {_hours(own)}"] if own else []
        return ", ".join(said)

    def closed(self, clock: np.ndarray) -> np.ndarray:
        """Return whether dates, as their clock shows them, lie in a closed slot; not for NaT."""
        found = np.zeros(clock.shape, bool)
        for name, at in _slots(clock).items():
            if getattr(self, name):
                found |= np.isin(at, getattr(self, name))
        return found & ~np.isnat(clock)

    def to_config(self) -> dict[str, Any]:
        """Return the fields as strict JSON."""
        return {name: list(getattr(self, name)) for name in _SLOTS}

    @classmethod
    def from_config(cls, config: Any) -> Calendar:
        """Rebuild a calendar; ``ModelFileError`` on anything unexpected."""
        config = closed(config, tuple(_SLOTS), "calendar")
        for name, size in _SLOTS.items():
            slots = config[name]
            good = isinstance(slots, list) and len(slots) < size
            good = good and all(is_whole(slot, 0, size - 1) for slot in slots)
            must(good, f"calendar {name}", f"some of 0 to {size - 1}", slots)
        return cls(**{name: tuple(config[name]) for name in _SLOTS})


def _hours(hours: tuple[int, ...]) -> str:
    """In words, some hours of a day: "0:00 to 7:59, 18:00 to 23:59"."""
    parts, start = [], 0
    for i, hour in enumerate(hours):
        if i + 1 == len(hours) or hours[i + 1] > hour + 1:
            parts.append(f"{hours[start]}:00 to {hour}:59")
            start = i + 1
    return ", ".join(parts)


def _slots(clock: np.ndarray) -> dict[str, np.ndarray]:
    weekday = (clock.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 1970 began on a Thursday
    hour = clock.astype("datetime64[h]").astype(np.int64) % 24
    month = clock.astype("datetime64[M]").astype(np.int64) % 12
    return {
        "weekdays": weekday, "hours": hour, "week_hours": 24 * weekday + hour, "months": month
    }  # fmt: skip


def learn_calendar(
    spacing: Spacing,
    zone: str | None,
    observed: Iterable[np.ndarray],
    origin: np.ndarray,
    known: np.ndarray,
    seen: np.ndarray,
) -> Calendar:
    """Return the slots that are closed: those at which nothing was observed, which items passed
    on two days at least (months: in two years), so often that gaps at random would not do it.

    Parameters
    ----------
    observed : iterable of ndarray
        The places of all observations, in batches.
    origin, known, seen : ndarray, shape (items,)
        Each item's place of step 1, last observed step and number of observations.
    """
    names = ["months"]
    if spacing.unit == "microseconds" and spacing.count < 7 * _DAY:
        names = ["weekdays", "months"]
    if spacing.unit == "microseconds" and spacing.count < _DAY:
        names = list(_SLOTS)
    count = {name: np.zeros(_SLOTS[name], np.int64) for name in names}
    for places in observed:
        slots = _slots(spacing.clock_of(places, zone))
        for name in names:
            count[name] += np.bincount(slots[name], minlength=_SLOTS[name])
    order = np.random.default_rng(0).permutation(np.flatnonzero(seen))
    some = order[: max(1, int(np.searchsorted(np.cumsum(known[order]), _SAMPLE)))]
    row = np.repeat(some, known[some])
    step = np.arange(len(row)) - np.repeat(np.cumsum(known[some]) - known[some], known[some]) + 1
    clock = spacing.clock_of(spacing.dates(origin[row], step), zone)
    slots, found = _slots(clock), {}
    for name in names:
        at = slots[name]
        missing = 1.0 - seen[some].sum() / max(int((count[name][at] > 0).sum()), 1)
        often = np.bincount(at, minlength=_SLOTS[name])
        when = clock.astype("datetime64[Y]" if name == "months" else "datetime64[D]")
        passed = np.unique(np.stack([at, when.astype(np.int64)]), axis=1)[0]
        twice = np.bincount(passed, minlength=_SLOTS[name]) >= 2
        unlikely = max(missing, 0.0) ** often < _CHANCE
        found[name] = tuple(np.flatnonzero((count[name] == 0) & twice & unlikely).tolist())
    if "hours" in names:
        found["week_hours"] = tuple(
            slot
            for slot in found["week_hours"]
            if slot // 24 not in found["weekdays"] and slot % 24 not in found["hours"]
        )
    return Calendar(**found)


# -- what a file says ------------------------------------------------------------------


def must(good: bool, what: str, expected: str, received: Any) -> None:
    if not good:
        text = repr(received)
        text = text if len(text) <= 80 else text[:77] + "..."
        raise ModelFileError(f"Not a schema of ours: {what}: expected {expected}; received {text}.")


def closed(config: Any, keys: tuple[str, ...], what: str) -> dict[str, Any]:
    """Return the mapping if it has these keys and no others."""
    must(isinstance(config, dict), what, "an object", type(config).__name__)
    must(set(config) == set(keys), what, f"the keys {sorted(keys)}", sorted(map(str, config)))
    return config
