"""Properties of the batches for training and validation."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statecast.networks.batches import (
    LARGEST_BATCH,
    Draws,
    HeldOutBatches,
    TrainingBatches,
    drop_features,
    held_out,
    padded_width,
    training_rows,
)
from statecast.tables.panel import Covariates, Panel
from statecast.tables.schema import Schema

pytestmark = pytest.mark.backends


@st.composite
def ragged(draw: st.DrawFn) -> tuple[Panel, np.ndarray]:
    """A panel of items of any lengths, and which rows each member holds out."""
    length = np.array(draw(st.lists(st.integers(1, 70), min_size=2, max_size=40)))
    Y = np.where(np.arange(length.max()) < length[:, None], 1.0 + np.arange(length.max()), np.nan)
    panel = Schema.fit(Y).panel(Y + np.arange(len(Y))[:, None])
    return panel, held_out(panel.groups, draw(st.integers(1, 9)), 0)


@given(ragged(), st.integers(1, 16))
def test_batches_have_all_values_that_count_and_no_more_steps_than_needed(
    drawn, batch: int
) -> None:
    panel, held = drawn
    for rows in (TrainingBatches(panel, held, batch, 0), HeldOutBatches(panel, held, batch)):
        widths, longest = [], []
        for index in range(len(rows)):
            order = rows.order[index]
            inputs, value, counted = rows[index]
            widths.append(value.shape[-1])
            longest.append(int(np.where(order >= 0, panel.known[order], 0).max()))
            whole = panel.mask[order] & (order >= 0)[..., None]
            if isinstance(rows, HeldOutBatches):
                whole &= np.arange(whole.shape[-1]) >= rows.prefix[index][..., None]
            assert counted.sum() == whole.sum()
            there = order >= 0
            np.testing.assert_array_equal(value[there], panel.y[order[there], : widths[-1]])
            assert {v.shape[:2] for v in inputs.values()} == {order.shape}
        if keras.backend.backend() == "tensorflow":
            longest = [panel.mask.shape[1]] * len(longest)  # one shape for all
        assert widths == [min(padded_width(most), panel.mask.shape[1]) for most in longest]


@pytest.mark.parametrize("batch", [LARGEST_BATCH + 1, 10**6, 10**30])
def test_a_batch_larger_than_the_table_is_no_larger_than_the_largest_default(batch: int) -> None:
    panel = Schema.fit(np.ones((9, 3)) * np.arange(9)[:, None]).panel(np.ones((9, 3)))
    held = held_out(panel.groups, 2, 0)
    for rows in (TrainingBatches(panel, held, batch, 0), HeldOutBatches(panel, held, batch)):
        assert rows.order.shape[1] <= LARGEST_BATCH


@given(ragged())
def test_every_member_is_trained_on_its_rows_and_validated_on_the_others(drawn) -> None:
    panel, held = drawn
    training = TrainingBatches(panel, held, len(panel.ids), 0)
    stopping = HeldOutBatches(panel, held, len(panel.ids))
    for member, own in enumerate(training_rows(held)):
        trained = np.unique(training.order[..., member])
        np.testing.assert_array_equal(trained, own)
        left = np.unique(stopping.order[..., member])
        np.testing.assert_array_equal(left[left >= 0], np.flatnonzero(held[member]))


@given(ragged(), st.integers(1, 16), st.integers(0, 99), st.data())
def test_a_member_has_the_same_batches_whichever_members_it_is_trained_with(
    drawn, batch: int, seed: int, data: st.DataObject
) -> None:
    """To the bit, in every epoch: prefixes, gaps, and feature dropout of X and of covariates."""
    panel, held = drawn
    rng = np.random.default_rng(seed)
    rows, steps = panel.y.shape
    panel = replace(
        panel,
        numeric=rng.normal(size=(rows, 4)).astype("float32"),
        codes=rng.integers(0, 5, (rows, 2)).astype("int32"),
        past=Covariates(
            rng.normal(size=(rows, steps, 2)).astype("float32"),
            rng.integers(0, 3, (rows, steps, 1)).astype("int32"),
            rng.random((rows, steps)) < 0.9,
        ),
    )
    first = data.draw(st.integers(0, len(held) - 1))
    own = slice(first, data.draw(st.integers(first + 1, len(held))))
    pairs = [
        (TrainingBatches(panel, held, batch, seed), TrainingBatches(panel, held, batch, seed, own)),
        (HeldOutBatches(panel, held, batch), HeldOutBatches(panel, held, batch, own)),
    ]
    for every, part in pairs:
        assert len(every) == len(part)
        for _ in range(2):
            for index in range(len(every)):
                for found, expected in zip(part[index], every[index], strict=True):
                    named = found if isinstance(found, dict) else {"": found}
                    for name, value in named.items():
                        all_members = expected[name] if name else expected
                        np.testing.assert_array_equal(value, all_members[:, own])
            every.on_epoch_end()
            part.on_epoch_end()


@given(st.integers(1, 100_000))
def test_padded_widths_hold_the_steps_and_waste_few(steps: int) -> None:
    width = padded_width(steps)
    assert steps <= width < max(8 + steps, 1.5 * steps + 1)
    assert padded_width(width) == width
    assert width % 8 == 0


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=3),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 1000),
)
def test_a_dropped_feature_is_missing_or_new_and_the_others_stay(shape, n, m, seed) -> None:
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(*shape, n)).astype("float32")
    gap = rng.random(value.shape) < 0.2
    numeric = np.concatenate([np.where(gap, 0, value), gap], axis=-1, dtype="float32")
    codes = rng.integers(0, 5, (*shape, m)).astype("int32")
    numbers, found = drop_features(numeric, codes, Draws(rng, codes.shape[1]))
    assert (numbers.dtype, found.dtype) == (numeric.dtype, codes.dtype)
    flag = numbers[..., n:] > 0
    assert (flag | ~gap).all()
    np.testing.assert_array_equal(numbers[..., :n], np.where(flag, 0, value))
    assert ((found == codes) | (found < 2)).all()


def test_feature_dropout_masks_any_share_of_some_rows_and_nothing_of_most() -> None:
    features = np.zeros((2000, 1, 40), "float32"), np.full((2000, 1, 20), 2, "int32")
    numbers, codes = drop_features(*features, Draws(np.random.default_rng(0), 1))
    share = np.concatenate([numbers[..., 20:] > 0, codes < 2], axis=-1).mean(axis=(1, 2))
    assert 0.6 < (share == 0).mean() < 0.8
    assert share.max() > 0.9
    touched = np.histogram(share[share > 0], 4, (0, 1))[0]
    assert touched.min() > 0.15 * touched.sum()
