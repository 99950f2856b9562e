"""The progress of a fit and of a cross-validation: bars, lines, or nothing, and where they go."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import keras
import numpy as np
import pytest

from effort import all_updates
from statecast import Forecaster, TokenForecaster, errors
from statecast.evaluate.cross_validation import cross_validation
from statecast.progress import LOG, count, display, say, trained_text

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
    with display(1, lines.append) as shown:
        shown.stage("fold 0 (1 of 2): fit", 0, 2)
        shown.stage("fold 0 (1 of 2): fit", 1, 2)
        shown.epoch(5, 5, "")
        shown.ended("Trained for 5 epochs.")
        say("a line of work within it")
        shown.stage("done", 2, 2)
    assert lines == ["Fold 0 (1 of 2): fit", "a line of work within it"]


def test_one_display_at_a_time():
    lines: list[str] = []
    with display(1, lines.append) as outer:
        with display(0) as inner:
            assert inner is outer
            inner.say("from within")
        with pytest.raises(ValueError, match="broken"), display(2):
            raise ValueError("broken")
        outer.say("still there")
    with display(0) as other:
        assert other is not outer
        say("nowhere")
    assert lines == ["from within", "still there"]


def test_parts_that_are_alike_have_a_line_now_and_then(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("statecast.progress.time.monotonic", lambda: now[0])
    lines: list[str] = []
    count("nobody looks", 0, 9)
    with display(1, lines.append):
        for part in range(1_200):
            now[0] += 1.0
            count("forecasts", part, 1_200)
    assert len(lines) == 109
    assert lines[-1] == "forecasts, 1,198 of 1,200 parts"


def test_on_a_terminal_there_are_bars_with_the_time_left(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with display("auto") as shown:
        shown.stage("fold [red]0[/red]: fit", 1, 4)
        for epoch in range(1, 4):
            shown.epoch(epoch, 9, "  score 0.1234")
        shown.bars.refresh()  # type: ignore[attr-defined]
        say("a line [above] the bars")
        shown.ended("Trained for 3 epochs.")
        shown.stage("done", 4, 4)
    out, err = capsys.readouterr()
    assert out == ""
    for text in ("Fold [red]0[/red]: fit", "1/4", "3/9", "score 0.1234", "-:--:--"):
        assert text in err, text
    assert "a line [above] the bars\n" in re.sub("\x1b[^A-Za-z]*[A-Za-z]", "", err)
    assert "Trained" not in err  # a fit of a stage is not the end


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
    out, lines = said("auto")  # standard error is no terminal here
    assert out == ""
    epochs = [line.split()[2] for line in lines if line.startswith("Training, epoch")]
    assert epochs == ["2/10", "4/10", "6/10", "8/10", "10/10"]
    assert lines[-1].startswith("Trained for 10 epochs; best score on held-out items in epoch ")
    assert all("on held-out items" in line for line in lines)
    assert said(2)[0] == ""
    assert len(said(2)[1]) == 11
    assert said(1)[0] == ""
    assert len(said(1)[1]) == 6


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
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with all_updates():  # a bar is drawn ten times a second
        Forecaster(**dict(SMALL, epochs=2)).fit(Y)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Training, epoch" in err
    assert "Trained for 2 epochs" in err
