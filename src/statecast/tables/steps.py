"""The column of steps, which holds numbers, dates or dates as text; tables by item and step."""

from __future__ import annotations

import datetime
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NoReturn

import narwhals.stable.v2 as nw
import numpy as np

from statecast.errors import DataError, listed, quoted
from statecast.tables.columns import (
    is_mark,
    is_number,
    is_real_number,
    missing_cells,
    read_cells,
    read_floats,
)
from statecast.tables.dates import Form, in_utc, known_zone
from statecast.tables.source import Table, fail

# More steps in a table are a mistake: a date that was read as a number, for example. A model file
# with more was not written by this library.
MAX_STEPS = 1_000_000
MAX_CELLS = 500_000_000  # rows x steps of one panel: 2 GB of float32
_ISO = re.compile(
    r"(\d{4}-\d\d(?:-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)?)?)"
    r"(?: ?(Z|[+-]\d\d:?[0-5]\d))?"
)


@dataclass(frozen=True)
class Names:
    """The names of the columns of a series table, and of those of a static table that are not
    features: launch dates, groups, and the time of step 1."""

    id_col: str
    step_col: str
    targets: tuple[str, ...]  # the columns of y
    start_col: str | None = None
    group_col: str | None = None
    origin_col: str | None = None

    @property
    def series(self) -> tuple[str, ...]:
        """The columns that every series table has."""
        return self.id_col, self.step_col, *self.targets

    @property
    def static(self) -> tuple[str, ...]:
        """The columns of a static table that are not features."""
        names = (self.id_col, self.start_col, self.group_col, self.origin_col)
        return tuple(name for name in names if name is not None)


@dataclass(frozen=True)
class Steps:
    """A table with a row for each item and step; its columns are arrays."""

    label: str
    row: np.ndarray  # (N,) int64: the row of the item in the panel; -1: not an item of the call
    when: np.ndarray  # (N,) float64 steps, or datetime64[us], in UTC if there is a time zone
    form: Form
    columns: dict[str, np.ndarray]  # the covariates, (N,): float64, or objects: text or None


@dataclass(frozen=True)
class Long(Steps):
    """Rows of the series table; the covariates are the past ones."""

    y: np.ndarray  # (N, targets) float64, NaN where missing


class Series:
    """The series table as batches of ``Long``, in the order of its rows; can be iterated again.

    A single batch stays in memory. Several are written to a temporary file, without covariates, and
    read from it one by one: 16 bytes for each row, and 8 for each target. The file is deleted with
    the object.
    """

    def __init__(self, batches: Iterable[Long]) -> None:
        batches = iter(batches)
        self._first = next(batches)
        self._lengths: list[int] = []
        self._targets = self._first.y.shape[1]
        forms = [self._first.form]
        second = next(batches, None)
        if second is not None:
            try:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this object)
                for batch in chain((self._first, second), batches):
                    forms.append(batch.form)
                    self._lengths.append(len(batch.row))
                    for array in (batch.row, batch.when, batch.y):
                        self._file.write(array.tobytes())
                self._file.flush()
            except OSError as error:
                raise DataError(
                    f"{self._first.label}: expected room for {self._row} bytes a row in the folder "
                    f"for temporary files; received: {error}. Name another in the environment "
                    "variable TMPDIR."
                ) from error
        self.label = self._first.label
        # The first of them, or the first with times of day.
        self.form = max(forms, key=lambda form: form.type == "Datetime")

    @property
    def several(self) -> bool:
        """Whether there is more than one batch."""
        return bool(self._lengths)

    @property
    def _row(self) -> int:
        """The bytes of a row in the file."""
        return 16 + 8 * self._targets

    def __iter__(self) -> Iterator[Long]:
        if not self.several:
            yield self._first
        start = 0
        for length in self._lengths:
            self._file.seek(start)
            row = np.fromfile(self._file, np.int64, length)
            when = np.fromfile(self._file, self._first.when.dtype, length)
            y = np.fromfile(self._file, np.float64, length * self._targets)
            start += self._row * length
            yield Long(self.label, row, when, self.form, {}, y.reshape(length, self._targets))


def read_when(
    table: Table,
    name: str,
    ids: list[Any],
    expected: str = "a whole number from 1, or a date",
    advice: str = "Steps count from 1; dates are of a date type, or ISO text such as 2026-01-31.",
) -> tuple[np.ndarray, Form]:
    """Return the column of steps and its form.

    Numbers are float64. Dates are datetime64[us], in UTC if the column has a time zone.
    ``expected`` and ``advice`` are parts of the error message.
    """
    column = table.column(name)

    def refuse(bad: np.ndarray, what: str = "") -> NoReturn:
        at = int(np.argmax(bad))
        cell = column.to_list()[at]
        received = "nothing" if missing[at] else quoted(cell)
        fail(table.label, name, what or expected, received, ids[at], _date_remedy(cell) or advice)

    missing = missing_cells(column)
    if missing.any():
        refuse(missing)
    dtype = column.dtype
    form = Form.of(column)
    if form.dated:
        if form.zone is not None:
            if not known_zone(form.zone):
                expected = "a time zone with a name such as Europe/Paris, or a fixed offset"
                advice = "Convert the column, to UTC for example."
                fail(table.label, name, expected, form.zone, ids[0], advice)
            column = in_utc(column)
        when = column.cast(nw.Datetime("us"))
        if form.unit == "ns":
            finer = (column != when.cast(nw.Datetime("ns"))).to_numpy()
            if finer.any():
                expected = "dates of whole microseconds"
                advice = "Round them."
                refuse(finer)
        return when.to_numpy().astype("datetime64[us]"), form
    if isinstance(dtype, (nw.String, nw.Object, nw.Unknown, nw.Categorical, nw.Enum)):
        cells = read_cells(column)
        if all(isinstance(cell, (datetime.date, np.datetime64)) for cell in cells):
            return python_dates(list(map(_python_date, cells)), refuse)
        text = all(isinstance(cell, str) for cell in cells)
        if text and not (table.text and is_number(cells[0])):
            return text_dates(cells, table.text, refuse)
        if not table.text:
            whole = (is_real_number(cell) and not isinstance(cell, bool) for cell in cells)
            bad = ~np.fromiter(whole, bool, len(cells))
            if bad.any():
                refuse(bad)
    if isinstance(dtype, nw.Boolean):
        refuse(np.ones(len(ids), bool))
    step, bad = read_floats(column, table.text)
    if not bad.any():
        good = (step >= 1) & (step <= MAX_STEPS) & (step == np.floor(step))
        if good.all():
            return step, form
        bad = ~good
        if (step > MAX_STEPS).any():
            expected += f" (a step is at most {MAX_STEPS:,})"
        elif (step[bad] == 0).any():
            advice += " If they count from 0, add 1; a value before the start is a static feature."
    refuse(bad)


def read_start(table: Table, name: str, ids: list[Any]) -> Steps | None:
    """Return the launch dates of a static table: a row for each item with one; None without any."""
    if name not in table.columns:
        raise DataError(
            f"{table.label}: expected the column {quoted(name)} of launch dates, as start_col "
            f"says; received {listed(table.columns)}. Leave a cell empty where there is no "
            "date.",
            column=name,
        )
    missing = missing_cells(table.column(name))
    if isinstance(table.column(name).dtype, nw.String):
        missing = missing | np.array([is_mark(cell) for cell in table.column(name).to_list()], bool)
    row = np.flatnonzero(~missing)
    if not len(row):
        return None
    given = replace(table, frame=table.frame[row])
    own = [ids[i] for i in row]
    column, expected = given.column(name), "a launch date, or nothing"
    cell, advice = column.to_list()[0], "Use a date type, or ISO text such as 2026-01-31."
    if not (column.dtype.is_numeric() or (table.text and is_number(str(cell)))):
        when, form = read_when(given, name, own, expected, advice)
        if form.dated:
            return Steps(table.label, row, when, form, {})
    fail(table.label, name, expected, quoted(cell), own[0], _date_remedy(cell) or advice)


def python_dates(
    values: list[Any], refuse: Callable[[np.ndarray], NoReturn]
) -> tuple[np.ndarray, Form]:
    """Do as ``read_when`` for Python's dates or datetimes, all with a time zone or all without."""
    if not all(isinstance(value, datetime.datetime) for value in values):
        naive = [v.replace(tzinfo=None) if isinstance(v, datetime.datetime) else v for v in values]
        return np.array(naive, "datetime64[us]"), Form("Date", cells="objects")
    offsets = [value.utcoffset() for value in values]
    aware = np.array([offset is not None for offset in offsets])
    if not aware.any():
        return np.array(values, "datetime64[us]"), Form("Datetime", cells="objects")
    if not aware.all():
        refuse(aware != aware[0])
    named = {getattr(value.tzinfo, "key", None) for value in values}
    zone = named.pop() if len(named) == 1 else None
    if zone is None:  # different offsets: UTC is the only time zone for all
        same = len(set(offsets)) == 1
        zone = values[0].strftime("%z") if same and not offsets[0].seconds % 60 else "+0000"
        zone = f"{zone[:3]}:{zone[3:]}" if zone != "+0000" else "UTC"
    utc = [value.astimezone(datetime.UTC).replace(tzinfo=None) for value in values]
    return np.array(utc, "datetime64[us]"), Form("Datetime", "us", zone, "objects")


def _python_date(value: Any) -> Any:
    """Return a NumPy date as a Python date; leave others as they are."""
    return value.astype("datetime64[us]").item() if isinstance(value, np.datetime64) else value


def _date_remedy(cell: Any) -> str:
    """Return how to convert a date that is written in an unknown way; empty for other cells."""
    if type(cell).__name__ == "Period":
        return "Convert the periods to dates: table[column].dt.to_timestamp()."
    compact = str(cell).removesuffix(".0")
    if re.fullmatch(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", compact):
        return (
            "It looks like a date written YYYYMMDD. Convert the column: "
            "pandas.to_datetime(column.astype(str)), or polars' "
            "column.cast(str).str.to_date('%Y%m%d')."
        )
    return ""


def text_dates(
    cells: list[str], of_file: bool, refuse: Callable[..., NoReturn]
) -> tuple[np.ndarray, Form]:
    """Do as ``read_when`` for ISO texts, all with an offset (or Z) or all without."""
    distinct = {text: _iso(text.strip()) for text in set(cells)}

    def which(is_so: Callable[[Any], bool]) -> np.ndarray:
        return np.fromiter((is_so(distinct[text]) for text in cells), bool, len(cells))

    bad = which(lambda read: read is None)
    if bad.any():
        refuse(bad)
    aware = which(lambda read: read[1] is not None)
    if aware.any() and not aware.all():
        refuse(aware != aware[0], "dates that all have an offset, or that all have none")
    date = np.array([distinct[text][0] for text in cells], "datetime64[us]")  # type: ignore[index]
    longest = max(distinct, key=len).strip()
    zone = None
    if aware.any():
        offsets = {read[1] for read in distinct.values() if read is not None}
        zone = offsets.pop() if len(offsets) == 1 else "Z"  # UTC for all
        hours = re.fullmatch(r"([+-])(\d\d):00", zone or "")
        if zone in ("Z", "+00:00", "-00:00"):
            zone = "UTC" if of_file or zone == "Z" else "+00:00"
        elif of_file:  # polars knows Etc/GMT zones, in whole hours; their sign is reversed
            sign = "-" if hours and hours[1] == "+" else "+"
            zone = f"Etc/GMT{sign}{int(hours[2])}" if hours and int(hours[2]) <= 12 else "UTC"
    if not of_file:
        return date, Form.of_text(longest, zone)
    midnight = zone is None and bool((date == date.astype("datetime64[D]")).all())
    return date, Form("Date" if midnight else "Datetime", zone=zone)


def _iso(text: str) -> tuple[np.datetime64, str | None] | None:
    """Return the date of an ISO text and its offset (+02:00, Z or None); None if it is no date.

    The date is in UTC if there is an offset.
    """
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    clock, offset = match.groups()
    try:
        date = np.datetime64(clock, "us")
    except ValueError:  # 30 February
        return None
    if offset is None:
        return date, None
    if len(clock) <= 10:  # a day or a month has no offset
        return None
    if offset == "Z":
        return date, offset
    minutes = int(offset[1:3]) * 60 + int(offset[-2:])
    sign = -1 if offset[0] == "-" else 1
    return date - np.timedelta64(sign * minutes, "m"), f"{offset[:3]}:{offset[-2:]}"


def check_cells(rows: int, steps: int, what: str) -> None:
    """Raise if an array of rows and steps would have more than ``MAX_CELLS`` cells."""
    if rows * steps > MAX_CELLS:
        raise DataError(
            f"Expected at most {MAX_CELLS:,} cells in {what}; received {rows:,} items x "
            f"{steps:,} steps. Correct a step that is far too large, or split the "
            "table into several calls."
        )
