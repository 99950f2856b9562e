"""``Guard``: what happens around every request. Who may ask, metrics and logs."""

from __future__ import annotations

import hmac
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from statecast.errors import (
    ArgumentError,
    OverloadError,
    RequestError,
    StatecastError,
    StoreError,
    quoted,
)
from statecast.server.description import ALWAYS, FREE, ROUTES, protocol_of
from statecast.server.wire import Work, problem, response_of, status_of
from statecast.sessions.sessions import Sessions

LOG = logging.getLogger("statecast.server")
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_COUNTED = 1.0  # seconds that metrics wait for the number of items
_SHORTEST = 16  # characters of a token


class Metrics:
    """The metrics of one application, for Prometheus.

    Parameters
    ----------
    sessions : Sessions
        Whose queue is measured.
    """

    def __init__(self, sessions: Sessions) -> None:
        from prometheus_client import CollectorRegistry, Gauge, Histogram
        from prometheus_client import Counter as Count

        self._registry = registry = CollectorRegistry()
        self._requests = Count(
            "statecast_requests", "Answers.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "statecast_request_seconds",
            "From a request to its answer.",
            ["route"],
            registry=registry,
        )
        self.current = Gauge("statecast_current_requests", "Requests in work.", registry=registry)
        self._rows = Count(
            "statecast_rows",
            "Accepted rows, by what became of them.",
            ["status"],
            registry=registry,
        )
        self._sizes = Histogram(
            "statecast_call_rows",
            "Rows of an accepted call.",
            registry=registry,
            buckets=(1, 10, 100, 1_000, 10_000),
        )
        waiting = Gauge(
            "statecast_waiting_rows", "Rows that wait to be written.", registry=registry
        )
        waiting.set_function(lambda: sessions.waiting)
        events = Histogram(
            "statecast_commit_events",
            "Events of a commit.",
            registry=registry,
            buckets=(1, 10, 100, 1_000, 10_000),
        )
        seconds = Histogram(
            "statecast_commit_seconds", "From a commit to the disk.", registry=registry
        )

        def committed(count: int, took: float) -> None:
            events.observe(count)
            seconds.observe(took)

        sessions.watch(committed)
        self._sessions = sessions
        self._pool = ThreadPoolExecutor(1, "statecast-count")
        self._counting: Future[tuple[str, int]] | None = None
        self._items = Gauge(
            "statecast_items", "Items, by the model of their states.", ["model"], registry=registry
        )

    def _count(self) -> tuple[str, int]:
        """The fingerprint of the model, and the number of items."""
        return self._sessions.model.fingerprint, len(self._sessions)

    def observed(self, statuses: Iterable[str]) -> None:
        """Count the rows of an accepted call."""
        counts = Counter(statuses)
        for status, count in counts.items():
            self._rows.labels(status).inc(count)
        self._sizes.observe(counts.total())

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, method: str) -> None:
        """Count a request that the application did not see."""
        self._requests.labels(method if method in _METHODS else "other", "none", "503").inc()

    def text(self) -> tuple[bytes, str]:
        """All metrics in the text format of Prometheus, and its media type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        # The store may be busy, and metrics must be answered then above all: if the items are not
        # counted in time, their number is that of the last count.
        counting = self._counting or self._pool.submit(self._count)
        self._counting = counting
        with suppress(TimeoutError, OverloadError, StoreError):
            model, count = counting.result(_COUNTED)
            self._items.clear()
            self._items.labels(model[:8]).set(count)
        if counting.done():
            self._counting = None
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class Guard:
    """An ASGI application around another one.

    It passes the path on as it was sent, percent-encoded, so that an encoded slash is a character
    of an id. It answers every error with a problem, counts each request, and writes a line to the
    log. A line has the route and not the path, as ids may be personal data.

    Parameters
    ----------
    served : ASGI application
    token : str or None
    local : bool
        Whether only requests to a name of this machine are answered.
    work : Work
        Requests beyond are refused before their bodies are read.
    metrics : Metrics

    Raises
    ------
    ArgumentError
        A token of fewer than 16 characters or of others than visible ASCII.
    """

    def __init__(
        self, served: Any, token: str | None, *, local: bool, work: Work, metrics: Metrics
    ) -> None:
        if token is not None and not (
            isinstance(token, str)
            and len(token) >= _SHORTEST
            and all("!" <= letter <= "~" for letter in token)
        ):
            raise ArgumentError(
                f"token: expected at least {_SHORTEST} letters, digits and signs of ASCII, without "
                "spaces; received another text."
            )
        self._served, self._local, self._work = served, local, work
        self._metrics = metrics
        self._token = None if token is None else f"Bearer {token}".encode()

    def refuses(self, scope: Any) -> bool:
        """Whether a request is refused since too many are in work. It is counted then.

        The connection answers it without calling the application. Under overload, such calls would
        take the time that the requests in work need.
        """
        if not self._work.full or scope["path"] in ALWAYS or scope["method"] == "HEAD":
            return False
        self._metrics.refused(scope["method"])
        return True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._served(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RequestError(400, f"Expected a request of HTTP; received {scope['type']}.")
        from starlette.exceptions import HTTPException
        from starlette.requests import ClientDisconnect

        begun, status = time.perf_counter(), 0

        async def noted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        scope = scope | {"path": raw.decode("latin-1"), "root_path": "", "app": self}
        self._metrics.current.inc()
        fault: Exception | None = None
        try:
            self._check(scope)
            await self._served(scope, receive, noted)
        except ClientDisconnect:
            status = 499  # nobody is there to answer; the number is that of nginx
        except Exception as error:
            fault = _unknown(scope, error) if isinstance(error, HTTPException) else error
            if not status:
                answer = problem(fault, protocol_of(scope["path"]))
                await response_of(answer)(scope, receive, noted)
        finally:
            self._metrics.current.dec()
            seconds = time.perf_counter() - begun
            route = getattr(scope.get("endpoint"), "path", "none")
            self._metrics.answered(scope["method"], route, status, seconds)
            self._write(scope["method"], route, status, seconds, fault)

    def _check(self, scope: Any) -> None:
        """Raise ``RequestError`` for a request that may not be answered."""
        if scope["path"] not in ALWAYS:
            self._work.check()
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        if self._local:
            host = b",".join(headers.get(b"host", [])).decode("latin-1")
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name.lower() not in _LOCAL:
                raise RequestError(
                    421,
                    f"Host: expected one of {', '.join(_LOCAL)}, as the server has no token; "
                    f"received {quoted(host)}.",
                )
        if self._token is None or scope["path"] in FREE:
            return
        given = b",".join(headers.get(b"authorization", []))
        if not hmac.compare_digest(given, self._token):
            raise RequestError(
                401,
                "Authorization: expected Bearer and the token of the server; received "
                f"{'another' if given else 'none'}.",
                WWW_Authenticate="Bearer",
            )

    def _write(
        self, method: str, route: str, status: int, seconds: float, error: Exception | None
    ) -> None:
        """Write the line of a request to the log."""
        fields: dict[str, Any] = {
            "method": method if method in _METHODS else "other",
            "route": route,
            "status": status,
            "seconds": round(seconds, 6),
        }
        overload = isinstance(error, OverloadError)
        fault = error is not None and status_of(error) >= 500 and not overload
        if error is not None:
            fields["error"] = type(error).__name__
        if fault and isinstance(error, StatecastError):
            fields["detail"] = str(error)
        unknown = error if fault and not isinstance(error, StatecastError) else None
        LOG.log(
            # Under overload, lines would take the time that is needed. Metrics count the refusals.
            logging.ERROR if fault else logging.DEBUG if overload else logging.INFO,
            "request",
            exc_info=unknown,
            extra={"fields": fields},
        )


def _unknown(scope: Any, error: Any) -> RequestError:
    """The error of a request that no route takes."""
    if error.status_code == 405:
        path = scope["endpoint"].path
        allowed = ", ".join(sorted(each.method for each in ROUTES if each.path == path))
        return RequestError(
            405, f"Expected one of the methods {allowed}; received another.", Allow=allowed
        )
    return RequestError(
        404, f"Expected a path of /openapi.json; received {quoted(scope['path'])}. Write / as %2F."
    )


class JsonLines(logging.Formatter):
    """A log as lines of JSON: ``time``, ``level``, ``event``, and what the event has."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}"
            f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
