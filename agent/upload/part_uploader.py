"""Calls to the store on behalf of one upload: retried, with good keys, several parts in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from agent.cloud.credentials import SessionKeys
from agent.gate.gate import Gate
from agent.model.errors import AgentError, CloudError, FileChangedError, GateClosedError, judge
from agent.model.ports import Clock, Target
from agent.model.values import Part, SentPart, Transfer
from agent.upload.concurrency import MOST, PartConcurrency
from agent.upload.source_file import SourceFile

Answer = TypeVar("Answer")

_TRIES = 3
_LOOK = 0.5  # seconds between looks at the pace
_PAUSE = 0.5  # seconds before the second try, doubled for the third
_LONGEST_PAUSE = 20.0  # of a Retry-After that is honoured here; a longer one is the gate's business
_CUT = frozenset(
    {"reset", "timeout", "no_http"}
)  # what one connection may suffer while others live
_STALE = frozenset({"reset", "no_http"})  # tells little of the cloud, and much of an old connection
_AGAIN = frozenset({"checksum", "no_http"})  # what is tried again at once, though it is no outage
_MAYBE_LEASE = frozenset({"AccessDenied", "HTTP_403"})  # stores say that of an ended lease too


def again(clock: Clock, ask: Callable[[], Answer]) -> Answer:
    """Ask up to three times while the cloud is away. Only for what may be repeated. Raises CloudError.

    After a reset, or what is no HTTP, the second try follows at once.
    """
    for attempt in range(1, _TRIES):
        try:
            return ask()
        except CloudError as error:
            worth_it = judge(error).kind == "offline" or error.code in _AGAIN
            if not worth_it or error.retry_after > _LONGEST_PAUSE:
                raise
            if attempt > 1 or error.code not in _STALE:
                clock.wait(max(_PAUSE * 2 ** (attempt - 1), error.retry_after))
    return ask()


class PartUploader:
    """What one upload asks of the store goes through here."""

    def __init__(
        self,
        target: Target,
        keys: SessionKeys,
        gate: Gate,
        pace: PartConcurrency,
        clock: Clock,
        *,
        who: int,
        transfer: Transfer,
        probe: bool,
    ) -> None:
        """``who`` is the document's id; ``probe`` passes a gate that the cloud closed."""
        self.target = target
        self._keys = keys
        self._gate = gate
        self._pace = pace
        self._clock = clock
        self._who = who
        self._transfer = transfer
        self._probe = probe
        self._proven = 0  # parts

    def call(self, name: str, ask: Callable[[], Answer]) -> Answer:
        """Ask the store once with good keys: a refused lease is renewed once. Tells the gate of a success."""
        lease = self._keys.current()
        try:
            answer = ask()
        except CloudError as error:
            if judge(error).kind != "lease_lost" and error.code not in _MAYBE_LEASE:
                raise
            self._keys.renew(lease)
            answer = ask()
        self._gate.passed(name, self._who)
        return answer

    def repeat(self, name: str, ask: Callable[[], Answer]) -> Answer:
        """The same for what may be repeated: tried again while the store is away."""
        return again(self._clock, lambda: self.call(name, ask))

    def send(self, multipart_id: str, parts: Sequence[Part], source: SourceFile) -> list[SentPart]:
        """Send ``parts``, as many at a time as the pace allows, and return them once the store has proven each.

        After the first failure no further part starts and those in flight end; then that failure is raised. Where no
        thread can be started for a part, that is the failure.
        """
        waiting = deque(parts)
        flying: set[Future[SentPart]] = set()
        sent: list[SentPart] = []
        errors: list[BaseException] = []

        def send_next(part: Part) -> SentPart:
            # The pool keeps a part for which it could not start a thread, and hands it to a thread that becomes free.
            if errors:
                raise GateClosedError("another part has failed")
            return self._send_one(multipart_id, part, source)

        run = self._pace.begin(lambda: self._transfer.passed)
        try:
            with ThreadPoolExecutor(MOST, thread_name_prefix="part") as pool:
                while waiting or flying:
                    while waiting and len(flying) < self._pace.width:
                        try:
                            flying.add(pool.submit(send_next, waiting.popleft()))
                        except (RuntimeError, MemoryError) as lack:
                            errors.append(lack)
                            waiting.clear()
                    self._pace.look(
                        run, self._clock.monotonic(), flying=len(flying), more=bool(waiting)
                    )
                    ended, flying = wait(flying, timeout=_LOOK, return_when=FIRST_COMPLETED)
                    errors += [error for part in ended if (error := part.exception()) is not None]
                    sent += [part.result() for part in ended if part.exception() is None]
                    self._proven = len(sent)
                    if errors:
                        waiting.clear()
        finally:
            self._pace.end(run)
        if errors:  # one that says most: a closed gate is only a consequence
            raise min(
                errors,
                key=lambda error: (
                    isinstance(error, AgentError),
                    isinstance(error, GateClosedError),
                ),
            )
        return sorted(sent, key=lambda part: part.number)

    def _persist(self, ask: Callable[[], SentPart]) -> SentPart:
        """Repeat, and repeat that while other parts get through: a line that is cut now and then is no outage."""
        while True:
            proven = self._proven
            try:
                return self.repeat("UploadPart", ask)
            except CloudError as error:
                if error.code not in _CUT or self._proven == proven:
                    raise

    def _send_one(self, multipart_id: str, part: Part, source: SourceFile) -> SentPart:
        def ask() -> SentPart:
            self._gate.check(
                probe=self._probe
            )  # before each try: a part that was cut off may find another link
            try:
                return self.target.send(multipart_id, part, source.descriptor, self._transfer)
            except (FileChangedError, CloudError) as error:
                if isinstance(error, FileChangedError) or error.code == "checksum":
                    source.check()
                elif (
                    judge(error).kind == "offline" and error.code != "reset"
                ):  # a cut does not say: too many
                    self._pace.failed(self._clock.monotonic())
                raise

        try:
            return self._persist(ask)
        except FileChangedError:
            source.check()  # nothing differs: the read was the fault, not the file
        try:
            return self.repeat("UploadPart", ask)
        except FileChangedError as error:
            source.check()
            raise AgentError(
                error.message,
                code="io_error",
                hint="check this robot's disk: the file can't be read",
            ) from error
