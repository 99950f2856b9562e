"""Scores of forecasts by cross-validation, beside simple baselines."""

from statecast.evaluate.baselines import (
    Baseline,
    LastValue,
    MeanCurve,
    Neighbours,
    Ridge,
    Trees,
    default_baselines,
)
from statecast.evaluate.cross_validation import cross_validation
from statecast.evaluate.scores import Row, Score, Scores, TargetScores, score

__all__ = [
    "Baseline",
    "LastValue",
    "MeanCurve",
    "Neighbours",
    "Ridge",
    "Row",
    "Score",
    "Scores",
    "TargetScores",
    "Trees",
    "cross_validation",
    "default_baselines",
    "score",
]
