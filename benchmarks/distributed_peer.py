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


def predict(model: str, folder: str, out: str) -> dict[str, float]:
    """Forecast the items of a folder in this process."""
    from neuralforecast import NeuralForecast

    begin = time.perf_counter()
    series, static = tables(folder)
    found = NeuralForecast.load(model).predict(series, static_df=static)
    Path(out).mkdir()
    found.to_parquet(f"{out}/forecasts.parquet", compression="zstd")
    return {"seconds": time.perf_counter() - begin, "items": found["unique_id"].nunique()}


def spark(model: str, folder: str, out: str) -> dict[str, float]:
    """Forecast them on a local Spark with two tasks."""
    from neuralforecast import NeuralForecast
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    begin = time.perf_counter()
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    for name in ("spark.driver.host", "spark.driver.bindAddress"):
        builder = builder.config(name, "127.0.0.1")
    with builder.getOrCreate() as session:
        series, static = (session.read.parquet(f"{folder}/{each}") for each in ("series", "static"))
        series = series.repartition(2, "unique_id")  # as many parts as tasks
        sex = (static["sex"] == "F").cast("double").alias("sex")
        static = static.select("unique_id", sex)
        found = NeuralForecast.load(model).predict(series, static_df=static, engine=session)
        found.write.option("compression", "zstd").parquet(out)
        items = session.read.parquet(out).select("unique_id").distinct().count()
    return {"seconds": time.perf_counter() - begin, "items": items}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    what, *given = sys.argv[1:]
    if what == "fit":
        fit(*given)
        print("{}")
    else:
        print(json.dumps({"predict": predict, "spark": spark}[what](*given)))
