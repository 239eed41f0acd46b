"""The file STATE_DIR/assets.json: which asset of the platform each robot is.

The command `asset set` writes it, and people may edit it.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.model.atomic_file import give, put
from agent.model.errors import WaitingError

NAME = "assets.json"
_LOCK = "assets.lock"

# A larger file was not written by the agent, and reading it would cost too much memory.
_MAX_BYTES = 16 * 1024 * 1024


class AssetFile:
    """Implements ``ports.Assets`` with a file and the setting ``assets.map``.

    The file wins over the setting, key by key. It is read again when it has changed.

    Any thread may use it. A lock file keeps the changes of threads and processes apart.
    """

    def __init__(self, state_dir: Path, configured: Mapping[str, str]) -> None:
        """Name the file in ``state_dir``. ``configured`` is the setting ``assets.map``."""
        self.path = state_dir / NAME
        self._state_dir = state_dir
        self._configured = configured
        # What was read last: the version of the file, and its content.
        self._read: tuple[object, Mapping[str, str]] | None = None

    def known(self) -> Mapping[str, str]:
        """Return the asset id of each robot id, as it is in force. "" is a robot without asset.

        Raises:
            WaitingError: ``asset_file`` when the file can't be used.
        """
        return {**self._configured, **self._file_entries()}

    @contextmanager
    def change(self) -> Iterator[dict[str, str]]:
        """Give the entries of the file to the block, to be changed.

        The changed entries are on the disk when the block has ended. No other thread or process
        changes the file during the block.

        Raises:
            WaitingError: ``asset_file`` when the file can't be used.
            OSError: The file can't be written.
        """
        with self._locked():
            # The file is read anew. Two changes within a tick of the file system's clock may have
            # left the same times.
            self._read = None
            before = self._file_entries()
            entries = dict(before)
            yield entries
            if entries != before:
                text = json.dumps(entries, ensure_ascii=False, indent=2, sort_keys=True)
                put(self.path, f"{text}\n".encode(), owner=self._state_dir)
                self._read = None

    def stamp(self) -> object:
        """Return a value that changes when the file changes, or the right to read it."""
        try:
            state = self.path.stat()
        except OSError as error:
            return error.errno
        return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns

    def _file_entries(self) -> Mapping[str, str]:
        try:
            # A named pipe must not keep the caller waiting for a writer.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unusable(error.strerror or "cannot be opened") from None
        try:
            with os.fdopen(descriptor, "rb") as file:
                return self._current(os.fstat(descriptor), file.read)
        except OSError as error:
            raise self._unusable(error.strerror or "cannot be read") from None

    def _current(self, state: os.stat_result, read: Any) -> Mapping[str, str]:
        if state.st_size > _MAX_BYTES:
            raise self._unusable("is too large")
        if not stat.S_ISREG(state.st_mode):
            raise self._unusable("is no regular file")
        version = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        if self._read is None or self._read[0] != version:
            self._read = version, self._parsed(read())
        return self._read[1]

    def _parsed(self, raw: bytes) -> Mapping[str, str]:
        try:
            entries = json.loads(raw.decode("utf-8"))
        except (ValueError, RecursionError):
            raise self._unusable("is no JSON") from None
        if not isinstance(entries, dict) or not all(
            isinstance(asset, str) for asset in entries.values()
        ):
            raise self._unusable("is no JSON object of robot ids and asset ids")
        return entries

    def _unusable(self, reason: str) -> WaitingError:
        return WaitingError(
            f"{self.path} {reason}",
            code="asset_file",
            hint="mend or delete it; the agent notices by itself",
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock file during the block. The kernel releases it when the process ends."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._state_dir / _LOCK, flags, 0o600)
        try:
            give(descriptor, self._state_dir)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
