"""STATE_DIR/assets.json, and the rules for its contents."""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters.assets import AssetFile
from agent.model.errors import CloudError, RefusedError, WaitingError
from agent.operations.asset_binding import Bindings
from tests.harness.fakes.gateway import PROFILE
from tests.harness.robot import FakeProfiles

OTHER = replace(PROFILE, asset_id="robot-2")
UNREADY = replace(PROFILE, asset_id="robot-3", api_key="")


@pytest.fixture
def profiles() -> FakeProfiles:
    profiles = FakeProfiles()
    profiles.profiles |= {profile.asset_id: profile for profile in (OTHER, UNREADY)}
    return profiles


@pytest.fixture
def bindings(tmp_path: Path, profiles: FakeProfiles) -> Bindings:
    return Bindings(AssetFile(tmp_path, {}), profiles)


def written(state: Path) -> dict[str, str]:
    told: dict[str, str] = json.loads((state / "assets.json").read_text(encoding="utf-8"))
    return told


def test_the_file_wins_over_the_map_key_by_key(tmp_path: Path) -> None:
    file = AssetFile(tmp_path, {"a": "1", "b": "2"})
    assert file.known() == {"a": "1", "b": "2"}
    with file.change() as own:
        own |= {"b": "", "c": "é"}
    assert file.known() == {"a": "1", "b": "", "c": "é"}
    assert AssetFile(tmp_path, {}).known() == {"b": "", "c": "é"}


def test_the_file_is_its_folders_owners(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 65534, 4711)
    with AssetFile(tmp_path, {}).change() as own:
        own["a"] = "1"
    for name in ("assets.json", "assets.lock"):
        state = (tmp_path / name).stat()
        assert (state.st_uid, state.st_gid) == (tmp_path.stat().st_uid, tmp_path.stat().st_gid)
    assert stat.S_IMODE((tmp_path / "assets.json").stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["assets.json", "assets.lock"]


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    file = AssetFile(tmp_path, {})
    with file.change() as own:
        own["a"] = "1"
    with suppress(RuntimeError), file.change() as own:
        own["a"] = "2"
        raise RuntimeError
    assert written(tmp_path) == {"a": "1"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": null}', "\xff", "[" * 100_000])
def test_a_broken_file_is_named_with_its_remedy_until_it_is_mended(
    text: str, tmp_path: Path
) -> None:
    file = AssetFile(tmp_path, {"a": "1"})
    path = tmp_path / "assets.json"
    path.write_bytes(text.encode("latin-1"))
    before = file.stamp()
    with pytest.raises(WaitingError, match=str(path)) as told:
        file.known()
    assert told.value.code == "asset_file"
    assert "mend or delete it" in told.value.hint
    with pytest.raises(WaitingError), file.change():
        pass
    assert path.read_bytes() == text.encode("latin-1")
    path.write_text('{"a": "2"}')
    assert file.known() == {"a": "2"}
    assert file.stamp() != before


def test_a_pipe_in_the_files_place_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "assets.json")
    with pytest.raises(WaitingError, match="no regular file"):
        AssetFile(tmp_path, {}).known()


def test_the_same_asset_may_be_set_again_whatever_became_of_its_profile(
    bindings: Bindings, profiles: FakeProfiles, tmp_path: Path
) -> None:
    bindings.bind("arm-7", "robot-1")
    before = (tmp_path / "assets.json").stat()
    profiles.profiles.clear()
    bindings.bind("arm-7", "robot-1")
    assert (tmp_path / "assets.json").stat() == before
    assert written(tmp_path) == {"arm-7": "robot-1"}


@pytest.mark.parametrize(
    ("robot", "asset", "why"),
    [
        ("arm-7", "", "empty"),
        ("arm-7", "  ", "empty"),
        ("", "robot-1", "empty"),
        ("arm-7", "x" * 101, "at most 100"),
        ("arm-7", "robot\n1", "control characters"),
        ("arm\x9b7", "robot-1", "control characters"),
        ("arm-7", "robot-4", "has no asset robot-4"),
        ("arm-7", "robot-3", "no key"),
        ("arm-7", "robot-2", "belongs to robot arm-1"),
    ],
)
def test_what_can_not_be_is_refused_and_changes_nothing(
    robot: str, asset: str, why: str, bindings: Bindings, tmp_path: Path
) -> None:
    bindings.bind("arm-1", "robot-2")
    with pytest.raises(RefusedError, match=why) as refused:
        bindings.bind(robot, asset)
    assert refused.value.hint
    assert written(tmp_path) == {"arm-1": "robot-2"}


def test_an_asset_of_the_map_belongs_to_its_robot(profiles: FakeProfiles, tmp_path: Path) -> None:
    bindings = Bindings(AssetFile(tmp_path, {"arm-1": "robot-2"}), profiles)
    with pytest.raises(RefusedError, match="belongs to robot arm-1"):
        bindings.bind("arm-7", "robot-2")
    bindings.unbind("arm-1")
    bindings.bind("arm-7", "robot-2")
    assert bindings.known() == {"arm-1": "", "arm-7": "robot-2"}


def test_without_a_platform_any_asset_will_do(tmp_path: Path) -> None:
    Bindings(AssetFile(tmp_path, {}), None).bind("arm-7", "whatever")
    assert written(tmp_path) == {"arm-7": "whatever"}


def test_profiles_that_nobody_can_read_are_no_refusal(
    bindings: Bindings, profiles: FakeProfiles
) -> None:
    profiles.error = CloudError("DeviceProfiles", "profile_file", "is missing")
    with pytest.raises(CloudError, match="is missing") as told:
        bindings.bind("arm-7", "robot-1")
    assert told.value.hint
    assert bindings.known() == {}
