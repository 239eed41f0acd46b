"""Calls to the store on behalf of one upload: retried, with good keys, several parts in flight."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from agent.flow.credentials import SessionKeys
from agent.flow.gate import Gate
from agent.flow.source import Source
from agent.model.errors import AgentError, CloudError, FileChangedError, GateClosedError, judge
from agent.model.nouns import Part, SentPart, Transfer
from agent.model.ports import Clock, Target

Answer = TypeVar("Answer")

_TRIES = 3
_PAUSE = 0.5  # seconds before the second try, doubled for the third
_LONGEST_PAUSE = 20.0  # of a Retry-After that is honoured here; a longer one is the gate's business
_MAYBE_LEASE = frozenset({"AccessDenied", "HTTP_403"})  # stores say that of an ended lease too


def again(clock: Clock, ask: Callable[[], Answer]) -> Answer:
    """Ask up to three times while the cloud is away. Only for what may be repeated. Raises CloudError."""
    for attempt in range(1, _TRIES):
        try:
            return ask()
        except CloudError as error:
            if (judge(error).kind != "offline" and error.code != "checksum") or error.retry_after > _LONGEST_PAUSE:
                raise
            clock.wait(max(_PAUSE * 2 ** (attempt - 1), error.retry_after))
    return ask()


class Sender:
    """What one upload asks of the store goes through here."""

    def __init__(
        self, target: Target, keys: SessionKeys, gate: Gate, clock: Clock, *, who: int, transfer: Transfer, probe: bool
    ) -> None:
        """``who`` is the document's id; ``probe`` passes a gate that the cloud closed."""
        self.target = target
        self._keys = keys
        self._gate = gate
        self._clock = clock
        self._who = who
        self._transfer = transfer
        self._probe = probe

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

    def send(self, multipart_id: str, parts: Sequence[Part], source: Source, width: int) -> list[SentPart]:
        """Send ``parts``, up to ``width`` at a time, and return them once the store has proven each.

        After the first failure no further part starts and those in flight end; then that failure is raised.
        """
        waiting = iter(parts)
        lock = threading.Lock()
        failed = threading.Event()

        def work() -> list[SentPart]:
            done: list[SentPart] = []
            while not failed.is_set():
                with lock:
                    part = next(waiting, None)
                if part is None:
                    break
                try:
                    done.append(self._send_one(multipart_id, part, source))
                except BaseException:
                    failed.set()
                    raise
            return done

        with ThreadPoolExecutor(max(1, min(width, len(parts))), thread_name_prefix="part") as pool:
            workers = [pool.submit(work) for _ in range(min(width, len(parts)))]
        return _gather(workers)

    def _send_one(self, multipart_id: str, part: Part, source: Source) -> SentPart:
        def ask() -> SentPart:
            self._gate.check(probe=self._probe)  # before each try: a part that was cut off may find another link
            try:
                return self.target.send(multipart_id, part, source.descriptor, self._transfer)
            except (FileChangedError, CloudError) as error:
                if isinstance(error, FileChangedError) or error.code == "checksum":
                    source.check()
                raise

        try:
            return self.repeat("UploadPart", ask)
        except FileChangedError:
            source.check()  # nothing differs: the read was the fault, not the file
        try:
            return self.repeat("UploadPart", ask)
        except FileChangedError as error:
            source.check()
            raise AgentError(
                error.message, code="io_error", hint="check this robot's disk: the file can't be read"
            ) from error


def _gather(workers: Sequence[Future[list[SentPart]]]) -> list[SentPart]:
    """All parts in order, or the failure that says most: a closed gate is only a consequence."""
    errors = [error for worker in workers if (error := worker.exception()) is not None]
    if errors:
        raise min(errors, key=lambda error: (isinstance(error, AgentError), isinstance(error, GateClosedError)))
    return sorted((part for worker in workers for part in worker.result()), key=lambda part: part.number)
