"""The multipart upload of one recording: one key in one bucket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from agent.adapters.store.object_requests import ObjectRequests
from agent.adapters.store.part_body import PartBody
from agent.adapters.store.part_proof import ProvenPartSender, sent_part
from agent.adapters.store.responses import etag_of
from agent.adapters.store.xml_documents import (
    children,
    completion_request,
    decoded,
    number_in,
    required,
    text_of,
    xml,
)
from agent.model.digests import b64, contradiction, md5_of, proves, quoted
from agent.model.errors import CloudError
from agent.model.transfer import Part, SentPart, StoredObject, Transfer
from agent.model.unforeseen import foreign

# How many entries one page of a list has, as the parameter of a request.
_PAGE_ENTRIES = "1000"

# RFC 9110: range not satisfiable. The object is empty.
_RANGE_STATUS = 416

# The parameters that ask for the next page of a list, and the elements that have their values.
_UPLOAD_MARKERS = {"key-marker": "NextKeyMarker", "upload-id-marker": "NextUploadIdMarker"}
_PART_MARKERS = {"part-number-marker": "NextPartNumberMarker"}


class MultipartTarget:
    """Implements ``ports.Target``: the requests that bring one recording into its bucket.

    What it learns about the store's answers lasts as long as the target does. Each public method
    turns what its library was not known to raise into a CloudError of that call.

    May be used from any thread.
    """

    def __init__(
        self,
        requests: ObjectRequests,
        *,
        algorithm: str,
        encryption: Mapping[str, str],
        storage_class: str,
    ) -> None:
        """Make the target; no request is sent.

        Args:
            requests: Sends the requests.
            algorithm: "CRC32" or "SHA256": the cheapest digest that proves a part. Over plain HTTP
                the signature needs SHA-256 anyway.
            encryption: The headers that choose the encryption of a new object.
            storage_class: The recording's storage class; "" for the bucket's own.
        """
        self._requests = requests
        self._session = requests.session
        self._algorithm = algorithm
        self._encryption = encryption
        self._storage_class = {"x-amz-storage-class": storage_class} if storage_class else {}
        self._checksum_header = f"x-amz-checksum-{algorithm.lower()}"
        self._part_sender = ProvenPartSender(requests, algorithm)

    @foreign("CreateMultipartUpload")
    def begin(self) -> str:
        """Begin a multipart upload whose parts carry a checksum, and return its id."""
        call = "CreateMultipartUpload"
        headers = {
            "x-amz-checksum-algorithm": self._algorithm,
            "Content-Type": "application/octet-stream",
            **self._encryption,
            **self._storage_class,
        }
        answer = self._requests.send(call, "POST", {"uploads": ""}, headers)
        return required(xml(answer, call), "UploadId", call)

    @foreign("ListMultipartUploads")
    def multiparts(self) -> Sequence[str]:
        """Return the ids of the multipart uploads that were begun under exactly this key."""
        query = {
            "uploads": "",
            "prefix": self._session.object_key,
            "max-uploads": _PAGE_ENTRIES,
            # Keys may have characters that XML can't carry.
            "encoding-type": "url",
        }
        pages = self._requests.pages("ListMultipartUploads", query, _UPLOAD_MARKERS, in_bucket=True)
        try:
            return [
                text_of(upload, "UploadId")
                for page in pages
                for upload in children(page, "Upload")
                if decoded(page, text_of(upload, "Key")) == self._session.object_key
            ]
        except CloudError as error:
            # rclone answers this where there is no multipart upload.
            if error.means("multipart_missing"):
                return []
            raise

    @foreign("UploadPart")
    def send(self, multipart_id: str, part: Part, descriptor: int, transfer: Transfer) -> SentPart:
        """Send a part of the file, and return when the store has proven that it holds the bytes."""
        return self._part_sender.send(multipart_id, part, descriptor, transfer)

    @foreign("ListParts")
    def parts(self, multipart_id: str) -> Sequence[SentPart]:
        """Return the parts that the store holds, in order."""
        query = {"uploadId": multipart_id, "max-parts": _PAGE_ENTRIES}
        return [
            self._listed_part(part)
            for page in self._requests.pages("ListParts", query, _PART_MARKERS)
            for part in children(page, "Part")
        ]

    @foreign("ListParts")
    def matches(self, sent: SentPart, part: Part, descriptor: int) -> bool:
        """Return whether a part that the store has listed holds the file's bytes."""
        if (sent.number, sent.size) != (part.number, part.size):
            return False
        body = PartBody(part, descriptor, Transfer(part.size))
        if sent.checksum:
            return sent.checksum == b64(body.digest(sent.algorithm)[0])
        same = md5_of(sent.etag) == body.digest("MD5")[0]
        if same:
            self._part_sender.etags = "digests"
        return same

    @foreign("CompleteMultipartUpload")
    def complete(self, multipart_id: str, parts: Sequence[SentPart]) -> StoredObject:
        """Join the parts, and check that the store's digests of the whole follow from theirs."""
        call = "CompleteMultipartUpload"
        answer = self._requests.send(
            call,
            "POST",
            {"uploadId": multipart_id},
            {"Content-Type": "application/xml"},
            completion_request(parts),
        )
        root = xml(answer, call)
        etag = required(root, "ETag", call)
        checksum = text_of(root, f"Checksum{self._algorithm}")
        reason = contradiction(
            parts,
            etag,
            checksum,
            self._algorithm,
            digests=self._part_sender.etags != "opaque",
        )
        if reason:
            raise CloudError(call, "checksum", reason)
        return self._stored_object(sum(part.size for part in parts), etag, checksum)

    @foreign("HeadObject")
    def stat(self) -> StoredObject | None:
        """Return what lies under the key now; None when nothing does."""
        headers = {"x-amz-checksum-mode": "ENABLED"}
        try:
            answer = self._requests.send("HeadObject", "HEAD", {}, headers)
        except CloudError as error:
            if error.status in {400, 401, 403, 404} and self._is_absent():
                return None
            raise
        etag = etag_of(answer, "HeadObject")
        length = answer.headers.get("content-length", "")
        if not length:
            raise CloudError(
                "HeadObject", "portal", "an answer without a length is not the store's"
            )
        size = number_in(length, "Content-Length", "HeadObject")
        return self._stored_object(size, etag, answer.headers.get(self._checksum_header, ""))

    @foreign("HeadObject")
    def holds(self, stored: StoredObject, parts: Sequence[Part], descriptor: int) -> bool:
        """Return whether a stored object has the file's bytes, sent in these parts."""

        def digest(algorithm: str, part: Part) -> bytes:
            return PartBody(part, descriptor, Transfer(part.size)).digest(algorithm)[0]

        return proves(stored, parts, digest)

    @foreign("AbortMultipartUpload")
    def abort(self, multipart_id: str) -> None:
        """Abort the multipart upload; one that does not exist any more is no error."""
        try:
            self._requests.send("AbortMultipartUpload", "DELETE", {"uploadId": multipart_id})
        except CloudError as error:
            if error.status != 404:
                raise

    @foreign("PutObject")
    def put(self, data: bytes, content_type: str) -> None:
        """Store a small object. The request's signature covers its bytes."""
        headers = {**self._encryption, "Content-Type": content_type}
        self._requests.send("PutObject", "PUT", {}, headers, data)

    @foreign("GetObject")
    def read(self, limit: int) -> bytes | None:
        """Return the first ``limit`` bytes of a small object; None where there is none."""
        headers = {"Range": f"bytes=0-{limit - 1}"}
        try:
            return self._requests.send("GetObject", "GET", {}, headers).data[:limit]
        except CloudError as error:
            if error.means("object_missing"):
                return None
            if error.status == _RANGE_STATUS:
                return b""
            raise

    def break_off(self) -> None:
        """End all requests that are under way, and let no further one begin."""
        self._requests.cancel_scope.cancel()

    def close(self) -> None:
        """Do nothing: the connections belong to the store, which all targets share."""

    def _is_absent(self) -> bool:
        """Return whether nothing lies under the key, by asking for one byte.

        The answer to a HEAD has no body that could give the reason of a refusal. A missing bucket
        and, at some stores, an unknown key have the status 404, too.

        Raises:
            CloudError: The refusal has another reason.
        """
        try:
            self._requests.send("HeadObject", "GET", {}, {"Range": "bytes=0-0"})
        except CloudError as error:
            if not error.means("object_missing"):
                raise
            return True
        return False

    def _listed_part(self, part: ET.Element) -> SentPart:
        """Return a part as an entry of a list describes it."""
        return sent_part(
            number_in(text_of(part, "PartNumber"), "PartNumber", "ListParts"),
            number_in(text_of(part, "Size"), "Size", "ListParts"),
            text_of(part, "ETag"),
            text_of(part, f"Checksum{self._algorithm}"),
            self._algorithm,
        )

    def _stored_object(self, size: int, etag: str, checksum: str) -> StoredObject:
        return StoredObject(size, quoted(etag), checksum, self._algorithm if checksum else "")
