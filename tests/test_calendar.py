"""Forecasts on the calendar: closed days, and launch dates of items not yet observed."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from statecast import Forecaster
from statecast.errors import DataWarning

pytestmark = pytest.mark.backends

MONDAY = dt.date(2024, 3, 4)


def shops(items: int, days: int) -> pl.DataFrame:
    """Items that sell 100 on each of six days of the week, launched on different weekdays."""
    rows = [
        (i, MONDAY + dt.timedelta(i % 6 + day), 100.0) for i in range(items) for day in range(days)
    ]
    series = pl.DataFrame(rows, schema=["unique_id", "ds", "y"], orient="row")
    return series.filter(pl.col("ds").dt.weekday() < 7)


@pytest.fixture
def shop(untrained):
    f = Forecaster(units=4, ensemble=2, epochs=1, transform="none", analogues=False)
    with pytest.warns(DataWarning, match="ever observed on: Sundays. Forecasts leave out"):
        return f.fit(shops(12, 20), verbose=0)


def test_totals_count_nothing_on_closed_days(shop):
    series = shops(12, 20)
    begun = series.filter(pl.col("ds") < MONDAY + dt.timedelta(8))
    made = shop.predict(begun, until=14)
    assert made.filter(pl.col("ds").dt.weekday() == 7).is_empty()
    assert made.group_by("unique_id").agg(pl.col("step").max())["step"].is_in([13, 14]).all()
    paths = shop.simulate(begun, until=14, paths=20)
    for since in (None, 1):  # of the whole item too: a closed day is no gap
        total = paths.total(since=since)
        first = begun.group_by("unique_id", maintain_order=True).agg(pl.col("ds").min(), pl.len())
        for row, (item, start, known) in enumerate(first.iter_rows()):
            days = [start + dt.timedelta(d) for d in range(14)]
            count = sum(day.weekday() < 6 for day in days)
            assert (np.isfinite(paths.values[row]).sum(axis=-1) == count - known).all()
            told = 0 if since is None else 100 * known
            assert total["unique_id"][row] == item
            ahead = np.nansum(paths.values[row], axis=-1)
            np.testing.assert_allclose(total["statecast"][row], told + np.median(ahead))
    table = paths.table()
    assert table.filter(pl.col("ds").dt.weekday() == 7).is_empty()
    assert table.height == made.height
    # From a state, and from a file, it is the same
    state = shop.state(begun)
    assert shop.predict(state=state, until=14)["ds"].equals(made["ds"])
    np.testing.assert_allclose(
        shop.simulate(state=state, until=14, paths=20).total()["statecast"],
        paths.total()["statecast"],
        rtol=1e-4,
    )


def test_a_forecast_of_closed_days_alone_is_empty(shop):
    begun = shops(1, 6)  # Monday to Saturday
    assert shop.predict(begun, until=7).is_empty()
    paths = shop.simulate(begun, until=7, paths=5)
    assert paths.total()["statecast"].to_list() == [0.0]
    peak = paths.peak()
    assert peak["statecast"].is_nan().all()
    assert peak["step"].is_nan().all()
    assert paths.time_to(1.0)["never"].to_list() == [1.0]


def test_undated_items_are_said(shop):
    with pytest.warns(DataWarning, match="1 items have no date .item 3., so"):
        made = shop.predict(None, pl.DataFrame({"unique_id": [3]}), until=14)
    assert made.height == 14
