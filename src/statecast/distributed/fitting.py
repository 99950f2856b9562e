"""Fit on Ray: the members of an ensemble are trained apart, by several processes.

A member is trained in a network of its own, by a program for one member, whichever process does it.
So the result does not depend on the number of processes, on the order in which they work, or on
how often one of them had to start again.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from statecast import process
from statecast.checks import check_choice, check_whole, is_number
from statecast.distributed.engines import ray_started
from statecast.errors import ArgumentError, WorkerError
from statecast.forecast.base import StateModel, Trained
from statecast.interrupt import Interrupt
from statecast.progress import Verbose, check_verbose, say
from statecast.tables.panel import Panel
from statecast.tables.schema import Schema

if TYPE_CHECKING:
    from statecast.networks.batches import Batches
    from statecast.networks.network import Network
    from statecast.networks.training import KeepBest

_DEATHS = 3  # of workers that trained one member, after which the fit ends
_POLL = 0.2  # seconds between two looks at Ctrl-C
_PATIENT = 30.0  # seconds without a worker, after which a line says what is waited for

Model = TypeVar("Model", bound=StateModel)


def fit(
    forecaster: Model,
    series: Any,
    static: Any = None,
    *,
    future: Any = None,
    engine: Literal["ray"] = "ray",
    workers: int | None = None,
    address: str | None = None,
    gpus: float = 0.0,
    verbose: Verbose = "auto",
) -> Model:
    """Fit a forecaster on a Ray cluster: each worker trains some members of the ensemble.

    Everything but the training of the members runs in this process, as in ``forecaster.fit``: the
    reading of the tables, analogues and calibration. The model does not depend on the number of
    workers: its file is the same to the bit on processors of one kind. That of ``forecaster.fit``
    differs by rounding, because it trains all members in one program.

    Parameters
    ----------
    forecaster : Forecaster or TokenForecaster
    series, static, future : table, path or array
        As in ``forecaster.fit``. They are read in this process.
    engine : {"ray"}
    workers : int, optional
        The most workers at once. Each is a process with one CPU and one thread. By default as many
        as the cluster has CPUs, or GPUs with ``gpus``, and at most one for each member.
    address : str, optional
        The address of a Ray cluster, as in ``ray.init``. Without it, the cluster that this process
        is connected to, else that of the environment variable RAY_ADDRESS, else one that is started
        on this machine for the fit, which only this machine can reach.
    gpus : float
        The GPUs of a worker; a share below 1 lets several workers use one GPU. With 0, members are
        trained on CPUs.
    verbose : "auto", 0, 1 or 2
        0 shows nothing; with the others a line follows each training of a member.

    Returns
    -------
    The forecaster itself. If the fit fails, it is unchanged.

    A worker that ends, because its machine or its memory failed, is replaced; the members that it
    had not finished are trained from their start, with the same result. Ctrl-C ends the workers and
    raises ``KeyboardInterrupt``.

    Raises
    ------
    ArgumentError
        ``engine``, ``workers``, ``address``, ``gpus`` or ``verbose`` other than the above; a
        cluster that cannot be reached, or whose machines have other versions of Statecast, Keras
        or the backend.
    WorkerError
        Three workers that trained a member have ended.
    MissingExtraError
        Ray is not installed: ``pip install 'statecast[ray]'``.
    Exception
        As ``forecaster.fit``. An error in a worker is raised here with its own class.

    Examples
    --------
    >>> from statecast import Forecaster, distributed
    >>> from statecast.data import growth
    >>> series, static, _ = growth()
    >>> f = distributed.fit(  # doctest: +SKIP
    ...     Forecaster(), series, static, workers=8, address="auto"
    ... )
    """
    process.check_backend()
    _check_engine(engine)
    if not isinstance(forecaster, StateModel):
        raise ArgumentError(
            "forecaster: expected a Forecaster or a TokenForecaster, received "
            f"{type(forecaster).__name__}."
        )
    workers = None if workers is None else check_whole("workers", workers)
    if not is_number(gpus, 0.0, 64.0):
        raise ArgumentError(f"gpus: expected a number from 0 to 64, received {gpus!r:.80}.")
    check_verbose(verbose)
    process.check_extra("ray", ["ray"], "A fit on Ray")
    with ray_started(workers, address):
        train = partial(train_apart, forecaster, partial(Team, gpus=gpus), workers, verbose)
        return forecaster._fit(series, static, future, train, verbose)


def _check_engine(engine: Any) -> None:
    if engine == "spark":
        raise ArgumentError(
            "engine: expected 'ray', received 'spark'. Members that are trained in several steps "
            "need processes that keep their state, which tasks of Spark do not. Start Ray on the "
            "machines of the Spark cluster (ray.util.spark), or fit on one machine."
        )
    check_choice("engine", engine, ["ray"])


# -- what a worker does --------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What the training of a member depends on.

    Attributes
    ----------
    kind : type
        The class of the forecaster; ``given`` are the arguments of its constructor.
    schema, panel
        Of the training tables.
    held : array of bool, ``(members, rows)``
        The rows that each member holds out.
    weights : mapping of str to array, ``(members, ...)``
        The initial weights of all members.
    policy : str
        The dtype policy of Keras.
    """

    kind: type[StateModel]
    given: Mapping[str, Any]
    schema: Schema
    panel: Panel
    held: np.ndarray
    weights: Mapping[str, np.ndarray]
    policy: str


@dataclass(frozen=True)
class Report:
    """A member after some epochs.

    Attributes
    ----------
    epochs : int
        The epochs that have ended.
    last : int
        The last epoch, from 1, in which the member improved.
    weights : mapping of str to array, ``(1, ...)``
        Of its best epoch.
    history : mapping of str to array, ``(epochs, 1)``
    """

    epochs: int
    last: int
    weights: Mapping[str, np.ndarray]
    history: Mapping[str, np.ndarray]


class Worker:
    """Trains members of an ensemble, one at a time.

    A member is trained up to an epoch, and later up to another one, because the ensemble's last
    epoch depends on all members. A member that waits is a thread that waits within its training.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._begun: dict[int, _Training] = {}
        self._free: list[_Program] = []

    def proceed(self, member: int, goal: int) -> Report:
        """Train a member up to the epoch ``goal`` at least. It trains on while it improves."""
        if member not in self._begun:
            self._begun[member] = _Training(self.job, member, self._free)
        return self._begun[member].proceed(goal)


@dataclass(frozen=True)
class _Program:
    """A compiled network of one member, and the values that its variables begin with."""

    network: Network
    values: list[tuple[Any, np.ndarray]]

    def begin(self, weights: Mapping[str, np.ndarray], own: slice) -> Network:
        for variable, value in self.values:
            variable.assign(value)
        self.network.begin(weights, own)
        return self.network


class _Training:
    """The training of one member, in a thread that runs only while ``proceed`` waits for it.

    ``free`` are the programs that no training uses. A program is compiled once, for one member
    after the other.
    """

    def __init__(self, job: Job, member: int, free: list[_Program]) -> None:
        self.job, self.free = job, free
        self.own = slice(member, member + 1)
        self.goal = 0
        self.goals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.reports: queue.SimpleQueue[Report | BaseException] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def proceed(self, goal: int) -> Report:
        self.goals.put(goal)
        found = self.reports.get()
        if isinstance(found, BaseException):
            raise found
        if found.epochs == self.epochs:
            self.thread.join()  # so that its program is free
        return found

    def _run(self) -> None:
        try:
            self.goal = self.goals.get()
            self._train()
        except BaseException as error:  # raised again by `proceed`
            self.reports.put(error)

    def _train(self) -> None:
        import keras

        from statecast.networks.training import train

        job, model = self.job, self.job.kind(**self.job.given)
        keras.config.set_dtype_policy(job.policy)  # each thread has its own
        weights = {name: weight[self.own] for name, weight in job.weights.items()}
        decoder, _ = model._plan(job.schema)
        batches = model._batches(decoder, job.panel, job.held, self.own)
        program = self.free.pop() if self.free else self._compiled(model, batches[0], weights)
        self.epochs, self.patience = model.settings.epochs, model.settings.patience
        train(
            program.begin(weights, self.own),
            *batches,
            epochs=self.epochs,
            ends=self._ends,
            interrupt=Interrupt(),
            verbose=0,
        )
        self.free.append(program)

    def _compiled(
        self, model: StateModel, training: Batches, weights: Mapping[str, np.ndarray]
    ) -> _Program:
        from statecast.networks.training import all_values, prepare

        s = model.settings
        network = model._build(self.job.schema, s.seed, weights, self.own)
        prepare(network, s.epochs * len(training), s.learning_rate, s.weight_decay)
        return _Program(network, all_values(network))

    def _ends(self, keep: KeepBest) -> bool:
        """After an epoch: report at the goal, and wait for the next goal."""
        self.goal = min(self.epochs, max(self.goal, keep.last + self.patience))
        if keep.epochs >= self.goal:
            self.reports.put(Report(keep.epochs, keep.last, keep.weight_arrays(), keep.histories()))
            if keep.epochs < self.epochs:
                self.goal = self.goals.get()
        return False


# -- which worker trains which member --------------------------------------------------------


class Schedule:
    """Which member is trained next, and up to which epoch.

    The training of an ensemble ends after ``patience`` epochs in which no member has improved. So
    the last improvement that is known of says up to which epoch all members are trained at least.

    Parameters
    ----------
    members, epochs, patience : int
        Settings of the forecaster.
    """

    def __init__(self, members: int, epochs: int, patience: int) -> None:
        self.members, self.epochs, self.patience = members, epochs, patience
        self.reports: dict[int, Report] = {}
        self._holder: dict[int, Any] = {}  # the worker in which a member waits or is trained
        self._busy: dict[Any, int] = {}  # the member that a worker trains

    @property
    def goal(self) -> int:
        """The epochs that all members are trained for, as far as is known."""
        last = max((report.last for report in self.reports.values()), default=1)
        return min(self.epochs, last + self.patience)

    @property
    def left(self) -> list[int]:
        """The members that have not reached the goal."""
        ended = {member: report.epochs for member, report in self.reports.items()}
        return [member for member in range(self.members) if ended.get(member, 0) < self.goal]

    def take(self, worker: Any) -> int | None:
        """The member that a worker trains next: one that waits in it, or one that waits nowhere;
        None if there is none."""
        own = [member for member in self.left if self._holder.get(member) == worker]
        free = [member for member in self.left if member not in self._holder]
        for member in (own + free)[:1]:
            self._holder[member], self._busy[worker] = worker, member
            return member
        return None

    def put(self, worker: Any, report: Report) -> int:
        """Note the report of a worker; return the member that it is of."""
        member = self._busy.pop(worker)
        self.reports[member] = report
        return member

    def lost(self, worker: Any) -> int | None:
        """Note that a worker has ended; return the member that it trained."""
        self._holder = {m: holder for m, holder in self._holder.items() if holder != worker}
        return self._busy.pop(worker, None)


def train_apart(
    forecaster: StateModel,
    team_of: Callable[[Job], Any],
    workers: int | None,
    verbose: Verbose,
    schema: Schema,
    panel: Panel,
    held: np.ndarray,
    interrupt: Interrupt,
) -> Trained:
    """Train each member by itself, as ``StateModel._fit`` asks for it.

    ``team_of`` makes a ``Team``, or what has its methods.
    """
    import keras

    s = forecaster.settings
    weights = forecaster._build(schema, s.seed).weight_arrays()
    policy = keras.config.dtype_policy().name
    job = Job(type(forecaster), forecaster._given, schema, panel, held, weights, policy)
    schedule, deaths = Schedule(s.ensemble, s.epochs, s.patience), Counter[int | None]()
    team = team_of(job)
    try:
        for _ in range(min(s.ensemble, workers or team.capacity())):
            team.add()
        while schedule.left:
            interrupt.check()
            for worker in team.idle():
                member = schedule.take(worker)
                if member is not None:
                    team.give(worker, member, schedule.goal)
            for worker, found in team.ended(verbose):
                if isinstance(found, Report):
                    member = schedule.put(worker, found)
                    if verbose != 0:
                        say(f"Trained member {member + 1} for {found.epochs} epochs.")
                    continue
                member = schedule.lost(worker)
                deaths[member] += 1
                if deaths[member] == _DEATHS:
                    raise WorkerError(_ended_text(member, found)) from found
                team.add()
    finally:
        team.end()
    reports = [schedule.reports[member] for member in range(s.ensemble)]
    return Trained(
        {name: np.concatenate([each.weights[name] for each in reports]) for name in weights},
        {
            name: np.concatenate([each.history[name] for each in reports], axis=1)
            for name in reports[0].history
        },
    )


def _ended_text(member: int | None, error: BaseException) -> str:
    why = str(error).strip()[:1000]
    if member is None:
        return (
            f"Expected workers that can start; {_DEATHS} of them have ended before. The last one: "
            f"{why}\nInstall Statecast and the backend on all machines of the cluster."
        )
    return (
        f"Expected workers that train member {member + 1} to its end; {_DEATHS} of them have ended "
        f"before. The last one: {why}\nIf their machines have too little memory, ask for fewer "
        "workers, or fit with a smaller batch_size or fewer units."
    )


# -- Ray -----------------------------------------------------------------------------------


class Team:
    """The workers of a fit, each an actor of Ray.

    A worker that was added is idle once its process has started.
    """

    def __init__(self, job: Job, gpus: float) -> None:
        import keras
        import ray

        # In the shared memory of each machine once, which its workers read without a copy.
        self.ray, self.job, self.gpus = ray, ray.put(job), gpus
        backend = keras.backend.backend()
        threads = ("NPROC", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
        environment = {"KERAS_BACKEND": backend, **dict.fromkeys(threads, "1")}
        if not gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        elif gpus < 1:  # several processes on one GPU: none of them takes all of its memory
            environment |= {
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
                "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            }
        self.versions = _versions()

        class Actor(Worker):
            def versions(self) -> dict[str, str]:
                return _versions()

        remote: Any = ray.remote(Actor)
        self.actor = remote.options(
            num_cpus=1,
            num_gpus=gpus,
            max_restarts=0,
            runtime_env={"env_vars": environment},
        )
        self.doing: dict[Any, Any] = {}  # the actor of each result that is waited for
        self.ready: set[Any] = set()
        self.waited = 0.0

    def capacity(self) -> int:
        """How many workers the cluster has room for, at least 1."""
        has = self.ray.cluster_resources()
        room = has.get("GPU", 0.0) / self.gpus if self.gpus else has.get("CPU", 0.0)
        return max(1, int(room))

    def add(self) -> None:
        worker = self.actor.remote(self.job)
        self.doing[worker.versions.remote()] = worker

    def idle(self) -> list[Any]:
        return [worker for worker in self.ready if worker not in self.doing.values()]

    def give(self, worker: Any, member: int, goal: int) -> None:
        self.doing[worker.proceed.remote(member, goal)] = worker

    def ended(self, verbose: Verbose) -> Iterator[tuple[Any, Report | BaseException]]:
        """The workers that have a report, or that have ended with an error of Ray. An error of the
        training is raised."""
        errors = self.ray.exceptions
        done, _ = self.ray.wait(list(self.doing), timeout=_POLL)
        if not self.ready:
            self.waited += _POLL
            if verbose != 0 and self.waited >= _PATIENT:
                self.waited = 0.0
                say(f"Ray has not started a worker yet: each needs 1 CPU and {self.gpus:g} GPUs.")
        for result in done:
            worker = self.doing.pop(result)
            try:
                found = self.ray.get(result)
            except errors.RayTaskError as error:
                cause = error.cause
                raise cause from None
            except (errors.RayActorError, errors.OutOfMemoryError, errors.ObjectLostError) as error:
                self.ready.discard(worker)
                yield worker, error
                continue
            if isinstance(found, Report):
                yield worker, found
            else:
                self._check(found)
                self.ready.add(worker)

    def _check(self, found: dict[str, str]) -> None:
        for name, own in self.versions.items():
            if found[name] != own:
                raise ArgumentError(
                    f"address: expected a cluster with {name} {own}, as here; a worker has "
                    f"{found[name]}. Install the same version on all machines."
                )

    def end(self) -> None:
        for worker in {*self.ready, *self.doing.values()}:
            self.ray.kill(worker)


def _versions() -> dict[str, str]:
    """The versions of what a member's weights depend on."""
    import keras

    backend = keras.backend.backend()  # which Keras has imported
    found = {"statecast": version("statecast"), "keras": keras.__version__}
    return found | {backend: sys.modules[backend].__version__}
