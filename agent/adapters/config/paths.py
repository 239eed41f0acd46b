"""Where the home folder and the file of the device profiles lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from agent.adapters.config.sections import Settings


def profile_path(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Return the path of the file with the platform's device profiles.

    It is ``cloud.dp_config`` where that is set. Else it is the first file that exists of:
    ``dp-config`` among the service's systemd credentials, ``dp-config.json`` in the state folder,
    and ``.archebase/config.json`` in the home of the user. Where none of them exists it is the
    file in the state folder.
    """
    if settings.cloud.dp_config is not None:
        return settings.cloud.dp_config
    own = settings.agent.state_dir / "dp-config.json"
    candidates = [own, Path(home(environ)) / ".archebase" / "config.json"]
    if environ.get("CREDENTIALS_DIRECTORY"):
        candidates.insert(0, Path(environ["CREDENTIALS_DIRECTORY"]) / "dp-config")
    return next((path for path in candidates if os.path.lexists(path)), own)


def home(environ: Mapping[str, str]) -> str:
    """Return the home folder of the user who runs the agent."""
    named = environ.get("HOME")
    return named or os.path.expanduser("~")  # noqa: PTH111 - Path.home raises for a user without one
