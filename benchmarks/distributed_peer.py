"""NeuralForecast's ``predict``, in one process and on Spark, for ``distributed.py``.

The interpreter of this process has NeuralForecast and need not have Statecast; pandas is one that
Fugue knows::

    python3 -m venv build/peer
    build/peer/bin/pip install torch==2.13.0 neuralforecast==3.3.0 'fugue[spark]==0.9.7' 'pandas<3'
    .venv/bin/python benchmarks/distributed.py --peer build/peer/bin/python

The model is its LSTM with the default sizes. It forecasts the 21 steps after each prefix, which is
the mean of ours, and needs one observation, so that items with k = 0 are left out.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

H, INPUT = 21, 20  # steps ahead; the longest prefix
STEPS = 20  # of training: the speed of forecasts does not depend on it


def tables(folder: str) -> tuple[Any, Any]:
    """The tables of a folder, with the static feature as a number."""
    import pandas as pd

    series, static = (pd.read_parquet(f"{folder}/{role}") for role in ("series", "static"))
    static = static[static["unique_id"].isin(series["unique_id"].unique())]
    return series, static.assign(sex=(static["sex"] == "F").astype(float))


def fit(model: str, folder: str) -> None:
    """Fit the model on the items of a folder, and save it."""
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import MQLoss
    from neuralforecast.models import LSTM

    given = {"stat_exog_list": ["sex"], "max_steps": STEPS, "accelerator": "cpu"}
    padded = {"devices": 1, "start_padding_enabled": True}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    network = LSTM(h=H, input_size=INPUT, loss=MQLoss(level=[80]), **given, **padded, **quiet)
    found = NeuralForecast(models=[network], freq=1)
    series, static = tables(folder)
    found.fit(series, static_df=static)
    found.save(model, overwrite=True)


def predict(model: str, few: str, first: str, many: str, second: str) -> dict[str, float]:
    """Forecast the items of two folders in this process, each into a new folder; the seconds of
    the first one, with all that is done once, and of the second one."""
    from neuralforecast import NeuralForecast

    clock = [time.perf_counter()]
    fitted = NeuralForecast.load(model)
    for folder, out in ((few, first), (many, second)):
        series, static = tables(folder)
        found = fitted.predict(series, static_df=static)
        Path(out).mkdir()
        found.to_parquet(f"{out}/forecasts.parquet", compression="zstd")
        clock.append(time.perf_counter())
    return {"start": clock[1] - clock[0], "seconds": clock[2] - clock[1]}


def spark(model: str, few: str, first: str, many: str, second: str) -> dict[str, float]:
    """The same on a local Spark with two tasks."""
    from neuralforecast import NeuralForecast
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    clock = [time.perf_counter()]
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    for name in ("spark.driver.host", "spark.driver.bindAddress"):
        builder = builder.config(name, "127.0.0.1")
    fitted = NeuralForecast.load(model)
    with builder.getOrCreate() as session:
        for folder, out in ((few, first), (many, second)):
            series = session.read.parquet(f"{folder}/series")
            series = series.repartition(2, "unique_id")  # as many parts as tasks
            static = session.read.parquet(f"{folder}/static")
            sex = (static["sex"] == "F").cast("double").alias("sex")
            static = static.select("unique_id", sex)
            found = fitted.predict(series, static_df=static, engine=session)
            found.write.option("compression", "zstd").parquet(out)
            clock.append(time.perf_counter())
    return {"start": clock[1] - clock[0], "seconds": clock[2] - clock[1]}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    what, *given = sys.argv[1:]
    found = {"fit": fit, "predict": predict, "spark": spark}[what](*given)
    print(json.dumps(found or {}))
