"""Scores of tokens by cross-validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from statecast.evaluate.cross_validation import cross_validation
from statecast.tokens.forecaster import TokenForecaster
from words import (
    CLOSE,
    word_tables,
)


def test_cross_validation_scores_bits_per_token(tmp_path):
    series, static = word_tables(60)
    series = series.with_columns(y=pl.col("y").replace_strict({"a": 7, "b": -1, "c": 40}))
    f = TokenForecaster(units=8, embedding=4, epochs=3)
    folds = pl.DataFrame({"unique_id": np.arange(60), "fold": np.arange(60) % 2})
    stages: list[Any] = []
    scores = cross_validation(
        f, series, static, folds=folds, known=[0, 2], progress=lambda *each: stages.append(each)
    )
    assert [each[1:] for each in stages] == [(done, 4) for done in range(5)]
    assert {row.method for row in scores.rows} == {
        "statecast", "unigram", "n-gram", "n-gram by classes of X"
    }  # fmt: skip
    assert scores["statecast", 0].tokens == len(series) + 60
    # The same from a file and by hand, of one fold.
    series.write_csv(tmp_path / "series.csv")
    one = cross_validation(
        f, tmp_path / "series.csv", static, folds=folds, known=[2], test_folds=[0]
    )
    old, new = (folds.filter(pl.col("fold") == fold).select("unique_id") for fold in (1, 0))
    tables = [t.join(old, on="unique_id", how="semi") for t in (series, static)]
    fitted = f.clone().fit(*tables, verbose=0)
    tables = [t.join(new, on="unique_id", how="semi") for t in (series, static)]
    table = fitted.log_likelihood(*tables, known=2)
    bits = -table["log_likelihood"].sum() / table["tokens"].sum() / np.log(2)
    assert one["statecast", 2].bits == pytest.approx(bits, rel=CLOSE)
    assert one["statecast", 2].tokens == table["tokens"].sum()
    assert "bits per token" in str(scores)
    assert scores.table().height == 8
    assert repr(scores) == (
        "<TokenScores of statecast, unigram, n-gram, n-gram by classes of X; k = 0, 2; folds: 2>"
    )
    assert "<table" in scores._repr_html_()
