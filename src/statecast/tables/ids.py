"""Ids of items: read from a column, compared between tables, and returned in their own type."""

from __future__ import annotations

import numbers
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from statecast.checks import is_flag
from statecast.errors import DataError, cut, quoted
from statecast.files import plain_id
from statecast.tables.columns import (
    WHOLE_NUMBER,
    are_marks,
    is_real_number,
    read_cells,
    whole_number,
)
from statecast.tables.dates import Form
from statecast.tables.id_types import IdType
from statecast.tables.source import Table, check_columns, fail


@dataclass(frozen=True)
class Kind:
    """The kind of the tables of a call; its results are of the same kind.

    Attributes
    ----------
    library : str
        One of ``KINDS``.
    steps : Form or None
        The format of the column of steps; None: that of ``fit``.
    ids : Any
        The type of the column of ids in that library, such as polars.Categorical, or an
        ``IdType``. If it is None, the type follows from the ids.
    """

    library: str
    steps: Form | None = None
    ids: Any = None

    def ids_column(self, name: str, ids: np.ndarray, row: np.ndarray | None = None) -> Any:
        """Return ids, or those with the index ``row``, as a narwhals column of their type."""
        column = _ids_of_type(name, ids.tolist(), self.library, self.ids)
        return column if row is None else column[row]

    def ids_cells(self, name: str, ids: np.ndarray, row: np.ndarray | None = None) -> Any:
        """Return what ``ids_column`` does as an array of which the library makes the column, or as
        the library's column, with the numbers of its rows as the index in pandas."""
        if ids.dtype == np.int64:
            kind = self.ids.name if isinstance(self.ids, IdType) else str(self.ids)
            if kind in ("None", _WHOLE_TYPES.get(self.library)):
                return ids if row is None else ids[row]
        native = self.ids_column(name, ids, row).to_native()
        return native.reset_index(drop=True) if hasattr(native, "reset_index") else native


def read_ids(table: Table, name: str) -> list[Any]:
    """Return the id of each row. All are whole numbers, or all have one other type."""
    column = typed_column(table, name)
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
            number = whole_number(item)
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


def typed_column(table: Table, name: str) -> Any:
    """Return a column of names (ids, groups), as a narwhals series. In a CSV file names that are
    all whole numbers, or marks of missing ones, are Int64."""
    column = table.column(name)
    if table.text:
        cells = column.to_native()
        whole, mark = cells.str.contains(WHOLE_NUMBER), are_marks(cells)
        if whole.any() and (whole | mark).all():
            column = nw.from_native(cells.set(mark, None), series_only=True).cast(nw.Int64)
    return column


def items_of(table: Table, name: str, like: list[Any]) -> list[Any]:
    """Return the distinct ids of a table, in the type of the ids ``like``."""
    check_columns(table, (name,))
    found = dict.fromkeys(item for part in (table, *table.rest()) for item in read_ids(part, name))
    return agree(list(found), table, like, None, name)[0]


def agree(
    left: list[Any], left_table: Table | None, right: list[Any], right_table: Table | None, name
) -> tuple[list[Any], list[Any]]:
    """Return both lists of ids in one type: the 7 of a CSV file may be the text '7'."""
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
    whole = isinstance(item, numbers.Integral) and is_real_number(item)
    if whole and not is_flag(item):
        return "a whole number"
    # A state's file holds a date of pandas as one of the standard library.
    return "text" if isinstance(item, str) else type(plain_id(item)).__name__


def id_array(ids: list[Any]) -> np.ndarray:
    """Return ids as int64 if they are whole numbers, else as objects."""
    each = {type(item): item for item in ids}  # one of each type, as there may be many ids
    if ids and all(_id_kind(item) == "a whole number" for item in each.values()):
        try:
            return np.array(ids, np.int64)
        except OverflowError:
            pass  # larger than int64: they stay Python objects
    return np.fromiter(ids, object, len(ids))  # a tuple stays one object


def native_type(column: Any) -> Any:
    """Return the type of a column in the library of its table."""
    native = column.to_native()
    return native.type if hasattr(native, "type") else native.dtype


# The names of the types of whole numbers that libraries make of NumPy's int64.
_WHOLE_TYPES = {"polars": "Int64", "pandas": "int64", "pyarrow": "int64"}


def _ids_of_type(name: str, ids: list[Any], library: str, kind: Any) -> Any:
    """Return ids as a narwhals column: of the type ``kind`` if it can hold them all."""
    backend: Any = library
    if isinstance(kind, IdType):  # of a model file
        kind = _native_type(kind, library)
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
            # The static table may have ids that are no categories of the series table.
            if not column.null_count():
                return column
    values = id_array(ids)
    if values.dtype != object:
        return nw.from_dict({name: values}, backend=backend)[name]
    with suppress(TypeError, ValueError, ArithmeticError, *_failures(library)):
        return nw.new_series(name, ids, backend=backend)
    return nw.new_series(name, list(map(str, ids)), nw.String(), backend=backend)


@cache
def _native_type(kind: IdType, library: str) -> Any:
    """Return the type in its library; None where the library has no such type."""
    with suppress(TypeError, ValueError, LookupError, *_failures(library)):
        return kind.native(library)
    return None


def _failures(library: str) -> tuple[type[Exception], ...]:
    """Return the exceptions of the library itself for values that a type cannot hold."""
    if library != "polars":
        return ()
    import polars as pl

    return (pl.exceptions.PolarsError,)
