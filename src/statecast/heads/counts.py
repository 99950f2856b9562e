"""Heads of counts: Poisson and negative binomial."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from statecast.heads.base import Head, softplus_inverse
from statecast.heads.namespace import Arrays, namespace
from statecast.heads.special import (
    LEAST_LEVEL,
    increasing_root,
    negative_binomial_cdf,
    negative_binomial_log_pmf,
    normal_quantile,
    poisson_cdf,
    poisson_log_pmf,
)
from statecast.recurrence.kernels.native import counts as native
from statecast.recurrence.kernels.native.library import NativeHead, find

_GAP = float(softplus_inverse(0.5))  # the inverse size that a raw number of 0 gives is 0.5


@dataclass(frozen=True)
class _Counts(Head):
    """A family of counts on the scale ``(log1p(count / centre) - location) / scaling``.

    The raw location is the scaled value of the mean, with a softplus that keeps the mean positive.
    Quantiles are those of the distribution function continued between the counts, where count n
    takes the interval from n - 1/2 to n + 1/2. So they increase strictly, none is below -1/2, and
    the nearest count is the quantile of the counts.
    """

    centre: float = 1.0
    location: float = 0.0
    scaling: float = 1.0

    transform: ClassVar[str | None] = "counts"
    smallest: ClassVar[float] = 1e-6  # added to the mean
    sharpness: ClassVar[float] = 10.0  # of the softplus, on the scale of the logarithm
    largest: ClassVar[float] = 2.0**26  # the largest mean, and the largest count in a likelihood

    @classmethod
    def on_scale(cls, centre: float, location: float, scaling: float) -> Head:
        return cls(centre, location, scaling)

    def counts(self, y: Any) -> Any:
        """Counts from scaled values: whole numbers, not below 0."""
        ops = namespace(y)
        return ops.maximum(ops.round(self._from_log(self.location + self.scaling * y)), 0.0)

    def scaled(self, counts: Any) -> Any:
        """Scaled values from ``counts``, which are above ``-centre``."""
        ops = namespace(counts)
        return (ops.log1p(counts / self.centre) - self.location) / self.scaling

    def observable(self, y: Any) -> Any:
        return self.scaled(self.counts(y))

    def mean(self, parameters: Any) -> Any:
        return self.scaled(parameters[..., 0])

    def quantile(self, parameters: Any, levels: Any) -> Any:
        ops = namespace(parameters)
        levels = ops.convert_to_tensor(levels, dtype=parameters.dtype)
        levels = ops.clip(levels, LEAST_LEVEL, 1.0 - LEAST_LEVEL)
        if _runs_natively(parameters):
            return self.scaled(_native_quantiles(parameters, levels) + np.float32(0.5))
        mean, inverse = parameters[..., :1], self.inverse_size(parameters)
        # By Bernstein's inequality no quantile up to the largest level is above `high`.
        ratio = 1.0 + inverse * mean  # of the variance to the mean
        high = mean + 6.0 * ops.sqrt(mean * ratio) + 30.0 * ratio
        deviate = normal_quantile(levels)
        guess = (mean + 1.0) * ops.exp(deviate * ops.sqrt(ops.log1p(ratio / mean))) - 1.0
        found = increasing_root(self.cdf, parameters, levels, -1.0, high, guess)
        return self.scaled(found + 0.5)

    def _mean_of(self, located: Any) -> Any:
        """The mean from its scaled value."""
        ops = namespace(located)
        log = self.location + self.scaling * located
        return self._from_log(ops.softplus(self.sharpness * log) / self.sharpness) + self.smallest

    def _from_log(self, log: Any) -> Any:
        ops = namespace(log)
        return self.centre * ops.expm1(ops.minimum(log, self._largest_log))

    @property
    def _largest_log(self) -> float:
        return math.log1p(self.largest / self.centre)

    def _native(self, family: str, *more: float) -> NativeHead:
        scale = (self.centre, self.location, self.scaling, self.sharpness, self._largest_log)
        return NativeHead(family, self.size, (*scale, *more), self.smallest)

    @abstractmethod
    def inverse_size(self, parameters: Any) -> Any:
        """i in the variance ``mean + i mean**2``; ``(..., 1)``."""

    @abstractmethod
    def cdf(self, parameters: Any, x: Any) -> Any:
        """The distribution function at ``x >= -1``, ``(..., k)``, continued between counts."""


@dataclass(frozen=True)
class Poisson(_Counts):
    """The Poisson distribution of counts; the parameter is their mean.

    Examples
    --------
    >>> from statecast import heads
    >>> heads.Poisson().size, heads.Poisson().transform
    (1, 'counts')
    """

    @property
    def size(self) -> int:
        return 1

    @property
    def native(self) -> NativeHead | None:
        return self._native("poisson")

    def parameters(self, raw: Any, shift: Any) -> Any:
        return self._mean_of(raw + shift)

    def inverse_size(self, parameters: Any) -> Any:
        return 0.0

    def cdf(self, parameters: Any, x: Any) -> Any:
        return poisson_cdf(x, parameters)

    def log_likelihood(self, parameters: Any, y: Any) -> Any:
        return poisson_log_pmf(self.counts(_like(parameters, y)), parameters[..., 0])


@dataclass(frozen=True)
class NegativeBinomial(_Counts):
    """The negative binomial distribution of counts; parameters: mean m and size r. The variance is
    ``m + m**2 / r``: a small size gives many zeros and some large counts.

    Examples
    --------
    >>> from statecast import heads
    >>> heads.NegativeBinomial().size, heads.NegativeBinomial().transform
    (2, 'counts')
    """

    @property
    def size(self) -> int:
        return 2

    @property
    def native(self) -> NativeHead | None:
        return self._native("negative_binomial", _GAP)

    def parameters(self, raw: Any, shift: Any) -> Any:
        ops = namespace(raw)
        inverse = ops.softplus(raw[..., 1:] + _GAP)
        inverse = ops.clip(inverse, 1e-4, 30.0)
        return ops.concatenate([self._mean_of(raw[..., :1] + shift), 1.0 / inverse], axis=-1)

    def inverse_size(self, parameters: Any) -> Any:
        return 1.0 / parameters[..., 1:]

    def cdf(self, parameters: Any, x: Any) -> Any:
        return negative_binomial_cdf(x, parameters[..., :1], parameters[..., 1:])

    def log_likelihood(self, parameters: Any, y: Any) -> Any:
        counts = self.counts(_like(parameters, y))
        return negative_binomial_log_pmf(counts, parameters[..., 0], parameters[..., 1])


def _runs_natively(parameters: Any) -> bool:
    """Whether the native library computes the quantiles: of float32 arrays, if it is built."""
    return (
        namespace(parameters) is Arrays
        and parameters.dtype == np.float32
        and not isinstance(find(), str)
    )


def _native_quantiles(parameters: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The quantiles of counts, ``(..., k)``, from parameters ``(..., n)`` and levels."""
    shape = (*np.broadcast_shapes(parameters.shape[:-1], levels.shape[:-1]), levels.shape[-1])
    flat = np.broadcast_to(parameters, (*shape[:-1], parameters.shape[-1]))
    flat = flat.reshape(-1, parameters.shape[-1])
    if levels.ndim > 1:
        levels = np.broadcast_to(levels, shape).reshape(-1, shape[-1])
    size = flat[:, 1] if flat.shape[1] > 1 else None
    return native.quantiles(flat[:, 0], size, levels, normal_quantile(levels)).reshape(shape)


def _like(parameters: Any, y: Any) -> Any:
    """``y`` as a tensor where ``parameters`` is one."""
    return namespace(parameters).convert_to_tensor(y, dtype=parameters.dtype)
