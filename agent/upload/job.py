"""One claim of one sync log document, with everything that its upload needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.model.errors import AgentError, RecordingError
from agent.model.ports import History
from agent.model.sync_log import DocumentSession, IdentityChanges, SyncLog, SyncLogChanges
from agent.model.transfer import S3_MAX_PARTS, Part, Transfer, parts_of
from agent.model.values import DeviceProfile
from agent.upload.source_file import SourceFile

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(slots=True)
class Job:
    """One claim of one document, and the state of its upload.

    Used only by the thread that uploads the recording.
    """

    # The document as the history has it now.
    log: SyncLog

    profile: DeviceProfile

    # The open file, or why the file can't be opened. An object that is stored already needs no
    # file.
    source: SourceFile | AgentError

    transfer: Transfer

    # Whether this upload may pass a gate that the cloud closed.
    probe: bool

    # Fields of the document that a new session fixes for its whole life.
    identity: IdentityChanges = field(default_factory=IdentityChanges)

    # How many times the lease was refreshed.
    refreshes: int = 0

    # The parts of the file, set when the upload begins.
    windows: Sequence[Part] = field(default_factory=tuple)

    def close(self) -> None:
        """Close the file."""
        if isinstance(self.source, SourceFile):
            self.source.close()

    @property
    def file(self) -> SourceFile:
        """The open file. Raises AgentError where the file can't be opened."""
        if isinstance(self.source, AgentError):
            raise self.source
        return self.source

    @property
    def session(self) -> DocumentSession:
        """The upload session of the document. Raises LookupError until one is open."""
        return self.log.require_session()

    def amend(self, history: History, **changes: Unpack[SyncLogChanges]) -> None:
        """Change fields of the document durably."""
        self.log = history.amend(self.log.id, **changes)


def windows_of(log: SyncLog) -> Sequence[Part]:
    """Return the parts in which a recording is stored, by the part size of its session.

    Raises:
        RecordingError: ``empty`` or ``too_many_parts``, the file can't be stored like this.
    """
    size, part_size = log.file_size, log.require_session().part_size_bytes
    if size == 0:
        raise RecordingError("an empty file can't be stored", code="empty")
    count = -(-size // part_size)
    if count > S3_MAX_PARTS:
        raise RecordingError(
            f"{size} bytes in parts of {part_size} are {count} parts; {S3_MAX_PARTS} are allowed",
            code="too_many_parts",
            hint="ask the platform's administrator for a larger part size",
        )
    return parts_of(size, part_size)
