"""The way to the cloud, gone once from the first name to a multipart that is given up again."""

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
from agent.assembly import cloud_backend as cloud
from agent.cloud.credentials import Credentials
from agent.model.errors import TABLE, AgentError, CloudError, WaitingError, blame_clock, judge
from agent.model.hours import Hours
from agent.model.mcap_tail import Tail
from agent.model.ports import Clock, History, Target
from agent.model.values import DeviceProfile, Fingerprint, Recording, SyncLog, utc_text
from agent.preconditions.host import BUILT, held
from agent.preconditions.table import PATIENCE, Note, Precondition

EPISODE = "keystone-agent-check"  # what is begun and given up again is called

_CALL = (
    PATIENCE / 2
)  # seconds that one call may take: what was begun must still be given up in time
_SKEW = 300.0  # seconds
_NETWORK = TABLE["timeout"].hint
_KEYS = frozenset({"storage_keys", "SignatureDoesNotMatch", "InvalidClientTokenId"})


class Way:
    """Everything between this robot and the bucket, by the agent's own parts. Each step is made once."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        clock: Clock,
        hide: Callable[..., None],
    ) -> None:
        """Nothing is asked yet; ``hide`` is told each secret."""
        self._settings = settings
        self._environ = environ
        self._clock = clock
        self._hide = hide
        self._profile = DeviceProfile("", "", {}, "", "")
        self._asset = ""
        self._failure: tuple[str, CloudError] | None = (
            None  # of the first call, and whose line it is
        )

    def preconditions(self) -> list[Precondition]:
        """The table, in order."""
        platform = self._settings.cloud.mode == "platform"
        door = "gateway" if platform else "store"
        profiles = [Precondition("profiles", self._profiles, ["cloud"])] if platform else []
        proxy = [Precondition("proxy", self._proxy, ["names"], _NETWORK)] if self._proxy_url else []
        table = [
            Precondition("cloud", self._build),
            *profiles,
            Precondition("asset id", self._asset_id, ["cloud", "device id", "profiles"]),
            Precondition("names", self._names, ["cloud", "profiles"], _NETWORK),
            Precondition("link", self._link, ["names"]),
            *proxy,
            Precondition(door, self._door, ["names", "proxy"], _NETWORK),
            Precondition("tls", self._tls, [door], _NETWORK),
            Precondition("credentials", self._credentials_line, ["tls", door], _NETWORK),
            Precondition("bucket", self._bucket, ["credentials", "tls", door], _NETWORK),
        ]
        return [*table, Precondition("store's clock", self._store_clock, ["cloud"])]

    def close(self) -> None:
        """Let go of connections."""
        with suppress(AttributeError):  # it was never built
            self._cloud.gateway.close()
            self._cloud.store.close()

    # -- what is configured

    def _build(self) -> str:
        robot = ""
        with suppress(AgentError):  # its own line says so
            robot = known_device_id(self._settings.agent.device_id, self._settings.agent.state_dir)
        self._robot = robot
        self._cloud = cloud.build(
            self._settings,
            self._environ,
            robot=robot,
            assets=AssetFile(self._settings.agent.state_dir, self._settings.assets.map),
            history=cast("History", _NoHistory()),
            clock=self._clock,
            hide=self._hide,
            connections=1,
            patience=_CALL,
        )
        self._credentials = Credentials(
            self._cloud.gateway, self._clock, self._hide, lambda: self._cloud.store.offset
        )
        return f"{self._settings.cloud.mode} mode"

    def _profiles(self) -> str:
        path = profile_path(self._settings, self._environ)
        profiles = self._cloud.profiles.load()
        self._hide(*(profile.api_key for profile in profiles.values()), lasting=True)
        ready = [profile for profile in profiles.values() if profile.ready]
        if not profiles and self._cloud.enrol is not None and self._cloud.enrol.wanted():
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

    def _asset_id(self) -> str:
        profiles = self._cloud.profiles.load()
        self._asset = self._cloud.asset_id(_any_recording(self._clock), "", profiles)
        self._profile = profiles[self._asset]
        return self._asset or "not needed"

    # -- the network

    @property
    def _proxy_url(self) -> str:
        return self._settings.cloud.proxy.get_secret_value()

    def _places(self) -> Iterable[str]:
        """Whom this robot itself must find: behind a proxy nobody else."""
        return [self._proxy_url] if self._proxy_url else sorted(self._cloud.places())

    def _names(self) -> str:
        hosts = sorted({host for place in self._places() if (host := _split(place)[0])})
        for host in hosts:
            try:
                socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                raise CloudError(
                    "LookUp", "dns", f"{host}: {getattr(error, 'strerror', error)}"
                ) from None
        return f"{', '.join(hosts)}: found"

    def _link(self) -> str:
        upload = self._settings.upload
        metered = upload.metered == "pause"
        if not upload.interfaces and not metered:
            return "any may be used"
        link = LinkWatch(self._clock, metered=metered).look(self._places())
        closed = held(
            self._clock,
            lambda limits: limits.see(link) if link else None,
            hours=Hours.parse(()),
            interfaces=upload.interfaces,
            pause_metered=metered,
        )
        if closed is not None:
            raise AgentError(closed.reason, hint=closed.hint)
        return f"by {', '.join(sorted((link and link.interfaces) or ['some interface']))}"

    def _proxy(self) -> str:
        host, port = _split(self._proxy_url)
        try:
            socket.create_connection((host, port), _CALL).close()
        except OSError as error:
            raise CloudError(
                "Connect", "proxy", f"{host}:{port}: {error.strerror or error}"
            ) from None
        return f"{host}:{port} answers"

    # -- the first call says whether anybody is there, whether it is the right one, and whether it knows this robot

    def _door(self) -> str:
        """Make that call."""
        try:
            if self._settings.cloud.mode == "platform":
                self._credentials.call(self._profile, lambda _gateway, _token: None)
            else:
                self._begin_and_abort()
        except CloudError as error:
            blame_clock(error, self._clock.now(), BUILT)
            self._failure = self._line_of(error), error
        return self._unless_failed("gateway", f"{self._url} answers")

    def _tls(self) -> str | Note:
        if not self._url.startswith("https://"):
            return Note(
                f"not used: {self._url}", "anybody on the way can read and change what is sent"
            )
        return self._unless_failed("tls", f"{self._url}: its certificate verifies")

    def _credentials_line(self) -> str:
        return self._unless_failed(
            "credentials", f"accepted{f' for {self._profile.asset_id}' * bool(self._asset)}"
        )

    def _bucket(self) -> str:
        if self._settings.cloud.mode == "platform":
            try:
                self._begin_and_abort()
            except CloudError as error:
                blame_clock(error, self._clock.now(), BUILT)
                raise
        return self._unless_failed("bucket", "writable: a multipart was begun and given up")

    def _store_clock(self) -> str:
        offset = self._cloud.store.offset
        if offset is None:
            return "not known: only a store that answers over TLS is believed"
        if abs(offset) > _SKEW:
            told = utc_text(self._clock.now() + offset)
            raise AgentError(f"the store says {told}", hint=TABLE["RequestTimeTooSkewed"].hint)
        return f"{abs(offset):.0f} s from this robot's"

    def _line_of(self, error: CloudError) -> str:
        if error.code in ("certificate", "tls"):
            return "tls"
        if error.code == "no_http" or (
            error.code != "storage_keys" and judge(error).kind == "offline"
        ):
            return "gateway"
        if (
            self._settings.cloud.mode == "platform"
            or error.code in _KEYS
            or judge(error).kind == "lease_lost"
        ):
            return "credentials"
        return "bucket"

    def _unless_failed(self, line: str, says: str) -> str:
        if self._failure is not None and self._failure[0] == line:
            raise self._failure[1]
        return says

    @property
    def _url(self) -> str:
        """Of the gateway, or of the store where there is none."""
        url = self._profile.gateway or self._cloud.endpoint
        plain = "http" if self._profile.gateway else "https"  # what a missing scheme means
        return url if "://" in url else f"{plain}://{url}"

    # -- the bucket

    def _begin_and_abort(self) -> None:
        """What an upload begins with; nothing of it stays."""
        log = _document(self._settings.watch.roots, self._robot, self._asset, self._clock)
        profile = self._profile
        grant = self._credentials.call(
            profile, lambda gateway, token: gateway.create(profile, token, log)
        )
        keys = self._credentials.keys(profile, grant)
        try:
            with closing(self._cloud.store.at(grant.session, keys.current)) as target:
                _begin_and_abort(target)
        finally:
            with suppress(CloudError):  # the platform lets go of it by itself
                session = grant.session.logical_upload_id
                self._credentials.call(
                    profile, lambda gateway, token: gateway.abort(profile, token, session, "check")
                )


class _NoHistory:
    """What a bucket asks of the history: nobody else is on the way to the check's own key."""

    def open(self) -> Sequence[SyncLog]:
        return ()

    def of_episode(self, _episode_id: str) -> Sequence[SyncLog]:
        return ()


def _begin_and_abort(target: Target) -> None:
    try:
        multipart = target.begin()
    except CloudError:
        with suppress(CloudError):  # it may have been begun all the same
            for stray in target.multiparts():
                target.abort(stray)
        raise
    target.abort(multipart)


def _split(url: str) -> tuple[str, int]:
    parts = urlsplit(url if "://" in url else f"//{url}")
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _any_recording(clock: Clock) -> Recording:
    """One that says nothing of itself."""
    path = Path("/", EPISODE)
    return Recording(
        path, path.parent, Fingerprint(1, "0" * 64), int(clock.now() * 1e9), 0, 0, Tail()
    )


def _document(roots: Sequence[Path], robot: str, asset: str, clock: Clock) -> SyncLog:
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
