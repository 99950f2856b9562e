"""Heads: the quantile function, the density, the mean and the score belong together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from statecast.errors import ArgumentError
from statecast.heads import HEADS, Quantiles

pytestmark = pytest.mark.backends

heads = st.sampled_from([*HEADS.values()]).map(lambda head: head())
seeds = st.integers(0, 2**32)
few = settings(max_examples=20, deadline=None)


def _parameters(head, seed, rows=3):
    raw = np.random.default_rng(seed).normal(size=(rows, head.size)).astype("float32")
    return head.parameters(ops.convert_to_tensor(raw), 0.0)


def _quantiles(head, parameters, levels):
    return np.asarray(
        ops.convert_to_numpy(head.quantile(parameters, np.asarray(levels, "float32"))), "float64"
    )


@few
@given(heads, seeds, st.lists(st.floats(0.001, 0.999), min_size=2, max_size=20))
def test_quantiles_never_cross(head, seed, levels):
    found = _quantiles(head, _parameters(head, seed), sorted(levels))
    assert (np.diff(found, axis=-1) >= -1e-5).all()


@few
@given(heads, seeds)
def test_location_is_the_median_and_moves_with_the_shift(head, seed):
    raw = np.random.default_rng(seed).normal(size=(3, head.size)).astype("float32")
    raw = ops.convert_to_tensor(raw)
    here, there = head.parameters(raw, 0.0), head.parameters(raw, 2.5)
    location = ops.convert_to_numpy(raw)[..., head.located_by, None]
    np.testing.assert_allclose(location, _quantiles(head, here, [0.5]), atol=1e-5)
    levels = [0.01, 0.3, 0.5, 0.99]
    moved = _quantiles(head, there, levels) - _quantiles(head, here, levels)
    np.testing.assert_allclose(moved, 2.5, atol=1e-4)


@few
@given(heads, seeds)
def test_the_mean_is_the_integral_of_the_quantiles(head, seed):
    parameters = _parameters(head, seed)
    levels = (np.arange(20_000) + 0.5) / 20_000
    expected = _quantiles(head, parameters, levels).mean(axis=-1)
    np.testing.assert_allclose(ops.convert_to_numpy(head.mean(parameters)), expected, atol=5e-3)


@few
@given(heads, seeds)
def test_the_density_is_the_slope_of_the_quantiles(head, seed):
    """exp(log-likelihood) at the quantile of u is 1 / q'(u), tails included."""
    parameters = _parameters(head, seed)
    for level in (0.004, 0.013, 0.15, 0.44, 0.56, 0.93, 0.984, 0.996):
        below, at, above = (level - 1e-3, level, level + 1e-3)
        q = _quantiles(head, parameters, [below, at, above])
        found = ops.convert_to_numpy(
            head.log_likelihood(parameters, ops.convert_to_tensor(q[:, 1].astype("float32")))
        )
        np.testing.assert_allclose(np.exp(found), 2e-3 / (q[:, 2] - q[:, 0]), rtol=0.05)


@few
@given(heads, seeds, st.floats(-3, 3))
def test_crps_is_the_integral_of_the_pinball_loss(head, seed, y):
    parameters = _parameters(head, seed)
    levels = (np.arange(4_000) + 0.5) / 4_000
    if isinstance(head, Quantiles):  # its score is the sum over its own levels
        levels = np.asarray(head.levels)
    error = y - _quantiles(head, parameters, levels)
    expected = 2 * np.maximum(levels * error, (levels - 1) * error).mean(axis=-1)
    truth = ops.full((3,), y, dtype="float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(head.crps(parameters, truth)), expected, rtol=5e-3, atol=5e-4
    )


@few
@given(heads, seeds)
def test_a_pool_has_the_members_mean_quantiles(head, seed):
    parameters = _parameters(head, seed, rows=5)
    levels = [0.005, 0.1, 0.37, 0.5, 0.8, 0.99]
    pooled = _quantiles(head, head.pool(parameters, axis=0), levels)
    np.testing.assert_allclose(
        pooled, _quantiles(head, parameters, levels).mean(axis=0), rtol=1e-4, atol=1e-4
    )


@few
@given(heads, seeds)
def test_levels_may_differ_by_row(head, seed):
    parameters = _parameters(head, seed)
    levels = np.array([[0.02, 0.5], [0.3, 0.7], [0.9, 0.995]], "float32")
    together = _quantiles(head, parameters, levels)
    for row in range(3):
        alone = _quantiles(head, parameters, levels[row])[row]
        np.testing.assert_allclose(together[row], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "levels", [(0.1, 0.9), (0.1, 0.4, 0.9), (0.5, 0.1, 0.9), (0.0, 0.5, 1.0), (0.5,)]
)
def test_levels_are_checked(levels):
    with pytest.raises(ArgumentError, match="levels: "):
        Quantiles(levels)
