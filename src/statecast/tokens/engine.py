"""A trained network of tokens on NumPy arrays: states, scores and sequences.

After training no graph of a backend is needed: a step of our kernel on arrays takes
microseconds, so decoding runs at the same speed, and gives the same, on every backend. Where
the kernel is not built, the steps are those of ``cells`` in NumPy's float32.

An ensemble speaks as one model: the probability of the next token is the mean of its members'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from statecast.errors import ArgumentError
from statecast.networks.network import IN_STATE
from statecast.recurrence.cells import within
from statecast.recurrence.kernels.native.arrays import Recurrence, refuses
from statecast.recurrence.kernels.native.softmax import Softmax
from statecast.tables.parse import Kind
from statecast.tables.schema import Panel, Schema
from statecast.tables.vocabulary import END, UNKNOWN, Vocabulary
from statecast.tokens import decoding
from statecast.tokens.decoding import Beam, Found, Rules, Sampling
from statecast.tokens.network import Language

_CELLS = 1 << 24  # log-probabilities at once: 64 MB of float32

# NumPy's products on one thread: they are small, and OpenBLAS waits busily for a thread that has
# lost its CPU. Beside other work on the same two cores that took sixty times as long.
_ALONE = ThreadpoolController().wrap(limits=1, user_api="blas")

Inner = list[dict[str, np.ndarray]]  # a state inside: the leaves of each member, rows first


class Speaker:
    """The network of a fitted forecaster of tokens.

    Parameters
    ----------
    language : Language
    weights : mapping of str to array
        As a model file names them.
    conditioning : str
        Where X enters.
    ends : bool
        Whether sequences end by themselves.
    """

    def __init__(
        self,
        language: Language,
        weights: Mapping[str, np.ndarray],
        conditioning: str,
        *,
        ends: bool,
    ) -> None:
        self.language, self.ends, self._conditioning = language, ends, conditioning
        self._members = len(weights["decoder/embedding"])
        own = [{n: w[m] for n, w in weights.items()} for m in range(self._members)]
        self._encoder = [within(w, "encoder") for w in own]
        self._initial = [within(w, "initial") for w in own]
        decoder = [within(w, "decoder") for w in own]
        self._embedding = [w["embedding"] for w in decoder]
        kernel = [w["head/kernel"] for w in decoder]
        if language.tied:  # one product in place of two, a step
            size = language.head.size
            kernel = [k @ e[:size].T for k, e in zip(kernel, self._embedding, strict=True)]
        stack = language.stack
        built = refuses(stack) is None
        softmax: Any = Softmax if built else _PlainSoftmax
        # What a token gives to the gates, looked up where that is no larger than the weights it
        # stands beside: else it is multiplied out at every step.
        self._coded = built and len(self._embedding[0]) <= language.units
        self._cells = [self._cell(within(w, "cell"), w["embedding"], built) for w in decoder]
        self._softmax = softmax(np.stack(kernel), np.stack([w["head/bias"] for w in decoder]))

    def _cell(self, weights: dict[str, np.ndarray], embedding: np.ndarray, built: bool) -> Any:
        stack = self.language.stack
        if not built:
            return _PlainCell(stack, weights)
        if not self._coded:
            return Recurrence(stack, weights)
        of_token, of_static = np.split(weights["0/kernel"], [embedding.shape[1]])
        weights["0/kernel"] = np.concatenate([of_static, embedding @ of_token])
        return Recurrence(stack, weights, codes=len(embedding))

    # -- the state, as the forecaster has it: leaves (rows, members, ...) ----------------

    @_ALONE
    def start(self, numeric: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
        """The leaves before the first token, from static features ``(rows, n)``."""
        language, rows = self.language, len(codes)
        begun = np.full(rows, language.start)
        members: Inner = []
        for m in range(self._members):
            x = self._encoded(m, numeric, codes)
            before = {n: np.asarray(leaf) for n, leaf in self._begin(m, x, rows).items()}
            if language.static:
                before["static"] = x
            _, after = self._step(m, before, begun)
            if language.static and language.each:
                after["static"] = x
            members.append(after)
        return self._outer(members, np.zeros((rows, self._members, 1), np.float32))

    def advance(
        self, leaves: Mapping[str, np.ndarray], code: np.ndarray, taken: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The leaves after the first ``taken (rows,)`` of the tokens ``code (rows, steps)``."""
        inner, steps = self._inner(leaves), leaves["step"] + taken[:, None, None]
        after = [{n: leaf.copy() for n, leaf in member.items()} for member in inner]
        for length in np.unique(taken[taken > 0]).tolist():
            rows = np.flatnonzero(taken == length)
            for m, member in enumerate(inner):
                own = {n: leaf[rows] for n, leaf in member.items()}
                _, moved = self._run(m, own, code[rows, :length])
                for name, leaf in moved.items():
                    after[m][name][rows] = leaf
        return self._outer(after, steps.astype(np.float32))

    def codes(self, value: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """What goes in for a panel's ``y`` and ``mask``: a gap where nothing was observed."""
        return np.where(seen, value, self.language.gap).astype(np.int64)

    # -- scores --------------------------------------------------------------------------

    @_ALONE
    def log_likelihoods(
        self, leaves: Mapping[str, np.ndarray], code: np.ndarray, length: np.ndarray, ended: bool
    ) -> np.ndarray:
        """The log-probability, in nats, of each token of ``code (rows, steps)``, and of the end.

        Returns
        -------
        array, float64, ``(rows, steps + 1)``
            NaN for gaps and beyond ``length (rows,)``, where the end stands if ``ended``.
        """
        rows, steps = code.shape
        target = np.concatenate([code, np.full((rows, 1), self.language.gap)], axis=1)
        at = np.arange(steps + 1)
        target = np.where(at < length[:, None], target, self.language.gap)
        if ended and self.ends:
            target = np.where(at == length[:, None], END, target)
        counted = target != self.language.gap
        target = np.where(counted, target, 0)
        out = np.full(target.shape, np.nan)
        size = max(1, _CELLS // ((steps + 1) * self.language.head.size))
        inner = self._inner(leaves)
        for part in range(0, rows, size):
            some = slice(part, part + size)
            outputs = []
            for m, member in enumerate(inner):
                before = {n: leaf[some] for n, leaf in member.items()}
                first = self.language.stack.output(before)[:, None]
                y, _ = self._run(m, before, code[some])
                outputs.append(np.concatenate([first, y], axis=1).reshape(-1, y.shape[-1]))
            nats = self._softmax.log_probabilities(np.stack(outputs))
            own = target[some].reshape(-1, 1)
            out[some] = np.take_along_axis(nats, own, axis=1).reshape(-1, steps + 1)
        return np.where(counted, out, np.nan)

    def panel_log_likelihoods(self, panel: Panel, *, ended: bool = True) -> np.ndarray:
        """As ``log_likelihoods``, of a panel from its start."""
        nats = np.full((panel.rows, panel.y.shape[1] + 1), np.nan)
        for rows in np.array_split(np.arange(panel.rows), max(1, panel.rows // 1024)):
            part = panel.take(rows)
            leaves = self.start(part.numeric, part.codes)
            code = self.codes(part.y, part.mask)
            nats[rows] = self.log_likelihoods(leaves, code, part.known, ended)
        return nats

    # -- what decoding asks ----------------------------------------------------------------

    def log_probabilities(self, state: Inner) -> np.ndarray:
        """Of the next token, float32 ``(rows, tokens)``."""
        return self._softmax.log_probabilities(self._outputs(state))

    def likeliest(
        self, state: Inner, most: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of the tokens ``allowed`` the likeliest, as ``decoding.likeliest`` picks them."""
        return self._softmax.likeliest(self._outputs(state), most, allowed)

    def take_in(self, state: Inner, rows: np.ndarray, codes: np.ndarray) -> Inner:
        """The state after ``codes[i]`` in its row ``rows[i]``, any of them several times."""
        after = []
        for m, member in enumerate(state):
            static = {n: leaf[rows] for n, leaf in member.items() if n == "static"}
            _, moved = self._step(m, member | static, codes, rows)
            after.append(moved | static)
        return after

    @_ALONE
    def search(
        self, leaves: Mapping[str, np.ndarray], room: np.ndarray, beam: Beam, rules: Rules
    ) -> Found:
        """``decoding.search`` from leaves."""
        return decoding.search(self, self._inner(leaves), room, beam, rules)

    @_ALONE
    def sample(
        self,
        leaves: Mapping[str, np.ndarray],
        room: np.ndarray,
        uniform: np.ndarray,
        sampling: Sampling,
        rules: Rules,
    ) -> Found:
        """``decoding.sample`` from leaves."""
        return decoding.sample(self, self._inner(leaves), room, uniform, sampling, rules)

    def rules(self, vocabulary: Vocabulary, how: Beam | Sampling, room: np.ndarray) -> Rules:
        """What may be said, from the tokens that ``how`` names.

        Raises
        ------
        ArgumentError
            A token that was never met, one both required and forbidden, more required than
            there is room for, or nothing left to say.
        """
        allowed = np.ones(self.language.head.size, bool)
        allowed[[UNKNOWN, *vocabulary.known("forbidden", how.forbidden)]] = False
        allowed[END] = self.ends
        required = vocabulary.known("required", how.required)
        for code in required:
            if not allowed[code]:
                token = vocabulary.decode(code)
                raise ArgumentError(f"The token {token!r} is both required and forbidden.")
        if not allowed[END + 1 :].any():
            raise ArgumentError("forbidden: expected that some token is left; none is.")
        if len(required) > room.min(initial=len(required)):
            raise ArgumentError(
                f"required: expected at most as many tokens as steps are left, {room.min()}; "
                f"received {len(required)}. Ask for a later step."
            )
        return Rules(allowed, tuple(required), END)

    # -- inside ----------------------------------------------------------------------------

    def _encoded(self, m: int, numeric: np.ndarray, codes: np.ndarray) -> np.ndarray:
        weights = self._encoder[m]
        if not weights:
            return np.zeros((len(codes), 0), np.float32)
        x = np.broadcast_to(weights["bias"], (len(codes), len(weights["bias"])))
        if "kernel" in weights:
            x = x + numeric @ weights["kernel"]
        for i in range(codes.shape[1]):
            x = x + weights[f"embedding_{i}"][codes[:, i]]
        return np.tanh(x)

    def _begin(self, m: int, x: np.ndarray, rows: int) -> dict[str, np.ndarray]:
        """The stack's initial state."""
        weights, leaves = self._initial[m], self.language.stack.state_shapes
        if x.shape[1] and self._conditioning in IN_STATE:
            depth = 0
            while f"trunk_{depth}/kernel" in weights:
                trunk = within(weights, f"trunk_{depth}")
                x, depth = np.tanh(x @ trunk["kernel"] + trunk["bias"]), depth + 1
            return {n: x @ weights[f"{n}/kernel"] + weights[f"{n}/bias"] for n in leaves}
        return {n: np.repeat(weights[n][None], rows, axis=0) for n in leaves}

    def _step(
        self,
        m: int,
        before: Mapping[str, np.ndarray],
        codes: np.ndarray,
        rows: np.ndarray | None = None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        x, code = self._taken(m, before, codes)
        return self._cells[m].step(x, self._own(before), code, rows)

    def _run(
        self, m: int, before: Mapping[str, np.ndarray], codes: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        x, code = self._taken(m, before, codes)
        return self._cells[m].run(x, self._own(before), code)

    def _outputs(self, state: Inner) -> np.ndarray:
        """What the stack last put out, ``(members, rows, units)``."""
        outputs = [self.language.stack.output(member) for member in state]
        return np.stack(outputs) if len(outputs) > 1 else outputs[0][None]  # not copied

    def _own(self, leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {n: leaf for n, leaf in leaves.items() if n != "static"}

    def _taken(
        self, m: int, before: Mapping[str, np.ndarray], codes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What the cells take in for ``codes (...)``, rows first: x, and codes if they know any."""
        static = before.get("static")
        if static is None:  # X came with the first step, or does not come so
            static = np.zeros((len(codes), self.language.static), np.float32)
        static = static[:, None] if codes.ndim == 2 else static
        static = np.broadcast_to(static, (*codes.shape, self.language.static))
        if self._coded:
            return static, codes
        return np.concatenate([self._embedding[m][codes], static], axis=-1), None

    def _inner(self, leaves: Mapping[str, np.ndarray]) -> Inner:
        names = {n: n.removeprefix("cell/") for n in self.language.state_shapes if n != "step"}
        return [
            {inner: np.ascontiguousarray(leaves[n][:, m]) for n, inner in names.items()}
            for m in range(self._members)
        ]

    def _outer(self, members: Inner, step: np.ndarray) -> dict[str, np.ndarray]:
        leaves = {}
        for name in self.language.state_shapes:
            if name == "step":
                leaves[name] = step
            else:
                inner = name.removeprefix("cell/")
                leaves[name] = np.stack([member[inner] for member in members], axis=1)
        return leaves


class _PlainCell:
    """A stack's steps in NumPy, where the native kernel cannot run it."""

    def __init__(self, stack: Any, weights: Mapping[str, np.ndarray]) -> None:
        self.stack, self.weights = stack, weights

    def step(
        self,
        x: np.ndarray,
        state: Mapping[str, np.ndarray],
        code: None = None,
        source: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Any]:
        if source is not None:
            state = {n: leaf[source] for n, leaf in state.items()}
        return self.stack.step(self.weights, x, state, np)

    def run(
        self, x: np.ndarray, state: Mapping[str, np.ndarray], code: None = None
    ) -> tuple[np.ndarray, Any]:
        outputs = []
        for step in range(x.shape[1]):
            y, state = self.step(x[:, step], state)
            outputs.append(y)
        return np.stack(outputs, axis=1), state


class _PlainSoftmax:
    """``Softmax`` in NumPy."""

    def __init__(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        self.kernel, self.bias = kernel, bias

    def log_probabilities(self, outputs: np.ndarray) -> np.ndarray:
        raw = outputs @ self.kernel + self.bias[:, None]
        raw -= raw.max(axis=-1, keepdims=True)
        raw -= np.log(np.exp(raw).sum(axis=-1, keepdims=True))
        return np.logaddexp.reduce(raw, axis=0) - np.float32(np.log(len(raw)))

    def likeliest(
        self, outputs: np.ndarray, most: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return decoding.likeliest(self.log_probabilities(outputs), most, allowed)


# -- what comes out ------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequences:
    """The rest of each item as sequences of tokens: drawn, or the most probable.

    Attributes
    ----------
    ids : array, ``(items,)``
    known : array of int, ``(items,)``
        Each item's prefix length; its sequences begin at the step after.
    values : array of objects, ``(items, n, until)``
        Tokens; None on the prefix and after a sequence's last token.
    log_likelihood : array, float64, ``(items, n)``
        Of the rest given X and the prefix, in nats, the end included where it ended; minus
        infinity where a search found fewer than n.
    ended : array of bool, ``(items, n)``
        Whether it ended by itself, and was not cut at ``until``.
    """

    ids: np.ndarray
    known: np.ndarray
    values: np.ndarray
    log_likelihood: np.ndarray
    ended: np.ndarray
    schema: Schema
    origin: np.ndarray | None = None
    kind: Kind | None = None

    def __repr__(self) -> str:
        items, each, until = self.values.shape
        return (
            f"<Sequences: {items:,} items, {each:,} sequences each, up to step "
            f"{self.schema.number(until):,}>"
        )

    def text(self, between: str = "") -> list[list[str]]:
        """The rest as text, for each item its n sequences: the tokens joined by ``between``."""
        return [
            [between.join(str(token) for token in row if token is not None) for row in sequences]
            for sequences in self.values
        ]

    def table(self, name: str = "path", *, scored: bool = False) -> Any:
        """A long table: the id, the step, and a column a sequence, ``path-1``, ``path-2``, ...

        An item's rows reach to the step at which its longest sequence ended; null stands there,
        and after the end of a shorter one: one without a null did not end. With
        ``scored`` each column is followed by its log-probability, ``path-1-nats``, the same in all
        of an item's rows.
        """
        _, n, until = self.values.shape
        named: dict[str, np.ndarray] = {}
        for i in range(n):
            column = f"{name}-{i + 1}" if name == "path" or i else name
            named[column] = self.values[:, i]
            if scored:
                nats = np.repeat(self.log_likelihood[:, i, None], until, axis=1)
                named[f"{column}-nats"] = nats
        said = (self.values != None).sum(axis=2)  # noqa: E711  of each element
        last = self.known + (said + self.ended).max(axis=1, initial=0)
        return self.schema.table(
            named,
            ids=self.ids,
            known=self.known,
            origin=self.origin,
            kind=self.kind,
            last=np.minimum(last, until),
        )


def sequences(
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
    """Found codes, ``each`` of a row, in chunks of the ``rows`` that had room, put at their own
    steps and read as tokens."""
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
    return Sequences(ids, known, schema.vocabulary.decode(codes), nats, ended, schema, origin, kind)


def scores(
    speaker: Speaker, schema: Schema, panel: Panel, known: int, *, ended: bool, by_step: bool
) -> Any:
    """The table of ``Forecaster.log_likelihood``."""
    nats = speaker.panel_log_likelihoods(panel, ended=ended)
    nats[:, :known] = np.nan
    if by_step:
        last = panel.known + bool(ended and speaker.ends)
        return schema.table(
            {"log_likelihood": nats},
            ids=panel.ids,
            known=np.full(panel.rows, known),
            origin=panel.origin,
            kind=panel.kind,
            last=last,
        )
    tokens = np.sum(~np.isnan(nats), axis=1)
    total = np.nansum(nats, axis=1)
    mean = np.where(tokens > 0, -total / np.maximum(tokens, 1), np.nan)
    columns = {
        "log_likelihood": total,
        "tokens": tokens,
        "bits_per_token": mean / np.log(2),
        "perplexity": np.exp(mean),
    }
    return schema.rows({schema.id_col: panel.ids} | columns, panel.kind)


def ranks(
    speaker: Speaker, schema: Schema, said: Panel, things: Panel, by: str, best: int | None
) -> Any:
    """The table of ``Forecaster.rank``, from sequences and from static features."""
    length, code = said.known, speaker.codes(said.y, said.mask)
    starts = speaker.start(things.numeric, things.codes)
    nats = np.empty((said.rows, things.rows))
    pairs = np.arange(nats.size)
    for part in np.array_split(pairs, max(1, nats.size // 4096)):
        row, thing = np.divmod(part, things.rows)
        leaves = {name: leaf[thing] for name, leaf in starts.items()}
        found = speaker.log_likelihoods(leaves, code[row], length[row], True)
        nats.flat[part] = np.nansum(found, axis=1)
    # What the X adds to what is said of them all: without it, short sequences would win.
    of_all = np.logaddexp.reduce(nats, axis=1, keepdims=True) - np.log(things.rows)
    lift = nats - of_all
    asked, answers = said.ids, things.ids
    if by == "static":
        nats, lift, asked, answers = nats.T, lift.T, answers, asked
    order = np.argsort(-lift, axis=1, kind="stable")[:, :best]
    count = order.shape[1]
    columns = {
        schema.id_col: np.repeat(asked, count),
        "rank": np.tile(np.arange(1, count + 1), len(asked)),
        "match": answers[order.ravel()],
        "log_likelihood": np.take_along_axis(nats, order, axis=1).ravel(),
        "lift": np.take_along_axis(lift, order, axis=1).ravel(),
    }
    return schema.rows(columns, said.kind)
