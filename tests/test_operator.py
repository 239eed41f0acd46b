"""The desk of the running agent: what is asked there is done with the agent's own parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.edges.assets import AssetFile
from agent.flow.binding import Bindings
from agent.model.errors import RefusedError
from agent.model.nouns import Answer, Trigger
from agent.operator import Desk
from tests.contracts.operator import Desk as Asked
from tests.contracts.operator import OperatorContract
from tests.fakes.gateway import PROFILE
from tests.fakes.operator import FakeOperator
from tests.robot import FakeProfiles


class FakeRequests:
    """Implements what the desk asks for recordings."""

    def __init__(self) -> None:
        self.known = FakeOperator()
        self.triggers: set[Trigger] = set()

    def resync(self, target: str, trigger: Trigger, reason: str) -> Sequence[Answer]:
        self.triggers.add(trigger)
        return self.known.resync([target], reason)

    def resync_failed(self, code: str, reason: str) -> Sequence[Answer]:
        return self.known.resync_failed(code, reason)

    def first(self, target: str, trigger: Trigger) -> Sequence[Answer]:
        self.triggers.add(trigger)
        return self.known.first([target])


class Rig:
    """A desk and what it did."""

    def __init__(self, state: Path) -> None:
        self.did: list[str] = []
        self.requests = FakeRequests()
        self.markers = state / "markers"
        self.markers.mkdir()
        self.desk = Desk(
            snapshot=lambda: {"version": "0", "gate": None, "uploads": []},
            requests=self.requests,
            bindings=Bindings(AssetFile(state, {}), FakeProfiles()),
            markers=self.markers,
            tick=lambda: self.did.append("tick"),
            rescan=lambda: self.did.append("rescan"),
            look_at_causes=lambda: self.did.append("look"),
        )


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


class TestDesk(OperatorContract):
    @pytest.fixture
    def desk(self, tmp_path: Path) -> Asked:
        return Asked(Rig(tmp_path).desk, FakeOperator.PATH, FakeOperator.EPISODE, PROFILE.asset_id)


def test_what_is_asked_for_recordings_starts_at_once(rig: Rig) -> None:
    rig.desk.resync([FakeOperator.PATH], "")
    rig.desk.first([FakeOperator.PATH])
    rig.desk.resync_failed("", "")
    assert rig.did == ["tick"] * 3
    assert rig.requests.triggers == {"cli"}


def test_pause_is_the_marker_that_a_touch_leaves(rig: Rig) -> None:
    (rig.markers / "pause").write_text("mine")
    rig.desk.pause()
    assert (rig.markers / "pause").read_text() == "mine"
    rig.desk.resume()
    assert list(rig.markers.iterdir()) == []
    rig.desk.pause()
    assert [path.name for path in rig.markers.iterdir()] == ["pause"]


def test_a_rescan_is_a_look_at_everything(rig: Rig) -> None:
    rig.desk.rescan()
    assert rig.did == ["rescan"]


def test_what_waits_for_an_asset_goes_on_at_once(rig: Rig) -> None:
    rig.desk.set_asset("arm-7", PROFILE.asset_id)
    rig.desk.unset_asset("arm-7")
    assert rig.did == ["look", "look"]
    with pytest.raises(RefusedError):
        rig.desk.set_asset("arm-7", "")
    assert rig.did == ["look", "look"]
