"""A trained network's parts on NumPy arrays, for all members of the ensemble at once: affine maps,
encoders, the initial state and the closed loop.

They use the native library, with which a row has the same bits in any batch. Where it is not built,
they compute the same in NumPy: slower, and equal to 1e-5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from statecast.networks.decoder import piecewise
from statecast.recurrence.cells import ClosedLoop, Stack, within
from statecast.recurrence.kernels.native.affine import Affine
from statecast.recurrence.kernels.native.calls import cell_declines
from statecast.recurrence.kernels.native.closed_loop import EnsembleLoop
from statecast.recurrence.kernels.native.library import NativeHead, find, report_missing


def affine(kernel: np.ndarray, bias: np.ndarray) -> Any:
    """The affine map of each member: an object whose ``map`` takes ``(members, rows, units)``.

    ``kernel`` is ``(members, units, columns)``, ``bias`` is ``(members, columns)``.
    """
    return Affine(kernel, bias) if native() else _PlainAffine(kernel, bias)


def closed_loop(
    stack: Stack,
    weights: Mapping[str, np.ndarray],
    feed: np.ndarray,
    decay: np.ndarray,
    kernel: np.ndarray,
    head: NativeHead | None,
    levels: Sequence[float],
) -> Any:
    """The closed loop of each member: an ``EnsembleLoop``, or the same in NumPy, without its head,
    if there is no library, or if it does not run these cells. The attribute ``head`` is None
    without one."""
    if native() and cell_declines(stack) is None:
        return EnsembleLoop(stack, weights, feed, decay, kernel, head, levels)
    return _PlainLoop(stack, weights, feed, decay)


def native() -> bool:
    """Whether there is a native library."""
    report_missing()
    return not isinstance(find(), str)


class ArrayEncoder:
    """An ``Encoder`` with trained weights.

    Parameters
    ----------
    weights : mapping of str to array, ``(members, ...)``
        ``kernel`` if there are numeric features, ``bias``, and ``embedding_0``, ...; with a hidden
        layer ``out/kernel`` and ``out/bias``.
    intervals : int
    divided : sequence of int
        As in ``piecewise``.
    """

    def __init__(
        self, weights: Mapping[str, np.ndarray], intervals: int = 0, divided: Sequence[int] = ()
    ) -> None:
        self._bias, self._intervals, self._divided = weights["bias"], intervals, divided
        self._numeric = affine(weights["kernel"], self._bias) if "kernel" in weights else None
        out = within(weights, "out")
        self._out = affine(out["kernel"], out["bias"]) if out else None
        tables = [name for name in weights if name.startswith("embedding_")]
        self._tables = [weights[f"embedding_{i}"] for i in range(len(tables))]

    def encode(self, numeric: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Encode numbers ``(rows, n)`` and codes, int ``(rows, m)``: ``(members, rows, width)``."""
        members, width = self._bias.shape
        if self._numeric is None:
            x = np.broadcast_to(self._bias[:, None], (members, len(codes), width))
        else:
            columns = piecewise(numeric, self._intervals, self._divided, np)
            x = self._numeric.map(np.broadcast_to(columns, (members, *columns.shape)))
        for i, table in enumerate(self._tables):
            x = x + table[:, codes[:, i]]
        if self._out is not None:
            x = self._out.map(np.tanh(x))
        return np.tanh(x)


class ArrayInitialState:
    """An ``InitialState`` with trained weights: computed from the encoded X, or learned.

    Parameters
    ----------
    weights : mapping of str to array, ``(members, ...)``
        By their names in a model file.
    names : iterable of str
        The leaves of the state.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], names: Iterable[str]) -> None:
        names = list(names)
        featured = f"{names[0]}/kernel" in weights
        self._learned = {} if featured else {name: weights[name] for name in names}
        depth = sum(name.startswith("trunk_") and name.endswith("/kernel") for name in weights)

        def layer(name: str) -> Any:
            return affine(weights[f"{name}/kernel"], weights[f"{name}/bias"])

        self._trunk = [layer(f"trunk_{i}") for i in range(depth)]
        self._leaves = {name: layer(name) for name in names} if featured else {}

    def start(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The leaves, ``(members, rows, ...)``, from the encoded X ``(members, rows, width)``. Of X
        a learned state needs the number of rows only."""
        if self._learned:
            members, rows = x.shape[:2]
            return {
                name: np.broadcast_to(leaf[:, None], (members, rows, *leaf.shape[1:]))
                for name, leaf in self._learned.items()
            }
        for layer in self._trunk:
            x = np.tanh(layer.map(x))
        return {name: layer.map(x) for name, layer in self._leaves.items()}


@cache
def _pools() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute matrix products of NumPy on one thread, as they are small. Also a decorator.

    With two threads OpenBLAS waits in a loop for a thread that has no CPU: beside other work on two
    cores that took sixty times as long.
    """
    with _pools().limit(limits=1, user_api="blas"):
        yield


class _PlainAffine:
    """``Affine`` in NumPy."""

    def __init__(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        self._kernel, self._bias = kernel, bias

    def map(self, x: np.ndarray) -> np.ndarray:
        with one_thread():
            return x @ self._kernel + self._bias[:, None]


class _PlainLoop:
    """``EnsembleLoop`` in NumPy, by the steps of ``cells``."""

    head = None

    def __init__(
        self, stack: Stack, weights: Mapping[str, np.ndarray], feed: np.ndarray, decay: np.ndarray
    ) -> None:
        self._stack, self._cell, self._own = stack, ClosedLoop(stack), dict(weights)
        self._weights = {f"cell/{name}": weight for name, weight in weights.items()}
        self._weights |= {"feed": feed[..., None], "decay": decay[..., None]}

    def run(
        self,
        x: np.ndarray,
        observed: np.ndarray,
        state: Mapping[str, np.ndarray],
        base: np.ndarray,
        last: np.ndarray,
        mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        leaves = {f"cell/{name}": leaf for name, leaf in state.items()}
        leaves |= {"base": base[..., None], "last": last[..., None]}
        y = np.zeros((*x.shape[:3], self._stack.cells[-1].units + 1), np.float32)
        x = np.concatenate([x[..., :1], observed[..., None], x[..., 2:]], axis=-1)
        with one_thread():
            for step in range(x.shape[2]):
                out, after = self._cell.step(self._weights, x[:, :, step], leaves, np)
                if mask is not None:
                    runs = mask[:, :, step, None]
                    after = {
                        name: np.where(runs, leaf, leaves[name]) for name, leaf in after.items()
                    }
                    before = y[:, :, step - 1] if step else np.zeros_like(out)
                    out = np.where(runs, out, before)
                    out[..., -1:] = after["last"]
                y[:, :, step], leaves = out, after
        return y[..., :-1], y[..., -1], within(leaves, "cell")

    def step(
        self, x: np.ndarray, state: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        with one_thread():
            return self._stack.step(self._own, x, dict(state), np)
