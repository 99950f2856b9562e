"""State control on whole models: eager, compiled, in fit, evaluate and predict."""

import threading
import time
from collections.abc import Callable
from typing import Any

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import ops

import statecast
from effort import SLOW_TO_COMPILE
from statecast.control import models as control
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
from statecast.layers.initial import InitialState
from statecast.state import State, at_rest

pytestmark = pytest.mark.backends

BACKEND = keras.backend.backend()
TOLERANCE = 300 * float(np.finfo("float32").eps)
ROWS, STEPS = 3, 4


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _model(batch: int | None = None, stateful: bool = True, **options: Any) -> Any:
    """Nested, with a stack, a bidirectional layer and plain ones, and random weights."""
    one_way = layers.SimpleRNN(2, return_sequences=True, stateful=stateful)
    both = layers.Bidirectional(one_way, name="both")
    inner = keras.Sequential([keras.Input(batch_shape=(batch, STEPS, 2)), both], name="inner")
    start = keras.Input(batch_shape=(batch, STEPS, 2))
    cells = [keras.layers.LSTMCell(3), keras.layers.SimpleRNNCell(2)]
    y = layers.RNN(cells, return_sequences=True, stateful=stateful, name="stack")(inner(start))
    y = layers.LSTM(3, stateful=stateful, name="lstm")(y)
    model = keras.Model(start, keras.layers.Dense(1, name="dense")(y))
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    model.compile(keras.optimizers.SGD(0.1), "mse", **options)
    return model


def _small(batch: int | None = None, **options: Any) -> Any:
    """One layer, where it is the compiling that counts."""
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(batch, STEPS, 2)),
            layers.LSTM(3, stateful=True, name="lstm"),
            keras.layers.Dense(1),
        ]
    )
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    model.compile(keras.optimizers.SGD(0.1), "mse", **options)
    return model


@pytest.fixture(scope="module")
def built() -> Any:
    """One nested model for many tests, traced by the first; its weights never move."""
    model = _model(batch=ROWS)
    model.optimizer.learning_rate = 0.0
    return model


@pytest.fixture
def model(built: Any) -> Any:
    reset_states(built, batch_size=ROWS)
    return built


@pytest.fixture(scope="module")
def after() -> Callable[[State | None, np.ndarray], State]:
    """What one pass leaves, called without compiling: the reference."""
    reference = _model(batch=ROWS)

    def after(state: State | None, x: np.ndarray) -> State:
        reset_states(reference)
        if state is not None:
            set_state(reference, state)
        reference(x)
        return get_state(reference)

    return after


def _random_state(model: Any, rows: int = ROWS, seed: int = 3) -> State:
    rng = np.random.default_rng(seed)
    spec = dict(control._layer_states(model).shapes)
    return State({n: rng.normal(size=(rows, *s)).astype("float32") for n, s in spec.items()})


def _close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def _same(found: State, expected: State) -> None:
    assert found.names == expected.names
    for name in expected:
        _close(found[name], expected[name])


def test_the_leaves_are_named_by_the_layers_on_the_way(model):
    assert list(get_state(model).names) == [
        "inner/both/forward/h",
        "inner/both/backward/h",
        "stack/0/h",
        "stack/0/c",
        "stack/1/h",
        "lstm/h",
        "lstm/c",
    ]


class Own(keras.Model):
    """A subclassed model whose layers have the names given; each counts on its own."""

    def __init__(self, names: list[str], first: Any = None) -> None:
        super().__init__()
        self.begin = keras.layers.Dense(2, name=names[0])
        self.first = layers.SimpleRNN(2, stateful=True, name=names[0]) if first is None else first
        self.rest = [layers.SimpleRNN(2, stateful=True, name=name) for name in names[1:]]

    def build(self, shape: Any) -> None:
        self.begin.build(shape)
        for layer in (self.first, *self.rest):
            layer.build((shape[0], shape[1], 2))
        self.built = True

    def call(self, x: Any) -> Any:
        return sum(layer(self.begin(x)) for layer in (self.first, *self.rest))


@pytest.mark.parametrize(
    ("names", "paths"),
    [
        (["r", "r"], ["r", "r_1"]),
        (["r", "r", "r_1", "r"], ["r", "r_2", "r_1", "r_3"]),
        pytest.param(["r_1", "r", "r"], ["r_1", "r", "r_2"], marks=SLOW_TO_COMPILE),
    ],
)
def test_layers_of_equal_name_are_told_apart(names, paths):
    """Every verb meets every layer: a name is no identity in a subclassed model."""
    x, y = _data(ROWS, STEPS, 2), _data(ROWS, 2, seed=1)
    model = Own(names)
    model(x)
    assert get_state(model).names == tuple(f"{path}/h" for path in paths)
    assert len({at_rest(leaf).tobytes() for leaf in get_state(model).leaves.values()}) == len(names)
    assert [layer.name for layer in explain_state(model)] == paths
    assert list(trajectory(model, x)) == [f"{path}/h" for path in paths]
    before = get_state(model)
    with peek(model):
        model(x)
    assert get_state(model) == before
    state = _random_state(model)
    set_state(model, state)
    assert get_state(model) == state
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0, callbacks=[ResetStates("batch", rows=[0])])
    assert all((leaf != 0).any() for leaf in get_state(model).leaves.values())
    reset_states(model)
    for layer in (model.first, *model.rest):
        assert (layer.state["h"] == 0).all()
    other = Own(names)  # another of the same architecture takes the state
    other(x)
    set_state(other, state)
    assert get_state(other) == state


def test_models_of_equal_name_are_told_apart_and_a_shared_layer_counts_once():
    class Outer(keras.Model):
        def __init__(self, shared: Any) -> None:
            super().__init__()
            self.a, self.b = (Own(["r", "r"], shared) for _ in range(2))
            self.a.name = self.b.name = "own"

        def build(self, shape: Any) -> None:
            self.a.build(shape)
            self.b.build(shape)

    model = Outer(None)
    model.build((ROWS, STEPS, 2))
    assert get_state(model).names == ("own/r/h", "own/r_1/h", "own_1/r/h", "own_1/r_1/h")
    model = Outer(layers.SimpleRNN(2, stateful=True, name="r"))
    model.build((ROWS, STEPS, 2))
    assert get_state(model).names == ("own/r/h", "own/r_1/h", "own_1/r/h")


@hypothesis.given(st.lists(st.sampled_from(["r", "r_1", "r_2", "s"]), max_size=7))
def test_distinct_names_are_distinct_and_keep_what_was(names):
    found = control._distinct(names)
    assert len(set(found)) == len(found) == len(names)
    for name in names:  # the first of a name keeps it
        assert found[names.index(name)] == name


CALLS = {
    "call": lambda model, x, y: model(x),
    "predict": lambda model, x, y: model.predict(x, verbose=0),
    "predict_on_batch": lambda model, x, y: model.predict_on_batch(x),
    "evaluate": lambda model, x, y: model.evaluate(x, y, verbose=0),
    "test_on_batch": lambda model, x, y: model.test_on_batch(x, y),
    "fit": lambda model, x, y: model.fit(x, y, shuffle=False, verbose=0),
    "train_on_batch": lambda model, x, y: model.train_on_batch(x, y),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_you_set_is_the_start_and_what_you_read_is_the_end(call, model, after):
    """Before and after the first trace: set, call, set, call, call, reset, call."""
    x, y = _data(ROWS, STEPS, 2), _data(ROWS, 1, seed=1)
    for seed in (3, 4):
        state = _random_state(model, seed=seed)
        set_state(model, state)
        assert get_state(model) == state
        CALLS[call](model, x, y)
        _same(get_state(model), after(state, x))
    once = get_state(model)
    CALLS[call](model, x, y)
    _same(get_state(model), after(once, x))
    reset_states(model)
    CALLS[call](model, x, y)
    _same(get_state(model), after(None, x))


def test_fit_with_a_state_differs_from_fit_without():
    """Two batches: the second goes on where the first ended, and so learns other weights."""
    x, y = _data(2 * ROWS, STEPS, 2), _data(2 * ROWS, 1, seed=1)
    weights = []
    for callbacks in ([], [ResetStates("batch")]):
        model = _small(batch=ROWS)
        model.fit(x, y, batch_size=ROWS, shuffle=False, verbose=0, callbacks=callbacks)
        weights.append(model.get_weights())
    by_hand = _small(batch=ROWS)
    for part in (slice(ROWS), slice(ROWS, None)):
        by_hand.train_on_batch(x[part], y[part])
    for found, expected in zip(weights[0], by_hand.get_weights(), strict=True):
        _close(found, expected)
    assert not all(np.allclose(a, b, atol=1e-4) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize("batch", [None, 4])
def test_the_state_is_not_tied_to_the_batch_size(batch):
    """Fit at 4 with a partial last batch, predict at 1 and at 7."""
    x, y = _data(10, STEPS, 2), _data(10, 1, seed=1)
    model = _small(batch=batch)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    assert get_state(model).rows == 4
    weights = model.get_weights()
    reset_states(model)
    for rows in (1, 7):
        found = model.predict(x[:rows], verbose=0)
        reference = _small(batch=rows)
        reference.set_weights(weights)
        _close(found, at_rest(reference(x[:rows])))
        reset_states(model)
    assert get_state(model).rows == 7


@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU])
def test_batch_one_trains_with_the_default_batch_size(kind):
    x, y = _data(5, STEPS, 2), _data(5, 1, seed=1)
    model = keras.Sequential(
        [keras.Input(batch_shape=(1, STEPS, 2)), kind(3, stateful=True), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    before = model.get_weights()
    model.fit(x, y, verbose=0)
    model.evaluate(x, y, verbose=0)
    assert all((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"run_eagerly": True}, marks=pytest.mark.slow),
        pytest.param({"jit_compile": False}, marks=pytest.mark.slow),
        {"jit_compile": True},
        {"steps_per_execution": 2},
    ],
    ids=str,
)
def test_every_way_to_compile_gives_the_same(how):
    if BACKEND == "torch" and how.get("jit_compile"):
        pytest.skip("torch.compile needs minutes here; see the slow test")
    if BACKEND == "torch" and "steps_per_execution" in how:
        with pytest.raises(ValueError, match="steps_per_execution"):  # Keras refuses
            _small(**how).fit(_data(4, STEPS, 2), _data(4, 1), verbose=0)
        return
    found = []
    for options in ({}, how):
        x, y = _data(10, STEPS, 2), _data(10, 1, seed=1)
        model = _small(batch=4, **options)
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        found.append((model.predict(x[:4], verbose=0), get_state(model)))
    _close(found[0][0], found[1][0])
    _same(found[0][1], found[1][1])


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "torch", reason="the others compile anyway")
def test_torch_compile_gives_the_same():
    x, y = _data(8, STEPS, 2), _data(8, 1, seed=1)
    found = []
    for options in ({}, {"jit_compile": True}):
        model = keras.Sequential([keras.Input((STEPS, 2)), layers.LSTM(3, stateful=True)])
        model.set_weights([_data(*w.shape) for w in model.get_weights()])
        model.compile("sgd", "mse", **options)
        model.fit(x, np.tile(y, 3), batch_size=4, shuffle=False, verbose=0)
        found.append(model.predict(x[:4], verbose=0))
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="XLA's limit is TensorFlow's")
def test_xla_refuses_an_unknown_batch_size_with_a_reason():
    x, y = _data(4, STEPS, 2), _data(4, 1)
    model = _small(jit_compile=True)
    with pytest.raises(StateError, match="XLA cannot change it within a compiled step"):
        model.fit(x, y, verbose=0)
    reset_states(model, batch_size=4)
    model.fit(x, y, verbose=0)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_other_precisions(policy):
    if policy == "float64" and BACKEND == "jax":
        pytest.skip("JAX has no float64 unless told so before it starts")
    x = _data(ROWS, STEPS, 2)
    layer = layers.LSTM(3, stateful=True, dtype=policy)
    whole = at_rest(ops.cast(layer(x), "float32"))
    after = layer.state
    layer.reset_states()
    layer(x[:, :2])
    assert layer.state["h"].dtype == np.dtype(layer.variable_dtype)
    split = at_rest(ops.cast(layer(x[:, 2:]), "float32"))
    np.testing.assert_allclose(split, whole, rtol=2.0**-8 if "16" in policy else 1e-12)
    for leaf, value in after.leaves.items():  # the state is not rounded to bfloat16
        np.testing.assert_allclose(layer.state[leaf], value, rtol=1e-6 if "16" in policy else 1e-12)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_state_laws_in_mixed_precision(kind):
    """A row starts from what it reads as, and a trajectory ends in the state after the call. With a
    state of bfloat16 itself, a split run is the whole run too."""
    x = _data(ROWS, STEPS, 17)
    layer = getattr(layers, kind)(
        17, stateful=True, initial_state="learned", dtype="mixed_bfloat16"
    )
    layer(x)
    for vector in layer.trainable_variables[-len(layer.state_shapes) :]:
        vector.assign(np.full(vector.shape, 1 / 3))
    layer.reset_states()
    fresh = layer.state
    layer(x)
    after = layer.state
    layer.reset_states(fresh)
    steps = trajectory(layer, x)
    layer(x)
    assert layer.state == after
    for name, leaf in steps.items():
        last = layer.state[name.rpartition("/")[2]]
        np.testing.assert_allclose(leaf[:, -1], last, atol=2.0**-8)
        assert np.median(np.abs(leaf[:, -1] - last)) < 1e-5
    options = {"dtype": "bfloat16", "recurrent_initializer": "glorot_uniform"}
    layer = getattr(layers, kind)(17, stateful=True, **options)
    layer(x)
    after = layer.state
    layer.reset_states()
    layer(x[:, :2])
    layer(x[:, 2:])
    assert layer.state == after


def test_a_reset_mask_is_an_input_like_any_other():
    """By row and by step, in fit and in predict."""
    x, y = _data(6, STEPS, 2), _data(6, 1, seed=1)
    by_row = np.array([True, False, True] * 2)
    by_step = _data(6, STEPS, seed=2) > 0
    for reset, shape in ((by_row, ()), (by_step, (STEPS,))):
        start = keras.Input((STEPS, 2))
        flags = keras.Input(shape, dtype="bool")
        layer = layers.GRU(3, stateful=True, name="gru")
        model = keras.Model([start, flags], keras.layers.Dense(1)(layer(start, reset=flags)))
        model.compile(keras.optimizers.SGD(0.0), "mse")
        alone = layers.GRU(3, stateful=True)
        alone.build((None, STEPS, 2))
        alone.set_weights(layer.get_weights())
        model.fit([x, reset], y, batch_size=3, shuffle=False, verbose=0)
        model.predict([x, reset], batch_size=3, verbose=0)
        for _ in range(2):
            for part in (slice(3), slice(3, 6)):
                alone(x[part], reset=reset[part])
        _close(get_state(model)["gru/h"], alone.state["h"])


def test_the_gradient_reaches_the_encoder_of_x_in_fit():
    X, x, y = _data(6, 5), _data(6, STEPS, 2), _data(6, 1, seed=1)
    features, start = keras.Input((5,)), keras.Input((STEPS, 2))
    lstm = layers.LSTM(3, stateful=True)
    encode = InitialState(lstm)
    out = lstm(start, initial_state=encode(features))
    model = keras.Model([features, start], keras.layers.Dense(1)(out))
    model.compile("sgd", "mse")
    before = encode.get_weights()
    model.fit([X, x], y, batch_size=3, verbose=0, callbacks=[ResetStates("batch")])
    assert all((a != b).any() for a, b in zip(before, encode.get_weights(), strict=True))
    settled = encode.get_weights()
    model.fit([X, x], y, batch_size=3, verbose=0)  # rows run on: X is not asked again
    assert all((a == b).all() for a, b in zip(settled, encode.get_weights(), strict=True))
    assert explain_state(model)[0].fresh == "from X"
    reset_states(model, rows=[0])
    assert explain_state(model)[0].rows == ("from X", "current", "current")


# -- rows, files, peeking --------------------------------------------------------------------


def test_some_rows_of_a_model(model):
    x = _data(ROWS, STEPS, 2)
    model.predict(x, verbose=0)
    before = get_state(model)
    some = _random_state(model, rows=2)
    set_state(model, some, rows=[2, 0])
    assert get_state(model) == before.put([2, 0], some)
    reset_states(model, rows=1)
    assert get_state(model).take([0, 2]) == before.put([2, 0], some).take([0, 2])
    assert all((leaf[1] == 0).all() for leaf in get_state(model).leaves.values())


def test_every_way_to_hand_in_a_state_is_the_same(model):
    state = _random_state(model)
    flat = list(state.leaves.values())
    nested = [flat[:2], [flat[2:4], flat[4]], flat[5:]]
    by_name: dict[str, Any] = dict(state.leaves)
    tree: dict[str, Any] = {}
    for name, leaf in by_name.items():
        *path, last = name.split("/")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place[last] = leaf
    tensors = [ops.convert_to_tensor(leaf) for leaf in flat]
    for given in (state, flat, nested, by_name, tree, tensors, [leaf.tolist() for leaf in flat]):
        reset_states(model)
        set_state(model, given)
        assert get_state(model) == state


def test_a_state_file_and_a_weight_file_make_the_model_again(model, tmp_path):
    x = _data(ROWS, STEPS, 2)
    model.predict(x, verbose=0)
    get_state(model).save(tmp_path / "state.safetensors")
    model.save(tmp_path / "model.keras")
    expected = model.predict(x, verbose=0)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    set_state(loaded, State.load(tmp_path / "state.safetensors"))
    _close(loaded.predict(x, verbose=0), expected)


def test_a_state_fits_where_keras_has_numbered_the_layers_otherwise():
    models = [
        keras.Sequential(
            [
                keras.Input(batch_shape=(2, STEPS, 1)),
                layers.GRU(3, stateful=True, return_sequences=True),
                layers.GRU(3, stateful=True),
            ]
        )
        for _ in range(2)
    ]
    state = _random_state(models[0], rows=2)
    assert set(state.names) != set(get_state(models[1]).names)
    set_state(models[1], state)
    for found, expected in zip(
        get_state(models[1]).leaves.values(), state.leaves.values(), strict=True
    ):
        assert (found == expected).all()


@pytest.mark.parametrize("fails", [False, True])
def test_peeking_leaves_the_state_as_it_was(fails, model):
    x, y = _data(ROWS, STEPS, 2), _data(ROWS, 1)
    model.predict(x, verbose=0)
    reset_states(model, rows=[1])
    before, starts = get_state(model), explain_state(model)
    expected = None
    try:
        with peek(model):
            expected = model.predict(x, verbose=0)
            model.fit(x, y, verbose=0)
            set_state(model, _random_state(model))
            if fails:
                raise RuntimeError("inside")
    except RuntimeError:
        assert fails
    assert get_state(model) == before
    assert [layer.rows for layer in explain_state(model)] == [layer.rows for layer in starts]
    _close(model.predict(x, verbose=0), expected)


def test_the_trajectory_is_what_every_step_leaves(model):
    x = _data(ROWS, STEPS, 2)
    set_state(model, _random_state(model))
    before = get_state(model)
    found = trajectory(model, x)
    assert get_state(model) == before
    assert {name: leaf.shape for name, leaf in found.items()} == {
        name: (ROWS, STEPS, *shape) for name, shape in before.spec.items()
    }
    model.predict(x, verbose=0)
    after = get_state(model)
    for name in found:
        _close(found[name][:, -1], after[name])
    lstm = layers.LSTM(3)
    start = {"h": _data(ROWS, 3, seed=1), "c": _data(ROWS, 3, seed=2)}
    steps = trajectory(lstm, x, initial_state=start)
    for t in range(STEPS):
        returning = layers.LSTM(3, return_state=True)
        returning.build(x.shape)
        returning.set_weights(lstm.get_weights())
        _, h, c = returning(x[:, : t + 1], initial_state=start)
        _close(steps["lstm/h" if "lstm/h" in steps else f"{lstm.name}/h"][:, t], at_rest(h))
        _close(steps[f"{lstm.name}/c"][:, t], at_rest(c))


# -- taking over -----------------------------------------------------------------------------


def _stock() -> Any:
    inner = keras.Sequential(
        [
            keras.Input((STEPS, 2)),
            keras.layers.Masking(),
            keras.layers.LSTM(3, return_sequences=True),
            keras.layers.Bidirectional(keras.layers.GRU(2, return_sequences=True)),
        ]
    )
    start = keras.Input((STEPS, 2))
    shared = keras.layers.SimpleRNN(2, return_sequences=True)
    y = shared(inner(start)[..., :2] + shared(start))
    cells = [keras.layers.LSTMCell(3), keras.layers.LSTMCell(2)]
    y = keras.layers.RNN(cells, return_sequences=True)(y)
    y = keras.layers.TimeDistributed(keras.layers.Dense(2))(y)
    model = keras.Model(start, keras.layers.GRU(2, name="last")(y))
    model.compile("adam", "mse")
    return model


def test_taking_control_keeps_everything_but_the_layers():
    x = _data(ROWS, STEPS, 2)
    x[0, 2:] = 0
    stock = _stock()
    taken = take_control(stock)
    _close(taken.predict(x, verbose=0), stock.predict(x, verbose=0))
    assert [w.shape for w in taken.get_weights()] == [w.shape for w in stock.get_weights()]
    recurrent = [layer for _, layer in control._recurrences(taken)]
    assert len(recurrent) == 6
    assert not any(
        isinstance(layer, keras.layers.RNN) and not isinstance(layer, layers.RNN)
        for layer in taken._flatten_layers()
    )
    assert not any(layer.stateful for layer in recurrent)
    assert taken.optimizer.name == stock.optimizer.name
    taken.fit(x, _data(ROWS, 2), verbose=0)


def test_taking_control_can_make_layers_stateful():
    x = _data(ROWS, STEPS, 2)
    stock = keras.Sequential(
        [
            keras.Input((STEPS, 2)),
            keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True)),
            keras.layers.GRU(2),
        ]
    )
    taken = take_control(stock, stateful=True)
    _close(taken.predict(x, verbose=0), stock.predict(x, verbose=0))
    assert get_state(taken).rows == ROWS
    assert not np.allclose(taken.predict(x, verbose=0), stock.predict(x, verbose=0))
    with pytest.raises(NotStatefulError):
        get_state(take_control(taken, stateful=False))


def test_a_subclassed_model_cannot_be_taken_over():
    class Own(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(ArgumentError, match="expected a Functional or Sequential model"):
        take_control(Own())


# -- explaining ------------------------------------------------------------------------------


def test_explain_says_where_each_row_starts_and_which_kernel_runs():
    x = _data(ROWS, STEPS, 2)
    model = _model()
    assert "no rows yet; each will start from zeros" in str(explain_state(model))
    model.predict(x, verbose=0)
    reset_states(model, rows=[0, 1])
    found = {layer.name: layer for layer in explain_state(model)}
    assert list(found) == ["inner/both/forward", "inner/both/backward", "stack", "lstm"]
    for layer in found.values():
        assert layer.rows == ("zeros", "zeros", "current")
        assert list(layer.kernels.values()).count("runs") == 1
    assert "lstm: rows 0-1: zeros; row 2: current" in str(explain_state(model))
    kernels = found["lstm"].kernels
    assert (
        "TensorFlow" in kernels["native"]
        if BACKEND == "tensorflow"
        else kernels["native"] == "runs"
    )
    assert kernels["fused"] == "would run" if BACKEND == "torch" else "GPU" in kernels["fused"]
    for options, source in (
        ({"initial_state": "learned"}, "learned"),
        ({"initial_state": 0.5}, "constant"),
        ({}, "zeros"),
    ):
        layer = layers.GRU(2, stateful=True, **options)
        layer.build((2, 3, 1))
        assert explain_state(layer)[0].rows == (source, source)
    layer(x[:2, :3, :1], initial_state=[np.ones((2, 2), "float32")])
    layer.reset_states(rows=0)
    assert explain_state(layer)[0].rows == ("passed", "current")
    with pytest.raises(ArgumentError, match="has no recurrent layer"):
        explain_state(keras.layers.LSTM(2, stateful=True))
    stateless = explain_state(layers.GRU(2, name="gru"))
    assert str(stateless).startswith("gru: every call starts from zeros")


def test_the_kernel_that_explain_names_is_the_one_that_runs(monkeypatch):
    from statecast.recurrence import run as recurrence

    ran = []
    for kernel in recurrence.KERNELS:
        monkeypatch.setattr(
            kernel, "run", lambda p, k=kernel, run=kernel.run: (ran.append(k.name), run(p))[1]
        )
    for options in ({}, {"use_cudnn": False}, {"activation": "relu"}, {"unroll": True}):
        layer = layers.LSTM(2, **options)
        layer(_data(2, 3, 1))
        kernels = explain_state(layer)[0].kernels
        assert [name for name, answer in kernels.items() if answer == "runs"] == [ran.pop()]


# -- training --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def follow() -> Callable[..., list[float]]:
    """The first number of h after each of the three batches of an epoch, weights held."""
    keras.utils.set_random_seed(0)
    gru = layers.GRU(2, stateful=True, name="gru")
    model = keras.Sequential([keras.Input(batch_shape=(2, 1, 1)), gru])
    model.compile(keras.optimizers.SGD(0.0), "mse")

    def follow(every: Any, states: Any = None, rows: Any = None, epochs: int = 1) -> list[float]:
        seen = []

        class Watch(keras.callbacks.Callback):
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                seen.append(float(get_state(self.model)["gru/h"][0, 0]))

        reset_states(model)
        callbacks = [ResetStates(every, states, rows), Watch()]
        model.fit(
            np.ones((6, 1, 1)),
            np.ones((6, 2)),
            batch_size=2,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
        return seen

    return follow


def test_the_callback_resets_at_each_epoch_batch_or_sequence(follow):
    a, b, c = follow("epoch")
    assert len({a, b, c}) == 3
    near = lambda values: pytest.approx(values, abs=1e-6)  # noqa: E731
    assert follow("epoch", epochs=2) == near([a, b, c] * 2)
    assert follow("batch") == near([a, a, a])
    assert follow(2) == near([a, b, a])
    assert follow(lambda batch: batch == 1) == near([a, a, b])
    assert follow("batch", rows=[1]) == near([a, b, c])
    same = follow("batch", states=[np.full((2, 2), 0.5)])
    assert same == near([same[0]] * 3)
    assert abs(same[0] - a) > 1e-3
    varied = follow("batch", states=lambda batch: [np.full((2, 2), 0.1 * batch)])
    assert varied[0] == near(a)
    assert len(set(varied)) == 3


def test_the_callback_refuses_what_it_could_not_do():
    wrong: list[Any] = ["step", 0, 1.5, True]
    for every in wrong:
        with pytest.raises(ArgumentError, match="every: expected"):
            ResetStates(every)
    model = _small(batch=4)
    forgets = ResetStates("batch", states=lambda batch: None)
    with pytest.raises(ArgumentError, match="the function returned None for batch 0"):
        model.predict(_data(8, STEPS, 2), batch_size=4, verbose=0, callbacks=[forgets])
    if BACKEND != "torch":
        model = _small(batch=4, steps_per_execution=2)
        x, y = _data(8, STEPS, 2), _data(8, 1)
        with pytest.raises(ArgumentError, match="steps_per_execution=2"):
            model.fit(x, y, batch_size=4, verbose=0, callbacks=[ResetStates("batch")])
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[ResetStates("epoch")])


def _sequence_model(stateful: bool = True, **options: Any) -> Any:
    model = keras.Sequential(
        [
            keras.Input((None, 2)),
            layers.LSTM(3, stateful=stateful, return_sequences=True),
            keras.layers.Dense(1),
        ]
    )
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    model.compile(keras.optimizers.SGD(0.1), "mse", **options)
    return model


def test_windows_as_long_as_the_sequence_are_the_full_run():
    x, y = _data(5, 6, 2), _data(5, 6, 1, seed=1)
    windowed, plain = _sequence_model(), _sequence_model(stateful=False)
    Windows(x, y, steps=6, batch_size=2).fit(windowed, epochs=2, verbose=0)
    plain.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    for found, expected in zip(windowed.get_weights(), plain.get_weights(), strict=True):
        _close(found, expected)


def test_windows_carry_the_state_and_cut_the_gradient():
    """One pass by hand: each window from the state the one before it left, as a constant."""
    x, y = _data(2, 6, 2), _data(2, 6, 1, seed=1)
    windowed = _sequence_model()
    windows = Windows(x, y, steps=2, batch_size=2)
    windows.fit(windowed, verbose=0)
    by_hand = _sequence_model(stateful=False)
    lstm, dense = by_hand.layers
    start, h, c = keras.Input((2, 2)), keras.Input((3,)), keras.Input((3,))
    trained = keras.Model([start, h, c], dense(lstm(start, initial_state=[h, c])))
    trained.compile(keras.optimizers.SGD(0.1), "mse")
    state = [np.zeros((2, 3), "float32")] * 2
    for at in (0, 2, 4):
        part = x[:, at : at + 2]
        steps = trajectory(lstm, part, initial_state=state)
        trained.train_on_batch([part, *state], y[:, at : at + 2])
        state = [leaf[:, -1] for leaf in steps.values()]
    for found, expected in zip(windowed.get_weights(), by_hand.get_weights(), strict=True):
        _close(found, expected)
    full = _sequence_model(stateful=False)
    full.fit(x, y, verbose=0)
    assert not all(
        np.allclose(a, b) for a, b in zip(windowed.get_weights(), full.get_weights(), strict=True)
    )


def test_windows_handle_rows_that_end_at_different_times():
    x, y = _data(5, 7, 2), _data(5, 7, 1, seed=1)
    lengths = [7, 2, 3, 1, 5]
    windows = Windows(x, y, steps=3, batch_size=2, lengths=lengths)
    assert windows.windows == [(0, 0), (0, 3), (0, 6), (2, 0), (4, 0), (4, 3)]
    assert [windows.starts(batch) for batch in range(len(windows))] == [1, 0, 0, 1, 1, 0]
    model = _sequence_model()
    found = windows.predict(model)
    expected = _sequence_model(stateful=False).predict(x, verbose=0)
    for row, length in enumerate(lengths):
        _close(found[row, :length], expected[row, :length])
    changed = y.copy()
    for row, length in enumerate(lengths):
        changed[row, length:] = 1e6  # beyond its end nothing counts
    other = Windows(x, changed, steps=3, batch_size=2, lengths=lengths)
    assert windows.evaluate(model, verbose=0) == pytest.approx(
        other.evaluate(model, verbose=0), rel=1e-5
    )


def test_windows_leave_static_features_whole():
    x = {"sequence": _data(4, 6, 2), "features": _data(4, 3)}
    windows = Windows(x, _data(4, 6, 1), steps=4, batch_size=2, whole=["features"])
    inputs, y, weight = windows[1]
    assert inputs["sequence"].shape == (2, 4, 2)
    assert (inputs["sequence"][:, :2] == x["sequence"][:2, 4:]).all()
    assert (inputs["features"] == x["features"][:2]).all()
    assert y.shape == (2, 4, 1)
    assert (weight > 0).tolist() == [[True, True, False, False]] * 2


def test_an_entry_of_the_inputs_may_be_called_y():
    x = {"y": _data(4, 6, 2), "x": _data(4, 6, 1)}
    inputs, y, _ = Windows(x, _data(4, 6, 1), steps=3)[0]
    assert inputs["y"].shape == (4, 3, 2)
    assert y.shape == (4, 3, 1)
    with pytest.raises(ArgumentError, match=r"'y': \(4, 5\), 'x': \(4, 6\), the targets 'y'"):
        Windows(x | {"y": _data(4, 5, 2)}, _data(4, 6, 1), steps=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected a whole number from 1; received 0"),
        ({"steps": 2, "batch_size": 0}, "batch_size: expected a whole number from 1"),
        ({"steps": 2, "y": np.zeros((4, 5, 1))}, r"'y': \(4, 5\)"),
        ({"steps": 2, "y": np.zeros(4)}, r"'y': \(4,\)"),
        ({"steps": 2, "lengths": [1, 2]}, "lengths: expected 4 whole numbers"),
        ({"steps": 2, "lengths": [1, 2, 3, 9]}, r"lengths: expected values in 1\.\.6"),
        ({"steps": 2, "whole": ["X"]}, "x has no entry 'X'"),
    ],
)
def test_windows_check_what_they_are_given(options, message):
    options = {"y": np.zeros((4, 6, 1))} | options
    with pytest.raises(ArgumentError, match=message):
        Windows(np.zeros((4, 6, 2)), **options)


def test_windows_refuse_what_they_could_not_do():
    windows = Windows(_data(4, 6, 2), _data(4, 6, 1), steps=3)
    model = _small(batch=4)  # one output for a sequence
    with pytest.raises(ArgumentError, match=r"an output for each of 3 steps.*return_sequences"):
        windows.predict(model)
    with pytest.raises(ArgumentError, match=r"shuffle: expected none, .*; received True"):
        windows.fit(model, shuffle=True)
    for method in (windows.fit, windows.evaluate):
        with pytest.raises(ArgumentError, match="batch_size: expected none"):
            method(model, batch_size=2)
    with pytest.raises(ArgumentError, match="y: training and evaluation need targets"):
        Windows(_data(4, 6, 2), steps=3).fit(model)
    model = _sequence_model()
    windows.fit(model, verbose=0)
    for method in (model.fit, model.evaluate, model.predict):
        with pytest.raises(ArgumentError, match=r"Call windows\.fit\(model\)"):
            method(windows, verbose=0)


def test_the_loss_of_windows_is_the_mean_over_the_steps_there_are():
    x, y = _data(5, 7, 2), _data(5, 7, 1)
    lengths = np.array([7, 2, 5, 1, 4])
    model = _sequence_model()
    model.compile("sgd", "mse")
    for batch_size, ends in ((5, np.full(5, 7)), (5, lengths), (2, lengths)):
        windows = Windows(x, y, steps=3, batch_size=batch_size, lengths=ends)
        counts = np.arange(7) < ends[:, None]
        error = np.square(windows.predict(model) - y)[..., 0]
        assert windows.evaluate(model, verbose=0) == pytest.approx(error[counts].mean(), rel=1e-4)


# -- refusals --------------------------------------------------------------------------------


def test_a_refusal_names_the_leaf_and_loses_nothing(model, after):
    """Compiled and traced, on every backend: the next good call works."""
    x = _data(ROWS, STEPS, 2)
    model.predict(x, verbose=0)
    before = get_state(model)
    good = _random_state(model)
    bad = {
        "units": (dict(good.leaves) | {"lstm/c": np.ones((ROWS, 4))}, "leaf 'lstm/c'.*units"),
        "rows": (_random_state(model, rows=ROWS + 1), "the rows differ, and nothing broadcasts"),
        "one row": (_random_state(model, rows=1), "the rows differ, and nothing broadcasts"),
        "names": (State({"other/h": np.ones((ROWS, 3))}), "expected the leaves .*'other/h'"),
        "count": ([np.ones((ROWS, 2))] * 6, "expected 7 states"),
        "nan": (dict(good.leaves) | {"lstm/h": np.full((ROWS, 3), np.nan)}, "'lstm/h'.*nan"),
        "nothing": (None, "needs a state"),
    }
    for state, message in bad.values():
        with pytest.raises(StateError, match=message):
            set_state(model, state)
        assert get_state(model) == before
    with pytest.raises(StateError, match="out of range"):
        reset_states(model, rows=[ROWS])
    with pytest.raises(ArgumentError, match="batch_size: expected"):
        reset_states(model, batch_size=0)
    with pytest.raises(ArgumentError, match="rows="):
        reset_states(model, rows=[0], batch_size=2)
    assert get_state(model) == before
    set_state(model, good)
    model.predict(x, verbose=0)
    _same(get_state(model), after(good, x))


def test_a_model_that_keeps_no_state_says_so():
    with pytest.raises(
        NotStatefulError, match=r"none of its .* take_control\(model, stateful=True\)"
    ):
        get_state(_model(stateful=False))
    with pytest.raises(NotStatefulError, match=r"the model that take_control\(model\) returns"):
        reset_states(keras.Sequential([keras.Input((3, 1)), keras.layers.LSTM(2)]))
    with pytest.raises(ArgumentError, match="no recurrent layer"):
        trajectory(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), _data(2, 3))


def test_an_unknown_batch_size_is_said():
    model = _model()
    reset_states(model)
    for refused in (
        lambda: get_state(model),
        lambda: set_state(model, _random_state(model)),
        lambda: reset_states(model, rows=[0]),
    ):
        with pytest.raises(StateError, match="batch size is unknown"):
            refused()
    state = _random_state(model)
    set_state(model, state, batch_size=ROWS)
    assert get_state(model) == state


def test_a_stateful_layer_used_twice_in_a_graph_is_refused():
    first, second = keras.Input((STEPS, 2)), keras.Input((STEPS, 2))
    lstm = layers.LSTM(3, stateful=True, name="shared")
    model = keras.Model([first, second], [lstm(first), lstm(second)])
    x = _data(ROWS, STEPS, 2)
    reset_states(model, batch_size=ROWS)
    before = get_state(model)
    for call in (lambda: model([x, x]), lambda: model.predict([x, x], verbose=0)):
        with pytest.raises(StateError, match=r"layer 'shared' .* more than once"):
            call()
        assert get_state(model) == before


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda: layers.LSTM(3, stateful=True, name="shared"),
        lambda: layers.Bidirectional(layers.GRU(3, stateful=True, name="shared")),
        lambda: keras.Sequential(
            [keras.Input(batch_shape=(ROWS, STEPS, 2)), layers.GRU(3, stateful=True, name="shared")]
        ),
    ],
)
def test_a_stateful_layer_in_time_distributed_is_refused(wrapped):
    """It would go on from slice to slice."""
    slices = np.stack([_data(ROWS, STEPS, 2)] * 3, axis=1)
    refused = pytest.raises(StateError, match=r"is stateful and .* in TimeDistributed")
    with refused:
        keras.layers.TimeDistributed(wrapped())(slices)
    model = keras.Sequential([keras.layers.TimeDistributed(wrapped()), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with refused:
        model.predict(slices, verbose=0)


def test_control_of_a_layer_that_is_used_twice_is_refused_at_once():
    """Without a state it is taken, and computes the same."""
    first, second = (keras.Input(batch_shape=(ROWS, STEPS, 2)) for _ in range(2))
    lstm = keras.layers.LSTM(3, name="shared")
    twice = keras.Model([first, second], [lstm(first), lstm(second)])
    slices = keras.Input(batch_shape=(ROWS, 2, STEPS, 2))
    each = keras.Model(slices, keras.layers.TimeDistributed(keras.layers.LSTM(3))(slices))
    x = _data(ROWS, STEPS, 2)
    for model, data in ((twice, [x, x + 1]), (each, np.stack([x, x + 1], axis=1))):
        with pytest.raises(StateError, match="more than once in one model"):
            take_control(model, stateful=True)
        found, expected = (m.predict(data, verbose=0) for m in (take_control(model), model))
        for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
            _close(one, other)


@pytest.mark.parametrize(
    "direct",
    [
        lambda: layers.LSTM(3, stateful=True),
        lambda: layers.GRU(3, stateful=True, return_sequences=True),
        lambda: layers.SimpleRNN(3, stateful=True),
        lambda: layers.Bidirectional(layers.LSTM(3, stateful=True)),
    ],
)
def test_a_direct_call_of_call_begins_no_call_of_keras(direct):
    """Keras would take it for the outermost call from then on, so that nothing could be refused."""
    layer, x = direct(), _data(ROWS, STEPS, 2)
    layer(x)
    layer.call(ops.convert_to_tensor(x))
    with pytest.raises(StateError):
        layer.call(ops.convert_to_tensor(x), initial_state=[ops.zeros((1, 1))])
    first, second = keras.Input((STEPS, 2)), keras.Input((STEPS, 2))
    lstm = layers.LSTM(3, stateful=True, name="shared")
    model = keras.Model([first, second], [lstm(first), lstm(second)])
    reset_states(model, batch_size=ROWS)
    with pytest.raises(StateError, match=r"layer 'shared' .* more than once"):
        model([x, x])


@pytest.mark.parametrize(
    "call",
    [
        "predict",
        "fit",
        *(pytest.param(c, marks=SLOW_TO_COMPILE) for c in ("evaluate", "train_on_batch")),
    ],
)
def test_an_error_inside_a_step_loses_nothing(call, model, after):
    """Data of another width, at once and after a good batch: the next good call works."""
    x, y = _data(ROWS, STEPS, 2), _data(ROWS, 1, seed=1)
    model.predict(x, verbose=0)
    state = get_state(model)
    weights = model.get_weights()
    with pytest.raises(Exception, match=r"\S"):  # Keras's own error, another on each backend
        CALLS[call](model, _data(ROWS, STEPS, 5), y)
    model.get_weights()  # there at once, before anything of ours is asked
    layer = model.get_layer("lstm")
    assert layer.state["h"].tolist() == state["lstm/h"].tolist()
    assert get_state(model) == state
    CALLS[call](model, x, y)
    _same(get_state(model), after(state, x))
    for found, expected in zip(model.get_weights(), weights, strict=True):
        _close(found, expected)


def test_an_error_between_the_batches_of_predict_loses_nothing(model, after):
    x = _data(3 * ROWS, STEPS, 2)

    class Stop(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                raise RuntimeError("between batches")

    with pytest.raises(RuntimeError, match="between batches"):
        model.predict(x, batch_size=ROWS, verbose=0, callbacks=[Stop()])
    two = after(after(None, x[:ROWS]), x[ROWS : 2 * ROWS])
    _same(get_state(model), two)
    model.predict(x[2 * ROWS :], verbose=0)
    _same(get_state(model), after(two, x[2 * ROWS :]))


def test_a_stateful_layer_may_stand_in_two_models():
    first = keras.Input((STEPS, 2))
    lstm = layers.LSTM(3, stateful=True, name="shared")
    one, other = keras.Model(first, lstm(first)), keras.Model(first, lstm(first)[:, :1])
    x = _data(ROWS, STEPS, 2)
    one.predict(x, verbose=0)
    state = get_state(one)
    other.predict(x, verbose=0)
    assert get_state(one) == get_state(other)
    assert get_state(one) != state


def test_a_layer_used_again_in_a_models_own_code_goes_on():
    class Twice(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.gru = layers.GRU(2, stateful=True)

        def call(self, x: Any) -> Any:
            self.gru(x[:, :2])
            return self.gru(x[:, 2:])

    x = _data(ROWS, STEPS, 2)
    model = Twice()
    found = model.predict(x, verbose=0)
    whole = layers.GRU(2)
    whole.build(x.shape)
    whole.set_weights(model.get_weights())
    _close(found, at_rest(whole(x)))


def test_callbacks_read_and_set_the_state_inside_fit():
    """Keras on JAX keeps all values aside in fit; a callback need not know."""
    model = _model(batch=ROWS)
    model.optimizer.learning_rate = 0.0
    layer = model.get_layer("lstm")
    left: list[State] = []

    class Callback(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 2:
                layer.reset_states()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            left.append(layer.state)

    x, y = _data(4 * ROWS, STEPS, 2), _data(4 * ROWS, 1, seed=1)
    model.fit(x, y, batch_size=ROWS, shuffle=False, verbose=0, callbacks=[Callback()])
    assert layer.state == left[-1]
    reset_states(model)
    for batch, state in enumerate(left):
        if batch == 2:
            layer.reset_states()
        model(x[batch * ROWS : (batch + 1) * ROWS])
        _same(state, layer.state)


def test_data_that_sets_the_state_in_the_middle_of_a_step_is_told():
    """On JAX it would be lost, and the step's weights with it; it loses nothing."""
    model = _model(batch=ROWS)
    layer = model.get_layer("lstm")
    told = []

    def batches() -> Any:
        for _ in range(3):
            yield _data(ROWS, STEPS, 2), _data(ROWS, 1)
            for touch in (layer.reset_states, lambda: get_state(model)):
                try:
                    touch()
                except StateError as error:
                    told.append("between the steps" in str(error))

    before = model.get_weights()
    model.fit(batches(), steps_per_epoch=3, verbose=0)
    if BACKEND == "tensorflow":  # another thread asks for them, and how far ahead is its choice
        assert all(told)
    else:
        assert told == ([True] * 2 if BACKEND == "jax" else [])  # the first is read ahead
    assert model.optimizer.iterations == 3
    reset_states(model, rows=[0])  # and afterwards it may
    assert not any(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert layer.state.rows == ROWS


@keras.saving.register_keras_serializable("tests")
class Hook(keras.layers.Layer):
    """Runs a function of the test's in the middle of a step that is not compiled."""

    meet: Any = None

    def call(self, x: Any) -> Any:
        if self.meet is not None:
            self.meet()
        return x


@pytest.mark.parametrize("call", ["fit", "evaluate", "predict", "train_on_batch"])
def test_another_thread_in_the_middle_of_a_step_is_told(call):
    x, y = _data(ROWS, STEPS, 2), _data(ROWS, 1, seed=1)
    hook = Hook()
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(ROWS, STEPS, 2)),
            layers.LSTM(3, stateful=True, name="lstm"),
            hook,
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse", run_eagerly=True)
    CALLS[call](model, x, y)
    found: list[Exception] = []

    def outside() -> None:
        for use in (
            get_state,
            reset_states,
            lambda model: set_state(model, [np.ones((ROWS, 3))] * 2),
        ):
            try:
                use(model)
            except Exception as error:
                found.append(error)

    def meet() -> None:
        thread = threading.Thread(target=outside)
        thread.start()
        thread.join()

    reference = keras.models.clone_model(model)
    reference.set_weights(model.get_weights())
    reference.compile("sgd", "mse", run_eagerly=True)
    set_state(reference, get_state(model))
    hook.meet = meet
    CALLS[call](model, x, y)
    hook.meet = None
    assert len(found) >= 3
    assert {type(error) for error in found} == {StateError}
    assert all("nor another thread" in str(error) for error in found)
    CALLS[call](reference, x, y)
    _same(get_state(model), get_state(reference))
    found.clear()
    meet()  # between two calls it may
    assert not found
    assert (get_state(model)["lstm/h"] == 1).all()


def test_what_another_thread_reads_is_of_one_moment():
    """A reader beside ``predict`` gets the whole state that some batch left, or is told."""
    batches = 40
    x = _data(batches * 2, STEPS, 2)
    model = _small()
    model.predict(x[:2], batch_size=2, verbose=0)
    seen = [get_state(model)]

    class Watch(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append(get_state(self.model))

    read: list[State] = []
    other: list[Exception] = []
    over = threading.Event()

    def poll() -> None:
        while not over.is_set():
            try:
                read.append(get_state(model))
            except StateError:
                time.sleep(0.001)
            except Exception as error:
                other.append(error)
                return

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        model.predict(x, batch_size=2, verbose=0, callbacks=[Watch()])
    finally:
        over.set()
        thread.join()
    assert not other
    whole = [tuple(leaf.tobytes() for leaf in state.leaves.values()) for state in seen]
    assert len(seen) == batches + 1
    for state in read:
        assert tuple(leaf.tobytes() for leaf in state.leaves.values()) in whole
    assert get_state(model) == seen[-1]


@pytest.mark.parametrize("stateful", [False, True])
def test_an_initial_state_set_within_fit_stays_set(stateful):
    """On JAX the model's values are aside then, and a new variable joins them."""
    x, y = _data(8, STEPS, 2), _data(8, 1)

    class Set(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.value = 1.0 + 3.0 * epoch

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:  # more batches follow; a callback's `self.model` would put values back
                layer.set_initial_state(self.value)

    layer = layers.GRU(3, stateful=stateful)
    model = keras.Sequential([keras.Input((STEPS, 2)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=[Set()])
    assert layer.get_config()["initial_state"] == 4.0
    if stateful:
        reset_states(model)
    stock = keras.layers.GRU(3)
    stock.build(x.shape)
    stock.set_weights(layer.get_weights())
    start = ops.full((8, 3), 4.0)
    _close(at_rest(layer(x)), at_rest(stock(x, initial_state=start)))


def test_the_public_names_are_the_functions():
    assert statecast.get_state is get_state
    assert statecast.take_control is take_control
