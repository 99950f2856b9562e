"""Forecasters of tokens with several settings."""

from __future__ import annotations

import pytest

from effort import SLOW_TO_COMPILE
from words import fitted_words


@pytest.fixture(
    params=[
        "state",
        "inputs-gru-tied",
        *(pytest.param(each, marks=SLOW_TO_COMPILE) for each in ("first-rnn", "both")),
    ]
)
def fitted(request):
    return fitted_words(request.param)


@pytest.fixture
def one():
    return fitted_words("state")
