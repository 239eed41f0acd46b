"""The proxy in front of the S3 server: it passes only requests with a lease of the gateway.

A store with STS checks leases itself, but the servers used here do not. Bodies are passed on in
small blocks in both directions. The server behind the proxy gets the same request, signed with its
root keys. A refused request is answered with S3's XML. With a bandwidth, all connections together
are as slow as one link.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import logging
import select
import socket
import ssl
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from agent.devcloud import sigv4
from agent.devcloud.admission import Admission, NotAdmittedError
from agent.devcloud.byte_rate import ByteRate
from agent.devcloud.ledger import Ledger
from agent.devcloud.servers import LOOPBACK, Endpoint
from agent.model.tls import client_context

LOG = logging.getLogger(__name__)

# The most bytes that are read from one side before they are passed on to the other side.
_BLOCK_BYTES = 128 * 1024

# A connection that is silent for so long is closed.
_IDLE_SECONDS = 120

# RFC 9110 calls these headers hop-by-hop: they concern one connection and are not passed on.
_HOP_BY_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade", "expect",
})  # fmt: skip

# The proxy replaces these headers, because it signs each request again.
_NOT_PASSED_ON = _HOP_BY_HOP | {
    "authorization",
    "host",
    "x-amz-security-token",
    "x-amz-date",
    "x-amz-content-sha256",
    "content-length",
}


class StoreProxy:
    """The store as devices see it: a running HTTP server with one thread for each connection.

    ``stop`` is called by the thread that made it.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: Endpoint,
        *,
        now: Callable[[], float] = time.time,
        address: str = LOOPBACK,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        bandwidth: float = 0,
    ) -> None:
        """Start to listen.

        Args:
            ledger: Has the leases that the gateway issued.
            store: The S3 server behind the proxy, with its root keys.
            now: Returns the wall clock in seconds since 1970.
            address: The address to listen on.
            port: The port to listen on; 0 lets the system choose.
            tls: The server's TLS context, or None for plain HTTP.
            bandwidth: Bytes per second of all connections together; 0 means no limit.
        """
        self.store = store
        self.admission = Admission(ledger, now)
        self.pace = ByteRate(bandwidth)
        self._server = _ProxyServer((address, port), self, tls)
        self.port = self._server.server_port
        self.url = f"{'https' if tls else 'http'}://{address}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="store-proxy", daemon=True
        )
        self._thread.start()
        LOG.info("store proxy answers at %s", self.url, extra={"event": "front_started"})

    def stop(self) -> None:
        """Cut all connections and stop listening."""
        self.pace.cut()
        self._server.shutdown()
        self._thread.join()
        self._server.cut_connections()
        self._server.server_close()


class _ProxyServer(ThreadingHTTPServer):
    """Serves each connection in a thread of its own.

    The TLS handshake also happens in that thread, so a slow one does not delay other connections.
    The lock guards the two tables of open connections.
    """

    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], proxy: StoreProxy, tls: ssl.SSLContext | None
    ) -> None:
        self.proxy = proxy
        self._tls = tls
        self._open: dict[socket.socket, threading.Thread] = {}
        self._behind: dict[threading.Thread, socket.socket] = {}
        self._open_lock = threading.Lock()
        try:
            super().__init__(address, _ProxyHandler)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{address[0]}:{address[1]}") from error

    def server_bind(self) -> None:
        if self.proxy.pace.bytes_per_second:
            # With its usual buffer the kernel would accept megabytes in advance, and the link
            # would look faster than it is.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BLOCK_BYTES)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        with self._open_lock:
            self._open[request] = thread
        thread.start()

    def serves(self, backend: socket.socket) -> None:
        """Remember that the calling thread also waits for ``backend``, so that it can be cut."""
        with self._open_lock:
            self._behind[threading.current_thread()] = backend

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._open_lock:
            self._open.pop(request, None)
            self._behind.pop(threading.current_thread(), None)

    def cut_connections(self) -> None:
        with self._open_lock:
            still_open = dict(self._open)
            behind = list(self._behind.values())
        for connection in (*still_open, *behind):
            with contextlib.suppress(OSError):
                # This call does not use the TLS layer, because another thread may be inside it.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in still_open.values():
            thread.join(timeout=10)

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request
        error = sys.exc_info()[1]
        if isinstance(error, OSError | http.client.HTTPException):
            LOG.debug(
                "connection of %s lost: %s",
                client_address,
                error,
                extra={"event": "front_connection_lost"},
            )
        else:
            LOG.error("store proxy failed", exc_info=error, extra={"event": "front_failed"})


class _Body:
    """The body of a request, read once from the client.

    Reading waits for the link's bandwidth and compares the body with the digest that was signed.
    """

    def __init__(
        self, source: io.BufferedIOBase, headers: Mapping[str, str], pace: ByteRate
    ) -> None:
        self.length = int(headers.get("content-length", 0))
        self._left = self.length
        self._source = source
        self._pace = pace
        declared = headers.get("x-amz-content-sha256", sigv4.UNSIGNED_PAYLOAD)
        self._declared = "" if declared == sigv4.UNSIGNED_PAYLOAD else declared.lower()

    def blocks(self) -> Iterator[memoryview]:
        """Yield the body in blocks. The last block is held back unless the body has its digest.

        The store behind the proxy therefore never gets a whole body that differs from the signed
        one.

        Raises:
            NotAdmittedError: The body differs from the one that was signed.
        """
        block = memoryview(bytearray(min(_BLOCK_BYTES, self._left)))
        digest = hashlib.sha256()
        while self._left:
            wanted = min(len(block), self._left)
            if self._source.readinto(block[:wanted]) != wanted:
                raise ConnectionResetError("the client closed the connection within the body")
            self._left -= wanted
            self._pace.take(wanted)
            if self._declared:
                digest.update(block[:wanted])
            if not self._left:
                self._compare(digest.hexdigest())
            yield block[:wanted]
        if not self.length:
            self._compare(digest.hexdigest())

    def _compare(self, found: str) -> None:
        if self._declared and self._declared != found:
            raise NotAdmittedError(
                400, "XAmzContentSHA256Mismatch", "the payload differs from the signed payload"
            )

    def drain(self) -> None:
        """Read and drop the rest. A client reads the answer only after it has sent its body."""
        self._declared = ""
        for _ in self.blocks():
            pass


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "keystone-devcloud"
    disable_nagle_algorithm = True
    timeout = _IDLE_SECONDS
    server: _ProxyServer

    def setup(self) -> None:
        super().setup()
        self._backend: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        self._drop_backend()
        super().finish()

    def do_GET(self) -> None:
        proxy = self.server.proxy
        headers = {name.lower(): value for name, value in self.headers.items()}
        if "transfer-encoding" in headers:
            self.close_connection = True
            self._refuse(
                NotAdmittedError(411, "MissingContentLength", "a body needs a Content-Length")
            )
            return
        where = urlsplit(self.path)
        body = _Body(self.rfile, headers, proxy.pace)
        try:
            proxy.admission.admit(sigv4.Request(self.command, where.path, where.query, headers))
            passed_on = {
                name: value for name, value in headers.items() if name not in _NOT_PASSED_ON
            }
            self._pass_on(sigv4.Request(self.command, where.path, where.query, passed_on), body)
        except NotAdmittedError as refusal:
            body.drain()
            self._refuse(refusal)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - http.server requires these names

    def _pass_on(self, request: sigv4.Request, body: _Body) -> None:
        headers = sigv4.sign(request, self.server.proxy.store)
        if body.length or request.method in {"PUT", "POST"}:
            headers["content-length"] = str(body.length)
        try:
            backend = self._connected()
            backend.putrequest(request.method, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                backend.putheader(name, value)
            backend.endheaders()
            self._send(body, backend)
            answer = backend.getresponse()
        except NotAdmittedError:
            self._drop_backend()
            raise
        except (OSError, http.client.HTTPException) as error:
            self._drop_backend()
            raise NotAdmittedError(
                503, "ServiceUnavailable", f"the store does not answer ({type(error).__name__})"
            ) from error
        self._relay(answer)

    @staticmethod
    def _send(body: _Body, backend: http.client.HTTPConnection) -> None:
        for block in body.blocks():
            try:
                backend.send(block)
            except (BrokenPipeError, ConnectionResetError):
                # The store has answered before the end of the body. Its answer waits in the socket.
                body.drain()
                return

    def _relay(self, answer: http.client.HTTPResponse) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        has_body = self.command != "HEAD" and answer.status not in {204, 304}
        chunked = has_body and answer.length is None
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        # read1() returns a chunk as soon as it arrives. Where the length is known, read() is
        # needed, because read1() does not count the remaining bytes in every Python.
        read = answer.read1 if chunked else answer.read
        while has_body and (block := read(_BLOCK_BYTES)):
            self.server.proxy.pace.take(len(block))
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        # The connection can be used again only after the end of the answer was read.
        answer.read()

    def _refuse(self, refusal: NotAdmittedError) -> None:
        request_id = uuid.uuid4().hex[:16].upper()
        text = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{refusal.code}</Code>'
            f"<Message>{escape(str(refusal))}</Message>"
            f"<Resource>{escape(urlsplit(self.path).path)}</Resource>"
            f"<RequestId>{request_id}</RequestId></Error>"
        ).encode()
        LOG.info(
            "store proxy refuses %s: %s",
            self.command,
            refusal.code,
            extra={"event": "front_refused"},
        )
        self.send_response_only(refusal.status)
        self.send_header("Date", formatdate(usegmt=True))
        self.send_header("Server", self.server_version)
        self.send_header("x-amz-request-id", request_id)
        if self.command == "HEAD":
            self.end_headers()
            return
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _connected(self) -> http.client.HTTPConnection:
        """Return the connection to the store that belongs to this client's connection.

        It is opened for the first request, and again when the store has closed it.
        """
        if self._backend is not None and self._backend.sock is not None:
            # select() cannot be used, because it accepts no descriptor above 1023.
            poll = select.poll()
            poll.register(self._backend.sock, select.POLLIN)
            if not poll.poll(0):
                return self._backend
            self._drop_backend()
        store = self.server.proxy.store
        if store.secure:
            self._backend = http.client.HTTPSConnection(
                store.netloc,
                timeout=_IDLE_SECONDS,
                blocksize=_BLOCK_BYTES,
                context=client_context(),
            )
        else:
            self._backend = http.client.HTTPConnection(
                store.netloc, timeout=_IDLE_SECONDS, blocksize=_BLOCK_BYTES
            )
        self._backend.connect()
        self.server.serves(self._backend.sock)
        return self._backend

    def _drop_backend(self) -> None:
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server has this name
        LOG.debug(format, *args, extra={"event": "front_request"})
