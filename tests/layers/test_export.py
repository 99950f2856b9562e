"""Models with our layers exported by Keras, JAX and PyTorch, and what is exported run again.

A model of Keras's layers with the same weights is exported beside it. A format that Keras's own
layers cannot be exported to, because a package is missing, is skipped with the reason.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from statecast.control.models import get_state
from statecast.errors import KernelError, StateError
from statecast.layers import recurrent as layers
from statecast.layers.initial import InitialState
from statecast.recurrence import run as recurrence
from statecast.recurrence.cells import GRU, LSTM, ClosedLoop, SimpleRNN, Stack
from statecast.recurrence.kernels.native import library
from statecast.state import at_rest

pytestmark = pytest.mark.backends

BACKEND = keras.backend.backend()
TOLERANCE = 300 * float(np.finfo("float32").eps)
STEPS = 4
# What Keras's own layers can be exported to on a backend, and the packages that it takes.
FORMATS = {
    "jax": {"tf_saved_model": ["tensorflow"], "onnx": ["jax2onnx"], "openvino": ["openvino"]},
    "tensorflow": {
        "tf_saved_model": [],
        "litert": [],
        "onnx": ["tf2onnx"],
        "openvino": ["openvino"],
    },
    "torch": {
        "torch": [],
        "onnx": ["onnx", "onnxruntime"],
        "tf_saved_model": ["torch_xla"],
        "openvino": ["openvino"],
        "litert": ["litert_torch"],
    },
}[BACKEND]
# Those that the tests can run. With the packages of the others nothing has been tested.
TESTED = {
    "jax": ["tf_saved_model"],
    "tensorflow": ["tf_saved_model", "litert"],
    "torch": ["torch", "onnx"],
}[BACKEND]
built = pytest.mark.skipif(isinstance(library.find(), str), reason="the library is not built")


@pytest.fixture(params=FORMATS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each format; skipped where Keras's own layers cannot be exported to it here."""
    needs = FORMATS[request.param]
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"on {BACKEND} Keras exports to {request.param!r} with {missing}, not here")
    if request.param not in TESTED:
        pytest.skip(f"{request.param!r} on {BACKEND} has never been tested")
    return request.param


@pytest.fixture
def usual() -> str:
    """The first format of the backend whose files have any number of rows."""
    found = "onnx" if BACKEND == "torch" else "tf_saved_model"
    for name in FORMATS[found]:
        pytest.importorskip(name)
    return found


def _data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(at_rest(found), at_rest(expected), rtol=TOLERANCE, atol=TOLERANCE)


def _exported(model: Any, kind: str, folder: Path, **options: Any) -> Any:
    """Export a model, and load the file: a function from a list of arrays to a list of arrays."""
    end = {"onnx": "onnx", "torch": "pt2", "litert": "tflite"}.get(kind, "saved")
    path = str(folder / f"{model.name}.{end}")
    model.export(path, format=kind, verbose=False, **options)
    if kind == "onnx":
        import onnxruntime

        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, quiet)
        names = [value.name for value in session.get_inputs()]
        return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))
    if kind == "torch":
        import torch

        program = torch.export.load(path).module()

        def run(*arrays: Any) -> list[Any]:
            tensors = [torch.as_tensor(array) for array in arrays]
            return _list(program(_argument(tensors)))

        return run
    import tensorflow as tf

    if kind == "litert":
        signature = tf.lite.Interpreter(path).get_signature_runner()
        (name,) = signature.get_input_details()
        return lambda array: list(signature(**{name: array}).values())
    loaded = tf.saved_model.load(path)
    return lambda *arrays: _list(loaded.serve(_argument(arrays)))


def _argument(values: Any) -> Any:
    """The argument of a model of one input or of several."""
    return list(values) if len(values) > 1 else next(iter(values))


def _list(values: Any) -> list[Any]:
    return [at_rest(v) for v in (values if isinstance(values, (list, tuple)) else [values])]


def _predicted(model: Any, *arrays: np.ndarray) -> list[Any]:
    return _list(model.predict(_argument(arrays), verbose=0))


def _is_predict(run: Any, model: Any, *arrays: np.ndarray) -> None:
    found, expected = run(*arrays), _predicted(model, *arrays)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        _close(a, b)


# -- each format ------------------------------------------------------------------------------


def _pair(make: Any) -> list[Any]:
    """A model of Keras's layers and one of ours, with the same weights, which have both run."""
    models = []
    for source in (keras.layers, layers):
        x = keras.Input((STEPS, 2), name="x")
        models.append(keras.Model(x, [layer(x) for layer in make(source)]))
        models[-1](_data(2, STEPS, 2))
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=w.shape) * 0.5 for w in models[0].get_weights()]
    for model in models:
        model.set_weights(weights)
    return models


def test_an_exported_file_is_predict_as_with_keras_own_layers(kind: str, tmp_path: Path) -> None:
    # LiteRT's interpreter runs no loops of TensorFlow. PyTorch's format has the rows of an example.
    unroll = kind == "litert"
    stock, ours = _pair(
        lambda source: [
            source.LSTM(3, unroll=unroll),
            source.GRU(2, unroll=unroll),
            source.SimpleRNN(1, unroll=unroll),
        ]
    )
    runs = [_exported(model, kind, tmp_path) for model in (stock, ours)]
    for rows in (1,) if kind == "torch" else (1, 3):
        x = _data(rows, STEPS, 2)
        for run, model in zip(runs, (stock, ours), strict=True):
            _is_predict(run, model, x)
        for a, b in zip(runs[0](x), runs[1](x), strict=True):
            _close(a, b)


def _many(source: Any, steps: int | None) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs of a model with many uses of recurrent layers."""
    keep = keras.layers
    x = keras.Input((steps, 2), name="x")
    h, c = keras.Input((3,), name="h"), keras.Input((3,), name="c")
    masked = keep.Masking()(x)
    both = source.Bidirectional(source.GRU(2, return_sequences=True, return_state=True))
    cells = [keep.LSTMCell(2), keep.GRUCell(3, reset_after=False)]
    pairs = keep.Reshape((2, -1, 2))(keep.Concatenate()([x, x]))
    outputs = [
        *source.LSTM(3, return_sequences=True, return_state=True)(x, initial_state=[h, c]),
        source.GRU(3, go_backwards=True, return_sequences=True)(x),
        source.SimpleRNN(3, use_bias=False, activation="relu")(x),
        *both(x),
        source.LSTM(2, return_sequences=True)(masked),
        source.GRU(2, go_backwards=True, zero_output_for_mask=True, return_sequences=True)(masked),
        source.RNN(cells)(x),
        keep.TimeDistributed(source.SimpleRNN(2))(pairs),
        source.LSTM(2, dropout=0.2, recurrent_dropout=0.2)(
            source.LSTM(2, return_sequences=True)(x)
        ),
        keep.Activation("linear", dtype="float32")(source.LSTM(2, dtype="float32")(x)),
    ]
    return [x, h, c], outputs


@pytest.mark.slow
def test_arguments_and_wrappers_are_exported(usual: str, tmp_path: Path) -> None:
    steps = STEPS if usual == "onnx" else None
    model: Any = keras.Model(*_many(layers, steps))
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])

    def arrays(rows: int, steps: int) -> list[np.ndarray]:
        x = _data(rows, steps, 2, seed=rows)
        x[0, 1] = 0.0  # a masked step
        return [x, _data(rows, 3, seed=1), _data(rows, 3, seed=2)]

    _predicted(model, *arrays(2, STEPS))
    run = _exported(model, usual, tmp_path)
    for rows, length in ((2, STEPS), (1, steps or 2), (5, steps or 7)):
        _is_predict(run, model, *arrays(rows, length))


def test_initial_states_of_our_own_are_exported(usual: str, tmp_path: Path) -> None:
    x, static = keras.Input((STEPS, 2), name="x"), keras.Input((2,), name="static")
    first, then = layers.LSTM(3), layers.Bidirectional(layers.GRU(2))
    model: Any = keras.Model(
        [x, static],
        [
            first(x, initial_state=InitialState(first, depth=2)(static)),
            then(x, initial_state=InitialState(then)(static)),
            layers.LSTM(2, initial_state="learned")(x),
            layers.GRU(2, initial_state=0.5)(x),
        ],
    )
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    arrays = [_data(3, STEPS, 2), _data(3, 2)]
    _predicted(model, *arrays)
    run = _exported(model, usual, tmp_path)
    _is_predict(run, model, *arrays)
    _is_predict(run, model, arrays[0][:1], arrays[1][:1])
    moved = run(arrays[0], arrays[1] + 1)
    assert not np.allclose(moved[0], _predicted(model, *arrays)[0], atol=1e-3)


def test_a_model_in_mixed_precision_is_exported(kind: str, tmp_path: Path) -> None:
    if kind in ("onnx", "litert"):
        pytest.skip("Keras exports float32 only to this format")
    _, model = _pair(lambda source: [source.LSTM(3, dtype="mixed_float16")])
    run = _exported(model, kind, tmp_path)
    x = _data(1, STEPS, 2)
    np.testing.assert_allclose(run(x)[0], _predicted(model, x)[0], atol=2e-3)


# -- before and after an export ------------------------------------------------------------------


@built
@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has no native kernel")
def test_an_export_changes_nothing_in_a_trained_model(
    usual: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from statecast.recurrence.kernels.native import in_torch

    calls = []
    run_native = in_torch.run
    monkeypatch.setattr(in_torch, "run", lambda *a: calls.append(a) or run_native(*a))
    _, model = _pair(lambda source: [source.LSTM(3)])
    model.compile("adam", "mse")
    x, y = _data(4, STEPS, 2), _data(4, 3)
    model.fit(x, y, verbose=0)
    (before,) = _predicted(model, x)

    def program() -> str:
        import jax

        return jax.jit(lambda x: model(x)).lower(x).as_text()

    run = _exported(model, usual, tmp_path)
    _close(run(x)[0], before)
    calls.clear()
    assert np.array_equal(_predicted(model, x)[0], before)
    assert "statecast_forward" in program() if BACKEND == "jax" else calls
    assert model.layers[-1].explain_kernels()["native"] == "runs"
    model.fit(x, y, verbose=0)
    assert not np.array_equal(_predicted(model, x)[0], before)
    _close(run(x)[0], before)


# -- stateful layers ------------------------------------------------------------------------------


def _stateful() -> Any:
    x = keras.Input(batch_shape=(2, STEPS, 2))
    model = keras.Model(x, layers.LSTM(3, stateful=True)(x))
    model(_data(2, STEPS, 2))
    return model


@pytest.mark.skipif(BACKEND == "torch", reason="Keras's archive needs torch_xla")
@pytest.mark.parametrize("way", ["track_and_add_endpoint", "add_endpoint", "track"])
def test_an_archive_holds_the_state_or_refuses_it(way: str, tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    model, x = _stateful(), _data(2, STEPS, 2)
    left = get_state(model)
    archive: Any = keras.export.ExportArchive()
    signature = [keras.InputSpec(shape=(2, STEPS, 2), dtype="float32")]

    def write() -> None:
        if way == "track_and_add_endpoint":
            archive.track_and_add_endpoint("serve", model, signature)
        else:
            if way == "track":
                archive.track(model)
            archive.add_endpoint("serve", model.call, signature)
        archive.write_out(str(tmp_path / "saved"), verbose=False)

    if BACKEND == "jax":
        with pytest.raises(StateError, match="is stateful, and what is exported"):
            write()
        assert get_state(model) == left
        model(x)
        assert get_state(model) != left
        return
    write()
    assert get_state(model) == left
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    for _ in range(2):
        _close(loaded.serve(x), model(x))


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's traces")
@pytest.mark.parametrize("way", ["torch.jit.trace", "torch.onnx.export", "torch.export"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pytorch_traces_no_stateful_layer(way: str, tmp_path: Path) -> None:
    import torch

    model, x = _stateful(), torch.tensor(_data(2, STEPS, 2))
    left = get_state(model)
    ways: dict[str, Any] = {
        "torch.jit.trace": lambda: torch.jit.trace(model, (x,)),
        "torch.onnx.export": lambda: torch.onnx.export(
            model, (x,), str(tmp_path / "m.onnx"), dynamo=False
        ),
        "torch.export": lambda: torch.export.export(model, (x,), strict=False),
    }
    with pytest.raises(StateError, match=rf"stateful layer is called within .*{way}"):
        ways[way]()
    assert get_state(model) == left


@pytest.mark.skipif(BACKEND != "jax", reason="jax.export")
def test_a_stateless_call_is_exported_with_the_state_as_argument_and_result() -> None:
    import jax

    model, x = _stateful(), _data(2, STEPS, 2)
    parts = [
        [v.value for v in p] for p in (model.trainable_variables, model.non_trainable_variables)
    ]
    called = jax.jit(lambda *arguments: model.stateless_call(*arguments))
    program = jax.export.deserialize(jax.export.export(called)(*parts, x).serialize())
    for _ in range(2):
        y, parts[1] = program.call(*parts, x)
        _close(y, model(x))


# -- exports of JAX and PyTorch themselves ---------------------------------------------------------


def _problem(cell: Any, rows: int = 3, lead: tuple[int, ...] = ()) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    draw = lambda shape: rng.normal(size=(*lead, *shape)).astype("float32") * 0.5  # noqa: E731
    weights = {n: draw(s) for n, s in cell.weight_shapes(2).items()}
    state = {n: draw((rows, *s)) for n, s in cell.state_shapes.items()}
    return weights, draw((rows, STEPS, 2)), state


@built
@pytest.mark.skipif(BACKEND != "jax", reason="jax.export")
@pytest.mark.parametrize(
    ("cell", "flags"),
    [
        (LSTM(3), True),
        (GRU(3), False),
        (SimpleRNN(3), True),
        (ClosedLoop(GRU(3)), False),
        (ClosedLoop(Stack([LSTM(3)] * 2)), False),
    ],
    ids=repr,
)
def test_jax_exports_a_function_that_was_compiled_before(cell: Any, flags: bool) -> None:
    import jax

    weights, x, state = _problem(cell)
    more: dict[str, Any] = {}
    if flags:
        rng = np.random.default_rng(1)
        more = {n: rng.random((3, STEPS)) < 0.6 for n in ("mask", "resets")}

    def loss(weights: Any, x: Any, state: Any) -> Any:
        y, after = recurrence.run(cell, weights, x, state, initial=state, **more)
        return sum(ops.sum(ops.square(v)) for v in (y, *after.values()))

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    expected = run(weights, x, state)
    assert "statecast_backward" in run.lower(weights, x, state).as_text()
    exported = jax.export.export(run, platforms=["cpu", "cuda"])(weights, x, state)
    assert "custom_call @statecast" not in exported.mlir_module()
    found = jax.export.deserialize(exported.serialize()).call(weights, x, state)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        _close(a, b)
    again = run(weights, x, state)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(expected), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.skipif(BACKEND != "jax", reason="jax.export")
def test_jax_exports_unknown_sizes_members_and_derivatives() -> None:
    import jax

    cell = LSTM(3)

    def call(weights: Any, x: Any, state: Any) -> Any:
        return recurrence.run(cell, weights, x, state)

    problem = _problem(cell, rows=2, lead=(2,))
    rows, steps = jax.export.symbolic_shape("rows, steps")

    def unknown(value: Any) -> Any:  # rows are 2, steps are STEPS, and nothing else is
        sizes = {3: {1: rows}, 4: {1: rows, 2: steps}}[value.ndim]
        shape = [sizes.get(axis, size) for axis, size in enumerate(value.shape)]
        return jax.ShapeDtypeStruct(tuple(shape), value.dtype)

    each = jax.jit(jax.vmap(call))
    weights, x, state = problem
    sizes = (weights, unknown(x), {n: unknown(leaf) for n, leaf in state.items()})
    for given in (problem, sizes):
        program = jax.export.deserialize(jax.export.export(each)(*given).serialize())
        found, expected = program.call(*problem), each(*problem)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            _close(a, b)

    first = [{n: v[0] for n, v in named.items()} for named in (weights, state)]
    alone = jax.jit(lambda x: call(first[0], x, first[1])[0])
    exported = jax.export.export(alone)(x[0])
    program = jax.export.deserialize(exported.serialize(vjp_order=1))
    gradient = lambda f: jax.grad(lambda x: ops.sum(ops.square(f(x))))(x[0])  # noqa: E731
    _close(gradient(program.call), gradient(alone))


@built
@pytest.mark.skipif(BACKEND != "jax", reason="jax.export")
@pytest.mark.parametrize("sizes", ["known", "unknown"])
def test_jax_exports_no_program_with_a_forced_native_kernel(sizes: str) -> None:
    import jax

    cell = LSTM(3)
    weights, x, state = _problem(cell)
    run = jax.jit(lambda x: recurrence.run(cell, weights, x, state, kernel="native")[0])
    expected = run(x)
    given: Any = x
    if sizes == "unknown":
        (steps,) = jax.export.symbolic_shape("steps")
        given = jax.ShapeDtypeStruct((3, steps, 2), "float32")
    with pytest.raises(KernelError, match=r"'native' declines: the program is .*kernel=None"):
        jax.export.export(run)(given)
    assert np.array_equal(run(x), expected)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's exporters")
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "SimpleRNN"])
def test_onnx_files_run_with_any_number_of_steps(cell: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    x = keras.Input((None, 2), name="x")
    model = keras.Model(x, getattr(layers, cell)(3, return_sequences=True)(x))
    model(_data(2, STEPS, 2))
    run = _exported(model, "onnx", tmp_path)
    for rows, steps in ((1, 1), (3, 7)):
        _is_predict(run, model, _data(rows, steps, 2))


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's exporters")
def test_an_onnx_file_with_unrolled_steps_refuses_another_number(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    errors = ort.capi.onnxruntime_pybind11_state
    x = keras.Input((None, 2), name="x")
    model = keras.Model(x, layers.LSTM(3)(keras.layers.Masking()(x)))
    model(_data(2, STEPS, 2))
    run = _exported(model, "onnx", tmp_path)  # Keras's example has one step
    _is_predict(run, model, _data(3, 1, 2))
    with pytest.raises(errors.Fail, match="Split"):
        run(_data(3, STEPS, 2))
    signature = [keras.InputSpec(shape=(None, STEPS, 2), dtype="float32")]
    run = _exported(model, "onnx", tmp_path, input_signature=signature)
    _is_predict(run, model, _data(3, STEPS, 2))
    with pytest.raises(errors.InvalidArgument, match="Got: 1 Expected: 4"):
        run(_data(3, 1, 2))


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's exporters")
def test_onnx_files_in_float64_have_no_recurrence_of_onnx_runtime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    x = keras.Input((STEPS, 2), dtype="float64", name="x")
    model = keras.Model(x, layers.LSTM(3, dtype="float64")(x))
    array = _data(3, STEPS, 2).astype("float64")
    model(array)
    _is_predict(_exported(model, "onnx", tmp_path), model, array)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's exporters")
def test_pytorch_exports_any_number_of_rows(tmp_path: Path) -> None:
    import torch

    _, model = _pair(lambda source: [source.LSTM(3)])
    rows = {0: torch.export.Dim("rows", min=1, max=64)}
    run = _exported(model, "torch", tmp_path, dynamic_shapes=rows)
    for count in (1, 5):
        _is_predict(run, model, _data(count, STEPS, 2))


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's exporters")
def test_a_forced_kernel_that_cannot_be_exported_says_what_to_do() -> None:
    import torch

    model: Any = keras.Sequential([keras.Input((STEPS, 2)), layers.LSTM(3, use_cudnn=True)])
    x = torch.tensor(_data(1, STEPS, 2))
    model(x)
    with pytest.raises(KernelError, match=r"'fused' declines: .*torch.export.*use_cudnn='auto'"):
        torch.export.export(model, (x,), strict=False)
