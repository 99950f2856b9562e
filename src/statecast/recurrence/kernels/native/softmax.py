"""The softmax over tokens in the native library, on NumPy arrays: from the outputs of an ensemble's
members to the log-probabilities of all tokens, or to the likeliest tokens only, as decoding needs.

Where the library is not built, ``tokens.engine`` computes the same in NumPy.
"""

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


class Softmax:
    """The output layer of an ensemble, packed once; float32.

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
        size = checked_size(self._library.statecast_softmax_bytes(ctypes.byref(arguments)))
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
        """The ``most`` likeliest of the allowed tokens of each row, the likeliest first.

        Parameters
        ----------
        outputs : array, ``(members, rows, units)``
        most : int
            At most the number of tokens.
        allowed : array, bool, ``(tokens,)``

        Returns
        -------
        codes : array, int32, ``(rows, most)``
            -1 where fewer tokens are allowed.
        nats : array, float32, ``(rows, most)``
            Log-probabilities; minus infinity where fewer tokens are allowed.
        """
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
            threads=threads.of_host(self._started),
            **arguments,
        )
        check(self._library.statecast_softmax(ctypes.byref(call)))
