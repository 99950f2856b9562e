"""Decoding is exact: a beam of one is greedy, one as wide as there are sequences is exhaustive."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from statecast.errors import ArgumentError
from statecast.tokens.decoding import Beam, Rules, Sampling, likeliest, sample, search

END, TOKENS = 1, 4


class Table:
    """A model whose next token hangs on the two before it; a state is those two."""

    def __init__(self, seed: int) -> None:
        raw = np.random.default_rng(seed).normal(size=(TOKENS, TOKENS, TOKENS)) * 2
        self.nats = raw - np.log(np.exp(raw).sum(-1, keepdims=True))

    def log_probabilities(self, state: np.ndarray) -> np.ndarray:
        return self.nats[state[:, 0], state[:, 1]]

    def likeliest(self, state: np.ndarray, most: int, allowed: np.ndarray) -> Any:
        return likeliest(self.log_probabilities(state), most, allowed)

    def step(self, state: np.ndarray, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return np.stack([state[rows, 1], codes], axis=1)


def rules(forbidden: Any = (), required: Any = ()) -> Rules:
    allowed = np.ones(TOKENS, bool)
    allowed[list(forbidden)] = False
    return Rules(allowed, tuple(required), END)


def exhaustive(model: Table, state: Any, room: int, beam: Beam, how: Rules) -> list[Any]:
    """Every sequence of at most ``room`` steps, the end one of them: score, tokens, ended."""
    found = []
    for length in range(1, room + 1):
        for codes in product(range(TOKENS), repeat=length):
            ended = codes[-1] == END
            if END in codes[:-1] or (length < room and not ended):
                continue
            at, nats = state[None], 0.0
            for step, code in enumerate(codes):
                nats += how.apply(model.log_probabilities(at), step)[0, code]
                at = model.step(at, np.array([0]), np.array([code]))
            if nats > -np.inf:
                score = nats / length**beam.length_power
                found.append((score, codes[: length - ended], ended, nats))
    return sorted(found, key=lambda each: -each[0])


seeds = st.integers(0, 10_000)
rooms = st.lists(st.integers(1, 4), min_size=1, max_size=3)
constraints = st.sampled_from([{}, {"forbidden": [0]}, {"required": [2]}, {"required": [3, 0]}])


def sequences_of(found: Any, item: int) -> list[tuple[int, ...]]:
    return [tuple(codes[codes >= 0].tolist()) for codes in found.codes[item]]


@given(seeds, rooms, st.sampled_from([0.0, 0.7, 1.0]), constraints)
@example(147, [4], 0.0, {})  # equal scores
def test_a_beam_with_room_for_all_sequences_is_exhaustive(seed, rooms, power, constraint):
    model, how = Table(seed), rules(**constraint)
    state = np.random.default_rng(seed).integers(0, TOKENS, (len(rooms), 2))
    beam = Beam(TOKENS**4, best=5, length_power=power)
    found = search(model, state, np.array(rooms), beam, how)
    for item, room in enumerate(rooms):
        every = exhaustive(model, state[item], room, beam, how)
        count = min(5, len(every))
        got = list(zip(sequences_of(found, item), found.ended[item].tolist(), strict=True))[:count]
        assert len({*got}) == count
        by_sequence = {(codes, ended): (score, nats) for score, codes, ended, nats in every}
        # Sequences with equal scores, up to rounding, may be in any order.
        scores = [by_sequence[each][0] for each in got]
        np.testing.assert_allclose(scores, [score for score, *_ in every[:count]])
        np.testing.assert_allclose(found.nats[item, :count], [by_sequence[each][1] for each in got])
        assert (found.nats[item, count:] == -np.inf).all()


@given(seeds, rooms, st.sampled_from([0.0, 1.0]), constraints)
def test_a_beam_of_one_is_greedy(seed, rooms, power, constraint):
    model, how = Table(seed), rules(**constraint)
    state = np.random.default_rng(seed).integers(0, TOKENS, (len(rooms), 2))
    found = search(model, state, np.array(rooms), Beam(1, length_power=power), how)
    for item, room in enumerate(rooms):
        at, codes = state[item : item + 1], []
        while len(codes) < room and END not in codes:
            nats = how.apply(model.log_probabilities(at), len(codes))
            codes.append(int(nats.argmax()))
            at = model.step(at, np.array([0]), np.array(codes[-1:]))
        assert sequences_of(found, item) == [tuple(code for code in codes if code != END)]
        assert found.ended[item, 0] == (END in codes)


@given(seeds, st.integers(2, 6))
def test_the_search_of_an_item_does_not_depend_on_others(seed, width):
    model, rng = Table(seed), np.random.default_rng(seed)
    state, room = rng.integers(0, TOKENS, (5, 2)), rng.integers(1, 6, 5)
    beam = Beam(width, best=2)
    together = search(model, state, room, beam, rules())
    for item in range(5):
        alone = search(model, state[[item]], room[[item]], beam, rules())
        assert sequences_of(alone, 0) == sequences_of(together, item)
        np.testing.assert_array_equal(alone.nats[0], together.nats[item])


@given(seeds)
def test_a_wider_beam_returns_its_best_hypotheses(seed):
    """As many as asked for, distinct, the best first, and scored as the model scores them."""
    model = Table(seed)
    found = search(model, np.array([[0, 2]]), np.array([6]), Beam(8, best=8), rules())
    codes = sequences_of(found, 0)
    assert len(set(zip(codes, found.ended[0].tolist(), strict=True))) == 8
    assert (np.diff(found.nats[0]) <= 0).all()
    for each, nats, ended in zip(codes, found.nats[0], found.ended[0], strict=True):
        at, total = np.array([[0, 2]]), 0.0
        for code in [*each, END] if ended else each:
            total += model.log_probabilities(at)[0, code]
            at = model.step(at, np.array([0]), np.array([code]))
        assert nats == pytest.approx(total)


@given(seeds)
def test_samples_come_as_often_as_they_are_probable(seed):
    model, many = Table(seed), 4000
    uniform = np.random.default_rng(seed).random((1, many, 1))
    found = sample(model, np.array([[2, 0]]), np.array([1]), uniform, Sampling(), rules())
    code = np.where(found.ended[0], END, found.codes[0, :, 0])
    share = np.bincount(code, minlength=TOKENS) / many
    expected = np.exp(model.log_probabilities(np.array([[2, 0]]))[0])
    # Five standard deviations of a share of so many.
    assert (abs(share - expected) <= 5 * np.sqrt(expected * (1 - expected) / many) + 1e-12).all()


@given(seeds, st.sampled_from([Sampling(1e-6), Sampling(top_k=1), Sampling(top_p=1e-6)]))
def test_cold_or_narrow_sampling_is_greedy(seed, sampling):
    model, state, room = Table(seed), np.array([[0, 2], [3, 3]]), np.array([5, 3])
    uniform = np.random.default_rng(seed).random((2, 3, 5))
    drawn = sample(model, state, room, uniform, sampling, rules())
    greedy = search(model, state, room, Beam(), rules())
    for item in range(2):
        assert sequences_of(drawn, item) == sequences_of(greedy, item) * 3
        np.testing.assert_allclose(drawn.nats[item], greedy.nats[item, 0])


def test_what_is_cut_off_is_never_drawn():
    model, at = Table(3), np.array([[0, 0]])
    likely = np.exp(model.log_probabilities(at)[0])
    order = np.argsort(-likely)
    uniform = (np.arange(1000) + 0.5).reshape(1, -1, 1) / 1000
    nucleus = likely[order[:2]].sum() - 1e-6
    for sampling in (Sampling(top_k=2), Sampling(top_p=float(nucleus))):
        found = sample(model, at, np.array([1]), uniform, sampling, rules())
        code = np.where(found.ended[0], END, found.codes[0, :, 0])
        assert set(code.tolist()) == set(order[:2].tolist())


@pytest.mark.parametrize(
    ("kind", "given", "named"),
    [
        (Beam, {"width": 0}, "width"),
        (Beam, {"width": -3}, "width"),
        (Beam, {"width": 2.0}, "width"),
        (Beam, {"width": True}, "width"),
        (Beam, {"width": 2, "best": 3}, "best"),
        (Beam, {"length_power": -1}, "length_power"),
        (Beam, {"length_power": float("nan")}, "length_power"),
        (Sampling, {"temperature": 0}, "temperature"),
        (Sampling, {"top_k": 0}, "top_k"),
        (Sampling, {"top_p": 0.0}, "top_p"),
        (Sampling, {"top_p": 1.5}, "top_p"),
    ],
)
def test_an_argument_out_of_range_is_named(kind, given, named):
    with pytest.raises(ArgumentError, match=f"^{named}: expected"):
        kind(**given)
