"""The native kernel in PyTorch: an ``autograd.Function`` on the memory of tensors."""

from __future__ import annotations

import ctypes
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np

from statecast.errors import KernelError
from statecast.recurrence.kernels.native import threads
from statecast.recurrence.kernels.native.calls import (
    FLAGS,
    Call,
    by_loop,
    call_of,
    is_matrix,
    matrices_of,
    order_of,
    outputs_of,
    run_backward,
    run_forward,
    save_at,
    saved_bytes,
    shapes_of,
    states_above,
)


def declines(*tensors: Any) -> str | None:
    """Why the library cannot compute on the memory of tensors; None where it can."""
    import torch
    from torch.autograd import forward_ad
    from torch.utils import _python_dispatch

    if torch.compiler.is_compiling():
        return "torch.compile or torch.export is tracing"
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return "torch.jit.trace records PyTorch's operations only"
    if _python_dispatch._get_current_dispatch_mode() is not None:
        return "a dispatch mode is active, which handles PyTorch's operations only"
    if forward_ad._current_level >= 0:
        return "it has no derivatives in forward mode"
    plain = (torch.Tensor, torch.nn.Parameter)
    for tensor in tensors:
        if type(tensor) in plain and tensor.is_cpu and tensor.layout == torch.strided:
            if torch._is_functional_tensor(tensor):  # pyright: ignore[reportPrivateImportUsage]
                return "functionalize records PyTorch's operations only"
            continue
        if not isinstance(tensor, torch.Tensor):
            continue
        if type(tensor) not in plain:
            return f"it takes plain tensors, not {type(tensor).__name__}"
        if tensor.device.type == "meta":
            return "shapes are only being inferred"
        if tensor.device.type != "cpu":
            return f"the tensors are on {tensor.device}"
        return f"it takes strided tensors, not {tensor.layout}"
    if not isinstance(tensors[0], torch.Tensor) and torch.cuda.is_available():
        return "PyTorch runs on cuda"
    return None


def run(cell: Any, values: dict[str, Any]) -> list[Any]:
    """The results of a call, in the order of ``outputs_of``. ``values`` broadcast."""
    import torch

    values = {n: torch.as_tensor(v) for n, v in values.items()}
    shapes, dtypes = _shapes(cell, values["x"]), _dtypes(cell, values)
    tensors = []
    for n in order_of(cell):
        value = values.get(n)
        if value is not None:
            if value.shape != shapes[n]:
                value = value.broadcast_to(shapes[n])
            value = dense(value, _dtype_of(n, dtypes))
        tensors.append(value)
    return [v for v in _apply(cell, False, tensors) if v is not None]


def _dtypes(cell: Any, values: Mapping[str, Any]) -> tuple[Any, Any]:
    """The dtypes that the library takes: of numbers, and of matrices."""
    import torch

    if values["x"].dtype == torch.float64:
        return torch.float64, torch.float64
    halved = all(values[n].dtype == torch.bfloat16 for n in matrices_of(cell))
    return torch.float32, torch.bfloat16 if halved else torch.float32


def _dtype_of(name: str, dtypes: tuple[Any, Any]) -> Any:
    import torch

    return torch.bool if name in FLAGS else dtypes[is_matrix(name)]


def _shapes(cell: Any, x: Any) -> Mapping[str, tuple[int, ...]]:
    *lead, rows, steps, inputs = x.shape
    return shapes_of(cell, tuple(lead), (rows, steps, inputs))


def _apply(cell: Any, learns: bool, tensors: list[Any]) -> tuple[Any, ...]:
    """``_given_of``, and ``saved``; None for results that the call does not have, and for
    ``saved`` unless ``learns``."""
    import torch

    needed = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    function = _recurrence()
    apply = function.apply
    # Outside of transforms, PyTorch's work for them is skipped: it takes a tenth of the time of a
    # small step.
    if not transforms_active():
        plain: Any = super(torch.autograd.Function, function)
        apply = plain.apply
    *found, saved = apply(cell, learns or needed, *tensors)
    return *found, saved if learns else None


def transforms_active() -> bool:
    """Whether a transform of torch.func is under way."""
    import torch

    return torch._C._are_functorch_transforms_active()


def dense(tensor: Any, dtype: Any) -> Any:
    """A PyTorch tensor of ``dtype``, contiguous, whose memory holds its numbers as they are."""
    if tensor.dtype != dtype:
        tensor = tensor.to(dtype)
    tensor = tensor.contiguous()
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def address_of(tensor: Any) -> int:
    """The address of a dense PyTorch tensor.

    Raises
    ------
    KernelError
        The tensor has no memory of its own.
    """
    found = tensor.data_ptr()
    if found:
        return found
    if tensor.numel():
        raise KernelError(
            "The native kernel failed: it received a PyTorch tensor of shape "
            f"{tuple(tensor.shape)} without memory of its own."
        )
    return ctypes.addressof(_EMPTY)


_EMPTY = ctypes.create_string_buffer(8)  # PyTorch gives empty tensors no address


def _have_memory(tensors: Any) -> bool:
    """Whether all tensors have memory of their own. Tensors that outlive a transform do not, nor do
    the batches of ``torch.autograd.grad(is_grads_batched=True)``."""
    try:
        for tensor in tensors:
            if tensor is not None:
                tensor.data_ptr()
    except RuntimeError:
        return False
    return True


# Memory that no tensor uses now, for the numbers that a forward pass saves, by size and dtype. New
# pages from the system take longer than the kernel. There is no lock, which a fork could leave
# held: operations of a deque are atomic.
_unused: dict[tuple[int, Any], deque[Any]] = {}


class _Reused(np.ndarray):
    """The memory of a tensor, whose storage refers to this array.

    When the last tensor on the memory is deleted, by autograd, a hook or a user, this array is
    deleted too, and the memory can be used again.
    """

    owner: Any = None  # the tensor that owns the memory

    def __del__(self) -> None:
        if self.owner is None:  # a view of another array of this class
            return
        key = len(self), self.owner.dtype
        _unused.setdefault(key, deque(maxlen=4)).append(self.owner)
        for old in list(_unused)[:-8]:  # sizes no longer in use
            _unused.pop(old, None)


def _reused_tensor(shape: tuple[int, ...], dtype: Any) -> Any:
    """An uninitialized tensor, in unused memory if there is some."""
    import torch

    size = math.prod(shape)
    if not size:
        return torch.empty(shape, dtype=dtype)
    try:
        memory = _unused[size, dtype].pop()
    except (KeyError, IndexError):
        memory = torch.empty(size, dtype=dtype)
    array = memory.numpy().view(_Reused)
    array.owner = memory
    return torch.from_numpy(array).view(shape)


# The results of a call that the backward pass reads.
_HELD = ("y", "fed", "saved")


def _given_of(cell: Any) -> tuple[str, ...]:
    """The results whose gradients the backward pass receives."""
    return ("y", "fed", "hn", "cn", *states_above(cell))


# -- calls of the library ---------------------------------------------------------------------


def _call_of(cell: Any, values: Mapping[str, Any]) -> Call:
    """The arguments of a call on the memory of dense tensors."""
    x = values["x"]
    pointers = {n: address_of(v) for n, v in values.items()}
    host = {"threads": threads.of_torch(), "openmp": threads.openmp()}
    dtype = str(_dtypes(cell, values)[1]).removeprefix("torch.")
    return call_of(cell, dtype, x.shape, **pointers, **host)


def _saved_shape(call: Call, x: Any) -> tuple[int, ...]:
    """The shape of what is saved for the backward pass, in numbers of x's dtype: the axes of
    members, and the numbers of one member."""
    lead = x.shape[:-3]
    numbers = saved_bytes(call) // x.element_size()
    return *lead, numbers // max(math.prod(lead), 1)


def _forward(cell: Any, saves: bool, values: Mapping[str, Any]) -> dict[str, Any]:
    """The results by name; ``saved`` is one of them if ``saves``."""
    x, shapes = values["x"], _shapes(cell, values["x"])
    outputs = {n: x.new_empty(shapes[n]) for n in outputs_of(cell, values)}
    call = _call_of(cell, {**values, **outputs})
    if saves:
        outputs["saved"] = _reused_tensor(_saved_shape(call, x), x.dtype)
        save_at(call, address_of(outputs["saved"]))
    run_forward(call)
    return outputs


def _backward(
    cell: Any,
    dx: bool,
    values: Mapping[str, Any],
    held: Mapping[str, Any],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """The gradients by the names of the values, that of x only if ``dx``.

    ``held`` are the results of the forward pass that autograd saved, ``given`` the gradients of
    its results.
    """
    import torch

    if "saved" not in held:  # the forward pass did not know that there would be a backward pass
        found = _forward(cell, True, values)
        held = {n: found[n] for n in _HELD if n in found}
    call = _call_of_saved(cell, values, held)
    numbers = values["x"].dtype
    found = {
        n: torch.empty_like(v, dtype=numbers)
        for n, v in values.items()
        if n not in FLAGS and (dx or n != "x")
    }
    run_backward(call, {n: address_of(v) for part in (given, found) for n, v in part.items()})
    return {n: gradient.to(values[n].dtype) for n, gradient in found.items()}


def _call_of_saved(cell: Any, values: Mapping[str, Any], held: Mapping[str, Any]) -> Call:
    """The arguments of the forward pass again, on tensors that autograd saved.

    Raises
    ------
    KernelError
        A hook of saved tensors returned one of another shape.
    """
    x, saved = values["x"], held["saved"]
    read = {n: v for n, v in {**values, **held}.items() if n != "saved"}
    shapes = _shapes(cell, x) if x.ndim > 2 else {}
    wrong = [n for n, v in read.items() if v.shape != shapes.get(n)]
    if not wrong:
        call = _call_of(cell, read)
        if saved.shape == _saved_shape(call, x):
            save_at(call, address_of(saved))
            return call
    raise KernelError(
        "The native kernel failed: the tensors saved for the backward pass were returned with "
        f"other shapes ({', '.join(wrong) or 'saved'}). Hooks of saved tensors have to return the "
        "shape that they were given."
    )


# -- the calls as functions of autograd -------------------------------------------------------
#
# No address is kept after a call. Between forward and backward the tensors belong to autograd. Its
# hooks, and checkpoints, may replace them by others with the same numbers, so the backward pass
# reads all addresses again.


@cache
def _recurrence() -> Any:
    """The recurrence as an ``autograd.Function``: ``cell, learns, *values`` to ``_given_of`` and
    ``saved``, this only if ``learns``."""
    import torch

    class Recurrence(torch.autograd.Function):
        @staticmethod
        def forward(*inputs: Any) -> Any:
            cell, learns, *tensors = inputs
            values = {n: v for n, v in zip(order_of(cell), tensors, strict=True) if v is not None}
            found = _forward(cell, learns, values)
            return tuple(found.get(n) for n in (*_given_of(cell), "saved"))

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.cell, learns, *tensors = inputs
            names = order_of(ctx.cell)
            ctx.dtypes = _dtypes(ctx.cell, dict(zip(names, tensors, strict=True)))
            y, fed, *_, saved = output
            if learns:
                ctx.mark_non_differentiable(saved)
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors, y, fed, saved)

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            wanted = ctx.needs_input_grad[2:]
            found = _gradients(ctx, wanted[0], cotangents[:-1])
            asked = zip(order_of(ctx.cell), wanted, strict=True)
            return None, None, *(found.get(n) if want else None for n, want in asked)

        @staticmethod
        def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
            cell, learns, *tensors = inputs
            found = _apply(cell, learns, _batched(info, in_dims[2:], tensors))
            return found, tuple(None if v is None else 0 for v in found)

    return Recurrence


def _gradients(ctx: Any, dx: bool, given: tuple[Any, ...]) -> dict[str, Any]:
    """The gradients of the values, by name, from those ``given`` of ``_given_of``: by the library
    where it can, and in a way that can be differentiated again where this is asked for."""
    import torch

    tensors = (*ctx.saved_tensors, *given)
    if not transforms_active() and not _have_memory(given):
        values, _, of_outputs = _parts(ctx.cell, ctx.dtypes, tensors)
        return _gradients_by_loop(ctx.cell, values, of_outputs)
    if torch.is_grad_enabled() or transforms_active() or not _have_memory(tensors):
        found = _backward_pass().apply(ctx.cell, dx, ctx.dtypes, *tensors)
        return dict(zip(order_of(ctx.cell), found, strict=True))
    return _backward(ctx.cell, dx, *_parts(ctx.cell, ctx.dtypes, tensors))


@cache
def _backward_pass() -> Any:
    """The backward pass as an ``autograd.Function``: ``cell, dx, dtypes``, the values, ``_HELD``
    and the gradients of ``_given_of`` to the gradients of the values; None where there are none."""
    import torch

    class BackwardPass(torch.autograd.Function):
        @staticmethod
        def forward(*inputs: Any) -> Any:
            cell, dx, dtypes, *tensors = inputs
            found = _backward(cell, dx, *_parts(cell, dtypes, tensors))
            return tuple(found.get(n) for n in order_of(cell))

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.cell, _, ctx.dtypes, *tensors = inputs
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors)

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            values, _, given = _parts(ctx.cell, ctx.dtypes, ctx.saved_tensors)
            order = order_of(ctx.cell)
            pairs = zip(order, cotangents, strict=True)
            asked = {n: v for n, v in pairs if v is not None}
            found = _second_derivatives(ctx.cell, values, given, asked)
            of_values = [found.get(n) for n in order]
            of_given = [found.get(f"d{n}") for n in _given_of(ctx.cell)]
            return None, None, None, *of_values, *(None for _ in _HELD), *of_given

        @staticmethod
        def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
            found = BackwardPass.apply(*inputs[:3], *_batched(info, in_dims[3:], inputs[3:]))
            return found, tuple(None if v is None else 0 for v in found)

    return BackwardPass


def _parts(
    cell: Any, dtypes: tuple[Any, Any], tensors: Iterable[Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The values, the held results and the given gradients that are not None, dense, by name."""
    parts: tuple[dict[str, Any], ...] = ({}, {}, {})
    rest = iter(tensors)
    every = (order_of(cell), _HELD, _given_of(cell))
    for names, part in zip(every, parts, strict=True):
        for n in names:
            tensor = next(rest)
            if tensor is not None:
                part[n] = dense(tensor, _dtype_of(n, dtypes))
    values, held, given = parts
    return values, held, given


def _batched(info: Any, dims: Any, tensors: Any) -> list[Any]:
    """The tensors with the axis that vmap removed as their first one: an axis of members."""

    def first(tensor: Any, dim: int | None) -> Any:
        if dim is None:
            return tensor.expand(info.batch_size, *tensor.shape)
        return tensor.movedim(dim, 0)

    pairs = zip(tensors, dims, strict=True)
    return [None if v is None else first(v, dim).contiguous() for v, dim in pairs]


# -- derivatives of derivatives, by the loop kernel -------------------------------------------


def _gradients_by_loop(
    cell: Any, values: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The gradients of the values from those ``given`` of the results, by the loop kernel, which
    PyTorch can differentiate and transform again."""
    flags = {n: v for n, v in values.items() if n in FLAGS}
    floats = {n: v for n, v in values.items() if n not in FLAGS}
    names = outputs_of(cell, values)

    def outputs(*tensors: Any) -> tuple[Any, ...]:
        found = by_loop(cell, dict(zip(floats, tensors, strict=True)) | flags)
        return tuple(y for n, y in zip(names, found, strict=True) if n in given)

    vjp = _vjp(outputs, tuple(floats.values()))
    return dict(zip(floats, vjp(tuple(given[n] for n in names if n in given)), strict=True))


def _second_derivatives(
    cell: Any, values: Mapping[str, Any], given: Mapping[str, Any], cotangents: Mapping[str, Any]
) -> dict[str, Any]:
    """Second derivatives: the gradients of the values, and as "dy" and the like those of ``given``,
    from the ``cotangents`` of the gradients of the values."""
    flags = {n: v for n, v in values.items() if n in FLAGS}
    floats = [n for n in values if n not in FLAGS]

    def gradients(*tensors: Any) -> tuple[Any, ...]:
        now = dict(zip([*floats, *given], tensors, strict=True))
        found = _gradients_by_loop(
            cell, {n: now[n] for n in floats} | flags, {n: now[n] for n in given}
        )
        return tuple(found[n] for n in floats if n in cotangents)

    vjp = _vjp(gradients, (*(values[n] for n in floats), *given.values()))
    found = vjp(tuple(cotangents[n] for n in floats if n in cotangents))
    return dict(zip([*floats, *(f"d{n}" for n in given)], found, strict=True))


def _vjp(function: Callable[..., tuple[Any, ...]], primals: tuple[Any, ...]) -> Any:
    """``torch.func.vjp(function, *primals)[1]``. Outside of PyTorch's transforms it is made with
    autograd, since torch.func does not run with hooks of saved tensors."""
    import torch

    if transforms_active():
        return torch.func.vjp(function, *primals)[1]
    with torch.enable_grad():
        # Views, so that the results depend on the primals, for further derivatives.
        views = [v.view_as(v) for v in primals]
        roots = [v if v.requires_grad else v.detach().requires_grad_() for v in views]
        outputs = function(*roots)

    def vjp(cotangents: tuple[Any, ...]) -> tuple[Any, ...]:
        pairs = [(y, ct) for y, ct in zip(outputs, cotangents, strict=True) if y.requires_grad]
        if not pairs:  # zero steps: no output depends on a primal
            return tuple(map(torch.zeros_like, roots))
        ends, given = zip(*pairs, strict=True)
        found = torch.autograd.grad(ends, roots, given, create_graph=True, allow_unused=True)
        return tuple(
            torch.zeros_like(v) if g is None else g for g, v in zip(found, roots, strict=True)
        )

    return vjp
