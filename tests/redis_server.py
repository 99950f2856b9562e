"""A Redis server of the tests, in a folder of its own, that can be killed and started again."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from urllib.parse import quote

import pytest

from effort import CI

DURABLE = {"appendonly": "yes", "appendfsync": "always"}


class RedisServer:
    """A process of redis-server that listens on a socket in its folder.

    Without ``redis-server`` a test is skipped; where CI=true it fails.
    """

    def __init__(self, **settings: str) -> None:
        program = shutil.which("redis-server")
        if program is None and not CI:
            pytest.skip("redis-server is not installed: apt-get install redis-server")
        assert program is not None, "redis-server is not installed"
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")  # short: a socket's path is
        self.socket = Path(self._folder.name) / "socket"
        given = {"port": "0", "unixsocket": str(self.socket), "dir": self._folder.name, "save": ""}
        words = [(f"--{name.replace('_', '-')}", text) for name, text in (given | settings).items()]
        self._command = [program, *(word for pair in words for word in pair)]
        if shutil.which(
            "setpriv"
        ):  # of Linux: the server ends with a process of tests that is killed
            self._command = ["setpriv", "--pdeathsig", "KILL", *self._command]
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        import redis

        self.process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, start_new_session=True
        )
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            for _ in range(1000):
                try:
                    client.ping()
                except redis.ConnectionError:
                    assert self.process.poll() is None, "redis-server has ended"
                    time.sleep(0.01)
                else:
                    return
        raise AssertionError("redis-server does not answer")

    def kill(self) -> None:
        """End the server, and the children that write its files, as ``kill -9`` does."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """End the server, and remove its files."""
        self.kill()
        self._folder.cleanup()

    def url(self, prefix: str) -> str:
        """The URL of a store."""
        return f"unix://{self.socket}?prefix={quote(prefix, safe='')}"


@cache
def server() -> RedisServer:
    """One server for all tests that need no own; ``durability="full"`` accepts it."""
    found = RedisServer(**DURABLE)
    atexit.register(found.close)
    return found
