"""The contract of ``ports.ObjectStore``, for the fake and for the client on each real server."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.model.bandwidth import Bandwidth
from agent.model.digests import contradiction
from agent.model.errors import CloudError, FileChangedError, GateClosedError
from agent.model.ports import ObjectStore, Target
from agent.model.transfer import Part, SentPart, StoredObject, Transfer, parts_of
from agent.model.values import CredentialLease, UploadSession

# The smallest size in bytes that S3 accepts for any part but the last.
PART = 5 * 1024 * 1024
SIZE = 2 * PART + 12_345
CONTENT = random.Random(7).randbytes(SIZE)
_KEYS = itertools.count(1)


@dataclass
class Place:
    """A bucket of a store under test.

    Attributes:
        read: Returns the bytes of an object without the store under test.
        replaces: Whether a part that is sent again replaces the first one. rclone passes on a part
            at once, and then accepts no other bytes for its number.
        provable: Whether the ETag or a checksum proves the bytes of an object.
    """

    store: ObjectStore
    endpoint: str
    read: Callable[[str], bytes]
    lease: CredentialLease = field(repr=False)
    bucket: str = "recordings"
    replaces: bool = True
    provable: bool = True

    def target(self, key: str, lease: Callable[[], CredentialLease] | None = None) -> Target:
        """Return the target of one key."""
        session = UploadSession(
            "logical", "upload", self.bucket, self.endpoint, key, "us-east-1", PART
        )
        return self.store.at(session, lease or (lambda: self.lease))


class Meddler(Transfer):
    """A transfer that calls a function when the first bytes of a part are sent."""

    def __init__(self, total: int, act: Callable[[Meddler], None]) -> None:
        """Call ``act`` with the first block, when all digests have been computed."""
        super().__init__(total)
        self._act = act

    def advance(self, count: int) -> None:
        """Call the function if this is the first block, and count the bytes."""
        if count > 0 and self.sent == 0:
            self._act(self)
        super().advance(count)


class StoreContract:
    """The tests. A subclass provides the fixture ``place``."""

    @pytest.fixture
    def place(self) -> Place:
        raise NotImplementedError

    @pytest.fixture
    def key(self) -> str:
        return f"robot 7/ü+%/{next(_KEYS)}.mcap"

    @pytest.fixture
    def target(self, place: Place, key: str) -> Target:
        return place.target(key)

    @pytest.fixture
    def file(self, tmp_path: Path) -> Iterator[int]:
        path = tmp_path / "a.mcap"
        path.write_bytes(CONTENT)
        descriptor = os.open(path, os.O_RDWR)
        yield descriptor
        os.close(descriptor)

    def test_parts_sent_in_any_order_lie_joined_under_the_key(
        self, place: Place, target: Target, key: str, file: int
    ) -> None:
        multipart = target.begin()
        transfer = Transfer(SIZE)
        sent = [
            target.send(multipart, part, file, transfer) for part in reversed(parts_of(SIZE, PART))
        ][::-1]
        stored = target.complete(multipart, sent)
        assert transfer.sent == SIZE
        assert place.read(key) == os.pread(file, SIZE, 0)
        assert (stored.size, [part.size for part in sent]) == (SIZE, [PART, PART, 12_345])
        assert stored.etag.startswith('"')
        assert stored.etag.endswith('"')

    def test_stat_tells_what_lies_under_the_key(self, target: Target, file: int) -> None:
        assert target.stat() is None
        sent, _ = self._upload(target, file)
        found = target.stat()
        assert found is not None
        assert found.size == SIZE
        assert not contradiction(sent, found.etag, found.checksum, found.algorithm, digests=True)

    def test_a_stored_object_holds_the_files_bytes_and_no_others(
        self, place: Place, target: Target, file: int
    ) -> None:
        self._upload(target, file)
        found = target.stat()
        assert found is not None
        windows = parts_of(SIZE, PART)
        assert target.holds(found, windows, file) == place.provable
        self._flip(file, SIZE - 1)
        assert not target.holds(found, windows, file)
        assert not target.holds(found, windows[:-1], file)

    def test_a_part_that_waits_for_its_share_of_a_cap_ends_as_soon_as_it_is_stopped(
        self, target: Target, file: int
    ) -> None:
        # At this rate the part would take an hour and a half.
        transfer = Transfer(PART, Bandwidth(1_000, time.monotonic))
        multipart = target.begin()
        stop = threading.Timer(0.3, transfer.stop)
        stop.start()
        with pytest.raises(GateClosedError):
            target.send(multipart, Part(1, 0, PART), file, transfer)
        stop.join()
        assert transfer.sent == 0

    def test_a_single_part_is_a_multipart_too(self, target: Target, file: int) -> None:
        multipart = target.begin()
        stored = target.complete(
            multipart, [target.send(multipart, Part(1, 0, 100), file, Transfer(100))]
        )
        assert stored.size == 100
        assert stored.etag.strip('"').endswith("-1")

    def test_a_part_sent_again_replaces_the_one_before(
        self, place: Place, target: Target, key: str, file: int
    ) -> None:
        if not place.replaces:
            pytest.skip("this store takes a part once")
        multipart = target.begin()
        target.send(multipart, Part(1, 500, 100), file, Transfer(100))
        target.complete(multipart, [target.send(multipart, Part(1, 0, 90), file, Transfer(90))])
        assert place.read(key) == os.pread(file, 90, 0)

    def test_the_parts_held_are_listed_in_order_and_match_the_file(
        self, target: Target, file: int
    ) -> None:
        multipart = target.begin()
        first, second, _ = parts_of(SIZE, PART)
        sent = [target.send(multipart, part, file, Transfer(SIZE)) for part in (second, first)]
        listed = target.parts(multipart)
        assert [part.number for part in listed] == [1, 2]
        assert [part.etag.lower() for part in listed] == [
            part.etag.lower() for part in reversed(sent)
        ]
        assert [part.checksum for part in listed] == [part.checksum for part in reversed(sent)]
        assert target.matches(listed[0], first, file)
        assert target.matches(listed[1], second, file)

    def test_a_listed_part_of_other_bytes_or_another_size_does_not_match(
        self, target: Target, file: int
    ) -> None:
        multipart = target.begin()
        target.send(multipart, Part(1, 0, 1000), file, Transfer(1000))
        (listed,) = target.parts(multipart)
        assert not target.matches(listed, Part(1, 1, 1000), file)
        assert not target.matches(listed, Part(1, 0, 999), file)

    def test_an_upload_goes_on_from_the_parts_that_the_store_lists(
        self, place: Place, key: str, target: Target, file: int
    ) -> None:
        multipart = target.begin()
        first, *others = parts_of(SIZE, PART)
        target.send(multipart, first, file, Transfer(SIZE))
        later = place.target(key)
        sent = [later.send(multipart, part, file, Transfer(SIZE)) for part in others]
        later.complete(
            multipart, [*[part for part in later.parts(multipart) if part.number == 1], *sent]
        )
        assert place.read(key) == os.pread(file, SIZE, 0)

    def test_where_no_multipart_was_begun_none_is_listed(self, target: Target) -> None:
        assert list(target.multiparts()) == []

    def test_multiparts_are_listed_for_exactly_this_key(
        self, place: Place, key: str, target: Target
    ) -> None:
        mine = {target.begin(), target.begin()}
        place.target(key + "x").begin()
        assert set(target.multiparts()) == mine

    def test_an_aborted_multipart_is_gone_and_aborting_it_again_is_no_error(
        self, target: Target, file: int
    ) -> None:
        multipart = target.begin()
        target.send(multipart, Part(1, 0, 100), file, Transfer(100))
        target.abort(multipart)
        target.abort(multipart)
        assert multipart not in target.multiparts()
        with pytest.raises(CloudError) as raised:
            target.parts(multipart)
        assert raised.value.call == "ListParts"

    def test_a_part_for_a_multipart_that_is_gone_is_refused(
        self, target: Target, file: int
    ) -> None:
        multipart = target.begin()
        target.abort(multipart)
        transfer = Transfer(100)
        with pytest.raises(CloudError) as raised:
            target.send(multipart, Part(1, 0, 100), file, transfer)
        assert raised.value.call == "UploadPart"
        assert transfer.sent == 0

    def test_completing_with_a_part_that_was_never_sent_is_refused(
        self, target: Target, file: int
    ) -> None:
        multipart = target.begin()
        sent = target.send(multipart, Part(1, 0, PART), file, Transfer(PART))
        with pytest.raises(CloudError) as raised:
            target.complete(multipart, [sent, SentPart(2, 5, '"0123456789abcdef0123456789abcdef"')])
        assert raised.value.call == "CompleteMultipartUpload"

    def test_after_a_complete_the_multipart_is_gone_and_the_object_stays(
        self, target: Target, file: int
    ) -> None:
        sent, multipart = self._upload(target, file)
        with pytest.raises(CloudError):
            target.send(multipart, Part(1, 0, 100), file, Transfer(100))
        stored = target.stat()
        assert stored is not None
        assert stored.size == sum(part.size for part in sent)

    def test_a_file_cut_short_is_said_to_have_changed_and_progress_is_taken_back(
        self, target: Target, file: int
    ) -> None:
        multipart = target.begin()
        os.ftruncate(file, PART)
        transfer = Transfer(SIZE)
        with pytest.raises(FileChangedError):
            target.send(multipart, Part(1, PART - 1000, 2000), file, transfer)
        assert transfer.sent == 0

    def test_a_stop_ends_a_part_in_its_middle_and_takes_its_progress_back(
        self, target: Target, file: int
    ) -> None:
        multipart = target.begin()
        transfer = Meddler(SIZE, Transfer.stop)
        with pytest.raises(GateClosedError):
            target.send(multipart, Part(1, 0, PART), file, transfer)
        assert transfer.sent == 0
        assert target.parts(multipart) == []

    def test_a_target_that_was_broken_off_refuses_everything(
        self, place: Place, key: str, file: int
    ) -> None:
        target = place.target(key)
        multipart = target.begin()
        target.break_off()
        transfer = Transfer(100)
        for act in (
            target.begin,
            target.stat,
            lambda: target.send(multipart, Part(1, 0, 100), file, transfer),
        ):
            with pytest.raises(GateClosedError):
                act()
        assert transfer.sent == 0
        assert place.target(key).parts(multipart) == []

    def test_bytes_that_change_after_their_digest_was_taken_are_noticed(
        self, target: Target, file: int
    ) -> None:
        multipart = target.begin()
        transfer = Meddler(SIZE, lambda _: self._flip(file, PART - 1))
        with pytest.raises(CloudError) as raised:
            target.send(multipart, Part(1, 0, PART), file, transfer)
        assert raised.value.code == "checksum"
        assert transfer.sent == 0

    def test_bytes_that_change_in_a_later_part_are_noticed_too(
        self, target: Target, file: int
    ) -> None:
        multipart = target.begin()
        target.send(multipart, Part(1, 0, 100), file, Transfer(100))
        with pytest.raises(CloudError) as raised:
            target.send(
                multipart,
                Part(2, 0, PART),
                file,
                Meddler(SIZE, lambda _: self._flip(file, PART - 1)),
            )
        assert raised.value.code == "checksum"

    def test_the_same_part_sent_again_after_damage_is_good(
        self, place: Place, key: str, target: Target, file: int
    ) -> None:
        if not place.replaces:
            pytest.skip("this store takes a part once")
        multipart = target.begin()
        with pytest.raises(CloudError):
            target.send(
                multipart,
                Part(1, 0, PART),
                file,
                Meddler(SIZE, lambda _: self._flip(file, PART - 1)),
            )
        target.complete(multipart, [target.send(multipart, Part(1, 0, PART), file, Transfer(PART))])
        assert place.read(key) == os.pread(file, PART, 0)

    def test_a_small_object_is_put_whole_and_read_up_to_a_limit(
        self, place: Place, key: str, target: Target
    ) -> None:
        assert target.read(10) is None
        target.put(b"first", "application/json")
        target.put(b"", "application/json")
        assert target.read(10) == b""
        target.put(b"second", "application/json")
        assert (target.read(100), target.read(6), target.read(3)) == (b"second", b"second", b"sec")
        assert place.read(key) == b"second"

    def test_the_lease_is_asked_at_every_request(self, place: Place, key: str, file: int) -> None:
        calls = []

        def lease() -> CredentialLease:
            calls.append(1)
            return place.lease

        self._upload(place.target(key, lease), file)
        assert len(calls) >= 5

    @staticmethod
    def _flip(file: int, offset: int) -> None:
        os.pwrite(file, bytes([os.pread(file, 1, offset)[0] ^ 1]), offset)

    @staticmethod
    def _upload(target: Target, file: int) -> tuple[list[SentPart], str]:
        multipart = target.begin()
        sent = [target.send(multipart, part, file, Transfer(SIZE)) for part in parts_of(SIZE, PART)]
        stored: StoredObject = target.complete(multipart, sent)
        assert stored.size == SIZE
        return sent, multipart
