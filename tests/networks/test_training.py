"""Training: an interrupted fit keeps the best epoch; a fit has no deprecation warnings."""

import threading
import warnings
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
import pytest

from curves import T, columns_of, curve_tables, forecast_of
from effort import SLOW_TO_COMPILE, on_gpu
from statecast import errors
from statecast.forecast.forecaster import Forecaster
from statecast.networks import training
from statecast.tokens.forecaster import TokenForecaster

pytestmark = pytest.mark.backends


def test_interrupted_it_keeps_the_best_epoch(tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def __init__(self, epoch):
            super().__init__()
            self.epoch = epoch

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == self.epoch:
                raise KeyboardInterrupt

    series, static = curve_tables()
    small: dict[str, Any] = {"units": 4, "encoding": 4, "ensemble": 2, "epochs": 5}
    f = Forecaster(**small).fit(series, static, callbacks=[Interrupt(2)], verbose=0)
    assert len(f.history["loss"]) == 2
    assert np.isfinite(columns_of(forecast_of(f, None, static))).all()
    f.save(tmp_path / "m.safetensors")
    fresh = Forecaster(**small)
    with pytest.raises(KeyboardInterrupt):
        fresh.fit(series, static, callbacks=[Interrupt(0)], verbose=0)
    with pytest.raises(errors.NotFittedError, match="call fit or load first"):
        fresh.predict(None, static, until=T)


@pytest.mark.gpu
def test_on_a_gpu_it_learns_and_forecasts(tmp_path):
    found = []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            found.extend(on_gpu(w.value) for w in self.model.trainable_variables)

    series, static = curve_tables(72)
    small: dict[str, Any] = {"units": 8, "ensemble": 2, "epochs": 8, "seed": 0}
    f = Forecaster(**small).fit(series, static, callbacks=[Look()], verbose=0)
    assert found
    assert all(found)
    losses = np.array(f.history["loss"], float)
    assert losses[-1] < losses[0]
    expected = columns_of(forecast_of(f, None, static))
    assert np.isfinite(expected).all()
    f.save(tmp_path / "m.safetensors")
    again = Forecaster.load(tmp_path / "m.safetensors")
    assert columns_of(forecast_of(again, None, static)).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("kind", "more", "verbose"),
    [
        (Forecaster, {}, 2),
        pytest.param(
            *(Forecaster, {"head": "negative_binomial", "conditioning": "both"}, 0),
            marks=SLOW_TO_COMPILE,
        ),
        pytest.param(
            *(Forecaster, {"cell": "gru", "layers": 2}, 0),
            marks=SLOW_TO_COMPILE,
        ),
        (TokenForecaster, {}, 0),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                (Forecaster, {}, 0),
                (Forecaster, {"head": "negative_binomial", "conditioning": "both"}, 2),
                (Forecaster, {"cell": "gru", "layers": 2}, 2),
                (TokenForecaster, {}, 2),
            )
        ),
    ],
)
def test_a_fit_has_no_deprecation_warnings(kind, more, verbose):
    """NumPy 2 warns if ``np.array`` takes a tensor or a variable of Keras, and if an array and a
    tensor of PyTorch are added."""
    rng = np.random.default_rng(0)
    Y, X = rng.integers(0, 9, (24, 5)).astype(float), rng.normal(size=(24, 2))
    f = kind(units=4, encoding=4, ensemble=2, epochs=1, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        warnings.simplefilter("error", PendingDeprecationWarning)
        f.fit(Y, X, verbose=verbose)


SMALL: dict[str, Any] = {"units": 4, "encoding": 4, "ensemble": 2, "epochs": 2}


@pytest.fixture
def compiled(caplog):
    """The names of the steps that JAX compiles while the test runs."""
    jax = pytest.importorskip("jax")
    if keras.backend.backend() != "jax":
        pytest.skip("the other backends share no compiled steps")
    training._kept.clear()
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        yield lambda: [
            step
            for record in caplog.records
            for step in ("train_step", "test_step")
            if record.getMessage().startswith(f"Finished XLA compilation of jit({step})")
        ]
    training._kept.clear()


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (Forecaster, {}),
        pytest.param(
            Forecaster,
            {"cell": "gru", "layers": 2, "conditioning": "both", "seed": 3},
            marks=pytest.mark.slow,
        ),
        (TokenForecaster, {"dropout": 0.3}),
    ],
)
def test_a_second_fit_compiles_nothing_and_is_that_of_a_new_process(kind, more, compiled):
    rng = np.random.default_rng(0)
    Y, X = rng.integers(0, 9, (60, 5)).astype(float), rng.normal(size=(60, 2))

    def fitted(part):
        return kind(**SMALL | more).fit(Y[part], X[part], verbose=0)

    first = fitted(slice(0, 48))
    network, weights = first.network, first.network.weight_arrays()
    assert compiled() == ["train_step", "test_step"]
    second = fitted(slice(9, 58))  # another number of items, as in another fold
    assert compiled() == ["train_step", "test_step"]
    for name, weight in network.weight_arrays().items():
        np.testing.assert_array_equal(weight, weights[name])
    training._kept.clear()
    assert fitted(slice(9, 58)).fingerprint == second.fingerprint != first.fingerprint
    assert len(compiled()) == 4


@pytest.mark.parametrize(
    "more",
    [
        {"units": 5},
        {"learning_rate": 0.1},
        pytest.param({"weight_decay": 0.5}, marks=pytest.mark.slow),
        pytest.param({"epochs": 3}, marks=pytest.mark.slow),
    ],
)
def test_other_settings_share_no_compiled_step(more, compiled):
    rng = np.random.default_rng(0)
    Y, X = rng.normal(size=(40, 5)), rng.normal(size=(40, 2))
    Forecaster(**SMALL).fit(Y, X, verbose=0)
    found = Forecaster(**SMALL | more).fit(Y, X, verbose=0)
    assert len(compiled()) == 4
    training._kept.clear()
    assert Forecaster(**SMALL | more).fit(Y, X, verbose=0).fingerprint == found.fingerprint


def test_a_fit_that_fails_leaves_no_step_behind(compiled):
    class Freeze(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            assert self.model is not None
            self.model.encoder.trainable = False  # Keras refuses it after the optimizer was built

    rng = np.random.default_rng(0)
    Y, X = rng.normal(size=(40, 5)), rng.normal(size=(40, 2))
    first = Forecaster(**SMALL).fit(Y, X, verbose=0)
    with pytest.raises(ValueError, match="trainable_variables"):
        Forecaster(**SMALL).fit(Y, X, callbacks=[Freeze()], verbose=0)
    assert not training._kept
    assert Forecaster(**SMALL).fit(Y, X, verbose=0).fingerprint == first.fingerprint


def test_fits_in_several_threads_are_those_of_one(compiled):
    rng = np.random.default_rng(0)
    Y, X = rng.normal(size=(40, 5)), rng.normal(size=(40, 2))
    expected = [Forecaster(**SMALL, seed=seed).fit(Y, X, verbose=0).fingerprint for seed in (0, 1)]
    found: dict[int, str] = {}

    def fit(seed):
        found[seed] = Forecaster(**SMALL, seed=seed).fit(Y, X, verbose=0).fingerprint

    threads = [threading.Thread(target=fit, args=(seed,)) for seed in (0, 1)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [found[0], found[1]] == expected


def test_few_compiled_steps_are_kept(compiled, monkeypatch):
    monkeypatch.setattr(training, "KEPT", 2)
    rng = np.random.default_rng(0)
    Y, X = rng.normal(size=(24, 5)), rng.normal(size=(24, 2))
    for units in range(1, training.KEPT + 2):
        small: dict[str, Any] = SMALL | {"units": units, "epochs": 1}
        Forecaster(**small).fit(Y, X, verbose=0)
    assert len(training._kept) == training.KEPT


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (Forecaster, {}),
        (Forecaster, {"cell": "gru", "layers": 2, "head": "negative_binomial"}),
        (TokenForecaster, {"dropout": 0.0}),  # XLA draws other numbers
    ],
)
def test_a_long_training_is_compiled_by_xla_and_is_that_of_the_graph(kind, more, monkeypatch):
    rng = np.random.default_rng(0)
    Y, X = rng.integers(0, 9, (40, 5)).astype(float), rng.normal(size=(40, 2))
    asked = []

    def fitted(least):
        monkeypatch.setattr(training, "UPDATES", least)
        monkeypatch.setattr(
            training,
            "compiled_before",
            lambda network: asked.append(network.jit_compile) or nullcontext(),
        )
        return kind(**SMALL | more).fit(Y, X, verbose=0).network.weight_arrays()

    long, short = fitted(1), fitted(10_000)
    assert asked == [True, False]
    for name, weight in long.items():
        np.testing.assert_allclose(weight, short[name], rtol=1e-3, atol=1e-4, err_msg=name)
