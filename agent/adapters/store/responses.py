"""Reads what a store answers, and translates every failure of a request into a ``CloudError``.

This is the one place where errors of the store, of urllib3 and of the network are translated.

An answer that is no success has the S3 code in its body, or else "portal" or HTTP_<status>. An
answer that is too long is InvalidResponse or "portal", and one that is no HTTP is no_http. Where no
answer came, the code says why: proxy, dns, refused, reset, timeout, certificate, tls or
unreachable. What this robot itself lacks has the codes of ``agent.model.unforeseen``.
"""

from __future__ import annotations

import html
import http.client
import io
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime

import urllib3
from urllib3.exceptions import (
    HTTPError,
    InvalidChunkLength,
    InvalidHeader,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
)
from urllib3.exceptions import SSLError as Urllib3SSLError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from agent.model.errors import CloudError
from agent.model.unforeseen import shortage, shortage_error

# The S3 code for a request whose time differs too much from the store's.
SKEWED = "RequestTimeTooSkewed"

SUCCESSES = frozenset({200, 204, 206})

# The most characters of a store's message that an error keeps.
_MESSAGE_MAX_CHARACTERS = 300

# The most bytes of a store's message that are decoded. The limit matters because Python raises for
# a character reference whose number has over 4,300 digits.
_RAW_MESSAGE_MAX_BYTES = 10 * _MESSAGE_MAX_CHARACTERS

# How much of an answer is read at once.
_BLOCK_BYTES = 64 * 1024

_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._-]+)\s*</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]*)</Message>")
_ERROR_DOCUMENT = re.compile(rb"\s*(?:<\?xml[^>]*\?>\s*)?<Error[\s>]")

# The year 2200, in seconds since 1970. A later Date is a mistake and no clock to learn from.
_LATEST_DATE = 7_258_118_400.0

# From this difference between the clocks on, the clock is blamed for an answer that may have other
# reasons, in seconds.
_SKEW_BLAMED_SECONDS = 300.0

# RFC 9110: proxy authentication required.
_PROXY_STATUS = 407

# RFC 6585: network authentication required.
_PORTAL_STATUS = 511

# What other stores call an error, and its name in the agent's table of errors.
_SYNONYMS = {
    "BadDigest": "checksum",
    "InvalidDigest": "checksum",
    "XAmzContentChecksumMismatch": "checksum",
    "XAmzContentSHA256Mismatch": "checksum",
    # VersityGW says this.
    "XAdminUserNotFound": "InvalidAccessKeyId",
}

# What stores answer, besides the proper code, to a request whose time is wrong.
_CLOCK_SUSPECTS = frozenset(
    {"AccessDenied", "SignatureDoesNotMatch", "BadRequest", "HTTP_400", "HTTP_403"}
)

# What each exception means. The first row that fits any exception in the chain of causes counts.
_CONNECTION_CODES: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLCertVerificationError, "certificate"),
    (socket.gaierror, "dns"),
    (NameResolutionError, "dns"),
    (ConnectionRefusedError, "refused"),
    (ConnectionError, "reset"),
    (TimeoutError, "timeout"),
    # The other side closed the connection, in the handshake or in the middle of a part.
    (ssl.SSLEOFError, "reset"),
    (ssl.SSLError, "tls"),
    (InvalidChunkLength, "no_http"),
    (InvalidHeader, "no_http"),
    (http.client.IncompleteRead, "reset"),
    (http.client.ImproperConnectionState, "reset"),
    (http.client.NotConnected, "reset"),
    (http.client.HTTPException, "no_http"),
    (OSError, "unreachable"),
    # The endpoint is no address.
    (LocationValueError, "lying_server"),
    # For urllib3 a connection that failed at once is also a timeout, so this row comes before it.
    (NewConnectionError, "unreachable"),
    (Urllib3TimeoutError, "timeout"),
    (Urllib3SSLError, "tls"),
)


class TooLongError(HTTPError):
    """An answer is longer than any answer of a store; the rest of it is not read."""

    def __init__(self, code: str, limit: int) -> None:
        """Make the error.

        Args:
            code: The code of the CloudError that it becomes.
            limit: How many bytes the answer may have.
        """
        super().__init__(f"the answer is longer than {limit} bytes")
        self.code = code


def read(answer: urllib3.BaseHTTPResponse, limit: int) -> urllib3.BaseHTTPResponse:
    """Read an answer to its end, so that its connection can be used again.

    Where an answer goes on after ``limit`` bytes, its connection is closed. The beginning of an
    error tells enough, so only a success that is too long is an error.

    Args:
        answer: An answer whose body was not read.
        limit: The most bytes that its body may have.

    Returns:
        The same answer with its whole body.

    Raises:
        TooLongError: A success has more than ``limit`` bytes.
        HTTPError: The connection failed.
    """
    blocks: list[bytes] = []
    left = limit + 1
    while left:
        block = answer.read(min(left, _BLOCK_BYTES))
        if not block:
            break
        blocks.append(block)
        left -= len(block)
    too_long = not left
    if too_long:
        answer.close()
    answer.release_conn()
    complete = urllib3.HTTPResponse(
        io.BytesIO(b"".join(blocks)[:limit]),
        headers=answer.headers,
        status=answer.status,
        decode_content=False,
        # The library would try to read more where the length in the headers does not agree.
        enforce_content_length=False,
    )
    if too_long and answer.status in SUCCESSES:
        raise TooLongError("portal" if is_html(complete) else "InvalidResponse", limit)
    return complete


def response_error(
    call: str,
    answer: urllib3.BaseHTTPResponse,
    hide: Callable[[str], str],
    *,
    skew: float = 0.0,
    server_time: float | None = None,
) -> CloudError:
    """Return what an answer means that is no success.

    Args:
        call: The S3 operation that was asked for.
        answer: The answer, read to its end.
        hide: Takes secrets out of a text.
        skew: Seconds by which the request's time was behind the answer's.
        server_time: The answer's time in seconds since 1970; None without TLS.
    """
    code = _code(answer)
    code = _SYNONYMS.get(code, code)
    if code in _CLOCK_SUSPECTS and abs(skew) > _SKEW_BLAMED_SECONDS:
        code = SKEWED
    return CloudError(
        call,
        code,
        hide(_message(answer))[:_MESSAGE_MAX_CHARACTERS],
        status=answer.status,
        retry_after=_retry_after(answer),
        server_time=server_time,
    )


def _message(answer: urllib3.BaseHTTPResponse) -> str:
    """Return what the store says in words; its status where it says nothing."""
    found = _MESSAGE.search(answer.data)
    if found is None:
        return f"HTTP {answer.status}"
    return html.unescape(found[1][:_RAW_MESSAGE_MAX_BYTES].decode(errors="replace"))


def _retry_after(answer: urllib3.BaseHTTPResponse) -> float:
    """Return how many seconds the store asks to wait; 0 where it does not ask.

    Retry-After is a number of seconds or a date (RFC 9110, section 10.2.3). A date is compared with
    the answer's own Date, because the local clock may be wrong.
    """
    text = answer.headers.get("retry-after", "")
    if text.isdecimal():
        return float(text)
    until = date_of(answer, "retry-after")
    date = date_of(answer)
    return max(0.0, until - date) if until and date else 0.0


def _code(answer: urllib3.BaseHTTPResponse) -> str:
    """Return the S3 code of an error, whatever content type the answer has.

    Returns:
        The code; "portal" or "proxy" where the answer is not the store's; else ``HTTP_<status>``.
    """
    found = _CODE.search(answer.data)
    if found is not None:
        return found[1].decode()
    from_store = any(name.lower().startswith(("x-amz-", "x-oss-")) for name in answer.headers)
    if 300 <= answer.status < 400:
        return "PermanentRedirect" if from_store else "portal"
    if answer.status == _PROXY_STATUS:
        return "proxy"
    # A server before the store, such as nginx, also answers with HTML, but only with 5xx and 413.
    html_of_portal = (
        is_html(answer) and not from_store and answer.status < 500 and answer.status != 413
    )
    if answer.status == _PORTAL_STATUS or html_of_portal:
        return "portal"
    return f"HTTP_{answer.status}"


def connection_error(call: str, error: BaseException) -> CloudError:
    """Return what it means that no usable answer came.

    Args:
        call: The S3 operation that was asked for.
        error: What the request raised.
    """
    if code := shortage(error):
        return shortage_error(call, code)
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, TooLongError):
            return CloudError(call, cause.code, str(cause))
    if any(isinstance(cause, ProxyError) for cause in causes):
        for cause in causes:
            # http.client raises a bare OSError where the proxy refuses CONNECT.
            if type(cause) is OSError and cause.errno is None:
                return CloudError(call, "proxy", str(cause))
    for kind, code in _CONNECTION_CODES:
        for cause in causes:
            if isinstance(cause, kind):
                return CloudError(call, code, _reason(cause))
    return CloudError(call, "reset", type(error).__name__)


def _reason(cause: BaseException) -> str:
    """Return what the system says about the error; its type where it says nothing."""
    return str(
        getattr(cause, "verify_message", "")
        or getattr(cause, "strerror", "")
        or type(cause).__name__
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and all that it wraps, by argument, by ``reason`` or as its cause."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        wrapped = (*current.args, getattr(current, "reason", None), current.__cause__)
        waiting += [each for each in wrapped if isinstance(each, BaseException)]


def date_of(answer: urllib3.BaseHTTPResponse, header: str = "date") -> float | None:
    """Return the time in a header, in seconds since 1970; None where it has no usable one."""
    try:
        date = parsedate_to_datetime(answer.headers[header]).timestamp()
    # The library promises ValueError alone; with odd texts several Pythons raise others of these.
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError):
        return None
    return date if 0 <= date < _LATEST_DATE else None


def is_html(answer: urllib3.BaseHTTPResponse) -> bool:
    """Return whether an answer is a page for people, by its content type or its beginning."""
    if "html" in answer.headers.get("content-type", ""):
        return True
    return answer.data.lstrip()[:5].lower() in {b"<html", b"<!doc"}


def says_error(answer: urllib3.BaseHTTPResponse) -> bool:
    """Return whether an answer with a success's status is an error.

    S3 sends the status of CompleteMultipartUpload before it knows the outcome.
    """
    return _ERROR_DOCUMENT.match(answer.data) is not None


def etag_of(answer: urllib3.BaseHTTPResponse, call: str) -> str:
    """Return the ETag of a success.

    Raises:
        CloudError: There is none, so the answer is not the store's.
    """
    etag = answer.headers.get("etag", "")
    if not etag:
        raise CloudError(call, "portal", "an answer without ETag is not the store's")
    return etag
