"""Keeps the journal's damaged lines in a file of their own, for people to look at."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


class DamagedLines:
    """The file ``<journal>.damaged``: lines whose checksum was wrong when a journal was opened.

    The journal itself is compacted without them. The file stays until a person removes it, and
    until then the agent reports its lines.

    Only the process that writes the journal adds lines. Any process may read them.
    """

    def __init__(self, path: Path) -> None:
        """Keep the lines in the file ``path``, which is made when the first line is added."""
        self._path = path

    def read(self) -> set[bytes]:
        """Return the lines in the file, each without its LF.

        Raises:
            OSError: The file can't be read.
        """
        if not self._path.exists():
            return set()
        return set(filter(None, self._path.read_bytes().split(b"\n")))

    def add(self, lines: Iterable[bytes]) -> None:
        """Append those ``lines`` that the file does not have yet.

        The lines are on the disk on return. The caller syncs the folder.

        Raises:
            OSError: The file can't be read or written.
        """
        known = self.read()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o640)
        with os.fdopen(descriptor, "ab") as file:
            os.fchmod(descriptor, 0o640)
            file.writelines(raw + b"\n" for raw in lines if raw not in known)
            file.flush()
            os.fsync(descriptor)
