"""The control socket: how commands on this robot talk to the running agent.

It is gRPC on a Unix socket in the state folder. Every user who may write to the socket may give
commands: the owner and the group of STATE_DIR, and root.
"""

from __future__ import annotations

import os

# Without this, a command prints gRPC's own messages when the agent stops. gRPC reads the variable
# when it is imported, so the imports follow.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from agent.adapters.control.client import Control
from agent.adapters.control.server import ControlServer

__all__ = ["Control", "ControlServer"]
