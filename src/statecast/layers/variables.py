"""Keras variables that hold the state, and the hooks into Keras that keep them right.

Keras carries a value through a compiled step only if a tracked variable holds it, and the shape of
a variable never changes. A batch may have any number of rows. So ``RowsVariable`` is a variable
whose number of rows may change: a model may be fitted with 64 rows and asked for one.

Only this module knows how Keras's variables and trainers work inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope

from statecast.errors import StateError
from statecast.state import at_rest


class AnyRows(tuple):
    """A shape that equals any shape with the same sizes after the first: Keras compares a
    variable's shape with that of the value it is given."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        # A list or tuple, or TensorFlow's own class of shapes.
        return isinstance(other, Iterable) and self[1:] == tuple(other)[1:]

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


class StateVariable(keras.Variable):
    """A variable that Keras carries through compiled steps, but that is neither a weight of the
    layer nor a PyTorch parameter."""


class RowsVariable(StateVariable):
    """A state variable whose number of rows may change."""

    def __init__(self, rows: int, tail: tuple[int, ...], dtype: str, name: str) -> None:
        self._tail = tail
        # With an initializer: Keras may build a layer while it only infers shapes.
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
            if _in_archive.get():  # of a layer that the archive does not track
                _refuse_export(self.path, "tf_saved_model")
            get_stateless_scope().add_update((self, value))
        else:
            self._direct_assign(value)
        return value

    def _direct_assign(self, value: Any) -> None:
        if keras.backend.backend() == "torch":
            # A new tensor, not a copy into the old one, which autograd may still need.
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


# Whether Keras's ExportArchive traces a function on JAX.
_in_archive: ContextVar[bool] = ContextVar("_in_archive", default=False)


def _all_false(shape: Any, dtype: Any = None) -> Any:
    return ops.zeros(shape, dtype="bool")


# -- hooks into Keras's trainers -------------------------------------------------------------

# Keras's trainer on JAX passes all values from step to step, and the variables hold None
# meanwhile. This is what they held before, by model.
_values_aside: WeakKeyDictionary[Any, list[tuple[Any, Any]]] = WeakKeyDictionary()
# By model: the thread of its last step, how many steps it has begun, whether one is under way.
_steps: WeakKeyDictionary[Any, tuple[int, int, bool]] = WeakKeyDictionary()


def _restore(model: Any) -> None:
    """Give a model's variables their values between steps, and after a step that failed.

    Keras does not do so after an error: weights and state would be lost.
    """
    held = _values_aside.pop(model, [])
    if any(variable._value is None for variable, _ in held):
        if model._jax_state:  # the values after the last step that succeeded
            model._jax_state_synced = False
            model.jax_state_sync()
        for variable, value in held:
            if variable._value is None:
                variable._value = value


def _watch_models() -> None:
    """On JAX, record the values of a model's variables before its trainer takes them out."""
    take_out, give = keras.Model._purge_model_variables, keras.Model._get_jax_state

    def purge(model: Any, **which: bool) -> None:
        if any(hasattr(layer, "current_state") for layer in model._flatten_layers()):
            held = [*model.variables, *model.metrics_variables]
            if getattr(model, "optimizer", None) is not None:
                held += model.optimizer.variables
            _, begun, _ = _steps.get(model, (0, 0, False))
            _steps[model] = (get_ident(), begun, False)
            _values_aside[model] = [(variable, variable._value) for variable in held]
            model._jax_state = None
        take_out(model, **which)

    def get(model: Any, **which: bool) -> Any:
        _restore(model)
        return give(model, **which)

    keras.Model._purge_model_variables, keras.Model._get_jax_state = purge, get


def _watched(name: str, make: Any) -> Any:
    """Keras's ``make_train_function`` or the like. The function it makes records that it runs."""

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
                    _restore(model)
                raise
            finally:
                _steps[model] = (thread, begun, False)

        setattr(model, name, step)

    return make_watched


def _watch_state() -> None:
    """Hook into Keras's layers and models, so that they treat state variables as state.

    A copy and a pickle contain the state. Validation within ``fit`` does not change it. A step that
    fails does not lose it. An export that could not contain it is refused. On PyTorch it is not a
    parameter.
    """
    reduce, evaluate = keras.layers.Layer.__reduce__, keras.Model.evaluate
    export = keras.Model.export

    def reduce_with_state(layer: Any) -> tuple[Any, ...]:
        # First, because it restores the values of the variables.
        state = [array_of(variable) for variable in state_variables(layer)]
        return (_copied, (*reduce(layer), state)) if state else reduce(layer)

    @wraps(evaluate)
    def evaluate_within_fit(model: Any, *arguments: Any, **options: Any) -> Any:
        if not options.get("_use_cached_eval_dataset"):  # only `fit` passes it
            return evaluate(model, *arguments, **options)
        with preserved_state(model):
            return evaluate(model, *arguments, **options)

    @wraps(export)
    def export_with_state(model: Any, filepath: Any, *arguments: Any, **options: Any) -> Any:
        saved, backend = "tf_saved_model", keras.backend.backend()
        kind = arguments[0] if arguments else options.get("format", saved)
        if (backend, kind) != ("tensorflow", saved) and state_variables(model):
            _refuse_export(model.name, kind)
        return export(model, filepath, *arguments, **options)

    keras.layers.Layer.__reduce__ = reduce_with_state
    keras.Model.evaluate, keras.Model.export = evaluate_within_fit, export_with_state
    for name in ("train_function", "test_function", "predict_function"):
        setattr(keras.Model, f"make_{name}", _watched(name, getattr(keras.Model, f"make_{name}")))
    if keras.backend.backend() == "jax":
        _watch_models()
        _refuse_state_in_archives()
    if keras.backend.backend() == "torch":
        layer: Any = keras.layers.Layer
        track = layer._track_variables

        def track_parameters(layer: Any) -> None:
            track(layer)
            for variable in layer.variables:
                if isinstance(variable, StateVariable):
                    layer._post_untrack_variable(variable)

        layer._track_variables = track_parameters


def _refuse_state_in_archives() -> None:
    """On JAX, refuse stateful layers in ``keras.export.ExportArchive``."""
    from keras.src.backend.jax.export import JaxExportArchive as Archive  # loads no TensorFlow

    track, add = Archive._backend_track_layer, Archive._backend_add_endpoint

    def track_stateless(archive: Any, layer: Any) -> None:
        if state_variables(layer):
            _refuse_export(layer.name, "tf_saved_model")
        track(archive, layer)

    def add_stateless(archive: Any, name: str, function: Any, *others: Any, **options: Any) -> Any:
        @wraps(function)
        def stateless(*arguments: Any, **named: Any) -> Any:
            token = _in_archive.set(True)
            try:
                return function(*arguments, **named)
            finally:
                _in_archive.reset(token)

        return add(archive, name, stateless, *others, **options)

    Archive._backend_track_layer, Archive._backend_add_endpoint = track_stateless, add_stateless


def _refuse_export(name: str, kind: str) -> None:
    raise StateError(
        f"{name!r} is stateful, and what is exported as {kind!r} on "
        f"{keras.backend.backend()} cannot keep a state: it would be a constant. Export a model "
        "with stateless layers (take_control(model, stateful=False)) that take initial_state= and "
        "have return_state=True. On TensorFlow 'tf_saved_model' holds the state."
    )


def _copied(rebuild: Any, arguments: tuple[Any, ...], state: list[np.ndarray]) -> Any:
    """A copy of a layer as Keras makes it, with the state of the original."""
    layer = rebuild(*arguments)
    variables = state_variables(layer)
    if [variable.shape for variable in variables] != [value.shape for value in state]:
        raise StateError(
            f"layer {layer.name!r}: the copy that Keras made has {len(variables)} state variables, "
            f"or other shapes, where the original has {len(state)}. Give its class a build method "
            "or a build config, so that Keras builds the copy."
        )
    for variable, value in zip(variables, state, strict=True):
        variable.assign(value)
    return layer


def state_variables(layer: Any) -> list[RowsVariable]:
    """The variables that hold the state of a layer or model and of all layers within, in order."""
    return [variable for variable in layer.variables if isinstance(variable, RowsVariable)]


@contextmanager
def preserved_state(layer: Any) -> Iterator[None]:
    """A block after which the state of a layer, and of all layers within, is as before it.

    A layer that is built within the block has fresh rows afterwards.
    """
    before = {id(variable): array_of(variable) for variable in state_variables(layer)}
    try:
        yield
    finally:
        for variable in state_variables(layer):
            tensor_of(variable)
            value = before.get(id(variable))
            variable.assign(np.zeros_like(array_of(variable)) if value is None else value)


_watch_state()


# -- reading a variable from outside -------------------------------------------------------


def restore_values(models: list[Any]) -> None:
    """Give the variables of models their values, so that they can be read and set.

    Raises
    ------
    StateError
        A step is under way, which holds the values.
    """
    if in_stateless_scope():
        _refuse_in_a_step()
    on_jax = keras.backend.backend() == "jax"
    for model in models:
        thread, _, under_way = _steps.get(model, (0, 0, False))
        aside = on_jax and any(v._value is None for v, _ in _values_aside.get(model, []))
        if (under_way and on_jax) or ((under_way or aside) and thread != get_ident()):
            _refuse_in_a_step()
        if on_jax:
            _restore(model)


def restore_values_of(layer: Any) -> None:
    """``restore_values`` for the models that contain a layer."""
    restore_values(
        [m for m in _watched_models() if any(part is layer for part in m._flatten_layers())]
    )


def _refuse_in_a_step() -> None:
    raise StateError(
        "A step of fit, evaluate or predict is under way and holds the state, so neither the "
        "model's code nor its data nor another thread can read or set it. Do so between the "
        "steps, in a callback such as ResetStates, or pass the layer reset=..."
    )


def _watched_models() -> list[Any]:
    # The references are listed at once, since other threads may add models.
    models = (reference() for reference in _steps.keyrefs())
    return [model for model in models if model is not None]


def tensor_of(variable: RowsVariable) -> Any:
    """The value of a variable between steps: a tensor of the backend."""
    busy = [m for m in _watched_models() if m in _values_aside or _steps[m][2]]
    restore_values([m for m in busy if any(v is variable for v in m.variables)])
    if keras.backend.backend() != "jax" or in_stateless_scope():
        return variable.value
    value = variable._value  # read once: another thread's trainer takes it out at any moment
    if value is None:
        _refuse_in_a_step()
    return variable._maybe_autocast(value)


def array_of(variable: RowsVariable) -> np.ndarray:
    """The value of a variable between steps: a copy, as a NumPy array."""
    value = tensor_of(variable)
    if _tracer(value):
        raise StateError(
            f"{variable.path}: a traced call has left a tracer in the state, not numbers. Reset it "
            "with reset_states(model)."
        )
    return at_rest(value).copy()


@contextmanager
def no_step_between(layers: Iterable[Any]) -> Iterator[None]:
    """A block in which all layers are read between the same two steps.

    Raises
    ------
    StateError
        Another thread took a step with one of the layers during the block.
    """
    before = {model: _steps.get(model) for model in _watched_models()}
    try:
        yield
    finally:
        moved = [m for m in _watched_models() if _steps.get(m) != before.get(m)]
        if any(layer in model._flatten_layers() for model in moved for layer in layers):
            _refuse_in_a_step()


def _tracer(value: Any) -> str | None:
    """What traces a tensor, so that it has no numbers; None if it has numbers."""
    if keras.backend.backend() == "jax":
        from jax.core import Tracer

        if isinstance(value, Tracer):
            return "within a transformation of JAX (jit, grad, vmap)"
    if keras.backend.backend() == "torch":
        import torch
        from torch._subclasses.fake_tensor import FakeTensor

        if torch.compiler.is_dynamo_compiling() or not isinstance(value, torch.Tensor):
            return None  # the compiled code will have numbers
        if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            return "within torch.jit.trace or torch.onnx.export"
        if isinstance(value, FakeTensor):
            return "within torch.export"
        inside: Any = torch._C
        if inside._functorch.is_functorch_wrapped_tensor(value):
            return "within a transformation of torch.func"
        if value.is_meta:
            return "on PyTorch's meta device"
    return None


def refuse_traced(values: Any) -> None:
    """Refuse a call of a stateful layer in a trace that is not Keras's own.

    Keras carries the state through the calls that it traces.

    Raises
    ------
    StateError
        One of ``values`` is a tracer, so the state after the call would be one too.
    """
    tracers = [] if in_stateless_scope() else [_tracer(value) for value in values]
    tracer = next((tracer for tracer in tracers if tracer), None)
    if tracer:
        raise StateError(
            f"A stateful layer is called {tracer}. There its next state has no numbers, or only "
            "those of an example, so it cannot become the current state, which stays as it was. "
            "Use fit, evaluate or predict, "
            "which carry the state through compiled steps; or model.stateless_call, which takes "
            "and returns it; or a layer with stateful=False, initial_state= and return_state=True."
        )
