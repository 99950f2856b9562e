"""The network of numbers: gradients through the initial state, and mixed precision."""

import keras
import numpy as np
import pytest

from curves import ROWS, columns_of, curve_tables, fit_curves, forecast_of, mixed_prefixes
from statecast.networks.network import Network

pytestmark = pytest.mark.backends


def test_the_gradient_reaches_the_encoder_through_h_and_through_c(fitted):
    """One step of training on h's head alone, or on c's alone, moves the encoder."""
    series, static = curve_tables()
    for leaf in ("h", "c"):
        decoder, options = fitted._plan(fitted.schema)
        options["conditioning"] = "both"
        network = Network(decoder, **options, seed=0)
        weights = network.weight_map()
        # Cut every other way from the encoder to the forecast.
        encoding = options["encoding"]
        for name, weight in weights.items():
            value = keras.ops.convert_to_numpy(weight).copy()
            if name in ("decoder/head/kernel", "decoder/cell/0/kernel"):
                value[:, -encoding:] = 0
            elif name.startswith("initial/") and name != f"initial/0/{leaf}/kernel":
                value[...] = 0
            else:
                continue
            weight.assign(value)
        before = keras.ops.convert_to_numpy(weights["encoder/kernel"]).copy()
        panel = fitted.schema.panel(series, static)
        network.compile(optimizer=keras.optimizers.SGD(0.1))
        ones = np.ones((ROWS, 1, panel.y.shape[1]), "float32")
        network.train_on_batch(
            {
                "value": panel.y[:, None],
                "observed": 0 * ones,
                "numeric": panel.numeric[:, None],
                "codes": panel.codes[:, None],
            },
            panel.y[:, None],
            sample_weight=ones * np.ones((1, options["members"], 1), "float32"),
        )
        moved = keras.ops.convert_to_numpy(weights["encoder/kernel"]) - before
        assert np.isfinite(moved).all()
        assert np.abs(moved).max() > 0, leaf


def test_h_and_c_have_different_initial_states(fitted):
    _, static = curve_tables()
    state = fitted.state(None, static)
    assert not np.allclose(state["cell/0/h"], state["cell/0/c"], atol=1e-2)


@pytest.mark.parametrize(
    "policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_mixed_precision(policy):
    series, static = curve_tables()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        f = fit_curves()
        assert f.network.compute_dtype == policy.removeprefix("mixed_")
        assert all(weight.dtype == "float32" for weight in f.network.trainable_weights)
        found = columns_of(forecast_of(f, mixed_prefixes(series, 5), static))
    finally:
        keras.config.set_dtype_policy(before)
    assert np.isfinite(found).all()
    assert (np.abs(found - 55) < 30).all()
