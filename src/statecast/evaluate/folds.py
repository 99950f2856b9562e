"""``Items``: tables from which items and steps can be selected; and the fold of each item."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from statecast.checks import is_whole
from statecast.errors import ArgumentError, DataError, DataWarning, quoted
from statecast.forecast.settings import Settings
from statecast.tables.columns import read_column, read_floats, token_cells
from statecast.tables.ids import agree, read_ids
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema
from statecast.tables.source import ROLES, Table, check_columns, open_table
from statecast.tables.steps import read_when

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, eq=False)
class Items:
    """Checked tables, from which items and steps can be selected.

    Attributes
    ----------
    schema : Schema
        Of all items. It is used for names, steps and checks, but not for forecasts.
    panel : Panel
        All items with all their observations, in the order of their rows.
    tables : dict of str to narwhals DataFrame or ndarray
        ``series``, and ``static`` and ``future`` where they were given.
    rows : dict of str to ndarray, int
        The item of each row of these tables, -1 for a row that belongs to no item.
    """

    schema: Schema
    panel: Panel
    tables: dict[str, Any]
    rows: dict[str, np.ndarray]

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
        return cls(schema, panel, tables, rows)

    @property
    def ids(self) -> np.ndarray:
        """The ids, shape (n,)."""
        return self.panel.ids

    @cached_property
    def last(self) -> np.ndarray:
        """The last observed step of each item, shape (n,), int64; 0 without an observation."""
        return self.panel.known // self.panel.targets

    @cached_property
    def observed(self) -> np.ndarray:
        """Whether any target of an item was observed at a step, shape (n, T), bool."""
        mask = self.panel.mask.reshape(len(self.ids), -1, self.panel.targets)
        return np.logical_or.reduce(mask, axis=2)

    def last_up_to(self, step: np.ndarray) -> np.ndarray:
        """Return the last observed step of each item up to a step, ``(n,)``, int64; 0 without an
        observation up to it."""
        every = np.arange(1, self.observed.shape[1] + 1)
        return np.where(self.observed & (every <= step[:, None]), every, 0).max(axis=1, initial=0)

    def take(self, keep: np.ndarray) -> dict[str, Any]:
        """Return the tables of the items that a mask of shape (n,) selects."""
        return {role: self._rows(role, keep[self.rows[role]]) for role in self.tables}

    def take_up_to(self, keep: np.ndarray, step: np.ndarray, *, plans: bool) -> dict[str, Any]:
        """Return the tables of some items without the rows after a step of each item.

        Parameters
        ----------
        keep : ndarray, shape (n,), bool
            The items.
        step : ndarray, shape (n,), int
            The last step of each item that the tables have; below 1 for an item that is not
            launched. Of an item without an observation up to it, the series has no value. If steps
            are dates, it has a row at step 1, so that the launch date is known.
        plans : bool
            Whether the future covariates of later steps are in the tables, for a forecast. Then an
            item without an observation is in them even if there is no static table: a static table
            without features has its id.
        """
        known, found = self.last_up_to(step), {}
        for role, table in self.tables.items():
            if role == "static" or (role == "future" and plans):
                found[role] = self._rows(role, keep[self.rows[role]])
            elif isinstance(table, np.ndarray):
                late = np.arange(table.shape[1]) >= step[:, None]
                late = late.reshape(*late.shape, *[1] * (table.ndim - 2))
                values = table if table.dtype.kind in "biuf" else table.astype(object)
                found[role] = np.where(late, np.nan, values)[keep]
            else:
                row, at = self.rows[role], self._steps[role]
                inside = (at <= step[row]) & (known[row] > 0)
                if role == "series" and self.schema.spacing is not None:
                    inside |= (at == 1) & (known[row] == 0)
                found[role] = self._rows(role, inside & keep[row], unobserved=known == 0)
        if plans and "static" not in found and not isinstance(self.tables["series"], np.ndarray):
            frame, row = self.tables["series"], self.rows["series"]
            _, first = np.unique(row, return_index=True)  # a row of each item, in their order
            found["static"] = frame[first[keep[row[first]]]].select(self.schema.id_col).to_native()
        return found

    @cached_property
    def _steps(self) -> dict[str, np.ndarray]:
        """The step of each row of the tables by item and step, int64."""
        schema, found = self.schema, {}
        for role in ("series", "future"):
            frame, row = self.tables.get(role), self.rows.get(role)
            if frame is None or row is None or isinstance(frame, np.ndarray):
                continue
            table = Table(frame, f"The {role} table", frame.implementation.value, False)
            when, form = read_when(table, schema.step_col, read_ids(table, schema.id_col))
            if schema.spacing is None:
                found[role] = when.astype(np.int64) - (schema.first - 1)
            else:
                assert self.panel.origin is not None  # steps are dates
                place = schema.spacing.place(when, form.zone)
                found[role] = schema.spacing.steps(place, self.panel.origin[row])[0]
        return found

    def _rows(self, role: str, inside: np.ndarray, unobserved: np.ndarray | None = None) -> Any:
        """Return rows of a table, as a table of the same library.

        ``inside`` marks the rows; those of no item are left out. The values of the items
        ``unobserved (n,)`` become missing.
        """
        table, row = self.tables[role], self.rows[role]
        at = np.flatnonzero((row >= 0) & inside)
        part = table[at]
        if isinstance(table, np.ndarray):
            return part
        if role == "series" and unobserved is not None and unobserved[row[at]].any():
            import narwhals.stable.v2 as nw

            values = [*self.schema.target_cols, *self.schema.past.kinds]
            known = nw.new_series(
                "known", ~unobserved[row[at]], nw.Boolean(), backend=part.implementation
            )
            part = part.with_columns(nw.when(known).then(nw.col(name)) for name in values)
        return self._part(role, part)

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
    if schema.origin_col is not None:
        numbers.add(schema.origin_col)
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
