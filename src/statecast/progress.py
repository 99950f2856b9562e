"""Lines with the progress of a long run, and where they are written."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from statecast.checks import check_choice

Verbose = Literal["auto", 0, 1, 2]
LOG = logging.getLogger("statecast")


def say(line: str) -> None:
    """Log a line of progress: logger "statecast" of ``logging``, level INFO. If logging is not
    set up, the line would not be seen, so it is written to standard error."""
    if LOG.hasHandlers():
        LOG.info(line)
    elif LOG.level <= logging.INFO:
        print(line, file=sys.stderr)


def check_verbose(verbose: Any) -> None:
    """Raise ``ArgumentError`` for a value that ``fit`` and ``cross_validation`` do not take."""
    check_choice("verbose", verbose, ("auto", 0, 1, 2))


def stage_lines(say: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """Return a ``progress`` function that gives a line before each stage."""

    def progress(text: str, done: int, total: int) -> None:
        if done < total:
            say(text[:1].upper() + text[1:])

    return progress


def scores_text(logs: Mapping[str, float]) -> str:
    """Return the scores of an epoch as text for a line of progress."""
    words = {
        "crps": "score",
        "nats": "nats",
        "val_crps": "on held-out items",
        "val_nats": "on held-out items",
    }
    return "".join(f"  {word} {logs[name]:.4f}" for name, word in words.items() if name in logs)


def trained_text(history: Mapping[str, Sequence[float | None]]) -> str:
    """Return a sentence with the number of epochs and which one was the best."""
    epochs = len(history.get("loss", []))
    scores = [
        (score, at + 1)
        for at, score in enumerate(history.get("val_crps", history.get("val_nats", [])))
        if score is not None and math.isfinite(score)
    ]
    best = f"; best score on held-out items in epoch {min(scores)[1]}" if scores else ""
    return f"Trained for {epochs} epoch{'s' * (epochs != 1)}{best}."
