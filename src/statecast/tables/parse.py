"""``parse``: the tables of a call, read and checked one by one and against each other.

Every check is made here before any work is done. What comes out is NumPy arrays; ``Schema`` gives
them their meaning (steps, scaling, codes).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import numpy as np

from statecast.errors import DataError, listed, quoted
from statecast.tables.columns import (
    coded_columns,
    read_column,
    read_numbers,
    read_tokens,
    read_y,
    token_cells,
)
from statecast.tables.dates import Form
from statecast.tables.ids import Kind, agree, native_type, read_ids
from statecast.tables.source import (
    MAX_COLUMNS,
    Table,
    check_columns,
    fail,
    first_repeated,
    no_rows,
    open_table,
)
from statecast.tables.steps import MAX_STEPS, Long, Series, Steps, read_start, read_when
from statecast.tables.vocabulary import Vocabulary


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
                raise no_rows(table, "series")
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
            start, keys = read_start(statics, start_col, known.ids), (names[0], start_col)
        columns = _columns(statics, keys, known.ids, kinds, "static")
    if futures is not None:
        when, form = read_when(futures, names[1], futures_ids)
        told = _columns(futures, names[:2], futures_ids, kinds, "future")
        # It may speak of more items: a plan of the whole house, say.
        planned = Steps(futures.label, known.rows(futures_ids), when, form, told)
    form = planned.form if read is None and planned is not None else read and read.form
    kind = Kind(first.kind, form, None if first.text else native_type(first.frame[names[0]]))
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
            item = first_repeated(self.ids)
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
        columns = coded_columns("X", columns, kinds.of("static", columns), range(len(x)))
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
        named = coded_columns("future", named, kinds.of("future", named), items_of)
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
