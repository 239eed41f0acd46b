"""A source of storage keys in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from agent.model.values import CredentialLease
from tests.harness.fakes.clock import FakeClock


class FakeKeys:
    """Implements ``ports.StorageKeys``. It returns other keys at each call."""

    def __init__(self, clock: FakeClock) -> None:
        """Give leases of one hour by ``clock``."""
        self.seconds = 3600.0
        self.leases: list[CredentialLease] = []
        self.before: Callable[[], None] = lambda: None
        self._clock = clock
        self._ids = itertools.count(1)

    def stamp(self) -> object:
        """Return None, because there is no file."""

    def lease(self) -> CredentialLease:
        """Return a new lease."""
        self.before()
        number = next(self._ids)
        lease = CredentialLease(
            f"access-{number}", f"secret-{number}", "", self._clock.now() + self.seconds
        )
        self.leases.append(lease)
        return lease
