"""What a type checker and an editor know of the package, as a user's script sees it."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from statecast.cli.options import SETTINGS
from statecast.forecast import forecaster
from statecast.forecast.forecaster import Forecaster
from statecast.tokens import forecaster as tokens
from statecast.tokens.forecaster import TokenForecaster

ROOT = Path(__file__).parents[1]
README = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)

RIGHT = """
from pathlib import Path
import numpy as np
import pandas as pd
import polars as pl
from statecast import Forecaster, State, TokenForecaster, cross_validation
from statecast.evaluate import Scores, TargetScores
from statecast.evaluate.tokens import TokenScores
from statecast.tokens.decoding import Beam, Sampling
from typing import assert_type

f, tokens = Forecaster(head="normal"), TokenForecaster(tied=True, conditioning="first")
table, array, frame = pl.DataFrame(), np.zeros((2, 3)), pd.DataFrame()
assert_type(f.predict(table, until=3), pl.DataFrame)
assert_type(f.predict(frame, frame, h=3, level=None), pd.DataFrame)
assert_type(f.predict(array, until=3), dict[str, np.ndarray])
assert_type(f.predict("series.csv", until=3), pl.DataFrame)
assert_type(f.predict_total(table, until=3, by=[], mean=True), pl.DataFrame)
assert_type(f.predict_total(frame, frame, h=3, by="region"), pd.DataFrame)
assert_type(f.predict_total(array, until=3, since=1), dict[str, np.ndarray])
assert_type(f.predict_total(Path("series.parquet"), until=3), pl.DataFrame)
f.predict_total(state=f.state(table), until=3, by={1: "a"})
f.simulate(table, until=3, paths=5).of("y").total()
tokens.sample(table, until=3, sampling=Sampling()).text()
assert_type(tokens.generate(frame, until=3, beam=Beam(3)), pd.DataFrame)
assert_type(f.state(table), State)
assert_type(f.clone().set_params(units=3).fit(table), Forecaster)
assert_type(TokenForecaster.load("f.safetensors"), TokenForecaster)
assert_type(cross_validation(f, table), Scores | TargetScores)
assert_type(cross_validation(tokens, table), TokenScores)
"""

# A line each, and what the checker says of it.
WRONG = {
    'Forecaster(head="negbin")': "head",
    'Forecaster(cell="rnn")': "cell",
    'Forecaster(transform="sqrt")': "transform",
    "Forecaster(unit=3)": "unit",
    "Forecaster().predict(table, untill=3)": "No overloads",
    "Forecaster().predict(table, until=3, beam=Beam())": "No overloads",
    "Forecaster().predict_total(table, until=3, calibrated=False)": "No overloads",
    "Forecaster().predict_total(table, until=3, groups=[])": "No overloads",
    "Forecaster().simulate(table, until=3).text()": "text",
    "Forecaster().log_likelihood(table)": "log_likelihood",
    "TokenForecaster(dropouts=0.5)": "dropouts",
    'TokenForecaster(transform="log")': "transform",
    "TokenForecaster().generate(table, until=3, level=80)": "No overloads",
    "TokenForecaster().sample(table, until=3).total()": "total",
}


def checked(folder: Path, script: str) -> list[dict[str, Any]]:
    """The errors that pyright finds in a script beside the installed package."""
    (folder / "script.py").write_text(script, "utf-8")
    settings = {
        "include": ["script.py"],
        "extraPaths": [str(ROOT / "src")],
        "typeCheckingMode": "standard",
        "useLibraryCodeForTypes": False,  # as in pyproject.toml: Keras ships no types
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    found = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    answer = json.loads(found.stdout)
    assert answer["summary"]["filesAnalyzed"] == 1
    return [each for each in answer["generalDiagnostics"] if each["severity"] == "error"]


def test_the_readme_and_a_users_script_are_right(tmp_path: Path) -> None:
    assert checked(tmp_path, "\n".join(README) + RIGHT) == []


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    lines = ["import polars as pl", "from statecast import Forecaster, TokenForecaster"]
    lines += ["from statecast.tokens.decoding import Beam", "table = pl.DataFrame()"]
    found = checked(tmp_path, "\n".join([*lines, *WRONG]))
    at = {each["range"]["start"]["line"] - len(lines): each["message"] for each in found}
    for number, (line, word) in enumerate(WRONG.items()):
        assert word in at.get(number, "nothing was found"), line


@pytest.mark.parametrize(
    ("typed", "verb"),
    [
        (forecaster._Predict, Forecaster.predict),
        (forecaster._PredictTotal, Forecaster.predict_total),
        (tokens._Generate, TokenForecaster.generate),
    ],
)
def test_the_typed_keywords_are_those_of_the_verb(typed: Any, verb: Any) -> None:
    own = inspect.signature(verb).parameters
    written = {"self", "series", "static", "state"}
    assert set(typed.__annotations__) == set(own) - written


KINDS: dict[str, Any] = {
    "": Forecaster(),
    "tokens ": TokenForecaster(),
    "several targets ": Forecaster(target_col=["a", "b"]),
}
SHOWN = {"True": "yes", "False": "no", "None": "", "()": ""}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_help_says_what_a_setting_is_by_default(name: str) -> None:
    """At its end, such as ``[32; tokens 256]``."""
    found, said = re.search(r"  \[(.*)\]$", SETTINGS[name][1]), {}
    for part in found[1].split("; ") if found else []:
        kind = next((kind for kind in list(KINDS)[1:] if part.startswith(kind)), "")
        said[kind] = part.removeprefix(kind)
    for kind, model in KINDS.items():
        if name != "target_col" or kind != "several targets ":
            value = str(getattr(model.settings, name, said.get("", "")))
            assert said.get(kind, said.get("", "")) == SHOWN.get(value, value)
