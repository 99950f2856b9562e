"""Charts: fan charts of forecasts, and scores against the prefix length.

Each function returns a ``matplotlib.figure.Figure``; save it with ``figure.savefig(path)``.
pyplot is not used, so no global state changes, and no figure has to be closed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from statecast.errors import ArgumentError, DataError, MissingExtraError, listed, quoted
from statecast.tables.columns import read_floats, read_y
from statecast.tables.dates import Form, Spacing, first_dates, learn_spacing, wall
from statecast.tables.ids import agree, read_ids
from statecast.tables.source import ROLES, Table, check_columns, open_table
from statecast.tables.steps import read_when

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["fan", "scores"]

_INK, _SOFT, _FAINT = "#222222", "#6b6b6b", "#d9d9d9"
_OURS = "#0b5c94"
# The colours of Okabe and Ito, darker, so that text in these colours is legible
_OTHERS = ("#b85c00", "#00795a", "#a3497f", "#6b6b6b", "#8a6d00", "#4b4b9b")
_MANY = 6  # items drawn by default


# -- the fan chart ---------------------------------------------------------------------


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
) -> Figure:
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

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    DataError
        A table that cannot be used; an interval or an item that the forecast does not have.
    ArgumentError
        Several targets, or no items.
    MissingExtraError
        matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> Y = np.array([[1.0, 2.0, np.nan, np.nan]])
    >>> forecast = {"statecast": np.array([[np.nan, np.nan, 3.0, 4.0]])}
    >>> figure = fan(forecast, Y)
    >>> figure.axes[0].get_title(loc="left")
    '0'
    """
    target_col = _single(target_col)
    table = _forecast(forecast, (id_col, step_col), target_col)
    levels = _levels(table, level)
    wanted = _wanted(table, items)
    observed = None if series is None else _observed(series, table, (id_col, step_col, target_col))
    if observed is not None:
        table = _dated(table, observed)
    figure, axes = _grid(len(wanted), share_y)
    for axis, item in zip(axes, wanted, strict=True):
        _draw_fan(axis, item, table, levels, observed)
    dated = [axis.xaxis.get_converter() is not None for axis in axes]
    where = step_label or (step_col if step_col != "ds" else "date" if any(dated) else "step")
    _label_outer(axes, where, target_label or target_col)
    for axis, dates in zip(axes, dated, strict=True):
        if any(dated) and not dates:  # this item has steps and no dates
            axis.set_xlabel("step", color=_SOFT)
    _fan_legend(figure, axes, levels)
    return figure


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


def _draw_fan(
    axis: Axes,
    item: Any,
    forecast: _Forecast,
    levels: list[float],
    observed: _Observed | None,
) -> None:
    rows = forecast.rows(item)
    x = forecast.when[rows]
    undated = x.dtype.kind == "M" and bool(np.isnat(x).any())
    if undated:
        rows = rows[np.argsort(forecast.step[rows], kind="stable")]
        x = forecast.step[rows]
    known_x, known_y, true_x, true_y = x[:0], np.zeros(0), x[:0], np.zeros(0)
    if observed is not None and not undated:
        of_item = np.array([i for i, each in enumerate(observed.ids) if each == item], np.int64)
        of_item = of_item[np.argsort(observed.when[of_item], kind="stable")]
        before = observed.when[of_item] < x[0]
        known_x, known_y = observed.when[of_item[before]], observed.y[of_item[before]]
        true_x, true_y = observed.when[of_item[~before]], observed.y[of_item[~before]]

    # The fan begins at the last observation of the prefix, where its width is 0.
    fan_x = np.concatenate([known_x[-1:], x])

    def opened(name: str) -> np.ndarray:
        return np.concatenate([known_y[-1:], forecast.columns[name][rows]])

    for place, level in enumerate(levels):
        axis.fill_between(
            fan_x,
            opened(f"statecast-lo-{level:g}"),
            opened(f"statecast-hi-{level:g}"),
            color=_tint(place, len(levels)),
            linewidth=0,
            label=f"{level:g} %",
            zorder=1 + 0.1 * place,
        )
    axis.plot(fan_x, opened("statecast"), color=_OURS, linewidth=1.8, label="median", zorder=3)
    end = None
    if len(known_x):
        end = known_x[-1] + (x[0] - known_x[-1]) / 2
    elif x.dtype.kind != "M":
        end = x[0] - 0.5
    if end is not None:
        axis.axvline(end, color=_SOFT, linewidth=0.8, dashes=(3, 3), label="prefix ends", zorder=2)
    if len(true_x):
        axis.plot(
            true_x,
            true_y,
            "o",
            markersize=3.6,
            markerfacecolor="white",
            markeredgecolor=_INK,
            markeredgewidth=0.8,
            label="truth",
            zorder=4,
        )
    if len(known_x):
        axis.plot(known_x, known_y, "o", markersize=4.2, color=_INK, label="known", zorder=5)
    axis.set_title(str(item), loc="left", fontsize=10, color=_INK)
    if x.dtype.kind == "M":
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(maxticks=6)
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    else:
        from matplotlib.ticker import MaxNLocator

        axis.xaxis.set_major_locator(MaxNLocator(7, integer=True))
        axis.set_xlim(min(known_x.min(initial=math.inf), x[0]) - 1, max(x[-1], x[0] + 1) + 0.5)


def _tint(place: int, count: int) -> tuple[float, float, float]:
    """Return the colour of an interval, opaque as the bands overlap. A wider one is paler."""
    from matplotlib.colors import to_rgb

    share = 0.16 + 0.24 * place / max(count - 1, 1) if count > 1 else 0.28
    red, green, blue = (1 - share * (1 - part) for part in to_rgb(_OURS))
    return red, green, blue


def _fan_legend(figure: Figure, axes: list[Axes], levels: list[float]) -> None:
    """Draw one legend above all panels."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    order = ["known", "truth", "median", *(f"{level:g} %" for level in reversed(levels))]
    order = [name for name in (*order, "prefix ends") if name in found]
    figure.legend(
        [found[name] for name in order],
        order,
        loc="outside upper left",
        ncols=len(order),
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
        handlelength=1.4,
        columnspacing=1.6,
    )


# -- the scores ------------------------------------------------------------------------


def scores(scores: Any) -> Figure:
    """Draw WAPE and CRPS of the forecaster and the baselines against the prefix length.

    The band is the 95 % interval of the forecaster's score. In the panel of the CRPS a line marks
    the smallest k from which on the forecast is useful (``Scores.useful``). If all scores of a
    method are above 2.5 times the forecaster's largest score, the method is not drawn; its name and
    range of scores are written in the panel.

    Parameters
    ----------
    scores : Scores
        From ``cross_validation``. For several targets, the scores of one: ``scores["lat"]``.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ArgumentError
        A value that is not the ``Scores`` of one target.
    MissingExtraError
        matplotlib is not installed.

    Examples
    --------
    >>> from statecast import plots
    >>> from statecast.evaluate import Row, Scores
    >>> ridge = Row(0.30, 0.24, 0.80, 0.9, 540, method="ridge", known=0, items=20)
    >>> ours = Row(0.28, 0.22, 0.80, 0.9, 540, method="statecast", known=0, items=20)
    >>> figure = plots.scores(Scores((ours, ridge), "statecast", folds=5))
    >>> [axis.get_title(loc="left") for axis in figure.axes]
    ['WAPE', 'CRPS']
    """
    if not hasattr(scores, "rows"):
        raise ArgumentError(
            "scores: expected the Scores of one target, for example scores['lat']; received "
            f"{type(scores).__name__}."
        )
    figure, axes = _grid(2, False, columns=2, size=(4.6, 3.9))
    for axis, measure in zip(axes, ("wape", "crps"), strict=True):
        _draw_scores(axis, scores, measure)
    return figure


def _draw_scores(axis: Axes, scores: Any, measure: str) -> None:
    lines = _score_lines(scores, measure)
    limit = max((2.5 * max(line.values) for line in lines if line.ours), default=math.inf)
    far = [line for line in lines if min(line.values) > limit]
    near = [line for line in lines if min(line.values) <= limit]
    for line in near:
        _draw_line(axis, line)
        if line.ours:
            _draw_band(axis, line, [scores.interval(line.name, k, measure) for k in line.known])
    visible = [value for line in near for value in line.values if value <= limit]
    if visible:
        axis.set_ylim(0, 1.12 * max(visible))
    ks = list(scores.known)
    prefixes = {row.known: row.prefixes for row in scores.rows}
    axis.set_xticks(ks, [prefixes[k] for k in ks])
    reach = max(ks[-1] - ks[0], 1)
    axis.set_xlim(ks[0] - 0.05 * reach, ks[-1] + 0.05 * reach)
    _label_ends(axis, near, limit, ks[-1] + 0.08 * reach)
    if measure == "crps" and "mean curve" in (line.name for line in lines):
        _mark_useful(axis, scores.useful())
    axis.set_title(measure.upper(), loc="left", fontsize=11, color=_INK, fontweight="bold")
    axis.set_xlabel("known steps, k", color=_SOFT)
    _note_far(axis, far)


@dataclass(frozen=True)
class _Line:
    """The finite scores of a method by prefix length, and the colour of its line."""

    name: str
    known: list[int]
    values: list[float]
    colour: str
    ours: bool  # whether it is the forecaster

    def end(self, limit: float) -> tuple[float, float]:
        """Return the last point that is not above ``limit``."""
        points = zip(self.known, self.values, strict=True)
        return [(known, value) for known, value in points if value <= limit][-1]


def _score_lines(scores: Any, measure: str) -> list[_Line]:
    """Return the line of each method with a finite score. The baselines have different colours."""
    methods = dict.fromkeys(row.method for row in scores.rows)
    baselines = [name for name in methods if name != scores.forecaster]
    colours = {name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(baselines)}
    points: dict[str, list[tuple[int, float]]] = {}
    for row in scores.rows:
        value = getattr(row, measure)
        if math.isfinite(value):
            points.setdefault(row.method, []).append((row.known, value))
    return [
        _Line(
            name,
            [known for known, _ in found],
            [value for _, value in found],
            colours.get(name, _OURS),
            name == scores.forecaster,
        )
        for name, found in points.items()
    ]


def _draw_line(axis: Axes, line: _Line) -> None:
    axis.plot(
        line.known,
        line.values,
        "o-",
        color=line.colour,
        linewidth=2.8 if line.ours else 1.1,
        markersize=6 if line.ours else 3.2,
        label=line.name,
        zorder=2 if line.ours else 3,  # thin lines above the thick one, so that all are visible
    )


def _draw_band(axis: Axes, line: _Line, intervals: list[Any]) -> None:
    """Draw the intervals of a line's scores as a band, if all of them exist."""
    if None not in intervals:
        low, high = zip(*intervals, strict=True)
        axis.fill_between(line.known, low, high, color=_tint(0, 1), linewidth=0, zorder=1)


def _mark_useful(axis: Axes, useful: int | None) -> None:
    """Mark the prefix length from which on the forecast is useful."""
    if useful is None:
        return
    axis.axvline(useful, color=_SOFT, linewidth=0.8, dashes=(3, 3), zorder=0)
    axis.annotate(
        "useful from here",
        xy=(useful, 0),
        xytext=(4, 4),
        textcoords="offset points",
        color=_SOFT,
        fontsize=8,
    )


def _note_far(axis: Axes, far: list[_Line]) -> None:
    """Write the names and scores of the methods that are not drawn."""
    if not far:
        return
    notes = [f"{line.name}: {_span(line.values)}" for line in far]
    axis.text(
        0.02,
        0.03,
        "Off the chart:\n" + "\n".join(notes),
        transform=axis.transAxes,
        fontsize=8,
        color=_SOFT,
        va="bottom",
    )


def _span(values: list[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _label_ends(axis: Axes, lines: list[_Line], limit: float, x: float) -> None:
    """Write the name of each line to the right of its last visible point, and join the two.

    The names do not overlap.
    """
    if not lines:
        return
    top = axis.get_ylim()[1]
    gap = 0.062 * top
    ends = sorted(((*line.end(limit), line) for line in lines), key=lambda end: end[1])
    places: list[float] = []
    for _, y, _ in ends:
        places.append(max(y, places[-1] + gap) if places else y)
    # These names were moved upwards only. Centre each group of adjacent names on its lines.
    places = _recentred(places, [y for _, y, _ in ends], gap)
    for (end, y, line), place in zip(ends, places, strict=True):
        axis.annotate(
            line.name,
            xy=(end, y),
            xytext=(x, place),
            color=line.colour,
            fontsize=9.5 if line.ours else 8.5,
            fontweight="bold" if line.ours else "normal",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": line.colour,
                "linewidth": 0.5,
                "relpos": (0, 0.5),
                "shrinkB": 4,
            },
        )


def _recentred(places: list[float], wanted: list[float], gap: float) -> list[float]:
    """Centre each run of adjacent names on the mean position of its lines."""
    runs: list[list[int]] = [[i] for i in range(len(places))]
    centre = list(wanted)
    merged = True
    while merged:
        merged = False
        for i in range(len(runs) - 1):
            reach = gap * (len(runs[i]) + len(runs[i + 1])) / 2
            if centre[i + 1] - centre[i] < reach - 1e-12 * gap:
                run = runs[i] + runs[i + 1]
                runs[i : i + 2] = [run]
                centre[i : i + 2] = [sum(wanted[j] for j in run) / len(run)]
                merged = True
                break
    out = list(places)
    for run, middle in zip(runs, centre, strict=True):
        for j, index in enumerate(run):
            out[index] = middle + gap * (j - (len(run) - 1) / 2)
    return out


# -- the frame -------------------------------------------------------------------------


def _grid(
    count: int, share_y: bool, columns: int = 3, size: tuple[float, float] = (3.4, 2.7)
) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` panels, and their axes."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "Charts need matplotlib, which is not installed: pip install 'statecast[plots]'."
        ) from error
    columns = 2 if count == 4 else min(columns, count)
    rows = -(-count // columns)
    if count == 1:
        size = (6.4, 4.0)
    figure = Figure(
        figsize=(size[0] * columns, size[1] * rows + 0.4), dpi=150, layout="constrained"
    )
    # What a notebook calls. Only pyplot tells notebooks how to show a Figure, and it keeps figures
    # in memory until they are closed.
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    axes = list(grid.ravel())
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(_FAINT)
        axis.tick_params(colors=_SOFT, labelsize=8.5, length=3, color=_FAINT)
        axis.grid(axis="y", color=_FAINT, linewidth=0.6, alpha=0.6)
        axis.set_axisbelow(True)
    return figure, axes[:count]


def _png(figure: Figure) -> bytes:
    """Return the picture of a figure."""
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _label_outer(axes: list[Axes], x: str, y: str) -> None:
    """Label the y axes of the left panels and the x axes of the lowest panel of each column."""
    for place, axis in enumerate(axes):
        where = axis.get_subplotspec()
        columns = 1 if where is None else where.get_gridspec().ncols
        if place % columns == 0:
            axis.set_ylabel(y, color=_SOFT)
        if place + columns >= len(axes):
            axis.set_xlabel(x, color=_SOFT)
