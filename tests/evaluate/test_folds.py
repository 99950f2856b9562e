"""Items: parts of tables that mean what the whole tables do."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
