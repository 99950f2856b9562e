"""Training batches of token sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from statecast.networks.batches import GAPS, STEPS, Batches, Draws, padded_rows, padded_width
from statecast.networks.decoder import ALL
from statecast.tables.panel import Panel
from statecast.tables.vocabulary import END, UNKNOWN
from statecast.tokens.decoder import TokenDecoder

GAPPED = 0.05  # the share of sequences with gaps; less than for numbers, as each token matters
VALIDATION_ROWS = 2000  # the most held-out sequences of a member


class TokenBatches(Batches):
    """Complete sequences of tokens for each member, in batches of similar length.

    One pass scores every prefix length, so no prefix is drawn. If sequences end, the end is a
    token. With a seed, each epoch draws new rows; some tokens are masked at random; and a token
    that occurs only once in the panel is replaced by "unknown" with probability 1/2, which trains
    "unknown".

    Parameters
    ----------
    panel : Panel
    rows : sequence of array of int
        The rows of each member.
    decoder : TokenDecoder
    ends : bool
        Whether sequences end after their last token.
    batch : int
        The number of rows in a batch; all rows if they are fewer. Without a seed they are padded
        by rows that do not count.
    seed : int, optional
        None for rows in a fixed order without masking and replacement.
    own : slice
        The members that are trained; see ``Batches``.
    """

    def __init__(
        self,
        panel: Panel,
        rows: Sequence[np.ndarray],
        decoder: TokenDecoder,
        *,
        ends: bool,
        batch: int,
        seed: int | None = None,
        own: slice = ALL,
    ) -> None:
        most = max(map(len, rows))
        batch = min(batch, most if seed is not None else padded_rows(most))
        steps = math.ceil(most / batch)
        super().__init__(panel, batch, steps if seed is None else max(STEPS, steps), own)
        self.rows, self.decoder, self.ends = rows, decoder, ends
        self.draws, self.feature_draws = (
            None if seed is None else Draws(np.random.default_rng([seed, use]), len(rows), own)
            for use in (2, 5)
        )
        self.code = np.where(panel.mask, panel.y, decoder.gap).astype("int32")
        count = np.bincount(self.code[panel.mask], minlength=decoder.gap + 1)
        self.rare = (count == 1)[self.code] & panel.mask
        self.order = self.by_length(rows, None)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        if self.draws is not None:
            self.order = self.epoch(self.rows, self.draws.rng)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        gap, rows = self.decoder.gap, self.order[index]
        width = padded_width(self.longest(rows) + 1) - 1  # with "start", one of few widths
        rows = rows[:, self.own]
        code = self.code[rows]
        code = np.pad(code, [(0, 0), (0, 0), (0, max(0, width - code.shape[-1]))])[..., :width]
        steps, length = np.arange(width + 1), self.length[rows][..., None]
        code = np.where(steps[:-1] < length, code, gap)
        target = np.concatenate([code, np.full_like(code[..., :1], gap)], axis=-1)
        if self.ends:
            target = np.where(steps == length, END, target)
        counted = (target != gap) & (rows >= 0)[..., None]
        if self.draws is not None:
            rare = np.pad(self.rare, [(0, 0), (0, max(0, width - self.rare.shape[1]))])
            rare = rare[rows][..., :width] & (self.draws.random(code.shape) < 0.5)
            code = np.where(rare, UNKNOWN, code)
            target[..., :-1][rare] = UNKNOWN
            gapped = self.draws.random(rows.shape) < GAPPED
            gaps = gapped[..., None] & (self.draws.random(code.shape) < GAPS)
            code = np.where(gaps, gap, code)
        return (
            {"tokens": code, **self.static(rows)},
            np.where(counted, target, 0),
            counted.astype("float32"),
        )
