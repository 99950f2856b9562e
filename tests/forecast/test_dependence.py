"""The dependence between the items of a group: its estimate, and the order of paths."""

import copy
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

from statecast import Forecaster, errors
from statecast.forecast import forecaster
from statecast.forecast.dependence import Dependence, known_in_time, normal_scores

SMALL: dict[str, Any] = {"units": 4, "ensemble": 8, "epochs": 2}  # every item is held out
KNOWN = np.array([0, 1, 3])


def _loading(f: Forecaster) -> np.ndarray:
    dependence = f._companions.dependence
    assert dependence is not None
    return dependence.loading


def _known(begin: np.ndarray, mask: np.ndarray, targets: int = 1) -> list[int]:
    found = known_in_time(begin, mask, targets)
    assert found is not None
    return found.tolist()


def _scores(loadings, groups=400, each=4, seed=0):
    """Scores of the one-factor model; an item's loading is that of its prefix length."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(1, groups + 1), each)
    known = rng.choice(KNOWN, len(group))
    a = np.asarray(loadings)[np.searchsorted(KNOWN, known)]
    common = rng.normal(size=groups)[group - 1]
    return group, known, a * common + np.sqrt(1 - a**2) * rng.normal(size=len(group))


def _draws(rows, shared, paths=4000):
    """Random numbers by row; those of groups are the same for all rows."""
    keys = np.zeros(len(rows), int) if shared else rows + 1
    return np.stack([np.random.default_rng([key, 9]).random(paths) for key in keys])


# -- the estimate ----------------------------------------------------------------------


@pytest.mark.parametrize("loadings", [(0.5, 0.5, 0.5), (0.2, 0.6, 0.8), (0.0, 0.7, 0.7)])
def test_the_loadings_of_a_one_factor_model_are_found(loadings):
    found = Dependence.fit(KNOWN, [_scores(loadings, groups=4000)])
    np.testing.assert_allclose(found.loading, loadings, atol=0.08)


@pytest.mark.parametrize("deviations", [(1.0, 1.0, 1.0), (1.4, 1.2, 1.0), (0.7, 0.8, 0.9)])
def test_the_spread_is_the_deviation_of_scores_in_time_and_never_below_1(deviations):
    group, known, score = _scores((0.5, 0.5, 0.5), groups=4000)
    score = score * np.asarray(deviations)[np.searchsorted(KNOWN, known)]
    found = Dependence.fit(KNOWN, [(group, known, score)], in_time=True)
    np.testing.assert_allclose(found.spread, np.maximum(deviations, 1.0), atol=0.05)
    held_out = Dependence.fit(KNOWN, [(group, known, score)])
    np.testing.assert_array_equal(held_out.spread, 1.0)


def test_few_groups_have_no_spread_and_large_scores_a_limited_one():
    group, known, score = _scores((0.5, 0.5, 0.5), groups=7)
    few = Dependence.fit(KNOWN, [(group, known, 3 * score)], in_time=True)
    np.testing.assert_array_equal(few.spread, 1.0)
    np.testing.assert_array_equal(Dependence.fit(KNOWN, [], in_time=True).spread, 1.0)
    group, known, score = _scores((0.5, 0.5, 0.5), groups=1000)
    many = Dependence.fit(KNOWN, [(group, known, 9 * score)], in_time=True)
    np.testing.assert_array_equal(many.spread, 3.0)


def test_several_forecasts_of_the_same_items_are_never_paired_with_each_other():
    """Two forecasts of an item are not two items."""
    group, known, score = _scores((0.0, 0.0, 0.0), groups=1000, each=1)
    found = Dependence.fit(KNOWN, [(group, known, score)] * 5)
    assert not found.loading.any()


def test_few_pairs_give_no_or_little_dependence():
    for groups, most in ((1, 0.0), (2, 0.0), (7, 0.0), (8, 0.9), (100, 0.4)):
        for seed in range(20):
            scores = _scores((0.0, 0.0, 0.0), groups=groups, each=2, seed=seed)
            assert Dependence.fit(KNOWN, [scores]).loading.max() <= most
    alone = _scores((0.9, 0.9, 0.9), each=1)
    assert not Dependence.fit(KNOWN, [alone]).loading.any()
    assert not Dependence.fit(KNOWN, []).loading.any()


def test_a_negative_dependence_counts_as_none():
    group, known, score = _scores((0.0, 0.0, 0.0), each=2)
    score[1::2] = -score[::2]
    assert not Dependence.fit(KNOWN, [(group, known, score)]).loading.any()


def test_items_in_no_group_are_not_paired():
    group, known, score = _scores((0.8, 0.8, 0.8))
    assert not Dependence.fit(KNOWN, [(np.zeros_like(group), known, score)]).loading.any()


def test_what_was_known_at_the_time_when_half_was_observed():
    mask = np.ones((4, 4), bool)
    begin = np.array([10.0, 11.0, 12.0, 13.0])  # times 10 to 16; 6 values up to 12, 10 up to 13
    assert _known(begin, mask) == [3, 2, 1, 0]
    assert _known(begin, np.repeat(mask, 2, axis=1), 2) == [6, 4, 2, 0]
    assert _known(begin + 1e6, mask) == [3, 2, 1, 0]
    begin[3] = np.nan
    assert _known(begin, mask)[3] < 0
    assert known_in_time(np.zeros(2), np.ones((2, 1), bool), 1) is None


def test_normal_scores_are_those_of_ranks():
    rng = np.random.default_rng(0)
    samples, truth = rng.normal(size=(3000, 99)), rng.normal(size=3000)
    score = normal_scores(samples, truth)
    assert abs(score.mean()) < 0.06
    assert abs(np.std(score) - 1) < 0.06
    assert normal_scores(np.zeros((1, 9)), np.zeros(1)) == pytest.approx(0.0)  # ties are halved


# -- the order -------------------------------------------------------------------------


def test_the_order_keeps_every_path_and_gives_the_correlation():
    rng = np.random.default_rng(1)
    totals = np.exp(rng.normal(size=(3, 4000)))
    dependence = Dependence(KNOWN, np.array([0.5, 0.8, 0.9]), np.ones(3))
    known = np.array([0, 1, 7])
    order = dependence.order(totals, np.full(3, 5), known, _draws)
    assert (np.sort(order, axis=1) == np.arange(4000)).all()
    ranks = np.take_along_axis(totals, order, axis=1).argsort(axis=1).argsort(axis=1)
    above = np.triu_indices(3, 1)
    expected = np.outer(dependence.loading, dependence.loading)[above]
    # The rank correlation of a Gaussian copula (Pearson 1907).
    np.testing.assert_allclose(
        np.asarray(np.corrcoef(ranks))[above], 6 / np.pi * np.arcsin(expected / 2), atol=0.05
    )


def test_each_row_has_the_order_of_its_own_totals():
    """Also if the rows before it are in no group."""
    totals = np.random.default_rng(6).normal(size=(4, 4000))
    dependence, known = Dependence(KNOWN, np.full(3, 0.9), np.ones(3)), np.zeros(4, int)
    group = np.array([0, 7, 0, 7])
    order = dependence.order(totals, group, known, _draws)
    ranks = np.take_along_axis(totals, order, axis=1).argsort(axis=1).argsort(axis=1)
    correlation = np.asarray(np.corrcoef(ranks))
    assert correlation[1, 3] > 0.7
    assert abs(correlation[0, 1]) < 0.2


def test_without_a_group_or_a_loading_the_order_is_unchanged():
    totals = np.random.default_rng(2).normal(size=(2, 50))
    dependence = Dependence(KNOWN, np.array([0.0, 0.8, 0.9]), np.ones(3))
    order = dependence.order(totals, np.array([0, 3]), np.array([1, 0]), _draws)
    assert (order == np.arange(50)).all()


# -- a forecaster ----------------------------------------------------------------------


def _tables(groups=40, each=3, steps=6, seed=0, shock=3.0):
    """Items of groups; all items of a group have the same change after step 3."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), each)
    y = rng.normal(size=(len(group), 1)) + 0.3 * rng.normal(size=(len(group), steps))
    y[:, 3:] += shock * rng.normal(size=(groups, 1))[group]
    row, step = np.indices(y.shape)
    series = pl.DataFrame({"unique_id": row.ravel(), "ds": step.ravel() + 1, "y": 20 + y.ravel()})
    static = pl.DataFrame({"unique_id": np.arange(len(group)), "g": [f"g{i}" for i in group]})
    return series, static.with_columns(x=pl.Series(rng.normal(size=len(group))))


@cache
def _fitted():
    series, static = _tables()
    return Forecaster(**SMALL, group_col="g").fit(series, static, verbose=0)


def _begun(items=12, k=2):
    series, static = _tables()
    of = pl.col("unique_id") < items
    return series.filter(of & (pl.col("ds") <= k)), static.filter(of)


def test_shared_shocks_are_found_and_widen_the_totals_of_groups():
    f, (begun, static) = _fitted(), _begun()
    assert _loading(f).max() > 0.5
    alone = static.with_columns(h="g").with_columns(g=pl.lit(None, pl.String))
    together = f.predict_total(begun, static, until=6, by="g")
    apart = f.predict_total(begun, alone, until=6, by="h")
    width = [t["statecast-hi-80"] - t["statecast-lo-80"] for t in (together, apart)]
    assert (width[0] > 1.2 * width[1]).all()
    # The distribution of an item's total is the same.
    items = f.predict_total(begun, static, until=6, mean=True)
    free = f.predict_total(begun, alone.drop("h"), until=6, mean=True)
    quantiles = pl.col("^statecast(-lo-80|-hi-80)?$")
    assert items.select(quantiles).equals(free.select(quantiles))
    np.testing.assert_allclose(items["statecast-mean"], free["statecast-mean"], rtol=1e-12)


def test_a_forecast_is_wider_by_the_spread_of_its_prefix_length():
    f, levels = _fitted(), [0.1, 0.5, 0.8]
    dependence = f.dependence
    assert dependence is not None
    spread = np.linspace(1.0, 2.0, len(dependence.known))
    wider = copy.copy(f)
    wider._companions = replace(f._companions, dependence=replace(dependence, spread=spread))
    for at, k in enumerate(dependence.known.tolist()):
        panel = f.schema.panel(*_begun(k=k))
        low, middle, high = np.moveaxis(f.quantiles(panel, 6, levels)[:, k:], -1, 0)
        found = np.moveaxis(wider.quantiles(panel, 6, levels)[:, k:], -1, 0)
        for one, other in zip(found, (low, middle, high), strict=True):
            np.testing.assert_allclose(one, middle + spread[at] * (other - middle), atol=1e-4)
        raw = [each.quantiles(panel, 6, levels, calibrated=False) for each in (f, wider)]
        np.testing.assert_array_equal(raw[0], raw[1])


def test_an_item_has_the_same_paths_in_another_order():
    f, (begun, static) = _fitted(), _begun()
    drawn = f.simulate(begun, static, until=6, paths=50).values
    alone = static.with_columns(g=pl.lit(None, pl.String))
    free = f.simulate(begun, alone, until=6, paths=50).values
    assert (drawn != free)[:, :, 2:].any()
    for one, other in zip(drawn[..., 2:], free[..., 2:], strict=True):
        assert sorted(one.tolist()) == sorted(other.tolist())
    assert f.predict(begun, static, until=6).equals(f.predict(begun, alone, until=6))


def test_the_other_items_of_a_call_change_nothing(monkeypatch):
    f, (begun, static) = _fitted(), _begun()
    drawn = f.simulate(begun, static, until=6, paths=50).values
    order = np.random.default_rng(3).permutation(len(static))
    shuffled = f.simulate(begun, static[order], until=6, paths=50).values
    np.testing.assert_array_equal(shuffled, drawn[order])
    for item in range(len(static)):
        own = pl.col("unique_id") == item
        one = f.simulate(begun.filter(own), static.filter(own), until=6, paths=50).values
        np.testing.assert_array_equal(one[0], drawn[item])
    total = f.predict_total(begun, static, until=6, by="g", paths=50)
    monkeypatch.setattr(forecaster, "MOST_VALUES", 1)
    assert total.equals(f.predict_total(begun, static, until=6, by="g", paths=50))


def test_a_state_an_update_and_a_file_keep_the_group(tmp_path):
    f, (begun, static) = _fitted(), _begun()
    drawn = f.simulate(begun, static, until=6, paths=50).values
    first, second = begun.filter(pl.col("ds") == 1), begun.filter(pl.col("ds") == 2)
    state = f.update(f.state(first, static), second)
    np.testing.assert_array_equal(f.simulate(state=state, until=6, paths=50).values, drawn)
    f.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model")
    np.testing.assert_array_equal(again.simulate(begun, static, until=6, paths=50).values, drawn)
    assert again.settings.group_col == again.schema.group_col == "g"
    state.save(tmp_path / "state")
    kept = type(state).load(tmp_path / "state")
    np.testing.assert_array_equal(f.simulate(state=kept, until=6, paths=50).values, drawn)


def test_groups_may_be_whole_numbers_in_any_table_and_in_an_array(tmp_path):
    begun, static = _begun()
    numbers = static.with_columns(pl.col("g").str.slice(1).cast(pl.Int64))
    series, every = _tables()
    coded = every.with_columns(pl.col("g").str.slice(1).cast(pl.Int64))
    g = Forecaster(**SMALL, group_col="g").fit(series, coded, verbose=0)
    drawn = g.simulate(begun, numbers, until=6, paths=20).values
    begun.write_csv(tmp_path / "begun.csv")
    numbers.write_csv(tmp_path / "static.csv")
    files = (str(tmp_path / "begun.csv"), str(tmp_path / "static.csv"))
    np.testing.assert_array_equal(g.simulate(*files, until=6, paths=20).values, drawn)
    floats = numbers.with_columns(pl.col("g").cast(pl.Float64))
    np.testing.assert_array_equal(g.simulate(begun, floats, until=6, paths=20).values, drawn)
    y = series.pivot("ds", index="unique_id", values="y").drop("unique_id").to_numpy()
    x = coded.select("g", "x").to_numpy().astype(float)
    h = Forecaster(**SMALL, group_col="x1").fit(y, x, verbose=0)
    assert h.schema.static.kinds == {"x2": "numeric"}
    found = h.simulate(y[:12, :2], x[:12], until=6, paths=20).values
    np.testing.assert_allclose(found, drawn, rtol=1e-5)


def test_shocks_in_time_are_found_by_forecasts_in_time(caplog):
    """Later items of a group show a shock to the others; only forecasts in time do not see it."""
    rng = np.random.default_rng(0)
    groups, each, steps = 30, 6, 6
    shock = 0.7 * rng.normal(size=(groups, each + steps)).cumsum(axis=1)
    rows = [
        (f"{g}-{a}", s + 1, 20 + shock[g, a + s] + 0.3 * rng.normal())
        for g in range(groups)
        for a in range(each)
        for s in range(min(steps, each + 2 - a))
    ]
    series = pl.DataFrame(rows, ["unique_id", "ds", "y"], orient="row")
    static = series.select(pl.col("unique_id").unique(maintain_order=True)).with_columns(
        g=pl.col("unique_id").str.split("-").list[0],
        start=pl.col("unique_id").str.split("-").list[1].cast(pl.Int64) + 2001,
    )
    f = Forecaster(**SMALL, group_col="g", origin_col="start").fit(series, static, verbose=0)
    assert _loading(f).max() > 0.4
    assert not f.schema.static.kinds  # neither column is a feature
    # Dates give the time of step 1 themselves.
    dated = series.join(static, on="unique_id").with_columns(
        ds=pl.date(pl.col("start") + pl.col("ds") - 1, 1, 1)
    )
    with caplog.at_level("INFO", logger="statecast"):
        d = Forecaster(**SMALL, group_col="g").fit(
            dated.select("unique_id", "ds", "y"), static.drop("start"), verbose=2
        )
    # Both trainings show their progress.
    words = [line.split()[0] for line in caplog.messages]
    training = ["Training,", "Training,", "Trained"]
    told = [word for word in words if word in (*training, "Forecasts")]
    assert told == [*training, "Forecasts", *training]
    np.testing.assert_allclose(_loading(d), _loading(f), atol=0.02)
    # ``predict`` needs no time.
    late = series.filter(pl.col("ds") == 1)
    assert f.predict(late, static.drop("start"), until=3).equals(f.predict(late, static, until=3))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (pl.lit(None, pl.Int64), "'start': 0 of .* items have a time of step 1, and no time"),
        (pl.when(pl.col("unique_id") < 4).then(pl.col("unique_id")), "at least 8 held-out items"),
    ],
)
def test_unknown_times_are_no_silent_change_of_the_estimate(times, message):
    series, static = _tables(groups=10)
    timed = Forecaster(**SMALL, group_col="g", origin_col="start")
    with pytest.warns(errors.DataWarning, match=message):
        timed.fit(series, static.with_columns(start=times), verbose=0)
    plain = Forecaster(**SMALL, group_col="g").fit(series, static, verbose=0)
    found, expected = (f._companions.arrays()["dependence/loading"] for f in (timed, plain))
    assert found.tolist() == expected.tolist()


def test_several_targets_and_ends():
    series, static = _tables()
    two = series.with_columns(z=-pl.col("y"))
    f = Forecaster(**SMALL, target_col=["y", "z"], group_col="g").fit(two, static, verbose=0)
    begun = two.filter(pl.col("ds") <= 2)
    drawn = f.simulate(begun, static, until=6, paths=40).values
    alone = static.with_columns(g=pl.lit(None, pl.String))
    free = f.simulate(begun, alone, until=6, paths=40).values
    for one, other in zip(drawn[:6], free[:6], strict=True):  # whole paths of both targets
        assert sorted(one[:, 2:].tolist()) == sorted(other[:, 2:].tolist())
    short = series.filter(pl.col("ds") <= 4 + pl.col("unique_id") % 3)
    g = Forecaster(**SMALL, ends=True, group_col="g").fit(short, static, verbose=0)
    assert np.isnan(g.simulate(_begun()[0], _begun()[1], until=6, paths=40).values).any()


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"group_col": "h"}, {}, "expected the column 'h' of groups, as group_col says"),
        ({"group_col": "g", "origin_col": "t"}, {}, "expected the column 't' of times"),
        ({"group_col": "g", "origin_col": "x"}, {}, "a whole number in the unit of the steps"),
        (
            {"group_col": "g", "origin_col": "x"},
            {"x": pl.lit("early")},
            "the time of step 1, .* received 'early'",
        ),
        (
            {"group_col": "g", "origin_col": "x"},
            {"x": pl.date(2000, 1, 1)},
            "the time of step 1, .* received datetime.* if steps are dates, leave origin_col out",
        ),
        (
            {"group_col": "x"},
            {},
            "expected categories: text, whole numbers or booleans.*Convert the column.$",
        ),
        (
            {"group_col": "g", "origin_col": "x"},
            {"x": pl.lit(10**13)},
            r"from -1e\+12 to 1e\+12; received 10000000000000.0",
        ),
        ({"group_col": "g", "origin_col": "g"}, {}, "origin_col: expected a column"),
        ({"group_col": "unique_id"}, {}, "group_col: expected a column"),
        ({"group_col": "g"}, {"static": None}, "Expected a static table with the column 'g'"),
        (
            {"group_col": "g", "origin_col": "x"},
            {"ds": pl.date(2000 + pl.col("ds"), 1, 1)},
            "expected numbers, as origin_col='x' is given; received dates",
        ),
    ],
)
def test_wrong_groups_and_times_are_refused(settings, change, message):
    series, static = _tables(groups=10)
    if "ds" in change:
        series = series.with_columns(ds=change["ds"])
        static = static.with_columns(x=pl.lit(1))
    elif "x" in change:
        static = static.with_columns(x=change["x"])
    given = None if "static" in change else static
    with pytest.raises((errors.DataError, errors.ArgumentError), match=message):
        Forecaster(**SMALL, **settings).fit(series, given, verbose=0)


@pytest.mark.parametrize(
    ("groups", "each", "ensemble", "message"),
    [
        (7, 3, 8, "received 7"),
        (8, 3, 8, None),
        (30, 1, 8, "received 0"),
        (20, 4, 1, "A larger ensemble"),
    ],
)
def test_too_few_groups_give_a_warning(groups, each, ensemble, message):
    series, static = _tables(groups, each)
    f = Forecaster(**(SMALL | {"ensemble": ensemble, "epochs": 1}), group_col="g")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        f.fit(series, static, verbose=0)
    given = [str(each.message) for each in caught if "Column 'g'" in str(each.message)]
    assert len(given) == (message is not None)
    if message is not None:
        assert message in given[0]
        assert not _loading(f).any()


def test_a_time_without_a_group_is_refused():
    with pytest.raises(errors.ArgumentError, match="origin_col: expected group_col too"):
        Forecaster(origin_col="start")


def test_a_forecast_needs_the_groups():
    f, (begun, static) = _fitted(), _begun()
    with pytest.raises(errors.DataError, match="expected the column 'g' of groups"):
        f.predict(begun, static.drop("g"), until=6)
    with pytest.raises(errors.DataError, match="Expected a static table"):
        f.predict(begun, until=6)


def test_damaged_arrays_are_refused():
    good = Dependence(KNOWN, np.array([0.1, 0.2, 0.3]), np.array([1.0, 1.5, 2.0])).arrays()
    assert Dependence.from_arrays(good, 6).loading.tolist() == [0.1, 0.2, 0.3]
    wrong = ({"loading": np.array([0.1, 0.2, 1.0])}, {"loading": np.array([0.1, np.nan, 0.3])})
    wrong += ({"spread": np.array([1.0, 0.9, 1.0])}, {"spread": np.array([1.0, np.nan, 1.0])})
    wrong += ({"loading": np.zeros(2)}, {"known": np.array([0, 3, 1])}, {"more": np.zeros(1)})
    for change in wrong:
        with pytest.raises(ValueError, match="dependence"):
            Dependence.from_arrays(good | change, 6)
