"""Forecasting methods of other libraries, for ``accuracy.py``. Each runs in a process of its own.

The interpreter of this process has the method's library, and need not have Statecast::

    PYTHON benchmarks/peers.py NAME FOLDER SEED

``FOLDER/job.npz`` holds what the method is given: the arrays of ``Fold.arrays`` in
``accuracy.py``, the levels and the prefix lengths. The method writes ``FOLDER/answer.npz``: for
each prefix length k the quantiles of the steps after it, ``(items, steps - k, levels)``, and the
CPU seconds of its fits.

Another method is a function here and a row of ``PEERS``.

The neural methods are given what their documentation offers for the task. They see y
standardised by the mean and deviation of all training values; and before step 1 a step 0 with the
value 0, because they cannot forecast without an observation. The values after an item's end, and
gaps, are filled with the last value and do not count in their loss. They are trained on at most
``MOST`` items. A categorical feature is a 0/1 column for each category where a method accepts only
numbers, if it has at most ``FEW`` categories.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MOST = 3000  # training items: more would take the peers hours
FEW = 10

Job = Mapping[str, np.ndarray]
Forecasts = dict[int, np.ndarray]  # by k: quantiles (items, steps - k, levels)

# -- gradient-boosted trees on the panel table -------------------------------------------------

MEMBERS = 5  # each holds out a fifth of the items
VALUES = 8  # the first values of an item that are columns, and the longest prefix in training
ROWS = 400_000  # the largest number of rows of the training table


def panel_rows(
    z: np.ndarray, x: np.ndarray, k: int, mean: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns of every item and step after k, and each row's last value.

    Parameters
    ----------
    z : array, ``(items, steps)``
        The values; those after k are not used.
    x : array, ``(items, features)``
    k : int
    mean : array, ``(steps,)``
        The mean of each step.

    Returns
    -------
    columns : array, ``(items * (steps - k), features + VALUES + 7)``
        The features, the last three values, the first values, k, the step, the horizon and the
        step's mean. A step is counted from 0.
    last : array, ``(items * (steps - k),)``
        The last value before k; 0, the mean, where there is none.
    """
    items, steps = z.shape
    ahead, seen = steps - k, np.where(np.arange(steps) < k, z, np.nan)
    order = np.argsort(np.isnan(seen[:, ::-1]), axis=1, kind="stable")[:, :3]
    last = np.take_along_axis(seen[:, ::-1], order, axis=1)
    last = np.pad(last, ((0, 0), (0, 3 - last.shape[1])), constant_values=np.nan)
    first = np.pad(seen, ((0, 0), (0, VALUES)), constant_values=np.nan)[:, :VALUES]
    item = np.column_stack([x, last, first, np.full(items, k)])
    step = np.arange(k, steps)
    at = np.column_stack([step, step - k, mean[k:]])
    columns = np.column_stack([np.repeat(item, ahead, axis=0), np.tile(at, (items, 1))])
    return columns, np.repeat(np.nan_to_num(last[:, 0]), ahead)


def panel_lightgbm(less_last: bool, job: Job, seed: int) -> tuple[Forecasts, float]:
    """One LightGBM model for all k, on a table with a row for each item, k and future step.

    The columns are the static features, the step, k, the horizon, the last three values, the first
    eight values (NaN for gaps and after k) and the step's mean. The values are standardised by
    step. The target is the standardised value, less the last value with ``less_last``. Five members
    are trained, each stopped early on the items that it holds out. The forecast is the mean of
    their quantiles plus an offset for each k and level: the empirical quantile of the error on
    held-out items (conformal calibration).
    """
    import lightgbm as lgb

    levels, asked = job["levels"].tolist(), job["known"].tolist()
    chosen = _most(job, seed)
    y, groups = job["y"][chosen], job["groups"][chosen]
    steps = y.shape[1]
    with warnings.catch_warnings():  # a step without observations
        warnings.simplefilter("ignore", RuntimeWarning)
        mean, deviation = np.nanmean(y, axis=0), np.nanstd(y, axis=0)
    overall = np.nanmean(y), np.nanstd(y) or 1.0
    mean = np.where(np.isnan(mean), overall[0], mean)
    deviation = np.where(np.isnan(deviation) | (deviation <= 0), overall[1], deviation)
    features = job["numeric"].shape[1] + job["codes"].shape[1]
    categorical = list(range(job["numeric"].shape[1], features))

    def statics(part: str, rows: Any = slice(None)) -> np.ndarray:
        codes = job["codes" + part][rows].astype(np.float64)
        # A category that was not in training is a missing value.
        return np.column_stack([job["numeric" + part][rows], np.where(codes > 0, codes, np.nan)])

    begin = time.process_time()
    z, x = (y - mean) / deviation, statics("", chosen)
    rng = np.random.default_rng(seed)
    parts = []
    for k in range(min(VALUES + 1, steps)):
        columns, last = panel_rows(z, x, k, mean)
        target = z[:, k:].ravel()
        row = np.repeat(np.arange(len(z)), steps - k)
        there = ~np.isnan(target)
        of = np.full(len(row), k)
        parts.append([each[there] for each in (columns, target, last, row, of)])
    columns, target, last, row, known = (np.concatenate(each) for each in zip(*parts, strict=True))
    if len(target) > ROWS:
        kept = np.sort(rng.permutation(len(target))[:ROWS])
        columns, target, last, row, known = (
            each[kept] for each in (columns, target, last, row, known)
        )
    base = last if less_last else np.zeros_like(last)
    names, group = np.unique(groups, return_inverse=True)
    member = rng.permutation(np.arange(len(names)) % MEMBERS)[group.ravel()][row]
    z_test, x_test = (job["y_test"] - mean) / deviation, statics("_test")
    tests = {k: panel_rows(z_test, x_test, k, mean) for k in asked}
    outside = np.empty((len(target), len(levels)))  # forecasts of held-out rows
    found: Forecasts = {k: np.zeros((len(tests[k][0]), len(levels))) for k in asked}
    settings = {
        "objective": "quantile",
        "learning_rate": 0.05,
        "num_leaves": 31,
        "min_data_in_leaf": 20,
        "feature_fraction": 0.8,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "num_threads": int(os.environ.get("OMP_NUM_THREADS", "1")),
        "verbosity": -1,
    }
    for number in range(MEMBERS):
        held = member == number
        if not held.any() or held.all():
            raise ValueError(f"expected at least {MEMBERS} groups of items; received {len(names)}")
        for place, level in enumerate(levels):
            options = {**settings, "alpha": level, "seed": seed * MEMBERS + number}
            sets = [
                lgb.Dataset(
                    columns[rows],
                    (target - base)[rows],
                    categorical_feature=categorical,
                    free_raw_data=True,
                )
                for rows in (~held, held)
            ]
            model = lgb.train(
                options,
                sets[0],
                num_boost_round=1000,
                valid_sets=[sets[1]],
                callbacks=[lgb.early_stopping(40, verbose=False)],
            )
            outside[held, place] = np.asarray(model.predict(columns[held])) + base[held]
            for k, (rows, last_of) in tests.items():
                ahead = np.asarray(model.predict(rows)) + (last_of if less_last else 0)
                found[k][:, place] += ahead / MEMBERS
    outside.sort(axis=1)
    for k in asked:
        own = known == k
        offsets = [
            np.quantile(target[own] - outside[own, place], level) if own.any() else 0.0
            for place, level in enumerate(levels)
        ]
        values = np.sort(np.sort(found[k], axis=1) + offsets, axis=1)
        values = values.reshape(-1, steps - k, len(levels))
        found[k] = values * deviation[k:, None] + mean[k:, None]
    return found, time.process_time() - begin


# -- neural networks ---------------------------------------------------------------------------


def deepar(job: Job, seed: int) -> tuple[Forecasts, float]:
    """One model for all k; a sample path a draw."""
    import torch
    from gluonts.dataset.common import ListDataset
    from gluonts.torch.model.deepar import DeepAREstimator
    from gluonts.transform import ExpectedNumInstanceSampler
    from lightning import seed_everything

    seed_everything(seed)
    levels, asked = job["levels"].tolist(), job["known"].tolist()
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
    for k in asked:
        prefixes = dataset(job["z_test"][:, : k + 1], job["real_test"], job["codes_test"])
        torch.manual_seed(seed)
        paths = [each.samples for each in predictor.predict(prefixes, num_samples=100)]
        found[k] = np.stack([np.quantile(p, levels, axis=0).T for p in paths])[:, : steps - k]
    return found, took


def neuralforecast(name: str, job: Job, seed: int) -> tuple[Forecasts, float]:
    """One model per k: the prefix is its input, the rest its horizon."""
    import pandas as pd
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import MQLoss
    from neuralforecast.models import LSTM, TFT

    levels, asked = job["levels"].tolist(), job["known"].tolist()
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
    for k in asked:
        train, static = frames(job["z"], job["real"], job["codes"])
        test, static_test = frames(job["z_test"], job["real_test"], job["codes_test"])
        names = [column for column in static.columns if column != "unique_id"]
        own = {"encoder_hidden_size": 64} if name == "LSTM" else {"hidden_size": 64}
        model = {"LSTM": LSTM, "TFT": TFT}[name](
            h=steps - k,
            input_size=k + 1,
            stat_exog_list=names or None,
            futr_exog_list=["age"],
            loss=MQLoss(quantiles=levels),
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
        values = answer[columns].to_numpy().reshape(len(job["z_test"]), steps - k, len(levels))
        found[k] = np.sort(values, axis=-1)
    return found, took


def pytorch_forecasting(job: Job, seed: int) -> tuple[Forecasts, float]:
    """One model per k, stopped by a tenth of the training items."""
    import pandas as pd
    from lightning.pytorch import Trainer, seed_everything
    from lightning.pytorch.callbacks import EarlyStopping
    from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet
    from pytorch_forecasting.data import NaNLabelEncoder, TorchNormalizer
    from pytorch_forecasting.metrics import QuantileLoss

    levels, asked = job["levels"].tolist(), job["known"].tolist()
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
    for k in asked:
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
            loss=QuantileLoss(levels),
            output_size=len(levels),
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


def _filled(z: np.ndarray) -> np.ndarray:
    """The last value where there is none; step 0 always has one."""
    at = np.where(np.isnan(z), 0, np.arange(z.shape[1]))
    return np.take_along_axis(z, np.maximum.accumulate(at, axis=1), axis=1)


def _most(job: Job, seed: int) -> np.ndarray:
    """Return the rows of at most ``MOST`` training items, drawn at random."""
    return np.sort(np.random.default_rng(seed).permutation(len(job["y"]))[:MOST])


def neural(method: Callable[..., tuple[Forecasts, float]], job: Job, seed: int) -> Any:
    """Run a neural method on standardised arrays, and return its forecasts in the units of y."""
    rows = _most(job, seed)
    mean, deviation = np.nanmean(job["y"][rows]), np.nanstd(job["y"][rows]) or 1.0
    scaled: dict[str, Any] = {name: job[name] for name in ("known", "levels", "cards")}
    for end, kept in (("", rows), ("_test", slice(None))):
        z = (job["y" + end][kept] - mean) / deviation
        scaled["z" + end] = np.pad(z, ((0, 0), (1, 0))).astype("float32")
        scaled["codes" + end] = job["codes" + end][kept]
        x, training = job["numeric" + end][kept], job["numeric"][rows]
        spread = np.nanstd(training, axis=0)
        x = (x - np.nanmean(training, axis=0)) / np.where(spread > 0, spread, 1)
        scaled["real" + end] = np.nan_to_num(x).astype("float32")
    found, took = method(scaled, seed)
    return {k: z.astype(np.float64) * deviation + mean for k, z in found.items()}, took


# -- the table of methods ----------------------------------------------------------------------


class Peer(NamedTuple):
    """A method: the module that it needs, its function and a description for the page."""

    module: str
    run: Callable[[Job, int], tuple[Forecasts, float]]
    text: str


_PANEL = (
    "one model for all k on a table with a row for each item, k and future step: static features, "
    "step, k, horizon, the last three and the first eight values, the step's mean; five members "
    "stopped early on held-out items, and conformal calibration on them"
)
PEERS: Mapping[str, Peer] = {
    "panel LightGBM": Peer("lightgbm", partial(panel_lightgbm, False), _PANEL),
    "panel LightGBM, less last": Peer(
        "lightgbm",
        partial(panel_lightgbm, True),
        "panel LightGBM; the target is less the last value",
    ),
    "NeuralForecast LSTM": Peer(
        "neuralforecast",
        partial(neural, partial(neuralforecast, "LSTM")),
        "one model per k; 2 layers of 64, its direct decoder, 400 updates of 64",
    ),
    "NeuralForecast TFT": Peer(
        "neuralforecast",
        partial(neural, partial(neuralforecast, "TFT")),
        "one model per k; width 64, 400 updates of 64",
    ),
    "GluonTS DeepAR": Peer(
        "gluonts",
        partial(neural, deepar),
        "one model for all k, trained on prefixes up to 7; 2 layers of 40, Student's t, "
        "1,000 updates of 64, 100 paths",
    ),
    "PyTorch-Forecasting TFT": Peer(
        "pytorch_forecasting",
        partial(neural, pytorch_forecasting),
        "one model per k; width 32, up to 500 updates of 64, stopped by a tenth of the items",
    ),
}


def main(name: str, folder: Path, seed: int) -> None:
    import logging

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with np.load(folder / "job.npz") as arrays:
        found, took = PEERS[name].run(dict(arrays), seed)
    np.savez(
        folder / "answer.npz",
        seconds=np.array(took),
        **{str(k): values.astype("float64") for k, values in found.items()},
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
