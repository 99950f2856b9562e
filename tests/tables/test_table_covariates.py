"""Past and future covariates in a panel."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
import polars as pl
import pytest

from small_tables import SERIES, same_schema
from statecast.errors import ArgumentError, DataError, DataWarning
from statecast.tables.schema import Schema

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")


pytestmark = pytest.mark.filterwarnings("ignore::statecast.errors.DataWarning")


# -- covariates --------------------------------------------------------------------------

PLAN = pl.DataFrame(
    {
        "unique_id": [1, 1, 1, 2, 2, 2, 3, 3, 3],
        "ds": [1, 2, 3] * 3,
        "promo": [0.0, 1.0, 0.0, 1.0, None, 0.0, 0.0, 1.0, 1.0],
        "event": ["none", "fair", "none", "none", "none", "fair", None, "fair", "none"],
    }
)
SEEN = SERIES.with_columns(
    visits=pl.Series([4.0, None, 6.0, 8.0, 2.0]), sky=pl.Series(["wet", None, "dry", "wet", ""])
)


def test_covariates_are_scaled_coded_and_flagged_as_statics_are() -> None:
    schema = Schema.fit(SEEN, future=PLAN, past_cols=["visits", "sky"])
    assert schema.future.kinds == {"promo": "numeric", "event": "categorical"}
    assert schema.past.categories == {"sky": ("dry", "wet")}
    with pytest.warns(DataWarning, match="Future columns, .*'promo' is missing .item 2."):
        panel = schema.panel(SEEN, future=PLAN, until=3)
    future, past = panel.future, panel.past
    assert future is not None
    assert past is not None
    assert future.there.all()
    assert future.numeric[1, :, 1].tolist() == [0, 1, 0]  # the flag; and its value says nothing
    assert future.numeric[1, 1, 0] == 0 != future.numeric[1, 2, 0]
    assert future.codes[:, :, 0].tolist() == [[3, 2, 3], [3, 3, 2], [1, 2, 3]]
    # A row in which no cell is filled is as good as none.
    assert past.there.tolist() == [[True, False], [True, True], [True, False]]
    assert past.codes[:, :, 0].tolist() == [[3, 0], [2, 3], [1, 0]]
    assert panel.prefix(1).past.there.tolist() == [[True, False]] * 3  # type: ignore[union-attr]
    config, arrays = schema.to_config()
    same_schema(schema, Schema.from_config(json.loads(json.dumps(config)), arrays))


def test_rows_that_no_step_needs_are_learnt_from_by_nobody() -> None:
    """Other items, and steps after the last observation or before the first date."""
    more = pl.DataFrame(
        {"unique_id": [1, 3, 9], "ds": [9, 2, 1], "promo": [1e6] * 3, "event": ["war"] * 3}
    )
    few = PLAN.filter((pl.col("ds") < 3) & ((pl.col("unique_id") != 3) | (pl.col("ds") == 1)))
    schema = Schema.fit(SERIES, future=few)
    same_schema(schema, Schema.fit(SERIES, future=pl.concat([few, more])))
    dates = [dt.date(2026, 1, 4) + dt.timedelta(weeks=i) for i in range(-1, 3)]
    series = pl.DataFrame({"unique_id": 1, "ds": dates[1:3], "y": [1.0, 2.0]})
    plan = pl.DataFrame({"unique_id": 1, "ds": dates, "promo": [9.0, 0.0, 1.0, 2.0]})
    schema = Schema.fit(series, future=plan)
    same_schema(schema, Schema.fit(series, future=plan[1:3]))
    panel = schema.panel(series, future=plan, until=3)
    assert panel.future is not None
    np.testing.assert_allclose(panel.future.numeric[0, :, 0], [-1, 1, 3])
    # k = 0: the first row here is step 1, and what is not planned is named by its date
    new = schema.panel(static=None, future=plan.with_columns(unique_id=pl.lit(2)), until=4)
    assert new.origin is not None
    assert new.origin[0] == np.datetime64("2025-12-28")
    assert schema.new_rows(None, [2], future=plan.with_columns(unique_id=pl.lit(2)), until=4).future
    with pytest.raises(DataError, match=r"none for step 4 \(2026-01-25\) \(item 1\)"):
        schema.panel(series, future=plan, until=4)


def test_future_arrays_mean_the_same_as_tables() -> None:
    rng = np.random.default_rng(3)
    Y, F = rng.normal(size=(4, 3)), rng.normal(size=(4, 5, 2))
    F[1, 2, 0] = np.nan
    row, step = (axis.ravel() for axis in np.indices((4, 5)))
    plan = pl.DataFrame({"unique_id": row, "ds": step + 1})
    plan = plan.with_columns(f1=pl.Series(F[..., 0].ravel()), f2=pl.Series(F[..., 1].ravel()))
    plan = plan.with_columns(pl.col("f1").fill_nan(None))
    seen = [axis.ravel() for axis in np.indices(Y.shape)]
    series = pl.DataFrame({"unique_id": seen[0], "ds": seen[1] + 1, "y": Y.ravel()})
    schema, other = Schema.fit(series, future=plan), Schema.fit(Y, future=F)
    same_schema(schema, other, but=("kind", "ids"))
    for until in (0, 5):
        left = schema.panel(series, future=plan, until=until).future
        right = other.panel(Y, future=F, until=until).future
        assert left is not None
        assert right is not None
        for name in ("numeric", "codes", "there"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


@pytest.mark.parametrize(
    ("future", "pattern", "column", "item"),
    [
        (PLAN.drop("ds"), "expected a column 'ds'", "ds", None),
        (PLAN.drop("event", "promo"), "received no others", None, None),
        (PLAN.with_columns(y=pl.lit(1.0)), "received the target 'y'", "y", None),
        (PLAN.drop("promo"), "a future column 'promo', as in fit", "promo", None),
        (PLAN.with_columns(more=pl.lit(1.0)), "received 'more' too", "more", None),
        (PLAN.with_columns(promo=pl.lit("x")), "expected a number, as in fit", "promo", 1),
        (PLAN.with_columns(event=pl.lit(1.0)), "expected text, as in fit", "event", 1),
        (PLAN.with_columns(promo=pl.lit(np.inf)), "expected a number from", "promo", 1),
        (PLAN.with_columns(ds=pl.lit(0)), "from 1, or a date.* count from 0, add 1", "ds", 1),
        (PLAN.with_columns(ds=pl.lit(dt.date(2026, 1, 1))), "steps from 1, as in fit", "ds", 1),
        (pl.concat([PLAN, PLAN[4:5]]), "each step of an item once; received step 2", "ds", 2),
        (PLAN.filter(pl.col("ds") != 3), r"from 1 to 3; received none for step 3", "ds", 1),
        (PLAN.filter(pl.col("unique_id") != 2), "received none for step 1", "ds", 2),
        (PLAN.filter(pl.col("unique_id") > 9), "received None, or one without rows", None, None),
        (np.ones((3, 3, 2)), "an array `future` beside tables", None, None),
        (None, "future table with .*'promo'.*; received None", None, None),
    ],
)
def test_bad_future_tables(future: Any, pattern: str, column: str | None, item: Any) -> None:
    schema = Schema.fit(SERIES, future=PLAN)
    with pytest.raises(DataError, match=pattern) as error:
        schema.panel(SERIES, future=future, until=3)
    assert (error.value.column, error.value.item) == (column, item)


def test_bad_covariates_elsewhere() -> None:
    with pytest.raises(DataError, match=r"expected shape \(n, T, f\)"):
        Schema.fit(np.ones((2, 3)), future=np.ones((2, 3)))
    with pytest.raises(DataError, match="for each of 2 items; received 3"):
        Schema.fit(np.ones((2, 3)), future=np.ones((3, 3, 1)))
    F = np.ones((2, 3, 2))
    F[1, 2, 1] = np.inf
    with pytest.raises(DataError, match=r"future\[1, 2, 1\]: expected a number from") as error:
        Schema.fit(np.ones((2, 3)), future=F)
    assert (error.value.column, error.value.item) == ("f2", 1)
    with pytest.raises(DataError, match="a future table beside arrays"):
        Schema.fit(np.ones((2, 3)), future=PLAN)
    with pytest.raises(DataError, match="no future table, as in fit"):
        Schema.fit(SERIES).panel(SERIES, future=PLAN)
    schema = Schema.fit(SERIES, future=PLAN)
    with pytest.raises(DataError, match="received none for step 2"):
        schema.panel(SERIES, future=PLAN.filter(pl.col("ds") != 2), for_fit=True)
    with pytest.raises(DataError, match="expected a column 'visits'"):
        Schema.fit(SERIES, past_cols=["visits"])
    with pytest.raises(DataError, match="an array Y, which has none"):
        Schema.fit(np.ones((2, 3)), past_cols=["visits"])
    with pytest.raises(ArgumentError, match="distinct columns beside"):
        Schema.fit(SEEN, past_cols=["y"])
    schema = Schema.fit(SEEN, past_cols=["visits"])
    with pytest.raises(DataError, match="expected a number, as in fit"):
        schema.panel(SEEN.with_columns(visits=pl.lit("many")))
