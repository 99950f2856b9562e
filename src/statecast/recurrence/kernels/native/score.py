"""The score of a head in the native library, and its gradients, in JAX and PyTorch.

It computes one number for each row from the recurrence's outputs, without an array of the
parameters of all steps. The reference is ``statecast.heads``. It can be differentiated once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np

from statecast.errors import KernelError
from statecast.recurrence.kernels.native import threads
from statecast.recurrence.kernels.native.in_torch import address_of, dense, transforms_active
from statecast.recurrence.kernels.native.kernel import tensors_decline
from statecast.recurrence.kernels.native.library import (
    DTYPES,
    FAMILIES,
    HOST,
    NativeHead,
    check,
    loaded,
)

# The arguments in the library's order; `first` and `last` are optional. DATA have no gradient.
ORDER = ("outputs", "taken", "first", "last", "kernel", "base", "decay", "target", "weight")
DATA = ("target", "weight")


class _Score(ctypes.Structure):
    """``statecast_score_args`` of native/statecast.h."""

    _fields_ = [
        *((field, ctypes.c_int64) for field in ("dtype", "head", "members", "rows", "steps")),
        *((field, ctypes.c_int64) for field in ("units", "parameters")),
        *((field, ctypes.c_void_p) for field in (*ORDER, "levels", "gaps")),
        ("smallest", ctypes.c_double),
        ("score", ctypes.c_void_p),
        *HOST,
    ]


class _Gradients(ctypes.Structure):
    """``statecast_score_gradients_args`` of native/statecast.h."""

    _fields_ = [
        ("forward", _Score),
        *((field, ctypes.c_void_p) for field in ("dscore", "doutputs", "dtaken", "dfirst")),
        *((field, ctypes.c_void_p) for field in ("dlast", "dkernel", "dbase", "ddecay")),
    ]


def declines(head: NativeHead, outputs: Any) -> str | None:
    """Why the library cannot compute the score of a head from ``outputs``; None where it can."""
    import keras

    if keras.backend.backend() == "tensorflow":
        return "on TensorFlow its own operations are used"
    if keras.backend.backend() == "torch" and transforms_active():
        return "it has no derivatives in torch.func"
    dtype = keras.backend.standardize_dtype(outputs.dtype)
    wanted = ("float32", "float64") if head.family == "quantiles" else ("float32",)
    if dtype not in wanted:
        return f"it computes the score of {head.family} in {' or '.join(wanted)}, not in {dtype}"
    return tensors_decline(outputs)


def run(head: NativeHead, values: Mapping[str, Any]) -> Any:
    """The score of every row, ``(members, rows)``; values by the names of native/statecast.h."""
    import keras

    values = {n: values[n] for n in ORDER if values.get(n) is not None}
    return (_jax_entry() if keras.backend.backend() == "jax" else _torch_run)(head, values)


def _shapes(outputs: tuple[int, ...], parameters: int) -> dict[str, tuple[int, ...]]:
    members, rows, steps, units = outputs
    return {
        "outputs": outputs,
        **dict.fromkeys(("taken", "target", "weight"), (members, rows, steps)),
        "first": (members, rows, units),
        **dict.fromkeys(("last", "score"), (members, rows)),
        "kernel": (members, units, parameters),
        "base": (members, rows, parameters),
        "decay": (members,),
    }


# -- JAX -----------------------------------------------------------------------------------------


@cache
def _jax_entry() -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    custom_vjp: Any = jax.custom_vjp

    def call(which: str, head: NativeHead, names: list[str], values: Any, *more: Any) -> Any:
        x = values["outputs"]
        shapes = _shapes(x.shape, head.size)
        results = [jax.ShapeDtypeStruct(shapes[n], x.dtype) for n in names]
        target = jax.ffi.ffi_call(which, results, vmap_method="broadcast_all")
        return target(
            *(values[n] for n in ORDER if n in values),
            *more,
            has=np.int64("first" in values),
            head=np.int64(FAMILIES.index(head.family)),
            levels=np.array(head.levels, float),
            gaps=np.array(head.gaps, float),
            smallest=np.float64(head.smallest),
            threads=np.int64(threads.of_jax()),
        )

    @partial(custom_vjp, nondiff_argnums=(0,))
    def score(head: NativeHead, values: Any) -> Any:
        return call("statecast_score", head, ["score"], values)[0]

    def forward(head: NativeHead, values: Any) -> Any:
        return score(head, values), values

    def backward(head: NativeHead, values: Any, given: Any) -> Any:
        names = [n for n in ORDER if n in values and n not in DATA]
        found = call("statecast_score_gradients", head, names, values, given)
        gradients = dict(zip(names, found, strict=True))
        return ({n: gradients.get(n) for n in values},)

    score.defvjp(forward, backward)

    def entry(head: NativeHead, values: Any) -> Any:
        x = values["outputs"]
        shapes = _shapes(x.shape, head.size)
        values = {
            n: jnp.broadcast_to(jnp.asarray(v, x.dtype), shapes[n]) for n, v in values.items()
        }
        return score(head, values)

    return jax.jit(entry, static_argnums=0)


# -- PyTorch -------------------------------------------------------------------------------------


def _torch_run(head: NativeHead, values: Mapping[str, Any]) -> Any:
    import torch

    x = values["outputs"]
    shapes = _shapes(tuple(x.shape), head.size)
    tensors = [
        dense(torch.as_tensor(values[n]).broadcast_to(shapes[n]), x.dtype) if n in values else None
        for n in ORDER
    ]
    return _torch_function().apply(head, *tensors)


@cache
def _torch_function() -> Any:
    import torch

    library, at = loaded(), address_of

    def arguments(head: NativeHead, values: Mapping[str, Any], **more: int) -> _Score:
        x = values["outputs"]
        dtype = DTYPES[str(x.dtype).removeprefix("torch.")]
        constants = {n: _doubles(getattr(head, n)) for n in ("levels", "gaps")}
        return _Score(
            dtype, FAMILIES.index(head.family), *x.shape, head.size, smallest=head.smallest,
            threads=threads.of_torch(), openmp=threads.openmp(),
            **{n: at(v) for n, v in values.items()}, **constants, **more,
        )  # fmt: skip

    def gradients(ctx: Any, given: Any) -> Any:
        pairs = zip(ORDER, ctx.saved_tensors, strict=True)  # hooks may have changed dtypes
        values = {n: dense(v, given.dtype) for n, v in pairs if v is not None}
        shapes = _shapes(tuple(values["outputs"].shape), ctx.head.size)
        wrong = [n for n, v in values.items() if v.shape != shapes[n]]
        if wrong:
            raise KernelError(
                "The native kernel failed: the tensors saved for the backward pass were returned "
                f"with other shapes ({', '.join(wrong)}). Hooks of saved tensors have to return "
                "the shape that they were given."
            )
        found = {n: torch.empty_like(v) for n, v in values.items() if n not in DATA}
        given = dense(given, given.dtype)
        call = _Gradients(
            arguments(ctx.head, values),
            dscore=at(given),
            **{f"d{n}": at(v) for n, v in found.items()},
        )
        check(library.statecast_score_gradients(ctypes.byref(call)))
        return None, *(found.get(n) for n in ORDER)

    class Score(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, head: NativeHead, *tensors: Any) -> Any:
            values = {n: v for n, v in zip(ORDER, tensors, strict=True) if v is not None}
            x = values["outputs"]
            ctx.head = head
            ctx.save_for_backward(*tensors)
            score = x.new_empty(x.shape[:2])
            check(library.statecast_score(ctypes.byref(arguments(head, values, score=at(score)))))
            return score

        backward: Any = staticmethod(torch.autograd.function.once_differentiable(gradients))

    return Score


@cache
def _doubles(values: tuple[float, ...]) -> Any:
    """The address of an array of doubles, which is kept as long as the process runs."""
    return ctypes.cast((ctypes.c_double * len(values))(*values), ctypes.c_void_p)
