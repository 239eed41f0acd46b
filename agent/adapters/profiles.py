"""The device profile file: JSON → DeviceProfile by asset id; a device that enrols is written into it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.model.atomic_file import give, put
from agent.model.errors import CloudError
from agent.model.file_permissions import exposure
from agent.model.values import DeviceProfile, Enrolled

_VERSION = 3
_Content = tuple[Mapping[str, DeviceProfile], str]  # and where devices enrol
# No path, query, fragment or user part: such an address would be taken for something it is not.
_ENDPOINT = re.compile(
    r"(?:https?://)?(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
)


class ProfileFile:
    """Implements ``ports.ProfileKeeper``; the file is read again whenever it is another one."""

    def __init__(self, path: Path, owner: Path | None = None) -> None:
        """Nothing is read before the first :meth:`load`; ``path`` may be changed later.

        What is written belongs to whoever owns ``owner``; by default the file's folder.
        """
        self.path = path
        self._owner = owner
        self._read: tuple[object, _Content] | None = None

    def load(self) -> Mapping[str, DeviceProfile]:
        """The profiles by asset id, those that are not ready for upload among them.

        Raises:
            CloudError: "profile_file" when the file is missing, has keys and can be read by others, or says
                something impossible.
        """
        return self._content()[0]

    def device_init(self) -> str:
        """Where devices enrol, "" where the file does not say. Raises what :meth:`load` raises."""
        return self._content()[1]

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else enrols while the block lasts. Raises OSError, before it begins, where nothing can be written."""
        path = self.path.resolve()
        with tempfile.TemporaryFile(dir=path.parent):
            pass  # a key that can't be kept would be lost: the platform tells it once
        lock = path.with_name(f".{path.name}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            give(descriptor, self._owner or path.parent)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._read = (
                None  # two changes within a tick of the file system's clock may look like one
            )
            yield
        finally:
            os.close(descriptor)

    def put(self, asset_id: str, enrolled: Enrolled) -> None:
        """Write a device's key and tags, for its owner's eyes only; other devices and unknown keys stay.

        Durable on return. Raises OSError, and what :meth:`load` raises.
        """
        path = self.path.resolve()
        self.load()
        try:
            document = _document(path.read_bytes())
        except _UnusableError as error:
            raise self._unusable(str(error)) from None
        devices = document["devices"] = document.get("devices") or []
        device = next(
            (known for known in devices if (known.get("deviceId") or "").strip() == asset_id), None
        )
        if device is None:
            device = {"deviceId": asset_id}
            devices.append(device)
        device.update(apiKey=enrolled.api_key, tags=dict(enrolled.tags))
        text = json.dumps(document, indent=2)
        put(path, f"{text}\n".encode(), owner=self._owner or path.parent, mode=0o600)
        self._read = None

    def _content(self) -> _Content:
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

    def _current(self, descriptor: int, read: Any) -> _Content:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise self._unusable("is no regular file")
        version = (self.path, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._read
        if known is None or known[0] != version:
            try:
                document = _document(read())
                content = (
                    {profile.asset_id: profile for profile in _profiles(document)},
                    _device_init(document),
                )
            except _UnusableError as error:
                raise self._unusable(str(error)) from None
            known = self._read = (version, content)
        keys = any(profile.api_key for profile in known[1][0].values())
        if keys and (why := exposure(self.path, status)):  # endpoints alone are no secret
            raise self._unusable(why)
        return known[1]

    def stamp(self) -> object:
        """Something that changes whenever the file, its place or the right to read it does."""
        try:
            state = self.path.stat()
        except OSError:
            return self.path, None
        return (
            self.path,
            state.st_dev,
            state.st_ino,
            state.st_size,
            state.st_mtime_ns,
            state.st_ctime_ns,
        )

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
    seen: set[str] = set()
    for device in _typed(document.get("devices"), list, "devices"):
        asset_id = _typed(_typed(device, dict, "device").get("deviceId"), str, "deviceId").strip()
        if not asset_id or asset_id in seen:
            raise _UnusableError(
                f"has {'twice the' if asset_id else 'an empty'} deviceId {asset_id}".rstrip()
            )
        seen.add(asset_id)
        api_key = _typed(device.get("apiKey"), str, f"apiKey of {asset_id}").strip()
        tags = _typed(device.get("tags"), dict, f"tags of {asset_id}")
        if not all(isinstance(value, str) for value in tags.values()):
            raise _UnusableError(f"has a tag value of {asset_id} that is no string")
        yield DeviceProfile(asset_id, api_key, tags, auth, gateway)


def _device_init(document: dict[str, Any]) -> str:
    endpoints = document["endpoints"]
    return "" if endpoints.get("deviceInit") is None else _endpoint(endpoints, "deviceInit")


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
