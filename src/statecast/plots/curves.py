"""``scores``: the scores of methods against the prefix length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from statecast.errors import ArgumentError
from statecast.plots.frame import (
    INK,
    OURS,
    SOFT,
    colour_of,
    fitted,
    grid,
    need_matplotlib,
    plain_numbers,
    spread_labels,
    tint,
    width_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches. A panel has room for the axes, for the numbers of the y axis, and for the names of the
# methods on the right; above the axes for a title and a remark, below them for the numbers and the
# label of the x axis.
_AXES, _NUMBERS, _LONGEST_NAME = (3.0, 2.7), 0.75, 2.4
_ABOVE, _BELOW, _LINE, _NOTE = 0.55, 0.55, 0.185, 0.15
_NAME, _OUR_NAME, _SMALL = 8.5, 9.5, 8.0  # sizes of fonts


def scores(scores: Any) -> Figure:
    """Draw WAPE and CRPS of the forecaster and the baselines against the prefix length.

    The band is the 95 % interval of the forecaster's score. In the panel of the CRPS a line marks
    the smallest k from which on the forecast is useful (``Scores.useful``). If all scores of a
    method are above 2.5 times the forecaster's largest score, the method is not drawn; its name and
    range of scores are written below the panel. A method has the same colour in every figure.

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
    >>> from statecast.evaluate import Row, Scores
    >>> rows = [Row(0.02, 0.01, 0.8, 0.05, 900, "statecast", k, 30) for k in (0, 3)]
    >>> figure = scores(Scores(tuple(rows), "statecast", 1))
    >>> [axis.get_title(loc="left") for axis in figure.axes]
    ['WAPE', 'CRPS']
    """
    if not hasattr(scores, "rows"):
        raise ArgumentError(
            "scores: expected the Scores of one target, for example scores['lat']; received "
            f"{type(scores).__name__}."
        )
    need_matplotlib()
    panels = [_Panel.of(scores, measure) for measure in ("wape", "crps")]
    notes = max(len(panel.far) + 1 if panel.far else 0 for panel in panels)
    names = max(len(panel.near) for panel in panels)
    high = max(_AXES[1], names * _LINE)
    wide = max((_name_width(line) for panel in panels for line in panel.near), default=0.0)
    size = _AXES[0] + _NUMBERS + wide + 0.2, high + _ABOVE + _BELOW + notes * _NOTE
    figure, axes = grid(2, columns=2, size=size)
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel, scores, high)
    return figure


@dataclass(frozen=True)
class _Line:
    """The finite scores of a method by prefix length, and the colour of its line."""

    name: str
    known: list[int]
    values: list[float]
    ours: bool  # whether it is the forecaster

    @property
    def colour(self) -> str:
        return OURS if self.ours else colour_of(self.name)

    def end(self, limit: float) -> tuple[float, float]:
        """Return the last point that is not above ``limit``."""
        points = zip(self.known, self.values, strict=True)
        return [(known, value) for known, value in points if value <= limit][-1]


@dataclass(frozen=True)
class _Panel:
    """The lines of one measure: those that are drawn, and those that are far above ours."""

    measure: str
    near: list[_Line]
    far: list[_Line]
    limit: float

    @classmethod
    def of(cls, scores: Any, measure: str) -> _Panel:
        points: dict[str, list[tuple[int, float]]] = {}
        for row in scores.rows:
            value = getattr(row, measure)
            if math.isfinite(value):
                points.setdefault(row.method, []).append((row.known, value))
        lines = [
            _Line(
                name,
                [known for known, _ in found],
                [value for _, value in found],
                name == scores.forecaster,
            )
            for name, found in points.items()
        ]
        limit = max((2.5 * max(line.values) for line in lines if line.ours), default=math.inf)
        near = [line for line in lines if min(line.values) <= limit]
        return cls(measure, near, [line for line in lines if line not in near], limit)


def _name_of(line: _Line) -> str:
    size = _OUR_NAME if line.ours else _NAME
    return fitted(line.name, _LONGEST_NAME, size, bold=line.ours)


def _name_width(line: _Line) -> float:
    return width_of(_name_of(line), _OUR_NAME if line.ours else _NAME, bold=line.ours)


def _draw_panel(axis: Axes, panel: _Panel, scores: Any, high: float) -> None:
    """Draw one measure; ``high`` is the least height of the axes, in inches."""
    for line in panel.near:
        _draw_line(axis, line)
        if line.ours:
            found = [scores.interval(line.name, k, panel.measure) for k in line.known]
            _draw_band(axis, line, found)
    visible = [value for line in panel.near for value in line.values if value <= panel.limit]
    top = 1.12 * max(visible, default=0.0) or 1.0
    axis.set_ylim(0, top)
    plain_numbers(axis.yaxis)
    ks, prefixes = list(scores.known), {row.known: row.prefixes for row in scores.rows}
    reach = max(ks[-1] - ks[0], 1)
    axis.set_xlim(ks[0] - 0.05 * reach, ks[-1] + 0.05 * reach)
    places = [_AXES[0] * (k - ks[0]) / (1.1 * reach) for k in ks]
    axis.set_xticks(ks, spread_labels(places, [prefixes[k] for k in ks], 8.5))
    _label_ends(axis, panel, ks[-1] + 0.08 * reach, top, _LINE / high)
    if panel.measure == "crps" and "mean curve" in (each.name for each in panel.near + panel.far):
        _mark_useful(axis, scores.useful(), ks)
    axis.set_title(
        panel.measure.upper(), loc="left", fontsize=11, color=INK, fontweight="bold", pad=18
    )
    axis.set_xlabel("known steps, k", color=SOFT)
    _note_far(axis, panel.far)


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
        axis.fill_between(line.known, low, high, color=tint(0, 1), linewidth=0, zorder=1)


def _mark_useful(axis: Axes, useful: int | None, ks: Sequence[int]) -> None:
    """Mark the prefix length from which on the forecast is useful, above the axes."""
    if useful is None:
        return
    axis.axvline(useful, color=SOFT, linewidth=0.8, dashes=(3, 3), zorder=0)
    left = useful - ks[0] <= (ks[-1] - ks[0]) / 2
    axis.annotate(
        "useful from here",
        xy=(useful, 1),
        xycoords=axis.get_xaxis_transform(),
        xytext=(-2 if left else 2, 3),
        textcoords="offset points",
        ha="left" if left else "right",
        color=SOFT,
        fontsize=_SMALL,
        annotation_clip=False,
    )


def _note_far(axis: Axes, far: list[_Line]) -> None:
    """Write the names and scores of the methods that are not drawn, below the axes."""
    if not far:
        return
    notes = []
    for line in far:
        span = _span(line.values)
        name = fitted(line.name, _AXES[0] - width_of(f": {span}", _SMALL), _SMALL)
        notes.append(f"{name}: {span}")
    axis.annotate(
        "Off the chart:\n" + "\n".join(notes),
        xy=(0, 0),
        xycoords=("axes fraction", axis.xaxis.label),
        xytext=(0, -3),
        textcoords="offset points",
        fontsize=_SMALL,
        color=SOFT,
        va="top",
        annotation_clip=False,
        parse_math=False,
    )


def _span(values: list[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def _label_ends(axis: Axes, panel: _Panel, x: float, top: float, line: float) -> None:
    """Write the name of each line to the right of its last visible point, and join the two.

    ``line`` is the height of a name as a share of the axes, which have room for all names.
    """
    gap = line * top
    ends = sorted(((*each.end(panel.limit), each) for each in panel.near), key=lambda end: end[1])
    wanted = [y for _, y, _ in ends]
    places = _apart(wanted, gap, top)
    for (end, y, each), place in zip(ends, places, strict=True):
        axis.annotate(
            _name_of(each),
            xy=(end, y),
            xytext=(x, place),
            color=each.colour,
            fontsize=_OUR_NAME if each.ours else _NAME,
            fontweight="bold" if each.ours else "normal",
            va="center",
            annotation_clip=False,
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": each.colour,
                "linewidth": 0.5,
                "relpos": (0, 0.5),
                "shrinkB": 4,
            },
        )


def _apart(wanted: list[float], gap: float, top: float) -> list[float]:
    """Return places that are at least ``gap`` apart, near the ``wanted`` ones, which increase.

    Places that would be nearer are a run, which is centred on the mean of what its names want. All
    are between 0 and ``top``, where they have room.
    """
    runs: list[list[float]] = []
    for each in wanted:
        runs.append([each])
        while len(runs) > 1:
            (below, low), (above, high) = ((_mean(run), len(run)) for run in runs[-2:])
            if above - below >= gap * (low + high) / 2:
                break
            last = runs.pop()
            runs[-1] += last
    places = [_mean(run) + gap * (i - (len(run) - 1) / 2) for run in runs for i in range(len(run))]
    count = len(places)
    return [
        min(max(place, gap * (i + 0.5)), top - gap * (count - i - 0.5))
        for i, place in enumerate(places)
    ]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
