"""What tables people hand in, and what is read from them: columns of every type, files, arrays."""

from __future__ import annotations

import datetime as dt
import json
import os
import time
import warnings
import zoneinfo
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import narwhals
import narwhals.stable.v1
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statecast import errors
from statecast.errors import ArgumentError, DataError, DataWarning
from statecast.forecast.explanation import ForecastExplanation
from statecast.tables.id_types import IdType
from statecast.tables.schema import Schema

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

SERIES = pl.DataFrame(
    {"unique_id": [1, 1, 2, 2, 3], "ds": [1, 2, 1, 2, 1], "y": [1.0, 2.0, 3.0, 5.0, 4.0]}
)
Y = [[1.0, 2.0], [3.0, 5.0], [4.0, np.nan]]
ARROW, PANDAS = SERIES.to_arrow(), SERIES.to_pandas()


def seen(schema: Schema, *tables: Any) -> list[list[float | None]]:
    """y of a panel, in original units; None where nothing was observed."""
    panel = schema.panel(*tables)
    y = schema.unscale(panel.y)
    return [
        [round(float(v), 5) if there else None for v, there in zip(*row, strict=True)]
        for row in zip(y, panel.mask, strict=True)
    ]


EXPECTED = [[1.0, 2.0], [3.0, 5.0], [4.0, None]]


# -- what is a table or an array, and what is neither ----------------------------------------


class Labelled:
    """NumPy makes an array of it, as of xarray's: the axes may be in any order."""

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        return np.array(Y)

    def to_dataframe(self) -> None: ...


TABLES: dict[str, Callable[[], Any]] = {
    "Arrow table": lambda: ARROW,
    "Arrow record batch": lambda: ARROW.to_batches()[0],
    "narwhals frame": lambda: narwhals.from_native(SERIES),
    "narwhals lazy frame": lambda: narwhals.from_native(SERIES.lazy()),
    "narwhals stable frame": lambda: narwhals.stable.v1.from_native(PANDAS),
    "narwhals frame of a table of Arrow": lambda: narwhals.from_native(ARROW),
    "polars lazy frame": SERIES.lazy,
    "array": lambda: np.array(Y),
    "lists": lambda: Y,
    "tuple of arrays": lambda: tuple(np.array(Y)),
    "objects": lambda: np.array([[1, 2], [Decimal(3), Fraction(5)], [4, pd.NA]], object),
    "lists with None": lambda: [[1, 2], [3, 5], [4, None]],
    "masked array of whole numbers": lambda: np.ma.masked_equal([[1, 2], [3, 5], [4, 9]], 9),
    "masked array": lambda: np.ma.masked_invalid(np.array(Y)),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_and_arrays_of_every_kind_are_read(kind: str) -> None:
    schema = Schema.fit(TABLES[kind]())
    assert schema.steps == 2
    assert seen(schema, TABLES[kind]()) == EXPECTED


def test_tensors_are_arrays() -> None:
    import jax.numpy as jnp

    assert seen(Schema.fit(jnp.array(Y)), jnp.array(Y)) == EXPECTED
    torch = pytest.importorskip("torch")
    assert seen(Schema.fit(torch.tensor(Y)), [torch.tensor(row) for row in Y]) == EXPECTED


def test_a_relation_of_duckdb_is_a_table() -> None:
    duckdb = pytest.importorskip("duckdb")
    relation = duckdb.from_arrow(ARROW)
    assert seen(Schema.fit(relation), relation) == EXPECTED


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "reader of batches": (lambda: ARROW.to_reader(), r"pyarrow.RecordBatchReader. .*read_all\(\)"),
    "list of batches": (ARROW.to_batches, "a list of pyarrow.RecordBatch"),
    "nested list of batches": (lambda: [ARROW.to_batches()], "a list of pyarrow.RecordBatch"),
    "dict of lists": (lambda: SERIES.to_dict(as_series=False), r"dict. .*polars.DataFrame\("),
    "list of dicts": (lambda: SERIES.rows(named=True), r"a list of dict. .*polars.DataFrame\("),
    "labelled array": (Labelled, r"test_reading.Labelled. .*to_dataframe\(\)"),
    "generator": (lambda: (row for row in Y), "generator. It can be read only once"),
    "map": (lambda: map(list, Y), "map. It can be read only once"),
    "set": (lambda: {1.0, 2.0}, "set"),
    "buffer": (lambda: memoryview(b"12"), "memoryview"),
    "pandas series": (lambda: PANDAS["y"], "pandas.Series. It is one column"),
    "polars series": (lambda: SERIES["y"], "polars.Series. It is one column"),
    "Arrow column": (lambda: ARROW["y"], "pyarrow.ChunkedArray"),
    "list of series": (lambda: [SERIES["y"]] * 2, "a list of polars.Series"),
    "groups": (lambda: PANDAS.groupby("unique_id"), "pandas.DataFrameGroupBy"),
    "structured array": (
        lambda: np.array([(1, 2.0)], dtype=[("unique_id", int), ("y", float)]),
        "structured array with the fields 'unique_id', 'y'",
    ),
    "path as bytes": (lambda: b"series.csv", "bytes"),
    "a date": (lambda: dt.date(2026, 1, 1), "datetime.date"),
    "a missing value": (lambda: pd.NA, "NAType"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_neither_is_refused_by_its_type(kind: str) -> None:
    source, says = OTHERS[kind]
    for fit in (lambda: Schema.fit(source()), lambda: Schema.fit(Y, source())):
        with pytest.raises(DataError, match=says):
            fit()
    schema = Schema.fit(Y)
    with pytest.raises(DataError, match=says):
        schema.panel(source())
    with pytest.raises(DataError, match=says):
        Schema.fit(SERIES, future=source())
    assert seen(schema, Y) == EXPECTED  # and the next good call works


# -- nothing there ---------------------------------------------------------------------------

NOTHING = {
    "None": None,
    "NaN": float("nan"),
    "NumPy's NaN": np.float32("nan"),
    "pandas's NA": pd.NA,
    "NaT": pd.NaT,
    "NumPy's NaT": np.datetime64("NaT"),
    "a duration's NaT": np.timedelta64("NaT"),
    "decimal NaN": Decimal("NaN"),
    "signalling decimal NaN": Decimal("sNaN"),
}


def objects(library: str, **columns: list[Any]) -> Any:
    if library == "pandas":
        return pd.DataFrame({name: pd.Series(each, dtype=object) for name, each in columns.items()})
    return pl.DataFrame([pl.Series(name, each, dtype=pl.Object) for name, each in columns.items()])


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("name", NOTHING)
def test_nothing_is_nothing_in_every_column(library: str, name: str) -> None:
    nothing = NOTHING[name]
    good = {"unique_id": [1, 1, 2, 2, 3], "ds": [1, 2, 1, 2, 1], "y": [1.0, 2, 3, 5, 4]}
    for column in ("unique_id", "ds"):
        bad = good | {column: [*good[column][:4], nothing]}
        with pytest.raises(DataError, match=r"has none|received nothing") as error:
            Schema.fit(objects(library, **bad))
        assert error.value.column == column
    table = objects(library, **good | {"y": [1.0, 2, 3, nothing, 4]})
    schema = Schema.fit(table)
    assert seen(schema, table) == [[1, 2], [3, None], [4, None]]
    tokens = objects(library, **good | {"y": ["a", "b", "a", nothing, "c"]})
    assert Schema.fit(tokens, tokens=True).panel(tokens).mask.sum() == 4
    static = {"unique_id": [1, 2, 3], "area": [1, nothing, 3], "sex": ["M", "F", nothing]}
    future = {**{n: good[n] for n in ("unique_id", "ds")}, "sky": ["wet", nothing, *"abc"]}
    table = objects(library, **good | {"seen": [nothing, 1, 2, 3, nothing]})
    static, future = objects(library, **static), objects(library, **future)
    schema = Schema.fit(table, static, future=future, past_cols=["seen"])
    assert schema.static.categories == {"sex": ("F", "M")}
    with pytest.warns(DataWarning, match="is missing"):
        panel = schema.panel(table, static, future=future)
    assert panel.numeric[:, 1].tolist() == [0, 1, 0]
    assert panel.codes[:, 0].tolist() == [3, 2, 1]
    assert panel.future is not None
    assert panel.future.codes[0, :, 0].tolist() == [5, 1]
    assert panel.past is not None
    assert panel.past.there.tolist() == [[False, True], [True, True], [False, False]]


@pytest.mark.parametrize("dtype", ["string", "string[pyarrow]", "string[python]", "str"])
def test_nothing_among_texts_of_pandas(dtype: str) -> None:
    ids = pd.array(["a", "a", "b", "b", "c"], dtype=dtype)
    series = PANDAS.assign(unique_id=ids)
    static = pd.DataFrame({"unique_id": ["a", "b", "c"]})
    static["sex"] = pd.array(["M", None, "F"], dtype=dtype)
    schema = Schema.fit(series, static)
    with pytest.warns(DataWarning, match="'sex' is missing .item 'b'"):
        assert schema.panel(series, static).codes[:, 0].tolist() == [3, 1, 2]
    tokens = series.assign(y=pd.array(["x", None, "x", "z", "x"], dtype=dtype))
    assert Schema.fit(tokens, tokens=True).panel(tokens).mask.sum() == 4
    with pytest.raises(DataError, match="has none"):
        Schema.fit(series.assign(unique_id=pd.array(["a", None, "b", "b", "c"], dtype=dtype)))
    days = pd.array(["2026-01-01", "2026-01-02", "2026-01-01", None, "2026-01-01"], dtype=dtype)
    with pytest.raises(DataError, match=r"received nothing .item 'b'"):
        Schema.fit(series.assign(ds=days))


# -- numbers of every type -------------------------------------------------------------------

WHOLE: dict[str, Callable[[list[int]], Any]] = {
    "objects": lambda v: pd.Series(v, dtype=object),
    "float objects": lambda v: pd.Series(list(map(float, v)), dtype=object),
    "NumPy's among objects": lambda v: pd.Series([np.int8(v[0]), *v[1:]], dtype=object),
    "decimal objects": lambda v: pd.Series(list(map(Decimal, v)), dtype=object),
    "fraction objects": lambda v: pd.Series(list(map(Fraction, v)), dtype=object),
    "sparse": lambda v: pd.Series(pd.arrays.SparseArray(v)),
    "masked": lambda v: pd.Series(v, dtype="Int16"),
    "pandas by Arrow": lambda v: pd.Series(v, dtype=pd.ArrowDtype(pa.decimal128(30, 2))),
    "polars objects": lambda v: pl.Series(v, dtype=pl.Object),
    "polars decimal": lambda v: pl.Series(v).cast(pl.Decimal(20, 3)),
    "polars 128 bits": lambda v: pl.Series(v, dtype=pl.Int128),
    "Arrow decimal": lambda v: pa.array(list(map(Decimal, v)), pa.decimal128(30, 0)),
    "Arrow decimal of 256 bits": lambda v: pa.array(list(map(Decimal, v)), pa.decimal256(60, 0)),
    "Arrow of 16 bits": lambda v: pa.array(v, pa.uint16()),
    "Arrow half floats": lambda v: pa.array(np.array(v, np.float16)),
}


def with_column(name: str, column: Any) -> Any:
    if isinstance(column, pl.Series):
        return SERIES.with_columns(column.alias(name))
    if isinstance(column, pd.Series):
        return PANDAS.assign(**{name: column})
    return ARROW.set_column(ARROW.column_names.index(name), name, column)


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("name", ["unique_id", "ds", "y"])
def test_whole_numbers_of_every_type(kind: str, name: str) -> None:
    table = with_column(name, WHOLE[kind](SERIES[name].cast(int).to_list()))
    schema = Schema.fit(table)
    assert seen(schema, table) == EXPECTED
    assert schema.panel(table).ids.tolist() == [1, 2, 3]


def test_numbers_beyond_float64_are_near_or_refused() -> None:
    big = pa.array([2**60 + 1, 2, 3, 5, 4])
    assert seen(Schema.fit(with_column("y", big)), ARROW)[1:] == EXPECTED[1:]
    static = pa.table({"unique_id": [1, 2, 3], "area": [2**63 - 1, -(2**62) - 1, None]})
    assert Schema.fit(ARROW, static).static.numeric == ("area",)
    for value in (10**400, -(10**400), Decimal("1e400")):
        with pytest.raises(DataError, match=r"expected a finite number.*\.\.\. \(item 1\)|1E\+400"):
            Schema.fit(with_column("y", pd.Series([value, 2, 3, 5, 4], dtype=object)))
    far = pd.Series([Decimal(10**40), Decimal(10**40), 2, 2, 3], dtype=object)
    assert Schema.fit(ARROW).panel(with_column("unique_id", far)).ids.tolist() == [10**40, 2, 3]
    for value in (Decimal("Infinity"), float("inf"), Fraction(1, 3), Decimal("1.5")):
        bad = pd.Series([value, 1, 2, 2, 3], dtype=object)
        with pytest.raises(DataError, match="column 'unique_id': expected whole numbers or text"):
            Schema.fit(with_column("unique_id", bad))
    ids = pa.array([2**64 - 1, 2**64 - 1, 2, 2, 3], pa.uint64())
    assert Schema.fit(ARROW).panel(with_column("unique_id", ids)).ids.tolist() == [2**64 - 1, 2, 3]


NO_NUMBERS = {
    "list": [1],
    "dict": {"a": 1},
    "set": {1},
    "array": np.ones(2),
    "duration": np.timedelta64(1, "s"),
    "Python's duration": dt.timedelta(1),
    "pandas's duration": pd.Timedelta(1, "s"),
    "complex": 1j,
    "class": object(),
}


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("name", NO_NUMBERS)
def test_objects_that_are_no_numbers_are_refused_with_column_and_item(
    library: str, name: str
) -> None:
    good = {"unique_id": [1, 1, 2, 2, 3], "ds": [1, 2, 1, 2, 1], "y": [1.0, 2, 3, 5, 4]}

    def refused(column: str, item: Any, *tables: Any, **options: Any) -> None:
        with pytest.raises(DataError, match=f"column '{column}'") as error:
            Schema.fit(*tables, **options)
        assert error.value.column == column
        assert item is None or error.value.item == item

    bad = [NO_NUMBERS[name]] * 2
    for column in ("ds", "y"):
        refused(column, 2, objects(library, **good | {column: [*good[column][:2], *bad, 1]}))
    refused("y", 2, objects(library, **good | {"y": [*"ab", *bad, "a"]}), tokens=True)
    refused("unique_id", None, objects(library, **good | {"unique_id": [1, 1, *bad, 1]}))
    if name in ("list", "dict", "set", "array"):
        refused("unique_id", None, objects(library, **good | {"unique_id": bad * 2 + bad[:1]}))
    for cells in ([1, 2, bad[0]], ["a", "b", bad[0]]):
        static = objects(library, unique_id=[1, 2, 3], area=cells)
        refused("area", None, objects(library, **good), static)
        refused("area", None, objects(library, **good), static, categorical=["area"])
    Schema.fit(objects(library, **good))


# -- numbers, marks and codes ----------------------------------------------------------------


def files(folder: Path, **columns: list[str]) -> tuple[Path, Path]:
    """A series and a static CSV file of as many items as the columns are long."""
    n = len(next(iter(columns.values())))
    pl.DataFrame({"unique_id": range(n), "ds": 1, "y": 1.0}).write_csv(folder / "series.csv")
    lines = [",".join(["unique_id", *columns])]
    lines += [",".join([str(i), *(each[i] for each in columns.values())]) for i in range(n)]
    (folder / "static.csv").write_text("\n".join(lines) + "\n")
    return folder / "series.csv", folder / "static.csv"


MARKS = ["NA", "N/A", "#N/A", "<NA>", "null", "None", "nan", "-", ".", "", "NULL", " NA ", "n/a"]


@pytest.mark.parametrize("mark", MARKS)
def test_marks_among_the_numbers_of_a_file_are_missing(tmp_path: Path, mark: str) -> None:
    series, static = files(
        tmp_path, area=["1.5", mark, "2.5", mark, "9"], open=["true", mark] * 2 + ["false"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schema = Schema.fit(series, static)
    assert schema.static.numeric == ("area", "open")
    with pytest.warns(DataWarning, match="'area' is missing .items 1, 3.; 'open' is missing"):
        panel = schema.panel(series, static)
    assert panel.numeric[:, 2].tolist() == [0, 1, 0, 1, 0]
    (tmp_path / "series.csv").write_text(f"unique_id,ds,y\n1,1,2\n1,2,{mark}\n1,3,4\n")
    assert seen(Schema.fit(series), series) == [[2, None, 4]]
    (tmp_path / "series.csv").write_text(f"unique_id,ds,y\n1,1,2\n{mark},2,2\n")
    with pytest.raises(DataError, match="expected an id in every row; row 2 has none"):
        Schema.fit(series)
    (tmp_path / "series.csv").write_text(f"unique_id,ds,y\n1,1,2\n1,{mark},2\n")
    with pytest.raises(DataError, match="column 'ds'"):
        Schema.fit(series)


def test_marks_among_texts_are_texts_and_one_never_met_is_missing(tmp_path: Path) -> None:
    series, static = files(tmp_path, land=["NA", "DE", "FR", "NA", "DE"])
    schema = Schema.fit(series, static)
    assert schema.static.categories == {"land": ("DE", "FR", "NA")}
    _, static = files(tmp_path, land=["none", "XX", "NA"])
    with pytest.warns(DataWarning, match="'land' is missing .item 0.; 'land' has 'XX', never seen"):
        assert schema.panel(None, static).codes[:, 0].tolist() == [1, 0, 4]


def test_a_file_of_numbers_and_a_few_texts_says_which(tmp_path: Path) -> None:
    area = [*map(str, range(20)), "big", "?", "12 km", "NA"]
    series, static = files(tmp_path, area=area)
    with pytest.warns(DataWarning, match="column 'area' is taken as categories") as caught:
        schema = Schema.fit(series, static)
    assert len(caught) == 1
    message = str(caught[0].message)
    for part in ("'big', '?', '12 km'", "(item 20)", "categorical=[...]", "Leave a cell empty"):
        assert part in message
    assert "NA" not in schema.static.categories["area"]  # as it is missing beside numbers
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Schema.fit(series, static, categorical=["area"])
        Schema.fit(*files(tmp_path, size=["S", "M", "L", "40", "42"]))  # mostly text: categories


@pytest.mark.parametrize("to", [lambda t: t, pl.DataFrame.to_pandas, pl.DataFrame.to_arrow])
def test_numbers_as_text_in_memory_say_so(to: Callable[[pl.DataFrame], Any]) -> None:
    """As polars reads a file of numbers with marks; codes as text are text, though."""
    static = pl.DataFrame({"unique_id": [1, 2, 3], "area": ["1.5", "NA", "2.5"]})
    with pytest.warns(DataWarning, match="numbers, but 'NA' .item 2.. Convert the column to num"):
        assert Schema.fit(to(SERIES), to(static)).static.categories == {"area": ("1.5", "2.5")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Schema.fit(to(SERIES), to(static.with_columns(area=pl.Series(["01", "17", "3"]))))


CODES: dict[str, Any] = {
    "whole numbers": [7, 7, 12],
    "floats": [7.0, 7.0, 12.0],
    "objects": pd.Series([7, "7", 12.0], dtype=object),
    "small": np.array([7, 7, 12], np.int8),
    "masked": pd.array([7, 7, 12], "Int64"),
    "category of numbers": pd.Series([7, 7, 12], dtype="category"),
    "category of floats": pd.Series([7.0, 7.0, 12.0], dtype="category"),
    "text": ["7", "7", "12"],
    "text of floats": ["7.0", "7.0", "12.0"],
    "decimals": pd.Series([Decimal("7.0"), Decimal(7), Decimal(12)], dtype=object),
}


@pytest.mark.parametrize("fitted", CODES)
@pytest.mark.parametrize("given", CODES)
def test_codes_are_the_same_categories_whatever_their_type(fitted: str, given: str) -> None:
    """One gap makes floats of pandas's whole numbers: '7.0' is the 7 of the fit."""
    schema = Schema.fit(
        PANDAS, pd.DataFrame({"unique_id": [1, 2, 3], "shop": CODES[fitted]}), categorical=["shop"]
    )
    assert schema.static.categories == {"shop": ("12", "7")}
    static = pd.DataFrame({"unique_id": [1, 2, 3], "shop": CODES[given]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert schema.panel(PANDAS, static).codes[:, 0].tolist() == [3, 3, 2]
    again = Schema.from_config(*schema.to_config())
    assert again.panel(PANDAS, static).codes[:, 0].tolist() == [3, 3, 2]


def test_codes_of_files_arrays_covariates_and_booleans(tmp_path: Path) -> None:
    series, static = files(tmp_path, shop=["7", "12.0", "NA", "7.0"])
    schema = Schema.fit(series, static, categorical=["shop"])
    assert schema.static.categories == {"shop": ("12", "7")}
    with pytest.warns(DataWarning, match="'shop' is missing"):
        assert schema.panel(series, static).codes[:, 0].tolist() == [3, 2, 1, 3]
    X = np.array([[7.0, 1.5], [12.0, 2.5], [np.nan, 3.5]])
    schema = Schema.fit(Y, X, categorical=["x1"])
    assert schema.static.kinds == {"x2": "numeric", "x1": "codes"}
    with pytest.warns(DataWarning, match="'x1' is missing"):
        assert schema.panel(Y, X).codes[:, 0].tolist() == [3, 2, 1]
    with pytest.raises(
        DataError, match=r"'x1': expected whole numbers, .*; received 1\.5"
    ) as error:
        schema.panel(Y, np.where(X == 12, 1.5, X))
    assert (error.value.column, error.value.item) == ("x1", 1)
    F = np.array([[[3.0], [4.0]]] * 3)
    assert Schema.fit(Y, future=F, categorical=["f1"]).future.categories == {"f1": ("3", "4")}
    table = SERIES.with_columns(
        sky=pl.Series([1, 2, None, 1, 2]), wet=pl.Series([True, False] * 2 + [None])
    )
    schema = Schema.fit(table, past_cols=["sky", "wet"], categorical=["sky", "wet"])
    assert schema.past.categories == {"sky": ("1", "2"), "wet": ("false", "true")}


def test_what_cannot_be_categorical_is_refused() -> None:
    static = pl.DataFrame({"unique_id": [1, 2, 3], "area": [1.0, 2.5, 3.0]})
    with pytest.raises(
        DataError, match=r"categories: text, whole numbers or booleans; received 2\.5"
    ):
        Schema.fit(SERIES, static, categorical=["area"])
    for name in ("aera", "y", "ds"):
        with pytest.raises(ArgumentError, match=f"categorical: expected .*'area'.*'{name}'"):
            Schema.fit(SERIES, static, categorical=[name])
    schema = Schema.fit(SERIES, static.with_columns(area=pl.Series(["a", "b", "c"])))
    with pytest.raises(DataError, match="expected text, as in fit"):
        schema.panel(SERIES, static)


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


# -- files -----------------------------------------------------------------------------------

GOOD = "unique_id,ds,y\n1,1,1\n1,2,2\n2,1,3\n2,2,5\n3,1,4\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "series.csv"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD + "\n",
        GOOD + "\n\n  \n",
        GOOD.rstrip(),
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r\n") + "\r\n",
        GOOD.replace("1,2,2\n", "1,2,2\n\n"),
        GOOD + ",,\n",
        "\ufeff" + GOOD,
        GOOD.replace("1,2,2", '"1","2","2"'),
        GOOD.replace("1,2,2", '"1","2","2"') + "\n",
    ],
)
def test_a_file_is_read_whatever_its_line_breaks(path: Path, text: str) -> None:
    path.write_bytes(text.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert seen(Schema.fit(path), path) == EXPECTED


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("unique_id,ds,y,y\n1,1,1,2\n", "expected unique names; 'y' is there twice"),
        ("unique_id,ds,y,\n1,1,1,2\n", None),
        ("unique_id,ds,y,,\n1,1,1,2,3\n", "unique names; '' is there twice"),
        (GOOD + "3,2", r"line 7 has 2: '3,2'. It is the last: is the file complete\?"),
        (GOOD + "3", "line 7 has 1: '3'. It is the last"),
        (GOOD + "3,2\n", "line 7 has 2: '3,2'[.]$"),
        (GOOD.replace("2,1,3", "2,1"), "line 4 has 2: '2,1'[.]$"),
        (GOOD.replace("2,1,3", "2,1,3,4"), "line 4 has 4: '2,1,3,4'"),
        (GOOD.replace("2,1,3", '"2",1'), "line 4 has 2: '2,1'"),
        (GOOD + '3,"2', "line 7 has 2"),
        ("unique_id,ds\r,y\n1,1,1\n", "cannot read it: new-line character"),
        (GOOD + "3," + "2" * 10_000, r"line 7 has 2: '3,2222.{60,90}\.\.\.\. It is the last"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused(path: Path, text: str, says: str | None) -> None:
    path.write_text(text)
    if says is None:
        Schema.fit(path)
        return
    with pytest.raises(DataError, match=says):
        Schema.fit(path)
    path.write_text(GOOD)
    assert seen(Schema.fit(path), path) == EXPECTED


EDITS = [
    ",",
    "\n",
    '"',
    "\0",
    "\udcff",
    "NA",
    "inf",
    "1e400",
    "\r",
    "\r\n",
    " ",
    "9" * 40,
    "+99:99",
]
DAMAGED = [
    GOOD,
    GOOD.replace("1,1,1", '"1",2024-01-01,1'),
    "unique_id,ds,y\na,2024-01-01T00:00Z,1\n",
]


@settings(max_examples=300)
@given(
    st.sampled_from(DAMAGED),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5), st.sampled_from(EDITS))),
)
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, edits: list[tuple[int, int, str]]
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "series.csv"
    for at, gone, new in edits:
        text = text[:at] + new + text[at + gone :]
    path.write_bytes(text.encode(errors="surrogateescape"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(DataError):
            Schema.fit(path)


def test_a_file_cut_before_its_last_cell_is_worth_a_warning(path: Path) -> None:
    path.write_text(GOOD + "3,2,")
    with pytest.warns(DataWarning, match="is the file complete"):
        assert seen(Schema.fit(path), path) == EXPECTED


def test_lines_are_counted_in_parts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statecast.tables.source._CHUNK_OF_LINES", 7)
    path.write_text(GOOD)
    assert seen(Schema.fit(path), path) == EXPECTED
    for line in range(2, 8):
        lines = GOOD.splitlines()
        lines.insert(line - 1, "7")
        path.write_text("\n".join(lines))
        with pytest.raises(DataError, match=f"line {line} has 1: '7'"):
            Schema.fit(path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_hundred_thousand_columns_are_refused_before_they_are_read(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"series.{ending}"
    names = [f"step{i}" for i in range(100_000)]
    if ending == "csv":
        path.write_text(",".join(names) + "\n" + ",".join(["1"] * 100_000) + "\n")
    else:
        pl.DataFrame(np.ones((1, 20_000)), schema=names[:20_000]).write_parquet(path)
    start = time.process_time()
    with pytest.raises(DataError, match=r"at most 10,000 columns; received \d+,000. Is it a wide"):
        Schema.fit(path)
    assert time.process_time() - start < 1
    with pytest.raises(DataError, match="at most 10,000 columns"):
        Schema.fit(pl.DataFrame(np.ones((1, 20_000))))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_name_that_is_not_utf_8_is_refused(tmp_path: Path, ending: str) -> None:
    name = os.fsdecode(os.fsencode(tmp_path / "s") + b"\xff." + ending.encode())
    Path(name).write_text(GOOD)
    for path in (name, Path(name)):
        with pytest.raises(DataError, match="expected a file name in UTF-8"):
            Schema.fit(path)


def test_a_path_of_bytes_is_a_path(path: Path) -> None:
    class Entry:
        def __fspath__(self) -> bytes:
            return os.fsencode(path)

    path.write_text(GOOD)
    assert seen(Schema.fit(Entry()), Entry()) == EXPECTED


def test_long_ids_names_and_values_are_quoted_shortly() -> None:
    long = "x" * 10_000
    bad: dict[str, Any] = {
        "a step": (PANDAS.assign(unique_id=long, ds=0), None, {}),
        "a repeated step": (PANDAS.assign(unique_id=long, ds=1), None, {}),
        "y": (PANDAS.assign(unique_id=long, y=long), None, {}),
        "a token": (PANDAS.assign(y=long), None, {"tokens": True}),
        "a name": (PANDAS, pd.DataFrame({"unique_id": [1, 2, 3], long: [np.inf] * 3}), {}),
        "types": (PANDAS.assign(unique_id=[long, 1, 1, 1, 1]), None, {}),
        "an item not there": (PANDAS.assign(unique_id=long), STATIC_LONG, {}),
        "a date": (PANDAS.assign(ds=long), None, {}),
        "an object": (PANDAS.assign(y=[[long] * 100] * 5), None, {}),
        "a column that is not there": (PANDAS.rename(columns={"y": long}), None, {}),
        "a kind": (
            pl.DataFrame({"unique_id": [1]}).select(
                pl.struct(pl.lit(1).alias(long)).alias("unique_id"), ds=1, y=1.0
            ),
            None,
            {},
        ),
        "a path": (long + ".csv", None, {}),
    }
    for case, (series, static, options) in bad.items():
        with pytest.raises(DataError) as error:
            Schema.fit(series, static, **options)
        assert len(str(error.value)) < 700, case
    static = pd.DataFrame({"unique_id": [1, 2, 3], "a": ["p", "q", "r"]})
    schema = Schema.fit(PANDAS, static)
    with pytest.warns(DataWarning, match="never seen") as caught:
        schema.panel(None, static.assign(a=long, unique_id=[long, "b", "c"]))
    assert len(str(caught[0].message)) < 700


STATIC_LONG = pd.DataFrame({"unique_id": [*"abc"], "size": [1.0, 2.0, 4.0]})


# -- messages that say what to do ------------------------------------------------------------

RENAMED = SERIES.rename({"unique_id": "item", "ds": "week", "y": "sales"})
WIDE = pl.DataFrame({"unique_id": [1, 2], **{f"2024-0{i}": [1.0, 2.0] for i in range(1, 6)}})
STATIC = pl.DataFrame({"unique_id": [1, 2, 3], "area": [1.0, 2.5, 4.0]})
REMEDIES: dict[str, tuple[Any, Any, str]] = {
    "another name of the id": (RENAMED, None, "pass id_col='item', or --id-col on the command"),
    "of the steps": (SERIES.rename({"ds": "Date"}), None, "pass step_col='Date'"),
    "of the values": (SERIES.rename({"y": "sales"}), None, "pass target_col='sales'"),
    "a slip of the pen": (SERIES.rename({"unique_id": "unique_ID "}), None, "id_col='unique_ID '"),
    "of the id of statics": (SERIES, STATIC.rename({"unique_id": "sku"}), "pass id_col='sku'"),
    "no name at all": (SERIES.rename({"y": "p"}).with_columns(q=1.0), None, "target_col='...'"),
    "a wide table": (WIDE, None, r"looks wide.*melt\('unique_id', var_name='ds', value_name='y'\)"),
    "a wide table of numbers": (
        WIDE.rename({f"2024-0{i}": str(i) for i in range(1, 6)}).to_pandas(),
        None,
        "looks wide",
    ),
    "a wide table of weeks": (
        WIDE.rename({f"2024-0{i}": f"week_{i}" for i in range(1, 6)}).to_arrow(),
        None,
        "looks wide",
    ),
    "an index of several levels": (PANDAS.set_index(["unique_id", "ds"]), None, r"reset_index\(\)"),
    "an index of ids": (PANDAS.set_index("unique_id"), None, r"reset_index\(\)"),
    "statics with an index": (PANDAS, STATIC.to_pandas().set_index("unique_id"), "reset_index"),
    "swapped tables": (STATIC, SERIES, "is it the static table. The series comes first"),
    "periods": (
        PANDAS.assign(ds=pd.PeriodIndex(["2024-01", "2024-02"] * 2 + ["2024-01"], freq="M")),
        None,
        r"Convert the periods to dates: .*to_timestamp\(\)",
    ),
    "dates as numbers": (
        PANDAS.assign(ds=[20240101, 20240102, 20240101, 20240102, 20240101]),
        None,
        r"written YYYYMMDD. Convert the column: pandas.to_datetime",
    ),
    "dates as compact text": (
        SERIES.with_columns(ds=pl.Series(["20240101", "20240102"] * 2 + ["20240101"])),
        None,
        "written YYYYMMDD",
    ),
    "dates as floats": (PANDAS.assign(ds=[20240101.0] * 5), None, "written YYYYMMDD"),
}


@pytest.mark.parametrize("case", REMEDIES)
def test_messages_say_what_to_do(case: str) -> None:
    series, static, says = REMEDIES[case]
    with pytest.raises(DataError, match=says):
        Schema.fit(series, static)


def test_what_the_messages_say_works() -> None:
    names: dict[str, Any] = {"id_col": "item", "step_col": "week", "target_col": "sales"}
    assert seen(Schema.fit(RENAMED, **names), RENAMED) == EXPECTED
    wide = pd.DataFrame({"unique_id": [1, 2, 3], "1": [1.0, 3.0, 4.0], "2": [2.0, 5.0, np.nan]})
    long = wide.melt("unique_id", var_name="ds", value_name="y").astype({"ds": int})
    assert seen(Schema.fit(long), long) == EXPECTED
    indexed = PANDAS.set_index(["unique_id", "ds"]).reset_index()
    assert seen(Schema.fit(indexed), indexed) == EXPECTED


# -- ids come back as they came --------------------------------------------------------------

TEXT, TIMES = ["a", "b", "c"], [dt.datetime(2024, 1, day) for day in (1, 2, 3)]
IDS: dict[str, Callable[[], Any]] = {
    **{
        f"polars {dtype}": lambda dtype=dtype: pl.Series([1, 2, 3]).cast(dtype)
        for dtype in (pl.Int8, pl.UInt32, pl.UInt64, pl.Int128, pl.Float32, pl.Decimal(9, 2))
    },
    **{
        f"polars {dtype}": lambda dtype=dtype: pl.Series(TEXT, dtype=dtype)
        for dtype in (pl.String, pl.Categorical, pl.Enum(["z", *TEXT]), pl.Object)
    },
    "polars date": lambda: pl.Series(TIMES).cast(pl.Date),
    "polars datetime": lambda: pl.Series(TIMES).cast(pl.Datetime("ms")),
    "polars duration": lambda: pl.Series([1, 2, 3]).cast(pl.Duration("ms")),
    "polars binary": lambda: pl.Series([b"a", b"b", b"c"]),
    "polars tuples": lambda: pl.Series([(1, "a"), (1, "b"), (2, "a")], dtype=pl.Object),
    "polars large": lambda: pl.Series([2**64 - 1, 2, 3], dtype=pl.UInt64),
    **{
        f"pandas {dtype}": lambda dtype=dtype: pd.Series([1, 2, 3]).astype(dtype)
        for dtype in ("int16", "uint64", "Int32", "float32", "category", object, "int8[pyarrow]")
    },
    **{
        f"pandas text as {dtype}": lambda dtype=dtype: pd.Series(TEXT).astype(dtype)
        for dtype in ("str", "string", "category", object, "string[pyarrow]")
    },
    "pandas ordered category": lambda: pd.Series(
        pd.Categorical(TEXT, categories=["c", "b", "a", "z"], ordered=True)
    ),
    "pandas times": lambda: pd.Series(pd.to_datetime(TIMES)),
    "pandas times in a zone": lambda: pd.Series(pd.to_datetime(TIMES)).dt.tz_localize("Asia/Tokyo"),
    "pandas durations": lambda: pd.Series(pd.to_timedelta([1, 2, 3], unit="h")),
    "pandas tuples": lambda: pd.Series([(1, "a"), (1, "b"), (2, "a")]),
    "pandas dates": lambda: pd.Series([each.date() for each in TIMES]),
    "pandas large": lambda: pd.Series([2**70, 2, 3], dtype=object),
    **{
        f"Arrow {dtype}": lambda dtype=dtype: pa.array([1, 2, 3]).cast(dtype)
        for dtype in (pa.int16(), pa.uint64(), pa.float64(), pa.decimal128(30, 3))
    },
    **{
        f"Arrow {dtype}": lambda dtype=dtype: pa.array(TEXT).cast(dtype)
        for dtype in (pa.string(), pa.large_string(), pa.binary())
    },
    "Arrow dictionary": lambda: pa.array(TEXT).dictionary_encode(),
    "Arrow dictionary of numbers": lambda: pa.array([1, 2, 3]).dictionary_encode(),
    "Arrow date": lambda: pa.array(TIMES).cast(pa.date32()),
    "Arrow duration": lambda: pa.array([1, 2, 3], pa.duration("s")),
}


def frame_of(column: Any, **others: Any) -> Any:
    if isinstance(column, pl.Series):
        return pl.DataFrame({"unique_id": column, **others})
    if isinstance(column, pd.Series):
        return pd.DataFrame({"unique_id": column.reset_index(drop=True), **others})
    return pa.table({"unique_id": column, **others})


def ids_of(table: Any) -> tuple[Any, list[Any]]:
    column = table["unique_id"]
    kind = column.type if isinstance(table, pa.Table) else column.dtype
    return kind, column.to_pylist() if isinstance(table, pa.Table) else column.to_list()


@pytest.mark.parametrize("kind", IDS)
def test_ids_come_back_as_they_came_from_every_table(kind: str) -> None:
    column = IDS[kind]()
    rows = [0, 0, 1, 1, 2]
    if isinstance(column, pa.Array):
        taken = column.take(pa.array(rows))
    else:
        taken = column.iloc[rows] if isinstance(column, pd.Series) else column.gather(rows)
    ds, y = [1, 2, 1, 2, 1], [1.0, 2.0, 3.0, 5.0, 4.0]
    series, static = frame_of(taken, ds=ds, y=y), frame_of(column, area=[1.0, 2.5, 4.0])
    dtype, ids = ids_of(static)
    schema = Schema.fit(series, static)
    for tables in ((series, static), (None, static), (series[:2], static)):
        panel = schema.panel(*tables)
        output = schema.output(panel.kind)
        table = output.table({"f": np.ones((3, 2))}, ids=panel.ids, known=np.zeros(3, int))
        found = [ids_of(table)[1][row] for row in (0, 2, 4)]
        assert (ids_of(table)[0], found) == (dtype, ids)
        assert ids_of(output.summary({"f": np.ones(3)}, ids=panel.ids)) == (dtype, ids)
        effects = np.full((3, 2, 2), 1.0)
        why = ForecastExplanation(
            panel.ids, np.zeros(3, int), effects, {}, panel.ids[:, None], np.ones((3, 1)),
            "unique_id", panel.kind, ("y",), np.full(3, 2),
        )  # fmt: skip
        assert ids_of(why.table())[0] == dtype
        if isinstance(static, pl.DataFrame) and dtype != pl.Object:
            assert len(table.join(static, on="unique_id")) == 6
        if isinstance(static, pa.Table):
            assert len(table.join(static, "unique_id", join_type="inner")) == 6


@pytest.mark.parametrize(
    ("few", "more"),
    [
        (pl.Series(["a", "a", "b"], dtype=pl.Enum(["a", "b"])), pl.Series(TEXT)),
        (pd.Series(["a", "a", "b"], dtype="category"), pd.Series(TEXT, dtype="category")),
        (pl.Series([1, 1, 2], dtype=pl.Int8), pl.Series([1, 2, 300])),
        (pa.array([1, 1, 2], pa.int8()), pa.array([1, 2, 300])),
    ],
)
def test_ids_that_the_type_of_the_series_cannot_hold_come_back_all_the_same(few, more) -> None:
    series = frame_of(few, ds=[1, 2, 1], y=[1.0, 2.0, 3.0])
    static = frame_of(more, area=[1.0, 2.5, 4.0])
    schema = Schema.fit(series, static)
    panel = schema.panel(series, static)
    table = schema.output(panel.kind).summary({"f": np.ones(3)}, ids=panel.ids)
    assert ids_of(table)[1] == ids_of(static)[1]


@pytest.mark.parametrize("kind", IDS)
def test_the_type_of_ids_survives_a_model_file(kind: str) -> None:
    column = IDS[kind]()
    series = frame_of(column, ds=[1, 1, 1], y=[1.0, 2.0, 3.0])
    schema = Schema.fit(series)
    config, arrays = schema.to_config()
    back = Schema.from_config(json.loads(json.dumps(config, allow_nan=False)), arrays)
    panel = schema.panel(series)
    tables = [
        each.output().table({"f": np.ones((3, 2))}, ids=panel.ids, known=np.zeros(3, int))
        for each in (schema, back)
    ]
    assert ids_of(tables[1]) == ids_of(tables[0])
    assert back.to_config()[0] == config


@pytest.mark.parametrize(
    ("library", "name", "categories"),
    [
        ("polars", "os.system", None),
        ("polars", "Enum", None),
        ("polars", "Enum", ["a", "a"]),
        ("polars", "Enum", [1.5]),
        ("polars", "Int32", ["a"]),
        ("polars", "Datetime(time_unit='us', time_zone='Middle/Earth')", None),
        ("pandas", "int32; import os", None),
        ("pandas", "datetime64[ns, Middle/Earth]", None),
        ("pandas", "category", [None]),
        ("pyarrow", "extension<x>", None),
        ("pyarrow", "timestamp[us, tz=Middle/Earth]", None),
        ("arrays", "Int32", None),
    ],
)
def test_a_type_of_ids_that_no_file_of_ours_names_is_refused(library, name, categories) -> None:
    config = {"name": name, "categories": categories, "ordered": False}
    with pytest.raises(errors.ModelFileError, match="ids: expected the type"):
        IdType.from_config(config, library)
    with pytest.raises(errors.ModelFileError, match="ids: expected the type"):
        IdType.from_config(name, library)


def test_ids_of_a_state_come_as_in_fit_while_they_fit() -> None:
    """From a state there is no table; of ids that the fit's type cannot hold their own decides."""
    schema = Schema.fit(
        frame_of(pl.Series(["a", "a", "b"], dtype=pl.Enum(["a", "b"])), ds=[1, 2, 1], y=1.0)
    )
    for ids, dtype in ((["b", "a"], pl.Enum(["a", "b"])), (["z"], pl.String), ([7], pl.Int64)):
        table = schema.output().summary({"f": np.ones(len(ids))}, ids=np.array(ids))
        assert ids_of(table) == (dtype, ids)


# -- dates with an offset --------------------------------------------------------------------

HOURS = [dt.datetime(2024, 3, 30, 22, tzinfo=dt.UTC) + dt.timedelta(hours=i) for i in range(6)]
OFFSETS: dict[str, Callable[[dt.datetime], str]] = {
    "Z": lambda d: d.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "of nothing": lambda d: d.isoformat(),
    "of two hours": lambda d: d.astimezone(dt.timezone(dt.timedelta(hours=2))).isoformat(" "),
    "of half an hour": lambda d: d.astimezone(dt.timezone(-dt.timedelta(hours=3.5))).isoformat(),
    "to the minute": lambda d: d.strftime("%Y-%m-%d %H:%MZ"),
    "of milliseconds": lambda d: d.isoformat(timespec="milliseconds"),
    "that changes": lambda d: d.astimezone(zoneinfo.ZoneInfo("Europe/Paris")).isoformat(),
    "without a colon": lambda d: d.strftime("%Y-%m-%dT%H:%M:%S%z"),
}


@pytest.mark.parametrize("to", ["csv", "polars", "pandas", "pyarrow"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_dates_with_an_offset_are_instants_whatever_table_they_are_in(
    tmp_path: Path, offset: str, to: str
) -> None:
    texts = list(map(OFFSETS[offset], HOURS))
    frame = pl.DataFrame({"unique_id": 1, "ds": texts, "y": [float(i) for i in range(6)]})
    table: Any = frame
    if to == "csv":
        table = tmp_path / "series.csv"
        frame.write_csv(table)
    elif to != "polars":
        table = frame.to_pandas() if to == "pandas" else frame.to_arrow()
    schema = Schema.fit(table)
    assert str(schema.spacing) == "1:00:00"
    assert schema.steps == 6
    panel = schema.panel(table)
    assert panel.origin == np.datetime64("2024-03-30T22:00", "us")
    out = schema.output(panel.kind).table(
        {"f": np.ones((1, 6))}, ids=panel.ids, known=np.zeros(1, int), origin=panel.origin
    )
    found = pl.DataFrame(out) if to != "pandas" else pl.from_pandas(out)
    if to == "csv":
        assert found["ds"].dt.convert_time_zone("UTC").to_list() == HOURS
    elif offset not in ("that changes", "without a colon"):
        assert found["ds"].to_list() == texts  # so that it joins
    else:
        assert [dt.datetime.fromisoformat(text) for text in found["ds"]] == HOURS
    again = Schema.from_config(*schema.to_config())
    assert str(again.spacing) == "1:00:00"


@pytest.mark.parametrize(
    ("texts", "says", "item"),
    [
        (["2024-01-01T00:00Z", "2024-01-01T01:00"], "all have an offset, or that all have none", 2),
        (["2024-01-01T00:00Z", "2024-01-01Z"], "received '2024-01-01Z'", 2),
        (["2024-01-01T00:00Z", "2024-01-01T01:00+1"], r"received '2024-01-01T01:00\+1'", 2),
        (["2024-01-01T00:00Z", "2024-01-01T01:00+01:75"], r"\+01:75", 2),
        (["2024-01-01T00:00Z", "2024-02-30T01:00Z"], "2024-02-30", 2),
        (["2024-01-01T00:00 CET", "2024-01-01T00:00 CET"], "CET", 1),
    ],
)
def test_offsets_that_are_none_are_refused(tmp_path: Path, texts, says: str, item: int) -> None:
    frame = pl.DataFrame({"unique_id": [1, 2], "ds": texts, "y": 1.0})
    frame.write_csv(tmp_path / "series.csv")
    for table in (frame, tmp_path / "series.csv"):
        with pytest.raises(DataError, match=says) as error:
            Schema.fit(table)
        assert (error.value.column, error.value.item) == ("ds", item)
