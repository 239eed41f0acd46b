"""One document on its way to the cloud, and all documents that are on their way now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.gate.gate import Delays
from agent.model.sync_log import SyncLog
from agent.model.transfer import Transfer
from agent.upload.job import Job
from agent.upload.prepare import Prepare
from agent.upload.upload import Upload


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadTerms:
    """The settings of one upload.

    A reload makes new ones. A claim keeps those that it began with.
    """

    prepare: Prepare
    upload: Upload
    delays: Delays
    max_concurrent: int
    max_attempts: int
    settle_seconds: float
    newest_first: bool = False


@dataclass(slots=True)
class Claim:
    """One document that a worker uploads.

    ``durable`` says whether the history has the claim. The claim of a probe is in memory only until
    the gate opens, so that a probe that fails changes nothing. ``began`` is a monotonic time.
    ``causes`` counts the changes of causes on this robot that were known when the claim began.
    """

    log: SyncLog
    terms: UploadTerms
    transfer: Transfer
    probe: bool
    durable: bool
    began: float
    causes: int
    job: Job | None = None


@dataclass(slots=True)
class InFlight:
    """The claims that have begun and not ended, by document.

    The owner guards this class with its own lock.
    """

    _claims: dict[int, Claim] = field(default_factory=dict)

    def add(self, claim: Claim) -> None:
        """Note that the claim has begun."""
        self._claims[claim.log.id] = claim

    def remove(self, id_: int) -> None:
        """Note that the claim of document ``id_`` has ended."""
        del self._claims[id_]

    def __contains__(self, id_: int) -> bool:
        return id_ in self._claims

    def __len__(self) -> int:
        return len(self._claims)

    def claims(self) -> Sequence[Claim]:
        """Return the claims of this moment."""
        return tuple(self._claims.values())
