"""Checks of arguments, one for each kind of value.

A value that fails a check raises an ``ArgumentError``, or the error that the caller names. The
message has the name of the argument, what was expected and what was received. NumPy's numbers are
accepted like Python's. Booleans are not numbers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from statecast.errors import ArgumentError, StatecastError


def is_whole(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    """Return whether a value is a whole number from ``least`` to ``most``."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and least <= int(value) <= most


def is_number(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    """Return whether a value is a real number from ``least`` to ``most``; NaN is not."""
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    # A float, because NumPy warns if a limit is outside the range of the value's dtype.
    value = float(value) if isinstance(value, np.floating) else value
    return real and bool(least <= value <= most)


def is_flag(value: Any) -> bool:
    """Return whether a value is True or False; 0 and 1 are neither."""
    return isinstance(value, (bool, np.bool_))


def check_whole(
    name: str,
    value: Any,
    least: int = 1,
    most: int | None = None,
    *,
    expected: str = "",
    error: type[StatecastError] = ArgumentError,
) -> int:
    """Return a whole number as an int.

    Parameters
    ----------
    name : str
        The name of the argument, for the message.
    value : object
    least, most : int
        The range. Without ``most`` there is no upper limit.
    expected : str, optional
        What was expected, for the message; by default a whole number in this range.
    error : type of exception

    Raises
    ------
    ArgumentError, or ``error``
        Another type, or a number out of range.
    """
    if not is_whole(value, least, math.inf if most is None else most):
        upto = "" if most is None else f" to {most}"
        wanted = expected or f"a whole number from {least}{upto}"
        raise error(f"{name}: expected {wanted}; received {value!r}.")
    return int(value)


def check_number(name: str, value: Any, least: float, most: float, *, expected: str = "") -> float:
    """Return a real number as a float.

    Raises
    ------
    ArgumentError
        Another type, NaN, or a number outside ``least`` to ``most``.
    """
    if not is_number(value, least, most):
        wanted = expected or f"a number from {least:g} to {most:g}"
        raise ArgumentError(f"{name}: expected {wanted}; received {value!r}.")
    return float(value)


def check_numbers(name: str, given: Any) -> list[float]:
    """Return one finite number, several (a sequence or an array), or None, as a list of floats.

    Raises
    ------
    ArgumentError
        Anything else.
    """
    if given is None:
        return []
    if isinstance(given, np.ndarray):
        given = given.ravel().tolist()
    try:
        several = [given] if is_number(given) or isinstance(given, (str, bytes)) else list(given)
    except TypeError:
        several = [given]
    if not all(is_number(number, -sys.float_info.max, sys.float_info.max) for number in several):
        raise ArgumentError(f"{name}: expected a number, several or None; received {given!r}.")
    return [float(number) for number in several]


def check_flag(name: str, value: Any) -> bool:
    """Return True or False.

    Raises
    ------
    ArgumentError
        Anything else, also 0 and 1.
    """
    if not is_flag(value):
        raise ArgumentError(f"{name}: expected True or False; received {value!r}.")
    return bool(value)


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> Any:
    """Return a value that is one of the choices.

    Raises
    ------
    ArgumentError
        Any other value.
    """
    allowed: Sequence[Any] = list(choices)
    if not isinstance(value, (str, int)) or value not in allowed:
        raise ArgumentError(f"{name}: expected one of {allowed}; received {value!r}.")
    return value
