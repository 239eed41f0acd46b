"""The desk of the running agent: what is asked there is done with the agent's own parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.adapters.assets import AssetFile
from agent.model.errors import RefusedError
from agent.operations.asset_binding import Bindings
from agent.operations.operator_requests import OperatorRequests
from tests.contracts.operator import OperatorContract, OperatorSetup
from tests.harness.fakes.gateway import PROFILE
from tests.harness.recorders import write_mcap
from tests.harness.robot import WatchingRobot


class Rig:
    """A desk with real rooms behind it, one recording that is synced, and what else the desk did."""

    def __init__(self, folder: Path) -> None:
        self.did: list[str] = []
        self.state = folder / "state"
        self.markers = self.state / "markers"
        self.markers.mkdir(parents=True)
        self.robot = robot = WatchingRobot(folder / "recordings")
        self.path = write_mcap(folder / "recordings" / "a.mcap")
        while not robot.history.counts()["completed"]:
            robot.pass_time(1)
        self.desk = OperatorRequests(
            snapshot=lambda: {"version": "0", "gate": None, "uploads": []},
            requests=robot.requests,
            bindings=Bindings(AssetFile(self.state, {}), robot.known_profiles()),
            markers=self.markers,
            check_pause=lambda: self.did.append("look at pause"),
            tick=lambda: self.did.append("tick"),
            rescan=lambda: self.did.append("rescan"),
            check_causes=lambda: self.did.append("look at causes"),
        )


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


class TestDesk(OperatorContract):
    @pytest.fixture
    def operator_setup(self, rig: Rig) -> OperatorSetup:
        return OperatorSetup(rig.desk, str(rig.path), rig.robot.log().episode_id, PROFILE.asset_id)


def test_what_is_asked_for_recordings_starts_at_once(rig: Rig) -> None:
    rig.desk.resync([str(rig.path)], "too dark")
    rig.desk.first([str(rig.path)])
    rig.desk.resync_failed("", "")
    assert rig.did == ["tick"] * 3
    log = rig.robot.log(2)
    assert (log.resync, log.trigger, log.reason, log.ahead > 0) == (True, "cli", "too dark", True)


def test_pause_is_the_marker_that_a_touch_leaves(rig: Rig) -> None:
    (rig.markers / "pause").write_text("mine")
    rig.desk.pause()
    assert (rig.markers / "pause").read_text() == "mine"
    rig.desk.resume()
    assert list(rig.markers.iterdir()) == []
    rig.desk.pause()
    assert [path.name for path in rig.markers.iterdir()] == ["pause"]
    assert rig.did == ["look at pause", "look at pause", "tick", "look at pause"]


def test_a_rescan_is_a_look_at_everything(rig: Rig) -> None:
    rig.desk.rescan()
    assert rig.did == ["rescan"]


def test_what_waits_for_an_asset_goes_on_at_once(rig: Rig) -> None:
    rig.desk.set_asset("arm-7", PROFILE.asset_id)
    rig.desk.unset_asset("arm-7")
    assert rig.did == ["look at causes"] * 2
    with pytest.raises(RefusedError):
        rig.desk.set_asset("arm-7", "")
    assert rig.did == ["look at causes"] * 2
