"""Heads: the quantile function, the density, the mean and the score belong together."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import backend, ops

from effort import examples
from gradients import gradients
from statecast.errors import ArgumentError
from statecast.heads.base import Readout
from statecast.heads.by_name import HEADS
from statecast.heads.continuous import Normal, StudentT
from statecast.heads.counts import NegativeBinomial, Poisson
from statecast.heads.quantiles import Quantiles

pytestmark = pytest.mark.backends

SCALE = (4.0, 0.7, 0.9)  # of counts: centre, location, scaling
heads = st.sampled_from([*HEADS.values()]).map(lambda head: head.on_scale(*SCALE))
continuous = st.sampled_from([Normal(), StudentT(), Quantiles()])
scored_by_crps = st.sampled_from([Normal(), Quantiles()])
seeds = st.integers(0, 2**32)
# Few sizes, many numbers: every new size is a new compilation.
sizes = st.sampled_from([(1, 3, 2, 4), (3, 1, 4, 1), (2, 5, 1, 3)])
few = settings(max_examples=examples(10, compiled=True), deadline=None)


def _parameters(head, seed, rows=3):
    raw = np.random.default_rng(seed).normal(size=(rows, head.size)).astype("float32")
    return head.parameters(ops.convert_to_tensor(raw), 0.0)


def _quantiles(head, parameters, levels):
    return np.asarray(
        ops.convert_to_numpy(head.quantile(parameters, np.asarray(levels, "float32"))), "float64"
    )


@few
@given(heads, seeds, st.lists(st.integers(1, 999), min_size=9, max_size=9, unique=True))
def test_quantiles_never_cross(head, seed, thousandths):
    """Of levels that differ: in a flat tail float32 finds equal ones at places of its own."""
    found = _quantiles(head, _parameters(head, seed), np.sort(thousandths) / 1000)
    assert (np.diff(found, axis=-1) >= -1e-5).all()


@few
@given(continuous, seeds)
def test_location_is_the_median_and_moves_with_the_shift(head, seed):
    raw = np.random.default_rng(seed).normal(size=(3, head.size)).astype("float32")
    raw = ops.convert_to_tensor(raw)
    here, there = head.parameters(raw, 0.0), head.parameters(raw, 2.5)
    location = ops.convert_to_numpy(raw)[..., head.location_index, None]
    np.testing.assert_allclose(location, _quantiles(head, here, [0.5]), atol=1e-5)
    levels = [0.01, 0.3, 0.5, 0.99]
    moved = _quantiles(head, there, levels) - _quantiles(head, here, levels)
    np.testing.assert_allclose(moved, 2.5, atol=1e-4)


@few
@given(continuous, seeds)
def test_the_mean_is_the_integral_of_the_quantiles(head, seed):
    parameters = _parameters(head, seed)
    levels = (np.arange(20_000) + 0.5) / 20_000
    expected = _quantiles(head, parameters, levels).mean(axis=-1)
    np.testing.assert_allclose(ops.convert_to_numpy(head.mean(parameters)), expected, atol=5e-3)


@few
@given(continuous, seeds)
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
@given(scored_by_crps, seeds, st.floats(-3, 3))
def test_crps_is_the_integral_of_the_pinball_loss(head, seed, y):
    parameters = _parameters(head, seed)
    levels = (np.arange(4_000) + 0.5) / 4_000
    if isinstance(head, Quantiles):  # its score is the sum over its own levels
        levels = np.asarray(head.levels)
    error = y - _quantiles(head, parameters, levels)
    expected = 2 * np.maximum(levels * error, (levels - 1) * error).mean(axis=-1)
    truth = ops.full((3,), y, dtype="float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(head.loss(parameters, truth)), expected, rtol=5e-3, atol=5e-4
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


@settings(max_examples=examples(8), deadline=None)
@given(heads, seeds, st.booleans(), sizes)
def test_a_score_is_the_sum_of_the_steps_losses_whoever_computes_it(head, seed, before, sizes):
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

    plain = Plain(**vars(head))

    def found(head):
        score = head.score(Readout(**tensors), y, weight)
        return {"score": ops.convert_to_numpy(score)} | gradients(
            lambda named: ops.sum(head.score(Readout(**named), y, weight) * given), values
        )

    tensors = {n: ops.convert_to_tensor(v.astype("float32")) for n, v in values.items()}
    runs = head.explain(Readout(**tensors))["native"] == "runs"
    assert runs == (backend.backend() != "tensorflow")
    assert plain.explain(Readout(**tensors))["native"] == "declines: told to"
    expected = found(plain)
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
    losses = ops.convert_to_numpy(head.loss(parameters, ops.convert_to_tensor(y)))
    np.testing.assert_allclose((losses * weight).sum(-1), expected["score"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "levels", [(0.1, 0.9), (0.1, 0.4, 0.9), (0.5, 0.1, 0.9), (0.0, 0.5, 1.0), (0.5,)]
)
def test_levels_are_checked(levels):
    with pytest.raises(ArgumentError, match="levels: "):
        Quantiles(levels)


# -- against scipy in float64 -----------------------------------------------------------------

LEVELS = np.array([1e-4, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999], "float32")
MEANS = [1e-3, 0.2, 1.0, 7.0, 300.0, 1e5]


def _array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def _tensor(*columns):
    return ops.convert_to_tensor(np.stack(np.broadcast_arrays(*columns), axis=-1).astype("float32"))


def _families():
    """Heads of counts and scipy's distributions of the same."""
    mean = np.repeat(MEANS, 4)
    size = np.tile([0.05, 0.7, 9.0, 5e3], len(MEANS))
    binomial = scipy.stats.nbinom(size[:, None], (size / (size + mean))[:, None])
    yield NegativeBinomial(*SCALE), _tensor(mean, size), binomial
    yield Poisson(*SCALE), _tensor(MEANS), scipy.stats.poisson(np.array(MEANS)[:, None])


def test_counts_likelihood_is_scipys():
    for head, parameters, reference in _families():
        n = reference.ppf([1e-5, 0.1, 0.5, 0.9, 1 - 1e-5])
        y = head.scaled(ops.convert_to_tensor(n.astype("float32")))
        # Above some thousands float32's place on the scale is not that of one count alone.
        n = _array(head.counts(y))
        found = _array(head.log_likelihood(parameters[:, None], y))
        np.testing.assert_allclose(found, reference.logpmf(n), rtol=1e-3, atol=2e-4)
        np.testing.assert_array_equal(found, -_array(head.loss(parameters[:, None], y)))


def test_counts_quantiles_are_the_nearest_counts():
    """Rounded, a quantile is scipy's: the count at whose end the distribution reaches the level."""
    for head, parameters, reference in _families():
        found = _array(head.counts(head.quantile(parameters, LEVELS)))
        slack = 3e-4  # of the level; PyTorch, JAX and TensorFlow round apart
        low = reference.ppf(np.maximum(LEVELS - slack, 0.3 * LEVELS))
        high = reference.ppf(np.minimum(LEVELS + slack, 1 - 0.3 * (1 - LEVELS)))
        assert (found >= 0).all()
        assert (found == np.rint(found)).all()
        assert (found >= np.floor(low * (1 - 1e-4))).all()
        assert (found <= np.ceil(high * (1 + 1e-4))).all()
        assert _array(head.quantile(parameters, LEVELS)).min() > _array(head.scaled(-0.51))


def test_no_two_draws_of_a_count_are_equal():
    """Ranks of paths come from draws: among zeros chance decides, and not the path's number."""
    head = NegativeBinomial(*SCALE)
    uniform = np.random.default_rng(0).uniform(0.0, 0.6, 200).astype("float32")
    drawn = _array(head.quantile(_tensor([0.01], [0.5]), uniform))[0]
    assert (_array(head.counts(ops.convert_to_tensor(drawn.astype("float32")))) == 0).all()
    np.testing.assert_array_equal(np.argsort(drawn), np.argsort(uniform))


def test_student_t_is_scipys():
    freedom = np.array([2.51, 3.0, 4.6, 30.0, 700.0])
    reference = scipy.stats.t(freedom[:, None], 0.3, 2.0)
    parameters = _tensor(0.3, 2.0, freedom)
    found = _array(StudentT().quantile(parameters, LEVELS))
    np.testing.assert_allclose(found, reference.ppf(LEVELS.astype("float64")), rtol=2e-3)
    y = np.array([-3e4, -5.0, 0.3, 1.0, 40.0], "float32")
    density = StudentT().log_likelihood(parameters[:, None], ops.convert_to_tensor(y)[None])
    np.testing.assert_allclose(
        _array(density), reference.logpdf(y.astype("float64")), rtol=1e-4, atol=1e-4
    )


@few
@given(heads, seeds, st.sampled_from([-1e6, -30.0, 0.0, 30.0, 1e6]), st.floats(-1e3, 1e3))
def test_losses_and_their_gradients_are_finite(head, seed, y, size):
    """Whatever the network puts out and whatever was observed."""
    raw = np.random.default_rng(seed).normal(size=(4, head.size)) * size
    truth = ops.full((4,), y, dtype="float32")

    def loss(named):
        return ops.sum(head.loss(head.parameters(named["raw"], 0.0), truth))

    assert np.isfinite(_array(loss({"raw": ops.convert_to_tensor(raw.astype("float32"))})))
    assert np.isfinite(gradients(loss, {"raw": raw})["raw"]).all()
