"""Every script of examples/ runs as a user runs it, and prints the lines that it must print."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "examples").glob("*.py"))

# Lines that the output of a script must contain. A script that is not listed here fails.
LINES = {
    "colour_names.py": (
        ["Sampled names:", 'Completions of "dark g":', "Colours for a name, the best", "k = 3: "]
        if (ROOT.parent / "shared" / "data" / "colours").exists()
        else ["Skipped: there is no series.csv in"]
    ),
    "reset_states.py": [
        "Keras {version} on {backend}",
        "ok     reset_states([5s, 24s]): h reads 5, c reads 24",
        "ok     predict: equals Keras's stateless LSTM with initial_state=[5s, 24s]",
        "ok     reset_states(): h and c read 0 again",
        "ok     fit: the loss of the first batch is",
        "ok     fit: the maps from X to h and to c were trained with the other weights",
        "ok     predict: one step at a time equals all steps in one call",
        "ok     p4..p30 of 4 new items: mean absolute error",
        "All checks passed.",
    ],
}


# A script whose work takes minutes is run on a part of it.
ARGUMENTS = {"colour_names.py": ["--quick"]}


def run(script: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    # Passive: PyTorch's threads otherwise wait busily for each other. On two cores that others
    # use as well, a training step of the smallest LSTM took 130 ms in place of 11.
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, str(script), *ARGUMENTS.get(script.name, [])],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )


MARKS = {  # these two take 10 to 15 seconds
    "reset_states.py": [pytest.mark.backends, pytest.mark.slow],
    "colour_names.py": [pytest.mark.slow],
}


@pytest.mark.parametrize(
    "script", [pytest.param(path, id=path.name, marks=MARKS.get(path.name, [])) for path in FILES]
)
def test_an_example_runs_and_says_what_it_shows(script: Path, tmp_path: Path) -> None:
    import keras

    result = run(script, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    names = {"version": keras.__version__, "backend": keras.backend.backend()}
    for line in LINES[script.name]:
        assert line.format(**names) in result.stdout, result.stdout
    assert not list(tmp_path.iterdir()), "an example leaves no files behind"


@pytest.mark.backends
def test_a_check_that_fails_is_said_and_ends_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("planted", ROOT / "examples/reset_states.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    for part in ("by_a_function", "learned"):
        monkeypatch.setattr(example, part, lambda: None)

    assert example.main() == 0

    class Deaf(example.LSTM):  # the complaint of 2017: a set that is not seen
        def reset_states(self, *args: object, **kwargs: object) -> None:
            pass

    monkeypatch.setattr(example, "LSTM", Deaf)
    assert example.main() == 1
    assert "WRONG  reset_states([5s, 24s]): h reads 5, c reads 24" in capsys.readouterr().out


def test_every_example_says_something() -> None:
    assert FILES
    assert {path.name for path in FILES} == set(LINES)
