"""The settings of a ``TokenForecaster``."""

# ruff: noqa: RUF009  `setting` makes a field

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from statecast.forecast.settings import (
    Settings,
    choice,
    flag,
    real,
    setting,
    text,
    whole,
    with_default,
)

TokenConditioningName = Literal["state", "inputs", "both", "first"]


@dataclass(frozen=True, kw_only=True)
class TokenSettings(Settings):
    """The settings of a ``TokenForecaster``."""

    owner: ClassVar[str] = "TokenForecaster"

    embedding: int = setting(32, whole(1, 4096), "Width of a token's embedding.")
    tied: bool = setting(
        False,
        flag(),
        "Whether the embeddings are also the weights of the softmax.",
        details="Press and Wolf (2017).",
    )
    dropout: float = setting(
        0.1,
        real("from 0 to below 1", lambda value: 0 <= value < 1),
        "Share of the embeddings and of the recurrent outputs that a training step drops.",
    )
    ends: bool = setting(
        True,
        flag(),
        "Whether sequences end after their last token; otherwise they are right-censored there.",
        details="The end is a token, whose probability is learnt.",
    )
    units: int = with_default("units", 256)
    conditioning: TokenConditioningName = setting(
        "state",
        choice(TokenConditioningName),
        "Whether the static features set the initial state, are inputs of every step, or both, or "
        "are inputs of the first step only.",
    )
    ensemble: int = with_default("ensemble", 1)
    encoding: int = with_default("encoding", 32)
    depth: int = with_default("depth", 2)
    epochs: int = with_default("epochs", 10)
    learning_rate: float = with_default("learning_rate", 8e-3)
    target_col: str = setting("y", text(), "The column of the tokens.")

    @property
    def columns(self) -> dict[str, Any]:
        return super().columns | {"tokens": True}
