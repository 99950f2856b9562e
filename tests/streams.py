"""Forecasters for sessions, and streams of observations beside what they amount to."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import polars as pl

from curves import T, curve_tables, fit_curves
from statecast.forecast.forecaster import Forecaster
from statecast.sessions import Sessions

DAY = dt.date(2024, 1, 1)
KINDS = ("plain", "several", "covariates", "dated")  # of the forecasters below


@cache
def plain(seed: int = 0) -> Forecaster:
    """Static features, one target, steps as numbers."""
    return fit_curves(seed=seed)


@cache
def several(seed: int = 0) -> Forecaster:
    """Two targets."""
    series, static = curve_tables(72)
    series = series.with_columns(z=pl.col("y") * 2 + (pl.col("ds") % 3))
    return fit_curves(series, static, target_col=["y", "z"], seed=seed)


@cache
def covariates(seed: int = 0) -> Forecaster:
    """Future and past covariates, numbers and text."""
    rng = np.random.default_rng(0)
    series, static = curve_tables(72)
    series = series.with_columns(visits=pl.Series(rng.normal(size=len(series))))
    item, step = (axis.ravel() for axis in np.indices((72, T)))
    future = pl.DataFrame({"unique_id": item, "ds": step + 1}).with_columns(
        promo=pl.Series(rng.normal(size=72 * T)), season=pl.Series(rng.choice(["a", "b"], 72 * T))
    )
    f = Forecaster(units=6, ensemble=3, epochs=2, seed=seed, encoding=4, past_cols=["visits"])
    return f.fit(series, static, future=future, verbose=0)


@cache
def dated(seed: int = 0) -> Forecaster:
    """Dates, without static features."""
    series, _ = curve_tables(72)
    series = series.with_columns(ds=pl.lit(DAY) + pl.duration(days=pl.col("ds") - 1))
    return fit_curves(series, seed=seed)


@dataclass
class Known:
    """What is known of one item, in plain Python."""

    static: Any  # features by name; None without any
    rows: dict[int, list[float]] = field(default_factory=dict)
    visits: dict[int, float] = field(default_factory=dict)
    future: dict[int, dict[str, Any]] = field(default_factory=dict)


class Stream:
    """Random observations of items, and what is known after them.

    With ``other``, a model of the same columns, ``act`` migrates to it and back.
    """

    def __init__(self, f: Forecaster, seed: int, other: Forecaster | None = None) -> None:
        self.f, self.rng, self.items = f, np.random.default_rng(seed), dict[str, Known]()
        self.other = other
        self.static = bool(f.schema.static.kinds)
        self.dated, self.targets = f.schema.spacing is not None, len(f.schema.targets)

    def step(self, number: int) -> Any:
        """A step as tables have it."""
        return DAY + dt.timedelta(days=number - 1) if self.dated else number

    def draw_static(self) -> dict[str, Any]:
        level = None if self.rng.random() < 0.1 else float(self.rng.normal())
        return {"level": level, "group": ["a", "b", None][self.rng.integers(3)]}

    def observe(self, sessions: Sessions, item: str, number: int, *, again: bool = False) -> str:
        """Observe an item at a step, or the same values ``again``; return the expected status."""
        rng, known = self.rng, self.items.get(item)
        new = known is None
        if known is None:
            known = self.items[item] = Known(self.draw_static() if self.static else None)
        before = dict(known.rows)
        more: dict[str, Any] = {"static": known.static} if new or rng.random() < 0.3 else {}
        gap = self.f.schema.future.kinds
        if gap:  # every step up to an observed one
            for each in range(1, number + 1):
                if each not in known.future:
                    plan = {"promo": float(rng.normal()), "season": str(rng.choice(["a", "b"]))}
                    sessions.observe(item, each, static=known.static, future=plan)
                    known.future[each] = plan
            if rng.random() < 0.5:
                more["future"] = known.future[number]
        if not again:
            values = (50 + 5 * rng.normal(size=self.targets)).tolist()
            if self.targets > 1 and rng.random() < 0.3:
                values[int(rng.integers(self.targets))] = float("nan")
            if self.dated and rng.random() < 0.15:  # a date without a value: it may be step 1
                values = [float("nan")]
            known.rows[number] = values
            if self.f.schema.past.kinds:
                known.visits[number] = float(rng.normal())
        if self.f.schema.past.kinds:
            more["past"] = {"visits": known.visits[number]}
        values = known.rows[number]
        given: Any = values if self.targets > 1 else values[0]
        found = sessions.observe(item, self.step(number), given, **more)
        (status,) = found.status
        assert found.revised == ((item,) if status in ("late", "corrected") else ())
        expected = "new"
        if number in before:
            same = np.array_equal(before[number], values, equal_nan=True)
            expected = "duplicate" if again or same else "corrected"
        elif before and number < max(before):
            expected = "late"
        assert status == expected
        return status

    def act(self, sessions: Sessions, reopened: Callable[[], Sessions]) -> Sessions:
        """One random act, most often an observation."""
        rng, items = self.rng, list(self.items)
        chance, item = rng.random(), f"item {rng.integers(4)}"
        known = self.items.get(item)
        if known is None or chance < 0.4:  # in order
            last = max(known.rows, default=0) if known else 0
            self.observe(sessions, item, min(last + int(rng.integers(1, 3)), T))
        elif chance < 0.65:  # late, a correction, or in order
            self.observe(sessions, item, int(rng.integers(1, T + 1)))
        elif chance < 0.75 and known.rows:
            self.observe(sessions, item, int(rng.choice(list(known.rows))), again=True)
        elif chance < 0.8 and self.static:  # other static features
            known.static = self.draw_static()
            sessions.observe(item, static=known.static)
        elif chance < 0.85:
            copy = f"copy {len(items)} of {item}"
            if copy not in self.items:
                sessions.fork(item, copy)
                self.items[copy] = Known(
                    known.static, dict(known.rows), dict(known.visits), dict(known.future)
                )
        elif chance < 0.88:
            assert sessions.delete(item) == 1
            del self.items[item]
        elif chance < 0.9:
            sessions.reset(item)
            self.items[item] = Known(known.static)
        elif chance < 0.92 and self.other is not None:
            sessions.migrate(self.other)
            self.f, self.other = self.other, self.f
        elif chance < 0.95:
            self.check(sessions)
        else:
            sessions.close()
            return reopened()
        return sessions

    def tables(self) -> tuple[Any, dict[str, Any]]:
        """What is known, as the tables of ``predict``."""
        schema, rows = self.f.schema, []
        for item, known in self.items.items():
            for number, values in sorted(known.rows.items()):
                row = {"unique_id": item, "ds": self.step(number)}
                row |= dict(zip(schema.target_cols, values, strict=True))
                if schema.past.kinds:
                    row["visits"] = known.visits[number]
                rows.append(row)
        series = pl.DataFrame(rows).fill_nan(None) if rows else None
        more: dict[str, Any] = {}
        if self.static:
            static = [{"unique_id": item, **k.static} for item, k in self.items.items()]
            types = {"level": pl.Float64, "group": pl.String}
            more["static"] = pl.DataFrame(static, schema_overrides=types)
        if schema.future.kinds:
            plans = [
                {"unique_id": item, "ds": number, **plan}
                for item, known in self.items.items()
                for number, plan in known.future.items()
            ]
            more["future"] = pl.DataFrame(plans)
        return series, more

    def check(self, sessions: Sessions) -> None:
        """States and forecasts equal those of one run over what is known, to the bit."""
        ids = list(self.items)
        assert sorted(sessions.items()) == sorted(ids)
        if not self.static:  # the tables have no items without rows
            ids = [item for item in ids if self.items[item].rows]
        if not ids:
            return
        series, more = self.tables()
        expected, found = self.f.state(series, **more), sessions.state(ids)
        row = {item: place for place, item in enumerate(expected.ids.tolist())}
        order = [row[item] for item in ids]
        for name in expected.names:
            assert found[name].tobytes() == expected[name][order].tobytes(), name
        horizon: dict[str, Any] = {"until": T, "level": [80], "mean": True}
        if "future" in more:  # no plan beyond the observed steps
            return
        left = sessions.forecast(ids, **horizon).sort("unique_id", "ds")
        right = self.f.predict(series, **more, **horizon).sort("unique_id", "ds")
        assert left.equals(right)
