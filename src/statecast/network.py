"""The conditional recurrent network: tensors in, distributions out; it knows no tables.

X sets the initial state (and, by choice, stands among the inputs); the prefix advances
it; from there the network runs on by itself, its own median fed back where nothing was
observed. One network holds all members of an ensemble: every weight has a leading
``members`` axis, and all members run as one batched product.

Keras sees rows first, ``(rows, members, ...)``; inside, members come first, as batched
matrix products want them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import ops

from statecast.cells import Cell, Leaves, Stack, Weights, within
from statecast.heads import Head
from statecast.layers import InitialState
from statecast.recurrence import run

CONDITIONINGS = ("state", "inputs", "both")
AGES = 8  # the step enters as so many bumps along the horizon, each alive in its part of it


@dataclass(frozen=True)
class Decoder(Cell):
    """A stack of cells whose head feeds its next input: one step of the forecast.

    Before step t the head turns the stack's output (and the encoded X) into the
    distribution of y_t: that is the step's output. Then the stack takes y_t where it was
    observed, and where it was not, the distribution's median and a flag that says so; not
    observed is not zero. With ``sampling`` it takes a draw instead, as if observed, which
    makes a joint path.

    The inputs are ``(value, observed)``, with ``sampling`` also a uniform draw.
    Its state is the stack's, and: ``last``, the value last taken in, which the head's
    location is measured from (the residual path); ``step``, how many steps were taken;
    ``static``, the encoded X, where it conditions the inputs.
    """

    stack: Stack
    head: Head
    horizon: int
    static: int = 0
    sampling: bool = False

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {f"cell/{name}": shape for name, shape in self.stack.state_shapes.items()}
        shapes |= {"last": (1,), "step": (1,)}
        if self.static:
            shapes["static"] = (self.static,)
        return shapes

    def weight_shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        taken = 2 + AGES + self.static  # value, observed, age and the encoded X
        shapes = {f"cell/{n}": shape for n, shape in self.stack.weight_shapes(taken).items()}
        top = self.stack.cells[-1].units + self.static
        shapes["head/kernel"] = (top, self.head.size)
        shapes["head/bias"] = (self.head.size,)
        shapes["head/residual"] = (1,)
        return shapes

    def step(self, weights: Weights, x: Any, state: Leaves, xp: Any) -> tuple[Any, Leaves]:
        inner = within(state, "cell")
        static = [state["static"]] if self.static else []
        raw = xp.matmul(
            xp.concatenate([self.stack.output(inner), *static], axis=-1), weights["head/kernel"]
        )
        shift = state["last"] * weights["head/residual"][..., None, :]
        parameters = self.head.parameters(raw + weights["head/bias"][..., None, :], shift)

        observed = x[..., 1:2]
        if self.sampling:
            own = self.head.quantile(parameters, x[..., 2:3])
            flag = xp.ones_like(observed)
        else:
            own, flag = self.head.location(parameters), observed
        value = xp.where(observed > 0, x[..., :1], own)
        step = state["step"] + 1.0
        age = xp.minimum(step / self.horizon, 1.0)
        bumps = xp.convert_to_tensor(np.arange(AGES, dtype="float32"), dtype=step.dtype)
        age = xp.exp(-xp.square((AGES - 1) * age - bumps))
        _, inner = self.stack.step(
            within(weights, "cell"), xp.concatenate([value, flag, age, *static], -1), inner, xp
        )
        after = {f"cell/{name}": leaf for name, leaf in inner.items()}
        after |= {"last": value, "step": step}
        if self.static:
            after["static"] = state["static"]
        return parameters, after


class Encoder(keras.layers.Layer):
    """Static features to one vector: an affine map of the numbers plus an embedding of each
    category, through tanh.

    Embeddings start at zero and decay towards it, so a category never seen in training
    (code 0, never trained) is the neutral one.
    """

    def __init__(
        self, width: int, cardinalities: Sequence[int], members: int, rng: np.random.Generator
    ) -> None:
        super().__init__(name="encoder")
        self.width, self.cardinalities, self.members = width, tuple(cardinalities), members
        self.rng = rng

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.numeric = features = shape[-1] or 0
        if features:
            self.kernel = self.add_weight(
                name="kernel",
                shape=(self.members, features, self.width),
                initializer=_normal(self.rng, features),
            )
        self.bias = self.add_weight(
            name="bias", shape=(self.members, self.width), initializer="zeros"
        )
        self.embeddings = [
            self.add_weight(
                name=f"embedding_{i}", shape=(self.members, codes, self.width), initializer="zeros"
            )
            for i, codes in enumerate(self.cardinalities)
        ]
        self.built = True

    def call(self, numeric: Any, codes: Any) -> Any:
        """``(members or 1, rows, n)`` and int ``(members or 1, rows, m)`` to
        ``(members, rows, width)``."""
        x = self.bias[:, None, :]
        if numeric.shape[-1]:
            x = x + ops.matmul(numeric, self.kernel)
        for i, table in enumerate(self.embeddings):
            code = codes[..., i : i + 1] + ops.zeros((self.members, 1, 1), codes.dtype)
            x = x + ops.take_along_axis(table, code, axis=1)
        return ops.tanh(x)


class MemberMean(keras.metrics.Metric):
    """The weighted mean of a score for each member; its result is the mean over members."""

    def __init__(self, members: int, name: str = "crps") -> None:
        super().__init__(name=name)
        self.total = self.add_variable((members,), "zeros", name="total")
        self.weight = self.add_variable((members,), "zeros", name="weight")

    def update_state(self, score: Any, weight: Any) -> None:
        """Both ``(members,)``: summed score and summed weight."""
        self.total.assign(self.total + ops.cast(score, self.total.dtype))
        self.weight.assign(self.weight + ops.cast(weight, self.weight.dtype))

    def by_member(self) -> np.ndarray:
        """Means so far, ``(members,)``."""
        total, weight = ops.convert_to_numpy(self.total), ops.convert_to_numpy(self.weight)
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
    encoding : int
        Width of the encoded X.
    conditioning : {"state", "inputs", "both"}
        Where X enters.
    depth : int
        Depth of ``InitialState`` on the encoded X.
    seed : int
        Of the initial weights; they are the same on every backend.

    Call
    ----
    inputs : dict
        ``value``, ``observed`` float ``(rows, members or 1, steps)``; ``numeric`` float and
        ``codes`` int ``(rows, members or 1, n)``.
    returns : tensor, float32, ``(rows, members, steps, head.size)``
        The distribution of every step's value, given X and what was observed before it.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        numeric: int,
        cardinalities: Sequence[int],
        members: int,
        encoding: int,
        conditioning: str,
        depth: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(name="statecast")
        self.decoder, self.members = decoder, members
        rng = np.random.default_rng(seed)
        self.featured = bool(numeric or cardinalities)
        if self.featured:
            self.encoder = Encoder(encoding, cardinalities, members, rng)
            self.encoder.build((None, None, numeric))
        self.initial = InitialState(
            decoder.stack,
            "features" if self.featured and conditioning != "inputs" else "learned",
            depth=depth,
            members=members,
            seed=int(rng.integers(2**31)),
            name="initial",
        )
        self.initial.build((None, None, encoding))
        self.cell_weights: dict[str, Any] = {}
        for name, shape in decoder.weight_shapes(2).items():
            self.cell_weights[name] = self.add_weight(
                name=name.replace("/", "_"),
                shape=(members, *shape),
                initializer=_decoder_initializer(name, decoder, rng),
            )
        self.score = MemberMean(members)
        self.built = True

    @staticmethod
    def weight_shapes(
        decoder: Decoder,
        *,
        numeric: int,
        cardinalities: Sequence[int],
        members: int,
        encoding: int,
        conditioning: str,
        depth: int,
    ) -> dict[str, tuple[int, ...]]:
        """Name and shape of every weight, before any is made: what a model file must hold."""
        shapes = {f"decoder/{name}": shape for name, shape in decoder.weight_shapes(2).items()}
        featured = bool(numeric or cardinalities)
        if featured:
            if numeric:
                shapes["encoder/kernel"] = (numeric, encoding)
            shapes["encoder/bias"] = (encoding,)
            for i, codes in enumerate(cardinalities):
                shapes[f"encoder/embedding_{i}"] = (codes, encoding)
        leaves = decoder.stack.state_shapes
        if featured and conditioning != "inputs":
            width = max(shape[-1] for shape in leaves.values())
            fans = [encoding, *[width] * (depth - 1)]
            for i, fan in enumerate(fans[:-1]):
                shapes[f"initial/trunk_{i}/kernel"] = (fan, width)
                shapes[f"initial/trunk_{i}/bias"] = (width,)
            for name, shape in leaves.items():
                shapes[f"initial/{name}/kernel"] = (fans[-1], shape[-1])
                shapes[f"initial/{name}/bias"] = shape
        else:
            shapes |= {f"initial/{name}": shape for name, shape in leaves.items()}
        return {name: (members, *shape) for name, shape in shapes.items()}

    def weight_map(self) -> dict[str, Any]:
        """Every weight by the name it has in a model file."""
        weights = {f"decoder/{name}": weight for name, weight in self.cell_weights.items()}
        if self.featured:
            encoder = self.encoder
            if encoder.numeric:
                weights["encoder/kernel"] = encoder.kernel
            weights["encoder/bias"] = encoder.bias
            for i, table in enumerate(encoder.embeddings):
                weights[f"encoder/embedding_{i}"] = table
        initial = self.initial
        if initial.source == "features":
            affine = {f"trunk_{i}": layer for i, layer in enumerate(initial.trunk)} | initial.heads
            for name, layer in affine.items():
                weights[f"initial/{name}/kernel"] = layer.kernel
                weights[f"initial/{name}/bias"] = layer.bias
        else:
            weights |= {f"initial/{name}": leaf for name, leaf in initial.leaves.items()}
        return weights

    # -- the two moves: from X to a state, and from a state on -------------------------

    def start(self, numeric: Any, codes: Any) -> Leaves:
        """The decoder's initial leaves, ``(members, rows, ...)``, from static features."""
        # A sum of no columns is a column of zeros: the rows are known even without features.
        nothing = ops.cast(ops.sum(codes, axis=-1, keepdims=True), self.compute_dtype) * 0
        rows = nothing + ops.zeros((self.members, 1, 1), self.compute_dtype)
        x = self.encoder(numeric, codes) if self.featured else rows
        leaves = {f"cell/{name}": leaf for name, leaf in self.initial(x).items()}
        leaves |= {"last": rows, "step": rows}
        if self.decoder.static:
            leaves["static"] = x
        return leaves

    def advance(
        self, decoder: Decoder, leaves: Mapping[str, Any], channels: Sequence[Any], mask: Any = None
    ) -> tuple[Any, Leaves]:
        """Run ``decoder`` from ``leaves`` over channels ``(members or 1, rows, steps)``."""
        x = ops.cast(ops.stack(channels, axis=-1), self.compute_dtype)
        x = x + ops.zeros((self.members, 1, 1, 1), x.dtype)
        weights = {
            name: ops.cast(weight, self.compute_dtype) for name, weight in self.cell_weights.items()
        }
        leaves = {name: ops.cast(leaf, self.compute_dtype) for name, leaf in leaves.items()}
        parameters, leaves = run(decoder, weights, x, leaves, mask=mask)
        return ops.cast(parameters, "float32"), leaves

    def call(self, inputs: Mapping[str, Any]) -> Any:
        inputs = {name: ops.swapaxes(value, 0, 1) for name, value in inputs.items()}
        leaves = self.start(inputs["numeric"], inputs["codes"])
        channels = [inputs["value"], inputs["observed"]]
        parameters, _ = self.advance(self.decoder, leaves, channels)
        return ops.swapaxes(parameters, 0, 1)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The members' mean CRPS over the values that count (``sample_weight``)."""
        y, sample_weight = ops.convert_to_tensor(y), ops.convert_to_tensor(sample_weight)
        score = ops.sum(self.decoder.head.crps(y_pred, y) * sample_weight, axis=(0, 2))
        weight = ops.sum(sample_weight, axis=(0, 2))
        self.score.update_state(score, weight)
        return ops.mean(score / ops.maximum(weight, 1.0))


class Start(keras.Model):
    """``Network.start`` as a compiled model: ``numeric`` and ``codes`` ``(rows, n)`` to leaves
    ``(rows, members, ...)``."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.built = True

    def call(self, inputs: Mapping[str, Any]) -> Leaves:
        leaves = self.network.start(inputs["numeric"][None], inputs["codes"][None])
        return {name: ops.swapaxes(leaf, 0, 1) for name, leaf in leaves.items()}


class Advance(keras.Model):
    """``Network.advance`` as a compiled model.

    Takes leaves ``(rows, members, ...)``, ``value`` and ``observed`` ``(rows, steps)`` and
    ``active`` bool ``(rows, steps)`` (False leaves the state as it is); returns the leaves
    and ``parameters`` ``(rows, steps, head.size)``, pooled over the members.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.built = True

    def call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        network, decoder = self.network, self.network.decoder
        leaves = {name: ops.swapaxes(inputs[name], 0, 1) for name in decoder.state_shapes}
        channels = [inputs["value"][None], inputs["observed"][None]]
        parameters, leaves = network.advance(decoder, leaves, channels, inputs["active"])
        return {name: ops.swapaxes(leaf, 0, 1) for name, leaf in leaves.items()} | {
            "parameters": decoder.head.pool(parameters, axis=0)
        }


class Sample(keras.Model):
    """Joint paths as a compiled model: each member draws its share.

    Takes leaves ``(rows, members, ...)``, each row a path's start, and ``uniform``
    ``(rows, members, steps)`` strictly between 0 and 1; returns the paths, of that shape.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.decoder = replace(network.decoder, sampling=True)
        self.built = True

    def call(self, inputs: Mapping[str, Any]) -> Any:
        leaves = {name: ops.swapaxes(inputs[name], 0, 1) for name in self.decoder.state_shapes}
        uniform = ops.swapaxes(inputs["uniform"], 0, 1)
        nothing = ops.zeros_like(uniform)
        channels = [nothing, nothing, uniform]
        parameters, _ = self.network.advance(self.decoder, leaves, channels)
        drawn = self.decoder.head.quantile(parameters, uniform[..., None])[..., 0]
        return ops.swapaxes(drawn, 0, 1)


def _normal(rng: np.random.Generator, fan_in: int, scale: float = 1.0) -> Any:
    def draw(shape: Sequence[int], dtype: Any = None) -> Any:
        values = rng.standard_normal(tuple(shape)) * scale / max(fan_in, 1) ** 0.5
        return ops.convert_to_tensor(values.astype("float32"), dtype=dtype)

    return draw


def _decoder_initializer(name: str, decoder: Decoder, rng: np.random.Generator) -> Any:
    """Where a weight of the decoder starts; each member draws its own."""
    layer, _, last = name.rpartition("/")

    def draw(shape: Sequence[int], dtype: Any = None) -> Any:
        if last == "residual":  # near a random walk, a little drawn to the mean
            values = np.full(shape, 0.9)
        elif last == "bias":
            values = np.zeros(shape)
            cell = None if layer == "head" else decoder.stack.cells[int(layer.split("/")[1])]
            if cell is not None and cell.gates == 4:  # remember first: Jozefowicz et al. 2015
                values[..., cell.units : 2 * cell.units] = 1.0
        elif last == "recurrent_kernel":
            members, units, columns = shape
            values = np.linalg.qr(rng.standard_normal((members, columns // units, units, units)))[0]
            values = np.moveaxis(values, 1, 2).reshape(shape)
        else:
            scale = 0.1 if layer == "head" else 1.0
            values = rng.standard_normal(tuple(shape)) * scale / shape[-2] ** 0.5
        return ops.convert_to_tensor(np.asarray(values, "float32"), dtype=dtype)

    return draw
