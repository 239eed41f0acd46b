"""Gives what is built of the agent the date of its commit.

The agent takes a clock for wrong that shows an earlier time than its build date. The clock of the
machine that builds may be wrong itself, and the same commit must give the same bytes each time.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_INIT = "agent/__init__.py"
_BUILD_DATE = re.compile(r'^BUILD_DATE = "(.+)Z"$', re.MULTILINE)


def commit_seconds(source: Path) -> int:
    """Return the time of the commit in the folder ``source``, in seconds since 1970.

    The variable SOURCE_DATE_EPOCH goes before what git knows. Where neither knows, the time is the
    BUILD_DATE of ``source``. Raises ValueError for a variable that is no number.
    """
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    # Elsewhere git would find the repository of another project that has this folder in it.
    if (source / ".git").exists():
        command = ["git", "-C", str(source), "log", "-1", "--format=%ct"]
        try:
            return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        except (OSError, subprocess.CalledProcessError):
            # Git is not installed, or refuses to read the repository of another user.
            pass
    (date,) = _BUILD_DATE.findall((source / _INIT).read_text("utf-8"))
    return int(datetime.fromisoformat(f"{date}+00:00").timestamp())


class CommitDateHook(BuildHookInterface[BuilderConfig]):
    """Writes the date of the commit into wheels and source archives, for hatchling."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Replace BUILD_DATE in what is built. An editable installation uses the source as it is.

        Args:
            version: How hatchling builds: "editable", or another word.
            build_data: Takes the files that replace those of the source.
        """
        if version == "editable":
            return
        source = Path(self.root)
        moment = datetime.fromtimestamp(commit_seconds(source), timezone.utc)
        date = f'BUILD_DATE = "{moment:%Y-%m-%dT%H:%M:%SZ}"'
        # hatchling calls no other method if the build fails, so the folder removes itself.
        self._folder = tempfile.TemporaryDirectory()
        dated = Path(self._folder.name, "__init__.py")
        dated.write_text(_BUILD_DATE.sub(date, (source / _INIT).read_text("utf-8")), "utf-8")
        build_data["force_include"][str(dated)] = _INIT

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the file that :meth:`initialize` has written."""
        del build_data, artifact_path
        if version != "editable":
            self._folder.cleanup()
