"""InitialState: from X to where a recurrence starts."""

import keras
import numpy as np
import pytest
from keras import ops

from gradients import gradients
from statecast.errors import ArgumentError, DataError, StateError
from statecast.layers.initial import InitialState, starts
from statecast.recurrence.cells import GRU, LSTM, SimpleRNN, Stack

pytestmark = pytest.mark.backends

CELLS = [SimpleRNN(3), GRU(4), LSTM(5), Stack([LSTM(4), GRU(3)])]
X = np.random.default_rng(0).normal(size=(6, 2)).astype("float32")


def _call(layer, x=X):
    return {name: ops.convert_to_numpy(leaf) for name, leaf in layer(x).items()}


@pytest.mark.parametrize("cell", CELLS, ids=repr)
@pytest.mark.parametrize("source", ["features", "learned", "zeros", 0.5])
@pytest.mark.parametrize("members", [None, 3])
def test_every_source_gives_every_leaf(cell, source, members):
    leaves = _call(InitialState(cell, source, members=members, seed=1))
    lead = () if members is None else (members,)
    assert {n: leaf.shape for n, leaf in leaves.items()} == {
        name: (*lead, 6, *shape) for name, shape in cell.state_shapes.items()
    }
    if source in ("zeros", 0.5):
        assert all((leaf == (0.0 if source == "zeros" else 0.5)).all() for leaf in leaves.values())


def test_a_constant_for_each_leaf():
    constants = {"h": [1.0, 2.0], "c": [3.0, 4.0]}
    leaves = _call(InitialState(LSTM(2), constants))
    for name, value in constants.items():
        assert (leaves[name] == np.asarray(value, "float32")).all()


def test_h_and_c_are_never_the_same_vector():
    leaves = _call(InitialState(LSTM(5), seed=1))
    assert not np.allclose(leaves["h"], leaves["c"], atol=1e-2)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("leaf", ["h", "c"])
def test_the_gradient_reaches_x_through_h_and_through_c(depth, leaf):
    layer = InitialState(LSTM(5), depth=depth, width=4, activation="tanh", seed=1)
    layer(X)
    gradient = gradients(lambda x: ops.sum(ops.square(layer(x["X"])[leaf])), {"X": X})["X"]
    assert np.isfinite(gradient).all()
    assert gradient.any(axis=1).all()


def test_rows_do_not_see_each_other_and_members_differ():
    layer = InitialState(GRU(4), members=3, depth=2, seed=1)
    together = _call(layer)["h"]
    alone = _call(layer, X[2:3])["h"]
    np.testing.assert_allclose(together[:, 2:3], alone, rtol=1e-6)
    assert not np.allclose(together[0], together[1], atol=1e-2)


@pytest.mark.parametrize("source", ["features", "learned", {"h": [1.0, 2.0], "c": [0.0, 3.0]}])
def test_a_keras_model_with_it_is_saved_and_loaded(tmp_path, source):
    inputs = keras.Input((2,))
    layer = InitialState(LSTM(2), source, depth=2, seed=3)
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "m.keras")
    back = keras.saving.load_model(tmp_path / "m.keras")
    for name, leaf in model.predict(X, verbose=0).items():
        np.testing.assert_array_equal(back.predict(X, verbose=0)[name], leaf)


def test_learned_is_trained():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, InitialState(LSTM(2), "learned")(inputs)["h"])
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")
    model.fit(X, np.ones((6, 2), "float32"), epochs=20, verbose=0)
    assert (model.predict(X, verbose=0) > 0.9).all()


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: InitialState(LSTM(2), "features", depth=0), ArgumentError, "depth: expected 1"),
        (lambda: InitialState(LSTM(2), "ones"), ArgumentError, "source: expected one of"),
        (lambda: InitialState(LSTM(2), {"h": [1, 2]}), StateError, r"constants for \['h', 'c'\]"),
        (
            lambda: InitialState(LSTM(2), {"h": [1, 2, 3], "c": [1, 2]}),
            StateError,
            r"'h': expected a constant of shape \(2,\), received \(3,\)",
        ),
        (lambda: InitialState(LSTM(2))(X[:, :0]), DataError, "X has no feature"),
    ],
)
def test_wrong_arguments_are_named(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("offset", [0, 16])
def test_a_weight_starts_as_a_copy_of_a_large_array(offset):
    """On TensorFlow aligned memory is read in place; the variable still has its own numbers."""
    size = 512 * 1024
    memory = np.empty(size * 4 + 128, np.uint8)
    begin = -memory.ctypes.data % 64 + offset
    array = memory[begin : begin + size * 4].view("float32").reshape(2, -1)
    array[:] = np.random.default_rng(0).normal(size=array.shape)
    expected = array.copy()
    initializer = starts({"kernel": array}, "kernel", "zeros")
    variable = keras.Variable(initializer, shape=array.shape, dtype="float32")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), expected)
    if keras.backend.backend() == "tensorflow":
        array[:] = 0.0
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), expected)
