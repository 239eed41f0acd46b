"""AWS Signature Version 4 for S3 requests: signs requests, and reads signatures to check them.

Source: "Authenticating Requests: Using the Authorization Header" of the Amazon S3 API
reference. A path is encoded once and never normalised. This is an exception that only S3 makes.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, unquote_plus

from agent.devcloud.servers import REGION, Endpoint

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
TIME_FORMAT = "%Y%m%dT%H%M%SZ"
_ALGORITHM = "AWS4-HMAC-SHA256"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^,\s]+), ?SignedHeaders=([^,\s]+), ?Signature=([0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Request:
    """The parts of a request that a signature covers.

    Header names are lower-case. Path and query are encoded as they are sent.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SignatureClaim:
    """The content of an Authorization header, not yet checked.

    ``scope`` has the form date/region/service/aws4_request.
    """

    access_key: str
    scope: str
    signed_headers: tuple[str, ...]
    signature: str


def read(authorization: str) -> SignatureClaim | None:
    """Return what an Authorization header claims, or None when it has no Signature Version 4."""
    found = _AUTHORIZATION.fullmatch(authorization.strip())
    if found is None:
        return None
    credential, names, signature = found.groups()
    access_key, slash, scope = credential.partition("/")
    if not slash or scope.count("/") != 3:
        return None
    return SignatureClaim(access_key, scope, tuple(names.split(";")), signature)


def signature(request: Request, signed_headers: Iterable[str], scope: str, secret_key: str) -> str:
    """Return the signature that ``request`` must carry, in lower-case hex."""
    names = sorted(signed_headers)
    canonical = "\n".join(
        [
            request.method,
            quote(unquote(request.path), safe="/-_.~"),
            _canonical_query(request.query),
            *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in names),
            "",
            ";".join(names),
            request.headers.get("x-amz-content-sha256", UNSIGNED_PAYLOAD),
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join([_ALGORITHM, request.headers.get("x-amz-date", ""), scope, digest])
    key = f"AWS4{secret_key}".encode()
    for step in scope.split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def sign(request: Request, endpoint: Endpoint) -> dict[str, str]:
    """Return the headers of ``request`` together with a signature by the endpoint's keys.

    The payload is not signed.
    """
    date = time.strftime(TIME_FORMAT, time.gmtime())
    headers = {
        **request.headers,
        "host": endpoint.netloc,
        "x-amz-date": date,
        "x-amz-content-sha256": UNSIGNED_PAYLOAD,
    }
    names = sorted(
        name for name in headers if name in {"host", "content-md5"} or name.startswith("x-amz-")
    )
    scope = f"{date[:8]}/{REGION}/s3/aws4_request"
    proof = signature(
        Request(request.method, request.path, request.query, headers),
        names,
        scope,
        endpoint.secret_key,
    )
    credential = f"{endpoint.access_key}/{scope}"
    headers["authorization"] = (
        f"{_ALGORITHM} Credential={credential}, SignedHeaders={';'.join(names)}, Signature={proof}"
    )
    return headers


def _canonical_query(query: str) -> str:
    pairs = (item.partition("=") for item in query.split("&") if item)
    encoded = ((quote(unquote_plus(name), safe="-_.~"), quote(unquote_plus(value), safe="-_.~"))
               for name, _, value in pairs)  # fmt: skip
    return "&".join(f"{name}={value}" for name, value in sorted(encoded))
