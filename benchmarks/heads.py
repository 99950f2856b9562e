"""When a head pays: the quantiles head and the fitting one on counts, shares, prices and real data.

    KERAS_BACKEND=jax .venv/bin/python benchmarks/heads.py [data ...]

The made-up data are of the kinds named, drawn from a seed: daily sales of slow articles (many
zeros, now and then dozens), sales of shops that are shut on some days (zero, or well above it),
shares of a quota used (a beta distribution whose mean walks), prices with heavy-tailed returns, and
sensors with outliers. Each has 600 items of 24 steps with a number and a category as static
features; every fourth item is held out. `broadway` and `growth` are fold 0 of the shared data. All
runs have the default settings but for the head, and one seed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl

from statecast import Forecaster
from statecast.evaluate.scores import LEVELS, score

ITEMS, STEPS, KNOWN = 600, 24, (0, 3)


def sales(rng: np.random.Generator, effect: np.ndarray) -> np.ndarray:
    rate = np.exp(effect - 1.0 + rng.normal(0, 0.7, (ITEMS, 1)))
    rate = rate * np.exp(0.5 * np.sin(np.arange(STEPS) / 3.0))
    return rng.negative_binomial(0.6, 0.6 / (0.6 + rate)).astype(float)


def closures(rng: np.random.Generator, effect: np.ndarray) -> np.ndarray:
    rate = np.exp(2.0 + effect + rng.normal(0, 0.3, (ITEMS, 1)))
    shut = rng.random((ITEMS, STEPS)) < rng.beta(4, 6, (ITEMS, 1))
    return np.where(shut, 0.0, rng.poisson(rate, (ITEMS, STEPS)))


def shares(rng: np.random.Generator, effect: np.ndarray) -> np.ndarray:
    logit = effect + rng.normal(0, 0.8, (ITEMS, 1)) + rng.normal(0, 0.25, (ITEMS, STEPS)).cumsum(1)
    mean = 1.0 / (1.0 + np.exp(-logit - 0.06 * np.arange(STEPS)))
    return rng.beta(15 * mean, 15 * (1 - mean)).round(3)


def prices(rng: np.random.Generator, effect: np.ndarray) -> np.ndarray:
    returns = 0.03 * rng.standard_t(3, (ITEMS, STEPS))
    return np.exp(3.0 + effect + rng.normal(0, 0.5, (ITEMS, 1)) + returns.cumsum(axis=1)).round(2)


def sensors(rng: np.random.Generator, effect: np.ndarray) -> np.ndarray:
    level = 2.0 * effect + rng.normal(0, 0.5, (ITEMS, 1)) + np.sin(np.arange(STEPS) / 4.0)
    return level + 0.3 * rng.standard_t(2.2, (ITEMS, STEPS))


MADE = {
    "sales": sales,
    "closures": closures,
    "shares": shares,
    "prices": prices,
    "sensors": sensors,
}
HEADS = {
    "sales": ({}, {"transform": "counts"}, {"head": "negative_binomial"}, {"head": "poisson"}),
    "closures": ({}, {"transform": "counts"}, {"head": "negative_binomial"}, {"head": "poisson"}),
    "shares": ({}, {"transform": "logit"}, {"head": "logitnormal"}),
    "prices": (
        {},
        {"transform": "positive"},
        {"head": "lognormal"},
        {"head": "student_t", "transform": "positive"},
    ),
    "sensors": ({}, {"head": "normal"}, {"head": "student_t"}),
    "broadway": ({}, {"transform": "positive"}, {"head": "lognormal"}, {"head": "student_t"}),
    "growth": ({}, {"head": "normal"}, {"head": "student_t"}),
}


def tables(name: str) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Series, static features and the ids held out."""
    if name not in MADE:
        place = Path(__file__).parents[2] / "shared" / "data" / name
        series, static, folds = (
            pl.read_csv(place / f"{kind}.csv", infer_schema_length=None)
            for kind in ("series", "static", "folds")
        )
        return series, static, folds.filter(pl.col("fold") == 0).select("unique_id")
    rng = np.random.default_rng(7)
    size, kind = rng.normal(size=ITEMS), rng.integers(0, 5, ITEMS)
    effect = 0.5 * size + np.array([-0.8, -0.3, 0.0, 0.4, 0.9])[kind]
    y = MADE[name](rng, effect[:, None])
    ids = np.arange(ITEMS)
    series = pl.DataFrame(
        {
            "unique_id": ids.repeat(STEPS),
            "ds": np.tile(np.arange(1, STEPS + 1), ITEMS),
            "y": y.ravel(),
        }
    )
    static = pl.DataFrame({"unique_id": ids, "size": size, "kind": kind.astype(str)})
    return series, static, pl.DataFrame({"unique_id": ids[::4]})


def main(names: list[str]) -> None:
    """Print a row a data set, head and k."""
    for name in names:
        series, static, out = tables(name)
        test, who = (t.join(out, on="unique_id") for t in (series, static))
        train = series.join(out, on="unique_id", how="anti")
        for settings in HEADS[name]:
            f = Forecaster(seed=0, **settings).fit(train, static, verbose=0)
            panel = f.schema.panel(test, who)
            truth = np.full(panel.mask.shape, np.nan)
            at = {item: row for row, item in enumerate(panel.ids.tolist())}
            for item, step, value in test.select("unique_id", "ds", "y").drop_nulls().rows():
                truth[at[item], int(step) - 1] = value
            for k in KNOWN:
                values = f.quantiles(panel.prefix(k), truth.shape[1], LEVELS)
                s = score(truth[:, k:], values[:, k:])
                label = ", ".join(settings.values()) or "quantiles (default)"
                coverage = 100 * (s.coverage or 0.0)
                print(
                    f"| {name} | {label} | {k} | {s.wape:.4f} | {s.crps:.4f} | {coverage:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main(sys.argv[1:] or list(HEADS))
