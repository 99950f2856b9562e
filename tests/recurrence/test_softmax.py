"""The softmax over tokens in the native library, compared with the softmax in NumPy."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native_library import BUILT, INSTRUCTIONS, LIBRARY, close
from statecast.recurrence.kernels.native import affine, library, softmax
from statecast.tokens.engine import _PlainSoftmax

pytestmark = pytest.mark.skipif(not BUILT, reason=f"native: {LIBRARY}")


softmaxes = st.fixed_dictionaries(
    {
        "members": st.integers(1, 3),
        "rows": st.one_of(st.integers(0, 15), st.integers(40, 110)),
        "units": st.integers(1, 40),
        "tokens": st.integers(1, 150),
        "best": st.integers(1, 12),
        "seed": st.integers(0, 10_000),
    }
)


def _softmax_values(problem: dict[str, int]) -> tuple[Any, Any, Any, Any, int]:
    """Kernel, bias, outputs, which tokens are allowed, and how many are asked for."""
    members, rows, units, tokens = (problem[n] for n in ("members", "rows", "units", "tokens"))
    rng = np.random.default_rng(problem["seed"])
    kernel = rng.standard_normal((members, units, tokens)).astype("float32") * 4 / units**0.5
    bias = rng.standard_normal((members, tokens)).astype("float32")
    outputs = rng.standard_normal((members, rows, units)).astype("float32")
    if problem["seed"] % 2:  # whole numbers, so that tokens are equally likely
        kernel, bias, outputs = (np.rint(array) for array in (kernel, bias, outputs))
    return kernel, bias, outputs, rng.random(tokens) < 0.7, min(problem["best"], tokens)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@settings(max_examples=60, deadline=None)
@given(problem=softmaxes)
def test_the_softmax_and_its_likeliest_are_the_references(
    instructions: str, problem: dict[str, int]
) -> None:
    library.use(instructions)
    kernel, bias, outputs, allowed, best = _softmax_values(problem)
    wide = _PlainSoftmax(kernel.astype("float64"), bias.astype("float64"))
    one = softmax.Softmax(kernel, bias)
    nats = one.log_probabilities(outputs)
    close(nats, wide.log_probabilities(outputs), 2e-5)
    codes, found = one.likeliest(outputs, best, allowed)
    # Among its own numbers, to the last bit: the likeliest first, of equals the least code.
    masked = np.where(allowed, nats, -np.inf)
    order = np.argsort(-masked, axis=1, kind="stable")[:, :best]
    expected = np.take_along_axis(masked, order, axis=1)
    assert found.tobytes() == expected.astype("float32").tobytes()
    assert (codes == np.where(expected > -np.inf, order, -1)).all()


def test_a_softmax_too_large_to_be_held_at_once_is_the_reference() -> None:
    problem = {"members": 2, "rows": 40, "units": 3, "tokens": 60_000, "best": 3, "seed": 0}
    kernel, bias, outputs, *_ = _softmax_values(problem)
    wide = _PlainSoftmax(kernel.astype("float64"), bias.astype("float64"))
    nats = softmax.Softmax(kernel, bias).log_probabilities(outputs)
    close(nats, wide.log_probabilities(outputs), 2e-5)


@settings(max_examples=40, deadline=None)
@given(problem=softmaxes, start=st.integers(0, 14))
def test_a_row_of_the_softmax_has_the_same_bits_in_any_batch_and_on_any_threads(
    problem: dict[str, int], start: int
) -> None:
    kernel, bias, outputs, allowed, best = _softmax_values(problem)
    one = softmax.Softmax(kernel, bias)
    library.use(threads=1)
    nats, (codes, found) = one.log_probabilities(outputs), one.likeliest(outputs, best, allowed)
    library.use(threads=3)
    some = slice(start, start + 1 + problem["seed"] % 3)
    assert one.log_probabilities(outputs).tobytes() == nats.tobytes()
    alone = outputs[:, some]
    assert one.log_probabilities(alone).tobytes() == nats[some].tobytes()
    for left, right in zip(one.likeliest(alone, best, allowed), (codes, found), strict=True):
        assert left.tobytes() == right[some].tobytes()


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_the_softmax_of_nan_is_nan_and_of_no_other_row(instructions: str) -> None:
    library.use(instructions)
    problem = {"members": 2, "rows": 7, "units": 5, "tokens": 40, "best": 3, "seed": 0}
    kernel, bias, outputs, allowed, best = _softmax_values(problem)
    one = softmax.Softmax(kernel, bias)
    clean = one.log_probabilities(outputs)
    outputs[1, 4, 2] = np.nan
    nats, (_, found) = one.log_probabilities(outputs), one.likeliest(outputs, best, allowed)
    assert np.isnan(nats[4]).all()
    others = np.arange(7) != 4
    assert nats[others].tobytes() == clean[others].tobytes()
    assert np.isfinite(found[others]).all()


def test_a_softmax_of_wrong_buffers_or_sizes_is_refused() -> None:
    kernel, bias = np.zeros((1, 3, 5), "float32"), np.zeros((1, 5), "float32")
    outputs, packed = np.zeros((1, 2, 3), "float32"), np.zeros(4096, np.uint8)
    nats, codes = np.zeros((2, 5), "float32"), np.zeros((2, 5), "int32")
    given = {"kernel": kernel, "bias": bias, "packed": packed, "outputs": outputs}
    good = {n: library.address(v) for n, v in (given | {"nats": nats, "codes": codes}).items()}
    good |= {"members": 1, "rows": 2, "units": 3, "tokens": 5, "best": 2}

    def status(**changed: Any) -> int:
        arguments = affine._Arguments(**good | changed)
        return LIBRARY.statecast_softmax(ctypes.byref(arguments))

    assert status() == 0
    wrong = ({"packed": None}, {"outputs": None}, {"nats": None}, {"codes": None}, {"best": 0})
    sizes = ({"members": 0}, {"units": 0}, {"tokens": 0}, {"rows": -1})
    assert all(status(**changed) == 1 for changed in (*wrong, *sizes))
    assert all(status(**changed) == 2 for changed in ({"best": 6}, {"units": 1 << 40}))
