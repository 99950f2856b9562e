"""Forecasts as tables of the kind that was passed."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_tables import SERIES, drawn_tables
from statecast.errors import ArgumentError
from statecast.tables.id_types import IdType
from statecast.tables.ids import Kind
from statecast.tables.schema import Schema

pytestmark = pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")


@given(
    drawn_tables(), st.integers(1, 12), st.sampled_from(["polars", "pandas", "pyarrow", "arrays"])
)
def test_the_table_holds_the_steps_after_the_prefix(tabs, until: int, kind: str) -> None:
    series, static = tabs
    schema = Schema.fit(series, static)
    panel = schema.panel(series, static)
    values = np.arange(panel.rows * until, dtype=np.float64).reshape(panel.rows, until)
    output = schema.output(Kind(kind))
    table = output.table({"a": values, "b": -values}, ids=panel.ids, known=panel.known)
    expected = [
        (item, step, values[row, step - 1])
        for row, item in enumerate(panel.ids.tolist())
        for step in range(panel.known[row] + 1, until + 1)
    ]
    if kind == "arrays":
        assert table["a"].shape == values.shape
        after = np.arange(1, until + 1) > panel.known[:, None]
        np.testing.assert_array_equal(table["a"], np.where(after, values, np.nan))
        return
    assert type(table).__module__.startswith(kind if kind != "pyarrow" else "pyarrow.lib")
    frame = pl.from_pandas(table) if kind == "pandas" else pl.DataFrame(table)
    assert frame.columns == ["unique_id", "ds", "a", "b"]
    assert frame.select("unique_id", "ds", "a").rows() == expected
    assert (frame["a"] == -frame["b"]).all()


@pytest.mark.parametrize("kind", ["polars", "pandas", "pyarrow"])
def test_ids_of_any_array_come_out_as_text_or_numbers(kind: str) -> None:
    schema = Schema.fit(SERIES)
    for ids in (["b", "a"], np.array(["b", "a"]), np.array(["b", "a"], object), np.array([2, 1])):
        output = schema.output(Kind(kind))
        table = output.table({"f": np.ones((2, 1))}, ids=ids, known=np.zeros(2, int))
        frame = pl.from_pandas(table) if kind == "pandas" else pl.DataFrame(table)
        assert frame["unique_id"].to_list() == list(ids)
        assert frame["unique_id"].dtype in (pl.String, pl.Int64)


def test_the_table_checks_what_it_is_given() -> None:
    schema = Schema.fit(SERIES)
    output = schema.output()
    with pytest.raises(ArgumentError, match=r"expected shape \(2, until\)"):
        output.table({"a": np.zeros((3, 2))}, ids=[1, 2], known=np.zeros(2))
    with pytest.raises(ArgumentError, match="known"):
        output.table({"a": np.zeros((2, 2))}, ids=[1, 2], known=np.zeros(3))
    with pytest.raises(ArgumentError, match="'ds'"):
        output.table({"ds": np.zeros((2, 2))}, ids=[1, 2], known=np.zeros(2))
    with pytest.raises(ArgumentError, match="kind"):
        schema.output(Kind("excel"))


@pytest.mark.parametrize("kind", ["polars", "pandas", "pyarrow"])
@pytest.mark.parametrize(
    ("ids", "types"),
    [
        ([7, 3], ("Int64", "int64", "int64")),
        ([7, 3], ("UInt16", "Int32", "uint8")),
        (["b", "a"], ("String", "str", "large_string")),
        (["b", "a"], ("Categorical", "category", "string")),
    ],
)
def test_ids_keep_their_type_and_the_rows_of_pandas_are_numbered(
    kind: str, ids: list, types: tuple
) -> None:
    """Of the tables of the call, and of a model file."""
    name = types[("polars", "pandas", "pyarrow").index(kind)]
    given = IdType(name).native(kind)
    schema = Schema.fit(SERIES)
    for own in (given, IdType(name)):
        output = schema.output(Kind(kind, ids=own))
        table = output.table({"f": np.ones((2, 3))}, ids=ids, known=np.array([1, 0]))
        column = table["unique_id"]
        found = column.type if kind == "pyarrow" else column.dtype
        assert found == given
        items = column.to_pylist() if kind == "pyarrow" else column.to_list()
        assert items == [ids[0]] * 2 + [ids[1]] * 3
        if kind == "pandas":
            assert table.index.to_list() == [0, 1, 2, 3, 4]
