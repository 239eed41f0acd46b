"""Who a recording is to the platform: its episode, its asset, and its raw tags."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import Any

from agent.model.errors import RecordingError, WaitingError
from agent.model.values import DeviceProfile, Recording

# The platform's limits on raw tags, and the keys it reserves.
_LONGEST_NAME, _MOST_NAMED = 80, 256
MAX_TAGS = 256
MAX_KEY_BYTES = 64
MAX_VALUE_BYTES = 2048
DEVICE_KEY = "778a6d83c9ec49108537542a570966ee.device_id"
RAW_FILE_KEY = "a206e337ecdf70a93bb611cf6a30c346.raw_file"

_MAX_DEPTH = 64  # of a sidecar; far beyond what fits into a key, far below the interpreter's stack
_NOT_FLATTENED = frozenset({"topics_summary", "task"})  # at the top only
_FROM_TASK = (
    "sop_slug", "sop_version", "sop_description", "scene", "subscene", "robot_type", "data_collector_operator_id",
    "data_collector_name", "order_name", "batch_id",
)  # fmt: skip
_MEND = "mend the sidecar; the agent then tries again by itself"


@dataclass(frozen=True, slots=True)
class Tags:
    """The raw tags to send, and the keys of those that the platform would not take."""

    tags: Mapping[str, str]
    left_out: Sequence[str] = ()


def episode_id(recording: Recording) -> str:
    """Return what the recording is called in the platform.

    The sidecar's ``episode_id`` or ``task.task_id``, else what the MCAP's own metadata say, else the file's stem and
    the fingerprint's first 8 hex digits. An empty name, or one that could not be sent as a tag, names nothing.
    """
    content = (recording.sidecar and recording.sidecar.content) or {}
    metadata = recording.tail.metadata
    for value in (
        content.get("episode_id"),
        _inner(content, "task", "task_id"),
        _inner(metadata, "axon.task", "task_id"),
        _inner(metadata, "keystone", "episode_id"),
    ):
        name = _name(value)
        if name and not _over_limit("episode_id", name):
            return name
    stem = recording.path.stem.removesuffix(".mcap")  # of NAME.mcap.zstd, too
    return f"{_file_text(stem)}-{recording.fingerprint.short}"


def robot_id(recording: Recording, robot: str) -> str:
    """Return the robot that recorded it: the sidecar's ``device.device_id``, else ``robot``, this one.

    Raises RecordingError when the sidecar is no JSON object.
    """
    return _name(_inner(_content(recording), "device", "device_id")) or robot


def asset_id(
    recording: Recording,
    *,
    robot: str,
    known: Mapping[str, str],
    snapshot: str,
    profiles: Mapping[str, DeviceProfile],
    default: str,
) -> str:
    """Return the asset that the recording belongs to in the platform; its profile is ready.

    Args:
        recording: what is to be uploaded.
        robot: this robot's own id; never an asset id itself.
        known: robot id → asset id as it is now; it wins over all that the recording says. "" is a robot unbound.
        snapshot: the asset id that the document got when the recording was found, "" for none.
        profiles: the device profiles by asset id.
        default: assets.default.

    Raises:
        WaitingError: ``unbound_robot``, ``no_asset_id``, ``no_profile`` or ``profile_not_ready``.
        RecordingError: ``sidecar_invalid``.
    """
    only = next(iter(profiles)) if len(profiles) == 1 else ""
    asset = named_asset(
        recording, robot=robot, known=known, snapshot=snapshot, default=only or default
    )
    profile = profiles.get(asset)
    if profile is None:
        raise WaitingError(
            f"the device profile file has no asset {asset}",
            code="no_profile",
            hint="put its profile into the device profile file, or bind the robot to another asset",
        )
    if not profile.ready:
        raise WaitingError(
            f"the profile of asset {asset} has no key or no usable tags",
            code="profile_not_ready",
            hint="complete apiKey and tags in the device profile file",
        )
    return asset


def named_asset(
    recording: Recording,
    *,
    robot: str,
    known: Mapping[str, str],
    snapshot: str,
    default: str,
    required: bool = True,
) -> str:
    """Return the asset that the recording is said to belong to, whether or not anybody has a profile for it.

    The arguments are those of :func:`asset_id`. Where it is not ``required`` the answer may be "".

    Raises:
        WaitingError: ``unbound_robot`` or ``no_asset_id``.
        RecordingError: ``sidecar_invalid``.
    """
    content = _content(recording)
    its_robot = robot_id(recording, robot)
    if its_robot in known:
        asset = known[its_robot]
        if not asset:
            raise WaitingError(
                f"robot {its_robot} is bound to no asset",
                code="unbound_robot",
                hint=f"bind it: keystone-agent asset set {its_robot} ASSET",
            )
        return asset
    asset = _sidecar_asset(content) or snapshot or default
    if not asset and required:
        raise WaitingError(
            f"nothing names the asset of robot {its_robot}",
            code="no_asset_id",
            hint=f"bind it: keystone-agent asset set {its_robot} ASSET, or set assets.default",
        )
    return asset


def raw_tags(
    recording: Recording,
    *,
    episode_id: str,
    asset_id: str,
    profile: DeviceProfile,
    agent_version: str,
) -> Tags:
    """Return the tags that the platform gets with the recording, sorted by key.

    The profile's and the reserved ones always go. The agent's own fill what nobody else says; ``start_time`` and
    ``end_time`` are nanoseconds of the recording's clock as decimal text, ``bag`` is the name of the folder below
    the root. Sidecar and own tags over a limit are left out and named. Where the sidecar has too many, those that
    the agent would add itself stay first, then the least nested, then by key.

    Raises:
        RecordingError: ``tag_conflict``, ``tag_limit`` or ``sidecar_invalid``; trying again changes nothing.
    """
    fixed = dict(profile.tags)
    _merge(
        fixed,
        {
            **({DEVICE_KEY: asset_id} if asset_id else {}),
            RAW_FILE_KEY: _file_text(recording.path.name),
        },
    )
    for key, value in fixed.items():
        if fault := _over_limit(key, value):
            raise RecordingError(
                f"tag {key[:MAX_KEY_BYTES]!r} {fault}",
                code="tag_limit",
                hint="shorten the tag in the device profile file, or rename the recording",
            )
    if len(fixed) > MAX_TAGS:
        raise RecordingError(
            f"the profile has {len(profile.tags)} tags, {MAX_TAGS} are possible with the reserved ones",
            code="tag_limit",
            hint="remove tags in the device profile file",
        )
    sidecar = flatten(_content(recording))
    _merge(dict(fixed), sidecar)
    own = _own_tags(recording, episode_id, agent_version)
    tags, left_out = fixed, []
    in_turn = [(key, own[key]) for key in own if key not in sidecar]
    in_turn += [
        (key, sidecar[key])
        for key in sorted(sidecar, key=lambda key: (key not in own, key.count("."), key))
    ]
    for key, value in in_turn:
        if key in tags:
            continue
        if _over_limit(key, value) or len(tags) >= MAX_TAGS:
            left_out.append(key)
        else:
            tags[key] = value
    return Tags(dict(sorted(tags.items())), _named(left_out))


def _named(left_out: Sequence[str]) -> Sequence[str]:
    """The names of tags that were left out; a hostile sidecar has 300,000, and they go into the history."""
    named = [
        key if len(key) <= _LONGEST_NAME else f"{key[:_LONGEST_NAME]}…"
        for key in sorted(left_out)[:_MOST_NAMED]
    ]
    return (
        *named,
        *([f"… and {len(left_out) - _MOST_NAMED} more"] if len(left_out) > _MOST_NAMED else []),
    )


def flatten(content: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the tags of a sidecar: nested names joined by dots, values as text.

    Raises:
        RecordingError: ``tag_conflict`` when two paths lead to one key with different values; ``sidecar_invalid``
            for what is no JSON after all: an empty key, a number without an end, nesting without an end.
    """
    tags: dict[str, str] = {}
    _flatten(
        {key: value for key, value in content.items() if key not in _NOT_FLATTENED}, "", 1, tags
    )
    task = content.get("task")
    if isinstance(task, Mapping):
        found = {
            key: _scalar(task[key]).strip() for key in _FROM_TASK if _is_scalar(task.get(key, {}))
        }
        _merge(tags, {key: value for key, value in found.items() if value})
    return tags


def _flatten(content: Mapping[str, Any], prefix: str, depth: int, tags: dict[str, str]) -> None:
    _check_depth(depth)
    for name, value in content.items():
        key = prefix + _key(name)
        if isinstance(value, Mapping):
            _flatten(value, key + ".", depth + 1, tags)
        else:
            _merge(
                tags,
                {key: _json(value, depth) if isinstance(value, (list, tuple)) else _scalar(value)},
            )


def _merge(tags: dict[str, str], more: Mapping[str, str]) -> None:
    for key, value in more.items():
        if tags.setdefault(key, value) != value:
            raise RecordingError(
                f"tag {key[:MAX_KEY_BYTES]!r} has two values: {tags[key][:100]!r} and {value[:100]!r}",
                code="tag_conflict",
                hint="mend the sidecar, or the tags in the device profile file",
            )


def _own_tags(recording: Recording, episode: str, agent_version: str) -> Mapping[str, str]:
    path, root, tail = recording.path, recording.root, recording.tail
    below = path.relative_to(root) if path.is_relative_to(root) else path.relative_to(path.parent)
    numbers = {
        "start_time": tail.start_time,
        "end_time": tail.end_time,
        "message_count": tail.message_count,
    }
    return {
        "episode_id": episode,
        "sync_channel": "keystone_agent",
        "agent_version": agent_version,
        "relative_path": _file_text(below.as_posix()),
        **({"bag": _file_text(below.parent.name)} if below.parent.name else {}),
        **{key: str(number) for key, number in numbers.items() if number is not None},
        **recording.own_tags,
    }


def _over_limit(key: str, value: str) -> str:
    """Why the platform would not take this tag, or ""."""
    if not 1 <= len(key.encode("utf-8", "surrogatepass")) <= MAX_KEY_BYTES:
        return f"has a key that is not 1 to {MAX_KEY_BYTES} bytes long"
    if len(value.encode("utf-8", "surrogatepass")) > MAX_VALUE_BYTES:
        return f"has a value over {MAX_VALUE_BYTES} bytes"
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in key + value):
        return "has control characters"  # or half of a surrogate pair, which is no UTF-8
    return ""


def _content(recording: Recording) -> Mapping[str, Any]:
    if recording.sidecar is None:
        return {}
    if recording.sidecar.content is None:
        raise _invalid(recording.sidecar.fault)
    return recording.sidecar.content


def _invalid(why: str) -> RecordingError:
    return RecordingError(
        f"the sidecar is no JSON object: {why}", code="sidecar_invalid", hint=_MEND
    )


def _inner(content: Mapping[str, Any], outer: str, inner: str) -> Any:
    value = content.get(outer)
    return value.get(inner) if isinstance(value, Mapping) else None


def _name(value: Any) -> str:
    """An id as text; "" for what names nothing."""
    return (
        _scalar(value).strip()
        if isinstance(value, (str, int)) and not isinstance(value, bool)
        else ""
    )


def _sidecar_asset(content: Mapping[str, Any]) -> str:
    value = content.get("asset_id")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RecordingError(
            "the sidecar's asset_id is no text", code="sidecar_invalid", hint=_MEND
        )
    return _text(value).strip()


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, (Mapping, list, tuple))


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not isfinite(value):
            raise _invalid("it holds a number that JSON does not know")
        plain = format(
            Decimal(repr(value)), "f"
        )  # repr is the shortest decimal, but may have an exponent
        return plain.removesuffix(".0")
    return _text(str(value))


def _json(value: Any, depth: int) -> str:
    """Compact JSON with sorted keys; numbers as they are outside of arrays."""
    _check_depth(depth)
    if isinstance(value, Mapping):
        names = {_key(name): item for name, item in value.items()}
        pairs = (
            f"{json.dumps(name, ensure_ascii=False)}:{_json(names[name], depth + 1)}"
            for name in sorted(names)
        )
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_json(item, depth + 1) for item in value) + "]"
    if value is None:
        return "null"
    return (
        json.dumps(_text(value), ensure_ascii=False) if isinstance(value, str) else _scalar(value)
    )


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _invalid(f"it is nested more than {_MAX_DEPTH} deep")


def _key(name: str) -> str:
    if not name:
        raise _invalid("it has an empty key")
    return _text(name)


def _text(text: str) -> str:
    """``text`` as UTF-8 can hold it: JSON may escape half of a pair of surrogates."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _file_text(name: str) -> str:
    """A file name as UTF-8 can hold it: on Linux it may be any bytes."""
    return os.fsencode(name).decode("utf-8", "replace")
