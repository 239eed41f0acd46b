"""The way of a recording to the cloud: keys, uploads, assets, enrolment. A reload makes another one.

What is in flight goes on by the one that it began with, which is let go of after that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from agent.adapters.assets import AssetFile
from agent.adapters.config import Settings
from agent.assembly import cloud_backend as cloud
from agent.cloud.credentials import Credentials
from agent.cloud.enrol import Enrolling
from agent.gate.gate import Delays, Gate
from agent.model.errors import AgentError, CloudError, WaitingError, judge
from agent.model.ports import Clock, History
from agent.model.values import Recording
from agent.operations.asset_binding import Bindings
from agent.upload.concurrency import MOST_IN_ALL, PartConcurrency
from agent.upload.upload import Upload

_log = logging.getLogger(__name__)


class CloudConnection:
    """Made of cloud.*, bucket.*, assets.* and what upload.* says of one upload."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        robot: str,
        history: History,
        gate: Gate,
        clock: Clock,
        delays: Delays,
        hide: Callable[..., None],
        before: CloudConnection | None = None,
    ) -> None:
        """Nothing is asked yet; ``before`` is the route that this one follows. Raises SetupError for a bad setting."""
        self._history = history
        self._gate = gate
        self.assets = AssetFile(settings.agent.state_dir, settings.assets.map)
        self.cloud = cloud.build(
            settings,
            environ,
            robot=robot,
            assets=self.assets,
            history=history,
            clock=clock,
            hide=hide,
            connections=MOST_IN_ALL,
        )
        self.bindings = Bindings(
            self.assets, self.cloud.profiles if settings.cloud.mode == "platform" else None
        )
        self.enrolling = (
            Enrolling(enrol, robot, gate, clock, delays) if (enrol := self.cloud.enrol) else None
        )
        if self.enrolling and before and before.enrolling:
            self.enrolling.succeed(before.enrolling)
        self.credentials = Credentials(
            self.cloud.gateway, clock, hide, lambda: self.cloud.store.offset
        )
        self.upload = Upload(
            store=self.cloud.store,
            credentials=self.credentials,
            history=history,
            gate=gate,
            clock=clock,
            max_restarts=settings.upload.max_restarts,
            pace=PartConcurrency(settings.upload.part_concurrency),
        )
        proxy = settings.cloud.proxy.get_secret_value()
        self.fault: Mapping[str, str] | None = (
            None  # what was wrong with the profiles or keys at the last check
        )
        self._proxy = {proxy} if proxy else set()

    def places(self) -> set[str]:
        """The addresses that this robot itself speaks with: the proxy's, where there is one."""
        return self._proxy or self.cloud.places()

    def asset_when_found(self, recording: Recording) -> str:
        """The asset id that a recording has by now, "" where none can be told: it is asked again at each claim."""
        try:
            return self.cloud.asset_id(recording, "", self.cloud.profiles.load())
        except AgentError:
            return ""

    def check(self) -> None:
        """Say at once, not only with the first recording, that nothing can be sent or no asset id be told."""
        self.fault = None
        try:
            self.cloud.profiles.load()
        except CloudError as error:
            self.fault = {"message": error.message, "hint": judge(error).hint}
            _log.warning("%s (%s)", error.message, judge(error).hint, extra={"event": error.code})
        try:
            self.assets.known()
        except WaitingError as error:
            _log.error("%s (%s)", error.message, error.hint, extra={"event": error.code})

    def refresh(self) -> None:
        """Renew tokens and leases that end soon."""
        for error in self.credentials.refresh_due() if self._gate.closed() is None else ():
            _log.warning(
                "could not refresh credentials: %s",
                error.message,
                extra={"event": "refresh_failed"},
            )

    def pay_debts(self) -> None:
        """Give up in the cloud what was given up here, while the cloud answers."""
        closed = self._gate.closed()
        nobody_probes = closed is not None and closed.cause == "cloud" and not self._history.open()
        if (closed is None or nobody_probes) and self._history.debts():
            try:
                self.upload.abort_orphans(self.cloud.profiles.load())
            except CloudError as error:
                _log.warning(
                    "could not give up old uploads yet: %s", error.message, extra={"event": "debts"}
                )

    def rest(self) -> None:
        """Hang up where nobody calls any more."""
        self.cloud.gateway.rest()

    def end(self, seconds: float = 0.0) -> bool:
        """Tells whether within ``seconds`` nobody is being asked for this robot's key, which is told only once."""
        return self.enrolling is None or self.enrolling.end(seconds)

    def close(self) -> None:
        """Let go of connections; calls that are still under way end."""
        self.cloud.gateway.close()
        self.cloud.store.close()
