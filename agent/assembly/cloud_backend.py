"""Builds what stands for the cloud.

That is either a platform's gateway with its device profiles, or a bucket with the keys to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from agent.adapters.assets import AssetFile
from agent.adapters.config import Settings
from agent.assembly.ports import CloudPorts
from agent.cloud.bucket import BucketGateway
from agent.cloud.enrol import Enrol
from agent.cloud.identity import asset_id, named_asset
from agent.cloud.no_profiles import NoProfiles
from agent.model.errors import CloudError, SetupError
from agent.model.object_key import placeholders
from agent.model.ports import Clock, Gateway, History, ObjectStore, Profiles
from agent.model.sync_log import SyncLog
from agent.model.values import DeviceProfile, Recording

_BYTES_PER_MIB = 1024 * 1024


def _keep_paths() -> None:
    """Change nothing: in bucket mode the configuration names each file."""


def _never(_log: SyncLog) -> bool:
    """Return False: the platform takes no tags after an upload."""
    return False


@dataclass(frozen=True, slots=True)
class CloudBackend:
    """The parts of one ``cloud.mode``.

    ``asset_id`` is the function by which ``prepare`` determines a recording's asset id.

    ``stamp`` returns a value that changes with the files that an operator corrects when the cloud
    refuses this robot or a recording waits for its asset id. ``find_files`` determines anew where
    these files are. It must be called before ``stamp``, because a file may appear at another path.

    ``endpoint`` is the store's address if the configuration names it. ``enrol`` is there if this
    robot can enrol at a platform. ``can_revise`` returns whether the manifest of a completed
    document can be written anew.
    """

    store: ObjectStore
    gateway: Gateway
    profiles: Profiles
    asset_id: Callable[[Recording, str, Mapping[str, DeviceProfile]], str]
    stamp: Callable[[], object]
    find_files: Callable[[], None] = _keep_paths
    endpoint: str = ""
    enrol: Enrol | None = None
    can_revise: Callable[[SyncLog], bool] = _never

    def places(self) -> set[str]:
        """Return the addresses of the cloud, as far as they are known."""
        known = {self.endpoint, self.store.endpoint}
        # Without profiles the addresses of the platform are not known.
        with suppress(CloudError):
            for profile in self.profiles.load().values():
                known |= {profile.auth, profile.gateway}
        return known - {""}


def build(
    settings: Settings,
    cloud: CloudPorts,
    *,
    robot: str,
    assets: AssetFile,
    history: History,
    clock: Clock,
    hide: Callable[..., None],
) -> CloudBackend:
    """Build the backend of ``cloud.mode``. No request is sent.

    Args:
        settings: The configuration.
        cloud: Opens the store, the gateway, the profiles and the source of keys.
        robot: This robot's own id.
        assets: Which robot is which asset.
        history: Tells a bucket which keys are in use.
        clock: The robot's clocks.
        hide: Is called with each secret, so that no log shows it.

    Raises:
        SetupError: The file of ``cloud.tls_ca_file`` cannot be used.
    """
    hide(*settings.cloud.proxy.secrets(), lasting=True)
    try:
        if settings.cloud.mode == "bucket":
            return _bucket(
                settings, cloud, robot=robot, assets=assets, history=history, clock=clock
            )
        return _platform(settings, cloud, robot=robot, assets=assets, hide=hide)
    except OSError as error:
        raise SetupError(
            f"cloud.tls_ca_file = {settings.cloud.tls_ca_file or ''}: {error}",
            hint="name a file of PEM certificates that the agent can read",
        ) from error


def _platform(
    settings: Settings,
    cloud: CloudPorts,
    *,
    robot: str,
    assets: AssetFile,
    hide: Callable[..., None],
) -> CloudBackend:
    profiles, gateway = cloud.profiles(settings), cloud.gateway(settings)

    def stamp() -> object:
        return profiles.stamp(), assets.stamp()

    def asset_id_of(
        recording: Recording, snapshot: str, known_profiles: Mapping[str, DeviceProfile]
    ) -> str:
        return asset_id(
            recording,
            robot=robot,
            known=assets.known(),
            snapshot=snapshot,
            profiles=known_profiles,
            default=settings.assets.default,
        )

    return CloudBackend(
        store=cloud.store(settings),
        gateway=gateway,
        profiles=profiles,
        enrol=Enrol(gateway, profiles, hide),
        asset_id=asset_id_of,
        stamp=stamp,
        find_files=profiles.find,
    )


def _bucket(
    settings: Settings,
    cloud: CloudPorts,
    *,
    robot: str,
    assets: AssetFile,
    history: History,
    clock: Clock,
) -> CloudBackend:
    bucket = settings.bucket
    store, keys = cloud.store(settings), cloud.keys(settings)
    gateway = BucketGateway(
        store=store,
        keys=keys,
        history=history,
        clock=clock,
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
        return keys.stamp(), assets.stamp()

    def asset_id_of(
        recording: Recording, snapshot: str, _profiles: Mapping[str, DeviceProfile]
    ) -> str:
        return named_asset(
            recording,
            robot=robot,
            known=assets.known(),
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
        can_revise=gateway.can_revise,
    )
