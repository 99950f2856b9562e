"""The training of a network: the optimiser, the best epoch of each member, and progress."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from statecast.errors import ArgumentError
from statecast.interrupt import Interrupt
from statecast.networks.batches import Batches
from statecast.networks.network import Network
from statecast.progress import Display, Verbose, display, scores_text, trained_text
from statecast.recurrence.kernels.native import library
from statecast.state import at_rest

KEPT = 4  # compiled programs of earlier fits
# On TensorFlow XLA compiles a training of at least so many updates, of a network of at most so many
# units. With 32 units compilation takes as much CPU time as it saves in 150 to 300 updates. With 64
# units an update takes only 7 % less CPU time.
UPDATES, WIDEST = 300, 48


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights of each member's best epoch, and the members' history.

    ``ends`` is called after each epoch with this object. The training stops if it returns True.

    An interrupt by Ctrl-C, which ``interrupt`` notes, stops the training after at most one more
    batch. The epoch of this batch is scored like any other. If no epoch has ended before,
    ``KeyboardInterrupt`` is raised.

    Attributes
    ----------
    epochs : int
        The epochs that have ended.
    last : int
        The last epoch, from 1, in which a member has improved.
    best : array, ``(members,)``, or None
        The score of each member's best epoch; None before the end of an epoch.
    history : dict of str to list of array, ``(members,)``
    """

    def __init__(self, ends: Callable[[KeepBest], bool], interrupt: Interrupt) -> None:
        super().__init__()
        self.ends = ends
        self.interrupt = interrupt
        self.epochs = self.last = 0
        self.best: np.ndarray | None = None
        self.history: dict[str, list[np.ndarray]] = {}
        self._weights: list[np.ndarray] = []
        self._trained: dict[str, np.ndarray] = {}

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # Not at the end of a batch: on JAX every batch would then wait for its results.
        if self.interrupt.count and self.best is not None:
            self.model.stop_training = True
        else:
            self.interrupt.check()

    def on_test_begin(self, logs: Any = None) -> None:
        self._trained = self._measured()  # before the validation of the epoch resets it

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        validated = self._measured()
        found = self._trained | {f"val_{name}": value for name, value in validated.items()}
        for name, value in found.items():
            self.history.setdefault(name, []).append(value)
        score = validated[self.model.score.name]
        score = np.where(np.isnan(score), np.inf, score)  # a member that diverged is not kept
        now = [at_rest(weight.value) for weight in self.model.trainable_weights]
        if self.best is None:
            self.best, self._weights = score, [np.array(weight) for weight in now]
            better = np.ones(len(score), bool)
        else:
            better = score < self.best
            self.best = np.where(better, score, self.best)
            for kept, weight in zip(self._weights, now, strict=True):
                kept[better] = weight[better]
        self.epochs = epoch + 1
        if better.any():
            self.last = self.epochs
        if self.ends(self) or self.interrupt.count:
            self.model.stop_training = True

    def _measured(self) -> dict[str, np.ndarray]:
        """The means of the members since the metrics were reset."""
        metrics = (self.model.loss_of_members, self.model.score)
        return {each.name: each.by_member() for each in metrics}

    def histories(self) -> dict[str, np.ndarray]:
        """The history as arrays, float32 ``(epochs, members)``, by the names of Keras."""
        return {name: np.stack(values) for name, values in self.history.items()}

    def weight_arrays(self) -> dict[str, np.ndarray]:
        """The weights of each member's best epoch, as ``Network.weight_arrays`` has them."""
        kept = dict(zip(map(id, self.model.trainable_weights), self._weights, strict=True))
        return {
            name: np.array(kept[id(weight)], "float32", order="C")
            for name, weight in self.model.weight_map().items()
        }

    def restore(self) -> None:
        """Set the weights of every member to those of its best epoch."""
        for variable, weight in zip(self.model.trainable_weights, self._weights, strict=True):
            variable.assign(weight)


def after(patience: int) -> Callable[[KeepBest], bool]:
    """An ``ends`` of ``KeepBest``: after ``patience`` epochs in which no member has improved."""
    return lambda keep: keep.epochs >= keep.last + patience


class Shown(keras.callbacks.Callback):
    """Shows the epochs of a training."""

    def __init__(self, shown: Display) -> None:
        super().__init__()
        self.shown = shown

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        epochs = (self.params or {}).get("epochs", 1)
        self.shown.epoch(epoch + 1, epochs, scores_text(logs or {}))


def adamw(learning_rate: float, updates: int, weight_decay: float) -> keras.optimizers.AdamW:
    """AdamW (Loshchilov and Hutter 2019), with warm-up and cosine decay over ``updates``."""
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(
            learning_rate * 0.02,
            updates,
            alpha=0.02,
            warmup_target=learning_rate,
            warmup_steps=min(50, updates // 10),
        ),
        weight_decay=weight_decay,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "residual"])
    return optimizer


def checked_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Keras callbacks as a list; ``ArgumentError`` for anything else."""
    if callbacks is None:
        return []
    several = isinstance(callbacks, (list, tuple))
    for each in callbacks if several else [callbacks]:
        if not (several and isinstance(each, keras.callbacks.Callback)):
            raise ArgumentError(
                "callbacks: expected a list of keras.callbacks.Callback objects; received "
                f"{each!r:.80}."
            )
    return list(callbacks)


def mean_history(history: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """The means over the members, per epoch, of ``KeepBest.histories``."""
    return {name: each.mean(axis=1, dtype="float64").tolist() for name, each in history.items()}


def prepare(network: Network, updates: int, learning_rate: float, weight_decay: float) -> None:
    """Compile ``network`` for ``train``, which then makes up to ``updates`` updates."""
    with warnings.catch_warnings():
        # Where TensorFlow is told to be deterministic, Keras compiles nothing, and says so.
        warnings.filterwarnings("ignore", "Model doesn't support `jit_compile=True`")
        network.compile(
            optimizer=adamw(learning_rate, updates, weight_decay),
            jit_compile=_by_xla(network, updates),
        )
    network.computes = (*network.computes, learning_rate, updates, weight_decay)
    # Built before the fit: otherwise TensorFlow traces the training step twice, which takes a
    # quarter of the time of a short fit.
    network.optimizer.build(network.trainable_variables)


def _by_xla(network: Network, updates: int) -> Any:
    """Whether XLA compiles the training, as Keras's ``compile`` takes it. Keras itself uses XLA on
    JAX, and on TensorFlow only with an accelerator. Where XLA is used here, a graph of TensorFlow
    takes 1.5 to 2.3 times as much CPU time for an update."""
    narrow = network.decoder.units <= WIDEST
    if keras.backend.backend() == "tensorflow" and narrow and updates >= UPDATES:
        import tensorflow as tf

        if not tf.distribute.has_strategy():
            return True
    return "auto"


def all_values(network: Network) -> list[tuple[Any, np.ndarray]]:
    """The variables of a prepared network and of its optimiser, each with a copy of its value."""
    found = [*network.variables, *network.optimizer.variables]
    return [(variable, np.array(at_rest(variable.value))) for variable in found]


_kept: OrderedDict[Any, tuple[Any, Any]] = OrderedDict()  # steps of JAX, by what they compute


@contextmanager
def compiled_before(network: Network) -> Iterator[None]:
    """A context in which a network is trained on JAX. If an earlier network had the same
    computation, its compiled training and test steps are used, and nothing is compiled.

    Compilation takes a large part of a fit of few items, and would be repeated in each fold of a
    cross-validation. A step of JAX is a function of the values of all variables, and so does
    not depend on the network from which it was traced. The other backends compile nothing
    (PyTorch), or functions that hold their variables (TensorFlow).

    The network has no steps afterwards. Keras makes them when the user trains it.
    """
    if keras.backend.backend() != "jax":
        yield
        return
    key = (network.computes, isinstance(library.find(), str))
    # Taken out, so that a fit in another thread does not trace the same network.
    kept = _kept.pop(key, None) or _steps_of_jax(network)
    network.train_function, network.test_function = kept
    try:
        yield
    finally:
        network.train_function = network.test_function = None
    _kept[key] = kept
    while len(_kept) > KEPT:
        _kept.popitem(last=False)


def _steps_of_jax(network: Network) -> tuple[Any, Any]:
    """The training step and the test step, compiled when they are called first."""
    import jax

    train, test = (
        jax.jit(step, donate_argnums=0) for step in (network.train_step, network.test_step)
    )
    return (
        lambda state, batches: train(state, next(batches)),
        lambda state, batches: test(state, next(batches)),
    )


def train(
    network: Network,
    training: Batches,
    validation: Batches,
    *,
    epochs: int,
    ends: Callable[[KeepBest], bool],
    interrupt: Interrupt,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: Verbose = "auto",
) -> KeepBest:
    """Fit a prepared network to the training batches.

    Each member gets the weights of its best epoch on the validation batches. An interrupt, noted or
    raised by a callback, ends the fit and keeps the best epoch so far. ``ends`` is as in
    ``KeepBest``.

    Returns
    -------
    KeepBest
        With the best weights and the history.

    Raises
    ------
    KeyboardInterrupt
        An interrupt before the end of the first epoch, or a second one.
    """
    keep = KeepBest(ends, interrupt)
    interrupt.check()
    interrupted = False
    with display(verbose) as shown:
        try:
            with warnings.catch_warnings():
                # Keras converts the logs for callbacks by `np.array`. For tensors of PyTorch and
                # TensorFlow NumPy 2 warns of this.
                warnings.filterwarnings("ignore", "__array__ implem", DeprecationWarning, "keras")
                with compiled_before(network):
                    network.fit(
                        training,
                        validation_data=validation,
                        shuffle=False,  # the batches shuffle the rows, with the user's seed
                        epochs=epochs,
                        callbacks=[keep, Shown(shown), *callbacks],
                        verbose=0,
                    )
        except KeyboardInterrupt:
            if keep.best is None or interrupt.count > 1:
                raise
            interrupted = True
        if interrupted or interrupt.count:
            shown.ended("Interrupted: the best epoch so far is kept.")
        shown.ended(trained_text(mean_history(keep.histories())))
    keep.restore()
    return keep
