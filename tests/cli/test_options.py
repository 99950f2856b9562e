"""Options: those of the settings, and values outside their range."""

from __future__ import annotations

from pathlib import Path

import pytest

from plants import (
    FIT,
    FORECAST,
    refused,
    run,
)
from statecast.cli.options import SETTINGS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("simulate --total --peak", "several"),
        ("simulate --since 2", "--total"),
        ("simulate --peak --falling", "--time-to"),
        ("simulate --target height", "--peak"),
        ("simulate --time-to nan", "threshold"),
        ("simulate --paths 0", "paths"),
        ("simulate --top-k 2", "for tokens"),
        ("simulate --forbid a", "for tokens"),
        ("forecast --best 0", "for tokens"),
        ("forecast --length-power 1", "for tokens"),
    ],
)
def test_what_is_for_tokens_or_for_paths_is_refused(folder: Path, words: str, message: str) -> None:
    verb, *options = words.split()
    assert message in refused(folder, verb, *FORECAST[1:], *options, "--out", "s.csv")


def test_the_options_are_the_arguments_of_the_forecaster() -> None:
    import inspect

    from statecast import Forecaster, TokenForecaster

    parameters = [inspect.signature(kind).parameters for kind in (Forecaster, TokenForecaster)]
    assert set(SETTINGS) == {*parameters[0], *parameters[1]}


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--head", "cauchy", "quantiles"),
        ("--cell", "mamba", "lstm"),
        ("--units", "0", "units"),
        ("--conditioning", "none", "both"),
        ("--learning-rate", "-1", "learning_rate"),
        ("--id-col", "week", "step_col"),
        ("--past-cols", "week,height", "the option repeated"),
    ],
)
def test_settings_outside_their_range(folder: Path, option: str, value: str, word: str) -> None:
    assert word in refused(folder, *FIT, option, value)


def test_how_bounds_are_given_is_in_the_help() -> None:
    assert "--bounds LOW HIGH" in run("fit", "--help")[1]


@pytest.mark.parametrize("level", ["0", "100", "nan"])
def test_levels_outside_their_range(folder: Path, level: str) -> None:
    assert "level" in refused(folder, *FORECAST, "--level", level)
