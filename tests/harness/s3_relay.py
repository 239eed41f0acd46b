"""A relay in front of an S3 server: it passes on requests unchanged at a limited rate.

It also records each request and the access key that signed it.
"""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_BLOCK = 64 * 1024
_KEY = re.compile(r"Credential=([^/]+)/")
_DROPPED = {"transfer-encoding", "content-length", "connection"}


@dataclass(frozen=True, slots=True)
class RelayedRequest:
    """A request that was answered."""

    method: str
    path: str
    access_key: str
    status: int

    @property
    def part(self) -> int:
        """The part's number, or 0 when the request is not about a part."""
        return int(parse_qs(urlsplit(self.path).query).get("partNumber", ["0"])[0])

    @property
    def upload_id(self) -> str:
        """The id of the multipart upload, or an empty text when there is none."""
        return parse_qs(urlsplit(self.path).query).get("uploadId", [""])[0]


class Relay:
    """A running relay in front of an S3 server.

    Signatures stay valid, because the Host header is passed on unchanged.
    """

    def __init__(self, server: str, rate: float = float("inf")) -> None:
        """Relay to ``server`` (host:port).

        ``rate`` is in bytes per second, for the request bodies of each connection.
        """
        self.passed: list[RelayedRequest] = []
        self.rewrite: Callable[[bytes], bytes] = lambda body: body
        self._server = server
        self._rate = rate
        self._nap = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()

    def parts(self) -> list[RelayedRequest]:
        """Return the parts that the server accepted, in the order in which they ended."""
        return [
            one
            for one in tuple(self.passed)
            if one.method == "PUT" and one.part and one.status == 200
        ]

    def stop(self) -> None:
        """Stop to listen and to pass on requests."""
        self._nap.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        relay = self

        class RelayHandler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                length = int(self.headers.get("content-length", 0))
                onward = http.client.HTTPConnection(relay._server, timeout=60)
                try:
                    onward.putrequest(
                        self.command, self.path, skip_host=True, skip_accept_encoding=True
                    )
                    for name, value in self.headers.items():
                        onward.putheader(name, value)
                    onward.endheaders()
                    while length > 0:
                        block = self.rfile.read(min(_BLOCK, length))
                        if not block:
                            raise ConnectionResetError
                        length -= len(block)
                        relay._nap.wait(len(block) / relay._rate)
                        onward.send(block)
                    answer = onward.getresponse()
                    body = relay.rewrite(answer.read())
                    key = _KEY.search(self.headers.get("authorization", ""))
                    relay.passed.append(
                        RelayedRequest(
                            self.command, self.path, key[1] if key else "", answer.status
                        )
                    )
                    self._say(answer, body)
                except OSError:
                    self.close_connection = True
                finally:
                    onward.close()

            def _say(self, answer: http.client.HTTPResponse, body: bytes) -> None:
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _DROPPED:
                        self.send_header(name, value)
                length = (
                    answer.headers.get("content-length", "0")
                    if self.command == "HEAD"
                    else str(len(body))
                )
                self.send_header("content-length", length)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on  # noqa: N815 - http.server requires them

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server has it
                pass

        return RelayHandler


@contextmanager
def relayed(endpoint: str, rate: float = float("inf")) -> Iterator[Relay]:
    """Run a relay in front of ``endpoint`` during the block."""
    relay = Relay(urlsplit(endpoint).netloc, rate)
    try:
        yield relay
    finally:
        relay.stop()
