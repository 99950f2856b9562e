"""Means, and totals of items and of groups of items."""

import datetime as dt
import inspect
import warnings
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from curves import CLOSE, ROWS, T, columns_of, curve_tables, fit_curves, mixed_prefixes
from statecast import Forecaster, errors
from statecast.forecast import forecaster, paths

SMALL: dict[str, Any] = {"units": 4, "ensemble": 2, "epochs": 1}


def _whole_prefixes(seed=2):
    """Prefixes of several lengths without gaps, the static table, and the number of items."""
    series, static = curve_tables()
    gaps = series.group_by("unique_id").agg((pl.col("ds").rank() != pl.col("ds")).any())
    whole = gaps.filter(~pl.col("ds"))["unique_id"].to_list()
    prefix = mixed_prefixes(series, seed).filter(pl.col("unique_id").is_in(whole))
    return prefix, static.filter(pl.col("unique_id").is_in(whole))


def _skewed(rows=40, steps=6, seed=0):
    rng = np.random.default_rng(seed)
    level = rng.normal(size=(rows, 1))
    return np.exp(level + 0.8 * rng.normal(size=(rows, steps)))


@cache
def _of_ratios():
    """A forecaster of skewed values, on a log scale."""
    return Forecaster(**SMALL, transform="log").fit(_skewed(), verbose=0)


@cache
def _of_two():
    """A forecaster of two targets."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(30, 6, 2)).cumsum(axis=1) + 20
    return Forecaster(**SMALL, target_col=["a", "b"]).fit(y, verbose=0), y[:5, :2]


# -- means -----------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["quantiles", "negative_binomial", "normal"])
def test_a_mean_is_that_of_the_paths(head):
    """1,000 paths have the quantiles of the mean, at every step, so there is no sampling error."""
    y = np.rint(3 * _skewed())
    f = Forecaster(**SMALL, head=head).fit(y, verbose=0)
    found = f.predict(y[:5, :2], until=6, mean=True)
    drawn = f.simulate(y[:5, :2], until=6, paths=1000)
    np.testing.assert_allclose(
        found["statecast-mean"][:, 2:], drawn.values.mean(axis=1)[:, 2:], rtol=CLOSE
    )
    total = f.predict_total(y[:5, :2], until=6, mean=True)
    means = found["statecast-mean"][:, 2:].sum(axis=1)
    np.testing.assert_allclose(means, total["statecast-mean"], rtol=CLOSE)
    # Other numbers of paths: the sampling error is that of the levels, far below the spread.
    other = f.simulate(y[:5, :2], until=6, paths=300).total(mean=True, level=50)
    spread = other["statecast-hi-50"] - other["statecast-lo-50"]
    assert (np.abs(other["statecast-mean"] - means) < 0.05 * spread).all()


def test_means_of_skewed_values_exceed_medians_and_of_symmetric_ones_are_near_them(fitted):
    skewed = _of_ratios().predict(_skewed()[:5, :2], until=6, mean=True)
    assert (skewed["statecast-mean"][:, 2:] > skewed["statecast"][:, 2:]).all()
    series, static = curve_tables()
    found = fitted.predict(mixed_prefixes(series, 2), static, until=T, mean=True)
    width = found["statecast-hi-80"] - found["statecast-lo-80"]
    assert ((found["statecast-mean"] - found["statecast"]).abs() < 0.25 * width).all()
    assert (found["statecast-mean"] - found["statecast"]).mean() < 0.05 * width.mean()


def test_without_calibration_the_mean_is_that_of_the_models(fitted):
    series, static = curve_tables()
    prefix = mixed_prefixes(series, 2)
    levels = paths.equal_levels(100)
    for calibrated in (True, False):
        found = fitted.predict(
            prefix, static, until=T, mean=True, quantiles=levels, level=None, calibrated=calibrated
        )
        by_hand = found.select(pl.mean_horizontal(pl.col("^statecast-q-.*$"))).to_series()
        np.testing.assert_allclose(found["statecast-mean"], by_hand, rtol=1e-4)
    other = fitted.predict(prefix, static, until=T, mean=True)["statecast-mean"]
    assert np.abs(other - found["statecast-mean"]).max() > 1e-3


def test_a_mean_does_not_depend_on_other_items_nor_on_the_size_of_parts(fitted, monkeypatch):
    series, static = curve_tables()
    prefix = mixed_prefixes(series, 2)
    found = fitted.predict(prefix, static, until=T, mean=True)
    assert found.columns[-1] == "statecast-mean"
    assert found.drop("statecast-mean").equals(fitted.predict(prefix, static, until=T))
    state = fitted.predict(state=fitted.state(prefix, static), until=T, mean=True)
    np.testing.assert_allclose(columns_of(state), columns_of(found), rtol=CLOSE)
    monkeypatch.setattr(forecaster, "_MEAN_VALUES", 3000)
    assert fitted.predict(prefix, static, until=T, mean=True).equals(found)
    for item in (0, 7):
        own = pl.col("unique_id") == item
        alone = fitted.predict(prefix.filter(own), static.filter(own), until=T, mean=True)
        assert alone.equals(found.filter(own))


def test_each_target_has_a_mean():
    f, begun = _of_two()
    found = f.predict(begun, until=6, mean=True)["statecast-mean"]
    drawn = f.simulate(begun, until=6, paths=1000)
    np.testing.assert_allclose(found[:, 2:], drawn.values.mean(axis=1)[:, 2:], rtol=CLOSE)
    row, step = (axis.ravel() for axis in np.indices(begun.shape[:2]))
    table = pl.DataFrame({"unique_id": row, "ds": step + 1})
    table = table.with_columns(a=pl.Series(begun[..., 0].ravel()), b=begun[..., 1].ravel())
    means = [name for name in f.predict(table, until=6, mean=True).columns if "mean" in name]
    assert means == ["statecast-a-mean", "statecast-b-mean"]


def test_a_mean_is_interpolated_at_steps_that_training_did_not_observe():
    y = _skewed()
    y[:, 3] = np.nan
    with pytest.warns(errors.DataWarning, match="observed"):
        f = Forecaster(**SMALL, transform="log").fit(y, verbose=0)
    drawn = f.simulate(y[:5, :2], until=4, paths=1000).values.mean(axis=1)
    found = f.predict(y[:5, :2], until=4, mean=True)["statecast-mean"]
    np.testing.assert_allclose(found[:, 2:], drawn[:, 2:], rtol=CLOSE)


def test_a_tail_without_a_mean_is_cut():
    """On a log scale the tail is a power law; its mean is infinite from a scale of 1 on."""
    f = _of_ratios()
    wide = np.linspace(-40, 40, 11, dtype="float32") * np.ones((2, 3, 1), "float32")
    known, last = np.zeros(2, int), np.full(2, 3)
    found = f._in_units(wide, np.arange(2), known, last, None, [0.5, 0.9995], True)
    assert np.isfinite(found).all()
    assert (found[..., 2] > found[..., 0]).all()
    assert (found[..., 2] < found[..., 1]).all()


def test_mean_is_a_flag(fitted):
    _, static = curve_tables()
    for call in (fitted.predict, fitted.predict_total):
        with pytest.raises(errors.ArgumentError, match="mean: expected True or False"):
            call(None, static, until=T, mean=1)
    with pytest.raises(errors.ArgumentError, match="mean: expected True or False"):
        fitted.simulate(None, static, until=T, paths=5).total(mean="yes")


# -- totals ----------------------------------------------------------------------------


def test_totals_of_items_are_those_of_their_paths(fitted, monkeypatch):
    prefix, static = _whole_prefixes()
    options: dict[str, Any] = {"level": [50, 90], "quantiles": 0.3, "mean": True}
    for since in (None, 1, 5):
        drawn = fitted.simulate(prefix, static, until=T, paths=30)
        expected = drawn.total(since=since, **options)
        ask: dict[str, Any] = {"until": T, "paths": 30, "since": since, **options}
        assert fitted.predict_total(prefix, static, **ask).equals(expected)
        with monkeypatch.context() as patch:  # an item at a time
            patch.setattr(forecaster, "MOST_VALUES", 1)
            assert fitted.predict_total(prefix, static, **ask).equals(expected)
    state = fitted.state(prefix, static)
    ask: dict[str, Any] = {"until": T, "paths": 30}
    expected = fitted.simulate(prefix, static, **ask).total()
    found = fitted.predict_total(state=state, **ask)
    assert found["unique_id"].equals(expected["unique_id"])
    np.testing.assert_allclose(columns_of(found), columns_of(expected), rtol=CLOSE)
    # alone, although the last step of the others is another one
    item = static["unique_id"][3]
    own = pl.col("unique_id") == item
    known = prefix.filter(own).height
    ends = dict.fromkeys(static["unique_id"], known + 1) | {static["unique_id"][0]: T}
    among = fitted.predict_total(prefix, static, until=ends, paths=30)
    alone = fitted.predict_total(prefix.filter(own), static.filter(own), h=1, paths=30)
    assert alone.equals(among.filter(own))
    assert np.isfinite(columns_of(alone)).all()


def test_totals_of_groups_are_sums_of_paths(fitted, monkeypatch):
    prefix, static = _whole_prefixes()
    static = static.with_columns(
        half=pl.col("unique_id") % 2 == 0, size=pl.col("unique_id").cast(pl.Float64) + 1
    )
    features = static.drop("half", "size")
    values = np.nan_to_num(fitted.simulate(prefix, features, until=T, paths=40).values)
    sums = values.sum(axis=2)
    ask: dict[str, Any] = {"until": T, "paths": 40, "quantiles": 0.3, "mean": True}
    for by in ("group", ["group", "half"], ["half"], "unique_id", []):
        for weight in (None, "size"):
            names = [by] if isinstance(by, str) else by
            more = {*names, weight} & {"half", "size"}
            factor = 1 if weight is None else static["size"].to_numpy()[:, None]
            own: dict[Any, Any] = {}
            keys = static.select(names).rows() or [()] * len(sums)
            for key, row in zip(keys, factor * sums, strict=True):
                own[key] = own.get(key, 0) + row
            tables = prefix, static.select(*features.columns, *more)
            found = fitted.predict_total(*tables, by=by, weight=weight, **ask)
            assert found.select(names).rows() == [key for key in own if key]
            for row, total in zip(columns_of(found), own.values(), strict=True):
                wanted = [*np.quantile(total, [0.5, 0.1, 0.9, 0.3]), total.mean()]
                np.testing.assert_allclose(row, wanted, rtol=CLOSE)
            with monkeypatch.context() as patch:
                patch.setattr(forecaster, "MOST_VALUES", 700)
                parts = fitted.predict_total(*tables, by=by, weight=weight, **ask)
                assert parts.equals(found)
    whole = fitted.predict_total(prefix, features, by=[], since=1, **ask)
    seen = prefix["y"].sum()
    later = fitted.predict_total(prefix, features, by=[], **ask)
    np.testing.assert_allclose(columns_of(whole) - columns_of(later), seen, rtol=CLOSE)


def test_groups_and_weights_are_given_in_several_ways(fitted, tmp_path):
    prefix, static = _whole_prefixes()
    sized = static.with_columns(shop=pl.col("unique_id") % 3, size=pl.col("level").exp())
    ask: dict[str, Any] = {"until": T, "paths": 20}
    expected = fitted.predict_total(prefix, sized, by="shop", weight="size", **ask)
    assert expected.columns[0] == "shop"
    table = sized.select("unique_id", "shop").reverse()
    more = pl.concat([table, pl.DataFrame({"unique_id": [99], "shop": [7]}, table.schema)])
    more.write_csv(tmp_path / "shops.csv")
    each = dict(sized.select("unique_id", "size").rows())
    size = sized["size"].to_numpy()
    weights = sized.select("size", "unique_id").reverse()
    weights.write_csv(tmp_path / "sizes.csv")
    of_tables = [weights, weights.to_pandas(), weights.to_arrow(), weights.lazy()]
    for by in (more, more.to_pandas(), more.to_arrow(), tmp_path / "shops.csv"):
        for weight in (each, size, size.tolist(), *of_tables, tmp_path / "sizes.csv"):
            found = fitted.predict_total(prefix, static, by=by, weight=weight, **ask)
            assert found.equals(expected)
    of = dict(table.rows())
    found = fitted.predict_total(prefix, static, by=of, weight=size, **ask)
    assert found.equals(expected.rename({"shop": "group"}))
    state = fitted.state(prefix, static)
    for by, weight in ((more, each), (str(tmp_path / "shops.csv"), str(tmp_path / "sizes.csv"))):
        found = fitted.predict_total(state=state, by=by, weight=weight, **ask)
        assert found["shop"].equals(expected["shop"])
        np.testing.assert_allclose(columns_of(found), columns_of(expected), rtol=CLOSE)
    # A fork has no ids: its rows are numbered.
    pair = state.take([0]).fork(2)
    drawn = fitted.predict_total(state=pair, by={0: "x", 1: "y"}, **ask)
    assert drawn["group"].to_list() == ["x", "y"]
    # In files
    prefix.write_csv(tmp_path / "series.csv")
    sized.write_csv(tmp_path / "static.csv")
    files = tmp_path / "series.csv", tmp_path / "static.csv"
    found = fitted.predict_total(*files, by="shop", weight="size", **ask)
    assert found["shop"].equals(expected["shop"])
    np.testing.assert_allclose(columns_of(found), columns_of(expected), rtol=CLOSE)


def test_no_item_is_lost_that_has_no_group(fitted):
    prefix, static = _whole_prefixes()
    text = [None if item % 4 == 0 else "ab"[item % 2] for item in static["unique_id"]]
    number = [np.nan if item % 4 == 0 else item % 2 for item in static["unique_id"]]
    ask: dict[str, Any] = {"until": T, "paths": 20, "mean": True}
    whole = fitted.predict_total(prefix, static, by=[], **ask)["statecast-mean"][0]
    for cells in (text, number):
        grouped = static.with_columns(shop=pl.Series(cells, strict=False))
        for tables in ((prefix, grouped), (prefix.to_pandas(), grouped.to_pandas())):
            found = fitted.predict_total(*tables, by="shop", **ask)
            assert len(found) == 3
            assert sum(pd.isna(list(found["shop"]))) == 1
            np.testing.assert_allclose(sum(found["statecast-mean"]), whole, rtol=CLOSE)
        groups = dict(zip(static["unique_id"], cells, strict=True))
        found = fitted.predict_total(prefix, static, by=groups, **ask)
        assert found["group"].is_null().sum() == 1
        np.testing.assert_allclose(found["statecast-mean"].sum(), whole, rtol=CLOSE)


def test_columns_of_groups_keep_their_type(fitted):
    prefix, static = _whole_prefixes()
    days = [dt.date(2024, 1, 1 + item % 3) for item in static["unique_id"]]
    kinds = static.with_columns(
        shop=pl.col("group").cast(pl.Categorical), code=(pl.col("unique_id") % 2).cast(pl.Int8)
    ).with_columns(day=pl.Series(days))
    ask: dict[str, Any] = {"by": ["shop", "code", "day"], "until": T, "paths": 5}
    found = fitted.predict_total(prefix, kinds, **ask)
    assert found.select(ask["by"]).schema == kinds.select(ask["by"]).schema
    frame = kinds.to_pandas()
    frame["shop"] = frame["shop"].astype("category")
    of_pandas = fitted.predict_total(prefix.to_pandas(), frame, **ask)
    assert (of_pandas.dtypes[ask["by"]] == frame.dtypes[ask["by"]]).all()
    assert list(of_pandas.index) == list(range(len(found)))
    arrow = kinds.with_columns(pl.col("shop").cast(pl.String)).to_arrow()
    of_arrow = fitted.predict_total(prefix.to_arrow(), arrow, **ask)
    assert isinstance(of_arrow, pa.Table)
    assert of_arrow.schema.field("day").type == arrow.schema.field("day").type
    for other in (of_pandas, of_arrow):
        np.testing.assert_allclose(other["statecast"], found["statecast"], rtol=CLOSE)


def test_totals_of_arrays_are_arrays():
    y, x = _skewed(), np.arange(40.0)[:, None] % 3
    f = Forecaster(**SMALL).fit(y, x, verbose=0)
    begun = y[:6, :2]
    ask: dict[str, Any] = {"until": 6, "paths": 20}
    each = f.predict_total(begun, x[:6], **ask)
    drawn = f.simulate(begun, x[:6], **ask)
    for name, values in drawn.total().items():
        np.testing.assert_array_equal(each[name], values)
    kinds = np.array([5, 5, 7, 7, np.nan, np.nan])
    more = np.column_stack([x[:6], kinds, np.full(6, 2.0)])
    found = f.predict_total(begun, more, by="x2", weight="x3", **ask)
    np.testing.assert_array_equal(found["x2"], [5, 7, np.nan])
    sums = drawn.totals().reshape(3, 2, 20).sum(axis=1)
    np.testing.assert_allclose(found["statecast"], 2 * np.median(sums, axis=1), rtol=CLOSE)
    of_x1 = f.predict_total(begun, x[:6], by="x1", **ask)
    assert of_x1["x1"].tolist() == [0, 1, 2]
    named = f.predict_total(begun, x[:6], by=dict(zip(range(6), "aabbcc", strict=True)), **ask)
    assert named["group"].tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(2 * named["statecast"], found["statecast"], rtol=CLOSE)


def test_each_target_has_a_total_or_all_have_one():
    f, begun = _of_two()
    drawn = f.simulate(begun, until=6, paths=30)
    groups = {row: row // 3 for row in range(5)}
    for since in (None, 1):
        found = f.predict_total(begun, until=6, paths=30, since=since)
        for name in ("a", "b"):
            expected = drawn.of(name).total(since=since)
            for column, values in expected.items():
                own = column.replace("statecast", f"statecast-{name}")
                np.testing.assert_array_equal(found[own], values)
        assert len(found) == 6
        both = drawn.of("a").totals(since) + drawn.of("b").totals(since)
        ask: dict[str, Any] = {"until": 6, "paths": 30, "since": since, "across_targets": True}
        one = f.predict_total(begun, mean=True, **ask)
        assert list(one) == ["statecast", "statecast-lo-80", "statecast-hi-80", "statecast-mean"]
        np.testing.assert_allclose(one["statecast"], np.median(both, axis=1), rtol=CLOSE)
        np.testing.assert_allclose(one["statecast-mean"], both.mean(axis=1), rtol=CLOSE)
        grouped = f.predict_total(begun, by=groups, **ask)
        sums = np.stack([both[:3].sum(axis=0), both[3:].sum(axis=0)])
        np.testing.assert_allclose(grouped["statecast"], np.median(sums, axis=1), rtol=CLOSE)


def test_a_path_that_has_ended_counts_as_nothing():
    rng = np.random.default_rng(0)
    y = 10 + rng.normal(size=(60, 8)).cumsum(axis=1)
    y[np.arange(8) >= rng.integers(2, 9, 60)[:, None]] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.DataWarning)
        f = Forecaster(**SMALL, ends=True).fit(y, verbose=0)
    drawn = f.simulate(y[:6, :1], until=8, paths=200)
    sums = np.nansum(drawn.values, axis=2)
    assert np.isnan(drawn.values[..., -1]).any()
    found = f.predict_total(y[:6, :1], until=8, paths=200, mean=True)
    np.testing.assert_allclose(found["statecast"], np.median(sums, axis=1), rtol=CLOSE)
    np.testing.assert_allclose(found["statecast-mean"], sums.mean(axis=1), rtol=CLOSE)
    # The mean of `predict` is that of an item that goes on, so its sum is larger.
    means = f.predict(y[:6, :1], until=8, mean=True)["statecast-mean"][:, 1:].sum(axis=1)
    assert (means > found["statecast-mean"]).all()


def test_closed_days_and_items_without_a_date(untrained):
    monday = dt.date(2024, 3, 4)
    rows = [(i, monday + dt.timedelta(i % 6 + d), 100.0) for i in range(12) for d in range(20)]
    series = pl.DataFrame(rows, schema=["unique_id", "ds", "y"], orient="row")
    series = series.filter(pl.col("ds").dt.weekday() < 7)
    static = pl.DataFrame({"unique_id": range(13), "x": np.arange(13.0)})
    with pytest.warns(errors.DataWarning, match="Sundays"):
        f = Forecaster(**SMALL, transform="none", analogues=False).fit(
            series, static.head(12), verbose=0
        )
    begun = series.filter(pl.col("ds") < monday + dt.timedelta(8))
    for since in (None, 1):
        found = f.predict_total(begun, static.head(12), until=14, paths=20, since=since)
        drawn = f.simulate(begun, static.head(12), until=14, paths=20)
        assert found.equals(drawn.total(since=since))
    assert (found["statecast"] < 13 * 100 * 1.5).all()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        whole = f.predict_total(begun, static, by=[], until=14, paths=20, mean=True)
    assert sum("no date" in str(each.message) for each in caught) == 1
    with pytest.warns(errors.DataWarning, match="no date"):
        means = f.predict(begun, static, until=14, mean=True)["statecast-mean"].to_numpy()
    np.testing.assert_allclose(whole["statecast-mean"], means.sum(), rtol=1e-2)


def test_an_item_that_is_observed_to_the_end_counts_with_its_observations(fitted):
    series, static = curve_tables()
    gaps = series.group_by("unique_id").agg(pl.len()).filter(pl.col("len") == T)
    whole = gaps["unique_id"].sort().to_list()
    series = series.filter(pl.col("unique_id").is_in(whole))
    static = static.filter(pl.col("unique_id").is_in(whole))
    done = pl.col("unique_id") == whole[0]
    begun = series.filter(done | (pl.col("ds") <= 3))
    ask: dict[str, Any] = {"until": T, "paths": 20}
    later = fitted.predict_total(begun, static, **ask)
    assert columns_of(later.filter(done)).tolist() == [[0.0, 0.0, 0.0]]
    found = fitted.predict_total(begun, static, since=1, **ask).filter(done)
    seen = series.filter(done)["y"].to_numpy().sum()
    np.testing.assert_allclose(columns_of(found), seen, rtol=CLOSE)
    with pytest.raises(errors.DataError, match="beyond every item's prefix"):
        fitted.predict_total(begun, static, strict=True, **ask)


# -- errors ----------------------------------------------------------------------------


def test_what_cannot_be_totalled_is_refused_before_any_path(fitted, monkeypatch, tmp_path):
    series, static = curve_tables()
    prefix = mixed_prefixes(series, 2)
    state = fitted.state(prefix, static)
    ids = list(range(ROWS))
    sized = static.with_columns(size=pl.Series([None, *map(float, range(1, ROWS))]))

    def never(*_, **__):
        raise AssertionError("a path was drawn")

    monkeypatch.setattr(fitted, "_draw", never)
    table = pl.DataFrame({"unique_id": ids, "shop": ids})
    tables, whole = {"series": prefix, "static": static}, dict.fromkeys(ids, 1.0)
    cases = [
        (tables, {"since": 1}, errors.DataError, "was not observed at step"),
        (tables, {"since": T + 1}, errors.ArgumentError, "since: expected a step from 1 to 8"),
        ({"state": state}, {"since": 1}, errors.ArgumentError, "does not hold the observations"),
        (tables, {"by": "shop"}, errors.DataError, "expected a column 'shop'"),
        (tables, {"by": ["group", "group"]}, errors.ArgumentError, "'group' is there twice"),
        (tables, {"by": 5}, errors.ArgumentError, "by: expected the name .* received int"),
        (tables, {"by": lambda item: item}, errors.ArgumentError, "by: .* received function"),
        (tables, {"by": [1, 2]}, errors.ArgumentError, "by: expected the name of a column"),
        (tables, {"by": np.zeros(ROWS)}, errors.ArgumentError, "by: expected the name of a"),
        (tables, {"by": {0: "a"}}, errors.DataError, "by: .* there is none for item 1"),
        (tables, {"by": table.head(3)}, errors.DataError, "there is none for item 3"),
        (tables, {"by": pl.concat([table, table])}, errors.DataError, "one row for each item"),
        (tables, {"by": table.select("unique_id")}, errors.DataError, "a column of groups"),
        (tables, {"by": table.select("shop")}, errors.DataError, "expected a column 'unique_id'"),
        (tables, {"by": tmp_path / "no.csv"}, errors.DataError, "expected a file; there is none"),
        (
            tables,
            {"by": {item: [item] for item in ids}},
            errors.DataError,
            "column 'group': expected names of groups",
        ),
        ({"state": state}, {"by": "group"}, errors.ArgumentError, "by: expected a static table"),
        ({"state": state}, {"weight": "level"}, errors.ArgumentError, "weight: expected a static"),
        (tables, {"weight": "size"}, errors.DataError, "expected a column 'size'"),
        (tables, {"weight": "group"}, errors.DataError, "weight: expected a number .* item 0"),
        (tables | {"static": sized}, {"weight": "size"}, errors.DataError, "item 0 has None"),
        (tables, {"weight": {0: 1.0}}, errors.DataError, "weight: .* none for item 1"),
        (tables, {"weight": whole | {3: np.inf}}, errors.DataError, "item 3 has inf"),
        (tables, {"weight": whole | {3: "x"}}, errors.DataError, "item 3 has 'x'"),
        (tables, {"weight": table.head(3)}, errors.DataError, "weight: .* none for item 3"),
        (tables, {"weight": sized}, errors.DataError, "one column of weights .* 'level'"),
        (tables, {"weight": table.select("unique_id")}, errors.DataError, "received none"),
        (tables, {"weight": table.select("shop")}, errors.DataError, "a column 'unique_id'"),
        (tables, {"weight": table.with_columns(shop=pl.lit("x"))}, errors.DataError, "has 'x'"),
        (tables, {"weight": tmp_path / "no.csv"}, errors.DataError, "weight table .* a file"),
        (tables, {"weight": [1.0, 2.0]}, errors.ArgumentError, "an array of shape"),
        (tables, {"weight": 2.0}, errors.ArgumentError, "an array of shape"),
        (tables, {"across_targets": 1}, errors.ArgumentError, "across_targets: expected True"),
        (tables, {"paths": 0}, errors.ArgumentError, "paths: expected a whole number"),
        (tables, {"paths": 10**9}, errors.ArgumentError, "paths: expected at most"),
        (tables, {"level": 0}, errors.ArgumentError, "level: expected percent"),
        ({**tables, "state": state}, {}, errors.ArgumentError, "received both"),
    ]
    for given, options, error, message in cases:
        with pytest.raises(error, match=message):
            fitted.predict_total(**given, until=T, **options)
    monkeypatch.undo()
    clash = table.rename({"shop": "statecast"})
    with pytest.raises(errors.ArgumentError, match="'statecast' is also a column"):
        fitted.predict_total(**tables, until=T, by=clash, paths=5)
    with pytest.raises(errors.ArgumentError, match="until or h"):
        fitted.predict_total(**tables)
    with pytest.raises(errors.NotFittedError):
        Forecaster().predict_total(prefix, static, until=T)


def test_the_default_number_of_paths_is_that_of_the_levels_of_a_mean():
    given = inspect.signature(Forecaster.predict_total).parameters["paths"]
    assert given.default == paths.MEAN_LEVELS


def test_columns_that_only_a_total_uses_are_no_features():
    series, static = curve_tables()
    f = fit_curves(series)
    groups = static.select("unique_id", "group", size=2.0)
    found = f.predict_total(
        series.filter(pl.col("ds") <= 2), groups, by="group", weight="size", h=2
    )
    expected = f.predict_total(
        series.filter(pl.col("ds") <= 2), h=2, by=groups.select("unique_id", "group")
    )
    np.testing.assert_allclose(columns_of(found), 2 * columns_of(expected), rtol=CLOSE)
