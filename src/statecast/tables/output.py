"""``Output``: forecasts as tables of the kind that came in."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from statecast.errors import ArgumentError, MissingExtraError
from statecast.tables.columns import read_cells
from statecast.tables.dates import Calendar, Form, Spacing
from statecast.tables.ids import Kind, id_array
from statecast.tables.source import KINDS


@dataclass(frozen=True)
class Output:
    """Builds result tables of one kind; made by ``Schema.output``.

    Attributes
    ----------
    id_col, step_col : str
    targets : tuple of str
        The names of the targets.
    kind : Kind
        Of the tables.
    form : Form
        How steps are written.
    spacing : Spacing or None
        The grid of the dates; None if steps are numbers.
    calendar : Calendar
        Steps at which it is closed are left out.
    first : int
        The number of step 1, if steps are numbers.
    """

    id_col: str
    step_col: str
    targets: tuple[str, ...]
    kind: Kind
    form: Form
    spacing: Spacing | None
    calendar: Calendar
    first: int

    def __post_init__(self) -> None:
        if self.kind.library not in KINDS:
            raise ArgumentError(f"kind: expected one of {KINDS}; received {self.kind.library!r}.")

    def open(self, origin: np.ndarray | None, until: int) -> np.ndarray:
        """Return at which steps the calendar is open.

        Parameters
        ----------
        origin : ndarray, shape (rows,), datetime64, or None
            The places of step 1. An item at NaT is open at all steps.
        until : int
            The last step.

        Returns
        -------
        ndarray, shape (rows, until), or (1, until) if all steps are open, bool
        """
        if self.spacing is None or origin is None or not self.calendar:
            return np.ones((1, until), bool)
        step = np.broadcast_to(np.arange(1, until + 1), (len(origin), until))
        first = np.repeat(np.asarray(origin).astype("datetime64[us]"), until)
        place = self.spacing.dates(first, step.ravel())
        clock = self.spacing.clock_of(place, self.form.zone)
        return ~self.calendar.closed(clock).reshape(step.shape)

    def table(
        self,
        columns: Mapping[str, np.ndarray],
        *,
        ids: Sequence[Any] | np.ndarray,
        known: np.ndarray,
        origin: np.ndarray | None = None,
        last: np.ndarray | None = None,
    ) -> Any:
        """Build a long table of the steps after each row's prefix.

        Parameters
        ----------
        columns : mapping of str to ndarray, shape (rows, positions)
            In original units, or tokens (objects), from step 1 on. With several targets a step has
            a position for each; see ``Panel.targets``.
        ids : sequence, shape (rows,)
            The items. They may repeat, for example with one row for each sample path.
        known : ndarray, shape (rows,), int
            The prefix lengths, in positions: steps up to them are left out.
        origin : ndarray, shape (rows,), datetime64, optional
            The places of step 1, if steps are dates; for NaT the dates are missing.
        last : ndarray, shape (rows,), int, optional
            Each row's last position. Default: the last column.

        Returns
        -------
        table, or dict of str to ndarray
            ``id_col``, ``step_col``, then the columns, ordered by row and step. Of several targets
            there are the columns of the first, then those of the next, and the name of the target
            follows the first word: ``statecast-lat-lo-80``. If steps are dates, a column ``step``
            follows them, since an item with k = 0 may have no dates. For arrays: each column, shape
            (rows, steps), or (rows, steps, m) for m targets, float64, NaN on the prefix; or
            objects, None on the prefix.

        Raises
        ------
        ArgumentError
            Columns of other shapes, or with the name of another column of the table.
        MissingExtraError
            The library of the table is not installed.
        """
        items = id_array(ids.tolist() if isinstance(ids, np.ndarray) else list(ids))
        count, known = len(self.targets), np.asarray(known)
        given = {name: np.asarray(values) for name, values in columns.items()}
        shape = next((values.shape for values in given.values()), (len(items), 0))
        for name, values in given.items():
            if values.ndim != 2 or values.shape != shape or len(values) != len(items):
                raise ArgumentError(
                    f"Column {name!r}: expected shape ({len(items)}, until), the same for all "
                    f"columns; received {values.shape}."
                )
        if known.shape != (len(items),):
            raise ArgumentError(f"known: expected shape ({len(items)},); received {known.shape}.")
        until = shape[1] // count
        step = np.arange(1, until + 1)
        wanted = (step > known[:, None] // count) & self.open(origin, until)
        if last is not None:
            wanted &= step <= np.asarray(last)[:, None] // count
        if self.kind.library == "arrays":
            return {name: self._array(values, wanted) for name, values in given.items()}
        self._check_library()
        return self._long(self._by_target(given), wanted, items, origin)

    def rows(self, columns: Mapping[str, np.ndarray]) -> Any:
        """Build a table of columns of shape (rows,), the ids among them; for arrays, a dict."""
        kind = self.kind
        if kind.library == "arrays":
            return dict(columns)
        self._check_library()
        data = {
            name: (kind if name == self.id_col else Kind(kind.library)).ids_cells(name, values)
            if name == self.id_col or values.dtype == object
            else values
            for name, values in columns.items()
        }
        return nw.from_dict(data, backend=self._backend).to_native()

    def summary(self, columns: Mapping[str, np.ndarray], *, ids: np.ndarray) -> Any:
        """Build a table with a row for each item: the id, then the columns of shape (rows,).

        For arrays it is a dict of the columns.

        Raises
        ------
        ArgumentError
            A column with the name of the ids.
        """
        if self.kind.library == "arrays":
            return dict(columns)
        if self.id_col in columns:
            raise ArgumentError(
                f"Column {self.id_col!r} is also a column of the table; rename that of the ids."
            )
        return self.rows({self.id_col: ids, **columns})

    def grouped(self, groups: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> Any:
        """Build a table with a row for each group: what it is, then the columns of shape (groups,).

        Parameters
        ----------
        groups : mapping of str to narwhals Series or ndarray
            As in ``Groups.columns``. A column of the library of the result keeps its type.
        columns : mapping of str to ndarray
            float64.

        Raises
        ------
        ArgumentError
            A column of the groups with the name of another column of the table.
        MissingExtraError
            The library of the table is not installed.
        """
        clash = [name for name in groups if name in columns]
        if clash:
            raise ArgumentError(
                f"by: column {clash[0]!r} is also a column of the forecast; rename it."
            )
        library = self.kind.library
        if library != "arrays":
            self._check_library()
        found: dict[str, Any] = {}
        for name, cells in groups.items():
            if not isinstance(cells, np.ndarray):
                if cells.implementation.value == library:
                    native = cells.to_native()
                    if hasattr(native, "reset_index"):
                        native = native.reset_index(drop=True)
                    found[name] = native
                    continue
                cells = id_array(read_cells(cells))
            found[name] = cells if library == "arrays" else Kind(library).ids_cells(name, cells)
        if library == "arrays":
            return found | dict(columns)
        return nw.from_dict(found | dict(columns), backend=self._backend).to_native()

    # -- private -----------------------------------------------------------------------

    def _check_library(self) -> None:
        """Raise ``MissingExtraError`` if the library of the table is not installed. A model may
        have been fitted elsewhere, on tables of another library than the installed ones."""
        name = self.kind.library
        if sys.modules.get(name) is None and find_spec(name) is None:
            raise MissingExtraError(
                f"The forecaster was fitted on tables of {name}, so a result that starts from a "
                f"state is a table of {name}, which is not installed: pip install {name}. Results "
                "that start from tables have the kind of these tables."
            )

    @property
    def _backend(self) -> Any:
        """The library, as narwhals takes it."""
        return self.kind.library

    def _array(self, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Return a column with NaN, or None among objects, at steps that are not wanted."""
        if len(self.targets) > 1:
            values = values.reshape(*wanted.shape, len(self.targets))
            wanted = wanted[..., None]
        if values.dtype == object:
            return np.where(wanted, values, np.array(None))
        return np.where(wanted, values.astype(np.float64), np.nan)

    def _by_target(self, columns: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return the columns of each target, shape (rows, steps), by the names of ``table``."""
        count = len(self.targets)
        if count == 1:
            return columns
        found: dict[str, np.ndarray] = {}
        for index, target in enumerate(self.targets):
            for name, values in columns.items():
                title = column_of(name, target)
                if title in found:
                    raise ArgumentError(
                        f"Column {title!r} would be there twice; rename one of "
                        f"{list(self.targets)}."
                    )
                found[title] = values[:, index::count]
        return found

    def _long(
        self,
        columns: Mapping[str, np.ndarray],
        wanted: np.ndarray,
        items: np.ndarray,
        origin: np.ndarray | None,
    ) -> Any:
        """Return the cells that are wanted as a table; the columns have the shape (rows, steps)."""
        row, at = np.nonzero(wanted)
        none = not len(row) and wanted.size > 0
        if none:  # one row, removed at the end: columns without rows would have no type
            row = at = np.zeros(1, np.int64)
        step = (at + 1).astype(np.int64)
        data: dict[str, Any] = {self.id_col: self.kind.ids_cells(self.id_col, items, row)}
        if self.spacing is None:
            when = step + (self.first - 1)
            data[self.step_col] = self.form.column(self.step_col, when, self.kind.library)
        else:
            if origin is None:
                origin = np.full(len(items), "NaT", "datetime64[us]")
            place = self.spacing.dates(np.asarray(origin).astype("datetime64[us]")[row], step)
            when = self.spacing.date(place, self.form.zone)
            data[self.step_col] = self.form.column(self.step_col, when, self.kind.library)
            taken = (self.id_col, self.step_col)
            data["step" if "step" not in taken else "step_number"] = step
        clash = [name for name in columns if name in data]
        if clash:
            raise ArgumentError(f"Column {clash[0]!r} is also a column of the table; rename one.")
        for name, values in columns.items():
            cells = values[row, at]
            data[name] = cells.tolist() if cells.dtype == object else cells
        found = nw.from_dict(data, backend=self._backend)
        return (found.head(0) if none else found).to_native()


def column_of(name: str, target: str) -> str:
    """Return the name of a forecast's column for one of several targets."""
    first, dash, rest = name.partition("-")
    return f"{first}-{target}{dash}{rest}"
