"""The loop kernel: any cell on any backend, one step after the other.

It calls ``cell.step``. The other kernels are tested against it, and it is tested against
``cells.py`` in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statecast.recurrence.problem import Problem

name = "loop"


def declines(problem: Problem) -> str | None:
    """None: this kernel runs every problem."""
    return None


def run(problem: Problem) -> tuple[Any, dict[str, Any]]:
    """All steps of ``problem``: outputs ``(..., rows, steps, out)`` and the leaves after them."""
    import keras

    if keras.backend.backend() != "jax" or not problem.cell.pure:
        return _run(problem)
    # Compiled once for each cell and its shapes. Outside of a compiled step JAX would compile the
    # loop again in every call.
    values = {name: getattr(problem, name) for name in _VALUES}
    values["weights"] = {n: keras.ops.convert_to_tensor(w) for n, w in problem.weights.items()}
    values["state"] = dict(problem.state)
    values["initial"] = None if problem.initial is None else dict(problem.initial)
    y, state = _compiled()(problem.cell, problem.unroll, values)
    return y, {name: state[name] for name in problem.state}  # JAX sorts the names


_VALUES = ("weights", "x", "state", "mask", "resets", "initial")


@cache
def _compiled() -> Callable[..., Any]:
    import jax

    from statecast.recurrence.problem import Problem

    def run_values(cell: Any, unroll: bool, values: dict[str, Any]) -> Any:
        return _run(Problem(cell, unroll=unroll, **values))

    return jax.jit(run_values, static_argnums=(0, 1))


def _run(problem: Problem) -> tuple[Any, dict[str, Any]]:
    import keras
    from keras import ops

    cell, start = problem.cell, dict(problem.state)
    x, weights, xp = _in_dtype_of_state(problem)
    steps = x.shape[-2]
    dtype = keras.backend.standardize_dtype(problem.x.dtype)
    like_x = partial(ops.cast, dtype=dtype) if weights else lambda y: y
    masked, resets = problem.mask is not None, problem.resets is not None

    def advance(carry: Any, now: Any) -> tuple[Any, Any]:
        state, last = carry
        if resets:
            state = _choose(now["reset"], problem.initial, state, ops)
        y, after = cell.step(weights, now["x"], state, xp)
        if masked:  # a skipped step keeps the state and repeats the output
            after = _choose(now["mask"], after, state, ops)
            y = ops.where(now["mask"], y, last)
        return (after, y if masked else last), y

    # Time becomes the first axis, as every backend's loop needs it. Not with moveaxis, for which
    # PyTorch's vmap has no rule.
    inputs = {"x": _time_first(x, -2, ops)}
    if masked:
        inputs["mask"] = _time_first(problem.mask, -1, ops)[..., None]
    if resets:
        inputs["reset"] = _time_first(problem.resets, -1, ops)[..., None]

    if steps == 0 or masked:
        # A step on zeros gives the output's shape and dtype. Before the first step taken the output
        # is zero, on every backend.
        nothing = ops.zeros_like(ops.sum(x, axis=-2))
        last = ops.zeros_like(cell.step(weights, nothing, start, xp)[0])
        if steps == 0:
            return like_x(last[..., None, :][..., :0, :]), start
    else:
        last = ops.zeros((), dtype=x.dtype)
    (state, _), y = _scan(advance, (start, last), inputs, steps, problem.unroll)
    axes = range(len(y.shape))
    return like_x(ops.transpose(y, [*axes[1:-1], 0, axes[-1]])), state


NARROW = 16  # inputs; the products of fewer are not rounded, as in native/tiles.h


class _Rounding:
    """``keras.ops``, whose products with some weights round the other factor to bfloat16, as the
    native kernel does.

    Parameters
    ----------
    weights : mapping of str to tensor
        The weights that were of bfloat16, in the dtype of the state.
    """

    def __init__(self, weights: Mapping[str, Any]) -> None:
        import keras

        self._ops, self._weights = keras.ops, weights

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def matmul(self, a: Any, b: Any) -> Any:
        name = next((name for name, weight in self._weights.items() if weight is b), None)
        of_inputs = name is not None and name.rpartition("/")[2] == "kernel"
        if name is not None and not (of_inputs and a.shape[-1] < NARROW):
            a = self._ops.cast(self._ops.cast(a, "bfloat16"), b.dtype)
        return self._ops.matmul(a, b)


def _in_dtype_of_state(problem: Problem) -> tuple[Any, dict[str, Any], Any]:
    """x and the weights, in the dtype in which the state is carried from step to step, and the
    namespace for the steps. A Keras cell converts its own."""
    import keras

    if not problem.weights:
        return problem.x, {}, keras.ops
    name_of = keras.backend.standardize_dtype
    dtype = name_of(next(iter(problem.state.values())).dtype)
    weights = {name: keras.ops.cast(weight, dtype) for name, weight in problem.weights.items()}
    halved = {n: weights[n] for n, w in problem.weights.items() if name_of(w.dtype) == "bfloat16"}
    rounds = halved and dtype == "float32"
    xp = _Rounding(halved) if rounds else keras.ops
    return keras.ops.cast(problem.x, dtype), weights, xp


def _time_first(value: Any, axis: int, ops: Any) -> Any:
    axes = list(range(len(value.shape)))
    return ops.transpose(value, [axes.pop(axis), *axes])


def _choose(take: Any, new: Any, old: dict[str, Any], ops: Any) -> dict[str, Any]:
    return {name: ops.where(take, new[name], leaf) for name, leaf in old.items()}


def _scan(
    step: Callable[..., Any], carry: Any, inputs: dict[str, Any], steps: int | None, unroll: bool
) -> Any:
    """``carry, y = step(carry, inputs[t])`` for every t; the last carry, and all y stacked.

    Not ``keras.ops.scan``, which on TensorFlow requires that y has the structure of the carry.
    """
    import keras

    backend = keras.backend.backend()
    if unroll or backend == "torch":
        outputs = []
        # Unstacked, and not indexed step by step: a graph that is exported for a number of steps
        # then fails on another one, where it would leave out the further steps.
        for now in zip(*(keras.ops.unstack(value) for value in inputs.values()), strict=True):
            carry, y = step(carry, dict(zip(inputs, now, strict=True)))
            outputs.append(y)
        return carry, keras.ops.stack(outputs)
    if backend == "jax":
        import jax

        return jax.lax.scan(step, carry, inputs)
    return _tensorflow_scan(step, carry, inputs, steps)


def _tensorflow_scan(
    step: Callable[..., Any], carry: Any, inputs: dict[str, Any], steps: int | None
) -> Any:
    import tensorflow as tf

    length = steps if steps is not None else tf.shape(inputs["x"])[0]
    arrays = {
        name: tf.TensorArray(value.dtype, size=length).unstack(value)
        for name, value in inputs.items()
    }
    if steps is None:
        # There may be zero steps, and an empty stack has no shape. So there is one more, on zeros.
        nothing = {
            name: tf.zeros(tf.shape(value)[1:], value.dtype) for name, value in inputs.items()
        }
        _, last = step(carry, nothing)
        begun, size = 0, length + 1
        outputs = tf.TensorArray(last.dtype, size=size, element_shape=last.shape)
        outputs = outputs.write(length, last)
    else:
        # The first step runs before the loop, for the output's dtype and shape.
        carry, first = step(carry, {name: array.read(0) for name, array in arrays.items()})
        begun = 1
        outputs = tf.TensorArray(first.dtype, size=length, element_shape=first.shape)
        outputs = outputs.write(0, first)

    def body(t: Any, carry: Any, outputs: Any) -> tuple[Any, Any, Any]:
        carry, y = step(carry, {name: array.read(t) for name, array in arrays.items()})
        return t + 1, carry, outputs.write(t, y)

    _, carry, outputs = tf.while_loop(
        lambda t, *_: t < length, body, (begun, carry, outputs), maximum_iterations=length
    )
    stacked = outputs.stack()
    return carry, stacked if steps is not None else stacked[:length]
