"""The open file of one upload, and whether it still is the recording that was queued."""

from __future__ import annotations

import os

from agent.files.below_root import open_regular_file, opened_folder
from agent.files.fingerprint import fingerprint
from agent.files.reading import reading
from agent.files.writers import is_open_for_writing
from agent.model.errors import FileChangedError, RecordingError
from agent.model.values import Recording


class SourceFile:
    """A recording opened for reading.

    The open descriptor reads the same file to its end, even if the file is renamed or deleted by
    then. The class tells whether the bytes are still those that were queued.

    Opened, checked and closed by the thread that uploads the recording. The threads that send its
    parts read from the descriptor and may call :meth:`check`.
    """

    def __init__(self, recording: Recording, *, follow_symlinks: bool = False) -> None:
        """Open the very file that was examined.

        Args:
            recording: What the examination has found.
            follow_symlinks: Whether links are followed.

        Raises:
            RecordingError: ``replaced``, ``not_regular`` or ``not_in_root``, something else has the
                name of the recording now.
            OSError: The file can't be opened.
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
        """Close the file."""
        os.close(self.descriptor)

    @property
    def touched(self) -> bool:
        """Whether the inode was changed since the file was opened.

        A new name changes it, and so do new bytes whose time of change was set back.
        """
        return os.fstat(self.descriptor).st_ctime_ns != self._changed_at

    @property
    def is_open_for_writing(self) -> bool:
        """Whether the kernel shows a program that may still write to the file."""
        return is_open_for_writing(self.descriptor)

    def check(self) -> None:
        """Compare the file and its path with the recording that was queued.

        A file that was deleted is read to its end; ``deleted`` is set then.

        Raises:
            RecordingError: ``replaced``, other bytes or another file took its place.
            FileChangedError: Only the time of the last change differs. Then the file must settle
                again.
            AgentError: ``io_error``, the file can't be read.
        """
        queued = self.recording
        now = os.fstat(self.descriptor)
        try:
            at_path = queued.path.stat(follow_symlinks=self._follow_symlinks)
        except OSError:
            self.deleted = now.st_nlink == 0
        else:
            if (at_path.st_dev, at_path.st_ino) != (now.st_dev, now.st_ino):
                raise RecordingError(
                    f"another file took the place of {queued.path}", code="replaced"
                )
        with reading(queued.path):
            current = fingerprint(self.descriptor, now.st_size)
        if now.st_size != queued.size or current != queued.fingerprint:
            raise RecordingError(f"{queued.path} has other bytes now", code="replaced")
        if now.st_mtime_ns != queued.mtime_ns:
            raise FileChangedError(f"{queued.path} was touched while it was sent")
