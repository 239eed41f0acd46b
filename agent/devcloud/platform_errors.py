"""The errors of the embedded platform, with the protocol's error codes and their gRPC statuses."""

from __future__ import annotations

# The protocol's error codes of AuthService and of DataGatewayService begin with these prefixes.
AUTH_PREFIX = "AUTH_ERROR_CODE_"
GATEWAY_PREFIX = "DATA_GATEWAY_ERROR_CODE_"

# The gRPC status with which each error code is answered.
_STATUS = {
    "INVALID_CREDENTIAL": "UNAUTHENTICATED",
    "KEY_DISABLED": "PERMISSION_DENIED",
    "KEY_EXPIRED": "UNAUTHENTICATED",
    "SITE_DISABLED": "PERMISSION_DENIED",
    "UNAUTHENTICATED": "UNAUTHENTICATED",
    "UPLOAD_NOT_FOUND": "NOT_FOUND",
    "UPLOAD_NOT_OWNED": "PERMISSION_DENIED",
    "UPLOAD_NOT_REFRESHABLE": "FAILED_PRECONDITION",
    "INVALID_ARGUMENT": "INVALID_ARGUMENT",
    "FAILED_PRECONDITION": "FAILED_PRECONDITION",
    "STS_UNAVAILABLE": "UNAVAILABLE",
}


class PlatformError(Exception):
    """The platform refuses a request. Carries the gRPC ``status`` and the full error ``code``."""

    def __init__(self, status: str, code: str, message: str) -> None:
        """Keep the answer for the client. ``message`` is for people and holds no secret."""
        super().__init__(message)
        self.status = status
        self.code = code


def refusal(code: str, message: str, prefix: str = GATEWAY_PREFIX) -> PlatformError:
    """Return the error for a code of the protocol, given without its prefix."""
    return PlatformError(_STATUS[code], prefix + code, message)
