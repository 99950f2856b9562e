"""Fits and forecasts on several processors or machines: processes, Ray, Spark."""

from statecast.distributed.fitting import fit
from statecast.distributed.forecasts import forecast
from statecast.distributed.jobs import Report

__all__ = ["Report", "fit", "forecast"]
