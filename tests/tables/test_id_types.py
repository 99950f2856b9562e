"""``IdType``: the type of a column of ids survives a model file; other types are refused."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from statecast import errors
from statecast.tables.id_types import IdType

pd = pytest.importorskip("pandas")

pa = pytest.importorskip("pyarrow")


@pytest.mark.parametrize(
    ("library", "name", "categories"),
    [
        ("polars", "os.system", None),
        ("polars", "Enum", None),
        ("polars", "Enum", ["a", "a"]),
        ("polars", "Enum", [1.5]),
        ("polars", "Int32", ["a"]),
        ("polars", "Datetime(time_unit='us', time_zone='Middle/Earth')", None),
        ("pandas", "int32; import os", None),
        ("pandas", "datetime64[ns, Middle/Earth]", None),
        ("pandas", "category", [None]),
        ("pyarrow", "extension<x>", None),
        ("pyarrow", "timestamp[us, tz=Middle/Earth]", None),
        ("arrays", "Int32", None),
    ],
)
def test_a_type_that_no_file_has_is_refused(library, name, categories) -> None:
    config = {"name": name, "categories": categories, "ordered": False}
    with pytest.raises(errors.ModelFileError, match="ids: expected the type"):
        IdType.from_config(config, library)
    with pytest.raises(errors.ModelFileError, match="ids: expected the type"):
        IdType.from_config(name, library)


def _types() -> dict[str, list[Any]]:
    zone = "Europe/Paris"
    return {
        "polars": [
            *(pl.Int8, pl.UInt64, pl.Int128, pl.Float32, pl.String, pl.Categorical, pl.Date),
            *(pl.Binary, pl.Object, pl.Decimal(9, 2), pl.Enum(["b", "a"]), pl.Duration("ms")),
            *(pl.Datetime("us"), pl.Datetime("ns", zone)),
        ],
        "pandas": [
            *map(pd.api.types.pandas_dtype, ("int16", "UInt32", "float64", "object", "string")),
            *map(pd.api.types.pandas_dtype, ("datetime64[ns]", f"datetime64[us, {zone}]")),
            pd.CategoricalDtype(["b", "a"], ordered=True),
            pd.CategoricalDtype([2, 1]),
        ],
        "pyarrow": [
            *(pa.int8(), pa.uint64(), pa.float32(), pa.string(), pa.large_binary(), pa.date32()),
            *(pa.date64(), pa.decimal128(30, 3), pa.duration("s"), pa.timestamp("ms", zone)),
            pa.dictionary(pa.int32(), pa.string()),
        ],
    }


@pytest.mark.parametrize(
    ("library", "native"),
    [(library, native) for library, each in _types().items() for native in each],
    ids=str,
)
def test_a_type_survives_its_config(library: str, native: Any) -> None:
    found = IdType.of(native, library)
    assert found is not None
    config = json.loads(json.dumps(found.to_config(), allow_nan=False))
    back = IdType.from_config(config, library)
    assert back == found
    assert back.native(library) == native
    assert IdType.of(back, library) is back


@pytest.mark.parametrize(
    ("library", "native"),
    [
        ("polars", pl.Struct({"a": pl.Int8})),
        ("polars", pl.List(pl.Int8)),
        ("pandas", pd.PeriodDtype("M")),
        ("pyarrow", pa.list_(pa.int8())),
        ("pyarrow", pa.struct([("a", pa.int8())])),
        ("polars", None),
    ],
    ids=str,
)
def test_a_type_that_has_no_name_in_a_file_is_none(library: str, native: Any) -> None:
    assert IdType.of(native, library) is None
