"""Loss reserves: ultimate losses of insurance companies, beside chain ladder and published results.

Run it from the root of the repository (about an hour for everything)::

    .venv/bin/python benchmarks/reserving.py [--cases CASE ...] [--seeds SEED ...]

The data are the 50 companies in each of four lines of the Schedule P data (Meyers and Shi 2011)
that Kuo (2019), DeepTriangle: A deep learning approach to loss reserving, Risks 7(3):97, selected:
``series.csv`` and ``static.csv`` of ``--folder`` (by default ``../shared/data/reserving``). An item
is an accident year of a company in a line, a step is a development year, and y is the incremental
paid loss over the earned premium. A group is a company in a line: its accident years depend on each
other, as the forecasts from an earlier calendar year show.

The protocol is that of the paper. The observations up to calendar year 1997 are known, so that the
accident years 1988 to 1997 have prefixes of 10 to 1 development years. The forecast is the ultimate
loss of each company and line: the sum over accident years of premium times y over ten development
years. MAPE and RMSPE are the mean absolute and the root mean squared relative error over the
companies of a line.

The results, a row for each case, seed, line and company, are appended to ``build/reserving.csv``
as each case ends. A case that the file has is not repeated without ``--again``. The table in
``docs/reserving.md`` is written from the file; ``--page`` does this without measuring.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from statecast import Forecaster
from statecast.errors import DataWarning

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data" / "reserving"
RESULTS = ROOT / "build" / "reserving.csv"
PAGE = ROOT / "docs" / "reserving.md"
BEGIN, END = "<!-- results: written by benchmarks/reserving.py -->", "<!-- end of the results -->"
LAST, STEPS, PATHS = 1997, 10, 500
LINES = {
    "commercial_auto": "commercial auto",
    "other_liability": "other liability",
    "private_passenger_auto": "private auto",
    "workers_compensation": "workers' compensation",
}
FEATURES = ("line", "company", "accident_year", "log_premium")
MACK = "Mack's chain ladder"
# Settings of the forecaster by what it knows of outstanding losses.
OUTSTANDING: Mapping[str, dict[str, Any]] = {
    "paid losses only": {},
    "outstanding as past covariate": {"past_cols": ["outstanding"]},
    "outstanding as second target": {"target_col": ["y", "outstanding"]},
}
FITS = ("one fit for all lines", "one fit for each line")
CASES = (MACK, *(f"{name}, {fit}" for name in OUTSTANDING for fit in FITS))
# MAPE and RMSPE by line, in the order of `LINES`, as printed in Kuo (2019).
PRINTED = {
    "DeepTriangle (printed)": ((0.043, 0.057), (0.109, 0.150), (0.025, 0.039), (0.046, 0.067)),
    "AutoML (printed)": ((0.068, 0.096), (0.142, 0.181), (0.036, 0.059), (0.067, 0.099)),
}
COLUMNS = ("case", "seed", "line", "company", "seconds", "truth", "low", "forecast", "high")
# By line and company: the 10 % quantile, the forecast (of Statecast the median), the 90 % quantile.
Ultimates = dict[tuple[str, str], tuple[float, float, float]]


# -- the forecasts -----------------------------------------------------------------------------


def known(series: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that are known at the end of the last calendar year."""
    return series.filter(pl.col("calendar_year") <= LAST)


def statecast(
    series: pl.DataFrame, static: pl.DataFrame, seed: int, settings: Mapping[str, Any]
) -> Ultimates:
    """Return the quantiles of the ultimate of each company, from joint sample paths."""
    columns = ["unique_id", "ds", "y", *(["outstanding"] if settings else [])]
    seen = known(series).select(columns)
    several = static["line"].n_unique() > 1
    static = static.with_columns(
        group=pl.concat_str("line", "company", separator="-"), origin="accident_year"
    )
    features = FEATURES if several else FEATURES[1:]
    forecaster = Forecaster(seed=seed, group_col="group", origin_col="origin", **settings)
    forecaster.fit(seen, static.select("unique_id", *features, "group", "origin"), verbose=0)
    target = "" if isinstance(forecaster.settings.target_col, str) else "-y"
    totals = forecaster.predict_total(
        seen,
        static.select("unique_id", *FEATURES, "group", "premium"),
        until=STEPS,
        by=["line", "company"],
        since=1,
        weight="premium",
        level=80,
        paths=PATHS,
    )
    quantiles = [f"statecast{target}{bound}" for bound in ("-lo-80", "", "-hi-80")]
    rows = totals.select("line", "company", *quantiles).iter_rows()
    return {(line, company): (low, middle, high) for line, company, low, middle, high in rows}


def mack(paid: np.ndarray) -> tuple[float, float]:
    """Return the ultimate of a triangle, and its standard error.

    Mack (1993), Distribution-free calculation of the standard error of chain ladder reserve
    estimates, ASTIN Bulletin 23(2): volume-weighted development factors.

    Parameters
    ----------
    paid : array, ``(n, n)``
        Cumulative losses by accident year and development year, NaN where unknown.
    """
    n = len(paid)
    full, factor, variance = paid.copy(), np.ones(n - 1), np.zeros(n - 1)
    for j in range(n - 1):
        now, after = paid[: n - 1 - j, j], paid[: n - 1 - j, j + 1]
        if now.sum() > 0:
            factor[j] = after.sum() / now.sum()
        used = now > 0
        if used.sum() > 1:
            error = after[used] / now[used] - factor[j]
            variance[j] = (now[used] * error**2).sum() / (used.sum() - 1)
    if variance[-3] > 0:  # the last one has a single ratio
        variance[-1] = min(variance[-2] ** 2 / variance[-3], variance[-3], variance[-2])
    for i in range(1, n):
        for j in range(n - 1 - i, n - 1):
            full[i, j + 1] = full[i, j] * factor[j]
    ultimate, total = full[:, -1], 0.0
    for i in range(1, n):
        later = ultimate[i + 1 :].sum()
        for j in range(n - 1 - i, n - 1):
            scale = variance[j] / factor[j] ** 2 if factor[j] else 0.0
            below = paid[: n - 1 - j, j].sum()
            own = ultimate[i] ** 2 * scale * (1 / full[i, j] if full[i, j] > 0 else 0.0)
            shared = ultimate[i] * (ultimate[i] + 2 * later) * scale
            total += own + (shared / below if below > 0 else 0.0)
    return float(ultimate.sum()), math.sqrt(max(total, 0.0))


def chain_ladder(series: pl.DataFrame, static: pl.DataFrame) -> Ultimates:
    """Return Mack's forecasts.

    The interval of the reserve is that of a log-normal distribution with its mean and standard
    error, as Mack proposed.
    """
    found: Ultimates = {}
    table = known(series).join(static, on="unique_id")
    for key, part in table.partition_by("line", "company", as_dict=True).items():
        paid = np.full((STEPS, STEPS), np.nan)
        year = part["accident_year"].to_numpy() - (LAST - STEPS + 1)
        paid[year, part["ds"].to_numpy() - 1] = (part["y"] * part["premium"]).to_numpy()
        paid = np.cumsum(paid, axis=1)
        ultimate, error = mack(paid)
        latest = float(np.nansum(paid[np.arange(STEPS), STEPS - 1 - np.arange(STEPS)]))
        reserve = ultimate - latest
        if reserve > 0:
            spread = math.sqrt(math.log1p((error / reserve) ** 2))
            middle = math.log(reserve) - spread**2 / 2
            low, high = (latest + math.exp(middle + z * spread) for z in (-1.2816, 1.2816))
        else:
            low, high = ultimate - 1.2816 * error, ultimate + 1.2816 * error
        found[str(key[0]), str(key[1])] = low, ultimate, high
    return found


def truths(series: pl.DataFrame, static: pl.DataFrame) -> dict[tuple[str, str], float]:
    """Return the ultimate of each line and company, when all is known."""
    table = series.join(static, on="unique_id").group_by("line", "company")
    table = table.agg((pl.col("y") * pl.col("premium")).sum())
    return {(line, company): total for line, company, total in table.iter_rows()}


def forecasts(case: str, seed: int, series: pl.DataFrame, static: pl.DataFrame) -> Ultimates:
    """Return the forecasts of a case."""
    if case == MACK:
        return chain_ladder(series, static)
    name, fit = case.rsplit(", ", 1)
    if fit == FITS[0]:
        return statecast(series, static, seed, OUTSTANDING[name])
    found: Ultimates = {}
    for line in LINES:
        part = static.filter(line=line)
        own = series.join(part, on="unique_id", how="semi")
        found |= statecast(own, part, seed, OUTSTANDING[name])
    return found


# -- the results and the page ------------------------------------------------------------------


def read(path: Path) -> pl.DataFrame:
    """Return the results; of repeated rows the last."""
    if not path.exists():
        return pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.String))
    return pl.read_csv(path).unique(["case", "seed", "line", "company"], keep="last")


def scores(found: pl.DataFrame) -> pl.DataFrame:
    """Return MAPE, RMSPE and the coverage of the 80 % interval: means over seeds, by line."""
    error = pl.col("forecast") / pl.col("truth") - 1
    inside = pl.col("truth").is_between("low", "high")
    each = found.group_by("case", "seed", "line").agg(
        mape=error.abs().mean(), rmspe=(error**2).mean().sqrt(), coverage=inside.mean()
    )
    return each.group_by("case", "line").agg(
        pl.col("mape", "rmspe", "coverage").mean(), seeds=pl.col("seed").n_unique()
    )


def lines_of(found: pl.DataFrame) -> Iterator[str]:
    """Yield the lines of the table."""
    by = {(row["case"], row["line"]): row for row in scores(found).iter_rows(named=True)}
    yield "| | " + " | ".join(LINES.values()) + " | seeds | CPU s |"
    yield "|---" * (len(LINES) + 3) + "|"
    for name, printed in PRINTED.items():
        cells = [f"{number(mape)} / {number(rmspe)}" for mape, rmspe in printed]
        yield f"| {name} | " + " | ".join(cells) + " | | |"
    for case in CASES:
        if (case, next(iter(LINES))) not in by:
            continue
        rows = [by[case, line] for line in LINES]
        cells = [
            f"{number(row['mape'])} / {number(row['rmspe'])} / {100 * row['coverage']:.0f}"
            for row in rows
        ]
        seconds = found.filter(case=case).group_by("seed").agg(pl.col("seconds").first())
        took = seconds["seconds"].mean()
        name = case if case == MACK else f"Statecast: {case}"
        yield f"| {name} | " + " | ".join(cells) + f" | {rows[0]['seeds']} | {took:.0f} |"


def number(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def write_page(found: pl.DataFrame) -> None:
    """Write the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    table = "\n".join(lines_of(found))
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=SHARED)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="repeat what the results have, too")
    parser.add_argument("--page", action="store_true", help="measure nothing; write the table")
    asked = parser.parse_args()
    if not asked.page:
        warnings.simplefilter("ignore", DataWarning)  # years and codes are numbers
        series, static = (pl.read_csv(asked.folder / f"{n}.csv") for n in ("series", "static"))
        truth = truths(series, static)
        done = set() if asked.again else set(read(asked.results).select("case", "seed").rows())
        for seed in asked.seeds:
            for case in asked.cases:
                if (case, seed) in done or (case == MACK and seed != asked.seeds[0]):
                    continue
                begin = time.process_time()
                found = forecasts(case, seed, series, static)
                took = f"{time.process_time() - begin:.1f}"
                rows = [[case, seed, *key, took, truth[key], *found[key]] for key in sorted(found)]
                asked.results.parent.mkdir(exist_ok=True)
                new = not asked.results.exists()
                with asked.results.open("a", newline="") as file:
                    csv.writer(file).writerows([COLUMNS, *rows] if new else rows)
                measured = read(asked.results).filter(case=case, seed=seed)
                print(case, seed, f"{took} CPU s", scores(measured).sort("line"), flush=True)
    write_page(read(asked.results))


if __name__ == "__main__":
    main()
