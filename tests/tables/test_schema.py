"""Laws of the schema and the panel, and every kind of bad input. Without Keras."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import warnings
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_tables import SERIES, STATIC, same_schema
from statecast.errors import ArgumentError, DataError, DataWarning
from statecast.tables import scaling, source, steps
from statecast.tables.dates import Form
from statecast.tables.ids import Kind
from statecast.tables.panel import Panel
from statecast.tables.scaling import TRANSFORMS
from statecast.tables.schema import Schema
from toy_data import in_domain

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

ROOT = Path(__file__).resolve().parents[2]


# -- what the laws range over ------------------------------------------------------------


@st.composite
def tables(draw: st.DrawFn, with_static: bool = True) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """A series and a static table: ragged, with gaps, missing statics, any order of rows."""
    n = draw(st.integers(2, 7))
    text = draw(st.booleans())
    ids = [f"item {i}" if text else 10 * i for i in range(n)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    positive = draw(st.booleans())
    rows = []
    for item in ids:
        last = int(rng.integers(1, 9))
        kept = np.flatnonzero(rng.random(last) < 0.8) + 1
        kept = kept if len(kept) else np.array([last])
        y = rng.normal(0, 3, len(kept))
        y = np.exp(y) if positive else y
        missing = rng.random(len(kept)) < 0.2
        missing[int(rng.integers(len(kept)))] = False
        rows += [
            (item, int(s), None if m else float(v))
            for s, v, m in zip(kept, y, missing, strict=True)
        ]
    order = rng.permutation(len(rows))
    series = pl.DataFrame(
        [rows[i] for i in order], schema=["unique_id", "ds", "y"], orient="row"
    ).cast({"y": pl.Float64})
    if not with_static:
        return series, None
    colours = np.array(["red", "green", "NA", "bleu é", None], object)
    static = pl.DataFrame(
        {
            "unique_id": ids,
            "colour": colours[rng.integers(0, 5, n)].tolist(),
            "size": [None if rng.random() < 0.2 else float(v) for v in rng.lognormal(0, 2, n)],
            "whole": rng.integers(-3, 3, n).tolist(),
        },
        schema_overrides={"colour": pl.String, "size": pl.Float64},
    )
    # Otherwise a CSV file cannot tell that the column is text
    static[0, "colour"] = "red"
    return series, static


def same(left: Panel, right: Panel) -> None:
    assert left.ids.tolist() == right.ids.tolist()
    for name in ("y", "mask", "numeric", "codes"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
        assert getattr(left, name).dtype == getattr(right, name).dtype
    if left.origin is None or right.origin is None:
        assert left.origin is right.origin
    else:
        np.testing.assert_array_equal(left.origin, right.origin)


pytestmark = pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")


# -- laws --------------------------------------------------------------------------------


@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(tabs, random) -> None:
    series, static = tabs
    order = list(range(len(series)))
    random.shuffle(order)
    schema, shuffled = Schema.fit(series, static), Schema.fit(series[order], static)
    (config, arrays), (other, others) = schema.to_config(), shuffled.to_config()
    assert config == other
    for name, values in arrays.items():  # sums in another order differ in the last bit
        np.testing.assert_allclose(values, others[name], rtol=1e-12, atol=1e-12)
    same(schema.panel(series, static), schema.panel(series[order], static))
    items = list(range(len(static)))
    random.shuffle(items)
    back = schema.panel(series, static[items]).take(np.argsort(items))
    same(schema.panel(series, static), back)


@given(
    tables(),
    st.integers(1, 9),
    st.sampled_from(["numbers", "days", "month ends", "hours as text"]),
    st.sampled_from(["auto", "none", "log"]),
)
def test_a_file_read_in_batches_is_the_table_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, tabs, batch: int, steps: str, transform: str
) -> None:
    series, static = tabs
    if transform == "log":
        series = series.with_columns(pl.col("y").abs())
    start = pl.date(2026, 1, 31)
    if steps == "days":
        series = series.with_columns(ds=start + pl.duration(days=pl.col("ds")))
    elif steps == "month ends":
        series = series.with_columns(ds=start.dt.offset_by(pl.format("{}mo", pl.col("ds"))))
    elif steps == "hours as text":
        moment = pl.datetime(2026, 1, 1) + pl.duration(hours=pl.col("ds") - 1)
        series = series.with_columns(ds=moment.dt.to_string("iso").str.slice(0, 19))
    path = tmp_path_factory.mktemp("batches") / "series.parquet"
    series.with_columns(other=pl.lit("not read")).write_parquet(path, row_group_size=3)

    def read(source: Any) -> list[Any]:
        try:
            schema = Schema.fit(source, static, transform=transform)
        except DataError as error:  # dates that gaps have made too few of
            return [str(error).partition("column")[2]]
        found: list[Any] = [schema, schema.panel(source, static)]
        found.append(schema.panel(source, static, for_fit=True))
        found.append(schema.new_rows(source, static["unique_id"].to_list()))
        return [*found, Schema.fit(source, transform=transform)]  # items in order of appearance

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BATCH", batch)
        batches = read(path)
    for left, right in zip(read(series), batches, strict=True):
        if isinstance(left, Schema):
            same_schema(left, right)
        elif isinstance(left, Panel):
            same(left, right)
        else:
            assert left == right


@given(
    st.lists(st.lists(st.floats(-1e100, 1e100) | st.sampled_from([0.0, -0.0, 1.0]), max_size=9)),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
)
def test_quantiles_of_batches_are_those_of_all_values(batches, levels) -> None:
    arrays = [np.array(batch, np.float64) for batch in batches]
    values = np.concatenate([*arrays, np.zeros(0)])
    found = scaling.quantiles(lambda: arrays, levels)
    if not len(values):
        assert np.isnan(found).all()
        return
    low, high = (np.quantile(values, levels, method=method) for method in ("lower", "higher"))
    assert ((low <= found) & (found <= high)).all()
    size = np.maximum(np.abs(low), np.abs(high))
    assert (np.abs(found - np.quantile(values, levels)) <= 1e-9 * size).all()


@given(tables())
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
            same(panel, seen)
            assert seen.kind.library == kind


@given(tables(with_static=False), st.booleans())
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
    same(schema.panel(table, static).take(order), schema.panel(Y, X))
    same(other.panel(Y, X), other.panel(Y.tolist(), X))


@given(tables(), st.data())
def test_an_item_does_not_depend_on_its_neighbours(tabs, data) -> None:
    series, static = tabs
    schema = Schema.fit(series, static)
    panel = schema.panel(series, static)
    rows = data.draw(st.lists(st.integers(0, panel.rows - 1), min_size=1, unique=True))
    some = static[rows]["unique_id"].to_list()
    alone = schema.panel(series.filter(pl.col("unique_id").is_in(some)), static[rows])
    same(panel.take(rows), alone)
    # ... nor on one that is a hundred times larger
    loud = series.with_columns(
        y=pl.when(pl.col("unique_id").is_in(some)).then("y").otherwise(pl.col("y") * 100)
    )
    same(panel.take(rows), schema.panel(loud, static).take(rows))


@given(tables(), st.sampled_from(["auto", *TRANSFORMS]), st.integers(1, 12))
def test_unscale_inverts_scale_and_increases(tabs, transform: str, first: int) -> None:
    series, static = tabs
    known = series["y"].to_numpy()
    if transform != "auto":
        known = in_domain(known, TRANSFORMS[transform](1.0, TRANSFORMS[transform].natural))
    series = series.with_columns(y=pl.Series(known, nan_to_null=True))
    schema = Schema.fit(series, static, transform=transform)
    rng = np.random.default_rng(first)
    y = rng.normal(0, 50, (3, 2, 10))
    chosen = schema.targets[0].transform
    y = in_domain(y, chosen)
    y[0, 0, 0] = np.nan
    back = schema.unscale(schema.scale(y, first), first)
    assert back.dtype == np.float64
    np.testing.assert_allclose(back, y, rtol=1e-9, atol=1e-9)
    z = np.linspace(-50, 50, 201)[:, None].repeat(10, 1)
    values = schema.unscale(z, first)
    assert np.isfinite(values).all()
    assert (np.diff(values, axis=0) >= 0).all()
    assert not np.signbit(values[values == 0]).any()
    assert values.min() >= chosen.bounds[0]
    assert values.max() <= chosen.bounds[1]
    assert chosen.name != "positive" or values.min() > 0
    assert chosen.name != "counts" or (values == np.rint(values)).all()
    # The panel is scaled by the same rule, whatever else is in it
    panel = schema.panel(series, static)
    dense = np.full(panel.y.shape, np.nan)
    row = {item: i for i, item in enumerate(panel.ids.tolist())}
    for item, step, value in series.drop_nulls().rows():
        dense[row[item], step - 1] = value
    z = np.clip(schema.scale(dense), -1e6, 1e6).astype(np.float32)
    np.testing.assert_array_equal(panel.y, np.where(panel.mask, z, 0))


@given(tables(), st.sampled_from(["auto", "none"]))
def test_a_schema_survives_its_config(tabs, transform: str) -> None:
    series, static = tabs
    schema = Schema.fit(series, static, transform=transform)
    config, arrays = schema.to_config()
    again = Schema.from_config(json.loads(json.dumps(config, allow_nan=False)), arrays)
    same_schema(schema, again)
    same(schema.panel(series, static), again.panel(series, static))


@given(tables(), st.data())
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
        same(schema.panel(series, static, for_fit=True), schema.panel(series, trained))
    assert schema.panel(series, static).known.tolist() == [
        (series.filter((pl.col("unique_id") == item) & pl.col("y").is_not_null()))["ds"].max() or 0
        for item in ids
    ]


@given(tables(), st.integers(1, 12), st.sampled_from(["polars", "pandas", "pyarrow", "arrays"]))
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


@given(tables(), st.integers(0, 8))
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


# -- dates -------------------------------------------------------------------------------


def monthly(day: int, count: int, step: int = 1) -> list[dt.date]:
    out = []
    for i in range(count):
        first = dt.date(2023 + (i * step) // 12, (i * step) % 12 + 1, 1)
        last = (first.replace(day=28) + dt.timedelta(4)).replace(day=1) - dt.timedelta(1)
        out.append(first.replace(day=min(day, last.day)))
    return out


GRIDS = {
    "1 day, 0:00:00": [dt.date(2024, 2, 25) + dt.timedelta(i) for i in range(6)],
    "7 days, 0:00:00": [dt.date(2024, 2, 25) + dt.timedelta(7 * i) for i in range(6)],
    "12 days, 0:00:00": [dt.date(2023, 10, 1) + dt.timedelta(12 * i) for i in range(6)],
    "28 days, 0:00:00": [dt.date(2023, 1, 1) + dt.timedelta(28 * i) for i in range(6)],
    "1 month": monthly(5, 6),
    "1 month (month ends)": monthly(31, 6),
    "3 months": monthly(30, 6, 3),
    "12 months": monthly(1, 4, 12),
    "0:15:00": [dt.datetime(2024, 1, 1, 23) + dt.timedelta(minutes=15 * i) for i in range(6)],
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("how", ["polars", "pandas", "pyarrow", "text", "csv", "objects"])
def test_dates_become_steps_and_come_back(tmp_path: Path, name: str, how: str) -> None:
    dates = GRIDS[name]
    kept = [i for i in range(len(dates)) if i != 2]  # a row that is absent is a gap
    series: Any = pl.DataFrame(
        {
            "unique_id": ["a"] * len(kept) + ["b"] * 2,
            "ds": [dates[i] for i in kept] + dates[1:3],
            "y": [float(i) for i in kept] + [1.0, 2.0],
        }
    ).reverse()
    form = "Date" if not isinstance(dates[0], dt.datetime) else "Datetime"
    if how == "pandas":
        series, form = series.to_pandas(), "Datetime"
        if name[0] != "0":
            series["ds"] = series["ds"].astype("datetime64[ns]")
    elif how == "objects":
        series = pd.DataFrame(series.to_dict(as_series=False)).astype({"ds": object})
    elif how == "pyarrow":
        series = series.to_arrow()
    elif how == "text":
        series = series.with_columns(pl.col("ds").cast(pl.String))
    elif how == "csv":
        series.write_csv(tmp_path / "series.csv")
        series = tmp_path / "series.csv"
    schema = Schema.fit(series)
    assert str(schema.spacing) == name
    assert schema.spacing is not None
    assert schema.kind.steps is not None
    assert schema.kind.steps.type == form
    same_schema(schema, Schema.from_config(*schema.to_config()))
    static = pl.DataFrame({"unique_id": ["z", "b", "a"]})
    panel = schema.panel(series, static if how not in ("objects", "pandas") else static.to_pandas())
    assert panel.mask.sum(1).tolist() == [0, 2, len(kept)]
    assert panel.known.tolist() == [0, 2, len(dates)]
    assert panel.origin is not None
    first = np.array([None, dates[1], dates[0]], "datetime64[us]")
    np.testing.assert_array_equal(panel.origin, first)
    values = np.zeros((3, 9))
    kind = "polars" if how in ("text", "csv") else how.replace("objects", "pandas")
    table = schema.output(panel.kind).table(
        {"f": values}, ids=panel.ids, known=np.array([7, 7, 0]), origin=panel.origin
    )
    frame = pl.from_pandas(table) if kind == "pandas" else pl.DataFrame(table)
    if how == "text":
        assert (
            frame["ds"][4 : 4 + len(dates)].to_list() == [str(d) for d in dates] or name[0] == "0"
        )
        time = pl.Datetime("us") if form == "Datetime" else pl.Date
        frame = frame.with_columns(pl.col("ds").str.to_datetime().cast(time))
    assert frame.columns == ["unique_id", "ds", "step", "f"]
    assert frame["step"].to_list() == [8, 9, 8, 9, *range(1, 10)]
    assert frame["ds"][:2].to_list() == [None, None]
    assert frame["ds"][4 : 4 + len(dates)].cast(pl.Datetime("us")).to_list() == [
        d if isinstance(d, dt.datetime) else dt.datetime(d.year, d.month, d.day) for d in dates
    ]
    assert (frame["ds"].dtype == pl.Date) == (form == "Date")


def test_dates_of_new_rows_count_from_the_item_s_first() -> None:
    day = [dt.date(2024, 1, d) for d in range(1, 9)]
    series = pl.DataFrame({"unique_id": [1] * 4, "ds": day[:4], "y": [1.0, 3.0, 2.0, 4.0]})
    schema = Schema.fit(series)
    panel = schema.panel(series[:2], pl.DataFrame({"unique_id": [1, 2]}))
    rows = pl.DataFrame({"unique_id": [2, 1, 2], "ds": [day[6], day[3], day[7]], "y": [1.0] * 3})
    new = schema.new_rows(rows, panel.ids, known=panel.known, origin=panel.origin)
    assert new.mask[:, :4].tolist() == [[False, False, False, True], [True, True, False, False]]
    assert new.origin is not None
    np.testing.assert_array_equal(new.origin, np.array([day[0], day[6]], "datetime64[us]"))
    early = pl.DataFrame({"unique_id": [1], "ds": [dt.date(2023, 12, 31)], "y": [1.0]})
    with pytest.raises(DataError, match="2023-12-31"):
        schema.new_rows(early, panel.ids, known=panel.known, origin=panel.origin)


def test_hours_of_a_zone_count_absolute_time() -> None:
    hours = pd.date_range("2024-06-01", periods=4, freq="h", tz="Europe/Paris")
    series = pd.DataFrame({"unique_id": 1, "ds": hours, "y": [1.0, 2.0, 3.0, 4.0]})
    schema = Schema.fit(series)
    assert str(schema.spacing) == "1:00:00"
    assert schema.panel(series).origin == np.datetime64("2024-05-31T22", "us")


# -- statics -----------------------------------------------------------------------------


def test_codes_and_one_warning_that_names_what_is_new() -> None:
    schema = Schema.fit(SERIES, STATIC)
    assert schema.static.categories == {"sex": ("F", "M")}
    assert schema.static.cardinalities == [4]
    assert schema.static.numeric == ("area", "open")
    assert schema.static.width == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert schema.panel(SERIES, STATIC).codes.tolist() == [[3], [2], [3]]
    static = pl.DataFrame(
        {
            "open": [None, 1, 0],
            "area": [None, 2.0, 1e9],
            "sex": ["X", None, "M"],
            "unique_id": [7, 8, 9],
        }
    )
    with pytest.warns(DataWarning) as caught:
        panel = schema.panel(static=static)
    assert len(caught) == 1
    message = str(caught[0].message)
    for part in ("'sex'", "'X'", "item 7", "item 8", "'area' is missing", "'open' is missing"):
        assert part in message
    assert caught[0].filename == __file__
    assert panel.codes.tolist() == [[0], [1], [3]]
    assert panel.known.tolist() == [0, 0, 0]
    # Missing is the average, with a flag that says so
    np.testing.assert_array_equal(panel.numeric[0], [0, 0, 1, 1])
    assert panel.numeric[2, 0] == 5  # an outlier is clipped


def test_the_flag_of_a_numeric_static_missing_in_training() -> None:
    static = STATIC.with_columns(area=pl.Series([1.0, None, 6.0]))
    schema = Schema.fit(SERIES, static)
    panel = schema.panel(SERIES, static)
    np.testing.assert_allclose(panel.numeric[:, 0], [-1, 0, 1])
    assert panel.numeric[:, 2].tolist() == [0, 1, 0]
    assert panel.numeric[:, 3].tolist() == [0, 0, 0]


def test_a_static_that_never_varied_says_nothing() -> None:
    static = STATIC.with_columns(area=pl.lit(7.3), size=pl.lit(None, pl.Float64))
    schema = Schema.fit(SERIES, static)
    other = static.with_columns(area=pl.lit(1e6), size=pl.lit(3.0))
    panel = schema.panel(SERIES, other)
    assert not panel.numeric[:, [0, 2]].any()


def test_skewed_statics_go_through_log1p() -> None:
    n = 200
    rng = np.random.default_rng(0)
    X = np.stack([rng.lognormal(0, 2, n), rng.normal(0, 1, n)], 1)
    schema = Schema.fit(np.ones((n, 1)), X)
    assert (schema.static.scaling[:, 0] > 0).tolist() == [True, False]
    z = schema.panel(np.ones((n, 1)), X).numeric
    np.testing.assert_allclose(z[:, :2].mean(0), 0, atol=0.02)
    np.testing.assert_allclose(z[:, :2].std(0), 1, atol=0.05)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series(["a", "", "b"]),
        pl.Series(["a", None, "b"], dtype=pl.Categorical),
        pl.Series(["a", None, "b"], dtype=pl.Enum(["b", "a", "c"])),
        pd.Series(["a", None, "b"], dtype=object),
        pd.Series(["a", np.nan, "b"], dtype="category"),
    ],
)
def test_kinds_of_categorical_columns(column: Any) -> None:
    if isinstance(column, pl.Series):
        static, series = STATIC.with_columns(sex=column), SERIES
    else:
        static, series = STATIC.to_pandas().assign(sex=column), SERIES.to_pandas()
    schema = Schema.fit(series, static)
    assert schema.static.categories == {"sex": ("a", "b")}
    assert schema.panel(series, static).codes.ravel().tolist() == [2, 1, 3]


def test_na_in_a_csv_file_is_text(tmp_path: Path) -> None:
    (tmp_path / "series.csv").write_text("unique_id,ds,y\n007,1,3\n007,2,\n8,1, 4.5\nNA,1,1e1\n")
    (tmp_path / "static.csv").write_text("unique_id,a,b\n007,NA,1\n8,,\nNA,x,3\n")
    schema = Schema.fit(tmp_path / "series.csv", tmp_path / "static.csv")
    assert schema.static.categories == {"a": ("NA", "x")}
    panel = schema.panel(tmp_path / "series.csv", tmp_path / "static.csv")
    assert panel.ids.tolist() == ["007", "8", "NA"]
    assert panel.codes.ravel().tolist() == [2, 1, 3]
    assert panel.known.tolist() == [1, 1, 1]
    assert panel.numeric[:, 1].tolist() == [0, 1, 0]
    # A file in which the categories happen to look like numbers is read as in fit
    (tmp_path / "static.csv").write_text("unique_id,a,b\n8,12,2\n")
    (tmp_path / "series.csv").write_text("unique_id,ds,y\n8,1,2\n")
    assert schema.panel(None, tmp_path / "static.csv").codes.tolist() == [[0]]
    text = pl.DataFrame({"unique_id": ["8"], "a": ["x"], "b": [1]})
    assert schema.panel(tmp_path / "series.csv", text).ids.tolist() == ["8"]


def test_a_csv_column_of_numbers_but_for_a_few_is_worth_a_warning(tmp_path: Path) -> None:
    static = pl.DataFrame({"unique_id": range(30), "area": ["big"] + [str(i) for i in range(29)]})
    static.write_csv(tmp_path / "static.csv")
    series = pl.DataFrame({"unique_id": range(30), "ds": 1, "y": 1.0})
    with pytest.warns(DataWarning, match="'area' is taken as categories: .*, but 'big'") as caught:
        Schema.fit(series, tmp_path / "static.csv")
    assert caught[0].filename == __file__


# -- y and its scaling -------------------------------------------------------------------


@pytest.mark.parametrize(
    "y",
    [
        pl.Series([1, 2, 3, 5, 4]),
        pl.Series([1, 2, 3, 5, 4], dtype=pl.UInt8),
        pl.Series([Decimal(v) for v in (1, 2, 3, 5, 4)]),
        pd.Series([Decimal(1), 2, 3.0, np.int8(5), 4], dtype=object),
        pd.Series([1, 2, 3, 5, 4], dtype="Int64"),
    ],
)
def test_kinds_of_numbers(y: Any) -> None:
    table = SERIES.with_columns(y=y) if isinstance(y, pl.Series) else SERIES.to_pandas().assign(y=y)
    same_schema(Schema.fit(SERIES), Schema.fit(table), but=("kind", "ids"))
    steps = SERIES.with_columns(pl.col("ds").cast(pl.Float32))
    same_schema(Schema.fit(SERIES), Schema.fit(steps), but=("form",))


def test_booleans_are_numbers_and_missing_numbers_are_gaps() -> None:
    table = pd.DataFrame({"unique_id": 1, "ds": [1, 2, 3], "y": [True, None, False]})
    assert Schema.fit(table).panel(table).mask.tolist() == [[True, False, True]]
    table["y"] = pd.array([1, None, 2], "Int64")
    assert Schema.fit(table).panel(table).mask.tolist() == [[True, False, True]]
    nan = pl.DataFrame({"unique_id": 1, "ds": [1, 2, 3], "y": [1.0, np.nan, None]})
    assert Schema.fit(nan).panel(nan).known.tolist() == [1]


def test_scaling_at_well_observed_steps_is_mean_and_deviation() -> None:
    Y = np.random.default_rng(0).normal(5, 2, (40, 6)) + 10 * np.arange(6)
    schema = Schema.fit(Y)
    np.testing.assert_allclose(schema.targets[0].location, Y.mean(0))
    np.testing.assert_allclose(schema.targets[0].scaling, Y.std(0))
    long = schema.scale(np.zeros((1, 9)))[0]
    assert (long[5:] == long[5]).all()


@given(st.data())
def test_bridged_steps_lie_on_the_line_between_observed_ones_of_the_forecast(data: Any) -> None:
    """As NumPy interpolates each row by itself; all else is as it was, to the bit."""
    steps = data.draw(st.integers(1, 9))
    observed = np.array(data.draw(st.lists(st.booleans(), min_size=steps, max_size=steps)))
    known = np.array(data.draw(st.lists(st.integers(0, steps + 2), min_size=1, max_size=4)))
    u = np.random.default_rng(steps).normal(size=(len(known), 3, steps))
    step = np.minimum(known, data.draw(st.integers(0, steps)))  # of the last observation
    latest = np.random.default_rng(0).normal(size=len(known)), step
    found, at = scaling.bridged(u, observed, known, latest), np.arange(steps)
    for own, plain, k, value, last in zip(found, u, known, *latest, strict=True):
        row, there = plain, observed & (at >= k)
        if last:
            row, there = plain.copy(), there | (at == last - 1)
            row[:, last - 1] = value
        there = np.flatnonzero(there)
        gaps = ~observed & (at >= k) & bool(len(there))
        np.testing.assert_array_equal(own[:, ~gaps], plain[:, ~gaps])
        for one, values in zip(own[:, gaps], row, strict=True):
            if gaps.any():
                np.testing.assert_allclose(one, np.interp(at[gaps], there, values[there]))


def test_scaling_at_thin_and_empty_steps_is_sane() -> None:
    rng = np.random.default_rng(0)
    Y = rng.normal(0, 2, (40, 12))
    Y[1:, 8:] = np.nan  # one item
    Y[:, 9:11] = np.nan  # none
    Y[0, 8] = 20.0  # and an odd one
    Y[:, 3] = 1.0  # all agree
    schema = Schema.fit(Y)
    assert (schema.targets[0].scaling > 0.1).all()
    assert (schema.targets[0].scaling < 5).all()
    assert abs(schema.targets[0].location[8]) < 4
    middle = (schema.targets[0].location[8] + schema.targets[0].location[11]) / 2
    assert schema.targets[0].location[9:11].mean() == pytest.approx(middle)


@pytest.mark.parametrize(
    "Y",
    [
        [[3.0]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[1e9, 1e9], [1e9, 1e9]],
        [[1.0, 5.0, 2.0]],
        [[1e-300, 1e-310]],
        [[1e99, 1.0], [2.0, 3.0]],
        [[np.nan, np.nan, 4.0], [np.nan, np.nan, 5.0]],
    ],
)
def test_odd_training_data_scale_to_finite_numbers(Y: list[list[float]]) -> None:
    schema = Schema.fit(np.array(Y))
    panel = schema.panel(np.array(Y))
    assert np.isfinite(panel.y).all()
    assert (schema.targets[0].scaling > 0).all()
    back = schema.unscale(schema.scale(np.array(Y)))
    np.testing.assert_allclose(back, np.array(Y), rtol=1e-9, atol=1e-9 * np.nanmax(Y))
    assert np.isfinite(schema.panel(np.full((1, 2), 1e100)).y).all()
    assert np.isfinite(schema.unscale(np.full((1, 4), 1e6))).all()


@pytest.mark.parametrize("level", [1e6, 1e9, -1e9, 1e12])
@pytest.mark.parametrize("shape", ["many", "one item", "one step", "thin", "a rising level"])
def test_a_spread_far_below_the_level_is_the_scale(level: float, shape: str) -> None:
    """y + c is scaled as y is, however large c: to float64's rounding of the sum."""
    rng = np.random.default_rng(0)
    Y = np.rint(64 * rng.normal(0, 0.7, (40, 8))) / 64  # so that level + Y is exact
    Y = {"one item": Y[:1], "one step": Y[:, :1], "thin": Y[:3]}.get(shape, Y)
    far = level + Y
    if shape == "a rising level":
        far = level * np.arange(1, 9) + Y
    near, schema = Schema.fit(Y, transform="none"), Schema.fit(far, transform="none")
    rounding = 4 * np.finfo(float).eps * np.abs(far).max()
    scaling, own = near.targets[0].scaling, schema.targets[0].scaling
    np.testing.assert_allclose(own, scaling, atol=rounding, rtol=1e-9)
    atol = 1e-6 + 2 * rounding / scaling.min()
    np.testing.assert_allclose(schema.panel(far).y, near.panel(Y).y, atol=atol)
    assert np.abs(schema.unscale(schema.scale(far)) - far).max() <= rounding


def test_a_spread_that_float64_does_not_resolve_is_said() -> None:
    rng = np.random.default_rng(0)
    unresolved = 1e15 + rng.normal(0, 2.0, (40, 8))
    with pytest.warns(DataWarning, match=r"Y, column 'y': .* float64 does not resolve"):
        assert (Schema.fit(unresolved).targets[0].scaling > 1e11).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        Schema.fit(np.full((4, 3), 1e15))  # all equal: there is nothing to resolve
        Schema.fit(1e15 + 100 * rng.normal(size=(40, 8)))
        # Equal at each step, and of one level a step: their spread is that between the steps.
        Schema.fit(np.tile(1e9 + np.arange(8.0), (40, 1)))


@pytest.mark.parametrize("level", [1e9, -1e12])
def test_a_static_feature_whose_spread_is_far_below_its_level_is_standardised(level: float) -> None:
    x = level + np.random.default_rng(0).normal(0, 0.7, (40, 1))
    Y = np.ones((40, 2)) * np.arange(40)[:, None]
    found = Schema.fit(Y, x).panel(Y, x).numeric[:, 0]
    np.testing.assert_allclose(found, (x[:, 0] - x.mean()) / x.std(), atol=1e-3)
    equal = np.full((40, 1), 0.1 + 0.2)
    equal[::2] = 0.3  # they differ by rounding alone
    assert not Schema.fit(Y, equal).panel(Y, equal).numeric.any()


def test_auto_takes_the_log_of_a_long_tail_only() -> None:
    rng = np.random.default_rng(0)
    tail = rng.lognormal(0, 1.5, (30, 5))
    assert Schema.fit(tail).targets[0].transform.name == "log"
    assert Schema.fit(tail).targets[0].transform.centre == pytest.approx(np.median(tail))
    assert Schema.fit(tail - 0.001 - tail.min()).targets[0].transform.name == "none"
    assert Schema.fit(rng.normal(100, 10, (30, 5))).targets[0].transform.name == "none"
    one = rng.normal(100, 10, (30, 5))
    one[0, 0] = 1e5  # an outlier is not a tail
    assert Schema.fit(one).targets[0].transform.name == "none"
    schema = Schema.fit(tail)
    with pytest.raises(DataError, match="no negative value") as error:
        schema.panel(np.array([[1.0, 2.0], [1.0, -2.0]]))
    assert error.value.item == 1
    with pytest.raises(DataError, match="no negative value"):
        schema.scale(np.array([[-1.0]]))
    with pytest.raises(DataError, match="no negative value"):
        Schema.fit(-tail, transform="log")


def test_without_a_negative_value_none_is_forecast_unless_told() -> None:
    y = np.random.default_rng(0).normal(100, 10, (30, 5))
    low = np.full((1, 5), -1e3)
    assert (Schema.fit(y).unscale(low) == 0).all()
    assert (Schema.fit(y, transform="none").unscale(low) < 0).all()
    assert (Schema.fit(y - 100).unscale(low) < 0).all()


@pytest.mark.parametrize(
    ("transform", "bounds", "bad", "says"),
    [
        ("positive", None, 0.0, "values above 0"),
        ("counts", None, 1.5, "whole numbers from 0"),
        ("counts", None, -1.0, "whole numbers from 0"),
        ("counts", None, 2.0**27, "whole numbers from 0"),
        ("logit", None, 1.5, "from 0 to 1, as no bounds are given"),
        ("logit", (1, 5), 5.5, "values from 1 to 5"),
        ("auto", (1, 5), 0.5, "values from 1 to 5"),
    ],
)
def test_values_that_a_transform_does_not_know_are_refused(transform, bounds, bad, says) -> None:
    good = np.ones((6, 3))
    good[0] = 1.0, 1.0, bad
    with pytest.raises(DataError, match=says):
        Schema.fit(good, transform=transform, bounds=bounds)
    schema = Schema.fit(np.ones((6, 3)), transform=transform, bounds=bounds)
    with pytest.raises(DataError, match=r"expected (whole|values)"):
        schema.panel(good)
    with pytest.raises(DataError, match=r"expected (whole|values)"):
        schema.scale(good)
    with pytest.raises(ArgumentError, match="bounds: expected them with"):
        Schema.fit(good, transform="log", bounds=(0, 1))


def test_a_count_just_below_nothing_is_nothing() -> None:
    schema = Schema.fit(np.arange(18.0).reshape(6, 3), transform="counts")
    least = schema.unscale(schema.scale(np.zeros((1, 3))) - [[0.01], [0.1], [9.0]])
    assert (least == 0).all()
    assert not np.signbit(least).any()


def test_a_prefix_beyond_the_training_length_widens_the_panel() -> None:
    schema = Schema.fit(SERIES)
    longer = pl.DataFrame({"unique_id": [5], "ds": [7], "y": [1.0]})
    panel = schema.panel(longer)
    assert panel.y.shape == (1, 7)
    assert panel.known.tolist() == [7]
    assert panel.y[0, 6] == np.float32(schema.scale([1.0], 7)[0])


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


# -- bad input ---------------------------------------------------------------------------


def series_with(**columns: Any) -> pl.DataFrame:
    return SERIES.with_columns(
        **{k: pl.Series(v, strict=False) if isinstance(v, list) else v for k, v in columns.items()}
    )


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
    "no array": (Unreadable(), "received test_schema.Unreadable", None, None),
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
    same(schema.panel(tmp_path / "series.parquet", STATIC), schema.panel(SERIES, STATIC))


@given(st.integers(1, 6), st.integers(0, 4))
def test_a_row_that_comes_again_in_a_later_batch(
    tmp_path_factory: pytest.TempPathFactory, batch: int, which: int
) -> None:
    path = tmp_path_factory.mktemp("again") / "series.parquet"
    SERIES.vstack(SERIES[which : which + 1]).write_parquet(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BATCH", batch)
        with pytest.raises(DataError, match=f"step {SERIES['ds'][which]} again") as error:
            Schema.fit(path)
    assert error.value.item == SERIES["unique_id"][which]


def test_midnights_and_hours_in_different_batches_are_times(tmp_path: Path, monkeypatch) -> None:
    text = ["2026-01-01", "2026-01-01 12:00", "2026-01-02", "2026-01-02 12:00", "2026-01-01"]
    series_with(ds=text).write_parquet(tmp_path / "series.parquet")
    monkeypatch.setattr(source, "BATCH", 1)
    schema = Schema.fit(tmp_path / "series.parquet")
    assert str(schema.spacing) == "12:00:00"
    assert schema.kind.steps == Form("Datetime", "m", None, "text", " ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said(tmp_path: Path, monkeypatch) -> None:
    SERIES.write_parquet(tmp_path / "series.parquet")
    monkeypatch.setattr(source, "BATCH", 2)
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 (as a temporary file is)
    monkeypatch.setattr(steps.tempfile, "TemporaryFile", lambda: full)
    with full, pytest.raises(DataError, match="TMPDIR"):
        Schema.fit(tmp_path / "series.parquet", STATIC)


def static_with(**columns: Any) -> pl.DataFrame:
    return STATIC.with_columns(
        **{k: pl.Series(v, strict=False) if isinstance(v, list) else v for k, v in columns.items()}
    )


BAD_STATIC: dict[str, tuple[Any, str, str | None, Any]] = {
    "no id": (STATIC.drop("unique_id"), "expected a column 'unique_id'", "unique_id", None),
    "no rows": (STATIC[:0], "at least one row", None, None),
    "twice": (pl.concat([STATIC, STATIC[1:2]]), "one row for each item", "unique_id", 2),
    "infinite": (static_with(area=[1.0, np.inf, 2.0]), "a finite number", "area", 2),
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
    with pytest.raises(DataError, match="'sex' too"):
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


def test_a_panel_too_large_is_refused_before_it_is_made() -> None:
    schema = Schema.fit(SERIES)
    many = pl.DataFrame({"unique_id": range(1000), "ds": 1_000_000, "y": 1.0})
    with pytest.raises(DataError, match="at most 500,000,000 cells"):
        schema.panel(many)


def test_a_column_of_too_many_categories() -> None:
    ids = list(range(10_001))
    series = pl.DataFrame({"unique_id": ids, "ds": 1, "y": 1.0})
    static = pl.DataFrame({"unique_id": ids, "name": [str(i) for i in ids]})
    with pytest.raises(DataError, match="10,000 categories") as error:
        Schema.fit(series, static)
    assert error.value.column == "name"


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n\x00\x01", b"PAR1", b'a,b\n"x\n1,2'])
@pytest.mark.parametrize("name", ["s.csv", "s.parquet", "s.xlsx"])
def test_unreadable_files(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for given_path in (path, str(path)):
        with pytest.raises(DataError, match=name):
            Schema.fit(given_path)
    for absent in (tmp_path / "no" / name, tmp_path):
        with pytest.raises(DataError, match=absent.name):
            Schema.fit(absent)


def test_errors_of_files_name_the_file_and_the_value(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("unique_id;ds;y\n1;1;1\n")
    with pytest.raises(DataError, match="separated by commas"):
        Schema.fit(path)
    for text, column, item in [
        ("1,1,NA", "y", 1),
        ("1,1,inf", "y", 1),
        ("1,1,", "y", 1),
        ("1,x,1", "ds", 1),
        ("1,,1", "ds", 1),
        ("1,1,1\n1,2026-01-01,1", "ds", 1),
        (",1,1", "unique_id", None),
    ]:
        path.write_text(f"unique_id,ds,y\n{text}\n")
        with pytest.raises(DataError, match=r"s\.csv") as error:
            Schema.fit(path)
        assert (error.value.column, error.value.item) == (column, item)


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


# -- what is imported --------------------------------------------------------------------


def test_libraries_of_tables_are_imported_only_when_used() -> None:
    code = (
        "import sys, numpy as np; from statecast.tables.schema import Schema;"
        "s = Schema.fit(np.ones((2, 3))); s.panel(np.ones((2, 3)));"
        "print([m for m in ('polars', 'pandas', 'pyarrow', 'keras') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src"
    )
    assert out.stdout.strip() == "[]"
