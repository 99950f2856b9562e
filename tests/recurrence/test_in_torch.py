"""The native kernel inside PyTorch: under autograd, its hooks, checkpoints and transforms.

Every derivative is that of the loop kernel, which is PyTorch's own operations.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

if keras.backend.backend() != "torch":
    pytest.skip("of PyTorch", allow_module_level=True)

import torch
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from statecast.errors import KernelError
from statecast.layers import recurrent as layers
from statecast.recurrence.cells import GRU, LSTM, Cell, ClosedLoop, SimpleRNN, Stack
from statecast.recurrence.kernels.native import in_torch, library
from statecast.recurrence.kernels.native import score as native
from statecast.recurrence.run import explain, run

if isinstance(library.find(), str):
    pytest.skip(f"native: {library.find()}", allow_module_level=True)


pytestmark = pytest.mark.backends
CLOSE: dict[str, Any] = {
    "rtol": 1e-4,
    "atol": 3e-5,
}  # single precision: Keras's product of matrices has no other

CASES: dict[str, tuple[Cell, tuple[int, ...], tuple[str, ...]]] = {  # leading axes, options
    "lstm": (LSTM(3), (), ()),
    "gru with a mask and resets": (GRU(3), (), ("mask", "resets")),
    "rnn without a bias": (SimpleRNN(3, use_bias=False), (), ("mask",)),
    "ensemble": (LSTM(3), (2,), ("resets",)),
    "stack": (Stack([LSTM(3), GRU(2)]), (), ()),
    "closed loop": (ClosedLoop(GRU(3)), (), ("mask",)),
    "closed loop of layers": (ClosedLoop(Stack([LSTM(3)] * 2)), (2,), ("mask",)),
}
ROWS, STEPS, INPUTS = 4, 5, 2


def _problem(name: str) -> tuple[Callable[..., Any], torch.Tensor, dict[str, torch.Tensor]]:
    """A function of x, all weights and the state, by kernel, to all outputs in one vector; the x;
    and the others."""
    cell, lead, options = CASES[name]
    rng = np.random.default_rng(len(name))

    def draw(*shape: int) -> torch.Tensor:
        return torch.tensor(rng.standard_normal((*lead, *shape)) * 0.6, dtype=torch.float32)

    x = draw(ROWS, STEPS, INPUTS)
    if isinstance(cell, ClosedLoop):  # the second of x's numbers says what was observed
        x[..., 1] = (x[..., 1] > 0).float()
    names = cell.weight_shapes(INPUTS)
    others = {n: draw(*shape) for n, shape in names.items()}
    others |= {f"state {n}": draw(ROWS, *shape) for n, shape in cell.state_shapes.items()}
    flags = {n: torch.tensor(rng.random((*lead, ROWS, STEPS)) < 0.7) for n in options}
    if "resets" in flags:
        flags["resets"] = ~flags["resets"]
        initial = {n: draw(ROWS, *shape) for n, shape in cell.state_shapes.items()}
    else:
        initial = None

    def function(x: Any, others: Any, kernel: str | None = None, asked: Any = None) -> Any:
        weights = {n: others[n] for n in names}
        state = {n: others[f"state {n}"] for n in cell.state_shapes}
        keywords = {**flags, "initial": initial}
        if asked is not None:
            asked.append(explain(cell, weights, x, state, **keywords)["native"])
        y, after = run(cell, weights, x, state, kernel=kernel, **keywords)
        return torch.cat([v.flatten() for v in (y, *after.values())])

    return function, x, others


def _scalar(f: Any) -> Callable[[Any], Any]:
    return lambda x: (f(x) ** 2).sum()


def _leaf(x: torch.Tensor) -> torch.Tensor:
    return x.clone().requires_grad_()


def _gradient(f: Any, x: torch.Tensor) -> torch.Tensor:
    leaf = _leaf(x)
    _scalar(f)(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


def _through(pack: Any, unpack: Any = lambda tensor: tensor) -> Callable[..., torch.Tensor]:
    def transform(f: Any, x: torch.Tensor) -> torch.Tensor:
        leaf = _leaf(x)
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            loss = _scalar(f)(leaf)
        loss.backward()
        assert leaf.grad is not None
        return leaf.grad

    return transform


def _double(f: Any, x: torch.Tensor, times: int = 2) -> torch.Tensor:
    leaf = found = _leaf(x)
    loss = _scalar(f)(leaf)
    for _ in range(times):
        (found,) = torch.autograd.grad(loss, leaf, create_graph=True)
        loss = (found**2).sum()
    return found


def _outside(f: Any, x: torch.Tensor) -> torch.Tensor:
    vjp: Any = torch.func.vjp(torch.func.grad(_scalar(f)), x)[1]
    return vjp(torch.ones_like(x))[0]


def _outside_without_grad(f: Any, x: torch.Tensor) -> torch.Tensor:
    vjp: Any = torch.func.vjp(_scalar(f), x)[1]
    with torch.no_grad():
        return vjp(torch.ones((), dtype=x.dtype))[0]


def _dual(f: Any, x: torch.Tensor) -> torch.Tensor:
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent
    assert tangent is not None
    return tangent


def _batched(f: Any, x: torch.Tensor) -> torch.Tensor:
    leaf = _leaf(x)
    y = f(leaf)
    rows = torch.eye(len(y), dtype=x.dtype)[:7]
    return torch.autograd.grad(y, leaf, rows, is_grads_batched=True)[0]


def _traced(f: Any, x: torch.Tensor) -> torch.Tensor:
    traced: Any = torch.jit.trace(f, (x,), check_trace=False)
    return traced(x * 2)


def _inner_does_not_follow(f: Any, x: torch.Tensor) -> torch.Tensor:
    """Inside, no gradient is asked for; outside one is."""
    inner = torch.func.grad(lambda a, x: a * _scalar(f)(x.detach()))
    return torch.func.grad(lambda x: inner(torch.ones((), dtype=x.dtype), x) + _scalar(f)(x))(x)


SEVERAL = torch.tensor([1.0, -0.5], dtype=torch.float32)
REVERSE: dict[str, Callable[..., torch.Tensor]] = {
    "backward": _gradient,
    "checkpoint": lambda f, x: _gradient(lambda x: checkpoint(f, x, use_reentrant=False), x),
    "reentrant checkpoint": lambda f, x: _gradient(
        lambda x: checkpoint(f, x, use_reentrant=True), x
    ),
    "checkpoint twice": lambda f, x: _double(lambda x: checkpoint(f, x, use_reentrant=False), x),
    "copying hooks": _through(torch.clone),
    "hooks that lay out anew": _through(lambda t: t.mT.contiguous().mT if t.ndim > 1 else t),
    "packing hooks": _through(
        lambda t: t.double() if t.is_floating_point() else t,
        lambda t: t.float() if t.is_floating_point() else t,
    ),
    "double backward": _double,
    "triple backward": lambda f, x: _double(f, x, times=3),
    "grad": lambda f, x: torch.func.grad(_scalar(f))(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](f(x) * 2)[0],
    "vjp called outside": _outside,
    "vjp called outside without grad": _outside_without_grad,
    "vmap": lambda f, x: torch.vmap(lambda a: f(a * x))(SEVERAL),
    "vmap of the last axis": lambda f, x: torch.vmap(f, in_dims=-1, out_dims=1)(
        x[..., None] * SEVERAL
    ),
    "vmap of vmap": lambda f, x: torch.vmap(
        lambda a: torch.vmap(lambda b: torch.func.grad(_scalar(f))(a * b * x))(SEVERAL)
    )(SEVERAL),
    "gradients of each": lambda f, x: torch.vmap(lambda a: torch.func.grad(_scalar(f))(a * x))(
        SEVERAL
    ),
    "gradient of vmap": lambda f, x: torch.func.grad(
        lambda x: torch.vmap(lambda a: _scalar(f)(a * x))(SEVERAL).sum()
    )(x),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "batched gradients": _batched,
    "grad of grad": lambda f, x: torch.func.grad(
        lambda x: (torch.func.grad(_scalar(f))(x) ** 2).sum()
    )(x),
    "jacrev of jacrev": lambda f, x: torch.func.jacrev(
        torch.func.jacrev(lambda a: _scalar(f)(a[0] * x))
    )(SEVERAL),
    "inside nothing is followed": _inner_does_not_follow,
}
DECLINED: dict[str, Callable[..., torch.Tensor]] = {
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "dual numbers": _dual,
    "jacfwd": lambda f, x: torch.func.jacfwd(lambda a: f(a[0] * x))(SEVERAL),
    "hessian": lambda f, x: torch.func.hessian(lambda a: _scalar(f)(a[0] * x))(SEVERAL),
    "functionalize": lambda f, x: torch.func.functionalize(f)(x),
    "make_fx": lambda f, x: make_fx(f)(x)(x * 2),
    "jit.trace": _traced,
}


# Every transform of one case, and of every case those that differ most in what they ask for.
FEW = ("checkpoint", "packing hooks", "double backward", "vmap of vmap", "jacrev")
PAIRS = [("lstm", t) for t in REVERSE] + [(c, t) for c in CASES if c != "lstm" for t in FEW]


@pytest.mark.parametrize(("case", "transform"), PAIRS)
def test_the_kernel_under_a_transform_is_the_loop(case: str, transform: str) -> None:
    function, x, others = _problem(case)
    asked: list[str] = []
    found = REVERSE[transform](lambda x: function(x, others, asked=asked), x)
    expected = REVERSE[transform](lambda x: function(x, others, "loop"), x)
    assert set(asked) == {"runs"}
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("transform", DECLINED)
@pytest.mark.parametrize("case", ["lstm", "closed loop"])
def test_what_the_kernel_cannot_do_it_declines(case: str, transform: str) -> None:
    function, x, others = _problem(case)
    asked: list[str] = []
    found = DECLINED[transform](lambda x: function(x, others, asked=asked), x)
    assert asked
    assert all(answer.startswith("declines: ") for answer in asked)
    expected = DECLINED[transform](lambda x: function(x, others, "loop"), x)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("case", CASES)
def test_weights_and_states_have_the_second_derivatives_of_the_loop(case: str) -> None:
    function, x, others = _problem(case)

    def loss(kernel: str) -> Any:
        return lambda others: (function(x, others, kernel) ** 2).sum()

    second = [
        torch.func.grad(
            lambda o, kernel=kernel: sum(
                (g**2).sum() for g in torch.func.grad(loss(kernel))(o).values()
            )
        )(others)
        for kernel in ("native", "loop")
    ]
    for name in others:
        torch.testing.assert_close(second[0][name], second[1][name], rtol=1e-3, atol=2e-4)


# -- layers, as a user has them ------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.parametrize("transform", ["checkpoint", "half", "jvp", "jit.trace", "jacrev"])
def test_a_layer_is_keras_own(kind: str, transform: str) -> None:
    x = torch.tensor(np.random.default_rng(0).normal(size=(3, 5, 2)), dtype=torch.float32)
    stock, ours = (
        getattr(place, kind)(4, return_sequences=True) for place in (keras.layers, layers)
    )
    for layer in (stock, ours):
        layer(x)
    ours.cell.set_weights(stock.cell.get_weights())
    transforms = REVERSE | DECLINED | {"half": _through(torch.Tensor.half, torch.Tensor.float)}
    found, expected = (transforms[transform](layer, x).detach() for layer in (ours, stock))
    close = 2e-3 if transform == "half" else 2e-6  # of half precision, of single precision
    torch.testing.assert_close(found, expected, rtol=close, atol=close)


def test_a_fit_within_a_remat_scope_is_the_fit_without() -> None:
    x, y = np.random.default_rng(0).normal(size=(8, 5, 2)), np.ones((8, 3))

    def fitted(mode: str | None) -> list[np.ndarray]:
        keras.utils.set_random_seed(0)
        with keras.RematScope(mode=mode):
            stack = [layers.LSTM(4, return_sequences=True), layers.GRU(3)]
        model = keras.Sequential([keras.Input((5, 2)), *stack])
        model.compile("sgd", "mse")
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    for found, expected in zip(fitted("full"), fitted(None), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# -- memory --------------------------------------------------------------------------------------


def _unused(memory: torch.Tensor) -> int:
    return len(in_torch._unused.get((memory.numel(), memory.dtype), ()))


def _saved(found: torch.Tensor) -> torch.Tensor:
    """What the kernel saved for the backward pass of an output: the last of its node's tensors."""
    node: Any = found.grad_fn
    while not hasattr(node, "saved_tensors"):
        node = node.next_functions[0][0]
    return node.saved_tensors[-1]


def test_a_checkpoint_keeps_nothing_until_the_backward_pass() -> None:
    function, x, others = _problem("lstm")
    saved = _saved(function(_leaf(x), others))
    in_torch._unused.clear()
    y = checkpoint(lambda x: function(x, others), _leaf(x), use_reentrant=False)
    assert _unused(saved) == 1
    held = function(_leaf(x), others)
    assert _unused(saved) == 0
    del held, y
    gc.collect()
    assert _unused(saved) == 1


def test_saved_memory_that_a_hook_holds_is_not_used_again() -> None:
    function, x, others = _problem("gru with a mask and resets")
    held: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        function(_leaf(x), others)
    before = [tensor.clone() for tensor in held]
    for scale in (2, 3, 4):
        _gradient(lambda x: function(x, others), x * scale)
    for tensor, expected in zip(held, before, strict=True):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0, equal_nan=True)


def test_graphs_that_live_at_once_do_not_meet() -> None:
    function, x, others = _problem("lstm")
    expected = [_gradient(lambda x: function(x, others), x * scale) for scale in range(1, 9)]
    leaves = [_leaf(x * scale) for scale in range(1, 9)]
    losses = [(function(leaf, others) ** 2).sum() for leaf in leaves]
    for loss in reversed(losses):
        loss.backward(retain_graph=True)
    for loss in losses:  # a second time, with what the first has left
        loss.backward()
    for leaf, right in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad, 2 * right, rtol=1e-6, atol=1e-6)


def test_threads_share_the_unused_memory() -> None:
    function, x, others = _problem("lstm")
    jobs = [torch.cat([x] * (1 + i % 3), dim=-2) * (1 + i) for i in range(6)]
    expected = [_gradient(lambda x: function(x, others), job) for job in jobs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(30):
            found = _gradient(lambda x: function(x, others), jobs[i])
            if not torch.equal(found, expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_saved_tensors_that_come_back_in_another_dtype_are_taken_back() -> None:
    function, x, others = _problem("gru with a mask and resets")

    def last(x: torch.Tensor) -> torch.Tensor:
        return function(x, others)[-3:]  # without what PyTorch's own operations would save

    leaf = _leaf(x)
    with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.double, lambda t: t):
        found = last(leaf)
    found.sum().backward()
    assert leaf.grad is not None
    other = _leaf(x)
    last(other).sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad, rtol=0, atol=0)


@pytest.mark.parametrize("change", [lambda t: t[..., :1], lambda t: t[:1], torch.flatten])
def test_saved_tensors_that_come_back_in_another_shape_are_refused(change: Any) -> None:
    function, x, others = _problem("lstm")
    leaf = _leaf(x)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, change):
        loss = function(leaf, others).sum()
    with pytest.raises(KernelError, match=r"saved for the backward pass .* with other shapes"):
        loss.backward()
    assert torch.isfinite(_gradient(lambda x: function(x, others), x)).all()


class _Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_tensors_without_numbers_in_memory_are_never_read() -> None:
    function, x, others = _problem("lstm")
    asked: list[str] = []
    for wrong in (
        {n: v.to("meta") for n, v in others.items()},
        others | {"kernel": others["kernel"].to("meta")},
    ):
        with pytest.raises(RuntimeError, match="meta"):  # PyTorch's own
            function(x, wrong, asked=asked)
    expected = function(x, others)
    sparse = function(x, others | {"state h": others["state h"].to_sparse()}, asked=asked)
    with _Watching():
        watched = function(x, others, asked=asked)
    torch.testing.assert_close(sparse, expected, **CLOSE)
    torch.testing.assert_close(watched, expected, **CLOSE)
    assert all(answer.startswith("declines: ") for answer in asked)
    assert len(asked) == 4
    with pytest.raises(KernelError, match="without memory of its own"):
        in_torch.address_of(torch.empty(3, device="meta"))


def test_a_tensor_whose_sign_is_pending_counts_with_its_sign() -> None:
    function, x, others = _problem("lstm")
    expected = function(-x, others)
    pending = vars(torch)["_neg_view"](x)
    assert pending.is_neg()
    torch.testing.assert_close(function(pending, others), expected, rtol=0, atol=0)


# -- scores ----------------------------------------------------------------------------------------

HEADS = [
    library.NativeHead("quantiles", 3, (0.3, 0.2), 1e-3, (0.1, 0.5, 0.9)),
    library.NativeHead("normal", 2, (0.3,), 1e-3),
    library.NativeHead("negative_binomial", 2, (1.0, 0.5, 1.0, 10.0, 9.0, 0.1), 1e-6),
]
each_head = pytest.mark.parametrize("head", HEADS, ids=lambda head: head.family)


def _score(head: library.NativeHead) -> tuple[Callable[[Any], Any], torch.Tensor]:
    rng = np.random.default_rng(0)
    shapes = native._shapes((2, 3, 4, 5), head.size)
    values = {
        n: torch.tensor(rng.normal(size=shapes[n]), dtype=torch.float32) for n in native.ORDER
    }

    def score(outputs: Any) -> Any:
        return native.run(head, values | {"outputs": outputs})

    return score, values["outputs"]


@each_head
@pytest.mark.parametrize(
    "transform", ["checkpoint", "reentrant checkpoint", "copying hooks", "packing hooks"]
)
def test_a_score_under_hooks_has_its_gradient(head: library.NativeHead, transform: str) -> None:
    score, outputs = _score(head)
    found, expected = REVERSE[transform](score, outputs), _gradient(score, outputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@each_head
def test_a_score_declines_what_it_cannot_do(head: library.NativeHead) -> None:
    _, outputs = _score(head)
    reasons: list[Any] = []

    def ask(x: Any) -> Any:
        reasons.append(native.declines(head, x))
        return x.sum()

    assert native.declines(head, outputs) is None
    in_doubles = native.declines(head, outputs.double())
    assert (in_doubles is None) == (head.family == "quantiles")
    torch.func.grad(ask)(outputs)
    torch.vmap(ask)(outputs)
    torch.func.jvp(ask, (outputs,), (outputs,))
    make_fx(ask)(outputs)
    assert len(reasons) == 4
    assert all(reasons)
