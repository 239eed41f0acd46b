"""How a request goes out: the keys, the time and the connections."""

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

from agent.adapters.store.cancel_scope import CancelScope, in_use
from agent.adapters.store.connections import POOLS
from agent.adapters.store.part_body import PIECE, PartBody
from agent.adapters.store.responses import SUCCESSES, date_of, read
from agent.model.digests import b64
from agent.model.ports import Clock
from agent.model.tls import client_context
from agent.model.values import CredentialLease

_SMALL, _LISTING = (
    64 * 1024,
    4 * 1024 * 1024,
)  # bytes of an answer; 1,000 entries with the longest keys
_SKEW_NOTICED = (
    60.0  # seconds between the clocks from which requests are signed with the store's time
)


class LeaseProvider(Provider):
    """Asks for the lease at every request, so that keys may change in the middle of an upload."""

    def __init__(self, lease: Callable[[], CredentialLease]) -> None:
        """``lease`` hands out the keys of the moment."""
        self._lease = lease
        self._secrets: frozenset[str] = frozenset()

    def retrieve(self) -> Credentials:
        """The keys to sign the next request with."""
        lease = self._lease()
        self._secrets |= {lease.access_key_id, lease.secret_access_key, lease.session_token} - {""}
        return Credentials(
            lease.access_key_id, lease.secret_access_key, lease.session_token or None
        )

    def hide(self, text: str) -> str:
        """``text`` without any key that was ever used here."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class ConfiguredURL(BaseURL):
    """The address of a store, exactly as it was configured.

    The library's own class takes the host names of AWS apart and puts others in their place, such as
    that of another region or one that does not exist, and it refuses names that it does not know. An
    operator may have opened a firewall for one host alone. So the requests go to the configured host,
    and their signature is for it.
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
    """The library, signing what it did not read, with the store's time."""

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
        """Raise ValueError where ``host`` or ``region`` can't be one; ``options`` are the library's."""
        # The library checks the region. It gets another host, because it would refuse or alter the
        # real one.
        super().__init__("localhost", secure=secure, region=region, **options)
        self._base_url = ConfiguredURL(
            f"{'https' if secure else 'http'}://{host}", region, virtual_hosted=virtual_hosted
        )
        self._time = time

    def __del__(self) -> None:
        """Leave the connections alone; the library would close those of everybody."""

    def hang_up(self, silent_since: float = math.inf) -> None:
        """Let idle connections go that had no answer since then: what failed is tried again, by another way perhaps.

        An answer that makes no sense may also be that to an earlier request of its connection. Connections on which
        others send meanwhile stay: on a bad line those are the good ones.
        """
        cast("S3ConnectionPools", self._http).hang_up(silent_since)

    def _build_headers(
        self, host: str, headers: Any = None, body: Any = None, creds: Credentials | None = None
    ) -> tuple[Any, datetime]:
        date = datetime.fromtimestamp(self._time.now(), tz=timezone.utc)
        unread = isinstance(body, PartBody)
        headers |= {
            "Host": host,
            "User-Agent": self._user_agent,
            "x-amz-date": date.strftime("%Y%m%dT%H%M%SZ"),
            "x-amz-content-sha256": body.sha256 or "UNSIGNED-PAYLOAD"
            if unread
            else sha256_hash(body),
        }
        if body is not None:
            headers["Content-Length"] = str(len(body))
        if creds and creds.session_token:
            headers["X-Amz-Security-Token"] = creds.session_token
        return headers, date


class StoreTime:
    """What time it is for the store. Believed over TLS only, and never touched by jumps of the local clock."""

    def __init__(self, clock: Clock) -> None:
        """``clock`` is believed until a store knows better."""
        self._clock = clock
        self._ahead: float | None = None  # of our monotonic clock

    @property
    def offset(self) -> float | None:
        """Seconds by which the store is ahead of the local clock; None while unknown."""
        return (
            None
            if self._ahead is None
            else self._ahead + self._clock.monotonic() - self._clock.now()
        )

    def now(self) -> float:
        """The time to sign with, seconds since 1970."""
        offset = self.offset or 0.0
        return self._clock.now() + (offset if abs(offset) > _SKEW_NOTICED else 0.0)

    def hear(self, date: float, *, secure: bool) -> float:
        """Learn from an answer's Date, and return how far the request's time was off, in seconds."""
        skew = date - self.now()
        if secure:
            self._ahead = date - self._clock.monotonic()
        return skew


class RefusedResponseError(Exception):
    """The answer was no success."""

    def __init__(
        self, answer: urllib3.BaseHTTPResponse, skew: float, server_time: float | None
    ) -> None:
        """``skew``: seconds by which the request's time was behind the answer's; ``server_time``: over TLS only."""
        super().__init__(answer.status)
        self.answer = answer
        self.skew = skew
        self.server_time = server_time


class S3ConnectionPools(urllib3.PoolManager):
    """Lets only successes through to the library, which would lose the headers of everything else."""

    time: StoreTime
    patience: float = 60

    def hang_up(self, silent_since: float) -> None:
        """Close those that nobody uses now and that had no answer since then; the others are taken first."""
        for place in self.pools.keys():  # noqa: SIM118 - the library's, which can't be iterated over
            waiting = getattr(self.pools.get(place), "pool", None)
            if waiting is not None:
                with waiting.mutex:
                    idle = list(filter(None, waiting.queue))
                    good = [
                        connection for connection in idle if connection.answered >= silent_since
                    ]
                    for connection in idle:
                        if connection not in good:
                            connection.close()
                    # The last is taken first, and where there is none a new one is made.
                    waiting.queue[:] = [None] * (len(waiting.queue) - len(good)) + good

    # Redirects are not followed: they would need a new signature.
    def urlopen(  # type: ignore[override]  # the overloads of the base differ in nothing that is used here
        self, method: str, url: str, redirect: bool = False, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        """Send, and raise RefusedError for everything but a success."""
        del redirect
        if not in_use():
            with CancelScope(self.patience, time.monotonic).used():
                return self.urlopen(method, url, **options)
        options |= {
            "preload_content": False,
            "decode_content": False,
        }  # what is read of it is decided here
        answer = super().urlopen(method, url, redirect=False, **options)
        try:
            answer = read(
                answer, _longest(method, options) if answer.status in SUCCESSES else _SMALL
            )
        except BaseException:
            answer.close()  # what is left on the connection would be taken for the next answer
            raise
        date = date_of(answer)
        secure = url.startswith("https:")
        skew = 0.0 if date is None else self.time.hear(date, secure=secure)
        if answer.status not in SUCCESSES:
            raise RefusedResponseError(answer, skew, date if secure else None)
        return answer


def _longest(method: str, options: Mapping[str, Any]) -> int:
    """Bytes that a success may have: a listing's, those that were asked for, or few."""
    if method != "GET":
        return _SMALL
    asked = (options.get("headers") or {}).get("Range", "")
    return max(_SMALL, int(asked.rpartition("-")[2]) + 1) if asked else _LISTING


class ProxiedConnectionPools(S3ConnectionPools, urllib3.ProxyManager):
    """The same by way of a proxy."""


def connections_of(time: StoreTime, ca_file: str, proxy: str, **options: Any) -> S3ConnectionPools:
    """Connections that tell ``time`` what each answer says; raises OSError where ``ca_file`` can't be read."""
    options |= {
        "retries": False,  # a retry needs a new signature
        "blocksize": PIECE,
        "ssl_context": client_context(ca_file),
    }
    pool = _proxied(proxy, **options) if proxy else S3ConnectionPools(**options)
    pool.time = time
    pool.pool_classes_by_scheme = POOLS
    return pool


def _proxied(proxy: str, **options: Any) -> ProxiedConnectionPools:
    """A pool by way of ``http://[USER:PASSWORD@]HOST:PORT``; urllib3 itself overlooks who the user is."""
    who, _, place = proxy.removeprefix("http://").rpartition("@")
    headers = {"Proxy-Authorization": f"Basic {b64(unquote_to_bytes(who))}"} if who else None
    return ProxiedConnectionPools(f"http://{place}", proxy_headers=headers, **options)
