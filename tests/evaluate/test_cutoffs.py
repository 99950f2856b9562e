"""Evaluation in time: forecasts at a cutoff are those of a fit to tables that end there."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import SLOW_TO_COMPILE, examples
from statecast.errors import ArgumentError, DataError
from statecast.evaluate.baselines import LastValue, MeanCurve, Ridge
from statecast.evaluate.cross_validation import cross_validation as _cross_validation
from statecast.evaluate.cutoffs import fewest_known
from statecast.evaluate.scores import Scores, score
from statecast.forecast.forecaster import Forecaster
from statecast.forecast.settings import ForecasterSettings
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema
from statecast.tokens.forecaster import TokenForecaster

pytestmark = pytest.mark.usefixtures("few_trees")

cross_validation: Any = _cross_validation  # also of what only acts as a forecaster

SMALL: dict[str, Any] = {"units": 4, "ensemble": 1, "epochs": 1}
LEVELS = (0.1, 0.5, 0.9)
MONDAY = dt.date(2024, 1, 1)


def launched(rows: int = 24, steps: int = 8, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A series, with the time of each step in the column t, and a static table. Items are launched
    at the times 10 to 19, one or two at each of the first ten, and some have gaps."""
    rng = np.random.default_rng(seed)
    x, launch = rng.normal(size=rows), 10 + np.arange(rows) % 10
    y = 60 + x[:, None] * np.arange(1, steps + 1) + rng.normal(size=(rows, steps)).cumsum(1)
    row, at = np.nonzero((rng.random((rows, steps)) > 0.15) | (np.arange(steps) == 0))
    series = pl.DataFrame(
        {
            "unique_id": row,
            "ds": at + 1,
            "y": y[row, at],
            "visits": rng.normal(size=len(row)),
            "t": launch[row] + at,
        }
    )
    kind = ["abc"[i % 3] for i in range(rows)]
    static = pl.DataFrame({"unique_id": np.arange(rows), "x": x, "kind": kind, "launch": launch})
    return series, static


def len_of(series: pl.DataFrame) -> int:
    """The number of steps of an item, which has a row at its launch; 0 without rows."""
    time = series["t"].to_list()
    return max(time) - min(time) + 1 if time else 0


def dated(series: pl.DataFrame, days: int = 7) -> pl.DataFrame:
    """The same series with a date for each step: time 10 is a Monday."""
    date = MONDAY + pl.duration(days=days * (pl.col("t") - 10))
    return series.with_columns(ds=date)


def date_of(time: int, days: int = 7) -> dt.date:
    return MONDAY + dt.timedelta(days=days * (time - 10))


class Fake:
    """A forecaster that answers with the forecasts of a ridge regression, and keeps a record."""

    def __init__(self, log: list[Fake] | None = None, **columns: Any) -> None:
        self.log: list[Fake] = [] if log is None else log
        self.settings = ForecasterSettings(**columns)
        self.columns = columns
        self.asked: list[Panel] = []
        self.found: list[np.ndarray] = []
        self.schema: Any = None
        self.given: dict[str, Any] = {}

    def clone(self) -> Fake:
        return Fake(self.log, **self.columns)

    def fit(self, series: Any, static: Any = None, *, future: Any = None, **_: Any) -> Fake:
        self.log.append(self)
        self.given = {"series": series, "static": static, "future": future}
        self.schema = Schema.fit(series, static, future=future, **self.columns)
        self.panel = self.schema.panel(series, static, future=future, for_fit=True)
        self.ridge = Ridge().fit(self.panel, self.schema)
        return self

    def quantiles(self, panel: Panel, until: int, levels: Sequence[float]) -> np.ndarray:
        self.asked.append(panel)
        (k,) = set(panel.known.tolist())  # all have the same prefix length
        self.found.append(self.ridge.quantiles(panel, k, until, levels))
        return self.found[-1]


class Recorder:
    """A baseline that forecasts the mean curve, and keeps the panels that it is fitted to."""

    name, point, needs_sklearn = "recorder", False, False

    def __init__(self, needs: int = 0) -> None:
        self.needs = needs
        self.trained: list[Panel] = []

    def fit(self, panel: Panel, schema: Schema) -> Recorder:
        self.trained.append(panel)
        self.curve = MeanCurve().fit(panel, schema)
        return self

    def quantiles(
        self, panel: Panel, known: int, until: int, levels: Sequence[float]
    ) -> np.ndarray:
        return self.curve.quantiles(panel, known, until, levels)


def forecasts(log: list[Fake]) -> dict[Any, np.ndarray]:
    """The forecasts of every fit and item."""
    return {
        (number, item): found
        for number, fake in enumerate(log)
        for panel, every in zip(fake.asked, fake.found, strict=True)
        for item, found in zip(panel.ids.tolist(), every, strict=True)
    }


def options(times: Any = (14, 16), **others: Any) -> dict[str, Any]:
    """Arguments of an evaluation of the numbered tables."""
    return {"by": "launch", "cutoffs": times, "launch": "launch", "baselines": False} | others


def by_hand(
    series: pl.DataFrame, static: pl.DataFrame, time: int, h: int | None = None
) -> pl.DataFrame:
    """Fit, and forecast all items, on tables that end at a time; a row for each later value."""
    known = series.filter(pl.col("t") <= time)
    f = Forecaster(past_cols=["visits"], **SMALL)
    f.fit(known.drop("t"), static.join(known, on="unique_id", how="semi"), verbose=0)
    later = series.filter(pl.col("t").is_between(time + 1, time + (h or 1000)))
    forecast = later.select("unique_id", "t").unique("unique_id", maintain_order=True)
    who = static.join(forecast, on="unique_id", how="semi")
    begun = known.join(forecast, on="unique_id", how="semi").drop("t")
    if series.schema["ds"].is_integer():
        table = f.predict(begun, who, until=8, level=80)
    else:
        table = f.predict(begun, who, until=8, level=80).drop("ds").rename({"step": "ds"})
        origin = series.group_by("unique_id").agg(first=pl.col("t").min())
        later = later.join(origin, on="unique_id").with_columns(
            ds=pl.col("t") - pl.col("first") + 1
        )
    last = known.group_by("unique_id").agg(k=pl.len(), step=pl.col("t").max())
    start = series.group_by("unique_id").agg(first=pl.col("t").min())
    last = last.join(start, on="unique_id").with_columns(k=pl.col("step") - pl.col("first") + 1)
    return (
        later.join(table, on=["unique_id", "ds"])
        .join(last.select("unique_id", "k"), on="unique_id", how="left")
        .with_columns(pl.col("k").fill_null(0))
    )


@pytest.mark.backends
@pytest.mark.parametrize(
    ("by_date", "h"), [(False, None), pytest.param(True, 3, marks=SLOW_TO_COMPILE)]
)
def test_a_cutoff_is_a_fit_and_a_forecast_on_tables_that_end_there(
    by_date: bool, h: int | None
) -> None:
    series, static = launched()
    times = [15] if by_date else [14, 16]
    given = options(times, h=h, known=(0, 1, 3, 5))
    if by_date:
        series, static = dated(series), static.drop("launch")
        given |= {"cutoffs": [date_of(time) for time in times], "launch": None}
    f = Forecaster(past_cols=["visits"], **SMALL)
    found = cross_validation(f, series.drop("t"), static, levels=LEVELS, verbose=0, **given)
    parts = [by_hand(series, static, time, h) for time in times]
    assert list(found.cutoffs) == given["cutoffs"]
    for scores, rows in zip(
        [found, *found.cutoffs.values()], [pl.concat(parts), *parts], strict=True
    ):
        for k, least in {0: 0, 1: 1, 3: 2, 5: 4}.items():
            of_k = rows.filter(pl.col("k").is_between(least, k))
            if not len(of_k):
                assert k not in scores.known
                continue
            quantiles = of_k.select("statecast-lo-80", "statecast", "statecast-hi-80").to_numpy()
            expected, row = score(of_k["y"].to_numpy(), quantiles, LEVELS), scores["statecast", k]
            assert (row.values, row.fewest) == (expected.values, least)
            assert row.items == of_k["unique_id"].n_unique()
            for name in ("wape", "crps", "coverage", "width"):
                assert getattr(row, name) == pytest.approx(getattr(expected, name), rel=1e-4), name


def test_training_ends_at_the_cutoff_and_takes_it_in() -> None:
    series, static = launched()
    fake, recorder = Fake(), Recorder()
    given = options([14, 16], baselines=[recorder])
    cross_validation(fake, series, static, **given)
    assert len(fake.log) == len(recorder.trained) == 2
    for time, each, panel in zip((14, 16), fake.log, recorder.trained, strict=True):
        known = series.filter(pl.col("t") <= time)
        assert known["t"].max() == time  # the boundary is in
        assert each.given["series"].sort("unique_id", "ds").equals(known.sort("unique_id", "ds"))
        items = set(known["unique_id"])
        assert set(each.given["static"]["unique_id"]) == items == set(panel.ids.tolist())
        assert panel.mask.sum() == each.panel.mask.sum() == known.height
        later = series.filter(pl.col("t") > time)
        asked = [item for panel in each.asked for item in panel.ids.tolist()]
        assert len(asked) == len(set(asked))
        k = {
            item: len_of(known.filter(pl.col("unique_id") == item))
            for item in set(later["unique_id"])
        }
        assert set(asked) == {item for item in k if k[item] <= 5}, "young items with later steps"
        assert set(asked) & items, "young items are in training too"
        for part in each.asked:
            assert [k[item] for item in part.ids.tolist()] == part.known.tolist()


@pytest.mark.parametrize("by_date", [False, True])
def test_nothing_after_a_cutoff_reaches_a_forecast(by_date: bool) -> None:
    """Values after the cutoff, also out of the transform's domain, new categories and the static
    features of items that are not launched change no forecast of the others."""
    series, static = launched()
    given = options([15])
    if by_date:
        series, given = dated(series), given | {"cutoffs": [date_of(15)], "launch": None}
    late = pl.col("t") > 15
    planted = series.with_columns(
        y=pl.when(late).then(-1e30).otherwise("y"),
        visits=pl.when(late).then(1e9).otherwise("visits"),
    )
    new = pl.col("launch") > 15
    other = static.with_columns(
        x=pl.when(new).then(1e9).otherwise("x"),
        kind=pl.when(new).then(pl.lit("z")).otherwise("kind"),
    )
    found = []
    for tables in ((series, static), (planted, static), (planted, other)):
        fake = Fake(past_cols=["visits"], transform="positive")
        with np.errstate(all="ignore"):
            cross_validation(fake, *tables, **given)
        found.append(forecasts(fake.log))
    one, two, three = found
    assert one.keys() == two.keys() == three.keys()
    unlaunched = set(static.filter(new)["unique_id"])
    assert unlaunched & {item for _, item in one}
    for cell, values in one.items():
        np.testing.assert_array_equal(values, two[cell])
        if cell[1] not in unlaunched:
            np.testing.assert_array_equal(values, three[cell])


@pytest.mark.parametrize("by_date", [False, True])
def test_future_covariates_are_known_for_forecasts_and_not_for_training(by_date: bool) -> None:
    series, static = launched()
    row, at = (axis.ravel() for axis in np.indices((24, 8)))
    time = static["launch"].to_numpy()[row] + at
    future = pl.DataFrame({"unique_id": row, "ds": at + 1, "t": time, "promo": row % 7 + 2.0 * at})
    given = options([15])
    if by_date:
        series, future = dated(series), dated(future)
        given |= {"cutoffs": [date_of(15)], "launch": None}
        # Rows before the launch do not move the steps of an item that is not launched.
        early = future.filter(pl.col("t") == pl.col("t").min().over("unique_id"))
        early = early.with_columns(ds=pl.col("ds") - pl.duration(days=7), promo=pl.lit(99.0))
        future = pl.concat([early, future])
    fake = Fake()
    cross_validation(fake, series, static, future=future.drop("t"), **given)
    (each,) = fake.log
    known = future.filter((pl.col("t") <= 15) & (pl.col("t").min().over("unique_id") <= 15))
    assert each.given["future"].equals(known.drop("t"))
    assert 0 in {int(panel.known[0]) for panel in each.asked}
    for panel in each.asked:
        assert panel.future is not None
        for place, item in enumerate(panel.ids.tolist()):
            steps = series.filter(pl.col("unique_id") == item)
            promo = item % 7 + 2.0 * np.arange(len_of(steps))
            wanted = each.schema.future.encode({"promo": promo}, [item] * len(promo))[0]
            np.testing.assert_array_equal(panel.future.numeric[place, : len(promo)], wanted)


@settings(max_examples=examples(10))
@given(st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_items_changes_nothing(random: Any, by_date: bool) -> None:
    series, static = launched(20)
    given = options(2, baselines=[MeanCurve(), LastValue()])
    if by_date:
        series, given = dated(series), given | {"launch": None}
    one = cross_validation(Fake(), series, static, **given)
    rows, order = list(range(series.height)), list(range(static.height))
    random.shuffle(rows)
    random.shuffle(order)
    other = cross_validation(Fake(), series[rows], static[order], **given)
    assert (
        one.table()
        .select("cutoff", "method", "known", "items", "values")
        .equals(other.table().select("cutoff", "method", "known", "items", "values"))
    )
    for left, right in zip(one.table()["crps"], other.table()["crps"], strict=True):
        assert left == pytest.approx(right, rel=1e-5)


def test_without_refit_there_is_one_fit() -> None:
    series, static = launched()
    once, twice, recorder = Fake(), Fake(), Recorder()
    found = cross_validation(
        once, series, static, **options([14, 16], refit=False, baselines=[recorder])
    )
    again = cross_validation(twice, series, static, **options([14, 16]))
    assert (len(once.log), len(recorder.trained), len(twice.log)) == (1, 1, 2)
    assert "at the first cutoff only" in str(found)
    assert "at each cutoff" in str(again)
    asked = [dict(zip(panel.ids.tolist(), panel.known, strict=True)) for panel in once.log[0].asked]
    both = [[dict(zip(p.ids.tolist(), p.known, strict=True)) for p in f.asked] for f in twice.log]
    assert asked == both[0] + both[1], "the same items from the same prefixes"
    first, last = list(found.cutoffs.values())
    assert first.trained == last.trained == series.filter(pl.col("t") <= 14)["unique_id"].n_unique()


@pytest.mark.parametrize("by_date", [False, True])
def test_every_kind_of_table_gives_the_same_scores(tmp_path: Path, by_date: bool) -> None:
    series, static = launched()
    given = options([14, 16], baselines=[Ridge()])
    if by_date:
        series = dated(series)
        given |= {"cutoffs": ["2024-01-29", "2024-02-12"], "launch": None}
    parts = {"series": series.drop("t", "visits"), "static": static}
    for name, table in parts.items():
        table.write_csv(tmp_path / f"{name}.csv")
        table.write_parquet(tmp_path / f"{name}.parquet")
    kinds: dict[str, list[Any]] = {
        "pandas": [table.to_pandas() for table in parts.values()],
        "arrow": [table.to_arrow() for table in parts.values()],
        "csv": [tmp_path / f"{name}.csv" for name in parts],
        "parquet": [tmp_path / f"{name}.parquet" for name in parts],
    }
    one = cross_validation(Fake(), *parts.values(), **given).table()
    for kind, tables in kinds.items():
        other = cross_validation(Fake(), *tables, **given).table()
        assert one.drop("wape", "crps").columns == other.drop("wape", "crps").columns, kind
        np.testing.assert_allclose(one["crps"], other["crps"], rtol=1e-5, err_msg=kind)
        assert one["values"].equals(other["values"]), kind


def test_arrays_mappings_and_tables_without_statics() -> None:
    series, static = launched()
    Y = np.full((24, 8), np.nan)
    Y[series["unique_id"], series["ds"] - 1] = series["y"]
    launch = static["launch"]
    found = [
        cross_validation(Fake(), Y, **options([14], launch=launch.to_numpy())),
        cross_validation(Fake(), series, **options([14], launch=dict(enumerate(launch)))),
        cross_validation(Fake(), dated(series), **options([date_of(14)], launch=None)),
        cross_validation(
            Fake(), Y, static["x"].to_numpy()[:, None], **options([14.5], launch=launch.to_list())
        ),
    ]
    for other in found:
        assert [(row.known, row.items, row.values) for row in other.rows] == [
            (row.known, row.items, row.values) for row in found[0].rows
        ]
    assert found[0].known[0] == 0, "items that are in the series only are forecast from k = 0"
    for other in found[1:3]:
        assert other["statecast", 3].crps == pytest.approx(found[0]["statecast", 3].crps, rel=1e-5)


@pytest.mark.parametrize("unit", ["months", "month ends", "hours"])
def test_months_hours_and_time_zones(unit: str) -> None:
    """A date between two steps counts as the step before it."""
    series, static = launched()
    start = {"months": "2023-01-15", "month ends": "2023-01-31", "hours": "2023-03-26T00:00"}[unit]
    begin = np.datetime64(start)
    months = begin.astype("datetime64[M]") + np.arange(30)
    if unit == "months":
        dates: Any = [month.astype("datetime64[D]") + 14 for month in months]
    elif unit == "month ends":
        dates = [(month + 1).astype("datetime64[D]") - 1 for month in months]
    else:
        dates = [begin + np.timedelta64(i, "h") for i in range(30)]
    column = pl.Series([dates[t - 10].item() for t in series["t"]])
    between = [dates[5].item() - dt.timedelta(days=1), dates[5].item()]
    if unit == "hours":  # the clock is set forward at one of them
        column = column.dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Paris")
        between = [dates[5].item().replace(tzinfo=dt.UTC) - dt.timedelta(minutes=1)]
        between.append(between[0] + dt.timedelta(minutes=1))
    numbered = cross_validation(Fake(), series, static, **options([14, 15]))
    found = cross_validation(
        Fake(), series.with_columns(ds=column), static, **options(between, launch=None)
    )
    assert list(found.cutoffs) == between
    for left, right in zip(found.cutoffs.values(), numbered.cutoffs.values(), strict=True):
        assert [(row.known, row.items, row.values, row.crps) for row in left.rows] == [
            (row.known, row.items, row.values, pytest.approx(row.crps)) for row in right.rows
        ]


def test_a_number_of_cutoffs_divides_the_second_half() -> None:
    """With k up to 5 and launches from 10 to 19, items to forecast are young up to time 23."""
    series, static = launched()
    later = series.filter(pl.col("ds") > 5).group_by("unique_id").agg(pl.col("t").min())
    young = max(later["t"].to_list()) - 1
    total = young - 10
    for count in (1, 2, 4):
        times = [10 + total * (count + j) // (2 * count) for j in range(count)]
        found = cross_validation(Fake(), series, static, **options(count))
        assert list(found.cutoffs) == times
        found = cross_validation(Fake(), dated(series), static, **options(count, launch=None))
        assert list(found.cutoffs) == [date_of(time) for time in times]


def test_groups_of_prefix_lengths() -> None:
    assert fewest_known((0, 1, 3, 5)) == {0: 0, 1: 1, 3: 2, 5: 4}
    assert fewest_known((2, 6)) == {2: 2, 6: 3}
    series, static = launched()
    every = cross_validation(Fake(), series, static, **options([16], known=range(8)))
    some = cross_validation(Fake(), series, static, **options([16], known=[2, 6]))
    assert [row.prefixes for row in some.rows] == ["2", "3 to 6"]
    assert some["statecast", 2] == every["statecast", 2]
    assert some["statecast", 6].values == sum(every["statecast", k].values for k in (3, 4, 5, 6))


def test_an_item_is_drawn_with_all_its_forecasts() -> None:
    series, static = launched()
    found = cross_validation(Fake(), series, static, **options([13, 14, 15], known=(0, 5)))
    for k in (0, 5):
        every = [own.sums["statecast", k].sum(axis=0) for own in found.cutoffs.values()]
        np.testing.assert_allclose(found.sums["statecast", k].sum(axis=0), np.sum(every, axis=0))
        assert len(found.sums["statecast", k]) == found["statecast", k].items
    assert found["statecast", 0].items < sum(
        own["statecast", 0].items for own in found.cutoffs.values()
    )


def test_a_baseline_that_needs_a_longer_prefix_has_no_row_in_a_group_with_shorter_ones() -> None:
    series, static = launched()
    for known, rows in (((1, 3), [3]), ((0, 3), [])):
        given = options([16], known=known, baselines=[Recorder(needs=2)])
        found = cross_validation(Fake(), series, static, **given)
        assert [row.known for row in found.rows if row.method == "recorder"] == rows


def test_several_targets_have_tables_by_cutoff(untrained: None) -> None:
    series, static = launched()
    f = Forecaster(target_col=["y", "visits"], **SMALL)
    found = cross_validation(f, series, static, verbose=0, **options([14, 16]))
    table = found.table()
    assert table["target"].unique().sort().to_list() == ["visits", "y"]
    assert table["cutoff"].unique().sort().to_list() == [None, 14, 16]
    assert list(found["y"].cutoffs) == list(found.cutoffs) == [14, 16]
    assert found.cutoffs[16]["visits"] is found["visits"].cutoffs[16]
    assert "2 to 3" in str(found)


def test_the_text_and_the_table_have_a_row_for_each_cutoff() -> None:
    series, static = launched()
    given = options([date_of(16), date_of(14)], launch=None, baselines=[MeanCurve(), Ridge()])
    found = cross_validation(Fake(), dated(series), static, **given)
    assert isinstance(found, Scores)
    text = str(found)
    assert text.startswith("Forecasts of what came after 2 cutoffs, by a fit to what was known at")
    lines = text.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("CRPS by cutoff"))
    assert lines[head + 2].split()[:2] == ["2024-01-29", "14"]
    assert repr(found).endswith("cutoffs: 2>")
    table = found.table()
    assert table.columns[:4] == ["cutoff", "method", "known_from", "known"]
    assert table["cutoff"].dtype == pl.Date
    assert table["cutoff"].drop_nulls().unique().to_list() == [date_of(14), date_of(16)]
    own = table.filter(pl.col("cutoff") == date_of(16))
    assert own["crps"].to_list() == [row.crps for row in found.cutoffs[date_of(16)].rows]


def test_progress_has_a_stage_for_each_fit_and_forecast() -> None:
    series, static = launched()
    for refit, count in ((True, 4), (False, 3)):
        stages: list[tuple[str, int, int]] = []
        given = options([14, 16], refit=refit, progress=lambda *what, to=stages: to.append(what))
        cross_validation(Fake(), series, static, **given)
        assert [what[1] for what in stages] == list(range(count + 1))
        assert {what[2] for what in stages} == {count}
        assert stages[0][0] == "cutoff 14 (1 of 2): fit"


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"by": "date"}, ArgumentError, "by: expected one of"),
        ({"by": "item"}, ArgumentError, "cutoffs: expected None with by='item'"),
        ({"by": "item", "cutoffs": None}, ArgumentError, "launch: expected None with by='item'"),
        (
            {"by": "item", "cutoffs": None, "launch": None, "refit": False},
            ArgumentError,
            "refit: expected True with by='item'",
        ),
        ({"by": "item", "cutoffs": None, "launch": None, "h": 2}, ArgumentError, "h: expected"),
        ({"folds": 5}, ArgumentError, "folds: expected None with by='launch'; received 5"),
        ({"test_folds": [0]}, ArgumentError, "test_folds: expected None"),
        ({"cutoffs": None}, ArgumentError, "For example cutoffs=3"),
        ({"cutoffs": []}, ArgumentError, "cutoffs: expected times, or a number"),
        ({"cutoffs": True}, ArgumentError, "cutoffs: expected times, or a number"),
        ({"cutoffs": 0}, ArgumentError, "cutoffs: expected times, or a number of cutoffs from 1"),
        ({"cutoffs": 1997}, ArgumentError, "If it is a time, pass it in a list"),
        ({"cutoffs": ["2024-01-01"]}, ArgumentError, "expected numbers in the unit of the steps"),
        ({"cutoffs": [float("nan")]}, ArgumentError, "expected numbers in the unit of the steps"),
        ({"cutoffs": [9]}, ArgumentError, "times from 10, the first launch, .*received 9"),
        ({"cutoffs": [12, 26]}, ArgumentError, "before 26, the last observation; received 26"),
        ({"cutoffs": [25]}, ArgumentError, "prefix of 0 to 5 steps; received 25"),
        ({"cutoffs": [14], "known": [9]}, ArgumentError, "prefix of 9 to 9 steps"),
        ({"launch": None}, ArgumentError, "expected steps that are dates, or launch="),
        ({"launch": "start"}, ArgumentError, "launch: expected the name of a column .*'start'"),
        ({"launch": "kind"}, DataError, "item 0 has 'a'.*pass dates"),
        ({"launch": {0: 10}}, DataError, "item 1 has none"),
        ({"launch": [1, 2]}, ArgumentError, r"received list of shape \(2,\)"),
        ({"h": 0}, ArgumentError, "h: expected a whole number from 1"),
        ({"refit": 1}, ArgumentError, "refit: expected True or False"),
        ({"known": (-1,)}, ArgumentError, "known: expected prefix lengths"),
    ],
)
def test_bad_input_is_refused_before_any_fit(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    series, static = launched(20)
    fake = Fake()
    with pytest.raises(error, match=message):
        cross_validation(fake, series, static, **options() | changed)
    assert fake.log == []


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"launch": "launch"}, ArgumentError, "launch: expected None if steps are dates"),
        ({"cutoffs": [14]}, ArgumentError, "cutoffs: expected dates without a time zone"),
        ({"cutoffs": "soon"}, ArgumentError, "expected dates without a time zone.*'soon'"),
        ({"cutoffs": [dt.datetime(2024, 2, 1, tzinfo=dt.UTC)]}, ArgumentError, "without a time"),
        ({"cutoffs": [MONDAY, "2024-02-01"]}, ArgumentError, "expected dates without"),
        ({"cutoffs": [dt.date(2023, 12, 31)]}, ArgumentError, "from 2024-01-01, the first launch"),
        ({"cutoffs": [MONDAY]}, DataError, "At the cutoff 2024-01-01.*two dates"),
    ],
)
def test_bad_input_of_dates_is_refused_before_any_fit(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    series, static = launched(20)
    fake = Fake()
    with pytest.raises(error, match=message):
        cross_validation(
            fake, dated(series), static, **options([date_of(14)], launch=None) | changed
        )
    assert fake.log == []


def test_another_spacing_up_to_a_cutoff_is_refused() -> None:
    dates = [MONDAY + dt.timedelta(days=14 * i) for i in range(4)]
    more = [dates[-1] + dt.timedelta(days=7 * i) for i in range(1, 9)]
    both = [*dates, *more]
    series = pl.DataFrame(
        {
            "unique_id": [i for i in range(4) for _ in both],
            "ds": both * 4,
            "y": np.arange(4.0 * len(both)),
        }
    )
    with pytest.raises(DataError, match=r"At the cutoff .* one every 7 days, .* one every 14 days"):
        cross_validation(Fake(), series, **options([dates[-1]], launch=None, known=[0, 9]))


def test_tokens_have_no_times() -> None:
    series = pl.DataFrame({"unique_id": [0, 0], "ds": [1, 2], "y": ["a", "b"]})
    with pytest.raises(ArgumentError, match="places in a sequence and not times"):
        cross_validation(TokenForecaster(), series, by="launch", cutoffs=[1])
