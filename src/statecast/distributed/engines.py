"""``engine_of``: where the tasks of a job run: processes of this machine, Ray or Spark.

A task whose worker died is run again, at most ``RETRIES`` times.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import re
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import Any

from statecast.checks import check_choice, check_whole
from statecast.errors import ArgumentError, WorkerError, quoted
from statecast.process import check_extra

RETRIES = 3
_ANSWERS = 10.0  # seconds for a cluster to take a connection
ENGINES = ("processes", "ray", "spark")
Task = Any
Work = Callable[[Task], Any]
# Yields what a function returns for each task, in any order. The function raises no exception.
Run = Callable[[Work, Sequence[Task]], Iterator[Any]]


def engine_of(name: str, workers: int | None, address: str | None) -> AbstractContextManager[Run]:
    """The engine of a name; entered, it is a function that runs tasks.

    Parameters
    ----------
    name : {"processes", "ray", "spark"}
    workers : int, optional
        The number of processes; by default one for each CPU of this process. On Ray and Spark it
        is the number of tasks at once; by default what the cluster has.
    address : str, optional
        That of a cluster of Ray, or the master of Spark.

    Raises
    ------
    ArgumentError
        Another name; an address of processes.
    MissingExtraError
        Ray or Spark is not installed.
    """
    check_choice("engine", name, ENGINES)
    if workers is not None:
        check_whole("workers", workers)
    if name == "ray":
        check_extra("ray", ("ray",), "engine='ray'")
        return _ray(workers, address)
    if name == "spark":
        check_extra("spark", ("pyspark",), "engine='spark'")
        return _spark(workers, address)
    if address is not None:
        raise ArgumentError(
            f"address: expected none with engine='processes'; received {address!r}. Choose "
            "engine='ray' or engine='spark'."
        )
    return nullcontext(partial(_in_processes, workers or _cpus()))


def _died(*, began: bool = True) -> WorkerError:
    if not began:
        return WorkerError(
            "New processes ended before any part was computed. A script that starts processes "
            'needs `if __name__ == "__main__":` around its calls, as with `multiprocessing`. If it '
            "has it, choose fewer workers or fewer rows= of a part, for their memory."
        )
    return WorkerError(
        f"A worker died {RETRIES + 1} times while it computed the same part. Has it too little "
        "memory? Choose fewer workers or fewer rows= of a part, and run the job again: parts that "
        "are there are kept."
    )


# -- processes -------------------------------------------------------------------------------------


def _cpus() -> int:
    """The CPUs of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_processes(most: int, work: Work, tasks: Sequence[Task]) -> Iterator[Any]:
    """Run tasks in at most so many new processes of this machine.

    If one dies, Python ends them all, and does not say which task was at fault. So new ones are
    started, and each task that was handed out has died once.
    """
    left, died = list(range(len(tasks))), dict.fromkeys(range(len(tasks)), 0)
    count = len(left)
    while left:
        workers = min(most, len(left))
        # Not forked: the threads of a backend would be missing.
        context = multiprocessing.get_context("spawn")
        threads = max(1, _cpus() // workers)
        with ProcessPoolExecutor(workers, context, _begin, (threads,)) as pool:
            handed = dict[Future[Any], int]()
            waiting = iter(list(left))
            try:
                while True:
                    for number in islice(waiting, 2 * workers - len(handed)):
                        handed[pool.submit(work, tasks[number])] = number
                    if not handed:
                        break
                    for future in wait(handed, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        left.remove(handed.pop(future))
                        yield result
            except BrokenProcessPool:
                for number in handed.values():
                    died[number] += 1
                    if died[number] > RETRIES:
                        raise _died(began=len(left) < count) from None
            finally:
                pool.shutdown(cancel_futures=True)


def _begin(threads: int) -> None:
    """Let a process compute on its share of the CPUs, and end with the one that started it."""
    os.environ["STATECAST_THREADS"] = str(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # a parent that was killed ends no process

    threading.Thread(target=follow, daemon=True).start()


# -- Ray -------------------------------------------------------------------------------------------


@contextmanager
def _ray(workers: int | None, address: str | None) -> Iterator[Run]:
    import ray
    from ray.exceptions import OutOfMemoryError, WorkerCrashedError

    def run(work: Work, tasks: Sequence[Task]) -> Iterator[Any]:
        remote = ray.remote(max_retries=RETRIES)(_call)
        shared = ray.put(work)  # once on each node
        most = workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting, handed = iter(tasks), list[Any]()
        try:
            while True:
                more = islice(waiting, most - len(handed))
                handed += [remote.remote(shared, task) for task in more]
                if not handed:
                    return
                done, handed = ray.wait(handed)
                yield from ray.get(done)
        except (WorkerCrashedError, OutOfMemoryError) as error:
            raise _died() from error
        finally:
            for each in handed:
                ray.cancel(each, force=True)

    with ray_started(workers, address):
        yield run


def _call(work: Work, task: Task) -> Any:
    return work(task)


@contextmanager
def ray_started(workers: int | None, address: str | None) -> Iterator[None]:
    """The connection to Ray of this process, one to ``address``, or to that of the environment
    variable RAY_ADDRESS, or a new local Ray.

    What this function starts it also stops. A new Ray listens on 127.0.0.1 alone, has no dashboard,
    and asks for its token, as it does by default (``RAY_AUTH_MODE=token``).

    Raises
    ------
    ArgumentError
        An address beside a connection; an address where no Ray is.
    """
    import ray
    from ray._private import ray_constants

    if ray.is_initialized():
        if address is not None:
            raise ArgumentError(
                "address: expected none, as this process is connected to Ray already; received "
                f"{address!r}. Leave it out, or call ray.shutdown() first."
            )
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None and not os.environ.get("RAY_ADDRESS"):
        options |= {"address": "local", "num_cpus": workers, "include_dashboard": False}
        # Ray listens on the loopback interface only if it is told that there are no clusters, as on
        # macOS and Windows: its processes by the variable, this one by what it read on import.
        os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
        ray_constants.ENABLE_RAY_CLUSTER = False
    else:
        _check_reachable(address or os.environ["RAY_ADDRESS"])
        options["address"] = address
    try:
        ray.init(**options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ArgumentError(f"address: Ray cannot be reached or started: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise ``ArgumentError`` if nothing answers at the address of a cluster. The engines
    themselves wait for a minute or more, and do not say so clearly."""
    found = re.fullmatch(r"(?:(?:ray|spark)://)?\[?([^,/]+?)\]?:(\d{1,5})", address)
    if found is None:  # "auto", "local[2]", "k8s://https://..." and the like
        return
    try:
        socket.create_connection((found[1], int(found[2])), _ANSWERS).close()
    except (OSError, OverflowError) as error:
        raise ArgumentError(
            "address: expected that of the head of a Ray cluster, such as '10.0.0.1:6379', or of "
            f"the master of Spark; nothing answers at {quoted(address, 200)} ({error})."
        ) from error


# -- Spark -----------------------------------------------------------------------------------------


@contextmanager
def _spark(workers: int | None, address: str | None) -> Iterator[Run]:
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    with _spark_started(workers, address) as session:

        def run(work: Work, tasks: Sequence[Task]) -> Iterator[Any]:
            packed = pickle.dumps(work)

            def work_on(batches: Iterator[Any]) -> Iterator[Any]:
                import pyarrow as pa

                own = pickle.loads(packed)
                for batch in batches:
                    for cell in batch.column(0):
                        found = pickle.dumps(own(pickle.loads(cell.as_py())))
                        yield pa.record_batch({"result": pa.array([found], pa.binary())})

            if not tasks:
                return
            rows = [(pickle.dumps(task),) for task in tasks]
            frame = session.createDataFrame(rows, "task binary").repartition(len(rows))
            try:
                found = frame.mapInArrow(work_on, "result binary").collect()
            except (PySparkException, Py4JError) as error:
                # Its text says that a task failed, and not that its worker died.
                raise _died() from error
            for row in found:
                yield pickle.loads(row.result)

        yield run


@contextmanager
def _spark_started(workers: int | None, address: str | None) -> Iterator[Any]:
    """The session of Spark of this process, or a new one: at ``address``, or on this machine.

    What this function starts it also stops. A new one on this machine listens on 127.0.0.1 alone,
    has no page, and runs a task again whose worker died.

    Raises
    ------
    ArgumentError
        An address beside a session.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        if address is not None:
            raise ArgumentError(
                "address: expected none, as this process has a session of Spark already; received "
                f"{address!r}. Leave it out, or stop the session first."
            )
        yield active
        return
    builder = SparkSession.builder.appName("statecast")
    if address is None:
        builder = builder.master(f"local[{workers or '*'},{RETRIES + 1}]")
        for name, value in (
            ("spark.ui.enabled", "false"),
            ("spark.ui.showConsoleProgress", "false"),
            ("spark.driver.host", "127.0.0.1"),
            ("spark.driver.bindAddress", "127.0.0.1"),
        ):
            builder = builder.config(name, value)
    else:
        _check_reachable(address)
        builder = builder.master(address)
    given = os.environ.get("PYSPARK_PYTHON")
    os.environ["PYSPARK_PYTHON"] = given or sys.executable  # Spark runs the `python3` of the path
    try:
        session = builder.getOrCreate()
    except (PySparkException, Py4JError) as error:
        lines = str(error).strip().splitlines()  # py4j's first line only says where
        named = next((line[2:] for line in lines if line.startswith(": ")), lines[0])
        why = named[:500].rstrip(".")
        java = shutil.which("java") or os.environ.get("JAVA_HOME")
        where = ""
        if address is not None:
            where = (
                f" at address={quoted(address, 200)} (expected a master, such as "
                "spark://HOST:PORT, k8s://URL, yarn or local[N])"
            )
        advice = "" if java else " It needs Java 17 (Debian: apt-get install default-jre-headless)."
        raise ArgumentError(
            f"engine='spark': Spark cannot be started{where}: {why}.{advice}"
        ) from error
    finally:
        if given is None:
            del os.environ["PYSPARK_PYTHON"]
    try:
        yield session
    finally:
        session.stop()
