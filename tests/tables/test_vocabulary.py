"""``Vocabulary``: tokens and their codes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statecast.errors import ArgumentError, ModelFileError
from statecast.tables.vocabulary import END, FIRST_TOKEN, UNKNOWN, Vocabulary, mixed, token

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)
tokens = st.one_of(*(st.lists(each, min_size=1) for each in (texts, st.integers(), st.booleans())))


@given(tokens)
def test_codes_and_back_is_the_identity(given_tokens: list[Any]) -> None:
    vocabulary = Vocabulary.learn(given_tokens)
    codes = vocabulary.codes(given_tokens)
    assert vocabulary.decode(codes).tolist() == given_tokens
    assert vocabulary.size == FIRST_TOKEN + len(set(given_tokens))
    assert (codes >= FIRST_TOKEN).all()
    assert (codes < vocabulary.size).all()
    assert vocabulary.decode([UNKNOWN, END, -1]).tolist() == [None, None, None]
    assert np.argsort(vocabulary.codes(sorted(set(given_tokens)))).tolist() == list(
        range(len(set(given_tokens)))
    )


@given(tokens)
def test_a_vocabulary_survives_its_config(given_tokens: list[Any]) -> None:
    vocabulary = Vocabulary.learn(given_tokens)
    config = json.loads(json.dumps(vocabulary.to_config()))
    assert Vocabulary.from_config(config) == vocabulary
    assert Vocabulary.from_config(config).type is vocabulary.type


@pytest.mark.parametrize(
    "config",
    [[], ["b", "a"], ["a", "a"], ["a", 1], [1.5], [""], ["a" * 257], "ab", None, [True, 2]],
)
def test_another_config_is_refused(config: Any) -> None:
    with pytest.raises(ModelFileError, match="vocabulary: expected"):
        Vocabulary.from_config(config)


def test_a_token_that_training_did_not_have_is_unknown() -> None:
    vocabulary = Vocabulary(("a", "b"))
    assert vocabulary.codes(["b", "z", "", 1]).tolist() == [3, UNKNOWN, UNKNOWN, UNKNOWN]
    for name, given_tokens in (("forbidden", ["z"]), ("required", [1]), ("required", "az")):
        with pytest.raises(ArgumentError, match=f"{name}: expected tokens that were met"):
            vocabulary.known(name, given_tokens)


def test_texts_of_a_command_line_are_tokens_of_their_type() -> None:
    assert Vocabulary((3, 12)).read("forbid", ["12"]) == [12]
    assert Vocabulary((False, True)).read("forbid", ["TRUE", "false"]) == [True, False]
    assert Vocabulary(("ab", "c")).read("forbid", ["ab"]) == ["ab"]
    assert Vocabulary(("a", "b")).read("require", ["ba", "b"]) == ["b", "a", "b"]
    with pytest.raises(ArgumentError, match="forbid"):
        Vocabulary((3, 12)).read("forbid", ["4"])


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("a", "a"), ("", None), (None, None), (np.nan, None), (2.0, 2), (np.int8(3), 3), (True, True)],
)
def test_the_token_of_a_cell(cell: Any, expected: Any) -> None:
    found = token(cell)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("cell", [1.5, 2.0**60, b"a", ["a"], "a" * 257])
def test_a_cell_that_is_no_token_is_refused(cell: Any) -> None:
    with pytest.raises(ValueError, match="token"):
        token(cell)


def test_the_first_token_of_another_type() -> None:
    assert mixed(["a", None, 1, 2], str) == 2
    assert mixed([True, False], bool) is None
    assert mixed([True], int) == 0  # a boolean is not a whole number
