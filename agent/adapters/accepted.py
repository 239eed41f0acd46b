"""The file STATE_DIR/accepted.json: which version of the agent accepted which configuration.

A newer version may have keys in its configuration that an older one does not know. When the robot
is rolled back to the older version, its configuration stays. This file then tells the older version
that the unknown keys are no typing errors, so that it can start and upload.

The configuration may hold a password (``cloud.proxy``). With a plain digest of the configuration,
passwords could be tried until the digest is the same. So the digest is keyed with random bytes, and
only the agent's user can read the file that has both.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from agent.model.atomic_file import put

NAME = "accepted.json"

_MODE = 0o600
_SALT_BYTES = 32

# More of the file is not read. The agent never writes that much.
_MAX_BYTES = 64 * 1024

# Older versions are forgotten. No robot is rolled back that far.
_MAX_VERSIONS = 8

_RELEASE = re.compile(r"\d+(?:\.\d+)*")

# Versions that come before the release in their name, and their order among each other.
_BEFORE_RELEASE = re.compile(r"[._~-]?(dev|alpha|a|beta|b|pre|rc|c)", re.IGNORECASE)
_STAGES = {"dev": 0, "alpha": 1, "a": 1, "beta": 2, "b": 2, "pre": 3, "rc": 3, "c": 3}
_RELEASED = 4


class AcceptedConfigurations:
    """Remembers, for each version of the agent, the configuration that it accepted last.

    Each version replaces only its own entry. An older version that runs for a while with the
    configuration of a newer one leaves the newer one's entry, and so can be restarted.

    Only the process that holds the lock of the history writes. Any process may read.
    """

    def __init__(self, state_dir: Path) -> None:
        """Name the file in ``state_dir``."""
        self._state_dir = state_dir
        self._path = state_dir / NAME

    def note(self, version: str, configuration: bytes) -> None:
        """Write down that ``version`` has accepted ``configuration``. It is on the disk on return.

        ``configuration`` is the canonical text of the configuration. Nothing is written when the
        same is noted already.

        Raises:
            OSError: The file can't be read or written.
        """
        document = self._read()
        accepted = _entries(document)
        salt = document.get("salt")
        if not isinstance(salt, str) or not accepted:
            # Without its salt an old digest can't be compared with anything.
            salt, accepted = os.urandom(_SALT_BYTES).hex(), {}
        digest = _digest(salt, configuration)
        if accepted.get(version) == digest:
            return
        accepted[version] = digest
        others = sorted((other for other in accepted if other != version), key=_order)
        for oldest in others[: max(0, len(accepted) - _MAX_VERSIONS)]:
            del accepted[oldest]
        text = json.dumps(
            {**document, "salt": salt, "accepted": accepted}, indent=2, sort_keys=True
        )
        put(self._path, f"{text}\n".encode(), owner=self._state_dir, mode=_MODE)

    def newer_that_accepted(self, configuration: bytes, than: str) -> str:
        """Return the newest version after ``than`` that accepted exactly this configuration.

        ``configuration`` is the canonical text of the configuration. The result is "" when there
        is no such version.

        Raises:
            OSError: The file can't be read.
        """
        document = self._read()
        salt = document.get("salt")
        if not isinstance(salt, str):
            return ""
        digest = _digest(salt, configuration)
        found = [
            version
            for version, known in _entries(document).items()
            if _order(version) > _order(than)
            and hmac.compare_digest(known.encode(), digest.encode())
        ]
        return max(found, key=_order, default="")

    def newer(self, than: str) -> str:
        """Return the newest version after ``than`` that has run here, or "" when there is none.

        Raises:
            OSError: The file can't be read.
        """
        found = [version for version in _entries(self._read()) if _order(version) > _order(than)]
        return max(found, key=_order, default="")

    def _read(self) -> dict[str, Any]:
        """Return what the file holds, or {} when there is no file or it makes no sense."""
        # The folder belongs to the agent's user, and root reads in it, too. So no link is
        # followed, and a named pipe must not keep the reader waiting for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path, flags)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            if error.errno == errno.ELOOP:
                return {}
            raise
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return {}
            raw = file.read(_MAX_BYTES)
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}


def _entries(document: dict[str, Any]) -> dict[str, str]:
    """Return the digests by version. Entries that are not of this kind are left out."""
    entries = document.get("accepted")
    if not isinstance(entries, dict):
        return {}
    return {version: digest for version, digest in entries.items() if isinstance(digest, str)}


def _digest(salt: str, configuration: bytes) -> str:
    return hmac.new(salt.encode(), configuration, hashlib.sha256).hexdigest()


def _order(version: str) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """Return a value by which versions are sorted: 0.1.1 < 0.2.0rc1 < 0.2.0 < 0.10.0.

    A text that is no version comes before all versions.
    """
    found = _RELEASE.match(version)
    if found is None:
        return (), 0, ()
    numbers = [int(number) for number in found[0].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    rest = version[found.end() :]
    before = _BEFORE_RELEASE.match(rest)
    stage = _STAGES[before[1].lower()] if before else _RELEASED
    return tuple(numbers), stage, tuple(int(number) for number in re.findall(r"\d+", rest))
