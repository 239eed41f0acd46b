"""What an uploader of parts works on, without a platform and without a file that changes."""

from __future__ import annotations

from typing import Any

from tests.harness.scripted_http_server import LEASE


class SameKeys:
    """Session keys that never expire."""

    def current(self) -> Any:
        return LEASE

    def renew(self, _refused: Any) -> None:
        raise AssertionError("they never end")


class UnchangedFile:
    """An open file that never changes."""

    def __init__(self, descriptor: int = -1) -> None:
        self.descriptor = descriptor

    def check(self) -> None:
        pass
