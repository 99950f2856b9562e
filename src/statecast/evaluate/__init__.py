"""Folds, scores and baselines."""

from statecast.evaluate.cross_validation import (
    Baseline,
    LastValue,
    MeanCurve,
    Neighbours,
    Ridge,
    Row,
    Score,
    Scores,
    TargetScores,
    Trees,
    cross_validation,
    default_baselines,
    score,
)

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
