"""Small data for tests: arrays, and the same as tables; values in the domain of a transform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from statecast.tables.scaling import Transform


def in_domain(values: np.ndarray, transform: Transform) -> np.ndarray:
    """Values of the domain of a transform, made from any values; NaN stays NaN."""
    low, high = transform.bounds
    if math.isfinite(high):
        values = low + (high - low) * (np.abs(values) % 1)
    elif math.isfinite(low):
        values = low + np.abs(values)
    for known in (values, values + 1e-3, np.rint(values)):  # without the bound; whole numbers
        if not transform.outside(known).any():
            return known
    raise AssertionError(f"no values of the domain of {transform}")


def toy(rows: int = 30, steps: int = 8, seed: int = 0, gaps: float = 0.2) -> tuple[Any, Any]:
    """Y and X; ragged, with gaps."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 2))
    Y = 60 + X[:, :1] * np.arange(1, steps + 1) + rng.normal(size=(rows, steps)).cumsum(1)
    Y[rng.random(Y.shape) < gaps] = np.nan
    for row in range(0, rows, 5):
        Y[row, steps // 2 :] = np.nan
    Y[:, 0] = np.where(np.isnan(Y).all(axis=1), 20.0, Y[:, 0])
    return Y, X


def tables(Y: np.ndarray, X: np.ndarray, names: Sequence[Any] | None = None) -> tuple[Any, Any]:
    """The same as long polars tables, with a categorical static too."""
    ids = list(range(len(Y))) if names is None else list(names)
    row, at = np.nonzero(~np.isnan(Y))
    series = pl.DataFrame({"unique_id": [ids[i] for i in row], "ds": at + 1, "y": Y[row, at]})
    kind = [("a", "b", "c")[i % 3] for i in range(len(Y))]
    static = {"unique_id": ids, "kind": kind, "x1": X[:, 0], "x2": X[:, 1]}
    return series, pl.DataFrame(static)
