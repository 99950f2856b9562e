"""The bytes of events: whatever is packed comes back, and equal values have equal bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statecast import errors
from statecast.sessions.events import PLAN, ROW, Layout, Part
from statecast.tables.schema import Schema

NUMBERS = st.floats(width=64)
TEXTS = st.none() | st.text(st.characters(codec="utf-8"), max_size=5)


@given(data=st.data())
def test_what_is_packed_comes_back(data: st.DataObject) -> None:
    numbers = tuple(f"n{i}" for i in range(data.draw(st.integers(0, 3))))
    texts = tuple(f"t{i}" for i in range(data.draw(st.integers(0, 3))))
    part, rows = Part(ROW, numbers, texts), data.draw(st.integers(0, 4))
    columns: dict[str, np.ndarray] = {}
    for name in numbers:
        values = data.draw(st.lists(NUMBERS, min_size=rows, max_size=rows))
        columns[name] = np.array(values, np.float64)
    for name in texts:
        values = data.draw(st.lists(TEXTS, min_size=rows, max_size=rows))
        columns[name] = np.array([*values, None], object)[:-1]
    packed = part.pack(columns, rows)
    assert all(each[:1] == ROW for each in packed)
    assert all(len(each) == 1 + 8 * len(numbers) for each in packed) or texts
    back = part.unpack(packed)
    assert list(back) == [*numbers, *texts]
    for name, values in columns.items():
        np.testing.assert_array_equal(back[name], values)
    assert part.pack(back, rows) == packed


@pytest.mark.parametrize("bits", [0x7FF8000000000000, 0xFFF8000000000001, 0x7FF0000000000001])
def test_equal_values_have_equal_bytes(bits: int) -> None:
    part = Part(PLAN, ("a", "b"), ())
    nan = np.array([bits], np.uint64).view(np.float64)
    odd = {"a": nan, "b": np.array([-0.0])}
    assert part.pack(odd, 1) == part.pack({"a": np.array([np.nan]), "b": np.array([0.0])}, 1)


def test_a_text_has_a_longest_length() -> None:
    part = Part(ROW, (), ("t",))
    longest = "é" * 32_767
    (packed,) = part.pack({"t": np.array([longest], object)}, 1)
    assert part.unpack([packed])["t"].tolist() == [longest]
    with pytest.raises(errors.DataError, match="at most 65,534 bytes") as error:
        part.pack({"t": np.array([longest + "x"], object)}, 1)
    assert error.value.column == "t"


@pytest.mark.parametrize(
    "data", [b"\1short", b"\1" + b"\0" * 8 + b"\5", b"\1" + b"\0" * 10 + b"more"]
)
def test_other_data_is_refused(data: bytes) -> None:
    part = Part(ROW, ("n",), ("t",))
    with pytest.raises(errors.StoreError, match="damaged"):
        part.unpack([data])


def test_the_layout_has_the_columns_of_the_model() -> None:
    import polars as pl

    series: dict[str, Any] = {"unique_id": [1, 1, 2, 2], "ds": [1, 2, 1, 2], "y": [1.0, 2, 3, 5]}
    series |= {"visits": [1.0, 2, 3, 4]}
    static = {"unique_id": [1, 2], "area": [1.0, 2.0], "sex": ["M", "F"], "firm": ["p", "q"]}
    future = {"unique_id": [1, 1, 2, 2], "ds": [1, 2, 1, 2], "promo": [0.0, 1, 1, 0]}
    schema = Schema.fit(
        pl.DataFrame(series),
        pl.DataFrame(static),
        future=pl.DataFrame(future),
        past_cols=["visits"],
        group_col="firm",
    )
    layout = Layout(schema)
    assert layout.row.columns == ("y", "visits")
    assert layout.plan.columns == ("promo",)
    assert layout.static.columns == ("area", "sex", "firm")
