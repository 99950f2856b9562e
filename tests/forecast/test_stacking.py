"""Stacking: the better forecast gets the weight, and held-out truths fall where they should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statecast.forecast.stacking import Stacking
from statecast.heads.quantiles import QUANTILE_LEVELS

T = 6
DEVIATES = np.quantile(np.random.default_rng(1).normal(size=200_000), QUANTILE_LEVELS)


def _draw(n=600, seed=0, width=1.0, bias=0.0):
    """Truths around known centres, and forecasts of them by prefix length; width 1 is right."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(n, T))
    y = centre + rng.normal(size=(n, T))
    quantiles = centre[..., None] + bias + width * DEVIATES
    return y, {0: quantiles, 2: quantiles}


def _coverage(y, quantiles):
    return np.mean((quantiles[..., 1] <= y) & (y <= quantiles[..., -2]))


@settings(max_examples=8, deadline=None)
@given(width=st.sampled_from([0.3, 1.0, 3.0]), seed=st.integers(0, 50), k=st.integers(0, T - 1))
def test_intervals_hold_for_new_items_however_wide_they_were(width, seed, k):
    y, forecasts = _draw(seed=seed, width=width)
    stacking = Stacking.fit(y, forecasts, None)
    new, given_ = _draw(2000, seed + 1000, width)
    quantiles = stacking.calibrate(given_[0], np.full(len(new), k))
    # The share of new values between two order statistics of n is of a beta distribution, with a
    # variance of .8 * .2 / (n + 2); the new values vary likewise. There are T - k horizons.
    spread = (0.16 / (T - k) * (1 / (len(y) + 2) + 1 / len(new))) ** 0.5
    assert abs(_coverage(new[:, k:], quantiles[:, k:]) - 0.8) <= 4 * spread
    np.testing.assert_array_equal(quantiles[..., 5], given_[0][..., 5])  # the median stays
    assert (np.diff(quantiles, axis=-1) >= 0).all()


def test_on_its_own_items_an_interval_covers_at_least_its_level():
    """The conformal guarantee, at each horizon that has values enough."""
    y, forecasts = _draw(width=0.2)
    quantiles = Stacking.fit(y, forecasts, None).calibrate(forecasts[0], np.zeros(len(y), int))
    for step in range(T):
        assert _coverage(y[:, step], quantiles[:, step]) >= 0.8


@pytest.mark.parametrize("better", ["network", "analogues"])
def test_the_better_forecast_gets_the_weight(better):
    y, good = _draw()
    _, bad = _draw(bias=3.0)
    network, analogues = (good, bad) if better == "network" else (bad, good)
    stacking = Stacking.fit(y, network, analogues)
    assert (stacking.weight == (1.0 if better == "network" else 0.0)).all()
    known = np.zeros(len(y), int)
    np.testing.assert_allclose(stacking.blend(network[0], analogues[0], known), good[0])


def test_two_that_err_apart_are_better_together():
    y, low = _draw(bias=-1.0)
    _, high = _draw(bias=1.0)
    assert (Stacking.fit(y, low, high).weight == 0.5).all()


@pytest.mark.parametrize("n", [8, 40])
def test_with_few_items_the_weight_stays_near_a_half(n):
    """The items of both calls are the same, 50 times in the second: so are the mean losses."""
    y, good = _draw(n)
    _, bad = _draw(n, bias=0.6)
    for network, analogues in ((good, bad), (bad, good)):
        few, many = (
            Stacking.fit(
                np.tile(y, (times, 1)), _tiled(network, times), _tiled(analogues, times)
            ).weight
            for times in (1, 50)
        )
        assert (np.abs(few - 0.5) < np.abs(many - 0.5)).all()
        assert (np.sign(few - 0.5) * np.sign(many - 0.5) >= 0).all()


def _tiled(forecasts, times):
    return {k: np.tile(each, (times, 1, 1)) for k, each in forecasts.items()}


def test_items_without_a_later_value_do_not_count():
    """They have no error, so the weight is the one without them."""
    y, good = _draw(20)
    _, bad = _draw(20, bias=0.6)
    alone = Stacking.fit(y, good, bad).weight
    ended = np.concatenate([y, np.full((200, T), np.nan)])
    network, analogues = (
        {k: np.concatenate([each, np.zeros((200, T, each.shape[2]))]) for k, each in of.items()}
        for of in (good, bad)
    )
    np.testing.assert_array_equal(Stacking.fit(ended, network, analogues).weight, alone)


def test_few_items_lend_each_other_their_horizons():
    """With 30 items a quantile's place is read from several horizons, and stays finite."""
    y, forecasts = _draw(30)
    y[:, 3] = np.nan
    stacking = Stacking.fit(y, forecasts, None)
    assert np.isfinite(stacking.offset).all()
    assert np.ptp(stacking.offset[0], axis=0).max() < 0.2


def test_arrays_and_back_is_identity_and_damage_is_refused():
    y, forecasts = _draw(50)
    arrays = Stacking.fit(y, forecasts, None).arrays()
    back = Stacking.from_arrays(arrays, T)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back.arrays()[name], array)
    for damaged in (
        {},
        arrays | {"known": arrays["known"] + 1},
        arrays | {"weight": arrays["weight"][:1]},
        arrays | {"offset": arrays["offset"][:, :2]},
    ):
        with pytest.raises(ValueError, match="stacking"):
            Stacking.from_arrays(damaged, T)
