"""Checks of arguments: what each takes, and that its message names what came."""

import math

import numpy as np
import pytest

from statecast.checks import (
    check_choice,
    check_flag,
    check_number,
    check_numbers,
    check_whole,
    is_number,
    is_whole,
)
from statecast.errors import ArgumentError, StateError

NO_NUMBERS = (None, True, np.True_, "1", b"1", 1j, [1], {}, np.array([1]), np.datetime64(1, "D"))


@pytest.mark.parametrize("value", [1, np.int8(1), np.uint64(1)])
def test_whole_numbers_of_numpy_are_those_of_python(value):
    found = check_whole("n", value)
    assert (found, type(found)) == (1, int)
    assert is_whole(value, 1, 1)
    assert not is_whole(value, 2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.float16(0.5), np.float32(0.5), np.float64(0.5)])
def test_a_limit_outside_the_range_of_a_dtype_raises_no_warning(value):
    assert is_number(value, -1e300, 1e300)
    assert not is_number(value, 1e300)
    assert check_numbers("n", [value]) == [0.5]


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1.0, 0.5, math.nan, np.float32(1)])
def test_what_is_no_whole_number_is_refused(value):
    assert not is_whole(value)
    with pytest.raises(ArgumentError, match=r"^n: expected a whole number from 1; received "):
        check_whole("n", value)


def test_a_message_says_the_range_or_what_is_asked_for():
    with pytest.raises(ArgumentError, match=r"^n: .* from 0 to 2000; received 2001\.$"):
        check_whole("n", 2001, 0, 2000)
    with pytest.raises(ArgumentError, match=r"^n: .* from 0 to 2000; received -1\.$"):
        check_whole("n", -1, 0, 2000)
    with pytest.raises(StateError, match=r"^n: expected a step; received 0\.$"):
        check_whole("n", 0, expected="a step", error=StateError)
    with pytest.raises(ArgumentError, match=r"^r: expected a number from 0 to 1; received 1\.5\.$"):
        check_number("r", 1.5, 0, 1)
    with pytest.raises(ArgumentError, match=r"^r: expected a share; received nan\.$"):
        check_number("r", math.nan, 0, 1, expected="a share")


@pytest.mark.parametrize("value", [*NO_NUMBERS, math.nan])
def test_what_is_no_number_is_refused(value):
    assert not is_number(value)
    with pytest.raises(ArgumentError, match=r"^r: expected a number from 0 to 1; received"):
        check_number("r", value, 0, 1)


def test_numbers_are_floats():
    for value in (1, 0.5, np.float32(0.25), np.int16(0)):
        found = check_number("r", value, 0, 1)
        assert (found, type(found)) == (value, float)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, []), (80, [80.0]), ([], []), ((1, 2.5), [1.0, 2.5]), (np.float64(3), [3.0]),
        (np.array([[1, 2]]), [1.0, 2.0]), (range(2), [0.0, 1.0]), (iter([1]), [1.0]),
    ],
)  # fmt: skip
def test_one_number_or_several_are_a_list(given, expected):
    assert check_numbers("level", given) == expected


@pytest.mark.parametrize(
    "given",
    ["80", b"8", True, [True], ["80"], [None], [[1]], math.nan, [math.inf], 10**400, object()],
)
def test_what_is_no_list_of_numbers_is_refused(given):
    with pytest.raises(
        ArgumentError, match=r"^level: expected a number, several or None; received"
    ):
        check_numbers("level", given)


@pytest.mark.parametrize("value", [0, 1, None, "True", np.array([True, False])])
def test_a_flag_is_true_or_false(value):
    assert check_flag("f", np.True_) is True
    assert check_flag("f", False) is False
    with pytest.raises(ArgumentError, match=r"^f: expected True or False; received"):
        check_flag("f", value)


@pytest.mark.parametrize("value", ["c", None, ["a"], {}, np.array(["a", "b"]), math.nan])
def test_a_choice_is_one_of_the_list(value):
    assert check_choice("by", "a", ("a", "b")) == "a"
    with pytest.raises(ArgumentError, match=r"^by: expected one of \['a', 'b'\]; received"):
        check_choice("by", value, ("a", "b"))
