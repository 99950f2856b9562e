"""Cells of users as events, and events as tables: ids, steps, values and features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from statecast.errors import ArgumentError, DataError, quoted
from statecast.files import id_bytes, id_of
from statecast.sessions.events import PLAN, ROW, STATIC, Layout, Part
from statecast.tables.features import warn_of_features
from statecast.tables.rows import read_features, read_steps, read_values
from statecast.tables.schema import Schema
from statecast.tables.source import fail

if TYPE_CHECKING:
    import polars as pl

# Dates of Python's datetime, in every time zone.
_FIRST, _LAST = np.datetime64("0001-01-02"), np.datetime64("9999-12-30")


@dataclass(eq=False)
class Ahead:
    """The forecast that a call asks for.

    Attributes
    ----------
    until, h : int or None
        As in ``Forecaster.predict``.
    read : callable or None
        Takes the table of a forecast, and returns a list with an element for each of its rows: the
        answer has this list. None: it has the table.
    context : Context
        Of the caller, who may have asked for no warnings.
    """

    until: Any
    h: Any
    read: Callable[[Any], list[Any]] | None
    context: Context


@dataclass(eq=False)
class Rows:
    """The checked rows of a call.

    Attributes
    ----------
    ids : list
        The item of each row.
    keys : list of bytes
        Its bytes.
    parts : list of (int, bytes, int or None, bytes)
        In order: the row, the kind, the step and the data of an event.
    ahead : Ahead or None
        The forecast that the answer has too.
    expected : str or None
        The version that the items have before the call.
    """

    ids: list[Any]
    keys: list[bytes]
    parts: list[tuple[int, bytes, int | None, bytes]]
    ahead: Ahead | None
    expected: str | None


class Cells:
    """Reads and writes the cells of a model's columns.

    Parameters
    ----------
    schema : Schema
    layout : Layout
    """

    def __init__(self, schema: Schema, layout: Layout) -> None:
        self.schema, self.layout = schema, layout
        form = schema.kind.steps
        self._zone = None if form is None else form.zone
        self._whole = form is not None and form.type == "Date"

    # -- in ----------------------------------------------------------------------------

    def keys(self, items: Any) -> tuple[list[bytes], list[Any]]:
        """The bytes of ids, and the ids as they are kept; ``items`` is an id or several."""
        several = items if isinstance(items, list) else [items]
        if isinstance(items, np.ndarray):
            several = items.tolist()
        keys = []
        for item in several:
            try:
                keys.append(id_bytes(item))
            except ValueError as error:
                raise DataError(f"items: {error}.", item=item) from None
        return keys, [id_of(key) for key in keys]

    def rows(
        self,
        items: Any,
        steps: Any,
        values: Any,
        static: Mapping[str, Any] | None,
        future: Mapping[str, Any] | None,
        past: Mapping[str, Any] | None,
        ahead: Ahead | None,
        expected: str | None,
    ) -> Rows:
        """The rows of a call, checked and packed."""
        schema, layout = self.schema, self.layout
        if isinstance(items, (str, bytes)) or not isinstance(items, (Sequence, np.ndarray)):
            raise DataError(f"items: expected a list or an array of ids; received {quoted(items)}.")
        keys, ids = self.keys(items if isinstance(items, np.ndarray) else list(items))
        if steps is None and (values is not None or future is not None or past is not None):
            raise ArgumentError("steps: expected a step for values and covariates; received None.")
        if values is None and past is not None:
            raise ArgumentError("past: expected values that they were observed with.")
        if steps is not None and values is None and future is None:
            raise ArgumentError("values: expected values or future covariates; received neither.")
        at = None if steps is None else self._at(steps, ids)
        packed: list[tuple[bytes, list[int] | None, list[bytes]]] = []
        if static is not None or not layout.static.columns:
            columns = self._static(static or {}, ids)
            packed.append((STATIC, None, layout.static.pack(columns, len(ids))))
        if future is not None:
            columns = read_features("future", schema.future.kinds, future, ids)
            _, _, missing, unseen = schema.future.encode(columns, ids)
            warn_of_features("Future", missing + unseen)
            packed.append((PLAN, at, layout.plan.pack(columns, len(ids))))
        if values is not None:
            columns = self._values(values, ids)
            if schema.past.kinds or past is not None:
                columns |= read_features("past", schema.past.kinds, past or {}, ids)
                _, _, _, unseen = schema.past.encode(columns, ids)
                warn_of_features("Past", unseen)
            packed.append((ROW, at, layout.row.pack(columns, len(ids))))
        if ids and not packed:
            raise ArgumentError(
                "static: expected static features, or a step with values or future covariates; "
                "received none of them."
            )
        parts = [
            (row, kind, None if at is None else at[row], data[row])
            for row in range(len(ids))
            for kind, at, data in packed
        ]
        return Rows(ids, keys, parts, ahead, expected)

    def _at(self, steps: Any, ids: list[Any], column: str | None = None) -> list[int]:
        """Steps as whole numbers: as they are, or dates in microseconds since 1970. Messages name
        the column of steps, or another one."""
        schema, zone = self.schema, self._zone
        name = schema.step_col if column is None else column
        given = steps if isinstance(steps, np.ndarray) else list(steps)
        if not ids and not len(given):
            return []
        if len(given) != len(ids):
            raise DataError(f"steps: expected {len(ids)} steps; received {len(given)}.")
        when, form = read_steps("observe", name, given, ids)
        if form.dated != (schema.spacing is not None) or (form.zone is None) != (zone is None):
            expected = "numbers"
            if schema.spacing is not None:
                expected = f"dates {'with' if zone else 'without'} a time zone"
            fail("observe", name, f"{expected}, as in fit", quoted(given[0]), ids[0], "")
        if schema.spacing is None:
            return when.astype(np.int64).tolist()
        self._check_dates(name, when, given, ids)
        place = schema.spacing.place(when, zone)  # the same place is the same step
        return schema.spacing.date(place, zone).astype("datetime64[us]").astype(np.int64).tolist()

    def _check_dates(self, name: str, when: np.ndarray, given: Any, ids: list[Any]) -> None:
        """Raise ``DataError`` for a date that no table can hold, or with a time of day where
        there is none."""
        wrong, expected = (when < _FIRST) | (when > _LAST), f"a date from {_FIRST} to {_LAST}"
        if not wrong.any() and self._whole:
            wrong, expected = when != when.astype("datetime64[D]"), "a date without a time of day"
        if wrong.any():
            at = int(np.argmax(wrong))
            fail("observe", name, expected, quoted(given[at]), ids[at], "")

    def _values(self, values: Any, ids: list[Any]) -> dict[str, np.ndarray]:
        """The targets by name, of values that their transforms can take."""
        targets = self.schema.targets
        if len(targets) == 1:
            columns = [values]
        elif isinstance(values, np.ndarray) and values.ndim == 2:
            columns = list(values.T)
        else:
            try:
                columns = [list(column) for column in zip(*values, strict=True)]
            except (TypeError, ValueError):
                columns = []
            columns = columns if len(values) else [[] for _ in targets]
        if len(columns) != len(targets):
            names = [target.name for target in targets]
            raise DataError(
                f"values: expected a value of each of {names}; received {len(columns)}."
            )
        found = {}
        for target, column in zip(targets, columns, strict=True):
            y = read_values("observe", target.name, column, ids)
            wrong = target.transform.outside(y)
            if wrong.any():
                at = int(np.argmax(wrong))
                expected = f"{target.transform.expected}, as in training"
                fail("observe", target.name, expected, f"{y[at]:g}", ids[at], "Correct it.")
            found[target.name] = y
        return found

    def _static(self, static: Mapping[str, Any], ids: list[Any]) -> dict[str, np.ndarray]:
        """The columns of static events."""
        schema = self.schema
        kinds = dict(schema.static.kinds)
        if schema.group_col is not None:
            kinds[schema.group_col] = "codes"
        given, start = dict(static), schema.start_col
        launch: list[Any] = []
        if start is not None:
            if start not in given:
                raise DataError(
                    f"static: expected {quoted(start)}, the launch date; None is a missing one.",
                    column=start,
                )
            launch = list(given.pop(start))
        columns = read_features("static", kinds, given, ids)
        features = {name: columns[name] for name in schema.static.kinds}
        _, _, missing, unseen = schema.static.encode(features, ids)
        warn_of_features("Static", missing + unseen)
        if start is not None:
            there = [i for i, date in enumerate(launch) if date is not None]
            at = self._at([launch[i] for i in there], [ids[i] for i in there], start)
            columns[start] = np.full(len(ids), None, object)
            columns[start][there] = list(map(str, at))
        return columns

    # -- out ---------------------------------------------------------------------------

    def table(
        self, part: Part, ids: Sequence[Any], each: Sequence[Mapping[int, bytes]]
    ) -> pl.DataFrame | None:
        """A long table of the events of several items; None without any."""
        import polars as pl

        cells = part.unpack([data for one in each for _, data in sorted(one.items())])
        at = [at for one in each for at in sorted(one)]
        if not at:
            return None
        schema = self.schema
        rows = [item for item, one in zip(ids, each, strict=True) for _ in one]
        own = {name: column(values) for name, values in cells.items()}
        return pl.DataFrame(
            {schema.id_col: rows, schema.step_col: self.steps(at), **own}, strict=False
        )

    def steps(self, at: Sequence[int | None]) -> Any:
        """Steps as a polars column: numbers, or dates in the time zone of ``fit``."""
        import polars as pl

        schema = self.schema
        column = pl.Series(schema.step_col, at, pl.Int64)
        if schema.spacing is None:
            return column
        column = column.cast(pl.Datetime("us"))
        if self._whole:
            return column.cast(pl.Date)
        if self._zone is None:
            return column
        return column.dt.replace_time_zone("UTC").dt.convert_time_zone(self._zone)

    def launches(self, texts: Iterable[str | None]) -> Any:
        """Launch dates as a polars column, of the texts of a journal."""
        return self.steps([None if text is None else int(text) for text in texts])


def column(values: Any) -> Any:
    """A column of an event as a polars column; NaN is a missing value."""
    import polars as pl

    if not isinstance(values, np.ndarray):
        return values
    if values.dtype == object:
        return pl.Series(values.tolist(), dtype=pl.String)
    return pl.Series(values, dtype=pl.Float64).fill_nan(None)
