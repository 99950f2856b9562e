"""What all charts share: the frame of a figure, the colours, and texts that fit into their place.

matplotlib places texts without regard to each other. Here the room of each text is known before it
is drawn: a text that is too long is cut, and a figure grows with the number of its texts.
"""

from __future__ import annotations

import colorsys
import hashlib
import math
import warnings
from collections.abc import Sequence
from functools import lru_cache, partial
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from statecast.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, FAINT, PAPER = "#222222", "#6b6b6b", "#d9d9d9", "#ffffff"
OURS = "#0b5c94"
# The colours of Okabe and Ito, darker, so that text in these colours is legible
_COLOURS = {
    "last value": "#6b6b6b",
    "mean curve": "#b85c00",
    "ridge": "#00795a",
    "nearest neighbours": "#a3497f",
    "boosted trees": "#8a6d00",
}
_BY_GROUP = "#4b4b9b"  # the mean curve of each category
_POINTS = 72.0  # an inch
_LONGEST = 400  # letters of a text that are looked at
_MEASURED = 100.0  # the size of the font in which letters are measured


def need_matplotlib() -> None:
    """Raise ``MissingExtraError`` if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "Charts need matplotlib, which is not installed: pip install 'statecast[plots]'."
        ) from error


def colour_of(method: str) -> str:
    """Return the colour of a baseline: the same in every figure, for any name."""
    if method.startswith("mean curve by "):
        return _BY_GROUP
    if method in _COLOURS:
        return _COLOURS[method]
    digest = hashlib.blake2b(method.encode(), digest_size=4).digest()
    hue = int.from_bytes(digest, "big") / 2**32
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.31, 0.5))
    return f"#{red:02x}{green:02x}{blue:02x}"


def tint(place: int, count: int) -> str:
    """Return the colour of an interval, opaque as the bands overlap. A wider one is paler."""
    share = 0.16 + 0.24 * place / max(count - 1, 1) if count > 1 else 0.28
    parts = (int(OURS[i : i + 2], 16) for i in (1, 3, 5))
    red, green, blue = (round(255 * (1 - share) + share * part) for part in parts)
    return f"#{red:02x}{green:02x}{blue:02x}"


def width_of(text: str, size: float, *, bold: bool = False) -> float:
    """Return the width of a line of text in a font of this size, in inches, with some room."""
    return 1.04 * size / _POINTS * sum(_width_of_letter(letter, bold) for letter in text)


@lru_cache(maxsize=4096)
def _width_of_letter(letter: str, bold: bool) -> float:
    """The width of a letter in sizes of the font."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=_MEASURED, weight="bold" if bold else "normal")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font does not have: it draws a box
        # Letters are measured in pairs, as white space at the end of a text has no width.
        width, _, _ = text_to_path.get_text_width_height_descent(f"{letter}|", font, False)
        end, _, _ = text_to_path.get_text_width_height_descent("|", font, False)
    return (width - end) / _MEASURED


def fitted(text: object, inches: float, size: float, *, bold: bool = False) -> str:
    """Return a text as one line that is not wider than ``inches``.

    If it is longer, its middle is left out. Both ends are kept, since names often differ in their
    last letters.
    """
    line = " ".join(str(text)[:_LONGEST].split())
    if width_of(line, size, bold=bold) <= inches:
        return line
    fits = [
        n for n in range(2, len(line)) if width_of(shortened(line, n), size, bold=bold) <= inches
    ]
    return shortened(line, max(fits, default=2))


def shortened(line: str, kept: int) -> str:
    """Return a line with at most ``kept`` letters of its ends."""
    if kept >= len(line):
        return line
    end = kept // 2
    return f"{line[: kept - end]}…{line[len(line) - end :]}"


def grid(
    count: int, *, columns: int = 3, size: tuple[float, float] = (3.4, 2.7), share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` panels of this size, in inches, and their axes."""
    need_matplotlib()
    from matplotlib.figure import Figure

    columns = 2 if count == 4 else min(columns, count)
    rows = -(-count // columns)
    figure = Figure(
        figsize=(size[0] * columns, size[1] * rows + 0.4), dpi=150, layout="constrained"
    )
    # What a notebook calls. Only pyplot tells notebooks how to show a Figure, and it keeps figures
    # in memory until they are closed.
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).ravel())
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(FAINT)
        axis.tick_params(colors=SOFT, labelsize=8.5, length=3, color=FAINT)
        axis.grid(axis="y", color=FAINT, linewidth=0.6, alpha=0.6)
        axis.set_axisbelow(True)
    return figure, axes[:count]


def _png(figure: Figure) -> bytes:
    """Return the picture of a figure."""
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def plain_numbers(axis: Any) -> None:
    """Write the numbers of an x axis or a y axis at each tick, without a factor beside the axis.

    They have as many digits as tell two ticks apart.
    """
    axis.set_major_formatter(_plain())


def _plain() -> Any:
    """The formatter of ``plain_numbers``."""
    from matplotlib.ticker import Formatter

    class Numbers(Formatter):
        def __reduce__(self) -> tuple[Any, ...]:  # a class within a function cannot be pickled
            return _plain, (), vars(self)

        def __call__(self, x: float, pos: int | None = None) -> str:
            return self.format_ticks([x])[0]

        def format_ticks(self, values: Sequence[float]) -> list[str]:
            places = sorted({*values})
            largest = max((abs(each) for each in places), default=0.0)
            gap = min((high - low for low, high in pairwise(places)), default=largest)
            digits = 6 if not gap else 1 + math.ceil(math.log10(max(largest / gap, 1.0)))
            return [f"{each:.{max(digits, 3)}g}".replace("-", "−") for each in values]

    return Numbers()


def spread_labels(places: Sequence[float], texts: Sequence[str], size: float) -> list[str]:
    """Return the texts of ticks, empty where they would lie over a text before or over the last.

    ``places`` are in inches and increase.
    """
    widths = [width_of(text, size) + 0.06 for text in texts]
    shown, last = list(texts), len(texts) - 1
    free = -math.inf  # where the text before ends
    for i, (place, width) in enumerate(zip(places, widths, strict=True)):
        begins, ends = place - width / 2, place + width / 2
        meets_last = 0 < i < last and ends > places[last] - widths[last] / 2
        if i and (begins < free or meets_last) and i != last:
            shown[i] = ""
        else:
            free = ends
    if last > 0 and places[last] - widths[last] / 2 < places[0] + widths[0] / 2:
        shown[last] = ""
    return shown
