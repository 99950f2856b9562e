"""Fitted models, and sessions of one of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import streams
from statecast.forecast.forecaster import Forecaster
from statecast.sessions import Sessions


@pytest.fixture(scope="module")
def models() -> dict[str, Forecaster]:
    return {name: getattr(streams, name)() for name in streams.KINDS}


@pytest.fixture
def sessions(models: dict[str, Forecaster], tmp_path: Path) -> Iterator[Sessions]:
    with Sessions(models["plain"], tmp_path / "items.db") as opened:
        yield opened
