"""Where the socket lies, and how an error travels: what both of its ends know."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

NAME = "control.sock"
_INNER = ".control/grpc.sock"  # in a folder that nobody else may enter
ERROR = "keystone-agent-error-bin"  # the key of an AgentError in the metadata of an answer
KEEPALIVE = (  # neither end waits for ever for another one that was suspended
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
)


class Place:
    """The socket in a state folder, by a name that is short however long the folder's own is.

    A socket's name has at most 107 bytes, so the folder is opened and named by its descriptor.
    """

    def __init__(self, state_dir: Path) -> None:
        """Raises OSError when there is no such folder, or none that this user may enter."""
        self._folder = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.path = f"/proc/self/fd/{self._folder}/{NAME}"
        self.inner = f"/proc/self/fd/{self._folder}/{_INNER}"

    def close(self) -> None:
        """Nothing may be bound or connected any more."""
        os.close(self._folder)


def text(value: str) -> str:
    """``value`` as protobuf can carry it: bytes of file names that are no UTF-8 become question marks."""
    return value.encode("utf-8", "replace").decode()


def packed(code: str, message: str, hint: str) -> bytes:
    """An AgentError for the metadata."""
    return json.dumps({"code": code, "message": message, "hint": hint}).encode()


def unpacked(data: bytes) -> dict[str, Any]:
    """What :func:`packed` made; raises ValueError and TypeError for anything else."""
    told = json.loads(data)
    return {key: str(told[key]) for key in ("code", "message", "hint")}
