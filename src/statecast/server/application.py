"""``application``: the calls of ``Sessions`` as an ASGI application. It has no rules of its own.

Each route has a function that takes a ``Call`` and returns an ``Answer``. It runs in a thread, as
``Sessions`` waits for the disk. Those of observations are coroutines, which wait without a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from inspect import iscoroutinefunction
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from statecast.errors import (
    AbsentError,
    ArgumentError,
    MissingExtraError,
    RequestError,
    VersionError,
    listed,
    quoted,
    silent,
)
from statecast.playground.description import described as playground
from statecast.playground.page import page
from statecast.process import check_extra
from statecast.server.columns import Columns
from statecast.server.description import FORECAST, ROUTES, ROW, Route, described
from statecast.server.guard import Guard, Metrics
from statecast.server.inference import Inference
from statecast.server.invocations import Invocations
from statecast.server.wire import (
    ARROW,
    BODY_BYTES,
    Answer,
    Call,
    Limits,
    Memory,
    Protocol,
    Work,
    batch_of,
    check_item,
    expected_version,
    is_known,
    one_of,
    read_features,
    read_horizon,
    read_item,
    read_lines,
    read_moment,
    read_object,
    read_options,
    read_query,
    read_row,
    read_state,
    response_of,
    state_content,
    table_content,
    take_numbers,
)
from statecast.sessions.sessions import Sessions
from statecast.sessions.writer import Observed

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_IDS = 1000  # of an answer, at most
_DROPPED = 8  # times the limit of a body: so much of a longer one is read before the answer
PACKAGES = ("starlette", "uvicorn", "httptools", "orjson", "prometheus_client")


def application(
    sessions: Sessions,
    *,
    token: str | None = None,
    without_token: bool = False,
    limits: Limits | None = None,
    name: str = "statecast",
) -> Any:
    """Make an ASGI application that serves sessions.

    The how-to page "Serving" has the requests and what they promise. ``GET /openapi.json``
    describes them for the columns of the model.

    Parameters
    ----------
    sessions : Sessions
        Of a model that was fitted on tables. The caller closes them.
    token : str, optional
        Requests need it: ``Authorization: Bearer TOKEN``. Those of ``/``, ``/livez``, ``/readyz``,
        ``/ping``, ``/health``, ``/v2/health/live`` and ``/v2/health/ready`` do not.
    without_token : bool
        What is answered if there is no token. False: only requests that name this machine as their
        host (``localhost``, ``127.0.0.1``), so that a page in a browser cannot reach the
        application by another name. True: every request.
    limits : Limits, optional
    name : str
        The name of the model in the paths of the Open Inference Protocol.

    Returns
    -------
    ASGI application

    Raises
    ------
    ArgumentError
        A model that was fitted on arrays; a token of fewer than 16 characters or of others than
        visible ASCII.
    MissingExtraError
        The extra is not installed: ``pip install 'statecast[serve]'``. Or the library of the
        model's tables is not.

    Examples
    --------
    >>> import tempfile
    >>> import polars as pl
    >>> from statecast import Forecaster, Sessions
    >>> from statecast.server import application
    >>> rows = [(i, t, float(i + t)) for i in range(9) for t in range(1, 5)]
    >>> series = pl.DataFrame(rows, schema=["unique_id", "ds", "y"], orient="row")
    >>> f = Forecaster(units=4, ensemble=2, epochs=1).fit(series, verbose=0)
    >>> with tempfile.TemporaryDirectory() as folder, Sessions(f, f"{folder}/items.db") as sessions:
    ...     app = application(sessions)  # for uvicorn or another ASGI server
    """
    check_extra("serve", PACKAGES, "The server")
    library = sessions.model.schema.kind.library
    if library == "arrays":
        raise ArgumentError(
            "sessions: expected a model that was fitted on tables; this one was fitted on arrays, "
            "and its columns have no names. Fit it on tables."
        )
    if find_spec(library) is None:
        raise MissingExtraError(
            f"The forecaster was fitted on tables of {library}, and so its forecasts are such "
            f"tables; {library} is not installed: pip install {library}."
        )
    limits, metrics = limits or Limits(), Metrics(sessions)
    own = _Application(sessions, limits, metrics, name)
    local = token is None and not without_token
    return Guard(own.routed(), token, local=local, work=own.work, metrics=metrics)


class _Application:
    """The functions of the routes: ``ROUTES`` has their names."""

    def __init__(self, sessions: Sessions, limits: Limits, metrics: Metrics, name: str) -> None:
        self._sessions, self._limits, self._metrics = sessions, limits, metrics
        self._schema = sessions.model.schema
        self._rows = partial(table_content, without=(self._schema.id_col,))
        model = {"name": name, "version": self._mark}
        self._description = described(self._schema, limits, model)
        self._memory, self.work = Memory(limits.memory), Work(limits.requests)
        self._in_thread = _in_thread(limits.threads)
        self._apart = _in_thread(4)  # so that health is not behind all other requests
        self._parts: Mapping[Protocol, Any] = {
            "": self,
            "mlflow": Invocations(sessions, limits),
            "v2": Inference(
                sessions,
                limits,
                model,
                observe=self._observe,
                tag=self._tag,
                in_thread=self._in_thread,
            ),
        }

    def routed(self) -> Any:
        """The ASGI application of all routes."""
        from starlette.routing import Route as Path
        from starlette.routing import Router

        return Router(
            [Path(each.path, self._endpoint(each), methods=[each.method]) for each in ROUTES],
            redirect_slashes=False,
        )

    def _endpoint(self, route: Route) -> Any:
        """A route's function as Starlette takes it."""
        work = getattr(self._parts[route.protocol], route.work)
        of_items = "{item}" in route.path or route.body
        in_thread = self._in_thread if of_items else self._apart

        async def endpoint(request: Request) -> Response:
            limits = self._limits
            path = dict(request.path_params)
            segment = path.pop("item", None)
            item = "" if segment is None else read_item(segment, limits.id)
            headers: dict[str, str] = {}
            for name, value in request.headers.items():
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
            path = {name: unquote(text) for name, text in path.items()}
            media = _media(request, route.body) if route.body else ""
            with self._memory.of_request() as take:
                body = await _body(request, limits, take) if route.body else b""
                query = request.query_params.multi_items()
                call = Call(item, query, headers, body, media, path, take)
                read_query(call, route.query)
                asynchronous = iscoroutinefunction(work)
                with self.work.of_request() if of_items else nullcontext():
                    answer = await (work(call) if asynchronous else in_thread(work, call))
                return response_of(answer)

        endpoint.path = route.path  # type: ignore[attr-defined]  # for metrics and logs
        return endpoint

    # -- the page ----------------------------------------------------------------------

    def get_page(self, call: Call) -> Answer:
        """The page without a model: it asks for the token, and then for the model."""
        headers = {"Content-Type": "text/html; charset=utf-8"}
        headers["Content-Security-Policy"] = "frame-ancestors 'none'"
        return Answer(200, page(None).encode(), headers)

    def get_playground(self, call: Call) -> Answer:
        """The model, for the page."""
        return Answer(200, playground(self._sessions.model))

    # -- items -------------------------------------------------------------------------

    def get_items(self, call: Call) -> Answer:
        """The next ids."""
        query = read_query(call, ("after",))
        after = one_of("after", query["after"]) if "after" in query else None
        texts = (each for each in self._sessions.items(after=after) if isinstance(each, str))
        return Answer(200, {"items": [*islice(texts, _IDS)]})

    def get_item(self, call: Call) -> Answer:
        """What is in effect of an item."""

        def found() -> dict[str, Any]:
            tables = zip(
                ("series", "static", "future"), self._sessions.tables(call.item), strict=True
            )
            return {"item": call.item} | {
                name: [] if table is None else self._rows(table) for name, table in tables
            }

        return self._read(call, found)

    async def put_item(self, call: Call) -> Answer:
        """Accept the static features of an item."""
        static = read_features(read_object(call.body, None), "Body")
        observed, messages = await self._observe(call, {"static": static})
        (status,) = observed.status
        content = {"item": call.item, "status": status, "warnings": messages}
        return Answer(201 if status == "new" else 200, content, self._tag(observed.versions[0]))

    def delete_item(self, call: Call) -> Answer:
        """Remove all of an item."""
        if not self._sessions.delete(call.item, expected=self._expected(call)):
            raise _absent(call.item)
        return Answer(204)

    async def post_observation(self, call: Call) -> Answer:
        """Accept an observation."""
        given = read_object(call.body, (*ROW, "until", "h"))
        row = read_row(given, len(self._schema.targets), "Body")
        horizon = read_horizon(given, self._limits)
        take_numbers(call, horizon, 1, self._schema, self._limits)
        observed, messages = await self._observe(call, row, **horizon)
        (status,) = observed.status
        content = {"item": call.item, "status": status, "revised": bool(observed.revised)}
        for name in ("forecast", "before"):
            rows = getattr(observed, name)
            if rows is not None:
                content[name] = rows
        return Answer(200, content | {"warnings": messages}, self._tag(observed.versions[0]))

    def post_batch(self, call: Call) -> Answer:
        """Accept the observations of several items: all of them, or none."""
        if call.media == ARROW:
            given = Columns(self._schema).rows(call.body, self._limits.rows)
        else:
            given = read_lines(call.body, ("item", *ROW), self._limits.rows)
        targets, items, rows = len(self._schema.targets), [], []
        for number, line in enumerate(given, 1):
            where = f"Line {number}"
            items.append(check_item(line.get("item"), self._limits.id, f"{where}, item"))
            rows.append(read_row(line, targets, where))
        columns = batch_of(rows)
        with silent() as messages:
            observed = self._sessions.observe_batch(items, **columns)
        self._metrics.observed(observed.status)
        return Answer(
            200,
            {
                "status": observed.status.tolist(),
                "revised": list(observed.revised),
                "warnings": messages,
            },
        )

    def get_forecast(self, call: Call) -> Answer:
        """Forecast an item, from what is observed or was at a moment."""
        query = read_query(call, FORECAST)
        options = read_options(query, self._limits)
        take_numbers(call, options, 1, self._schema, self._limits)

        def found(forecast: Callable[..., Any], *given: Any) -> dict[str, Any]:
            with silent() as messages:
                rows = self._rows(forecast(call.item, *given, **options))
            return {"item": call.item, "forecast": rows, "warnings": messages}

        if "as_of" in query:
            moment = read_moment(one_of("as_of", query["as_of"]))
            return Answer(200, found(self._sessions.as_of, moment))
        return self._read(call, lambda: found(self._sessions.forecast))

    def get_history(self, call: Call) -> Answer:
        """The journal of an item."""

        def found() -> dict[str, Any]:
            return {"item": call.item, "events": table_content(self._sessions.history(call.item))}

        return self._read(call, found)

    def get_state(self, call: Call) -> Answer:
        """The state of an item."""
        return self._read(call, lambda: state_content(self._sessions.state(call.item)))

    def put_state(self, call: Call) -> Answer:
        """Let an item go on from another state."""
        state, expected = read_state(call.body), self._needed(call)
        self._sessions.set_state(call.item, state, expected=expected)
        return Answer(204)

    def delete_state(self, call: Call) -> Answer:
        """Let an item begin again."""
        self._sessions.reset(call.item, expected=self._needed(call))
        return Answer(204)

    def post_fork(self, call: Call) -> Answer:
        """Copy an item."""
        given = read_object(call.body, ("as",))
        other = check_item(given.get("as"), self._limits.id, "as")
        self._sessions.fork(call.item, other)
        content = {"item": other, "of": call.item}
        return Answer(201, content, {"Location": f"/v1/items/{quote(other, safe='')}"})

    # -- the server --------------------------------------------------------------------

    def get_description(self, call: Call) -> Answer:
        """The OpenAPI description."""
        return Answer(200, self._description)

    def get_metrics(self, call: Call) -> Answer:
        """The metrics, in the text format of Prometheus."""
        text, kind = self._metrics.text()
        return Answer(200, text, {"Content-Type": kind})

    def get_live(self, call: Call) -> Answer:
        """Whether the process answers."""
        return Answer(200, {"status": "live"})

    def get_ready(self, call: Call) -> Answer:
        """Whether the store answers."""
        _ = "" in self._sessions
        return Answer(200, {"status": "ready"})

    get_ping = get_health = get_v2_ready = get_ready
    get_v2_live = get_live

    def get_version(self, call: Call) -> Answer:
        """The version of Statecast."""
        return Answer(200, version("statecast").encode(), {"Content-Type": "text/plain"})

    # -- inside ------------------------------------------------------------------------

    def _read(self, call: Call, content: Callable[[], dict[str, Any]]) -> Answer:
        """What is asked of an item, unless the client has it already."""
        # The version is read first. If the item changes in between, the tag is that of the earlier
        # version, and a change that names it is refused.
        tag = self._tag(self._sessions.version(call.item))
        if is_known(call, tag["ETag"]):
            return Answer(304, headers=tag)
        return Answer(200, content(), tag)

    def _tag(self, version: str) -> dict[str, str]:
        """The header with a version of an item. It names the model too: forecasts depend on it."""
        return {"ETag": f'"{version}-{self._mark}"'}

    @property
    def _mark(self) -> str:
        """What tells the model apart from others."""
        return self._sessions.model.fingerprint[:8]

    async def _observe(
        self, call: Call, row: Mapping[str, Any], **horizon: Any
    ) -> tuple[Observed, list[str]]:
        """What became of an observation, and the warnings of it.

        It waits for the disk without a thread of its own: this is what is asked most often.
        """
        expected = None
        if call.headers.keys() & {"if-match", "if-none-match"}:
            expected = await self._in_thread(self._expected, call)
        with silent() as messages:
            observing = self._sessions.submit(
                [call.item], **batch_of([row]), **horizon, expected=expected, read=self._rows
            )
            # Shielded: what is accepted is accepted, also if nobody waits for the answer.
            observed = await asyncio.shield(asyncio.wrap_future(observing))
        self._metrics.observed(observed.status)
        return observed, messages

    def _expected(self, call: Call) -> str | None:
        """The version that a call names; None for any."""
        expected = expected_version(call)
        if expected != "*":
            return None if expected is None else expected.removesuffix(f"-{self._mark}")
        try:
            self._sessions.version(call.item)
        except AbsentError as error:
            raise VersionError(str(error), item=call.item) from None
        return None

    def _needed(self, call: Call) -> str | None:
        """As ``_expected``, of a call that takes observations out of effect."""
        if "if-match" not in call.headers:
            raise RequestError(
                428,
                "If-Match: expected the ETag of the item, or * for any, as this call takes what "
                "was observed out of effect, and a retry of it would too.",
            )
        return self._expected(call)


def _in_thread(most: int) -> Callable[..., Awaitable[Any]]:
    """A function that calls others in threads, ``most`` at once."""
    import anyio

    return partial(anyio.to_thread.run_sync, limiter=anyio.CapacityLimiter(most))


def _media(request: Request, known: Collection[str]) -> str:
    """The media type of the body of a request: one of those of its route."""
    given = request.headers.get("content-type", "")
    media, _, more = given.lower().replace(" ", "").partition(";")
    # A page of another site can send a body without a type. Its browser then names the page.
    if media not in known or (not media and "origin" in request.headers):
        raise RequestError(
            415,
            f"Content-Type: expected {listed(filter(None, known))}; received "
            f"{quoted(given) if given else 'none'}.",
        )
    if more not in ("", "charset=utf-8", 'charset="utf-8"'):
        raise RequestError(
            415, f"Content-Type: expected {media}, in UTF-8; received {quoted(given)}."
        )
    if "content-encoding" in request.headers:
        raise RequestError(415, "Content-Encoding: expected none.")
    return media


async def _body(request: Request, limits: Limits, take: Callable[[int], None]) -> bytes:
    """The body of a request, for which memory is taken."""
    too_long = RequestError(
        413, f"Body: expected at most {limits.body:,} bytes; received more.", Connection="close"
    )
    length = request.headers.get("content-length", "")
    size = int(length[:20]) if length.isdecimal() else 0
    # A client that is still sending would not read the answer: what it sends is read, and dropped.
    dropped = "expect" not in request.headers and limits.body < size <= _DROPPED * limits.body
    if size > limits.body and not dropped:
        raise too_long
    found = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                if dropped:
                    continue
                take(BODY_BYTES * len(part))
                found += part
                if len(found) > limits.body:
                    raise too_long
    except TimeoutError:
        raise RequestError(
            408,
            f"Body: expected all of it within {limits.seconds:g} seconds.",
            Connection="close",
        ) from None
    if dropped:
        raise too_long
    return bytes(found)


def _absent(item: str) -> AbsentError:
    return AbsentError(
        f"Item {item[:80]!r}: expected an item that is there; received one that is not.", item=item
    )
