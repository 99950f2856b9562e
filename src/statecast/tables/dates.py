"""Steps that are dates: time zones, the spacing of a grid, closed calendar slots, and the format of
a column of steps.

Inside the library a date is a ``datetime64[us]``. For a column with a time zone it is the instant
in UTC. For a column without one it is the date and time as written.
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
from statecast.files import check_keys

_DAY = 86_400_000_000  # microseconds
_OFFSET = re.compile(r"(?:UTC)?([+-])(\d\d):?(\d\d)")
_INTEGERS = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
_FLOATS = ("Float32", "Float64")
_DATES = ("Date", "Datetime")
_TYPES = (*_INTEGERS, *_FLOATS, *_DATES)
_CELLS = ("typed", "arrow", "objects", "text")
_UNITS = ("s", "ms", "us", "ns")  # of a typed column
_PRECISIONS = ("M", "D", "m", "s", "ms", "us")  # of a text


# -- time zones ------------------------------------------------------------------------


def _fixed(zone: str) -> np.timedelta64 | None:
    """Return the offset of a time zone named +02:00 or UTC-03:30, for example; else None."""
    found = _OFFSET.fullmatch(zone)
    if found is None:
        return None
    minutes = 60 * int(found[2]) + int(found[3])
    return np.timedelta64(-minutes if found[1] == "-" else minutes, "m")


@lru_cache
def known_zone(zone: str) -> bool:
    """Return whether a time zone is supported: a fixed offset, or an IANA name."""
    import polars as pl

    try:
        pl.Series([0]).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(zone)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return _fixed(zone) is not None
    return True


def wall(when: np.ndarray, zone: str | None) -> np.ndarray:
    """Return instants in UTC as local time of a zone; both datetime64[us], NaT stays NaT."""
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
    """Return local times of a zone as instants in UTC: the inverse of ``wall``.

    A local time that occurs twice, because the clock is set back, is taken as the first of the two.
    For a local time that does not occur, because the clock is set forward, the offset before the
    change is used.
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
    if left_out.any():  # the same time on the day before, plus 24 hours
        day = np.timedelta64(_DAY, "us")
        found[left_out] = convert(clock[left_out] - day) + day
    return found


def in_utc(column: Any) -> Any:
    """Return a column of dates with a time zone as a column in UTC without a time zone."""
    native = column.to_native()
    if getattr(getattr(native, "dtype", None), "tz", None) is not None:  # see Form.of
        return nw.from_native(native.dt.tz_convert(None), series_only=True)
    return column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)


# -- the format of steps ---------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """The format of a column of steps. The steps of a forecast are written in the same format.

    Attributes
    ----------
    type : str
        ``"Date"``, ``"Datetime"``, or a type of numbers: ``"Int64"``, ``"Float32"``, ...
    unit : {"s", "ms", "us", "ns"}
        The time unit of a datetime. For text its precision, from ``"M"`` to ``"us"``.
    zone : str or None
        The time zone.
    cells : {"typed", "arrow", "objects", "text"}
        How the column is stored: with the type above, as a pandas column backed by Arrow, as
        Python's dates, or as ISO text.
    separator : {"T", " "}
        What separates date and time in a text.
    """

    type: str = "Int64"
    unit: str = "us"
    zone: str | None = None
    cells: str = "typed"
    separator: str = "T"

    @classmethod
    def of(cls, column: Any) -> Form:
        """Return the form of a column whose dtype is numeric or a date."""
        dtype = column.dtype
        native: Any = getattr(column.to_native(), "dtype", None)
        cells = "arrow" if hasattr(native, "pyarrow_dtype") else "typed"
        zone = getattr(native, "tz", None)
        if zone is not None:  # narwhals cannot read a zone such as America/New_York from pandas
            return cls("Datetime", native.unit, str(zone), cells)
        if isinstance(dtype, nw.Datetime):
            return cls("Datetime", dtype.time_unit, dtype.time_zone, cells)
        name = type(dtype).__name__
        return cls(name, cells=cells) if name in _TYPES else cls()

    @classmethod
    def of_text(cls, text: str, zone: str | None = None) -> Form:
        """Return the form of ISO texts with the format of this one."""
        time = re.sub(r" ?(Z|[+-]\d\d:?\d\d)$", "", text[11:])
        units = {7: "M", 10: "D", 16: "m", 19: "s"}
        unit = units.get(len(text[:11] + time[:8]), "s")
        if "." in time:
            unit = "ms" if len(time.partition(".")[2]) <= 3 else "us"
        separator = " " if text[10:11] == " " else "T"
        return cls("Datetime" if time else "Date", unit, zone, "text", separator)

    @property
    def dated(self) -> bool:
        """Whether steps are dates. Otherwise they are numbers."""
        return self.type in _DATES

    def say(self, when: Any) -> str:
        """Return a date as text, in the local time of its zone."""
        text = np.datetime_as_string(wall(np.array([when], "datetime64[us]"), self.zone)[0], "auto")
        return text if self.zone is None else f"{text} ({self.zone})"

    def column(self, name: str, steps: np.ndarray, library: str) -> Any:
        """Return steps as a column of this form, if the library has such columns: an array of which
        the library makes the column, or the library's column.

        ``steps`` are whole numbers, or dates as the module's docstring describes them.
        """
        backend: Any = library
        if not self.dated:
            small = self.type in _INTEGERS and len(steps)
            if small and steps.max() > np.iinfo(self.type.lower()).max:
                return steps
            return steps.astype(self.type.lower())
        if self.cells == "text":
            clock = wall(steps, self.zone)
            unit: Any = self.unit
            texts = np.datetime_as_string(clock.astype(f"datetime64[{unit}]")).tolist()
            texts = [None if t == "NaT" else t.replace("T", self.separator) for t in texts]
            if self.zone is not None:
                after = [_offset(minutes) for minutes in _minutes(clock - steps)]
                after = ["Z"] * len(after) if self.zone == "UTC" else after
                texts = [t and t + sign for t, sign in zip(texts, after, strict=True)]
            return nw.new_series(name, texts, nw.String(), backend=backend).to_native()
        typed = library != "pandas" or self.cells == "typed"
        dates = steps.astype("datetime64[D]" if self.type == "Date" else "datetime64[us]")
        if typed and (self.type == "Date" or (self._time_unit == "us" and self.zone is None)):
            return dates
        series = nw.from_dict({name: dates}, backend=backend)[name]
        if self.type == "Datetime":
            series = series.cast(nw.Datetime(self._time_unit))
            if self.zone is not None:
                series = series.dt.replace_time_zone("UTC").dt.convert_time_zone(self.zone)
        native = series.to_native()
        if typed:
            return native
        if self.cells == "objects":
            native = native.dt.date if self.type == "Date" else native.astype(object)
        else:
            zone = "" if self.zone is None else f", tz={self.zone}"
            stored = f"timestamp[{self.unit}{zone}]" if self.type == "Datetime" else "date32[day]"
            native = native.astype(f"{stored}[pyarrow]")
        return native

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
            "type": _TYPES,
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
    """The distance between two steps, if steps are dates.

    A place is a date on the time scale on which the distance is counted, datetime64[us]: see
    ``clock``. ``place`` converts dates to places, and ``date`` converts them back. ``steps`` and
    ``dates`` convert between places and step numbers.

    Attributes
    ----------
    unit : {"microseconds", "months"}
        A fixed distance, or a number of calendar months (3 for a quarter, 12 for a year).
    count : int
        The number of units between two steps.
    day : int or None
        The day of the month of all dates, 29 to 31. In a shorter month it is the last day; 31 means
        month ends. None: each item keeps the day of its first date.
    clock : {"none", "wall", "absolute"}
        The time scale. "none": dates have no zone. "wall": local time of the zone, in which a day
        may have 23 or 25 hours. "absolute": time in UTC.
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

    @property
    def short(self) -> str:
        """The text of a spacing of whole days without the hours: "7 days"."""
        return str(self).removesuffix(", 0:00:00")

    def place(self, when: np.ndarray, zone: str | None) -> np.ndarray:
        """Return the places of dates. If a day has no midnight, because the clock is set forward
        then, its first moment has the place of midnight."""
        if self.clock != "wall":
            return when
        clock = wall(when, zone)
        midnight = clock.astype("datetime64[D]").astype("datetime64[us]")
        return np.where(instant(midnight, zone) == when, midnight, clock)

    def date(self, place: np.ndarray, zone: str | None) -> np.ndarray:
        """Return the dates of places."""
        return instant(place, zone) if self.clock == "wall" else place

    def clock_of(self, place: np.ndarray, zone: str | None) -> np.ndarray:
        """Return the local time of the zone at places."""
        return wall(place, zone) if self.clock == "absolute" else place

    def dates(self, origin: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Return the places of steps, shape (n,), datetime64[us]; ``origin`` is that of step 1."""
        if self.unit == "microseconds":
            return origin + (step - 1) * np.timedelta64(self.count, "us")
        first = origin.astype("datetime64[D]")
        month = origin.astype("datetime64[M]")
        day = (first - month.astype("datetime64[D]")).astype(np.int64)  # from 0
        if self.day is not None:
            last = (_last_of(month) - month.astype("datetime64[D]")).astype(np.int64)
            day = np.where(day == np.minimum(self.day - 1, last), self.day - 1, day)
        month = month + (step - 1) * np.timedelta64(self.count, "M")
        # One month after 31 January is the last day of February.
        date = np.minimum(month.astype("datetime64[D]") + day, _last_of(month))
        return date.astype("datetime64[us]") + (origin - first)

    def steps(self, place: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the step of each place (int64) and whether the place is on the grid (bool)."""
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
        most = 12_000 if unit == "months" else 10**17  # a thousand years, and 3,000 years
        must(is_whole(count, 1, most), "spacing count", f"1 to {most}", count)
        must(day is None or is_whole(day, 29, 31), "spacing day", "29 to 31, or null", day)
        clock = config["clock"]
        must(clock in ("none", "wall", "absolute"), "spacing clock", "a known one", clock)
        return cls(**config)


Dated = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]  # dates and their items, in batches


def learn_spacing(
    when: np.ndarray, row: np.ndarray, dated: Dated, rows: int, zone: str | None
) -> Spacing | None:
    """Return the grid that most dates are on; None if no item has two dates.

    The distance is the most common one between consecutive dates of an item. It is counted in
    calendar months, in local time and in absolute time, and the first of these that fits the most
    dates is taken. A distance of less than a day is counted in absolute time first.

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
    """Return the grids of calendar months that dates may be on, the more likely ones first."""
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
    """Return the most frequent value; of several equally frequent ones the smallest."""
    distinct, count = np.unique(values, return_counts=True)
    return int(distinct[np.argmax(count)])


def first_dates(parts: Iterable[tuple[np.ndarray, np.ndarray]], rows: int) -> np.ndarray:
    """Return the earliest place of each item, NaT for an item without one.

    ``parts`` are batches of places and their items; ``rows`` is the number of items.
    """
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
# A slot is closed if gaps at random would hit all of its dates with less than this probability.
_CHANCE = 1e-6
_SAMPLE = 2**18  # the most steps of items from which the number of dates in a slot is counted


@dataclass(frozen=True)
class Calendar:
    """The closed slots: weekdays, hours, hours of the week and months at which no training item was
    ever observed, although the items have many steps there.

    Attributes
    ----------
    weekdays : tuple of int
        0 is Monday.
    hours : tuple of int
        0 to 23.
    week_hours : tuple of int
        24 times the weekday, plus the hour. Hours of a closed weekday, and closed hours, are not
        among them.
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
        """Return whether local times lie in a closed slot; False for NaT."""
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
    """Return hours of a day as text: "0:00 to 7:59, 18:00 to 23:59"."""
    parts, start = [], 0
    for i, hour in enumerate(hours):
        if i + 1 == len(hours) or hours[i + 1] > hour + 1:
            parts.append(f"{hours[start]}:00 to {hour}:59")
            start = i + 1
    return ", ".join(parts)


def _slots(clock: np.ndarray) -> dict[str, np.ndarray]:
    """Return the slots of local times, for each kind of slot."""
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
    """Return the closed slots.

    A slot is closed if nothing was observed in it, if the items have steps in it on at least two
    days (for months, in two years), and if there are so many such steps that gaps at random are
    unlikely to hit all of them.

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


# -- checks of model files -------------------------------------------------------------


def must(good: bool, what: str, expected: str, received: Any) -> None:
    """Raise ``ModelFileError`` unless ``good``: ``what`` is not as ``expected``."""
    if not good:
        text = repr(received)
        text = text if len(text) <= 80 else text[:77] + "..."
        raise ModelFileError(f"Not a schema of ours: {what}: expected {expected}; received {text}.")


def closed(config: Any, keys: tuple[str, ...], what: str) -> dict[str, Any]:
    """Return a config if it is an object with exactly these keys; else ``ModelFileError``."""
    try:
        check_keys(what, config, keys)
    except ValueError as error:
        raise ModelFileError(f"Not a schema of ours: {error}.") from None
    return config
