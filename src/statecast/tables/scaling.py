"""The scaling of y for the network: a transform, then a location and a scale at each step.

``Transform`` maps y to the real line. To add one, write a subclass, list it in ``TRANSFORMS``, and
add its name to ``TransformName`` in ``forecast/settings.py``.

Values come in batches that are never joined, so that a table need not fit into memory. The
results do not depend on how the values were divided, to the last bit: sums are taken in the
order of the rows, and quantiles are exact.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from statecast.errors import warn
from statecast.tables.columns import LARGEST

MOST_COUNTED = 2**26  # the largest count: beyond it, counts are numbers
ROUNDING = 64 * np.finfo(np.float64).eps  # relative: values this close may differ by rounding alone
# e**470 is finite times any centre, and beyond any y that is accepted
EXPONENTS = -470.0, 470.0
_ENOUGH = 10  # observations at a step for it to stand on its own
_NEIGHBOURS = np.array([1, 2, 4, 0, 4, 2, 1]) / 8.0  # weights of the steps around a thin one

Batches = Callable[[], Iterable[np.ndarray]]  # of values, float64; each call goes through them


# -- transforms ------------------------------------------------------------------------


@dataclass(frozen=True)
class Transform(ABC):
    """A map of the values of y to the real line and back, increasing; see ``Schema.fit``.

    Attributes
    ----------
    centre : float
        The c of the map; 1 where it has none.
    bounds : (float, float)
        What no forecast lies beyond; minus or plus infinity where there is no bound.
    """

    name: ClassVar[str]
    domain: ClassVar[str]  # in words; it may name the bounds
    remedy: ClassVar[str]  # what to do about values that are not in the domain
    natural: ClassVar[tuple[float, float]]  # the bounds where none are given
    limits: ClassVar[tuple[float, float]] = (1e-30, 1e3)  # of scalings, and of locations, in files
    by_step: ClassVar[bool] = True  # whether each step has a location and a scaling of its own

    centre: float
    bounds: tuple[float, float]

    @classmethod
    def fit(cls, bounds: tuple[float, float], y: Batches) -> Self:
        """Learn the centre from values of the domain."""
        return cls(positive_median(y), bounds)

    @classmethod
    def takes(cls, low: float, high: float) -> bool:
        """Return whether a transform of this kind may have such bounds."""
        return (low, high) == cls.natural

    @property
    def expected(self) -> str:
        """The domain, in words."""
        return self.domain.format(*self.bounds)

    @abstractmethod
    def outside(self, y: np.ndarray) -> np.ndarray:
        """Return where values are outside the domain, bool; False at NaN."""

    @abstractmethod
    def to_line(self, y: np.ndarray) -> np.ndarray:
        """Return values of the domain on the real line, before they are scaled; float64."""

    def from_line(self, u: np.ndarray) -> np.ndarray:
        """Return the values at places on the real line: the inverse, never beyond ``bounds``."""
        return np.clip(self._inverse(u), *self.bounds) + 0.0  # -0.0 becomes 0.0

    @abstractmethod
    def _inverse(self, u: np.ndarray) -> np.ndarray: ...


class Identity(Transform):
    """y itself."""

    name = "none"
    remedy = ""
    limits = (1e-20 / LARGEST, LARGEST)
    domain = "numbers"
    natural = (-math.inf, math.inf)

    @classmethod
    def fit(cls, bounds: tuple[float, float], y: Batches) -> Self:
        return cls(1.0, bounds)

    @classmethod
    def takes(cls, low: float, high: float) -> bool:
        return high == math.inf and low in (0.0, -math.inf)

    def outside(self, y: np.ndarray) -> np.ndarray:
        return np.zeros(np.shape(y), bool)

    def to_line(self, y: np.ndarray) -> np.ndarray:
        return y

    def _inverse(self, u: np.ndarray) -> np.ndarray:
        return u


class Log(Transform):
    """``log1p(y / c)``, c the median of the positive y."""

    name = "log"
    natural = (0.0, math.inf)
    remedy = "Fit with transform='none' if such values are right."
    domain = "no negative value (y is scaled by log1p)"

    def outside(self, y: np.ndarray) -> np.ndarray:
        return y < 0

    def to_line(self, y: np.ndarray) -> np.ndarray:
        return np.log1p(y / self.centre)

    def _inverse(self, u: np.ndarray) -> np.ndarray:
        return np.expm1(np.clip(u, *EXPONENTS)) * self.centre


class Counts(Log):
    """As ``Log``, of whole numbers, which forecasts are too."""

    name = "counts"
    remedy = "Fit with head='quantiles' and transform='none' if such values are right."
    domain = f"whole numbers from 0 to {MOST_COUNTED:,}"
    by_step = False  # the head of counts has one centre and scale for all steps

    def outside(self, y: np.ndarray) -> np.ndarray:
        return super().outside(y) | (y > MOST_COUNTED) | (np.rint(y) != y) & ~np.isnan(y)

    def _inverse(self, u: np.ndarray) -> np.ndarray:
        return np.rint(super()._inverse(u))


class Positive(Transform):
    """``log(y / c)``, c the median of the positive y."""

    name = "positive"
    natural = (0.0, math.inf)
    remedy = (
        "Fit with head='quantiles' and transform='log' (0 and above) or 'none' if such values are "
        "right."
    )
    domain = "values above 0"

    def outside(self, y: np.ndarray) -> np.ndarray:
        return y <= 0

    def to_line(self, y: np.ndarray) -> np.ndarray:
        return np.log(y / self.centre)

    def _inverse(self, u: np.ndarray) -> np.ndarray:
        return np.exp(np.clip(u, *EXPONENTS)) * self.centre


class Logit(Transform):
    """``log((v + c) / (1 - v + c))`` of v, y's place between the bounds from 0 to 1.

    c is half the depth inside the bounds that 5 % of the values lie within, so that values at the
    bounds are about as far out on the line as those next to them.
    """

    name = "logit"
    natural = (0.0, 1.0)
    domain = "values from {:g} to {:g}"
    remedy = "Fit with bounds=(low, high) that hold all values if such values are right."

    @classmethod
    def fit(cls, bounds: tuple[float, float], y: Batches) -> Self:
        low, high = bounds

        def inside() -> Iterable[np.ndarray]:
            for values in y():
                depth = np.minimum(values - low, high - values) / (high - low)
                yield depth[depth > 0]

        depth = float(quantiles(inside, (0.05,))[0])
        return cls(0.05 if math.isnan(depth) else min(max(0.5 * depth, 1e-6), 0.05), bounds)

    @classmethod
    def takes(cls, low: float, high: float) -> bool:
        return math.isfinite(high - low) and low < high

    def outside(self, y: np.ndarray) -> np.ndarray:
        low, high = self.bounds
        return (y < low) | (y > high)

    def to_line(self, y: np.ndarray) -> np.ndarray:
        low, high = self.bounds
        v = (y - low) / (high - low)
        return np.log((v + self.centre) / (1.0 - v + self.centre))

    def _inverse(self, u: np.ndarray) -> np.ndarray:
        low, high = self.bounds
        stretched = 0.5 + 0.5 * np.tanh(0.5 * u)
        return low + (high - low) * (stretched * (1.0 + 2.0 * self.centre) - self.centre)


TRANSFORMS: dict[str, type[Transform]] = {
    kind.name: kind for kind in (Identity, Log, Positive, Logit, Counts)
}


# -- steps that were never observed ----------------------------------------------------


def bridged(
    u: np.ndarray,
    observed: np.ndarray,
    known: np.ndarray,
    latest: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Return forecasts with the steps that training did not observe interpolated.

    Such a step lies on the line between the nearest observed steps of the forecast. Before the
    first of them the line begins at the item's last observation. With an observed step on one side
    only, the value is that step's; with none, the forecast is unchanged.

    Parameters
    ----------
    u : array, shape (rows, ..., T)
        Values on the real line.
    observed : array of bool, shape (T,)
        Which steps training observed.
    known : array of int, shape (rows,)
        Each row's prefix: the forecast begins after it.
    latest : (array of float, array of int), shapes (rows,), optional
        Each row's last observation, on the real line, and its step from 1; 0 where there is none.
    """
    if observed.all() or not u.size:
        return u
    steps = len(observed)
    at = np.arange(steps)
    ahead = at >= known[:, None]
    there, out = ahead & observed, u.copy()
    if latest is not None:
        value, step = latest
        rows = np.flatnonzero((step > 0) & (step <= np.minimum(known, steps)))
        there[rows, step[rows] - 1] = True
        u = u.copy()
        lead = (len(rows), *(1,) * (u.ndim - 2))
        u[rows, ..., step[rows] - 1] = value[rows].reshape(lead)
    before = np.maximum.accumulate(np.where(there, at, -1), axis=1)
    after = np.minimum.accumulate(np.where(there, at, steps)[:, ::-1], axis=1)[:, ::-1]
    low = np.where(before < 0, after, before)
    high = np.where(after == steps, before, after)
    part = (at - low) / np.maximum(high - low, 1)
    lacking = ahead & there.any(axis=1, keepdims=True)
    gaps = np.flatnonzero(~observed)

    def along(values: np.ndarray) -> np.ndarray:
        return values[:, gaps].reshape(len(u), *(1,) * (u.ndim - 2), len(gaps))

    near, far = (
        np.take_along_axis(u, along(np.clip(side, 0, steps - 1)), axis=-1) for side in (low, high)
    )
    part = along(part)
    out[..., gaps] = np.where(along(lacking), (1.0 - part) * near + part * far, out[..., gaps])
    return out


# -- statistics of values in batches ----------------------------------------------------


def quantiles(batches: Batches, levels: Sequence[float]) -> np.ndarray:
    """Return exact quantiles, interpolated linearly; float64, NaN where there are no values.

    Radix selection: four passes over the batches find the values at the ranks, 16 bits a pass from
    the most significant. The bits of a float, with those of negative numbers inverted, are in the
    order of the numbers.
    """
    ranks = np.zeros(0, np.int64)
    fraction = np.zeros(0)
    sought = np.zeros(1, np.uint64)  # the different leading bits of the values at the ranks
    which = np.zeros(0, np.int64)  # of each rank, which of them
    for shift in (48, 32, 16, 0):
        counts = np.zeros((len(sought), 2**16), np.int64)
        for values in batches():
            bits = _ordered(values)
            for own, settled in zip(counts, sought, strict=True):
                rest = bits if shift == 48 else bits[bits >> np.uint64(shift + 16) == settled]
                digit = (rest >> np.uint64(shift)) & np.uint64(0xFFFF)
                own += np.bincount(digit.astype(np.int64), minlength=2**16)
        if shift == 48:
            last = int(counts.sum()) - 1
            if last < 0:
                return np.full(len(levels), np.nan)
            place = np.asarray(levels, np.float64) * last
            fraction = place - np.floor(place)
            ranks = np.concatenate([np.floor(place), np.ceil(place)]).astype(np.int64)
            which = np.zeros(len(ranks), np.int64)
        upto = counts.cumsum(axis=1)
        digit = np.array(
            [np.searchsorted(upto[i], r, side="right") for i, r in zip(which, ranks, strict=True)]
        )
        ranks -= upto[which, digit] - counts[which, digit]
        sought, which = np.unique(
            (sought[which] << np.uint64(16)) | digit.astype(np.uint64), return_inverse=True
        )
    low, high = np.split(_floats(sought)[which], 2)
    return low + (high - low) * fraction


_SIGN = np.uint64(2**63)


def _ordered(values: np.ndarray) -> np.ndarray:
    bits = (values + 0.0).view(np.uint64)  # -0.0 becomes 0.0
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _floats(ordered: np.ndarray) -> np.ndarray:
    return np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered).view(np.float64)


def long_upper_tail(y: Batches) -> bool:
    """Return whether y has a long upper tail, by its deciles, which one outlier does not move."""
    low, middle, high = quantiles(y, (0.1, 0.5, 0.9))
    return bool(high - middle > 1.5 * (middle - low))


def positive_median(y: Batches) -> float:
    """Return the median of the values above 0; 1 where there are none."""
    median = float(quantiles(lambda: (values[values > 0] for values in y()), (0.5,))[0])
    return 1.0 if math.isnan(median) else max(median, 1 / LARGEST)


def location_and_scaling(
    batches: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]], steps: int, what: str = "y"
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the mean and the standard deviation at each step, float64, shape (steps,), and the
    largest distance of a value from the mean of its step, in standard deviations.

    Batches are values and their steps, from 0; ``what`` names the values in a warning. For a step
    with fewer than ten observations, the mean and variance are weighted with those of the steps
    around it, so that a single item does not determine them. Steps without observations are
    interpolated. Values that differ by less than float64 resolves are taken as equal, with a
    ``DataWarning``.
    """

    def moments(places: int) -> tuple[np.ndarray, ...]:
        """Count, mean, sum of squared deviations, least and largest value of each place."""
        least, most = np.full(places, np.inf), np.full(places, -np.inf)
        for z, at in batches():
            np.minimum.at(least, at % places, z)
            np.maximum.at(most, at % places, z)
        empty = np.isinf(least)
        least[empty] = most[empty] = 0.0
        size = np.maximum(np.abs(least), np.abs(most))
        # Values close together are summed as their distances from the smallest, which float64
        # holds exactly. A sum of the values themselves would round their differences away.
        base = np.where(most - least < 1e-6 * size, least, 0.0)
        count, total, within = (np.zeros(places) for _ in range(3))
        for z, at in batches():
            np.add.at(count, at % places, 1.0)
            np.add.at(total, at % places, z - base[at % places])
        mean = total / np.maximum(count, 1.0)
        for z, at in batches():
            np.add.at(within, at % places, (z - base[at % places] - mean[at % places]) ** 2)
        return count, base + mean, within, least, most

    def around(values: np.ndarray) -> np.ndarray:
        return np.convolve(values, _NEIGHBOURS)[3:-3]

    count, means, squares, least, most = moments(steps)
    largest = float(np.maximum(np.abs(least), np.abs(most)).max(initial=0.0))
    there = np.flatnonzero(count)
    n, mean, within = count[there], means[there], squares[there]
    freedom = np.maximum(n - 1, 0)
    pooled = within.sum() / max(freedom.sum(), 1.0)
    # No two items share a step (there may be a single item), or all are equal at each step: take
    # the variance of all values, and if all are equal, their square.
    negligible = max(ROUNDING * largest, 1 / LARGEST) ** 2
    if pooled <= negligible:
        (total,), _, (spread,), *_ = moments(1)
        pooled = spread / total
        if 0 < pooled <= negligible and largest > 1 / LARGEST:
            warn(
                f"{what}: the values have a standard deviation of {pooled**0.5:.2g} at a size of "
                f"{largest:g}. float64 does not resolve that, and they are taken as equal. "
                "Subtract a constant before the values are rounded."
            )
    if pooled <= negligible:
        pooled = largest**2 if largest > 1 / LARGEST else 1.0

    near = around(n)
    borrowed_mean = np.where(near > 0, around(n * mean) / np.where(near > 0, near, 1), mean)
    near = around(freedom)
    borrowed = np.where(near > 0, around(within) / np.where(near > 0, near, 1), pooled)
    lacking = np.maximum(_ENOUGH - n, 0)
    location = (n * mean + lacking * borrowed_mean) / (n + lacking)
    variance = (within + lacking * borrowed) / (n + lacking)
    # Where all training items are equal, a new item that differs must not be scaled to a huge value
    deviation = np.sqrt(np.maximum(variance, np.maximum(0.01 * borrowed, 1e-6 * pooled)))
    every = np.arange(steps)
    distance = np.maximum(location - least[there], most[there] - location) / deviation
    return (
        np.interp(every, there, location),
        np.exp(np.interp(every, there, np.log(deviation))),
        float(distance.max(initial=0.0)),
    )
