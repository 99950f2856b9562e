"""Missing static features: the calibration of forecasts of rows in which a feature is missing that
training items nearly always have.

The network forecasts such a row alone: feature dropout has trained it for that. Its intervals are
too narrow nevertheless, most at k = 0. So they have offsets of their own, by split conformal
calibration as in ``stacking``: on forecasts of held-out items from which one feature was removed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from statecast.files import check_finite
from statecast.forecast.stacking import (
    MOST_OFFSET,
    check_fitted,
    conformal,
    fitted_at,
    width,
)
from statecast.heads.quantiles import QUANTILE_LEVELS
from statecast.state import outline
from statecast.tables.features import FIRST_CATEGORY

_FEW = 3  # a category with fewer training items counts as missing, for them
_USUAL = 0.01  # a feature that this share of the training items lacks is often missing

# The forecasts of rows from their first k steps, by k: scaled quantiles (rows, steps, levels)
Forecasts = Callable[[np.ndarray, np.ndarray], Mapping[int, np.ndarray]]


@dataclass(frozen=True, eq=False)
class MissingFeatures:
    """Offsets for rows with missing static features.

    Attributes
    ----------
    often : array of int, ``(features,)``
        1 for a static feature that was missing for enough training items, else 0. The numeric ones
        come first. A row without such a feature is a row like others.
    known : array of int, ``(n,)``
        The prefix lengths that were fitted, increasing from 0. Other lengths use the offsets of the
        next lower one.
    offset : array, ``(n, features + 1, len(QUANTILE_LEVELS))``
        What is added to each quantile if this feature is missing, as a multiple of the 80 %
        interval's width; the last one if several are. It does not depend on the horizon.
    """

    often: np.ndarray
    known: np.ndarray
    offset: np.ndarray

    __repr__ = outline

    @classmethod
    def fit(
        cls,
        numeric: np.ndarray,
        codes: np.ndarray,
        y: np.ndarray,
        held: np.ndarray,
        forecasts: Forecasts,
        rng: np.random.Generator,
    ) -> MissingFeatures:
        """Fit to held-out items.

        Parameters
        ----------
        numeric, codes : arrays, ``(items, 2 * n)`` and ``(items, m)``
            The static features of the training items, as in a panel.
        y : array, ``(rows, steps)``
            The observations of the held-out items, NaN where nothing was observed.
        held : array of int, ``(rows,)``
            The indices of the held-out items.
        forecasts : callable
            Of ``numeric`` and ``codes`` of the held-out items; by models that were not fitted on
            them.
        rng : numpy.random.Generator
            For the removed categories: missing or new.
        """
        often = _often(numeric, codes)
        features, n, known, found = len(often), numeric.shape[1] // 2, np.zeros(0, np.int64), []
        removed = [np.broadcast_to(each, (len(held), features)) for each in np.eye(features) > 0]
        most = rng.integers(min(2, features), features + 1, (len(held), 1))
        removed.append(rng.random((len(held), features)).argsort(axis=1) < most)
        for out in removed:
            value = np.where(out[:, :n], 0.0, numeric[held, :n])
            flag = np.where(out[:, :n], 1.0, numeric[held, n:])
            other = rng.integers(0, FIRST_CATEGORY, (len(held), features - n))
            code = np.where(out[:, n:], other, codes[held])
            x = np.concatenate([value, flag], axis=1).astype(numeric.dtype)
            by_k = forecasts(x, code.astype(codes.dtype))
            known = np.array(sorted(by_k))
            found.append([_offset(y[:, k:], by_k[k][:, k:]) for k in known.tolist()])
        return cls(often, known, np.stack(found, axis=1))

    def of(self, numeric: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Which features are missing in rows of a panel, float32 ``(rows, features)``: 1 or 0.
        Those that are often missing do not count."""
        return (_gaps(numeric, codes) & (self.often == 0)).astype(np.float32)

    def calibrate(
        self, quantiles: np.ndarray, missing: np.ndarray, known: np.ndarray
    ) -> np.ndarray:
        """The calibrated quantiles of rows with missing features.

        Parameters
        ----------
        quantiles : array, ``(rows, steps, len(QUANTILE_LEVELS))``
        missing : array of bool, ``(rows, features)``
        known : array of int, ``(rows,)``
        """
        at = fitted_at(self.known, known)
        several = missing.sum(axis=1) > 1
        which = np.where(several, missing.shape[1], missing.argmax(axis=1))
        offset = self.offset[at, which]
        return np.sort(quantiles + offset[:, None] * width(quantiles), axis=-1)

    # -- files -------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, as a model file stores them."""
        return {"often": self.often, "known": self.known, "offset": self.offset}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], features: int, steps: int
    ) -> MissingFeatures:
        """Restore from the result of ``arrays``, for these numbers of static features and steps.

        Raises
        ------
        ValueError
            Other names, or shapes, types or values that do not fit together.
        """
        known = arrays.get("known", np.zeros(0))
        expected = {
            "often": ((features,), "int64"),
            "known": ((known.size,), "int64"),
            "offset": ((known.size, features + 1, len(QUANTILE_LEVELS)), "float64"),
        }
        check_fitted("missing", arrays, expected, steps)
        if not set(arrays["often"].tolist()) <= {0, 1}:
            raise ValueError("missing: often: expected 0 and 1")
        check_finite("missing: offset", arrays["offset"], MOST_OFFSET)
        return cls(**arrays)


def _gaps(numeric: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Where a number is missing, or a category is missing or new; bool ``(rows, features)``."""
    flags = numeric[:, numeric.shape[1] // 2 :] > 0
    return np.concatenate([flags, codes < FIRST_CATEGORY], axis=1)


def _often(numeric: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Which features are missing for enough training items; int ``(features,)``. A category of few
    items counts as missing for them: they show what a new category is like."""
    gaps = _gaps(numeric, codes)
    for column in range(codes.shape[1]):
        _, which, counts = np.unique(codes[:, column], return_inverse=True, return_counts=True)
        gaps[:, column - codes.shape[1]] |= counts[which.ravel()] < _FEW
    return (gaps.sum(axis=0) >= max(_FEW, _USUAL * len(gaps))).astype(np.int64)


def _offset(y: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """The conformal offsets of all steps together, ``(len(QUANTILE_LEVELS),)``."""
    score = ((y[..., None] - quantiles) / width(quantiles))[~np.isnan(y)]
    return conformal(score) if len(score) else np.zeros(len(QUANTILE_LEVELS))
