"""Forecasters of tokens: states, sequences, kinds of tokens, files and refusals."""

from __future__ import annotations

import json
import struct
import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import all_updates
from statecast import errors
from statecast.forecast.forecaster import Forecaster
from statecast.state import State
from statecast.tables.schema import Schema
from statecast.tokens.decoding import Beam, Sampling
from statecast.tokens.forecaster import TokenForecaster, load_model
from words import (
    CLOSE,
    ITEMS,
    assert_same_state,
    few,
    fit_words,
    word_prefixes,
    word_tables,
)


def test_no_constraints_are_empty_constraints(one):
    _, static = word_tables()
    expected = one.generate(None, static, until=3)
    found = one.generate(None, static, until=3, beam=Beam(forbidden=None, required=None))
    assert found.equals(expected)


def test_a_sequence_goes_up_to_its_until(one):
    series, static = word_tables()
    prefix = word_prefixes(series, 1)
    whole = one.sample(prefix, static, until=8, paths=3, sampling=Sampling())
    until = {int(i): 2 if i % 2 else 8 for i in whole.ids}
    found = one.sample(prefix, static, until=until, paths=3, sampling=Sampling())
    for row, item in enumerate(whole.ids.tolist()):
        kept = np.arange(8) < until[item]
        expected = np.where(kept & (whole.known[row] < until[item]), whole.values[row], None)
        assert (found.values[row] == expected).all()
    shown = one.generate(prefix, static, until=until)
    last = shown.group_by("unique_id").agg(pl.col("ds").max()).iter_rows()
    assert all(step <= until[item] for item, step in last)
    assert one.generate(series, static, h=1)["ds"].len() == len(whole.ids)
    assert not one.generate(series, static, until=1).height


@few
@given(seed=st.integers(0, 1000))
def test_an_update_equals_a_run_from_the_start_and_leaves_the_old_state(fitted, seed):
    series, static = word_tables()
    prefix = word_prefixes(series, seed)
    early = prefix.filter(pl.col("ds") <= seed % 3)
    state = fitted.state(early, static)  # without rows, k is 0
    before = {name: leaf.copy() for name, leaf in state.leaves.items()}
    late = prefix.filter(pl.col("ds") > seed % 3)
    if len(late):
        assert_same_state(fitted.update(state, late), fitted.state(prefix, static))
    for name, leaf in before.items():
        np.testing.assert_array_equal(state[name], leaf)


@few
@given(seed=st.integers(0, 1000), item=st.integers(0, ITEMS - 1))
def test_items_do_not_depend_on_other_items_and_their_k(fitted, seed, item):
    series, static = word_tables()
    prefix, mine = word_prefixes(series, seed), pl.col("unique_id") == item
    alone = prefix.filter(mine)
    alone = alone if len(alone) else None
    state = fitted.state(prefix, static)
    assert_same_state(state.take([item]), fitted.state(alone, static.filter(mine)))
    beam = Beam(3, best=2)
    together = fitted.generate(prefix, static, until=7, beam=beam).filter(mine)
    by_itself = fitted.generate(alone, static.filter(mine), until=7, beam=beam)
    assert together.select("ds", "statecast", "statecast-2").equals(
        by_itself.select("ds", "statecast", "statecast-2")
    )
    nats = [t["statecast-nats"].to_numpy() for t in (together, by_itself)]
    np.testing.assert_allclose(*nats, atol=CLOSE)
    paths = [
        fitted.sample(*tables, until=7, paths=5, sampling=Sampling()).table().filter(mine)
        for tables in ((prefix, static), (alone, static.filter(mine)))
    ]
    assert paths[0].equals(paths[1])


def test_a_state_continues_as_its_tables_and_a_fork_leaves_its_parent(fitted):
    series, static = word_tables()
    prefix = word_prefixes(series, 1)
    state = fitted.state(prefix, static)
    assert fitted.generate(state=state, until=7).equals(fitted.generate(prefix, static, until=7))
    fork = State(state.fork(2).leaves, range(2 * ITEMS), fitted.fingerprint)
    more = pl.DataFrame({"unique_id": [0], "ds": [6], "y": ["c"]})
    moved = fitted.update(fork, more)
    assert np.abs(moved["cell/0/h"][0] - state["cell/0/h"][0]).max() > 0
    np.testing.assert_array_equal(moved["cell/0/h"][1], state["cell/0/h"][0])


def test_a_gap_is_not_a_token(fitted):
    static = word_tables()[1].head(1)

    def h(*letters: str | None) -> np.ndarray:
        steps = range(1, len(letters) + 1)
        word = pl.DataFrame({"unique_id": 0, "ds": steps, "y": letters})
        return fitted.state(word, static)["cell/0/h"]

    gap = h("a", None, "c")
    left_out = pl.DataFrame({"unique_id": [0, 0], "ds": [1, 3], "y": ["a", "c"]})
    np.testing.assert_array_equal(fitted.state(left_out, static)["cell/0/h"], gap)
    with pytest.warns(errors.DataWarning, match="never seen in training, taken as unknown: 'z'"):
        unknown = h("a", "z", "c")
    others = [h("a", letter, "c") for letter in "abc"]
    states = [gap, unknown, *others]
    for i, one in enumerate(states):
        for other in states[:i]:
            assert np.abs(one - other).max() > 1e-4


def test_scores_by_step_add_up_whatever_is_given(fitted):
    series, static = word_tables()
    steps = fitted.log_likelihood(series, static, by_step=True)
    length = series.group_by("unique_id").len()
    assert len(steps) == len(series) + ITEMS * fitted.settings.ends
    for known in (0, 1, 3, 9):
        table = fitted.log_likelihood(series, static, known=known)
        rest = steps.filter(pl.col("ds") > known).group_by("unique_id")
        total = table.join(rest.agg(pl.col("log_likelihood").sum()), on="unique_id", how="left")
        np.testing.assert_allclose(
            total["log_likelihood"], total["log_likelihood_right"].fill_null(0), rtol=CLOSE
        )
        whole = table.join(length, on="unique_id")
        scored = np.maximum(whole["len"].to_numpy().astype(int) - known, 0)
        if fitted.settings.ends:
            scored += whole["len"].to_numpy() >= known
        assert whole["tokens"].to_list() == scored.tolist()
        bits = -table["log_likelihood"] / table["tokens"] / np.log(2)
        np.testing.assert_allclose(table["bits_per_token"], bits, rtol=CLOSE)
        np.testing.assert_allclose(table["perplexity"], 2.0**bits, rtol=CLOSE)


@few
@given(seed=st.integers(0, 1000), room=st.integers(1, 5))
def test_a_null_marks_sequences_that_ended_and_the_others_reach_until(fitted, seed, room):
    series, static = word_tables()
    prefix = word_prefixes(series, seed)
    until = prefix["ds"].to_numpy().max() + room
    drawn = fitted.sample(prefix, static, until=until, paths=5, sampling=Sampling())
    table = drawn.table().group_by("unique_id", maintain_order=True)
    null = table.agg(pl.col("^path-.*$").is_null().any()).drop("unique_id").to_numpy()
    np.testing.assert_array_equal(null, drawn.ended)
    assert drawn.ended.any() == fitted.settings.ends
    last = table.agg(pl.col("ds").max())["ds"].to_numpy()
    assert (last[~drawn.ended.all(axis=1)] == until).all()


def test_simulated_sequences_are_scored_and_begin_alike_whatever_is_asked_for(fitted):
    _, static = word_tables()
    short = fitted.sample(None, static, until=4, paths=6, sampling=Sampling())
    long = fitted.sample(None, static, until=9, paths=6, sampling=Sampling())
    assert (short.values[..., :3] == long.values[..., :3]).all()
    assert repr(short) == f"<Sequences: {ITEMS} items, 6 sequences each, up to step 4>"
    both = short.ended & long.ended
    np.testing.assert_allclose(short.log_likelihood[both], long.log_likelihood[both], rtol=CLOSE)
    text = short.text()
    assert len(text) == ITEMS
    assert all(set(each) <= set("abc") for row in text for each in row)


def test_constraints_hold(fitted):
    _, static = word_tables()
    for how in (
        Beam(3, best=3, forbidden="b", required="ca"),
        Sampling(forbidden="b", required="ca"),
    ):
        if isinstance(how, Beam):
            table = fitted.generate(None, static, until=6, beam=how)
        else:
            table = fitted.sample(None, static, until=6, paths=3, sampling=how).table()
        columns = [
            c for c in table.columns if c.startswith(("statecast", "path")) and "nats" not in c
        ]
        for column in columns:
            words = table.group_by("unique_id").agg(pl.col(column).drop_nulls().str.join(""))[
                column
            ]
            assert all(word.startswith("ca") and "b" not in word for word in words)


def test_a_ranking_is_by_the_lift_of_the_likelihood():
    series, static = word_tables(80)
    with all_updates():
        f = fit_words(series, static.drop("level"), units=16, epochs=8)
    groups = pl.DataFrame({"unique_id": ["r", "b"], "group": ["red", "blue"]})
    spelled = pl.DataFrame({"unique_id": [7] * 3 + [8] * 2, "ds": [1, 2, 3, 1, 2], "y": [*"abccc"]})
    table = f.rank(spelled, groups)
    assert table.filter(pl.col("rank") == 1)["match"].to_list() == ["r", "b"]
    back = f.rank(spelled, groups, by="static")
    assert back.filter(pl.col("rank") == 1).select("unique_id", "match").rows() == [
        ("r", 7),
        ("b", 8),
    ]
    known = pl.DataFrame({"unique_id": [7, 8], "group": ["red", "blue"]})
    nats = f.log_likelihood(spelled, known)["log_likelihood"]
    np.testing.assert_allclose(
        table.filter(pl.col("rank") == 1)["log_likelihood"], nats, rtol=CLOSE
    )
    assert f.rank(spelled, groups, best=1).height == 2


@pytest.mark.parametrize("kind", ["text", "words", "numbers", "floats", "booleans"])
@pytest.mark.parametrize("table", ["polars", "pandas", "pyarrow", "csv", "arrays"])
def test_tokens_of_any_kind_are_read_from_any_table(kind, table, tmp_path):
    series, _ = word_tables()
    if kind == "words":
        series = series.with_columns(y=pl.col("y") + "-word")
    elif kind in ("numbers", "floats"):
        series = series.with_columns(y=pl.col("y").replace_strict({"a": 7, "b": -1, "c": 40}))
    elif kind == "booleans":
        series = series.with_columns(y=pl.col("y") == "a")
    expected = series["y"].to_list()
    if kind == "floats" and table != "csv":  # pandas makes floats of whole numbers with a gap
        series = series.with_columns(pl.col("y").cast(pl.Float64))
    given: Any = series
    if table == "csv":
        given = tmp_path / "series.csv"
        series.write_csv(given)
    elif table == "arrays":
        given = np.full((ITEMS, 5), None, object)
        for item, step, letter in series.rows():
            given[item, step - 1] = letter
    elif table != "polars":
        given = getattr(series, {"pandas": "to_pandas", "pyarrow": "to_arrow"}[table])()
    schema = Schema.fit(given, tokens=True)
    panel = schema.panel(given)
    assert schema.vocabulary is not None
    found = schema.vocabulary.decode(panel.y.astype(int))[panel.mask].tolist()
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))
    assert schema.vocabulary.tokens == tuple(sorted(set(expected)))


_KINDS: dict[type, st.SearchStrategy[Any]] = {
    str: st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=4),
    int: st.integers(-(10**17), 10**17),
    bool: st.booleans(),
}


@settings(max_examples=60)
@given(st.data(), st.sampled_from([*_KINDS]))
def test_files_of_a_table_hold_the_same_tokens(tmp_path, data, kind):
    """A CSV file's, where no text is all numbers or truths, are those of the Parquet file."""
    token = _KINDS[kind]
    learnt = data.draw(st.lists(token, min_size=2, max_size=8))
    later = data.draw(st.lists(st.sampled_from(learnt) | st.none(), max_size=8))
    later = [learnt[0], *later]
    if kind is str:
        learnt = [*learnt, "a", "true", "7"]
        later = data.draw(st.sampled_from([later, ["true"], ["7", None]]))
    found = []
    for ending in ("csv", "parquet"):
        schema, panels = None, []
        for values in (learnt, later):
            steps = range(1, len(values) + 1)
            table = pl.DataFrame({"unique_id": 0, "ds": steps, "y": values}, strict=True)
            path = tmp_path / f"series.{ending}"
            getattr(table, f"write_{ending}")(path)
            schema = schema or Schema.fit(path, tokens=True)
            panels.append(schema.panel(path))
        assert schema is not None
        assert schema.vocabulary is not None
        assert schema.vocabulary.type is kind
        spelled = [schema.vocabulary.decode(p.y[p.mask].astype(int)).tolist() for p in panels]
        assert spelled == [[v for v in values if v is not None] for values in (learnt, later)]
        found.append(schema.vocabulary)
    assert found[0] == found[1]


@pytest.mark.parametrize("texts", [("True", "False"), ("TRUE", "FALSE"), ("true", "False")])
def test_true_and_false_in_a_file_are_booleans_if_all_cells_are(tmp_path, texts):
    rows = [f"{item},{step},{text}" for item in (0, 1) for step, text in enumerate(texts, 1)]
    path = tmp_path / "series.csv"
    path.write_text("\n".join(["unique_id,ds,y", *rows]))
    vocabulary = Schema.fit(path, tokens=True).vocabulary
    assert vocabulary is not None
    assert vocabulary.tokens == (False, True)
    path.write_text("\n".join(["unique_id,ds,y", *rows, "1,3,maybe"]))
    vocabulary = Schema.fit(path, tokens=True).vocabulary
    assert vocabulary is not None
    assert vocabulary.tokens == tuple(sorted({*texts, "maybe"}))


def test_arrays_go_in_and_out():
    y = np.array([[3, 5, 5, np.nan], [5, 3, np.nan, np.nan], [3, np.nan, 5, 3]] * 8)
    f = fit_words(y, epochs=1)
    given: list[Any] = [np.array([5, 3]), np.int64(3), 3.5]
    found = f.generate(y[:2, :1], until=4, beam=Beam(required=given[0]))
    assert found["statecast"][:, 1:3].tolist() == [[5, 3], [5, 3]]
    assert found["statecast"][:, 0].tolist() == [None, None]
    other = f.generate(y[:2, :1], until=4, beam=Beam(forbidden=given[1]))
    assert not (other["statecast"] == 3).any()
    with pytest.raises(errors.ArgumentError, match=r"met in training.*received 3\.5"):
        f.generate(y[:2, :1], until=4, beam=Beam(forbidden=given[2]))
    assert found["statecast-nats"].shape == (2, 4)
    assert f.log_likelihood(y[:2])["tokens"].tolist() == [4, 3]


def test_save_and_load_is_the_identity(fitted, tmp_path):
    series, static = word_tables()
    fitted.save(tmp_path / "f.safetensors")
    other = TokenForecaster.load(tmp_path / "f.safetensors")
    assert other.fingerprint == fitted.fingerprint
    assert other.settings == fitted.settings
    prefix = word_prefixes(series, 5)
    assert other.state(prefix, static) == fitted.state(prefix, static)
    assert other.generate(prefix, static, until=8).equals(fitted.generate(prefix, static, until=8))


@pytest.mark.parametrize(
    "vocabulary",
    [None, [], ["b", "a"], ["a", "a"], ["a", 1], [1.5], [["a"]], ["a", ""], ["a" * 300], "abc"],
)
def test_a_file_with_another_vocabulary_is_refused(one, tmp_path, vocabulary):
    path = tmp_path / "f.safetensors"
    one.save(path)
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    config = json.loads(header["__metadata__"]["config"])
    config["schema"]["vocabulary"] = vocabulary
    header["__metadata__"]["config"] = json.dumps(config)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    with pytest.raises(errors.ModelFileError):
        TokenForecaster.load(path)


def _y(*values: Any) -> pl.DataFrame:
    items = np.arange(len(values)) // 2
    return pl.DataFrame(
        {"unique_id": items, "ds": np.arange(len(values)) % 2 + 1, "y": values}, strict=False
    )


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (_y(None, None), "expected tokens; every cell is empty"),
        (_y("", ""), "expected tokens; every cell is empty"),
        (_y(1.5, 2.0), "expected tokens: text, whole numbers or booleans; received 1.5"),
        (_y("a" * 257, "b"), "expected one token in each row, of at most 256 characters"),
        (_y(["a"], ["b"]), "expected text or a number; received"),
        (
            np.array([["a", 3]], object),
            r"expected tokens of one type \(text, as in the first row\); received 3",
        ),
        (np.array(["a", "b"], object), r"expected shape \(n, T\)"),
    ],
)  # fmt: skip
def test_series_without_tokens_are_refused(series, message):
    with pytest.raises(errors.DataError, match=message):
        fit_words(series)


def test_too_many_tokens_and_too_long_a_sequence_are_refused(monkeypatch):
    monkeypatch.setattr("statecast.tables.columns.MOST_TOKENS", 2)
    with pytest.raises(errors.DataError, match="at most 2 different tokens; received 3"):
        fit_words()
    monkeypatch.undo()
    steps = np.append(np.arange(1, 10_002), 1)
    far = pl.DataFrame({"unique_id": steps * 0, "ds": steps, "y": ["a", "b"] * 5_001})
    far = far.with_columns(unique_id=pl.int_range(pl.len()) // 10_001)
    with pytest.raises(
        errors.DataError, match=r"at most 10,000 tokens, received one of 10,001 \(item 0\)"
    ):
        fit_words(far)


def test_text_for_a_forecaster_of_numbers_is_refused():
    with pytest.raises(errors.DataError, match="TokenForecaster"):
        Forecaster(epochs=1).fit(*word_tables(), verbose=0)


def test_tokens_of_another_type_are_refused_in_a_forecast(one):
    with pytest.raises(errors.DataError, match=r"one type \(text, as in fit\); received 3"):
        one.generate(
            pl.DataFrame({"unique_id": [0], "ds": [1], "y": [3]}), word_tables()[1], until=5
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, x: f.generate(None, x, until=3, beam=Sampling()), "expected a Beam"),
        (lambda f, x: f.sample(None, x, until=3, sampling=Beam()), "expected a Sampling"),
        (lambda f, x: f.sample(None, x, until=3, paths=0), "paths: expected"),
        (
            lambda f, x: f.generate(None, x, until=3, beam=Beam(forbidden="z")),
            "forbidden: expec",
        ),
        (lambda f, x: f.generate(None, x, until=3, beam=Beam(required=[1])), "required: expect"),
        (
            lambda f, x: f.generate(None, x, until=3, beam=Beam(required="ab", forbidden="b")),
            "required: expected tokens that are not forbidden; 'b' is",
        ),
        (lambda f, x: f.generate(None, x, until=3, beam=Beam(forbidden="abc")), "fewer than all"),
        (lambda f, x: f.generate(None, x, until=1, beam=Beam(required="ab")), "at most 1 tokens"),
        (lambda f, x: f.log_likelihood(word_tables()[0], x, known=-1), "known: expected"),
        (
            lambda f, x: f.log_likelihood(word_tables()[0], x, ended=0),
            "ended: expected True or False",
        ),
        (
            lambda f, x: f.log_likelihood(word_tables()[0], x, by_step="no"),
            "by_step: expected True",
        ),
        (lambda f, x: f.rank(word_tables()[0], x, by="both"), "by: expected"),
        (lambda f, x: f.rank(word_tables()[0], x, best=0), "best: expected"),
    ],
)
def test_an_argument_that_does_not_fit_is_refused(one, call, message):
    with pytest.raises(errors.ArgumentError, match=message):
        call(one, word_tables()[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f, x: f.sample(None, x, until=50, paths=10**12),
            "paths: expected at most 250,000,000",
        ),
        (lambda f, x: f.sample(None, x, h=3, paths=2**40), "paths: expected at most 250,000,000"),
        (
            lambda f, x: f.generate(None, x, until=9_000, beam=Beam(10_000, best=10_000)),
            "sequences: expected at most 250,000,000",
        ),
    ],
)
def test_what_does_not_fit_into_memory_is_refused_before_any_work(one, call, message):
    with pytest.raises(errors.ArgumentError, match=message):
        call(one, word_tables()[1])


def test_covariates_are_refused():
    series, static = word_tables()
    plan = series.select("unique_id", "ds", promo=1)
    with pytest.raises(errors.ArgumentError, match="tokens take no covariates"):
        TokenForecaster().fit(series, static, future=plan, verbose=0)


def test_a_file_of_the_other_class_is_refused_by_name(one, tmp_path, untrained):
    y = np.random.default_rng(0).normal(size=(12, 4)).cumsum(axis=1)
    numbers = Forecaster(units=4, ensemble=2, epochs=1).fit(y, verbose=0)
    numbers.save(tmp_path / "numbers.safetensors")
    one.save(tmp_path / "tokens.safetensors")
    with pytest.raises(errors.ModelFileError, match=r"which Forecaster\.load reads"):
        TokenForecaster.load(tmp_path / "numbers.safetensors")
    with pytest.raises(errors.ModelFileError, match=r"which TokenForecaster\.load reads"):
        Forecaster.load(tmp_path / "tokens.safetensors")
    for model, name in ((numbers, "numbers"), (one, "tokens")):
        found = load_model(tmp_path / f"{name}.safetensors")
        assert type(found) is type(model)
        assert found.fingerprint == model.fingerprint


def test_good_tables_give_no_warning(one):
    series, static = word_tables()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one.log_likelihood(series, static)
        one.generate(word_prefixes(series, 0), static, until=6)
