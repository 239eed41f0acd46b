"""The agent as `run` builds it, in this process, with proxies between it and its cloud.

Tests of faults use this rig to break something and to see what the agent does.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from agent.adapters.clock import RealClock
from agent.adapters.config import PREFIX, load
from agent.adapters.store import MinioStore
from agent.assembly import jobs
from agent.assembly.app import App
from agent.assembly.ports import open_ports
from agent.devcloud.cloud import DevCloud
from agent.gate.gate import Closed
from agent.model.sync_log import SyncLog
from agent.model.values import CredentialLease, UploadSession
from agent.upload import part_uploader as sender
from tests.harness.faults.gateway_proxy import GatewayProxy
from tests.harness.faults.store_proxy import FaultyStoreProxy
from tests.harness.s3_servers import Certificate, S3Server

MIB = 1024 * 1024

# The smallest part size that real stores accept, in bytes.
PART = 5 * MIB

_POLL_SECONDS = 0.01

# Times are short, so that a test need not wait long.
_SETTINGS = {
    "WATCH__SETTLE_SECONDS": "0.05",
    "WATCH__SIDECAR_WAIT_SECONDS": "0.05",
    "WATCH__RESCAN_SECONDS": "0.5",
    "UPLOAD__MAX_CONCURRENT": "1",
    "RETRY__BASE_SECONDS": "0.2",
    "RETRY__MAX_SECONDS": "1",
    "RETRY__JITTER_SECONDS": "0",
    "RETRY__MAX_ATTEMPTS": "2",
    "LOG__DIR": "",
}
_Seen = TypeVar("_Seen")


class Rig:
    """One robot with one recording, its cloud, and the proxies between them."""

    def __init__(
        self,
        folder: Path,
        server: S3Server,
        recording: Path,
        patch: pytest.MonkeyPatch,
        *,
        timeout: float,
        tls: Certificate | None = None,
    ) -> None:
        """Build everything; ``start`` starts the agent.

        ``timeout`` limits each call and each silence, in seconds.
        """
        # These times have no settings, so they are shortened where they are defined.
        usual = MinioStore.__init__.__kwdefaults__ or {}
        for name in ("connect_timeout", "read_timeout", "patience"):
            patch.setitem(usual, name, timeout)
        patch.setattr(jobs, "_TICK_SECONDS", 0.05)
        patch.setattr(sender, "_PAUSE_SECONDS", 0.05)
        self._server = server
        self.cloud = DevCloud(folder / "cloud", store=server.with_keys, part_size_bytes=PART)
        self.cloud.start()
        context = None
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.cert_file, tls.key_file)
        self.store = FaultyStoreProxy(self.cloud.store_port, context)
        self.gateway = GatewayProxy(self.cloud.gateway_port)
        self.cloud.advertise_store(self.store.url)
        self.recording = folder / "recordings" / "a.mcap"
        self.recording.parent.mkdir()
        shutil.copyfile(recording, self.recording)
        self.size = self.recording.stat().st_size
        environ = {
            "AGENT__STATE_DIR": str(folder / "state"),
            "WATCH__ROOTS": json.dumps([str(self.recording.parent)]),
            "CLOUD__REQUEST_TIMEOUT_SECONDS": str(timeout),
            "CLOUD__DP_CONFIG": str(self._profiles(folder / "profiles.json")),
            **({"CLOUD__TLS_CA_FILE": str(tls.ca_file)} if tls else {}),
            **_SETTINGS,
        }
        named = {PREFIX + name: text for name, text in environ.items()}
        (folder / "state").mkdir()
        settings = load(self.cloud.agent_files.config_path, named).settings
        self.app = App(settings, open_ports(settings, named, hide=lambda *_, **__: None))

    def start(self) -> None:
        """Start the agent."""
        self.app.start()

    def stop(self) -> None:
        """Stop the agent, the proxies and the cloud."""
        self.store.script.mend()
        self.gateway.script.mend()
        self.app.stop()
        self.store.stop()
        self.gateway.stop()
        self.cloud.stop()

    def log(self) -> SyncLog:
        """Return the only document."""
        (log,) = self.app.history.newest_first()
        return log

    def wait(self, condition: Callable[[], _Seen], seconds: float = 20) -> _Seen:
        """Call ``condition`` until it returns a true value, and return that value."""
        pause = threading.Event()
        for _ in range(int(seconds / _POLL_SECONDS)):
            if seen := condition():
                return seen
            pause.wait(_POLL_SECONDS)
        raise AssertionError(
            f"not within {seconds} s: {list(self.app.history.newest_first())} "
            f"{self.app.gate.closed()}"
        )

    def closed(self, code: str) -> Closed:
        """Wait until the gate is closed with that code. Not one attempt may have been counted."""
        found = self.wait(lambda: (now := self.app.gate.closed()) and now.code == code and now)
        assert isinstance(found, Closed)
        log = self.wait(lambda: (log := self.log()).status == "pending" and log)
        assert isinstance(log, SyncLog)
        assert log.attempt_count == 0
        assert found.hint
        return found

    def completed(
        self, *, attempts: int = 1, again: int = 0, sessions: int = 1, anew: bool = False
    ) -> SyncLog:
        """Wait until the recording is uploaded, and assert that this happened exactly once.

        Args:
            attempts: The exact number of counted attempts.
            again: How many bytes of parts may have been sent more than once, at most.
            sessions: The exact number of sessions that the platform has opened.
            anew: Whether these bytes may include parts that the store had accepted.
        """
        self.wait(lambda: [log.open for log in self.app.history.newest_first()] == [False])
        log = self.log()
        assert log.status == "completed", log.error
        assert self.cloud.read_object(log.object_key) == self.recording.read_bytes()
        assert log.attempt_count == attempts
        assert self.size <= log.bytes_sent <= self.size + again * anew
        assert self.size <= self.store.part_bytes <= self.size + again
        assert self.app.gate.closed() is None
        known = self.cloud.sessions()
        assert len(known) == sessions
        assert [session.object_key for session in known if session.status == "COMPLETED"] == [
            log.object_key
        ]
        assert [
            key for key in self.cloud.objects() if key in {session.object_key for session in known}
        ] == [log.object_key]
        assert self.orphans() == []
        return log

    def orphans(self) -> list[str]:
        """Return the unfinished multipart uploads of all sessions."""
        store = MinioStore(clock=RealClock())
        lease = CredentialLease(self._server.access_key, self._server.secret_key, "", 0.0)
        try:
            return [
                multipart
                for known in self.cloud.sessions()
                for multipart in store.at(
                    UploadSession(
                        "",
                        "",
                        known.bucket,
                        self._server.endpoint,
                        known.object_key,
                        "us-east-1",
                        1,
                    ),
                    lambda: lease,
                ).multiparts()
            ]
        finally:
            store.close()

    def _profiles(self, path: Path) -> Path:
        """Write the cloud's profile file with the proxy's address, and return its path."""
        known = json.loads(self.cloud.agent_files.profile_path.read_text())
        known["endpoints"] = dict.fromkeys(known["endpoints"], self.gateway.url)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            json.dump(known, file)
        return path
