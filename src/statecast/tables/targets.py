"""``Targets``: several targets of a step as one sequence of positions.

m targets of T steps become m * T positions: the first target at step 1, the second at step 1,
..., the first at step 2, and so on. A network that takes the positions one by one forecasts
each value given the earlier targets of the same step. By the chain rule of probability this is a
joint distribution over targets and steps. Code that works in positions uses ``Targets`` as it
uses ``Schema`` for a single target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from statecast.errors import ArgumentError, DataError, ModelFileError, warn
from statecast.state import outline
from statecast.tables.columns import read_numbers, read_y
from statecast.tables.dates import Calendar, Spacing
from statecast.tables.features import Columns
from statecast.tables.ids import Kind, read_ids
from statecast.tables.panel import Covariates, Panel
from statecast.tables.parse import check_no_targets
from statecast.tables.schema import Schema, Until
from statecast.tables.source import Table, check_columns, columns_of, open_table
from statecast.tables.steps import check_cells

__all__ = ["Targets", "column_of", "learn"]

_NO_COLUMNS = Columns((), np.zeros((0, 3)), {})


@dataclass(frozen=True, eq=False)
class Targets:
    """Everything learnt about tables of several targets; made by ``Targets.fit``.

    A step has one position for each target. The arrays and ``known`` and ``until`` count
    positions: the latter two are multiples of the number of targets. ``steps`` counts steps.

    Attributes
    ----------
    frame : Schema
        The schema of the items, steps, static features and covariates. Its y is observed where
        any target is.
    each : tuple of Schema
        For each target: its transform, bounds, and location and scaling at each step.

    Examples
    --------
    >>> import numpy as np
    >>> Y = np.array([[[1.0, 10.0], [2.0, np.nan]], [[2.0, 30.0], [4.0, 40.0]]])
    >>> targets = Targets.fit(Y, target_col=("a", "b"))
    >>> panel = targets.panel(Y[:, :1])
    >>> panel.mask.tolist()[0], panel.known.tolist()
    ([True, True, False, False], [2, 2])
    """

    frame: Schema
    each: tuple[Schema, ...]

    __repr__ = outline

    @classmethod
    def fit(
        cls,
        series: Any,
        static: Any = None,
        *,
        target_col: Sequence[str],
        future: Any = None,
        past_cols: Sequence[str] = (),
        categorical: Sequence[str] = (),
        id_col: str = "unique_id",
        step_col: str = "ds",
        transform: str = "auto",
        bounds: tuple[float, float] | None = None,
        start_col: str | None = None,
    ) -> Targets:
        """Learn from the items that have rows in the series table, as ``Schema.fit`` does.

        Parameters
        ----------
        series : table, path or array of shape (n, T, m)
            As in ``Schema.fit``, with a column for each target.
        target_col : sequence of str
            The targets, at least two. Within a step each is forecast given the ones before it.
        static, future, past_cols, categorical, id_col, step_col, transform, bounds, start_col
            As in ``Schema.fit``; ``"auto"`` chooses a transform for each target.

        Raises
        ------
        DataError
            A table that cannot be used, a target without observations.
        ArgumentError
            Column names that are not distinct, and what ``Schema.fit`` raises.
        """
        names, others = tuple(target_col), (id_col, step_col, *past_cols)
        if len({*names, *others}) < len(names) + len(others):
            raise ArgumentError(
                f"target_col: expected distinct columns beside {list(others)}; received "
                f"{list(names)}."
            )
        if series is None:
            raise DataError("The series table is needed to fit; received None.")
        split = _TargetSeries.read(series, names, id_col, empty=False)
        frame = Schema.fit(
            split.marked,
            static,
            future=split.checked(future),
            past_cols=past_cols,
            categorical=categorical,
            target_col=split.mark,
            transform="none",
            id_col=id_col,
            step_col=step_col,
            start_col=start_col,
        )
        launches = None
        if start_col is not None:
            launches = open_table(static, "static", "X")
            assert isinstance(launches, Table)  # arrays with start_col are refused above
            launches = replace(launches, frame=launches.frame.select(id_col, start_col))
        each = []
        for name, (source, seen) in zip(names, split.observed(), strict=True):
            if not seen:
                raise DataError(
                    f"Target {name!r}: expected an observation to learn from; received none. Leave "
                    "it out of target_col.",
                    column=name,
                )
            own = Schema.fit(
                source,
                launches,
                target_col=name,
                transform=transform,
                bounds=bounds,
                id_col=id_col,
                step_col=step_col,
                start_col=start_col,
                first=frame.first,
            )
            more = (0, frame.steps - own.steps)  # steps at which only other targets were observed
            location, scaling = (np.pad(a, more, "edge") for a in (own.location, own.scaling))
            observed = np.pad(own.observed, more)
            each.append(
                replace(
                    own,
                    location=location,
                    scaling=scaling,
                    observed=observed,
                    spacing=frame.spacing,
                    calendar=frame.calendar,
                )
            )
        return cls(frame, tuple(each))

    # -- sizes and names --------------------------------------------------------------------

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets."""
        return tuple(schema.target_col for schema in self.each)

    @property
    def steps(self) -> int:
        """The number of steps of the longest training item."""
        return self.frame.steps

    @property
    def positions(self) -> int:
        """The number of positions of the longest training item."""
        return self.frame.steps * len(self.each)

    @property
    def first(self) -> int:
        """The number of step 1 in the tables; see ``Schema``."""
        return self.frame.first

    def number(self, step: int) -> int:
        """Return the number of a step in the tables; ``step`` is counted from 1."""
        return self.frame.number(step)

    @property
    def id_col(self) -> str:
        """The column of the ids."""
        return self.frame.id_col

    @property
    def step_col(self) -> str:
        """The column of the steps."""
        return self.frame.step_col

    @property
    def start_col(self) -> str | None:
        """The column of the launch dates."""
        return self.frame.start_col

    @property
    def kind(self) -> Kind:
        """The kind of the training tables."""
        return self.frame.kind

    @property
    def static(self) -> Columns:
        """The static features."""
        return self.frame.static

    @property
    def future(self) -> Columns:
        """The future covariates."""
        return self.frame.future

    @property
    def past(self) -> Columns:
        """The past covariates."""
        return self.frame.past

    @property
    def spacing(self) -> Spacing | None:
        """The grid of the dates."""
        return self.frame.spacing

    @property
    def calendar(self) -> Calendar:
        """The weekdays, hours and months at which no target was observed in training."""
        return self.frame.calendar

    @property
    def vocabulary(self) -> None:
        """None: several targets are numbers, not tokens."""
        return None

    def of(self, target: str) -> Schema:
        """Return the schema of one target, with the static features and covariates of all.

        Raises
        ------
        ArgumentError
            An unknown target.
        """
        if target not in self.targets:
            raise ArgumentError(
                f"target: expected one of {list(self.targets)}; received {target!r}."
            )
        own = self.each[self.targets.index(target)]
        return replace(own, static=self.static, future=self.future, past=self.past)

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
        """Turn tables into a panel, as ``Schema.panel`` does; a target that is null is missing."""
        split = _TargetSeries.read(series, self.targets, self.id_col)
        frame = self.frame.panel(
            split.marked,
            static,
            future=split.checked(future),
            until=until if callable(until) else until // len(self.each),
        )
        panel = self._woven(frame, split)
        return panel.take(panel.mask.any(axis=1)) if for_fit else panel

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
        """Read new observations of known items, as ``Schema.new_rows`` does."""
        count = len(self.each)
        split = _TargetSeries.read(series, self.targets, self.id_col)
        frame = self.frame.new_rows(
            split.marked,
            ids,
            future=split.checked(future),
            known=None if known is None else np.asarray(known) // count,
            origin=origin,
            until=until if callable(until) else until // count,
        )
        return self._woven(frame, split)

    def nothing(self, name: str, rows: int, positions: int) -> Covariates:
        """Return ``"future"`` or ``"past"`` covariates in which every position is absent."""
        return self.frame.nothing(name, rows, positions)

    # -- scaling -----------------------------------------------------------------------

    def unscale(self, z: Any) -> np.ndarray:
        """Return values at positions 1, 2, ... in original units; ``(..., positions)``, float64."""
        z, count = np.asarray(z, np.float64), len(self.each)
        out = np.empty(z.shape)
        for place, schema in enumerate(self.each):
            out[..., place::count] = schema.unscale(z[..., place::count])
        return out

    @property
    def bridges(self) -> bool:
        """Whether no training item was observed at some steps of any target."""
        return any(schema.bridges for schema in self.each)

    def unscale_rest(
        self, z: Any, known: np.ndarray, latest: np.ndarray | None = None
    ) -> np.ndarray:
        """Return a forecast ``(rows, ..., positions)`` in original units.

        Each target is unscaled by its ``Schema.unscale_rest``. ``known`` counts positions, and
        ``latest`` is ``Panel.latest``.
        """
        z, count = np.asarray(z, np.float64), len(self.each)
        out = np.empty(z.shape)
        for place, schema in enumerate(self.each):
            own = None if latest is None else latest[:, place : place + 1]
            out[..., place::count] = schema.unscale_rest(z[..., place::count], known // count, own)
        return out

    def reach(self, until: int) -> int:
        """Return the last position that a forecast up to ``until`` needs."""
        count = len(self.each)
        return count * max(schema.reach(until // count) for schema in self.each)

    def open(self, origin: np.ndarray | None, until: int, kind: Kind | None = None) -> np.ndarray:
        """Return at which steps, not positions, the calendar is open, as ``Schema.open`` does."""
        return self.frame.open(origin, until, kind)

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
        """Build a long table of the steps after each row's prefix, as ``Schema.table`` does.

        Parameters
        ----------
        columns : mapping of str to ndarray, shape (rows, positions)
        ids, known, origin, kind, last
            As in ``Schema.table``.

        Returns
        -------
        table, or dict of str to ndarray
            A row for each step; the columns of the first target, then those of the next. The name
            of the target follows the first word: ``statecast-lat-lo-80``. For arrays: each column,
            shape (rows, steps, m).

        Raises
        ------
        ArgumentError
            As in ``Schema.table``, or two columns with the same name.
        """
        kind = self.kind if kind is None else kind
        named = {
            (name, target): values[:, place :: len(self.each)]
            for place, target in enumerate(self.targets)
            for name, values in columns.items()
        }
        titles = [column_of(*key) for key in named]
        twice = [title for title in titles if titles.count(title) > 1]
        if twice:
            raise ArgumentError(
                f"Column {twice[0]!r} would be there twice; rename one of {list(self.targets)}."
            )
        found = self.frame.table(
            dict(zip(titles, named.values(), strict=True)),
            ids=ids,
            known=np.asarray(known) // len(self.each),
            origin=origin,
            kind=kind,
            last=None if last is None else np.asarray(last) // len(self.each),
        )
        if kind.library != "arrays":
            return found
        return {
            name: np.stack([found[column_of(name, target)] for target in self.targets], axis=-1)
            for name in columns
        }

    # -- files -------------------------------------------------------------------------

    def to_config(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the targets as strict JSON and named float64 arrays."""
        frame, arrays = self.frame.to_config()
        found = {f"frame/{name}": array for name, array in arrays.items()}
        each = []
        for place, schema in enumerate(self.each):
            config, arrays = schema.to_config()
            each.append(config)
            found |= {f"{place}/{name}": array for name, array in arrays.items()}
        return {"frame": frame, "each": each}, found

    @classmethod
    def from_config(cls, config: Any, arrays: Mapping[str, np.ndarray]) -> Targets:
        """Rebuild the targets; the inverse of ``to_config``.

        Raises
        ------
        ModelFileError
            Missing or unknown keys, a value of another type, size or range.
        """
        if not isinstance(config, dict) or set(config) != {"frame", "each"}:
            raise ModelFileError("Not targets of ours: expected a frame and each target.")
        several = config["each"]
        if not isinstance(several, list) or len(several) < 2:
            raise ModelFileError("Not targets of ours: expected two of them or more.")
        parts = [("frame", config["frame"]), *((str(i), part) for i, part in enumerate(several))]
        own: dict[str, dict[str, np.ndarray]] = {name: {} for name, _ in parts}
        for name, array in arrays.items():
            part, _, rest = name.partition("/")
            if part not in own:
                raise ModelFileError(f"Not targets of ours: an array {name!r} of none of them.")
            own[part][rest] = array
        frame, *each = (Schema.from_config(part, own[name]) for name, part in parts)
        shared = {
            (s.id_col, s.step_col, s.start_col, s.first, s.steps, s.spacing, s.calendar)
            for s in (frame, *each)
        }
        plain = all(s.vocabulary is None for s in (frame, *each))
        plain = plain and not any(s.static.kinds or s.future.kinds or s.past.kinds for s in each)
        if len(shared) > 1 or not plain or len({s.target_col for s in each}) < len(each):
            raise ModelFileError("Not targets of ours: they are not of one table.")
        return cls(frame, tuple(each))

    # -- private -----------------------------------------------------------------------

    def _woven(self, frame: Panel, split: _TargetSeries) -> Panel:
        """Return the panel in positions; ``frame`` is the panel in steps."""
        count, (rows, steps) = len(self.each), frame.mask.shape
        check_cells(rows, steps * count, "the panel")
        y, mask = np.zeros((rows, steps, count), np.float32), np.zeros((rows, steps, count), bool)
        for place, (schema, source) in enumerate(zip(self.each, split.sources, strict=True)):
            if source is not None:
                own = schema.new_rows(source, frame.ids, origin=frame.origin)
                width = own.mask.shape[1]
                y[:, :width, place], mask[:, :width, place] = own.y, own.mask
        future, past = (
            covariates
            and Covariates(*(np.repeat(a, count, axis=1) for a in vars(covariates).values()))
            for covariates in (frame.future, frame.past)
        )
        if (
            past is not None
        ):  # past covariates are observed once the step is over: after its last target
            past.there[:, np.arange(steps * count) % count < count - 1] = False
        y, mask = y.reshape(rows, -1), mask.reshape(rows, -1)
        return replace(frame, y=y, mask=mask, future=future, past=past, targets=count)


def learn(
    series: Any,
    static: Any = None,
    *,
    target_col: str | Sequence[str],
    tokens: bool = False,
    **settings: Any,
) -> Schema | Targets:
    """Learn the ``Schema`` of one target, or ``Targets`` for several; see their ``fit``.

    Warns
    -----
    DataWarning
        Steps at which no item was observed, a calendar with closed days, unused columns.
    """
    if isinstance(target_col, str):
        schema = Schema.fit(series, static, target_col=target_col, tokens=tokens, **settings)
        unobserved = [] if tokens else [_unobserved(schema)]
    else:
        schema = Targets.fit(series, static, target_col=target_col, **settings)
        unobserved = [_unobserved(own, f" of {own.target_col!r}") for own in schema.each]
    if any(unobserved):
        warn(
            f"No training item was observed at {'; '.join(filter(None, unobserved))}. Their "
            "forecasts are made of those of the nearest observed steps before and after."
        )
    if schema.calendar:
        warn(
            f"No training item was ever observed on: {schema.calendar}. Forecasts leave out such "
            "steps, and totals count nothing there."
        )
    used = {schema.id_col, schema.step_col, *schema.targets, *schema.past.kinds}
    unused = [name for name in columns_of(series) if name not in used]
    if unused:
        more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
        warn(
            f"Columns of the series table that are not used: {unused[:5]}{more}. "
            + (
                "Tokens take no covariates."
                if tokens
                else "Name those that are observed with y in past_cols; hand in what is known of a "
                "step beforehand as a table future."
            )
        )
    return schema


def _unobserved(schema: Schema, whose: str = "") -> str:
    """Describe the steps at which no training item was observed; empty if there are none."""
    steps = (np.flatnonzero(~schema.observed) + schema.first).tolist()
    named = ", ".join(map(str, steps[:5])) + (", ..." if len(steps) > 5 else "")
    return f"{len(steps)} of {schema.steps} steps{whose}: {named}" if steps else ""


def column_of(name: str, target: str) -> str:
    """Return the name of a forecast's column for one of several targets."""
    first, dash, rest = name.partition("-")
    return f"{first}-{target}{dash}{rest}"


@dataclass(frozen=True)
class _TargetSeries:
    """A series table of several targets, opened once.

    Attributes
    ----------
    mark : str
        The name of the column that is 1 where any target was observed.
    marked : Table, array or None
        The series with that column.
    sources : list
        For each target the series with its values: the table, or its own array ``(n, T)``.
    seen : list of array
        For each target where it was observed: ``(rows,)``, or ``(n, T)``, bool.
    """

    names: tuple[str, ...]
    id_col: str
    marked: Any
    sources: list[Any]
    seen: list[np.ndarray]

    @property
    def mark(self) -> str:
        return ", ".join(self.names)

    @classmethod
    def read(
        cls, series: Any, names: tuple[str, ...], id_col: str, *, empty: bool = True
    ) -> _TargetSeries:
        if series is None:
            return cls(names, id_col, None, [None] * len(names), [])
        table = open_table(series, "series", "Y", empty=empty)
        if isinstance(table, np.ndarray):
            if table.ndim != 3 or table.shape[2] != len(names):
                raise DataError(
                    f"Y: expected shape (n, T, {len(names)}), a number for each of the targets "
                    f"{list(names)}; received {table.shape}."
                )
            y = read_numbers(table, "Y", "", "(n, T, m)")
            sources = [y[..., place] for place in range(len(names))]
            seen = [~np.isnan(own) for own in sources]
            marked = np.where(np.any(seen, axis=0), 1.0, np.nan)
            return cls(names, id_col, marked, sources, seen)
        check_columns(table, (id_col, *names), ("id_col", *["target_col"] * len(names)))
        ids = read_ids(table, id_col)
        seen = [~np.isnan(read_y(table, name, ids)) for name in names]
        there = np.any(seen, axis=0).tolist()
        mark: Any = ["1" if each else None for each in there]
        if not table.text:
            mark = [1.0 if each else None for each in there]
        kind, title = nw.String() if table.text else nw.Float64(), ", ".join(names)
        column = nw.new_series(title, mark, kind, backend=table.frame.implementation)
        marked = replace(table, frame=table.frame.with_columns(column))
        return cls(names, id_col, marked, [table] * len(names), seen)

    def observed(self) -> list[tuple[Any, bool]]:
        """Return for each target the series of the items that have it, and whether any has."""
        found = []
        for source, seen in zip(self.sources, self.seen, strict=True):
            if isinstance(source, Table) and seen.any() and not seen.all():
                ids = read_ids(source, self.id_col)
                items = {ids[row] for row in np.flatnonzero(seen)}
                keep = [item in items for item in ids]
                source = replace(source, frame=source.frame.filter(keep))
            elif not isinstance(source, Table):
                source = source[seen.any(axis=1)]
            found.append((source, bool(seen.any())))
        return found

    def checked(self, future: Any) -> Any:
        """Return the future table, opened; raise if it has the column of a target."""
        if future is None:
            return None
        table = open_table(future, "future", "future")
        if isinstance(table, Table):
            check_no_targets(table, self.names)
        return table
