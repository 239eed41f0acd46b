"""TinyDB's storage in a journal: appends transactions, finds single documents, compacts the file.

The documents stay on the disk, and memory holds where they lie. A transaction is one line at the
end of the file. Behind the last line space is kept allocated for the day when the disk is full.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from agent.adapters.journal.contents import FORMAT, JournalContents
from agent.adapters.journal.damaged_lines import DamagedLines
from agent.adapters.journal.errors import not_usable
from agent.adapters.journal.errors import read_only as read_only_error
from agent.adapters.journal.journal_file import JournalFile
from agent.adapters.journal.lines import (
    encode,
    end_of_content,
    good_lines_inside,
    is_unfinished,
    payload_of,
    raw_lines,
)
from agent.adapters.journal.readahead import ReadAhead
from agent.adapters.journal.tables import DocumentStorage, Recorder, StoredTable
from agent.adapters.journal.upgrade import copy_path, keep_copy
from agent.model.atomic_file import sync_folder
from agent.model.errors import AgentError, HistoryFullError, HistoryLockedError

# Bytes that are kept allocated for a full disk: enough for 3,000 documents of 2 KiB.
RESERVE = 6 * 1024 * 1024

# A smaller journal is never compacted on its own: little would be won.
_COMPACTION_MIN_BYTES = 4 * 1024 * 1024

# How long a writer waits for the lock. A command that asks whether an agent runs holds the lock
# for a moment, and must not keep the agent from starting.
_LOCK_TIMEOUT_SECONDS = 1.0

_log = logging.getLogger(__name__)


class JournalStorage(DocumentStorage):
    """TinyDB's storage in a journal, which is one file of checksummed lines.

    It exists because TinyDB's own storage writes the whole file in each call. When the power fails
    during such a call, all documents are lost.

    One process may write. Any number of processes may read at the same time; each sees the whole
    lines that the file had when it was opened. All methods may be called from several threads.
    They hold ``lock``, which callers may take, too, to make several calls one step.

    ``damage`` is the number of damaged lines that are known: those found when the file was read,
    and those that lie in ``<file>.damaged`` from earlier times.
    """

    def __init__(self, path: Path, *, read_only: bool = False, reserve: int = RESERVE) -> None:
        """Open the journal at ``path``.

        A writer creates what is missing. A journal of an older format is first copied to
        ``<file>.format-N``, and then changed to this version's format.

        Args:
            path: The journal's file. The lock lies beside it.
            read_only: Write nothing, and take no lock.
            reserve: Bytes that are kept allocated behind the last line.

        Raises:
            HistoryLockedError: Another process writes the journal.
            HistoryFullError: There is no space to begin a journal, or for the copy.
            AgentError: The format is a newer one, or the files can't be used.
        """
        self.lock = threading.RLock()
        self.damage = 0
        # How many transactions have written something.
        self.commits = 0
        self._path = path
        self._read_only = read_only
        self._file = JournalFile(path, reserve)
        self._contents = JournalContents(path)
        self._damaged_lines = DamagedLines(path.with_name(path.name + ".damaged"))
        self._process_lock = FileLock(
            path.with_name("lock"), timeout=_LOCK_TIMEOUT_SECONDS, mode=0o640, thread_local=False
        )
        # How often the file was read. Each time its entries may lie elsewhere.
        self._loads = 0
        # What the transaction that is under way writes; None outside of one.
        self._pending: dict[tuple[str, int], str | None] | None = None
        try:
            if read_only:
                self._open_to_read()
            else:
                self._open_to_write()
        except OSError as error:
            self.close()
            raise not_usable(path, error) from error
        except BaseException:
            self.close()
            raise

    def read(self) -> dict[str, dict[str, Any]] | None:
        """Return all tables as TinyDB wants them, or None when there are none.

        Each table maps ids to documents, and reads a document when it is asked for.
        """
        tables = {table: StoredTable(self, table) for table in self.tables()}
        return tables or None  # type: ignore[return-value] # TinyDB only reads them

    def write(self, data: Mapping[str, Mapping[Any, Any]]) -> None:
        """Replace all tables in one transaction, as TinyDB asks for.

        A document that stays as it was is not written again. Raises what :meth:`transaction`
        raises.
        """
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
        """Whether the file is closed."""
        return self._file.descriptor < 0

    @property
    def size(self) -> int:
        """Where the last line ends, in bytes. The reserve comes after it."""
        return self._file.end

    def close(self) -> None:
        """Close the file and give up the lock. May be called more than once."""
        with self.lock:
            self._file.close()
            self._process_lock.release()

    def tables(self) -> list[str]:
        """Return the names of the tables that hold documents, in alphabetical order."""
        with self.lock:
            names = {*self._contents.tables, *(table for table, _ in self._pending or ())}
            return sorted(table for table in names if self.ids(table))

    def ids(self, table: str) -> Sequence[int]:
        """Return the ids of a table's documents, ascending, as a copy."""
        with self.lock:
            ids = self._contents.ids(table)
            changed = {
                id_: text for (name, id_), text in (self._pending or {}).items() if name == table
            }
            if not changed:
                return ids
            removed = {id_ for id_, text in changed.items() if text is None}
            return sorted({*ids, *changed} - removed)

    def count(self, table: str) -> int:
        """Return how many documents a table holds."""
        with self.lock:
            if self._pending:
                return len(self.ids(table))
            return self._contents.count(table)

    def last_id(self, table: str) -> int:
        """Return the highest id that a table ever had, also of a removed document.

        It is 0 before the first document.
        """
        with self.lock:
            return self._contents.last_id(table)

    def text(self, table: str, id_: int, read_ahead: ReadAhead | None = None) -> str | None:
        """Return the JSON of one document, or None when there is none.

        ``read_ahead`` makes a walk through many documents cheaper.

        Raises:
            AgentError: ``history_damaged`` when another program has changed the file since it
                was opened.
            OSError: The file can't be read.
        """
        with self.lock:
            if self._pending is not None and (table, id_) in self._pending:
                return self._pending[table, id_]
            place = self._contents.find(table, id_)
            if place is None:
                return None
            if read_ahead is None:
                entry = self._file.read(*place)
            else:
                entry = read_ahead.read(*place, self._file.end)
            head = f"[{encode(table)},{id_},".encode("ascii")
            if not (entry.startswith(head) and entry.endswith(b"]")):
                raise AgentError(
                    f"{self._path} was changed by another program while it was open",
                    code="history_damaged",
                    hint="restart the agent; it sets damaged lines aside",
                )
            return entry[len(head) : -1].decode("ascii")

    def texts(self, table: str, ids: Iterable[int]) -> Iterator[tuple[int, str]]:
        """Yield id and JSON of those documents of ``ids`` that are there.

        Each document is read when it is its turn. Raises what :meth:`text` raises.
        """
        read_ahead = ReadAhead(self._file.descriptor)
        generation = self._loads
        for id_ in ids:
            with self.lock:
                if generation != self._loads:
                    read_ahead = ReadAhead(self._file.descriptor)
                    generation = self._loads
                text = self.text(table, id_, read_ahead)
            if text is not None:
                yield id_, text

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all writes inside the block durable together at its end, as one line.

        Other threads wait until the block ends. A block inside another one becomes part of it.

        Raises:
            HistoryFullError: The line could not be written when the block ended. Nothing has
                changed.
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
        """Set the JSON of one document, or remove it with None.

        Raises:
            RuntimeError: The call stands outside of :meth:`transaction`.
        """
        if self._pending is None:
            raise RuntimeError("writes belong into a transaction")
        self._pending[table, id_] = text

    @property
    def room(self) -> bool:
        """Whether the reserve is there in full. Tries to allocate what is missing of it."""
        with self.lock:
            return self._read_only or self._file.refill()

    @property
    def wasteful(self) -> bool:
        """Whether a compaction is worth its cost: over half of a large file is out of date."""
        with self.lock:
            live = self._contents.live_bytes()
            return self._file.end > _COMPACTION_MIN_BYTES and live * 2 < self._file.end

    def compact(self) -> None:
        """Write what is valid into a new file, and put it in place of the old one.

        Raises:
            HistoryFullError: There is no space for the new file. The old one stays in use.
            AgentError: ``read_only`` when the journal was opened for reading.
        """
        with self.lock:
            if self._read_only:
                raise read_only_error(self._path)
            self._file.replace(self._valid_payloads())
            self._load()
            self._file.refill()
            # Where this fails, the next append does it before anything else.
            with suppress(OSError):
                self._file.sync_folder()

    def _open_to_read(self) -> None:
        # Before its first start an agent has no file, and so an empty history.
        with suppress(FileNotFoundError):
            self._file.open_to_read()
            self._load()

    def _open_to_write(self) -> None:
        folder = self._path.parent
        if not folder.is_dir():
            folder.mkdir(parents=True)
            folder.chmod(0o2750)
            sync_folder(folder.parent)
        try:
            self._process_lock.acquire()
        except Timeout:
            raise HistoryLockedError(
                f"another agent is running: it holds {self._process_lock.lock_file}"
            ) from None
        self._file.open_to_write()
        bad = self._load()
        # A journal without any remark has lost it by damage, and is compacted below.
        if self._file.end and self._contents.format and self._contents.format < FORMAT:
            self._upgrade(self._contents.format)
        if not self._file.end:
            self._file.begin(self._contents.remark())
        # Where this fails, the next append does it.
        with suppress(OSError):
            self._file.wipe()
        self._file.refill()
        try:
            if bad:
                self._damaged_lines.add(bad)
                self._file.sync_folder()
            if bad or self.wasteful:
                self.compact()
        except (OSError, HistoryFullError) as error:
            _log.warning(
                "the history could not be compacted: %s",
                error,
                extra={"event": "history_not_tidied"},
            )

    def _upgrade(self, old_format: int) -> None:
        """Change the journal to this version's format.

        The formats differ by tables that were added, so a remark is all that has to be written.
        """
        copy = copy_path(self._path, old_format)
        keep_copy(self._file.descriptor, self._file.end, copy)
        # It is written twice, so that one flipped bit can't lose it.
        for _ in range(2):
            self._file.append(self._contents.remark())
        _log.info(
            "the history was changed to format %d; a copy of the old one is kept in %s",
            FORMAT,
            copy,
            extra={"event": "history_upgraded"},
        )

    def _load(self) -> list[bytes]:
        """Read where everything lies in the file, and return the damaged lines without LF."""
        self._contents = JournalContents(self._path)
        self._file.forget_content()
        self._loads += 1
        bad: list[bytes] = []
        end = end_of_content(self._file.descriptor)
        for offset, raw in raw_lines(self._file.descriptor, end):
            payload = payload_of(raw[:-1]) if raw.endswith(b"\n") else None
            if payload is not None:
                self._contents.apply(offset, payload)
            else:
                rescued = list(good_lines_inside(raw))
                if offset + len(raw) == end and not rescued and is_unfinished(raw):
                    self._file.unfinished_bytes = len(raw)
                    break
                bad.append(raw)
                for inside, good in rescued:
                    self._contents.apply(offset + inside, good)
            self._file.end = offset + len(raw)
        if bad:
            self._contents.skip_ids(sum(map(len, bad)))
        bad = [raw.rstrip(b"\n") for raw in bad]
        self.damage = len(self._damaged_lines.read().union(bad))
        return bad

    def _valid_payloads(self) -> Iterator[bytes]:
        """Yield the JSON of each line that a compacted journal has."""
        yield self._contents.remark()
        for place in self._contents.places():
            yield b"[%s]" % self._file.read(*place)
        # Twice, so that one flipped bit can't lose which ids were given.
        yield self._contents.remark()

    def _commit(self, pending: Mapping[tuple[str, int], str | None]) -> None:
        if self._read_only:
            raise read_only_error(self._path)
        parts = (
            f"[{encode(table)},{id_},{text or 'null'}]" for (table, id_), text in pending.items()
        )
        payload = f"[{','.join(parts)}]".encode("ascii")
        offset = self._file.end
        self._file.append(payload)
        self._contents.apply(offset, payload)
        self.commits += 1
