"""Configuration files and environment variables become one frozen value, or a list of all faults.

``sections`` has the settings themselves, ``loading`` reads them, and ``kinds`` says what the text
of a setting may be.
"""

from agent.adapters.config.faults import PATH_VARIABLE, ConfigError, ConfigFault
from agent.adapters.config.loading import (
    DEFAULT_PATH,
    PREFIX,
    Loaded,
    load,
    load_leniently,
)
from agent.adapters.config.paths import profile_path
from agent.adapters.config.rendering import to_toml
from agent.adapters.config.sections import KEYS, Settings, WatchSettings

__all__ = [
    "DEFAULT_PATH",
    "KEYS",
    "PATH_VARIABLE",
    "PREFIX",
    "ConfigError",
    "ConfigFault",
    "Loaded",
    "Settings",
    "WatchSettings",
    "load",
    "load_leniently",
    "profile_path",
    "to_toml",
]
