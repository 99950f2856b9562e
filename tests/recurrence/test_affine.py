"""The native affine maps of an ensemble, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from statecast.recurrence.kernels.native import library
from statecast.recurrence.kernels.native.affine import Affine

pytestmark = pytest.mark.skipif(isinstance(library.find(), str), reason="no native kernel")


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(("units", "columns"), [(1, 1), (5, 11), (32, 17), (70, 130)])
@pytest.mark.parametrize("rows", [0, 1, 37])
def test_it_is_the_product_and_a_row_has_the_same_bits_alone(
    members: int, units: int, columns: int, rows: int
) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(members, units, columns)).astype("float32")
    bias = rng.normal(size=(members, columns)).astype("float32")
    x = rng.normal(size=(members, rows, units)).astype("float32")
    affine = Affine(kernel, bias)
    found = affine.map(x)
    assert found.dtype == np.float32
    expected = x.astype("float64") @ kernel.astype("float64") + bias[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * units**0.5)
    for row in range(0, rows, 9):
        np.testing.assert_array_equal(affine.map(x[:, row : row + 1]), found[:, row : row + 1])
