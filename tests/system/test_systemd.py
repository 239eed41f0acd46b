"""Tests of the unit and of its user, with systemd's own tools."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness.paths import REPOSITORY

UNITS = REPOSITORY / "deploy" / "systemd"
UNIT = UNITS / "keystone-agent.service"
_MOST_EXPOSED = 2.0

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here"
)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path) -> None:
    (command,) = re.findall(
        r"^ExecStart=(\S+) run$", UNIT.read_text(encoding="utf-8"), re.MULTILINE
    )
    unit = tmp_path / UNIT.name
    unit.write_text(
        UNIT.read_text(encoding="utf-8").replace(command, "/bin/true"), encoding="utf-8"
    )
    verdict = run("systemd-analyze", "verify", unit)
    assert (verdict.returncode, verdict.stdout, verdict.stderr) == (0, "", "")
    unit.write_text(UNIT.read_text(encoding="utf-8").replace("Nice=", "Nicer="), encoding="utf-8")
    assert "'Nicer'" in run("systemd-analyze", "verify", unit).stderr


def test_the_unit_is_hardened() -> None:
    verdict = run(
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--threshold={_MOST_EXPOSED * 10:.0f}",
        "--no-pager",
        UNIT,
    )
    assert verdict.returncode == 0, verdict.stdout
    (exposure,) = re.findall(r"Overall exposure level for .*: ([\d.]+)", verdict.stdout)
    assert 0 < float(exposure) <= _MOST_EXPOSED


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="no systemd-sysusers here")
def test_the_user_is_made_with_a_group_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    made = run("systemd-sysusers", f"--root={tmp_path}", UNITS / "keystone-agent.sysusers")
    assert made.returncode == 0, made.stderr
    (user,) = (tmp_path / "etc" / "passwd").read_text().splitlines()
    (group,) = (tmp_path / "etc" / "group").read_text().splitlines()
    name, _, uid, gid, _, home, shell = user.split(":")
    assert (name, group.split(":")[0], group.split(":")[2]) == (
        "keystone-agent",
        "keystone-agent",
        gid,
    )
    assert (uid != "0", home, shell) == (True, "/var/lib/keystone-agent", "/usr/sbin/nologin")
