"""What a figure of matplotlib has: its lines, its bands, and the texts that are drawn."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def drawn(axis: Axes) -> dict[str, tuple[list[Any], list[Any]]]:
    """The lines of a panel that have a name."""
    lines = {str(line.get_label()): line for line in axis.get_lines()}
    return {
        name: (list(np.asarray(line.get_xdata())), list(np.asarray(line.get_ydata())))
        for name, line in lines.items()
    }


def bands(axis: Axes) -> dict[str, np.ndarray]:
    """The corners of each band."""
    found = [c for c in axis.collections if isinstance(c, FillBetweenPolyCollection)]
    return {str(band.get_label()): np.asarray(band.get_paths()[0].vertices) for band in found}


def write(figure: Figure, tmp_path: Path) -> None:
    figure.savefig(tmp_path / "figure.png", dpi=50)
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def texts_of(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is drawn, with its box in pixels."""
    figure.draw_without_rendering()  # the layout is settled after the first time
    found: list[tuple[str, Bbox]] = []
    draw = Text.draw

    def record(self: Text, renderer: Any) -> None:
        draw(self, renderer)
        if self.get_visible() and self.get_text().strip():
            found.append((self.get_text(), Text.get_window_extent(self, renderer)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        figure.draw_without_rendering()
    return found


def collisions(figure: Figure) -> list[tuple[str, str]]:
    """The pairs of texts that lie over each other, and the texts that leave the figure."""
    found = texts_of(figure)
    wrong = [
        (one, other)
        for (one, a), (other, b) in combinations(found, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]
    page = figure.bbox
    wrong += [
        (text, "outside the figure")
        for text, box in found
        if box.x0 < page.x0 - 1
        or box.x1 > page.x1 + 1
        or box.y0 < page.y0 - 1
        or box.y1 > page.y1 + 1
    ]
    return wrong
