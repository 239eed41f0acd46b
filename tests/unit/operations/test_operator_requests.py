"""The requests of operators to the running agent, which are done with the agent's own parts."""

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
from tests.harness.robot import Robot


class OperatorRequestsSetup:
    """OperatorRequests on a robot with one uploaded recording.

    ``did`` notes what else the requests caused.
    """

    def __init__(self, folder: Path) -> None:
        self.did: list[str] = []
        self.state = folder / "state"
        self.markers = self.state / "markers"
        self.markers.mkdir(parents=True)
        self.robot = robot = Robot(folder / "recordings")
        self.path = write_mcap(folder / "recordings" / "a.mcap")
        while not robot.history.counts()["completed"]:
            robot.pass_time(1)
        self.operator_requests = OperatorRequests(
            snapshot=lambda: {"version": "0", "gate": None, "uploads": []},
            requests=robot.requests,
            bindings=Bindings(AssetFile(self.state, {}), robot.profiles),
            markers=self.markers,
            check_pause=lambda: self.did.append("look at pause"),
            tick=lambda: self.did.append("tick"),
            rescan=lambda: self.did.append("rescan"),
            check_causes=lambda: self.did.append("look at causes"),
        )


@pytest.fixture
def setup(tmp_path: Path) -> OperatorRequestsSetup:
    return OperatorRequestsSetup(tmp_path)


class TestOperatorRequests(OperatorContract):
    @pytest.fixture
    def operator_setup(self, setup: OperatorRequestsSetup) -> OperatorSetup:
        return OperatorSetup(
            setup.operator_requests, str(setup.path), setup.robot.log().episode_id, PROFILE.asset_id
        )


def test_what_is_asked_for_recordings_starts_at_once(setup: OperatorRequestsSetup) -> None:
    setup.operator_requests.resync([str(setup.path)], "too dark")
    setup.operator_requests.first([str(setup.path)])
    setup.operator_requests.resync_failed("", "")
    assert setup.did == ["tick"] * 3
    log = setup.robot.log(2)
    assert (log.resync, log.trigger, log.reason, log.ahead > 0) == (True, "cli", "too dark", True)


def test_pause_is_the_marker_that_a_touch_leaves(setup: OperatorRequestsSetup) -> None:
    (setup.markers / "pause").write_text("mine")
    setup.operator_requests.pause()
    assert (setup.markers / "pause").read_text() == "mine"
    setup.operator_requests.resume()
    assert list(setup.markers.iterdir()) == []
    setup.operator_requests.pause()
    assert [path.name for path in setup.markers.iterdir()] == ["pause"]
    assert setup.did == ["look at pause", "look at pause", "tick", "look at pause"]


def test_a_rescan_is_a_look_at_everything(setup: OperatorRequestsSetup) -> None:
    setup.operator_requests.rescan()
    assert setup.did == ["rescan"]


def test_what_waits_for_an_asset_goes_on_at_once(setup: OperatorRequestsSetup) -> None:
    setup.operator_requests.set_asset("arm-7", PROFILE.asset_id)
    setup.operator_requests.unset_asset("arm-7")
    assert setup.did == ["look at causes"] * 2
    with pytest.raises(RefusedError):
        setup.operator_requests.set_asset("arm-7", "")
    assert setup.did == ["look at causes"] * 2
