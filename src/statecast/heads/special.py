"""Statistical functions that Keras does not have, on tensors of its current backend and on arrays.

They are elementwise, compute in the dtype of their arguments, and broadcast. They are made for
float32: formulas in which large terms cancel are rewritten.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from statecast.heads.namespace import Arrays, namespace

LEAST_LEVEL = 1e-6  # heads clip the levels of quantiles to this and 1 minus this
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_SHIFT = 6  # steps of a recurrence, to arguments so large that a series for large ones holds
_HALVINGS = 24  # of an interval; float32 has no more digits
_BLOCK = 1 << 13  # roots of arrays at once
_SETTLED = 1e-4  # on the scale of the logarithm: the next step is below 1e-5


def normal_quantile(level: Any) -> Any:
    """The quantile function of the standard normal distribution."""
    ops = namespace(level)
    return math.sqrt(2.0) * ops.erfinv(2.0 * level - 1.0)


def normal_cdf(x: Any) -> Any:
    """The distribution function of the standard normal distribution."""
    ops = namespace(x)
    return 0.5 * ops.erfc(-x / math.sqrt(2.0))


def log_gamma(x: Any) -> Any:
    """The logarithm of the gamma function, x > 0: Stirling's series, for small x after the
    recurrence."""
    ops = namespace(x)
    return (x - 0.5) * ops.log(x) - x + HALF_LOG_2PI + stirling_error(x)


def stirling_error(x: Any) -> Any:
    """The error of Stirling's formula for ``log_gamma``, x > 0 (Loader 2000)."""
    ops = namespace(x)

    def series(x: Any) -> Any:
        square = 1.0 / ops.square(x)
        return (1.0 / 12.0 - square * (1.0 / 360.0 - square / 1260.0)) / x

    # The recurrence of the gamma function to x + _SHIFT, in terms below 10: differences of larger
    # ones have a larger rounding error.
    small = ops.minimum(x, 8.0)
    far = small + _SHIFT
    rising, power = small, far
    for i in range(1, _SHIFT):
        rising, power = rising * (small + i), power * far
    near = (small - 0.5) * ops.log1p(_SHIFT / small) + ops.log(power / rising) - _SHIFT
    near = near + series(far)
    return ops.where(x < 8.0, near, series(ops.maximum(x, 8.0)))


def _deviance(d: Any) -> Any:
    """``(1 + d) log(1 + d) - d``, d >= -1, to full relative precision around 0."""
    ops = namespace(d)
    small = ops.clip(d, -0.1, 0.1)
    term, series = 0.5 * ops.square(small), 0.0
    for n in range(2, 9):  # d^n (-1)^n / (n (n - 1))
        series = series + term
        term = -term * small * (n - 1) / (n + 1)
    whole = (1.0 + d) * ops.log(ops.maximum(1.0 + d, 1e-30)) - d
    return ops.where(ops.abs(d) < 0.1, series, whole)


def poisson_log_pmf(n: Any, mean: Any) -> Any:
    """The Poisson distribution's log-probability of n >= 0, by the saddle-point form
    (Loader 2000)."""
    ops = namespace(mean)
    some = ops.maximum(n, 1e-6)
    positive = (
        -stirling_error(some)
        - mean * _deviance((n - mean) / mean)
        - 0.5 * ops.log(some)
        - HALF_LOG_2PI
    )
    return ops.where(n > 0, positive, -mean)


def negative_binomial_log_pmf(n: Any, mean: Any, size: Any) -> Any:
    """The negative binomial distribution's log-probability of n >= 0, by the saddle-point form
    (Loader 2000). The variance is ``mean + mean**2 / size``."""
    ops = namespace(mean)
    some = ops.maximum(n, 1e-6)
    whole = some + size
    p, q = size / (size + mean), mean / (size + mean)
    positive = (
        stirling_error(whole)
        - stirling_error(size)
        - stirling_error(some)
        - whole * p * _deviance((mean - some) / whole)
        - whole * q * _deviance(size * (some - mean) / (whole * mean))
        + 0.5 * (ops.log(size) - ops.log(some) - ops.log(whole))
        - HALF_LOG_2PI
    )
    return ops.where(n > 0, positive, -size * ops.log1p(mean / size))


def poisson_cdf(x: Any, mean: Any) -> Any:
    """The Poisson distribution function, continued to real x >= -1 as the incomplete gamma
    function ``Q(x + 1, mean)``: Peizer and Pratt (1968), after the recurrence, to 1e-4."""
    ops = namespace(x)
    a = ops.maximum(x + 1.0, 1e-6)
    below, term = 0.0, ops.exp(poisson_log_pmf(a, mean))
    for _ in range(_SHIFT):
        below = below + term
        a = a + 1.0
        term = term * mean / a
    z = (a - 1.0 / 3.0 - mean + 0.02 / a) / ops.sqrt(mean)
    z = z * ops.sqrt(1.0 + _peizer_pratt((a - 0.5) / mean))
    return ops.clip(normal_cdf(z) - below, 0.0, 1.0)


def negative_binomial_cdf(x: Any, mean: Any, size: Any) -> Any:
    """The negative binomial's distribution function, continued to real x >= -1 as the incomplete
    beta function ``I(size, x + 1)`` at ``size / (size + mean)``: Peizer and Pratt (1968), after
    the recurrences, to 1e-4."""
    ops = namespace(x)
    a, b = size, ops.maximum(x + 1.0, 1e-6)
    p, q = size / (size + mean), mean / (size + mean)
    more, term = 0.0, ops.exp(negative_binomial_log_pmf(b, mean, size))
    for _ in range(_SHIFT):
        more = more + term * b / a
        term = term * p * (a + b) / a
        a = a + 1.0
    for _ in range(_SHIFT):
        more = more - term
        b = b + 1.0
        term = term * q * (a + b - 1.0) / b
    n = a + b - 1.0
    z = a - 1.0 / 3.0 - (n + 1.0 / 3.0) * p + 0.02 * (q / a - p / b + (q - 0.5) / (n + 1.0))
    z = z / ops.sqrt((n + 1.0 / 6.0) * p * q)
    z = z * ops.sqrt(
        1.0 + q * _peizer_pratt((a - 0.5) / (n * p)) + p * _peizer_pratt((b - 0.5) / (n * q))
    )
    return ops.clip(normal_cdf(-z) + more, 0.0, 1.0)


def _peizer_pratt(t: Any) -> Any:
    """``(1 - t^2 + 2 t log t) / (1 - t)^2``, t > 0."""
    ops = namespace(t)
    d = ops.where(ops.abs(t - 1.0) < 0.05, 1.0, t - 1.0)
    # With e = t - 1 this is twice the deviance of e, less e^2, over e^2; around 0 by its series.
    e = ops.clip(t - 1.0, -0.05, 0.05)
    near = -e * (1.0 / 3.0 - e * (1.0 / 6.0 - e * (1.0 / 10.0 - e / 15.0)))
    return ops.where(
        ops.abs(t - 1.0) < 0.05, near, (2.0 * _deviance(d) - ops.square(d)) / ops.square(d)
    )


def increasing_root(
    function: Callable[[Any, Any], Any],
    parameters: Any,
    target: Any,
    low: float,
    high: Any,
    guess: Any,
) -> Any:
    """Where ``function(parameters, x)``, increasing in x, has the value ``target`` between ``low``
    and ``high``; the nearer end if nowhere.

    Parameters
    ----------
    function : callable
        Of parameters ``(..., n)`` and x ``(..., k)``.
    parameters : tensor or array, ``(..., n)``
    target : tensor or array, ``(..., k)`` or ``(k,)``
    low : float
    high : tensor or array, ``(..., 1)``
    guess : tensor or array, ``(..., k)``
        About where the root is.

    Returns
    -------
    tensor or array, ``(..., k)``
        By bisection on the scale of ``log(x - low + 1)``; of arrays by Chandrupatla's method.
    """
    ops = namespace(parameters)
    if ops is Arrays:
        return _arrays_root(function, parameters, target, low, high, guess)

    def halve(_: Any, ends: Any) -> Any:
        left, right = ends
        middle = 0.5 * (left + right)
        above = function(parameters, low + ops.expm1(middle)) >= target
        return ops.where(above, left, middle), ops.where(above, middle, right)

    nothing = ops.zeros_like(target + high)
    ends = (nothing, ops.log1p(high - low) + nothing)
    left, right = ops.fori_loop(0, _HALVINGS, halve, ends)
    return low + ops.expm1(0.5 * (left + right))


def _arrays_root(
    function: Callable[[Any, Any], Any],
    parameters: np.ndarray,
    target: np.ndarray,
    low: float,
    high: np.ndarray,
    guess: np.ndarray,
) -> np.ndarray:
    """``increasing_root`` of arrays, in blocks that stay in the CPU's caches."""
    shape = np.broadcast_shapes(target.shape, high.shape)
    width, guess = np.log1p(high - low), np.log1p(np.maximum(guess - low, 0.0))
    width, guess, target = (
        np.broadcast_to(each, shape).reshape(-1, 1) for each in (width, guess, target)
    )
    parameters = np.broadcast_to(parameters, (*shape[:-1], parameters.shape[-1]))
    parameters = np.repeat(parameters.reshape(-1, parameters.shape[-1]), shape[-1], axis=0)
    found = np.empty_like(width)
    for first in range(0, len(found), _BLOCK):
        rows = slice(first, first + _BLOCK)
        found[rows] = _block_root(
            lambda p, at: function(p, low + np.expm1(at)),
            parameters[rows],
            target[rows],
            width[rows],
            guess[rows],
        )
    return (low + np.expm1(found)).reshape(shape)


def _block_root(
    function: Callable[[Any, Any], Any],
    parameters: np.ndarray,
    target: np.ndarray,
    width: np.ndarray,
    guess: np.ndarray,
) -> np.ndarray:
    """Where an increasing function has the value ``target`` between 0 and ``width``; ``(rows, 1)``.

    By bisection or inverse quadratic interpolation, by the criterion of Chandrupatla (1997),
    Advances in Engineering Software 28, pages 145 to 149. It starts from ``guess``. Each row is
    evaluated until its own interval is as short as that of ``_HALVINGS`` bisections, or until an
    interpolation moves it so little that the next one would not change float32.
    """
    found, rows = np.clip(guess, 0.0, width), np.arange(len(width))
    b, a = np.zeros_like(width), width
    fb, fa = np.full_like(width, -np.inf), np.full_like(width, np.inf)  # not evaluated
    at = np.clip(guess, 0.02 * width, 0.98 * width)
    while True:
        f = function(parameters, at) - target
        same = (f > 0) == (fa > 0)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = at, f
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
            fits = (np.square(phi) < xi) & (np.square(1.0 - phi) < 1.0 - xi)
            inverse = fa / (fb - fa) * fc / (fb - fc)
            inverse = inverse + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
            least = width * 0.5**_HALVINGS / np.abs(b - a)
        # Where an end was not evaluated the quotients are NaN or 0, and the interval is halved.
        fits &= np.isfinite(inverse) & np.isfinite(fb)
        edge = np.fmin(least, 0.5)
        part = np.clip(np.where(fits, inverse, 0.5), edge, 1.0 - edge)
        at = a + part * (b - a)
        # Not `least >= 0.5`: it is NaN where the interval or a parameter is.
        ends = ~(least < 0.5) | (fa == 0) | (fits & (np.abs(at - a) < _SETTLED))
        ends |= (at == a) | (at == b)  # no number is left between the two
        found[rows] = np.where(fa == 0, a, at)
        go = ~ends[:, 0]
        if not go.any():
            return found
        if not go.all():
            rows, parameters, target, width = rows[go], parameters[go], target[go], width[go]
            a, b, fa, fb, at = a[go], b[go], fa[go], fb[go], at[go]


def student_t_quantile(level: Any, freedom: Any) -> Any:
    """Student's t quantile, ``freedom`` >= 2.5, to a relative 1e-4 at levels from 1e-4 to its
    mirror image, and 1e-3 beyond: Hill (1970), Algorithm 396, Communications of the ACM 13."""
    ops = namespace(level)
    two_sided = 2.0 * ops.minimum(level, 1.0 - level)
    n = freedom
    a = 1.0 / (n - 0.5)
    b = 48.0 / ops.square(a)
    c = ((20700.0 * a / b - 98.0) * a - 16.0) * a + 96.36
    d = ((94.5 / (b + c) - 3.0) / b + 1.0) * ops.sqrt(a * math.pi / 2.0) * n
    y = ops.power(d * two_sided, 2.0 / n)
    x = normal_quantile(0.5 * two_sided)
    square = ops.square(x)
    c = c + ops.where(n < 5.0, 0.3 * (n - 4.5) * (x + 0.6), 0.0)
    c = (((0.05 * d * x - 5.0) * x - 7.0) * x - 2.0) * x + b + c
    body = ((((0.4 * square + 6.3) * square + 36.0) * square + 94.5) / c - square - 3.0) / b + 1.0
    body = ops.expm1(a * ops.square(body * x))
    tail = (n + 6.0) / (n * y) - 0.089 * d - 0.822
    tail = ((1.0 / (tail * (n + 2.0) * 3.0) + 0.5 / (n + 4.0)) * y - 1.0) * (n + 1.0) / (n + 2.0)
    value = ops.sqrt(n * ops.where(y > 0.05 + a, body, tail + 1.0 / y))
    return ops.where(level < 0.5, -value, value)
