"""Decides whether a request may reach the store.

The signature of the request is checked against the leases that the gateway issued.
"""

from __future__ import annotations

import calendar
import hmac
import time
from collections.abc import Callable
from urllib.parse import parse_qs, unquote

from agent.devcloud import sigv4
from agent.devcloud.ledger import IssuedLease, Ledger

# The most by which the time of a request may differ from the store's time. AWS has the same limit.
_MAX_SKEW_SECONDS = 15 * 60


class NotAdmittedError(Exception):
    """The request may not reach the store. Carries the HTTP ``status`` and the S3 ``code``."""

    def __init__(self, status: int, code: str, message: str) -> None:
        """Keep the answer for the client. ``message`` is for people and holds no secret."""
        super().__init__(message)
        self.status = status
        self.code = code


class Admission:
    """Checks requests as a store with STS does: signature, session token, expiry and scope.

    The S3 server behind the embedded cloud knows only its root keys, so the leases of the gateway
    must be checked before it. Safe for several threads: all state is in the ledger.
    """

    def __init__(self, ledger: Ledger, now: Callable[[], float]) -> None:
        """Check requests against the leases in ``ledger``.

        ``now`` returns the store's wall clock in seconds since 1970.
        """
        self._ledger = ledger
        self._now = now

    def admit(self, request: sigv4.Request) -> IssuedLease:
        """Return the lease with which ``request`` may pass.

        The checks have the order of AWS: access key, expiry, signature, scope.

        Raises:
            NotAdmittedError: The request may not pass.
        """
        claim = sigv4.read(request.headers.get("authorization", ""))
        if claim is None:
            raise NotAdmittedError(
                403, "AccessDenied", "the request carries no Signature Version 4"
            )
        lease = self._ledger.get(IssuedLease, claim.access_key)
        if lease is None:
            raise NotAdmittedError(403, "InvalidAccessKeyId", "no lease has this access key")
        if not hmac.compare_digest(
            request.headers.get("x-amz-security-token", "").encode(), lease.session_token.encode()
        ):
            raise NotAdmittedError(
                400, "InvalidToken", "the session token does not belong to the lease"
            )
        if self._now() >= lease.expires_at:
            raise NotAdmittedError(400, "ExpiredToken", "the lease has expired")
        self._check_time(request, claim)
        self._check_signature(request, claim, lease)
        _check_scope(request, lease)
        return lease

    def _check_time(self, request: sigv4.Request, claim: sigv4.SignatureClaim) -> None:
        date = request.headers.get("x-amz-date", "")
        try:
            signed_at = calendar.timegm(time.strptime(date, sigv4.TIME_FORMAT))
        except ValueError:
            raise NotAdmittedError(
                403, "AccessDenied", "x-amz-date is missing or is not a date"
            ) from None
        if abs(signed_at - self._now()) > _MAX_SKEW_SECONDS or not claim.scope.startswith(
            date[:8] + "/"
        ):
            raise NotAdmittedError(
                403, "RequestTimeTooSkewed", "the request's time is too far from the store's"
            )

    @staticmethod
    def _check_signature(
        request: sigv4.Request, claim: sigv4.SignatureClaim, lease: IssuedLease
    ) -> None:
        unsigned = {name for name in request.headers if name == "host" or name.startswith("x-amz-")}
        if unsigned := unsigned - set(claim.signed_headers):
            raise NotAdmittedError(
                403,
                "AccessDenied",
                f"these headers must be signed, too: {', '.join(sorted(unsigned))}",
            )
        payload = request.headers.get("x-amz-content-sha256", "")
        if payload != sigv4.UNSIGNED_PAYLOAD and len(payload) != 64:
            raise NotAdmittedError(501, "NotImplemented", "streaming payloads are not supported")
        expected = sigv4.signature(request, claim.signed_headers, claim.scope, lease.secret_key)
        if not hmac.compare_digest(expected, claim.signature):
            raise NotAdmittedError(
                403,
                "SignatureDoesNotMatch",
                "the signature was not made with the secret key of the lease",
            )


def _check_scope(request: sigv4.Request, lease: IssuedLease) -> None:
    bucket, _, key = unquote(request.path).removeprefix("/").partition("/")
    query = parse_qs(request.query, keep_blank_values=True)
    own_object = key == lease.object_key and "x-amz-copy-source" not in request.headers
    own_multiparts = (
        not key
        and request.method == "GET"
        and "uploads" in query
        and query.get("prefix") == [lease.object_key]
    )
    if bucket != lease.bucket or not (own_object or own_multiparts):
        raise NotAdmittedError(403, "AccessDenied", "the lease is for another object")
