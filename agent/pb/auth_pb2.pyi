from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class AuthErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUTH_ERROR_CODE_UNSPECIFIED: _ClassVar[AuthErrorCode]
    AUTH_ERROR_CODE_INVALID_CREDENTIAL: _ClassVar[AuthErrorCode]
    AUTH_ERROR_CODE_KEY_DISABLED: _ClassVar[AuthErrorCode]
    AUTH_ERROR_CODE_KEY_EXPIRED: _ClassVar[AuthErrorCode]
    AUTH_ERROR_CODE_SITE_DISABLED: _ClassVar[AuthErrorCode]
    AUTH_ERROR_CODE_INTERNAL_ERROR: _ClassVar[AuthErrorCode]
AUTH_ERROR_CODE_UNSPECIFIED: AuthErrorCode
AUTH_ERROR_CODE_INVALID_CREDENTIAL: AuthErrorCode
AUTH_ERROR_CODE_KEY_DISABLED: AuthErrorCode
AUTH_ERROR_CODE_KEY_EXPIRED: AuthErrorCode
AUTH_ERROR_CODE_SITE_DISABLED: AuthErrorCode
AUTH_ERROR_CODE_INTERNAL_ERROR: AuthErrorCode

class ExchangeCredentialRequest(_message.Message):
    __slots__ = ("credential",)
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    credential: str
    def __init__(self, credential: _Optional[str] = ...) -> None: ...

class ExchangeCredentialResponse(_message.Message):
    __slots__ = ("access_token", "expires_at_unix", "token_type")
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_UNIX_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TYPE_FIELD_NUMBER: _ClassVar[int]
    access_token: str
    expires_at_unix: int
    token_type: str
    def __init__(self, access_token: _Optional[str] = ..., expires_at_unix: _Optional[int] = ..., token_type: _Optional[str] = ...) -> None: ...
