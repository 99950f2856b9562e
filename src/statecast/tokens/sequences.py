"""``Sequences``: the forecasts of tokens, as arrays, texts and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from statecast.tables.ids import Kind
from statecast.tables.schema import Schema
from statecast.tokens.decoding import Found


@dataclass(frozen=True)
class Sequences:
    """Sequences of tokens after each item's prefix: sampled, or found by a search.

    Attributes
    ----------
    ids : array, ``(items,)``
    known : array of int, ``(items,)``
        Each item's prefix length; its sequences begin at the step after.
    values : array of objects, ``(items, n, until)``
        Tokens; None on the prefix and after a sequence's last token.
    log_likelihood : array, float64, ``(items, n)``
        Of the sequence given X and the prefix, in nats, the end included where it ended; minus
        infinity where a search found fewer than n.
    ended : array of bool, ``(items, n)``
        Whether it ended before ``until``, and was not cut there.
    """

    ids: np.ndarray
    known: np.ndarray
    values: np.ndarray
    log_likelihood: np.ndarray
    ended: np.ndarray
    schema: Schema
    origin: np.ndarray | None = None
    kind: Kind | None = None

    @classmethod
    def place(
        cls,
        found: Sequence[Found],
        rows: np.ndarray,
        each: int,
        ids: np.ndarray,
        known: np.ndarray,
        until: int,
        schema: Schema,
        origin: np.ndarray | None,
        kind: Kind | None,
    ) -> Sequences:
        """The sequences that decoding found, ``each`` of an item, put at their own steps.

        Parameters
        ----------
        found : sequence of Found
            In chunks of ``rows``.
        rows : array of int
            The items that were decoded. The others have empty sequences.
        each, until : int
        ids, known, schema, origin, kind
            As the attributes.
        """
        assert schema.vocabulary is not None  # of tokens
        codes = np.full((len(ids), each, until), -1)
        nats, ended = np.zeros((len(ids), each)), np.zeros((len(ids), each), bool)
        first = 0
        for part in found:
            own = rows[first : first + len(part.codes)]
            for row, some in zip(own, part.codes, strict=True):
                width = min(some.shape[1], until - known[row])
                codes[row, :, known[row] : known[row] + width] = some[:, :width]
            nats[own], ended[own] = part.nats, part.ended
            first += len(own)
        return cls(ids, known, schema.vocabulary.decode(codes), nats, ended, schema, origin, kind)

    def __repr__(self) -> str:
        items, each, until = self.values.shape
        return (
            f"<Sequences: {items:,} items, {each:,} sequences each, up to step "
            f"{self.schema.number(until):,}>"
        )

    def text(self, between: str = "") -> list[list[str]]:
        """The sequences as text, n of each item: the tokens joined by ``between``."""
        return [
            [between.join(str(token) for token in row if token is not None) for row in sequences]
            for sequences in self.values
        ]

    def table(self, name: str = "path", *, scored: bool = False) -> Any:
        """A long table: the id, the step, and a column a sequence, ``path-1``, ``path-2``, ...

        An item's rows go on to the step at which its longest sequence ended. Null stands at a
        sequence's end and after it, so a sequence without a null did not end. With ``scored`` each
        column is followed by its log-probability, ``path-1-nats``, the same in all of an item's
        rows.
        """
        _, n, until = self.values.shape
        named: dict[str, np.ndarray] = {}
        for i in range(n):
            column = f"{name}-{i + 1}" if name == "path" or i else name
            named[column] = self.values[:, i]
            if scored:
                nats = np.repeat(self.log_likelihood[:, i, None], until, axis=1)
                named[f"{column}-nats"] = nats
        tokens = (self.values != None).sum(axis=2)  # noqa: E711  of each element
        last = self.known + (tokens + self.ended).max(axis=1, initial=0)
        return self.schema.table(
            named,
            ids=self.ids,
            known=self.known,
            origin=self.origin,
            kind=self.kind,
            last=np.minimum(last, until),
        )
