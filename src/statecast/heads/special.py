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

    small = ops.minimum(x, 8.0)
    rising = small
    for i in range(1, _SHIFT):
        rising = rising * (small + i)
    far = small + _SHIFT
    near = (
        (far - 0.5) * ops.log(far)
        - ops.log(rising)
        - (small - 0.5) * ops.log(small)
        - _SHIFT
        + series(far)
    )
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
    function: Callable[[Any, Any], Any], parameters: Any, target: Any, low: float, high: Any
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

    Returns
    -------
    tensor or array, ``(..., k)``
        By bisection on the scale of ``log(x - low + 1)``; of arrays by Chandrupatla's method.
    """
    ops = namespace(parameters)
    if ops is Arrays:
        return _arrays_root(function, parameters, target, low, high)

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
) -> np.ndarray:
    """``increasing_root`` of arrays: bisection or inverse quadratic interpolation, by the criterion
    of Chandrupatla (1997), Advances in Engineering Software 28, pages 145 to 149. Each element is
    evaluated until its own interval is as short as that of the bisection."""
    shape = np.broadcast_shapes(target.shape, high.shape)
    most = shape[-1]
    width = np.log1p(high - low)
    width, target = (np.broadcast_to(each, shape).reshape(-1, 1) for each in (width, target))
    parameters = np.broadcast_to(parameters, (*shape[:-1], parameters.shape[-1]))
    parameters = np.repeat(parameters.reshape(-1, parameters.shape[-1]), most, axis=0)

    def value(at: np.ndarray, rows: Any) -> np.ndarray:
        return function(parameters[rows], low + np.expm1(at)) - target[rows]

    found, rows = np.empty_like(width), np.arange(len(width))
    b, a = np.zeros_like(width), width
    fb, fa = value(b, rows), value(a, rows)
    c, fc = b, fb  # not used before the first evaluation
    part = np.full_like(width, 0.5)
    # An end that is no bracket is the root.
    found[:] = np.where(fb >= 0, b, a)
    inside = ((fb < 0) & (fa > 0))[:, 0]
    rows, a, b, c, fa, fb, fc, part = (x[inside] for x in (rows, a, b, c, fa, fb, fc, part))
    while len(rows):
        at = a + part * (b - a)
        f = value(at, rows)
        same = (f > 0) == (fa > 0)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = at, f
        best = np.where(np.abs(fa) < np.abs(fb), a, b)
        least = width[rows] * 0.5**_HALVINGS / np.abs(b - a)
        going = ((least < 0.5) & (fa != 0))[:, 0]
        found[rows] = best
        rows, a, b, c, fa, fb, fc, least = (x[going] for x in (rows, a, b, c, fa, fb, fc, least))
        if not len(rows):
            break
        xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
        fits = (np.square(phi) < xi) & (np.square(1.0 - phi) < 1.0 - xi)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            inverse = fa / (fb - fa) * fc / (fb - fc)
            inverse = inverse + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
        part = np.clip(np.where(fits, inverse, 0.5), least, 1.0 - least)
    return (low + np.expm1(found)).reshape(shape)


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
