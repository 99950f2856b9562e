"""Sequences: placed after the prefixes, as texts and as tables."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from statecast.tables.schema import Schema
from statecast.tokens.decoding import Found
from statecast.tokens.sequences import Sequences

ROWS = [("a", 1, "x"), ("a", 2, "y"), ("a", 3, "z"), ("b", 1, "y"), ("b", 2, "x"), ("c", 1, "z")]
SERIES = pl.DataFrame(ROWS, schema=["unique_id", "ds", "y"], orient="row")


@pytest.fixture
def schema() -> Schema:
    return Schema.fit(SERIES, tokens=True)


def _sequences(schema: Schema) -> Sequences:
    """Two sequences of items "a" (k = 1) and "b" (k = 2); "c" was not decoded."""
    assert schema.vocabulary is not None
    x, y, z = schema.vocabulary.known("required", "xyz")
    first = Found(
        np.array([[[x, y, -1], [z, -1, -1]]], np.int32),
        np.array([[-1.0, -2.0]]),
        np.array([[False, True]]),
    )
    second = Found(
        np.array([[[-1, -1], [y, -1]]], np.int32), np.array([[-0.5, -np.inf]]), np.array([[1, 0]])
    )
    ids, known = np.array(["a", "b", "c"], object), np.array([1, 2, 4])
    return Sequences.place([first, second], np.array([0, 1]), 2, ids, known, 4, schema, None, None)


def test_sequences_begin_after_the_prefix(schema: Schema) -> None:
    found = _sequences(schema)
    assert found.values[0].tolist() == [[None, "x", "y", None], [None, "z", None, None]]
    assert found.values[1].tolist() == [[None] * 4, [None, None, "y", None]]
    assert found.values[2].tolist() == [[None] * 4] * 2
    assert found.ended.tolist() == [[False, True], [True, False], [False, False]]
    assert found.log_likelihood.tolist() == [[-1.0, -2.0], [-0.5, -np.inf], [0.0, 0.0]]


def test_texts_are_the_joined_tokens(schema: Schema) -> None:
    found = _sequences(schema)
    assert found.text() == [["xy", "z"], ["", "y"], ["", ""]]
    assert found.text("-")[0] == ["x-y", "z"]


def test_a_sequence_goes_up_to_until_and_no_further(schema: Schema) -> None:
    """Codes beyond ``until`` are cut, for an item with a long prefix."""
    assert schema.vocabulary is not None
    codes = schema.vocabulary.known("required", "xyz")
    found = Found(np.array([[codes]], np.int32), np.zeros((1, 1)), np.zeros((1, 1), bool))
    ids = np.array(["a"], object)
    placed = Sequences.place([found], np.array([0]), 1, ids, np.array([2]), 4, schema, None, None)
    assert placed.values.tolist() == [[[None, None, "x", "y"]]]


def test_the_representation_is_short(schema: Schema) -> None:
    shown = repr(_sequences(schema))
    assert shown == "<Sequences: 3 items, 2 sequences each, up to step 4>"
