"""``Endings``: the probability that an item ends after a step.

A discrete-time hazard model (Cox 1972; Singer and Willett 1993): a logistic regression gives the
probability that a step is the item's last one, from the step, the value at the step and the static
features. An item that is observed up to the last step of training, or up to the last date, is
right-censored: it does not count as ended. Everything is on arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from statecast.tables.features import every_category, one_hot

_STEP_FUNCTIONS = 8  # radial basis functions of the step, as in the network
_KNOTS = (0.02, 0.1, 0.3, 0.6)  # of a linear spline of the value: levels of its quantiles
_FEWEST = 8  # with fewer items that end, nothing is fitted
_MOST = 500_000  # the most rows of the regression; each step of an item is a row
MOST_CATEGORIES = 32  # a categorical static feature with more codes is left out


@dataclass(frozen=True)
class Endings:
    """A fitted hazard model.

    Attributes
    ----------
    steps : int
        The length of the longest training item.
    scale : ndarray, shape (2,), float64
        Mean and standard deviation of the transformed values.
    knots : ndarray, shape (4,), float64
        Of the linear spline of the value; in standard deviations from the mean.
    weights : ndarray, shape (1 + 8 + 5 + features,), float64
        Of the logit: the constant, and the weights of the step, the value and the static features.
    """

    steps: int
    scale: np.ndarray
    knots: np.ndarray
    weights: np.ndarray

    @classmethod
    def fit(
        cls, line: np.ndarray, mask: np.ndarray, x: np.ndarray, censored: np.ndarray, seed: int
    ) -> Endings | None:
        """Fit to items; None if fewer than eight of them end.

        Parameters
        ----------
        line : ndarray, shape (items, steps), float64
            Transformed values, without bounds.
        mask : ndarray, shape (items, steps), bool
            Where they were observed.
        x : ndarray, shape (items, features)
            The static features, by ``statics``.
        censored : ndarray, shape (items,), bool
            The items that do not count as ended.
        seed : int
            For the selection of items, if there are too many steps.
        """
        items, steps = mask.shape
        known = steps - np.argmax(mask[:, ::-1], axis=1)
        if (~censored).sum() < _FEWEST:
            return None
        order = np.random.default_rng([seed, 6]).permutation(items)
        order = order[np.cumsum(known[order]) <= max(_MOST, known[order[0]])]
        at = np.where(mask, np.arange(steps), 0)
        held = np.take_along_axis(line, np.maximum.accumulate(at, axis=1), axis=1)[order]
        first = np.argmax(mask, axis=1)[order]
        used = np.arange(steps) < known[order, None]
        used &= np.arange(steps) >= first[:, None]  # before the first observation it has no value
        row, step = np.nonzero(used)
        ended = (step + 1 == known[order][row]) & ~censored[order][row]
        value = held[row, step]
        scale = np.array([value.mean(), max(value.std(), 1e-12)])
        z = (value - scale[0]) / scale[1]
        knots = np.quantile(z, _KNOTS)
        features = _features(steps, knots, x[order][row], step + 1, z)
        return cls(steps, scale, knots, _logistic(features, ended))

    def chance(self, x: np.ndarray, step: np.ndarray, line: np.ndarray) -> np.ndarray:
        """Return the probability that a step is an item's last one, if the item reached it.

        Parameters
        ----------
        x : ndarray, shape (n, features)
            The static features, by ``statics``.
        step : ndarray, shape (n,), int
            From 1.
        line : ndarray, shape (n,)
            The transformed value at the step, or the last observed one before it.

        Returns
        -------
        ndarray, shape (n,), float64
        """
        z = (line - self.scale[0]) / self.scale[1]
        logit = _features(self.steps, self.knots, x, step, z) @ self.weights
        return 1.0 / (1.0 + np.exp(-np.clip(logit, -30.0, 30.0)))

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, as a model file stores them."""
        return {"scale": self.scale, "knots": self.knots, "weights": self.weights}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], steps: int, features: int) -> Endings:
        """Restore from the result of ``arrays``, for models with these steps and features.

        Raises
        ------
        ValueError
            Other names, shapes or types, or numbers that are not finite.
        """
        shapes = {"scale": (2,), "knots": (4,), "weights": (14 + features,)}
        found = {name: array.shape for name, array in arrays.items()}
        good = found == shapes and all(
            array.dtype == np.float64 and np.isfinite(array).all() for array in arrays.values()
        )
        if not good or arrays["scale"][1] <= 0:
            raise ValueError(f"endings: expected finite float64 {shapes}; received {found}")
        return cls(steps, **arrays)


def statics(numeric: np.ndarray, codes: np.ndarray, cardinalities: Sequence[int]) -> np.ndarray:
    """Return the static features of a panel as numbers, float32 ``(rows, features)``.

    A categorical feature is one-hot encoded.
    """
    categories = every_category(cardinalities, most=MOST_CATEGORIES)
    return one_hot(numeric, codes, categories).astype(np.float32)


def width(numeric: int, cardinalities: Sequence[int]) -> int:
    """Return the number of features of ``statics``."""
    return numeric + len(every_category(cardinalities, most=MOST_CATEGORIES))


def stop_difference(y: np.ndarray, mask: np.ndarray) -> tuple[float, int]:
    """Compare the items that stop being observed with those that go on.

    An item stops at its last observation, if other items are observed later.

    Parameters
    ----------
    y : ndarray, shape (items, steps)
        Scaled as in a panel.
    mask : ndarray, shape (items, steps), bool
        Where y was observed.

    Returns
    -------
    difference : float
        The mean, over the items that stop, of their last value minus the mean of the items that go
        on at the same step, in standard deviations; 0 if it is not significant.
    count : int
        The number of items that stop.
    """
    steps = mask.shape[1]
    known = np.where(mask.any(axis=1), steps - np.argmax(mask[:, ::-1], axis=1), 0)
    differences = []
    for step in range(steps - 1):
        stops, goes = known == step + 1, (known > step + 1) & mask[:, step]
        if stops.any() and goes.sum() > 1:
            spread = max(float(y[goes | stops, step].std()), 1e-6)
            differences += ((y[stops, step] - y[goes, step].mean()) / spread).tolist()
    count = len(differences)
    if count < max(_FEWEST, 0.1 * len(mask)):
        return 0.0, count
    mean, error = float(np.mean(differences)), float(np.std(differences)) / count**0.5
    return (mean if abs(mean) > max(0.25, 3 * error) else 0.0), count


def _features(
    steps: int, knots: np.ndarray, x: np.ndarray, step: np.ndarray, z: np.ndarray
) -> np.ndarray:
    """The features of the regression: a constant, the functions of the step, the linear spline of
    the standardised value ``z``, and x."""
    place = (_STEP_FUNCTIONS - 1) * np.minimum(step / steps, 1.0)[:, None]
    functions = np.exp(-np.square(place - np.arange(_STEP_FUNCTIONS)))
    z = np.clip(z, -5.0, 5.0)[:, None]
    return np.concatenate([np.ones_like(z), functions, z, np.maximum(z - knots, 0.0), x], axis=1)


def _logistic(features: np.ndarray, happened: np.ndarray) -> np.ndarray:
    """Ridge logistic regression by Newton's method, without a penalty on the constant."""
    weights = np.zeros(features.shape[1])
    rate = np.clip(happened.mean(), 1e-6, 1 - 1e-6)
    weights[0] = np.log(rate / (1 - rate))
    penalty = np.ones(len(weights))
    penalty[0] = 1e-6
    for _ in range(50):
        chance = 1.0 / (1.0 + np.exp(-np.clip(features @ weights, -30.0, 30.0)))
        slope = features.T @ (happened - chance) - penalty * weights
        curve = (features * (chance * (1 - chance))[:, None]).T @ features + np.diag(penalty)
        move = np.linalg.solve(curve, slope)
        move *= min(1.0, 2.0 / max(np.abs(move).max(), 1e-12))  # a bound, so that it converges
        weights = weights + move
        if np.abs(move).max() < 1e-8:
            break
    return weights
