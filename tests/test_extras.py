"""What works without Keras, its backends and pyarrow, and what says which command to run."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from statecast import Forecaster
from statecast.process import BACKENDS

# A module that is None cannot be imported, and is not found.
WITHOUT = """
import os, sys
sys.modules |= dict.fromkeys({names!r})
import warnings
warnings.simplefilter("ignore")
import numpy as np
def raised(call):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error)
    else:
        print("nothing")
"""
ALL = ("keras", "jax", "jaxlib", "torch", "tensorflow", "pyarrow")
several = pytest.mark.skipif(
    any(find_spec(name) is None for name in BACKENDS), reason="one of the backends is missing"
)
Y = np.arange(48.0).reshape(8, 6)


def run(code: str, names: tuple[str, ...] = ALL, **environment: str) -> str:
    """What a new interpreter prints in which these packages are missing."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(names=names) + code],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_table_of_a_library_that_is_missing_is_refused(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    series = pandas.DataFrame(
        {"unique_id": np.repeat(np.arange(8), 6), "ds": np.tile(np.arange(1, 7), 8), "y": Y.ravel()}
    )
    f = Forecaster(units=2, ensemble=1, epochs=1).fit(series, verbose=0)
    model, state = str(tmp_path / "m.safetensors"), str(tmp_path / "s.safetensors")
    f.save(model)
    f.state(series[series["ds"] < 4]).save(state)
    code = f"""
from statecast import Forecaster, State
f, s = Forecaster.load({model!r}), State.load({state!r})
raised(lambda: f.predict(state=s, until=6))
raised(lambda: f.simulate(state=s, until=6, paths=3).total())
raised(lambda: f.simulate(state=s, until=6, paths=3).table())
raised(lambda: f.predict_total(state=s, until=6, by=[], paths=3))
"""
    found = run(code, (*ALL, "pandas")).splitlines()
    expected = "fitted on tables of pandas.*not installed: pip install pandas"
    assert len(found) == 4
    for line in found:
        assert line.startswith("MissingExtraError")
        assert re.search(expected, line)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    Forecaster(units=4, ensemble=1, epochs=1).fit(Y, verbose=0).save(path)
    return path


def test_a_fitted_model_works_without_keras_and_its_backends(model: Path) -> None:
    code = f"""
from statecast import Forecaster
f, Y = Forecaster.load({str(model)!r}), np.arange(48.0).reshape(8, 6)
later = np.where(np.arange(6) == 2, Y, np.nan)
state = f.update(f.state(Y[:, :2]), later)
print(f.predict(state=state, until=6)["statecast"].tolist())
print(f.simulate(Y[:, :3], until=6, paths=3).values.shape)
print(len(f.explain(Y[:, :3], until=6).table()))
"""
    lines = run(code).splitlines()
    expected = Forecaster.load(model).predict(Y[:, :3], until=6)["statecast"]
    assert lines[0] == str(np.asarray(expected).tolist())
    assert lines[1:] == ["(8, 3, 6)", "24"]


def test_what_needs_keras_names_the_command(model: Path) -> None:
    calls = (
        "Forecaster().fit(np.ones((8, 3)))",
        "TokenForecaster().fit(np.array([list('ab')] * 8))",
        "cross_validation(Forecaster(), np.ones((8, 3)))",
        "Forecaster.load(MODEL).network",
        "statecast.layers",
        "statecast.control",
        "statecast.InitialState",
        "__import__('statecast.layers.recurrent')",
    )
    code = f"""
import statecast
from statecast import Forecaster, TokenForecaster, cross_validation
MODEL = {str(model)!r}
"""
    lines = run(code + "\n".join(f"raised(lambda: {call})" for call in calls)).splitlines()
    for call, line in zip(calls, lines, strict=True):
        assert line.startswith("MissingExtraError"), call
        assert "keras and jax are not installed. Run: pip install 'statecast[jax]'." in line


@several
@pytest.mark.parametrize(
    ("missing", "environment", "found"),
    [
        (("jax",), {"KERAS_BACKEND": "jax"}, "Or set KERAS_BACKEND to torch, which is installed."),
        (("keras", "jax"), {"KERAS_BACKEND": "torch"}, "keras is not installed. Run: pip install"),
        (("jax", "torch"), {"KERAS_BACKEND": "torch"}, "to tensorflow, which is installed."),
        ((), {"KERAS_BACKEND": "numpy"}, "expected jax, torch or tensorflow, received 'numpy'"),
    ],
)
def test_a_backend_that_is_missing_is_named(
    missing: tuple[str, ...], environment: dict[str, str], found: str
) -> None:
    code = "from statecast import Forecaster; raised(lambda: Forecaster().fit(np.ones((8, 3))))"
    assert found in run(code, missing, **environment)


@several
@pytest.mark.parametrize(
    ("missing", "backend"),
    [((), "jax"), (("jax",), "torch"), (("jax", "torch"), "tensorflow"), (ALL, "jax")],
)
def test_the_default_is_the_first_backend_that_is_installed(
    missing: tuple[str, ...], backend: str
) -> None:
    assert run("import statecast; print(os.environ['KERAS_BACKEND'])", missing) == backend


def test_a_parquet_file_needs_pyarrow(model: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "y.parquet")
    pl.DataFrame({"unique_id": [1, 1], "ds": [1, 2], "y": [1.0, 2.0]}).write_parquet(path)
    code = f"""
from statecast import Forecaster
f = Forecaster.load({str(model)!r})
raised(lambda: f.predict({path!r}, until=6))
raised(lambda: f.state({path!r}))
raised(lambda: f.predict(np.ones((1, 2)), until={path!r}))
raised(lambda: f.clone().fit({path!r}))
"""
    lines = run(code, ("pyarrow",)).splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.startswith("MissingExtraError")
        assert "y.parquet': Parquet files are read by pyarrow" in line
        assert "pip install 'statecast[parquet]'" in line


def test_sessions_need_the_packages_of_their_store(model: Path, tmp_path: Path) -> None:
    code = f"""
from statecast import Forecaster, Sessions
raised(lambda: Sessions(Forecaster.load({str(model)!r}), {str(tmp_path / "items.db")!r}))
"""
    assert "pip install 'statecast[sessions]'" in run(code, ("apsw",))
    assert run(code) == "nothing"  # neither Keras, its backends nor pyarrow
    code = f"""
from statecast import Forecaster, Sessions
raised(lambda: Sessions(Forecaster.load({str(model)!r}), "redis://localhost:1/0"))
"""
    assert "pip install 'statecast[redis]'" in run(code, ("redis",))
    assert "the server does not answer" in run(code, (*ALL, "apsw"))


def test_a_server_needs_its_packages_and_no_keras(tmp_path: Path) -> None:
    model, (item, step) = tmp_path / "model.safetensors", np.indices(Y.shape)
    series = pl.DataFrame({"unique_id": item.ravel(), "ds": step.ravel() + 1, "y": Y.ravel()})
    Forecaster(units=4, ensemble=1, epochs=1).fit(series, verbose=0).save(model)
    code = f"""
from statecast import Forecaster, Sessions
from statecast.server import application
sessions = Sessions(Forecaster.load({str(model)!r}), {str(tmp_path / "items.db")!r})
raised(lambda: application(sessions))
"""
    assert "pip install 'statecast[serve]'" in run(code, ("starlette",))
    assert "pip install 'statecast[serve]'" in run(code, ("orjson",))
    assert "pip install 'statecast[serve]'" in run(code, ("prometheus_client",))
    assert run(code) == "nothing"  # neither Keras, its backends nor pyarrow


def test_commands_that_use_a_model_need_no_keras(model: Path, tmp_path: Path) -> None:
    series = tmp_path / "y.csv"
    pl.DataFrame({"unique_id": [1, 1], "ds": [1, 2], "y": [1.0, 2.0]}).write_csv(series)
    words = ["forecast", str(model), str(series), "--until", "6"]
    code = f"""
from statecast.cli import main
sys.argv = ["statecast", *{words!r}]
main()
"""
    assert run(code).startswith("unique_id,ds,statecast")
    words = ["fit", str(series), "--out", str(tmp_path / "new.safetensors")]
    code = f"""
from statecast.cli import main
sys.argv = ["statecast", *{words!r}]
try:
    main()
except SystemExit as end:
    print(end.code, os.listdir({str(tmp_path)!r}))
"""
    assert run(code) == "2 ['y.csv']"
