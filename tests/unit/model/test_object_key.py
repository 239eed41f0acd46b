"""The key of a recording in the bucket."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.model.object_key import is_spare, object_key, placeholders, spare_key
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
