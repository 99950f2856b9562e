"""The native kernel, called by its C interface and held to ``cells.py`` in float64."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from statecast import cells
from statecast.errors import ArgumentError, KernelError, StateError
from statecast.recurrence.kernels.native import affine, calls, library, quantiles, softmax
from statecast.recurrence.kernels.native.arrays import Recurrence
from statecast.tokens.engine import _PlainSoftmax

LIBRARY = library.find()
pytestmark = pytest.mark.skipif(isinstance(LIBRARY, str), reason=f"native: {LIBRARY}")

KINDS = {"lstm": cells.LSTM, "gru": cells.GRU, "rnn": cells.SimpleRNN}
FLAGS = ("mask", "resets", "observed")
SHARED = ("w", "u", "bias", "feed", "decay")  # by all rows
WEIGHTS = {"kernel": "w", "recurrent_kernel": "u", "bias": "bias"}


def _instructions() -> list[str]:
    """Those built that this machine has."""
    if isinstance(LIBRARY, str):
        return []
    names = LIBRARY.statecast_built().decode().split(",")
    found = [name for name in names if not LIBRARY.statecast_use(name.encode())]
    library.use()
    return found


INSTRUCTIONS = _instructions()


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    yield
    library.use()


Values = dict[str, np.ndarray]


def _values(
    cell: Any,
    sizes: tuple[int, int, int, int],
    seed: int = 0,
    mask: bool = False,
    resets: bool = False,
    closed: bool = False,
    dtype: str = "float32",
) -> Values:
    """Random buffers by the library's names, of ``(members, rows, steps, inputs)``."""
    members, rows, steps, inputs = sizes
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_normal((members, *shape)) * 0.7).astype(dtype)

    values = {"x": draw(rows, steps, inputs)}
    for name, shape in cell.weight_shapes(inputs).items():
        values[WEIGHTS[name]] = draw(*shape)
    values["u"] /= np.asarray(cell.units**0.5, dtype)  # else a step is chaos, whoever takes it
    values |= {f"{leaf}0": draw(rows, cell.units) for leaf in cell.state_shapes}
    if mask:
        values["mask"] = rng.random((members, rows, steps)) < 0.6
    if resets:
        values["resets"] = rng.random((members, rows, steps)) < 0.3
        values |= {f"{leaf}r": draw(rows, cell.units) for leaf in cell.state_shapes}
    if closed:
        values["observed"] = rng.random((members, rows, steps)) < 0.5
        values |= {
            "feed": draw(cell.units),
            "base": draw(rows),
            "decay": draw(),
            "last": draw(rows),
        }
        values["feed"] /= np.asarray(cell.units**0.5, dtype)
        values["decay"] /= np.asarray(2, dtype)
    return values


def _empty(cell: Any, values: Values) -> Values:
    shape = values["x"].shape[:-1]
    outputs = {"y": (*shape, cell.units)}
    outputs |= {f"{leaf}n": (*shape[:-1], cell.units) for leaf in cell.state_shapes}
    if "observed" in values:
        outputs["fed"] = shape
    return {n: np.full(s, np.nan, values["x"].dtype) for n, s in outputs.items()}


def _forward(cell: Any, values: Values, save: bool = False) -> Values:
    """y, hn, cn, and what backward needs."""
    outputs = _empty(cell, values)
    pointers = {n: library.address(v) for n, v in (values | outputs).items()}
    arguments = calls.arguments(cell, values["x"].dtype.name, values["x"].shape, **pointers)
    if save:  # filled, so that what is read without having been written shows
        outputs["saved"] = np.full(calls.saved_bytes(arguments) + 64, 255, np.uint8)
        arguments.saved = library.address(outputs["saved"])
    assert LIBRARY.statecast_forward(ctypes.byref(arguments)) == 0
    if save:
        assert (outputs["saved"][-64:] == 255).all()
    return outputs


def _backward(cell: Any, values: Values, given: Values, dx: bool = True) -> Values:
    """The gradients of ``sum(given * outputs)``, by the names of the values."""
    outputs = _forward(cell, values, save=True)
    found = {
        n: np.full_like(v, np.nan) for n, v in values.items() if n not in FLAGS and (dx or n != "x")
    }
    pointers = {n: library.address(v) for n, v in (values | outputs).items()}
    arguments = library.Backward(
        calls.arguments(cell, values["x"].dtype.name, values["x"].shape, **pointers),
        **{f"d{n}": library.address(v) for n, v in (given | found).items()},
    )
    assert LIBRARY.statecast_backward(ctypes.byref(arguments)) == 0
    return found


def _given(cell: Any, values: Values, seed: int) -> Values:
    rng = np.random.default_rng(seed)
    return {
        n: rng.standard_normal(v.shape).astype(v.dtype) for n, v in _empty(cell, values).items()
    }


def _reference(cell: Any, values: Mapping[str, np.ndarray]) -> Values:
    """Step after step, in whatever NumPy type the values have."""
    weights = {name: values[n] for name, n in WEIGHTS.items() if n in values}
    state = {leaf: values[f"{leaf}0"] for leaf in cell.state_shapes}
    x, ys = values["x"], []
    last = np.zeros((*x.shape[:2], cell.units), x.dtype)
    feds, fed = [], values.get("last", np.zeros(x.shape[:2]))
    for t in range(x.shape[2]):
        now = x[..., t, :]
        if "resets" in values:
            put = values["resets"][..., t, None]
            state = {leaf: np.where(put, values[f"{leaf}r"], v) for leaf, v in state.items()}
        if "observed" in values:
            own = np.einsum("mnu,mu->mn", state["h"], values["feed"]) + values["base"]
            own = own + values["decay"][:, None] * fed
            value = np.where(values["observed"][..., t], now[..., 0], own)
            fed = np.where(values["mask"][..., t], value, fed) if "mask" in values else value
            feds.append(fed)
            now = np.concatenate([value[..., None], now[..., 1:]], axis=-1)
        y, after = cell.step(weights, now, state, np)
        if "mask" in values:
            on = values["mask"][..., t, None]
            after = {leaf: np.where(on, v, state[leaf]) for leaf, v in after.items()}
            y = np.where(on, y, last)
        state, last = after, y
        ys.append(y)
    shape = (*x.shape[:-1], cell.units)
    outputs = {"y": np.stack(ys, axis=2) if ys else np.zeros(shape, x.dtype)}
    if "observed" in values:
        outputs["fed"] = np.stack(feds, axis=2) if feds else np.zeros(shape[:-1], x.dtype)
    return outputs | {f"{leaf}n": value for leaf, value in state.items()}


def _slope(
    cell: Any, values: Values, given: Values, name: str, way: np.ndarray
) -> tuple[float, float]:
    """How ``sum(given * outputs)`` changes along ``way`` in one of the values, and the sum of its
    terms' absolute values: a step along the imaginary axis, which is exact in float64 (Squire and
    Trapp 1998)."""
    complexes = {n: v if v.dtype == bool else v.astype("complex128") for n, v in values.items()}
    complexes[name] = complexes[name] + 1e-40j * way
    outputs: dict[str, Any] = _reference(cell, complexes)
    terms = np.concatenate([(given[n] * outputs[n].imag).ravel() for n in given]) / 1e-40
    return float(terms.sum()), float(np.abs(terms).sum())


# Rounding errors allowed in a sum: so many times the dtype's epsilon times the sum of its terms'
# absolute values, for terms may cancel. In 166 random problems on three instruction sets the
# largest error of a gradient was 5 epsilons, in float32 as in float64.
EPSILONS = 40


def _close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Equal, relative to the largest of the array; sums of terms near 1 may cancel."""
    assert found.shape == expected.shape
    scale = np.abs(expected).max(initial=0.1)
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max(initial=0) <= tolerance * scale


problems = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(sorted(KINDS)),
        "bias": st.booleans(),
        "units": st.one_of(st.integers(1, 40), st.sampled_from([64, 96, 100, 128, 130])),
        "sizes": st.tuples(
            st.integers(1, 3),
            st.integers(0, 45),
            st.integers(0, 9),
            st.one_of(st.integers(0, 20), st.just(33)),
        ),
        "mask": st.booleans(),
        "between": st.sampled_from(["nothing", "resets", "closed"]),
        "seed": st.integers(0, 2**32),
    }
)


def _drawn(problem: dict[str, Any], dtype: str) -> tuple[Any, Values]:
    cell = KINDS[problem["kind"]](problem["units"], use_bias=problem["bias"])
    options = {name: problem[name] for name in ("seed", "mask")}
    if problem["between"] == "resets" or problem["sizes"][3] > 0:  # nothing is fed to no input
        options |= {problem["between"]: True} if problem["between"] != "nothing" else {}
    return cell, _values(cell, problem["sizes"], dtype=dtype, **options)


# Two problems in which the terms of a gradient nearly cancel: of `base`, and of `decay`.
CANCELLING: dict[str, Any] = {
    "kind": "gru", "bias": False, "units": 64, "sizes": (1, 1, 9, 33), "mask": False,
    "between": "closed", "seed": 1,
}  # fmt: skip
CANCELLING_DECAY: dict[str, Any] = {
    "kind": "rnn", "bias": True, "units": 128, "sizes": (1, 2, 6, 16), "mask": True,
    "between": "closed", "seed": 3087975465,
}  # fmt: skip


# -- right -------------------------------------------------------------------------------------


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=40, deadline=None)
@example(problem=CANCELLING)
@example(problem=CANCELLING_DECAY)
@given(problem=problems)
def test_outputs_and_gradients_are_the_references(
    instructions: str, dtype: str, problem: dict[str, Any]
) -> None:
    library.use(instructions)
    tolerance = EPSILONS * float(np.finfo(dtype).eps)
    cell, values = _drawn(problem, dtype)
    wide = {n: v if v.dtype == bool else v.astype("float64") for n, v in values.items()}
    outputs = _forward(cell, values)
    for name, expected in _reference(cell, wide).items():
        _close(outputs[name], expected, tolerance)
    saving = _forward(cell, values, save=True)
    assert all(saving[name].tobytes() == found.tobytes() for name, found in outputs.items())
    given = _given(cell, values, problem["seed"])
    rng = np.random.default_rng(problem["seed"])
    for name, gradient in _backward(cell, values, given).items():
        assert np.isfinite(gradient).all(), name
        if gradient.size:
            way = rng.choice([-1.0, 1.0], gradient.shape)
            expected, terms = _slope(cell, wide, given, name, way)
            size = max(float(np.abs(gradient).sum(dtype="float64")), terms)
            error = abs(float((gradient.astype("float64") * way).sum()) - expected)
            assert error <= tolerance * size, name


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_steps_stay_close(kind: str) -> None:
    """Float32 rounding compounds over the steps; on these weights to no more than this."""
    cell = KINDS[kind](24)
    values = _values(cell, (1, 7, 1000, 3), seed=1)
    wide = {n: v.astype("float64") for n, v in values.items()}
    for name, expected in _reference(cell, wide).items():
        _close(_forward(cell, values)[name], expected, 2e-6)
    given = _given(cell, values, 2)
    way = np.random.default_rng(3).choice([-1.0, 1.0], values["u"].shape)
    gradient = _backward(cell, values, given)["u"]
    expected, _ = _slope(cell, wide, given, "u", way)
    assert abs((gradient * way).sum() - expected) <= 2e-6 * np.abs(gradient).sum()


@settings(max_examples=30, deadline=None)
@given(problem=problems, start=st.integers(0, 44))
def test_a_row_has_the_same_bits_in_any_batch(problem: dict[str, Any], start: int) -> None:
    cell, values = _drawn(problem, "float32")
    rows = values["x"].shape[1]
    if start >= rows:
        return
    some = slice(start, start + 1 + problem["seed"] % 3)
    alone = {n: v if n in SHARED else v[:, some].copy() for n, v in values.items()}
    given = _given(cell, values, 1)
    together, apart = _forward(cell, values), _forward(cell, alone)
    for name, found in apart.items():
        assert found.tobytes() == together[name][:, some].tobytes(), name
    together = _backward(cell, values, given)
    apart = _backward(cell, alone, {n: v[:, some].copy() for n, v in given.items()})
    for name in set(apart) - set(SHARED):
        assert apart[name].tobytes() == together[name][:, some].tobytes(), name


@settings(max_examples=20, deadline=None)
@given(problem=problems)
def test_threads_change_no_bit(problem: dict[str, Any]) -> None:
    cell, values = _drawn(problem, "float32")
    given, found = _given(cell, values, 1), []
    for threads in (1, 2, 5):
        library.use(threads=threads)
        found.append(_forward(cell, values) | _backward(cell, values, given))
    for name, first in found[0].items():
        assert all(first.tobytes() == other[name].tobytes() for other in found[1:]), name


# -- the score of quantiles --------------------------------------------------------------------

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
    _close(score, _score_reference(spec, wide), tolerance * (1 + steps))
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


# -- the softmax over tokens -------------------------------------------------------------------

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
    _close(nats, wide.log_probabilities(outputs), 2e-5)
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
    _close(nats, wide.log_probabilities(outputs), 2e-5)


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


# -- the rest ----------------------------------------------------------------------------------


def test_a_gradient_that_is_not_asked_for_changes_no_other() -> None:
    cell = cells.LSTM(9)
    values = _values(cell, (2, 11, 4, 3))
    given = _given(cell, values, 1)
    whole, without = _backward(cell, values, given), _backward(cell, values, given, dx=False)
    assert set(whole) - set(without) == {"x"}
    assert all(without[name].tobytes() == whole[name].tobytes() for name in without)
    zeros = {n: np.zeros_like(v) for n, v in given.items()}
    some = _backward(cell, values, zeros | {"y": given["y"]})
    only = _backward(cell, values, {"y": given["y"]})
    assert all(only[name].tobytes() == some[name].tobytes() for name in only)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("instructions", "units"), [(name, u) for name in INSTRUCTIONS for u in (17, 100)]
)
def test_nan_and_infinity_go_where_arithmetic_sends_them(
    bad: float, kind: str, instructions: str, units: int
) -> None:
    library.use(instructions)
    cell = KINDS[kind](units)
    tiles = instructions == "amx" and units == 100  # which split an infinity into inf - inf
    values = _values(cell, (1, 8, 5, 2))
    clean = _forward(cell, values)
    for name in values:
        hit = {n: v.copy() for n, v in values.items()}
        hit[name].flat[hit[name].size // 2] = bad
        outputs = _forward(cell, hit)
        with np.errstate(all="ignore"):
            expected = _reference(cell, {n: v.astype("float64") for n, v in hit.items()})
        for output, right in expected.items():
            nan = np.isnan(outputs[output])
            # A gate that is shut in float64 may be open by 1e-8 in float32: 0 * inf.
            assert (nan == np.isnan(right)).all() or (np.isinf(bad) and (kind == "gru" or tiles))
            assert np.isnan(right[nan]).all() or (np.isinf(bad) and tiles)
            both = np.isfinite(outputs[output]) & np.isfinite(right)
            _close(outputs[output][both], right[both], 1e-5)
        assert outputs["y"].tobytes() != clean["y"].tobytes(), name
        if name in ("x", "h0", "c0"):  # the other rows do not know
            row = 4
            others = [r for r in range(8) if r != row]
            assert outputs["y"][:, others].tobytes() == clean["y"][:, others].tobytes()
        if np.isnan(bad) and name not in ("c0",):
            gradients = _backward(cell, hit, _given(cell, values, 1))
            assert np.isnan(gradients["u"]).any()


def test_what_a_masked_step_holds_is_not_seen() -> None:
    cell = cells.LSTM(5)
    values = _values(cell, (1, 6, 4, 2), mask=True)
    hidden = values | {"x": np.where(values["mask"][..., None], values["x"], np.float32(np.nan))}
    given = _given(cell, values, 1)
    seen, unseen = _forward(cell, values), _forward(cell, hidden)
    assert all(seen[name].tobytes() == unseen[name].tobytes() for name in seen)
    seen, unseen = _backward(cell, values, given), _backward(cell, hidden, given)
    assert all(seen[name].tobytes() == unseen[name].tobytes() for name in seen)


# -- safe ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "units", "status"),
    [
        ((1, 2**62, 4, 1), 8, 2),
        ((1, 4, 2**62, 1), 8, 2),
        ((2**62, 4, 4, 1), 8, 2),
        ((1, 4, 4, 2**40), 8, 2),
        ((1, 4, 4, 1), 2**40, 2),
        ((1, -1, 4, 1), 8, 1),
        ((1, 4, 4, 1), 0, 1),
        ((1, 4, 4, 1), 8, 1),  # no buffers
    ],
)
def test_sizes_that_overflow_and_missing_buffers_are_refused(
    sizes: tuple[int, int, int, int], units: int, status: int
) -> None:
    arguments = library.Forward(2, 0, *sizes, units)
    assert LIBRARY.statecast_forward(ctypes.byref(arguments)) == status
    assert LIBRARY.statecast_backward(ctypes.byref(library.Backward(arguments))) == status
    with pytest.raises(KernelError, match="native kernel failed"):
        library.check(status)


def test_threads_of_the_caller_do_not_meet() -> None:
    cell = cells.GRU(20)
    jobs = [_values(cell, (1, 40, 12, 3), seed=seed) for seed in range(8)]
    given = _given(cell, jobs[0], 1)
    expected = [_backward(cell, values, given) for values in jobs]
    found: list[list[Values]] = [[] for _ in jobs]

    def work(i: int) -> None:
        for _ in range(20):
            found[i].append(_backward(cell, jobs[i], given))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, right in zip(found, expected, strict=True):
        assert len(mine) == 20
        for values in mine:
            assert all(values[name].tobytes() == right[name].tobytes() for name in right)


FORK = """
import os, sys, numpy as np
from statecast.recurrence.cells import LSTM
from statecast.recurrence.kernels.native.arrays import Recurrence
from statecast.recurrence.kernels.native.library import use
cell = LSTM(8)
rng = np.random.default_rng(0)
draw = lambda shape: rng.standard_normal(shape).astype("float32")
weights = {n: draw(s) for n, s in cell.weight_shapes(2).items()}
x, state = draw((100, 6, 2)), {"h": draw((100, 8)), "c": draw((100, 8))}
if "torch" in sys.argv:  # on PyTorch's threads before the fork
    os.environ["KERAS_BACKEND"] = "torch"
    import torch
    from statecast.recurrence import run as recurrence
    torch.set_num_threads(2)
    tensor = lambda values: {n: torch.tensor(v) for n, v in values.items()}
    call = lambda: recurrence.run(cell, tensor(weights), torch.tensor(x), tensor(state),
                                  kernel="native")[0].numpy()
else:
    use(threads=3)
    own = Recurrence(cell, weights)
    call = lambda: own.run(x, state)[0]
call()
before = call()
child = os.fork()
after = call()
if child == 0:
    os._exit(0 if after.tobytes() == before.tobytes() else 3)
assert os.waitpid(child, 0)[1] == 0 and after.tobytes() == before.tobytes()
print("same")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.parametrize("threads", ["own", "torch"])
def test_it_works_after_fork(threads: str) -> None:
    pytest.importorskip("torch") if threads == "torch" else None
    done = subprocess.run(
        [sys.executable, "-c", FORK, threads],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "same\n", done.stderr


@pytest.mark.slow
def test_nothing_leaks_over_a_hundred_thousand_calls() -> None:
    resource = pytest.importorskip("resource")
    cell = cells.LSTM(4)
    values = _values(cell, (1, 3, 2, 2))
    outputs = _forward(cell, values)
    pointers = {n: library.address(v) for n, v in (values | outputs).items()}
    arguments = calls.arguments(cell, "float32", values["x"].shape, **pointers)
    most = []
    for _ in range(2):
        for _ in range(50_000):
            LIBRARY.statecast_forward(ctypes.byref(arguments))
        most.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert most[1] - most[0] < 1024  # kilobytes


# -- on NumPy arrays, and where it is not there ----------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [cells.LSTM(5), cells.GRU(3, use_bias=False), cells.Stack([cells.LSTM(4), cells.SimpleRNN(2)])],
    ids=repr,
)
def test_a_recurrence_on_arrays_is_the_reference(cell: Any) -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=s) for name, s in cell.weight_shapes(3).items()}
    state = {leaf: rng.normal(size=(4, *s)) for leaf, s in cell.state_shapes.items()}
    x = rng.normal(size=(4, 6, 3))
    recurrence = Recurrence(cell, weights, dtype="float64")
    y, after = recurrence.run(x, state)
    one = state
    for t in range(6):
        expected, state = cell.step(weights, x[:, t], state, np)
        np.testing.assert_allclose(y[:, t], expected, rtol=1e-12, atol=1e-13)
        stepped, one = recurrence.step(x[:, t], one)
        assert stepped.tobytes() == y[:, t].tobytes()
    for leaf, value in state.items():
        np.testing.assert_allclose(after[leaf], value, rtol=1e-12, atol=1e-13)
        assert one[leaf].tobytes() == after[leaf].tobytes()


forks = st.fixed_dictionaries(
    {
        "kinds": st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=2),
        "units": st.one_of(st.integers(1, 40), st.sampled_from([64, 96, 130, 210, 250])),
        "width": st.one_of(st.integers(0, 20), st.just(33)),
        "codes": st.integers(0, 20),
        "rows": st.integers(0, 60),
        "sources": st.integers(1, 50),
        "seed": st.integers(0, 10_000),
    }
)


# Few rows and wide enough for a step to be shared among threads.
WIDE: dict[str, Any] = {
    "kinds": ["lstm", "gru"], "units": 250, "width": 3, "codes": 4, "rows": 5, "sources": 3,
    "seed": 0,
}  # fmt: skip


def _forked(problem: dict[str, Any], dtype: str) -> tuple[Recurrence, Any, Values, Values, Any]:
    """A recurrence, its cell and weights, a state, and what a step is given."""
    rng = np.random.default_rng(problem["seed"])
    layers = [KINDS[kind](problem["units"]) for kind in problem["kinds"]]
    cell, width, codes = cells.Stack(layers), problem["width"], problem["codes"]
    shapes = cell.weight_shapes(width + codes).items()
    weights = {n: rng.normal(size=s) / max(s[0], 1) ** 0.5 for n, s in shapes}
    leaves = cell.state_shapes.items()
    state = {n: rng.normal(size=(problem["sources"], *s)).astype(dtype) for n, s in leaves}
    rows = problem["rows"]
    given = {
        "x": rng.normal(size=(rows, width)),
        "code": rng.integers(0, codes, rows) if codes else None,
        "source": rng.integers(0, problem["sources"], rows),
    }
    return Recurrence(cell, weights, dtype=dtype, codes=codes), cell, weights, state, given


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=15)
@example(problem=WIDE, threads=2)
@given(problem=forks, threads=st.integers(1, 3))
def test_rows_that_go_on_from_one_have_the_bits_of_copies(
    instructions: str, dtype: str, problem: dict[str, Any], threads: int
) -> None:
    library.use(instructions, threads)
    recurrence, _, _, state, given = _forked(problem, dtype)
    y, after = recurrence.step(given["x"], state, given["code"], given["source"])
    copies = {n: leaf[given["source"]] for n, leaf in state.items()}
    stepped, left = recurrence.step(given["x"], copies, given["code"])
    library.use(instructions, 1)  # and a single thread takes whole rows, not parts of them
    expected, alone = recurrence.step(given["x"], copies, given["code"])
    assert y.tobytes() == stepped.tobytes() == expected.tobytes()
    for n, leaf in after.items():
        assert leaf.tobytes() == left[n].tobytes() == alone[n].tobytes()
    twice = None if given["code"] is None else np.stack([given["code"]] * 2, axis=1)
    ran, _ = recurrence.run(np.stack([given["x"]] * 2, axis=1), copies, twice)
    assert ran[:, 0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 5e-6), ("float64", 1e-12)])
@settings(max_examples=15)
@given(problem=forks)
def test_codes_are_the_one_hot_vectors_they_stand_for(
    instructions: str, dtype: str, tolerance: float, problem: dict[str, Any]
) -> None:
    library.use(instructions)
    recurrence, cell, weights, state, given = _forked(problem, dtype)
    y, after = recurrence.step(given["x"], state, given["code"], given["source"])
    ones = np.eye(recurrence.codes)[given["code"]] if recurrence.codes else given["x"][:, :0]
    rounded = {n: w.astype(dtype).astype("float64") for n, w in weights.items()}
    x = np.concatenate([given["x"].astype(dtype), ones], axis=1)
    before = {n: leaf[given["source"]].astype("float64") for n, leaf in state.items()}
    expected, left = cell.step(rounded, x, before, np)
    _close(y, expected, tolerance)
    for n, leaf in left.items():
        _close(after[n], leaf, tolerance)


def test_codes_and_sources_that_do_not_fit_are_refused() -> None:
    cell = cells.GRU(2)
    weights = {name: np.ones(shape) for name, shape in cell.weight_shapes(5).items()}
    with pytest.raises(ArgumentError, match=r"codes: expected .* from 0 to 5; received 6"):
        Recurrence(cell, weights, codes=6)
    recurrence, plain = Recurrence(cell, weights, codes=3), Recurrence(cell, weights)
    x, state, code = np.ones((4, 2)), {"h": np.ones((2, 2))}, np.array([0, 1, 2, 2])
    source = np.array([0, 1, 1, 0])
    with pytest.raises(ArgumentError, match="code: expected one of 3 at each step"):
        recurrence.step(x, state, source=source)
    with pytest.raises(ArgumentError, match="code: expected none"):
        plain.step(np.ones((4, 5)), state, code, source)
    with pytest.raises(ArgumentError, match=r"code: expected numbers from 0 to 2; received 0 to 3"):
        recurrence.step(x, state, np.array([0, 1, 2, 3]), source)
    with pytest.raises(ArgumentError, match=r"source: .* from 0 to 1; received -1 to 1"):
        recurrence.step(x, state, code, np.array([0, 1, 1, -1]))
    with pytest.raises(ArgumentError, match=r"source: .* shape \(4,\), received int64 of .*\(3,\)"):
        recurrence.step(x, state, code, source[:3])
    with pytest.raises(ArgumentError, match=r"code: expected whole numbers .* received float64"):
        recurrence.step(x, state, code * 1.0, source)
    with pytest.raises(StateError, match=r"leaf 'h': expected \(4, 2\), received \(2, 2\)"):
        recurrence.step(x, state, code)
    with pytest.raises(ArgumentError, match=r"source: .* the state has no rows; received 0 to 1"):
        recurrence.step(x, {"h": np.ones((0, 2))}, code, source)
    with pytest.raises(ArgumentError, match=r"x: expected \(rows, 2\) beside code for the other 3"):
        recurrence.step(np.ones((4, 5)), state, code, source)
    with pytest.raises(StateError, match=r"mapping of the leaves \['h'\], received tuple"):
        recurrence.step(x, (np.ones((2, 2)),), code, source)  # type: ignore[arg-type]
    wrong: Any
    for wrong in (np.array([["a", "b"]] * 4), [[1.0], [2.0, 3.0]], x * 1j, None):
        with pytest.raises(ArgumentError, match="x: expected an array of numbers"):
            recurrence.step(wrong, state, code, source)
        with pytest.raises(ArgumentError, match="leaf 'h': expected an array of numbers"):
            recurrence.step(x, {"h": wrong}, code, source)
    y, _ = recurrence.step(x, state, code, source)
    assert y.shape == (4, 2)
    y, _ = recurrence.step(x[:0], state, [], [])  # type: ignore[arg-type]
    assert y.shape == (0, 2)


def test_a_recurrence_says_what_does_not_fit() -> None:
    cell = cells.LSTM(2)
    weights = {name: np.zeros(shape) for name, shape in cell.weight_shapes(3).items()}
    state = {leaf: np.zeros((4, 2)) for leaf in "hc"}
    recurrence = Recurrence(cell, weights)
    with pytest.raises(
        ArgumentError, match=r"x: expected \(rows, steps, 3\), received \(4, 5, 2\)"
    ):
        recurrence.run(np.zeros((4, 5, 2)), state)
    with pytest.raises(StateError, match=r"leaf 'c': expected \(4, 2\), received \(1, 2\)"):
        recurrence.run(np.zeros((4, 5, 3)), state | {"c": np.zeros((1, 2))})
    with pytest.raises(StateError, match=r"leaf 'c': expected \(4, 2\), received none"):
        recurrence.run(np.zeros((4, 5, 3)), {"h": state["h"]})
    with pytest.raises(StateError, match=r"expected the leaves \['h', 'c'\]"):
        recurrence.run(np.zeros((4, 5, 3)), state | {"x": state["h"]})
    with pytest.raises(ArgumentError, match="weights: expected the shapes"):
        Recurrence(cell, {"kernel": weights["kernel"]})
    with pytest.raises(ArgumentError, match="the activation is 'relu'"):
        Recurrence(cells.LSTM(2, activation="relu"), weights)
    with pytest.raises(ArgumentError, match="expected float32 or float64"):
        Recurrence(cell, weights, dtype="float16")
    y, _ = recurrence.run(np.zeros((4, 5, 3)), state)
    assert y.shape == (4, 5, 2)


def test_unknown_instructions_are_refused() -> None:
    used = library.status()
    with pytest.raises(ArgumentError, match="received 'mmx'"):
        library.use("mmx")
    assert library.status() == used


def test_without_the_library_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find", lambda: "it was not built")
    assert library.status() == "it was not built"
    cell = cells.SimpleRNN(1)
    with pytest.raises(KernelError, match="cannot run: it was not built"):
        Recurrence(cell, {n: np.zeros(s) for n, s in cell.weight_shapes(1).items()})
