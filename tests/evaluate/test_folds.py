"""Items: parts of tables that mean what the whole tables do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from statecast.evaluate.folds import Items
from statecast.forecast.settings import ForecasterSettings
from statecast.tables.schema import Schema


def test_parts_of_a_file_are_read_as_the_whole_file(tmp_path: Path) -> None:
    """Marks among numbers, codes and whole floats: parts of a file are read as the whole."""
    shop, area = ["7", "7.0", "NA", "12"], ["1.5", "-", "2.5", "8"]
    lines = [f"{i},{shop[i]},{area[i]},{'NA' if i else 'DE'}" for i in range(4)]
    (tmp_path / "static.csv").write_text("unique_id,shop,area,land\n" + "\n".join(lines) + "\n")
    rows = [
        f"{i},{step},{'null' if step == 2 else step + i}" for i in range(4) for step in (1, 2, 3)
    ]
    (tmp_path / "series.csv").write_text("unique_id,ds,y\n" + "\n".join(rows) + "\n")
    paths = tmp_path / "series.csv", tmp_path / "static.csv"
    settings = ForecasterSettings(categorical=["shop"])
    parts = Items.read(settings, *paths, None).take(np.ones(4, bool))
    whole = Schema.fit(*paths, categorical=["shop"])
    schema = Schema.fit(parts["series"], parts["static"], categorical=["shop"])
    assert schema.static.categories == whole.static.categories
    assert schema.static.categories == {"shop": ("12", "7"), "land": ("DE", "NA")}
    one, two = whole.panel(*paths), schema.panel(parts["series"], parts["static"])
    for name in ("y", "mask", "numeric", "codes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


@pytest.mark.parametrize("when", ["number", "date"])
def test_columns_of_a_file_that_are_not_features(tmp_path: Path, when: str) -> None:
    """Groups, times of step 1 and launch dates of parts of a file are read as those of the file."""
    rows = [
        f"{i},{step if when == 'number' else f'2024-01-{step + i:02d}'},{step + i}"
        for i in range(4)
        for step in (1, 2, 3)
    ]
    (tmp_path / "series.csv").write_text("unique_id,ds,y\n" + "\n".join(rows) + "\n")
    begin = ["2001", "2002.0", "NA", ""] if when == "number" else ["2024-01-01", "", "", ""]
    lines = [f"{i},{['7', '7.0', '8', ''][i]},{begin[i]}" for i in range(4)]
    (tmp_path / "static.csv").write_text("unique_id,g,begin\n" + "\n".join(lines) + "\n")
    paths = tmp_path / "series.csv", tmp_path / "static.csv"
    role: dict[str, Any] = {"origin_col" if when == "number" else "start_col": "begin"}
    settings = ForecasterSettings(group_col="g", **role)
    parts = Items.read(settings, *paths, None).take(np.ones(4, bool))
    schema = Schema.fit(parts["series"], parts["static"], **settings.columns)
    whole = Schema.fit(*paths, **settings.columns).panel(*paths, for_fit=True)
    part = schema.panel(parts["series"], parts["static"], for_fit=True)
    for name in ("y", "mask", "group", "begin", "origin"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(part, name), err_msg=name)
    if when == "number":
        np.testing.assert_array_equal(part.begin, [2001, 2002, np.nan, np.nan])
