"""How much the tests do: everything in CI and with SLOW=1, otherwise what takes little time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

CI = os.environ.get("CI") == "true"
EVERYTHING = CI or bool(os.environ.get("SLOW"))
COMPILES = os.environ.get("KERAS_BACKEND") != "torch"  # JAX and TensorFlow do


def examples(number: int, *, compiled: bool = False) -> int:
    """The number of examples of a costly test: a third, unless everything runs.

    ``compiled`` says that a backend which compiles does so anew for each example. There it is a
    ninth.
    """
    if EVERYTHING:
        return number
    return max(1, number // (9 if compiled and COMPILES else 3))


# The fewest updates of an epoch, and those that learn the metric of the analogues: as the library
# has them, and as the tests do. They take two thirds of the time of a small fit.
ALL, FEW = (24, 300), (8, 30)


def set_updates(updates: tuple[int, int]) -> tuple[int, int]:
    """Set the updates of fits in this process; returns what they were."""
    from statecast.forecast import analogues
    from statecast.networks import batches
    from statecast.tokens import batches as batches_of_tokens

    metric = analogues._learnt_metric.__kwdefaults__
    before = batches.STEPS, metric["updates"]
    batches.STEPS = batches_of_tokens.STEPS = updates[0]
    metric["updates"] = updates[1]
    return before


@contextmanager
def all_updates() -> Iterator[None]:
    """Fits are those of the library: for tests of how good a forecast is."""
    before = set_updates(ALL)
    try:
        yield
    finally:
        set_updates(before)
