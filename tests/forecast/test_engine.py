"""The engine of numbers: equal to the Keras network, and the same bits in any batch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from statecast.forecast.engine import NumberEngine
from statecast.forecast.forecaster import Forecaster
from statecast.heads.by_name import HEADS
from statecast.heads.quantiles import QUANTILE_LEVELS
from statecast.networks import arrays
from statecast.networks.decoder import NO_FEATURES, Decoder, weight_shapes
from statecast.networks.network import Network
from statecast.recurrence.cells import CELLS, Gated, Stack
from statecast.recurrence.kernels.native import library
from statecast.tokens.forecaster import TokenForecaster

STEPS, ENCODING = 7, 3
BUILT = not isinstance(library.find(), str)


@dataclass(frozen=True)
class Case:
    """A network with random weights, and random inputs for it."""

    head: str = "quantiles"
    cell: str = "lstm"
    layers: int = 1
    conditioning: str = "both"
    numeric: int = 2  # columns: a feature has its value and a flag
    codes: tuple[int, ...] = (3,)
    future: bool = False
    past: bool = False
    targets: int = 1
    members: int = 2
    depth: int = 1
    intervals: int = 3
    hidden: int = 4
    rows: int = 5
    seed: int = 1  # its bits choose the features that have intervals

    @property
    def featured(self) -> bool:
        return bool(self.numeric or self.codes)

    def options(self) -> dict[str, Any]:
        covariates = {name: (2, (3,)) if getattr(self, name) else NO_FEATURES for name in BESIDE}
        return covariates | {
            "numeric": self.numeric,
            "cardinalities": self.codes,
            "members": self.members,
            "encoding": ENCODING,
            "conditioning": self.conditioning,
            "depth": self.depth,
            "hidden": self.hidden,
        }

    def decoder(self) -> Decoder:
        head = HEADS[self.head].on_scale(2.0, 1.0, 0.5)
        static = ENCODING if self.featured and self.conditioning != "state" else 0
        past, future = (1 + ENCODING if has else 0 for has in (self.past, self.future))
        stack = Stack([CELLS[self.cell](5)] * self.layers)
        divided = tuple(i for i in range(self.numeric // 2) if self.seed >> i & 1)
        return Decoder(
            stack, head, STEPS - 2, static, past, future, self.targets, self.intervals, divided
        )

    def weights(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        shapes = weight_shapes(self.decoder(), **self.options())
        return {
            name: rng.normal(0, 0.5 / max(1, shape[-2]) ** 0.5, shape).astype("float32")
            for name, shape in shapes.items()
        }

    def engine(self) -> NumberEngine:
        return NumberEngine(self.decoder(), self.weights())

    def inputs(self, steps: int = STEPS) -> dict[str, Any]:
        """Static features, observations and covariates."""
        rng, rows = np.random.default_rng([self.seed, 1]), self.rows
        skipped = rng.integers(0, steps, rows) if rng.random() < 0.7 else np.zeros(rows, int)
        active = np.arange(steps) < steps - skipped[:, None]
        if not self.future and rng.random() < 0.5:
            active = rng.random((rows, steps)) < 0.7
        covariates = {}
        for name in (each for each in BESIDE if getattr(self, each)):
            covariates |= {
                f"{name}_numeric": rng.normal(size=(rows, steps, 2)).astype("float32"),
                f"{name}_codes": rng.integers(0, 3, (rows, steps, 1)).astype("int32"),
                f"{name}_there": rng.random((rows, steps)) < 0.7,
            }
        codes = [rng.integers(0, n, (rows, 1)) for n in self.codes]
        return {
            "numeric": rng.normal(size=(rows, self.numeric)).astype("float32"),
            "codes": np.concatenate([np.zeros((rows, 0)), *codes], axis=1).astype("int32"),
            "value": rng.normal(size=(rows, steps)).astype("float32"),
            "observed": rng.random((rows, steps)) < 0.6,
            "active": active,
            "covariates": covariates,
        }


BESIDE = ("future", "past")

# What a fitted model does, as the source of a function for this process and for another one.
USE = """
import numpy as np

def use(f):
    if type(f).__name__ == "TokenForecaster":
        Y = np.array([list("abca"), list("bcab"), list("cabc")])
        sequences = f.generate(Y[:, :2], until=6)
        return {"text": np.array(repr({n: np.asarray(v).tolist() for n, v in sequences.items()}))}
    Y = np.arange(24.0).reshape(3, 8) % 7 + 1
    new = np.concatenate([np.full((3, 3), np.nan), Y[:, 3:5]], axis=1)
    return {
        "forecast": f.predict(Y[:, :3], until=8)["statecast-lo-80"],
        "updated": f.predict(state=f.update(f.state(Y[:, :3]), new), until=8)["statecast"],
        "paths": f.simulate(Y[:, :3], until=8, paths=7).values,
        "effects": f.explain(Y[:, :3], until=8).observations,
    }
"""
WITHOUT_A_BACKEND = """
import sys
for name in ("keras", "jax", "jaxlib", "torch", "tensorflow"):
    sys.modules[name] = None  # an import of it fails
from statecast.tokens.forecaster import load_model
np.savez(sys.argv[2], **use(load_model(sys.argv[1])))
"""


def _cases(**chosen: Any) -> st.SearchStrategy[Case]:
    drawn = {
        "head": st.sampled_from(sorted(HEADS)),
        "cell": st.sampled_from(sorted(CELLS)),
        "layers": st.integers(1, 3),
        "conditioning": st.sampled_from(["state", "inputs", "both"]),
        "numeric": st.sampled_from([0, 2, 4]),
        "codes": st.sampled_from([(), (3,), (2, 4)]),
        "future": st.booleans(),
        "past": st.booleans(),
        "targets": st.integers(1, 3),
        "members": st.integers(1, 3),
        "depth": st.integers(1, 2),
        "intervals": st.sampled_from([0, 2, 5]),
        "hidden": st.sampled_from([0, 4]),
        "rows": st.integers(0, 6),
        "seed": st.integers(0, 2**32 - 1),
    }
    return st.builds(Case, **(drawn | {n: st.just(value) for n, value in chosen.items()}))


def _steps(inputs: Mapping[str, Any], at: Any = slice(None)) -> tuple[Any, ...]:
    """The inputs of a run, at some steps."""
    covariates = {name: each[:, at] for name, each in inputs["covariates"].items()}
    return (*(inputs[name][:, at] for name in ("value", "observed", "active")), covariates)


def _take(case: Any, rows: Any) -> Any:
    """Some rows of nested mappings and tuples of arrays."""
    if isinstance(case, tuple):
        return tuple(_take(each, rows) for each in case)
    if isinstance(case, Mapping):
        return {name: _take(each, rows) for name, each in case.items()}
    return case[rows]


def _equal(one: Any, other: Any) -> None:
    """To the bit."""
    if isinstance(one, Mapping):
        assert one.keys() == other.keys()
        for name in one:
            _equal(one[name], other[name])
    else:
        np.testing.assert_array_equal(one, other)


def _near(one: Any, other: Any) -> None:
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.backends
@settings(max_examples=examples(30, compiled=True))
@given(_cases(rows=4))
def test_it_is_equal_to_the_keras_network(case: Case) -> None:
    _check_equal_to_the_network(case)


@dataclass(frozen=True)
class Minimal(Gated):
    """A cell that no kernel knows: a minimal gated unit (Zhou et al. 2016)."""

    gates = 2

    def step(self, weights: Any, x: Any, state: Any, xp: Any) -> Any:
        kernel, h = weights["recurrent_kernel"], state["h"]
        x = self._affine(x, weights["kernel"], weights.get("bias"), xp)
        x_forget, x_new = xp.split(x, 2, axis=-1)
        forget = xp.exp(-xp.logaddexp(0.0, -(x_forget + xp.matmul(h, kernel[..., : self.units]))))
        new = xp.tanh(x_new + xp.matmul(forget * h, kernel[..., self.units :]))
        h = (1.0 - forget) * h + forget * new
        return h, {"h": h}


@pytest.mark.backends
@pytest.mark.parametrize("layers", [1, 2])
def test_a_new_cell_needs_its_step_only(monkeypatch: pytest.MonkeyPatch, layers: int) -> None:
    """As CONTRIBUTING.md says: the kernels that do not know it decline, and the others run it."""
    monkeypatch.setitem(CELLS, "minimal", Minimal)  # pyright: ignore[reportArgumentType]
    _check_equal_to_the_network(Case(cell="minimal", layers=layers, rows=4))


def _check_equal_to_the_network(case: Case) -> None:
    decoder, engine, inputs = case.decoder(), case.engine(), case.inputs()
    network = Network(decoder, **case.options(), weights=case.weights())

    def plain(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {n: keras.ops.convert_to_numpy(leaf).swapaxes(0, 1) for n, leaf in leaves.items()}

    statics = inputs["numeric"], inputs["codes"]
    tensors = [keras.ops.convert_to_tensor(each[None]) for each in statics]
    before = network.start(*tensors)
    start = engine.start(*statics)
    assert start.keys() == decoder.state_shapes.keys()
    _near(start, plain(before))

    value, observed, active, covariates = _steps(inputs)
    readout, after = network.read(
        before,
        keras.ops.convert_to_tensor(value[None]),
        keras.ops.convert_to_tensor(observed[None].astype("float32")),
        keras.ops.convert_to_tensor(active[None]),
        {name: keras.ops.convert_to_tensor(each[None]) for name, each in covariates.items()},
    )
    parameters = decoder.head.read(readout)
    expected = decoder.head.quantile(parameters, np.array(QUANTILE_LEVELS, "float32"))
    expected = keras.ops.convert_to_numpy(keras.ops.mean(expected, axis=0))
    found, leaves = engine.quantiles(start, value, observed, active, covariates)
    _near(leaves, plain(after))
    size = 1 + np.abs(expected)
    # The level of a quantile of counts is exact to 1e-5, and there the density may be small.
    near = 1e-4 if case.head in ("poisson", "negative_binomial") else 3e-5
    np.testing.assert_allclose((found / size)[active], (expected / size)[active], atol=near)


@settings(max_examples=examples(40))
@given(_cases(rows=6), st.integers(0, 5))
@pytest.mark.skipif(not BUILT, reason="no native kernel")
def test_a_row_alone_has_the_bits_it_has_among_others(case: Case, row: int) -> None:
    engine, inputs = case.engine(), case.inputs()
    own = _take(inputs, slice(row, row + 1))
    start = engine.start(inputs["numeric"], inputs["codes"])
    alone = engine.start(own["numeric"], own["codes"])
    _equal(alone, _take(start, slice(row, row + 1)))
    found, leaves = engine.quantiles(start, *_steps(inputs))
    single, after = engine.quantiles(alone, *_steps(own))
    _equal(single, found[row : row + 1])
    _equal(after, _take(leaves, slice(row, row + 1)))
    uniform = np.random.default_rng(0).uniform(0.01, 0.99, (6, case.members, 3)).astype("float32")
    covariates = {name: each[:, :3] for name, each in inputs["covariates"].items()}
    paths = engine.sample(start, uniform, covariates)
    single = engine.sample(alone, uniform[row : row + 1], _take(covariates, slice(row, row + 1)))
    _equal(single, paths[row : row + 1])


@settings(max_examples=examples(40))
@given(_cases(), st.integers(0, STEPS))
@pytest.mark.skipif(not BUILT, reason="no native kernel")
def test_a_split_run_is_the_whole_run(case: Case, cut: int) -> None:
    """And an update, which computes no forecast, has the same leaves."""
    engine, inputs = case.engine(), case.inputs()
    start = engine.start(inputs["numeric"], inputs["codes"])
    whole, end = engine.quantiles(start, *_steps(inputs))
    first, middle = engine.quantiles(start, *_steps(inputs, slice(cut)))
    second, last = engine.quantiles(middle, *_steps(inputs, slice(cut, None)))
    active = inputs["active"]
    _equal(np.concatenate([first, second], axis=1)[active], whole[active])
    _equal(last, end)
    _equal(engine.advance(start, *_steps(inputs)), end)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("head", sorted(HEADS))
@pytest.mark.skipif(not BUILT, reason="no native kernel")
def test_any_number_of_threads_gives_the_same_bits(head: str, layers: int) -> None:
    case = Case(head, layers=layers, rows=300, members=3)
    inputs, found = case.inputs(), []
    try:
        for threads in (1, 2, 5):
            library.use(threads=threads)
            engine = case.engine()
            start = engine.start(inputs["numeric"], inputs["codes"])
            found.append({"start": start, "quantiles": engine.quantiles(start, *_steps(inputs))[0]})
    finally:
        library.use()
    for other in found[1:]:
        _equal(other, found[0])


@settings(max_examples=examples(40))
@given(_cases(members=1))
def test_a_path_advances_by_its_draws(case: Case) -> None:
    """Each draw is the quantile of the forecast after the draws before it."""
    engine, inputs, head = case.engine(), case.inputs(), case.decoder().head
    start = engine.start(inputs["numeric"], inputs["codes"])
    prefix = _steps(inputs, slice(3))
    prefix[2][:] = True
    leaves = engine.advance(start, *prefix)
    rest = {name: each[:, 3:] for name, each in inputs["covariates"].items()}
    levels = np.array(QUANTILE_LEVELS, "float32")
    rng = np.random.default_rng(case.seed)
    level = rng.integers(0, len(levels), (case.rows, 1, STEPS - 3))
    drawn = engine.sample(leaves, levels[level], rest)
    for step in range(STEPS - 3):
        now = {name: each[:, step : step + 1] for name, each in rest.items()}
        each = np.ones((case.rows, 1), bool)
        value = head.observable(drawn[:, 0, step, None])
        quantiles, leaves = engine.quantiles(leaves, value, each, each, now)
        expected = np.take_along_axis(quantiles[:, 0], level[:, :, step], axis=1)[:, 0]
        np.testing.assert_allclose(drawn[:, 0, step], expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=examples(40))
@given(_cases())
@pytest.mark.skipif(not BUILT, reason="no native kernel")
def test_numpy_in_place_of_the_native_kernel_gives_the_same(case: Case) -> None:
    engine, inputs = case.engine(), case.inputs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "native", lambda: False)
        other = case.engine()
    starts = [each.start(inputs["numeric"], inputs["codes"]) for each in (engine, other)]
    _near(*starts)
    ends = [e.quantiles(s, *_steps(inputs)) for e, s in zip((engine, other), starts, strict=True)]
    _near(ends[0][1], ends[1][1])
    size = 1 + np.abs(ends[0][0])
    active = inputs["active"]
    np.testing.assert_allclose((ends[0][0] / size)[active], (ends[1][0] / size)[active], atol=3e-5)
    uniform = np.full((case.rows, case.members, 2), 0.3, "float32")
    covariates = {name: each[:, :2] for name, each in inputs["covariates"].items()}
    paths = [e.sample(s, uniform, covariates) for e, s in zip((engine, other), starts, strict=True)]
    np.testing.assert_allclose(*paths, rtol=1e-4, atol=1e-4)


@pytest.mark.backends
@pytest.mark.parametrize("kind", ["quantiles", "negative_binomial", "tokens"])
def test_a_fitted_model_needs_no_backend(kind: str, tmp_path: Path) -> None:
    """A process in which none can be imported gives the results of this one."""
    options: dict[str, Any] = {"units": 4, "ensemble": 2, "epochs": 1}
    rng = np.random.default_rng(0)
    if kind == "tokens":
        f = TokenForecaster(**options).fit(rng.choice(list("abc"), (20, 6)), verbose=0)
    else:
        options["head"] = kind
        f = Forecaster(**options).fit(rng.integers(1, 9, (60, 8)) * 1.0, verbose=0)
    model, out = tmp_path / "m.safetensors", tmp_path / "out.npz"
    f.save(model)
    command = [sys.executable, "-c", USE + WITHOUT_A_BACKEND, str(model), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    here: dict[str, Any] = {}
    exec(USE, here)
    expected = here["use"](f)
    with np.load(out) as found:
        assert set(found.files) == set(expected)
        for name, values in expected.items():
            _equal(found[name], values)
