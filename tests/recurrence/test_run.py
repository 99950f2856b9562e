"""``run`` and its kernels, compared with ``cells.py`` in float64."""

import re
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from effort import TF32, examples, on_gpu
from gradients import gradients
from statecast.errors import ArgumentError, KernelError, StateError
from statecast.recurrence import run as recurrence
from statecast.recurrence.cells import GRU, LSTM, ClosedLoop, SimpleRNN, Stack

pytestmark = pytest.mark.backends
BACKEND = keras.backend.backend()

# float32 steps compound: a few hundred units in the last place at these lengths.
TOLERANCE = 300 * float(np.finfo("float32").eps)

CELLS = [
    SimpleRNN(3),
    GRU(3),
    GRU(2, reset_after=False),
    LSTM(3),
    LSTM(2, use_bias=False),
    LSTM(2, activation="relu"),
    SimpleRNN(2, activation="relu"),
    GRU(2, use_bias=False),
    Stack([LSTM(3), GRU(2)]),
    ClosedLoop(LSTM(3)),
    ClosedLoop(Stack([GRU(2)])),
    ClosedLoop(Stack([SimpleRNN(2), LSTM(2)])),
    ClosedLoop(Stack([LSTM(3)] * 2)),
    ClosedLoop(Stack([GRU(2)] * 3)),
]
# Rows, steps and width: few of them, many numbers, as every new shape is a new compilation.
shapes = st.builds(
    lambda shape, seed: (*shape, seed),
    st.sampled_from([(3, 4, 2), (1, 5, 3), (4, 1, 1), (2, 0, 2), (0, 3, 1)]),
    st.integers(0, 2**32),
)


def _problem(cell, rows, steps, width, seed, lead=()):
    """Random weights, so that swapped gates show, and a random state."""
    if isinstance(cell, ClosedLoop):
        width = max(width, 2)  # a value, and whether it was observed
    rng = np.random.default_rng(seed)
    draw = lambda shape: rng.normal(size=(*lead, *shape)) * 0.7  # noqa: E731
    weights = {name: draw(shape) for name, shape in cell.weight_shapes(width).items()}
    state = {name: draw((rows, *shape)) for name, shape in cell.state_shapes.items()}
    return weights, draw((rows, steps, width)), state, rng


def _reference(cell, weights, x, state, mask=None, resets=None, initial: Any = None) -> Any:
    """Step after step in NumPy float64."""
    ys, last = [], 0.0
    for t in range(x.shape[-2]):
        if resets is not None:
            put = resets[..., t, None]
            state = {name: np.where(put, initial[name], leaf) for name, leaf in state.items()}
        y, after = cell.step(weights, x[..., t, :], state, np)
        if mask is not None:
            on = mask[..., t, None]
            after = {name: np.where(on, after[name], leaf) for name, leaf in state.items()}
            y = last = np.where(on, y, last)
        state = after
        ys.append(y)
    return np.stack(ys, axis=-2) if ys else None, state


def _run(cell, weights, x, state, **more):
    f32 = lambda a: ops.convert_to_tensor(a, "float32")  # noqa: E731
    tensors = lambda named: {n: f32(a) for n, a in named.items()}  # noqa: E731
    if more.get("initial"):
        more["initial"] = tensors(more["initial"])
    for name in ("mask", "resets"):
        if more.get(name) is not None:
            more[name] = ops.convert_to_tensor(more[name])
    y, state = recurrence.run(cell, tensors(weights), f32(x), tensors(state), **more)
    return ops.convert_to_numpy(y), {n: ops.convert_to_numpy(leaf) for n, leaf in state.items()}


def _close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture(params=[kernel.name for kernel in recurrence.KERNELS])
def kernel(request):
    """Each kernel by name, forced where it does not decline."""
    return request.param


def _forced(kernel, cell, weights, x, state, **more):
    """Run with a kernel, or see it refuse with the reason that ``explain`` gives."""
    reason = recurrence.explain(cell, weights, x.astype("float32"), state, **more)[kernel]
    if not reason.startswith("declines: "):
        return _run(cell, weights, x, state, kernel=kernel, **more)
    with pytest.raises(KernelError, match=re.escape(reason.removeprefix("declines: "))):
        _run(cell, weights, x, state, kernel=kernel, **more)
    return None


@pytest.mark.parametrize("cell", CELLS, ids=repr)
@settings(max_examples=examples(8), deadline=None)
@given(shape=shapes, masked=st.booleans(), reset=st.booleans())
def test_run_is_the_reference(cell, kernel, shape, masked, reset):
    rows, steps, width, seed = shape
    weights, x, state, rng = _problem(cell, rows, steps, width, seed)
    more = {}
    if masked:
        more["mask"] = rng.random((rows, steps)) < 0.6
    if reset:
        more["resets"] = rng.random((rows, steps)) < 0.3
        more["initial"] = {name: rng.normal(size=leaf.shape) for name, leaf in state.items()}
    found = _forced(kernel, cell, weights, x, state, **more)
    if found is None:
        return
    y, after = found
    expected_y, expected = _reference(cell, weights, x, state, **more)
    if steps:
        _close(y, expected_y)
    else:
        first = {name: np.zeros_like(leaf) for name, leaf in state.items()}
        out, _ = cell.step(weights, np.zeros((rows, x.shape[-1])), first, np)
        assert y.shape == (rows, 0, out.shape[-1])
    for name, leaf in expected.items():
        _close(after[name], leaf)


@pytest.mark.parametrize("cell", CELLS, ids=repr)
def test_members_of_an_ensemble_are_runs_of_their_own(cell):
    weights, x, state, _ = _problem(cell, 3, 4, 2, seed=1, lead=(5,))
    y, after = _run(cell, weights, x, state)
    for member in range(5):
        own = lambda named, m=member: {n: a[m] for n, a in named.items()}  # noqa: E731
        alone, alone_after = _run(cell, own(weights), x[member], own(state))
        _close(y[member], alone)
        for name, leaf in alone_after.items():
            _close(after[name][member], leaf)


@settings(max_examples=examples(10), deadline=None)
@given(shape=shapes, cut=st.integers(0, 5))
def test_a_split_run_is_the_whole_run(shape, cut):
    rows, steps, width, seed = shape
    cut = min(cut, steps)
    cell = LSTM(3)
    weights, x, state, _ = _problem(cell, rows, steps, width, seed)
    whole_y, whole = _run(cell, weights, x, state)
    first_y, middle = _run(cell, weights, x[:, :cut], state)
    second_y, last = _run(cell, weights, x[:, cut:], middle)
    _close(np.concatenate([first_y, second_y], axis=1), whole_y)
    for name, leaf in whole.items():
        _close(last[name], leaf)


def test_a_reset_row_leaves_the_others_bit_identical():
    cell = GRU(4)
    weights, x, state, _ = _problem(cell, 3, 6, 2, seed=3)
    none = np.zeros((3, 6), bool)
    one = none.copy()
    one[1, 3] = True
    start = {name: np.zeros_like(leaf) for name, leaf in state.items()}
    kept, _ = _run(cell, weights, x, state, resets=none, initial=start)
    reset, _ = _run(cell, weights, x, state, resets=one, initial=start)
    assert kept[[0, 2]].tobytes() == reset[[0, 2]].tobytes()
    assert kept[1, :3].tobytes() == reset[1, :3].tobytes()
    assert not np.allclose(kept[1, 3:], reset[1, 3:])


LAYERS = ClosedLoop(Stack([LSTM(2)] * 2))


@pytest.mark.parametrize(
    "cell", [SimpleRNN(3), GRU(3), LSTM(3), GRU(2, use_bias=False), LAYERS], ids=repr
)
def test_gradients_are_the_references(cell, kernel):
    """To inputs, initial state and every weight, against central differences in float64."""
    weights, x, state, _ = _problem(cell, 2, 3, 2, seed=5)
    if _forced(kernel, cell, weights, x, state) is None:
        return
    named = {**{f"w/{n}": a for n, a in weights.items()}, **{f"s/{n}": a for n, a in state.items()}}
    named["x"] = x

    def value(named, xp_run):
        take = lambda start: {n[2:]: a for n, a in named.items() if n.startswith(start)}  # noqa: E731
        return xp_run(cell, take("w/"), named["x"], take("s/"))

    def loss(named):
        y, after = value(named, _reference)
        return sum((part**2).sum() for part in (y, *after.values()))

    def tensor_loss(named):
        y, after = value(named, partial(recurrence.run, kernel=kernel))
        return sum(ops.sum(ops.square(part)) for part in (y, *after.values()))

    found = gradients(tensor_loss, named)
    for name, array in named.items():
        for index in np.ndindex(array.shape):
            shifted = []
            for sign in (1e-6, -1e-6):
                moved = array.copy()
                moved[index] += sign
                shifted.append(loss({**named, name: moved}))
            expected = (shifted[0] - shifted[1]) / 2e-6
            assert found[name][index] == pytest.approx(expected, rel=1e-3, abs=1e-4), name


HALVED = [SimpleRNN(18), GRU(20), LSTM(33), Stack([LSTM(17), GRU(18)]), ClosedLoop(LSTM(18))]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("cell", HALVED, ids=repr)
def test_weights_of_bfloat16_round_the_factors_of_products(cell, kernel, dtype):
    """Outputs and gradients are near those of the rounded weights in float64, and a gradient has
    the dtype of its value. ``dtype`` is that of x; the state stays in float32."""
    weights, x, state, _ = _problem(cell, 4, 5, 17, seed=3)
    x = np.round(x * 8) / 8  # bfloat16 has these numbers
    names = {"kernel", "recurrent_kernel"}
    matrices = [name for name in weights if name.rpartition("/")[2] in names]
    for name in matrices:
        fan = weights[name].shape[-2] ** 0.5
        rounded = ops.cast(ops.cast(weights[name] / fan, "bfloat16"), "float32")
        weights[name] = ops.convert_to_numpy(rounded).astype("float64")
    expected, left = _reference(cell, weights, x, state)

    def run(values):
        own = {n: ops.cast(values[n], "bfloat16") for n in matrices}
        rest = {n: values[n] for n in weights if n not in own}
        leaves = {n: values[f"state {n}"] for n in state}
        taken = ops.cast(values["x"], dtype)
        return recurrence.run(cell, own | rest, taken, leaves, kernel=kernel)

    values = weights | {"x": x} | {f"state {n}": leaf for n, leaf in state.items()}
    explained = recurrence.explain(
        cell, weights, ops.cast(x, dtype), {n: a.astype("float32") for n, a in state.items()}
    )
    if explained[kernel].startswith("declines: "):
        return
    y, after = run({n: ops.convert_to_tensor(a, "float32") for n, a in values.items()})
    near: dict[str, Any] = {"rtol": 2.0**-5, "atol": 2.0**-5}
    found = ops.convert_to_numpy(ops.cast(y, "float32"))
    np.testing.assert_allclose(found, expected, **near)
    assert np.abs(found - expected).max() > 1e-6 or kernel == "fused"
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    for name, leaf in left.items():
        assert keras.backend.standardize_dtype(after[name].dtype) == "float32"
        np.testing.assert_allclose(ops.convert_to_numpy(after[name]), leaf, **near)

    def loss(values, run=run):
        y, after = run(values)
        return ops.sum(ops.cast(y, "float32") ** 2) + sum(ops.sum(v) for v in after.values())

    def in_float32(values):
        own = {n: values[n] for n in weights}
        leaves = {n: values[f"state {n}"] for n in state}
        return recurrence.run(cell, own, values["x"], leaves, kernel="loop")

    exact = gradients(lambda values: loss(values, in_float32), values)
    for name, gradient in gradients(loss, values).items():
        error = np.linalg.norm(gradient - exact[name])
        assert error <= 0.03 * np.linalg.norm(exact[name]), name


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has no native kernel")
@pytest.mark.parametrize("cell", HALVED, ids=repr)
def test_kernels_round_the_same_factors(cell):
    """One step, after which rounding errors of float32 could lead to another bfloat16."""
    weights, x, state, _ = _problem(cell, 4, 1, 17, seed=4)
    matrices = {n: ops.cast(w, "bfloat16") for n, w in weights.items() if n.endswith("kernel")}
    named = weights | matrices
    weights = {n: w if n in matrices else ops.cast(w, "float32") for n, w in named.items()}
    state = {n: ops.convert_to_tensor(leaf, "float32") for n, leaf in state.items()}
    x, found = ops.convert_to_tensor(x, "float32"), {}
    for kernel in ("native", "loop"):
        y, _ = recurrence.run(cell, weights, x, state, kernel=kernel)
        found[kernel] = ops.convert_to_numpy(y)
    # A layer of a stack rounds what another one computed.
    near = 2.0**-8 if isinstance(cell, Stack) else 1e-5
    np.testing.assert_allclose(found["native"], found["loop"], rtol=near, atol=near)


def test_no_gradient_passes_a_reset():
    cell = LSTM(3)
    weights, x, state, _ = _problem(cell, 2, 4, 2, seed=6)
    resets = np.zeros((2, 4), bool)
    resets[0, 2] = True
    start = {f"i/{n}": np.zeros_like(leaf) for n, leaf in state.items()}

    def loss(named):
        y, _ = recurrence.run(
            cell,
            {n: ops.convert_to_tensor(a, "float32") for n, a in weights.items()},
            named["x"],
            {n: ops.convert_to_tensor(a, "float32") for n, a in state.items()},
            resets=ops.convert_to_tensor(resets),
            initial={n[2:]: a for n, a in named.items() if n.startswith("i/")},
        )
        return ops.sum(ops.square(y[:, 3]))

    found = gradients(loss, {"x": x, **start})
    assert not found["x"][0, :2].any()
    assert found["x"][0, 2:].any()
    assert found["x"][1, :2].any()
    assert found["i/h"][0].any()
    assert not found["i/h"][1].any()


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_same_weights_same_outputs_as_keras(kind):
    from statecast import cells

    cell = getattr(cells, kind)(4)
    weights, x, state, _ = _problem(cell, 3, 5, 2, seed=8)
    layer = getattr(keras.layers, kind)(4, return_sequences=True)
    layer.build((3, 5, 2))
    layer.set_weights([weights[n] for n in ("kernel", "recurrent_kernel", "bias")])
    given_state = [ops.convert_to_tensor(leaf, "float32") for leaf in state.values()]
    expected = layer(ops.convert_to_tensor(x, "float32"), initial_state=given_state)
    _close(_run(cell, weights, x, state)[0], ops.convert_to_numpy(expected))


def test_explain_names_the_choice_and_an_unknown_kernel_is_refused():
    cell = LSTM(2)
    weights, x, state, _ = _problem(cell, 1, 2, 1, seed=0)
    answer = recurrence.explain(cell, weights, x.astype("float32"), state)
    assert list(answer) == ["native", "fused", "loop"]
    assert list(answer.values()).count("runs") == 1
    first = list(answer.values()).index("runs")
    assert all(said.startswith("declines: ") for said in list(answer.values())[:first])
    assert answer["loop"] in ("runs", "would run")
    with pytest.raises(
        ArgumentError, match=r"expected one of \['native', 'fused', 'loop'\], received 'fast'"
    ):
        recurrence.run(cell, weights, x, state, kernel="fast")


@pytest.mark.parametrize("cell", [SimpleRNN(3), GRU(3), LSTM(3), Stack([LSTM(2)])], ids=repr)
def test_features_the_weights_do_not_fit_are_refused(cell):
    """PyTorch's fused LSTM would read beyond its buffers."""
    weights, x, state, _ = _problem(cell, 2, 3, 4, seed=0)
    with pytest.raises(ArgumentError, match=r"x has 3 features, .*kernel' should have"):
        _run(cell, weights, x[..., :3], state)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", [SimpleRNN(8), GRU(8), LSTM(8)], ids=repr)
def test_on_a_gpu_the_native_kernel_declines_and_the_others_are_the_reference(cell):
    weights, x, state, _ = _problem(cell, 4, 6, 3, seed=0)
    answer = recurrence.explain(cell, weights, x.astype("float32"), state)
    assert answer["native"].startswith("declines: ")
    if isinstance(cell, LSTM):
        assert answer["fused"] == "runs"
    assert on_gpu(ops.convert_to_tensor(x, "float32") * 1.0)
    expected_y, expected = _reference(cell, weights, x, state)
    error = 6 * TF32  # a rounding in each step
    for kernel in ("fused", "loop"):
        if answer[kernel].startswith("declines: "):
            continue
        y, after = _run(cell, weights, x, state, kernel=kernel)
        np.testing.assert_allclose(y, expected_y, atol=error)
        for name, leaf in expected.items():
            np.testing.assert_allclose(after[name], leaf, atol=2 * error)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the others need a GPU")
@pytest.mark.parametrize("cell", [SimpleRNN(3), GRU(3), LSTM(3)], ids=repr)
def test_torch_has_a_fused_kernel_on_every_machine(cell):
    weights, x, state, _ = _problem(cell, 2, 3, 1, seed=0)
    answer = recurrence.explain(cell, weights, x.astype("float32"), state)
    assert answer["fused"] in ("runs", "would run")


@pytest.mark.parametrize(
    ("cell", "more", "reason"),
    [
        (LSTM(2, activation="relu"), {}, "the activation is 'relu'"),
        (LSTM(2, recurrent_activation="tanh"), {}, "the recurrent activation is 'tanh'"),
        (LSTM(2), {"unroll": True}, "unroll was asked for"),
        (LSTM(2), {"resets": np.ones((1, 2), bool)}, "the state is reset inside the sequence"),
        (Stack([LSTM(2)]), {}, "has no fused Stack"),
    ],
    ids=str,
)
def test_the_fused_kernel_says_why_it_declines(cell, more, reason):
    weights, x, state, _ = _problem(cell, 1, 2, 1, seed=0)
    answer = recurrence.explain(cell, weights, x, state, initial=state, **more)
    assert reason in answer["fused"]


def test_a_state_that_is_not_the_cells_is_refused():
    cell = LSTM(2)
    weights, x, state, _ = _problem(cell, 1, 2, 1, seed=0)
    with pytest.raises(StateError, match=r"expected the leaves \['h', 'c'\], received \['h'\]"):
        recurrence.run(cell, weights, x, {"h": state["h"]})
    with pytest.raises(StateError, match=r"leaf 'h': expected \(\.\.\., rows, 2\)"):
        recurrence.run(cell, weights, x, {**state, "h": np.zeros((1, 3))})
    with pytest.raises(ArgumentError, match="resets needs `initial`"):
        recurrence.run(cell, weights, x, state, resets=np.ones((1, 2), bool))


def test_a_cell_checks_its_arguments():
    with pytest.raises(ArgumentError, match="units: expected a whole number from 1; received 0"):
        LSTM(0)
    with pytest.raises(ArgumentError, match="recurrent_activation: expected one of"):
        GRU(2, recurrent_activation="swish")
    with pytest.raises(ArgumentError, match="at least one cell"):
        Stack([])


# -- the native kernel inside a backend --------------------------------------------------------


def _native_loss(cell, **more) -> Any:
    """The sum of squares of all that a run leaves, by the native kernel or another."""

    def loss(named, kernel="native"):
        weights = {n: named[n] for n in cell.weight_shapes(1)}
        state = {n: named[n] for n in cell.state_shapes}
        y, after = recurrence.run(cell, weights, named["x"], state, kernel=kernel, **more)
        return sum(ops.sum(ops.square(part)) for part in (y, *after.values()))

    return loss


def _named(cell, seed):
    weights, x, state, _ = _problem(cell, 4, 5, 2, seed=seed)
    named = {**weights, **state, "x": x}
    return {n: ops.convert_to_tensor(a, "float32") for n, a in named.items()}


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's transformations")
@pytest.mark.parametrize("cell", [SimpleRNN(3), GRU(3), LSTM(3), LAYERS], ids=repr)
def test_the_native_kernel_goes_through_jaxs_transformations(cell):
    import jax

    loss = _native_loss(cell)
    runs = [_named(cell, seed) for seed in range(3)]
    stacked = {n: ops.stack([named[n] for named in runs]) for n in runs[0]}
    each = [jax.grad(loss)(named) for named in runs]
    together = jax.jit(jax.vmap(jax.grad(loss)))(stacked)
    _, scanned = jax.lax.scan(lambda carry, named: (carry, jax.grad(loss)(named)), 0.0, stacked)
    for i, gradient in enumerate(each):
        for n, expected in gradient.items():
            _close(together[n][i], expected)
            _close(scanned[n][i], expected)
    shared = jax.vmap(lambda x: loss(runs[0] | {"x": x}))(stacked["x"])
    _close(shared[1], loss(runs[0] | {"x": runs[1]["x"]}))


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has no native kernel")
@pytest.mark.parametrize("cell", [GRU(3), LSTM(3), LAYERS], ids=repr)
def test_gradients_of_gradients_are_the_loops(cell):
    rng = np.random.default_rng(1)
    mask = ops.convert_to_tensor(rng.random((4, 5)) < 0.7)
    loss = _native_loss(cell, mask=mask)
    found = {}
    named = _named(cell, 0)
    for kernel in ("native", "loop"):

        def slope(x, kernel=kernel):
            """The length of the gradient to x, as in a gradient penalty."""
            if BACKEND == "jax":
                import jax

                inner = jax.grad(lambda x: loss(named | {"x": x}, kernel))(x)
            else:
                import torch

                (inner,) = torch.autograd.grad(
                    loss(named | {"x": x}, kernel), [x], create_graph=True
                )
            return ops.sum(ops.square(inner))

        x = ops.convert_to_numpy(named["x"])
        found[kernel] = gradients(lambda named, slope=slope: slope(named["x"]), {"x": x})["x"]
    _close(found["native"], found["loop"])


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow has no native kernel")
@pytest.mark.parametrize("result", ["y", "cell/0/c", "cell/1/h", "cell/2/c", "last"])
def test_the_gradient_of_one_result_of_layers_is_the_loops(result):
    cell = ClosedLoop(Stack([LSTM(2)] * 3))
    named = {n: ops.convert_to_numpy(v) for n, v in _named(cell, 0).items()}

    def loss(named, kernel):
        weights = {n: named[n] for n in cell.weight_shapes(2)}
        state = {n: named[n] for n in cell.state_shapes}
        y, after = recurrence.run(cell, weights, named["x"], state, kernel=kernel)
        return ops.sum(ops.square({"y": y, **after}[result]))

    found, expected = (
        gradients(partial(loss, kernel=kernel), named) for kernel in ("native", "loop")
    )
    for name, gradient in expected.items():
        _close(found[name], gradient)


@pytest.mark.parametrize(
    ("stack", "answer"),
    [
        ([GRU(2)] * 16, "runs"),
        ([GRU(2)] * 17, "declines: it runs a closed loop around at most 16 layers"),
        ([GRU(2), LSTM(2)], "declines: it runs a closed loop around equal layers only"),
        ([GRU(2), GRU(3)], "declines: it runs a closed loop around equal layers only"),
    ],
    ids=["16", "17", "kinds", "widths"],
)
def test_the_native_kernel_runs_a_closed_loop_around_equal_layers(stack, answer):
    cell = ClosedLoop(Stack(stack))
    weights, x, state, _ = _problem(cell, 1, 2, 2, seed=0)
    found = recurrence.explain(cell, weights, x.astype("float32"), state)["native"]
    if BACKEND == "tensorflow":
        answer = "declines: on TensorFlow its own recurrence is used"
    assert found == answer


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch's graphs")
def test_the_native_kernel_uses_its_memory_again_and_keeps_what_a_graph_holds():
    import torch

    from statecast.recurrence.kernels.native import in_torch

    cell = LSTM(3)
    loss, named = _native_loss(cell), _named(cell, 0)
    for tensor in named.values():
        tensor.requires_grad_()
    first, second = loss(named), loss(named)  # two graphs at once hold memory of their own
    expected = torch.autograd.grad(first, list(named.values()), retain_graph=True)
    other = torch.autograd.grad(second, list(named.values()))
    again = torch.autograd.grad(first, list(named.values()))
    for a, b, c in zip(expected, other, again, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
    del first, second
    held = sum(len(part) for part in in_torch._unused.values())
    for _ in range(5):
        loss(named).backward()
    assert sum(len(part) for part in in_torch._unused.values()) <= max(held, 1)


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_a_library_that_xla_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library built with another JAX declines, and what runs instead gives the same."""
    import jax

    from statecast.recurrence.kernels.native import in_jax, library

    if isinstance(library.find(), str):
        pytest.skip("the library is not built")

    def refuse(*_: Any, **__: Any) -> None:
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: the handler's API version")

    cell = LSTM(3)
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=s).astype("float32") for n, s in cell.weight_shapes(2).items()}
    x, state = (
        rng.normal(size=(2, 4, 2)).astype("float32"),
        {n: np.zeros((2, 3), "float32") for n in "hc"},
    )
    expected, _ = recurrence.run(cell, weights, x, state, kernel="native")
    in_jax.refusal.cache_clear()
    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    try:
        named = recurrence.explain(cell, weights, x, state)["native"]
        assert re.search(rf"another version of JAX than {jax.__version__}; install", named)
        with pytest.raises(KernelError, match="another version of JAX"):
            recurrence.run(cell, weights, x, state, kernel="native")
        found, _ = recurrence.run(cell, weights, x, state)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    finally:
        in_jax.refusal.cache_clear()
