"""Requests a second over HTTP, beside what a user would build by hand.

Run it from the root of the repository, on a machine that does nothing else. It needs a
``redis-server`` (Debian: ``apt-get install redis-server``)::

    .venv/bin/pip install -e '.[bench]'
    .venv/bin/python benchmarks/serving.py

Each request is an observation of one item, answered with the forecast of its later steps. The two
servers, ``statecast serve`` and ``benchmarks/handmade.py``, take turns: each has the machine for
``--seconds``, ``--rounds`` times. Both sync what they acknowledge to the disk (Redis with
``appendfsync always``), and both read requests with httptools and uvloop. The client keeps
``--connections`` connections open, and sends the next request on one when its answer is there. It
runs on the same machine, and takes CPU time from the servers; the results say how much.

Results are printed, and written to ``build/serving.json`` after each round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sessions import STEPS, fit

BUILD, HERE = Path(__file__).parents[1] / "build", Path(__file__).parent
SECONDS_TO_START = 60.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process, which is told to end after the block."""
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            yield process
        finally:
            process.terminate()


def cpu_seconds(process: int) -> float:
    """The CPU time of a process."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Load:
    """Connections that observe items of their own, one after the other, from step 1 on."""

    def __init__(self, port: int) -> None:
        self.port, self.begun = port, 0
        self.took: list[float] = []

    async def _connection(self, end: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while time.perf_counter() < end:
            self.begun += 1
            item = f"item-{self.begun}"
            for step in range(1, STEPS):
                if time.perf_counter() >= end:
                    break
                body = await self.ask(reader, writer, item, step)
                assert len(body["forecast"]) == STEPS - step, body
        writer.close()

    async def ask(self, reader: Any, writer: Any, item: str, step: int) -> dict[str, Any]:
        """The answer to an observation."""
        row = {"step": step, "values": 80.0 + step, "until": STEPS}
        data = json.dumps(row | ({"static": {"sex": "F"}} if step == 1 else {})).encode()
        head = (
            f"POST /v1/items/{item}/observations HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        begin = time.perf_counter()
        writer.write(head.encode() + data)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(answer.partition(b"content-length: ")[2].partition(b"\r")[0])
        found = await reader.readexactly(size)
        self.took.append(time.perf_counter() - begin)
        assert answer.startswith(b"http/1.1 200 "), found
        return json.loads(found)

    async def run(self, connections: int, seconds: float) -> None:
        end = time.perf_counter() + seconds
        await asyncio.gather(*(self._connection(end) for _ in range(connections)))

    async def first(self) -> dict[str, Any]:
        """The answer to the first observation of an item."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        found = await self.ask(reader, writer, "first", 1)
        writer.close()
        return found


def until_ready(load: Load) -> dict[str, Any]:
    """The first answer of a server, when it is there."""
    end = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            return asyncio.run(load.first())
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def measured(load: Load, server: int, connections: int, seconds: float) -> dict[str, float]:
    """One round of a server."""
    load.took.clear()
    begin, cpu, own = time.perf_counter(), cpu_seconds(server), time.process_time()
    asyncio.run(load.run(connections, seconds))
    count, every = len(load.took), 1e3 * np.array(load.took)
    return {
        "requests_per_second": count / (time.perf_counter() - begin),
        "p50_ms": float(np.quantile(every, 0.5)),
        "p99_ms": float(np.quantile(every, 0.99)),
        "largest_ms": float(every.max()),
        "server_cpu_us": 1e6 * (cpu_seconds(server) - cpu) / count,
        "client_cpu_us": 1e6 * (time.process_time() - own) / count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--connections", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    results: dict[str, Any] = {"settings": vars(given), "cpus": os.cpu_count()}
    results["load_before"] = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=BUILD) as name, ExitStack() as stack:
        folder = Path(name)
        model, redis = str(folder / "model.safetensors"), str(folder / "redis.sock")
        # In a process of its own: so this one has no backend in memory.
        fitting = get_context("spawn").Process(target=fit, args=(model,))
        fitting.start()
        fitting.join()
        ports = {name: free_port() for name in ("statecast", "handmade")}
        store = [
            *("redis-server", "--port", "0", "--unixsocket", redis, "--dir", name),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        ]
        serve = [
            *(str(Path(sys.executable).with_name("statecast")), "serve", model),
            *("--store", str(folder / "items.db"), "--port", str(ports["statecast"])),
        ]
        handmade = [
            *(sys.executable, str(HERE / "handmade.py"), model, str(ports["handmade"]), redis),
        ]
        stack.enter_context(running(store, folder / "redis.log"))
        servers = {
            "statecast": stack.enter_context(running(serve, folder / "statecast.log")),
            "handmade": stack.enter_context(running(handmade, folder / "handmade.log")),
        }
        loads = {name: Load(port) for name, port in ports.items()}
        first = {name: until_ready(load)["forecast"] for name, load in loads.items()}
        assert first["statecast"] == first["handmade"], "The two servers answer differently."
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in loads}
        for number in range(given.rounds):
            for name, load in loads.items():
                found = measured(load, servers[name].pid, given.connections, given.seconds)
                rounds[name].append(found)
                text = ", ".join(f"{key} {value:,.1f}" for key, value in found.items())
                print(f"round {number + 1} of {given.rounds}, {name}: {text}", flush=True)
            results["rounds"] = rounds
            results["medians"] = {
                name: {key: median(one[key] for one in each) for key in each[0]}
                for name, each in rounds.items()
            }
            rates = [results["medians"][name]["requests_per_second"] for name in loads]
            results["ratio"] = rates[0] / rates[1]
            (BUILD / "serving.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(json.dumps({key: results[key] for key in ("medians", "ratio")}, indent=1))


if __name__ == "__main__":
    main()
