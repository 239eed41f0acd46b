"""Stores one recording as one object, by a multipart upload that may have been begun earlier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from agent.model.errors import CloudError, judge
from agent.model.ports import Clock, History
from agent.model.transfer import SentPart, StoredObject
from agent.upload.job import Job
from agent.upload.part_uploader import PartUploader, again
from agent.upload.verify import (
    check_source,
    find_object_if_allowed,
    verified,
)


class MultipartUpload:
    """The multipart upload of one recording: begins or continues it, and completes it.

    The id of the multipart upload is durable before the first part is sent. So a later attempt
    finds the parts that are stored already, and nothing in the bucket is left without an owner.

    Used only by the thread that uploads the recording.
    """

    def __init__(self, job: Job, sender: PartUploader, history: History, clock: Clock) -> None:
        """Store the recording of ``job``.

        Args:
            job: The recording and its document.
            sender: Makes the calls to the store.
            history: Where the document is changed.
            clock: Waits between attempts.
        """
        self._job = job
        self._sender = sender
        self._history = history
        self._clock = clock

    def store(self) -> StoredObject:
        """Send the parts that are missing, complete the object and return it.

        Raises:
            CloudError: The store failed.
            AgentError: The file is not what was queued, or can't be read.
        """
        job, sender = self._job, self._sender
        kept = self._kept_parts()
        if kept is None:
            found = find_object_if_allowed(job, sender)
            if found is not None:
                return found
            kept = []
        if not job.session.multipart_upload_id:
            self._begin()
        numbers = {part.number for part in kept}
        missing = [part for part in job.windows if part.number not in numbers]
        job.transfer.kept = sum(part.size for part in kept)
        try:
            sent = sender.send(job.session.multipart_upload_id, missing, job.file)
        except CloudError as error:
            # Only a new multipart upload helps.
            if error.means("part_not_replaced"):
                self._drop()
            raise
        parts = sorted([*kept, *sent], key=lambda part: part.number)
        check_source(job, sender, parts)
        return self._complete(parts)

    def _kept_parts(self) -> list[SentPart] | None:
        """Return the stored parts that hold the bytes of this file.

        Returns an empty list where no multipart upload was begun, and None where the one that was
        begun does not exist any more.
        """
        job, target = self._job, self._sender.target
        multipart = job.session.multipart_upload_id
        if not multipart:
            return []
        try:
            listed = self._sender.repeat("ListParts", lambda: target.parts(multipart))
        except CloudError as error:
            if error.means("multipart_missing"):
                self._forget()
                return None
            if not error.means("reading_refused"):
                raise
            self._drop()
            return []
        windows = {part.number: part for part in job.windows}
        return [
            sent
            for sent in listed
            if sent.number in windows
            and target.matches(sent, windows[sent.number], job.file.descriptor)
        ]

    def _drop(self) -> None:
        """Abort a multipart upload that is of no use, so that another one is begun."""
        multipart = self._job.session.multipart_upload_id
        self._sender.repeat("AbortMultipartUpload", partial(self._sender.target.abort, multipart))
        self._forget()

    def _forget(self) -> None:
        """Note that the document has no multipart upload any more."""
        job = self._job
        job.amend(self._history, session=replace(job.session, multipart_upload_id=""))

    def _begin(self) -> None:
        """Begin a multipart upload. Its id is durable before the first part is sent."""
        multipart = again(self._clock, self._begin_alone)
        job = self._job
        begun = replace(job.session, multipart_upload_id=multipart, phase="uploading")
        job.amend(self._history, session=begun)

    def _begin_alone(self) -> str:
        """Begin a multipart upload as the only one under this key, and return its id.

        Others were begun by calls whose answers were lost. They are aborted first.
        """
        sender, target = self._sender, self._sender.target
        try:
            for stray in sender.call("ListMultipartUploads", target.multiparts):
                sender.call("AbortMultipartUpload", partial(target.abort, stray))
        except CloudError as error:
            if not error.means("reading_refused"):
                raise
        return sender.call("CreateMultipartUpload", target.begin)

    def _complete(self, parts: Sequence[SentPart]) -> StoredObject:
        """Complete the multipart upload, and return the object that the store shows.

        The answer may be lost though the store has completed the object. So after an error the
        object is looked for first.
        """
        job, sender, target = self._job, self._sender, self._sender.target
        multipart = job.session.multipart_upload_id
        try:
            completed = sender.call(
                "CompleteMultipartUpload", lambda: target.complete(multipart, parts)
            )
        except CloudError as error:
            if judge(error).kind in ("blocked", "lease_lost"):
                raise
            found = find_object_if_allowed(job, sender)
            if found is None:
                raise
            return found
        try:
            return sender.repeat(
                "HeadObject", lambda: verified(completed, target.stat(), job.log.file_size)
            )
        except CloudError as error:
            if not error.means("reading_refused"):
                raise
            # Where the store may not show the object, its answer to the completion is the proof.
            return completed
