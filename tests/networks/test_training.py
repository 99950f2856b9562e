"""Training: an interrupted fit keeps the best epoch; a fit has no deprecation warnings."""

import warnings
from typing import Any

import keras
import numpy as np
import pytest

from curves import T, columns_of, curve_tables, forecast_of
from statecast import errors
from statecast.forecast.forecaster import Forecaster
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


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (Forecaster, {}),
        (Forecaster, {"head": "negative_binomial", "conditioning": "both"}),
        (Forecaster, {"cell": "gru", "layers": 2}),
        (TokenForecaster, {}),
    ],
)
@pytest.mark.parametrize("verbose", [0, 2])
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
