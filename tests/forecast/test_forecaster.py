"""The forecaster: any k, no effect of other rows, gaps are not zeros, heads and feedback."""

import json
import struct
import warnings
from dataclasses import asdict, replace
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curves import (
    CLOSE,
    ROWS,
    T,
    assert_agree,
    assert_same,
    columns_of,
    curve_tables,
    few,
    fit_curves,
    forecast_of,
    mixed_prefixes,
    prefixes_of,
)
from statecast import errors
from statecast.forecast.forecaster import Forecaster


@pytest.mark.parametrize("level", [0.0, 1e9, -1e12])
def test_a_constant_added_to_y_is_added_to_forecasts_and_paths(untrained, level):
    """Of any size: what is forecast is the spread, as float64 resolves it."""
    Y = np.rint(64 * np.random.default_rng(0).normal(0, 0.7, (72, T))) / 64
    near, far = (fit_curves(Y + c, transform="none") for c in (0.0, level))
    more: dict[str, Any] = {"until": T, "level": [80, 95]}
    rounding = 1e-5 + 8 * np.finfo(float).eps * abs(level)
    prefix = Y[:4, :3]
    one, other = near.predict(prefix, **more), far.predict(prefix + level, **more)
    paths = [f.simulate(prefix + c, until=T, paths=8) for f, c in ((near, 0.0), (far, level))]
    for name, values in one.items():
        np.testing.assert_allclose(other[name] - level, values, atol=rounding)
    assert paths[1].values.dtype == np.float64
    np.testing.assert_allclose(paths[1].values - level, paths[0].values, atol=rounding)


@few
@given(item=st.integers(0, ROWS - 1), k=st.integers(0, T - 1))
def test_a_forecast_does_not_depend_on_other_rows(fitted, item, k):
    """Alone, among others, and beside items 100 times larger."""
    series, static = curve_tables()
    own, own_static = pl.col("unique_id") == item, static.filter(pl.col("unique_id") == item)
    mine = series.filter(own & (pl.col("ds") <= k))
    alone = forecast_of(fitted, mine, own_static)
    big, big_static = curve_tables(seed=9, scale=100.0)
    apart = pl.col("unique_id") + 1000
    for others, others_static in [
        (series.filter(~own), static.filter(~own)),
        (big.with_columns(apart), big_static.with_columns(apart)),
    ]:
        among = forecast_of(
            fitted, pl.concat([others, mine]), pl.concat([others_static, own_static]), until=T + 1
        )
        assert_same(among.filter(own & (pl.col("ds") <= T)), alone)


@few
@given(seed=st.integers(0, 1000))
def test_one_call_with_mixed_k_is_a_call_per_k(fitted, seed):
    series, static = curve_tables()
    prefix = mixed_prefixes(series, seed)
    together = forecast_of(fitted, prefix, static)
    lengths = dict(prefix.group_by("unique_id").agg(pl.col("ds").max()).iter_rows())
    for k in range(T):
        ids = [i for i in range(ROWS) if lengths.get(i, 0) == k]
        inside = pl.col("unique_id").is_in(ids)
        if ids:
            per_k = forecast_of(fitted, prefix.filter(inside), static.filter(inside))
            assert_same(together.filter(inside), per_k)


def test_no_series_and_an_item_without_rows_are_k_0(fitted):
    series, static = curve_tables()
    some = series.filter((pl.col("unique_id") != 3) & (pl.col("ds") == 1))
    item = pl.col("unique_id") == 3
    assert_same(
        forecast_of(fitted, some, static).filter(item),
        forecast_of(fitted, None, static).filter(item),
    )


@pytest.mark.parametrize("kind", ["polars", "pandas", "objects", "arrow", "lazy", "csv", "parquet"])
def test_a_series_without_rows_is_k_0_for_all_items(fitted, kind, tmp_path):
    """As in a loop over k: ``series.filter(ds <= k)`` from k = 0 on."""
    series, static = curve_tables()
    none = series.filter(pl.col("ds") <= 0)
    name = tmp_path / f"none.{kind}"
    if kind in ("csv", "parquet"):
        getattr(none, f"write_{kind}")(name)
    given: Any = {
        "polars": none,
        "pandas": none.to_pandas(),
        "objects": none.to_pandas().astype(object),
        "arrow": none.to_arrow(),
        "lazy": none.lazy(),
    }.get(kind, name)
    from_nothing = fitted.predict(None, static, until=T)
    found = nw.from_native(fitted.predict(given, static, until=T)).to_polars()
    assert found.equals(from_nothing)
    state = fitted.state(given, static)
    assert state == fitted.state(None, static)
    assert fitted.update(state, given) == state  # nothing new
    drawn, expected = (fitted.simulate(s, static, until=T, paths=4) for s in (given, None))
    np.testing.assert_array_equal(drawn.values, expected.values)
    with pytest.raises(errors.DataError, match=r"at least one row; .* a static table"):
        Forecaster().fit(given, static)
    with pytest.raises(errors.DataError, match="expected a column 'y'"):
        fitted.predict(none.drop("y"), static, until=T)


def test_arrays_without_steps_are_k_0_for_all_items(fitted):
    f, X = fit_curves(np.random.default_rng(0).normal(size=(20, T)), epochs=1), np.zeros((3, 0))
    np.testing.assert_array_equal(
        f.predict(X, until=T)["statecast"],
        f.predict(np.full((3, 2), np.nan), until=T)["statecast"],
    )


@few
@given(seed=st.integers(0, 1000))
def test_each_item_is_forecast_up_to_its_until(fitted, seed):
    """Rows of the forecast of all steps, in every way to say so; none where it is there already."""
    series, static = curve_tables()
    rng = np.random.default_rng(seed)
    prefix = prefixes_of(series, {i: int(rng.integers(0, T)) for i in range(ROWS)})
    state = fitted.state(prefix, static)
    known = state["step"][:, 0, 0].astype(int)
    until = rng.integers(0, T + 1, ROWS)
    table = pl.DataFrame({"unique_id": np.arange(ROWS), "until": until}).sample(ROWS, shuffle=True)
    whole = forecast_of(fitted, prefix, static).join(table, on="unique_id").sort("unique_id", "ds")
    expected = whole.filter(pl.col("ds") <= pl.col("until")).drop("until")
    each = dict(enumerate(until.tolist()))
    for given_until in (until, until.tolist(), each, table, table.to_pandas()):
        assert_same(forecast_of(fitted, prefix, static, until=given_until), expected)
    assert_same(fitted.predict(state=state, until=each, level=[80, 95]), expected)
    steps = pl.Series(known).gather(whole["unique_id"]) + 2
    ahead = forecast_of(fitted, prefix, static, until=None, h=2)
    assert (ahead["unique_id"].to_numpy() == np.repeat(np.arange(ROWS), 2)).all()
    assert_same(ahead.filter(pl.col("ds") <= T), whole.filter(pl.col("ds") <= steps).drop("until"))
    if (known >= until).any():
        with pytest.raises(errors.DataError, match="already observed up to step"):
            forecast_of(fitted, prefix, static, until=each, strict=True)


def test_paths_and_explanations_go_up_to_each_items_until(fitted):
    series, static = curve_tables()
    prefix = prefixes_of(series, {i: min(i, T) for i in range(ROWS)})
    until = np.where(np.arange(ROWS) % 2, T, 4)
    state = fitted.state(prefix, static)
    known = state["step"][:, 0, 0].astype(int)
    whole = fitted.simulate(prefix, static, until=T, paths=4)
    paths = fitted.simulate(prefix, static, until=until, paths=4)
    late = np.arange(T) >= until[:, None, None]
    expected = np.where(late | (known >= until)[:, None, None], np.nan, whole.values)
    np.testing.assert_allclose(paths.values, expected, rtol=CLOSE)
    from_state = fitted.simulate(state=state, until=until, paths=4)
    np.testing.assert_allclose(paths.values, from_state.values, rtol=1e-4)
    assert (paths.table().group_by("unique_id").len().sort("unique_id")["len"]).to_list() == [
        each for each in np.maximum(until - known, 0) if each
    ]
    ended = np.flatnonzero(known >= until)
    total, peak, time = paths.total(), paths.peak(), paths.time_to(0.0)
    assert (total["statecast"].to_numpy()[ended] == 0).all()  # there is nothing to come
    assert np.isnan(peak["statecast"].to_numpy()[ended]).all()
    assert (time["never"].to_numpy()[ended] == 1).all()
    explained = fitted.explain(prefix, static, until=until)
    assert explained.ids.tolist() == np.flatnonzero(known < until).tolist()
    rest = (np.arange(T) >= explained.known[:, None]) & (np.arange(T) < explained.last[:, None])
    for effect in explained.statics.values():
        np.testing.assert_array_equal(~np.isnan(effect), rest)
    assert not fitted.explain(series, static, until=1).table().height
    nothing, something = (fitted.predict(series, static, until=u) for u in (1, T + 1))
    assert nothing.schema == something.schema
    assert not nothing.height


@pytest.mark.parametrize(
    ("given_until", "message"),
    [
        ({}, "either until or h; received neither"),
        ({"until": T, "h": 1}, "either until or h; received both"),
        ({"h": 0}, "h: expected a whole number from 1"),
        ({"h": 1.5}, "h: expected a whole number from 1"),
        ({"until": True}, "until: expected a whole number from 1"),
        ({"until": {0: 2.5}}, "until: expected a whole number from 1"),
        ({"until": [3]}, f"a step for each of {ROWS} items; received 1"),
        ({"until": {0: 3}}, "there is none for item 1"),
        ({"until": object()}, "received object"),
        ({"until": pl.DataFrame({"unique_id": [0], "until": ["a"]})}, "item 0 has 'a'"),
        ({"until": pl.DataFrame({"unique_id": [0, 0], "until": [1, 2]})}, "one row for each item"),
        ({"until": pl.DataFrame({"unique_id": [0]})}, "expected a column 'until'"),
        ({"until": T, "strict": 1}, "strict: expected True or False"),
    ],
)
def test_a_wrong_until_is_refused(fitted, given_until, message):
    _, static = curve_tables()
    for verb in (fitted.predict, fitted.simulate, fitted.explain):
        with pytest.raises((errors.ArgumentError, errors.DataError), match=message):
            verb(None, static, **given_until)


@pytest.mark.parametrize("given", ["no", 0, None])
def test_a_flag_is_true_or_false(fitted, given):
    _, static = curve_tables()
    with pytest.raises(errors.ArgumentError, match="calibrated: expected True or False; received"):
        fitted.predict(None, static, until=T, calibrated=given)
    with pytest.raises(errors.ArgumentError, match="calibrated: expected True or False"):
        fitted.quantiles(fitted.schema.panel(None, static), T, [0.5], calibrated=given)
    with pytest.raises(errors.ArgumentError, match="falling: expected True or False"):
        fitted.simulate(None, static, until=T, paths=2).time_to(5, falling=given)


def test_what_comes_after_the_prefix_is_unknown(fitted):
    """The rest of the table, cut away, changes nothing: no leak from the future."""
    series, static = curve_tables()
    panel = fitted.schema.panel(series, static)
    levels = [0.1, 0.5, 0.9]
    whole = fitted.quantiles(panel, T, levels)
    for k in (0, 3):
        part = panel.prefix(k)
        cut = fitted.quantiles(part, T, levels)
        hidden = replace(part, y=panel.y)
        np.testing.assert_array_equal(fitted.quantiles(hidden, T, levels), cut)
        begun = np.arange(T) < part.known[:, None]
        np.testing.assert_allclose(cut[begun], whole[begun], rtol=CLOSE)
        assert not np.allclose(cut[:, k + 1 :], whole[:, k + 1 :], rtol=1e-3)


@few
@given(seed=st.integers(0, 1000))
def test_beyond_the_longest_training_item_the_other_laws_hold(fitted, seed):
    """A longer forecast begins with the shorter one, a state goes on as its tables do, prefixes
    may be longer than any training item, and quantiles do not cross."""
    series, static = curve_tables(ROWS, seed)
    k = np.random.default_rng(seed).integers(0, T + 4, ROWS)
    last = series.with_columns(ds=pl.col("ds") + T)  # twice as long
    prefix = prefixes_of(pl.concat([series, last]), dict(enumerate(k.tolist())))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.DataWarning)
        long = forecast_of(fitted, prefix, static, until=5 * T)
        short = forecast_of(fitted, prefix, static, until=2 * T)
        assert_same(long.filter(pl.col("ds") <= 2 * T), short)
        state = fitted.state(prefix, static)
        assert_same(fitted.predict(state=state, until=5 * T, level=[80, 95]), long)
    found = columns_of(long)
    low, high = ([c for c in long.columns if f"-{end}-" in c] for end in ("lo", "hi"))
    middle = long["statecast"].to_numpy()[:, None]
    assert np.isfinite(found).all()
    assert (long.select(low).to_numpy() <= middle).all()
    assert (long.select(high).to_numpy() >= middle).all()


def test_beyond_the_longest_training_item_there_is_one_warning_per_call(fitted):
    _, static = curve_tables()
    with warnings.catch_warnings():
        warnings.simplefilter("error", errors.DataWarning)
        within = fitted.predict(None, static, until=T)
    for verb in (fitted.predict, fitted.simulate, fitted.explain):
        with pytest.warns(errors.DataWarning) as caught:
            beyond = verb(None, static, until=T + 2)
        ours = [each for each in caught if each.category is errors.DataWarning]
        assert [f"which had {T} steps. Nothing was learnt" in str(w.message) for w in ours] == [
            True
        ]
        assert ours[0].filename == __file__
        if verb == fitted.predict:
            assert_same(beyond.filter(pl.col("ds") <= T), within)


def test_one_level_is_a_list_of_one(fitted):
    _, static = curve_tables()
    one, listed = (fitted.predict(None, static, until=T, level=n) for n in (90, [90]))
    assert one.equals(listed)


@pytest.mark.parametrize("none", [None, [], (), np.array([])])
def test_no_level_and_no_quantile_leave_the_median(fitted, none):
    series, static = curve_tables()
    table = fitted.predict(None, static, until=T, level=none, quantiles=none)
    assert table.columns == ["unique_id", "ds", "statecast"]
    paths = fitted.simulate(series.filter(pl.col("ds") <= 1), static, until=T, paths=4)
    for reduced in (paths.total, paths.peak):
        assert "statecast-lo-80" not in reduced(level=none, quantiles=none).columns
    assert paths.time_to(60, level=none, quantiles=none).columns[-2:] == ["statecast", "never"]


@pytest.mark.parametrize("level", [True, "80", b"80", [None], [True], object(), 0.5, np.nan, [100]])
def test_a_wrong_level_is_refused(fitted, level):
    _, static = curve_tables()
    with pytest.raises(errors.ArgumentError, match=r"^level: expected"):
        fitted.predict(None, static, until=T, level=level)


def test_none_is_none_wherever_several_may_be_given(untrained):
    series, static = curve_tables()
    f = Forecaster(past_cols=None).fit(series, static, callbacks=None, verbose=0)
    assert f.settings.past_cols == ()
    level: Any = np.array(90)
    assert f.predict(None, static, until=2, level=level).columns[-1] == "statecast-hi-90"


def test_a_short_prefix_is_not_a_zero_padded_one(fitted):
    _, static = curve_tables()
    one = static.filter(pl.col("unique_id") == 0)
    row = lambda steps, y: pl.DataFrame({"unique_id": 0, "ds": steps, "y": y})  # noqa: E731
    v = 55.0
    short = forecast_of(fitted, row([1], [v]), one).filter(pl.col("ds") > 3)
    padded = forecast_of(fitted, row([1, 2, 3], [0.0, 0.0, v]), one)
    assert (np.abs(columns_of(short) - columns_of(padded)) > 1e-2).any()


def test_a_gap_is_not_a_zero(fitted):
    _, static = curve_tables()
    one = static.filter(pl.col("unique_id") == 0)

    def forecast(y):
        table = pl.DataFrame({"unique_id": 0, "ds": [1, 2, 3], "y": y}, strict=False)
        return columns_of(forecast_of(fitted, table, one))

    gap, nan = forecast([52.0, None, 55.0]), forecast([52.0, float("nan"), 55.0])
    assert np.isfinite(gap).all()
    np.testing.assert_array_equal(gap, nan)
    assert (np.abs(gap - forecast([52.0, 0.0, 55.0])) > 1e-2).any()
    assert (np.abs(gap - forecast([52.0, 53.5, 55.0])) > 1e-4).any()


@pytest.mark.backends
def test_the_laws_hold_at_other_settings(other):
    series, static = curve_tables()
    prefix = mixed_prefixes(series, 4)
    together = forecast_of(other, prefix, static)
    state = other.state(None, static)
    for step in range(1, T):
        new = prefix.filter(pl.col("ds") == step)
        state = other.update(state, new) if not new.is_empty() else state
    assert_same(other.predict(state=state, until=T, level=[80, 95]), together)
    item = pl.col("unique_id") == 5
    alone = forecast_of(other, prefix.filter(item), static.filter(item))
    assert_same(together.filter(item), alone)
    assert np.isfinite(columns_of(together)).all()


def test_a_fork_is_simulated_and_each_of_its_rows_draws_by_itself(fitted):
    series, static = curve_tables()
    state = fitted.state(prefixes_of(series, {0: 3}), static.head(1)).fork(2)
    paths = fitted.simulate(state=state, until=T, paths=6)
    assert paths.ids.tolist() == [0, 1]
    rest = paths.values[..., 3:]
    assert np.isfinite(rest).all()
    assert not np.array_equal(rest[0], rest[1])
    assert fitted.predict(state=state, until=T)["unique_id"].unique().to_list() == [0, 1]


def test_series_too_long_for_a_covariance_have_no_analogues(too_long):
    series, static = curve_tables(seed=1)
    begun = series.filter(pl.col("ds") <= 3)
    why = too_long.explain(begun, static, until=T)
    assert why.analogues.shape == (ROWS, 0)
    assert np.isfinite(columns_of(too_long.predict(begun, static, until=T))).all()


NEVER_OBSERVED = (1, 4, 6, 7)


@pytest.fixture(scope="module", params=["quantiles", "poisson"])
def gapped(request):
    """Fitted on items of which none was observed at some steps."""
    series, static = curve_tables(72)
    series = series.filter(~pl.col("ds").is_in(NEVER_OBSERVED)).with_columns(pl.col("y").round())
    f = Forecaster(units=6, encoding=4, ensemble=2, epochs=1, head=request.param)
    with pytest.warns(errors.DataWarning, match="at 4 of 8 steps: 1, 4, 6, 7. Their") as caught:
        f.fit(series, static, verbose=0)
    ours = [warning for warning in caught if warning.category is errors.DataWarning]
    assert [warning.filename for warning in ours] == [__file__]
    return f


@few
@given(seed=st.integers(0, 1000))
def test_a_step_never_observed_is_between_its_neighbours(gapped, seed):
    """At every quantile, or between the item's last observation and the next; the others are what
    they would be without such steps, to the bit. Items of the call may have been observed there."""
    series, static = curve_tables()
    panel = gapped.schema.panel(
        mixed_prefixes(series.with_columns(pl.col("y").round()), seed), static
    )
    levels = [0.02, 0.1, 0.5, 0.8, 0.97]
    found = gapped.quantiles(panel, T + 1, levels)
    with pytest.MonkeyPatch.context() as without:
        (target,) = gapped.schema.targets
        everywhere = (replace(target, observed=np.ones(T, bool)),)
        without.setattr(gapped, "_schema", replace(gapped.schema, targets=everywhere))
        own = gapped.quantiles(panel, T + 1, levels)
    assert (np.diff(found, axis=2) >= 0).all()
    moved, values = 0, gapped.schema.unscale(panel.y)
    for row, k in enumerate(panel.known):
        for step in range(1, T + 2):
            if step not in NEVER_OBSERVED or step <= k:
                np.testing.assert_array_equal(found[row, step - 1], own[row, step - 1])
                continue
            before = [s for s in range(k + 1, step) if s not in NEVER_OBSERVED][-1:]
            after = [s for s in range(step, T + 1) if s not in NEVER_OBSERVED][:1]
            around = found[row, np.array(before + after) - 1]
            if k and not before:
                around = np.vstack([np.full(len(levels), values[row, k - 1]), around])
            assert (found[row, step - 1] >= around.min(axis=0) - 1e-9).all()
            assert (found[row, step - 1] <= around.max(axis=0) + 1e-9).all()
            moved += not np.array_equal(found[row, step - 1], own[row, step - 1])
    assert moved
    for until in (T - 1, T - 2):  # a shorter forecast is the beginning of a longer one
        shorter = gapped.quantiles(panel, until, levels)
        np.testing.assert_allclose(shorter, found[:, :until], rtol=CLOSE)


def test_interpolation_starts_at_the_last_observation(untrained):
    """Trees that are measured at a few ages: nothing jumps after the last measurement."""
    ages, rng = np.array([3, 5, 10, 15, 20, 25]), np.random.default_rng(0)
    height = (rng.normal(1, 0.1, (40, 1)) * ages**0.8 * 3).round(1)
    trees = pl.DataFrame(
        {"tree": np.repeat(np.arange(40), 6), "age": np.tile(ages, 40), "y": height.ravel()}
    )
    f = Forecaster(units=4, ensemble=2, epochs=1, id_col="tree", step_col="age", transform="none")
    with pytest.warns(errors.DataWarning, match="at 19 of 25 steps"):
        f.fit(trees, verbose=0)
    begun = trees.filter(pl.col("age") <= 5)
    made = f.predict(begun, until=12, level=80)
    values = made.drop("tree", "age").to_numpy().reshape(40, 7, 3)
    last = height[:, 1, None]
    for step in range(6, 10):
        line = last + (values[:, 4] - last) * (step - 5) / 5
        np.testing.assert_allclose(values[:, step - 6], line, rtol=1e-5)
    # Alike from a state, after an update, in paths, alone, and when a tree was seen at age 7 too
    state = f.update(f.state(trees.filter(pl.col("age") <= 3)), trees.filter(pl.col("age") == 5))
    again = f.predict(state=state, until=12, level=80)
    np.testing.assert_allclose(again["statecast"], made["statecast"], rtol=1e-4)
    paths = f.simulate(begun, until=12, paths=101).values[:, :, 5:]
    np.testing.assert_allclose(np.median(paths, axis=1), values[:, :, 0], rtol=2e-3)
    assert (np.diff(paths.std(axis=1)[:, :5], axis=1) > 0).all()  # it widens from there
    seen = pl.concat([begun, pl.DataFrame({"tree": [3], "age": [7], "y": [40.0]})])
    other = f.predict(seen.filter(pl.col("tree") == 3), until=9, level=80)["statecast"].to_list()
    ahead = f.predict(seen.filter(pl.col("tree") == 3), until=10, level=80)["statecast"].to_list()
    np.testing.assert_allclose(other, [40 + (ahead[2] - 40) * i / 3 for i in (1, 2)], rtol=1e-5)
    first = f.predict(None, until=4, state=f.state(trees.filter(pl.col("age") == 3)))
    assert first.height == 40


def test_steps_never_observed_are_the_same_in_every_method_and_in_a_file(gapped, tmp_path):
    series, static = curve_tables()
    begun = mixed_prefixes(series.with_columns(pl.col("y").round()), 5)
    forecast = forecast_of(gapped, begun, static, level=80)
    state = gapped.state(begun, static)
    whole = gapped.settings.head == "poisson"  # a path's value is then rounded after it is drawn
    assert_agree(
        gapped.simulate(begun, static, until=T, paths=99), forecast, 3e-2 if whole else 2e-3
    )
    known = dict(zip(state.ids.tolist(), state["step"][:, 0, 0].tolist(), strict=True))
    rest = pl.col("ds") > pl.col("unique_id").replace_strict(known)
    assert_same(
        forecast_of(gapped, state=state, series=None, static=None, level=80).filter(rest), forecast
    )
    gapped.save(tmp_path / "m")
    back = Forecaster.load(tmp_path / "m")
    assert forecast_of(back, begun, static, level=80).equals(forecast)


@pytest.mark.backends
def test_arrays_in_arrays_out_and_no_features():
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(12, 5)).cumsum(axis=1)
    f = Forecaster(units=4, ensemble=2, epochs=1).fit(Y, verbose=0)
    prefix = Y[:3].copy()
    prefix[0, :] = np.nan
    prefix[1, 2:] = np.nan
    prefix[2, 1] = prefix[2, 3:] = np.nan
    out = f.predict(prefix, until=6, level=[], quantiles=[0.25])
    assert sorted(out) == ["statecast", "statecast-q-0.25"]
    assert (np.isnan(out["statecast"]).sum(axis=1) == [0, 2, 3]).all()
    assert (out["statecast"] >= out["statecast-q-0.25"])[~np.isnan(out["statecast"])].all()
    state = f.state(Y[:3, :2])
    with pytest.raises(errors.DataError, match="steps that were taken before must be NaN"):
        f.update(state, Y[:3, 2:3])
    new = np.where(np.arange(3) < 2, np.nan, Y[:3, :3])
    after, whole = f.update(state, new), f.state(Y[:3, :3])
    for name in whole.names:
        np.testing.assert_allclose(after[name], whole[name], rtol=1e-3, atol=1e-5)


def test_dates_are_returned_as_dates_and_updates_continue_them(fitted):
    series, static = curve_tables(72)
    start = pl.date(2020, 1, 6)
    dated = series.with_columns(ds=start + pl.duration(days=7 * (pl.col("ds") - 1)))
    f = fit_curves(dated, static)
    first = pl.col("unique_id") < 5
    prefix, numbered = (
        t.filter(first & (pl.col("step") <= 3))
        for t in (dated.with_columns(step=series["ds"]), series.with_columns(step="ds"))
    )
    a = f.predict(prefix.drop("step"), static, until=T)
    b = fitted.predict(numbered.drop("step"), static, until=T)
    np.testing.assert_allclose(a["statecast"], b["statecast"], rtol=CLOSE)
    assert a["step"].to_list() == b["ds"].to_list()
    known = a.filter(first)
    assert known["ds"].dtype == pl.Date
    assert known.select(
        (pl.col("ds") == start + pl.duration(days=7 * (pl.col("step") - 1))).all()
    ).item()
    assert a.filter(~first)["ds"].is_null().all()
    state = f.state(prefix.drop("step"), static)
    after = f.update(state, dated.filter(first & (series["ds"] > 3) & (series["ds"] <= 5)))
    full = f.state(dated.filter(first & (series["ds"] <= 5)), static)
    for name in full:
        np.testing.assert_allclose(after[name], full[name], rtol=CLOSE, atol=CLOSE)


def test_a_new_category_and_a_missing_static_are_forecast(fitted):
    static = pl.DataFrame({"unique_id": [1, 2], "level": [None, 0.5], "group": ["a", "new"]})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", errors.DataWarning)
        found = fitted.predict(None, static, until=T)
    ours = [w for w in caught if issubclass(w.category, errors.DataWarning)]
    assert len(ours) == 1
    assert "'new'" in str(ours[0].message)
    assert "level" in str(ours[0].message)
    assert ours[0].filename == __file__  # the line that called the library
    assert np.isfinite(columns_of(found)).all()


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_very_few_items(rows):
    series, static = curve_tables(rows=rows, seed=3)
    f = Forecaster(units=4, encoding=4, ensemble=3, epochs=2).fit(series, static, verbose=0)
    assert np.isfinite(columns_of(forecast_of(f, None, static))).all()


def _values_of(kind):
    """Long tables of values of a kind, many at the end of where they may lie."""
    rng = np.random.default_rng(5)
    series, static = curve_tables(72)
    level = static.select(pl.col("level"))["level"].to_numpy()[series["unique_id"]]
    noise = rng.normal(size=len(level))
    y = {
        "counts": rng.poisson(np.exp(level - 0.5)) * (noise > -1),
        "positive": np.exp(2.0 * level + noise),
        "bounded": np.clip(3.0 + level + noise, 1.0, 5.0),
        "real": 3.0 * level + noise + 100.0 * (noise > 2.4),
    }[kind]
    return series.with_columns(y=pl.Series(y.astype(float))), static


KINDS = {
    "negative_binomial": ("counts", {}),
    "poisson": ("counts", {"cell": "gru"}),
    "quantiles of counts": ("counts", {"head": "quantiles", "transform": "counts"}),
    "lognormal": ("positive", {"conditioning": "both"}),
    "logitnormal": ("bounded", {"bounds": (1.0, 5.0)}),
    "quantiles within bounds": ("bounded", {"head": "quantiles", "bounds": (1, 5)}),
    "student_t": ("real", {"analogues": False}),
}

QUICK = ("negative_binomial",)


@pytest.mark.backends
@pytest.mark.parametrize(
    "head", [h if h in QUICK else pytest.param(h, marks=pytest.mark.slow) for h in KINDS]
)
def test_a_head_keeps_the_laws_and_its_values(head, tmp_path):
    """What is forecast and drawn is such a value, and a state, an update and a file are exact."""
    kind, more = KINDS[head]
    series, static = _values_of(kind)
    small = {"units": 6, "encoding": 4, "ensemble": 3, "epochs": 3, "head": head}
    f = Forecaster(**{**small, **more}).fit(series, static, verbose=0)
    prefix = mixed_prefixes(series, 1)
    table = forecast_of(f, prefix, static, until=T + 2, level=[50, 80, 98])
    rising = [f"statecast-lo-{p}" for p in (98, 80, 50)] + ["statecast"]
    rising += [f"statecast-hi-{p}" for p in (50, 80, 98)]
    values = table.select(rising).to_numpy()
    assert (np.diff(values, axis=1) >= 0).all()
    paths = f.simulate(prefix, static, until=T + 2, paths=20).values
    for found in (values, paths[~np.isnan(paths)]):
        assert np.isfinite(found).all()
        if kind == "counts":
            assert (found >= 0).all()
            assert (found == np.rint(found)).all()
        if kind == "positive":
            assert (found > 0).all()
        if kind == "bounded":
            assert (found >= 1).all()
            assert (found <= 5).all()
    exact = {"until": T + 2, "calibrated": False}
    state = f.state(prefix, static)
    # A count a hair from the next may round either way.
    close = 1.0 if kind == "counts" else 1e-4
    whole = columns_of(forecast_of(f, prefix, static, **exact))
    again = columns_of(f.predict(state=state, level=[80, 95], **exact))
    np.testing.assert_allclose(again, whole, rtol=1e-4, atol=close)
    later = series.join(prefix, on=["unique_id", "ds"], how="anti").filter(pl.col("ds") < T)
    after = f.update(state, later)
    full = f.state(series.filter(pl.col("ds") < T), static)
    for name in full:
        np.testing.assert_allclose(after[name], full[name], rtol=1e-4, atol=1e-4)
    f.save(tmp_path / "m.safetensors")
    back = Forecaster.load(tmp_path / "m.safetensors")
    assert asdict(back.settings) == asdict(f.settings)
    assert columns_of(forecast_of(back, prefix, static, **exact)).tolist() == whole.tolist()


@pytest.mark.parametrize(
    "asked",
    [
        {"level": [99.99991, 99.99992]},
        {"level": [80, 80.0000001]},
        {"quantiles": [0.1234567, 0.1234568]},
    ],
)
def test_two_quantiles_for_one_column_are_refused(fitted, asked):
    _, static = curve_tables()
    with pytest.raises(errors.ArgumentError, match="expected numbers that differ in their first"):
        fitted.predict(None, static, until=T, **asked)
    (values,) = asked.values()
    twice = {name: [each[0], each[0]] for name, each in asked.items()}
    once = dict.fromkeys(asked, values[0])
    assert fitted.predict(None, static, until=T, **twice).equals(
        fitted.predict(None, static, until=T, **once)
    )


@pytest.mark.parametrize(
    ("until", "levels", "message"),
    [
        ("9", [0.5], "until: expected a whole number from 1"),
        (0, [0.5], "until: expected a whole number from 1"),
        (T, [0.0, 0.5], "levels: expected numbers above 0 and below 1"),
        (T, [-2.0], "levels: expected numbers above 0 and below 1"),
        (T, "half", "levels: expected a number, several or None"),
    ],
)
def test_wrong_arguments_of_the_quantiles_of_a_panel_are_refused(fitted, until, levels, message):
    panel = fitted.schema.panel(None, curve_tables()[1])
    with pytest.raises(errors.ArgumentError, match=message):
        fitted.quantiles(panel, until, levels)


def test_bad_calls_are_refused_and_the_next_good_one_works(fitted):
    series, static = curve_tables()
    good = forecast_of(fitted, None, static)
    with pytest.raises(errors.DataError, match="item 4 is already observed up to step 5") as caught:
        fitted.predict(prefixes_of(series, {4: 5, 6: 2}), static, until=5, strict=True)
    assert (caught.value.column, caught.value.item) == ("ds", 4)
    with pytest.raises(errors.ArgumentError, match="until: expected a whole number"):
        fitted.predict(None, static, until=0)
    with pytest.raises(errors.ArgumentError, match="until: expected at most 10,000"):
        fitted.predict(None, static, until=1_000_000)
    with pytest.raises(errors.ArgumentError, match="level: expected a number, several or None"):
        fitted.predict(None, static, until=T, level="80")
    with pytest.raises(errors.ArgumentError, match="level: expected percent, from 1 to below 100"):
        fitted.predict(None, static, until=T, level=[100])
    with pytest.raises(errors.ArgumentError, match=r"received 0.8. Did you mean 80\?"):
        fitted.predict(None, static, until=T, level=0.8)
    with pytest.raises(
        errors.ArgumentError, match="quantiles: expected numbers above 0 and below 1"
    ):
        fitted.predict(None, static, until=T, quantiles=[1])
    with pytest.raises(errors.ArgumentError, match="paths: expected a whole number"):
        fitted.simulate(None, static, until=T, paths=0)
    with pytest.raises(errors.DataError, match="group"):
        fitted.predict(None, static.drop("group"), until=T)
    with pytest.raises(errors.NotFittedError):
        Forecaster().save("nowhere.safetensors")
    history = dict(fitted.history)
    with pytest.raises(errors.DataError):
        fitted.fit(series.drop("y"), static, verbose=0)
    assert fitted.history == history
    assert forecast_of(fitted, None, static).equals(good)


@pytest.fixture(scope="module")
def counts():
    """A forecaster of counts: the head's scale and transform bound what is forecast."""
    series, static = curve_tables(72)
    return fit_curves(series.with_columns(pl.col("y").round()), static, head="poisson")


def _with_feedback(f, share):
    """The forecaster, with a model file whose network takes ``share`` times the last value."""
    whole = f._packed()
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    entry = json.loads(whole[8:end])["network/decoder/head/residual"]
    begin, after = (end + place for place in entry["data_offsets"])
    numbers = np.full((after - begin) // 4, share, "<f4").tobytes()
    return Forecaster.load(whole[:begin] + numbers + whole[after:])


@pytest.mark.parametrize("kind", ["fitted", "too_long", "counts"])
def test_feedback_that_grows_is_an_error_where_it_leaves_float32(kind, request):
    series, static = curve_tables()
    begun, grows = series.filter(pl.col("ds") <= 3), request.getfixturevalue(kind)
    if kind == "counts":
        begun = begun.with_columns(pl.col("y").round())
    grows = _with_feedback(grows, 1e4)
    assert np.isfinite(columns_of(grows.predict(begun, static, until=5))).all()  # few steps
    state = grows.state(begun, static)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.DataWarning)  # beyond the longest training item
        for use in (grows.predict, grows.simulate):
            asked: list[dict[str, Any]] = [{"state": state}, {"series": begun, "static": static}]
            for given in asked:
                with pytest.raises(errors.ArgumentError, match=r"float32 at step .*1e.04 times"):
                    use(**given, until=100)
        with pytest.raises(errors.ArgumentError, match=r"item 0 leaves .* float32 at step"):
            grows.explain(begun.filter(pl.col("unique_id") < 2), static.head(2), until=100)
        with pytest.raises(errors.ArgumentError, match="float32 at step"):
            grows.quantiles(grows.schema.panel(begun, static), 100, [0.5])
        # The horizon of another item changes nothing.
        each = {int(i): 100 if i == 3 else 5 for i in static["unique_id"]}
        with pytest.raises(errors.ArgumentError, match="item 3 leaves"):
            grows.predict(begun, static, until=each)
        late = pl.DataFrame({"unique_id": [0], "ds": [100], "y": [50.0]})
        # Over the gap the gates see infinite inputs, and give NaN.
        for make in (
            lambda: grows.update(state, late),
            lambda: grows.state(pl.concat([begun, late]), static),
        ):
            with pytest.raises(errors.ArgumentError, match="state of item 0 leaves"):
                make()


def test_feedback_of_several_targets_that_grows_is_an_error():
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(40, 6, 2)).cumsum(axis=1)
    grows = _with_feedback(fit_curves(Y, target_col=["a", "b"]), 100.0)
    assert np.isfinite(grows.predict(Y[:2, :5], until=6)["statecast"][:, 5]).all()
    with (
        pytest.warns(errors.DataWarning),
        pytest.raises(errors.ArgumentError, match="item 0 leaves the range of float32 at step"),
    ):
        grows.predict(Y[:2, :3], until=60)


def test_a_number_that_is_missing_in_a_fifth_of_the_cells_of_a_csv_is_used_as_a_number(tmp_path):
    """y is near the static feature. Read as categories, new values are unknown, and the forecasts
    are far from the truth."""
    rng = np.random.default_rng(0)
    level, new = rng.uniform(10, 90, 120), np.array([20.35, 40.35, 60.35, 80.35])
    y = level[:, None] + rng.normal(size=(120, 3)) * 0.5
    cells = [f"{a:.3f}" if rng.random() > 0.2 else "NA" for a in level]
    rows = [f"{i},{t + 1},{y[i, t]:.4f}\n" for i in range(120) for t in range(3)]
    for name, lines in (
        ("series", ["unique_id,ds,y\n", *rows]),
        ("static", ["unique_id,a\n", *(f"{i},{a}\n" for i, a in enumerate(cells))]),
        ("new", ["unique_id,a\n", *(f"{1000 + i},{a}\n" for i, a in enumerate(new))]),
    ):
        (tmp_path / f"{name}.csv").write_text("".join(lines))
    error = {}
    for categorical in ([], ["a"]):
        f = Forecaster(seed=0, epochs=30, ensemble=1, units=16, categorical=categorical)
        f.fit(tmp_path / "series.csv", tmp_path / "static.csv", verbose=0)
        last = f.predict(static=tmp_path / "new.csv", until=3).filter(pl.col("ds") == 3)
        error[bool(categorical)] = np.abs(last["statecast"].to_numpy() - new).mean()
    assert error[False] < 2.0
    assert error[True] > 10.0
