"""Heads: the quantile function, the density, the mean and the score belong together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import backend, ops

from gradients import gradients
from statecast.errors import ArgumentError
from statecast.heads import HEADS, Quantiles, Readout

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


@settings(max_examples=8, deadline=None)
@given(heads, seeds, st.booleans(), st.tuples(*[st.integers(1, 9)] * 4))
def test_a_score_is_the_sum_of_the_steps_crps_whoever_computes_it(head, seed, before, sizes):
    members, rows, steps, units = sizes
    rng = np.random.default_rng(seed)
    shapes = {
        "outputs": sizes,
        "taken": (members, rows, steps),
        "kernel": (members, units, head.size),
        "base": (members, rows, head.size),
        "decay": (members,),
    }
    if before:
        shapes |= {"first": (members, rows, units), "last": (members, rows)}
    values = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    y = rng.normal(size=(1, rows, steps)).astype("float32")  # the same for all members
    weight = (rng.random((members, rows, steps)) < 0.7).astype("float32")
    given = ops.convert_to_tensor(rng.normal(size=(members, rows)).astype("float32"))

    class Plain(type(head)):
        def _native_declines(self, readout):
            return "told to"

    def found(head):
        score = head.score(Readout(**tensors), y, weight)
        return {"score": ops.convert_to_numpy(score)} | gradients(
            lambda named: ops.sum(head.score(Readout(**named), y, weight) * given), values
        )

    tensors = {n: ops.convert_to_tensor(v.astype("float32")) for n, v in values.items()}
    runs = head.explain(Readout(**tensors))["native"] == "runs"
    assert runs == (isinstance(head, Quantiles) and backend.backend() != "tensorflow")
    assert Plain().explain(Readout(**tensors))["native"] == "declines: told to"
    expected = found(Plain())
    for name, value in found(head).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)
    # Each step is read from what stood before it, or where there is no before, at it.
    outputs, taken = values["outputs"], values["taken"]
    if before:
        outputs = np.concatenate([values["first"][:, :, None], outputs[:, :, :-1]], axis=2)
        taken = np.concatenate([values["last"][..., None], taken[..., :-1]], axis=2)
    raw = np.einsum("mntu,mus->mnts", outputs, values["kernel"]) + values["base"][:, :, None]
    shift = (taken * values["decay"][:, None, None])[..., None]
    parameters = head.parameters(
        ops.convert_to_tensor(raw.astype("float32")), ops.convert_to_tensor(shift.astype("float32"))
    )
    crps = ops.convert_to_numpy(head.crps(parameters, ops.convert_to_tensor(y)))
    np.testing.assert_allclose((crps * weight).sum(-1), expected["score"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "levels", [(0.1, 0.9), (0.1, 0.4, 0.9), (0.5, 0.1, 0.9), (0.0, 0.5, 1.0), (0.5,)]
)
def test_levels_are_checked(levels):
    with pytest.raises(ArgumentError, match="levels: "):
        Quantiles(levels)
