"""Read future and past covariates into arrays by item and step."""

from __future__ import annotations

import numpy as np

from statecast.errors import DataError
from statecast.tables.dates import Calendar
from statecast.tables.features import Columns, warn_of_features
from statecast.tables.grid import PlacedRows, check_once, planned_steps
from statecast.tables.panel import Covariates
from statecast.tables.parse import Parsed
from statecast.tables.source import fail


def read_past(columns: Columns, placed: PlacedRows, steps: int) -> Covariates:
    """Return the past covariates of the series, encoded, up to a number of steps."""
    past = Covariates.absent(columns, len(placed.ids), steps)
    for long, step in placed:
        ids = [placed.ids[row] for row in long.row.tolist()]
        numeric, codes, _, unseen = columns.encode(long.columns, ids)
        given = ~np.all([_is_missing(values) for values in long.columns.values()], axis=0)
        at = np.flatnonzero(given & (step <= steps))
        past.put(long.row[at], step[at], numeric[at], codes[at])
        warn_of_features("Past", unseen)
    return past


def read_future(
    columns: Columns,
    parsed: Parsed,
    placed: PlacedRows,
    first: np.ndarray,
    need: np.ndarray,
    steps: int,
    calendar: Calendar,
) -> tuple[Covariates, np.ndarray | None]:
    """Return the future covariates, encoded, and the place of each item's step 1.

    Parameters
    ----------
    columns : Columns
        Their encoding.
    parsed, placed
        The tables of the call.
    first, need : ndarray, shape (items,), int
        Each item needs a row for every step after ``first`` up to ``need`` that is not closed.
    steps : int
        The result has at least so many steps.
    calendar : Calendar
        At closed steps without a row the covariates are missing values.

    Raises
    ------
    DataError
        A row that is missing or repeated.
    """
    rows, table = len(placed.ids), parsed.future
    future = Covariates.absent(columns, rows, max(steps, int(need.max(initial=0))))
    if table is None:
        if (need > first).any():
            raise without_future(columns)
        return future, placed.origin
    step_col = placed.names.step_col
    planned, origin = planned_steps(parsed, placed.spacing, step_col, placed.origin, placed.first)
    at = (table.row >= 0) & (planned >= 1) & (planned <= future.there.shape[1])
    at = np.flatnonzero(at)
    row, planned = table.row[at], planned[at]
    check_once(table, at, row, planned, placed.ids, step_col, placed.first)
    every = np.arange(future.there.shape[1])
    future.there[row, planned - 1] = True
    lacking = ~future.there & (every >= first[:, None]) & (every < need[:, None])
    closed = np.zeros_like(lacking)
    spacing = placed.spacing
    if spacing is not None and origin is not None and calendar:
        of, late = np.nonzero(lacking)
        clock = spacing.clock_of(spacing.dates(origin[of], late + 1), table.form.zone)
        closed[of, late] = calendar.closed(clock)
        lacking &= ~closed
    if lacking.any():
        which, late = (int(i) for i in np.argwhere(lacking)[0])
        when = f"step {placed.first + late}"
        if spacing is not None and origin is not None and not np.isnat(origin[which]):
            place = spacing.dates(origin[which : which + 1], np.array([late + 1]))
            when += f" ({table.form.say(spacing.date(place, table.form.zone)[0])})"
        fail(
            table.label,
            step_col,
            f"a row for every step from {placed.first + first[which]} to "
            f"{placed.first + need[which] - 1}"
            + (f", without closed ones ({calendar})" if calendar else ""),
            f"none for {when}",
            placed.ids[which],
            "Add it; leave a cell empty where its value is not known.",
        )
    cells = {name: values[at] for name, values in table.columns.items()}
    ids = [placed.ids[i] for i in row.tolist()]
    numeric, codes, missing, unseen = columns.encode(cells, ids)
    future.put(row, planned, numeric, codes)
    warn_of_features("Future", missing + unseen)
    return future.filled(closed), origin


def without_future(columns: Columns) -> DataError:
    """Return the error for a future table that is missing."""
    return DataError(
        f"Expected a future table with {list(columns.kinds)}, as in fit; received None, or one "
        "without rows."
    )


def _is_missing(values: np.ndarray) -> np.ndarray:
    if values.dtype == object:
        return np.array([value is None for value in values], bool)
    return np.isnan(values)
