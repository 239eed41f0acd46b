"""The settings as typed sections: every key, its type and its default.

A key stands in the section of the feature that it controls. Nowhere else is there a default. What
a key means to an operator is said in ``config/agent.toml``; a test proves that the file and this
module agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from agent.adapters.config.kinds import (
    YEAR_SECONDS,
    BucketName,
    Count,
    DateOrAge,
    Endpoint,
    Folder,
    FolderOrNone,
    Folders,
    Globs,
    Id,
    Ids,
    KeyTemplate,
    Level,
    Listen,
    Megabits,
    Minutes,
    PartMebibytes,
    Proxy,
    ProxyUrl,
    Seconds,
    SecondsOr0,
    Spans,
    Switch,
    Word,
)


class _Section(BaseModel):
    """One table of the configuration file: frozen, and strict about names and types."""

    # Defaults are validated, too, so that a number has the same type wherever it comes from.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, validate_default=True
    )


class AgentSettings(_Section):
    """Which robot the agent works for, and the folder of its state."""

    state_dir: Folder = Path("/var/lib/keystone-agent")
    device_id: Id = ""


class WatchSettings(_Section):
    """Which files are recordings, and when a recording is finished."""

    roots: Folders = (Path("/data/recordings"),)
    include: Annotated[
        Globs,
        Field(min_length=1, description="a list of one or more globs for base names, without a /"),
    ] = ("*.mcap", "*.MCAP")
    exclude: Globs = (".*", "*.active", "*.tmp", "*.part")
    auto: Switch = True
    newer_than: DateOrAge = ""
    settle_seconds: Seconds = 2.0
    rescan_seconds: Seconds = 60
    sidecar: Literal["optional", "required", "ignore"] = "optional"
    sidecar_wait_seconds: Seconds = 5
    unfinished_minutes: Minutes = 10
    unfinished: Literal["report", "upload"] = "report"
    polling: Literal["auto", "always", "never"] = "auto"
    follow_symlinks: Switch = False


class CloudSettings(_Section):
    """How the platform is reached, or that uploads go to a bucket without a platform."""

    mode: Literal["platform", "bucket"] = "platform"
    dp_config: FolderOrNone = None
    request_timeout_seconds: Seconds = 30
    tls_ca_file: FolderOrNone = None
    proxy: Proxy = ProxyUrl("")


class BucketSettings(_Section):
    """The bucket of bucket mode, and the keys to it."""

    endpoint: Endpoint = ""
    name: BucketName = ""
    region: Word = ""
    key: KeyTemplate = "{device_id}/{date}/{relpath}"
    addressing: Literal["auto", "path", "virtual"] = "auto"
    credentials: Literal["env", "file", "assume-role", "web-identity", "instance"] = "env"
    credentials_file: FolderOrNone = None
    profile: Word = ""
    sts_endpoint: Endpoint = ""
    role_arn: Word = ""
    external_id: Word = ""
    web_identity_token_file: FolderOrNone = None
    storage_class: Word = ""
    sse: Word = ""
    kms_key_id: Word = ""


class AssetsSettings(_Section):
    """Which asset of the platform each robot is."""

    default: Id = ""
    map: Ids = Field(default_factory=dict)


class UploadSettings(_Section):
    """How much is uploaded at once, in which order, at which hours, and over which link."""

    order: Literal["oldest", "newest"] = "oldest"
    max_concurrent: Count = 2
    part_concurrency: Annotated[
        int, Field(ge=0, le=16, description="0 to 16; 0 = found by measuring")
    ] = 0
    max_restarts: Count = 3
    part_size_mib: PartMebibytes = 8
    bandwidth_mbit: Megabits = 0
    windows: Spans = ()
    interfaces: Globs = ()
    metered: Literal["allow", "pause"] = "allow"


class RetrySettings(_Section):
    """When a failed upload is tried again, and how often."""

    base_seconds: Seconds = 30
    max_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=YEAR_SECONDS,
            allow_inf_nan=False,
            description="seconds, retry.base_seconds or more",
        ),
    ] = Field(default=1800, validate_default=True)
    jitter_seconds: SecondsOr0 = 30
    max_attempts: Count = 5

    @field_validator("max_seconds")
    @classmethod
    def _above_base(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("base_seconds", 0):
            raise ValueError(value)
        return value


class RetentionSettings(_Section):
    """Which uploaded recordings are deleted on this robot, and when."""

    delete_after_upload: Switch = False
    keep_hours: Annotated[
        float,
        Field(
            ge=0, le=876_000, allow_inf_nan=False, description="hours, 0 or more, a century at most"
        ),
    ] = 24
    min_free_gib: Annotated[
        float, Field(ge=0, le=1_048_576, allow_inf_nan=False, description="GiB, 0 or more; 0 = off")
    ] = 0


class HistorySettings(_Section):
    """How long the history keeps documents of recordings that are gone."""

    keep_days: Annotated[
        int, Field(gt=0, le=36_500, description="a whole number of days from 1 to 36500")
    ] = 90


class LogSettings(_Section):
    """What is logged, and where the log files are."""

    level: Level = "INFO"
    dir: FolderOrNone = Path("/var/log/keystone-agent")
    max_mib: Count = 10
    files: Count = 10


class MetricsSettings(_Section):
    """Where Prometheus reads the metrics of the agent."""

    listen: Listen = ""
    textfile: FolderOrNone = None


class Settings(_Section):
    """All settings of the agent, as one frozen value.

    Any thread may read it.
    """

    agent: AgentSettings = AgentSettings()
    watch: WatchSettings = WatchSettings()
    cloud: CloudSettings = CloudSettings()
    bucket: BucketSettings = BucketSettings()
    assets: AssetsSettings = AssetsSettings()
    upload: UploadSettings = UploadSettings()
    retry: RetrySettings = RetrySettings()
    retention: RetentionSettings = RetentionSettings()
    history: HistorySettings = HistorySettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()


# The sections by name, and the dotted name of every key.
SECTIONS: Mapping[str, type[BaseModel]] = {
    name: type(getattr(Settings(), name)) for name in Settings.model_fields
}
KEYS: Sequence[str] = tuple(
    f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields
)
