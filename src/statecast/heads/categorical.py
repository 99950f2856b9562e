"""``Categorical``: the distribution of one token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from statecast.checks import check_whole
from statecast.errors import ArgumentError
from statecast.heads.base import Head
from statecast.heads.namespace import namespace


@dataclass(frozen=True)
class Categorical(Head):
    """One token of a finite set; parameters: the log-probability of each.

    Tokens have no order, so median, mean, quantiles and CRPS are undefined and raise an
    ``ArgumentError``. The loss is the negative log-likelihood.

    Parameters
    ----------
    tokens : int
        The number of tokens. A token is a code, from 0.

    Raises
    ------
    ArgumentError
        ``tokens`` is not a whole number of 1 or more.

    Examples
    --------
    >>> import numpy as np
    >>> from statecast import heads
    >>> head = heads.Categorical(3)
    >>> np.exp(head.log_likelihood(np.log([0.2, 0.5, 0.3]), np.array(1))).round(2).item()
    0.5
    """

    tokens: int

    def __post_init__(self) -> None:
        check_whole("tokens", self.tokens)

    @property
    def size(self) -> int:
        return self.tokens

    def parameters(self, raw: Any, shift: Any = 0.0) -> Any:
        """Log-probabilities from logits ``(..., size)`` and a shift ``(..., 1 or size)``."""
        ops = namespace(raw)
        return ops.log_softmax(raw + shift, axis=-1)

    def log_likelihood(self, parameters: Any, y: Any) -> Any:
        """The log-probability of the codes ``y``, ``(...)``, whole numbers."""
        ops = namespace(parameters)
        code = ops.cast(y, "int32")[..., None]
        return ops.take_along_axis(parameters, code, axis=-1)[..., 0]

    @property
    def location_index(self) -> int:
        raise self._undefined("median")

    def mean(self, parameters: Any) -> Any:
        raise self._undefined("mean")

    def quantile(self, parameters: Any, levels: Any) -> Any:
        raise self._undefined("quantiles")

    @staticmethod
    def _undefined(what: str) -> ArgumentError:
        return ArgumentError(
            f"Tokens have no order, so a categorical head has no {what}. Ask for the "
            "log-likelihood, or for sequences."
        )
