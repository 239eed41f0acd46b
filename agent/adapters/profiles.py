"""The file of the platform's device profiles: reads it, and writes devices that enrol into it."""

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

# The version of the file's format.
_VERSION = 3

# The profiles by asset id, and the endpoint at which devices enrol.
_Content = tuple[Mapping[str, DeviceProfile], str]

# An address has no path, query, fragment or user part. gRPC would read such an address as another
# one than the operator meant.
_ENDPOINT = re.compile(
    r"(?:https?://)?(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
)


class ProfileFile:
    """Implements ``ports.ProfileKeeper`` with the file of the platform's device profiles.

    The file is read again when it has changed. ``path`` may be changed at any time.

    Any thread may use it. A lock file keeps the changes of threads and processes apart.
    """

    def __init__(self, path: Path, owner: Path | None = None) -> None:
        """Use the file ``path``.

        A file that is written gets the same owner as ``owner``, by default the file's folder.
        """
        self.path = path
        self._owner = owner
        # What was read last: the version of the file, and its content.
        self._read: tuple[object, _Content] | None = None

    def load(self) -> Mapping[str, DeviceProfile]:
        """Return the profiles by asset id, also of devices that are not ready for upload.

        Raises:
            CloudError: ``profile_file`` when the file is missing, when it has keys and others can
                read it, or when its content can't be used.
        """
        return self._content()[0]

    def device_init(self) -> str:
        """Return the endpoint at which devices enrol, or "" when the file has none.

        Raises what :meth:`load` raises.
        """
        return self._content()[1]

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep all others from changing the file during the block.

        Raises:
            OSError: The folder of the file can't be written. The block has not begun.
        """
        path = self.path.resolve()
        # The platform gives a key only once. A key that can't be written would be lost, so it is
        # not requested where a file can't be made.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        lock = path.with_name(f".{path.name}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            give(descriptor, self._owner or path.parent)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The next call reads the file anew. Two changes within a tick of the file system's
            # clock may have left the same times.
            self._read = None
            yield
        finally:
            os.close(descriptor)

    def put(self, asset_id: str, enrolled: Enrolled) -> None:
        """Write the key and the tags of a device, into a file that only its owner can read.

        Other devices and unknown fields stay. The file is on the disk on return.

        Raises:
            OSError: The file can't be written.
            CloudError: As :meth:`load` raises it.
        """
        path = self.path.resolve()
        self.load()
        try:
            document = _document(path.read_bytes())
        except _UnusableError as error:
            raise self._unusable(str(error)) from None
        devices = document["devices"] = document.get("devices") or []
        device = _device(devices, asset_id)
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
                profiles = {profile.asset_id: profile for profile in _profiles(document)}
                device_init = _device_init(document)
            except _UnusableError as error:
                raise self._unusable(str(error)) from None
            known = self._read = (version, (profiles, device_init))
        content = known[1]
        # Endpoints alone are no secret.
        if any(profile.api_key for profile in content[0].values()):
            reason = exposure(self.path, status)
            if reason:
                raise self._unusable(reason)
        return content

    def stamp(self) -> object:
        """Return a value that changes with the file, its path or the right to read it."""
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
    """The content of the file can't be used. The message never quotes a key."""


def _device(devices: list[dict[str, Any]], asset_id: str) -> dict[str, Any] | None:
    """Return the entry of a device, or None when there is none."""
    for device in devices:
        if (device.get("deviceId") or "").strip() == asset_id:
            return device
    return None


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
            text = f"has twice the deviceId {asset_id}" if asset_id else "has an empty deviceId"
            raise _UnusableError(text)
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
    """Return ``value``, which must be of the type ``kind``, or an empty one for None.

    ``name`` is the field, for the error message. A field that is missing is no error here.
    """
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
