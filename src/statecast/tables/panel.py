"""``Panel``: the arrays that a network takes, for the items of one call."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np

from statecast.state import outline
from statecast.tables.features import MISSING, Columns
from statecast.tables.ids import Kind

_CLASSES = 30  # with fewer different rows of static features, these are classes of items


@dataclass(frozen=True, eq=False)
class Covariates:
    """Future or past covariates, scaled; rows first, steps second.

    Attributes
    ----------
    numeric : ndarray, shape (rows, T, 2 * n), float32
        As ``Panel.numeric``, at each step.
    codes : ndarray, shape (rows, T, m), int32
        As ``Panel.codes``, at each step.
    there : ndarray, shape (rows, T), bool
        Whether the table has the step. Where it is False, ``numeric`` and ``codes`` mean nothing.
    """

    numeric: np.ndarray
    codes: np.ndarray
    there: np.ndarray

    __repr__ = outline

    @classmethod
    def absent(cls, columns: Columns, rows: int, steps: int) -> Covariates:
        """Return covariates with these columns that are absent at every step."""
        return cls(
            np.zeros((rows, steps, columns.width), np.float32),
            np.zeros((rows, steps, len(columns.categories)), np.int32),
            np.zeros((rows, steps), bool),
        )

    def repeated(self, times: int) -> Covariates:
        """Return the covariates with each step repeated, once for each target."""
        return Covariates(*(np.repeat(array, times, axis=1) for array in vars(self).values()))

    def take(self, rows: Any) -> Covariates:
        """Return the covariates of some rows, by index, slice or boolean mask."""
        return Covariates(self.numeric[rows], self.codes[rows], self.there[rows])

    def at(self, steps: np.ndarray) -> Covariates:
        """Return the covariates at ``steps (rows, n)``, from 0; steps after the last are absent."""
        rows, held = np.arange(len(steps))[:, None], np.minimum(steps, self.there.shape[1] - 1)
        there = self.there[rows, held] & (steps < self.there.shape[1])
        return Covariates(self.numeric[rows, held], self.codes[rows, held], there)

    def unknown(self, since: np.ndarray) -> Covariates:
        """Return the covariates with absent steps filled in as missing values.

        Each row's steps from ``since (rows,)`` on are filled in, counted from 0.
        """
        return self.filled(np.arange(self.there.shape[1]) >= since[:, None])

    def filled(self, steps: np.ndarray) -> Covariates:
        """Return the covariates with absent steps, among ``steps (rows, T)``, bool, filled in as
        missing values."""
        n = self.numeric.shape[2] // 2
        add = ~self.there & steps
        flags = np.arange(2 * n) >= n
        return Covariates(
            np.where(add[..., None], flags, self.numeric).astype(np.float32),
            np.where(add[..., None], MISSING, self.codes).astype(np.int32),
            self.there | add,
        )

    def named(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays under the names of a network's inputs, which begin with ``name``."""
        return {f"{name}_{part}": getattr(self, part) for part in ("numeric", "codes", "there")}

    def put(
        self, row: np.ndarray, step: np.ndarray, numeric: np.ndarray, codes: np.ndarray
    ) -> None:
        """Write the values of some rows at some steps, counted from 1."""
        self.numeric[row, step - 1], self.codes[row, step - 1] = numeric, codes
        self.there[row, step - 1] = True


@dataclass(frozen=True, eq=False)
class Panel:
    """The arrays that a network takes for a set of items: rows first, steps second, scaled.

    Attributes
    ----------
    ids : ndarray, shape (rows,)
        The items: int64, or objects (text). In the order of the static table, else in
        order of first appearance in the series table.
    y : ndarray, shape (rows, T), float32
        Scaled observations, or the codes of tokens; 0 where ``mask`` is False. ``T`` is at
        least ``Schema.steps``.
    mask : ndarray, shape (rows, T), bool
        True where observed.
    numeric : ndarray, shape (rows, 2 * n), float32
        The n numeric statics, standardised (0 where missing), and then their n flags
        (1 where missing).
    codes : ndarray, shape (rows, m), int32
        The m categorical statics: 0 never seen in training, 1 missing, 2.. the categories.
    origin : ndarray, shape (rows,), datetime64[us], or None
        The place of step 1 on the grid of the dates, as ``Spacing.place`` gives it (NaT for an
        item with k = 0 and no future rows); None when steps are numbers.
    kind : Kind
        The library of the tables and how steps are written; results are of the same kind.
    future, past : Covariates or None
        Future covariates are known before their step, past ones are observed with y. None if
        ``fit`` had none.
    targets : int
        The number of targets. With several, a step has one position for each of them, and
        "steps" above are positions: m targets of T steps are m * T positions, the first target at
        step 1, the second at step 1, ..., the first at step 2. A network that takes the positions
        one by one forecasts each value given the earlier targets of the same step. By the chain
        rule of probability this is a joint distribution over targets and steps.
    group : ndarray, shape (rows,), int64, or None
        A number for the group of each item, ``group_keys``; 0 for an item in no group. None if
        ``fit`` had no ``group_col``.
    begin : ndarray, shape (rows,), float64, or None
        In ``fit`` only: the time of step 1 in steps, from any time; NaN where it is unknown. None
        if steps are numbers without ``origin_col``.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import Schema
    >>> schema = Schema.fit(np.array([[1.0, 2.0, np.nan], [2.0, 4.0, 6.0]]))
    >>> panel = schema.panel(np.array([[1.0, 2.0, np.nan]]))
    >>> panel.rows, panel.mask.tolist()
    (1, [[True, True, False]])
    """

    ids: np.ndarray
    y: np.ndarray
    mask: np.ndarray
    numeric: np.ndarray
    codes: np.ndarray
    origin: np.ndarray | None = None
    kind: Kind = Kind("polars")  # noqa: RUF009 (it is frozen)
    future: Covariates | None = None
    past: Covariates | None = None
    targets: int = 1
    group: np.ndarray | None = None
    begin: np.ndarray | None = None

    __repr__ = outline

    @property
    def rows(self) -> int:
        """The number of items."""
        return len(self.ids)

    @cached_property
    def known(self) -> np.ndarray:
        """The last observed step of each row, 0 where there is none; shape (rows,), int64.

        With several targets it is the last position of the last step at which any was observed.
        """
        last = self.mask.shape[1] - np.argmax(self.mask[:, ::-1], axis=1)
        last += -last % self.targets
        return np.where(self.mask.any(axis=1), last, 0).astype(np.int64)

    @property
    def latest(self) -> np.ndarray:
        """Each target's last observation, scaled, and its step from 1 (0 where there is none);
        shape (rows, targets, 2), float32."""
        rows, width = self.mask.shape
        mask = self.mask.reshape(rows, width // self.targets, self.targets)
        at = mask.shape[1] - np.argmax(mask[:, ::-1], axis=1)  # (rows, targets), from 1
        at = np.where(mask.any(axis=1), at, 0)
        y = self.y.reshape(rows, width // self.targets, self.targets)
        value = np.take_along_axis(y, np.maximum(at - 1, 0)[:, None], axis=1)[:, 0]
        return np.stack([np.where(at > 0, value, 0.0), at], axis=-1).astype(np.float32)

    @property
    def groups(self) -> np.ndarray:
        """The group of each row, shape (rows,), int64; rows of a group are held out together.

        Rows with equal static features are one item that was observed several times, such as the
        years of a river basin: a new item would have other features. With fewer than 30 different
        rows of features these are classes of items (a sex, a make), and each row is its own group.
        """
        static = np.concatenate([self.numeric, self.codes], axis=1)
        _, group = np.unique(static, axis=0, return_inverse=True)
        group = group.ravel().astype(np.int64)
        few = group.max(initial=-1) + 1 < _CLASSES
        return np.arange(self.rows, dtype=np.int64) if few else group

    def prefix(self, k: int | np.ndarray) -> Panel:
        """Return the panel in which steps after k are masked; an array has the k of each row."""
        k = np.asarray(k)[..., None]
        mask, past = self.mask & (np.arange(self.mask.shape[1]) < k), self.past
        if past is not None:
            past = replace(past, there=past.there & (np.arange(past.there.shape[1]) < k))
        return replace(self, y=np.where(mask, self.y, np.float32(0)), mask=mask, past=past)

    def take(self, rows: Any) -> Panel:
        """Return the panel of some rows, by index, slice or boolean mask."""
        return Panel(
            self.ids[rows],
            self.y[rows],
            self.mask[rows],
            self.numeric[rows],
            self.codes[rows],
            None if self.origin is None else self.origin[rows],
            self.kind,
            None if self.future is None else self.future.take(rows),
            None if self.past is None else self.past.take(rows),
            self.targets,
            None if self.group is None else self.group[rows],
            None if self.begin is None else self.begin[rows],
        )

    def of(self, target: int) -> Panel:
        """Return the panel of the target with this index, without covariates."""
        own = slice(target, None, self.targets)
        y, mask = self.y[:, own], self.mask[:, own]
        return replace(self, y=y, mask=mask, future=None, past=None, targets=1)


def group_keys(names: np.ndarray) -> np.ndarray:
    """Return a number for each name of a group, int64; 0 for None.

    It is a hash of the name, and so the same in every call and every process.
    """
    texts = {name: str(name).encode() for name in names if name is not None}
    keys = {name: blake2b(text, digest_size=8).digest() for name, text in texts.items()}
    numbers = {name: int.from_bytes(key, "little", signed=True) for name, key in keys.items()}
    return np.array([numbers.get(name, 0) for name in names], np.int64)
