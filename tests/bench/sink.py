"""A store that keeps nothing, so that a benchmark measures the client alone.

The store answers the S3 requests of uploads, remembers names, sizes and digests, and throws the
bytes away. It checks no signature and no digest, and repeats the checksum that a part declares.

``python -m tests.bench.sink [FOLDER]`` runs the store in a process of its own, over https with the
certificate in that folder. The process prints its port and ends with standard input.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import re
import socket
import ssl
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_BLOCK = 1 << 20
_CHECKSUM = re.compile(r"x-amz-checksum-(crc32|crc32c|crc64nvme|sha1|sha256)")
_PHRASES = {200: "OK", 204: "No Content", 404: "Not Found"}


class SinkObject(NamedTuple):
    """All that is kept of a part or an object."""

    size: int
    etag: str
    checksums: Mapping[str, str]


class SinkRequest(NamedTuple):
    """One request that has been read; a body that is not small has been thrown away."""

    method: str
    # The key is "" for a request about the bucket.
    key: str
    query: Mapping[str, str]
    body: bytes
    stored: SinkObject


@dataclass
class Contents:
    """What the store would hold."""

    objects: dict[str, SinkObject] = field(default_factory=dict)
    uploads: dict[str, tuple[str, dict[int, SinkObject]]] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def answer(self, request: SinkRequest) -> tuple[int, str, Mapping[str, str]]:
        """Return status, document and headers of the answer."""
        if request.method == "PUT" and request.key:
            return self._put(request)
        if request.method == "POST":
            return self._post(request)
        if request.method == "DELETE":
            self.objects.pop(request.key, None)
            self.uploads.pop(request.query.get("uploadId", ""), None)
            return 204, "", {}
        return self._get(request) if request.key else self._about_the_bucket(request)

    def _put(self, request: SinkRequest) -> tuple[int, str, Mapping[str, str]]:
        if upload := self.uploads.get(request.query.get("uploadId", "")):
            upload[1][int(request.query["partNumber"])] = request.stored
        elif "uploadId" in request.query:
            return 404, _error("NoSuchUpload"), {}
        else:
            self.objects[request.key] = request.stored
        return 200, "", {"ETag": f'"{request.stored.etag}"', **request.stored.checksums}

    def _post(self, request: SinkRequest) -> tuple[int, str, Mapping[str, str]]:
        if "uploads" in request.query:
            upload = f"upload-{next(self.numbers)}"
            self.uploads[upload] = (request.key, {})
            return (
                200,
                _document(
                    "InitiateMultipartUploadResult",
                    UploadId=upload,
                    Key=request.key,
                    Bucket="bench",
                ),
                {},
            )
        if "delete" in request.query:
            for key in re.findall(r"<Key>([^<]*)</Key>", request.body.decode()):
                self.objects.pop(key, None)
            return 200, _document("DeleteResult"), {}
        _, parts = self.uploads.pop(request.query["uploadId"])
        digests = b"".join(bytes.fromhex(parts[number].etag) for number in sorted(parts))
        etag = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
        self.objects[request.key] = SinkObject(sum(part.size for part in parts.values()), etag, {})
        return (
            200,
            _document(
                "CompleteMultipartUploadResult", Key=request.key, Bucket="bench", ETag=f'"{etag}"'
            ),
            {},
        )

    def _get(self, request: SinkRequest) -> tuple[int, str, Mapping[str, str]]:
        if request.key not in self.objects:
            return 404, _error("NoSuchKey"), {}
        found = self.objects[request.key]
        return (
            200,
            "",
            {
                "ETag": f'"{found.etag}"',
                "Content-Length": str(found.size),
                "Last-Modified": formatdate(usegmt=True),
            },
        )

    def _about_the_bucket(self, request: SinkRequest) -> tuple[int, str, Mapping[str, str]]:
        if "location" in request.query:
            return 200, "<LocationConstraint></LocationConstraint>", {}
        if "uploads" in request.query:
            return 200, _document("ListMultipartUploadsResult", IsTruncated="false"), {}
        entries = "".join(
            f'<Contents><Key>{escape(key)}</Key><Size>{found.size}</Size><ETag>"{found.etag}"</ETag>'
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, found in sorted(self.objects.items())
            if key.startswith(request.query.get("prefix", ""))
        )
        return (
            200,
            f"<ListBucketResult><Name>bench</Name><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>",
            {},
        )


def _document(name: str, **texts: str) -> str:
    elements = "".join(f"<{key}>{escape(text)}</{key}>" for key, text in texts.items())
    return f"<{name}>{elements}</{name}>"


def _error(code: str) -> str:
    return _document("Error", Code=code, Message=code)


def serve(stream: socket.socket, contents: Contents) -> None:
    """Answer all requests of one connection."""
    block = memoryview(bytearray(_BLOCK))
    with stream, stream.makefile("rb") as source:
        while line := source.readline().decode():
            method, target, _ = line.split()
            headers = {}
            while header := source.readline().decode().strip():
                name, _, text = header.partition(":")
                headers[name.lower()] = text.strip()
            if headers.get("expect"):
                stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            url = urlsplit(target)
            query = {
                name: texts[0]
                for name, texts in parse_qs(url.query, keep_blank_values=True).items()
            }
            body, size = _body(source, headers, block, kept=method == "POST")
            key = unquote(url.path).strip("/").partition("/")[2]
            request = SinkRequest(method, key, query, body, _stored(headers, size, contents))
            status, document, more = contents.answer(request)
            answer_headers = {
                "Content-Length": str(len(document.encode())),
                "x-amz-request-id": "0",
                **more,
            }
            head = "".join(f"{name}: {text}\r\n" for name, text in answer_headers.items())
            text = "" if method == "HEAD" else document
            stream.sendall(f"HTTP/1.1 {status} {_PHRASES[status]}\r\n{head}\r\n{text}".encode())


def _body(
    source: io.BufferedReader, headers: Mapping[str, str], block: memoryview, *, kept: bool
) -> tuple[bytes, int]:
    """Read the whole body; return its size, and its content where the content is needed."""
    if "chunked" not in headers.get("transfer-encoding", ""):
        size = int(headers.get("content-length") or 0)
        return (source.read(size), size) if kept else (b"", _discard(source, size, block))
    total = 0
    while size := int(source.readline().split(b";")[0], 16):
        total += _discard(source, size, block)
        source.readline()
    while source.readline().strip():
        pass
    return b"", total


def _discard(source: io.BufferedReader, size: int, block: memoryview) -> int:
    remaining = size
    while remaining:
        got = source.readinto(block[: min(remaining, len(block))])
        if not got:
            raise ConnectionResetError
        remaining -= got
    return size


def _stored(headers: Mapping[str, str], size: int, contents: Contents) -> SinkObject:
    digest = headers.get("content-md5", "")
    etag = base64.b64decode(digest).hex() if digest else f"{next(contents.numbers):032x}"
    checksums = {name: text for name, text in headers.items() if _CHECKSUM.fullmatch(name)}
    return SinkObject(int(headers.get("x-amz-decoded-content-length") or size), etag, checksums)


def main() -> None:
    """Run the store in this process."""
    contents = Contents()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if sys.argv[1:] else None
    if context:
        context.load_cert_chain(f"{sys.argv[1]}/public.crt", f"{sys.argv[1]}/private.key")

    def accept() -> None:
        while True:
            stream, _ = listener.accept()
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=carry, args=(stream,), daemon=True).start()

    def carry(stream: socket.socket) -> None:
        try:
            serve(context.wrap_socket(stream, server_side=True) if context else stream, contents)
        except OSError:
            # The client has closed the connection.
            stream.close()

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        threading.Thread(target=accept, daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
