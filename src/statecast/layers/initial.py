"""``InitialState``: from static features, learned, zeros or constants to the state of any cell."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from statecast.errors import ArgumentError, DataError, StateError
from statecast.files import ALIGNMENT
from statecast.recurrence.cells import within
from statecast.state import refuse_without_numbers

SOURCES = ("features", "learned", "zeros")


def starts(known: Mapping[str, np.ndarray], name: str, drawn: Any) -> Any:
    """The initializer of a weight: its value where that is known, else ``drawn``."""
    if name not in known:
        return drawn
    return lambda shape, dtype=None: ops.convert_to_tensor(_copied_once(known[name]), dtype=dtype)


def zeros(shape: Sequence[int], dtype: Any = None) -> Any:
    """Keras's initializer of this name, for which JAX compiles no program."""
    return ops.convert_to_tensor(np.zeros(tuple(shape), "float32"), dtype=dtype)


def normal(rng: np.random.Generator, fan_in: int, scale: float = 1.0) -> Any:
    """An initializer: normal numbers with the standard deviation ``scale / sqrt(fan_in)``, the same
    on every backend."""

    def draw(shape: Sequence[int], dtype: Any = None) -> Any:
        values = rng.standard_normal(tuple(shape)) * scale / max(fan_in, 1) ** 0.5
        return ops.convert_to_tensor(values.astype("float32"), dtype=dtype)

    return draw


def _generator(seed: int | np.random.Generator | None) -> np.random.Generator:
    """The generator of a seed; without one, one that ``keras.utils.set_random_seed`` decides."""
    return np.random.default_rng(random.getrandbits(31) if seed is None else seed)


def _copied_once(array: np.ndarray) -> Any:
    """An array for ``convert_to_tensor``; on TensorFlow, which would copy it twice, a tensor that
    is one copy."""
    # TensorFlow ends the process for memory that is not aligned.
    aligned = array.nbytes >= 2**20 and array.ctypes.data % ALIGNMENT == 0
    plain = array.flags.c_contiguous and array.flags.writeable and array.dtype == np.float32
    if keras.backend.backend() != "tensorflow" or not aligned or not plain:
        return array
    import tensorflow as tf

    raw: Any = tf.raw_ops
    with tf.device("cpu:0"):
        return raw.DeepCopy(x=tf.experimental.dlpack.from_dlpack(array.__dlpack__()))


@keras.saving.register_keras_serializable("statecast")
class Affine(keras.layers.Layer):
    """``activation(x W + b)`` with an optional leading ``members`` axis.

    Call with ``(..., rows, in)``, or ``(members or 1, rows, in)`` in an ensemble; returns
    ``(..., rows, units)``.

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
    seed : int or numpy.random.Generator, optional
        Of the initial weights, which are then the same on every backend.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast.layers import Affine
    >>> tuple(Affine(4, "tanh")(np.ones((2, 3), "float32")).shape)
    (2, 4)
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
        self.given: Mapping[str, np.ndarray] = {}  # known weights, by name

    def build(self, shape: tuple[int | None, ...]) -> None:
        lead = () if self.members is None else (self.members,)
        width = shape[-1] or 0
        # Not Glorot: it would count the members as part of the fan.
        drawn = normal(_generator(self.seed), width, self.scale)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*lead, width, self.units),
            initializer=starts(self.given, "kernel", drawn),
        )
        self.bias = self.add_weight(
            name="bias",
            shape=(*lead, self.units),
            initializer=starts(self.given, "bias", zeros),
        )
        self.given = {}  # the weights have them now

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
    """The initial state of a cell or a stack of cells: where a fresh row starts.

    With ``source="features"`` it is computed from the static features X: ``depth - 1`` hidden
    layers shared by all leaves, then a linear layer for each leaf, so that h and c, and each layer
    of a stack, get different vectors. Karpathy and Fei-Fei (2015) condition a recurrence on image
    features in this way. The gradient reaches X.

    Parameters
    ----------
    cell : Cell, layer, or mapping of str to tuple of int
        The cell whose state it is: ``cells.LSTM(32)``,
        ``cells.Stack([cells.GRU(16), cells.GRU(16)])``, a layer of ``statecast.layers``; or the
        leaves' names and shapes (without rows).
    source : {"features", "learned", "zeros"}, float or mapping of str to array
        Computed from X; one trained vector, the same for every row; zeros; one number for all
        units; or for each leaf a constant of its shape (without rows).
    depth : int
        Layers from X to the state, the last ones included; for ``"features"``.
    width : int, optional
        Units of the hidden layers; by default those of the widest leaf.
    activation : str
        The activation of the hidden layers.
    members : int, optional
        Members of an ensemble: weights and leaves get a leading axis.
    seed : int, optional
        Of the initial weights, which are then the same on every backend.

    Call
    ----
    x : tensor, float, ``(rows, features)``, or ``(members or 1, rows, features)``
        The static features. Sources other than ``"features"`` use only its number of rows.
    returns : dict of str to tensor, ``(rows, units)`` or ``(members, rows, units)``

    Raises
    ------
    ArgumentError
        An unknown source, or depth or width below 1.
    StateError
        Constants with other leaves or shapes than the cell's.
    DataError
        ``source="features"`` and X has no features.

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
        cell: Any,
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
        shapes = getattr(cell, "state_shapes", cell)
        self.state_shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.source = check_source(source, self.state_shapes)
        for name, value in (("depth", depth), ("width", width)):
            if value is not None and value < 1:
                raise ArgumentError(f"{name}: expected 1 or more, received {value}.")
        self.depth = depth
        self.width = width or max(shape[-1] for shape in self.state_shapes.values())
        self.activation = activation
        self.members = members
        self.seed = seed
        self.given: Mapping[str, np.ndarray] = {}  # known weights, by name

    def build(self, shape: tuple[int | None, ...]) -> None:
        lead = () if self.members is None else (self.members,)
        if self.source == "learned":
            self.leaves = {
                name: self.add_weight(
                    name=name.replace("/", "_"),
                    shape=(*lead, *leaf),
                    initializer=starts(self.given, name, zeros),
                )
                for name, leaf in self.state_shapes.items()
            }
        elif self.source == "features":
            if not shape[-1]:
                raise DataError(
                    "X has no features, so it cannot set the initial state. Pass static "
                    'features, or choose source="learned" or "zeros".'
                )
            # One generator for all layers: with the same seed h and c would start equal.
            rng = _generator(self.seed)
            options = {"members": self.members, "seed": rng, "dtype": self.dtype_policy}
            self.trunk = [
                Affine(self.width, self.activation, name=f"trunk_{i}", **options)
                for i in range(self.depth - 1)
            ]
            self.heads = {
                name: Affine(leaf[-1], scale=0.5, name=name.replace("/", "_"), **options)
                for name, leaf in self.state_shapes.items()
            }
            for i, layer in enumerate(self.trunk):
                layer.given = within(self.given, f"trunk_{i}")
                layer.build(shape)
                shape = (*lead, shape[-2], self.width)
            for name, layer in self.heads.items():
                layer.given = within(self.given, name)
                layer.build(shape)
        self.given = {}  # the weights have them now

    def call(self, x: Any) -> dict[str, Any]:
        if self.source == "features":
            for layer in self.trunk:
                x = layer(x)
            return {name: layer(x) for name, layer in self.heads.items()}
        rows = ops.zeros_like(x[..., :1]) if x.shape[-1] else ops.zeros((*ops.shape(x)[:-1], 1))
        rows = ops.cast(rows, self.compute_dtype)
        if self.members is not None:  # x may have one entry for all members
            rows = rows + ops.zeros((self.members, 1, 1), self.compute_dtype)
        return {name: rows + self._constant(name) for name in self.state_shapes}

    def _constant(self, name: str) -> Any:
        if self.source == "learned":
            return ops.cast(self.leaves[name][..., None, :], self.compute_dtype)
        shape = self.state_shapes[name]
        value = self.source[name] if isinstance(self.source, dict) else self.source
        value = 0.0 if self.source == "zeros" else value
        return ops.convert_to_tensor(np.broadcast_to(value, shape), dtype=self.compute_dtype)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> dict[str, Any]:
        lead = shape[:-2] if self.members is None else (self.members,)
        return {name: (*lead, shape[-2], *leaf) for name, leaf in self.state_shapes.items()}

    def get_config(self) -> dict[str, Any]:
        source = self.source
        if isinstance(source, dict):
            source = {name: value.tolist() for name, value in source.items()}
        return super().get_config() | {
            "cell": {name: list(shape) for name, shape in self.state_shapes.items()},
            "source": source,
            "depth": self.depth,
            "width": self.width,
            "activation": self.activation,
            "members": self.members,
            "seed": self.seed,
        }


def check_source(source: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """A checked ``source`` of an initial state with leaves of ``shapes``, see ``InitialState``;
    constants as float32 arrays.

    Raises
    ------
    ArgumentError, StateError
        As ``InitialState`` raises them.
    """
    if isinstance(source, str) and source in SOURCES:
        return source
    if isinstance(source, Mapping):
        for name, value in source.items():
            refuse_without_numbers(value, f"Leaf {name!r}")
        constants = {name: np.asarray(value, "float32") for name, value in source.items()}
        if set(constants) != set(shapes):
            raise StateError(f"Expected constants for {list(shapes)}, received {list(constants)}.")
        for name, shape in shapes.items():
            if constants[name].shape != shape:
                raise StateError(
                    f"Leaf {name!r}: expected a constant of shape {shape}, "
                    f"received {constants[name].shape}."
                )
            if not np.isfinite(constants[name]).all():
                raise StateError(f"Leaf {name!r}: expected finite numbers.")
        return constants
    if isinstance(source, (int, float)) and not isinstance(source, bool):
        if not np.isfinite(np.float32(source)):
            raise StateError(f"Expected a finite number, received {source}.")
        return float(source)
    raise ArgumentError(
        f"source: expected one of {SOURCES}, a number, or a constant for each leaf; "
        f"received {source!r}."
    )
