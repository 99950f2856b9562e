"""What copies, files, checkpoints, validation and exports do with the state of a model: each row
of the table in docs/how_to/keras_state.md."""

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from statecast.control.models import (
    explain_state,
    get_state,
    peek,
    reset_states,
    set_state,
    take_control,
    trajectory,
)
from statecast.control.windows import ResetStates, Windows
from statecast.errors import ArgumentError, NotStatefulError, StateError
from statecast.layers import recurrent as layers
from statecast.state import State, at_rest

pytestmark = pytest.mark.backends

BACKEND = keras.backend.backend()
TOLERANCE = 300 * float(np.finfo("float32").eps)
ROWS, STEPS = 3, 4


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _weighted(model: Any) -> Any:
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    return model


def _close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(at_rest(found), at_rest(expected), rtol=TOLERANCE, atol=TOLERANCE)


@keras.saving.register_keras_serializable("tests")
class Twice(keras.Model):
    """A subclassed model with two layers of one name, and an initial state of their own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first = layers.GRU(2, stateful=True, return_sequences=True, name="r")
        self.then = layers.LSTM(3, stateful=True, initial_state=0.5, name="r")

    def build(self, shape: Any) -> None:
        self.first.build(shape)
        self.then.build((*shape[:2], 2))

    def call(self, x: Any) -> Any:
        return self.then(self.first(x))


def _subclassed() -> Any:
    model = Twice()
    model.build((None, STEPS, 2))
    return model


def _nested() -> Any:
    one_way = layers.SimpleRNN(2, return_sequences=True, stateful=True)
    both = layers.Bidirectional(one_way, name="both")
    inner = keras.Sequential([keras.Input((STEPS, 2)), both], name="inner")
    start = keras.Input((STEPS, 2))
    cells = [keras.layers.LSTMCell(3), keras.layers.SimpleRNNCell(2)]
    y = layers.RNN(cells, stateful=True, name="stack")(inner(start))
    model = keras.Model(start, keras.layers.Dense(1, name="dense")(y))
    model.compile("sgd", "mse")
    return model


def _small(stateful: bool = True, kind: Any = layers) -> Any:
    options = {"stateful": True} if stateful else {}
    model = keras.Sequential(
        [
            keras.Input((STEPS, 2)),
            kind.LSTM(3, name="lstm", **options),
            keras.layers.Dense(1, name="dense"),
        ],
        name="small",
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return _weighted(model)


def _layer() -> Any:
    layer = layers.GRU(3, stateful=True, initial_state="learned")
    layer.build((None, STEPS, 2))
    return layer


def _through_a_torch_file(model: Any) -> Any:
    import torch

    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "in a list": lambda model: copy.deepcopy([model, {"again": model}])[0],
} | ({"torch.save": _through_a_torch_file} if BACKEND == "torch" else {})


@pytest.mark.parametrize(
    ("make", "way"),
    [(make, "deepcopy") for make in (_nested, _subclassed, _layer)]
    + [(_small, way) for way in WAYS],
)
def test_a_copy_carries_the_state_and_goes_its_own_way(make, way):
    x = _data(ROWS, STEPS, 2)
    model = _weighted(make())
    model(x)
    reset_states(model, rows=[1])  # which rows are fresh is carried too
    before, starts = get_state(model), [layer.rows for layer in explain_state(model)]
    other = WAYS[way](model)
    for found, expected in zip(
        get_state(other).leaves.values(), before.leaves.values(), strict=True
    ):
        assert (found == expected).all()
    assert [layer.rows for layer in explain_state(other)] == starts
    expected = model(x)
    _close(other(x), expected)
    left = get_state(other)
    model(x)
    reset_states(model)
    assert get_state(other) == left  # nothing is shared
    assert not any((leaf == 0).all() for leaf in left.leaves.values())


def test_a_copy_of_a_model_without_rows_has_none():
    other = copy.deepcopy(_small())
    with pytest.raises(StateError, match="batch size is unknown"):
        get_state(other)
    assert pickle.loads(pickle.dumps(_small(stateful=False))).count_params() > 0


def test_a_copy_may_be_made_within_fit():
    """On JAX the model's values are aside then."""
    x, y = _data(8, STEPS, 2), _data(8, 1)

    class Copy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.copied, self.left = copy.deepcopy(self.model), get_state(self.model)

    callback = Copy()
    model = _small()
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[callback])
    assert get_state(callback.copied) == callback.left == get_state(model)
    _close(callback.copied(x[:4]), model(x[:4]))


@keras.saving.register_keras_serializable("tests")
class Count(keras.layers.Layer):
    """A cell without weights."""

    state_size = output_size = 1

    def call(self, x: Any, states: Any) -> Any:
        return states[0] + 1.0, [states[0] + 1.0]


@keras.saving.register_keras_serializable("tests")
class Counting(keras.Model):
    """No build method, so that Keras does not build a copy."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.count = layers.RNN(Count(), stateful=True)

    def call(self, x: Any, mask: Any = None) -> Any:
        return self.count(x)

    def get_build_config(self) -> None:
        return None


def test_a_copy_that_keras_leaves_unbuilt_is_refused():
    """Only where it has no weights; else Keras refuses."""
    model = Counting()
    model(_data(ROWS, STEPS, 2))
    with pytest.raises(StateError, match=r"has 0 state variables, .* original has 2"):
        copy.deepcopy(model)


def test_taking_control_of_a_model_keeps_the_state_of_its_layers():
    x = _data(ROWS, STEPS, 2)
    model = _weighted(_nested())
    model(x)
    taken = take_control(model)
    assert get_state(taken) == get_state(model)
    _close(taken(x), model(x))
    with pytest.raises(NotStatefulError):
        get_state(take_control(model, stateful=False))
    fresh = keras.models.clone_model(model)  # a model of its own, with new weights
    with pytest.raises(StateError, match="batch size is unknown"):
        get_state(fresh)


# -- files and checkpoints -------------------------------------------------------------------


def test_a_saved_model_is_fresh_and_loading_weights_leaves_the_state(tmp_path):
    x = _data(ROWS, STEPS, 2)
    model = _small()
    fresh = at_rest(model(x))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(StateError, match="batch size is unknown"):
        get_state(loaded)
    _close(loaded(x), fresh)
    left = get_state(model)
    model.load_weights(tmp_path / "model.weights.h5")
    model.set_weights(model.get_weights())
    assert get_state(model) == left
    left.save(tmp_path / "state.safetensors")
    set_state(loaded, State.load(tmp_path / "state.safetensors"), batch_size=ROWS)
    _close(loaded(x), model(x))


def test_checkpoints_of_keras_hold_weights_alone(tmp_path):
    """The state is that of a fit without them, though the best weights are restored."""
    x, y = _data(8, STEPS, 2), _data(8, 1)
    states = []
    for callbacks in (
        [],
        [
            keras.callbacks.ModelCheckpoint(str(tmp_path / "best.keras"), monitor="loss"),
            keras.callbacks.BackupAndRestore(str(tmp_path / "backup")),
            keras.callbacks.EarlyStopping("loss", patience=5, restore_best_weights=True),
        ],
    ):
        model = _small()
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
        states.append(get_state(model))
    for name in states[0]:
        _close(states[1][name], states[0][name])
    assert keras.models.load_model(tmp_path / "best.keras").layers[0].states[0].shape[0] == 0


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's")
@pytest.mark.parametrize("stateful", [False, True])
def test_a_state_dict_is_that_of_keras(stateful):
    import torch

    x = _data(ROWS, STEPS, 2)
    models = []
    for kind, options in ((keras.layers, False), (layers, stateful)):
        keras.utils.clear_session()  # so that Keras numbers alike
        models.append(_small(options, kind))
    stock, ours = models
    before = at_rest(stock(x))
    ours(x)
    left = get_state(ours) if stateful else None
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert [p.shape for p in ours.parameters()] == [p.shape for p in stock.parameters()]
    assert not list(ours.buffers())
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.dtype.is_floating_point:
                parameter.zero_()
    assert ours.load_state_dict(stock.state_dict(), strict=True)
    assert stock.load_state_dict(ours.state_dict(), strict=True)
    if left is not None:
        assert get_state(ours) == left
        reset_states(ours)
    _close(ours(x), before)
    for rows in (1, 5):  # of any number of rows
        ours(_data(rows, STEPS, 2))
        ours.load_state_dict(stock.state_dict(), strict=True)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_layers_that_keep_no_state_have_the_variables_of_keras(kind):
    ours, stock = (getattr(which, kind)(3) for which in (layers, keras.layers))
    for layer in (ours, stock):
        layer.build((ROWS, STEPS, 2))
    for what in ("variables", "weights", "non_trainable_variables", "trainable_variables"):
        assert [v.shape for v in getattr(ours, what)] == [v.shape for v in getattr(stock, what)]
    assert ours.count_params() == stock.count_params()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's")
def test_a_checkpoint_of_tensorflow_holds_weights_alone(tmp_path):
    import tensorflow as tf

    x = _data(ROWS, STEPS, 2)
    model = _small()
    fresh = at_rest(model(x))
    left = get_state(model)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
    assert not [name for name, _ in tf.train.list_variables(path) if "state" in name]
    tf.train.Checkpoint(model=model).restore(path)
    assert get_state(model) == left
    reset_states(model)
    _close(model(x), fresh)


# -- validation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        "arrays",
        "batches",
        # Each of them compiles for twelve seconds on TensorFlow.
        *(pytest.param(how, marks=pytest.mark.slow) for how in ("split", "more rows", "resets")),
    ],
)
def test_training_with_validation_is_training_without(how):
    """Validation looks ahead: the weights, the state and its rows are those of training alone."""
    x, y = _data(8, STEPS, 2), _data(8, 1, seed=1)
    xv, yv = _data(6, STEPS, 2, seed=2), _data(6, 1, seed=3)
    options: dict[str, Any] = {
        "arrays": {"validation_data": (xv, yv)},
        "split": {"validation_split": 0.5},
        "batches": {"validation_data": (xv, yv), "validation_batch_size": 1},
        "more rows": {"validation_data": (xv, yv), "validation_batch_size": 6},
        "resets": {"validation_data": (xv, yv), "callbacks": [ResetStates("epoch")]},
    }[how]
    plain = {"callbacks": options["callbacks"]} if "callbacks" in options else {}
    alone = (x[:4], y[:4]) if how == "split" else (x, y)
    found = []
    for data, more in (((x, y), options), (alone, plain)):
        model = _small()
        model.fit(*data, batch_size=4, epochs=3, shuffle=False, verbose=0, **more)
        found.append((model.get_weights(), get_state(model)))
    (weights, state), (expected, expected_state) = found
    for a, b in zip(weights, expected, strict=True):
        _close(a, b)
    assert state.rows == expected_state.rows == 4
    for name in state:
        _close(state[name], expected_state[name])


def test_validation_starts_from_the_training_state_unless_it_is_reset():
    x, y = _data(8, STEPS, 2), _data(8, 1, seed=1)
    xv, yv = _data(4, STEPS, 2, seed=2), _data(4, 1, seed=3)
    for callbacks in ([], [ResetStates("epoch")]):
        model = _small()
        history = model.fit(
            x, y, validation_data=(xv, yv), batch_size=4, shuffle=False, verbose=0,
            callbacks=callbacks,
        )  # fmt: skip
        found = history.history["val_loss"][0]
        if callbacks:
            reset_states(model)
        with peek(model):
            assert found == pytest.approx(model.evaluate(xv, yv, verbose=0), rel=1e-4)
        left = get_state(model)
        model.evaluate(xv, yv, verbose=0)  # by itself it advances
        assert get_state(model) != left


def test_validation_that_fails_leaves_the_training_state():
    x, y = _data(8, STEPS, 2), _data(8, 1, seed=1)

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.left = get_state(self.model)

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            assert get_state(self.model) != self.left
            raise RuntimeError("inside")

    watch, model = Watch(), _small()
    with pytest.raises(RuntimeError, match="inside"):
        model.fit(x, y, validation_data=(x, y), batch_size=4, verbose=0, callbacks=[watch])
    assert get_state(model) == watch.left
    model.fit(x, y, batch_size=4, verbose=0)


def _sequences() -> Any:
    model = keras.Sequential(
        [
            keras.Input((None, 2)),
            layers.LSTM(3, stateful=True, return_sequences=True),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return _weighted(model)


@pytest.mark.parametrize("windows", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_windows_may_be_validated_on_windows_or_whole_sequences(windows):
    """More batches than training has, cut elsewhere: each is reset where its sequences begin."""
    x, y = _data(2, 6, 2), _data(2, 6, 1, seed=1)
    xv, yv = _data(6, 7, 2, seed=2), _data(6, 7, 1, seed=3)
    found = []
    for validated in (True, False):
        model = _sequences()
        training = Windows(x, y, steps=3, batch_size=2)
        validation: Any = Windows(xv, yv, steps=2, batch_size=2) if windows else (xv, yv)
        more = {"validation_data": validation, "validation_batch_size": 2} if validated else {}
        if windows:
            more.pop("validation_batch_size", None)
        history = training.fit(model, epochs=2, verbose=0, **more)
        found.append(model.get_weights())
        if validated:
            whole = Windows(xv, yv, steps=7, batch_size=2)
            loss = whole.evaluate(model, verbose=0)
            assert history.history["val_loss"][-1] == pytest.approx(loss, rel=1e-4)
    for a, b in zip(*found, strict=True):
        _close(a, b)
    with pytest.raises(ArgumentError, match="need targets"):
        training.fit(model, validation_data=Windows(xv, steps=2))


# -- calls that do not advance, or may not ---------------------------------------------------


def test_looking_ahead_spares_layers_that_were_not_built_before():
    layer = layers.GRU(2, stateful=True)
    model = keras.Sequential([layer])
    trajectory(model, _data(ROWS, STEPS, 2))
    assert explain_state(model)[0].rows == ("zeros",) * ROWS
    assert (layer.state["h"] == 0).all()


def test_a_stateless_call_returns_the_state_and_leaves_the_layers():
    x = _data(ROWS, STEPS, 2)
    model = _small()
    model(x)
    left = get_state(model)
    y, after = model.stateless_call(
        [v.value for v in model.trainable_variables],
        [v.value for v in model.non_trainable_variables],
        x,
    )
    assert get_state(model) == left
    _close(y, model(x))
    carried = [at_rest(v) for v in after]
    for leaf in get_state(model).leaves.values():
        assert any(v.shape == leaf.shape and np.allclose(v, leaf, atol=1e-6) for v in carried)


TRACED = {
    "jax": [
        lambda f, x: _jax().jit(f)(x),
        lambda f, x: _jax().eval_shape(f, x),
        lambda f, x: _jax().grad(lambda x: f(x).sum())(x),
        lambda f, x: _jax().vmap(lambda x: f(x[None]))(x),
        lambda f, x: _jax().jit(lambda _: f(x))(x),  # what is called with is no tracer
        lambda f, x: _jax().make_jaxpr(f)(x),
        lambda f, x: _jax().lax.map(lambda x: f(x[None]), x),
    ],
    "torch": [
        lambda f, x: _torch().func.grad(lambda x: f(x).sum())(x),
        lambda f, x: _torch().func.vmap(lambda x: f(x[None]))(x),
        lambda f, x: _torch().export.export(_Module(f), (x,)),
        lambda f, x: (f if isinstance(f, layers.RNN) else f.layers[0])(x.to("meta")),
    ],
    "tensorflow": [],
}[BACKEND]


def _jax() -> Any:
    import jax

    return jax


def _torch() -> Any:
    import torch

    return torch


def _Module(function: Any) -> Any:  # noqa: N802
    class Module(_torch().nn.Module):
        def forward(self, x: Any) -> Any:
            return function(x)

    return Module()


@pytest.mark.parametrize("make", [_small, _subclassed])
@pytest.mark.parametrize("trace", TRACED)
def test_a_traced_call_of_a_stateful_layer_is_refused_and_loses_nothing(trace, make):
    x = ops.convert_to_tensor(_data(ROWS, STEPS, 2))
    model = make()
    model(x)
    left = get_state(model)
    with pytest.raises(StateError, match=r"cannot become the current state, which stays as it was"):
        trace(model, x)
    assert get_state(model) == left
    with peek(model):
        expected = model(x)
    _close(model.predict(at_rest(x), verbose=0), expected)
    reset_states(model)
    assert get_state(model) != left


@pytest.mark.parametrize("trace", TRACED)
def test_a_traced_call_may_not_build_a_stateful_layer(trace):
    x = ops.convert_to_tensor(_data(ROWS, STEPS, 2))
    layer = layers.LSTM(2, stateful=True)
    with pytest.raises(StateError, match="cannot become the current state"):
        trace(layer, x)
    if layer.built:  # where what it was called with was no tracer
        layer = layers.LSTM(2, stateful=True)
    layer(x)
    assert layer.state.rows == ROWS


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's")
def test_a_reset_heals_a_state_that_holds_a_tracer():
    x = _data(ROWS, STEPS, 2)
    model = _small()
    fresh = at_rest(model(x))
    leaked: list[Any] = []
    _jax().eval_shape(leaked.append, _jax().ShapeDtypeStruct((ROWS, 3), "float32"))
    flags: list[Any] = []
    _jax().eval_shape(flags.append, _jax().ShapeDtypeStruct((ROWS,), "bool"))
    for heal in (reset_states, lambda model: set_state(model, [np.ones((ROWS, 3))] * 2)):
        for variable in model.layers[0].current_state.variables:
            variable._value = flags[0] if variable.dtype == "bool" else leaked[0]
        with pytest.raises(StateError, match=r"Reset it with reset_states\(model\)"):
            get_state(model)
        heal(model)
        get_state(model)
    reset_states(model)
    _close(model(x), fresh)


def test_a_stateless_layer_may_be_traced():
    x = ops.convert_to_tensor(_data(ROWS, STEPS, 2))
    model = _small(stateful=False)
    expected = model(x)
    if BACKEND == "jax":
        _close(_jax().jit(lambda x: model(x))(x), expected)
    _close(model(x), expected)


# -- exports ---------------------------------------------------------------------------------


def test_an_export_holds_the_state_or_is_refused(tmp_path: Path):
    x = _data(ROWS, STEPS, 2)
    model = _small()
    model(x)
    left = get_state(model)
    formats = {
        "jax": ["tf_saved_model", "onnx"],
        "torch": ["torch", "onnx"],
        "tensorflow": ["onnx"],
    }
    for name in formats[BACKEND]:
        with pytest.raises(StateError, match=rf"exported as '{name}' on {BACKEND}"):
            model.export(tmp_path / "exported.pt2", format=name)
    assert get_state(model) == left
    if BACKEND != "tensorflow":
        return
    import tensorflow as tf

    model.export(str(tmp_path / "exported"), verbose=False)
    assert get_state(model) == left
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    for _ in range(2):  # it starts where the model was, and goes on by itself
        _close(exported.serve(x).numpy(), model(x))
