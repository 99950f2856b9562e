"""Charts of the calibration of forecasts, and of their scores by horizon, for a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from statecast.plots.frame import (
    INK,
    OURS,
    SOFT,
    colour_of,
    fitted,
    grid,
    plain_numbers,
    tint,
    width_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = (3.4, 2.7)  # of a panel, in inches
_MOST = 6  # panels of prefix lengths


def draw_horizons(curves: Mapping[int, Mapping[str, np.ndarray]], ours: str) -> Figure:
    """Draw the CRPS of each method against the number of steps after the prefix.

    Parameters
    ----------
    curves : mapping of k to mapping of method to array, ``(horizons,)``
        NaN where nothing was observed. There is a panel for each prefix length, at most six.
    ours : str
        The name of the forecaster among the methods.
    """
    known = sorted(curves)
    if len(known) > _MOST:
        at = np.linspace(0, len(known) - 1, _MOST).round().astype(int)
        known = [known[i] for i in at]
    figure, axes = grid(len(known), size=_SIZE)
    handles = {}
    for axis, k in zip(axes, known, strict=True):
        best = curves[k][ours]
        for name, values in curves[k].items():
            horizon = np.arange(1, len(values) + 1)
            alone = np.isfinite(values).sum() == 1
            (handles[name],) = axis.plot(
                horizon,
                values,
                "o" if alone else "-",
                color=OURS if name == ours else colour_of(name),
                linewidth=2.8 if name == ours else 1.1,
                zorder=2 if name == ours else 3,
            )
        top = 2.5 * np.nanmax(best, initial=0.0)
        largest = max(np.nanmax(values, initial=0.0) for values in curves[k].values())
        axis.set_ylim(0, 1.06 * min(top or 1.0, largest or 1.0))
        axis.set_xlim(0.5, len(best) + 0.5)
        _whole_steps(axis, len(best))
        plain_numbers(axis.yaxis)
        axis.set_title(f"from k = {k}", loc="left", fontsize=10, color=INK)
        axis.set_xlabel("steps after the prefix", color=SOFT)
    axes[0].set_ylabel("CRPS", color=SOFT)
    names = {name: fitted(name, 2.0, 9) for name in handles}
    widest = max(width_of(name, 9) for name in names.values()) + 0.48
    width, height = figure.get_size_inches()
    columns = max(1, min(len(names), int((width - 0.2) / widest)))
    figure.set_figheight(height + 0.18 * (-(-len(names) // columns) - 1))
    legend = figure.legend(
        list(handles.values()),
        list(names.values()),
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.4,
        columnspacing=1.6,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def draw_calibration(histogram: np.ndarray, inside: Mapping[float, np.ndarray]) -> Figure:
    """Draw in which tenth of their predictive distribution the values lie, and how many of them lie
    within the intervals, by horizon.

    Parameters
    ----------
    histogram : array, ``(bins,)``
        The shares of the values.
    inside : mapping of float to array, ``(horizons, 2)``
        By the level in percent: the values within the interval, and all values.
    """
    figure, (left, right) = grid(2, columns=2, size=(4.6, 3.2))
    bins = len(histogram)
    left.bar(
        (np.arange(bins) + 0.5) / bins, histogram, width=0.92 / bins, color=tint(0, 1), zorder=2
    )
    left.axhline(1 / bins, color=SOFT, linewidth=0.8, dashes=(3, 3), zorder=3)
    left.set_xlim(0, 1)
    left.set_ylim(0, 1.12 * max(histogram.max(initial=0.0), 1 / bins))
    plain_numbers(left.xaxis)
    plain_numbers(left.yaxis)
    left.set_title("Values in their distribution", loc="left", fontsize=10, color=INK)
    left.set_xlabel("probability of a smaller value", color=SOFT)
    left.set_ylabel("share of values", color=SOFT)
    for place, (level, counts) in enumerate(sorted(inside.items(), reverse=True)):
        within, values = counts.T
        horizon = np.arange(1, len(values) + 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = within / values
            spread = 1.96 * np.sqrt(level / 100 * (1 - level / 100) / values)
        low, high = np.clip(level / 100 - spread, 0, 1), np.clip(level / 100 + spread, 0, 1)
        there = np.isfinite(spread)
        right.fill_between(
            horizon[there], low[there], high[there], color=tint(place, len(inside)), linewidth=0
        )
        right.axhline(level / 100, color=SOFT, linewidth=0.8, dashes=(3, 3), zorder=2)
        right.plot(horizon[there], share[there], "o-", color=OURS, markersize=3, zorder=3)
    _label_levels(right, sorted(inside))
    right.set_ylim(0, 1.03)
    right.set_xlim(0.5, max(len(each) for each in inside.values()) + 0.5)
    _whole_steps(right, max(len(each) for each in inside.values()))
    plain_numbers(right.yaxis)
    right.set_title("Share of values within the intervals", loc="left", fontsize=10, color=INK)
    right.set_xlabel("steps after the prefix", color=SOFT)
    return figure


def _whole_steps(axis: Axes, last: int) -> None:
    """Write whole numbers at the x axis."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(min(6, max(last - 1, 1)), integer=True))
    plain_numbers(axis.xaxis)


def _label_levels(axis: Axes, levels: Sequence[float]) -> None:
    """Write the levels of the intervals to the right of the axes, where there is room for them."""
    free = -1.0
    for level in levels:
        place = max(level / 100, free)
        if place > 1.0:
            return
        axis.annotate(
            f"{level:g} %",
            xy=(1, place),
            xycoords=axis.get_yaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=SOFT,
            fontsize=8.5,
            annotation_clip=False,
        )
        free = place + 0.07
