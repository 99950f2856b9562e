"""The state of whole Keras models: read, set, reset, preserve, record, explain.

Every function takes a model, nested or not, or a layer of ``statecast.layers``. The name of a leaf
contains the names of the layers that it is in: ``lstm/h``, ``encoder/lstm/c``,
``bidirectional/backward/h``. A subclassed model may have layers of equal names side by side; all
but the first are then numbered: ``r/h``, ``r_1/h``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import keras
import numpy as np

from statecast.errors import ArgumentError, NotStatefulError, StateError
from statecast.layers.current import LayerStates
from statecast.layers.recurrent import RNN, Controlled, controlled
from statecast.layers.replay import refuse_several_uses
from statecast.layers.user_states import leaf_name
from statecast.layers.variables import preserved_state
from statecast.state import State, at_rest


def get_state(model: Any) -> State:
    """The current state of all stateful layers as one ``State`` of NumPy arrays.

    Raises
    ------
    NotStatefulError
        No layer keeps a state.
    StateError
        A batch size is still unknown, or the layers have different numbers of rows.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import get_state
    >>> from statecast.layers import GRU
    >>> gru = GRU(2, stateful=True, name="gru")
    >>> _ = gru(np.ones((1, 3, 1), "float32"))
    >>> state = get_state(gru)
    >>> state.rows, state.names
    (1, ('gru/h',))
    """
    return _layer_states(model).read()


def set_state(
    model: Any,
    state: Any,
    rows: Any = None,
    *,
    batch_size: int | None = None,
    allow_nonfinite: bool = False,
) -> None:
    """Set where the next step starts, in all stateful layers.

    Parameters
    ----------
    model : keras.Model or layer
    state : State, mapping of str to array, or list of arrays
        ``(rows, units)`` for each leaf. A list has the layers' states in order, flat or nested,
        each in Keras's order (h, c). A ``State`` of another model of the same architecture is
        accepted too, if only the numbers in its layers' names differ (``lstm_1`` for ``lstm``).
    rows : int, list of int, slice or mask, optional
        The rows to set; all by default.
    batch_size : int, optional
        The number of rows from now on, if the state has another number of rows.
    allow_nonfinite : bool
        Allow NaN and infinite values.

    Raises
    ------
    NotStatefulError, ArgumentError, StateError
        As ``layer.reset_states`` raises them; then nothing is written.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import set_state
    >>> from statecast.layers import GRU
    >>> gru = GRU(2, stateful=True, name="gru")
    >>> _ = gru(np.ones((1, 3, 1), "float32"))
    >>> set_state(gru, [np.full((1, 2), 5.0)])
    >>> gru.state["h"].tolist()
    [[5.0, 5.0]]
    """
    if state is None:
        raise StateError("set_state needs a state; to reset, call reset_states(model).")
    reset_states(model, state, rows, batch_size=batch_size, allow_nonfinite=allow_nonfinite)


def reset_states(
    model: Any,
    states: Any = None,
    rows: Any = None,
    *,
    batch_size: int | None = None,
    allow_nonfinite: bool = False,
) -> None:
    """Reset all stateful layers to their initial states, or set them; see ``RNN.reset_states``.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import reset_states
    >>> from statecast.layers import GRU
    >>> gru = GRU(2, stateful=True, name="gru")
    >>> _ = gru(np.ones((1, 3, 1), "float32"))
    >>> reset_states(gru)
    >>> gru.state["h"].tolist()
    [[0.0, 0.0]]
    """
    current = _layer_states(model)
    if isinstance(states, State):
        states = _renamed(states, current)
    current.reset(states, rows, batch_size=batch_size, allow_nonfinite=allow_nonfinite)


@contextmanager
def peek(model: Any) -> Iterator[None]:
    """A block after which the state is as before it, whatever calls it contains.

    That holds after an exception too.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast.layers.recurrent import GRU
    >>> gru = GRU(2, stateful=True)
    >>> x = np.ones((1, 3, 1), "float32")
    >>> _ = gru(x)
    >>> before = gru.state
    >>> with peek(gru):
    ...     _ = gru(x)
    >>> gru.state == before
    True
    """
    _layer_states(model)  # raises where there is no state
    with preserved_state(model):
        yield


def trajectory(model: Any, inputs: Any, **options: Any) -> dict[str, np.ndarray]:
    """The state after every step: each leaf of every recurrent layer, ``(rows, steps, units)``.

    The model is called once; its current state does not change. With ``go_backwards`` the steps
    are in the order in which they were taken.

    Parameters
    ----------
    model : keras.Model or layer
        Its recurrent layers may be stateful or not. Of a layer that is called several times the
        last call counts.
    inputs
        The argument of the model's call.
    **options
        Further arguments of the call, such as ``initial_state`` or ``mask``.

    Raises
    ------
    ArgumentError
        The model has no recurrent layer of ``statecast.layers``.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import trajectory
    >>> from statecast.layers import LSTM
    >>> found = trajectory(LSTM(4, name="lstm"), np.ones((2, 5, 1), "float32"))
    >>> {name: leaf.shape for name, leaf in found.items()}
    {'lstm/h': (2, 5, 4), 'lstm/c': (2, 5, 4)}
    """
    layers = dict(_recurrences(model))
    if not layers:
        raise ArgumentError(f"{described(model)} has no recurrent layer of statecast.layers.")
    with ExitStack() as blocks:
        recorded = {
            name: blocks.enter_context(layer.recorded_steps()) for name, layer in layers.items()
        }
        blocks.enter_context(preserved_state(model))
        model(inputs, **options)
    return {
        leaf_name(name, leaf): at_rest(value)
        for name, calls in recorded.items()
        if calls
        for leaf, value in calls[-1].items()
    }


# -- taking over -----------------------------------------------------------------------------


def take_control(model: Any, *, stateful: bool | None = None) -> Any:
    """A copy of a Keras model in which all recurrent layers are those of ``statecast.layers``.

    Parameters
    ----------
    model : keras.Model
        Functional or Sequential, nested or not, built.
    stateful : bool, optional
        Whether the recurrent layers are stateful; by default each as it was.

    Returns
    -------
    keras.Model
        A model with the same names, weights and outputs, compiled as ``model`` was. Stateful
        layers of ``statecast.layers`` that stay stateful keep their current state. The state of
        Keras's own layers is not copied.

    Raises
    ------
    ArgumentError
        A subclassed model, whose call no config describes, or a recurrent layer without a
        counterpart (convolutional ones).
    StateError
        The copy would have a stateful layer that it uses twice, or one in ``TimeDistributed``.

    Examples
    --------
    >>> from statecast import take_control
    >>> import keras
    >>> inputs = keras.Input(batch_shape=(1, 3, 1))
    >>> stock = keras.Model(inputs, keras.layers.LSTM(2, stateful=True)(inputs))
    >>> model = take_control(stock)
    >>> type(model.layers[-1]).__module__
    'statecast.layers.recurrent'
    """
    if not isinstance(model, (keras.Sequential, keras.Model)) or not _rebuildable(model):
        raise ArgumentError(
            f"{described(model)}: expected a Functional or Sequential model, received "
            f"{type(model).__name__}. No config describes what its call does. Use the layers of "
            "statecast.layers in it instead."
        )
    copy = keras.models.clone_model(
        model,
        clone_function=lambda layer: _counterpart(layer, stateful),
    )
    copy.set_weights(model.get_weights())
    copied = dict(_recurrences(copy))
    for layer in copied.values():
        if layer.stateful:
            refuse_several_uses(copy, layer)
    for name, layer in _recurrences(model):
        if layer.current_state is not None and copied[name].current_state is not None:
            copied[name].current_state.copy_from(layer.current_state)
    if model.compiled:
        copy.compile_from_config(model.get_compile_config())
    return copy


def _rebuildable(model: Any) -> bool:
    return isinstance(model, keras.Sequential) or hasattr(model, "operations")


def _counterpart(layer: Any, stateful: bool | None) -> Any:
    """A copy of a layer, not yet built, in which all recurrent layers are ours."""
    kind: Any = type(layer)
    if isinstance(layer, (keras.Sequential, keras.Model)):
        return take_control(layer, stateful=stateful)
    if isinstance(layer, Controlled):
        ours = kind.from_config(layer.get_config())
    else:
        ours = controlled(layer)
    if ours is layer:
        config = layer.get_config()
        inner = getattr(layer, "layer", None)
        if isinstance(layer, keras.layers.Wrapper) and inner is not None:
            copy = _counterpart(inner, stateful)
            config["layer"] = keras.saving.serialize_keras_object(copy)
        return kind.from_config(config)
    if stateful is not None:
        config = ours.get_config()
        for part in _recurrent_configs(config):
            part["stateful"] = stateful
        ours = type(ours).from_config(config)
    return ours


def _recurrent_configs(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The configs of the recurrent layers in the config of a layer of ours."""
    inner = [config[name]["config"] for name in ("layer", "backward_layer") if config.get(name)]
    return inner or [config]


# -- explaining ------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerStart:
    """Where the next step of one recurrent layer starts, row by row, and which kernel runs it.

    Attributes
    ----------
    name : str
    rows : tuple of str
        For each row "current", or where a fresh row starts: "zeros", "constant", "learned",
        "cell" (the cell's own), "from X" (an ``InitialState``) or "passed" in the call. Empty for
        a layer that is not stateful, and while the batch size is unknown.
    fresh : str
        Where a fresh row starts, as above.
    stateful : bool
    kernels : dict of str to str
        Per kernel: "runs", "would run", or why it declines.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import explain_state
    >>> from statecast.layers import GRU
    >>> gru = GRU(2, stateful=True, name="gru")
    >>> _ = gru(np.ones((1, 3, 1), "float32"))
    >>> start = explain_state(gru)[0]
    >>> start.rows, start.fresh
    (('current',), 'zeros')
    """

    name: str
    rows: tuple[str, ...]
    fresh: str
    stateful: bool
    kernels: Mapping[str, str]


class Explanation(tuple[LayerStart, ...]):
    """The result of ``explain_state``: a ``LayerStart`` for each layer; prints as text.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import explain_state
    >>> from statecast.layers import GRU
    >>> gru = GRU(2, stateful=True, name="gru")
    >>> _ = gru(np.ones((1, 3, 1), "float32"))
    >>> found = explain_state(gru)
    >>> len(found), found[0].stateful
    (1, True)
    """

    def __repr__(self) -> str:
        return f"<Explanation of {', '.join(layer.name or 'layer' for layer in self)}>"

    def __str__(self) -> str:
        lines = []
        for layer in self:
            if not layer.stateful:
                start = f"every call starts from {layer.fresh}"
            elif not layer.rows:
                start = f"no rows yet; each will start from {layer.fresh}"
            else:
                start = "; ".join(f"{_ranges(i)}: {s}" for s, i in _grouped(layer.rows).items())
            lines.append(f"{layer.name or 'layer'}: {start}")
            lines += [f"    kernel {name}: {answer}" for name, answer in layer.kernels.items()]
        return "\n".join(lines)


def explain_state(model: Any) -> Explanation:
    """Where the next step of each recurrent layer starts, row by row, and which kernel will run.

    The next call is assumed to pass what the last one passed (an initial state, a mask, resets);
    before the first call, what the model's wiring passes.

    Raises
    ------
    ArgumentError
        The model has no recurrent layer of ``statecast.layers``.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import explain_state, reset_states
    >>> from statecast.layers import GRU
    >>> gru = GRU(2, stateful=True, name="gru")
    >>> _ = gru(np.ones((1, 3, 1), "float32"))
    >>> explain_state(gru)[0].rows
    ('current',)
    >>> reset_states(gru)
    >>> explain_state(gru)[0].rows
    ('zeros',)
    """
    found = []
    for name, layer in _recurrences(model):
        fresh, rows = layer.fresh_start, ()
        if layer.current_state is not None:
            rows = tuple("current" if on else fresh for on in layer.current_state.flags())
        found.append(LayerStart(name, rows, fresh, layer.stateful, layer.explain_kernels()))
    if not found:
        raise ArgumentError(f"{described(model)} has no recurrent layer of statecast.layers.")
    return Explanation(found)


def _grouped(rows: tuple[str, ...]) -> dict[str, list[int]]:
    """The rows that start from each place."""
    groups: dict[str, list[int]] = {}
    for row, start in enumerate(rows):
        groups.setdefault(start, []).append(row)
    return groups


def _ranges(rows: list[int]) -> str:
    """Rows as text: "rows 0-3, 7"."""
    if len(rows) == 1:
        return f"row {rows[0]}"
    parts: list[list[int]] = []
    for row in rows:
        if parts and row == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], row]
        else:
            parts.append([row])
    return "rows " + ", ".join("-".join(map(str, part)) for part in parts)


# -- finding the layers ----------------------------------------------------------------------


def _layer_states(model: Any) -> LayerStates:
    everything = dict(_recurrences(model))
    stateful = {name: layer for name, layer in everything.items() if layer.stateful}
    if not stateful:
        reason = (
            f"none of its recurrent layers {list(everything)} is stateful. Make them with "
            "stateful=True, or use the model that take_control(model, stateful=True) returns."
            if everything
            else "it has no recurrent layer of statecast.layers. If it has Keras's own, use the "
            "model that take_control(model) returns, a copy in which they are replaced; with "
            "stateful=True, if none of them is stateful."
        )
        raise NotStatefulError(f"{described(model)} keeps no state between calls: {reason}")
    for name, layer in stateful.items():
        if layer.current_state is None:
            raise StateError(
                f"{described(model)}: layer {name!r} is not built: its batch size is unknown, so "
                "it has no rows yet. Call the model once."
            )
    return LayerStates(stateful, described(model))


def _recurrences(model: Any) -> list[tuple[str, RNN]]:
    """All RNN layers within, in order, each with its path: the names of the layers it is in and
    its own. No path comes twice."""
    found = _inside(model, set())
    if isinstance(model, Controlled):  # a layer by itself: its own name is the path
        return [(f"{model.name}/{path}" if path else model.name, layer) for path, layer in found]
    return found


def _inside(layer: Any, seen: set[int]) -> list[tuple[str, RNN]]:
    """All RNN layers within that are not in ``seen``, with their paths from ``layer`` on."""
    if id(layer) in seen:
        return []
    seen.add(id(layer))
    if isinstance(layer, Controlled):
        return list(layer.recurrences().items())
    parts = [(part.name, _inside(part, seen)) for part in getattr(layer, "_layers", [])]
    parts = [(name, found) for name, found in parts if found]
    names = _distinct([name for name, _ in parts])
    return [
        (f"{name}/{path}" if path else name, inner)
        for name, (_, found) in zip(names, parts, strict=True)
        for path, inner in found
    ]


def _distinct(names: list[str]) -> list[str]:
    """Names of which equal ones, the first apart, are numbered as Keras numbers: r, r_1, r_2.

    Keras lets the layers of a subclassed model have equal names.
    """
    taken, distinct = set(names), list[str]()
    for name in names:
        if name in distinct:
            numbered = (f"{name}_{number}" for number in count(1))
            name = next(new for new in numbered if new not in taken)
            taken.add(name)
        distinct.append(name)
    return distinct


def _renamed(state: State, current: LayerStates) -> Any:
    """A state by this model's names, if only the numbers in its layers' names differ."""
    names = list(current.shapes)
    if set(state.names) == set(names) or _unnumbered(state.names) != _unnumbered(names):
        return state
    return {name: state[other] for name, other in zip(names, state.names, strict=True)}


def _unnumbered(names: Any) -> list[str]:
    """Leaf names without the numbers of their layers."""
    return [re.sub(r"_\d+(?=/)", "", name) for name in names]


def described(model: Any) -> str:
    """A model or layer in messages: "model 'encoder'"."""
    kind = "model" if isinstance(model, keras.Model) else "layer"
    return f"{kind} {getattr(model, 'name', type(model).__name__)!r}"
