"""The metrics on HTTP and in the textfile.

A failure stops nothing else, is logged once, and is tried again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.metrics_endpoint import MetricsEndpoint
from agent.adapters.metrics_endpoint.http_server import HttpServer
from agent.devcloud.servers import free_port
from agent.model.metrics import MetricValues, Tally
from tests.harness.prometheus import fetch

NOW = MetricValues(
    version="1.2.3",
    recordings={"pending": 1, "in_progress": 0, "completed": 5, "failed": 0},
    oldest_unsynced_seconds=3.0,
    backlog_bytes=100,
    uploaded_bytes=500,
    uploads=Tally().uploads,
    errors=Tally().errors,
    gate_closed={},
    last_success=0.0,
    disk_free_bytes=10**9,
    lease_remaining_seconds=None,
    orphaned_uploads=0,
    watcher_up=True,
    scan_seconds=0.1,
)
BACKLOG = "keystone_agent_backlog_bytes 100.0\n"


class EndpointOfTest(MetricsEndpoint):
    """An endpoint with metrics and faults that the test sets."""

    def __init__(self, listen: str = "", textfile: Path | None = None) -> None:
        self.now = NOW
        self.faults: list[str] = []
        super().__init__(listen, textfile, lambda: self.now, lambda: self.faults)


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def served(address: str) -> Iterator[EndpointOfTest]:
    telemetry = EndpointOfTest(address)
    telemetry.tend()
    yield telemetry
    telemetry.stop()


def test_each_scrape_measures_anew(served: EndpointOfTest, address: str) -> None:
    assert BACKLOG in fetch(address, "/metrics")[2]
    served.now = replace(NOW, backlog_bytes=7)
    assert "keystone_agent_backlog_bytes 7.0\n" in fetch(address, "/metrics")[2]


def test_healthz_is_ok_or_names_the_faults_a_line_each(
    served: EndpointOfTest, address: str
) -> None:
    status, headers, body = fetch(address, "/healthz")
    assert (status, headers["Content-Type"], body) == (200, "text/plain; charset=utf-8", "ok\n")
    served.faults = ["the first", "the second"]
    status, _, body = fetch(address, "/healthz")
    assert (status, body) == (503, "the first\nthe second\n")


def test_a_port_in_use_is_said_once_and_taken_when_it_is_free(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    other = HttpServer(address, {})
    telemetry = EndpointOfTest(address)
    for _ in range(3):
        telemetry.tend()
    (said,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert said.getMessage().startswith(
        f"metrics.listen = {address} can't be used: Address already in use"
    )
    other.close()
    telemetry.tend()
    assert fetch(address, "/healthz")[0] == 200
    telemetry.stop()
    assert "can be used again" in caplog.text


def test_an_address_that_is_none_of_this_robot_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    EndpointOfTest("192.0.2.1:9464").tend()
    assert (
        "metrics.listen = 192.0.2.1:9464 can't be used: Cannot assign requested address"
        in caplog.text
    )


def test_a_server_that_has_ended_is_started_again(served: EndpointOfTest, address: str) -> None:
    assert served._server is not None
    # The thread of the server ends, but the port stays open.
    served._server._server.shutdown()
    served._server._thread.join()
    served.tend()
    assert fetch(address, "/healthz")[0] == 200


def test_the_textfile_is_for_everybody_to_read_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "keystone-agent.prom"
    telemetry = EndpointOfTest(textfile=path)
    before = os.umask(0o077)
    try:
        telemetry.tend()
    finally:
        os.umask(before)
    assert BACKLOG in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]
    telemetry.stop()
    assert list(tmp_path.iterdir()) == []


def test_nobody_ever_reads_half_a_textfile(tmp_path: Path) -> None:
    path = tmp_path / "keystone-agent.prom"
    telemetry = EndpointOfTest(textfile=path)
    telemetry.tend()
    whole = path.read_text()
    done, seen = threading.Event(), set()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(300):
        telemetry.tend()
    done.set()
    reader.join()
    assert seen == {whole}


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("elsewhere"), Path.touch])
def test_whatever_has_the_name_of_the_file_beside_the_textfile_is_replaced(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "keystone-agent.prom"
    make(tmp_path / ".keystone-agent.prom.tmp")
    writer = threading.Thread(target=EndpointOfTest(textfile=path).tend, daemon=True)
    writer.start()
    writer.join(30)
    assert not writer.is_alive()
    assert BACKLOG in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_textfile_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keystone-agent.prom"
    telemetry = EndpointOfTest(textfile=path)
    telemetry.tend()
    (tmp_path / ".keystone-agent.prom.tmp").mkdir()
    telemetry.now = replace(NOW, backlog_bytes=7)
    telemetry.tend()
    assert BACKLOG in path.read_text()
    assert f"metrics.textfile = {path} can't be used: Is a directory" in caplog.text


def test_a_folder_that_is_missing_is_said_once_and_used_when_it_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "later" / "keystone-agent.prom"
    telemetry = EndpointOfTest(textfile=path)
    for _ in range(3):
        telemetry.tend()
    (said,) = caplog.records
    assert said.getMessage() == (
        f"metrics.textfile = {path} can't be used: No such file or directory; "
        "it is tried again each minute"
    )
    path.parent.mkdir()
    telemetry.tend()
    assert BACKLOG in path.read_text()


def test_what_has_stopped_does_not_begin_again(tmp_path: Path, address: str) -> None:
    telemetry = EndpointOfTest(address, tmp_path / "keystone-agent.prom")
    telemetry.tend()
    telemetry.stop()
    telemetry.tend()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConnectionError):
        fetch(address, "/healthz")


def test_what_is_stopped_while_it_begins_leaves_neither_port_nor_textfile(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, stopped = threading.Event(), threading.Event()

    class SlowHttpServer(HttpServer):
        def __init__(self, *arguments: Any) -> None:
            begun.set()
            assert stopped.wait(30)
            super().__init__(*arguments)

    monkeypatch.setattr("agent.adapters.metrics_endpoint.HttpServer", SlowHttpServer)
    telemetry = EndpointOfTest(address)
    thread = threading.Thread(target=telemetry.tend)
    thread.start()
    assert begun.wait(30)
    # The agent is reloaded while the server starts.
    telemetry.stop()
    stopped.set()
    thread.join(30)
    HttpServer(address, {}).close()

    textfile = tmp_path / "agent.prom"
    last = EndpointOfTest(textfile=textfile)

    def write(path: Path, _text: bytes) -> None:
        last.stop()
        path.touch()

    monkeypatch.setattr("agent.adapters.metrics_endpoint.replace_textfile", write)
    last.tend()
    assert not textfile.exists()


def test_no_page_and_no_label_has_a_character_that_acts_on_a_terminal(
    served: EndpointOfTest, address: str
) -> None:
    served.now = replace(NOW, version="1\x1b[2J\x9b", errors={"a\u202eb": 1})  # type: ignore[dict-item]
    served.faults = ["/data/\x1b[2J hangs\n/forged"]
    metrics, health = fetch(address, "/metrics")[2], fetch(address, "/healthz")[2]
    assert (metrics + health).replace("\n", "").isprintable()
    assert 'version="1\\\\x1b[2J\\\\x9b"' in metrics
    assert health == "/data/\\x1b[2J hangs\\n/forged\n"
