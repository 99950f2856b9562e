"""Statistical functions, against scipy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras import ops

from effort import examples
from statecast.heads import special
from statecast.heads.namespace import namespace

pytestmark = pytest.mark.backends

_convert: Any = None  # see form
EPS = float(np.finfo("float32").eps)
POSITIVE = np.geomspace(1e-3, 1e6, 200).astype("float32")
MEANS = np.geomspace(1e-3, 1e5, 25).astype("float32")[:, None]
SIZES = np.geomspace(0.03, 1e4, 13).astype("float32")[:, None, None]
# Counts, zero among them, and numbers between them.
COUNTS = np.concatenate([np.arange(30), np.geomspace(30, 1e5, 40).round()]).astype("float32")
BETWEEN = np.concatenate([np.linspace(-1, 20, 64), np.geomspace(20, 1e5, 30)]).astype("float32")


@pytest.fixture(autouse=True, params=["tensors", "arrays"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every function is tested on tensors and on NumPy arrays."""
    convert = ops.convert_to_tensor if request.param == "tensors" else np.asarray
    monkeypatch.setitem(globals(), "_convert", convert)


def _found(function: Any, *arguments: np.ndarray) -> np.ndarray:
    found = ops.convert_to_numpy(function(*map(_convert, arguments)))
    assert found.dtype == np.float32
    return found.astype("float64")


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype("float64")


def test_log_gamma() -> None:
    found, expected = _found(special.log_gamma, POSITIVE), scipy.special.gammaln(_wide(POSITIVE))
    # Near its zeros at 1 and 2 the error is absolute.
    np.testing.assert_allclose(found, expected, rtol=8 * EPS, atol=16 * EPS)


def test_the_error_of_stirlings_formula() -> None:
    x = np.geomspace(0.01, 1e6, 300).astype("float32")
    wide = _wide(x)
    formula = (wide - 0.5) * np.log(wide) - wide + 0.5 * np.log(2 * np.pi)
    # Above 100 the difference has no digits left; the first term of the series has all.
    series = 1 / (12 * wide) - 1 / (360 * wide**3) + 1 / (1260 * wide**5)
    expected = np.where(wide < 100, scipy.special.gammaln(wide) - formula, series)
    np.testing.assert_allclose(
        _found(special.stirling_error, x), expected, rtol=1e-5, atol=32 * EPS
    )


def test_the_normal_distribution() -> None:
    level = np.linspace(1e-4, 1 - 1e-4, 501).astype("float32")
    expected = scipy.stats.norm.ppf(_wide(level))
    np.testing.assert_allclose(
        _found(special.normal_quantile, level), expected, rtol=1e-4, atol=1e-5
    )
    x = np.linspace(-8, 8, 301).astype("float32")
    expected = scipy.stats.norm.cdf(_wide(x))
    np.testing.assert_allclose(_found(special.normal_cdf, x), expected, rtol=1e-4, atol=1e-9)


def test_probabilities_of_the_poisson_distribution() -> None:
    found = _found(special.poisson_log_pmf, COUNTS, MEANS)
    expected = scipy.stats.poisson.logpmf(_wide(COUNTS), _wide(MEANS))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_probabilities_of_the_negative_binomial_distribution() -> None:
    found = _found(special.negative_binomial_log_pmf, COUNTS, MEANS, SIZES)
    size = _wide(SIZES)
    p = size / (size + _wide(MEANS))
    expected = scipy.stats.nbinom.logpmf(_wide(COUNTS), size, p)
    # 1 + d in the deviance has an error of epsilon, which the largest count multiplies.
    tolerance = 1e-5 + 4 * EPS * (COUNTS + MEANS)
    assert (np.abs(found - expected) <= tolerance + 2e-5 * np.abs(expected)).all()


def test_the_poisson_distribution_function_between_counts() -> None:
    found = _found(special.poisson_cdf, BETWEEN, MEANS)
    expected = scipy.special.gammaincc(_wide(BETWEEN) + 1, _wide(MEANS))
    np.testing.assert_allclose(found, expected, atol=1.5e-4)


def test_the_negative_binomial_distribution_function_between_counts() -> None:
    found = _found(special.negative_binomial_cdf, BETWEEN, MEANS, SIZES)
    size = _wide(SIZES)
    expected = scipy.special.betainc(size, _wide(BETWEEN) + 1, size / (size + _wide(MEANS)))
    above = np.broadcast_to(BETWEEN > -1, found.shape)  # at -1 scipy has no value
    np.testing.assert_allclose(found[above], expected[above], atol=5e-4)


def test_the_quantiles_of_students_t() -> None:
    freedom = np.array([2.5, 3, 4, 4.9, 5.1, 8, 30, 200, 700], "float32")[:, None]
    level = np.array([1e-4, 1e-3, 0.02, 0.2, 0.45, 0.6, 0.9, 0.999, 1 - 1e-4], "float32")
    found = _found(special.student_t_quantile, level, freedom)
    expected = scipy.stats.t.ppf(_wide(level), _wide(freedom))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=examples(10), deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 20))
@example(5e-41, 5.7)  # an interval with few numbers
def test_the_root_of_an_increasing_function(high: float, target: float) -> None:
    """Of log(1 + x), whose root is known; an end of the interval where there is none."""
    ends = np.array([0, high], "float32")
    wanted = np.array([target], "float32")
    found = _found(
        lambda power, target, high: special.increasing_root(
            lambda power, x: namespace(x).log1p(x) * power, power, target, 0.0, high, 0.5 * target
        ),
        np.ones(1, "float32"),
        wanted,
        ends[1:],
    )
    expected = min(float(np.expm1(_wide(wanted))[0]), float(ends[1]))
    assert abs(found[0] - expected) <= 1e-4 * (1 + expected)
