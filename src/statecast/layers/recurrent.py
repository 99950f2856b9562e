"""Recurrent Keras layers whose state can be read, set and reset.

``LSTM``, ``GRU``, ``SimpleRNN``, ``RNN`` and ``Bidirectional`` replace Keras's layers of the same
names, and have the same arguments, weights, outputs and config. The *initial state* is where a
fresh row starts: ``initial_state=`` in the call, or else the layer's own (``set_initial_state``).
The *current state* is where the next step of a running row starts (``state``, ``reset_states``).

Import this module before ``keras.models.load_model``, so that Keras knows the classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

import keras
import numpy as np
from keras import ops, tree
from keras.src.backend import get_keras_mask
from keras.src.backend.common.stateless_scope import in_stateless_scope

from statecast.errors import ArgumentError, NotStatefulError, StateError
from statecast.layers.current import CurrentState, InitialVectors, LayerStates, LiveState
from statecast.layers.initial import InitialState, check_source
from statecast.layers.keras_cells import (
    KerasCell,
    TracedCell,
    flat_shapes,
    leaf_names,
    state_shapes,
    stock_cell,
    stock_weights,
)
from statecast.layers.replay import (
    outermost_layer,
    recomputed,
    refuse_second_run,
    rematerialize_stateful_layers_alone,
    rematerializes,
)
from statecast.layers.user_states import flatten_states, leaf_name
from statecast.layers.variables import (
    StateVariable,
    refuse_traced,
    restore_values_of,
)
from statecast.recurrence.cells import Cell, Gated, Leaves, Weights, within
from statecast.recurrence.run import explain, run
from statecast.state import State, at_rest, refuse_without_numbers

KERNEL_OF: Mapping[Any, str | None] = {"auto": None, True: "fused", False: "loop"}  # use_cudnn
# Attributes that a call sets. Keras would look through their values for layers and variables.
_OF_EACH_CALL = ("_passed", "_last_call")


# -- what all layers share --------------------------------------------------------------------


class Controlled:
    """A layer whose state is under control: the base of ``RNN`` and ``Bidirectional``.

    Examples
    --------
    >>> from statecast.layers import LSTM, Controlled
    >>> isinstance(LSTM(2), Controlled)
    True
    """

    name: str

    def recurrences(self) -> dict[str, RNN]:
        """The layers that keep the state, by the prefix of their leaves' names."""
        raise NotImplementedError

    @property
    def stateful(self) -> bool:
        """Whether the state is kept between calls. It can be set until the layer is built.

        Raises
        ------
        StateError
            A change after the layer was built, which compiled steps would ignore.
        """
        return all(layer._stateful for layer in self.recurrences().values())

    @stateful.setter
    def stateful(self, value: bool) -> None:
        layers = self.recurrences().values()
        if any(layer.built and layer._stateful != bool(value) for layer in layers):
            raise StateError(
                f"layer {self.name!r}: stateful={value} was set after the layer was built. "
                f"Compiled steps would ignore it. Make the layer with stateful={value}, or make a "
                f"copy of the model: take_control(model, stateful={value})."
            )
        for layer in layers:
            layer._stateful = bool(value)

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Leaf name to shape, without rows."""
        return {
            leaf_name(name, leaf): shape
            for name, layer in self.recurrences().items()
            for leaf, shape in state_shapes(layer.cell).items()
        }

    def reset_states(
        self,
        states: Any = None,
        rows: Any = None,
        *,
        batch_size: int | None = None,
        allow_nonfinite: bool = False,
    ) -> None:
        """Reset the current state, or set it. The initial state does not change.

        Parameters
        ----------
        states : State, mapping of str to array, or list of arrays, optional
            Where the next step starts: ``(rows, units)`` for each leaf; a list in Keras's order
            (h, c), flat or nested. By default the rows are reset: they start from their initial
            state.
        rows : int, list of int, slice or mask, optional
            The rows to reset or set; all by default.
        batch_size : int, optional
            The number of rows from now on; all rows are replaced.
        allow_nonfinite : bool
            Allow NaN and infinite values.

        Raises
        ------
        NotStatefulError
            The layer is not stateful, so a set would have no effect.
        ArgumentError
            ``batch_size`` is not a whole number of 1 or more, or is given with ``rows``.
        StateError
            Other leaves, or another number of leaves, axes, rows or units; a row out of range;
            values that are not finite numbers; an unknown batch size. In all cases nothing is
            written.
        """
        self._layer_states().reset(
            states, rows, batch_size=batch_size, allow_nonfinite=allow_nonfinite
        )

    reset_state = reset_states

    def _layer_states(self) -> LayerStates:
        where = f"layer {self.name!r}"
        if not self.stateful:
            raise NotStatefulError(
                f"{where} is not stateful: it keeps no state between calls that could be read or "
                "set. Make it with stateful=True, use the model that take_control(model, "
                "stateful=True) returns, or pass initial_state= in the call."
            )
        layers = self.recurrences()
        if any(layer.current_state is None for layer in layers.values()):
            raise StateError(
                f"{where} is not built: its batch size is unknown, so it has no rows yet. Call "
                "it once, or put it into a model with Input(batch_shape=(rows, ...))."
            )
        return LayerStates(layers, where)

    @property
    def state(self) -> State:
        """The current state of all rows: NumPy arrays ``(rows, units)``.

        It is the state after the last step, or what was set since. A fresh row reads as the
        layer's own initial state, even if the next call passes another.

        Raises
        ------
        NotStatefulError
            The layer is not stateful.
        StateError
            The batch size is unknown, so there are no rows yet.
        """
        return self._layer_states().read()

    def _check_call(self, sequences: Any, passed: Any, options: Mapping[str, Any]) -> None:
        """Refuse arguments that are not numbers, before Keras converts them to tensors."""
        if in_stateless_scope():  # Keras calls the layer, perhaps with shapes alone
            return
        if self.stateful:
            refuse_traced([sequences])
        given = {"initial_state": passed} | {n: options.get(n) for n in ("mask", "reset")}
        for name, value in given.items():
            for array in tree.flatten(value):
                refuse_without_numbers(array, f"layer {self.name!r}: {name}")

    def __setattr__(self, name: str, value: Any) -> None:
        # Not in the property's setter: Keras tracks a list of variables before it calls that.
        # Keras's own __init__ sets None.
        if name in ("state", "states") and value is not None:
            raise StateError(
                f"layer {self.name!r}: compiled steps would ignore what is assigned to `{name}`. "
                "Use layer.reset_states(states), or layer.states[0].assign(value)."
            )
        if name in _OF_EACH_CALL:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        # The property raised an AttributeError (NotStatefulError is one). PyTorch would replace it
        # by a message of its own; reading again raises ours.
        if name == "state":
            return self._layer_states().read()
        inherited = getattr(super(), "__getattr__", None)
        if inherited is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return inherited(name)


# -- Keras's layers --------------------------------------------------------------------------


def _signed_as(stock: Any) -> Callable[[Any], Callable[..., None]]:
    """A decorator that gives a constructor the signature of Keras's layer, and ``initial_state``.

    ``help`` shows the signature, and Keras binds the arguments to it. With a bare ``*args`` Keras
    would mark each instance as not serializable (``_auto_config_error_args``).
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
    """``keras.layers.RNN`` with its state under control, for any cell or stack of cells.

    Parameters
    ----------
    *args, **kwargs
        Those of the Keras layer of the same name.
    initial_state : "zeros", "learned", number, mapping or list of arrays, optional
        The layer's own initial state, see ``set_initial_state``. By default that of the cell's
        ``get_initial_state``: zeros, for Keras's cells.

    Call
    ----
    sequences : tensor, float, ``(rows, steps, features)``
        Zero steps are valid: the output is zero and the state does not change.
    initial_state : list or mapping of tensors, ``(rows, units)``, optional
        Where fresh rows start, and rows that are reset. The gradient reaches it. A running row of
        a stateful layer starts from its current state instead.
    mask : tensor, bool, ``(rows, steps)``, optional
        Where False, the step is skipped: the state does not change, and the output repeats the
        last one (zero before the first step taken).
    training : bool
    reset : tensor, bool, ``(rows,)`` or ``(rows, steps)``, optional
        Rows that start from their initial state at the first step, or before the given steps. No
        gradient passes a reset. With ``go_backwards`` a reset separates the same two steps as
        without.

    Stateful
    --------
    A row is its place in the batch. A call with fewer rows than the current state has uses and
    advances the first ones. In a call with more, the additional rows are fresh.

    Raises
    ------
    StateError
        An initial state of other leaves, units or rows, or a reset of another shape.
    KernelError
        ``use_cudnn=True`` and no fused kernel can run this.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast.layers import RNN
    >>> import keras
    >>> rnn = RNN([keras.layers.GRUCell(2), keras.layers.LSTMCell(2)], stateful=True)
    >>> _ = rnn(np.ones((1, 3, 1), "float32"))
    >>> rnn.state.names
    ('0/h', '1/h', '1/c')
    """

    # What other modules of statecast may use beside the public methods: `current_state`,
    # `read_leaves`, `fresh_start`, `explain_kernels` and `recorded_steps`.

    _stateful = False  # see the property `stateful`

    @_signed_as(keras.layers.RNN)
    def __init__(self, *args: Any, initial_state: Any = None, **kwargs: Any) -> None:
        self.current_state: Any = None  # a CurrentState, if stateful and once built
        self._passed: str | None = None  # the initial state of the last call: "passed", "from X"
        self._last_call: dict[str, bool] = {}  # whether it had a mask, and resets
        self._recorded: list[dict[str, Any]] | None = None  # see `recorded_steps`
        self._source: Any = None
        self._initial: InitialVectors | None = None
        super().__init__(*args, **kwargs)
        # The layer computes whole steps again, see `rematerializes`; its cell by itself does not.
        for part in getattr(self.cell, "_flatten_layers", list)():
            part._remat_mode = None
        if initial_state is not None:
            self.set_initial_state(initial_state)

    def recurrences(self) -> dict[str, RNN]:
        return {"": self}

    # -- building ------------------------------------------------------------------------

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        if isinstance(self.cell, keras.layers.Layer) and not self.cell.built:
            self.cell.build((sequences_shape[0], *sequences_shape[2:]))
            self.cell.built = True
        if self._initial is None and (self._source is not None or not self._cell_sets_start()):
            make = self._trained_vector if self._source == "learned" else self._constant_vector
            self._initial = InitialVectors(
                {leaf: make(leaf, shape) for leaf, shape in self.state_shapes.items()}
            )
        if self.stateful and self.current_state is None:
            self.current_state = CurrentState(
                self.state_shapes, self.variable_dtype, sequences_shape[0] or 0
            )

    def _trained_vector(self, leaf: str, shape: tuple[int, ...]) -> Any:
        name = f"initial_{leaf.replace('/', '_')}"
        # In mixed precision a row starts from what it reads as.
        return self.add_weight(name=name, shape=shape, initializer="zeros", autocast=False)

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
        """Weights, seeds, and the state variables, which are in no weight file.

        Without a state and an initial state of its own a layer has the variables of Keras's.
        """
        found = super().variables
        if self.current_state is not None:
            found = found + self.current_state.variables
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
        """Set the layer's own initial state. The current state does not change.

        Parameters
        ----------
        source : "zeros", "learned", number, mapping of str to array, or list of arrays
            Zeros; one trained vector, the same for every row (only before the layer is built);
            one number for all units; or ``(units,)`` for each leaf, a list in Keras's order
            (h, c). For a state that differs from row to row, pass ``initial_state=`` in the call.

        Raises
        ------
        ArgumentError
            None of these.
        StateError
            Constants of other leaves or shapes; ``"learned"`` chosen or given up after the layer
            was built; a cell with an initial state of its own. In all cases nothing changes.
        """
        where = f"layer {self.name!r}"
        if isinstance(source, keras.layers.Layer):
            raise ArgumentError(
                f"{where}: a state computed from X differs from row to row. Pass it in the call: "
                "layer(sequences, initial_state=InitialState(layer)(X))."
            )
        if isinstance(source, (list, tuple)):
            flat = flatten_states(source, axes=1)
            if len(flat) != len(self.state_shapes):
                raise StateError(
                    f"{where}: expected {len(self.state_shapes)} constants "
                    f"({', '.join(self.state_shapes)}), received {len(flat)}."
                )
            source = dict(zip(self.state_shapes, flat, strict=True))
        if isinstance(source, str) and source == "features":
            source = None  # valid for InitialState, but not here
        try:
            source = check_source(source, self.state_shapes)
        except (ArgumentError, StateError) as error:
            raise type(error)(f"{where}: {error}") from None
        if self.built and (source == "learned") != (self._source == "learned"):
            raise StateError(
                f"{where}: a learned initial state is a weight of the layer, so it can only be "
                "chosen before the layer is built: initial_state='learned'."
            )
        if self.built and self._initial is None:
            raise StateError(
                f"{where}: its cell computes its own initial state, which compiled steps may "
                "already use. Choose another before the layer is built."
            )
        restore_values_of(self)
        self._source = source
        if self.built and self._initial is not None and source != "learned":
            for leaf, vector in self._initial.vectors.items():
                vector.assign(self._constant(leaf, self.state_shapes[leaf]))

    def _constant(self, leaf: str, shape: tuple[int, ...]) -> np.ndarray:
        value = self._source[leaf] if isinstance(self._source, dict) else self._source
        if value is None or isinstance(value, str):  # "zeros", or the cell's own: zeros
            value = 0.0
        return np.broadcast_to(value, shape).astype("float32")

    def _cell_sets_start(self) -> bool:
        """Whether the cell computes an initial state, instead of Keras's zeros."""
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
        """Where fresh rows of a call start: leaves ``(rows, units)``."""
        dtype = self._state_dtype()
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
                    f"layer {self.name!r}: the cell's state_size gives the shapes "
                    f"{list(self.state_shapes.values())} for a row, and its get_initial_state "
                    f"{found}. They have to agree: state sizes are whole numbers, one for each "
                    "state."
                )
            leaves = dict(zip(self.state_shapes, start, strict=True))
        return {leaf: ops.cast(value, dtype) for leaf, value in leaves.items()}

    def _state_dtype(self) -> str:
        """The dtype in which the state is carried from step to step: that of variables, so that
        mixed precision does not round it. A step that is Keras's own takes its compute dtype."""
        dtype = self.cell.variable_dtype
        if dtype != self.cell.compute_dtype and stock_cell(self.cell) is None:
            dtype = self.cell.compute_dtype
        return dtype

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
        """The current state in Keras's form: (h, c), or nested. Each leaf always has the current
        values, and can be assigned. None for a layer that is not stateful or not yet built."""
        if not self.stateful or self.current_state is None:
            return None

        # In tuples, so that no one can replace an element, which would have no effect.
        def live(names: Any) -> Any:
            return LiveState(self, names) if isinstance(names, str) else tuple(map(live, names))

        return live(self._nested_names())

    @states.setter
    def states(self, value: None) -> None:
        """For Keras's own ``__init__``, which sets None; ``__setattr__`` refuses all else."""

    def _nested_names(self) -> list[Any]:
        names = leaf_names(self.cell)
        return names if isinstance(names, list) else [names]

    def read_leaves(self) -> dict[str, np.ndarray]:
        """The leaves of the current state as NumPy arrays ``(rows, units)``; fresh rows read as
        the layer's own initial state."""
        restore_values_of(self)  # first: on JAX the trainer may have taken out the values
        if self._initial is not None:
            initial = self._initial.read()
        else:
            start = tree.flatten(self.cell.get_initial_state(batch_size=1))
            initial = {
                leaf: at_rest(v)[0] for leaf, v in zip(self.state_shapes, start, strict=True)
            }
        return self.current_state.read(initial)

    # -- calling ------------------------------------------------------------------------------

    def __call__(self, sequences: Any, initial_state: Any = None, **kwargs: Any) -> Any:
        self._check_call(sequences, initial_state, kwargs)
        if isinstance(initial_state, State):
            initial_state = dict(initial_state.leaves)
        self._passed = self._origin(initial_state)
        return super().__call__(sequences, initial_state=initial_state, **kwargs)

    def _origin(self, passed: Any) -> str | None:
        """Where the initial state passed in a call comes from, for ``explain_state``."""
        if passed is None:
            return None
        made: list[Any] = [getattr(leaf, "_keras_history", None) for leaf in tree.flatten(passed)]
        # Tensors without a history: a model runs. Its wiring was recorded when it was built.
        if not all(made):
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
        if mask is None:  # Keras drops it where an initial state is passed
            mask = get_keras_mask(sequences)
        mask = None if mask is None else ops.cast(mask, "bool")
        rows, steps = ops.shape(sequences)[:2]
        row_reset, step_resets = self._resets(reset, rows, steps)
        self._last_call = {"mask": mask is not None, "resets": step_resets is not None}

        initial = self._fresh(initial_state, rows)
        start = initial
        if self.current_state is not None:
            refuse_second_run(self)
            self._refuse_unknown_rows_in_xla()
            start = self.current_state.start(initial, row_reset)
        cell, weights, x = self._problem(sequences, start, training)
        if self.go_backwards:
            x = ops.flip(x, axis=1)
            mask = None if mask is None else ops.flip(mask, axis=1)
            if step_resets is not None:  # a reset between two steps stays between them
                step_resets = ops.flip(ops.roll(step_resets, -1, axis=1), axis=1)
        options = {
            "mask": mask,
            "resets": step_resets,
            "initial": None if step_resets is None else initial,
            "unroll": self.unroll,
            "kernel": KERNEL_OF[getattr(self, "use_cudnn", "auto")],
        }
        if self._recorded is not None:
            y, after = self._run_recorded(cell, weights, x, start, options | {"kernel": "loop"})
        else:
            on_tensorflow = keras.backend.backend() == "tensorflow"
            if on_tensorflow and self.explain_kernels()["fused"] == "runs":
                self.supports_jit = False  # XLA cannot compile cuDNN's recurrence
            run_steps = recomputed(run) if rematerializes(self, sequences.shape) else run
            y, after = run_steps(cell, weights, x, start, **options)
        if not isinstance(cell, Gated) or getattr(self.cell, "dropout", 0):
            self._maybe_reset_dropout_masks(self.cell)

        if self.current_state is not None:
            ran, cut = _ran(rows, steps, mask, step_resets)
            if row_reset is not None:
                cut = row_reset if cut is None else ops.logical_or(cut, row_reset)
            self.current_state.keep(after, ran, cut)

        y = ops.cast(y, self.compute_dtype)
        if mask is not None and self.zero_output_for_mask:
            y = ops.where(mask[..., None], y, 0.0)
        if not self.return_sequences:
            if isinstance(steps, int) and steps:
                y = y[:, -1]
            else:  # zero steps, or a number that TensorFlow does not know yet
                zeros = ops.zeros_like(ops.sum(y, axis=1))
                y = ops.concatenate([zeros[:, None], y], axis=1)[:, -1]
        if not self.return_state:
            return y
        leaves = {leaf: ops.cast(value, self.compute_dtype) for leaf, value in after.items()}
        return y, *tree.map_structure(lambda leaf: leaves[leaf], self._nested_names())

    def rematerialized_call(self, layer_call: Any, *_: Any, **__: Any) -> Any:
        """``call`` itself: only its steps are computed again in the backward pass. The state is
        stored, and random numbers are drawn, once."""
        return layer_call

    def _refuse_unknown_rows_in_xla(self) -> None:
        """Refuse a batch of unknown size in a step that XLA compiles."""
        model = outermost_layer() or self
        if (
            keras.backend.backend() == "tensorflow"
            and getattr(model, "jit_compile", False)
            and not getattr(model, "run_eagerly", False)
            and not self.current_state.known()
        ):
            raise StateError(
                f"layer {self.name!r}: the batch size is unknown, and XLA cannot change it within "
                "a compiled step. Give the model Input(batch_shape=(rows, ...)), call "
                "reset_states(model, batch_size=rows), or compile with jit_compile=False."
            )

    def _resets(self, reset: Any, rows: Any, steps: Any) -> tuple[Any, Any]:
        """``reset`` as a mask of rows, or as one of rows and steps; the other is None."""
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
        """The cell for the kernels, its weights, and the inputs with dropout."""
        plain = stock_cell(self.cell)
        if plain is not None and not (training and getattr(self.cell, "dropout", 0)):
            return plain, stock_weights(self.cell), x
        first = x[:, 0] if x.shape[1] != 0 else ops.zeros_like(ops.sum(x, axis=1))
        if plain is None:
            width = tuple(x.shape[2:])
            if len(width) > 1:
                x = ops.reshape(x, (*ops.shape(x)[:2], int(np.prod(width))))
            names = self._nested_names()
            states = tree.map_structure(lambda leaf: start[leaf], names)
            self._maybe_config_dropout_masks(self.cell, first, states)
            return KerasCell(self.cell, width, bool(training)), {}, x
        x = x * self.cell.get_dropout_mask(first)[:, None]
        return plain, stock_weights(self.cell), x

    @property
    def fresh_start(self) -> str:
        """Where fresh rows start, as in ``LayerStart``: by the last call, else by the wiring."""
        if self._passed is not None:
            return self._passed
        if isinstance(self._source, (dict, float)):
            return "constant"
        return self._source or ("cell" if self._cell_sets_start() else "zeros")

    def explain_kernels(self) -> dict[str, str]:
        """Per kernel: "runs", "would run", or why it declines a call like the last."""
        plain = stock_cell(self.cell)
        like = keras.KerasTensor
        dtype, carried = self.cell.compute_dtype, self._state_dtype()
        state = {leaf: like((None, *shape), carried) for leaf, shape in self.state_shapes.items()}
        flags = like((None, None), "bool")
        answer = explain(
            KerasCell(self.cell, ()) if plain is None else plain,
            {},
            like((None, None, None), dtype),
            state,
            mask=flags if self._last_call.get("mask") else None,
            resets=flags if self._last_call.get("resets") else None,
            initial=state,
            unroll=self.unroll,
        )
        if getattr(self, "use_cudnn", "auto") is False:
            answer = dict.fromkeys(answer, "declines: use_cudnn is False") | {"loop": "runs"}
        return answer

    @contextmanager
    def recorded_steps(self) -> Iterator[list[dict[str, Any]]]:
        """A block in which each call of the layer appends to the list that the block is given:
        leaf name to tensor ``(rows, steps, units)``, the state after each step."""
        self._recorded = []
        try:
            yield self._recorded
        finally:
            self._recorded = None

    def _run_recorded(
        self, cell: Cell, weights: Weights, x: Any, start: Leaves, options: dict[str, Any]
    ) -> tuple[Any, Leaves]:
        if weights:  # outputs have the dtype of x, and the states are among them
            x = ops.cast(x, self._state_dtype())
        y, after = run(TracedCell(cell), weights, x, start, **options)
        sizes = [shape[0] for shape in self.state_shapes.values()]
        width = y.shape[-1] - sum(sizes)
        cuts = np.cumsum([width, *sizes])[:-1].tolist()
        y, *leaves = ops.split(y, cuts, axis=-1)
        assert self._recorded is not None
        self._recorded.append(dict(zip(self.state_shapes, leaves, strict=True)))
        return y, after


rematerialize_stateful_layers_alone(Controlled)


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
    """``keras.layers.GRU`` with its state (h) under control; see ``RNN``.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast.layers import GRU
    >>> gru = GRU(2, stateful=True, initial_state="learned")
    >>> _ = gru(np.ones((3, 4, 1), "float32"))
    >>> gru.state["h"].shape
    (3, 2)
    """

    __init__ = _signed_as(keras.layers.GRU)(RNN.__init__)


@keras.saving.register_keras_serializable("statecast")
class SimpleRNN(RNN, keras.layers.SimpleRNN):
    """``keras.layers.SimpleRNN`` with its state (h) under control; see ``RNN``.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast.layers import SimpleRNN
    >>> rnn = SimpleRNN(2, stateful=True)
    >>> _ = rnn(np.ones((3, 4, 1), "float32"))
    >>> rnn.reset_states(rows=[0])
    >>> rnn.state["h"][0].tolist()
    [0.0, 0.0]
    """

    __init__ = _signed_as(keras.layers.SimpleRNN)(RNN.__init__)


@keras.saving.register_keras_serializable("statecast")
class Bidirectional(Controlled, keras.layers.Bidirectional):
    """``keras.layers.Bidirectional`` over two layers whose states are under control.

    The leaves are ``forward/h``, ..., ``backward/h``, ...; in lists the forward layer's states
    come first, as in Keras. A recurrent layer of Keras is replaced by its counterpart
    (``controlled``). The arguments of a call are those of ``RNN``.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast.layers import GRU, Bidirectional
    >>> both = Bidirectional(GRU(2, stateful=True))
    >>> _ = both(np.ones((1, 3, 1), "float32"))
    >>> both.state.names
    ('forward/h', 'backward/h')
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
        """The forward layer's states, then the backward layer's; see ``RNN.states``."""
        forward, backward = self.forward_layer.states, self.backward_layer.states
        return None if forward is None or backward is None else (*forward, *backward)

    def set_initial_state(self, source: Any) -> None:
        """Set the layers' own initial states, see ``RNN.set_initial_state``: one word or number
        for both directions, or a mapping or list of constants, the forward layer's first."""
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
            # Keras's call runs both directions in one cuDNN call where it can.
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
        """The mask of each output. Keras's method fails for stateful layers that return states."""
        mask = tree.flatten(mask)[0] if mask is not None and self.return_sequences else None
        outputs = 2 if self.merge_mode is None else 1
        masks = [mask] * outputs + [None] * (len(self.state_shapes) if self.return_state else 0)
        return masks if len(masks) > 1 else mask

    def _both_ways(self) -> bool:
        """Whether Keras's own call is right: no layer has a current or own initial state."""
        return all(
            layer.current_state is None and layer._source is None and layer._recorded is None
            for layer in self.recurrences().values()
        )

    def _split(self, states: Any) -> Iterator[tuple[RNN, Any]]:
        """Each direction's layer with its half of the states."""
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
    """The counterpart of a recurrent layer of Keras, not yet built. Any other layer is returned
    unchanged.

    Raises
    ------
    ArgumentError
        A recurrent layer without a counterpart (convolutional ones).

    Examples
    --------
    >>> from statecast.layers import controlled
    >>> import keras
    >>> type(controlled(keras.layers.LSTM(2))).__module__
    'statecast.layers.recurrent'
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
            f"layer {layer.name!r}: {type(layer).__name__} has no counterpart whose state is under "
            f"control; there are {[kind.__name__ for kind in kinds]}."
        )
    return layer


def _ran(rows: Any, steps: Any, mask: Any, resets: Any) -> tuple[Any, Any]:
    """Which rows took a step since their last reset, and which were reset; bool ``(rows,)``."""
    if mask is None and resets is None:
        return ops.broadcast_to(ops.convert_to_tensor(steps) > 0, (rows,)), None
    counts = ops.ones_like(resets) if mask is None else mask
    if resets is None:
        return ops.any(counts, axis=1), None
    hits = ops.cast(resets, "int32")
    later = ops.flip(ops.cumsum(ops.flip(hits, axis=1), axis=1), axis=1) - hits
    return ops.any(ops.logical_and(counts, later == 0), axis=1), ops.any(resets, axis=1)


def _nested_shapes(shapes: Any) -> Any:
    """Shapes, which Keras gives as nested tuples, as a flat list or mapping of ``_Shape``."""
    if shapes is None:
        return None
    if isinstance(shapes, Mapping):
        return {name: _Shape(shape) for name, shape in shapes.items()}
    return list(map(_Shape, flat_shapes(shapes)))


class _Shape:
    """A shape that ``tree.flatten`` does not flatten."""

    def __init__(self, sizes: Any) -> None:
        self.sizes = tuple(sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.sizes)


def _shape_text(shape: Any) -> str:
    names = [str(size) if isinstance(size, int) else "rows" for size in shape]
    return f"({', '.join(names)}{',' * (len(names) == 1)})"
