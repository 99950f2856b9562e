"""Properties of a forecaster of numbers that hold for any training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from statecast.forecast.forecaster import Forecaster

CLOSE = 1e-5  # relative: what float32 sums of another order may differ by


def values(table: pl.DataFrame) -> np.ndarray:
    """The columns of a forecast, ``(rows, columns)``."""
    return table.select(pl.col("^statecast.*$")).to_numpy()


def same(found: pl.DataFrame, expected: pl.DataFrame, atol: float = 0.0) -> None:
    """Two forecasts are one, but for the order of float32 sums."""
    assert found.select("unique_id", "ds").equals(expected.select("unique_id", "ds"))
    np.testing.assert_allclose(values(found), values(expected), rtol=CLOSE, atol=atol)


def mixed(series: pl.DataFrame, seed: int = 1) -> pl.DataFrame:
    """Prefixes of every length, none included, of the items 0, 1, ..."""
    items, steps = series["unique_id"].n_unique(), series["ds"].to_numpy().max()
    k = np.random.default_rng(seed).integers(0, steps - 1, items)
    k = pl.DataFrame({"unique_id": range(items), "k": k})
    return series.join(k, on="unique_id").filter(pl.col("ds") <= pl.col("k")).drop("k")


def every_k_alone_among_others_and_from_updates(
    f: Forecaster,
    series: pl.DataFrame,
    static: pl.DataFrame,
    more: Mapping[str, Any],
    *,
    until: int,
    items: Sequence[int],
    atol: float = 0.0,
) -> None:
    """One call with mixed k is a call an item (at k = 0 with a table without rows), and the
    states that updates left, one by one.

    ``more`` are the keywords with the future table; each of ``items`` is also forecast alone.
    """
    prefix = mixed(series)
    together = f.predict(prefix, static, until=until, **more)
    assert np.isfinite(values(together)).all()
    for item in items:
        own = pl.col("unique_id") == item
        alone = f.predict(prefix.filter(own), static.filter(own), until=until, **more)
        same(together.filter(own), alone, atol)
    each = {i: until if i % 2 else 3 for i in together["unique_id"].unique().to_list()}
    each |= dict.fromkeys(prefix["unique_id"].unique().to_list(), until)
    each[items[0]] = 2  # some of them have that many steps already
    last = pl.col("unique_id").replace_strict(each, default=until)
    own = f.predict(
        prefix, static, until={i: each.get(i, until) for i in static["unique_id"]}, **more
    )
    same(own, together.filter(pl.col("ds") <= last), atol)
    state = f.state(None, static)
    for step in range(1, prefix["ds"].to_numpy().max() + 1):
        state = f.update(state, prefix.filter(pl.col("ds") == step), **more)
    full = f.state(prefix, static, **more)
    for name in full:
        np.testing.assert_allclose(state[name], full[name], rtol=CLOSE, atol=CLOSE)
    for each in (state, full):
        same(f.predict(state=each, until=until, **more), together, atol)
