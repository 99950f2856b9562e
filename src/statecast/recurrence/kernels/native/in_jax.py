"""The native kernel in JAX: XLA's custom calls, on XLA's buffers, with their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from statecast.recurrence.kernels.native import threads
from statecast.recurrence.kernels.native.calls import (
    CODES,
    FLAGS,
    ORDER,
    arguments,
    by_loop,
    outputs_of,
    saved_bytes,
    shapes_of,
)
from statecast.recurrence.kernels.native.library import loaded

# The buffers that a call may have, as bits of the attribute `has` that jax.cpp reads.
_HAS = {"bias": 1, "mask": 2, "resets": 4, "saved": 8, "dx": 16, "dy": 32, "dh": 64, "dc": 128}
_HAS |= {"observed": 256, "dfed": 512}
# An output, and the bit that says that the backward pass is given its gradient.
_GRADIENT_OF = {"y": "dy", "fed": "dfed", "hn": "dh", "cn": "dc"}

Values = Mapping[str, Any]


def declines(library: Any) -> str | None:
    """Why the library cannot be called from JAX; None where it can."""
    import jax

    if not hasattr(library, "statecast_jax_forward"):
        return "it was built without JAX's headers"
    if jax.default_backend() != "cpu":
        return f"JAX runs on {jax.default_backend()}"
    return refusal()


def run(cell: Any, values: Values) -> tuple[Any, ...]:
    """The results of a call, in the order of ``outputs_of``. ``values`` broadcast."""
    return _compiled()(cell, values)


@cache
def _compiled() -> Callable[..., Any]:
    """``run``, compiled once for each cell and its shapes."""
    import jax
    import jax.numpy as jnp

    recurrence = _differentiable()

    def entry(cell: Any, values: Any) -> Any:
        dtype = values["x"].dtype
        *lead, rows, steps, inputs = values["x"].shape
        shapes = shapes_of(cell, tuple(lead), (rows, steps, inputs))
        # The library has one axis of members.
        axes, members = len(lead), math.prod(lead)

        def argument(name: str, value: Any) -> Any:
            value = jnp.asarray(value, "bool" if name in FLAGS else dtype)
            value = jnp.broadcast_to(value, shapes[name])
            return value.reshape(members, *value.shape[axes:])

        found = recurrence(cell, {n: argument(n, value) for n, value in values.items()})
        return tuple(v.reshape(*lead, *v.shape[1:]) for v in found)

    return jax.jit(entry, static_argnums=0)


# -- the library's two functions ---------------------------------------------------------------


@cache
def refusal() -> str | None:
    """Why XLA refuses the library's functions; None where it accepts them.

    XLA refuses functions that were built with the headers of another version of its interface.
    """
    import jax

    try:
        for which in ("forward", "backward", "score", "score_gradients"):
            handler = jax.ffi.pycapsule(getattr(loaded(), f"statecast_jax_{which}"))
            jax.ffi.register_ffi_target(f"statecast_{which}", handler, platform="cpu")
    except jax.errors.JaxRuntimeError:
        return (
            f"it was built for another version of JAX than {jax.__version__}; install Statecast "
            "again from its sources"
        )
    return None


def _call(which: str, cell: Any, has: Sequence[str], results: Any, operands: Any) -> list[Any]:
    import jax

    target = jax.ffi.ffi_call(f"statecast_{which}", results, vmap_method="broadcast_all")
    return target(
        *operands,
        cell=np.int64(CODES[type(cell)]),
        has=np.int64(sum(_HAS[part] for part in has)),
        threads=np.int64(threads.of_jax()),
    )


def _forward(cell: Any, values: Values, save: bool) -> tuple[Any, ...]:
    """The results of a call, and last, with ``save``, what the backward pass needs."""
    import jax

    x = values["x"]
    *lead, rows, steps, inputs = x.shape
    shapes = shapes_of(cell, tuple(lead), (rows, steps, inputs))
    results = [jax.ShapeDtypeStruct(shapes[n], x.dtype) for n in outputs_of(cell, values)]
    has = [n for n in ("bias", *FLAGS) if n in values]
    if save:
        has.append("saved")
        call = arguments(cell, str(x.dtype), x.shape, mask=int("mask" in values))
        results.append(jax.ShapeDtypeStruct((saved_bytes(call),), "uint8"))
    return tuple(_call("forward", cell, has, results, [values[n] for n in ORDER if n in values]))


def _backward(
    cell: Any, dx: bool, values: Values, outputs: Sequence[Any], saved: Any, given: Sequence[Any]
) -> dict[str, Any]:
    """The gradients by the names of ``values``, from those ``given`` of the outputs (None: zeros).
    None for flags, and for x unless ``dx``."""
    import jax

    wanted = [n for n in ORDER if n in values and n not in FLAGS and (dx or n != "x")]
    names = outputs_of(cell, values)
    cotangents = {n: ct for n, ct in zip(names, given, strict=True) if ct is not None}
    has = [n for n in ("bias", *FLAGS) if n in values] + ["dx"] * dx
    has += [_GRADIENT_OF[n] for n in cotangents]
    results = [jax.ShapeDtypeStruct(values[n].shape, values["x"].dtype) for n in wanted]
    operands = [values[n] for n in ORDER if n in values]
    operands += [y for n, y in zip(names, outputs, strict=True) if n in ("y", "fed")]
    operands += [saved, *cotangents.values()]
    found = dict(zip(wanted, _call("backward", cell, has, results, operands), strict=True))
    return {n: found.get(n) for n in values}


def _backward_by_loop(
    cell: Any, dx: bool, flags: Values, floats: Values, given: Sequence[Any]
) -> dict[str, Any]:
    """The same gradients from the loop kernel, which JAX can differentiate again."""
    import jax
    import jax.numpy as jnp

    outputs, vjp = jax.vjp(lambda values: by_loop(cell, {**values, **flags}), floats)
    pairs = zip(outputs, given, strict=True)
    (found,) = vjp(tuple(jnp.zeros_like(y) if ct is None else ct for y, ct in pairs))
    return found if dx else {n: gradient for n, gradient in found.items() if n != "x"}


# -- derivatives -------------------------------------------------------------------------------


@cache
def _differentiable() -> Callable[..., Any]:
    """``recurrence(cell, values) -> results``, which can be differentiated any number of times.

    Three operations, each with its derivative. ``recurrence`` is the forward pass, ``saving`` the
    forward pass that also saves what ``gradients``, the backward pass, needs. For a second
    derivative, that of ``saving`` is computed by the kernel, and that of ``gradients``, which is
    rarely needed, by the loop kernel.
    """
    import jax

    custom_vjp: Any = jax.custom_vjp
    symbolic_zero = jax.custom_derivatives.SymbolicZero

    @partial(custom_vjp, nondiff_argnums=(0,))
    def recurrence(cell: Any, values: Any) -> Any:
        return _forward(cell, values, save=False)

    def recurrence_forward(cell: Any, values: Any) -> Any:
        # Whether x's gradient is wanted: None or (), so that it is known when JAX compiles.
        wants_dx = () if values["x"].perturbed else None
        values = {n: value.value for n, value in values.items()}
        *outputs, saved = saving(cell, values)
        return tuple(outputs), (values, tuple(outputs), saved, wants_dx)

    def recurrence_backward(cell: Any, kept: Any, cotangents: Any) -> Any:
        *call, wants_dx = kept
        given = [None if isinstance(ct, symbolic_zero) else ct for ct in cotangents]
        return (gradients(cell, wants_dx is not None, *call, given),)

    @partial(custom_vjp, nondiff_argnums=(0,))
    def saving(cell: Any, values: Any) -> Any:
        return _forward(cell, values, save=True)

    def saving_forward(cell: Any, values: Any) -> Any:
        *outputs, saved = saving(cell, values)
        return (*outputs, saved), (values, tuple(outputs), saved)

    def saving_backward(cell: Any, kept: Any, cotangents: Any) -> Any:
        return (gradients(cell, True, *kept, list(cotangents[:-1])),)

    @partial(custom_vjp, nondiff_argnums=(0, 1))
    def gradients(cell: Any, dx: bool, values: Any, outputs: Any, saved: Any, given: Any) -> Any:
        return _backward(cell, dx, values, outputs, saved, given)

    def gradients_forward(cell: Any, dx: bool, values: Any, *others: Any) -> Any:
        return gradients(cell, dx, values, *others), (values, others[-1])

    def gradients_backward(cell: Any, dx: bool, kept: Any, cotangents: Any) -> Any:
        values, given = kept
        floats = {n: v for n, v in values.items() if n not in FLAGS}
        flags = {n: v for n, v in values.items() if n in FLAGS}
        _, vjp = jax.vjp(partial(_backward_by_loop, cell, dx, flags), floats, given)
        of_values, of_given = vjp({n: ct for n, ct in cotangents.items() if ct is not None})
        return {n: of_values.get(n) for n in values}, None, None, of_given

    recurrence.defvjp(recurrence_forward, recurrence_backward, symbolic_zeros=True)
    saving.defvjp(saving_forward, saving_backward)
    gradients.defvjp(gradients_forward, gradients_backward)
    return recurrence
