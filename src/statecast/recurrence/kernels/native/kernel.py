"""The native kernel: our own recurrence for CPUs, written in C++ (``native/``).

It runs LSTM, GRU and SimpleRNN, stacks and ensembles of them, with masks and resets or in a closed
loop, forward and backward, in JAX (through XLA's custom calls, without copies) and in PyTorch. It
declines all other problems.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from statecast.recurrence.cells import ClosedLoop, Stack, within
from statecast.recurrence.kernels.native import in_jax, in_torch
from statecast.recurrence.kernels.native.calls import MOST_LAYERS, Cells, cell_declines, layers_of
from statecast.recurrence.kernels.native.library import DTYPES, find, report_missing
from statecast.recurrence.problem import Problem

name = "native"


def declines(problem: Problem) -> str | None:
    """Why this kernel cannot run ``problem`` on the current backend; None where it can."""
    import keras

    if keras.backend.backend() == "tensorflow":
        return "on TensorFlow its own recurrence is used"
    library = find()
    if isinstance(library, str):
        report_missing()
        return library
    cell: Any = problem.cell
    if isinstance(cell, ClosedLoop):
        layers = layers_of(cell.cell)
        if len(layers) > MOST_LAYERS:
            return f"it runs a closed loop around at most {MOST_LAYERS} layers"
        if any(one != layers[0] for one in layers[1:]):
            return "it runs a closed loop around equal layers only"
        if problem.resets is not None:
            return "it runs no closed loop with resets"
        cell = cell.cell
    reason = cell_declines(cell)
    if reason is not None:
        return reason
    if problem.unroll:
        return "unroll was asked for"
    others = (problem.mask, problem.resets, *problem.weights.values(), *problem.state.values())
    if any("bfloat16" in str(leaf.dtype) for leaf in problem.state.values()):
        return "the state is of bfloat16, and it carries one of float32 from step to step"
    dtype = str(problem.x.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        return f"it computes in {', '.join(DTYPES)}, not {dtype}"
    return tensors_decline(problem.x, *others, *(problem.initial or {}).values())


def tensors_decline(tensor: Any, *others: Any) -> str | None:
    """Why the library cannot compute on the memory of JAX or PyTorch tensors; None where it can."""
    import keras

    library = find()
    if isinstance(library, str):
        return library
    if keras.backend.backend() == "jax":
        return in_jax.declines(library, tensor, *others)
    return in_torch.declines(tensor, *others)


def run(problem: Problem) -> tuple[Any, dict[str, Any]]:
    """All steps of ``problem``: outputs ``(..., rows, steps, out)`` and the leaves after them.

    Outputs have the dtype of x, and each leaf has its own. If the weights are of bfloat16, factors
    of products are rounded to it; sums and the state within the sequence are of float32.
    """
    if isinstance(problem.cell, ClosedLoop):
        return _run_closed_loop(problem, problem.cell)
    if isinstance(problem.cell, Stack):  # each cell runs over the whole sequence
        x, after = problem.x, {}
        for layer, cell in enumerate(problem.cell.cells):
            x, leaves = run(
                replace(
                    problem,
                    cell=cell,
                    x=x,
                    weights=within(problem.weights, layer),
                    state=within(problem.state, layer),
                    initial=problem.initial and within(problem.initial, layer),
                )
            )
            after |= {f"{layer}/{leaf}": value for leaf, value in leaves.items()}
        return x, after
    values = {"x": problem.x} | _values_of_layer(problem.weights, problem.state)
    if problem.mask is not None:
        values["mask"] = problem.mask
    if problem.resets is not None:
        values |= {f"{leaf}r": value for leaf, value in (problem.initial or {}).items()}
        values["resets"] = problem.resets
    cell: Any = problem.cell
    y, *leaves = _call(cell, values, problem.forced)
    pairs = zip(cell.state_shapes, leaves, strict=True)
    return _as(problem.x, y), {n: _as(problem.state[n], leaf) for n, leaf in pairs}


def _as(other: Any, value: Any) -> Any:
    """``value`` in the dtype of another tensor."""
    if value.dtype == other.dtype:
        return value
    from keras import ops

    return ops.cast(value, str(other.dtype).removeprefix("torch."))


def _run_closed_loop(problem: Problem, loop: ClosedLoop) -> tuple[Any, dict[str, Any]]:
    from keras import ops

    cell, prefixes = loop.cell, ["cell"]
    if isinstance(cell, Stack):
        prefixes = [f"cell/{layer}" for layer in range(len(cell.cells))]
        cell = cell if len(prefixes) > 1 else cell.cells[0]
    last, base = (problem.state[leaf][..., 0] for leaf in ("last", "base"))
    values = {"x": problem.x, "observed": problem.x[..., 1] > 0, "last": last, "base": base}
    values |= {"feed": problem.weights["feed"][..., 0], "decay": problem.weights["decay"][..., 0]}
    if problem.mask is not None:
        values["mask"] = problem.mask
    for layer, prefix in enumerate(prefixes):
        own = _values_of_layer(within(problem.weights, prefix), within(problem.state, prefix))
        values |= {f"{layer}/{n}" if layer else n: value for n, value in own.items()}
    y, fed, *leaves = _call(cell, values, problem.forced)
    pairs = zip((f"cell/{leaf}" for leaf in loop.cell.state_shapes), leaves, strict=True)
    after = {n: _as(problem.state[n], leaf) for n, leaf in pairs}
    after |= {leaf: problem.state[leaf] for leaf in ("last", "base")}
    if problem.x.shape[-2]:
        after["last"] = _as(after["last"], fed[..., -1:])
        if problem.mask is not None:  # before the first step taken the output is zero
            seen = ops.cumsum(ops.cast(problem.mask, "int32"), axis=-1) > 0
            fed = ops.where(seen, fed, 0.0)
    return _as(problem.x, ops.concatenate([y, fed[..., None]], axis=-1)), after


def _values_of_layer(weights: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """The weights and the state of a layer, by the library's names."""
    values = {"w": weights["kernel"], "u": weights["recurrent_kernel"], "bias": weights.get("bias")}
    values |= {f"{leaf}0": value for leaf, value in state.items()}
    return {n: value for n, value in values.items() if value is not None}


def _call(cell: Cells, values: dict[str, Any], forced: bool) -> Any:
    """y, the input values (of a closed loop), and the leaves after the last step."""
    import keras

    if keras.backend.backend() == "jax":
        return in_jax.run(cell, values, forced)
    return in_torch.run(cell, values)
