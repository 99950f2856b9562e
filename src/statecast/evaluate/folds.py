"""``Items``: tables from which items can be selected; and the fold of each item."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from statecast.checks import is_whole
from statecast.errors import ArgumentError, DataError, DataWarning, quoted
from statecast.forecast.settings import Settings
from statecast.tables.columns import read_column, read_floats, token_cells
from statecast.tables.ids import agree, read_ids
from statecast.tables.schema import Schema
from statecast.tables.source import ROLES, Table, check_columns, open_table

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, eq=False)
class Items:
    """Checked tables, from which items can be selected.

    Attributes
    ----------
    ids : ndarray, shape (n,)
    last : ndarray, shape (n,), int
        The last observed step of each item.
    schema : Schema
        Of all items. It is used for names and checks, but not for forecasts.
    tables : dict of str to narwhals DataFrame or ndarray
        ``series``, and ``static`` and ``future`` where they were given.
    rows : dict of str to ndarray, int
        The item of each row of these tables, -1 for a row that belongs to no item.
    groups : ndarray, shape (n,), int
        Items with the same number are held out together; see ``Panel.groups``.
    """

    ids: np.ndarray
    last: np.ndarray
    schema: Schema
    tables: dict[str, Any]
    rows: dict[str, np.ndarray]
    groups: np.ndarray

    @classmethod
    def read(cls, settings: Settings, series: Any, static: Any, future: Any) -> Items:
        """Open and check the tables.

        Raises
        ------
        DataError, ArgumentError
            As ``fit`` on all items.
        """
        given = {"series": (series, "Y"), "static": (static, "X"), "future": (future, "future")}
        opened = {
            role: open_table(source, role, letter)
            for role, (source, letter) in given.items()
            if source is not None
        }
        with warnings.catch_warnings():  # the fit of each fold warns about its data
            warnings.simplefilter("ignore", DataWarning)
            schema = Schema.fit(
                series,
                static,
                future=future,
                transform="none",
                **settings.columns,
            )
            panel = schema.panel(series, static, future=future)
        position = {item: row for row, item in enumerate(panel.ids.tolist())}
        features = {"series": schema.past, "static": schema.static, "future": schema.future}
        tables, rows = {}, {}
        for role, table in opened.items():
            if isinstance(table, Table):
                ids = _in_kind_of(panel.ids, read_ids(table, schema.id_col))
                tables[role] = _typed(table, schema, panel.ids, features[role].kinds)
                rows[role] = np.array([position.get(item, -1) for item in ids], np.int64)
            else:
                tables[role], rows[role] = table, np.arange(panel.rows)
        last = panel.known // panel.targets
        return cls(panel.ids, last, schema, tables, rows, panel.groups)

    def take(self, keep: np.ndarray) -> dict[str, Any]:
        """Return the tables of the items that a mask of shape (n,) selects."""
        found = {}
        for role, table in self.tables.items():
            rows = self.rows[role]
            inside = np.flatnonzero((rows >= 0) & keep[rows])
            found[role] = table[inside]
            if not isinstance(table, np.ndarray):
                found[role] = self._part(role, found[role])
        return found

    def _part(self, role: str, frame: Any) -> Any:
        """Return a part of a table, as a table of the same library.

        If a part of the series has no row at the first step of the whole series, the result is a
        ``Table`` with this first step, so that steps have the same numbers as in the whole series.
        """
        first, native = self.schema.first, frame.to_native()
        if role != "series" or self.schema.spacing is not None or not len(frame):
            return native
        if read_floats(frame[self.schema.step_col], text=False)[0].min() <= first:
            return native
        return Table(frame, "The series table", frame.implementation.value, False, first=first)


def _in_kind_of(ids: np.ndarray, found: list[Any]) -> list[Any]:
    """Return ids as text if the items' ids are text: 7 in a CSV file may be the text '7'."""
    as_text = ids.dtype == object and isinstance(ids[0], str)
    return list(map(str, found)) if as_text else found


def _typed(table: Table, schema: Schema, ids: np.ndarray, kinds: Mapping[str, str]) -> Any:
    """Return a narwhals frame with typed columns, also for a CSV file, whose cells are text.

    The type of a column depends on all of its rows, so it is found before the table is divided.
    """
    frame = table.frame
    if not table.text:
        return frame
    import narwhals.stable.v2 as nw
    import polars as pl

    numbers: set[str] = set()
    if schema.vocabulary is None:
        numbers.update(schema.target_cols)
    if schema.spacing is None:
        numbers.add(schema.step_col)
    columns: dict[str, pl.Series] = {}
    for name in frame.columns:
        if name == schema.id_col:
            columns[name] = pl.Series(_in_kind_of(ids, read_ids(table, name)))
        elif name in kinds:
            rows = range(len(frame))  # `Items.read` has checked the values
            values = read_column(table, name, rows, kinds[name], learning=True)
            text = values.dtype == object
            columns[name] = pl.Series(
                values, dtype=pl.String if text else pl.Float64, nan_to_null=not text
            )
        elif name in numbers:
            columns[name] = pl.Series(read_floats(frame[name], True)[0]).fill_nan(None)
        elif schema.vocabulary is not None and name in schema.target_cols:
            columns[name] = pl.Series(token_cells(table, name, schema.vocabulary))
        else:
            columns[name] = frame[name].to_native()
    return nw.from_native(pl.DataFrame(columns))


def folds_of(items: Items, folds: Any, seed: int) -> np.ndarray:
    """Return the fold of each item, shape (n,), from a number of folds, a table or an array.

    Raises
    ------
    ArgumentError
        A number of folds below 2 or above the number of items.
    DataError
        A table or an array that cannot be used, or all observed items in one fold.
    """
    n = len(items.ids)
    if is_whole(folds):
        if not 2 <= folds <= n:
            raise ArgumentError(
                f"folds: expected a number from 2 to {n}, the number of items; received {folds}."
            )
        order = sorted(range(n), key=items.ids.tolist().__getitem__)
        fold = np.zeros(n, np.int64)
        fold[order] = np.random.default_rng(seed).permutation(n) % folds
        return fold
    table = open_table(folds, "folds", "folds")
    if isinstance(table, np.ndarray):
        fold = table
        if fold.shape != (n,) or fold.dtype.kind not in "iuU":
            raise DataError(
                f"folds: expected a number of folds, a table, or an array of whole numbers or text "
                f"of shape ({n},); received {fold.dtype} of shape {fold.shape}."
            )
    else:
        id_col = items.schema.id_col
        check_columns(table, (id_col, "fold"), ROLES[:1])
        found, wanted = read_ids(table, id_col), items.ids.tolist()
        found, _ = agree(found, table, wanted, None, id_col)
        of = dict(zip(found, read_ids(table, "fold"), strict=True))
        if len(of) < len(found):
            item = next(item for i, item in enumerate(found) if item in found[:i])
            raise DataError(
                f"{table.label}, column {id_col!r}: expected one row for each item; received "
                f"several (item {quoted(item)}). Keep one of them.",
                column=id_col,
                item=item,
            )
        for item in wanted:
            if item not in of:
                raise DataError(
                    f"{table.label}, column {id_col!r}: expected a row for every item; there is "
                    f"none for item {quoted(item)}. Add it, or take the item out of the tables.",
                    column=id_col,
                    item=item,
                )
        fold = np.array([of[item] for item in wanted])
    distinct = set(fold[items.last > 0].tolist())
    if len(distinct) < 2:
        raise DataError(
            f"folds: expected two or more; all items are in fold {min(distinct)!r}, so that there "
            "are no training items.",
            column="fold",
        )
    return fold
