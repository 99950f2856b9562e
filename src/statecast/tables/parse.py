"""Reading the tables people have: pandas, polars, Arrow, CSV and Parquet files, arrays.

Everything is checked here, column by column, before anything is done with it; what comes
out is NumPy. What the tables mean (steps, scaling, vocabulary) is ``table``'s. A series in a
Parquet file is read some rows at a time, so that it need not fit into memory.
"""

from __future__ import annotations

import csv
import datetime
import difflib
import io
import numbers
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import chain, islice, repeat
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import narwhals.stable.v2 as nw
import numpy as np

from statecast.errors import DataError, cut, listed, quoted, warn
from statecast.tables.dates import Form, in_utc, known_zone
from statecast.tables.id_types import IdType
from statecast.tables.vocabulary import MOST_TOKENS, UNKNOWN, Vocabulary, mixed, token, type_name

if TYPE_CHECKING:
    import polars as pl

# Caps: a table beyond them is a mistake (an id taken for a category, a date for a step),
# and a model file beyond them is not ours.
MAX_STEPS = 1_000_000
MAX_COLUMNS = 10_000  # a picture's features are 4,096
MAX_CELLS = 500_000_000  # rows x steps of one panel: 2 GB of float32
LARGEST = 1e100  # beyond it, squares overflow float64: such a number is as good as infinite
_LONGEST_HEADER = 2**24  # bytes of a CSV file's first line
_CHUNK_OF_LINES = 2**25  # bytes of a CSV file whose lines are counted at once
BATCH = 2**18  # rows of a Parquet file that are in memory at once
KINDS = ("polars", "pandas", "pyarrow", "modin", "cudf", "arrays")
_WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"  # whole numbers that survive text -> int -> text
_WHOLE_FLOAT = re.compile(r"(-?\d+)\.0+")  # what a table makes of whole numbers beside a gap
# What files write where there is no number. Among texts they are texts: NA is Namibia, too.
NA_MARKS = frozenset({"", "na", "n/a", "#n/a", "<na>", "null", "none", "nan", "-", "."})
_ISO = re.compile(
    r"(\d{4}-\d\d(?:-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)?)?)"
    r"(?: ?(Z|[+-]\d\d:?[0-5]\d))?"
)


@dataclass(frozen=True)
class Kind:
    """What came in, so that the same can go out.

    Attributes
    ----------
    library : str
        One of ``KINDS``.
    steps : Form or None
        How the column of steps is written; None: as in fit.
    ids : Any
        The type of the column of ids in that library, as polars.Categorical, or an ``IdType``;
        None: by the ids.
    """

    library: str
    steps: Form | None = None
    ids: Any = None

    def ids_column(self, name: str, ids: np.ndarray, row: np.ndarray | None = None) -> Any:
        """Return ids, or those at ``row`` among them, as a column of narwhals of their type."""
        column = _ids_of_type(name, ids.tolist(), self.library, self.ids)
        return column if row is None else column[row]


@dataclass(frozen=True)
class Table:
    """A table as it came: a narwhals frame, what to call it, and whether it is all text.

    Of a Parquet file ``frame`` may be some rows only: ``start`` is the first of them. ``file`` has
    those after them, too. ``first`` is the number of step 1 where the table is a part of another,
    from which it was learnt; see ``Schema.first``.
    """

    frame: Any
    label: str
    kind: str
    text: bool  # a CSV file: what a column means depends on what is asked of it
    start: int = 0
    file: _ParquetFile | None = None
    first: int | None = None

    def rest(self) -> Iterator[Table]:
        """Return the rows of the file after these, a batch at a time."""
        start = len(self.frame)
        for frame in () if self.file is None else islice(self.file.batches(BATCH), 1, None):
            yield replace(self, frame=nw.from_native(frame), start=start, file=None)
            start += len(frame)


@dataclass(frozen=True)
class _ParquetFile:
    """A Parquet file, which Arrow reads a batch of rows at a time.

    polars does not: of a damaged file it may ask for more memory than there is, which ends the
    process. Arrow raises an error.
    """

    path: Path
    label: str
    only: Sequence[str] | None = None  # the columns to read; None: all

    def names(self) -> list[str]:
        """Return the names of the columns, checked."""
        import pyarrow.parquet as pq

        with _reading(self.label, "parquet"):
            names = pq.read_schema(self.path).names
        _check_header(self.label, names)
        return names

    def batches(self, rows: int) -> Iterator[pl.DataFrame]:
        """Return the rows, so many at a time; of a file without rows one frame without rows."""
        import polars as pl
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = None if self.only is None else list(self.only)
        with _reading(self.label, "parquet"), pq.ParquetFile(pa.OSFile(str(self.path))) as file:
            schema, said, found = file.schema_arrow, file.metadata, 0
            for field in schema:  # polars panics at other notes, and has its enums there
                for note in chain.from_iterable((field.metadata or {}).items()):
                    note.decode()
            sizes = [said.row_group(i).num_rows for i in range(said.num_row_groups)]
            # Arrow holds what it has read of all groups of rows that it was asked for, and
            # threads of its pool are not there after a fork.
            for groups in _runs(sizes, rows):
                for batch in file.iter_batches(
                    rows, row_groups=groups, columns=columns, use_threads=False
                ):
                    batch.validate(full=True)  # polars takes text for UTF-8 without a look
                    found += len(batch)
                    yield pl.DataFrame(batch.replace_schema_metadata())
            if found != said.num_rows:
                raise pa.ArrowInvalid(f"it has {found:,} rows, and says {said.num_rows:,}")
            if not found:
                yield pl.DataFrame(
                    schema.remove_metadata().empty_table().select(columns or schema.names)
                )


def _runs(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Return the numbers of sizes in turn, as many together as make no more than ``most``."""
    run: list[int] = []
    total = 0
    for number, size in enumerate(sizes):
        if run and total + size > most:
            yield run
            run, total = [], 0
        run.append(number)
        total += size
    if run:
        yield run


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
    start: Steps | None = None  # the launch dates: a row an item that has one


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
    categorical: Iterable[str] = (),
    start_col: str | None = None,
) -> Parsed:
    """Read and check the tables.

    ``wanted`` gives the columns of the fit and their kinds, of the ``static``, the ``future``
    and the ``past`` ones (None: this is the fit); ``items`` the known items, if the series may
    speak of no others; ``tokens`` says that y holds tokens, and of which vocabulary (one without
    any: it is learnt here); ``past`` the past covariates among the columns of the series; of the
    fit, ``categorical`` the columns that are categories even if they are numbers; ``start_col`` the
    column of the static table that holds launch dates, which is no feature.
    """
    past, kinds = list(past), _Kinds(wanted, tuple(categorical))
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
        if start_col is not None:
            raise DataError(
                f"start_col: expected a static table with the column {quoted(start_col)}; received "
                "arrays, whose steps have no dates. Hand in tables."
            )
        return _parse_arrays(table, statics, futures, kinds, items, past, tokens)
    assert not isinstance(table, np.ndarray)
    assert not isinstance(statics, np.ndarray)
    assert not isinstance(futures, np.ndarray)

    known = _Items(items, None, names[0])
    if table is not None:
        check_columns(table, names)
        check_columns(table, past, ())
        if not len(table.frame):  # of an item without rows k is 0
            if statics is None and futures is None and items is None:
                raise _without_rows(table, "series")
            table = None
    if statics is not None:
        check_columns(statics, names[:1])
        known = _Items(read_ids(statics, names[0]), statics, names[0])
    read = None
    if table is not None:
        long, tokens = _long(table, names, known, tokens, past, kinds)
        rest = (_long(part, names, known, tokens, past, kinds)[0] for part in table.rest())
        read = Series(chain([long], rest))
    futures_ids: list[Any] = []
    if futures is not None:
        futures_ids = _check_future(futures, names)
        if not len(futures.frame):
            told = [name for name in futures.frame.columns if name not in names[:2]]
            _check_names(futures.label, told, kinds, "future")
            futures = None
    if futures is not None:
        if known.any and table is None:
            known = _Items(list(dict.fromkeys(futures_ids)), None, names[0])
        futures_ids, _ = agree(futures_ids, futures, known.ids, None, names[0])
    columns, planned, start = {}, None, None
    if statics is not None:
        keys = names[:1]
        if start_col is not None:
            start, keys = _read_start(statics, start_col, known.ids), (names[0], start_col)
        columns = _columns(statics, keys, known.ids, kinds, "static")
    if futures is not None:
        when, form = read_when(futures, names[1], futures_ids)
        told = _columns(futures, names[:2], futures_ids, kinds, "future")
        # It may speak of more items: a plan of the whole house, say.
        planned = Steps(futures.label, known.rows(futures_ids), when, form, told)
    form = planned.form if read is None and planned is not None else read and read.form
    kind = Kind(first.kind, form, None if first.text else _native_type(first.frame[names[0]]))
    return Parsed(known.ids, kind, read, columns, planned, tokens, start)


@dataclass(frozen=True)
class _Kinds:
    """What the columns of features are: as in the fit, or in the fit by their type and name.

    A kind is "numeric"; "categorical", of text; or "codes", of text or whole numbers.
    """

    fit: Mapping[str, dict[str, str]] | None
    categorical: tuple[str, ...]

    def of(self, what: str, names: Iterable[str]) -> dict[str, str | None]:
        """Return the columns to read of a table, "static", "future" or "past", and their kinds;
        None where the column's type says it."""
        if self.fit is not None:
            return dict(self.fit[what])
        return {name: "codes" if name in self.categorical else None for name in names}


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
    kinds: _Kinds,
) -> tuple[Long, Vocabulary | None]:
    """Read the series table or a batch of it; see ``parse``."""
    ids, row = known.find(table)
    when, form = read_when(table, names[1], ids)
    if tokens is None:
        y = read_y(table, names[2], ids)
    else:
        cells = token_cells(table, names[2], tokens)
        y, tokens = read_tokens(cells, table.label, names[2], ids, tokens)
    columns = {
        column: read_column(table, column, ids, kind, kinds.fit is None)
        for column, kind in kinds.of("past", past).items()
    }
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
    kinds: _Kinds,
    items: list[Any] | None,
    past: list[str],
    tokens: Vocabulary | None,
) -> Parsed:
    """As ``parse``, for ``Y (n, T)``, ``X (n, f)`` and ``future (n, T, f)``; ids are 0..n-1."""
    columns: dict[str, np.ndarray] = {}
    if statics is not None:
        x = read_numbers(statics, "X", "x", "(n, f)")
        columns = {f"x{j + 1}": x[:, j].copy() for j in range(x.shape[1])}
        _check_names("X", list(columns), kinds, "static")
        columns = _coded("X", columns, kinds.of("static", columns), range(len(x)))
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
        _check_names("future", list(named), kinds, "future")
        items_of = np.repeat(np.arange(n), steps).tolist()
        named = _coded("future", named, kinds.of("future", named), items_of)
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
        table = _open_path(Path(os.fsdecode(source)), role, only)
    else:
        label = f"The {role} table"
        try:
            native = nw.to_native(source, pass_through=True)
            if type(native).__name__ == "RecordBatch" and hasattr(native, "schema"):
                import pyarrow as pa

                native = pa.Table.from_batches([native])
            frame = nw.from_native(native, pass_through=True)
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
    _check_header(table.label, columns)
    if not len(table.frame) and not empty:
        raise _without_rows(table, role)
    return table


def _without_rows(table: Table, role: str) -> DataError:
    columns = list(table.frame.columns)
    return DataError(
        f"{table.label}: expected at least one row; received none"
        + (f" (columns {listed(columns, 5)})." if columns else ".")
        + " A fit needs some; to forecast from k = 0, hand in a static table." * (role == "series")
    )


def _open_path(name: Path, role: str, only: Sequence[str] | None) -> Table:
    label = f"The {role} table {quoted(str(name), 200)}"
    ending = name.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise DataError(f"{label}: expected a .csv or a .parquet file; received {quoted(ending)}.")
    try:
        there = name.is_file()
    except OSError:  # a name too long to be one
        there = False
    if not there:
        raise DataError(f"{label}: expected a file; there is none.")
    try:
        str(name).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{label}: expected a file name in UTF-8. Rename the file.") from error
    import polars as pl

    if ending == ".csv":
        with _reading(label, "csv"):
            return Table(nw.from_native(_read_csv(name.read_bytes(), label)), label, "polars", True)
    file = _ParquetFile(name, label)
    names = file.names()
    if only is None:
        frame = pl.concat(file.batches(BATCH))
    elif not set(only) <= set(names):  # one row tells what is there
        frame = next(file.batches(1))
    else:
        file = replace(file, only=only)
        frame = next(file.batches(BATCH))
        return Table(nw.from_native(frame), label, "polars", False, 0, file)
    return Table(nw.from_native(frame), label, "polars", False)


def columns_of(source: Any) -> list[str]:
    """Return the names of the columns of a table that can be read; none of an array."""
    if isinstance(source, Table):
        return list(source.frame.columns)
    if isinstance(source, (str, PathLike)):
        import polars as pl

        path = Path(os.fsdecode(source))
        if path.suffix.lower() == ".csv":
            return pl.read_csv(path, n_rows=1, infer_schema=False).columns
        return _ParquetFile(path, "The table").names()
    frame = nw.from_native(source, pass_through=True)
    known = isinstance(frame, (nw.DataFrame, nw.LazyFrame))
    return list(frame.collect_schema().names()) if known else []


def _check_header(label: str, names: list[Any]) -> None:
    if len(names) > MAX_COLUMNS:
        raise DataError(
            f"{label}: expected at most {MAX_COLUMNS:,} columns; received {len(names):,}. Is it a "
            "wide table, with a column a step? A series has a row an item and step."
        )
    if len(set(names)) < len(names):
        name = quoted(_first_repeated(names))
        raise DataError(f"{label}: expected unique names; {name} is there twice.")


def _read_csv(content: bytes, label: str) -> pl.DataFrame:
    """Return a CSV file's cells as text, null where they are empty, without its blank lines.

    What a column means is settled when it is used, by all of its rows.
    """
    import polars as pl

    start = content[:_LONGEST_HEADER].decode("utf-8-sig", "replace")
    header = next(csv.reader(io.StringIO(start)), [])
    _check_header(label, header)
    if content.strip():
        _check_fields(content, len(header), label)
    frame = pl.read_csv(content, infer_schema=False)
    frame = frame.select(pl.when(pl.all().str.strip_chars() != "").then(pl.all()))
    return frame.filter(~pl.all_horizontal(pl.all().is_null()))


def _check_fields(content: bytes, fields: int, label: str) -> None:
    """Raise for a line of a CSV file that has not as many fields as the first: polars fills up a
    short one with gaps, and a file that was cut ends in one."""
    for line, (found, text) in _unlike(content, fields):
        last = not content.endswith(b"\n") and content.endswith(text.encode())
        raise DataError(
            f"{label}: expected {fields} fields in every line, as in the first; line {line:,} has "
            f"{found}: {quoted(text)}." + " It is the last: is the file complete?" * last
        )
    if content.endswith(b","):
        warn(
            f"{label} ends without a line break and with an empty cell, which is taken as missing: "
            "is the file complete?"
        )


def _unlike(content: bytes, fields: int) -> Iterator[tuple[int, tuple[int, str]]]:
    """Yield the lines, from 1, that are not blank and have more or fewer fields than expected."""
    if b'"' in content:  # a quoted cell may hold commas and line breaks
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig", "replace"), newline=""))
        for row in reader:
            if len(row) != fields and "".join(row).strip():
                yield reader.line_num, (len(row), ",".join(row))
        return
    start = line = 0
    while start < len(content):
        end = content.find(b"\n", start + _CHUNK_OF_LINES) + 1 or len(content)
        part = np.frombuffer(content, np.uint8, end - start, start)
        breaks = np.append(np.flatnonzero(part == ord("\n")), len(part))
        counts = np.diff(np.searchsorted(np.flatnonzero(part == ord(",")), breaks), prepend=0)
        for at in np.flatnonzero(counts != fields - 1):
            begin = start + (int(breaks[at - 1]) + 1 if at else 0)
            text = content[begin : start + int(breaks[at])].decode("utf-8", "replace").strip()
            if text:
                yield line + int(at) + 1, (int(counts[at]) + 1, text)
        start, line = end, line + len(breaks) - 1


@contextmanager
def _reading(label: str, kind: str) -> Iterator[None]:
    """Raise a ``DataError`` for whatever a file has wrong."""
    import polars as pl

    unreadable = (pl.exceptions.PolarsError, pl.exceptions.PanicException, csv.Error)
    if kind == "parquet":
        import pyarrow as pa

        unreadable += (pa.ArrowException,)
    try:
        yield
    except (OSError, UnicodeError, *unreadable) as e:
        what = str(e).strip().split("\n")[0] or type(e).__name__
        raise DataError(f"{label}: expected a {kind} table; cannot read it: {what}") from e


# Whose arrays NumPy reads: no others, as there is hardly a thing that it makes no array of.
_ARRAY_LIBRARIES = ("numpy", "jax", "jaxlib", "torch", "tensorflow", "keras")


def _array(source: Any, role: str, letter: str) -> np.ndarray:
    """Return an array of numbers, tokens or objects that was handed in; refuse all else."""
    stranger = source if _is_scalar(source) else _stranger(source)
    if stranger is not None:
        within = "" if stranger is source else f"a {type(source).__name__} of "
        raise DataError(
            f"The {role} table: expected a pandas, polars or Arrow table, a path, or an array; "
            f"received {within}{_type_name(stranger)}.{_remedy(stranger)}"
        )
    try:
        if np.ma.isMaskedArray(source):
            source = np.ma.filled(source if source.dtype.kind in "fO" else source * 1.0, np.nan)
        array = np.asarray(source)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{letter}: expected a rectangular array, NaN where nothing was observed; "
            f"received {type(source).__name__}: {error}"
        ) from error
    if array.dtype.names is not None:
        raise DataError(
            f"{letter}: expected an array of numbers; received a structured array with the fields "
            f"{listed(array.dtype.names)}. Make a table of it: pandas.DataFrame(array)."
        )
    if array.ndim == 0:
        raise DataError(f"{letter}: expected an array; received a single value, {quoted(array)}.")
    return array


def _stranger(source: Any) -> Any:
    """Return the first object that is no array, number or text, or a list of such; or None."""
    if isinstance(source, (list, tuple)):
        some = {type(each): each for each in source}.values()
        nested = any(isinstance(each, (list, tuple)) for each in some)
        found = map(_stranger, source if nested else some)
        return next((each for each in found if each is not None), None)
    library = type(source).__module__.partition(".")[0]
    known = library in _ARRAY_LIBRARIES and hasattr(source, "__array__")
    return None if known or _is_scalar(source) else source


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (numbers.Number, str, bytes, datetime.date)) or is_missing(value)


def _remedy(stranger: Any) -> str:
    """Say what to do about an object that is neither a table nor an array."""
    if hasattr(stranger, "to_dataframe"):  # xarray
        return (
            " Make a table of it, .to_dataframe().reset_index(), or an array, items first: "
            "numpy.asarray(...)."
        )
    if isinstance(stranger, Mapping):
        return " Make a table of it: polars.DataFrame(...) or pandas.DataFrame(...)."
    if hasattr(
        stranger, "read_all"
    ):  # an Arrow reader can be read only once, and a fit reads twice
        return " Read it into a table: .read_all()."
    if hasattr(stranger, "to_table"):
        return " Read it into a table: .to_table()."
    if isinstance(stranger, Iterator):
        return " It can be read only once: make a list or a table of it."
    if hasattr(stranger, "to_frame"):
        return " It is one column: hand in the table."
    if hasattr(stranger, "__array__"):
        return " Make an array of it, items first, numpy.asarray(...), or a table."
    return ""


def _type_name(value: Any) -> str:
    kind = type(value)
    known = kind.__module__ == "builtins"
    return kind.__name__ if known else f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


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
    if table.text:
        cells = column.to_native()
        whole, mark = cells.str.contains(_WHOLE), _marks(cells)
        if whole.any() and (whole | mark).all():
            column = nw.from_native(cells.set(mark, None), series_only=True).cast(nw.Int64)
    ids = read_cells(column)
    if type(None) in set(map(type, ids)):
        at = next(row for row, item in enumerate(ids) if item is None)
        raise DataError(
            f"{table.label}, column {quoted(name)}: expected an id in every row; row "
            f"{table.start + at + 1} has none.",
            column=name,
        )
    each = {type(item): item for item in ids}  # one of each type, as there may be many ids
    if any(
        issubclass(kind, numbers.Number) and not issubclass(kind, numbers.Integral) for kind in each
    ):
        whole_ids = []
        for item in ids:
            number = _whole(item)
            if number is None:
                fail(table.label, name, "whole numbers or text", quoted(item), item, "")
            whole_ids.append(number)
        return whole_ids
    if len(each) > 1 and any(_id_kind(item) != "a whole number" for item in each.values()):
        item = next(item for item in ids if type(item) is not type(ids[0]))
        fail(
            table.label,
            name,
            f"ids of one type ({type(ids[0]).__name__}, as in the first row)",
            type(item).__name__,
            item,
            "Convert the column.",
        )
    try:
        set(ids)
    except TypeError:  # a list, a dict, an array
        fail(
            table.label,
            name,
            "numbers or text",
            cut(str(column.dtype)),
            ids[0],
            "Convert the column.",
        )
    return ids


def items_of(source: Any, role: str, letter: str, name: str, like: list[Any]) -> list[Any] | None:
    """Return the distinct ids of a table, in the type of those ``like`` them; None of an array."""
    table = open_table(source, role, letter, (name,), empty=True)
    if isinstance(table, np.ndarray):
        return None
    check_columns(table, (name,))
    found = dict.fromkeys(item for part in (table, *table.rest()) for item in read_ids(part, name))
    return agree(list(found), table, like, None, name)[0]


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
            f"{kinds[1]}, as {other} ({quoted(right[0])})",
            kinds[0],
            left[0],
            "Convert one of the columns.",
        )
    return left, right


def _id_kind(item: Any) -> str:
    whole = isinstance(item, numbers.Integral) and _is_number(item)
    if whole and not isinstance(item, (bool, np.bool_)):
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
    return np.fromiter(ids, object, len(ids))  # a tuple stays one object


def _native_type(column: Any) -> Any:
    """Return the type that a column has in its own library."""
    native = column.to_native()
    return native.type if hasattr(native, "type") else native.dtype


def _ids_of_type(name: str, ids: list[Any], library: str, kind: Any) -> Any:
    """Return ids as a column of narwhals, of a type of the library if it can hold them all."""
    backend: Any = library
    if isinstance(kind, IdType):  # of a model file
        with suppress(TypeError, ValueError, LookupError, *_failures(library)):
            kind = kind.native(library)
        kind = None if isinstance(kind, IdType) else kind
    categories = None if library == "polars" else getattr(kind, "categories", None)
    if kind is not None and ids and (categories is None or set(ids) <= set(categories)):
        with suppress(
            TypeError, ValueError, ArithmeticError, NotImplementedError, *_failures(library)
        ):
            if library == "polars":
                import polars as pl

                native: Any = pl.Series(name, ids, dtype=kind)
            elif library == "pyarrow":
                import pyarrow as pa

                native = pa.chunked_array([pa.array(ids, type=kind)])
            else:
                native = nw.new_series(name, ids, backend=backend).to_native().astype(kind)
            column = nw.from_native(native, series_only=True).alias(name)
            # An id of the static table may be none of the categories of the series table's
            if not column.is_null().any():
                return column
    values = id_array(ids)
    if values.dtype != object:
        return nw.from_dict({name: values}, backend=backend)[name]
    with suppress(TypeError, ValueError, ArithmeticError, *_failures(library)):
        return nw.new_series(name, ids, backend=backend)
    return nw.new_series(name, list(map(str, ids)), nw.String(), backend=backend)


def _failures(library: str) -> tuple[type[Exception], ...]:
    """Return what a library raises of its own for values that a type cannot hold."""
    if library != "polars":
        return ()
    import polars as pl

    return (pl.exceptions.PolarsError,)


def read_when(
    table: Table,
    name: str,
    ids: list[Any],
    expected: str = "a whole number from 1, or a date",
    advice: str = "Steps count from 1; dates are of a date type, or ISO text such as 2026-01-31.",
) -> tuple[np.ndarray, Form]:
    """Return the step column and its form: float64 steps, or dates, datetime64[us], which are
    instants in UTC where the column has a time zone. ``expected`` and ``advice`` are for errors."""
    column = table.frame[name]

    def refuse(bad: np.ndarray, what: str = "") -> NoReturn:
        at = int(np.argmax(bad))
        cell = column.to_list()[at]
        received = "nothing" if missing[at] else quoted(cell)
        fail(table.label, name, what or expected, received, ids[at], _date_remedy(cell) or advice)

    missing = _missing(column)
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
            return _python_dates(list(map(_python_date, cells)), refuse)
        text = all(isinstance(cell, str) for cell in cells)
        if text and not (table.text and is_number(cells[0])):
            return _text_dates(cells, table.text, refuse)
        if not table.text:
            whole = (_is_number(cell) and not isinstance(cell, bool) for cell in cells)
            bad = ~np.fromiter(whole, bool, len(cells))
            if bad.any():
                refuse(bad)
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


def _read_start(table: Table, name: str, ids: list[Any]) -> Steps | None:
    """Return the launch dates of a static table, of the items that have one; None if none has."""
    if name not in table.frame.columns:
        raise DataError(
            f"{table.label}: expected the column {quoted(name)} of launch dates, as start_col "
            f"says; received {listed(table.frame.columns)}. Leave a cell empty where there is no "
            "date.",
            column=name,
        )
    missing = _missing(table.frame[name])
    if isinstance(table.frame[name].dtype, nw.String):
        missing = missing | np.array([is_mark(cell) for cell in table.frame[name].to_list()], bool)
    row = np.flatnonzero(~missing)
    if not len(row):
        return None
    given = replace(table, frame=table.frame[row])
    own = [ids[i] for i in row]
    column, expected = given.frame[name], "a launch date, or nothing"
    cell, advice = column.to_list()[0], "Take a date type, or ISO text such as 2026-01-31."
    if not (column.dtype.is_numeric() or (table.text and is_number(str(cell)))):
        when, form = read_when(given, name, own, expected, advice)
        if form.dated:
            return Steps(table.label, row, when, form, {})
    fail(table.label, name, expected, quoted(cell), own[0], _date_remedy(cell) or advice)


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


def _python_date(value: Any) -> Any:
    """Return a date of NumPy's as one of Python's."""
    return value.astype("datetime64[us]").item() if isinstance(value, np.datetime64) else value


def _date_remedy(cell: Any) -> str:
    """Say how to convert what is a date but not as dates are written here; else nothing."""
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


def _text_dates(
    cells: list[str], of_file: bool, refuse: Callable[..., NoReturn]
) -> tuple[np.ndarray, Form]:
    """As ``read_when``, of ISO texts, all with an offset (or Z) or all without."""
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
        zone = offsets.pop() if len(offsets) == 1 else "Z"  # they have no zone in common but UTC
        hours = re.fullmatch(r"([+-])(\d\d):00", zone or "")
        if zone in ("Z", "+00:00", "-00:00"):
            zone = "UTC" if of_file or zone == "Z" else "+00:00"
        elif of_file:  # polars has zones of whole hours, whose names have the sign reversed
            sign = "-" if hours and hours[1] == "+" else "+"
            zone = f"Etc/GMT{sign}{int(hours[2])}" if hours and int(hours[2]) <= 12 else "UTC"
    if not of_file:
        return date, Form.of_text(longest, zone)
    midnight = zone is None and bool((date == date.astype("datetime64[D]")).all())
    return date, Form("Date" if midnight else "Datetime", zone=zone)


def _iso(text: str) -> tuple[np.datetime64, str | None] | None:
    """Return an ISO text as a date, in UTC if it has an offset, and the offset; None if it is none.

    An offset is +02:00, or Z.
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
            advice += " Text may also be tokens: TokenForecaster."
        fail(table.label, name, expected, quoted(value), ids[at], advice)
    return y


def token_cells(table: Table, name: str, vocabulary: Vocabulary) -> list[Any]:
    """The cells of a column of tokens. Those of a file are whole numbers, or booleans, if all of
    them look it and the vocabulary, where there is one, is of that type; else text."""
    column = table.frame[name]
    if table.text:
        kind = vocabulary.type if vocabulary.tokens else None
        truth = column.str.to_lowercase()
        if kind in (int, None) and column.str.contains(_WHOLE).all():
            column = column.cast(nw.Int64)
        elif kind in (bool, None) and truth.is_in(["true", "false"]).all():
            column = truth == "true"
    return read_cells(column)


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
            fail(label, name, expected, quoted(value), item, "Convert the column.")
    learning = not vocabulary.tokens
    first = next((each for each in tokens if each is not None), None)
    kind = type(first) if learning else vocabulary.type
    at = mixed(tokens, kind)
    if first is not None and at is not None:
        expected = f"tokens of one type ({type_name(kind)}, as "
        expected += "in the first row)" if learning else "in fit)"
        fail(label, name, expected, quoted(tokens[at]), ids[at], "Convert the column.")
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
        warn(
            f"{label}, column {name!r}: tokens never seen in training, taken as unknown: "
            f"{listed(new, 3)} (item {quoted(ids[at])}).",
        )
    return np.array([codes.get(each, np.nan) for each in tokens], np.float64), vocabulary


def _columns(
    table: Table,
    keys: Iterable[str],
    ids: list[Any],
    kinds: _Kinds,
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
    _check_names(table.label, names, kinds, what)
    return {
        name: read_column(table, name, ids, kind, kinds.fit is None)
        for name, kind in kinds.of(what, names).items()
    }


def _check_names(label: str, names: list[str], kinds: _Kinds, what: str) -> None:
    """Raise unless the columns are those of the fit, in any order; in the fit, for too many."""
    if kinds.fit is None:
        if len(names) > MAX_COLUMNS:
            raise DataError(
                f"{label}: expected at most {MAX_COLUMNS} columns; received {len(names)}."
            )
        return
    known, there = kinds.fit[what], set(names)
    for name in known:
        if name not in there:
            raise DataError(
                f"{label}: expected a {what} column {quoted(name)}, as in fit; received "
                f"{listed(names)}.",
                column=name,
            )
    for name in names:
        if name not in known:
            raise DataError(
                f"{label}: expected the {what} columns of fit, {listed(known)}; received "
                f"{quoted(name)} too. Leave it out.",
                column=name,
            )


def read_column(
    table: Table, name: str, ids: Sequence[Any], kind: str | None, learning: bool
) -> np.ndarray:
    """Return a column of features: float64 with NaN, or objects, text or None.

    ``kind`` is as in ``_Kinds``; ``learning`` says that this is the fit.
    """
    column = table.frame[name]
    values, bad = read_floats(column, table.text)
    if kind is None:
        kind = "categorical" if bad.any() else "numeric"
        if kind == "categorical":
            _warn_of_numbers(table, name, column, ids)
    advice = "Convert the column, or leave it out of fit and predict."

    def refuse(at: int, expected: str) -> NoReturn:
        received = f"{quoted(column.to_list()[at])} ({cut(str(column.dtype))})"
        fail(table.label, name, expected, received, ids[at], advice)

    if kind == "numeric":
        if bad.any():
            refuse(int(np.argmax(bad)), "a number, as in fit")
        infinite = np.abs(values) > LARGEST
        if infinite.any():
            refuse(int(np.argmax(infinite)), "a finite number")
        return values
    cells = read_cells(column)
    out = np.full(len(cells), None, object)
    if all(cell is None for cell in cells):
        return out
    dtype, codes = column.dtype, kind == "codes"
    named = isinstance(dtype, (nw.Categorical, nw.Enum))
    known = named or isinstance(dtype, nw.String)
    if not (codes or bad.any() or table.text or known):
        refuse(next(i for i, cell in enumerate(cells) if cell is not None), "text, as in fit")
    known |= isinstance(dtype, nw.Object)
    known |= codes and (dtype.is_numeric() or isinstance(dtype, (nw.Boolean, nw.Unknown)))
    # What a file writes for "no number" is a text where the rest is text.
    marks = learning and _mostly_numbers(cells)
    for i, cell in enumerate(cells):
        if cell is None or (isinstance(cell, str) and (not cell or (marks and is_mark(cell)))):
            continue
        text = _category(cell, codes or named, codes) if known else None
        if text is None and named:
            text = str(cell)  # an interval of pandas.cut
        if text is None:
            expected = "numbers, text, categories or booleans"
            if codes:
                expected = "categories: text, whole numbers or booleans"
            refuse(i, expected + (", of one type" if isinstance(dtype, nw.Object) else ""))
        out[i] = text
    return out


def _category(cell: Any, numbers_too: bool, codes: bool) -> str | None:
    """Return a cell as a category, None if it is none. Whole floats are whole numbers."""
    if isinstance(cell, str):
        whole = _WHOLE_FLOAT.fullmatch(cell) if codes else None
        return whole[1] if whole else str(cell)
    if not numbers_too or not _is_number(cell):
        return None
    if isinstance(cell, (bool, np.bool_)):
        return str(cell).lower() if codes else str(cell)
    number = _whole(cell)
    return None if number is None else str(number)


def _whole(value: Any) -> int | None:
    """Return a real number as a whole one, None if it is none."""
    if not _is_number(value):
        return None
    try:
        whole = int(value)
    except (OverflowError, ValueError):  # infinite
        return None
    return whole if whole == value else None


def _coded(
    label: str,
    columns: dict[str, np.ndarray],
    kinds: Mapping[str, str | None],
    items: Sequence[int],
) -> dict[str, np.ndarray]:
    """Return columns of an array, those that are categories as objects: text or None."""
    out = dict(columns)
    for name, kind in kinds.items():
        if kind in ("codes", "categorical"):
            values = columns[name]
            bad = ~np.isnan(values) & (values != np.floor(values))
            if bad.any():
                at = int(np.argmax(bad))
                expected = "whole numbers, as it is categorical"
                fail(label, name, expected, quoted(float(values[at])), items[at], "")
            out[name] = np.array([None if v != v else str(int(v)) for v in values], object)
    return out


def is_mark(cell: Any) -> bool:
    """Return whether a text is what files write where there is no number: NA, a dash."""
    return isinstance(cell, str) and cell.strip().lower() in NA_MARKS


def _marks(cells: Any) -> Any:
    """As ``is_mark``, of a polars series."""
    return cells.str.strip_chars().str.to_lowercase().is_in(list(NA_MARKS))


def _mostly_numbers(cells: list[Any]) -> bool:
    """Return whether more than half of the cells are numbers, also as text; marks do not count."""
    count = Counter(cell for cell in cells if isinstance(cell, str) and not is_mark(cell))
    found = sum(times for text, times in count.items() if is_number(text))
    found += sum(not isinstance(cell, str) and _is_number(cell) for cell in cells)
    return 2 * found > sum(count.values()) + sum(
        cell is not None and not isinstance(cell, str) for cell in cells
    )


def _warn_of_numbers(table: Table, name: str, column: Any, ids: Sequence[Any]) -> None:
    """Say of a column that is taken as categories if most of its cells are numbers."""
    if not isinstance(column.dtype, (nw.String, nw.Object)):
        return
    cells = read_cells(column)
    if not _mostly_numbers(cells):
        return
    texts = dict.fromkeys(cell for cell in cells if isinstance(cell, str) and cell)
    marks = [text for text in texts if is_mark(text)]
    others = [text for text in texts if not is_number(text) and not is_mark(text)]
    codes = all(text.strip().isdigit() for text in texts if is_number(text))
    if not table.text and codes and not marks:
        return  # codes, whose owner has said by their type that they are text
    odd = others or marks
    found = (
        f", but {listed(odd, 5)} (item {quoted(ids[cells.index(odd[0])])})" if odd else ", as text"
    )
    remedy = "Leave a cell empty where a number is missing"
    if not table.text:
        remedy = "Convert the column to numbers"
    warn(
        f"{table.label}, column {quoted(name)} is taken as categories: most cells are numbers"
        f"{found}. {remedy}; if they are categories, name the column in categorical=[...]."
    )


def is_missing(value: Any) -> bool:
    """Return whether a Python object says that there is no value: None, NaN, NaT, pandas's NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, Decimal):
        return value.is_nan()  # a signalling one cannot be compared
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return bool(np.isnat(value))
    return isinstance(value, (float, np.floating)) and bool(value != value)


def _missing(column: Any) -> np.ndarray:
    """Return where there is no value, (N,) bool; NaN among numbers counts as one."""
    if isinstance(column.dtype, (nw.Object, nw.Unknown)):
        return np.array([is_missing(cell) for cell in column.to_list()], bool)
    return column.is_null().to_numpy()


def read_cells(column: Any) -> list[Any]:
    """Return the cells as Python objects, None where there is no value.

    NumPy's numbers and texts among objects become Python's.
    """
    cells = column.to_list()
    if isinstance(column.dtype, (nw.Object, nw.Unknown)) or column.dtype.is_float():
        return [_plain(cell) for cell in cells]
    missing = column.is_null().to_numpy()
    if missing.any():
        cells = [None if m else cell for m, cell in zip(missing, cells, strict=True)]
    return cells


def _plain(cell: Any) -> Any:
    if is_missing(cell):
        return None
    moment = isinstance(cell, (np.datetime64, np.timedelta64))  # .item() of nanoseconds is an int
    return cell.item() if isinstance(cell, np.generic) and not moment else cell


def _is_number(value: Any) -> bool:
    """Whether an object is a real number or a boolean. To NumPy a duration is one as well."""
    return isinstance(value, (numbers.Real, Decimal, np.bool_)) and not isinstance(
        value, np.timedelta64
    )


def read_floats(column: Any, text: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a column as float64, NaN where missing, and where it is not a number."""
    missing = _missing(column)
    dtype = column.dtype
    if text:
        import polars as pl

        cell = column.to_native().str.strip_chars()
        number = cell.cast(pl.Float64, strict=False)
        if (number.is_null() & cell.is_not_null()).any():
            cell = cell.set(_marks(cell), None)
            truth = cell.str.to_lowercase().replace_strict(
                {"true": 1.0, "false": 0.0}, default=None, return_dtype=pl.Float64
            )
            number = number.fill_null(truth)
        bad = (number.is_null() & cell.is_not_null()).to_numpy()
        return number.to_numpy().astype(np.float64), bad
    if missing.all():
        return np.full(len(missing), np.nan), np.zeros(len(missing), bool)
    if dtype.is_numeric() or isinstance(dtype, nw.Boolean):
        try:
            values = np.array(column.cast(nw.Float64).to_numpy(), np.float64)
        except (ValueError, ArithmeticError):  # Arrow's whole numbers beyond 2**53 are not exact
            return _object_floats(read_cells(column))
        return values, np.zeros(len(values), bool)
    if isinstance(dtype, (nw.Object, nw.Unknown)):
        return _object_floats(read_cells(column))
    return np.full(len(missing), np.nan), ~missing


def _object_floats(values: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """As ``read_floats``, for Python objects: numbers, booleans, decimals, None."""
    out = np.full(len(values), np.nan)
    bad = np.zeros(len(values), bool)
    for i, value in enumerate(values):
        if is_missing(value):
            continue
        if _is_number(value):
            try:
                out[i] = float(value)
            except OverflowError:
                out[i] = np.inf
        else:
            bad[i] = True
    return out, bad


# -- checks ----------------------------------------------------------------------------


def fail(label: str, column: str, expected: str, received: str, item: Any, advice: str) -> NoReturn:
    message = f"{label}, column {quoted(column)}: expected {expected}; received {received}"
    raise DataError(f"{message} (item {quoted(item)}). {advice}".strip(), column=column, item=item)


ROLES = ("id_col", "step_col", "target_col")  # the arguments that name the columns of a series
_ALIASES = {  # what others call them
    "id_col": ("id", "item", "item_id", "series", "series_id", "sku", "product", "name", "key"),
    "step_col": (
        "step",
        "date",
        "time",
        "timestamp",
        "datetime",
        "t",
        "month",
        "week",
        "day",
        "year",
    ),
    "target_col": ("value", "target", "sales", "quantity", "count", "amount", "demand"),
}


def check_columns(table: Table, names: Sequence[str], roles: Sequence[str] = ROLES) -> None:
    """Raise for a column that is not there, with what to do; ``roles`` are the arguments that name
    the first of them."""
    columns = list(table.frame.columns)
    for name in names:
        if name not in columns:
            raise DataError(
                f"{table.label}: expected a column {quoted(name)}; received {listed(columns, 20)}."
                + _without_column(table, name, dict(zip(names, roles, strict=False))),
                column=name,
            )


def _without_column(table: Table, name: str, roles: Mapping[str, str]) -> str:
    """Say what may be done about a column that is not there; ``roles`` has the argument of each."""
    role, first = roles.get(name, ""), next(iter(roles), "")
    others = [str(each) for each in table.frame.columns if each not in roles]
    index = list(getattr(getattr(table.frame.to_native(), "index", None), "names", ()))
    if name in index or len(index) > 1:  # of pandas, which keeps it out of the columns
        return " The index is no column: table.reset_index() makes columns of it."
    if table.text and len(table.frame.columns) == 1:
        return " Columns are separated by commas."
    if str(name).partition(",")[0].strip() in table.frame.columns:
        return " Name several columns one by one: a list, or the option repeated."
    if role in ("step_col", "target_col"):
        absent = [each for each in roles if each not in table.frame.columns]
        step = next((each for each, its in roles.items() if its == "step_col"), "ds")
        numbered = [each for each in others if re.fullmatch(r"\D{0,12}\d[\d\W]*", each)]
        if len(numbered) > max(2, len(others) // 2):
            return (
                " It looks wide, a column a step; a series has a row an item and step. Melt it: "
                f"table.melt({quoted(first)}, var_name={quoted(step)}, "
                f"value_name={quoted([*roles][-1])}) with pandas, unpivot with polars."
            )
        if len(absent) > 1 and first in table.frame.columns:
            return (
                f" It has none of {listed(absent)}: is it the static table? The series comes first."
            )
    if not role or not others:
        return ""
    alike = {each.lower().strip(): each for each in reversed(others)}
    near = [each for each in (str(name).lower(), *_ALIASES[role]) if each in alike]
    near += difflib.get_close_matches(str(name).lower(), alike, 1, 0.7)
    known = alike[near[0]] if near else others[0] if len(others) == 1 else "..."
    option = role.replace("_", "-")
    return (
        f" If it has another name, pass {role}={quoted(known)}, or --{option} on the command line."
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
