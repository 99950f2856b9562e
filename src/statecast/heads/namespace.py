"""The functions that heads use: those of ``keras.ops`` on tensors, and of NumPy on arrays.

Training computes on tensors of the current Keras backend, and a fitted model on NumPy arrays, which
need no backend. An export records NumPy's functions as a graph (``export.graph``). All use the same
code: ``ops = namespace(x)``, then ``ops.exp(x)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def namespace(x: Any) -> Any:
    """``Arrays`` for a NumPy array or a NumPy number; the ``heads_namespace`` of a class that has
    one; else ``keras.ops``."""
    if isinstance(x, (np.ndarray, np.generic)):
        return Arrays
    own = getattr(type(x), "heads_namespace", None)
    if own is not None:
        return own
    from keras import ops

    return ops


class Arrays:
    """The functions of ``keras.ops`` that heads use, on NumPy arrays.

    Results have the dtype of the argument. The functions that NumPy does not have are computed in
    float64.
    """

    abs, clip, concatenate, cumsum = np.abs, np.clip, np.concatenate, np.cumsum
    exp, expm1, flip, log, log1p = np.exp, np.expm1, np.flip, np.log, np.log1p
    matmul, maximum, mean, minimum = np.matmul, np.maximum, np.mean, np.minimum
    power, reshape, shape, sqrt, square = np.power, np.reshape, np.shape, np.sqrt, np.square
    sum, take_along_axis, where = np.sum, np.take_along_axis, np.where
    zeros_like, round = np.zeros_like, np.round

    @staticmethod
    def convert_to_tensor(x: Any, dtype: Any = None) -> np.ndarray:
        return np.asarray(x, dtype)

    @staticmethod
    def cast(x: Any, dtype: Any) -> np.ndarray:
        return np.asarray(x).astype(dtype, copy=False)

    @staticmethod
    def softplus(x: np.ndarray) -> np.ndarray:
        """``log(1 + exp(x))``, without overflow: the larger of x and 0, and a remainder."""
        return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))

    @staticmethod
    def log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
        shifted = x - np.max(x, axis=axis, keepdims=True)
        return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))

    @staticmethod
    def erf(x: np.ndarray) -> np.ndarray:
        """The error function: Cody (1969), Mathematics of Computation 23, pages 631 to 637."""
        wide = np.asarray(x, np.float64)
        size = np.abs(wide)
        far = np.copysign(1.0 - _erfc_far(np.maximum(size, _NEAR)), wide)
        return np.where(size <= _NEAR, _erf_near(np.clip(wide, -_NEAR, _NEAR)), far).astype(
            np.asarray(x).dtype
        )

    @staticmethod
    def erfc(x: np.ndarray) -> np.ndarray:
        """1 minus the error function, to full relative precision: Cody (1969), as ``erf``."""
        wide = np.asarray(x, np.float64)
        size = np.abs(wide)
        far = _erfc_far(np.maximum(size, _NEAR))
        far = np.where(wide < 0, 2.0 - far, far)
        near = 1.0 - _erf_near(np.clip(wide, -_NEAR, _NEAR))
        return np.where(size <= _NEAR, near, far).astype(np.asarray(x).dtype)

    @staticmethod
    def erfinv(x: np.ndarray) -> np.ndarray:
        """The inverse of the error function, by the normal quantile of Wichura (1988), Algorithm
        AS 241 (PPND16), Applied Statistics 37, pages 477 to 484."""
        wide = np.asarray(x, np.float64)
        q = 0.5 * wide  # the level less 1/2
        found = q * _ratio(0.180625 - np.square(np.clip(q, -0.425, 0.425)), *_PPND_CENTRE)
        outer = np.abs(q) > 0.425
        if outer.any():
            with np.errstate(divide="ignore", invalid="ignore"):  # infinite at -1 and 1
                r = np.sqrt(-np.log(0.5 - np.abs(q[outer])))
                near, far = _ratio(r - 1.6, *_PPND_NEAR), _ratio(r - 5.0, *_PPND_FAR)
            tail = np.where(np.isinf(r), np.inf, np.where(r <= 5.0, near, far))
            found = np.array(found)
            found[outer] = np.copysign(tail, q[outer])
        return (found / np.sqrt(2.0)).astype(np.asarray(x).dtype)


def _ratio(x: np.ndarray, above: tuple[float, ...], below: tuple[float, ...]) -> np.ndarray:
    """The ratio of two polynomials, coefficients of the highest power first."""
    return _polynomial(x, above) / _polynomial(x, below)


def _polynomial(x: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    total = coefficients[0] * x + coefficients[1]
    for each in coefficients[2:]:
        total *= x
        total += each
    return total


def _erf_near(x: np.ndarray) -> np.ndarray:
    """The error function where the absolute x is at most ``_NEAR``."""
    return x * _ratio(np.square(x), *_ERF_NEAR)


def _erfc_far(x: np.ndarray) -> np.ndarray:
    """The complement of the error function where x is at least ``_NEAR``."""
    middle = _ratio(np.minimum(x, 4.0), *_ERFC_MIDDLE)
    if (x > 4.0).any():
        big = np.maximum(x, 4.0)
        inverse = 1.0 / np.square(big)
        far = (1.0 / np.sqrt(np.pi) - inverse * _ratio(inverse, *_ERFC_FAR)) / big
        middle = np.where(x > 4.0, far, middle)
    # The square is split, as its rounding error would be multiplied by x.
    high = np.trunc(16.0 * np.minimum(x, 30.0)) / 16.0
    low = (x - high) * (x + high)
    return np.exp(-np.square(high)) * np.exp(-low) * middle


_NEAR = 0.46875
_ERF_NEAR = (
    (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2,
     3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3,
     2.84423683343917062e3),
)  # fmt: skip
_ERFC_MIDDLE = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
     1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
     1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3,
     1.23033935480374942e3),
)  # fmt: skip
_ERFC_FAR = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1,
     1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1,
     6.05183413124413191e-2, 2.33520497626869185e-3),
)  # fmt: skip
_PPND_CENTRE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
     4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
     1.3314166789178437745e2, 3.3871328727963666080),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
     2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
     4.2313330701600911252e1, 1.0),
)  # fmt: skip
_PPND_NEAR = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
     1.27045825245236838258, 3.64784832476320460504, 5.76949722146069140550,
     4.63033784615654529590, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
     1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940,
     2.05319162663775882187, 1.0),
)  # fmt: skip
_PPND_FAR = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
     2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580,
     5.46378491116411436990, 6.65790464350110377720),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
     7.86869131145613259100e-4, 1.48753612908506148525e-2, 1.36929880922735805310e-1,
     5.99832206555887937690e-1, 1.0),
)  # fmt: skip
