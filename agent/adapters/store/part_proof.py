"""Sends a part, and makes the store prove that it holds the part's bytes.

Stores differ in what they prove. The sender begins with the best case and learns from the answers:

1. The store sends the part's checksum back. Then it has checked the bytes, and that is a proof.
2. The store sends no checksum, and its ETag of the part is the MD5 of the bytes. That is a proof.
3. The store sends no checksum, and its ETag is something else, as that of an encrypting store. Then
   the part goes with Content-MD5, which proves the bytes where the store checks it. A request with
   a wrong Content-MD5 finds out whether the store does.
"""

from __future__ import annotations

import math
from typing import Literal

from agent.adapters.store.object_requests import ObjectRequests
from agent.adapters.store.part_body import PartBody
from agent.adapters.store.responses import etag_of
from agent.model.digests import b64, md5, md5_of, quoted
from agent.model.errors import CloudError
from agent.model.transfer import Part, SentPart, Transfer

_CALL = "UploadPart"


class ProvenPartSender:
    """Sends parts of one recording, and returns only what the store has proven.

    What it learns about the store lasts as long as the sender does.

    May be used from several threads. Each of them may learn the same thing once.
    """

    def __init__(self, requests: ObjectRequests, algorithm: str) -> None:
        """Begin without knowledge of the store.

        Args:
            requests: Sends the requests.
            algorithm: "CRC32" or "SHA256", for the checksums.
        """
        # What the store's ETags of parts are: the MD5 of the bytes, or anything else.
        self.etags: Literal["unknown", "digests", "opaque"] = "unknown"
        self._requests = requests
        self._algorithm = algorithm
        self._checksum_header = f"x-amz-checksum-{algorithm.lower()}"
        # Whether the store sends checksums back. It is expected to, until an answer has none.
        self._echoes_checksums = True

    def send(self, multipart_id: str, part: Part, descriptor: int, transfer: Transfer) -> SentPart:
        """Send a part, and return when the store has proven it.

        Args:
            multipart_id: The multipart upload.
            part: Which bytes of the file to send.
            descriptor: The file's descriptor; it stays the caller's.
            transfer: Progress and bandwidth of the whole upload.

        Raises:
            CloudError: No proof, or no success; the code is "checksum" where the bytes differ.
            FileChangedError: The file does not have these bytes.
            GateClosedError: The upload was told to stop.
        """
        body, began = PartBody(part, descriptor, transfer), self._requests.cancel_scope.monotonic()
        try:
            sent = self._put(multipart_id, part, body)
            if sent is None:
                self._learn_etags(multipart_id, part.number)
                body.seek(0)
                sent = self._put(multipart_id, part, body)
        except BaseException as error:
            # This takes the part's bytes out of the upload's progress.
            body.seek(0)
            # When only this connection failed, those that had an answer in the meantime are good.
            is_stale = isinstance(error, CloudError) and error.means("stale_connection")
            self._requests.close_idle(began if is_stale else math.inf)
            raise
        assert sent is not None  # noqa: S101 - once the ETags are known, an answer proves or refutes
        return sent

    def _put(self, multipart_id: str, part: Part, body: PartBody) -> SentPart | None:
        """Send the part once; return None when the answer neither proves nor refutes it."""
        checksum, *md5s = body.digest(self._algorithm, *([] if self._echoes_checksums else ["MD5"]))
        body.sha256 = checksum.hex() if self._algorithm == "SHA256" else ""
        headers = {self._checksum_header: b64(checksum)}
        if md5s:
            headers["Content-MD5"] = b64(md5s[0])
        answer = self._requests.send(
            _CALL, "PUT", _part_query(multipart_id, part.number), headers, body
        )
        echoed = answer.headers.get(self._checksum_header, "")
        sent = sent_part(part.number, part.size, etag_of(answer, _CALL), echoed, self._algorithm)
        if echoed:
            if echoed != b64(checksum):
                raise _differs(part)
            return sent
        # A store that does not send the checksum back has not checked it.
        self._echoes_checksums = False
        if not md5s:
            second_checksum, *md5s = body.digest(self._algorithm, "MD5")
            # The file has changed since, so this MD5 is not that of the bytes that were sent.
            if second_checksum != checksum:
                raise _differs(part)
        if md5_of(sent.etag) == md5s[0]:
            self.etags = "digests"
            return sent
        if self.etags == "digests":
            raise _differs(part)
        return sent if "Content-MD5" in headers and self.etags == "opaque" else None

    def _learn_etags(self, multipart_id: str, number: int) -> None:
        """Find out what this store's ETags are, by sending one byte with a wrong Content-MD5.

        A store that refuses the byte checks Content-MD5, so its ETags need not prove anything. A
        store that takes the byte must have MD5s as ETags. The real part replaces the byte later.

        Raises:
            CloudError: Nothing that this store answers proves a part.
        """
        byte = b"\0"
        wrong = {"Content-MD5": b64(md5(b"anything else"))}
        try:
            answer = self._requests.send(
                _CALL, "PUT", _part_query(multipart_id, number), wrong, byte
            )
        except CloudError as error:
            if not error.means("wrong_bytes"):
                raise
            self.etags = "opaque"
            return
        if md5_of(etag_of(answer, _CALL)) != md5(byte):
            raise CloudError(_CALL, "checksum", "nothing that this store answers proves a part")
        self.etags = "digests"


def sent_part(number: int, size: int, etag: str, checksum: str, algorithm: str) -> SentPart:
    """Return a part as the store described it; without a checksum it has no algorithm either."""
    return SentPart(number, size, quoted(etag), checksum, algorithm if checksum else "")


def _differs(part: Part) -> CloudError:
    return CloudError(_CALL, "checksum", f"part {part.number} differs from what was sent")


def _part_query(multipart_id: str, number: int) -> dict[str, str]:
    return {"partNumber": str(number), "uploadId": multipart_id}
