"""``Columns``: encode feature columns, static or covariates, as standardised numbers and codes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np

from statecast.checks import is_whole
from statecast.errors import DataError, listed, quoted, warn
from statecast.state import outline
from statecast.tables.columns import LARGEST, is_mark
from statecast.tables.dates import closed, must
from statecast.tables.scaling import ROUNDING, positive_median
from statecast.tables.source import MAX_COLUMNS

_MAX_CATEGORIES = 10_000  # with more the column is an id, or the model file is damaged
NEVER_SEEN, MISSING, FIRST_CATEGORY = 0, 1, 2
FEATURE_LIMIT = 5.0  # standardised numbers are clipped here, so that no outlier dominates


@dataclass(frozen=True, eq=False)
class Columns:
    """The encoding of feature columns, static or covariates, learnt in training.

    Attributes
    ----------
    numeric : tuple of str
        The numeric columns, in the order of ``Panel.numeric``.
    scaling : ndarray, shape (n, 3), float64
        For each numeric column: the c of ``log1p(v / c)``, or 0 without it; the mean; and the gain,
        which is 1 / standard deviation, or 0 for a column that was constant in training.
    categories : dict of str to tuple of str
        The categorical columns, in the order of ``Panel.codes``, and the sorted categories seen in
        training.
    distinct : tuple of int
        The number of distinct values of each numeric column in training.
    """

    numeric: tuple[str, ...]
    scaling: np.ndarray
    categories: dict[str, tuple[str, ...]]
    distinct: tuple[int, ...]

    __repr__ = outline

    @classmethod
    def fit(cls, columns: Mapping[str, np.ndarray], what: str) -> Columns:
        """Learn from columns of float64 or of objects (text or None); ``what`` is for messages."""
        numeric: list[str] = []
        rules: list[tuple[float, float, float]] = []
        distinct: list[int] = []
        categories: dict[str, tuple[str, ...]] = {}
        for name, values in columns.items():
            if values.dtype == object:
                categories[name] = _vocabulary(values, name, what)
            else:
                numeric.append(name)
                rules.append(_numeric_rule(values))
                distinct.append(len(np.unique(values[~np.isnan(values)])))
        scaling = np.array(rules, np.float64).reshape(-1, 3)
        return cls(tuple(numeric), scaling, categories, tuple(distinct))

    @property
    def width(self) -> int:
        """The numbers that encode a row: a value and a flag for each numeric column."""
        return 2 * len(self.numeric)

    @property
    def cardinalities(self) -> list[int]:
        """The number of codes of each categorical column, "never seen" and "missing" included."""
        return [FIRST_CATEGORY + len(known) for known in self.categories.values()]

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The kind of each column: "numeric", "categorical", or "codes" if whole numbers are among
        the categories."""
        columns = dict.fromkeys(self.numeric, "numeric")
        return columns | {name: _kind_of(known) for name, known in self.categories.items()}

    def encode(
        self, columns: Mapping[str, np.ndarray], ids: Sequence[Any]
    ) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
        """Return the encoded columns, and texts for a warning.

        Parameters
        ----------
        columns : mapping of str to ndarray, shape (rows,)
            float64 with NaN, or objects (text or None).
        ids : sequence, shape (rows,)
            The item of each row, for the texts.

        Returns
        -------
        numeric : ndarray, shape (rows, width), float32
        codes : ndarray, shape (rows, m), int32
        missing, unseen : list of str
            Which columns have missing values, and which have what training did not have:
            categories, or another number than the only one of a column.
        """
        rows = len(ids)
        numeric = np.zeros((rows, self.width), np.float32)
        codes = np.zeros((rows, len(self.categories)), np.int32)
        missing: list[str] = []
        unseen: list[str] = []

        def note(name: str, what: str, affected: np.ndarray) -> str:
            items = list(dict.fromkeys(ids[i] for i in affected))
            plural = "item" if len(items) == 1 else "items"
            return f"{quoted(name)} {what} ({plural} {listed(items, 3)})"

        for j, name in enumerate(self.numeric):
            centre, mean, gain = self.scaling[j]
            values = columns[name]
            empty = np.isnan(values)
            if centre > 0:
                values = np.log1p(np.maximum(values, 0.0) / centre)
            z = np.clip((values - mean) * gain, -FEATURE_LIMIT, FEATURE_LIMIT)
            numeric[:, j] = np.where(empty, 0.0, z)
            numeric[:, len(self.numeric) + j] = empty
            other = np.zeros(rows, bool) if gain > 0 else ~empty & _differ(values, mean)
            if other.any():
                at = np.flatnonzero(other)
                note_of = f"has {values[at[0]]:g} and did not vary in training"
                unseen.append(note(name, note_of, at))
            if empty.any():
                missing.append(note(name, "is missing", np.flatnonzero(empty)))
        for j, (name, known) in enumerate(self.categories.items()):
            code: dict[str | None, int] = dict(
                zip(known, range(FIRST_CATEGORY, FIRST_CATEGORY + len(known)), strict=True)
            )
            code[None] = MISSING
            values = columns[name].tolist()
            codes[:, j] = np.fromiter(map(code.get, values, repeat(NEVER_SEEN)), np.int32, rows)
            strange = np.flatnonzero(codes[:, j] == NEVER_SEEN)
            marks = [i for i in strange if is_mark(values[i])]
            if marks:  # "NA" that was no category in training is a missing value
                codes[marks, j] = MISSING
                strange = np.flatnonzero(codes[:, j] == NEVER_SEEN)
            empty = np.flatnonzero(codes[:, j] == MISSING)
            if len(empty):
                missing.append(note(name, "is missing", empty))
            if len(strange):
                new = sorted({values[i] for i in strange})
                unseen.append(note(name, f"has {listed(new, 3)}, never seen in training", strange))
        return numeric, codes, missing, unseen

    def to_config(self) -> dict[str, Any]:
        """Return the names as strict JSON; ``scaling`` is an array beside it."""
        return {
            "numeric": [
                {"name": name, "distinct": count}
                for name, count in zip(self.numeric, self.distinct, strict=True)
            ],
            "categorical": [
                {"name": name, "categories": list(known)} for name, known in self.categories.items()
            ],
        }

    @classmethod
    def from_config(cls, config: Any, what: str, keys: Sequence[str | None]) -> Columns:
        """Rebuild columns with a scaling of zeros; ``ModelFileError`` on anything unexpected.

        ``keys`` are names that no column may have.
        """
        config = closed(config, ("numeric", "categorical"), what)
        numeric, categorical = config["numeric"], config["categorical"]
        for key, value in (("numeric", numeric), ("categorical", categorical)):
            must(isinstance(value, list), f"{what} {key}", "a list", type(value).__name__)
        count = len(numeric) + len(categorical)
        must(count <= MAX_COLUMNS, f"{what} columns", f"at most {MAX_COLUMNS}", count)
        categories: dict[str, tuple[str, ...]] = {}
        names: list[Any] = []
        distinct: list[int] = []
        for entry in numeric:
            entry = closed(entry, ("name", "distinct"), "numeric")
            values = entry["distinct"]
            must(is_whole(values, 0), "distinct", "a whole number from 0", values)
            names.append(entry["name"])
            distinct.append(values)
        for entry in categorical:
            entry = closed(entry, ("name", "categories"), "categorical")
            name, known = entry["name"], entry["categories"]
            must(isinstance(known, list), "categories", "a list", type(known).__name__)
            must(
                len(known) <= _MAX_CATEGORIES,
                "categories",
                f"at most {_MAX_CATEGORIES}",
                len(known),
            )
            must(all(isinstance(k, str) and k for k in known), "categories", "text", name)
            must(all(map(str.__lt__, known, known[1:])), "categories", "sorted, distinct", name)
            names.append(name)
            if isinstance(name, str):
                categories[name] = tuple(known)
        must(all(isinstance(s, str) for s in names), f"{what} columns", "text", names[:3])
        differ = len(set(names)) == len(names) and not set(keys) & set(names)
        must(differ, f"{what} columns", "distinct names", names[:3])
        scaling = np.zeros((len(numeric), 3))
        return cls(tuple(names[: len(numeric)]), scaling, categories, tuple(distinct))


def one_hot(numeric: np.ndarray, codes: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Return encoded features as numbers only, with categories one-hot encoded.

    Parameters
    ----------
    numeric : ndarray, shape (rows, width)
        As ``Panel.numeric``.
    codes : ndarray, shape (rows, m), int
        As ``Panel.codes``.
    categories : ndarray, shape (n, 2), int
        The categories that get a column: the index of the feature, and the code.

    Returns
    -------
    ndarray, shape (rows, width + n), float64
        The numeric features, and then 1 where a row has the category and 0 elsewhere.
    """
    indicators = codes[:, categories[:, 0]] == categories[:, 1]
    return np.concatenate([numeric, indicators], axis=1, dtype=np.float64)


def every_category(
    cardinalities: Sequence[int], *, first: int = 0, most: int | None = None
) -> np.ndarray:
    """Return the categories of features for ``one_hot``, shape (n, 2), int64.

    Parameters
    ----------
    cardinalities : sequence of int
        As ``Columns.cardinalities``.
    first : int
        The first code that gets a column; with 1, a category never seen in training has none.
    most : int, optional
        Features with more codes are left out.
    """
    pairs = [
        (feature, code)
        for feature, count in enumerate(cardinalities)
        if most is None or count <= most
        for code in range(first, count)
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _numeric_rule(values: np.ndarray) -> tuple[float, float, float]:
    """Return the row of ``Columns.scaling`` for a numeric column.

    A column without negative values and with a skewness above 2 is transformed by
    ``log1p(v / c)``, where c is the median of its positive values.
    """
    seen = values[~np.isnan(values)]
    if not len(seen):
        return 0.0, 0.0, 0.0
    centre = 0.0
    spread = seen.std()
    if seen.min() >= 0 and spread > 0 and (((seen - seen.mean()) / spread) ** 3).mean() > 2:
        centre = positive_median(lambda: [seen])
        seen = np.log1p(seen / centre)
    mean, spread = float(seen.mean()), float(seen.std())
    varies = spread > max(ROUNDING * float(np.abs(seen).max()), 1 / LARGEST)
    return centre, mean, 1 / spread if varies else 0.0


def _differ(values: np.ndarray, constant: float) -> np.ndarray:
    """Return which values differ from a constant by more than rounding."""
    return np.abs(values - constant) > 1e-6 * abs(constant)


def _kind_of(categories: Iterable[str]) -> str:
    """Return "codes" if whole numbers may be among the categories, else "categorical"."""
    whole = [text for text in categories if re.fullmatch(r"-?\d+(\.0+)?", text)]
    return "codes" if whole and not any("." in text for text in whole) else "categorical"


def _vocabulary(values: np.ndarray, name: str, what: str) -> tuple[str, ...]:
    """Return the sorted categories of a column of objects; raise if there are too many."""
    known = sorted({value for value in values.tolist() if value is not None})
    if len(known) > _MAX_CATEGORIES:
        raise DataError(
            f"{what} column {name!r}: expected at most {_MAX_CATEGORIES:,} categories; received "
            f"{len(known):,}. Leave the column out, or group its values.",
            column=name,
        )
    return tuple(known)


def warn_of_features(what: str, notes: Sequence[str]) -> None:
    """Warn of columns with missing or unseen cells, by the texts of ``Columns.encode``."""
    if notes:
        more = f"; and {len(notes) - 8} more" if len(notes) > 8 else ""
        warn(f"{what} columns, taken as average or unknown: {'; '.join(notes[:8])}{more}.")
