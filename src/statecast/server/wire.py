"""What comes in and goes out over HTTP: requests that are checked, answers, and problems.

A request is checked for its form only: its size, its JSON, the types of its values. What the values
mean is checked by ``Sessions``. A problem is an error as JSON (RFC 9457), with the text of the
error.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from http import HTTPStatus
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote_to_bytes

import numpy as np

from statecast.checks import check_number, check_whole
from statecast.errors import (
    AbsentError,
    ArgumentError,
    ConflictError,
    DataError,
    OverloadError,
    RequestError,
    StatecastError,
    StateError,
    StoreError,
    VersionError,
    cut,
    listed,
    quoted,
)
from statecast.files import strict_json
from statecast.state import State
from statecast.tables.schema import Schema

if TYPE_CHECKING:
    from starlette.responses import Response

JSON, NDJSON, PROBLEM = "application/json", "application/x-ndjson", "application/problem+json"
CSV, OCTETS = "text/csv", "application/octet-stream"
ARROW = "application/vnd.apache.arrow.stream"
Protocol = Literal["", "mlflow", "v2"]  # "": that of Statecast
BODY_BYTES, _NUMBER_BYTES = 8, 128  # of memory, for a byte of a body and a number of a forecast
_LARGEST = 2**63  # of a whole number: beyond, neither a step nor a code
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_TAG = re.compile(r'"[\x21\x23-\x7e]*"')
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_STATUS: tuple[tuple[type[StatecastError], int], ...] = (  # the first that fits
    (AbsentError, 404),
    (VersionError, 412),
    (ConflictError, 409),
    (DataError, 422),
    (ArgumentError, 422),
    (StateError, 422),
    (OverloadError, 503),
    (StoreError, 503),
)
_MLFLOW_CODES = {
    401: "UNAUTHENTICATED",
    404: "RESOURCE_DOES_NOT_EXIST",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}


@dataclass(frozen=True)
class Limits:
    """How much one request may have, and how many requests there may be.

    Attributes
    ----------
    body : int
        Bytes of a body.
    id : int
        Bytes of an id in UTF-8.
    steps : int
        Steps of a forecast: the largest ``h`` and ``until``.
    quantiles : int
        Levels and quantiles of a forecast.
    rows : int
        Rows of a batch, and of a table.
    numbers : int
        Numbers of a forecast: items, steps and columns multiplied.
    memory : int
        Bytes that the requests in work may take together, as estimated: 8 for each byte of a body,
        and 128 for each number of a forecast. Further requests are refused with status 503.
    requests : int
        Requests in work at once. Further ones are refused with status 503. It bounds the time that
        a request waits for others.
    threads : int
        Requests that are computed at once in threads; the others of them wait.
    headers : int
        Bytes of the headers of a request.
    connections : int
        Connections at once. Further ones are answered with status 503.
    seconds : float
        In which the headers, and then a body, must have arrived.

    Raises
    ------
    ArgumentError
        A number that is not above 0.

    Examples
    --------
    >>> from statecast.server import Limits
    >>> Limits(body=1 << 20).body
    1048576
    """

    body: int = 8 * 2**20
    id: int = 512
    steps: int = 10_000
    quantiles: int = 100
    rows: int = 10_000
    numbers: int = 1_000_000
    memory: int = 512 * 2**20
    requests: int = 256
    threads: int = 64
    headers: int = 65_536
    connections: int = 2_000
    seconds: float = 30.0

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.name != "seconds":
                check_whole(each.name, getattr(self, each.name))
        check_number("seconds", self.seconds, 0.001, 86_400.0)


class Memory:
    """The memory of requests in work, as estimated.

    Parameters
    ----------
    most : int
        Bytes of all of them together.
    """

    def __init__(self, most: int) -> None:
        self._most, self._used, self._lock = most, 0, Lock()

    @contextmanager
    def of_request(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes bytes for a request; they are given back after the block.

        It raises ``OverloadError`` if too many are taken.
        """
        held = 0

        def take(size: int) -> None:
            nonlocal held
            with self._lock:
                if self._used + size > self._most:
                    raise OverloadError(
                        "The requests in work need the memory that they may have. Nothing of this "
                        "one was done. Repeat it later, or ask for less at once."
                    )
                self._used += size
                held += size

        try:
            yield take
        finally:
            with self._lock:
                self._used -= held


def too_many(most: int) -> OverloadError:
    """The refusal of a request if ``most`` are in work."""
    return OverloadError(
        f"Expected at most {most:,} requests at once. Nothing of this one was done. Repeat it "
        "later."
    )


class Work:
    """How many requests are in work. One whose body still arrives takes no work.

    Parameters
    ----------
    most : int
        Further ones are refused.
    """

    def __init__(self, most: int) -> None:
        self._most, self._now = most, 0

    @property
    def full(self) -> bool:
        """Whether no further request may be in work."""
        return self._now >= self._most

    def check(self) -> None:
        """Raise ``OverloadError`` if no further request may be in work."""
        if self.full:
            raise too_many(self._most)

    @contextmanager
    def of_request(self) -> Iterator[None]:
        """Count a request, or refuse it as ``check`` does."""
        self.check()
        self._now += 1
        try:
            yield
        finally:
            self._now -= 1


@dataclass(frozen=True)
class Call:
    """A request whose body has arrived.

    Attributes
    ----------
    item : str
        The id in the path; "" if the path has none.
    query : list of (str, str)
        The parameters after the question mark.
    headers : mapping of str to str
        Names in lower case.
    body : bytes
    media : str
        The media type of the body; "" if it has none.
    path : mapping of str to str
        The parts of the path that name something else than an item, decoded.
    take : callable
        As ``Memory.of_request`` yields it.
    """

    item: str
    query: list[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes
    media: str
    path: Mapping[str, str]
    take: Callable[[int], None]


@dataclass(frozen=True)
class Answer:
    """An answer: a status, an object that becomes JSON (or bytes; None: no body), and headers."""

    status: int
    content: Mapping[str, Any] | bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


# -- problems -------------------------------------------------------------------------------------


def status_of(error: Exception) -> int:
    """Return the status of the answer to an error: 500 for one that is no fault of a request."""
    if isinstance(error, RequestError):
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def shown(status: int, protocol: Protocol) -> int:
    """Return the status that an error has in a protocol: those but ours know 400, and not 422."""
    return 400 if protocol and status == 422 else status


def problem(error: Exception, protocol: Protocol = "") -> Answer:
    """Return the answer to an error, in the form of a protocol.

    The text of a fault of the server is for its log: it may name files.
    """
    status = status_of(error)
    title = HTTPStatus(status).phrase
    content: dict[str, Any] = {"type": "about:blank", "title": title, "status": status}
    headers: dict[str, str] = {"Content-Type": PROBLEM}
    if isinstance(error, StoreError):
        content["detail"] = "The store cannot be used now. The log of the server says why."
        headers["Retry-After"] = "10"
    elif status == 500:
        content["detail"] = "The server failed. Its log says why."
    else:
        content["detail"] = str(error)
    if status != 500:
        content["error"] = type(error).__name__
    if isinstance(error, OverloadError):
        headers["Retry-After"] = "1"
    if isinstance(error, RequestError):
        headers |= error.headers
    if isinstance(error, DataError):
        more = {"column": error.column, "item": error.item}
        content |= {name: plain(value) for name, value in more.items() if value is not None}
    if protocol:
        headers["Content-Type"], status = JSON, shown(status, protocol)
        code = _MLFLOW_CODES.get(status, "INVALID_PARAMETER_VALUE")
        as_mlflow = {"error_code": code, "message": content["detail"]}
        content = as_mlflow if protocol == "mlflow" else {"error": content["detail"]}
    return Answer(status, content, headers)


# -- ids, headers, queries ------------------------------------------------------------------------


def read_item(segment: str, most: int) -> str:
    """Return the id that a segment of a path names: percent-encoded UTF-8 text.

    Raises
    ------
    RequestError
        An escape or bytes that are not valid (status 400); a text that is no id.
    """
    try:
        if _BAD_ESCAPE.search(segment):
            raise ValueError
        text = unquote_to_bytes(segment.encode("latin-1")).decode()
    except ValueError:
        raise RequestError(
            400,
            f"item: expected an id as percent-encoded UTF-8; received {quoted(segment)}. Encode "
            "all of its bytes but letters and digits.",
        ) from None
    return check_item(text, most)


def check_item(text: Any, most: int, where: str = "item") -> str:
    """Return the id of an item: a text of at most ``most`` bytes.

    Raises
    ------
    RequestError
        Another type; an empty or a longer text (status 422).
    """
    if not isinstance(text, str) or not text:
        raise RequestError(422, f"{where}: expected an id, a text; received {quoted(text)}.")
    size = len(text.encode())
    if size > most:
        raise RequestError(
            422, f"{where}: expected an id of at most {most} bytes; received {size:,}."
        )
    return text


def expected_version(call: Call) -> str | None:
    """Return the version in ``If-Match``: "*" for any, None without the header.

    Raises
    ------
    RequestError
        Another form, or ``If-None-Match``, which is for GET (status 422).
    """
    if "if-none-match" in call.headers:
        raise RequestError(
            422, "If-None-Match: expected it with GET only. Use If-Match with the ETag of the item."
        )
    given = call.headers.get("if-match")
    if given is None or given.strip() == "*":
        return None if given is None else "*"
    if not _TAG.fullmatch(given.strip()):
        raise RequestError(
            422,
            "If-Match: expected one ETag of the item, in double quotes, or *; received "
            f"{quoted(given)}.",
        )
    return given.strip()[1:-1]


def is_known(call: Call, tag: str) -> bool:
    """Return whether ``If-None-Match`` has this ETag: the client has the answer already."""
    given = call.headers.get("if-none-match", "")
    return given.strip() == "*" or tag in _TAG.findall(given)


def read_query(call: Call, names: Collection[str]) -> dict[str, list[str]]:
    """Return the values of each parameter of a query.

    Raises
    ------
    RequestError
        A parameter that is not in ``names`` (status 422).
    """
    found: dict[str, list[str]] = {}
    for name, value in call.query:
        if name not in names:
            expected = f"one of {listed(names)}" if names else "no parameters"
            raise RequestError(422, f"Query: expected {expected}; received {quoted(name)}.")
        found.setdefault(name, []).append(value)
    return found


def read_horizon(given: Mapping[str, Any], limits: Limits) -> dict[str, int]:
    """Return ``until`` and ``h`` of a body.

    Raises
    ------
    RequestError
        A value that is no whole number within the limit (status 422).
    """
    found = {}
    for name in ("until", "h"):
        value = given.get(name)
        if value is None:
            continue
        try:
            found[name] = check_whole(name, value, most=limits.steps)
        except ArgumentError:
            raise RequestError(
                422,
                f"{name}: expected a whole number from 1 to {limits.steps:,}; received "
                f"{quoted(value)}.",
            ) from None
    if len(found) == 2:
        raise RequestError(422, "until, h: expected one of them; received both.")
    return found


def one_of(name: str, texts: Sequence[str]) -> str:
    """Return the single value of a parameter; raise ``RequestError`` if there are several."""
    if len(texts) > 1:
        raise RequestError(422, f"{name}: expected it once; received {listed(texts)}.")
    return texts[0]


def read_options(query: Mapping[str, list[str]], limits: Limits) -> dict[str, Any]:
    """Return the arguments of a forecast that a query names.

    Raises
    ------
    RequestError
        A value of another type; more levels and quantiles than the limit (status 422).
    """
    horizon = {name: one_of(name, query[name]) for name in ("until", "h") if name in query}
    whole = {name: int(text) if _WHOLE.fullmatch(text) else text for name, text in horizon.items()}
    found: dict[str, Any] = read_horizon(whole, limits)
    for name in ("level", "quantiles"):
        if name in query:
            found[name] = [
                _number(name, text) for texts in query[name] for text in texts.split(",")
            ]
    count = sum(len(found.get(name, ())) for name in ("level", "quantiles"))
    if count > limits.quantiles:
        raise RequestError(
            422,
            f"level, quantiles: expected at most {limits.quantiles} together; received {count}.",
        )
    for name in ("mean", "calibrated"):
        if name in query:
            text = one_of(name, query[name])
            if text not in ("true", "false"):
                raise RequestError(422, f"{name}: expected true or false; received {quoted(text)}.")
            found[name] = text == "true"
    return found


def take_numbers(
    call: Call, options: Mapping[str, Any], items: int, schema: Schema, limits: Limits
) -> None:
    """Check how many numbers a forecast has, and take memory for them.

    Parameters
    ----------
    call : Call
    options : mapping
        Arguments of a forecast.
    items : int
    schema : Schema
    limits : Limits

    Raises
    ------
    RequestError
        More steps or quantiles than the limits (status 422), or more numbers (413).
    OverloadError
        The memory is taken by other requests.
    """
    until, h = options.get("until"), options.get("h")
    steps = h or (until or 0) - schema.first + 1
    if steps > limits.steps:
        raise RequestError(422, f"Expected at most {limits.steps:,} steps; received {steps:,}.")
    levels, others = options.get("level", [80]), options.get("quantiles", [])
    if len(levels) + len(others) > limits.quantiles:
        raise RequestError(422, f"Expected at most {limits.quantiles} levels and quantiles.")
    columns = 1 + 2 * len(levels) + len(others) + options.get("mean", False)
    numbers = items * steps * columns * len(schema.targets)
    if numbers > limits.numbers:
        raise RequestError(
            413,
            f"Expected a forecast of at most {limits.numbers:,} numbers; this one has "
            f"{numbers:,}: its items, steps and columns multiplied.",
        )
    call.take(_NUMBER_BYTES * max(0, numbers))


def read_moment(text: str) -> dt.datetime:
    """Return a moment, in ISO 8601 with its distance from UTC.

    Raises
    ------
    RequestError
        Another text (status 422).
    """
    try:
        moment = dt.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise RequestError(
            422,
            f"as_of: expected a moment such as 2026-03-01T12:00:00Z; received {quoted(text)}. "
            "Write + as %2B.",
        ) from None


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RequestError(422, f"{name}: expected numbers with commas; received {quoted(text)}.")
    return number


# -- bodies ---------------------------------------------------------------------------------------


def read_object(
    data: bytes, keys: Collection[str] | None, where: str = "Body", *, nan: bool = False
) -> dict[str, Any]:
    """Return a JSON object, with no other keys than these; None: with any. ``nan``: NaN is null.

    Raises
    ------
    RequestError
        Not JSON, or a number that is not finite (status 400); no object, another key (422).
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise RequestError(400, f"{where}: expected JSON in UTF-8; received other bytes.") from None
    try:
        found = strict_json(text, nan=nan)
    except ValueError as error:
        raise RequestError(400, f"{where}: expected JSON ({cut(str(error), 200)}).") from None
    if not isinstance(found, dict):
        raise RequestError(422, f"{where}: expected an object; received {_kind(found)}.")
    unknown = [] if keys is None else [key for key in found if key not in keys]
    if keys is not None and unknown:
        raise RequestError(422, f"{where}: expected {listed(keys)}; received {listed(unknown)}.")
    return found


def read_lines(data: bytes, keys: Collection[str], most: int) -> list[dict[str, Any]]:
    """Return the objects of newline-delimited JSON, which all have the same keys.

    Raises
    ------
    RequestError
        As ``read_object``, with the number of the line; none or too many lines; a line with other
        keys than the first (status 422).
    """
    lines = data.split(b"\n")
    if not lines[-1].strip():
        lines.pop()
    if not 1 <= len(lines) <= most:
        raise RequestError(
            413 if lines else 422,
            f"Body: expected 1 to {most:,} lines of JSON; received {len(lines):,}.",
        )
    rows = [read_object(line, keys, f"Line {i}") for i, line in enumerate(lines, 1)]
    for number, row in enumerate(rows, 1):
        if row.keys() != rows[0].keys():
            raise RequestError(
                422,
                f"Line {number}: expected the keys of the first line, {listed(rows[0])}; received "
                f"{listed(row)}. Send lines with other keys in another call.",
            )
    return rows


def read_row(given: Mapping[str, Any], targets: int, where: str) -> dict[str, Any]:
    """Return the arguments of ``observe`` that an object has, with their types checked.

    Raises
    ------
    RequestError
        A value of another type (status 422).
    """
    found: dict[str, Any] = {}
    if not given.keys() & {"step", "static"}:
        raise RequestError(
            422, f"{where}: expected step with values or future, or static; received neither."
        )
    if "step" in given:
        step = given["step"]
        if isinstance(step, bool) or not isinstance(step, (int, str)) or not _fits(step):
            raise RequestError(
                422,
                f"{where}, step: expected a whole number or a date as text; received "
                f"{quoted(step)}.",
            )
        found["step"] = step
    if "values" in given:
        found["values"] = _values(given["values"], targets, where)
    for name in ("static", "future", "past"):
        if name in given:
            found[name] = read_features(given[name], f"{where}, {name}")
    return found


def read_features(given: Any, where: str) -> dict[str, Any]:
    """Return features by name: each a number, a text, a boolean or None.

    Raises
    ------
    RequestError
        Another value (status 422).
    """
    if not isinstance(given, dict):
        raise RequestError(422, f"{where}: expected an object; received {_kind(given)}.")
    for name, value in given.items():
        if not isinstance(value, (str, int, float, bool, type(None))) or not _fits(value):
            raise RequestError(
                422,
                f"{where}, {quoted(name)}: expected a number, a text, true, false or null; "
                f"received {quoted(value)}.",
            )
    return given


def batch_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return rows of ``read_row``, which have the same keys, as arguments of ``observe_batch``.

    Raises
    ------
    RequestError
        A row with other features than the first (status 422).
    """
    found: dict[str, Any] = {}
    for name in rows[0]:
        if name in ("step", "values"):
            found["steps" if name == "step" else name] = [row[name] for row in rows]
        else:
            found[name] = _columns(rows, name)
    return found


def _columns(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[Any]]:
    """The features ``name`` of several rows as columns."""
    first = rows[0][name]
    for number, row in enumerate(rows, 1):
        if row[name].keys() != first.keys():
            raise RequestError(
                422,
                f"Line {number}, {name}: expected the columns of the first line, {listed(first)}; "
                f"received {listed(row[name])}.",
            )
    return {column: [row[name][column] for row in rows] for column in first}


def read_state(data: bytes) -> State:
    """Return the state of a body that ``state_content`` wrote.

    Raises
    ------
    RequestError
        Not JSON (status 400); another object (422).
    StateError
        Leaves that are no state.
    """
    given = read_object(data, ("fingerprint", "leaves"))
    fingerprint, leaves = given.get("fingerprint"), given.get("leaves")
    if not isinstance(fingerprint, str) or not isinstance(leaves, dict):
        raise RequestError(
            422, "Body: expected fingerprint, a text, and leaves, an object, as GET answers."
        )
    return State({name: _leaf(name, leaf) for name, leaf in leaves.items()}, None, fingerprint)


def _leaf(name: str, given: Any) -> np.ndarray:
    """The array of a leaf, with an axis for its one row."""
    kinds: dict[str, tuple[Any, tuple[type, ...]]] = {
        "float32": (np.float32, (int, float)),
        "int64": (np.int64, (int,)),
    }
    dtype = given.get("dtype") if isinstance(given, dict) else None
    if not isinstance(dtype, str) or dtype not in kinds or set(given) != {"dtype", "values"}:
        raise RequestError(
            422,
            f"Leaf {quoted(name)}: expected dtype, one of {listed(kinds)}, and values; received "
            f"{quoted(given)}.",
        )
    kind, types = kinds[dtype]
    try:
        if not _all_of(given["values"], types):
            raise ValueError
        with np.errstate(over="ignore"):  # an infinite number is refused as a state
            return np.array([given["values"]], kind)
    except (ValueError, OverflowError):
        raise RequestError(
            422, f"Leaf {quoted(name)}: expected nested lists of {dtype} numbers of one shape."
        ) from None


def _all_of(values: Any, types: tuple[type, ...], depth: int = 8) -> bool:
    """Whether nested lists have only values of these types."""
    if isinstance(values, list):
        return depth > 0 and all(_all_of(value, types, depth - 1) for value in values)
    return type(values) in types


def _values(given: Any, targets: int, where: str) -> Any:
    """The value of each target: a number, NaN for null; of a single target, not in a list."""
    several = [given] if targets == 1 else given
    good = isinstance(several, list) and len(several) == targets
    if not good or not all(each is None or _is_number(each) for each in several):
        expected = "a number or null" if targets == 1 else f"a list of {targets} numbers or nulls"
        raise RequestError(422, f"{where}, values: expected {expected}; received {quoted(given)}.")
    cells = [math.nan if each is None else each for each in several]
    return cells[0] if targets == 1 else cells


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and _fits(value)


def _fits(value: Any) -> bool:
    return not isinstance(value, int) or -_LARGEST <= value < _LARGEST


def _kind(value: Any) -> str:
    """The name of a JSON value's type."""
    names = {list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


# -- answers --------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return a cell of a table as a JSON value: NaN and NaT become None, dates ISO 8601 text.

    orjson does this with Python's own types itself.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value != value:
        return None
    if isinstance(value, (float, str, int)):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def table_content(table: Any, without: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return the rows of a table of any library as objects, without some columns."""
    import narwhals.stable.v2 as nw

    frame = nw.from_native(table, eager_only=True)
    names = [name for name in frame.columns if name not in without]
    try:
        columns = [frame.get_column(name).to_list() for name in names]
    except (ValueError, OverflowError) as error:  # Python has no dates beyond the year 9999
        raise DataError(
            f"Expected dates up to the year 9999; the answer has others ({error})."
        ) from None
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def state_content(state: State) -> dict[str, Any]:
    """Return a state of one row as an object."""
    leaves = {
        name: {"dtype": state[name].dtype.name, "values": state[name][0].tolist()}
        for name in state.names
    }
    return {"fingerprint": state.fingerprint, "leaves": leaves}


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Return an object as JSON in UTF-8, as ``plain`` says. A float has the digits that give it
    back."""
    import orjson

    return orjson.dumps(content, plain)


def response_of(answer: Answer) -> Response:
    """Return an answer as Starlette sends it."""
    from starlette.responses import Response as Sent

    content = answer.content
    data = (
        b"" if content is None else content if isinstance(content, bytes) else json_bytes(content)
    )
    headers = {"Cache-Control": "no-store" if answer.status >= 400 else "no-cache"} | answer.headers
    if content is not None:
        headers = {"Content-Type": JSON} | headers
    return Sent(data, answer.status, headers)
