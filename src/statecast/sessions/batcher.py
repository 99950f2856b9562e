"""``Batcher``: the calls of many threads, done together by one thread.

The thread takes all calls that wait, and hands them over as one list. While it works, further calls
gather. So a batch is small when there is little to do and large under load. A call that comes alone
is not delayed. If the last list had several calls, their callers are likely to come again at once:
then the thread takes the next list when no call has come for half a millisecond.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from statecast.errors import OverloadError, StoreError

_PAUSE, _LONGEST = 0.0005, 0.005  # seconds without a further call, and in all


@dataclass(eq=False)
class Call:
    """A call that waits.

    Attributes
    ----------
    work : object
        What is to be done.
    size : int
        How many rows it has.
    done : Future
        Its result, or its error.
    """

    work: Any
    size: int
    done: Future[Any] = field(default_factory=Future)


class Batcher:
    """Collects calls, and does them in one thread in the order in which they came.

    Parameters
    ----------
    handle : callable
        Takes a list of calls and sets the result or the error of each. If it raises, the error is
        that of all its calls that have no result.
    most : int
        The rows that may wait. A call that finds more rows waiting is refused; a call alone may be
        larger.
    batch : int
        A list ends with the call that reaches so many rows.
    """

    def __init__(self, handle: Callable[[list[Call]], None], most: int, batch: int) -> None:
        self._handle, self._most, self._batch = handle, most, batch
        self._calls: deque[Call] = deque()
        self._waiting, self._several, self._ended = 0, False, False
        self._ready = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="statecast-sessions", daemon=True)
        self._thread.start()

    def do(self, work: Any, size: int = 1) -> Any:
        """Return the result of a call, when it is done.

        Raises
        ------
        OverloadError, StoreError
            As ``submit``.
        Exception
            The error of the call.
        """
        return self.submit(work, size).result()

    def submit(self, work: Any, size: int = 1) -> Future[Any]:
        """Let a call wait for its turn; return what will have its result, or its error. It can be
        cancelled as long as it waits.

        Raises
        ------
        OverloadError
            Too many rows wait. Nothing of the call is done.
        StoreError
            The batcher has ended.
        """
        call = Call(work, size)
        with self._ready:
            if self._ended:
                raise StoreError("The sessions are closed. Open them again.")
            if self._calls and self._waiting + size > self._most:
                raise OverloadError(
                    f"Expected at most {self._most:,} waiting rows; {self._waiting:,} wait, and "
                    f"this call has {size:,}. Nothing of it was done. Repeat it later."
                )
            self._calls.append(call)
            self._waiting += size
            self._ready.notify()
        return call.done

    @property
    def waiting(self) -> int:
        """The rows that wait."""
        return self._waiting

    def close(self) -> None:
        """Do what waits, and end. Later calls are refused."""
        with self._ready:
            self._ended = True
            self._ready.notify()
        self._thread.join()

    def _run(self) -> None:
        while calls := self._next():
            # From now on a call cannot be cancelled: it may be on the disk.
            calls = [call for call in calls if call.done.set_running_or_notify_cancel()]
            try:
                self._handle(calls)
            except BaseException as error:  # the thread must go on: others wait for it
                for call in calls:
                    if not call.done.done():
                        call.done.set_exception(error)

    def _next(self) -> list[Call]:
        """The calls that wait, at least one; an empty list at the end."""
        with self._ready:
            while not self._calls and not self._ended:
                self._ready.wait()
            end = time.monotonic() + _LONGEST
            while self._several and time.monotonic() < end and self._ready.wait(_PAUSE):
                pass
            calls, rows = [], 0
            while self._calls and rows < self._batch:
                calls.append(self._calls.popleft())
                rows += calls[-1].size
            self._waiting -= rows
            self._several = len(calls) > 1
            return calls
