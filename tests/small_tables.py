"""Small tables, given and drawn; what a schema reads from them; equality of schemas and panels."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from statecast.tables.panel import Panel
from statecast.tables.schema import Schema

SERIES = pl.DataFrame(
    {"unique_id": [1, 1, 2, 2, 3], "ds": [1, 2, 1, 2, 1], "y": [1.0, 2.0, 3.0, 5.0, 4.0]}
)
STATIC = pl.DataFrame(
    {
        "unique_id": [1, 2, 3],
        "sex": ["M", "F", "M"],
        "area": [1.0, 2.0, 6.0],
        "open": [True, False, True],
    }
)
Y = [[1.0, 2.0], [3.0, 5.0], [4.0, np.nan]]


def seen(schema: Schema, *tables: Any) -> list[list[float | None]]:
    """y of a panel, in original units; None where nothing was observed."""
    panel = schema.panel(*tables)
    y = schema.unscale(panel.y)
    return [
        [round(float(v), 5) if there else None for v, there in zip(*row, strict=True)]
        for row in zip(y, panel.mask, strict=True)
    ]


EXPECTED = [[1.0, 2.0], [3.0, 5.0], [4.0, None]]


def same_schema(left: Schema, right: Schema, *, but: tuple[str, ...] = ()) -> None:
    (config, arrays), (other, others) = left.to_config(), right.to_config()
    if "kind" in but:  # the type of ids is that of the library
        but = (*but, "ids")
    assert {k: v for k, v in config.items() if k not in but} == {
        k: v for k, v in other.items() if k not in but
    }
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, others[name], err_msg=name)


@st.composite
def drawn_tables(
    draw: st.DrawFn, with_static: bool = True
) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """A series and a static table: ragged, with gaps, missing statics, any order of rows."""
    n = draw(st.integers(2, 7))
    text = draw(st.booleans())
    ids = [f"item {i}" if text else 10 * i for i in range(n)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    positive = draw(st.booleans())
    rows = []
    for item in ids:
        last = int(rng.integers(1, 9))
        kept = np.flatnonzero(rng.random(last) < 0.8) + 1
        kept = kept if len(kept) else np.array([last])
        y = rng.normal(0, 3, len(kept))
        y = np.exp(y) if positive else y
        missing = rng.random(len(kept)) < 0.2
        missing[int(rng.integers(len(kept)))] = False
        rows += [
            (item, int(s), None if m else float(v))
            for s, v, m in zip(kept, y, missing, strict=True)
        ]
    order = rng.permutation(len(rows))
    series = pl.DataFrame(
        [rows[i] for i in order], schema=["unique_id", "ds", "y"], orient="row"
    ).cast({"y": pl.Float64})
    if not with_static:
        return series, None
    colours = np.array(["red", "green", "NA", "bleu é", None], object)
    static = pl.DataFrame(
        {
            "unique_id": ids,
            "colour": colours[rng.integers(0, 5, n)].tolist(),
            "size": [None if rng.random() < 0.2 else float(v) for v in rng.lognormal(0, 2, n)],
            "whole": rng.integers(-3, 3, n).tolist(),
        },
        schema_overrides={"colour": pl.String, "size": pl.Float64},
    )
    # Otherwise a CSV file cannot tell that the column is text
    static[0, "colour"] = "red"
    return series, static


def same_panel(left: Panel, right: Panel) -> None:
    assert left.ids.tolist() == right.ids.tolist()
    for name in ("y", "mask", "numeric", "codes"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
        assert getattr(left, name).dtype == getattr(right, name).dtype
    if left.origin is None or right.origin is None:
        assert left.origin is right.origin
    else:
        np.testing.assert_array_equal(left.origin, right.origin)


def series_with(**columns: Any) -> pl.DataFrame:
    return SERIES.with_columns(
        **{k: pl.Series(v, strict=False) if isinstance(v, list) else v for k, v in columns.items()}
    )
