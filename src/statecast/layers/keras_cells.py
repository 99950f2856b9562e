"""Keras's cells as cells of ``statecast.recurrence.cells``, so that the kernels can run them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import ops, tree

from statecast.errors import ArgumentError
from statecast.recurrence import cells
from statecast.recurrence.cells import ACTIVATIONS, Cell, Leaves, Weights


def leaf_names(cell: Any) -> Any:
    """The names of a Keras cell's leaves, nested as the cell nests its states."""
    if isinstance(cell, keras.layers.StackedRNNCells):
        return [_prefixed(leaf_names(inner), i) for i, inner in enumerate(cell.cells)]
    if isinstance(cell, keras.layers.LSTMCell):
        return ["h", "c"]
    if isinstance(cell, (keras.layers.GRUCell, keras.layers.SimpleRNNCell)):
        return "h"

    def name(sizes: Any, path: str) -> Any:
        if isinstance(sizes, int):
            return path or "state"
        return [name(size, f"{path}/{i}" if path else str(i)) for i, size in enumerate(sizes)]

    return name(cell.state_size, "")


def flat_shapes(shapes: Any) -> list[tuple[int | None, ...]]:
    """The shapes in nested tuples or lists, in order."""
    if all(size is None or isinstance(size, int) for size in shapes):
        return [tuple(shapes)]
    return [shape for inner in shapes for shape in flat_shapes(inner)]


def _prefixed(names: Any, layer: int) -> Any:
    return tree.map_structure(lambda name: f"{layer}/{name}", names)


@dataclass(frozen=True, eq=False)
class KerasCell(Cell):
    """Any Keras cell, nested or custom, as a ``Cell`` that the loop kernel can run.

    Dropout masks are drawn before the first step, as in Keras.

    Parameters
    ----------
    layer : Keras cell
        It holds the weights.
    width : tuple of int
        The shape of one step's input.
    training : bool
    """

    layer: Any
    width: tuple[int, ...]
    training: bool = False

    pure: ClassVar[bool] = False  # a step uses the layer's weights

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return state_shapes(self.layer)

    def weight_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        return {}

    def step(self, weights: Weights, x: Any, state: Leaves, xp: Any) -> tuple[Any, Leaves]:
        names = leaf_names(self.layer)
        states = tree.map_structure(lambda name: state[name], names)
        options = {}
        if getattr(self.layer, "_call_has_training_arg", False):
            options["training"] = self.training
        if len(self.width) > 1:  # inputs of more than one axis come flattened
            x = xp.reshape(x, (-1, *self.width))
        y, after = self.layer(x, states if isinstance(states, list) else [states], **options)
        leaves = dict(zip(tree.flatten(names), tree.flatten(after), strict=True))
        return y, {name: ops.cast(leaf, state[name].dtype) for name, leaf in leaves.items()}


def state_shapes(cell: Any) -> dict[str, tuple[int, ...]]:
    """Leaf name to shape, without rows, of a Keras cell.

    Raises
    ------
    ArgumentError
        ``state_size`` does not have one whole number for each state.
    """
    names, sizes = tree.flatten(leaf_names(cell)), tree.flatten(cell.state_size)
    if len(names) != len(sizes):
        raise ArgumentError(
            f"cell {type(cell).__name__}: state_size: expected a whole number for each state, in "
            f"a list where there are several; received {cell.state_size}."
        )
    return {name: (size,) for name, size in zip(names, sizes, strict=True)}


def stock_cell(cell: Any) -> Any:
    """A cell of Keras itself as the equal ``Cell``, which any kernel may run; None where there is
    none: custom cells, recurrent dropout, other activations."""
    if type(cell) is keras.layers.StackedRNNCells:
        inner = [stock_cell(c) for c in cell.cells]
        if any(c is None for c in inner) or any(c.dropout for c in cell.cells):
            return None
        return cells.Stack(inner)
    kinds = {
        keras.layers.SimpleRNNCell: cells.SimpleRNN,
        keras.layers.GRUCell: cells.GRU,
        keras.layers.LSTMCell: cells.LSTM,
    }
    if type(cell) not in kinds or cell.recurrent_dropout:
        return None
    options: dict[str, Any] = {"units": cell.units, "use_bias": cell.use_bias}
    for role in ("activation", "recurrent_activation"):
        function = getattr(cell, role, None)
        if function is not None:
            name = getattr(function, "__name__", None)
            if name not in ACTIVATIONS or keras.activations.get(name) is not function:
                return None
            options[role] = name
    if isinstance(cell, keras.layers.GRUCell):
        options["reset_after"] = cell.reset_after
    return kinds[type(cell)](**options)


def stock_weights(cell: Any) -> dict[str, Any]:
    """The weights of a cell of Keras itself, by the names of ``Cell.weight_shapes``."""
    if isinstance(cell, keras.layers.StackedRNNCells):
        return {
            f"{layer}/{name}": weight
            for layer, inner in enumerate(cell.cells)
            for name, weight in stock_weights(inner).items()
        }
    names = ("kernel", "recurrent_kernel", "bias")
    found = {name: getattr(cell, name, None) for name in names}
    return {name: ops.convert_to_tensor(w) for name, w in found.items() if w is not None}


@dataclass(frozen=True)
class TracedCell(Cell):
    """A cell whose output is followed by all leaves of its next state, in one array."""

    cell: Cell

    @property
    def pure(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.cell.pure

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return self.cell.state_shapes

    def weight_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        return self.cell.weight_shapes(width)

    def step(self, weights: Weights, x: Any, state: Leaves, xp: Any) -> tuple[Any, Leaves]:
        y, after = self.cell.step(weights, x, state, xp)
        return xp.concatenate([y, *after.values()], axis=-1), after
