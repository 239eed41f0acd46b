"""Builds what stands for the cloud.

That is either a platform's gateway with its device profiles, or a bucket with the keys to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from agent.adapters.assets import AssetFile
from agent.adapters.config import Settings, profile_path
from agent.adapters.gateway import GrpcGateway
from agent.adapters.profiles import ProfileFile
from agent.adapters.store import MinioStore
from agent.adapters.store.keys import ProviderKeys
from agent.cloud.bucket import BucketGateway
from agent.cloud.enrol import Enrol
from agent.cloud.identity import asset_id, named_asset
from agent.cloud.no_profiles import NoProfiles
from agent.model.errors import CloudError, SetupError
from agent.model.object_key import placeholders
from agent.model.ports import Clock, Gateway, History, Profiles
from agent.model.values import DeviceProfile, Recording

_BYTES_PER_MIB = 1024 * 1024


def _keep_paths() -> None:
    """Change nothing: in bucket mode the configuration names each file."""


@dataclass(frozen=True, slots=True)
class CloudBackend:
    """The parts of one ``cloud.mode``.

    ``asset_id`` is the function by which ``prepare`` determines a recording's asset id.

    ``stamp`` returns a value that changes with the files that an operator corrects when the cloud
    refuses this robot or a recording waits for its asset id. ``find_files`` determines anew where
    these files are. It must be called before ``stamp``, because a file may appear at another path.

    ``endpoint`` is the store's address if the configuration names it. ``enrol`` is there if this
    robot can enrol at a platform.
    """

    store: MinioStore
    gateway: Gateway
    profiles: Profiles
    asset_id: Callable[[Recording, str, Mapping[str, DeviceProfile]], str]
    stamp: Callable[[], object]
    find_files: Callable[[], None] = _keep_paths
    endpoint: str = ""
    enrol: Enrol | None = None

    def places(self) -> set[str]:
        """Return the addresses of the cloud, as far as they are known."""
        known = {self.endpoint, self.store.endpoint}
        # Without profiles the addresses of the platform are not known.
        with suppress(CloudError):
            for profile in self.profiles.load().values():
                known |= {profile.auth, profile.gateway}
        return known - {""}


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the backends of both modes are built from.

    ``patience`` is the number of seconds that a call may take, or None for as long as uploads need.
    """

    settings: Settings
    robot: str
    assets: AssetFile
    clock: Clock
    connections: int
    patience: float | None

    @property
    def store_timeouts(self) -> Mapping[str, Any]:
        """The timeouts of the store, empty if the store's own are to be used."""
        if self.patience is None:
            return {}
        return dict.fromkeys(("connect_timeout", "read_timeout", "patience"), self.patience)

    @property
    def request_timeout(self) -> float:
        """The timeout of a call to the platform in seconds."""
        configured = self.settings.cloud.request_timeout_seconds
        return configured if self.patience is None else min(configured, self.patience)

    @property
    def ca_file(self) -> str:
        """The path of the certificates to trust, "" for the system's."""
        return str(self.settings.cloud.tls_ca_file or "")

    @property
    def proxy(self) -> str:
        """The proxy's URL, "" for none. It may hold a password."""
        return self.settings.cloud.proxy.get_secret_value()


def build(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    robot: str,
    assets: AssetFile,
    history: History,
    clock: Clock,
    hide: Callable[..., None],
    connections: int,
    patience: float | None = None,
) -> CloudBackend:
    """Build the backend of ``cloud.mode``. No request is sent.

    Args:
        settings: The configuration.
        environ: The environment.
        robot: This robot's own id.
        assets: Which robot is which asset.
        history: Tells a bucket which keys are in use.
        clock: The robot's clocks.
        hide: Is called with each secret, so that no log shows it.
        connections: How many connections to the store are kept open.
        patience: The seconds that a call may take if a person waits for its answer, or None for as
            long as uploads need.

    Raises:
        SetupError: The file of ``cloud.tls_ca_file`` cannot be used.
    """
    plan = _Plan(settings, robot, assets, clock, connections, patience)
    hide(*settings.cloud.proxy.secrets(), lasting=True)
    try:
        if settings.cloud.mode == "bucket":
            return _bucket(plan, history, hide)
        return _platform(plan, environ, hide)
    except OSError as error:
        raise SetupError(
            f"cloud.tls_ca_file = {plan.ca_file}: {error}",
            hint="name a file of PEM certificates that the agent can read",
        ) from error


def _platform(plan: _Plan, environ: Mapping[str, str], hide: Callable[..., None]) -> CloudBackend:
    settings = plan.settings
    profiles = ProfileFile(profile_path(settings, environ), settings.agent.state_dir)
    gateway = GrpcGateway(
        timeout_seconds=plan.request_timeout, ca_file=plan.ca_file, proxy=plan.proxy
    )

    def find_files() -> None:
        profiles.path = profile_path(settings, environ)

    def stamp() -> object:
        return profiles.stamp(), plan.assets.stamp()

    def asset_id_of(
        recording: Recording, snapshot: str, known_profiles: Mapping[str, DeviceProfile]
    ) -> str:
        return asset_id(
            recording,
            robot=plan.robot,
            known=plan.assets.known(),
            snapshot=snapshot,
            profiles=known_profiles,
            default=settings.assets.default,
        )

    return CloudBackend(
        store=MinioStore(
            clock=plan.clock,
            ca_file=plan.ca_file,
            proxy=plan.proxy,
            connections=plan.connections,
            **plan.store_timeouts,
        ),
        gateway=gateway,
        profiles=profiles,
        enrol=Enrol(gateway, profiles, hide),
        asset_id=asset_id_of,
        stamp=stamp,
        find_files=find_files,
    )


def _bucket(plan: _Plan, history: History, hide: Callable[..., None]) -> CloudBackend:
    settings, bucket = plan.settings, plan.settings.bucket
    store = MinioStore(
        clock=plan.clock,
        ca_file=plan.ca_file,
        proxy=plan.proxy,
        addressing=bucket.addressing,
        storage_class=bucket.storage_class,
        sse=bucket.sse,
        kms_key_id=bucket.kms_key_id,
        connections=plan.connections,
        **plan.store_timeouts,
    )
    keys = ProviderKeys(
        bucket.credentials,
        clock=plan.clock,
        hide=hide,
        endpoint=bucket.endpoint,
        region=bucket.region,
        credentials_file=bucket.credentials_file,
        profile=bucket.profile,
        sts_endpoint=bucket.sts_endpoint,
        role_arn=bucket.role_arn,
        external_id=bucket.external_id,
        web_identity_token_file=bucket.web_identity_token_file,
        ca_file=plan.ca_file,
        proxy=plan.proxy,
    )
    gateway = BucketGateway(
        store=store,
        keys=keys,
        history=history,
        clock=plan.clock,
        endpoint=bucket.endpoint,
        name=bucket.name,
        region=bucket.region,
        template=bucket.key,
        part_size=settings.upload.part_size_mib * _BYTES_PER_MIB,
        roots=settings.watch.roots,
        follow_symlinks=settings.watch.follow_symlinks,
    )
    needs_asset_id = "asset_id" in placeholders(bucket.key)

    def stamp() -> object:
        return keys.stamp(), plan.assets.stamp()

    def asset_id_of(
        recording: Recording, snapshot: str, _profiles: Mapping[str, DeviceProfile]
    ) -> str:
        return named_asset(
            recording,
            robot=plan.robot,
            known=plan.assets.known(),
            snapshot=snapshot,
            default=settings.assets.default,
            required=needs_asset_id,
        )

    return CloudBackend(
        store=store,
        gateway=gateway,
        profiles=NoProfiles(),
        asset_id=asset_id_of,
        stamp=stamp,
        endpoint=bucket.endpoint,
    )
