"""The routes, and their description in OpenAPI for the columns of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from statecast.server.wire import ARROW, CSV, JSON, NDJSON, OCTETS, PROBLEM, Limits, Protocol, shown
from statecast.tables.schema import Schema

ROW = ("step", "values", "static", "future", "past")
FORECAST = ("until", "h", "level", "quantiles", "mean", "calibrated", "as_of")


@dataclass(frozen=True)
class Route:
    """A route.

    Attributes
    ----------
    method, path : str
    work : str
        The name of its function in the application.
    meaning : str
        One sentence.
    answers : mapping of int to str
        What an answer has, by status: the name of a schema, or "" without a body.
    problems : collection of int
        The statuses of its own problems; those of every route are in ``_EVERY``.
    body : mapping of str to str
        The media types of its body, and the name of a schema for each; empty: it has no body. The
        type "" is a body without a type, as clients of the Open Inference Protocol send it.
    query : collection of str
    match : collection of str
        The headers about versions that it reads.
    free : bool
        Whether it needs no token: for load balancers, and for the first request of a browser.
    protocol : {"", "mlflow", "v2"}
        The part of the application that has its function, and the form of its problems.
    """

    method: str
    path: str
    work: str
    meaning: str
    answers: Mapping[int, str]
    problems: Collection[int] = ()
    body: Mapping[str, str] = field(default_factory=dict)
    query: Collection[str] = ()
    match: Collection[str] = ()
    free: bool = False
    protocol: Protocol = ""


_ITEM = "/v1/items/{item}"
_EVERY = (401, 421, 422, 500, 503)
_BODY = (400, 408, 413, 415)
_CHANGE, _READ = ("If-Match",), ("If-None-Match",)

# The Open Inference Protocol: the paths of the model, and what the names of their functions end in.
_MODELS = {"/v2/models/{name}": "", "/v2/models/{name}/versions/{version}": "_of_version"}

ROUTES: Sequence[Route] = (
    Route("GET", "/", "get_page", "The page, for a browser.", {200: "Page"}, free=True),
    Route("GET", "/v1/playground", "get_playground", "The model, for the page.", {200: "Any"}),
    Route(
        "GET",
        "/v1/items",
        "get_items",
        "Ids of items in the order of their bytes: at most 1,000, those after another one.",
        {200: "Items"},
        query=("after",),
    ),
    Route(
        "GET",
        _ITEM,
        "get_item",
        "What is in effect of an item: its observations, static features and future covariates.",
        {200: "Item", 304: ""},
        (400, 404),
        match=_READ,
    ),
    Route(
        "PUT",
        _ITEM,
        "put_item",
        "Accept the static features of an item: an item with k = 0.",
        {200: "Accepted", 201: "Accepted"},
        (*_BODY, 409, 412),
        {JSON: "Static"},
        match=_CHANGE,
    ),
    Route(
        "DELETE",
        _ITEM,
        "delete_item",
        "Remove all of an item.",
        {204: ""},
        (400, 404, 412),
        match=_CHANGE,
    ),
    Route(
        "POST",
        f"{_ITEM}/observations",
        "post_observation",
        "Accept an observation of an item.",
        {200: "Observed"},
        (*_BODY, 409, 412),
        {JSON: "Observation"},
        match=_CHANGE,
    ),
    Route(
        "GET",
        f"{_ITEM}/forecast",
        "get_forecast",
        "Forecast the steps after the last observation of an item.",
        {200: "Forecast", 304: ""},
        (400, 404),
        query=FORECAST,
        match=_READ,
    ),
    Route(
        "GET",
        f"{_ITEM}/history",
        "get_history",
        "The journal of an item: its events in the order in which they were accepted.",
        {200: "History", 304: ""},
        (400, 404),
        match=_READ,
    ),
    Route(
        "GET",
        f"{_ITEM}/state",
        "get_state",
        "The state of an item.",
        {200: "State", 304: ""},
        (400, 404),
        match=_READ,
    ),
    Route(
        "PUT",
        f"{_ITEM}/state",
        "put_state",
        "Let an item go on from another state: its observations have no effect any more.",
        {204: ""},
        (*_BODY, 404, 412, 428),
        {JSON: "State"},
        match=_CHANGE,
    ),
    Route(
        "DELETE",
        f"{_ITEM}/state",
        "delete_state",
        "Let an item begin again with k = 0: its observations have no effect any more.",
        {204: ""},
        (400, 404, 412, 428),
        match=_CHANGE,
    ),
    Route(
        "POST",
        f"{_ITEM}/fork",
        "post_fork",
        "Copy an item, with its journal, to a new one.",
        {201: "Forked"},
        (*_BODY, 404, 409),
        {JSON: "Fork"},
    ),
    Route(
        "POST",
        "/v1/batch",
        "post_batch",
        "Accept observations of several items, the lines of JSON or the rows of a table of Arrow: "
        "all of them, or none.",
        {200: "Batch"},
        (*_BODY, 409),
        {NDJSON: "Line", ARROW: "Bytes"},
    ),
    Route("GET", "/openapi.json", "get_description", "This description.", {200: "Any"}),
    Route("GET", "/metrics", "get_metrics", "The metrics, for Prometheus.", {200: "Text"}),
    Route("GET", "/livez", "get_live", "Whether the process answers.", {200: "Health"}, free=True),
    Route("GET", "/readyz", "get_ready", "Whether the store answers.", {200: "Health"}, free=True),
    Route(
        "POST",
        "/invocations",
        "post_invocation",
        "MLflow: forecast the items of a table, or stored items.",
        {200: "Predictions"},
        (*_BODY, 404),
        {JSON: "Invocation", CSV: "Text"},
        protocol="mlflow",
    ),
    *(
        Route(
            "GET", f"/{name}", f"get_{name}", "As /readyz, for MLflow.", {200: "Health"}, free=True
        )
        for name in ("ping", "health")
    ),
    Route("GET", "/v2", "get_server", "V2: what the server is.", {200: "Any"}, protocol="v2"),
    *(
        Route(
            "GET",
            f"/v2/health/{name}",
            f"get_v2_{name}",
            f"V2: as /{name}z.",
            {200: "Health"},
            free=True,
        )
        for name in ("live", "ready")
    ),
    *(
        route
        for model, of in _MODELS.items()
        for route in (
            Route(
                "GET",
                model,
                f"get_model{of}",
                "V2: the tensors of the model.",
                {200: "Any"},
                (404,),
                protocol="v2",
            ),
            Route(
                "GET",
                f"{model}/ready",
                f"get_model_ready{of}",
                "V2: whether the model answers.",
                {200: "Any"},
                (404,),
                protocol="v2",
            ),
            Route(
                "POST",
                f"{model}/infer",
                f"post_inference{of}",
                "V2: accept an observation of an item, or forecast it, or both.",
                {200: "Tensors"},
                (*_BODY, 404, 409, 412),
                {JSON: "Inference", OCTETS: "Bytes", "": "Bytes"},
                match=_CHANGE,
                protocol="v2",
            ),
        )
    ),
    Route("GET", "/version", "get_version", "The version of Statecast, for MLflow.", {200: "Text"}),
)
FREE = frozenset(route.path for route in ROUTES if route.free)
# Answered also while too many requests are in work.
ALWAYS = FREE | {"/metrics"}
_PROTOCOLS: Mapping[str, Protocol] = {route.path.split("/")[1]: route.protocol for route in ROUTES}


def protocol_of(path: str) -> Protocol:
    """Return the protocol of a path, whether or not a route has it."""
    return _PROTOCOLS.get(path.split("/")[1], "") if path.startswith("/") else ""


_TEXT, _FLAG = {"type": "string"}, {"type": "boolean"}


def _of(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


_PROBLEMS: Mapping[Protocol, dict[str, Any]] = {
    "": {
        "description": "A problem (RFC 9457).",
        "content": {PROBLEM: {"schema": _of("Problem")}},
    },
    "mlflow": {
        "description": "An error as MLflow writes it.",
        "content": {JSON: {"schema": _of("MlflowError")}},
    },
    "v2": {
        "description": "An error as the Open Inference Protocol has it.",
        "content": {JSON: {"schema": _of("InferenceError")}},
    },
}


def described(schema: Schema, limits: Limits, model: Mapping[str, str]) -> dict[str, Any]:
    """Return the OpenAPI description of the routes, for a model and limits.

    ``model`` has its ``name`` and its ``version``.
    """
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, limits, model)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Statecast",
            "version": "1",
            "summary": "One durable state per item: observations in, forecasts out.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(schema, limits),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }


def _operation(route: Route, limits: Limits, model: Mapping[str, str]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = []
    if "{item}" in route.path:
        parameters.append(
            {
                "name": "item",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1, "maxLength": limits.id},
                "description": f"The id of the item: percent-encoded UTF-8 of at most {limits.id} "
                "bytes, a slash as %2F.",
            }
        )
    parameters += [
        {"name": name, "in": "path", "required": True, "schema": {"enum": [value]}}
        for name, value in model.items()
        if f"{{{name}}}" in route.path
    ]
    parameters += [{"name": name, "in": "query", **_query(name, limits)} for name in route.query]
    needed = 428 in route.problems
    parameters += [
        {
            "name": name,
            "in": "header",
            "required": needed,
            "schema": _TEXT,
            "description": "The ETag of the item.",
        }
        for name in route.match
    ]
    answers = {str(status): _answer(name) for status, name in route.answers.items()}
    statuses = {shown(status, route.protocol) for status in (*route.problems, *_EVERY)}
    answers |= {str(status): _PROBLEMS[route.protocol] for status in sorted(statuses)}
    found: dict[str, Any] = {
        "operationId": route.work,
        "summary": route.meaning,
        "parameters": parameters,
        "responses": answers,
    }
    if route.body:
        content = {media: {"schema": _of(name)} for media, name in route.body.items() if media}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _answer(name: str) -> dict[str, Any]:
    if not name:
        return {"description": "Done, or not changed."}
    media = {"Text": "text/plain", "Page": "text/html"}.get(name, JSON)
    return {"description": name, "content": {media: {"schema": _of(name)}}}


def _object(properties: Mapping[str, Any], required: Collection[str] = ()) -> dict[str, Any]:
    """An object with these properties and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _query(name: str, limits: Limits) -> dict[str, Any]:
    """The type and the meaning of a parameter."""
    whole = {"type": "integer", "minimum": 1, "maximum": limits.steps}
    listed = {"type": "array", "items": {"type": "number"}, "maxItems": limits.quantiles}
    several = {"schema": listed, "style": "form", "explode": False}
    return {
        "until": {"schema": whole, "description": "The last step to forecast."},
        "h": {"schema": whole, "description": "Instead of until: the number of steps."},
        "level": {**several, "description": "Coverage of central intervals, in percent."},
        "quantiles": {**several, "description": "Further quantiles, from 0 to 1."},
        "mean": {"schema": _FLAG, "description": "Whether the mean is given too."},
        "calibrated": {"schema": _FLAG, "description": "False: the quantiles of the network."},
        "after": {"schema": _TEXT, "description": "The id that the first one comes after."},
        "as_of": {
            "schema": {"type": "string", "format": "date-time"},
            "description": "The forecast from what had been accepted up to this moment.",
        },
    }[name]


def _schemas(schema: Schema, limits: Limits) -> dict[str, Any]:
    """The objects of bodies and answers."""
    whole = {"type": "integer", "minimum": 1, "maximum": limits.steps}
    number = {"type": ["number", "null"]}
    several = {
        "type": "array",
        "items": number,
        "minItems": len(schema.targets),
        "maxItems": len(schema.targets),
        "description": f"Of {', '.join(schema.target_cols)}, in this order.",
    }
    static = _features(schema.static.kinds)
    more = [name for name in (schema.group_col, schema.start_col) if name is not None]
    static["properties"] |= {name: {"type": ["string", "number", "null"]} for name in more}
    static["required"] += more
    row = {
        "step": _TEXT if schema.spacing is not None else {"type": "integer"},
        "values": number if len(schema.targets) == 1 else several,
        "static": _of("Static"),
        "future": _features(schema.future.kinds),
        "past": _features(schema.past.kinds),
    }
    ident = {"type": "string", "minLength": 1, "maxLength": limits.id}
    status = {"enum": ["duplicate", "new", "late", "corrected"]}
    messages = {"type": "array", "items": _TEXT}
    rows = {"type": "array", "items": {"type": "object"}}
    leaf = _object({"dtype": {"enum": ["float32", "int64"]}, "values": {}}, ("dtype", "values"))
    accepted = {"item": _TEXT, "status": status, "warnings": messages}
    observed = {
        **accepted,
        "revised": {**_FLAG, "description": "Whether the past of the item changed."},
        "forecast": rows,
        "before": {**rows, "description": "Of a revised item: the forecast before this call."},
    }
    batch = {
        "status": {"type": "array", "items": status},
        "revised": {"type": "array", "items": _TEXT},
        "warnings": messages,
    }
    state = {"fingerprint": _TEXT, "leaves": {"type": "object", "additionalProperties": leaf}}
    columns = {"type": "object", "additionalProperties": {"type": "array"}}
    split = _object(
        {
            "columns": {"type": "array", "items": _TEXT},
            "data": {"type": "array", "items": {"type": "array"}},
            "index": {"type": "array"},
        },
        ("columns", "data"),
    )
    table = {
        "dataframe_split": split,
        "dataframe_records": rows,
        "inputs": {"oneOf": [columns, rows]},
        "instances": {"oneOf": [columns, rows]},
    }
    return {
        "Any": {"type": "object"},
        "Text": _TEXT,
        "Health": _object({"status": _TEXT}, ("status",)),
        "Static": static,
        "Observation": _object({**row, "until": whole, "h": whole}),
        "Line": _object({"item": ident, **row}, ("item",)),
        "Fork": _object({"as": ident}, ("as",)),
        "Accepted": _object(accepted, accepted),
        "Observed": _object(observed, ("item", "status", "revised", "warnings")),
        "Batch": _object(batch, batch),
        "Forecast": _object(
            {"item": _TEXT, "forecast": rows, "warnings": messages},
            ("item", "forecast", "warnings"),
        ),
        "Items": _object({"items": {"type": "array", "items": _TEXT}}, ("items",)),
        "Item": _object(
            {"item": _TEXT, "series": rows, "static": rows, "future": rows},
            ("item", "series", "static", "future"),
        ),
        "Page": _TEXT,
        "History": _object({"item": _TEXT, "events": rows}, ("item", "events")),
        "State": _object(state, state),
        "Forked": _object({"item": _TEXT, "of": _TEXT}, ("item", "of")),
        "Invocation": {
            **_object({**table, "params": {"type": "object"}}),
            "oneOf": [{"required": [name]} for name in table],
        },
        "Predictions": _object({"predictions": rows}, ("predictions",)),
        "MlflowError": _object({"error_code": _TEXT, "message": _TEXT}, ("error_code", "message")),
        **_tensors(),
        "Problem": {
            "type": "object",
            "properties": {
                "type": _TEXT,
                "title": _TEXT,
                "status": {"type": "integer"},
                "detail": _TEXT,
                "error": {**_TEXT, "description": "The class of the error."},
                "column": {"description": "The column at fault."},
                "item": {"description": "The item at fault."},
            },
            "required": ["type", "title", "status", "detail"],
        },
    }


def _features(kinds: Mapping[str, str]) -> dict[str, Any]:
    """An object with a value for each feature; null is a missing one."""
    cell = {"type": ["number", "string", "boolean", "null"]}
    number = {"type": ["number", "null"]}
    properties = {name: number if kind == "numeric" else cell for name, kind in kinds.items()}
    return _object(properties, properties)


def _tensors() -> dict[str, Any]:
    """The objects of the Open Inference Protocol."""
    shape = {"type": "array", "items": {"type": "integer"}}
    tensor = {"name": _TEXT, "shape": shape, "datatype": _TEXT, "data": {"type": "array"}}
    size = {"binary_data_size": {"type": "integer", "minimum": 0}}
    more = {"type": ["string", "number", "boolean"]}
    output = _object({"name": _TEXT, "parameters": _object({"binary_data": _FLAG})}, ("name",))
    named = {"id": _TEXT, "model_name": _TEXT, "model_version": _TEXT}
    return {
        "Tensor": _object({**tensor, "parameters": _object(size)}, ("name", "shape", "datatype")),
        "Inference": _object(
            {
                "id": _TEXT,
                "parameters": {
                    "type": "object",
                    "properties": {"item": _TEXT, "step": {"type": ["integer", "string"]}},
                    "required": ["item"],
                    "additionalProperties": more,
                },
                "inputs": {"type": "array", "items": _of("Tensor")},
                "outputs": {"type": "array", "items": output},
            },
            ("parameters",),
        ),
        "Tensors": _object(
            {**named, "outputs": {"type": "array", "items": _of("Tensor")}},
            ("model_name", "model_version", "outputs"),
        ),
        "Bytes": {
            "type": "string",
            "description": "An Inference, and the binary tensors after it: the header "
            "Inference-Header-Content-Length has the length of the Inference. Or a stream of "
            "Arrow: a table with the columns of the model.",
        },
        "InferenceError": _object({"error": _TEXT}, ("error",)),
    }
