"""``Columns`` and one-hot columns: laws of the encoding of features."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from statecast.tables.features import every_category, one_hot


@given(st.lists(st.integers(2, 6), max_size=4), st.integers(0, 1), st.integers(0, 99))
def test_one_hot_columns_say_which_code_a_row_has(sizes, first, seed) -> None:
    rng = np.random.default_rng(seed)
    numeric = rng.normal(size=(5, 2)).astype(np.float32)
    codes = np.array([rng.integers(0, size, 5) for size in sizes]).reshape(-1, 5).T
    categories = every_category(sizes, first=first)
    found = one_hot(numeric, codes, categories)
    assert found.dtype == np.float64
    assert found.shape == (5, 2 + sum(size - first for size in sizes))
    np.testing.assert_array_equal(found[:, :2], numeric)
    for row, code in enumerate(codes):
        ones = [tuple(pair) for pair in categories[found[row, 2:] == 1].tolist()]
        assert ones == [(i, c) for i, c in enumerate(code.tolist()) if c >= first]
    assert set(np.unique(found[:, 2:]).tolist()) <= {0.0, 1.0}


def test_features_with_too_many_codes_are_left_out() -> None:
    assert every_category([2, 40, 3], most=32).tolist() == [[0, 0], [0, 1], [2, 0], [2, 1], [2, 2]]
    assert every_category([], first=1).shape == (0, 2)
