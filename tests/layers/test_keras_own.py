"""Keras's own tests of recurrent layers, run on ours: they ship in its wheel, which
pyproject.toml pins for the tests. What differs on purpose is listed, and the list is exact: a
listed test that passes fails the run, as does one that fails and is not listed."""

from __future__ import annotations

import importlib
import unittest
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import keras
import pytest
from keras.src import layers as stock

import statecast.layers.recurrent
from effort import COMPILES

pytestmark = pytest.mark.backends

OURS = ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional")
SUITES = {
    "rnn.lstm": "LSTMTest",
    "rnn.gru": "GRUTest",
    "rnn.simple_rnn": "SimpleRNNTest",
    "rnn.rnn": "RNNTest",
    "rnn.bidirectional": "SimpleRNNTest",  # so it is called there
    "rnn.stacked_rnn_cells": "StackedRNNTest",
    "rnn.dropout_rnn_cell": "DropoutRNNCellTest",
    "rnn.time_distributed": "TimeDistributedTest",
    "core.masking": "MaskingTest",
}
EVERYWHERE = {"jax", "tensorflow", "torch"}
# (suite, test) to the reason, and the backends it holds on.
DIFFERENCES = {
    ("rnn.rnn", "test_stateful_batch_size_mismatch_raises"): (
        "a batch of fewer rows than the state has advances the first of them (decision 4)",
        EVERYWHERE,
    ),
}
SLOW = {("rnn.stacked_rnn_cells", "test_basics")}  # 25 to 45 seconds of compilation
# Where a backend compiles, the other suites are slow. `test_recurrent.py` has the same laws.
QUICK = "rnn.lstm"


class Layers(ModuleType):
    """``keras.src.layers`` with our layers in place of Keras's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(statecast.layers if name in OURS else stock, name)


def suite(name: str, case: str) -> type[unittest.TestCase]:
    """A test case of Keras on our layers, in which the listed tests are expected to fail."""
    module = importlib.import_module(f"keras.src.layers.{name}_test")
    vars(module)["layers"] = Layers("layers")
    ours = type(case, (getattr(module, case),), {"__module__": __name__})
    for where, test in SLOW:
        if where == name:
            setattr(ours, test, pytest.mark.slow(getattr(ours, test)))
    for (where, test), (reason, backends) in DIFFERENCES.items():
        if where == name and keras.backend.backend() in backends:
            expected = pytest.mark.xfail(raises=AssertionError, reason=reason, strict=True)
            setattr(ours, test, expected(getattr(ours, test)))
    return pytest.mark.slow(ours) if COMPILES and name != QUICK else ours


CASES = {name: suite(name, case) for name, case in SUITES.items()}
# Pytest collects classes by the name they have here.
globals().update({f"Test_{name.partition('.')[2]}": case for name, case in CASES.items()})


@pytest.fixture(autouse=True, scope="module")
def _tracebacks() -> Iterator[None]:
    """Keras's tests have it show its own frames in tracebacks, which stays so."""
    yield
    keras.config.enable_traceback_filtering()


def test_the_list_names_suites_that_run():
    assert {name for name, _ in DIFFERENCES} <= set(SUITES)


@pytest.mark.parametrize(
    ("name", "test"),
    [
        ("rnn.lstm", "test_masking"),
        ("rnn.gru", "test_masking"),
        ("rnn.simple_rnn", "test_masking"),
        ("rnn.rnn", "test_forward_pass_single_state"),
        ("rnn.stacked_rnn_cells", "test_correctness_single_state_stack"),
        ("rnn.bidirectional", "test_correctness"),
    ],
)
def test_a_fault_of_ours_is_seen(name, test, monkeypatch):
    def wrong(*arguments, **options):
        y, state = run(*arguments, **options)
        return y + 1, state

    run = statecast.layers.recurrent.run
    monkeypatch.setattr(statecast.layers.recurrent, "run", wrong)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        CASES[name](test).debug()
