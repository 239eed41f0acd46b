"""Which robot is this? Found once, written down, and from then on kept."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from agent.model.atomic_file import put
from agent.model.errors import AgentError, SetupError

logger = logging.getLogger(__name__)

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_LONGEST = 100
# What boards and images come with: many robots would share these.
_SHARED = re.compile(
    r"localhost(\..*)?|(ubuntu|debian|linux|tegra|jetson|nvidia)(-(ubuntu|desktop|server|nano|tegra))?"
    r"|raspberry(pi)?|orangepi|robot|to be filled.*|default( string)?|(system )?serial( number)?"
    r"|not (applicable|available|specified|set)|n/?a|none|null|unknown|invalid|oem|o\.e\.m\."
    r"|[0\W_]*|0?123456789(abcdef)?|x+",
    re.IGNORECASE,
)
_CONFIGURED_FILE = Path("etc/keystone-agent/device-id")
_SOURCES = (
    Path("proc/device-tree/serial-number"),
    Path("sys/class/dmi/id/product_serial"),  # readable for root only
    Path("proc/sys/kernel/hostname"),
)
_HINT = "set agent.device_id to an id that no other robot has, or write it to /etc/keystone-agent/device-id"


def device_id(configured: str, state_dir: Path, root: Path = Path("/")) -> str:
    """Return this robot's own id, and keep it in ``state_dir/device-id``.

    What is configured wins; then what was kept before, so that a new host name does not make another robot; then
    /etc/keystone-agent/device-id, the board's serial number, and the host name. Names that images and boards share
    are no ids: a found one is passed over, one that somebody chose is refused.

    Args:
        configured: agent.device_id, "" when it is not set.
        state_dir: the agent's own folder.
        root: where /etc, /proc and /sys are; another one in tests.

    Raises:
        SetupError: ``device_id`` when what somebody chose is no id.
        AgentError: ``device_id`` when nothing usable is found or the choice can't be kept.
    """
    keeper = state_dir / "device-id"
    kept = _read(keeper)
    chosen = _read(root / _CONFIGURED_FILE)
    found = known_device_id(configured, state_dir, root)
    if not configured and kept and chosen not in ("", kept):
        message = "the device id stays %s, /etc/keystone-agent/device-id says %s: to change it set agent.device_id"
        logger.warning(message, kept, chosen, extra={"event": "device_id_kept"})
    if found != kept:
        _keep(keeper, found)
        logger.warning(
            "the device id is %s%s",
            found,
            f", it was {kept}" if kept else "",
            extra={"event": "device_id_chosen"},
        )
    return found


def known_device_id(configured: str, state_dir: Path, root: Path = Path("/")) -> str:
    """The same, but nothing is kept: what :func:`device_id` would choose now."""
    keeper = state_dir / "device-id"
    if configured:
        return own_id(configured, "agent.device_id")
    if kept := _read(keeper):
        return own_id(kept, str(keeper))
    if chosen := _read(root / _CONFIGURED_FILE):
        return own_id(chosen, "/etc/keystone-agent/device-id")
    found = next(
        (text for text in map(_read, (root / source for source in _SOURCES)) if _usable(text)), ""
    )
    if not found:
        raise AgentError("this robot has no id of its own", code="device_id", hint=_HINT)
    return found


def _read(path: Path) -> str:
    try:
        return path.read_bytes()[:4096].decode("utf-8", "replace").strip(" \t\r\n\0")
    except OSError:
        return ""


def _usable(text: str) -> bool:
    return 0 < len(text) <= _LONGEST and not _CONTROL.search(text) and not _SHARED.fullmatch(text)


def own_id(text: str, origin: str) -> str:
    """``text``, if it may be the id of one robot alone. Raises SetupError, which says ``origin``."""
    if not _usable(text):
        message = f"{origin} says {text[:_LONGEST]!r}, which can't be one robot's own id"
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
