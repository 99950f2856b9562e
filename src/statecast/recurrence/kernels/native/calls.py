"""A call of the library: which cells it runs, and the names and shapes of its buffers."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from statecast.recurrence.cells import GRU, LSTM, ClosedLoop, Gated, SimpleRNN, Stack, within
from statecast.recurrence.kernels import loop
from statecast.recurrence.kernels.native.library import (
    DTYPES,
    Backward,
    Forward,
    check,
    checked_size,
    loaded,
)
from statecast.recurrence.problem import Problem

CODES: Mapping[type, int] = {SimpleRNN: 0, GRU: 1, LSTM: 2}

MOST_LAYERS = 16
# What the library runs in a call: a cell, or the equal layers of a stack in a closed loop.
Cells = Gated | Stack
# A call of the library: of a cell, or of a stack, by layer.
Call = Forward | ctypes.Array[Forward]

# The arguments of a call by the names of native/statecast.h, in the order of XLA's calls. A call
# has some of them. FLAGS are bool, the others of x's dtype.
ORDER = ("x", "w", "u", "bias", "h0", "c0", "mask", "resets", "hr", "cr")
ORDER += ("observed", "feed", "base", "decay", "last")
FLAGS = ("mask", "resets", "observed")
# Those that each layer has. In a stack, the names of the second layer's are "1/w" and the like.
OF_LAYER = ("w", "u", "bias", "h0", "c0")


def layers_of(cell: Any) -> Sequence[Gated]:
    # In place of isinstance(), which takes ten times as long for an abstract class.
    return (cell,) if type(cell) in CODES else cell.cells


def order_of(cell: Cells) -> tuple[str, ...]:
    """``ORDER``, and after it the arguments of the upper layers."""
    return _order_of(len(layers_of(cell)))


@cache
def _order_of(layers: int) -> tuple[str, ...]:
    return (*ORDER, *(f"{layer}/{n}" for layer in range(1, layers) for n in OF_LAYER))


def of_layer(named: Mapping[str, Any], layer: int) -> dict[str, Any]:
    """The values of a layer; with the first layer's those of the loop."""
    if layer:
        return within(named, layer)
    return {n: value for n, value in named.items() if "/" not in n}


def cell_declines(cell: Any) -> str | None:
    """Why the library cannot run a cell; None where it can."""
    for part in cell.cells if isinstance(cell, Stack) else [cell]:
        if type(part) not in CODES:
            return f"it has no {type(part).__name__}"
        if part.activation != "tanh":
            return f"the activation is {part.activation!r}, not 'tanh'"
        recurrent = getattr(part, "recurrent_activation", "sigmoid")
        if recurrent != "sigmoid":
            return f"the recurrent activation is {recurrent!r}, not 'sigmoid'"
        if not getattr(part, "reset_after", True):
            return "reset_after is False"
    return None


@lru_cache
def shapes_of(
    cell: Cells, lead: tuple[int, ...], sizes: tuple[int, int, int]
) -> Mapping[str, tuple[int, ...]]:
    """The shape of each argument and result. ``lead`` are the axes of members, ``sizes`` are
    (rows, steps, inputs)."""
    first, *upper = layers_of(cell)
    shapes = dict(_shapes_of_layer(first, lead, sizes))
    for layer, one in enumerate(upper, 1):
        own = _shapes_of_layer(one, lead, (*sizes[:2], one.units))
        shapes |= {f"{layer}/{n}": own[n] for n in (*OF_LAYER, "hn", "cn")}
    return shapes


def _shapes_of_layer(
    cell: Gated, lead: tuple[int, ...], sizes: tuple[int, int, int]
) -> Mapping[str, tuple[int, ...]]:
    rows, steps, inputs = sizes
    columns = cell.gates * cell.units
    state = (*lead, rows, cell.units)
    return {
        "x": (*lead, rows, steps, inputs),
        "w": (*lead, inputs, columns),
        "u": (*lead, cell.units, columns),
        "bias": (*lead, 2, columns) if isinstance(cell, GRU) else (*lead, columns),
        **dict.fromkeys(("h0", "c0", "hr", "cr", "hn", "cn"), state),
        **dict.fromkeys(("mask", "resets", "observed", "fed"), (*lead, rows, steps)),
        **dict.fromkeys(("base", "last"), (*lead, rows)),
        "feed": (*lead, cell.units),
        "decay": lead,
        "y": (*lead, rows, steps, cell.units),
    }


def outputs_of(cell: Cells, values: Mapping[str, Any]) -> list[str]:
    """The names of a call's results, in the library's order."""
    leaves = [f"{leaf}n" for leaf in layers_of(cell)[0].state_shapes]
    return ["y", *["fed"] * ("observed" in values), *leaves, *states_above(cell)]


def states_above(cell: Cells) -> Sequence[str]:
    """The names of the results of a stack's upper layers."""
    upper = layers_of(cell)[1:]
    return [f"{layer}/{leaf}n" for layer, one in enumerate(upper, 1) for leaf in one.state_shapes]


def arguments(cell: Gated, dtype: str, shape: tuple[int, ...], **others: int) -> Forward:
    """The library's arguments for an x of ``shape``, ``(..., rows, steps, inputs)``."""
    *lead, rows, steps, inputs = shape
    return Forward(
        CODES[type(cell)], DTYPES[dtype], math.prod(lead), rows, steps, inputs, cell.units,
        **others,
    )  # fmt: skip


def call_of(cell: Cells, dtype: str, shape: tuple[int, ...], **others: int) -> Call:
    """The same for a cell or a stack; ``others`` by the names of ``order_of``."""
    layers = layers_of(cell)
    if len(layers) == 1:
        return arguments(layers[0], dtype, shape, **others)
    call = (Forward * len(layers))()
    for layer, one in enumerate(layers):
        call[layer] = arguments(one, dtype, shape, **of_layer(others, layer))
        shape = (*shape[:-1], one.units)
    return call


def saved_bytes(call: Call) -> int:
    """The size of what the forward pass saves for the backward pass."""
    if isinstance(call, Forward):
        return checked_size(loaded().statecast_saved_bytes(ctypes.byref(call)))
    return checked_size(loaded().statecast_layers_saved_bytes(call, len(call)))


def save_at(call: Call, address: int) -> None:
    """Set where the forward pass saves what the backward pass needs."""
    (call if isinstance(call, Forward) else call[0]).saved = address


def run_forward(call: Call) -> None:
    if isinstance(call, Forward):
        check(loaded().statecast_forward(ctypes.byref(call)))
    else:
        check(loaded().statecast_layers_forward(call, len(call)))


def run_backward(call: Call, gradients: Mapping[str, int]) -> None:
    """The backward pass of a forward ``call``; ``gradients`` are addresses by the names of what
    they are the gradients of."""
    if isinstance(call, Forward):
        own = Backward(call, **{f"d{n}": at for n, at in gradients.items()})
        check(loaded().statecast_backward(ctypes.byref(own)))
        return
    calls = (Backward * len(call))()
    for layer, forward in enumerate(call):
        own = of_layer(gradients, layer)
        calls[layer] = Backward(forward, **{f"d{n}": at for n, at in own.items()})
    check(loaded().statecast_layers_backward(calls, len(calls)))


def by_loop(cell: Cells, values: Mapping[str, Any]) -> tuple[Any, ...]:
    """The same results from the loop kernel, which can be differentiated any number of times."""
    if isinstance(cell, Stack):
        weights, state = {}, {}
        for layer, one in enumerate(cell.cells):
            own = of_layer(values, layer)
            weights |= {f"{layer}/{n}": value for n, value in _weights_of(own).items()}
            state |= {f"{layer}/{leaf}": own[f"{leaf}0"] for leaf in one.state_shapes}
    else:
        weights = _weights_of(values)
        state = {leaf: values[f"{leaf}0"] for leaf in cell.state_shapes}
    leaves = list(state)
    initial = {leaf: values[f"{leaf}r"] for leaf in leaves} if "resets" in values else None
    if "observed" not in values:
        y, after = loop.run(
            Problem(
                cell, weights, values["x"], state, values.get("mask"), values.get("resets"), initial
            )
        )
        return (y, *(after[leaf] for leaf in leaves))
    weights = {f"cell/{n}": weight for n, weight in weights.items()}
    weights |= {"feed": values["feed"][..., None], "decay": values["decay"][..., None]}
    state = {f"cell/{leaf}": value for leaf, value in state.items()}
    state |= {leaf: values[leaf][..., None] for leaf in ("last", "base")}
    problem = Problem(ClosedLoop(cell), weights, values["x"], state, values.get("mask"))
    y, after = loop.run(problem)
    return (y[..., :-1], y[..., -1], *(after[f"cell/{leaf}"] for leaf in leaves))


def _weights_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a layer by the names of ``cells``."""
    names = {"w": "kernel", "u": "recurrent_kernel", "bias": "bias"}
    return {name: values[n] for n, name in names.items() if n in values}
