"""``parse``: read the tables of one call and check each of them, and all of them together.

Every check is made here, before any work is done. The results are NumPy arrays. ``Schema`` places
their rows on the grid of steps, scales their numbers and turns their categories into codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NoReturn

import numpy as np

from statecast.errors import DataError, listed, quoted
from statecast.tables.columns import (
    coded_columns,
    read_column,
    read_floats,
    read_numbers,
    read_tokens,
    read_y,
    token_cells,
)
from statecast.tables.dates import Form
from statecast.tables.ids import Kind, agree, native_type, read_ids
from statecast.tables.source import (
    MAX_COLUMNS,
    ROLES,
    Table,
    check_columns,
    fail,
    first_repeated,
    no_rows,
    open_table,
)
from statecast.tables.steps import (
    MAX_STEPS,
    Long,
    Names,
    Series,
    Steps,
    read_start,
    read_when,
)
from statecast.tables.vocabulary import Vocabulary

_Source = Table | np.ndarray | None
LARGEST_TIME = 1e12  # of step 1, if it is a number: steps are then exact in float64


@dataclass(frozen=True)
class Parsed:
    """The tables of one call, read and checked."""

    ids: list[Any]  # the items, in the order of the panel's rows
    kind: Kind
    series: Series | None
    static: dict[str, np.ndarray]  # (items,): float64, or objects (text or None)
    future: Steps | None
    vocabulary: Vocabulary | None = None  # of tokens; y then holds their codes
    start: Steps | None = None  # launch dates: one row for each item that has one
    group: np.ndarray | None = None  # (items,): text or None
    begin: np.ndarray | None = None  # (items,) float64: the time of step 1, NaN where unknown


def parse(
    series: Any,
    static: Any,
    future: Any,
    names: Names,
    wanted: Mapping[str, dict[str, str]] | None,
    items: list[Any] | None = None,
    tokens: Vocabulary | None = None,
    *,
    past: Iterable[str] = (),
    categorical: Iterable[str] = (),
) -> Parsed:
    """Read and check the tables. At least one of them is given.

    Parameters
    ----------
    series, static, future : table, path, array or None
        The tables, as in ``Schema.fit``.
    names : Names
        The columns of the ids, the steps and y; and those of the static table that are not
        features. Groups are read if there is a static table, and times of step 1 in ``fit``.
    wanted : mapping or None
        The feature columns of ``fit`` and their kinds, under the keys "static", "future" and
        "past"; None in ``fit`` itself.
    items : list, optional
        The known items. An item of the series that is not among them is an error.
    tokens : Vocabulary, optional
        Given if y holds tokens. An empty vocabulary is learnt from y.
    past : iterable of str
        The past covariates among the columns of the series.
    categorical : iterable of str
        In ``fit``, the columns that are categorical even if they hold numbers.

    Raises
    ------
    DataError
        A table that cannot be used.
    """
    request = _Request(names, wanted, items, tokens, tuple(past), tuple(categorical))
    sources = open_tables(
        series, static, future, names, request.past, tokens, empty=not request.learning
    )
    y, x, f = (source if isinstance(source, np.ndarray) else None for source in sources)
    if y is not None or x is not None or f is not None:
        return _parse_arrays(y, x, f, request)
    series, static, future = (each if isinstance(each, Table) else None for each in sources)
    return _parse_tables(series, static, future, request)


@dataclass(frozen=True)
class _Request:
    """What a call expects of its tables; see ``parse`` for the fields."""

    names: Names
    fit: Mapping[str, dict[str, str]] | None
    items: list[Any] | None
    tokens: Vocabulary | None
    past: tuple[str, ...]
    categorical: tuple[str, ...]

    @property
    def learning(self) -> bool:
        """Whether the call is ``fit``."""
        return self.fit is None

    def kinds(self, what: str, names: Iterable[str]) -> dict[str, str | None]:
        """Return the feature columns to read and their kinds.

        Parameters
        ----------
        what : {"static", "future", "past"}
        names : iterable of str
            The columns of the table, which are read in ``fit``. Later those of ``fit`` are read.

        Returns
        -------
        dict of str to str or None
            "numeric"; "categorical" for text; "codes" for text or whole numbers; None where the
            type of the column decides.
        """
        if self.fit is not None:
            return dict(self.fit[what])
        return {name: "codes" if name in self.categorical else None for name in names}

    def has_times(self, label: str, columns: Iterable[str]) -> bool:
        """Return whether a static table has the times of step 1, which only ``fit`` needs."""
        name = str(self.names.origin_col)
        if self.learning:
            _check_column(label, columns, name, "times, as origin_col says")
        return name in columns

    def check_features(self, label: str, names: list[str], what: str) -> None:
        """Raise unless the columns are those of ``fit``, in any order; in ``fit`` itself, if there
        are too many."""
        if self.fit is None:
            if len(names) > MAX_COLUMNS:
                raise DataError(
                    f"{label}: expected at most {MAX_COLUMNS} columns; received {len(names)}."
                )
            return
        known, given = self.fit[what], set(names)
        for name in known:
            if name not in given:
                raise DataError(
                    f"{label}: expected a {what} column {quoted(name)}, as in fit; received "
                    f"{listed(names)}.",
                    column=name,
                )
        more = [name for name in names if name not in known]
        if more:
            raise DataError(
                f"{label}: expected the {what} columns of fit ({listed(known) or 'none'}); "
                f"received {listed(more)} too. Leave {'it' if len(more) == 1 else 'them'} out.",
                column=more[0],
            )


def open_tables(
    series: Any,
    static: Any,
    future: Any,
    names: Names,
    past: Iterable[str],
    tokens: Vocabulary | None,
    *,
    empty: bool,
) -> tuple[_Source, _Source, _Source]:
    """Open the tables of a call; raise unless all are tables or all are arrays.

    Open tables are returned as they are. ``empty`` says whether the series and the future table may
    have no rows; the other parameters are those of ``parse``.
    """
    # A vocabulary and past covariates are learnt from all rows at once, not in batches.
    only = None if tuple(past) or tokens is not None else names.series
    if series is not None:
        series = open_table(series, "series", "Y", only, empty=empty)
    if static is not None:
        static = open_table(static, "static", "X")
    if future is not None:
        future = open_table(future, "future", "future", empty=empty)
    _check_alike(series, static, future)
    return series, static, future


def _check_alike(series: _Source, static: _Source, future: _Source) -> None:
    """Raise ``DataError`` unless all sources are tables or all are arrays."""
    if series is not None and static is not None:
        of_arrays = isinstance(series, np.ndarray)
        if of_arrays != isinstance(static, np.ndarray):
            given = "an array Y and a static table." if of_arrays else "a series table and X."
            raise DataError(f"Expected two tables or two arrays; received {given}")
    other = static if series is None else series
    if future is not None and other is not None:
        of_arrays = isinstance(future, np.ndarray)
        if of_arrays != isinstance(other, np.ndarray):
            given = "a future table beside arrays"
            if of_arrays:
                given = "an array `future` beside tables"
            raise DataError(f"Expected all tables or all arrays; received {given}.")


# -- tables ----------------------------------------------------------------------------


def _parse_tables(
    series: Table | None, static: Table | None, future: Table | None, request: _Request
) -> Parsed:
    """Read and check tables; see ``parse``."""
    first = next(table for table in (series, static, future) if table is not None)
    if series is not None and not _series_has_rows(series, static, future, request):
        series = None  # every item has a prefix of 0 steps
    items = _items_of(static, request)
    read, vocabulary = None, request.tokens
    if series is not None:
        read, vocabulary = _read_series(series, items, request)
    future_ids: list[Any] = []
    if future is not None:
        future_ids = _check_future(future, request)
        if not future_ids:
            future = None
    if future is not None:
        if items.open and series is None:
            items = _Items(list(dict.fromkeys(future_ids)), None, request.names.id_col)
        future_ids, _ = agree(future_ids, future, items.ids, None, request.names.id_col)
    own: dict[str, Any] = {"static": {}}
    if static is not None:
        own = _read_static(static, items, request)
    planned = None
    if future is not None:
        planned = _read_future(future, future_ids, items, request)
    steps = planned if read is None else read
    form = None if steps is None else steps.form
    id_type = None if first.text else native_type(first.column(request.names.id_col))
    kind = Kind(first.kind, form, id_type)
    return Parsed(items.ids, kind, read, future=planned, vocabulary=vocabulary, **own)


def _series_has_rows(
    series: Table, static: Table | None, future: Table | None, request: _Request
) -> bool:
    """Check the columns of the series table; raise if it is empty and nothing else has items."""
    roles = (*ROLES[:2], *ROLES[2:] * len(request.names.targets))
    check_columns(series, request.names.series, roles)
    check_columns(series, request.past, ())
    if len(series.frame):
        return True
    if static is None and future is None and request.items is None:
        raise no_rows(series, "series")
    return False


def _items_of(static: Table | None, request: _Request) -> _Items:
    """Return the items of the static table; without it the known ones, or any."""
    if static is None:
        return _Items(request.items, None, request.names.id_col)
    check_columns(static, (request.names.id_col,))
    return _Items(read_ids(static, request.names.id_col), static, request.names.id_col)


class _Items:
    """The items of a call and their rows.

    ``ids`` are the items. ``open`` says that none were given: every item of the series is then
    added, in order of first appearance.
    """

    def __init__(self, ids: list[Any] | None, static: Table | None, id_col: str) -> None:
        self.open = ids is None
        self.ids = ids or []
        self._static, self._id_col = static, id_col
        self._row = self._numbered()
        if len(self._row) < len(self.ids):
            item = first_repeated(self.ids)
            label = "The known items" if static is None else static.label
            fail(label, id_col, "one row for each item", "another row", item, "Keep one of them.")

    def _numbered(self) -> dict[Any, int]:
        return dict(zip(self.ids, range(len(self.ids)), strict=True))

    def rows(self, ids: list[Any]) -> np.ndarray:
        """Return the row of each id, int64; -1 for an id that is not among the items."""
        return np.fromiter(map(self._row.get, ids, repeat(-1)), np.int64, len(ids))

    def find(self, series: Table) -> tuple[list[Any], np.ndarray]:
        """Return the id and the row of each row of the series table; raise for other items."""
        ids = read_ids(series, self._id_col)
        if self.open:
            new = [item for item in dict.fromkeys(ids) if item not in self._row]
            self._row.update(
                zip(new, range(len(self._row), len(self._row) + len(new)), strict=True)
            )
            self.ids += new
            return ids, self.rows(ids)
        ids, own = agree(ids, series, self.ids, self._static, self._id_col)
        if own is not self.ids:  # the static table is a CSV file with numbers, the series has text
            self.ids = own
            self._row = self._numbered()
        row = self.rows(ids)
        if (row < 0).any():
            where, remedy = "the static table", "Add it to the static table"
            if self._static is None:
                where, remedy = "the state", "Make a state for it"
            fail(
                series.label,
                self._id_col,
                f"items of {where}",
                "one that is not there",
                ids[int(np.argmax(row < 0))],
                f"{remedy}, or take it out of the series.",
            )
        return ids, row


def _read_series(
    table: Table, items: _Items, request: _Request
) -> tuple[Series, Vocabulary | None]:
    """Read the series table, and learn the vocabulary of its tokens if that is empty."""
    first, vocabulary = _read_batch(table, items, request, request.tokens)

    def batches() -> Iterator[Long]:
        yield first
        for part in table.rest():
            yield _read_batch(part, items, request, vocabulary)[0]

    return Series(batches()), vocabulary


def _read_batch(
    table: Table, items: _Items, request: _Request, vocabulary: Vocabulary | None
) -> tuple[Long, Vocabulary | None]:
    """Read a batch of rows of the series table, and the vocabulary of its tokens."""
    targets = request.names.targets
    ids, row = items.find(table)
    when, form = read_when(table, request.names.step_col, ids)
    if vocabulary is None:
        y = np.stack([read_y(table, name, ids) for name in targets], axis=1)
    else:
        (name,) = targets
        cells = token_cells(table, name, vocabulary)
        codes, vocabulary = read_tokens(cells, table.label, name, ids, vocabulary)
        y = codes[:, None]
    columns = {
        name: read_column(table, name, ids, kind, request.learning)
        for name, kind in request.kinds("past", request.past).items()
    }
    return Long(table.label, row, when, form, columns, y), vocabulary


def _check_future(table: Table, request: _Request) -> list[Any]:
    """Check the columns of the future table; return the id of each of its rows."""
    keys = request.names.series[:2]
    check_columns(table, keys)
    for name in request.names.targets:
        if name in table.columns:
            raise DataError(
                f"{table.label}: expected covariates, which are known before the target; received "
                f"the target {name!r}. Leave it out.",
                column=name,
            )
    if len(table.columns) < 3:
        raise DataError(
            f"{table.label}: expected covariates beside {list(keys)}; received no others."
        )
    ids = read_ids(table, request.names.id_col)
    if not ids:  # its columns are not read later
        names = [name for name in table.columns if name not in keys]
        request.check_features(table.label, names, "future")
    return ids


def _read_static(table: Table, items: _Items, request: _Request) -> dict[str, Any]:
    """Return the features of a static table, its launch dates, groups and times of step 1, under
    the names of ``Parsed``."""
    names, own = request.names, {}
    if names.start_col is not None:
        own["start"] = read_start(table, names.start_col, items.ids)
    if names.group_col is not None:
        what = "groups, as group_col says"
        _check_column(table.label, table.columns, names.group_col, what)
        own["group"] = read_column(table, names.group_col, items.ids, "codes", False, feature=False)
    if names.origin_col is not None and request.has_times(table.label, table.columns):
        values, wrong = read_floats(table.column(names.origin_col), table.text)
        if wrong.any():
            given = quoted(table.column(names.origin_col).to_list()[int(np.argmax(wrong))])
            _refuse_time(table.label, names.origin_col, given, items.ids[int(np.argmax(wrong))])
        own["begin"] = _whole_times(values, table.label, names.origin_col, items.ids)
    own["static"] = _read_features(table, names.static, items.ids, request, "static")
    return own


def _check_column(label: str, columns: Iterable[str], name: str, what: str) -> None:
    """Raise ``DataError`` unless a static table has this column; ``what`` is what it holds."""
    if name not in columns:
        raise DataError(
            f"{label}: expected the column {quoted(name)} of {what}; received {listed(columns)}. "
            "Leave a cell empty where it is unknown.",
            column=name,
        )


def _whole_times(values: np.ndarray, label: str, name: str, ids: list[Any]) -> np.ndarray:
    """Return the times of step 1; raise unless they are whole numbers or NaN."""
    wrong = ~np.isnan(values) & ((values != np.floor(values)) | (np.abs(values) > LARGEST_TIME))
    if wrong.any():
        at = int(np.argmax(wrong))
        _refuse_time(label, name, quoted(float(values[at])), ids[at])
    return values


def _refuse_time(label: str, name: str, given: str, item: Any) -> NoReturn:
    """Raise for a time of step 1 that is not a whole number, or too large."""
    expected = (
        "the time of step 1, a whole number in the unit of the steps, as origin_col says, from "
        f"{-LARGEST_TIME:g} to {LARGEST_TIME:g}"
    )
    advice = "Convert it, for example to the year; if steps are dates, leave origin_col out."
    fail(label, name, expected, given, item, advice)


def _read_future(table: Table, ids: list[Any], items: _Items, request: _Request) -> Steps:
    """Return the rows of the future table; ``ids`` has the id of each."""
    when, form = read_when(table, request.names.step_col, ids)
    columns = _read_features(table, request.names.series[:2], ids, request, "future")
    # It may have rows of other items: the calendar of all shops, for example.
    return Steps(table.label, items.rows(ids), when, form, columns)


def _read_features(
    table: Table, keys: Iterable[str], ids: list[Any], request: _Request, what: str
) -> dict[str, np.ndarray]:
    """Return the columns beside the keys: float64 with NaN, or objects (text or None)."""
    names = [name for name in table.columns if name not in keys]
    for name in names:
        if not isinstance(name, str):
            raise DataError(
                f"{table.label}: expected columns named by text; received {name!r}.",
                column=str(name),
            )
    request.check_features(table.label, names, what)
    return {
        name: read_column(table, name, ids, kind, request.learning)
        for name, kind in request.kinds(what, names).items()
    }


# -- arrays ----------------------------------------------------------------------------


def _parse_arrays(
    series: np.ndarray | None,
    static: np.ndarray | None,
    future: np.ndarray | None,
    request: _Request,
) -> Parsed:
    """Read and check ``Y (n, T)`` or ``(n, T, targets)``, ``X (n, f)`` and ``future (n, T, f)``.

    See ``parse``. Without known items the ids are 0 to n - 1.
    """
    start_col = request.names.start_col
    if start_col is not None and static is not None:
        raise DataError(
            f"start_col: expected a static table with the column {quoted(start_col)}; "
            "received arrays, whose steps have no dates. Pass tables."
        )
    own = {"static": {}} if static is None else _read_x(static, request)
    ids = _ids_of_arrays(series, static, future, request)
    planned = None if future is None else _read_future_array(future, len(ids), request)
    read, vocabulary = None, request.tokens
    if series is not None:
        y, vocabulary = _read_y_array(series, request)
        if static is not None and len(static) != len(ids):
            raise DataError(
                f"Expected a row for each item in Y and in X; received {len(ids)} rows in Y and "
                f"{len(static)} in X."
            )
        if y.shape[1] > MAX_STEPS:
            raise DataError(f"Y: expected at most {MAX_STEPS:,} steps; received {y.shape[1]:,}.")
        row, at = np.nonzero(~np.isnan(y).all(axis=2))
        read = Series([Long("Y", row, at + 1.0, Form(), {}, y[row, at])])
    return Parsed(ids, Kind("arrays", Form()), read, future=planned, vocabulary=vocabulary, **own)


def _read_x(static: np.ndarray, request: _Request) -> dict[str, Any]:
    """Return the columns of ``X (n, f)``, x1, x2, ..., as ``_read_static`` does."""
    x, names, own = read_numbers(static, "X", "x", "(n, f)"), request.names, {}
    columns = {f"x{j + 1}": x[:, j].copy() for j in range(x.shape[1])}
    items = list(range(len(x)))
    if names.group_col is not None:
        _check_column("X", columns, names.group_col, "groups, as group_col says")
        groups = {names.group_col: columns.pop(names.group_col)}
        own["group"] = coded_columns("X", groups, dict.fromkeys(groups, "codes"), items)[
            names.group_col
        ]
    if names.origin_col is not None and request.has_times("X", columns):
        begin = columns.pop(names.origin_col)
        own["begin"] = _whole_times(begin, "X", names.origin_col, items)
    request.check_features("X", list(columns), "static")
    kinds = request.kinds("static", columns)
    return own | {"static": coded_columns("X", columns, kinds, items)}


def _ids_of_arrays(
    series: np.ndarray | None,
    static: np.ndarray | None,
    future: np.ndarray | None,
    request: _Request,
) -> list[Any]:
    """Return the ids of the rows of the first array that is given."""
    first = next(array for array in (series, static, future) if array is not None)
    n, items = len(first), request.items
    if not n:
        raise DataError("Expected at least one item; received an array without rows.")
    if items is None:
        return list(range(n))
    if len(items) != n:
        name = "future" if first is future else "Y"
        raise DataError(
            f"{name}: expected a row for each of {len(items)} known items; received {n}."
        )
    return items


def _read_future_array(future: np.ndarray, n: int, request: _Request) -> Steps:
    """Return the covariates of ``future (n, T, f)`` under the names f1, f2, ..., one row
    for each item and step."""
    values = read_numbers(future, "future", "f", "(n, T, f)")
    if len(values) != n:
        raise DataError(f"future: expected a row for each of {n} items; received {len(values)}.")
    steps, features = values.shape[1:]
    columns = {f"f{j + 1}": values[..., j].ravel() for j in range(features)}
    request.check_features("future", list(columns), "future")
    row, when = np.repeat(np.arange(n), steps), np.tile(np.arange(1.0, steps + 1), n)
    columns = coded_columns("future", columns, request.kinds("future", columns), row.tolist())
    return Steps("future", row, when, Form(), columns)


def _read_y_array(series: np.ndarray, request: _Request) -> tuple[np.ndarray, Vocabulary | None]:
    """Return the numbers of ``Y``, or the codes of its tokens and their vocabulary.

    ``Y`` has the shape (n, T) for one target and (n, T, targets) for several. The result has the
    shape (n, T, targets), float64 with NaN.
    """
    if request.past:
        raise DataError(
            f"past_cols: expected a series table with the columns {list(request.past)}; received "
            "an array Y, which has none. Pass a table.",
            column=request.past[0],
        )
    targets = request.names.targets
    if len(targets) > 1:
        if series.ndim != 3 or series.shape[2] != len(targets):
            raise DataError(
                f"Y: expected shape (n, T, {len(targets)}), a number for each of the targets "
                f"{list(targets)}; received {series.shape}."
            )
        return read_numbers(series, "Y", "", "(n, T, m)"), None
    if request.tokens is None:
        if series.ndim == 3:
            count = series.shape[2]
            raise DataError(
                f"Y: expected shape (n, T) for one target; received {series.shape}. For {count} "
                f"target{'s' * (count != 1)}, pass a list of as many names to the forecaster: "
                "target_col=[...]."
            )
        return read_numbers(series, "Y", "", "(n, T)")[..., None], None
    if series.ndim != 2:
        raise DataError(f"Y: expected shape (n, T); received {series.shape}.")
    n, steps = series.shape
    row = np.repeat(np.arange(n), steps).tolist()
    codes, vocabulary = read_tokens(series.ravel().tolist(), "Y", "Y", row, request.tokens)
    return codes.reshape(n, steps, 1), vocabulary
