"""``Fan``, what the chart of one item shows, and charts of several items with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from statecast.plots.frame import (
    INK,
    OURS,
    PAPER,
    SOFT,
    fitted,
    grid,
    plain_numbers,
    tint,
    width_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Fan:
    """What the chart of one item shows. Steps are numbers (float64) or dates (datetime64).

    Attributes
    ----------
    title : str
    steps : array, ``(n,)``
        From the last observation of the prefix, where the intervals have no width, to the last
        step that is forecast.
    median : array, ``(n,)``
    intervals : dict of float to pair of array, ``(n,)``
        The lower and the upper end of each interval by its level in percent, the widest first.
    ends : number or date, or None
        Where the prefix ends; None if the item has dates and no prefix.
    known, truth : pair of array, ``(m,)``
        The steps and the values of the prefix, and of the later observations.
    """

    title: str
    steps: np.ndarray
    median: np.ndarray
    intervals: dict[float, tuple[np.ndarray, np.ndarray]]
    ends: Any
    known: tuple[np.ndarray, np.ndarray]
    truth: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(
        cls,
        title: object,
        steps: np.ndarray,
        columns: Mapping[str, np.ndarray],
        levels: Sequence[float],
        observed: tuple[np.ndarray, np.ndarray],
    ) -> Fan:
        """Return the chart of a forecast.

        Parameters
        ----------
        title : object
            The id of the item.
        steps : array, ``(n,)``
            The steps that are forecast, in order.
        columns : mapping of str to array, ``(n,)``
            By the names of the columns of ``Forecaster.predict``.
        levels : sequence of float
            The widest first.
        observed : pair of array, ``(m,)``
            The steps and the values of the observations, in order.
        """
        at, y = observed
        before = at < steps[0]
        known_x, known_y = at[before], y[before]
        ends = None
        if len(known_x):
            ends = known_x[-1] + (steps[0] - known_x[-1]) / 2
        elif steps.dtype.kind != "M":
            ends = steps[0] - 0.5

        def opened(name: str) -> np.ndarray:
            return np.concatenate([known_y[-1:], columns[name]])

        return cls(
            str(title),
            np.concatenate([known_x[-1:], steps]),
            opened("statecast"),
            {
                level: (opened(f"statecast-lo-{level:g}"), opened(f"statecast-hi-{level:g}"))
                for level in levels
            },
            ends,
            (known_x, known_y),
            (at[~before], y[~before]),
        )

    @property
    def dated(self) -> bool:
        """Whether the steps are dates."""
        return self.steps.dtype.kind == "M"

    @property
    def range(self) -> tuple[float, float]:
        """The ends of the axis of steps that are numbers."""
        first = float(self.steps[0])
        low = min(float(np.min(self.known[0], initial=first)), first)
        return low - 1.0, max(float(self.steps[-1]), first + 1.0) + 0.5


# -- drawing with matplotlib -----------------------------------------------------------------

_SIZE, _ALONE = (3.4, 2.7), (6.4, 4.0)  # of a panel, and of a single one, in inches
_BESIDE, _BELOW = 0.85, 1.0  # of a panel: the room of the numbers and labels of its axes


def draw_fans(
    fans: Sequence[Fan], step_label: str, target_label: str, *, share_y: bool = False
) -> Figure:
    """Draw the charts of several items in one figure.

    Charts without dates among charts with dates have the label "step".
    """
    size = _SIZE if len(fans) > 1 else _ALONE
    figure, axes = grid(len(fans), size=size, share_y=share_y)
    for axis, fan in zip(axes, fans, strict=True):
        _draw_fan(axis, fan, size)
    wide, high = size[0] - _BESIDE, size[1] - _BELOW
    dated = [fan.dated for fan in fans]
    _label_outer(axes, fitted(step_label, wide, 10), fitted(target_label, high, 10))
    for axis, dates in zip(axes, dated, strict=True):
        if any(dated) and not dates:  # this item has steps and no dates
            axis.set_xlabel("step", color=SOFT)
    _draw_legend(figure, axes, fans)
    return figure


def _draw_fan(axis: Axes, fan: Fan, size: tuple[float, float]) -> None:
    for place, (level, (low, high)) in enumerate(fan.intervals.items()):
        axis.fill_between(
            fan.steps,
            low,
            high,
            color=tint(place, len(fan.intervals)),
            linewidth=0,
            label=f"{level:g} %",
            zorder=1 + 0.1 * place,
        )
    axis.plot(fan.steps, fan.median, color=OURS, linewidth=1.8, label="median", zorder=3)
    if fan.ends is not None:
        style: dict[str, Any] = {"linewidth": 0.8, "dashes": (3, 3), "zorder": 2}
        axis.axvline(fan.ends, color=SOFT, label="prefix ends", **style)
    if len(fan.truth[0]):
        axis.plot(
            *fan.truth,
            "o",
            markersize=3.6,
            markerfacecolor=PAPER,
            markeredgecolor=INK,
            markeredgewidth=0.8,
            label="truth",
            zorder=4,
        )
    if len(fan.known[0]):
        axis.plot(*fan.known, "o", markersize=4.2, color=INK, label="known", zorder=5)
    wide = size[0] - _BESIDE
    axis.set_title(
        fitted(fan.title, wide, 10), loc="left", fontsize=10, color=INK, parse_math=False
    )
    plain_numbers(axis.yaxis)
    if fan.dated:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        class Dates(ConciseDateFormatter):
            """Writes the rest of the last date, such as its year, below it. matplotlib writes it
            to the right of the label of the axis, which may be long."""

            def format_ticks(self, values: Any) -> list[str]:
                *others, last = super().format_ticks(values) or [""]
                return [*others, f"{last}\n{super().get_offset()}".rstrip()]

            def get_offset(self) -> str:
                return ""

        locator = AutoDateLocator(maxticks=6)
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(Dates(locator))
    else:
        from matplotlib.ticker import MaxNLocator

        first, last = fan.range
        label = max(width_of(f"{each:.0f}", 8.5) for each in (first, last)) + 0.15
        most = max(2, min(7, int(wide / label) - 1))
        axis.xaxis.set_major_locator(MaxNLocator(most, integer=True))
        plain_numbers(axis.xaxis)
        axis.set_xlim(first, last)


def _draw_legend(figure: Figure, axes: list[Axes], fans: Sequence[Fan]) -> None:
    """Draw one legend above all panels, in as many rows as it needs."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    order = legend_order(fans)
    widest = max(width_of(name, 9) for name in order) + 9 / 72 * (1.4 + 0.8 + 1.6)
    width, height = figure.get_size_inches()
    columns = max(1, min(len(order), int((width - 0.2) / widest)))
    figure.set_figheight(height + 0.18 * (-(-len(order) // columns) - 1))
    figure.legend(
        [found[name] for name in order],
        order,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.4,
        columnspacing=1.6,
    )


def legend_order(fans: Sequence[Fan]) -> list[str]:
    """Return the names in the legend of some charts, in their order."""
    levels = list(dict.fromkeys(level for fan in fans for level in fan.intervals))
    there = {
        "known": any(len(fan.known[0]) for fan in fans),
        "truth": any(len(fan.truth[0]) for fan in fans),
        "median": True,
        **{f"{level:g} %": True for level in reversed(levels)},
        "prefix ends": any(fan.ends is not None for fan in fans),
    }
    return [name for name, shown in there.items() if shown]


def _label_outer(axes: list[Axes], x: str, y: str) -> None:
    """Label the y axes of the left panels and the x axes of the lowest panel of each column."""
    for place, axis in enumerate(axes):
        where = axis.get_subplotspec()
        columns = 1 if where is None else where.get_gridspec().ncols
        if place % columns == 0:
            axis.set_ylabel(y, color=SOFT, parse_math=False)
        if place + columns >= len(axes):
            axis.set_xlabel(x, color=SOFT, parse_math=False)
