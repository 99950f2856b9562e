"""Recurrent cells: one pure step each, the reference of all kernels.

A cell is a small frozen description without weights. ``step`` takes the weights, the input and the
state, and returns the output and the next state. Arrays are NumPy's (for the float64 reference) or
those of a Keras backend; the namespace ``xp`` is ``numpy`` or ``keras.ops``.

All arrays may have additional first axes (an ensemble's members, say): weights
``(..., in, gates * units)``, inputs ``(..., rows, in)``, leaves ``(..., rows, units)``.

Weights, the order of gates, and equations are Keras's, so weights are interchangeable.

To add a cell, see "How to add a part" in the guide for contributors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from statecast.checks import check_choice, check_whole
from statecast.errors import ArgumentError

Leaves = dict[str, Any]
Weights = Mapping[str, Any]


def _sigmoid(x: Any, xp: Any) -> Any:
    # With tanh, which does not overflow and is in both namespaces.
    return 0.5 * (xp.tanh(0.5 * x) + 1.0)


ACTIVATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "tanh": lambda x, xp: xp.tanh(x),
    "sigmoid": _sigmoid,
    "relu": lambda x, xp: xp.maximum(x, 0.0),
    "linear": lambda x, xp: x,
}


class Cell(ABC):
    """One step of a recurrence, as a description without weights.

    Equal cells compute the same. ``pure`` means that the step depends on its arguments alone.

    Examples
    --------
    >>> from statecast import cells
    >>> cells.LSTM(4) == cells.LSTM(4)
    True
    """

    pure: ClassVar[bool] = True

    @property
    @abstractmethod
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Leaf name to shape, without rows."""

    @abstractmethod
    def weight_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """Weight name to shape, for inputs of ``width`` features."""

    @abstractmethod
    def step(self, weights: Weights, x: Any, state: Leaves, xp: Any) -> tuple[Any, Leaves]:
        """Advance one step: the output ``(..., rows, out)`` and the next leaves."""


@dataclass(frozen=True)
class Gated(Cell):
    """The base of SimpleRNN, GRU and LSTM: their options, checks and weights.

    Examples
    --------
    >>> from statecast import cells
    >>> cells.GRU(4, activation="relu").weight_shapes(3)["kernel"]
    (3, 12)
    """

    units: int
    activation: str = "tanh"
    use_bias: bool = True

    gates: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_whole("units", self.units)
        for name in ("activation", "recurrent_activation"):
            check_choice(name, getattr(self, name, "tanh"), sorted(ACTIVATIONS))

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"h": (self.units,)}

    def weight_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        columns = self.gates * self.units
        shapes: dict[str, tuple[int, ...]] = {
            "kernel": (width, columns),
            "recurrent_kernel": (self.units, columns),
        }
        if self.use_bias:
            shapes["bias"] = (columns,)
        return shapes

    def output(self, state: Leaves) -> Any:
        """The output of the step after which the state is ``state``."""
        return state["h"]

    def _affine(self, x: Any, kernel: Any, bias: Any, xp: Any) -> Any:
        y = xp.matmul(x, kernel)
        return y if bias is None else y + bias[..., None, :]


@dataclass(frozen=True)
class SimpleRNN(Gated):
    """Elman's recurrence (1990): ``h = activation(x W + h U + b)``.

    Examples
    --------
    >>> from statecast import cells
    >>> cells.SimpleRNN(4).state_shapes, cells.SimpleRNN(4).weight_shapes(2)
    ({'h': (4,)}, {'kernel': (2, 4), 'recurrent_kernel': (4, 4), 'bias': (4,)})
    """

    def step(self, weights: Weights, x: Any, state: Leaves, xp: Any) -> tuple[Any, Leaves]:
        z = self._affine(x, weights["kernel"], weights.get("bias"), xp)
        z = z + xp.matmul(state["h"], weights["recurrent_kernel"])
        h = ACTIVATIONS[self.activation](z, xp)
        return h, {"h": h}


@dataclass(frozen=True)
class GRU(Gated):
    """Gated recurrent unit, Cho et al. (2014); gates in the order z, r, h, as in Keras.

    With ``reset_after`` (Keras's default, cuDNN's form) the reset gate is applied after the
    recurrent product, which has a bias of its own: ``bias`` is then ``(2, 3 * units)``,
    else ``(3 * units,)``.

    Examples
    --------
    >>> from statecast import cells
    >>> cells.GRU(4).state_shapes, cells.GRU(4).weight_shapes(2)["bias"]
    ({'h': (4,)}, (2, 12))
    """

    recurrent_activation: str = "sigmoid"
    reset_after: bool = True

    gates: ClassVar[int] = 3

    def weight_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        shapes = super().weight_shapes(width)
        if self.use_bias and self.reset_after:
            shapes["bias"] = (2, 3 * self.units)
        return shapes

    def step(self, weights: Weights, x: Any, state: Leaves, xp: Any) -> tuple[Any, Leaves]:
        gate, act = ACTIVATIONS[self.recurrent_activation], ACTIVATIONS[self.activation]
        h, kernel = state["h"], weights["recurrent_kernel"]
        bias = weights.get("bias")
        if self.reset_after:
            x_bias, h_bias = (None, None) if bias is None else (bias[..., 0, :], bias[..., 1, :])
            xz, xr, xh = xp.split(self._affine(x, weights["kernel"], x_bias, xp), 3, axis=-1)
            hz, hr, hh = xp.split(self._affine(h, kernel, h_bias, xp), 3, axis=-1)
            z, r = gate(xz + hz, xp), gate(xr + hr, xp)
            candidate = act(xh + r * hh, xp)
        else:
            xz, xr, xh = xp.split(self._affine(x, weights["kernel"], bias, xp), 3, axis=-1)
            cut = 2 * self.units
            hz, hr = xp.split(xp.matmul(h, kernel[..., :cut]), 2, axis=-1)
            z, r = gate(xz + hz, xp), gate(xr + hr, xp)
            candidate = act(xh + xp.matmul(r * h, kernel[..., cut:]), xp)
        h = z * h + (1.0 - z) * candidate
        return h, {"h": h}


@dataclass(frozen=True)
class LSTM(Gated):
    """Long short-term memory, Hochreiter and Schmidhuber (1997), with forget gate
    (Gers et al. 2000); gates in the order i, f, c, o, as in Keras.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import cells
    >>> lstm = cells.LSTM(4)
    >>> weights = {name: np.zeros(shape) for name, shape in lstm.weight_shapes(2).items()}
    >>> state = {name: np.ones((1, *shape)) for name, shape in lstm.state_shapes.items()}
    >>> output, after = lstm.step(weights, np.ones((1, 2)), state, np)
    >>> after["c"].tolist()
    [[0.5, 0.5, 0.5, 0.5]]
    """

    recurrent_activation: str = "sigmoid"

    gates: ClassVar[int] = 4

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"h": (self.units,), "c": (self.units,)}

    def step(self, weights: Weights, x: Any, state: Leaves, xp: Any) -> tuple[Any, Leaves]:
        gate, act = ACTIVATIONS[self.recurrent_activation], ACTIVATIONS[self.activation]
        z = self._affine(x, weights["kernel"], weights.get("bias"), xp)
        z = z + xp.matmul(state["h"], weights["recurrent_kernel"])
        i, f, g, o = xp.split(z, 4, axis=-1)
        c = gate(f, xp) * state["c"] + gate(i, xp) * act(g, xp)
        h = gate(o, xp) * act(c, xp)
        return h, {"h": h, "c": c}


@dataclass(frozen=True)
class Stack(Cell):
    """Cells one on top of another; the output of each is the input of the next.

    Names carry the layer: leaf ``1/h``, weight ``0/kernel``.

    Examples
    --------
    >>> from statecast import cells
    >>> cells.Stack([cells.GRU(4), cells.GRU(2)]).state_shapes
    {'0/h': (4,), '1/h': (2,)}
    """

    cells: Sequence[Gated]

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(self.cells))
        if not self.cells:
            raise ArgumentError("A stack needs at least one cell; received none.")

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            f"{layer}/{name}": shape
            for layer, cell in enumerate(self.cells)
            for name, shape in cell.state_shapes.items()
        }

    def weight_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        shapes = {}
        for layer, cell in enumerate(self.cells):
            for name, shape in cell.weight_shapes(width).items():
                shapes[f"{layer}/{name}"] = shape
            width = cell.units
        return shapes

    def step(self, weights: Weights, x: Any, state: Leaves, xp: Any) -> tuple[Any, Leaves]:
        after: Leaves = {}
        for layer, cell in enumerate(self.cells):
            x, leaves = cell.step(within(weights, layer), x, within(state, layer), xp)
            after.update({f"{layer}/{name}": leaf for name, leaf in leaves.items()})
        return x, after

    def output(self, state: Leaves) -> Any:
        """The output of the step after which the state is ``state``."""
        top = len(self.cells) - 1
        return self.cells[top].output(within(state, top))


@dataclass(frozen=True)
class ClosedLoop(Cell):
    """A cell with feedback where nothing was observed.

    The inputs are a value, whether it was observed (1) or not (0), and any others. A value that was
    not observed is replaced by the feedback ``h feed + base + decay last``, with the output ``h``
    before the step and ``last``, the value of the step before. The output is the cell's, followed
    by the value that was its input.

    The state is the cell's, ``last``, and ``base``, a constant of the row.

    Examples
    --------
    >>> from statecast import cells
    >>> cells.ClosedLoop(cells.GRU(4)).state_shapes
    {'cell/h': (4,), 'last': (1,), 'base': (1,)}
    """

    cell: Gated | Stack

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {f"cell/{name}": shape for name, shape in self.cell.state_shapes.items()}
        return shapes | {"last": (1,), "base": (1,)}

    def weight_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        shapes = {f"cell/{name}": shape for name, shape in self.cell.weight_shapes(width).items()}
        top = self.cell.cells[-1] if isinstance(self.cell, Stack) else self.cell
        return shapes | {"feed": (top.units, 1), "decay": (1,)}

    def step(self, weights: Weights, x: Any, state: Leaves, xp: Any) -> tuple[Any, Leaves]:
        inner = within(state, "cell")
        own = xp.matmul(self.cell.output(inner), weights["feed"])
        own = own + state["base"] + weights["decay"][..., None, :] * state["last"]
        value = xp.where(x[..., 1:2] > 0, x[..., :1], own)
        taken = xp.concatenate([value, x[..., 1:]], axis=-1)
        y, inner = self.cell.step(within(weights, "cell"), taken, inner, xp)
        after = {f"cell/{name}": leaf for name, leaf in inner.items()}
        return xp.concatenate([y, value], axis=-1), {
            **after,
            "last": value,
            "base": state["base"],
        }


def within(named: Mapping[str, Any], scope: object) -> dict[str, Any]:
    """The entries whose names start with ``scope/``, without it: weights or leaves of a layer.

    Examples
    --------
    >>> from statecast import cells
    >>> cells.within({"0/h": 1, "1/h": 2}, 1)
    {'h': 2}
    """
    start = f"{scope}/"
    return {name[len(start) :]: v for name, v in named.items() if name.startswith(start)}


CELLS: Mapping[str, type[Gated]] = {"simple_rnn": SimpleRNN, "gru": GRU, "lstm": LSTM}
