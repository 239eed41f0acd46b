"""One key in one bucket: the multipart calls, and what counts as proof of a part and of the whole.

The public calls of the library can't resume an upload, so this room sends its requests by ``Minio._execute``; a test
holds that method's signature fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, cast
from xml.etree import ElementTree as ET

import urllib3
from urllib3.exceptions import HTTPError

from agent.adapters.store.cancel_scope import CancelScope
from agent.adapters.store.client import LeaseProvider, RefusedResponseError, S3Client
from agent.adapters.store.part_body import PartBody
from agent.adapters.store.responses import (
    SKEWED,
    children,
    cut,
    decoded,
    etag_of,
    joined,
    number_in,
    refused,
    required,
    says_error,
    text_of,
    xml,
)
from agent.model.digests import b64, contradiction, md5, md5_of, proves, quoted
from agent.model.errors import CloudError, GateClosedError
from agent.model.unforeseen import foreign
from agent.model.values import Part, SentPart, StoredObject, Transfer, UploadSession

_PAGE = "1000"
_MOST_PAGES = 20  # 10,000 parts are 10
_NOTHING_THERE = frozenset({"NoSuchKey", "HTTP_404"})
_NOTHING_TO_RANGE_OVER = 416  # the object is empty
_STALE = frozenset(
    {"reset", "no_http"}
)  # what a connection may answer that another request has used before
_UPLOAD_MARKERS = {"key-marker": "NextKeyMarker", "upload-id-marker": "NextUploadIdMarker"}
_PART_MARKERS = {"part-number-marker": "NextPartNumberMarker"}


class MinioTarget:
    """Implements ``ports.Target``. What it learns of the store's habits lasts as long as it does.

    Each public call is a border: what nobody foresaw leaves it as a CloudError of that call.
    """

    def __init__(
        self,
        client: S3Client,
        keys: LeaseProvider,
        session: UploadSession,
        line: CancelScope,
        *,
        algorithm: str,
        encryption: Mapping[str, str],
        storage_class: str,
    ) -> None:
        """Remember what each request needs.

        Args:
            client: Sends the requests.
            keys: Hide themselves in error texts.
            session: The place.
            line: What its requests go by.
            algorithm: The cheapest digest that proves a part: over http the signature needs SHA-256 anyhow.
            encryption: Headers of what begins an object.
            storage_class: Of the recording, "" for the bucket's own.
        """
        self._client = client
        self._keys = keys
        self._session = session
        self._line = line
        self._algorithm = algorithm
        self._encryption = encryption
        self._storage_class = {"x-amz-storage-class": storage_class} if storage_class else {}
        self._header = f"x-amz-checksum-{algorithm.lower()}"
        self._echoes = True  # until a part comes back without its checksum
        self._etags: Literal["unknown", "digests", "opaque"] = "unknown"

    @foreign("CreateMultipartUpload")
    def begin(self) -> str:
        """Begin a multipart upload whose parts carry a checksum."""
        call = "CreateMultipartUpload"
        headers = {
            "x-amz-checksum-algorithm": self._algorithm,
            "Content-Type": "application/octet-stream",
            **self._encryption,
            **self._storage_class,
        }
        return required(
            xml(self._call(call, "POST", {"uploads": ""}, headers), call), "UploadId", call
        )

    @foreign("ListMultipartUploads")
    def multiparts(self) -> Sequence[str]:
        """Ids of the multipart uploads begun under exactly this key."""
        # Encoded, because XML can't say every character that a key may have.
        query = {
            "uploads": "",
            "prefix": self._session.object_key,
            "max-uploads": _PAGE,
            "encoding-type": "url",
        }
        try:
            return [
                text_of(upload, "UploadId")
                for page in self._pages(
                    "ListMultipartUploads", query, _UPLOAD_MARKERS, in_bucket=True
                )
                for upload in children(page, "Upload")
                if decoded(page, text_of(upload, "Key")) == self._session.object_key
            ]
        except CloudError as error:
            if error.code == "NoSuchUpload":  # rclone says so where there is none
                return []
            raise

    @foreign("UploadPart")
    def send(self, multipart_id: str, part: Part, descriptor: int, transfer: Transfer) -> SentPart:
        """Send one window of the file and have the store prove it."""
        window, began = PartBody(part, descriptor, transfer), self._line.monotonic()
        try:
            sent = self._put(multipart_id, part, window)
            if sent is None:
                self._learn_etags(multipart_id, part.number)
                window.seek(0)
                sent = self._put(multipart_id, part, window)
        except BaseException as error:
            window.seek(0)  # takes its progress back
            cut_alone = isinstance(error, CloudError) and error.code in _STALE
            self._client.hang_up(
                began if cut_alone else math.inf
            )  # others that got through meanwhile are good
            raise
        assert sent is not None  # noqa: S101 - once the ETags are known, an answer proves or refutes
        return sent

    @foreign("ListParts")
    def parts(self, multipart_id: str) -> Sequence[SentPart]:
        """The parts the store holds, in order."""
        query = {"uploadId": multipart_id, "max-parts": _PAGE}
        return [
            self._listed(part)
            for page in self._pages("ListParts", query, _PART_MARKERS)
            for part in children(page, "Part")
        ]

    @foreign("ListParts")
    def matches(self, sent: SentPart, part: Part, descriptor: int) -> bool:
        """Whether a listed part holds the bytes of that window."""
        if (sent.number, sent.size) != (part.number, part.size):
            return False
        window = PartBody(part, descriptor, Transfer(part.size))
        if sent.checksum:
            return sent.checksum == b64(window.digest(sent.algorithm)[0])
        same = md5_of(sent.etag) == window.digest("MD5")[0]
        if same:
            self._etags = "digests"
        return same

    @foreign("CompleteMultipartUpload")
    def complete(self, multipart_id: str, parts: Sequence[SentPart]) -> StoredObject:
        """Join the parts and prove the whole."""
        call = "CompleteMultipartUpload"
        answer = self._call(
            call,
            "POST",
            {"uploadId": multipart_id},
            {"Content-Type": "application/xml"},
            joined(parts),
        )
        root = xml(answer, call)
        etag = required(root, "ETag", call)
        checksum = text_of(root, f"Checksum{self._algorithm}")
        reason = contradiction(
            parts, etag, checksum, self._algorithm, digests=self._etags != "opaque"
        )
        if reason:
            raise CloudError(call, "checksum", reason)
        return self._stored(sum(part.size for part in parts), etag, checksum)

    @foreign("HeadObject")
    def stat(self) -> StoredObject | None:
        """What lies under the key now."""
        try:
            answer = self._call("HeadObject", "HEAD", {}, {"x-amz-checksum-mode": "ENABLED"})
        except CloudError as error:
            if error.status in {400, 401, 403, 404} and self._absent():
                return None
            raise
        etag = etag_of(answer, "HeadObject")
        length = answer.headers.get("content-length", "")
        if not length:
            raise CloudError(
                "HeadObject", "portal", "an answer without a length is not the store's"
            )
        size = number_in(length, "Content-Length", "HeadObject")
        return self._stored(size, etag, answer.headers.get(self._header, ""))

    @foreign("HeadObject")
    def holds(self, stored: StoredObject, parts: Sequence[Part], descriptor: int) -> bool:
        """Whether a stored object has the file's bytes, sent in these windows."""
        return proves(
            stored,
            parts,
            lambda algorithm, part: PartBody(part, descriptor, Transfer(part.size)).digest(
                algorithm
            )[0],
        )

    @foreign("AbortMultipartUpload")
    def abort(self, multipart_id: str) -> None:
        """Give the multipart up."""
        try:
            self._call("AbortMultipartUpload", "DELETE", {"uploadId": multipart_id})
        except CloudError as error:
            if error.status != 404:
                raise

    @foreign("PutObject")
    def put(self, data: bytes, content_type: str) -> None:
        """Store a small object; the signature covers its bytes."""
        self._call("PutObject", "PUT", {}, {**self._encryption, "Content-Type": content_type}, data)

    @foreign("GetObject")
    def read(self, limit: int) -> bytes | None:
        """The first bytes of a small object."""
        try:
            return self._call("GetObject", "GET", {}, {"Range": f"bytes=0-{limit - 1}"}).data[
                :limit
            ]
        except CloudError as error:
            if error.code in _NOTHING_THERE:
                return None
            if error.status == _NOTHING_TO_RANGE_OVER:
                return b""
            raise

    def break_off(self) -> None:
        """End what is under way, and let nothing begin."""
        self._line.break_off()

    def close(self) -> None:
        """Nothing is held here: the connections are the store's."""

    def _put(self, multipart_id: str, part: Part, window: PartBody) -> SentPart | None:
        """Send the window once; None when the answer neither proves nor refutes it."""
        checksum, *md5s = window.digest(self._algorithm, *([] if self._echoes else ["MD5"]))
        window.sha256 = checksum.hex() if self._algorithm == "SHA256" else ""
        headers = {self._header: b64(checksum)}
        if md5s:
            headers["Content-MD5"] = b64(md5s[0])
        answer = self._call("UploadPart", "PUT", _place(multipart_id, part.number), headers, window)
        echoed = answer.headers.get(self._header, "")
        sent = self._sent(part.number, part.size, etag_of(answer, "UploadPart"), echoed)
        if echoed:
            if echoed != b64(checksum):
                raise _differs(part)
            return sent
        self._echoes = False  # a store that does not echo has not checked
        if not md5s:
            once_more, *md5s = window.digest(self._algorithm, "MD5")
            if once_more != checksum:  # then this MD5 is not of what was announced
                raise _differs(part)
        if md5_of(sent.etag) == md5s[0]:
            self._etags = "digests"
            return sent
        if self._etags == "digests":
            raise _differs(part)
        return sent if "Content-MD5" in headers and self._etags == "opaque" else None

    def _learn_etags(self, multipart_id: str, number: int) -> None:
        """Find out what proves a part here, with one byte under a wrong Content-MD5; the part then replaces it.

        A store that refuses it checks Content-MD5, so its ETags may say what they like. One that takes it must at
        least have MD5s as ETags.
        """
        byte = b"\0"
        wrong = {"Content-MD5": b64(md5(b"anything else"))}
        try:
            answer = self._call("UploadPart", "PUT", _place(multipart_id, number), wrong, byte)
        except CloudError as error:
            if error.code != "checksum":
                raise
            self._etags = "opaque"
            return
        if md5_of(etag_of(answer, "UploadPart")) != md5(byte):
            raise CloudError(
                "UploadPart", "checksum", "nothing that this store answers proves a part"
            )
        self._etags = "digests"

    def _absent(self) -> bool:
        """Ask again for one byte, because a refused HEAD has no body to say why; raise any other reason than that.

        A missing bucket and, at some stores, an unknown key are a 404 too.
        """
        try:
            self._call("HeadObject", "GET", {}, {"Range": "bytes=0-0"})
        except CloudError as error:
            if error.code not in _NOTHING_THERE:
                raise
            return True
        return False

    def _pages(
        self,
        call: str,
        query: Mapping[str, str],
        markers: Mapping[str, str],
        *,
        in_bucket: bool = False,
    ) -> Iterator[ET.Element]:
        marks: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            page = xml(self._call(call, "GET", {**query, **marks}, in_bucket=in_bucket), call)
            yield page
            following = {
                name: decoded(page, text)
                for name, tag in markers.items()
                if (text := text_of(page, tag))
            }
            if text_of(page, "IsTruncated").lower() != "true" or following in ({}, marks):
                return
            marks = following
        raise CloudError(call, "lying_server", "the store's list has no end")

    def _call(
        self,
        call: str,
        method: str,
        query: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        body: PartBody | bytes | None = None,
        *,
        in_bucket: bool = False,
        again: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        """Send one request; whatever goes wrong leaves here as an AgentError."""
        try:
            with self._line.used():
                answer = self._client._execute(  # noqa: SLF001 - the library has no public multipart calls
                    method,
                    self._session.bucket,
                    None if in_bucket else self._session.object_key,
                    body=cast(
                        "bytes | None", body
                    ),  # a window answers to len(), and urllib3 reads it
                    headers=dict(headers or {}),  # the library writes into it
                    query_params=dict(query),
                )
        except RefusedResponseError as refusal:
            error = refused(
                call,
                refusal.answer,
                self._keys.hide,
                skew=refusal.skew,
                server_time=refusal.server_time,
            )
            if error.status >= 500:
                self._client.hang_up()
            if not (again and error.code == SKEWED and refusal.server_time is not None):
                raise error from None
        except (HTTPError, OSError) as error:
            if self._line.broken:
                raise GateClosedError("the upload was told to stop") from error
            raise cut(call, error) from error
        except ValueError:  # its text quotes the header that could not be sent
            raise CloudError(
                call, "lying_server", "no request can be made of these keys and this place"
            ) from None
        else:
            if says_error(answer):
                raise refused(call, answer, self._keys.hide)
            return answer
        if isinstance(body, PartBody):
            body.seek(0)
        return self._call(call, method, query, headers, body, in_bucket=in_bucket, again=False)

    def _listed(self, part: ET.Element) -> SentPart:
        """A part as a listing has it."""
        return self._sent(
            number_in(text_of(part, "PartNumber"), "PartNumber", "ListParts"),
            number_in(text_of(part, "Size"), "Size", "ListParts"),
            text_of(part, "ETag"),
            text_of(part, f"Checksum{self._algorithm}"),
        )

    def _sent(self, number: int, size: int, etag: str, checksum: str) -> SentPart:
        return SentPart(number, size, quoted(etag), checksum, self._algorithm if checksum else "")

    def _stored(self, size: int, etag: str, checksum: str) -> StoredObject:
        return StoredObject(size, quoted(etag), checksum, self._algorithm if checksum else "")


def _differs(part: Part) -> CloudError:
    return CloudError("UploadPart", "checksum", f"part {part.number} differs from what was sent")


def _place(multipart_id: str, number: int) -> dict[str, str]:
    return {"partNumber": str(number), "uploadId": multipart_id}
