"""``TokenDecoder``: what a network of tokens computes, without its weights. It needs no backend.

Tokens are codes. The codes from 0 to ``size - 1`` can be predicted; "unknown" and "end" are two of
them. Two further codes are inputs only: "start", and the gap, for a token that was not observed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from statecast.heads.categorical import Categorical
from statecast.recurrence.cells import Stack


@dataclass(frozen=True)
class TokenDecoder:
    """A stack of cells with an embedding of tokens as input and a softmax over tokens as output.

    The leaves of the state are those of the stack; ``step``, the number of steps taken; and
    ``static``, the encoded X, if it is an input of every step.

    Parameters
    ----------
    stack : Stack
    head : Categorical
        Over all codes that can be predicted.
    embedding : int
        Width of a token's embedding.
    tied : bool
        Whether the embeddings are also the weights of the softmax (Press and Wolf 2017).
    static : int
        Width of the encoded X among the inputs; 0 if X is no input.
    each : bool
        True if X is an input of every step; False if it is an input of the first step, and zeros
        are the inputs of the other steps.
    """

    stack: Stack
    head: Categorical
    embedding: int
    tied: bool = False
    static: int = 0
    each: bool = True

    # The encoder of X has no intervals.
    intervals: ClassVar[int] = 0
    divided: ClassVar[tuple[int, ...]] = ()

    @property
    def start(self) -> int:
        """The code of "start"."""
        return self.head.size

    @property
    def gap(self) -> int:
        """The code of a token that was not observed."""
        return self.head.size + 1

    @property
    def units(self) -> int:
        """Width of the stack's output."""
        return self.stack.cells[-1].units

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {f"cell/{name}": shape for name, shape in self.stack.state_shapes.items()}
        shapes["step"] = (1,)
        if self.static and self.each:
            shapes["static"] = (self.static,)
        return shapes

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = self.stack.weight_shapes(self.embedding + self.static)
        size = self.head.size
        return {f"cell/{name}": shape for name, shape in shapes.items()} | {
            "embedding": (size + 2, self.embedding),
            "head/kernel": (self.units, self.embedding if self.tied else size),
            "head/bias": (size,),
        }
