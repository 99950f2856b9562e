"""Training batches: which rows, prefixes and gaps a network sees.

Every member of the ensemble holds out its own share of the items: the ensemble loses no data,
and each member has held-out items to stop training by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from statecast.tables.panel import Covariates, Panel

# Shares of the training rows: those of which every step is observed, so that forecasts one step
# ahead are trained at every step; those with random gaps, so that gaps and sampled paths are
# familiar; and of the latter's steps, the gaps.
WHOLE, GAPPED, GAPS = 0.25, 0.15, 0.3
# The share of rows with feature dropout: a random share of their features is masked, so that
# forecasts are as wide as they should be where a feature is missing or new.
FEATURE_DROPOUT = 0.3
SHORT = 1.5  # the prefix is length * u**SHORT, u uniform: short prefixes come more often
SHARES = 8  # a member holds out one item in SHARES, or one in `members` if there are more
STEPS = 24  # the fewest updates of an epoch, so that few data are seen often
PREFIXES = (0, 1, 2, 3, 5, 8)  # the held-out items are scored at these
VALIDATION_ROWS = 1000  # a member's held-out rows: each item at several prefixes, or at one


def held_out(groups: np.ndarray, members: int, seed: int) -> np.ndarray:
    """Which rows each member holds out, bool ``(members, rows)``: whole groups of them."""
    names, group = np.unique(groups, return_inverse=True)
    order = np.random.default_rng([seed, 1]).permutation(len(names))[group.ravel()]
    count = min(max(members, SHARES), len(names))
    return (order % count) == (np.arange(members) % count)[:, None]


def training_rows(held: np.ndarray) -> list[np.ndarray]:
    """The rows that each member is trained on."""
    # A single item is held out and trained on as well: there is no other.
    return [np.flatnonzero(~out if not out.all() else out) for out in held]


def padded_width(steps: int) -> int:
    """The least of few widths that holds so many steps, so that few shapes are compiled: 8, 16,
    24, 32, and from there on powers of two and three quarters of them."""
    if steps <= 32:
        return max(8, -(-steps // 8) * 8)
    power = 1 << (steps - 1).bit_length()
    return 3 * power // 4 if steps <= 3 * power // 4 else power


def drop_features(
    numeric: np.ndarray, codes: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Feature dropout: some features of some rows masked at random.

    Parameters
    ----------
    numeric : array, ``(batch, members, ..., 2 * n)``
        Numbers, and the flags of those that are missing, as a panel has them.
    codes : array of int, ``(batch, members, ..., m)``

    Returns
    -------
    The same arrays, with some numbers missing and some categories missing or new.
    """
    n, m = numeric.shape[-1] // 2, codes.shape[-1]
    if not n + m:
        return numeric, codes
    rows = codes.shape[:2]
    share = np.where(rng.random(rows) < FEATURE_DROPOUT, rng.random(rows), 0.0)
    share = share.reshape(*rows, *[1] * (codes.ndim - 2))
    masked = rng.random((*codes.shape[:-1], n + m)) < share
    value = np.where(masked[..., :n], 0, numeric[..., :n])
    flag = masked[..., :n] | (numeric[..., n:] > 0)
    other = rng.integers(0, 2, codes.shape, codes.dtype)
    numeric = np.concatenate([value, flag], axis=-1, dtype=numeric.dtype)
    return numeric, np.where(masked[..., n:], other, codes)


class Batches(keras.utils.PyDataset):
    """Batches of a fixed number of rows and of few widths: rows of similar length stand together,
    and steps after a batch's longest row are left out."""

    def __init__(self, panel: Panel, batch: int, steps: int) -> None:
        super().__init__()
        self.panel, self.batch, self.steps = panel, batch, steps
        self.length = panel.known
        self.feature_rng: np.random.Generator | None = None  # of feature dropout; None for none
        # TensorFlow assumes that all batches have the first one's shape.
        self.one_width = keras.backend.backend() == "tensorflow"

    def by_length(
        self, chosen: Sequence[np.ndarray], rng: np.random.Generator | None
    ) -> np.ndarray:
        """Each member's rows in order of length, batch by batch ``(steps, batch, members)``, -1
        where there are no more; with a generator the batches are in random order."""
        order = np.full((self.steps * self.batch, len(chosen)), -1)
        for member, rows in enumerate(chosen):
            order[: len(rows), member] = rows[np.argsort(self.length[rows], kind="stable")]
        order = order.reshape(self.steps, self.batch, len(chosen))
        if rng is not None and self.length.min() < self.length.max():
            order = order[rng.permutation(self.steps)]
        return order

    def epoch(self, rows: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        """The batches of an epoch, as ``by_length`` has them: each member's rows, in as many
        random passes as the epoch needs."""
        need = self.steps * self.batch
        chosen = []
        for own in rows:
            passes = [rng.permutation(own) for _ in range(math.ceil(need / len(own)))]
            chosen.append(np.concatenate(passes)[:need])
        return self.by_length(chosen, rng)

    def static(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The static features of rows ``(batch, members)``; in training with feature dropout."""
        numeric, codes = self.panel.numeric[rows], self.panel.codes[rows]
        if self.feature_rng is not None:
            numeric, codes = drop_features(numeric, codes, self.feature_rng)
        return {"numeric": numeric, "codes": codes}

    def longest(self, rows: np.ndarray) -> int:
        """The steps that a batch of these rows needs; -1 stands for no row."""
        return int(self.length.max() if self.one_width else self.length[rows[rows >= 0]].max())

    def __len__(self) -> int:
        return self.steps


class ObservationBatches(Batches):
    """Batches for a network of numbers."""

    def width(self, rows: np.ndarray) -> int:
        """The steps of a batch of rows; -1 stands for no row."""
        return min(padded_width(self.longest(rows)), self.panel.y.shape[1])

    def pack(
        self,
        rows: np.ndarray,
        observed: np.ndarray,
        counted: np.ndarray,
        past_observed: np.ndarray | None = None,
    ) -> tuple[Any, ...]:
        """Inputs, targets and weights of a batch.

        Parameters
        ----------
        rows : array of int, ``(batch, members)``
        observed, counted : arrays of bool, ``(batch, members, steps)``
            The steps that the network may see, as far as the panel has them, and the steps whose
            loss counts.
        past_observed : array of bool, ``(batch, members, steps)``, optional
            The steps whose past covariates it may see; by default those of ``observed``.
        """
        panel, at = self.panel, (rows, slice(observed.shape[-1]))
        value, mask = panel.y[at], panel.mask[at]
        inputs: dict[str, Any] = {
            "value": value,
            "observed": (mask & observed).astype("float32"),
            **self.static(rows),
        }
        for name, covariates in (("future", panel.future), ("past", panel.past)):
            if covariates is not None:
                own = covariates.take(at)
                if self.feature_rng is not None:
                    features = drop_features(own.numeric, own.codes, self.feature_rng)
                    own = Covariates(*features, own.there)
                inputs |= own.named(name)
        if panel.past is not None:
            there = observed if past_observed is None else past_observed
            inputs["past_there"] = inputs["past_there"] & there
        return inputs, value, (mask & counted).astype("float32")


class TrainingBatches(ObservationBatches):
    """Each member's training items in its own order, cut at random prefixes, anew each epoch."""

    def __init__(self, panel: Panel, held: np.ndarray, batch: int, seed: int) -> None:
        self.rows = training_rows(held)
        super().__init__(panel, batch, max(STEPS, math.ceil(max(map(len, self.rows)) / batch)))
        self.rng, self.feature_rng = (np.random.default_rng([seed, use]) for use in (2, 5))
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        self.order = self.epoch(self.rows, self.rng)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        rng, rows = self.rng, self.order[index]
        width = self.width(rows)
        steps = np.arange(width)
        targets = self.panel.targets  # of several, a prefix is of whole steps
        prefix = targets * np.floor(self.length[rows] / targets * rng.random(rows.shape) ** SHORT)
        whole = rng.random(rows.shape) < WHOLE
        observed = (steps < prefix[..., None]) | whole[..., None]
        gapped = rng.random(rows.shape) < GAPPED
        observed &= ~(gapped[..., None] & (rng.random(observed.shape) < GAPS))
        past_observed = None
        if self.panel.past is not None:  # a sampled path has no past covariates
            cut = np.where(rng.random(rows.shape) < GAPPED, rng.random(rows.shape), 1.0)
            past_observed = observed & (steps < (cut * self.panel.y.shape[1])[..., None])
        return self.pack(rows, observed, np.ones_like(observed), past_observed)


class HeldOutBatches(ObservationBatches):
    """Each member's held-out items at fixed prefixes; only the steps after them count."""

    def __init__(self, panel: Panel, held: np.ndarray, batch: int) -> None:
        out = [np.flatnonzero(rows) for rows in held]
        most = max(map(len, out))
        prefixes = [k * panel.targets for k in PREFIXES if k * panel.targets < panel.y.shape[1]]
        each = min(len(prefixes), math.ceil(VALIDATION_ROWS / most))
        batch = min(batch, most * each)
        super().__init__(panel, batch, math.ceil(most * each / batch))
        self.order = self.by_length([np.repeat(rows, each) for rows in out], None)
        turn = np.arange(self.steps * batch).reshape(self.steps, batch, 1)
        self.prefix = np.asarray(prefixes)[turn % len(prefixes)]

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        rows = self.order[index]
        observed = np.arange(self.width(rows)) < self.prefix[index][..., None]
        observed = np.broadcast_to(observed, (*rows.shape, observed.shape[-1]))
        return self.pack(np.maximum(rows, 0), observed, ~observed & (rows >= 0)[..., None])
