"""The score of a head of quantiles in the native library, compared with ``heads`` in float64."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native_library import BUILT, INSTRUCTIONS, LIBRARY, Values, close
from statecast.recurrence.kernels.native import library, quantiles

pytestmark = pytest.mark.skipif(not BUILT, reason=f"native: {LIBRARY}")


scores = st.fixed_dictionaries(
    {
        "sizes": st.tuples(
            st.integers(1, 3), st.integers(0, 40), st.integers(0, 20), st.integers(1, 70)
        ),
        "quantiles": st.sampled_from([3, 5, 11, 17, 33]),
        "before": st.booleans(),
        "seed": st.integers(0, 2**32),
    }
)


def _score_values(problem: dict[str, Any], dtype: str) -> tuple[quantiles.Spec, Values]:
    rng = np.random.default_rng(problem["seed"])
    size = problem["quantiles"]
    spec = quantiles.Spec(
        tuple(np.linspace(0.02, 0.98, size)), tuple(rng.normal(size=size - 1)), 1e-3
    )
    values = {
        n: (2 * rng.standard_normal(shape)).astype(dtype)
        for n, shape in quantiles._shapes(problem["sizes"], size).items()
        if n != "score" and (problem["before"] or n not in ("first", "last"))
    }
    values["weight"] = np.abs(values["weight"]) * (rng.random(values["weight"].shape) < 0.8)
    values["kernel"] /= np.asarray(problem["sizes"][-1] ** 0.5, dtype)
    return spec, {n: np.ascontiguousarray(v, dtype) for n, v in values.items()}


def _score(spec: quantiles.Spec, values: Values, given: np.ndarray) -> tuple[np.ndarray, Values]:
    """The score, and the gradients of ``sum(given * score)``."""
    outputs = values["outputs"]
    score = np.full(outputs.shape[:2], np.nan, outputs.dtype)
    pointers = {n: library.address(v) for n, v in (values | {"score": score}).items()}
    arguments = quantiles._Score(
        library.DTYPES[outputs.dtype.name], *outputs.shape, len(spec.levels),
        smallest=spec.smallest, levels=quantiles._doubles(spec.levels),
        gaps=quantiles._doubles(spec.gaps), **pointers,
    )  # fmt: skip
    assert LIBRARY.statecast_score(ctypes.byref(arguments)) == 0
    found = {n: np.full_like(v, np.nan) for n, v in values.items() if n not in quantiles.DATA}
    pointers = {f"d{n}": library.address(v) for n, v in (found | {"score": given}).items()}
    gradients = quantiles._Gradients(arguments, **pointers)
    assert LIBRARY.statecast_score_gradients(ctypes.byref(gradients)) == 0
    return score, found


def _score_reference(spec: quantiles.Spec, values: Mapping[str, Any]) -> np.ndarray:
    outputs, taken = values["outputs"], values["taken"]
    if "first" in values:
        outputs = np.concatenate([values["first"][:, :, None], outputs], axis=2)[:, :, :-1]
        taken = np.concatenate([values["last"][..., None], taken], axis=2)[..., :-1]
    raw = np.einsum("mntu,muq->mntq", outputs, values["kernel"]) + values["base"][:, :, None]
    m = len(spec.gaps) // 2
    median = raw[..., m : m + 1] + (values["decay"][:, None, None] * taken)[..., None]
    x = np.delete(raw, m, axis=-1) + np.array(spec.gaps)
    # By its smaller exponential, so that the imaginary axis keeps its digits.
    gaps = np.where(x.real > 0, x, 0) + np.log(1 + np.exp(np.where(x.real > 0, -x, x)))
    gaps = gaps + spec.smallest
    below = np.cumsum(gaps[..., :m][..., ::-1], axis=-1)[..., ::-1]
    curve = np.concatenate(
        [median - below, median, median + np.cumsum(gaps[..., m:], axis=-1)], axis=-1
    )
    error: Any = values["target"][..., None] - curve
    levels = np.array(spec.levels)
    loss = np.where(error.real > 0, levels, levels - 1) * error
    return (values["weight"] * 2 * loss.mean(axis=-1)).sum(axis=-1)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-12)])
@settings(max_examples=30, deadline=None)
@given(problem=scores)
def test_scores_and_their_gradients_are_the_references(
    instructions: str, dtype: str, tolerance: float, problem: dict[str, Any]
) -> None:
    library.use(instructions)
    spec, values = _score_values(problem, dtype)
    wide = {n: v.astype("float64") for n, v in values.items()}
    rng = np.random.default_rng(problem["seed"])
    given = rng.standard_normal(values["outputs"].shape[:2]).astype(dtype)
    score, gradients = _score(spec, values, given)
    steps = values["outputs"].shape[2]
    close(score, _score_reference(spec, wide), tolerance * (1 + steps))
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), name
        if gradient.size:
            way = rng.choice([-1.0, 1.0], gradient.shape)
            moved = {n: v.astype("complex128") for n, v in wide.items()}
            moved[name] = moved[name] + 1e-40j * way
            slopes: Any = _score_reference(spec, moved)
            expected = float((given * slopes.imag).sum()) / 1e-40
            # Terms that cancel: of every row and step in a weight's, of every quantile in all.
            size = np.abs(gradient).sum() + (0.1 * (1 + values["taken"].size))
            error = abs(float((gradient.astype("float64") * way).sum()) - expected)
            assert error <= tolerance * size, name


@settings(max_examples=30, deadline=None)
@given(problem=scores, start=st.integers(0, 39))
def test_a_score_has_the_same_bits_in_any_batch_and_on_any_threads(
    problem: dict[str, Any], start: int
) -> None:
    spec, values = _score_values(problem, "float32")
    shape = values["outputs"].shape[:2]
    given = np.random.default_rng(1).standard_normal(shape).astype("float32")
    library.use(threads=1)
    score, gradients = _score(spec, values, given)
    library.use(threads=3)
    again, others = _score(spec, values, given)
    assert score.tobytes() == again.tobytes()
    assert all(found.tobytes() == others[n].tobytes() for n, found in gradients.items())
    if start < shape[1]:
        shared = ("kernel", "decay")
        some = slice(start, start + 1 + problem["seed"] % 3)
        alone = {n: v if n in shared else v[:, some].copy() for n, v in values.items()}
        apart, found = _score(spec, alone, given[:, some].copy())
        assert apart.tobytes() == score[:, some].tobytes()
        for n in set(found) - set(shared):
            assert found[n].tobytes() == gradients[n][:, some].tobytes(), n


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("name", quantiles.ORDER)
def test_a_score_of_nan_is_nan_and_of_no_other_row(instructions: str, name: str) -> None:
    library.use(instructions)
    problem = {"sizes": (1, 4, 5, 6), "quantiles": 5, "before": True, "seed": 0}
    spec, values = _score_values(problem, "float32")
    given = np.ones((1, 4), "float32")
    clean, _ = _score(spec, values, given)
    hit = values[name].reshape(-1)
    hit[0] = np.nan
    score, gradients = _score(spec, values, given)
    assert np.isnan(score[0, 0])
    assert np.isnan(gradients["kernel"]).any()
    assert np.isnan(gradients["base"][0, 0]).any()
    if name not in ("kernel", "decay"):
        assert score[0, 1:].tobytes() == clean[0, 1:].tobytes()


def test_a_score_of_buffers_that_do_not_go_together_is_refused() -> None:
    problem = {"sizes": (1, 4, 5, 6), "quantiles": 5, "before": True, "seed": 0}
    spec, values = _score_values(problem, "float32")
    score = np.empty((1, 4), "float32")
    good = {n: library.address(v) for n, v in (values | {"score": score}).items()}
    good |= {n: quantiles._doubles(getattr(spec, n)) for n in ("levels", "gaps")}

    def status(**changed: Any) -> int:
        sizes = [changed.pop(n, default) for n, default in (("units", 6), ("quantiles", 5))]
        arguments = quantiles._Score(0, 1, 4, 5, *sizes, **good | changed)
        return LIBRARY.statecast_score(ctypes.byref(arguments))

    assert status() == 0
    wrong = ({"first": None}, {"last": None}, {"target": None}, {"levels": None})
    assert all(status(**changed) == 1 for changed in (*wrong, {"quantiles": 4}, {"units": 0}))
    assert status(units=1 << 40) == 2
