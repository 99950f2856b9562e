"""Heads: from the output of a network to a predictive distribution."""

from statecast.heads.base import Head, Readout
from statecast.heads.categorical import Categorical
from statecast.heads.continuous import LogitNormal, LogNormal, Normal, StudentT
from statecast.heads.counts import NegativeBinomial, Poisson
from statecast.heads.quantiles import Quantiles

__all__ = [
    "Categorical",
    "Head",
    "LogNormal",
    "LogitNormal",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "Quantiles",
    "Readout",
    "StudentT",
]
