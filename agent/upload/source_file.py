"""The open file of one upload, and whether it still is the recording that was queued."""

from __future__ import annotations

import os

from agent.files.below_root import open_regular_file, opened_folder
from agent.files.fingerprint import fingerprint
from agent.files.writers import is_open_for_writing
from agent.model.errors import FileChangedError, RecordingError
from agent.model.values import Recording


class SourceFile:
    """A recording opened for reading. What is renamed or deleted meanwhile can still be read to its end."""

    def __init__(self, recording: Recording, *, follow_symlinks: bool = False) -> None:
        """Open the very file that was examined; links are followed only with ``follow_symlinks``.

        Raises:
            RecordingError: ``replaced``, ``not_regular`` or ``not_in_root``, something else has its name now.
            OSError: It can't be opened.
        """
        self.recording = recording
        self.deleted = False
        self._follow_symlinks = follow_symlinks
        path = recording.path
        with opened_folder(path.parent, recording.root, follow_symlinks=follow_symlinks) as folder:
            self.descriptor = open_regular_file(path, folder, follow_symlinks=follow_symlinks)
        state = os.fstat(self.descriptor)
        if (state.st_dev, state.st_ino) != (recording.device, recording.inode):
            self.close()
            raise RecordingError(f"another file took the place of {path}", code="replaced")
        self._changed_at = state.st_ctime_ns

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.descriptor)

    @property
    def touched(self) -> bool:
        """Whether its inode was changed since it was opened: by a new name, or by bytes whose time was put back."""
        return os.fstat(self.descriptor).st_ctime_ns != self._changed_at

    @property
    def is_open_for_writing(self) -> bool:
        """Whether the kernel shows a program that may still write to it."""
        return is_open_for_writing(self.descriptor)

    def check(self) -> None:
        """Compare path and descriptor with what was queued.

        Raises RecordingError("replaced") when other bytes took its place, and FileChangedError when only the time
        of its last change moved: then it settles again. A file that was unlinked is read to its end (``deleted``).
        """
        queued = self.recording
        now = os.fstat(self.descriptor)
        try:
            there = queued.path.stat(follow_symlinks=self._follow_symlinks)
        except OSError:
            self.deleted = now.st_nlink == 0
        else:
            if (there.st_dev, there.st_ino) != (now.st_dev, now.st_ino):
                raise RecordingError(
                    f"another file took the place of {queued.path}", code="replaced"
                )
        if (
            now.st_size != queued.size
            or fingerprint(self.descriptor, now.st_size) != queued.fingerprint
        ):
            raise RecordingError(f"{queued.path} has other bytes now", code="replaced")
        if now.st_mtime_ns != queued.mtime_ns:
            raise FileChangedError(f"{queued.path} was touched while it was sent")
