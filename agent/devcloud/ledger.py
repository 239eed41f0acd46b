"""Stores the embedded platform's devices, tokens, sessions and leases in one file of JSON lines.

Each change appends one line. The change therefore survives the process, and its cost does not
depend on the number of devices. All values are frozen: to change one, put another one with the
same id.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, cast

SessionStatus = Literal["ACTIVE", "COMPLETING", "COMPLETED", "TERMINAL"]

# How long an expired token or lease is kept. The first start after this time removes it. Until
# then a request with it is refused as expired, and not as unknown.
_KEEP_EXPIRED_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Device:
    """An enrolled device.

    ``refused`` is the AuthErrorCode, without its prefix, that the device's key gets. It is empty
    while the key is accepted.
    """

    id: str
    api_key: str = field(repr=False)
    tags: Mapping[str, str]
    refused: str = ""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """An access token. Its id is its value; ``expires_at`` is in seconds since 1970."""

    id: str = field(repr=False)
    device_id: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class IssuedLease:
    """Storage keys for one object. Its id is the access key; it expires as a token does."""

    id: str
    secret_key: str = field(repr=False)
    session_token: str = field(repr=False)
    bucket: str
    object_key: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Completion:
    """What a device reported about the object that it stored."""

    file_size: int
    part_count: int
    etag: str
    part_size_bytes: int
    raw_tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Session:
    """An upload session of a device. Its id is the upload id."""

    id: str
    logical_upload_id: str
    device_id: str
    client_hints: Mapping[str, str]
    bucket: str
    object_key: str
    part_size_bytes: int
    expires_at: float
    status: SessionStatus = "ACTIVE"
    reason: str = ""
    credential_refresh_count: int = 0
    completion: Completion | None = None


Item = Device | IssuedToken | IssuedLease | Session
T = TypeVar("T", Device, IssuedToken, IssuedLease, Session)
_KINDS: tuple[type[Item], ...] = (Device, IssuedToken, IssuedLease, Session)
_BY_NAME = {kind.__name__: kind for kind in _KINDS}


class Ledger:
    """The platform's database: one table for each kind of item, in memory and in a file.

    The embedded cloud can be restarted while agents are in the middle of an upload, so everything
    it issued must be kept. Safe for several threads.
    """

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        """Read the file if there is one, and rewrite it without replaced and long expired items.

        ``now`` returns the wall clock in seconds since 1970.
        """
        self._path = path
        self._now = now
        self._lock = threading.RLock()
        self._tables: dict[type[Item], dict[str, Item]] = {kind: {} for kind in _KINDS}
        for line in path.read_text().splitlines() if path.exists() else ():
            item = _restore(line)
            if item is not None:
                self._tables[type(item)][item.id] = item
        self._remove_expired()
        write_private(
            path, "".join(_line(item) for table in self._tables.values() for item in table.values())
        )

    def get(self, kind: type[T], id_: str) -> T | None:
        """Return the item of that kind and id, or None."""
        with self._lock:
            return cast("T | None", self._tables[kind].get(id_))

    def all(self, kind: type[T]) -> list[T]:
        """Return all items of that kind, in the order in which they were first put."""
        with self._lock:
            return cast("list[T]", list(self._tables[kind].values()))

    def put(self, *items: Item) -> None:
        """Store the items. Each one replaces the item with its id."""
        with self._lock:
            for item in items:
                self._tables[type(item)][item.id] = item
            with self._path.open("a") as file:
                file.writelines(map(_line, items))

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other threads out while the block reads and then writes."""
        with self._lock:
            yield

    def _remove_expired(self) -> None:
        horizon = self._now() - _KEEP_EXPIRED_SECONDS
        for kind in (IssuedToken, IssuedLease):
            table = cast("dict[str, IssuedToken | IssuedLease]", self._tables[kind])
            for id_ in [id_ for id_, item in table.items() if item.expires_at < horizon]:
                del table[id_]


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` atomically by a file that only the user of this process can read."""
    aside = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    aside.replace(path)


def _line(item: Item) -> str:
    return json.dumps({"kind": type(item).__name__, **asdict(item)}) + "\n"


def _restore(line: str) -> Item | None:
    """Return the item of a line, or None when the line is incomplete.

    The last line is incomplete when the process was killed while it wrote.
    """
    with contextlib.suppress(ValueError):
        stored = json.loads(line)
        kind = _BY_NAME[stored.pop("kind")]
        if stored.get("completion"):
            stored["completion"] = Completion(**stored["completion"])
        return kind(**stored)
    return None
