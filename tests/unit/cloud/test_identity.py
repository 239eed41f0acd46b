"""The episode, asset and raw tags depend only on the recording and its sidecar."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cloud.identity import (
    DEVICE_KEY,
    MAX_KEY_BYTES,
    MAX_TAGS,
    MAX_VALUE_BYTES,
    RAW_FILE_KEY,
    Tags,
    asset_id,
    episode_id,
    flatten,
    raw_tags,
    robot_id,
)
from agent.model.errors import RecordingError, WaitingError
from agent.model.mcap_tail import Tail
from agent.model.values import DeviceProfile, Fingerprint, Recording, Sidecar

PROFILE = DeviceProfile("asset-1", "key", {"site": "lab"}, "https://auth", "https://gateway")
ROOT = Path("/data")


def recording(content: Any = None, path: str = "/data/day/bag/run.mcap", **tail: Any) -> Recording:
    sidecar = None if content is None else Sidecar(Path("/data/run.json"), "0" * 64, content)
    fingerprint = Fingerprint(1000, "deadbeef" + "0" * 56)
    return Recording(Path(path), ROOT, fingerprint, 0, 1, 2, Tail(**tail), sidecar)


INVALID = replace(
    recording(), sidecar=Sidecar(Path("/data/run.json"), "0" * 64, None, "it is an array")
)


def tags_of(it: Recording, profile: DeviceProfile = PROFILE) -> Tags:
    return raw_tags(it, episode_id="ep", asset_id="asset-1", profile=profile, agent_version="1.2.3")


def asset_of(it: Recording, **given: Any) -> str:
    facts: dict[str, Any] = {
        "known": {},
        "snapshot": "",
        "profiles": {"asset-1": PROFILE},
        "default": "",
    }
    return asset_id(it, robot="robot-1", **{**facts, **given})


def profiles(*ids: str) -> Mapping[str, DeviceProfile]:
    return {asset: replace(PROFILE, asset_id=asset) for asset in ids}


# The tests below cover the episode id.


@pytest.mark.parametrize(
    ("content", "metadata", "expected"),
    [
        ({"episode_id": " e1 ", "task": {"task_id": "t1"}}, {"axon.task": {"task_id": "m1"}}, "e1"),
        ({"episode_id": "", "task": {"task_id": "t1"}}, {"axon.task": {"task_id": "m1"}}, "t1"),
        ({"episode_id": 17}, {}, "17"),
        ({"task": "t1"}, {"axon.task": {"task_id": "m1"}, "keystone": {"episode_id": "m2"}}, "m1"),
        (None, {"axon.task": {"task_id": ""}, "keystone": {"episode_id": "m2"}}, "m2"),
        ({"episode_id": ["e"]}, {}, "run-deadbeef"),
        ({"episode_id": "a\nb"}, {}, "run-deadbeef"),
        ({"episode_id": "e" * 3000}, {}, "run-deadbeef"),
        (None, {}, "run-deadbeef"),
    ],
)
def test_the_episode_is_named_by_the_first_source_that_names_it(
    content: Any, metadata: Mapping[str, Any], expected: str
) -> None:
    assert episode_id(recording(content, metadata=metadata)) == expected


def test_an_invalid_sidecar_still_leaves_an_episode_id() -> None:
    assert episode_id(INVALID) == "run-deadbeef"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.b.mcap", "a.b"), ("a.mcap.zstd", "a"), ("caf\udce9.mcap", "caf\ufffd")],
)
def test_the_stem_is_the_name_without_its_suffix(name: str, expected: str) -> None:
    assert episode_id(recording(path=f"/data/{name}")) == f"{expected}-deadbeef"


# The tests below cover the asset id.


def test_the_robot_is_the_one_that_the_sidecar_names_else_this_one() -> None:
    assert robot_id(recording({"device": {"device_id": " r9 "}}), "robot-1") == "r9"
    assert robot_id(recording({"device": "r9"}), "robot-1") == "robot-1"
    assert robot_id(recording(), "robot-1") == "robot-1"


def test_the_asset_is_found_in_the_promised_order() -> None:
    full = recording({"asset_id": " side ", "device": {"device_id": "r9"}})
    bare = recording({"asset_id": " ", "device": {"device_id": "r9"}})
    many = profiles("mapped", "side", "snap", "default", "r9", "robot-1")
    facts = {"snapshot": "snap", "profiles": many, "default": "default"}
    assert asset_of(full, known={"r9": "mapped"}, **facts) == "mapped"
    assert asset_of(full, known={"robot-1": "mapped"}, **facts) == "side"
    assert asset_of(bare, **facts) == "snap"
    assert asset_of(bare, profiles=profiles("only"), default="default") == "only"
    assert asset_of(bare, profiles=many, default="default") == "default"


@pytest.mark.parametrize(
    ("given_", "code"),
    [
        ({"known": {"robot-1": ""}, "snapshot": "asset-1"}, "unbound_robot"),
        ({"profiles": profiles("a", "b", "robot-1")}, "no_asset_id"),
        ({"profiles": {}}, "no_asset_id"),
        ({"snapshot": "gone"}, "no_profile"),
        ({"profiles": {"asset-1": replace(PROFILE, tags={})}}, "profile_not_ready"),
    ],
)
def test_a_recording_without_a_ready_asset_waits_and_says_for_what(
    given_: Mapping[str, Any], code: str
) -> None:
    with pytest.raises(WaitingError) as caught:
        asset_of(recording({}), **given_)
    assert caught.value.code == code
    assert caught.value.hint


@pytest.mark.parametrize("it", [INVALID, recording({"asset_id": 5})])
def test_a_sidecar_that_cannot_be_understood_is_final_before_anything_waits(it: Recording) -> None:
    with pytest.raises(RecordingError) as caught:
        asset_of(it, profiles={})
    assert caught.value.code == "sidecar_invalid"


# The tests below cover tags.


def test_a_recording_without_a_sidecar_has_profile_reserved_and_own_tags() -> None:
    it = replace(
        recording(start_time=10, end_time=20, message_count=0), own_tags={"compression": "zstd"}
    )
    assert tags_of(it) == Tags(
        {
            "site": "lab",
            DEVICE_KEY: "asset-1",
            RAW_FILE_KEY: "run.mcap",
            "episode_id": "ep",
            "sync_channel": "keystone_agent",
            "agent_version": "1.2.3",
            "relative_path": "day/bag/run.mcap",
            "bag": "bag",
            "start_time": "10",
            "end_time": "20",
            "message_count": "0",
            "compression": "zstd",
        }
    )


def test_a_recording_right_below_its_root_or_outside_of_it_has_no_bag() -> None:
    for path in ("/data/run.mcap", "/elsewhere/x/run.mcap"):
        tags = tags_of(recording(path=path)).tags
        assert tags["relative_path"] == "run.mcap"
        assert "bag" not in tags


def test_own_tags_give_way_to_the_sidecar_and_the_profile() -> None:
    it = recording({"start_time": "noon", "episode_id": "side"}, start_time=10)
    tags = tags_of(it, replace(PROFILE, tags={"agent_version": "x"})).tags
    assert (tags["start_time"], tags["episode_id"], tags["agent_version"]) == ("noon", "side", "x")


@pytest.mark.parametrize(
    ("content", "profile"),
    [
        ({"site": "field"}, {"site": "lab"}),
        ({}, {RAW_FILE_KEY: "other.mcap"}),
        ({DEVICE_KEY: "asset-2"}, {"site": "lab"}),
        ({"site": "x" * 3000}, {"site": "lab"}),
        ({"a.b": 1, "a": {"b": 2}}, {"site": "lab"}),
        ({"scene": "a", "task": {"scene": "b"}}, {"site": "lab"}),
    ],
)
def test_one_key_with_two_values_is_final(content: Any, profile: Mapping[str, str]) -> None:
    with pytest.raises(RecordingError) as caught:
        tags_of(recording(content), replace(PROFILE, tags=profile))
    assert caught.value.code == "tag_conflict"
    assert caught.value.hint


def test_one_key_with_the_same_value_twice_is_one_tag() -> None:
    it = recording({"site": "lab", "a.b": 1, "a": {"b": 1}, DEVICE_KEY: "asset-1"})
    assert tags_of(it).tags["a.b"] == "1"


@pytest.mark.parametrize(
    "tags",
    [
        {"k" * 65: "v"},
        {"é" * 33: "v"},
        {"k": "é" * 1025},
        {"k": "a\nb"},
        {"k": "a\x85b"},
        {"k": "\ud800"},
        {f"k{number}": "v" for number in range(255)},
    ],
)
def test_profile_tags_over_a_limit_are_final(tags: Mapping[str, str]) -> None:
    with pytest.raises(RecordingError) as caught:
        tags_of(recording(), replace(PROFILE, tags=tags))
    assert caught.value.code == "tag_limit"


def test_tags_right_at_the_limits_are_sent() -> None:
    content = {"é" * 32: "v", "k": "é" * 1024, "e": ""}
    result = tags_of(recording(content))
    assert content.items() <= result.tags.items()
    assert result.left_out == ()


def test_sidecar_tags_over_a_limit_are_left_out_and_named() -> None:
    content = {"k" * 65: "v", "long": "v" * 2049, "bell": "\x07", "good": "v"}
    result = tags_of(recording(content))
    assert result.left_out == ("bell", "k" * 65, "long")
    assert result.tags["good"] == "v"
    assert not set(result.left_out) & set(result.tags)


def test_of_too_many_sidecar_tags_the_most_telling_stay() -> None:
    content = {
        "deep": {f"k{number:03}": 1 for number in range(200)},
        **{f"t{number:03}": 1 for number in range(200)},
    }
    result = tags_of(recording({**content, "message_count": 9}))
    assert len(result.tags) == MAX_TAGS
    assert {f"t{number:03}" for number in range(200)} <= set(result.tags)
    assert result.tags["message_count"] == "9"
    assert result.tags["episode_id"] == "ep"
    assert all(key.startswith("deep.") for key in result.left_out)
    assert len(result.left_out) == len({*flatten(content), "message_count"} - set(result.tags))


def test_an_invalid_sidecar_has_no_tags() -> None:
    with pytest.raises(RecordingError, match="it is an array") as caught:
        tags_of(INVALID)
    assert caught.value.code == "sidecar_invalid"


# The tests below cover the flattening of sidecars.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": {"b": {"c": "x"}}, "d.e": "y"}', {"a.b.c": "x", "d.e": "y"}),
        ('{"t": true, "f": false, "n": null}', {"t": "true", "f": "false", "n": ""}),
        ('{"i": 12345678901234567890, "z": 1.0, "e": 1e21}',
         {"i": "12345678901234567890", "z": "1", "e": "1000000000000000000000"}),
        ('{"m": -2.50, "s": 1e-7, "p": 0.1}', {"m": "-2.5", "s": "0.0000001", "p": "0.1"}),
        ('{"o": {}, "l": [], "in": {"o": {}}}', {"l": "[]"}),
        ('{"l": [1.0, 1e21, "ü\\n", null, true, {"b": [], "a": {"d": 1, "c": 2.50}}, {}]}',
         {"l": '[1,1000000000000000000000,"ü\\n",null,true,{"a":{"c":2.5,"d":1},"b":[]},{}]'}),
        (('{"topics_summary": {"x": 1}, '
          '"in": {"topics_summary": {"x": 1}, "task": {"scene": "kept"}}}'),
         {"in.topics_summary.x": "1", "in.task.scene": "kept"}),
        ('{"task": {"scene": " kitchen ", "subscene": "  ", "batch_id": 7, "other": "x"}}',
         {"scene": "kitchen", "batch_id": "7"}),
        ('{"task": {"robot_type": null, "sop_slug": [], "sop_version": {"major": 1}}}', {}),
        ('{"task": "pick"}', {}),
        ('{"half": "\\ud800", "\\udc00": 1}', {"half": "\ufffd", "\ufffd": "1"}),
    ],
)  # fmt: skip
def test_a_sidecar_is_flattened(text: str, expected: Mapping[str, str]) -> None:
    assert flatten(json.loads(text)) == expected


def nested(depth: int, leaf: Any, name: str | None) -> Any:
    for _ in range(depth):
        leaf = [leaf] if name is None else {name: leaf}
    return leaf


@pytest.mark.parametrize(
    "content",
    [
        nested(100_000, 1, "a"),
        {"a": nested(100_000, 1, None)},
        {"": 1},
        {"a": {"": 1}},
        {"a": [{"": 1}]},
        {"a": float("inf")},
        {"a": [float("nan")]},
    ],
    ids=[
        "deep objects",
        "deep arrays",
        "empty key",
        "empty key below",
        "empty key in an array",
        "infinity",
        "nan",
    ],
)
def test_what_is_no_json_after_all_is_final(content: Mapping[str, Any]) -> None:
    with pytest.raises(RecordingError) as caught:
        flatten(content)
    assert caught.value.code == "sidecar_invalid"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
)
NAMES = st.sampled_from(
    ["site", "task", "scene", "a", "a.b", "episode_id", "asset_id", "device", "topics_summary"]
)


@given(
    st.dictionaries(NAMES | st.text(), JSON | st.text(min_size=1000, max_size=4000), max_size=400),
    st.dictionaries(st.text(min_size=1), st.text(), max_size=3),
)
def test_any_sidecar_gives_tags_within_all_limits_or_a_final_error(
    content: Mapping[str, Any], profile_tags: Mapping[str, str]
) -> None:
    it = recording(content, start_time=1)
    profile = replace(PROFILE, tags=profile_tags)
    try:
        result = tags_of(it, profile)
    except RecordingError as error:
        if error.code in {"tag_conflict", "tag_limit", "sidecar_invalid"}:
            return
        raise
    assert result == tags_of(
        recording(dict(reversed(list(content.items()))), start_time=1), profile
    )
    assert len(result.tags) <= MAX_TAGS
    for key, value in result.tags.items():
        assert 1 <= len(key.encode()) <= MAX_KEY_BYTES
        assert len(value.encode()) <= MAX_VALUE_BYTES
        assert (key + value).isprintable() or not any(
            ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in key + value
        )
    assert profile_tags.items() <= result.tags.items()
    named = set(result.left_out)
    assert all(
        key in result.tags or key in named or f"{key[:80]}…" in named for key in flatten(content)
    )
    assert not set(result.tags) & set(result.left_out)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_a_number_keeps_its_value_without_an_exponent(number: float) -> None:
    text = flatten({"n": number})["n"]
    assert type(number)(text) == number
    assert "e" not in text.lower()
    assert not text.endswith(".0")


@given(JSON)
def test_an_array_stays_the_json_it_was(value: Any) -> None:
    try:
        text = flatten({"a": [value]})["a"]
    except RecordingError:
        return
    # The shortest decimal may be another whole number than the float. It reads as the same float.
    assert json.loads(text, parse_int=float) == json.loads(json.dumps([value]), parse_int=float)


@pytest.mark.parametrize(
    "content",
    [
        {"a": [1e308] * 170_000},
        {"a": [[1e308, {"b": 1e308}]] * 40_000},
        {"p" * 500_000: {str(number): 1 for number in range(20_000)}},
        {"p" * 500_000: {"q": {str(number): [number] for number in range(20_000)}}},
    ],
    ids=["numbers", "arrays", "a long prefix", "a long prefix of arrays"],
)
def test_a_short_sidecar_takes_no_long_text(content: Mapping[str, Any]) -> None:
    tracemalloc.start()
    try:
        result = tags_of(recording(content))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * 1024 * 1024
    assert len(result.left_out) == 1
    assert len(result.left_out[0]) <= 81


def test_a_flood_of_tags_that_are_left_out_is_named_in_bounds() -> None:
    result = tags_of(recording({f"{number:06}" + "x" * 2000: "v" for number in range(2000)}))
    assert len(result.left_out) == 257
    assert result.left_out[-1] == "… and 1744 more"
    assert max(map(len, result.left_out)) <= 81


def test_a_name_that_tags_can_not_hold_is_percent_encoded() -> None:
    it = recording(path="/data/b\ta\ng/run\x7f\udce9.mcap")
    tags = tags_of(it).tags
    assert tags[RAW_FILE_KEY] == "run%7F%E9.mcap"
    assert tags["relative_path"] == "b%09a%0Ag/run%7F%E9.mcap"
    assert tags["bag"] == "b%09a%0Ag"
    assert episode_id(it) == "run%7F\ufffd-deadbeef"
