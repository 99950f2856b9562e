"""From the values of y to the scale of a network and back, and what training teaches of that.

Values come a batch at a time and are never put together, so that a table need not fit into
memory. What is learnt does not depend on how they were cut, to the last bit: sums are taken in
the order of the rows, and quantiles are those of all values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from statecast.errors import warn
from statecast.tables.parse import LARGEST

TRANSFORMS = ("none", "log", "positive", "logit", "counts")
MOST_COUNTED = 2**26  # the largest count: beyond it, counts are numbers
ROUNDING = 64 * np.finfo(np.float64).eps  # relative: values this close may differ by rounding alone
_ENOUGH = 10  # observations at a step for it to stand on its own
_NEIGHBOURS = np.array([1, 2, 4, 0, 4, 2, 1]) / 8.0  # weights of the steps around a thin one

Batches = Callable[[], Iterable[np.ndarray]]  # of values, float64; each call goes through them


@dataclass(frozen=True)
class Onto:
    """A transform with its numbers, from values onto the real line; see ``Schema.fit``."""

    transform: str
    centre: float
    bounds: tuple[float, float]

    @classmethod
    def fit(cls, transform: str, bounds: tuple[float, float], y: Batches) -> Onto:
        """Learn the centre from values that the transform knows."""
        low, high = bounds
        if transform == "none":
            centre = 1.0
        elif transform == "logit":

            def inside() -> Iterable[np.ndarray]:
                for values in y():
                    depth = np.minimum(values - low, high - values) / (high - low)
                    yield depth[depth > 0]

            depth = float(quantiles(inside, (0.05,))[0])
            centre = 0.05 if math.isnan(depth) else min(max(0.5 * depth, 1e-6), 0.05)
        else:
            centre = positive_median(y)
        return cls(transform, centre, bounds)

    def line(self, y: np.ndarray) -> np.ndarray:
        """Return values on the real line, before they are scaled; float64."""
        low, high = self.bounds
        if self.transform in ("log", "counts"):
            return np.log1p(y / self.centre)
        if self.transform == "positive":
            return np.log(y / self.centre)
        if self.transform == "logit":
            v = (y - low) / (high - low)
            return np.log((v + self.centre) / (1.0 - v + self.centre))
        return y

    def values(self, u: np.ndarray) -> np.ndarray:
        """Return the values at places on the real line: the inverse, increasing."""
        low, high = self.bounds
        if self.transform == "none":
            y = u
        elif self.transform == "logit":
            stretched = 0.5 + 0.5 * np.tanh(0.5 * u)
            y = low + (high - low) * (stretched * (1.0 + 2.0 * self.centre) - self.centre)
        else:
            # e**470 stays finite times any centre, and is beyond any y that scale takes
            u = np.clip(u, -470.0, 470.0)
            y = (np.exp(u) if self.transform == "positive" else np.expm1(u)) * self.centre
            y = np.rint(y) if self.transform == "counts" else y
        return np.clip(y, low, high) + 0.0  # -0.0 becomes 0.0

    def wrong(self, y: np.ndarray) -> np.ndarray:
        """Return where values are none that the transform knows; NaN is not looked at."""
        low, high = self.bounds
        if self.transform == "none":
            return np.zeros(np.shape(y), bool)
        if self.transform == "positive":
            return y <= 0
        outside = (y < low) | (y > high)
        if self.transform == "counts":
            outside |= (y > MOST_COUNTED) | (np.rint(y) != y) & ~np.isnan(y)
        return outside

    @property
    def expected(self) -> str:
        """In words, the values that the transform knows."""
        low, high = self.bounds
        return {
            "none": "numbers",
            "log": "no negative value (y is scaled by log1p)",
            "positive": "values above 0",
            "logit": f"values from {low:g} to {high:g}",
            "counts": f"whole numbers from 0 to {MOST_COUNTED:,}",
        }[self.transform]

    @property
    def remedy(self) -> str:
        """In words, how to fit to other values: by settings that go together."""
        return {
            "none": "",
            "log": "Fit with transform='none' if such values are right.",
            "positive": "Fit with head='quantiles' and transform='log' (0 and above) or 'none' if "
            "such values are right.",
            "logit": "Fit with bounds=(low, high) that hold all values if such values are right.",
            "counts": "Fit with head='quantiles' and transform='none' if such values are right.",
        }[self.transform]


def bridged(
    u: np.ndarray,
    observed: np.ndarray,
    known: np.ndarray,
    latest: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Return forecasts in which a step that training did not observe lies on the line between
    the nearest observed ones: of the forecast, or before them the item's last observation.
    Beside a single one it takes that one's, and beside none it stays.

    Parameters
    ----------
    u : array, shape (rows, ..., T)
        Values on the real line; the others are returned as they are.
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


# -- what is learnt --------------------------------------------------------------------


def quantiles(batches: Batches, levels: Sequence[float]) -> np.ndarray:
    """Return exact quantiles, linear between two values; float64, NaN where there are none.

    The values sought are settled sixteen bits at a time from the first on, a pass over the
    batches each (radix selection), in the order of numbers that the bits of floats have once
    the negative ones are turned round.
    """
    ranks = np.zeros(0, np.int64)
    fraction = np.zeros(0)
    sought = np.zeros(1, np.uint64)  # the bits settled so far, of values that differ in them
    which = np.zeros(0, np.int64)  # those of each rank
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
    """Return whether y has a long tail upwards, by its deciles: one outlier changes nothing."""
    low, middle, high = quantiles(y, (0.1, 0.5, 0.9))
    return bool(high - middle > 1.5 * (middle - low))


def positive_median(y: Batches) -> float:
    """Return the median of the values above 0; 1 where there are none."""
    median = float(quantiles(lambda: (values[values > 0] for values in y()), (0.5,))[0])
    return 1.0 if math.isnan(median) else max(median, 1 / LARGEST)


def location_and_scaling(
    batches: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]], steps: int, what: str = "y"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation at each step, float64, shape (steps,).

    Batches are values and their steps, from 0; ``what`` names the values in a warning. A step with
    fewer than ten observations borrows the ones it lacks from the steps around it, so that a single
    item does not decide. Steps without any are interpolated. Values that differ by less than
    float64 resolves are taken as equal, with a ``DataWarning``.
    """

    def moments(places: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        least, most = np.full(places, np.inf), np.full(places, -np.inf)
        for z, at in batches():
            np.minimum.at(least, at % places, z)
            np.maximum.at(most, at % places, z)
        empty = np.isinf(least)
        least[empty] = most[empty] = 0.0
        size = np.maximum(np.abs(least), np.abs(most))
        # Values close together are summed as their distances from the least of them, which float64
        # holds exactly. A sum of the values themselves would lose what they differ by.
        base = np.where(most - least < 1e-6 * size, least, 0.0)
        count, total, within = (np.zeros(places) for _ in range(3))
        for z, at in batches():
            np.add.at(count, at % places, 1.0)
            np.add.at(total, at % places, z - base[at % places])
        mean = total / np.maximum(count, 1.0)
        for z, at in batches():
            np.add.at(within, at % places, (z - base[at % places] - mean[at % places]) ** 2)
        return count, base + mean, within, float(size.max(initial=0.0))

    def around(values: np.ndarray) -> np.ndarray:
        return np.convolve(values, _NEIGHBOURS)[3:-3]

    count, means, squares, largest = moments(steps)
    there = np.flatnonzero(count)
    n, mean, within = count[there], means[there], squares[there]
    freedom = np.maximum(n - 1, 0)
    pooled = within.sum() / max(freedom.sum(), 1.0)
    # No item shares a step with another (a single item, say), or all agree: take the spread
    # of all values; and if all are equal, their size.
    negligible = max(ROUNDING * largest, 1 / LARGEST) ** 2
    if pooled <= negligible:
        (total,), _, (spread,), _ = moments(1)
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
    # A step at which all training items agree must not blow up one that does not
    deviation = np.sqrt(np.maximum(variance, np.maximum(0.01 * borrowed, 1e-6 * pooled)))
    every = np.arange(steps)
    return (
        np.interp(every, there, location),
        np.exp(np.interp(every, there, np.log(deviation))),
    )
