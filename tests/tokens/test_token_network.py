"""The network of tokens: probabilities, causality, and the first step's X."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from words import word_prefixes, word_tables

pytestmark = pytest.mark.backends


def _inputs(fitted):
    series, static = word_tables()
    panel = fitted.schema.panel(word_prefixes(series, 2), static)
    code = fitted.engine.codes(panel.y, panel.mask).astype("int32")
    inputs = {"tokens": code, "numeric": panel.numeric, "codes": panel.codes}
    return {name: value[:, None] for name, value in inputs.items()}


def _nats(fitted, inputs):
    return keras.ops.convert_to_numpy(fitted.network.predict_on_batch(inputs))


def test_the_probabilities_of_the_next_token_add_up_to_one(fitted):
    nats = _nats(fitted, _inputs(fitted))
    np.testing.assert_allclose(np.exp(nats).sum(axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_token_has_no_effect_on_the_tokens_before_it(fitted, step):
    inputs = _inputs(fitted)
    changed = inputs["tokens"].copy()
    changed[..., step] = np.where(changed[..., step] == 2, 3, 2)
    before, after = _nats(fitted, inputs), _nats(fitted, inputs | {"tokens": changed})
    np.testing.assert_array_equal(before[..., : step + 1, :], after[..., : step + 1, :])
    assert (before[..., step + 1, :] != after[..., step + 1, :]).any(axis=-1).all()


def test_rows_are_independent(fitted):
    inputs = _inputs(fitted)
    alone = _nats(fitted, {name: value[5:21] for name, value in inputs.items()})
    np.testing.assert_allclose(_nats(fitted, inputs)[5:21], alone, rtol=1e-4, atol=1e-5)
