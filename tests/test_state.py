"""State is a value: its verbs never touch the state they start from."""

import copy
import json
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statecast.errors import ArgumentError, ModelFileError, StateError
from statecast.state import State, leaf_dtypes


@st.composite
def states(draw: st.DrawFn, min_rows: int = 1) -> State:
    rows = draw(st.integers(min_rows, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    leaves = {}
    for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True)):
        shape = draw(st.lists(st.integers(0, 3), max_size=2))
        dtype = draw(st.sampled_from(["float32", "float64", "int64"]))
        leaves[f"cell/{name}"] = (rng.normal(size=(rows, *shape)) * 100).astype(dtype)
    ids = draw(st.sampled_from(["none", "text", "number"]))
    labels = {"none": None, "text": [f"id {i}" for i in range(rows)], "number": range(7, 7 + rows)}
    return State(leaves, None if ids == "none" else list(labels[ids]))


@given(states())
def test_save_then_load_is_identity(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("state") / "s.safetensors"
    state.save(path)
    back = State.load(path)
    assert back == state
    assert back.names == state.names
    assert [p.name for p in path.parent.iterdir()] == ["s.safetensors"]


@given(states(min_rows=2), st.data())
def test_put_moves_the_given_rows_and_leaves_the_others_bit_identical(state, data):
    rows = data.draw(st.lists(st.integers(0, state.rows - 1), min_size=1, unique=True))
    before = State({n: leaf.copy() for n, leaf in state.leaves.items()}, state.ids)
    new = State({n: leaf[rows] + 1 for n, leaf in state.leaves.items()})
    after = state.put(rows, new)
    others = np.setdiff1d(np.arange(state.rows), rows)
    assert state == before
    for name in state:
        assert after[name][rows].tobytes() == new[name].tobytes()
        assert after[name][others].tobytes() == before[name][others].tobytes()
    assert after.reset(state.take(rows), rows) == before


@given(data=st.data())
def test_states_that_share_rows_are_values_all_the_same(data):
    """A chain of puts, each against NumPy: no state changes, whichever is gone on from and read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("statecast.state._Blocks.ROWS", data.draw(st.integers(1, 5)))
        rows, rng = data.draw(st.integers(1, 40)), np.random.default_rng(0)
        first = {"h": rng.normal(size=(rows, 3)), "n": np.arange(rows)}
        made = [(State(first, ids=range(rows)), first)]
        for _ in range(data.draw(st.integers(1, 6))):
            state, model = data.draw(st.sampled_from(made))
            some = data.draw(st.lists(st.integers(0, rows - 1), max_size=rows // 3, unique=True))
            new = {"h": rng.normal(size=(len(some), 3)), "n": rng.integers(0, 99, len(some))}
            model = {name: leaf.copy() for name, leaf in model.items()}
            for name, leaf in new.items():
                model[name][some] = leaf
            made.append((state.put(some, State(new)), model))
            if data.draw(st.booleans()):
                made[-1][0]["h"]  # now it is held as a whole
        index = data.draw(st.lists(st.integers(-rows, rows - 1), max_size=9, unique=True))
        index = list({i % rows for i in index})
        for state, model in made:
            part = state.take(index)
            for name, leaf in model.items():
                np.testing.assert_array_equal(part[name], leaf[index])
                np.testing.assert_array_equal(state[name], leaf)
                assert not state[name].flags.writeable
            assert state == State(model, ids=range(rows)) == pickle.loads(pickle.dumps(state))


def test_a_put_copies_and_hashes_what_is_put_alone():
    class Name(str):
        hashed = 0

        def __hash__(self):
            Name.hashed += 1
            return super().__hash__()

    rows = 100_000
    ids = np.array([Name(i) for i in range(rows)], object)
    state = State({"h": np.ones((rows, 64), "float32")}, ids)  # 24 MiB
    asked = state.find(["7", "99999", "none"])
    assert asked.tolist() == [7, 99_999, -1]
    Name.hashed = 0
    for start in (state, state.put([5], state.take([0]))):  # the second is held in blocks
        tracemalloc.start()
        try:
            after = start.put(asked[:2], State({"h": np.zeros((2, 64), "float32")}))
            after.take(asked[:2])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1_000_000
    assert Name.hashed < 10
    assert after["h"].sum() == (rows - 2) * 64
    assert state["h"].all()
    with pytest.raises(StateError, match="no ids to find rows by"):
        state.fork(2).find(["7"])


@pytest.mark.parametrize("given", [1, 10, 100, 1000])
def test_a_put_copies_8_rows_for_each_given_row_at_most(given):
    """Also where the given rows are far from each other, and where they are put a second time."""
    rows, units = 100_000, 64
    state = State({"h": np.ones((rows, units), "float32")})
    index = np.linspace(0, rows - 1, given).astype(int)
    new = State({"h": np.zeros((given, units), "float32")})
    for start in (state, state.put(index, new), state.put(index[::2], new.take(slice(0, None, 2)))):
        tracemalloc.start()
        try:
            after = start.put(index, new)
            part = after.take(index)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # The blocks; what is taken, and a part of it again; what is packed at once, twice.
        copied = (given * (8 + 2) + min(given, 64) * 8 * 2) * units * 4
        assert peak < copied + given * 1500 + 20_000  # the objects of a block: about a kilobyte
        assert not part["h"].any()
        assert after["h"].sum() == (rows - given) * units


def test_a_put_costs_the_same_however_many_rows_were_put_before():
    rows = 400_000
    state = State({"h": np.zeros((rows, 1), "float32")})
    one = State({"h": np.ones((1, 1), "float32")})

    def peak(start):
        tracemalloc.start()
        try:
            after = start.put([123_457], one)
            return after, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    changed = state
    for first in range(8):  # in the end every block has changed
        part = np.arange(16 * first, rows, 128)
        changed = changed.put(part, State({"h": np.full((len(part), 1), 2.0, "float32")}))
    _, fresh = peak(state)
    after, late = peak(changed)
    assert late < fresh + 100_000  # the references of all blocks take 1.3 MB
    assert after["h"].sum() == 2 * rows / 16 + 1
    assert changed["h"].sum() == 2 * rows / 16


@given(states(), st.integers(1, 4))
def test_fork_repeats_each_row_and_spares_its_parent(state, n):
    before = {name: state[name].copy() for name in state}
    forks = state.fork(n)
    assert forks.rows == n * state.rows
    for name in state:
        for row in range(state.rows):
            copies = forks[name][row * n : (row + 1) * n]
            assert all(np.array_equal(copy, state[name][row]) for copy in copies)
    assert state == State(before, state.ids)


@pytest.mark.parametrize("n", [10**12, 2**63, 2_000_000_001])
def test_a_fork_that_is_too_large_is_refused_before_any_work(n):
    state = State({"h": np.ones((1, 1), "float32")}, ids=["a"])
    with pytest.raises(ArgumentError, match="expected at most 2,000,000,000 numbers"):
        state.fork(n)
    for small in (state.take(slice(0)), State({"h": np.ones((1, 0), "float32")})):
        with pytest.raises(ArgumentError, match="expected at most"):
            small.fork(n)
    assert state.fork(2).rows == 2


@given(states(min_rows=2))
def test_take_by_index_slice_and_mask_agree(state):
    mask = np.arange(state.rows) >= 1
    assert state.take(slice(1, None)) == state.take(np.flatnonzero(mask)) == state.take(mask)


def test_equality_sees_every_difference():
    leaf = np.array([[1.0], [np.nan]])
    state = State({"h": leaf}, ids=["a", "b"])
    assert state == State({"h": leaf.copy()}, ids=["a", "b"])
    assert state != State({"h": leaf + 1}, ids=["a", "b"])
    assert state != State({"c": leaf}, ids=["a", "b"])
    assert state != State({"h": leaf}, ids=["a", "c"])
    assert state != State({"h": leaf})
    assert state != State({"h": leaf.astype("float32")}, ids=["a", "b"])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: State({}), "at least one leaf"),
        (lambda: State({"h": np.float32(1)}), "rows on axis 0"),
        (lambda: State({"h": np.array([1, "a"], object)}), "expected numbers, received an array"),
        (lambda: State({"h": np.ones((2, 1)), "c": np.ones((3, 1))}), "'c' has 3 rows, expected 2"),
        (lambda: State({"h": np.ones((2, 1))}, ids=["a"]), "2 in all"),
        (lambda: State({"h": np.ones((2, 1))}, ids=["a", "a"]), "distinct"),
        (lambda: _state()["x"], "No leaf 'x'"),
        (lambda: _state().take([5]), "out of range"),
        (lambda: _state().take([True]), "row mask of shape"),
        (lambda: _state().take([0.5]), "whole numbers"),
        (lambda: _state().put([0], _state()), "nothing broadcasts"),
        (lambda: _state().put([0, 0], _state()), "twice"),
        (lambda: _made_by("a").put([0, 1], _made_by("b")), "one of another fit"),
        (lambda: _made_by("a").reset(_made_by("b")), "one of another fit"),
        (lambda: _made_by("a").take([0]).put([0], _made_by("b").take([1])), "one of another fit"),
        (
            lambda: _state().put([0, 1], State({"h": np.ones((2, 4))})),
            r"expected shape \(rows, 3\)",
        ),
        (lambda: _state().put([0, 1], State({"c": np.ones((2, 3))})), "Expected leaves"),
        (lambda: _state().fork(0), "n: expected a whole number from 1"),
    ],
)
def test_a_wrong_use_says_what_was_expected(make, says):
    with pytest.raises(StateError, match=says):
        make()


def _made_by(fingerprint: str) -> State:
    return State(_state().leaves, ids=["x", "y"], fingerprint=fingerprint)


def _state() -> State:
    return State({"h": np.ones((2, 3))})


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    _state().save(path)
    whole = path.read_bytes()
    header_end = 8 + struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8:header_end])

    def with_metadata(**changes):
        entry = {**header, "__metadata__": {**header["__metadata__"], **changes}}
        text = json.dumps(entry).encode()
        return struct.pack("<Q", len(text)) + text + whole[header_end:]

    damaged = {
        "truncated": whole[:-4],
        "cut in the header": whole[:20],
        "empty": b"",
        "text": b"not a state at all",
        "a forged length": struct.pack("<Q", 2**62) + whole[8:],
        "another version": with_metadata(version="99"),
        "another kind": with_metadata(format="statecast-model"),
        "forged ids": with_metadata(ids='["a"]'),
        "forged leaves": with_metadata(leaves='["h", "x"]'),
        "deep json": with_metadata(leaves="[" * 100_000),
    }
    for content in damaged.values():
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"s\.safetensors"):
            State.load(path)
    with pytest.raises(ModelFileError):
        State.load(tmp_path / "missing.safetensors")


@given(states())
def test_a_copy_and_a_pickle_are_the_state(state):
    assert copy.deepcopy(state) == state
    assert pickle.loads(pickle.dumps(state)) == state


def test_fork_counts_in_whole_numbers():
    state = State({"h": np.zeros((2, 3), "float32")})
    for n in (0, 1.5, True, "2"):
        with pytest.raises(StateError, match="n: expected a whole number from 1"):
            state.fork(n)  # type: ignore[arg-type]


def test_a_leaf_cannot_be_written_to():
    state = State({"h": np.zeros((2, 3), "float32")})
    with pytest.raises(ValueError, match="read-only"):
        state["h"][0] = 1.0


def test_a_masked_array_is_no_leaf_and_no_row():
    """NumPy would ignore the mask, so that what is masked would count."""
    whole = State({"h": np.ma.masked_array(np.ones((3, 2)), mask=False)})
    masked = np.ma.masked_array(np.ones((3, 2)), mask=np.eye(3, 2, -1) == 1)
    rows = np.ma.masked_array([0, 1], mask=[False, True])
    for refused, what in (
        (lambda: State({"h": np.ones((3, 2)), "c": masked}), r"Leaf 'c'.*2 of 6 masked"),
        (lambda: whole.take(rows), "rows: .*1 of 2 masked"),
        (lambda: whole.put(rows, whole.take([0, 1])), "rows: .*1 of 2 masked"),
        (
            lambda: whole.take(np.ma.masked_array([True] * 3, mask=[False, False, True])),
            "1 of 3 masked",
        ),
    ):
        with pytest.raises(StateError, match=what):
            refused()


def test_a_file_that_cannot_be_written_names_its_path(tmp_path):
    with pytest.raises(ArgumentError, match=r"none/s\.safetensors.*no folder .*make it first"):
        State({"h": np.zeros((2, 3), "float32")}).save(tmp_path / "none" / "s.safetensors")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (".", "received a folder"),
        ("..", "received a folder"),
        ("/", "name of a file"),
        ("", "name of a file"),
        ("folder/", "name of a file"),
        ("a\0b", "name of a file"),
        ("n" * 300, "cannot be written"),
        (None, "expected text or a path; received NoneType"),
        (3, "expected text or a path; received int"),
        (b"s", "expected text or a path; received bytes"),
    ],
)
def test_what_is_no_file_is_not_written(tmp_path, monkeypatch, path, says):
    monkeypatch.chdir(tmp_path)
    state = State({"h": np.zeros((1, 2))})
    with pytest.raises(ArgumentError, match=says):
        state.save(path)
    assert not list(tmp_path.iterdir())
    if not isinstance(path, bytes):
        with pytest.raises((ArgumentError, ModelFileError)):
            State.load(path)
    state.save("s")
    assert State.load("s") == state


def test_the_numbers_of_a_file_are_read_into_aligned_memory(tmp_path):
    """TensorFlow reads large arrays in place only there, see ``layers.initial.starts``."""
    state = State({"h": np.ones((3, 5), "float32"), "n": np.arange(3)}, ids=["a", "b", "c"])
    state.save(tmp_path / "s")
    for leaf in State.load(tmp_path / "s").leaves.values():
        assert leaf.ctypes.data % 64 == 0


def test_the_dtypes_are_those_of_the_leaves_at_rest():
    leaves = {"h": np.zeros((40, 2), "float32"), "origin": np.arange(40)}
    state = State(leaves, ids=range(40))
    expected = {"h": np.dtype("float32"), "origin": np.dtype("int64")}
    assert leaf_dtypes(state) == expected
    one = state.take([3])
    assert leaf_dtypes(one) == expected
    assert leaf_dtypes(state.put([5], one)) == expected  # in blocks


def test_rows_that_are_taken_cannot_be_written_to_and_have_ids_once():
    state = State({"h": np.zeros((3, 2))}, ids=["a", "b", "c"])
    some = state.take([2, 0])
    assert some.find(["a", "c", "b"]).tolist() == [1, 0, -1]
    with pytest.raises(ValueError, match="read-only"):
        some["h"][0] = 1.0
    with pytest.raises(StateError, match="distinct ids"):
        state.take([1, 1])
