"""The examination of one file: a recording, a damaged file, or a file that is not finished yet."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.cloud.sidecar_values import content_of
from agent.discovery import examine
from agent.discovery import sidecar as sidecar_module
from agent.discovery.examine import Examiner, NotYet
from agent.discovery.sidecar import SidecarRule
from agent.files.fingerprint import fingerprint
from agent.model.errors import RecordingError
from agent.model.values import Damaged, Fingerprint, Recording
from tests.harness import recorders


def examined(
    path: Path, rule: SidecarRule = "ignore", **overdue: bool
) -> Recording | Damaged | NotYet:
    return Examiner([path.parent], rule).look(path, **overdue)


def recording(path: Path, rule: SidecarRule = "optional") -> Recording:
    found = examined(path, rule, sidecar_overdue=True, done_overdue=True)
    assert isinstance(found, Recording)
    return found


def why(found: Recording | Damaged | NotYet) -> str:
    assert isinstance(found, NotYet)
    return found.why


def fingerprint_of(path: Path) -> Fingerprint:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return fingerprint(descriptor, path.stat().st_size)
    finally:
        os.close(descriptor)


def test_a_complete_file_is_a_recording(tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap", metadata={"keystone": {"episode_id": "e1"}})
    found = recording(path)
    state = path.stat()
    assert (found.path, found.root, found.size) == (path, tmp_path, state.st_size)
    assert (found.device, found.inode, found.mtime_ns) == (
        state.st_dev,
        state.st_ino,
        state.st_mtime_ns,
    )
    assert found.fingerprint == fingerprint_of(path)
    assert found.tail.metadata == {"keystone": {"episode_id": "e1"}}
    assert (found.sidecar, found.own_tags) == (None, {})


def test_a_name_of_the_longest_kind_is_taken_though_nothing_can_lie_beside_it(
    tmp_path: Path,
) -> None:
    path = recorders.write_mcap(tmp_path / ("x" * 250 + ".mcap"))
    assert isinstance(examined(path), Recording)
    by_axon = {"axon.task": {"task_id": "t"}}
    path = recorders.write_mcap(tmp_path / ("y" * 250 + ".mcap"), metadata=by_axon)
    assert why(examined(path)) == "done_marker"


def test_the_root_is_the_innermost_one(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    path = recorders.write_mcap(inner / "a.mcap")
    found = Examiner([tmp_path, inner], "ignore").look(path)
    assert isinstance(found, Recording)
    assert found.root == inner


def test_a_file_outside_of_the_roots_is_refused(tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    with pytest.raises(RecordingError) as caught:
        Examiner([tmp_path / "roo"], "ignore").look(path)
    assert caught.value.code == "not_in_root"


def test_an_unfinished_file_is_still_recording(tmp_path: Path) -> None:
    assert why(examined(recorders.unfinished(tmp_path / "a.mcap"))) == "recording"
    (tmp_path / "b.mcap").touch()
    assert why(examined(tmp_path / "b.mcap")) == "recording"


def test_a_damaged_file_has_a_reason_and_a_fingerprint(tmp_path: Path) -> None:
    path = recorders.damaged(tmp_path / "a.mcap")
    found = examined(path)
    assert isinstance(found, Damaged)
    assert found.fingerprint == fingerprint_of(path)
    assert "checksum" in found.reason


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        examined(tmp_path / "a.mcap")


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mcap")
    (tmp_path / "folder.mcap").mkdir()
    (tmp_path / "link.mcap").symlink_to(recorders.write_mcap(tmp_path / "a.mcap"))
    for name in ("pipe.mcap", "folder.mcap", "link.mcap"):
        with pytest.raises(RecordingError) as caught:
            examined(tmp_path / name)
        assert caught.value.code == "not_regular"


def test_a_link_is_followed_where_that_is_configured(tmp_path: Path) -> None:
    target = recorders.write_mcap(tmp_path / "a.mcap")
    (tmp_path / "link.mcap").symlink_to(target)
    found = Examiner([tmp_path], "ignore", follow_symlinks=True).look(tmp_path / "link.mcap")
    assert isinstance(found, Recording)
    assert (found.path.name, found.inode) == ("link.mcap", target.stat().st_ino)


@pytest.mark.parametrize("change", ["append", "replace"])
def test_a_file_that_changes_under_the_look_is_still_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    other = recorders.write_mcap(tmp_path / "b.mcap", seed=1)

    def changing(descriptor: int, size: int) -> Fingerprint:
        if change == "append":
            with path.open("ab") as stream:
                stream.write(b"more")
        else:
            other.replace(path)
        return fingerprint(descriptor, size)

    monkeypatch.setattr(examine, "fingerprint", changing)
    assert why(examined(path)) == "recording"


def test_the_bytes_are_read_once_as_long_as_they_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []

    def counted(descriptor: int, size: int) -> Fingerprint:
        reads.append(size)
        return fingerprint(descriptor, size)

    monkeypatch.setattr(examine, "fingerprint", counted)
    path = recorders.write_mcap(tmp_path / "a.mcap")
    examiner = Examiner([tmp_path], "ignore")
    examiner.look(path)
    path.rename(tmp_path / "b.mcap")
    examiner.look(tmp_path / "b.mcap")
    assert len(reads) == 1
    os.utime(tmp_path / "b.mcap", ns=(1, 1))
    examiner.look(tmp_path / "b.mcap")
    assert len(reads) == 2


def test_the_memory_of_bytes_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "_CACHED_FILES", 3)
    examiner = Examiner([tmp_path], "ignore")
    for number in range(5):
        examiner.look(recorders.write_mcap(tmp_path / f"{number}.mcap", size=100))
    assert len(examiner._contents) == 3


def test_a_sidecar_is_waited_for_until_it_is_overdue(tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    assert why(examined(path, "optional")) == "sidecar"
    assert why(examined(path, "required")) == "sidecar"
    for rule in ("optional", "required"):
        assert recording(path, rule).sidecar is None


def test_a_sidecar_is_read_with_its_numbers_as_they_are(tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    raw = (
        b'{"whole": 12345678901234567890123, "other": 1.0, "e": 1E+3, '
        b'"text": "\\u00e4\\ud83d\\ude00"}'
    )
    (tmp_path / "a.json").write_bytes(raw)
    found = examined(path, "optional")
    assert isinstance(found, Recording)
    assert found.sidecar is not None
    assert found.sidecar.content == {
        "whole": 12345678901234567890123,
        "other": 1.0,
        "e": 1000.0,
        "text": "ä😀",
    }
    assert isinstance(found.sidecar.content["whole"], int)
    assert isinstance(found.sidecar.content["other"], float)
    assert (found.sidecar.sha256, found.sidecar.fault) == (hashlib.sha256(raw).hexdigest(), "")


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"", "empty"),
        (b"[]", "no JSON object"),
        (b"null", "no JSON object"),
        (b'{"a": 1', "Expecting"),
        (b'{"a": 1} x', "Extra data"),
        (b'\xef\xbb\xbf\xef\xbb\xbf{"a": 1}', "BOM"),
        ('{"a": 1}'.encode("utf-16-le"), "Expecting"),
        (b'{"a": "\xff"}', "codec"),
        (b'{"a": "\\ud800"}', "surrogates"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": [{"b": -Infinity}]}', "Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"1" * 5000 + b"}", "digits"),
        (b'{"": 1}', "empty key"),
        (b'{"a": [{"b": {"": 1}}]}', "empty key"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "deeply"),
        (b'{"a": ' + b"[" * 20_000, "deeply"),
        (b'{"a": ' + b"[" * 100_000, "more than 20000"),
        (b'{"a": "' + b"x" * (4 << 20) + b'"}', "larger"),
    ],
)
def test_a_sidecar_that_is_no_json_object_says_why(tmp_path: Path, raw: bytes, fault: str) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    (tmp_path / "a.json").write_bytes(raw)
    sidecar = recording(path).sidecar
    assert sidecar is not None
    assert sidecar.content is None
    assert fault in sidecar.fault


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_sidecar_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    (tmp_path / "a.json").write_text('{"name": "ä"}', encoding=encoding)
    sidecar = recording(path).sidecar
    assert sidecar is not None
    assert sidecar.content == {"name": "ä"}


def test_a_sidecar_that_this_user_may_not_read_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    recorders.write_sidecar(path)

    def forbidden(*_: object, **__: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sidecar_module, "_read_raw", forbidden)
    found = recording(path)
    with pytest.raises(RecordingError, match=r"a\.json can't be read: Permission") as caught:
        content_of(found)
    assert caught.value.code == "sidecar_unreadable"
    assert "right to read the sidecar" in caught.value.hint


def test_a_folder_in_the_sidecar_s_place_is_no_json_object(tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    (tmp_path / "a.json").mkdir()
    sidecar = recording(path).sidecar
    assert sidecar is not None
    assert (sidecar.content, sidecar.fault) == (None, "it is no regular file")


def test_an_ignored_sidecar_is_never_read(tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    (tmp_path / "a.json").write_text("no JSON")
    assert recording(path, "ignore").sidecar is None


def test_a_linked_sidecar_is_skipped_like_any_link(tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    (tmp_path / "real").write_text("{}")
    (tmp_path / "a.json").symlink_to(tmp_path / "real")
    assert recording(path).sidecar is None


def test_an_unreadable_sidecar_is_an_error_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    recorders.write_sidecar(path)

    def broken(*_: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sidecar_module, "_read_up_to", broken)
    with pytest.raises(OSError, match=r"its sidecar a\.json: Input/output"):
        examined(path, "optional")


def test_an_axon_recording_waits_for_done_or_a_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    steps = recorders.axon_steps(path)
    assert next(steps) == "footer"
    # Nothing in the file shows yet that Axon wrote it. Settling protects such a file.
    assert isinstance(examined(path), Recording)
    assert next(steps) == "metadata"
    assert why(examined(path)) == "done_marker"
    assert isinstance(examined(path, done_overdue=True), Recording)
    assert next(steps) == "sidecar"
    assert isinstance(examined(path), Recording)
    (tmp_path / "a.json").unlink()
    assert why(examined(path)) == "done_marker"
    assert next(steps) == "done"
    assert isinstance(examined(path), Recording)


def test_an_older_done_marker_proves_nothing(tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap", metadata={"axon.device": {"id": "r1"}})
    marker = tmp_path / "a.mcap.done"
    marker.touch()
    mtime = path.stat().st_mtime_ns
    os.utime(marker, ns=(mtime, mtime - 1))
    assert why(examined(path)) == "done_marker"
    os.utime(marker, ns=(mtime, mtime))
    assert isinstance(examined(path), Recording)


def test_a_split_is_no_recording_while_it_is_compressed(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    compressed = tmp_path / "a.mcap.zstd"
    steps = recorders.compression_steps(path)
    assert next(steps) == "closed"
    assert isinstance(examined(path), Recording)
    for step in ("compressing", "compressed"):
        assert next(steps) == step
        assert why(examined(path)) == "compressing"
        assert why(examined(compressed)) == "compressing"
    assert next(steps) == "deleted"
    found = examined(compressed)
    assert isinstance(found, Recording)
    assert found.own_tags == {"compression": "zstd"}
    assert found.fingerprint == fingerprint_of(compressed)


def test_a_compressed_file_needs_its_magic(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap.zstd"
    path.write_bytes(b"\x28\xb5")
    assert why(examined(path)) == "recording"
    path.write_bytes(b"PK\x03\x04....")
    assert isinstance(examined(path), Damaged)


def test_a_folder_that_was_swapped_for_a_link_hides_recording_and_sidecar_alike(
    tmp_path: Path,
) -> None:
    private, root = tmp_path / "private", tmp_path / "root"
    private.mkdir()
    root.mkdir()
    recorders.write_sidecar(recorders.write_mcap(private / "a.mcap"), {"episode_id": "secret"})
    (root / "bag").symlink_to(private)
    with pytest.raises(RecordingError) as caught:
        Examiner([root], "optional").look(root / "bag" / "a.mcap")
    assert caught.value.code == "not_in_root"
    found = Examiner([root], "optional", follow_symlinks=True).look(root / "bag" / "a.mcap")
    assert isinstance(found, Recording)
    assert found.sidecar is not None


def test_a_done_marker_that_is_a_link_proves_nothing(tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap", metadata={"axon.task": {"task_id": "t"}})
    (tmp_path / "fresh").touch()
    (tmp_path / "a.mcap.done").symlink_to(tmp_path / "fresh")
    os.utime(tmp_path / "a.mcap.done", (1, 1), follow_symlinks=False)
    assert why(examined(path)) == "done_marker"


def test_a_complete_file_with_a_writer_is_not_taken_until_nobody_waits_any_longer(
    tmp_path: Path,
) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    with path.open("r+b"):
        assert why(examined(path)) == "writer"
        assert isinstance(examined(path, writer_overdue=True), Recording)
    assert isinstance(examined(path), Recording)


def test_a_damaged_file_with_a_writer_is_not_judged_yet(tmp_path: Path) -> None:
    path = recorders.damaged(tmp_path / "a.mcap")
    with path.open("r+b"):
        assert why(examined(path)) == "writer"
    assert isinstance(examined(path), Damaged)


def test_several_threads_may_look(tmp_path: Path) -> None:
    examiner = Examiner([tmp_path], "optional")
    paths = [
        recorders.write_mcap(tmp_path / f"{number}.mcap", size=1000, seed=number)
        for number in range(20)
    ]
    for path in paths:
        recorders.write_sidecar(path, {"n": path.stem})
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.extend(examiner.look(path) for path in paths))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(
        json.loads(json.dumps(item.sidecar.content)) == {"n": item.path.stem} for item in found
    )
