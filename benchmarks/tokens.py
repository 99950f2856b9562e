"""The figures of docs/tokens.md, printed as its tables.

    python benchmarks/tokens.py [decoding | colours | neuraltalk]

``decoding``, the default, takes a minute or two; ``neuraltalk``, the cost of 4,096 features and
captions of 16 words by where the features enter, some minutes; ``colours``, bits a character on
../shared/data/colours, ten minutes or more.

Decoding is measured beside plain loops in Keras and in PyTorch. The programs do the same beam
search with the same weights in one process: ``TokenEngine`` (what ``generate`` runs), loops
around a compiled Keras model of one step, and a loop around ``torch.nn.LSTMCell``. None ends by
itself, so all take the same steps; each of the others is held to the sequences of the first. Tokens
a second are those of the best sequences.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

from statecast.evaluate.cross_validation import cross_validation
from statecast.heads.categorical import Categorical
from statecast.networks.decoder import weight_shapes
from statecast.recurrence.cells import LSTM, Stack, within
from statecast.tables.vocabulary import END, UNKNOWN
from statecast.tokens.decoder import TokenDecoder
from statecast.tokens.decoding import Beam, Rules
from statecast.tokens.engine import TokenEngine
from statecast.tokens.forecaster import TokenForecaster

COLOURS = Path(__file__).parents[2] / "shared" / "data" / "colours"

# name: tokens, units, embedding, beam, steps, items
SIZES = {
    "characters, 1 item": (30, 256, 32, 5, 30, 1),
    "characters, 64 items": (30, 256, 32, 5, 30, 64),
    "words, 1 item": (9000, 512, 512, 20, 16, 1),
    "words, 16 items": (9000, 512, 512, 20, 16, 16),
}


def model_of(tokens: int, units: int, embedding: int) -> tuple[TokenEngine, dict[str, np.ndarray]]:
    """A model with random weights and no features, and its weights by their names."""
    decoder = TokenDecoder(Stack([LSTM(units)]), Categorical(tokens), embedding)
    options = {"numeric": 0, "cardinalities": [], "members": 1, "encoding": 1, "depth": 1}
    rng, weights = np.random.default_rng(0), {}
    none = (0, ())  # covariates
    shapes = weight_shapes(decoder, **options, conditioning="state", future=none, past=none)
    for name, shape in shapes.items():
        scale = 1.5 / shape[-2] ** 0.5 if len(shape) > 2 else 0.1
        weights[name] = rng.normal(size=shape, scale=scale).astype("float32")
    own = {name: weight[0] for name, weight in weights.items()}
    return TokenEngine(decoder, weights, ends=False), own


def ours(model: TokenEngine, items: int, width: int, steps: int) -> np.ndarray:
    size = model.decoder.head.size
    allowed = np.ones(size, bool)
    allowed[[UNKNOWN, END]] = False
    leaves = model.start(np.zeros((items, 0), "float32"), np.zeros((items, 0), "int32"))
    # Items of their own: each begins after a token of its own.
    first = 2 + np.arange(items)[:, None] % (size - 2)
    leaves = model.advance(leaves, first, np.ones(items, int))
    found = model.search(leaves, np.full(items, steps), Beam(width), Rules(allowed, (), END))
    return found.codes[:, 0]


def looped(
    step: Callable[..., Any], model: TokenEngine, items: int, width: int, steps: int, start: Any
) -> np.ndarray:
    """A beam search as one writes it around a function of one step; NumPy between the steps."""
    size = model.decoder.head.size
    _, h, c = step(np.full(items, model.decoder.start), *start)
    nats, h, c = step(2 + np.arange(items) % (size - 2), h, c)
    said, total = np.zeros((items, 1, 0), int), np.zeros((items, 1))
    for at in range(steps):
        nats[:, [UNKNOWN, END]] = -np.inf
        score = (total[..., None] + nats.reshape(items, -1, size)).reshape(items, -1)
        best = np.argpartition(-score, min(width, score.shape[1] - 1), axis=1)[:, :width]
        total = np.take_along_axis(score, best, axis=1)
        parent, code = np.divmod(best, size)
        said = np.concatenate(
            [np.take_along_axis(said, parent[..., None], axis=1), code[..., None]], axis=2
        )
        if at + 1 < steps:
            row = (np.arange(items)[:, None] * (len(h) // items) + parent).ravel()
            nats, h, c = step(code.ravel(), h[row], c[row])
    return said[np.arange(items), total.argmax(axis=1)]


def keras_step(
    model: TokenEngine, weights: dict[str, np.ndarray], plain: bool
) -> Callable[..., Any]:
    """One step as a compiled Keras model: by ``predict``, or by the faster ``predict_on_batch``."""
    decoder = model.decoder
    token = keras.Input((1,), dtype="int32")
    h, c = keras.Input((decoder.units,)), keras.Input((decoder.units,))
    embedding = keras.layers.Embedding(decoder.gap + 1, decoder.embedding)
    lstm = keras.layers.LSTM(decoder.units, return_state=True)
    dense = keras.layers.Dense(decoder.head.size, activation="log_softmax")
    y, after_h, after_c = lstm(embedding(token), initial_state=[h, c])
    net = keras.Model([token, h, c], [dense(y), after_h, after_c])
    embedding.set_weights([weights["embedding"]])
    lstm.set_weights([weights[f"cell/0/{n}"] for n in ("kernel", "recurrent_kernel", "bias")])
    dense.set_weights([weights["head/kernel"], weights["head/bias"]])

    def step(codes: np.ndarray, h: np.ndarray, c: np.ndarray) -> Any:
        inputs = [codes[:, None].astype("int32"), h, c]
        nats, h, c = net.predict(inputs, verbose=0) if plain else net.predict_on_batch(inputs)
        return np.array(nats), np.asarray(h), np.asarray(c)

    return step


def torch_search(
    model: TokenEngine,
    weights: dict[str, np.ndarray],
    items: int,
    width: int,
    steps: int,
    start: Any,
) -> Callable[[], np.ndarray]:
    """The same search in PyTorch alone."""
    import torch

    decoder = model.decoder
    tensors = {name: torch.from_numpy(weight) for name, weight in weights.items()}
    cell = torch.nn.LSTMCell(decoder.embedding, decoder.units)
    # Both order the gates i, f, c, o.
    state = {
        "weight_ih": tensors["cell/0/kernel"].T.contiguous(),
        "weight_hh": tensors["cell/0/recurrent_kernel"].T.contiguous(),
        "bias_ih": tensors["cell/0/bias"],
        "bias_hh": torch.zeros_like(tensors["cell/0/bias"]),
    }
    cell.load_state_dict(state)
    size = decoder.head.size

    def step(code: Any, h: Any, c: Any) -> Any:
        h, c = cell(tensors["embedding"][code], (h, c))
        raw = torch.addmm(tensors["head/bias"], h, tensors["head/kernel"])
        return torch.log_softmax(raw, -1), h, c

    def search() -> np.ndarray:
        with torch.inference_mode():
            h, c = (torch.from_numpy(leaf) for leaf in start)
            _, h, c = step(torch.full((items,), decoder.start), h, c)
            nats, h, c = step(2 + torch.arange(items) % (size - 2), h, c)
            said, total = torch.zeros((items, 1, 0), dtype=torch.int64), torch.zeros((items, 1))
            for at in range(steps):
                nats[:, [UNKNOWN, END]] = -torch.inf
                score = (total[..., None] + nats.view(items, -1, size)).view(items, -1)
                total, best = score.topk(width, dim=1)
                parent, code = best // size, best % size
                kept = said.gather(1, parent[..., None].expand(-1, -1, said.shape[2]))
                said = torch.cat([kept, code[..., None]], dim=2)
                if at + 1 < steps:
                    row = torch.arange(items)[:, None] * (len(h) // items) + parent
                    nats, h, c = step(code.flatten(), h[row.flatten()], c[row.flatten()])
            return said[:, 0].numpy()

    return search


def medians(calls: Sequence[Callable[[], Any]], repeats: int = 9) -> list[tuple[float, Any]]:
    """Seconds of each call, the median of turns, and what it gave. In a turn each is called twice,
    and the second time counts: it finds its own numbers in the caches."""
    took: list[list[float]] = [[] for _ in calls]
    answers: list[Any] = [None for _ in calls]
    for _ in range(repeats + 1):
        for i, call in enumerate(calls):
            call()
            start = time.perf_counter()
            answers[i] = call()
            took[i].append(time.perf_counter() - start)
    return [
        (float(np.median(each[1:])), answer) for each, answer in zip(took, answers, strict=True)
    ]


def decoding() -> None:
    print(
        "| | tokens a second | `predict` | ratio | `predict_on_batch` | ratio | PyTorch | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, (tokens, units, embedding, width, steps, items) in SIZES.items():
        model, weights = model_of(tokens, units, embedding)
        initial = [weights[f"initial/0/{leaf}"] for leaf in "hc"]
        start = [np.repeat(leaf[None], items, axis=0) for leaf in initial]
        own = within(weights, "decoder")
        plain, step = (keras_step(model, own, way) for way in (True, False))
        search = torch_search(model, own, items, width, steps, start)
        calls = [
            partial(ours, model, items, width, steps),
            partial(looped, plain, model, items, width, steps, start),
            partial(looped, step, model, items, width, steps, start),
            search,
        ]
        found = medians(calls)
        for _, other in found[1:]:
            same = (found[0][1] == other).all(axis=1).mean()
            assert same >= 0.9, f"{name}: only {same:.0%} of the sequences are the same"
        rate = [items * steps / took for took, _ in found]
        print(
            f"| {name}: {tokens:,} tokens, {units} units, beam {width}, {steps} steps "
            f"| {rate[0]:,.0f} | "
            + " | ".join(f"{other:,.0f} | {rate[0] / other:.1f}" for other in rate[1:])
            + " |",
            flush=True,
        )


# -- colours --------------------------------------------------------------------------------------


def colours(items: int | None) -> None:
    """Bits a character on fold 0, trained on the others, with X and without."""
    import polars as pl

    if not (COLOURS / "series.csv").exists():
        raise SystemExit(f"There is no series.csv in {COLOURS}.")
    folds = pl.read_csv(COLOURS / "folds.csv").head(items or 10**9)
    series = pl.read_csv(COLOURS / "series.csv").join(folds.select("unique_id"), on="unique_id")
    static = pl.read_csv(COLOURS / "static.csv").select("unique_id", "red", "green", "blue")
    static = static.join(folds.select("unique_id"), on="unique_id")
    known = (0, 1, 3)
    f = TokenForecaster(seed=0)
    options = {"folds": folds, "known": known, "test_folds": [0]}
    seen = cross_validation(f, series, static, **options)
    blind = cross_validation(f, series, None, baselines=False, **options)
    methods = list(dict.fromkeys(row.method for row in seen.rows))
    named = {"statecast": "Statecast, with the colour"}
    rows = {named.get(m, m): [seen[m, k].bits for k in known] for m in methods}
    rows["Statecast, without it"] = [blind["statecast", k].bits for k in known]
    print("| | " + " | ".join(f"k = {k}" for k in known) + " |")
    print("|---|" + "---|" * len(known))
    for name, bits in rows.items():
        print(f"| {name} | " + " | ".join(f"{each:.3f}" for each in bits) + " |")


# -- NeuralTalk's setting -------------------------------------------------------------------------


def neuraltalk() -> None:
    """Each conditioning in a process of its own, since a peak of memory never comes down."""
    print(
        "| conditioning | weights | state a row | 24 updates of 50 captions, and compiling "
        "| 100 captions scored | beam of 20 for 16 images | peak memory |\n" + "|---" * 7 + "|"
    )
    for conditioning in ("state", "first", "inputs"):
        sys.stdout.flush()
        subprocess.run(
            [sys.executable, __file__, "neuraltalk", "--where", conditioning], check=True
        )


def talk(conditioning: Any) -> None:
    """Fit, score and search with generated features and captions."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(400, 4096)).astype("float32")
    captions = rng.integers(0, 2000, (400, 16)).astype(float)
    f = TokenForecaster(
        units=512, embedding=512, encoding=512, conditioning=conditioning,
        ensemble=1, epochs=3, batch_size=50,
    )  # fmt: skip
    took = []
    for call in (
        partial(f.fit, captions, images, verbose=0),
        partial(f.log_likelihood, captions[:100], images[:100]),
        partial(f.generate, None, images[:16], until=16, beam=Beam(20)),
    ):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    state = f.state(None, images[:1])
    leaves = " + ".join(str(leaf.shape[-1]) for n, leaf in state.leaves.items() if n != "step")
    weights = sum(weight.size for weight in f.weights.values()) / 1e6
    status = Path("/proc/self/status").read_text()  # ``resource`` begins with the parent's peak
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024**2
    print(
        f'| `"{conditioning}"` | {weights:.1f} million | {leaves} | {took[0]:.0f} s '
        f"| {took[1]:.1f} s | {took[2]:.1f} s | {peak:.1f} GB |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", nargs="?", default="decoding",
                        choices=["decoding", "colours", "neuraltalk"])  # fmt: skip
    parser.add_argument("--items", type=int, help="colours: only so many, to see that it runs")
    parser.add_argument("--where", choices=["state", "first", "inputs"],
                        help="neuraltalk: this conditioning alone, in this process")  # fmt: skip
    given = parser.parse_args()
    if given.what == "decoding":
        decoding()
    elif given.what == "colours":
        colours(given.items)
    elif given.where:
        talk(given.where)
    else:
        neuraltalk()


if __name__ == "__main__":
    main()
