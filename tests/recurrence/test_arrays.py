"""``Recurrence``: the native library on NumPy arrays, compared with ``cells.py`` in float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from native_library import BUILT, INSTRUCTIONS, KINDS, LIBRARY, Values, close
from statecast import cells
from statecast.errors import ArgumentError, StateError
from statecast.recurrence.kernels.native import library
from statecast.recurrence.kernels.native.arrays import Recurrence

pytestmark = pytest.mark.skipif(not BUILT, reason=f"native: {LIBRARY}")


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


@pytest.mark.parametrize("cell", [kind(40) for kind in KINDS.values()], ids=repr)
def test_weights_are_rounded_to_bfloat16(cell: Any) -> None:
    """Weights that are bfloat16 numbers already, a state and inputs too: nothing is rounded in the
    first step. Rounding is that of ml_dtypes, also of NaN, infinity and numbers between two."""
    rng = np.random.default_rng(1)
    weights = {n: rng.normal(size=s).astype("float32") for n, s in cell.weight_shapes(20).items()}
    kernel = weights["kernel"].ravel()
    kernel[:4] = 1 + 2.0**-8, 1 + 3 * 2.0**-8, 1e-30, 3e38  # between two; small and large numbers
    halved = {n: w.astype(ml_dtypes.bfloat16).astype("float32") for n, w in weights.items()}
    halved |= {"bias": weights["bias"]}
    state = {n: rng.normal(size=(4, *s)) for n, s in cell.state_shapes.items()}
    x = rng.normal(size=(4, 6, 20)) > 0
    found, after = Recurrence(cell, weights, dtype="bfloat16").run(x, state)
    again, left = Recurrence(cell, halved, dtype="bfloat16").run(x, state)
    assert found.dtype == np.float32
    assert found.tobytes() == again.tobytes()
    assert all(after[n].tobytes() == left[n].tobytes() for n in after)
    exact = {n: v.astype(ml_dtypes.bfloat16).astype("float64") for n, v in state.items()}
    y, _ = Recurrence(cell, weights, dtype="bfloat16").step(x[:, 0], exact)
    expected, _ = cell.step({n: w.astype("float64") for n, w in halved.items()}, x[:, 0], exact, np)
    close(y, expected, 5e-6)
    weights["kernel"][3, 5] = np.nan
    y, _ = Recurrence(cell, weights, dtype="bfloat16").run(x, state)
    assert np.isnan(y).any()


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
    numbers = "float64" if dtype == "float64" else "float32"
    state = {n: rng.normal(size=(problem["sources"], *s)).astype(numbers) for n, s in leaves}
    rows = problem["rows"]
    given = {
        "x": rng.normal(size=(rows, width)),
        "code": rng.integers(0, codes, rows) if codes else None,
        "source": rng.integers(0, problem["sources"], rows),
    }
    return Recurrence(cell, weights, dtype=dtype, codes=codes), cell, weights, state, given


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("dtype", library.DTYPES)
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
    close(y, expected, tolerance)
    for n, leaf in left.items():
        close(after[n], leaf, tolerance)


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
    with pytest.raises(ArgumentError, match=r"expected one of .*float64"):
        Recurrence(cell, weights, dtype="float16")
    y, _ = recurrence.run(np.zeros((4, 5, 3)), state)
    assert y.shape == (4, 5, 2)
