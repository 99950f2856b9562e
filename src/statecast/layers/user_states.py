"""Checks of what a user sets as a state: leaves, shapes, rows and numbers.

Everything is checked, and copied to NumPy, before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from statecast.errors import StateError
from statecast.state import State, at_rest, refuse_without_numbers, row_index

Shapes = Mapping[str, tuple[int, ...]]


def leaf_name(prefix: str, leaf: str) -> str:
    """The name of a layer's leaf within a model: ``lstm/h``; without a prefix ``h``."""
    return f"{prefix}/{leaf}" if prefix else leaf


def check_states(
    states: Any,
    shapes: Shapes,
    rows: int,
    where: str,
    dtypes: Mapping[str, str],
    *,
    allow_nonfinite: bool = False,
) -> dict[str, np.ndarray]:
    """A state given by a user, as a copied float64 array ``(rows, units)`` for each leaf.

    Parameters
    ----------
    states : State, mapping of str to array, array, or list of arrays (nested or flat)
        Lists in the order of ``shapes``; one array alone where there is one leaf.
    shapes : mapping of str to tuple of int
        The leaves expected, without rows.
    rows : int
        The rows expected. Nothing broadcasts.
    where : str
        The layer or model in messages: "layer 'lstm'".
    dtypes : mapping of str to str
        The dtypes that the leaves are stored in.
    allow_nonfinite : bool
        Allow NaN and infinite values.

    Raises
    ------
    StateError
        Other leaves, or another number of leaves, axes, rows or units; values that are not finite
        numbers of the dtype.
    """
    named = _named(states, list(shapes), where)
    found: dict[str, np.ndarray] = {}
    for leaf, shape in shapes.items():
        refuse_without_numbers(named[leaf], f"{where}, leaf {leaf!r}")
        try:
            value = np.array(at_rest(named[leaf]))
        except (TypeError, ValueError, RuntimeError) as error:
            raise StateError(f"{where}, leaf {leaf!r}: not an array ({error}).") from None
        expected = (rows, *shape)
        if value.dtype.kind not in "fiub" and "float" not in str(value.dtype):  # bfloat16 is V
            raise StateError(f"{where}, leaf {leaf!r}: expected numbers, received {value.dtype}.")
        if value.ndim != len(expected):
            raise StateError(
                f"{where}, leaf {leaf!r}: expected shape {expected}, received {value.shape}: "
                f"{value.ndim} axes where there are {len(expected)}."
            )
        if value.shape[1:] != expected[1:]:
            raise StateError(
                f"{where}, leaf {leaf!r}: expected shape {expected}, received {value.shape}: "
                "the units differ."
            )
        if value.shape[0] != rows:
            raise StateError(
                f"{where}, leaf {leaf!r}: expected shape {expected}, received {value.shape}: "
                "the rows differ, and nothing broadcasts. Name the rows to set with rows=..., or "
                f"pass batch_size={value.shape[0]} to change the number of rows."
            )
        value = value.astype("float64")
        kept = dtypes[leaf] if dtypes[leaf] in ("float16", "float64") else "float32"
        with np.errstate(over="ignore"):
            lost = ~np.isfinite(value.astype(kept))
        if not allow_nonfinite and lost.any():
            row = int(np.argwhere(lost)[0][0])
            raise StateError(
                f"{where}, leaf {leaf!r}: expected finite numbers of {dtypes[leaf]}, received "
                f"{value[row][lost[row]][0]} in row {row}. "
                "Pass allow_nonfinite=True if that is intended."
            )
        found[leaf] = value
    return found


def check_rows(rows: Any, count: int, where: str) -> np.ndarray:
    """``rows`` given by a user, as whole numbers; all ``count`` rows for None.

    Raises
    ------
    StateError
        A row is out of range or comes twice, or ``count`` is 0: the batch size is unknown.
    """
    if count == 0:
        raise StateError(
            f"{where}: the batch size is unknown, so there are no rows yet. Give the model "
            "Input(batch_shape=(rows, ...)), call it once, or pass batch_size=... here."
        )
    if rows is None:
        return np.arange(count)
    try:
        index = row_index(rows, count)
    except StateError as error:
        raise StateError(f"{where}: {error}") from None
    if len(set(index.tolist())) != len(index):
        raise StateError(f"{where}: a row is given twice in {rows}.")
    return index


def _named(states: Any, names: list[str], where: str) -> Mapping[str, Any]:
    if isinstance(states, State):
        states = states.leaves
    if isinstance(states, Mapping):
        flat = _flat(states)
        if set(flat) != set(names):
            raise StateError(f"{where}: expected the leaves {names}, received {list(flat)}.")
        return flat
    values = flatten_states(states)
    if len(values) != len(names):
        raise StateError(
            f"{where}: expected {len(names)} state{'s' * (len(names) > 1)} "
            f"({', '.join(names)}), received {len(values)}."
        )
    return dict(zip(names, values, strict=True))


def _flat(states: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in states.items():
        flat |= (
            _flat(value, f"{before}{name}/")
            if isinstance(value, Mapping)
            else {before + name: value}
        )
    return flat


def flatten_states(states: Any, axes: int = 2) -> list[Any]:
    """The arrays in a nested list, in order. Numbers in lists ``axes`` deep count as one array."""
    if isinstance(states, (list, tuple)) and _depth(states) > axes:
        return [leaf for inner in states for leaf in flatten_states(inner, axes)]
    return [states]


def _depth(states: Any) -> float:
    """How many lists deep numbers stand; infinite where there is anything but numbers."""
    if isinstance(states, (list, tuple)):
        return 1 + max((_depth(inner) for inner in states), default=np.inf)
    return 0 if isinstance(states, (int, float, np.number)) else np.inf
