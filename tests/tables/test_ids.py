"""Ids come back in their own type, also from model files and states."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from statecast.forecast.explanation import ForecastExplanation
from statecast.forecast.forecaster import Forecaster
from statecast.state import State
from statecast.tables.schema import Schema

pd = pytest.importorskip("pandas")

pa = pytest.importorskip("pyarrow")


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


def test_ids_of_a_state_come_as_in_fit_while_they_fit() -> None:
    """From a state there is no table; of ids that the fit's type cannot hold their own decides."""
    schema = Schema.fit(
        frame_of(pl.Series(["a", "a", "b"], dtype=pl.Enum(["a", "b"])), ds=[1, 2, 1], y=1.0)
    )
    for ids, dtype in ((["b", "a"], pl.Enum(["a", "b"])), (["z"], pl.String), ([7], pl.Int64)):
        table = schema.output().summary({"f": np.ones(len(ids))}, ids=np.array(ids))
        assert ids_of(table) == (dtype, ids)


@pytest.mark.parametrize("targets", [["y"], ["y", "z"]])
@pytest.mark.parametrize(
    "ids",
    [
        lambda: pd.date_range("2020-01-01", periods=8, unit="ns"),
        lambda: pd.date_range("2020-01-01", periods=8, tz="Asia/Tokyo"),
        lambda: pd.to_timedelta(range(8), unit="D"),
    ],
    ids=["dates", "dates of a zone", "durations"],
)
def test_a_state_from_a_file_takes_rows_of_ids_of_pandas(ids, targets, tmp_path) -> None:
    """The file holds them as datetime and timedelta, which equal those of pandas."""
    each = pd.Series(ids())
    series = pd.DataFrame({"unique_id": each.repeat(4).reset_index(drop=True)})
    series["ds"] = [1, 2, 3, 4] * 8
    series["y"] = np.random.default_rng(0).normal(size=32)
    series["z"] = -series["y"]
    f = Forecaster(units=2, ensemble=1, epochs=1, target_col=targets).fit(series, verbose=0)
    state = f.state(series[series.ds <= 2])
    state.save(tmp_path / "s")
    third = series[series.ds == 3]
    found = f.predict(state=f.update(State.load(tmp_path / "s"), third), until=4)
    pd.testing.assert_frame_equal(found, f.predict(state=f.update(state, third), until=4))
