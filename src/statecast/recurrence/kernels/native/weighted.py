"""Quantiles of weighted samples in the native library, on NumPy arrays.

The reference is ``statecast.forecast.analogues``, which computes the same in NumPy where the
library is not built.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from statecast.recurrence.kernels.native import threads
from statecast.recurrence.kernels.native.library import HOST, address, check, loaded


class _Arguments(ctypes.Structure):
    """``statecast_weighted_args`` of native/statecast.h."""

    _fields_ = [
        *((field, ctypes.c_int64) for field in ("rows", "near", "items", "stride", "steps")),
        *((field, ctypes.c_int64) for field in ("first", "levels")),
        *((field, ctypes.c_void_p) for field in ("values", "item", "weight", "level", "out")),
        *HOST,
    ]


def quantiles(
    values: np.ndarray,
    item: np.ndarray,
    weight: np.ndarray,
    steps: range,
    levels: Sequence[float],
) -> np.ndarray:
    """The quantiles, float32 ``(rows, len(steps), k)``; 0 at a step without values. The bits of a
    row do not depend on the other rows.

    Weights are added in float32, so the level of a value is exact to 1e-6. Where nearly all weight
    is on two values, a level between them may be on either side of the others.

    Parameters
    ----------
    values : array, ``(items, steps)``
        NaN for missing values.
    item : array of int, ``(rows, n)``
        The items in the sample of each row.
    weight : array, ``(rows, n)``
        A value with weight 0 is left out.
    steps : range
        Consecutive indices of ``values``' second axis.
    levels : sequence of float, ``(k,)``

    Raises
    ------
    KernelError
        There is no native kernel.
    """
    # In float32 a tiny weight would be 0, and its value would be left out.
    weight = np.where(weight > 0, np.maximum(weight, 1e-30), 0.0)
    values, weight, level = (np.ascontiguousarray(x, np.float32) for x in (values, weight, levels))
    item = np.ascontiguousarray(item, np.int64)
    found = np.empty((len(item), len(steps), len(level)), np.float32)
    if found.size:
        call = _Arguments(
            *item.shape, *values.shape, steps.stop, steps.start, len(level),
            *(address(array) for array in (values, item, weight, level, found)),
            threads.of_host(threads.of_started()),
        )  # fmt: skip
        check(loaded().statecast_weighted(ctypes.byref(call)))
    return found
