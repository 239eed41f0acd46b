"""Keeps a valid access token for each profile and a valid lease for each upload session.

Both are refreshed twice over. The scheduler refreshes them well before they end (the advisory
window). A thread that needs one that has ended or was refused refreshes it on demand (the
mandatory window). However many threads ask at once, one refresh runs.

The robot's clock decides only where it agrees with the platform's. A token or lease that has ended
on arrival by the robot's clock, or never ends, is used until it is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from agent.model.errors import CloudError
from agent.model.ports import Clock, Gateway
from agent.model.values import AccessToken, CredentialLease, DeviceProfile, Grant, UploadSession

CallResult = TypeVar("CallResult")

# Is given each secret, so that the log can leave the secrets out.
Hide = Callable[..., None]

# A token is renewed so many seconds before its end.
_TOKEN_MARGIN_SECONDS = 60.0

# A token or lease that lasts longer shows that this robot's clock is wrong.
_LONGEST_LIFE_SECONDS = 7 * 86400.0


def _unknown_offset() -> float | None:
    return None


class CachedToken:
    """The access token of one profile, fetched when it is first needed.

    Any thread may call the methods.
    """

    def __init__(self, owner: Credentials, profile: DeviceProfile) -> None:
        """Fetch tokens of ``profile`` with the gateway and the clock of ``owner``."""
        self.profile = profile
        self._owner = owner
        self._clock = owner.clock
        self._fetching = threading.Lock()
        self._token: AccessToken | None = None
        self._life = 0.0
        self._deadline: float | None = None

    def current(self, refused: AccessToken | None = None) -> AccessToken:
        """Return a token that may still be valid and is not ``refused``. Raises CloudError."""
        token = self._token
        if token is not None and token is not refused and self._remaining() > 0:
            return token
        with self._fetching:
            if self._token is None or self._token is refused or self._remaining() <= 0:
                self._fetch()
            assert self._token is not None  # noqa: S101 - _fetch has set it
            return self._token

    def refresh_if_due(self) -> None:
        """Renew the token if its end is near and no other thread renews it. Raises CloudError."""
        margin = min(_TOKEN_MARGIN_SECONDS, self._life / 2)
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
    """The current lease of one upload session.

    A part waits for a refresh only when there is no usable lease.

    Any thread may call the methods.
    """

    def __init__(self, owner: Credentials, profile: DeviceProfile, grant: Grant) -> None:
        """Begin with the lease in ``grant``, which the gateway gave with the session."""
        self.session = grant.session
        self.refreshes = 0
        self._owner = owner
        self._profile = profile
        self._clock = owner.clock
        self._refreshing = threading.Lock()
        self._lease = self._arrived(grant.lease)

    def current(self) -> CredentialLease:
        """Return a lease that is not known to be over. Raises CloudError when none can be had."""
        lease = self._lease
        if lease.usable(self._clock.monotonic()):
            return lease
        with self._refreshing:
            if not self._lease.usable(self._clock.monotonic()):
                self._reissue()
            return self._lease

    def renew(self, refused: CredentialLease) -> None:
        """Replace a lease that the store refused, unless it was replaced already.

        Raises CloudError.
        """
        with self._refreshing:
            if self._lease is refused:
                self._owner.count_refusal()
                self._reissue()

    def refresh_if_due(self) -> None:
        """Replace the lease if its end is near and no other thread does. Raises CloudError."""
        if self._lease.due(self._clock.monotonic()) and self._refreshing.acquire(blocking=False):
            try:
                self._reissue()
            finally:
                self._refreshing.release()

    def remaining(self) -> float | None:
        """Return the seconds until the lease ends; None where this is unknown."""
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
        """Hide the secrets of a new lease, and return it with its end by the monotonic clock."""
        self._owner.hide(lease.access_key_id, lease.secret_access_key, lease.session_token)
        life = self._owner.life_until(lease.expires_at)
        if life is None:
            return lease
        return replace(lease, life=life, deadline=self._clock.monotonic() + life)


class Credentials:
    """All tokens and leases of the agent.

    Any thread may call the methods.
    """

    def __init__(
        self,
        gateway: Gateway,
        clock: Clock,
        hide: Hide,
        server_offset: Callable[[], float | None] = _unknown_offset,
    ) -> None:
        """Join the parts.

        Args:
            gateway: Gives tokens and leases.
            clock: The robot's clock.
            hide: Is given each secret when it arrives, with ``lasting=True`` for long-lived ones.
            server_offset: Returns by how many seconds the cloud's clock is ahead of the robot's;
                None while this is unknown.
        """
        self.gateway = gateway
        self.clock = clock
        self.hide = hide
        self._server_offset = server_offset
        self._lock = threading.Lock()
        self._tokens: dict[str, CachedToken] = {}
        self._keys: set[SessionKeys] = set()
        # How many leases the store has refused since this start.
        self.refused = 0

    def life_until(self, expires_at: float) -> float | None:
        """Return the seconds until ``expires_at``, which is a time of the cloud's clock.

        Returns None where the robot's clock is wrong.
        """
        life = expires_at - self.clock.now() - (self._server_offset() or 0.0)
        return life if 0 < life <= _LONGEST_LIFE_SECONDS else None

    def call(
        self, profile: DeviceProfile, request: Callable[[Gateway, AccessToken], CallResult]
    ) -> CallResult:
        """Make a request with a valid token, and once more when the token is refused.

        Returns what the request returns. Raises CloudError.
        """
        token = self._token(profile)
        current = token.current()
        try:
            return request(self.gateway, current)
        except CloudError as error:
            if not error.means("token_refused"):
                raise
        return request(self.gateway, token.current(refused=current))

    def keys(self, profile: DeviceProfile, grant: Grant) -> SessionKeys:
        """Return the keys of a session, and keep their lease valid until :meth:`release`."""
        keys = SessionKeys(self, profile, grant)
        with self._lock:
            self._keys.add(keys)
        return keys

    def release(self, keys: SessionKeys) -> None:
        """Keep the lease of a session no longer: its upload has ended or was put back."""
        with self._lock:
            self._keys.discard(keys)

    def count_refusal(self) -> None:
        """Count a lease that the store has refused."""
        with self._lock:
            self.refused += 1

    def refresh_due(self) -> list[CloudError]:
        """Refresh the tokens and leases that end soon, as long as a session is open.

        Returns the errors. What could not be refreshed now is refreshed on demand.
        """
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
        """Return the seconds until the first lease in use ends; None without one."""
        with self._lock:
            remaining = [keys.remaining() for keys in self._keys]
        return min((seconds for seconds in remaining if seconds is not None), default=None)

    def _token(self, profile: DeviceProfile) -> CachedToken:
        with self._lock:
            token = self._tokens.get(profile.asset_id)
            # A change of the profile file makes another profile.
            if token is None or token.profile != profile:
                token = self._tokens[profile.asset_id] = CachedToken(self, profile)
            return token


def refuse_other_place(known: UploadSession, reissued: UploadSession) -> None:
    """Raise CloudError("lying_server") when a reissued lease is for another place."""
    for field in ("bucket", "endpoint", "object_key"):
        if getattr(known, field) != getattr(reissued, field):
            raise CloudError(
                "ReissueUploadCredentials",
                "lying_server",
                f"{field} changed from {getattr(known, field)!r} to {getattr(reissued, field)!r}",
            )
