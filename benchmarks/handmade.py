"""What a user would build by hand: FastAPI, ``Forecaster.update``, and states in Redis.

The peer of ``benchmarks/serving.py``, which starts it. An observation over HTTP advances the state
of its item and is answered with the forecast. It has none of what sessions promise beside that: a
repeated observation is applied twice, a late one is an error, and two requests for one item at once
lose one of them.
"""

from __future__ import annotations

import pickle
import sys
import warnings
from typing import Any

import polars as pl
import redis
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from statecast import Forecaster


class Observation(BaseModel):
    """The body of a request."""

    step: int
    values: float
    until: int
    static: dict[str, str] | None = None


def application(model: Forecaster, states: redis.Redis) -> FastAPI:
    """The application of a model whose states are in Redis."""
    app = FastAPI()

    @app.post("/v1/items/{item}/observations")
    def observe(item: str, row: Observation) -> dict[str, Any]:
        series = pl.DataFrame({"unique_id": [item], "ds": [row.step], "y": [row.values]})
        found: Any = states.get(item)
        if found is None:
            state = model.state(series, pl.DataFrame({"unique_id": [item], **(row.static or {})}))
        else:
            state = model.update(pickle.loads(found), series)
        states.set(item, pickle.dumps(state))
        forecast: Any = model.predict(state=state, until=row.until)
        return {"forecast": forecast.drop("unique_id").to_dicts()}

    return app


if __name__ == "__main__":
    file, port, socket = sys.argv[1:]
    warnings.simplefilter("ignore")
    store = redis.Redis(unix_socket_path=socket)
    served = application(Forecaster.load(file), store)
    uvicorn.run(served, port=int(port), access_log=False, log_level="warning")
