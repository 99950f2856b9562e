"""Grids of steps that are nearly empty, and numbers that are a year and a part of it."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statecast.errors import DataError, ModelFileError
from statecast.tables.schema import Schema


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
    ],
)
def test_other_grids_are_accepted(steps) -> None:
    assert quietly(table(steps)).steps == max(steps)


@pytest.mark.parametrize(
    ("steps", "first"),
    [
        (range(2001, 2021), 2001),  # years
        (range(1900, 1960), 1900),
        (range(50_001, 50_021), 50_001),
        (range(11, 21), 11),  # ten numbers before, and ten from there on
        (range(11, 22), 1),
        (range(10, 13), 1),
        (range(101, 500), 101),  # a hundred before
        (range(100, 500), 1),
        ([3, 5, 10, 15, 20, 25], 1),  # ages
    ],
)
def test_where_a_grid_of_numbers_begins(steps, first: int) -> None:
    schema = quietly(table(steps))
    assert (schema.first, schema.steps) == (first, max(steps) - first + 1)
    assert np.flatnonzero(schema.targets[0].observed).tolist() == [step - first for step in steps]


def test_a_row_without_a_value_begins_a_grid() -> None:
    begin = pl.DataFrame(
        {"unique_id": [0], "ds": [1], "y": [None]}, schema_overrides={"y": pl.Float64}
    )
    assert quietly(pl.concat([begin, table(range(2001, 2021))])).first == 1


def test_a_value_before_the_first_step_is_an_error_that_names_the_item() -> None:
    schema = quietly(table(range(2001, 2021)))
    with pytest.raises(DataError, match=r"steps from 2001, .* received 2000 \(item 1\)") as error:
        schema.panel(
            table(range(2000, 2005)).filter((pl.col("ds") > 2000) | (pl.col("unique_id") == 1))
        )
    assert (error.value.column, error.value.item) == ("ds", 1)
    new = pl.DataFrame({"unique_id": [0], "ds": [1990], "y": [1.0]})
    with pytest.raises(DataError, match="steps from 2001"):
        schema.new_rows(new, [0])


def test_messages_speak_of_the_numbers_of_the_table() -> None:
    schema, begun = quietly(table(range(2001, 2021))), table(range(2001, 2004))
    with pytest.raises(DataError, match="step 2001 again"):
        schema.panel(pl.concat([begun, begun]))
    with pytest.raises(DataError, match=r"steps after 2003, .* received step 2002"):
        schema.new_rows(begun.filter(pl.col("ds") == 2002), [0, 1], known=np.array([3, 3]))


@given(st.integers(100, 10_000), st.sampled_from(["a", "b"]))
def test_targets_begin_where_their_steps_do(shift: int, late: str) -> None:
    steps = np.arange(1, 7) + shift
    series = pl.DataFrame({"unique_id": 0, "ds": steps, "a": np.arange(6.0), "b": np.arange(6.0)})
    series = series.with_columns(pl.when(pl.col("ds") > shift + 2).then(late).alias(late))
    schema = Schema.fit(series, target_col=("a", "b"))
    assert schema.first == shift + 1
    config, arrays = schema.to_config()
    assert Schema.from_config(config, arrays).first == shift + 1
    assert schema.panel(series).mask.shape == (1, 12)
    other = pl.col("ds") - shift
    moved = Schema.fit(series.with_columns(other), target_col=("a", "b"))
    assert (moved.panel(series.with_columns(other)).y == schema.panel(series).y).all()


@pytest.mark.parametrize("first", [0, 2.0, True, "2001", 1_000_000, None])
def test_a_file_with_another_first_step_is_refused(first) -> None:
    config, arrays = quietly(table(range(2001, 2021))).to_config()
    assert config["first"] == 2001
    with pytest.raises(ModelFileError, match="first"):
        Schema.from_config(config | {"first": first}, arrays)
    config, arrays = Schema.fit(np.ones((2, 3))).to_config()
    with pytest.raises(ModelFileError, match="first"):
        Schema.from_config(config | {"first": 2}, arrays)


@pytest.mark.parametrize("items", [0, -1, 2.0, True, "3", None])
def test_a_damaged_number_of_items_is_refused(items):
    schema = Schema.fit(np.array([[1.0, 2.0], [3.0, np.nan]]))
    assert schema.items == 2
    config, arrays = schema.to_config()
    assert Schema.from_config(config, arrays).items == 2
    with pytest.raises(ModelFileError, match="items"):
        Schema.from_config(config | {"items": items}, arrays)


def test_a_target_that_is_rarely_observed_is_no_empty_grid() -> None:
    steps = np.arange(1, 3_201)
    rare = np.where(steps % 100 == 0, 1.0 * steps, np.nan)
    series = pl.DataFrame({"unique_id": 0, "ds": steps, "a": steps * 1.0, "b": rare}).fill_nan(None)
    assert Schema.fit(series, target_col=("a", "b")).steps == 3_200
    assert quietly(series.select("unique_id", "ds", y="b")).steps == 3_200
