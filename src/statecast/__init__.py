"""Forecast the rest of a sequence from what an item is and how it began.

The names below load on first use: ``import statecast`` by itself loads no backend. ``fit``,
``layers`` and ``control`` need Keras; a fitted model does not. Keras runs on the first of JAX,
PyTorch and TensorFlow that is installed, unless ``KERAS_BACKEND`` says otherwise or Keras was
imported before.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from statecast.process import default_backend

if TYPE_CHECKING:
    from statecast import control, data, distributed, evaluate, heads, layers, plots
    from statecast.control.models import (
        explain_state,
        get_state,
        peek,
        reset_states,
        set_state,
        take_control,
        trajectory,
    )
    from statecast.control.windows import ResetStates, Windows
    from statecast.errors import (
        AbsentError,
        ArgumentError,
        ConflictError,
        DataError,
        DataWarning,
        ForkError,
        JobError,
        KernelError,
        MissingExtraError,
        ModelFileError,
        NotFittedError,
        NotStatefulError,
        OverloadError,
        RequestError,
        StatecastError,
        StateError,
        StoreError,
        VersionError,
        WorkerError,
    )
    from statecast.evaluate.cross_validation import cross_validation
    from statecast.evaluate.scores import Scores
    from statecast.forecast.forecaster import Forecaster
    from statecast.layers.initial import InitialState
    from statecast.recurrence import cells
    from statecast.recurrence.kernels.native.arrays import Recurrence
    from statecast.sessions.sessions import Sessions
    from statecast.state import State
    from statecast.tables.panel import Panel
    from statecast.tables.schema import Schema
    from statecast.tokens import decoding
    from statecast.tokens.forecaster import TokenForecaster

    __version__: str

if sys.modules.get("keras") is None and "KERAS_BACKEND" not in os.environ:
    os.environ["KERAS_BACKEND"] = default_backend()

# The module that defines each public name. A name equal to the last part of it is that module.
_MODULES = {
    "AbsentError": "errors",
    "ArgumentError": "errors",
    "ConflictError": "errors",
    "DataError": "errors",
    "DataWarning": "errors",
    "Forecaster": "forecast.forecaster",
    "InitialState": "layers",
    "ForkError": "errors",
    "JobError": "errors",
    "KernelError": "errors",
    "MissingExtraError": "errors",
    "ModelFileError": "errors",
    "NotFittedError": "errors",
    "NotStatefulError": "errors",
    "OverloadError": "errors",
    "Panel": "tables.schema",
    "Recurrence": "recurrence.kernels.native.arrays",
    "RequestError": "errors",
    "ResetStates": "control",
    "Schema": "tables.schema",
    "Scores": "evaluate",
    "Sessions": "sessions",
    "State": "state",
    "StateError": "errors",
    "StatecastError": "errors",
    "StoreError": "errors",
    "TokenForecaster": "tokens.forecaster",
    "VersionError": "errors",
    "Windows": "control",
    "WorkerError": "errors",
    "cells": "recurrence.cells",
    "control": "control",
    "cross_validation": "evaluate",
    "data": "data",
    "decoding": "tokens.decoding",
    "distributed": "distributed",
    "evaluate": "evaluate",
    "explain_state": "control",
    "get_state": "control",
    "heads": "heads",
    "layers": "layers",
    "peek": "control",
    "plots": "plots",
    "reset_states": "control",
    "set_state": "control",
    "take_control": "control",
    "trajectory": "control",
}

__all__ = [
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


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("statecast")
    elif name in _MODULES:
        module = importlib.import_module(f"statecast.{_MODULES[name]}")
        value = module if name == _MODULES[name].rpartition(".")[2] else getattr(module, name)
    else:
        raise AttributeError(f"module 'statecast' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
