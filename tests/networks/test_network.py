"""The network of numbers: its encoder, gradients through the initial state, mixed precision."""

from functools import partial

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curves import ROWS, columns_of, curve_tables, fit_curves, forecast_of, mixed_prefixes
from effort import examples
from gradients import gradients
from statecast.networks.decoder import piecewise
from statecast.networks.network import Encoder, Network
from statecast.state import at_rest
from words import fit_words, word_tables

pytestmark = pytest.mark.backends


def encoded_in_float64(encoder: Encoder, numeric: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """An ``Encoder``'s definition, written anew: ``(members, rows, width)``."""
    weights = {
        name: keras.ops.convert_to_numpy(weight).astype(float)
        for name, weight in encoder.weight_map().items()
    }
    columns, values = [numeric.astype(float)], numeric[:, encoder.divided]
    places = np.linspace(-1, 1, encoder.intervals + 1)
    edges = 2.0 * np.sign(places) * np.abs(places) ** 1.3
    for i in range(encoder.intervals):
        ramp, mean = (np.interp(at, edges[i : i + 2], [0.0, 1.0]) for at in (values, 0.0))
        columns.append(0.5 * np.asarray(ramp - mean))
    x = weights["bias"][:, None] + np.concatenate(columns, axis=1) @ weights["kernel"]
    for i in range(codes.shape[1]):
        x = x + weights[f"embedding_{i}"][:, codes[:, i]]
    if encoder.hidden:
        x = np.tanh(x) @ weights["out/kernel"] + weights["out/bias"][:, None]
    return np.tanh(x)


@settings(max_examples=examples(30, compiled=True), deadline=None)
@given(
    intervals=st.sampled_from([2, 3, 8]),
    divided=st.sets(st.integers(0, 2)),
    hidden=st.sampled_from([0, 5]),
    features=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_the_encoder_is_its_definition(intervals, divided, hidden, features, seed):
    rng = np.random.default_rng(seed)
    own = sorted(divided & {*range(features)})
    encoder = Encoder(4, (3,), 2, rng, intervals=intervals, divided=own, hidden=hidden)
    encoder.build((None, None, 2 * features))
    for weight in encoder.weight_map().values():
        weight.assign(rng.normal(0, 0.7, weight.shape))
    numeric = rng.normal(0, 2, (6, 2 * features)).astype("float32")
    codes = rng.integers(0, 3, (6, 1)).astype("int32")
    found = keras.ops.convert_to_numpy(encoder(numeric[None], codes[None]))
    assert np.allclose(found, encoded_in_float64(encoder, numeric, codes), atol=1e-5)
    factor = rng.normal(size=found.shape).astype("float32")
    slopes = gradients(
        lambda x: keras.ops.sum(
            keras.ops.multiply(encoder(x["numeric"][None], codes[None]), factor)
        ),
        {"numeric": numeric},
    )["numeric"]
    small = 1e-6
    for column in range(2 * features):
        moved = [numeric.astype(float) for _ in range(2)]
        moved[0][:, column] += small
        moved[1][:, column] -= small
        plus, minus = (
            (encoded_in_float64(encoder, at, codes) * factor).sum((0, 2)) for at in moved
        )
        assert np.allclose(slopes[:, column], (plus - minus) / (2 * small), atol=1e-3)


@settings(max_examples=examples(60), deadline=None)
@given(
    intervals=st.integers(1, 9),
    divided=st.sets(st.integers(0, 2), min_size=1),
    seed=st.integers(0, 99),
)
def test_columns_of_intervals_are_monotone_and_zero_at_the_mean(intervals, divided, seed):
    x = np.sort(np.random.default_rng(seed).normal(0, 2, (40, 3)), axis=0)
    x[0] = 0.0
    numeric = np.concatenate([x, np.zeros_like(x)], axis=1).astype("float32")
    columns = piecewise(numeric, intervals, sorted(divided), np)
    assert columns.shape == (40, 6 + intervals * len(divided))
    assert (columns[:, :6] == numeric).all()
    added = columns[:, 6:].reshape(40, intervals, len(divided))
    assert (added[0] == 0).all()
    assert (np.diff(added[1:], axis=0) >= 0).all()
    assert added.min() >= -0.5
    assert added.max() <= 0.5


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


@pytest.mark.parametrize("kind", ["numbers", "tokens"])
def test_products_in_bfloat16(kind, tmp_path):
    """Training rounds the factors of the recurrence's products only: it ends with other weights of
    float32, nearly as good. Forecasts do not depend on the setting."""
    fit = fit_curves if kind == "numbers" else partial(fit_words, word_tables()[0])
    exact, f = fit(), fit(precision="bfloat16")
    assert all(weight.dtype == "float32" for weight in f.network.trainable_weights)
    weights = [at_rest(g.network.cell_weights["cell/0/kernel"].value) for g in (exact, f)]
    assert np.abs(weights[0] - weights[1]).max() > 0
    losses = [g.history["val_loss"][-1] for g in (exact, f)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    f.save(tmp_path / "f")
    loaded = type(f).load(tmp_path / "f")
    assert loaded.settings.precision == "bfloat16"
    if kind == "numbers":
        series, static = curve_tables()
        asked = mixed_prefixes(series, 5)
        found = [columns_of(forecast_of(g, asked, static)) for g in (f, loaded)]
        assert found[0].tobytes() == found[1].tobytes()


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
