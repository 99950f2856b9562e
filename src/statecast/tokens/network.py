"""The conditional recurrent network of tokens, from embeddings to a softmax. It reads no tables.

X sets the initial state, or is an input of the first step or of every step. The inputs of the
network are "start" and then the observed tokens. The output after a step gives the distribution of
the next token, so that one pass over complete sequences (teacher forcing) trains and scores all
prefix lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from statecast.networks.network import Network
from statecast.recurrence.cells import within
from statecast.recurrence.run import run
from statecast.tokens.decoder import TokenDecoder


class TokenNetwork(Network):
    """The trainable model of tokens.

    The parameters are those of ``Network``. The decoder is a ``TokenDecoder``; ``conditioning`` may
    also be "first"; and ``dropout`` is the share of the embeddings and of the stack's outputs that
    are set to zero in a training step.

    Call
    ----
    inputs : dict
        ``tokens`` int ``(rows, members or 1, steps)``; ``numeric`` float and ``codes`` int
        ``(rows, members or 1, n)``.
    returns : tensor, float32, ``(rows, members, steps + 1, head.size)``
        The log-probabilities of the token of every step, and of the one after the last step.
    """

    def __init__(self, decoder: TokenDecoder, *, dropout: float = 0.0, **options: Any) -> None:
        super().__init__(decoder, **options)
        self.computes = (*self.computes, dropout)
        self.dropout = keras.layers.Dropout(dropout, seed=options.get("seed", 0))
        # The own members as a variable: one compiled training step serves all of them.
        self.drawn = self.add_weight(
            name="drawn", shape=(self.members,), dtype="int32", initializer="zeros", trainable=False
        )
        self.drawn.assign(range(self.ensemble)[self.own])

    def begin(self, weights: Mapping[str, np.ndarray], own: slice) -> None:
        super().begin(weights, own)
        self.drawn.assign(range(self.ensemble)[own])

    def _dropped(self, x: Any, training: bool) -> Any:
        """``x``, ``(members, ...)``, with dropout in a training step.

        It is drawn for all members, so that a member has the same whichever members it is trained
        with.
        """
        if not (training and self.dropout.rate):
            return x
        ones = ops.ones((self.ensemble, *ops.shape(x)[1:]), x.dtype)
        return x * ops.take(self.dropout(ones, training=True), self.drawn, axis=0)

    def call(self, inputs: Mapping[str, Any], training: bool = False) -> Any:
        decoder, weights = self.decoder, self.decoder_weights()
        tokens, numeric, codes = (
            ops.swapaxes(inputs[name], 0, 1) for name in ("tokens", "numeric", "codes")
        )
        # The sum of zero columns is a column of zeros, which has the rows even without features.
        static = ops.cast(ops.sum(codes, axis=-1, keepdims=True), self.compute_dtype) * 0
        static = static + ops.zeros((self.members, 1, 1), self.compute_dtype)
        if self.featured:
            static = self.encoder(numeric, codes)
        state = dict(self.initial(static))

        start = ops.full_like(tokens[..., :1], decoder.start)
        code = ops.concatenate([start, tokens], axis=-1)
        # The tables of the members are stacked to one: the codes of each member are offset.
        first = np.arange(self.members, dtype="int32")[:, None, None] * (decoder.gap + 1)
        first = ops.convert_to_tensor(first)
        table = ops.reshape(weights["embedding"], (-1, decoder.embedding))
        x = ops.take(table, code + first, axis=0)
        x = self._dropped(x, training)
        if decoder.static:
            beside = static[:, :, None, :] + ops.zeros_like(x[..., :1])
            if not decoder.each:
                begins = ops.cast(code == decoder.start, beside.dtype)[..., None]
                beside = beside * begins
            x = ops.concatenate([x, beside], axis=-1)
        y, _ = run(decoder.stack, within(weights, "cell"), x, state)
        y = self._dropped(y, training)

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
        """The mean over the ensemble of the members' mean negative log-likelihoods, over the tokens
        with weight 1.

        ``sample_weight``, ``(rows, members, steps + 1)``, is 1 for a token that counts, else 0.
        """
        y, sample_weight = ops.convert_to_tensor(y), ops.convert_to_tensor(sample_weight)
        score = -ops.sum(self.decoder.head.log_likelihood(y_pred, y) * sample_weight, axis=(0, 2))
        weight = ops.sum(sample_weight, axis=(0, 2))
        return self.measured(score, weight)
