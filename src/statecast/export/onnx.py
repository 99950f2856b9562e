"""A fitted model as ONNX graphs: ``encode.onnx``, ``step.onnx`` and ``model.json``.

``model.json`` says what every input and output means, how tables become inputs, and how outputs
become forecasts. See docs/how_to/export.md and decision 45.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from statecast.errors import ArgumentError
from statecast.export.graph import OPSET, Graph, Port
from statecast.export.numbers import AFTER, LARGEST_INPUT, NumberGraphs
from statecast.export.tokens import TokenGraphs
from statecast.files import path_text, write_whole
from statecast.forecast.companions import Companions
from statecast.heads.quantiles import QUANTILE_LEVELS
from statecast.process import check_extra
from statecast.tables.features import (
    FEATURE_LIMIT,
    FIRST_CATEGORY,
    MISSING,
    NEVER_SEEN,
    Columns,
)
from statecast.tables.scaling import EXPONENTS
from statecast.tables.schema import Schema
from statecast.tables.vocabulary import END, FIRST_TOKEN, UNKNOWN

FORMAT, VERSION = "statecast-onnx", 1
# Of each transform: from y to the real line, and back before the limits are applied.
_EXPONENT = "min(max(u, {:g}), {:g})".format(*EXPONENTS)
FORMULAS = {
    "none": ("y", "u"),
    "log": ("log1p(y / centre)", f"expm1({_EXPONENT}) * centre"),
    "counts": ("log1p(y / centre)", f"round(expm1({_EXPONENT}) * centre)"),
    "positive": ("log(y / centre)", f"exp({_EXPONENT}) * centre"),
    "logit": (
        "log(((y - low) / (high - low) + centre) / (1 - (y - low) / (high - low) + centre))",
        "low + (high - low) * ((0.5 + 0.5 * tanh(u / 2)) * (1 + 2 * centre) - centre)",
    ),
}


FILES = ("encode.onnx", "step.onnx", "model.json")


def write(model: Any, companions: Companions, folder: str | os.PathLike[str]) -> None:
    """Write the files of a fitted ``model`` into a folder; see ``StateModel.export``."""
    check_extra("onnx", ["onnx"], "export")
    folder = _checked_folder(folder)
    schema, decoder = model.schema, model.engine.decoder
    graphs: NumberGraphs | TokenGraphs
    if schema.vocabulary is None:
        graphs = NumberGraphs(decoder, model.weights, companions, schema)
    else:
        graphs = TokenGraphs(decoder, model.weights, schema)
    recorded = [graphs.encode(), graphs.step()]
    files = {f"{graph.name}.onnx": graph.model().SerializeToString() for graph in recorded}
    about = {
        "format": FORMAT,
        "version": VERSION,
        "statecast": version("statecast"),
        "kind": type(model).__name__,
        "fingerprint": model.fingerprint,
        "opset": OPSET,
        "graphs": {
            graph.name: _of_graph(graph, name, data)
            for graph, (name, data) in zip(recorded, files.items(), strict=True)
        },
        "state": {"leaves": list(graphs.leaves), "after": AFTER},
        "steps": described_steps(schema),
        **{name: described_columns(getattr(schema, name)) for name in ("static", "future", "past")},
    }
    about |= described_numbers(schema) if schema.vocabulary is None else _of_tokens(graphs, model)
    files["model.json"] = json.dumps(about, indent=1, allow_nan=False).encode()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ArgumentError(
            f"{folder}: cannot be made ({error.strerror}). Choose another name."
        ) from None
    for name, data in files.items():
        write_whole(folder / name, data)


def _checked_folder(folder: Any) -> Path:
    text = path_text("folder", folder, "folder")
    found = Path(text)
    try:
        if found.exists() and not found.is_dir():
            raise ArgumentError(f"{text}: expected a folder, received a file. Choose another name.")
        if not found.parent.is_dir():
            raise ArgumentError(f"{text}: there is no folder {found.parent}. Make it first.")
        for name in FILES:
            if (found / name).is_dir():
                raise ArgumentError(
                    f"{found / name}: there is a folder where export writes a file. Remove it, or "
                    "choose another folder."
                )
    except OSError as error:
        raise ArgumentError(f"folder: cannot be used ({error.strerror}).") from None
    return found


def _of_graph(graph: Graph, name: str, data: bytes) -> dict[str, Any]:
    def ports(several: Sequence[Port]) -> list[dict[str, Any]]:
        return [
            {
                "name": each.name,
                "dtype": each.dtype.name,
                "shape": list(each.shape),
                "meaning": each.meaning,
            }
            for each in several
        ]

    return {
        "file": name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "inputs": ports(graph.inputs),
        "outputs": ports(graph.outputs),
    }


def described_steps(schema: Schema) -> dict[str, Any]:
    """The field ``steps`` of ``model.json``."""
    return {
        "longest": schema.steps,
        "first": schema.first,
        "dates": None if schema.spacing is None else schema.spacing.to_config(),
        "closed": schema.calendar.to_config(),
    }


def described_columns(columns: Columns) -> dict[str, Any]:
    """The fields ``static``, ``future`` and ``past``: how features are encoded."""
    return {
        "numeric": [
            {
                "name": name,
                "centre": float(centre),
                "mean": float(mean),
                "gain": float(gain),
                "limit": FEATURE_LIMIT,
            }
            for name, (centre, mean, gain) in zip(columns.numeric, columns.scaling, strict=True)
        ],
        "categorical": [
            {
                "name": name,
                "never_seen": NEVER_SEEN,
                "missing": MISSING,
                "codes": {known: FIRST_CATEGORY + i for i, known in enumerate(categories)},
            }
            for name, categories in columns.categories.items()
        ],
    }


def described_numbers(schema: Schema) -> dict[str, Any]:
    """The fields ``targets`` and ``quantiles``: how values are scaled."""
    targets = []
    for target in schema.targets:
        to_line, from_line = FORMULAS[target.transform.name]
        low, high = (bound if math.isfinite(bound) else None for bound in target.transform.bounds)
        targets.append(
            {
                "name": target.name,
                "transform": target.transform.name,
                "to_line": to_line,
                "from_line": from_line,
                "centre": target.transform.centre,
                "low": low,
                "high": high,
                "location": target.location.tolist(),
                "scaling": target.scaling.tolist(),
                "limit": LARGEST_INPUT,
                "observed": target.observed.tolist(),
            }
        )
    first, last = (
        "levels[0] / (levels[1] - levels[0])",
        "(1 - levels[-1]) / (levels[-1] - levels[-2])",
    )
    quantiles = {
        "levels": list(QUANTILE_LEVELS),
        "between": "linear in the level p",
        "below": f"q[0] + (q[1] - q[0]) * {first} * log(p / levels[0])",
        "above": f"q[-1] - (q[-1] - q[-2]) * {last} * log((1 - p) / (1 - levels[-1]))",
    }
    return {"targets": targets, "quantiles": quantiles}


def _of_tokens(graphs: Any, model: Any) -> dict[str, Any]:
    schema, decoder = graphs.schema, graphs.decoder
    special = {"unknown": UNKNOWN, "end": END, "start": decoder.start, "gap": decoder.gap}
    return {
        "tokens": {
            "column": schema.targets[0].name,
            "special": special,
            "ends": model.engine.ends,
            "first": FIRST_TOKEN,
            "vocabulary": list(schema.vocabulary.tokens),
        }
    }
