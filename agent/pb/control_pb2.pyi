from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AskStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ASK_STATUS_UNSPECIFIED: _ClassVar[AskStatus]
    ASK_STATUS_ACCEPTED: _ClassVar[AskStatus]
    ASK_STATUS_ALREADY_QUEUED: _ClassVar[AskStatus]
    ASK_STATUS_NOT_FOUND: _ClassVar[AskStatus]
    ASK_STATUS_REJECTED: _ClassVar[AskStatus]
ASK_STATUS_UNSPECIFIED: AskStatus
ASK_STATUS_ACCEPTED: AskStatus
ASK_STATUS_ALREADY_QUEUED: AskStatus
ASK_STATUS_NOT_FOUND: AskStatus
ASK_STATUS_REJECTED: AskStatus

class StatusRequest(_message.Message):
    __slots__ = ("interval_seconds",)
    INTERVAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    interval_seconds: float
    def __init__(self, interval_seconds: _Optional[float] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("document",)
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    document: str
    def __init__(self, document: _Optional[str] = ...) -> None: ...

class ResyncRequest(_message.Message):
    __slots__ = ("targets", "reason", "failed", "error_code")
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    ERROR_CODE_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedScalarFieldContainer[bytes]
    reason: str
    failed: bool
    error_code: str
    def __init__(self, targets: _Optional[_Iterable[bytes]] = ..., reason: _Optional[str] = ..., failed: _Optional[bool] = ..., error_code: _Optional[str] = ...) -> None: ...

class FirstRequest(_message.Message):
    __slots__ = ("targets",)
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, targets: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AskReply(_message.Message):
    __slots__ = ("items",)
    class Item(_message.Message):
        __slots__ = ("target", "episode_id", "status", "message")
        TARGET_FIELD_NUMBER: _ClassVar[int]
        EPISODE_ID_FIELD_NUMBER: _ClassVar[int]
        STATUS_FIELD_NUMBER: _ClassVar[int]
        MESSAGE_FIELD_NUMBER: _ClassVar[int]
        target: bytes
        episode_id: str
        status: AskStatus
        message: str
        def __init__(self, target: _Optional[bytes] = ..., episode_id: _Optional[str] = ..., status: _Optional[_Union[AskStatus, str]] = ..., message: _Optional[str] = ...) -> None: ...
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[AskReply.Item]
    def __init__(self, items: _Optional[_Iterable[_Union[AskReply.Item, _Mapping]]] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PauseReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RescanRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RescanReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAssetsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListAssetsReply(_message.Message):
    __slots__ = ("assets",)
    class AssetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ASSETS_FIELD_NUMBER: _ClassVar[int]
    assets: _containers.ScalarMap[str, str]
    def __init__(self, assets: _Optional[_Mapping[str, str]] = ...) -> None: ...

class SetAssetRequest(_message.Message):
    __slots__ = ("robot", "asset")
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    ASSET_FIELD_NUMBER: _ClassVar[int]
    robot: str
    asset: str
    def __init__(self, robot: _Optional[str] = ..., asset: _Optional[str] = ...) -> None: ...

class SetAssetReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UnsetAssetRequest(_message.Message):
    __slots__ = ("robot",)
    ROBOT_FIELD_NUMBER: _ClassVar[int]
    robot: str
    def __init__(self, robot: _Optional[str] = ...) -> None: ...

class UnsetAssetReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
