"""Explanations: the effects of observations and static features on a forecast, and its analogues.

Occlusion (Zeiler and Fergus 2014): an effect is the forecast less the forecast without one
observation or static feature, all else unchanged. An observation becomes a gap. A number is
replaced by the training items' average, a category by a new one. An effect is a property of the
forecast, not a cause. Effects do not add up: if two features carry the same information, leaving
out either changes little. With several targets an observation is that of one target at a step, and
it has an effect on the forecast of each target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from statecast.tables.ids import Kind
from statecast.tables.panel import Panel

_ROWS = 2048  # forecasts in one call: a bound on memory


@dataclass(frozen=True, eq=False)
class ForecastExplanation:
    """Effects of observations and static features on forecasts; made by ``Forecaster.explain``.

    An effect is the forecast (the median) with the observation or feature less that without it, at
    each step after the prefix, in the units of y.

    Attributes
    ----------
    ids : array, ``(items,)``
    known : array of int, ``(items,)``
        Each item's prefix length; its forecast is of the steps after it, up to ``until``.
    observations : array, float64, ``(items, steps, until)``
        The effect of each observed step. NaN where nothing was observed, and at steps without a
        forecast: the prefix, and days on which the calendar is closed. With several targets
        ``(items, steps, targets, until, targets)``: the effect of each target's observations on
        each target's forecast.
    statics : dict of str to array, float64, ``(items, until)``
        The effect of each static feature; NaN where there is no forecast. With several targets
        ``(items, until, targets)``.
    analogues : array, ``(items, n)``
        The ids of the training items nearest in X and prefix, nearest first; n is 0 if the
        forecaster has no analogues.
    weights : array, float64, ``(items, n)``
        Their weights in the forecast; those of all training items and of the network sum to 1.
    last : array of int, ``(items,)``
        The last step of each item that is forecast.
    first : int
        The number of step 1 in tables.
    """

    ids: np.ndarray
    known: np.ndarray
    observations: np.ndarray
    statics: dict[str, np.ndarray]
    analogues: np.ndarray
    weights: np.ndarray
    id_col: str
    kind: Kind
    targets: tuple[str, ...]
    last: np.ndarray
    first: int = 1

    def __repr__(self) -> str:
        steps, until = self.observations.shape[1], self.observations.shape[2]
        if len(self.targets) > 1:
            until = self.observations.shape[3]
        parts = [f"{len(self.ids):,} items", f"{steps:,} observed steps"]
        if self.statics:
            parts.append(f"static features {', '.join(self.statics)}")
        if self.analogues.shape[1]:
            parts.append(f"{self.analogues.shape[1]} analogues each")
        return (
            f"<ForecastExplanation of {', '.join(self.targets)}: {', '.join(parts)}; up to step "
            f"{until + self.first - 1:,}>"
        )

    def _repr_html_(self) -> str | None:
        # None if the table's library has no HTML (Arrow): then the text is shown.
        html = getattr(self.table(), "_repr_html_", None)
        return None if html is None else html()

    def table(self) -> Any:
        """A long table with a row for each effect, the largest of each item first.

        The columns are the id; ``what``: "observation", "static" or "analogue"; ``name``: the
        step, the column or the training item's id, as text; ``effect``: the mean over the steps
        that are forecast; ``strength``: the mean of its absolute value; ``weight``: of an analogue.
        An analogue with weight 0 has no row. An item has no analogues if the network's weight is 1:
        it was best on held-out items, or no training item has such features or so long a prefix.

        With several targets the column ``target`` names the target of the forecast. It is null for
        analogues, which are shared by all targets. An observation is named by its own target and
        step, such as ``lat-3``.
        """
        several = len(self.targets) > 1
        observed, statics = self.observations, self.statics
        if not several:  # add axes for the single target
            observed = observed[:, :, None, :, None]
            statics = {name: effects[..., None] for name, effects in statics.items()}
        rows: list[tuple[Any, ...]] = []
        for i in range(len(self.ids)):
            rest = slice(int(self.known[i]), int(self.last[i]))
            for place, target in enumerate(self.targets):
                every: list[tuple[str, str, np.ndarray]] = [
                    ("observation", f"{own}-{step}" if several else str(step), effects[rest, place])
                    for step, each in enumerate(observed[i], self.first)
                    for own, effects in zip(self.targets, each, strict=True)
                ]
                every += [("static", name, each[i, rest, place]) for name, each in statics.items()]
                # Closed steps have no effect; what was not observed has none at any step.
                found = [(what, name, each[~np.isnan(each)]) for what, name, each in every]
                found = [each for each in found if len(each[2])]
                found.sort(key=lambda each: -np.abs(each[2]).mean())
                rows += [
                    (i, target, what, name, float(e.mean()), float(np.abs(e).mean()), None)
                    for what, name, e in found
                ]
            rows += [
                (i, None, "analogue", str(other), None, None, float(weight))
                for other, weight in zip(self.analogues[i], self.weights[i], strict=True)
                if weight
            ]
        names = (self.id_col, "target", "what", "name", "effect", "strength", "weight")
        columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}
        schema: dict[str, Any] = {name: nw.Float64() for name in names[4:]} | {
            n: nw.String() for n in names[1:4]
        }
        schema[self.id_col] = nw.Int64()  # rows of ids
        shown = [name for name in names if several or name != "target"]
        data = {name: list(columns.get(name, ())) for name in shown}
        backend: Any = "polars" if self.kind.library == "arrays" else self.kind.library
        frame = nw.from_dict(data, {n: schema[n] for n in shown}, backend=backend)
        row = np.array(data[self.id_col], np.int64)
        kind = replace(self.kind, library=backend)
        return frame.with_columns(kind.ids_column(self.id_col, self.ids, row)).to_native()


def effects(
    median: Callable[[Panel], np.ndarray], panel: Panel, numeric: int, categorical: int
) -> tuple[np.ndarray, np.ndarray]:
    """The effects of each observation and static feature of a panel.

    Parameters
    ----------
    median : callable
        Takes a panel and returns its forecasts, ``(rows, until)``.
    panel : Panel
    numeric, categorical : int
        The numbers of numeric and of categorical static features.

    Returns
    -------
    observations : array, float64, ``(rows, steps, until)``
        NaN where nothing was observed, and on each row's prefix.
    statics : array, float64, ``(rows, numeric + categorical, until)``
        NaN on each row's prefix.
    """
    steps = int(panel.known.max(initial=0))
    things = 1 + steps + numeric + categorical
    seen, moved = [], []
    for first in range(0, max(panel.rows, 1), max(1, _ROWS // things)):
        part = panel.take(slice(first, first + max(1, _ROWS // things)))
        row, thing = np.nonzero(
            np.concatenate(
                [
                    np.ones((part.rows, 1), bool),
                    part.mask[:, :steps],
                    np.ones((part.rows, numeric + categorical), bool),
                ],
                axis=1,
            )
        )
        found = median(_without(part.take(row), thing, steps, numeric))
        until = found.shape[1]
        effect = np.full((part.rows, things, until), np.nan)
        effect[row, thing] = found[thing == 0][row] - found
        effect[np.broadcast_to(np.arange(until) < part.known[:, None, None], effect.shape)] = np.nan
        seen.append(effect[:, 1 : 1 + steps])
        moved.append(effect[:, 1 + steps :])
    return np.concatenate(seen), np.concatenate(moved)


def _without(panel: Panel, thing: np.ndarray, steps: int, numeric: int) -> Panel:
    """Each row without one feature, by its index ``thing``: 0 for none, then the steps, the numeric
    and the categorical statics."""
    row = np.arange(panel.rows)
    mask, numbers, codes = panel.mask.copy(), panel.numeric.copy(), panel.codes.copy()
    at = thing - 1
    gap = (at >= 0) & (at < steps)
    mask[row[gap], at[gap]] = False
    at = at - steps
    average = (at >= 0) & (at < numeric)
    numbers[row[average], at[average]] = 0.0
    numbers[row[average], numeric + at[average]] = 0.0  # and its flag: not missing
    at = at - numeric
    codes[row[at >= 0], at[at >= 0]] = 0
    return replace(panel, mask=mask, y=np.where(mask, panel.y, 0), numeric=numbers, codes=codes)
