"""``Sequences``: decoded sequences of tokens, as arrays, texts and tables."""

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
    """Sequences of tokens after each item's prefix, sampled or found by a beam search.

    Attributes
    ----------
    ids : array, ``(items,)``
    known : array of int, ``(items,)``
        The prefix length of each item. Its sequences begin at the next step.
    values : array of objects, ``(items, n, until)``
        Tokens; None on the prefix and after the last token of a sequence.
    log_likelihood : array, float64, ``(items, n)``
        Of the sequence given X and the prefix, in nats; with its end if it ended. Minus infinity
        for a sequence that the search did not find.
    ended : array of bool, ``(items, n)``
        Whether the sequence ended; otherwise it was cut at ``until``.
    schema : Schema
        Of the forecaster.
    origin : array of datetime64, ``(items,)``, or None
        The date of each item's step 1; None if steps are numbers.
    kind : Kind or None
        The library of the tables and the type of the ids; None if the sequences start from a state.
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
        """Collect decoded sequences, and place each after its item's prefix.

        Parameters
        ----------
        found : sequence of Found
            Consecutive parts of ``rows``.
        rows : array of int
            The items that were decoded. The others have empty sequences.
        each : int
            The number of sequences of an item.
        until : int
            The last step.
        ids, known, schema, origin, kind
            The attributes of the result.
        """
        assert schema.vocabulary is not None  # of tokens
        codes = np.full((len(ids), each, until), -1)
        nats, ended = np.zeros((len(ids), each)), np.zeros((len(ids), each), bool)
        first = 0
        for part in found:
            decoded = rows[first : first + len(part.codes)]
            for row, some in zip(decoded, part.codes, strict=True):
                width = min(some.shape[1], until - known[row])
                codes[row, :, known[row] : known[row] + width] = some[:, :width]
            nats[decoded], ended[decoded] = part.nats, part.ended
            first += len(decoded)
        return cls(ids, known, schema.vocabulary.decode(codes), nats, ended, schema, origin, kind)

    def __repr__(self) -> str:
        items, each, until = self.values.shape
        return (
            f"<Sequences: {items:,} items, {each:,} sequences each, up to step "
            f"{self.schema.number(until):,}>"
        )

    def text(self, between: str = "") -> list[list[str]]:
        """The sequences as text: for each item a list of n texts, tokens joined by ``between``."""
        return [
            [between.join(str(token) for token in row if token is not None) for row in sequences]
            for sequences in self.values
        ]

    def table(self, name: str = "path", *, scored: bool = False) -> Any:
        """A long table: the id, the step, and a column for each sequence, ``path-1`` and so on.

        A sequence that ended has null at the step of its end and at later steps; one without a null
        did not end. The rows of an item go up to the end of its longest sequence, or to ``until``.

        Parameters
        ----------
        name : str
            The columns are ``name-1``, ``name-2``, ... With another name than "path", the first one
            is ``name``.
        scored : bool
            Add the log-probability of each sequence in nats, in a column ``path-1-nats``, ..., the
            same in all rows of an item.
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
        return self.schema.output(self.kind).table(
            named,
            ids=self.ids,
            known=self.known,
            origin=self.origin,
            last=np.minimum(last, until),
        )
