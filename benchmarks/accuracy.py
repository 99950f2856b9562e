"""The forecaster's accuracy beside its peers, and the effect of each of its parts.

Run it from the root of the repository (hours, if everything is to be measured)::

    .venv/bin/python benchmarks/accuracy.py

Data are read from ``../shared/data`` (``--folder`` names another place); growth is part of the
package. The peers, ``pip install 'statecast[peers]'``, may live in a virtual environment of their
own: ``--python`` names its interpreter. What is measured is kept in ``build/accuracy.json``, and
what is there already is not measured again but with ``--again``; so a run may be broken off, and
its parts asked for by ``--data``, ``--methods`` and ``--seeds``. It writes ``docs/accuracy.md``.

Every peer is given what its documentation offers for the task, as said in ``PEERS``. They see y
as ``log1p(y)`` where the data are skewed, standardised by the mean and deviation of all training
values; and before step 1 a step 0 with the value 0, without which none of them could be asked at
k = 0. What comes after an item's end, and gaps, is filled with the last value and does not count
in their loss.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "accuracy.md"
KNOWN = (0, 1, 3, 5)
LEVELS = tuple(round(0.1 * i, 1) for i in range(1, 10))
# Per data set: where it is, which folds are forecast, and whether the peers see logarithms.
DATA: Mapping[str, tuple[str, tuple[int, ...], bool]] = {
    "growth": ("growth", (0,), False),
    "growth, five folds": ("growth", (0, 1, 2, 3, 4), False),
    "broadway": ("broadway", (0,), True),
    "streamflow": ("streamflow", (0,), True),
}
MOST = 3000  # training items for a neural peer: more would take them hours
FEW = 10  # categories, for a 0/1 column each where a peer takes numbers alone

Forecasts = dict[int, np.ndarray]  # by k: quantiles (items, steps, levels), in original units


# -- the peers, each in a process of its own, which need not have Statecast -------------------


def deepar(job: Mapping[str, Any], seed: int) -> tuple[Forecasts, float]:
    """One model for all k; a sample path a draw."""
    import torch
    from gluonts.dataset.common import ListDataset
    from gluonts.torch.model.deepar import DeepAREstimator
    from gluonts.transform import ExpectedNumInstanceSampler
    from lightning import seed_everything

    seed_everything(seed)
    steps, longest = job["z"].shape[1] - 1, 7
    cards = job["cards"].tolist()

    def dataset(z: np.ndarray, real: np.ndarray, codes: np.ndarray) -> Any:
        rows = []
        for y, x, code in zip(z, real, codes, strict=True):
            row: dict[str, Any] = {"start": "2000-01-01", "target": y}
            if len(x):
                row["feat_static_real"] = x
            if len(code):
                row["feat_static_cat"] = code
            rows.append(row)
        return ListDataset(rows, freq="D")

    # Missing values at the end let windows begin anywhere in the first steps.
    padded = np.pad(job["z"], ((0, 0), (0, longest)), constant_values=np.nan)
    estimator = DeepAREstimator(
        freq="D",
        prediction_length=steps,
        context_length=longest + 1,
        num_layers=2,
        hidden_size=40,
        num_feat_static_real=job["real"].shape[1],
        num_feat_static_cat=len(cards),
        cardinality=cards or None,
        scaling=False,
        lags_seq=[1],
        time_features=[],
        batch_size=64,
        num_batches_per_epoch=50,
        train_sampler=ExpectedNumInstanceSampler(num_instances=1.0, min_past=1, min_future=steps),
        trainer_kwargs={"max_epochs": 20, **QUIET, "enable_checkpointing": True},
    )
    begin = time.process_time()
    predictor = estimator.train(dataset(padded, job["real"], job["codes"]))
    took = time.process_time() - begin
    found = {}
    for k in KNOWN:
        asked = dataset(job["z_test"][:, : k + 1], job["real_test"], job["codes_test"])
        torch.manual_seed(seed)
        paths = [each.samples for each in predictor.predict(asked, num_samples=100)]
        found[k] = np.stack([np.quantile(p, LEVELS, axis=0).T for p in paths])[:, : steps - k]
    return found, took


def neuralforecast(name: str, job: Mapping[str, Any], seed: int) -> tuple[Forecasts, float]:
    """One model per k: the prefix is its input, the rest its horizon."""
    import pandas as pd
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import MQLoss
    from neuralforecast.models import LSTM, TFT

    steps = job["z"].shape[1] - 1

    def frames(z: np.ndarray, real: np.ndarray, codes: np.ndarray) -> tuple[Any, Any]:
        n, width = z.shape
        series = {
            "unique_id": np.repeat(np.arange(n), width),
            "ds": np.tile(np.arange(width), n),
            "y": _filled(z).ravel(),
            "available_mask": (~np.isnan(z)).astype("float32").ravel(),
            "age": np.tile(np.arange(width) / steps, n),
        }
        static = {f"x{i}": x for i, x in enumerate(real.T)}
        for column, count in enumerate(job["cards"].tolist()):
            if count <= FEW:
                static |= {f"c{column}_{c}": codes[:, column] == c for c in range(1, count)}
        table = pd.DataFrame(static).astype("float32")
        table.insert(0, "unique_id", np.arange(n))
        return pd.DataFrame(series), table

    took, found = 0.0, {}
    for k in KNOWN:
        train, static = frames(job["z"], job["real"], job["codes"])
        test, static_test = frames(job["z_test"], job["real_test"], job["codes_test"])
        names = [column for column in static.columns if column != "unique_id"]
        own = {"encoder_hidden_size": 64} if name == "LSTM" else {"hidden_size": 64}
        model = {"LSTM": LSTM, "TFT": TFT}[name](
            h=steps - k,
            input_size=k + 1,
            stat_exog_list=names or None,
            futr_exog_list=["age"],
            loss=MQLoss(quantiles=list(LEVELS)),
            scaler_type="identity",
            step_size=steps + 1,  # windows begin at step 0 alone, as they will be asked for
            max_steps=400,
            batch_size=64,
            windows_batch_size=64,
            random_seed=seed + 1,
            **own,
            **QUIET,
        )
        forecaster = NeuralForecast(models=[model], freq=1)
        begin = time.process_time()
        forecaster.fit(train, static_df=static if names else None, val_size=0)
        took += time.process_time() - begin
        answer = forecaster.predict(
            df=test[test["ds"] <= k],
            static_df=static_test if names else None,
            futr_df=test.loc[test["ds"] > k, ["unique_id", "ds", "age"]],
        ).reset_index(drop=True)
        columns = [c for c in answer.columns if c not in ("unique_id", "ds", "index")]
        answer = answer.sort_values(["unique_id", "ds"])
        values = answer[columns].to_numpy().reshape(len(job["z_test"]), steps - k, len(LEVELS))
        found[k] = np.sort(values, axis=-1)
    return found, took


def pytorch_forecasting(job: Mapping[str, Any], seed: int) -> tuple[Forecasts, float]:
    """One model per k, stopped by a tenth of the training items."""
    import pandas as pd
    from lightning.pytorch import Trainer, seed_everything
    from lightning.pytorch.callbacks import EarlyStopping
    from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet
    from pytorch_forecasting.data import NaNLabelEncoder, TorchNormalizer
    from pytorch_forecasting.metrics import QuantileLoss

    steps = job["z"].shape[1] - 1

    def frame(part: str, until: int = steps) -> Any:
        z = np.where(np.arange(steps + 1) <= until, job["z" + part], np.nan)
        n, width = z.shape
        data = {
            "item": np.repeat(np.arange(n), width).astype(str),
            "step": np.tile(np.arange(width), n),
            "y": _filled(z).ravel().astype("float32"),
            "weight": (~np.isnan(z)).astype("float32").ravel(),
        }
        data |= {f"x{i}": np.repeat(x, width) for i, x in enumerate(job["real" + part].T)}
        codes = job["codes" + part].T
        data |= {f"c{i}": np.repeat(c, width).astype(str) for i, c in enumerate(codes)}
        return pd.DataFrame(data)

    table = frame("")
    categories = [c for c in table.columns if c.startswith("c")]
    held = np.isin(
        table["item"],
        np.random.default_rng(seed).permutation(table["item"].unique())[
            : max(8, len(job["z"]) // 10)
        ],
    )
    took, found = 0.0, {}
    for k in KNOWN:
        seed_everything(seed)
        training = TimeSeriesDataSet(
            table[~held],
            time_idx="step",
            target="y",
            group_ids=["item"],
            weight="weight",
            min_encoder_length=k + 1,
            max_encoder_length=k + 1,
            min_prediction_length=steps - k,
            max_prediction_length=steps - k,
            static_reals=[c for c in table.columns if c.startswith("x")],
            static_categoricals=categories,
            time_varying_known_reals=["step"],
            time_varying_unknown_reals=["y"],
            target_normalizer=TorchNormalizer(method="identity"),
            categorical_encoders={c: NaNLabelEncoder(add_nan=True) for c in ["item", *categories]},
        )
        validation = TimeSeriesDataSet.from_dataset(training, table[held])
        test = TimeSeriesDataSet.from_dataset(training, frame("_test", k))
        begin = time.process_time()
        model = TemporalFusionTransformer.from_dataset(
            training,
            learning_rate=5e-3,
            hidden_size=32,
            attention_head_size=2,
            dropout=0.1,
            hidden_continuous_size=16,
            loss=QuantileLoss(list(LEVELS)),
            output_size=len(LEVELS),
        )
        batch = 64
        trainer = Trainer(
            max_steps=500,
            max_epochs=-1,
            val_check_interval=None,
            check_val_every_n_epoch=max(1, 50 * batch // int((~held).sum() // (steps + 1))),
            gradient_clip_val=0.1,
            callbacks=[EarlyStopping("val_loss", patience=4)],
            **QUIET,
        )
        trainer.fit(
            model,
            training.to_dataloader(train=True, batch_size=batch),
            validation.to_dataloader(train=False, batch_size=512),
        )
        took += time.process_time() - begin
        answer = model.predict(
            test.to_dataloader(train=False, batch_size=512),
            mode="quantiles",
            return_index=True,
            trainer_kwargs=dict(QUIET),  # which it changes
        )
        order = np.argsort(answer.index["item"].astype(int).to_numpy())
        found[k] = np.sort(answer.output.cpu().numpy()[order], axis=-1)
    return found, took


QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
}
PEERS: Mapping[str, tuple[str, Callable[..., tuple[Forecasts, float]], str]] = {
    "GluonTS DeepAR": (
        "gluonts",
        deepar,
        "one model for all k, trained on prefixes up to 7; 2 layers of 40, Student's t, "
        "1,000 updates of 64, 100 paths",
    ),
    "NeuralForecast LSTM": (
        "neuralforecast",
        partial(neuralforecast, "LSTM"),
        "one model per k; 2 layers of 64, its direct decoder, 400 updates of 64",
    ),
    "NeuralForecast TFT": (
        "neuralforecast",
        partial(neuralforecast, "TFT"),
        "one model per k; width 64, 400 updates of 64",
    ),
    "PyTorch-Forecasting TFT": (
        "pytorch_forecasting",
        pytorch_forecasting,
        "one model per k; width 32, up to 500 updates of 64, stopped by a tenth of the items",
    ),
}


def _filled(z: np.ndarray) -> np.ndarray:
    """The last value where there is none; step 0 always has one."""
    at = np.where(np.isnan(z), 0, np.arange(z.shape[1]))
    return np.take_along_axis(z, np.maximum.accumulate(at, axis=1), axis=1)


def answer_job(name: str, folder: Path, seed: int) -> None:
    """What a peer's process does."""
    import logging

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with np.load(folder / "job.npz") as arrays:
        found, took = PEERS[name][1](dict(arrays), seed)
    arrays = {str(k): values.astype("float32") for k, values in found.items()}
    np.savez(folder / "answer.npz", seconds=np.array(took), **arrays)


# -- the data ---------------------------------------------------------------------------------


class Fold:
    """A data set's training and test tables, and the same as arrays for the peers."""

    def __init__(self, folder: Path, fold: int) -> None:
        import polars as pl

        # Integers from 1 and features: text where it is text, "NA" included.
        series, static, folds = (
            pl.read_csv(folder / f"{name}.csv", null_values=[""])
            for name in ("series", "static", "folds")
        )
        series = series.select("unique_id", "ds", "y")
        static = static.select(c for c in static.columns if not c.startswith("meta_"))
        old, new = folds.filter(pl.col("fold") != fold), folds.filter(pl.col("fold") == fold)
        self.train, self.test = (
            tuple(table.join(part, on="unique_id", how="semi") for table in (series, static))
            for part in (old, new)
        )
        self.steps = int(series["ds"].max())
        self.truth = self._array(*self.test)

    def _array(self, series: Any, static: Any) -> np.ndarray:
        """y, ``(items, steps)``, NaN where nothing was observed; items as in the static table."""
        row = {item: i for i, item in enumerate(static["unique_id"].to_list())}
        y = np.full((len(row), self.steps), np.nan)
        at = [row[item] for item in series["unique_id"].to_list()]
        y[at, series["ds"].to_numpy() - 1] = series["y"].to_numpy()
        return y

    def job(self, logged: bool, seed: int) -> tuple[dict[str, np.ndarray], Callable[..., Any]]:
        """What a peer is given, and the way back from its scale."""
        import polars as pl

        y = self._array(*self.train)
        rows = np.sort(np.random.default_rng(seed).permutation(len(y))[:MOST])
        y = y[rows]
        values = np.log1p(y) if logged else y
        mean, deviation = np.nanmean(values), np.nanstd(values)

        def scale(y: np.ndarray) -> np.ndarray:
            z = ((np.log1p(y) if logged else y) - mean) / deviation
            return np.pad(z, ((0, 0), (1, 0))).astype("float32")

        def unscale(z: np.ndarray) -> np.ndarray:
            values = z.astype(np.float64) * deviation + mean
            return np.maximum(np.expm1(values), 0) if logged else values

        (_, static), (_, other) = self.train, self.test
        static = static[rows]
        real, codes, cards = [], [], []
        for name in static.columns[1:]:
            if static[name].dtype == pl.String:
                known = {c: i for i, c in enumerate(sorted(static[name].unique()), 1)}
                codes.append([[known.get(c, 0) for c in t[name]] for t in (static, other)])
                cards.append(len(known) + 1)
            else:
                x = [t[name].cast(pl.Float64).to_numpy() for t in (static, other)]
                centre, spread = np.nanmean(x[0]), np.nanstd(x[0]) or 1.0
                real.append([np.nan_to_num((each - centre) / spread) for each in x])

        def stacked(columns: list[Any], part: int, kind: str) -> np.ndarray:
            count = len((static, other)[part])
            return np.array([c[part] for c in columns], kind).reshape(len(columns), count).T

        test = scale(np.where(np.arange(self.steps) < KNOWN[-1], self.truth, np.nan))
        job = {"z": scale(y), "z_test": test, "cards": np.array(cards, int)}
        for part, end in enumerate(("", "_test")):
            job |= {"real" + end: stacked(real, part, "float32")}
            job |= {"codes" + end: stacked(codes, part, "int64")}
        return job, unscale


# -- the methods: forecasts by k, and the seconds of the fit -----------------------------------


def statecast(
    fold: Fold,
    seed: int,
    *,
    static: bool = True,
    calibrated: bool = True,
    **settings: Any,
) -> tuple[Forecasts, float]:
    """The forecaster; without statics, as its own models have it, or with other settings."""
    from statecast import Forecaster

    (series, x), (new, new_x) = fold.train, fold.test
    ids = new_x["unique_id"]
    begin = time.process_time()
    f = Forecaster(seed=seed, **settings).fit(series, x if static else None, verbose=0)
    took = time.process_time() - begin
    panel = f.schema.panel(new, new_x if static else None)
    return {
        k: _in_order(
            panel, ids, f.quantiles(panel.prefix(k), fold.steps, LEVELS, calibrated=calibrated)
        )[:, k:]
        for k in KNOWN
    }, took


def statecast_for_each_k(fold: Fold, seed: int) -> tuple[Forecasts, float]:
    """Four forecasters, each trained and stopped by its own prefix length alone."""
    from unittest import mock

    from statecast.forecast import forecaster
    from statecast.networks import batches

    found, took = {}, 0.0
    for k in KNOWN:

        class Alone(batches.TrainingBatches):
            prefix = k

            def __getitem__(self, index: int) -> tuple[Any, ...]:
                rows = self.order[index]
                seen = np.arange(self.panel.y.shape[1]) < self.prefix
                seen = np.broadcast_to(seen, (*rows.shape, len(seen)))
                return self.pack(rows, seen, ~seen)

        own = mock.patch.object(forecaster, "TrainingBatches", Alone)
        with own, mock.patch.object(batches, "PREFIXES", (k,)):
            forecasts, seconds = statecast(fold, seed)
        found[k], took = forecasts[k], took + seconds
    return found, took


def baseline(name: str, fold: Fold, seed: int) -> tuple[Forecasts, float]:
    """A baseline of ``statecast.evaluate``: a model per k and step."""
    from statecast.evaluate.baselines import LastValue, MeanCurve, Neighbours, Ridge, Trees
    from statecast.tables.schema import Schema

    kinds = {each.name: each for each in (LastValue(), MeanCurve(), Ridge(), Neighbours())}
    kinds["boosted trees"] = Trees(None, seed)
    schema = Schema.fit(*fold.train)
    panel = schema.panel(*fold.test)
    begin = time.process_time()
    fitted = kinds[name].fit(schema.panel(*fold.train, for_fit=True), schema)
    found = {
        k: _in_order(
            panel,
            fold.test[1]["unique_id"],
            fitted.quantiles(panel.prefix(k), k, fold.steps, LEVELS),
        )[:, k:]
        for k in KNOWN
        if k >= fitted.needs
    }
    return found, time.process_time() - begin


def _in_order(panel: Any, ids: Any, values: np.ndarray) -> np.ndarray:
    row = {item: i for i, item in enumerate(panel.ids.tolist())}
    return values[[row[item] for item in ids.to_list()]]


def peer(name: str, logged: bool, python: str, fold: Fold, seed: int) -> tuple[Forecasts, float]:
    """A peer, in a process of its own."""
    job, unscale = fold.job(logged, seed)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "job.npz", **job)
        command = [python, __file__, "--peer", name, folder, str(seed)]
        # Networks so small gain nothing from a second thread, and lose much by waiting for it.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env=environment, check=False
        )
        if ran.returncode:
            raise RuntimeError(f"{name} failed:\n{ran.stderr[-3000:]}")
        with np.load(Path(folder) / "answer.npz") as answer:
            found = {k: unscale(answer[str(k)]) for k in KNOWN}
            return found, float(answer["seconds"])


# -- what is measured, and the store of what has been ------------------------------------------

VARIANTS: Mapping[str, dict[str, Any]] = {
    "X through the inputs": {"conditioning": "inputs"},
    "X through both": {"conditioning": "both"},
    "no X": {"static": False},
    "one member": {"ensemble": 1},
    "no analogues": {"analogues": False},
    "not calibrated": {"calibrated": False},
}
ALONE = "one model for each k"
BASELINES = ("last value", "mean curve", "ridge", "nearest neighbours", "boosted trees")
DETERMINED = BASELINES[:-1]  # no seed changes them
METHODS = ("Statecast", *BASELINES, *PEERS, ALONE, *VARIANTS)


def measure(method: str, data: str, seed: int, folder: Path, python: str) -> dict[str, Any]:
    """Scores by k over the folds of a data set together, and the CPU seconds of the fits."""
    from statecast.evaluate.scores import score

    name, folds, logged = DATA[data]
    truths: dict[int, list[np.ndarray]] = {k: [] for k in KNOWN}
    found: dict[int, list[np.ndarray]] = {k: [] for k in KNOWN}
    seconds = 0.0
    for number in folds:
        fold = Fold(folder / name, number)
        if method in PEERS:
            forecasts, took = peer(method, logged, python, fold, seed)
        elif method in BASELINES:
            forecasts, took = baseline(method, fold, seed)
        elif method == ALONE:
            forecasts, took = statecast_for_each_k(fold, seed)
        else:
            forecasts, took = statecast(fold, seed, **VARIANTS.get(method, {}))
        seconds += took
        for k, quantiles in forecasts.items():
            truths[k].append(fold.truth[:, k:])
            found[k].append(quantiles)
    scores = {}
    for k in KNOWN:
        if found[k]:
            each = score(np.concatenate(truths[k]), np.concatenate(found[k]))
            scores[str(k)] = [each.wape, each.crps, each.coverage]
    return {"seconds": seconds, "scores": scores}


def absent(method: str, python: str) -> str | None:
    """Why a method cannot run here; None if it can."""
    if method not in PEERS:
        return None
    module = PEERS[method][0]
    if python == sys.executable:
        there = importlib.util.find_spec(module) is not None
    else:
        there = not subprocess.run(
            [python, "-c", f"import {module}"], capture_output=True
        ).returncode
    return None if there else f"{module} is not installed; pip install 'statecast[peers]'"


# -- the page ---------------------------------------------------------------------------------

Store = dict[str, dict[str, Any]]  # by "data/method/seed"


def runs(store: Store, data: str, method: str) -> list[dict[str, Any]]:
    return [each for key, each in store.items() if key.rsplit("/", 1)[0] == f"{data}/{method}"]


def values(store: Store, data: str, method: str, k: int, place: int) -> list[float]:
    """WAPE (0), CRPS (1) or coverage (2), of every seed."""
    found = (run["scores"].get(str(k)) for run in runs(store, data, method))
    return [scores[place] for scores in found if scores is not None]


def number(value: float) -> str:
    return f"{value:.4f}".lstrip("0")


def cell(store: Store, data: str, method: str, k: int) -> str:
    wape, crps, coverage = (values(store, data, method, k, place) for place in range(3))
    if not crps:
        return "-"
    spread = f" ±{number((max(crps) - min(crps)) / 2)}" if len(crps) > 1 else ""
    inside = "pt" if method == "last value" else f"{100 * np.mean(coverage):.0f}"
    return f"{number(np.mean(wape))} / {number(np.mean(crps))}{spread} / {inside}"


def table(store: Store, data: str, methods: Sequence[str]) -> Iterator[str]:
    heads = ["", *(f"k = {k}" for k in KNOWN), "fit, CPU s", "seeds"]
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for method in methods:
        done = runs(store, data, method)
        if done:
            seconds = f"{np.median([run['seconds'] for run in done]):.0f}"
            cells = [cell(store, data, method, k) for k in KNOWN]
            yield "| " + " | ".join([method, *cells, seconds, str(len(done))]) + " |"
    yield ""


def verdicts(store: Store, data: str) -> Iterator[str]:
    """Ours against the best of the others at each k, and the fastest neural peer near us."""
    others = [m for m in (*BASELINES, *PEERS) if runs(store, data, m)]
    parts = []
    for k in KNOWN:
        ours = values(store, data, "Statecast", k, 1)
        best = {m: np.mean(v) for m in others if (v := values(store, data, m, k, 1))}
        if ours and best:
            name = min(best, key=best.__getitem__)
            gain = 100 * (1 - np.mean(ours) / best[name])
            parts.append(f"{gain:+.1f} % at k = {k} ({name})")
    if parts:
        yield "CRPS below (+) or above (-) the best of the others: " + ", ".join(parts) + "."
    near = {}
    for name in PEERS:
        ratios = [
            np.mean(values(store, data, name, k, 1))
            / np.mean(values(store, data, "Statecast", k, 1))
            for k in KNOWN
            if runs(store, data, name) and runs(store, data, "Statecast")
        ]
        if ratios and np.mean(ratios) <= 1.05:
            near[name] = np.median([run["seconds"] for run in runs(store, data, name)])
    if near:
        name = min(near, key=near.__getitem__)
        own = np.median([run["seconds"] for run in runs(store, data, "Statecast")])
        yield (
            f"The fastest neural peer within 5 % of our CRPS, over all k, is {name}: "
            f"{near[name]:.0f} CPU seconds beside our {own:.0f}."
        )
    elif any(runs(store, data, name) for name in PEERS) and runs(store, data, "Statecast"):
        yield "The CRPS of every neural peer, over all k, is more than 5 % above ours."
    yield ""


def plot(store: Store, datas: Sequence[str]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "statecast"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(datas), figsize=(4.2 * len(datas), 4.2), layout="constrained", squeeze=False
    )
    for axis, data in zip(axes[0], datas, strict=True):
        for place, method in enumerate(("Statecast", *BASELINES[2:], *PEERS)):
            line = [(k, np.mean(v)) for k in KNOWN if (v := values(store, data, method, k, 1))]
            if line:
                own = method == "Statecast"
                style = {"color": "#0b5c94", "linewidth": 3} if own else {"color": f"C{place}"}
                axis.plot(*zip(*line, strict=True), "o-", label=method, **style)
        axis.set(title=data, xlabel="known steps, k", xticks=KNOWN, ylabel="CRPS")
        axis.set_ylim(bottom=0)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(PAGE.with_suffix(".svg"), metadata={"Date": None})


def page(store: Store, missing: Mapping[str, str]) -> str:
    datas = [data for data in DATA if any(key.startswith(f"{data}/") for key in store)]
    lines = [
        "# How accurate",
        "",
        "Forecasts of items outside the training data, from X and their first k observations:",
        "**WAPE of the median / CRPS / coverage of the 80 % interval in %**, as defined in",
        "`statecast.evaluate`, with the default settings. The models are trained on folds 1 to 4",
        "and tested on fold 0. In *growth, five folds*, each fold is forecast by a fit on the",
        "others. The values are means over seeds; after ± is half the range of CRPS over seeds.",
        "A dash means that the method cannot forecast; pt is a point forecast. Written by",
        "`benchmarks/accuracy.py`.",
        "",
        "Statecast and DeepAR have one model for all k. The others are fitted for each k, and",
        f"their seconds are the sum of the four fits. A neural peer is trained on at most {MOST:,}",
        "items (of the 12,535 of streamflow), every other method on all. The seconds are CPU time,",
        "measured on a busy machine. Statecast uses all cores and the peers one, so on an idle",
        "machine a fit of Statecast takes less time than its CPU time, and one of a peer about the",
        "same.",
        "",
        *(f"- {name}: {text}." for name, (_, _, text) in PEERS.items()),
        "- Boosted trees: scikit-learn's, a model per k and level, on all training values.",
        "",
        "The peers were not tuned, and may be better if they are. In an earlier measurement, with",
        "two or three settings for each data set tried on fold 1, the CRPS on growth was .035 to",
        ".029 for DeepAR and .028 to .022 for NeuralForecast's TFT, and on streamflow .535 to .512",
        "for DeepAR. For the peers y is standardised over all training values; on broadway and",
        "streamflow its logarithm is. A step 0 with the value 0 is put before step 1, because they",
        "cannot forecast without an observation.",
        "",
        "![CRPS against k](accuracy.svg)",
        "",
    ]
    for data in datas:
        lines += [f"## {data[0].upper()}{data[1:]}", ""]
        lines += [*table(store, data, ("Statecast", *BASELINES, *PEERS)), *verdicts(store, data)]
    for title, text, methods in (
        (
            "One model for all k, or one for each",
            "Four models, each trained and stopped at a single k, in place of one model for all k.",
            (ALONE,),
        ),
        (
            "The effect of conditioning",
            "By default X sets the initial state. Here it is an input, or both, or is not used.",
            tuple(VARIANTS)[:3],
        ),
        (
            "The effect of the ensemble, the analogues and the calibration",
            "Each row leaves out one part.",
            tuple(VARIANTS)[3:],
        ),
    ):
        lines += [f"## {title}", "", text, ""]
        if not any(runs(store, data, method) for data in datas for method in methods):
            lines += ["Not run.", ""]
        for data in datas:
            if any(runs(store, data, method) for method in methods):
                lines += [f"{data[0].upper()}{data[1:]}:", ""]
                lines += [*table(store, data, ("Statecast", *methods))]
    wanted = {f"{data}/{m}" for data in DATA for m in METHODS}
    undone = sorted(wanted - {key.rsplit("/", 1)[0] for key in store})
    lines += ["## Not run", ""]
    lines += [f"- {name}: {reason}." for name, reason in missing.items()]
    for data in DATA:
        left = [each.split("/", 1)[1] for each in undone if each.startswith(f"{data}/")]
        if left:
            lines += [f"- {data}: {', '.join(left)}."]
    if lines[-1] == "":
        lines += ["Nothing was left out."]
    plot(store, datas)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--python", default=sys.executable, help="the peers' interpreter")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page")
    asked = parser.parse_args()
    kept = ROOT / "build" / "accuracy.json"
    kept.parent.mkdir(exist_ok=True)
    store: Store = json.loads(kept.read_text()) if kept.exists() else {}
    missing = {m: why for m in METHODS if (why := absent(m, asked.python)) is not None}
    for data in () if asked.page else asked.data:
        folder = asked.folder
        if not (folder / DATA[data][0]).is_dir():
            if DATA[data][0] != "growth":
                missing[data] = f"there is no folder {folder / DATA[data][0]}"
                continue
            folder = ROOT / "src" / "statecast" / "data"
        for method in asked.methods:
            for seed in asked.seeds[:1] if method in DETERMINED else asked.seeds:
                key = f"{data}/{method}/{seed}"
                if method in missing or (key in store and not asked.again):
                    continue
                found = measure(method, data, seed, folder, asked.python)
                # Another run may have added to the store.
                store = json.loads(kept.read_text()) if kept.exists() else {}
                store[key] = found
                kept.write_text(json.dumps(store, indent=1))
                crps = {k: round(each[1], 4) for k, each in found["scores"].items()}
                print(f"{key}: CRPS {crps}, {found['seconds']:.0f} CPU s", flush=True)
    for name, why in missing.items():
        print(f"Not run: {name}: {why}")
    PAGE.write_text(page(store, missing), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        answer_job(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
