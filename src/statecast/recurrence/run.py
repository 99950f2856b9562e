"""``run``: a cell, its weights, the inputs and the state to the outputs and the next state.

The kernel that computes it is chosen here and nowhere else. ``explain`` names the choice, and why
the other kernels decline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from statecast.errors import ArgumentError, KernelError, StateError
from statecast.recurrence.cells import Cell
from statecast.recurrence.kernels import fused, loop
from statecast.recurrence.kernels.native import kernel as native
from statecast.recurrence.problem import ANY_KERNEL, Problem

# In order of preference. Errors inside a kernel propagate; there is no silent fallback.
KERNELS = (native, fused, loop)


def run(
    cell: Cell,
    weights: Mapping[str, Any],
    x: Any,
    state: Mapping[str, Any],
    *,
    mask: Any = None,
    resets: Any = None,
    initial: Mapping[str, Any] | None = None,
    unroll: bool = False,
    kernel: str | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Run a cell over all steps of ``x``, starting from ``state``.

    Parameters
    ----------
    cell : Cell
    weights : mapping of str to tensor
        With the names and shapes of ``cell.weight_shapes``.
    x : tensor, float, ``(..., rows, steps, in)``
        Zero steps are valid: there are no outputs, and the state does not change.
    state : mapping of str to tensor, ``(..., rows, units)``
        Where the first step starts.
    mask : tensor, bool, ``(..., rows, steps)``, optional
        Where False, the step is skipped: the state does not change, and the output repeats the last
        one (zeros before the first step taken).
    resets : tensor, bool, ``(..., rows, steps)``, optional
        Where True, the row is set to ``initial`` before the step; no gradient passes a reset.
    initial : mapping of str to tensor, ``(..., rows, units)``, optional
        The state after a reset; needed with ``resets``.
    unroll : bool
        Compile every step, instead of the backend's loop: it takes longer to compile, and short
        sequences run faster. The number of steps must be known.
    kernel : str, optional
        The name of a kernel that has to be used.

    Returns
    -------
    y : tensor, ``(..., rows, steps, out)``
    state : dict of str to tensor
        The state after the last step.

    Raises
    ------
    StateError
        The state has other leaves than the cell, or leaves of other shapes.
    ArgumentError
        The weights have other shapes than the cell's for the features of ``x``; ``resets`` without
        ``initial``; or there is no kernel of that name.
    KernelError
        The kernel that has to be used declines; the message has the reason. On JAX a program with
        ``kernel="native"`` raises it when it is exported.
    """
    problem = _problem(cell, weights, x, state, mask, resets, initial, unroll)
    problem = replace(problem, forced=kernel is not None)
    return _choose(problem, kernel).run(problem)


def explain(
    cell: Cell,
    weights: Mapping[str, Any],
    x: Any,
    state: Mapping[str, Any],
    *,
    mask: Any = None,
    resets: Any = None,
    initial: Mapping[str, Any] | None = None,
    unroll: bool = False,
) -> dict[str, str]:
    """Per kernel, in order of preference: ``"runs"``, ``"would run"`` or why it declines."""
    problem = _problem(cell, weights, x, state, mask, resets, initial, unroll)
    answer: dict[str, str] = {}
    for kernel in KERNELS:
        reason = kernel.declines(problem)
        chosen = "would run" if "runs" in answer.values() else "runs"
        answer[kernel.name] = chosen if reason is None else f"declines: {reason}"
    return answer


def _problem(
    cell: Cell,
    weights: Mapping[str, Any],
    x: Any,
    state: Mapping[str, Any],
    mask: Any,
    resets: Any,
    initial: Mapping[str, Any] | None,
    unroll: bool,
) -> Problem:
    for role, leaves in (("state", state), ("initial", initial)):
        if leaves is None:
            continue
        if set(leaves) != set(cell.state_shapes):
            raise StateError(
                f"{role}: expected the leaves {list(cell.state_shapes)}, received {list(leaves)}."
            )
        for name, shape in cell.state_shapes.items():
            found = tuple(leaves[name].shape)[-len(shape) :]
            if found != shape:
                raise StateError(
                    f"{role}, leaf {name!r}: expected (..., rows, {shape[-1]}), "
                    f"received {tuple(leaves[name].shape)}."
                )
    width = x.shape[-1]
    if weights and width is not None:
        for name, shape in cell.weight_shapes(width).items():
            found = tuple(weights[name].shape)[-len(shape) :]
            if found != shape:
                raise ArgumentError(
                    f"x has {width} features, so the weight {name!r} should have the shape "
                    f"{shape}; it has {found}."
                )
    if resets is not None and initial is None:
        raise ArgumentError("resets needs `initial`, the state after a reset.")
    return Problem(cell, weights, x, state, mask, resets, initial, unroll)


def _choose(problem: Problem, forced: str | None) -> Any:
    if forced is not None:
        for kernel in KERNELS:
            if kernel.name == forced:
                reason = kernel.declines(problem)
                if reason is not None:
                    raise KernelError(f"The kernel {forced!r} declines: {reason}. {ANY_KERNEL}")
                return kernel
        raise ArgumentError(
            f"kernel: expected one of {[k.name for k in KERNELS]}, received {forced!r}."
        )
    return next(kernel for kernel in KERNELS if kernel.declines(problem) is None)
