"""The HTTP server: a few pages, which stay available whatever a client does."""

from __future__ import annotations

import contextlib
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from agent.adapters.metrics_endpoint import http_server as http_server_module
from agent.adapters.metrics_endpoint.http_server import HttpServer, Page
from agent.devcloud.servers import free_port
from tests.harness.prometheus import fetch

# A healthy server answers within this time.
ANSWER_TIMEOUT_SECONDS = 8.0


def broken() -> Page:
    raise RuntimeError("no page today")


@contextlib.contextmanager
def serving(host: str = "127.0.0.1", **pages: Callable[[], Page]) -> Iterator[str]:
    address = f"{host}:{free_port()}"
    made = {f"/{name}": page for name, page in pages.items()}
    server = HttpServer(address, {"/hello": lambda: Page(b"hello\n"), "/broken": broken, **made})
    try:
        yield address
    finally:
        server.close()


def client(address: str, said: bytes = b"") -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection(
        (host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT_SECONDS
    )
    connection.sendall(said)
    return connection


def test_a_page_is_answered_with_its_length_and_kind_and_head_has_no_body() -> None:
    with serving() as address:
        status, headers, body = fetch(address, "/hello?x=1")
        assert (status, body) == (200, "hello\n")
        assert headers["Content-Length"] == "6"
        assert headers["Content-Type"] == "text/plain; charset=utf-8"
        assert headers["Server"] == "keystone-agent"
        status, headers, body = fetch(address, "/hello", "HEAD")
        assert (status, headers["Content-Length"], body) == (200, "6", "")


def test_anything_else_is_refused() -> None:
    with serving() as address:
        assert fetch(address, "/")[0] == 404
        assert fetch(address, "/hello/../etc/passwd")[0] == 404
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            status, headers, _ = fetch(address, "/hello", method)
            assert (status, headers["Allow"]) == (405, "GET, HEAD")
        assert fetch(address, "/hello", "BREW")[0] == 501


def test_a_page_that_fails_is_an_error_and_the_next_one_is_served() -> None:
    with serving() as address:
        assert fetch(address, "/broken")[0] == 500
        assert fetch(address, "/hello")[0] == 200


def test_it_listens_on_ipv6_too() -> None:
    with serving("[::1]") as address:
        assert fetch(address, "/hello")[0] == 200


def test_a_port_in_use_is_an_error_and_a_closed_server_leaves_it() -> None:
    with serving() as address:
        with pytest.raises(OSError, match="in use"):
            HttpServer(address, {})
        fetch(address, "/hello")
    HttpServer(address, {}).close()


def test_silent_clients_are_no_hindrance_and_have_to_go() -> None:
    with serving() as address, contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(client(address)) for _ in range(3 * http_server_module._MAX_CLIENTS)
        ]
        assert fetch(address, "/hello")[0] == 200
        assert silent[0].recv(1) == b""
        assert (
            sum(thread.name == "page" for thread in threading.enumerate())
            <= http_server_module._MAX_CLIENTS
        )


def test_a_client_that_trickles_is_cut_off_though_it_is_never_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server_module, "_CONNECTION_SECONDS", 0.6)
    with serving() as address, client(address, b"GET /hello HTTP/1.0\r\n") as trickling:
        trickling.settimeout(0.1)
        for _ in range(int(ANSWER_TIMEOUT_SECONDS / 0.1)):
            with contextlib.suppress(TimeoutError):
                try:
                    trickling.sendall(b"X: y\r\n")
                    if trickling.recv(1) == b"":
                        return
                except ConnectionError:
                    return
    pytest.fail("it was let in for ever")


def test_a_silent_client_is_given_up_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server_module._PageHandler, "timeout", 0.3)
    with serving() as address, client(address) as silent:
        assert silent.recv(1) == b""


def test_pages_that_hang_take_a_few_threads_and_no_more() -> None:
    go_on = threading.Event()

    def hangs() -> Page:
        go_on.wait(60)
        return Page(b"late\n")

    with serving(hangs=hangs) as address, contextlib.ExitStack() as stack:
        for _ in range(http_server_module._MAX_CLIENTS):
            stack.enter_context(client(address, b"GET /hangs HTTP/1.0\r\n\r\n"))
        with (
            client(address, b"GET /hangs HTTP/1.0\r\n\r\n") as one_more,
            contextlib.suppress(ConnectionError),
        ):
            # The server closes the connection at once instead of keeping it waiting.
            assert one_more.recv(1) == b""
        assert (
            sum(thread.name == "page" for thread in threading.enumerate())
            == http_server_module._MAX_CLIENTS
        )
        go_on.set()
        assert fetch(address, "/hello")[0] == 200


def test_a_long_head_is_read_and_an_endless_one_is_not() -> None:
    line = b"X-More: " + b"m" * 1000 + b"\r\n"
    with serving() as address:
        with client(address, b"GET /hello HTTP/1.0\r\n" + 15 * line + b"\r\n") as long:
            assert long.recv(12) == b"HTTP/1.0 200"
        for begun in (b"GET /", b"GET /hello HTTP/1.0\r\n" + 17 * line):
            with (
                client(address, begun + 17 * b"m" * 1000) as endless,
                contextlib.suppress(ConnectionError),
            ):
                assert endless.recv(1) == b"", "it is cut off without an answer"


def test_all_clients_together_take_little_memory() -> None:
    with serving() as address, contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(client(address, b"GET /hello HTTP/1.0\r\n"))
            for _ in range(http_server_module._MAX_CLIENTS)
        ]
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for each in clients:
            with contextlib.suppress(ConnectionError):
                for _ in range(98):
                    each.sendall(b"X-More: " + b"m" * 65_000 + b"\r\n")
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
        assert fetch(address, "/hello")[0] == 200
