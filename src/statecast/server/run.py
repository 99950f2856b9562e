"""``serve``: the application on a socket, until the process is told to stop."""

from __future__ import annotations

import gc
import ipaddress
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from statecast.checks import check_whole
from statecast.errors import ArgumentError
from statecast.server.application import application
from statecast.server.connection import connection_of
from statecast.server.guard import LOG, Guard, JsonLines
from statecast.server.wire import Limits
from statecast.sessions.sessions import Sessions

if TYPE_CHECKING:
    import uvicorn

_COPIES = 31
_STOP = 30  # seconds: what was begun when the process is told to stop has so long to end


def serve(
    sessions: Sessions,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    without_token: bool = False,
    limits: Limits | None = None,
    name: str = "statecast",
    started: Callable[[str], None] | None = None,
) -> None:
    """Serve sessions over HTTP until SIGTERM or Ctrl-C.

    Then no further connection is accepted, the requests that were begun are answered, and the call
    returns. A log is written to standard error, a line of JSON for each request. The caller closes
    the sessions.

    Parameters
    ----------
    sessions : Sessions
        Of a model that was fitted on tables.
    host : str
        The address. One that other machines can reach needs a ``token`` or ``without_token``.
    port : int
        0: any free one.
    token, without_token, limits, name
        As in ``application``.
    started : callable, optional
        Called with the URL when the server listens.

    Raises
    ------
    ArgumentError
        An address that other machines can reach, without a token; an address or a port that cannot
        be used; what ``application`` refuses.
    MissingExtraError
        The extra is not installed: ``pip install 'statecast[serve]'``.

    Examples
    --------
    >>> from statecast import Forecaster, Sessions
    >>> with Sessions(Forecaster.load("growth.safetensors"), "items.db") as sessions:
    ...     serve(sessions, port=8000)  # doctest: +SKIP
    """
    check_address(host, port, guarded=token is not None or without_token)
    served = application(
        sessions, token=token, without_token=without_token, limits=limits, name=name
    )
    server = server_of(served, limits or Limits())
    with listening(host, port) as listener, _logged(), _signals_ignored():
        url = _url(listener)
        gc.collect()
        gc.freeze()  # what is loaded stays: the collector need not visit it while requests wait
        LOG.info("started", extra={"fields": {"url": url}})
        if started is not None:
            started(url)
        server.run(sockets=copies_of(listener))
        LOG.info("stopped")
        gc.unfreeze()


def check_address(host: str, port: int, *, guarded: bool) -> None:
    """Check that a server may and can listen at an address, before a store is opened for it.

    ``guarded`` says whether other machines may ask: with a token, or since they are let.

    Raises
    ------
    ArgumentError
        As ``serve``.
    """
    check_whole("port", port, 0, 65_535)
    if not guarded and not _is_local(host):
        raise ArgumentError(
            f"host: expected an address of this machine alone, such as 127.0.0.1, as there is no "
            f"token; received {host!r}. Name a token (`--token-file`), or say that there is none "
            "(`--no-token`; in Python without_token=True)."
        )
    with listening(host, port):
        pass


def server_of(served: Guard, limits: Limits) -> uvicorn.Server:
    """The server of an application: uvicorn with the limits of this project."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            served,
            http=connection_of(limits, served),
            access_log=False,  # the guard writes a line for each request
            log_config=None,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=_STOP,
        )
    )


def copies_of(listener: socket.socket) -> list[socket.socket]:
    """A socket and copies of it, for ``uvicorn.Server.run``, which closes them.

    uvloop accepts one connection from a socket while it serves all others once. So under twice the
    load that a server could take, some connections waited for 25 s; with copies, 3 s.
    """
    return [listener, *(listener.dup() for _ in range(_COPIES))]


def _is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening(host: str, port: int) -> socket.socket:
    """A socket at an address."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ArgumentError(
            f"host, port: expected an address that is free; {host}:{port} cannot be used ({why}). "
            "Name another one."
        ) from None


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _logged() -> Iterator[None]:
    """Write the logs of the server and of uvicorn to standard error, as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    chosen = {LOG: logging.INFO, logging.getLogger("uvicorn"): logging.WARNING}
    before = {each: (each.level, each.propagate) for each in chosen}
    for each, level in chosen.items():
        each.addHandler(handler)
        each.setLevel(level)
        each.propagate = False
    try:
        yield
    finally:
        for each, (level, propagate) in before.items():
            each.removeHandler(handler)
            each.setLevel(level)
            each.propagate = propagate


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Let a stop end the block only: uvicorn sends the signal to the process again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ignored(number: int, frame: Any) -> None:
        pass

    before = {each: signal.signal(each, ignored) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
