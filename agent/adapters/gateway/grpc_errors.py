"""Translates the failure of a gRPC call into a ``CloudError``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from agent.model.errors import CloudError
from agent.pb.auth_pb2 import AuthErrorCode
from agent.pb.common_pb2 import ErrorDetail
from agent.pb.data_gateway_pb2 import DataGatewayErrorCode

# The key of the error details in the metadata of an answer.
_DETAILS = "grpc-status-details-bin"

# google.rpc.Status has its details, which are google.protobuf.Any, in this field.
_STATUS_DETAILS_FIELD = 3

# The most characters of a server's message that an error keeps.
_MESSAGE_MAX_CHARACTERS = 300

# The platform's codes without their prefixes.
_PREFIX = re.compile(r"(?:DATA_GATEWAY|AUTH)_ERROR_CODE_|DATA_GATEWAY_")
_CODES = frozenset(
    _PREFIX.sub("", name) for name in (*AuthErrorCode.keys(), *DataGatewayErrorCode.keys())
) - {"UNSPECIFIED"} | {"DEVICE_ALREADY_INITIALIZED", "DEVICE_NOT_INITIALIZED"}  # fmt: skip

# A code with its prefix, anywhere in a text.
_PREFIXED_CODE = re.compile(
    r"(?:(?:DATA_GATEWAY|AUTH)_ERROR_CODE_|DATA_GATEWAY_(?=DEVICE_))([A-Z_]+)"
)

# A code without its prefix, at the beginning of a text.
_LEADING_CODE = re.compile(r"\A[A-Z_]+")

# Calls that are about no upload: for them NOT_FOUND does not mean that an upload is gone.
_CALLS_WITHOUT_UPLOAD = ("ExchangeCredential", "InitDevice", "ReinitDevice")

# gRPC reports all of these as UNAVAILABLE, and only its text tells them apart. The first row whose
# pattern is in the text counts.
_CONNECTION_CODES = (
    ("proxy", re.compile(r"HTTP proxy returned")),
    (
        "certificate",
        re.compile(
            r"CERTIFICATE_VERIFY_FAILED|[Hh]ostname [Vv]erification|not in peer certificate"
        ),
    ),
    ("dns", re.compile(r"DNS|Domain name not found|[Nn]ame resolution")),
    ("refused", re.compile(r"[Cc]onnection refused")),
    ("tls", re.compile(r"handshake failed|SSL_ERROR")),
    ("out_of_descriptors", re.compile(r"[Tt]oo many open files")),
    ("out_of_memory", re.compile(r"Cannot allocate memory")),
)


def translated(call: str, error: grpc.RpcError, secrets: Sequence[str]) -> CloudError:
    """Return what the failure of a call means.

    The platform's own code says most. Where there is none, gRPC's status counts.
    """
    text = error.details() or ""
    code = _platform_code(error, text) or error.code().name
    if code == "NOT_FOUND" and call not in _CALLS_WITHOUT_UPLOAD:
        code = "UPLOAD_NOT_FOUND"
    if code == "UNAVAILABLE":
        code = _connection_code(text) or code
    # A server may quote what it was sent.
    for secret in filter(None, map(str.strip, secrets)):
        text = text.replace(secret, "***")
    return CloudError(call, code, text[:_MESSAGE_MAX_CHARACTERS])


def _connection_code(text: str) -> str:
    """Return why gRPC could not connect, by its text; "" where the text does not tell."""
    for code, pattern in _CONNECTION_CODES:
        if pattern.search(text):
            return code
    return ""


def _platform_code(error: grpc.RpcError, text: str) -> str:
    """Return the platform's code without its prefix; "" where there is none.

    The code is in the error's details, or else in its text.
    """
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS:
            for detail in _error_details(value):
                code = _PREFIX.sub("", detail.code)
                if code not in {"", "UNSPECIFIED"}:
                    return code
    # Texts of gRPC have such words, too. So a code without its prefix counts only at the beginning.
    candidates = [*_PREFIXED_CODE.findall(text), *_LEADING_CODE.findall(text)]
    return next((code for code in candidates if code in _CODES), "")


def _error_details(raw: bytes) -> Iterator[ErrorDetail]:
    """Yield the ErrorDetails in ``raw``.

    ``raw`` is an ErrorDetail, or a google.rpc.Status that has ErrorDetails inside. A Status that is
    read as an ErrorDetail keeps them as an unknown field.
    """
    with contextlib.suppress(DecodeError):
        outer = ErrorDetail.FromString(raw)
        yield outer
        # The library's type stub does not know that the set can be iterated over.
        unknown: Any = UnknownFieldSet(outer)
        for field in unknown:
            if field.field_number == _STATUS_DETAILS_FIELD and isinstance(field.data, bytes):
                yield ErrorDetail.FromString(AnyMessage.FromString(field.data).value)
