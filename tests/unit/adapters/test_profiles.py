"""The rules for the file of device profiles, one by one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.profiles import ProfileFile
from agent.model.errors import CloudError

KEY = "key-that-nobody-may-see"


def device(**changes: Any) -> dict[str, Any]:
    return {"deviceId": "robot-1", "apiKey": KEY, "tags": {"site": "here"}, **changes}


def document(*devices: dict[str, Any], **changes: Any) -> dict[str, Any]:
    endpoints = {"auth": "https://auth.example", "gateway": "gateway.example:9000"}
    return {"version": 3, "endpoints": endpoints, "devices": list(devices or [device()]), **changes}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dp-config.json"


def write(path: Path, content: Any, mode: int = 0o600) -> ProfileFile:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    path.chmod(mode)
    return ProfileFile(path)


def refusal(profiles: ProfileFile) -> CloudError:
    with pytest.raises(CloudError) as raised:
        profiles.load()
    assert raised.value.code == "profile_file"
    assert KEY not in str(raised.value)
    return raised.value


def test_profiles_come_by_asset_id(path: Path) -> None:
    profiles = write(path, document(device(), device(deviceId="Robot-1"))).load()
    assert set(profiles) == {"robot-1", "Robot-1"}
    profile = profiles["robot-1"]
    assert (profile.auth, profile.gateway) == ("https://auth.example", "gateway.example:9000")
    assert (profile.api_key, dict(profile.tags), profile.ready) == (KEY, {"site": "here"}, True)


def test_names_keys_and_endpoints_are_trimmed_and_tags_never(path: Path) -> None:
    spaced = device(deviceId=" robot-1\n", apiKey=f"\t{KEY} ", tags={" a ": " b "})
    endpoints = {"auth": " https://a ", "gateway": "\nb "}
    profile = write(path, document(spaced, endpoints=endpoints)).load()["robot-1"]
    assert (profile.api_key, dict(profile.tags), profile.auth, profile.gateway) == (
        KEY,
        {" a ": " b "},
        "https://a",
        "b",
    )


def test_a_missing_version_and_unknown_keys_are_fine(path: Path) -> None:
    content = document(device(initializedAtUnix=1), later=[1])
    del content["version"]
    assert write(path, content).load()["robot-1"].ready


@pytest.mark.parametrize("version", [2, 4, 3.5, "3", True, None])
def test_any_other_version_is_refused(path: Path, version: Any) -> None:
    refusal(write(path, document(version=version)))


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://h",
        "https://h:8443",
        "h",
        "h:1",
        "10.0.0.1:65535",
        "[::1]:9000",
        "https://[fe80::1]",
        "a-b.c_d:80",
    ],
)
def test_endpoints_are_hosts_with_or_without_scheme_and_port(path: Path, endpoint: str) -> None:
    endpoints = {"auth": endpoint, "gateway": endpoint, "deviceInit": endpoint}
    assert write(path, document(endpoints=endpoints)).load()["robot-1"].auth == endpoint


@pytest.mark.parametrize(
    "endpoint",
    ["", " ", "http://", "https://h/", "h/", "h/path", "h?q", "h#f", "u@h", "https://u:p@h",
     "ftp://h", "h:0", "h:65536", "h:", "h:x", "h:1:2", "::1", "h h", 7],
)  # fmt: skip
@pytest.mark.parametrize("name", ["auth", "gateway", "deviceInit"])
def test_any_other_endpoint_spoils_the_file(path: Path, name: str, endpoint: Any) -> None:
    endpoints = {"auth": "h", "gateway": "h", name: endpoint}
    assert name in str(refusal(write(path, document(endpoints=endpoints))))


@pytest.mark.parametrize("name", ["auth", "gateway"])
def test_auth_and_gateway_are_required(path: Path, name: str) -> None:
    endpoints = {"auth": "h", "gateway": "h"}
    del endpoints[name]
    refusal(write(path, document(endpoints=endpoints)))


@pytest.mark.parametrize(
    "devices",
    [
        [device(deviceId="")],
        [device(deviceId="  ")],
        [device(), device(deviceId=" robot-1 ")],
        [device(tags={"a": 1})],
        [device(tags={"a": None})],
        [device(tags=["a"])],
        [device(deviceId=7)],
        [device(apiKey=7)],
        ["robot-1"],
    ],
)
def test_an_impossible_device_spoils_the_file(path: Path, devices: list[Any]) -> None:
    refusal(write(path, document(*devices)))


@pytest.mark.parametrize(
    "changes",
    [
        {"apiKey": ""},
        {"apiKey": " "},
        {"tags": {}},
        {"tags": {"": "x"}},
        {"apiKey": None},
        {"tags": None},
    ],
)
def test_an_unready_profile_spoils_only_itself(path: Path, changes: dict[str, Any]) -> None:
    profiles = write(path, document(device(), device(deviceId="robot-2", **changes))).load()
    assert profiles["robot-1"].ready
    assert not profiles["robot-2"].ready


def test_empty_tag_values_are_kept(path: Path) -> None:
    assert dict(write(path, document(device(tags={"a": ""}))).load()["robot-1"].tags) == {"a": ""}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"key": "' + KEY.encode()],
)
def test_what_is_no_json_object_is_refused(path: Path, content: bytes) -> None:
    refusal(write(path, content))


def test_a_file_that_is_missing_or_a_folder_or_a_pipe_is_refused(
    path: Path, tmp_path: Path
) -> None:
    refusal(ProfileFile(path))
    refusal(ProfileFile(tmp_path))
    os.mkfifo(path, 0o600)
    refusal(ProfileFile(path))


def test_a_file_that_everybody_can_read_is_refused(path: Path) -> None:
    refusal(write(path, document(), 0o604))


def test_a_file_that_the_agents_own_group_can_read_is_taken(path: Path) -> None:
    profiles = write(path, document(), 0o640)
    os.chown(path, -1, os.getegid())
    assert profiles.load()["robot-1"].ready


def test_a_file_that_another_group_can_read_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = write(path, document(), 0o640)
    monkeypatch.setattr(os, "getegid", lambda: path.stat().st_gid + 1)
    monkeypatch.setattr(os, "getgroups", list)
    refusal(profiles)


def test_a_file_among_the_services_credentials_is_taken_whoever_can_read_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    assert write(path, document(), 0o644).load()["robot-1"].ready


def test_the_file_is_read_again_only_when_it_is_another_one(path: Path) -> None:
    profiles = write(path, document())
    first = profiles.load()
    assert profiles.load() is first
    replacement = path.with_suffix(".new")
    write(replacement, document(device(deviceId="robot-2")))
    replacement.rename(path)
    assert set(profiles.load()) == {"robot-2"}


def test_permissions_that_loosen_later_are_noticed(path: Path) -> None:
    profiles = write(path, document())
    profiles.load()
    path.chmod(0o644)
    refusal(profiles)


def test_a_file_mended_after_a_refusal_is_taken(path: Path) -> None:
    profiles = write(path, b"{")
    refusal(profiles)
    write(path, document())
    assert profiles.load()["robot-1"].ready


def test_every_change_that_may_cure_a_fault_shows(path: Path, tmp_path: Path) -> None:
    profiles = write(path, document(), mode=0o644)
    stamps = {profiles.stamp()}
    path.chmod(0o600)
    stamps.add(profiles.stamp())
    path.unlink()
    stamps.add(profiles.stamp())
    profiles.path = tmp_path / "elsewhere.json"
    stamps.add(profiles.stamp())
    write(profiles.path, document())
    stamps.add(profiles.stamp())
    assert len(stamps) == 5
    assert set(profiles.load()) == {"robot-1"}


def test_endpoints_alone_are_no_secret(path: Path) -> None:
    endpoints = {"auth": "a", "gateway": "b", "deviceInit": " https://c "}
    profiles = write(path, {"endpoints": endpoints}, 0o644)
    assert profiles.load() == {}
    assert profiles.device_init() == "https://c"
    refusal(write(path, document(endpoints=endpoints), 0o644))
    assert write(path, document()).device_init() == ""
