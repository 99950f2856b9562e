"""The simulation of ``benchmarks/distributed.py``, and the place of its tables."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed import BEGIN, END, PAGE, simulated

TIMES = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=5)


@given(st.integers(1, 60), st.integers(1, 20), TIMES, st.integers(0, 9))
def test_a_job_takes_the_work_of_its_parts(
    parts: int, cores: int, took: list[float], seed: int
) -> None:
    """Not less than its work on all cores, nor than its longest part; not more than both."""
    known: dict[str, Any] = {"start": [0.0], "dispatch": 0.0, "seed": seed}
    work = simulated(parts, 1, took, **known)
    seconds = simulated(parts, cores, took, **known)
    assert seconds >= max(work / cores, min(took)) * (1 - 1e-9)
    assert seconds <= (work / cores + max(took)) * (1 + 1e-9)


@given(st.integers(1, 60), st.integers(1, 20), st.floats(0.1, 10.0), st.floats(0.0, 5.0))
def test_equal_parts_run_in_rounds(parts: int, cores: int, took: float, start: float) -> None:
    known: dict[str, Any] = {"start": [start], "dispatch": 0.0, "before": 3.0, "moved": 2.0}
    expected = 3.0 + start + math.ceil(parts / cores) * (2.0 + took)
    assert simulated(parts, cores, [took], **known) == pytest.approx(expected)


@given(st.integers(1, 60), st.integers(1, 20), TIMES, st.floats(0.0, 2.0))
def test_the_driver_serves_one_worker_at_a_time(
    parts: int, cores: int, took: list[float], dispatch: float
) -> None:
    seconds = simulated(parts, cores, took, start=[0.0], dispatch=dispatch)
    assert seconds >= (parts * dispatch + min(took)) * (1 - 1e-9)


def test_the_page_has_a_place_for_the_tables() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)
