"""Twice the load that the server can take: it refuses, stays under its memory, and loses nothing.

    python tools/overload.py                   # ten minutes; --seconds, --memory to change that

First the capacity of ``statecast serve`` on this machine is measured: requests on 16 connections,
each sent when the answer to the one before is there. Then twice as many requests a second are sent,
whether or not answers come. Most are observations that are answered with a forecast; some are
batches of 100 rows, and forecasts of 200 steps. What is measured includes the client, which runs on
the same machine.

It fails if a status is neither 200, 429 nor 503; if nothing is refused; if the memory of the server
exceeds ``--memory``; if more than 1 % of the accepted requests take more than ``--latency``
seconds; if an acknowledged observation is not in the store afterwards; or if the server does not
answer again once the load is over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")  # it compiles nothing

from fuzz_server import Server, started

ITEMS, STEPS = 24, 6
NAMES = 20_000  # items that are observed, step by step; after their last step come others
UNUSED = 3.0  # seconds after which a connection is not used again: the server ends it after 5
CONNECTIONS = 1_900  # at most, of a client that does not wait; the limit of the server is 2,000


def fitted(path: Path) -> None:
    """Write a model with a static feature."""
    import numpy as np
    import polars as pl

    from statecast import Forecaster

    rng = np.random.default_rng(0)
    row, step = (axis.ravel() for axis in np.indices((ITEMS, STEPS)))
    names = [f"item {i}" for i in range(ITEMS)]
    y = 50 + rng.normal(size=len(row))
    series = pl.DataFrame({"unique_id": [names[i] for i in row], "ds": step + 1, "y": y})
    static = pl.DataFrame({"unique_id": names, "size": rng.normal(size=ITEMS)})
    Forecaster(units=16, ensemble=3, epochs=1).fit(series, static, verbose=0).save(path)


class Load:
    """Requests to a server, and what became of them."""

    def __init__(self, port: int) -> None:
        self.port, self.sent, self.number = port, 0, 0
        self.idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.open = 0
        self.statuses: Counter[Any] = Counter()
        self.took: list[float] = []  # seconds of accepted requests
        self.acknowledged: list[tuple[int, int]] = []  # of each observation the item and the step

    def request(self) -> tuple[bytes, list[tuple[int, int]]]:
        """The next request, and its observations."""
        self.sent, kind = self.sent + 1, self.sent % 50
        rows = 100 if kind == 1 else 1
        cells = [cell_of(number) for number in range(self.number, self.number + rows)]
        self.number += rows
        if kind == 2:
            path = f"/v1/items/n{cells[0][0]}/forecast?h=200"
            return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), []
        bodies = [
            {"step": step, "values": value_of(item, step), "static": {"size": 0.5}}
            for item, step in cells
        ]
        if kind == 1:
            lines = [
                {"item": f"n{item}", **body} for (item, _), body in zip(cells, bodies, strict=True)
            ]
            path, media = "/v1/batch", "application/x-ndjson"
            data = "\n".join(map(json.dumps, lines))
        else:
            path, media = f"/v1/items/n{cells[0][0]}/observations", "application/json"
            data = json.dumps(bodies[0] | {"h": 2})
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media}\r\n"
        return f"{head}Content-Length: {len(data)}\r\n\r\n{data}".encode(), cells

    async def one(self) -> None:
        """Send the next request, and note the answer."""
        if not self.idle and self.open >= CONNECTIONS:
            self.statuses["no connection"] += 1
            return
        data, cells = self.request()
        begun = time.perf_counter()
        try:
            while self.idle and time.monotonic() - self.idle[0][0] > UNUSED:
                self.idle.pop(0)[2].close()
                self.open -= 1
            if self.idle:
                _, reader, writer = self.idle.pop()
            else:
                self.open += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            self.open -= 1
            self.statuses["refused connection"] += 1
            return
        try:
            writer.write(data)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r")[0]))
        except (OSError, asyncio.IncompleteReadError):
            self.open -= 1
            self.statuses["ended connection"] += 1
            writer.close()
            return
        status = int(head[9:12])
        # The item of a forecast may have been refused.
        self.statuses[200 if status == 404 and not cells else status] += 1
        if status == 200:
            self.took.append(time.perf_counter() - begun)
            self.acknowledged += cells
        if b"connection: close" in head:
            self.open -= 1
            writer.close()
        else:
            self.idle.append((time.monotonic(), reader, writer))

    async def closed(self, seconds: float) -> float:
        """The requests a second that 16 connections have answered."""
        end, before = time.perf_counter() + seconds, self.statuses[200]

        async def sender() -> None:
            while time.perf_counter() < end:
                await self.one()

        await asyncio.gather(*(sender() for _ in range(16)))
        return (self.statuses[200] - before) / seconds

    async def offered(self, rate: float, seconds: float, server: Server) -> int:
        """Send so many requests a second; the most bytes of memory that the server had."""
        begun, sent, said, most = time.perf_counter(), 0, 0.0, 0
        tasks: set[asyncio.Task[None]] = set()
        while (passed := time.perf_counter() - begun) < seconds:
            due = int(passed * rate)
            for _ in range(due - sent):
                task = asyncio.create_task(self.one())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            sent = due
            most = max(most, server.memory())
            if passed - said >= 10:
                said = passed
                print(self.line(passed, most), flush=True)
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
        return most

    def line(self, passed: float, most: int) -> str:
        """The state of a run."""
        took = sorted(self.took) or [0.0]
        found = {
            "statuses": dict(self.statuses),
            "accepted, median": f"{took[len(took) // 2]:.3f} s",
            "99 %": f"{took[int(0.99 * (len(took) - 1))]:.3f} s",
            "slowest": f"{took[-1]:.3f} s",
            "memory": f"{most / 2**20:.0f} MiB",
        }
        return f"{passed:7.0f} s  {json.dumps(found)}"


def cell_of(number: int) -> tuple[int, int]:
    """The item and the step of an observation."""
    turn, item = divmod(number, NAMES)
    return turn // STEPS * NAMES + item, 1 + turn % STEPS


def value_of(item: int, step: int) -> float:
    """The value that is observed."""
    return 50 + (item + step) % 64 / 64


def missing(model: Path, store: Path, acknowledged: list[tuple[int, int]]) -> int:
    """How many acknowledged observations the store does not have."""
    from statecast import Forecaster, Sessions

    wanted: dict[int, set[int]] = {}
    for item, step in acknowledged:
        wanted.setdefault(item, set()).add(step)
    lost = 0
    with Sessions(Forecaster.load(model), store) as sessions:
        for begin in range(0, len(wanted), 1_000):
            items = list(wanted)[begin : begin + 1_000]
            series, _, _ = sessions.tables([f"n{item}" for item in items])
            found = {
                (name, step): y for name, step, y in series.select("unique_id", "ds", "y").rows()
            }
            for item in items:
                for step in wanted[item]:
                    lost += found.get((f"n{item}", step)) != value_of(item, step)
    return lost


def run(args: argparse.Namespace) -> list[str]:
    """What failed."""
    server, model, store = started(Path(args.out), fitted)
    load = Load(server.port)

    async def both() -> tuple[float, int]:
        await load.closed(min(3.0, args.seconds / 10))  # so that all is warm
        rate = await load.closed(min(10.0, args.seconds / 5))
        print(f"capacity: {rate:,.0f} requests a second; offered: {2 * rate:,.0f}", flush=True)
        load.took.clear()
        load.statuses.clear()
        return rate, await load.offered(2 * rate, args.seconds, server)

    failed = []
    try:
        _, most = asyncio.run(both())
        print(load.line(args.seconds, most), flush=True)
        with suppress(OSError):
            if server.ask("GET", "/readyz")[0] != 200:
                failed.append("the server is not ready after the load")
    finally:
        code = server.stop() if server.child.poll() is None else server.child.returncode
    if code:
        failed.append(f"the server ended with {code}")
    failed += server.errors()[:5]
    odd = set(load.statuses) - {200, 429, 503, "no connection", "refused connection"}
    if odd:
        failed.append(f"expected 200, 429 or 503; received {odd}")
    if not load.statuses.keys() & {429, 503}:
        failed.append("nothing was refused")
    if most > args.memory * 2**20:
        failed.append(f"{most / 2**20:.0f} MiB of memory; expected at most {args.memory}")
    took = sorted(load.took)
    if not took or took[int(0.99 * (len(took) - 1))] > args.latency:
        failed.append(f"more than 1 % of the accepted requests took more than {args.latency} s")
    lost = missing(model, store, load.acknowledged)
    print(f"{len(load.acknowledged):,} acknowledged observations; {lost} are missing")
    if lost:
        failed.append(f"{lost} acknowledged observations are missing")
    return failed


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--memory", type=int, default=768, help="MiB, of the server")
    parser.add_argument("--latency", type=float, default=30.0, help="seconds, of a request")
    parser.add_argument("--out", default="build/overload")
    failed = run(parser.parse_args())
    print("\n".join(failed) or "passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
