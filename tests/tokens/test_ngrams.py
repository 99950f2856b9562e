"""N-grams: probabilities add up to one, equal a count by hand, and use training items only."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from statecast.tokens.ngrams import CodedSequences, interpolated, log_likelihoods

TOKENS = 4


def _coded(seed: int, items: int, steps: int = 6, missing: float = 0.1) -> CodedSequences:
    """Random sequences of unlike lengths, with missing tokens, and two static features."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(TOKENS, (items, steps), p=[0.5, 0.3, 0.15, 0.05])
    codes[rng.random(codes.shape) < missing] = -1
    codes[np.arange(steps) >= rng.integers(1, steps + 1, items)[:, None]] = -1
    return CodedSequences(codes, rng.normal(size=(items, 2)))


def _reference(
    train: np.ndarray, sequence: np.ndarray, step: int, token: int, order: int, strength: float
) -> float:
    """A probability by the recursion of Witten and Bell, counted one token at a time."""
    probability = 1 / TOKENS
    for length in range(order):
        context = [sequence[s] if s >= 0 else -1 for s in range(step - length, step)]
        followed: Counter[int] = Counter()
        for other in train:
            for at, code in enumerate(other):
                if code >= 0 and context == [
                    other[s] if s >= 0 else -1 for s in range(at - length, at)
                ]:
                    followed[int(code)] += 1
        weight = strength * len(followed)
        if followed:
            probability = (followed[token] + weight * probability) / (followed.total() + weight)
    return probability


def test_the_probabilities_are_those_counted_by_hand():
    train, test = _coded(0, 12), _coded(1, 5, steps=8)
    found = interpolated(train, test, tokens=TOKENS, order=4, strength=0.7)
    assert len(found) == 4
    for order, nats in enumerate(found, 1):
        expected = np.full(test.codes.shape, np.nan)
        for item, step in np.argwhere(test.codes >= 0):
            sequence = test.codes[item]
            expected[item, step] = np.log(
                _reference(train.codes, sequence, step, int(sequence[step]), order, 0.7)
            )
        np.testing.assert_allclose(nats, expected, rtol=1e-12)


def test_a_unigram_is_the_counts_with_a_share_of_the_uniform_distribution():
    # 0 three times, 1 twice, 2 once; 3 never. Strength 0.5 and three different tokens: 1.5.
    train = CodedSequences(np.array([[0, 0, 1, -1], [0, 1, -1, 2]]), np.zeros((2, 0)))
    test = CodedSequences(np.array([[0, 1, 2, 3]]), np.zeros((1, 0)))
    (nats,) = interpolated(train, test, tokens=4, order=1, strength=0.5)
    expected = (np.array([[3, 2, 1, 0]]) + 1.5 / 4) / 7.5
    np.testing.assert_allclose(np.exp(nats), expected, rtol=1e-14)


@pytest.mark.parametrize("classes", [False, True])
def test_the_probabilities_of_all_tokens_sum_to_1_after_every_context(classes):
    train, test = _coded(2, 30), _coded(3, 9)
    given = (np.arange(30) % 3, np.arange(9) % 4) if classes else None  # class 3 is not in train
    for step in range(test.codes.shape[1]):
        total = np.zeros((4, len(test.codes)))
        for token in range(TOKENS):
            codes = test.codes.copy()
            codes[:, step] = token
            other = CodedSequences(codes, test.x)
            found = interpolated(train, other, tokens=TOKENS, order=4, strength=1.0, classes=given)
            total += np.exp([nats[:, step] for nats in found])
        np.testing.assert_allclose(total, 1.0, rtol=1e-12)


@pytest.mark.parametrize("features", [0, 2])
def test_each_baseline_is_a_distribution(features):
    """With the settings that ``log_likelihoods`` chooses, too."""
    train, test = _coded(4, 40), _coded(5, 7)
    train = CodedSequences(train.codes, train.x[:, :features])
    total: dict[str, Any] = {}
    for last in range(TOKENS):
        codes = test.codes.copy()
        codes[:, -1] = last
        found = log_likelihoods(train, CodedSequences(codes, test.x[:, :features]), tokens=TOKENS)
        for name, nats in found.items():
            total[name] = total.get(name, 0) + np.exp(nats[:, -1])
    names = {"unigram", "n-gram"} | ({"n-gram by classes of X"} if features else set())
    assert set(total) == names
    for name, sums in total.items():
        np.testing.assert_allclose(sums, 1, rtol=1e-12, err_msg=name)


def test_after_a_context_that_training_does_not_have_the_lower_order_counts():
    train = CodedSequences(np.array([[0, 1, 2], [0, 1, 0]]), np.zeros((2, 0)))
    test = CodedSequences(np.array([[2, 1, 0], [0, 1, 0]]), np.zeros((2, 0)))
    one, two, three = interpolated(train, test, tokens=TOKENS, order=3, strength=1.0)
    assert three[0, 2] == two[0, 2]  # (2, 1) is not in train, (1) is
    assert two[0, 1] == one[0, 1]  # (2) has no token after it in train
    assert three[1, 2] != two[1, 2]
    assert two[1, 2] != one[1, 2]


def test_by_classes_each_item_is_counted_in_its_own_class_alone():
    train, test = _coded(6, 24), _coded(7, 8)
    classes = np.arange(24) % 3, np.arange(8) % 4
    found = interpolated(train, test, tokens=TOKENS, order=3, strength=0.5, classes=classes)
    for number in range(4):
        own = classes[1] == number
        expected = interpolated(
            train.take(classes[0] == number),
            test.take(own),
            tokens=TOKENS,
            order=3,
            strength=0.5,
        )
        for nats, alone in zip(found, expected, strict=True):
            np.testing.assert_array_equal(nats[own], alone)
    uniform = np.where(test.codes < 0, np.nan, -np.log(TOKENS))[classes[1] == 3]
    np.testing.assert_allclose(found[-1][classes[1] == 3], uniform)  # a class not in train


def test_the_order_of_the_items_does_not_matter():
    train, test = _coded(8, 20), _coded(9, 6)
    rng = np.random.default_rng(0)
    others, mixed = rng.permutation(20), rng.permutation(6)
    found = interpolated(train, test, tokens=TOKENS, order=3, strength=1.0)
    other = interpolated(train.take(others), test.take(mixed), tokens=TOKENS, order=3, strength=1.0)
    for nats, again in zip(found, other, strict=True):
        np.testing.assert_array_equal(nats[mixed], again)


def test_a_test_item_does_not_depend_on_the_others():
    train, test = _coded(10, 30), _coded(11, 9)
    together = log_likelihoods(train, test, tokens=TOKENS)
    for item in range(9):
        alone = log_likelihoods(train, test.take(np.array([item])), tokens=TOKENS)
        for name, nats in together.items():
            np.testing.assert_allclose(nats[item], alone[name][0], rtol=1e-12)


def test_longer_contexts_and_classes_gain_where_they_tell_the_token():
    codes = np.array([[2, 3, 2, 1], [3, 2, 3, 1]] * 30)
    x = np.array([[0.0], [1.0]] * 30)
    found = log_likelihoods(CodedSequences(codes, x), CodedSequences(codes[:2], x[:2]), tokens=4)
    mean = {name: nats.mean() for name, nats in found.items()}
    assert mean["unigram"] < mean["n-gram"] < mean["n-gram by classes of X"]
