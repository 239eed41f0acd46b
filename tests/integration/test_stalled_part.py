"""A part that stalls on a dead link to a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from minio import Minio

from agent.adapters.clock import RealClock
from agent.adapters.store import MinioStore
from agent.cloud.credentials import SessionKeys
from agent.gate.gate import Delays, Gate
from agent.model.ports import Target
from agent.model.transfer import Part, SentPart, Transfer, parts_of
from agent.model.values import UploadSession
from agent.upload.concurrency import PartConcurrency
from agent.upload.part_uploader import PartUploader
from agent.upload.source_file import SourceFile
from tests.harness import s3_servers as servers
from tests.harness.fakes.upload_parts import SameKeys, UnchangedFile
from tests.harness.scripted_http_server import LEASE
from tests.harness.slow_link import Wire, slow_link

PART = 300 * 1024


@pytest.fixture
def stalling() -> Iterator[str]:
    # The server is moto, because rclone waits for the rest of the part that a dead link left half
    # sent.
    with servers.moto() as server:
        where = server.endpoint.partition("://")[2]
        Minio(where, "key", "secret", secure=False, region="us-east-1").make_bucket("recordings")
        dies = Wire(stall_after=100 * 1024)
        with slow_link(where, lambda number: dies if number == 1 else Wire()) as link:
            yield f"http://{link.address}"


def test_a_stalled_part_is_sent_again_and_no_other_waits_for_it(
    stalling: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.mcap"
    file.write_bytes(bytes(range(256)) * (8 * PART // 256))
    store = MinioStore(clock=RealClock(), patience=1)
    session = UploadSession("l", "u", "recordings", stalling, "a.mcap", "us-east-1", PART)
    target = store.at(session, lambda: LEASE)
    ended: list[int] = []

    class RecordingTarget:
        def send(self, multipart: str, part: Part, descriptor: int, transfer: Transfer) -> SentPart:
            try:
                return target.send(multipart, part, descriptor, transfer)
            finally:
                ended.append(part.number)

    transfer = Transfer(8 * PART)
    with file.open("rb") as opened:
        multipart = target.begin()
        uploader = PartUploader(
            cast("Target", RecordingTarget()),
            cast("SessionKeys", SameKeys()),
            Gate(RealClock(), Delays(1, 1, 0)),
            PartConcurrency(2),
            RealClock(),
            who=1,
            transfer=transfer,
            probe=False,
        )
        sent = uploader.send(
            multipart, parts_of(8 * PART, PART), cast("SourceFile", UnchangedFile(opened.fileno()))
        )
        listed = target.parts(multipart)
        assert (
            [part.number for part in listed] == [part.number for part in sent] == list(range(1, 9))
        )
        windows = parts_of(8 * PART, PART)
        assert all(
            target.matches(part, windows[part.number - 1], opened.fileno()) for part in listed
        )
    store.close()
    stalled = next(number for number in ended if ended.count(number) == 2)
    assert set(ended[: ended.index(stalled)]) == set(range(1, 9)) - {stalled}
    assert transfer.sent == 8 * PART
