"""Heads: from the network's output to a distribution over the next value.

A head is a small frozen description without weights. It says how many raw numbers it
needs (``size``), maps them to parameters, and answers everything about the distribution
from those. All functions work on tensors of the current Keras backend and treat the last
axis as the parameters', whatever stands before it.

The head's location moves with ``shift``: a forecaster's residual path adds the last value
there, so that the network learns the change.

All speak of scaled values, as a panel has them. Where a family belongs to one kind of value
(counts, say), ``transform`` names the scale it needs; a family of counts knows the numbers of
that scale, and its likelihood is that of the counts themselves.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from statecast.errors import ArgumentError
from statecast.heads.special import (
    LEAST_LEVEL,
    increasing_root,
    log_gamma,
    negative_binomial_cdf,
    negative_binomial_log_pmf,
    normal_quantile,
    poisson_cdf,
    poisson_log_pmf,
    student_t_quantile,
)
from statecast.recurrence.kernels import quantiles as native


@dataclass(frozen=True)
class Readout:
    """The affine map from a recurrence's outputs to a head's raw numbers, for all steps at once.

    Step t is read from the output and the value taken in at step t - 1, and the first step
    from ``first`` and ``last``; where those are None, from the output and the value of step t
    itself. Members of an ensemble come first.

    Parameters
    ----------
    outputs : tensor, ``(members, rows, steps, units)``
    taken : tensor, ``(members, rows, steps)``
        The values taken in.
    kernel : tensor, ``(members, units, size)``
    base : tensor, ``(members, rows, size)``
        What a row's raw numbers have besides: the bias, and what else is the row's own.
    decay : tensor, ``(members,)``
        The shift is this times the value.
    first, last : tensor, ``(members, rows, units)`` and ``(members, rows)``, optional
    """

    outputs: Any
    taken: Any
    kernel: Any
    base: Any
    decay: Any
    first: Any = None
    last: Any = None

    def raw(self) -> tuple[Any, Any]:
        """Every step's raw numbers ``(members, rows, steps, size)`` and shift ``(..., 1)``."""
        from keras import ops

        outputs, taken = self.outputs, self.taken
        if self.first is not None:
            outputs = ops.concatenate([self.first[:, :, None], outputs], axis=2)[:, :, :-1]
            taken = ops.concatenate([self.last[..., None], taken], axis=-1)[..., :-1]
        # One product a member: with the rows apart it would be one a row, four times as slow.
        members, rows, steps, units = ops.shape(outputs)
        flat = ops.matmul(ops.reshape(outputs, (members, rows * steps, units)), self.kernel)
        raw = ops.reshape(flat, (members, rows, steps, flat.shape[-1])) + self.base[:, :, None]
        return raw, (taken * self.decay[:, None, None])[..., None]


class Head(ABC):
    """A family of distributions over one value.

    ``parameters`` is ``(..., size)``; ``y`` is ``(...)``; ``levels`` is ``(..., k)`` or
    ``(k,)``, strictly between 0 and 1.
    """

    transform: ClassVar[str | None] = None  # of ``table.Schema``, where the family needs one
    measure: ClassVar[str] = "nats"  # what ``loss`` is: a negative log-likelihood, or the CRPS

    @classmethod
    def on_scale(cls, centre: float, location: float, scaling: float) -> Head:
        """The head of values scaled to ``(transform(y, centre) - location) / scaling``."""
        return cls()

    @property
    @abstractmethod
    def size(self) -> int:
        """How many raw numbers the network gives for a value."""

    @abstractmethod
    def parameters(self, raw: Any, shift: Any) -> Any:
        """Raw numbers ``(..., size)`` and a shift ``(..., 1)`` to parameters ``(..., size)``."""

    @property
    def located_by(self) -> int:
        """Which raw number, with the shift, a closed loop feeds back: the median, or of counts
        the mean (on their scale)."""
        return 0

    @abstractmethod
    def mean(self, parameters: Any) -> Any:
        """The mean, ``(...)``; of counts their mean's place on the scale."""

    @abstractmethod
    def quantile(self, parameters: Any, levels: Any) -> Any:
        """The quantiles ``(..., k)``; they never cross. At uniform levels this is a sample."""

    def observable(self, y: Any) -> Any:
        """The nearest value that can be observed: of a sample, what a path takes in."""
        return y

    @abstractmethod
    def log_likelihood(self, parameters: Any, y: Any) -> Any:
        """The log-density at ``y``, of counts the log-probability; ``(...)``."""

    def loss(self, parameters: Any, y: Any) -> Any:
        """What training minimises, ``(...)``: a proper score at ``y``, less is better.

        The continuous ranked probability score where it has a closed form: it is in the units
        of ``y``, and an outlier moves it linearly (Gneiting and Raftery 2007, JASA 102, eq. 20).
        Else the negative log-likelihood.
        """
        return -self.log_likelihood(parameters, y)

    def score(self, readout: Readout, y: Any, weight: Any) -> Any:
        """The loss of each row, summed over its steps, float32 ``(members, rows)``.

        ``y`` and ``weight`` are ``(members or 1, rows, steps)``, and data: no gradient reaches
        them. ``explain`` says what computes it.
        """
        from keras import ops

        if self._native_declines(readout) is None:
            return ops.cast(self._native_score(readout, y, weight), "float32")
        y, weight = (ops.stop_gradient(ops.convert_to_tensor(data)) for data in (y, weight))
        return ops.sum(self.loss(self.read(readout), y) * weight, axis=-1)

    def read(self, readout: Readout) -> Any:
        """Every step's parameters, float32 ``(members, rows, steps, size)``: counts and tails may
        leave the range of half precision."""
        from keras import ops

        return self.parameters(*(ops.cast(each, "float32") for each in readout.raw()))

    def explain(self, readout: Readout) -> dict[str, str]:
        """Who computes ``score``, in order of preference, as ``recurrence.explain`` says it."""
        reason = self._native_declines(readout)
        if reason is None:
            return {"native": "runs", "plain": "would run"}
        return {"native": f"declines: {reason}", "plain": "runs"}

    def _native_declines(self, readout: Readout) -> str | None:
        return f"it has no {type(self).__name__}"

    def _native_score(self, readout: Readout, y: Any, weight: Any) -> Any:
        raise NotImplementedError


_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_SMALLEST = 1e-4  # of a scale, in scaled units: keeps a likelihood finite


def _softplus_inverse(x: Any) -> Any:
    return np.log(np.expm1(x))


def _constant(values: Any, like: Any) -> Any:
    """NumPy values as a tensor of ``like``'s dtype: PyTorch mixes no arrays with gradients."""
    from keras import ops

    return ops.convert_to_tensor(np.asarray(values, "float32"), dtype=like.dtype)


@dataclass(frozen=True)
class Normal(Head):
    """The normal distribution; parameters: mean, standard deviation."""

    measure: ClassVar[str] = "crps"

    @property
    def size(self) -> int:
        return 2

    def parameters(self, raw: Any, shift: Any) -> Any:
        from keras import ops

        mean = raw[..., :1] + shift
        scale = ops.softplus(raw[..., 1:] + float(_softplus_inverse(0.5))) + _SMALLEST
        return ops.concatenate([mean, scale], axis=-1)

    def mean(self, parameters: Any) -> Any:
        return parameters[..., 0]

    def quantile(self, parameters: Any, levels: Any) -> Any:
        from keras import ops

        levels = ops.convert_to_tensor(levels, dtype=parameters.dtype)
        return parameters[..., :1] + parameters[..., 1:] * normal_quantile(levels)

    def log_likelihood(self, parameters: Any, y: Any) -> Any:
        from keras import ops

        mean, scale = parameters[..., 0], parameters[..., 1]
        return -0.5 * ops.square((y - mean) / scale) - ops.log(scale) - _HALF_LOG_2PI

    def loss(self, parameters: Any, y: Any) -> Any:
        """The CRPS in closed form: Gneiting et al. (2005), Monthly Weather Review 133, eq. 5."""
        from keras import ops

        mean, scale = parameters[..., 0], parameters[..., 1]
        w = (y - mean) / scale
        cdf = 0.5 * (1.0 + ops.erf(w / math.sqrt(2.0)))
        density = ops.exp(-0.5 * ops.square(w) - _HALF_LOG_2PI)
        return scale * (w * (2.0 * cdf - 1.0) + 2.0 * density - 1.0 / math.sqrt(math.pi))


@dataclass(frozen=True)
class LogNormal(Normal):
    """The log-normal distribution of positive values: normal on the scale of their logarithm."""

    transform: ClassVar[str | None] = "positive"


@dataclass(frozen=True)
class LogitNormal(Normal):
    """The logit-normal distribution of values between bounds (Aitchison and Shen 1980): normal
    on the scale of their logit."""

    transform: ClassVar[str | None] = "logit"


@dataclass(frozen=True)
class StudentT(Head):
    """Student's t distribution; parameters: median, scale, degrees of freedom.

    The degrees of freedom stay above 2.5, so that mean and variance exist.
    """

    @property
    def size(self) -> int:
        return 3

    def parameters(self, raw: Any, shift: Any) -> Any:
        from keras import ops

        median = raw[..., :1] + shift
        scale = ops.softplus(raw[..., 1:2] + float(_softplus_inverse(0.5))) + _SMALLEST
        # Untrained 7.5; the exponential goes on to the normal distribution where the data do.
        freedom = 2.5 + 5.0 * ops.exp(ops.clip(raw[..., 2:], -6.0, 5.0))
        return ops.concatenate([median, scale, freedom], axis=-1)

    def mean(self, parameters: Any) -> Any:
        return parameters[..., 0]

    def quantile(self, parameters: Any, levels: Any) -> Any:
        from keras import ops

        levels = ops.convert_to_tensor(levels, dtype=parameters.dtype)
        levels = ops.clip(levels, LEAST_LEVEL, 1.0 - LEAST_LEVEL)
        deviate = student_t_quantile(levels, parameters[..., 2:])
        return parameters[..., :1] + parameters[..., 1:2] * deviate

    def log_likelihood(self, parameters: Any, y: Any) -> Any:
        from keras import ops

        median, scale, n = (parameters[..., i] for i in range(3))
        w = (y - median) / scale
        return (
            log_gamma(0.5 * n + 0.5)
            - log_gamma(0.5 * n)
            - 0.5 * ops.log(math.pi * n)
            - ops.log(scale)
            - 0.5 * (n + 1.0) * ops.log1p(ops.square(w) / n)
        )


@dataclass(frozen=True)
class _Counts(Head):
    """A family of counts on the scale ``(log1p(count / centre) - location) / scaling``.

    The raw location is the mean's place on that scale, bent so that the mean stays positive.
    Quantiles are those of the distribution function continued between the counts, where count n
    reaches from n - 1/2 to n + 1/2: they rise strictly, none is below the half under 0, and the
    nearest count is the count's own quantile.
    """

    centre: float = 1.0
    location: float = 0.0
    scaling: float = 1.0

    transform: ClassVar[str | None] = "counts"
    sharpness: ClassVar[float] = 10.0  # of the bend, on the scale of the logarithm
    largest: ClassVar[float] = 2.0**26  # of a mean, and of a count that the likelihood knows

    @classmethod
    def on_scale(cls, centre: float, location: float, scaling: float) -> Head:
        return cls(centre, location, scaling)

    def counts(self, y: Any) -> Any:
        """Counts at places on the scale, whole and not below 0."""
        from keras import ops

        return ops.maximum(ops.round(self._from_log(self.location + self.scaling * y)), 0.0)

    def scaled(self, counts: Any) -> Any:
        """Places on the scale; ``counts`` above minus ``centre``."""
        from keras import ops

        return (ops.log1p(counts / self.centre) - self.location) / self.scaling

    def observable(self, y: Any) -> Any:
        return self.scaled(self.counts(y))

    def mean(self, parameters: Any) -> Any:
        return self.scaled(parameters[..., 0])

    def quantile(self, parameters: Any, levels: Any) -> Any:
        from keras import ops

        levels = ops.convert_to_tensor(levels, dtype=parameters.dtype)
        levels = ops.clip(levels, LEAST_LEVEL, 1.0 - LEAST_LEVEL)
        mean, inverse = parameters[..., :1], self.inverse_size(parameters)
        # By Bernstein's inequality no level up to the last lies beyond.
        ratio = 1.0 + inverse * mean  # of the variance to the mean
        high = mean + 6.0 * ops.sqrt(mean * ratio) + 30.0 * ratio
        found = increasing_root(lambda x: self.cdf(parameters, x), levels, -1.0, high)
        return self.scaled(found + 0.5)

    def _mean_of(self, located: Any) -> Any:
        """The mean at a place on the scale."""
        from keras import ops

        log = self.location + self.scaling * located
        return self._from_log(ops.softplus(self.sharpness * log) / self.sharpness) + 1e-6

    def _from_log(self, log: Any) -> Any:
        from keras import ops

        return self.centre * ops.expm1(ops.minimum(log, math.log1p(self.largest / self.centre)))

    @abstractmethod
    def inverse_size(self, parameters: Any) -> Any:
        """How the variance outgrows the mean, by this times its square; ``(..., 1)``."""

    @abstractmethod
    def cdf(self, parameters: Any, x: Any) -> Any:
        """The distribution function at ``x >= -1``, ``(..., k)``, continued between the counts."""


@dataclass(frozen=True)
class Poisson(_Counts):
    """The Poisson distribution of counts; the parameter is their mean."""

    @property
    def size(self) -> int:
        return 1

    def parameters(self, raw: Any, shift: Any) -> Any:
        return self._mean_of(raw + shift)

    def inverse_size(self, parameters: Any) -> Any:
        return 0.0

    def cdf(self, parameters: Any, x: Any) -> Any:
        return poisson_cdf(x, parameters)

    def log_likelihood(self, parameters: Any, y: Any) -> Any:
        return poisson_log_pmf(self.counts(y), parameters[..., 0])


@dataclass(frozen=True)
class NegativeBinomial(_Counts):
    """The negative binomial distribution of counts; parameters: mean m and size r, with which the
    variance is ``m + m**2 / r``. A small size gives many zeros beside large counts."""

    @property
    def size(self) -> int:
        return 2

    def parameters(self, raw: Any, shift: Any) -> Any:
        from keras import ops

        inverse = ops.softplus(raw[..., 1:] + float(_softplus_inverse(0.5)))
        inverse = ops.clip(inverse, 1e-4, 30.0)
        return ops.concatenate([self._mean_of(raw[..., :1] + shift), 1.0 / inverse], axis=-1)

    def inverse_size(self, parameters: Any) -> Any:
        return 1.0 / parameters[..., 1:]

    def cdf(self, parameters: Any, x: Any) -> Any:
        return negative_binomial_cdf(x, parameters[..., :1], parameters[..., 1:])

    def log_likelihood(self, parameters: Any, y: Any) -> Any:
        return negative_binomial_log_pmf(self.counts(y), parameters[..., 0], parameters[..., 1])


# The levels by which a distribution is known where it is given by its quantiles.
KNOTS = (0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975)


@dataclass(frozen=True)
class Quantiles(Head):
    """A distribution given by its quantiles, straight between them, exponential beyond.

    The parameters are the quantiles themselves: a median and positive gaps on either
    side, so they cannot cross. Each tail is exponential and takes up the density of the
    outermost gap.
    """

    levels: Sequence[float] = KNOTS

    measure: ClassVar[str] = "crps"

    def __post_init__(self) -> None:
        levels = tuple(float(level) for level in self.levels)
        inside = all(0.0 < level < 1.0 for level in levels)
        rising = all(a < b for a, b in pairwise(levels))
        if len(levels) < 3 or len(levels) % 2 == 0 or not inside or not rising:
            raise ArgumentError(
                "levels: expected an odd number (3 or more) of rising levels between 0 and 1, "
                f"received {self.levels}."
            )
        if levels[len(levels) // 2] != 0.5:
            raise ArgumentError(f"levels: the middle one must be 0.5, received {self.levels}.")
        object.__setattr__(self, "levels", levels)

    @property
    def size(self) -> int:
        return len(self.levels)

    @property
    def located_by(self) -> int:
        return len(self.levels) // 2

    def parameters(self, raw: Any, shift: Any) -> Any:
        from keras import ops

        m, start = self.located_by, self._start
        below = ops.softplus(raw[..., :m] + _constant(start[:m], raw)) + _SMALLEST
        above = ops.softplus(raw[..., m + 1 :] + _constant(start[m:], raw)) + _SMALLEST
        median = raw[..., m : m + 1] + shift
        below = ops.flip(ops.cumsum(ops.flip(below, axis=-1), axis=-1), axis=-1)
        return ops.concatenate([median - below, median, median + ops.cumsum(above, axis=-1)], -1)

    @property
    def _start(self) -> np.ndarray:
        """What a raw gap begins with: untrained, the gaps are those of a normal distribution of
        half the data's spread."""
        return _softplus_inverse(0.5 * np.diff([_normal_deviate(level) for level in self.levels]))

    def _native_declines(self, readout: Readout) -> str | None:
        return native.declines(readout.outputs)

    def _native_score(self, readout: Readout, y: Any, weight: Any) -> Any:
        spec = native.Spec(tuple(self.levels), tuple(self._start.tolist()), _SMALLEST)
        return native.run(spec, vars(readout) | {"target": y, "weight": weight})

    def mean(self, parameters: Any) -> Any:
        from keras import ops

        width = _constant(np.diff(self.levels), parameters)
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
        from keras import ops

        levels = ops.convert_to_tensor(levels, dtype=parameters.dtype)[..., None]
        knots = self.levels
        gaps = parameters[..., 1:] - parameters[..., :-1]
        width = _constant(np.diff(knots), parameters)
        share = ops.clip((levels - _constant(knots[:-1], parameters)) / width, 0.0, 1.0)
        if len(share.shape) == 2:  # the same levels everywhere: nothing of size rows x k x gaps
            inner = parameters[..., :1] + ops.matmul(gaps, ops.transpose(share))
        else:
            inner = parameters[..., :1] + ops.sum(gaps[..., None, :] * share, axis=-1)
        low, high = self._tails(parameters)
        below = ops.log(ops.clip(levels[..., 0] / knots[0], 1e-30, 1.0))
        above = ops.log(ops.clip((1.0 - levels[..., 0]) / (1.0 - knots[-1]), 1e-30, 1.0))
        return inner + low * below - high * above

    def log_likelihood(self, parameters: Any, y: Any) -> Any:
        from keras import ops

        y = y[..., None]
        gaps = parameters[..., 1:] - parameters[..., :-1]
        density = _constant(np.diff(self.levels), parameters) / gaps
        within = ops.cast((y >= parameters[..., :-1]) & (y < parameters[..., 1:]), density.dtype)
        low, high = self._tails(parameters)
        first, last = parameters[..., :1], parameters[..., -1:]
        under = math.log(self.levels[0]) - ops.log(low) + ops.minimum(y - first, 0.0) / low
        over = math.log1p(-self.levels[-1]) - ops.log(high) - ops.maximum(y - last, 0.0) / high
        inside = ops.sum(within * ops.log(density), axis=-1, keepdims=True)
        return ops.where(y < first, under, ops.where(y >= last, over, inside))[..., 0]

    def loss(self, parameters: Any, y: Any) -> Any:
        """Twice the mean pinball loss over the levels: the CRPS's integral by its sum."""
        from keras import ops

        levels = _constant(self.levels, parameters)
        error = y[..., None] - parameters
        return 2.0 * ops.mean(ops.maximum(levels * error, (levels - 1.0) * error), axis=-1)

    def _tails(self, parameters: Any) -> tuple[Any, Any]:
        """The scale of the exponential below and above, each ``(..., 1)``."""
        levels = self.levels
        first = levels[0] / (levels[1] - levels[0])
        last = (1.0 - levels[-1]) / (levels[-1] - levels[-2])
        low = first * (parameters[..., 1:2] - parameters[..., :1])
        high = last * (parameters[..., -1:] - parameters[..., -2:-1])
        return low, high


@dataclass(frozen=True)
class Categorical(Head):
    """One token of a closed set; parameters: the log-probability of each.

    Tokens have no order, so there is no median, mean or CRPS: what asks for one is refused,
    and training minimises the negative log-likelihood.

    Parameters
    ----------
    tokens : int
        How many there are; a token is its code, from 0.
    """

    tokens: int

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise ArgumentError(f"tokens: expected a whole number >= 1, received {self.tokens!r}.")

    @property
    def size(self) -> int:
        return self.tokens

    def parameters(self, raw: Any, shift: Any = 0.0) -> Any:
        """Logits ``(..., size)``, moved by a shift ``(..., 1 or size)``, to log-probabilities."""
        from keras import ops

        return ops.log_softmax(raw + shift, axis=-1)

    def log_likelihood(self, parameters: Any, y: Any) -> Any:
        """The log-probability of the codes ``y``, ``(...)``, whole numbers."""
        from keras import ops

        code = ops.cast(y, "int32")[..., None]
        return ops.take_along_axis(parameters, code, axis=-1)[..., 0]

    @property
    def located_by(self) -> int:
        raise self._no("median")

    def mean(self, parameters: Any) -> Any:
        raise self._no("mean")

    def quantile(self, parameters: Any, levels: Any) -> Any:
        raise self._no("quantiles")

    @staticmethod
    def _no(what: str) -> ArgumentError:
        return ArgumentError(
            f"Tokens have no order, so a categorical head has no {what}. Ask for the "
            "log-likelihood, or for sequences."
        )


def _normal_deviate(level: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(level)


HEADS: Mapping[str, type[Head]] = {
    "quantiles": Quantiles,
    "normal": Normal,
    "student_t": StudentT,
    "lognormal": LogNormal,
    "logitnormal": LogitNormal,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
}
