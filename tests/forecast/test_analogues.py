"""Analogues: the Gaussian model against formulas, rows are independent, no future is used."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import all_updates
from native_library import BUILT, INSTRUCTIONS
from statecast.forecast import analogues
from statecast.forecast.analogues import (
    Analogues,
    Linear,
    _mean_distances,
    prefixes,
    weighted_quantiles,
)
from statecast.recurrence.kernels.native import library, weighted

LEVELS = (0.1, 0.5, 0.9)
T = 9
few = settings(max_examples=10, deadline=None)


def _items(n=90, seed=0, gaps=0.2):
    """Curves set by one of three numbers and by a class, which drift apart at random."""
    rng = np.random.default_rng(seed)
    numeric = rng.normal(size=(n, 3)).astype("float32")
    codes = rng.integers(2, 5, size=(n, 1))
    steps = np.arange(T) / T
    y = (
        numeric[:, :1] * (1 + steps)
        + (codes == 3) * steps
        + 0.2 * rng.normal(size=(n, T)).cumsum(1)
    )
    mask = rng.random((n, T)) >= gaps
    mask[:, 0] = True
    return numeric, codes, np.where(mask, y, 0.0), mask


def _fit(numeric, codes, y, mask, seed=0, group=None):
    group = np.arange(len(y)) if group is None else group
    return Analogues.fit(np.arange(len(y)), numeric, codes, y, mask, group, seed=seed)


@pytest.fixture(scope="module")
def fitted():
    return _fit(*_items())


def _ask(analogues, table, known, **more):
    numeric, codes, y, mask = table
    known = np.broadcast_to(known, len(y))
    seen = mask & (np.arange(T) < known[:, None])
    x = analogues.features(numeric, codes)
    return analogues.forecast(x, np.where(seen, y, 0.0), seen, known, LEVELS, **more)


# -- the linear model -----------------------------------------------------------------------------


@few
@given(seed=st.integers(0, 99), ridge=st.sampled_from([0.0, 0.3]), k=st.integers(0, T))
def test_the_linear_path_is_the_conditional_mean_of_a_gaussian(seed, ridge, k):
    """Against the partition formula, written with an inverse."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(T, T))
    linear = Linear(
        rng.normal(size=2), rng.normal(size=(2, T)), rng.normal(size=T), factor @ factor.T
    )
    x, y = rng.normal(size=(4, 2)), rng.normal(size=(4, T))
    order = rng.permutation(T)
    seen, mask = order[:k], np.zeros((4, T), bool)
    mask[:, seen] = True
    prior = (x - linear.centre) @ linear.kernel + linear.bias
    inner = np.linalg.inv(linear.covariance[np.ix_(seen, seen)] + ridge * np.eye(k))
    expected = prior + (y - prior)[:, seen] @ inner @ linear.covariance[seen]
    np.testing.assert_allclose(linear.mean(x, y, mask, ridge), expected, rtol=1e-6, atol=1e-6)
    if ridge == 0.0:  # what was observed is what it is
        found = linear.mean(x, y, mask, 0.0)[mask]
        np.testing.assert_allclose(found, y[mask], rtol=1e-5, atol=1e-5)


def test_without_gaps_the_regression_is_ridge_and_so_it_is_step_by_step():
    from sklearn.linear_model import Ridge

    numeric, _, y, mask = _items(gaps=0.0)
    linear = Linear.regress(numeric, y, mask, 3.0)
    judge = Ridge(alpha=3.0).fit(numeric, y)
    np.testing.assert_allclose(linear.of_x(numeric), judge.predict(numeric), rtol=1e-5, atol=1e-5)
    mask[::3, 4] = False
    own = Linear.regress(numeric, y, mask, 3.0).kernel[:, 4]
    rows = mask[:, 4]
    centred = numeric[rows] - numeric.mean(axis=0)
    judge = Ridge(alpha=3.0 * rows.mean()).fit(centred, y[rows, 4])
    np.testing.assert_allclose(own, judge.coef_, rtol=1e-4)


def test_a_covariance_is_found_through_gaps():
    rng = np.random.default_rng(0)
    factor = np.tril(rng.normal(size=(T, T)))
    truth = factor @ factor.T
    y = rng.multivariate_normal(np.zeros(T), truth, size=2500)
    mask = rng.random(y.shape) < 0.8
    found = Linear.fit(np.zeros((len(y), 0)), y, mask, 1.0).covariance
    spread = np.sqrt(np.outer(np.diag(truth), np.diag(truth)))
    assert np.abs((found - truth) / spread).max() < 0.12
    assert np.linalg.eigvalsh(found).min() > 0


def test_a_step_with_few_observations_is_forecast_from_the_steps_before_it():
    """The regression there is nearer to the one without gaps than that of the few alone."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 20))
    y = x[:, :2].sum(axis=1, keepdims=True) + 0.5 * rng.normal(size=(80, T)).cumsum(axis=1)
    mask = np.ones(y.shape, bool)
    mask[25:, T - 3 :] = False
    few = Linear.regress(x, y, mask, 10.0)
    whole = Linear.regress(x, y, np.ones_like(mask), 10.0)
    sequential = Linear.fit(x, y, mask, 10.0)
    off = [np.abs(path.of_x(x) - whole.of_x(x))[:, T - 3 :].mean() for path in (sequential, few)]
    assert off[0] < 0.75 * off[1]


# -- forecasts -------------------------------------------------------------------------------------


@few
@given(seed=st.integers(0, 99), same=st.booleans())
def test_rows_are_independent_and_k_may_differ(fitted, seed, same):
    """Also rows that are all alike, whose analogues are all equally near."""
    items = _items(12, seed + 1)
    if same:
        items = tuple(np.repeat(part[:1], 12, axis=0) for part in items)
    known = np.random.default_rng(seed).integers(0, T, 12)
    together = _ask(fitted, items, known)
    for row in range(12):
        alone = _ask(fitted, tuple(part[row : row + 1] for part in items), known[row : row + 1])
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-9, atol=1e-9)
    assert np.isnan(together[:, :, 0]).sum() == known.sum()
    rest = ~np.isnan(together[..., 0])
    assert (np.diff(together[rest], axis=-1) >= 0).all()


@few
@given(k=st.integers(1, T - 1), seed=st.integers(0, 99))
def test_values_after_the_prefix_and_in_gaps_have_no_effect(fitted, k, seed):
    numeric, codes, y, mask = _items(6, seed + 1)
    seen = mask & (np.arange(T) < k)
    x, known = fitted.features(numeric, codes), np.full(6, k)
    first = fitted.forecast(x, y, seen, known, LEVELS)
    other = np.where(seen, y, 1e3)
    np.testing.assert_array_equal(fitted.forecast(x, other, seen, known, LEVELS), first)


@pytest.mark.parametrize("k", [0, 3])
def test_a_held_out_forecast_does_not_use_the_items_group(k, monkeypatch):
    """Change what a group's items did later: no path fitted without them moves, and no forecast
    that looks for their analogues; other items' forecasts do."""
    monkeypatch.setattr("statecast.forecast.analogues._RIDGES", (3.0,))  # chosen on all items
    numeric, codes, y, mask = _items(gaps=0.0)
    group = np.arange(len(y)) // 3
    own, later = group == 5, y.copy()
    later[own, k:] += 3.0
    before, after = (_fit(numeric, codes, values, mask, group=group) for values in (y, later))
    (fold,) = set(before.fold[own])
    for name, array in vars(before.paths[fold]).items():
        np.testing.assert_array_equal(getattr(after.paths[fold], name), array)
    after = replace(before, y=after.y, _cache={})
    first, second = (
        _ask(found, (numeric, codes, y, mask), k, items=np.arange(len(y)))
        for found in (before, after)
    )
    np.testing.assert_array_equal(second[own], first[own])
    assert np.nanmax(np.abs(second[~own] - first[~own])) > 0.1


def test_the_metric_learns_which_feature_tells_items_apart():
    """The spread of the rest is set by the second number, in no linear way."""
    rng = np.random.default_rng(0)
    numeric = rng.normal(size=(600, 3)).astype("float32")
    y = np.sin(3.0 * numeric[:, 1:2]) + 0.1 * rng.normal(size=(600, T))
    found = _fit(numeric, np.zeros((600, 0), int), y, np.ones(y.shape, bool))
    assert found.metric[1] > found.metric[[0, 2]].max() + 1.0
    spread = _ask(found, (numeric, np.zeros((600, 0), int), y, np.ones(y.shape, bool)), 0)
    assert np.abs(spread[..., 1] - np.sin(3.0 * numeric[:, 1:2])).mean() < 0.25


def test_the_penalty_of_the_metric_lets_more_of_a_few_items_count(monkeypatch):
    """Of 30 items whose features say nothing: 1 / sum of squared weights is how many count."""
    rng = np.random.default_rng(0)
    none, new = np.zeros((30, 0), int), rng.normal(size=(30, 5)).astype("float32")
    y, nothing = rng.normal(size=(30, T)), np.zeros((30, T))
    numeric, counted = rng.normal(size=(30, 5)).astype("float32"), []
    for penalty in (0.0, 0.1, 10.0):
        monkeypatch.setattr(analogues, "_METRIC_PENALTY", penalty)
        with all_updates():
            found = _fit(numeric, none, y, np.ones(y.shape, bool))
        _, weight, _ = found.nearest(found.features(new, none), nothing, nothing > 0, 0)
        counted.append(float(np.mean(1.0 / np.square(weight).sum(axis=1))))
    assert counted[0] < counted[1] < counted[2]
    assert counted[2] > 29.9


QUANTILES = [weighted_quantiles, *[weighted.quantiles] * BUILT]


@pytest.mark.parametrize("quantiles", QUANTILES)
@few
@given(seed=st.integers(0, 99), n=st.integers(2, 140))
def test_with_equal_weights_quantiles_are_those_of_the_sample(quantiles, seed, n):
    rng = np.random.default_rng(seed)
    values, item = rng.normal(size=(2 * n, 6)).astype("float32"), np.arange(2 * n).reshape(2, n)
    found = quantiles(values, item, np.full((2, n), 1 / n), range(1, 5), LEVELS)
    expected = np.quantile(values[item][:, :, 1:5], LEVELS, axis=1, method="hazen")
    np.testing.assert_allclose(found, np.moveaxis(expected, 0, -1), rtol=1e-4, atol=1e-4)
    # Values that are not there have no part.
    gaps = np.concatenate([values, np.full((2, 6), np.nan)])
    more = np.concatenate([item, np.full((2, 2), 2 * n)], axis=1)
    again = quantiles(gaps, more, np.full((2, n + 2), 1 / (n + 2)), range(1, 5), LEVELS)
    np.testing.assert_allclose(again, found, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not BUILT, reason="no native kernel")
@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@few
@given(seed=st.integers(0, 99), n=st.integers(1, 140), ties=st.booleans())
def test_the_library_gives_the_weighted_quantiles_of_numpy(instructions, seed, n, ties):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(200, 5)).astype("float32")
    if ties:
        values = np.round(values)
    values[rng.random(values.shape) < 0.3] = np.nan
    values[:, 2] = np.nan
    item = np.stack([rng.choice(200, n, replace=False) for _ in range(7)])
    weight = rng.exponential(size=(7, n)) ** 6 * (rng.random((7, n)) < 0.8)
    weight /= weight.sum(axis=1, keepdims=True) + 1e-30
    weight[5] *= 1e-200  # 0 in float32
    library.use(instructions)
    try:
        found = weighted.quantiles(values, item, weight, range(1, 5), LEVELS)
        alone = weighted.quantiles(values, item[3:4], weight[3:4], range(1, 5), LEVELS)
    finally:
        library.use()
    np.testing.assert_array_equal(alone[0], found[3])
    assert (found[:, 1] == 0).all()
    # A level is exact to float32: the quantile is between those of NumPy at levels beside it.
    low, high = (
        weighted_quantiles(values, item, weight, range(1, 5), [level + d for level in LEVELS])
        for d in (-1e-5, 1e-5)
    )
    assert (found >= low - 1e-5).all()
    assert (found <= high + 1e-5).all()


def test_a_step_that_nobody_was_observed_at_and_wide_features():
    numeric, codes, y, mask = _items()
    mask[:, 4] = False
    found = _fit(numeric, codes, y, mask)
    assert np.isfinite(_ask(found, (numeric, codes, y, mask), 0)).all()
    wide = np.random.default_rng(0).normal(size=(90, 400)).astype("float32")
    found = _fit(wide, codes, y, mask)
    assert found.features(wide, codes).shape == (90, 256)


def test_what_is_kept_for_later_calls_is_bounded(monkeypatch):
    items = _items()
    found = _fit(*items)
    expected = [_ask(found, items, k) for k in range(T)]
    one = found.residuals(0).nbytes
    found._cache.clear()
    monkeypatch.setattr(analogues, "_MOST_KEPT", 5 * one)
    for k in (*range(T), 3, 3, 0):
        np.testing.assert_array_equal(_ask(found, items, k), expected[k])
        assert sum(each.nbytes for each in found._cache.values()) <= 5 * one
    found._cache.clear()
    monkeypatch.setattr(analogues, "_MOST_KEPT", 0)
    np.testing.assert_array_equal(_ask(found, items, 2), expected[2])
    assert len(found._cache) == 1


# -- files -----------------------------------------------------------------------------------------


def test_familiar_is_what_training_had():
    value, codes, y, mask = _items()
    n, some = value.shape[1], np.zeros_like(value)
    some[:10, 0] = 1  # the first number was missing at times
    numeric = np.concatenate([value, some], axis=1)
    found = _fit(numeric, codes, y, mask)
    assert found.usable(numeric, codes).all()
    for column in range(n):
        gap = numeric.copy()
        gap[:, n + column] = 1
        assert (found.usable(gap, codes) == (column == 0)).all()
    for code in (0, 1):
        assert not found.usable(numeric, np.full_like(codes, code)).any()


def test_a_track_whose_moves_are_small_beside_its_places_is_carried_on():
    rng = np.random.default_rng(0)
    place, move = rng.normal(size=(200, 1)), 0.01 * rng.normal(size=(200, 1))
    y = place + move * np.arange(8) + 1e-4 * rng.normal(size=(200, 8))
    none = np.zeros((200, 0))
    found = _fit(none[:100], none[:100].astype(int), y[:100], np.ones((100, 8), bool))
    seen = np.arange(8) < 3
    x = found.features(none[100:], none[100:].astype(int))
    _, _, mean = found.nearest(x, y[100:], np.broadcast_to(seen, (100, 8)), 3)
    assert np.abs(mean - y[100:])[:, 3:].mean() < 0.1 * 0.01


def test_arrays_and_back_is_identity_and_damage_is_refused(fitted):
    arrays = fitted.arrays()
    back = Analogues.from_arrays(arrays)
    items = _items(5, 3)
    np.testing.assert_array_equal(_ask(back, items, 2), _ask(fitted, items, 2))
    for name in arrays:
        with pytest.raises(ValueError, match=r"analogues|ids"):
            Analogues.from_arrays({n: a for n, a in arrays.items() if n != name})
        damaged = arrays[name].astype("float16")
        with pytest.raises(ValueError, match=r"analogues|ids"):
            Analogues.from_arrays(arrays | {name: damaged})
    with pytest.raises(ValueError, match="fold"):
        Analogues.from_arrays(arrays | {"fold": arrays["fold"] + 100})


def test_the_same_seed_gives_the_same_fit(fitted):
    again = _fit(*_items()).arrays()
    for name, array in fitted.arrays().items():
        np.testing.assert_array_equal(again[name], array)


@given(steps=st.integers(1, 500))
def test_prefixes_rise_from_0_and_stay_below_the_length(steps):
    found = prefixes(steps)
    assert found[0] == 0
    assert found[-1] < steps
    assert (np.diff(found) > 0).all()
    assert all(b <= 2 * a + 1 for a, b in pairwise(found))


def test_mean_distances_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    values, weight = rng.normal(size=(3, 4, 20)).round(1), rng.random((3, 4, 20))  # some are equal
    weight[rng.random(weight.shape) < 0.2] = 0.0
    apart = np.abs(values[..., None] - values[..., None, :])
    expected = (apart * weight[..., None, :]).sum(axis=-1)
    np.testing.assert_allclose(_mean_distances(values, weight), expected, rtol=1e-12)
