"""How much the tests do: everything in CI and with SLOW=1, otherwise what takes little time."""

from __future__ import annotations

import os

CI = os.environ.get("CI") == "true"
EVERYTHING = CI or bool(os.environ.get("SLOW"))


def examples(number: int) -> int:
    """The number of examples of a costly test: a third, unless everything runs."""
    return number if EVERYTHING else max(1, number // 3)
