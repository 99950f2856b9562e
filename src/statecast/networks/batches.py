"""Training batches: the rows, prefixes and gaps that a network is trained on.

Every member of the ensemble holds out a different part of the items, which decides when its
training stops. Together the members are trained on all items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from statecast.networks.decoder import ALL
from statecast.tables.panel import Covariates, Panel

WHOLE = 0.25  # the share of training rows with every step as input: one-step-ahead forecasts
GAPPED = 0.15  # the share of training rows with random gaps, as in data and in sampled paths
GAPS = 0.3  # the share of the steps of such a row that are masked
# The share of training rows with feature dropout: a random share of the row's features is masked.
# It trains the network for missing features and new categories.
FEATURE_DROPOUT = 0.3
SHORT = 1.5  # the prefix is length * u**SHORT, with u uniform: short prefixes are more frequent
FOLDS = 8  # a member holds out one item in FOLDS, or one in `members` if there are more members
STEPS = 24  # the fewest updates of an epoch; with few data an epoch has several passes
LARGEST_BATCH = 512  # the largest default; a larger batch holds no row twice
PREFIXES = (0, 1, 2, 3, 5, 8)  # the prefix lengths of held-out items, in steps
VALIDATION_ROWS = 1000  # of a member, about: each held-out item at one or several prefixes


def held_out(groups: np.ndarray, members: int, seed: int) -> np.ndarray:
    """The rows that each member holds out.

    Parameters
    ----------
    groups : array, ``(rows,)``
        Rows with the same value are held out together.
    members : int
    seed : int

    Returns
    -------
    array of bool, ``(members, rows)``
    """
    names, group = np.unique(groups, return_inverse=True)
    order = np.random.default_rng([seed, 1]).permutation(len(names))[group.ravel()]
    count = min(max(members, FOLDS), len(names))
    return (order % count) == (np.arange(members) % count)[:, None]


def training_rows(held: np.ndarray) -> list[np.ndarray]:
    """The rows that each member is trained on, from ``held_out``."""
    # If there is a single group, it is both held out and trained on.
    return [np.flatnonzero(~out if not out.all() else out) for out in held]


def padded_width(steps: int) -> int:
    """The width to which ``steps`` are padded, so that few shapes are compiled.

    It is the least of 8, 16, 24, 32, 48, 64, 96, 128, ... that is at least ``steps``.
    """
    if steps <= 32:
        return max(8, -(-steps // 8) * 8)
    power = 1 << (steps - 1).bit_length()
    return 3 * power // 4 if steps <= 3 * power // 4 else power


def padded_rows(rows: int) -> int:
    """The least multiple of 16 that is at least ``rows``: the folds of a cross-validation differ by
    an item or two, and each shape is compiled."""
    return -(-rows // 16) * 16


class Draws:
    """Random numbers of a stream for some members of an ensemble.

    They are drawn for all members, so that a member has the same numbers whichever members it is
    trained with. A draw takes far less time than the training that it is for.

    Parameters
    ----------
    rng : numpy.random.Generator
    members : int
        Members of the ensemble.
    own : slice
        The members whose numbers are returned.
    """

    def __init__(self, rng: np.random.Generator, members: int, own: slice = ALL) -> None:
        self.rng, self.members, self.own = rng, members, own

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        """Numbers from 0 to below 1, float64 ``(batch, own members, ...)``."""
        return self.rng.random((shape[0], self.members, *shape[2:]))[:, self.own]

    def integers(self, low: int, high: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Whole numbers from ``low`` to below ``high``, ``(batch, own members, ...)``."""
        every = (shape[0], self.members, *shape[2:])
        return self.rng.integers(low, high, every, dtype)[:, self.own]


def drop_features(
    numeric: np.ndarray, codes: np.ndarray, draws: Draws
) -> tuple[np.ndarray, np.ndarray]:
    """Feature dropout: mask some features of some rows at random.

    Parameters
    ----------
    numeric : array, ``(batch, members, ..., 2 * n)``
        As in a panel: n numbers, and n flags that are 1 for missing numbers.
    codes : array of int, ``(batch, members, ..., m)``
    draws : Draws

    Returns
    -------
    numeric, codes : arrays
        Copies. A masked number is missing; a masked category is missing or new.
    """
    n, m = numeric.shape[-1] // 2, codes.shape[-1]
    if not n + m:
        return numeric, codes
    rows = codes.shape[:2]
    share = np.where(draws.random(rows) < FEATURE_DROPOUT, draws.random(rows), 0.0)
    share = share.reshape(*rows, *[1] * (codes.ndim - 2))
    masked = draws.random((*codes.shape[:-1], n + m)) < share
    value = np.where(masked[..., :n], 0, numeric[..., :n])
    flag = masked[..., :n] | (numeric[..., n:] > 0)
    other = draws.integers(0, 2, codes.shape, codes.dtype)
    numeric = np.concatenate([value, flag], axis=-1, dtype=numeric.dtype)
    return numeric, np.where(masked[..., n:], other, codes)


class Batches(keras.utils.PyDataset):
    """Batches of rows of similar length, without the steps after the longest row.

    Rows, lengths and random numbers are those of all members of the ensemble; the arrays of a batch
    are those of its ``own`` members only. So a member has the same batches whichever members it is
    trained with.

    Parameters
    ----------
    panel : Panel
    batch : int
        The number of rows in a batch.
    steps : int
        The number of batches of an epoch.
    own : slice
        The members that are trained.
    """

    def __init__(self, panel: Panel, batch: int, steps: int, own: slice = ALL) -> None:
        super().__init__()
        self.panel, self.batch, self.steps, self.own = panel, batch, steps, own
        self.length = panel.known
        self.feature_draws: Draws | None = None  # None: no feature dropout
        # On TensorFlow, Keras assumes that all batches have the shape of the first one.
        self.one_width = keras.backend.backend() == "tensorflow"

    def by_length(
        self, chosen: Sequence[np.ndarray], rng: np.random.Generator | None
    ) -> np.ndarray:
        """Sort the rows of each member by length and divide them into batches.

        Parameters
        ----------
        chosen : sequence of array of int
            The rows of each member.
        rng : numpy.random.Generator or None
            If given, the batches are in random order.

        Returns
        -------
        array of int, ``(steps, batch, members)``
            Row indices; -1 for no row.
        """
        order = np.full((self.steps * self.batch, len(chosen)), -1)
        for member, rows in enumerate(chosen):
            order[: len(rows), member] = rows[np.argsort(self.length[rows], kind="stable")]
        order = order.reshape(self.steps, self.batch, len(chosen))
        if rng is not None and self.length.min() < self.length.max():
            order = order[rng.permutation(self.steps)]
        return order

    def epoch(self, rows: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        """The batches of an epoch, as ``by_length`` returns them.

        The rows of each member come in random order, several times if the epoch is longer.
        """
        need = self.steps * self.batch
        chosen = []
        for of_member in rows:
            repeats = math.ceil(need / len(of_member))
            passes = [rng.permutation(of_member) for _ in range(repeats)]
            chosen.append(np.concatenate(passes)[:need])
        return self.by_length(chosen, rng)

    def static(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The static features of rows ``(batch, members)``, with feature dropout in training."""
        numeric, codes = self.panel.numeric[rows], self.panel.codes[rows]
        if self.feature_draws is not None:
            numeric, codes = drop_features(numeric, codes, self.feature_draws)
        return {"numeric": numeric, "codes": codes}

    def longest(self, rows: np.ndarray) -> int:
        """The length of the longest of these rows; -1 is no row."""
        return int(self.length.max() if self.one_width else self.length[rows[rows >= 0]].max())

    def __len__(self) -> int:
        return self.steps


class ObservationBatches(Batches):
    """Batches for a network of numbers."""

    def width(self, rows: np.ndarray) -> int:
        """The number of steps of a batch of these rows; -1 is no row."""
        return min(padded_width(self.longest(rows)), self.panel.y.shape[1])

    def pack(
        self,
        rows: np.ndarray,
        observed: np.ndarray,
        counted: np.ndarray,
        past_observed: np.ndarray | None = None,
    ) -> tuple[Any, ...]:
        """Inputs, targets and weights of a batch. Its members are the ``own`` ones.

        Parameters
        ----------
        rows : array of int, ``(batch, members)``
        observed : array of bool, ``(batch, members, steps)``
            The steps whose observations are inputs, if the panel has them.
        counted : array of bool, ``(batch, members, steps)``
            The steps whose losses count, if the panel has their observations.
        past_observed : array of bool, ``(batch, members, steps)``, optional
            The steps whose past covariates are inputs; by default those of ``observed``.

        Returns
        -------
        inputs : dict of str to array
            As a call of ``Network`` takes them.
        targets : array, float32, ``(batch, members, steps)``
        weights : array, float32, ``(batch, members, steps)``
            1 where a loss counts, else 0.
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
                part = covariates.take(at)
                if self.feature_draws is not None:
                    features = drop_features(part.numeric, part.codes, self.feature_draws)
                    part = Covariates(*features, part.there)
                inputs |= part.named(name)
        if panel.past is not None:
            allowed = observed if past_observed is None else past_observed
            inputs["past_there"] = inputs["past_there"] & allowed
        return inputs, value, (mask & counted).astype("float32")


class TrainingBatches(ObservationBatches):
    """The training items of each member, with random prefixes; new order and prefixes each epoch.

    ``held`` is bool ``(members, rows)``, from ``held_out``, for all members of the ensemble.
    """

    def __init__(
        self, panel: Panel, held: np.ndarray, batch: int, seed: int, own: slice = ALL
    ) -> None:
        self.rows = training_rows(held)
        most = max(map(len, self.rows))
        # A batch holds a row several times if there are few; a huge one would not end.
        batch = min(batch, max(most, LARGEST_BATCH))
        super().__init__(panel, batch, max(STEPS, math.ceil(most / batch)), own)
        self.draws, self.feature_draws = (
            Draws(np.random.default_rng([seed, use]), len(held), own) for use in (2, 5)
        )
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        self.order = self.epoch(self.rows, self.draws.rng)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        random, rows = self.draws.random, self.order[index]
        steps = np.arange(self.width(rows))
        rows = rows[:, self.own]
        targets = self.panel.targets  # a prefix ends with the last target of a step
        prefix = targets * np.floor(self.length[rows] / targets * random(rows.shape) ** SHORT)
        whole = random(rows.shape) < WHOLE
        observed = (steps < prefix[..., None]) | whole[..., None]
        gapped = random(rows.shape) < GAPPED
        observed &= ~(gapped[..., None] & (random(observed.shape) < GAPS))
        past_observed = None
        if self.panel.past is not None:  # trained without, too: sampled paths have none
            cut = np.where(random(rows.shape) < GAPPED, random(rows.shape), 1.0)
            past_observed = observed & (steps < (cut * self.panel.y.shape[1])[..., None])
        return self.pack(rows, observed, np.ones_like(observed), past_observed)


class HeldOutBatches(ObservationBatches):
    """The held-out items of each member at fixed prefixes. Only the steps after them count.

    ``held`` is bool ``(members, rows)``, from ``held_out``, for all members of the ensemble.
    """

    def __init__(self, panel: Panel, held: np.ndarray, batch: int, own: slice = ALL) -> None:
        out = [np.flatnonzero(rows) for rows in held]
        most = max(map(len, out))
        prefixes = [k * panel.targets for k in PREFIXES if k * panel.targets < panel.y.shape[1]]
        each = min(len(prefixes), math.ceil(VALIDATION_ROWS / most))
        batch = min(batch, padded_rows(most * each))
        super().__init__(panel, batch, math.ceil(most * each / batch), own)
        self.order = self.by_length([np.repeat(rows, each) for rows in out], None)
        turn = np.arange(self.steps * batch).reshape(self.steps, batch, 1)
        self.prefix = np.asarray(prefixes)[turn % len(prefixes)]

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        rows = self.order[index]
        observed = np.arange(self.width(rows)) < self.prefix[index][..., None]
        rows = rows[:, self.own]
        observed = np.broadcast_to(observed, (*rows.shape, observed.shape[-1]))
        return self.pack(np.maximum(rows, 0), observed, ~observed & (rows >= 0)[..., None])
