"""``RedisStore``: a store on a server of Redis or Valkey, for several processes and machines.

A list has the journal of an item: each entry is the time, the step and the data of an event. So its
length is the number of the last event. A string has the snapshot. A sorted set has all ids in the
order of their bytes, and a hash the texts of ``set_meta``. Each call is one Lua script, which the
server runs alone: it compares before it writes. Decision 57 has the reasons.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit

from statecast.checks import check_choice
from statecast.errors import ArgumentError, StoreError, quoted
from statecast.process import check_extra
from statecast.sessions.store import Change, Durability, Event, Record, Snapshot, Version

if TYPE_CHECKING:
    import redis

SCHEMES = ("redis://", "rediss://", "unix://")

_FORMAT = "1"  # of the keys and of their values
_PREFIX = "statecast"
_CONNECT, _ANSWER = 10.0, 30.0  # seconds to wait, unless the URL has others
_LEASE = 60_000  # milliseconds after which the watch of a process that ended is over
_PAUSE = 0.02  # seconds between two tries to change items while another process ends a migration
_PART = 5_000  # items that `idle` looks at in one call of the server

_EVENT, _STEP = struct.Struct("<q?"), struct.Struct("<q")
_SNAPSHOT = struct.Struct("<qqq")  # the number of the model, and its seq and at
_LAST = struct.Struct("<Iq")  # the number and the time of an item's last event

# What the server must be set to, so that a commit that is answered is on its disk.
_NEEDED = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}

# The begin of every script. ``model`` is the number of times that the texts of `set_meta` changed:
# a process that knows another number works with another model.
_BEGIN = """
local function last(key)
  local n = redis.call('LLEN', key)
  if n == 0 then return struct.pack('<I4', 0) .. string.rep('\\0', 8) end
  return struct.pack('<I4', n) .. string.sub(redis.call('LINDEX', key, -1), 1, 8)
end
local meta = redis.call('HMGET', KEYS[1], 'model', 'latest')
local model, latest = meta[1] or '0', meta[2] or '0'
if model ~= ARGV[1] then return redis.error_reply('STATECAST model') end
"""
_SCRIPTS = {
    # KEYS: meta, then the journal and the snapshot of each item.
    "read": """
local found = {latest}
for i = 2, #KEYS, 2 do
  found[i / 2 + 1] = {redis.call('LRANGE', KEYS[i], 0, -1), redis.call('GET', KEYS[i + 1])}
end
return found
""",
    # KEYS: meta, then the journal of each item.
    "last": """
local found = {}
for i = 2, #KEYS do found[i - 1] = last(KEYS[i]) end
return {latest, table.concat(found)}
""",
    # KEYS: meta, ids, watch, watched, then the journal and the snapshot of each item. ARGV: model,
    # the latest time; then for each item its id, its expected last event, "keep", "drop" or "put",
    # the snapshot, the number of its events, and these.
    "commit": """
local watch = redis.call('GET', KEYS[3])
if watch and string.sub(watch, 1, 4) == 'last' then return redis.error_reply('STATECAST wait') end
local stale, at = {}, 3
for i = 5, #KEYS, 2 do
  if last(KEYS[i]) ~= ARGV[at + 1] then stale[#stale + 1] = (i - 5) / 2 end
  at = at + 5 + tonumber(ARGV[at + 4])
end
if #stale > 0 then return stale end
at = 3
for i = 5, #KEYS, 2 do
  local id, act, n = ARGV[at], ARGV[at + 2], tonumber(ARGV[at + 4])
  redis.call('ZADD', KEYS[2], 0, id)
  for first = at + 5, at + 4 + n, 1000 do
    redis.call('RPUSH', KEYS[i], unpack(ARGV, first, math.min(first + 999, at + 4 + n)))
  end
  if act == 'put' then redis.call('SET', KEYS[i + 1], ARGV[at + 3]) end
  if act == 'drop' then redis.call('DEL', KEYS[i + 1]) end
  if watch then redis.call('SADD', KEYS[4], id) end
  at = at + 5 + n
end
if tonumber(ARGV[2]) > tonumber(latest) then redis.call('HSET', KEYS[1], 'latest', ARGV[2]) end
if watch then redis.call('PEXPIRE', KEYS[4], redis.call('PTTL', KEYS[3])) end
return stale
""",
    # KEYS: meta, ids, then the journal and the snapshot of each item. ARGV: model, then the id of
    # each item and its expected last event, or nothing.
    "delete": """
for i = 3, #KEYS, 2 do
  if ARGV[i] ~= '' and ARGV[i] ~= last(KEYS[i]) then return -1 end
end
local found = 0
for i = 3, #KEYS, 2 do
  found = found + redis.call('DEL', KEYS[i])
  redis.call('DEL', KEYS[i + 1])
  redis.call('ZREM', KEYS[2], ARGV[i - 1])
end
return found
""",
    # KEYS: meta, watch, watched. ARGV: model, the token of the watch or nothing, then the name and
    # the value of each text.
    "set_meta": """
if ARGV[2] ~= '' and redis.call('GET', KEYS[2]) ~= 'last' .. ARGV[2] then
  return redis.error_reply('STATECAST watch')
end
redis.call('DEL', KEYS[2], KEYS[3])
model = string.format('%d', tonumber(model) + 1)
redis.call('HSET', KEYS[1], 'model', model, unpack(ARGV, 3))
return model
""",
    # KEYS: meta, watch, watched. ARGV: model, the token, the lease, and what to do.
    "watch": """
local token, lease, act = ARGV[2], ARGV[3], ARGV[4]
local now = redis.call('GET', KEYS[2])
if act == 'begin' then
  if now then return redis.error_reply('STATECAST busy') end
  redis.call('SET', KEYS[2], 'open' .. token, 'PX', lease)
  redis.call('DEL', KEYS[3])
  return {}
end
local own = now == 'open' .. token or now == 'last' .. token
if act == 'end' then
  if own then redis.call('DEL', KEYS[2], KEYS[3]) end
  return {}
end
if not own then return redis.error_reply('STATECAST watch') end
if act == 'renew' then
  redis.call('PEXPIRE', KEYS[2], lease)
  redis.call('PEXPIRE', KEYS[3], lease)
  return {}
end
local found = redis.call('SMEMBERS', KEYS[3])
redis.call('SET', KEYS[2], act .. token, 'PX', lease)
redis.call('DEL', KEYS[3])
return found
""",
}
# What to do about errors of the server, which their own text does not say.
_ADVICE = {
    "maxmemory": "Give the server more memory (maxmemory), or delete items.",
    "read only": "Name the primary: this server is a replica.",
    "Moved": "Name the node of the cluster that has the keys, which this message has.",
    "MISCONF": "Make room on the disk of the server.",
}


class RedisStore:
    """A store on a server of Redis or Valkey, which several processes and machines may share.

    All keys begin with the prefix in braces, so that they are in one slot of a cluster. The URL
    must then name the node that has this slot.

    Parameters
    ----------
    url : str
        ``redis://user:password@host:6379/0``; ``rediss://...`` with TLS; ``unix:///path?db=0``.
        Its options are ``prefix`` (default: ``statecast``), by which one server may have several
        stores, and those of redis-py, for example ``socket_timeout`` (default: 30 seconds).
    durability : {"full", "relaxed"}
        "full": a commit is on the disk of the server when ``commit`` returns. A server that is not
        set so, or that does not tell, is refused. "relaxed": what the server is set to.

    Raises
    ------
    StoreError
        A server that cannot be reached, that is not set as ``durability`` needs it, or that removes
        keys if its memory is full; or keys that are not of sessions.
    MissingExtraError
        redis-py is not installed: ``pip install 'statecast[redis]'``.
    ArgumentError
        A URL that is none; another ``durability``.

    Examples
    --------
    >>> from statecast.sessions import RedisStore
    >>> store = RedisStore("redis://localhost:6379/0")  # doctest: +SKIP
    """

    def __init__(self, url: str, durability: Durability = "full") -> None:
        check_extra("redis", ["redis"], "A store on a Redis server")
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        check_choice("durability", durability, ["full", "relaxed"])
        self._full, self._closed = durability == "full", False
        try:
            place, _, query = url.partition("?")
            options = dict(parse_qsl(query, keep_blank_values=True))
            self._prefix = options.pop("prefix", _PREFIX)
            parts = urlsplit(place)
            if parts.scheme != "unix" and not re.fullmatch("/?|/[0-9]+", parts.path):
                raise ValueError(f"the path is the number of a database, not {parts.path!r}")
            self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            pool = redis.ConnectionPool.from_url(
                f"{place}?{urlencode(options)}",
                protocol=2,
                retry=Retry(NoBackoff(), 0),  # a commit that is sent twice would find itself
                redis_connect_func=self._connected,
                socket_connect_timeout=_CONNECT,
                socket_timeout=_ANSWER,
                health_check_interval=30,
            )
        except ValueError as error:
            raise ArgumentError(
                f"store: expected a URL such as redis://host:6379/0?prefix=name; received one that "
                f"cannot be read ({error})."
            ) from None
        if not self._prefix or {"{", "}"} & set(self._prefix):
            raise ArgumentError(
                "store: expected a URL whose prefix is a text without braces; received the prefix "
                f"{quoted(self._prefix)}."
            )
        self._client = redis.Redis(connection_pool=pool)
        self._scripts = {
            name: self._client.register_script(_BEGIN + text) for name, text in _SCRIPTS.items()
        }
        self._meta, self._ids = self._key("meta"), self._key("ids")
        self._watch, self._watched = self._key("watch"), self._key("watched")
        self._token: str | None = None  # of this object's watch
        self._model = self._latest = 0
        with self._errors("The store was not opened."):
            try:
                self._client.hsetnx(self._meta, "format", _FORMAT)
            except TypeError as error:  # of redis-py: an option that it does not have
                raise ArgumentError(f"store: {self.name}: {error}.") from None
        self.meta()

    # -- a store -----------------------------------------------------------------------

    @property
    def latest(self) -> int:
        """See ``Store``."""
        return self._latest

    def meta(self) -> dict[str, str]:
        """See ``Store``."""
        texts, self._model, self._latest = self._found()
        return texts

    def set_meta(self, values: Mapping[str, str]) -> None:
        """See ``Store``."""
        pairs = [part for name, text in values.items() for part in (f"text:{name}", text)]
        keys = [self._meta, self._watch, self._watched]
        try:
            self._model = int(self._change("set_meta", keys, self._token or "", *pairs))
        except StoreError:
            if self._token is not None or self._found()[0] != values:
                raise
            self.meta()  # another process was first, with the same texts
        self._token = None

    def read(self, ids: Sequence[bytes], *, whole: bool = False) -> list[Record | None]:
        """See ``Store``."""
        if not ids:
            self._check_open()
            return []
        latest, *found = self._run("read", [self._meta, *self._places(ids)])
        self._latest = max(self._latest, int(latest))
        return [self._record(entries, packed, whole) for entries, packed in found]

    def stale(self, known: Iterable[tuple[bytes, Version]]) -> list[bytes]:
        """See ``Store``."""
        items = dict(known)
        if not items:
            return []
        pairs = zip(items.items(), self._versions(list(items)), strict=True)
        return [each for (each, version), now in pairs if version != now]

    def commit(self, changes: Sequence[Change]) -> list[int]:
        """See ``Store``."""
        ids = [change.id for change in changes]
        keys = [self._meta, self._ids, self._watch, self._watched, *self._places(ids)]
        latest = max((change.events[-1].time for change in changes), default=0)
        given: list[Any] = [latest]
        for change in changes:
            act, packed = change.snapshot, b""
            if isinstance(act, Snapshot):
                packed = _SNAPSHOT.pack(self._model, act.seq, act.at) + act.data
                act = "put"
            events = map(_packed, change.events)
            expected = _LAST.pack(*change.expected)
            given += [change.id, expected, act, packed, len(change.events), *events]
        end = time.monotonic() + 2e-3 * _LEASE
        while True:
            try:
                stale = self._change("commit", keys, *given)
                break
            except _WaitError:
                if time.monotonic() > end:
                    raise
                time.sleep(_PAUSE)
        if not stale:
            self._latest = max(self._latest, latest)
        return stale

    def delete(self, items: Mapping[bytes, Version | None]) -> int | None:
        """See ``Store``. The files of the server have the bytes until they are next written."""
        given: list[bytes] = []
        for each, version in items.items():
            given += [each, b"" if version is None else _LAST.pack(*version)]
        keys = [self._meta, self._ids, *self._places(list(items))]
        found = self._change("delete", keys, *given)
        return None if found < 0 else found

    def ids(self, after: bytes = b"", most: int = 1000) -> list[bytes]:
        """See ``Store``."""
        if self._token is not None:
            self._follow("renew")
        with self._errors():
            found: Any = self._client.zrangebylex(self._ids, b"(" + after, b"+", 0, most)
        return found

    def idle(self, before: int, after: bytes = b"", most: int = 1000) -> dict[bytes, Version]:
        """See ``Store``."""
        found: dict[bytes, Version] = {}
        while part := self.ids(after, _PART):
            for each, version in zip(part, self._versions(part), strict=True):
                if version.seq and version.time < before:
                    found[each] = version
                    if len(found) == most:
                        return found
            after = part[-1]
        return found

    def count(self) -> int:
        """See ``Store``."""
        with self._errors():
            found: Any = self._client.zcard(self._ids)
        return found

    def watch(self) -> None:
        """See ``Store``. It ends too if this process does not call the store for a minute."""
        token = os.urandom(16).hex()
        self._follow("begin", token)
        self._token = token

    def watched(self, *, last: bool = False) -> list[bytes]:
        """See ``Store``."""
        return self._follow("last" if last else "open")

    def unwatch(self) -> None:
        """See ``Store``."""
        token, self._token = self._token, None
        if token is not None:
            self._follow("end", token)

    def close(self) -> None:
        """See ``Store``."""
        self._closed = True
        self._client.connection_pool.disconnect()

    # -- inside ------------------------------------------------------------------------

    def _key(self, kind: str, each: bytes = b"") -> bytes:
        return f"{{{self._prefix}}}:{kind}".encode() + (b":" + each if kind in "js" else b"")

    def _places(self, ids: Iterable[bytes]) -> list[bytes]:
        """The keys of the journal and of the snapshot of each item."""
        return [self._key(kind, each) for each in ids for kind in "js"]

    def _found(self) -> tuple[dict[str, str], int, int]:
        """The texts that the server has, the number of their changes, and the latest time."""
        with self._errors():
            found: Any = self._client.hgetall(self._meta)
        own = {name.decode(): value.decode() for name, value in found.items()}
        if own.get("format") != _FORMAT:
            raise StoreError(
                f"{self.name}: expected keys of sessions of this version of Statecast behind the "
                f"prefix {quoted(self._prefix)}, received those of format {own.get('format')}. "
                "Name another prefix, or open them with the version that wrote them."
            )
        texts = {name[5:]: value for name, value in own.items() if name.startswith("text:")}
        return texts, int(own.get("model", 0)), int(own.get("latest", 0))

    def _versions(self, ids: Sequence[bytes]) -> list[Version]:
        """The last event of each item."""
        keys = [self._meta, *(self._key("j", each) for each in ids)]
        latest, packed = self._run("last", keys)
        self._latest = max(self._latest, int(latest))
        return [Version._make(each) for each in _LAST.iter_unpack(packed)]

    def _record(self, entries: list[bytes], packed: bytes | None, whole: bool) -> Record | None:
        if not entries:
            return None
        events, snapshot = [], None
        for seq, entry in enumerate(entries, 1):
            moment, stepped = _EVENT.unpack_from(entry)
            (at,) = _STEP.unpack_from(entry, _EVENT.size) if stepped else (None,)
            data = entry[_EVENT.size + (_STEP.size if stepped else 0) :]
            events.append(Event(seq, moment, at, data))
        version = Version(*events[-1][:2])
        if packed is not None:
            model, seq, at = _SNAPSHOT.unpack_from(packed)
            if model == self._model:  # else it was removed by `set_meta`
                snapshot = Snapshot(seq, at, packed[_SNAPSHOT.size :])
        if snapshot is not None and not whole:
            seq, at, _ = snapshot
            events = [e for e in events if e.at is None or e.seq > seq or e.at > at]
        return Record(snapshot, events, version)

    def _follow(self, act: str, token: str | None = None) -> list[bytes]:
        """Begin, renew or end a watch, or take what it has noted."""
        keys = [self._meta, self._watch, self._watched]
        return self._change("watch", keys, token or self._token or "", _LEASE, act)

    def _run(self, script: str, keys: list[bytes], *given: Any) -> Any:
        """Run a script that changes nothing."""
        with self._errors():
            return self._scripts[script](keys, (self._model, *given))

    def _change(self, script: str, keys: list[bytes], *given: Any) -> Any:
        """Run a script that changes something."""
        lost = (
            "The connection was lost before the answer, so it is not known whether the change was "
            "made. Repeat the call: an observation that was accepted is then a duplicate."
        )
        with self._errors(lost):
            return self._scripts[script](keys, (self._model, *given))

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"{self.name}: the store is closed. Open it again.")

    @contextmanager
    def _errors(self, lost: str = "Nothing was changed. Repeat the call.") -> Iterator[None]:
        """Raise errors of redis-py as ``StoreError``, and refuse a closed store; ``lost`` says what
        is known if the connection was lost."""
        from redis import exceptions

        self._check_open()
        try:
            yield
        except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
            raise StoreError(f"{self.name}: the server does not answer ({error}). {lost}") from None
        except exceptions.RedisError as error:
            self._refuse(f"{type(error).__name__}: {error}")

    def _refuse(self, text: str) -> NoReturn:
        """Raise for an error that the server, or a script, answered with."""
        if "STATECAST" in text:
            code = text.split()[-1]
            raise (_WaitError if code == "wait" else StoreError)(f"{self.name}: {_CODES[code]}")
        advice = " ".join(advice for sign, advice in _ADVICE.items() if sign in text)
        raise StoreError(
            f"{self.name}: the server refuses ({text}). Nothing of this call was written. {advice}"
        ) from None

    def _connected(self, connection: redis.Connection) -> None:
        """Check the settings of the server, after each connection: it may have been restarted."""
        try:
            connection.on_connect()
            self._check_server(connection)
        except BaseException:
            connection.disconnect()
            raise

    def _check_server(self, connection: redis.Connection) -> None:
        from redis.exceptions import ResponseError

        def ask(*command: str) -> Any:
            connection.send_command(*command)
            return connection.read_response()

        lines = ask("INFO", "memory").decode().splitlines()
        memory = dict(line.split(":", 1) for line in lines if ":" in line)
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory", "0") != "0" and policy.startswith("allkeys"):
            raise StoreError(
                f"{self.name}: expected a server that keeps what it has if its memory is full "
                f"(maxmemory-policy noeviction); received {policy}, which removes items. Set it in "
                "the configuration of the server."
            )
        if not self._full:
            return
        try:
            pairs = [ask("CONFIG", "GET", name) for name in _NEEDED]
        except ResponseError as error:
            raise StoreError(
                f'{self.name}: expected a server that tells its settings, as durability="full" '
                f"depends on them; it refuses ({error}). Allow CONFIG GET for this user; or pass "
                'durability="relaxed", which takes what the server is set to.'
            ) from None
        found = {name.decode(): value.decode() for name, value in pairs}
        wrong = [f"{name} {value}" for name, value in found.items() if value != _NEEDED[name]]
        if wrong:
            needed = ", ".join(f"{name} {value}" for name, value in _NEEDED.items())
            raise StoreError(
                f"{self.name}: expected a server that has a write on its disk before it answers, "
                f'as durability="full" ({needed}); received {", ".join(wrong)}. Change the '
                'configuration of the server, or pass durability="relaxed".'
            )


class _WaitError(StoreError):
    """Another process ends a migration at this moment."""


# What the codes of the scripts mean.
_CODES = {
    "model": "another process went on with another model (`migrate`), or the store was emptied. "
    "Nothing of this call was done. Open the sessions again, with the model of the store.",
    "wait": "another process ends a migration. Nothing of this call was written. Repeat it.",
    "busy": "expected one migration at a time; another one is running, or was until a minute ago "
    "in a process that ended.",
    "watch": "the migration took more than a minute for one part, or another process ended it. "
    "Nothing was changed. Repeat it.",
}


def _packed(event: Event) -> bytes:
    """An event as an entry of a journal."""
    step = b"" if event.at is None else _STEP.pack(event.at)
    return _EVENT.pack(event.time, event.at is not None) + step + event.data
