"""Calls the store on behalf of one upload: repeated, with good keys, several parts at one time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from agent.cloud.credentials import SessionKeys
from agent.gate.gate import Gate
from agent.model.errors import AgentError, CloudError, FileChangedError, GateClosedError, judge
from agent.model.ports import Clock, Target
from agent.model.transfer import Part, SentPart, Transfer
from agent.upload.concurrency import MAX_PARTS_PER_UPLOAD, PartConcurrency
from agent.upload.source_file import SourceFile

Answer = TypeVar("Answer")

_ATTEMPTS = 3

# How often the throughput is measured while parts are in flight.
_MEASURE_INTERVAL_SECONDS = 0.5

# The pause before the second attempt. The pause before the third one is twice as long.
_PAUSE_SECONDS = 0.5

# The longest Retry-After that is waited for here. A longer one closes the gate.
_LONGEST_PAUSE_SECONDS = 20.0


def again(clock: Clock, ask: Callable[[], Answer]) -> Answer:
    """Make a call up to three times while the cloud is away, and return its answer.

    Only for calls that may be repeated. After an error of a stale connection the second attempt
    follows at once.

    Args:
        clock: Waits between the attempts.
        ask: Makes the call.

    Raises:
        CloudError: The last attempt failed, or an attempt failed in a way that no repetition helps.
    """
    for attempt in range(1, _ATTEMPTS):
        try:
            return ask()
        except CloudError as error:
            may_help = judge(error).kind == "offline" or error.means("repeatable")
            if not may_help or error.retry_after > _LONGEST_PAUSE_SECONDS:
                raise
            if attempt > 1 or not error.means("stale_connection"):
                clock.wait(max(_PAUSE_SECONDS * 2 ** (attempt - 1), error.retry_after))
    return ask()


class PartUploader:
    """Makes all calls to the store for one upload.

    It renews a refused lease, repeats what may be repeated, and sends several parts at one time.

    Used by the thread that uploads the recording. Its parts are sent by threads of its own.
    """

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
        """Call the store at ``target``.

        Args:
            target: The place of the object in the store.
            keys: The keys of the lease.
            gate: Asked before each part, and told of each success.
            pace: Says how many parts are sent at one time.
            clock: Waits between attempts.
            who: The id of the document.
            transfer: Counts the bytes, and stops the upload.
            probe: Whether the upload may pass a gate that the cloud closed.
        """
        self.target = target
        self._keys = keys
        self._gate = gate
        self._pace = pace
        self._clock = clock
        self._who = who
        self._transfer = transfer
        self._probe = probe
        # How many parts the store has proven so far.
        self._proven_parts = 0

    def call(self, name: str, ask: Callable[[], Answer]) -> Answer:
        """Make a call to the store, and tell the gate of the success.

        A call that is refused because of its lease is made once more with a renewed one.

        Args:
            name: The name of the call as the gate knows it.
            ask: Makes the call.

        Raises:
            CloudError: The call failed.
        """
        lease = self._keys.current()
        try:
            answer = ask()
        except CloudError as error:
            if not error.means("lease_refused"):
                raise
            self._keys.renew(lease)
            answer = ask()
        self._gate.passed(name, self._who)
        return answer

    def repeat(self, name: str, ask: Callable[[], Answer]) -> Answer:
        """Make a call that may be repeated while the store is away. Otherwise like :meth:`call`."""
        return again(self._clock, lambda: self.call(name, ask))

    def send(self, multipart_id: str, parts: Sequence[Part], source: SourceFile) -> list[SentPart]:
        """Send ``parts``, and return them by number once the store has proven each of them.

        As many parts are in flight as the pace allows. After the first failure no further part
        begins, those in flight end, and then the failure is raised. A thread that can't be started
        for a part is such a failure, too.

        Args:
            multipart_id: The multipart upload that the parts belong to.
            parts: The parts to send.
            source: The file.

        Raises:
            CloudError: The store failed.
            AgentError: The file has changed, or can't be read.
            RuntimeError, MemoryError: No thread could be started.
        """
        waiting = deque(parts)
        flying: set[Future[SentPart]] = set()
        sent: list[SentPart] = []
        errors: list[BaseException] = []

        def send_next(part: Part) -> SentPart:
            # The pool keeps a part for which it could not start a thread, and hands the part to a
            # thread that becomes free. Such a part must not be sent after the failure.
            if errors:
                raise GateClosedError("another part has failed")
            return self._send_one(multipart_id, part, source)

        run = self._pace.begin(lambda: self._transfer.passed)
        try:
            with ThreadPoolExecutor(MAX_PARTS_PER_UPLOAD, thread_name_prefix="part") as pool:
                while waiting or flying:
                    while waiting and len(flying) < self._pace.width:
                        try:
                            flying.add(pool.submit(send_next, waiting.popleft()))
                        except (RuntimeError, MemoryError) as shortage:
                            errors.append(shortage)
                            waiting.clear()
                    self._pace.look(
                        run, self._clock.monotonic(), flying=len(flying), more=bool(waiting)
                    )
                    ended, flying = wait(
                        flying, timeout=_MEASURE_INTERVAL_SECONDS, return_when=FIRST_COMPLETED
                    )
                    for future in ended:
                        error = future.exception()
                        if error is None:
                            sent.append(future.result())
                        else:
                            errors.append(error)
                    self._proven_parts = len(sent)
                    if errors:
                        waiting.clear()
        finally:
            self._pace.end(run)
        if errors:
            raise min(errors, key=_insignificance)
        return sorted(sent, key=lambda part: part.number)

    def _persist(self, ask: Callable[[], SentPart]) -> SentPart:
        """Repeat a call, and go on with that while other parts are sent successfully.

        A network that cuts a connection now and then is no outage.
        """
        while True:
            proven_parts = self._proven_parts
            try:
                return self.repeat("UploadPart", ask)
            except CloudError as error:
                has_progress = self._proven_parts != proven_parts
                if not (error.means("single_connection") and has_progress):
                    raise

    def _send_one(self, multipart_id: str, part: Part, source: SourceFile) -> SentPart:
        """Send one part, and return it once the store has proven it."""

        def ask() -> SentPart:
            # The gate is asked before each attempt: after a cut the robot may use another link.
            self._gate.check(probe=self._probe)
            try:
                return self.target.send(multipart_id, part, source.descriptor, self._transfer)
            except FileChangedError:
                source.check()
                raise
            except CloudError as error:
                if error.means("wrong_bytes"):
                    source.check()
                elif judge(error).kind == "offline" and not error.means("cut_connection"):
                    self._pace.failed(self._clock.monotonic())
                raise

        try:
            return self._persist(ask)
        except FileChangedError:
            # The check raises where the file has changed. Otherwise the disk gave wrong bytes once.
            source.check()
        try:
            return self.repeat("UploadPart", ask)
        except FileChangedError as error:
            source.check()
            raise AgentError(
                error.message,
                code="io_error",
                hint="check this robot's disk: the file can't be read",
            ) from error


def _insignificance(error: BaseException) -> tuple[bool, bool]:
    """Return a sort key that brings the error that says most to the front.

    An unexpected error comes first. A closed gate comes last: it is a consequence of another error.
    """
    return isinstance(error, AgentError), isinstance(error, GateClosedError)
