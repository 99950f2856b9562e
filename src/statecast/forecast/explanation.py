"""Explanations: the effects of observations and static features on a forecast, and its analogues.

Occlusion (Zeiler and Fergus 2014): an effect is the forecast minus the forecast without one
observation or static feature, with all else unchanged. An observation is removed by masking it. A
numeric feature is replaced by the mean of the training items, a categorical one by a new category.

An effect describes the forecast; it is not a causal effect. Effects are not additive: if two
features carry the same information, removing one of them changes little. With several targets the
observation of each target at a step is removed separately, and has an effect on the forecast of
every target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from statecast import notebook
from statecast.tables.ids import Kind
from statecast.tables.panel import Panel

_ROWS = 2048  # the most forecasts of one call: it bounds memory


@dataclass(frozen=True, eq=False)
class ForecastExplanation:
    """Effects of observations and static features on forecasts, from ``Forecaster.explain``.

    An effect is the median forecast minus the median forecast without the observation or feature,
    at each step after the prefix, in the units of y.

    Attributes
    ----------
    ids : array, ``(items,)``
    known : array of int, ``(items,)``
        The prefix length of each item. The steps after it are forecast, up to ``until``.
    observations : array, float64, ``(items, steps, until)``
        The effect of each observed step. NaN for a step that was not observed, and at steps without
        a forecast: those of the prefix and closed days. With several targets
        ``(items, steps, targets, until, targets)``: the effect of each target's observations on
        each target's forecast.
    statics : dict of str to array, float64, ``(items, until)``
        The effect of each static feature; NaN at steps without a forecast. With several targets
        ``(items, until, targets)``.
    analogues : array, ``(items, n)``
        The ids of the training items nearest in X and prefix, the nearest first. n is 0 if the
        forecaster has no analogues.
    weights : array, float64, ``(items, n)``
        Their weights in the forecast. The weights of all training items and of the network add up
        to 1.
    id_col : str
        The name of the column of ids in ``table``.
    kind : Kind
        The library of the tables and the type of the ids.
    targets : tuple of str
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

    def _repr_html_(self) -> str:
        frame = nw.from_native(self.table(), eager_only=True)
        text = repr(self)[1:-1].replace("ForecastExplanation", "Explanation", 1)
        return notebook.heading(text) + notebook.table(frame.columns, frame.rows())

    def table(self) -> Any:
        """A long table with a row for each effect; the rows of an item are in order of strength.

        The columns are:

        - the id;
        - ``what``: "observation", "static" or "analogue";
        - ``name``: the step, the column or the training item's id, as text;
        - ``effect``: the mean effect over the steps that are forecast;
        - ``strength``: the mean absolute effect over these steps;
        - ``weight``: the weight of an analogue in the forecast.

        An analogue with weight 0 has no row. An item has no analogues if the network's weight is 1:
        this weight was best on held-out items, or no training item has the same static features
        missing, or so long a prefix.

        With several targets the column ``target`` names the target of the forecast. It is null for
        analogues, which all targets share. The name of an observation is its target and step, such
        as ``lat-3``.
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
                    (
                        "observation",
                        f"{name}-{step}" if several else str(step),
                        effects[rest, place],
                    )
                    for step, each in enumerate(observed[i], self.first)
                    for name, effects in zip(self.targets, each, strict=True)
                ]
                every += [("static", name, each[i, rest, place]) for name, each in statics.items()]
                # NaN: closed steps, and all steps for a step that was not observed.
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
        schema[self.id_col] = nw.Int64()  # indices of `ids`, which are replaced below
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
        From a panel to its median forecasts, ``(rows, until)``.
    panel : Panel
    numeric, categorical : int
        The number of numeric and of categorical static features.

    Returns
    -------
    observations : array, float64, ``(rows, steps, until)``
        NaN for steps that were not observed, and on each row's prefix.
    statics : array, float64, ``(rows, numeric + categorical, until)``
        NaN on each row's prefix.
    """
    steps = int(panel.known.max(initial=0))
    forecasts = 1 + steps + numeric + categorical  # of a row: with all features, and without each
    observations, statics = [], []
    for first in range(0, max(panel.rows, 1), max(1, _ROWS // forecasts)):
        part = panel.take(slice(first, first + max(1, _ROWS // forecasts)))
        row, removed = np.nonzero(
            np.concatenate(
                [
                    np.ones((part.rows, 1), bool),
                    part.mask[:, :steps],
                    np.ones((part.rows, numeric + categorical), bool),
                ],
                axis=1,
            )
        )
        found = median(_without(part.take(row), removed, steps, numeric))
        until = found.shape[1]
        effect = np.full((part.rows, forecasts, until), np.nan)
        effect[row, removed] = found[removed == 0][row] - found
        effect[np.broadcast_to(np.arange(until) < part.known[:, None, None], effect.shape)] = np.nan
        observations.append(effect[:, 1 : 1 + steps])
        statics.append(effect[:, 1 + steps :])
    return np.concatenate(observations), np.concatenate(statics)


def _without(panel: Panel, removed: np.ndarray, steps: int, numeric: int) -> Panel:
    """The panel with one observation or static feature of each row removed.

    ``removed (rows,)`` is its index: 0 for none; then the steps, the numeric and the categorical
    static features.
    """
    row = np.arange(panel.rows)
    mask, numbers, codes = panel.mask.copy(), panel.numeric.copy(), panel.codes.copy()
    at = removed - 1
    gap = (at >= 0) & (at < steps)
    mask[row[gap], at[gap]] = False
    at = at - steps
    average = (at >= 0) & (at < numeric)
    numbers[row[average], at[average]] = 0.0
    numbers[row[average], numeric + at[average]] = 0.0  # the flag: it is not missing
    at = at - numeric
    codes[row[at >= 0], at[at >= 0]] = 0
    return replace(panel, mask=mask, y=np.where(mask, panel.y, 0), numeric=numbers, codes=codes)
