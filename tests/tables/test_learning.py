"""What ``Schema.fit`` learns from, and the settings that it refuses."""

from __future__ import annotations

import warnings
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_tables import SERIES, drawn_tables, same_panel, same_schema
from statecast.errors import ArgumentError, DataError, DataWarning
from statecast.tables.schema import Schema

pytestmark = pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")


@given(drawn_tables(), st.data())
def test_fit_learns_from_items_with_rows_alone(tabs, data) -> None:
    series, static = tabs
    ids = static["unique_id"].to_list()
    out = data.draw(st.sets(st.sampled_from(ids), max_size=len(ids) - 1))
    kept = [item for item in ids if item not in out]
    series = series.filter(pl.col("unique_id").is_in(kept))
    trained = static.filter(pl.col("unique_id").is_in(kept))
    schema = Schema.fit(series, static)
    if not trained["colour"].is_null().all():
        same_schema(schema, Schema.fit(series, trained))
        same_panel(schema.panel(series, static, for_fit=True), schema.panel(series, trained))
    assert schema.panel(series, static).known.tolist() == [
        (series.filter((pl.col("unique_id") == item) & pl.col("y").is_not_null()))["ds"].max() or 0
        for item in ids
    ]


def test_bad_arguments() -> None:
    with pytest.raises(ArgumentError, match="transform"):
        Schema.fit(SERIES, transform="sqrt")
    wrong: Any
    for wrong in ({"id_col": "ds"}, {"target_col": "ds"}, {"target_col": ["y", "y"]}):
        with pytest.raises(ArgumentError, match="distinct names"):
            Schema.fit(SERIES, **wrong)
    for wrong in (3, [], ["y", 3], ""):
        with pytest.raises(ArgumentError, match=r"target_col: expected (names|distinct)"):
            Schema.fit(SERIES, target_col=wrong)
    schema = Schema.fit(SERIES)
    with pytest.raises(ArgumentError, match="first_step"):
        schema.scale([1.0], 0)
    with pytest.raises(DataError, match="received None"):
        Schema.fit(None)


def test_whole_numbers_that_may_be_codes_are_named_once_and_only_in_the_fit() -> None:
    n = 40
    series = pl.DataFrame({"unique_id": range(n), "ds": 1, "y": 1.0})
    static = pl.DataFrame(
        {
            "unique_id": range(n),
            "shop": [i % 5 for i in range(n)],
            "area": [i / 3 for i in range(n)],
            "open": [i % 2 for i in range(n)],
            "visits": [i * i for i in range(n)],
        }
    )
    with pytest.warns(
        DataWarning, match="used as numbers: 'shop' .5 different ones.. If"
    ) as caught:
        schema = Schema.fit(series, static)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schema.panel(series, static)
        Schema.fit(series, static, categorical=["shop"])
        Schema.fit(series, static.drop("shop"))
