"""Quantiles of the Poisson and negative binomial distributions in the native library, on NumPy
arrays.

The reference is ``statecast.heads.counts``, which also says how the distributions are continued
between the counts. Where the library is not built, the heads compute the same in NumPy.
"""

from __future__ import annotations

import ctypes

import numpy as np

from statecast.recurrence.kernels.native import threads
from statecast.recurrence.kernels.native.library import HOST, address, check, loaded


class _Arguments(ctypes.Structure):
    """``statecast_counts_args`` of native/statecast.h."""

    _fields_ = [
        *((field, ctypes.c_int64) for field in ("cases", "levels", "apart")),
        *((field, ctypes.c_void_p) for field in ("mean", "size", "level", "deviate", "count")),
        *HOST,
    ]


def quantiles(
    mean: np.ndarray, size: np.ndarray | None, level: np.ndarray, deviate: np.ndarray
) -> np.ndarray:
    """The quantiles, float32 ``(n, k)``. The bits of a row do not depend on the other rows.

    Parameters
    ----------
    mean : array, ``(n,)``
        From 1e-6 to 2**26. Up to a million the level of a quantile is exact to 2e-4. Above, float32
        is less exact where ``size`` is small.
    size : array, ``(n,)``, optional
        Of the negative binomial distribution, from 1/30 to 1e4; None for the Poisson distribution.
    level : array, ``(k,)`` or ``(n, k)``
        From ``heads.special.LEAST_LEVEL`` to 1 minus it.
    deviate : array, of the shape of ``level``
        The standard normal quantiles at the levels. The search begins at the quantile of a
        log-normal distribution with the same mean and variance.

    Raises
    ------
    KernelError
        There is no native kernel.
    """
    mean, level, deviate = (np.ascontiguousarray(x, np.float32) for x in (mean, level, deviate))
    found = np.empty((len(mean), level.shape[-1]), np.float32)
    if not found.size:
        return found
    if size is not None:
        size = np.ascontiguousarray(size, np.float32)
    call = _Arguments(
        *found.shape,
        level.ndim - 1,
        address(mean),
        None if size is None else address(size),
        address(level),
        address(deviate),
        address(found),
        threads.of_host(threads.of_started()),
    )
    check(loaded().statecast_counts(ctypes.byref(call)))
    return found
