"""How the network is trained: every prefix at once, each member on its own share of items.

Every member of the ensemble holds out its own share of the items: the ensemble loses no
data, and each member has an honest score to stop by.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from statecast.interrupt import Interrupt
from statecast.networks.network import Network, Parameters
from statecast.progress import Verbose, say, scores_text, trained_text
from statecast.tables.schema import Covariates, Panel
from statecast.tables.vocabulary import END, UNKNOWN
from statecast.tokens.network import Language, LanguageNetwork

# Of the training rows: how often a row is seen whole (one step ahead all along), and how
# often its observations have holes, so that gaps and sampled paths are familiar.
WHOLE, HOLED, HOLE = 0.25, 0.15, 0.3
# And how often some of what is told of the items is hidden, a share of it that is any, so that
# forecasts are as wide as they should be where it is missing or new.
HIDDEN = 0.3
TOKENS_HOLED = 0.05  # of sequences of tokens, whose next token hangs on each single one
SHORT = 1.5  # the prefix is length * u**SHORT, u uniform: short prefixes come more often
SHARES = 8  # a member holds out one item in so many, or in `members` if there are more
STEPS = 24  # an epoch has at least so many updates, so that small data sees many a pass
PREFIXES = (0, 1, 2, 3, 5, 8)  # the held-out items are scored at these
VALIDATION_TOKEN_ROWS = 2000  # a member's held-out sequences
VALIDATION_ROWS = 1000  # a member's held-out rows: each item at several prefixes, or at one
LINES = 5  # of a training that goes its whole length, where not every epoch has a line


def held_out(groups: np.ndarray, members: int, seed: int) -> np.ndarray:
    """Which rows each member holds out, bool ``(members, rows)``: whole groups of them."""
    names, group = np.unique(groups, return_inverse=True)
    order = np.random.default_rng([seed, 1]).permutation(len(names))[group.ravel()]
    count = min(max(members, SHARES), len(names))
    return (order % count) == (np.arange(members) % count)[:, None]


def own_rows(held: np.ndarray) -> list[np.ndarray]:
    """The rows that each member learns from."""
    # With a single item there is nothing to learn from but the one held out.
    return [np.flatnonzero(~out if not out.all() else out) for out in held]


def few_widths(steps: int) -> int:
    """The least width that holds so many steps, of few, so that few shapes are compiled: 8, 16,
    24, 32, and from there on three quarters of a power of two or all of it."""
    if steps <= 32:
        return max(8, -(-steps // 8) * 8)
    power = 1 << (steps - 1).bit_length()
    return 3 * power // 4 if steps <= 3 * power // 4 else power


def hidden(
    told: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers with their flags ``(batch, members, ..., 2 * n)`` and codes ``(batch, members, ...,
    m)``, as a panel has them, with some of what is told of some rows hidden: numbers missing,
    categories missing or new."""
    numeric, codes = told
    n, m = numeric.shape[-1] // 2, codes.shape[-1]
    if not n + m:
        return told
    rows = codes.shape[:2]
    share = np.where(rng.random(rows) < HIDDEN, rng.random(rows), 0.0)
    share = share.reshape(*rows, *[1] * (codes.ndim - 2))
    hide = rng.random((*codes.shape[:-1], n + m)) < share
    value = np.where(hide[..., :n], 0, numeric[..., :n])
    flag = hide[..., :n] | (numeric[..., n:] > 0)
    other = rng.integers(0, 2, codes.shape, codes.dtype)
    numeric = np.concatenate([value, flag], axis=-1, dtype=numeric.dtype)
    return numeric, np.where(hide[..., n:], other, codes)


class _Rows(keras.utils.PyDataset):
    """Batches of one number of rows, and of few numbers of steps: rows of like length stand
    together, and steps after a batch's longest are left out."""

    def __init__(self, panel: Panel, batch: int, steps: int) -> None:
        super().__init__()
        self.panel, self.batch, self.steps = panel, batch, steps
        self.length = panel.known
        self.hides: np.random.Generator | None = None
        # TensorFlow takes all batches to have the first one's shape.
        self.whole = keras.backend.backend() == "tensorflow"

    def alike(self, chosen: Sequence[np.ndarray], rng: np.random.Generator | None) -> np.ndarray:
        """Each member's rows in order of length, batch by batch ``(steps, batch, members)``, -1
        where there are no more; with a generator, whole batches in an order of chance."""
        order = np.full((self.steps * self.batch, len(chosen)), -1)
        for member, rows in enumerate(chosen):
            order[: len(rows), member] = rows[np.argsort(self.length[rows], kind="stable")]
        order = order.reshape(self.steps, self.batch, len(chosen))
        if rng is not None and self.length.min() < self.length.max():
            order = order[rng.permutation(self.steps)]
        return order

    def drawn(self, own: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        """An epoch of each member's own rows, over and over in orders of chance, as ``alike``."""
        need = self.steps * self.batch
        chosen = []
        for rows in own:
            passes = [rng.permutation(rows) for _ in range(math.ceil(need / len(rows)))]
            chosen.append(np.concatenate(passes)[:need])
        return self.alike(chosen, rng)

    def static(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The statics of rows ``(batch, members)``, some of them hidden in training."""
        told = self.panel.numeric[rows], self.panel.codes[rows]
        numeric, codes = told if self.hides is None else hidden(told, self.hides)
        return {"numeric": numeric, "codes": codes}

    def longest(self, rows: np.ndarray) -> int:
        """The steps that a batch of these rows needs, -1 of no row."""
        return int(self.length.max() if self.whole else self.length[rows[rows >= 0]].max())

    def __len__(self) -> int:
        return self.steps


class _Observations(_Rows):
    """Batches of what a network of numbers sees."""

    def width(self, rows: np.ndarray) -> int:
        """The steps of a batch of rows, -1 of no row."""
        return min(few_widths(self.longest(rows)), self.panel.y.shape[1])

    def pack(
        self,
        rows: np.ndarray,
        seen: np.ndarray,
        counted: np.ndarray,
        told: np.ndarray | None = None,
    ) -> tuple[Any, ...]:
        """Rows ``(batch, members)``; which steps are seen, and which count, with steps; and of
        which the past covariates are seen, if not of the same."""
        panel, at = self.panel, (rows, slice(seen.shape[-1]))
        value, mask = panel.y[at], panel.mask[at]
        inputs: dict[str, Any] = {
            "value": value,
            "observed": (mask & seen).astype("float32"),
            **self.static(rows),
        }
        for name, covariates in (("future", panel.future), ("past", panel.past)):
            if covariates is not None:
                own = covariates.take(at)
                if self.hides is not None:
                    own = Covariates(*hidden((own.numeric, own.codes), self.hides), own.there)
                inputs |= own.named(name)
        if panel.past is not None:
            inputs["past_there"] = inputs["past_there"] & (seen if told is None else told)
        return inputs, value, (mask & counted).astype("float32")


class TrainingRows(_Observations):
    """Each member's own items in its own order, cut at random prefixes, drawn anew each epoch."""

    def __init__(self, panel: Panel, held: np.ndarray, batch: int, seed: int) -> None:
        self.own = own_rows(held)
        super().__init__(panel, batch, max(STEPS, math.ceil(max(map(len, self.own)) / batch)))
        self.rng, self.hides = (np.random.default_rng([seed, use]) for use in (2, 5))
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        self.order = self.drawn(self.own, self.rng)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        rng, rows = self.rng, self.order[index]
        width = self.width(rows)
        steps = np.arange(width)
        each = self.panel.targets  # of several, a prefix is of whole steps
        prefix = each * np.floor(self.length[rows] / each * rng.random(rows.shape) ** SHORT)
        whole = rng.random(rows.shape) < WHOLE
        seen = (steps < prefix[..., None]) | whole[..., None]
        holed = rng.random(rows.shape) < HOLED
        seen &= ~(holed[..., None] & (rng.random(seen.shape) < HOLE))
        told = None
        if self.panel.past is not None:  # a sampled path comes without past covariates
            cut = np.where(rng.random(rows.shape) < HOLED, rng.random(rows.shape), 1.0)
            told = seen & (steps < (cut * self.panel.y.shape[1])[..., None])
        return self.pack(rows, seen, np.ones_like(seen), told)


class HeldOutRows(_Observations):
    """Each member's held-out items at fixed prefixes; only the rest of the item counts."""

    def __init__(self, panel: Panel, held: np.ndarray, batch: int) -> None:
        out = [np.flatnonzero(rows) for rows in held]
        most = max(map(len, out))
        prefixes = [k * panel.targets for k in PREFIXES if k * panel.targets < panel.y.shape[1]]
        each = min(len(prefixes), math.ceil(VALIDATION_ROWS / most))
        batch = min(batch, most * each)
        super().__init__(panel, batch, math.ceil(most * each / batch))
        self.order = self.alike([np.repeat(rows, each) for rows in out], None)
        turn = np.arange(self.steps * batch).reshape(self.steps, batch, 1)
        self.prefix = np.asarray(prefixes)[turn % len(prefixes)]

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        rows = self.order[index]
        seen = np.arange(self.width(rows)) < self.prefix[index][..., None]
        seen = np.broadcast_to(seen, (*rows.shape, seen.shape[-1]))
        return self.pack(np.maximum(rows, 0), seen, ~seen & (rows >= 0)[..., None])


class TokenRows(_Rows):
    """Whole sequences of tokens, each member's own, in batches of sequences of like length.

    One pass scores every prefix length, so none is drawn; where ``ends`` says so, the end of a
    sequence is one more token. With a seed the rows are drawn anew each epoch, some with holes,
    and a token met once in all is at times taken for an unknown one, which so becomes familiar.
    """

    def __init__(
        self,
        panel: Panel,
        rows: Sequence[np.ndarray],
        language: Language,
        *,
        ends: bool,
        batch: int,
        seed: int | None = None,
    ) -> None:
        most = max(map(len, rows))
        batch = min(batch, most)
        steps = math.ceil(most / batch)
        super().__init__(panel, batch, steps if seed is None else max(STEPS, steps))
        self.own, self.language, self.ends = rows, language, ends
        self.rng = None if seed is None else np.random.default_rng([seed, 2])
        self.hides = None if seed is None else np.random.default_rng([seed, 5])
        self.code = np.where(panel.mask, panel.y, language.gap).astype("int32")
        count = np.bincount(self.code[panel.mask], minlength=language.gap + 1)
        self.rare = (count == 1)[self.code] & panel.mask
        self.order = self.alike(rows, None) if self.rng is None else self.drawn(rows, self.rng)

    def on_epoch_end(self) -> None:
        if self.rng is not None:
            self.order = self.drawn(self.own, self.rng)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        language, rows = self.language, self.order[index]
        width = few_widths(self.longest(rows) + 1) - 1  # with "start" one of few
        code = self.code[rows]
        code = np.pad(code, [(0, 0), (0, 0), (0, max(0, width - code.shape[-1]))])[..., :width]
        steps, length = np.arange(width + 1), self.length[rows][..., None]
        code = np.where(steps[:-1] < length, code, language.gap)
        target = np.concatenate([code, np.full_like(code[..., :1], language.gap)], axis=-1)
        if self.ends:
            target = np.where(steps == length, END, target)
        counted = (target != language.gap) & (rows >= 0)[..., None]
        if self.rng is not None:
            rare = np.pad(self.rare, [(0, 0), (0, max(0, width - self.rare.shape[1]))])
            rare = rare[rows][..., :width] & (self.rng.random(code.shape) < 0.5)
            code = np.where(rare, UNKNOWN, code)
            target[..., :-1][rare] = UNKNOWN
            holed = self.rng.random(rows.shape) < TOKENS_HOLED
            holes = holed[..., None] & (self.rng.random(code.shape) < HOLE)
            code = np.where(holes, language.gap, code)
        return (
            {"tokens": code, **self.static(rows)},
            np.where(counted, target, 0),
            counted.astype("float32"),
        )


class KeepBest(keras.callbacks.Callback):
    """Keeps each member's weights of its best epoch, and stops when none has improved.

    ``model.score`` holds the held-out score of each member when an epoch ends.

    Ctrl-C, as ``interrupt`` notes it, stops the training too: after one more batch at most, whose
    epoch then counts as any other, or with ``KeyboardInterrupt`` if no epoch has ended.
    """

    def __init__(self, patience: int, interrupt: Interrupt) -> None:
        super().__init__()
        self.patience = patience
        self.interrupt = interrupt
        self.best: np.ndarray | None = None
        self.weights: list[np.ndarray] = []
        self.waited = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # Not at a batch's end: on JAX that would have every batch wait for its numbers.
        if self.interrupt.count and self.best is not None:
            self.model.stop_training = True
        else:
            self.interrupt.check()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        score = self.model.score.by_member()
        score = np.where(np.isnan(score), np.inf, score)  # a member that diverged is not kept
        now = [keras.ops.convert_to_numpy(weight) for weight in self.model.trainable_weights]
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
        """Put every member back to its best epoch."""
        for variable, weight in zip(self.model.trainable_weights, self.weights, strict=True):
            variable.assign(weight)


class Lines(keras.callbacks.Callback):
    """Says how the training goes: a line for each epoch, or some ``LINES`` in all."""

    def __init__(self, say: Callable[[str], None], *, each: bool = False) -> None:
        super().__init__()
        self.say = say
        self.each = each

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        epochs = (self.params or {}).get("epochs", 1)
        if (epoch + 1) % (1 if self.each else max(1, epochs // LINES)) == 0:
            self.say(f"Training, epoch {epoch + 1}/{epochs}{scores_text(logs or {})}")


def adamw(learning_rate: float, updates: int, weight_decay: float) -> keras.optimizers.AdamW:
    """AdamW (Loshchilov and Hutter 2019) with a warm start and a cosine's end after ``updates``."""
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


def held_out_parameters(
    network: Network, panel: Panel, held: np.ndarray, rows: np.ndarray, known: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """For each prefix length k of ``known``, k and the forecasts of held-out rows from their first
    k steps, each by a member that holds it out: parameters ``(len(rows), steps, head.size)``."""
    own = [np.flatnonzero(out[rows]) for out in held]
    most = max(map(len, own))
    at = np.stack([np.pad(which, (0, most - len(which))) for which in own], axis=1)
    batch, model = _Observations(panel, most, 1), Parameters(network)  # compiled once
    for k in known:
        seen = np.broadcast_to(np.arange(panel.y.shape[1]) < k, (*at.shape, panel.y.shape[1]))
        inputs, _, _ = batch.pack(rows[at], seen, seen)
        found = model.predict_on_batch(inputs)
        out = np.empty((len(rows), *found.shape[2:]), found.dtype)
        for member, which in enumerate(own):
            out[which] = found[: len(which), member]
        yield k, out


def train(
    network: Network,
    panel: Panel,
    held: np.ndarray,
    *,
    epochs: int,
    batch_size: int | None,
    learning_rate: float,
    weight_decay: float,
    patience: int,
    seed: int,
    ends: bool = True,
    interrupt: Interrupt,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: Verbose = "auto",
) -> dict[str, list[float]]:
    """Fit ``network`` to ``panel`` and leave each member at its best epoch; ``held`` says which
    rows each member stops by, as ``held_out`` does, and ``ends`` whether sequences of tokens end
    by themselves.

    An interrupt, whether noted or raised by a callback, ends the fit and keeps the best epoch so
    far; before the first epoch has ended there is none, and ``KeyboardInterrupt`` is raised.

    Returns
    -------
    history : dict of str to list of float
        Per epoch, as Keras's ``History.history``.
    """
    rows = len(panel.ids)
    training: Any
    validation: Any
    if isinstance(network, LanguageNetwork):
        batch = batch_size or int(np.clip(rows // 8, 16, 64))
        language, own = network.decoder, own_rows(held)
        training = TokenRows(panel, own, language, ends=ends, batch=batch, seed=seed)
        out = [np.flatnonzero(rows)[:VALIDATION_TOKEN_ROWS] for rows in held]
        validation = TokenRows(panel, out, language, ends=ends, batch=4 * batch)
    else:
        batch = batch_size or int(np.clip(rows // 8, 32, 512))
        training = TrainingRows(panel, held, batch, seed)
        validation = HeldOutRows(panel, held, batch)
    network.compile(optimizer=adamw(learning_rate, epochs * len(training), weight_decay))
    # A step that makes the optimizer's variables would be traced a second time by TensorFlow: a
    # quarter of a short fit.
    network.optimizer.build(network.trainable_variables)
    if verbose == "auto" and (sys.stdout.isatty() or "ipykernel" in sys.modules):
        verbose = 1
    lines = [Lines(say, each=verbose == 2)] if verbose in ("auto", 2) else []
    keep = KeepBest(patience, interrupt)
    history = keras.callbacks.History()
    interrupt.check()
    interrupted = False
    try:
        network.fit(
            training,
            validation_data=validation,
            shuffle=False,  # the rows are shuffled already, from our own seed
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
