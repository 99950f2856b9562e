"""Set the state from which a recurrent network starts: a question of 2017, step by step.

A user of Keras set the states of a stateful LSTM with ``reset_states([h, c])``, read them back
and found the old values. He wanted to start each batch, of one sequence, from a state that is
computed from static features X; to pass the first values p1..p3 of the sequence; and to forecast
p4..p30.

    KERAS_BACKEND=jax python examples/reset_states.py        # or torch, or tensorflow

Every line that the script prints is checked. Its exit code is 1 if a check fails. The curves are
generated, so the forecast errors are not those of real data.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")  # Keras reads it when it is imported

import keras
import numpy as np

from statecast import InitialState, ResetStates, explain_state, reset_states
from statecast.layers.recurrent import LSTM

UNITS = 10
KNOWN, STEPS = 3, 30  # p1..p3 are given, p4..p30 are forecast
ITEMS, EPOCHS = 24, 15
TOLERANCE = 1e-5  # relative to the largest value: float32 rounding over some tens of steps

failed: list[str] = []


def show(line: str = "") -> None:
    print(line, flush=True)


def check(holds: Any, line: str) -> None:
    """Print a line and whether it is true. A false one is added to ``failed``."""
    holds = bool(holds)
    show(f"  {'ok   ' if holds else 'WRONG'}  {line}")
    if not holds:
        failed.append(line)


def close(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and np.abs(a - b).max() <= TOLERANCE * max(1.0, np.abs(b).max())


def both(h: float, c: float) -> list[np.ndarray]:
    """A state of one row, [h, c], in which all numbers of h are equal, and all of c."""
    return [np.full((1, UNITS), h), np.full((1, UNITS), c)]


# -- 1. set the state, read it, start from it ----------------------------------------------------


def reads(layer: LSTM, h: float, c: float) -> bool:
    """Whether the layer's current state is exactly this, read by name and as in Keras."""
    expected = both(h, c)
    by_name = [layer.state["h"], layer.state["c"]]
    as_in_keras = [state.numpy() for state in layer.states]
    return all(
        np.array_equal(a, e) and np.array_equal(b, e)
        for a, b, e in zip(by_name, as_in_keras, expected, strict=True)
    )


def set_and_read() -> None:
    show("1. Set the state, read it back, start from it")
    inputs = keras.Input(batch_shape=(1, 3, 1))
    lstm = LSTM(UNITS, stateful=True)
    model = keras.Model(inputs, lstm(inputs))
    p = np.array([[[0.1], [0.2], [0.3]]], "float32")

    check(reads(lstm, 0, 0), "built: h and c read 0")
    from_zeros = model.predict(p, verbose=0)  # this compiles; a state that is set later is used too
    check(not reads(lstm, 0, 0), "predict: the state has changed")

    lstm.reset_states(both(1, 2))
    check(reads(lstm, 1, 2), "reset_states([ones, twos]): h reads 1, c reads 2")
    lstm.reset_states(both(5, 24))
    check(reads(lstm, 5, 24), "reset_states([5s, 24s]): h reads 5, c reads 24")

    # The expected output is that of Keras's stateless layer with the same weights.
    keras_lstm = keras.layers.LSTM(UNITS, return_state=True)
    keras_lstm.build((1, 3, 1))
    keras_lstm.set_weights(lstm.get_weights())
    start = [keras.ops.convert_to_tensor(leaf, "float32") for leaf in both(5, 24)]
    expected = [keras.ops.convert_to_numpy(tensor) for tensor in keras_lstm(p, initial_state=start)]

    found = model.predict(p, verbose=0)
    check(
        close(found, expected[0]),
        "predict: equals Keras's stateless LSTM with initial_state=[5s, 24s], up to "
        f"{np.abs(found - expected[0]).max():.0e}",
    )
    check(not close(found, from_zeros), "         and differs from the output from zeros")
    check(
        close(lstm.state["h"], expected[1]) and close(lstm.state["c"], expected[2]),
        "         and the state is the one after the last step",
    )

    lstm.reset_states()
    check(reads(lstm, 0, 0), "reset_states(): h and c read 0 again")
    check(close(model.predict(p, verbose=0), from_zeros), "predict: equals the first, from zeros")


# -- the curves -----------------------------------------------------------------------------------


def curves(X: np.ndarray) -> np.ndarray:
    """p1..p30 ``(items, 30)`` of generated items, from their X ``(items, 2)``.

    All are logistic curves that start at 0.1. X determines the largest value and the rate of
    growth, so p1..p3 have little information on p4..p30, and X has much.
    """
    top, rate = 1 + 0.5 * X[:, :1], 0.35 + 0.15 * X[:, 1:]
    return (top / (1 + (top / 0.1 - 1) * np.exp(-rate * np.arange(STEPS)))).astype("float32")


# The training data: complete curves. The inputs are p1..p29, and the target of each is the next.
X = np.random.default_rng(2017).uniform(-1, 1, (ITEMS, 2)).astype("float32")
P = curves(X)
BEFORE, NEXT = P[:, :-1, None], P[:, 1:, None]
# New items, whose X and p1..p3 are given.
NEW_X = np.array([[0.7, 0.7], [-0.7, 0.7], [0.7, -0.7], [-0.7, -0.7]], "float32")
NEW_P = curves(NEW_X)

Step = Callable[[np.ndarray], np.ndarray]  # from values (1, steps, 1) to the forecast after each


def rest(step: Step, begun: np.ndarray) -> np.ndarray:
    """Forecasts of p4..p30 in a closed loop: p1..p3 are the input of the first call, and each
    forecast is the input of the next call. Each call starts from the state after the one before.
    """
    forecasts = [step(begun.reshape(1, -1, 1))[0, -1, 0]]
    while len(forecasts) < STEPS - KNOWN:
        forecasts.append(step(forecasts[-1].reshape(1, 1, 1))[0, -1, 0])
    return np.array(forecasts)


def compare(forecasts: list[np.ndarray]) -> None:
    """Compare forecasts of the new items with the truth, and with the mean training curve."""
    for row, values in (("forecast", forecasts[0]), ("truth", NEW_P[0, KNOWN:])):
        shown = "  ".join(f"p{t} {values[t - KNOWN - 1]:.2f}" for t in (4, 10, 20, 30))
        show(f"         the first new item, {row:8}:  {shown}")
    error = np.abs(forecasts - NEW_P[:, KNOWN:]).mean()
    plain = np.abs(P[:, KNOWN:].mean(axis=0) - NEW_P[:, KNOWN:]).mean()
    check(
        error < plain,
        f"p4..p30 of {len(NEW_P)} new items: mean absolute error {error:.3f} "
        f"(of the mean training curve: {plain:.3f})",
    )


def compiled(model: Any) -> Any:
    rate = keras.optimizers.schedules.CosineDecay(0.02, ITEMS * EPOCHS)
    model.compile(keras.optimizers.Adam(rate), "mse")
    return model


# -- 2. X sets the state before each batch: by a function of your own ------------------------------


def from_x(x: np.ndarray) -> list[np.ndarray]:
    """A state [h, c] from X ``(1, 2)``. It may be any function; this one writes X into c."""
    return [np.zeros((1, UNITS)), np.tile(x, UNITS // x.shape[1])]


def by_a_function() -> None:
    show("2. X sets the state before each batch of size 1, by a function of your own")
    p = keras.Input(batch_shape=(1, None, 1))  # any number of steps: 29, 3, then 1 at a time
    lstm = LSTM(UNITS, stateful=True, return_sequences=True)
    model = compiled(keras.Model(p, keras.layers.Dense(1)(lstm(p))))

    # The argument of the function is the number of the batch, so the items must be in order.
    before_each = ResetStates("batch", states=lambda batch: from_x(X[batch : batch + 1]))
    options = {"batch_size": 1, "verbose": 0, "callbacks": [before_each]}

    def first_loss(states: Any) -> float:
        reset_states(model, states)
        return float(np.mean((model.predict_on_batch(BEFORE[:1]) - NEXT[:1]) ** 2))

    by_hand, from_zeros = first_loss(from_x(X[:1])), first_loss(None)
    # The loss of a batch is computed before the weights are updated, so it shows the initial state.
    loss = model.fit(BEFORE[:1], NEXT[:1], **options).history["loss"][0]
    check(
        close(loss, by_hand) and not close(loss, from_zeros),
        f"fit: the loss of the first batch is {loss:.4f}, as by hand from the state of its X "
        f"(from zeros: {from_zeros:.4f})",
    )
    losses = model.fit(BEFORE, NEXT, epochs=EPOCHS, shuffle=False, **options).history["loss"]
    check(losses[-1] < losses[0], f"fit: the loss goes from {losses[0]:.4f} to {losses[-1]:.4f}")

    together = model.predict(BEFORE, **options)
    alone = []
    for x, before in zip(X, BEFORE, strict=True):
        lstm.reset_states(from_x(x[None]))
        alone.append(model.predict_on_batch(before[None]))
    check(
        close(together, np.concatenate(alone)),
        f"predict: {ITEMS} batches with the callback equal {ITEMS} items set by hand",
    )

    forecasts = []
    for x, begun in zip(NEW_X, NEW_P[:, :KNOWN], strict=True):
        lstm.reset_states(from_x(x[None]))
        forecasts.append(rest(model.predict_on_batch, begun))
    compare(forecasts)


# -- 3. X sets the state before each batch: learned ------------------------------------------------


def learned() -> None:
    show("3. X sets the state before each batch of size 1, by a map that is trained too")
    x, p = keras.Input(batch_shape=(1, 2)), keras.Input(batch_shape=(1, None, 1))
    lstm = LSTM(UNITS, stateful=True, return_sequences=True)
    start = InitialState(lstm)
    y = keras.layers.Dense(1)(lstm(p, initial_state=start(x)))
    model = compiled(keras.Model([x, p], y))

    def given(x: np.ndarray) -> Step:
        return lambda window: model.predict_on_batch([x[None], window])

    check(explain_state(model)[0].rows == ("from X",), "built: the row is fresh and starts from X")
    before = start.get_weights()
    losses = model.fit(
        [X, BEFORE],
        NEXT,
        batch_size=1,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[ResetStates("batch")],  # the row is fresh again before each batch
    ).history["loss"]
    check(losses[-1] < losses[0], f"fit: the loss goes from {losses[0]:.4f} to {losses[-1]:.4f}")
    check(
        all(np.any(a != b) for a, b in zip(before, start.get_weights(), strict=True)),
        "fit: the maps from X to h and to c were trained with the other weights",
    )

    forecasts = []
    for x_new, begun in zip(NEW_X, NEW_P[:, :KNOWN], strict=True):
        reset_states(model)
        forecasts.append(rest(given(x_new), begun))
    check(explain_state(model)[0].rows == ("current",), "after p30: the row is running")

    begun = NEW_P[0, :KNOWN]
    reset_states(model)
    whole = np.concatenate([begun, forecasts[0][:-1]])
    at_once = given(NEW_X[0])(whole.reshape(1, -1, 1))[0, KNOWN - 1 :, 0]
    check(close(forecasts[0], at_once), "predict: one step at a time equals all steps in one call")

    reset_states(model)
    given(NEW_X[0])(begun.reshape(1, -1, 1))
    p5 = given(-NEW_X[0])(forecasts[0][:1].reshape(1, 1, 1))[0, -1, 0]
    check(close(p5, forecasts[0][1]), "predict: only a fresh row uses X; a running row ignores it")

    reset_states(model)
    other = rest(given(-NEW_X[0]), begun)
    check(
        other[-1] < forecasts[0][-1] - 0.1,
        f"p30 of the first new item: {forecasts[0][-1]:.2f}; with the same p1..p3 and the negative "
        f"X: {other[-1]:.2f}",
    )
    compare(forecasts)


def main() -> int:
    keras.utils.set_random_seed(2017)
    show(f"Keras {keras.__version__} on {keras.backend.backend()}")
    for part in (set_and_read, by_a_function, learned):
        show()
        part()
    show()
    show(
        "All checks passed." if not failed else f"{len(failed)} checks failed: {'; '.join(failed)}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
