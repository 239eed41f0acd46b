"""Tests with a real HTTP proxy for the platform's gRPC and the store's S3."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.devcloud.cloud import DevCloud
from tests.harness.agent_process import Agent, running
from tests.harness.http_proxy import HttpProxy
from tests.harness.recorders import write_mcap

MIB = 1024 * 1024
PASSWORD = "p@ss:wörd/100%"  # noqa: S105 - a test's password
WRITTEN = "p%40ss%3Aw%C3%B6rd%2F100%25"


def status_of(agent: Agent) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(agent.command("status", "--json").stdout)
    return answer


def wait_until(ask: Callable[[], Any]) -> None:
    nap = threading.Event()
    for _ in range(100):
        if ask():
            return
        nap.wait(0.1)
    raise AssertionError("not within 10 s")


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_gateway_and_store_are_reached_by_the_proxy_alone(
    tmp_path: Path, *, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment names other proxies, and none for this host. The agent does not use them."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with DevCloud(tmp_path / "cloud", tls=tls) as cloud, HttpProxy("joe", PASSWORD) as proxy:
        url = f"http://joe:{WRITTEN}@{proxy.place}"
        with running(cloud.agent_files, tmp_path, CLOUD__PROXY=url, LOG__LEVEL="DEBUG") as agent:
            recording = write_mcap(agent.root / "a.mcap", size=20 * MIB)
            (log,) = agent.wait_completed(1)
            printed = (
                agent.command("status", "--json").stdout
                + agent.command("config", "show", "--origin").stdout
            )
            printed += (
                agent.command("config", "show").stdout
                + agent.command("config", "show", "--json").stdout
            )
            agent.stop()
        assert cloud.read_object(log.object_key) == recording.read_bytes()
        assert all(each.admitted for each in proxy.passed)
        gateway, store = (
            address.partition("://")[2] for address in (cloud.gateway_url, cloud.store_url)
        )
        assert proxy.targets() == {gateway, store}
        assert proxy.targets("CONNECT") == ({gateway, store} if tls else {gateway})
    printed += agent.said()
    printed += "".join(
        path.read_bytes().decode(errors="replace")
        for path in (*agent.state.rglob("*"), *agent.logs.rglob("*"))
        if path.is_file()
    )
    assert f"http://***@{proxy.place}" in printed
    assert [secret for secret in (PASSWORD, WRITTEN) if secret in printed] == []


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_proxy_that_refuses_closes_the_gate_and_is_named(tmp_path: Path, *, tls: bool) -> None:
    with (
        DevCloud(tmp_path / "cloud", tls=tls) as cloud,
        HttpProxy("joe", "other-password") as proxy,
        running(
            cloud.agent_files, tmp_path, CLOUD__PROXY=f"http://joe:{WRITTEN}@{proxy.place}"
        ) as agent,
    ):
        write_mcap(agent.root / "a.mcap")
        agent.wait(lambda logs: logs and logs[0].status == "pending")
        wait_until(lambda: (status_of(agent)["agent"] or {}).get("gate"))
        gate = status_of(agent)["agent"]["gate"]
        assert gate["code"] == "proxy"
        assert "cloud.proxy" in gate["hint"]
        proxy.password = PASSWORD
        (log,) = agent.wait_completed(1)
    assert log.attempt_count == 1
