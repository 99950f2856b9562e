"""The engine of tokens: equal to the network, with and without the native kernel; likelihoods."""

from __future__ import annotations

from itertools import product

import keras
import numpy as np
import polars as pl
import pytest

from statecast.tokens import engine
from statecast.tokens.decoding import Beam
from statecast.tokens.forecaster import TokenForecaster
from words import (
    CLOSE,
    assert_same_state,
    word_prefixes,
    word_tables,
)

pytestmark = pytest.mark.backends


def test_arrays_give_what_the_network_gives(fitted):
    """What runs on NumPy after the fit gives what the trained graph gives, all gaps included."""
    series, static = word_tables()
    panel = fitted.schema.panel(word_prefixes(series, 3), static)
    engine, decoder = fitted.engine, fitted.network.decoder
    code = engine.codes(panel.y, panel.mask)
    inputs = {"tokens": code.astype("int32"), "numeric": panel.numeric, "codes": panel.codes}
    found = fitted.network.predict_on_batch({n: v[:, None] for n, v in inputs.items()})
    expected = np.log(np.exp(keras.ops.convert_to_numpy(found)).mean(axis=1))
    nats = engine.log_likelihoods(engine.start(panel.numeric, panel.codes), code, panel.known, True)
    for row, length in enumerate(panel.known):
        for step in range(length + engine.ends):
            token = 1 if step == length else code[row, step]
            if token == decoder.gap:
                assert np.isnan(nats[row, step])
            else:
                assert nats[row, step] == pytest.approx(expected[row, step, token], abs=CLOSE)
        assert np.isnan(nats[row, length + engine.ends :]).all()


def test_without_the_native_kernel_all_is_the_same(fitted, monkeypatch, tmp_path):
    series, static = word_tables()
    fitted.save(tmp_path / "f.safetensors")
    monkeypatch.setattr(engine, "refuses", lambda cell: "it is not there")
    plain = TokenForecaster.load(tmp_path / "f.safetensors")
    prefix = word_prefixes(series, 2)
    assert_same_state(plain.state(prefix, static), fitted.state(prefix, static))
    nats = [f.log_likelihood(series, static)["log_likelihood"].to_numpy() for f in (plain, fitted)]
    np.testing.assert_allclose(*nats, rtol=CLOSE)


def test_the_probabilities_of_all_sequences_add_up_to_one(one):
    """Every sequence of up to three steps, and what of them the unknown token takes."""
    _, static = word_tables()
    static = static.head(2)
    found = one.generate(None, static, until=3, beam=Beam(100, best=40))
    assert len(list(product("abc", repeat=3))) + 9 + 3 + 1 == 40
    share = [
        sum(np.exp(found.filter(pl.col("unique_id") == item)[column][0]) for column in
            [c for c in found.columns if c.endswith("nats")])
        for item in (0, 1)
    ]  # fmt: skip
    state = one.engine.start(
        *(getattr(one.schema.panel(None, static), n) for n in ("numeric", "codes"))
    )
    unknown = np.exp(one.engine.log_probabilities(one.engine.members(state))[:, 0])
    assert all(1 - 6 * unknown.max() < each <= 1 + CLOSE for each in share), (share, unknown)


def test_a_search_is_scored_as_log_likelihood_scores_it(fitted):
    series, static = word_tables()
    prefix = series.filter(pl.col("ds") == 1)
    found = fitted.generate(prefix, static, until=6, beam=Beam(4))
    best = found.select("unique_id", "ds", y="statecast").drop_nulls()
    ended = found.group_by("unique_id").agg(pl.col("statecast").is_null().any())
    whole = pl.concat([prefix, best]).sort("unique_id", "ds")
    for end in (True, False):
        ids = ended.filter(pl.col("statecast") == end)["unique_id"]
        if len(ids):
            inside = pl.col("unique_id").is_in(ids.implode())
            scored = fitted.log_likelihood(
                whole.filter(inside), static.filter(inside), known=1, ended=end
            )
            nats = found.filter(inside).group_by("unique_id").agg(pl.col("statecast-nats").first())
            both = scored.join(nats, on="unique_id")
            np.testing.assert_allclose(both["log_likelihood"], both["statecast-nats"], atol=CLOSE)
