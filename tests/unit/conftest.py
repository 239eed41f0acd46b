"""Holds the rule of this folder: a unit test starts no process."""

from __future__ import annotations

import os
import subprocess
from typing import NoReturn

import pytest


@pytest.fixture(autouse=True)
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a unit test that starts a process, in whatever thread."""

    def refuse(*arguments: object, **_: object) -> NoReturn:
        pytest.fail(f"a unit test starts a process: {arguments[-1:]}; see CONTRIBUTING.md, Tests")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system"):
        monkeypatch.setattr(os, name, refuse)
