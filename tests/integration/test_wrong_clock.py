"""Tests of the real command with another time than the cloud's.

A robot without a battery boots in 1970.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from minio import Minio

from agent.devcloud.cloud import DevCloud
from tests.harness import s3_servers as servers
from tests.harness.agent_process import Agent
from tests.harness.recorders import write_mcap

LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
YEAR = 365 * 86400

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")


class AgentWithClock(Agent):
    """An agent whose wall clock shows the time that a file sets."""

    def __init__(self, cloud: DevCloud, folder: Path, offset: float) -> None:
        super().__init__(cloud.agent_files, folder)
        self._time = folder / "time"
        self.set_offset(offset)
        self.environ |= {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._time),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set_offset(self, seconds: float) -> None:
        """Let the clock jump, also while the agent runs; 0 is the true time."""
        aside = self._time.with_suffix(".new")
        aside.write_text(f"{seconds:+.0f}\n")
        aside.replace(self._time)


def certificate_for_all_times(folder: Path) -> servers.Certificate:
    """Make a certificate like ``servers.certificate``, but valid from 1950 on.

    The certificate itself is trusted, without an authority.
    """
    folder.mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    issued = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(1950, 1, 1, tzinfo=timezone.utc))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=timezone.utc))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = folder / "public.crt"
    made = servers.Certificate(ca_file=public, cert_file=public, key_file=folder / "private.key")
    made.cert_file.write_bytes(issued.public_bytes(Encoding.PEM))
    made.key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


@pytest.mark.skipif("minio" not in servers.available(), reason="minio is not on PATH")
@pytest.mark.parametrize("offset", [-time.time() + 86400, YEAR], ids=["1970", "a year ahead"])
def test_an_upload_to_minio_completes_where_its_certificate_is_valid_at_that_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    monkeypatch.setattr(servers, "certificate", certificate_for_all_times)
    with (
        servers.minio(tmp_path / "minio", tls=True) as server,
        DevCloud(tmp_path / "unused") as cloud,
    ):
        pool = urllib3.PoolManager(ca_certs=str(server.ca_file))
        address = server.endpoint.partition("://")[2]
        library = Minio(
            address, server.access_key, server.secret_key, region="us-east-1", http_client=pool
        )
        library.make_bucket("robots")
        agent = AgentWithClock(cloud, tmp_path, offset)
        agent.environ |= {
            "KEYSTONE_AGENT_CLOUD__MODE": "bucket",
            "KEYSTONE_AGENT_CLOUD__TLS_CA_FILE": str(server.ca_file),
            "KEYSTONE_AGENT_BUCKET__ENDPOINT": server.endpoint,
            "KEYSTONE_AGENT_BUCKET__NAME": "robots",
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
        }
        agent.start()
        try:
            recording = write_mcap(agent.root / "a.mcap", size=9 << 20)
            (log,) = agent.wait_completed(1)
            answer = library.get_object("robots", log.object_key)
            assert answer.read() == recording.read_bytes()
            answer.close()
            answer.release_conn()
        finally:
            agent.stop()
            pool.clear()


def gate_of(agent: Agent) -> str:
    status = json.loads(agent.command("status", "--json").stdout)
    return json.dumps(status["agent"]["gate"]) if status["agent"] else ""


def wait_for_gate(agent: Agent, condition: Callable[[str], bool]) -> None:
    agent.wait(lambda _: condition(gate_of(agent)))


def test_a_year_ahead_an_upload_over_tls_completes(tmp_path: Path) -> None:
    with DevCloud(tmp_path / "cloud", tls=True) as cloud:
        agent = AgentWithClock(cloud, tmp_path, YEAR)
        agent.start()
        try:
            recording = write_mcap(agent.root / "a.mcap", size=9 << 20)
            (log,) = agent.wait_completed(1)
            assert cloud.read_object(log.object_key) == recording.read_bytes()
            assert log.completed_at is not None
            assert int(log.completed_at[:4]) > time.gmtime().tm_year, "the clock was ahead indeed"
        finally:
            agent.stop()


def test_in_1970_the_gate_blames_the_clock_and_opens_once_it_is_set(tmp_path: Path) -> None:
    with DevCloud(tmp_path / "cloud", tls=True) as cloud:
        agent = AgentWithClock(cloud, tmp_path, -time.time() + 86400)
        agent.start()
        try:
            write_mcap(agent.root / "a.mcap")
            wait_for_gate(agent, lambda gate: "this robot's clock says 1970" in gate)
            agent.set_offset(0)
            (log,) = agent.wait_completed(1)
            assert log.attempt_count == 1
        finally:
            agent.stop()


def test_a_clock_that_jumps_while_the_agent_runs_stops_nothing(tmp_path: Path) -> None:
    with DevCloud(tmp_path / "cloud", tls=True) as cloud:
        agent = AgentWithClock(cloud, tmp_path, 0)
        agent.start()
        try:
            for number, offset in enumerate((0, -7 * 86400, 120 * 86400, 0)):
                agent.set_offset(offset)
                write_mcap(agent.root / f"{number}.mcap", seed=number)
                agent.wait_completed(number + 1)
        finally:
            assert agent.stop() == 0
    assert len(list(agent.root.iterdir())) == 4
