"""Clients that send slowly, without an end, or in many connections: each is answered and ended."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from socket import create_connection, socket

import pytest

import streams
from served import Client, held, served
from statecast.server import Limits
from statecast.sessions import Sessions

LIMITS = Limits(headers=2_000, body=3_000, seconds=0.5, connections=8)
X = {"level": 0.5, "group": "a"}
LINE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
BATCH = b"POST /v1/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    path: Path = tmp_path_factory.mktemp("connection") / "items.db"
    with Sessions(streams.plain(), path) as sessions, served(sessions, limits=LIMITS) as found:
        yield found


def connected(client: Client) -> socket:
    return create_connection(("127.0.0.1", client.port), timeout=20)


def ended(raw: socket) -> list[bytes]:
    """All that comes until the server ends the connection, in lines."""
    found = b""
    try:
        while part := raw.recv(65_536):
            found += part
    except ConnectionResetError:  # it had not read all that was sent
        pass
    return found.split(b"\r\n")


def refused(raw: socket, status: int, word: str) -> None:
    lines = ended(raw)
    assert lines[0].startswith(b"HTTP/1.1 %d " % status), lines
    found = json.loads(lines[-1])
    assert found["status"] == status
    assert word in found["detail"]
    assert b"Connection: close" in lines


def test_headers_that_do_not_arrive_are_refused(client: Client) -> None:
    for sent in (b"", b"GET", LINE, LINE + b"X: 1\r\n\r\n" + LINE):
        with connected(client) as raw:
            begun = time.monotonic()
            raw.sendall(sent)
            if sent.endswith(b"\r\n\r\n" + LINE):  # after a whole request
                assert raw.recv(1_000).startswith(b"HTTP/1.1 200 ")
            refused(raw, 408, "0.5 seconds")
            assert time.monotonic() - begun < 10
    assert client.ask("GET", "/livez").status == 200


def test_a_slow_client_does_not_win_time_with_each_byte(client: Client) -> None:
    with connected(client) as raw:
        begun = time.monotonic()
        try:
            for byte in LINE:
                raw.sendall(bytes([byte]))
                time.sleep(0.05)
        except ConnectionError:
            pass
        assert time.monotonic() - begun < 0.05 * len(LINE)


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /",
        LINE + b"X: ",
        LINE.replace(b"Host", b"X"),
        BATCH + b"Transfer-Encoding: chunked\r\n\r\n1;x=",
        BATCH + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ",
    ],
    ids=["path", "header", "another header", "chunk", "trailer"],
)
def test_headers_without_an_end_are_refused(begin: bytes, client: Client) -> None:
    with connected(client) as raw:
        sent = 0
        raw.sendall(begin)
        try:
            for _ in range(10_000):
                sent += raw.send(b"x" * 1_000)
                time.sleep(0.001)
        except ConnectionError:
            pass
        assert sent < 5_000_000
    assert client.ask("GET", "/livez").status == 200


def test_what_is_no_http_is_refused_with_a_problem(client: Client) -> None:
    with connected(client) as raw:
        raw.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        refused(raw, 400, "HTTP/1.1")


def test_requests_in_one_piece_are_answered_in_their_order(client: Client) -> None:
    with connected(client) as raw:
        raw.sendall(
            (LINE + b"\r\n") * 40 + LINE.replace(b"livez", b"none") + b"Connection: close\r\n\r\n"
        )
        found = [line for line in ended(raw) if b"HTTP/1.1" in line]
    assert [line.rpartition(b"HTTP/1.1 ")[2][:3] for line in found] == [b"200"] * 40 + [b"404"]


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        ((LINE + b"\r\n") * 3 + b"\0\r\n\r\n", [b"200", b"200", b"200", b"400"]),
        (LINE + b"\r\n" + LINE + b"Content-Length: x\r\n\r\n", [b"200", b"400"]),
        (BATCH + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", [b"400"]),
        (LINE + b"\r\n" + BATCH + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", [b"200", b"400"]),
        (LINE + b"Connection: close\r\n\r\n\0", [b"200"]),
    ],
)
def test_requests_before_a_wrong_one_are_answered(
    sent: bytes, statuses: list[bytes], client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(client) as raw:
        raw.sendall(sent)
        found = re.findall(rb"HTTP/1\.1 (\d{3})", b"\n".join(ended(raw)))
    assert found == statuses
    with connected(client) as raw:  # a client that does not wait
        raw.sendall(sent)
    assert client.ask("GET", "/livez").status == 200
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


def test_more_connections_than_the_limit_are_refused(tmp_path: Path) -> None:
    limits = replace(LIMITS, seconds=20.0)  # the connections wait without a request
    with ExitStack() as stack:
        sessions = stack.enter_context(Sessions(streams.plain(), tmp_path / "items.db"))
        client = stack.enter_context(served(sessions, limits=limits))
        with ExitStack() as waiting:
            for _ in range(LIMITS.connections):
                waiting.enter_context(connected(client))
            time.sleep(0.05)
            with connected(client) as raw:
                refused(raw, 503, "8 connections")
        end = time.monotonic() + 20
        while time.monotonic() < end:  # until the server knows that the others are gone
            try:
                assert client.ask("GET", "/livez").status == 200
                return
            except (ConnectionError, AssertionError):
                time.sleep(0.05)
        pytest.fail("No further connection is accepted.")


def test_refusals_keep_the_connection_and_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands that wait in one connection behind a request, bodies that arrive in parts, and
    each protocol."""
    many = 2_000
    item = b"/v1/items/a HTTP/1.1\r\nHost: localhost\r\n"
    body = json.dumps({"step": 1, "values": 51.0, "static": X}).encode()
    write = (
        b"POST " + item.replace(b" H", b"/observations H") + b"Content-Type: application/json\r\n"
    )
    write += b"Content-Length: %d\r\n\r\n" % len(body)
    other = b"POST /%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nGET / HTT"
    with (
        Sessions(streams.plain(), tmp_path / "items.db") as sessions,
        served(sessions, limits=Limits(requests=1)) as client,
        held(sessions, monkeypatch) as go,
        connected(client) as first,
        connected(client) as second,
    ):
        first.sendall(write + body)
        end = time.monotonic() + 20
        while b"statecast_current_requests 2.0" not in client.ask("GET", "/metrics").data:
            assert time.monotonic() < end
            time.sleep(0.01)
        # They wait behind metrics, which are answered.
        second.sendall(
            LINE.replace(b"livez", b"metrics")
            + b"\r\n"
            + (b"GET " + item + b"\r\n") * many
            + write
            + body[:7]
        )
        time.sleep(0.05)
        last = b"GET " + item + b"Connection: close\r\n\r\n"
        second.sendall(body[7:] + other % b"invocations" + other % b"v2/x" + LINE + b"\r\n" + last)
        found = b"\n".join(ended(second))
        assert re.findall(rb"HTTP/1\.1 (\d{3})", found) == [
            b"200",
            *[b"503"] * (many + 3),
            b"200",
            b"503",
        ]
        assert found.count(b"application/problem+json") == many + 2
        assert found.count(b'"error_code"') == 1
        assert found.count(b"Retry-After: 1") + found.count(b"retry-after: 1") == many + 4
        metrics = client.ask("GET", "/metrics").data.decode()
        assert f'method="GET",route="none",status="503"}} {many + 1}.0' in metrics
        first.sendall((b"GET " + item + b"\r\n") * (many - 1) + last)
        time.sleep(0.05)
        go.set()
        found = b"\n".join(ended(first))
        assert len(re.findall(rb"HTTP/1\.1 \d{3}", found)) == many + 1
        assert client.ask("GET", "/livez").status == 200
