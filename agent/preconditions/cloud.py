"""What the agent needs of the network and the cloud, up to a test upload that is aborted again."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from agent.adapters.assets import AssetFile
from agent.adapters.config import Settings, profile_path
from agent.adapters.device import known_device_id
from agent.adapters.link import LinkWatch
from agent.assembly import cloud_backend
from agent.assembly.cloud_adapters import CloudAdapters
from agent.cloud.credentials import Credentials
from agent.model.error_table import TABLE
from agent.model.errors import AgentError, CloudError, WaitingError, blame_clock, judge
from agent.model.hours import Hours
from agent.model.mcap_tail import Tail
from agent.model.ports import Clock, History, Target
from agent.model.sync_log import SyncLog
from agent.model.values import DeviceProfile, Fingerprint, Recording, utc_text
from agent.preconditions.host import BUILD_SECONDS, closed_by_policy
from agent.preconditions.table import PATIENCE_SECONDS, Note, Precondition

# The episode id of the test upload.
EPISODE = "keystone-agent-check"

# One call may take half of the time for one check, because a check that starts an upload must
# still have time to abort the upload.
_CALL_SECONDS = PATIENCE_SECONDS / 2

# A larger difference between the clocks of robot and store is a fault.
_MAX_SKEW_SECONDS = 300.0

_NETWORK_REMEDY = TABLE["timeout"].hint


class CloudChecks:
    """The preconditions between this robot and the bucket, checked with the agent's own parts.

    The first call to the cloud answers several preconditions at once: whether the server can be
    reached, whether its certificate is right, and whether it knows this robot. The call is made
    once. Its failure is kept and shown at the precondition that the failure belongs to.

    The checks run one after the other, each on a thread of its own.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        clock: Clock,
        hide: Callable[..., None],
    ) -> None:
        """Create the checks for these settings. ``hide`` is called with each secret.

        No connection is made before a precondition is checked.
        """
        self._settings = settings
        self._environ = environ
        self._clock = clock
        self._hide = hide
        self._profile = DeviceProfile("", "", {}, "", "")
        self._asset = ""
        # The failure of the first call, with the name of the precondition that it belongs to.
        self._failure: tuple[str, CloudError] | None = None

    def preconditions(self) -> list[Precondition]:
        """Return the preconditions in the order in which they are checked."""
        platform = self._settings.cloud.mode == "platform"
        server = "gateway" if platform else "store"
        table = [Precondition("cloud", self._check_cloud_settings)]
        if platform:
            table.append(Precondition("profiles", self._check_profiles, ["cloud"]))
        table += [
            Precondition("asset id", self._check_asset_id, ["cloud", "device id", "profiles"]),
            Precondition("names", self._check_names, ["cloud", "profiles"], _NETWORK_REMEDY),
            Precondition("link", self._check_link, ["names"]),
        ]
        if self._proxy_url:
            table.append(Precondition("proxy", self._check_proxy, ["names"], _NETWORK_REMEDY))
        return [
            *table,
            Precondition(server, self._check_server, ["names", "proxy"], _NETWORK_REMEDY),
            Precondition("tls", self._check_tls, [server], _NETWORK_REMEDY),
            Precondition("credentials", self._check_credentials, ["tls", server], _NETWORK_REMEDY),
            Precondition(
                "bucket", self._check_bucket, ["credentials", "tls", server], _NETWORK_REMEDY
            ),
            Precondition("store's clock", self._check_store_clock, ["cloud"]),
        ]

    def close(self) -> None:
        """Close all connections."""
        # Where the settings are wrong there is no backend to close.
        with suppress(AttributeError):
            self._backend.gateway.close()
            self._backend.store.close()

    # -- What is configured

    def _check_cloud_settings(self) -> str:
        self._robot = ""
        # A missing device id is shown at its own precondition.
        with suppress(AgentError):
            agent = self._settings.agent
            self._robot = known_device_id(agent.device_id, agent.state_dir)
        self._backend = cloud_backend.build(
            self._settings,
            CloudAdapters(
                self._environ, self._clock, self._hide, connections=1, patience=_CALL_SECONDS
            ),
            robot=self._robot,
            assets=AssetFile(self._settings.agent.state_dir, self._settings.assets.map),
            history=cast("History", _NoHistory()),
            clock=self._clock,
            hide=self._hide,
        )
        self._credentials = Credentials(
            self._backend.gateway, self._clock, self._hide, lambda: self._backend.store.offset
        )
        return f"{self._settings.cloud.mode} mode"

    def _check_profiles(self) -> str:
        path = profile_path(self._settings, self._environ)
        profiles = self._backend.profiles.load()
        self._hide(*(profile.api_key for profile in profiles.values()), lasting=True)
        ready = [profile for profile in profiles.values() if profile.ready]
        if not profiles and self._backend.enrol is not None and self._backend.enrol.wanted():
            raise WaitingError(
                f"{path} names no device yet: this robot is not enrolled",
                hint="start the agent, which enrols by itself, or: keystone-agent enroll",
            )
        if not ready:
            raise WaitingError(
                f"{path} has {len(profiles)} profiles, and none with a key and usable tags",
                hint="complete apiKey and tags in the device profile file",
            )
        self._profile = ready[0]
        return f"{path}: {len(ready)} of {len(profiles)} ready"

    def _check_asset_id(self) -> str:
        profiles = self._backend.profiles.load()
        self._asset = self._backend.asset_id(_plain_recording(self._clock), "", profiles)
        self._profile = profiles[self._asset]
        return self._asset or "not needed"

    # -- The network

    @property
    def _proxy_url(self) -> str:
        return self._settings.cloud.proxy.get_secret_value()

    def _urls(self) -> Iterable[str]:
        """Return the places that this robot itself must reach.

        Behind a proxy that is the proxy alone.
        """
        return [self._proxy_url] if self._proxy_url else sorted(self._backend.places())

    def _check_names(self) -> str:
        hosts = sorted({host for url in self._urls() if (host := _host_and_port(url)[0])})
        for host in hosts:
            try:
                socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                reason = getattr(error, "strerror", error)
                raise CloudError("LookUp", "dns", f"{host}: {reason}") from None
        return f"{', '.join(hosts)}: resolved"

    def _check_link(self) -> str:
        upload = self._settings.upload
        pause_metered = upload.metered == "pause"
        if not upload.interfaces and not pause_metered:
            return "any may be used"
        link = LinkWatch(self._clock, metered=pause_metered).current_link(self._urls())
        closed = closed_by_policy(
            self._clock,
            lambda policy: policy.see(link) if link else None,
            hours=Hours.parse(()),
            interfaces=upload.interfaces,
            pause_metered=pause_metered,
        )
        if closed is not None:
            raise AgentError(closed.reason, hint=closed.hint)
        interfaces = link.interfaces if link else None
        return f"by {', '.join(sorted(interfaces or ['some interface']))}"

    def _check_proxy(self) -> str:
        host, port = _host_and_port(self._proxy_url)
        try:
            socket.create_connection((host, port), _CALL_SECONDS).close()
        except OSError as error:
            reason = error.strerror or error
            raise CloudError("Connect", "proxy", f"{host}:{port}: {reason}") from None
        return f"{host}:{port} answers"

    # -- The first call to the cloud, and the preconditions that it answers

    def _check_server(self) -> str:
        """Make the first call, and keep its failure."""
        try:
            if self._settings.cloud.mode == "platform":
                self._credentials.call(self._profile, lambda _gateway, _token: None)
            else:
                self._start_and_abort_upload()
        except CloudError as error:
            blame_clock(error, self._clock.now(), BUILD_SECONDS)
            self._failure = self._precondition_of(error), error
        return self._unless_failed("gateway", f"{self._url} answers")

    def _check_tls(self) -> str | Note:
        if not self._url.startswith("https://"):
            return Note(
                f"not used: {self._url}",
                "the data is not encrypted: others in the network can read and change it",
            )
        return self._unless_failed("tls", f"{self._url}: its certificate verifies")

    def _check_credentials(self) -> str:
        says = f"accepted for {self._profile.asset_id}" if self._asset else "accepted"
        return self._unless_failed("credentials", says)

    def _check_bucket(self) -> str:
        if self._settings.cloud.mode == "platform":
            try:
                self._start_and_abort_upload()
            except CloudError as error:
                blame_clock(error, self._clock.now(), BUILD_SECONDS)
                raise
        return self._unless_failed("bucket", "writable: a test upload was started and aborted")

    def _check_store_clock(self) -> str | Note:
        offset = self._backend.store.offset
        if offset is None:
            return "not known: only the time of a store that answers over TLS can be trusted"
        if abs(offset) > _MAX_SKEW_SECONDS:
            store_time = utc_text(self._clock.now() + offset)
            hint = TABLE["RequestTimeTooSkewed"].hint
            return Note(f"the store says {store_time}", hint, store_time, ok=False)
        return f"{abs(offset):.0f} s from this robot's"

    def _precondition_of(self, error: CloudError) -> str:
        """Return which precondition a failure of the first call belongs to.

        "gateway" stands for the store where there is no gateway.
        """
        if error.means("tls"):
            return "tls"
        if error.means("no_store") or judge(error).kind == "offline":
            return "gateway"
        if self._settings.cloud.mode == "platform" or error.means("keys_refused"):
            return "credentials"
        return "bucket"

    def _unless_failed(self, precondition: str, says: str) -> str:
        """Return ``says``, or raise the first call's failure if it belongs to ``precondition``."""
        if self._failure is not None and self._failure[0] == precondition:
            raise self._failure[1]
        return says

    @property
    def _url(self) -> str:
        """The URL of the gateway, or of the store where there is no gateway."""
        url = self._profile.gateway or self._backend.endpoint
        if "://" in url:
            return url
        default_scheme = "http" if self._profile.gateway else "https"
        return f"{default_scheme}://{url}"

    # -- The bucket

    def _start_and_abort_upload(self) -> None:
        """Start an upload as for a recording, and abort it, so that nothing stays in the cloud."""
        log = _test_document(self._settings.watch.roots, self._robot, self._asset, self._clock)
        profile = self._profile
        grant = self._credentials.call(
            profile, lambda gateway, token: gateway.create(profile, token, log)
        )
        keys = self._credentials.keys(profile, grant)
        try:
            with closing(self._backend.store.at(grant.session, keys.current)) as target:
                _start_and_abort_multipart(target)
        finally:
            # The platform ends a session that is not aborted after some time.
            with suppress(CloudError):
                session = grant.session.logical_upload_id
                self._credentials.call(
                    profile, lambda gateway, token: gateway.abort(profile, token, session, "check")
                )


class _NoHistory:
    """An empty history. Bucket mode asks it which other recordings are uploaded to a key."""

    def open(self) -> Sequence[SyncLog]:
        return ()

    def of_episode(self, _episode_id: str) -> Sequence[SyncLog]:
        return ()


def _start_and_abort_multipart(target: Target) -> None:
    try:
        multipart = target.begin()
    except CloudError:
        # The store may have started the multipart upload although the answer was lost.
        with suppress(CloudError):
            for stray in target.multiparts():
                target.abort(stray)
        raise
    target.abort(multipart)


def _host_and_port(url: str) -> tuple[str, int]:
    """Return the host and the port of a URL, which may lack its scheme."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _plain_recording(clock: Clock) -> Recording:
    """Return a recording without a sidecar, so that the settings alone decide about its asset."""
    path = Path("/", EPISODE)
    return Recording(
        path, path.parent, Fingerprint(1, "0" * 64), int(clock.now() * 1e9), 0, 0, Tail()
    )


def _test_document(roots: Sequence[Path], robot: str, asset: str, clock: Clock) -> SyncLog:
    """Return the document of the test upload, which no history holds."""
    now = utc_text(clock.now())
    return SyncLog(
        id=0,
        episode_id=EPISODE,
        path=str(roots[0] / EPISODE),
        file_size=1,
        mtime=now,
        fingerprint=str(Fingerprint(1, "0" * 64)),
        queued_at=now,
        device_id=robot,
        asset_id=asset,
    )
