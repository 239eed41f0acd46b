"""The file of the journal: append, look up, compact; keep room for the day when the disk is full.

The documents stay on the disk, memory holds where they lie. Behind the last line the file goes on with zero bytes:
that is the room, already allocated.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from agent.adapters.journal.disk import allocate, write
from agent.adapters.journal.lines import (
    HEAD,
    checked,
    encode,
    end_of_content,
    entries,
    line,
    raw_lines,
    rescue,
    torn,
)
from agent.adapters.journal.offsets import Offsets
from agent.adapters.journal.readahead import ReadAhead
from agent.adapters.journal.tables import DocumentStorage, Recorder, StoredTable
from agent.adapters.journal.upgrade import keep_copy
from agent.model.atomic_file import sync_folder
from agent.model.errors import AgentError, HistoryFullError, HistoryLockedError

FORMAT = 2  # 1 did not know what is remembered of forgotten recordings
RESERVE = 6 * 1024 * 1024  # 3,000 documents of 2 KiB
_STEP = (
    1024 * 1024
)  # what is set aside beyond the reserve, so that few appends have to ask for more
_WORTHWHILE = 4 * 1024 * 1024  # a smaller journal is never compacted by itself
_PATIENCE = 1.0  # seconds for the lock: who asks whether an agent runs holds it for a moment
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_log = logging.getLogger(__name__)


class JournalStorage(DocumentStorage):
    """The journal in one file. One process may write, any number may read meanwhile and see a sound beginning of it.

    ``damage`` is the number of bad lines known: those found when it was opened and those that lie in
    ``<file>.damaged`` from earlier times, until somebody removes that file. All methods may be called from several
    threads.
    """

    def __init__(self, path: Path, *, read_only: bool = False, reserve: int = RESERVE) -> None:
        """Open the journal at ``path``; a writer creates what is missing and keeps ``reserve`` bytes of room.

        What an older agent wrote is first copied to ``<file>.format-N``, then it takes the format of this one.

        Raises HistoryLockedError when another process writes it, HistoryFullError when there is no room to begin one
        or for that copy, and AgentError when its format is a newer one or its files can't be used.
        """
        self.lock = threading.RLock()
        self.damage = 0
        self._path = path
        self._aside = path.with_name(path.name + ".new")
        self._damaged = path.with_name(path.name + ".damaged")
        self._read_only = read_only
        self._reserve = reserve
        self._guard = FileLock(
            path.with_name("lock"), timeout=_PATIENCE, mode=0o640, thread_local=False
        )
        self._descriptor = -1
        self.commits = 0  # transactions that have written something
        self._loads = 0  # how often the file was read: each time its entries may lie elsewhere
        self._folder_synced = False  # the last agent may have died between renaming and syncing
        self._pending: dict[tuple[str, int], str | None] | None = None
        self._forget()
        try:
            if read_only:
                self._open_to_read()
            else:
                self._open_to_write()
        except OSError as error:
            self.close()
            raise _unusable(path, error) from error
        except BaseException:
            self.close()
            raise

    # What TinyDB asks of a storage

    def read(self) -> dict[str, dict[str, Any]] | None:
        """All tables, each a lazy mapping from id to document; None when there are none."""
        return {table: StoredTable(self, table) for table in self.tables()} or None  # type: ignore[misc] # lazy

    def write(self, data: Mapping[str, Mapping[Any, Any]]) -> None:
        """Replace all tables in one transaction; what stays as it was is not written again."""
        with self.transaction():
            for table in {*self.tables(), *data}:
                recorder = Recorder(self, table)
                new = {int(id_): document for id_, document in data.get(table, {}).items()}
                for id_ in set(self.ids(table)) - set(new):
                    del recorder[id_]
                for id_, document in new.items():
                    recorder[id_] = document

    @property
    def closed(self) -> bool:
        """Whether the file was let go of."""
        return self._descriptor < 0

    def close(self) -> None:
        """Let go of the file and of the lock. May be repeated."""
        with self.lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
            self._guard.release()

    # Reading

    def tables(self) -> list[str]:
        """Names of the tables that hold documents."""
        with self.lock:
            names = {*self._places, *(table for table, _ in self._pending or ())}
            return sorted(table for table in names if self.ids(table))

    def ids(self, table: str) -> Sequence[int]:
        """Ids of a table's documents, ascending; a copy."""
        with self.lock:
            ids = self._places[table].ids[:] if table in self._places else array("q")
            changed = {
                id_: text for (name, id_), text in (self._pending or {}).items() if name == table
            }
            if not changed:
                return ids
            return sorted({*ids, *changed} - {id_ for id_, text in changed.items() if text is None})

    def count(self, table: str) -> int:
        """How many documents a table holds."""
        with self.lock:
            if self._pending:
                return len(self.ids(table))
            return len(self._places[table]) if table in self._places else 0

    def last_id(self, table: str) -> int:
        """The highest id that this table ever had, also one of a removed document; 0 before the first."""
        with self.lock:
            return self._last_ids.get(table, 0)

    def text(self, table: str, id_: int, near: ReadAhead | None = None) -> str | None:
        """The JSON of one document, or None when there is none.

        Raises AgentError when the file was changed by somebody else since it was opened.
        """
        with self.lock:
            if self._pending is not None and (table, id_) in self._pending:
                return self._pending[table, id_]
            place = self._places[table].find(id_) if table in self._places else None
            if place is None:
                return None
            entry = near.read(*place, self._end) if near else self._entry(*place)
            head = f"[{encode(table)},{id_},".encode("ascii")
            if not (entry.startswith(head) and entry.endswith(b"]")):
                raise AgentError(
                    f"{self._path} changed under the agent's hands",
                    code="history_damaged",
                    hint="restart the agent; it sets damaged lines aside",
                )
            return entry[len(head) : -1].decode("ascii")

    def texts(self, table: str, ids: Iterable[int]) -> Iterator[tuple[int, str]]:
        """The JSON of these documents, as far as they are there; each is read when it is its turn."""
        near = ReadAhead(self._descriptor)
        generation = self._loads
        for id_ in ids:
            with self.lock:
                if generation != self._loads:
                    near, generation = ReadAhead(self._descriptor), self._loads
                text = self.text(table, id_, near)
            if text is not None:
                yield id_, text

    # Writing

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all writes inside durable together at its end, as one line; all or none.

        Other threads wait meanwhile. One inside another becomes part of that one. Raises HistoryFullError at the end
        when the line could not be written; nothing has changed then.
        """
        with self.lock:
            if self._pending is not None:
                yield
                return
            self._pending = {}
            try:
                yield
                if self._pending:
                    self._commit(self._pending)
            finally:
                self._pending = None

    def put(self, table: str, id_: int, text: str | None) -> None:
        """Set one document's JSON, or remove it with None. Only inside :meth:`transaction`."""
        if self._pending is None:
            raise RuntimeError("writes belong into a transaction")
        self._pending[table, id_] = text

    @property
    def room(self) -> bool:
        """Whether the reserve is there in full; asks the disk for what is missing."""
        with self.lock:
            return self._read_only or self._refill()

    @property
    def wasteful(self) -> bool:
        """Whether a compaction is worth its while: over half of a file of some MiB is out of date."""
        with self.lock:
            live = sum(sum(places.lengths) for places in self._places.values())
            return self._end > _WORTHWHILE and live * 2 < self._end

    def compact(self) -> None:
        """Write what is valid into a new file and put it in place of the old one.

        Raises HistoryFullError when there is no room for that; the old one stays in use then.
        """
        with self.lock:
            if self._read_only:
                raise _no_writer(self._path)
            new = -1
            try:
                new = os.open(
                    self._aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640
                )
                os.fchmod(new, 0o640)
                with open(new, "wb", buffering=1024 * 1024, closefd=False) as file:
                    file.writelines(line(payload) for payload in self._valid())
                os.fsync(new)
                self._aside.rename(self._path)
            except BaseException as error:
                if new >= 0:
                    os.close(new)
                with suppress(OSError):
                    self._aside.unlink(missing_ok=True)
                if isinstance(error, OSError):
                    raise _full(self._path, error) from error
                raise
            self._folder_synced = False
            os.close(self._descriptor)
            self._descriptor = new
            self._load()
            self._refill()
            with suppress(OSError):  # else the next append does it, before anything else
                self._sync_folder()

    # Inside

    def _forget(self) -> None:
        self._places: dict[str, Offsets] = {}
        self._last_ids: dict[str, int] = {}
        self._format = 0  # the highest that a line says
        self._end = 0  # behind the last line
        self._dirty = 0  # bytes behind the end that are not zero: a line that was never finished
        self._allocated = 0

    def _open_to_read(self) -> None:
        with suppress(FileNotFoundError):  # before its first start an agent has an empty history
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            self._load()

    def _open_to_write(self) -> None:
        folder = self._path.parent
        if not folder.is_dir():
            folder.mkdir(parents=True)
            folder.chmod(0o2750)
            sync_folder(folder.parent)
        try:
            self._guard.acquire()
        except Timeout:
            raise HistoryLockedError(
                f"another agent is running: it holds {self._guard.lock_file}"
            ) from None
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._aside.unlink(missing_ok=True)
        bad = self._load()
        if self._end and self._format < FORMAT:
            self._upgrade()
        if not self._end:
            os.fchmod(self._descriptor, 0o640)
            self._append(self._remark())
        with suppress(OSError):  # else the next append does it
            self._wipe()
        self._refill()
        try:
            if bad:
                self._set_aside(bad)
            if bad or self.wasteful:
                self.compact()
        except (OSError, HistoryFullError) as error:
            _log.warning(
                "The history could not be tidied: %s", error, extra={"event": "history_not_tidied"}
            )

    def _upgrade(self) -> None:
        """Make this format of an older one: new tables were added, so one line is enough to say so."""
        keep_copy(self._descriptor, self._end, self._copy_of(self._format))
        for _ in range(2):  # it must not be lost by one flipped bit
            self._append(self._remark())
        _log.info(
            "the history has format %d now; %s is how it was",
            FORMAT,
            self._copy_of(self._format),
            extra={"event": "history_upgraded"},
        )

    def _copy_of(self, format_: int) -> Path:
        return self._path.with_name(f"{self._path.name}.format-{format_}")

    def _load(self) -> list[bytes]:
        """Learn from the file where everything lies; return the bad lines."""
        self._forget()
        self._loads += 1
        bad: list[bytes] = []
        end = end_of_content(self._descriptor)
        for offset, raw in raw_lines(self._descriptor, end):
            payload = checked(raw[:-1]) if raw.endswith(b"\n") else None
            if payload is not None:
                self._apply(offset, payload)
            else:
                rescued = list(rescue(raw))
                if offset + len(raw) == end and not rescued and torn(raw):
                    self._dirty = len(raw)
                    break
                bad.append(raw)
                for inside, good in rescued:
                    self._apply(offset + inside, good)
            self._end = offset + len(raw)
        for table in self._last_ids if bad else ():
            self._last_ids[table] += (
                sum(map(len, bad)) // 12
            )  # more ids than the bad lines can have given
        self._format = (
            self._format or FORMAT
        )  # no remark is left: damaged, and it will be written anew
        bad = [raw.rstrip(b"\n") for raw in bad]
        self.damage = len(self._set_aside_before().union(bad))
        return bad

    def _apply(self, offset: int, payload: bytes) -> None:
        """Take over the line at ``offset``, which is on the disk."""
        if payload.startswith(b"{"):
            remark = json.loads(payload)
            if remark["format"] > FORMAT:
                raise AgentError(
                    f"{self._path} has format {remark['format']}, of a newer agent; this one knows {FORMAT}",
                    code="history_format",
                    hint="install the newer version again, or go back to the history of before its upgrade: put "
                    f"{self._copy_of(FORMAT).name} in its place",
                )
            self._format = max(self._format, remark["format"])
            for table, id_ in remark["last_ids"].items():
                self._last_ids[table] = max(id_, self._last_ids.get(table, 0))
            return
        for table, id_, start, length in entries(payload):
            places = self._places.setdefault(table, Offsets())
            self._last_ids[table] = max(id_, self._last_ids.get(table, 0))
            if length:
                places.put(id_, offset + HEAD + start, length)
            else:
                places.drop(id_)

    def _entry(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def _remark(self) -> bytes:
        return encode({"format": FORMAT, "last_ids": self._last_ids}).encode("ascii")

    def _valid(self) -> Iterator[bytes]:
        yield self._remark()
        for places in self._places.values():
            for id_ in places.ids:
                place = places.find(id_)
                if place:
                    yield b"[%s]" % self._entry(*place)
        yield self._remark()  # twice: the ids given must not be lost by one flipped bit

    def _commit(self, pending: Mapping[tuple[str, int], str | None]) -> None:
        parts = (
            f"[{encode(table)},{id_},{text or 'null'}]" for (table, id_), text in pending.items()
        )
        payload = f"[{','.join(parts)}]".encode("ascii")
        offset = self._end
        self._append(payload)
        self._apply(offset, payload)
        self.commits += 1

    def _append(self, payload: bytes) -> None:
        if self._read_only:
            raise _no_writer(self._path)
        data = line(payload)
        try:
            if not self._folder_synced:
                self._sync_folder()
            self._wipe()
            while self._dirty < len(data):
                self._dirty += os.pwrite(
                    self._descriptor, data[self._dirty :], self._end + self._dirty
                )
            os.fdatasync(self._descriptor)
        except OSError as error:
            with suppress(
                OSError
            ):  # else the next append does it, and at the next start the line's CRC
                self._wipe()
            raise _full(self._path, error) from error
        self._end += len(data)
        self._dirty = 0
        self._refill()

    def _wipe(self) -> None:
        """Put zeros over what was begun and not finished; room that is allocated stays so."""
        if self._dirty:
            write(self._descriptor, bytes(self._dirty), self._end)
            os.fdatasync(self._descriptor)
            self._dirty = 0

    def _refill(self) -> bool:
        if self._allocated < self._end + self._reserve:
            with suppress(OSError):  # a full disk: what is left of the room stays
                allocate(self._descriptor, self._end, self._reserve + _STEP)
                self._allocated = self._end + self._reserve + _STEP
        return self._allocated >= self._end + self._reserve

    def _set_aside_before(self) -> set[bytes]:
        return (
            set(filter(None, self._damaged.read_bytes().split(b"\n")))
            if self._damaged.exists()
            else set()
        )

    def _set_aside(self, bad: Sequence[bytes]) -> None:
        known = self._set_aside_before()
        new = os.open(self._damaged, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        with os.fdopen(new, "ab") as file:
            os.fchmod(new, 0o640)
            file.writelines(raw + b"\n" for raw in bad if raw not in known)
            file.flush()
            os.fsync(new)
        self._sync_folder()

    def _sync_folder(self) -> None:
        sync_folder(self._path.parent)
        self._folder_synced = True


def _full(path: Path, error: OSError) -> HistoryFullError:
    message = f"{path} can't be written: {error.strerror}"
    if error.errno in _FULL:
        return HistoryFullError(message)
    return HistoryFullError(message, code="disk_error", hint="check the disk and its file system")


def _unusable(path: Path, error: OSError) -> AgentError:
    if error.errno in _FULL:
        return _full(path, error)
    return AgentError(
        f"the history {path} can't be opened: {error.strerror}",
        code="history_unusable",
        hint="its folder must belong to the user who runs the agent",
    )


def _no_writer(path: Path) -> AgentError:
    return AgentError(f"{path} was opened for reading only", code="read_only")
