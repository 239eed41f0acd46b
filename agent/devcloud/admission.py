"""May this request reach the store? Checks its signature against the leases that the gateway issued."""

from __future__ import annotations

import calendar
import hmac
import time
from collections.abc import Callable
from urllib.parse import parse_qs, unquote

from agent.devcloud import sigv4
from agent.devcloud.ledger import IssuedLease, Ledger

_MAX_SKEW = 15 * 60  # seconds, as at AWS


class NotAdmittedError(Exception):
    """The request does not reach the store: HTTP ``status`` and S3 ``code``."""

    def __init__(self, status: int, code: str, message: str) -> None:
        """``message`` is for people and holds no secret."""
        super().__init__(message)
        self.status = status
        self.code = code


class Admission:
    """Knows the leases and the time."""

    def __init__(self, ledger: Ledger, now: Callable[[], float]) -> None:
        """``now`` is the store's wall clock, seconds since 1970."""
        self._ledger = ledger
        self._now = now

    def admit(self, request: sigv4.Request) -> IssuedLease:
        """The lease with which ``request`` may pass.

        Raises:
            RefusedError: it may not; in the order in which AWS looks: who, until when, signed how, for what.
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
            raise NotAdmittedError(400, "InvalidToken", "the session token is not the lease's")
        if self._now() >= lease.expires_at:
            raise NotAdmittedError(400, "ExpiredToken", "the lease has ended")
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
                403, "AccessDenied", "x-amz-date is missing or no date"
            ) from None
        if abs(signed_at - self._now()) > _MAX_SKEW or not claim.scope.startswith(date[:8] + "/"):
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
                403, "AccessDenied", f"headers that were not signed: {', '.join(sorted(unsigned))}"
            )
        payload = request.headers.get("x-amz-content-sha256", "")
        if payload != sigv4.UNSIGNED_PAYLOAD and len(payload) != 64:
            raise NotAdmittedError(501, "NotImplemented", "only whole payloads, signed or not")
        expected = sigv4.signature(request, claim.signed_headers, claim.scope, lease.secret_key)
        if not hmac.compare_digest(expected, claim.signature):
            raise NotAdmittedError(
                403,
                "SignatureDoesNotMatch",
                "the signature is not the one the lease's secret makes",
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
