"""Quantiles of counts in the native library, compared with the heads in NumPy."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from native_library import BUILT, INSTRUCTIONS, LIBRARY
from statecast.heads import NegativeBinomial, Poisson
from statecast.heads.special import LEAST_LEVEL, normal_quantile
from statecast.recurrence.kernels.native import counts, library

pytestmark = pytest.mark.skipif(not BUILT, reason=f"native: {LIBRARY}")

problems = st.fixed_dictionaries(
    {
        "rows": st.integers(0, 90),
        "levels": st.integers(1, 40),
        "sized": st.booleans(),
        "apart": st.booleans(),
        "seed": st.integers(0, 10_000),
    }
)


def _values(problem: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Means up to a million, above which float32 is less exact, and the heads' sizes and levels."""
    rng = np.random.default_rng(problem["seed"])
    rows, levels = problem["rows"], problem["levels"]
    mean = np.exp(rng.uniform(np.log(1e-6), np.log(1e6), rows)).astype("float32")
    size = np.exp(rng.uniform(np.log(1 / 30), np.log(1e4), rows)).astype("float32")
    shape = (rows, levels) if problem["apart"] else (levels,)
    level = np.sort(rng.uniform(LEAST_LEVEL, 1 - LEAST_LEVEL, shape)).astype("float32")
    return mean, size if problem["sized"] else None, level


def _run(mean: np.ndarray, size: np.ndarray | None, level: np.ndarray) -> np.ndarray:
    return counts.quantiles(mean, size, level, normal_quantile(level))


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@settings(max_examples=60, deadline=None)
@example(problem={"rows": 68, "levels": 39, "sized": True, "apart": True, "seed": 193})
@given(problem=problems)
def test_the_quantiles_have_their_levels(instructions: str, problem: dict[str, Any]) -> None:
    """The distribution function of the heads in float64 is the level at each quantile."""
    library.use(instructions)
    mean, size, level = _values(problem)
    found = _run(mean, size, level)
    assert found.shape == (len(mean), level.shape[-1])
    assert (found > -1).all()
    head = Poisson() if size is None else NegativeBinomial()
    parts = [mean] if size is None else [mean, size]
    parameters = np.stack(parts, axis=-1).astype("float64")

    def reached(count: np.ndarray) -> np.ndarray:
        return head.cdf(parameters, count)

    # The count is exact to a relative 1e-4 and an absolute 2e-4 (float32, and the search's end),
    # and the distribution function to 2e-4; with sizes above 8,000 to 2.4e-4.
    exact = 2e-4 if size is None else np.where(size > 8000, 2.4e-4, 2e-4)[:, None]
    near = 1e-4 * (found + 1.0) + 2e-4
    assert (reached(np.maximum(found - near, -1.0)) <= level + exact).all()
    assert (reached(found + near) >= level - exact).all()


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@settings(max_examples=30, deadline=None)
@given(problem=problems)
def test_a_row_has_the_same_bits_in_any_batch_and_with_any_number_of_threads(
    instructions: str, problem: dict[str, Any]
) -> None:
    library.use(instructions, 2)
    mean, size, level = _values(problem)
    whole = _run(mean, size, level)
    library.use(instructions, 1)
    for rows in (slice(None), slice(1, None), slice(3, 4)):
        own = level[rows] if problem["apart"] else level
        part = _run(mean[rows], None if size is None else size[rows], own)
        assert part.tobytes() == whole[rows].tobytes()
    one = _run(mean, size, level[..., -1:])
    assert one.tobytes() == whole[:, -1:].tobytes()


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("sized", [False, True])
def test_a_nan_is_of_its_own_row(instructions: str, sized: bool) -> None:
    library.use(instructions)
    problem = {"rows": 40, "levels": 7, "sized": sized, "apart": True, "seed": 0}
    mean, size, level = _values(problem)
    clean = _run(mean, size, level)
    mean[3], level[9, 2] = np.nan, np.nan
    if size is not None:
        size[20] = np.nan
    found = _run(mean, size, level)
    bad = np.zeros(found.shape, bool)
    bad[3], bad[9, 2], bad[20] = True, True, sized
    assert np.isnan(found[bad]).all()
    assert found[~bad].tobytes() == clean[~bad].tobytes()


def test_quantiles_of_wrong_buffers_or_sizes_are_refused() -> None:
    one = np.ones(4, "float32")
    at = library.address(one)
    good: dict[str, Any] = {"cases": 2, "levels": 2, "apart": 0}
    good |= {"mean": at, "level": at, "deviate": at}
    found = np.empty(4, "float32")

    def status(**changed: Any) -> int:
        given = good | {"count": library.address(found)} | changed
        return LIBRARY.statecast_counts(ctypes.byref(counts._Arguments(**given)))

    assert status() == 0
    wrong = ({"mean": None}, {"level": None}, {"deviate": None}, {"count": None})
    assert all(status(**changed) == 1 for changed in (*wrong, {"cases": -1}, {"levels": -1}))
    assert all(status(**changed) == 2 for changed in ({"cases": 1 << 60}, {"levels": 1 << 40}))
    assert status(cases=0, mean=None) == 0
