"""The tables of a call: every kind of table is read alike, and bad input is refused."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_tables import SERIES, STATIC, drawn_tables, same_panel, same_schema, series_with
from statecast.errors import ArgumentError, DataError
from statecast.tables import source
from statecast.tables.schema import Schema

pd = pytest.importorskip("pandas")

pa = pytest.importorskip("pyarrow")


pytestmark = pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")


@given(drawn_tables())
def test_every_kind_of_table_means_the_same(tmp_path_factory: pytest.TempPathFactory, tabs) -> None:
    series, static = tabs
    tmp_path = tmp_path_factory.mktemp("tables")
    paths = {}
    for name, table in (("series", series), ("static", static)):
        table.write_csv(tmp_path / f"{name}.csv")
        table.write_parquet(tmp_path / f"{name}.parquet")
        paths[name] = (tmp_path / f"{name}.csv", str(tmp_path / f"{name}.parquet"))
    schema = Schema.fit(series, static)
    panel = schema.panel(series, static)
    others = {
        "pandas": [(series.to_pandas(), static.to_pandas())],
        "pyarrow": [(series.to_arrow(), static.to_arrow())],
        "polars": [
            (series.lazy(), static.lazy()),
            (paths["series"][0], paths["static"][0]),
            (paths["series"][1], paths["static"][1]),
            (paths["series"][0], static),
        ],
    }
    for kind, pairs in others.items():
        for other_series, other_static in pairs:
            other = Schema.fit(other_series, other_static)
            same_schema(schema, other, but=("kind", "ids"))
            assert other.kind.library == kind
            seen = schema.panel(other_series, other_static)
            same_panel(panel, seen)
            assert seen.kind.library == kind


@given(drawn_tables(with_static=False), st.booleans())
def test_arrays_mean_the_same_as_tables(tabs, with_static: bool) -> None:
    series, _ = tabs
    ids = series["unique_id"].unique(maintain_order=True).to_list()
    row = [ids.index(item) for item in series["unique_id"]]
    table = series.with_columns(unique_id=pl.Series(row))
    Y = np.full((len(ids), int(series["ds"].max())), np.nan)  # type: ignore[arg-type]
    Y[row, series["ds"].to_numpy() - 1] = series["y"].to_numpy()
    X = static = None
    if with_static:
        X = np.arange(2.0 * len(ids)).reshape(-1, 2) ** 2
        X[0, 1] = np.nan
        static = pl.DataFrame({"unique_id": range(len(ids)), "x1": X[:, 0], "x2": X[:, 1]})
    schema, other = Schema.fit(table, static), Schema.fit(Y, X)
    (config, arrays), (config2, arrays2) = schema.to_config(), other.to_config()
    assert config | {"kind": "arrays", "ids": None} == config2
    for name, values in arrays.items():
        np.testing.assert_allclose(values, arrays2[name], rtol=1e-12, atol=1e-12)
    order = np.argsort(schema.panel(table, static).ids)
    same_panel(schema.panel(table, static).take(order), schema.panel(Y, X))
    same_panel(other.panel(Y, X), other.panel(Y.tolist(), X))


class Unreadable:
    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise ValueError("no")


BAD_SERIES: dict[str, tuple[Any, str, str | None, Any]] = {
    # case: (series, pattern, column, first offending item)
    "missing column": (SERIES.drop("y"), "expected a column 'y'", "y", None),
    "no rows": (SERIES[:0], "at least one row", None, None),
    "twice": (series_with(ds=[1, 2, 1, 1, 1]), "each step of an item once", "ds", 2),
    "step 0": (series_with(ds=[1, 2, 1, 0, 1]), "received 0", "ds", 2),
    "step 1.5": (series_with(ds=[1, 2, 1, 1.5, 1]), "received 1.5", "ds", 2),
    "step null": (series_with(ds=[1, 2, 1, 2, None]), "received nothing", "ds", 3),
    "step nan": (series_with(ds=[1, 2, 1, np.nan, 3.0]), "received nan", "ds", 2),
    "step text": (series_with(ds=["1", "2", "1", "2", "1"]), "received '1'", "ds", 1),
    "step bool": (series_with(ds=[True] * 5), "received True", "ds", 1),
    "step huge": (series_with(ds=[1, 20260131, 1, 2, 1]), "received 20260131", "ds", 1),
    "no such day": (series_with(ds=["2026-01-01"] * 4 + ["2026-02-30"]), "2026-02-30", "ds", 3),
    "text y": (series_with(y=["1", "2", "x", "3", "4"]), "received '1'", "y", 1),
    "date y": (series_with(y=[dt.date(2026, 1, 1)] * 5), "expected a number", "y", 1),
    "list y": (series_with(y=[[1.0]] * 5), "expected a number", "y", 1),
    "infinite y": (series_with(y=[1, 2, 3, -np.inf, 4]), "received -inf", "y", 2),
    "object y": (SERIES.to_pandas().assign(y=[1, 2, "x", 3, 4]), "received 'x'", "y", 2),
    "all missing": (series_with(y=[1, 2, None, np.nan, 4]), "missing values everywhere", "y", 2),
    "id null": (series_with(unique_id=[1, 1, None, 2, 3]), "row 3 has none", "unique_id", None),
    "ids mixed": (
        SERIES.to_pandas().assign(unique_id=[1, "1", 2, 2, 3]),
        "one type",
        "unique_id",
        "1",
    ),
    "id 1.5": (series_with(unique_id=[1, 1, 1.5, 2, 3]), "whole numbers", "unique_id", 1.5),
    "id list": (series_with(unique_id=[[1]] * 5), "numbers or text", "unique_id", [1]),
    "text ids": (
        series_with(unique_id=list("11223")),
        "a whole number, as in the",
        "unique_id",
        "1",
    ),
    "not in static": (series_with(unique_id=[1, 1, 2, 2, 9]), "not there", "unique_id", 9),
    "off the grid": (
        series_with(ds=[dt.date(2026, 1, d) for d in (1, 3, 1, 3, 1)]).vstack(
            pl.DataFrame({"unique_id": [3], "ds": [dt.date(2026, 1, 4)], "y": [1.0]})
        ),
        "received 2026-01-04",
        "ds",
        3,
    ),
    "one date an item": (
        series_with(unique_id=[1, 2, 3, 3, 3], ds=[dt.date(2026, 1, 1)] * 5),
        "two dates",
        "ds",
        None,
    ),
    "same name twice": (
        pd.DataFrame([[1, 1, 1, 1]], columns=["unique_id", "ds", "y", "y"]),
        "unique",
        None,
        None,
    ),
    "same name twice in Arrow": (
        pa.table([[1], [1], [1.0], [1.0]], names=["unique_id", "ds", "y", "y"]),
        "unique",
        None,
        None,
    ),
    "a number": (3, "received int", None, None),
    "a mapping": ({"unique_id": [1]}, "received dict", None, None),
    "one array": (np.ones((3, 2)), "two tables or two arrays", None, None),
    "no array": (Unreadable(), r"received \w+.Unreadable", None, None),
    "rows of unlike length": ([[1.0, 2.0], [1.0]], "rectangular", None, None),
}


FOR_FIT_ALONE = ("off the grid", "one date an item", "no such day", "no rows")


@pytest.mark.parametrize("case", BAD_SERIES)
def test_bad_series(case: str) -> None:
    series, pattern, column, item = BAD_SERIES[case]
    kind = type(series).__module__
    static = STATIC.to_pandas() if kind.startswith("pandas") else STATIC
    with pytest.raises(DataError, match=pattern) as error:
        Schema.fit(series, static)
    assert error.value.column == column
    if item is not None:
        assert error.value.item == item
        assert f"item {item!r}" in str(error.value)
    if case not in FOR_FIT_ALONE:
        schema = Schema.fit(SERIES, STATIC)
        with pytest.raises(DataError, match=pattern):
            schema.panel(series, static)


# A file has no columns of mixed types
IN_FILES = [case for case, bad in BAD_SERIES.items() if isinstance(bad[0], pl.DataFrame)]


@pytest.mark.parametrize("case", IN_FILES)
def test_bad_series_in_a_file_read_in_batches(case: str, tmp_path: Path, monkeypatch) -> None:
    series, pattern, column, item = BAD_SERIES[case]
    series.write_parquet(tmp_path / "series.parquet")
    monkeypatch.setattr(source, "BATCH", 2)
    with pytest.raises(DataError, match=pattern) as error:
        Schema.fit(tmp_path / "series.parquet", STATIC)
    assert error.value.column == column
    assert item is None or error.value.item == item
    schema = Schema.fit(SERIES, STATIC)
    if case not in FOR_FIT_ALONE:
        with pytest.raises(DataError, match=pattern):
            schema.panel(tmp_path / "series.parquet", STATIC)
    SERIES.write_parquet(tmp_path / "series.parquet")  # and the next good call works
    same_panel(schema.panel(tmp_path / "series.parquet", STATIC), schema.panel(SERIES, STATIC))


def static_with(**columns: Any) -> pl.DataFrame:
    return STATIC.with_columns(
        **{k: pl.Series(v, strict=False) if isinstance(v, list) else v for k, v in columns.items()}
    )


BAD_STATIC: dict[str, tuple[Any, str, str | None, Any]] = {
    "no id": (STATIC.drop("unique_id"), "expected a column 'unique_id'", "unique_id", None),
    "no rows": (STATIC[:0], "at least one row", None, None),
    "twice": (pl.concat([STATIC, STATIC[1:2]]), "one row for each item", "unique_id", 2),
    "infinite": (
        static_with(area=[1.0, np.inf, 2.0]),
        "a number from -1e.100 to 1e.100",
        "area",
        2,
    ),
    "dates": (static_with(area=[dt.date(2026, 1, 1)] * 3), "numbers, text", "area", 1),
    "lists": (static_with(sex=[[1]] * 3), "numbers, text", "sex", 1),
    "text ids": (static_with(unique_id=list("123")), "text, as in the static", "unique_id", 1),
    "id null": (static_with(unique_id=[1, None, 3]), "row 2 has none", "unique_id", None),
    "mixed": (STATIC.to_pandas().assign(sex=["M", 1, "F"]), "received 1", "sex", 2),
}


@pytest.mark.parametrize("case", BAD_STATIC)
def test_bad_static(case: str) -> None:
    static, pattern, column, item = BAD_STATIC[case]
    with pytest.raises(DataError, match=pattern) as error:
        Schema.fit(SERIES, static)
    assert error.value.column == column
    if item is not None:
        assert error.value.item == item
    with pytest.raises(DataError) as error:
        Schema.fit(SERIES, STATIC).panel(SERIES, static)
    assert error.value.column == column


@pytest.mark.parametrize(
    ("static", "column"),
    [
        (STATIC.drop("area"), "area"),
        (static_with(extra=[1, 2, 3]), "extra"),
        (static_with(sex=[1, 2, 3]), "sex"),
        (static_with(area=["1", "2", "3"]), "area"),
        (None, None),
    ],
)
def test_the_static_columns_are_those_of_fit(static: Any, column: str | None) -> None:
    schema = Schema.fit(SERIES, STATIC)
    with pytest.raises(DataError, match=r"as in fit|of fit") as error:
        schema.panel(SERIES, static)
    assert error.value.column == column
    with pytest.raises(DataError, match="received neither"):
        schema.panel()
    with pytest.raises(
        DataError, match=r"\(none\); received 'sex', 'area', 'open' too. Leave them"
    ):
        Schema.fit(SERIES).panel(SERIES, STATIC)


@pytest.mark.parametrize(
    ("Y", "X", "pattern", "column", "item"),
    [
        (np.ones(3), None, r"shape \(n, T\); received \(3,\)", None, None),
        (np.ones((0, 3)), None, "at least one item", None, None),
        ([[1.0], [1.0, 2.0]], None, "rectangular", None, None),
        (np.array([["a"]]), None, "expected a number", "Y", 0),
        (np.array([[1, 2], [3, "x"]], object), None, "received 'x'", "Y", 1),
        (np.array([[1, 2], [3, np.inf]]), None, "received .*inf", "Y", 1),
        (np.array([[1.0], [np.nan]]), None, "NaN everywhere", "Y", 1),
        (np.ones((2, 2)), np.ones((3, 1)), "2 rows in Y and 3 in X", None, None),
        (np.ones((2, 2)), np.ones(2), r"shape \(n, f\)", None, None),
        (np.ones((2, 2)), np.array([[1.0], [-np.inf]]), "received .*-inf", "x1", 1),
        (np.ones((2, 2)), STATIC, "two tables or two arrays", None, None),
    ],
)
def test_bad_arrays(Y: Any, X: Any, pattern: str, column: str | None, item: Any) -> None:
    with pytest.raises(DataError, match=pattern) as error:
        Schema.fit(Y, X)
    assert (error.value.column, error.value.item) == (column, item)


def test_an_array_row_of_nan_is_k_zero() -> None:
    schema = Schema.fit(np.ones((2, 3)), np.arange(2.0)[:, None])
    X = np.ones((2, 1))
    assert schema.panel(np.full((2, 3), np.nan), X).known.tolist() == [0, 0]
    assert schema.panel(np.ones((2, 0)), X).known.tolist() == [0, 0]
    assert schema.panel(None, X).ids.tolist() == [0, 1]
    with pytest.raises(DataError, match="'x2' too"):
        schema.panel(None, np.ones((2, 2)))


def test_dates_and_numbers_are_not_mixed() -> None:
    dates = series_with(ds=[dt.date(2026, 1, d) for d in (1, 2, 1, 2, 1)])
    with pytest.raises(DataError, match="dates without a time zone, as in fit; received numbers"):
        Schema.fit(dates).panel(SERIES)
    with pytest.raises(DataError, match="steps from 1, as in fit"):
        Schema.fit(SERIES).panel(dates)
    with pytest.raises(DataError, match="dates without a time zone, as in fit; received numbers"):
        Schema.fit(dates).panel(np.full((2, 2), np.nan))


def test_bad_new_rows() -> None:
    schema = Schema.fit(SERIES)
    row = pl.DataFrame({"unique_id": [2], "ds": [2], "y": [1.0]})
    with pytest.raises(DataError, match="steps after 2") as error:
        schema.new_rows(row, [1, 2], known=np.array([1, 2]))
    assert (error.value.column, error.value.item) == ("ds", 2)
    with pytest.raises(DataError, match="items of the state") as error:
        schema.new_rows(row, [1, 3])
    assert error.value.item == 2
    with pytest.raises(DataError, match="of the known items"):
        schema.new_rows(row, ["1", "2"])
    with pytest.raises(DataError, match="None"):
        schema.new_rows(None, [1])
    with pytest.raises(ArgumentError, match="known"):
        schema.new_rows(row, [1, 2], known=np.array([1]))
    with pytest.raises(DataError, match="each of 2 known"):
        schema.new_rows(np.ones((3, 2)), [1, 2])
    Y = np.array([[np.nan, np.nan], [np.nan, 2.0]])
    assert schema.new_rows(Y, [7, 5], known=np.array([2, 1])).known.tolist() == [0, 2]
