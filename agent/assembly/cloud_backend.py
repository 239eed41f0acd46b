"""What stands for the cloud: a platform's gateway with its device profiles, or a bucket with keys to it."""

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
from agent.cloud.bucket import BucketGateway, NoProfiles
from agent.cloud.enrol import Enrol
from agent.cloud.identity import asset_id, named_asset
from agent.model.errors import CloudError, SetupError
from agent.model.object_key import placeholders
from agent.model.ports import Clock, Gateway, History, Profiles
from agent.model.values import DeviceProfile, Recording

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class CloudBackend:
    """The parts of one mode."""

    store: MinioStore
    gateway: Gateway
    profiles: Profiles
    asset_id: Callable[[Recording, str, Mapping[str, DeviceProfile]], str]  # as prepare asks it
    stamp: Callable[
        [], object
    ]  # changes with the files that an operator mends when this robot is refused or waits
    endpoint: str = ""  # of the store, where the configuration tells it
    enrol: Enrol | None = None  # where there is a platform to enrol at

    def places(self) -> set[str]:
        """The addresses that are spoken with, as far as they are known."""
        known = {self.endpoint, self.store.endpoint}
        with suppress(CloudError):  # without profiles nothing goes anyhow
            known |= {
                url
                for profile in self.profiles.load().values()
                for url in (profile.auth, profile.gateway)
            }
        return known - {""}


@dataclass(frozen=True, slots=True)
class _Plan:
    """What both modes are built from."""

    settings: Settings
    robot: str
    assets: AssetFile
    clock: Clock
    connections: int
    patience: float | None

    @property
    def waits(self) -> Mapping[str, Any]:
        """How long the store's answers are waited for, where that is not what uploads need."""
        wait = self.patience
        return (
            {}
            if wait is None
            else {"connect_timeout": wait, "read_timeout": wait, "patience": wait}
        )

    @property
    def request_timeout(self) -> float:
        own = self.settings.cloud.request_timeout_seconds
        return own if self.patience is None else min(own, self.patience)

    @property
    def ca_file(self) -> str:
        return str(self.settings.cloud.tls_ca_file or "")

    @property
    def proxy(self) -> str:
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
    """Build the cloud of ``cloud.mode``; nothing is asked yet.

    Args:
        settings: The configuration.
        environ: The environment.
        robot: This robot's own id.
        assets: Which robot is which asset.
        history: Tells a bucket which keys are taken.
        clock: The robot's.
        hide: Told each secret.
        connections: To the store, kept open.
        patience: Seconds that a call may take where somebody waits for its answer; None: as long as uploads need.

    Raises:
        SetupError: cloud.tls_ca_file can't be used.
    """
    plan = _Plan(settings, robot, assets, clock, connections, patience)
    hide(*settings.cloud.proxy.secrets(), lasting=True)
    try:
        return (
            _bucket(plan, history, hide)
            if settings.cloud.mode == "bucket"
            else _platform(plan, environ, hide)
        )
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

    def stamp() -> object:
        profiles.path = profile_path(settings, environ)
        return profiles.stamp(), plan.assets.stamp()

    return CloudBackend(
        store=MinioStore(
            clock=plan.clock,
            ca_file=plan.ca_file,
            proxy=plan.proxy,
            connections=plan.connections,
            **plan.waits,
        ),
        gateway=gateway,
        profiles=profiles,
        enrol=Enrol(gateway, profiles, hide),
        asset_id=lambda recording, snapshot, known_profiles: asset_id(
            recording,
            robot=plan.robot,
            known=plan.assets.known(),
            snapshot=snapshot,
            profiles=known_profiles,
            default=settings.assets.default,
        ),
        stamp=stamp,
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
        **plan.waits,
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
        part_size=settings.upload.part_size_mib * _MIB,
        roots=settings.watch.roots,
        follow_symlinks=settings.watch.follow_symlinks,
    )
    return CloudBackend(
        store=store,
        gateway=gateway,
        profiles=NoProfiles(),
        asset_id=lambda recording, snapshot, _profiles: named_asset(
            recording,
            robot=plan.robot,
            known=plan.assets.known(),
            snapshot=snapshot,
            default=settings.assets.default,
            required="asset_id" in placeholders(bucket.key),
        ),
        stamp=lambda: (keys.stamp(), plan.assets.stamp()),
        endpoint=bucket.endpoint,
    )
