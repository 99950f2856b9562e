"""The conditional recurrent network of tokens: embeddings in, a softmax out; it knows no tables.

X sets the initial state, or enters the inputs (of the first step or of all); then the network
takes in "start", and after it what was observed. What it puts out after a step is the
distribution of the next token, so that one pass over whole sequences (teacher forcing) trains
and scores every prefix length at once.

A token is its code: those from 0 to ``size - 1`` may come out, among them "unknown" and "end";
two more only go in, "start" and "not observed", the gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from statecast.heads.categorical import Categorical
from statecast.networks.network import CONDITIONINGS, Network
from statecast.recurrence.cells import Stack, within
from statecast.recurrence.run import run

WAYS = (*CONDITIONINGS, "first")  # where X may enter: also the input of the first step alone


@dataclass(frozen=True)
class Language:
    """A stack of cells between an embedding of tokens and a softmax over them.

    The state is the stack's, and: ``step``, how many steps were taken; ``static``, the encoded
    X, where it enters the inputs of every step.

    Parameters
    ----------
    stack : Stack
    head : Categorical
        Its codes are all that may come out.
    embedding : int
        Width of a token's embedding.
    tied : bool
        Whether the softmax takes the embeddings for its weights (Press and Wolf 2017).
    static : int
        Width of the encoded X among the inputs, 0 where it is not among them.
    each : bool
        Whether it stands there at every step, or at the first alone and zeros after.
    """

    stack: Stack
    head: Categorical
    embedding: int
    tied: bool = False
    static: int = 0
    each: bool = True

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
        """Of the stack's output."""
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


class LanguageNetwork(Network):
    """The trainable model of tokens.

    Parameters are those of ``Network``, with a ``Language`` for the decoder, ``"first"`` for a
    further conditioning, and ``dropout``, the share of the embeddings and of the stack's outputs
    that a training step leaves out.

    Call
    ----
    inputs : dict
        ``tokens`` int ``(rows, members or 1, steps)``; ``numeric`` float and ``codes`` int
        ``(rows, members or 1, n)``.
    returns : tensor, float32, ``(rows, members, steps + 1, head.size)``
        The log-probabilities of every step's token, and of the one after the last.
    """

    def __init__(self, decoder: Language, *, dropout: float = 0.0, **options: Any) -> None:
        super().__init__(decoder, **options)
        self.dropout = keras.layers.Dropout(dropout, seed=options.get("seed", 0))

    def call(self, inputs: Mapping[str, Any], training: bool = False) -> Any:
        decoder, weights = self.decoder, self._computed(self.cell_weights)
        tokens, numeric, codes = (
            ops.swapaxes(inputs[name], 0, 1) for name in ("tokens", "numeric", "codes")
        )
        # A sum of no columns is a column of zeros: the rows are known even without features.
        static = ops.cast(ops.sum(codes, axis=-1, keepdims=True), self.compute_dtype) * 0
        static = static + ops.zeros((self.members, 1, 1), self.compute_dtype)
        if self.featured:
            static = self.encoder(numeric, codes)
        state = dict(self.initial(static))

        start = ops.full_like(tokens[..., :1], decoder.start)
        taken = ops.concatenate([start, tokens], axis=-1)
        # One table for all members: each member's codes begin where the one's before end.
        first = np.arange(self.members, dtype="int32")[:, None, None] * (decoder.gap + 1)
        table = ops.reshape(weights["embedding"], (-1, decoder.embedding))
        x = ops.take(table, taken + first, axis=0)
        x = self.dropout(x, training=training)
        if decoder.static:
            beside = static[:, :, None, :] + ops.zeros_like(x[..., :1])
            if not decoder.each:
                begins = ops.cast(taken == decoder.start, beside.dtype)[..., None]
                beside = beside * begins
            x = ops.concatenate([x, beside], axis=-1)
        y, _ = run(decoder.stack, within(weights, "cell"), x, state)
        y = self.dropout(y, training=training)

        raw = ops.matmul(y, weights["head/kernel"][:, None])
        if decoder.tied:
            out = weights["embedding"][:, None, : decoder.head.size]
            raw = ops.matmul(raw, ops.swapaxes(out, -1, -2))
        raw = ops.cast(raw + weights["head/bias"][:, None, None, :], "float32")
        return ops.swapaxes(decoder.head.parameters(raw), 0, 1)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The members' mean negative log-likelihood over the tokens that count."""
        y, sample_weight = ops.convert_to_tensor(y), ops.convert_to_tensor(sample_weight)
        score = -ops.sum(self.decoder.head.log_likelihood(y_pred, y) * sample_weight, axis=(0, 2))
        weight = ops.sum(sample_weight, axis=(0, 2))
        self.score.update_state(score, weight)
        return ops.mean(score / ops.maximum(weight, 1.0))
