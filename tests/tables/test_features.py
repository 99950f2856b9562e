"""``Columns`` and one-hot columns: properties of the encoding of features."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statecast.errors import DataWarning
from statecast.tables.features import Columns, every_category, one_hot
from statecast.tables.schema import Schema


@given(st.lists(st.integers(2, 6), max_size=4), st.integers(0, 1), st.integers(0, 99))
def test_one_hot_columns_say_which_code_a_row_has(sizes, first, seed) -> None:
    rng = np.random.default_rng(seed)
    numeric = rng.normal(size=(5, 2)).astype(np.float32)
    codes = np.array([rng.integers(0, size, 5) for size in sizes]).reshape(-1, 5).T
    categories = every_category(sizes, first=first)
    found = one_hot(numeric, codes, categories)
    assert found.dtype == np.float64
    assert found.shape == (5, 2 + sum(size - first for size in sizes))
    np.testing.assert_array_equal(found[:, :2], numeric)
    for row, code in enumerate(codes):
        ones = [tuple(pair) for pair in categories[found[row, 2:] == 1].tolist()]
        assert ones == [(i, c) for i, c in enumerate(code.tolist()) if c >= first]
    assert set(np.unique(found[:, 2:]).tolist()) <= {0.0, 1.0}


def test_features_with_too_many_codes_are_left_out() -> None:
    assert every_category([2, 40, 3], most=32).tolist() == [[0, 0], [0, 1], [2, 0], [2, 1], [2, 2]]
    assert every_category([], first=1).shape == (0, 2)


@pytest.mark.parametrize("constant", [3.0, 0.1, 0.0, -1e9, 1e-30])
def test_another_number_in_a_column_that_did_not_vary_is_no_input_and_is_named(constant) -> None:
    columns = Columns.fit({"x": np.full(1000, constant)}, "Static")
    assert columns.scaling[0, 2] == 0
    numeric, _, missing, unseen = columns.encode({"x": np.array([constant, 10.0, 11.0])}, "abc")
    np.testing.assert_array_equal(numeric, 0)
    assert not missing
    assert unseen == ["'x' has 10 and did not vary in training (items 'b', 'c')"]
    assert not columns.encode({"x": np.array([constant, np.nan])}, "ab")[3]


@given(
    st.lists(st.one_of(st.none(), st.integers(-3, 3)), min_size=1, max_size=20), st.integers(1, 3)
)
def test_distinct_values_are_counted(values, width) -> None:
    x = np.array(values, float)  # None is NaN
    columns = Columns.fit({str(i): x for i in range(width)}, "Static")
    assert columns.distinct == (len({value for value in values if value is not None}),) * width
    read = Columns.from_config(columns.to_config(), "static", [])
    assert (read.numeric, read.distinct) == (columns.numeric, columns.distinct)


def test_a_column_that_hardly_varied_is_limited() -> None:
    x = 3.0 * (1 + 1e-7 * np.random.default_rng(0).normal(size=100))
    columns = Columns.fit({"x": x}, "Static")
    numeric, _, _, unseen = columns.encode({"x": np.array([10.0, -1e50])}, "ab")
    np.testing.assert_array_equal(numeric[:, 0], [5.0, -5.0])
    assert not unseen


@pytest.mark.parametrize("table", ["Static", "Future", "Past"])
def test_each_table_warns_once_of_a_column_that_did_not_vary(table: str) -> None:
    series = pl.DataFrame({"unique_id": [1, 1, 2, 2], "ds": [1, 2] * 2, "y": [1.0, 2.0, 3.0, 5.0]})
    static = pl.DataFrame({"unique_id": [1, 2], "x": 3.0})
    future = series.select("unique_id", "ds", x=pl.lit(3.0))
    given = {
        "Static": (series, static, None),
        "Future": (series, None, future),
        "Past": (series.with_columns(x=pl.lit(3.0)), None, None),
    }[table]
    past = ["x"] if table == "Past" else []
    schema = Schema.fit(given[0], given[1], future=given[2], past_cols=past)
    usual = schema.panel(given[0], given[1], future=given[2])
    changed = [
        None if each is None or "x" not in each.columns else each.with_columns(x=pl.lit(10.0))
        for each in given
    ]
    with pytest.warns(DataWarning, match=f"{table} columns, .*: 'x' has 10 and did not") as caught:
        panel = schema.panel(
            given[0] if changed[0] is None else changed[0], *changed[1:2], future=changed[2]
        )
    assert len(caught) == 1
    for name in ("numeric", "y"):
        np.testing.assert_array_equal(getattr(panel, name), getattr(usual, name))
