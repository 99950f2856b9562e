"""Compare forecasting methods on the results of ``accuracy.py``, and write ``docs/accuracy.md``.

The results are one tidy CSV file with a row for each data set, fold, seed, method, prefix length k
and item (a group of items is one row): the sums over the item's forecast values of |y|, of the
error of the median, of the quantile loss, of the values within the 80 % interval, of its width, and
the number of values. A score is a ratio of totals of these columns. A later row of the same data
set, fold, seed, method, k and item replaces an earlier one.

A cell is a data set and a k. Sums are averaged over seeds before they are compared.

- The difference of CRPS between two methods in a cell has a 95 % interval from a bootstrap over
  items: items are drawn with replacement, and both methods are scored on the same draw. It does not
  include the uncertainty from the training set and the seed.
- The average rank of a method is the mean of its ranks in all cells. Its interval is from a
  bootstrap over data sets, because the cells of a data set are dependent.
- The Friedman test and the critical difference of Nemenyi (Demsar 2006, Statistical comparisons of
  classifiers over multiple data sets, JMLR 7) take the data sets as independent, and not the cells:
  the ranks are averaged over the k of a data set.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from peers import MOST

OURS = "Statecast"
KEY = ("set", "fold", "seed", "method")
SUMS = ("size", "error", "loss", "inside", "width", "values")
COLUMNS = (*KEY, "seconds", "k", "item", *SUMS)
DRAWS = 2000
TYPES = {
    "set": pl.String, "fold": pl.Int64, "seed": pl.Int64, "method": pl.String,
    "seconds": pl.Float64, "k": pl.Int64, "item": pl.String,
    **dict.fromkeys(SUMS, pl.Float64),
}  # fmt: skip


def append(path: Path, key: Sequence[Any], seconds: float, rows: Sequence[Sequence[Any]]) -> None:
    """Append the rows of one fit, ``(k, item, *sums)``, in one write."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        writer.writerow(COLUMNS)
    for k, item, *sums in rows:
        writer.writerow([*key, f"{seconds:.1f}", k, item, *(f"{each:.8g}" for each in sums)])
    with path.open("ab", buffering=0) as file:  # another process may append, too
        file.write(text.getvalue().encode())


def read(path: Path) -> pl.DataFrame:
    """Return the results; of repeated rows the last."""
    if not path.exists():
        return pl.DataFrame(schema=TYPES)
    found = pl.read_csv(path, schema=TYPES)
    return found.unique([*KEY, "k", "item"], keep="last", maintain_order=True)


def finished(path: Path) -> set[tuple[Any, ...]]:
    """Return the data set, fold, seed and method of every fit in the results."""
    return set(read(path).select(KEY).unique().rows())


# -- statistics --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """The scores of a method at one k of a data set, and its difference to another method.

    Attributes
    ----------
    crps, wape : float
    coverage : float or None
        Of the 80 % interval; None for a point forecast.
    difference : float
        ``CRPS / CRPS of the other method - 1``, on the items that both have forecast.
    low, high : float
        The 95 % interval of the difference.
    items : int
        The number of items (or groups of them) of the comparison.
    """

    crps: float
    wape: float
    coverage: float | None
    difference: float
    low: float
    high: float
    items: int


class Results:
    """The results of all methods, averaged over seeds."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame
        cell = ["set", "method", "k"]
        means = frame.group_by([*cell, "fold", "item"], maintain_order=True).agg(
            pl.col(SUMS).mean()
        )
        self._cells: dict[tuple[str, str, int], pl.DataFrame] = {
            (str(key[0]), str(key[1]), int(key[2])): part.drop(cell).sort("fold", "item")  # type: ignore[call-overload]
            for key, part in means.partition_by(cell, as_dict=True).items()
        }

    @cached_property
    def sets(self) -> list[str]:
        """The data sets with our method and another one, by the number of their items."""
        count = {
            name: len(part) for (name, method, _), part in self._cells.items() if method == OURS
        }
        others = {name for name, method, _ in self._cells if method != OURS}
        return sorted(others & set(count), key=lambda name: (count[name], name))

    def known(self, name: str) -> list[int]:
        """Return the prefix lengths of a data set."""
        return sorted(k for of, method, k in self._cells if of == name and method == OURS)

    @property
    def cells(self) -> list[tuple[str, int]]:
        """The data sets and prefix lengths."""
        return [(name, k) for name in self.sets for k in self.known(name)]

    @cached_property
    def methods(self) -> list[str]:
        """The methods other than ours, and other than ours with other settings."""
        found = {method for _, method, _ in self._cells}
        return sorted(method for method in found if not method.startswith(OURS))

    @cached_property
    def ordered(self) -> list[str]:
        """The other methods by their average rank; those that are not ranked last."""
        average = dict(zip(self.ranked, self.ranks.mean(axis=0), strict=True))
        return sorted(self.methods, key=lambda method: average.get(method, np.inf))

    @cached_property
    def variants(self) -> list[str]:
        """Our method with other settings."""
        found = {method for _, method, _ in self._cells if method.startswith(OURS)}
        return sorted(found - {OURS})

    @cached_property
    def ranked(self) -> list[str]:
        """Our method and those that have forecast the same items in every cell."""
        return [OURS, *(m for m in self.methods if all(self.complete(m, *c) for c in self.cells))]

    def complete(self, method: str, name: str, k: int) -> bool:
        """Return whether a method has forecast the items that ours has."""
        ours, other = self._cells[name, OURS, k], self._cells.get((name, method, k))
        keys = ["fold", "item"]
        return other is not None and other[keys].equals(ours[keys])

    def cell(self, method: str, name: str, k: int) -> Cell | None:
        """Return the scores of a method in a cell; None if it has none."""
        part = self._cells.get((name, method, k))
        if part is None:
            return None
        both = part.join(self._cells[name, OURS, k], on=["fold", "item"], suffix="_ours")
        totals = dict(zip(SUMS, both.select(SUMS).sum().row(0), strict=True))
        theirs, ours = both["loss"].to_numpy(), both["loss_ours"].to_numpy()
        times = _draws(len(both))
        low, high = np.quantile(times @ theirs / (times @ ours), (0.025, 0.975)) - 1
        return Cell(
            totals["loss"] / totals["size"],
            totals["error"] / totals["size"],
            totals["inside"] / totals["values"] if totals["width"] > 0 else None,
            float(theirs.sum() / ours.sum() - 1),
            float(low),
            float(high),
            len(both),
        )

    @cached_property
    def ranks(self) -> np.ndarray:
        """The ranks of ``ranked`` in every cell by CRPS, 1 is the best, ``(cells, methods)``."""
        crps = [[self._crps(method, *cell) for method in self.ranked] for cell in self.cells]
        return np.array([ranked_of(row) for row in crps]).reshape(len(crps), len(self.ranked))

    def _crps(self, method: str, name: str, k: int) -> float:
        found = self.cell(method, name, k)
        return np.nan if found is None else found.crps

    @cached_property
    def ranks_of_sets(self) -> np.ndarray:
        """The ranks, averaged over the k of each data set, ``(sets, methods)``."""
        names = np.array([name for name, _ in self.cells])
        return np.array([self.ranks[names == name].mean(axis=0) for name in self.sets])

    def rank_intervals(self) -> np.ndarray:
        """Return the 95 % intervals of the average ranks over cells, ``(methods, 2)``."""
        names = [name for name, _ in self.cells]
        counts = np.array([names.count(name) for name in self.sets])
        times = _draws(len(self.sets)) * counts
        drawn = times @ self.ranks_of_sets / times.sum(axis=1, keepdims=True)
        return np.quantile(drawn, (0.025, 0.975), axis=0).T

    def seconds(self, method: str, name: str) -> float | None:
        """Return the mean CPU seconds of a fit."""
        fits = self.frame.filter(set=name, method=method).unique([*KEY])
        return fits["seconds"].mean() if len(fits) else None  # type: ignore[return-value]


def _draws(items: int) -> np.ndarray:
    """How often each item is in a bootstrap sample, ``(DRAWS, items)``: the same in every call."""
    rng = np.random.default_rng(items)
    return rng.multinomial(items, np.full(items, 1 / items), DRAWS)


def ranked_of(values: Sequence[float]) -> np.ndarray:
    """Return the ranks of values, 1 for the smallest; equal values share their mean rank."""
    found = np.asarray(values)
    smaller = (found < found[:, None]).sum(axis=1)
    return smaller + ((found == found[:, None]).sum(axis=1) + 1) / 2


def friedman(average: Sequence[float], blocks: int) -> tuple[float, float]:
    """Return Iman and Davenport's F of Friedman's test, and its p-value.

    Parameters
    ----------
    average : sequence of float
        The average rank of each method.
    blocks : int
        The number of independent rankings that were averaged.
    """
    from scipy.stats import f

    methods, ranks = len(average), np.asarray(average)
    square = ((ranks - (methods + 1) / 2) ** 2).sum() * 12 * blocks / (methods * (methods + 1))
    rest = blocks * (methods - 1) - square
    value = (blocks - 1) * square / rest if rest > 0 else np.inf
    return float(value), float(f.sf(value, methods - 1, (methods - 1) * (blocks - 1)))


def critical_difference(methods: int, blocks: int) -> float:
    """Return the difference of average ranks that Nemenyi's test needs, at 5 %."""
    from scipy.stats import studentized_range

    q = studentized_range.ppf(0.95, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * blocks)))


def cliques(average: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Return the largest runs of methods whose ranks differ by less than ``difference``.

    ``average`` is sorted. A run is its first and its last method, and has at least two.
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(average):
        last = max(i for i, other in enumerate(average) if other - rank < difference)
        if last > first and not (found and found[-1][1] >= last):
            found.append((first, last))
    return found


# -- figures -----------------------------------------------------------------------------------

BLUE, INK, SOFT = "#0b5c94", "#222222", "#8a8a8a"


def draw_ranks(axis: Any, results: Results) -> None:
    """Draw the critical-difference diagram: average ranks, and bars that join methods which
    Nemenyi's test does not tell apart."""
    average = results.ranks.mean(axis=0)
    order = np.argsort(average)
    count, gap = len(order), critical_difference(len(order), len(results.sets))
    axis.set(xlim=(-1.2, count + 2.2), ylim=(-0.6 - 0.42 * ((count + 1) // 2), 1.6))
    axis.axis("off")
    axis.hlines(0, 1, count, color=INK, linewidth=1)
    for rank in range(1, count + 1):
        axis.vlines(rank, 0, 0.1, color=INK, linewidth=1)
        axis.text(rank, 0.18, str(rank), ha="center", color=INK, fontsize=9)
    for place, method in enumerate(order):
        left = place < (count + 1) // 2
        level = -0.5 - 0.42 * (place if left else count - 1 - place)
        name, rank = results.ranked[method], average[method]
        color = BLUE if name == OURS else INK
        end = 0.8 if left else count + 0.2
        axis.plot([rank, rank, end], [0, level, level], color=color, linewidth=1)
        axis.text(
            end - 0.05 if left else end + 0.05,
            level,
            f"{name}  {rank:.2f}",
            ha="right" if left else "left",
            va="center",
            color=color,
            fontsize=9,
            weight="bold" if name == OURS else "normal",
        )
    for level, (first, last) in enumerate(cliques(average[order].tolist(), gap)):
        ends = average[order[first]] - 0.05, average[order[last]] + 0.05
        axis.hlines(-0.12 - 0.09 * level, *ends, color=INK, linewidth=3)
    axis.hlines(1.1, 1, 1 + gap, color=SOFT, linewidth=2)
    axis.text(1, 1.2, f"critical difference {gap:.2f}", color=SOFT, fontsize=9)


def draw_differences(axis: Any, results: Results) -> None:
    """Draw the difference of each method's CRPS to ours in every cell."""
    methods = [method for method in results.ordered if method != "last value"]
    for place, name in enumerate(results.sets):
        for row, method in enumerate(methods):
            for k in results.known(name):
                found = results.cell(method, name, k)
                if found is None:
                    continue
                shift = 0.7 * ((place + 0.5) / len(results.sets) - 0.5)
                beyond = found.low > 0 or found.high < 0
                x = min(100 * found.difference, FAR)
                axis.plot(
                    x, row + shift, ">" if x == FAR else "o", color=f"C{place}", markersize=5,
                    markerfacecolor=f"C{place}" if beyond else "white",
                )  # fmt: skip
        axis.plot([], [], "o", color=f"C{place}", label=name)
    axis.axvline(0, color=BLUE, linewidth=1.5)
    axis.set(yticks=range(len(methods)), xlabel="CRPS above Statecast's, %", ylim=(-0.6, None))
    axis.set_yticklabels(methods)
    axis.invert_yaxis()
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


FAR = 60.0  # differences above this, in %, are drawn there


def draw_sets(figure: Any, results: Results) -> None:
    """Draw CRPS against k, for each data set."""
    columns = 4
    axes = figure.subplots(-(-len(results.sets) // columns), columns, squeeze=False).ravel()
    for axis in axes[len(results.sets) :]:
        axis.axis("off")
    methods = [OURS, *(m for m in results.ordered if m != "last value")]
    for axis, name in zip(axes, results.sets, strict=False):
        for place, method in enumerate(methods):
            found = [(k, results.cell(method, name, k)) for k in results.known(name)]
            points = [(k, each.crps) for k, each in found if each is not None]
            style: dict[str, Any] = {"color": f"C{place}", "linewidth": 1}
            if method == OURS:
                style = {"color": BLUE, "linewidth": 2.5, "zorder": 3}
            ks, crps = zip(*points, strict=True) if points else ((), ())
            axis.plot(ks, crps, "o-", label=method, markersize=3, **style)
        axis.set(title=name, xlabel="k", ylabel="CRPS", xticks=results.known(name))
        axis.set_ylim(bottom=0)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)


def save_figures(results: Results, path: Path) -> None:
    """Draw the pictures of the page, next to it."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "statecast"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 8.5), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(2, 3))
    draw_ranks(above, results)
    draw_differences(below, results)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    rows = -(-len(results.sets) // 4)
    figure = Figure(figsize=(12, 3 * rows + 0.8), layout="constrained")
    draw_sets(figure, results)
    figure.savefig(path.with_name("accuracy-sets.svg"), metadata={"Date": None})


# -- the page ----------------------------------------------------------------------------------


def write_page(path: Path, texts: Mapping[str, str], folder: Path) -> None:
    """Write ``accuracy.md`` and its pictures from the results of ``path``.

    ``texts`` has the description of each method.
    """
    results = Results(read(path))
    if len(results.sets) < 2 or len(results.ranked) < 2:
        raise SystemExit(f"{path}: expected results of two data sets and two methods or more")
    page = folder / "accuracy.md"
    page.write_text("\n".join(lines_of(results, texts)) + "\n", encoding="utf-8")
    save_figures(results, page)


def number(value: float) -> str:
    return f"{value:.4f}".replace("0.", ".", 1)


def plural(count: int, name: str) -> str:
    return f"{count} {name}" + "s" * (count != 1)


def share(count: int, of: int) -> str:
    return f"{count} of {of}"


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def head(cells: Sequence[str]) -> list[str]:
    return [row(cells), "|" + "---|" * len(cells)]


def mean_difference(found: Sequence[Cell]) -> float:
    """The geometric mean of the ratios of CRPS to ours, less 1."""
    return float(np.expm1(np.mean([np.log1p(each.difference) for each in found])))


def covered(found: Sequence[Cell]) -> str:
    """How many cells have a coverage of 75 to 85 %."""
    known = [each.coverage for each in found if each.coverage is not None]
    if not known:
        return "point"
    inside = sum(0.75 <= each <= 0.85 for each in known)
    return f"{share(inside, len(known))} ({100 * min(known):.0f} to {100 * max(known):.0f})"


def summary_table(results: Results, methods: Sequence[str]) -> Iterator[str]:
    """Yield a row for each method, over all cells."""
    yield from head(
        ["", "average rank (95 %)", "cells", "Statecast better", "beyond chance: better, worse",
         "CRPS above Statecast's, mean", "coverage in 75 to 85 %",
         "CPU time of a fit, Statecast = 1"]
    )  # fmt: skip
    average = dict(zip(results.ranked, results.ranks.mean(axis=0), strict=True))
    ends = dict(zip(results.ranked, results.rank_intervals(), strict=True))
    for method in sorted(methods, key=lambda method: average.get(method, np.inf)):
        found = [each for cell in results.cells if (each := results.cell(method, *cell))]
        if not found:
            continue
        rank, ours = "-", method == OURS
        if method in average:
            low, high = ends[method]
            rank = f"{average[method]:.2f} ({low:.2f} to {high:.2f})"
        better = share(sum(each.difference > 0 for each in found), len(found))
        beyond = f"{sum(e.low > 0 for e in found)}, {sum(e.high < 0 for e in found)}"
        times = [
            (results.seconds(method, name), results.seconds(OURS, name)) for name in results.sets
        ]
        ratios = [theirs / own for theirs, own in times if theirs and own]
        cost = f"{np.exp(np.mean(np.log(ratios))):.2g}" if ratios else "below 0.01"
        yield row(
            [
                f"**{method}**" if ours else method,
                rank,
                str(len(found)),
                "" if ours else better,
                "" if ours else beyond,
                "" if ours else f"{100 * mean_difference(found):+.1f} %",
                covered(found),
                "1" if ours else cost,
            ]
        )


def verdicts(results: Results) -> Iterator[str]:
    """Yield sentences on all cells."""
    best = {}
    for cell in results.cells:
        found = {m: each for m in results.methods if (each := results.cell(m, *cell))}
        name = min(found, key=lambda method: found[method].difference)
        best[cell] = (name, found[name])
    lowest = sum(each.difference >= 0 for _, each in best.values())
    near = sum(-0.01 <= each.difference < 0 for _, each in best.values())
    yield (
        f"In {share(lowest, len(best))} cells no other method has a lower CRPS than Statecast; in "
        f"{near} more the best of the others is within 1 %. "
    )
    worse = [
        f"{name} at k = {k} ({method}, {100 * each.difference:+.1f} %)"
        for (name, k), (method, each) in best.items()
        if each.difference < -0.01
    ]
    if worse:
        yield f"Another method is more than 1 % better on {', '.join(worse)}. "
    lost = [
        f"{name} at k = {k} ({method})"
        for (name, k), (method, each) in best.items()
        if each.high < 0
    ]
    yield (
        f"The difference is beyond chance on {', '.join(lost)}."
        if lost
        else "In no cell is the best of the others better beyond chance."
    )


def lines_of(results: Results, texts: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of the page."""
    cells, sets = results.cells, results.sets
    seeds = results.frame.filter(method=OURS)["seed"].n_unique()
    used = "One seed was" if seeds == 1 else f"{seeds} seeds were"
    value, p = friedman(results.ranks.mean(axis=0).tolist(), len(sets))
    yield from (
        "# How accurate",
        "",
        f"Forecasts of items that were not in training, on {len(sets)} data sets, from the static",
        "features and the first k observations. A cell is a data set and a k. Statecast has its",
        "default settings. Smaller ranks and smaller CRPS are better.",
        "",
        *summary_table(results, [OURS, *results.ordered]),
        "",
        "![Average ranks, and the difference of CRPS in every cell](accuracy.svg)",
        "",
        *textwrap.wrap("".join(verdicts(results)), 100, break_on_hyphens=False),
        "",
        *textwrap.wrap(
            "Above: average ranks; a bar joins methods that Nemenyi's test does not tell apart at "
            "5 %. With few data sets this test tells only large differences. Friedman's test that "
            f"all methods are equal: F = {value:.1f}, p = {p:.2g}. Below: a point is a cell. It is "
            f"filled if the difference is beyond chance. An arrow is above {FAR:.0f} %.",
            100,
        ),
        "",
        "## How it was measured",
        "",
        *textwrap.wrap(
            "Each fold is forecast by a fit on the other folds. The number of folds that were "
            f"forecast is below the name of each set. {used} "
            "used for Statecast; the scores of a method are averaged over its seeds. A method "
            "without an average rank forecast fewer folds, or gives no quantiles; it is compared "
            "with Statecast on the same items. The measures are "
            "[defined](how_to/evaluate.md#the-measures): CRPS is the mean weighted quantile "
            "loss of nine levels, WAPE the weighted absolute error of the median, and coverage "
            "the share of values in the 80 % interval. *Beyond chance* means that the 95 % "
            "interval of the difference excludes 0: a paired bootstrap over items (the years of"
            " one basin are one item, and so are the accident years of one company). It does "
            "not include the uncertainty from the training set and the seed. The interval of an"
            " average rank is from a bootstrap over data sets. The tests of Friedman and "
            "Nemenyi (Demsar 2006) take the data sets, and not the cells, as independent. The "
            "CPU time of a fit was measured on a busy machine. For the baselines of "
            "`statecast.evaluate` it includes the "
            "forecasts, because they fit a model for each k when they forecast.",
            100,
        ),
        "",
        *(f"- {name}: {texts[name]}." for name in (OURS, *results.ordered) if name in texts),
        "",
        *textwrap.wrap(
            "No method was tuned to a data set. The methods of other libraries see log1p(y) if the "
            f"data are skewed, and are trained on at most {MOST:,} items. Written by "
            "`benchmarks/accuracy.py`, whose results file has the sums of every item.",
            100,
        ),
        "",
        "![CRPS against k](accuracy-sets.svg)",
        "",
    )
    for name in sets:
        yield from set_lines(results, name, [OURS, *results.ordered])
    yield from ("## Other settings", "")
    if results.variants:
        yield from (
            "Statecast with other settings, compared with the defaults on the same items.",
            "",
        )
        yield from summary_table(results, results.variants)
        yield ""
        for name in sets:
            if any(results.cell(v, name, k) for v in results.variants for k in results.known(name)):
                yield from (f"{name}:", "", *difference_table(results, name, results.variants), "")
    else:
        yield from ("Not measured.", "")
    yield from ("## Not measured", "")
    gaps = []
    for method in texts:
        missing = [
            name for name in sets if not any(results.cell(method, name, k) for _, k in cells)
        ]
        if missing:
            where = "all sets" if len(missing) == len(sets) else ", ".join(missing)
            gaps.append(f"- {method}: {where}.")
    yield from gaps or ["Every method was measured on every set."]


def set_lines(results: Results, name: str, methods: Sequence[str]) -> Iterator[str]:
    """Yield the tables of a data set."""
    own = results.frame.filter(set=name, method=OURS)
    counts = own.select(pl.col("fold", "seed").n_unique()).row(0)
    items = results.cell(OURS, name, results.known(name)[0])
    yield from (f"## {name}", "")
    if items is not None:
        yield f"{items.items:,} test items or groups of them, {plural(counts[0], 'fold')}, " + (
            f"{plural(counts[1], 'seed')}."
        )
        yield ""
    yield "CRPS, and its difference to Statecast's in % with the 95 % interval:"
    yield from ("", *difference_table(results, name, methods), "")
    yield "WAPE of the median / coverage of the 80 % interval in %, and the CPU seconds of a fit:"
    yield ""
    known = results.known(name)
    yield from head(["", *(f"k = {k}" for k in known), "CPU s"])
    for method in methods:
        found = [results.cell(method, name, k) for k in known]
        if any(found):
            seconds = results.seconds(method, name)
            yield row([method, *map(_wape, found), f"{seconds:.0f}"])
    yield ""


def difference_table(results: Results, name: str, methods: Sequence[str]) -> Iterator[str]:
    """Yield CRPS and its difference to ours, by k."""
    known = results.known(name)
    yield from head(["", *(f"k = {k}" for k in known)])
    for method in methods:
        found = [results.cell(method, name, k) for k in known]
        if any(found):
            yield row([method, *(_crps(each, method == OURS) for each in found)])


def _crps(cell: Cell | None, ours: bool) -> str:
    if cell is None:
        return "-"
    difference, low, high = (100 * each for each in (cell.difference, cell.low, cell.high))
    text = number(cell.crps)
    return text if ours else f"{text}, {difference:+.1f} ({low:+.1f} to {high:+.1f})"


def _wape(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{number(cell.wape)} / " + (
        "-" if cell.coverage is None else f"{100 * cell.coverage:.0f}"
    )
