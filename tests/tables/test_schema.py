"""Properties of the schema, and bad input. Without Keras."""

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

from small_tables import SERIES, STATIC, drawn_tables, same_panel, same_schema, series_with
from statecast.errors import ArgumentError, DataError, DataWarning
from statecast.tables import scaling, source, steps
from statecast.tables.dates import Form
from statecast.tables.panel import Panel
from statecast.tables.scaling import TRANSFORMS
from statecast.tables.schema import Schema
from toy_data import in_domain

pd = pytest.importorskip("pandas")


ROOT = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")


# -- properties --------------------------------------------------------------------------------


@given(drawn_tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(tabs, random) -> None:
    series, static = tabs
    order = list(range(len(series)))
    random.shuffle(order)
    schema, shuffled = Schema.fit(series, static), Schema.fit(series[order], static)
    (config, arrays), (other, others) = schema.to_config(), shuffled.to_config()
    assert config == other
    for name, values in arrays.items():  # sums in another order differ in the last bit
        np.testing.assert_allclose(values, others[name], rtol=1e-12, atol=1e-12)
    same_panel(schema.panel(series, static), schema.panel(series[order], static))
    items = list(range(len(static)))
    random.shuffle(items)
    back = schema.panel(series, static[items]).take(np.argsort(items))
    same_panel(schema.panel(series, static), back)


@given(
    drawn_tables(),
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
            same_panel(left, right)
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


@given(drawn_tables(), st.sampled_from(["auto", *TRANSFORMS]), st.integers(1, 12))
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


@given(drawn_tables(), st.sampled_from(["auto", "none"]))
def test_a_schema_survives_its_config(tabs, transform: str) -> None:
    series, static = tabs
    schema = Schema.fit(series, static, transform=transform)
    config, arrays = schema.to_config()
    again = Schema.from_config(json.loads(json.dumps(config, allow_nan=False)), arrays)
    same_schema(schema, again)
    same_panel(schema.panel(series, static), again.panel(series, static))


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


# -- bad input ---------------------------------------------------------------------------


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
