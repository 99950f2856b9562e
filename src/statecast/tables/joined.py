"""``Joined``: the tables of a call as one table, as servers and clusters pass them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from statecast.errors import ArgumentError, DataError, listed, quoted
from statecast.tables.dates import Form
from statecast.tables.features import Columns
from statecast.tables.schema import Schema
from statecast.tables.source import is_missing


class Joined:
    """The series, the static table and the future table of a call as one table.

    It has a row for each item and step, as the series, and further columns:

    - Static features, launch dates (``start_col``) and groups (``group_col``): their values are
      repeated in the rows of an item, or are in one of its rows and null in the others.
    - Past covariates: as in the series.
    - Future covariates: there is a row for every step up to the last one that is forecast. At steps
      that are not observed yet, y is null.

    So it is the outer join of the three tables, or their union. An item with k = 0 has rows without
    y. It needs one row, whose step may be null. Further columns are ignored.

    Parameters
    ----------
    schema : Schema

    Attributes
    ----------
    columns : tuple of str
        The names of the columns.

    Raises
    ------
    ArgumentError
        Features of several tables have one name.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        roles = [name for name in (schema.start_col, schema.group_col) if name is not None]
        self.static = (*roles, *schema.static.kinds)
        self.series = (*schema.target_cols, *schema.past.kinds)
        self.future = tuple(schema.future.kinds)
        self.columns = (schema.id_col, schema.step_col, *self.series, *self.future, *self.static)
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise ArgumentError(
                "Expected columns of different names in the static table, the future table and the "
                "series, as here they are one table; several have "
                f"{listed(repeated)}. Rename them and fit again."
            )

    def tables(self, table: Any) -> tuple[Any, Any, Any]:
        """Split a table.

        Parameters
        ----------
        table : table of a library that narwhals knows

        Returns
        -------
        series, static, future : tables of the same library, or None
            As ``Forecaster.predict`` takes them.

        Raises
        ------
        DataError
            A table without one of the columns, or without rows; two values of a static feature in
            one item; cells that are lists.
        """
        frame = nw.from_native(table, eager_only=True, pass_through=True)
        if not isinstance(frame, nw.DataFrame):
            raise DataError(
                f"Expected a table with the columns {listed(self.columns, 20)}; received "
                f"{type(table).__name__}."
            )
        missing = [name for name in self.columns if name not in frame.columns]
        if missing:
            raise DataError(
                f"Expected a table with the columns {listed(self.columns, 20)}; received "
                f"{listed(frame.columns, 20)}. {listed(missing)} are missing.",
                column=missing[0],
            )
        if not len(frame):
            raise DataError("Expected a table with a row for each item and step; received no row.")
        schema = self.schema
        key, step = schema.id_col, schema.step_col
        for name in (key, *self.static):
            _check_cells(frame, name)
        zone = schema.output().form.zone
        if zone is not None or has_datetimes(schema):
            for name in {step, schema.start_col} - {None}:
                frame = _with_dates(frame, name, zone)
        static = frame.select(key).unique(key, keep="first", maintain_order=True)
        for name in self.static:
            values = self._static_values(frame, name)
            if len(values):
                static = static.join(values, on=key, how="left")
            else:  # Arrow joins no column without a type
                kind = frame[name].dtype
                kind = nw.String() if kind == nw.Unknown else kind
                static = static.with_columns(nw.lit(None, kind).alias(name))
        placed = frame.filter(~nw.col(step).is_null())
        if schema.spacing is None:
            placed = _with_whole_steps(placed, step)
        series = placed.select(key, step, *self.series)
        if schema.spacing is None:
            # A row without y places an item that has none only if steps are dates.
            seen = nw.any_horizontal(
                *(~nw.col(name).is_null() for name in schema.target_cols), ignore_nulls=True
            )
            known = series.filter(seen).select(key).unique(key)
            series = series.join(known, on=key, how="semi")
        future = placed.select(key, step, *self.future) if self.future else None
        return (
            series.to_native() if len(series) else None,
            static.to_native(),
            None if future is None else future.to_native(),
        )

    def _static_values(self, frame: Any, name: str) -> Any:
        """Return a row for each item that has a value of a static feature."""
        key = self.schema.id_col
        values = frame.select(key, name).filter(~nw.col(name).is_null()).unique(maintain_order=True)
        repeated = values.filter(values[key].is_duplicated())
        if len(repeated):
            item = repeated[key].to_list()[0]
            both = repeated.filter(nw.col(key) == item)[name].to_list()
            raise DataError(
                f"Column {quoted(name)}: expected one value for each item, as it is a static "
                f"feature; item {quoted(item)} has {listed(both, 3)}.",
                column=name,
                item=item,
            )
        return values

    def example(self) -> dict[str, list[Any]]:
        """Return the columns of a table of one item, with its first two steps at most.

        The values are those of an average training item. The id and the date of step 1 are made up.
        """
        schema = self.schema
        known = min(2, schema.steps - 1)
        rows = known + 1 if schema.future.kinds or not known else known
        values: dict[str, Any] = {schema.id_col: [1 if is_whole(schema) else "1"] * rows}
        values[schema.step_col] = _steps(schema, rows)
        for index, target in enumerate(schema.targets):
            if schema.vocabulary is not None:
                y = [schema.vocabulary.tokens[0]] * known
            else:
                count = len(schema.targets)
                y = schema.unscale(np.zeros(schema.positions))[index::count][:known].tolist()
            values[target.name] = y + [None] * (rows - known)
        for columns in (schema.past, schema.future, schema.static):
            values |= {name: [value] * rows for name, value in _average(columns).items()}
        if schema.start_col is not None:
            values[schema.start_col] = _steps(schema, 1) * rows
        if schema.group_col is not None:
            values[schema.group_col] = [None] * rows
        return values


def is_whole(schema: Schema) -> bool:
    """Return whether ids are whole numbers."""
    if schema.kind.library == "arrays":
        return True
    return id_type(schema).lower().startswith("int")


def id_type(schema: Schema) -> str:
    return str(getattr(schema.kind.ids, "name", schema.kind.ids))


def has_datetimes(schema: Schema) -> bool:
    """Return whether steps are of a type that MLflow has: datetimes without a time zone."""
    form = schema.output().form
    return form.type == "Datetime" and form.cells == "typed" and form.zone is None


def _average(columns: Columns) -> dict[str, Any]:
    """Return a value for each column: the mean of numbers, the first of the categories."""
    values: dict[str, Any] = {}
    for name, (centre, mean, _) in zip(columns.numeric, columns.scaling.tolist(), strict=True):
        values[name] = centre * np.expm1(mean) if centre > 0 else mean
    return values | {name: next(iter(known), None) for name, known in columns.categories.items()}


def _steps(schema: Schema, rows: int) -> list[Any]:
    """Return the first steps of an item; if they are dates, from January 2024 on."""
    steps = np.arange(1, rows + 1)
    if schema.spacing is None:
        return (steps + schema.first - 1).tolist()
    zone = schema.output().form.zone
    origin = np.datetime64("2024-01-01", "us")
    places = schema.spacing.dates(np.repeat(origin, rows), steps)
    while schema.calendar.closed(schema.spacing.clock_of(places, zone)).any():
        origin += np.timedelta64(1, "h")
        places = schema.spacing.dates(np.repeat(origin, rows), steps)
    form = Form() if has_datetimes(schema) else Form(unit="s", zone=zone, cells="text")
    form = replace(form, type="Datetime")
    dates = form.column("", schema.spacing.date(places, zone), "pandas")
    return nw.from_dict({"": dates}, backend="pandas")[""].to_list()


def _check_cells(frame: Any, name: str) -> None:
    """Raise for a list or an object of JSON in a column of ids or static features."""
    if frame[name].dtype == nw.Object:
        for cell in frame[name].to_list():
            if isinstance(cell, (list, dict)):
                raise DataError(
                    f"Column {quoted(name)}: expected numbers or text; received {quoted(cell)}.",
                    column=name,
                )


def _with_dates(frame: Any, name: str, zone: str | None) -> Any:
    """Return a table with a column of ISO texts as dates, of a time zone if there is one.

    With a zone a text has an offset, which changes within a year in most zones: without the zone,
    steps of a day cannot be counted. If a text cannot be read, or has an offset or none against
    expectation, the column is left as it is, for the message of the reader of tables.
    """
    column = frame[name]
    cells = [None if is_missing(cell) or cell == "NaT" else cell for cell in column.to_list()]
    if not any(cells) or not all(cell is None or isinstance(cell, str) for cell in cells):
        return frame
    try:
        dates = [cell and datetime.fromisoformat(cell) for cell in cells]
        if any(date and (date.tzinfo is None) == (zone is not None) for date in dates):
            return frame
        if zone is not None:
            dates = [date and date.astimezone(UTC).replace(tzinfo=None) for date in dates]
        made = nw.new_series(name, dates, nw.Datetime("us"), backend=frame.implementation)
        if zone is not None:
            made = made.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    except (ValueError, OverflowError, LookupError):  # no date, or a zone that is not known
        return frame
    return frame.with_columns(made)


def _with_whole_steps(frame: Any, step: str) -> Any:
    """Return a table whose steps are whole numbers, if they can be: pandas makes floats of whole
    numbers beside nulls, and JSON does not tell the two apart."""
    steps = frame[step]
    whole = steps.dtype.is_float() and bool(((steps % 1 == 0) & (steps.abs() < 2**53)).all())
    return frame.with_columns(nw.col(step).cast(nw.Int64())) if whole else frame
