"""The exceptions Statecast raises, as one tree.

    StatecastError
    ├── DataError            (ValueError)      a table or an array that was handed in
    ├── ArgumentError        (ValueError)      an argument outside what it may be
    ├── StateError           (ValueError)      a state that does not fit where it is put
    │   └── NotStatefulError (AttributeError)  a layer that keeps no state between calls
    ├── ModelFileError       (ValueError)      a file that is not one of ours, or is damaged
    ├── KernelError          (RuntimeError)    a kernel was forced and declines the problem
    ├── ForkError            (RuntimeError)    a forked process whose parent had run the backend
    ├── NotFittedError       (AttributeError)  a verb that needs ``fit`` first
    └── MissingExtraError    (ImportError)     an optional dependency is not installed

Every message says what was expected, what came (with the column and the first
offending item, where there is one) and what to do. All checks run before any work,
so an error leaves nothing half done.

``DataWarning`` is the one warning: data that is usable but that its owner should
know about, such as a category that was never seen in training.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from typing import Any


class StatecastError(Exception):
    """The root of all exceptions raised on purpose by this package."""


class DataError(StatecastError, ValueError):
    """A table or an array that cannot be used.

    Attributes
    ----------
    column : str or None
        The column at fault.
    item : object or None
        The first item (its id) at fault.
    """

    def __init__(self, message: str, *, column: str | None = None, item: Any = None) -> None:
        super().__init__(message)
        self.column = column
        self.item = item


class ArgumentError(StatecastError, ValueError):
    """An argument outside what it may be."""


class StateError(StatecastError, ValueError):
    """A state, or a leaf of one, that does not fit where it is put."""


class NotStatefulError(StateError, AttributeError):
    """A layer, or a model without a layer, that keeps its state between calls."""


class ModelFileError(StatecastError, ValueError):
    """A model or state file that is damaged, of another version, or not ours."""


class KernelError(StatecastError, RuntimeError):
    """A kernel was asked for by name and declines the problem."""


class ForkError(StatecastError, RuntimeError):
    """A forked process in which the backend cannot compute, for its parent had it run."""


class NotFittedError(StatecastError, AttributeError):
    """A verb that needs a fitted forecaster."""


class MissingExtraError(StatecastError, ImportError):
    """An optional dependency is missing; the message names the extra to install."""


class DataWarning(UserWarning):
    """Data that is usable, and that its owner should know about."""


def warn(message: str) -> None:
    """Give a ``DataWarning`` that points at the line that called the library."""
    package, level = f"{__name__.partition('.')[0]}.", 1
    frame = sys._getframe(1)
    while frame.f_back and f"{frame.f_globals.get('__name__')}.".startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, DataWarning, stacklevel=level + 1)


def quoted(value: Any, most: int = 80) -> str:
    """Return ``repr(value)`` for a message, cut to ``most`` characters: an id may be a text."""
    long = isinstance(value, (str, bytes)) and len(value) > most  # do not quote all of a megabyte
    return cut(repr(value[:most] if long else value) + "..." * long, most)


def cut(text: str, most: int = 80) -> str:
    """Return a text for a message, cut to ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def listed(values: Iterable[Any], most: int = 8) -> str:
    """Return values for a message, quoted and in order: the first few, and how many more."""
    several = list(values)
    more = f" and {len(several) - most} more" if len(several) > most else ""
    return ", ".join(map(quoted, several[:most])) + more
