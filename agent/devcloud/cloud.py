"""The embedded cloud as a whole: gateway and store in one folder, and all that an agent needs to be pointed at it."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from agent.devcloud import servers
from agent.devcloud.bucket import DevBucket, StoreAwayError, Stored
from agent.devcloud.certificates import certificates
from agent.devcloud.gateway import Details, GatewayServicer
from agent.devcloud.ledger import Device, IssuedLease, IssuedToken, Ledger, Session, write_private
from agent.devcloud.platform import Platform, PlatformTerms
from agent.devcloud.servers import LOOPBACK, RunningStore
from agent.devcloud.store_proxy import StoreProxy

LOG = logging.getLogger(__name__)


class DevCloud:
    """A data platform on this machine alone: threads of this process, and one child that is the S3 server.

    Everything is in ``folder``: ports, keys, sessions and objects survive a restart. ``terms`` may be changed while it
    runs. Gateway and store can be stopped and started again one by one, on the same ports.
    """

    def __init__(
        self,
        folder: Path,
        *,
        store: str = "auto",
        tls: bool = False,
        lease_seconds: float = 3600,
        token_seconds: float = 3600,
        part_size_bytes: int = 8 * 1024 * 1024,
        bandwidth: float = 0,
        devices: Sequence[str] = ("robot-1",),
        host: str = LOOPBACK,
        gateway_port: int = 0,
        store_port: int = 0,
        details: Details = "wrapped",
        now: Callable[[], float] = time.time,
    ) -> None:
        """Prepare the folder; nothing runs before ``start``.

        Args:
            folder: Made when it is missing; only its owner can read it.
            store: ``auto`` (MinIO where it is on PATH, else rclone), ``rclone``, ``minio``, or the URL of an S3
                server with its keys, ``http://KEY:SECRET@HOST:PORT``.
            tls: Speak TLS, with a certificate authority of the folder's own.
            lease_seconds: Life of storage credentials, rounded up to the protocol's whole seconds of the day.
            token_seconds: Life of access tokens, likewise.
            part_size_bytes: Of new sessions.
            bandwidth: Bytes a second of the store's link, all connections together; 0 is unlimited.
            devices: Enrolled from the start, each with a profile.
            host: The name or address by which devices reach this machine. The default is for this machine alone; with
                any other, all its addresses are listened on.
            gateway_port: 0 keeps the folder's own, or finds a free one.
            store_port: Likewise.
            details: How error details travel (``gateway.Gateway``).
            now: The platform's wall clock, seconds since 1970.

        Raises:
            servers.ServerError: no S3 server is installed.
        """
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.bucket = "recordings"
        self.recordings = self.folder / "recordings"
        self.profile_path = self.folder / "device-profiles.json"
        self.config_path = self.folder / "agent.toml"
        self.terms = PlatformTerms(lease_seconds, token_seconds, part_size_bytes)
        self._settings = self.folder / "cloud.json"
        known = json.loads(self._settings.read_text()) if self._settings.exists() else {}
        self._kind = servers.choose(known.get("store", store) if store == "auto" else store)
        self._keys = tuple(known.get("store_keys") or (secrets.token_hex(8), secrets.token_hex(16)))
        self._gateway_port = gateway_port or known.get("gateway_port", 0)
        self._store_port = store_port or known.get("store_port", 0)
        self._host = host
        self._listen = LOOPBACK if host == LOOPBACK else "0.0.0.0"  # noqa: S104 - it was asked for
        self._certificates = certificates(self.folder, host) if tls else None
        self._bandwidth = bandwidth
        self._details = details
        self._now = now
        self._ledger = Ledger(self.folder / "platform.json", now)
        self.rules = Platform(
            self._ledger,
            self.terms,
            bucket=self.bucket,
            endpoint=self._store_endpoint,
            head=self._head,
            now=now,
        )
        for device in devices:
            if self._ledger.get(Device, device) is None:
                self.rules.enrol(device, {"site": "devcloud", "device": device})
        self._store: RunningStore | None = None
        self._root: DevBucket | None = None
        self._front: StoreProxy | None = None
        self._gateway: GatewayServicer | None = None

    def __enter__(self) -> DevCloud:  # noqa: PYI034 - Self is not in Python 3.10
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    @property
    def ca_file(self) -> Path | None:
        """The certificate authority that clients must trust; None without TLS."""
        return self._certificates.ca_file if self._certificates else None

    @property
    def gateway_url(self) -> str:
        """Where the platform's services answer."""
        return self._url(self._gateway_port)

    @property
    def store_url(self) -> str:
        """Where devices find the store."""
        return self._url(self._store_port)

    @property
    def store_kind(self) -> str:
        """``rclone``, ``minio``, or the host of a server that somebody else runs."""
        return self._kind.rpartition("@")[2]

    # Running

    def start(self) -> None:
        """Start what does not run, and write the profile file and the agent's configuration.

        Raises:
            servers.ServerError: the store does not come up.
            OSError: a port is taken.
        """
        try:
            self.start_store()
            self.start_gateway()
        except BaseException:
            self.stop()
            raise
        self._write_settings()
        self.recordings.mkdir(exist_ok=True)
        write_private(self.profile_path, json.dumps(self._profiles(), indent=2) + "\n")
        write_private(self.config_path, self._agent_config())

    def stop(self) -> None:
        """Stop everything; harmless when nothing runs."""
        self.stop_gateway()
        self.stop_store()

    def start_gateway(self) -> None:
        """Start the gateway, on the port it had."""
        if self._gateway is None:
            tls = self._certificates.server_file if self._certificates else None
            self._gateway = GatewayServicer(
                self.rules,
                address=self._listen,
                port=self._gateway_port,
                tls=tls,
                details=self._details,
            )
            self._gateway_port = self._gateway.port

    def stop_gateway(self) -> None:
        """Cut the gateway's calls and close its port."""
        if self._gateway is not None:
            self._gateway.stop()
            self._gateway = None

    def start_store(self) -> None:
        """Start the S3 server, and the front before it on the port it had."""
        if self._front is not None:
            return
        self._store = servers.start(self._kind, self.folder, keys=(self._keys[0], self._keys[1]))
        self._root = DevBucket(self._store.endpoint, self.bucket)
        self._root.ensure()
        tls = self._certificates.context() if self._certificates else None
        self._front = StoreProxy(
            self._ledger,
            self._store.endpoint,
            now=self._now,
            address=self._listen,
            port=self._store_port,
            tls=tls,
            bandwidth=self._bandwidth,
        )
        self._store_port = self._front.port

    def stop_store(self) -> None:
        """Cut every connection to the store, close its port and end its process."""
        if self._front is not None:
            self._front.stop()
            self._front = None
        if self._root is not None:
            self._root.close()
            self._root = None
        if self._store is not None:
            self._store.stop()
            self._store = None

    # What its owners see and do

    def objects(self) -> list[str]:
        """The keys of all objects in the bucket."""
        return self._running().keys()

    def read_object(self, key: str) -> bytes:
        """The bytes of an object, all in memory."""
        return self._running().read(key)

    def object_sha256(self, key: str) -> str:
        """SHA-256 of an object's bytes, in lower-case hex; flat in memory."""
        return self._running().sha256(key)

    def sessions(self) -> list[Session]:
        """All upload sessions, oldest first."""
        return self._ledger.all(Session)

    def devices(self) -> list[Device]:
        """All enrolled devices, with their keys."""
        return self._ledger.all(Device)

    def expire_leases(self) -> None:
        """Let every lease end now."""
        self._ledger.put(
            *(replace(lease, expires_at=self._now()) for lease in self._ledger.all(IssuedLease))
        )

    def expire_tokens(self) -> None:
        """Let every access token end now."""
        self._ledger.put(
            *(replace(token, expires_at=self._now()) for token in self._ledger.all(IssuedToken))
        )

    def disable_key(self, device_id: str, code: str = "KEY_DISABLED") -> None:
        """Refuse a device's key with an AuthErrorCode: also ``KEY_EXPIRED`` or ``SITE_DISABLED``."""
        self._change(device_id, code)

    def enable_key(self, device_id: str) -> None:
        """Accept a device's key again."""
        self._change(device_id, "")

    def _change(self, device_id: str, refused: str) -> None:
        device = self._ledger.get(Device, device_id)
        if device is None:
            raise KeyError(device_id)
        self._ledger.put(replace(device, refused=refused))

    # Inside

    def _running(self) -> DevBucket:
        if self._root is None:
            raise StoreAwayError("the store is stopped")
        return self._root

    def _head(self, key: str) -> Stored | None:
        return self._running().head(key)

    def _url(self, port: int) -> str:
        return f"{'https' if self._certificates else 'http'}://{self._host}:{port}"

    def _store_endpoint(self) -> str:
        """As the platform tells it: a place without a scheme is https."""
        return self.store_url.removeprefix("https://")

    def _write_settings(self) -> None:
        settings = {
            "gateway_port": self._gateway_port,
            "store_port": self._store_port,
            "store": self._kind,
            "store_keys": self._keys,
        }
        write_private(self._settings, json.dumps(settings))

    def _profiles(self) -> dict[str, Any]:
        return {
            "version": 3,
            "endpoints": {
                "auth": self.gateway_url,
                "gateway": self.gateway_url,
                "deviceInit": self.gateway_url,
            },
            "devices": [
                {"deviceId": device.id, "apiKey": device.api_key, "tags": dict(device.tags)}
                for device in self.devices()
            ],
        }

    def _agent_config(self) -> str:
        devices = self.devices()
        lines = [
            "# Points an agent at the embedded cloud of this folder. Written at each start of the cloud:",
            "# put changes into agent.toml.d/*.toml beside it.",
            "[agent]",
            f"state_dir = {_quoted(self.folder / 'state')}",
            f"device_id = {_quoted(devices[0].id if devices else 'robot-1')}",
            "[watch]",
            f"roots = [{_quoted(self.recordings)}]",
            "[cloud]",
            f"dp_config = {_quoted(self.profile_path)}",
            *([f"tls_ca_file = {_quoted(self.ca_file)}"] if self.ca_file else []),
            # Several profiles leave open which of them a recording belongs to.
            *(["[assets]", f"default = {_quoted(devices[0].id)}"] if len(devices) > 1 else []),
            "[retry]",
            "jitter_seconds = 0  # one robot need not be spread",
            "[log]",
            f"dir = {_quoted(self.folder / 'log')}",
        ]
        return "\n".join(lines) + "\n"


def _quoted(value: object) -> str:
    """A TOML basic string; JSON's escapes are among TOML's."""
    return json.dumps(str(value), ensure_ascii=False)
