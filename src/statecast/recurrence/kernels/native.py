"""The native kernel: our own recurrence for CPUs, written in C++ (``native/``).

It runs LSTM, GRU and SimpleRNN, stacks of them and ensembles, with masks and resets,
forward and backward, inside JAX (through XLA's custom calls, without a copy), in PyTorch,
and on NumPy arrays by themselves (``Prepared``). What it cannot run it declines.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from statecast.errors import ArgumentError, KernelError, StateError
from statecast.recurrence.cells import GRU, LSTM, ClosedLoop, Gated, SimpleRNN, Stack, within
from statecast.recurrence.kernels import threads
from statecast.recurrence.kernels.threads import MOST

if TYPE_CHECKING:
    from statecast.recurrence.problem import Problem

name = "native"

_CODES: Mapping[type, int] = {SimpleRNN: 0, GRU: 1, LSTM: 2}
DTYPES = {"float32": 0, "float64": 1}
_STATUS = {
    1: "the library refused the buffers",
    2: "the problem is too large: a buffer's size overflows",
    3: "out of memory",
}


# -- the library -----------------------------------------------------------------------------

# What every call says of threads.
HOST = (("threads", ctypes.c_int64), ("openmp", ctypes.c_void_p))


class _Forward(ctypes.Structure):
    """``statecast_forward_args`` of native/statecast.h."""

    _fields_ = [
        *((field, ctypes.c_int64) for field in ("cell", "dtype")),
        *((field, ctypes.c_int64) for field in ("members", "rows", "steps", "inputs", "units")),
        *((field, ctypes.c_int64) for field in ("codes", "sources")),
        *((field, ctypes.c_void_p) for field in ("x", "w", "u", "bias", "h0", "c0")),
        *((field, ctypes.c_void_p) for field in ("code", "source")),
        *((field, ctypes.c_void_p) for field in ("mask", "resets", "hr", "cr")),
        *((field, ctypes.c_void_p) for field in ("observed", "feed", "base", "decay", "last")),
        *((field, ctypes.c_void_p) for field in ("packed", "y", "fed", "hn", "cn", "saved")),
        *HOST,
    ]


class _Backward(ctypes.Structure):
    """``statecast_backward_args`` of native/statecast.h."""

    _fields_ = [
        ("forward", _Forward),
        *((field, ctypes.c_void_p) for field in ("dy", "dfed", "dhn", "dcn")),
        *((field, ctypes.c_void_p) for field in ("dx", "dw", "du", "dbias")),
        *((field, ctypes.c_void_p) for field in ("dh0", "dc0", "dhr", "dcr")),
        *((field, ctypes.c_void_p) for field in ("dfeed", "dbase", "ddecay", "dlast")),
    ]


@cache
def _library() -> Any:
    """The loaded library, or, as text, why there is none."""
    from statecast.recurrence import kernels

    threads.check_environment()
    # An editable install has the modules in one folder and the library in another.
    places = [Path(folder) / "libstatecast.so" for folder in kernels.__path__]
    if "STATECAST_LIBRARY" in os.environ:  # another build, for measuring and checking
        places = [Path(os.environ["STATECAST_LIBRARY"])]
    for path in places:
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
            except OSError as error:
                return f"its library does not load ({error})"
            library.statecast_used.restype = ctypes.c_char_p
            library.statecast_built.restype = ctypes.c_char_p
            library.statecast_use.argtypes = [ctypes.c_char_p]
            library.statecast_run.argtypes = [
                ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, *[ctypes.c_void_p] * 4,
                ctypes.c_int64, *[ctypes.c_void_p] * 4,
            ]  # fmt: skip
            library.statecast_threads.argtypes = [ctypes.c_int64]
            for buffer in ("saved", "packed", "softmax"):
                getattr(library, f"statecast_{buffer}_bytes").restype = ctypes.c_int64
            return library
    return "it was not built, for want of a C++ compiler when Statecast was installed"


def status() -> str:
    """What the kernel runs on, "avx512, 2 threads", or why it is not there."""
    library = _library()
    if isinstance(library, str):
        return library
    count = library.statecast_threads(threads.told(threads.of_started()))
    return f"{library.statecast_used().decode()}, {count} threads"


def use(instructions: str = "", threads: int = 0) -> None:
    """Choose an instruction set by name ("" for the best) and the threads of a call (0: as many
    as docs/threads.md says); for measuring, since the defaults are the fastest.

    Raises
    ------
    ArgumentError
        The machine or the build has not got the instruction set, or ``threads`` is no whole number
        from 0 to 1024.
    KernelError
        There is no native kernel.
    """
    library = loaded()
    whole = isinstance(threads, (int, np.integer)) and not isinstance(threads, bool)
    if not whole or not 0 <= threads <= MOST:
        raise ArgumentError(
            f"threads: expected a whole number from 0 to {MOST}, received {threads!r}."
        )
    if library.statecast_use(instructions.encode()):
        raise ArgumentError(
            f"instructions: built are {library.statecast_built().decode()}, and this machine may "
            f"lack the first of them; received {instructions!r}."
        )
    library.statecast_set_threads(int(threads))


def loaded() -> Any:
    library = _library()
    if isinstance(library, str):
        raise KernelError(f"The native kernel cannot run: {library}.")
    return library


def check(status: int) -> None:
    if status:
        raise KernelError(f"The native kernel failed: {_STATUS[status]}.")


# -- behind the seam ---------------------------------------------------------------------------


def declines(problem: Problem) -> str | None:
    """Why this kernel cannot run ``problem`` on the current backend; None where it can."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        return "TensorFlow keeps its own recurrence"
    library = _library()
    if isinstance(library, str):
        return library
    cell: Any = problem.cell
    if isinstance(cell, ClosedLoop):
        if isinstance(cell.cell, Stack) and len(cell.cell.cells) > 1:
            return "its closed loop goes through one layer"
        if problem.resets is not None:
            return "its closed loop knows no resets"
        cell = cell.cell
    reason = _cell_declines(cell)
    if reason is not None:
        return reason
    if problem.unroll:
        return "unroll was asked for"
    others = (problem.mask, problem.resets, *problem.weights.values(), *problem.state.values())
    return tensors_decline(problem.x, *others, *(problem.initial or {}).values())


def tensors_decline(tensor: Any, *others: Any) -> str | None:
    """Why the library cannot take JAX or PyTorch tensors where they lie; None where it can. The
    dtype of the first one counts."""
    import keras

    library = _library()
    if isinstance(library, str):
        return library
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        return f"it computes in float32 and float64, not {dtype}"
    if keras.backend.backend() == "jax":
        return _jax_declines(library)
    return _torch_declines(tensor, *others)


def _cell_declines(cell: Any) -> str | None:
    for part in cell.cells if isinstance(cell, Stack) else [cell]:
        if type(part) not in _CODES:
            return f"it has no {type(part).__name__}"
        if part.activation != "tanh":
            return f"the activation is {part.activation!r}, not 'tanh'"
        recurrent = getattr(part, "recurrent_activation", "sigmoid")
        if recurrent != "sigmoid":
            return f"the recurrent activation is {recurrent!r}, not 'sigmoid'"
        if not getattr(part, "reset_after", True):
            return "reset_after is False"
    return None


def refuses(cell: Any) -> str | None:
    """Why ``Recurrence`` cannot run a cell here; None where it can."""
    library = _library()
    return library if isinstance(library, str) else _cell_declines(cell)


def run(problem: Problem) -> tuple[Any, dict[str, Any]]:
    """All steps of ``problem``: outputs ``(..., rows, steps, out)`` and the last leaves."""
    if isinstance(problem.cell, ClosedLoop):
        return _run_closed(problem, problem.cell)
    if isinstance(problem.cell, Stack):  # over the whole sequence, one cell after the other
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
    values = _values(problem)
    if problem.resets is not None:
        values |= {f"{leaf}r": value for leaf, value in (problem.initial or {}).items()}
        values["resets"] = problem.resets
    cell: Any = problem.cell
    y, *leaves = _call(cell, values)
    return y, dict(zip(cell.state_shapes, leaves, strict=True))


def _run_closed(problem: Problem, loop: ClosedLoop) -> tuple[Any, dict[str, Any]]:
    from keras import ops

    cell, prefix = loop.cell, "cell"
    if isinstance(cell, Stack):
        cell, prefix = cell.cells[0], "cell/0"
    own = replace(
        problem,
        cell=cell,
        weights=within(problem.weights, prefix),
        state=within(problem.state, prefix),
    )
    last, base = (problem.state[leaf][..., 0] for leaf in ("last", "base"))
    values = _values(own) | {"observed": problem.x[..., 1] > 0, "last": last, "base": base}
    values |= {"feed": problem.weights["feed"][..., 0], "decay": problem.weights["decay"][..., 0]}
    y, fed, *leaves = _call(cell, values)
    after = dict(zip((f"{prefix}/{n}" for n in cell.state_shapes), leaves, strict=True))
    after |= {leaf: problem.state[leaf] for leaf in ("last", "base")}
    if problem.x.shape[-2]:
        after["last"] = fed[..., -1:]
        if problem.mask is not None:  # before the first step that counts the output is zero
            seen = ops.cumsum(ops.cast(problem.mask, "int32"), axis=-1) > 0
            fed = ops.where(seen, fed, 0.0)
    return ops.concatenate([y, fed[..., None]], axis=-1), after


def _values(problem: Problem) -> dict[str, Any]:
    """By the library's names, what every problem has."""
    weights = problem.weights
    values = {"x": problem.x, "w": weights["kernel"], "u": weights["recurrent_kernel"]}
    values |= {f"{leaf}0": value for leaf, value in problem.state.items()}
    options = {"bias": weights.get("bias"), "mask": problem.mask}
    return values | {n: value for n, value in options.items() if value is not None}


def _call(cell: Gated, values: dict[str, Any]) -> Any:
    """y, with a closed loop the numbers fed, and the last leaves."""
    import keras

    entry = _jax_entry() if keras.backend.backend() == "jax" else _torch_run
    return entry(cell, values)


@lru_cache
def _shapes(
    cell: Gated, lead: tuple[int, ...], sizes: tuple[int, int, int]
) -> Mapping[str, tuple[int, ...]]:
    """The shape of every value, of members ``lead`` and sizes (rows, steps, inputs)."""
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


# The library's name for the gradient of an output, as _HAS has it.
_COTANGENTS = {"y": "dy", "fed": "dfed", "hn": "dh", "cn": "dc"}


def _outputs(cell: Gated, values: Mapping[str, Any]) -> list[str]:
    """The outputs of a call, by the library's names, in its order."""
    return ["y", *["fed"] * ("observed" in values), *(f"{leaf}n" for leaf in cell.state_shapes)]


def _arguments(cell: Gated, dtype: str, shape: tuple[int, ...], **pointers: int) -> _Forward:
    """The library's arguments for an x of a shape."""
    *lead, rows, steps, inputs = shape
    return _Forward(
        _CODES[type(cell)], DTYPES[dtype], math.prod(lead), rows, steps, inputs, cell.units,
        **pointers,
    )  # fmt: skip


def _saved_bytes(arguments: _Forward) -> int:
    size = loaded().statecast_saved_bytes(ctypes.byref(arguments))
    if size < 0:
        raise KernelError(f"The native kernel declines: {_STATUS[2]}.")
    return size


def _by_loop(cell: Gated, values: Mapping[str, Any]) -> tuple[Any, ...]:
    """The same by the loop kernel, which may be differentiated any number of times."""
    from statecast.recurrence.kernels import loop
    from statecast.recurrence.problem import Problem

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


# -- NumPy ---------------------------------------------------------------------------------------


class Recurrence:
    """A cell and its weights, to run on NumPy arrays without a backend: for serving.

    The weights are copied and laid out once, so that a step of one row takes microseconds.
    It may be used from several threads at once.

    Parameters
    ----------
    cell : LSTM, GRU, SimpleRNN or Stack
        Of ``statecast.cells``, with Keras's default activations.
    weights : mapping of str to array
        As ``cell.weight_shapes`` names and shapes them.
    dtype : {"float32", "float64"}
    codes : int
        The last so many rows of the first kernel belong to codes, tokens for example. ``x`` then
        has that many numbers fewer, and ``code`` says at each step which of those rows is added:
        a one-hot vector that is not written out.

    To another process goes what it was made from: it cannot be pickled itself.

    Raises
    ------
    ArgumentError
        Another cell or dtype, or weights that are not the cell's.
    KernelError
        There is no native kernel.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Recurrence
    >>> from statecast.recurrence.cells import GRU
    >>> weights = {name: np.zeros(shape) for name, shape in GRU(2).weight_shapes(3).items()}
    >>> y, state = Recurrence(GRU(2), weights).run(np.ones((4, 5, 3)), {"h": np.ones((4, 2))})
    >>> y.shape, float(state["h"][0, 0])
    ((4, 5, 2), 0.03125)

    Two of x's three numbers as codes, and three rows that go on from one of the state:

    >>> step = Recurrence(GRU(2), weights, codes=2).step
    >>> code, source = np.array([0, 1, 1]), np.array([2, 2, 2])
    >>> y, state = step(np.ones((3, 1)), {"h": np.ones((4, 2))}, code, source)
    >>> state["h"].shape
    (3, 2)
    """

    def __init__(
        self, cell: Any, weights: Mapping[str, Any], *, dtype: str = "float32", codes: int = 0
    ) -> None:
        if dtype not in DTYPES:
            raise ArgumentError(f"dtype: expected float32 or float64, received {dtype!r}.")
        reason = _cell_declines(cell)
        if reason is not None:
            raise ArgumentError(f"cell: the native kernel cannot run {cell!r}: {reason}.")
        first = "0/kernel" if isinstance(cell, Stack) else "kernel"
        width = int(np.shape(weights[first])[0]) if first in weights else 0
        expected = cell.weight_shapes(width)
        found = {weight: np.shape(value) for weight, value in weights.items()}
        if found != expected:
            raise ArgumentError(f"weights: expected the shapes {expected}, received {found}.")
        whole = isinstance(codes, (int, np.integer)) and not isinstance(codes, bool)
        if not whole or not 0 <= codes <= width:
            raise ArgumentError(
                f"codes: expected a whole number up to the {width} numbers of x that the weights "
                f"have, received {codes!r}."
            )
        self.cell, self.dtype = cell, np.dtype(dtype)
        self.codes, self.width = int(codes), width - int(codes)
        if isinstance(cell, Stack):
            self._parts = [
                _Packed(
                    part, f"{layer}/", within(weights, layer), dtype, 0 if layer else self.codes
                )
                for layer, part in enumerate(cell.cells)
            ]
        else:
            self._parts = [_Packed(cell, "", weights, dtype, self.codes)]

    def step(
        self,
        x: np.ndarray,
        state: Mapping[str, np.ndarray],
        code: np.ndarray | None = None,
        source: np.ndarray | None = None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """One step: x ``(rows, width)``, with codes also ``code (rows,)``, and leaves
        ``(rows, units)`` to the output ``(rows, units)`` and the next leaves. Raises as ``run``
        does.

        With ``source (rows,)``, whole numbers, the leaves may have any number of rows, and row i
        goes on from their row ``source[i]``. The results have the same bits as from
        ``leaf[source]``; rows that go on from the same one, as a beam's do, share its product
        with the weights.
        """
        x = _numbers("x", x, self.dtype)
        if source is not None:
            source = _whole("source", source, x.shape[:1])
        return self._run(x, 2, state, code, source)

    def run(
        self, x: np.ndarray, state: Mapping[str, np.ndarray], code: np.ndarray | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """All steps of x.

        Parameters
        ----------
        x : array, ``(rows, steps, width)``
        state : mapping of str to array, ``(rows, units)``
            Where the first step starts; it is left as it is.
        code : array of whole numbers, ``(rows, steps)``
            With ``codes``, which of them comes at each step, from 0.

        Returns
        -------
        y : array, ``(rows, steps, units)``
        state : dict of str to array
            What the last step left.

        Raises
        ------
        ArgumentError
            x or code has another shape, or a code is none of them.
        StateError
            Other leaves, or other shapes of them.
        """
        return self._run(_numbers("x", x, self.dtype), 3, state, code, None)

    def _run(
        self, x: np.ndarray, axes: int, state: Mapping[str, Any], code: Any, source: Any
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        if x.ndim != axes or x.shape[-1] != self.width:
            steps = "" if axes == 2 else " steps,"
            others = f" beside code for the other {self.codes}" if self.codes else ""
            raise ArgumentError(
                f"x: expected (rows,{steps} {self.width}){others}, received {x.shape}."
            )
        if type(state) is not dict and not isinstance(state, Mapping):  # which is slower to ask
            names = [name for part in self._parts for name in part.labels]
            raise StateError(
                f"state: expected a mapping of the leaves {names}, received {type(state).__name__}."
            )
        if code is None and self.codes:
            raise ArgumentError(
                f"code: expected one of {self.codes} at each step, as whole numbers; received none."
            )
        if code is not None and not self.codes:
            raise ArgumentError(
                "code: expected none, for there are no codes; make it with codes=..."
            )
        if code is not None:
            code = _whole("code", code, x.shape[:-1])
        after: dict[str, np.ndarray] = {}
        y = x
        for part in self._parts:
            y, code = part.run(y, state, code, source, after), None
        if len(state) != len(after):
            raise StateError(f"state: expected the leaves {list(after)}, received {list(state)}.")
        return y, after


def _numbers(name: str, value: Any, dtype: np.dtype) -> np.ndarray:
    if type(value) is not np.ndarray or value.dtype.kind not in "fiub":
        try:
            value = np.asarray(value)
        except ValueError:  # rows of unlike lengths
            value = np.asarray(None)
        if value.dtype.kind not in "fiub":
            raise ArgumentError(f"{name}: expected an array of numbers, received {value.dtype}.")
    return np.ascontiguousarray(value, dtype)


def _whole(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    value = np.asarray(value)
    if value.shape != shape or (value.size and value.dtype.kind not in "iu"):
        raise ArgumentError(
            f"{name}: expected whole numbers of shape {shape}, received {value.dtype} of shape "
            f"{value.shape}."
        )
    return np.ascontiguousarray(value, np.int64)


class _Packed:
    """One cell with its weights laid out; ``prefix`` goes before its leaves' names."""

    def __init__(
        self, cell: Gated, prefix: str, weights: Mapping[str, Any], dtype: str, codes: int
    ) -> None:
        self.library, self.dtype, self.units = loaded(), np.dtype(dtype), cell.units
        names = [prefix + leaf for leaf in cell.state_shapes]
        self.labels = {name: f"state: leaf {name!r}" for name in names}
        values = {name: np.ascontiguousarray(w, dtype) for name, w in weights.items()}
        own = {"w": values["kernel"], "u": values["recurrent_kernel"], "bias": values.get("bias")}
        shape = (1, 0, 0, len(own["w"]) - codes)
        pointers = {n: address(value) for n, value in own.items() if value is not None}
        arguments = _arguments(cell, dtype, shape, codes=codes, **pointers)
        size = self.library.statecast_packed_bytes(ctypes.byref(arguments))
        if size < 0:
            raise KernelError(f"The native kernel failed: {_STATUS[2]}.")
        self.memory = np.empty(size, np.uint8)
        packed = address(self.memory)
        check(self.library.statecast_pack(ctypes.byref(arguments), ctypes.c_void_p(packed)))
        self.fixed = _arguments(cell, dtype, shape, codes=codes, packed=packed)
        self.started = threads.of_started()
        self.pointer = ctypes.byref(self.fixed)

    def run(
        self, x: np.ndarray, state: Mapping[str, Any], code: Any, source: Any, after: dict[str, Any]
    ) -> np.ndarray:
        """The output, as ``x`` with steps or without; the next leaves go into ``after``."""
        rows, units = x.shape[0], self.units
        steps = x.shape[1] if x.ndim == 3 else 1
        expected = None if source is not None else (rows, units)
        before = []
        for name, label in self.labels.items():
            leaf = _numbers(label, state.get(name, _NONE), self.dtype)
            expected = expected or (len(leaf), units)
            if leaf.shape != expected:
                found = leaf.shape if name in state else "none"
                raise StateError(f"{label}: expected {expected}, received {found}.")
            before.append(leaf)
        sources = 0 if source is None else len(before[0])
        # To ask an array for its address takes time: one array for all that comes out.
        leaves, size = len(before), rows * units
        out = np.empty((leaves + steps, rows, units), self.dtype)
        start, each = address(out), size * self.dtype.itemsize
        h = address(before[0])
        c = address(before[1]) if leaves == 2 else None
        codes_at = None if code is None else address(code)
        source_at = None if source is None else address(source)
        y = start + leaves * each
        self.fixed.threads = threads.told(self.started)
        status = self.library.statecast_run(
            self.pointer, rows, steps, address(x), codes_at, h, c, sources, source_at, y, start,
            start + each,
        )  # fmt: skip
        if status:
            given = (("code", code, self.fixed.codes), ("source", source, sources))
            for name, chosen, end in given:
                if chosen is None or not chosen.size or 0 <= chosen.min() <= chosen.max() < end:
                    continue
                wanted = f"numbers from 0 to {end - 1}" if end else "none, as the state has no rows"
                raise ArgumentError(
                    f"{name}: expected {wanted}; received {chosen.min()} to {chosen.max()}."
                )
            check(status)
        for name, leaf in zip(self.labels, out, strict=False):
            after[name] = leaf
        return out[leaves:].reshape(*x.shape[:-1], units)


_NONE = np.empty(0)


def address(array: Any) -> int:
    """The address of a contiguous NumPy array."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):  # read-only, or empty: three times slower
        return array.__array_interface__["data"][0]


# -- JAX -----------------------------------------------------------------------------------------

# What a call has, as jax.cpp reads it.
_HAS = {"bias": 1, "mask": 2, "resets": 4, "saved": 8, "dx": 16, "dy": 32, "dh": 64, "dc": 128}
_HAS |= {"observed": 256, "dfed": 512}
_ORDER = ("x", "w", "u", "bias", "h0", "c0", "mask", "resets", "hr", "cr")
_ORDER += ("observed", "feed", "base", "decay", "last")
_FLAGS = ("mask", "resets", "observed")


def _jax_declines(library: Any) -> str | None:
    import jax

    if not hasattr(library, "statecast_jax_forward"):
        return "it was built without JAX's headers"
    if jax.default_backend() != "cpu":
        return f"JAX runs on {jax.default_backend()}"
    return None


@cache
def _jax_entry() -> Callable[..., Any]:
    """``run(cell, values) -> (y, h[, c])``, compiled once for a cell and its shapes."""
    import jax
    import jax.numpy as jnp

    library = loaded()
    for which in ("forward", "backward"):
        handler = jax.ffi.pycapsule(getattr(library, f"statecast_jax_{which}"))
        jax.ffi.register_ffi_target(f"statecast_{which}", handler, platform="cpu")
    custom_vjp: Any = jax.custom_vjp
    symbolic_zero = jax.custom_derivatives.SymbolicZero

    def call(which: str, cell: Any, has: Any, outputs: Any, operands: Any) -> Any:
        target = jax.ffi.ffi_call(f"statecast_{which}", outputs, vmap_method="broadcast_all")
        flags = sum(_HAS[part] for part in has)
        return target(
            *operands,
            cell=np.int64(_CODES[type(cell)]),
            has=np.int64(flags),
            threads=np.int64(threads.of_jax()),
        )

    def native(cell: Any, values: Any, save: bool) -> Any:
        x = values["x"]
        *lead, rows, steps, inputs = x.shape
        shapes = _shapes(cell, tuple(lead), (rows, steps, inputs))
        spec = jax.ShapeDtypeStruct
        outputs = [spec(shapes[n], x.dtype) for n in _outputs(cell, values)]
        if save:
            arguments = _arguments(cell, str(x.dtype), x.shape, mask=int("mask" in values))
            outputs.append(spec((_saved_bytes(arguments),), "uint8"))
        has = [part for part in ("bias", *_FLAGS) if part in values] + ["saved"] * save
        operands = [values[n] for n in _ORDER if n in values]
        return call("forward", cell, has, outputs, operands)

    @partial(custom_vjp, nondiff_argnums=(0,))
    def recurrence(cell: Any, values: Any) -> Any:
        return tuple(native(cell, values, save=False))

    def forward(cell: Any, values: Any) -> Any:
        wanted = () if values["x"].perturbed else None  # structure, so known when compiling
        values = {n: value.value for n, value in values.items()}
        *outputs, saved = saving(cell, values)
        return tuple(outputs), (values, tuple(outputs), saved, wanted)

    def backward(cell: Any, kept: Any, cotangents: Any) -> Any:
        values, outputs, saved, wanted = kept
        given = [None if isinstance(ct, symbolic_zero) else ct for ct in cotangents]
        return (gradients(cell, wanted is not None, values, outputs, saved, given),)

    @partial(custom_vjp, nondiff_argnums=(0, 1))
    def gradients(cell: Any, dx: bool, values: Any, outputs: Any, saved: Any, given: Any) -> Any:
        wanted = {n: value for n, value in values.items() if n not in _FLAGS and (dx or n != "x")}
        names = _outputs(cell, values)
        cotangents = {n: ct for n, ct in zip(names, given, strict=True) if ct is not None}
        has = [part for part in ("bias", *_FLAGS) if part in values] + ["dx"] * dx
        has += [_COTANGENTS[n] for n in cotangents]
        order = [n for n in _ORDER if n in wanted]
        specs = [jax.ShapeDtypeStruct(values[n].shape, values["x"].dtype) for n in order]
        operands = [values[n] for n in _ORDER if n in values]
        operands += [outputs[i] for i, n in enumerate(names) if n in ("y", "fed")]
        operands += [saved, *cotangents.values()]
        found = dict(zip(order, call("backward", cell, has, specs, operands), strict=True))
        return {n: found.get(n) for n in values}

    # Gradients of gradients: through the forward pass by the kernel once more, through its
    # gradients, which are rare, by the loop.
    @partial(custom_vjp, nondiff_argnums=(0,))
    def saving(cell: Any, values: Any) -> Any:
        return tuple(native(cell, values, save=True))

    def saving_forward(cell: Any, values: Any) -> Any:
        *outputs, saved = saving(cell, values)
        return (*outputs, saved), (values, tuple(outputs), saved)

    def saving_backward(cell: Any, kept: Any, cotangents: Any) -> Any:
        return (gradients(cell, True, *kept, list(cotangents[:-1])),)

    def gradients_forward(
        cell: Any, dx: bool, values: Any, outputs: Any, saved: Any, given: Any
    ) -> Any:
        return gradients(cell, dx, values, outputs, saved, given), (values, given)

    def gradients_backward(cell: Any, dx: bool, kept: Any, cotangents: Any) -> Any:
        values, given = kept
        floats = {n: v for n, v in values.items() if n not in _FLAGS}
        flags = {n: v for n, v in values.items() if n in _FLAGS}

        def plain(floats: Any, given: Any) -> Any:
            outputs, vjp = jax.vjp(lambda f: _by_loop(cell, f | flags), floats)
            pairs = zip(outputs, given, strict=True)
            (found,) = vjp(tuple(jnp.zeros_like(y) if ct is None else ct for y, ct in pairs))
            return found if dx else {n: g for n, g in found.items() if n != "x"}

        _, vjp = jax.vjp(plain, floats, given)
        of_values, of_given = vjp({n: g for n, g in cotangents.items() if g is not None})
        return {n: of_values.get(n) for n in values}, None, None, of_given

    recurrence.defvjp(forward, backward, symbolic_zeros=True)
    saving.defvjp(saving_forward, saving_backward)
    gradients.defvjp(gradients_forward, gradients_backward)

    def entry(cell: Any, values: Any) -> Any:
        dtype = values["x"].dtype
        *lead, rows, steps, inputs = values["x"].shape
        shapes = _shapes(cell, tuple(lead), (rows, steps, inputs))
        kinds = {n: "bool" if n in _FLAGS else dtype for n in values}
        values = {
            n: jnp.broadcast_to(jnp.asarray(v, kinds[n]), shapes[n]) for n, v in values.items()
        }
        # The library counts members on the first axis alone.
        axes, members = len(lead), math.prod(lead)
        flat = {n: v.reshape(members, *v.shape[axes:]) for n, v in values.items()}
        found = recurrence(cell, flat)
        return tuple(v.reshape(*lead, *v.shape[1:]) for v in found)

    return jax.jit(entry, static_argnums=0)


# -- PyTorch -------------------------------------------------------------------------------------


def _torch_declines(*tensors: Any) -> str | None:
    import torch
    from torch.autograd import forward_ad
    from torch.utils import _python_dispatch

    if torch.compiler.is_compiling():
        return "torch.compile traces the steps itself"
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return "torch.jit.trace records PyTorch's operations, and it is not one of them"
    if _python_dispatch._get_current_dispatch_mode() is not None:
        return "a dispatch mode is active that sees PyTorch's operations, and it is not one of them"
    if forward_ad._current_level >= 0:
        return "it has no derivatives in forward mode"
    plain = (torch.Tensor, torch.nn.Parameter)
    for tensor in tensors:
        if type(tensor) in plain and tensor.is_cpu and tensor.layout == torch.strided:
            if torch._is_functional_tensor(tensor):  # pyright: ignore[reportPrivateImportUsage]
                return "functionalize records PyTorch's operations, and it is not one of them"
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


def _torch_run(cell: Any, values: dict[str, Any]) -> Any:
    import torch

    x = values["x"] = torch.as_tensor(values["x"])
    shapes = _torch_shapes(cell, x)
    tensors = []
    for n in _ORDER:
        value = values.get(n)
        if value is not None:
            value = torch.as_tensor(value)
            if value.shape != shapes[n]:
                value = value.broadcast_to(shapes[n])
            value = dense(value, torch.bool if n in _FLAGS else x.dtype)
        tensors.append(value)
    return [v for v in _torch_apply(cell, False, tensors) if v is not None]


def _torch_shapes(cell: Any, x: Any) -> Mapping[str, tuple[int, ...]]:
    *lead, rows, steps, inputs = x.shape
    return _shapes(cell, tuple(lead), (rows, steps, inputs))


def _torch_apply(cell: Any, learns: bool, tensors: list[Any]) -> tuple[Any, ...]:
    """``_OUTPUTS``, the last of them where ``learns`` asks for it."""
    import torch

    needed = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    function = _torch_function()
    apply = function.apply
    if not torch_transforms():  # past what PyTorch does for them: a tenth of a small step
        plain: Any = super(torch.autograd.Function, function)
        apply = plain.apply
    *found, saved = apply(cell, learns or needed, *tensors)
    return *found, saved if learns else None


def torch_transforms() -> bool:
    """Whether a transform of torch.func is under way."""
    import torch

    return torch._C._are_functorch_transforms_active()


def dense(tensor: Any, dtype: Any) -> Any:
    """A PyTorch tensor of a dtype whose numbers lie in memory as they are, one after the other."""
    if tensor.dtype != dtype:
        tensor = tensor.to(dtype)
    tensor = tensor.contiguous()
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def torch_address(tensor: Any) -> int:
    """The address of a dense PyTorch tensor.

    Raises
    ------
    KernelError
        The tensor has numbers and no memory that holds them.
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


_EMPTY = ctypes.create_string_buffer(8)  # PyTorch has no address where there is no number


def _have_memory(tensors: Any) -> bool:
    """Whether PyTorch tensors can be used where they lie. Neither those that outlive a transform
    can, nor the batches of ``torch.autograd.grad(is_grads_batched=True)``."""
    try:
        for tensor in tensors:
            if tensor is not None:
                tensor.data_ptr()
    except RuntimeError:
        return False
    return True


# Memory of the saved numbers that no tensor uses now, by size and dtype: fresh pages cost more
# than the kernel. Deques, whose operations are atomic: no lock that a fork could leave held.
_spare: dict[tuple[int, Any], deque[Any]] = {}


class _Loan(np.ndarray):
    """Memory lent to a tensor. The tensor's storage holds this array, so that the memory comes back
    when the last tensor on it is gone: autograd's, a hook's or a user's."""

    lent: Any = None  # a tensor of its own, which owns the memory

    def __del__(self) -> None:
        if self.lent is None:  # a view of a loan
            return
        key = len(self), self.lent.dtype
        _spare.setdefault(key, deque(maxlen=4)).append(self.lent)
        for old in list(_spare)[:-8]:  # sizes of long ago
            _spare.pop(old, None)


def _torch_saved(shape: tuple[int, ...], dtype: Any) -> Any:
    """An uninitialized tensor, in memory that was used before where there is some."""
    import torch

    size = math.prod(shape)
    if not size:
        return torch.empty(shape, dtype=dtype)
    try:
        memory = _spare[size, dtype].pop()
    except (KeyError, IndexError):
        memory = torch.empty(size, dtype=dtype)
    loan = memory.numpy().view(_Loan)
    loan.lent = memory
    return torch.from_numpy(loan).view(shape)


# The outputs of a call, absent ones None; what the backward pass reads beside the values; and the
# outputs whose gradients it is given.
_OUTPUTS = ("y", "fed", "hn", "cn", "saved")
_HELD = ("y", "fed", "saved")
_GIVEN = ("y", "fed", "hn", "cn")


@cache
def _torch_function() -> Any:
    """The recurrence as PyTorch differentiates and transforms it: ``cell, learns, *values`` to
    ``_OUTPUTS``, the last of them where ``learns``.

    No address outlives a call. What lies between forward and backward belongs to autograd, and its
    hooks, checkpoints among them, may hand back other tensors with the same numbers: the backward
    pass asks for every address anew.
    """
    import torch

    library = loaded()
    at = torch_address

    def arguments(cell: Any, values: Mapping[str, Any]) -> _Forward:
        x = values["x"]
        pointers = {n: at(v) for n, v in values.items()}
        host = {"threads": threads.of_torch(), "openmp": threads.openmp()}
        return _arguments(cell, str(x.dtype).removeprefix("torch."), x.shape, **pointers, **host)

    def saved_shape(call: _Forward, x: Any) -> tuple[int, ...]:
        """Of what is saved for the backward pass: numbers of x's dtype, for each member apart."""
        lead = x.shape[:-3]
        numbers = _saved_bytes(call) // x.element_size()
        return *lead, numbers // max(math.prod(lead), 1)

    def forward(cell: Any, saves: bool, values: Mapping[str, Any]) -> dict[str, Any]:
        x, shapes = values["x"], _torch_shapes(cell, values["x"])
        outputs = {n: x.new_empty(shapes[n]) for n in _outputs(cell, values)}
        call = arguments(cell, {**values, **outputs})
        if saves:
            outputs["saved"] = _torch_saved(saved_shape(call, x), x.dtype)
            call.saved = at(outputs["saved"])
        check(library.statecast_forward(ctypes.byref(call)))
        return outputs

    def backward(
        cell: Any, dx: bool, values: Mapping[str, Any], held: Any, given: Any
    ) -> dict[str, Any]:
        """The gradients by the names of the values, from those given of the outputs."""
        if "saved" not in held:  # no one knew in the forward pass that it would be needed
            found = forward(cell, True, values)
            held = {n: found[n] for n in _HELD if n in found}
        x, saved = values["x"], held["saved"]
        read = {**values, **held}
        del read["saved"]
        shapes = _torch_shapes(cell, x) if x.ndim > 2 else {}
        wrong = [n for n, v in read.items() if v.shape != shapes.get(n)]
        call = None if wrong else arguments(cell, read)
        if call is None or saved.shape != saved_shape(call, x):
            raise KernelError(
                "The native kernel failed: what it saved for the backward pass came back in other "
                f"shapes ({', '.join(wrong) or 'saved'}). Hooks of saved tensors give back the "
                "shape that they were given."
            )
        call.saved = at(saved)
        found = {
            n: torch.empty_like(v)
            for n, v in values.items()
            if n not in _FLAGS and (dx or n != "x")
        }
        pointers = {f"d{n}": at(v) for part in (given, found) for n, v in part.items()}
        check(library.statecast_backward(ctypes.byref(_Backward(call, **pointers))))
        return found

    class Recurrence(torch.autograd.Function):
        @staticmethod
        def forward(*inputs: Any) -> Any:
            cell, learns, *tensors = inputs
            values = {n: v for n, v in zip(_ORDER, tensors, strict=True) if v is not None}
            found = forward(cell, learns, values)
            return tuple(found.get(n) for n in _OUTPUTS)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.cell, learns, *tensors = inputs
            ctx.dtype = tensors[0].dtype
            y, fed, _, _, saved = output
            if learns:
                ctx.mark_non_differentiable(saved)
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors, y, fed, saved)

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            tensors = (*ctx.saved_tensors, *cotangents[:-1])
            wanted = ctx.needs_input_grad[2:]
            if not torch_transforms() and not _have_memory(cotangents):
                values, _, given = parts(ctx.dtype, tensors)
                found = _torch_gradients(ctx.cell, values, given)
            elif torch.is_grad_enabled() or torch_transforms() or not _have_memory(tensors):
                found = Gradients.apply(ctx.cell, wanted[0], ctx.dtype, *tensors)
                found = dict(zip(_ORDER, found, strict=True))
            else:
                found = backward(ctx.cell, wanted[0], *parts(ctx.dtype, tensors))
            asked = zip(_ORDER, wanted, strict=True)
            return None, None, *(found.get(n) if want else None for n, want in asked)

        @staticmethod
        def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
            cell, learns, *tensors = inputs
            found = _torch_apply(cell, learns, batched(info, in_dims[2:], tensors))
            return found, tuple(None if v is None else 0 for v in found)

    class Gradients(torch.autograd.Function):
        """``cell, dx, dtype``, the values, ``_HELD`` and the gradients of ``_GIVEN`` to those of
        the values; None where there is none."""

        @staticmethod
        def forward(*inputs: Any) -> Any:
            cell, dx, dtype, *tensors = inputs
            found = backward(cell, dx, *parts(dtype, tensors))
            return tuple(found.get(n) for n in _ORDER)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.cell, _, ctx.dtype, *tensors = inputs
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors)

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            values, _, given = parts(ctx.dtype, ctx.saved_tensors)
            pairs = zip(_ORDER, cotangents, strict=True)
            asked = {n: v for n, v in pairs if v is not None}
            found = _torch_second(ctx.cell, values, given, asked)
            of_values = [found.get(n) for n in _ORDER]
            of_given = [found.get(f"d{n}") for n in _GIVEN]
            return None, None, None, *of_values, *(None for _ in _HELD), *of_given

        @staticmethod
        def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
            found = Gradients.apply(*inputs[:3], *batched(info, in_dims[3:], inputs[3:]))
            return found, tuple(None if v is None else 0 for v in found)

    def parts(dtype: Any, tensors: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """The values, the held outputs and the gradients given: those that are there, dense."""
        values: dict[str, Any] = {}
        held: dict[str, Any] = {}
        given: dict[str, Any] = {}
        rest = iter(tensors)
        for names, part in ((_ORDER, values), (_HELD, held), (_GIVEN, given)):
            for n, tensor in zip(names, rest, strict=False):
                if tensor is not None:
                    part[n] = dense(tensor, torch.bool if n in _FLAGS else dtype)
        return values, held, given

    def batched(info: Any, dims: Any, tensors: Any) -> list[Any]:
        """The axis that vmap took away as the first one: more members."""

        def first(tensor: Any, dim: int | None) -> Any:
            if dim is None:
                return tensor.expand(info.batch_size, *tensor.shape)
            return tensor.movedim(dim, 0)

        pairs = zip(tensors, dims, strict=True)
        return [None if v is None else first(v, dim).contiguous() for v, dim in pairs]

    return Recurrence


def _torch_gradients(
    cell: Any, values: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The gradients of the values by the loop, which PyTorch differentiates and transforms, from
    those given of the outputs."""
    flags = {n: v for n, v in values.items() if n in _FLAGS}
    floats = {n: v for n, v in values.items() if n not in _FLAGS}
    names = _outputs(cell, values)

    def outputs(*tensors: Any) -> tuple[Any, ...]:
        found = _by_loop(cell, dict(zip(floats, tensors, strict=True)) | flags)
        return tuple(y for n, y in zip(names, found, strict=True) if n in given)

    vjp = _torch_vjp(outputs, tuple(floats.values()))
    return dict(zip(floats, vjp(tuple(given[n] for n in names if n in given)), strict=True))


def _torch_second(
    cell: Any, values: Mapping[str, Any], given: Mapping[str, Any], cotangents: Mapping[str, Any]
) -> dict[str, Any]:
    """What reaches the values, and as "dy" and the like the gradients given, from the gradients of
    the values."""
    flags = {n: v for n, v in values.items() if n in _FLAGS}
    floats = [n for n in values if n not in _FLAGS]

    def gradients(*tensors: Any) -> tuple[Any, ...]:
        now = dict(zip([*floats, *given], tensors, strict=True))
        found = _torch_gradients(
            cell, {n: now[n] for n in floats} | flags, {n: now[n] for n in given}
        )
        return tuple(found[n] for n in floats if n in cotangents)

    vjp = _torch_vjp(gradients, (*(values[n] for n in floats), *given.values()))
    found = vjp(tuple(cotangents[n] for n in floats if n in cotangents))
    return dict(zip([*floats, *(f"d{n}" for n in given)], found, strict=True))


def _torch_vjp(function: Callable[..., tuple[Any, ...]], primals: tuple[Any, ...]) -> Any:
    """``torch.func.vjp``'s second part. Outside of PyTorch's transforms it is made of autograd
    itself, since torch.func refuses to run beside hooks of saved tensors."""
    import torch

    if torch_transforms():
        return torch.func.vjp(function, *primals)[1]
    with torch.enable_grad():
        # Views: what is found stays tied to the primals, for further derivatives.
        views = [v.view_as(v) for v in primals]
        roots = [v if v.requires_grad else v.detach().requires_grad_() for v in views]
        outputs = function(*roots)

    def vjp(cotangents: tuple[Any, ...]) -> tuple[Any, ...]:
        pairs = [(y, ct) for y, ct in zip(outputs, cotangents, strict=True) if y.requires_grad]
        if not pairs:  # of no step nothing depends on anything
            return tuple(map(torch.zeros_like, roots))
        ends, given = zip(*pairs, strict=True)
        found = torch.autograd.grad(ends, roots, given, create_graph=True, allow_unused=True)
        return tuple(
            torch.zeros_like(v) if g is None else g for g, v in zip(found, roots, strict=True)
        )

    return vjp
