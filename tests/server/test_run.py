"""The server as a process: what it acknowledged is there after a kill, and after a stop."""

from __future__ import annotations

import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

import streams
from plants import run
from served import Client
from statecast.errors import ArgumentError
from statecast.forecast.forecaster import Forecaster
from statecast.server import serve
from statecast.sessions import Sessions

X = {"level": 0.5, "group": "a"}
TOKEN = "a-token-of-this-test"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    streams.plain().save(path)
    return path


class Process:
    """``statecast serve`` in another process, once it listens."""

    def __init__(self, model: Path, store: Path, *options: str) -> None:
        command = [sys.executable, "-m", "statecast.cli", "serve", str(model)]
        command += ["--store", str(store), "--port", "0", *options]
        self.child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._found = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._found.wait(60)
        assert self.port, self.lines
        self.client = Client(self.port)

    port = 0

    def _read(self) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.lines.append(line)
            if found := re.match(r"Serving .* at http://[\d.]+:(\d+)\.$", line):
                self.port = int(found[1])
                self._found.set()
        self._found.set()

    def end(self, number: signal.Signals) -> int:
        """Send a signal, and wait for the end."""
        self.child.send_signal(number)
        code = self.child.wait(60)
        self._reader.join()
        return code


@contextmanager
def running(model: Path, store: Path, *options: str) -> Iterator[Process]:
    process = Process(model, store, *options)
    try:
        yield process
    finally:
        if process.child.poll() is None:
            process.end(signal.SIGKILL)


def write(client: Client, item: str, last: int, acknowledged: dict[str, int]) -> None:
    """Observe a step after the other until the server is gone."""
    while True:
        row = {"step": 1 + last % 7, "values": 50 + last / 1024, "static": X}
        try:
            found = client.item("POST", item, "/observations", row)
        except (OSError, HTTPException):
            return
        assert found.status == 200, found.data
        last += 1
        acknowledged[item] = last


def written(client: Client, acknowledged: dict[str, int], seconds: float) -> list[threading.Thread]:
    """Threads that write, for some time."""
    threads = [
        threading.Thread(target=write, args=(client, f"i{i}", acknowledged[f"i{i}"], acknowledged))
        for i in range(3)
    ]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    return threads


def kept(model: Path, store: Path) -> dict[str, int]:
    """The number of observations of each item, which must be in order and whole."""
    counts = {}
    with Sessions(Forecaster.load(model), store) as sessions:
        for item in sessions.items():
            rows = sessions.history(item).drop_nulls("ds")
            assert rows["ds"].to_list() == [1 + i % 7 for i in range(rows.height)]
            assert rows["y"].to_list() == [50 + i / 1024 for i in range(rows.height)]
            counts[item] = rows.height
    return counts


def kills(number: int, model: Path, store: Path, seed: int) -> None:
    rng, acknowledged = random.Random(seed), {f"i{i}": 0 for i in range(3)}
    for _ in range(number):
        with running(model, store) as process:
            threads = written(process.client, acknowledged, 0.2 + rng.random() / 2)
            process.end(signal.SIGKILL)
            for thread in threads:
                thread.join()
        found = kept(model, store)
        for item, count in acknowledged.items():  # at most one was written and not acknowledged
            assert found.get(item, 0) - count in (0, 1), item
        acknowledged |= found
    assert sum(acknowledged.values()) > number


def test_what_was_acknowledged_is_there_after_kills(model: Path, tmp_path: Path) -> None:
    kills(2, model, tmp_path / "items.db", seed=0)


@pytest.mark.slow
def test_what_was_acknowledged_is_there_after_many_kills(model: Path, tmp_path: Path) -> None:
    kills(40, model, tmp_path / "items.db", seed=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_what_was_begun_and_refuses_the_rest(
    number: signal.Signals, model: Path, tmp_path: Path
) -> None:
    acknowledged = {f"i{i}": 0 for i in range(3)}
    with running(model, tmp_path / "items.db") as process:
        threads = written(process.client, acknowledged, 0.5)
        assert process.end(number) == 0, process.lines
        for thread in threads:
            thread.join()
        events = [json.loads(line) for line in process.lines if line.startswith("{")]
    assert [each["event"] for each in (events[0], events[-1])] == ["started", "stopped"]
    assert all(each["level"] == "info" for each in events)
    assert kept(model, tmp_path / "items.db") == acknowledged
    assert sum(acknowledged.values()) > 3


def test_a_token_file_and_another_address(model: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n", "utf-8")
    options = ("--host", "0.0.0.0", "--token-file", str(tmp_path / "token"))
    with running(model, tmp_path / "items.db", *options) as process:
        assert process.client.item("PUT", "a", "", X).status == 401
        client = Client(process.port, TOKEN)
        assert client.item("PUT", "a", "", X).status == 201
        assert process.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"host": "0.0.0.0"}, "this machine alone"),
        ({"host": "::"}, "this machine alone"),
        ({"host": "example.org"}, "this machine alone"),
        ({"host": "no such host", "without_token": True}, "cannot be used"),
        ({"port": 70_000}, "port"),
        ({"port": -1}, "port"),
        ({"token": "short"}, "token"),
    ],
)
def test_what_cannot_be_served(
    given: dict[str, Any], word: str, model: Path, tmp_path: Path
) -> None:
    with (
        Sessions(Forecaster.load(model), tmp_path / "items.db") as sessions,
        pytest.raises(ArgumentError, match=word),
    ):
        serve(sessions, **given)


def test_a_port_that_is_taken(model: Path, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        Sessions(Forecaster.load(model), tmp_path / "items.db") as sessions,
        pytest.raises(ArgumentError, match="cannot be used"),
    ):
        serve(sessions, port=other.getsockname()[1])


def test_a_command_that_cannot_listen_makes_no_store(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = ["--port", str(other.getsockname()[1])]
        for options in (taken, ["--host", "0.0.0.0"], ["--host", "no such host", "--no-token"]):
            store = tmp_path / "items.db"
            code, _, err = run("serve", str(model), "--store", str(store), *options)
            assert code == 2
            assert "host" in err or "address" in err or "port" in err
            assert not store.exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--token-file", "missing", "--no-token"], "one of"),
        (["--token-file", "missing"], "cannot be read"),
        (["--host", "0.0.0.0"], "this machine alone"),
        (["--policy", "other"], "policy"),
        (["--durability", "other"], "durability"),
    ],
)
def test_the_command_refuses(options: list[str], word: str, model: Path, tmp_path: Path) -> None:
    code, _, err = run("serve", str(model), "--store", str(tmp_path / "items.db"), *options)
    assert code == 2
    assert word in err
