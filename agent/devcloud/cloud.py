"""The embedded cloud as a whole: gateway and store in one folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from agent.devcloud import servers
from agent.devcloud.agent_files import AgentFiles
from agent.devcloud.bucket import DevBucket, StoreAwayError, Stored
from agent.devcloud.certificates import certificates
from agent.devcloud.gateway import Details, GatewayServicer
from agent.devcloud.ledger import Device, IssuedLease, IssuedToken, Ledger, Session
from agent.devcloud.platform import Platform, PlatformTerms
from agent.devcloud.saved_cloud import SavedCloud
from agent.devcloud.servers import LOOPBACK, RunningStore
from agent.devcloud.store_proxy import StoreProxy

LOG = logging.getLogger(__name__)


class DevCloud:
    """A data platform on this machine: threads of this process, and the S3 server as a child.

    The demo and the tests need a cloud that can be restarted and disturbed without any other
    machine. Everything is in ``folder``, so ports, keys, sessions and objects survive a restart.
    ``terms`` may be changed while the cloud runs. Gateway and store can be stopped and started
    again one by one, on the same ports.

    Start and stop it from one thread. The methods about objects, sessions, devices, leases, tokens
    and keys may be called from any thread.
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
        """Prepare the folder. ``start`` starts gateway and store.

        Args:
            folder: Created when it is missing. Only the user of this process can read it.
            store: ``auto`` (MinIO where it is on PATH, else rclone), ``rclone``, ``minio``, or the
                URL of an S3 server with its keys, ``http://KEY:SECRET@HOST:PORT``.
            tls: Whether to speak TLS, with a certificate authority in the folder.
            lease_seconds: How long storage credentials are valid. The end is rounded up to a whole
                second, because the protocol has whole seconds.
            token_seconds: How long access tokens are valid. The end is rounded up, too.
            part_size_bytes: The part size of new sessions.
            bandwidth: Bytes per second of the store's link, for all connections together; 0 means
                no limit.
            devices: The devices that are enrolled from the start, each with a profile.
            host: The name or address by which devices reach this machine. With the default only
                this machine can connect. With any other, the cloud listens on all addresses.
            gateway_port: The gateway's port. 0 takes the port of the last start in this folder, or
                else a free one.
            store_port: The store's port, with the same rule.
            details: How error details are sent; see ``gateway.GatewayServicer``.
            now: Returns the platform's wall clock in seconds since 1970.

        Raises:
            servers.ServerError: No S3 server is installed.
        """
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.bucket = "recordings"
        self.terms = PlatformTerms(lease_seconds, token_seconds, part_size_bytes)
        # What an agent needs that uses this cloud.
        self.agent_files = AgentFiles(self.folder)
        self._saved = SavedCloud(
            self.folder / "cloud.json",
            store=store,
            gateway_port=gateway_port,
            store_port=store_port,
        )
        self._host = host
        self._listen = LOOPBACK if host == LOOPBACK else "0.0.0.0"  # noqa: S104 - other machines are to reach it
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
        self._dev_bucket: DevBucket | None = None
        self._store_proxy: StoreProxy | None = None
        self._gateway: GatewayServicer | None = None
        self._advertised_store_url = ""

    def __enter__(self) -> DevCloud:  # noqa: PYI034 - Self is not in Python 3.10
        """Start the cloud and return it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the cloud."""
        self.stop()

    @property
    def ca_file(self) -> Path | None:
        """The file of the certificate authority that clients must trust, or None without TLS."""
        return self._certificates.ca_file if self._certificates else None

    @property
    def gateway_url(self) -> str:
        """The URL of the platform's services."""
        return self._url(self._saved.gateway_port)

    @property
    def store_url(self) -> str:
        """The URL of the store for devices."""
        return self._url(self._saved.store_port)

    @property
    def gateway_port(self) -> int:
        """The port on which the gateway listens; it stays the same after the first start."""
        return self._saved.gateway_port

    @property
    def store_port(self) -> int:
        """The port on which the store listens; it stays the same after the first start."""
        return self._saved.store_port

    @property
    def store_kind(self) -> str:
        """``rclone``, ``minio``, or ``host:port`` of a server that was not started here."""
        return self._saved.store_kind.rpartition("@")[2]

    # Running

    def start(self) -> None:
        """Start what does not run, and write the profile file and the agent's configuration.

        Raises:
            servers.ServerError: The S3 server does not start.
            OSError: A port is taken.
        """
        try:
            self.start_store()
            self.start_gateway()
        except BaseException:
            self.stop()
            raise
        self._saved.save()
        self.agent_files.write(self.devices(), self.gateway_url, self.ca_file)

    def stop(self) -> None:
        """Stop gateway and store. Harmless when nothing runs."""
        self.stop_gateway()
        self.stop_store()

    def start_gateway(self) -> None:
        """Start the gateway on its port of the last start, unless it runs."""
        if self._gateway is None:
            tls = self._certificates.server_file if self._certificates else None
            self._gateway = GatewayServicer(
                self.rules,
                address=self._listen,
                port=self._saved.gateway_port,
                tls=tls,
                details=self._details,
            )
            self._saved.gateway_port = self._gateway.port

    def stop_gateway(self) -> None:
        """Cut the gateway's calls and close its port. Harmless when it does not run."""
        if self._gateway is not None:
            self._gateway.stop()
            self._gateway = None

    def start_store(self) -> None:
        """Start the S3 server, and its proxy on the port of the last start, unless they run."""
        if self._store_proxy is not None:
            return
        self._store = servers.start(
            self._saved.store_kind, self.folder, keys=self._saved.store_keys
        )
        self._dev_bucket = DevBucket(self._store.endpoint, self.bucket)
        self._dev_bucket.ensure()
        tls = self._certificates.context() if self._certificates else None
        self._store_proxy = StoreProxy(
            self._ledger,
            self._store.endpoint,
            now=self._now,
            address=self._listen,
            port=self._saved.store_port,
            tls=tls,
            bandwidth=self._bandwidth,
        )
        self._saved.store_port = self._store_proxy.port

    def stop_store(self) -> None:
        """Cut all connections to the store, close its port and end its process."""
        if self._store_proxy is not None:
            self._store_proxy.stop()
            self._store_proxy = None
        if self._dev_bucket is not None:
            self._dev_bucket.close()
            self._dev_bucket = None
        if self._store is not None:
            self._store.stop()
            self._store = None

    def advertise_store(self, url: str) -> None:
        """Tell devices that the store is at ``url``, for example at a proxy in front of it.

        Without this call devices get ``store_url``. Leases and answers that were already
        given do not change.
        """
        self._advertised_store_url = url

    # What the platform's operators see and do

    def objects(self) -> list[str]:
        """Return the keys of all objects in the bucket, sorted."""
        return self._running_bucket().keys()

    def read_object(self, key: str) -> bytes:
        """Return the bytes of an object. The whole object is held in memory."""
        return self._running_bucket().read(key)

    def object_sha256(self, key: str) -> str:
        """Return an object's SHA-256 in lower-case hex. The object is read block by block."""
        return self._running_bucket().sha256(key)

    def sessions(self) -> list[Session]:
        """Return all upload sessions, oldest first."""
        return self._ledger.all(Session)

    def devices(self) -> list[Device]:
        """Return all enrolled devices, with their keys."""
        return self._ledger.all(Device)

    def expire_leases(self) -> None:
        """Make all leases expire now."""
        self._ledger.put(
            *(replace(lease, expires_at=self._now()) for lease in self._ledger.all(IssuedLease))
        )

    def expire_tokens(self) -> None:
        """Make all access tokens expire now."""
        self._ledger.put(
            *(replace(token, expires_at=self._now()) for token in self._ledger.all(IssuedToken))
        )

    def disable_key(self, device_id: str, code: str = "KEY_DISABLED") -> None:
        """Refuse a device's key from now on.

        Args:
            device_id: The device. A KeyError is raised when it is not enrolled.
            code: The AuthErrorCode of the refusal without its prefix: ``KEY_DISABLED``,
                ``KEY_EXPIRED`` or ``SITE_DISABLED``.
        """
        self._set_refusal(device_id, code)

    def enable_key(self, device_id: str) -> None:
        """Accept a device's key again. A KeyError is raised when it is not enrolled."""
        self._set_refusal(device_id, "")

    def _set_refusal(self, device_id: str, refused: str) -> None:
        device = self._ledger.get(Device, device_id)
        if device is None:
            raise KeyError(device_id)
        self._ledger.put(replace(device, refused=refused))

    # Internal

    def _running_bucket(self) -> DevBucket:
        if self._dev_bucket is None:
            raise StoreAwayError("the store is not running")
        return self._dev_bucket

    def _head(self, key: str) -> Stored | None:
        return self._running_bucket().head(key)

    def _url(self, port: int) -> str:
        return f"{'https' if self._certificates else 'http'}://{self._host}:{port}"

    def _store_endpoint(self) -> str:
        """Return the store's address as the platform sends it: https has no scheme there."""
        return (self._advertised_store_url or self.store_url).removeprefix("https://")
