"""The training of a network: the optimiser, the best epoch of each member, and progress."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from statecast.errors import ArgumentError
from statecast.interrupt import Interrupt
from statecast.networks.batches import Batches
from statecast.networks.network import Network
from statecast.progress import Verbose, say, scores_text, trained_text
from statecast.state import at_rest

LINES = 5  # of progress, of a training with all epochs


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights of each member's best epoch, and stops after ``patience`` epochs in which
    no member has improved.

    At the end of an epoch ``model.score`` has the score of each member on its held-out items.

    An interrupt by Ctrl-C, which ``interrupt`` notes, stops the training after at most one more
    batch. The epoch of this batch is scored like any other. If no epoch has ended before,
    ``KeyboardInterrupt`` is raised.
    """

    def __init__(self, patience: int, interrupt: Interrupt) -> None:
        super().__init__()
        self.patience = patience
        self.interrupt = interrupt
        self.best: np.ndarray | None = None
        self.weights: list[np.ndarray] = []
        self.waited = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # Not at the end of a batch: on JAX every batch would then wait for its results.
        if self.interrupt.count and self.best is not None:
            self.model.stop_training = True
        else:
            self.interrupt.check()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        score = self.model.score.by_member()
        score = np.where(np.isnan(score), np.inf, score)  # a member that diverged is not kept
        now = [at_rest(weight.value) for weight in self.model.trainable_weights]
        if self.best is None:
            self.best, self.weights = score, [np.array(weight) for weight in now]
            better = np.ones(len(score), bool)
        else:
            better = score < self.best
            self.best = np.where(better, score, self.best)
            for kept, weight in zip(self.weights, now, strict=True):
                kept[better] = weight[better]
        self.waited = 0 if better.any() else self.waited + 1
        if self.waited >= self.patience or self.interrupt.count:
            self.model.stop_training = True

    def restore(self) -> None:
        """Set the weights of every member to those of its best epoch."""
        for variable, weight in zip(self.model.trainable_weights, self.weights, strict=True):
            variable.assign(weight)


class Lines(keras.callbacks.Callback):
    """Shows the progress of the training: a line after each epoch, or about ``LINES`` lines."""

    def __init__(self, say: Callable[[str], None], *, each: bool = False) -> None:
        super().__init__()
        self.say = say
        self.each = each

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        epochs = (self.params or {}).get("epochs", 1)
        if (epoch + 1) % (1 if self.each else max(1, epochs // LINES)) == 0:
            self.say(f"Training, epoch {epoch + 1}/{epochs}{scores_text(logs or {})}")


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


def train(
    network: Network,
    training: Batches,
    validation: Batches,
    *,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    patience: int,
    interrupt: Interrupt,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: Verbose = "auto",
) -> dict[str, list[float]]:
    """Fit ``network`` to the training batches.

    Each member gets the weights of its best epoch on the validation batches. An interrupt, noted or
    raised by a callback, ends the fit and keeps the best epoch so far.

    Returns
    -------
    history : dict of str to list of float
        Per epoch, as in Keras's ``History.history``.

    Raises
    ------
    KeyboardInterrupt
        An interrupt before the end of the first epoch, or a second one.
    """
    network.compile(optimizer=adamw(learning_rate, epochs * len(training), weight_decay))
    # Built before the fit: otherwise TensorFlow traces the training step twice, which takes a
    # quarter of the time of a short fit.
    network.optimizer.build(network.trainable_variables)
    if verbose == "auto" and (sys.stdout.isatty() or "ipykernel" in sys.modules):
        verbose = 1
    lines = [Lines(say, each=verbose == 2)] if verbose in ("auto", 2) else []
    keep = KeepBest(patience, interrupt)
    history = keras.callbacks.History()
    interrupt.check()
    interrupted = False
    try:
        with warnings.catch_warnings():
            # Keras converts the logs for callbacks by `np.array`. For tensors of PyTorch and
            # TensorFlow NumPy 2 warns of this.
            warnings.filterwarnings("ignore", "__array__ implem", DeprecationWarning, "keras")
            network.fit(
                training,
                validation_data=validation,
                shuffle=False,  # the batches shuffle the rows themselves, with the user's seed
                epochs=epochs,
                callbacks=[keep, history, *lines, *callbacks],
                verbose=int(verbose == 1),
            )
    except KeyboardInterrupt:
        if keep.best is None or interrupt.count > 1:
            raise
        interrupted = True
    if verbose != 0:
        if interrupted or interrupt.count:
            say("Interrupted: the best epoch so far is kept.")
        say(trained_text(history.history))
    keep.restore()
    return history.history
