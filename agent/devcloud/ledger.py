"""What the embedded platform remembers: devices, tokens, sessions and leases, in one file of JSON lines.

Every change is a line more, so it survives the process, and costs the same with a thousand robots as with one. All
values are frozen: to change one, put another with the same id.
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
_FORGOTTEN_AFTER = (
    86_400.0  # seconds that an ended token or lease is still known by name, after a restart
)


@dataclass(frozen=True, slots=True)
class Device:
    """An enrolled device. ``refused`` is the AuthErrorCode (without prefix) its key gets, "" while it is welcome."""

    id: str
    api_key: str = field(repr=False)
    tags: Mapping[str, str]
    refused: str = ""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """An access token; its id is its value."""

    id: str = field(repr=False)
    device_id: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class IssuedLease:
    """Storage keys for one object; its id is the access key."""

    id: str
    secret_key: str = field(repr=False)
    session_token: str = field(repr=False)
    bucket: str
    object_key: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Completion:
    """What a device said of the object that it stored."""

    file_size: int
    part_count: int
    etag: str
    part_size_bytes: int
    raw_tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Session:
    """A logical upload; its id is the upload id."""

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
    """The platform's memory. Safe for several threads."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        """Open the file and tidy it up, or begin with nothing; ``now`` is the wall clock in seconds since 1970."""
        self._path = path
        self._now = now
        self._lock = threading.RLock()
        self._tables: dict[type[Item], dict[str, Item]] = {kind: {} for kind in _KINDS}
        for line in path.read_text().splitlines() if path.exists() else ():
            item = _restore(line)
            if item is not None:
                self._tables[type(item)][item.id] = item
        self._forget()
        write_private(
            path, "".join(_line(item) for table in self._tables.values() for item in table.values())
        )

    def get(self, kind: type[T], id_: str) -> T | None:
        """The item of that kind and id, if it is known."""
        with self._lock:
            return cast("T | None", self._tables[kind].get(id_))

    def all(self, kind: type[T]) -> list[T]:
        """All items of that kind, in the order in which they came."""
        with self._lock:
            return cast("list[T]", list(self._tables[kind].values()))

    def put(self, *items: Item) -> None:
        """Write items, each in place of the one with its id."""
        with self._lock:
            for item in items:
                self._tables[type(item)][item.id] = item
            with self._path.open("a") as file:
                file.writelines(map(_line, items))

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let nobody else read or write while the block reads and then writes."""
        with self._lock:
            yield

    def _forget(self) -> None:
        horizon = self._now() - _FORGOTTEN_AFTER
        for kind in (IssuedToken, IssuedLease):
            table = cast("dict[str, IssuedToken | IssuedLease]", self._tables[kind])
            for id_ in [id_ for id_, item in table.items() if item.expires_at < horizon]:
                del table[id_]


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` atomically by a file that only its owner can read."""
    aside = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    aside.replace(path)


def _line(item: Item) -> str:
    return json.dumps({"kind": type(item).__name__, **asdict(item)}) + "\n"


def _restore(line: str) -> Item | None:
    """The item of a line; None for the last one of a process that was killed while it wrote."""
    with contextlib.suppress(ValueError):
        stored = json.loads(line)
        kind = _BY_NAME[stored.pop("kind")]
        if stored.get("completion"):
            stored["completion"] = Completion(**stored["completion"])
        return kind(**stored)
    return None
