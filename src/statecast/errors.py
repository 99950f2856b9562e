"""The exceptions Statecast raises, as one tree::

    StatecastError
    ├── DataError            (ValueError)      a table or an array that cannot be used
    │   ├── AbsentError                        an item that the sessions do not have
    │   └── ConflictError                      an item that is not as the call expects
    │       └── VersionError                   an item that changed since it was read
    ├── ArgumentError        (ValueError)      an argument whose value is not allowed
    ├── StateError           (ValueError)      a state of the wrong leaves, shapes or rows
    │   └── NotStatefulError (AttributeError)  a layer that keeps no state between calls
    ├── ModelFileError       (ValueError)      a file that is damaged or not a Statecast file
    ├── KernelError          (RuntimeError)    the kernel that was asked for declines the problem
    ├── ForkError            (RuntimeError)    a forked process whose parent used the backend
    ├── StoreError           (RuntimeError)    a store of sessions that cannot be used
    ├── OverloadError        (RuntimeError)    more calls wait than the sessions may hold
    ├── JobError             (RuntimeError)    a job of which some parts failed
    ├── WorkerError          (RuntimeError)    workers of a cluster that have ended
    ├── RequestError         (ValueError)      a request over HTTP that cannot be answered
    ├── NotFittedError       (AttributeError)  a method that needs fit first
    └── MissingExtraError    (ImportError)     an optional dependency is not installed

Every message says what was expected, what was received (with the column and the first
item at fault, if there is one) and what to do. All checks run before any work, so that an
error leaves nothing half done.

``DataWarning`` is the only warning. It is about data that can be used, for example a
category that no training item has.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_silent: ContextVar[list[str] | None] = ContextVar("_silent", default=None)


class StatecastError(Exception):
    """The base class of all exceptions that Statecast raises.

    Examples
    --------
    >>> from statecast import Forecaster, StatecastError
    >>> try:
    ...     Forecaster(units=0)
    ... except StatecastError as error:
    ...     print(error)
    units: expected a whole number from 1 to 4096; received 0.
    """


class DataError(StatecastError, ValueError):
    """A table or an array that cannot be used.

    Attributes
    ----------
    column : str or None
        The column at fault.
    item : object or None
        The first item (its id) at fault.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import DataError, Schema
    >>> try:
    ...     Schema.fit(np.array([[1.0, np.inf]]))
    ... except DataError as error:
    ...     print(error.column)
    Y
    """

    def __init__(self, message: str, *, column: str | None = None, item: Any = None) -> None:
        super().__init__(message)
        self.column = column
        self.item = item


class AbsentError(DataError):
    """An item that the sessions do not have.

    Examples
    --------
    >>> from statecast import AbsentError, DataError
    >>> issubclass(AbsentError, DataError)  # so `except DataError` has it too
    True
    """


class ConflictError(DataError):
    """An item that is not as the call expects: there already, observed later, or changed since.

    Examples
    --------
    >>> from statecast import ConflictError, VersionError
    >>> try:
    ...     raise VersionError("The item has changed.")
    ... except ConflictError as error:
    ...     print(error)
    The item has changed.
    """


class VersionError(ConflictError):
    """An item that changed since the caller read it.

    Examples
    --------
    >>> from statecast import VersionError
    >>> error = VersionError("The item has changed.", item="Ada")
    >>> error.item
    'Ada'
    """


class ArgumentError(StatecastError, ValueError):
    """An argument whose value is not allowed.

    Examples
    --------
    >>> from statecast import ArgumentError, Forecaster
    >>> try:
    ...     Forecaster(head="gauss")
    ... except ArgumentError as error:
    ...     print(str(error)[:38])
    head: expected one of ['quantiles', 'n
    """


class StateError(StatecastError, ValueError):
    """A state, or a leaf of a state, with the wrong leaves, shapes, rows or values.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import State, StateError
    >>> try:
    ...     State({"h": np.zeros((2, 4))}).take([5])
    ... except StateError as error:
    ...     print(error)
    A row is out of range: expected -2 to 1, received [5].
    """


class NotStatefulError(StateError, AttributeError):
    """A layer that keeps no state between calls, or a model without a layer that does.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import NotStatefulError
    >>> from statecast.layers import LSTM
    >>> lstm = LSTM(2, name="lstm")
    >>> try:
    ...     lstm.reset_states()
    ... except NotStatefulError as error:
    ...     print(str(error)[:34])
    layer 'lstm' is not stateful: it k
    """


class ModelFileError(StatecastError, ValueError):
    """A file that is damaged, of another version, or not a model or state of Statecast.

    Attributes
    ----------
    format : str or None
        The format of a file that is not of the expected one, if it names one.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from statecast import Forecaster, ModelFileError
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.safetensors")
    ...     _ = path.write_bytes(b"not a model")
    ...     try:
    ...         Forecaster.load(path)
    ...     except ModelFileError:
    ...         print("refused")
    refused
    """

    def __init__(self, message: str, *, format: str | None = None) -> None:  # noqa: A002
        super().__init__(message)
        self.format = format


class KernelError(StatecastError, RuntimeError):
    """The kernel that was asked for by name declines the problem.

    Examples
    --------
    >>> from statecast import KernelError
    >>> issubclass(KernelError, RuntimeError)
    True
    """


class ForkError(StatecastError, RuntimeError):
    """The backend cannot compute in a forked process whose parent has used it.

    Examples
    --------
    >>> from statecast import ForkError
    >>> issubclass(ForkError, RuntimeError)
    True
    """


class StoreError(StatecastError, RuntimeError):
    """A store of sessions that cannot be opened, read or written to. Nothing is lost.

    Examples
    --------
    >>> from statecast import StoreError
    >>> from statecast.sessions import SQLiteStore
    >>> try:
    ...     SQLiteStore("/no such folder/items.db")
    ... except StoreError:
    ...     print("nothing was opened")
    nothing was opened
    """


class OverloadError(StatecastError, RuntimeError):
    """More observations wait than the sessions may hold: this call is refused. Repeat it later.

    Examples
    --------
    >>> import time
    >>> from statecast import OverloadError
    >>> def patient(call, tries=3):
    ...     for _ in range(tries - 1):
    ...         try:
    ...             return call()
    ...         except OverloadError:
    ...             time.sleep(0.1)
    ...     return call()
    >>> patient(lambda: "accepted")
    'accepted'
    """


class JobError(StatecastError, RuntimeError):
    """A job of which some parts failed. The other parts are there.

    Attributes
    ----------
    failed : dict of int to str
        The error of each part that failed, by its number.

    Examples
    --------
    >>> from statecast import JobError
    >>> error = JobError("One part of two failed.", failed={1: "row 7: no such column"})
    >>> error.failed[1]
    'row 7: no such column'
    """

    def __init__(self, message: str, *, failed: dict[int, str] | None = None) -> None:
        super().__init__(message)
        self.failed = failed or {}


class WorkerError(StatecastError, RuntimeError):
    """Workers of a cluster ended before their work was done, each time that it was tried.

    Examples
    --------
    >>> from statecast import WorkerError
    >>> issubclass(WorkerError, RuntimeError)
    True
    """


class RequestError(StatecastError, ValueError):
    """A request over HTTP that cannot be answered.

    Attributes
    ----------
    status : int
        The status of the answer.
    headers : dict of str to str
        Further headers of the answer.

    Examples
    --------
    >>> from statecast import RequestError
    >>> error = RequestError(503, "Too many requests.", Retry_After="1")
    >>> error.status, error.headers
    (503, {'Retry-After': '1'})
    """

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class NotFittedError(StatecastError, AttributeError):
    """A method that needs a fitted forecaster.

    Examples
    --------
    >>> from statecast import Forecaster, NotFittedError
    >>> try:
    ...     Forecaster().predict([[1.0, 2.0]], until=3)
    ... except NotFittedError:
    ...     print("call fit first")
    call fit first
    """


class MissingExtraError(StatecastError, ImportError):
    """An optional dependency is missing; the message names the extra to install.

    Examples
    --------
    >>> from statecast import MissingExtraError
    >>> issubclass(MissingExtraError, ImportError)
    True
    """


class DataWarning(UserWarning):
    """Data that can be used, with a property that the user should know.

    Examples
    --------
    >>> import warnings
    >>> from statecast import DataWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", DataWarning)  # stop at what would be a warning
    """


def warn(message: str) -> None:
    """Issue a ``DataWarning`` that names the line of the user's code that called Statecast."""
    found = _silent.get()
    if found is not None:
        found.append(message)
        return
    package, level = f"{__name__.partition('.')[0]}.", 1
    frame = sys._getframe(1)
    while frame.f_back and f"{frame.f_globals.get('__name__')}.".startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, DataWarning, stacklevel=level + 1)


@contextmanager
def silent() -> Iterator[list[str]]:
    """Issue no ``DataWarning`` within the block and its thread; yield a list of their messages."""
    found: list[str] = []
    token = _silent.set(found)
    try:
        yield found
    finally:
        _silent.reset(token)


def quoted(value: Any, most: int = 80) -> str:
    """Return ``repr(value)`` for a message, cut to ``most`` characters. Ids may be long texts."""
    # Cut first, as the repr of a whole long text is slow.
    long = isinstance(value, (str, bytes)) and len(value) > most
    return cut(repr(value[:most] if long else value) + "..." * long, most)


def cut(text: str, most: int = 80) -> str:
    """Return a text for a message, cut to ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def listed(values: Iterable[Any], most: int = 8) -> str:
    """Return the first ``most`` values for a message, quoted, and the number of the others;
    "none" without values."""
    several = list(values)
    if not several:
        return "none"
    more = f" and {len(several) - most} more" if len(several) > most else ""
    return ", ".join(map(quoted, several[:most])) + more
