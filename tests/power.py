"""``Disk``: a file layer of SQLite that knows what a power cut would leave, and that can fail.

Writes go to real files, as to the cache of an operating system. Beside it, ``Disk`` has what is on
the disk for sure: the content of each file at its last sync, and the writes since. A power cut
leaves any of these writes, in any order, and of a write any of its sectors. A file that was made or
deleted is so on the disk once its folder is synced, which SQLite does at the first sync of a new
log or journal.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import apsw

_SECTOR = 512
_Op = tuple[int, bytes | None]  # a write at a place, or without data a truncation to a size


@dataclass
class _File:
    synced: bytearray = field(default_factory=bytearray)
    ops: list[_Op] = field(default_factory=list)
    there: bool = False  # whether its name is on the disk

    def sync(self) -> None:
        for op in self.ops:
            _apply(self.synced, *op)
        self.ops = []

    def left(self, rng: random.Random) -> bytearray:
        """What a power cut leaves."""
        found, ops = bytearray(self.synced), []
        share = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        for at, data in self.ops:
            if data is None:
                ops.append((at, None))
                continue
            end = at + len(data)
            cuts = [at, *range(at - at % _SECTOR + _SECTOR, end, _SECTOR), end]
            parts = [(a, data[a - at : b - at]) for a, b in pairwise(cuts)]
            ops += parts if rng.random() < 0.7 else rng.sample(parts, rng.randint(0, len(parts)))
        ops = [op for op in ops if rng.random() < share]
        if rng.random() < 0.5:
            rng.shuffle(ops)
        for op in ops:
            _apply(found, *op)
        return found


def _apply(content: bytearray, at: int, data: bytes | None) -> None:
    if len(content) < at:
        content.extend(bytes(at - len(content)))
    if data is None:
        del content[at:]
    else:
        content[at : at + len(data)] = data


class Disk(apsw.VFS):
    """The file layer of all connections that are opened within ``with disk.mounted():``.

    Attributes
    ----------
    before : callable or None
        Called before each change of a file, with what is to be done ("write", "sync", "truncate")
        and the name of the file. It may raise, as a disk does.
    """

    def __init__(self) -> None:
        self.before: Callable[[str, str], None] | None = None
        self.lock = threading.RLock()
        self._files: dict[str, _File] = {}
        self._deleted: dict[str, _File] = {}  # the folder was not synced since

    @contextmanager
    def mounted(self) -> Iterator[None]:
        super().__init__("power", "unix", makedefault=True)
        try:
            yield
        finally:
            self.unregister()

    def left(self, rng: random.Random, folder: Path) -> None:
        """Write to a folder what a power cut would leave now."""
        with self.lock:
            for name, file in {**self._deleted, **self._files}.items():
                if file.there or rng.random() < 0.5:
                    (folder / Path(name).name).write_bytes(file.left(rng))
                elif name in self._deleted:
                    (folder / Path(name).name).write_bytes(self._deleted[name].left(rng))
            for name in self._deleted:
                if name not in self._files and rng.random() < 0.5:
                    (folder / Path(name).name).unlink(missing_ok=True)

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        found = _Handle(self, path, name, flags)
        with self.lock:
            if path is not None and path not in self._files:
                self._files[path] = _File()
        return found

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        with self.lock:
            super().xDelete(filename, syncdir)
            file = self._files.pop(filename, None)
            if file is not None and file.there:
                self._deleted[filename] = file
            if syncdir:
                self.sync_folder()

    def sync_folder(self) -> None:
        self._deleted.clear()
        for file in self._files.values():
            file.there = True

    def changed(self, act: str, path: str, op: _Op | None = None) -> None:
        """Note a change that is about to be made."""
        with self.lock:
            file = self._files[path]
            if op is not None:
                file.ops.append(op)
            try:
                if self.before is not None:
                    self.before(act, Path(path).name)
            except BaseException:
                if op is not None:
                    file.ops.pop()
                raise
            if op is None:
                file.sync()
                if not file.there and path.endswith(("-wal", "-journal")):
                    self.sync_folder()


class _Handle(apsw.VFSFile):
    def __init__(self, disk: Disk, path: str, name: Any, flags: list[int]) -> None:
        self._disk, self._path = disk, path
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        with self._disk.lock:
            self._disk.changed("write", self._path, (offset, bytes(data)))
            super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        with self._disk.lock:
            self._disk.changed("truncate", self._path, (newsize, None))
            super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        # The files need no real sync: the process is not killed.
        self._disk.changed("sync", self._path)
