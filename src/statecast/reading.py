"""Reading the tables people have: pandas, polars, Arrow, CSV and Parquet files, arrays.

Everything is checked here, column by column, before anything is done with it; what comes
out is NumPy. What the tables mean (steps, scaling, vocabulary) is ``table``'s. A series in a
Parquet file is read some rows at a time, so that it need not fit into memory.
"""

from __future__ import annotations

import datetime
import numbers
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, repeat
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import narwhals.stable.v2 as nw
import numpy as np

from statecast.dates import Form, in_utc, known_zone
from statecast.errors import DataError, warn
from statecast.vocabulary import MOST_TOKENS, UNKNOWN, Vocabulary, mixed, token, type_name

# Caps: a table beyond them is a mistake (an id taken for a category, a date for a step),
# and a model file beyond them is not ours.
MAX_STEPS = 1_000_000
MAX_COLUMNS = 10_000  # a picture's features are 4,096
MAX_CELLS = 500_000_000  # rows x steps of one panel: 2 GB of float32
LARGEST = 1e100  # beyond it, squares overflow float64: such a number is as good as infinite
BATCH = 2**18  # rows of a Parquet file that are in memory at once
KINDS = ("polars", "pandas", "pyarrow", "modin", "cudf", "arrays")
_WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"  # whole numbers that survive text -> int -> text
_ISO = re.compile(r"\d{4}-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?)?")


@dataclass(frozen=True)
class Kind:
    """What came in, so that the same can go out.

    Attributes
    ----------
    library : str
        One of ``KINDS``.
    steps : Form or None
        How the column of steps is written; None: as in fit.
    """

    library: str
    steps: Form | None = None


@dataclass(frozen=True)
class Table:
    """A table as it came: a narwhals frame, what to call it, and whether it is all text.

    Of a Parquet file ``frame`` may be some rows only: ``start`` is the first of them, and
    ``file`` the polars scan of all, ``length`` rows.
    """

    frame: Any
    label: str
    kind: str
    text: bool  # a CSV file: what a column means depends on what is asked of it
    start: int = 0
    file: Any = None
    length: int = 0

    def rest(self) -> Iterator[Table]:
        """Return the rows of the file after these, a batch at a time."""
        for start in range(self.start + len(self.frame), self.length, BATCH):
            with _reading(self.label, "parquet"):
                frame = self.file.slice(start, BATCH).collect()
            yield replace(self, frame=nw.from_native(frame), start=start)


@dataclass(frozen=True)
class Steps:
    """A table with a row an item and step: one entry a row."""

    label: str
    row: np.ndarray  # (N,) int64: the item of each, -1 for one that was not asked about
    when: np.ndarray  # (N,) float64 steps, or datetime64[us]: in UTC where they have a zone
    form: Form
    columns: dict[str, np.ndarray]  # the covariates, (N,): float64, or objects: text or None


@dataclass(frozen=True)
class Long(Steps):
    """Rows of the series table, each of an item; its covariates are the past ones."""

    y: np.ndarray  # (N,) float64, NaN where not observed


class Series:
    """The series table as batches of ``Long`` in the order of its rows, as often as one likes.

    A single batch is held in memory. Several go to a temporary file, 24 bytes a row and without
    covariates, which is gone with the object, and come back one at a time.
    """

    def __init__(self, batches: Iterable[Long]) -> None:
        batches = iter(batches)
        self._first = next(batches)
        self._lengths: list[int] = []
        forms = {self._first.form}
        second = next(batches, None)
        if second is not None:
            try:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as this)
                for batch in chain((self._first, second), batches):
                    forms.add(batch.form)
                    self._lengths.append(len(batch.row))
                    for array in (batch.row, batch.when, batch.y):
                        self._file.write(array.tobytes())
                self._file.flush()
            except OSError as error:
                raise DataError(
                    f"{self._first.label}: expected room for 24 bytes a row in the folder for "
                    f"temporary files; received: {error}. Name another in the environment "
                    "variable TMPDIR."
                ) from error
        self.label = self._first.label
        self.form = max(forms, key=lambda form: form.type == "Datetime")

    @property
    def several(self) -> bool:
        """Whether there is more than one batch."""
        return bool(self._lengths)

    def __iter__(self) -> Iterator[Long]:
        if not self.several:
            yield self._first
        start = 0
        for length in self._lengths:
            self._file.seek(start)
            row, when, y = (
                np.fromfile(self._file, array.dtype, length)
                for array in (self._first.row, self._first.when, self._first.y)
            )
            start += 24 * length
            yield Long(self.label, row, when, self.form, {}, y)


@dataclass(frozen=True)
class Parsed:
    """The tables, checked one by one and against each other."""

    ids: list[Any]  # the items, in the panel's order
    kind: Kind
    series: Series | None
    static: dict[str, np.ndarray]  # (items,): float64, or objects: text or None
    future: Steps | None
    vocabulary: Vocabulary | None = None  # where y holds tokens: y are its codes


def parse(
    series: Any,
    static: Any,
    names: tuple[str, str, str],
    wanted: Mapping[str, dict[str, str]] | None,
    items: list[Any] | None = None,
    tokens: Vocabulary | None = None,
    *,
    future: Any = None,
    past: Iterable[str] = (),
) -> Parsed:
    """Read and check the tables.

    ``wanted`` gives the columns of the fit and their kinds, of the ``static``, the ``future``
    and the ``past`` ones (None: this is the fit); ``items`` the known items, if the series may
    speak of no others; ``tokens`` says that y holds tokens, and of which vocabulary (one without
    any: it is learnt here); ``past`` the past covariates among the columns of the series.
    """
    past = list(past)
    # A vocabulary and covariates are learnt from all rows together
    only = None if past or tokens is not None else names
    table = None
    if series is not None:
        table = open_table(series, "series", "Y", only, empty=wanted is not None)
    statics = None if static is None else open_table(static, "static", "X")
    futures = None
    if future is not None:
        futures = open_table(future, "future", "future", empty=wanted is not None)
    if table is not None and statics is not None:
        arrays = [isinstance(source, np.ndarray) for source in (table, statics)]
        if arrays[0] != arrays[1]:
            raise DataError(
                "Expected two tables or two arrays; received "
                + ("an array Y and a static table." if arrays[0] else "a series table and X.")
            )
    first = next(source for source in (table, statics, futures) if source is not None)
    if futures is not None and isinstance(first, np.ndarray) != isinstance(futures, np.ndarray):
        given = "a future table beside arrays"
        if isinstance(futures, np.ndarray):
            given = "an array `future` beside tables"
        raise DataError(f"Expected all tables or all arrays; received {given}.")
    if isinstance(first, np.ndarray):
        assert not isinstance(table, Table)  # all are arrays, or None
        assert not isinstance(statics, Table)
        assert not isinstance(futures, Table)
        return _parse_arrays(table, statics, futures, wanted, items, past, tokens)
    assert not isinstance(table, np.ndarray)
    assert not isinstance(statics, np.ndarray)
    assert not isinstance(futures, np.ndarray)

    known = _Items(items, None, names[0])
    if table is not None:
        check_columns(table, names)
        check_columns(table, past)
        if not len(table.frame):  # of an item without rows k is 0
            if statics is None and futures is None and items is None:
                raise _without_rows(table, "series")
            table = None
    if statics is not None:
        check_columns(statics, names[:1])
        known = _Items(read_ids(statics, names[0]), statics, names[0])
    read = None
    if table is not None:
        long, tokens = _long(table, names, known, tokens, past, wanted)
        rest = (_long(part, names, known, tokens, past, wanted)[0] for part in table.rest())
        read = Series(chain([long], rest))
    futures_ids: list[Any] = []
    if futures is not None:
        futures_ids = _check_future(futures, names)
        if not len(futures.frame):
            told = [name for name in futures.frame.columns if name not in names[:2]]
            _check_names(futures.label, told, wanted, "future")
            futures = None
    if futures is not None:
        if known.any and table is None:
            known = _Items(list(dict.fromkeys(futures_ids)), None, names[0])
        futures_ids, _ = agree(futures_ids, futures, known.ids, None, names[0])
    columns, planned = {}, None
    if statics is not None:
        columns = _columns(statics, names[:1], known.ids, wanted, "static")
    if futures is not None:
        when, form = read_when(futures, names[1], futures_ids)
        told = _columns(futures, names[:2], futures_ids, wanted, "future")
        # It may speak of more items: a plan of the whole house, say.
        planned = Steps(futures.label, known.rows(futures_ids), when, form, told)
    form = planned.form if read is None and planned is not None else read and read.form
    return Parsed(known.ids, Kind(first.kind, form), read, columns, planned, tokens)


class _Items:
    """The items and their rows: those given, or any, in the order in which they appear."""

    def __init__(self, ids: list[Any] | None, table: Table | None, name: str) -> None:
        self.any = ids is None
        self.ids = ids or []
        self._table, self._name = table, name
        self._row = self._numbered()
        if len(self._row) < len(self.ids):
            item = _first_repeated(self.ids)
            label = "The known items" if table is None else table.label
            fail(label, name, "one row an item", "another row", item, "Keep one of them.")

    def _numbered(self) -> dict[Any, int]:
        return dict(zip(self.ids, range(len(self.ids)), strict=True))

    def rows(self, ids: list[Any]) -> np.ndarray:
        """Return the row of each id, int64, -1 where it is none of the items."""
        return np.fromiter(map(self._row.get, ids, repeat(-1)), np.int64, len(ids))

    def find(self, table: Table) -> tuple[list[Any], np.ndarray]:
        """Return the ids of a series table and their rows; others than the items are refused."""
        ids = read_ids(table, self._name)
        if self.any:
            new = [item for item in dict.fromkeys(ids) if item not in self._row]
            self._row.update(
                zip(new, range(len(self._row), len(self._row) + len(new)), strict=True)
            )
            self.ids += new
            return ids, self.rows(ids)
        ids, own = agree(ids, table, self.ids, self._table, self._name)
        if own is not self.ids:  # a CSV file's numbers, where the series has text
            self.ids = own
            self._row = self._numbered()
        row = self.rows(ids)
        if (row < 0).any():
            where = "the known items" if self._table is None else "the static table"
            fail(
                table.label,
                self._name,
                f"items of {where}",
                "one that is not there",
                ids[int(np.argmax(row < 0))],
                f"Add it to {where}, or take it out of the series.",
            )
        return ids, row


def _long(
    table: Table,
    names: tuple[str, str, str],
    known: _Items,
    tokens: Vocabulary | None,
    past: Sequence[str],
    wanted: Mapping[str, dict[str, str]] | None,
) -> tuple[Long, Vocabulary | None]:
    """Read the series table or a batch of it; see ``parse``."""
    ids, row = known.find(table)
    when, form = read_when(table, names[1], ids)
    if tokens is None:
        y = read_y(table, names[2], ids)
    else:
        cells = token_cells(table, names[2], tokens)
        y, tokens = read_tokens(cells, table.label, names[2], ids, tokens)
    kinds = {} if wanted is None else wanted["past"]
    columns = {name: _column(table, name, ids, kinds.get(name)) for name in past}
    return Long(table.label, row, when, form, columns, y), tokens


def check_known_before(table: Table, targets: Iterable[str]) -> None:
    """Raise if a future table tells a target itself."""
    for name in targets:
        if name in table.frame.columns:
            raise DataError(
                f"{table.label}: expected what is known before {name!r} is; received the column "
                f"{name!r} itself. Leave it out.",
                column=name,
            )


def _check_future(table: Table, names: tuple[str, str, str]) -> list[Any]:
    """Return the ids of the future table, whose other columns are covariates."""
    check_columns(table, names[:2])
    check_known_before(table, names[2:])
    if len(table.frame.columns) < 3:
        raise DataError(
            f"{table.label}: expected covariates beside {list(names[:2])}; received no others."
        )
    return read_ids(table, names[0])


def _parse_arrays(
    table: np.ndarray | None,
    statics: np.ndarray | None,
    futures: np.ndarray | None,
    wanted: Mapping[str, dict[str, str]] | None,
    items: list[Any] | None,
    past: list[str],
    tokens: Vocabulary | None,
) -> Parsed:
    """As ``parse``, for ``Y (n, T)``, ``X (n, f)`` and ``future (n, T, f)``; ids are 0..n-1."""
    columns: dict[str, np.ndarray] = {}
    if statics is not None:
        x = read_numbers(statics, "X", "x", "(n, f)")
        columns = {f"x{j + 1}": x[:, j].copy() for j in range(x.shape[1])}
        _check_names("X", list(columns), wanted, "static")
    first = next(source for source in (table, statics, futures) if source is not None)
    n = len(first)
    if not n:
        raise DataError("Expected at least one item; received an array without rows.")
    if items is not None and len(items) != n:
        letter = "future" if first is futures else "Y"
        raise DataError(
            f"{letter}: expected a row for each of {len(items)} known items; received {n}."
        )
    ids = list(range(n)) if items is None else items
    planned = None
    if futures is not None:
        told = read_numbers(futures, "future", "f", "(n, T, f)")
        if len(told) != n:
            raise DataError(f"future: expected a row for each of {n} items; received {len(told)}.")
        features, steps = told.shape[2], told.shape[1]
        named = {f"f{j + 1}": told[..., j].ravel() for j in range(features)}
        _check_names("future", list(named), wanted, "future")
        row, when = np.repeat(np.arange(n), steps), np.tile(np.arange(1.0, steps + 1), n)
        planned = Steps("future", row, when, Form(), named)
    if table is None:
        return Parsed(ids, Kind("arrays", Form()), None, columns, planned, tokens)
    if past:
        raise DataError(
            f"past_cols: expected a series table with the columns {past}; received an array Y, "
            "which has none. Hand in a table.",
            column=past[0],
        )
    if tokens is None:
        y = read_numbers(table, "Y", "", "(n, T)")
    else:
        if table.ndim != 2:
            raise DataError(f"Y: expected shape (n, T); received {table.shape}.")
        rows = np.repeat(np.arange(n), table.size // n).tolist()
        y, tokens = read_tokens(table.ravel().tolist(), "Y", "Y", rows, tokens)
        y = y.reshape(n, -1)
    if statics is not None and len(statics) != n:
        raise DataError(
            f"Expected a row an item in Y and in X; received {n} rows in Y and {len(statics)} in X."
        )
    if y.shape[1] > MAX_STEPS:
        raise DataError(f"Y: expected at most {MAX_STEPS:,} steps; received {y.shape[1]:,}.")
    row, at = np.nonzero(~np.isnan(y))
    series = Series([Long("Y", row, at + 1.0, Form(), {}, y[row, at])])
    return Parsed(ids, Kind("arrays", Form()), series, columns, planned, tokens)


def open_table(
    source: Any, role: str, letter: str, only: Sequence[str] | None = None, *, empty: bool = False
) -> Table | np.ndarray:
    """Return a ``Table`` (one that is open already as it is), or the array that was handed in.

    If ``only`` some columns are needed, a Parquet file gives those, and the first of its rows.
    A table without rows is refused, unless ``empty`` says that it may be one.
    """
    if isinstance(source, Table):
        return source
    if isinstance(source, (str, PathLike)):
        table = _open_path(Path(source), role, only)
    else:
        label = f"The {role} table"
        try:
            frame = nw.from_native(source, pass_through=True)
            if isinstance(frame, nw.LazyFrame):
                frame = frame.collect()
        except nw.exceptions.NarwhalsError as error:  # pandas allows a name twice
            raise DataError(f"{label}: {error}") from error
        if not isinstance(frame, nw.DataFrame):
            return _array(source, role, letter)
        kind = frame.implementation.value
        if kind not in KINDS:
            raise DataError(f"{label}: expected one of {KINDS}; received {kind!r}.")
        table = Table(frame, label, kind, False)
    columns = list(table.frame.columns)
    if len(set(columns)) < len(columns):
        name = str(_first_repeated(columns))
        raise DataError(f"{table.label}: expected unique names; {name!r} is there twice.")
    if not len(table.frame) and not empty:
        raise _without_rows(table, role)
    return table


def _without_rows(table: Table, role: str) -> DataError:
    columns = list(table.frame.columns)
    return DataError(
        f"{table.label}: expected at least one row; received none"
        + (f" (columns {columns[:5]})." if columns else ".")
        + " A fit needs some; to forecast from k = 0, hand in a static table." * (role == "series")
    )


def _open_path(name: Path, role: str, only: Sequence[str] | None) -> Table:
    label = f"The {role} table {str(name)!r}"
    ending = name.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise DataError(f"{label}: expected a .csv or a .parquet file; received {ending!r}.")
    if not name.is_file():
        raise DataError(f"{label}: expected a file; there is none.")
    import polars as pl

    with _reading(label, ending[1:]):
        if ending == ".csv":
            # As text: what a column means is settled when it is used, by all of its rows
            frame = pl.read_csv(name, infer_schema=False)
            frame = frame.with_columns(pl.all().replace("", None))
            return Table(nw.from_native(frame), label, "polars", True)
        file = pl.scan_parquet(name, glob=False)
        if only is None:
            return Table(nw.from_native(file.collect()), label, "polars", False)
        if not set(only) <= set(file.collect_schema().names()):  # one row tells what is there
            return Table(nw.from_native(file.head(1).collect()), label, "polars", False)
        file = file.select(only)
        length = int(file.select(pl.len()).collect().item())
        frame = nw.from_native(file.head(BATCH).collect())
    return Table(frame, label, "polars", False, 0, file, length)


@contextmanager
def _reading(label: str, kind: str) -> Iterator[None]:
    """Raise a ``DataError`` for whatever a file has wrong."""
    import polars as pl

    try:
        yield
    except (OSError, UnicodeError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as e:
        what = str(e).strip().split("\n")[0] or type(e).__name__
        raise DataError(f"{label}: expected a {kind} table; cannot read it: {what}") from e


def _array(source: Any, role: str, letter: str) -> np.ndarray:
    try:
        array = np.ma.filled(source, np.nan) if np.ma.isMaskedArray(source) else np.asarray(source)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{letter}: expected a rectangular array, NaN where nothing was observed; "
            f"received {type(source).__name__}: {error}"
        ) from error
    if array.ndim == 0:
        raise DataError(
            f"The {role} table: expected a pandas, polars or Arrow table, a path, or an array; "
            f"received {type(source).__name__}."
        )
    return array


def read_numbers(array: np.ndarray, label: str, letter: str, shape: str) -> np.ndarray:
    """Return an array that was handed in as float64, checked; its columns go by ``letter``."""
    if array.ndim != shape.count(",") + 1:
        raise DataError(f"{label}: expected shape {shape}; received {array.shape}.")
    if array.dtype.kind in "biuf":
        values, bad = array.astype(np.float64), np.zeros(array.shape, bool)
    elif array.dtype == object:
        flat, wrong = _object_floats(array.ravel().tolist())
        values, bad = flat.reshape(array.shape), wrong.reshape(array.shape)
    else:
        values, bad = np.full(array.shape, np.nan), np.ones(array.shape, bool)
    expected = "a number or NaN"
    if not bad.any():
        bad, expected = np.abs(values) > LARGEST, "a finite number, or NaN"
    if bad.any():
        at = tuple(np.argwhere(bad)[0].tolist())
        raise DataError(
            f"{label}{list(at)}: expected {expected}; received {array[at]!r}.",
            column=f"{letter}{at[-1] + 1}" if letter else label,
            item=at[0],
        )
    return values


def read_ids(table: Table, name: str) -> list[Any]:
    """Return the id of each row: all whole numbers, or all of one other type."""
    column = table.frame[name]
    missing = column.is_null().to_numpy()
    if missing.any():
        at = int(np.argmax(missing))
        raise DataError(
            f"{table.label}, column {name!r}: expected an id in every row; row "
            f"{table.start + at + 1} has none.",
            column=name,
        )
    if table.text:
        whole = column.str.contains(_WHOLE).all()
        return (column.cast(nw.Int64) if whole else column).to_list()
    if column.dtype in (nw.Categorical, nw.Enum):
        column = column.cast(nw.String)
    ids = column.to_list()
    if isinstance(column.dtype, (nw.List, nw.Array, nw.Struct)):
        fail(table.label, name, "numbers or text", str(column.dtype), ids[0], "")
    types = set(map(type, ids))
    if types & {float, np.float64, np.float32}:  # pandas turns whole numbers into floats
        for item in ids:
            if not isinstance(item, (int, float, np.number)) or not float(item).is_integer():
                fail(table.label, name, "whole numbers or text", repr(item), item, "")
        return [int(item) for item in ids]
    if len(types) > 1 and not all(issubclass(t, numbers.Integral) for t in types):
        first = type(ids[0])
        item = next(item for item in ids if type(item) is not first)
        fail(
            table.label,
            name,
            f"ids of one type ({first.__name__}, as in the first row)",
            type(item).__name__,
            item,
            "Convert the column.",
        )
    return ids


def agree(
    left: list[Any], left_table: Table | None, right: list[Any], right_table: Table | None, name
) -> tuple[list[Any], list[Any]]:
    """Return both lists of ids in one type; a CSV file's 7 may be the text '7'."""
    kinds = [_id_kind(ids[0]) if ids else "" for ids in (left, right)]
    if kinds[0] != kinds[1] and left and right:
        if kinds == ["a whole number", "text"] and left_table is not None and left_table.text:
            return list(map(str, left)), right
        if kinds == ["text", "a whole number"] and right_table is not None and right_table.text:
            return left, list(map(str, right))
        other = "in the static table" if right_table is not None else "of the known items"
        label = "The series table" if left_table is None else left_table.label
        fail(
            label,
            name,
            f"{kinds[1]}, as {other} ({right[0]!r})",
            kinds[0],
            left[0],
            "Convert one of the columns.",
        )
    return left, right


def _id_kind(item: Any) -> str:
    if isinstance(item, numbers.Integral) and not isinstance(item, (bool, np.bool_)):
        return "a whole number"
    return "text" if isinstance(item, str) else type(item).__name__


def id_array(ids: list[Any]) -> np.ndarray:
    """Return ids as int64 if they are whole numbers, else as objects."""
    each = {type(item): item for item in ids}  # one of each type, as there may be many ids
    if ids and all(_id_kind(item) == "a whole number" for item in each.values()):
        try:
            return np.array(ids, np.int64)
        except OverflowError:
            pass  # beyond int64: objects will do
    out = np.empty(len(ids), object)
    out[:] = ids
    return out


def read_when(table: Table, name: str, ids: list[Any]) -> tuple[np.ndarray, Form]:
    """Return the step column and its form: float64 steps, or dates, datetime64[us], which are
    instants in UTC where the column has a time zone."""
    column = table.frame[name]
    advice = "Steps count from 1; dates are of a date type, or ISO text such as 2026-01-31."
    expected = "a whole number from 1, or a date"

    def refuse(bad: np.ndarray) -> NoReturn:
        at = int(np.argmax(bad))
        received = "nothing" if missing[at] else repr(column.to_list()[at])
        fail(table.label, name, expected, received, ids[at], advice)

    missing = column.is_null().to_numpy()
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
    if isinstance(dtype, nw.Object):
        values = column.to_list()
        if all(isinstance(value, datetime.date) for value in values):
            return _python_dates(values, refuse)
    if isinstance(dtype, (nw.String, nw.Object, nw.Categorical, nw.Enum)):
        texts = column.to_list()
        if not (table.text and is_number(texts[0])):
            distinct = {text: isinstance(text, str) and _iso(text) for text in set(texts)}
            bad = np.fromiter((distinct[text] is None for text in texts), bool, len(texts))
            bad |= np.fromiter((distinct[text] is False for text in texts), bool, len(texts))
            if bad.any():
                refuse(bad)
            date = np.fromiter(map(distinct.__getitem__, texts), "datetime64[us]", len(texts))
            if not table.text:
                return date, Form.of_text(max(distinct, key=len).strip())
            midnight = bool((date == date.astype("datetime64[D]")).all())
            return date, Form("Date" if midnight else "Datetime")
    if isinstance(dtype, nw.Boolean):
        refuse(np.ones(len(ids), bool))
    step, bad = read_floats(column, table.text)
    if not bad.any():
        bad = ~((step >= 1) & (step <= MAX_STEPS) & (step == np.floor(step)))
        if (step > MAX_STEPS).any():
            expected += f" (a step is at most {MAX_STEPS:,})"
    if bad.any():
        refuse(bad)
    return step, form


def _python_dates(
    values: list[Any], refuse: Callable[[np.ndarray], NoReturn]
) -> tuple[np.ndarray, Form]:
    """As ``read_when``, of dates or datetimes of Python, all with a time zone or all without."""
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
    if zone is None:  # offsets that differ have no zone in common but UTC
        same = len(set(offsets)) == 1
        zone = values[0].strftime("%z") if same and not offsets[0].seconds % 60 else "+0000"
        zone = f"{zone[:3]}:{zone[3:]}" if zone != "+0000" else "UTC"
    utc = [value.astimezone(datetime.UTC).replace(tzinfo=None) for value in values]
    return np.array(utc, "datetime64[us]"), Form("Datetime", "us", zone, "objects")


def _iso(text: str) -> np.datetime64 | None:
    if not _ISO.fullmatch(text.strip()):
        return None
    try:
        return np.datetime64(text.strip(), "us")
    except ValueError:  # 30 February
        return None


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_y(table: Table, name: str, ids: list[Any]) -> np.ndarray:
    y, bad = read_floats(table.frame[name], table.text)
    expected = "a number, or nothing where it was not observed"
    if not bad.any():
        bad, expected = np.abs(y) > LARGEST, "a finite number"
    if bad.any():
        at = int(np.argmax(bad))
        value = table.frame[name].to_list()[at]
        advice = "Leave the cell empty (null or NaN) if nothing was observed."
        if isinstance(value, str):
            advice += " Text may also be tokens: Forecaster(head='categorical')."
        fail(table.label, name, expected, repr(value), ids[at], advice)
    return y


def token_cells(table: Table, name: str, vocabulary: Vocabulary) -> list[Any]:
    """The cells of a column of tokens. Those of a file are whole numbers, or booleans, if all of
    them look it and the vocabulary, where there is one, is of that type; else text."""
    column = table.frame[name]
    if column.dtype in (nw.Categorical, nw.Enum):
        column = column.cast(nw.String)
    if table.text:
        kind = vocabulary.type if vocabulary.tokens else None
        truth = column.str.to_lowercase()
        if kind in (int, None) and column.str.contains(_WHOLE).all():
            column = column.cast(nw.Int64)
        elif kind in (bool, None) and truth.is_in(["true", "false"]).all():
            column = truth == "true"
    return column.to_list()


def read_tokens(
    values: list[Any], label: str, name: str, ids: list[Any], vocabulary: Vocabulary
) -> tuple[np.ndarray, Vocabulary]:
    """The codes of cells, float64 with NaN where nothing was observed, and the vocabulary.

    One without tokens is learnt from the cells. A token that is not in it is an unknown one,
    and a warning says so.
    """
    distinct: dict[Any, Any] = {}
    tokens = []
    for value, item in zip(values, ids, strict=True):
        try:
            key = (type(value), value)
            if key not in distinct:
                distinct[key] = token(value)
            tokens.append(distinct[key])
        except (TypeError, ValueError) as error:  # a list has no hash
            expected = str(error) if isinstance(error, ValueError) else "text or a number"
            fail(label, name, expected, repr(value)[:80], item, "Convert the column.")
    learning = not vocabulary.tokens
    first = next((each for each in tokens if each is not None), None)
    kind = type(first) if learning else vocabulary.type
    at = mixed(tokens, kind)
    if first is not None and at is not None:
        expected = f"tokens of one type ({type_name(kind)}, as "
        expected += "in the first row)" if learning else "in fit)"
        fail(label, name, expected, repr(tokens[at]), ids[at], "Convert the column.")
    seen = {each for each in distinct.values() if each is not None}
    if learning:
        if not seen:
            raise DataError(
                f"{label}, column {name!r}: expected tokens; every cell is empty.", column=name
            )
        vocabulary = Vocabulary.learn(seen)
        if len(seen) > MOST_TOKENS:
            raise DataError(
                f"{label}, column {name!r}: expected at most {MOST_TOKENS:,} different tokens; "
                f"received {len(seen):,}. A token is a character or a word, not a text or an id.",
                column=name,
            )
    codes = {each: float(code) for each, code in zip(seen, vocabulary.codes(seen), strict=True)}
    new = sorted(each for each, code in codes.items() if code == UNKNOWN)
    if new:
        at = tokens.index(new[0])
        more = f" and {len(new) - 3} more" if len(new) > 3 else ""
        warn(
            f"{label}, column {name!r}: tokens never seen in training, taken as unknown: "
            f"{', '.join(map(repr, new[:3]))}{more} (item {ids[at]!r}).",
        )
    return np.array([codes.get(each, np.nan) for each in tokens], np.float64), vocabulary


def _columns(
    table: Table,
    keys: Iterable[str],
    ids: list[Any],
    wanted: Mapping[str, dict[str, str]] | None,
    what: str,
) -> dict[str, np.ndarray]:
    """Return the columns beside the keys: float64 with NaN, or objects (text or None)."""
    names = [name for name in table.frame.columns if name not in keys]
    for name in names:
        if not isinstance(name, str):
            raise DataError(
                f"{table.label}: expected columns named by text; received {name!r}.",
                column=str(name),
            )
    _check_names(table.label, names, wanted, what)
    kinds = dict.fromkeys(names) if wanted is None else wanted[what]
    columns: dict[str, np.ndarray] = {}
    for name, kind in kinds.items():
        columns[name] = _column(table, name, ids, kind)
    return columns


def _check_names(
    label: str, names: list[str], wanted: Mapping[str, dict[str, str]] | None, what: str
) -> None:
    """Raise unless the columns are those of the fit, in any order; in the fit, for too many."""
    if wanted is None:
        if len(names) > MAX_COLUMNS:
            raise DataError(
                f"{label}: expected at most {MAX_COLUMNS} columns; received {len(names)}."
            )
        return
    known = list(wanted[what])
    for name in known:
        if name not in names:
            raise DataError(
                f"{label}: expected a {what} column {name!r}, as in fit; received {names}.",
                column=name,
            )
    for name in names:
        if name not in known:
            raise DataError(
                f"{label}: expected the {what} columns of fit, {known}; received {name!r} too. "
                "Leave it out.",
                column=name,
            )


def _column(table: Table, name: str, ids: list[Any], kind: str | None) -> np.ndarray:
    """Return one column of features, as the kind of the fit or, without one, by its type."""
    column = table.frame[name]
    missing = column.is_null().to_numpy()
    values, bad = read_floats(column, table.text)
    if kind is None:
        kind = "categorical" if bad.any() else "numeric"
        if table.text and 0 < bad.sum() < 0.1 * (~missing).sum():
            at = int(np.argmax(bad))
            warn(
                f"{table.label}, column {name!r} is taken as categories, as "
                f"{column.to_list()[at]!r} (item {ids[at]!r}) is not a number though most "
                "values are. Leave the cell empty where a number is missing.",
            )
    at, expected, received = int(np.argmax(~missing)), "", None
    if kind == "numeric" and bad.any():
        at, expected = int(np.argmax(bad)), "a number, as in fit"
        received = repr(column.to_list()[at])
    elif kind == "numeric" and (np.abs(values) > LARGEST).any():
        at, expected = int(np.argmax(np.abs(values) > LARGEST)), "a finite number"
        received = repr(column.to_list()[at])
    elif kind == "categorical" and not missing.all():
        expected = "numbers, text, categories or booleans"
        if not bad.any() and not table.text:
            expected, received = "text, as in fit", f"{column.to_list()[at]!r} ({column.dtype})"
        elif isinstance(column.dtype, nw.Object):
            for i, value in enumerate(column.to_list()):
                if not missing[i] and not isinstance(value, str):
                    at, received = i, repr(value)
                    break
        elif not isinstance(column.dtype, (nw.String, nw.Categorical, nw.Enum)):
            received = f"{column.to_list()[at]!r} ({column.dtype})"
    if received is not None:
        advice = "Convert the column, or leave it out of fit and predict."
        fail(table.label, name, expected, received, ids[at], advice)
    if kind == "numeric":
        return values
    out = np.full(len(ids), None, object)
    if not missing.all():
        texts = np.array(column.cast(nw.String).to_list(), object)
        there = ~missing & (texts != "")
        out[there] = texts[there]
    return out


def read_floats(column: Any, text: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a column as float64, NaN where missing, and where it is not a number."""
    missing = column.is_null().to_numpy()
    dtype = column.dtype
    if text:
        import polars as pl

        cell = column.to_native().str.strip_chars()
        number = cell.cast(pl.Float64, strict=False)
        if (number.is_null() & cell.is_not_null()).any():
            truth = cell.str.to_lowercase().replace_strict(
                {"true": 1.0, "false": 0.0}, default=None, return_dtype=pl.Float64
            )
            number = number.fill_null(truth)
        bad = (number.is_null() & cell.is_not_null()).to_numpy()
        return number.to_numpy().astype(np.float64), bad
    if missing.all():
        return np.full(len(missing), np.nan), np.zeros(len(missing), bool)
    if dtype.is_numeric() or isinstance(dtype, nw.Boolean):
        values = np.array(column.cast(nw.Float64).to_numpy(), np.float64)
        return values, np.zeros(len(values), bool)
    if isinstance(dtype, nw.Object):
        return _object_floats(
            [None if m else v for v, m in zip(column.to_list(), missing, strict=True)]
        )
    return np.full(len(missing), np.nan), ~missing


def _object_floats(values: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """As ``read_floats``, for Python objects: numbers, booleans, decimals, None."""
    out = np.full(len(values), np.nan)
    bad = np.zeros(len(values), bool)
    for i, value in enumerate(values):
        if value is None:
            continue
        if isinstance(value, (numbers.Number, np.bool_)) and not isinstance(value, complex):
            try:
                out[i] = float(value)  # type: ignore[arg-type]
            except OverflowError:
                out[i] = np.inf
        else:
            bad[i] = True
    return out, bad


# -- checks ----------------------------------------------------------------------------


def fail(label: str, column: str, expected: str, received: str, item: Any, advice: str) -> NoReturn:
    message = f"{label}, column {column!r}: expected {expected}; received {received}"
    raise DataError(f"{message} (item {item!r}). {advice}".strip(), column=column, item=item)


def check_columns(table: Table, names: Iterable[str]) -> None:
    columns = list(table.frame.columns)
    for name in names:
        if name not in columns:
            hint = " Columns are separated by commas." * (table.text and len(columns) == 1)
            if str(name).partition(",")[0].strip() in columns:
                hint = " Name several columns one by one: a list, or the option repeated."
            raise DataError(
                f"{table.label}: expected a column {name!r}; received {columns[:20]}." + hint,
                column=name,
            )


def check_cells(rows: int, steps: int, what: str) -> None:
    if rows * steps > MAX_CELLS:
        raise DataError(
            f"Expected at most {MAX_CELLS:,} cells in {what}; received {rows:,} items x "
            f"{steps:,} steps. Is a step far too large, or the table for several calls?"
        )


def _first_repeated(ids: list[Any]) -> Any:
    seen: set[Any] = set()
    for item in ids:
        if item in seen:
            return item
        seen.add(item)
    return None
