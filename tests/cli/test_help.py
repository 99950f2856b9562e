"""Help in the terminal: what is shown without a command, the examples, and completion."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from statecast.cli.commands import app
from statecast.cli.examples import EXAMPLES, START
from statecast.data import growth

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_without_a_command_it_says_how_to_begin() -> None:
    result = CliRunner().invoke(app, [])
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{START}\n", "")
    assert max(map(len, START.splitlines())) <= 100
    for line in re.findall("^  (statecast .*)$", START, re.MULTILINE):
        parse(line)


def test_every_command_has_an_example() -> None:
    assert {*EXAMPLES} == {*COMMANDS}
    for name, lines in EXAMPLES.items():
        shown = CliRunner().invoke(app, [name, "--help"])
        assert shown.exit_code == 0
        for line in lines:
            assert line.startswith(f"statecast {name} ")
            assert f"\n    {line}\n" in shown.stdout or f"\n  {line}\n" in shown.stdout, name


def parse(line: str) -> None:
    """Raise ``UsageError`` unless a line is a command with options that it has."""
    _, name, *words = shlex.split(line)
    COMMANDS[name].make_context(name, words)


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_has_the_options_of_its_command(line: str) -> None:
    parse(line)


def test_this_test_finds_a_wrong_example() -> None:
    for line in ("statecast fit series.csv --outt m", "statecast forecast", "statecast fits a"):
        with pytest.raises(Exception, match=r"No such option|Missing|fits"):
            parse(line)


@pytest.mark.slow
def test_the_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: dict[str, int]
) -> None:
    """In their order, each on what those before it wrote; those of tokens and the server apart."""
    monkeypatch.chdir(tmp_path)
    series, static, folds = growth()
    series = series.select("unique_id", "ds", "y")
    old = folds.filter(pl.col("fold") > 0).select("unique_id")
    for name, how in (("", "semi"), ("held", "anti")):
        some = [t.join(old, on="unique_id", how=how) for t in (series, static)]  # type: ignore[arg-type]
        some[0].write_csv(f"{name or 'series'}.csv")
        some[1].write_csv(f"{name}-static.csv".removeprefix("-"))
    folds.join(old, on="unique_id").with_columns(pl.col("fold") % 2).write_csv("folds.csv")
    held = pl.read_csv("held.csv")
    held.filter(pl.col("ds") <= 3).write_csv("new.csv")
    held.filter(pl.col("ds") == 4).write_csv("later.csv")
    pl.read_csv("held-static.csv").write_csv("new-static.csv")
    first = ["fit", "state"]
    for name in [*first, *(each for each in EXAMPLES if each not in first)]:
        if name not in ("serve", "score", "rank"):
            for line in EXAMPLES[name]:
                result = CliRunner().invoke(app, shlex.split(line)[1:])
                assert result.exit_code == 0, f"{line}\n{result.output}{result.exception!r}"


def completed(words: str, shell: str = "bash") -> list[str]:
    """What the Tab key offers after these words."""
    script = os.path.join(os.path.dirname(sys.executable), "statecast")
    given = {
        "_STATECAST_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": f"statecast {words}",
        "COMP_CWORD": str(len(words.split()) + words.endswith(" ")),
        "_TYPER_COMPLETE_ARGS": f"statecast {words}",
    }
    done = subprocess.run([script], env=os.environ | given, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_the_tab_key_completes_commands_and_options() -> None:
    assert completed("fo") == ["forecast"]
    assert {"fit", "forecast", "report", "evaluate"} <= {*completed(" ")}
    found = completed("report model.safetensors --k")
    assert "--known" in found
    assert all(each.startswith("--k") for each in found)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(shell: str) -> None:
    script = os.path.join(os.path.dirname(sys.executable), "statecast")
    given = {"_STATECAST_COMPLETE": f"source_{shell}"}
    done = subprocess.run([script], env=os.environ | given, capture_output=True, text=True)
    assert "_STATECAST_COMPLETE" in done.stdout
    assert done.returncode == 0
