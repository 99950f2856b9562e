"""``Schema``: everything learnt about the tables from training data.

It holds the column names, the grid of the steps, the scaling of y and the encoding of the features.
It is frozen after ``fit``, so that its results for an item do not depend on the other items of a
call. ``Schema.panel`` turns tables into a ``Panel``, and ``Schema.table`` turns forecasts into
tables of the kind that came in.

Tables are long, as in Nixtla's libraries: ``unique_id, ds, y``, and a static table with one row
for each item. They may be pandas, polars or Arrow tables (whatever narwhals reads), paths of
CSV or Parquet files, or arrays: ``Y (n, T)``, NaN where nothing was observed, and ``X (n, f)``.
Libraries of tables are imported only when they are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from statecast.checks import check_whole, is_whole
from statecast.errors import ArgumentError, DataError, listed, quoted, warn
from statecast.state import outline
from statecast.tables.columns import LARGEST
from statecast.tables.dates import Calendar, Form, Spacing, closed, must
from statecast.tables.features import Columns
from statecast.tables.grid import (
    PlacedRows,
    Survey,
    calendar_of,
    check_filled,
    check_no_years,
    check_once,
    check_points,
    first_number,
    place_rows,
    planned_steps,
    spacing_of,
)
from statecast.tables.id_types import IdType
from statecast.tables.ids import Kind, id_array
from statecast.tables.panel import Covariates, Panel
from statecast.tables.parse import Parsed, parse
from statecast.tables.scaling import (
    TRANSFORMS,
    Identity,
    Transform,
    bridged,
    location_and_scaling,
    long_upper_tail,
)
from statecast.tables.source import KINDS, Table, fail
from statecast.tables.steps import MAX_STEPS, check_cells
from statecast.tables.vocabulary import Vocabulary

__all__ = ["Panel", "Schema"]


_TABLES = ("static", "future", "past")  # the features by where they come from
_KEYS = (
    *("id_col", "step_col", "target_col", "start_col", "kind", "ids", "form", "transform"),
    *("centre", "bounds", "first", "steps", *_TABLES, "spacing", "calendar", "vocabulary"),
)  # of a model file
_Y_LIMIT = 1e6  # scaled y is clipped here; the gates saturate far below
Until = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (ids, prefix lengths) -> last steps
_LEFT_OUT = "Correct it, or leave it out as a missing value."
_FEWEST_CODES, _MOST_CODES = 3, 30  # distinct whole numbers that may be codes; two are yes and no


@dataclass(frozen=True, eq=False)
class Schema:
    """Everything learnt about the tables from training data; made by ``Schema.fit``.

    Attributes
    ----------
    id_col, step_col, target_col : str
        The columns of the series table (and the first of the static table).
    start_col : str or None
        The column of the static table that holds launch dates.
    kind : Kind
        The kind of the training tables, and by default of the results of ``table``.
    transform : Transform
        Maps y to the real line before it is scaled; see ``fit``.
    location, scaling : ndarray, shape (steps,), float64
        The mean and the standard deviation of transformed y at each step. For counts they are
        those of all steps together.
    observed : ndarray, shape (steps,), bool
        Whether any training item was observed at each step. Nothing can be learnt about the other
        steps, such as weekends in data of working days; see ``unscale_rest``.
    static, future, past : Columns
        The static features, the future covariates and the past covariates.
    spacing : Spacing or None
        The grid of the dates; None when steps are numbers.
    calendar : Calendar
        The weekdays, hours and months at which no training item was ever observed: no forecast
        has such steps.
    vocabulary : Vocabulary or None
        The tokens seen in training, if y holds tokens. They are not scaled.
    first : int
        The number of step 1 in the tables; step 2 has the number ``first + 1``. It is 1 for dates
        and arrays. If steps are numbers, it is the smallest number in the training series if at
        least 100 whole numbers from 1 lie below it; or if at least 10 do, and at least as many as
        there are from it to the largest number in the series. Else it is 1.

    Examples
    --------
    >>> import numpy as np
    >>> Y = np.array([[1.0, 2.0, 4.0], [2.0, 4.0, np.nan]])
    >>> schema = Schema.fit(Y)
    >>> schema.steps
    3
    >>> schema.panel(np.array([[3.0, np.nan, np.nan]])).known.tolist()
    [1]
    >>> bool(np.allclose(schema.unscale(schema.scale(Y)), Y, equal_nan=True))
    True
    """

    id_col: str
    step_col: str
    target_col: str
    kind: Kind
    transform: Transform
    location: np.ndarray
    scaling: np.ndarray
    observed: np.ndarray
    static: Columns
    future: Columns
    past: Columns
    spacing: Spacing | None
    calendar: Calendar = Calendar()  # noqa: RUF009 (it is frozen)
    vocabulary: Vocabulary | None = None
    start_col: str | None = None
    first: int = 1

    __repr__ = outline

    # -- learning ----------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        series: Any,
        static: Any = None,
        *,
        future: Any = None,
        past_cols: Sequence[str] = (),
        categorical: Sequence[str] = (),
        id_col: str = "unique_id",
        step_col: str = "ds",
        target_col: str = "y",
        transform: str = "auto",
        bounds: tuple[float, float] | None = None,
        tokens: bool = False,
        start_col: str | None = None,
        first: int | None = None,
    ) -> Schema:
        """Learn the schema from the items that have rows in the series table.

        Parameters
        ----------
        series : table, path or array of shape (n, T)
            Long table with the three columns and ``past_cols``; others are ignored. A null or
            NaN y is missing. The order of the rows does not matter.
        static : table, path or array of shape (n, f), optional
            One row for each item. Numbers and booleans are numeric. Text, categorical and enum
            columns are categorical; an empty text is missing. In a CSV file a column whose cells
            are all numbers is numeric, and "NA", "N/A", "#N/A", "null", "None", "nan", "-" and
            "." in it are missing. In a column of text they are text.
        future : table, path or array of shape (n, T, f), optional
            Long table of future covariates, which are known before their step: the id, the step,
            and numeric or categorical columns, as in the static table. It needs a row for every
            step up to an item's last observation; other rows are ignored.
        past_cols : sequence of str
            Columns of the series that are observed together with y.
        categorical : sequence of str
            Columns of the static table, the future table or ``past_cols`` whose whole numbers are
            codes of categories. Columns of arrays have the names x1, x2, ... and f1, f2, ...
        id_col, step_col, target_col : str
            The names of the columns. Steps are whole numbers from 1 or from ``first``, or dates.
            With dates, step 1 is an item's first row, even if its y is null, and the spacing is
            the most common difference. An item whose y are all null has k = 0.
        transform : {"auto", "none", "log", "positive", "logit", "counts"}
            ``"log"`` is ``log1p(y / c)``, where c is the median of the positive y. ``"counts"`` is
            the same for whole numbers; its forecasts are whole numbers. ``"positive"`` is
            ``log(y / c)``. ``"logit"`` is ``log((v + c) / (1 - v + c))``, where v is y rescaled
            from the bounds to 0 and 1; c keeps values at the bounds about as far out as those
            next to them. ``"auto"`` is ``"logit"`` if bounds are given. Else it is ``"log"`` if no
            y is negative and the ninth decile lies more than 1.5 times as far above the median as
            the first decile lies below it. Else it is ``"none"``; if no y is negative, no forecast
            is negative.
        bounds : (float, float), optional
            The smallest and the largest value that y can have, for ``"logit"``. Default: (0, 1),
            if all y are in it.
        tokens : bool
            Whether y holds tokens: text, whole numbers or booleans, all of one type. An empty text
            and null are missing. Tokens are not transformed.
        start_col : str, optional
            If steps are dates, the column of the static table with the date of each item's step 1.
            It is not a feature. If a date is missing, step 1 is the item's first row. A row of the
            series before the date is an error.
        first : int, optional
            The number of step 1 in the tables. Default: learnt; see ``Schema.first``.

        Raises
        ------
        DataError
            A table that cannot be used; the message names the column and the first item.
        ArgumentError
            A transform, bounds or column names that are not possible.
        """
        names = (id_col, step_col, target_col)
        _check_settings(names, past_cols, transform, bounds, start_col)
        if series is None:
            raise DataError("The series table is needed to fit; received None.")
        if start_col is not None and static is None:
            raise _without_start(start_col)
        if first is None and isinstance(series, Table):
            first = series.first
        parsed = parse(
            series,
            static,
            names,
            None,
            tokens=Vocabulary() if tokens else None,
            future=future,
            past=past_cols,
            categorical=categorical,
            start_col=start_col,
        )
        _check_declared(parsed, past_cols, categorical)
        read = parsed.series
        assert read is not None  # the series is given
        if start_col is not None and not read.form.dated:
            raise _start_without_dates(read.label, step_col, start_col)

        spacing = spacing_of(read, parsed.ids, step_col) if read.form.dated else None
        if first is None:
            numbered = spacing is None and parsed.kind.library != "arrays"
            first = first_number(read) if numbered else 1
        placed, origin = place_rows(parsed, spacing, names, start_col, read.form.zone, first)
        seen = Survey.of(placed)
        _check_training_rows(placed, seen, arrays=parsed.kind.library == "arrays")

        fitted = _fit_transform("none" if tokens else transform, bounds, placed, seen)
        _check_values(placed, fitted, fitted.remedy)
        steps = int(seen.known.max())
        if tokens:
            location, scaling = np.zeros(steps), np.ones(steps)
        else:
            location, scaling = _fit_scaling(placed, fitted, steps)

        planned, _ = planned_steps(parsed, spacing, names, origin, first)
        features = _training_features(parsed, seen, planned, past_cols)
        _warn_of_codes({name: v for columns in features.values() for name, v in columns.items()})
        return cls(
            id_col=id_col,
            step_col=step_col,
            target_col=target_col,
            kind=parsed.kind,
            transform=fitted,
            location=location,
            scaling=scaling,
            observed=seen.at[:steps].copy(),
            static=Columns.fit(features["static"], "Static"),
            future=Columns.fit(features["future"], "Future"),
            past=Columns.fit(features["past"], "Past"),
            spacing=spacing,
            calendar=Calendar() if tokens else calendar_of(placed, seen),
            vocabulary=parsed.vocabulary,
            start_col=start_col,
            first=first,
        )

    # -- sizes -------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """The length of the longest training item, T."""
        return len(self.location)

    def number(self, step: int) -> int:
        """Return the number of a step in the tables; ``step`` is counted from 1."""
        return step + self.first - 1

    @property
    def positions(self) -> int:
        """The same as ``steps``: a single target has one position at each (see ``Targets``)."""
        return self.steps

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets: one."""
        return (self.target_col,)

    def of(self, target: str) -> Schema:
        """Return the schema of one target: this schema.

        Raises
        ------
        ArgumentError
            An unknown target.
        """
        if target != self.target_col:
            raise ArgumentError(f"target: expected {self.target_col!r}; received {target!r}.")
        return self

    # -- tables in ---------------------------------------------------------------------

    def panel(
        self,
        series: Any = None,
        static: Any = None,
        *,
        future: Any = None,
        until: int | Until = 0,
        for_fit: bool = False,
    ) -> Panel:
        """Turn tables into a panel.

        Parameters
        ----------
        series : table, path or array of shape (n, k), optional
            The prefixes; k may exceed ``steps``. Without it every item has k = 0.
        static : table, path or array of shape (n, f), optional
            Needed if the schema has static features or ``start_col``. An item without a row in
            the series table has k = 0. Without a static table the items are those of the series;
            without both they are those of ``future``.
        future : table, path or array of shape (n, T, f), optional
            Needed if the schema has future covariates: a row for every step up to ``until``, or
            up to the last observation if that is later. With dates, an item without rows in the
            series has step 1 at its first row here.
        until : int or callable
            The last step for which future covariates are needed. A callable takes the ids and
            the prefix lengths and returns the last step of each item (``Horizon.last``).
        for_fit : bool
            Leave out items without observations: training can learn nothing from them.

        Returns
        -------
        Panel
            Each row depends on its own item only.

        Raises
        ------
        DataError
            A table that cannot be used, or whose columns are not those of ``fit``.

        Warns
        -----
        DataWarning
            Once for each table of a call: missing static features and future covariates, and
            categories of any feature that were never seen in training.
        """
        if series is None and static is None and future is None:
            raise DataError("Expected a series table, a static table, or both; received neither.")
        if static is None and self.static.kinds:
            raise DataError(
                f"Expected a static table with {list(self.static.kinds)}, as in fit; received None."
            )
        if static is None and self.start_col is not None:
            raise _without_start(self.start_col)
        parsed = self._parse(series, static, future)
        placed, origin = self._placed(parsed)
        seen = Survey.of(placed)
        if parsed.kind.library != "arrays":
            check_points(placed, seen, all_missing=self.spacing is None)
        _check_values(placed, self.transform, _LEFT_OUT)
        y, mask = self._grid(placed, seen)
        ids = id_array(parsed.ids)
        numeric, codes, missing, unseen = self.static.encode(parsed.static, parsed.ids)
        _warn("Static", missing + unseen)
        panel = Panel(ids, y, mask, numeric, codes, origin, parsed.kind)
        panel = self._with_covariates(panel, parsed, placed, np.zeros(len(ids), np.int64), until)
        return panel.take(seen.observed > 0) if for_fit and not seen.observed.all() else panel

    def new_rows(
        self,
        series: Any,
        ids: Sequence[Any] | np.ndarray | None,
        *,
        future: Any = None,
        known: np.ndarray | None = None,
        origin: np.ndarray | None = None,
        until: int | Until = 0,
    ) -> Panel:
        """Read new observations of known items; the rows of the result are those items.

        Parameters
        ----------
        series : table, path or array of shape (rows, T), or None
            The new observations only; items without any may be absent (or rows of NaN).
        ids : sequence, shape (rows,), or None
            The known items, in order; None: the items of the table.
        future : table, path or array of shape (rows, T, f), optional
            As in ``panel``; needed for the steps after ``known``.
        known : ndarray, shape (rows,), int, optional
            The step up to which each item is known; its new rows must come after. Default: 0.
        origin : ndarray, shape (rows,), datetime64, optional
            The places of their step 1, if steps are dates: ``Panel.origin`` of the earlier call.
            An item with NaT (or every item, without this argument) has step 1 at its first new
            row, or without new rows at its first row in ``future``.
        until : int
            As in ``panel``.

        Returns
        -------
        Panel
            Row i is ``ids[i]``. ``mask`` is True at new steps, ``known`` is the last new step (0
            without any), and ``origin`` is filled in. Static features are not read: ``numeric``
            and ``codes`` have no columns.

        Raises
        ------
        DataError
            A table that cannot be used, an unknown item, a step that is already known.
        """
        if series is None and not until:
            raise DataError("Expected a table of new rows; received None.")
        if series is None and future is None:
            raise self._without_future()
        items = None
        if ids is not None:
            items = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        for name, values in (("known", known), ("origin", origin)):
            if items is not None and values is not None and np.shape(values) != (len(items),):
                raise ArgumentError(
                    f"{name}: expected shape ({len(items)},); received {np.shape(values)}."
                )
        parsed = self._parse(series, None, future, items)
        items = parsed.ids
        placed, origin = self._placed(parsed, origin)
        seen = Survey.of(placed)
        if parsed.kind.library != "arrays":
            check_points(placed, seen, all_missing=False)
        _check_values(placed, self.transform, _LEFT_OUT)
        known = np.zeros(len(items), np.int64) if known is None else np.asarray(known)
        for long, step in placed:
            stale = step <= known[long.row]
            if stale.any():
                at = int(np.argmax(stale))
                fail(
                    long.label,
                    self.step_col,
                    f"steps after {self.number(int(known[long.row[at]]))}, up to which the item is "
                    "known",
                    f"step {self.number(int(step[at]))}",
                    items[long.row[at]],
                    "Hand in the new rows only."
                    if parsed.kind.library != "arrays"
                    else "An array begins at step 1: its steps that are known must be NaN.",
                )
        y, mask = self._grid(placed, seen)
        nothing = np.zeros((len(items), 0), np.float32)
        panel = Panel(
            id_array(items), y, mask, nothing, nothing.astype(np.int32), origin, parsed.kind
        )
        return self._with_covariates(panel, parsed, placed, known, until)

    # -- scaling -----------------------------------------------------------------------

    def scale(self, y: Any, first_step: int = 1) -> np.ndarray:
        """Return y on the network's scale; float64, NaN stays NaN.

        Parameters
        ----------
        y : array, shape (..., T)
            Values in original units at steps ``first_step``, ``first_step + 1``, ... Steps
            after ``steps`` are scaled like the last one.
        first_step : int
            The step of the first column, from 1.

        Raises
        ------
        DataError
            A value outside the domain of the transform, such as a negative one for ``"log"``.
        """
        y = np.asarray(y, np.float64)
        location, scaling = self._at(y, first_step)
        wrong = self.transform.outside(y)
        if wrong.any():
            raise DataError(
                f"Column {self.target_col!r}: expected {self.transform.expected}, "
                f"as in training; received {y[wrong][0]:g}.",
                column=self.target_col,
            )
        y = self.transform.to_line(y)
        return (y - location) / scaling

    def line(self, y: np.ndarray) -> np.ndarray:
        """Return transformed values, before they are scaled; float64."""
        return self.transform.to_line(y)

    def unscale(self, z: Any, first_step: int = 1) -> np.ndarray:
        """Return z in original units: the inverse of ``scale``, increasing at every step.

        Parameters
        ----------
        z : array, shape (..., T)
            Values on the network's scale at steps ``first_step``, ``first_step + 1``, ...
        first_step : int
            The step of the first column, from 1.

        Returns
        -------
        ndarray, shape (..., T), float64
            Within ``bounds``; whole numbers for the transform ``"counts"``.
        """
        z = np.asarray(z, np.float64)
        location, scaling = self._at(z, first_step)
        return self.transform.from_line(z * scaling + location)

    @property
    def bridges(self) -> bool:
        """Whether no training item was observed at some steps; see ``unscale_rest``."""
        return not self.observed.all()

    def unscale_rest(
        self, z: Any, known: np.ndarray, latest: np.ndarray | None = None
    ) -> np.ndarray:
        """Return a forecast in original units, with unobserved steps interpolated.

        It is ``unscale``, except for the steps after the prefix at which no training item was
        observed. Their values are interpolated between the nearest observed steps before and
        after; the item's last observation counts as one. Steps after ``steps`` are taken like the
        last one.

        Parameters
        ----------
        z : array, shape (rows, ..., T)
            Values on the network's scale at steps 1, 2, ... T comes from ``reach``, so that an
            observed step follows the last unobserved one.
        known : ndarray, shape (rows,), int
            Each row's prefix length.
        latest : ndarray, shape (rows, 1, 2), optional
            ``Panel.latest``: each row's last observation; needed if ``bridges``.

        Returns
        -------
        ndarray, shape (rows, ..., T), float64
        """
        z = np.asarray(z, np.float64)
        location, scaling = self._at(z, 1)
        observed = self.observed[np.minimum(np.arange(z.shape[-1]), self.steps - 1)]
        found = None
        if latest is not None:
            value, step = latest[:, 0, 0].astype(np.float64), latest[:, 0, 1].astype(np.int64)
            at = np.clip(step - 1, 0, self.steps - 1)
            found = (value * self.scaling[at] + self.location[at], step)
        return self.transform.from_line(bridged(z * scaling + location, observed, known, found))

    def reach(self, until: int) -> int:
        """Return the last step that a forecast up to ``until`` needs: the first step from ``until``
        on at which a training item was observed, or ``until`` if there is none."""
        return until + int(np.argmax(np.append(self.observed[until - 1 :], False)))

    def open(self, origin: np.ndarray | None, until: int, kind: Kind | None = None) -> np.ndarray:
        """Return at which steps the calendar is open.

        Parameters
        ----------
        origin : ndarray, shape (rows,), datetime64, or None
            The places of step 1. An item at NaT is open at all steps.
        until : int
            The last step.
        kind : Kind, optional
            The kind of the tables, which have the time zone. Default: as in ``fit``.

        Returns
        -------
        ndarray, shape (rows, until), or (1, until) if all steps are open, bool
        """
        if self.spacing is None or origin is None or not self.calendar:
            return np.ones((1, until), bool)
        step = np.broadcast_to(np.arange(1, until + 1), (len(origin), until))
        first = np.repeat(np.asarray(origin).astype("datetime64[us]"), until)
        place = self.spacing.dates(first, step.ravel())
        clock = self.spacing.clock_of(place, self._form(kind).zone)
        return ~self.calendar.closed(clock).reshape(step.shape)

    # -- tables out --------------------------------------------------------------------

    def table(
        self,
        columns: Mapping[str, np.ndarray],
        *,
        ids: Sequence[Any] | np.ndarray,
        known: np.ndarray,
        origin: np.ndarray | None = None,
        kind: Kind | None = None,
        last: np.ndarray | None = None,
    ) -> Any:
        """Build a long table of the steps after each row's prefix.

        Parameters
        ----------
        columns : mapping of str to ndarray, shape (rows, until)
            In original units, or tokens (objects). Column j is step j + 1, whose number in the
            table is ``first + j``.
        ids : sequence, shape (rows,)
            The items. They may repeat, for example with one row for each sample path.
        known : ndarray, shape (rows,), int
            The prefix lengths: steps up to them are left out.
        origin : ndarray, shape (rows,), datetime64, optional
            The places of step 1, if steps are dates; for NaT the dates are missing.
        kind : Kind, optional
            As ``Panel.kind``. Default: that of the tables of ``fit``.
        last : ndarray, shape (rows,), int, optional
            Each row's last step. Default: the last column. Steps at which ``calendar`` is closed
            are left out.

        Returns
        -------
        table, or dict of str to ndarray
            ``id_col``, ``step_col``, then the columns, ordered by row and step. If steps are
            dates, a column ``step`` follows them, since an item with k = 0 may have no dates. For
            arrays: each column, shape (rows, until), float64, NaN on the prefix; or objects, None
            on the prefix.

        Raises
        ------
        ArgumentError
            Columns of other shapes, or with the name of another column of the table.
        """
        kind = self.kind if kind is None else kind
        items = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        known = np.asarray(known)
        arrays = {name: np.asarray(values) for name, values in columns.items()}
        shape = next((values.shape for values in arrays.values()), (len(items), 0))
        for name, values in arrays.items():
            if values.ndim != 2 or values.shape != shape or len(values) != len(items):
                raise ArgumentError(
                    f"Column {name!r}: expected shape ({len(items)}, until), the same for all "
                    f"columns; received {values.shape}."
                )
        if known.shape != (len(items),):
            raise ArgumentError(f"known: expected shape ({len(items)},); received {known.shape}.")
        if kind.library not in KINDS:
            raise ArgumentError(f"kind: expected one of {KINDS}; received {kind.library!r}.")
        wanted = np.arange(1, shape[1] + 1) > known[:, None]
        wanted = wanted & self.open(origin, shape[1], kind)
        if last is not None:
            wanted &= np.arange(1, shape[1] + 1) <= np.asarray(last)[:, None]
        if kind.library == "arrays":
            return {
                name: np.where(wanted, values, np.array(None))
                if values.dtype == object
                else np.where(wanted, values.astype(np.float64), np.nan)
                for name, values in arrays.items()
            }
        row, at = np.nonzero(wanted)
        none = not len(row) and wanted.size > 0
        if none:  # one row, removed at the end: columns without rows would have no type
            row = at = np.zeros(1, np.int64)
        step = (at + 1).astype(np.int64)
        form = self._form(kind)
        data: dict[str, Any] = {self.id_col: row}  # replaced by the ids below
        if self.spacing is None:
            data[self.step_col] = step + (self.first - 1)
        else:
            if origin is None:
                origin = np.full(len(items), "NaT", "datetime64[us]")
            place = self.spacing.dates(np.asarray(origin).astype("datetime64[us]")[row], step)
            data[self.step_col] = self.spacing.date(place, form.zone)
            taken = (self.id_col, self.step_col)
            data["step" if "step" not in taken else "step_number"] = step
        clash = [name for name in arrays if name in data]
        if clash:
            raise ArgumentError(f"Column {clash[0]!r} is also a column of the table; rename one.")
        for name, values in arrays.items():
            cells = values[row, at]
            data[name] = cells.tolist() if cells.dtype == object else cells
        steps = form.column(self.step_col, data[self.step_col], kind.library)
        who = kind.ids_column(self.id_col, id_array(items), row)
        found = nw.from_dict(data, backend=kind.library).with_columns(who, steps)
        return (found.head(0) if none else found).to_native()

    def rows(self, columns: Mapping[str, np.ndarray], kind: Kind | None = None) -> Any:
        """Build a table of columns of shape (rows,); for arrays, a dict of them."""
        kind = self.kind if kind is None else kind
        if kind.library not in KINDS:
            raise ArgumentError(f"kind: expected one of {KINDS}; received {kind.library!r}.")
        if kind.library == "arrays":
            return dict(columns)
        number = np.arange(len(next(iter(columns.values()))))  # replaced by ids and objects below
        objects = {n: v for n, v in columns.items() if n == self.id_col or v.dtype == object}
        data = {n: number if n in objects else v for n, v in columns.items()}
        typed = [
            (kind if name == self.id_col else Kind(kind.library)).ids_column(name, values)
            for name, values in objects.items()
        ]
        return nw.from_dict(data, backend=kind.library).with_columns(*typed).to_native()

    def summary(
        self, columns: Mapping[str, np.ndarray], *, ids: np.ndarray, kind: Kind | None = None
    ) -> Any:
        """Build a table with a row for each item: the id, then the columns of shape (rows,).

        For arrays it is a dict of the columns. ``ids`` and ``kind`` are as in ``table``.

        Raises
        ------
        ArgumentError
            A column with the name of the ids, or an unknown kind.
        """
        kind = self.kind if kind is None else kind
        if kind.library not in KINDS:
            raise ArgumentError(f"kind: expected one of {KINDS}; received {kind.library!r}.")
        if kind.library == "arrays":
            return dict(columns)
        if self.id_col in columns:
            raise ArgumentError(
                f"Column {self.id_col!r} is also a column of the table; rename that of the ids."
            )
        return self.rows({self.id_col: ids, **columns}, kind)

    # -- files -------------------------------------------------------------------------

    def to_config(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the schema as strict JSON and named float64 arrays."""
        ids = IdType.of(self.kind.ids, self.kind.library)
        config: dict[str, Any] = {
            "id_col": self.id_col,
            "step_col": self.step_col,
            "target_col": self.target_col,
            "start_col": self.start_col,
            "kind": self.kind.library,
            "ids": ids and ids.to_config(),
            "form": self._form().to_config(),
            "transform": self.transform.name,
            "centre": self.transform.centre,
            "bounds": [
                float(bound) if math.isfinite(bound) else None for bound in self.transform.bounds
            ],
            "first": self.first,
            "steps": self.steps,
            **{name: columns.to_config() for name, columns in self._columns.items()},
            "spacing": None if self.spacing is None else self.spacing.to_config(),
            "calendar": self.calendar.to_config(),
            "vocabulary": None if self.vocabulary is None else self.vocabulary.to_config(),
        }
        arrays = {
            "location": self.location,
            "scaling": self.scaling,
            "observed": self.observed.astype(np.float64),
            **{f"{name}_scaling": columns.scaling for name, columns in self._columns.items()},
        }
        return config, {name: values.copy() for name, values in arrays.items()}

    @classmethod
    def from_config(cls, config: Any, arrays: Mapping[str, np.ndarray]) -> Schema:
        """Rebuild a schema; the inverse of ``to_config``.

        Raises
        ------
        ModelFileError
            Missing or unknown keys, a value of another type, size or range.
        """
        config = closed(config, _KEYS, "schema")
        id_col, step_col, target_col = _read_names(config)
        must(config["kind"] in KINDS, "kind", f"one of {KINDS}", config["kind"])
        transform, steps = _read_transform(config), config["steps"]
        must(is_whole(steps, 1, MAX_STEPS), "steps", f"1 to {MAX_STEPS:,}", steps)
        first, start_col = _read_first(config), _read_start_col(config)
        columns = {}  # none of them has the name of another column of its table
        for name in _TABLES:
            keys = (id_col, step_col, target_col)
            if name == "static":
                keys = (id_col, start_col)
            columns[name] = Columns.from_config(config[name], name, keys)
        spacing = None
        if config["spacing"] is not None:
            spacing = Spacing.from_config(config["spacing"])
        kind = _read_kind(config, spacing)
        calendar = Calendar.from_config(config["calendar"])
        never_closed = spacing is not None or not calendar
        must(never_closed, "calendar", "none, of numbers", config["calendar"])
        vocabulary = config["vocabulary"]
        if vocabulary is not None:
            vocabulary = Vocabulary.from_config(vocabulary)

        checked = _read_arrays(arrays, steps, columns)
        _check_scaling(checked["location"], checked["scaling"], transform, vocabulary)
        observed = checked["observed"]
        must(bool(np.isin(observed, (0, 1)).all()), "observed", "flags 0 or 1", "others")
        for name in _TABLES:
            rules = checked[f"{name}_scaling"]
            _check_rules(f"{name}_scaling", rules)
            columns[name] = replace(columns[name], scaling=rules)
        return cls(
            id_col=id_col,
            step_col=step_col,
            target_col=target_col,
            kind=kind,
            transform=transform,
            location=checked["location"],
            scaling=checked["scaling"],
            observed=observed > 0,
            static=columns["static"],
            future=columns["future"],
            past=columns["past"],
            spacing=spacing,
            calendar=calendar,
            vocabulary=vocabulary,
            start_col=start_col,
            first=first,
        )

    # -- private -----------------------------------------------------------------------

    def _form(self, kind: Kind | None = None) -> Form:
        """Return how steps are written: as in the tables of the call, else as in ``fit``."""
        return (kind and kind.steps) or self.kind.steps or Form()

    @property
    def _columns(self) -> dict[str, Columns]:
        return {name: getattr(self, name) for name in _TABLES}

    def nothing(self, name: str, rows: int, steps: int) -> Covariates:
        """Return ``"future"`` or ``"past"`` covariates in which every step is absent."""
        columns = self._columns[name]
        return Covariates(
            np.zeros((rows, steps, columns.width), np.float32),
            np.zeros((rows, steps, len(columns.categories)), np.int32),
            np.zeros((rows, steps), bool),
        )

    def _parse(
        self, series: Any, static: Any, future: Any, items: list[Any] | None = None
    ) -> Parsed:
        if future is not None and not self.future.kinds:
            raise DataError(
                "Expected no future table, as in fit; received one. Fit with future= to learn "
                "what its covariates do."
            )
        return parse(
            series,
            static,
            (self.id_col, self.step_col, self.target_col),
            {name: columns.kinds for name, columns in self._columns.items()},
            items,
            self.vocabulary,
            future=future,
            past=self.past.kinds,
            start_col=None if static is None else self.start_col,
        )

    def _placed(
        self, parsed: Parsed, origin: np.ndarray | None = None
    ) -> tuple[PlacedRows, np.ndarray | None]:
        """Return the rows of the series on the grid, and the place of each item's step 1."""
        names = (self.id_col, self.step_col, self.target_col)
        zone = self._form(parsed.kind).zone
        first = self._first_of(parsed)
        return place_rows(parsed, self.spacing, names, self.start_col, zone, first, origin)

    def _first_of(self, parsed: Parsed) -> int:
        """Return the number of step 1 in the tables of a call; arrays begin at step 1."""
        return 1 if parsed.kind.library == "arrays" else self.first

    def _with_covariates(
        self,
        panel: Panel,
        parsed: Parsed,
        placed: PlacedRows,
        first: np.ndarray,
        until: int | Until,
    ) -> Panel:
        """Return the panel with covariates; future ones are needed at steps after ``first``."""
        names = (self.id_col, self.step_col, self.target_col)
        rows, width = panel.mask.shape
        if self.past.kinds:
            past = self.nothing("past", rows, width)
            for long, step in placed:
                ids = [parsed.ids[row] for row in long.row.tolist()]
                numeric, codes, _, unseen = self.past.encode(long.columns, ids)
                given = ~np.all([_is_missing(values) for values in long.columns.values()], axis=0)
                at = np.flatnonzero(given & (step <= width))
                past.put(long.row[at], step[at], numeric[at], codes[at])
                _warn("Past", unseen)
            panel = replace(panel, past=past)
        if not self.future.kinds:
            return panel
        last = until
        if callable(until):
            last = until(panel.ids, np.maximum(panel.known, first))
        need = np.maximum(panel.known, np.asarray(last))
        most = max(width, int(need.max(initial=0)))
        future, table = self.nothing("future", rows, most), parsed.future
        if table is None:
            if (need > first).any():
                raise self._without_future()
            return replace(panel, future=future)
        number_of_1 = self._first_of(parsed)
        planned, origin = planned_steps(parsed, self.spacing, names, panel.origin, number_of_1)
        at = (table.row >= 0) & (planned >= 1) & (planned <= future.there.shape[1])
        at = np.flatnonzero(at)
        row, planned = table.row[at], planned[at]
        check_once(table, at, row, planned, parsed.ids, self.step_col, number_of_1)
        steps = np.arange(future.there.shape[1])
        future.there[row, planned - 1] = True
        lacking = ~future.there & (steps >= first[:, None]) & (steps < need[:, None])
        if lacking.any():
            which, late = (int(i) for i in np.argwhere(lacking)[0])
            when = f"step {number_of_1 + late}"
            if self.spacing is not None and origin is not None and not np.isnat(origin[which]):
                place = self.spacing.dates(origin[which : which + 1], np.array([late + 1]))
                when += f" ({table.form.say(self.spacing.date(place, table.form.zone)[0])})"
            fail(
                table.label,
                self.step_col,
                f"a row for every step from {number_of_1 + first[which]} to "
                f"{number_of_1 + need[which] - 1}",
                f"none for {when}",
                parsed.ids[which],
                "Add it; leave a cell empty where its value is not known.",
            )
        columns = {name: values[at] for name, values in table.columns.items()}
        numeric, codes, missing, unseen = self.future.encode(
            columns, [parsed.ids[i] for i in row.tolist()]
        )
        future.put(row, planned, numeric, codes)
        _warn("Future", missing + unseen)
        return replace(panel, future=future, origin=origin)

    def _without_future(self) -> DataError:
        return DataError(
            f"Expected a future table with {list(self.future.kinds)}, as in fit; received None, or "
            "one without rows."
        )

    def _at(self, values: np.ndarray, first_step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return location and scaling of the steps along the last axis."""
        first_step = check_whole("first_step", first_step)
        if not values.ndim:
            raise ArgumentError("Expected steps along the last axis; received a single number.")
        at = np.arange(first_step - 1, first_step - 1 + values.shape[-1])
        at = np.minimum(at, self.steps - 1)
        return self.location[at], self.scaling[at]

    def _grid(self, placed: PlacedRows, seen: Survey) -> tuple[np.ndarray, np.ndarray]:
        """Return scaled y and the mask, shape (rows, T)."""
        rows, width = len(placed.ids), max(self.steps, int(seen.known.max(initial=0)))
        check_cells(rows, width, "the panel")
        y = np.zeros((rows, width), np.float32)
        mask = np.zeros((rows, width), bool)
        for long, step in placed:
            there = ~np.isnan(long.y)
            row, at = long.row[there], step[there] - 1
            hold = np.minimum(at, self.steps - 1)
            z = (self.transform.to_line(long.y[there]) - self.location[hold]) / self.scaling[hold]
            y[row, at] = np.clip(z, -_Y_LIMIT, _Y_LIMIT)
            mask[row, at] = True
        return y, mask


# -- of ``Schema.fit`` -----------------------------------------------------------------


def _check_settings(
    names: tuple[str, str, str],
    past_cols: Sequence[str],
    transform: str,
    bounds: tuple[float, float] | None,
    start_col: str | None,
) -> None:
    """Raise for settings of ``fit`` that are not possible, whatever the tables hold."""
    if transform not in ("auto", *TRANSFORMS):
        raise ArgumentError(
            f"transform: expected one of {['auto', *TRANSFORMS]}; received {transform!r}."
        )
    if bounds is not None and transform not in ("auto", "logit"):
        raise ArgumentError(
            f"bounds: expected them with the transform 'logit'; received {transform!r}."
        )
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < 3:
        raise ArgumentError(
            f"id_col, step_col, target_col: expected three names; received {names}."
        )
    if start_col is not None and (start_col == names[0] or not start_col):
        raise ArgumentError(
            f"start_col: expected a column of the static table beside {quoted(names[0])}; "
            f"received {start_col!r}."
        )
    if len({*names, *past_cols}) < 3 + len(past_cols):
        raise ArgumentError(
            f"past_cols: expected distinct columns beside {list(names)}; received "
            f"{list(past_cols)}."
        )


def _check_declared(parsed: Parsed, past: Sequence[str], categorical: Sequence[str]) -> None:
    """Raise for a column in ``categorical`` that is not a feature."""
    future = {} if parsed.future is None else parsed.future.columns
    features = {*parsed.static, *future, *past}
    for name in categorical:
        if name not in features:
            raise ArgumentError(
                f"categorical: expected columns of the static and the future table, or of "
                f"past_cols ({listed(features) or 'there are none'}); received {quoted(name)}."
            )


def _start_without_dates(label: str, step_col: str, start_col: str) -> DataError:
    return DataError(
        f"{label}, column {step_col!r}: expected dates, as start_col={start_col!r} "
        "is given; received numbers. Hand in dates; or leave start_col out, as the "
        "launch is step 1.",
        column=step_col,
    )


def _check_training_rows(placed: PlacedRows, seen: Survey, *, arrays: bool) -> None:
    """Raise for rows that cannot be learnt from: repeated ones, items without observations, steps
    that look like years, grids that are almost empty."""
    if not arrays:
        if placed.spacing is None and placed.series is not None:
            check_no_years(placed.series, seen, placed.names[1], placed.first)
        check_filled(placed, seen)
        all_missing = placed.spacing is None or not seen.observed.any()
        check_points(placed, seen, all_missing=all_missing)
    elif not seen.observed.all():
        item = int(np.argmin(seen.observed > 0))
        raise DataError(
            f"Y, row {item}: expected at least one observation an item to fit; "
            "received NaN everywhere. Leave the row out of Y and X.",
            column="Y",
            item=item,
        )


def _fit_transform(
    asked: str, bounds: tuple[float, float] | None, placed: PlacedRows, seen: Survey
) -> Transform:
    """Return the fitted transform; ``"auto"`` chooses one by the values."""
    name, nonnegative = asked, seen.least >= 0
    if asked == "auto":
        skewed = nonnegative and long_upper_tail(placed.observed)
        name = "logit" if bounds is not None else "log" if skewed else "none"
    limits = (0.0, math.inf)
    if name == "none" and not (asked == "auto" and nonnegative):
        limits = (-math.inf, math.inf)
    elif name == "logit":
        if bounds is None and not (nonnegative and seen.most <= 1):
            assert placed.series is not None  # values came from there
            raise DataError(
                f"{placed.series.label}, column {placed.names[2]!r}: expected values from 0 to 1, "
                f"as no bounds are given; received {seen.least:g} to {seen.most:g}. "
                "Give bounds=(low, high).",
                column=placed.names[2],
            )
        limits = bounds or (0.0, 1.0)
    return TRANSFORMS[name].fit(limits, placed.observed)


def _fit_scaling(
    placed: PlacedRows, transform: Transform, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the location and the scaling of each step, shape (steps,), float64."""
    assert placed.series is not None  # the series is given
    where = f"{placed.series.label}, column {placed.names[2]!r}"

    def transformed() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for long, step in placed:
            there = ~np.isnan(long.y)
            yield transform.to_line(long.y[there]), step[there] - 1

    if transform.by_step:
        return location_and_scaling(transformed, steps, where)
    of_all = location_and_scaling(lambda: ((z, 0 * at) for z, at in transformed()), 1, where)
    location, scaling = (np.repeat(array, steps) for array in of_all)
    return location, scaling


def _training_features(
    parsed: Parsed, seen: Survey, planned: np.ndarray, past_cols: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Return the feature columns that training learns from, of each table in ``_TABLES``.

    Static features are those of observed items. Future covariates are those of steps 1 up to an
    item's last observation; ``planned`` is the step of each row of the future table.
    """
    static = {name: values[seen.observed > 0] for name, values in parsed.static.items()}
    future: dict[str, np.ndarray] = {}
    if parsed.future is not None:
        row = parsed.future.row
        used = (planned >= 1) & (planned <= seen.known[row]) & (row >= 0)
        future = {name: values[used] for name, values in parsed.future.columns.items()}
    batches = parsed.series or ()
    past = {name: np.concatenate([b.columns[name] for b in batches]) for name in past_cols}
    return {"static": static, "future": future, "past": past}


def _warn_of_codes(columns: Mapping[str, np.ndarray]) -> None:
    """Warn of numeric columns that may hold codes: few distinct whole numbers from 0."""
    found = []
    for name, values in columns.items():
        if values.dtype == object:
            continue
        distinct, count = np.unique(values[~np.isnan(values)], return_counts=True)
        few = _FEWEST_CODES <= len(distinct) <= _MOST_CODES and 2 * len(distinct) <= count.sum()
        if few and distinct[0] >= 0 and (distinct == np.floor(distinct)).all():
            found.append(f"{quoted(name)} ({len(distinct)} different ones)")
    if found:
        warn(
            f"Whole numbers, used as numbers: {', '.join(found[:8])}"
            + (f" and {len(found) - 8} more columns" if len(found) > 8 else "")
            + ". If they are codes, whose order means nothing, name the columns in "
            "categorical=[...]."
        )


# -- of ``Schema.from_config`` ---------------------------------------------------------


def _read_names(config: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the columns of the series table."""
    names = [config["id_col"], config["step_col"], config["target_col"]]
    must(all(isinstance(name, str) and name for name in names), "column names", "text", names)
    must(len(set(names)) == 3, "column names", "three of them", names)
    return names[0], names[1], names[2]


def _read_first(config: Mapping[str, Any]) -> int:
    """Return the number of step 1, which is 1 for dates and arrays."""
    first = config["first"]
    numbered = config["spacing"] is None and config["kind"] != "arrays"
    most = MAX_STEPS - config["steps"] + 1 if numbered else 1
    must(is_whole(first, 1, most), "first", f"a whole number from 1 to {most:,}", first)
    return first


def _read_start_col(config: Mapping[str, Any]) -> str | None:
    """Return the column of launch dates, which only steps that are dates may have."""
    name = config["start_col"]
    if name is not None:
        good = isinstance(name, str) and name not in ("", config["id_col"])
        must(good, "start_col", "text, and another than id_col", name)
        must(config["spacing"] is not None, "start_col", "none, of numbers", name)
    return name


def _read_kind(config: Mapping[str, Any], spacing: Spacing | None) -> Kind:
    """Return the kind of the training tables; their steps are dates if there is a spacing."""
    form, ids = Form.from_config(config["form"]), config["ids"]
    if ids is not None:
        ids = IdType.from_config(ids, config["kind"])
    zoned = spacing is not None and spacing.clock != "none"
    must(form.dated == (spacing is not None), "form", "that of the spacing", form.type)
    must((form.zone is not None) == zoned, "form", "that of the spacing", form.zone)
    return Kind(config["kind"], form, ids)


def _read_transform(config: Mapping[str, Any]) -> Transform:
    """Return the transform of a model file; ``ModelFileError`` on anything unexpected."""
    name, centre, given = config["transform"], config["centre"], config["bounds"]
    known = isinstance(name, str) and name in TRANSFORMS
    must(known, "transform", f"one of {list(TRANSFORMS)}", name)
    finite = isinstance(centre, float) and 1 / LARGEST <= centre <= LARGEST
    must(finite, "centre", "a positive number", centre)
    real = isinstance(given, list) and len(given) == 2
    real = real and all(b is None or (isinstance(b, float) and abs(b) <= LARGEST) for b in given)
    must(bool(real), "bounds", "two numbers or null", given)
    low = -math.inf if given[0] is None else given[0]
    high = math.inf if given[1] is None else given[1]
    must(TRANSFORMS[name].takes(low, high), "bounds", f"those of the transform {name!r}", given)
    return TRANSFORMS[name](centre, (low, high))


def _read_arrays(
    arrays: Mapping[str, np.ndarray], steps: int, columns: Mapping[str, Columns]
) -> dict[str, np.ndarray]:
    """Return copies of the arrays of a model file, whose names, shapes and dtypes are checked."""
    shapes = {
        "location": (steps,),
        "scaling": (steps,),
        "observed": (steps,),
        **{f"{name}_scaling": each.scaling.shape for name, each in columns.items()},
    }
    must(set(arrays) == set(shapes), "arrays", str(sorted(shapes)), sorted(arrays))
    checked: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        values = np.asarray(arrays[name])
        must(values.shape == shape, name, f"shape {shape}", values.shape)
        must(values.dtype == np.float64, name, "float64", values.dtype)
        must(bool(np.isfinite(values).all()), name, "finite numbers", "others")
        checked[name] = values.copy()
    return checked


def _check_scaling(
    location: np.ndarray,
    scaling: np.ndarray,
    transform: Transform,
    vocabulary: Vocabulary | None,
) -> None:
    """Raise for a scaling of y that is out of range, or one of tokens, which are not scaled."""
    # Logarithms are at most 710 in float64, and the head of counts takes them as float32.
    least, most = transform.limits
    inside = bool((np.abs(location) <= most).all())
    must(inside, "location", f"numbers up to {most:g}", "others")
    inside = bool(((scaling >= least) & (scaling <= most)).all())
    must(inside, "scaling", f"numbers from {least:g} to {most:g}", "others")
    if vocabulary is not None:  # another scaling would turn the codes of tokens into others
        plain = transform == Identity(1.0, (-math.inf, math.inf))
        identity = not location.any() and bool((scaling == 1).all())
        received = "another location, scaling or transform"
        must(plain and identity, "scaling of tokens", "none", received)


def _check_rules(what: str, rules: np.ndarray) -> None:
    """Raise for a scaling of numeric features that is out of range; see ``Columns.scaling``."""
    c, gain = rules[:, 0], rules[:, 2]
    good = bool((((c == 0) | (c >= 1 / LARGEST)) & (gain >= 0)).all())
    good = good and bool((np.abs(rules) <= 1e20 * LARGEST).all())
    must(good, what, "c and gain of at least 0, within range", "others")


# -- of both, and of ``panel`` and ``new_rows`` -----------------------------------------


def _without_start(start_col: str) -> DataError:
    return DataError(
        f"Expected a static table with the column {quoted(start_col)} of launch dates, as "
        "start_col says; received None. Leave a cell empty where there is no date."
    )


def _check_values(placed: PlacedRows, transform: Transform, remedy: str) -> None:
    """Raise for the first value outside the domain of the transform."""
    for long, _ in placed:
        wrong = transform.outside(long.y)
        if wrong.any():
            at = int(np.argmax(wrong))
            fail(
                long.label,
                placed.names[2],
                transform.expected,
                f"{long.y[at]:g}",
                placed.ids[long.row[at]],
                remedy,
            )


def _is_missing(values: np.ndarray) -> np.ndarray:
    if values.dtype == object:
        return np.array([value is None for value in values], bool)
    return np.isnan(values)


def _warn(what: str, notes: Sequence[str]) -> None:
    if notes:
        more = f"; and {len(notes) - 8} more" if len(notes) > 8 else ""
        listed = "; ".join(notes[:8])
        warn(f"{what} columns, taken as average or unknown: {listed}{more}.")
