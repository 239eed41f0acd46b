"""Calls the platform's gateway on behalf of one upload, and tells the gate of each success."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from agent.cloud.credentials import Credentials, SessionKeys
from agent.gate.gate import Gate
from agent.model.ports import Clock, Gateway
from agent.model.values import AccessToken, DeviceProfile, Grant
from agent.upload.part_uploader import again

Answer = TypeVar("Answer")


class PlatformCalls:
    """Makes calls with a good access token.

    Holds no state, so any thread may use it.
    """

    def __init__(self, credentials: Credentials, gate: Gate, clock: Clock) -> None:
        """Call with tokens of ``credentials``; ``clock`` waits between attempts."""
        self._credentials = credentials
        self._gate = gate
        self._clock = clock

    def once(
        self,
        document_id: int,
        profile: DeviceProfile,
        name: str,
        call: Callable[[Gateway, AccessToken], Answer],
    ) -> Answer:
        """Make a call that must not be repeated after an error, and return its answer.

        Args:
            document_id: The document that the call is for; 0 where it is for none.
            profile: The profile of the asset, which the token is for.
            name: The name of the call as the gate knows it.
            call: Makes the call.

        Raises:
            CloudError: The call failed.
        """
        answer = self._credentials.call(profile, call)
        self._gate.passed("ExchangeCredential", document_id)
        self._gate.passed(name, document_id)
        return answer

    def repeat(
        self,
        document_id: int,
        profile: DeviceProfile,
        name: str,
        call: Callable[[Gateway, AccessToken], Answer],
    ) -> Answer:
        """Make a call that may be repeated while the cloud is away. Otherwise like :meth:`once`."""
        return again(self._clock, lambda: self.once(document_id, profile, name, call))

    @contextmanager
    def keys(self, profile: DeviceProfile, grant: Grant) -> Iterator[SessionKeys]:
        """Keep the lease of ``grant`` fresh while the block lasts, and give its keys."""
        keys = self._credentials.keys(profile, grant)
        try:
            yield keys
        finally:
            self._credentials.release(keys)
