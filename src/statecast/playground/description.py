"""``described``: all that a page needs to forecast without Python, as strict JSON.

``assets/engine.js`` computes the forecasts. The description has the scaling of tables as
``model.json`` of an export has it, the ranges that features had in training, and the arrays of the
network and its companions.
"""

from __future__ import annotations

import base64
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from statecast.errors import ArgumentError
from statecast.export.numbers import LARGEST_INPUT
from statecast.export.onnx import described_columns, described_numbers, described_steps
from statecast.forecast.analogues import WINDOW, Analogues
from statecast.forecast.base import StateModel
from statecast.forecast.companions import Companions
from statecast.forecast.endings import MOST_CATEGORIES
from statecast.forecast.forecaster import Forecaster
from statecast.heads.counts import NegativeBinomial, Poisson
from statecast.heads.quantiles import Quantiles
from statecast.networks.decoder import IN_STATE, edges
from statecast.recurrence.cells import within
from statecast.tables.features import FIRST_CATEGORY, Columns, every_category
from statecast.tables.scaling import MOST_COUNTED
from statecast.tables.schema import Schema

FORMAT, VERSION = "statecast-page", 1
MOST_BYTES = 64 * 2**20  # of arrays: a browser reads such a page in about a second
_ANALOGUES = ("categories", "gaps", "basis", "x", "y", "fold", "metric")
_LINEAR = ("centre", "kernel", "bias", "covariance")
_SPREAD = 3.0  # standard deviations: the range of a feature whose training values are not known


def described(model: Any) -> dict[str, Any]:
    """Return the description of a fitted ``Forecaster``.

    Parameters
    ----------
    model : Forecaster

    Returns
    -------
    dict
        Strict JSON. ``arrays`` has for each array its ``dtype``, ``shape`` and ``offset`` in the
        bytes that ``data`` holds in base64, little-endian.

    Raises
    ------
    ArgumentError
        Another object, a forecaster of tokens, or arrays of more than 64 MiB.
    NotFittedError
        The model is not fitted.
    """
    if not isinstance(model, Forecaster):
        received = type(model).__name__
        why = ", whose sequences have no chart" if isinstance(model, StateModel) else ""
        raise ArgumentError(f"model: expected a Forecaster; received a {received}{why}.")
    schema = model.schema
    companions: Companions = model._companions
    arrays, data = _packed(_arrays(model.weights, companions, schema))
    analogues = companions.analogues if companions.stacking is not None else None
    return {
        "format": FORMAT,
        "version": VERSION,
        "statecast": version("statecast"),
        "fingerprint": model.fingerprint,
        "id": schema.id_col,
        "steps": described_steps(schema)
        | {
            "name": schema.step_col,
            "zone": schema.output().form.zone,
        },
        "first_category": FIRST_CATEGORY,
        "static": _features(schema.static, analogues),
        "future": _features(schema.future),
        "past": _features(schema.past),
        **_targets(schema),
        "network": _network(model),
        "window": WINDOW,
        "items": [] if analogues is None else [str(each) for each in analogues.ids.tolist()],
        "ends": companions.endings is not None,
        "arrays": arrays,
        "data": data,
    }


def _targets(schema: Schema) -> dict[str, Any]:
    found = described_numbers(schema)
    for about, target in zip(found["targets"], schema.targets, strict=True):
        about["input_limit"] = min(target.limit, LARGEST_INPUT)
        about["most"] = MOST_COUNTED  # of counts
    return found


def _network(model: Forecaster) -> dict[str, Any]:
    settings, decoder, static = model.settings, model.engine.decoder, model.schema.static
    head, featured = decoder.head, bool(static.kinds)
    found = {
        "cell": settings.cell,
        "units": settings.units,
        "layers": settings.layers,
        "members": model.engine.members,
        "depth": settings.depth,
        "conditioned": settings.conditioning in IN_STATE and featured,
        "head": settings.head,
        "horizon": decoder.horizon,
        "static": decoder.static,
        "past": decoder.past,
        "future": decoder.future,
        "observation": decoder.observation,
        "divided": list(decoder.divided),
        "edges": edges(decoder.intervals).tolist(),
    }
    if isinstance(head, Quantiles):
        found |= {"levels": list(head.levels), "start": head.start.tolist()}
    if isinstance(head, (Poisson, NegativeBinomial)):
        found |= asdict(head)
    return found


def _features(columns: Columns, analogues: Analogues | None = None) -> dict[str, Any]:
    """The columns, with the ``least`` and the ``most`` value of training, their median in few
    digits as the ``start``, and whether all values were ``whole`` numbers."""
    found = described_columns(columns)
    known = None
    width = columns.width // 2
    if analogues is not None and width:
        standard = np.eye(len(analogues.basis))
        if np.array_equal(analogues.basis, standard):  # else x are principal components
            known = np.where(analogues.x[:, width : 2 * width] > 0, np.nan, analogues.x[:, :width])
    for i, about in enumerate(found["numeric"]):
        z = np.array([-_SPREAD, 0.0, _SPREAD])
        if known is not None and not np.isnan(known[:, i]).all():
            z = known[~np.isnan(known[:, i]), i].astype(np.float64)
        value = z / about["gain"] + about["mean"] if about["gain"] else np.array([about["mean"]])
        if about["centre"]:
            value = np.expm1(value) * about["centre"]
        spread = float(np.ptp(value))
        near = np.abs(value - np.rint(value)).max() <= 1e-5 * max(spread, 1.0)
        digits = int(np.clip(2 - np.floor(np.log10(spread)), 0, 12)) if spread else 12
        about |= {
            "least": float(value.min()),
            "most": float(value.max()),
            "start": round(float(np.median(value)), digits),
            "whole": bool(known is not None and near),
        }
    return found


def _arrays(weights: Any, companions: Companions, schema: Schema) -> dict[str, np.ndarray]:
    found = {f"network/{name}": weight for name, weight in weights.items()}
    if companions.stacking is not None:
        parts = companions.arrays()
        for part in ("stacking", "missing", "dependence"):
            found |= {f"{part}/{name}": each for name, each in within(parts, part).items()}
        if companions.analogues is not None:
            found |= _of_analogues(companions.analogues)
    if companions.endings is not None:
        categories = every_category(schema.static.cardinalities, most=MOST_CATEGORIES)
        own = companions.endings.arrays() | {"categories": categories}
        found |= {f"endings/{name}": each for name, each in own.items()}
    return found


def _of_analogues(own: Analogues) -> dict[str, np.ndarray]:
    found = {name: getattr(own, name) for name in _ANALOGUES}
    found |= {f"paths/{name}": np.stack([getattr(p, name) for p in own.paths]) for name in _LINEAR}
    found |= {"ridge": np.array([own.ridge]), "filled": own.filled()[np.isnan(own.y)]}
    return {f"analogues/{name}": each for name, each in found.items()}


def _packed(arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], str]:
    """Where each array is, and the bytes of all in base64."""
    places, parts, offset = {}, [], 0
    for name, array in sorted(arrays.items()):
        dtype = np.dtype("int32" if array.dtype.kind == "i" else array.dtype)
        data = np.ascontiguousarray(array, dtype.newbyteorder("<")).tobytes()
        data += bytes(-len(data) % 8)  # the typed arrays of a browser are aligned
        places[name] = {"dtype": dtype.name, "shape": list(array.shape), "offset": offset}
        parts.append(data)
        offset += len(data)
    if offset > MOST_BYTES:
        raise ArgumentError(
            f"model: expected at most {MOST_BYTES // 2**20} MiB of arrays, which a browser can "
            f"read at once; received {offset / 2**20:.0f}. Fit with analogues=False, with fewer "
            "items, or with a smaller network."
        )
    return places, base64.b64encode(b"".join(parts)).decode("ascii")
