"""The errors of the agent, as classes that the features raise and catch.

AgentError                  message for people, and a hint what to do
├── CloudError              a call to the platform or the store failed. ``judge`` says what follows
├── RecordingError          the recording itself is wrong. Final
├── WaitingError            this recording alone waits for something (its asset id, its profile)
├── FileChangedError        the file is not what was announced. The upload finds out how
├── GateClosedError         nothing may be sent now
├── SessionLostError        the platform does not know the session any more
├── SetupError              the agent cannot work by this configuration
├── RefusedError            the operator asked for something impossible
├── NotRunningError         no agent runs
├── HistoryFullError        the disk is too full to write an intent down
└── HistoryLockedError      another agent works in this state folder

Adapters raise :class:`CloudError` with a code of the table in ``error_table.py``. Features raise
the others. No code tells errors apart by their text, and only the table compares codes.
"""

from __future__ import annotations

from agent.model.error_table import STORE_AWAY, TABLE, UNKNOWN, Kind, Trait, Verdict, has_trait
from agent.model.sync_log import Fault
from agent.model.values import utc_text

# Takes the place of a call's name if an upload as a whole failed or succeeded.
WHOLE = ""


class AgentError(Exception):
    """The base of all errors that the agent raises on purpose.

    ``code`` names the error for programs. ``hint`` says what the operator can do.
    """

    code = "error"
    hint = ""

    def __init__(self, message: str, *, code: str = "", hint: str = "") -> None:
        """Take texts for the operator, ``message`` and ``hint``, which must not hold a secret."""
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.hint = hint or self.hint

    def means(self, trait: Trait) -> bool:
        """Return whether the table of errors says that this error means what ``trait`` names."""
        return has_trait(self.code, trait)


class CloudError(AgentError):
    """A call to the platform or the store failed.

    ``code`` is a key of the table of errors. It is the platform's error code without its prefix,
    the gRPC code, the S3 code, or ``HTTP_<status>``. If the call did not get an answer, the code
    says what happened on the network: dns, unreachable, refused, reset, timeout, tls, certificate,
    proxy, portal, no_http, checksum. If something is missing on this robot, it is profile_file,
    storage_keys, out_of_threads, out_of_memory, out_of_descriptors or out_of_space. The codes
    unexpected_answer, bug and io_error stand for unexpected errors.
    """

    def __init__(
        self,
        call: str,
        code: str,
        message: str = "",
        *,
        status: int = 0,
        retry_after: float = 0.0,
        server_time: float | None = None,
    ) -> None:
        """Name what failed.

        Args:
            call: The RPC or S3 operation, or WHOLE if no single call is the cause.
            code: A code as in the description of the class.
            message: The server's words, or "".
            status: The HTTP status, or 0.
            retry_after: How many seconds the server asks to wait.
            server_time: The Date of the answer, in seconds since 1970.
        """
        # The message comes from a server. Control characters in it could damage a terminal.
        printable = "".join(letter if letter.isprintable() else "?" for letter in message)
        text = ": ".join(filter(None, (call, code if call else "", printable)))
        super().__init__(text or code, code=code)
        self.call = call
        self.status = status
        self.retry_after = retry_after
        self.server_time = server_time


class RecordingError(AgentError):
    """The recording itself cannot be uploaded. Another try changes nothing."""

    hint = "correct the recording or its sidecar"


class WaitingError(AgentError):
    """This recording alone waits for something that the operator sets on this robot."""


class FileChangedError(AgentError):
    """The file has changed while it was uploaded, or a program still writes to it.

    A read came up short, or the store received other bytes than were announced.
    """

    code = "file_changed"

    def __init__(self, message: str, *, wait_seconds: float = 0.0) -> None:
        """Wait ``wait_seconds`` before the next try, or, if 0, as long as a file must settle."""
        super().__init__(message)
        self.wait_seconds = wait_seconds


class GateClosedError(AgentError):
    """The gate is closed. ``message`` is the reason."""

    code = "gate_closed"


class SessionLostError(AgentError):
    """The platform does not know the upload session any more, or gave it up."""

    code = "session_lost"
    hint = "nothing to do on the robot: the agent begins a new session by itself"


class SetupError(AgentError):
    """A part of the agent cannot be built from its settings."""

    code = "setup"
    hint = "correct the configuration, then start the agent again"


class RefusedError(AgentError):
    """An operator's request is refused. The same request will be refused again."""

    code = "refused"
    hint = "the message says what is wrong with it"


class NotRunningError(AgentError):
    """No agent runs on this robot, or it has just stopped."""

    code = "not_running"
    hint = "start the agent"


class HistoryFullError(AgentError):
    """Not even the disk space reserved for the history is left."""

    code = "disk_full"
    hint = "free disk space; the agent goes on by itself"


class HistoryLockedError(AgentError):
    """Another agent works in the same state folder."""

    code = "locked"
    hint = "stop the other agent, or give this one its own agent.state_dir"


def judge(error: CloudError) -> Verdict:
    """Return what ``error`` means.

    Each HTTP status 5xx means that the store is unavailable. Any other code that is not in the
    table is counted as an attempt.
    """
    known = TABLE.get(error.code)
    if known is not None:
        return known
    if error.status >= 500:
        return STORE_AWAY
    return UNKNOWN


def blame_clock(error: Exception, now: float, built: float) -> None:
    """Say in the hint of ``error`` that this robot's clock is wrong, if that may be the cause.

    The cause of a certificate that is not valid yet, or of a signature from another time, is mostly
    the robot's clock. ``now`` is its time, ``built`` is the build date. Both are in seconds since
    1970.
    """
    if isinstance(error, CloudError) and error.means("clock_suspected") and now < built:
        error.hint = f"this robot's clock says {utc_text(now)}: set it; the agent goes on by itself"


def fault(error: AgentError, kind: Kind, hint: str = "") -> Fault:
    """Return ``error`` as a document keeps it.

    Its own hint goes before ``hint``, and ``hint`` before that of the table.
    """
    advice = error.hint or hint
    if not advice and isinstance(error, CloudError):
        advice = judge(error).hint
    return Fault(kind, error.code, error.message, advice)
