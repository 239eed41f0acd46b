"""How a request reaches the store: the keys, the time that it is signed with, the connections."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider
from minio.helpers import BaseURL, _parse_url, sha256_hash

from agent.adapters.store.cancel_scope import CancelScope, has_scope
from agent.adapters.store.connections import POOLS
from agent.adapters.store.part_body import PIECE_BYTES, PartBody
from agent.adapters.store.responses import SUCCESSES, date_of, read
from agent.model.digests import b64
from agent.model.ports import Clock
from agent.model.tls import client_context
from agent.model.values import CredentialLease

# The most bytes of an answer that is no list, such as an error or the ETag of a part.
_ANSWER_MAX_BYTES = 64 * 1024

# The most bytes of one page of a list: 1,000 entries with the longest keys fit in.
_LIST_PAGE_MAX_BYTES = 4 * 1024 * 1024

# From this difference between the clocks on, requests are signed with the store's time. Stores
# accept 15 minutes, so smaller differences need no correction.
_SKEW_CORRECTED_SECONDS = 60.0


class LeaseProvider(Provider):
    """Gives the library the keys of the current lease.

    A lease may be replaced in the middle of an upload, so the lease is asked for anew at each
    request. The provider also remembers all keys that it gave out, to keep them out of error texts.

    May be used from any thread.
    """

    def __init__(self, lease: Callable[[], CredentialLease]) -> None:
        """Make a provider.

        Args:
            lease: Returns the lease that is valid now.
        """
        self._lease = lease
        self._secrets: frozenset[str] = frozenset()

    def retrieve(self) -> Credentials:
        """Return the keys that sign the next request."""
        lease = self._lease()
        self._secrets |= {lease.access_key_id, lease.secret_access_key, lease.session_token} - {""}
        return Credentials(
            lease.access_key_id, lease.secret_access_key, lease.session_token or None
        )

    def hide(self, text: str) -> str:
        """Return ``text`` with asterisks in the place of each key that was ever used here."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class ConfiguredURL(BaseURL):
    """The address of a store, exactly as it was configured.

    The library's own class takes the host names of AWS apart and puts others in their place, such
    as that of another region or one that does not exist. It also refuses names that it does not
    know. An operator may have opened a firewall for one host alone. So the requests go to the
    configured host, and their signature is for it.
    """

    def __init__(self, endpoint: str, region: str, *, virtual_hosted: bool) -> None:
        """Set what the library's class would have found out.

        Args:
            endpoint: ``http://HOST[:PORT]`` or ``https://HOST[:PORT]``.
            region: The region to sign for.
            virtual_hosted: Whether requests go to ``BUCKET.HOST``; else the bucket is in the path.

        Raises:
            ValueError: ``endpoint`` is no such address.
        """
        self._url = _parse_url(endpoint)
        self._region = region
        self._virtual_style_flag = virtual_hosted
        # With these two the library leaves the host alone.
        self._aws_info = None
        self._accelerate_host_flag = False


class S3Client(Minio):
    """The library's client with two changes.

    The body of a part is signed without being read, and requests are signed with the store's time.

    May be used from any thread.
    """

    def __init__(
        self,
        time: StoreTime,
        host: str,
        *,
        secure: bool,
        region: str,
        virtual_hosted: bool,
        **options: Any,
    ) -> None:
        """Make a client of one store; no request is sent.

        Args:
            time: Tells the time to sign with.
            host: ``HOST[:PORT]``.
            secure: Whether requests go over TLS.
            region: The region to sign for.
            virtual_hosted: Whether requests go to ``BUCKET.HOST``; else the bucket is in the path.
            options: Further options of the library's client.

        Raises:
            ValueError: ``host`` or ``region`` is impossible.
        """
        # The library checks the region. It gets another host, because it would refuse or alter the
        # real one.
        super().__init__("localhost", secure=secure, region=region, **options)
        self._base_url = ConfiguredURL(
            f"{'https' if secure else 'http'}://{host}", region, virtual_hosted=virtual_hosted
        )
        self._time = time

    def __del__(self) -> None:
        """Leave the connections open: all clients share them, and the library would close them."""

    def close_idle(self, silent_since: float = math.inf) -> None:
        """Close idle connections that have had no answer since ``silent_since``.

        A request that failed is repeated on a new connection, which may take another route. An
        answer that makes no sense may also belong to an earlier request of the same connection.
        Connections that others use now stay open: on a bad link those are the working ones.

        Args:
            silent_since: A time of the monotonic clock; without it, all idle connections close.
        """
        cast("S3ConnectionPools", self._http).close_idle(silent_since)

    def _build_headers(
        self, host: str, headers: Any = None, body: Any = None, creds: Credentials | None = None
    ) -> tuple[Any, datetime]:
        date = datetime.fromtimestamp(self._time.now(), tz=timezone.utc)
        headers |= {
            "Host": host,
            "User-Agent": self._user_agent,
            "x-amz-date": date.strftime("%Y%m%dT%H%M%SZ"),
            "x-amz-content-sha256": _payload_hash(body),
        }
        if body is not None:
            headers["Content-Length"] = str(len(body))
        if creds and creds.session_token:
            headers["X-Amz-Security-Token"] = creds.session_token
        return headers, date


def _payload_hash(body: Any) -> str:
    """Return what the signature says of the body. A part is not read for this."""
    if isinstance(body, PartBody):
        return body.sha256 or "UNSIGNED-PAYLOAD"
    return str(sha256_hash(body))


class StoreTime:
    """Tells which time it is for the store.

    Stores refuse requests that are signed with a wrong time, and the clock of a robot may be wrong.
    So the store's own time is learned from its answers. An answer is believed only over TLS. A jump
    of the local clock does not change what was learned.

    May be used from any thread.
    """

    def __init__(self, clock: Clock) -> None:
        """Begin with the local clock.

        Args:
            clock: Believed until a store has told its time over TLS.
        """
        self._clock = clock
        # Seconds by which the store's time is ahead of the local monotonic clock.
        self._ahead_of_monotonic: float | None = None

    @property
    def offset(self) -> float | None:
        """Seconds by which the store is ahead of the local clock; None while unknown."""
        if self._ahead_of_monotonic is None:
            return None
        return self._ahead_of_monotonic + self._clock.monotonic() - self._clock.now()

    def now(self) -> float:
        """Return the time to sign with, in seconds since 1970."""
        offset = self.offset or 0.0
        return self._clock.now() + (offset if abs(offset) > _SKEW_CORRECTED_SECONDS else 0.0)

    def learn(self, date: float, *, secure: bool) -> float:
        """Learn from the Date of an answer.

        Args:
            date: The answer's time, in seconds since 1970.
            secure: Whether the answer came over TLS. Without TLS nothing is learned.

        Returns:
            Seconds by which the request's time was behind the answer's.
        """
        skew = date - self.now()
        if secure:
            self._ahead_of_monotonic = date - self._clock.monotonic()
        return skew


class RefusedResponseError(Exception):
    """The store's answer was no success.

    The library would turn the answer into an error of its own without the headers, so this one
    carries the answer through the library.
    """

    def __init__(
        self, answer: urllib3.BaseHTTPResponse, skew: float, server_time: float | None
    ) -> None:
        """Carry an answer.

        Args:
            answer: The answer, read to its end.
            skew: Seconds by which the request's time was behind the answer's.
            server_time: The answer's time in seconds since 1970; None without TLS.
        """
        super().__init__(answer.status)
        self.answer = answer
        self.skew = skew
        self.server_time = server_time


class S3ConnectionPools(urllib3.PoolManager):
    """The connections to all stores, with answers of limited size.

    Only successes are handed to the library, which would lose the headers of all other answers.

    May be used from any thread.
    """

    time: StoreTime
    # Seconds without progress after which a request outside a scope fails, such as one for keys.
    stall_timeout: float = 60

    def close_idle(self, silent_since: float) -> None:
        """Close the connections that no request uses and that had no answer since then.

        The connections that stay are used first.

        Args:
            silent_since: A time of the monotonic clock.
        """
        # The library's container of pools can't be iterated over itself.
        for key in self.pools.keys():  # noqa: SIM118 - see above
            waiting = getattr(self.pools.get(key), "pool", None)
            if waiting is None:
                continue
            with waiting.mutex:
                idle = [connection for connection in waiting.queue if connection is not None]
                kept = [connection for connection in idle if connection.answered_at >= silent_since]
                for connection in idle:
                    if connection not in kept:
                        connection.close()
                # The library takes the last entry first. None makes it open a new connection.
                waiting.queue[:] = [None] * (len(waiting.queue) - len(kept)) + kept

    # Redirects are not followed: they would need a new signature.
    def urlopen(  # type: ignore[override]  # the overloads of the base are not used
        self, method: str, url: str, redirect: bool = False, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        """Send a request, and return its answer, read to its end.

        Raises:
            RefusedResponseError: The answer is no success.
            HTTPError: No answer came, or one that is too long.
            OSError: The same, from below urllib3.
        """
        del redirect
        if not has_scope():
            with CancelScope(self.stall_timeout, time.monotonic).entered():
                return self.urlopen(method, url, **options)
        # The body is read below, so that its size is limited.
        options |= {"preload_content": False, "decode_content": False}
        answer = super().urlopen(method, url, redirect=False, **options)
        try:
            succeeded = answer.status in SUCCESSES
            answer = read(
                answer, _success_limit(method, options) if succeeded else _ANSWER_MAX_BYTES
            )
        except BaseException:
            # What is left on the connection would be taken for the answer to the next request.
            answer.close()
            raise
        date = date_of(answer)
        secure = url.startswith("https:")
        skew = 0.0 if date is None else self.time.learn(date, secure=secure)
        if answer.status not in SUCCESSES:
            raise RefusedResponseError(answer, skew, date if secure else None)
        return answer


def _success_limit(method: str, options: Mapping[str, Any]) -> int:
    """Return how many bytes the success of a request may have.

    A GET with a range returns at most the bytes of the range. Any other GET is for a list.
    """
    if method != "GET":
        return _ANSWER_MAX_BYTES
    byte_range = (options.get("headers") or {}).get("Range", "")
    if not byte_range:
        return _LIST_PAGE_MAX_BYTES
    return max(_ANSWER_MAX_BYTES, int(byte_range.rpartition("-")[2]) + 1)


class ProxiedConnectionPools(S3ConnectionPools, urllib3.ProxyManager):
    """The connections to all stores by way of an HTTP proxy. May be used from any thread."""


def connections_of(time: StoreTime, ca_file: str, proxy: str, **options: Any) -> S3ConnectionPools:
    """Return the connections that an adapter sends its requests over.

    Args:
        time: Learns the store's time from each answer.
        ca_file: Certificate authorities to trust instead of the system's; "" for the system's.
        proxy: ``http://[USER:PASSWORD@]HOST:PORT``, or "" for none.
        options: Further options of urllib3's PoolManager.

    Raises:
        OSError: ``ca_file`` can't be read.
    """
    options |= {
        # A repeated request needs a new signature, so urllib3 must not repeat it.
        "retries": False,
        "blocksize": PIECE_BYTES,
        "ssl_context": client_context(ca_file),
    }
    pools = _proxied(proxy, **options) if proxy else S3ConnectionPools(**options)
    pools.time = time
    pools.pool_classes_by_scheme = POOLS
    return pools


def _proxied(proxy: str, **options: Any) -> ProxiedConnectionPools:
    """Return connections by way of ``http://[USER:PASSWORD@]HOST:PORT``.

    urllib3 ignores the user and the password in the URL, so they become a header here.
    """
    user_info, _, address = proxy.removeprefix("http://").rpartition("@")
    headers = None
    if user_info:
        headers = {"Proxy-Authorization": f"Basic {b64(unquote_to_bytes(user_info))}"}
    return ProxiedConnectionPools(f"http://{address}", proxy_headers=headers, **options)
