"""``CurrentState``: where the next step of a stateful layer starts, kept between calls.

A row is *fresh*, and then starts from its initial state, or *running*, and continues from here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.stateless_scope import in_stateless_scope

from statecast.checks import check_whole
from statecast.errors import ArgumentError, StateError
from statecast.layers.user_states import Shapes, check_rows, check_states, leaf_name
from statecast.layers.variables import (
    RowsVariable,
    array_of,
    no_step_between,
    refuse_traced,
    tensor_of,
)
from statecast.recurrence.cells import within
from statecast.state import State, at_rest


class InitialVectors:
    """A layer's own initial state: one vector for each leaf, the same for every row.

    Parameters
    ----------
    vectors : mapping of str to keras.Variable, ``(units,)``
        Trained, or constants that can be assigned between compiled steps.
    """

    def __init__(self, vectors: Mapping[str, Any]) -> None:
        # In an object of our own, so that Keras does not count constants as weights.
        self.vectors = dict(vectors)

    @property
    def variables(self) -> list[Any]:
        return list(self.vectors.values())

    def of_rows(self, rows: Any) -> dict[str, Any]:
        """Tensors ``(rows, units)``."""
        return {
            leaf: ops.broadcast_to(vector.value, (rows, *vector.shape))
            for leaf, vector in self.vectors.items()
        }

    def read(self) -> dict[str, np.ndarray]:
        """Each vector as a NumPy array ``(units,)``."""
        return {leaf: at_rest(vector.value) for leaf, vector in self.vectors.items()}


class CurrentState:
    """The current state of one layer: a variable for each leaf, and which rows are running.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Leaf name to shape, without rows.
    dtype : str
        The dtype of the leaves.
    rows : int
        The number of rows at first, all fresh; 0 while the batch size is unknown.
    """

    def __init__(self, shapes: Shapes, dtype: str, rows: int) -> None:
        self.shapes = dict(shapes)
        self.leaves = {
            leaf: RowsVariable(rows, shape, dtype, f"state_{leaf.replace('/', '_')}")
            for leaf, shape in self.shapes.items()
        }
        self.running = RowsVariable(rows, (), "bool", "running")

    @property
    def variables(self) -> list[RowsVariable]:
        """All variables, which Keras has to carry through compiled steps."""
        return [*self.leaves.values(), self.running]

    # -- inside a call: tensors, which may belong to a graph ------------------------------

    def start(self, initial: Mapping[str, Any], reset: Any = None) -> dict[str, Any]:
        """Where each row of a call starts: running rows from here, fresh ones from ``initial``.

        The rows of a call are the first rows of the current state.

        Parameters
        ----------
        initial : mapping of str to tensor, ``(rows, units)``
            Where fresh rows start. Gradients flow to it, and not to the current state.
        reset : tensor, bool, ``(rows,)``, optional
            Rows that start from ``initial`` although they are running.
        """
        rows = ops.shape(next(iter(initial.values())))[0]
        running = _first_rows(self.running.value, rows)
        if reset is not None:
            running = ops.logical_and(running, ops.logical_not(reset))
        start = {}
        for leaf, variable in self.leaves.items():
            fresh = initial[leaf]
            current = ops.cast(_first_rows(variable.value, rows), fresh.dtype)
            start[leaf] = ops.where(
                _with_axes_of(running, fresh), ops.stop_gradient(current), fresh
            )
        return start

    def keep(self, after: Mapping[str, Any], ran: Any, reset: Any = None) -> None:
        """Store the state after a call.

        Parameters
        ----------
        after : mapping of str to tensor, ``(rows, units)``
        ran : tensor, bool, ``(rows,)``
            Rows that took a step, which are running from now on. The others stay fresh or running.
        reset : tensor, bool, ``(rows,)``, optional
            Rows that were reset, and are fresh if they took no step since.

        Raises
        ------
        StateError
            The call is traced, so that the state has no numbers; see ``refuse_traced``.
        """
        refuse_traced([*after.values(), ran])
        rows = ops.shape(ran)[0]
        if keras.backend.backend() == "jax" and in_stateless_scope():
            # JAX warns once that the buffer of a state that grew cannot be reused. That is true,
            # and there is nothing to do about it.
            warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        before = _first_rows(self.running.value, rows)
        if reset is not None:
            before = ops.logical_and(before, ops.logical_not(reset))
        self.running.assign(_replace_first(self.running.value, ops.logical_or(before, ran)))
        for leaf, variable in self.leaves.items():
            value = ops.stop_gradient(ops.cast(after[leaf], variable.dtype))
            variable.assign(_replace_first(variable.value, value))

    # -- from outside: NumPy -------------------------------------------------------------

    @property
    def rows(self) -> int:
        """The number of rows; 0 while the batch size is unknown."""
        return int(ops.shape(tensor_of(self.running))[0])

    def known(self) -> bool:
        """Whether the batch size is known; can be called while TensorFlow traces a step."""
        import tensorflow as tf

        with tf.init_scope():
            return self.rows > 0

    def flags(self) -> np.ndarray:
        """Which rows are running: bool ``(rows,)``."""
        return array_of(self.running)

    def read(self, initial: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The leaves as NumPy arrays. A fresh row reads as ``initial``: leaves ``(units,)``."""
        running = self.flags()
        leaves = {}
        for leaf, variable in self.leaves.items():
            value = array_of(variable)
            value[~running] = initial[leaf]
            leaves[leaf] = value
        return leaves

    def write(self, values: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
        """Set ``rows`` (whole numbers) to checked values; they are running from now on."""
        if len(rows) == self.rows:  # all of them: the old values, perhaps tracers, are not read
            self.resize(len(rows))
        running = self.flags()
        running[rows] = True
        for leaf, variable in self.leaves.items():
            value = array_of(variable)
            value[rows] = values[leaf]
            variable.assign(value)
        self.running.assign(running)

    def reset(self, rows: np.ndarray) -> None:
        """Make rows fresh."""
        if len(rows) == self.rows:  # all of them: the old values, perhaps tracers, are not read
            self.resize(len(rows))
            return
        running = self.flags()
        running[rows] = False
        self.running.assign(running)

    def copy_from(self, other: CurrentState) -> None:
        """Take over the rows and values of another with the same leaves."""
        for variable, given in zip(self.variables, other.variables, strict=True):
            variable.assign(array_of(given))

    def resize(self, rows: int) -> None:
        """Change the number of rows; all are fresh afterwards."""
        tensor_of(self.running)
        for leaf, variable in self.leaves.items():
            variable.assign(np.zeros((rows, *self.shapes[leaf]), variable.dtype))
        self.running.assign(np.zeros(rows, bool))


def _first_rows(value: Any, rows: Any) -> Any:
    """The first ``rows`` rows; zeros (False) where there are fewer."""
    have = ops.shape(value)[0]
    if isinstance(have, int) and isinstance(rows, int):
        if have < rows:
            missing = ops.zeros((rows - have, *value.shape[1:]), value.dtype)
            value = ops.concatenate([value, missing])
        return value[:rows]
    missing = ops.zeros((ops.maximum(rows - have, 0), *value.shape[1:]), value.dtype)
    return ops.concatenate([value, missing])[:rows]


def _replace_first(old: Any, new: Any) -> Any:
    """``old`` with its first rows replaced by ``new``."""
    return ops.concatenate([new, old[ops.shape(new)[0] :]])


def _with_axes_of(flags: Any, leaf: Any) -> Any:
    """Flags ``(rows,)`` with as many axes as ``leaf``, so that they broadcast to it."""
    return ops.reshape(flags, (-1, *(1 for _ in leaf.shape[1:])))


# -- the states of layers, from outside a call ------------------------------------------------


class LayerStates:
    """The current states of several layers, read and written together.

    Parameters
    ----------
    layers : mapping of str to RNN
        Stateful, built layers. The key is the prefix of their leaves' names; "" for none.
    where : str
        The layer or model in messages: "layer 'lstm'".
    """

    def __init__(self, layers: Mapping[str, Any], where: str) -> None:
        self.layers = layers
        self.where = where
        self.shapes = {
            leaf_name(name, leaf): shape
            for name, layer in layers.items()
            for leaf, shape in layer.state_shapes.items()
        }

    def read(self) -> State:
        """The current state of every row. A fresh row reads as its initial state."""
        check_rows(None, self._rows(), self.where)
        leaves: dict[str, Any] = {}
        with no_step_between(self.layers.values()):
            for name, layer in self.layers.items():
                for leaf, value in layer.read_leaves().items():
                    leaves[leaf_name(name, leaf)] = value
        return State(leaves)

    def reset(
        self,
        states: Any = None,
        rows: Any = None,
        *,
        batch_size: int | None = None,
        allow_nonfinite: bool = False,
    ) -> None:
        """Reset or set the states, see ``RNN.reset_states``; all checks come before any write."""
        if batch_size is not None:
            if rows is not None:
                raise ArgumentError(
                    f"{self.where}: batch_size replaces all rows, so it cannot be combined with "
                    f"rows={rows!r}."
                )
            batch_size = check_whole(f"{self.where}: batch_size", batch_size)
        count = self._rows() if batch_size is None else batch_size
        if states is None and rows is None and count == 0:
            return  # there are no rows yet, so there is nothing to reset
        index = check_rows(rows, count, self.where)
        values = None
        if states is not None:
            dtypes = {
                leaf_name(name, leaf): variable.dtype
                for name, layer in self.layers.items()
                for leaf, variable in layer.current_state.leaves.items()
            }
            values = check_states(
                states, self.shapes, len(index), self.where, dtypes, allow_nonfinite=allow_nonfinite
            )
        for layer in self.layers.values():
            _ = layer.current_state.rows  # raises while a step holds the state
        for name, layer in self.layers.items():
            if batch_size is not None:
                layer.current_state.resize(batch_size)
            if values is None:
                layer.current_state.reset(index)
            else:
                layer.current_state.write(within(values, name) if name else values, index)

    def _rows(self) -> int:
        rows = {name: layer.current_state.rows for name, layer in self.layers.items()}
        if len(set(rows.values())) > 1:
            raise StateError(
                f"{self.where}: the layers' states have different numbers of rows, {rows}, so "
                "they cannot be read or set together. Read or set each layer's own state."
            )
        return next(iter(rows.values()))


class LiveState(np.lib.mixins.NDArrayOperatorsMixin):
    """One leaf of a layer's current state, as an element of ``layer.states``.

    It can be used like an array, and always has the current values. ``assign`` sets all rows.
    """

    def __init__(self, layer: Any, leaf: str) -> None:
        self._layer = layer
        self.name = leaf

    def numpy(self) -> np.ndarray:
        """The current values: ``(rows, units)``."""
        return self._layer.read_leaves()[self.name]

    @property
    def value(self) -> Any:
        """The current values as a tensor of the backend."""
        return ops.convert_to_tensor(self.numpy())

    @property
    def shape(self) -> tuple[int, ...]:
        return self.numpy().shape

    @property
    def dtype(self) -> str:
        return str(self.numpy().dtype)

    def assign(self, value: Any) -> None:
        """Set all rows of this leaf; the next step starts from them.

        Raises
        ------
        StateError
            Another shape (nothing broadcasts), or values that are not finite numbers.
        """
        where = f"layer {self._layer.name!r}"
        current = self._layer.current_state
        rows = check_rows(None, current.rows, where)
        shapes = {self.name: self._layer.state_shapes[self.name]}
        dtypes = {self.name: current.leaves[self.name].dtype}
        new = check_states([value], shapes, len(rows), where, dtypes)
        current.write(self._layer.read_leaves() | new, rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.numpy().astype(dtype) if dtype is not None else self.numpy()

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = [x.numpy() if isinstance(x, LiveState) else x for x in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def __jax_array__(self) -> Any:
        return self.value

    def __len__(self) -> int:
        return len(self.numpy())

    def __getitem__(self, index: Any) -> Any:
        return self.numpy()[index]

    def __repr__(self) -> str:
        return f"LiveState({self._layer.name}/{self.name}: {self.numpy()!r})"
