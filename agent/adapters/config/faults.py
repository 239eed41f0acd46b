"""What is wrong with a configuration, as values and as one error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.model.errors import AgentError

# The environment variable that names the configuration file.
PATH_VARIABLE = "KEYSTONE_AGENT_CONFIG"

_KEYS_HINT = "mend every line above; config/agent.toml explains each key"
_FILES_HINT = f"mend that file, or name another one with --config or {PATH_VARIABLE}"


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """One thing that is wrong with the configuration.

    ``key`` is a dotted key, or "" when a file as a whole is wrong. ``value`` is TOML text, or ""
    where there is none. ``expected`` says what would be right. ``origin`` is a file or a variable.
    """

    key: str
    value: str
    expected: str
    origin: str

    def __str__(self) -> str:
        if not self.key:
            return f"{self.origin}: {self.expected}"
        setting = f"{self.key} = {self.value}" if self.value else self.key
        return f"{self.origin}: {setting}: expected {self.expected}"


class ConfigError(AgentError):
    """The configuration can't be used. ``faults`` has everything that is wrong with it."""

    code = "configuration"

    def __init__(self, faults: Sequence[ConfigFault]) -> None:
        """Make an error whose message has one line for each of ``faults``."""
        hint = _KEYS_HINT if any(fault.key for fault in faults) else _FILES_HINT
        super().__init__("\n".join(str(fault) for fault in faults), hint=hint)
        self.faults = tuple(faults)
