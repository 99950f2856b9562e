"""``Problem``: the arguments of a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from statecast.recurrence.cells import Cell

# What to do where a kernel that has to be used declines.
ANY_KERNEL = "Leave the choice to Statecast: kernel=None, or use_cudnn='auto' in a layer."


@dataclass(frozen=True)
class Problem:
    """The arguments of ``recurrence.run``, already checked.

    ``x`` is ``(..., rows, steps, in)``; ``mask`` and ``resets`` are bool and broadcast to
    ``(..., rows, steps)``; leaves of ``state`` and ``initial`` are ``(..., rows, units)``.
    Weights of bfloat16 beside a state of float32 ask for products with factors in bfloat16, whose
    sums are of float32.
    ``forced`` says that no other kernel may run it.
    """

    cell: Cell
    weights: Mapping[str, Any]
    x: Any
    state: Mapping[str, Any]
    mask: Any = None
    resets: Any = None
    initial: Mapping[str, Any] | None = None
    unroll: bool = False
    forced: bool = False
