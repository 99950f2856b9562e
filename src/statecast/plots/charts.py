"""``fan``: tables of a forecast and of observations as fan charts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import numpy as np

from statecast.checks import check_flag
from statecast.errors import ArgumentError, DataError, listed, quoted
from statecast.plots.fans import Fan, draw_fans
from statecast.plots.interactive import draw_interactive
from statecast.tables.columns import read_floats, read_y
from statecast.tables.dates import Form, Spacing, first_dates, learn_spacing, wall
from statecast.tables.ids import agree, read_ids
from statecast.tables.source import ROLES, Table, check_columns, open_table
from statecast.tables.steps import read_when

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MANY = 6  # items drawn by default


class _Options(TypedDict, total=False):
    """The keywords of ``fan`` for its overloads; a test compares the two."""

    items: Any
    level: Sequence[float] | None
    id_col: str
    step_col: str
    target_col: str | Sequence[str]
    step_label: str | None
    target_label: str | None
    share_y: bool


@overload
def fan(
    forecast: Any,
    series: Any = None,
    *,
    interactive: Literal[False] = False,
    **options: Unpack[_Options],
) -> Figure: ...
@overload
def fan(
    forecast: Any, series: Any = None, *, interactive: Literal[True], **options: Unpack[_Options]
) -> Any: ...
def fan(
    forecast: Any,
    series: Any = None,
    *,
    items: Any = None,
    level: Sequence[float] | None = None,
    id_col: str = "unique_id",
    step_col: str = "ds",
    target_col: str | Sequence[str] = "y",
    step_label: str | None = None,
    target_label: str | None = None,
    share_y: bool = False,
    interactive: bool = False,
) -> Any:
    """Draw fan charts: the prefix, the median forecast, its intervals and the later observations.

    Parameters
    ----------
    forecast : table, path or dict of array
        As ``Forecaster.predict`` returns it.
    series : table, path or array, optional
        The observations. Those before an item's first forecast step are filled points, labelled
        "known"; the later ones are hollow points, labelled "truth".
    items : id or sequence of ids, optional
        The items to draw; by default the first six of the forecast. For arrays their row numbers,
        from 0.
    level : sequence of float, optional
        The intervals to draw, in percent; by default all intervals of the forecast.
    id_col, step_col, target_col : str
        The names of the columns. For a forecast of several targets, ``target_col`` names the one
        to draw.
    step_label, target_label : str, optional
        The labels of the axes; by default "step" ("date" for dates) and ``target_col``.
    share_y : bool
        Whether the y axes of all items have the same range.
    interactive : bool
        Whether to return a chart of Plotly, which shows the numbers under the pointer and can be
        zoomed into. It has the same content. ``figure.write_html("fan.html")`` writes a file that
        works without a network; it has Plotly's script, about 5 MB.

    Returns
    -------
    matplotlib.figure.Figure, or plotly.graph_objects.Figure with ``interactive``

    Raises
    ------
    DataError
        A table that cannot be used; an interval or an item that the forecast does not have.
    ArgumentError
        Several targets, or no items.
    MissingExtraError
        matplotlib, or with ``interactive`` Plotly, is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> Y = np.array([[1.0, 2.0, np.nan, np.nan]])
    >>> forecast = {"statecast": np.array([[np.nan, np.nan, 3.0, 4.0]])}
    >>> figure = fan(forecast, Y)
    >>> figure.axes[0].get_title(loc="left")
    '0'
    """
    target_col, interactive = _single(target_col), check_flag("interactive", interactive)
    table = _forecast(forecast, (id_col, step_col), target_col)
    levels = _levels(table, level)
    wanted = _wanted(table, items)
    observed = None if series is None else _observed(series, table, (id_col, step_col, target_col))
    if observed is not None:
        table = _dated(table, observed)
    fans = [_fan(item, table, levels, observed) for item in wanted]
    usual = "date" if any(each.dated for each in fans) else "step"
    labels = step_label or (usual if step_col == "ds" else step_col), target_label or target_col
    draw: Any = draw_interactive if interactive else draw_fans
    return draw(fans, *labels, share_y=share_y)


@dataclass(frozen=True)
class _Forecast:
    """A forecast table, with an entry for each row."""

    label: str
    table: Table | None
    ids: list[Any]
    when: np.ndarray  # steps (float64) or dates
    step: np.ndarray  # the number of the step, which is used if the date is missing
    columns: dict[str, np.ndarray]

    def rows(self, item: Any) -> np.ndarray:
        """Return the rows of an item, sorted by step."""
        rows = np.array([i for i, each in enumerate(self.ids) if each == item])
        return rows[np.argsort(self.when[rows], kind="stable")]


@dataclass(frozen=True)
class _Observed:
    """The series, with an entry for each observation."""

    ids: list[Any]
    when: np.ndarray
    y: np.ndarray
    first: dict[Any, Any]  # the date of step 1 of each item, if steps are dates
    spacing: Spacing | None  # of the dates


def _single(target_col: Any) -> str:
    several = [target_col] if isinstance(target_col, str) else list(target_col)
    if len(several) != 1:
        raise ArgumentError(f"target_col: expected one target to draw; received {several}.")
    return several[0]


def _forecast(forecast: Any, names: tuple[str, str], target: str) -> _Forecast:
    if isinstance(forecast, Mapping):
        _check_numbers(forecast)
        arrays = {name: np.asarray(values, np.float64) for name, values in forecast.items()}
        if "statecast" not in arrays or arrays["statecast"].ndim != 2:
            raise DataError(
                "The forecast: expected arrays of shape (n, until), one of them 'statecast' (for "
                "several targets, the arrays of one target: values[..., 0]); received "
                f"{ {name: each.shape for name, each in arrays.items()} }.",
                column="statecast",
            )
        row, at = np.nonzero(~np.isnan(arrays["statecast"]))
        columns = {name: values[row, at] for name, values in arrays.items()}
        return _Forecast("The forecast", None, row.tolist(), at + 1.0, at + 1.0, columns)
    table = open_table(forecast, "forecast", "forecast")
    if isinstance(table, np.ndarray):
        raise DataError(
            "The forecast: expected a table or a dict of arrays from Forecaster.predict; "
            f"received an array of shape {table.shape}."
        )
    columns = list(map(str, table.columns))
    _check_numbers(columns)
    check_columns(table, names, ROLES[:2])
    table = _of_target(table, target)
    targets = [
        name.removeprefix("statecast-")
        for name in columns
        if name.startswith("statecast-") and not any(p in name for p in ("-lo-", "-hi-", "-q-"))
    ]
    if targets and "statecast" not in table.columns:
        raise DataError(
            f"{table.label}: expected a column 'statecast-{target}'; received those of the targets "
            f"{targets}. Name the target to draw: target_col={targets[0]!r} or "
            f"--target-col {targets[0]}.",
            column=f"statecast-{target}",
        )
    check_columns(table, ("statecast",), ())
    ids = read_ids(table, names[0])
    step = np.full(len(ids), np.nan)
    # An item with k = 0 may have no dates. The numbers of its steps are in a separate column.
    numbers = "step" if "step" not in names else "step_number"
    dated = ~table.column(names[1]).is_null().to_numpy()
    if numbers in table.columns:
        step = read_floats(table.column(numbers), table.text)[0]
    if dated.all() or numbers not in table.columns:
        when = _on_clock(*read_when(table, names[1], ids))
    else:
        when = np.full(len(ids), "NaT", "datetime64[us]")
        if dated.any():
            rows = np.flatnonzero(dated)
            part = Table(table.frame[rows], table.label, table.kind, table.text)
            when[rows] = _on_clock(*read_when(part, names[1], [ids[row] for row in rows]))
    columns = {
        name: read_floats(table.column(name), table.text)[0]
        for name in table.columns
        if name == "statecast" or str(name).startswith(("statecast-lo-", "statecast-hi-"))
    }
    return _Forecast(table.label, table, ids, when, step, columns)


def _on_clock(when: np.ndarray, form: Form) -> np.ndarray:
    """Return steps for drawing. Dates are in the local time of their time zone."""
    return wall(when, form.zone) if form.dated else when


def _check_numbers(columns: Collection[str]) -> None:
    if "statecast" in columns and "statecast-nats" in columns:
        raise DataError(
            "The forecast: expected a forecast of numbers; received one of tokens, which has no "
            "fan chart. Read its table, or call text() of sampled sequences.",
            column="statecast",
        )


def _of_target(table: Table, target: str) -> Table:
    """Return the forecast of ``target`` from one of several targets, with its columns renamed."""
    median = f"statecast-{target}"
    if "statecast" in table.columns or median not in table.columns:
        return table
    renamed = {median: "statecast"}
    for name in map(str, table.columns):
        if name.startswith((f"{median}-lo-", f"{median}-hi-")):
            renamed[name] = name.replace(median, "statecast", 1)
    return Table(table.frame.rename(renamed), table.label, table.kind, table.text)


def _levels(forecast: _Forecast, level: Sequence[float] | None) -> list[float]:
    """Return the levels of the intervals to draw, the widest first."""
    lows = "statecast-lo-"
    if level is None:
        found = [name[len(lows) :] for name in forecast.columns if name.startswith(lows)]
        return sorted((float(each) for each in found), reverse=True)
    levels = [level] if isinstance(level, (int, float)) else list(level)
    for each in levels:
        for name in (f"statecast-lo-{each:g}", f"statecast-hi-{each:g}"):
            if name not in forecast.columns:
                raise DataError(
                    f"{forecast.label}: expected a column {name!r}; received "
                    f"{list(forecast.columns)}. Forecast with level={levels}.",
                    column=name,
                )
    return sorted(levels, reverse=True)


def _wanted(forecast: _Forecast, items: Any) -> list[Any]:
    """Return the ids of the items to draw."""
    ids = list(dict.fromkeys(forecast.ids))
    if items is None:
        return ids[:_MANY]
    single = isinstance(items, (str, bytes)) or not isinstance(items, Iterable)
    wanted = [items] if single else list(items)
    if not wanted:
        raise ArgumentError("items: expected at least one; received none.")
    by_text = {str(item): item for item in ids}  # ids from the command line are text
    found = [item if item in ids else by_text.get(str(item)) for item in wanted]
    for item, match in zip(wanted, found, strict=True):
        if match is None:
            raise DataError(
                f"{forecast.label}: expected an item {quoted(item)}; received {listed(ids, 5)}.",
                item=item,
            )
    return found


def _observed(series: Any, forecast: _Forecast, names: tuple[str, str, str]) -> _Observed:
    table = open_table(series, "series", "Y")
    if isinstance(table, np.ndarray):
        if forecast.table is not None:
            raise DataError(
                "Expected a table of series, as the forecast is a table; received an array."
            )
        row, at = np.nonzero(~np.isnan(table.astype(np.float64)))
        return _Observed(row.tolist(), at + 1.0, table[row, at].astype(np.float64), {}, None)
    check_columns(table, names)
    ids = read_ids(table, names[0])
    ids, _ = agree(ids, table, forecast.ids, forecast.table, names[0])
    when = _on_clock(*read_when(table, names[1], ids))
    y = read_y(table, names[2], ids)
    if (when.dtype.kind == "M") != (forecast.when.dtype.kind == "M"):
        kinds = ["numbers", "dates"] if when.dtype.kind == "M" else ["dates", "numbers"]
        raise DataError(
            f"{table.label}, column {names[1]!r}: expected {kinds[0]}, as in the forecast; "
            f"received {kinds[1]}.",
            column=names[1],
        )
    first, spacing = {}, None
    if when.dtype.kind == "M":
        place = {item: row for row, item in enumerate(dict.fromkeys(ids))}
        row = np.array([place[item] for item in ids])
        spacing = learn_spacing(when, row, lambda: [(when, row)], len(place), None)
        first = dict(zip(place, first_dates([(when, row)], len(place)), strict=True))
    keep = ~np.isnan(y)
    kept = [item for item, observed in zip(ids, keep, strict=True) if observed]
    return _Observed(kept, when[keep], y[keep], first, spacing)


def _dated(forecast: _Forecast, observed: _Observed) -> _Forecast:
    """Return the forecast with dates for items with k = 0, which have only step numbers.

    They are counted from the item's first date in the series.
    """
    when = forecast.when
    if when.dtype.kind != "M" or observed.spacing is None or not np.isnat(when).any():
        return forecast
    never = np.datetime64("NaT", "us")
    origin = np.array([observed.first.get(item, never) for item in forecast.ids], "datetime64[us]")
    rows = np.flatnonzero(np.isnat(when) & ~np.isnat(origin) & ~np.isnan(forecast.step))
    when = when.copy()
    when[rows] = observed.spacing.dates(origin[rows], forecast.step[rows].astype(np.int64))
    return replace(forecast, when=when)


def _fan(item: Any, forecast: _Forecast, levels: list[float], observed: _Observed | None) -> Fan:
    rows = forecast.rows(item)
    steps = forecast.when[rows]
    undated = steps.dtype.kind == "M" and bool(np.isnat(steps).any())
    if undated:
        rows = rows[np.argsort(forecast.step[rows], kind="stable")]
        steps = forecast.step[rows]
    seen = steps[:0], np.zeros(0)
    if observed is not None and not undated:
        of_item = np.array([i for i, each in enumerate(observed.ids) if each == item], np.int64)
        of_item = of_item[np.argsort(observed.when[of_item], kind="stable")]
        seen = observed.when[of_item], observed.y[of_item]
    columns = {name: values[rows] for name, values in forecast.columns.items()}
    return Fan.of(item, steps, columns, levels, seen)
