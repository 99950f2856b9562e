"""Baselines for tokens: interpolated n-grams, also with classes of X. NumPy alone.

The probability of a token after a context is a mixture of its relative frequency after this context
and its probability after the context without the oldest token (Witten and Bell 1991). The shorter
context has more weight if the longer one has few counts, or was followed by many different tokens.
The empty context is mixed with the uniform distribution.

With classes, tokens are also counted within each class of X (k-means of the static features), and
the two distributions are mixed. Order, strength, number of classes and the weight of the mixture
are chosen on held-out training items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from statecast.state import outline

_MOST_ORDER = 7  # orders 1 to 7 are tried; the context is one token shorter
_STRENGTHS = (0.25, 0.5, 1.0, 2.0)  # the weights of the shorter context to choose from
_CLASSES = (8, 32, 128)  # the numbers of classes to choose from
_HELD_OUT = 0.1  # the share of the training items that all of these are chosen on


@dataclass(frozen=True, eq=False)
class CodedSequences:
    """Sequences as codes, with the static features of their items.

    Attributes
    ----------
    codes : array of int, ``(items, steps + 1)``
        The tokens, followed by the end. -1 after the end, and for missing tokens.
    x : array, float64, ``(items, n)``
        The static features as numbers.
    """

    codes: np.ndarray
    x: np.ndarray

    __repr__ = outline

    def take(self, items: np.ndarray) -> CodedSequences:
        """The sequences of these items."""
        return CodedSequences(self.codes[items], self.x[items])


def log_likelihoods(
    train: CodedSequences, test: CodedSequences, *, tokens: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """The log-probability of every token of ``test`` by each baseline.

    Parameters
    ----------
    train, test : CodedSequences
    tokens : int
        The number of codes.
    seed : int
        For the choice of the held-out items, and for k-means.

    Returns
    -------
    dict of str to array, float64, ``(items, steps + 1)``
        In nats; NaN at -1. The keys are "unigram" and "n-gram", and with static features also
        "n-gram by classes of X".
    """
    rng = np.random.default_rng([seed, 5])
    held_out = rng.random(len(train.codes)) < _HELD_OUT
    if not held_out.any() or held_out.all():
        held_out = np.arange(len(train.codes)) % 2 == 1
    fit, validation = train.take(~held_out), train.take(held_out)

    def best(classes: tuple[np.ndarray, np.ndarray] | None) -> tuple[int, float]:
        """The order and the strength with the highest validation likelihood."""
        tried = {
            (order, strength): np.nanmean(nats)
            for strength in _STRENGTHS
            for order, nats in enumerate(
                interpolated(
                    fit,
                    validation,
                    tokens=tokens,
                    order=_MOST_ORDER,
                    strength=strength,
                    classes=classes,
                ),
                1,
            )
        }
        return max(tried, key=tried.__getitem__)

    def of_order(
        train: CodedSequences,
        test: CodedSequences,
        chosen: tuple[int, float],
        classes: tuple[np.ndarray, np.ndarray] | None,
    ) -> list[np.ndarray]:
        order, strength = chosen
        return interpolated(
            train, test, tokens=tokens, order=order, strength=strength, classes=classes
        )

    chosen = best(None)
    plain = of_order(train, test, chosen, None)
    results = {"unigram": plain[0], "n-gram": plain[-1]}
    if not train.x.shape[1]:
        return results
    without = of_order(fit, validation, chosen, None)[-1]
    options = []
    for count in _CLASSES:
        centres = _centres(train.x, min(count, len(train.x)), rng)
        classes = _nearest(fit.x, centres), _nearest(validation.x, centres)
        within_chosen = best(classes)
        within = of_order(fit, validation, within_chosen, classes)[-1]
        weight = _mixture_weight(without, within)
        score = np.nanmean(_mixture(without, within, weight))
        options.append((score, centres, within_chosen, weight))
    _, centres, within_chosen, weight = max(options, key=lambda option: option[0])
    classes = _nearest(train.x, centres), _nearest(test.x, centres)
    within = of_order(train, test, within_chosen, classes)[-1]
    results["n-gram by classes of X"] = _mixture(results["n-gram"], within, weight)
    return results


def interpolated(
    train: CodedSequences,
    test: CodedSequences,
    *,
    tokens: int,
    order: int,
    strength: float,
    classes: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[np.ndarray]:
    """The log-probability of every token of ``test`` by the n-gram of each order.

    Parameters
    ----------
    train, test : CodedSequences
        Tokens are counted in ``train``.
    tokens : int
        The number of codes.
    order : int
        The highest order; the context is one token shorter.
    strength : float
        The weight of the shorter context, in counts per different token that followed the context.
    classes : tuple of two arrays of int, ``(items,)``, optional
        The class of each item of ``train`` and of ``test``; tokens are counted within each class.

    Returns
    -------
    list of array, float64, ``(items, steps + 1)``
        In nats, for the orders 1, 2, ..., ``order``; NaN at -1.
    """
    steps = max(train.codes.shape[1], test.codes.shape[1])
    codes = np.concatenate(
        [
            np.pad(part.codes, [(0, 0), (0, steps - part.codes.shape[1])], constant_values=-1)
            for part in (train, test)
        ]
    )
    row, step = np.nonzero(codes >= 0)
    token, in_training = codes[row, step], row < len(train.codes)
    padded = np.pad(codes, [(0, 0), (order - 1, 0)], constant_values=-1)
    context = np.zeros(len(row), np.int64)  # the index of the context
    if classes is not None:
        context = np.concatenate(classes)[row].astype(np.int64)
    probability, results = np.full(len(row), 1 / tokens), []
    for length in range(order):
        if length:  # the context with one older token
            older = padded[row, step + order - 1 - length] + 1
            context = np.unique(context * (tokens + 1) + older, return_inverse=True)[1].ravel()
        pair = np.unique(context * tokens + token, return_inverse=True)[1].ravel()
        count = np.bincount(pair[in_training], minlength=pair.max() + 1)
        total = np.bincount(context[in_training], minlength=context.max() + 1)
        context_of_pair = np.zeros(len(count), np.int64)
        context_of_pair[pair] = context
        different = np.bincount(context_of_pair[count > 0], minlength=len(total))
        weight = strength * different[context]
        divisor = total[context] + weight
        mixed = (count[pair] + weight * probability) / np.maximum(divisor, 1e-300)
        # A context that training does not have: the probability of the shorter context.
        probability = np.where(divisor > 0, mixed, probability)
        nats = np.full(codes.shape, np.nan)
        nats[row, step] = np.log(probability)
        results.append(nats[len(train.codes) :, : test.codes.shape[1]])
    return results


def _mixture(first: np.ndarray, second: np.ndarray, weight: float) -> np.ndarray:
    """The log-probability of a mixture of two distributions; the second one has ``weight``."""
    return np.log((1 - weight) * np.exp(first) + weight * np.exp(second))


def _mixture_weight(first: np.ndarray, second: np.ndarray) -> float:
    """The weight of the second distribution that maximises the likelihood of the mixture.

    It is found by expectation-maximisation.
    """
    present = ~np.isnan(first)
    odds, weight = second[present] - first[present], 0.5
    for _ in range(30):
        weight = float(np.mean(1 / (1 + (1 - weight) / weight * np.exp(-odds))))
        weight = min(max(weight, 1e-6), 1 - 1e-6)
    return weight


def _centres(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The centres of k-means (Lloyd 1982), starting at random items."""
    centres = x[rng.choice(len(x), count, replace=False)].astype(np.float64)
    for _ in range(20):
        near = _nearest(x, centres)
        size = np.bincount(near, minlength=count)
        for column in range(x.shape[1]):
            total = np.bincount(near, x[:, column], minlength=count)
            centres[:, column] = np.where(size > 0, total / np.maximum(size, 1), centres[:, column])
    return centres


def _nearest(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The index of the centre nearest to each item."""
    out = np.empty(len(x), np.int64)
    for start in range(0, len(x), 4096):  # a bound on memory
        part = x[start : start + 4096]
        distance = (centres**2).sum(axis=1) - 2 * part @ centres.T
        out[start : start + 4096] = distance.argmin(axis=1)
    return out
