"""The public surface, pinned: what a change here adds or takes away, users will notice."""

from __future__ import annotations

import subprocess
import sys

import pytest

import statecast
from statecast import errors

NAMES = [
    "AbsentError",
    "ArgumentError",
    "ConflictError",
    "DataError",
    "DataWarning",
    "Forecaster",
    "ForkError",
    "InitialState",
    "JobError",
    "KernelError",
    "MissingExtraError",
    "ModelFileError",
    "NotFittedError",
    "NotStatefulError",
    "OverloadError",
    "Panel",
    "Recurrence",
    "RequestError",
    "ResetStates",
    "Schema",
    "Scores",
    "Sessions",
    "State",
    "StateError",
    "StatecastError",
    "StoreError",
    "TokenForecaster",
    "VersionError",
    "Windows",
    "WorkerError",
    "__version__",
    "cells",
    "control",
    "cross_validation",
    "data",
    "decoding",
    "distributed",
    "evaluate",
    "explain_state",
    "get_state",
    "heads",
    "layers",
    "peek",
    "plots",
    "reset_states",
    "set_state",
    "take_control",
    "trajectory",
]

# What the public modules define beside their own helpers.
MODULES = {
    "cells": {
        "Cell",
        "ClosedLoop",
        "GRU",
        "Gated",
        "LSTM",
        "SimpleRNN",
        "Stack",
        "within",
    },
    "control": {
        "Explanation",
        "LayerStart",
        "ResetStates",
        "Windows",
        "explain_state",
        "get_state",
        "peek",
        "reset_states",
        "set_state",
        "take_control",
        "trajectory",
    },
    "data": {"Growth", "growth"},
    "evaluate": {
        "Baseline",
        "LastValue",
        "MeanCurve",
        "Neighbours",
        "Ridge",
        "Row",
        "Score",
        "Scores",
        "TargetScores",
        "Trees",
        "cross_validation",
        "default_baselines",
        "score",
    },
    "decoding": {
        "Beam",
        "Found",
        "Model",
        "Rules",
        "Sampling",
        "likeliest",
        "sample",
        "search",
    },
    "heads": {
        "Categorical",
        "Head",
        "LogNormal",
        "LogitNormal",
        "NegativeBinomial",
        "Normal",
        "Poisson",
        "Quantiles",
        "Readout",
        "StudentT",
    },
    "layers": {
        "Affine",
        "Bidirectional",
        "Controlled",
        "GRU",
        "InitialState",
        "LSTM",
        "RNN",
        "SimpleRNN",
        "controlled",
    },
    "plots": {"fan", "scores"},
}

VERBS = {
    "Forecaster": {
        "advance",
        "check_state",
        "clone",
        "dependence",
        "engine",
        "explain",
        "export",
        "fingerprint",
        "fit",
        "get_params",
        "load",
        "network",
        "pooling",
        "predict",
        "predict_total",
        "quantiles",
        "save",
        "schema",
        "set_params",
        "settings_class",
        "simulate",
        "state",
        "state_of",
        "training_items",
        "update",
        "weights",
    },
    "TokenForecaster": {
        "advance",
        "check_state",
        "clone",
        "engine",
        "export",
        "fingerprint",
        "fit",
        "generate",
        "get_params",
        "load",
        "log_likelihood",
        "network",
        "rank",
        "sample",
        "save",
        "schema",
        "set_params",
        "settings_class",
        "state",
        "state_of",
        "training_items",
        "update",
        "weights",
    },
    "State": {
        "at_rest",
        "check",
        "find",
        "fingerprint",
        "fork",
        "ids",
        "load",
        "names",
        "put",
        "reset",
        "rows",
        "save",
        "take",
    },
}

ERRORS = {
    "AbsentError": ValueError,
    "ArgumentError": ValueError,
    "ConflictError": ValueError,
    "DataError": ValueError,
    "ForkError": RuntimeError,
    "KernelError": RuntimeError,
    "MissingExtraError": ImportError,
    "ModelFileError": ValueError,
    "NotFittedError": AttributeError,
    "NotStatefulError": AttributeError,
    "JobError": RuntimeError,
    "WorkerError": RuntimeError,
    "OverloadError": RuntimeError,
    "RequestError": ValueError,
    "StateError": ValueError,
    "StoreError": RuntimeError,
    "VersionError": ValueError,
}


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_public_names() -> None:
    assert sorted(statecast.__all__) == NAMES
    assert dir(statecast) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(statecast, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'forcaster'"):
        statecast.forcaster  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_the_public_modules(name: str) -> None:
    module = getattr(statecast, name)
    defined = {
        each
        for each, value in vars(module).items()
        if not each.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
    assert set(getattr(module, "__all__", defined)) == MODULES[name]


def test_the_public_names_of_the_export() -> None:
    from statecast.export import mlflow

    assert set(mlflow.__all__) == {"Served", "load_model", "log_model", "save_model"}


def test_the_public_names_of_the_playground() -> None:
    from statecast import playground

    assert set(playground.__all__) == {"write_page"}


def test_the_public_names_of_the_report() -> None:
    from statecast import report

    names = {"Assessment", "Findings", "Item", "assess", "write_report"}
    assert set(report.__all__) == names


def test_the_public_names_of_the_server() -> None:
    from statecast import server

    assert set(server.__all__) == {"Limits", "application", "serve"}


@pytest.mark.parametrize("name", VERBS)
def test_the_verbs(name: str) -> None:
    public = {verb for verb in dir(getattr(statecast, name)) if not verb.startswith("_")}
    assert public == VERBS[name]


def test_the_errors_are_one_tree() -> None:
    found = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception) and name[0].isupper()
    }
    assert found == {*ERRORS, "StatecastError", "DataWarning"}
    for name, base in ERRORS.items():
        assert issubclass(getattr(statecast, name), (statecast.StatecastError)), name
        assert issubclass(getattr(statecast, name), base), name


def test_importing_statecast_is_quick_and_loads_no_backend() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import statecast; "
        "took = time.perf_counter() - start; "
        "heavy = {'keras', 'jax', 'torch', 'tensorflow', 'numpy', 'polars'} & set(sys.modules); "
        "print(took, *heavy)"
    )
    runs = [python(code).split() for _ in range(3)]
    took, *heavy = min(runs, key=lambda run: float(run[0]))
    assert heavy == []
    assert float(took) < 0.3


def test_jax_is_the_default_backend_and_no_more_than_that() -> None:
    show = "import os, statecast; print(os.environ.get('KERAS_BACKEND'))"
    unset = "import os; os.environ.pop('KERAS_BACKEND', None); "
    assert python(unset + show) == "jax"
    assert python("import os; os.environ['KERAS_BACKEND'] = 'torch'; " + show) == "torch"
    before = "import sys, types; sys.modules['keras'] = types.ModuleType('keras'); "
    assert python(unset + before + show) == "None"


def test_the_command_line_answers_before_anything_heavy_loads() -> None:
    code = (
        "import sys; from statecast import cli; "
        "print(*{'keras', 'jax', 'torch', 'tensorflow', 'polars'} & set(sys.modules))"
    )
    assert python(code) == ""
