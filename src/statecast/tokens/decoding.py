"""Decoding: from a model of the next token to complete sequences, by beam search or by sampling.

It uses NumPy only. A model returns the log-probabilities of the next token for each row of a state,
or those of the most probable tokens, and the state after a token. The rows of a batch are the
hypotheses of all items. The result of an item does not depend on other items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from statecast.checks import check_number, check_whole
from statecast.state import outline

_WIDEST = 10_000  # a wider beam is likely a typing error


class Model(Protocol):
    """A model of the next token. Its states may have any type: decoding does not read them.

    Examples
    --------
    >>> import numpy as np
    >>> class Coin:  # tokens 0 and 1, and 2 for the end; its state is the number of rows
    ...     def log_probabilities(self, state):
    ...         return np.log(np.tile([0.2, 0.5, 0.3], (state, 1)))
    ...     def likeliest(self, state, most, allowed):
    ...         return likeliest(self.log_probabilities(state), most, allowed)
    ...     def step(self, state, rows, codes):
    ...         return len(rows)
    >>> rules = Rules(np.array([True, True, True]), (), 2)
    >>> Coin().log_probabilities(1).shape
    (1, 3)
    """

    def log_probabilities(self, state: Any) -> np.ndarray:
        """The log-probabilities of the next token, float ``(rows, tokens)``."""
        ...

    def likeliest(
        self, state: Any, most: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The most probable of the ``allowed`` tokens; see the function ``likeliest``."""
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
    """Beam search for the most probable sequences; with a width of 1 it is a greedy search.

    At each step the ``width`` most probable hypotheses of an item are kept. A hypothesis that ends
    is removed from the beam, and the width decreases by one. If the width is at least the number of
    possible sequences, the search is exact.

    Parameters
    ----------
    width : int
        The number of hypotheses kept for each item, from 1 to 10,000.
    best : int
        The number of sequences returned, from 1 to ``width``; the best comes first.
    length_power : float
        From 0 to 10. Sequences are ranked by log-probability divided by
        ``length ** length_power``, where the end counts as a token. 0 ranks by probability, and 1
        by the mean log-probability of a token. A larger power favours longer sequences (Wu et al.
        2016).
    forbidden : sequence of tokens
        Tokens that are not generated.
    required : sequence of tokens
        The first tokens after the prefix.

    Raises
    ------
    ArgumentError
        A value outside its range.

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
    """Draw each token from the model's distribution, or from its most probable tokens.

    Parameters
    ----------
    temperature : float
        The log-probabilities are divided by it. Below 1, probable tokens become more probable.
    top_k : int, optional
        Draw from the ``top_k`` most probable tokens only.
    top_p : float
        Draw from the smallest set of most probable tokens whose probabilities add up to at least
        ``top_p`` (nucleus sampling: Holtzman et al. 2020). It is applied after ``temperature`` and
        ``top_k``.
    forbidden, required : sequence of tokens
        As in ``Beam``.

    Raises
    ------
    ArgumentError
        ``temperature`` not above 0, ``top_k`` below 1, or ``top_p`` not above 0 and up to 1.

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
    """The tokens that may be generated, as codes.

    Attributes
    ----------
    allowed : array of bool, ``(tokens,)``
        The tokens, and the end, that are allowed after the required tokens.
    required : tuple of int
        The first tokens.
    end : int
        The code of the end.

    Examples
    --------
    >>> import numpy as np
    >>> rules = Rules(np.array([True, False, True]), required=(1,), end=2)
    >>> nats = np.log(np.full((1, 3), 1 / 3))
    >>> [np.exp(rules.apply(nats, step)).round(2).tolist() for step in (0, 1)]
    [[[0.0, 0.33, 0.0]], [[0.33, 0.0, 0.33]]]
    """

    allowed: np.ndarray
    required: tuple[int, ...]
    end: int

    __repr__ = outline

    def apply(self, nats: np.ndarray, step: int) -> np.ndarray:
        """The log-probabilities ``nats``, with minus infinity for tokens that are not allowed at
        ``step``, which is counted from 0."""
        if step >= len(self.required):
            return nats + self._added
        only = np.full_like(nats, -np.inf)
        only[:, self.required[step]] = nats[:, self.required[step]]
        return only

    @cached_property
    def _added(self) -> np.ndarray:
        return np.where(self.allowed, 0.0, -np.inf).astype(np.float32)


def likeliest(nats: np.ndarray, most: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most probable tokens of each row.

    Parameters
    ----------
    nats : array, ``(rows, tokens)``
        Log-probabilities.
    most : int
        The number of tokens to return for each row, at most ``tokens``.
    allowed : array of bool, ``(tokens,)``

    Returns
    -------
    codes, nats : arrays, ``(rows, most)``
        Not sorted. If fewer tokens are allowed, the log-probabilities of the others are minus
        infinity.

    Examples
    --------
    >>> import numpy as np
    >>> codes, nats = likeliest(np.log([[0.2, 0.5, 0.3]]), 1, np.array([True, True, True]))
    >>> codes.tolist(), np.exp(nats).round(2).tolist()
    ([[1]], [[0.5]])
    """
    nats = np.where(allowed, nats, -np.inf)
    if most < nats.shape[1]:
        codes = np.argpartition(nats, -most, axis=1)[:, -most:]
    else:
        codes = np.broadcast_to(np.arange(most), nats.shape)
    return codes, np.take_along_axis(nats, codes, axis=1)


@dataclass(frozen=True)
class Found:
    """Decoded sequences.

    Attributes
    ----------
    codes : array of int, ``(items, n, steps)``
        -1 after the last token.
    nats : array, float64, ``(items, n)``
        Log-probabilities; that of the end is included if the sequence ended.
    ended : array of bool, ``(items, n)``

    Examples
    --------
    >>> import numpy as np
    >>> class Coin:  # tokens 0 and 1, and 2 for the end; its state is the number of rows
    ...     def log_probabilities(self, state):
    ...         return np.log(np.tile([0.2, 0.5, 0.3], (state, 1)))
    ...     def likeliest(self, state, most, allowed):
    ...         return likeliest(self.log_probabilities(state), most, allowed)
    ...     def step(self, state, rows, codes):
    ...         return len(rows)
    >>> rules = Rules(np.array([True, True, True]), (), 2)
    >>> found = search(Coin(), 1, np.array([2]), Beam(4), rules)
    >>> found.codes.tolist(), found.ended.tolist()
    ([[[-1, -1]]], [[True]])
    """

    codes: np.ndarray
    nats: np.ndarray
    ended: np.ndarray

    __repr__ = outline


def search(model: Model, state: Any, room: np.ndarray, beam: Beam, rules: Rules) -> Found:
    """Beam search: the ``beam.best`` best sequences of each row of ``state``.

    Parameters
    ----------
    model : Model
    state : Any
        A state of the model with a row for each item.
    room : array of int, ``(items,)``
        The most steps of each item's sequences; the end takes one step.
    beam : Beam
    rules : Rules

    Returns
    -------
    Found
        The best sequences first. If the search found fewer, the others are empty, with a
        log-probability of minus infinity.

    Examples
    --------
    >>> import numpy as np
    >>> class Coin:  # tokens 0 and 1, and 2 for the end; its state is the number of rows
    ...     def log_probabilities(self, state):
    ...         return np.log(np.tile([0.2, 0.5, 0.3], (state, 1)))
    ...     def likeliest(self, state, most, allowed):
    ...         return likeliest(self.log_probabilities(state), most, allowed)
    ...     def step(self, state, rows, codes):
    ...         return len(rows)
    >>> rules = Rules(np.array([True, True, True]), (), 2)
    >>> found = search(Coin(), 1, np.array([3]), Beam(9, best=2), rules)
    >>> found.codes[0].tolist(), np.exp(found.nats[0]).round(3).tolist()
    ([[-1, -1, -1], [1, -1, -1]], [0.3, 0.15])
    """
    items, width, steps = len(room), beam.width, int(room.max(initial=0))
    done = Found(
        np.full((items, width, steps), -1, np.int32),
        np.full((items, width), -np.inf),
        np.zeros((items, width), bool),
    )
    done_score, count = np.full((items, width), -np.inf), np.zeros(items, int)

    # The unfinished hypotheses, one for each row of the state. Those of an item are adjacent, with
    # the best first.
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
            # A finished sequence is stored at the next free index of its item.
            of, length = item[over], step + 1
            place = count[of] + _rank(of)
            kept = np.where(ended[over, None] & (np.arange(length) == step), -1, tokens[over])
            done.codes[of, place, :length] = kept
            done.nats[of, place], done.ended[of, place] = nats[over], ended[over]
            done_score[of, place] = nats[over] / length**beam.length_power
            count += np.bincount(of, minlength=items)
            # A hypothesis is dropped if it cannot become better than `best` finished ones of its
            # item: its probability cannot rise, and its length is at most `room`.
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
    """The best candidates of each item.

    ``total (rows, candidates)`` are scores; ``item (rows,)`` is the item of each row, in increasing
    order. Returns the rows and columns of the ``places[item]`` best candidates of each item, by
    item and with the best first. Candidates of minus infinity are left out.
    """
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
    if alike:  # all items have the same numbers of rows and places: this is faster
        flat = total.reshape(count, -1)
        which = np.arange(count)[:, None]
        if most < flat.shape[1] > 64:  # for fewer candidates, sorting alone is faster
            at = np.argpartition(flat, -most, axis=1)[:, -most:]
            at = at[which, np.argsort(-flat[which, at], axis=1, kind="stable")]
        else:
            at = np.argsort(-flat, axis=1, kind="stable")[:, :most]
        row, column = np.divmod((at + which * each * candidates).ravel(), candidates)
    else:
        row, column = (index.ravel() for index in np.indices(total.shape))
        order = np.lexsort((column, row, -total[row, column], item[row]))
        row, column = row[order], column[order]
        inside = _rank(item[row]) < places[row]
        row, column = row[inside], column[inside]
    possible = total[row, column] > -np.inf
    return row[possible], column[possible]


def _rank(group: np.ndarray) -> np.ndarray:
    """The index of each entry within its group, from 0; the entries of a group are adjacent."""
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
    """Sampling: n sequences of each row of ``state``.

    Parameters
    ----------
    model, state, room, rules
        As in ``search``.
    uniform : array, float64, ``(items, n, steps)``
        Uniform draws between 0 and 1.
    sampling : Sampling

    Returns
    -------
    Found
        The log-probabilities are those of the model, without the changes by ``sampling``.

    Examples
    --------
    >>> import numpy as np
    >>> class Coin:  # tokens 0 and 1, and 2 for the end; its state is the number of rows
    ...     def log_probabilities(self, state):
    ...         return np.log(np.tile([0.2, 0.5, 0.3], (state, 1)))
    ...     def likeliest(self, state, most, allowed):
    ...         return likeliest(self.log_probabilities(state), most, allowed)
    ...     def step(self, state, rows, codes):
    ...         return len(rows)
    >>> rules = Rules(np.array([True, True, True]), (), 2)
    >>> drawn = sample(Coin(), 1, np.array([3]), np.full((1, 1, 3), 0.3), Sampling(), rules)
    >>> drawn.codes.tolist()
    [[[1, 1, 1]]]
    """
    items, n, steps = uniform.shape
    found = Found(
        np.full((items * n, steps), -1, np.int32), np.zeros(items * n), np.zeros(items * n, bool)
    )
    row, start = np.arange(items * n), np.repeat(np.arange(items), n)
    draws, room = uniform.reshape(items * n, steps), np.repeat(room, n)
    for step in range(steps):
        nats = model.log_probabilities(state)
        if step == 0:  # all sequences of an item start from the same row of the state
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
    """Draw a code for each row of log-probabilities, by a uniform number between 0 and 1."""
    likely = nats.astype(np.float64) / sampling.temperature
    share = np.exp(likely - likely.max(axis=1, keepdims=True))
    order = np.argsort(-share, axis=1, kind="stable")  # the most probable first
    share = np.take_along_axis(share, order, axis=1)
    if sampling.top_k is not None:
        share[:, sampling.top_k :] = 0.0
    share /= share.sum(axis=1, keepdims=True)
    before = np.cumsum(share, axis=1) - share
    share = np.where(before < sampling.top_p, share, 0.0)
    reached = np.cumsum(share, axis=1)
    place = (reached <= uniform[:, None] * reached[:, -1:]).sum(axis=1)
    # By rounding, the index may be beyond the last possible token.
    place = np.minimum(place, (share > 0).sum(axis=1) - 1)
    return order[np.arange(len(order)), place]
