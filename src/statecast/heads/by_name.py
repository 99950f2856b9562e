"""The heads of numbers by the names that users give."""

from collections.abc import Mapping

from statecast.heads.base import Head
from statecast.heads.continuous import LogitNormal, LogNormal, Normal, StudentT
from statecast.heads.counts import NegativeBinomial, Poisson
from statecast.heads.quantiles import Quantiles

HEADS: Mapping[str, type[Head]] = {
    "quantiles": Quantiles,
    "normal": Normal,
    "student_t": StudentT,
    "lognormal": LogNormal,
    "logitnormal": LogitNormal,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
}
