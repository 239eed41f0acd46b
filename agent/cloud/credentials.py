"""One good access token for each profile and one good lease for each session, handed out frozen.

Both are refreshed by the scheduler well before they end (the advisory window) and on demand when they have ended or
were refused (the mandatory one). However many ask at once, one refresh runs. The local clock decides only where it
agrees with the platform's: what looks ended or endless on arrival is used until it is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from agent.model.errors import CloudError
from agent.model.ports import Clock, Gateway
from agent.model.values import AccessToken, CredentialLease, DeviceProfile, Grant, UploadSession

Answer = TypeVar("Answer")
Hide = Callable[..., None]
"""Told secrets, so that whoever writes logs can leave them out."""

_TOKEN_MARGIN = 60.0  # seconds before its end at which a token is renewed
_LONGEST_LIFE = 7 * 86400.0  # longer says that this robot's clock is wrong


class CachedToken:
    """The access token of one profile."""

    def __init__(self, owner: Credentials, profile: DeviceProfile) -> None:
        """Nothing is fetched before it is asked for."""
        self.profile = profile
        self._owner = owner
        self._clock = owner.clock
        self._fetching = threading.Lock()
        self._token: AccessToken | None = None
        self._life = 0.0
        self._deadline: float | None = None

    def current(self, refused: AccessToken | None = None) -> AccessToken:
        """A token that is good as far as known; another one than ``refused``. Raises CloudError."""
        token = self._token
        if token is not None and token is not refused and self._remaining() > 0:
            return token
        with self._fetching:
            if self._token is None or self._token is refused or self._remaining() <= 0:
                self._fetch()
            assert self._token is not None  # noqa: S101 - _fetch has set it
            return self._token

    def refresh_if_due(self) -> None:
        """Renew it if its end is near, unless somebody does so already. Raises CloudError."""
        margin = min(_TOKEN_MARGIN, self._life / 2)
        if (
            self._token is not None
            and self._remaining() <= margin
            and self._fetching.acquire(blocking=False)
        ):
            try:
                self._fetch()
            finally:
                self._fetching.release()

    def _remaining(self) -> float:
        return float("inf") if self._deadline is None else self._deadline - self._clock.monotonic()

    def _fetch(self) -> None:
        self._owner.hide(self.profile.api_key, lasting=True)
        token = self._owner.gateway.exchange(self.profile)
        self._owner.hide(token.value, lasting=True)
        life = self._owner.life_until(token.expires_at)
        self._life = life or 0.0
        self._deadline = None if life is None else self._clock.monotonic() + life
        self._token = token


class SessionKeys:
    """The current lease of one upload session. A part waits for a refresh only when there is no usable lease."""

    def __init__(self, owner: Credentials, profile: DeviceProfile, grant: Grant) -> None:
        """``grant`` is what the gateway gave with the session."""
        self.session = grant.session
        self.refreshes = 0
        self._owner = owner
        self._profile = profile
        self._clock = owner.clock
        self._refreshing = threading.Lock()
        self._lease = self._arrived(grant.lease)

    def current(self) -> CredentialLease:
        """A lease that is not known to be over. Raises CloudError when none can be had."""
        lease = self._lease
        if lease.usable(self._clock.monotonic()):
            return lease
        with self._refreshing:
            if not self._lease.usable(self._clock.monotonic()):
                self._reissue()
            return self._lease

    def renew(self, refused: CredentialLease) -> None:
        """Replace a lease that the store refused, unless that has happened already. Raises CloudError."""
        with self._refreshing:
            if self._lease is refused:
                self._owner.count_refusal()
                self._reissue()

    def refresh_if_due(self) -> None:
        """Replace it if its end is near, unless somebody does so already. Raises CloudError."""
        if self._lease.due(self._clock.monotonic()) and self._refreshing.acquire(blocking=False):
            try:
                self._reissue()
            finally:
                self._refreshing.release()

    def remaining(self) -> float | None:
        """Seconds until it ends; None where that is not known."""
        lease = self._lease
        return None if lease.deadline is None else lease.deadline - self._clock.monotonic()

    def _reissue(self) -> None:
        grant = self._owner.call(
            self._profile,
            lambda gateway, token: gateway.reissue(self._profile, token, self.session.upload_id),
        )
        refuse_other_place(self.session, grant.session)
        self._lease = self._arrived(grant.lease)
        self.refreshes += 1

    def _arrived(self, lease: CredentialLease) -> CredentialLease:
        self._owner.hide(lease.access_key_id, lease.secret_access_key, lease.session_token)
        life = self._owner.life_until(lease.expires_at)
        if life is None:
            return lease
        return replace(lease, life=life, deadline=self._clock.monotonic() + life)


class Credentials:
    """All tokens and leases of the agent."""

    def __init__(
        self,
        gateway: Gateway,
        clock: Clock,
        hide: Hide,
        server_offset: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Fetch nothing yet.

        Args:
            gateway: Where tokens and leases come from.
            clock: The robot's.
            hide: Told each secret when it arrives; ``lasting=True`` for those that live long.
            server_offset: Seconds by which the cloud's clock is ahead of the robot's; None while that is not known.
        """
        self.gateway = gateway
        self.clock = clock
        self.hide = hide
        self._server_offset = server_offset
        self._lock = threading.Lock()
        self._tokens: dict[str, CachedToken] = {}
        self._keys: set[SessionKeys] = set()
        self.refused = 0  # leases that the store took no longer

    def life_until(self, expires_at: float) -> float | None:
        """Seconds from now to ``expires_at`` of the cloud's clock; None where the robot's clock can't tell."""
        life = expires_at - self.clock.now() - (self._server_offset() or 0.0)
        return life if 0 < life <= _LONGEST_LIFE else None

    def call(self, profile: DeviceProfile, ask: Callable[[Gateway, AccessToken], Answer]) -> Answer:
        """Ask the gateway with a good token; one that is refused is replaced once. Raises CloudError."""
        token = self._token(profile)
        current = token.current()
        try:
            return ask(self.gateway, current)
        except CloudError as error:
            if error.code != "UNAUTHENTICATED":
                raise
        return ask(self.gateway, token.current(refused=current))

    def keys(self, profile: DeviceProfile, grant: Grant) -> SessionKeys:
        """Begin to look after a session's lease; :meth:`release` ends that."""
        keys = SessionKeys(self, profile, grant)
        with self._lock:
            self._keys.add(keys)
        return keys

    def release(self, keys: SessionKeys) -> None:
        """The session's upload is over or was put back."""
        with self._lock:
            self._keys.discard(keys)

    def count_refusal(self) -> None:
        """The store took a lease no longer."""
        with self._lock:
            self.refused += 1

    def refresh_due(self) -> list[CloudError]:
        """Refresh whatever ends soon, as long as a session is open; returns what failed: that is asked on demand."""
        with self._lock:
            due: list[CachedToken | SessionKeys] = (
                [*self._tokens.values(), *self._keys] if self._keys else []
            )
        failed = []
        for credential in due:
            try:
                credential.refresh_if_due()
            except CloudError as error:
                failed.append(error)
        return failed

    def shortest_lease(self) -> float | None:
        """Seconds until the first lease in use ends; None without one."""
        with self._lock:
            known = [left for keys in self._keys if (left := keys.remaining()) is not None]
        return min(known, default=None)

    def _token(self, profile: DeviceProfile) -> CachedToken:
        with self._lock:
            token = self._tokens.get(profile.asset_id)
            if token is None or token.profile != profile:  # the profile file was changed
                token = self._tokens[profile.asset_id] = CachedToken(self, profile)
            return token


def refuse_other_place(known: UploadSession, told: UploadSession) -> None:
    """Raise CloudError("lying_server") when a reissued lease is for another place than the session's."""
    for field in ("bucket", "endpoint", "object_key"):
        if getattr(known, field) != getattr(told, field):
            raise CloudError(
                "ReissueUploadCredentials",
                "lying_server",
                f"{field} changed from {getattr(known, field)!r} to {getattr(told, field)!r}",
            )
