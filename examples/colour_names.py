"""Colour names: generate names for a colour, from its red, green and blue.

    python examples/colour_names.py [--data ../shared/data/colours] [--picture names.png]
                                    [--model colours.safetensors] [--quick]

It trains on the names that people gave to four fifths of some 32,000 colours, as characters
(minutes on two cores). Then it generates names for eight colours, completes "dark g" for each of
them, ranks the colours for a name, and computes the bits per character of the names that are not
in training. ``--model`` reads the forecaster from a file if it exists, and writes it otherwise.
``--quick`` trains on a few hundred names for two epochs, to try the script.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from statecast import TokenForecaster
from statecast.tokens.decoding import Beam, Sampling

DATA = Path(__file__).parents[2] / "shared" / "data" / "colours"
SWATCHES = {
    "red": (214, 40, 40), "orange": (240, 140, 40), "yellow": (245, 220, 70),
    "green": (40, 130, 70), "blue": (40, 80, 190), "purple": (110, 50, 140),
    "brown": (100, 65, 40), "grey": (130, 130, 130),
}  # fmt: skip


def tables(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """The names, with a row for each character ("_" is a blank); the colours; the folds."""
    series = pl.read_csv(folder / "series.csv")
    static = pl.read_csv(folder / "static.csv").select("unique_id", "red", "green", "blue")
    return series, static, pl.read_csv(folder / "folds.csv")


def swatches() -> pl.DataFrame:
    names = list(SWATCHES)
    parts = dict(zip(("red", "green", "blue"), zip(*SWATCHES.values(), strict=True), strict=True))
    return pl.DataFrame({"unique_id": names, **{name: list(part) for name, part in parts.items()}})


def spelt(text: str, ids: list[str]) -> pl.DataFrame:
    """The characters of a text, for each of these items, as a long table."""
    letters = text.replace(" ", "_")
    rows = [(item, step, letter) for item in ids for step, letter in enumerate(letters, 1)]
    return pl.DataFrame(rows, schema=["unique_id", "ds", "y"], orient="row")


def words(text: str) -> str:
    return text.replace("_", " ")


def picture(path: Path, names: list[list[str]]) -> None:
    """Draw the colours, with the generated names on them."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(11, 4.5), layout="constrained")
    for axis, colour, some in zip(axes.flat, SWATCHES.values(), names, strict=True):
        axis.set_facecolor([part / 255 for part in colour])
        axis.set(xticks=[], yticks=[])
        ink = "white" if np.dot(colour, (0.3, 0.6, 0.1)) < 140 else "black"
        axis.text(0.5, 0.5, "\n".join(map(words, some)), ha="center", va="center", color=ink)
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if not (given.data / "series.csv").exists():
        print(f"Skipped: there is no series.csv in {given.data} (--data names another folder).")
        return 0
    series, static, folds = tables(given.data)
    old, new = (folds.filter(test).select("unique_id") for test in (
        pl.col("fold") > 0, pl.col("fold") == 0
    ))  # fmt: skip
    settings: dict[str, Any] = {}
    if given.quick:
        old, new = old.head(600), new.head(100)
        settings = {"units": 16, "epochs": 2}

    if given.model is not None and given.model.exists():
        f = TokenForecaster.load(given.model)
    else:
        f = TokenForecaster(seed=0, **settings)
        f.fit(series.join(old, on="unique_id"), static.join(old, on="unique_id"), verbose=2)
        if given.model is not None:
            f.save(given.model)

    these = swatches()
    drawn = f.sample(None, these, until=30, paths=3, sampling=Sampling(0.7, top_p=0.9))
    print("Sampled names:")
    for item, some in zip(drawn.ids, drawn.text(), strict=True):
        print(f"  {item}: {', '.join(map(words, some))}")

    begun = spelt("dark g", list(SWATCHES))
    rest = f.generate(begun, these, until=30, beam=Beam(10))
    rest = rest.group_by("unique_id", maintain_order=True).agg(
        pl.col("statecast").drop_nulls().str.join(""), pl.col("statecast-nats").first()
    )
    print('Completions of "dark g":')
    for item, text, nats in rest.rows():
        print(f"  {item}: dark g{words(text)} (probability {np.exp(nats):.2f})")

    names = ["fire truck", "lemon", "moss", "deep sea"]
    found = f.rank(pl.concat([spelt(name, [name]) for name in names]), these, best=3)
    print("Colours for a name, the best first:")
    for name in names:
        print(f"  {name}: {', '.join(found.filter(pl.col('unique_id') == name)['match'])}")

    truth, seen = series.join(new, on="unique_id"), static.join(new, on="unique_id")
    for k in (0, 1, 3):
        table = f.log_likelihood(truth, seen, known=k)
        bits = -table["log_likelihood"].sum() / table["tokens"].sum() / np.log(2)
        print(f"Bits per character of {len(new):,} new names, from k = {k}: {bits:.3f}")
    if given.picture is not None:
        picture(given.picture, drawn.text())
        print(f"Wrote {given.picture}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
