"""Grids of steps that are nearly empty, and numbers that are a year and a part of it."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statecast.errors import DataError
from statecast.tables.schema import Schema
from statecast.tables.targets import Targets


def table(steps, items: int = 2) -> pl.DataFrame:
    steps = list(steps)
    y = np.arange(1.0, len(steps) * items + 1)
    return pl.DataFrame(
        {"unique_id": np.repeat(np.arange(items), len(steps)), "ds": steps * items, "y": y}
    )


def quietly(series: pl.DataFrame) -> Schema:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Schema.fit(series)


@given(st.integers(1900, 2100), st.integers(1, 12), st.integers(1, 40))
def test_a_year_and_a_month_in_one_number_are_refused_with_the_date(year, month, count) -> None:
    months = [year * 12 + month - 1 + i for i in range(count)]
    numbers = [m // 12 * 100 + m % 12 + 1 for m in months if m // 12 <= 2100]
    with pytest.raises(DataError, match=f"a year and a month in one.*{year}-{month:02}-01") as e:
        Schema.fit(table(numbers))
    assert e.value.column == "ds"


@pytest.mark.parametrize(
    ("numbers", "what", "date"),
    [
        ([202050, 202051, 202052, 202053, 202101], "week", "2020-12-07"),
        ([202153, 202201], "week", "2021-12-27"),  # 2021 has no week 53
        ([20203, 20204, 20211], "quarter", "2020-07-01"),
    ],
)
def test_a_year_and_a_week_or_quarter_likewise(numbers, what: str, date: str) -> None:
    with pytest.raises(DataError, match=f"a year and a {what} in one.*{date}"):
        Schema.fit(table(numbers))


def test_of_text_too(tmp_path) -> None:
    path = tmp_path / "series.csv"
    table([202001, 202002, 202003]).write_csv(path)
    with pytest.raises(DataError, match="a year and a month in one"):
        Schema.fit(path)


@pytest.mark.parametrize(
    ("steps", "advice"),
    [
        ([1, 2, 3, 5_000], "Correct a step that is too large"),
        (range(1, 500_002, 1_000), "count in units of 1,000"),
        (range(50_001, 50_021), "subtract 50,000"),
    ],
)
def test_a_long_grid_that_is_nearly_empty_is_refused_with_what_to_do(steps, advice: str) -> None:
    with pytest.raises(DataError, match=advice) as error:
        quietly(table(steps))
    assert error.value.column == "ds"


def test_the_item_of_the_step_that_is_too_large_is_named() -> None:
    series = table(range(1, 6), items=9)
    series = pl.concat([series, pl.DataFrame({"unique_id": [7], "ds": [900_000], "y": [1.0]})])
    with pytest.raises(DataError, match=r"up to 900,000 \(item 7\)") as error:
        quietly(series)
    assert error.value.item == 7


def test_dates_that_are_nearly_all_gaps_are_refused() -> None:
    minutes = [0, 1, 2, 3, 4_001, 5_003, 9_007]
    dates = np.datetime64("2024-01-01", "us") + np.array(minutes) * np.timedelta64(1, "m")
    series = pl.DataFrame({"unique_id": [0] * 7, "ds": dates, "y": np.arange(7.0)})
    with pytest.raises(DataError, match="coarser grid"):
        quietly(series)


@pytest.mark.parametrize(
    "steps",
    [
        range(1, 40),
        [1, 2, 3, 2_900],  # short
        range(1, 4_000, 9),  # 11 %
        range(2001, 2021),  # years
        range(1900, 1960),
    ],
)
def test_other_grids_are_accepted(steps) -> None:
    assert quietly(table(steps)).steps == max(steps)


def test_a_target_that_is_rarely_observed_is_no_empty_grid() -> None:
    steps = np.arange(1, 3_201)
    rare = np.where(steps % 100 == 0, 1.0 * steps, np.nan)
    series = pl.DataFrame({"unique_id": 0, "ds": steps, "a": steps * 1.0, "b": rare}).fill_nan(None)
    assert Targets.fit(series, target_col=("a", "b")).steps == 3_200
    assert quietly(series.select("unique_id", "ds", y="b")).steps == 3_200
