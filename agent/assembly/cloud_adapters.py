"""Opens the adapters that speak with the cloud: the store, the gateway, the profiles, the keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.adapters.config import Settings, profile_path
from agent.adapters.gateway import GrpcGateway
from agent.adapters.profiles import ProfileFile
from agent.adapters.store import MinioStore
from agent.adapters.store.keys import ProviderKeys
from agent.model.ports import Clock


class RelocatableProfileFile(ProfileFile):
    """The device profile file, which may appear at another path while the agent runs."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """Find the file by the settings and the environment."""
        super().__init__(profile_path(settings, environ), settings.agent.state_dir)
        self._settings = settings
        self._environ = environ

    def find(self) -> None:
        """Determine anew where the file is."""
        self.path = profile_path(self._settings, self._environ)


class CloudAdapters:
    """Implements ``CloudPorts`` with the real adapters. Any thread may use it."""

    def __init__(
        self,
        environ: Mapping[str, str],
        clock: Clock,
        hide: Callable[..., None],
        *,
        connections: int,
        patience: float | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            environ: The environment.
            clock: The robot's clocks.
            hide: Is called with each secret, so that no log shows it.
            connections: How many connections to the store are kept open.
            patience: The seconds that a call may take if a person waits for its answer, or None for
                as long as uploads need.
        """
        self._environ = environ
        self._clock = clock
        self._hide = hide
        self._connections = connections
        self._patience = patience

    def store(self, settings: Settings) -> MinioStore:
        """Return the store. How a bucket is used is configured in bucket mode only."""
        options: dict[str, Any] = {}
        # The store has timeouts of its own, which fit uploads.
        if self._patience is not None:
            options = dict.fromkeys(("connect_timeout", "read_timeout", "patience"), self._patience)
        if settings.cloud.mode == "bucket":
            bucket = settings.bucket
            options |= {
                "addressing": bucket.addressing,
                "storage_class": bucket.storage_class,
                "sse": bucket.sse,
                "kms_key_id": bucket.kms_key_id,
            }
        return MinioStore(
            clock=self._clock,
            ca_file=_ca_file(settings),
            proxy=_proxy(settings),
            connections=self._connections,
            **options,
        )

    def gateway(self, settings: Settings) -> GrpcGateway:
        """Return the gateway of the platform."""
        timeout = settings.cloud.request_timeout_seconds
        if self._patience is not None:
            timeout = min(timeout, self._patience)
        return GrpcGateway(
            timeout_seconds=timeout, ca_file=_ca_file(settings), proxy=_proxy(settings)
        )

    def profiles(self, settings: Settings) -> RelocatableProfileFile:
        """Return the device profile file."""
        return RelocatableProfileFile(settings, self._environ)

    def keys(self, settings: Settings) -> ProviderKeys:
        """Return the source of the keys to the bucket."""
        bucket = settings.bucket
        return ProviderKeys(
            bucket.credentials,
            clock=self._clock,
            hide=self._hide,
            endpoint=bucket.endpoint,
            region=bucket.region,
            credentials_file=bucket.credentials_file,
            profile=bucket.profile,
            sts_endpoint=bucket.sts_endpoint,
            role_arn=bucket.role_arn,
            external_id=bucket.external_id,
            web_identity_token_file=bucket.web_identity_token_file,
            ca_file=_ca_file(settings),
            proxy=_proxy(settings),
        )


def _ca_file(settings: Settings) -> str:
    """Return the path of the certificates to trust, "" for the system's."""
    return str(settings.cloud.tls_ca_file or "")


def _proxy(settings: Settings) -> str:
    """Return the proxy's URL, "" for none. It may hold a password."""
    return settings.cloud.proxy.get_secret_value()
