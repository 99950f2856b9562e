"""The graphs of a ``TokenForecaster``: from X to a state, and one step of a state.

The equations are those of ``tokens.engine``. The cells and the head are the same code, which
records its graph (``export.graph``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from statecast.export.graph import Graph, log_sum_exp, take
from statecast.export.numbers import (
    AFTER,
    F4,
    I8,
    Leaf,
    cell_leaves,
    encoded,
    features,
    initial,
    read_state,
    row_zeros,
    write_state,
)
from statecast.recurrence.cells import within
from statecast.tables.schema import Schema
from statecast.tokens.decoder import TokenDecoder


class TokenGraphs:
    """The graphs of a fitted ``TokenForecaster``.

    Parameters
    ----------
    decoder : TokenDecoder
    weights : mapping of str to array
        As in a model file.
    schema : Schema
    """

    def __init__(
        self, decoder: TokenDecoder, weights: Mapping[str, np.ndarray], schema: Schema
    ) -> None:
        self.decoder, self.weights, self.schema = decoder, weights, schema
        self.members = len(weights["decoder/head/bias"])

    @property
    def leaves(self) -> dict[str, Leaf]:
        """The leaves of the state, by name. They are float32."""
        return cell_leaves(self.decoder, self.members)

    def encode(self) -> Graph:
        """The graph from the static features to the state before the first token."""
        graph, decoder = Graph("encode"), self.decoder
        numeric, codes = features(graph, self.schema.static)
        nothing = row_zeros(graph, numeric, codes)
        x: Any = None
        if numeric is not None or codes is not None:
            x = encoded(within(self.weights, "encoder"), numeric, codes)
        state = initial(within(self.weights, "initial"), decoder.stack.state_shapes, x, nothing)
        start = self.weights["decoder/embedding"][:, decoder.start][:, None] + nothing
        after = self._step(state, start, x if decoder.static else None)
        after["step"] = np.zeros((self.members, 1, 1), F4) + nothing
        self._finish(graph, after, x)
        return graph

    def step(self) -> Graph:
        """The graph of one step: from a state and a token to the next state, and the
        log-probabilities of the token after it."""
        graph, decoder = Graph("step"), self.decoder
        leaves = {n: x.swapaxes(0, 1) for n, x in read_state(graph, self.leaves).items()}
        code = graph.input("code", I8, ("rows",), "the code of the token")
        x: Any = leaves.get("static")
        if x is None and decoder.static:  # X was an input of the first step only
            x = np.zeros((self.members, 1, decoder.static), F4) + leaves["step"] * F4.type(0)
        token = take(self.weights["decoder/embedding"], code, axis=1)
        after = self._step(within(leaves, "cell"), token, x)
        after["step"] = leaves["step"] + F4.type(1)
        self._finish(graph, after, leaves.get("static"), AFTER)
        return graph

    def _step(self, state: Mapping[str, Any], token: Any, x: Any) -> dict[str, Any]:
        """A step of the cells: the leaves after it, members first."""
        if x is not None:
            token = np.concatenate([token, x], axis=-1)
        weights = within(self.weights, "decoder/cell")
        _, after = self.decoder.stack.step(weights, token, dict(state), np)
        return {f"cell/{name}": leaf for name, leaf in after.items()}

    def _finish(self, graph: Graph, after: dict[str, Any], x: Any, start: str = "") -> None:
        """The outputs: the state, and the log-probabilities of the next token."""
        decoder, inner = self.decoder, within(self.weights, "decoder")
        if "static" in self.leaves:
            after["static"] = x
        kernel = inner["head/kernel"]
        if decoder.tied:
            table = inner["embedding"][:, : decoder.head.size]
            kernel = np.matmul(kernel, table.swapaxes(1, 2))
        output = decoder.stack.output(within(after, "cell"))
        raw = np.matmul(output, kernel) + inner["head/bias"][:, None]
        each = decoder.head.parameters(raw)
        mean = log_sum_exp(each, 0) - F4.type(np.log(self.members))
        first = {name: leaf.swapaxes(0, 1) for name, leaf in after.items()}
        write_state(graph, self.leaves, first, start)
        meaning = "the log-probability of each code as the next token, in nats"
        graph.output("log_probabilities", mean, ("rows", decoder.head.size), meaning)
