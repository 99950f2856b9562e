"""Stacks of an ensemble in a closed loop in the native library, and the paths that heads draw,
against ``cells`` and ``heads`` in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from native_library import BUILT, INSTRUCTIONS
from statecast.heads.by_name import HEADS
from statecast.heads.quantiles import QUANTILE_LEVELS
from statecast.heads.special import LEAST_LEVEL, normal_quantile
from statecast.recurrence.cells import CELLS, ClosedLoop, Stack, within
from statecast.recurrence.kernels.native import library
from statecast.recurrence.kernels.native.closed_loop import EnsembleLoop

pytestmark = pytest.mark.skipif(not BUILT, reason="no native kernel")

DRAWN = ["quantiles", "normal", "student_t"]


@dataclass(frozen=True)
class Case:
    """A loop with random weights, and random inputs for it."""

    cell: str = "lstm"
    layers: int = 2
    units: int = 5
    inputs: int = 3
    rows: int = 4
    steps: int = 6
    members: int = 2
    head: str = "quantiles"
    seed: int = 0

    @property
    def stack(self) -> Stack:
        return Stack([CELLS[self.cell](self.units)] * self.layers)

    def numbers(self) -> dict[str, Any]:
        rng, lead = np.random.default_rng(self.seed), (self.members, self.rows)
        size = HEADS[self.head]().size

        def draw(*shape: int) -> np.ndarray:
            return rng.normal(0, 0.5, shape).astype("float32")

        return {
            "weights": {
                name: draw(self.members, *shape) / np.float32(self.units**0.5)
                for name, shape in self.stack.weight_shapes(self.inputs).items()
            },
            "feed": draw(self.members, self.units),
            "decay": draw(self.members),
            "kernel": draw(self.members, self.units, size),
            "state": {n: draw(*lead, *s) for n, s in self.stack.state_shapes.items()},
            "x": draw(*lead, self.steps, self.inputs),
            "last": draw(*lead),
            "base": draw(*lead, size),
            "observed": rng.random((*lead, self.steps)) < 0.5,
            "mask": rng.random((*lead, self.steps)) < 0.7,
            "level": rng.uniform(LEAST_LEVEL, 1 - LEAST_LEVEL, (*lead, self.steps)).astype("f4"),
        }

    def loop(self, numbers: dict[str, Any]) -> EnsembleLoop:
        weights, feed, decay, kernel = (
            numbers[name] for name in ("weights", "feed", "decay", "kernel")
        )
        head = HEADS[self.head]().native
        return EnsembleLoop(self.stack, weights, feed, decay, kernel, head, QUANTILE_LEVELS)


cases = st.builds(
    Case,
    cell=st.sampled_from(sorted(CELLS)),
    layers=st.integers(1, 3),
    units=st.sampled_from([1, 5, 17, 32, 100]),  # with 100, matrix tiles where there are any
    inputs=st.integers(2, 5),
    rows=st.sampled_from([0, 1, 4, 40]),
    steps=st.integers(0, 6),
    members=st.integers(1, 3),
    head=st.sampled_from(DRAWN),
    seed=st.integers(0, 99),
)
few = settings(max_examples=examples(40), deadline=None)


def _doubles(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _doubles(value) for name, value in values.items()}
    return values.astype("float64") if values.dtype == "float32" else values


def _run_reference(case: Case, n: dict[str, Any], mask: np.ndarray | None) -> tuple[Any, ...]:
    """``EnsembleLoop.run`` by the steps of ``cells``, and the outputs before each step."""
    cell = ClosedLoop(case.stack)
    weights = {f"cell/{name}": weight for name, weight in n["weights"].items()}
    weights |= {"feed": n["feed"][..., None], "decay": n["decay"][..., None]}
    leaves = {f"cell/{name}": leaf for name, leaf in n["state"].items()}
    leaves |= {"base": n["base"][..., :1], "last": n["last"][..., None]}
    y, outputs = (np.zeros((*n["x"].shape[:3], case.units)) for _ in range(2))
    taken = np.zeros(n["x"].shape[:3])
    for t in range(case.steps):
        outputs[:, :, t] = case.stack.output(within(leaves, "cell"))
        flag = n["observed"][:, :, t, None].astype(float)
        x = np.concatenate([n["x"][:, :, t, :1], flag, n["x"][:, :, t, 2:]], axis=-1)
        # The flag is an input of the cell, as in a network of numbers.
        out, after = cell.step(weights, x, leaves, np)
        runs = np.ones(n["last"].shape, bool) if mask is None else mask[:, :, t]
        leaves = {k: np.where(runs[..., None], v, leaves[k]) for k, v in after.items()}
        before = y[:, :, t - 1] if t else np.zeros_like(y[:, :, 0])
        y[:, :, t] = np.where(runs[..., None], out[..., :-1], before)
        taken[:, :, t] = leaves["last"][..., 0]
    return y, taken, within(leaves, "cell"), outputs


@few
@given(case=cases, masked=st.booleans())
def test_a_run_is_that_of_the_cells(case: Case, masked: bool) -> None:
    n = case.numbers()
    n["x"][..., 1] = n["observed"]
    mask = n["mask"] if masked else None
    given = (n["x"], n["observed"], n["state"], n["base"][..., 0], n["last"], mask)
    y, taken, after = case.loop(n).run(*given)
    expected = _run_reference(case, _doubles(n), mask)
    np.testing.assert_allclose(y, expected[0], atol=2e-5, rtol=2e-5)
    np.testing.assert_allclose(taken, expected[1], atol=2e-5, rtol=2e-5)
    for name, leaf in expected[2].items():
        np.testing.assert_allclose(after[name], leaf, atol=2e-5, rtol=2e-5, err_msg=name)


@few
@given(case=cases, masked=st.booleans(), after=st.booleans())
def test_quantiles_are_those_of_the_head_on_the_outputs(
    case: Case, masked: bool, after: bool
) -> None:
    n = case.numbers()
    n["x"][..., 1] = n["observed"]
    mask = n["mask"] if masked else None
    given = (n["x"], n["observed"], n["state"], n["base"][..., 0], n["last"], mask)
    found, taken, leaves = case.loop(n).run(*given, constant=n["base"], after=after)
    _, expected_taken, expected_leaves, before = _run_reference(case, _doubles(n), mask)
    y, _, _ = case.loop(n).run(*given)
    steps = np.ones(n["observed"].shape, bool) if mask is None else mask
    values = np.concatenate([n["last"][..., None], expected_taken], axis=2)[..., :-1]
    outputs, values = (y, expected_taken) if after else (before, values)
    kernel = n["kernel"].astype("float64")[:, None]
    raw = outputs @ kernel + n["base"][:, :, None]
    head = HEADS[case.head]()
    parameters = head.parameters(raw, (values * n["decay"][:, None, None])[..., None])
    expected = head.quantile(parameters, np.array(QUANTILE_LEVELS))
    np.testing.assert_allclose(found[steps], expected[steps], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(taken, expected_taken, atol=2e-5, rtol=2e-5)
    for name, leaf in expected_leaves.items():
        np.testing.assert_allclose(leaves[name], leaf, atol=2e-5, rtol=2e-5, err_msg=name)


@few
@given(case=cases)
def test_steps_one_by_one_are_the_run_with_all_values_observed(case: Case) -> None:
    n, loop = case.numbers(), case.loop(case.numbers())
    every = np.ones_like(n["observed"])
    y, _, after = loop.run(n["x"], every, n["state"], n["base"][..., 0], n["last"])
    state = n["state"]
    for t in range(case.steps):
        out, state = loop.step(n["x"][:, :, t], state)
        np.testing.assert_array_equal(out, y[:, :, t])
    for name, leaf in after.items():
        np.testing.assert_array_equal(state[name], leaf)


def _draw(case: Case, n: dict[str, Any], after: bool) -> np.ndarray:
    deviate = None if case.head == "quantiles" else normal_quantile(n["level"])
    given = (n["x"], n["state"], n["last"], n["base"], n["level"], deviate)
    return case.loop(n).draw(*given, after=after)


def _draw_reference(case: Case, n: dict[str, Any], after: bool) -> np.ndarray:
    """``EnsembleLoop.draw`` by the steps of ``cells`` and the quantiles of ``heads``."""
    head, stack, state, last = HEADS[case.head](), case.stack, n["state"], n["last"]
    drawn = np.zeros(n["x"].shape[:3])
    for t in range(case.steps):
        x = n["x"][:, :, t].copy()
        if after:
            x[..., 0] = last
            _, state = stack.step(n["weights"], x, state, np)
        raw = stack.output(state) @ n["kernel"] + n["base"]
        parameters = head.parameters(raw, (n["decay"][:, None] * last)[..., None])
        last = drawn[:, :, t] = head.quantile(parameters, n["level"][:, :, t, None])[..., 0]
        if not after:
            x[..., 0] = last
            _, state = stack.step(n["weights"], x, state, np)
    return drawn


@few
@given(case=cases, after=st.booleans())
def test_draws_are_those_of_the_cells_and_the_head(case: Case, after: bool) -> None:
    n = case.numbers()
    found, expected = _draw(case, n, after), _draw_reference(case, _doubles(n), after)
    # An error of a draw is in the inputs of all later steps; the tails of Student's t are wide.
    np.testing.assert_allclose(found, expected, atol=3e-4, rtol=3e-4)


@pytest.mark.parametrize("head", DRAWN)
@pytest.mark.parametrize("units", [5, 100])
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_a_row_has_the_same_bits_alone_and_with_any_number_of_threads(
    cell: str, units: int, head: str
) -> None:
    case = Case(cell, 2, units, rows=41, head=head)
    n = case.numbers()
    drawn = _draw(case, n, False)

    def quantiles(n: dict[str, Any]) -> np.ndarray:
        given = (n["x"], n["observed"], n["state"], n["base"][..., 0], n["last"], n["mask"])
        return np.where(
            n["mask"][..., None], case.loop(n).run(*given, constant=n["base"], after=False)[0], 0
        )

    every = quantiles(n)
    given = ("x", "observed", "state", "base", "last", "mask")
    y, taken, after = case.loop(n).run(*(n[g][..., 0] if g == "base" else n[g] for g in given))
    for row in (0, 17, 40):
        one = n | {name: n[name][:, row : row + 1] for name in (*given, "level") if name != "state"}
        one["state"] = {name: leaf[:, row : row + 1] for name, leaf in n["state"].items()}
        np.testing.assert_array_equal(_draw(case, one, False)[:, 0], drawn[:, row])
        np.testing.assert_array_equal(quantiles(one)[:, 0], every[:, row])
        alone = case.loop(n).run(*(one[g][..., 0] if g == "base" else one[g] for g in given))
        np.testing.assert_array_equal(alone[0][:, 0], y[:, row])
        np.testing.assert_array_equal(alone[1][:, 0], taken[:, row])
        for name, leaf in alone[2].items():
            np.testing.assert_array_equal(leaf[:, 0], after[name][:, row])
    for threads in (1, 3):
        library.use(threads=threads)
        np.testing.assert_array_equal(_draw(case, n, False), drawn)
        np.testing.assert_array_equal(quantiles(n), every)


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("head", DRAWN)
def test_every_instruction_set_draws_the_same(instructions: str, head: str) -> None:
    case = Case(units=20, head=head)
    n = case.numbers()
    expected = _draw_reference(case, _doubles(n), True)
    library.use(instructions)
    np.testing.assert_allclose(_draw(case, n, True), expected, atol=3e-4, rtol=3e-4)
