"""Finds the id of this robot, and keeps it.

The id is written to a file when it is found first. From then on a new host name or another board
makes no other robot of it.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from agent.model.atomic_file import put
from agent.model.errors import AgentError, SetupError

logger = logging.getLogger(__name__)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MAX_CHARACTERS = 100

# The longest beginning of a file that is read for an id.
_MAX_BYTES = 4096

# Names that boards and images come with. Many robots would share one of these.
_SHARED = re.compile(
    r"localhost(\..*)?"
    r"|(ubuntu|debian|linux|tegra|jetson|nvidia)(-(ubuntu|desktop|server|nano|tegra))?"
    r"|raspberry(pi)?|orangepi|robot|to be filled.*|default( string)?|(system )?serial( number)?"
    r"|not (applicable|available|specified|set)|n/?a|none|null|unknown|invalid|oem|o\.e\.m\."
    r"|[0\W_]*|0?123456789(abcdef)?|x+",
    re.IGNORECASE,
)
_CONFIGURED_FILE = Path("etc/keystone-agent/device-id")

# Where an id is searched for, in this order. Only root can read the second one.
_SOURCES = (
    Path("proc/device-tree/serial-number"),
    Path("sys/class/dmi/id/product_serial"),
    Path("proc/sys/kernel/hostname"),
)

_HINT = (
    "set agent.device_id to an id that no other robot has, or write it to "
    "/etc/keystone-agent/device-id"
)


def device_id(configured: str, state_dir: Path, root: Path = Path("/")) -> str:
    """Return this robot's own id, and keep it in ``state_dir/device-id``.

    The first of these is the id: the setting ``agent.device_id``, the id that was kept before,
    the file /etc/keystone-agent/device-id, the serial number of the board, the host name.

    A name that images or boards share is no id. Where such a name was found, the search goes on.
    Where a person chose it, it is refused.

    Args:
        configured: The setting ``agent.device_id``, "" when it is not set.
        state_dir: The folder of the agent's state.
        root: The folder that has /etc, /proc and /sys; another one in tests.

    Raises:
        SetupError: ``device_id`` when the id that a person chose can't be one robot's own.
        AgentError: ``device_id`` when no usable id is found, or it can't be kept.
    """
    keeper = state_dir / "device-id"
    kept = _read(keeper)
    chosen = _read(root / _CONFIGURED_FILE)
    found = known_device_id(configured, state_dir, root)
    if not configured and kept and chosen not in ("", kept):
        message = (
            "the device id stays %s, but /etc/keystone-agent/device-id says %s. "
            "To change it, set agent.device_id"
        )
        logger.warning(message, kept, chosen, extra={"event": "device_id_kept"})
    if found != kept:
        _keep(keeper, found)
        # The first id of a robot is no reason to worry, another one is.
        logger.log(
            logging.WARNING if kept else logging.INFO,
            "the device id is %s%s",
            found,
            f", it was {kept}" if kept else "",
            extra={"event": "device_id_chosen"},
        )
    return found


def known_device_id(configured: str, state_dir: Path, root: Path = Path("/")) -> str:
    """Return the id that :func:`device_id` would return now. Nothing is written.

    The arguments are the same. Raises what :func:`device_id` raises.
    """
    keeper = state_dir / "device-id"
    if configured:
        return own_id(configured, "agent.device_id")
    if kept := _read(keeper):
        return own_id(kept, str(keeper))
    if chosen := _read(root / _CONFIGURED_FILE):
        return own_id(chosen, "/etc/keystone-agent/device-id")
    for source in _SOURCES:
        found = _read(root / source)
        if _usable(found):
            return found
    raise AgentError("this robot has no id of its own", code="device_id", hint=_HINT)


def _read(path: Path) -> str:
    """Return the text of a file without the space around it, or "" when it can't be read."""
    try:
        return path.read_bytes()[:_MAX_BYTES].decode("utf-8", "replace").strip(" \t\r\n\0")
    except OSError:
        return ""


def _usable(text: str) -> bool:
    return (
        0 < len(text) <= _MAX_CHARACTERS
        and not _CONTROL.search(text)
        and not _SHARED.fullmatch(text)
    )


def own_id(text: str, origin: str) -> str:
    """Return ``text``, which must be an id that one robot alone can have.

    Raises:
        SetupError: ``device_id`` when it can't be. The error names ``origin``, where the text
            comes from.
    """
    if not _usable(text):
        message = f"{origin} says {text[:_MAX_CHARACTERS]!r}, which can't be one robot's own id"
        raise SetupError(message, code="device_id", hint=_HINT)
    return text


def _keep(keeper: Path, text: str) -> None:
    try:
        keeper.parent.mkdir(parents=True, exist_ok=True)
        put(keeper, f"{text}\n".encode(), owner=keeper.parent, mode=0o644)
    except OSError as error:
        message = f"the device id can't be kept in {keeper}: {error.strerror}"
        raise AgentError(
            message, code="device_id", hint="make agent.state_dir writable for the agent"
        ) from error
