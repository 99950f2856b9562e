"""The data that is part of the package: the Berkeley growth study.

Heights of 93 children at 31 ages from 1 to 18 years. The page "Licences" names its source and its
licence.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import polars as pl

GROWTH = files("statecast.data") / "growth"


class Growth(NamedTuple):
    """Three polars tables.

    Attributes
    ----------
    series : polars.DataFrame
        2,883 rows: ``unique_id``, ``ds`` (the step, 1 to 31), ``y`` (height in cm) and
        ``age_years`` (the age at that step, the same for all children).
    static : polars.DataFrame
        93 rows: ``unique_id`` and ``sex`` (M or F).
    folds : polars.DataFrame
        93 rows: ``unique_id`` and ``fold`` (0 to 4).

    Examples
    --------
    >>> from statecast.data import growth
    >>> growth().static.columns
    ['unique_id', 'sex']
    """

    series: pl.DataFrame
    static: pl.DataFrame
    folds: pl.DataFrame


def growth() -> Growth:
    """Return the growth study as polars tables.

    Returns
    -------
    series, static, folds : Growth
        A row an observation, a child and a child; see there for the columns.

    References
    ----------
    Tuddenham, R. D. and Snyder, M. M. (1954), Physical growth of California boys and girls
    from birth to eighteen years.

    Examples
    --------
    >>> from statecast.data import growth
    >>> series, static, folds = growth()
    >>> series.columns, static.height
    (['unique_id', 'ds', 'y', 'age_years'], 93)
    """
    import polars as pl

    def table(name: str) -> pl.DataFrame:
        return pl.read_csv((GROWTH / f"{name}.csv").read_bytes())

    return Growth(table("series"), table("static"), table("folds"))
