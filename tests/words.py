"""Words of two groups, forecasters of tokens that are fitted to them, and comparisons of states."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
from hypothesis import settings

from effort import examples
from statecast.state import State
from statecast.tokens.forecaster import TokenForecaster

ITEMS = 40

CLOSE = 1e-5  # of a log-probability: what float32 sums of another order may differ by

few = settings(max_examples=examples(6), deadline=None)

WORDS = {"red": ["abba", "abc", "ab"], "blue": ["cab", "cc", "caaab"]}


def word_tables(items=ITEMS, seed=0):
    """Words whose distribution depends on a group, as long tables of characters."""
    rng = np.random.default_rng(seed)
    group = rng.choice(["red", "blue"], items)
    rows = [
        (item, step, letter)
        for item in range(items)
        for step, letter in enumerate(WORDS[group[item]][rng.integers(3)], 1)
    ]
    series = pl.DataFrame(rows, schema=["unique_id", "ds", "y"], orient="row")
    static = {"unique_id": np.arange(items), "level": rng.normal(size=items), "group": group}
    return series, pl.DataFrame(static)


def fit_words(*tables: Any, **settings: Any):
    small = {"units": 8, "embedding": 4, "ensemble": 2, "epochs": 3}
    if len(tables) != 1:  # with static features
        small["encoding"] = 4
    tables = tables or word_tables()
    return TokenForecaster(**{**small, **settings}).fit(*tables, verbose=0)


OPTIONS: dict[str, dict[str, Any]] = {
    "state": {},
    "inputs-gru-tied": {"conditioning": "inputs", "cell": "gru", "tied": True, "layers": 2},
    "first-rnn": {"conditioning": "first", "cell": "simple_rnn", "ensemble": 1, "ends": False},
    # Fewer units than tokens: these are embedded at every step, not looked up.
    "both": {"conditioning": "both", "depth": 1, "units": 6},
}


@cache
def fitted_words(name: str) -> TokenForecaster:
    return fit_words(**OPTIONS[name])


def word_prefixes(series, seed):
    """Prefixes of mixed lengths, some of them with a gap, some empty."""
    rng = np.random.default_rng(seed)
    k = pl.DataFrame({"unique_id": np.arange(ITEMS), "k": rng.integers(0, 4, ITEMS)})
    cut = series.join(k, on="unique_id").filter(pl.col("ds") <= pl.col("k"))
    gap = (pl.col("unique_id") % 3 == 0) & (pl.col("ds") == 1) & (pl.col("k") > 1)
    return cut.filter(~gap).drop("k")


def assert_same_state(found: State, expected: State):
    assert found.names == expected.names
    for name in found.names:
        np.testing.assert_allclose(found[name], expected[name], rtol=CLOSE, atol=CLOSE)
