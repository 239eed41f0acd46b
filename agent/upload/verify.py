"""Verifies that the bucket holds exactly the bytes of a recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agent.model.digests import same_etag
from agent.model.errors import CloudError, RecordingError
from agent.model.transfer import SentPart, StoredObject
from agent.upload.job import Job
from agent.upload.part_uploader import PartUploader


def find_object(job: Job, sender: PartUploader) -> StoredObject | None:
    """Return the object, if it lies in the bucket with the bytes of the recording.

    Raises:
        CloudError: The store does not answer, or refuses to show an object whose ETag is not known.
        AgentError: The file is needed for a comparison and can't be opened.
    """
    session = job.session
    try:
        found = sender.repeat("HeadObject", sender.target.stat)
    except CloudError as error:
        if not error.means("reading_refused") or not session.etag:
            raise
        # The ETag was written down when the object was proven to be complete. That still holds.
        return StoredObject(job.log.file_size, session.etag, session.checksum)
    if found is None or found.size != job.log.file_size:
        return None
    if session.etag and same_etag(found.etag, session.etag):
        return found
    return found if sender.target.holds(found, job.windows, job.file.descriptor) else None


def find_object_if_allowed(job: Job, sender: PartUploader) -> StoredObject | None:
    """Return the same as :func:`find_object`, or None where the store refuses to show the object.

    To send the recording again then costs only time.
    """
    try:
        return find_object(job, sender)
    except CloudError as error:
        if not error.means("reading_refused"):
            raise
        return None


def check_source(job: Job, sender: PartUploader, parts: Sequence[SentPart]) -> None:
    """Check that the parts in the store hold the bytes that the file has now.

    Where the file's inode has changed since it was opened, the file is read once more.

    Raises:
        RecordingError: ``replaced``, the file has other bytes now.
        FileChangedError: The file was changed while it was sent.
    """
    job.file.check()
    if not job.file.touched:
        return
    for sent, window in zip(parts, job.windows, strict=True):
        if not sender.target.matches(sent, window, job.file.descriptor):
            raise RecordingError(f"{job.log.path} has other bytes now", code="replaced")


def verified(completed: StoredObject, found: StoredObject | None, size: int) -> StoredObject:
    """Return the object that the store shows, if it is the one that was completed.

    Some stores show another kind of ETag there. Then the size alone decides.

    Args:
        completed: What the answer to CompleteMultipartUpload says.
        found: What HeadObject shows.
        size: The size of the recording in bytes.

    Raises:
        CloudError: ``checksum``, the store shows another object.
    """
    if found is None or found.size != size:
        shown = "nothing" if found is None else f"{found.size} bytes"
        raise CloudError(
            "HeadObject", "checksum", f"the store completed {size} bytes but shows {shown}"
        )
    if "-" in found.etag and "-" in completed.etag and not same_etag(found.etag, completed.etag):
        raise CloudError(
            "HeadObject",
            "checksum",
            f"the store completed {completed.etag} but shows {found.etag}",
        )
    return replace(
        found,
        checksum=found.checksum or completed.checksum,
        algorithm=found.algorithm or completed.algorithm,
    )
