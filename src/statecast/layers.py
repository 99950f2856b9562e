"""Keras layers that put recurrent state in the user's hands.

``InitialState`` computes where a recurrence starts. An ensemble is one layer whose
weights carry a leading ``members`` axis, so that all members run as one batched product.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from statecast.cells import Cell, cell_config, cell_from_config
from statecast.errors import ArgumentError, DataError, StateError

SOURCES = ("features", "learned", "zeros")


@keras.saving.register_keras_serializable("statecast")
class Affine(keras.layers.Layer):
    """``activation(x W + b)`` with an optional leading ``members`` axis.

    Parameters
    ----------
    units : int
        Width of the output.
    activation : str, optional
        Any Keras activation; none by default.
    members : int, optional
        Members of an ensemble; weights are then ``(members, in, units)``.
    scale : float
        The initial weights' standard deviation is ``scale / sqrt(in)``.
    seed : int or keras.random.SeedGenerator, optional

    Call with ``(..., rows, in)``, or ``(members or 1, rows, in)`` in an ensemble; returns
    ``(..., rows, units)``.
    """

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        *,
        members: int | None = None,
        scale: float = 1.0,
        seed: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.activation = keras.activations.get(activation)
        self.members = members
        self.scale = scale
        self.seed = seed

    def build(self, shape: tuple[int | None, ...]) -> None:
        lead = () if self.members is None else (self.members,)
        width = shape[-1] or 0
        # Not Glorot: it would count the members as part of the fan.
        normal = keras.initializers.RandomNormal(
            stddev=self.scale / max(width, 1) ** 0.5, seed=self.seed
        )
        self.kernel = self.add_weight(
            name="kernel", shape=(*lead, width, self.units), initializer=normal
        )
        self.bias = self.add_weight(name="bias", shape=(*lead, self.units), initializer="zeros")

    def call(self, x: Any) -> Any:
        return self.activation(ops.matmul(x, self.kernel) + self.bias[..., None, :])

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        lead = shape[:-2] if self.members is None else (self.members,)
        return (*lead, shape[-2], self.units)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "members": self.members,
            "scale": self.scale,
            "seed": self.seed if isinstance(self.seed, int) else None,
        }


@keras.saving.register_keras_serializable("statecast")
class InitialState(keras.layers.Layer):
    """The initial state of a cell or a stack of cells: where a reset goes.

    With ``source="features"`` the static features X set it: hidden layers shared by all
    leaves (``depth - 1`` of them), then a linear head for each leaf, so that h and c, and
    each layer of a stack, get vectors of their own (Karpathy and Fei-Fei 2015 condition a
    recurrence on image features in this way). The gradient reaches X.

    Parameters
    ----------
    cell : Cell
        Whose state: ``cells.LSTM(32)``, ``cells.Stack([cells.GRU(16), cells.GRU(16)])``, ...
    source : {"features", "learned", "zeros"}, float or mapping of str to array
        From X; one trained vector for every row; zeros; one number in every place; or a
        constant of the leaf's shape (without rows) for each leaf.
    depth : int
        Layers between X and the state, heads included; for ``"features"``.
    width : int, optional
        Units of the hidden layers; by default those of the widest leaf.
    activation : str
        Of the hidden layers.
    members : int, optional
        Members of an ensemble: weights and leaves get a leading axis.
    seed : int, optional

    Call
    ----
    x : tensor, float, ``(rows, features)``, or ``(members or 1, rows, features)``
        Other sources than ``"features"`` take only the number of rows from it.
    returns : dict of str to tensor, ``(rows, units)`` or ``(members, rows, units)``

    Raises
    ------
    ArgumentError
        An unknown source, or depth or width below 1.
    StateError
        A constant whose leaves or shapes are not the cell's.
    DataError
        ``source="features"`` and X has no feature.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import cells
    >>> X = np.ones((2, 3), "float32")
    >>> start = InitialState(cells.LSTM(4), depth=2)(X)
    >>> {name: tuple(leaf.shape) for name, leaf in start.items()}
    {'h': (2, 4), 'c': (2, 4)}
    """

    def __init__(
        self,
        cell: Cell,
        source: Any = "features",
        *,
        depth: int = 1,
        width: int | None = None,
        activation: str = "tanh",
        members: int | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cell = cell
        self.source = _checked_source(source, cell)
        for name, value in (("depth", depth), ("width", width)):
            if value is not None and value < 1:
                raise ArgumentError(f"{name}: expected 1 or more, received {value}.")
        self.depth = depth
        self.width = width or max(shape[-1] for shape in cell.state_shapes.values())
        self.activation = activation
        self.members = members
        self.seed = seed

    def build(self, shape: tuple[int | None, ...]) -> None:
        lead = () if self.members is None else (self.members,)
        if self.source == "learned":
            self.leaves = {
                name: self.add_weight(
                    name=name.replace("/", "_"), shape=(*lead, *leaf), initializer="zeros"
                )
                for name, leaf in self.cell.state_shapes.items()
            }
        elif self.source == "features":
            if not shape[-1]:
                raise DataError(
                    "X has no feature, so it cannot set the initial state. Pass static "
                    'features, or choose source="learned" or "zeros".'
                )
            # One generator for all: the same number twice would start h and c alike.
            seed = keras.random.SeedGenerator(self.seed) if self.seed is not None else None
            options = {"members": self.members, "seed": seed, "dtype": self.dtype_policy}
            self.trunk = [
                Affine(self.width, self.activation, name=f"trunk_{i}", **options)
                for i in range(self.depth - 1)
            ]
            self.heads = {
                name: Affine(leaf[-1], scale=0.5, name=name.replace("/", "_"), **options)
                for name, leaf in self.cell.state_shapes.items()
            }
            for layer in self.trunk:
                layer.build(shape)
                shape = (*lead, shape[-2], self.width)
            for layer in self.heads.values():
                layer.build(shape)

    def call(self, x: Any) -> dict[str, Any]:
        if self.source == "features":
            for layer in self.trunk:
                x = layer(x)
            return {name: layer(x) for name, layer in self.heads.items()}
        rows = ops.zeros_like(x[..., :1]) if x.shape[-1] else ops.zeros((*ops.shape(x)[:-1], 1))
        rows = ops.cast(rows, self.compute_dtype)
        if self.members is not None:  # x may stand for all members alike
            rows = rows + ops.zeros((self.members, 1, 1), self.compute_dtype)
        return {name: rows + self._constant(name) for name in self.cell.state_shapes}

    def _constant(self, name: str) -> Any:
        if self.source == "learned":
            return ops.cast(self.leaves[name][..., None, :], self.compute_dtype)
        shape = self.cell.state_shapes[name]
        value = self.source[name] if isinstance(self.source, dict) else self.source
        value = 0.0 if self.source == "zeros" else value
        return ops.convert_to_tensor(np.broadcast_to(value, shape), dtype=self.compute_dtype)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> dict[str, Any]:
        lead = shape[:-2] if self.members is None else (self.members,)
        return {name: (*lead, shape[-2], *leaf) for name, leaf in self.cell.state_shapes.items()}

    def get_config(self) -> dict[str, Any]:
        source = self.source
        if isinstance(source, dict):
            source = {name: value.tolist() for name, value in source.items()}
        return super().get_config() | {
            "cell": cell_config(self.cell),
            "source": source,
            "depth": self.depth,
            "width": self.width,
            "activation": self.activation,
            "members": self.members,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> InitialState:
        return cls(
            cell_from_config(config["cell"]), **{k: config[k] for k in config if k != "cell"}
        )


def _checked_source(source: Any, cell: Cell) -> Any:
    if isinstance(source, str) and source in SOURCES:
        return source
    if isinstance(source, Mapping):
        constants = {name: np.asarray(value, "float32") for name, value in source.items()}
        if set(constants) != set(cell.state_shapes):
            raise StateError(
                f"Expected constants for {list(cell.state_shapes)}, received {list(constants)}."
            )
        for name, shape in cell.state_shapes.items():
            if constants[name].shape != shape:
                raise StateError(
                    f"Leaf {name!r}: expected a constant of shape {shape}, "
                    f"received {constants[name].shape}."
                )
        return constants
    if isinstance(source, (int, float)) and not isinstance(source, bool):
        return float(source)
    raise ArgumentError(
        f"source: expected one of {SOURCES}, a number, or a constant for each leaf; "
        f"received {source!r}."
    )
