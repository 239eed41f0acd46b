"""STATE_DIR/assets.json: which robot is which asset, as `asset set` or an editor left it."""

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
_LARGEST = 16 * 1024 * 1024


class AssetFile:
    """Implements ``ports.Assets``: the file wins over ``assets.map``, key by key; read again whenever it changed."""

    def __init__(self, state_dir: Path, configured: Mapping[str, str]) -> None:
        """Nothing is read before it is asked for. ``configured`` is assets.map."""
        self.path = state_dir / NAME
        self._state_dir = state_dir
        self._configured = configured
        self._read: tuple[object, Mapping[str, str]] | None = None

    def known(self) -> Mapping[str, str]:
        """What is in force. Raises WaitingError("asset_file") when the file can't be used."""
        return {**self._configured, **self._own()}

    @contextmanager
    def change(self) -> Iterator[dict[str, str]]:
        """The file's own entries, to be changed. What they are when the block ends is durable; nobody else writes.

        Raises WaitingError("asset_file") when the file can't be used, OSError when it can't be written.
        """
        with self._locked():
            self._read = (
                None  # two changes within a tick of the file system's clock may look like one
            )
            before = self._own()
            own = dict(before)
            yield own
            if own != before:
                text = json.dumps(own, ensure_ascii=False, indent=2, sort_keys=True)
                put(self.path, f"{text}\n".encode(), owner=self._state_dir)
                self._read = None

    def stamp(self) -> object:
        """Something that changes whenever the file or the right to read it does."""
        try:
            state = self.path.stat()
        except OSError as error:
            return error.errno
        return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns

    def _own(self) -> Mapping[str, str]:
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
        if not stat.S_ISREG(state.st_mode) or state.st_size > _LARGEST:
            raise self._unusable(
                "is no regular file" if state.st_size <= _LARGEST else "is too large"
            )
        version = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        if self._read is None or self._read[0] != version:
            self._read = version, self._parsed(read())
        return self._read[1]

    def _parsed(self, raw: bytes) -> Mapping[str, str]:
        try:
            told = json.loads(raw.decode("utf-8"))
        except (ValueError, RecursionError):
            raise self._unusable("is no JSON") from None
        if not isinstance(told, dict) or not all(isinstance(asset, str) for asset in told.values()):
            raise self._unusable("is no JSON object of robot ids and asset ids")
        return told

    def _unusable(self, why: str) -> WaitingError:
        return WaitingError(
            f"{self.path} {why}",
            code="asset_file",
            hint="mend or delete it; the agent notices by itself",
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Held for the moment of a change; the kernel lets go of it with the process."""
        descriptor = os.open(
            self._state_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            give(descriptor, self._state_dir)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
