"""``connection_of``: connections of a client, with limits that uvicorn does not have.

uvicorn reads headers for as long and as much as a client sends them. So a client that sends them
slowly, or without an end, would keep a connection or fill the memory. And it calls the application
for each request, also for those that are refused as too many requests are in work.
"""

from __future__ import annotations

import asyncio
from functools import cache
from http import HTTPStatus
from typing import Any

from statecast.errors import OverloadError, RequestError, StatecastError
from statecast.server.description import protocol_of
from statecast.server.guard import Guard
from statecast.server.wire import Limits, Protocol, problem, response_of, too_many


def connection_of(limits: Limits, guard: Guard) -> Any:
    """Return the protocol of a connection, as ``uvicorn.Config`` takes it for ``http``.

    Parameters
    ----------
    limits : Limits
        ``seconds``, in which headers must have arrived; ``headers``, the bytes that they may have;
        ``connections``, how many there may be.
    guard : Guard
        The application. It says which requests are refused without calling it.
    """
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    @cache
    def refusal(protocol: Protocol, keep: bool) -> bytes:
        return _bytes_of(too_many(limits.requests), protocol, keep=keep)

    class Connection(HttpToolsProtocol):
        """A connection that ends with an answer if its client sends headers without an end."""

        _deadline: asyncio.TimerHandle | None = None
        _size = 0  # the bytes that came since a part of a body, or since the first of a request
        _running: Any = None  # the request in work; uvicorn has the last one that came
        _refusal = b""  # what is answered after the requests in work

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()
            if len(self.connections) > limits.connections:
                self._refuse(
                    OverloadError(
                        f"Expected at most {limits.connections:,} connections. Nothing was done. "
                        "Repeat the request later."
                    )
                )

        def connection_lost(self, exc: Exception | None) -> None:
            self._arrived()
            if self._running is not None:
                _disconnect(self._running)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing() or self._refusal:
                return
            self._size += len(data)
            super().data_received(data)
            if self._size > limits.headers and not self.transport.is_closing():
                self._refuse(
                    RequestError(
                        431, f"Headers: expected at most {limits.headers:,} bytes; received more."
                    )
                )

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._size = 0
            self._wait()

        def on_headers_complete(self) -> None:
            self._size = 0
            self._arrived()
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._size = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._size = 0
            super().on_message_complete()

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            self._running = cycle
            if not guard.refuses(cycle.scope):
                super()._start_asgi_task(cycle, app)
                return
            cycle.response_started = cycle.response_complete = True  # so a body is not kept
            self.transport.write(refusal(protocol_of(cycle.scope["path"]), cycle.keep_alive))
            if not cycle.keep_alive:
                self.transport.close()
            if self.pipeline:  # not within this call: there may be thousands
                self.loop.call_soon(self.on_response_complete)
            else:
                self.on_response_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self._refusal and self._running.response_complete:
                self._end()

        def send_400_response(self, msg: str) -> None:
            self._refuse(RequestError(400, "Expected a request of HTTP/1.1; received other bytes."))

        def _wait(self) -> None:
            """Begin to wait for the headers of a request."""
            if self._deadline is None:
                self._deadline = self.loop.call_later(limits.seconds, self._expired)

        def _arrived(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _expired(self) -> None:
            self._deadline = None
            if self.cycle is not None and not self.cycle.response_complete:
                self._wait()  # the answer to the request before is not complete yet
            else:
                expected = f"Headers: expected all of them within {limits.seconds:g} seconds."
                self._refuse(RequestError(408, expected))

        def _refuse(self, error: StatecastError) -> None:
            """Answer with an error, after the requests in work, and end the connection."""
            self._arrived()
            self._refusal = _bytes_of(error)
            self.flow.pause_reading()
            last, running = self.cycle, self._running
            if last is not None and last.more_body and not last.response_complete:
                if last is running:  # the rest of its body will not come
                    _disconnect(last)
                else:
                    self.pipeline.popleft()
            if running is None or running.response_complete or running.disconnected:
                self._end()

        def _end(self) -> None:
            """Write the refusal, unless a part of an answer is written; and end the connection."""
            running = self._running
            if running is None or running.response_complete or not running.response_started:
                self.transport.write(self._refusal)
            self.transport.close()

    return Connection


def _disconnect(cycle: Any) -> None:
    """Let the application know that nobody waits for the answer to a request."""
    cycle.disconnected = True
    cycle.message_event.set()


def _bytes_of(error: StatecastError, protocol: Protocol = "", *, keep: bool = False) -> bytes:
    """An error as an answer of HTTP; ``keep`` says whether the connection stays."""
    sent = response_of(problem(error, protocol))
    phrase = HTTPStatus(sent.status_code).phrase
    lines = [f"HTTP/1.1 {sent.status_code} {phrase}".encode()]
    lines += [] if keep else [b"Connection: close"]
    lines += [name + b": " + value for name, value in sent.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(sent.body)])
