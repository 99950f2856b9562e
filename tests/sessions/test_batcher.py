"""One thread does the calls of many, in their order; its errors reach their callers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from statecast import errors
from statecast.sessions.batcher import Batcher, Call


def test_calls_that_wait_are_done_together_in_their_order() -> None:
    seen: list[list[int]] = []
    begun, go = threading.Event(), threading.Event()

    def handle(calls: list[Call]) -> None:
        seen.append([call.work for call in calls])
        if len(seen) == 1:
            begun.set()
            assert go.wait(10)
        for call in calls:
            call.done.set_result(-call.work)

    batcher = Batcher(handle, most=100, batch=5)
    with ThreadPoolExecutor(10) as pool:
        first = pool.submit(batcher.do, 0)
        assert begun.wait(10)
        rest = []
        for i in range(1, 9):
            rest.append(pool.submit(batcher.do, i))
            while len(batcher._calls) < i:
                pass
        go.set()
        assert [call.result() for call in (first, *rest)] == [-i for i in range(9)]
    assert seen == [[0], [1, 2, 3, 4, 5], [6, 7, 8]]
    batcher.close()


def test_an_error_of_the_work_is_that_of_its_calls_and_the_next_call_works() -> None:
    def handle(calls: list[Call]) -> None:
        for call in calls:
            if call.work == "all":
                raise KeyError("broken")
            call.done.set_result(call.work)

    batcher = Batcher(handle, most=10, batch=10)
    with pytest.raises(KeyError, match="broken"):
        batcher.do("all")
    assert batcher.do("one") == "one"
    batcher.close()
    with pytest.raises(errors.StoreError, match="closed"):
        batcher.do("late")


def test_what_waits_is_done_before_the_end() -> None:
    done: list[int] = []
    begun, go = threading.Event(), threading.Event()

    def handle(calls: list[Call]) -> None:
        begun.set()
        assert go.wait(10)
        for call in calls:
            done.append(call.work)
            call.done.set_result(None)

    batcher = Batcher(handle, most=10, batch=1)
    with ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(batcher.do, i) for i in range(4)]
        assert begun.wait(10)
        while len(batcher._calls) < 3:
            pass
        ending = pool.submit(batcher.close)
        go.set()
        ending.result()
        for call in calls:
            call.result()
    assert sorted(done) == [0, 1, 2, 3]
