"""Curves with static features, a forecaster fitted to them, and comparisons of forecasts."""

from typing import Any

import numpy as np
import polars as pl
from hypothesis import settings

from statecast.forecast.forecaster import Forecaster

T = 8

ROWS = 16  # computed at once at least: one shape for some of the items and for all

few = settings(max_examples=6, deadline=None)

CLOSE = 1e-5  # relative: what float32 sums of another order may differ by


def curve_tables(rows=ROWS, seed=0, scale=1.0):
    """Curves set by a number and a group, with gaps; as long tables."""
    rng = np.random.default_rng(seed)
    level, group = rng.normal(size=rows), rng.choice(["a", "b"], rows)
    steps = np.arange(1, T + 1)
    y = scale * (50 + 3 * level[:, None] + (1 + (group == "a"))[:, None] * steps)
    y = y + rng.normal(size=y.shape)
    seen = rng.random(y.shape) < 0.9
    seen[:, 0] = True
    row, step = np.nonzero(seen)
    series = pl.DataFrame({"unique_id": row, "ds": step + 1, "y": y[row, step]})
    static = pl.DataFrame({"unique_id": np.arange(rows), "level": level, "group": group})
    return series, static


def fit_curves(*tables: Any, **settings: Any):
    small: dict[str, Any] = {"units": 6, "ensemble": 3, "epochs": 3, "seed": 0}
    if len(tables) != 1:  # with static features
        small["encoding"] = 4
    # Rows enough for analogues and for the intervals' calibration.
    return Forecaster(**{**small, **settings}).fit(*(tables or curve_tables(72)), verbose=0)


def columns_of(table):
    return table.select(pl.col("^statecast.*$")).to_numpy()


def assert_same(found, expected, tolerance=CLOSE):
    found, expected = found.sort("unique_id", "ds"), expected.sort("unique_id", "ds")
    assert found["unique_id"].to_list() == expected["unique_id"].to_list()
    assert found["ds"].to_list() == expected["ds"].to_list()
    np.testing.assert_allclose(columns_of(found), columns_of(expected), rtol=tolerance)


def prefixes_of(series, known):
    """The first steps of each item: ``known`` is a mapping from id to k."""
    table = pl.DataFrame({"unique_id": list(known), "k": list(known.values())})
    return series.join(table, on="unique_id").filter(pl.col("ds") <= pl.col("k")).drop("k")


def mixed_prefixes(series, seed):
    rng = np.random.default_rng(seed)
    return prefixes_of(series, {i: int(rng.integers(0, T)) for i in range(ROWS)})


def forecast_of(f, series, static, **more):
    series = None if series is None or series.is_empty() else series
    return f.predict(series, static, **{"until": T, "level": [80, 95], **more})


def assert_agree(paths, forecast, rtol=2e-3):
    """99 paths have the forecast's quantiles at every step."""
    rest = np.sort(paths.values.swapaxes(1, 2)[np.arange(T) >= paths.known[:, None]], axis=-1)
    for column, q in (("statecast", 0.5), ("statecast-lo-80", 0.1), ("statecast-hi-80", 0.9)):
        found = np.array([np.interp(q, (np.arange(99) + 0.5) / 99, path) for path in rest])
        np.testing.assert_allclose(found, forecast[column].to_numpy(), rtol=rtol)
