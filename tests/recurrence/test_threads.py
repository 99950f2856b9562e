"""Threads: how many a call uses, and that a thread without a CPU holds no call up."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statecast import cells
from statecast.errors import ArgumentError
from statecast.recurrence.kernels.native import calls, library, threads

LIBRARY = library.find()
pytestmark = pytest.mark.skipif(isinstance(LIBRARY, str), reason="the library is not built")
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux says who may use which CPU")


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("STATECAST_THREADS", "OMP_NUM_THREADS", "NPROC", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    library.use()
    yield
    monkeypatch.undo()
    library.use()


def _free() -> int:
    """CPUs of this thread, or fewer by a quota of the machine's own."""
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(cpus, LIBRARY.statecast_quota(b"") or cpus)


# -- how many --------------------------------------------------------------------------------------


@given(told=st.integers(-1, 5), omp=st.integers(0, 5))
def test_it_is_the_least_that_anyone_says(told: int, omp: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if omp:
            patch.setenv("OMP_NUM_THREADS", str(omp))
        library.use()
        said = [count for count in (told, omp, _free()) if count > 0]
        assert LIBRARY.statecast_threads(told) == min(said)


def test_what_is_set_for_statecast_goes_before_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("STATECAST_THREADS", "5")
    library.use()
    assert LIBRARY.statecast_threads(1) == 5
    library.use(threads=3)
    assert LIBRARY.statecast_threads(1) == 3
    library.use()
    assert LIBRARY.statecast_threads(1) == 5


@pytest.mark.parametrize(("text", "count"), [("1,4", 1), (" 1", 1), ("none", 0), ("-2", 0)])
def test_a_list_of_openmp_means_its_first(
    monkeypatch: pytest.MonkeyPatch, text: str, count: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    library.use()
    assert LIBRARY.statecast_threads(0) == (count or _free())


@linux
def test_cpus_are_counted_at_each_call() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert LIBRARY.statecast_threads(0) == 1
    finally:
        os.sched_setaffinity(0, before)
    assert LIBRARY.statecast_threads(0) == _free()


@pytest.mark.parametrize("value", ["0", "-1", "two", "", "1.5", "1025"])
def test_a_number_of_threads_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("STATECAST_THREADS", value)
    with pytest.raises(ArgumentError, match="STATECAST_THREADS: expected a whole number from 1"):
        threads.check_environment()


@pytest.mark.parametrize("count", [-1, 1025, 2.0, True, "2", None])
def test_use_refuses_a_number_that_is_none(count: Any) -> None:
    used = library.status()
    with pytest.raises(ArgumentError, match="threads: expected a whole number from 0"):
        library.use("portable", count)
    assert library.status() == used


# -- quotas of control groups ----------------------------------------------------------------------


def _machine(root: Path, groups: str, mounts: str, files: dict[str, str]) -> int:
    """What the library makes of a machine whose files these are."""
    all_files = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}
    for name, text in all_files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return LIBRARY.statecast_quota(str(root).encode())


V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"


@linux
@given(cpus=st.floats(0.01, 40), period=st.sampled_from([1000, 50_000, 100_000, 1_000_000]))
def test_a_quota_is_rounded_and_at_least_one(
    tmp_path_factory: pytest.TempPathFactory, cpus: float, period: int
) -> None:
    quota = max(round(cpus * period), 1)
    expected = max(int(quota / period + 0.5), 1)
    second = {"sys/fs/cgroup/job/cpu.max": f"{quota} {period}\n"}
    assert _machine(tmp_path_factory.mktemp("v2"), "0::/job\n", V2, second) == expected
    first = {
        "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": f"{quota}\n",
        "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": f"{period}\n",
    }
    assert _machine(tmp_path_factory.mktemp("v1"), "4:cpu,cpuacct:/job\n", V1, first) == expected


@linux
@pytest.mark.parametrize(
    ("groups", "mounts", "files", "expected"),
    [
        pytest.param("0::/\n", V2, {}, 0, id="no limit at the root"),
        pytest.param("0::/a\n", V2, {"sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 0, id="max"),
        pytest.param("0::/a\n", V2, {"sys/fs/cgroup/a/cpu.max": "what is this\n"}, 0, id="unknown"),
        pytest.param(
            "0::/a/b/c\n",
            V2,
            {
                "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/b/c/cpu.max": "800000 100000\n",
            },
            2,
            id="a group around it",
        ),
        pytest.param(
            "0::/\n", V2, {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3, id="a container"
        ),
        pytest.param(
            "0::/../other\n", V2, {"sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3, id="outside it"
        ),
        pytest.param(
            "4:cpu,cpuacct:/docker/12ab\n",
            V1.replace(" / /sys", " /docker/12ab /sys"),
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2,
            id="a container, version 1",
        ),
        pytest.param(
            "4:cpu,cpuacct:/a\n0::/a\n",
            V1 + V2.replace("cgroup rw", "cgroup/unified rw"),
            {
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/unified/a/cpu.max": "400000 100000\n",
            },
            4,
            id="both versions",
        ),
        pytest.param("4:cpuset:/a\n", V1, {}, 0, id="another controller"),
        pytest.param("", "", {}, 0, id="empty files"),
        pytest.param("no colons\n:\n0::\n", "1 2\n - - -\n", {}, 0, id="damaged files"),
    ],
)
def test_quotas_are_found(
    tmp_path: Path, groups: str, mounts: str, files: dict[str, str], expected: int
) -> None:
    assert _machine(tmp_path, groups, mounts, files) == expected


@linux
def test_a_machine_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert LIBRARY.statecast_quota(str(tmp_path / "nothing").encode()) == 0


# -- what host libraries say -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "count"),
    [
        ("NPROC", "3", 3),
        ("NPROC", "many", 0),
        ("XLA_FLAGS", "--xla_dump_to=x --xla_cpu_multi_thread_eigen=false", 1),
        ("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true", 0),
        ("OTHER", "1", 0),
    ],
)
def test_the_number_of_jax(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, count: int
) -> None:
    monkeypatch.setenv(name, value)
    assert threads.of_jax() == count


def test_the_least_number_of_the_host_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "of_torch", lambda: 0)
    assert (threads.of_host(0), threads.of_host(4)) == (0, 4)
    monkeypatch.setattr(threads, "of_torch", lambda: 2)
    assert (threads.of_host(0), threads.of_host(1), threads.of_host(4)) == (2, 1, 2)


COUNT = """
import os, sys
library, told = sys.argv[1:]
os.environ["KERAS_BACKEND"] = library if library != "numpy" else "torch"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
from pathlib import Path
from statecast.recurrence import run as recurrence
from statecast.recurrence.cells import LSTM
from statecast.recurrence.kernels.native.arrays import Recurrence
cell = LSTM(8)
rng = np.random.default_rng(0)
draw = lambda shape: rng.standard_normal(shape).astype("float32")
weights = {n: draw(s) for n, s in cell.weight_shapes(2).items()}
x, state = draw((500, 6, 2)), {"h": draw((500, 8)), "c": draw((500, 8))}
if library in ("torch", "numpy"):
    import torch
    if told != "-":
        torch.set_num_threads(int(told))
if library == "numpy":
    Recurrence(cell, weights).run(x, state)
elif library == "tensorflow":
    import tensorflow
    if told != "-":
        tensorflow.config.threading.set_intra_op_parallelism_threads(int(told))
    Recurrence(cell, weights).run(x, state)
elif library == "torch":
    tensor = lambda values: {n: torch.tensor(v) for n, v in values.items()}
    recurrence.run(cell, tensor(weights), torch.tensor(x), tensor(state), kernel="native")
else:
    recurrence.run(cell, weights, x, state, kernel="native")
names = [(each / "comm").read_text().strip() for each in Path("/proc/self/task").iterdir()]
print(names.count("statecast"), len(names))
"""


def _counted(library: str, told: str = "-", **settings: str) -> tuple[int, int]:
    """The native library's own threads and all of a process in which one call has run."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, library, told],
        env={**os.environ, "OMP_WAIT_POLICY": "passive", **settings},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    own, found = done.stdout.split()
    return int(own), int(found)


@linux
@pytest.mark.backends
@pytest.mark.slow
def test_the_number_set_is_obeyed() -> None:
    import keras

    library = keras.backend.backend()
    assert _counted(library, STATECAST_THREADS="3")[0] == 2
    assert _counted(library, OMP_NUM_THREADS="1")[0] == 0
    if library == "jax":
        assert _counted("jax", NPROC="1")[0] == 0
        return
    assert _counted(library, "1")[0] == 0
    if _free() > 1:
        assert _counted(library, "2")[0] == 1
    if library == "torch":
        assert _counted("numpy", "1")[0] == 0
        own, found = _counted("torch", "1", OMP_WAIT_POLICY="active")
        assert own == 0
        # Nor are threads of OpenMP's there that PyTorch was told not to use.
        assert found == _counted("torch", "1")[1]


# -- whose -----------------------------------------------------------------------------------------

_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_OPENMP = ctypes.CFUNCTYPE(None, _BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)


class _Team:
    """A stand-in for OpenMP, whose threads end with the region or do not come at all."""

    def __init__(self, comes: bool) -> None:
        self.comes, self.regions = comes, 0
        self.function = _OPENMP(self._region)

    def _region(self, body: Any, data: Any, count: int, flags: int) -> None:
        self.regions += 1
        ids: list[int] = []

        def work() -> None:
            ids.append(threading.get_native_id())
            body(data)

        others = [threading.Thread(target=work) for _ in range((count - 1) * self.comes)]
        for other in others:
            other.start()
        body(data)
        for other in others:
            other.join()
        # Python's join returns before the system has ended the thread. Until then the thread may
        # be on a CPU, and a call that finds it there would rightly ask the team again.
        end = time.monotonic() + 60
        while any(Path(f"/proc/self/task/{number}").exists() for number in ids):
            assert time.monotonic() < end
            time.sleep(1e-4)


def _bits(openmp: Any, told: int) -> bytes:
    """An LSTM's outputs and gradients."""
    cell, sizes = cells.LSTM(20), (1, 150, 5, 3)
    rng = np.random.default_rng(0)
    shapes = calls.shapes_of(cell, (1,), (150, 5, 3))
    names = ("x", "w", "u", "bias", "h0", "c0")
    values = {n: rng.standard_normal(shapes[n]).astype("float32") for n in names}
    found = {n: np.empty(shapes[n], "float32") for n in ("y", "hn", "cn")}
    call = calls.arguments(
        cell, "float32", sizes, threads=told,
        openmp=ctypes.cast(openmp, ctypes.c_void_p).value or 0 if openmp else 0,
        **{n: library.address(v) for n, v in {**values, **found}.items()},
    )  # fmt: skip
    saved = np.empty(calls.saved_bytes(call), np.uint8)
    call.saved = library.address(saved)
    library.check(LIBRARY.statecast_forward(ctypes.byref(call)))
    gradients = {f"d{n}": np.empty_like(v) for n, v in values.items()}
    gradients["dy"] = rng.standard_normal(shapes["y"]).astype("float32")
    pointers = {n: library.address(v) for n, v in gradients.items()}
    library.check(LIBRARY.statecast_backward(ctypes.byref(library.Backward(call, **pointers))))
    return b"".join(v.tobytes() for v in {**found, **gradients}.values())


@linux
@pytest.mark.parametrize("comes", [True, False])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_team_that_has_no_cpu_is_asked_once_and_has_the_same_bits(
    count: int, comes: bool
) -> None:
    library.use(threads=1)
    expected = _bits(None, 1)
    library.use(threads=count)
    assert _bits(None, count) == expected
    team = _Team(comes)
    found: list[bytes] = []

    def work() -> None:  # a thread of its own knows no team yet
        found.extend(_bits(team.function, count) for _ in range(4))

    begin = time.monotonic()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [expected] * 4
    asked = team.regions
    # A team that is gone is asked again after a second, which calls on a busy machine may take.
    assert 1 <= asked <= 1 + int(time.monotonic() - begin)
    assert _bits(team.function, count + 1) == expected  # a part of a team is never asked
    assert team.regions == asked


BESIDE = """
import os, subprocess, sys, time
os.environ["KERAS_BACKEND"] = "torch"
import numpy as np, torch
from statecast.recurrence import run as recurrence
from statecast.recurrence.cells import LSTM
cell = LSTM(32)
weights = {n: 0.1 * torch.randn(s) for n, s in cell.weight_shapes(4).items()}
for weight in weights.values():
    weight.requires_grad_()
x, given = torch.randn(32, 30, 4), torch.randn(32, 30, 32)
state = {leaf: torch.zeros(32, 32) for leaf in ("h", "c")}
peer = torch.nn.LSTM(4, 32, batch_first=True)
ours = lambda: recurrence.run(cell, weights, x, state, kernel="native")[0].backward(given)
theirs = lambda: peer(x)[0].backward(given)
torch.set_num_threads(int(sys.argv[1]))
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(2 * len(os.sched_getaffinity(0)))]
try:
    took = {ours: [], theirs: []}
    end = time.monotonic() + 6
    while time.monotonic() < end:
        for call, times in took.items():
            call()
            for _ in range(10):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
    print(np.median(took[ours]) / np.median(took[theirs]))
finally:
    for each in busy:
        each.kill()
        each.wait()
"""


@linux
@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_small_call_beside_twice_as_many_busy_processes_as_cpus(count: int) -> None:
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-c", BESIDE, str(count)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1.1
