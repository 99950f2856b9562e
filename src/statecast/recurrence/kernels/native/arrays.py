"""``Recurrence``: the native kernel on NumPy arrays, without a backend."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np

from statecast.checks import check_choice, check_whole
from statecast.errors import ArgumentError, StateError
from statecast.recurrence.cells import Gated, Stack, within
from statecast.recurrence.kernels.native import threads
from statecast.recurrence.kernels.native.calls import arguments, cell_declines
from statecast.recurrence.kernels.native.library import (
    DTYPES,
    address,
    check,
    checked_size,
    find,
    loaded,
    report_missing,
)


def refuses(cell: Any) -> str | None:
    """Why ``Recurrence`` cannot run a cell; None where it can."""
    report_missing()
    library = find()
    return library if isinstance(library, str) else cell_declines(cell)


class Recurrence:
    """A cell with its weights, to run on NumPy arrays without a backend.

    The weights are copied and packed once, so that a step of one row takes microseconds. Several
    threads may use one object at once. It cannot be pickled: another process makes its own.

    Parameters
    ----------
    cell : LSTM, GRU, SimpleRNN or Stack
        Of ``statecast.cells``, with Keras's default activations.
    weights : mapping of str to array
        With the names and shapes of ``cell.weight_shapes``.
    dtype : {"float32", "float64", "bfloat16"}
        With "bfloat16" the weights but the bias are rounded to bfloat16, and so are the other
        factors of products with them; x is not, if it has fewer than 16 features. Sums, functions,
        the state, x and y are of float32. It is faster on processors with AVX512-BF16 or AMX.
    codes : int
        The number of codes, tokens for example, that replace the last inputs. Each stands for a
        one-hot vector: ``x`` has ``codes`` numbers fewer, and ``code`` names the row of the first
        kernel that is added at each step.

    Raises
    ------
    ArgumentError
        Another cell or dtype, weights of other shapes, or ``codes`` beyond the inputs.
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

    Two of the three inputs as codes, and three rows that continue from one row of the state:

    >>> step = Recurrence(GRU(2), weights, codes=2).step
    >>> code, source = np.array([0, 1, 1]), np.array([2, 2, 2])
    >>> y, state = step(np.ones((3, 1)), {"h": np.ones((4, 2))}, code, source)
    >>> state["h"].shape
    (3, 2)
    """

    def __init__(
        self, cell: Any, weights: Mapping[str, Any], *, dtype: str = "float32", codes: int = 0
    ) -> None:
        check_choice("dtype", dtype, DTYPES)
        reason = cell_declines(cell)
        if reason is not None:
            raise ArgumentError(f"cell: the native kernel cannot run {cell!r}: {reason}.")
        first = "0/kernel" if isinstance(cell, Stack) else "kernel"
        width = int(np.shape(weights[first])[0]) if first in weights else 0
        expected = cell.weight_shapes(width)
        found = {weight: np.shape(value) for weight, value in weights.items()}
        if found != expected:
            raise ArgumentError(f"weights: expected the shapes {expected}, received {found}.")
        codes = check_whole("codes", codes, 0, width)  # of the inputs
        self.cell, self.dtype = cell, _of_numbers(dtype)
        self.codes, self.width = codes, width - codes
        if isinstance(cell, Stack):
            self._parts = [
                PackedCell(
                    part, f"{layer}/", within(weights, layer), dtype, 0 if layer else self.codes
                )
                for layer, part in enumerate(cell.cells)
            ]
        else:
            self._parts = [PackedCell(cell, "", weights, dtype, self.codes)]

    def step(
        self,
        x: np.ndarray,
        state: Mapping[str, np.ndarray],
        code: np.ndarray | None = None,
        source: np.ndarray | None = None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """One step.

        Parameters
        ----------
        x : array, ``(rows, width)``
        state : mapping of str to array, ``(rows, units)``
            Where the step starts; it is not changed.
        code : array of whole numbers, ``(rows,)``
            With ``codes``: the code of each row, from 0.
        source : array of whole numbers, ``(rows,)``, optional
            Row i starts from row ``source[i]`` of the leaves, which may then have any number of
            rows. The results are those from ``leaf[source]``, to the bit. The product of a row of
            the state with the weights is computed once, however many rows start from it.

        Returns
        -------
        y : array, ``(rows, units)``
        state : dict of str to array, ``(rows, units)``

        Raises
        ------
        ArgumentError, StateError
            As ``run``; or a source out of range.
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
            Where the first step starts; it is not changed.
        code : array of whole numbers, ``(rows, steps)``
            With ``codes``: the code of each step, from 0.

        Returns
        -------
        y : array, ``(rows, steps, units)``
        state : dict of str to array, ``(rows, units)``
            The state after the last step.

        Raises
        ------
        ArgumentError
            x or code has another shape or dtype, or a code is out of range.
        StateError
            Other leaves, or leaves of other shapes.
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
        if type(state) is not dict and not isinstance(state, Mapping):  # the second test is slow
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
                "code: expected none, since this Recurrence was made without codes=..."
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
        except ValueError:  # rows of different lengths
            value = np.asarray(None)
        if value.dtype.kind not in "fiub":
            raise ArgumentError(
                f"{name}: expected an array of numbers of a dtype of NumPy's own, such as float32; "
                f"received {value.dtype}."
            )
    return np.ascontiguousarray(value, dtype)


def _of_numbers(dtype: str) -> np.dtype:
    """The dtype of all arrays but w and u, for a ``dtype`` of ``DTYPES``."""
    return np.dtype("float32" if dtype == "bfloat16" else dtype)


def _rounded(weights: np.ndarray) -> np.ndarray:
    """Numbers of float32 rounded to bfloat16, of two equally near ones to the even one; the bits,
    as uint16. NaN stays NaN."""
    bits = weights.view(np.uint32)
    near = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(weights), (bits >> 16) | 0x40, near).astype(np.uint16)


def _whole(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    value = np.asarray(value)
    if value.shape != shape or (value.size and value.dtype.kind not in "iu"):
        raise ArgumentError(
            f"{name}: expected whole numbers of shape {shape}, received {value.dtype} of shape "
            f"{value.shape}."
        )
    return np.ascontiguousarray(value, np.int64)


class PackedCell:
    """One cell with its packed weights; ``prefix`` is put before the names of its leaves.

    The weights may have a first axis of members; ``run`` is for weights without it.
    """

    def __init__(
        self, cell: Gated, prefix: str, weights: Mapping[str, Any], dtype: str, codes: int
    ) -> None:
        self.library, self.dtype = loaded(), _of_numbers(dtype)
        self.cell, self.units = cell, cell.units
        names = [prefix + leaf for leaf in cell.state_shapes]
        self.labels = {name: f"state: leaf {name!r}" for name in names}
        values = {name: np.ascontiguousarray(w, self.dtype) for name, w in weights.items()}
        if dtype == "bfloat16":
            values |= {n: _rounded(values[n]) for n in ("kernel", "recurrent_kernel")}
        own = {"w": values["kernel"], "u": values["recurrent_kernel"], "bias": values.get("bias")}
        *lead, width, _ = own["w"].shape
        shape = (*(lead or [1]), 0, 0, width - codes)
        pointers = {n: address(value) for n, value in own.items() if value is not None}
        call = arguments(cell, dtype, shape, codes=codes, **pointers)
        size = checked_size(self.library.statecast_packed_bytes(ctypes.byref(call)))
        self.memory = np.empty(size, np.uint8)
        packed = address(self.memory)
        check(self.library.statecast_pack(ctypes.byref(call), ctypes.c_void_p(packed)))
        self.fixed = arguments(cell, dtype, shape, codes=codes, packed=packed)
        self.started = threads.of_started()
        self.pointer = ctypes.byref(self.fixed)

    def run(
        self, x: np.ndarray, state: Mapping[str, Any], code: Any, source: Any, after: dict[str, Any]
    ) -> np.ndarray:
        """The output, with an axis of steps if ``x`` has one. The next leaves are added to
        ``after``."""
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
        # One array for all results, since getting an array's address takes time.
        leaves, size = len(before), rows * units
        out = np.empty((leaves + steps, rows, units), self.dtype)
        start, each = address(out), size * self.dtype.itemsize
        h = address(before[0])
        c = address(before[1]) if leaves == 2 else None
        codes_at = None if code is None else address(code)
        source_at = None if source is None else address(source)
        y = start + leaves * each
        self.fixed.threads = threads.of_host(self.started)
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
