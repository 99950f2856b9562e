"""The conditional recurrent network as a Keras model, for training: from tensors to predictive
distributions. It reads no tables. A trained network is used on arrays: ``forecast.engine``.

X sets the initial state, is an input of every step, or both. The observations of the prefix advance
the state. At a step without an observation the input is the median of the network's distribution: a
closed loop. One network holds all members of an ensemble: every weight has a leading ``members``
axis, and all members run in one batched product.

Tensors that Keras passes have rows first, ``(rows, members, ...)``. Inside the network members come
first, as in batched matrix products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from statecast.heads.base import Readout
from statecast.layers.initial import InitialState, normal, starts, zeros
from statecast.networks.decoder import (
    ALL,
    EMPTY,
    IN_STATE,
    NO_FEATURES,
    STEP_FUNCTIONS,
    Features,
    piecewise,
)
from statecast.recurrence.cells import ClosedLoop, Leaves, within
from statecast.recurrence.run import run
from statecast.state import at_rest

# Leaves from which the inputs are computed; the recurrence does not change them.
_NOT_RECURRENT = ("step", "static", "pending")


class Encoder(keras.layers.Layer):
    """Encodes features as one vector: the tanh of an affine map of the numeric features plus an
    embedding of each category. With ``hidden`` units a second affine map and its tanh follow. The
    ``divided`` features have the further columns of ``piecewise``.

    The embeddings of known categories are initialised at zero, and weight decay keeps them small.
    Those of a new category (code 0) and of a missing one (code 1) are initialised at random;
    feature dropout trains them.
    """

    def __init__(
        self,
        width: int,
        cardinalities: Sequence[int],
        members: int,
        rng: np.random.Generator,
        name: str = "encoder",
        weights: Mapping[str, np.ndarray] = EMPTY,
        intervals: int = 0,
        divided: Sequence[int] = (),
        hidden: int = 0,
    ) -> None:
        super().__init__(name=name)
        self.width, self.cardinalities, self.members = width, tuple(cardinalities), members
        self.rng, self.given = rng, weights
        self.intervals, self.divided, self.hidden = intervals, tuple(divided), hidden

    def build(self, shape: tuple[int | None, ...]) -> None:
        features, inner = shape[-1] or 0, self.hidden or self.width
        self.featured = features > 0
        if features:
            self.kernel = self.add_weight(
                name="kernel",
                shape=(self.members, features + self.intervals * len(self.divided), inner),
                # The columns of the intervals are small and few of them vary with a value, so the
                # scale is that without them.
                initializer=starts(self.given, "kernel", normal(self.rng, features)),
            )
        self.bias = self.add_weight(
            name="bias",
            shape=(self.members, inner),
            initializer=starts(self.given, "bias", zeros),
        )
        self.embeddings = [
            self.add_weight(
                name=f"embedding_{i}",
                shape=(self.members, codes, inner),
                initializer=starts(self.given, f"embedding_{i}", _embeddings(self.rng)),
            )
            for i, codes in enumerate(self.cardinalities)
        ]
        if self.hidden:
            self.out_kernel = self.add_weight(
                name="out_kernel",
                shape=(self.members, inner, self.width),
                initializer=starts(self.given, "out/kernel", normal(self.rng, inner)),
            )
            self.out_bias = self.add_weight(
                name="out_bias",
                shape=(self.members, self.width),
                initializer=starts(self.given, "out/bias", zeros),
            )
        self.given = EMPTY  # copied into the weights
        self.built = True

    def call(self, numeric: Any, codes: Any) -> Any:
        """Encode numbers ``(members or 1, rows, n)`` and codes, int ``(members or 1, rows, m)``.

        Returns
        -------
        tensor, ``(members, rows, width)``
        """
        x = self.bias[:, None, :]
        if self.featured:
            columns = piecewise(numeric, self.intervals, self.divided, ops)
            x = x + ops.matmul(columns, self.kernel)
        for i, table in enumerate(self.embeddings):
            code = codes[..., i : i + 1] + ops.zeros((self.members, 1, 1), codes.dtype)
            x = x + ops.take_along_axis(table, code, axis=1)
        if self.hidden:
            x = ops.matmul(ops.tanh(x), self.out_kernel) + self.out_bias[:, None, :]
        return ops.tanh(x)

    def weight_map(self) -> dict[str, Any]:
        """Every weight, by its name in a model file."""
        weights = {"kernel": self.kernel} if self.featured else {}
        weights["bias"] = self.bias
        weights |= {f"embedding_{i}": table for i, table in enumerate(self.embeddings)}
        if self.hidden:
            weights |= {"out/kernel": self.out_kernel, "out/bias": self.out_bias}
        return weights


class MemberMean(keras.metrics.Metric):
    """The weighted mean of a score for each member; its result is the mean over members."""

    def __init__(self, members: int, name: str) -> None:
        super().__init__(name=name)
        self.total = self.add_variable((members,), "zeros", name="total")
        self.weight = self.add_variable((members,), "zeros", name="weight")

    def update_state(self, score: Any, weight: Any) -> None:
        """Add the sum of scores and the sum of weights of a batch, both ``(members,)``."""
        self.total.assign(self.total + ops.cast(score, self.total.dtype))
        self.weight.assign(self.weight + ops.cast(weight, self.weight.dtype))

    def by_member(self) -> np.ndarray:
        """The means of the batches so far, ``(members,)``."""
        total, weight = at_rest(self.total.value), at_rest(self.weight.value)
        return total / np.maximum(weight, 1e-12)

    def result(self) -> Any:
        return ops.mean(self.total / ops.maximum(self.weight, 1e-12))


class Network(keras.Model):
    """The trainable model.

    Parameters
    ----------
    decoder : Decoder
    numeric : int
        Number of numeric features.
    cardinalities : sequence of int
        Number of codes of each categorical feature.
    members : int
        Members of the ensemble.
    own : slice
        The members that this network has. Its loss has the scale of the whole ensemble's.
    encoding : int
        Width of the encoded X.
    conditioning : {"state", "inputs", "both"}
        Whether X sets the initial state, is an input of every step, or both.
    future, past : tuple of int and sequence of int
        The covariates: the number of numeric ones, and the cardinalities of the categorical ones.
    depth : int
        Number of layers of ``InitialState``.
    hidden : int
        Of the ``Encoder`` of X; covariates are encoded without.
    precision : {"float32", "bfloat16"}
        What the factors of the recurrence's products are rounded to.
    seed : int
        Of the random initial weights, which are the same on every backend.
    weights : mapping of str to array, optional
        Initial weights in place of random ones, by their names in a model file.

    Call
    ----
    inputs : dict
        ``value``, ``observed`` float ``(rows, members or 1, steps)``; ``numeric`` float and
        ``codes`` int ``(rows, members or 1, n)``. With future covariates ``future_numeric``,
        ``future_codes`` ``(rows, members or 1, steps, n)`` and ``future_there``
        ``(rows, members or 1, steps)``; with past ones likewise ``past_...``.
    returns : dict
        The fields of a ``Readout``, from which the head computes the distribution of every step
        given X and the earlier observations. The loss is computed from them in one operation.
    """

    def __init__(
        self,
        decoder: Any,
        *,
        numeric: int,
        cardinalities: Sequence[int],
        members: int,
        own: slice = ALL,
        encoding: int,
        conditioning: str,
        future: Features = NO_FEATURES,
        past: Features = NO_FEATURES,
        depth: int = 1,
        hidden: int = 0,
        precision: str = "float32",
        seed: int = 0,
        weights: Mapping[str, np.ndarray] = EMPTY,
    ) -> None:
        super().__init__(name="statecast")
        self.decoder, self.ensemble, self.own = decoder, members, own
        self.precision = precision
        # What a training step computes, hashable: equal for networks with the same computation.
        self.computes: tuple[Any, ...] = (
            *(type(self), decoder, numeric, tuple(cardinalities)),
            *(members, len(range(members)[own]), encoding, conditioning),
            *((width, tuple(codes)) for width, codes in (future, past)),
            *(depth, hidden, precision, self.dtype_policy.name),
        )
        self.members = members = len(range(members)[own])
        rng = np.random.default_rng(seed)
        self.featured = bool(numeric or cardinalities)
        if self.featured:
            given = within(weights, "encoder")
            self.encoder = Encoder(
                encoding,
                cardinalities,
                members,
                rng,
                weights=given,
                intervals=decoder.intervals,
                divided=decoder.divided,
                hidden=hidden,
            )
            self.encoder.build((None, None, numeric))
        self.covariates: dict[str, Encoder] = {}
        for name, (width, codes) in (("future", future), ("past", past)):
            if width or codes:
                given = within(weights, name)
                self.covariates[name] = Encoder(encoding, codes, members, rng, name, given)
                self.covariates[name].build((None, None, width))
        self.initial = InitialState(
            decoder.stack,
            "features" if self.featured and conditioning in IN_STATE else "learned",
            depth=depth,
            members=members,
            seed=int(rng.integers(2**31)),
            name="initial",
        )
        self.initial.given = within(weights, "initial")
        self.initial.build((None, None, encoding))
        self.cell_weights: dict[str, Any] = {}
        for name, shape in decoder.weight_shapes.items():
            self.cell_weights[name] = self.add_weight(
                name=name.replace("/", "_"),
                shape=(members, *shape),
                initializer=starts(
                    weights, f"decoder/{name}", _decoder_initializer(name, decoder, rng)
                ),
            )
        self.score = MemberMean(members, decoder.head.measure)
        # Keras would have the loss of all members in one number. Of metrics with one name, Keras
        # shows the last one.
        self.loss_of_members = MemberMean(members, "loss")
        self.built = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_jax_state":
            # Keras's trainer on JAX sets it after each update. To look through it for layers and
            # variables takes as long as an update of a small network.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def weight_map(self) -> dict[str, Any]:
        """Every weight, by its name in a model file."""
        weights = {f"decoder/{name}": weight for name, weight in self.cell_weights.items()}
        encoders = {"encoder": self.encoder} if self.featured else {}
        for name, encoder in (encoders | self.covariates).items():
            weights |= {f"{name}/{own}": weight for own, weight in encoder.weight_map().items()}
        initial = self.initial
        if initial.source == "features":
            affine = {f"trunk_{i}": layer for i, layer in enumerate(initial.trunk)} | initial.heads
            for name, layer in affine.items():
                weights[f"initial/{name}/kernel"] = layer.kernel
                weights[f"initial/{name}/bias"] = layer.bias
        else:
            weights |= {f"initial/{name}": leaf for name, leaf in initial.leaves.items()}
        return weights

    def weight_arrays(self) -> dict[str, np.ndarray]:
        """The values of ``weight_map``, float32."""
        return {
            name: np.array(at_rest(weight.value), "float32", order="C")  # a copy
            for name, weight in self.weight_map().items()
        }

    def begin(self, weights: Mapping[str, np.ndarray], own: slice) -> None:
        """Become the network of other members, as many as before, with these weights."""
        self.own = own
        for name, weight in self.weight_map().items():
            weight.assign(weights[name])

    # -- the initial state, and runs from a state -----------------------------------------

    def start(self, numeric: Any, codes: Any) -> Leaves:
        """The decoder's initial leaves, ``(members, rows, ...)``.

        Parameters
        ----------
        numeric, codes : tensors, ``(members or 1, rows, n)``
            The static features.
        """
        # The sum of zero columns is a column of zeros, which has the rows even without features.
        nothing = ops.cast(ops.sum(codes, axis=-1, keepdims=True), self.compute_dtype) * 0
        rows = nothing + ops.zeros((self.members, 1, 1), self.compute_dtype)
        x = self.encoder(numeric, codes) if self.featured else rows
        leaves = {f"cell/{name}": leaf for name, leaf in self.initial(x).items()}
        leaves |= {"last": rows, "step": rows}
        if self.decoder.static:
            leaves["static"] = x
        if self.decoder.future:  # the observation before the first step is 0, the mean
            pending = np.zeros(self.decoder.observation, "float32")
            pending[1] = 1.0
            leaves["pending"] = rows + ops.convert_to_tensor(pending, dtype=self.compute_dtype)
        return leaves

    def read(
        self,
        leaves: Mapping[str, Any],
        value: Any,
        observed: Any,
        mask: Any = None,
        covariates: Mapping[str, Any] = EMPTY,
    ) -> tuple[Readout, Leaves]:
        """Run from ``leaves`` over the observations, in a closed loop at steps without one.

        Parameters
        ----------
        leaves : mapping of str to tensor, ``(members, rows, ...)``
        value : tensor, ``(members or 1, rows, steps)``
            Scaled observations.
        observed : tensor, ``(members or 1, rows, steps)``
            1 where ``value`` was observed, else 0.
        mask : tensor of bool, ``(members or 1, rows, steps)``, optional
            False for a step that is skipped. With future covariates only the last steps of a row
            may be skipped.
        covariates : mapping
            Named as in a call.

        Returns
        -------
        readout : Readout
            Of every step; undefined at skipped steps.
        leaves : dict of str to tensor
            After the last step.
        """
        decoder = self.decoder
        leaves, weights = self._computed(leaves), self.decoder_weights()
        x, outside = self._inputs(leaves, value, observed, mask, covariates)
        kernel = weights["head/kernel"]
        base = weights["head/bias"][:, None, :]
        if decoder.static:
            base = base + ops.matmul(leaves["static"], kernel[:, decoder.units :])
        base = base + ops.zeros_like(leaves["last"])
        kernel, at = kernel[:, : decoder.units], decoder.head.location_index
        loop = ClosedLoop(decoder.stack)
        start = {name: leaf for name, leaf in leaves.items() if name not in _NOT_RECURRENT}
        y, after = run(
            loop,
            {name: weight for name, weight in weights.items() if name.startswith("cell/")}
            | {"feed": kernel[..., at : at + 1], "decay": weights["head/residual"]},
            x,
            start | {"base": base[..., at : at + 1]},
            mask=mask,
        )
        # `split` and not slices: the gradient of slices is a sum of arrays padded with zeros.
        outputs, taken = ops.split(y, [decoder.units], axis=-1)
        taken, decay = taken[..., 0], weights["head/residual"][:, 0]
        after = {name: after[name] for name in start} | outside
        if decoder.future:  # the output after step t gives the distribution of step t
            return Readout(outputs, taken, kernel, base, decay), after
        first, last = loop.cell.output(within(leaves, "cell")), leaves["last"][..., 0]
        if mask is not None:  # before the first step that is not skipped
            began = ops.cumsum(ops.cast(mask, "int32"), axis=-1) > 0
            outputs = ops.where(began[..., None], outputs, first[:, :, None])
            taken = ops.where(began, taken, last[..., None])
        return Readout(outputs, taken, kernel, base, decay, first, last), after

    def decoder_weights(self) -> Leaves:
        """The weights of the decoder in the dtypes in which it computes. Weights of bfloat16 make
        the recurrence round the other factors of its products, too."""
        weights = self._computed(self.cell_weights)
        if self.precision == "bfloat16":
            for name, weight in weights.items():
                if name.startswith("cell/") and name.endswith("kernel"):
                    weights[name] = ops.cast(weight, "bfloat16")
        return weights

    def _computed(self, named: Mapping[str, Any]) -> Leaves:
        return {name: ops.cast(value, self.compute_dtype) for name, value in named.items()}

    def _inputs(
        self,
        leaves: Leaves,
        value: Any,
        observed: Any,
        mask: Any,
        covariates: Mapping[str, Any],
    ) -> tuple[Any, Leaves]:
        """The stack's inputs, ``(members, rows, steps, width)``, and the values after the last step
        of the leaves that the recurrence does not change."""
        decoder, dtype = self.decoder, self.compute_dtype
        if mask is None:
            taken = ops.convert_to_tensor(np.arange(1, value.shape[-1] + 1), dtype=dtype)
        else:
            taken = ops.cumsum(ops.cast(mask, dtype), axis=-1)
        steps = leaves["step"] + taken  # (members, rows, steps)
        began = steps
        if decoder.targets > 1:  # minus 0.5: a quotient may be rounded to just below a whole number
            began = 1.0 + ops.floor((steps - 0.5) / decoder.targets)
        place = (STEP_FUNCTIONS - 1) * ops.minimum(began / decoder.horizon, 1.0)[..., None]
        centres = ops.convert_to_tensor(np.arange(STEP_FUNCTIONS, dtype="float32"), dtype=dtype)
        like = ops.zeros_like(steps)[..., None]
        channels = [ops.cast(channel, dtype)[..., None] for channel in (value, observed)]
        if decoder.past:
            channels.append(self._encoded("past", covariates))
        after = {"step": ops.concatenate([leaves["step"], steps], axis=-1)[..., -1:]}
        if decoder.future:
            late = ops.concatenate([channel + like for channel in channels], axis=-1)
            late = ops.concatenate([leaves["pending"][:, :, None, :], late], axis=2)
            channels, after["pending"] = [late[:, :, :-1]], late[:, :, -1]
            if mask is not None:
                taken = ops.sum(ops.cast(mask, "int32"), axis=-1)[..., None, None]
                taken = taken + ops.zeros_like(late[:, :, :1], dtype="int32")
                after["pending"] = ops.take_along_axis(late, taken, axis=2)[:, :, 0]
        channels.append(ops.exp(-ops.square(place - centres)))
        if decoder.targets > 1:
            position = (steps - 1.0 - decoder.targets * (began - 1.0))[..., None]
            which = ops.convert_to_tensor(np.arange(decoder.targets, dtype="float32"), dtype=dtype)
            channels.append(ops.relu(1.0 - ops.abs(position - which)))
        if decoder.future:
            channels.append(self._encoded("future", covariates))
        if decoder.static:
            channels.append(leaves["static"][:, :, None, :])
            after["static"] = leaves["static"]
        return ops.concatenate([channel + like for channel in channels], axis=-1), after

    def _encoded(self, name: str, covariates: Mapping[str, Any]) -> Any:
        """Covariates as inputs, ``(members, rows, steps, 1 + encoding)``: a flag that is 1 where
        they are known, and their encoding."""
        known = ops.cast(covariates[f"{name}_there"], self.compute_dtype)[..., None]
        lead, steps = known.shape[0], known.shape[2]
        parts = [covariates[f"{name}_{part}"] for part in ("numeric", "codes")]
        # Rows and steps become one axis. An array without columns cannot be reshaped with -1.
        flat = [ops.reshape(p, (lead, -1, p.shape[-1])) if p.shape[-1] else p[:, 0] for p in parts]
        encoder = self.covariates[name]
        encoded = ops.reshape(encoder(*flat), (self.members, -1, steps, encoder.width))
        return ops.concatenate([known + ops.zeros_like(encoded[..., :1]), known * encoded], -1)

    def call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        inputs = {name: ops.swapaxes(value, 0, 1) for name, value in inputs.items()}
        leaves = self.start(inputs["numeric"], inputs["codes"])
        readout, _ = self.read(leaves, inputs["value"], inputs["observed"], covariates=inputs)
        return {name: part for name, part in vars(readout).items() if part is not None}

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The mean over the ensemble of the members' mean losses, over the values with weight 1.

        ``sample_weight``, ``(rows, members, steps)``, is 1 for a value whose loss counts, else 0.
        """
        y, weight = (ops.swapaxes(ops.convert_to_tensor(v), 0, 1) for v in (y, sample_weight))
        score = ops.sum(self.decoder.head.score(Readout(**y_pred), y, weight), axis=1)
        weight = ops.sum(weight, axis=(1, 2))
        return self.measured(score, weight)

    def measured(self, score: Any, weight: Any) -> Any:
        """The loss of a batch, from each member's sums of scores and of weights, ``(members,)``.

        A member's gradients do not depend on the other members: the loss is a sum, divided by the
        number of members of the whole ensemble.
        """
        self.score.update_state(score, weight)
        loss = score / ops.maximum(weight, 1.0)
        self.loss_of_members.update_state(loss, ops.ones_like(loss))
        return ops.sum(loss) / self.ensemble


def _embeddings(rng: np.random.Generator) -> Any:
    """Zeros for known categories, random numbers for the codes of new and missing ones. With zeros
    for all, a new category would be hard to distinguish from a known one."""

    def draw(shape: Sequence[int], dtype: Any = None) -> Any:
        values = np.zeros(tuple(shape), "float32")
        values[:, :2] = rng.standard_normal((len(values), 2, shape[-1]))
        return ops.convert_to_tensor(values, dtype=dtype)

    return draw


def _decoder_initializer(name: str, decoder: Any, rng: np.random.Generator) -> Any:
    """The initialiser of a weight of the decoder. Every member has different random numbers."""
    layer, _, last = name.rpartition("/")

    def draw(shape: Sequence[int], dtype: Any = None) -> Any:
        if last == "residual":  # nearly a random walk, with a slight reversion to the mean
            values = np.full(shape, 0.9)
        elif last == "bias":
            values = np.zeros(shape)
            cell = None if layer == "head" else decoder.stack.cells[int(layer.split("/")[1])]
            # The bias of an LSTM's forget gate is 1 (Jozefowicz et al. 2015).
            if cell is not None and cell.gates == 4:
                values[..., cell.units : 2 * cell.units] = 1.0
        elif last == "embedding":
            values = rng.standard_normal(tuple(shape))
        elif last == "recurrent_kernel":
            members, units, columns = shape
            values = np.linalg.qr(rng.standard_normal((members, columns // units, units, units)))[0]
            values = np.moveaxis(values, 1, 2).reshape(shape)
        else:
            scale = 0.1 if layer == "head" else 1.0
            values = rng.standard_normal(tuple(shape)) * scale / shape[-2] ** 0.5
        return ops.convert_to_tensor(np.asarray(values, "float32"), dtype=dtype)

    return draw
