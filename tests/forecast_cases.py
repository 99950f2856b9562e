"""Forecasters of every kind with random weights, their tables, and new items: for tests of programs
that repeat the forecasts of ``predict`` without Python.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest

from statecast.errors import DataWarning
from statecast.forecast.forecaster import Forecaster
from statecast.networks.decoder import weight_shapes

STEPS = 7
LEVELS = {
    "": 0.5,
    "-lo-80": 0.1,
    "-hi-80": 0.9,
    "-q-0.01": 0.01,
    "-q-0.33": 0.33,
    "-q-0.995": 0.995,
}


@dataclass
class Data:
    """Raw data of a case: ``y`` is ``(rows, steps, targets)``; a dict of cells for each row (and
    step)."""

    y: np.ndarray
    known: np.ndarray
    static: list[dict[str, Any]] = field(default_factory=list)
    future: list[list[dict[str, Any]]] = field(default_factory=list)
    past: list[list[dict[str, Any]]] = field(default_factory=list)

    def take(self, rows: Any) -> Data:
        pick = [
            [each[i] for i in rows] if each else []
            for each in (self.static, self.future, self.past)
        ]
        return Data(self.y[rows], self.known[rows], *pick)


@dataclass(frozen=True)
class Case:
    """Settings, and what the training data have."""

    settings: dict[str, Any] = field(default_factory=dict)
    kind: str = "plain"  # of the values
    statics: bool = True
    future: bool = False
    past: bool = False
    targets: int = 1
    rows: int = 40
    gaps: float = 0.15  # the share of missing values
    never: int | None = None  # a step at which no item is observed
    dated: bool = False  # steps are days, weekends are closed, and some past cells are empty

    def data(self, rows: int, seed: int, steps: int = STEPS) -> Data:
        rng = np.random.default_rng([seed, 9])
        level, group = rng.normal(size=rows), rng.choice(["a", "b", "c"], rows)
        static = [
            {"level": v, "group": g} for v, g in zip(level.tolist(), group.tolist(), strict=True)
        ]
        visits = rng.gamma(1.0, 2.0, (rows, steps))
        promo = rng.choice(["yes", "no"], (rows, steps))
        price = rng.normal(size=(rows, steps))
        y = level[:, None, None] + np.linspace(0, 2, steps)[:, None] * (group == "a")[:, None, None]
        y = (
            y
            + 0.3 * rng.normal(size=(rows, steps, self.targets)).cumsum(axis=1)
            + (promo == "yes")[..., None]
        )
        if self.kind == "counts":
            y = rng.poisson(np.exp(0.7 * y)).astype(float)
        elif self.kind == "positive":
            y = np.exp(y)
        elif self.kind == "shares":
            y = 10 / (1 + np.exp(-y))
        y[rng.random(y.shape) < self.gaps] = np.nan
        y[:, 0] = np.where(np.isnan(y[:, 0]), 1.0, y[:, 0])
        if self.never is not None:
            y[:, self.never - 1] = np.nan
        future = [[{"promo": p, "price": v} for p, v in zip(*each, strict=True)]
                  for each in zip(promo.tolist(), price.tolist(), strict=True)]  # fmt: skip
        past = [[{"visits": v} for v in each] for each in visits.tolist()]
        if self.dated:
            for row, step in np.ndindex(rows, steps):
                if self.closed(row, step):
                    y[row, step] = np.nan
                if self.closed(row, step) or (row + 2 * step) % 5 == 1:
                    past[row][step] = {"visits": None}
        return Data(
            y,
            np.full(rows, steps),
            static if self.statics else [{} for _ in range(rows)],
            future if self.future else [],
            past if self.past else [],
        )

    def tables(self, data: Data) -> tuple[pl.DataFrame, pl.DataFrame | None, pl.DataFrame | None]:
        """The series up to each row's k, the static table, the future table."""
        names = self.names
        row, at = np.nonzero(np.arange(data.y.shape[1]) < data.known[:, None])
        series = {"unique_id": row, "ds": at + 1} | {
            name: data.y[row, at, i] for i, name in enumerate(names)
        }
        if self.past:
            series["visits"] = [data.past[r][t]["visits"] for r, t in zip(row, at, strict=True)]
        table = pl.DataFrame(series).with_columns(pl.col(*names).fill_nan(None))
        if self.dated:  # a day of which nothing is known has no row, but at some gaps
            empty = pl.all_horizontal(pl.col("visits", *names).is_null())
            gap = pl.col("unique_id") % 2 == 0
            begin = pl.col("unique_id") % 5 + 7 * (pl.col("unique_id") // 5)
            shut = pl.Series(
                [self.closed(int(r), int(t)) for r, t in zip(row, at, strict=True)],
                dtype=pl.Boolean,
            )
            table = table.filter(~shut & (~empty | gap)).with_columns(
                ds=date(2024, 1, 1) + pl.duration(days=begin + pl.col("ds") - 1)
            )
        static = future = None
        if self.statics:
            static = pl.DataFrame([{"unique_id": i, **each} for i, each in enumerate(data.static)])
            if "group_col" in self.settings:
                static = static.with_columns(group=pl.col("unique_id") // 3)
        if self.future:
            future = pl.DataFrame(
                [
                    {"unique_id": i, "ds": t + 1, **cell}
                    for i, each in enumerate(data.future)
                    for t, cell in enumerate(each)
                ]
            )
        return table, static, future

    def closed(self, row: int, step: int) -> bool:
        """Whether a step, from 0, is on a weekend. Item ``row`` begins on one of five weekdays."""
        return self.dated and (row % 5 + step) % 7 > 4

    @property
    def names(self) -> list[str]:
        return ["y", "z", "w"][: self.targets]

    def fit(self) -> Forecaster:
        small: dict[str, Any] = {"units": 4, "ensemble": 2}
        if self.past:
            small["past_cols"] = ["visits"]
        if self.targets > 1:
            small["target_col"] = self.names
        if self.statics or self.future or self.past:
            small["encoding"] = 3
        data = self.data(self.rows, 0)
        if self.settings.get("ends"):
            data.known = np.random.default_rng(0).integers(2, STEPS + 1, self.rows)
        series, static, future = self.tables(data)
        return with_random_weights(Forecaster(**small | self.settings), series, static, future)


def with_random_weights(f: Any, series: Any, static: Any, future: Any = None) -> Any:
    """The forecaster, fitted to tables but for its network, whose weights are random.

    All weights differ from each other, as those of a training of a few epochs would not; and it
    takes no backend.
    """
    schema = f._learn_schema(series, static, future)
    panel = schema.panel(series, static, future=future, for_fit=True)
    decoder, options = f._plan(schema)
    rng = np.random.default_rng(3)
    weights = {
        name: rng.normal(0, 0.6 / max(1, shape[-2]) ** 0.5, shape).astype("float32")
        for name, shape in weight_shapes(decoder, **options).items()
    }
    held = np.arange(panel.rows) % f.settings.ensemble == np.arange(f.settings.ensemble)[:, None]
    with pytest.MonkeyPatch.context() as patch:
        # So few items have the same offsets of calibration at all horizons otherwise.
        patch.setattr("statecast.forecast.stacking._ENOUGH", 10)
        before = f._learn_before(schema, panel)
        companions = f._learn_after(schema, weights, panel, held, before, 0)
    if companions.dependence is not None:  # forecasts in time would take a training
        spread = np.linspace(1.0, 2.0, len(companions.dependence.known))
        dependence = replace(companions.dependence, spread=spread)
        companions = replace(companions, dependence=dependence)
    f._adopt(schema, weights, {}, companions)
    return f


CASES = {
    "plain": Case(),
    "encoder": Case({"encoding_hidden": 5, "encoding_intervals": 4}),
    "normal-gru-two-layers-state": Case(
        {"head": "normal", "cell": "gru", "layers": 2, "conditioning": "state", "depth": 2}
    ),
    "student-rnn-inputs-alone": Case(
        {"head": "student_t", "cell": "simple_rnn", "conditioning": "inputs",
         "analogues": False}
    ),
    "no-statics": Case({"cell": "gru"}, statics=False),
    "targets": Case({"layers": 2}, targets=2, rows=30),
    "targets-covariates": Case({}, targets=2, future=True, past=True),
    "both-future-past": Case({"cell": "gru", "conditioning": "both"}, future=True, past=True),
    "past": Case({"head": "normal"}, past=True, statics=False),
    "negative-binomial": Case({"head": "negative_binomial"}, "counts", future=True),
    "poisson-analogues": Case({"head": "poisson", "layers": 2}, "counts"),
    "lognormal": Case({"head": "lognormal"}, "positive"),
    "logitnormal": Case({"head": "logitnormal", "bounds": (0, 10)}, "shares", future=True),
    "ends": Case({"ends": True}),
    "groups": Case({"group_col": "group"}),
    "few": Case({}, rows=6),
    "many": Case({"transform": "log"}, "positive", rows=130),
    "far": Case({}, "far", statics=False, rows=130, gaps=0.4),
    "past-closed-days": Case({"cell": "gru"}, past=True, dated=True),
    "a-step-never-observed": Case({}, never=4, targets=2),
}  # fmt: skip


def prefixes(case: Case, rows: int = 8) -> Data:
    """New items with every k, some with missing or new features, and beyond the longest one."""
    data = case.data(rows, 1, STEPS + 2)
    data.known = np.array([0, 1, 2, 3, STEPS - 1, STEPS, STEPS + 1, 4])[:rows]
    rng = np.random.default_rng(5)
    if case.statics:
        data.static[1] |= {"level": None}
        data.static[2] |= {"group": "new"}
        data.static[3] |= {"group": None}
    if case.future:
        data.future[0][3] = {"promo": None, "price": None}
    if case.kind == "far":  # from all training items: most weights are 0 in float32
        data.y *= np.linspace(100, 300, rows)[:, None, None]
    for row, k in enumerate(data.known):
        while k and case.closed(row, k - 1):
            data.known[row] = k = k - 1
        if k:  # a prefix ends with an observation
            last = data.y[row, k - 1]
            last[:1] = np.where(np.isnan(last[:1]), rng.choice([1.0, 2.0], 1), last[:1])
    return data


def predicted(f: Forecaster, case: Case, data: Data, until: int) -> pl.DataFrame:
    shown = Data(data.y.copy(), data.known, data.static, data.future, data.past)
    series, static, future = case.tables(shown)
    if static is None and future is None:  # an item without rows is unknown
        series = pl.concat([series, series.head(0)])
    with pytest.warns(DataWarning):
        return f.predict(
            series, static, until=until, future=future, level=80, quantiles=[0.01, 0.33, 0.995]
        )
