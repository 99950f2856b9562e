"""Heads: from the outputs of a network to a predictive distribution."""

from statecast.heads.distributions import (
    Categorical,
    Head,
    LogitNormal,
    LogNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    Quantiles,
    Readout,
    StudentT,
)

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
