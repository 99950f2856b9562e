"""The lines of a fit and of a cross-validation: what they say, and where they go."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import keras
import numpy as np
import pytest

from statecast import Forecaster, TokenForecaster, errors
from statecast.evaluate.cross_validation import cross_validation
from statecast.progress import LOG, say, stage_lines, trained_text

Y = np.random.default_rng(0).normal(size=(6, 4)).cumsum(axis=1)
SMALL: dict[str, Any] = {"units": 2, "ensemble": 1, "epochs": 10, "patience": 10}


def _lines(text: str) -> list[str]:
    """The lines of a text, without those of XLA, which may comment on a compiled program."""
    return [line for line in text.splitlines() if not re.match(r"[IWE]\d{4} ", line)]


@pytest.fixture
def no_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program that has set up no logging: pytest has."""
    monkeypatch.setattr(LOG, "hasHandlers", lambda: False)


def test_a_line_goes_to_the_logger_at_level_info(caplog, capsys):
    caplog.set_level(logging.INFO)
    say("Training")
    assert caplog.record_tuples == [("statecast", logging.INFO, "Training")]
    caplog.set_level(logging.WARNING, "statecast")
    say("Training")
    assert len(caplog.records) == 1
    assert capsys.readouterr() == ("", "")


def test_without_logging_it_goes_to_standard_error(no_logging, capsys, monkeypatch):
    say("Training")
    assert capsys.readouterr() == ("", "Training\n")
    monkeypatch.setattr(LOG, "level", logging.ERROR)
    say("Training")
    assert capsys.readouterr() == ("", "")


def test_a_stage_has_a_line_and_the_end_has_none():
    lines: list[str] = []
    stage = stage_lines(lines.append)
    stage("fold 0 (1 of 2): fit", 0, 2)
    stage("done", 2, 2)
    assert lines == ["Fold 0 (1 of 2): fit"]


@pytest.mark.parametrize(
    ("history", "text"),
    [
        ({}, "Trained for 0 epochs."),
        ({"loss": [1.0]}, "Trained for 1 epoch."),
        (
            {"loss": [2.0, 1.0, 3.0], "val_crps": [None, 0.5, 0.6]},
            "Trained for 3 epochs; best score on held-out items in epoch 2.",
        ),
        ({"loss": [1.0, 1.0], "val_nats": [float("nan")] * 2}, "Trained for 2 epochs."),
    ],
)
def test_what_a_training_came_to(history, text):
    assert trained_text(history) == text


def test_what_a_fit_says(no_logging, capfd):
    def said(verbose: Any) -> tuple[str, list[str]]:
        capfd.readouterr()
        Forecaster(**SMALL).fit(Y, verbose=verbose)
        out, err = capfd.readouterr()
        return out, _lines(err)

    assert said(0) == ("", [])
    out, lines = said("auto")  # standard output is no terminal here
    assert out == ""
    epochs = [line.split()[2] for line in lines if line.startswith("Training, epoch")]
    assert epochs == ["2/10", "4/10", "6/10", "8/10", "10/10"]
    assert lines[-1].startswith("Trained for 10 epochs; best score on held-out items in epoch ")
    assert all("on held-out items" in line for line in lines)
    assert said(2)[0] == ""
    assert len(said(2)[1]) == 11
    bar, lines = said(1)
    assert "Epoch 10/10" in bar
    assert len(lines) == 1


@pytest.mark.parametrize("kind", [Forecaster, TokenForecaster])
def test_the_lines_of_a_cross_validation(kind, no_logging, capfd):
    values = Y if kind is Forecaster else np.char.mod("%d", Y > 0).astype(object)
    f = kind(**dict(SMALL, epochs=2))

    def said(**options: Any) -> list[str]:
        capfd.readouterr()
        cross_validation(f, values, folds=2, known=[1], baselines=False, **options)
        out, err = capfd.readouterr()
        assert out == ""
        return _lines(err)

    second = "forecast from k = 1" if kind is Forecaster else "score"
    stages = [f"Fold {n} ({n + 1} of 2): {what}" for n in (0, 1) for what in ("fit", second)]
    assert said(verbose=0) == []
    assert said() == stages
    lines = said(verbose=2)
    assert [line for line in lines if line.startswith("Fold")] == stages
    assert len(lines) == len(stages) + 2 * 3
    told: list[tuple[str, int, int]] = []
    assert said(progress=lambda *stage: told.append(stage)) == []
    assert told[-1] == ("done", 4, 4)


@pytest.mark.parametrize("callbacks", [3, [3], "x", [lambda: None], keras.callbacks.Callback()])
def test_other_callbacks_are_refused_before_any_work(callbacks):
    with pytest.raises(errors.ArgumentError, match=r"callbacks: expected a list of keras"):
        Forecaster(**SMALL).fit(None, callbacks=callbacks, verbose=0)


@pytest.mark.parametrize("verbose", ["loud", 3, -1, None, 1.5, [0], np.zeros(2)])
def test_another_verbose_is_refused_before_any_work(verbose):
    f = Forecaster(**SMALL)
    with pytest.raises(
        errors.ArgumentError, match=r"verbose: expected one of .'auto', 0, 1, 2.; received"
    ):
        f.fit(None, verbose=verbose)
    with pytest.raises(
        errors.ArgumentError, match=r"verbose: expected one of .'auto', 0, 1, 2.; received"
    ):
        cross_validation(f, None, verbose=verbose)


def test_on_a_terminal_a_fit_shows_a_bar(no_logging, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    Forecaster(**dict(SMALL, epochs=1)).fit(Y)
    out, err = capsys.readouterr()
    assert "1/1" not in err
    assert "step" in out
