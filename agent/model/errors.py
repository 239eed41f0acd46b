"""The errors of the agent, and what follows from each.

AgentError                  message for people, and a hint what to do
├── CloudError              a call to the platform or the store failed. ``judge`` says what follows
├── RecordingError          the recording itself is wrong. Final
├── WaitingError            this recording alone waits for something (its asset id, its profile)
├── FileChangedError        the file is not what was announced. The upload finds out how
├── GateClosedError         nothing may be sent now
├── SessionLostError        the platform does not know the session any more
├── SetupError              the agent cannot work by this configuration
├── RefusedError            the operator asked for something impossible
├── NotRunningError         no agent runs
├── HistoryFullError        the disk is too full to write an intent down
└── HistoryLockedError      another agent works in this state folder

Adapters raise :class:`CloudError` with a code of the table below. Features raise the others. No
code tells errors apart by their text.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.sync_log import Fault, Kind
from agent.model.values import utc_text

# Takes the place of a call's name if an upload as a whole failed or succeeded.
WHOLE = ""


class AgentError(Exception):
    """The base of all errors that the agent raises on purpose.

    ``code`` names the error for programs. ``hint`` says what the operator can do.
    """

    code = "error"
    hint = ""

    def __init__(self, message: str, *, code: str = "", hint: str = "") -> None:
        """Take texts for the operator, ``message`` and ``hint``, which must not hold a secret."""
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.hint = hint or self.hint


class CloudError(AgentError):
    """A call to the platform or the store failed.

    ``code`` is a key of the table below. It is the platform's error code without its prefix, the
    gRPC code, the S3 code, or ``HTTP_<status>``. If the call did not get an answer, the code says
    what happened on the network: dns, unreachable, refused, reset, timeout, tls, certificate,
    proxy, portal, no_http, checksum. If something is missing on this robot, it is profile_file,
    storage_keys, out_of_threads, out_of_memory, out_of_descriptors or out_of_space. The codes
    unexpected_answer, bug and io_error stand for unexpected errors.
    """

    def __init__(
        self,
        call: str,
        code: str,
        message: str = "",
        *,
        status: int = 0,
        retry_after: float = 0.0,
        server_time: float | None = None,
    ) -> None:
        """Name what failed.

        Args:
            call: The RPC or S3 operation, or WHOLE if no single call is the cause.
            code: A code as in the description of the class.
            message: The server's words, or "".
            status: The HTTP status, or 0.
            retry_after: How many seconds the server asks to wait.
            server_time: The Date of the answer, in seconds since 1970.
        """
        # The message comes from a server. Control characters in it could damage a terminal.
        printable = "".join(letter if letter.isprintable() else "?" for letter in message)
        text = ": ".join(filter(None, (call, code if call else "", printable)))
        super().__init__(text or code, code=code)
        self.call = call
        self.status = status
        self.retry_after = retry_after
        self.server_time = server_time


class RecordingError(AgentError):
    """The recording itself cannot be uploaded. Another try changes nothing."""

    hint = "correct the recording or its sidecar"


class WaitingError(AgentError):
    """This recording alone waits for something that the operator sets on this robot."""


class FileChangedError(AgentError):
    """The file has changed while it was uploaded, or a program still writes to it.

    A read came up short, or the store received other bytes than were announced.
    """

    code = "file_changed"

    def __init__(self, message: str, *, wait_seconds: float = 0.0) -> None:
        """Wait ``wait_seconds`` before the next try, or, if 0, as long as a file must settle."""
        super().__init__(message)
        self.wait_seconds = wait_seconds


class GateClosedError(AgentError):
    """The gate is closed. ``message`` is the reason."""

    code = "gate_closed"


class SessionLostError(AgentError):
    """The platform does not know the upload session any more, or gave it up."""

    code = "session_lost"
    hint = "nothing to do on the robot: the agent begins a new session by itself"


class SetupError(AgentError):
    """A part of the agent cannot be built from its settings."""

    code = "setup"
    hint = "correct the configuration, then start the agent again"


class RefusedError(AgentError):
    """An operator's request is refused. The same request will be refused again."""

    code = "refused"
    hint = "the message says what is wrong with it"


class NotRunningError(AgentError):
    """No agent runs on this robot, or it has just stopped."""

    code = "not_running"
    hint = "start the agent"


class HistoryFullError(AgentError):
    """Not even the disk space reserved for the history is left."""

    code = "disk_full"
    hint = "free disk space; the agent goes on by itself"


class HistoryLockedError(AgentError):
    """Another agent works in the same state folder."""

    code = "locked"
    hint = "stop the other agent, or give this one its own agent.state_dir"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an error of the cloud means for the recording, and what the operator can do."""

    kind: Kind
    hint: str


# Hints that several codes share.
_NETWORK = "check the robot's network; the agent goes on by itself"
_PROXY = "check cloud.proxy and the robot's network; the agent goes on by itself"
_PLATFORM = "nothing to do on the robot: the platform is unavailable; the agent goes on by itself"
_STORE = "nothing to do on the robot: the store is unavailable; the agent goes on by itself"
_KEY = "ask the platform's administrator about this device's key"
_PERMISSION = "ask the administrator of the platform or bucket for permission to upload"
_CLOCK = "set this robot's clock"
_CERTIFICATE = "check cloud.tls_ca_file and this robot's clock"
_BUCKET = "ask the administrator of the platform or bucket whether the bucket is there"
_QUOTA = "ask the administrator of the platform or bucket for more space in the bucket"
_HAS_KEY = (
    "its key exists already: restore the device profile file that holds it, or ask the platform's"
    " administrator; keystone-agent enroll --rotate makes a new key, and the old one stops working"
)
_HAS_NO_KEY = (
    "it was never enrolled: keystone-agent enroll, without --rotate; or name another device by"
    " --device-id"
)
_LEASE = "the agent fetches new storage credentials by itself"
_FAULTY = "the recording could not be stored; look into the log"
_ACCOUNT = (
    "ask the administrator of the platform or bucket: the store's account or bucket is closed or"
    " not paid for"
)
_ADDRESS = (
    "ask the administrator of the platform or bucket: the store wants another endpoint, region or"
    " kind of address"
)
_ENCRYPTION = (
    "ask the administrator of the platform or bucket: the bucket's encryption key or storage class"
    " can't be used"
)
_OLD = (
    "ask the administrator of the platform or bucket: the store or the platform lacks something"
    " that this agent needs"
)
_SESSION = (
    "nothing to do on the robot: the agent asks the platform how far the upload came, and goes on"
    " from there"
)
_TROUBLE = "tell the platform's administrator if it goes on; the agent tries again by itself"
_UNCLEAR = "look into the log and report what it says; the agent tries again by itself"
_NO_HTTP = (
    "something that is no store answers at the store's address: check the endpoint, cloud.proxy and"
    " the robot's network; the agent tries again by itself"
)
_FILE = (
    "check this robot's disk, and the rights of the agent's user; the agent tries again by itself"
)
_SHORTAGES = {
    "out_of_threads": (
        "end other programs, or raise TasksMax of the agent's service; the agent goes on by itself"
    ),
    "out_of_memory": (
        "end other programs, or give the agent's service more memory; the agent goes on by itself"
    ),
    "out_of_descriptors": (
        "see which program keeps so many files open, or raise LimitNOFILE of the agent's service;"
        " the agent goes on by itself"
    ),
    "out_of_space": "free disk space; the agent goes on by itself",
}

_OFFLINE_NETWORK = ("dns", "unreachable", "refused", "reset", "timeout", "tls", "portal")
_OFFLINE_PLATFORM = (
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "STS_UNAVAILABLE",
    "CANCELLED",
)
_OFFLINE_STORE = (
    "ServiceUnavailable", "SlowDown", "SlowDownRead", "SlowDownWrite", "InternalError",
    "RequestTimeout", "ServerBusy",
    "OperationAborted", "ConditionalRequestConflict", "IncompleteBody", "ClientDisconnected",
    "ResponseInterrupted",
    "TemporaryRedirect", "Redirect", "Throttling", "ThrottlingException", "TooManyRequests",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded", "UploadTrafficRateLimitExceeded", "DownloadTrafficRateLimitExceeded",
    "QpsLimitExceeded",
    "TotalQpsLimitExceeded", "MetaOperationQpsLimitExceeded", "PartitionQpsLimitted",
    "ActiveRequestLimitExceeded",
    "CpuLimitExceeded", "ServerNotInitialized", "XMinioServerNotInitialized",
    "XMinioIAMNotInitialized",
    "XMinioBucketMetadataNotInitialized", "XMinioBackendDown", "HTTP_408", "HTTP_421", "HTTP_425",
    "HTTP_429",
)  # fmt: skip
_LEASE_LOST = (
    "ExpiredToken", "ExpiredTokenException", "SecurityTokenExpired", "InvalidToken",
    "InvalidTokenId",
    "InvalidSecurityToken", "InvalidAccessKeyId", "TokenRefreshRequired", "RequestExpired",
)  # fmt: skip
_BLOCKED = {
    _KEY: (
        "INVALID_CREDENTIAL", "KEY_DISABLED", "KEY_EXPIRED", "SITE_DISABLED", "UNAUTHENTICATED",
        "InvalidClientTokenId",
    ),
    _PERMISSION: (
        "PERMISSION_DENIED", "AccessDenied", "AccessForbidden", "SignatureDoesNotMatch",
        "InvalidSignature",
        "UnauthorizedAccess", "UnauthorizedAccessError", "MissingSecurityHeader",
        "MissingAuthenticationToken",
        "HTTP_401", "HTTP_403",
    ),
    _ACCOUNT: (
        "AllAccessDisabled", "AccountProblem", "NotSignedUp", "UserDisable", "UserSuspended",
        "AbnormalBucketOwnerStatus", "HTTP_402",
    ),
    _BUCKET: ("NoSuchBucket", "InvalidBucketName", "NoSuchAccessPoint", "InvalidBucketState"),
    _ADDRESS: (
        "PermanentRedirect", "HTTP_301", "AuthorizationHeaderMalformed", "InvalidRegion",
        "EndpointNotFound",
        "IllegalLocationConstraintException", "IncorrectEndpoint", "InvalidHostHeader",
        "SecondLevelDomainForbidden",
    ),
    _ENCRYPTION: (
        "KMS.DisabledException", "KMS.InvalidKeyUsageException", "KMS.KMSInvalidStateException",
        "KMS.NotFoundException", "KmsServiceNotEnabled", "InvalidEncryptionAlgorithmError",
        "InvalidStorageClass",
        "XMinioInsecureClientRequest",
    ),
    _QUOTA: (
        "QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull", "StorageFull",
        "InsufficientStorage",
        "HTTP_507",
    ),
    _CERTIFICATE: ("certificate",),
    _HAS_KEY: ("DEVICE_ALREADY_INITIALIZED",),
    _HAS_NO_KEY: ("DEVICE_NOT_INITIALIZED",),
    _CLOCK: ("RequestTimeTooSkewed",),
    "correct bucket.credentials and what it reads; the agent tries again by itself": (
        "storage_keys",
    ),
    "correct the device profile file (cloud.dp_config); the agent notices by itself": (
        "profile_file",
    ),
    "ask the platform's administrator: the answer contradicts the session": ("lying_server",),
}  # fmt: skip
_COUNTED = {
    "the network or this robot's memory damages data; it is sent again": ("checksum",),
    _SESSION: (
        "UPLOAD_NOT_FOUND", "UPLOAD_NOT_OWNED", "UPLOAD_NOT_REFRESHABLE", "FAILED_PRECONDITION",
        "ABORTED",
        "ALREADY_EXISTS", "NoSuchUpload", "InvalidPart", "InvalidPartOrder", "NoSuchKey",
        "HTTP_404",
    ),
    _TROUBLE: ("INTERNAL_ERROR", "INTERNAL", "UNKNOWN", "DATA_LOSS", "InvalidResponse"),
    _NO_HTTP: ("no_http",),
    _UNCLEAR: ("unexpected_answer", "bug"),
    _FILE: ("io_error",),
    _OLD: ("UNIMPLEMENTED", "NotImplemented", "MethodNotAllowed", "HTTP_405"),
    "ask the administrator of the platform or bucket for parts of another size": (
        "EntityTooSmall", "MaxMessageLengthExceeded", "HTTP_413",
    ),
    "rename the recording: the store refuses its name": (
        "KeyTooLongError", "InvalidObjectName", "XMinioInvalidObjectName", "InvalidURI", "HTTP_414",
    ),
}  # fmt: skip
_FINAL = {
    "INVALID_ARGUMENT": (
        "the platform refuses what the recording or its sidecar says: see the message"
    ),
    "EntityTooLarge": "the store refuses a file of this size",
}

TABLE: dict[str, Verdict] = {
    **{code: Verdict("offline", _NETWORK) for code in _OFFLINE_NETWORK},
    "proxy": Verdict("offline", _PROXY),
    **{code: Verdict("offline", _PLATFORM) for code in _OFFLINE_PLATFORM},
    **{code: Verdict("offline", _STORE) for code in _OFFLINE_STORE},
    **{code: Verdict("offline", hint) for code, hint in _SHORTAGES.items()},
    **{code: Verdict("lease_lost", _LEASE) for code in _LEASE_LOST},
    **{code: Verdict("blocked", hint) for hint, codes in _BLOCKED.items() for code in codes},
    **{code: Verdict("counted", hint) for hint, codes in _COUNTED.items() for code in codes},
    **{code: Verdict("final", hint) for code, hint in _FINAL.items()},
}

# The verdict on a code that is not in the table.
_UNKNOWN = Verdict("counted", _FAULTY)

# Errors that a wrong clock of this robot may cause.
_BY_CLOCK = frozenset({"certificate", "RequestTimeTooSkewed"})


def judge(error: CloudError) -> Verdict:
    """Return what ``error`` means.

    Each HTTP status 5xx means that the store is unavailable. Any other code that is not in the
    table is counted as an attempt.
    """
    known = TABLE.get(error.code)
    if known is not None:
        return known
    if error.status >= 500:
        return Verdict("offline", _STORE)
    return _UNKNOWN


def blame_clock(error: Exception, now: float, built: float) -> None:
    """Say in the hint of ``error`` that this robot's clock is wrong, if that may be the cause.

    The cause of a certificate that is not valid yet, or of a signature from another time, is mostly
    the robot's clock. ``now`` is its time, ``built`` is the build date. Both are in seconds since
    1970.
    """
    if isinstance(error, CloudError) and error.code in _BY_CLOCK and now < built:
        error.hint = f"this robot's clock says {utc_text(now)}: set it; the agent goes on by itself"


def fault(error: AgentError, kind: Kind, hint: str = "") -> Fault:
    """Return ``error`` as a document keeps it.

    Its own hint goes before ``hint``, and ``hint`` before that of the table.
    """
    advice = error.hint or hint
    if not advice and isinstance(error, CloudError):
        advice = judge(error).hint
    return Fault(kind, error.code, error.message, advice)
