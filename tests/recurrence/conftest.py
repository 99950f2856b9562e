"""Tests may choose instructions and threads; afterwards the library has its defaults again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from native_library import BUILT
from statecast.recurrence.kernels.native import library


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    yield
    if BUILT:
        library.use()
