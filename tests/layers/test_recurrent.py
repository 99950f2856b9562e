"""The recurrent layers: Keras's, with a state that can be read, set and reset."""

import inspect
from itertools import pairwise
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from effort import SLOW_TO_COMPILE, TF32, examples, on_gpu
from gradients import gradients
from statecast.errors import ArgumentError, KernelError, NotStatefulError, StateError
from statecast.layers import recurrent as layers
from statecast.layers.initial import InitialState
from statecast.state import State, at_rest

pytestmark = pytest.mark.backends

# float32 steps compound: a few hundred units in the last place at these lengths.
TOLERANCE = 300 * float(np.finfo("float32").eps)


@keras.saving.register_keras_serializable("tests")
class Leaky(keras.layers.Layer):
    """A custom cell with two states of different sizes and an initial state of its own."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.state_size = [units, 1]
        self.output_size = units

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def get_initial_state(self, batch_size: Any = None) -> Any:
        return [ops.ones((batch_size, self.units)), ops.full((batch_size, 1), 2.0)]

    def call(self, x: Any, states: Any) -> Any:
        level, count = states
        level = 0.5 * level + ops.matmul(x, self.kernel)
        return level, [level, count + 1.0]

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"units": self.units}


def _lstm(kind: Any = layers, **options: Any) -> Any:
    return kind.LSTM(4, **options)


def _gru(kind: Any = layers, **options: Any) -> Any:
    return kind.GRU(3, **options)


def _simple(kind: Any = layers, **options: Any) -> Any:
    return kind.SimpleRNN(4, **options)


def _stack(kind: Any = layers, **options: Any) -> Any:
    cells = [keras.layers.LSTMCell(3), keras.layers.GRUCell(4), keras.layers.SimpleRNNCell(2)]
    return kind.RNN(cells, **options)


def _odd(kind: Any = layers, **options: Any) -> Any:
    """What only Keras's own cell can run: another activation."""
    return kind.LSTM(3, activation="softsign", recurrent_activation="hard_sigmoid", **options)


def _custom(kind: Any = layers, **options: Any) -> Any:
    return kind.RNN(keras.layers.StackedRNNCells([Leaky(3), keras.layers.LSTMCell(2)]), **options)


def _both(kind: Any = layers, **options: Any) -> Any:
    return kind.Bidirectional(kind.LSTM(3, **options))


ONE_WAY = [_lstm, _gru, pytest.param(_simple, marks=SLOW_TO_COMPILE), _stack, _odd, _custom]
ALL = [*ONE_WAY, _both]
each = pytest.mark.parametrize("make", ALL)
each_way = pytest.mark.parametrize("make", ONE_WAY)
# Few shapes, many numbers: every new shape is a new compilation.
shapes = st.builds(
    lambda shape, seed: (*shape, seed),
    st.sampled_from([(1, 5, 2), (2, 4, 3), (3, 1, 1)]),
    st.integers(0, 2**31),
)


def _input(shape: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _random(layer: Any, shape: Any, seed: int = 0) -> Any:
    """Built, with random weights, so that swapped gates show."""
    if not layer.built:
        layer.build(shape)
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(size=w.shape) * 0.5 for w in layer.get_weights()])
    return layer


def _arrays(outputs: Any) -> list[np.ndarray]:
    return [at_rest(y) for y in keras.tree.flatten(outputs)]


def _close(found: Any, expected: Any) -> None:
    for a, b in zip(_arrays(found), _arrays(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def _states(layer: Any, rows: int, seed: int = 9) -> dict[str, np.ndarray]:
    return {
        leaf: _input((rows, *shape), seed + i)
        for i, (leaf, shape) in enumerate(layer.state_shapes.items())
    }


# -- the same as Keras where Keras works -------------------------------------------------------


@each
@settings(max_examples=examples(5), deadline=None)
@given(shape=shapes, backwards=st.booleans(), sequences=st.booleans(), passed=st.booleans())
def test_same_weights_same_outputs_as_keras(make, shape, backwards, sequences, passed):
    rows, steps, width, seed = shape
    options = {"return_sequences": sequences, "return_state": True}
    if make is not _both:
        options["go_backwards"] = backwards
    x = _input((rows, steps, width), seed)
    ours = _random(make(**options), x.shape, seed)
    theirs = _random(make(keras.layers, **options), x.shape, seed)
    state = None
    if passed:
        flat = list(_states(ours, rows).values())
        nested = ours._nested_names() if make is not _both else flat
        state = keras.tree.pack_sequence_as(nested, flat)
    _close(ours(x, initial_state=state), theirs(x, initial_state=state))


@pytest.mark.parametrize("make", [_lstm, _gru, _simple])
def test_same_gradients_as_keras(make):
    x = _input((3, 4, 2))
    ours, theirs = (
        _random(make(kind, return_sequences=True), x.shape) for kind in (layers, keras.layers)
    )
    names = list(ours.state_shapes)
    given_state = _states(ours, 3)

    def loss(layer):
        def of(named):
            y = layer(named["x"], initial_state=[named[name] for name in names])
            return ops.sum(ops.square(y) * ops.arange(1.0, y.shape[-1] + 1))

        return of

    found, expected = (gradients(loss(layer), {"x": x} | given_state) for layer in (ours, theirs))
    for name, value in expected.items():
        assert np.abs(value).max() > 1e-3
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("make", [_lstm, pytest.param(_gru, marks=SLOW_TO_COMPILE), _stack, _both])
def test_trained_like_keras(make):
    """A few steps of fit move the weights as they move the stock layer's."""
    x, y = _input((8, 5, 2)), _input((8, 1), 1)
    weights = []
    for kind in (layers, keras.layers):
        layer = _random(make(kind), x.shape)
        model = keras.Sequential(
            [keras.Input((5, 2)), layer, keras.layers.Dense(1, "tanh", kernel_initializer="ones")]
        )
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    _close(*weights)


@each
def test_config_and_file_come_back(make, tmp_path):
    x = _input((2, 3, 2))
    model = keras.Sequential([keras.Input((3, 2)), _random(make(stateful=True), x.shape)])
    layer = model.layers[0]
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[0]) is type(layer)
    _close(loaded.predict(x, verbose=0), expected)


def test_weight_files_do_not_change_with_the_batch(tmp_path):
    weights = []
    for rows in (1, 64):
        model = keras.Sequential([keras.Input(batch_shape=(rows, 3, 2)), _lstm(stateful=True)])
        if weights:
            model.load_weights(tmp_path / "w.weights.h5")
        else:
            model.save_weights(tmp_path / "w.weights.h5")
        weights.append(model.get_weights())
    assert [w.shape for w in weights[1]] == [(2, 16), (4, 16), (16,)]
    _close(*weights)


# -- a state that is carried -------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.RNN(keras.layers.LSTMCell(3)),
        lambda: layers.RNN([keras.layers.GRUCell(3), keras.layers.LSTMCell(2)], True),
        lambda: layers.LSTM(3, "relu"),
        lambda: layers.GRU(3, initial_state="learned"),
        lambda: layers.SimpleRNN(3),
        lambda: layers.Bidirectional(layers.LSTM(3), "sum"),
    ],
)
def test_a_layer_made_of_its_config_has_the_same_attributes(make):
    layer = make()
    assert dir(type(layer).from_config(layer.get_config())) == dir(layer)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "SimpleRNN", "RNN"])
def test_the_signature_is_that_of_keras_and_an_initial_state(name):
    stock = [*inspect.signature(getattr(keras.layers, name)).parameters]
    ours = [*inspect.signature(getattr(layers, name)).parameters]
    assert ours == [*stock[:-1], "initial_state", stock[-1]]


@each_way
@settings(max_examples=examples(5), deadline=None)
@given(shape=shapes, cut=st.integers(0, 5), masked=st.booleans())
def test_a_split_run_is_the_whole_run(make, shape, cut, masked):
    rows, steps, width, seed = shape
    cut = min(cut, steps)
    x = _input((rows, steps, width), seed)
    mask = _input((rows, steps), seed + 1) < 0.8 if masked else np.ones((rows, steps), bool)
    layer = _random(make(stateful=True, return_sequences=True), x.shape, seed)
    whole = at_rest(layer(x, mask=mask))
    after = layer.state
    layer.reset_states()
    first = at_rest(layer(x[:, :cut], mask=mask[:, :cut]))
    second = at_rest(layer(x[:, cut:], mask=mask[:, cut:]))
    # A row that is masked from the cut on has nothing to repeat: no output crosses calls.
    seen = np.logical_or.accumulate(mask[:, cut:], axis=1)
    _close(first, whole[:, :cut])
    _close(second[seen], whole[:, cut:][seen])
    _close(list(layer.state.leaves.values()), list(after.leaves.values()))


@each
@settings(max_examples=examples(4), deadline=None)
@given(shape=shapes)
def test_rows_one_by_one_are_the_batch(make, shape):
    rows, steps, width, seed = shape
    x = _input((rows, steps, width), seed)
    layer = _random(make(stateful=True, return_sequences=True), x.shape, seed)
    together = [at_rest(layer(x)), at_rest(layer(x))]
    state = layer.state
    for row in range(rows):
        layer.reset_states(batch_size=1)
        _close([layer(x[[row]]), layer(x[[row]])], [y[[row]] for y in together])
        _close(list(layer.state.leaves.values()), list(state.take([row]).leaves.values()))


@each
def test_a_reset_row_leaves_the_others_bit_identical(make):
    x = _input((4, 5, 2))
    runs = []
    for rows in (None, [1, 3]):
        layer = _random(make(stateful=True), x.shape)
        layer(x)
        if rows is not None:
            layer.reset_states(rows=rows)
        runs.append((at_rest(layer(x)), layer.state))
        fresh = _random(make(), x.shape)(x)
    (kept, kept_state), (reset, reset_state) = runs
    assert kept[[0, 2]].tobytes() == reset[[0, 2]].tobytes()
    assert kept_state.take([0, 2]) == reset_state.take([0, 2])
    _close(reset[[1, 3]], at_rest(fresh)[[1, 3]])
    assert not np.allclose(kept[[1, 3]], reset[[1, 3]])


@pytest.mark.gpu
@pytest.mark.parametrize("make", [_lstm, _gru, _simple])
def test_on_a_gpu_the_state_is_carried_read_and_set(make):
    x = _input((3, 6, 2))
    whole = _random(make(stateful=True, return_sequences=True), x.shape)
    y = whole(x)
    assert on_gpu(y)
    split = _random(make(stateful=True, return_sequences=True), x.shape)
    parts = [split(x[:, :2]), split(x[:, 2:])]
    error = 6 * TF32  # a rounding in each step
    np.testing.assert_allclose(at_rest(y), np.concatenate(_arrays(parts), axis=1), atol=error)
    state = whole.state
    expected = at_rest(whole(x))
    split.reset_states(state)
    assert split.state == state
    assert at_rest(split(x)).tobytes() == expected.tobytes()


@each
def test_what_is_set_is_where_the_next_step_starts(make):
    x = _input((3, 4, 2))
    layer = _random(make(stateful=True), x.shape)
    alone = _random(make(), x.shape)
    for seed in (5, 6):
        state = _states(layer, 3, seed)
        layer.reset_states(state)
        assert layer.state == State(state)
        _close(layer(x), alone(x, initial_state=list(state.values()) if make is _both else state))
    some = _states(layer, 2, 7)
    before = layer.state
    layer.reset_states(some, rows=[2, 0])
    assert layer.state == before.put([2, 0], State(some))


def test_states_are_live_and_can_be_assigned():
    x = _input((2, 3, 1))
    layer = _random(_lstm(stateful=True), x.shape)
    h, c = layer.states
    layer(x)
    assert (h.numpy() == layer.state["h"]).all()
    h.assign(np.full((2, 4), 5.0))
    c.assign(np.full((2, 4), 24.0))
    assert (np.asarray(h) == 5).all()
    assert (ops.convert_to_numpy(c.value) == 24).all()
    assert h.shape == (2, 4)
    assert h[0, 0] == 5
    full = [np.full((2, 4), 5.0, "float32"), np.full((2, 4), 24.0, "float32")]
    _close(layer(x), _random(_lstm(), x.shape)(x, initial_state=full))


def test_assigning_one_leaf_of_a_fresh_row_keeps_the_other_at_its_initial_state():
    layer = _lstm(stateful=True, initial_state=0.25)
    layer.build((2, 3, 1))
    layer.states[0].assign(np.ones((2, 4)))
    assert (layer.state["c"] == 0.25).all()


@each
def test_no_step_is_an_ordinary_problem(make):
    x = _input((3, 4, 2))
    layer = _random(make(stateful=True, return_sequences=True), x.shape)
    layer.reset_states(_states(layer, 3))
    state = layer.state
    assert at_rest(layer(x[:, :0])).shape[:2] == (3, 0)
    assert layer.state == state
    fresh = _random(make(stateful=True, return_state=True), x.shape)
    y, *after = _arrays(fresh(x[:, :0]))
    assert (y == 0).all()
    _close(after, list(fresh.state.leaves.values()))


@each_way
def test_masked_is_ragged(make):
    x = _input((3, 5, 2))
    lengths = [5, 2, 0]
    mask = np.arange(5) < np.array(lengths)[:, None]
    layer = _random(make(stateful=True, return_sequences=True), x.shape)
    y, state = at_rest(layer(x, mask=mask)), layer.state
    for row, length in enumerate(lengths):
        alone = _random(make(stateful=True, return_sequences=True), x.shape)
        alone.reset_states(batch_size=1)
        _close(y[[row], :length], alone(x[[row], :length]))
        _close(list(state.take([row]).leaves.values()), list(alone.state.leaves.values()))


@each_way
def test_masked_outputs_repeat_the_last_and_are_zero_before_the_first(make):
    x = _input((1, 5, 2))
    mask = np.array([[False, True, False, True, False]])
    layer = _random(make(return_sequences=True), x.shape)
    y = at_rest(layer(x, mask=mask, initial_state=_states(layer, 1)))
    assert (y[0, 0] == 0).all()
    assert (y[0, 1] == y[0, 2]).all()
    assert (y[0, 3] == y[0, 4]).all()
    assert not np.allclose(y[0, 2], y[0, 3])


def test_a_mask_is_kept_where_a_state_is_passed():
    """Keras's own layers forget it."""
    x = _input((2, 4, 2))
    x[0, 2:] = 0
    layer = _random(_lstm(), x.shape)
    state = _states(layer, 2)
    masked = layer(keras.layers.Masking()(x), initial_state=state)
    _close(masked, layer(x, initial_state=state, mask=(x != 0).any(axis=-1)))
    assert not np.allclose(at_rest(masked), at_rest(layer(x, initial_state=state)))


# -- initial and current -----------------------------------------------------------------------


@each
def test_a_passed_initial_state_is_for_fresh_rows_only(make):
    x = _input((3, 4, 2))
    layer = _random(make(stateful=True), x.shape)
    alone = _random(make(), x.shape)
    first, other = (list(_states(layer, 3, seed).values()) for seed in (1, 2))
    if make is not _both:
        first, other = (dict(zip(layer.state_shapes, s, strict=True)) for s in (first, other))
    _close(layer(x, initial_state=first), alone(x, initial_state=first))
    running = layer.state
    layer.reset_states(rows=1)
    mixed = at_rest(layer(x, initial_state=other))
    starts = list(running.leaves.values())
    starts = starts if make is _both else dict(running.leaves)
    _close(mixed[[0, 2]], at_rest(alone(x, initial_state=starts))[[0, 2]])
    _close(mixed[[1]], at_rest(alone(x, initial_state=other))[[1]])


@pytest.mark.parametrize("source", ["zeros", 0.5, {"h": [1.0, 2, 3, 4], "c": [5.0, 6, 7, 8]}])
def test_the_layers_own_initial_state_is_where_a_reset_goes(source):
    x = _input((2, 3, 1))
    layer = _random(_lstm(stateful=True, initial_state=source), x.shape)
    full = lambda leaf: np.broadcast_to(  # noqa: E731
        source[leaf] if isinstance(source, dict) else 0.0 if source == "zeros" else source, (2, 4)
    ).astype("float32")
    assert layer.state == State({leaf: full(leaf) for leaf in ("h", "c")})
    expected = _random(_lstm(), x.shape)(x, initial_state=[full("h"), full("c")])
    _close(layer(x), expected)
    layer.reset_states()
    _close(layer(x), expected)


def test_setting_one_leaves_the_other_alone():
    x = _input((2, 3, 1))
    layer = _random(_gru(stateful=True), x.shape)
    layer(x)
    current = layer.state
    layer.set_initial_state(0.7)
    assert layer.state == current
    layer.reset_states()
    assert (layer.state["h"] == np.float32(0.7)).all()
    layer.reset_states([np.ones((2, 3))])
    layer.reset_states()
    assert (layer.state["h"] == np.float32(0.7)).all()


@pytest.mark.parametrize("traced", [False, True])
def test_a_new_initial_state_takes_effect_after_tracing(traced):
    x = _input((2, 3, 1))
    layer = _random(_gru(stateful=True), x.shape)
    model = keras.Sequential([keras.Input((3, 1)), layer])
    if traced:
        model.predict(x, verbose=0)
    layer.set_initial_state([[0.1, 0.2, 0.3]])
    layer.reset_states()
    start = np.tile(np.array([0.1, 0.2, 0.3], "float32"), (2, 1))
    expected = _random(_gru(), x.shape)(x, initial_state=[start])
    _close(model.predict(x, verbose=0), expected)


def test_a_learned_initial_state_is_trained():
    x, y = _input((6, 3, 1)), _input((6, 1), 1)
    layer = _gru(stateful=True, initial_state="learned")
    model = keras.Sequential([keras.Input((3, 1)), layer, keras.layers.Dense(1)])
    assert (layer.get_weights()[0] == 0).all()
    model.compile("sgd", "mse")
    model.fit(x, y, batch_size=6, verbose=0)
    learned = layer.get_weights()[0]
    assert (learned != 0).all()
    layer.reset_states()
    assert (layer.state["h"] == learned).all()


def test_the_gradient_reaches_x_through_fresh_rows_and_no_other():
    x, features = _input((3, 4, 2)), _input((3, 5), 1)
    layer = _random(_lstm(stateful=True), x.shape)
    start = InitialState(layer, seed=0)
    start.build((3, 5))
    layer(x)
    layer.reset_states(rows=[1])

    def loss(named):
        return ops.sum(ops.square(layer(x, initial_state=start(named["X"]))))

    found = gradients(loss, {"X": features})["X"]
    assert (found[1] != 0).all()
    assert (found[[0, 2]] == 0).all()


def test_a_custom_cells_initial_state_is_where_a_reset_goes():
    layer = layers.RNN(Leaky(3), stateful=True)
    x = _input((2, 3, 1))
    layer(x)
    assert (layer.state["1"] == 5).all()
    layer.reset_states()
    assert (layer.state["0"] == 1).all()
    assert (layer.state["1"] == 2).all()
    layer(x)
    assert (layer.state["1"] == 5).all()


# -- resets inside a call ----------------------------------------------------------------------


@each_way
@settings(max_examples=examples(4), deadline=None)
@given(shape=shapes, backwards=st.booleans())
def test_resets_by_step_are_sequences_of_their_own(make, shape, backwards):
    rows, steps, width, seed = shape
    x = _input((rows, steps, width), seed)
    reset = _input((rows, steps), seed + 2) > 0.5
    options = {"return_sequences": True, "go_backwards": backwards}
    layer = _random(make(**options), x.shape, seed)
    y = at_rest(layer(x, reset=reset))
    for row in range(rows):
        cuts = [0, *(t for t in range(1, steps) if reset[row, t]), steps]
        parts = [at_rest(layer(x[[row], a:b])) for a, b in pairwise(cuts) if b > a]
        _close(y[[row]], np.concatenate(parts[::-1] if backwards else parts, axis=1))


def test_a_reset_by_row_in_the_call_is_a_reset_of_those_rows():
    x = _input((3, 4, 2))
    one, other = (_random(_lstm(stateful=True), x.shape) for _ in range(2))
    one(x)
    other(x)
    other.reset_states(rows=[0, 2])
    _close(one(x, reset=np.array([True, False, True])), other(x))
    assert one.state == other.state


def test_resets_inside_keep_what_runs_after_the_last_one():
    """A row that is reset and then takes no step is fresh again."""
    x = _input((2, 4, 2))
    layer = _random(_lstm(stateful=True), x.shape)
    layer(x)
    reset = np.zeros((2, 4), bool)
    reset[:, 2] = True
    mask = np.ones((2, 4), bool)
    mask[1, 2:] = False
    layer(x, reset=reset, mask=mask)
    assert layer.current_state.flags().tolist() == [True, False]
    other = _random(_lstm(stateful=True), x.shape)
    other(x[:, 2:])
    _close(layer.state["h"][[0]], other.state["h"][[0]])
    start = {leaf: np.ones((2, 4), "float32") for leaf in ("h", "c")}
    alone = _random(_lstm(), x.shape)(x, initial_state=start)
    _close(at_rest(layer(x, initial_state=start))[[1]], at_rest(alone)[[1]])


def test_no_gradient_passes_a_reset_or_a_call():
    x = _input((2, 4, 2))
    layer = _random(_lstm(stateful=True, return_sequences=True), x.shape)
    reset = np.zeros((2, 4), bool)
    reset[0, 2] = True

    def loss(named):
        return ops.sum(ops.square(layer(named["x"], reset=ops.convert_to_tensor(reset))[:, 3]))

    found = gradients(loss, {"x": x})["x"]
    assert not found[0, :2].any()
    assert found[0, 2:].any()
    assert found[1, :2].any()


# -- any batch size ----------------------------------------------------------------------------


def test_rows_are_places_in_the_batch():
    x = _input((5, 3, 2))
    layer = _random(_gru(stateful=True), x.shape)
    layer.reset_states(batch_size=3)
    layer(x[:3])
    three = layer.state
    layer(x[:1])  # fewer: the first rows go on, the others stay
    assert layer.state.take([1, 2]) == three.take([1, 2])
    assert layer.state.take([0]) != three.take([0])
    layer(x)  # more: the others start fresh
    assert layer.state.rows == 5
    _close(layer.state["h"][3:], _random(_gru(), x.shape)(x[3:]))
    layer.reset_states(batch_size=1)
    assert layer.state.rows == 1
    assert (layer.state["h"] == 0).all()


# -- states as values --------------------------------------------------------------------------


@each
def test_forks_and_files(make, tmp_path):
    x = _input((2, 3, 2))
    layer = _random(make(stateful=True), x.shape)
    layer(x)
    state = layer.state
    state.save(tmp_path / "state.safetensors")
    assert State.load(tmp_path / "state.safetensors") == state
    parent = {leaf: value.copy() for leaf, value in state.leaves.items()}
    layer.reset_states(state.fork(3), batch_size=6)
    forked = at_rest(layer(np.repeat(x, 3, axis=0)))
    assert state == State(parent)
    layer.reset_states(state, batch_size=2)
    _close(forked[::3], layer(x))


# -- refusals ----------------------------------------------------------------------------------

BAD = {
    "too few": ([np.ones((2, 4))], r"expected 2 states \(h, c\), received 1"),
    "too many": ([np.ones((2, 4))] * 3, r"expected 2 states \(h, c\), received 3"),
    "units": ([np.ones((2, 4)), np.ones((2, 5))], r"'c': expected shape \(2, 4\), received \(2, 5"),
    "more rows": ([np.ones((3, 4))] * 2, r"'h': expected shape \(2, 4\), received \(3, 4\)"),
    "one row": ([np.ones((1, 4))] * 2, r"'h': expected shape \(2, 4\), received \(1, 4\)"),
    "rank 1": ([np.ones(4)] * 2, r"'h': expected shape \(2, 4\), received \(4,\): 1 axes"),
    "rank 3": ([np.ones((2, 4, 1))] * 2, r"'h'.*3 axes where there are 2"),
    "nan": ([np.ones((2, 4)), np.full((2, 4), np.nan)], r"'c': expected finite.*nan in row 0"),
    "infinite": ([np.full((2, 4), -np.inf), np.ones((2, 4))], r"'h': expected finite.*-inf"),
    "text": ([np.full((2, 4), "a")] * 2, r"'h': expected numbers, received <U1"),
    "names": ({"h": np.ones((2, 4)), "d": np.ones((2, 4))}, r"expected the leaves \['h', 'c'\]"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_state_is_refused_and_nothing_is_lost(bad):
    x = _input((2, 3, 1))
    layer = _random(_lstm(stateful=True, name="memory"), x.shape)
    layer(x)
    before = layer.state
    states, message = BAD[bad]
    with pytest.raises(StateError, match=f"layer 'memory'.*{message}"):
        layer.reset_states(states)
    assert layer.state == before
    layer.reset_states([np.ones((2, 4)), np.ones((2, 4))])
    assert (layer.state["c"] == 1).all()


def _masked(shape: Any, *, some: bool = True) -> Any:
    array = np.ma.masked_array(np.ones(shape, "float32"), mask=np.zeros(shape, bool))
    if some:
        array[(0,) * len(shape)] = np.ma.masked
    return array


SETS = {
    "reset_states": lambda layer, m: layer.reset_states([m((2, 3))]),
    "by name": lambda layer, m: layer.reset_states({"h": m((2, 3))}),
    "some rows": lambda layer, m: layer.reset_states([m((1, 3))], rows=[1]),
    "assign": lambda layer, m: layer.states[0].assign(m((2, 3))),
    "nan meant": lambda layer, m: layer.reset_states([m((2, 3))], allow_nonfinite=True),
    "State": lambda layer, m: State({"h": m((2, 3))}),
    "rows": lambda layer, m: layer.reset_states(rows=m((2,)) == 1),
    "in a call": lambda layer, m: layer(_input((2, 3, 1)), initial_state=[m((2, 3))]),
    "in a call by name": lambda layer, m: layer(_input((2, 3, 1)), initial_state={"h": m((2, 3))}),
    "reset": lambda layer, m: layer(_input((2, 3, 1)), reset=m((2,)) == 1),
    "mask": lambda layer, m: layer(_input((2, 3, 1)), mask=m((2, 3)) == 1),
    "initial": lambda layer, m: layer.set_initial_state([m((3,))]),
    "initial by name": lambda layer, m: layer.set_initial_state({"h": m((3,))}),
    "InitialState": lambda layer, m: InitialState(layer, {"h": m((3,))}),
}


IN_A_CALL = ("in a call", "in a call by name", "reset", "mask")


@pytest.mark.parametrize("how", SETS)
def test_masked_arrays_are_refused_as_states_and_nothing_is_lost(how):
    """NumPy would ignore the mask. With nothing masked they are ordinary arrays."""
    layer = _gru(stateful=True)
    layer.build((2, 3, 1))
    layer.reset_states([np.full((2, 3), 0.25)])
    before = layer.state
    with pytest.raises(StateError, match=r"a masked array with 1 of \d+ masked"):
        SETS[how](layer, _masked)
    assert layer.state == before
    if keras.backend.backend() != "jax" or how not in IN_A_CALL:  # JAX itself refuses these
        SETS[how](layer, lambda shape: _masked(shape, some=False))


def test_masked_arrays_are_refused_in_a_layer_of_both_directions():
    layer = _both(stateful=True)
    x = _input((2, 3, 1))
    layer(x)
    before = layer.state
    states = [np.ones((2, 3), "float32")] * 3 + [_masked((2, 3))]
    for refused in (
        lambda: layer.reset_states(states),
        lambda: layer(x, initial_state=states),
        lambda: layer.set_initial_state([np.ones(3)] * 3 + [_masked((3,))]),
    ):
        with pytest.raises(StateError, match="a masked array with 1 of"):
            refused()
    assert layer.state == before


def test_tensors_without_numbers_are_refused_as_states():
    layer = _gru(stateful=True)
    x = _input((2, 3, 1))
    layer(x)
    before = layer.state
    symbolic: Any = keras.KerasTensor((2, 3))
    if keras.backend.backend() == "torch":
        import torch

        symbolic = torch.ones(2, 3, device="meta")
        with pytest.raises(StateError, match=r"initial_state: .* PyTorch's meta device"):
            layer(x, initial_state=[symbolic])
        with pytest.raises(StateError, match="PyTorch's meta device"):
            State({"h": symbolic})
        with pytest.raises(StateError, match="PyTorch's meta device"):
            InitialState(layer, {"h": torch.ones(3, device="meta")})
    for refused in (
        lambda: layer.reset_states([symbolic]),
        lambda: layer.states[0].assign(symbolic),
    ):
        with pytest.raises(StateError, match=r"leaf 'h': (not an array|expected numbers)"):
            refused()
    assert layer.state == before


def test_one_state_for_a_gru_and_no_more():
    layer = _gru(stateful=True)
    layer.build((2, 3, 1))
    with pytest.raises(StateError, match=r"expected 1 state \(h\), received 2"):
        layer.reset_states([np.ones((2, 3)), np.ones((2, 3))])
    layer.reset_states(np.ones((2, 3)))
    assert (layer.state["h"] == 1).all()


@pytest.mark.parametrize("rows", [2, [0, 2], [-3], [True], [0.5], [0, 0]])
def test_bad_rows_are_refused(rows):
    layer = _lstm(stateful=True)
    layer.build((2, 3, 1))
    with pytest.raises(StateError, match=r"layer 'lstm.*[Rr]ow"):
        layer.reset_states(rows=rows)


def test_nonfinite_values_pass_where_they_are_meant():
    layer = _gru(stateful=True)
    layer.build((1, 3, 1))
    layer.reset_states([np.full((1, 3), np.inf)], allow_nonfinite=True)
    assert np.isinf(layer.state["h"]).all()


def test_a_layer_that_is_not_stateful_says_so():
    layer = _lstm()
    layer.build((2, 3, 1))
    for refused in (
        lambda: layer.reset_states(),
        lambda: layer.reset_state([np.ones((2, 4))] * 2),
        lambda: layer.state,
    ):
        with pytest.raises(
            NotStatefulError, match=r"take_control\(model, stateful=True\)"
        ) as caught:
            refused()
        assert isinstance(caught.value, AttributeError)
    assert layer.states is None


def test_an_unknown_batch_size_is_said():
    layer = _lstm(stateful=True)
    layer.build((None, 3, 1))
    layer.reset_states()  # nothing has begun: nothing to do
    for refused in (
        lambda: layer.state,
        lambda: layer.reset_states([np.ones((2, 4))] * 2),
        lambda: layer.reset_states(rows=[0]),
    ):
        with pytest.raises(StateError, match="batch size is unknown"):
            refused()
    layer.reset_states([np.ones((2, 4))] * 2, batch_size=2)
    assert layer.state.rows == 2


@pytest.mark.parametrize("make", [_lstm, _stack, _both])
@pytest.mark.parametrize("name", ["states", "state"])
def test_what_is_put_in_place_of_the_state_is_refused(make, name):
    """By our own message: Keras's tracker would take variables for new weights."""
    layer = make(stateful=True)
    layer.build((2, 3, 1))
    arrays = [np.ones((2, *shape), "float32") for shape in layer.state_shapes.values()]
    variables = [keras.Variable(array) for array in arrays]
    named = dict(zip(layer.state_shapes, variables, strict=True))
    for value in (arrays, tuple(arrays), variables, named, variables[0], State(named)):
        with pytest.raises(StateError, match="compiled steps would ignore what is assigned"):
            setattr(layer, name, value)
    assert all((leaf == 0).all() for leaf in layer.state.leaves.values())
    assert len(layer.weights) == len(make().weights or layer.weights)


@pytest.mark.parametrize("make", [_lstm, _stack, _both])
@pytest.mark.parametrize("stateful", [False, True])
def test_stateful_is_chosen_before_the_layer_is_built(make, stateful):
    """Afterwards a compiled step would not see it: it is refused, and nothing has changed."""
    x = _input((2, 3, 1))
    layer = make()
    layer.stateful = stateful
    model = keras.Sequential([keras.Input((3, 1)), layer])
    first = model.predict(x, verbose=0)
    parts = layer.recurrences().values()
    for part in (layer, *parts):
        part.stateful = stateful  # as it is
        with pytest.raises(StateError, match=rf"take_control\(model, stateful={not stateful}\)"):
            part.stateful = not stateful
        assert part.stateful == part.get_config().get("stateful", stateful) == stateful
    second = model.predict(x, verbose=0)
    assert np.allclose(first, second) == (not stateful)
    if stateful:
        layer.reset_states()
        _close(model.predict(x, verbose=0), first)
    else:
        with pytest.raises(NotStatefulError):
            layer.reset_states()


@pytest.mark.parametrize(
    ("passed", "message"),
    [
        (lambda u, n: [u((n, 5))] * 2, r"leaf 'h': expected shape \(2, 4\), received \(2, 5\)"),
        (lambda u, n: [u((n, 4))], r"expected 2 states \(h, c\), received 1"),
        (lambda u, n: [u((1, 4))] * 2, r"expected shape \(2, 4\), received \(1, 4\)"),
        (lambda u, n: {"h": u((n, 4))}, r"expected the leaves \['h', 'c'\], received \['h'\]"),
    ],
)
def test_a_bad_initial_state_is_refused_in_the_call(passed, message):
    layer = _lstm()
    with pytest.raises(StateError, match=message):
        layer(_input((2, 3, 1)), initial_state=passed(lambda s: np.ones(s, "float32"), 2))
    layer(_input((2, 3, 1)))


def test_wrong_units_are_refused_where_the_model_is_wired():
    x, h = keras.Input((3, 1)), keras.Input((5,))
    with pytest.raises(StateError, match=r"expected shape \(rows, 4\), received \(rows, 5\)"):
        _lstm()(x, initial_state=[h, h])
    with pytest.raises(StateError, match=r"expected shape \(rows, 3\), received \(rows, 5\)"):
        _both()(x, initial_state=[h, h, h, h])


def test_a_reset_of_another_shape_is_refused():
    layer = _lstm(stateful=True)
    with pytest.raises(StateError, match=r"mask of shape \(2,\) or \(2, 3\), received \(2, 2\)"):
        layer(_input((2, 3, 1)), reset=np.zeros((2, 2), bool))


def test_bad_initial_states_are_refused():
    layer = _lstm()
    with pytest.raises(ArgumentError, match="source: expected one of"):
        layer.set_initial_state("ones")
    with pytest.raises(ArgumentError, match="source: expected one of"):
        layer.set_initial_state("features")
    with pytest.raises(StateError, match="received 1"):
        layer.set_initial_state([np.ones(4)])
    with pytest.raises(StateError, match=r"expected a constant of shape \(4,\), received \(2, 4\)"):
        layer.set_initial_state([np.ones((2, 4)), np.ones((2, 4))])
    with pytest.raises(ArgumentError, match="Pass it in the call"):
        layer.set_initial_state(InitialState(layer))
    layer.build((2, 3, 1))
    with pytest.raises(StateError, match="before the layer is built"):
        layer.set_initial_state("learned")
    custom = layers.RNN(Leaky(2))
    custom.build((2, 3, 1))
    with pytest.raises(StateError, match="before the layer is built"):
        custom.set_initial_state(0.0)


def test_a_kernel_that_is_forced_and_declines_says_why():
    layer = layers.LSTM(3, activation="relu", use_cudnn=True)
    with pytest.raises(KernelError, match="the activation is 'relu'"):
        layer(_input((2, 3, 1)))


def test_a_convolutional_layer_has_no_counterpart():
    with pytest.raises(ArgumentError, match="ConvLSTM1D has no counterpart"):
        layers.controlled(keras.layers.ConvLSTM1D(2, 3, name="conv"))


# -- masks and lengths in compiled steps --------------------------------------------------------


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("both_ways", [False, True])
def test_a_mask_and_an_initial_state_meet_in_compiled_steps(stateful, both_ways):
    """Keras passes no mask on beside an initial state, and on JAX a tracer carries none."""
    gru = layers.GRU(2, stateful=stateful)
    layer = layers.Bidirectional(gru) if both_ways else gru
    x, start = keras.Input(batch_shape=(2, 4, 1)), keras.Input(batch_shape=(2, 4))
    states = [start[:, :2], start[:, 2:]] if both_ways else [start[:, :2]]
    model = keras.Model([x, start], layer(keras.layers.Masking()(x), initial_state=states))
    rng = np.random.default_rng(0)
    values, initial = rng.normal(size=(2, 4, 1)), rng.normal(size=(2, 4))
    values[:, 2:] = 0.0
    compiled = model.predict([values, initial], verbose=0)
    if stateful:
        layer.reset_states()
    initial = initial.astype("float32")
    parts = [initial[:, :2], initial[:, 2:]] if both_ways else [initial[:, :2]]
    short = layer(values[:, :2].astype("float32"), initial_state=parts)
    np.testing.assert_allclose(compiled, at_rest(short), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
def test_one_model_takes_any_number_of_steps(stateful, sequences):
    start = keras.Input((None, 1))
    layer = layers.LSTM(2, stateful=stateful, return_sequences=sequences)
    model = keras.Model(start, layer(start))
    x = np.random.default_rng(0).normal(size=(3, 4, 1)).astype("float32")
    parts = [model.predict(x[:, cut], verbose=0) for cut in (slice(0, 3), slice(3, 4))]
    if stateful:
        layer.reset_states()
        expected = at_rest(layer(x))
    else:
        expected = at_rest(layer(x[:, 3:]))
    last = parts[1][:, -1] if sequences else parts[1]
    whole = expected[:, -1] if sequences else expected
    np.testing.assert_allclose(last, whole, rtol=TOLERANCE, atol=TOLERANCE)
    none = model.predict(x[:, :0], verbose=0)
    assert none.shape == ((3, 0, 2) if sequences else (3, 2))
    assert not none.any()


# -- what a state may hold -----------------------------------------------------------------------


def test_a_state_in_bfloat16_is_read_and_kept(tmp_path):
    options = {"dtype": "bfloat16", "recurrent_initializer": "glorot_uniform"}
    layer = layers.GRU(3, stateful=True, **options)
    layer(np.ones((2, 3, 2), "float32"))
    state = layer.state
    assert state["h"].dtype == "float32"
    assert state["h"].any()
    state.save(tmp_path / "s.safetensors")
    layer.reset_states()
    layer.reset_states(State.load(tmp_path / "s.safetensors"))
    assert layer.state == state


def test_numbers_that_the_dtype_cannot_hold_are_refused():
    layer = layers.LSTM(3, stateful=True)
    layer(np.ones((2, 3, 2), "float32"))
    state = layer.state
    with pytest.raises(
        StateError, match=r"leaf 'c': expected finite numbers of float32, .*1e\+300"
    ):
        layer.reset_states([np.zeros((2, 3)), np.full((2, 3), 1e300)])
    with pytest.raises(StateError, match="1e\\+300"):
        layer.states[0].assign(np.full((2, 3), 1e300))
    for source in (float("nan"), {"h": np.zeros(3), "c": np.full(3, np.inf)}):
        with pytest.raises(StateError, match="finite"):
            layer.set_initial_state(source)
    assert layer.state == state


def test_live_states_compute_like_arrays():
    layer = layers.GRU(3, stateful=True)
    layer(np.ones((2, 3, 2), "float32"))
    live, now = layer.states[0], layer.state["h"]
    np.testing.assert_array_equal(live + 1, now + 1)
    np.testing.assert_array_equal(2 * live - live, now)
    np.testing.assert_allclose(at_rest(ops.sum(live)), now.sum(), rtol=1e-6)


def test_a_cell_whose_state_sizes_are_no_numbers_is_refused():
    class Odd(Leaky):
        def __init__(self) -> None:
            super().__init__(3)
            self.state_size = [(2, 3), 3, [(1, 1)]]

    with pytest.raises(StateError, match=r"layer 'odd'.*state_size gives"):
        layers.RNN(Odd(), stateful=True, name="odd")(np.ones((2, 3, 2), "float32"))
