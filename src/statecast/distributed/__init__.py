"""Forecasts on several processors or machines: processes, Ray, Spark."""

from statecast.distributed.forecasts import forecast
from statecast.distributed.jobs import Report

__all__ = ["Report", "forecast"]
