"""``Panel``: rows are independent, and a prefix with its new rows is the whole."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_tables import SERIES, drawn_tables, same_panel
from statecast.errors import DataError
from statecast.tables.schema import Schema

pytestmark = pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")


@given(drawn_tables(), st.data())
def test_an_item_does_not_depend_on_the_others(tabs, data) -> None:
    series, static = tabs
    schema = Schema.fit(series, static)
    panel = schema.panel(series, static)
    rows = data.draw(st.lists(st.integers(0, panel.rows - 1), min_size=1, unique=True))
    some = static[rows]["unique_id"].to_list()
    alone = schema.panel(series.filter(pl.col("unique_id").is_in(some)), static[rows])
    same_panel(panel.take(rows), alone)
    # ... nor on one that is a hundred times larger
    loud = series.with_columns(
        y=pl.when(pl.col("unique_id").is_in(some)).then("y").otherwise(pl.col("y") * 100)
    )
    same_panel(panel.take(rows), schema.panel(loud, static).take(rows))


@given(drawn_tables(), st.integers(0, 8))
def test_prefix_and_new_rows_make_the_whole(tabs, k: int) -> None:
    series, static = tabs
    schema = Schema.fit(series, static)
    whole = schema.panel(series, static)
    prefix = series.filter(pl.col("ds") <= k)
    rest = series.filter(pl.col("ds") > k)
    some = prefix.filter(pl.col("y").is_not_null())["unique_id"].unique().to_list()
    prefix = prefix.filter(pl.col("unique_id").is_in(some))
    before = schema.panel(prefix if len(prefix) else None, static)
    if not len(rest):
        return
    new = schema.new_rows(rest, before.ids, known=before.known)
    assert new.numeric.shape == new.codes.shape == (whole.rows, 0)
    np.testing.assert_array_equal(before.mask | new.mask, whole.mask)
    np.testing.assert_array_equal(before.y + new.y, whole.y)
    assert new.ids.tolist() == before.ids.tolist()


def test_a_prefix_beyond_the_training_length_widens_the_panel() -> None:
    schema = Schema.fit(SERIES)
    longer = pl.DataFrame({"unique_id": [5], "ds": [7], "y": [1.0]})
    panel = schema.panel(longer)
    assert panel.y.shape == (1, 7)
    assert panel.known.tolist() == [7]
    assert panel.y[0, 6] == np.float32(schema.scale([1.0], 7)[0])


def test_a_panel_too_large_is_refused_before_it_is_made() -> None:
    schema = Schema.fit(SERIES)
    many = pl.DataFrame({"unique_id": range(1000), "ds": 1_000_000, "y": 1.0})
    with pytest.raises(DataError, match="at most 500,000,000 cells"):
        schema.panel(many)
