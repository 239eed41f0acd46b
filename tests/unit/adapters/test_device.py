"""The id of a robot: each robot has its own, and keeps it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from agent.adapters.device import device_id
from agent.model.errors import AgentError

PLACES = {
    "file": "etc/keystone-agent/device-id",
    "tree": "proc/device-tree/serial-number",
    "dmi": "sys/class/dmi/id/product_serial",
    "host": "proc/sys/kernel/hostname",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def says(root: Path, **texts: str) -> None:
    for place, text in texts.items():
        path = root / PLACES[place]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_first_source_that_has_an_id_gives_it(root: Path, tmp_path: Path) -> None:
    for number, (place, text) in enumerate(
        [("host", "robot-7\n"), ("dmi", " PF3X \n"), ("tree", "1423\0"), ("file", "unit 12\n")]
    ):
        says(root, **{place: text})
        assert device_id("", tmp_path / f"state{number}", root) == text.strip(" \n\0")
    assert device_id("configured", tmp_path / "state", root) == "configured"


@pytest.mark.parametrize(
    "shared",
    [
        "localhost",
        "ubuntu",
        "tegra-ubuntu",
        "raspberrypi",
        "To be filled by O.E.M.",
        "Default string",
        "0000000",
        "",
        "N/A",
    ],
)
def test_a_name_that_images_share_is_passed_over_where_it_was_found(
    shared: str, root: Path, state: Path
) -> None:
    says(root, tree=shared, host="robot-7")
    assert device_id("", state, root) == "robot-7"


def test_a_robot_without_any_name_of_its_own_is_refused_with_a_hint(
    root: Path, state: Path
) -> None:
    says(root, host="localhost")
    with pytest.raises(AgentError, match="no id of its own") as caught:
        device_id("", state, root)
    assert caught.value.code == "device_id"
    assert "agent.device_id" in caught.value.hint
    assert not state.exists()


@pytest.mark.parametrize("bad", ["localhost", "Raspberrypi", "a\x07b", "x" * 101])
def test_an_unusable_id_that_somebody_chose_is_refused(bad: str, root: Path, state: Path) -> None:
    says(root, host="robot-7")
    with pytest.raises(AgentError, match=r"agent\.device_id says"):
        device_id(bad, state, root)
    says(root, file=bad)
    with pytest.raises(AgentError, match="/etc/keystone-agent/device-id says"):
        device_id("", state, root)


def test_the_choice_is_kept_when_the_host_name_changes(root: Path, state: Path) -> None:
    says(root, host="robot-7")
    device_id("", state, root)
    says(root, host="robot-8", tree="1423")
    assert device_id("", state, root) == "robot-7"
    assert (state / "device-id").read_text() == "robot-7\n"


def test_a_configured_id_wins_over_the_kept_one_and_the_log_says_it(
    root: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device_id("old", state, root)
    with caplog.at_level(logging.INFO):
        assert device_id("new", state, root) == "new"
    assert "is new, it was old" in caplog.text
    assert device_id("", state, root) == "new"


def test_a_file_that_says_otherwise_than_what_was_kept_is_named_in_the_log(
    root: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device_id("kept", state, root)
    says(root, file="another")
    assert device_id("", state, root) == "kept"
    assert "stays kept" in caplog.text


def test_an_unchanged_id_is_not_logged_again(
    root: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device_id("same", state, root)
    caplog.clear()
    assert device_id("same", state, root) == "same"
    assert caplog.text == ""


def test_a_torn_file_counts_as_none(root: Path, state: Path) -> None:
    state.mkdir()
    (state / "device-id").write_text("")
    says(root, host="robot-7")
    assert device_id("", state, root) == "robot-7"
    assert list(state.iterdir()) == [state / "device-id"]


def test_a_choice_that_cannot_be_kept_is_an_error(root: Path, state: Path) -> None:
    state.write_text("no folder")
    with pytest.raises(AgentError, match="can't be kept"):
        device_id("r1", state, root)
