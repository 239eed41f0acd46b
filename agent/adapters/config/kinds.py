"""The kinds of settings: what a value may be, with the words that say what was expected.

The description of each type is shown to the operator when a value is wrong. The upper limits keep
every sum and timer that is made of a setting finite.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, Secret, Strict, ValidationInfo

from agent.model.hours import Span
from agent.model.object_key import PLACEHOLDERS, placeholders

YEAR_SECONDS = 31_536_000

# User and password in an address, which people must not see.
USER_IN_URL = re.compile(r"://[^/@\s]*@")

_AGE = re.compile(r"(\d{1,9})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LISTEN = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")
_PROXY = re.compile(r"http://(?:[^/?#@\s]+@)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}/?")

_ID_MAX_CHARACTERS = 100
_YEAR_MINUTES = 525_600


def newer_than(text: str) -> datetime | timedelta | None:
    """Return the meaning of ``watch.newer_than``: a UTC moment, an age, or None for "".

    A date or time without a zone is the robot's local time, as its operator reads it.

    Raises:
        ValueError: The text is anything else.
    """
    if not text:
        return None
    try:
        if age := _AGE.fullmatch(text):
            return timedelta(**{_UNITS[age[2]]: int(age[1])})
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError("no date and no age") from error


def _path(value: Any, info: ValidationInfo) -> Any:
    """Turn the text of an absolute path into a path.

    The validation context has the home of the user who runs the agent, for texts that begin with ~.
    """
    if not isinstance(value, str):
        return value
    if value.startswith("~/"):
        value = f"{(info.context or {}).get('home', '~')}/{value[2:]}"
    if not value.startswith("/") or _CONTROL.search(value):
        raise ValueError(value)
    # Files are compared with their watched folder by text, so no path has ".." or "//" in it.
    return Path("/" + os.path.abspath(value).lstrip("/"))  # noqa: PTH100 - links keep their names


def _id(value: str) -> str:
    value = value.strip()
    if len(value) > _ID_MAX_CHARACTERS or _CONTROL.search(value):
        raise ValueError(value)
    return value


def _key(value: str) -> str:
    names = placeholders(value)
    if not names or not names <= set(PLACEHOLDERS) or _CONTROL.search(value):
        raise ValueError(value)
    return value


def _glob(value: str) -> str:
    if not value or "/" in value:
        raise ValueError(value)
    return value


def _span(value: str) -> str:
    Span.parse(value)
    return value


def _proxy(value: Any) -> Any:
    if isinstance(value, str) and value and not (_PROXY.fullmatch(value) and urlsplit(value).port):
        raise ValueError("no proxy")
    return value


def _listen(value: str) -> str:
    if value and not (_LISTEN.fullmatch(value) and 0 < int(value.rpartition(":")[2]) < 65536):
        raise ValueError(value)
    return value


def _date_or_age(value: Any) -> Any:
    # TOML has dates as a type of its own.
    text = value.isoformat() if isinstance(value, date) else value
    if isinstance(text, str):
        newer_than(text)
    return text


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _none(value: Any) -> Any:
    return None if value == "" else value


class ProxyUrl(Secret[str]):
    """The address of a proxy: ``http://[USER:PASSWORD@]HOST:PORT``, or "".

    Printing it shows neither user nor password.
    """

    def _display(self) -> str:
        return USER_IN_URL.sub("://***@", self.get_secret_value())

    def secrets(self) -> Sequence[str]:
        """Return what no log may show: the password as it is written, and as it is decoded."""
        written = urlsplit(self.get_secret_value()).password or ""
        return [written, unquote(written)] if written else []


Count = Annotated[int, Field(gt=0, le=1_000_000, description="a whole number from 1 to 1000000")]
Seconds = Annotated[
    float,
    Field(
        gt=0,
        le=YEAR_SECONDS,
        allow_inf_nan=False,
        description="seconds above 0, a year at most",
    ),
]
SecondsOr0 = Annotated[
    float,
    Field(
        ge=0,
        le=YEAR_SECONDS,
        allow_inf_nan=False,
        description="seconds, 0 or more, a year at most",
    ),
]
Minutes = Annotated[
    float,
    Field(
        gt=0,
        le=_YEAR_MINUTES,
        allow_inf_nan=False,
        description="minutes above 0, a year at most",
    ),
]
Switch = Annotated[bool, Field(description="true or false")]
Folder = Annotated[
    Path, BeforeValidator(_path), Field(description="an absolute path, or one that begins with ~/")
]
FolderOrNone = Annotated[
    Path | None,
    BeforeValidator(_path),
    BeforeValidator(_none),
    Field(description='an absolute path, one that begins with ~/, or ""'),
]
Folders = Annotated[
    tuple[Annotated[Path, BeforeValidator(_path)], ...],
    # TOML's arrays are lists, and become tuples here.
    Strict(strict=False),
    Field(min_length=1, description="a list of one or more absolute paths"),
]
Globs = Annotated[
    tuple[Annotated[str, AfterValidator(_glob)], ...],
    Strict(strict=False),
    Field(description="a list of globs for base names, without a /"),
]
Spans = Annotated[
    tuple[Annotated[str, AfterValidator(_span)], ...],
    Strict(strict=False),
    Field(description='a list of hours such as "22:00-06:00" and days such as "sat"'),
]
Proxy = Annotated[
    ProxyUrl,
    BeforeValidator(_proxy),
    Field(description='"http://HOST:PORT", "http://USER:PASSWORD@HOST:PORT" or ""'),
]
Megabits = Annotated[
    float,
    Field(
        ge=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="megabits a second, at most 1000000; 0 for no cap",
    ),
]
Id = Annotated[
    str,
    AfterValidator(_id),
    Field(description="at most 100 characters, none of them a control character"),
]
Ids = Annotated[
    Mapping[
        Annotated[str, AfterValidator(_id), Field(min_length=1)],
        Annotated[str, AfterValidator(_id)],
    ],
    Field(description="a table from robot id to asset id, each at most 100 characters"),
]


Endpoint = Annotated[
    str,
    Field(
        pattern=r"^((https?://)?(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?/?)?$",
        description='an address such as "https://s3.example.org:9000", https where it does not say',
    ),
]
Listen = Annotated[
    str,
    AfterValidator(_listen),
    Field(description='"HOST:PORT" of this robot, such as "127.0.0.1:9464", or ""'),
]
Word = Annotated[
    str, Field(pattern=r"^[!-~]*$", description="text of ASCII characters without spaces")
]
BucketName = Annotated[
    str,
    Field(
        pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$",
        description="a bucket's name: 3 to 63 small letters, digits, dots and hyphens",
    ),
]
KeyTemplate = Annotated[
    str,
    AfterValidator(_key),
    Field(
        description="a template with placeholders out of "
        f"{{{'} {'.join(PLACEHOLDERS)}}}, one of them at least"
    ),
]
PartMebibytes = Annotated[int, Field(ge=5, le=5120, description="a whole number from 5 to 5120")]
DateOrAge = Annotated[
    str,
    BeforeValidator(_date_or_age),
    Field(description='"", a date such as "2025-06-30", or an age such as "7d"'),
]
Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]
