"""The arguments ``until`` and ``h``: values that are no steps are refused, whatever their size."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from statecast.errors import ArgumentError, DataError
from statecast.tables.horizon import MOST_STEPS, Horizon

_HUGE = [MOST_STEPS + 1, 2**63 - 1, 2**64, 10**30]


@pytest.mark.parametrize("huge", _HUGE)
def test_a_huge_step_is_refused_and_does_not_overflow(huge: int) -> None:
    with pytest.raises(ArgumentError, match="h: expected a whole number from 1 to 10,000;"):
        Horizon.read(None, huge, "unique_id", 1)
    for until in (huge, [huge, 3], {"a": huge}, np.array([huge], object)):
        with pytest.raises(ArgumentError, match="until: expected at most 10,000, received"):
            Horizon.read(until, None, "unique_id", 1)


def test_the_largest_step_is_counted_from_the_first_one() -> None:
    years = Horizon.read(2000 + MOST_STEPS, None, "unique_id", 2001)
    assert years.last(np.arange(2), np.zeros(2, int)).tolist() == [MOST_STEPS] * 2
    ahead = Horizon.read(None, MOST_STEPS, "unique_id", 1)
    assert ahead.last(np.arange(2), np.array([0, 3])).tolist() == [MOST_STEPS, MOST_STEPS + 3]


def test_an_array_without_axes_is_one_number() -> None:
    assert Horizon.read(np.array(6), None, "unique_id", 1) == Horizon(step=6)
    with pytest.raises(ArgumentError, match="until: expected a whole number from 1"):
        Horizon.read(np.array(6.5), None, "unique_id", 1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"item": [1], "last": [5]}, "expected a column 'unique_id'.*pass id_col='item'"),
        (
            {"unique_id": [1], "last": [5]},
            r"expected a column 'until'; received 'unique_id', 'last'\.$",
        ),
        (
            {"unique_id": [1], "ds": [5]},
            r"expected a column 'until'; received 'unique_id', 'ds'\.$",
        ),
        ({"unique_id": [1], "Until": [5]}, r"column 'until'; received 'unique_id', 'Until'\.$"),
    ],
)
def test_a_table_of_last_steps_without_its_columns_names_no_other_option(table, message) -> None:
    with pytest.raises(DataError, match=message) as error:
        Horizon.read(pl.DataFrame(table), None, "unique_id", 1)
    assert "step_col" not in str(error.value)
