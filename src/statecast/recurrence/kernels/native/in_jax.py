"""The native kernel in JAX: XLA's custom calls, on XLA's buffers, with their derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from statecast.errors import KernelError
from statecast.recurrence.kernels.native import threads
from statecast.recurrence.kernels.native.calls import (
    CODES,
    FLAGS,
    by_loop,
    call_of,
    layers_of,
    matrices_of,
    order_of,
    outputs_of,
    saved_bytes,
    shapes_of,
)
from statecast.recurrence.kernels.native.library import loaded
from statecast.recurrence.problem import ANY_KERNEL

# The buffers that a call may have, as bits of the attribute `has` that jax.cpp reads.
_HAS = {"bias": 1, "mask": 2, "resets": 4, "saved": 8, "dx": 16, "dy": 32, "dh": 64, "dc": 128}
_HAS |= {"observed": 256, "dfed": 512}
# An output, and the bit that says that the backward pass is given its gradient. Two bits from
# _ABOVE on are for the state of each upper layer.
_GRADIENT_OF = {"y": "dy", "fed": "dfed", "hn": "dh", "cn": "dc"}
_ABOVE = 1024

Values = Mapping[str, Any]


def declines(library: Any, *tensors: Any) -> str | None:
    """Why the library cannot be called from JAX on ``tensors``; None where it can."""
    import jax

    if not hasattr(library, "statecast_jax_forward"):
        return "it was built without JAX's headers"
    if jax.default_backend() != "cpu":
        return f"JAX runs on {jax.default_backend()}"
    sizes = (size for tensor in tensors for size in getattr(tensor, "shape", ()))
    if any(map(jax.export.is_symbolic_dim, sizes)):
        return "the program is exported with sizes that are not known"
    return refusal()


def run(cell: Any, values: Values, forced: bool) -> tuple[Any, ...]:
    """The results of a call, in the order of ``outputs_of``. ``values`` broadcast.

    If the program is exported later, JAX's own operations take the place of the library, unless
    the kernel is ``forced``: then the export raises a ``KernelError``.
    """
    return _compiled()(cell, forced, values)


@cache
def _compiled() -> Callable[..., Any]:
    """``run``, compiled once for each cell and its shapes."""
    import jax
    import jax.numpy as jnp

    recurrence = _differentiable()

    def entry(cell: Any, forced: bool, values: Any) -> Any:
        numbers = jnp.float64 if values["x"].dtype == jnp.float64 else jnp.float32
        dtypes: dict[str, Any] = dict.fromkeys(FLAGS, jnp.bool_)
        matrices = matrices_of(cell)
        if numbers == jnp.float32 and all(values[n].dtype == jnp.bfloat16 for n in matrices):
            dtypes |= dict.fromkeys(matrices, jnp.bfloat16)
        *lead, rows, steps, inputs = values["x"].shape
        shapes = shapes_of(cell, tuple(lead), (rows, steps, inputs))
        # The library has one axis of members.
        axes, members = len(lead), math.prod(lead)

        def argument(name: str, value: Any) -> Any:
            value = jnp.asarray(value, dtypes.get(name, numbers))
            value = jnp.broadcast_to(value, shapes[name])
            return value.reshape(members, *value.shape[axes:])

        found = recurrence(cell, forced, {n: argument(n, value) for n, value in values.items()})
        return tuple(v.reshape(*lead, *v.shape[1:]) for v in found)

    return jax.jit(entry, static_argnums=(0, 1))


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


@dataclass(frozen=True)
class _Call:
    """A call of one of the library's functions, on operands of these names. Axes before that of
    members come from ``jax.vmap``."""

    cell: Any
    forced: bool
    names: tuple[str, ...]

    def __call__(self, *operands: Any) -> tuple[Any, ...]:
        return tuple(_primitive().bind(*operands, call=self))

    def by_library(self, *operands: Any) -> list[Any]:
        """The results, by the library."""
        raise NotImplementedError

    def by_jax(self, *operands: Any) -> list[Any]:
        """The same results, by operations of JAX."""
        raise NotImplementedError

    def _custom(self, which: str, has: int, results: Any, operands: Any) -> list[Any]:
        import jax

        layers = layers_of(self.cell)
        flags = [n for n in ("bias", *FLAGS) if n in self.names]
        several = {"layers": np.int64(len(layers))} if len(layers) > 1 else {}
        return jax.ffi.ffi_call(f"statecast_{which}", results)(
            *operands,
            cell=np.int64(CODES[type(layers[0])]),
            has=np.int64(has + sum(_HAS[part] for part in flags)),
            threads=np.int64(threads.of_jax()),
            **several,
        )


@dataclass(frozen=True)
class _ForwardCall(_Call):
    """The forward pass: its results, and last, if it ``saves``, what the backward pass needs."""

    saves: bool

    def by_library(self, *operands: Any) -> list[Any]:
        import jax

        results = self._results(operands)
        structs = [jax.ShapeDtypeStruct(*result) for result in results]
        return self._custom("forward", _HAS["saved"] * self.saves, structs, operands)

    def by_jax(self, *operands: Any) -> list[Any]:
        import jax.numpy as jnp

        found = by_loop(self.cell, dict(zip(self.names, operands, strict=True)))
        # The backward pass by JAX's operations does not read what the library would have saved.
        return [*found, *(jnp.zeros(*saved) for saved in self._results(operands)[len(found) :])]

    def _results(self, operands: Sequence[Any]) -> list[tuple[tuple[int, ...], Any]]:
        """The shape and the dtype of each result."""
        x = operands[self.names.index("x")]
        *lead, rows, steps, inputs = x.shape
        shapes = shapes_of(self.cell, tuple(lead), (rows, steps, inputs))
        results = [(shapes[n], x.dtype) for n in outputs_of(self.cell, dict.fromkeys(self.names))]
        if self.saves:
            dtype = str(operands[self.names.index("w")].dtype)
            own = call_of(self.cell, dtype, x.shape[-4:], mask=int("mask" in self.names))
            results.append(((*lead[:-1], saved_bytes(own)), np.uint8))
        return results


@dataclass(frozen=True)
class _BackwardCall(_Call):
    """The backward pass: the gradients of the values ``wanted``.

    The operands are the values of a forward pass, its outputs y and fed, what it saved, and the
    gradients of the outputs ``given``.
    """

    wanted: tuple[str, ...]
    given: tuple[str, ...]

    def by_library(self, *operands: Any) -> list[Any]:
        import jax

        values = dict(zip(self.names, operands, strict=False))
        results = [jax.ShapeDtypeStruct(values[n].shape, values["x"].dtype) for n in self.wanted]
        has = _HAS["dx"] * ("x" in self.wanted) + sum(map(self._bit_of_gradient, self.given))
        found = self._custom("backward", has, results, operands)
        # A gradient has the dtype of its value.
        return [v.astype(values[n].dtype) for n, v in zip(self.wanted, found, strict=True)]

    def by_jax(self, *operands: Any) -> list[Any]:
        values = dict(zip(self.names, operands, strict=False))
        cotangents = operands[len(operands) - len(self.given) :]
        named = dict(zip(self.given, cotangents, strict=True))
        flags = {n: v for n, v in values.items() if n in FLAGS}
        floats = {n: v for n, v in values.items() if n not in FLAGS}
        given = [named.get(n) for n in outputs_of(self.cell, values)]
        found = _backward_by_loop(self.cell, "x" in self.wanted, flags, floats, given)
        return [found[n] for n in self.wanted]

    def _bit_of_gradient(self, result: str) -> int:
        if result in _GRADIENT_OF:
            return _HAS[_GRADIENT_OF[result]]
        layer, leaf = result.split("/")
        return _ABOVE << 2 * (int(layer) - 1) + (leaf == "cn")


@cache
def _primitive() -> Any:
    """The operation of JAX that a ``_Call`` is in a traced program.

    A program with XLA's custom calls of the library runs in this process only. Only when JAX lowers
    a program is it known whether the program is to run here or is exported: the same trace may
    serve for both.
    """
    import jax
    import jax.numpy as jnp
    from jax.extend.core import Primitive
    from jax.interpreters import batching, mlir

    primitive: Any = Primitive("statecast")
    primitive.multiple_results = True

    @primitive.def_impl
    def run_here(*operands: Any, call: _Call) -> Any:
        return call.by_library(*operands)

    @primitive.def_abstract_eval
    def shapes(*operands: Any, call: _Call) -> Any:
        structs = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in operands]
        return jax.make_jaxpr(call.by_library)(*structs).out_avals

    def batched(operands: Any, axes: Any, *, call: _Call) -> Any:
        pairs = list(zip(operands, axes, strict=True))
        rows = next(v.shape[axis] for v, axis in pairs if axis is not None)
        moved = [
            jnp.broadcast_to(v, (rows, *v.shape)) if axis is None else jnp.moveaxis(v, axis, 0)
            for v, axis in pairs
        ]
        found = call(*moved)
        return found, [0] * len(found)

    def lowered(context: Any, *operands: Any, call: _Call) -> Any:
        # JAX has no public name for this. Without it an export is refused by JAX itself.
        exports = getattr(context.module_context.lowering_parameters, "for_export", False)
        if exports and call.forced:
            raise KernelError(
                "The kernel 'native' declines: the program is exported, and would need "
                f"Statecast's library where it runs. {ANY_KERNEL}"
            )
        way = call.by_jax if exports else call.by_library
        return mlir.lower_fun(way, multiple_results=True)(context, *operands)

    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, lowered)
    return primitive


def _forward(cell: Any, forced: bool, values: Values, saves: bool) -> tuple[Any, ...]:
    """The results of a call, and last, if it ``saves``, what the backward pass needs."""
    names = tuple(n for n in order_of(cell) if n in values)
    return _ForwardCall(cell, forced, names, saves)(*(values[n] for n in names))


def _backward(
    cell: Any,
    forced: bool,
    dx: bool,
    values: Values,
    outputs: Sequence[Any],
    saved: Any,
    given: Sequence[Any],
) -> dict[str, Any]:
    """The gradients by the names of ``values``, from those ``given`` of the outputs (None: zeros).
    None for flags, and for x unless ``dx``."""
    names = tuple(n for n in order_of(cell) if n in values)
    wanted = tuple(n for n in names if n not in FLAGS and (dx or n != "x"))
    results = list(zip(outputs_of(cell, values), outputs, given, strict=True))
    read = [y for n, y, _ in results if n in ("y", "fed")]
    cotangents = {n: ct for n, _, ct in results if ct is not None}
    call = _BackwardCall(cell, forced, names, wanted, tuple(cotangents))
    found = call(*(values[n] for n in names), *read, saved, *cotangents.values())
    by_name = dict(zip(wanted, found, strict=True))
    return {n: by_name.get(n) for n in values}


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
    """``recurrence(cell, forced, values) -> results``, differentiable any number of times.

    Three operations, each with its derivative. ``recurrence`` is the forward pass, ``saving`` the
    forward pass that also saves what ``gradients``, the backward pass, needs. For a second
    derivative, that of ``saving`` is computed by the kernel, and that of ``gradients``, which is
    rarely needed, by the loop kernel.
    """
    import jax

    custom_vjp: Any = jax.custom_vjp
    symbolic_zero = jax.custom_derivatives.SymbolicZero

    @partial(custom_vjp, nondiff_argnums=(0, 1))
    def recurrence(cell: Any, forced: bool, values: Any) -> Any:
        return _forward(cell, forced, values, saves=False)

    def recurrence_forward(cell: Any, forced: bool, values: Any) -> Any:
        # Whether x's gradient is wanted: None or (), so that it is known when JAX compiles.
        wants_dx = () if values["x"].perturbed else None
        values = {n: value.value for n, value in values.items()}
        *outputs, saved = saving(cell, forced, values)
        return tuple(outputs), (values, tuple(outputs), saved, wants_dx)

    def recurrence_backward(cell: Any, forced: bool, kept: Any, cotangents: Any) -> Any:
        *call, wants_dx = kept
        given = [None if isinstance(ct, symbolic_zero) else ct for ct in cotangents]
        return (gradients(cell, forced, wants_dx is not None, *call, given),)

    @partial(custom_vjp, nondiff_argnums=(0, 1))
    def saving(cell: Any, forced: bool, values: Any) -> Any:
        return _forward(cell, forced, values, saves=True)

    def saving_forward(cell: Any, forced: bool, values: Any) -> Any:
        *outputs, saved = saving(cell, forced, values)
        return (*outputs, saved), (values, tuple(outputs), saved)

    def saving_backward(cell: Any, forced: bool, kept: Any, cotangents: Any) -> Any:
        return (gradients(cell, forced, True, *kept, list(cotangents[:-1])),)

    @partial(custom_vjp, nondiff_argnums=(0, 1, 2))
    def gradients(
        cell: Any, forced: bool, dx: bool, values: Any, outputs: Any, saved: Any, given: Any
    ) -> Any:
        return _backward(cell, forced, dx, values, outputs, saved, given)

    def gradients_forward(cell: Any, forced: bool, dx: bool, values: Any, *others: Any) -> Any:
        return gradients(cell, forced, dx, values, *others), (values, others[-1])

    def gradients_backward(cell: Any, forced: bool, dx: bool, kept: Any, cotangents: Any) -> Any:
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
