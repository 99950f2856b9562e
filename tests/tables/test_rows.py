"""Cells that are given without a table are read as those of a table."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statecast.errors import DataError
from statecast.tables.columns import read_column
from statecast.tables.rows import read_features, read_steps, read_values
from statecast.tables.source import Table, open_table
from statecast.tables.steps import read_when

UTC = dt.timezone(dt.timedelta(hours=2))


def table(**columns: Any) -> Table:
    found = open_table(pl.DataFrame(columns, strict=False), "series", "Y")
    assert isinstance(found, Table)
    return found


@pytest.mark.parametrize(
    "given",
    [
        [1, 2, 1_000_000],
        [1.0, 2.0],
        [np.int8(3), 4],
        np.array([5, 6], np.uint8),
        [dt.date(2024, 2, 29), dt.date(2024, 3, 1)],
        [dt.datetime(2024, 2, 29, 1), dt.datetime(2024, 3, 1, microsecond=5)],
        [dt.datetime(2024, 2, 29, 1, tzinfo=UTC)],
        ["2024-02-29", "2024-03-01"],
        ["2024-02-29T10:00+02:00"],
        np.array(["2024-02-29"], "datetime64[D]"),
    ],
)
def test_steps_are_those_of_a_column(given: Any) -> None:
    ids = list(range(len(given)))
    when, form = read_steps("here", "ds", given, ids)
    cells = given.tolist() if isinstance(given, np.ndarray) else [
        each.item() if isinstance(each, np.generic) else each for each in given
    ]  # fmt: skip
    expected, other = read_when(table(ds=pl.Series(cells)), "ds", ids)
    np.testing.assert_array_equal(when, expected)
    assert when.dtype == expected.dtype
    assert (form.dated, form.zone is None) == (other.dated, other.zone is None)


@pytest.mark.parametrize(
    "given",
    [
        [0], [1.5], [True], ["x"], [None], [float("nan")], [2_000_000], [1, "2024-01-01"],
        [dt.date(2024, 1, 1), 2], ["2024-01-01", "2024-01-01T10:00Z"], [object()],
        np.array(["NaT"], "datetime64[us]"), np.array([1], "datetime64[ns]"), np.array([True]),
        [dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, tzinfo=UTC)],
    ],
)  # fmt: skip
def test_other_steps_are_refused(given: Any) -> None:
    with pytest.raises(DataError, match="ds") as error:
        read_steps("here", "ds", given, [f"item {i}" for i in range(len(given))])
    assert error.value.column == "ds"
    assert str(error.value.item).startswith("item ")


@given(st.lists(st.none() | st.floats(-1e90, 1e90) | st.integers(-(2**60), 2**60), max_size=6))
def test_values_are_those_of_a_column(given: list[Any]) -> None:
    expected = [np.nan if value is None else float(value) for value in given]
    ids = list(range(len(given)))
    np.testing.assert_array_equal(read_values("here", "y", given, ids), expected)
    np.testing.assert_array_equal(read_values("here", "y", np.array(expected), ids), expected)


@pytest.mark.parametrize("given", [["x", 1.0], [1e101, 1.0], [[1.0], 2.0], [1.0], [1.0] * 3])
def test_other_values_are_refused(given: Any) -> None:
    with pytest.raises(DataError, match="y"):
        read_values("here", "y", given, ["a", "b"])


@pytest.mark.parametrize(
    ("kind", "cells"),
    [
        ("categorical", ["a", None, "", "7", "NA"]),
        ("codes", ["a", None, "7", "7.0"]),
        ("codes", [7, 8, None]),
        ("codes", [7.0, 8.0, None]),
        ("codes", [True, False]),
        ("numeric", [1, 2.5, None, True]),
        ("numeric", [1.0, float("nan")]),
    ],
)
def test_features_are_those_of_a_column(kind: str, cells: list[Any]) -> None:
    ids = list(range(len(cells)))
    found = read_features("static", {"f": kind}, {"f": cells}, ids)["f"]
    mixed = kind == "numeric" and len({*map(type, cells)}) > 2
    column = pl.Series(cells, dtype=pl.Object) if mixed else pl.Series(cells)
    expected = read_column(table(f=column), "f", ids, kind, False)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("kinds", "given"),
    [
        ({"f": "numeric"}, {"f": ["a"]}),
        ({"f": "categorical"}, {"f": [1]}),
        ({"f": "categorical"}, {"f": [True]}),
        ({"f": "codes"}, {"f": [1.5]}),
        ({"f": "categorical"}, {"f": ["a", "b"]}),
        ({"f": "numeric"}, {}),
        ({}, {"f": [1]}),
        ({"f": "numeric"}, [1]),
        ({"f": "numeric"}, None),
    ],
)
def test_other_features_are_refused(kinds: dict[str, str], given: Any) -> None:
    with pytest.raises(DataError, match="static"):
        read_features("static", kinds, given, ["item"])
