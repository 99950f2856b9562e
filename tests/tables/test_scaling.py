"""Transforms against NumPy and SciPy in float64, their inverses and their domains."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from statecast.tables.scaling import (
    MOST_COUNTED,
    TRANSFORMS,
    Counts,
    Identity,
    Log,
    Logit,
    Positive,
    Transform,
    location_and_scaling,
    long_upper_tail,
    positive_median,
    quantiles,
)
from statecast.tables.schema import Schema
from toy_data import in_domain

EACH = pytest.mark.parametrize("name", list(TRANSFORMS))
numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30).map(np.array)
cuts = st.lists(st.integers(0, 30), max_size=4)


def bounds_of(name: str) -> tuple[float, float]:
    """The bounds of a transform; others than its own, if it takes any."""
    return (-2.0, 3.0) if TRANSFORMS[name].takes(-2.0, 3.0) else TRANSFORMS[name].natural


def domain(name: str, values: np.ndarray) -> np.ndarray:
    """Values of the domain of a transform, finite bounds included."""
    low, high = bounds_of(name)
    y = in_domain(values, TRANSFORMS[name](1.0, (low, high)))
    return np.concatenate([[low, high], y]) if math.isfinite(high) else y


def fitted(name: str, y: np.ndarray) -> Transform:
    return TRANSFORMS[name].fit(bounds_of(name), lambda: [y])


@EACH
@given(numbers)
def test_to_the_line_and_back_is_the_identity(name: str, values: np.ndarray) -> None:
    y = domain(name, values)
    transform = fitted(name, y)
    assert not transform.outside(y).any()
    # A logarithm of y / c loses what y has below a rounding of c.
    close = 1e-12 * max(transform.centre, 1e-3)
    back = transform.from_line(transform.to_line(y))
    np.testing.assert_allclose(back, y, rtol=1e-11, atol=close if name != "logit" else 1e-12)
    if name == "counts":
        assert (back == y).all()


@EACH
@given(numbers)
def test_the_inverse_increases_and_keeps_to_the_domain(name: str, places: np.ndarray) -> None:
    transform = fitted(name, domain(name, np.array([1.0, 5.0, 20.0])))
    u = np.sort(np.append(places, [-1e6, -500.0, 0.0, 30.0, 500.0]))
    values = transform.from_line(u)
    assert (np.diff(values) >= 0).all()
    assert np.isfinite(values).all()
    assert (values >= transform.bounds[0]).all()
    assert (values <= transform.bounds[1]).all()
    assert not np.signbit(values[values == 0]).any()
    if name not in ("counts", "positive"):  # at most what the head of counts takes; e**-470 c is 0
        assert not transform.outside(values).any()


@given(numbers)
def test_against_numpy_and_scipy(values: np.ndarray) -> None:
    size = np.abs(values) + 1e-3
    c = float(np.median(size))
    every: Callable[[], list[np.ndarray]] = lambda: [size]  # noqa: E731
    np.testing.assert_allclose(positive_median(every), c, rtol=1e-14)
    half_line, line = (0.0, math.inf), (-math.inf, math.inf)
    assert (Identity.fit(line, every).to_line(size) == size).all()
    found = Log.fit(half_line, every).to_line(size)
    np.testing.assert_allclose(found, np.log1p(size / c), rtol=1e-13)
    found = Positive.fit(half_line, every).to_line(size)
    np.testing.assert_allclose(found, np.log(size / c), rtol=1e-12, atol=1e-13)
    counts = np.rint(size)
    whole = Counts.fit(half_line, lambda: [counts])
    c = float(np.median(counts[counts > 0])) if counts.any() else 1.0
    np.testing.assert_allclose(whole.to_line(counts), np.log1p(counts / c), rtol=1e-13)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30).map(np.array))
def test_a_logit_is_that_of_scipy_between_bounds_further_out(v: np.ndarray) -> None:
    transform = Logit.fit((-2.0, 3.0), lambda: [-2 + 5 * v])
    c = transform.centre
    assert 1e-6 <= c <= 0.05
    expected = scipy.special.logit((v + c) / (1 + 2 * c))
    np.testing.assert_allclose(transform.to_line(-2 + 5 * v), expected, rtol=1e-9, atol=1e-9)
    back = transform.from_line(expected)
    np.testing.assert_allclose(back, -2 + 5 * v, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("none", [], [-1.0, 0.0, 1e50]),
        ("log", [-1e-9, -5.0], [0.0, 1e50]),
        ("positive", [0.0, -1.0], [1e-9]),
        ("logit", [-2.01, 3.01], [-2.0, 3.0]),
        ("counts", [-1.0, 0.5, MOST_COUNTED + 1.0], [0.0, 7.0, float(MOST_COUNTED)]),
    ],
)
def test_domains(name: str, wrong: list[float], right: list[float]) -> None:
    transform = fitted(name, domain(name, np.array([1.0, 2.0])))
    assert transform.outside(np.array(wrong)).all()
    assert not transform.outside(np.array([*right, np.nan])).any()
    assert transform.expected
    assert "{" not in transform.expected
    assert bool(transform.remedy) == bool(wrong)


@pytest.mark.parametrize(
    ("name", "low", "high", "taken"),
    [
        ("none", 0.0, math.inf, True),
        ("none", -math.inf, math.inf, True),
        ("none", 1.0, math.inf, False),
        ("none", 0.0, 1.0, False),
        ("log", -math.inf, math.inf, False),
        ("counts", 0.0, 9.0, False),
        ("logit", 0.0, 1.0, True),
        ("logit", 1.0, 1.0, False),
        ("logit", 0.0, math.inf, False),
    ],
)
def test_bounds_of_a_transform(name: str, low: float, high: float, taken: bool) -> None:
    assert TRANSFORMS[name].takes(low, high) == taken


@given(numbers, cuts, st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_quantiles_of_batches_are_those_of_numpy(values, cut, levels) -> None:
    found = quantiles(lambda: np.split(values, sorted(cut)), levels)
    np.testing.assert_allclose(found, np.quantile(values, levels), rtol=1e-12, atol=1e-9)
    assert np.isnan(quantiles(list, levels)).all()


@given(st.integers(0, 2**32 - 1), cuts)
def test_location_and_scaling_are_mean_and_deviation_however_values_are_cut(seed, cut) -> None:
    rng = np.random.default_rng(seed)
    y, at = rng.normal(5, 2, (40, 6)), np.broadcast_to(np.arange(6), (40, 6))
    values, steps = y.ravel(), at.ravel()

    def batches():
        return zip(np.split(values, sorted(cut)), np.split(steps, sorted(cut)), strict=True)

    location, scaling, largest = location_and_scaling(batches, 6)
    np.testing.assert_allclose(location, y.mean(0), rtol=1e-12)
    np.testing.assert_allclose(scaling, y.std(0), rtol=1e-12)
    np.testing.assert_allclose(largest, np.abs((y - location) / scaling).max(), rtol=1e-12)
    whole = location_and_scaling(lambda: [(values, steps)], 6)
    assert (location == whole[0]).all()
    assert (scaling == whole[1]).all()
    assert largest == whole[2]


def test_a_long_upper_tail_is_not_one_outlier() -> None:
    rng = np.random.default_rng(0)
    plain = rng.normal(100, 10, 200)
    assert not long_upper_tail(lambda: [plain])
    assert not long_upper_tail(lambda: [np.append(plain, 1e9)])
    skewed = np.exp(rng.normal(size=200) * 2)
    assert long_upper_tail(lambda: [skewed])


class Asinh(Identity):
    """A transform with a domain and bounds of its own."""

    name = "asinh"

    @classmethod
    def takes(cls, low: float, high: float) -> bool:
        return (low, high) == cls.natural

    def to_line(self, y: np.ndarray) -> np.ndarray:
        return np.arcsinh(y)

    def _inverse(self, u: np.ndarray) -> np.ndarray:
        return np.sinh(u)


def test_a_new_transform_has_bounds_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSFORMS, "asinh", Asinh)  # type: ignore[arg-type]
    y = np.random.default_rng(0).normal(size=(20, 4)) * 10
    schema = Schema.fit(y, transform="asinh")
    target = schema.targets[0]
    assert target.transform.bounds == (-math.inf, math.inf)
    np.testing.assert_allclose(target.unscale(target.scale(y)), y)
    again = Schema.from_config(*schema.to_config()).targets[0]
    assert again.transform == target.transform
