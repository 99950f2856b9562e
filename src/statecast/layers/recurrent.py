"""Keras layers that put recurrent state in the user's hands.

``LSTM``, ``GRU``, ``SimpleRNN``, ``RNN`` and ``Bidirectional`` take the place of Keras's:
the same arguments, weights, outputs and config, and a state that can be read, set and
reset. Two things are never confused. The *initial state* is where a fresh row starts:
``initial_state=`` in the call, or else the layer's own (``set_initial_state``). The
*current state* is where a running row's next step starts (``state``, ``reset_states``).

``InitialState`` computes an initial state from static features. An ensemble is one layer
whose weights carry a leading ``members`` axis, so that all members run as one batched
product.

A fresh process imports this module before ``keras.models.load_model``, so that Keras finds them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops, tree
from keras.src.backend import get_keras_mask
from keras.src.backend.common.stateless_scope import in_stateless_scope

from statecast.errors import ArgumentError, DataError, NotStatefulError, StateError
from statecast.layers.current import (
    CurrentState,
    InitialVectors,
    Joined,
    LiveState,
    StateVariable,
    in_order,
    refuse_traced,
    runs_again,
    seen_before,
    settle_layer,
)
from statecast.recurrence import cells
from statecast.recurrence.cells import ACTIVATIONS, Cell, Leaves, Weights, within
from statecast.recurrence.run import explain, run
from statecast.state import State, at_rest, refuse_without_numbers

SOURCES = ("features", "learned", "zeros")
KERNEL_OF: Mapping[Any, str | None] = {"auto": None, True: "fused", False: "loop"}  # use_cudnn


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
    cell : Cell, layer, or mapping of str to tuple of int
        Whose state: ``cells.LSTM(32)``, ``cells.Stack([cells.GRU(16), cells.GRU(16)])``, a
        layer of this module, or leaf names and shapes (without rows) themselves.
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
        self.source = _checked_source(source, self.state_shapes)
        for name, value in (("depth", depth), ("width", width)):
            if value is not None and value < 1:
                raise ArgumentError(f"{name}: expected 1 or more, received {value}.")
        self.depth = depth
        self.width = width or max(shape[-1] for shape in self.state_shapes.values())
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
                for name, leaf in self.state_shapes.items()
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
                for name, leaf in self.state_shapes.items()
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


def _checked_source(source: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
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


# -- Keras's cells as ours -------------------------------------------------------------------


def _names(cell: Any) -> Any:
    """The leaves' names of a Keras cell, nested as the cell nests its states."""
    if isinstance(cell, keras.layers.StackedRNNCells):
        return [_scoped(_names(inner), i) for i, inner in enumerate(cell.cells)]
    if isinstance(cell, keras.layers.LSTMCell):
        return ["h", "c"]
    if isinstance(cell, (keras.layers.GRUCell, keras.layers.SimpleRNNCell)):
        return "h"

    def name(sizes: Any, path: str) -> Any:
        if isinstance(sizes, int):
            return path or "state"
        return [name(size, f"{path}/{i}" if path else str(i)) for i, size in enumerate(sizes)]

    return name(cell.state_size, "")


def _scoped(names: Any, scope: int) -> Any:
    return tree.map_structure(lambda name: f"{scope}/{name}", names)


@dataclass(frozen=True, eq=False)
class _KerasCell(Cell):
    """Any Keras cell, nested and custom ones too, as one of ours; it owns its weights.

    The loop kernel runs it. What a step draws at random (a dropout mask) is drawn before
    the steps, as Keras does.
    """

    layer: Any
    width: tuple[int, ...]
    training: bool = False

    pure: ClassVar[bool] = False  # the weights are the layer's

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return _state_shapes(self.layer)

    def weight_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        return {}

    def step(self, weights: Weights, x: Any, state: Leaves, xp: Any) -> tuple[Any, Leaves]:
        names = _names(self.layer)
        states = tree.map_structure(lambda name: state[name], names)
        options = {}
        if getattr(self.layer, "_call_has_training_arg", False):
            options["training"] = self.training
        if len(self.width) > 1:  # steps of more than one axis came flat
            x = xp.reshape(x, (-1, *self.width))
        y, after = self.layer(x, states if isinstance(states, list) else [states], **options)
        leaves = dict(zip(tree.flatten(names), tree.flatten(after), strict=True))
        return y, {name: ops.cast(leaf, state[name].dtype) for name, leaf in leaves.items()}


def _state_shapes(cell: Any) -> dict[str, tuple[int, ...]]:
    names, sizes = tree.flatten(_names(cell)), tree.flatten(cell.state_size)
    if len(names) != len(sizes):
        raise ArgumentError(
            f"cell {type(cell).__name__}: state_size: expected a whole number for each state, in "
            f"a list where there are several; received {cell.state_size}."
        )
    return {name: (size,) for name, size in zip(names, sizes, strict=True)}


def _plain(cell: Any) -> Any:
    """A stock Keras cell as one of ours, which every kernel knows; None where it is not one."""
    if type(cell) is keras.layers.StackedRNNCells:
        inner = [_plain(c) for c in cell.cells]
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


def _weights(cell: Any) -> dict[str, Any]:
    """The weights of a stock Keras cell, by our names."""
    if isinstance(cell, keras.layers.StackedRNNCells):
        return {f"{i}/{n}": w for i, c in enumerate(cell.cells) for n, w in _weights(c).items()}
    names = ("kernel", "recurrent_kernel", "bias")
    found = {name: getattr(cell, name, None) for name in names}
    return {name: ops.convert_to_tensor(w) for name, w in found.items() if w is not None}


@dataclass(frozen=True)
class _Traced(Cell):
    """A cell that also puts out every leaf it leaves, side by side."""

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


# -- what layers with a state share ---------------------------------------------------------


class Controlled:
    """What every layer with a state can do; ``RNN`` and ``Bidirectional`` share it."""

    name: str

    def recurrences(self) -> dict[str, RNN]:
        """The layers that keep the state, by the name that goes before their leaves."""
        raise NotImplementedError

    @property
    def stateful(self) -> bool:
        """Whether the state is kept between calls; to be chosen before the layer is built.

        Raises
        ------
        StateError
            A change after the layer was built: compiled steps would not see it.
        """
        return all(layer._stateful for layer in self.recurrences().values())

    @stateful.setter
    def stateful(self, value: bool) -> None:
        layers = self.recurrences().values()
        if any(layer.built and layer._stateful != bool(value) for layer in layers):
            raise StateError(
                f"layer {self.name!r}: stateful={value} was set after the layer was built. Steps "
                "that are compiled would not see it, so it has to be chosen before. Make the layer "
                f"with stateful={value}, or take a copy: take_control(model, stateful={value})."
            )
        for layer in layers:
            layer._stateful = bool(value)

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Leaf name to shape, without rows."""
        return {
            f"{name}/{leaf}" if name else leaf: (size,)
            for name, layer in self.recurrences().items()
            for leaf, (size,) in _state_shapes(layer.cell).items()
        }

    def reset_states(
        self,
        states: Any = None,
        rows: Any = None,
        *,
        batch_size: int | None = None,
        allow_nonfinite: bool = False,
    ) -> None:
        """Reset the current state, or set it. The initial state stays as it is.

        Parameters
        ----------
        states : State, mapping of str to array, or list of arrays, optional
            What the next step starts from, ``(rows, units)`` for each leaf; a list in Keras's
            order (h, c), flat or nested. By default the rows are fresh: they start from their
            initial state.
        rows : int, list of int, slice or mask, optional
            Which rows; all by default.
        batch_size : int, optional
            How many rows there are from now on, all anew.
        allow_nonfinite : bool
            Let NaN and infinite values pass.

        Raises
        ------
        NotStatefulError
            The layer is not stateful, so a set would have no effect.
        StateError
            Other leaves, count, rank, units or rows; a row out of range; values that are no
            finite numbers; an unknown batch size. Nothing was written then.
        """
        self._joined().reset(states, rows, batch_size=batch_size, allow_nonfinite=allow_nonfinite)

    reset_state = reset_states

    def _joined(self) -> Joined:
        where = f"layer {self.name!r}"
        if not self.stateful:
            raise NotStatefulError(
                f"{where} is not stateful: it keeps no state between calls, so there is none to "
                "read or set. Make it with stateful=True, or pass initial_state= in the call."
            )
        layers = self.recurrences()
        if any(layer._current_state is None for layer in layers.values()):
            raise StateError(
                f"{where} is not built: its batch size is unknown, so it has no rows yet. Call "
                "it once, or put it into a model with Input(batch_shape=(rows, ...))."
            )
        return Joined(layers, where)

    @property
    def state(self) -> State:
        """The current state, every row: ``(rows, units)`` for each leaf, NumPy.

        What the last step left, or what was set since. A fresh row reads as the layer's own
        initial state; one that is to start from a state passed in the call has none yet.

        Raises
        ------
        NotStatefulError
            The layer is not stateful.
        StateError
            The batch size is unknown, so there are no rows yet.
        """
        return self._joined().read()

    def _check_call(self, sequences: Any, passed: Any, options: Mapping[str, Any]) -> None:
        """Refuse what Keras would make tensors of in silence, before the layer is built."""
        if in_stateless_scope():  # of Keras, which may know shapes alone
            return
        if self.stateful:
            refuse_traced([sequences])
        given = {"initial_state": passed} | {n: options.get(n) for n in ("mask", "reset")}
        for name, value in given.items():
            for array in tree.flatten(value):
                refuse_without_numbers(array, f"layer {self.name!r}: {name}")

    def __setattr__(self, name: str, value: Any) -> None:
        # Here, since Keras looks at a list of variables before any property does.
        if name in ("state", "states") and value is not None:  # None: Keras's own __init__
            raise StateError(
                f"layer {self.name!r}: what is put in place of `{name}` would not be seen by the "
                "compiled steps. Use layer.reset_states(states), or layer.states[0].assign(value)."
            )
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "state":  # the property raised an AttributeError: PyTorch would hide it
            return self._joined().read()
        inherited = getattr(super(), "__getattr__", None)
        if inherited is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return inherited(name)


# -- Keras's layers --------------------------------------------------------------------------


def _signed_as(stock: Any) -> Callable[[Any], Callable[..., None]]:
    """A decorator: a constructor with the signature of Keras's layer, and ``initial_state``.

    ``help`` shows the signature. Keras binds the arguments to it, and marks an instance made with
    arguments that have no names (``_auto_config_error_args``).
    """
    signature = inspect.signature(stock.__init__)
    *named, others = signature.parameters.values()  # the last is **kwargs
    added = inspect.Parameter("initial_state", inspect.Parameter.KEYWORD_ONLY, default=None)

    def decorate(method: Any) -> Callable[..., None]:
        @wraps(method)
        def signed(self: Any, *args: Any, **kwargs: Any) -> None:
            method(self, *args, **kwargs)

        vars(signed)["__signature__"] = signature.replace(parameters=[*named, added, others])
        return signed

    return decorate


@keras.saving.register_keras_serializable("statecast")
class RNN(Controlled, keras.layers.RNN):
    """``keras.layers.RNN`` with its state under control: any cell, any stack of cells.

    Parameters
    ----------
    *args, **kwargs
        Those of the Keras layer of the same name.
    initial_state : "zeros", "learned", number, mapping or list of arrays, optional
        The layer's own initial state, see ``set_initial_state``. By default what the cell says
        in ``get_initial_state``: zeros, for Keras's cells.

    Call
    ----
    sequences : tensor, float, ``(rows, steps, features)``
        No step is an ordinary problem: the output is zero and the state comes back.
    initial_state : list or mapping of tensors, ``(rows, units)``, optional
        Where fresh rows start, and where a reset goes; the gradient reaches it. A running row
        of a stateful layer goes on from its current state.
    mask : tensor, bool, ``(rows, steps)``, optional
        False skips the step: the state stays, the output repeats the last one (zero before the
        first step that counts).
    training : bool
    reset : tensor, bool, ``(rows,)`` or ``(rows, steps)``, optional
        Rows that start afresh at the first step, or before the given steps. No gradient passes
        a reset. With ``go_backwards`` the cut lies at the same place in time.

    Stateful
    --------
    A row is its place in the batch. A call with fewer rows than there are uses and advances
    the first; one with more finds the others fresh.

    Raises
    ------
    StateError
        An initial state of other leaves, units or rows, or a reset of another shape.
    KernelError
        ``use_cudnn=True`` and no fused kernel can run this.
    """

    _stateful = False  # see `stateful`

    @_signed_as(keras.layers.RNN)
    def __init__(self, *args: Any, initial_state: Any = None, **kwargs: Any) -> None:
        self._current_state: Any = None  # a CurrentState, once built and if stateful
        self._passed: str | None = None  # how the last call came by its initial state
        self._seen: dict[str, bool] = {}  # and whether it came with a mask or resets
        self._traces: Any = None  # a list, while `trajectory` collects
        self._source: Any = None
        self._initial: InitialVectors | None = None
        super().__init__(*args, **kwargs)
        for part in getattr(self.cell, "_flatten_layers", list)():
            part._remat_mode = (
                None  # the layer's own holds for its cell: whole steps, see `_remats`
            )
        if initial_state is not None:
            self.set_initial_state(initial_state)

    def recurrences(self) -> dict[str, RNN]:
        return {"": self}

    # -- building ------------------------------------------------------------------------

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        if isinstance(self.cell, keras.layers.Layer) and not self.cell.built:
            self.cell.build((sequences_shape[0], *sequences_shape[2:]))
            self.cell.built = True
        if self._initial is None and (self._source is not None or not self._own_start()):
            make = self._trained_vector if self._source == "learned" else self._constant_vector
            self._initial = InitialVectors(
                {leaf: make(leaf, shape) for leaf, shape in self.state_shapes.items()}
            )
        if self.stateful and self._current_state is None:
            self._current_state = CurrentState(
                self.state_shapes, self.variable_dtype, sequences_shape[0] or 0
            )

    def _trained_vector(self, leaf: str, shape: tuple[int, ...]) -> Any:
        name = f"initial_{leaf.replace('/', '_')}"
        return self.add_weight(name=name, shape=shape, initializer="zeros")

    def _constant_vector(self, leaf: str, shape: tuple[int, ...]) -> Any:
        constant = self._constant(leaf, shape)
        return StateVariable(
            lambda shape, dtype: ops.convert_to_tensor(constant, dtype),
            shape=shape,
            dtype=self.variable_dtype,
            trainable=False,
            autocast=False,
            name=f"initial_{leaf.replace('/', '_')}",
        )

    @property
    def variables(self) -> list[Any]:
        """Weights and seeds, and what carries the state; the latter is in no weight file.

        A layer that keeps no state and was told no initial state has Keras's variables.
        """
        found = super().variables
        if self._current_state is not None:
            found = found + self._current_state.variables
        elif self._source is None:
            return found
        if self._initial is not None and self._source != "learned":
            found = found + self._initial.variables
        return found

    def compute_output_shape(self, sequences_shape: Any, initial_state_shape: Any = None) -> Any:
        if initial_state_shape is not None:
            shapes = _nested_shapes(initial_state_shape)
            self._check_passed(shapes, sequences_shape[0])
        return super().compute_output_shape(sequences_shape)

    def get_config(self) -> dict[str, Any]:
        source = self._source
        if isinstance(source, dict):
            source = {leaf: value.tolist() for leaf, value in source.items()}
        return super().get_config() | {"initial_state": source}

    # -- the initial state ------------------------------------------------------------------

    def set_initial_state(self, source: Any) -> None:
        """Set the layer's own initial state: where a reset goes. The current state stays.

        Parameters
        ----------
        source : "zeros", "learned", number, mapping of str to array, or list of arrays
            Zeros; one trained vector for every row (to be chosen before the layer is built);
            one number in every place; or ``(units,)`` for each leaf, in Keras's order (h, c).
            For a state that differs from row to row, pass ``initial_state=`` in the call.

        Raises
        ------
        ArgumentError, StateError
            None of these, or constants of other leaves or shapes. Nothing was changed then.
        """
        where = f"layer {self.name!r}"
        if isinstance(source, keras.layers.Layer):
            raise ArgumentError(
                f"{where}: a state computed from X differs from row to row: pass it in the call, "
                "layer(sequences, initial_state=InitialState(layer)(X))."
            )
        if isinstance(source, (list, tuple)):
            flat = in_order(source, axes=1)
            if len(flat) != len(self.state_shapes):
                raise StateError(
                    f"{where}: expected {len(self.state_shapes)} constants "
                    f"({', '.join(self.state_shapes)}), received {len(flat)}."
                )
            source = dict(zip(self.state_shapes, flat, strict=True))
        if isinstance(source, str) and source == "features":
            source = None  # a source of InitialState, not of a layer's own
        try:
            source = _checked_source(source, self.state_shapes)
        except (ArgumentError, StateError) as error:
            raise type(error)(f"{where}: {error}") from None
        if self.built and (source == "learned") != (self._source == "learned"):
            raise StateError(
                f"{where}: whether the initial state is learned is a matter of its weights, so it "
                "has to be said before the layer is built: initial_state='learned'."
            )
        if self.built and self._initial is None:
            raise StateError(
                f"{where}: its cell computes its own initial state, and compiled steps may hold "
                "that; choose another before the layer is built."
            )
        settle_layer(self)
        self._source = source
        if self.built and self._initial is not None and source != "learned":
            for leaf, vector in self._initial.vectors.items():
                vector.assign(self._constant(leaf, self.state_shapes[leaf]))

    def _constant(self, leaf: str, shape: tuple[int, ...]) -> np.ndarray:
        value = self._source[leaf] if isinstance(self._source, dict) else self._source
        if value is None or isinstance(value, str):  # "zeros", or the cell's own: zeros
            value = 0.0
        return np.broadcast_to(value, shape).astype("float32")

    def _own_start(self) -> bool:
        """Whether the cell has an initial state of its own, not Keras's zeros."""
        stock = (
            keras.layers.SimpleRNNCell,
            keras.layers.GRUCell,
            keras.layers.LSTMCell,
            keras.layers.StackedRNNCells,
        )

        def own(cell: Any) -> bool:
            method = getattr(type(cell), "get_initial_state", None)
            if method is None:
                return False
            if all(method is not kind.get_initial_state for kind in stock):
                return True
            return any(own(inner) for inner in getattr(cell, "cells", []))

        return own(self.cell)

    def _fresh(self, passed: Any, rows: Any) -> dict[str, Any]:
        """Where fresh rows of this call start: leaves ``(rows, units)``."""
        dtype = self.cell.compute_dtype
        if passed is not None:
            leaves = self._passed_leaves(passed)
            leaves = {leaf: ops.convert_to_tensor(value) for leaf, value in leaves.items()}
            self._check_passed({leaf: tuple(v.shape) for leaf, v in leaves.items()}, rows)
        elif self._initial is not None:
            leaves = self._initial.of_rows(rows)
        else:
            start = tree.flatten(self.cell.get_initial_state(batch_size=rows))
            found = [tuple(value.shape[1:]) for value in start]
            if found != list(self.state_shapes.values()):
                raise StateError(
                    f"layer {self.name!r}: the cell's state_size says "
                    f"{list(self.state_shapes.values())} a row, and its get_initial_state gives "
                    f"{found}. State sizes are whole numbers, one for each state."
                )
            leaves = dict(zip(self.state_shapes, start, strict=True))
        return {leaf: ops.cast(value, dtype) for leaf, value in leaves.items()}

    def _passed_leaves(self, passed: Any) -> dict[str, Any]:
        names = list(self.state_shapes)
        if isinstance(passed, Mapping):
            if set(passed) != set(names):
                raise StateError(
                    f"layer {self.name!r}: initial_state: expected the leaves {names}, received "
                    f"{list(passed)}."
                )
            return {name: passed[name] for name in names}
        values = tree.flatten(passed)
        if len(values) != len(names):
            raise StateError(
                f"layer {self.name!r}: initial_state: expected {len(names)} "
                f"state{'s' * (len(names) > 1)} ({', '.join(names)}), received {len(values)}."
            )
        return dict(zip(names, values, strict=True))

    def _check_passed(self, shapes: Any, rows: Any) -> None:
        for leaf, shape in self._passed_leaves(shapes).items():
            expected = (rows, *self.state_shapes[leaf])
            fits = len(shape) == len(expected) and all(
                a == b or not isinstance(a, int) or not isinstance(b, int)
                for a, b in zip(shape, expected, strict=True)
            )
            if not fits:
                raise StateError(
                    f"layer {self.name!r}: initial_state, leaf {leaf!r}: expected shape "
                    f"{_shape_text(expected)}, received {_shape_text(shape)}; nothing broadcasts."
                )

    # -- the current state --------------------------------------------------------------------

    @property
    def states(self) -> Any:
        """The current state as Keras gives it, (h, c) or nested, live: each leaf reads as it is
        now and can be assigned. None for a layer that is not stateful or not yet built."""
        if not self.stateful or self._current_state is None:
            return None

        def live(names: Any) -> Any:  # tuples: a state put in a leaf's place would not be seen
            return LiveState(self, names) if isinstance(names, str) else tuple(map(live, names))

        return live(self._nested_names())

    @states.setter
    def states(self, value: None) -> None:
        """Keras's own ``__init__`` says None; nothing else gets here, see ``__setattr__``."""

    def _nested_names(self) -> list[Any]:
        names = _names(self.cell)
        return names if isinstance(names, list) else [names]

    def _read(self) -> dict[str, np.ndarray]:
        """The leaves at rest, fresh rows as the layer's own initial state."""
        settle_layer(self)  # first: a run on JAX may have the model's values aside
        if self._initial is not None:
            initial = self._initial.read()
        else:
            start = tree.flatten(self.cell.get_initial_state(batch_size=1))
            initial = {
                leaf: at_rest(v)[0] for leaf, v in zip(self.state_shapes, start, strict=True)
            }
        return self._current_state.read(initial)

    # -- calling ------------------------------------------------------------------------------

    def __call__(self, sequences: Any, initial_state: Any = None, **kwargs: Any) -> Any:
        self._check_call(sequences, initial_state, kwargs)
        if isinstance(initial_state, State):
            initial_state = dict(initial_state.leaves)
        self._passed = self._origin(initial_state)
        return super().__call__(sequences, initial_state=initial_state, **kwargs)

    def _origin(self, passed: Any) -> str | None:
        """Where an initial state passed in a call comes from, for ``explain_state``."""
        if passed is None:
            return None
        made: list[Any] = [getattr(leaf, "_keras_history", None) for leaf in tree.flatten(passed)]
        if not all(made):  # a model runs; how it is wired was seen when it was built
            return self._passed or "passed"
        ours = all(isinstance(history.operation, InitialState) for history in made)
        return "from X" if ours else "passed"

    def call(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool = False,
        reset: Any = None,
    ) -> Any:
        mask = tree.flatten(mask)[0] if mask is not None else None
        if mask is None:  # Keras forgets it where an initial state is passed
            mask = get_keras_mask(sequences)
        mask = None if mask is None else ops.cast(mask, "bool")
        rows, steps = ops.shape(sequences)[:2]
        row_reset, step_resets = self._resets(reset, rows, steps)
        self._seen = {"mask": mask is not None, "resets": step_resets is not None}

        initial = self._fresh(initial_state, rows)
        start = initial
        if self._current_state is not None:
            self._check_pass()
            start = self._current_state.start(initial, row_reset)
        cell, weights, x = self._problem(sequences, start, training)
        if self.go_backwards:
            x = ops.flip(x, axis=1)
            mask = None if mask is None else ops.flip(mask, axis=1)
            if step_resets is not None:  # a cut before step t, met from the other side
                step_resets = ops.flip(ops.roll(step_resets, -1, axis=1), axis=1)
        options = {
            "mask": mask,
            "resets": step_resets,
            "initial": None if step_resets is None else initial,
            "unroll": self.unroll,
            "kernel": KERNEL_OF[getattr(self, "use_cudnn", "auto")],
        }
        if self._traces is not None:
            y, after = self._run_traced(cell, weights, x, start, options | {"kernel": "loop"})
        else:
            if keras.backend.backend() == "tensorflow" and self._kernels()["fused"] == "runs":
                self.supports_jit = False  # XLA knows no cuDNN
            steps_of = _computed_again(run) if self._remats(sequences.shape) else run
            y, after = steps_of(cell, weights, x, start, **options)
        self._maybe_reset_dropout_masks(self.cell)

        if self._current_state is not None:
            ran, cut = _ran(rows, steps, mask, step_resets)
            if row_reset is not None:
                cut = row_reset if cut is None else ops.logical_or(cut, row_reset)
            self._current_state.keep(after, ran, cut)

        y = ops.cast(y, self.compute_dtype)
        if mask is not None and self.zero_output_for_mask:
            y = ops.where(mask[..., None], y, 0.0)
        if not self.return_sequences:
            if isinstance(steps, int) and steps:
                y = y[:, -1]
            else:  # none, or TensorFlow does not know how many before it runs them
                nothing = ops.zeros_like(ops.sum(y, axis=1))
                y = ops.concatenate([nothing[:, None], y], axis=1)[:, -1]
        if not self.return_state:
            return y
        leaves = {leaf: ops.cast(value, self.compute_dtype) for leaf, value in after.items()}
        return y, *tree.map_structure(lambda leaf: leaves[leaf], self._nested_names())

    def rematerialized_call(self, layer_call: Any, *_: Any, **__: Any) -> Any:
        """``call`` itself, which has its steps alone computed again: what a call keeps and draws at
        random happens once."""
        return layer_call

    def _remats(self, shape: Any) -> bool:
        """Whether ``keras.RematScope`` asks for the steps over inputs of a shape to be computed
        again in the backward pass."""
        scope = self._remat_mode
        if scope is None:
            return False
        if scope.mode == "list_of_layers":
            return self.name in scope.layer_names
        if scope.mode == "larger_than":
            shapes = _nested_shapes(self.compute_output_shape(tuple(shape)))
            size = sum(math.prod(n or 1 for n in found) for found in shapes)
            return size > scope.output_size_threshold
        return scope.mode == "full"

    def _check_pass(self) -> None:
        """Refuse what cannot be done with one state in one pass of a model."""
        again = runs_again()
        if again is not None:
            raise StateError(
                f"layer {self.name!r} is stateful and runs inside {again}, which runs it again for "
                "the gradients: from the state that it has left, and leaving another. Make the "
                "layer within keras.RematScope('full'), which computes its steps again from the "
                "same start, or make it with stateful=False and pass initial_state= in the call."
            )
        model = self._get_call_context().entry_layer
        twice = seen_before(self) and len(self._inbound_nodes) > 1
        if twice or _uses(model, self) > 1:
            raise StateError(
                f"layer {self.name!r} is stateful and is wired into one model more than once: one "
                "state cannot follow two sequences, and which of them comes first is not defined. "
                "Make a layer for each; RNN(layer.cell, stateful=True) shares the weights."
            )
        if (
            keras.backend.backend() == "tensorflow"
            and getattr(model, "jit_compile", False)
            and not getattr(model, "run_eagerly", False)
            and not self._current_state.known()
        ):
            raise StateError(
                f"layer {self.name!r}: the batch size is unknown, and XLA cannot change it within "
                "a compiled step. Give the model Input(batch_shape=(rows, ...)), say "
                "reset_states(model, batch_size=rows), or compile with jit_compile=False."
            )

    def _resets(self, reset: Any, rows: Any, steps: Any) -> tuple[Any, Any]:
        """``reset`` as rows that start afresh, and as steps before which the state goes back."""
        if reset is None:
            return None, None
        reset = ops.cast(ops.convert_to_tensor(reset), "bool")
        shape = tuple(reset.shape)
        for expected in ((rows,), (rows, steps)):
            if len(shape) == len(expected) and all(
                a == b or not isinstance(a, int) or not isinstance(b, int)
                for a, b in zip(shape, expected, strict=True)
            ):
                return (reset, None) if len(shape) == 1 else (None, reset)
        raise StateError(
            f"layer {self.name!r}: reset: expected a mask of shape {_shape_text((rows,))} or "
            f"{_shape_text((rows, steps))}, received {_shape_text(shape)}."
        )

    def _problem(self, x: Any, start: Leaves, training: bool) -> tuple[Cell, Weights, Any]:
        """The cell as ours, its weights, and the inputs with dropout."""
        first = x[:, 0] if x.shape[1] != 0 else ops.zeros_like(ops.sum(x, axis=1))
        plain = _plain(self.cell)
        if plain is None:
            width = tuple(x.shape[2:])
            if len(width) > 1:
                x = ops.reshape(x, (*ops.shape(x)[:2], int(np.prod(width))))
            names = self._nested_names()
            states = tree.map_structure(lambda leaf: start[leaf], names)
            self._maybe_config_dropout_masks(self.cell, first, states)
            return _KerasCell(self.cell, width, bool(training)), {}, x
        if training and getattr(self.cell, "dropout", 0):
            x = x * self.cell.get_dropout_mask(first)[:, None]
        return plain, _weights(self.cell), x

    def _kernels(self) -> dict[str, str]:
        """Per kernel: runs, would run, or why it declines a call like the last."""
        plain = _plain(self.cell)
        like = keras.KerasTensor
        dtype = self.cell.compute_dtype
        state = {leaf: like((None, *shape), dtype) for leaf, shape in self.state_shapes.items()}
        flags = like((None, None), "bool")
        answer = explain(
            _KerasCell(self.cell, ()) if plain is None else plain,
            {},
            like((None, None, None), dtype),
            state,
            mask=flags if self._seen.get("mask") else None,
            resets=flags if self._seen.get("resets") else None,
            initial=state,
            unroll=self.unroll,
        )
        if getattr(self, "use_cudnn", "auto") is False:
            answer = dict.fromkeys(answer, "declines: use_cudnn is False") | {"loop": "runs"}
        return answer

    def _run_traced(
        self, cell: Cell, weights: Weights, x: Any, start: Leaves, options: dict[str, Any]
    ) -> tuple[Any, Leaves]:
        y, after = run(_Traced(cell), weights, x, start, **options)
        sizes = [shape[0] for shape in self.state_shapes.values()]
        width = y.shape[-1] - sum(sizes)
        cuts = np.cumsum([width, *sizes])[:-1].tolist()
        y, *leaves = ops.split(y, cuts, axis=-1)
        self._traces.append(dict(zip(self.state_shapes, leaves, strict=True)))
        return y, after


def _computed_again(run: Any) -> Any:
    """``recurrence.run`` that keeps nothing between its steps for the backward pass, and takes them
    once more there."""

    def run_again(cell: Any, weights: Any, x: Any, start: Any, **options: Any) -> Any:
        initial = options.pop("initial") or {}
        floats = {"weights": weights, "x": x, "start": start, "initial": initial}
        after: list[str] = []

        def steps(*tensors: Any) -> tuple[Any, ...]:
            # One after the other and numbers alone, as tf.recompute_grad wants its arguments.
            now = tree.pack_sequence_as(floats, list(tensors))
            options["initial"] = now["initial"] or None
            y, leaves = run(cell, now["weights"], now["x"], now["start"], **options)
            after[:] = leaves
            return (y, *leaves.values())

        y, *leaves = keras.remat(steps)(*tree.flatten(floats))
        return y, dict(zip(after, leaves, strict=True))

    return run_again


def _leave_models_as_they_are() -> None:
    """Have ``keras.RematScope`` not run again a whole model or layer with a stateful layer inside,
    which would advance twice. Its layers see to themselves."""
    again = keras.layers.Layer.rematerialized_call

    @wraps(again)
    def rematerialized_call(layer: Any, layer_call: Any, *args: Any, **kwargs: Any) -> Any:
        inner = layer._flatten_layers()
        if any(isinstance(part, Controlled) and part.stateful for part in inner):
            return layer_call
        return again(layer, layer_call, *args, **kwargs)

    keras.layers.Layer.rematerialized_call = rematerialized_call


_leave_models_as_they_are()


@keras.saving.register_keras_serializable("statecast")
class LSTM(RNN, keras.layers.LSTM):
    """``keras.layers.LSTM`` with its state (h, c) under control; see ``RNN``.

    Examples
    --------
    >>> import numpy as np
    >>> lstm = LSTM(4, stateful=True)
    >>> x = np.ones((2, 3, 1), "float32")
    >>> _ = lstm(x)
    >>> lstm.reset_states([np.full((2, 4), 5.0), np.full((2, 4), 24.0)])
    >>> float(lstm.states[1].numpy()[0, 0])
    24.0
    >>> lstm.reset_states(rows=[0])
    >>> lstm.state["h"][:, 0].tolist()
    [0.0, 5.0]
    """

    __init__ = _signed_as(keras.layers.LSTM)(RNN.__init__)


@keras.saving.register_keras_serializable("statecast")
class GRU(RNN, keras.layers.GRU):
    """``keras.layers.GRU`` with its state (h) under control; see ``RNN``."""

    __init__ = _signed_as(keras.layers.GRU)(RNN.__init__)


@keras.saving.register_keras_serializable("statecast")
class SimpleRNN(RNN, keras.layers.SimpleRNN):
    """``keras.layers.SimpleRNN`` with its state (h) under control; see ``RNN``."""

    __init__ = _signed_as(keras.layers.SimpleRNN)(RNN.__init__)


@keras.saving.register_keras_serializable("statecast")
class Bidirectional(Controlled, keras.layers.Bidirectional):
    """``keras.layers.Bidirectional`` over two layers whose states are under control.

    Leaves are ``forward/h``, ..., ``backward/h``, ...; lists hold the forward layer's states
    first, as in Keras. A stock recurrent layer that is handed in is taken over (``controlled``).
    Call arguments are those of ``RNN``.
    """

    def __init__(
        self,
        layer: Any,
        merge_mode: str | None = "concat",
        weights: Any = None,
        backward_layer: Any = None,
        **kwargs: Any,
    ) -> None:
        layer = controlled(layer)
        backward_layer = None if backward_layer is None else controlled(backward_layer)
        options = {"merge_mode": merge_mode, "weights": weights, "backward_layer": backward_layer}
        super().__init__(layer, **options, **kwargs)  # pyright: ignore[reportCallIssue]

    def recurrences(self) -> dict[str, RNN]:
        return {"forward": self.forward_layer, "backward": self.backward_layer}

    @property
    def states(self) -> Any:
        """The forward layer's live states, then the backward layer's; None as for ``RNN``."""
        forward, backward = self.forward_layer.states, self.backward_layer.states
        return None if forward is None or backward is None else (*forward, *backward)

    def set_initial_state(self, source: Any) -> None:
        """As ``RNN.set_initial_state``: a word or a number for both directions, or a mapping or
        a list of constants, the forward layer's first."""
        halves: list[Any] = [source, source]
        if isinstance(source, Mapping):
            halves = [within(source, name) for name in self.recurrences()]
        elif isinstance(source, (list, tuple)):
            halves = _halves(source, f"layer {self.name!r}")
        for layer, half in zip(self.recurrences().values(), halves, strict=True):
            layer.set_initial_state(half)

    def compute_output_shape(self, sequences_shape: Any, initial_state_shape: Any = None) -> Any:
        for layer, half in self._split(_nested_shapes(initial_state_shape)):
            if half is not None:
                layer._check_passed(half, sequences_shape[0])
        return super().compute_output_shape(sequences_shape)

    def __call__(self, sequences: Any, initial_state: Any = None, **kwargs: Any) -> Any:
        self._check_call(sequences, initial_state, kwargs)
        if isinstance(initial_state, State):
            initial_state = dict(initial_state.leaves)
        return super().__call__(sequences, initial_state=initial_state, **kwargs)

    def call(
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool | None = None,
        reset: Any = None,
    ) -> Any:
        if reset is None and not isinstance(initial_state, Mapping) and self._both_ways():
            # Keras runs both directions in one cuDNN call where it can.
            return super().call(sequences, initial_state, mask=mask, training=training)
        options = {"mask": mask, "training": bool(training), "reset": reset}
        found = [
            layer(sequences, initial_state=half, **options)
            for layer, half in self._split(initial_state)
        ]
        states: list[Any] = []
        if self.return_state:
            states = [state for _, *after in found for state in after]
            found = [y for y, *_ in found]
        y, y_rev = (ops.cast(y, self.compute_dtype) for y in found)
        if self.return_sequences:
            y_rev = ops.flip(y_rev, axis=1)
        merged: Any = {
            "concat": lambda: (ops.concatenate([y, y_rev], axis=-1),),
            "sum": lambda: (y + y_rev,),
            "ave": lambda: ((y + y_rev) / 2,),
            "mul": lambda: (y * y_rev,),
            None: lambda: (y, y_rev),
        }[self.merge_mode]()
        outputs = [*merged, *states]
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    def compute_mask(self, _: Any, mask: Any) -> Any:
        """The mask of each output: Keras's own fails for a stateful layer that returns states."""
        mask = tree.flatten(mask)[0] if mask is not None and self.return_sequences else None
        outputs = 2 if self.merge_mode is None else 1
        masks = [mask] * outputs + [None] * (len(self.state_shapes) if self.return_state else 0)
        return masks if len(masks) > 1 else mask

    def _both_ways(self) -> bool:
        """Whether Keras's own call does what is asked: no states of the layers' own."""
        return all(
            layer._current_state is None and layer._source is None and layer._traces is None
            for layer in self.recurrences().values()
        )

    def _split(self, states: Any) -> Iterator[tuple[RNN, Any]]:
        """Each direction's layer, and its half of what was passed."""
        halves: list[Any] = [None, None]
        if isinstance(states, Mapping):
            halves = [within(states, name) for name in self.recurrences()]
        elif states is not None:
            halves = _halves(states, f"layer {self.name!r}: initial_state")
        yield from zip(self.recurrences().values(), halves, strict=True)


def _halves(states: Any, where: str) -> list[Any]:
    if len(states) % 2:
        raise StateError(
            f"{where}: expected the forward layer's states, then as many of the backward "
            f"layer's; received {len(states)}."
        )
    half = len(states) // 2
    return [states[:half], states[half:]]


def controlled(layer: Any) -> Any:
    """A recurrent layer of Keras as one of this module, not yet built; ours comes back as is.

    Raises
    ------
    ArgumentError
        A recurrent layer that has no counterpart here (convolutional ones).
    """
    kinds = {
        keras.layers.LSTM: LSTM,
        keras.layers.GRU: GRU,
        keras.layers.SimpleRNN: SimpleRNN,
        keras.layers.RNN: RNN,
        keras.layers.Bidirectional: Bidirectional,
    }
    if type(layer) in kinds:
        return kinds[type(layer)].from_config(layer.get_config())
    if isinstance(layer, keras.layers.RNN) and not isinstance(layer, Controlled):
        raise ArgumentError(
            f"layer {layer.name!r}: {type(layer).__name__} has no counterpart whose state can be "
            f"controlled; there are {[kind.__name__ for kind in kinds]}."
        )
    return layer


def _uses(operation: Any, layer: Any) -> int:
    """How often one run of ``operation`` runs ``layer``, as far as it is wired as a graph."""
    if operation is layer:
        return 1
    graph = getattr(operation, "_functional", None) or operation
    depths = getattr(graph, "_nodes_by_depth", None)
    if depths is not None:
        return sum(_uses(node.operation, layer) for nodes in depths.values() for node in nodes)
    return sum(_uses(inner, layer) for inner in getattr(operation, "_layers", []))


def _ran(rows: Any, steps: Any, mask: Any, resets: Any) -> tuple[Any, Any]:
    """Which rows took a step (since their last reset), and which were reset; bool ``(rows,)``."""
    if mask is None and resets is None:
        return ops.broadcast_to(ops.convert_to_tensor(steps) > 0, (rows,)), None
    counts = ops.ones_like(resets) if mask is None else mask
    if resets is None:
        return ops.any(counts, axis=1), None
    hits = ops.cast(resets, "int32")
    later = ops.flip(ops.cumsum(ops.flip(hits, axis=1), axis=1), axis=1) - hits
    return ops.any(ops.logical_and(counts, later == 0), axis=1), ops.any(resets, axis=1)


def _nested_shapes(shapes: Any) -> Any:
    """Shapes as leaves of a structure, where Keras hands them nested as plain tuples."""
    if shapes is None:
        return None
    if isinstance(shapes, Mapping):
        return {name: _Shape(shape) for name, shape in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return [_Shape(shapes)]
    return [leaf for inner in shapes for leaf in _nested_shapes(inner)]


class _Shape:
    """A shape that no flattening takes apart."""

    def __init__(self, sizes: Any) -> None:
        self.sizes = tuple(sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.sizes)


def _shape_text(shape: Any) -> str:
    names = [str(size) if isinstance(size, int) else "rows" for size in shape]
    return f"({', '.join(names)}{',' * (len(names) == 1)})"
