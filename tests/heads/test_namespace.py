"""The functions that NumPy does not have, against scipy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from statecast.heads.namespace import Arrays, namespace

X = np.concatenate([np.linspace(-6, 6, 1001), np.linspace(-40, 40, 101), [-np.inf, np.inf]])


@pytest.mark.parametrize("name", ["erf", "erfc"])
def test_the_error_function(name: str) -> None:
    found, expected = getattr(Arrays, name)(X), getattr(scipy.special, name)(X)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-300)


def test_the_inverse_error_function() -> None:
    x = np.concatenate([np.linspace(-1, 1, 1001), [1 - 1e-16, -1 + 1e-12]])
    np.testing.assert_allclose(Arrays.erfinv(x), scipy.special.erfinv(x), rtol=1e-14)


def test_softplus_and_log_softmax() -> None:
    np.testing.assert_allclose(Arrays.softplus(X), np.logaddexp(0.0, X), rtol=1e-14)
    x = np.stack([X[:500], 1e3 * X[:500]])
    expected = scipy.special.log_softmax(x, axis=-1)
    np.testing.assert_allclose(Arrays.log_softmax(x), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["erf", "erfc", "erfinv", "softplus", "log_softmax"])
def test_a_result_has_the_dtype_of_its_argument(name: str) -> None:
    for dtype in ("float32", "float64"):
        assert getattr(Arrays, name)(np.array([-0.5, 0.2], dtype)).dtype == dtype


def test_arrays_and_numpy_numbers_need_no_backend() -> None:
    assert namespace(np.zeros(2)) is Arrays
    assert namespace(np.float32(1)) is Arrays
