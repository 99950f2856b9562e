"""Files: written whole or not at all; what is read is checked before it is used."""

from __future__ import annotations

import datetime as dt
import json
import os
import stat
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statecast import files
from statecast.errors import ArgumentError, ModelFileError, StateError
from statecast.files import id_bytes, id_of, read_ids, strict_json, write_whole
from statecast.state import State


def _state() -> State:
    return State({"h": np.ones((2, 3), "float32"), "n": np.arange(2)}, ids=["a", "é"])


def _parts(path: Path) -> tuple[dict, bytes]:
    whole = path.read_bytes()
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    return json.loads(whole[8:end]), whole[end:]


def _file(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# -- reading ----------------------------------------------------------------------------------


def _metadata(value: object):
    return lambda header, data: ({**header, "__metadata__": value}, data)


def _entry(**changes: object):
    return lambda header, data: (
        {**header, "leaves/h": {**header["leaves/h"], **changes}},
        data,
    )


def _noted(**changes: str):
    return lambda header, data: (
        {**header, "__metadata__": {**header["__metadata__"], **changes}},
        data,
    )


def _numbers(name: str, values: np.ndarray):
    def change(header: dict, data: bytes) -> tuple[dict, bytes]:
        begin, end = header[name]["data_offsets"]
        assert len(values.tobytes()) == end - begin
        return header, data[:begin] + values.tobytes() + data[end:]

    return change


def _without(name: str):
    return lambda header, data: ({n: e for n, e in header.items() if n != name}, data)


DAMAGE = {
    "metadata a list": _metadata([]),
    "metadata a text": _metadata("statecast-state"),
    "metadata a number": _metadata(7),
    "metadata null": _metadata(None),
    "metadata of numbers": _metadata({"format": "statecast-state", "version": 1}),
    "metadata of a list": _metadata({"format": ["statecast-state"]}),
    "a header that is a list": lambda header, data: ([header], data),
    "bfloat16": _entry(dtype="BF16"),
    "float8": _entry(dtype="F8_E4M3"),
    "complex": _entry(dtype="C64"),
    "a dtype that is a list": _entry(dtype=["F32"]),
    "a shape that is text": _entry(shape="2"),
    "a negative shape": _entry(shape=[-2, -3]),
    "a shape of booleans": _entry(shape=[True, 6]),
    "a fractional shape": _entry(shape=[2.0, 3]),
    "a scalar": _entry(shape=[]),
    "no rows that are there": _entry(shape=[2**40, 0], data_offsets=[0, 0]),
    "offsets the wrong way round": _entry(data_offsets=[24, 0]),
    "offsets beyond the end": _entry(data_offsets=[0, 2**62]),
    "an entry that is a list": lambda header, data: ({**header, "leaves/h": []}, data),
    "bytes after the last tensor": lambda header, data: (header, data + b"\0"),
    "a tensor too few": _without("leaves/n"),
    "a tensor too many": lambda header, data: (
        {**header, "x": {"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2}},
        data,
    ),
    "leaves as text": _noted(leaves='"hn"'),
    "leaves as numbers": _noted(leaves="[0, 1]"),
    "a leaf twice": _noted(leaves='["h", "n", "n"]'),
    "a number beyond float64": _noted(leaves="[1e999]"),
    "half a surrogate": _noted(leaves='["h", "\\ud800"]'),
    "an entry twice": _noted(leaves='[{"a": 1, "a": 2}]'),
    "an entry more": _noted(code="import os"),
    "NaN": _numbers("leaves/h", np.array([1, 2, np.nan, 4, 5, 6], "float32")),
    "infinite": _numbers("leaves/h", np.array([1, 2, 3, 4, 5, -np.inf], "float32")),
    "an id twice": _numbers("ids/ends", np.array([0, 0])),
    "ids that are no text": _numbers("ids/text", np.frombuffer(b"a\xff\xff", "uint8")),
    "ends that fall": _numbers("ids/ends", np.array([3, 1])),
    "ends below 0": _numbers("ids/ends", np.array([-1, 3])),
    "ends beyond the text": _numbers("ids/ends", np.array([1, 2**62])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_hostile_state_file_is_refused_by_its_name(tmp_path, damage):
    path = tmp_path / "s.safetensors"
    _state().save(path)
    header, data = _parts(path)
    path.write_bytes(_file(header, data))
    assert State.load(path) == _state()  # as it was
    path.write_bytes(_file(*DAMAGE[damage](header, data)))
    with pytest.raises(ModelFileError, match=r"s\.safetensors"):
        State.load(path)
    with pytest.raises(ModelFileError, match="the bytes"):
        State.load(path.read_bytes())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: State({"h": np.array([[1.0], [np.nan]])}), r"'h'.*finite.*\[1, 0\]"),
        (lambda: State({"h": np.array([[1.0], [np.inf]])}), "finite"),
        (lambda: State({"h": np.ones((2, 1), complex)}), "complex"),
        (lambda: State({"h": np.ones((2, 1))}, ids=_objects(1, "a")), "received int, str"),
        (lambda: State({"h": np.ones((2, 1))}, ids=[1.5, 2.0]), "received float"),
        (lambda: State({"h": np.ones((2, 1))}, ids=_objects((1, 1.5), (2,))), "texts and whole"),
        (lambda: State({"h": np.ones((2, 1))}, ids=_objects(b"a", 1)), "received bytes, int"),
        (lambda: State({"h": np.ones((2**20 + 1, 0))}), "without any number"),
    ],
)
def test_what_load_would_refuse_is_not_saved(tmp_path, make, says):
    with pytest.raises(StateError, match=says):
        make().save(tmp_path / "s")
    assert not list(tmp_path.iterdir())


def _objects(*items):
    return np.fromiter(items, object, len(items))  # a tuple is one id


_DAY = dt.datetime(2024, 2, 29, 1, 2, 3, 4)


@pytest.mark.parametrize(
    "ids",
    [
        [3, -(2**62)],
        [2**64, -(2**80)],
        ["", "x" * 1000],
        [True, False],
        [_DAY.date(), dt.date.max],
        [_DAY, dt.datetime.min],
        [_DAY.replace(tzinfo=dt.UTC), _DAY.replace(tzinfo=dt.timezone(dt.timedelta(hours=-3.5)))],
        [dt.timedelta(days=-3, microseconds=1), dt.timedelta.max],
        [b"", bytes(range(256))],
        [("a", 1, "é"), ()],
        None,
    ],
)
def test_ids_come_back_as_they_were(tmp_path, ids):
    ids = ids and _objects(*ids)
    state = State({"h": np.ones((2, 1), ">f4"), "e": np.ones((2, 0), bool)}, ids=ids)
    state.save(tmp_path / "s")
    back = State.load(tmp_path / "s")
    assert back["h"].tolist() == [[1.0], [1.0]]
    assert back.ids is ids if ids is None else back.ids.tolist() == ids.tolist()


def test_dates_and_durations_of_pandas_come_back_as_those_of_python(tmp_path):
    pd = pytest.importorskip("pandas")
    times = [pd.Timestamp(_DAY), pd.Timestamp(_DAY, tz="Asia/Tokyo")]
    for ids in ([times[0]], [times[1]], [pd.Timedelta("3h")]):
        State({"h": np.ones((1, 1))}, ids=_objects(*ids)).save(tmp_path / "s")
        back = State.load(tmp_path / "s")
        assert back.ids.tolist() == ids
        assert back.find(ids).tolist() == [0]
    fine = State({"h": np.ones((1, 1))}, ids=_objects(times[0] + pd.Timedelta(1, "ns")))
    with pytest.raises(StateError, match="received Timestamp"):
        fine.save(tmp_path / "s")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("digits", "007"), ("digits", "1.5"), ("booleans", "2"), ("dates", "2024-02-30"),
        ("dates", "20240229"), ("times", "2024"), ("times", "2024-01-01T00:00:00Z"),
        ("durations", "9" * 30), ("durations", "x"), ("bytes", "0g"), ("bytes", "AB"),
        ("tuples", "[1.5]"), ("tuples", "[[1]]"), ("tuples", '{"a": 1}'), ("tuples", "[" * 5000),
        ("tuples", "[true]"), ("other", "1"),
    ],
)  # fmt: skip
def test_ids_in_another_form_than_ours_are_refused(kind, text):
    ids = {f"ids/{kind}": np.frombuffer(text.encode(), np.uint8), "ids/ends": np.array([len(text)])}
    with pytest.raises(ValueError, match="ids"):
        read_ids(ids, 1)


def test_a_load_takes_memory_in_relation_to_the_file(tmp_path):
    path = tmp_path / "s"
    State({"h": np.ones((1000, 4000), "float32")}, ids=np.arange(1000)).save(path)
    cases = {
        "a large state": path.read_bytes(),
        "a header of lists": _file([[]] * 300_000, b""),
        "a header of numbers": _file(
            {"__metadata__": {"leaves": "[" + "0," * 500_000 + "0]"}}, b""
        ),
        "a header of zeros": struct.pack("<Q", 2**20 + 1) + bytes(2**21),
        "a forged length": struct.pack("<Q", 2**40) + bytes(100),
    }
    for name, content in cases.items():
        path.write_bytes(content)
        tracemalloc.start()
        begun = time.process_time()
        try:
            State.load(path)
        except ModelFileError:
            assert name != "a large state"
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 1.5 * len(content) + 2**20, name
        assert time.process_time() - begun < 1.0, name


# -- writing ----------------------------------------------------------------------------------


def test_many_threads_write_one_file_and_every_read_is_whole(tmp_path):
    path = tmp_path / "one"
    write_whole(path, bytes(100_000))
    errors: list[Exception] = []

    def write(value: int) -> None:
        try:
            for _ in range(10):
                write_whole(path, bytes([value]) * 100_000)
                content = path.read_bytes()
                assert len(content) == 100_000
                assert len(set(content)) == 1
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


WRITER = """
import os, sys
os.getpid = lambda: 7  # as in two containers on one volume
from statecast.files import read_ids, write_whole
for _ in range(30):
    write_whole(sys.argv[1], sys.argv[2].encode() * 100_000)
"""


def test_processes_of_one_number_write_one_file(tmp_path):
    path = tmp_path / "one"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, c]) for c in "abc"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            content = path.read_bytes()
            assert len(content) == 100_000
            assert len(set(content)) == 1
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def _left(folder: Path, name: str, age: float) -> Path:
    part = folder / f".{name}.{'0' * 15}{len(list(folder.iterdir()))}.statecast.part"
    part.write_bytes(b"half")
    os.utime(part, (time.time() - age, time.time() - age))
    return part


def test_what_dead_writers_left_is_removed_and_what_living_ones_write_is_not(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    dead, young, alive = (_left(tmp_path, name, age) for name, age in DEAD)
    others = [tmp_path / ".x.part", tmp_path / ".x.7.part"]
    for other in others:
        other.write_bytes(b"")
    with open(alive, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_whole(tmp_path / "new", b"all")
        assert not dead.exists()
        assert young.exists()
        assert alive.exists()
    assert all(other.exists() for other in others)


DEAD = (("a", 3600.0), ("a", 0.0), ("b", 3600.0))


def test_the_file_and_its_folder_reach_the_disk_before_it_is_done(tmp_path, monkeypatch):
    synced: list[str] = []
    fsync = os.fsync

    def note(file: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        fsync(file)

    monkeypatch.setattr(files.os, "fsync", note)
    write_whole(tmp_path / "x", b"1")
    assert synced == ["file", "folder"]


def test_a_symbolic_link_is_written_through(tmp_path):
    (tmp_path / "store").mkdir()
    link = tmp_path / "link"
    link.symlink_to("store/target")
    for content in (b"1", b"22"):  # a link into nothing, then to a file
        write_whole(link, content)
        assert link.is_symlink()
        assert (tmp_path / "store" / "target").read_bytes() == content
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["target"]
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(ArgumentError, match="cannot be written"):
        write_whole(loop, b"")


def test_permissions_are_those_of_the_umask_or_of_the_file_before(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "x", b"1")
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640
        (tmp_path / "x").chmod(0o604)
        write_whole(tmp_path / "x", b"2")
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o604
    finally:
        os.umask(before)


def test_a_device_a_pipe_and_a_folder_are_refused_and_stay(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "pipe", tmp_path):
        before = path.stat().st_mode
        with pytest.raises(ArgumentError, match="expected the name of a file"):
            write_whole(path, b"1")
        with pytest.raises(ModelFileError, match=r"expected a file, received a (folder|device)"):
            State.load(path)
        assert path.stat().st_mode == before


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_whole(tmp_path / "x", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ArgumentError, match="No space left"):
        write_whole(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_name_as_long_as_can_be(tmp_path):
    for name in ("é" * 127, "x" * 255):
        write_whole(tmp_path / name, b"1")
        assert (tmp_path / name).read_bytes() == b"1"


@given(
    st.text(st.characters(codec="utf-8"))
    | st.integers()
    | st.booleans()
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.binary()
    | st.lists(st.text(st.characters(codec="utf-8")) | st.integers(), max_size=3).map(tuple)
)
def test_the_bytes_of_an_id_are_read_as_the_id(item: Any) -> None:
    found = id_of(id_bytes(item))
    assert found == item
    assert type(found) is type(item)


def test_equal_ids_have_equal_bytes_and_others_are_refused() -> None:
    assert id_bytes(np.int8(7)) == id_bytes(7) != id_bytes("7")
    assert id_bytes(np.str_("a")) == id_bytes("a")
    for item in (1.5, None, np.datetime64("2024-01-01"), object(), ["a"], "\ud800"):
        with pytest.raises(ValueError, match=r"one of the types|surrogates"):
            id_bytes(item)


@given(text=st.text() | st.text('\\"ud8c0\U0001f600\U00010000'), ascii_only=st.booleans())
def test_strict_json_reads_any_text(text: str, ascii_only: bool) -> None:
    """Also characters that are written as a pair of surrogates; never half of one."""
    whole = json.dumps([text], ensure_ascii=ascii_only)
    assert strict_json(whole) == [text]
    for half in ("\\ud83d", "\\ude00"):
        with pytest.raises(ValueError, match="surrogate"):
            strict_json(whole.replace('"]', f'{half}"]') if text else f'["{half}"]')
