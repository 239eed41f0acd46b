"""The phase of a document, for tests that wait until an upload has come that far."""

from __future__ import annotations

from agent.model.sync_log import Phase, SyncLog


def phase_of(log: SyncLog) -> Phase:
    """Return the phase of the document's upload session, "" where it has no session."""
    return log.session.phase if log.session else ""
