"""Forecasts on the calendar: closed days, and launch dates of items not yet observed."""

from __future__ import annotations

import datetime as dt
import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from statecast import Forecaster, TokenForecaster
from statecast.cli.commands import app
from statecast.errors import ArgumentError, DataError, DataWarning
from statecast.evaluate.cross_validation import cross_validation
from statecast.plots import charts as plots
from statecast.tables.schema import Schema

MONDAY = dt.date(2024, 3, 4)


def shops(items: int, days: int) -> pl.DataFrame:
    """Items that sell 100 on each of six days of the week, launched on different weekdays."""
    rows = [
        (i, MONDAY + dt.timedelta(i % 6 + day), 100.0) for i in range(items) for day in range(days)
    ]
    series = pl.DataFrame(rows, schema=["unique_id", "ds", "y"], orient="row")
    return series.filter(pl.col("ds").dt.weekday() < 7)


@pytest.fixture
def shop(untrained):
    f = Forecaster(units=4, ensemble=2, epochs=1, transform="none", analogues=False)
    with pytest.warns(DataWarning, match="ever observed on: Sundays. Forecasts leave out"):
        return f.fit(shops(12, 20), verbose=0)


def test_totals_count_nothing_on_closed_days(shop):
    series = shops(12, 20)
    begun = series.filter(pl.col("ds") < MONDAY + dt.timedelta(8))
    made = shop.predict(begun, until=14)
    assert made.filter(pl.col("ds").dt.weekday() == 7).is_empty()
    assert made.group_by("unique_id").agg(pl.col("step").max())["step"].is_in([13, 14]).all()
    paths = shop.simulate(begun, until=14, paths=20)
    for since in (None, 1):  # of the whole item too: a closed day is no gap
        total = paths.total(since=since)
        first = begun.group_by("unique_id", maintain_order=True).agg(pl.col("ds").min(), pl.len())
        for row, (item, start, known) in enumerate(first.iter_rows()):
            days = [start + dt.timedelta(d) for d in range(14)]
            count = sum(day.weekday() < 6 for day in days)
            assert (np.isfinite(paths.values[row]).sum(axis=-1) == count - known).all()
            told = 0 if since is None else 100 * known
            assert total["unique_id"][row] == item
            ahead = np.nansum(paths.values[row], axis=-1)
            np.testing.assert_allclose(total["statecast"][row], told + np.median(ahead))
    table = paths.table()
    assert table.filter(pl.col("ds").dt.weekday() == 7).is_empty()
    assert table.height == made.height
    # From a state, and from a file, it is the same
    state = shop.state(begun)
    assert shop.predict(state=state, until=14)["ds"].equals(made["ds"])
    np.testing.assert_allclose(
        shop.simulate(state=state, until=14, paths=20).total()["statecast"],
        paths.total()["statecast"],
        rtol=1e-4,
    )


def test_a_forecast_of_closed_days_alone_is_empty(shop):
    begun = shops(1, 6)  # Monday to Saturday
    assert shop.predict(begun, until=7).is_empty()
    paths = shop.simulate(begun, until=7, paths=5)
    assert paths.total()["statecast"].to_list() == [0.0]
    peak = paths.peak()
    assert peak["statecast"].is_nan().all()
    assert peak["step"].is_nan().all()
    assert paths.time_to(1.0)["never"].to_list() == [1.0]


def test_an_explanation_does_not_count_closed_days(untrained):
    series = shops(12, 20)
    series = series.with_columns(y=pl.col("y") + pl.col("unique_id") + pl.col("ds").dt.weekday())
    static = series.select("unique_id").unique(maintain_order=True)
    static = static.with_columns(x=pl.col("unique_id") % 3)
    f = fitted(series, static, start_col=None)
    begun = series.filter(pl.col("ds") < MONDAY + dt.timedelta(8))
    why = f.explain(begun, static, until=14)
    made = f.predict(begun, static, until=14)
    for row, item in enumerate(why.ids.tolist()):
        own = made.filter(pl.col("unique_id") == item)
        rows = why.table().filter(pl.col("unique_id") == item)
        steps = begun.filter(pl.col("unique_id") == item)["ds"]
        steps = [1 + (day - steps.min()).days for day in steps]
        assert sorted(rows["name"]) == sorted(["x", *map(str, steps)])
        for name, effect, strength in rows.select("name", "effect", "strength").iter_rows():
            effects = why.statics["x"][row] if name == "x" else why.observations[row, int(name) - 1]
            assert (np.flatnonzero(np.isfinite(effects)) + 1).tolist() == own["step"].to_list()
            assert effect == pytest.approx(np.nanmean(effects))
            assert strength == pytest.approx(np.nanmean(np.abs(effects)))
    assert f.explain(shops(1, 6), static.head(1), until=7).table().is_empty()  # a Sunday alone


def test_paths_that_end_are_missing_on_closed_days_and_end_as_often_as_items_do(untrained):
    rng = np.random.default_rng(0)
    whole, rate = shops(400, 36), 0.06  # the chance to end after each day that is open
    last = pl.DataFrame({"unique_id": range(400), "open": rng.geometric(rate, 400)})
    day = pl.col("ds").rank().over("unique_id")
    series = whole.join(last, on="unique_id").filter(day <= pl.col("open")).drop("open")
    static = series.select("unique_id").unique(maintain_order=True).with_columns(x=0.0)
    f = fitted(series, static, ends=True, start_col=None)
    begun = shops(24, 1)
    paths = f.simulate(begun, static.head(24), until=28, paths=200)
    weekday = (np.arange(24)[:, None] % 6 + np.arange(28)) % 7
    closed = np.broadcast_to((weekday == 6)[:, None], paths.values.shape)
    assert np.isnan(paths.values[closed]).all()
    ended = np.isnan(paths.values)
    for item in range(24):
        days = np.flatnonzero(weekday[item] < 6)[1:]  # after the prefix
        assert (np.diff(ended[item][:, days].astype(int), axis=1) >= 0).all()
    alive = paths.alive()
    assert alive.filter(pl.col("ds").dt.weekday() == 7).is_empty()
    share = (~ended).mean(axis=1)
    truth = (1 - rate) ** (np.cumsum(weekday < 6, axis=1) - 1.0)
    for step in (7, 14, 21, 27):
        there = weekday[:, step] < 6
        assert abs(share[there, step].mean() - truth[there, step].mean()) < 0.08
    np.testing.assert_allclose(
        paths.total(level=None)["statecast"],
        np.median(np.nansum(paths.values, axis=2), axis=1),
    )


def test_undated_items_are_said(shop):
    with pytest.warns(DataWarning, match="1 items have no date .the first is item 3."):
        made = shop.predict(None, pl.DataFrame({"unique_id": [3]}), until=14)
    assert made.height == 14


# -- launch dates ----------------------------------------------------------------------


def launched(series: pl.DataFrame) -> pl.DataFrame:
    """The static table of the items, launched on the date of their first row."""
    return series.group_by("unique_id", maintain_order=True).agg(launch=pl.col("ds").min())


def fitted(series: pl.DataFrame, static: pl.DataFrame, **settings: Any) -> Forecaster:
    small = {"units": 4, "ensemble": 2, "epochs": 1, "analogues": False, "start_col": "launch"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return Forecaster(**(small | settings)).fit(series, static, verbose=0)


@pytest.fixture
def dated(untrained):
    series = shops(12, 20)
    return fitted(series, launched(series), transform="none")


def test_an_item_with_a_launch_date_has_the_dates_of_its_first_observation(dated, tmp_path):
    """In every method: after its launch date alone a forecast has the dates that it has
    when the first observation, on that date, is known."""
    begun = shops(6, 20).filter(pl.col("ds") == pl.col("ds").min().over("unique_id"))
    begun = begun.filter(pl.col("ds").dt.weekday() < 7)
    static = launched(begun)
    seen = dated.predict(begun, static, until=14)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)  # none is undated
        made = dated.predict(None, static, until=14)
    rest = made.filter(pl.col("step") > 1)
    assert rest.select("unique_id", "ds", "step").equals(seen.select("unique_id", "ds", "step"))
    first = made.filter(pl.col("step") == 1)
    assert first.select("unique_id", launch="ds").equals(static)
    assert made.filter(pl.col("ds").dt.weekday() == 7).is_empty()
    assert not dated.schema.static.kinds  # the launch date is no feature
    # A row with null y on the date says the same, and so it does without a column for it
    empty = begun.with_columns(y=pl.lit(None, pl.Float64))
    assert dated.predict(empty, static, until=14).equals(made)
    undated = static.with_columns(launch=pl.lit(None, pl.Date))
    assert dated.predict(empty, undated, until=14).equals(made)
    # From a state, from paths, and from a saved model
    state = dated.state(None, static)
    assert dated.predict(state=state, until=14)["ds"].equals(made["ds"])
    assert dated.update(state, begun)["origin"].tolist() == state["origin"].tolist()
    ahead = dated.predict(state=dated.update(state, begun), until=14)
    assert ahead["ds"].equals(seen["ds"])
    paths = dated.simulate(None, static, until=14, paths=20)
    assert paths.table()["ds"].equals(made["ds"])
    assert dated.explain(None, static, until=14, analogues=0).known.tolist() == [0] * 6
    dated.save(tmp_path / "model.safetensors")
    again = Forecaster.load(tmp_path / "model.safetensors")
    assert again.settings == dated.settings
    assert again.predict(None, static, until=14).equals(made)


def schema_of(series: Any, static: Any, **settings: Any) -> Schema:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return Schema.fit(series, static, start_col="launch", **settings)


@pytest.mark.parametrize("kind", ["polars", "pandas", "pyarrow", "csv", "text"])
@pytest.mark.parametrize(
    ("every", "zone"),
    [("1d", None), ("1h", None), ("1mo", None), ("1h", "Europe/Paris"), ("1d", "Europe/Paris")],
)
def test_origins_are_those_of_a_first_observation(kind, every, zone, tmp_path):
    """For any table and grid: of an item alone in the static table, of one observed later, and
    of one whose launch date is missing."""
    if zone is not None and kind in ("csv", "text"):
        pytest.skip("a text has an offset, and no zone")
    start = dt.datetime(2024, 3, 29)
    ds = pl.datetime_range(start, start + dt.timedelta(200), every, eager=True).head(6)
    ds = ds.dt.replace_time_zone(zone)
    rows = [(i, day, float(t + i)) for i in range(4) for t, day in enumerate(ds)]
    series = pl.DataFrame(rows, schema=["unique_id", "ds", "y"], orient="row")
    series = series.with_columns(ds=pl.col("ds").cast(ds.dtype))
    static = pl.DataFrame({"unique_id": range(5), "launch": [*[ds[0]] * 3, None, ds[0]]})
    static = static.with_columns(pl.col("launch").cast(ds.dtype))
    later = series.filter((pl.col("unique_id") != 1) | (pl.col("ds") > ds[1]))
    parts = []
    for name, table in (("series", later), ("static", static)):
        if kind == "text":
            table = table.with_columns(pl.selectors.datetime().dt.strftime("%Y-%m-%dT%H:%M"))
        if kind == "csv":
            path = tmp_path / f"{name}.csv"
            table.write_csv(path, null_value="NA", datetime_format="%Y-%m-%dT%H:%M")
            parts.append(path)
        elif kind in ("pandas", "pyarrow"):
            table = table.to_arrow()
            parts.append(table.to_pandas() if kind == "pandas" else table)
        else:
            parts.append(table)
    schema = schema_of(*parts)
    panel = schema.panel(*parts)
    plain: Any = Schema.fit(series).panel(series)
    assert panel.origin is not None
    assert (panel.origin == plain.origin[0]).all()
    assert panel.known.tolist() == [6, 6, 6, 6, 0]
    assert panel.mask[1, :6].tolist() == [False, False, True, True, True, True]
    assert not schema.static.kinds
    config, arrays = schema.to_config()
    assert Schema.from_config(config, arrays).to_config()[0] == config


DAYS = [MONDAY + dt.timedelta(day) for day in range(4)]


def pair(launch: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows = [(i, day, 1.0 + t) for i in "ab" for t, day in enumerate(DAYS)]
    series = pl.DataFrame(rows, schema=["unique_id", "ds", "y"], orient="row")
    return series, pl.DataFrame({"unique_id": ["a", "b"], "launch": launch}, strict=False)


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (
            [DAYS[0], DAYS[1]],
            "launch date in column 'launch', 2024-03-05, one every 1 day; received 2024-03-04",
        ),
        ([1, 2], r"column 'launch': expected a launch date, or nothing; received 1 .item 'a'"),
        ([20240304, 20240304], "received 20240304 .item 'a'.*Convert"),
        (["soon", None], "column 'launch': expected a launch date, .*received 'soon' .item 'a'"),
        (["2024-03-04", "2024-03-04T07:00"], "item 'b'"),
        ([True, False], "column 'launch': expected a launch date, .*received True .item 'a'"),
        (pl.Series(DAYS[:2]).cast(pl.Datetime("us", "UTC")), "column 'launch'.* time zone"),
    ],
)
def test_wrong_launch_dates_name_column_and_item(launch, message):
    series, static = pair(launch)
    good = pair(DAYS[:1] * 2)[1]
    with pytest.raises(DataError, match=message):
        schema_of(series, static)
    schema = schema_of(series, good)
    with pytest.raises(DataError, match=message):
        schema.panel(series, static)
    assert schema.panel(series, good).known.tolist() == [4, 4]  # nothing was lost


def test_launch_dates_that_cannot_be_are_refused():
    series, static = pair(DAYS[:1] * 2)
    numbered = series.with_columns(ds=pl.col("ds").rank("dense").over("unique_id"))
    for tables in ((series,), (series, None)):
        with pytest.raises(DataError, match="static table with the column 'launch'"):
            schema_of(*tables, **({} if len(tables) == 2 else {"static": None}))
    with pytest.raises(DataError, match="expected the column 'launch' of launch dates"):
        schema_of(series, static.rename({"launch": "start"}))
    with pytest.raises(DataError, match="expected dates, as start_col='launch' is given"):
        schema_of(numbered, static)
    with pytest.raises(DataError, match="received arrays"):
        schema_of(np.ones((2, 3)), np.ones((2, 1)))
    schema = schema_of(series, static)
    with pytest.raises(DataError, match="static table with the column 'launch'"):
        schema.panel(series)
    wrong: Any
    for wrong in (3, ["launch"]):
        with pytest.raises(ArgumentError, match="start_col: expected the name of a column"):
            Forecaster(start_col=wrong)
    with pytest.raises(ArgumentError, match="beside 'unique_id'"):
        Schema.fit(series, static, start_col="unique_id")


def test_an_item_of_null_rows_is_dated_and_nothing_to_learn_from():
    series, _ = pair(DAYS[:1] * 2)
    empty = series.with_columns(y=pl.when(unique_id="a").then(None).otherwise(pl.col("y")))
    static = pl.DataFrame({"unique_id": ["a", "b"], "size": [1e9, 2.0]})
    schema = Schema.fit(empty, static)
    alone = Schema.fit(empty.filter(unique_id="b"), static.filter(unique_id="b"))
    np.testing.assert_array_equal(schema.static.scaling, alone.static.scaling)
    np.testing.assert_array_equal(schema.targets[0].location, alone.targets[0].location)
    panel: Any = schema.panel(empty, static)
    assert panel.known.tolist() == [0, 4]
    assert panel.origin[0] == panel.origin[1]
    assert schema.panel(empty, static, for_fit=True).ids.tolist() == ["b"]
    with pytest.raises(DataError, match="at least one observation"):
        Schema.fit(empty.with_columns(y=pl.lit(None, pl.Float64)))


def test_several_targets_share_the_launch_dates():
    series, static = pair([DAYS[0] - dt.timedelta(2), DAYS[0]])
    series = series.with_columns(z=pl.col("y") * 2)
    schema = Schema.fit(series, static, target_col=["y", "z"], start_col="launch")
    panel: Any = schema.panel(series, static)
    assert panel.known.tolist() == [12, 8]
    assert panel.mask[0, :4].tolist() == [False] * 4
    assert schema.targets[0].observed.tolist() == [True] * 6
    config, arrays = schema.to_config()
    assert Schema.from_config(config, arrays).start_col == "launch"
    new: Any = schema.panel(None, static)
    assert new.origin.tolist() == panel.origin.tolist()


def test_scores_figures_and_the_command_line_take_launch_dates(untrained, tmp_path):
    series = shops(8, 10)
    static = launched(series)
    series.write_csv(tmp_path / "series.csv")
    static.write_csv(tmp_path / "static.csv")
    f = Forecaster(units=4, ensemble=2, epochs=1, analogues=False, start_col="launch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        one, text = (
            cross_validation(f, *tables, folds=2, known=[0])
            for tables in ((series, static), (tmp_path / "series.csv", tmp_path / "static.csv"))
        )
    assert str(one) == str(text)
    f = fitted(series, static)
    made = f.predict(None, static, until=6)
    axes = plots.fan(made, series, items=[0]).axes[0]
    assert axes.get_xlabel() == "date"
    folder = {name: str(tmp_path / name) for name in ("series.csv", "static.csv", "m.safetensors")}
    options = ["--start-col", "launch", "--units", "4", "--ensemble", "2", "--epochs", "1"]
    for words in (
        ["fit", folder["series.csv"], folder["static.csv"], *options, "--out",
         folder["m.safetensors"]],
        ["forecast", folder["m.safetensors"], "-", folder["static.csv"], "--until", "6", "--out",
         str(tmp_path / "out.csv")],
    ):  # fmt: skip
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    found = pl.read_csv(tmp_path / "out.csv", try_parse_dates=True)
    assert found["ds"].to_list() == made["ds"].to_list()


def test_an_update_counts_from_the_launch_date(dated):
    """Split = whole: also where nothing was observed on the launch date itself."""
    series = shops(3, 8)
    static = launched(series)
    later = series.filter(pl.col("ds") > pl.col("ds").min().over("unique_id"))
    whole = dated.predict(later, static, until=14)
    state = dated.update(dated.state(None, static), later)
    split = dated.predict(state=state, until=14)
    assert split.drop("^statecast.*$").equals(whole.drop("^statecast.*$"))
    np.testing.assert_allclose(split["statecast"], whole["statecast"], rtol=1e-4)
    with pytest.raises(DataError, match="2024-03-03"):
        dated.update(
            dated.state(None, static),
            later.with_columns(ds=MONDAY - dt.timedelta(1)).unique("unique_id"),
        )


def test_a_plan_is_read_from_the_launch_date_on():
    """What the future table says of dates before it has no part."""
    series, static = pair(DAYS[:1] * 2)
    days = [MONDAY + dt.timedelta(day) for day in range(-2, 6)]
    plan = pl.DataFrame({"unique_id": ["a", "b"]}).join(pl.DataFrame({"ds": days}), how="cross")
    plan = plan.with_columns(promo=pl.col("ds").dt.day().cast(float))
    schema = schema_of(series, static, future=plan)
    panel: Any = schema.panel(None, static, future=plan, until=6)
    seen: Any = schema.panel(series, static, future=plan)
    assert panel.origin.tolist() == seen.origin.tolist()
    assert panel.future.there[:, :6].all()
    lacking = plan.filter(pl.col("ds") != DAYS[3])
    with pytest.raises(DataError, match=r"none for step 4 \(2024-03-07"):
        schema.panel(None, static, future=lacking, until=6)


def test_tokens_have_launch_dates_too(untrained):
    series, static = pair([DAYS[0] - dt.timedelta(1), None])
    series = series.with_columns(y=pl.lit("x"))
    f = TokenForecaster(start_col="launch", units=4, epochs=1).fit(series, static, verbose=0)
    made = f.generate(None, static.with_columns(launch=pl.lit(MONDAY)), until=3)
    assert made.filter(step=1)["ds"].to_list() == [MONDAY] * 2
    assert f.schema.panel(series, static).known.tolist() == [5, 4]


# -- future covariates on closed days -------------------------------------------------------------


def _planned(kind: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A series that is observed in open slots only, and a plan of the same rows."""
    rng = np.random.default_rng(0)
    start, every = dt.datetime(2024, 1, 1), {"hours": "1h", "months": "1mo"}.get(kind, "1d")
    steps = {"hours": 120, "months": 36}.get(kind, 40)
    parts = []
    for item in range(12):
        begin = start + dt.timedelta(days=item % 5 if every == "1d" else 0)
        begin += dt.timedelta(hours=9) if kind == "hours" else dt.timedelta(0)
        when = pl.datetime_range(begin, begin + dt.timedelta(days=1200), every, eager=True)[:steps]
        if kind == "a zone":
            when = when.dt.replace_time_zone("America/New_York")
        parts.append(pl.DataFrame({"ds": when}).with_columns(unique_id=item))
    grid = pl.concat(parts)
    open_ = {
        "weekdays": pl.col("ds").dt.weekday() < 6,
        "a zone": pl.col("ds").dt.weekday() < 6,
        "hours": pl.col("ds").dt.hour().is_between(8, 17),
        "months": pl.col("ds").dt.month() != 8,
    }[kind]
    grid = grid.filter(open_).select("unique_id", "ds")
    series = grid.with_columns(y=pl.Series(rng.normal(size=len(grid))))
    return series, grid.with_columns(promo=pl.Series(rng.normal(size=len(grid))))


@pytest.mark.parametrize("kind", ["weekdays", "hours", "months", "a zone"])
@pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")
def test_a_plan_needs_no_rows_for_closed_steps(kind):
    series, plan = _planned(kind)
    schema = Schema.fit(series, future=plan)
    assert schema.calendar
    panel = schema.panel(series, future=plan, for_fit=True)
    assert panel.future is not None
    assert panel.future.there[:, :20].all()  # closed steps have missing values
    flags = panel.future.numeric[:, :20, 1]
    assert set(np.unique(flags)) == {0.0, 1.0}
    assert not (flags[panel.mask[:, :20]] > 0).any()
    lost = series["ds"].unique().sort()[7]
    with pytest.raises(DataError, match=r"without closed ones .*received none for step"):
        schema.panel(series, future=plan.filter(pl.col("ds") != lost))


@pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")
def test_forecasts_and_updates_need_no_plan_of_closed_days(untrained):
    series, plan = _planned("weekdays")
    f = Forecaster(units=3, ensemble=2, epochs=1).fit(series, future=plan, verbose=0)
    early = series.filter(pl.col("ds") < dt.datetime(2024, 1, 16))
    whole = f.predict(early, until=25, future=plan)
    assert whole["statecast"].is_finite().all()
    assert (whole["ds"].dt.weekday() < 6).all()
    first = early.filter(pl.col("ds") < dt.datetime(2024, 1, 9))
    state = f.update(
        f.state(first, future=plan),
        early.join(first, on=["unique_id", "ds"], how="anti"),
        future=plan,
    )
    again = f.predict(state=state, until=25, future=plan)
    np.testing.assert_allclose(again["statecast"], whole["statecast"], rtol=1e-4, atol=1e-5)
