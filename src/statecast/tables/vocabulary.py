"""``Vocabulary``: the tokens seen in training, and a code for each.

A token is a text (a character, a word), a whole number or a boolean; all have one type. The first
two codes are not of tokens: 0 is "unknown", any token not seen in training, and 1 is "end", which
follows the last token of a sequence.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from statecast.checks import is_flag
from statecast.errors import ArgumentError, ModelFileError

UNKNOWN, END, FIRST_TOKEN = 0, 1, 2
MOST_TOKENS = 50_000  # with more y is an id or free text, or the model file is damaged
LONGEST_TOKEN = 256  # characters: a character or a word, not a text
_NAMES = {str: "text", int: "whole numbers", bool: "booleans"}


@dataclass(frozen=True)
class Vocabulary:
    """The sorted tokens; the code of the first is 2.

    Examples
    --------
    >>> vocabulary = Vocabulary(("a", "b"))
    >>> vocabulary.codes(["b", "a", "x"]).tolist()
    [3, 2, 0]
    >>> vocabulary.decode([2, 3]).tolist()
    ['a', 'b']
    """

    tokens: tuple[Any, ...] = ()

    @classmethod
    def learn(cls, tokens: Iterable[Any]) -> Vocabulary:
        """Return the vocabulary of some tokens, which are results of ``token`` of one type."""
        return cls(tuple(sorted(set(tokens))))

    @property
    def size(self) -> int:
        """The number of codes, "unknown" and "end" included."""
        return FIRST_TOKEN + len(self.tokens)

    @property
    def type(self) -> type:
        """The type of every token: str, int or bool."""
        return type(self.tokens[0])

    @cached_property
    def _code(self) -> dict[Any, int]:
        return {token: code for code, token in enumerate(self.tokens, FIRST_TOKEN)}

    @cached_property
    def characters(self) -> bool:
        """Whether every token is one character; a text then stands for its characters."""
        return all(isinstance(each, str) and len(each) == 1 for each in self.tokens)

    def codes(self, tokens: Iterable[Any]) -> np.ndarray:
        """Return the code of each token, int64; 0 for an unknown one."""
        code = self._code
        return np.array([code.get(token, UNKNOWN) for token in tokens], np.int64)

    def known(self, name: str, tokens: Any) -> list[int]:
        """Return the codes of the tokens that an argument holds; none for None.

        If all tokens are characters, a text stands for its characters; else it is one token.

        Parameters
        ----------
        name : str
            The name of the argument, for messages.
        tokens : token, iterable of tokens or None

        Raises
        ------
        ArgumentError
            A token that is not in the vocabulary.
        """
        if tokens is None:
            several = []
        elif not np.iterable(tokens) or (isinstance(tokens, str) and not self.characters):
            several = [tokens] if tokens != "" else []
        else:
            several = list(tokens)
        # The values of a column may be NumPy scalars.
        several = [each.item() if isinstance(each, np.generic) else each for each in several]
        for given in several:
            if type(given) is not self.type or given not in self._code:
                raise ArgumentError(
                    f"{name}: expected tokens that were met in training, such as "
                    f"{list(self.tokens[:5])}; received {given!r}."
                )
        return self.codes(several).tolist()

    def read(self, name: str, texts: Sequence[str]) -> list[Any]:
        """Return the tokens that texts of a command line stand for.

        If all tokens are characters, a text may hold several.

        Raises
        ------
        ArgumentError
            A text that is not a token of this vocabulary.
        """
        if self.characters:
            return list("".join(texts))
        of = {str(each).lower() if self.type is bool else str(each): each for each in self.tokens}
        tokens = [of.get(text.lower() if self.type is bool else text, text) for text in texts]
        self.known(name, tokens)
        return tokens

    def decode(self, codes: Any) -> np.ndarray:
        """Return the token of each code, objects of the same shape; None for 0, 1 and -1."""
        table = np.empty(self.size + 1, object)  # the last entry is for the code -1
        table[FIRST_TOKEN:-1] = self.tokens
        return table[np.asarray(codes)]

    def to_config(self) -> list[Any]:
        """Return the tokens as strict JSON."""
        return list(self.tokens)

    @classmethod
    def from_config(cls, config: Any) -> Vocabulary:
        """Rebuild a vocabulary; ``ModelFileError`` on anything unexpected."""
        good = isinstance(config, list) and 0 < len(config) <= MOST_TOKENS
        good = good and type(config[0]) in _NAMES
        good = good and all(type(token) is type(config[0]) for token in config)
        if good and isinstance(config[0], str):
            good = all(0 < len(token) <= LONGEST_TOKEN for token in config)
        if not good or not all(a < b for a, b in pairwise(config)):
            raise ModelFileError(
                f"vocabulary: expected 1 to {MOST_TOKENS:,} sorted, distinct tokens of one type."
            )
        return cls(tuple(config))


def token(value: Any) -> Any:
    """Return the token that a cell holds: text, int or bool; None if the cell is missing.

    Raises
    ------
    ValueError
        A value that cannot be a token; the message says what was expected.
    """
    if value is None or isinstance(value, str):
        text = str(value) if value else None
        if text is not None and len(text) > LONGEST_TOKEN:
            raise ValueError(f"one token in each row, of at most {LONGEST_TOKEN} characters")
        return text
    if is_flag(value):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, (float, np.floating)):
        if np.isnan(value):
            return None
        if float(value).is_integer() and abs(value) < 2**53:  # pandas makes floats of whole numbers
            return int(value)
    raise ValueError("tokens: text, whole numbers or booleans")


def type_name(kind: type) -> str:
    """Return the name of a type of tokens, for messages."""
    return _NAMES[kind]


def mixed(tokens: Sequence[Any], kind: type) -> int | None:
    """Return the index of the first token that has another type; None if all have this one."""
    return next(
        (i for i, each in enumerate(tokens) if each is not None and type(each) is not kind), None
    )
