"""Start a recurrent network where you say: a question of 2017, line by line.

A user of Keras set the states of a stateful LSTM with ``reset_states([h, c])``, read them back
and found the old values. What he wanted: start each batch, of one sequence, from a state that is
computed from static features X; give the first values p1..p3 of a sequence; and let the network
say p4..p30.

    KERAS_BACKEND=jax python examples/reset_states.py        # or torch, or tensorflow

Every line of the account is checked. The script ends with exit code 1 if one does not hold.
The curves are generated below: they show that the machinery works, and nothing about real data.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")  # before Keras is imported: it chooses once

import keras
import numpy as np

from statecast import InitialState, ResetStates, explain_state, reset_states
from statecast.layers.recurrent import LSTM

UNITS = 10
KNOWN, STEPS = 3, 30  # p1..p3 are given, p4..p30 are to be said
ITEMS, EPOCHS = 24, 15
TOLERANCE = 1e-5  # of float32, relative to the largest value: some tens of steps' rounding

failed: list[str] = []


def say(line: str = "") -> None:
    print(line, flush=True)


def check(holds: Any, line: str) -> None:
    """Say a line and whether it holds; the exit code remembers."""
    holds = bool(holds)
    say(f"  {'ok   ' if holds else 'WRONG'}  {line}")
    if not holds:
        failed.append(line)


def close(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and np.abs(a - b).max() <= TOLERANCE * max(1.0, np.abs(b).max())


def both(h: float, c: float) -> list[np.ndarray]:
    """A state of one row, [h, c], with the same number in every place."""
    return [np.full((1, UNITS), h), np.full((1, UNITS), c)]


# -- 1. set the state, read it, start there ------------------------------------------------------


def reads(layer: LSTM, h: float, c: float) -> bool:
    """Whether the layer's current state is exactly this, by either way to read it."""
    expected = both(h, c)
    by_name = [layer.state["h"], layer.state["c"]]
    as_in_keras = [state.numpy() for state in layer.states]
    return all(
        np.array_equal(a, e) and np.array_equal(b, e)
        for a, b, e in zip(by_name, as_in_keras, expected, strict=True)
    )


def set_and_read() -> None:
    say("1. Set the state, read it back, start there")
    inputs = keras.Input(batch_shape=(1, 3, 1))
    lstm = LSTM(UNITS, stateful=True)
    model = keras.Model(inputs, lstm(inputs))
    p = np.array([[[0.1], [0.2], [0.3]]], "float32")

    check(reads(lstm, 0, 0), "built: h and c read 0")
    from_zeros = model.predict(p, verbose=0)  # and all is compiled now; a set counts none the less
    check(not reads(lstm, 0, 0), "predict: the state has moved on")

    lstm.reset_states(both(1, 2))
    check(reads(lstm, 1, 2), "reset_states([ones, twos]): h reads 1, c reads 2")
    lstm.reset_states(both(5, 24))
    check(reads(lstm, 5, 24), "reset_states([5s, 24s]): h reads 5, c reads 24")

    # Keras's own layer, not stateful, with the same weights says what ought to come out.
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
    check(not close(found, from_zeros), "         and is not what comes out from zeros")
    check(
        close(lstm.state["h"], expected[1]) and close(lstm.state["c"], expected[2]),
        "         and the state reads what the last step left",
    )

    lstm.reset_states()
    check(reads(lstm, 0, 0), "reset_states(): h and c read 0 again")
    check(close(model.predict(p, verbose=0), from_zeros), "predict: as the first time, from zeros")


# -- the curves -----------------------------------------------------------------------------------


def curves(X: np.ndarray) -> np.ndarray:
    """p1..p30 ``(items, 30)`` of items made up for this example, from their X ``(items, 2)``.

    All start at 0.1 and grow (logistically) to a top; X says how high it is and how fast they get
    there. So p1..p3 tell little about the rest, and X tells much.
    """
    top, rate = 1 + 0.5 * X[:, :1], 0.35 + 0.15 * X[:, 1:]
    return (top / (1 + (top / 0.1 - 1) * np.exp(-rate * np.arange(STEPS)))).astype("float32")


# What is learned from: the whole curves of some items; p1..p29, and after each of them the next.
X = np.random.default_rng(2017).uniform(-1, 1, (ITEMS, 2)).astype("float32")
P = curves(X)
BEFORE, NEXT = P[:, :-1, None], P[:, 1:, None]
# New items, of which the network is given X and p1..p3.
NEW_X = np.array([[0.7, 0.7], [-0.7, 0.7], [0.7, -0.7], [-0.7, -0.7]], "float32")
NEW_P = curves(NEW_X)

Step = Callable[[np.ndarray], np.ndarray]  # values (1, steps, 1) to what comes after each


def rest(step: Step, begun: np.ndarray) -> np.ndarray:
    """p4..p30 in closed loop: p1..p3 go in at once, then each value said goes in as the next.

    The state keeps the network's place, so nothing of the past is run again.
    """
    said = [step(begun.reshape(1, -1, 1))[0, -1, 0]]
    while len(said) < STEPS - KNOWN:
        said.append(step(said[-1].reshape(1, 1, 1))[0, -1, 0])
    return np.array(said)


def compare(said: list[np.ndarray]) -> None:
    """p4..p30 of the new items with the truth, and with the mean of the known curves."""
    for row, values in (("said", said[0]), ("true", NEW_P[0, KNOWN:])):
        shown = "  ".join(f"p{t} {values[t - KNOWN - 1]:.2f}" for t in (4, 10, 20, 30))
        say(f"         the first new item, {row}:  {shown}")
    error = np.abs(said - NEW_P[:, KNOWN:]).mean()
    plain = np.abs(P[:, KNOWN:].mean(axis=0) - NEW_P[:, KNOWN:]).mean()
    check(
        error < plain,
        f"p4..p30 of {len(NEW_P)} new items: mean absolute error {error:.3f} "
        f"(by the mean of the known curves: {plain:.3f})",
    )


def compiled(model: Any) -> Any:
    rate = keras.optimizers.schedules.CosineDecay(0.02, ITEMS * EPOCHS)
    model.compile(keras.optimizers.Adam(rate), "mse")
    return model


# -- 2. X sets the state before each batch: by a function of your own ------------------------------


def from_x(x: np.ndarray) -> list[np.ndarray]:
    """A state [h, c] from X ``(1, 2)``. Any function will do; this one writes X into c."""
    return [np.zeros((1, UNITS)), np.tile(x, UNITS // x.shape[1])]


def by_a_function() -> None:
    say("2. X sets the state before each batch of size 1, by a function of your own")
    p = keras.Input(batch_shape=(1, None, 1))  # any number of steps: 29, 3, then 1 at a time
    lstm = LSTM(UNITS, stateful=True, return_sequences=True)
    model = compiled(keras.Model(p, keras.layers.Dense(1)(lstm(p))))

    # The function is given the batch's number, so the items must come in order: shuffle=False.
    before_each = ResetStates("batch", states=lambda batch: from_x(X[batch : batch + 1]))
    options = {"batch_size": 1, "verbose": 0, "callbacks": [before_each]}

    def first_loss(states: Any) -> float:
        reset_states(model, states)
        return float(np.mean((model.predict_on_batch(BEFORE[:1]) - NEXT[:1]) ** 2))

    by_hand, from_zeros = first_loss(from_x(X[:1])), first_loss(None)
    # A batch's loss is taken before its weights are updated, so it tells where fit started.
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

    said = []
    for x, begun in zip(NEW_X, NEW_P[:, :KNOWN], strict=True):
        lstm.reset_states(from_x(x[None]))
        said.append(rest(model.predict_on_batch, begun))
    compare(said)


# -- 3. X sets the state before each batch: learned ------------------------------------------------


def learned() -> None:
    say("3. X sets the state before each batch of size 1, in a way learned with the rest")
    x, p = keras.Input(batch_shape=(1, 2)), keras.Input(batch_shape=(1, None, 1))
    lstm = LSTM(UNITS, stateful=True, return_sequences=True)
    start = InitialState(lstm)
    y = keras.layers.Dense(1)(lstm(p, initial_state=start(x)))
    model = compiled(keras.Model([x, p], y))

    def given(x: np.ndarray) -> Step:
        return lambda window: model.predict_on_batch([x[None], window])

    check(explain_state(model)[0].rows == ("from X",), "built: the row is fresh, it starts from X")
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
        "fit: what leads from X to h and to c was trained with the other weights",
    )

    said = []
    for x_new, begun in zip(NEW_X, NEW_P[:, :KNOWN], strict=True):
        reset_states(model)
        said.append(rest(given(x_new), begun))
    check(explain_state(model)[0].rows == ("current",), "after p30: the row is running")

    begun = NEW_P[0, :KNOWN]
    reset_states(model)
    whole = np.concatenate([begun, said[0][:-1]])
    at_once = given(NEW_X[0])(whole.reshape(1, -1, 1))[0, KNOWN - 1 :, 0]
    check(close(said[0], at_once), "predict: one step at a time equals all steps in one call")

    reset_states(model)
    given(NEW_X[0])(begun.reshape(1, -1, 1))
    p5 = given(-NEW_X[0])(said[0][:1].reshape(1, 1, 1))[0, -1, 0]
    check(close(p5, said[0][1]), "predict: only a fresh row looks at X, a running one goes on")

    reset_states(model)
    other = rest(given(-NEW_X[0]), begun)
    check(
        other[-1] < said[0][-1] - 0.1,
        f"p1..p3 of the first new item with its X end at {said[0][-1]:.2f}, with X of the other "
        f"sign at {other[-1]:.2f}",
    )
    compare(said)


def main() -> int:
    keras.utils.set_random_seed(2017)
    say(f"Keras {keras.__version__} on {keras.backend.backend()}")
    for part in (set_and_read, by_a_function, learned):
        say()
        part()
    say()
    say("All of it holds." if not failed else f"WRONG, {len(failed)} in all: {'; '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
