"""Baselines for tokens: interpolated n-grams, also with classes of X. NumPy alone.

The probability of a token after a context is its relative frequency there, mixed with its
probability after the context without the oldest token (Witten and Bell 1991). The fewer counts a
context has, and the more different tokens followed it, the more weight the shorter context has. The
empty context is mixed with the uniform distribution.

With classes, the same is counted within each class of X (k-means of the static features), and the
two distributions are mixed. The weight is chosen on training items set aside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from statecast.state import outline

_ORDERS = (2, 3, 4, 5, 6, 7)  # the orders to choose from: length of the context, and 1
_STRENGTHS = (0.25, 0.5, 1.0, 2.0)  # the weights of the shorter context to choose from
_CLASSES = (8, 32, 128)  # the numbers of classes to choose from
_ASIDE = 0.1  # share of the training items that all of these are chosen on


@dataclass(frozen=True, eq=False)
class CodedSequences:
    """Sequences in codes, with the static features of their items.

    Attributes
    ----------
    codes : array of int, ``(items, steps + 1)``
        The end stands after the last token. -1 stands after the end, and for missing tokens.
    x : array, ``(items, n)``
    """

    codes: np.ndarray
    x: np.ndarray

    __repr__ = outline

    def take(self, items: np.ndarray) -> CodedSequences:
        """Some items."""
        return CodedSequences(self.codes[items], self.x[items])


def log_likelihoods(
    train: CodedSequences, test: CodedSequences, *, tokens: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """The log-probability of every token of ``test`` by each baseline, in nats; NaN where there is
    no token.

    Parameters
    ----------
    train, test : CodedSequences
    tokens : int
        The number of codes.
    seed : int
        For the choice of the items set aside, and for the classes.

    Returns
    -------
    dict of str to array, float64, ``(items, steps + 1)``
        ``"unigram"``; ``"n-gram"``; with static features also ``"n-gram by classes of X"``.
    """
    rng = np.random.default_rng([seed, 5])
    aside = rng.random(len(train.codes)) < _ASIDE
    if not aside.any() or aside.all():
        aside = np.arange(len(train.codes)) % 2 == 1
    learn, held = train.take(~aside), train.take(aside)

    def best(group: tuple[np.ndarray, np.ndarray] | None) -> tuple[int, float]:
        tried = {
            (order, strength): np.nanmean(nats)
            for strength in _STRENGTHS
            for order, nats in enumerate(
                _counted(learn, held, tokens, max(_ORDERS), strength, group), 1
            )
        }
        return max(tried, key=tried.__getitem__)

    order, strength = best(None)
    plain = _counted(train, test, tokens, order, strength, None)
    found = {"unigram": plain[0], "n-gram": plain[-1]}
    if not train.x.shape[1]:
        return found
    before = _counted(learn, held, tokens, order, strength, None)[-1]
    options = []
    for count in _CLASSES:
        centres = _centres(train.x, min(count, len(train.x)), rng)
        groups = [_nearest(part.x, centres) for part in (learn, held)]
        own = best((groups[0], groups[1]))
        within = _counted(learn, held, tokens, own[0], own[1], (groups[0], groups[1]))[-1]
        share = _share(before, within)
        score = np.nanmean(_mixed(before, within, share))
        options.append((score, count, centres, own, share))
    _, _, centres, own, share = max(options, key=lambda each: each[0])
    group = _nearest(train.x, centres), _nearest(test.x, centres)
    within = _counted(train, test, tokens, own[0], own[1], group)[-1]
    found["n-gram by classes of X"] = _mixed(found["n-gram"], within, share)
    return found


def _counted(
    train: CodedSequences,
    test: CodedSequences,
    tokens: int,
    order: int,
    strength: float,
    group: tuple[np.ndarray, np.ndarray] | None,
) -> list[np.ndarray]:
    """Log-probabilities ``(items, steps + 1)`` of ``test`` by each order up to ``order``."""
    steps = max(train.codes.shape[1], test.codes.shape[1])
    codes = np.concatenate(
        [
            np.pad(part.codes, [(0, 0), (0, steps - part.codes.shape[1])], constant_values=-1)
            for part in (train, test)
        ]
    )
    row, at = np.nonzero(codes >= 0)
    token, learnt = codes[row, at], row < len(train.codes)
    before = np.pad(codes, [(0, 0), (order - 1, 0)], constant_values=-1)
    context = np.zeros(len(row), np.int64)
    if group is not None:
        context = np.concatenate(group)[row].astype(np.int64)
    share, answers = np.full(len(row), 1 / tokens), []
    for length in range(order):
        if length:  # the context with one older token
            older = before[row, at + order - 1 - length] + 1
            context = np.unique(context * (tokens + 1) + older, return_inverse=True)[1].ravel()
        pair = np.unique(context * tokens + token, return_inverse=True)[1].ravel()
        count = np.bincount(pair[learnt], minlength=pair.max() + 1)
        total = np.bincount(context[learnt], minlength=context.max() + 1)
        of = np.zeros(len(count), np.int64)
        of[pair] = context
        kinds = np.bincount(of[count > 0], minlength=len(total))
        weight = strength * kinds[context]
        there = total[context] + weight
        mixed = (count[pair] + weight * share) / np.maximum(there, 1e-300)
        share = np.where(there > 0, mixed, share)
        nats = np.full(codes.shape, np.nan)
        nats[row, at] = np.log(share)
        answers.append(nats[len(train.codes) :, : test.codes.shape[1]])
    return answers


def _mixed(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """The logarithm of a mixture in which the second has this weight."""
    return np.log((1 - share) * np.exp(first) + share * np.exp(second))


def _share(first: np.ndarray, second: np.ndarray) -> float:
    """The weight of the second in the likeliest mixture, by expectation-maximisation."""
    there = ~np.isnan(first)
    odds, share = second[there] - first[there], 0.5
    for _ in range(30):
        share = float(np.mean(1 / (1 + (1 - share) / share * np.exp(-odds))))
        share = min(max(share, 1e-6), 1 - 1e-6)
    return share


def _centres(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The centres of k-means (Lloyd 1982), started at random items."""
    centres = x[rng.choice(len(x), count, replace=False)].astype(np.float64)
    for _ in range(20):
        near = _nearest(x, centres)
        size = np.bincount(near, minlength=count)
        for column in range(x.shape[1]):
            total = np.bincount(near, x[:, column], minlength=count)
            centres[:, column] = np.where(size > 0, total / np.maximum(size, 1), centres[:, column])
    return centres


def _nearest(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest centre of each item."""
    out = np.empty(len(x), np.int64)
    for part in range(0, len(x), 4096):
        some = x[part : part + 4096]
        distance = (centres**2).sum(axis=1) - 2 * some @ centres.T
        out[part : part + 4096] = distance.argmin(axis=1)
    return out
