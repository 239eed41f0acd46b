"""Tests of enrolment at the gateway of the embedded cloud.

The key is requested until there is one, is kept whole, and is shown in no output.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.gateway import GrpcGateway
from agent.adapters.profiles import ProfileFile
from agent.cloud.enrol import Enrol, Enrolling
from agent.devcloud.cloud import DevCloud
from agent.gate.gate import Closed, Delays, Gate
from agent.model.errors import AgentError, CloudError, RefusedError
from agent.model.values import Enrolled
from tests.harness.fakes.clock import FakeClock

ROBOT = "arm-7"


@pytest.fixture(scope="module", params=["wrapped", "none"])
def cloud(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DevCloud]:
    """The gateway of an embedded cloud, without a store."""
    cloud = DevCloud(
        tmp_path_factory.mktemp("cloud"), store="rclone", devices=(), details=request.param
    )
    cloud.start_gateway()
    yield cloud
    cloud.stop()


class EnrollingRobot:
    """The part of an agent that enrols, with a profile file of its own."""

    def __init__(self, folder: Path, cloud: DevCloud, device: str) -> None:
        self.path = folder / "dp-config.json"
        self.device = device
        self.endpoints = dict.fromkeys(("auth", "gateway", "deviceInit"), cloud.gateway_url)
        self.write(endpoints=self.endpoints)
        self.hidden: list[str] = []
        self.gateway = GrpcGateway(timeout_seconds=5)
        self.profiles = ProfileFile(self.path)
        self.clock = FakeClock()
        self.enrol = Enrol(
            self.gateway, self.profiles, lambda *secrets, **_: self.hidden.extend(secrets)
        )
        delays = Delays(base=30, maximum=1800, jitter=0)
        self.gate = Gate(self.clock, delays)
        self.enrolling = Enrolling(self.enrol, device, self.gate, self.clock, delays)

    def write(self, mode: int = 0o644, **document: Any) -> None:
        self.path.write_text(json.dumps(document))
        self.path.chmod(mode)

    def held(self) -> Closed:
        closed = self.gate.closed()
        assert closed is not None
        assert (closed.cause, closed.code) == ("enrolment", "not_enrolled")
        return closed


@pytest.fixture
def robot(
    tmp_path: Path, cloud: DevCloud, request: pytest.FixtureRequest
) -> Iterator[EnrollingRobot]:
    # The device of each test is new to the platform.
    robot = EnrollingRobot(tmp_path, cloud, request.node.name[-90:])
    yield robot
    robot.gateway.close()


def key_of(cloud: DevCloud, device: str) -> str:
    return next(known.api_key for known in cloud.devices() if known.id == device)


def test_a_file_with_endpoints_alone_gets_the_key_and_the_gate_opens(
    robot: EnrollingRobot, cloud: DevCloud
) -> None:
    robot.enrolling.prepare()
    assert f"{robot.device} is not enrolled yet" in robot.held().reason
    robot.enrolling.enrol_if_due()
    assert robot.gate.closed() is None
    profile = robot.profiles.load()[robot.device]
    assert profile.ready
    assert profile.api_key == key_of(cloud, robot.device)
    assert robot.hidden == [profile.api_key]
    assert robot.path.stat().st_mode & 0o777 == 0o600
    assert robot.gateway.exchange(profile).value


def test_a_robot_that_was_just_switched_on_asks_at_its_own_moment_and_says_when(
    robot: EnrollingRobot,
) -> None:
    robot.enrolling.prepare(robot.clock.monotonic() + 17)
    assert robot.held().reason.endswith("the platform is asked in 17 s")
    assert robot.held().next_probe == robot.clock.monotonic() + 17
    robot.clock.advance(15.5)
    robot.enrolling.enrol_if_due()
    assert robot.held().reason.endswith("the platform is asked in 2 s")
    assert not robot.profiles.load()
    robot.clock.advance(1.5)
    robot.enrolling.enrol_if_due()
    assert robot.gate.closed() is None
    assert robot.profiles.load()[robot.device].ready


def test_a_file_that_is_mended_meanwhile_is_tried_at_once(robot: EnrollingRobot) -> None:
    robot.enrolling.prepare(robot.clock.monotonic() + 17)
    robot.endpoints["later"] = "x"
    robot.write(endpoints=robot.endpoints)
    robot.enrolling.enrol_if_due()
    assert robot.profiles.load()[robot.device].ready


def test_other_devices_and_unknown_keys_survive(robot: EnrollingRobot) -> None:
    other = {
        "deviceId": "other",
        "apiKey": "key-of-other",
        "tags": {"a": " b "},
        "initializedAtUnix": 17,
        "x": 1.5,
    }
    mine = {"deviceId": f" {robot.device} ", "note": None}
    robot.write(
        0o600,
        version=3,
        endpoints={**robot.endpoints, "later": "x"},
        devices=[other, mine],
        more=["ü"],
    )
    assert robot.enrol.once(robot.device)
    written = json.loads(robot.path.read_text())
    assert written["devices"][0] == other
    assert written["endpoints"] == {**robot.endpoints, "later": "x"}
    assert (written["version"], written["more"]) == (3, ["ü"])
    (_, entry) = written["devices"]
    assert (entry["deviceId"], entry["note"]) == (mine["deviceId"], None)
    assert entry["apiKey"] == robot.hidden[0]


def test_a_gateway_that_is_away_is_asked_again_until_it_is_back(
    robot: EnrollingRobot, cloud: DevCloud
) -> None:
    cloud.stop_gateway()
    try:
        robot.enrolling.enrol_if_due()
        first = robot.held()
        assert first.next_probe == robot.clock.monotonic() + 30
        assert "InitDevice: refused" in first.reason
        robot.clock.advance(30)
        robot.enrolling.enrol_if_due()
        assert robot.held().next_probe == robot.clock.monotonic() + 60
        assert robot.held().since == first.since
    finally:
        cloud.start_gateway()
    robot.enrolling.enrol_if_due()
    assert not robot.profiles.load(), "it is not due yet"
    nap = threading.Event()
    # The gRPC channel has a backoff of its own.
    for _ in range(250):
        robot.clock.advance(1800)
        robot.enrolling.enrol_if_due()
        if robot.gate.closed() is None:
            break
        nap.wait(0.1)
    assert robot.profiles.load()[robot.device].ready


def test_a_key_that_exists_elsewhere_is_explained_and_never_replaced_by_itself(
    robot: EnrollingRobot, cloud: DevCloud
) -> None:
    cloud.rules.enrol(robot.device, {"site": "here"})
    before = key_of(cloud, robot.device)
    for _ in range(5):
        robot.enrolling.enrol_if_due()
        assert "DEVICE_ALREADY_INITIALIZED" in robot.held().reason
        assert "restore the device profile file" in robot.held().hint
        assert "--rotate" in robot.held().hint
        assert robot.held().next_probe == robot.clock.monotonic() + 1800
        robot.clock.advance(1800)
    assert key_of(cloud, robot.device) == before


def test_a_restored_file_opens_the_gate_at_once(robot: EnrollingRobot, cloud: DevCloud) -> None:
    cloud.rules.enrol(robot.device, {"site": "here"})
    robot.enrolling.enrol_if_due()
    assert robot.held()
    device = {
        "deviceId": robot.device,
        "apiKey": key_of(cloud, robot.device),
        "tags": {"site": "here"},
    }
    robot.write(0o600, endpoints=robot.endpoints, devices=[device])
    robot.enrolling.enrol_if_due()
    assert robot.gate.closed() is None


def test_a_mended_file_is_tried_at_once(robot: EnrollingRobot, cloud: DevCloud) -> None:
    robot.write(endpoints={**robot.endpoints, "deviceInit": "http://127.0.0.1:1"})
    robot.enrolling.enrol_if_due()
    assert robot.held()
    robot.write(endpoints=robot.endpoints)
    robot.enrolling.enrol_if_due()
    assert robot.gate.closed() is None
    assert key_of(cloud, robot.device)


@pytest.mark.parametrize(
    "devices", [[{"deviceId": "another"}], [{"deviceId": "another", "apiKey": "k", "tags": {}}]]
)
def test_where_a_device_is_named_nobody_enrols_by_itself(
    robot: EnrollingRobot, devices: list[Any], cloud: DevCloud
) -> None:
    robot.write(0o600, endpoints=robot.endpoints, devices=devices)
    robot.enrolling.prepare()
    robot.enrolling.enrol_if_due()
    assert robot.gate.closed() is None
    assert robot.device not in [known.id for known in cloud.devices()]


def test_where_nothing_says_where_to_enrol_nobody_is_held(robot: EnrollingRobot) -> None:
    del robot.endpoints["deviceInit"]
    robot.write(endpoints=robot.endpoints)
    robot.enrolling.prepare()
    robot.enrolling.enrol_if_due()
    robot.path.unlink()
    robot.enrolling.enrol_if_due()
    assert robot.gate.closed() is None
    robot.write(endpoints=robot.endpoints)
    with pytest.raises(RefusedError, match="where devices enrol"):
        robot.enrol.once(robot.device)


def test_a_second_enrolment_finds_what_the_first_one_got(
    robot: EnrollingRobot, cloud: DevCloud
) -> None:
    assert robot.enrol.once(robot.device)
    assert not Enrol(robot.gateway, ProfileFile(robot.path), lambda *_, **__: None).once(
        robot.device
    )
    assert robot.profiles.load()[robot.device].api_key == key_of(cloud, robot.device)


def test_rotation_swaps_the_key_and_the_old_one_ends(
    robot: EnrollingRobot, cloud: DevCloud
) -> None:
    robot.enrol.once(robot.device)
    old = robot.profiles.load()[robot.device]
    assert robot.enrol.once(robot.device, rotate=True)
    new = robot.profiles.load()[robot.device]
    assert new.api_key == key_of(cloud, robot.device) != old.api_key
    assert (new.tags, robot.hidden) == (old.tags, [old.api_key, new.api_key])
    assert robot.gateway.exchange(new).value
    with pytest.raises(CloudError, match="INVALID_CREDENTIAL"):
        robot.gateway.exchange(old)


def test_rotating_what_was_never_enrolled_is_told(robot: EnrollingRobot) -> None:
    with pytest.raises(CloudError) as raised:
        robot.enrol.once(robot.device, rotate=True)
    assert raised.value.code == "DEVICE_NOT_INITIALIZED"


def test_where_the_key_could_not_be_kept_it_is_not_asked_for(
    robot: EnrollingRobot, cloud: DevCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No user can write to this folder.
    monkeypatch.setattr(robot.profiles, "path", Path("/proc/self") / robot.path.name)
    monkeypatch.setattr(robot.profiles, "load", dict)
    with pytest.raises(AgentError) as raised:
        robot.enrol.once(robot.device)
    assert raised.value.code == "profile_unwritable"
    assert robot.device not in [known.id for known in cloud.devices()]


def test_a_key_for_a_file_that_somebody_breaks_meanwhile_is_kept_until_it_is_mended(
    robot: EnrollingRobot, cloud: DevCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = robot.gateway.enrol

    def broken(endpoint: str, device: str, *, rotate: bool) -> Enrolled:
        robot.path.write_text("{")
        return ask(endpoint, device, rotate=rotate)

    monkeypatch.setattr(robot.gateway, "enrol", broken)
    with pytest.raises(AgentError) as raised:
        robot.enrol.once(robot.device)
    assert raised.value.code == "key_unkept"
    robot.write(endpoints=robot.endpoints)
    robot.enrolling.enrol_if_due()
    assert robot.profiles.load()[robot.device].api_key == key_of(cloud, robot.device)


def test_a_key_that_could_not_be_written_is_written_later_and_not_asked_for_again(
    robot: EnrollingRobot, cloud: DevCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_asset_id: str, _enrolled: Enrolled) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(robot.profiles, "put", full)
        robot.enrolling.enrol_if_due()
        assert "the new key can't be written: No space left" in robot.held().reason
    robot.clock.advance(30)
    robot.enrolling.enrol_if_due()
    assert robot.gate.closed() is None
    assert robot.profiles.load()[robot.device].api_key == key_of(cloud, robot.device)


def test_the_next_enrolment_writes_what_the_one_before_could_not(
    robot: EnrollingRobot, cloud: DevCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_asset_id: str, _enrolled: Enrolled) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    next_one = Enrol(robot.gateway, ProfileFile(robot.path), lambda *_, **__: None)
    # This is a reload before the answer has come.
    next_one.take_over(robot.enrol)
    monkeypatch.setattr(robot.profiles, "put", full)
    with pytest.raises(AgentError, match="the new key can't be written"):
        robot.enrol.once(robot.device)
    assert next_one.once(robot.device)
    assert next_one.profiles.load()[robot.device].api_key == key_of(cloud, robot.device)
    assert robot.enrol.end(0)
    with pytest.raises(CloudError, match="goes on by another configuration"):
        robot.enrol.once(robot.device, rotate=True)
