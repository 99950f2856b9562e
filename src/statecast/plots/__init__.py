"""Fan charts, and the score against k."""

from statecast.plots.charts import fan
from statecast.plots.curves import scores

__all__ = ["fan", "scores"]
