"""Deletion removes a recording and the files that belong to it.

Nothing else is deleted, even where a file or folder is swapped or linked at the same time.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.files.fingerprint import fingerprint
from agent.model.values import utc_text
from agent.retention import deletion as deletion_module
from agent.retention.deletion import Deletion, NotDeletableError
from tests.harness.file_systems import mounted
from tests.harness.recorders import write_mcap, write_sidecar


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    return folder


def mtime_of(path: Path) -> str:
    """Return the time of the last change as a document has it.

    It is empty when no file is at ``path``.
    """
    return utc_text(path.lstat().st_mtime_ns / 1e9) if os.path.lexists(path) else ""


def fingerprint_text(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return str(fingerprint(descriptor, os.fstat(descriptor).st_size))
    finally:
        os.close(descriptor)


def delete(path: Path, *roots: Path, wanted: str = "", with_sidecar: bool = True) -> int:
    deletion = Deletion(roots, with_sidecar=with_sidecar)
    with deletion.verified_file(path, wanted or fingerprint_text(path), mtime_of(path)) as verified:
        verified.unlink()
        freed = verified.freed
    deletion.delete_companions(path)
    return freed


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# The tests below show which files are deleted.


def test_a_recording_goes_with_its_sidecar_and_done_marker_and_nothing_else(root: Path) -> None:
    write_sidecar(write_mcap(root / "a.mcap", size=100_000))
    (root / "a.mcap.done").touch()
    for other in ("b.json", "b.mcap", "a.txt.json", "b.mcap.done"):
        (root / other).touch()
    assert delete(root / "a.mcap", root) >= 100_000
    assert names(root) == ["a.txt.json", "b.json", "b.mcap", "b.mcap.done"]


def test_metadata_that_could_not_be_sent_stay_with_their_folder(root: Path) -> None:
    bag = root / "bag"
    bag.mkdir()
    with (bag / "metadata.yaml").open("wb") as file:
        file.truncate(16 * 1024 * 1024 + 1)
    Deletion([root], with_sidecar=True).delete_companions(bag / "a.mcap")
    assert names(root) == ["bag", "bag/metadata.yaml"]


def test_a_bag_left_with_its_metadata_alone_goes_whole(root: Path) -> None:
    (root / "day" / "bag").mkdir(parents=True)
    for split in (0, 1):
        write_mcap(root / "day" / "bag" / f"bag_{split}.mcap", seed=split)
    (root / "day" / "bag" / "metadata.yaml").touch()
    delete(root / "day" / "bag" / "bag_0.mcap", root)
    assert names(root) == ["day", "day/bag", "day/bag/bag_1.mcap", "day/bag/metadata.yaml"]
    delete(root / "day" / "bag" / "bag_1.mcap", root)
    assert names(root) == ["day"]


def test_a_folder_with_anything_else_in_it_stays(root: Path) -> None:
    (root / "bag").mkdir()
    write_mcap(root / "bag" / "a.mcap")
    (root / "bag" / "metadata.yaml").touch()
    (root / "bag" / ".notes").touch()
    delete(root / "bag" / "a.mcap", root)
    assert names(root) == ["bag", "bag/.notes", "bag/metadata.yaml"]


def test_a_folder_that_is_no_bag_stays_though_it_is_empty(root: Path) -> None:
    (root / "day").mkdir()
    delete(write_mcap(root / "day" / "a.mcap"), root)
    assert names(root) == ["day"]


@pytest.mark.parametrize("inner", ["", "inner"])
def test_a_root_is_never_deleted(root: Path, inner: str) -> None:
    watched = root / inner
    watched.mkdir(exist_ok=True)
    (watched / "metadata.yaml").touch()
    delete(write_mcap(watched / "a.mcap"), root, watched)
    assert (watched / "metadata.yaml").exists()


def test_a_root_under_another_name_is_never_deleted(root: Path, tmp_path: Path) -> None:
    (root / "bag").mkdir()
    (tmp_path / "link").symlink_to(root / "bag")
    (root / "bag" / "metadata.yaml").touch()
    delete(write_mcap(root / "bag" / "a.mcap"), root, tmp_path / "link")
    assert names(root) == ["bag", "bag/metadata.yaml"]


# The tests below show which companion files stay.


def test_a_sidecar_stays_while_another_file_has_its_stem(root: Path) -> None:
    write_sidecar(write_mcap(root / "a.mcap"))
    (root / "a.bag").touch()
    delete(root / "a.mcap", root)
    assert names(root) == ["a.bag", "a.json"]


def test_without_sidecars_a_json_beside_it_is_somebody_elses(root: Path) -> None:
    write_sidecar(write_mcap(root / "a.mcap"))
    delete(root / "a.mcap", root, with_sidecar=False)
    assert names(root) == ["a.json"]


def test_companions_that_are_links_stay_and_so_does_what_they_lead_to(
    root: Path, tmp_path: Path
) -> None:
    (root / "bag").mkdir()
    write_mcap(root / "bag" / "a.mcap")
    for name in ("a.json", "a.mcap.done", "metadata.yaml"):
        (tmp_path / name).write_text("precious")
        (root / "bag" / name).symlink_to(tmp_path / name)
    delete(root / "bag" / "a.mcap", root)
    assert names(root / "bag") == ["a.json", "a.mcap.done", "metadata.yaml"]
    assert {(tmp_path / name).read_text() for name in names(root / "bag")} == {"precious"}


def test_a_new_recording_that_took_the_name_keeps_its_companions(root: Path) -> None:
    deletion = Deletion([root], with_sidecar=True)
    path = write_mcap(root / "a.mcap")
    write_sidecar(path)
    (root / "a.mcap.done").touch()
    with deletion.verified_file(path, fingerprint_text(path), mtime_of(path)) as verified:
        verified.unlink()
    write_mcap(path, seed=1)
    deletion.delete_companions(path)
    assert names(root) == ["a.json", "a.mcap", "a.mcap.done"]


# The tests below show which recordings stay.


def refusal(path: Path, *roots: Path, wanted: str = "1-0") -> str:
    with (
        pytest.raises(NotDeletableError) as stays,
        Deletion(roots, with_sidecar=True).verified_file(path, wanted, mtime_of(path)),
    ):
        raise AssertionError("it was let go")
    return str(stays.value)


def test_other_bytes_than_those_that_were_uploaded_stay(root: Path) -> None:
    path = write_mcap(root / "a.mcap")
    assert (
        refusal(path, root, wanted=fingerprint_text(write_mcap(root / "b.mcap", seed=1)))
        == "it has other bytes now"
    )


def test_a_file_outside_of_the_roots_stays(root: Path, tmp_path: Path) -> None:
    outside = write_mcap(tmp_path / "a.mcap")
    wanted = fingerprint_text(outside)
    assert "none of the watched folders" in refusal(outside, root, wanted=wanted)
    assert "none of the watched folders" in refusal(root / ".." / "a.mcap", root, wanted=wanted)
    assert "none of the watched folders" in refusal(root, root, wanted=wanted)


def test_what_is_reached_through_a_link_stays(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    wanted = fingerprint_text(write_mcap(tmp_path / "outside" / "a.mcap"))
    (root / "day").symlink_to(tmp_path / "outside")
    (root / "a.mcap").symlink_to(tmp_path / "outside" / "a.mcap")
    assert "link" in refusal(root / "day" / "a.mcap", root, wanted=wanted)
    assert "no regular file" in refusal(root / "a.mcap", root, wanted=wanted)


def test_a_root_may_itself_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    write_mcap(root / "a.mcap")
    delete(tmp_path / "link" / "a.mcap", tmp_path / "link")
    assert names(root) == []


def test_a_pipe_and_a_folder_of_that_name_stay(root: Path) -> None:
    os.mkfifo(root / "a.mcap")
    (root / "b.mcap").mkdir()
    assert refusal(root / "a.mcap", root) == "it is no regular file"
    assert refusal(root / "b.mcap", root) == "it is no regular file"


def test_a_recording_that_is_open_for_writing_stays(root: Path) -> None:
    path = write_mcap(root / "a.mcap")
    with path.open("r+b"):
        assert refusal(path, root, wanted=fingerprint_text(path)) == "a program writes to it"
    delete(path, root)


def test_nobody_can_begin_to_write_between_the_look_and_the_deed_and_who_tries_keeps_the_file(
    root: Path,
) -> None:
    path = write_mcap(root / "a.mcap")
    with Deletion([root], with_sidecar=True).verified_file(
        path, fingerprint_text(path), mtime_of(path)
    ) as verified:
        with pytest.raises(BlockingIOError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        with pytest.raises(NotDeletableError, match="wants to write"):
            verified.unlink()
    assert path.exists()
    delete(path, root)
    assert not path.exists()


def test_a_recording_that_is_being_compressed_stays(root: Path) -> None:
    path = write_mcap(root / "a.mcap")
    (root / "a.mcap.zstd").touch()
    assert "compressed" in refusal(path, root, wanted=fingerprint_text(path))


@pytest.mark.parametrize("marker", ["day/a.mcap.resync", "day/.resync", ".resync"])
def test_a_recording_stays_while_a_marker_asks_for_its_resync(root: Path, marker: str) -> None:
    (root / "day").mkdir()
    path = write_mcap(root / "day" / "a.mcap")
    (root / marker).touch()
    assert "resync" in refusal(path, root, wanted=fingerprint_text(path))


@pytest.mark.parametrize("name", ["day/a.mcap.resync", "day/.resync", ".resync"])
def test_a_folder_with_the_name_of_a_marker_keeps_no_recording(root: Path, name: str) -> None:
    (root / "day").mkdir()
    path = write_mcap(root / "day" / "a.mcap")
    (root / name).mkdir()
    with Deletion([root], with_sidecar=True).verified_file(
        path, fingerprint_text(path), mtime_of(path)
    ) as verified:
        verified.unlink()
    assert not path.exists()


# In the tests below, files are swapped between the check and the deletion.


def test_another_file_that_took_its_place_meanwhile_stays(root: Path) -> None:
    path, other = write_mcap(root / "a.mcap"), write_mcap(root / "aside", seed=1)
    content = other.read_bytes()
    with Deletion([root], with_sidecar=True).verified_file(
        path, fingerprint_text(path), mtime_of(path)
    ) as verified:
        other.rename(path)
        with pytest.raises(NotDeletableError, match="changed"):
            verified.unlink()
    assert path.read_bytes() == content


def test_a_file_that_is_written_to_while_it_is_looked_at_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_mcap(root / "a.mcap")
    wanted, before = fingerprint_text(path), path.stat()
    # On a network share the kernel keeps no writer out.
    monkeypatch.setattr(deletion_module, "keep_writers_out", lambda _: None)
    with Deletion([root], with_sidecar=True).verified_file(
        path, wanted, mtime_of(path)
    ) as verified:
        with path.open("r+b") as stream:
            stream.write(b"new")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(NotDeletableError, match="changed"):
            verified.unlink()
    assert path.exists()


def test_a_folder_that_is_swapped_for_a_link_leads_nowhere_else(root: Path, tmp_path: Path) -> None:
    (root / "day").mkdir()
    path = write_mcap(root / "day" / "a.mcap")
    (tmp_path / "outside").mkdir()
    precious = tmp_path / "outside" / "a.mcap"
    precious.write_bytes(path.read_bytes())
    deletion = Deletion([root], with_sidecar=True)
    with deletion.verified_file(path, fingerprint_text(path), mtime_of(path)) as verified:
        (root / "day").rename(root / "moved")
        (root / "day").symlink_to(tmp_path / "outside")
        verified.unlink()
    assert precious.exists()
    with pytest.raises(NotDeletableError, match="link"):
        deletion.delete_companions(path)
    assert names(root / "moved") == []


def test_a_file_that_appears_in_a_bag_at_the_last_moment_is_never_lost(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "bag").mkdir()
    path = write_mcap(root / "bag" / "a.mcap")
    (root / "bag" / "metadata.yaml").touch()
    unlink = deletion_module._unlink_file

    def late(name: str, folder: int) -> bool:
        if name == "metadata.yaml":
            (root / "bag" / "b.mcap").touch()
        return unlink(name, folder)

    monkeypatch.setattr(deletion_module, "_unlink_file", late)
    with pytest.raises(OSError, match="not empty"):
        delete(path, root)
    assert names(root / "bag") == ["b.mcap"]


# The tests below cover file names and freed bytes.


def test_only_the_last_name_gives_the_bytes_back(root: Path) -> None:
    path = write_mcap(root / "a.mcap", size=100_000)
    (root / "b.mcap").hardlink_to(path)
    assert delete(root / "a.mcap", root) == 0
    assert delete(root / "b.mcap", root) >= 100_000


def test_a_mounted_folder_stays(root: Path) -> None:
    (root / "bag").mkdir()
    with mounted(root / "bag"):
        (root / "bag" / "metadata.yaml").touch()
        delete(write_mcap(root / "bag" / "a.mcap"), root)
        assert names(root / "bag") == ["metadata.yaml"]


def test_a_name_that_was_written_to_since_its_upload_stays_though_no_window_shows_it(
    root: Path,
) -> None:
    path = write_mcap(root / "a.mcap", size=4 * 1024 * 1024)
    uploaded, before = mtime_of(path), fingerprint_text(path)
    with path.open("r+b") as file:
        file.seek(700_000)
        file.write(b"other bytes")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10_000_000))
    assert fingerprint_text(path) == before
    deletion = Deletion([root], with_sidecar=True)
    with (
        pytest.raises(NotDeletableError, match="written to"),
        deletion.verified_file(path, before, uploaded),
    ):
        pass
    assert path.exists()
