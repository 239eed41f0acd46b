"""Axon's metadata records give the tags that its sidecar would give."""

from __future__ import annotations

from pathlib import Path

from agent.cloud.axon_metadata import axon_content
from agent.cloud.identity import raw_tags
from agent.discovery.examine import Examiner
from agent.model.values import DeviceProfile, Recording
from tests.harness.recorders import write_mcap, write_sidecar

# The records and the sidecar of one recording, as Axon's metadata_injector.cpp writes them.
RECORDS = {
    "axon.sidecar": {"version": "1.0", "mcap_file": "a.mcap"},
    "axon.task": {
        "task_id": "task-1",
        "scene": "kitchen",
        "subscene": "sink",
        "factory": "north",
        "order_id": "order-9",
        "data_collector_id": "collector-3",
        "skills": '["pick"]',
    },
    "axon.device": {"device_id": "r9", "hostname": "host", "ros_distro": "humble"},
    "axon.recording": {
        "recorder_version": "1.2.0",
        "duration_sec": "12.500",
        "message_count": "100",
        "file_size_bytes": "00000000000000012345",
        "topics_recorded": '["/a","/b"]',
    },
    "axon.topics": {"topics_summary": "[]"},
}
SIDECAR = {
    "task": {"task_id": "task-1", "scene": "kitchen", "subscene": "sink"},
    "device": {"device_id": "r9", "hostname": "host", "ros_distro": "humble"},
    "recording": {
        "recorder_version": "1.2.0",
        "duration_sec": 12.5,
        "message_count": 100,
        "file_size_bytes": 12345,
        "topics_recorded": ["/a", "/b"],
    },
}


def tags_of(path: Path, profile_tags: dict[str, str] | None = None) -> dict[str, str]:
    found = Examiner([path.parent], "optional").look(path, sidecar_overdue=True, done_overdue=True)
    assert isinstance(found, Recording)
    profile = DeviceProfile("asset", "key", profile_tags or {"site": "lab"}, "", "")
    tags = raw_tags(
        found, episode_id="task-1", asset_id="asset", profile=profile, agent_version="1"
    ).tags
    return dict(tags)


def test_a_recording_of_axon_without_a_sidecar_gets_the_tags_of_its_metadata(
    tmp_path: Path,
) -> None:
    path = write_mcap(tmp_path / "a.mcap", metadata=RECORDS)
    tags = tags_of(path)
    assert (tags["order_name"], tags["data_collector_name"]) == ("order-9", "collector-3")
    write_sidecar(path, SIDECAR)
    # Only these two names are not in the sidecar that Axon writes.
    assert tags == {
        **tags_of(path),
        "order_name": "order-9",
        "data_collector_name": "collector-3",
    }


def test_the_profile_wins_over_what_axon_wrote_into_the_file(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", metadata=RECORDS)
    assert tags_of(path, {"scene": "lab"})["scene"] == "lab"


def test_a_size_that_axon_did_not_come_to_write_is_no_tag() -> None:
    records = {"axon.recording": {"file_size_bytes": "0" * 20, "message_count": "1"}}
    assert axon_content(records) == {"recording": {"message_count": 1}}


def test_numbers_that_are_none_stay_text() -> None:
    records = {"axon.recording": {"duration_sec": "nan", "message_count": "9" * 5000}, "": {"": ""}}
    assert axon_content(records) == {"recording": dict(records["axon.recording"])}


def test_a_value_that_is_too_long_for_a_tag_is_left_out_and_named(tmp_path: Path) -> None:
    records = {"axon.recording": {"topics_recorded": "t" * 5000, "": "empty"}}
    path = write_mcap(tmp_path / "a.mcap", metadata=records)
    found = Examiner([tmp_path], "ignore").look(path, done_overdue=True)
    assert isinstance(found, Recording)
    profile = DeviceProfile("asset", "key", {"site": "lab"}, "", "")
    tags = raw_tags(found, episode_id="e", asset_id="asset", profile=profile, agent_version="1")
    assert list(tags.left_out) == ["recording.topics_recorded"]
