"""Small tables, what a schema reads from them, and when two schemas are equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

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
