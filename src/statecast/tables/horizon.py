"""``Horizon``: the last step of each item's forecast, from the arguments ``until`` and ``h``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from statecast.checks import check_whole
from statecast.errors import ArgumentError, DataError, quoted
from statecast.tables.columns import read_floats
from statecast.tables.ids import agree, read_ids
from statecast.tables.source import ROLES, Table, check_columns, open_table
from statecast.tables.steps import MAX_STEPS

MOST_STEPS = 10_000  # of a forecast: more is likely a typing error, and may not fit into memory


@dataclass(frozen=True)
class Horizon:
    """The last step of each item's forecast; steps count from 1.

    Attributes
    ----------
    step : int or None
        The last step of all items.
    ahead : int or None
        The number of steps after each prefix.
    each : mapping of ids to steps, ndarray of shape (items,), or None
    table : Table or None
        The table of ``each``. In a CSV file the id '7' of a text column is read as a number.
    """

    step: int | None = None
    ahead: int | None = None
    each: Mapping[Any, int] | np.ndarray | None = None
    table: Table | None = None

    @classmethod
    def read(cls, until: Any, h: Any, id_col: str, first: int) -> Horizon:
        """Read the arguments of a verb; ``until`` is in the numbers of the tables, in which step 1
        is ``first``.

        Raises
        ------
        ArgumentError
            Neither or both of them, or a value that is no step.
        DataError
            A table that cannot be used.
        """
        if (until is None) == (h is None):
            received = "neither" if until is None else "both"
            raise ArgumentError(f"Expected either until or h; received {received}.")
        expected = (
            f"a whole number from {first}, one an item (an array, or a mapping of ids to steps), "
            "or a table with the ids and a column 'until'"
        )

        def step(value: Any, least: int = 0) -> int:
            last = check_whole("until", value, first - 1 + least, expected=expected)
            if last - (first - 1) > MOST_STEPS:
                raise ArgumentError(
                    f"until: expected at most {first - 1 + MOST_STEPS:,}, received {last:,}."
                )
            return last - (first - 1)

        if h is not None:
            wanted = f"a whole number from 1 to {MOST_STEPS:,}"
            return cls(ahead=check_whole("h", h, 1, MOST_STEPS, expected=wanted))
        if isinstance(until, np.ndarray) and until.ndim == 0:
            until = until[()]
        if isinstance(until, (int, np.integer)):
            return cls(step=step(until, least=1))
        if isinstance(until, Mapping):
            return cls(each={item: step(last) for item, last in until.items()})
        if isinstance(until, (list, tuple, np.ndarray)):
            return cls(each=np.array([step(last) for last in list(until)], np.int64))
        frame = nw.from_native(until, pass_through=True)
        if not isinstance(until, (str, PathLike)) and frame is until:
            raise ArgumentError(f"until: expected {expected}; received {type(until).__name__}.")
        named = isinstance(until, (str, PathLike))
        if named and Path(until).suffix.lower() not in (".csv", ".parquet"):
            raise ArgumentError(
                f"until: expected {expected}, or a .csv or .parquet file of it; received "
                f"{quoted(str(until))}. Dates are not accepted: number the step, 1 for an item's "
                "first."
            )
        table = open_table(until, "until", "until")
        assert isinstance(table, Table)  # arrays were read above
        check_columns(table, (id_col, "until"), ROLES[:1])
        ids = read_ids(table, id_col)
        values, bad = read_floats(table.column("until"), table.text)
        bad = bad | ~(values >= first - 1) | (values > MAX_STEPS) | (values != np.floor(values))
        if bad.any():
            item = ids[int(np.argmax(bad))]
            raise DataError(
                f"{table.label}, column 'until': expected a whole number "
                f"{f'from {first} ' if first > 1 else ''}in every row; item "
                f"{item!r} has {table.column('until').to_list()[int(np.argmax(bad))]!r}.",
                column="until",
                item=item,
            )
        each = dict(zip(ids, (values.astype(np.int64) - (first - 1)).tolist(), strict=True))
        if len(each) < len(ids):
            raise DataError(
                f"{table.label}: expected one row for each item; received several of one."
            )
        return cls(each=each, table=table)

    def last(self, ids: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Return the last step of the forecast of each item, int64.

        Parameters
        ----------
        ids : ndarray, shape (items,)
        known : ndarray, shape (items,), int
            Their prefix lengths.

        Raises
        ------
        DataError
            An item without a last step.
        ArgumentError
            An array with another number of items.
        """
        if self.ahead is not None:
            return known + self.ahead
        if self.each is None:
            return np.full(len(ids), self.step, np.int64)
        if isinstance(self.each, np.ndarray):
            if len(self.each) != len(ids):
                raise ArgumentError(
                    f"until: expected a step for each of {len(ids)} items; received "
                    f"{len(self.each)}."
                )
            return self.each
        items, each = ids.tolist(), self.each
        if self.table is not None and items and each:
            named, _ = agree(list(each), self.table, items[:1], None, "until")
            each = dict(zip(named, each.values(), strict=True))
        for item in items:
            if item not in each:
                raise DataError(
                    f"until: expected a step for each item; there is none for item {item!r}.",
                    column="until",
                    item=item,
                )
        return np.array([each[item] for item in items], np.int64)
