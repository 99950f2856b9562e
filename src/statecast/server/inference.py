"""``Inference``: the Open Inference Protocol, version 2, of Triton and KServe.

A request names an item and a step in its parameters. Its input tensors are what is observed of the
item, and its output tensors are the forecast: the item is the stored one.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from statecast.errors import RequestError, listed, quoted, silent
from statecast.forecast.paths import MEAN, quantile_columns
from statecast.server.columns import Columns
from statecast.server.wire import (
    OCTETS,
    Answer,
    Call,
    Limits,
    check_item,
    json_bytes,
    plain,
    read_object,
    read_options,
    read_row,
    take_numbers,
)
from statecast.sessions.sessions import Sessions
from statecast.sessions.writer import Observed
from statecast.tables.output import column_of

_LENGTH = "inference-header-content-length"  # bytes of JSON before the binary tensors
_PARAMETERS = (
    "item", "step", "until", "h", "level", "quantiles", "mean", "calibrated", "binary_data_output",
)  # fmt: skip
_NUMBERS = {
    "BOOL": "?", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "<u1",
    "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_JSON_TYPES = {"": (str,), "?": (bool,), "i": (int,), "u": (int,), "f": (int, float)}


class Inference:
    """The routes below ``/v2``.

    Parameters
    ----------
    sessions : Sessions
    limits : Limits
    model : mapping of str to str
        The ``name`` and the ``version`` of the model.
    observe : callable
        Accepts a row of the item of a call. Returns an awaitable of what became of it, with the
        forecast as rows of JSON, and of the warnings.
    tag : callable
        Returns the header with a version of an item.
    in_thread : callable
        Calls a function in a thread, and returns an awaitable of its result.
    """

    def __init__(
        self,
        sessions: Sessions,
        limits: Limits,
        model: Mapping[str, str],
        *,
        observe: Callable[..., Awaitable[tuple[Observed, list[str]]]],
        tag: Callable[[str], dict[str, str]],
        in_thread: Callable[..., Awaitable[Any]],
    ) -> None:
        self._sessions, self._limits, self._model = sessions, limits, model
        self._observe, self._tag, self._in_thread = observe, tag, in_thread
        self._columns = Columns(sessions.model.schema)

    def get_server(self, call: Call) -> Answer:
        """What the server is, and which extensions it has."""
        return Answer(
            200,
            {
                "name": "statecast",
                "version": version("statecast"),
                "extensions": ["binary_tensor_data"],
            },
        )

    def get_model(self, call: Call) -> Answer:
        """The tensors of the model."""
        self._check_model(call)
        inputs = {
            name: "FP64" if kind == "numeric" else "BYTES"
            for kinds in self._columns.kinds.values()
            for name, kind in kinds.items()
        }
        return Answer(
            200,
            {
                "name": self._model["name"],
                "versions": [self._model["version"]],
                "platform": "statecast",
                "inputs": [_described(name, kind, 1) for name, kind in inputs.items()],
                "outputs": [
                    _described(name, kind, 1 if name == "status" else -1)
                    for name, kind in self._outputs({"h": 1}, observed=True).items()
                ],
            },
        )

    def get_model_ready(self, call: Call) -> Answer:
        """Whether the model answers."""
        self._check_model(call)
        return Answer(200, {"name": self._model["name"], "ready": True})

    get_model_of_version, get_model_ready_of_version = get_model, get_model_ready

    async def post_inference(self, call: Call) -> Answer:
        """Accept an observation of an item, or forecast it, or both."""
        self._check_model(call)
        body, tensors = _split(call)
        parameters = _object(body.get("parameters", {}), _PARAMETERS, "parameters")
        binary = parameters.pop("binary_data_output", False)
        if "item" not in parameters:
            raise RequestError(422, "parameters: expected item, the id of an item; received none.")
        item = check_item(parameters.pop("item"), self._limits.id, "parameters, item")
        step = {name: parameters.pop(name) for name in ("step",) if name in parameters}
        options = read_options(
            {name: [_text(name, value)] for name, value in parameters.items()}, self._limits
        )
        given = _values(body.get("inputs", []), tensors)
        outputs = self._outputs(options, observed=bool(given or step))
        wanted = _wanted(body.get("outputs", []), outputs, binary)
        known = body.get("id", "")
        if not isinstance(known, str):
            raise RequestError(422, f"id: expected a text; received {quoted(known)}.")
        if given or step:
            row = step | self._columns.row(given, "inputs")
            row = read_row(row, len(self._columns.kinds["values"]), "inputs")
            columns, headers = await self._observed(replace(call, item=item), row, options)
        else:
            columns, headers = await self._in_thread(self._forecast, call, item, options), {}
        content = {f"model_{part}": value for part, value in self._model.items()}
        content |= {"id": known} if known else {}
        return _answer(content, columns, outputs, wanted, headers)

    post_inference_of_version = post_inference

    async def _observed(
        self, call: Call, row: dict[str, Any], options: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The output tensors of an observation, and the header with the version of its item."""
        if set(options) - {"until", "h"}:
            raise RequestError(
                422,
                "parameters: expected level, quantiles, mean and calibrated without inputs only. "
                "Ask for this forecast in a request of its own.",
            )
        take_numbers(call, options, 1, self._sessions.model.schema, self._limits)
        observed, _ = await self._observe(call, row, **options)
        columns: dict[str, Any] = {"status": observed.status.tolist()}
        if observed.forecast is not None:
            names = self._outputs(options, observed=False)
            columns |= {name: [each[name] for each in observed.forecast] for name in names}
        return columns, self._tag(observed.versions[0])

    def _forecast(self, call: Call, item: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The output tensors of a forecast."""
        if not options.keys() & {"until", "h"}:
            raise RequestError(
                422, "Expected inputs, which are observed, or until or h, for a forecast."
            )
        take_numbers(call, options, 1, self._sessions.model.schema, self._limits)
        with silent():
            return self._tensors(self._sessions.forecast(item, **options))

    def _outputs(self, options: Mapping[str, Any], *, observed: bool) -> dict[str, str]:
        """The output tensors of a request, with their types."""
        found = {"status": "BYTES"} if observed else {}
        if not options.keys() & {"until", "h"}:
            return found
        schema = self._sessions.model.schema
        found[schema.step_col] = "INT64" if schema.spacing is None else "BYTES"
        if schema.spacing is not None:
            found["step"] = "INT64"
        names = [*quantile_columns(options.get("level", [80]), options.get("quantiles", []))]
        names += [MEAN] if options.get("mean") else []
        for target in schema.target_cols:
            for name in names:
                found[name if len(schema.targets) == 1 else column_of(name, target)] = "FP64"
        return found

    def _tensors(self, table: Any) -> dict[str, Any]:
        frame = nw.from_native(table, eager_only=True)
        schema = self._sessions.model.schema
        return {name: frame[name].to_list() for name in frame.columns if name != schema.id_col}

    def _check_model(self, call: Call) -> None:
        """Raise ``RequestError`` for another model, or another version of it (status 404)."""
        for part, given in call.path.items():
            own = self._model[part]
            if given != own:
                raise RequestError(
                    404, f"Expected the {part} of the model, {own}; received {quoted(given)}."
                )


# -- tensors --------------------------------------------------------------------------------------


def _described(name: str, datatype: str, length: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [length]}


def _object(given: Any, keys: Sequence[str], where: str) -> dict[str, Any]:
    """A copy of an object that has no other keys than these."""
    if not isinstance(given, dict) or not set(given) <= set(keys):
        received = listed(given) if isinstance(given, dict) else quoted(given)
        raise RequestError(422, f"{where}: expected {listed(keys, 20)}; received {received}.")
    return dict(given)


def _text(name: str, value: Any) -> str:
    """A parameter as a query would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, (str, int, float)):
        raise RequestError(
            422, f"parameters, {name}: expected a number or a text; received {quoted(value)}."
        )
    return str(value)


def _split(call: Call) -> tuple[dict[str, Any], bytes]:
    """The JSON of a request, and the binary tensors after it."""
    given, whole = call.headers.get(_LENGTH), len(call.body)
    if given is not None and not (re.fullmatch("[0-9]{1,18}", given) and int(given) <= whole):
        raise RequestError(
            400,
            f"{_LENGTH}: expected a number up to the length of the body; received {quoted(given)}.",
        )
    length = whole if given is None else int(given)
    body = read_object(call.body[:length], ("id", "parameters", "inputs", "outputs"))
    return body, call.body[length:]


def _values(inputs: Any, data: bytes) -> dict[str, Any]:
    """The value of each input tensor, by name: a number, a boolean, a text, or None."""
    found: dict[str, Any] = {}
    if not isinstance(inputs, list):
        raise RequestError(422, "inputs: expected a list of tensors.")
    for tensor in inputs:
        tensor = _object(tensor, ("name", "shape", "datatype", "parameters", "data"), "inputs")
        name, shape, datatype = (tensor.get(key) for key in ("name", "shape", "datatype"))
        where = f"inputs, {quoted(name)}"
        if not isinstance(name, str) or name in found:
            raise RequestError(422, f"{where}: expected a name, and once.")
        if not isinstance(shape, list) or any(type(n) is not int or n != 1 for n in shape):
            raise RequestError(
                422,
                f"{where}, shape: expected [1], as a request has one row; received "
                f"{quoted(shape)}.",
            )
        if datatype not in (*_NUMBERS, "BYTES"):
            raise RequestError(
                422,
                f"{where}, datatype: expected one of {listed((*_NUMBERS, 'BYTES'), 20)}; "
                f"received {quoted(datatype)}.",
            )
        more = _object(tensor.get("parameters", {}), ("binary_data_size",), f"{where}, parameters")
        if ("data" in tensor) == bool(more):
            raise RequestError(422, f"{where}: expected either data or binary_data_size.")
        if "data" in tensor:
            found[name] = _of_json(tensor["data"], datatype, where)
            continue
        size = more["binary_data_size"]
        if type(size) is not int or not 0 <= size <= len(data):
            raise RequestError(
                400,
                f"{where}: expected its bytes after the JSON; received {len(data):,} bytes "
                f"for {quoted(size)}.",
            )
        found[name], data = _of_bytes(data[:size], datatype, where), data[size:]
    if data:
        raise RequestError(
            400, f"Body: expected no bytes after the tensors; received {len(data):,}."
        )
    return found


def _of_json(data: Any, datatype: str, where: str) -> Any:
    """The value of a tensor whose data is in the JSON."""
    while isinstance(data, list) and len(data) == 1:
        (data,) = data
    if data is None:
        return None
    kind = _NUMBERS.get(datatype, "")
    if type(data) not in _JSON_TYPES[kind[-2:-1] or kind]:
        raise RequestError(422, f"{where}: expected one {datatype} value; received {quoted(data)}.")
    if not kind:
        return data
    try:
        with np.errstate(over="ignore"):
            value = np.array(data, kind).item()
    except OverflowError:
        value = math.inf
    if isinstance(value, float) and math.isinf(value):
        raise RequestError(422, f"{where}: expected a {datatype} value; received {quoted(data)}.")
    return value


def _of_bytes(data: bytes, datatype: str, where: str) -> Any:
    """The value of a binary tensor; NaN is a missing one."""
    if datatype in _NUMBERS:
        kind = np.dtype(_NUMBERS[datatype])
        if len(data) != kind.itemsize:
            raise RequestError(
                400, f"{where}: expected {kind.itemsize} bytes; received {len(data):,}."
            )
        value = np.frombuffer(data, kind)[0].item()
        return value if value == value else None
    if len(data) < 4 or struct.unpack("<I", data[:4])[0] != len(data) - 4:
        raise RequestError(400, f"{where}: expected a text after its length in 4 bytes.")
    try:
        return data[4:].decode()
    except UnicodeDecodeError:
        raise RequestError(400, f"{where}: expected UTF-8; received other bytes.") from None


def _wanted(outputs: Any, known: Mapping[str, str], binary: Any) -> dict[str, bool]:
    """The output tensors that are asked for, and whether as bytes; by default all of them."""
    if not isinstance(outputs, list) or not isinstance(binary, bool):
        raise RequestError(422, "outputs, binary_data_output: expected a list, and true or false.")
    found: dict[str, bool] = {}
    for output in outputs:
        output = _object(output, ("name", "parameters"), "outputs")
        name = output.get("name")
        more = _object(output.get("parameters", {}), ("binary_data",), "outputs, parameters")
        as_bytes = more.get("binary_data", binary)
        if not isinstance(name, str) or name not in known or not isinstance(as_bytes, bool):
            raise RequestError(
                422,
                f"outputs: expected some of {listed(known, 20)}, with binary_data true or false; "
                f"received {quoted(name)}.",
            )
        found[name] = as_bytes
    return found or dict.fromkeys(known, binary)


def _answer(
    content: dict[str, Any],
    columns: Mapping[str, list[Any]],
    kinds: Mapping[str, str],
    wanted: Mapping[str, bool],
    headers: dict[str, str],
) -> Answer:
    """Tensors as an answer: in the JSON, or as bytes after it."""
    outputs, parts = [], []
    for name, as_bytes in wanted.items():
        cells, kind = [plain(cell) for cell in columns[name]], kinds[name]
        tensor: dict[str, Any] = {"name": name, "datatype": kind, "shape": [len(cells)]}
        if as_bytes:
            parts.append(_bytes(cells, kind))
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            tensor["data"] = cells
        outputs.append(tensor)
    text = json_bytes(content | {"outputs": outputs})
    if not parts:
        return Answer(200, text, headers)
    more = {"Content-Type": OCTETS, "Inference-Header-Content-Length": str(len(text))}
    return Answer(200, b"".join([text, *parts]), headers | more)


def _bytes(cells: Sequence[Any], kind: str) -> bytes:
    """The bytes of a tensor."""
    if kind != "BYTES":
        return np.array(cells, _NUMBERS[kind]).tobytes()
    texts = [(cell or "").encode() for cell in cells]  # the date of an item without dates
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)
