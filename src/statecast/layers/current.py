"""``CurrentState``: where a stateful layer's next step starts, kept between calls.

Keras carries a value through a compiled step only if a tracked variable holds it, and a
variable has one shape for life; a batch has not. ``Rows`` is a variable whose number of
rows may change, so that a model may be fitted at 64 rows and asked for one. A row is
*fresh*, and then starts from its initial state, or *running*, and goes on from here.

This module alone knows how Keras's variables work inside.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope

from statecast.errors import ArgumentError, StateError
from statecast.recurrence.cells import within
from statecast.state import State, at_rest, refuse_without_numbers, row_index

Shapes = Mapping[str, tuple[int, ...]]


class AnyRows(tuple):
    """A shape that any number of rows satisfies: Keras compares it with a value's."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        # A list or tuple, or TensorFlow's own class of shapes.
        return isinstance(other, Iterable) and self[1:] == tuple(other)[1:]

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


class StateVariable(keras.Variable):
    """A variable that compiled steps carry, and that is neither a weight nor a parameter."""


class Rows(StateVariable):
    """A variable whose first axis may change its length."""

    def __init__(self, rows: int, tail: tuple[int, ...], dtype: str, name: str) -> None:
        self._tail = tail
        # By an initializer, since Keras may build a layer while it only infers shapes.
        super().__init__(
            keras.initializers.Zeros() if dtype != "bool" else _all_false,
            shape=(rows, *tail),
            dtype=dtype,
            trainable=False,
            autocast=False,
            name=name,
        )

    @property
    def shape(self) -> Any:
        return AnyRows((None, *self._tail))

    def assign(self, value: Any) -> Any:
        value = self._convert_to_tensor(value, dtype=self._dtype)
        if in_stateless_scope():
            get_stateless_scope().add_update((self, value))
        else:
            self._direct_assign(value)
        return value

    def _direct_assign(self, value: Any) -> None:
        if keras.backend.backend() == "torch":
            # A new tensor, not a copy into the old one: autograd may still need the old.
            import torch

            self._value = torch.nn.Parameter(value.detach(), requires_grad=False)
        else:
            super()._direct_assign(value)

    def _initialize(self, value: Any) -> None:
        if keras.backend.backend() != "tensorflow":
            super()._initialize(value)
            return
        import tensorflow as tf

        self._value = tf.Variable(
            value,
            dtype=self._dtype,
            trainable=False,
            name=self.name,
            shape=tf.TensorShape([None, *self._tail]),
        )


def _all_false(shape: Any, dtype: Any = None) -> Any:
    return ops.zeros(shape, dtype="bool")


def seen_before(layer: Any) -> bool:
    """Whether a layer was called before in the same compiled step of JAX; notes this call.

    There no layer knows which model runs it. Elsewhere False.
    """
    scope = get_stateless_scope()
    if scope is None:
        return False
    seen = vars(scope).setdefault("_statecast_seen", set())
    before = id(layer) in seen
    seen.add(id(layer))
    return before


def runs_again() -> str | None:
    """What runs this code once more in the backward pass, or records it; None where nothing does.

    No framework tells, so the frames of the stack do: a few microseconds.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        import torch
        from torch.utils import checkpoint

        if torch._C._current_graph_task_id() != -1:
            return "a backward pass"
        if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            return "torch.jit.trace"
        file, function, name = checkpoint.__file__, "", "torch.utils.checkpoint"
    elif backend == "jax":
        if not in_stateless_scope():
            return None  # without one nothing of a trace can be kept at all
        file, function, name = "ad_checkpoint.py", "", "jax.checkpoint"
    else:
        file, function, name = "custom_gradient.py", "recompute_grad", "tf.recompute_grad"
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "stateless_call":  # takes a state and gives one back, however often
            return None
        if code.co_filename.endswith(file) and code.co_qualname.startswith(function):
            return name
        frame = frame.f_back
    return None


# -- beside Keras's trainers ---------------------------------------------------------------

# Keras's trainer on JAX passes all values from step to step and has the variables hold none
# meanwhile. What they held, by model.
_held: WeakKeyDictionary[Any, list[tuple[Any, Any]]] = WeakKeyDictionary()
# The thread in which a model last took a step, how many steps it began, and whether one is
# under way.
_steps: WeakKeyDictionary[Any, tuple[int, int, bool]] = WeakKeyDictionary()


def _put_back(model: Any) -> None:
    """Have a model's variables hold their values between steps, and after one that failed.

    Keras does not after an error, and weights and state would be lost.
    """
    held = _held.pop(model, [])
    if any(variable._value is None for variable, _ in held):
        if model._jax_state:  # what the last good step left
            model._jax_state_synced = False
            model.jax_state_sync()
        for variable, value in held:
            if variable._value is None:
                variable._value = value


def _watch_models() -> None:
    """On JAX, have models with a state say where their values are."""
    take_out, give = keras.Model._purge_model_variables, keras.Model._get_jax_state

    def purge(model: Any, **which: bool) -> None:
        if any(hasattr(layer, "_current_state") for layer in model._flatten_layers()):
            held = [*model.variables, *model.metrics_variables]
            if getattr(model, "optimizer", None) is not None:
                held += model.optimizer.variables
            _, begun, _ = _steps.get(model, (0, 0, False))
            _steps[model] = (get_ident(), begun, False)
            _held[model] = [(variable, variable._value) for variable in held]
            model._jax_state = None
        take_out(model, **which)

    def get(model: Any, **which: bool) -> Any:
        _put_back(model)
        return give(model, **which)

    keras.Model._purge_model_variables, keras.Model._get_jax_state = purge, get


def _watched(name: str, make: Any) -> Any:
    """Keras's ``make_train_function`` or another, whose function notes that it runs."""

    @wraps(make)
    def make_watched(model: Any, force: bool = False) -> None:
        before = getattr(model, name)
        make(model, force)
        function = getattr(model, name)
        if function is before:
            return

        @wraps(function)
        def step(*arguments: Any) -> Any:
            thread, begun = get_ident(), _steps.get(model, (0, 0, False))[1] + 1
            _steps[model] = (thread, begun, True)
            try:
                return function(*arguments)
            except BaseException:
                if keras.backend.backend() == "jax":
                    _put_back(model)
                raise
            finally:
                _steps[model] = (thread, begun, False)

        setattr(model, name, step)

    return make_watched


def _watch_state() -> None:
    """Have Keras's models and layers treat the state within them as state.

    A copy and a pickle carry it, the validation within ``fit`` leaves it as it was, a step that
    fails does not lose it, an export that could not hold it is refused, and on PyTorch it is no
    parameter.
    """
    reduce, evaluate = keras.layers.Layer.__reduce__, keras.Model.evaluate
    export = keras.Model.export

    def reduce_with_state(layer: Any) -> tuple[Any, ...]:
        now = [_now(variable) for variable in rows_within(layer)]  # first: it puts values back
        return (_copied, (*reduce(layer), now)) if now else reduce(layer)

    @wraps(evaluate)
    def evaluate_within_fit(model: Any, *arguments: Any, **options: Any) -> Any:
        if not options.get("_use_cached_eval_dataset"):  # which `fit` alone passes
            return evaluate(model, *arguments, **options)
        with unmoved(model):
            return evaluate(model, *arguments, **options)

    @wraps(export)
    def export_with_state(model: Any, filepath: Any, *arguments: Any, **options: Any) -> Any:
        saved, backend = "tf_saved_model", keras.backend.backend()
        kind = arguments[0] if arguments else options.get("format", saved)
        if (backend, kind) != ("tensorflow", saved) and rows_within(model):
            raise StateError(
                f"model {model.name!r} is stateful, and a model exported as {kind!r} on {backend} "
                "cannot keep a state: it would be a constant. Export one with stateless layers "
                "(take_control(model, stateful=False)) that take initial_state= and have "
                f"return_state=True. On TensorFlow {saved!r} holds the state."
            )
        return export(model, filepath, *arguments, **options)

    keras.layers.Layer.__reduce__ = reduce_with_state
    keras.Model.evaluate, keras.Model.export = evaluate_within_fit, export_with_state
    for name in ("train_function", "test_function", "predict_function"):
        setattr(keras.Model, f"make_{name}", _watched(name, getattr(keras.Model, f"make_{name}")))
    if keras.backend.backend() == "jax":
        _watch_models()
    if keras.backend.backend() == "torch":
        layer: Any = keras.layers.Layer
        track = layer._track_variables

        def track_parameters(layer: Any) -> None:
            track(layer)
            for variable in layer.variables:
                if isinstance(variable, StateVariable):
                    layer._post_untrack_variable(variable)

        layer._track_variables = track_parameters


def _copied(rebuild: Any, arguments: tuple[Any, ...], state: list[np.ndarray]) -> Any:
    """A copy of a layer, as Keras makes it, with the state of the original."""
    layer = rebuild(*arguments)
    variables = rows_within(layer)
    if [variable.shape for variable in variables] != [value.shape for value in state]:
        raise StateError(
            f"layer {layer.name!r}: the copy that Keras made has other states than the original, "
            f"{len(variables)} for {len(state)}. Give its class a build method or a build config, "
            "so that the copy is built."
        )
    for variable, value in zip(variables, state, strict=True):
        variable.assign(value)
    return layer


def rows_within(layer: Any) -> list[Rows]:
    """What holds the state of a layer or model, and of every layer within, in order."""
    return [variable for variable in layer.variables if isinstance(variable, Rows)]


@contextmanager
def unmoved(layer: Any) -> Iterator[None]:
    """A block after which the state of a layer, and of every layer within, is as before.

    The rows of a layer that is built within the block are fresh afterwards.
    """
    before = {id(variable): _now(variable) for variable in rows_within(layer)}
    try:
        yield
    finally:
        for variable in rows_within(layer):
            _settled(variable)
            value = before.get(id(variable))
            variable.assign(np.zeros_like(_now(variable)) if value is None else value)


_watch_state()


# -- reading a variable from outside -------------------------------------------------------


def settle(models: list[Any]) -> None:
    """Have the variables of models hold their values.

    Raises
    ------
    StateError
        A step is under way and holds them.
    """
    if in_stateless_scope():
        _refuse_in_a_step()
    on_jax = keras.backend.backend() == "jax"
    for model in models:
        thread, _, under_way = _steps.get(model, (0, 0, False))
        aside = on_jax and any(v._value is None for v, _ in _held.get(model, []))
        if (under_way and on_jax) or ((under_way or aside) and thread != get_ident()):
            _refuse_in_a_step()
        if on_jax:
            _put_back(model)


def settle_layer(layer: Any) -> None:
    """As ``settle``, for the models that a layer is in."""
    settle([m for m in _watched_models() if any(part is layer for part in m._flatten_layers())])


def _refuse_in_a_step() -> None:
    raise StateError(
        "A step of fit, evaluate or predict is under way and holds the state, so neither the "
        "model's code nor its data nor another thread can read or set it. Do so between the "
        "steps, in a callback such as ResetStates, or pass the layer reset=..."
    )


def _watched_models() -> list[Any]:
    models = (reference() for reference in _steps.keyrefs())  # all at once: threads may add some
    return [model for model in models if model is not None]


def _settled(variable: Rows) -> Any:
    """What a variable holds, between steps: a tensor of the backend."""
    busy = [m for m in _watched_models() if m in _held or _steps[m][2]]
    settle([m for m in busy if any(v is variable for v in m.variables)])
    return variable.value


def _now(variable: Rows) -> np.ndarray:
    """What a variable holds, between steps: a copy, at rest."""
    value = _settled(variable)
    if _tracer(value):
        raise StateError(
            f"{variable.path}: a traced call has left no numbers in the state. Reset it: "
            "reset_states(model)."
        )
    return at_rest(value).copy()


@contextmanager
def no_step_between(layers: Iterable[Any]) -> Iterator[None]:
    """A block whose readings are of one moment.

    Raises
    ------
    StateError
        Another thread took a step with one of the layers meanwhile.
    """
    before = {model: _steps.get(model) for model in _watched_models()}
    try:
        yield
    finally:
        moved = [m for m in _watched_models() if _steps.get(m) != before.get(m)]
        if any(layer in model._flatten_layers() for model in moved for layer in layers):
            _refuse_in_a_step()


def _tracer(value: Any) -> str | None:
    """Where a tensor is traced, so that it holds no numbers; None where it holds some."""
    if keras.backend.backend() == "jax":
        from jax.core import Tracer

        if isinstance(value, Tracer):
            return "within a transformation of JAX (jit, grad, vmap)"
    if keras.backend.backend() == "torch":
        import torch
        from torch._subclasses.fake_tensor import FakeTensor

        if torch.compiler.is_dynamo_compiling() or not isinstance(value, torch.Tensor):
            return None  # the compiled code will meet numbers
        if isinstance(value, FakeTensor):
            return "within torch.export"
        inside: Any = torch._C
        if inside._functorch.is_functorch_wrapped_tensor(value):
            return "within a transformation of torch.func"
        if value.is_meta:
            return "on PyTorch's meta device"
    return None


def refuse_traced(values: Any) -> None:
    """Refuse a call of a stateful layer whose state could not be kept.

    Keras traces calls too, but carries the state through them.

    Raises
    ------
    StateError
        What it would leave are no numbers, but tensors of a trace that is over by then.
    """
    tracers = [] if in_stateless_scope() else [_tracer(value) for value in values]
    tracer = next((tracer for tracer in tracers if tracer), None)
    if tracer:
        raise StateError(
            f"A stateful layer is called {tracer}, so what it leaves are no numbers and "
            "cannot be its current state, which is as it was. Use fit, evaluate or predict, which "
            "carry the state through compiled steps; or model.stateless_call, which takes and "
            "returns it; or a layer with stateful=False, initial_state= and return_state=True."
        )


class InitialVectors:
    """A layer's own initial state: one vector for each leaf, the same for every row.

    Parameters
    ----------
    vectors : mapping of str to keras.Variable
        Trained, or constants that can be assigned between compiled steps.
    """

    def __init__(self, vectors: Mapping[str, Any]) -> None:
        self.vectors = dict(vectors)  # held here, Keras does not take constants for weights

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
        """Each vector at rest: ``(units,)``."""
        return {leaf: at_rest(vector.value) for leaf, vector in self.vectors.items()}


class CurrentState:
    """The current state of one layer: a ``Rows`` for each leaf, and which rows are running.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Leaf name to shape, without rows.
    dtype : str
        Of the leaves.
    rows : int
        To begin with, all fresh; 0 while the batch size is unknown.
    """

    def __init__(self, shapes: Shapes, dtype: str, rows: int) -> None:
        self.shapes = dict(shapes)
        self.leaves = {
            leaf: Rows(rows, shape, dtype, f"state_{leaf.replace('/', '_')}")
            for leaf, shape in self.shapes.items()
        }
        self.running = Rows(rows, (), "bool", "running")

    @property
    def variables(self) -> list[Rows]:
        """What Keras has to carry through a compiled step."""
        return [*self.leaves.values(), self.running]

    # -- inside a call: tensors, perhaps of a graph --------------------------------------

    def start(self, initial: Mapping[str, Any], reset: Any = None) -> dict[str, Any]:
        """Where each row of a call starts: the first rows of what is kept.

        Parameters
        ----------
        initial : mapping of str to tensor, ``(rows, ...)``
            Where fresh rows start; the gradient reaches it. None reaches the past.
        reset : tensor, bool, ``(rows,)``, optional
            Rows that start afresh.
        """
        some = next(iter(initial.values()))
        goes_on = _first(self.running.value, ops.shape(some)[0])
        if reset is not None:
            goes_on = ops.logical_and(goes_on, ops.logical_not(reset))
        start = {}
        for leaf, variable in self.leaves.items():
            fresh = initial[leaf]
            kept = ops.cast(_first(variable.value, ops.shape(some)[0]), fresh.dtype)
            start[leaf] = ops.where(_beside(goes_on, fresh), ops.stop_gradient(kept), fresh)
        return start

    def keep(self, after: Mapping[str, Any], ran: Any, reset: Any = None) -> None:
        """Keep what a call left. ``ran``, bool ``(rows,)``, says which rows took a step.

        A row that took none is as fresh or as running as before, ``reset`` apart.

        Raises
        ------
        StateError
            The call is traced, so that it left no numbers; see ``refuse_traced``.
        """
        refuse_traced([*after.values(), ran])
        rows = ops.shape(ran)[0]
        if keras.backend.backend() == "jax" and in_stateless_scope():
            # JAX says once that a buffer which grew could not be used again; it is right, and
            # there is nothing that anyone should do about it.
            warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        before = _first(self.running.value, rows)
        if reset is not None:
            before = ops.logical_and(before, ops.logical_not(reset))
        self.running.assign(_over(ops.logical_or(before, ran), self.running.value))
        for leaf, variable in self.leaves.items():
            value = ops.stop_gradient(ops.cast(after[leaf], variable.dtype))
            variable.assign(_over(value, variable.value))

    # -- from outside: NumPy -------------------------------------------------------------

    @property
    def rows(self) -> int:
        """The number of rows; 0 while the batch size is unknown."""
        return int(ops.shape(_settled(self.running))[0])

    def known(self) -> bool:
        """Whether the batch size is known; may be asked while TensorFlow traces a step."""
        import tensorflow as tf

        with tf.init_scope():
            return self.rows > 0

    def flags(self) -> np.ndarray:
        """Which rows are running: bool ``(rows,)``."""
        return _now(self.running)

    def read(self, initial: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The leaves at rest. A fresh row reads as ``initial``, leaves without rows."""
        running = self.flags()
        leaves = {}
        for leaf, variable in self.leaves.items():
            value = _now(variable)
            value[~running] = initial[leaf]
            leaves[leaf] = value
        return leaves

    def write(self, values: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
        """Set rows, already checked; they are running from now on."""
        if len(rows) == self.rows:  # what was there before need not be readable
            self.resize(len(rows))
        running = self.flags()
        running[rows] = True
        for leaf, variable in self.leaves.items():
            value = _now(variable)
            value[rows] = values[leaf]
            variable.assign(value)
        self.running.assign(running)

    def reset(self, rows: np.ndarray) -> None:
        """Make rows fresh."""
        if len(rows) == self.rows:  # what was there before need not be readable
            self.resize(len(rows))
            return
        running = self.flags()
        running[rows] = False
        self.running.assign(running)

    def take(self, other: CurrentState) -> None:
        """Be as another of the same leaves is."""
        for variable, given in zip(self.variables, other.variables, strict=True):
            variable.assign(_now(given))

    def resize(self, rows: int) -> None:
        """Have so many rows, all fresh."""
        _settled(self.running)
        for leaf, variable in self.leaves.items():
            variable.assign(np.zeros((rows, *self.shapes[leaf]), variable.dtype))
        self.running.assign(np.zeros(rows, bool))


def _first(value: Any, rows: Any) -> Any:
    """The first ``rows`` rows; zeros (False) where there are not so many."""
    have = ops.shape(value)[0]
    if isinstance(have, int) and isinstance(rows, int):
        if have < rows:
            missing = ops.zeros((rows - have, *value.shape[1:]), value.dtype)
            value = ops.concatenate([value, missing])
        return value[:rows]
    missing = ops.zeros((ops.maximum(rows - have, 0), *value.shape[1:]), value.dtype)
    return ops.concatenate([value, missing])[:rows]


def _over(new: Any, old: Any) -> Any:
    """``old`` with its first rows replaced by ``new``."""
    return ops.concatenate([new, old[ops.shape(new)[0] :]])


def _beside(flags: Any, leaf: Any) -> Any:
    """Flags ``(rows,)`` with as many axes as ``leaf``."""
    return ops.reshape(flags, (-1, *(1 for _ in leaf.shape[1:])))


# -- the states of layers, from outside ----------------------------------------------------


class Joined:
    """The current states of some layers, read and written as one.

    Parameters
    ----------
    layers : mapping of str to layers.RNN
        Stateful layers by the name that goes before their leaves; "" for none.
    where : str
        What they are, for messages: "layer 'lstm'".
    """

    def __init__(self, layers: Mapping[str, Any], where: str) -> None:
        self.layers = layers
        self.where = where
        self.shapes = {
            f"{name}/{leaf}" if name else leaf: shape
            for name, layer in layers.items()
            for leaf, shape in layer.state_shapes.items()
        }

    def read(self) -> State:
        """The current state of every row. A fresh row reads as its initial state."""
        checked_rows(None, self._rows(), self.where)
        leaves: dict[str, Any] = {}
        with no_step_between(self.layers.values()):
            for name, layer in self.layers.items():
                for leaf, value in layer._read().items():
                    leaves[f"{name}/{leaf}" if name else leaf] = value
        return State(leaves)

    def reset(
        self,
        states: Any = None,
        rows: Any = None,
        *,
        batch_size: int | None = None,
        allow_nonfinite: bool = False,
    ) -> None:
        """Reset or set; everything is checked before anything is written."""
        if batch_size is not None:
            if rows is not None:
                raise ArgumentError(
                    f"{self.where}: batch_size makes all rows anew, so rows={rows!r} cannot be "
                    "given beside it."
                )
            if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
                raise ArgumentError(
                    f"{self.where}: batch_size: expected a whole number of 1 or more, received "
                    f"{batch_size!r}."
                )
        count = self._rows() if batch_size is None else batch_size
        if states is None and rows is None and count == 0:
            return  # nothing has begun, so there is nothing to reset
        index = checked_rows(rows, count, self.where)
        values = None
        if states is not None:
            dtypes = {
                f"{name}/{leaf}" if name else leaf: variable.dtype
                for name, layer in self.layers.items()
                for leaf, variable in layer._current_state.leaves.items()
            }
            values = checked(
                states, self.shapes, len(index), self.where, dtypes, allow_nonfinite=allow_nonfinite
            )
        for layer in self.layers.values():
            _ = layer._current_state.rows  # raises while a step carries the state
        for name, layer in self.layers.items():
            if batch_size is not None:
                layer._current_state.resize(batch_size)
            if values is None:
                layer._current_state.reset(index)
            else:
                mine = within(values, name) if name else values
                layer._current_state.write(mine, index)

    def _rows(self) -> int:
        rows = {name: layer._current_state.rows for name, layer in self.layers.items()}
        if len(set(rows.values())) > 1:
            raise StateError(
                f"{self.where}: the layers' states have different numbers of rows, {rows}, so "
                "they are no one state. Use each layer's own."
            )
        return next(iter(rows.values()))


class LiveState(np.lib.mixins.NDArrayOperatorsMixin):
    """One leaf of a layer's current state, as ``layer.states`` gives it: always as it is now.

    It reads like an array, and ``assign`` sets all rows of this leaf.
    """

    def __init__(self, layer: Any, leaf: str) -> None:
        self._layer = layer
        self.name = leaf

    def numpy(self) -> np.ndarray:
        """The leaf now: ``(rows, units)``."""
        return self._layer._read()[self.name]

    @property
    def value(self) -> Any:
        """The leaf now, as a tensor of the backend."""
        return ops.convert_to_tensor(self.numpy())

    @property
    def shape(self) -> tuple[int, ...]:
        return self.numpy().shape

    @property
    def dtype(self) -> str:
        return str(self.numpy().dtype)

    def assign(self, value: Any) -> None:
        """Set all rows of this leaf; they run on from it.

        Raises
        ------
        StateError
            Another shape, or values that are no finite numbers. Nothing broadcasts.
        """
        where = f"layer {self._layer.name!r}"
        current = self._layer._current_state
        rows = checked_rows(None, current.rows, where)
        shapes = {self.name: self._layer.state_shapes[self.name]}
        dtypes = {self.name: current.leaves[self.name].dtype}
        new = checked([value], shapes, len(rows), where, dtypes)
        current.write(self._layer._read() | new, rows)

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


# -- what a user hands in -------------------------------------------------------------------


def checked(
    states: Any,
    shapes: Shapes,
    rows: int,
    where: str,
    dtypes: Mapping[str, str],
    *,
    allow_nonfinite: bool = False,
) -> dict[str, np.ndarray]:
    """What a user hands in as a state, as one array for each leaf, copied.

    Parameters
    ----------
    states : State, mapping of str to array, array, or list of arrays (nested or flat)
        Lists in the order of ``shapes``; one array alone where there is one leaf.
    shapes : mapping of str to tuple of int
        The leaves expected, without rows.
    rows : int
        The rows expected. Nothing broadcasts.
    where : str
        What is being set, for messages: "layer 'lstm'".
    dtypes : mapping of str to str
        What the leaves are kept in.
    allow_nonfinite : bool
        Let NaN and infinite values pass.

    Raises
    ------
    StateError
        Other leaves, count, rank, rows or units, or values that are no finite numbers.
    """
    named = _named(states, list(shapes), where)
    checked: dict[str, np.ndarray] = {}
    for leaf, shape in shapes.items():
        refuse_without_numbers(named[leaf], f"{where}, leaf {leaf!r}")
        try:
            value = np.array(at_rest(named[leaf]))
        except (TypeError, ValueError, RuntimeError) as error:
            raise StateError(f"{where}, leaf {leaf!r}: not an array ({error}).") from None
        expected = (rows, *shape)
        if value.dtype.kind not in "fiub" and "float" not in str(value.dtype):  # bfloat16 is V
            raise StateError(f"{where}, leaf {leaf!r}: expected numbers, received {value.dtype}.")
        if value.ndim != len(expected):
            raise StateError(
                f"{where}, leaf {leaf!r}: expected shape {expected}, received {value.shape}: "
                f"{value.ndim} axes where there are {len(expected)}."
            )
        if value.shape[1:] != expected[1:]:
            raise StateError(
                f"{where}, leaf {leaf!r}: expected shape {expected}, received {value.shape}: "
                "the units differ."
            )
        if value.shape[0] != rows:
            raise StateError(
                f"{where}, leaf {leaf!r}: expected shape {expected}, received {value.shape}: "
                "the rows differ, and nothing broadcasts. Name the rows meant with rows=..., or "
                f"say batch_size={value.shape[0]} to have so many from now on."
            )
        value = value.astype("float64")
        kept = dtypes[leaf] if dtypes[leaf] in ("float16", "float64") else "float32"
        with np.errstate(over="ignore"):
            lost = ~np.isfinite(value.astype(kept))
        if not allow_nonfinite and lost.any():
            row = int(np.argwhere(lost)[0][0])
            raise StateError(
                f"{where}, leaf {leaf!r}: expected finite numbers of {dtypes[leaf]}, received "
                f"{value[row][lost[row]][0]} in row {row}. "
                "Pass allow_nonfinite=True if that is meant."
            )
        checked[leaf] = value
    return checked


def checked_rows(rows: Any, count: int, where: str) -> np.ndarray:
    """The rows a user means, all of them for None.

    Raises
    ------
    StateError
        A row out of range, the same row twice, or the number of rows is unknown.
    """
    if count == 0:
        raise StateError(
            f"{where}: the batch size is unknown, so there are no rows yet. Give the model "
            "Input(batch_shape=(rows, ...)), call it once, or say batch_size=... here."
        )
    if rows is None:
        return np.arange(count)
    try:
        index = row_index(rows, count)
    except StateError as error:
        raise StateError(f"{where}: {error}") from None
    if len(set(index.tolist())) != len(index):
        raise StateError(f"{where}: a row is given twice in {rows}.")
    return index


def _named(states: Any, names: list[str], where: str) -> Mapping[str, Any]:
    if isinstance(states, State):
        states = states.leaves
    if isinstance(states, Mapping):
        flat = _flat(states)
        if set(flat) != set(names):
            raise StateError(f"{where}: expected the leaves {names}, received {list(flat)}.")
        return flat
    values = in_order(states)
    if len(values) != len(names):
        raise StateError(
            f"{where}: expected {len(names)} state{'s' * (len(names) > 1)} "
            f"({', '.join(names)}), received {len(values)}."
        )
    return dict(zip(names, values, strict=True))


def _flat(states: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in states.items():
        flat |= (
            _flat(value, f"{before}{name}/")
            if isinstance(value, Mapping)
            else {before + name: value}
        )
    return flat


def in_order(states: Any, axes: int = 2) -> list[Any]:
    """The arrays of a nested list, in order; numbers nested ``axes`` deep are an array."""
    if isinstance(states, (list, tuple)) and _depth(states) > axes:
        return [leaf for inner in states for leaf in in_order(inner, axes)]
    return [states]


def _depth(states: Any) -> float:
    """How deep numbers are nested; endless where there is anything else."""
    if isinstance(states, (list, tuple)):
        return 1 + max((_depth(inner) for inner in states), default=np.inf)
    return 0 if isinstance(states, (int, float, np.number)) else np.inf
