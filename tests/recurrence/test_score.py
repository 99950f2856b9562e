"""The scores of heads in the native library, compared with their definitions in float64."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf, loggamma

from native_library import BUILT, INSTRUCTIONS, LIBRARY, Values, close
from statecast.recurrence.kernels.native import library
from statecast.recurrence.kernels.native import score as native
from statecast.recurrence.kernels.native.library import FAMILIES, NativeHead

pytestmark = pytest.mark.skipif(not BUILT, reason=f"native: {LIBRARY}")


COUNTS = ("poisson", "negative_binomial")
scores = st.fixed_dictionaries(
    {
        "sizes": st.tuples(
            st.integers(1, 3), st.integers(0, 40), st.integers(0, 20), st.integers(1, 70)
        ),
        "family": st.sampled_from(FAMILIES[1:]),
        "quantiles": st.sampled_from([3, 5, 11, 17, 33]),
        "before": st.booleans(),
        "seed": st.integers(0, 2**32),
    }
)


def _head(problem: Mapping[str, Any], rng: np.random.Generator) -> NativeHead:
    family, size = problem["family"], problem["quantiles"]
    if family == "quantiles":
        levels = tuple(np.linspace(0.02, 0.98, size))
        return NativeHead(family, size, tuple(rng.normal(size=size - 1)), 1e-3, levels)
    if family in ("normal", "student_t"):
        # No smaller scale, which would multiply the rounding errors of the location. The slope of
        # a CRPS is at most 1; that of a likelihood grows with the inverse of the scale.
        heavy = family == "student_t"
        return NativeHead(family, 2 + heavy, (rng.normal(),), 1.0 if heavy else 0.3)
    # A small sharpness, so that means of all sizes have a slope, and no mean so large that the
    # rounding errors of its logarithm matter.
    scale = (rng.uniform(0.3, 3), rng.uniform(0.5, 3), rng.uniform(0.3, 1.2), 4.0, 6.0)
    more = (rng.normal(),) if family == "negative_binomial" else ()
    return NativeHead(family, 1 + len(more), (*scale, *more), 1e-6)


def _score_values(problem: dict[str, Any], dtype: str) -> tuple[NativeHead, Values]:
    rng = np.random.default_rng(problem["seed"])
    head = _head(problem, rng)
    values = {
        n: (2 * rng.standard_normal(shape)).astype(dtype)
        for n, shape in native._shapes(problem["sizes"], head.size).items()
        if n != "score" and (problem["before"] or n not in ("first", "last"))
    }
    values["weight"] = np.abs(values["weight"]) * (rng.random(values["weight"].shape) < 0.8)
    if problem["family"] in COUNTS:  # a half is rounded either way
        centre, location, scaling = head.gaps[:3]
        counts = np.round(centre * np.expm1(np.abs(values["target"])))
        values["target"] = ((np.log1p(counts / centre) - location) / scaling).astype(dtype)
    values["kernel"] /= np.asarray(problem["sizes"][-1] ** 0.5, dtype)
    return head, {n: np.ascontiguousarray(v, dtype) for n, v in values.items()}


def _score(head: NativeHead, values: Values, given: np.ndarray) -> tuple[np.ndarray, Values]:
    """The score, and the gradients of ``sum(given * score)``."""
    outputs = values["outputs"]
    score = np.full(outputs.shape[:2], np.nan, outputs.dtype)
    pointers = {n: library.address(v) for n, v in (values | {"score": score}).items()}
    arguments = native._Score(
        library.DTYPES[outputs.dtype.name], FAMILIES.index(head.family), *outputs.shape, head.size,
        smallest=head.smallest, levels=native._doubles(head.levels),
        gaps=native._doubles(head.gaps), **pointers,
    )  # fmt: skip
    assert LIBRARY.statecast_score(ctypes.byref(arguments)) == 0
    found = {n: np.full_like(v, np.nan) for n, v in values.items() if n not in native.DATA}
    pointers = {f"d{n}": library.address(v) for n, v in (found | {"score": given}).items()}
    gradients = native._Gradients(arguments, **pointers)
    assert LIBRARY.statecast_score_gradients(ctypes.byref(gradients)) == 0
    return score, found


def _score_reference(head: NativeHead, values: Mapping[str, Any]) -> np.ndarray:
    outputs, taken = values["outputs"], values["taken"]
    if "first" in values:
        outputs = np.concatenate([values["first"][:, :, None], outputs], axis=2)[:, :, :-1]
        taken = np.concatenate([values["last"][..., None], taken], axis=2)[..., :-1]
    raw = np.einsum("mntu,mup->mntp", outputs, values["kernel"]) + values["base"][:, :, None]
    at = head.size // 2 if head.family == "quantiles" else 0
    raw[..., at] = raw[..., at] + values["decay"][:, None, None] * taken
    loss = _LOSSES[head.family](head, raw, values["target"])
    return (values["weight"] * loss).sum(axis=-1)


# The losses, analytic in the raw numbers, so that a step along the imaginary axis gives a slope.


def _softplus(x: Any) -> Any:
    """By its smaller exponential, so that the imaginary axis keeps its digits."""
    return np.where(x.real > 0, x, 0) + np.log(1 + np.exp(np.where(x.real > 0, -x, x)))


def _limited(x: Any, low: float, high: float) -> Any:
    return np.where(x.real < low, low, np.where(x.real > high, high, x))


def _quantiles(head: NativeHead, raw: Any, target: Any) -> Any:
    m = head.size // 2
    median = raw[..., m : m + 1]
    gaps = _softplus(np.delete(raw, m, axis=-1) + np.array(head.gaps)) + head.smallest
    below = np.cumsum(gaps[..., :m][..., ::-1], axis=-1)[..., ::-1]
    curve = np.concatenate(
        [median - below, median, median + np.cumsum(gaps[..., m:], axis=-1)], axis=-1
    )
    error: Any = target[..., None] - curve
    levels = np.array(head.levels)
    return 2 * (np.where(error.real > 0, levels, levels - 1) * error).mean(axis=-1)


def _normal(head: NativeHead, raw: Any, target: Any) -> Any:
    scale = _softplus(raw[..., 1] + head.gaps[0]) + head.smallest
    w = (target - raw[..., 0]) / scale
    twice_density = np.exp(-(w**2) / 2) * np.sqrt(2 / np.pi)
    return scale * (w * erf(w / np.sqrt(2)) + twice_density - np.pi**-0.5)


def _student_t(head: NativeHead, raw: Any, target: Any) -> Any:
    scale = _softplus(raw[..., 1] + head.gaps[0]) + head.smallest
    w, n = (target - raw[..., 0]) / scale, 2.5 + 5 * np.exp(_limited(raw[..., 2], -6, 5))
    gammas = loggamma(n / 2 + 0.5) - loggamma(n / 2) - np.log(np.pi * n) / 2
    return np.log(scale) - gammas + (n + 1) / 2 * np.log(1 + w**2 / n)


def _counts(head: NativeHead, raw: Any, target: Any) -> tuple[np.ndarray, Any]:
    """The count and the mean."""
    centre, location, scaling, sharpness, most = head.gaps[:5]
    seen = _limited(location + scaling * target, 0, most)
    count = np.round(centre * np.expm1(seen.real))
    log = _softplus(sharpness * (location + scaling * raw[..., 0])) / sharpness
    return count, centre * np.expm1(_limited(log, 0, most)) + head.smallest


def _poisson(head: NativeHead, raw: Any, target: Any) -> Any:
    n, mean = _counts(head, raw, target)
    return mean - n * np.log(mean) + loggamma(n + 1)


def _negative_binomial(head: NativeHead, raw: Any, target: Any) -> Any:
    n, mean = _counts(head, raw, target)
    size = 1 / _limited(_softplus(raw[..., 1] + head.gaps[5]), 1e-4, 30)
    gammas = loggamma(n + size) - loggamma(size) - loggamma(n + 1)
    return (n + size) * np.log(1 + mean / size) - n * np.log(mean / size) - gammas


_LOSSES = {
    "quantiles": _quantiles,
    "normal": _normal,
    "student_t": _student_t,
    "poisson": _poisson,
    "negative_binomial": _negative_binomial,
}


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-12)])
@settings(max_examples=30, deadline=None)
@given(problem=scores)
def test_scores_and_their_gradients_are_the_references(
    instructions: str, dtype: str, tolerance: float, problem: dict[str, Any]
) -> None:
    library.use(instructions)
    if dtype == "float64":
        problem = problem | {"family": "quantiles"}
    elif problem["family"] in COUNTS:  # the exponential multiplies the location's rounding errors
        tolerance = 1e-5
    head, values = _score_values(problem, dtype)
    wide = {n: v.astype("float64") for n, v in values.items()}
    rng = np.random.default_rng(problem["seed"])
    given = rng.standard_normal(values["outputs"].shape[:2]).astype(dtype)
    score, gradients = _score(head, values, given)
    steps = values["outputs"].shape[2]
    close(score, _score_reference(head, wide), tolerance * (1 + steps))
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), name
        if gradient.size:
            way = rng.choice([-1.0, 1.0], gradient.shape)
            moved = {n: v.astype("complex128") for n, v in wide.items()}
            moved[name] = moved[name] + 1e-40j * way
            slopes: Any = _score_reference(head, moved)
            expected = float((given * slopes.imag).sum()) / 1e-40
            # Terms that cancel: of every row and step in a weight's, of every quantile in all.
            # Those of `decay` are the values times the gradients of the locations.
            size = np.abs(gradient).sum() + (0.1 * (1 + values["taken"].size))
            if name == "decay":
                terms = [values[n] * gradients[n] for n in ("taken", "last") if n in gradients]
                decay = values["decay"].astype("float64")
                size += sum((np.abs(t).T / np.abs(decay)).sum() for t in terms)
            error = abs(float((gradient.astype("float64") * way).sum()) - expected)
            assert error <= tolerance * size, name


@settings(max_examples=30, deadline=None)
@given(problem=scores, start=st.integers(0, 39))
def test_a_score_has_the_same_bits_in_any_batch_and_on_any_threads(
    problem: dict[str, Any], start: int
) -> None:
    head, values = _score_values(problem, "float32")
    shape = values["outputs"].shape[:2]
    given = np.random.default_rng(1).standard_normal(shape).astype("float32")
    library.use(threads=1)
    score, gradients = _score(head, values, given)
    library.use(threads=3)
    again, others = _score(head, values, given)
    assert score.tobytes() == again.tobytes()
    assert all(found.tobytes() == others[n].tobytes() for n, found in gradients.items())
    if start < shape[1]:
        shared = ("kernel", "decay")
        some = slice(start, start + 1 + problem["seed"] % 3)
        alone = {n: v if n in shared else v[:, some].copy() for n, v in values.items()}
        apart, found = _score(head, alone, given[:, some].copy())
        assert apart.tobytes() == score[:, some].tobytes()
        for n in set(found) - set(shared):
            assert found[n].tobytes() == gradients[n][:, some].tobytes(), n


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("family", FAMILIES[1:])
@pytest.mark.parametrize("name", native.ORDER)
def test_a_score_of_nan_is_nan_and_of_no_other_row(
    instructions: str, family: str, name: str
) -> None:
    library.use(instructions)
    problem = _problem(family)
    head, values = _score_values(problem, "float32")
    given = np.ones((1, 4), "float32")
    clean, _ = _score(head, values, given)
    hit = values[name].reshape(-1)
    hit[0] = np.nan
    score, gradients = _score(head, values, given)
    assert np.isnan(score[0, 0])
    assert np.isnan(gradients["kernel"]).any()
    assert np.isnan(gradients["base"][0, 0]).any()
    if name not in ("kernel", "decay"):
        assert score[0, 1:].tobytes() == clean[0, 1:].tobytes()


def _problem(family: str) -> dict[str, Any]:
    return {"sizes": (1, 4, 5, 6), "family": family, "quantiles": 5, "before": True, "seed": 0}


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_a_score_of_buffers_that_do_not_go_together_is_refused(family: str) -> None:
    head, values = _score_values(_problem(family), "float32")
    score = np.empty((1, 4), "float32")
    good = {n: library.address(v) for n, v in (values | {"score": score}).items()}
    good |= {n: native._doubles(getattr(head, n)) for n in ("levels", "gaps")}

    def status(dtype: int = 0, **changed: Any) -> int:
        own = {"head": FAMILIES.index(family), "units": 6, "parameters": head.size}
        kind, units, parameters = (changed.pop(n, default) for n, default in own.items())
        arguments = native._Score(dtype, kind, 1, 4, 5, units, parameters, **good | changed)
        return LIBRARY.statecast_score(ctypes.byref(arguments))

    assert status() == 0
    wrong: list[dict[str, Any]] = [{n: None} for n in ("first", "last", "target", "gaps")]
    wrong += [{"parameters": 4}, {"units": 0}, {"head": 0}, {"head": 6}]
    wrong += [{"levels": None}] if family == "quantiles" else [{"dtype": 1}]
    assert all(status(**changed) == 1 for changed in wrong)
    assert status(units=1 << 40) == 2
