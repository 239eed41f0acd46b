"""The key of a recording in the bucket."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.model.object_key import KEY_MAX_BYTES, is_spare, object_key, placeholders, spare_key
from agent.model.sync_log import SyncLog

ROOT = Path("/data/recordings")
LOG = SyncLog(
    1,
    episode_id="ep 1",
    path="/data/recordings/day/run_0.mcap",
    file_size=5,
    mtime="2025-06-30T23:59:59.999Z",
    fingerprint="5-" + "abcdef01" * 8,
    device_id="robot-7",
    asset_id="asset-3",
)


def test_the_usual_key_is_robot_day_and_path_below_the_root() -> None:
    assert (
        object_key("{device_id}/{date}/{relpath}", LOG, [ROOT])
        == "robot-7/2025-06-30/day/run_0.mcap"
    )


def test_every_placeholder_has_its_value() -> None:
    template = "{name}|{stem}|{episode_id}|{asset_id}|{fingerprint}"
    assert object_key(template, LOG, [ROOT]) == f"run_0.mcap|run_0|ep 1|asset-3|{LOG.fingerprint}"


def test_with_several_roots_the_root_is_named_too() -> None:
    assert object_key("{relpath}", LOG, [ROOT, Path("/mnt/other")]) == "recordings/day/run_0.mcap"
    assert object_key("{relpath}", LOG, [ROOT, ROOT]) == "day/run_0.mcap"


def test_a_path_below_no_root_is_its_name_alone() -> None:
    assert object_key("{relpath}", LOG, [Path("/elsewhere")]) == "run_0.mcap"


def test_a_compressed_recording_has_the_stem_of_the_plain_one() -> None:
    assert (
        object_key("{stem}", replace(LOG, path="/data/recordings/run.mcap.zstd"), [ROOT]) == "run"
    )


@pytest.mark.parametrize(
    ("episode_id", "key"),
    [
        ("../../etc", "x/.._.._etc/run_0.mcap"),
        ("..", "x/__/run_0.mcap"),
        ("", "x/run_0.mcap"),
        ("a\nb\udcff", "x/a_b_/run_0.mcap"),
    ],
)
def test_a_value_stays_one_segment_that_every_store_takes(episode_id: str, key: str) -> None:
    assert object_key("/x//{episode_id}/{name}", replace(LOG, episode_id=episode_id), [ROOT]) == key


@pytest.mark.parametrize(
    ("key", "spare"),
    [
        ("a/run.mcap", "a/run-01234567.mcap"),
        ("a/run.mcap.zstd", "a/run-01234567.mcap.zstd"),
        ("a.b/run", "a.b/run-01234567"),
        ("a/.mcap", "a/-01234567.mcap"),
        ("a/metadata.yaml", "a/metadata-01234567.yaml"),
    ],
)
def test_a_spare_key_has_the_fingerprint_before_its_suffix(key: str, spare: str) -> None:
    assert spare_key(key, "01234567") == spare
    assert is_spare(spare, "01234567")
    assert not is_spare(key, "01234567")


@pytest.mark.parametrize("template", ["{name", "name}", "{name!r}", "{name:>9}"])
def test_a_template_that_says_more_than_names_is_none(template: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        placeholders(template)


def at(*parts: str) -> SyncLog:
    return replace(LOG, path=str(ROOT.joinpath(*parts)))


def test_what_tags_can_not_hold_of_a_path_is_percent_encoded() -> None:
    log = at("a\tb", "c\nd\x7f\x85\udcff.mcap")
    assert object_key("{relpath}", log, [ROOT]) == "a%09b/c%0Ad%7F%C2%85%FF.mcap"
    assert object_key("{name}|{stem}", at("a\n.mcap"), [ROOT]) == "a%0A.mcap|a%0A"


def test_a_name_that_is_too_long_for_stores_that_keep_files_is_cut_and_stays_different() -> None:
    names = ["ä" * 120 + end + ".mcap.zstd" for end in "ab"]
    keys = {object_key("{relpath}", at("day", name), [ROOT]) for name in names}
    assert len(keys) == 2
    for key in keys:
        assert key.startswith("day/ä")
        assert key.endswith(".mcap.zstd")
        assert len((spare_key(key, "01234567") + ".manifest.json").encode()) - len("day/") <= 255


def test_a_key_that_is_too_long_keeps_the_name_and_one_folder_for_each_folder() -> None:
    folders = ["ä" * 100] * 8
    first, second, other = (
        object_key("{relpath}", log, [ROOT])
        for log in (
            at(*folders, "one.mcap"),
            at(*folders, "two.mcap"),
            at(*folders, "other", "two.mcap"),
        )
    )
    assert first.endswith("/one.mcap")
    assert first.rpartition("/")[0] == second.rpartition("/")[0] != other.rpartition("/")[0]
    assert max(len(key.encode()) for key in (first, second, other)) <= KEY_MAX_BYTES


@pytest.mark.parametrize("name", ["x" * 255, "." + "y" * 254, "\x01" * 250 + ".mcap", "a" * 232])
def test_no_segment_of_any_name_is_too_long(name: str) -> None:
    key = object_key("{device_id}/{relpath}", at(name, name), [ROOT])
    assert max(len(segment.encode()) for segment in key.split("/")) <= 255
    assert len(key.rpartition("/")[2].encode()) <= 232
