"""Fan charts, and the score against k."""

from statecast.plots.charts import (
    fan,
    scores,
)

__all__ = [
    "fan",
    "scores",
]
