"""What identifies a recording to the platform: its episode, its asset, and its raw tags."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.cloud.axon_metadata import axon_content
from agent.cloud.sidecar_values import (
    MEND_SIDECAR,
    check_depth,
    compact_json,
    content_of,
    file_name_text,
    inner_member,
    is_scalar,
    key_text,
    scalar_text,
    utf8_text,
)
from agent.model.errors import RecordingError, WaitingError
from agent.model.percent_encoding import percent_encoded
from agent.model.printable import shell_word
from agent.model.values import DeviceProfile, Recording

# The platform's limits on raw tags.
MAX_TAGS = 256
MAX_KEY_BYTES = 64
MAX_VALUE_BYTES = 2048

# The keys that the platform reserves.
DEVICE_KEY = "778a6d83c9ec49108537542a570966ee.device_id"
RAW_FILE_KEY = "a206e337ecdf70a93bb611cf6a30c346.raw_file"

# How many tags that were left out are named in the history, and how long a name may be there.
_NAMED_TAGS = 256
_NAMED_MAX_CHARACTERS = 80

# Members of a sidecar's top level that become no tags as they are.
_NOT_FLATTENED = frozenset({"topics_summary", "task"})

# Members of the sidecar's ``task`` that become tags under their own names.
_FROM_TASK = (
    "sop_slug",
    "sop_version",
    "sop_description",
    "scene",
    "subscene",
    "robot_type",
    "data_collector_operator_id",
    "data_collector_name",
    "order_name",
    "batch_id",
)


@dataclass(frozen=True, slots=True)
class Tags:
    """The raw tags to send, and the keys of those that the platform would not accept."""

    tags: Mapping[str, str]
    left_out: Sequence[str] = ()


def episode_id(recording: Recording) -> str:
    """Return the id of the recording's episode in the platform.

    The id is the sidecar's ``episode_id`` or ``task.task_id``, else the one in the MCAP's own
    metadata, else the file's stem with the first 8 hex digits of the fingerprint. An id that is
    empty, or that could not be sent as a tag, is passed over.
    """
    content = (recording.sidecar and recording.sidecar.content) or {}
    metadata = recording.tail.metadata
    for value in (
        content.get("episode_id"),
        inner_member(content, "task", "task_id"),
        inner_member(metadata, "axon.task", "task_id"),
        inner_member(metadata, "keystone", "episode_id"),
    ):
        name = _name(value)
        if name and not _over_limit("episode_id", name):
            return name
    # The stem of NAME.mcap.zstd still has a suffix.
    stem = recording.path.stem.removesuffix(".mcap")
    return f"{percent_encoded(file_name_text(stem))}-{recording.fingerprint.short}"


def robot_id(recording: Recording, robot: str) -> str:
    """Return the robot that made the recording: the sidecar's ``device.device_id``, else ``robot``.

    ``robot`` is this robot's own id. Raises RecordingError when the sidecar is no JSON object.
    """
    return _name(inner_member(content_of(recording), "device", "device_id")) or robot


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
        recording: What is to be uploaded.
        robot: This robot's own id, which is never an asset id.
        known: Robot id to asset id as it is now; "" is a robot unbound. It wins over all that the
            recording says.
        snapshot: The asset id that the document got when the recording was found, "" for none.
        profiles: The device profiles by asset id.
        default: The setting assets.default.

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
    """Return the asset that the recording belongs to, whether or not there is a profile for it.

    The arguments are those of :func:`asset_id`. Where the asset is not ``required``, the result may
    be "".

    Raises:
        WaitingError: ``unbound_robot`` or ``no_asset_id``.
        RecordingError: ``sidecar_invalid``.
    """
    content = content_of(recording)
    its_robot = robot_id(recording, robot)
    if its_robot in known:
        asset = known[its_robot]
        if not asset:
            raise WaitingError(
                f"robot {its_robot} is bound to no asset",
                code="unbound_robot",
                hint=f"bind it: keystone-agent asset set {shell_word(its_robot)} ASSET",
            )
        return asset
    asset = _sidecar_asset(content) or snapshot or default
    if not asset and required:
        raise WaitingError(
            f"nothing names the asset of robot {its_robot}",
            code="no_asset_id",
            hint=f"bind it: keystone-agent asset set {shell_word(its_robot)} ASSET, "
            "or set assets.default",
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

    The tags of the profile and the reserved ones are always sent. The agent's own tags fill in what
    the others do not say, and so do the facts that Axon writes into an MCAP without a sidecar.
    ``start_time`` and ``end_time`` are nanoseconds of the recording's clock as decimal text;
    ``bag`` is the name of the folder below the root.

    Tags of the sidecar and the agent that are over a limit are left out and named. Where there are
    too many, the keys that the agent would add itself are kept first, then the least nested ones,
    then the others by key.

    Raises:
        RecordingError: ``tag_conflict``, ``tag_limit`` or ``sidecar_invalid``; another try would
            end in the same way.
    """
    fixed = dict(profile.tags)
    _merge(
        fixed,
        {
            **({DEVICE_KEY: asset_id} if asset_id else {}),
            RAW_FILE_KEY: percent_encoded(recording.path.name),
        },
    )
    for key, value in fixed.items():
        if fault := _over_limit(key, value):
            raise RecordingError(
                f"tag {key[:MAX_KEY_BYTES]!r} {fault}",
                code="tag_limit",
                hint="shorten the tag in the device profile file",
            )
    if len(fixed) > MAX_TAGS:
        raise RecordingError(
            f"the profile has {len(profile.tags)} tags, "
            f"{MAX_TAGS} are possible with the reserved ones",
            code="tag_limit",
            hint="remove tags in the device profile file",
        )
    sidecar = flatten(content_of(recording))
    _merge(dict(fixed), sidecar)
    own = dict(_own_tags(recording, episode_id, agent_version))
    if recording.sidecar is None:
        for key, value in flatten(axon_content(recording.tail.metadata)).items():
            own.setdefault(key, value)
    tags, left_out = fixed, []
    ordered = [(key, own[key]) for key in own if key not in sidecar]
    ordered += [
        (key, sidecar[key])
        for key in sorted(sidecar, key=lambda key: (key not in own, key.count("."), key))
    ]
    for key, value in ordered:
        if key in tags:
            continue
        if _over_limit(key, value) or len(tags) >= MAX_TAGS:
            left_out.append(key)
        else:
            tags[key] = value
    return Tags(dict(sorted(tags.items())), _named(left_out))


def _named(left_out: Sequence[str]) -> Sequence[str]:
    """Return the names of tags that were left out, for the history.

    A hostile sidecar may have 20,000 of them, so the number and the length are limited.
    """
    named = [_shortened(key) for key in sorted(left_out)[:_NAMED_TAGS]]
    if len(left_out) > _NAMED_TAGS:
        named.append(f"… and {len(left_out) - _NAMED_TAGS} more")
    return tuple(named)


def _shortened(key: str) -> str:
    return key if len(key) <= _NAMED_MAX_CHARACTERS else f"{key[:_NAMED_MAX_CHARACTERS]}…"


def flatten(content: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the tags of a sidecar: nested names joined by dots, values as text.

    Raises:
        RecordingError: ``tag_conflict`` when two paths lead to one key with different values.
            ``sidecar_invalid`` for an empty key, an infinite number, or too deep nesting.
    """
    tags: dict[str, str] = {}
    _flatten(
        {key: value for key, value in content.items() if key not in _NOT_FLATTENED}, "", 1, tags
    )
    task = content.get("task")
    if isinstance(task, Mapping):
        found = {
            key: scalar_text(task[key]).strip()
            for key in _FROM_TASK
            if is_scalar(task.get(key, {}))
        }
        _merge(tags, {key: value for key, value in found.items() if value})
    return tags


def _flatten(content: Mapping[str, Any], prefix: str, depth: int, tags: dict[str, str]) -> None:
    """Add the members of ``content`` to ``tags``, with ``prefix`` before their names."""
    check_depth(depth)
    for name, value in content.items():
        whole_key = prefix + key_text(name)
        # The keys of a small sidecar can be very long together, because each has the names of all
        # objects around it. A key that is too long for a tag is only named, and has no value.
        key = _shortened(whole_key)
        if isinstance(value, Mapping):
            _flatten(value, key + ".", depth + 1, tags)
            continue
        if isinstance(value, (list, tuple)):
            text = compact_json(value, depth, MAX_VALUE_BYTES)
        else:
            text = scalar_text(value)
        _merge(tags, {key: text if key == whole_key else ""})


def _merge(tags: dict[str, str], more: Mapping[str, str]) -> None:
    """Add ``more`` to ``tags``. Raises RecordingError("tag_conflict") where a value differs."""
    for key, value in more.items():
        if tags.setdefault(key, value) != value:
            raise RecordingError(
                f"tag {key[:MAX_KEY_BYTES]!r} has two values: "
                f"{tags[key][:100]!r} and {value[:100]!r}",
                code="tag_conflict",
                hint="mend the sidecar, or the tags in the device profile file",
            )


def _own_tags(recording: Recording, episode: str, agent_version: str) -> Mapping[str, str]:
    """Return the tags that the agent adds itself, the most important ones first."""
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
        "relative_path": percent_encoded(below.as_posix()),
        **({"bag": percent_encoded(below.parent.name)} if below.parent.name else {}),
        **{key: str(number) for key, number in numbers.items() if number is not None},
        **recording.own_tags,
    }


def _over_limit(key: str, value: str) -> str:
    """Return why the platform would not accept this tag, "" where it would."""
    if not 1 <= len(key.encode("utf-8", "surrogatepass")) <= MAX_KEY_BYTES:
        return f"has a key that is not 1 to {MAX_KEY_BYTES} bytes long"
    if len(value.encode("utf-8", "surrogatepass")) > MAX_VALUE_BYTES:
        return f"has a value over {MAX_VALUE_BYTES} bytes"
    # The category Cs is half of a surrogate pair, which is no UTF-8.
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in key + value):
        return "has control characters"
    return ""


def _name(value: Any) -> str:
    """Return an id as text; "" for a value that is no id."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return ""
    return scalar_text(value).strip()


def _sidecar_asset(content: Mapping[str, Any]) -> str:
    """Return the asset id in the sidecar, "" for none. Raises RecordingError for another type."""
    value = content.get("asset_id")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RecordingError(
            "the sidecar's asset_id is no text", code="sidecar_invalid", hint=MEND_SIDECAR
        )
    return utf8_text(value).strip()
