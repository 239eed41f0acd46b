"""The marker ``pause``: while this file is in the markers' folder, no new part is sent."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from agent.gate.gate import Gate
from agent.model.atomic_file import put, sync_folder
from agent.model.printable import shell_word
from agent.model.touch_files import PAUSE

_log = logging.getLogger(__name__)


def hold_while_paused(markers: Path, gate: Gate) -> None:
    """Hold the gate if the marker is in the folder ``markers``, else release the gate."""
    path = markers / PAUSE
    if os.path.lexists(path):
        hint = f"remove {shell_word(str(path))}, or keystone-agent resume"
        if gate.hold(PAUSE, "an operator paused the agent", hint):
            _log.info("uploads are paused: %s is there", path, extra={"event": "pause"})
    elif gate.release(PAUSE):
        _log.info("uploads go on: the pause marker is gone", extra={"event": "resume"})


def pause(markers: Path) -> None:
    """Create the marker durably. Raises OSError."""
    if not (markers / PAUSE).exists():
        put(markers / PAUSE, b"", owner=markers)


def resume(markers: Path) -> None:
    """Remove the marker durably. Raises OSError."""
    (markers / PAUSE).unlink(missing_ok=True)
    sync_folder(markers)
