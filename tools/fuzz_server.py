"""Hostile requests to the server over raw sockets: no 5xx, no hang, only named items touched.

    python tools/fuzz_server.py                     # ten minutes; --seconds, --count change that
    python tools/fuzz_server.py --replay 123456     # one execution again, by its seed

The server is a process of its own, ``statecast serve``, on 127.0.0.1. An execution opens a
connection and sends one to eight requests of all routes, most of them changed: values and types in
the JSON, deep nesting, numbers out of range, lengths and chunks that are wrong, headers that are
huge, repeated or not text, NUL, any method, damaged targets, bytes at random; whole, in pieces, or
torn. It fails with a status of 500 or more, with an answer that is no HTTP, and if the connection
does not end within ``PATIENCE`` seconds.

Items whose names begin with "kept" are written before, and no execution names them: they must be
the same afterwards. Every other item of the store must be one that a request named.
``/invocations`` may name items, and must store none. The process must live, write no error to its
log, and stop when it is told to.

Counts and failures are written to the folder ``--out`` as it goes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

os.environ.setdefault("KERAS_BACKEND", "torch")  # it compiles nothing

PATIENCE = 60.0  # seconds until the end of a connection; the server waits for 30
QUIET = 1.0  # seconds without an answer, after which a sender says that nothing more comes
TOGETHER = 96  # executions at once
KEPT = [f"kept {i}" for i in range(5)]
ITEMS, STEPS = 24, 6


# -- the server -------------------------------------------------------------------------------


def fitted(path: Path) -> None:
    """Write a model with static features, future and past covariates."""
    import numpy as np
    import polars as pl

    from statecast import Forecaster

    rng = np.random.default_rng(0)
    row, step = (axis.ravel() for axis in np.indices((ITEMS, STEPS)))
    names = [f"item {i}" for i in range(ITEMS)]
    keys = {"unique_id": [names[i] for i in row], "ds": step + 1}
    series = pl.DataFrame(keys | {"y": 50 + rng.normal(size=len(row)), "visits": step * 1.0})
    static = pl.DataFrame(
        {"unique_id": names, "size": rng.normal(size=ITEMS), "kind": [*"ab"] * (ITEMS // 2)}
    )
    future = pl.DataFrame(keys | {"promo": step % 2 * 1.0, "day": [*"abc"] * (len(row) // 3)})
    f = Forecaster(units=3, encoding=2, ensemble=2, epochs=1, past_cols=["visits"])
    f.fit(series, static, future=future, verbose=0).save(path)


class Server:
    """``statecast serve`` in a process. Its log is a file: the reader of a pipe would slow it."""

    def __init__(self, model: Path, store: Path, log: Path) -> None:
        command = [sys.executable, "-m", "statecast.cli", "serve", str(model)]
        command += ["--store", str(store), "--port", "0", "--durability", "relaxed"]
        self._log, self._read = log, 0
        with log.open("wb") as file:
            self.child = subprocess.Popen(command, stderr=file)
        for _ in range(1_200):
            found = re.search(
                r"^Serving .* at http://[\d.]+:(\d+)\.$", log.read_text(), re.MULTILINE
            )
            if found or self.child.poll() is not None:
                break
            time.sleep(0.1)
        else:
            found = None
        if found is None:
            raise SystemExit(f"The server did not start:\n{log.read_text()}")
        self.port = int(found[1])

    def last(self) -> str:
        """The end of its log."""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - 50_000))
            return file.read().decode("utf-8", "replace")

    def errors(self) -> list[str]:
        """The errors in its log since the last call."""
        with self._log.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        lines = data.decode("utf-8", "replace").splitlines()
        return [line for line in lines if '"level": "error"' in line or "Traceback" in line]

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Send a good request."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            found = connection.getresponse()
            return found.status, found.read()
        finally:
            connection.close()

    def stop(self) -> int:
        """Stop it as a service is stopped; its exit status."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(60)

    def memory(self) -> int:
        """Bytes of memory that it has now."""
        pages = Path(f"/proc/{self.child.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


# -- good requests ----------------------------------------------------------------------------

NAMES = [
    "a",
    "b c",
    "ä/ö",
    "%",
    "..",
    "x" * 60,
    "😀",
    "a\nb",
    "'; --",
    *(f"n{i}" for i in range(30)),
]
LINE, JSON = "application/x-ndjson", "application/json"


@dataclass
class Request:
    """A request before it is bytes."""

    method: str
    path: str
    body: Any = None  # an object; a list of objects: a line for each; or bytes
    headers: list[tuple[str, str]] = field(default_factory=list)


def _static(rng: random.Random) -> dict[str, Any]:
    return {"size": rng.choice([0.5, None, -1]), "kind": rng.choice(["a", "b", None])}


def _row(rng: random.Random) -> dict[str, Any]:
    row: dict[str, Any] = {"step": rng.randrange(1, 8), "values": 50 + rng.random()}
    row |= {"past": {"visits": rng.random()}, "future": {"promo": 1.0, "day": "a"}}
    return row | ({"static": _static(rng)} if rng.random() < 0.8 else {})


def _tensor(name: str, value: Any) -> dict[str, Any]:
    kind = "BYTES" if isinstance(value, str) else "FP64"
    return {"name": name, "shape": [1], "datatype": kind, "data": [value]}


def good(rng: random.Random) -> Request:
    """A request of any route, in its form."""
    name = rng.choice(NAMES)
    item = f"/v1/items/{quote(name, safe='')}"
    scored = {"unique_id": "scored", **_static(rng), "ds": 1, "y": 50.5, "visits": 1, "promo": 1}
    what = rng.randrange(17)
    if what < 3:
        return Request("POST", f"{item}/observations", _row(rng))
    if what == 3:
        return Request("PUT", item, _static(rng))
    if what == 4:
        return Request("DELETE", item)
    if what == 5:
        query = rng.choice(["h=2", "until=6&level=80,95&mean=true", "h=1&quantiles=0.1,0.9"])
        return Request("GET", f"{item}/forecast?{query}")
    if what == 6:
        return Request("GET", f"{item}/{rng.choice(['history', 'state'])}")
    if what == 7:
        leaves = {"step": {"dtype": "int64", "values": [1, 1]}}
        body = {"fingerprint": "0" * 64, "leaves": leaves}
        return Request("PUT", f"{item}/state", body, [("If-Match", "*")])
    if what == 8:
        return Request("DELETE", f"{item}/state", None, [("If-Match", "*")])
    if what == 9:
        return Request("POST", f"{item}/fork", {"as": rng.choice(NAMES)})
    if what in (10, 11):
        rows = [{"item": rng.choice(NAMES), **_row(rng)} for _ in range(rng.randrange(1, 6))]
        for row in rows:
            row["static"] = _static(rng)
        return Request("POST", "/v1/batch", rows)
    if what == 12:
        rows = [scored | {"day": "a", "ds": step} for step in range(1, 5)]
        content = rng.choice([rows, {key: [row[key] for row in rows] for key in rows[0]}])
        key = rng.choice(["inputs", "instances", "dataframe_records", "dataframe_split"])
        return Request("POST", "/invocations", {key: content, "params": {"h": 2}})
    if what in (13, 14):
        parameters = {"item": name, "step": rng.randrange(1, 8)}
        inputs = [_tensor("y", 50.5), _tensor("visits", 1), _tensor("promo", 1)]
        inputs += [_tensor("day", "a"), _tensor("size", 0.5), _tensor("kind", "a")]
        body = {"parameters": parameters, "inputs": inputs[: rng.randrange(7)]}
        return Request("POST", "/v2/models/statecast/infer", body)
    paths = ["/", "/openapi.json", "/metrics", "/livez", "/readyz", "/ping", "/version", "/v2"]
    paths += ["/v2/health/ready", "/v2/models/statecast", "/health", "/none", "/v1/items", "*"]
    return Request(rng.choice(["GET", "GET", "HEAD", "OPTIONS"]), rng.choice(paths))


# -- changes ----------------------------------------------------------------------------------

NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, 0.5, 1e308, 5e-324, "", "a",
    "\0", "\ud800", "\U0010ffff", "kind", "1", "2024-01-01", "0001-01-01", "9999-12-31T23:59:59Z",
    [], {}, [[]], [None], {"": None}, [1, "a"], "x" * 10_000, "NaN",
]  # fmt: skip
RAW = [b"NaN", b"1e999", b"-1e999", b"[" * 50_000, b'{"a":' * 20_000, b"1" * 5_000, b'"\\ud800"',
       b'"\\u0000"', b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"// x", b"01", b"'a'",
       b"[" * 600 + b"]" * 600]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get",
           "PRI", "X" * 300, "G\tT", "", "GET\0"]  # fmt: skip
VERSIONS = ["HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1.1 ", "http/1.1", "HTTP/1.10", "", "FTP/1.1"]
HEADERS: list[tuple[str, str]] = [
    ("Content-Length", "-1"), ("Content-Length", "0"), ("Content-Length", "5, 5"),
    ("Content-Length", "9" * 30), ("Content-Length", "0x10"), ("Content-Length", "1e3"),
    ("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "gzip, chunked"),
    ("Transfer-Encoding", "identity"), ("Transfer-Encoding", "chunked, chunked"),
    ("Content-Type", "text/plain"), ("Content-Type", ""), ("Content-Type", f"{JSON};charset=x"),
    ("Content-Type", "text/csv"), ("Content-Encoding", "gzip"), ("Expect", "100-continue"),
    ("Connection", "keep-alive"), ("Connection", "upgrade"), ("Upgrade", "websocket"),
    ("Upgrade", "h2c"), ("If-Match", "*"), ("If-Match", '"1"'), ("If-Match", 'W/"1", "2"'),
    ("If-None-Match", "*"), ("Host", "evil.example"), ("Host", ""), ("Host", "localhost:99999"),
    ("Authorization", "Bearer x"), ("Authorization", "Basic \x00"), ("X", "y" * 30_000),
    ("X", "y" * 100_000), ("X" * 5_000, "y"), ("A B", "c"), ("", "c"), ("A\0", "c"), ("A", "\0"),
    ("A", "é"), ("A", "b\r\n c"), ("Range", "bytes=0-1"), ("Accept", "image/png"),
    ("Inference-Header-Content-Length", "5"), ("Inference-Header-Content-Length", "99999999"),
    ("X-Forwarded-For", "1.2.3.4"), ("Origin", "http://evil.example"),
]  # fmt: skip


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Every place of a tree: its holder and its key."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    found: list[tuple[Any, Any]] = []
    for key in keys:
        found.append((tree, key))
        found += _nodes(tree[key])
    return found


def _change_tree(rng: random.Random, body: Any) -> Any:
    """A body with a value, a key or a part changed."""
    tree = [json.loads(json.dumps(body))]
    holder, key = rng.choice(_nodes(tree))
    what = rng.randrange(6)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[rng.choice(["", "a", f"{key}x", "step", "values", "item", "h"])] = holder.pop(key)
    elif what == 2:
        other, place = rng.choice(_nodes(tree))
        holder[key] = json.loads(json.dumps(other[place]))
    elif what == 3 and type(holder[key]) in (int, float):
        with suppress(OverflowError):
            holder[key] = holder[key] * rng.choice([-1, 0, 1000, 1e300, 0.5])
    elif what == 4 and isinstance(holder, list):
        holder += [holder[key]] * rng.choice([1, 100])
    else:
        holder[key] = rng.choice(NASTY)
    return tree[0] if tree else None


def _written(body: Any) -> bytes:
    """The bytes of a body."""
    if body is None or isinstance(body, bytes):
        return body or b""
    parts = body if isinstance(body, list) else [body]
    return b"\n".join(json.dumps(part).encode("utf-8", "surrogatepass") for part in parts)


def _damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes with some changed, cut out or put in."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at, what = rng.randrange(len(changed) + 1), rng.randrange(5)
        if what == 0 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif what == 1:
            del changed[at : at + rng.randrange(1, 20)]
        elif what == 2:
            changed[at:at] = rng.choice(RAW)
        elif what == 3:
            changed[at:at] = rng.choice([b"\r\n", b"\n", b"\r\n\r\n", b"\0", b" ", b"%", b"%00"])
        else:
            changed[at:at] = changed[rng.randrange(len(changed) + 1) :][:50]
    return bytes(changed)


def _chunked(rng: random.Random, data: bytes, wrong: bool) -> bytes:
    """A body in chunks; ``wrong``: some of them may be so."""
    found, wrong = b"", wrong and rng.random() < 0.7
    while data:
        size = rng.randrange(1, len(data) + 1)
        stated = f"{size:x}"
        if wrong and rng.random() < 0.3:
            odd = [f"{size + 1:x}", "-1", "", "g", f"{size:x};a=b", "f" * 20, f" {size:x}"]
            stated = rng.choice(odd)
        end = rng.choice([b"\r\n", b"\n", b""]) if wrong else b"\r\n"
        found += stated.encode() + end + data[:size] + b"\r\n"
        data = data[size:]
    ends = [b"0\r\n\r\n", b"0\r\nA: b\r\n\r\n", *([b"0\r\n", b""] if wrong else [])]
    return found + rng.choice(ends)


def bytes_of(rng: random.Random, last: bool) -> tuple[bytes, bytes]:
    """The bytes of a request, and its body before it was framed.

    After a request without an end the server reads no further one of its connection. So mostly the
    last one only is damaged as a whole.
    """
    request = good(rng)
    method, path, body, headers = request.method, request.path, request.body, request.headers
    hostile = rng.random() < 0.85
    whole = hostile and (last or rng.random() < 0.1)
    while hostile and body is not None and not isinstance(body, bytes) and rng.random() < 0.6:
        body = _change_tree(rng, body)
    if whole and rng.random() < 0.1:
        method = rng.choice(METHODS)
    version = rng.choice(VERSIONS) if whole and rng.random() < 0.05 else "HTTP/1.1"
    target = path.encode()
    if hostile and rng.random() < 0.1:
        target = rng.choice(
            [
                _damaged(rng, target) if whole else b"/%", b"http://localhost" + target,
                target + b"?" + b"a=b&" * 500,
                target + b"?h=1&h=2", target * 300, target.replace(b"/", b"//"), target + b"/",
                target + b"?%00=%ff", target + b"#x", target + b"?h=99999999999999999999",
            ]
        )  # fmt: skip
    data = _written(body)
    if hostile and data and rng.random() < 0.15:
        data = rng.choice([rng.choice(RAW), _damaged(rng, data), data + rng.choice(RAW), b""])
    media = LINE if path == "/v1/batch" else JSON
    lines = [("Host", "localhost"), *headers]
    if body is not None:
        lines.append(("Content-Type", media))
    framed = data
    if body is not None and rng.random() < 0.1:
        lines.append(("Transfer-Encoding", "chunked"))
        framed = _chunked(rng, data, whole)
    elif body is not None:
        length = len(data)
        if whole and rng.random() < 0.04:
            length = max(0, length + rng.choice([-5, -1, 1, 100, 10**7]))
        lines.append(("Content-Length", str(length)))
    if last:
        lines.append(("Connection", "close"))
    while whole and rng.random() < 0.25:
        if rng.random() < 0.3:
            lines.pop(rng.randrange(len(lines)))
            if not lines:
                break
        else:
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(HEADERS))
    if whole and rng.random() < 0.01:
        lines += [(f"X-{i}", "y") for i in range(rng.choice([200, 3_000]))]
    head = b"".join(f"{name}: {value}\r\n".encode() for name, value in lines)
    found = method.encode() + b" " + target + b" " + version.encode() + b"\r\n" + head + b"\r\n"
    found += framed
    if whole and rng.random() < 0.1:
        found = _damaged(rng, found)
    return found, data


@dataclass
class Execution:
    """What is sent on one connection."""

    parts: list[bytes]
    bodies: bytes
    end: str  # "wait", "half": nothing more is sent; "reset": the connection breaks

    @classmethod
    def of(cls, seed: int) -> Execution:
        rng = random.Random(seed)
        count = rng.choice([1, 1, 2, 4, 8])
        made = [bytes_of(rng, number == count - 1) for number in range(count)]
        whole, end = b"".join(each for each, _ in made), "wait"
        if rng.random() < 0.05:
            whole = whole[: rng.randrange(len(whole) + 1)]
            end = rng.choice(["wait", "half", "reset"])
        parts = [whole]
        if rng.random() < 0.05:
            cuts = sorted(rng.randrange(len(whole) + 1) for _ in range(rng.choice([1, 3, 10])))
            parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        return cls(parts, b"\n".join(body for _, body in made), end)

    def named(self) -> set[str]:
        """The items that it names."""
        data, found = b"".join(self.parts) + self.bodies, set()
        for segment in re.findall(rb"/v1/items/+([^/?#\s]*)", data):
            found.add(unquote_to_bytes(segment))
        texts = {each.decode("utf-8", "replace") for each in found}
        for text in re.findall(rb'"(?:item|as)"\s*:\s*("(?:[^"\\]|\\.)*")', data):
            with suppress(ValueError):
                texts.add(json.loads(text.decode("utf-8", "replace")))
        return texts


# -- executions -------------------------------------------------------------------------------


def statuses(data: bytes) -> list[int]:
    """The statuses of the answers on a connection; raises ``ValueError`` for what is no HTTP."""
    found = []
    while data:
        head, blank, rest = data.partition(b"\r\n\r\n")
        first = re.match(rb"HTTP/1\.1 (\d{3})", head)
        if first is None or not blank:
            raise ValueError(f"no answer of HTTP: {data[:80]!r}")
        found.append(int(first[1]))
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        size = int(length[1]) if length else 0
        if rest.startswith(b"HTTP/1.1 "):  # the answer to HEAD has a length and no body
            size = 0
        elif b"transfer-encoding: chunked" in head.lower() or (length is None and found[-1] >= 400):
            size = len(rest)
        data = rest[size:]
    return found


class Client(asyncio.Protocol):
    """A connection that keeps what it is answered, also if it breaks."""

    def __init__(self) -> None:
        self.data, self.ended = bytearray(), asyncio.Event()
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()

    async def end(self, seconds: float) -> bool:
        """Whether the connection ends within a time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        return self.ended.is_set()


async def executed(port: int, execution: Execution, place: int) -> list[int]:
    """Send an execution; the statuses of the answers."""
    own = (f"127.0.0.{2 + place % 200}", 0)  # more addresses than one have enough free ports
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_connection(Client, "127.0.0.1", port, local_addr=own)
    try:
        for part in execution.parts:
            transport.write(part)
            if len(execution.parts) > 1:
                await asyncio.sleep(0.002)
        if execution.end == "reset":
            raw = transport.get_extra_info("socket")
            with suppress(OSError):  # the server has ended it
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return []
        before = -1
        while execution.end == "wait" and before < len(client.data):  # as long as more comes
            before = len(client.data)
            if await client.end(QUIET):
                return statuses(bytes(client.data))
        if not transport.is_closing():
            transport.write_eof()
        if not await client.end(PATIENCE):
            raise TimeoutError(f"no end within {PATIENCE:g} s; {bytes(client.data[:80])!r}")
        return statuses(bytes(client.data))
    finally:
        transport.abort()


class Run:
    """Executions until the count or the time is up."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, Path(args.out)
        self.seed, self.requests, self.failed = args.seed, 0, 0
        self.statuses: Counter[int] = Counter()
        self.named: set[str] = set()
        self.begun = time.monotonic()

    def fail(self, seed: int, what: str, execution: Execution | None, server: Server) -> None:
        """Write a failure to its folder."""
        self.failed += 1
        folder = self.out / "failures"
        folder.mkdir(exist_ok=True)
        if execution is not None:
            (folder / f"{seed}.bin").write_bytes(b"".join(execution.parts))
        (folder / f"{seed}.txt").write_text(f"{what}\n\n{server.last()}")
        print(f"seed {seed}: {what[:600]}", flush=True)

    def over(self) -> bool:
        passed = time.monotonic() - self.begun
        enough = self.requests >= self.args.count or passed > self.args.seconds
        return enough or self.failed >= self.args.most

    async def worker(self, server: Server) -> None:
        while not self.over():
            seed, self.seed = self.seed, self.seed + 1
            execution = Execution.of(seed)
            self.named |= execution.named()
            try:
                found = await executed(server.port, execution, seed)
            except (TimeoutError, ValueError, OSError) as error:
                self.fail(seed, f"{type(error).__name__}: {error}", execution, server)
                continue
            self.statuses.update(found)
            self.requests += len(found)
            if any(status >= 500 for status in found):
                self.fail(seed, f"statuses {found}", execution, server)

    async def progress(self, server: Server) -> None:
        while True:
            await asyncio.sleep(10)
            self.say(server)
            self.read(server)

    def read(self, server: Server) -> None:
        """Fail for each error in the log of the server."""
        for line in server.errors():
            self.fail(self.seed, f"an error in the log before this seed: {line}", None, server)

    def say(self, server: Server) -> None:
        passed = time.monotonic() - self.begun
        line = {
            "answers": self.requests,
            "per second": round(self.requests / passed),
            "failures": self.failed,
            "memory": f"{server.memory() / 2**20:.0f} MiB",
            "statuses": dict(sorted(self.statuses.items())),
        }
        (self.out / "progress.json").write_text(json.dumps(line | {"next": self.seed}))
        print(f"{passed:7.0f} s  {json.dumps(line)}", flush=True)

    async def all(self, server: Server) -> None:
        said = asyncio.create_task(self.progress(server))
        await asyncio.gather(*(self.worker(server) for _ in range(TOGETHER)))
        said.cancel()


def started(out: Path, fit: Callable[[Path], None]) -> tuple[Server, Path, Path]:
    """A server of a new store in a folder, its model, which is made if it is not there, and its
    store."""
    out.mkdir(parents=True, exist_ok=True)
    model, store = out / "model.safetensors", out / "items.db"
    if not model.exists():
        fit(model)
    for old in out.glob("items.db*"):
        old.unlink()
    return Server(model, store, out / "server.log"), model, store


def kept(server: Server) -> list[bytes]:
    """The journals of the items that no execution names."""
    return [server.ask("GET", f"/v1/items/{quote(item)}/history")[1] for item in KEPT]


def run(args: argparse.Namespace) -> int:
    """How many failures there were."""
    from statecast import Forecaster, Sessions

    server, model, store = started(Path(args.out), fitted)
    found = Run(args)
    try:
        for number, item in enumerate(KEPT):
            row = _row(random.Random(number)) | {"static": {"size": 0.5, "kind": "a"}, "step": 1}
            status, text = server.ask("POST", f"/v1/items/{quote(item)}/observations", row)
            if status != 200:
                raise SystemExit(f"The server refused a good request: {text!r}")
        before = kept(server)
        if args.replay is not None:
            execution = Execution.of(args.replay)
            print(b"".join(execution.parts)[:5_000], execution.end)
            print(asyncio.run(executed(server.port, execution, 0)), server.last())
            return 0
        asyncio.run(found.all(server))
        found.say(server)
        found.read(server)
        if server.child.poll() is not None:
            found.fail(-1, f"the server ended with {server.child.returncode}", None, server)
        elif kept(server) != before:
            found.fail(-2, "an item that was not named changed", None, server)
    finally:
        code = server.stop() if server.child.poll() is None else -1
    if code:
        found.fail(-3, f"the server stopped with {code}", None, server)
    with Sessions(Forecaster.load(model), store) as sessions:
        items = set(sessions.items())
    if odd := items - found.named - set(KEPT):
        found.fail(-4, f"items that no request named: {sorted(odd)[:5]}", None, server)
    print(f"{len(items)} items in the store; {found.failed} failures")
    return found.failed


def main() -> None:
    """Read the arguments and run."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # a connection may end at any time
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--count", type=float, default=float("inf"), help="of answers, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the first execution")
    parser.add_argument("--replay", type=int, metavar="SEED")
    parser.add_argument("--most", type=int, default=20, help="stop at so many failures")
    parser.add_argument("--out", default="build/fuzz-server")
    sys.exit(1 if run(parser.parse_args()) else 0)


if __name__ == "__main__":
    main()
