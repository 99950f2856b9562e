"""``Groups``: the groups of items whose totals are forecast, and the weights of items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from statecast.checks import is_number
from statecast.errors import ArgumentError, DataError, listed, quoted
from statecast.tables.columns import LARGEST, plain_cell, read_cells, read_floats, read_numbers
from statecast.tables.ids import agree, id_array, read_ids, typed_column
from statecast.tables.schema import Schema
from statecast.tables.source import (
    ROLES,
    Table,
    check_columns,
    fail,
    first_repeated,
    open_table,
)

_BY = (
    "the name of a column of the static table or a list of names, a mapping of ids to groups, or a "
    "table with the ids and the columns of the groups"
)
_WHAT = {"by": "groups", "weight": "numbers"}


@dataclass(frozen=True)
class Groups:
    """The groups of the items of a call, numbered in the order of their first item.

    Attributes
    ----------
    row : ndarray, shape (items,), int64
        The number of each item's group.
    columns : mapping of str to narwhals Series or ndarray, shape (groups,)
        What the groups are, by the name of the column. Empty if each item is a group, and if there
        is one group of all items.
    """

    row: np.ndarray
    columns: Mapping[str, Any]

    @classmethod
    def read(
        cls, by: Any, static: Table | np.ndarray | None, ids: np.ndarray, id_col: str
    ) -> Groups:
        """Read the argument ``by`` of ``Forecaster.predict_total``.

        Cells that are missing are equal, so items whose group is missing are a group.

        Parameters
        ----------
        by : None, str, sequence of str, mapping, table or path
        static : Table, ndarray or None
            The open static table of the call: its rows are the items.
        ids : ndarray, shape (items,)
        id_col : str

        Raises
        ------
        ArgumentError
            Another object; names of columns without a static table; a name that is there twice.
        DataError
            A column or an item that is missing; cells that cannot be compared.
        """
        if by is None:
            return cls(np.arange(len(ids)), {})
        names = column_names(by)
        if isinstance(by, Mapping):
            label, columns = "by", {"group": _of_mapping("by", by, ids)}
        elif names is None:
            label, columns = _of_table(by, ids, id_col)
        else:
            label = "X" if static is None or isinstance(static, np.ndarray) else static.label
            columns = {name: _of_static("by", name, static) for name in names}
        cells = {name: _cells(column) for name, column in columns.items()}
        for name, each in cells.items():
            try:
                set(each)
            except TypeError:  # a list has no hash
                expected = "names of groups: text, numbers or dates"
                fail(label, name, expected, quoted(each[0]), ids[:1].tolist()[0], "Convert them.")
        numbers: dict[Any, int] = {}
        keys = zip(*cells.values(), strict=True) if cells else [()] * len(ids)
        row = [numbers.setdefault(key, len(numbers)) for key in keys]
        row = np.array(row, np.int64)
        first = np.unique(row, return_index=True)[1]
        return cls(row, {name: column[first] for name, column in columns.items()})


def read_weight(
    weight: Any, static: Table | np.ndarray | None, ids: np.ndarray, id_col: str
) -> np.ndarray | None:
    """Read the argument ``weight`` of ``Forecaster.predict_total``: shape (items,), float64.

    Parameters
    ----------
    weight : None, str, array, mapping, table or path
    static, ids, id_col
        As in ``Groups.read``.

    Raises
    ------
    ArgumentError
        Another object, or an array of another shape; a name without a static table.
    DataError
        A weight that is missing or not a finite number; a table without one column of weights.
    """
    if weight is None:
        return None
    column_name = weight if isinstance(weight, str) else None
    if isinstance(weight, str) and column_names(weight) is not None:
        column = _of_static("weight", weight, static)
        values = column
        if not isinstance(column, np.ndarray):
            assert isinstance(static, Table)  # the column is from there
            values, _ = read_floats(static.column(weight), static.text)
        given = _cells(column)
    elif isinstance(weight, Mapping):
        given = _of_mapping("weight", weight, ids).tolist()
        values = np.array([float(w) if is_number(w) else np.nan for w in given], np.float64)
    elif _is_table(weight):
        table, names, at = _table_of("weight", weight, ids, id_col)
        if len(names) != 1:
            raise DataError(
                f"{table.label}: expected one column of weights beside {quoted(id_col)}; received "
                f"{listed(names) or 'none'}."
            )
        (column_name,) = names
        values = read_floats(table.column(column_name), table.text)[0][at]
        cells = read_cells(table.column(column_name))
        given = [cells[row] for row in at]
    else:
        try:
            values = np.asarray(weight, np.float64)
        except (TypeError, ValueError):
            values = np.array(np.nan)
        if values.shape != ids.shape:
            raise ArgumentError(
                "weight: expected the name of a column of the static table, an array of shape "
                f"{ids.shape}, a mapping of ids to numbers, or a table with the ids and one column "
                f"of numbers; received {quoted(weight)}."
            )
        given = values.tolist()
    wrong = np.flatnonzero(~(np.abs(values) <= LARGEST))  # NaN too
    if len(wrong):
        item = ids[wrong[:1]].tolist()[0]
        raise DataError(
            f"weight: expected a number from {-LARGEST:g} to {LARGEST:g} for each item; item "
            f"{quoted(item)} has {quoted(given[wrong[0]])}.",
            column=column_name,
            item=item,
        )
    return values


def column_names(by: Any) -> tuple[str, ...] | None:
    """Return the columns of the static table that ``by`` or ``weight`` names; None if it is a
    mapping, a table or a path."""
    if isinstance(by, str):
        return None if Path(by).suffix.lower() in (".csv", ".parquet") else (by,)
    if isinstance(by, (list, tuple)) and all(isinstance(name, str) for name in by):
        repeated = first_repeated(list(by))
        if repeated is not None:
            raise ArgumentError(
                f"by: expected different columns; {quoted(repeated)} is there twice."
            )
        return tuple(by)
    return None


def without_columns(
    static: Table | np.ndarray | None, arguments: Iterable[Any], schema: Schema
) -> Table | np.ndarray | None:
    """Return the static table without the columns that the arguments name and that are not columns
    of ``fit``."""
    named = {name for each in arguments for name in column_names(each) or ()}
    named -= {schema.id_col, schema.start_col, schema.group_col, *schema.static.kinds}
    if isinstance(static, np.ndarray):
        if static.ndim != 2:
            return static  # for the message of the reader of tables
        return static[:, [f"x{j + 1}" not in named for j in range(static.shape[1])]]
    if static is None or not named:
        return static
    return replace(static, frame=static.frame.drop([n for n in static.columns if n in named]))


# -- inside ----------------------------------------------------------------------------


def _of_static(argument: str, name: str, static: Table | np.ndarray | None) -> Any:
    """Return a column of the static table, or of X as float64."""
    if static is None:
        raise ArgumentError(
            f"{argument}: expected a static table with the column {quoted(name)}; received none. "
            f"Pass a mapping of ids to {_WHAT[argument]}, or a table or file with the ids and "
            "these."
        )
    if isinstance(static, Table):
        check_columns(static, (name,), ())
        return typed_column(static, name)
    values = read_numbers(static, "X", "x", "(n, f)")
    names = [f"x{j + 1}" for j in range(values.shape[1])]
    if name not in names:
        raise DataError(f"X: expected a column {quoted(name)}; received {names}.", column=name)
    return values[:, names.index(name)]


def _of_mapping(argument: str, given: Mapping[Any, Any], ids: np.ndarray) -> np.ndarray:
    """Return the value of each item, int64 or objects; None where it is missing."""
    return id_array([plain_cell(given[item]) for item in _all_in(argument, ids.tolist(), given)])


def _of_table(by: Any, ids: np.ndarray, id_col: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a table of groups, for messages, and its columns, a cell for each item."""
    table, names, at = _table_of("by", by, ids, id_col)
    if not names:
        raise DataError(f"{table.label}: expected a column of groups beside {quoted(id_col)}.")
    return table.label, {name: typed_column(table, name)[at] for name in names}


def _table_of(
    argument: str, given: Any, ids: np.ndarray, id_col: str
) -> tuple[Table, list[str], np.ndarray]:
    """Return a table of the groups or weights of items, its columns beside the ids, and the row of
    each item."""
    wrong = ArgumentError(f"{argument}: expected {_BY}; received {type(given).__name__}.")
    if not _is_table(given):
        raise wrong
    table = open_table(given, "group" if argument == "by" else argument, argument)
    if not isinstance(table, Table):
        raise wrong
    check_columns(table, (id_col,), ROLES[:1])
    items = ids.tolist()
    known, _ = agree(read_ids(table, id_col), table, items[:1], None, id_col)
    repeated = first_repeated(known)
    if repeated is not None:
        fail(table.label, id_col, "one row for each item", "another row", repeated, "Keep one.")
    row = {item: at for at, item in enumerate(known)}
    at = np.array([row[item] for item in _all_in(argument, items, row)], np.int64)
    return table, [name for name in table.columns if name != id_col], at


def _is_table(given: Any) -> bool:
    """Return whether an argument is a table or the path of one; arrays have no columns."""
    # Of the class: a lazy frame would find its columns first.
    return isinstance(given, (str, PathLike)) or hasattr(type(given), "columns")


def _all_in(argument: str, items: list[Any], given: Mapping[Any, Any]) -> list[Any]:
    """Return the items; raise for the first one that is not in ``given``."""
    for item in items:
        if item not in given:
            unknown = " (None if it is unknown)" if argument == "by" else ""
            raise DataError(
                f"{argument}: expected {_WHAT[argument]} for all items of the call; there is none "
                f"for item {quoted(item)}. Add it{unknown}, or leave the item out of the call.",
                item=item,
            )
    return items


def _cells(column: Any) -> list[Any]:
    """Return the cells of a narwhals column or an array, None where missing."""
    if isinstance(column, np.ndarray):
        return [plain_cell(cell) for cell in column.tolist()]
    return read_cells(column)
