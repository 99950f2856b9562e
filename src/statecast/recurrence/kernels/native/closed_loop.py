"""``EnsembleLoop``: the stacks of an ensemble in a closed loop, in the native library, on NumPy
arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from statecast.recurrence.cells import Stack, within
from statecast.recurrence.kernels.native import threads
from statecast.recurrence.kernels.native.arrays import PackedCell
from statecast.recurrence.kernels.native.calls import CODES
from statecast.recurrence.kernels.native.library import (
    FAMILIES,
    HOST,
    NativeHead,
    address,
    check,
    loaded,
)

_LEAVES = ("h", "c")


class _Layer(ctypes.Structure):
    """``statecast_layer`` of native/statecast.h."""

    _fields_ = [(field, ctypes.c_void_p) for field in ("packed", "h0", "c0", "hn", "cn")]


class _Arguments(ctypes.Structure):
    """``statecast_stack_args`` of native/statecast.h."""

    _fields_ = [
        *((field, ctypes.c_int64) for field in ("cell", "members", "rows", "steps", "inputs")),
        *((field, ctypes.c_int64) for field in ("units", "layers")),
        ("layer", ctypes.c_void_p),
        *((field, ctypes.c_void_p) for field in ("x", "mask", "observed")),
        *((field, ctypes.c_void_p) for field in ("feed", "base", "decay", "last", "y", "fed")),
        *((field, ctypes.c_int64) for field in ("head", "parameters", "count", "after")),
        *((field, ctypes.c_void_p) for field in ("constant", "kernel", "level", "deviate")),
        *((field, ctypes.c_void_p) for field in ("gaps", "levels", "deviates")),
        ("smallest", ctypes.c_double),
        ("quantiles", ctypes.c_void_p),
        *HOST,
    ]


class EnsembleLoop:
    """The stacks of an ensemble's members, each in a closed loop (``cells.ClosedLoop``); float32.

    All members, layers and steps run in one call of the library. A row has the same bits in any
    batch and with any number of threads. Several threads may use one object at once.

    Parameters
    ----------
    stack : Stack
        Of cells of one class and width that the library runs; see ``calls.cell_declines``.
    weights : mapping of str to array, ``(members, ...)``
        With the names of ``stack.weight_shapes``.
    feed : array, ``(members, units)``
        The weights of the last layer's output in the feedback.
    decay : array, ``(members,)``
        The weight of the value of the step before in the feedback.
    kernel : array, ``(members, units, parameters)``
        The weights of the last layer's output in the head's raw numbers.
    head : NativeHead, optional
        The attribute ``head`` is None if the library does not run a loop with it.
    levels : sequence of float
        Of the quantiles to compute.

    Raises
    ------
    KernelError
        There is no native kernel.
    """

    def __init__(
        self,
        stack: Stack,
        weights: Mapping[str, np.ndarray],
        feed: np.ndarray,
        decay: np.ndarray,
        kernel: np.ndarray,
        head: NativeHead | None,
        levels: Sequence[float],
    ) -> None:
        if head is not None and not head.in_closed_loop(levels):
            head = None
        self._library, self.head = loaded(), head
        self._layers = [
            PackedCell(cell, f"{layer}/", within(weights, layer), "float32", 0)
            for layer, cell in enumerate(stack.cells)
        ]
        self._packed = [address(layer.memory) for layer in self._layers]
        self._fixed = {"feed": feed, "decay": decay, "kernel": kernel}
        self._fixed = {n: np.ascontiguousarray(w, np.float32) for n, w in self._fixed.items()}
        if head is not None:
            deviates = [NormalDist().inv_cdf(level) for level in levels]
            doubles = {"gaps": head.gaps, "levels": levels, "deviates": deviates}
            self._fixed |= {name: np.array(values, float) for name, values in doubles.items()}
        self._at = {name: address(array) for name, array in self._fixed.items()}
        self._started = threads.of_started()

    def run(
        self,
        x: np.ndarray,
        observed: np.ndarray,
        state: Mapping[str, np.ndarray],
        base: np.ndarray,
        last: np.ndarray,
        mask: np.ndarray | None = None,
        *,
        constant: np.ndarray | None = None,
        after: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """All steps of x.

        Parameters
        ----------
        x : array, ``(members, rows, steps, inputs)``
            The first input is the value of the step.
        observed : array of bool, ``(members, rows, steps)``
            Where False, the feedback takes the place of the value.
        state : mapping of str to array, ``(members, rows, units)``
        base, last : arrays, ``(members, rows)``
            The constant of the feedback, and the value of the step before the first.
        mask : array of bool, ``(members, rows, steps)``, optional
            False for a step that is skipped: the state stays, and output and value are those of the
            step before (zeros and ``last`` before the first step).
        constant : array, ``(members, rows, parameters)``, optional
            Added to the raw numbers of ``head``. With it the quantiles of every step are computed,
            in place of the outputs.
        after : bool
            Whether the head reads the output after a step, and not that before it.

        Returns
        -------
        y : array, ``(members, rows, steps, units)``
            Or the quantiles, ``(members, rows, steps, levels)``; they are undefined at skipped
            steps.
        taken : array, ``(members, rows, steps)``
            The value of each step.
        state : dict of str to array, ``(members, rows, units)``
            After the last step.
        """
        width = self._layers[-1].units if constant is None else len(self._fixed["levels"])
        found = np.empty((*x.shape[:3], width), np.float32)
        taken, leaves = np.empty(x.shape[:3], np.float32), self._leaves(x)
        given = {n: np.ascontiguousarray(a, "float32") for n, a in (("base", base), ("last", last))}
        given |= {"observed": np.ascontiguousarray(observed, np.bool_), "fed": taken}
        if mask is not None:
            given["mask"] = np.ascontiguousarray(mask, np.bool_)
        if constant is None:
            self._call(x, state, given | {"y": found}, leaves)
        else:
            given |= {"quantiles": found, "constant": np.ascontiguousarray(constant, np.float32)}
            self._call(x, state, given, leaves, **self._of_head(after))
        return found, taken, leaves

    def step(
        self, x: np.ndarray, state: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """One step without feedback, on inputs ``(members, rows, inputs)``.

        Returns the output, ``(members, rows, units)``, and the state after the step.
        """
        x = x[:, :, None]
        y, after = np.empty((*x.shape[:3], self._layers[-1].units), np.float32), self._leaves(x)
        self._call(x, state, {"y": y}, after)
        return y[:, :, 0], after

    def draw(
        self,
        x: np.ndarray,
        state: Mapping[str, np.ndarray],
        last: np.ndarray,
        constant: np.ndarray,
        level: np.ndarray,
        deviate: np.ndarray | None,
        *,
        after: bool,
    ) -> np.ndarray:
        """Paths: the first input of each step is drawn from the head.

        Parameters
        ----------
        x : array, ``(members, rows, steps, inputs)``
            The first input is not read.
        state : mapping of str to array, ``(members, rows, units)``
        last : array, ``(members, rows)``
            The value of the step before the first.
        constant : array, ``(members, rows, parameters)``
            Added to the head's raw numbers.
        level : array, ``(members, rows, steps)``
            Strictly between 0 and 1. A draw is the quantile at this level.
        deviate : array, ``(members, rows, steps)``
            The standard normal quantiles at the levels; None for the family "quantiles".
        after : bool
            Whether the head reads the output after a step, and not that before it. The first input
            of the step is then the draw of the step before.

        Returns
        -------
        array, ``(members, rows, steps)``
        """
        drawn = np.empty(x.shape[:3], np.float32)
        given = {"last": last, "constant": constant, "level": level}
        if deviate is not None:
            given["deviate"] = deviate
        given = {name: np.ascontiguousarray(array, np.float32) for name, array in given.items()}
        self._call(x, state, given | {"fed": drawn}, {}, **self._of_head(after))
        return drawn

    def _of_head(self, after: bool) -> dict[str, Any]:
        assert self.head is not None
        return {
            "head": FAMILIES.index(self.head.family),
            "parameters": self._fixed["kernel"].shape[-1],
            "count": len(self._fixed["levels"]),
            "after": int(after),
            "smallest": self.head.smallest,
        }

    def _leaves(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Memory for the state after a call."""
        leaves: dict[str, np.ndarray] = {}
        for layer in self._layers:
            out = np.empty((len(layer.labels), *x.shape[:2], layer.units), np.float32)
            leaves |= dict(zip(layer.labels, out, strict=True))
        return leaves

    def _call(
        self,
        x: np.ndarray,
        state: Mapping[str, np.ndarray],
        given: dict[str, np.ndarray],
        results: Mapping[str, np.ndarray],
        **others: Any,
    ) -> None:
        """One call; ``given`` and ``results``, the leaves after it, are contiguous."""
        x = np.ascontiguousarray(x, np.float32)
        held, layers = [], (_Layer * len(self._layers))()
        for at, packed, layer in zip(layers, self._packed, self._layers, strict=True):
            at.packed = packed
            for leaf, name in zip(_LEAVES, layer.labels, strict=False):
                held.append(np.ascontiguousarray(state[name], np.float32))
                setattr(at, f"{leaf}0", address(held[-1]))
                if results:
                    setattr(at, f"{leaf}n", address(results[name]))
        members, rows, steps, inputs = x.shape
        call = _Arguments(
            CODES[type(self._layers[0].cell)], members, rows, steps, inputs,
            self._layers[0].units, len(layers), ctypes.addressof(layers), address(x),
            **{name: address(array) for name, array in given.items()},
            **self._at,
            threads=threads.of_host(self._started),
            **others,
        )  # fmt: skip
        check(self._library.statecast_stack(ctypes.byref(call)))
