"""Tells whether this robot is set up to run the agent as a service of systemd."""

from __future__ import annotations

from pathlib import Path

from agent.preconditions.user import user_name

# The unit of the package, and the user that it runs the agent as.
UNIT = "keystone-agent.service"
USER = "keystone-agent"

# Where `systemctl enable` puts its links.
_SYSTEM_UNITS = Path("/etc/systemd/system")


def is_expected_to_run(state_dir: Path, system_units: Path = _SYSTEM_UNITS) -> bool:
    """Return whether an agent with this state folder should be running now.

    This is so where the unit is enabled and the state folder belongs to the unit's user. An agent
    that is tried out on the same robot has another state folder.
    """
    try:
        owner = user_name(state_dir.stat().st_uid)
    except OSError:
        return False
    return owner == USER and any(system_units.glob(f"*.wants/{UNIT}"))
