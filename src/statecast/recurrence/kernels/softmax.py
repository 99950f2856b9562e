"""The softmax that chooses among tokens in the native library, on NumPy arrays: from the outputs of
an ensemble's members to log-probabilities, or to the likeliest tokens alone, so that what decoding
leaves aside is never written.

``statecast.tokens`` has the same in NumPy, for where the library is not built.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from statecast.errors import KernelError
from statecast.recurrence.kernels import threads
from statecast.recurrence.kernels.native import HOST, address, check, loaded


class _Arguments(ctypes.Structure):
    """``statecast_softmax_args`` of native/statecast.h."""

    _fields_ = [
        *((field, ctypes.c_int64) for field in ("members", "rows", "units", "tokens", "best")),
        *((field, ctypes.c_void_p) for field in ("kernel", "bias", "packed", "outputs")),
        *((field, ctypes.c_void_p) for field in ("allowed", "nats", "codes")),
        *HOST,
    ]


class Softmax:
    """The last layer of an ensemble, laid out once; float32.

    Parameters
    ----------
    kernel : ndarray, shape (members, units, tokens)
    bias : ndarray, shape (members, tokens)

    Raises
    ------
    KernelError
        There is no native kernel.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        self._library = loaded()
        kernel, bias = (np.ascontiguousarray(array, np.float32) for array in (kernel, bias))
        members, units, self.tokens = kernel.shape
        self._sizes = {"members": members, "units": units, "tokens": self.tokens}
        arguments = _Arguments(**self._sizes, kernel=address(kernel), bias=address(bias))
        size = self._library.statecast_softmax_bytes(ctypes.byref(arguments))
        if size < 0:
            raise KernelError("The native kernel declines: the softmax is too large.")
        self._packed = np.empty(size, np.uint8)
        packed = ctypes.c_void_p(address(self._packed))
        check(self._library.statecast_softmax_pack(ctypes.byref(arguments), packed))
        self._started = threads.of_started()

    def log_probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """The log of the members' mean probability of each token, ``(rows, tokens)``, from outputs
        ``(members, rows, units)``."""
        nats = np.empty((outputs.shape[1], self.tokens), np.float32)
        self._run(outputs, nats=address(nats))
        return nats

    def likeliest(
        self, outputs: np.ndarray, most: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of the ``allowed (tokens,)`` tokens the ``most`` likeliest of each row, at most all, the
        likeliest first: codes int32 and log-probabilities, both ``(rows, most)``. Where there are
        fewer, the rest have a log-probability of minus infinity."""
        shape = (outputs.shape[1], most)
        codes, nats = np.empty(shape, np.int32), np.empty(shape, np.float32)
        allowed = np.ascontiguousarray(allowed, bool)
        found = {"codes": address(codes), "nats": address(nats), "allowed": address(allowed)}
        self._run(outputs, best=most, **found)
        return codes, nats

    def _run(self, outputs: np.ndarray, **arguments: Any) -> None:
        outputs = np.ascontiguousarray(outputs, np.float32)
        if not outputs.size:
            return
        call = _Arguments(
            **self._sizes,
            rows=outputs.shape[1],
            packed=address(self._packed),
            outputs=address(outputs),
            threads=threads.told(self._started),
            **arguments,
        )
        check(self._library.statecast_softmax(ctypes.byref(call)))
