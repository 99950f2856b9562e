"""A call of the library: which cells it runs, and the names and shapes of its buffers."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from statecast.recurrence.cells import GRU, LSTM, ClosedLoop, Gated, SimpleRNN, Stack
from statecast.recurrence.kernels import loop
from statecast.recurrence.kernels.native.library import DTYPES, Forward, checked_size, loaded
from statecast.recurrence.problem import Problem

CODES: Mapping[type, int] = {SimpleRNN: 0, GRU: 1, LSTM: 2}

# The arguments of a call by the names of native/statecast.h, in the order of XLA's calls. A call
# has some of them. FLAGS are bool, the others of x's dtype; MATRICES may be bfloat16.
ORDER = ("x", "w", "u", "bias", "h0", "c0", "mask", "resets", "hr", "cr")
ORDER += ("observed", "feed", "base", "decay", "last")
FLAGS = ("mask", "resets", "observed")
MATRICES = ("w", "u")


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
    cell: Gated, lead: tuple[int, ...], sizes: tuple[int, int, int]
) -> Mapping[str, tuple[int, ...]]:
    """The shape of each argument and result. ``lead`` are the axes of members, ``sizes`` are
    (rows, steps, inputs)."""
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


def outputs_of(cell: Gated, values: Mapping[str, Any]) -> list[str]:
    """The names of a call's results, in the library's order."""
    return ["y", *["fed"] * ("observed" in values), *(f"{leaf}n" for leaf in cell.state_shapes)]


def arguments(cell: Gated, dtype: str, shape: tuple[int, ...], **others: int) -> Forward:
    """The library's arguments for an x of ``shape``, ``(..., rows, steps, inputs)``."""
    *lead, rows, steps, inputs = shape
    return Forward(
        CODES[type(cell)], DTYPES[dtype], math.prod(lead), rows, steps, inputs, cell.units,
        **others,
    )  # fmt: skip


def saved_bytes(call: Forward) -> int:
    """The size of what the forward pass saves for the backward pass."""
    return checked_size(loaded().statecast_saved_bytes(ctypes.byref(call)))


def by_loop(cell: Gated, values: Mapping[str, Any]) -> tuple[Any, ...]:
    """The same results from the loop kernel, which can be differentiated any number of times."""
    weights = {"kernel": values["w"], "recurrent_kernel": values["u"]}
    if "bias" in values:
        weights["bias"] = values["bias"]
    leaves = list(cell.state_shapes)
    initial = {leaf: values[f"{leaf}r"] for leaf in leaves} if "resets" in values else None
    state = {leaf: values[f"{leaf}0"] for leaf in leaves}
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
