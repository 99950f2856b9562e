"""Decoding: from a model of the next token to whole sequences, by beam search or by sampling.

NumPy alone. A model gives the log-probabilities of the next token for each row of a state, or the
likeliest tokens alone, and the state after a token. Rows are batched over items and hypotheses; an
item's result depends on its own rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from statecast.checks import check_number, check_whole
from statecast.state import outline

_WIDEST = 10_000  # a wider beam is a typing error


class Model(Protocol):
    """A model of the next token. Its states may have any form: decoding only hands them back."""

    def log_probabilities(self, state: Any) -> np.ndarray:
        """The log-probabilities of the next token, float ``(rows, tokens)``."""
        ...

    def likeliest(
        self, state: Any, most: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest of the ``allowed`` tokens, as ``likeliest`` picks them."""
        ...

    def step(self, state: Any, rows: np.ndarray, codes: np.ndarray) -> Any:
        """The state after token ``codes[i]`` in row ``rows[i]``; a row may occur several times."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Constrained:
    forbidden: Sequence[Any] | str | None = ()
    required: Sequence[Any] | str | None = ()


@dataclass(frozen=True)
class Beam(_Constrained):
    """Beam search for the most probable sequence; with a width of one it is greedy.

    At each step the ``width`` most probable hypotheses of an item are kept. One that ends leaves
    the beam, which is then narrower by one, so that the search is exact if the beam is as wide as
    there are sequences.

    Parameters
    ----------
    width : int
        Hypotheses kept for each item.
    best : int
        How many sequences are returned, the best first.
    length_power : float
        Sequences are ranked by log-probability over ``length ** length_power``, the end counted as
        a token: 0 ranks by probability, 1 by the mean log-probability of a token. Powers between
        favour longer sequences than 0 does (Wu et al. 2016).
    forbidden : tokens
        None of these is generated.
    required : tokens
        The sequence begins with these.

    Raises
    ------
    ArgumentError
        ``width`` below 1, ``best`` not between 1 and ``width``, a negative ``length_power``.

    Examples
    --------
    >>> Beam(5, best=3, forbidden="q").width
    5
    """

    width: int = 1
    best: int = 1
    length_power: float = 0.0

    def __post_init__(self) -> None:
        check_whole("width", self.width, 1, _WIDEST)
        check_whole("best", self.best, 1, self.width)
        check_number("length_power", self.length_power, 0.0, 10.0)


@dataclass(frozen=True)
class Sampling(_Constrained):
    """Draw each token from its distribution, or from the likelier part of it.

    Parameters
    ----------
    temperature : float
        The log-probabilities are divided by it: below 1, likely tokens become likelier.
    top_k : int, optional
        Draw from this many of the likeliest tokens only.
    top_p : float
        Draw from the likeliest tokens that together reach this probability only: the nucleus
        (Holtzman et al. 2020). Applied after ``temperature`` and ``top_k``.
    forbidden, required : tokens
        As in ``Beam``.

    Raises
    ------
    ArgumentError
        A temperature not above 0, ``top_k`` below 1, ``top_p`` not above 0 and up to 1.

    Examples
    --------
    >>> Sampling(0.8, top_p=0.9).top_p
    0.9
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 1e-6, 1e6)
        if self.top_k is not None:
            check_whole("top_k", self.top_k, 1, 10**9)
        check_number("top_p", self.top_p, 1e-9, 1.0)


@dataclass(frozen=True)
class Rules:
    """Which tokens may be generated, in codes.

    Attributes
    ----------
    allowed : bool array, ``(tokens,)``
        The tokens allowed after the required ones, the end among them.
    required : tuple of int
        The first tokens.
    end : int
        The code that ends a sequence.
    """

    allowed: np.ndarray
    required: tuple[int, ...]
    end: int

    __repr__ = outline

    def apply(self, nats: np.ndarray, step: int) -> np.ndarray:
        """Log-probabilities with minus infinity for tokens not allowed at a step, from 0."""
        if step >= len(self.required):
            return nats + self._added
        only = np.full_like(nats, -np.inf)
        only[:, self.required[step]] = nats[:, self.required[step]]
        return only

    @cached_property
    def _added(self) -> np.ndarray:
        return np.where(self.allowed, 0.0, -np.inf).astype(np.float32)


def likeliest(nats: np.ndarray, most: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest tokens of each row.

    Parameters
    ----------
    nats : array, ``(rows, tokens)``
        Log-probabilities.
    most : int
        How many, at most ``tokens``.
    allowed : bool array, ``(tokens,)``

    Returns
    -------
    codes, nats : arrays, ``(rows, most)``
        In no order. If fewer are allowed, the others have a log-probability of minus infinity.
    """
    nats = np.where(allowed, nats, -np.inf)
    if most < nats.shape[1]:
        codes = np.argpartition(nats, -most, axis=1)[:, -most:]
    else:
        codes = np.broadcast_to(np.arange(most), nats.shape)
    return codes, np.take_along_axis(nats, codes, axis=1)


@dataclass(frozen=True)
class Found:
    """Sequences: ``codes (items, n, steps)``, -1 after the last token; their log-probability
    ``nats (items, n)``, the end included; and whether each ``ended (items, n)``."""

    codes: np.ndarray
    nats: np.ndarray
    ended: np.ndarray

    __repr__ = outline


def search(model: Model, state: Any, room: np.ndarray, beam: Beam, rules: Rules) -> Found:
    """Beam search: the ``beam.best`` sequences of each row of ``state``.

    A sequence has at most ``room (items,)`` steps, of which its end takes one. If fewer are found,
    the others are empty and have a log-probability of minus infinity.
    """
    items, width, steps = len(room), beam.width, int(room.max(initial=0))
    done = Found(
        np.full((items, width, steps), -1, np.int32),
        np.full((items, width), -np.inf),
        np.zeros((items, width), bool),
    )
    done_score, count = np.full((items, width), -np.inf), np.zeros(items, int)

    # The unfinished hypotheses: one for each row of the state, those of an item together, the best
    # first.
    item, nats = np.arange(items), np.zeros(items)
    tokens, bar = np.zeros((items, 0), np.int32), np.full(items, -np.inf)
    for step in range(steps):
        if not len(item):
            break
        if step < len(rules.required):
            codes = np.full((len(item), 1), rules.required[step])
            each = model.log_probabilities(state)[:, [rules.required[step]]]
        else:
            codes, each = model.likeliest(state, min(width, len(rules.allowed)), rules.allowed)
        total = nats[:, None] + each
        parent, place = _best(total, item, width - count)
        item, nats, code = item[parent], total[parent, place], codes[parent, place]
        tokens = np.concatenate([tokens[parent], code[:, None].astype(np.int32)], axis=1)

        ended = code == rules.end
        over = ended | (step + 1 >= room[item])
        if over.any():
            # A finished sequence takes the next free place of its item.
            of, length = item[over], step + 1
            place = count[of] + _rank(of)
            kept = np.where(ended[over, None] & (np.arange(length) == step), -1, tokens[over])
            done.codes[of, place, :length] = kept
            done.nats[of, place], done.ended[of, place] = nats[over], ended[over]
            done_score[of, place] = nats[over] / length**beam.length_power
            count += np.bincount(of, minlength=items)
            # A hypothesis is dropped if its item has `best` finished ones that it cannot beat: its
            # probability can only fall, and its length is at most the longest allowed.
            bar = -np.partition(-done_score, beam.best - 1, axis=1)[:, beam.best - 1]
        if over.any() or bar.max(initial=-np.inf) > -np.inf:
            on = ~over & (nats / room[item] ** beam.length_power > bar[item])
            item, nats, tokens = item[on], nats[on], tokens[on]
            code, parent = code[on], parent[on]
        if len(item):
            state = model.step(state, parent, code)

    order = np.argsort(-done_score, axis=1, kind="stable")[:, : beam.best]
    at = np.arange(items)[:, None]
    return Found(done.codes[at, order], done.nats[at, order], done.ended[at, order])


def _best(total: np.ndarray, item: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each item the ``places[item]`` best candidates of ``total (rows, candidates)`` among its
    rows, as row and column: items in order, the best first, without those of minus infinity."""
    candidates = total.shape[1]
    if item[0] == item[-1]:  # a single item
        flat, most = total.ravel(), min(int(places[item[0]]), total.size)
        at = np.argpartition(flat, -most)[-most:] if most < total.size else np.arange(most)
        at = at[np.argsort(-flat[at], kind="stable")]
        return np.divmod(at[flat[at] > -np.inf], candidates)
    count = 1 + np.count_nonzero(item[1:] != item[:-1])
    places, each = places[item], len(item) // count
    most = min(int(places[0]), each * candidates)
    alike = (
        (places == places[0]).all()
        and each * count == len(item)
        and (item.reshape(count, each) == item[::each, None]).all()
    )
    if alike:  # all items have as many rows and places: a rectangle, which is faster
        flat = total.reshape(count, -1)
        own = np.arange(count)[:, None]
        if most < flat.shape[1] > 64:  # below that, sorting alone is faster
            at = np.argpartition(flat, -most, axis=1)[:, -most:]
            at = at[own, np.argsort(-flat[own, at], axis=1, kind="stable")]
        else:
            at = np.argsort(-flat, axis=1, kind="stable")[:, :most]
        row, column = np.divmod((at + own * each * candidates).ravel(), candidates)
    else:
        row, column = (index.ravel() for index in np.indices(total.shape))
        order = np.lexsort((column, row, -total[row, column], item[row]))
        row, column = row[order], column[order]
        inside = _rank(item[row]) < places[row]
        row, column = row[inside], column[inside]
    possible = total[row, column] > -np.inf
    return row[possible], column[possible]


def _rank(group: np.ndarray) -> np.ndarray:
    """The place of each entry within its group, from 0; the entries of a group are adjacent."""
    begins = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    length = np.diff(np.append(begins, len(group)))
    return np.arange(len(group)) - np.repeat(begins, length)


def sample(
    model: Model,
    state: Any,
    room: np.ndarray,
    uniform: np.ndarray,
    sampling: Sampling,
    rules: Rules,
) -> Found:
    """Sampling: n sequences of each row of ``state``, drawn with ``uniform (items, n, steps)``.

    ``nats`` are the log-probabilities of the model, whatever tokens ``sampling`` leaves out.
    """
    items, n, steps = uniform.shape
    found = Found(
        np.full((items * n, steps), -1, np.int32), np.zeros(items * n), np.zeros(items * n, bool)
    )
    row, start = np.arange(items * n), np.repeat(np.arange(items), n)
    draws, room = uniform.reshape(items * n, steps), np.repeat(room, n)
    for step in range(steps):
        nats = model.log_probabilities(state)
        if step == 0:  # the sequences of an item share its first state
            nats = nats[start]
        code = _drawn(rules.apply(nats, step), sampling, draws[row, step])
        found.nats[row] += nats[np.arange(len(row)), code]
        ended = code == rules.end
        found.ended[row] = ended
        found.codes[row[~ended], step] = code[~ended]
        on = np.flatnonzero(~ended & (step + 1 < room[row]))
        if not len(on):
            break
        row, state = row[on], model.step(state, on if step else start[on], code[on])
    shape = (items, n)
    return Found(
        found.codes.reshape(*shape, steps), found.nats.reshape(shape), found.ended.reshape(shape)
    )


def _drawn(nats: np.ndarray, sampling: Sampling, uniform: np.ndarray) -> np.ndarray:
    """A code for each row of log-probabilities, by a number between 0 and 1."""
    likely = nats.astype(np.float64) / sampling.temperature
    share = np.exp(likely - likely.max(axis=1, keepdims=True))
    order = np.argsort(-share, axis=1, kind="stable")  # the likeliest first
    share = np.take_along_axis(share, order, axis=1)
    if sampling.top_k is not None:
        share[:, sampling.top_k :] = 0.0
    share /= share.sum(axis=1, keepdims=True)
    before = np.cumsum(share, axis=1) - share
    share = np.where(before < sampling.top_p, share, 0.0)
    reached = np.cumsum(share, axis=1)
    place = (reached <= uniform[:, None] * reached[:, -1:]).sum(axis=1)
    # Rounding may point after the last possible token.
    place = np.minimum(place, (share > 0).sum(axis=1) - 1)
    return order[np.arange(len(order)), place]
