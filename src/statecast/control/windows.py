"""State control in training: ``ResetStates``, a callback, and ``Windows`` over long sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from statecast.checks import check_whole, is_whole
from statecast.control.models import described, reset_states
from statecast.errors import ArgumentError
from statecast.state import at_rest


class ResetStates(keras.callbacks.Callback):
    """A callback that resets the state at the start of each epoch, batch or sequence.

    Parameters
    ----------
    every : {"epoch", "batch"}, int, or function of int to bool
        When to reset: at the start of each epoch, and of ``evaluate`` and ``predict``; before each
        batch; before every n-th batch, if each sequence comes in n windows; or before the batches
        for which the function is true. Batches are counted from 0 within the epoch.
    states : State, mapping, list of arrays, or function of int to one of them, optional
        The state to set, see ``reset_states``. A function is given the batch (0 for an epoch). By
        default the initial state.
    rows : int, list of int, slice or mask, optional
        The rows to reset; all by default.

    Raises
    ------
    ArgumentError
        Another ``every``; or, when training begins, resets between batches with
        ``steps_per_execution`` above 1, where Keras calls no callback between batches.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import ResetStates
    >>> from statecast.layers import LSTM
    >>> import keras
    >>> inputs = keras.Input(batch_shape=(1, 3, 1))
    >>> model = keras.Model(inputs, LSTM(2, stateful=True)(inputs))
    >>> x = np.ones((4, 3, 1), "float32")  # four items, one after the other
    >>> y = model.predict(x, batch_size=1, verbose=0, callbacks=[ResetStates("batch")])
    >>> bool((y == y[:1]).all())  # each started from zeros
    True
    """

    def __init__(
        self,
        every: str | int | Callable[[int], bool] = "epoch",
        states: Any = None,
        rows: Any = None,
    ) -> None:
        super().__init__()
        if not (every in ("epoch", "batch") or is_whole(every, 1) or callable(every)):
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
                f"ResetStates(states=...): the function returned None for batch {batch}. Return "
                "the states to set."
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


class _ResetAtStarts(ResetStates):
    """Resets where sequences start: those of training, and those of the validation within it."""

    def __init__(self, training: Callable[[int], bool], validation: Callable[[int], bool]) -> None:
        super().__init__(training)
        self.validation = validation

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.validation(batch):
            self._reset(batch)


class Windows(keras.utils.PyDataset):
    """Long sequences in windows, for truncated backpropagation (Williams and Peng 1990).

    The windows of a batch of sequences follow each other. The model's stateful layers carry the
    state from one window to the next, and no gradient flows back. With windows as long as the
    sequences this is ordinary training. ``windows.fit(model)`` resets the state where sequences
    start; so do ``evaluate`` and ``predict``. ``model.fit(windows)`` is refused, since Keras would
    shuffle the windows and not reset the state.

    Parameters
    ----------
    x : array ``(sequences, steps, ...)``, or a mapping of str to array
    y : array ``(sequences, steps, ...)``, optional
        A target for each step; None to predict.
    steps : int
        The length of a window. The last window is padded with zeros, whose targets have no
        weight. The loss and ``weighted_metrics`` are means over the other steps.
    batch_size : int
        Sequences in a batch.
    lengths : array of int ``(sequences,)``, optional
        The number of steps of each sequence. Later targets have no weight, and windows in which
        all sequences of a batch have ended are omitted.
    whole : list of str
        Entries of ``x`` that are not cut into windows: static features.

    Raises
    ------
    ArgumentError
        Arrays with different numbers of sequences or steps; lengths outside 1..steps; ``steps``
        or ``batch_size`` below 1; or a method of the model is given the windows.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Windows
    >>> x = np.zeros((4, 250, 1), "float32")
    >>> windows = Windows(x, x, steps=100, batch_size=2)
    >>> len(windows)  # three windows of each of two batches
    6
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
            check_whole(name, value)
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
            raise ArgumentError("x: expected at least one entry that is not in whole=[...].")
        shapes = [(repr(name), value.shape[:2]) for name, value in cut.items()]
        if self.y is not None:
            shapes.append(("the targets 'y'", self.y.shape[:2]))  # x may have an entry "y" too
        first = shapes[0][1]
        if any(len(shape) < 2 or shape != first for _, shape in shapes):
            received = ", ".join(f"{name}: {shape}" for name, shape in shapes)
            raise ArgumentError(
                "Expected arrays (sequences, steps, ...) with the same numbers of both, received "
                f"{received}. Name entries without steps in whole=[...]."
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
        # Keras divides a loss by the number of all steps, also of those without weight. With
        # this weight the loss is the mean over the steps that count.
        rows = sum(min(batch_size, self.count - begin) for begin, _ in self.windows)
        self.weight = np.float32(rows * self.steps / self.lengths.sum())
        self._in_use = False  # by our own ``fit`` or ``evaluate``

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, batch: int) -> Any:
        begin, at = self.windows[batch]
        rows, cut = slice(begin, begin + self.batch_size), slice(at, at + self.steps)
        inputs = {
            name: value[rows] if name in self.whole else _padded(value[rows, cut], self.steps)
            for name, value in self.inputs.items()
        }
        x = inputs if self.named else inputs["x"]
        if self.y is None:
            return (x,)
        y = _padded(self.y[rows, cut], self.steps)
        alive = np.arange(at, at + self.steps) < self.lengths[rows, None]
        return x, y, alive.astype("float32") * self.weight

    def starts(self, batch: int) -> bool:
        """Whether a batch is the first window of its sequences."""
        return self.windows[batch][1] == 0

    def fit(self, model: Any, **options: Any) -> Any:
        """``model.fit`` on the windows in order. The state is reset where sequences start.

        ``options`` are those of ``model.fit``. ``validation_data`` may be ``Windows`` too. With
        other data the state is reset before each batch, whose sequences are taken to be whole.
        """
        validation = options.get("validation_data")
        if isinstance(validation, Windows):
            with validation._used():
                return self._fit(model, options, validation.starts)
        return self._fit(model, options, lambda batch: True)

    def _fit(self, model: Any, options: dict[str, Any], validated: Callable[[int], bool]) -> Any:
        with self._used():
            reset = _ResetAtStarts(self.starts, validated)
            return model.fit(self, **self._options(options, reset), shuffle=False)

    def evaluate(self, model: Any, **options: Any) -> Any:
        """``model.evaluate`` on the windows in order; see ``fit``."""
        with self._used():
            return model.evaluate(self, **self._options(options, ResetStates(self.starts)))

    def predict(self, model: Any) -> np.ndarray:
        """The outputs ``(sequences, steps, ...)`` of a model that returns sequences; zero where all
        sequences of a batch have ended."""
        found: Any = None
        for batch, (begin, at) in enumerate(self.windows):
            if at == 0:
                reset_states(model)
            y = at_rest(model.predict_on_batch(self[batch][0]))
            if y.shape[1:2] != (self.steps,):
                raise ArgumentError(
                    f"{described(model)}: expected an output for each of {self.steps} steps, "
                    f"received {y.shape}. Its last recurrent layer needs return_sequences=True."
                )
            if found is None:
                found = np.zeros((self.count, self.length, *y.shape[2:]), y.dtype)
            cut = slice(at, at + self.steps)
            found[begin : begin + len(y), cut] = y[:, : self.length - at]
        return found

    def on_epoch_begin(self) -> None:
        if not self._in_use:
            raise ArgumentError(
                "Windows: a method of the model was called with them, which would carry the state "
                "from one sequence to the next. Call windows.fit(model), .evaluate(model) or "
                ".predict(model), which reset it where sequences start."
            )

    @contextmanager
    def _used(self) -> Iterator[None]:
        self._in_use = True
        try:
            yield
        finally:
            self._in_use = False

    def _options(self, options: dict[str, Any], reset: ResetStates) -> dict[str, Any]:
        for name in ("x", "y", "shuffle", "batch_size", "sample_weight"):
            if name in options:
                raise ArgumentError(
                    f"{name}: expected none, since Windows determines it; received "
                    f"{options[name]!r}."
                )
        for windows in (self, options.get("validation_data")):
            if isinstance(windows, Windows) and windows.y is None:
                raise ArgumentError(
                    "y: training and evaluation need targets; this Windows has none."
                )
        return options | {"callbacks": [reset, *(options.get("callbacks") or [])]}


def _padded(window: np.ndarray, steps: int) -> np.ndarray:
    """A window ``(sequences, up to steps, ...)`` with zeros behind, so that it has ``steps``."""
    missing = steps - window.shape[1]
    return np.pad(window, [(0, 0), (0, missing), *[(0, 0)] * (window.ndim - 2)])
