"""State control on whole Keras models: read, set, reset, peek, follow, explain.

Every function takes a model, however nested, or a layer of ``statecast.layers``. Leaves are
named by the layers on the way to them: ``lstm/h``, ``encoder/lstm/c``,
``bidirectional/backward/h``. Where layers side by side have equal names, as a subclassed model
may have them, all but the first are numbered: ``r/h``, ``r_1/h``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import keras
import numpy as np

from statecast.errors import ArgumentError, NotStatefulError, StateError
from statecast.layers.current import Joined, unmoved
from statecast.layers.recurrent import RNN, Controlled, controlled
from statecast.state import State, at_rest


def get_state(model: Any) -> State:
    """The current state of every stateful layer, as one ``State`` at rest.

    Raises
    ------
    NotStatefulError
        No layer keeps a state.
    StateError
        A batch size is still unknown, or the layers' rows differ in number.
    """
    return _joined(model).read()


def set_state(
    model: Any,
    state: Any,
    rows: Any = None,
    *,
    batch_size: int | None = None,
    allow_nonfinite: bool = False,
) -> None:
    """Set where the next step starts, in every stateful layer.

    Parameters
    ----------
    model : keras.Model or layer
    state : State, mapping of str to array, or list of arrays
        ``(rows, units)`` for each leaf. A list holds the layers' states in order, flat or
        nested, each in Keras's order (h, c). A ``State`` of a model of the same architecture
        fits too where Keras numbered its layers otherwise (``lstm_1`` for ``lstm``).
    rows : int, list of int, slice or mask, optional
        Which rows; all by default.
    batch_size : int, optional
        How many rows there are from now on, for a state of another number of rows.
    allow_nonfinite : bool
        Let NaN and infinite values pass.

    Raises
    ------
    NotStatefulError, StateError
        As ``layer.reset_states`` raises them. Nothing was written then.
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
    """Reset every stateful layer to its initial state, or set it; see ``RNN.reset_states``."""
    joined = _joined(model)
    if isinstance(states, State):
        states = _renamed(states, joined)
    joined.reset(states, rows, batch_size=batch_size, allow_nonfinite=allow_nonfinite)


@contextmanager
def peek(model: Any) -> Iterator[None]:
    """A block in which calls do not advance the state.

    Afterwards, and after an exception too, the state is as it was before the block.

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
    _joined(model)  # raises where there is no state
    with unmoved(model):
        yield


def trajectory(model: Any, inputs: Any, **options: Any) -> dict[str, np.ndarray]:
    """What every step left: each leaf of every recurrent layer, ``(rows, steps, units)``.

    The model is called once, as it is; the current state does not advance. With
    ``go_backwards`` the steps are in the order in which they were taken.

    Parameters
    ----------
    model : keras.Model or layer
        Its recurrent layers may be stateful or not. A layer that is called several times
        gives its last call.
    inputs
        What the model is called with.
    **options
        Further arguments of the call, such as ``initial_state`` or ``mask``.
    """
    layers = dict(_recurrences(model))
    if not layers:
        raise ArgumentError(f"{_where(model)} has no recurrent layer of statecast.layers.")
    for layer in layers.values():
        layer._traces = []
    try:
        with unmoved(model):
            model(inputs, **options)
        traces = {name: layer._traces for name, layer in layers.items()}
    finally:
        for layer in layers.values():
            layer._traces = None
    return {
        f"{name}/{leaf}" if name else leaf: at_rest(value)
        for name, calls in traces.items()
        if calls
        for leaf, value in calls[-1].items()
    }


# -- taking over -----------------------------------------------------------------------------


def take_control(model: Any, *, stateful: bool | None = None) -> Any:
    """A copy of a Keras model with every recurrent layer replaced by its counterpart here.

    Parameters
    ----------
    model : keras.Model
        Functional or Sequential, nested as it may be, with weights.
    stateful : bool, optional
        Make all recurrent layers stateful, or none; by default as they are.

    Returns
    -------
    keras.Model
        The same names, weights and outputs; compiled as ``model`` was. Stateful layers of
        ``statecast.layers`` that stay stateful keep their current state; the state of Keras's
        own layers is not taken over.

    Raises
    ------
    ArgumentError
        A subclassed model, which no config describes, or a recurrent layer that has no
        counterpart (convolutional ones).
    """
    if not isinstance(model, (keras.Sequential, keras.Model)) or not _rebuildable(model):
        raise ArgumentError(
            f"{_where(model)}: expected a Functional or Sequential model, received "
            f"{type(model).__name__}: no config describes what its call does. Use the layers of "
            "statecast.layers.recurrent in it instead."
        )
    copy = keras.models.clone_model(
        model,
        clone_function=lambda layer: _taken_over(layer, stateful),
    )
    copy.set_weights(model.get_weights())
    copied = dict(_recurrences(copy))
    for name, layer in _recurrences(model):
        if layer._current_state is not None and copied[name]._current_state is not None:
            copied[name]._current_state.take(layer._current_state)
    if model.compiled:
        copy.compile_from_config(model.get_compile_config())
    return copy


def _rebuildable(model: Any) -> bool:
    return isinstance(model, keras.Sequential) or hasattr(model, "operations")


def _taken_over(layer: Any, stateful: bool | None) -> Any:
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
            taken = _taken_over(inner, stateful)
            config["layer"] = keras.saving.serialize_keras_object(taken)
        return kind.from_config(config)
    if stateful is not None:
        config = ours.get_config()
        for part in _parts_of(config):
            part["stateful"] = stateful
        ours = type(ours).from_config(config)
    return ours


def _parts_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The configs of the recurrent layers in one layer's config."""
    inner = [config[name]["config"] for name in ("layer", "backward_layer") if config.get(name)]
    return inner or [config]


# -- explaining ------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerStart:
    """Where one recurrent layer's next step starts, row by row, and what runs it.

    Attributes
    ----------
    name : str
    rows : tuple of str
        For each row "current", or where a fresh row starts: "zeros", "constant", "learned",
        "cell" (the cell's own), "from X" (an ``InitialState``) or "passed" in the call.
        Empty while the batch size is unknown and where nothing is kept.
    fresh : str
        Where a fresh row starts, as above.
    stateful : bool
    kernels : dict of str to str
        Per kernel: "runs", "would run", or why it declines.
    """

    name: str
    rows: tuple[str, ...]
    fresh: str
    stateful: bool
    kernels: Mapping[str, str]


class Explanation(tuple[LayerStart, ...]):
    """What ``explain_state`` found, a ``LayerStart`` for each recurrent layer; prints as text."""

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
    """Where each recurrent layer's next step starts, row by row, and which kernel will run.

    What a call passes (an initial state, a mask, resets) is taken to be as in the last call,
    or as the model is wired.
    """
    found = []
    for name, layer in _recurrences(model):
        fresh = layer._passed
        if fresh is None:
            source = layer._source
            fresh = "constant" if isinstance(source, (dict, float)) else source
            fresh = fresh or ("cell" if layer._own_start() else "zeros")
        rows: tuple[str, ...] = ()
        if layer._current_state is not None:
            rows = tuple("current" if on else fresh for on in layer._current_state.flags())
        found.append(LayerStart(name, rows, fresh, layer.stateful, layer._kernels()))
    if not found:
        raise ArgumentError(f"{_where(model)} has no recurrent layer of statecast.layers.")
    return Explanation(found)


def _grouped(rows: tuple[str, ...]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for row, start in enumerate(rows):
        groups.setdefault(start, []).append(row)
    return groups


def _ranges(rows: list[int]) -> str:
    if len(rows) == 1:
        return f"row {rows[0]}"
    parts: list[list[int]] = []
    for row in rows:
        if parts and row == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], row]
        else:
            parts.append([row])
    return "rows " + ", ".join("-".join(map(str, part)) for part in parts)


# -- training --------------------------------------------------------------------------------


class ResetStates(keras.callbacks.Callback):
    """Resets the state at the start of each epoch, batch or sequence.

    Parameters
    ----------
    every : {"epoch", "batch"}, int, or function of int to bool
        At the start of each epoch (of each pass, in ``evaluate`` and ``predict``); before each
        batch; before every so many batches, as where a sequence comes in so many windows; or
        before the batches, counted from 0 within the epoch, for which the function is true.
    states : State, mapping, list of arrays, or function of int to one of them, optional
        Where to go, as in ``reset_states``; a function is given the batch (0 for an epoch). By
        default to the initial state.
    rows : int, list of int, slice or mask, optional
        Which rows; all by default.

    Raises
    ------
    ArgumentError
        Another ``every``; or, when training begins, ``steps_per_execution`` above 1 with
        resets between batches, which Keras then does not let a callback see.
    """

    def __init__(
        self,
        every: str | int | Callable[[int], bool] = "epoch",
        states: Any = None,
        rows: Any = None,
    ) -> None:
        super().__init__()
        whole = isinstance(every, int) and not isinstance(every, bool) and every >= 1
        if not (every in ("epoch", "batch") or whole or callable(every)):
            raise ArgumentError(
                'every: expected "epoch", "batch", a whole number of batches or a function of the '
                f"batch, received {every!r}."
            )
        self.every, self.states, self.rows = every, states, rows

    def _begin(self) -> None:
        steps = getattr(self.model, "steps_per_execution", 1) or 1
        if self.every != "epoch" and steps > 1:
            raise ArgumentError(
                f"ResetStates(every={self.every!r}): the model was compiled with "
                f"steps_per_execution={steps}, so no callback runs between its batches. Compile "
                'it with steps_per_execution=1, or reset with every="epoch".'
            )
        if self.every == "epoch":
            self._reset(0)

    def _reset(self, batch: int) -> None:
        states = self.states(batch) if callable(self.states) else self.states
        if states is None and self.states is not None:
            raise ArgumentError(
                f"ResetStates(states=...): the function gave no states for batch {batch}."
            )
        reset_states(self.model, states, self.rows)

    def _before(self, batch: int) -> None:
        if self.every == "epoch":
            return
        every: Any = 1 if self.every == "batch" else self.every
        if every(batch) if callable(every) else batch % every == 0:
            self._reset(batch)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begin()

    def on_test_begin(self, logs: Any = None) -> None:
        self._begin()

    def on_predict_begin(self, logs: Any = None) -> None:
        self._begin()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._before(batch)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._before(batch)

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._before(batch)


class _Beginnings(ResetStates):
    """Resets where sequences begin: those of training, and those of the validation within."""

    def __init__(self, training: Callable[[int], bool], validation: Callable[[int], bool]) -> None:
        super().__init__(training)
        self.validation = validation

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.validation(batch):
            self._reset(batch)


class Windows(keras.utils.PyDataset):
    """Long sequences in windows, for truncated backpropagation (Williams and Peng 1990).

    A batch of sequences comes window after window; the model's stateful layers carry the state
    across, and no gradient passes from one window to the one before. With windows as long as
    the sequences this is plain training. It is ``windows.fit(model)`` that resets the state where
    sequences begin, and so with ``evaluate`` and ``predict``; ``model.fit(windows)`` is refused, as
    Keras would shuffle the windows and reset nothing.

    Parameters
    ----------
    x : array ``(sequences, steps, ...)``, or a mapping of str to array
    y : array ``(sequences, steps, ...)``, optional
        A target for each step; None to predict.
    steps : int
        The length of a window. The last is filled up with zeros, whose targets have no weight:
        the loss is the mean over the steps there are, and so are ``weighted_metrics``.
    batch_size : int
        Sequences to a batch.
    lengths : array of int ``(sequences,)``, optional
        Where each sequence ends; targets beyond have no weight, and windows in which all of a
        batch's sequences have ended are left out.
    whole : list of str
        Entries of ``x`` that are not cut into windows: static features.

    Raises
    ------
    ArgumentError
        Arrays of different numbers of sequences or steps, lengths outside 1..steps, windows or
        batches below 1; or the windows are handed to a method of the model.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        *,
        steps: int,
        batch_size: int = 32,
        lengths: Any = None,
        whole: tuple[str, ...] | list[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("steps", steps), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ArgumentError(f"{name}: expected 1 or more, received {value!r}.")
        named = dict(x) if isinstance(x, Mapping) else {"x": x}
        self.inputs = {name: np.asarray(value) for name, value in named.items()}
        self.named = isinstance(x, Mapping)
        unknown = [name for name in whole if name not in self.inputs]
        if unknown:
            raise ArgumentError(f"whole: x has no entry {unknown[0]!r}; it has {list(named)}.")
        self.whole = tuple(whole)
        self.y = None if y is None else np.asarray(y)
        cut = {name: value for name, value in self.inputs.items() if name not in self.whole}
        if not cut:
            raise ArgumentError("x: expected at least one entry that is cut into windows.")
        shapes = [(repr(name), value.shape[:2]) for name, value in cut.items()]
        if self.y is not None:
            shapes.append(("the targets 'y'", self.y.shape[:2]))  # x may have an entry "y" too
        first = shapes[0][1]
        if any(len(shape) < 2 or shape != first for _, shape in shapes):
            received = ", ".join(f"{name}: {shape}" for name, shape in shapes)
            raise ArgumentError(
                f"Expected arrays (sequences, steps, ...) alike, received {received}. Name what "
                "has no steps in whole=[...]."
            )
        self.count, self.length = first
        for name in self.whole:
            if self.inputs[name].shape[:1] != (self.count,):
                raise ArgumentError(
                    f"{name}: expected {self.count} sequences, received "
                    f"{self.inputs[name].shape[:1]}."
                )
        self.lengths = np.full(self.count, self.length)
        if lengths is not None:
            self.lengths = np.asarray(lengths)
            if self.lengths.shape != (self.count,) or self.lengths.dtype.kind not in "iu":
                raise ArgumentError(
                    f"lengths: expected {self.count} whole numbers, received "
                    f"{self.lengths.dtype} {self.lengths.shape}."
                )
            if (self.lengths < 1).any() or (self.lengths > self.length).any():
                raise ArgumentError(f"lengths: expected values in 1..{self.length}.")
        self.steps, self.batch_size = min(steps, self.length), batch_size
        self.windows = [
            (begin, at)
            for begin in range(0, self.count, batch_size)
            for at in range(0, int(self.lengths[begin : begin + batch_size].max()), self.steps)
        ]
        # Keras divides a loss by all steps, those without weight too: this makes up for them.
        rows = sum(min(batch_size, self.count - begin) for begin, _ in self.windows)
        self.weight = np.float32(rows * self.steps / self.lengths.sum())
        self._led = False  # whether it is ``fit`` or ``evaluate`` that hands them to the model

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, batch: int) -> Any:
        begin, at = self.windows[batch]
        rows, cut = slice(begin, begin + self.batch_size), slice(at, at + self.steps)
        inputs = {
            name: value[rows] if name in self.whole else _filled(value[rows, cut], self.steps)
            for name, value in self.inputs.items()
        }
        x = inputs if self.named else inputs["x"]
        if self.y is None:
            return (x,)
        y = _filled(self.y[rows, cut], self.steps)
        alive = np.arange(at, at + self.steps) < self.lengths[rows, None]
        return x, y, alive.astype("float32") * self.weight

    def starts(self, batch: int) -> bool:
        """Whether a batch is its sequences' first window."""
        return self.windows[batch][1] == 0

    def fit(self, model: Any, **options: Any) -> Any:
        """``model.fit`` on the windows in order; the state is reset where sequences begin.

        ``options`` are those of ``model.fit``. ``validation_data`` may be ``Windows`` too; of
        other data each batch is taken to hold whole sequences, so each batch starts afresh.
        """
        validation = options.get("validation_data")
        if isinstance(validation, Windows):
            with validation._leading():
                return self._fit(model, options, validation.starts)
        return self._fit(model, options, lambda batch: True)

    def _fit(self, model: Any, options: dict[str, Any], validated: Callable[[int], bool]) -> Any:
        with self._leading():
            reset = _Beginnings(self.starts, validated)
            return model.fit(self, **self._options(options, reset), shuffle=False)

    def evaluate(self, model: Any, **options: Any) -> Any:
        """``model.evaluate`` in the same way."""
        with self._leading():
            return model.evaluate(self, **self._options(options, ResetStates(self.starts)))

    def predict(self, model: Any) -> np.ndarray:
        """Outputs ``(sequences, steps, ...)`` of a model that returns sequences.

        Zero where all of a batch's sequences have ended.
        """
        found: Any = None
        for batch, (begin, at) in enumerate(self.windows):
            if at == 0:
                reset_states(model)
            y = at_rest(model.predict_on_batch(self[batch][0]))
            if y.shape[1:2] != (self.steps,):
                raise ArgumentError(
                    f"{_where(model)}: expected an output for each of {self.steps} steps, received "
                    f"{y.shape}. Its last recurrent layer needs return_sequences=True."
                )
            if found is None:
                found = np.zeros((self.count, self.length, *y.shape[2:]), y.dtype)
            cut = slice(at, at + self.steps)
            found[begin : begin + len(y), cut] = y[:, : self.length - at]
        return found

    def on_epoch_begin(self) -> None:
        if not self._led:
            raise ArgumentError(
                "Windows: expected windows.fit(model), .evaluate(model) or .predict(model), which "
                "reset the state where sequences begin; received by a method of the model, which "
                "would carry it from one sequence to the next."
            )

    @contextmanager
    def _leading(self) -> Iterator[None]:
        self._led = True
        try:
            yield
        finally:
            self._led = False

    def _options(self, options: dict[str, Any], reset: ResetStates) -> dict[str, Any]:
        for name in ("x", "y", "shuffle", "batch_size", "sample_weight"):
            if name in options:
                raise ArgumentError(f"{name}: Windows has its own; received {options[name]!r}.")
        for windows in (self, options.get("validation_data")):
            if isinstance(windows, Windows) and windows.y is None:
                raise ArgumentError(
                    "y: training and evaluation need targets; this Windows has none."
                )
        return options | {"callbacks": [reset, *(options.get("callbacks") or [])]}


def _filled(window: np.ndarray, steps: int) -> np.ndarray:
    missing = steps - window.shape[1]
    return np.pad(window, [(0, 0), (0, missing), *[(0, 0)] * (window.ndim - 2)])


# -- finding the layers ----------------------------------------------------------------------


def _joined(model: Any) -> Joined:
    everything = dict(_recurrences(model))
    stateful = {name: layer for name, layer in everything.items() if layer.stateful}
    if not stateful:
        what = (
            f"none of its recurrent layers {list(everything)} is stateful"
            if everything
            else "it has no recurrent layer of statecast.layers (take_control(model) replaces "
            "Keras's own)"
        )
        raise NotStatefulError(f"{_where(model)} keeps no state between calls: {what}.")
    for name, layer in stateful.items():
        if layer._current_state is None:
            raise StateError(
                f"{_where(model)}: layer {name!r} is not built: its batch size is unknown, so it "
                "has no rows yet. Call the model once."
            )
    return Joined(stateful, _where(model))


def _recurrences(model: Any) -> list[tuple[str, RNN]]:
    """Every RNN within, in order, with the names on the way to it; no name comes twice."""
    found = _inside(model, set())
    if isinstance(model, Controlled):  # a layer by itself: its own name is the way to it
        return [(f"{model.name}/{path}" if path else model.name, layer) for path, layer in found]
    return found


def _inside(layer: Any, seen: set[int]) -> list[tuple[str, RNN]]:
    """Every RNN within that was not seen before, with its path from ``layer`` on."""
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


def _renamed(state: State, joined: Joined) -> Any:
    """A state whose layers Keras has numbered otherwise, by this model's names."""
    names = list(joined.shapes)
    if set(state.names) == set(names) or _unnumbered(state.names) != _unnumbered(names):
        return state
    return {name: state[other] for name, other in zip(names, state.names, strict=True)}


def _unnumbered(names: Any) -> list[str]:
    """Leaf names with each layer's number taken away."""
    return [re.sub(r"_\d+(?=/)", "", name) for name in names]


def _where(model: Any) -> str:
    kind = "model" if isinstance(model, keras.Model) else "layer"
    return f"{kind} {getattr(model, 'name', type(model).__name__)!r}"
