"""What is special about a store on a Redis server: other processes, lost connections, settings."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streams
from effort import EVERYTHING, examples
from journals import change, events, record, version
from redis_server import DURABLE, RedisServer, server
from statecast import errors
from statecast.forecast.forecaster import Forecaster
from statecast.sessions import RedisStore, Sessions, Snapshot, redis, writer
from statecast.state import State
from streams import Stream

pytestmark = pytest.mark.filterwarnings("ignore:(Static|Future) columns|Values far outside")

X = {"level": 0.5, "group": "a"}


@pytest.fixture(scope="module")
def model() -> Forecaster:
    return streams.plain()


@pytest.fixture(scope="module")
def other() -> Forecaster:
    return streams.plain(seed=5)


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A server that a test may change and kill."""
    found = RedisServer(**DURABLE)
    yield found
    found.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store on the server of all tests."""
    return server().url(str(tmp_path))


def admin(own: RedisServer, *command: str) -> Any:
    """Send a command to a server."""
    import redis as client

    with client.Redis(unix_socket_path=str(own.socket)) as found:
        return found.execute_command(*command)


# -- several processes ----------------------------------------------------------------------------


@settings(max_examples=examples(30))
@given(seed=st.integers(0, 2**32 - 1), cached=st.sampled_from([1, 100]))
def test_a_stream_through_several_processes_has_the_states_of_the_ordered_history(
    seed: int, cached: int, model: Forecaster, tmp_path_factory: Any
) -> None:
    """Each of them keeps items in memory, which the others change."""
    stream = Stream(model, seed)
    url = server().url(str(tmp_path_factory.mktemp("stream")))

    def opened() -> Sessions:
        return Sessions(model, url, cached=cached)

    with pytest.MonkeyPatch.context() as often:
        often.setattr(writer, "_EVERY", 3)
        several = [opened() for _ in range(3)]
        try:
            for _ in range(60):
                place = int(stream.rng.integers(3))
                several[place] = stream.act(several[place], opened)
            for each in several:
                stream.check(each)
        finally:
            for each in several:
                each.close()


def test_a_call_on_items_in_memory_asks_the_server_once(
    url: str, model: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sessions(model, url) as sessions:
        sessions.observe_batch(
            ["a", "b"], [1, 1], [50.0, 51.0], static={k: [v] * 2 for k, v in X.items()}
        )
        sessions.observe("a", 2, 50.0)  # the server has all scripts
        asked: list[Any] = []
        store: Any = sessions._store
        execute = store._client.execute_command
        monkeypatch.setattr(
            store._client, "execute_command", lambda *words: asked.append(words) or execute(*words)
        )
        sessions.forecast(["a", "b"], h=1)
        assert len(asked) == 1
        sessions.observe("a", 2, 50.0)  # a duplicate: its journal is read
        assert len(asked) == 3
        sessions.observe("a", 3, 50.0)
        assert len(asked) == 5  # compared, and committed


def test_an_item_that_another_process_changes_meanwhile_is_read_again(
    url: str, model: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process is first between the comparison and the commit."""
    with Sessions(model, url) as one, Sessions(model, url) as two:
        one.observe("a", 1, 50.0, static=X)
        acts: list[Callable[[], Any]] = [
            lambda: two.observe("a", 2, 51.0),
            lambda: two.observe("a", 3, 52.0),  # then 3 is a correction
            lambda: two.reset("a"),
            lambda: (two.delete("a"), two.observe("a", 1, 40.0, static=X)),
        ]
        commit = RedisStore.commit

        def late(self: RedisStore, changes: Any) -> Any:
            if self is one._store and acts:
                acts.pop(0)()
            return commit(self, changes)

        monkeypatch.setattr(RedisStore, "commit", late)
        found = one.observe("a", 3, 60.0)
        assert found.status.tolist() == ["new"]
        assert acts == []
        assert two.history("a")["y"].drop_nulls().to_list() == [40.0, 60.0]
        series, static, _ = two.tables("a")
        expected = model.state(series, static)
        for each in (one, two):
            assert each.state("a") == State(expected.leaves, ["a"], model.fingerprint)


def test_a_version_is_compared_in_the_step_that_changes(
    url: str, model: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sessions(model, url) as one, Sessions(model, url) as two:
        seen = one.observe("a", 1, 50.0, static=X).versions[0]
        delete, steps = RedisStore.delete, iter([2, 3])

        def late(self: RedisStore, items: Any) -> Any:
            monkeypatch.setattr(RedisStore, "delete", delete)
            two.observe("a", next(steps), 51.0)
            return delete(self, items)

        monkeypatch.setattr(RedisStore, "delete", late)
        with pytest.raises(errors.VersionError):
            one.delete("a", expected=seen)
        monkeypatch.setattr(RedisStore, "delete", late)
        past = one.history("a")["time"][-1]
        time.sleep(0.01)
        two.observe("b", static=X)
        assert one.expire(two.history("b")["time"][-1]) == 0  # it was observed meanwhile
        assert past < two.history("a")["time"][-1]
        assert sorted(two.items()) == ["a", "b"]


def test_of_two_models_that_open_a_new_store_one_is_refused(url: str) -> None:
    one, two, three = (RedisStore(url) for _ in range(3))
    assert one.meta() == two.meta() == three.meta() == {}
    one.set_meta({"model": "1"})
    with pytest.raises(errors.StoreError, match="another model"):
        two.set_meta({"model": "2"})
    three.set_meta({"model": "1"})
    with pytest.raises(errors.StoreError, match="another model"):
        two.commit([change(b"a", 0, events(1, 1))])
    assert three.commit([change(b"a", 0, events(1, 1))]) == []
    assert one.commit([change(b"a", 1, events(2, 1))]) == []
    for each in (one, two, three):
        each.close()


def test_a_migration_is_one_of_all_processes(
    url: str, model: Forecaster, other: Forecaster
) -> None:
    stream = Stream(model, 0)
    with Sessions(model, url) as one, Sessions(model, url) as two:
        for i in range(20):
            stream.observe(one, f"item {i}", 1)
        stream.observe(two, "item 0", 2)
        one.migrate(other)
        stream.f = other
        stream.check(one)
        with pytest.raises(errors.StoreError, match="another model"):
            two.observe("item 0", 3, 50.0)
        for call in (
            lambda: two.forecast("item 0", h=1),
            lambda: two.history("item 0"),
            lambda: two.delete("item 0"),
            lambda: two.reset("item 0"),
            lambda: two.fork("item 0", "item x"),
            lambda: two.migrate(other),
        ):
            with pytest.raises(errors.StoreError, match="another model"):
                call()
        stream.check(one)
    with pytest.raises(errors.StoreError, match="call `migrate`"):
        Sessions(model, url)
    with Sessions(other, url) as two:
        stream.observe(two, "item 0", 3)
        stream.check(two)


def test_what_other_processes_change_during_a_migration_is_replayed_too(
    url: str, model: Forecaster, other: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be replayed is found, whichever part of the migration it falls into."""
    stream = Stream(model, 0)
    with Sessions(model, url) as one, Sessions(model, url) as two:
        for i in range(3):
            stream.observe(one, f"item {i}", 1)
        watched, state = RedisStore.watched, one.state("item 0")
        for round_ in (False, True):

            def late(self: RedisStore, *, last: bool = False, round_: bool = round_) -> list[bytes]:
                if last is round_:
                    two.set_state("item 1", state)
                return watched(self, last=last)

            monkeypatch.setattr(RedisStore, "watched", late)
            with pytest.raises(errors.StateError, match=r"item 1.*its state was set"):
                one.migrate(other)
            monkeypatch.setattr(RedisStore, "watched", watched)
            for each in (one, two):
                assert each.model is model
                each.reset("item 1")
        stream.items["item 1"] = streams.Known(stream.items["item 1"].static)
        stream.check(two)
        one._store.watch()
        with pytest.raises(errors.StoreError, match="one migration at a time"):
            two.migrate(other)
        one._store.unwatch()
        two.migrate(other)
        stream.f = other
        stream.check(two)


def test_changes_wait_while_another_process_ends_a_migration(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = RedisStore(url), RedisStore(url)
    one.watch()
    two.commit([change(b"a", 0, events(1, 1))])
    assert one.watched(last=True) == [b"a"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(two.commit, [change(b"a", 1, events(2, 1))])
        time.sleep(0.1)
        assert not waiting.done()
        assert two.read([b"a"]) == [record(None, events(1, 1), 1)]
        one.unwatch()
        assert waiting.result(5) == []
        one.watch()
        one.watched(last=True)
        waiting = pool.submit(two.commit, [change(b"a", 2, events(3, 1))])
        time.sleep(0.1)
        one.set_meta({"model": "2"})
        with pytest.raises(errors.StoreError, match="another model"):
            waiting.result(5)
    assert one.read([b"a"]) == [record(None, events(1, 1, 1), 2)]
    one.close()
    two.close()


def test_the_watch_of_a_process_that_ended_is_over_after_a_while(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "_LEASE", 1000)
    one, two = RedisStore(url), RedisStore(url)
    one.watch()
    two.commit([change(b"a", 0, events(1, 1))])
    one.watched(last=True)
    assert two.commit([change(b"a", 1, events(2, 1))]) == []  # after the lease
    with pytest.raises(errors.StoreError, match="more than a minute"):
        one.set_meta({"model": "2"})
    assert two.meta() == {}
    two.watch()
    one.unwatch()  # has no effect on that of the other process
    two.commit([change(b"a", 2, events(3, 1))])
    for _ in range(4):  # each call renews it
        time.sleep(0.3)
        two.ids()
    assert two.watched(last=True) == [b"a"]
    two.set_meta({"model": "2"})
    one.close()
    two.close()


# -- real processes -------------------------------------------------------------------------------

# Observes random steps of items that other processes observe too. A line says what was
# acknowledged.
CHILD = """
import sys, random
from statecast.forecast.forecaster import Forecaster
from statecast.sessions import Sessions
sessions = Sessions(Forecaster.load(sys.argv[1]), sys.argv[2], cached=int(sys.argv[4]))
rng = random.Random(sys.argv[3])
for _ in range(int(sys.argv[5])):
    items = rng.sample(["0", "1", "2", "3"], rng.randint(1, 3))
    steps = [rng.randint(1, 8) for _ in items]
    values = [rng.choice([50.0, 51.0, 52.0]) for _ in items]
    found = sessions.observe_batch(items, steps, values)
    rows = zip(items, steps, values, found.status, found.versions)
    print(" ".join(":".join(map(str, row)) for row in rows), flush=True)
print("ended", flush=True)
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of arrays, without static features."""
    import numpy as np

    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    y = 50 + np.random.default_rng(0).normal(size=(40, 8)).cumsum(axis=1)
    Forecaster(units=4, ensemble=2, epochs=1).fit(y, verbose=0).save(path)
    return path


def begun(model: Path, url: str, seed: str, calls: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(model), url, seed, "2", str(calls)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def check(f: Forecaster, url: str, lines: list[str]) -> int:
    """Each acknowledged row is one event of the journals, in the order of the versions."""
    rows = [row.split(":") for line in lines if line != "ended" for row in line.split()]
    with Sessions(f, url) as sessions:
        for item in ("0", "1", "2", "3"):
            journal = sessions.history(item)
            assert journal["time"].is_sorted()
            steps, values = journal["ds"].to_list(), journal["y"].to_list()
            taken: set[int] = set()
            for step, value, status, seq in (
                (int(step), float(value), status, int(last.split("-")[0]))
                for each, step, value, status, last in rows
                if each == item
            ):
                place = seq - 1
                if status == "duplicate":  # the value that was in effect then
                    place = max(i for i in range(seq) if steps[i] == step)
                else:
                    assert place not in taken
                    taken.add(place)
                    before = [i for i in range(place) if steps[i] is not None]
                    again = step in [steps[i] for i in before]
                    late = any(steps[i] > step for i in before)
                    assert status == ("corrected" if again else "late" if late else "new")
                assert (steps[place], values[place]) == (step, value)
            series, static, _ = sessions.tables(item)
            own = dict(zip(steps, values, strict=True))
            own.pop(None)
            assert dict(series.select("ds", "y").rows()) == own
            assert sessions.state(item) == State(f.state(series, static).leaves, [item])
        return sum(sessions.history(item).height - 1 for item in "0123")


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_that_observe_the_same_items_lose_nothing(
    processes: int, url: str, small: Path
) -> None:
    f, calls = Forecaster.load(small), 100 if EVERYTHING else 40
    with Sessions(f, url) as sessions:
        sessions.observe_batch(list("0123"))
    children = [begun(small, url, str(i), calls) for i in range(processes)]
    lines = [line for child in children for line in child.communicate()[0].splitlines()]
    assert lines.count("ended") == processes
    events = check(f, url, lines)
    acknowledged = [row for line in lines for row in line.split() if ":" in row]
    assert events == sum("duplicate" not in row for row in acknowledged)
    assert 0 < events < len(acknowledged)


@pytest.mark.parametrize("number", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_processes_lose_no_acknowledged_event(number: int, url: str, small: Path) -> None:
    import random

    f, rng, lines = Forecaster.load(small), random.Random(number), list[str]()
    with Sessions(f, url) as sessions:
        sessions.observe_batch(list("0123"))
    for each in range(number):
        children = [begun(small, url, f"{each}/{i}", 10**6) for i in range(2)]
        firsts = [child.stdout.readline() if child.stdout else "" for child in children]
        time.sleep(0.3 * rng.random())
        for child, first in zip(children, firsts, strict=True):
            child.kill()
            text = first + child.communicate()[0]
            assert child.returncode == -signal.SIGKILL
            lines += text.split("\n")[:-1]  # the last one may be cut
    assert check(f, url, lines) > number


def test_a_killed_server_loses_no_acknowledged_event(own: RedisServer, small: Path) -> None:
    import random

    f, rng, lines = Forecaster.load(small), random.Random(0), list[str]()
    with Sessions(f, own.url("a")) as sessions:
        sessions.observe_batch(list("0123"))
    for each in range(12 if EVERYTHING else 4):
        child = begun(small, own.url("a"), str(each), 10**6)
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(0.2 * rng.random())
        own.kill()
        text, _ = child.communicate()
        assert child.returncode == 1  # a StoreError
        lines += (first + text).splitlines()
        own.start()
    assert check(f, own.url("a"), lines) > 20


# -- kills between any two commands --------------------------------------------------------------


class Steps:
    """What a process does, step by step; each step may be repeated after a kill."""

    def __init__(self, f: Forecaster, other: Forecaster, url: str) -> None:
        self.models, self.url, self.at = [f, other], url, 0

    def opened(self) -> Sessions:
        try:
            return Sessions(self.models[self.at], self.url)
        except errors.StoreError:
            self.at = 1 - self.at
            return Sessions(self.models[self.at], self.url)

    def do(self, first: int, done: Callable[[int], Any]) -> None:
        """Do all steps from one on, and report each."""
        sessions = self.opened()

        def fork() -> None:
            if "copy" not in sessions:
                sessions.fork("a", "copy")

        def migrate() -> None:
            while sessions.model is self.models[0]:
                try:
                    sessions.migrate(self.models[1])
                except errors.StoreError as error:
                    if "one migration at a time" not in str(error):  # that which was killed
                        raise
                    time.sleep(0.1)

        acts: list[Callable[[], Any]] = [
            lambda: sessions.observe("a", 1, 50.0, static=X),
            lambda: sessions.observe_batch(["a", "b"], [3, 1], [52.0, 60.0], static=_twice(X)),
            lambda: sessions.observe("a", 2, 51.0),  # late
            lambda: sessions.observe("b", 1, 61.0),  # a correction
            fork,
            lambda: sessions.observe("copy", 4, 53.0, until=6),
            lambda: sessions.observe("c", 1, 1.0, static=X),
            lambda: sessions.delete("c"),
            lambda: sessions.reset("b"),
            migrate,
            lambda: sessions.observe("b", 2, 62.0),
        ]
        with sessions:
            for number in range(first, len(acts)):
                acts[number]()
                done(number)


def _twice(one: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [value, value] for name, value in one.items()}


def killed_at(steps: Steps, command: int, *, sent: bool) -> int | None:
    """Do the steps in a child that is killed at a command, before or after it is sent; return the
    number of steps that it reported, or None if it did all of them."""
    from redis.connection import AbstractConnection

    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            count, send = 0, AbstractConnection.send_packed_command

            def counted(self: Any, *given: Any, **options: Any) -> None:
                nonlocal count
                count += 1
                number = count  # a check of the connection is a command within a command
                if number == command and not sent:
                    os.kill(os.getpid(), signal.SIGKILL)
                send(self, *given, **options)
                if number == command:
                    os.kill(os.getpid(), signal.SIGKILL)

            AbstractConnection.send_packed_command = counted
            steps.do(0, lambda _: os.write(write, b"x"))
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.close(write)
    with open(read, "rb") as pipe:
        done = len(pipe.read())
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return done if status else None


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("sent", [False, True])
def test_a_process_that_is_killed_at_any_command_leaves_whole_steps(
    sent: bool, model: Forecaster, other: Forecaster, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "_LEASE", 1500)
    rows = pl.DataFrame({"unique_id": [*"aaa", "b"], "ds": [1, 2, 3, 2], "y": [50.0, 51, 52, 62]})
    static = pl.DataFrame({"unique_id": ["a", "b"], **_twice(X)})
    expected, command = other.state(rows, static), 0
    while True:
        command += 1
        own = Steps(model, other, f"{url}/{command}")
        done = killed_at(own, command, sent=sent)
        if done is None:
            break
        own.do(done, lambda _: None)  # what was reported is not done again
        with own.opened() as sessions:
            assert sessions.model is other
            assert sorted(sessions.items()) == ["a", "b", "copy"]
            assert sessions.history("a")["y"].drop_nulls().to_list() == [50.0, 52.0, 51.0]
            assert sessions.history("copy")["y"].drop_nulls().to_list() == [50.0, 52.0, 51.0, 53.0]
            assert sessions.state(["a", "b"]) == State(
                expected.leaves, ["a", "b"], other.fingerprint
            )
    assert command > 40


# -- the server -----------------------------------------------------------------------------------


def test_a_lost_connection_is_an_error_and_the_next_call_works(
    own: RedisServer, model: Forecaster
) -> None:
    with Sessions(model, own.url("a")) as sessions:
        sessions.observe("a", 1, 50.0, static=X)
        own.kill()
        for call in (
            lambda: sessions.observe("a", 2, 51.0),
            lambda: sessions.observe("b", static=X),
        ):
            with pytest.raises(errors.StoreError, match=r"does not answer.*Repeat the call"):
                call()
        with pytest.raises(errors.StoreError, match=r"does not answer.*Nothing was changed"):
            sessions.forecast("a", h=1)
        own.start()
        assert sessions.observe("a", 2, 51.0).status.tolist() == ["new"]
        own.kill()
        own.start()
        assert sessions.history("a")["y"].drop_nulls().to_list() == [50.0, 51.0]


def test_an_answer_that_is_lost_may_be_of_a_change(
    url: str, model: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redis import exceptions
    from redis.connection import AbstractConnection

    with Sessions(model, url) as sessions:
        sessions.observe("a", 1, 50.0, static=X)
        read, answers = AbstractConnection.read_response, iter([False, True])

        def cut(self: Any, *given: Any, **options: Any) -> Any:
            found = read(self, *given, **options)
            if next(answers):  # that of the commit, after that of the comparison
                raise exceptions.ConnectionError("cut")
            return found

        monkeypatch.setattr(AbstractConnection, "read_response", cut)
        with pytest.raises(errors.StoreError, match="not known whether"):
            sessions.observe("a", 2, 51.0)
        monkeypatch.setattr(AbstractConnection, "read_response", read)
        assert sessions.observe("a", 2, 51.0).status.tolist() == ["duplicate"]
        assert sessions.history("a")["y"].drop_nulls().to_list() == [50.0, 51.0]


def test_a_server_that_hangs_is_an_error(own: RedisServer) -> None:
    store = RedisStore(f"{own.url('a')}&socket_timeout=1")
    own.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(errors.StoreError, match="does not answer"):
            store.read([b"a"])
    finally:
        own.process.send_signal(signal.SIGCONT)
    assert store.commit([change(b"a", 0, events(1, 1))]) == []
    store.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("appendonly", "no"), ("appendfsync", "everysec"), ("no-appendfsync-on-rewrite", "yes")],
)
def test_a_server_that_would_lose_commits_is_refused(
    name: str, value: str, own: RedisServer
) -> None:
    store = RedisStore(own.url("a"))
    store.commit([change(b"a", 0, events(1, 1))])
    admin(own, "CONFIG", "SET", name, value)
    with pytest.raises(errors.StoreError, match=rf'durability="full".*received {name} {value}\.'):
        RedisStore(own.url("a"))
    relaxed = RedisStore(own.url("a"), "relaxed")
    assert relaxed.commit([change(b"a", 1, events(2, 1))]) == []
    admin(own, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # as if it was restarted so
    with pytest.raises(errors.StoreError, match=f"received {name} {value}"):
        store.commit([change(b"a", 2, events(3, 1))])
    with pytest.raises(errors.StoreError, match=f"received {name} {value}"):
        store.commit([change(b"a", 2, events(3, 1))])
    admin(own, "CONFIG", "SET", name, (DURABLE | {"no-appendfsync-on-rewrite": "no"})[name])
    assert store.commit([change(b"a", 2, events(3, 1))]) == []
    store.close()
    relaxed.close()


def test_a_server_that_does_not_tell_its_settings_is_refused(own: RedisServer) -> None:
    admin(own, "ACL", "SETUSER", "own", "on", ">secret", "~*", "+@all", "-config")
    url = f"unix://own:secret@{own.socket}?prefix=a"
    with pytest.raises(errors.StoreError, match=r"refuses.*Allow CONFIG GET") as error:
        RedisStore(url)
    assert "secret" not in str(error.value)
    store = RedisStore(url, "relaxed")
    assert "secret" not in store.name
    store.close()
    with pytest.raises(errors.StoreError, match="does not answer") as error:
        RedisStore(url.replace("secret", "mystery"), "relaxed")
    assert "mystery" not in str(error.value)


def test_a_server_that_removes_keys_is_refused(own: RedisServer) -> None:
    admin(own, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    RedisStore(own.url("a"), "relaxed").close()  # without a limit nothing is removed
    admin(own, "CONFIG", "SET", "maxmemory", "100mb")
    for durability in ("full", "relaxed"):
        with pytest.raises(errors.StoreError, match=r"noeviction.*received allkeys-lru"):
            RedisStore(own.url("a"), durability)


def test_a_full_memory_is_an_error_and_nothing_is_lost(own: RedisServer) -> None:
    store = RedisStore(own.url("a"))
    store.commit([change(b"a", 0, events(1, 1))])
    admin(own, "CONFIG", "SET", "maxmemory", "1")
    both = [change(b"a", 1, events(2, 1)), change(b"b", 0, events(1, 1))]
    with pytest.raises(errors.StoreError, match=r"OutOfMemory.*Nothing of this call.*more memory"):
        store.commit(both)
    assert store.read([b"a", b"b"]) == [record(None, events(1, 1), 1), None]
    assert store.ids() == [b"a"]
    assert store.delete({b"a": None}) == 1  # makes room
    admin(own, "CONFIG", "SET", "maxmemory", "0")
    assert store.commit([change(b"b", 0, events(1, 1))]) == []
    store.close()


def test_a_replica_is_an_error(own: RedisServer) -> None:
    store = RedisStore(own.url("a"))
    store.commit([change(b"a", 0, events(1, 1))])
    admin(own, "REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(errors.StoreError, match=r"ReadOnly.*Name the primary"):
        store.commit([change(b"a", 1, events(2, 1))])
    assert store.read([b"a"]) == [record(None, events(1, 1), 1)]
    admin(own, "REPLICAOF", "NO", "ONE")
    assert store.commit([change(b"a", 1, events(2, 1))]) == []
    store.close()


def test_a_node_of_a_cluster_has_all_keys_of_a_store_or_none() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = RedisServer(**DURABLE, cluster_enabled="yes", port=str(port), cluster_port=str(port + 1))
    try:
        admin(own, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        while b"cluster_state:ok" not in admin(own, "CLUSTER", "INFO"):
            time.sleep(0.05)
        store = RedisStore(own.url("a"))
        both = [change(b"a", 0, events(1, 1), Snapshot(1, 1, b"s")), change(b"b", 0, events(1, 1))]
        assert store.commit(both) == []
        assert store.read([b"a"], whole=True)[0] == record(both[0].snapshot, events(1, 1), 1)
        assert store.idle(11) == {b"a": version(1), b"b": version(1)}
        slot = str(admin(own, "CLUSTER", "KEYSLOT", "a"))
        keys = admin(own, "CLUSTER", "COUNTKEYSINSLOT", slot)
        assert keys == admin(own, "DBSIZE") == 5
        admin(own, "CLUSTER", "DELSLOTS", slot)
        with pytest.raises(errors.StoreError, match=r"ClusterDown.*Nothing of this call"):
            store.commit([change(b"a", 1, events(2, 1))])
        store.close()
    finally:
        own.close()


WRONG = [
    ("redis://localhost:x/0", "cannot be read"),
    ("unix:///socket?prefix=", "without braces"),
    ("unix:///socket?prefix=a{b", "without braces"),
    ("unix:///socket?wrong=1", "wrong"),
    ("unix:///socket?db=x", "cannot be read"),
]


@pytest.mark.parametrize(("url", "message"), WRONG)
def test_a_wrong_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        RedisStore(url)


def test_other_keys_are_refused(own: RedisServer) -> None:
    RedisStore(own.url("a")).close()
    admin(own, "HSET", "{a}:meta", "format", "0")
    with pytest.raises(errors.StoreError, match="received those of format 0"):
        RedisStore(own.url("a"))
    admin(own, "SET", "{b}:meta", "other")
    with pytest.raises(errors.StoreError, match="WRONGTYPE"):
        RedisStore(own.url("b"))
    admin(own, "FLUSHALL")


def test_a_store_that_was_emptied_is_an_error(own: RedisServer, model: Forecaster) -> None:
    with Sessions(model, own.url("a")) as sessions:
        sessions.observe("a", 1, 50.0, static=X)
        admin(own, "FLUSHALL")
        for call in (lambda: sessions.forecast("a", h=1), lambda: sessions.observe("a", 2, 51.0)):
            with pytest.raises(errors.StoreError, match="was emptied"):
                call()
