"""Items and folds: tables that can be cut by item, and which fold an item is in."""

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
from statecast.tables.targets import Targets, learn

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, eq=False)
class Items:
    """Both tables, checked as a whole and ready to be cut by item.

    Attributes
    ----------
    ids : ndarray, shape (n,)
    last : ndarray, shape (n,), int
        The last observed step of each.
    schema : Schema or Targets
        Of the whole. It is used for names and checks alone: no forecast sees it.
    tables : dict of str to narwhals DataFrame or ndarray
        ``series``, and ``static`` and ``future`` where they were given.
    rows : dict of str to ndarray, int
        The item of each row of these, -1 for one that is not among the items.
    groups : ndarray, shape (n,), int
        Which items belong together.
    """

    ids: np.ndarray
    last: np.ndarray
    schema: Schema | Targets
    tables: dict[str, Any]
    rows: dict[str, np.ndarray]
    groups: np.ndarray

    @classmethod
    def read(cls, settings: Settings, series: Any, static: Any, future: Any) -> Items:
        """Open and check the tables; every error that the whole data show is raised here."""
        given = {"series": (series, "Y"), "static": (static, "X"), "future": (future, "future")}
        opened = {
            role: open_table(source, role, letter)
            for role, (source, letter) in given.items()
            if source is not None
        }
        with warnings.catch_warnings():  # each fold's fit says it of what it uses
            warnings.simplefilter("ignore", DataWarning)
            schema = learn(
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
        """Return the tables of some items, by a mask of shape (n,)."""
        found = {}
        for role, table in self.tables.items():
            rows = self.rows[role]
            inside = np.flatnonzero((rows >= 0) & keep[rows])
            found[role] = table[inside]
            if not isinstance(table, np.ndarray):
                found[role] = self._part(role, found[role])
        return found

    def _part(self, role: str, frame: Any) -> Any:
        """Return some rows of a table as a table of its library. Where rows of the series lack the
        first step of all items, return a ``Table``, as step 1 is still that step."""
        first, native = self.schema.first, frame.to_native()
        if role != "series" or self.schema.spacing is not None or not len(frame):
            return native
        if read_floats(frame[self.schema.step_col], text=False)[0].min() <= first:
            return native
        return Table(frame, "The series table", frame.implementation.value, False, first=first)


def _in_kind_of(ids: np.ndarray, found: list[Any]) -> list[Any]:
    """Return ids as text where the items are text: a CSV file's 7 may be the text '7'."""
    as_text = ids.dtype == object and isinstance(ids[0], str)
    return list(map(str, found)) if as_text else found


def _typed(
    table: Table, schema: Schema | Targets, ids: np.ndarray, kinds: Mapping[str, str]
) -> Any:
    """Return a narwhals frame whose columns have types, also where they came as text.

    A CSV file is read as text, and what a column means is settled by all of its rows. Parts
    of it must mean the same.
    """
    frame = table.frame
    if not table.text:
        return frame
    import narwhals.stable.v2 as nw
    import polars as pl

    numbers: set[str] = set()
    if schema.vocabulary is None:
        numbers.update(schema.targets)
    if schema.spacing is None:
        numbers.add(schema.step_col)
    columns: dict[str, pl.Series] = {}
    for name in frame.columns:
        if name == schema.id_col:
            columns[name] = pl.Series(_in_kind_of(ids, read_ids(table, name)))
        elif name in kinds:
            rows = range(len(frame))  # nothing is refused that the whole table was read with
            values = read_column(table, name, rows, kinds[name], learning=True)
            text = values.dtype == object
            columns[name] = pl.Series(
                values, dtype=pl.String if text else pl.Float64, nan_to_null=not text
            )
        elif name in numbers:
            columns[name] = pl.Series(read_floats(frame[name], True)[0]).fill_nan(None)
        elif schema.vocabulary is not None and name in schema.targets:
            columns[name] = pl.Series(token_cells(table, name, schema.vocabulary))
        else:
            columns[name] = frame[name].to_native()
    return nw.from_native(pl.DataFrame(columns))


def folds_of(items: Items, folds: Any, seed: int) -> np.ndarray:
    """Return the fold of each item."""
    n = len(items.ids)
    if is_whole(folds):
        if not 2 <= folds <= n:
            raise ArgumentError(f"folds: expected 2 to {n} (the items) folds; received {folds}.")
        order = sorted(range(n), key=items.ids.tolist().__getitem__)
        fold = np.zeros(n, np.int64)
        fold[order] = np.random.default_rng(seed).permutation(n) % folds
        return fold
    table = open_table(folds, "folds", "folds")
    if isinstance(table, np.ndarray):
        fold = table
        if fold.shape != (n,) or fold.dtype.kind not in "iuU":
            raise DataError(
                f"folds: expected how many, a table, or an array of whole numbers or text of "
                f"shape ({n},); received {fold.dtype} of shape {fold.shape}."
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
                f"{table.label}, column {id_col!r}: expected one row an item; received another "
                f"(item {quoted(item)}). Keep one of them.",
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
            f"folds: expected two or more; all items are in fold {min(distinct)!r}. There would "
            "be nothing to fit on.",
            column="fold",
        )
    return fold
