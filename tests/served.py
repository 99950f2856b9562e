"""Sessions behind a real server on a free port of this machine, and a client of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote

import pytest

from statecast.server import Limits, application
from statecast.server.run import copies_of, listening, server_of
from statecast.sessions import Observed, Sessions

NDJSON = "application/x-ndjson"


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    headers: dict[str, str]  # names in lower case
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Client:
    """Asks one server, in a connection of its own for each request."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self.port, self.token = port, token

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Send a request; ``body`` is sent as JSON unless it is bytes."""
        sent = {"Content-Type": "application/json"} if body is not None else {}
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, data, sent)
            found = connection.getresponse()
            names = {name.lower(): value for name, value in found.getheaders()}
            return Reply(found.status, names, found.read())
        finally:
            connection.close()

    def item(self, method: str, item: str, rest: str = "", body: Any = None, **headers: str) -> Any:
        """Send a request about an item."""
        return self.ask(method, f"/v1/items/{quote(item, safe='')}{rest}", body, **headers)

    def observe(self, item: str, step: Any = None, values: Any = None, **parts: Any) -> Observed:
        """As ``Sessions.observe``, over HTTP."""
        body = {name: parts[name] for name in ("static", "future", "past") if parts.get(name)}
        if step is not None:
            body["step"] = step if isinstance(step, int) else step.isoformat()
        if values is not None:
            several = values if isinstance(values, list) else [values]
            cells = [None if value != value else value for value in several]
            body["values"] = cells if isinstance(values, list) else cells[0]
        found = self.item("POST", item, "/observations", body)
        assert found.status == 200, found.data
        status = found.json["status"]
        return Observed([status], (item,) if found.json["revised"] else ())  # type: ignore[arg-type]


@contextmanager
def served(sessions: Sessions, **options: Any) -> Iterator[Client]:
    """Serve sessions in a thread."""
    app = application(sessions, **options)
    with listening("127.0.0.1", 0) as listener:
        server = server_of(app, options.get("limits") or Limits())
        thread = threading.Thread(target=server.run, kwargs={"sockets": copies_of(listener)})
        thread.start()
        try:
            yield Client(listener.getsockname()[1], options.get("token"))
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def held(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let the store wait until an event is set, or until the end of the block."""
    go, commit = threading.Event(), sessions._store.commit

    def late(changes: Any) -> Any:
        go.wait()
        return commit(changes)

    monkeypatch.setattr(sessions._store, "commit", late)
    try:
        yield go
    finally:
        go.set()
