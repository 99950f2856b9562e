"""The picture of the README and of the first page of the site: ``docs/forecast.svg``.

    .venv/bin/python tools/readme_picture.py

Heights of four children of fold 0, forecast by a model that was fitted to the others. It takes half
a minute.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import polars as pl
from matplotlib.figure import Figure

from statecast import Forecaster
from statecast.data import growth

PICTURE = Path(__file__).parents[1] / "docs" / "forecast.svg"
KNOWN = (1, 3, 6, 12)
LEVELS = {95: "#d3e2ee", 80: "#a3c4dc", 50: "#6c9fc5"}
OURS, INK, SOFT = "#0b5c94", "#222222", "#6b6b6b"


def main() -> None:
    series, static, folds = growth()
    ages = dict(series.select("ds", "age_years").unique().iter_rows())
    series = series.drop("age_years")
    new = folds.filter(pl.col("fold") == 0).select("unique_id")
    f = Forecaster(seed=0).fit(series.join(new, on="unique_id", how="anti"), static, verbose=0)
    who = static.join(new, on="unique_id")
    girls, boys = (who.filter(pl.col("sex") == sex)["unique_id"] for sex in "FM")
    children = (girls[0], boys[0], girls[3], boys[3])

    # Without a date and with fixed ids, the same forecasts give the same file.
    mpl.rcParams.update({"svg.hashsalt": "statecast", "svg.fonttype": "none"})
    mpl.rcParams["font.family"] = ["sans-serif"]
    figure = Figure(figsize=(11, 3.1), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True)
    for axis, child, k in zip(axes, children, KNOWN, strict=True):
        heights = series.filter(pl.col("unique_id") == child).sort("ds")
        begun, later = heights.filter(pl.col("ds") <= k), heights.filter(pl.col("ds") > k)
        one = who.filter(pl.col("unique_id") == child)
        fan = f.predict(begun, one, until=31, level=list(LEVELS))

        def age(table: pl.DataFrame) -> list[float]:
            return [ages[step] for step in table["ds"]]

        x = [age(begun)[-1], *age(fan)]
        start = begun["y"][-1]
        for level, colour in LEVELS.items():
            low, high = ([start, *fan[f"statecast-{side}-{level}"]] for side in ("lo", "hi"))
            axis.fill_between(x, low, high, color=colour, linewidth=0)
        axis.plot(x, [start, *fan["statecast"]], color=OURS, linewidth=1.8)
        axis.plot(age(later), later["y"], "o", ms=3.2, mfc="white", mec=INK, mew=0.7)
        axis.plot(age(begun), begun["y"], "o", ms=4.2, color=INK)
        sex = "girl" if one["sex"][0] == "F" else "boy"
        axis.set_title(f"{sex}, {k} {'height' if k == 1 else 'heights'} known", fontsize=10.5)
        axis.set_xlabel("years", color=SOFT)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=SOFT)
    axes[0].set_ylabel("cm", color=SOFT)
    figure.savefig(PICTURE, metadata={"Date": None})
    print(f"Wrote {PICTURE.relative_to(Path.cwd())}.")


if __name__ == "__main__":
    main()
