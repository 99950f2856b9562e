"""``Decoder``: what a network of numbers computes, without its weights. It needs no backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np

from statecast.heads.base import Head
from statecast.recurrence.cells import Stack

IN_STATE = ("state", "both")  # the conditionings with which X sets the initial state
Features = tuple[int, Sequence[int]]  # the number of numeric features; the cardinalities of codes
NO_FEATURES: Features = (0, ())
EMPTY: Mapping[str, Any] = MappingProxyType({})
ALL = slice(None)  # the members of an ensemble
STEP_FUNCTIONS = 8  # radial basis functions of the step, evenly spaced from 0 to the horizon
# The intervals of a standardised feature reach from minus to plus _REACH. They are wider outside
# than in the middle, where most values are: edges are evenly spaced numbers to the power _SPREAD.
_REACH, _SPREAD = 2.0, 1.3
_GAIN = 0.5  # of the columns of the intervals, in proportion to that of the feature itself


@dataclass(frozen=True)
class Decoder:
    """A stack of cells in a closed loop with its head.

    Without future covariates, the head computes the distribution of y_t from the stack's output
    after step t - 1 (and from the encoded X, if X is an input). The inputs of step t are then y_t
    and the encoded past covariates of step t. If y_t was not observed, the inputs are the median of
    its distribution and a flag that y_t is missing.

    With future covariates, the distribution of y_t depends on those of step t. The inputs of step t
    are then y_{t-1}, the past covariates of step t - 1 and the future covariates of step t, and the
    head uses the output after step t.

    The leaves of the state are those of the stack, and:

    - ``last``: the last value that was an input. The head's location is relative to it (the
      residual path).
    - ``step``: the number of steps taken.
    - ``static``: the encoded X, if X is an input.
    - ``pending``, with future covariates: the observation of the last step, which is an input of
      the next one.

    With several targets a step has a position for each target, and "step" above means a position;
    ``step`` counts positions. The target of a position is a further input, as a one-hot code. The
    radial basis functions are those of the step, and ``horizon`` is in steps.

    Parameters
    ----------
    stack : Stack
    head : Head
    horizon : int
        The length of the longest training item, in steps.
    static : int
        Width of the encoded X among the inputs; 0 if X is not an input.
    past, future : int
        Widths of the encoded covariates; 0 without them.
    targets : int
    intervals : int
        Intervals of a divided feature; see ``piecewise``.
    divided : tuple of int
        The numeric static features that have intervals.
    """

    stack: Stack
    head: Head
    horizon: int
    static: int = 0
    past: int = 0
    future: int = 0
    targets: int = 1
    intervals: int = 0
    divided: tuple[int, ...] = ()

    @property
    def units(self) -> int:
        """Width of the stack's output."""
        return self.stack.cells[-1].units

    @property
    def width(self) -> int:
        """Width of the stack's input: the observation, the functions of the step, the target, the
        future covariates and the encoded X."""
        target = self.targets if self.targets > 1 else 0
        return self.observation + STEP_FUNCTIONS + target + self.future + self.static

    @property
    def observation(self) -> int:
        """Width of the observation of a step: the value, the flag, and the past covariates."""
        return 2 + self.past

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {f"cell/{name}": shape for name, shape in self.stack.state_shapes.items()}
        shapes |= {"last": (1,), "step": (1,)}
        if self.static:
            shapes["static"] = (self.static,)
        if self.future:
            shapes["pending"] = (self.observation,)
        return shapes

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = self.stack.weight_shapes(self.width)
        return {f"cell/{name}": shape for name, shape in shapes.items()} | {
            "head/kernel": (self.units + self.static, self.head.size),
            "head/bias": (self.head.size,),
            "head/residual": (1,),
        }


def piecewise(numeric: Any, intervals: int, divided: Sequence[int], xp: Any) -> Any:
    """Numeric features with further columns, of which an affine map is piecewise linear in each
    divided feature (Gorishniy et al. 2022, "On embeddings for numerical features in tabular deep
    learning", equation 1).

    A divided feature has a column for each of the intervals of its range. The column increases
    within the interval and is constant outside. It is 0 where the standardised feature is 0: at the
    mean, and where it is missing. The intervals are the same for every feature.

    Parameters
    ----------
    numeric : array or tensor, ``(..., n)``
        The standardised features, 0 where missing; then a flag for each, 1 where it is missing.
    intervals : int
    divided : sequence of int
        The indices of the features that have intervals.
    xp : module
        NumPy or ``keras.ops``.

    Returns
    -------
    array or tensor, ``(..., n + intervals * len(divided))``
        For each interval a column of every divided feature follows. It is ``numeric`` itself if
        no feature is divided.
    """
    if not divided:
        return numeric
    value, parts = xp.take(numeric, np.array(divided), axis=-1), [numeric]
    for low, high in pairwise(edges(intervals)):
        at_zero = np.clip(-low / (high - low), 0.0, 1.0)
        part = xp.clip((value - low) / (high - low), 0.0, 1.0) - at_zero
        parts.append(part * np.float32(_GAIN))
    return xp.concatenate(parts, axis=-1)


def edges(intervals: int) -> np.ndarray:
    """The edges of the intervals of a divided feature, float32 ``(intervals + 1,)``; see
    ``piecewise``."""
    evenly = np.linspace(-1.0, 1.0, intervals + 1)
    return (_REACH * np.sign(evenly) * np.abs(evenly) ** _SPREAD).astype(np.float32)


def weight_shapes(
    decoder: Any,
    *,
    numeric: int,
    cardinalities: Sequence[int],
    members: int,
    encoding: int,
    conditioning: str,
    future: Features,
    past: Features,
    depth: int,
    hidden: int = 0,
) -> dict[str, tuple[int, ...]]:
    """The name and shape of every weight of a ``Network``, which a model file must have.

    The arguments are those of ``Network``.
    """
    shapes = {f"decoder/{name}": shape for name, shape in decoder.weight_shapes.items()}
    featured = bool(numeric or cardinalities)
    static = numeric + decoder.intervals * len(decoder.divided)
    encoders = {"encoder": (static, cardinalities), "future": future, "past": past}
    for name, (width, cards) in encoders.items():
        inner = hidden if hidden and name == "encoder" else encoding
        if width:
            shapes[f"{name}/kernel"] = (width, inner)
        if width or cards:
            shapes[f"{name}/bias"] = (inner,)
        for i, codes in enumerate(cards):
            shapes[f"{name}/embedding_{i}"] = (codes, inner)
    if featured and hidden:
        shapes |= {"encoder/out/kernel": (hidden, encoding), "encoder/out/bias": (encoding,)}
    leaves = decoder.stack.state_shapes
    if featured and conditioning in IN_STATE:
        width = max(shape[-1] for shape in leaves.values())
        fans = [encoding, *[width] * (depth - 1)]
        for i, fan in enumerate(fans[:-1]):
            shapes[f"initial/trunk_{i}/kernel"] = (fan, width)
            shapes[f"initial/trunk_{i}/bias"] = (width,)
        for name, shape in leaves.items():
            shapes[f"initial/{name}/kernel"] = (fans[-1], shape[-1])
            shapes[f"initial/{name}/bias"] = shape
    else:
        shapes |= {f"initial/{name}": shape for name, shape in leaves.items()}
    return {name: (members, *shape) for name, shape in shapes.items()}
