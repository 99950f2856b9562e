"""Charts of several items with Plotly: the content of ``draw_fans``, to point at and to zoom."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from statecast.errors import MissingExtraError
from statecast.plots.fans import Fan, legend_order
from statecast.plots.frame import FAINT, INK, OURS, PAPER, SOFT, shortened, tint

_WIDTH, _HEIGHT = 340, 270  # of a panel, in pixels of the screen; the width follows the window
_LETTERS = 34  # of a title or a label


def draw_interactive(
    fans: Sequence[Fan], step_label: str, target_label: str, *, share_y: bool = False
) -> Any:
    """Draw the charts of several items in one figure of Plotly; the arguments are those of
    ``draw_fans``.

    Raises
    ------
    MissingExtraError
        Plotly is not installed.
    """
    try:
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise MissingExtraError(
            "Interactive charts need Plotly, which is not installed: "
            "pip install 'statecast[interactive]'."
        ) from error
    columns = 2 if len(fans) == 4 else min(3, len(fans))
    rows = -(-len(fans) // columns)
    # Plotly reads texts as HTML.
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[f"<b>{_text(fan.title)}</b>" for fan in fans],
        shared_yaxes="all" if share_y else False,
        vertical_spacing=min(0.12, 0.3 / rows),
        horizontal_spacing=0.07,
    )
    rank = {name: place for place, name in enumerate(legend_order(fans))}
    named: set[str] = set()
    dated = any(fan.dated for fan in fans)
    for place, fan in enumerate(fans):
        at = {"row": 1 + place // columns, "col": 1 + place % columns}
        for trace in _traces(fan):
            name = trace["legendgroup"]
            shown = name not in named and trace.pop("showlegend", True)
            named |= {name} if shown else set()
            figure.add_trace(trace | {"showlegend": shown, "legendrank": 1 + rank[name]}, **at)
        step = "step" if dated and not fan.dated else step_label
        last = place + columns >= len(fans)
        figure.update_xaxes(
            title_text=_text(step) if last or step != step_label else None,
            range=None if fan.dated else list(fan.range),
            **at,
        )
        if at["col"] == 1:
            figure.update_yaxes(title_text=_text(target_label), **at)
    axis = {"gridcolor": FAINT, "linecolor": FAINT, "tickcolor": FAINT, "zeroline": False}
    figure.update_xaxes(showgrid=False, showline=True, ticks="outside", **axis)
    figure.update_yaxes(showline=True, ticks="outside", **axis)
    figure.update_layout(
        height=_HEIGHT * rows + 110,
        width=None if columns > 1 else 2 * _WIDTH,
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        font={"color": SOFT, "size": 12},
        hovermode="x unified",
        legend={"orientation": "h", "y": 1.0, "yref": "container", "yanchor": "top"},
        margin={"t": 80, "l": 60, "r": 20, "b": 50},
    )
    return figure


def _traces(fan: Fan) -> list[dict[str, Any]]:
    """The lines, areas and points of one chart, with the names of the legend as their groups."""
    found: list[dict[str, Any]] = []

    def add(name: str, x: Any, y: Any, **style: Any) -> None:
        found.append({"type": "scatter", "name": name, "legendgroup": name, "x": x, "y": y} | style)

    for place, (level, (low, high)) in enumerate(fan.intervals.items()):
        name, colour = f"{level:g} %", tint(place, len(fan.intervals))
        edge: dict[str, Any] = {"mode": "lines", "line": {"width": 0, "color": colour}}
        add(name, fan.steps, low, showlegend=False, **edge)
        add(name, fan.steps, high, fill="tonexty", fillcolor=colour, **edge)
    add("median", fan.steps, fan.median, mode="lines", line={"color": OURS, "width": 2.5})
    if fan.ends is not None:
        values = [fan.median, *(each for pair in fan.intervals.values() for each in pair)]
        every = np.concatenate([*values, fan.known[1], fan.truth[1]])
        line = {"color": SOFT, "width": 1, "dash": "dash"}
        ends = np.array([fan.ends, fan.ends])
        span = np.array([np.nanmin(every), np.nanmax(every)])
        add("prefix ends", ends, span, mode="lines", line=line, hoverinfo="skip")
    if len(fan.truth[0]):
        hollow = {"color": PAPER, "size": 7, "line": {"color": INK, "width": 1.2}}
        add("truth", *fan.truth, mode="markers", marker=hollow)
    if len(fan.known[0]):
        add("known", *fan.known, mode="markers", marker={"color": INK, "size": 8})
    return found


def _text(text: str) -> str:
    """A text as Plotly's HTML. Plotly has no escape of ``$``, which begins a formula: without the
    script of MathJax, which the page does not have, it is a dollar."""
    return escape(shortened(" ".join(text.split()), _LETTERS), quote=False)
