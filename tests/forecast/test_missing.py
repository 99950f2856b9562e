"""Missing features: the offsets of forecasts without them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statecast import Forecaster
from statecast.forecast.missing import MissingFeatures
from statecast.forecast.stacking import width
from statecast.heads.quantiles import QUANTILE_LEVELS
from statecast.heads.special import normal_quantile

LEVELS = len(QUANTILE_LEVELS)
NORMAL = normal_quantile(np.array(QUANTILE_LEVELS))
STEPS, T = 4, 6


def _statics(rng, rows=60, numeric=2, categorical=1):
    numbers = rng.normal(size=(rows, numeric)).astype("float32")
    flags = np.zeros((rows, numeric), "float32")
    codes = rng.integers(2, 5, (rows, categorical)).astype("int32")
    return np.concatenate([numbers, flags], axis=1), codes


def _fitted(rng, spread=1.0, rows=400):
    """Offsets for forecasts that are normal with deviation 1, of observations with another."""
    numeric, codes = _statics(rng, rows)
    y = spread * rng.normal(size=(rows, STEPS))
    y[rng.random(y.shape) < 0.2] = np.nan

    def forecasts(numeric, codes):
        same = np.broadcast_to(NORMAL, (*y.shape, LEVELS)).astype("float32")
        return {0: same, 2: same}

    found = MissingFeatures.fit(numeric, codes, y, np.arange(rows), forecasts, rng)
    return found, numeric, codes


def test_each_feature_is_removed_alone_and_then_several():
    rng, asked = np.random.default_rng(0), []
    numeric, codes = _statics(rng)
    y = rng.normal(size=(60, STEPS))

    def forecasts(x, c):
        asked.append(np.concatenate([x[:, 2:] > 0, c < 2], axis=1))
        changed = np.concatenate([x[:, :2] != numeric[:, :2], c != codes], axis=1)
        assert (changed == asked[-1]).all()  # a removed number is 0, a removed category new
        return {0: np.broadcast_to(NORMAL, (*y.shape, LEVELS))}

    before = numeric.copy(), codes.copy()
    MissingFeatures.fit(numeric, codes, y, np.arange(60), forecasts, rng)
    for column, out in enumerate(asked[:-1]):
        assert (out == (np.arange(3) == column)).all()
    assert set(asked[-1].sum(axis=1)) == {2, 3}
    np.testing.assert_array_equal(before[0], numeric)
    np.testing.assert_array_equal(before[1], codes)


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_intervals_of_rows_with_a_missing_feature_have_their_coverage(spread):
    rng = np.random.default_rng(1)
    found, *_ = _fitted(rng, spread)
    missing = np.eye(3)[rng.integers(0, 3, 500)] > 0
    missing[:100] = True
    quantiles = np.broadcast_to(NORMAL, (500, STEPS, LEVELS))
    wide = found.calibrate(quantiles, missing, rng.integers(0, 4, 500))
    y = spread * rng.normal(size=(500, STEPS))
    low, high = (wide[..., QUANTILE_LEVELS.index(level)] for level in (0.1, 0.9))
    assert ((low <= y) & (y <= high)).mean() == pytest.approx(0.8, abs=0.04)
    assert (np.diff(wide, axis=-1) >= 0).all()
    np.testing.assert_array_equal(wide[..., LEVELS // 2], 0.0)  # the median stays


@given(seed=st.integers(0, 1000), rows=st.integers(1, 6))
def test_a_row_has_the_offset_of_its_feature_and_prefix_whatever_the_others(seed, rows):
    rng = np.random.default_rng(seed)
    known, offset = np.array([0, 1, 3]), np.sort(rng.normal(size=(3, 4, LEVELS)), axis=-1)
    own = MissingFeatures(np.zeros(3, np.int64), known, offset)
    quantiles = np.sort(rng.normal(size=(rows, STEPS, LEVELS)), axis=-1)
    missing, at = rng.random((rows, 3)) < 0.5, rng.integers(0, 6, rows)
    missing[np.arange(rows), rng.integers(0, 3, rows)] = True
    found = own.calibrate(quantiles, missing, at)
    for row in range(rows):
        (which,) = np.nonzero(missing[row])
        feature = which[0] if len(which) == 1 else 3
        moved = offset[np.flatnonzero(known <= at[row])[-1], feature]
        expected = np.sort(quantiles[row] + moved * width(quantiles[row]), axis=-1)
        np.testing.assert_array_equal(found[row], expected)
        alone = own.calibrate(quantiles[[row]], missing[[row]], at[[row]])
        assert alone.tobytes() == found[row].tobytes()


def test_a_feature_that_is_often_missing_in_training_does_not_count():
    rng = np.random.default_rng(2)
    numeric, codes = _statics(rng, rows=200)
    numeric[:3, 2] = 1.0  # three items lack the first number, two the second
    numeric[:2, 3] = 1.0
    codes[:3, 0] = [10, 11, 12]  # three categories of one item each
    y = rng.normal(size=(200, STEPS))

    def forecasts(x, c):
        return {0: np.broadcast_to(NORMAL, (*y.shape, LEVELS))}

    found = MissingFeatures.fit(numeric, codes, y, np.arange(200), forecasts, rng)
    assert found.often.tolist() == [1, 0, 1]
    gaps = np.ones((1, 4), "float32")
    assert found.of(gaps, np.array([[0]])).tolist() == [[0.0, 1.0, 0.0]]
    assert found.of(np.zeros_like(gaps), np.array([[7]])).tolist() == [[0.0, 0.0, 0.0]]


def test_arrays_and_back_is_the_identity_and_damage_is_an_error():
    found, *_ = _fitted(np.random.default_rng(3), rows=60)
    arrays = found.arrays()
    back = MissingFeatures.from_arrays(arrays, 3, STEPS)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back.arrays()[name], array)
    bad = [
        arrays | {"often": np.array([0, 2, 0])},
        arrays | {"often": np.zeros(2, np.int64)},
        arrays | {"known": np.array([1, 2])},
        arrays | {"known": np.array([0, 0])},
        arrays | {"known": np.array([0, STEPS])},
        arrays | {"offset": np.full_like(found.offset, np.nan)},
        arrays | {"offset": found.offset.astype("float32")},
        arrays | {"offset": found.offset[:, :3]},
        {name: array for name, array in arrays.items() if name != "known"},
        arrays | {"more": found.often},
    ]
    for each in bad:
        with pytest.raises(ValueError, match="missing:"):
            MissingFeatures.from_arrays(each, 3, STEPS)


@pytest.fixture(scope="module")
def leveled():
    """A forecaster of items whose level depends on a number and on a group; and its tables."""
    rng = np.random.default_rng(0)

    def tables(rows):
        x, g = rng.normal(size=rows), rng.integers(0, 3, rows)
        level = 50 + 10 * x + np.array([-20, 0, 20])[g]
        y = level[:, None] + np.arange(T) + rng.normal(size=(rows, T))
        series = {
            "unique_id": np.repeat(np.arange(rows), T),
            "ds": np.tile(np.arange(1, T + 1), rows),
        }
        static = {"unique_id": np.arange(rows), "x": x, "g": np.array(["a", "b", "c"])[g]}
        return pl.DataFrame(series | {"y": y.ravel()}), pl.DataFrame(static)

    return Forecaster(units=16, epochs=20).fit(*tables(100), verbose=0), *tables(200)


NO_X = pl.lit(None, pl.Float64).alias("x")
NEW_G = pl.lit("never met").alias("g")


@pytest.mark.backends
@pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")
@pytest.mark.parametrize("change", [[NO_X], [NEW_G], [NO_X, NEW_G]])
def test_the_interval_holds_what_it_says_with_a_feature_missing_or_new(leveled, change):
    f, series, static = leveled
    for k in (0, 1):
        found = f.predict(series.filter(pl.col("ds") <= k), static.with_columns(change), until=T)
        both = found.join(series, on=["unique_id", "ds"])
        inside = both["y"].is_between(both["statecast-lo-80"], both["statecast-hi-80"])
        assert 0.7 < inside.mean() < 0.95


@pytest.mark.backends
@pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")
def test_a_state_of_an_item_with_a_missing_feature_forecasts_as_its_tables(leveled):
    f, series, static = leveled
    odd = pl.when(pl.col("unique_id") % 2 == 1)
    static = static.with_columns(odd.then(NO_X).otherwise(pl.col("x")).alias("x"))
    state = f.state(None, static)
    assert state["missing"].sum(axis=1).tolist() == [row % 2 for row in range(200)]
    state = f.update(state, series.filter(pl.col("ds") == 1))
    prefix = series.filter(pl.col("ds") <= 1)
    whole = f.predict(prefix, static, until=T)
    assert f.predict(state=state, until=T).equals(whole)
    some = f.predict(prefix.filter(pl.col("unique_id") < 2), static[:2], until=T)
    assert whole.filter(pl.col("unique_id") < 2).equals(some)
