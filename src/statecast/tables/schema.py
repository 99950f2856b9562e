"""``Schema``: everything learnt about the tables from training data.

It holds the column names, the grid of the steps, the targets and the encoding of the features.
It is frozen after ``fit``, so that its results for an item do not depend on the other items of a
call. ``Schema.panel`` turns tables into a ``Panel``, and ``Schema.output`` turns forecasts into
tables of the kind that came in.

Tables are long, as in Nixtla's libraries: ``unique_id, ds, y``, and a static table with one row
for each item. They may be pandas, polars or Arrow tables (whatever narwhals reads), paths of
CSV or Parquet files, or arrays: ``Y (n, T)``, or ``(n, T, m)`` for m targets, NaN where nothing was
observed, and ``X (n, f)``. Libraries of tables are imported only when they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from statecast.errors import ArgumentError, DataError, quoted
from statecast.state import outline
from statecast.tables.config import TABLES, read_config
from statecast.tables.covariates import read_future, read_past, without_future
from statecast.tables.dates import Calendar, Form, Spacing
from statecast.tables.features import Columns, warn_of_features
from statecast.tables.grid import (
    PlacedRows,
    Survey,
    calendar_of,
    check_new,
    check_points,
    first_number,
    place_rows,
    spacing_of,
)
from statecast.tables.id_types import IdType
from statecast.tables.ids import Kind, id_array
from statecast.tables.learning import (
    check_declared,
    check_launches_are_dated,
    check_settings,
    check_times_are_numbers,
    check_training_rows,
    training_features,
    warn_of_closed_days,
    warn_of_codes,
    warn_of_unobserved,
    warn_of_unused,
)
from statecast.tables.output import Output
from statecast.tables.panel import Panel, group_keys
from statecast.tables.parse import Parsed, open_tables, parse
from statecast.tables.source import Table
from statecast.tables.steps import Names
from statecast.tables.targets import Target, scaled_grid
from statecast.tables.vocabulary import Vocabulary

__all__ = ["Panel", "Schema"]

_FEATURES = ("Static", "Future", "Past")  # the tables of ``TABLES``, for messages
Until = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (ids, prefix lengths) -> last steps


@dataclass(frozen=True, eq=False)
class Schema:
    """Everything learnt about the tables from training data; made by ``Schema.fit``.

    With m targets a step has m positions, one for each target; see ``Panel.targets``. Where arrays,
    ``known``, ``last`` and ``until`` count positions, the documentation says so. With one target,
    positions are steps.

    Attributes
    ----------
    id_col, step_col : str
        The columns of the ids (also of the static table) and of the steps.
    start_col, group_col, origin_col : str or None
        The columns of the static table with launch dates, groups and times of step 1.
    kind : Kind
        The kind of the training tables, and by default of the results.
    targets : tuple of Target
        The column, the transform and the scaling of each target. With tokens there is one target,
        which is not scaled.
    static, future, past : Columns
        The static features, the future covariates and the past covariates.
    spacing : Spacing or None
        The grid of the dates; None when steps are numbers.
    calendar : Calendar
        The weekdays, hours and months at which no training item was ever observed: no forecast
        has such steps.
    vocabulary : Vocabulary or None
        The tokens seen in training, if y holds tokens.
    first : int
        The number of step 1 in the tables; step 2 has the number ``first + 1``. It is 1 for dates
        and arrays. If steps are numbers, it is the smallest number in the training series if at
        least 100 whole numbers from 1 lie below it; or if at least 10 do, and at least as many as
        there are from it to the largest number in the series. Else it is 1.
    items : int
        The number of training items with at least one observation.

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

    Of two targets:

    >>> Y = np.array([[[1.0, 10.0], [2.0, np.nan]], [[2.0, 30.0], [4.0, 40.0]]])
    >>> panel = Schema.fit(Y, target_col=("a", "b")).panel(Y[:, :1])
    >>> panel.mask.tolist()[0], panel.known.tolist()
    ([True, True, False, False], [2, 2])
    """

    id_col: str
    step_col: str
    kind: Kind
    targets: tuple[Target, ...]
    static: Columns
    future: Columns
    past: Columns
    spacing: Spacing | None
    calendar: Calendar = Calendar()  # noqa: RUF009 (it is frozen)
    vocabulary: Vocabulary | None = None
    start_col: str | None = None
    group_col: str | None = None
    origin_col: str | None = None
    first: int = 1
    items: int = 1

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
        target_col: str | Sequence[str] = "y",
        transform: str = "auto",
        bounds: tuple[float, float] | None = None,
        tokens: bool = False,
        start_col: str | None = None,
        group_col: str | None = None,
        origin_col: str | None = None,
        first: int | None = None,
    ) -> Schema:
        """Learn the schema from the items that have rows in the series table.

        Parameters
        ----------
        series : table, path or array of shape (n, T), or (n, T, m) for m targets
            Long table with the columns of the ids, the steps and the targets, and ``past_cols``;
            others are ignored. A null or NaN y is missing. The order of the rows does not matter.
        static : table, path or array of shape (n, f), optional
            One row for each item. Numbers and booleans are numeric. Text, categorical and enum
            columns are categorical; an empty text is missing. In a CSV file a column whose cells
            are all numbers is numeric, and "NA", "N/A", "#N/A", "null", "None", "nan", "-", "."
            and white space in it are missing. In a column of text they are text.
        future : table, path or array of shape (n, T, f), optional
            Long table of future covariates, which are known before their step: the id, the step,
            and numeric or categorical columns, as in the static table. It needs a row for every
            step up to an item's last observation that is not closed (``calendar``); other rows are
            ignored.
        past_cols : sequence of str
            Columns of the series that are observed together with y.
        categorical : sequence of str
            Columns of the static table, the future table or ``past_cols`` whose whole numbers are
            codes of categories. Columns of arrays have the names x1, x2, ... and f1, f2, ...
        id_col, step_col : str
            The names of the columns. Steps are whole numbers from 1 or from ``first``, or dates.
            With dates, step 1 is an item's first row, even if its y is null, and the spacing is
            the most common difference. An item whose y are all null has k = 0.
        target_col : str or sequence of str
            The column of y, or those of several targets. Within a step each target is forecast
            given the ones before it.
        transform : {"auto", "none", "log", "positive", "logit", "counts"}
            ``"log"`` is ``log1p(y / c)``, where c is the median of the positive y. ``"counts"`` is
            the same for whole numbers; its forecasts are whole numbers. ``"positive"`` is
            ``log(y / c)``. ``"logit"`` is ``log((v + c) / (1 - v + c))``, where v is y rescaled
            from the bounds to 0 and 1; c keeps values at the bounds about as far out as those
            next to them. ``"auto"`` is ``"logit"`` if bounds are given. Else it is ``"log"`` if no
            y is negative and the ninth decile lies more than 1.5 times as far above the median as
            the first decile lies below it. Else it is ``"none"``; if no y is negative, no forecast
            is negative. Each target has its own.
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
        group_col : str, optional
            The column of the static table, or of X (``"x1"``, ...), with the group of each item:
            text or whole numbers. It is not a feature. An empty cell: the item is in no group.
        origin_col : str, optional
            If steps are numbers, the column of the static table, or of X, with the time of step 1:
            a whole number in the unit of the steps. It is not a feature, and is used in ``fit``
            only.
        first : int, optional
            The number of step 1 in the tables. Default: learnt; see ``Schema.first``.

        Raises
        ------
        DataError
            A table that cannot be used; the message names the column and the first item.
        ArgumentError
            A transform, bounds or column names that are not possible.

        Warns
        -----
        DataWarning
            Steps at which no item was observed, a calendar with closed days, columns of the series
            that are not used, features that may be codes.
        """
        if isinstance(target_col, str) or not isinstance(target_col, Sequence):
            target_col = [target_col]
        names = Names(id_col, step_col, tuple(target_col), start_col, group_col, origin_col)
        check_settings(names, past_cols, categorical, transform, bounds)
        if series is None:
            raise DataError("The series table is needed to fit; received None.")
        _check_static(static, names)
        if first is None and isinstance(series, Table):
            first = series.first
        vocabulary = Vocabulary() if tokens else None
        parsed = parse(
            series,
            static,
            future,
            names,
            None,
            tokens=vocabulary,
            past=past_cols,
            categorical=categorical,
        )
        check_declared(parsed, past_cols, categorical)
        read = parsed.series
        assert read is not None  # the series is given
        spacing = None
        if read.form.dated:
            check_times_are_numbers(read.label, names)
            spacing = spacing_of(read, parsed.ids, step_col)
        else:
            check_launches_are_dated(read.label, names)
        arrays = parsed.kind.library == "arrays"
        if first is None:
            first = 1 if arrays or spacing is not None else first_number(read)
        placed = place_rows(parsed, spacing, names, read.form.zone, first)
        seen = Survey.of(placed)
        check_training_rows(placed, seen, arrays=arrays)
        learnt = tuple(
            Target.of_tokens(name, seen.at[:, index].copy())
            if tokens
            else Target.fit(placed, seen, index, transform, bounds)
            for index, name in enumerate(names.targets)
        )
        features = training_features(parsed, placed, seen, past_cols)
        warn_of_codes({name: values for part in features for name, values in part.items()})
        encoded = [Columns.fit(*each) for each in zip(features, _FEATURES, strict=True)]
        calendar = Calendar() if tokens else calendar_of(placed, seen)
        if not tokens:
            warn_of_unobserved(learnt, first)
        warn_of_closed_days(calendar)
        warn_of_unused(series, (*names.series, *past_cols), tokens=tokens)
        return cls(
            id_col=id_col,
            step_col=step_col,
            kind=parsed.kind,
            targets=learnt,
            static=encoded[0],
            future=encoded[1],
            past=encoded[2],
            spacing=spacing,
            calendar=calendar,
            vocabulary=parsed.vocabulary,
            start_col=start_col,
            group_col=group_col,
            origin_col=origin_col,
            first=first,
            items=int(np.count_nonzero(seen.known)),
        )

    # -- sizes -------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """The length of the longest training item, T."""
        return self.targets[0].steps

    @property
    def positions(self) -> int:
        """The number of positions of the longest training item."""
        return self.steps * len(self.targets)

    @property
    def target_cols(self) -> tuple[str, ...]:
        """The names of the targets."""
        return tuple(target.name for target in self.targets)

    def number(self, step: int) -> int:
        """Return the number of a step in the tables; ``step`` is counted from 1."""
        return step + self.first - 1

    def of(self, target: str) -> Schema:
        """Return the schema of one of the targets.

        Raises
        ------
        ArgumentError
            An unknown target.
        """
        for own in self.targets:
            if own.name == target:
                return replace(self, targets=(own,))
        raise ArgumentError(
            f"target: expected one of {list(self.target_cols)}; received {target!r}."
        )

    # -- tables in ---------------------------------------------------------------------

    def opened(self, series: Any, static: Any, future: Any) -> tuple[Any, Any, Any]:
        """Open the tables of a call, for use by several methods: each a ``Table``, an array or
        None. ``panel`` and ``new_rows`` take open tables too.

        Raises
        ------
        DataError
            A table that cannot be read; tables beside arrays; a future table without future
            covariates in ``fit``.
        """
        if future is not None and not self.future.kinds:
            raise DataError(
                "Expected no future table, as in fit; received one. Fit with future= to learn "
                "what its covariates do."
            )
        past, tokens = self.past.kinds, self.vocabulary
        return open_tables(series, static, future, self._names, past, tokens, empty=True)

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
        series : table, path or array of shape (n, k), or (n, k, m) for m targets, optional
            The prefixes; k may exceed ``steps``. Without it every item has k = 0.
        static : table, path or array of shape (n, f), optional
            Needed if the schema has static features, ``start_col`` or ``group_col``. An item
            without a row in the series table has k = 0. Without a static table the items are those
            of the series; without both they are those of ``future``.
        future : table, path or array of shape (n, T, f), optional
            Needed if the schema has future covariates: a row for every step up to ``until``, or
            up to the last observation if that is later; closed steps need none. With dates, an item
            without rows in the series has step 1 at its first row here.
        until : int or callable
            The last step for which future covariates are needed. A callable takes the ids and
            the prefix lengths in steps and returns the last step of each item (``Horizon.last``).
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
        _check_static(static, self._names)
        parsed = self._parse(series, static, future)
        seen = Survey.of(self._placed(parsed))
        if parsed.kind.library != "arrays":
            check_points(seen.placed, seen, all_missing=self.spacing is None)
        return self._panel(parsed, seen, until, for_fit=for_fit)

    def panel_of(self, parsed: Parsed) -> Panel:
        """Turn checked arrays into a panel, as ``panel`` does with tables.

        Parameters
        ----------
        parsed : Parsed
            What ``parse`` would return: each step of an item once, and the columns of ``fit``.

        Raises
        ------
        DataError
            A value outside the domain of its target, a date that is not on the grid, or missing
            future covariates.
        """
        return self._panel(parsed, Survey.of(self._placed(parsed)), 0)

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
        series : table, path or array of shape (rows, T), or (rows, T, m) for m targets, or None
            The new observations only; items without any may be absent (or rows of NaN).
        ids : sequence, shape (rows,), or None
            The known items, in order; None: the items of the table.
        future : table, path or array of shape (rows, T, f), optional
            As in ``panel``; needed for the steps after ``known``.
        known : ndarray, shape (rows,), int, optional
            The position up to which each item is known, the last one of a step; its new rows must
            come after. Default: 0.
        origin : ndarray, shape (rows,), datetime64, optional
            The places of their step 1, if steps are dates: ``Panel.origin`` of the earlier call.
            An item with NaT (or every item, without this argument) has step 1 at its first new
            row, or without new rows at its first row in ``future``.
        until : int or callable
            As in ``panel``.

        Returns
        -------
        Panel
            Row i is ``ids[i]``. ``mask`` is True at new positions, ``known`` is the last one of the
            last new step (0 without any), and ``origin`` is filled in. Static features are not
            read: ``numeric`` and ``codes`` have no columns.

        Raises
        ------
        DataError
            A table that cannot be used, an unknown item, a step that is already known.
        """
        if series is None and not until:
            raise DataError("Expected a table of new rows; received None.")
        if series is None and future is None:
            raise without_future(self.future)
        items = None
        if ids is not None:
            items = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        for name, values in (("known", known), ("origin", origin)):
            if items is not None and values is not None and np.shape(values) != (len(items),):
                raise ArgumentError(
                    f"{name}: expected shape ({len(items)},); received {np.shape(values)}."
                )
        parsed = self._parse(series, None, future, items)
        seen = Survey.of(self._placed(parsed, origin))
        if parsed.kind.library != "arrays":
            check_points(seen.placed, seen, all_missing=False)
        return self._new_rows(parsed, seen, known, until)

    def new_rows_of(
        self,
        parsed: Parsed,
        *,
        known: np.ndarray,
        origin: np.ndarray | None = None,
    ) -> Panel:
        """Turn checked arrays of new observations into a panel, as ``new_rows`` does with tables.

        Parameters
        ----------
        parsed : Parsed
            What ``parse`` would return for new rows of known items.
        known, origin
            As in ``new_rows``.

        Raises
        ------
        DataError
            As ``panel_of``; a step that is already known.
        """
        return self._new_rows(parsed, Survey.of(self._placed(parsed, origin)), known, 0)

    # -- scaling -----------------------------------------------------------------------

    def scale(self, y: Any, first_step: int = 1) -> np.ndarray:
        """Return y on the network's scale, shape (..., positions), as ``Target.scale`` does."""
        return self._of_each(y, lambda target, own, _: target.scale(own, first_step))

    def unscale(self, z: Any, first_step: int = 1) -> np.ndarray:
        """Return z in original units, shape (..., positions), as ``Target.unscale`` does."""
        return self._of_each(z, lambda target, own, _: target.unscale(own, first_step))

    def inputs(self, panel: Panel) -> Panel:
        """Return the panel with y as the models take it in.

        With several targets the forecast of one depends on the values of the others. So scaled
        values are limited to twice the largest one in training, and those of a target that did not
        vary in training to 0: what such a value means for the other targets was not learnt. With
        one target y is unchanged, so that a forecast follows an item to any level.
        """
        if len(self.targets) == 1:
            return panel
        each = np.array([target.limit for target in self.targets], np.float32)
        limit = np.tile(each, panel.y.shape[1] // len(each))
        return replace(panel, y=np.clip(panel.y, -limit, limit))

    @property
    def bridges(self) -> bool:
        """Whether no training item was observed at some steps of any target."""
        return any(target.bridges for target in self.targets)

    def unscale_rest(
        self, z: Any, known: np.ndarray, latest: np.ndarray | None = None
    ) -> np.ndarray:
        """Return a forecast in original units, with unobserved steps interpolated.

        Parameters
        ----------
        z : array, shape (rows, ..., positions)
            As in ``Target.unscale_rest``, for all targets.
        known : ndarray, shape (rows,), int
            Each row's prefix length, in positions.
        latest : ndarray, shape (rows, m, 2), optional
            ``Panel.latest``: the last observation of each target; needed if ``bridges``.

        Returns
        -------
        ndarray, shape (rows, ..., positions), float64
        """
        steps = known // len(self.targets)

        def unscaled(target: Target, own: np.ndarray, index: int) -> np.ndarray:
            return target.unscale_rest(own, steps, None if latest is None else latest[:, index])

        return self._of_each(z, unscaled)

    def reach(self, until: int) -> int:
        """Return the last position that a forecast up to the position ``until`` needs; see
        ``Target.reach``."""
        count = len(self.targets)
        return count * max(target.reach(until // count) for target in self.targets)

    def _of_each(
        self, values: Any, change: Callable[[Target, np.ndarray, int], np.ndarray]
    ) -> np.ndarray:
        """Return values (..., positions), float64, changed by target; ``change`` takes the target,
        its values (..., steps) and its index."""
        values, count = np.asarray(values, np.float64), len(self.targets)
        if not values.ndim:
            raise ArgumentError("Expected steps along the last axis; received a single number.")
        out = np.empty(values.shape)
        for index, target in enumerate(self.targets):
            out[..., index::count] = change(target, values[..., index::count], index)
        return out

    # -- tables out --------------------------------------------------------------------

    def output(self, kind: Kind | None = None) -> Output:
        """Return what builds result tables of this kind, ``Panel.kind``; default: as in ``fit``."""
        kind = self.kind if kind is None else kind
        return Output(
            self.id_col,
            self.step_col,
            self.target_cols,
            kind,
            self._form(kind),
            self.spacing,
            self.calendar,
            self.first,
        )

    # -- files -------------------------------------------------------------------------

    def to_config(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the schema as strict JSON and named float64 arrays."""
        ids = IdType.of(self.kind.ids, self.kind.library)
        config: dict[str, Any] = {
            "id_col": self.id_col,
            "step_col": self.step_col,
            "start_col": self.start_col,
            "group_col": self.group_col,
            "origin_col": self.origin_col,
            "kind": self.kind.library,
            "ids": ids and ids.to_config(),
            "form": self._form().to_config(),
            "targets": [target.to_config() for target in self.targets],
            "first": self.first,
            "items": self.items,
            "steps": self.steps,
            **{name: columns.to_config() for name, columns in self._columns.items()},
            "spacing": None if self.spacing is None else self.spacing.to_config(),
            "calendar": self.calendar.to_config(),
            "vocabulary": None if self.vocabulary is None else self.vocabulary.to_config(),
        }
        arrays = {
            "location": np.stack([target.location for target in self.targets]),
            "scaling": np.stack([target.scaling for target in self.targets]),
            "observed": np.stack([target.observed.astype(np.float64) for target in self.targets]),
            "largest": np.array([[target.largest] for target in self.targets]),
            **{f"{name}_scaling": each.scaling.copy() for name, each in self._columns.items()},
        }
        return config, arrays

    @classmethod
    def from_config(cls, config: Any, arrays: Mapping[str, np.ndarray]) -> Schema:
        """Rebuild a schema; the inverse of ``to_config``.

        Raises
        ------
        ModelFileError
            Missing or unknown keys, a value of another type, size or range.
        """
        return cls(**read_config(config, arrays))

    # -- private -----------------------------------------------------------------------

    def _form(self, kind: Kind | None = None) -> Form:
        """Return how steps are written: as in the tables of the call, else as in ``fit``."""
        return (kind and kind.steps) or self.kind.steps or Form()

    @property
    def _columns(self) -> dict[str, Columns]:
        return {name: getattr(self, name) for name in TABLES}

    @property
    def _names(self) -> Names:
        roles = (self.start_col, self.group_col, self.origin_col)
        return Names(self.id_col, self.step_col, self.target_cols, *roles)

    def _parse(
        self, series: Any, static: Any, future: Any, items: list[Any] | None = None
    ) -> Parsed:
        return parse(
            *self.opened(series, static, future),
            self._names,
            {name: columns.kinds for name, columns in self._columns.items()},
            items,
            self.vocabulary,
            past=self.past.kinds,
        )

    def _placed(self, parsed: Parsed, origin: np.ndarray | None = None) -> PlacedRows:
        """Return the rows of the series on the grid. Arrays begin at step 1."""
        first = 1 if parsed.kind.library == "arrays" else self.first
        zone = self._form(parsed.kind).zone
        return place_rows(parsed, self.spacing, self._names, zone, first, origin)

    def _panel(
        self, parsed: Parsed, seen: Survey, until: int | Until, *, for_fit: bool = False
    ) -> Panel:
        """Return the panel of rows on the grid; see ``panel``."""
        placed = seen.placed
        y, mask = scaled_grid(self.targets, placed, seen)
        ids = id_array(parsed.ids)
        numeric, codes, missing, unseen = self.static.encode(parsed.static, parsed.ids)
        warn_of_features("Static", missing + unseen)
        panel = Panel(
            ids, y, mask, numeric, codes, placed.origin, parsed.kind, targets=len(self.targets)
        )
        if parsed.group is not None:
            panel = replace(panel, group=group_keys(parsed.group))
        if for_fit:
            panel = replace(panel, begin=self._begin(panel, parsed.begin))
        first = np.zeros(len(ids), np.int64)
        panel = self._with_covariates(panel, parsed, placed, seen, first, until)
        return panel.take(seen.observed > 0) if for_fit and not seen.observed.all() else panel

    def _new_rows(
        self, parsed: Parsed, seen: Survey, known: np.ndarray | None, until: int | Until
    ) -> Panel:
        """Return the panel of new rows on the grid; see ``new_rows``."""
        placed, count = seen.placed, len(parsed.ids)
        first = np.zeros(count, np.int64)
        if known is not None:
            first = np.asarray(known) // len(self.targets)
        y, mask = scaled_grid(self.targets, placed, seen)
        check_new(placed, first, arrays=parsed.kind.library == "arrays")
        panel = Panel(
            id_array(parsed.ids),
            y,
            mask,
            np.zeros((count, 0), np.float32),
            np.zeros((count, 0), np.int32),
            placed.origin,
            parsed.kind,
            targets=len(self.targets),
        )
        return self._with_covariates(panel, parsed, placed, seen, first, until)

    def _begin(self, panel: Panel, given: np.ndarray | None) -> np.ndarray | None:
        """Return the time of each item's step 1, ``Panel.begin``."""
        if self.spacing is None or panel.origin is None:
            return given
        dated = ~np.isnat(panel.origin)
        begin = np.full(panel.rows, np.nan)
        if dated.any():
            first = np.full(int(dated.sum()), panel.origin[dated].min())
            begin[dated], _ = self.spacing.steps(panel.origin[dated], first)
        return begin

    def _with_covariates(
        self,
        panel: Panel,
        parsed: Parsed,
        placed: PlacedRows,
        seen: Survey,
        first: np.ndarray,
        until: int | Until,
    ) -> Panel:
        """Return the panel with covariates; future ones are needed at steps after ``first``."""
        count = len(self.targets)
        steps = panel.mask.shape[1] // count
        if self.past.kinds:
            past = read_past(self.past, placed, steps).repeated(count)
            # Past covariates are observed with y, so they are known after the step's last target.
            past.there[:, np.arange(steps * count) % count < count - 1] = False
            panel = replace(panel, past=past)
        if self.future.kinds:
            last = until
            if callable(until):
                last = until(panel.ids, np.maximum(seen.known, first))
            need = np.maximum(seen.known, np.asarray(last))
            future, origin = read_future(
                self.future, parsed, placed, first, need, steps, self.calendar
            )
            panel = replace(panel, future=future.repeated(count), origin=origin)
        return panel


def _check_static(static: Any, names: Names) -> None:
    """Raise ``DataError`` if there is no static table for the columns that are not features."""
    held = {"start_col": "launch dates", "group_col": "groups"}
    for setting, what in held.items():
        name = getattr(names, setting)
        if static is None and name is not None:
            raise DataError(
                f"Expected a static table with the column {quoted(name)} of {what}, as {setting} "
                "says; received None. Leave a cell empty where it is unknown."
            )
