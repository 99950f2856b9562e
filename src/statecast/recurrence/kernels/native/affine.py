"""The affine maps of an ensemble's members in the native library, on NumPy arrays."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from statecast.recurrence.kernels.native import threads
from statecast.recurrence.kernels.native.library import (
    HOST,
    address,
    check,
    checked_size,
    loaded,
)


class _Arguments(ctypes.Structure):
    """``statecast_softmax_args`` of native/statecast.h."""

    _fields_ = [
        *((field, ctypes.c_int64) for field in ("members", "rows", "units", "tokens", "best")),
        *((field, ctypes.c_void_p) for field in ("kernel", "bias", "packed", "outputs")),
        *((field, ctypes.c_void_p) for field in ("allowed", "nats", "codes")),
        *HOST,
    ]


class Affine:
    """An affine map for each member of an ensemble, packed once; float32.

    A row has the same bits in any batch and with any number of threads. Several threads may use one
    object at once.

    Parameters
    ----------
    kernel : array, ``(members, units, columns)``
        With at least one unit and one column.
    bias : array, ``(members, columns)``

    Raises
    ------
    KernelError
        There is no native kernel.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        self._library = loaded()
        kernel, bias = (np.ascontiguousarray(array, np.float32) for array in (kernel, bias))
        self.members, units, self.columns = kernel.shape
        self._sizes = {"members": self.members, "units": units, "tokens": self.columns}
        arguments = _Arguments(**self._sizes, kernel=address(kernel), bias=address(bias))
        size = checked_size(self._library.statecast_softmax_bytes(ctypes.byref(arguments)))
        self._packed = np.empty(size, np.uint8)
        packed = ctypes.c_void_p(address(self._packed))
        check(self._library.statecast_softmax_pack(ctypes.byref(arguments), packed))
        self._started = threads.of_started()

    def map(self, x: np.ndarray) -> np.ndarray:
        """``x kernel + bias``: float32 ``(members, rows, columns)``, from ``x``
        ``(members, rows, units)``."""
        out = np.empty((self.members, x.shape[1], self.columns), np.float32)
        self._run(self._library.statecast_affine, x, nats=address(out))
        return out

    def _run(self, function: Any, x: np.ndarray, **arguments: Any) -> None:
        x = np.ascontiguousarray(x, np.float32)
        if not x.size:
            return
        call = _Arguments(
            **self._sizes,
            rows=x.shape[1],
            packed=address(self._packed),
            outputs=address(x),
            threads=threads.of_host(self._started),
            **arguments,
        )
        check(function(ctypes.byref(call)))
