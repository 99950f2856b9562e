"""Heads of real values: normal, log-normal, logit-normal, Student's t."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from statecast.heads.base import SMALLEST, Head, softplus_inverse
from statecast.heads.namespace import namespace
from statecast.heads.special import (
    HALF_LOG_2PI,
    LEAST_LEVEL,
    log_gamma,
    normal_quantile,
    student_t_quantile,
)
from statecast.recurrence.kernels.native.library import NativeHead

_GAP = float(softplus_inverse(0.5))  # the scale that a raw number of 0 gives is 0.5


@dataclass(frozen=True)
class Normal(Head):
    """The normal distribution; parameters: mean, standard deviation.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import heads
    >>> head = heads.Normal()
    >>> head.quantile(np.array([0.0, 1.0]), np.array([0.1, 0.5, 0.9])).round(2).tolist()
    [-1.28, 0.0, 1.28]
    """

    measure: ClassVar[str] = "crps"

    @property
    def size(self) -> int:
        return 2

    @property
    def native(self) -> NativeHead | None:
        return NativeHead("normal", self.size, (_GAP,), SMALLEST)

    def parameters(self, raw: Any, shift: Any) -> Any:
        ops = namespace(raw)
        mean = raw[..., :1] + shift
        scale = ops.softplus(raw[..., 1:] + _GAP) + SMALLEST
        return ops.concatenate([mean, scale], axis=-1)

    def mean(self, parameters: Any) -> Any:
        return parameters[..., 0]

    def quantile(self, parameters: Any, levels: Any) -> Any:
        ops = namespace(parameters)
        levels = ops.convert_to_tensor(levels, dtype=parameters.dtype)
        return parameters[..., :1] + parameters[..., 1:] * normal_quantile(levels)

    def log_likelihood(self, parameters: Any, y: Any) -> Any:
        ops = namespace(parameters)
        mean, scale = parameters[..., 0], parameters[..., 1]
        return -0.5 * ops.square((y - mean) / scale) - ops.log(scale) - HALF_LOG_2PI

    def loss(self, parameters: Any, y: Any) -> Any:
        """The CRPS in closed form: Gneiting et al. (2005), Monthly Weather Review 133, eq. 5."""
        ops = namespace(parameters)
        mean, scale = parameters[..., 0], parameters[..., 1]
        w = (y - mean) / scale
        cdf = 0.5 * (1.0 + ops.erf(w / math.sqrt(2.0)))
        density = ops.exp(-0.5 * ops.square(w) - HALF_LOG_2PI)
        return scale * (w * (2.0 * cdf - 1.0) + 2.0 * density - 1.0 / math.sqrt(math.pi))


@dataclass(frozen=True)
class LogNormal(Normal):
    """The log-normal distribution of positive values: normal on the scale of their logarithm.

    Examples
    --------
    >>> from statecast import heads
    >>> heads.LogNormal().transform
    'positive'
    """

    transform: ClassVar[str | None] = "positive"


@dataclass(frozen=True)
class LogitNormal(Normal):
    """The logit-normal distribution of values between bounds (Aitchison and Shen 1980): normal
    on the scale of their logit.

    Examples
    --------
    >>> from statecast import heads
    >>> heads.LogitNormal().transform
    'logit'
    """

    transform: ClassVar[str | None] = "logit"


@dataclass(frozen=True)
class StudentT(Head):
    """Student's t distribution; parameters: median, scale, degrees of freedom.

    The degrees of freedom stay above 2.5, so that mean and variance exist.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import heads
    >>> head = heads.StudentT()
    >>> head.quantile(np.array([0.0, 1.0, 4.0]), np.array([0.1, 0.5, 0.9])).round(2).tolist()
    [-1.53, 0.0, 1.53]
    """

    @property
    def size(self) -> int:
        return 3

    @property
    def native(self) -> NativeHead | None:
        return NativeHead("student_t", self.size, (_GAP,), SMALLEST)

    def parameters(self, raw: Any, shift: Any) -> Any:
        ops = namespace(raw)
        median = raw[..., :1] + shift
        scale = ops.softplus(raw[..., 1:2] + _GAP) + SMALLEST
        # Untrained 7.5; up to 744, where the distribution is all but normal.
        freedom = 2.5 + 5.0 * ops.exp(ops.clip(raw[..., 2:], -6.0, 5.0))
        return ops.concatenate([median, scale, freedom], axis=-1)

    def mean(self, parameters: Any) -> Any:
        return parameters[..., 0]

    def quantile(self, parameters: Any, levels: Any) -> Any:
        ops = namespace(parameters)
        levels = ops.convert_to_tensor(levels, dtype=parameters.dtype)
        levels = ops.clip(levels, LEAST_LEVEL, 1.0 - LEAST_LEVEL)
        deviate = student_t_quantile(levels, parameters[..., 2:])
        return parameters[..., :1] + parameters[..., 1:2] * deviate

    def log_likelihood(self, parameters: Any, y: Any) -> Any:
        ops = namespace(parameters)
        median, scale, n = (parameters[..., i] for i in range(3))
        w = (y - median) / scale
        return (
            log_gamma(0.5 * n + 0.5)
            - log_gamma(0.5 * n)
            - 0.5 * ops.log(math.pi * n)
            - ops.log(scale)
            - 0.5 * (n + 1.0) * ops.log1p(ops.square(w) / n)
        )
