"""Settings of forecasters of tokens."""

from __future__ import annotations

import pytest

from statecast import errors
from statecast.tokens.forecaster import TokenForecaster

pytestmark = pytest.mark.backends


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dropout": 1.0}, "dropout: expected a number from 0 to below 1"),
        ({"dropout": float("nan")}, "dropout: expected"),
        ({"tied": 1}, "tied: expected True or False"),
        ({"embedding": 0}, "embedding: expected a whole number from 1 to 4096"),
        ({"conditioning": "last"}, r"conditioning: expected one of \['state'"),
        ({"target_col": ["a", "b"]}, "target_col: expected the name of a column"),
        # These would do nothing.
        ({"depth": 3, "conditioning": "first"}, "depth: expected no depth with"),
        ({"head": "normal"}, "TokenForecaster has no setting 'head'"),
        ({"bounds": (0, 1)}, "TokenForecaster has no setting 'bounds'"),
        ({"transform": "log"}, "TokenForecaster has no setting 'transform'"),
        ({"past_cols": ["visits"]}, "TokenForecaster has no setting 'past_cols'"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(given, message):
    with pytest.raises(errors.ArgumentError, match=message):
        TokenForecaster(**given)
