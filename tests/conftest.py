"""Shared by all tests: the backend, slow tests, small settings, growth data and forecasters."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from effort import CI, EVERYTHING, SLOW_TO_COMPILE, examples, few_updates, has_gpu

# Before anything imports Keras. A backend chosen from outside is kept.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")
if os.environ["KERAS_BACKEND"] == "jax":
    # A program is compiled once for all tests, as compilation takes most of the time. The cache is
    # for one run, so that every run compiles everything once.
    _compiled = tempfile.TemporaryDirectory(prefix="statecast-tests-", ignore_cleanup_errors=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    if not EVERYTHING:  # most programs run once or a few times
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import pytest
from hypothesis import HealthCheck, settings

from statecast.data import GROWTH, Growth, growth

# No deadline, because the first example compiles. In CI the examples are the same in every run, so
# that a failure is caused by the change.
settings.register_profile(
    "statecast",
    deadline=None,
    derandomize=CI,
    max_examples=examples(20),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("statecast")

if not EVERYTHING:
    few_updates()

SMALL = {"units": 4, "ensemble": 2, "epochs": 2}


def pytest_report_header() -> str:
    return f"Keras backend: {os.environ['KERAS_BACKEND']}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not has_gpu():
            item.add_marker(pytest.mark.skip(reason="the backend has no GPU"))
    if EVERYTHING:
        return
    skip = pytest.mark.skip(reason="slow: runs where CI=true, or with SLOW=1")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


@pytest.fixture
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boosted trees have few rounds, as they are by far the slowest baseline."""
    from sklearn.ensemble import HistGradientBoostingRegressor as Boosted

    name = "sklearn.ensemble.HistGradientBoostingRegressor"
    monkeypatch.setattr(name, partial(Boosted, max_iter=2))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, few_trees: None) -> dict[str, int]:
    """Forecasters are small by default, so that the code in the documentation runs in seconds."""
    from statecast.forecast.base import StateModel

    take_over = StateModel._set
    monkeypatch.setattr(StateModel, "_set", lambda self, given: take_over(self, SMALL | given))
    return SMALL


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks keep their initial weights: for tests that do not depend on the training."""
    from statecast.interrupt import Interrupt
    from statecast.networks.training import KeepBest, after

    nothing = KeepBest(after(1), Interrupt())
    monkeypatch.setattr("statecast.networks.training.train", lambda *_, **__: nothing)


@pytest.fixture(scope="session")
def growth_tables() -> Growth:
    """The growth study as polars tables: series, static, folds."""
    return growth()


@pytest.fixture
def growth_folder(tmp_path: Path) -> Path:
    """A new folder with series.csv, static.csv and folds.csv of the growth study."""
    for name in ("series", "static", "folds"):
        (tmp_path / f"{name}.csv").write_bytes((GROWTH / f"{name}.csv").read_bytes())
    return tmp_path


# -- forecasters for several files of tests. `curves` loads Keras, so it is imported late ---------


@pytest.fixture(scope="session")
def fitted() -> Any:
    """A forecaster with the settings of ``curves.fit_curves``."""
    from curves import fit_curves

    return fit_curves()


@pytest.fixture(scope="session")
def too_long() -> Any:
    """A forecaster of series that are too long for analogues, with another seed."""
    from curves import T, fit_curves

    with pytest.MonkeyPatch.context() as short:
        short.setattr("statecast.forecast.companions.MOST_STEPS", T - 1)
        return fit_curves(seed=1)


@pytest.fixture(
    scope="session",
    params=["gru-normal-deep", pytest.param("rnn-inputs", marks=SLOW_TO_COMPILE)],
)
def other(request: pytest.FixtureRequest) -> Any:
    """Forecasters with settings that differ from those of ``fitted``."""
    from curves import fit_curves

    options: dict[str, dict[str, Any]] = {
        "gru-normal-deep": {"cell": "gru", "head": "normal", "layers": 2, "depth": 2},
        "rnn-inputs": {"cell": "simple_rnn", "conditioning": "inputs"},
    }
    return fit_curves(**options[request.param])
