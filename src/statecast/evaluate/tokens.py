"""Scores of tokens: bits per token of a forecaster and of n-grams, at every prefix length.

Bits per token are the mean of ``-log2 p(token)`` over the tokens that are scored; the end of a
sequence counts as a token. Smaller is better. Perplexity is 2 to the power of the bits per token.
Every token is scored given the observed tokens before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from statecast import notebook
from statecast.interrupt import noted
from statecast.progress import Stage
from statecast.tables.features import every_category, one_hot
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema
from statecast.tables.vocabulary import END
from statecast.tokens.forecaster import TokenForecaster
from statecast.tokens.ngrams import CodedSequences, log_likelihoods

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class TokenRow:
    """The score of one method at one prefix length.

    Attributes
    ----------
    method : str
    known : int
        The prefix length k. The tokens after step k are scored.
    bits : float
        Bits per token.
    items : int
        The number of items that were scored: those with a token or an end after step k.
    tokens : int
        The number of tokens that were scored, with the ends.
    """

    method: str
    known: int
    bits: float
    items: int
    tokens: int


@dataclass(frozen=True)
class TokenScores:
    """The scores of tokens from ``cross_validation``: ``print`` them, use ``scores[method, k]``, or
    call ``table()``.

    Attributes
    ----------
    rows : tuple of TokenRow
        A row for each method and prefix length, in order of prefix length, the forecaster first.
    forecaster : str
        The forecaster's name among the methods.
    folds : int
        The number of folds that were scored.

    Examples
    --------
    >>> ours = TokenRow("statecast", 0, 2.25, 100, 1200)
    >>> theirs = TokenRow("n-gram", 0, 2.5, 100, 1200)
    >>> scores = TokenScores((ours, theirs), "statecast", 1)
    >>> scores["n-gram", 0].bits, scores.best(0).method, round(scores.skill(0), 3)
    (2.5, 'n-gram', 0.1)
    """

    rows: tuple[TokenRow, ...]
    forecaster: str
    folds: int

    @cached_property
    def _cells(self) -> dict[tuple[str, int], TokenRow]:
        return {(row.method, row.known): row for row in self.rows}

    def __getitem__(self, cell: tuple[str, int]) -> TokenRow:
        """Return the row of ``scores[method, k]``."""
        if cell not in self._cells:
            raise KeyError(f"{cell}: expected a method and a k of {sorted(self._cells)}")
        return self._cells[cell]

    def best(self, known: int) -> TokenRow | None:
        """Return the row of the best baseline at a prefix length; None without baselines."""
        others = [r for r in self.rows if r.known == known and r.method != self.forecaster]
        return min(others, key=lambda row: row.bits, default=None)

    def skill(self, known: int) -> float | None:
        """Return ``1 - forecaster / best baseline``, in bits; above 0 if the forecaster is better.

        None without baselines.
        """
        best = self.best(known)
        return None if best is None else 1 - self[self.forecaster, known].bits / best.bits

    def table(self) -> pl.DataFrame:
        """Return the rows as a polars table; the forecaster's rows also have its skill."""
        import polars as pl

        names = ("method", "known", "bits", "items", "tokens")
        columns: dict[str, list[Any]] = {n: [getattr(r, n) for r in self.rows] for n in names}
        columns["skill_bits"] = [
            self.skill(row.known) if row.method == self.forecaster else None for row in self.rows
        ]
        return pl.DataFrame(columns, schema_overrides={"skill_bits": pl.Float64})

    def __repr__(self) -> str:
        methods = ", ".join(dict.fromkeys(row.method for row in self.rows))
        known = ", ".join(map(str, dict.fromkeys(row.known for row in self.rows)))
        return f"<TokenScores of {methods}; k = {known}; folds: {self.folds}>"

    def _repr_html_(self) -> str:
        known = list(dict.fromkeys(row.known for row in self.rows))
        methods = dict.fromkeys(row.method for row in self.rows)
        rows = [[method, *(self[method, k].bits for k in known)] for method in methods]
        head = ["bits per token", *(f"k = {k}" for k in known)]
        return notebook.heading(str(self).splitlines()[0]) + notebook.table(
            head, rows, bold=self.forecaster
        )

    def __str__(self) -> str:
        count = "1 fold" if self.folds == 1 else f"{self.folds} folds"
        lines = [f"Sequences held out from training: {count}, bits per token, smaller is better."]
        wide = max(len(row.method) for row in self.rows)
        for k in dict.fromkeys(row.known for row in self.rows):
            rows = [row for row in self.rows if row.known == k]
            lines += ["", f"k = {k}: {rows[0].items:,} items, {rows[0].tokens:,} tokens"]
            lines += [f"  {row.method:{wide}}  {row.bits:.3f}" for row in rows]
            best, skill = self.best(k), self.skill(k)
            if best is not None and skill is not None:
                verdict = f"by {100 * skill:.1f} %" if skill > 0 else f"{-100 * skill:.1f} % worse"
                beats = "beats" if skill > 0 else "does not beat"
                lines.append(
                    f"  {self.forecaster} {beats} the best baseline, {best.method}: {verdict}."
                )
        return "\n".join(lines)


def token_scores(
    forecaster: TokenForecaster,
    parts: Iterable[tuple[Any, dict[str, Any], dict[str, Any]]],
    folds: int,
    known: Sequence[int],
    *,
    baselines: bool,
    seed: int,
    callbacks: Sequence[Any],
    progress: Stage,
) -> TokenScores:
    """Score the items of each fold by a fit on the other folds.

    ``parts`` yields the name, the training tables and the test tables of each fold. The other
    parameters are those of ``cross_validation``.
    """
    ours = "statecast"
    totals: dict[tuple[str, int], list[float]] = {}
    items = dict.fromkeys(known, 0)

    for number, (name, train, test) in enumerate(parts):
        where = f"fold {name} ({number + 1} of {folds})"
        progress(f"{where}: fit", 2 * number, 2 * folds)
        fitted = forecaster.clone()
        with noted() as interrupt:
            fitted.fit(**train, callbacks=callbacks)
            interrupt.check()
        progress(f"{where}: score", 2 * number + 1, 2 * folds)
        schema, ends = fitted.schema, fitted.settings.ends
        panel = schema.panel(**test)
        assert schema.vocabulary is not None  # of tokens
        sequences = _coded(schema, panel, ends)
        nats = {ours: fitted.engine.panel_log_likelihoods(panel)}
        if baselines:
            whole = _coded(schema, schema.panel(**train, for_fit=True), ends)
            nats |= log_likelihoods(whole, sequences, tokens=schema.vocabulary.size, seed=seed)
        for k in known:
            counted = sequences.codes[:, k:] >= 0
            items[k] += int(counted.any(axis=1).sum())
            for method, each in nats.items():
                total = totals.setdefault((method, k), [0.0, 0])
                total[0] -= float(each[:, k:][counted].sum())
                total[1] += int(counted.sum())
    progress("done", 2 * folds, 2 * folds)
    methods = list(dict.fromkeys(method for method, _ in totals))
    rows = []
    for k in known:
        for method in methods:
            nat, count = totals[method, k]
            bits = nat / count / np.log(2) if count else np.nan
            rows.append(TokenRow(method, k, bits, items[k], int(count)))
    return TokenScores(tuple(rows), ours, folds)


def _coded(schema: Schema, panel: Panel, ends: bool) -> CodedSequences:
    """The sequences and static features of a panel, for the n-grams."""
    codes = np.full((panel.rows, panel.y.shape[1] + 1), -1)
    codes[:, :-1][panel.mask] = panel.y[panel.mask]
    if ends:
        codes[np.arange(panel.rows), panel.known] = END
    categories = every_category(schema.static.cardinalities, first=1)
    return CodedSequences(codes, one_hot(panel.numeric, panel.codes, categories))
