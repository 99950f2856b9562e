"""The native library, called by its C interface and compared with ``cells.py`` in float64."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from effort import examples
from native_library import BUILT, INSTRUCTIONS, KINDS, LIBRARY, Values, close
from statecast import cells
from statecast.errors import KernelError
from statecast.recurrence.kernels.native import calls, library

pytestmark = pytest.mark.skipif(not BUILT, reason=f"native: {LIBRARY}")

LOOP = ("observed", "feed", "base", "decay", "last")
FLAGS = ("mask", "resets", "observed")
SHARED = {"w", "u", "bias", "feed", "decay"}  # by all rows
SHARED |= {f"{layer}/{n}" for layer in (1, 2) for n in ("w", "u", "bias")}
WEIGHTS = {"kernel": "w", "recurrent_kernel": "u", "bias": "bias"}


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
    halved, dtype = dtype == "bfloat16", "float32" if dtype == "bfloat16" else dtype

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_normal((members, *shape)) * 0.7).astype(dtype)

    values = {"x": draw(rows, steps, inputs)}
    layers = calls.layers_of(cell)
    for layer, one in enumerate(layers):
        start = f"{layer}/" if layer else ""
        for name, shape in one.weight_shapes(one.units if layer else inputs).items():
            values[start + WEIGHTS[name]] = draw(*shape)
        # Else a step is chaos, whoever takes it.
        for name in ["u", *["w"] * (layer > 0)]:
            values[start + name] /= np.asarray(one.units**0.5, dtype)
        values |= {f"{start}{leaf}0": draw(rows, one.units) for leaf in one.state_shapes}
    if mask:
        values["mask"] = rng.random((members, rows, steps)) < 0.6
    if resets:
        values["resets"] = rng.random((members, rows, steps)) < 0.3
        values |= {f"{leaf}r": draw(rows, cell.units) for leaf in cell.state_shapes}
    if closed:
        values["observed"] = rng.random((members, rows, steps)) < 0.5
        values |= {
            "feed": draw(layers[-1].units),
            "base": draw(rows),
            "decay": draw(),
            "last": draw(rows),
        }
        values["feed"] /= np.asarray(layers[-1].units ** 0.5, dtype)
        values["decay"] /= np.asarray(2, dtype)
    if halved:
        matrices = calls.matrices_of(cell)
        values |= {n: values[n].astype(ml_dtypes.bfloat16) for n in matrices}
    return values


def _doubles(values: Values) -> Values:
    return {n: v if v.dtype == bool else v.astype("float64") for n, v in values.items()}


def _empty(cell: Any, values: Values) -> Values:
    shape = values["x"].shape
    shapes = calls.shapes_of(cell, shape[:1], shape[1:])
    names = calls.outputs_of(cell, values)
    return {n: np.full(shapes[n], np.nan, values["x"].dtype) for n in names}


def _forward(cell: Any, values: Values, save: bool = False) -> Values:
    """y, hn, cn, and what backward needs."""
    outputs = _empty(cell, values)
    pointers = {n: library.address(v) for n, v in (values | outputs).items()}
    call = calls.call_of(cell, values["u"].dtype.name, values["x"].shape, **pointers)
    if save:  # filled, so that what is read without having been written shows
        outputs["saved"] = np.full(calls.saved_bytes(call) + 64, 255, np.uint8)
        calls.save_at(call, library.address(outputs["saved"]))
    calls.run_forward(call)
    if save:
        assert (outputs["saved"][-64:] == 255).all()
    return outputs


def _backward(cell: Any, values: Values, given: Values, dx: bool = True) -> Values:
    """The gradients of ``sum(given * outputs)``, by the names of the values."""
    outputs = _forward(cell, values, save=True)
    found = {
        n: np.full_like(v, np.nan, dtype=values["x"].dtype)
        for n, v in values.items()
        if n not in FLAGS and (dx or n != "x")
    }
    pointers = {n: library.address(v) for n, v in (values | outputs).items()}
    call = calls.call_of(cell, values["u"].dtype.name, values["x"].shape, **pointers)
    calls.run_backward(call, {n: library.address(v) for n, v in (given | found).items()})
    return found


def _given(cell: Any, values: Values, seed: int) -> Values:
    rng = np.random.default_rng(seed)
    return {
        n: rng.standard_normal(v.shape).astype(v.dtype) for n, v in _empty(cell, values).items()
    }


def _reference(cell: Any, values: Mapping[str, np.ndarray], xp: Any = np) -> Values:
    """Step after step, in whatever NumPy type the values have. ``xp`` is the cells' namespace."""
    layers = calls.layers_of(cell)
    parts = [calls.of_layer(values, layer) for layer in range(len(layers))]
    weights = [{name: own[n] for name, n in WEIGHTS.items() if n in own} for own in parts]
    states = [{leaf: own[f"{leaf}0"] for leaf in layers[0].state_shapes} for own in parts]
    x, ys, units = values["x"], [], layers[-1].units
    last = np.zeros((*x.shape[:2], units), x.dtype)
    feds, fed = [], values.get("last", np.zeros(x.shape[:2]))
    for t in range(x.shape[2]):
        now = x[..., t, :]
        if "resets" in values:
            put = values["resets"][..., t, None]
            states = [{n: np.where(put, values[f"{n}r"], v) for n, v in states[0].items()}]
        if "observed" in values:
            own = np.einsum("mnu,mu->mn", states[-1]["h"], values["feed"]) + values["base"]
            own = own + values["decay"][:, None] * fed
            value = np.where(values["observed"][..., t], now[..., 0], own)
            fed = np.where(values["mask"][..., t], value, fed) if "mask" in values else value
            feds.append(fed)
            now = np.concatenate([value[..., None], now[..., 1:]], axis=-1)
        on = values["mask"][..., t, None] if "mask" in values else np.True_
        for layer, (one, state) in enumerate(zip(layers, states, strict=True)):
            now, after = one.step(weights[layer], now, state, xp)
            states[layer] = {leaf: np.where(on, v, state[leaf]) for leaf, v in after.items()}
        last = np.where(on, now, last)
        ys.append(last)
    shape = (*x.shape[:-1], units)
    outputs = {"y": np.stack(ys, axis=2) if ys else np.zeros(shape, x.dtype)}
    if "observed" in values:
        outputs["fed"] = np.stack(feds, axis=2) if feds else np.zeros(shape[:-1], x.dtype)
    for layer, state in enumerate(states):
        start = f"{layer}/" if layer else ""
        outputs |= {f"{start}{leaf}n": value for leaf, value in state.items()}
    return outputs


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


class _Rounding:
    """NumPy, whose products round the first factor to bfloat16, but for narrow inputs."""

    def __init__(self, values: Values) -> None:
        self.of_inputs = [v for n, v in values.items() if n.rpartition("/")[2] == "w"]

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def matmul(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        narrow = a.shape[-1] < 16 and any(b is w for w in self.of_inputs)
        return (a if narrow else a.astype(ml_dtypes.bfloat16).astype("float64")) @ b


# Rounding errors allowed in a sum: so many times the dtype's epsilon times the sum of its terms'
# absolute values, for terms may cancel. In 166 random problems on three instruction sets the
# largest error of a gradient was 5 epsilons, in float32 as in float64.
EPSILONS = 40


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
        "between": st.sampled_from(["nothing", "resets", "closed", "layers"]),
        "layers": st.integers(2, 3),
        "seed": st.integers(0, 2**32),
    }
)


FLOATS = st.sampled_from(["float32", "bfloat16"])


def _drawn(problem: dict[str, Any], dtype: str) -> tuple[Any, Values]:
    cell = KINDS[problem["kind"]](problem["units"], use_bias=problem["bias"])
    options = {name: problem[name] for name in ("seed", "mask")}
    between, feeds = problem["between"], problem["sizes"][3] > 0  # nothing is fed to no input
    options |= {"resets": between == "resets", "closed": feeds and between in ("closed", "layers")}
    if feeds and between == "layers":
        cell = cells.Stack([cell] * problem["layers"])
    return cell, _values(cell, problem["sizes"], dtype=dtype, **options)


# Two problems in which the terms of a gradient nearly cancel: of `base`, and of `decay`.
CANCELLING: dict[str, Any] = {
    "kind": "gru", "bias": False, "units": 64, "sizes": (1, 1, 9, 33), "mask": False,
    "between": "closed", "layers": 2, "seed": 1,
}  # fmt: skip
CANCELLING_DECAY: dict[str, Any] = {
    "kind": "rnn", "bias": True, "units": 128, "sizes": (1, 2, 6, 16), "mask": True,
    "between": "closed", "layers": 2, "seed": 3087975465,
}  # fmt: skip

# Layers on matrix tiles where there are any, in two tiles of rows.
LAYERS: dict[str, Any] = {
    "kind": "gru", "bias": True, "units": 100, "sizes": (2, 45, 6, 4), "mask": True,
    "between": "layers", "layers": 3, "seed": 0,
}  # fmt: skip

# The gradient of x is small, for tanh is nearly 1: its derivative is a difference of two numbers
# near 1.
SATURATED: dict[str, Any] = {
    "kind": "rnn", "bias": True, "units": 1, "sizes": (1, 1, 1, 33), "mask": False,
    "between": "nothing", "layers": 2, "seed": 308,
}  # fmt: skip


# -- right -------------------------------------------------------------------------------------


def _check_gradients(cell: Any, values: Values, seed: int, tolerance: float) -> None:
    """Compare the gradients with those of the reference in float64."""
    wide, given = _doubles(values), _given(cell, values, seed)
    rng = np.random.default_rng(seed)
    for name, gradient in _backward(cell, values, given).items():
        assert np.isfinite(gradient).all(), name
        if gradient.size:
            way = rng.choice([-1.0, 1.0], gradient.shape)
            expected, terms = _slope(cell, wide, given, name, way)
            # Each entry of a small gradient is a sum of rounded numbers near 1, as in `close`, and
            # the rounding errors of n entries add up to about the root of n of them.
            least = 0.1 * gradient.size**0.5
            size = max(float(np.abs(gradient).sum(dtype="float64")), terms, least)
            error = abs(float((gradient.astype("float64") * way).sum()) - expected)
            assert error <= tolerance * size, name


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=examples(40), deadline=None)
@example(problem=CANCELLING)
@example(problem=CANCELLING_DECAY)
@example(problem=SATURATED)
@example(problem=LAYERS)
@given(problem=problems)
def test_outputs_and_gradients_are_the_references(
    instructions: str, dtype: str, problem: dict[str, Any]
) -> None:
    library.use(instructions)
    tolerance = EPSILONS * float(np.finfo(dtype).eps)
    cell, values = _drawn(problem, dtype)
    wide = _doubles(values)
    outputs = _forward(cell, values)
    for name, expected in _reference(cell, wide).items():
        close(outputs[name], expected, tolerance)
    saving = _forward(cell, values, save=True)
    assert all(saving[name].tobytes() == found.tobytes() for name, found in outputs.items())
    _check_gradients(cell, values, problem["seed"], tolerance)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@settings(max_examples=examples(40), deadline=None)
@given(problem=problems)
def test_factors_are_rounded_to_bfloat16(instructions: str, problem: dict[str, Any]) -> None:
    """One step equals the reference with rounded factors. Later steps, and upper layers, round a
    number of float32 that is not that of float64 to the last bit, so that the nearest bfloat16 may
    be another one."""
    library.use(instructions)
    cell, values = _drawn(problem, "bfloat16")
    wide = _doubles(values)
    outputs, xp = _forward(cell, values), _Rounding(wide)
    alone = values["x"].shape[2] < 2 and not isinstance(cell, cells.Stack)
    tolerance = 5e-6 if alone else 2.0**-5
    for name, expected in _reference(cell, wide, xp).items():
        close(outputs[name], expected, tolerance)
    saving = _forward(cell, values, save=True)
    assert all(saving[name].tobytes() == found.tobytes() for name, found in outputs.items())
    _check_gradients(cell, values, problem["seed"], 2.0**-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_steps_stayclose(kind: str) -> None:
    """Float32 rounding compounds over the steps; on these weights to no more than this."""
    cell = KINDS[kind](24)
    values = _values(cell, (1, 7, 1000, 3), seed=1)
    wide = {n: v.astype("float64") for n, v in values.items()}
    for name, expected in _reference(cell, wide).items():
        close(_forward(cell, values)[name], expected, 2e-6)
    given = _given(cell, values, 2)
    way = np.random.default_rng(3).choice([-1.0, 1.0], values["u"].shape)
    gradient = _backward(cell, values, given)["u"]
    expected, _ = _slope(cell, wide, given, "u", way)
    assert abs((gradient * way).sum() - expected) <= 2e-6 * np.abs(gradient).sum()


@settings(max_examples=examples(30), deadline=None)
@given(problem=problems, start=st.integers(0, 44), dtype=FLOATS)
def test_a_row_has_the_same_bits_in_any_batch(
    problem: dict[str, Any], start: int, dtype: str
) -> None:
    cell, values = _drawn(problem, dtype)
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


@settings(max_examples=examples(30), deadline=None)
@given(problem=problems, at=st.integers(0, 9))
def test_a_split_run_is_the_complete_run(problem: dict[str, Any], at: int) -> None:
    cell, values = _drawn(problem, "float32")
    whole, state, parts = _forward(cell, values), values, []
    for steps in (slice(0, at), slice(at, None)):
        by_step = [n for n in values if n in ("x", *FLAGS)]
        part = _forward(cell, state | {n: values[n][:, :, steps].copy() for n in by_step})
        state = state | {f"{n[:-1]}0": v for n, v in part.items() if n.endswith("n")}
        if "fed" in part and part["fed"].size:
            state = state | {"last": part["fed"][:, :, -1].copy()}
        parts.append(part)
    for name, found in whole.items():
        if name.endswith("n"):
            assert found.tobytes() == parts[1][name].tobytes(), name
        elif name == "fed" or "mask" not in values:
            both = np.concatenate([part[name] for part in parts], axis=2)
            assert found.tobytes() == both.tobytes(), name


@settings(max_examples=examples(20), deadline=None)
@given(problem=problems, dtype=FLOATS)
def test_threads_change_no_bit(problem: dict[str, Any], dtype: str) -> None:
    cell, values = _drawn(problem, dtype)
    given, found = _given(cell, values, 1), []
    for threads in (1, 2, 5):
        library.use(threads=threads)
        found.append(_forward(cell, values) | _backward(cell, values, given))
    for name, first in found[0].items():
        assert all(first.tobytes() == other[name].tobytes() for other in found[1:]), name


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("instructions", "units"), [(name, u) for name in INSTRUCTIONS for u in (17, 100)]
)
def test_nan_and_infinity_go_where_arithmetic_sends_them(
    bad: float, kind: str, instructions: str, units: int, dtype: str
) -> None:
    library.use(instructions)
    cell = KINDS[kind](units)
    exact = dtype == "float32"
    # They split an infinity into inf - inf.
    tiles = exact and instructions == "amx" and units == 100
    values = _values(cell, (1, 8, 5, 2), dtype=dtype)
    clean = _forward(cell, values)
    for name in values:
        hit = {n: v.copy() for n, v in values.items()}
        hit[name].flat[hit[name].size // 2] = bad
        outputs = _forward(cell, hit)
        with np.errstate(all="ignore"):
            expected = _reference(cell, _doubles(hit))
        for output, right in expected.items():
            nan = np.isnan(outputs[output])
            # A gate that is shut in float64 may be open by 1e-8 in float32: 0 * inf.
            assert (nan == np.isnan(right)).all() or (np.isinf(bad) and (kind == "gru" or tiles))
            assert np.isnan(right[nan]).all() or (np.isinf(bad) and tiles)
            both = np.isfinite(outputs[output]) & np.isfinite(right)
            close(outputs[output][both], right[both], 1e-5 if exact else 2.0**-4)
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


def _statuses(changes: Mapping[int, Mapping[str, int | None]]) -> tuple[int, int]:
    """What the passes of two layers answer to arguments that are changed, by layer."""
    cell = cells.Stack([cells.LSTM(4)] * 2)
    values = _values(cell, (1, 3, 2, 5), mask=True, closed=True)
    outputs = _forward(cell, values, save=True)
    gradients = {n: np.empty_like(v) for n, v in values.items() if n not in FLAGS}
    pointers = {n: library.address(v) for n, v in (values | outputs).items()}
    call: Any = calls.call_of(cell, "float32", values["x"].shape, **pointers)
    back = (library.Backward * 2)()
    for layer in range(2):
        found = calls.of_layer(gradients, layer)
        back[layer] = library.Backward(
            call[layer], **{f"d{n}": library.address(v) for n, v in found.items()}
        )
        for name, value in changes.get(layer, {}).items():
            if not name.startswith("d") or name in ("dtype", "decay"):
                setattr(call[layer], name, value)
                setattr(back[layer].forward, name, value)
            else:
                setattr(back[layer], name, value)
    forward, backward = LIBRARY.statecast_layers_forward, LIBRARY.statecast_layers_backward
    return forward(call, 2), backward(back, 2)


BUFFER = library.address(np.zeros(99))  # is not read


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(
    ("change", "statuses"),
    [
        ({}, (0, 0)),
        *(({name: 1}, (1, 1)) for name in ("cell", "dtype", "rows", "steps", "units", "codes")),
        ({"members": 2}, (1, 1)),
        *(({name: BUFFER}, (1, 1)) for name in ("resets", "source", "packed")),
        *(({name: None}, (1, 1)) for name in ("w", "u", "h0", "c0")),
        *(({name: None}, (1, 0)) for name in ("hn", "cn")),
        *(({name: None}, (0, 1)) for name in ("dw", "du", "dbias", "dh0", "dc0")),
    ],
    ids=str,
)
def test_layers_that_do_not_fit_are_refused(
    layer: int, change: dict[str, int | None], statuses: tuple[int, int]
) -> None:
    assert _statuses({layer: change}) == statuses


@pytest.mark.parametrize(
    ("changes", "statuses"),
    [
        *(({0: {n: None}}, (1, 1)) for n in ("x", *LOOP, "fed")),
        ({0: {"y": None}}, (1, 0)),
        ({0: {"saved": None}}, (0, 1)),
        *(({0: {f"d{n}": None}}, (0, 1)) for n in ("feed", "base", "decay", "last")),
        *(({1: {n: BUFFER}}, (1, 1)) for n in ("x", "mask", *LOOP, "fed", "y", "saved")),
        *(({1: {f"d{n}": BUFFER}}, (0, 1)) for n in ("x", "y", "fed")),
        ({1: {"inputs": 5}}, (1, 1)),
        ({0: {"rows": 2**60}, 1: {"rows": 2**60}}, (2, 2)),
    ],
    ids=str,
)
def test_what_is_of_the_loop_is_in_the_call_of_the_first_layer(
    changes: dict[int, dict[str, int | None]], statuses: tuple[int, int]
) -> None:
    assert _statuses(changes) == statuses


@pytest.mark.parametrize("count", [-1, 0, 17])
def test_a_number_of_layers_out_of_range_is_refused(count: int) -> None:
    call, back = (library.Forward * 17)(), (library.Backward * 17)()
    assert LIBRARY.statecast_layers_saved_bytes(call, count) == -1
    assert LIBRARY.statecast_layers_forward(call, count) == 1
    assert LIBRARY.statecast_layers_backward(back, count) == 1


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
