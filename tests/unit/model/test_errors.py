"""The error table, tested for every error that an adapter can meet.

Each error is tested bare and in every form in which a library wraps it.
"""

from __future__ import annotations

import errno
import http.client
import inspect
import io
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

import grpc
import pytest
import urllib3
from google.protobuf.any_pb2 import Any as AnyMessage
from urllib3 import exceptions

from agent.adapters.gateway.grpc_errors import translated
from agent.adapters.store.responses import connection_error, response_error
from agent.dispatch.outcome import outcome_of
from agent.model import errors
from agent.model.error_table import TABLE, TRAITS, Kind, Trait
from agent.model.errors import CloudError, judge
from agent.model.unforeseen import SHORTAGES, foreign
from agent.pb.auth_pb2 import AuthErrorCode
from agent.pb.common_pb2 import ErrorDetail
from agent.pb.data_gateway_pb2 import DataGatewayErrorCode
from tests.harness.paths import REPOSITORY

Codes = Mapping[Kind, str]

GRPC: Codes = {
    "offline": "CANCELLED DEADLINE_EXCEEDED RESOURCE_EXHAUSTED UNAVAILABLE",
    "blocked": "PERMISSION_DENIED UNAUTHENTICATED",
    "counted": """
        UNKNOWN NOT_FOUND ALREADY_EXISTS FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED
        INTERNAL DATA_LOSS""",
    "final": "INVALID_ARGUMENT",
}  # fmt: skip
AUTH: Codes = {
    "blocked": "INVALID_CREDENTIAL KEY_DISABLED KEY_EXPIRED SITE_DISABLED",
    "counted": "UNSPECIFIED INTERNAL_ERROR",
}
GATEWAY: Codes = {
    "offline": "STS_UNAVAILABLE",
    "blocked": "UNAUTHENTICATED",
    "counted": """
        UNSPECIFIED UPLOAD_NOT_FOUND UPLOAD_NOT_OWNED UPLOAD_NOT_REFRESHABLE FAILED_PRECONDITION
        INTERNAL_ERROR""",
    "final": "INVALID_ARGUMENT",
}
ENROLMENT: Codes = {"blocked": "DEVICE_ALREADY_INITIALIZED DEVICE_NOT_INITIALIZED"}
# AWS, MinIO, VersityGW and Alibaba OSS document these codes. The codes of services that the agent
# does not use (select, replication, administration) are listed, too: if one arrives after all, it
# must not stop uploads for good.
S3: Codes = {
    "offline": """
        ActiveRequestLimitExceeded BandwidthLimitExceeded ClientDisconnected
        ConditionalRequestConflict CpuLimitExceeded DownloadTrafficRateLimitExceeded
        IncompleteBody InternalError MetaOperationQpsLimitExceeded OperationAborted
        PartitionQpsLimitted QpsLimitExceeded Redirect RequestLimitExceeded RequestTimeout
        ResponseInterrupted ServerBusy ServerNotInitialized ServiceUnavailable SlowDown
        SlowDownRead SlowDownWrite TemporaryRedirect Throttling ThrottlingException
        TooManyRequests TotalQpsLimitExceeded UploadTrafficRateLimitExceeded XMinioBackendDown
        XMinioBucketMetadataNotInitialized XMinioIAMNotInitialized XMinioServerNotInitialized""",
    "lease_lost": """
        ExpiredToken ExpiredTokenException InvalidAccessKeyId InvalidSecurityToken InvalidToken
        InvalidTokenId RequestExpired SecurityTokenExpired TokenRefreshRequired
        XAdminUserNotFound""",
    "blocked": """
        AbnormalBucketOwnerStatus AccessDenied AccessForbidden AccountProblem AllAccessDisabled
        AuthorizationHeaderMalformed EndpointNotFound IllegalLocationConstraintException
        IncorrectEndpoint InsufficientStorage InvalidBucketName InvalidBucketState
        InvalidEncryptionAlgorithmError InvalidHostHeader InvalidClientTokenId InvalidRegion
        InvalidSignature InvalidStorageClass KMS.DisabledException KMS.InvalidKeyUsageException
        KMS.KMSInvalidStateException KMS.NotFoundException KmsServiceNotEnabled
        MissingAuthenticationToken MissingSecurityHeader NoSuchAccessPoint NoSuchBucket
        NotSignedUp PermanentRedirect QuotaExceeded RequestTimeTooSkewed
        SecondLevelDomainForbidden SignatureDoesNotMatch StorageFull UnauthorizedAccess
        UnauthorizedAccessError UserDisable UserSuspended XMinioAdminBucketQuotaExceeded
        XMinioInsecureClientRequest XMinioStorageFull""",
    "final": "EntityTooLarge",
    "counted": """
        BadDigest InvalidDigest XAmzContentChecksumMismatch XAmzContentSHA256Mismatch
        EntityTooSmall InvalidObjectName InvalidPart InvalidPartOrder InvalidURI KeyTooLongError
        MaxMessageLengthExceeded MethodNotAllowed NoSuchKey NoSuchUpload NotImplemented
        XMinioInvalidObjectName AccessControlListNotSupported AccessPointAlreadyOwnedByYou
        AmbiguousGrantByEmailAddress AuthorizationParametersError
        AuthorizationQueryParametersError BadRequest BadReplicationLocation BucketAlreadyExists
        BucketAlreadyOwnedByYou BucketHasAccessPointsAttached BucketNotEmpty
        BucketReplicationAlreadyExist CORSRuleBeyondLimit CallbackFailed CastFailed
        ClientTokenConflict ConnectionClosedByRequester CredentialsNotSupported
        CrossLocationLoggingProhibited DeviceNotActiveError DirectoryObjectContainsData
        EmptyRequestBody ErrDirectoryNotEmpty ErrEvaluatorBindingDoesNotExist
        EvaluatorInvalidArguments EvaluatorInvalidTimestampFormatPattern
        EvaluatorInvalidTimestampFormatPatternSymbol
        EvaluatorInvalidTimestampFormatPatternSymbolForParsing
        EvaluatorInvalidTimestampFormatPatternToken
        EvaluatorTimestampFormatPatternDuplicateFields
        EvaluatorUnterminatedTimestampFormatPatternToken ExcessData ExistingObjectIsDirectory
        ExpressionTooLong FileAlreadyExists FileGroupTooLarge FileImmutable FilePartInterity
        FilePartNotExist FilePartStale IllegalSqlFunctionArgument
        IllegalVersioningConfigurationException IncorrectNumberOfFilesInPOSTRequest
        IncorrectNumberOfFilesInPostRequest IncorrectSqlFunctionArgumentType InlineDataTooLarge
        InsecureConnection IntegerOverflow InvalidAccessPoint InvalidAccessPointAliasError
        InvalidAddressingHeader InvalidArgument InvalidBucketAclWithObjectOwnership
        InvalidBucketOwnerAWSAccountID InvalidCast InvalidChunkSizeError InvalidClientCertificate
        InvalidClientGrantsToken InvalidColumnIndex InvalidCompressionFormat InvalidDataSource
        InvalidDataType InvalidDuration InvalidEncryptionRequest InvalidExpressionType
        InvalidFileHeaderInfo InvalidHttpMethod InvalidJsonType InvalidKeyPath
        InvalidLifecycleWithObjectLock InvalidLocationConstraint InvalidObjectState
        InvalidParameterValue InvalidPartNumber InvalidPayer InvalidPolicyDocument
        InvalidPrefixMarker InvalidQuoteFields InvalidRange InvalidRedirectLocation
        InvalidRequest InvalidRequestParameter InvalidSOAPRequest InvalidSecurity
        InvalidSessionException InvalidTableAlias InvalidTag InvalidTargetBucketForLogging
        InvalidTextEncoding InvalidWORMConfiguration LambdaARNInvalid LambdaARNNotFound
        LexerInvalidChar LexerInvalidIONLiteral LexerInvalidLiteral LexerInvalidOperator
        LikeInvalidInputs MalformedACLError MalformedDate MalformedPOSTRequest MalformedPolicy
        MalformedPolicyDocument MalformedTrailerError MalformedXML
        MaxPOSTPreDataLengthExceededError MaxPostPreDataLengthExceededError MaxVersionsExceeded
        MetadataTooLarge MissingArgument MissingAttachment MissingContentLength MissingContentMD5
        MissingFields MissingHeaders MissingParameter MissingRequestBodyError
        MissingRequiredParameter MissingSecurityElement NoLoggingStatusForKey
        NoSuchBucketLifecycle NoSuchBucketPolicy NoSuchCORSConfiguration NoSuchLifecycle
        NoSuchLifecycleConfiguration NoSuchMultiRegionAccessPoint NoSuchObjectLockConfiguration
        NoSuchTagSet NoSuchVersion NoSuchWebsite NoSuchWebsiteConfiguration NotDeviceOwnerError
        NotModified ObjectLockConfigurationNotFoundError ObjectNotAppendable ObjectParentIsFile
        ObjectSerializationConflict OpenIDNotEnabled OwnershipControlsNotFoundError
        ParseAsteriskIsNotAloneInSelectList ParseCannotMixSqbAndWildcardInSelectList
        ParseCastArity ParseEmptySelect ParseExpected2TokenTypes ParseExpectedArgumentDelimiter
        ParseExpectedDatePart ParseExpectedExpression ParseExpectedIdentForAlias
        ParseExpectedIdentForAt ParseExpectedIdentForGroupName ParseExpectedKeyword
        ParseExpectedLeftParenAfterCast ParseExpectedLeftParenBuiltinFunctionCall
        ParseExpectedLeftParenValueConstructor ParseExpectedMember ParseExpectedNumber
        ParseExpectedRightParenBuiltinFunctionCall ParseExpectedTokenType ParseExpectedTypeName
        ParseExpectedWhenClause ParseInvalidContextForWildcardInSelectList ParseInvalidTypeParam
        ParseMalformedJoin ParseMissingIdentAfterAt ParseNonUnaryAggregateFunctionCall
        ParseSelectMissingFrom ParseUnexpectedKeyword ParseUnexpectedOperator ParseUnexpectedTerm
        ParseUnexpectedToken ParseUnknownOperator ParseUnsupportedAlias
        ParseUnsupportedCallWithStar ParseUnsupportedCase ParseUnsupportedCaseClause
        ParseUnsupportedLiteralsGroupBy ParseUnsupportedSelect ParseUnsupportedSyntax
        ParseUnsupportedToken PermanentRedirectControlError PolicyInvalidName PolicyTooLarge
        PositionNotEqualToLength PostPolicyInvalidKeyName PreconditionFailed
        RemoteDestinationNotFoundError RemoteTargetNotVersionedError
        ReplicationConfigurationNotFoundError ReplicationDestinationMissingLockError
        ReplicationPermissionCheck ReplicationSourceNotVersionedError
        RequestHeaderSectionTooLarge RequestIsNotMultiPartContent RequestTorrentOfBucketError
        RestoreAlreadyInProgress STSIAMNotInitialized STSNotInitialized
        ServerSideEncryptionConfigurationNotFoundError TagPolicyException TokenCodeInvalidError
        TooManyAccessPoints TooManyBuckets TooManyIntermediateCAs
        TransitionStorageClassNotFoundError UnexpectedContent UnexpectedIPError
        UnsupportedArgument UnsupportedFunction UnsupportedNotification UnsupportedRangeHeader
        UnsupportedSignature UnsupportedSqlOperation UnsupportedSqlStructure UnsupportedSyntax
        UserKeyMustBeSpecified ValueParseFailure VersioningNotConfigured WebsiteRedirect
        XAdminAccessDenied XAdminInvalidArgument XAdminInvalidRequest XAdminMethodNotSupported
        XAdminUserExists XGCSInternalError XMinioAdminBucketRemoteAlreadyExists
        XMinioAdminBucketRemoteLabelInUse XMinioAdminConfigBadJSON XMinioAdminConfigDuplicateKeys
        XMinioAdminConfigEnvOverridden XMinioAdminConfigIDPCfgNameAlreadyExists
        XMinioAdminConfigIDPCfgNameDoesNotExist XMinioAdminConfigInvalidIDPType
        XMinioAdminConfigLDAPNonDefaultConfigName XMinioAdminConfigLDAPValidation
        XMinioAdminConfigNoQuorum XMinioAdminConfigTooLarge XMinioAdminGroupDisabled
        XMinioAdminGroupNotEmpty XMinioAdminInvalidAccessKey XMinioAdminInvalidArgument
        XMinioAdminInvalidSecretKey XMinioAdminNoAccessKey XMinioAdminNoSecretKey
        XMinioAdminNoSuchAccessKey XMinioAdminNoSuchConfigTarget XMinioAdminNoSuchGroup
        XMinioAdminNoSuchJob XMinioAdminNoSuchPolicy XMinioAdminNoSuchQuotaConfiguration
        XMinioAdminNoSuchUser XMinioAdminNotificationTargetsTestFailed
        XMinioAdminPolicyChangeAlreadyApplied XMinioAdminProfilerNotEnabled
        XMinioAdminRebalanceAlreadyStarted XMinioAdminRebalanceNotStarted
        XMinioAdminRemoteARNTypeInvalid XMinioAdminRemoteArnInvalid
        XMinioAdminRemoteIdenticalToSource XMinioAdminRemoteRemoveDisallowed
        XMinioAdminRemoteTargetDenyAdd XMinioAdminRemoteTargetNotFoundError
        XMinioAdminReplicationBandwidthLimitError XMinioAdminReplicationRemoteConnectionError
        XMinioEncryptionError XMinioHealAlreadyRunning XMinioHealInvalidClientToken
        XMinioHealMissingBucket XMinioHealNoSuchProcess XMinioHealNotImplemented
        XMinioHealOverlappingPaths XMinioInvalidDecompressedSize XMinioInvalidGroupName
        XMinioInvalidIAMCredentials XMinioInvalidLifecycleParameter XMinioInvalidResource
        XMinioInvalidResourceName XMinioInvalidUTF XMinioLDAPExpectedLoginName
        XMinioLDAPNotEnabled XMinioMalformedJSON XMinioObjectExistsAsDirectory
        XMinioObjectTampered XMinioPolicyAlreadyAttached XMinioPolicyNotAttached
        XMinioReplicationDenyEdit XMinioReplicationNoExistingObjects XMinioRequestBodyParse
        XMinioSiteReplicationBackendIssue XMinioSiteReplicationBucketConfigError
        XMinioSiteReplicationBucketMetaError XMinioSiteReplicationConfigMissingError
        XMinioSiteReplicationIAMConfigMismatch XMinioSiteReplicationIAMError
        XMinioSiteReplicationInvalidRequest XMinioSiteReplicationPeerResp
        XMinioSiteReplicationServiceAccountError""",
}
_CHECKSUMS = (
    "BadDigest",
    "InvalidDigest",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
)
_NETWORK_ERRNOS = {
    "refused": ["ECONNREFUSED"],
    "reset": ["ECONNRESET", "ECONNABORTED", "EPIPE", "ESHUTDOWN"],
    "timeout": ["ETIMEDOUT"],
    "unreachable": [
        "EACCES", "EADDRINUSE", "EADDRNOTAVAIL", "EAFNOSUPPORT", "EAGAIN", "EALREADY", "EBADF",
        "EHOSTDOWN", "EHOSTUNREACH", "EINPROGRESS", "EINTR", "EINVAL", "EIO", "EISCONN", "EMSGSIZE",
        "ENETDOWN", "ENETRESET", "ENETUNREACH", "ENOBUFS", "ENOPROTOOPT", "ENOTCONN",
        "ENOTSOCK", "EPERM", "EPROTO",
    ],
    "out_of_descriptors": ["EMFILE", "ENFILE"],
    "out_of_memory": ["ENOMEM"],
    "out_of_space": ["EDQUOT", "ENOSPC"],
}  # fmt: skip
_UNFORESEEN = {"unexpected_answer", "bug", "io_error"}


def flat(codes: Codes) -> list[tuple[str, Kind]]:
    return [(name, kind) for kind, names in codes.items() for name in names.split()]


# The tests below cover errors of gRPC.


class StubError(grpc.RpcError):  # type: ignore[misc]  # grpc has no types
    """The error that a gRPC stub raises."""

    def __init__(self, status: grpc.StatusCode, text: str = "", details: bytes = b"") -> None:
        self._status, self._text, self._details = status, text, details

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> Any:
        return (("grpc-status-details-bin", self._details),) if self._details else None


def test_every_grpc_code_is_in_the_list() -> None:
    assert {name for name, _ in flat(GRPC)} == {status.name for status in grpc.StatusCode} - {"OK"}


@pytest.mark.parametrize("call", ["ExchangeCredential", "CreateLogicalUpload", "CompleteUpload"])
@pytest.mark.parametrize(("name", "kind"), flat(GRPC))
def test_every_grpc_code_has_its_class(name: str, kind: Kind, call: str) -> None:
    judged(translated(call, StubError(grpc.StatusCode[name], "no"), ""), kind)


def test_every_code_of_the_platform_is_in_the_list() -> None:
    assert {name for name, _ in flat(AUTH)} == {_plain(name) for name in AuthErrorCode.keys()}  # noqa: SIM118 - no dict
    assert {name for name, _ in flat(GATEWAY)} == {
        _plain(name)
        for name in DataGatewayErrorCode.keys()  # noqa: SIM118 - no dict
    }


def _plain(name: str) -> str:
    return name.rpartition("ERROR_CODE_")[2]


@pytest.mark.parametrize("form", ["bare", "raw", "wrapped"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [(f"AUTH_ERROR_CODE_{name}", kind) for name, kind in flat(AUTH)]
    + [(f"DATA_GATEWAY_ERROR_CODE_{name}", kind) for name, kind in flat(GATEWAY)]
    + [(f"DATA_GATEWAY_{name}", kind) for name, kind in flat(ENROLMENT)],
)
def test_every_code_of_the_platform_has_its_class(name: str, kind: Kind, form: str) -> None:
    """Test a code bare in the text, in an ErrorDetail, and in a wrapped google.rpc.Status."""
    detail = ErrorDetail(code=name, message="no")
    packed = AnyMessage()
    packed.Pack(detail)
    inner = packed.SerializeToString()
    details = {
        "bare": b"",
        "raw": detail.SerializeToString(),
        "wrapped": b"\x08\x02\x1a" + bytes([len(inner)]) + inner,
    }
    text = f"{name}: no" if form == "bare" else "no"
    judged(
        translated(
            "CreateLogicalUpload", StubError(grpc.StatusCode.UNKNOWN, text, details[form]), ""
        ),
        kind,
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (
            (
                "failed to connect to all addresses; "
                "last error: UNKNOWN: ipv4:1.2.3.4:443: Connection refused"
            ),
            "refused",
        ),
        ("DNS resolution failed for x:443: C-ares status is not ARES_SUCCESS", "dns"),
        ("errors resolving x: [Domain name not found]", "dns"),
        (
            "Ssl handshake failed: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: unable to get issuer",
            "certificate",
        ),
        ("Ssl handshake failed: SSL_ERROR_SSL: WRONG_VERSION_NUMBER", "tls"),
        (
            "last error: INTERNAL: ipv4:127.0.0.1:10: socket: Too many open files",
            "out_of_descriptors",
        ),
        (
            "last error: INTERNAL: ipv4:127.0.0.1:10: socket: Cannot allocate memory",
            "out_of_memory",
        ),
        ("recvmsg:Connection reset by peer", "UNAVAILABLE"),
        ("Socket closed", "UNAVAILABLE"),
        ("GOAWAY received", "UNAVAILABLE"),
    ],
)
def test_what_grpc_calls_unavailable_is_told_apart(text: str, code: str) -> None:
    error = translated("CompleteUpload", StubError(grpc.StatusCode.UNAVAILABLE, text), "")
    assert error.code == code
    judged(error, "blocked" if code == "certificate" else "offline")


# The tests below cover the error responses of a store.


def answer(
    status: int, body: bytes = b"", content_type: str = "application/xml"
) -> urllib3.HTTPResponse:
    return urllib3.HTTPResponse(io.BytesIO(body), {"Content-Type": content_type}, status=status)


def as_error(code: str, form: str) -> bytes:
    return {
        "bare": f"<Error><Code>{code}</Code><Message>no</Message></Error>",
        "declared": f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code></Error>',
        "named": (
            '<Error xmlns="http://doc.oss-cn-hangzhou.aliyuncs.com">'
            f"\n<Code>\n {code}\n</Code>\n</Error>"
        ),
    }[form].encode()


@pytest.mark.parametrize(
    "content_type", ["application/xml", "text/xml; charset=utf-8", "text/plain"]
)
@pytest.mark.parametrize("form", ["bare", "declared", "named"])
@pytest.mark.parametrize("kind", S3)
def test_every_code_of_a_store_has_its_class(kind: Kind, form: str, content_type: str) -> None:
    for code in S3[kind].split():
        for status in (400, 403, 404, 409):
            error = response_error(
                "UploadPart", answer(status, as_error(code, form), content_type), str
            )
            judged(error, kind)
            assert error.status == status
        assert error.code == {"XAdminUserNotFound": "InvalidAccessKeyId"}.get(
            code, "checksum" if code in _CHECKSUMS else code
        )


def test_an_unknown_code_is_counted_and_the_store_being_away_where_its_status_says_so() -> None:
    judged(
        response_error("UploadPart", answer(400, as_error("FromTheFuture", "bare")), str), "counted"
    )
    judged(
        response_error("UploadPart", answer(503, as_error("FromTheFuture", "bare")), str), "offline"
    )


def test_no_code_stands_in_two_classes() -> None:
    names = [name for name, _ in flat(S3)]
    assert len(names) == len(set(names))


def test_every_code_of_the_table_stands_in_a_list() -> None:
    """A row that is added or moved needs a test that knows the row."""
    here = {
        "proxy",
        "profile_file",
        "storage_keys",
        "lying_server",
        "checksum",
        "InvalidResponse",
    } | _UNFORESEEN
    ways = {
        "dns",
        "unreachable",
        "refused",
        "reset",
        "timeout",
        "tls",
        "portal",
        "certificate",
        "no_http",
    }
    listed = (
        {name for codes in (GRPC, AUTH, GATEWAY, ENROLMENT, S3) for name, _ in flat(codes)}
        | ways
        | here
        | {*SHORTAGES}
    )
    assert {code for code in TABLE if not code.startswith("HTTP_")} - listed == set()


@pytest.mark.parametrize(
    "status", [status for status in range(300, 600) if status not in range(300, 400)]
)
def test_every_http_status_without_a_code_has_its_class(status: int) -> None:
    expected: Kind = "counted"
    if status in {407, 408, 421, 425, 429} or (status >= 500 and status != 507):
        expected = "offline"
    elif status in {401, 402, 403, 507}:
        expected = "blocked"
    judged(response_error("UploadPart", answer(status), str), expected)


@pytest.mark.parametrize("status", range(300, 400))
def test_every_redirect_has_its_class(status: int) -> None:
    # A redirect without a store's header comes from a captive portal.
    judged(response_error("UploadPart", answer(status), str), "offline")
    ours = urllib3.HTTPResponse(io.BytesIO(), {"x-amz-bucket-region": "eu-west-1"}, status=status)
    judged(response_error("UploadPart", ours, str), "blocked")


@pytest.mark.parametrize(
    "status", [status for status in range(400, 600) if status not in {413, 507}]
)
def test_every_http_status_in_html_is_the_store_away_or_a_portal(status: int) -> None:
    judged(
        response_error(
            "UploadPart", answer(status, b"<!doctype html><h1>no</h1>", "text/html"), str
        ),
        "offline",
    )


# The tests below cover requests without a response.


def wrappings(error: Exception) -> Iterator[Exception]:
    """Yield ``error`` bare, and in each form in which urllib3 wraps it."""
    pool = urllib3.HTTPConnectionPool("h")
    caused = exceptions.NewConnectionError(urllib3.connection.HTTPConnection("h"), "failed")
    caused.__cause__ = error
    yield error
    yield exceptions.MaxRetryError(pool, "/", error)
    yield exceptions.ProtocolError("Connection aborted.", error)
    yield exceptions.MaxRetryError(
        pool, "/", exceptions.ProtocolError("Connection aborted.", error)
    )
    yield exceptions.SSLError(error)
    yield exceptions.ProxyError("Unable to connect to proxy", error)
    yield exceptions.MaxRetryError(
        pool, "/", exceptions.ProxyError("Unable to connect to proxy", error)
    )
    yield caused
    yield exceptions.MaxRetryError(pool, "/", caused)


@pytest.mark.parametrize(
    ("code", "name"), [(code, name) for code, names in _NETWORK_ERRNOS.items() for name in names]
)
def test_every_errno_has_its_class_bare_and_wrapped(code: str, name: str) -> None:
    number = getattr(errno, name)
    for form in wrappings(OSError(number, os.strerror(number))):
        error = connection_error("UploadPart", form)
        assert (error.code, judge(error).kind) == (code, "offline"), form


@pytest.mark.parametrize("name", [name for name in dir(socket) if name.startswith("EAI_")])
def test_every_failed_look_up_is_dns_bare_and_wrapped(name: str) -> None:
    for form in wrappings(socket.gaierror(getattr(socket, name), "no such name")):
        judged(connection_error("UploadPart", form), "offline", "dns")


@pytest.mark.parametrize(
    "kind_of_error",
    [
        error
        for _, error in inspect.getmembers(ssl, inspect.isclass)
        if issubclass(error, ssl.SSLError)
        and error not in (ssl.SSLCertVerificationError, ssl.SSLEOFError)
    ],
)
def test_every_other_ssl_error_is_a_failed_handshake_bare_and_wrapped(
    kind_of_error: type[ssl.SSLError],
) -> None:
    for form in wrappings(kind_of_error(1, "no")):
        judged(connection_error("UploadPart", form), "offline", "tls")


def test_a_certificate_that_does_not_verify_blocks_bare_and_wrapped() -> None:
    for form in wrappings(ssl.SSLCertVerificationError(1, "certificate verify failed")):
        judged(connection_error("UploadPart", form), "blocked", "certificate")


@pytest.mark.parametrize(
    "error",
    [
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
        http.client.IncompleteRead(b""),
        http.client.RemoteDisconnected("closed"),
        http.client.ResponseNotReady(),
        http.client.CannotSendRequest(),
    ],
)
def test_every_answer_that_breaks_off_is_a_reset_bare_and_wrapped(error: Exception) -> None:
    for form in wrappings(error):
        judged(connection_error("UploadPart", form), "offline", "reset")


@pytest.mark.parametrize(
    "error",
    [
        http.client.BadStatusLine("x"),
        http.client.LineTooLong("header"),
        http.client.UnknownProtocol("HTTP/9"),
    ],
)
def test_every_answer_that_is_no_http_counts_only_where_others_pass_bare_and_wrapped(
    error: Exception,
) -> None:
    for form in wrappings(error):
        judged(connection_error("UploadPart", form), "counted", "no_http")


@pytest.mark.parametrize("lack", [MemoryError(), RuntimeError("can't start new thread")])
def test_every_lack_that_has_no_number_is_known_bare_and_wrapped(lack: Exception) -> None:
    for form in wrappings(lack):
        judged(
            connection_error("UploadPart", form),
            "offline",
            "out_of_memory" if isinstance(lack, MemoryError) else "out_of_threads",
        )


def test_a_lack_of_descriptors_in_a_call_is_known_before_it_leaves_the_border() -> None:
    with pytest.raises(CloudError) as raised, foreign("CreateLogicalUpload"):
        raise OSError(errno.EMFILE, "Too many open files", "library.py")
    judged(raised.value, "offline", "out_of_descriptors")


@pytest.mark.parametrize("call", ["CreateLogicalUpload", "UploadPart"])
def test_what_nobody_foresaw_is_an_error_of_its_call_and_quotes_nothing(call: str) -> None:
    with pytest.raises(CloudError) as raised, foreign(call):
        raise KeyError("a key that is secret")
    assert raised.value.call == call
    assert raised.value.message == f"{call}: unexpected_answer: KeyError"
    assert isinstance(raised.value.__cause__, KeyError)
    judged(raised.value, "counted", "unexpected_answer")


@pytest.mark.parametrize(
    "error",
    [errors.FileChangedError("touched"), errors.GateClosedError("closed"), OSError(5, "EIO")],
)
def test_errors_of_the_agent_and_of_files_pass_the_border_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, foreign("UploadPart"):
        raise error
    assert raised.value is error


_POOL = urllib3.HTTPConnectionPool("h")
_CONNECTION = urllib3.connection.HTTPConnection("h")
_URLLIB3: Mapping[str, tuple[Callable[[type[Any]], Exception], str]] = {
    "HTTPError": (lambda kind: kind("no"), "reset"),
    "PoolError": (lambda kind: kind(_POOL, "no"), "reset"),
    "RequestError": (lambda kind: kind(_POOL, "/", "no"), "reset"),
    "SSLError": (lambda kind: kind("no"), "tls"),
    "ProxyError": (lambda kind: kind("no", Exception()), "reset"),
    "DecodeError": (lambda kind: kind("no"), "reset"),
    "ProtocolError": (lambda kind: kind("no"), "reset"),
    "MaxRetryError": (lambda kind: kind(_POOL, "/"), "reset"),
    "HostChangedError": (lambda kind: kind(_POOL, "/"), "reset"),
    "TimeoutStateError": (lambda kind: kind("no"), "reset"),
    "TimeoutError": (lambda kind: kind("no"), "timeout"),
    "ReadTimeoutError": (lambda kind: kind(_POOL, "/", "no"), "timeout"),
    "ConnectTimeoutError": (lambda kind: kind("no"), "timeout"),
    "NewConnectionError": (lambda kind: kind(_CONNECTION, "no"), "unreachable"),
    "NameResolutionError": (lambda kind: kind("h", _CONNECTION, socket.gaierror(-2, "no")), "dns"),
    "EmptyPoolError": (lambda kind: kind(_POOL, "no"), "reset"),
    "FullPoolError": (lambda kind: kind(_POOL, "no"), "reset"),
    "ClosedPoolError": (lambda kind: kind(_POOL, "no"), "reset"),
    "LocationValueError": (lambda kind: kind("no"), "lying_server"),
    "LocationParseError": (lambda kind: kind("no"), "lying_server"),
    "URLSchemeUnknown": (lambda kind: kind("ftp"), "lying_server"),
    "ResponseError": (lambda kind: kind("no"), "reset"),
    "ResponseNotChunked": (lambda kind: kind("no"), "reset"),
    "BodyNotHttplibCompatible": (lambda kind: kind("no"), "reset"),
    "IncompleteRead": (lambda kind: kind(1, 2), "reset"),
    "InvalidChunkLength": (
        lambda kind: kind(urllib3.HTTPResponse(b""), b"zz"),
        "no_http",
    ),
    "InvalidHeader": (lambda kind: kind("no"), "no_http"),
    "ProxySchemeUnknown": (lambda kind: kind("ftp"), "lying_server"),
    "HeaderParsingError": (lambda kind: kind([], b""), "reset"),
    "UnrewindableBodyError": (lambda kind: kind("no"), "reset"),
}


_KINDS: Mapping[str, Kind] = {"lying_server": "blocked", "no_http": "counted"}


def test_every_exception_of_urllib3_is_in_the_list() -> None:
    known = {
        name
        for name, kind in inspect.getmembers(exceptions, inspect.isclass)
        if issubclass(kind, exceptions.HTTPError) and not issubclass(kind, Warning)
    }
    # ConnectionError is another name of ProtocolError in urllib3.
    assert known - {"ConnectionError"} == set(_URLLIB3)


@pytest.mark.parametrize("name", _URLLIB3)
def test_every_exception_of_urllib3_has_its_class_bare_and_wrapped(name: str) -> None:
    make, code = _URLLIB3[name]
    for form in (
        make(getattr(exceptions, name)),
        exceptions.MaxRetryError(_POOL, "/", make(getattr(exceptions, name))),
        exceptions.ProxyError("no", make(getattr(exceptions, name))),
    ):
        judged(connection_error("UploadPart", form), _KINDS.get(code, "offline"), code)


# The tests below cover the traits of single codes.

# What each code means that has any trait at all.
_TRAITS_OF: Mapping[str, str] = {
    "reset": "cut_connection stale_connection single_connection",
    "timeout": "single_connection",
    "no_http": "stale_connection single_connection no_store repeatable",
    "checksum": "repeatable wrong_bytes",
    "certificate": "tls clock_suspected",
    "tls": "tls",
    "RequestTimeTooSkewed": "clock_skew clock_suspected",
    "UNAUTHENTICATED": "token_refused",
    "AccessDenied": "lease_refused reading_refused",
    "HTTP_403": "lease_refused reading_refused",
    "MethodNotAllowed": "reading_refused",
    "NotImplemented": "reading_refused part_not_replaced",
    "storage_keys": "keys_refused",
    "SignatureDoesNotMatch": "keys_refused",
    "InvalidClientTokenId": "keys_refused",
    "NoSuchKey": "object_missing",
    "HTTP_404": "object_missing",
    "NoSuchUpload": "multipart_missing",
    "UPLOAD_NOT_FOUND": "session_unknown session_over",
    "UPLOAD_NOT_OWNED": "session_over",
    "UPLOAD_NOT_REFRESHABLE": "session_over",
    "FAILED_PRECONDITION": "session_over",
    "out_of_memory": "shortage own_memory",
    "out_of_threads": "shortage",
    "out_of_descriptors": "shortage",
    "out_of_space": "shortage",
    "bug": "unforeseen bug",
    "unexpected_answer": "unforeseen",
    "profile_file": "enrolment_impossible",
    "profile_unwritable": "enrolment_impossible",
    "DEVICE_ALREADY_INITIALIZED": "enrolment_impossible",
    "DEVICE_NOT_INITIALIZED": "enrolment_impossible",
    "INVALID_ARGUMENT": "enrolment_impossible",
    "damaged": "damaged_file",
    "gone": "file_replaced",
    "replaced": "file_replaced",
    "not_regular": "file_replaced",
    "not_in_root": "file_replaced",
    "sidecar_invalid": "sidecar_faulty sidecar_unusable",
    "sidecar_missing": "sidecar_faulty",
    "sidecar_unreadable": "sidecar_faulty sidecar_unusable",
    "tag_conflict": "sidecar_faulty",
    "tag_limit": "sidecar_faulty",
    "folder_missing": "folder_away",
    "compressing": "folder_away",
}


def test_every_code_has_exactly_the_traits_of_the_list() -> None:
    leases = {code for code, verdict in TABLE.items() if verdict.kind == "lease_lost"}
    expected = {code: set(traits.split()) for code, traits in _TRAITS_OF.items()}
    expected |= {code: {"lease_refused", "keys_refused"} for code in leases}
    found: dict[str, set[str]] = {}
    for trait, codes in TRAITS.items():
        for code in codes:
            found.setdefault(code, set()).add(trait)
    assert found == expected


def test_every_trait_has_its_codes_and_is_asked_for_somewhere() -> None:
    modules = [path for path in (REPOSITORY / "agent").rglob("*.py") if "pb" not in path.parts]
    source = "".join(path.read_text(encoding="utf-8") for path in modules)
    assert set(get_args(Trait)) == set(TRAITS)
    assert {trait for trait in TRAITS if f'means("{trait}")' not in source} == set()


def test_a_code_with_a_trait_is_in_the_table_or_is_raised_by_the_agent() -> None:
    table_file = REPOSITORY / "agent" / "model" / "error_table.py"
    modules = [
        path
        for path in (REPOSITORY / "agent").rglob("*.py")
        if "pb" not in path.parts and path != table_file
    ]
    source = "".join(path.read_text(encoding="utf-8") for path in modules)
    codes = frozenset().union(*TRAITS.values())
    assert {code for code in codes - set(TABLE) if f'"{code}"' not in source} == set()


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchKey"])
def test_an_error_and_the_fault_of_its_document_mean_the_same(code: str) -> None:
    error = CloudError("HeadObject", code)
    kept = errors.fault(error, "counted")
    for trait in TRAITS:
        assert error.means(trait) == kept.means(trait) == (trait in _TRAITS_OF[code].split())


# The tests below cover what the agent does after an error.

_OWN = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.AgentError) and kind not in {errors.AgentError, CloudError}
]


@pytest.mark.parametrize("code", TABLE)
def test_every_row_tells_the_operator_what_to_do(code: str) -> None:
    outcome = outcome_of(
        CloudError("UploadPart", code), attempts=1, max_attempts=5, others_passed=False
    )
    assert outcome.fault is not None
    assert len(outcome.fault.hint) > 20
    assert outcome.closes is None or outcome.closes.hint == outcome.fault.hint


@pytest.mark.parametrize("kind_of_error", _OWN)
def test_every_error_of_the_agent_that_ends_in_a_document_has_a_hint(
    kind_of_error: type[errors.AgentError],
) -> None:
    outcome = outcome_of(kind_of_error("no"), attempts=1, max_attempts=5, others_passed=False)
    assert outcome.fault is None or outcome.fault.hint or outcome.event == "blocked_alone"


def judged(error: CloudError, kind: Kind, code: str = "") -> None:
    verdict = judge(error)
    assert verdict.kind == kind, (error.code, verdict)
    assert verdict.hint
    assert error.code == (code or error.code)
