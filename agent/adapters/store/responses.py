"""What a store answers, and what it means when no answer comes; the one place where foreign errors are translated.

an answer that is no success    the S3 code in its body, else "portal" or "HTTP_<status>"       refused
one that does not end           InvalidResponse, or "portal"                                    read, cut
one that is no HTTP             no_http                                                         cut
no answer                       proxy, dns, refused, reset, timeout, certificate, tls, unreachable     cut
a lack on this robot            out_of_descriptors and the like                                 cut
"""

from __future__ import annotations

import html
import http.client
import io
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

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
from agent.model.unforeseen import shortage
from agent.model.values import SentPart

SKEWED = "RequestTimeTooSkewed"
SUCCESSES = frozenset({200, 204, 206})
_LONGEST_MESSAGE = 300
_LONGEST_RAW_MESSAGE = (
    10 * _LONGEST_MESSAGE
)  # bytes that are decoded: Python refuses a number of 4,300 digits
_MOST_DIGITS = 18  # of a number in an answer: the largest object has 14
# Levels of an XML answer. A store's answers have 5; each level costs memory, and may cost a deeper stack.
_DEEPEST = 50
_BLOCK = 64 * 1024  # bytes read at once
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._-]+)\s*</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]*)</Message>")
_ERROR = re.compile(rb"\s*(?:<\?xml[^>]*\?>\s*)?<Error[\s>]")
_LATEST_DATE = (
    7_258_118_400.0  # the year 2200: a later Date is a mistake, and no clock to learn from
)
_SKEW_REFUSED = 300.0  # seconds from which a bare 400 or 403 is blamed on the clock
_PROXY_STATUS = 407  # RFC 9110: proxy authentication required
_PORTAL_STATUS = 511  # RFC 6585: network authentication required
# Other names for the same: the words of the table are on the right.
_SAME = {
    "BadDigest": "checksum",
    "InvalidDigest": "checksum",
    "XAmzContentChecksumMismatch": "checksum",
    "XAmzContentSHA256Mismatch": "checksum",
    "XAdminUserNotFound": "InvalidAccessKeyId",  # VersityGW
}
_CLOCK_SUSPECTS = frozenset(
    {"AccessDenied", "SignatureDoesNotMatch", "BadRequest", "HTTP_400", "HTTP_403"}
)
# The first row that fits anything in the chain of causes names what happened on the way.
_CUTS: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLCertVerificationError, "certificate"),
    (socket.gaierror, "dns"),
    (NameResolutionError, "dns"),
    (ConnectionRefusedError, "refused"),
    (ConnectionError, "reset"),
    (TimeoutError, "timeout"),
    (
        ssl.SSLEOFError,
        "reset",
    ),  # the connection was cut, in the middle of a part as in the handshake
    (ssl.SSLError, "tls"),
    (InvalidChunkLength, "no_http"),
    (InvalidHeader, "no_http"),
    (http.client.IncompleteRead, "reset"),
    (http.client.ImproperConnectionState, "reset"),
    (http.client.NotConnected, "reset"),
    (http.client.HTTPException, "no_http"),
    (OSError, "unreachable"),
    (LocationValueError, "lying_server"),  # an endpoint that is no address
    (NewConnectionError, "unreachable"),
    (
        Urllib3TimeoutError,
        "timeout",
    ),  # after it: a connection that failed at once is one of these to the library
    (Urllib3SSLError, "tls"),
)


class TooLongError(HTTPError):
    """The answer goes on where the store's would have ended; what follows is not read."""

    def __init__(self, code: str, most: int) -> None:
        """``code`` is for CloudError; ``most``: bytes that were read in vain."""
        super().__init__(f"the answer is longer than {most} bytes")
        self.code = code


def read(answer: urllib3.BaseHTTPResponse, most: int) -> urllib3.BaseHTTPResponse:
    """The answer, read to its end, so that its connection can be used again.

    What goes on after ``most`` bytes is cut off, connection and all: of what is no success the beginning tells enough,
    a success raises TooLongError.
    """
    blocks, left = [], most + 1
    while left and (block := answer.read(min(left, _BLOCK))):
        blocks.append(block)
        left -= len(block)
    if not left:
        answer.close()
    answer.release_conn()
    # The library would read on where the length does not agree.
    known = urllib3.HTTPResponse(
        io.BytesIO(b"".join(blocks)[:most]),
        headers=answer.headers,
        status=answer.status,
        decode_content=False,
        enforce_content_length=False,
    )
    if not left and answer.status in SUCCESSES:
        raise TooLongError("portal" if _is_html(known) else "InvalidResponse", most)
    return known


def refused(
    call: str,
    answer: urllib3.BaseHTTPResponse,
    hide: Callable[[str], str],
    *,
    skew: float = 0.0,
    server_time: float | None = None,
) -> CloudError:
    """What an answer that is no success means; ``hide`` takes secrets out of a text."""
    code = _code(answer)
    code = _SAME.get(code, code)
    if code in _CLOCK_SUSPECTS and abs(skew) > _SKEW_REFUSED:
        code = SKEWED
    found = _MESSAGE.search(answer.data)
    raw = found[1][:_LONGEST_RAW_MESSAGE].decode(errors="replace") if found else ""
    message = html.unescape(raw) if found else f"HTTP {answer.status}"
    date = date_of(answer)
    wait = answer.headers.get("retry-after", "")
    until = date_of(answer, "retry-after")
    return CloudError(
        call,
        code,
        hide(message)[:_LONGEST_MESSAGE],
        status=answer.status,
        retry_after=float(wait)
        if wait.isdecimal()
        else max(0.0, until - date)
        if until and date
        else 0.0,
        server_time=server_time,
    )


def _code(answer: urllib3.BaseHTTPResponse) -> str:
    """The S3 code, whatever content type it comes with; "portal" where somebody else answers; else the status."""
    if found := _CODE.search(answer.data):
        return found[1].decode()
    ours = any(name.lower().startswith(("x-amz-", "x-oss-")) for name in answer.headers)
    if 300 <= answer.status < 400:
        return "PermanentRedirect" if ours else "portal"
    # A front such as nginx says 5xx and 413 in html too, and means them.
    if answer.status == _PROXY_STATUS:
        return "proxy"
    if answer.status == _PORTAL_STATUS or (
        _is_html(answer) and not ours and answer.status < 500 and answer.status != 413
    ):
        return "portal"
    return f"HTTP_{answer.status}"


def cut(call: str, error: BaseException) -> CloudError:
    """What it means that no answer came."""
    lack = shortage(error, call)
    if lack is not None:
        return lack
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, TooLongError):
            return CloudError(call, cause.code, str(cause))
    if any(isinstance(cause, ProxyError) for cause in causes):
        for cause in causes:
            if (
                type(cause) is OSError and cause.errno is None
            ):  # http.client's way to say that CONNECT was refused
                return CloudError(call, "proxy", str(cause))
    for kind, code in _CUTS:
        for cause in causes:
            if isinstance(cause, kind):
                reason = (
                    getattr(cause, "verify_message", "")
                    or getattr(cause, "strerror", "")
                    or type(cause).__name__
                )
                return CloudError(call, code, str(reason))
    return CloudError(call, "reset", type(error).__name__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and all that it wraps, by argument, by ``reason`` or as its cause."""
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop(0)
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            inner = (*each.args, getattr(each, "reason", None), each.__cause__)
            waiting += [one for one in inner if isinstance(one, BaseException)]


def joined(parts: Sequence[SentPart]) -> bytes:
    """The request that joins them. A checksum that was declared must be said again."""
    root = ET.Element("CompleteMultipartUpload", xmlns="http://s3.amazonaws.com/doc/2006-03-01/")
    for part in parts:
        entry = ET.SubElement(root, "Part")
        ET.SubElement(entry, "PartNumber").text = str(part.number)
        ET.SubElement(entry, "ETag").text = part.etag
        if part.checksum:
            ET.SubElement(entry, f"Checksum{part.algorithm}").text = part.checksum
    return ET.tostring(root)


def date_of(answer: urllib3.BaseHTTPResponse, header: str = "date") -> float | None:
    """The time in a header, seconds since 1970; None where there is none that makes sense."""
    try:
        date = parsedate_to_datetime(answer.headers[header]).timestamp()
    # The library promises ValueError alone; with odd texts several Pythons raise others of these.
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError):
        return None
    return date if 0 <= date < _LATEST_DATE else None


def _is_html(answer: urllib3.BaseHTTPResponse) -> bool:
    return "html" in answer.headers.get("content-type", "") or answer.data.lstrip()[:5].lower() in {
        b"<html",
        b"<!doc",
    }


def says_error(answer: urllib3.BaseHTTPResponse) -> bool:
    """Whether a success is none: the status was sent before the outcome was known."""
    return _ERROR.match(answer.data) is not None


def etag_of(answer: urllib3.BaseHTTPResponse, call: str) -> str:
    """The ETag in a success; raises CloudError where there is none, because then this is not the store's answer."""
    etag = answer.headers.get("etag", "")
    if not etag:
        raise CloudError(call, "portal", "an answer without ETag is not the store's")
    return etag


class _Tree(ET.TreeBuilder):
    """Builds an answer's elements, and refuses what no store sends: a DTD, with its entities, and deep nesting."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def start(self, tag: str, attrs: dict[str, str]) -> ET.Element:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("the elements are nested too deeply")
        return super().start(tag, attrs)

    def end(self, tag: str) -> ET.Element:
        self._depth -= 1
        return super().end(tag)

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError(f"a document type: {name}, {public}, {system}")


def xml(answer: urllib3.BaseHTTPResponse, call: str) -> ET.Element:
    """The document in a success; raises CloudError where there is none."""
    try:
        return ET.fromstring(answer.data.strip(), ET.XMLParser(target=_Tree()))  # noqa: S314 - _Tree takes no entities
    # An encoding that Python does not know is a LookupError, one that the parser does not know a ValueError.
    except (ET.ParseError, LookupError, ValueError):
        raise CloudError(
            call, "portal" if _is_html(answer) else "InvalidResponse", "the answer is no XML"
        ) from None


def name_of(element: ET.Element) -> str:
    """The element's name; stores do not agree on namespaces."""
    return str(element.tag).rpartition("}")[2]


def children(element: ET.Element, name: str) -> list[ET.Element]:
    """The elements of that name directly below."""
    return [child for child in element if name_of(child) == name]


def text_of(element: ET.Element, name: str) -> str:
    """The text of the first element of that name directly below; "" where there is none."""
    return next((child.text or "" for child in children(element, name)), "").strip()


def required(element: ET.Element, name: str, call: str) -> str:
    """The same; raises CloudError where it is missing, because then this is not the store's answer."""
    text = text_of(element, name)
    if not text:
        code = "portal" if name_of(element).lower() == "html" else "InvalidResponse"
        raise CloudError(call, code, f"the answer has no {name}")
    return text


def number_in(text: str, name: str, call: str) -> int:
    """The whole number that ``text`` is; raises CloudError where it is none that a store can mean."""
    if not (text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS):
        raise CloudError(call, "InvalidResponse", f"{name} in the answer is no number")
    return int(text)


def decoded(page: ET.Element, text: str) -> str:
    """A key in a listing, without the encoding that the page says it has."""
    return unquote_plus(text) if text_of(page, "EncodingType") == "url" else text
