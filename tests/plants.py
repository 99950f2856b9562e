"""Tables of plants for the command line, and functions that run commands on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from statecast.cli.commands import app

# The command line behaves alike on every backend. Commands that train or forecast run on each.
backends = pytest.mark.backends

SMALL = ["--units", "4", "--ensemble", "2", "--epochs", "2"]

STEPS = 6

Tables = dict[str, list[list[str]]]


def plant_tables() -> Tables:
    """Ten plants, a to j, with six heights each: lists of cells for each row, the header first."""
    series, static, folds = [["plant", "week", "height"]], [["plant", "soil", "light"]], []
    folds.append(["plant", "fold"])
    for i, plant in enumerate("abcdefghij"):
        static.append([plant, "sand" if i % 2 else "clay", str(i / 10)])
        folds.append([plant, str(i % 2)])
        for week in range(1, STEPS + 1):
            series.append([plant, str(week), f"{10 + i + week * (1 + i % 2) + 0.1 * week**2:.2f}"])
    return {"series": series, "static": static, "folds": folds}


def first_weeks(series: list[list[str]], steps: int = 3) -> list[list[str]]:
    return [row for row in series if not row[1].isdigit() or int(row[1]) <= steps]


def write_tables(folder: Path, given: Tables) -> None:
    for name, rows in given.items():
        (folder / f"{name}.csv").write_text("".join(",".join(row) + "\n" for row in rows))


COLUMNS = ["--id-col", "plant", "--step-col", "week", "--target-col", "height"]

FIT = ["fit", "series.csv", "static.csv", *COLUMNS, *SMALL, "--out", "new.safetensors"]

FORECAST = ["forecast", "model.safetensors", "series.csv", "static.csv", "--until", "6"]

EVALUATE = [
    *["evaluate", "series.csv", "static.csv", *COLUMNS, *SMALL, "--known", "0,2"],
    *["--folds", "folds.csv", "--out", "scores.csv", "--plot", "scores.png"],
]

PLOT = ["plot", "forecast.csv", "whole.csv", *COLUMNS]


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def refused(folder: Path, *command: str) -> str:
    """Run a command that must fail: exit code 2, one message, nothing written. The message."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, out, err = run(*command)
    assert code == 2, out + err
    assert out == ""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return lines[0]
