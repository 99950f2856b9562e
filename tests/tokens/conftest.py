"""Forecasters of tokens with several settings."""

from __future__ import annotations

import pytest

from words import (
    OPTIONS,
    fitted_words,
)


@pytest.fixture(params=OPTIONS)
def fitted(request):
    return fitted_words(request.param)


@pytest.fixture
def one():
    return fitted_words("state")
