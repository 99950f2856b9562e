"""Stateful layers where a backward pass computes the forward pass again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from effort import SLOW_TO_COMPILE
from statecast import get_state
from statecast.errors import StateError
from statecast.layers import recurrent as layers

pytestmark = pytest.mark.backends

BACKEND = keras.backend.backend()
ROWS, STEPS = 4, 5
X = np.random.default_rng(0).normal(size=(ROWS, STEPS, 2)).astype("float32")


class Decay(keras.layers.Layer):
    """A cell of a user's own, with weights that it reads itself."""

    state_size = output_size = 3

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(shape=(shape[-1], 3), name="w")
        self.built = True

    def call(self, x: Any, states: Any) -> Any:
        h = ops.tanh(0.5 * states[0] + ops.matmul(x, self.w))
        return h, [h]


KINDS: dict[str, Callable[[], Any]] = {
    "lstm": lambda: layers.LSTM(3, return_sequences=True, stateful=True),
    "gru with dropout": lambda: layers.GRU(
        3, return_sequences=True, stateful=True, dropout=0.4, seed=1
    ),
    "bidirectional": lambda: layers.Bidirectional(
        layers.SimpleRNN(3, return_sequences=True, stateful=True)
    ),
    "own cell": lambda: layers.RNN(Decay(), return_sequences=True, stateful=True),
    "stateless": lambda: layers.LSTM(3, return_sequences=True),
}


def _fitted(make: Callable[[], Any], scope: dict[str, Any], whole: bool) -> list[np.ndarray]:
    """Weights, and state, after two epochs; the state goes on from batch to batch."""
    keras.utils.set_random_seed(0)

    def model(layer: Any) -> Any:
        return keras.Sequential([keras.Input(batch_shape=(ROWS, STEPS, 2)), layer])

    with keras.RematScope(**scope):
        layer = make()
        made = model(layer) if whole else None
    made = made or model(layer)
    made.compile(keras.optimizers.SGD(0.1), "mse")
    y = np.ones((ROWS, *made.output_shape[1:]), "float32")
    made.fit(X, y, batch_size=ROWS, epochs=2, shuffle=False, verbose=0)
    state = list(get_state(made).leaves.values()) if layer.stateful else []
    return [*made.get_weights(), *map(np.asarray, state)]


@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(False, id="the layer"),
        pytest.param(True, id="the whole model", marks=SLOW_TO_COMPILE),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_within_a_remat_scope_is_the_fit_without(kind: str, whole: bool) -> None:
    if kind == "stateless" and whole and BACKEND != "torch":
        pytest.skip("Keras does not compile a whole model made in the scope there")
    expected = _fitted(KINDS[kind], {"mode": None}, whole)
    found = _fitted(KINDS[kind], {"mode": "full"}, whole)
    for mine, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("scope", "again"),
    [
        ({"mode": "full"}, True),
        ({"mode": "larger_than", "output_size_threshold": ROWS * STEPS * 3 - 1}, True),
        ({"mode": "larger_than", "output_size_threshold": ROWS * STEPS * 3}, False),
        ({"mode": "list_of_layers", "layer_names": ["mine"]}, True),
        ({"mode": "list_of_layers", "layer_names": ["other"]}, False),
        ({"mode": "activations"}, False),
    ],
    ids=str,
)
def test_the_scope_says_whether_steps_are_computed_again(
    scope: dict[str, Any], again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    remat = keras.remat
    monkeypatch.setattr(keras, "remat", lambda f: asked.append(f) or remat(f))
    with keras.RematScope(**scope):
        layer = layers.LSTM(3, return_sequences=True, stateful=True, name="mine")
    layer(X)
    assert bool(asked) == again


def _replays() -> dict[str, Callable[[Any], Any]]:
    """Functions that run one of a user's once more for its gradient."""
    if BACKEND == "torch":
        import torch
        from torch.utils.checkpoint import checkpoint

        class Own(torch.autograd.Function):
            """As checkpoints that others have written do."""

            @staticmethod
            def forward(ctx: Any, f: Any, x: Any) -> Any:
                ctx.f = f
                ctx.save_for_backward(x)
                return x.sum()

            @staticmethod
            def backward(ctx: Any, *_: Any) -> Any:
                with torch.enable_grad():
                    x = ctx.saved_tensors[0].detach().requires_grad_()
                    return None, torch.autograd.grad(ctx.f(x).sum(), x)[0]

        def leaf() -> Any:
            return torch.tensor(X, requires_grad=True)

        return {
            "torch.utils.checkpoint": lambda f: checkpoint(f, leaf(), use_reentrant=False),
            "reentrant": lambda f: checkpoint(f, leaf(), use_reentrant=True),
            "a backward pass": lambda f: Own.apply(f, leaf()).backward(),
            "keras.remat": lambda f: keras.remat(f)(leaf()),
        }
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return {
            "tf.recompute_grad": lambda f: tf.recompute_grad(f)(tf.constant(X)),
            "in a tf.function": lambda f: tf.function(tf.recompute_grad(lambda x: f(x)))(
                tf.constant(X)
            ),
            "keras.remat": lambda f: keras.remat(f)(tf.constant(X)),
        }
    import jax

    def within(f: Any) -> Any:
        with keras.StatelessScope():
            return jax.grad(lambda x: jax.checkpoint(f)(x).sum())(X)

    return {"jax.checkpoint": within}


@pytest.mark.parametrize("kind", ["lstm", "bidirectional", "own cell"])
@pytest.mark.parametrize("way", _replays())
def test_what_runs_a_stateful_layer_again_is_refused(way: str, kind: str) -> None:
    layer = KINDS[kind]()
    layer(X)
    before = layer.state
    with pytest.raises(StateError, match=r"stateful and runs inside .* second time"):
        _replays()[way](layer)
    assert layer.state == before
    layer(X)  # and the next call works
    assert layer.state != before


def test_a_stateless_layer_may_be_run_again() -> None:
    layer = KINDS["stateless"]()
    layer(X)
    for run in _replays().values():
        run(layer)


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_a_checkpoint_around_a_stateless_call_carries_the_state() -> None:
    import jax

    layer = KINDS["lstm"]()
    layer(X)
    trainable = [v.value for v in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]

    def loss(weights: Any) -> Any:
        y, after = layer.stateless_call(weights, others, X)
        return (y**2).sum(), after

    plain = jax.jit(jax.grad(loss, has_aux=True))(trainable)
    again = jax.jit(jax.grad(jax.checkpoint(loss), has_aux=True))(trainable)
    for mine, right in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(mine, right, rtol=1e-5, atol=1e-6)
