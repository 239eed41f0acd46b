"""What the commands on this robot ask of its running agent, by gRPC on a Unix socket in the state folder.

Whoever may write to the socket may ask: STATE_DIR's owner and group, and root.
"""

from __future__ import annotations

import os

os.environ.setdefault(
    "GRPC_VERBOSITY", "NONE"
)  # or a command prints what the library thinks of an agent that stops

from agent.adapters.control.client import Control
from agent.adapters.control.server import ControlServer

__all__ = ["Control", "ControlServer"]
