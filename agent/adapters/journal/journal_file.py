"""The open file of the journal: lines are appended to it, and space is kept behind the last one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from agent.adapters.journal.disk import allocate, write_all
from agent.adapters.journal.errors import not_writable
from agent.adapters.journal.lines import line
from agent.model.atomic_file import sync_folder

# Allocated in addition to the reserve, so that only few appends have to ask for more space.
_ALLOCATION_STEP_BYTES = 1024 * 1024

_WRITE_BUFFER_BYTES = 1024 * 1024
_MODE = 0o640


class JournalFile:
    """The open file of a journal, with a reserve of allocated space behind its last line.

    The reserve exists for the day when the disk is full: the agent can then still write down how
    its uploads end. The reserved bytes are zeros, by which a reader knows where the lines end.

    A line whose writing failed leaves bytes behind the last line. They are replaced by zeros
    before the next line is written.

    Not safe for several threads by itself: the storage's lock guards it.
    """

    def __init__(self, path: Path, reserve: int) -> None:
        """Name the file ``path`` and its reserve in bytes. It must be opened before use."""
        self.path = path
        self.descriptor = -1
        # Where the last whole line ends, in bytes.
        self.end = 0
        # How many bytes behind the end belong to a line that was never finished.
        self.unfinished_bytes = 0
        self._aside = path.with_name(path.name + ".new")
        self._reserve = reserve
        # Up to here the file is known to have space on the disk.
        self._allocated = 0
        # The agent before this one may have died between renaming the file and syncing its
        # folder. So the first append syncs the folder, too.
        self._folder_synced = False

    def open_to_read(self) -> None:
        """Open the file for reading. Raises OSError, FileNotFoundError where there is none."""
        self.descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def open_to_write(self) -> None:
        """Open the file for writing, and create a missing one. Raises OSError."""
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        # A compaction that was killed has left it.
        self._aside.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file. May be called more than once."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def forget_content(self) -> None:
        """Take the file for empty, before its lines are read anew."""
        self.end = 0
        self.unfinished_bytes = 0
        self._allocated = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on. Raises OSError."""
        return os.pread(self.descriptor, length, offset)

    def begin(self, payload: bytes) -> None:
        """Write the first line of a new journal. Raises what :meth:`append` raises."""
        os.fchmod(self.descriptor, _MODE)
        self.append(payload)

    def append(self, payload: bytes) -> None:
        """Append a line with the JSON ``payload``. It is on the disk on return.

        Raises:
            HistoryFullError: The line can't be written. The file holds the same lines as before.
        """
        data = line(payload)
        try:
            if not self._folder_synced:
                self.sync_folder()
            self.wipe()
            while self.unfinished_bytes < len(data):
                self.unfinished_bytes += os.pwrite(
                    self.descriptor,
                    data[self.unfinished_bytes :],
                    self.end + self.unfinished_bytes,
                )
            os.fdatasync(self.descriptor)
        except OSError as error:
            # Where this fails, too, the next append does it. At the next start the checksum
            # tells that the line is bad.
            with suppress(OSError):
                self.wipe()
            raise not_writable(self.path, error) from error
        self.end += len(data)
        self.unfinished_bytes = 0
        self.refill()

    def wipe(self) -> None:
        """Write zeros over a line that was begun and not finished. Its space stays allocated.

        Raises:
            OSError: The zeros can't be written.
        """
        if self.unfinished_bytes:
            write_all(self.descriptor, bytes(self.unfinished_bytes), self.end)
            os.fdatasync(self.descriptor)
            self.unfinished_bytes = 0

    def refill(self) -> bool:
        """Allocate what is missing of the reserve, and return whether it is there in full."""
        if self._allocated < self.end + self._reserve:
            # On a full disk this fails, and what is left of the reserve stays allocated.
            with suppress(OSError):
                allocate(self.descriptor, self.end, self._reserve + _ALLOCATION_STEP_BYTES)
                self._allocated = self.end + self._reserve + _ALLOCATION_STEP_BYTES
        return self._allocated >= self.end + self._reserve

    def replace(self, payloads: Iterable[bytes]) -> None:
        """Write a new file with one line for each of ``payloads``, and put it in place of this.

        The caller reads the lines of the new file, and then syncs the folder.

        Raises:
            HistoryFullError: The new file can't be written. The old one stays in use.
        """
        new = -1
        try:
            new = os.open(self._aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
            os.fchmod(new, _MODE)
            with open(new, "wb", buffering=_WRITE_BUFFER_BYTES, closefd=False) as file:
                file.writelines(line(payload) for payload in payloads)
            os.fsync(new)
            self._aside.rename(self.path)
        except BaseException as error:
            if new >= 0:
                os.close(new)
            with suppress(OSError):
                self._aside.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise not_writable(self.path, error) from error
            raise
        self._folder_synced = False
        os.close(self.descriptor)
        self.descriptor = new

    def sync_folder(self) -> None:
        """Make the name of the file durable. Raises OSError."""
        sync_folder(self.path.parent)
        self._folder_synced = True
