"""What the tests of the native library share: its instruction sets, and comparison of arrays."""

from __future__ import annotations

import numpy as np

from statecast import cells
from statecast.recurrence.kernels.native import library

LIBRARY = library.find()
BUILT = not isinstance(LIBRARY, str)
KINDS = {"lstm": cells.LSTM, "gru": cells.GRU, "rnn": cells.SimpleRNN}
Values = dict[str, np.ndarray]


def _instructions() -> list[str]:
    """The instruction sets of the build that this machine has."""
    if isinstance(LIBRARY, str):
        return []
    names = LIBRARY.statecast_built().decode().split(",")
    found = [name for name in names if not LIBRARY.statecast_use(name.encode())]
    library.use()
    return found


INSTRUCTIONS = _instructions()


def close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Assert equality, relative to the largest of the array; sums of terms near 1 may cancel."""
    assert found.shape == expected.shape
    scale = np.abs(expected).max(initial=0.1)
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max(initial=0) <= tolerance * scale
