"""The device profile file: JSON written by the platform's enrolment → DeviceProfile by asset id."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.model.errors import CloudError
from agent.model.nouns import DeviceProfile
from agent.model.private import exposure

_VERSION = 3
# No path, query, fragment or user part: such an address would be taken for something it is not.
_ENDPOINT = re.compile(r"(?:https?://)?(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")


class ProfileFile:
    """The profiles in one file, read again whenever the file is another one."""

    def __init__(self, path: Path) -> None:
        """Nothing is read before the first :meth:`load`; ``path`` may be changed later."""
        self.path = path
        self._read: tuple[object, Mapping[str, DeviceProfile]] | None = None

    def load(self) -> Mapping[str, DeviceProfile]:
        """The profiles by asset id, those that are not ready for upload among them.

        Raises:
            CloudError: "profile_file" when the file is missing, can be read by others, or says something impossible.
        """
        try:
            # A named pipe must not keep the caller waiting for a writer.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise self._unusable(error.strerror or "cannot be opened") from None
        try:
            with os.fdopen(descriptor, "rb") as file:
                return self._current(descriptor, file.read)
        except OSError as error:
            raise self._unusable(error.strerror or "cannot be read") from None

    def _current(self, descriptor: int, read: Any) -> Mapping[str, DeviceProfile]:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise self._unusable("is no regular file")
        if why := exposure(self.path, status):
            raise self._unusable(why)
        version = (self.path, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        if self._read is None or self._read[0] != version:
            try:
                profiles = {profile.asset_id: profile for profile in _profiles(_document(read()))}
            except _UnusableError as error:
                raise self._unusable(str(error)) from None
            self._read = (version, profiles)
        return self._read[1]

    def stamp(self) -> object:
        """Something that changes whenever the file, its place or the right to read it does."""
        try:
            state = self.path.stat()
        except OSError:
            return self.path, None
        return self.path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns

    def _unusable(self, reason: str) -> CloudError:
        return CloudError("DeviceProfiles", "profile_file", f"{self.path} {reason}")


class _UnusableError(Exception):
    """What the file says can't be used; the message never quotes a key."""


def _document(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        raise _UnusableError("is no JSON") from None
    if not isinstance(document, dict):
        raise _UnusableError("is no JSON object")
    version = document.get("version", _VERSION)
    if type(version) is not int or version != _VERSION:
        raise _UnusableError(f"has a version other than {_VERSION}")
    return document


def _profiles(document: dict[str, Any]) -> Iterator[DeviceProfile]:
    endpoints = _typed(document.get("endpoints"), dict, "endpoints")
    auth = _endpoint(endpoints, "auth")
    gateway = _endpoint(endpoints, "gateway")
    if endpoints.get("deviceInit") is not None:
        _endpoint(endpoints, "deviceInit")
    seen: set[str] = set()
    for device in _typed(document.get("devices"), list, "devices"):
        asset_id = _typed(_typed(device, dict, "device").get("deviceId"), str, "deviceId").strip()
        if not asset_id or asset_id in seen:
            raise _UnusableError(f"has {'twice the' if asset_id else 'an empty'} deviceId {asset_id}".rstrip())
        seen.add(asset_id)
        api_key = _typed(device.get("apiKey"), str, f"apiKey of {asset_id}").strip()
        tags = _typed(device.get("tags"), dict, f"tags of {asset_id}")
        if not all(isinstance(value, str) for value in tags.values()):
            raise _UnusableError(f"has a tag value of {asset_id} that is no string")
        yield DeviceProfile(asset_id, api_key, tags, auth, gateway)


def _typed(value: Any, kind: type, name: str) -> Any:
    """``value``, or an empty one where there is none: what is missing is not yet wrong."""
    value = kind() if value is None else value
    if not isinstance(value, kind):
        raise _UnusableError(f"has a wrong {name}")
    return value


def _endpoint(endpoints: dict[str, Any], name: str) -> str:
    endpoint: str = _typed(endpoints.get(name), str, f"endpoint {name}").strip()
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 0 < int(match["port"] or 80) <= 65535:
        raise _UnusableError(f"has a bad endpoint {name}")
    return endpoint
