"""Runs a real Prometheus and its promtool. Debian's package `prometheus` has both."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agent.devcloud import servers
from agent.devcloud.servers import Child
from tests.harness.paths import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
RULES = DEPLOY / "prometheus" / "keystone-agent.rules.yml"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed"
)

_POLL_SECONDS = 0.1


def fetch(address: str, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    """Request ``path`` from ``address`` (HOST:PORT). Return status, headers and body."""
    with closing(http.client.HTTPConnection(address, timeout=10)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()


class Prometheus:
    """A running Prometheus that scrapes each second."""

    def __init__(self, address: str) -> None:
        """Use the server at ``address``, as HOST:PORT."""
        self.address = address

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the present series of ``expression``."""
        found: list[dict[str, Any]] = self.ask(f"/api/v1/query?query={quote(expression)}")["result"]
        return found

    def ask(self, path: str) -> dict[str, Any]:
        """Return the data of one answer of the HTTP API."""
        status, _, body = fetch(self.address, path)
        assert status == 200, body
        data: dict[str, Any] = json.loads(body)["data"]
        return data

    def wait(self, expression: str, seconds: float = 30) -> list[dict[str, Any]]:
        """Return the series of ``expression`` as soon as there are any."""
        pause = threading.Event()
        for _ in range(int(seconds / _POLL_SECONDS)):
            if found := self.query(expression):
                return found
            pause.wait(_POLL_SECONDS)
        raise AssertionError(f"no {expression} within {seconds} s: {self.ask('/api/v1/targets')}")


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Run a Prometheus with the rules of this repository during the block.

    It scrapes ``target`` (HOST:PORT) as the job keystone-agent.
    """
    folder.mkdir()
    address = f"127.0.0.1:{servers.free_port()}"
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "keystone-agent", "static_configs": [{"targets": [target]}]}
        ],
    }
    # Every JSON document is also a YAML document.
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    child = Child(command, folder / "prometheus.log")
    try:
        servers.await_answer(f"http://{address}", child, "/-/ready")
        yield Prometheus(address)
    finally:
        child.stop()
