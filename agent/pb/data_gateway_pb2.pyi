from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UploadRecoveryAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPLOAD_RECOVERY_ACTION_UNSPECIFIED: _ClassVar[UploadRecoveryAction]
    UPLOAD_RECOVERY_ACTION_CONTINUE: _ClassVar[UploadRecoveryAction]
    UPLOAD_RECOVERY_ACTION_COMPLETE_ONLY: _ClassVar[UploadRecoveryAction]
    UPLOAD_RECOVERY_ACTION_RESTART: _ClassVar[UploadRecoveryAction]
    UPLOAD_RECOVERY_ACTION_ABORT: _ClassVar[UploadRecoveryAction]

class LogicalUploadStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOGICAL_UPLOAD_STATUS_UNSPECIFIED: _ClassVar[LogicalUploadStatus]
    LOGICAL_UPLOAD_STATUS_ACTIVE: _ClassVar[LogicalUploadStatus]
    LOGICAL_UPLOAD_STATUS_COMPLETING: _ClassVar[LogicalUploadStatus]
    LOGICAL_UPLOAD_STATUS_COMPLETED: _ClassVar[LogicalUploadStatus]
    LOGICAL_UPLOAD_STATUS_TERMINAL: _ClassVar[LogicalUploadStatus]

class DataGatewayErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_GATEWAY_ERROR_CODE_UNSPECIFIED: _ClassVar[DataGatewayErrorCode]
    DATA_GATEWAY_ERROR_CODE_UNAUTHENTICATED: _ClassVar[DataGatewayErrorCode]
    DATA_GATEWAY_ERROR_CODE_UPLOAD_NOT_FOUND: _ClassVar[DataGatewayErrorCode]
    DATA_GATEWAY_ERROR_CODE_UPLOAD_NOT_OWNED: _ClassVar[DataGatewayErrorCode]
    DATA_GATEWAY_ERROR_CODE_UPLOAD_NOT_REFRESHABLE: _ClassVar[DataGatewayErrorCode]
    DATA_GATEWAY_ERROR_CODE_INVALID_ARGUMENT: _ClassVar[DataGatewayErrorCode]
    DATA_GATEWAY_ERROR_CODE_FAILED_PRECONDITION: _ClassVar[DataGatewayErrorCode]
    DATA_GATEWAY_ERROR_CODE_STS_UNAVAILABLE: _ClassVar[DataGatewayErrorCode]
    DATA_GATEWAY_ERROR_CODE_INTERNAL_ERROR: _ClassVar[DataGatewayErrorCode]
UPLOAD_RECOVERY_ACTION_UNSPECIFIED: UploadRecoveryAction
UPLOAD_RECOVERY_ACTION_CONTINUE: UploadRecoveryAction
UPLOAD_RECOVERY_ACTION_COMPLETE_ONLY: UploadRecoveryAction
UPLOAD_RECOVERY_ACTION_RESTART: UploadRecoveryAction
UPLOAD_RECOVERY_ACTION_ABORT: UploadRecoveryAction
LOGICAL_UPLOAD_STATUS_UNSPECIFIED: LogicalUploadStatus
LOGICAL_UPLOAD_STATUS_ACTIVE: LogicalUploadStatus
LOGICAL_UPLOAD_STATUS_COMPLETING: LogicalUploadStatus
LOGICAL_UPLOAD_STATUS_COMPLETED: LogicalUploadStatus
LOGICAL_UPLOAD_STATUS_TERMINAL: LogicalUploadStatus
DATA_GATEWAY_ERROR_CODE_UNSPECIFIED: DataGatewayErrorCode
DATA_GATEWAY_ERROR_CODE_UNAUTHENTICATED: DataGatewayErrorCode
DATA_GATEWAY_ERROR_CODE_UPLOAD_NOT_FOUND: DataGatewayErrorCode
DATA_GATEWAY_ERROR_CODE_UPLOAD_NOT_OWNED: DataGatewayErrorCode
DATA_GATEWAY_ERROR_CODE_UPLOAD_NOT_REFRESHABLE: DataGatewayErrorCode
DATA_GATEWAY_ERROR_CODE_INVALID_ARGUMENT: DataGatewayErrorCode
DATA_GATEWAY_ERROR_CODE_FAILED_PRECONDITION: DataGatewayErrorCode
DATA_GATEWAY_ERROR_CODE_STS_UNAVAILABLE: DataGatewayErrorCode
DATA_GATEWAY_ERROR_CODE_INTERNAL_ERROR: DataGatewayErrorCode

class UploadCredentials(_message.Message):
    __slots__ = ("bucket", "endpoint", "object_key", "sts_access_key_id", "sts_access_key_secret", "sts_security_token", "sts_expire_at_unix", "part_size_bytes", "object_store_backend", "object_store_region")
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    OBJECT_KEY_FIELD_NUMBER: _ClassVar[int]
    STS_ACCESS_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    STS_ACCESS_KEY_SECRET_FIELD_NUMBER: _ClassVar[int]
    STS_SECURITY_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STS_EXPIRE_AT_UNIX_FIELD_NUMBER: _ClassVar[int]
    PART_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OBJECT_STORE_BACKEND_FIELD_NUMBER: _ClassVar[int]
    OBJECT_STORE_REGION_FIELD_NUMBER: _ClassVar[int]
    bucket: str
    endpoint: str
    object_key: str
    sts_access_key_id: str
    sts_access_key_secret: str
    sts_security_token: str
    sts_expire_at_unix: int
    part_size_bytes: int
    object_store_backend: str
    object_store_region: str
    def __init__(self, bucket: _Optional[str] = ..., endpoint: _Optional[str] = ..., object_key: _Optional[str] = ..., sts_access_key_id: _Optional[str] = ..., sts_access_key_secret: _Optional[str] = ..., sts_security_token: _Optional[str] = ..., sts_expire_at_unix: _Optional[int] = ..., part_size_bytes: _Optional[int] = ..., object_store_backend: _Optional[str] = ..., object_store_region: _Optional[str] = ...) -> None: ...

class CreateLogicalUploadRequest(_message.Message):
    __slots__ = ("client_hints", "restart_from_upload_id")
    class ClientHintsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CLIENT_HINTS_FIELD_NUMBER: _ClassVar[int]
    RESTART_FROM_UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    client_hints: _containers.ScalarMap[str, str]
    restart_from_upload_id: str
    def __init__(self, client_hints: _Optional[_Mapping[str, str]] = ..., restart_from_upload_id: _Optional[str] = ...) -> None: ...

class CreateLogicalUploadResponse(_message.Message):
    __slots__ = ("logical_upload_id", "upload_id", "credentials")
    LOGICAL_UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    logical_upload_id: str
    upload_id: str
    credentials: UploadCredentials
    def __init__(self, logical_upload_id: _Optional[str] = ..., upload_id: _Optional[str] = ..., credentials: _Optional[_Union[UploadCredentials, _Mapping]] = ...) -> None: ...

class GetUploadRecoveryRequest(_message.Message):
    __slots__ = ("logical_upload_id",)
    LOGICAL_UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    logical_upload_id: str
    def __init__(self, logical_upload_id: _Optional[str] = ...) -> None: ...

class GetUploadRecoveryResponse(_message.Message):
    __slots__ = ("logical_upload_id", "logical_upload_status", "current_upload_id", "bucket", "endpoint", "object_key", "can_refresh_credentials", "restart_allowed", "terminal_reason", "credential_refresh_count", "session_expire_at_unix", "next_action", "completed_part_count", "oss_object_etag")
    LOGICAL_UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    LOGICAL_UPLOAD_STATUS_FIELD_NUMBER: _ClassVar[int]
    CURRENT_UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    OBJECT_KEY_FIELD_NUMBER: _ClassVar[int]
    CAN_REFRESH_CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    RESTART_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_REASON_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_REFRESH_COUNT_FIELD_NUMBER: _ClassVar[int]
    SESSION_EXPIRE_AT_UNIX_FIELD_NUMBER: _ClassVar[int]
    NEXT_ACTION_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_PART_COUNT_FIELD_NUMBER: _ClassVar[int]
    OSS_OBJECT_ETAG_FIELD_NUMBER: _ClassVar[int]
    logical_upload_id: str
    logical_upload_status: LogicalUploadStatus
    current_upload_id: str
    bucket: str
    endpoint: str
    object_key: str
    can_refresh_credentials: bool
    restart_allowed: bool
    terminal_reason: str
    credential_refresh_count: int
    session_expire_at_unix: int
    next_action: UploadRecoveryAction
    completed_part_count: int
    oss_object_etag: str
    def __init__(self, logical_upload_id: _Optional[str] = ..., logical_upload_status: _Optional[_Union[LogicalUploadStatus, str]] = ..., current_upload_id: _Optional[str] = ..., bucket: _Optional[str] = ..., endpoint: _Optional[str] = ..., object_key: _Optional[str] = ..., can_refresh_credentials: _Optional[bool] = ..., restart_allowed: _Optional[bool] = ..., terminal_reason: _Optional[str] = ..., credential_refresh_count: _Optional[int] = ..., session_expire_at_unix: _Optional[int] = ..., next_action: _Optional[_Union[UploadRecoveryAction, str]] = ..., completed_part_count: _Optional[int] = ..., oss_object_etag: _Optional[str] = ...) -> None: ...

class ReissueUploadCredentialsRequest(_message.Message):
    __slots__ = ("upload_id",)
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    def __init__(self, upload_id: _Optional[str] = ...) -> None: ...

class ReissueUploadCredentialsResponse(_message.Message):
    __slots__ = ("logical_upload_id", "upload_id", "credentials")
    LOGICAL_UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    logical_upload_id: str
    upload_id: str
    credentials: UploadCredentials
    def __init__(self, logical_upload_id: _Optional[str] = ..., upload_id: _Optional[str] = ..., credentials: _Optional[_Union[UploadCredentials, _Mapping]] = ...) -> None: ...

class AbortUploadRequest(_message.Message):
    __slots__ = ("logical_upload_id", "reason")
    LOGICAL_UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    logical_upload_id: str
    reason: str
    def __init__(self, logical_upload_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class AbortUploadResponse(_message.Message):
    __slots__ = ("logical_upload_id", "upload_id")
    LOGICAL_UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    logical_upload_id: str
    upload_id: str
    def __init__(self, logical_upload_id: _Optional[str] = ..., upload_id: _Optional[str] = ...) -> None: ...

class CompleteUploadRequest(_message.Message):
    __slots__ = ("upload_id", "file_size", "raw_tags", "completed_part_count", "oss_object_etag", "part_size_bytes")
    class RawTagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_SIZE_FIELD_NUMBER: _ClassVar[int]
    RAW_TAGS_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_PART_COUNT_FIELD_NUMBER: _ClassVar[int]
    OSS_OBJECT_ETAG_FIELD_NUMBER: _ClassVar[int]
    PART_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    file_size: int
    raw_tags: _containers.ScalarMap[str, str]
    completed_part_count: int
    oss_object_etag: str
    part_size_bytes: int
    def __init__(self, upload_id: _Optional[str] = ..., file_size: _Optional[int] = ..., raw_tags: _Optional[_Mapping[str, str]] = ..., completed_part_count: _Optional[int] = ..., oss_object_etag: _Optional[str] = ..., part_size_bytes: _Optional[int] = ...) -> None: ...

class CompleteUploadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InitDeviceRequest(_message.Message):
    __slots__ = ("device_id", "sdk_version", "platform")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SDK_VERSION_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    sdk_version: str
    platform: str
    def __init__(self, device_id: _Optional[str] = ..., sdk_version: _Optional[str] = ..., platform: _Optional[str] = ...) -> None: ...

class ReinitDeviceRequest(_message.Message):
    __slots__ = ("device_id", "sdk_version", "platform")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    SDK_VERSION_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    sdk_version: str
    platform: str
    def __init__(self, device_id: _Optional[str] = ..., sdk_version: _Optional[str] = ..., platform: _Optional[str] = ...) -> None: ...

class InitDeviceResponse(_message.Message):
    __slots__ = ("api_key", "tags")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    api_key: str
    tags: _containers.ScalarMap[str, str]
    def __init__(self, api_key: _Optional[str] = ..., tags: _Optional[_Mapping[str, str]] = ...) -> None: ...
