"""The table of errors: what follows from each code, and what a code tells the features.

``TABLE`` says for each code of a :class:`agent.model.errors.CloudError` whether it is tried again,
and what the operator can do. ``TRAITS`` says what else follows from single codes, those of the
agent's own errors included. Nothing else in the agent compares the code of an error: features ask
``error.means(TRAIT)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# What follows from an error: the cloud is away, something forbids every upload, the attempt counts,
# another attempt changes nothing, or the storage keys must be renewed.
Kind = Literal["offline", "blocked", "counted", "final", "lease_lost"]


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

# The verdict on a code that is not in the table, and the one where its HTTP status is 5xx.
UNKNOWN = Verdict("counted", _FAULTY)
STORE_AWAY = Verdict("offline", _STORE)

# The names of what single codes mean. ``TRAITS`` explains each of them.
Trait = Literal[
    "cut_connection",
    "stale_connection",
    "single_connection",
    "no_store",
    "repeatable",
    "wrong_bytes",
    "tls",
    "clock_skew",
    "clock_suspected",
    "token_refused",
    "lease_refused",
    "keys_refused",
    "reading_refused",
    "object_missing",
    "multipart_missing",
    "part_not_replaced",
    "session_unknown",
    "session_over",
    "shortage",
    "own_memory",
    "unforeseen",
    "bug",
    "enrolment_impossible",
    "damaged_file",
    "file_replaced",
    "sidecar_faulty",
    "sidecar_unusable",
    "folder_away",
]

TRAITS: Mapping[Trait, frozenset[str]] = {
    # The other side cut the connection. That does not say that too many parts are in flight.
    "cut_connection": frozenset({"reset"}),
    # A connection that was idle for long fails so. It says little about the cloud, and another
    # connection may work at once.
    "stale_connection": frozenset({"reset", "no_http"}),
    # One connection may fail so while others work.
    "single_connection": frozenset({"reset", "timeout", "no_http"}),
    # What answered at the store's address is no store.
    "no_store": frozenset({"no_http"}),
    # The call is repeated although the cloud is not away.
    "repeatable": frozenset({"checksum", "no_http"}),
    # Other bytes arrived than those of the recording.
    "wrong_bytes": frozenset({"checksum"}),
    # No encrypted connection could be made.
    "tls": frozenset({"certificate", "tls"}),
    # The store says that the time of the request differs from its own.
    "clock_skew": frozenset({"RequestTimeTooSkewed"}),
    # A wrong clock of this robot may be the cause.
    "clock_suspected": frozenset({"certificate", "RequestTimeTooSkewed"}),
    # The platform refuses the access token. A new one may be accepted.
    "token_refused": frozenset({"UNAUTHENTICATED"}),
    # The lease may have ended. Some stores say that by AccessDenied.
    "lease_refused": frozenset({*_LEASE_LOST, "AccessDenied", "HTTP_403"}),
    # The keys themselves are wrong, whatever the bucket is.
    "keys_refused": frozenset(
        {*_LEASE_LOST, "storage_keys", "SignatureDoesNotMatch", "InvalidClientTokenId"}
    ),
    # The store refuses to show an object, or to list multipart uploads and parts. Keys that may
    # only write get this for good, so an upload must do without the answer.
    "reading_refused": frozenset(
        {"AccessDenied", "HTTP_403", "NotImplemented", "MethodNotAllowed"}
    ),
    # Nothing lies under the key.
    "object_missing": frozenset({"NoSuchKey", "HTTP_404"}),
    # The multipart upload was completed or aborted, or never begun.
    "multipart_missing": frozenset({"NoSuchUpload"}),
    # The store does not replace a part that reached it damaged, as rclone's server does not.
    "part_not_replaced": frozenset({"NotImplemented"}),
    # The platform does not know the upload session.
    "session_unknown": frozenset({"UPLOAD_NOT_FOUND"}),
    # The platform gives no lease for the upload session any more.
    "session_over": frozenset(
        {"UPLOAD_NOT_FOUND", "UPLOAD_NOT_OWNED", "UPLOAD_NOT_REFRESHABLE", "FAILED_PRECONDITION"}
    ),
    # This robot lacks threads, memory, file descriptors or disk space.
    "shortage": frozenset(_SHORTAGES),
    # One recording may need more memory than others, for its sidecar for example. Every other
    # shortage is the same for all recordings.
    "own_memory": frozenset({"out_of_memory"}),
    # Only a traceback tells what happened.
    "unforeseen": frozenset({"bug", "unexpected_answer"}),
    # The agent itself has a fault.
    "bug": frozenset({"bug"}),
    # Another request for this robot's key fails in the same way.
    "enrolment_impossible": frozenset(
        {
            "profile_file",
            "profile_unwritable",
            "DEVICE_ALREADY_INITIALIZED",
            "DEVICE_NOT_INITIALIZED",
            "INVALID_ARGUMENT",
        }
    ),
    # The file is no complete MCAP and was never queued.
    "damaged_file": frozenset({"damaged"}),
    # The file of the document is not the one that lies there now.
    "file_replaced": frozenset({"gone", "replaced", "not_regular", "not_in_root"}),
    # Another sidecar or another file name may mend this.
    "sidecar_faulty": frozenset(
        {"sidecar_invalid", "sidecar_missing", "sidecar_unreadable", "tag_conflict", "tag_limit"}
    ),
    # The sidecar can't be used as it is. The recording can be sent without it.
    "sidecar_unusable": frozenset({"sidecar_invalid", "sidecar_unreadable"}),
    # This is over as soon as the recording is found again.
    "folder_away": frozenset({"folder_missing", "compressing"}),
}


def has_trait(code: str, trait: Trait) -> bool:
    """Return whether an error with this ``code`` means what ``trait`` names."""
    return code in TRAITS[trait]
