"""Writes the files with which an agent uses the embedded cloud."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.devcloud.ledger import Device, write_private


class AgentFiles:
    """The device profiles, the configuration and the watched folder of an agent of this cloud."""

    def __init__(self, folder: Path) -> None:
        """Name the files below ``folder``; ``write`` writes them."""
        self._folder = folder
        self.recordings = folder / "recordings"
        self.profile_path = folder / "device-profiles.json"
        self.config_path = folder / "agent.toml"

    def write(self, devices: Sequence[Device], gateway_url: str, ca_file: Path | None) -> None:
        """Write all files, for these enrolled devices.

        ``ca_file`` is the certificate authority that the agent must trust, or None without TLS.
        """
        self.recordings.mkdir(exist_ok=True)
        profiles = json.dumps(_profiles(devices, gateway_url), indent=2) + "\n"
        write_private(self.profile_path, profiles)
        write_private(self.config_path, self._config(devices, ca_file))

    def _config(self, devices: Sequence[Device], ca_file: Path | None) -> str:
        lines = [
            "# With these settings an agent uses the embedded cloud of this folder.",
            "# The cloud writes this file at each start.",
            "# Put changes into agent.toml.d/*.toml beside it.",
            "[agent]",
            f"state_dir = {_quoted(self._folder / 'state')}",
            f"device_id = {_quoted(devices[0].id if devices else 'robot-1')}",
            "[watch]",
            f"roots = [{_quoted(self.recordings)}]",
            "[cloud]",
            f"dp_config = {_quoted(self.profile_path)}",
            *([f"tls_ca_file = {_quoted(ca_file)}"] if ca_file else []),
            # With several profiles the agent must know to which one a recording belongs.
            *(["[assets]", f"default = {_quoted(devices[0].id)}"] if len(devices) > 1 else []),
            "[retry]",
            "# Jitter spreads the requests of many robots. One robot does not need it.",
            "jitter_seconds = 0",
            "[log]",
            f"dir = {_quoted(self._folder / 'log')}",
        ]
        return "\n".join(lines) + "\n"


def _profiles(devices: Sequence[Device], gateway_url: str) -> dict[str, Any]:
    return {
        "version": 3,
        "endpoints": {"auth": gateway_url, "gateway": gateway_url, "deviceInit": gateway_url},
        "devices": [
            {"deviceId": device.id, "apiKey": device.api_key, "tags": dict(device.tags)}
            for device in devices
        ],
    }


def _quoted(value: object) -> str:
    """Return ``value`` as a TOML basic string. TOML accepts all escapes of JSON."""
    return json.dumps(str(value), ensure_ascii=False)
