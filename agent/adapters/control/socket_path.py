"""What both ends of the control socket must agree on: its path, and how an error is transmitted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

NAME = "control.sock"

# The socket of the gRPC server, in a folder that only the agent's user may enter.
_GRPC_SOCKET = ".control/grpc.sock"

# The key of an AgentError in the metadata of an answer.
ERROR = "keystone-agent-error-bin"

# Both ends ping, so that neither waits for ever for a process that was suspended.
KEEPALIVE = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
)


class SocketPath:
    """The path of the control socket, which is short however long the state folder's path is.

    The path of a Unix socket has at most 107 bytes (unix(7)). So the folder is opened, and the
    path goes by the folder's descriptor.

    Used by the thread that made it; the path itself may be used from any thread.
    """

    def __init__(self, state_dir: Path) -> None:
        """Open the state folder.

        Raises:
            OSError: There is no such folder, or this user may not enter it.
        """
        self._folder = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # The socket that commands connect to.
        self.path = f"/proc/self/fd/{self._folder}/{NAME}"
        # The socket of the gRPC server behind it.
        self.grpc_path = f"/proc/self/fd/{self._folder}/{_GRPC_SOCKET}"

    def close(self) -> None:
        """Close the folder. Both paths are invalid afterwards."""
        os.close(self._folder)


def text(value: str) -> str:
    """Return ``value`` as protobuf can carry it.

    Bytes of file names that are no UTF-8 become question marks.
    """
    return value.encode("utf-8", "replace").decode()


def packed(code: str, message: str, hint: str) -> bytes:
    """Return the fields of an AgentError in the form for the metadata."""
    return json.dumps({"code": code, "message": message, "hint": hint}).encode()


def unpacked(data: bytes) -> dict[str, Any]:
    """Return the fields of an AgentError from what :func:`packed` made.

    Raises:
        ValueError, TypeError, KeyError: ``data`` is something else.
    """
    fields = json.loads(data)
    return {key: str(fields[key]) for key in ("code", "message", "hint")}
