"""Upload files with the least work that an upload needs: ``python bare.py URL CA FILE…``.

Every byte is read and digested, then read again and sent. The program is one loop over one
connection, without signatures. What another tool costs beyond this program is the tool's own work.
Over http the digest is the SHA-256 that a signature covers. Over https the digest is the CRC-32
that goes with a part.
"""

import hashlib
import http.client
import os
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

from isal.isal_zlib import crc32

_BLOCK = memoryview(bytearray(128 * 1024))


def put(connection: http.client.HTTPConnection, path: str, file: Path) -> None:
    """Digest one file, then send it."""
    tls = isinstance(connection, http.client.HTTPSConnection)
    descriptor = os.open(file, os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    digest, checksum = hashlib.sha256(), 0
    while count := os.readv(descriptor, [_BLOCK]):
        if tls:
            checksum = crc32(_BLOCK[:count], checksum)
        else:
            digest.update(_BLOCK[:count])
    connection.putrequest("PUT", path)
    connection.putheader("Content-Length", str(size))
    connection.putheader("x-digest", f"{checksum:x}{digest.hexdigest()}")
    connection.endheaders()
    os.lseek(descriptor, 0, os.SEEK_SET)
    if tls:
        while count := os.readv(descriptor, [_BLOCK]):
            connection.sock.sendall(_BLOCK[:count])
    else:
        position = 0
        while position < size:
            sent = os.sendfile(connection.sock.fileno(), descriptor, position, size - position)
            if sent == 0:
                raise SystemExit(f"{file} is shorter than it was")
            position += sent
    os.close(descriptor)
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise SystemExit(f"{answer.status} {answer.reason}")


def main() -> None:
    """Send all files that the arguments name."""
    _, url, ca_file, *files = sys.argv
    parts = urlsplit(url)
    connection: http.client.HTTPConnection = (
        http.client.HTTPSConnection(
            parts.netloc, context=ssl.create_default_context(cafile=ca_file)
        )
        if parts.scheme == "https"
        else http.client.HTTPConnection(parts.netloc)
    )
    for file in map(Path, files):
        put(connection, f"{parts.path}/{file.name}", file)


if __name__ == "__main__":
    main()
