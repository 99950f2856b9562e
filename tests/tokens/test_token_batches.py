"""Batches of token sequences: what is trained on, scored and masked."""

from __future__ import annotations

import numpy as np
import pytest

from statecast.tables.vocabulary import END, UNKNOWN
from statecast.tokens.batches import TokenBatches
from statecast.tokens.network import TokenDecoder
from words import fitted_words, word_prefixes, word_tables

pytestmark = pytest.mark.backends


def _panel_and_decoder():
    one = fitted_words("state")
    series, static = word_tables()
    # Prefixes with gaps; every item has a token, so that its row has a length.
    series = word_prefixes(series, 1).vstack(series.filter(series["ds"] == 5))
    return one.schema.panel(series, static), one.network.decoder


def _scored(batches: TokenBatches) -> list[list[int]]:
    """The tokens that a batch scores, sorted, for each member."""
    found: list[list[int]] = []
    for index in range(len(batches)):
        _, target, weight = batches[index]
        found = found or [[] for _ in range(target.shape[1])]
        for member, codes in enumerate(found):
            codes += target[:, member][weight[:, member] > 0].tolist()
    return [sorted(codes) for codes in found]


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 3, 100])
def test_in_fixed_order_each_token_and_each_end_is_scored_once(ends, batch):
    panel, decoder = _panel_and_decoder()
    rows = [np.arange(0, 20), np.arange(10, 40)]
    batches = TokenBatches(panel, rows, decoder, ends=ends, batch=batch)
    for codes, chosen in zip(_scored(batches), rows, strict=True):
        part = panel.take(chosen)
        expected = part.y[part.mask].astype(int).tolist() + [END] * (len(chosen) * ends)
        assert codes == sorted(expected)


def test_the_token_after_each_input_is_the_target():
    """Inputs are not masked without a seed; a missing token is the gap, and is not scored."""
    panel, decoder = _panel_and_decoder()
    batches = TokenBatches(panel, [np.arange(panel.rows)], decoder, ends=False, batch=8)
    for index in range(len(batches)):
        inputs, target, weight = batches[index]
        tokens = inputs["tokens"]
        assert tokens.shape[-1] == target.shape[-1] - 1  # "start" is added by the network
        scored = weight[..., :-1] > 0
        np.testing.assert_array_equal(tokens[scored], target[..., :-1][scored])
        assert (tokens[~scored] == decoder.gap).all()


def test_training_masks_some_tokens_and_replaces_rare_ones():
    """Masked inputs are still scored. Only a token that occurs once becomes unknown."""
    series, static = word_tables()
    series = series.with_row_index()
    rare = series.with_columns(y=series["y"].set(series["index"] == 0, "z")).drop("index")
    one = fitted_words("state")
    schema = type(one.schema).fit(rare, static, tokens=True)
    panel = schema.panel(rare, static)
    assert schema.vocabulary is not None
    old = one.network.decoder
    head = type(old.head)(schema.vocabulary.size)
    decoder = TokenDecoder(old.stack, head, old.embedding, old.tied, old.static, old.each)
    rows = [np.arange(panel.rows)]
    batches = TokenBatches(panel, rows, decoder, ends=True, batch=16, seed=0)
    masked, unknown, count = 0, 0, 0
    for _ in range(20):
        for index in range(len(batches)):
            inputs, target, weight = batches[index]
            scored = (weight[..., :-1] > 0) & (target[..., :-1] != END)
            masked += int((inputs["tokens"][scored] == decoder.gap).sum())
            unknown += int((target[..., :-1][scored] == UNKNOWN).sum())
            count += int(scored.sum())
        batches.on_epoch_end()
    assert 0.005 < masked / count < 0.03  # 5 % of the sequences, 30 % of their tokens
    share = unknown / count * panel.mask.sum()  # of the one rare token
    assert 0.3 < share < 0.7
