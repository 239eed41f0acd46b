"""Values about the transfer of a recording's bytes: parts, stored objects, progress, the link."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.model.bandwidth import Bandwidth

# The part size in bytes if the gateway's ``part_size_bytes`` is 0 or less.
DEFAULT_PART_SIZE = 8 * 1024 * 1024

# S3 allows at most this number of parts in one multipart upload.
S3_MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart upload: a range of the file. Numbers start at 1."""

    number: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class SentPart:
    """A part as the store holds it.

    ``checksum`` is the one that the store computed, in base64, or "" if the store gives none.
    ``algorithm`` is "SHA256", "CRC32" or "".
    """

    number: int
    size: int
    etag: str
    checksum: str = ""
    algorithm: str = ""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the bucket says that it holds under a key.

    ``etag`` is in double quotes, with letters as the store gave them.
    """

    size: int
    etag: str
    checksum: str = ""
    algorithm: str = ""


def parts_of(size: int, part_size: int) -> Sequence[Part]:
    """Cut a file of ``size`` bytes into parts of ``part_size`` bytes. The last may be shorter."""
    return [
        Part(number, offset, min(part_size, size - offset))
        for number, offset in enumerate(range(0, size, part_size), start=1)
    ]


class Transfer:
    """The progress of one upload, its share of the bandwidth, and the means to stop it.

    The upload hands this object to the store, which counts the bytes that it sends. The status
    reads the progress from it. A stop of the upload reaches all of its parts through this object.

    Every method may be called from any thread.
    """

    def __init__(self, total: int, bandwidth: Bandwidth | None = None) -> None:
        """Prepare to send ``total`` bytes, within ``bandwidth`` that all uploads share."""
        self.total = total
        # The bytes that the store had already when this claim began.
        self.kept = 0
        self._sent = 0
        self._passed = 0
        self._bandwidth = bandwidth
        # The lock that gives each upload one place in the order of all uploads.
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._at_stop: list[Callable[[], None]] = []
        # The lock of the counters and of the list of calls at a stop.
        self._lock = threading.Lock()

    @property
    def sent(self) -> int:
        """The bytes handed to the network so far, without those of parts that are sent again."""
        return self._sent

    @property
    def passed(self) -> int:
        """All bytes handed to the network so far, those of parts that are sent again included."""
        return self._passed

    @property
    def stopped(self) -> bool:
        """Whether the upload was told to stop at once."""
        return self._stop.is_set()

    def advance(self, count: int) -> None:
        """Count ``count`` bytes that were sent.

        A negative count takes back the bytes of a part that is sent again.
        """
        with self._lock:
            self._sent += count
            self._passed += max(count, 0)

    def grant(self, count: int) -> int:
        """Wait until some of the next ``count`` bytes may be sent, and return how many.

        Without a cap these are all of them. The wait ends early when the transfer is stopped, so
        the caller must check :attr:`stopped` afterwards.
        """
        if self._bandwidth is None or not self._bandwidth.turn or count == 0:
            return count
        # The parts of one upload wait here, one after the other. Therefore each upload has one
        # place in the order of all uploads, however many parts it has in flight.
        with self._turn:
            if not self.stopped:
                count = min(count, self._bandwidth.turn or count)
                self._stop.wait(self._bandwidth.reserve(count))
        return count

    def at_stop(self, act: Callable[[], None]) -> None:
        """Call ``act`` when the upload is stopped, or at once if the upload was stopped before."""
        with self._lock:
            self._at_stop.append(act)
            late = self.stopped
        if late:
            act()

    def stop(self) -> None:
        """Stop the upload and drop what is in flight."""
        with self._lock:
            self._stop.set()
            acts = list(self._at_stop)
        for act in acts:
            act()


@dataclass(frozen=True, slots=True)
class Link:
    """The network link by which this robot's requests leave it now.

    ``interfaces`` are the network interfaces on the route to the cloud. An empty set means that
    there is no route, and None that the route is not known. ``metered`` says whether each byte on
    the link costs money.
    """

    interfaces: frozenset[str] | None
    metered: bool = False
