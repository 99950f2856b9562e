"""Open the sources of tables: pandas, polars and Arrow tables, files and arrays.

``open_table`` returns a ``Table`` or an array. The rest of `tables` works on these two. A series in
a Parquet file is read in batches of rows, so that it need not fit into memory.
"""

from __future__ import annotations

import codecs
import csv
import datetime
import difflib
import io
import numbers
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import narwhals.stable.v2 as nw
import numpy as np

from statecast.errors import DataError, listed, quoted, warn
from statecast.tables.files import ParquetFiles, names_files, reading

if TYPE_CHECKING:
    import polars as pl


MAX_COLUMNS = 10_000  # the features of an image can be 4,096
_LONGEST_HEADER = 2**24  # bytes of a CSV file's first line
_CHUNK_OF_LINES = 2**25  # bytes of a CSV file whose lines are counted at once
BATCH = 2**18  # rows of a Parquet file that are in memory at once
KINDS = ("polars", "pandas", "pyarrow", "modin", "cudf", "arrays")


@dataclass(frozen=True)
class Table:
    """An open table: a narwhals frame, its name for messages, and whether all cells are text.

    Of a Parquet file ``frame`` may hold only a batch of rows: ``start`` is the number of its first
    row, from 0, and ``file`` has the rest. ``first`` is given if the table is a part of another
    one, from which the number of step 1 was learnt; see ``Schema.first``.
    """

    frame: Any
    label: str
    kind: str
    text: bool  # a CSV file: how a column is read depends on its use
    start: int = 0
    file: ParquetFiles | None = None
    first: int | None = None

    @cached_property
    def columns(self) -> list[Any]:
        """The names of the columns."""
        return list(self.frame.columns)

    @cached_property
    def _taken(self) -> dict[Any, Any]:
        return {}

    def column(self, name: Any) -> Any:
        """Return a column, as a narwhals series."""
        if name not in self._taken:
            self._taken[name] = self.frame.get_column(name)
        return self._taken[name]

    def rest(self) -> Iterator[Table]:
        """Yield the other rows of the file, in batches."""
        start = len(self.frame)
        for frame in () if self.file is None else islice(self.file.batches(BATCH), 1, None):
            yield replace(self, frame=nw.from_native(frame), start=start, file=None)
            start += len(frame)


def open_table(
    source: Any, role: str, letter: str, only: Sequence[str] | None = None, *, empty: bool = False
) -> Table | np.ndarray:
    """Return a ``Table``, or an array. An open ``Table`` is returned as it is.

    If ``only`` is given, a Parquet file is read in batches and only with these columns. A table
    without rows is an error unless ``empty`` is True.
    """
    if isinstance(source, Table):
        return source
    if isinstance(source, (str, PathLike)):
        table = _open_path(os.fsdecode(source), role, only)
    else:
        label = f"The {role} table"
        if isinstance(source, np.ndarray):
            return _array(source, role, letter)
        try:
            native = nw.to_native(source, pass_through=True)
            if type(native).__name__ == "RecordBatch" and hasattr(native, "schema"):
                import pyarrow as pa

                native = pa.Table.from_batches([native])
            frame = nw.from_native(native, pass_through=True)
            if isinstance(frame, nw.LazyFrame):
                frame = frame.collect()
        except nw.exceptions.NarwhalsError as error:  # pandas allows repeated column names
            raise DataError(f"{label}: {error}") from error
        if not isinstance(frame, nw.DataFrame):
            return _array(source, role, letter)
        kind = frame.implementation.value
        if kind not in KINDS:
            raise DataError(f"{label}: expected one of {KINDS}; received {kind!r}.")
        table = Table(frame, label, kind, False)
    _check_header(table.label, table.columns)
    if not len(table.frame) and not empty:
        raise no_rows(table, role)
    return table


def no_rows(table: Table, role: str) -> DataError:
    """Return the error for a table without rows."""
    return DataError(
        f"{table.label}: expected at least one row; received none"
        + (f" (columns {listed(table.columns, 5)})." if table.columns else ".")
        + " A fit needs some; to forecast from k = 0, pass a static table." * (role == "series")
    )


def _open_path(text: str, role: str, only: Sequence[str] | None) -> Table:
    label = f"The {role} table {quoted(text, 200)}"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{label}: expected a file name in UTF-8. Rename the file.") from error
    if names_files(text):
        return _open_parquet(ParquetFiles.find(text, role), only)
    name = Path(text)
    ending = name.suffix.lower()
    if ending != ".csv":
        raise DataError(
            f"{label}: expected a .csv or a .parquet file, or a folder of .parquet files; received "
            f"{quoted(ending)}."
        )
    try:
        there = name.is_file()
    except OSError:  # the name is too long
        there = False
    if not there:
        raise DataError(f"{label}: expected a file; there is none.")
    with reading(label, "csv"):
        return Table(nw.from_native(_read_csv(name.read_bytes(), label)), label, "polars", True)


def _open_parquet(files: ParquetFiles, only: Sequence[str] | None) -> Table:
    import polars as pl

    names, label = files.names(), files.label
    _check_header(label, names)
    if only is None:
        frame = pl.concat(files.batches(BATCH), how="vertical_relaxed")
    elif not set(only) <= set(names):  # a missing column: one row is enough for the message
        frame = next(files.batches(1))
    else:
        files = files.with_columns(only)
        frame = next(files.batches(BATCH))
        return Table(nw.from_native(frame), label, "polars", False, 0, files)
    return Table(nw.from_native(frame), label, "polars", False)


def columns_of(source: Any) -> list[str]:
    """Return the column names of a table that can be read; none for an array."""
    if isinstance(source, Table):
        return source.columns
    if isinstance(source, (str, PathLike)):
        import polars as pl

        text = os.fsdecode(source)
        if names_files(text):
            return ParquetFiles.find(text, "series").names()
        return pl.read_csv(text, n_rows=1, infer_schema=False).columns
    frame = nw.from_native(source, pass_through=True)
    known = isinstance(frame, (nw.DataFrame, nw.LazyFrame))
    return list(frame.collect_schema().names()) if known else []


def _check_header(label: str, names: list[Any]) -> None:
    if len(names) > MAX_COLUMNS:
        raise DataError(
            f"{label}: expected at most {MAX_COLUMNS:,} columns; received {len(names):,}. Is it a "
            "wide table, with a column for each step? A series has a row for each item and step."
        )
    if len(set(names)) < len(names):
        name = quoted(first_repeated(names))
        raise DataError(f"{label}: expected unique names; {name} is there twice.")


def _read_csv(content: bytes, label: str) -> pl.DataFrame:
    """Return the cells of a CSV file as text, null where empty, without blank lines.

    The type of a column is decided when it is used, from all of its rows. Therefore a cell of white
    space stays here: it is a text, but a missing value in a column of numbers or dates.
    """
    import polars as pl

    start = content[:_LONGEST_HEADER].decode("utf-8-sig", "replace")
    header = next(csv.reader(io.StringIO(start)), [])
    _check_header(label, header)
    if content.strip():
        content = _without_blank_lines(content, len(header), label)
    frame = pl.read_csv(content, infer_schema=False)
    frame = frame.select(pl.when(pl.all() != "").then(pl.all()))
    return frame.filter(~pl.all_horizontal(pl.all().is_null()))


def _without_blank_lines(content: bytes, fields: int, label: str) -> bytes:
    """Return a CSV file without its lines of white space; raise if another line has fewer or more
    fields than the first.

    polars takes white space as the first cell of its line. It fills a short line with nulls, but
    such a line may be the end of a truncated file.
    """
    blank: list[_Line] = []
    for line in _unlike(content, fields):
        if line.blank:
            blank.append(line)
            continue
        last = line.end >= len(content)
        remedy = " It is the last: is the file complete?" if last else ""
        if fields == 1 and ";" in line.text:
            remedy = (
                " Cells are separated by commas. Read a file with semicolons or decimal commas "
                "yourself (polars.read_csv has separator= and decimal_comma=), and pass the table."
            )
        raise DataError(
            f"{label}: expected {fields} fields in every line, as in the first; line "
            f"{line.number:,} has {line.fields}: {quoted(line.text)}.{remedy}"
        )
    if content.endswith(b","):
        warn(
            f"{label} ends without a line break and with an empty cell, which is taken as missing: "
            "is the file complete?"
        )
    if not blank:
        return content
    begins, ends = [0, *(line.end for line in blank)], [*(line.begin for line in blank), None]
    return b"".join(content[begin:end] for begin, end in zip(begins, ends, strict=True))


@dataclass(frozen=True)
class _Line:
    """A line of a CSV file with more or fewer fields than the first."""

    number: int  # from 1
    begin: int  # the bytes of the file that it takes, without the line break
    end: int
    fields: int
    text: str
    blank: bool  # whether it has no field


def _unlike(content: bytes, fields: int) -> Iterator[_Line]:
    """Yield the lines that have more or fewer fields than expected."""
    if b'"' in content:  # a quoted cell may hold commas and line breaks
        yield from _unlike_of_quoted(content, fields)
        return
    start = line = 0
    while start < len(content):
        end = content.find(b"\n", start + _CHUNK_OF_LINES) + 1 or len(content)
        part = np.frombuffer(content, np.uint8, end - start, start)
        breaks = np.append(np.flatnonzero(part == ord("\n")), len(part))
        counts = np.diff(np.searchsorted(np.flatnonzero(part == ord(",")), breaks), prepend=0)
        for at in np.flatnonzero(counts != fields - 1):
            begin = start + (int(breaks[at - 1]) + 1 if at else 0)
            stop = start + int(breaks[at])
            text = content[begin:stop].decode("utf-8", "replace").strip()
            yield _Line(line + int(at) + 1, begin, stop, int(counts[at]) + 1, text, not text)
        start, line = end, line + len(breaks) - 1


def _unlike_of_quoted(content: bytes, fields: int) -> Iterator[_Line]:
    """Do as ``_unlike`` for a file with quoted cells: a row may take several lines."""
    begin = len(content) - len(content.removeprefix(codecs.BOM_UTF8))
    text, taken = content[begin:].decode("utf-8", "surrogateescape"), []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            taken.append(line)
            yield line

    reader = csv.reader(lines())
    for row in reader:
        whole = "".join(taken).encode("utf-8", "surrogateescape")
        taken.clear()
        if len(row) != fields:
            blank = not whole.decode("utf-8", "replace").strip()
            cells = ",".join(row).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            stop = begin + len(whole.rstrip(b"\r\n"))
            yield _Line(reader.line_num, begin, stop, len(row), cells, blank)
        begin += len(whole)


# Libraries whose arrays are accepted. NumPy would make an array of almost any object.
_ARRAY_LIBRARIES = ("numpy", "jax", "jaxlib", "torch", "tensorflow", "keras")


def _array(source: Any, role: str, letter: str) -> np.ndarray:
    """Return an argument as a NumPy array of numbers, tokens or objects; raise for others."""
    unsupported = source if _is_scalar(source) else _unsupported(source)
    if unsupported is not None:
        within = "" if unsupported is source else f"a {type(source).__name__} of "
        raise DataError(
            f"The {role} table: expected a pandas, polars or Arrow table, a path, or an array; "
            f"received {within}{_type_name(unsupported)}.{_remedy(unsupported)}"
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


def is_missing(value: Any) -> bool:
    """Return whether a Python object is a missing value: None, NaN, NaT or pandas's NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, Decimal):
        return value.is_nan()  # a signalling NaN cannot be compared
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return bool(np.isnat(value))
    return isinstance(value, (float, np.floating)) and bool(value != value)


def _unsupported(source: Any) -> Any:
    """Return the first object in a source that is not an array, number or text; None if none is."""
    if isinstance(source, (list, tuple)):
        some = {type(each): each for each in source}.values()
        nested = any(isinstance(each, (list, tuple)) for each in some)
        found = map(_unsupported, source if nested else some)
        return next((each for each in found if each is not None), None)
    library = type(source).__module__.partition(".")[0]
    known = library in _ARRAY_LIBRARIES and hasattr(source, "__array__")
    return None if known or _is_scalar(source) else source


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (numbers.Number, str, bytes, datetime.date)) or is_missing(value)


def _remedy(unsupported: Any) -> str:
    """Return what to do about an object that is neither a table nor an array."""
    if hasattr(unsupported, "to_dataframe"):  # xarray
        return (
            " Make a table of it, .to_dataframe().reset_index(), or an array, items first: "
            "numpy.asarray(...)."
        )
    if isinstance(unsupported, Mapping):
        return " Make a table of it: polars.DataFrame(...) or pandas.DataFrame(...)."
    if hasattr(
        unsupported, "read_all"
    ):  # an Arrow reader can be read only once, and a fit reads twice
        return " Read it into a table: .read_all()."
    if hasattr(unsupported, "to_table"):
        return " Read it into a table: .to_table()."
    if isinstance(unsupported, Iterator):
        return " It can be read only once: make a list or a table of it."
    if hasattr(unsupported, "to_frame"):
        return " It is one column: pass the table."
    if hasattr(unsupported, "__array__"):
        return " Make an array of it, items first, numpy.asarray(...), or a table."
    return ""


def _type_name(value: Any) -> str:
    kind = type(value)
    known = kind.__module__ == "builtins"
    return kind.__name__ if known else f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def fail(label: str, column: str, expected: str, received: str, item: Any, advice: str) -> NoReturn:
    """Raise a ``DataError`` for a cell: ``label`` is the table, ``item`` the item of its row."""
    message = f"{label}, column {quoted(column)}: expected {expected}; received {received}"
    raise DataError(f"{message} (item {quoted(item)}). {advice}".strip(), column=column, item=item)


ROLES = ("id_col", "step_col", "target_col")  # arguments that name the columns of a series
_ALIASES = {  # common names of these columns
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
    """Raise for a missing column, with what to do.

    ``roles`` are the arguments that name the first columns of ``names``.
    """
    for name in names:
        if name not in table.columns:
            raise DataError(
                f"{table.label}: expected a column {quoted(name)}; received "
                f"{listed(table.columns, 20)}."
                + _without_column(table, name, dict(zip(names, roles, strict=False))),
                column=name,
            )


def _without_column(table: Table, name: str, roles: Mapping[str, str]) -> str:
    """Return what to do about a missing column; ``roles`` maps columns to their arguments."""
    role, first = roles.get(name, ""), next(iter(roles), "")
    others = [str(each) for each in table.columns if each not in roles]
    index = list(getattr(getattr(table.frame.to_native(), "index", None), "names", ()))
    if name in index or len(index) > 1:  # in pandas the index is not a column
        return " The index is not a column: table.reset_index() makes columns of it."
    if table.text and len(table.columns) == 1:
        return " Columns are separated by commas."
    if str(name).partition(",")[0].strip() in table.columns:
        return " Several columns are a list of their names."
    if role in ("step_col", "target_col"):
        absent = [each for each in roles if each not in table.columns]
        step = next((each for each, its in roles.items() if its == "step_col"), "ds")
        numbered = [each for each in others if re.fullmatch(r"\D{0,12}\d[\d\W]*", each)]
        if len(numbered) > max(2, len(others) // 2):
            return (
                " It looks wide, with a column for each step; a series has a row for each item and "
                "step. Melt it: "
                f"table.melt({quoted(first)}, var_name={quoted(step)}, "
                f"value_name={quoted([*roles][-1])}) with pandas, unpivot with polars."
            )
        if len(absent) > 1 and first in table.columns:
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


def first_repeated(ids: list[Any]) -> Any:
    """Return the first element that occurs again; None if there is none."""
    seen: set[Any] = set()
    for item in ids:
        if item in seen:
            return item
        seen.add(item)
    return None
