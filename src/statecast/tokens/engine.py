"""A trained network of tokens on NumPy arrays: states, log-likelihoods and sequences.

Nothing here uses a backend. The native kernel computes a step in microseconds, so that decoding has
the same speed and the same results whatever the backend. If the kernel is not built, the steps are
those of ``cells`` on NumPy arrays, float32.

The probability of a token is the mean of the members' probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from statecast.errors import ArgumentError
from statecast.networks.arrays import ArrayEncoder, ArrayInitialState, one_thread
from statecast.recurrence.cells import within
from statecast.recurrence.kernels.native.arrays import Recurrence, refuses
from statecast.recurrence.kernels.native.softmax import Softmax
from statecast.tables.panel import Panel
from statecast.tables.vocabulary import END, UNKNOWN, Vocabulary
from statecast.tokens import decoding
from statecast.tokens.decoder import TokenDecoder
from statecast.tokens.decoding import Beam, Found, Rules, Sampling

_CELLS = 1 << 24  # the most log-probabilities in memory: 64 MB of float32

Members = list[dict[str, np.ndarray]]  # the form of a state in decoding: the leaves of each member


class TokenEngine:
    """A fitted network of tokens, for NumPy arrays.

    Parameters
    ----------
    decoder : TokenDecoder
    weights : mapping of str to array
        By their names in a model file, float32 ``(members, ...)``.
    ends : bool
        Whether the end of a sequence is a token.
    """

    def __init__(
        self,
        decoder: TokenDecoder,
        weights: Mapping[str, np.ndarray],
        *,
        ends: bool,
    ) -> None:
        self.decoder, self.ends = decoder, ends
        self._members = len(weights["decoder/embedding"])
        members = [{n: w[m] for n, w in weights.items()} for m in range(self._members)]
        encoder = within(weights, "encoder")
        self._encoder = ArrayEncoder(encoder) if encoder else None
        self._initial = ArrayInitialState(within(weights, "initial"), decoder.stack.state_shapes)
        inside = [within(w, "decoder") for w in members]
        self._embedding = [w["embedding"] for w in inside]
        kernel = [w["head/kernel"] for w in inside]
        if decoder.tied:  # one product a step in place of two
            size = decoder.head.size
            kernel = [k @ e[:size].T for k, e in zip(kernel, self._embedding, strict=True)]
        stack = decoder.stack
        built = refuses(stack) is None
        softmax: Any = Softmax if built else _PlainSoftmax
        # The product of a token's embedding and the input weights is looked up in a table, if that
        # table is no larger than the recurrent weights. Otherwise it is computed at every step.
        self._tabulated = built and len(self._embedding[0]) <= decoder.units
        self._cells = [self._cell(within(w, "cell"), w["embedding"], built) for w in inside]
        self._softmax = softmax(np.stack(kernel), np.stack([w["head/bias"] for w in inside]))

    def _cell(self, weights: dict[str, np.ndarray], embedding: np.ndarray, built: bool) -> Any:
        stack = self.decoder.stack
        if not built:
            return _PlainCell(stack, weights)
        if not self._tabulated:
            return Recurrence(stack, weights)
        token_kernel, static_kernel = np.split(weights["0/kernel"], [embedding.shape[1]])
        weights["0/kernel"] = np.concatenate([static_kernel, embedding @ token_kernel])
        return Recurrence(stack, weights, codes=len(embedding))

    # -- states of the forecaster: leaves (rows, members, ...) -----------------------------

    @one_thread()
    def start(self, numeric: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
        """The leaves before the first token: after the input "start".

        Parameters
        ----------
        numeric, codes : arrays, ``(rows, n)``
            The static features.
        """
        decoder, rows = self.decoder, len(codes)
        first = np.full(rows, decoder.start)
        x = np.zeros((self._members, rows, 0), np.float32)
        if self._encoder is not None:
            x = self._encoder.encode(numeric, codes)
        starts = self._initial.start(x)
        members: Members = []
        for m in range(self._members):
            before = {name: leaf[m] for name, leaf in starts.items()}
            if decoder.static:
                before["static"] = x[m]
            _, after = self._step(m, before, first)
            if decoder.static and decoder.each:
                after["static"] = x[m]
            members.append(after)
        return self._leaves(members, np.zeros((rows, self._members, 1), np.float32))

    def advance(
        self, leaves: Mapping[str, np.ndarray], code: np.ndarray, taken: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The leaves after further tokens.

        Parameters
        ----------
        leaves : mapping of str to array, ``(rows, members, ...)``
        code : array of int, ``(rows, steps)``
        taken : array of int, ``(rows,)``
            The number of each row's tokens in ``code``; the others are ignored.
        """
        inner, steps = self.members(leaves), leaves["step"] + taken[:, None, None]
        after = [{n: leaf.copy() for n, leaf in member.items()} for member in inner]
        for length in np.unique(taken[taken > 0]).tolist():
            rows = np.flatnonzero(taken == length)
            for m, member in enumerate(inner):
                before = {n: leaf[rows] for n, leaf in member.items()}
                _, advanced = self._run(m, before, code[rows, :length])
                for name, leaf in advanced.items():
                    after[m][name][rows] = leaf
        return self._leaves(after, steps.astype(np.float32))

    def codes(self, value: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """The input codes, int64, of a panel's ``y`` and ``mask``; a missing token is the gap."""
        return np.where(observed, value, self.decoder.gap).astype(np.int64)

    # -- scores --------------------------------------------------------------------------

    @one_thread()
    def log_likelihoods(
        self, leaves: Mapping[str, np.ndarray], code: np.ndarray, length: np.ndarray, ended: bool
    ) -> np.ndarray:
        """The log-probability of each token of a sequence, and of its end.

        Parameters
        ----------
        leaves : mapping of str to array, ``(rows, members, ...)``
        code : array of int, ``(rows, steps)``
        length : array of int, ``(rows,)``
            The number of tokens of each row.
        ended : bool
            Whether to score the end.

        Returns
        -------
        array, float64, ``(rows, steps + 1)``
            In nats. The end has the index ``length``. NaN at gaps, and after the last token or the
            end.
        """
        rows, steps = code.shape
        target = np.concatenate([code, np.full((rows, 1), self.decoder.gap)], axis=1)
        at = np.arange(steps + 1)
        target = np.where(at < length[:, None], target, self.decoder.gap)
        if ended and self.ends:
            target = np.where(at == length[:, None], END, target)
        counted = target != self.decoder.gap
        target = np.where(counted, target, 0)
        out = np.full(target.shape, np.nan)
        size = max(1, _CELLS // ((steps + 1) * self.decoder.head.size))
        inner = self.members(leaves)
        for part in range(0, rows, size):
            some = slice(part, part + size)
            outputs = []
            for m, member in enumerate(inner):
                before = {n: leaf[some] for n, leaf in member.items()}
                first = self.decoder.stack.output(before)[:, None]
                y, _ = self._run(m, before, code[some])
                outputs.append(np.concatenate([first, y], axis=1).reshape(-1, y.shape[-1]))
            nats = self._softmax.log_probabilities(np.stack(outputs))
            index = target[some].reshape(-1, 1)
            out[some] = np.take_along_axis(nats, index, axis=1).reshape(-1, steps + 1)
        return np.where(counted, out, np.nan)

    def panel_log_likelihoods(self, panel: Panel, *, ended: bool = True) -> np.ndarray:
        """``log_likelihoods`` of a panel's sequences, from the first token.

        Returns
        -------
        array, float64, ``(rows, steps + 1)``
        """
        nats = np.full((panel.rows, panel.y.shape[1] + 1), np.nan)
        for rows in np.array_split(np.arange(panel.rows), max(1, panel.rows // 1024)):
            part = panel.take(rows)
            leaves = self.start(part.numeric, part.codes)
            code = self.codes(part.y, part.mask)
            nats[rows] = self.log_likelihoods(leaves, code, part.known, ended)
        return nats

    def pair_log_likelihoods(self, sequences: Panel, static: Panel) -> np.ndarray:
        """The log-likelihood of every sequence given every row of static features.

        Returns
        -------
        array, float64, ``(sequences.rows, static.rows)``
            In nats, with the ends of the sequences.
        """
        length, code = sequences.known, self.codes(sequences.y, sequences.mask)
        starts = self.start(static.numeric, static.codes)
        nats = np.empty((sequences.rows, static.rows))
        for part in np.array_split(np.arange(nats.size), max(1, nats.size // 4096)):
            row, column = np.divmod(part, static.rows)
            leaves = {name: leaf[column] for name, leaf in starts.items()}
            found = self.log_likelihoods(leaves, code[row], length[row], True)
            nats.flat[part] = np.nansum(found, axis=1)
        return nats

    # -- the methods of decoding.Model, and decoding ---------------------------------------

    def log_probabilities(self, state: Members) -> np.ndarray:
        """The log-probabilities of the next token, float32 ``(rows, tokens)``."""
        return self._softmax.log_probabilities(self._outputs(state))

    def likeliest(
        self, state: Members, most: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The most probable of the ``allowed`` tokens; see ``decoding.likeliest``."""
        return self._softmax.likeliest(self._outputs(state), most, allowed)

    def step(self, state: Members, rows: np.ndarray, codes: np.ndarray) -> Members:
        """The state after token ``codes[i]`` in row ``rows[i]``; a row may occur several times."""
        after = []
        for m, member in enumerate(state):
            static = {n: leaf[rows] for n, leaf in member.items() if n == "static"}
            _, advanced = self._step(m, member | static, codes, rows)
            after.append(advanced | static)
        return after

    @one_thread()
    def search(
        self, leaves: Mapping[str, np.ndarray], room: np.ndarray, beam: Beam, rules: Rules
    ) -> Found:
        """``decoding.search`` from leaves."""
        return decoding.search(self, self.members(leaves), room, beam, rules)

    @one_thread()
    def sample(
        self,
        leaves: Mapping[str, np.ndarray],
        room: np.ndarray,
        uniform: np.ndarray,
        sampling: Sampling,
        rules: Rules,
    ) -> Found:
        """``decoding.sample`` from leaves."""
        return decoding.sample(self, self.members(leaves), room, uniform, sampling, rules)

    def rules(self, vocabulary: Vocabulary, how: Beam | Sampling, room: np.ndarray) -> Rules:
        """The rules of decoding, from the required and the forbidden tokens of ``how``.

        ``room``, ``(rows,)``, is the number of steps left for each row.

        Raises
        ------
        ArgumentError
            A token that training did not have; a token that is both required and forbidden; more
            required tokens than steps; or all tokens forbidden.
        """
        allowed = np.ones(self.decoder.head.size, bool)
        allowed[[UNKNOWN, *vocabulary.known("forbidden", how.forbidden)]] = False
        allowed[END] = self.ends
        required = vocabulary.known("required", how.required)
        for code in required:
            if not allowed[code]:
                token = vocabulary.decode(code)
                raise ArgumentError(
                    f"required: expected tokens that are not forbidden; {token!r} is. Leave it out "
                    "of one of the two."
                )
        if not allowed[END + 1 :].any():
            raise ArgumentError("forbidden: expected fewer than all tokens; received all of them.")
        if len(required) > room.min(initial=len(required)):
            raise ArgumentError(
                f"required: expected at most {room.min()} tokens, one for each step that is left; "
                f"received {len(required)}. Choose a later step."
            )
        return Rules(allowed, tuple(required), END)

    # -- inside ----------------------------------------------------------------------------

    def _step(
        self,
        m: int,
        before: Mapping[str, np.ndarray],
        codes: np.ndarray,
        rows: np.ndarray | None = None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        x, code = self._inputs(m, before, codes)
        return self._cells[m].step(x, self._recurrent(before), code, rows)

    def _run(
        self, m: int, before: Mapping[str, np.ndarray], codes: np.ndarray
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        x, code = self._inputs(m, before, codes)
        return self._cells[m].run(x, self._recurrent(before), code)

    def _outputs(self, state: Members) -> np.ndarray:
        """The last output of the stack, ``(members, rows, units)``."""
        outputs = [self.decoder.stack.output(member) for member in state]
        return np.stack(outputs) if len(outputs) > 1 else outputs[0][None]  # a view, not a copy

    def _recurrent(self, leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {n: leaf for n, leaf in leaves.items() if n != "static"}

    def _inputs(
        self, m: int, before: Mapping[str, np.ndarray], codes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The inputs of the cells for ``codes (rows, ...)``: x, and the codes if the embeddings are
        looked up in the kernel, else None."""
        static = before.get("static")
        if static is None:  # X is no input, or was an input of the first step only
            static = np.zeros((len(codes), self.decoder.static), np.float32)
        static = static[:, None] if codes.ndim == 2 else static
        static = np.broadcast_to(static, (*codes.shape, self.decoder.static))
        if self._tabulated:
            return static, codes
        return np.concatenate([self._embedding[m][codes], static], axis=-1), None

    def members(self, leaves: Mapping[str, np.ndarray]) -> Members:
        """Leaves ``(rows, members, ...)`` in the form of decoding: a dict for each member."""
        names = {n: n.removeprefix("cell/") for n in self.decoder.state_shapes if n != "step"}
        return [
            {inner: np.ascontiguousarray(leaves[n][:, m]) for n, inner in names.items()}
            for m in range(self._members)
        ]

    def _leaves(self, members: Members, step: np.ndarray) -> dict[str, np.ndarray]:
        leaves = {}
        for name in self.decoder.state_shapes:
            if name == "step":
                leaves[name] = step
            else:
                inner = name.removeprefix("cell/")
                leaves[name] = np.stack([member[inner] for member in members], axis=1)
        return leaves


class _PlainCell:
    """A stack in NumPy, in place of ``Recurrence`` where the native kernel cannot run it."""

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
    """``Softmax`` in NumPy, in place of the native one."""

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
