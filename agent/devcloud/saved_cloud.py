"""The file with what the embedded cloud must find again at its next start: ports, store, keys."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from agent.devcloud import servers
from agent.devcloud.ledger import write_private


class SavedCloud:
    """What is saved of the embedded cloud: its ports, the kind of its store, and the store's keys.

    Agents that know the cloud from an earlier start must reach it in the same way. ``save`` writes
    the values to the file, and the next start in the same folder takes them from there.

    It must be used by the thread that starts and stops the cloud.
    """

    def __init__(self, file: Path, *, store: str, gateway_port: int, store_port: int) -> None:
        """Take the values of the last start where none are given here.

        Args:
            file: The file of the last start, or a path where there is none yet.
            store: See ``DevCloud``; ``auto`` takes the store of the last start.
            gateway_port: A port, or 0 for that of the last start. It is 0 without a last start.
            store_port: A port, with the same rule.

        Raises:
            servers.ServerError: No S3 server is installed.
        """
        self._file = file
        stored = json.loads(file.read_text()) if file.exists() else {}
        self.store_kind = servers.choose(stored.get("store", store) if store == "auto" else store)
        access_key, secret_key = stored.get("store_keys") or (
            secrets.token_hex(8),
            secrets.token_hex(16),
        )
        self.store_keys: tuple[str, str] = (access_key, secret_key)
        self.gateway_port: int = gateway_port or stored.get("gateway_port", 0)
        self.store_port: int = store_port or stored.get("store_port", 0)

    def save(self) -> None:
        """Write the values to the file, which only the user of this process can read."""
        settings = {
            "gateway_port": self.gateway_port,
            "store_port": self.store_port,
            "store": self.store_kind,
            "store_keys": self.store_keys,
        }
        write_private(self._file, json.dumps(settings))
