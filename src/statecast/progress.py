"""The progress of a long run: bars with the time left on a terminal, lines elsewhere, or nothing.

There is one display at a time. A fit within a cross-validation adds its epochs to the display of
the cross-validation. A forecast of many items shows its parts only within a command, which opens a
display for it.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from statecast.checks import check_choice

Verbose = Literal["auto", 0, 1, 2]
Stage = Callable[[str, int, int], None]
LOG = logging.getLogger("statecast")
LINES = 5  # of a training with all epochs
SECONDS = 10.0  # between two lines about parts that are alike


class Display(ABC):
    """Shows progress while a block of ``display`` runs."""

    @abstractmethod
    def stage(self, text: str, done: int, total: int) -> None:
        """Show that a part of the work begins: ``done`` of ``total`` parts are complete."""

    @abstractmethod
    def count(self, text: str, done: int, total: int) -> None:
        """Show that one of many like parts is complete: lines are some seconds apart."""

    @abstractmethod
    def epoch(self, done: int, total: int, scores: str) -> None:
        """Show that an epoch of a training has ended."""

    @abstractmethod
    def say(self, line: str) -> None:
        """Show a line that stays."""

    @abstractmethod
    def ended(self, line: str) -> None:
        """Show what a training came to."""


class _Nothing(Display):
    def stage(self, text: str, done: int, total: int) -> None:
        pass

    def count(self, text: str, done: int, total: int) -> None:
        pass

    def epoch(self, done: int, total: int, scores: str) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def ended(self, line: str) -> None:
        pass


class _Lines(Display):
    """A line for each stage. A training on its own has about ``LINES`` lines; one of a stage has
    none. With ``each`` every epoch has a line."""

    def __init__(self, write: Callable[[str], None], *, each: bool) -> None:
        self.write, self.each = write, each
        self._stage, self._said = "", time.monotonic()

    def stage(self, text: str, done: int, total: int) -> None:
        if done < total and text != self._stage:
            self.say(text[:1].upper() + text[1:])
        self._stage = text

    def count(self, text: str, done: int, total: int) -> None:
        if time.monotonic() - self._said > SECONDS:
            self._said = time.monotonic()
            self.say(f"{text}, {done:,} of {total:,} parts")

    def epoch(self, done: int, total: int, scores: str) -> None:
        if self.each or (not self._stage and done % max(1, total // LINES) == 0):
            self.say(f"Training, epoch {done}/{total}{scores}")

    def ended(self, line: str) -> None:
        if self.each or not self._stage:
            self.say(line)

    def say(self, line: str) -> None:
        self.write(line)


class _Bars(Display):
    """A bar for the stages and one for the epochs of a training, with the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}{task.fields[scores]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._stages = self.bars.add_task("", total=1, visible=False, scores="")
        self._training = self.bars.add_task("Training, epoch", total=1, visible=False, scores="")
        self._epoch, self._staged = 0, False

    def stage(self, text: str, done: int, total: int) -> None:
        text = text[:1].upper() + text[1:]
        self._staged = True
        self.bars.update(
            self._stages, description=text, completed=done, total=total, visible=done < total
        )
        self.bars.update(self._training, visible=False)

    def count(self, text: str, done: int, total: int) -> None:
        self.stage(text, done, total)

    def epoch(self, done: int, total: int, scores: str) -> None:
        if done <= self._epoch:  # another training
            self.bars.reset(self._training, total=total, scores="")
        self._epoch = done
        self.bars.update(
            self._training, completed=done, total=total, scores=scores, visible=done < total
        )

    def say(self, line: str) -> None:
        self.bars.console.print(line, markup=False, highlight=False)

    def ended(self, line: str) -> None:
        self.bars.update(self._training, visible=False)
        if not self._staged:
            self.say(line)


_current: ContextVar[Display | None] = ContextVar("_current", default=None)


@contextmanager
def display(verbose: Verbose, write: Callable[[str], None] | None = None) -> Iterator[Display]:
    """Open a display for a block, unless it runs within the block of another one.

    Parameters
    ----------
    verbose : "auto", 0, 1 or 2
        0 shows nothing, 1 lines, and 2 more lines. "auto" is bars if standard error is a terminal,
        and otherwise lines.
    write : callable, optional
        Writes a line; by default ``say`` does.

    Yields
    ------
    Display
        The one around the block, if there is one: ``verbose`` is then ignored.
    """
    around = _current.get()
    if around is not None:
        yield around
        return
    shown: Display
    if verbose == 0:
        shown = _Nothing()
    elif verbose == "auto" and sys.stderr is not None and sys.stderr.isatty():
        shown = _Bars()
    else:
        shown = _Lines(write or _write, each=verbose == 2)
    token = _current.set(shown)
    try:
        if isinstance(shown, _Bars):
            with shown.bars:
                yield shown
        else:
            yield shown
    finally:
        _current.reset(token)


def count(text: str, done: int, total: int) -> None:
    """Show that a part of a computation is complete that opens no display of its own."""
    shown = _current.get()
    if shown is not None:
        shown.count(text, done, total)


def say(line: str) -> None:
    """Show a line of progress: above the bars, if there are any; otherwise it is logged, by the
    logger "statecast" of ``logging`` at level INFO. If logging is not set up, the line would not be
    seen, so it is written to standard error."""
    shown = _current.get()
    if shown is None:
        _write(line)
    else:
        shown.say(line)


def _write(line: str) -> None:
    if LOG.hasHandlers():
        LOG.info(line)
    elif LOG.level <= logging.INFO:
        print(line, file=sys.stderr)


def check_verbose(verbose: Any) -> None:
    """Raise ``ArgumentError`` for a value that ``fit`` and ``cross_validation`` do not take."""
    check_choice("verbose", verbose, ("auto", 0, 1, 2))


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
