"""``Quantiles``: a distribution given by its quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np

from statecast.errors import ArgumentError
from statecast.heads.base import SMALLEST, Head, constant, softplus_inverse
from statecast.heads.namespace import namespace
from statecast.recurrence.kernels.native.library import NativeHead

# The levels at which the forecaster keeps the quantiles of a distribution.
QUANTILE_LEVELS = (0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975)


@dataclass(frozen=True)
class Quantiles(Head):
    """A distribution given by its quantiles at ``levels``, which are the parameters.

    The network gives a median and positive distances from each quantile to the next, so quantiles
    cannot cross. The density is constant between two quantiles, and exponential in the tails,
    where it starts with the density of the outermost interval.

    Parameters
    ----------
    levels : sequence of float
        Increasing, an odd number of 3 or more; the middle one is 0.5.

    Raises
    ------
    ArgumentError
        Other levels.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import heads
    >>> head = heads.Quantiles((0.1, 0.5, 0.9))
    >>> head.quantile(np.array([-1.0, 0.0, 2.0]), np.array([0.1, 0.5, 0.7])).round(2).tolist()
    [-1.0, 0.0, 1.0]
    """

    levels: Sequence[float] = QUANTILE_LEVELS

    measure: ClassVar[str] = "crps"

    def __post_init__(self) -> None:
        levels = tuple(float(level) for level in self.levels)
        inside = all(0.0 < level < 1.0 for level in levels)
        rising = all(a < b for a, b in pairwise(levels))
        if len(levels) < 3 or len(levels) % 2 == 0 or not inside or not rising:
            raise ArgumentError(
                "levels: expected an odd number (3 or more) of increasing levels between 0 and 1, "
                f"received {self.levels}."
            )
        if levels[len(levels) // 2] != 0.5:
            raise ArgumentError(f"levels: the middle one must be 0.5, received {self.levels}.")
        object.__setattr__(self, "levels", levels)

    @property
    def size(self) -> int:
        return len(self.levels)

    @property
    def location_index(self) -> int:
        return len(self.levels) // 2

    def parameters(self, raw: Any, shift: Any) -> Any:
        ops = namespace(raw)
        m, start = self.location_index, self.start
        below = ops.softplus(raw[..., :m] + constant(start[:m], raw)) + SMALLEST
        above = ops.softplus(raw[..., m + 1 :] + constant(start[m:], raw)) + SMALLEST
        median = raw[..., m : m + 1] + shift
        below = ops.flip(ops.cumsum(ops.flip(below, axis=-1), axis=-1), axis=-1)
        return ops.concatenate([median - below, median, median + ops.cumsum(above, axis=-1)], -1)

    @property
    def native(self) -> NativeHead | None:
        gaps = tuple(self.start.tolist())
        return NativeHead("quantiles", self.size, gaps, SMALLEST, tuple(self.levels))

    @cached_property
    def start(self) -> np.ndarray:
        """What is added to raw distances: untrained, the quantiles are those of a normal
        distribution with half of the data's standard deviation."""
        deviates = [NormalDist().inv_cdf(level) for level in self.levels]
        return softplus_inverse(0.5 * np.diff(deviates))

    def mean(self, parameters: Any) -> Any:
        ops = namespace(parameters)
        width = constant(np.diff(self.levels), parameters)
        centre = 0.5 * (parameters[..., 1:] + parameters[..., :-1])
        low, high = self._tails(parameters)
        first, last = self.levels[0], 1.0 - self.levels[-1]
        inner = ops.sum(centre * width, axis=-1)
        return (
            inner
            + first * (parameters[..., 0] - low[..., 0])
            + last * (parameters[..., -1] + high[..., 0])
        )

    def quantile(self, parameters: Any, levels: Any) -> Any:
        ops = namespace(parameters)
        if isinstance(levels, tuple) and levels == self.levels:
            return parameters
        given = self.levels
        levels = ops.convert_to_tensor(levels, dtype=parameters.dtype)
        # In a loop: no array of rows x k x gaps, and a row has the same bits in any batch.
        inner = parameters[..., :1]
        for i, (start, end) in enumerate(pairwise(given)):
            share = ops.clip((levels - start) / (end - start), 0.0, 1.0)
            inner = inner + share * (parameters[..., i + 1 : i + 2] - parameters[..., i : i + 1])
        low, high = self._tails(parameters)
        below = ops.log(ops.clip(levels / given[0], 1e-30, 1.0))
        above = ops.log(ops.clip((1.0 - levels) / (1.0 - given[-1]), 1e-30, 1.0))
        return inner + low * below - high * above

    def log_likelihood(self, parameters: Any, y: Any) -> Any:
        ops = namespace(parameters)
        y = y[..., None]
        gaps = parameters[..., 1:] - parameters[..., :-1]
        density = constant(np.diff(self.levels), parameters) / gaps
        within = ops.cast((y >= parameters[..., :-1]) & (y < parameters[..., 1:]), density.dtype)
        low, high = self._tails(parameters)
        first, last = parameters[..., :1], parameters[..., -1:]
        under = math.log(self.levels[0]) - ops.log(low) + ops.minimum(y - first, 0.0) / low
        over = math.log1p(-self.levels[-1]) - ops.log(high) - ops.maximum(y - last, 0.0) / high
        inside = ops.sum(within * ops.log(density), axis=-1, keepdims=True)
        return ops.where(y < first, under, ops.where(y >= last, over, inside))[..., 0]

    def loss(self, parameters: Any, y: Any) -> Any:
        """Twice the mean pinball loss over the levels: a sum in place of the CRPS's integral."""
        ops = namespace(parameters)
        levels = constant(self.levels, parameters)
        error = y[..., None] - parameters
        return 2.0 * ops.mean(ops.maximum(levels * error, (levels - 1.0) * error), axis=-1)

    def _tails(self, parameters: Any) -> tuple[Any, Any]:
        """The scales of the lower and upper exponential tail, each ``(..., 1)``."""
        levels = self.levels
        first = levels[0] / (levels[1] - levels[0])
        last = (1.0 - levels[-1]) / (levels[-1] - levels[-2])
        low = first * (parameters[..., 1:2] - parameters[..., :1])
        high = last * (parameters[..., -1:] - parameters[..., -2:-1])
        return low, high
