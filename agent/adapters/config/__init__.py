"""Files and environment → one frozen Settings value, complete at start, or every fault at once.

A key stands here with the feature it steers, and nowhere else is there a default. What each key means to an operator
is said in ``config/agent.toml``; a test proves that the file and this room agree.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from agent.adapters.config.kinds import (
    USER_IN_URL,
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
from agent.adapters.config.merging import canonical, merged, unknown_keys
from agent.model.errors import AgentError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore] # is installed on Python 3.10 alone

DEFAULT_PATH = Path("/etc/keystone-agent/agent.toml")
PATH_VARIABLE = "KEYSTONE_AGENT_CONFIG"
PREFIX = "KEYSTONE_AGENT_"

_SECRET = re.compile(r"secret|token|passw|credential|(api|access|private)_?key", re.IGNORECASE)


class _Section(BaseModel):
    # Defaults are validated, so that a number is of one type whoever set it.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, validate_default=True
    )


class AgentSettings(_Section):
    """Who the agent is, and where it keeps what it knows."""

    state_dir: Folder = Path("/var/lib/keystone-agent")
    device_id: Id = ""


class WatchSettings(_Section):
    """Which files become recordings, and when."""

    roots: Folders = (Path("/data/recordings"),)
    include: Annotated[
        Globs,
        Field(min_length=1, description="a list of one or more globs for base names, without a /"),
    ] = ("*.mcap",)
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
    """How the platform is reached, or that there is none."""

    mode: Literal["platform", "bucket"] = "platform"
    dp_config: FolderOrNone = None
    request_timeout_seconds: Seconds = 30
    tls_ca_file: FolderOrNone = None
    proxy: Proxy = ProxyUrl("")


class BucketSettings(_Section):
    """The bucket that recordings go to where there is no platform."""

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
    """Which asset in the platform a robot is."""

    default: Id = ""
    map: Ids = Field(default_factory=dict)


class UploadSettings(_Section):
    """How much goes at once, in which order, when, and over which link."""

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
    """When a failed recording is tried again, and how often."""

    base_seconds: Seconds = 30
    max_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=31_536_000,
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
    """What of the uploaded recordings is deleted here, and when."""

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
    """How long the history remembers."""

    keep_days: Annotated[
        int, Field(gt=0, le=36_500, description="a whole number of days from 1 to 36500")
    ] = 90


class LogSettings(_Section):
    """What is written down for people and programs."""

    level: Level = "INFO"
    dir: FolderOrNone = Path("/var/log/keystone-agent")
    max_mib: Count = 10
    files: Count = 10


class MetricsSettings(_Section):
    """Where Prometheus finds the agent's metrics."""

    listen: Listen = ""
    textfile: FolderOrNone = None


class Settings(_Section):
    """Everything an operator can set."""

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


_SECTIONS: Mapping[str, type[_Section]] = {
    name: type(getattr(Settings(), name)) for name in Settings.model_fields
}
KEYS: Sequence[str] = tuple(
    f"{name}.{key}" for name, section in _SECTIONS.items() for key in section.model_fields
)
_VARIABLES = {f"{PREFIX}{key.upper().replace('.', '__')}": key for key in KEYS}


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """One thing that is wrong: ``value`` is TOML text ("" where there is none), ``origin`` a file or a variable."""

    key: str
    value: str
    expected: str
    origin: str

    def __str__(self) -> str:
        setting = f"{self.key} = {self.value}" if self.value else self.key
        return (
            f"{self.origin}: {setting}: expected {self.expected}"
            if setting
            else f"{self.origin}: {self.expected}"
        )


_NO_KEYS = f"mend that file, or name another one with --config or {PATH_VARIABLE}"


class ConfigError(AgentError):
    """The configuration can't be used; ``faults`` has everything that is wrong with it."""

    code = "configuration"

    def __init__(self, faults: Sequence[ConfigFault]) -> None:
        """The message has one line for each fault."""
        keys = any(fault.key for fault in faults)
        hint = "mend every line above; config/agent.toml explains each key" if keys else _NO_KEYS
        super().__init__("\n".join(str(fault) for fault in faults), hint=hint)
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where each dotted key has its value from: "default", a file's path, or a variable's name."""

    settings: Settings
    origin: Mapping[str, str]
    # What of the configuration this version does not know: as faults, and each key's name.
    unknown: Sequence[ConfigFault] = ()
    unknown_keys: Sequence[str] = ()
    # Equal configurations have equal bytes here, in any version. They may hold secrets.
    canonical: bytes = field(default=b"", repr=False)


def load(path: Path | None, environ: Mapping[str, str]) -> Loaded:
    """Read the configuration: file, drop-ins beside it, environment; each wins over the one before.

    ``path`` is what ``--config`` named. Only the file at the default path may be missing. Raises
    :class:`ConfigError`, also for keys that this version does not know.
    """
    loaded = load_leniently(path, environ)
    if loaded.unknown:
        raise ConfigError(loaded.unknown)
    return loaded


def load_leniently(path: Path | None, environ: Mapping[str, str]) -> Loaded:
    """Read the configuration like :func:`load`, but leave out the keys that this version does not know.

    The caller decides what becomes of them. Any other fault raises :class:`ConfigError`, which then
    names the unknown keys, too.
    """
    named = path or (Path(environ[PATH_VARIABLE]) if environ.get(PATH_VARIABLE) else None)
    main = named or DEFAULT_PATH
    faults: list[ConfigFault] = []
    unknown: list[ConfigFault] = []
    documents: list[Mapping[str, Any]] = []
    values: dict[str, Any] = {}
    origin = dict.fromkeys(KEYS, "default")
    drop_ins = sorted(
        file for file in Path(f"{main}.d").glob("*.toml") if not file.name.startswith(".")
    )
    for file in [main, *drop_ins]:
        document = _read(file, file == DEFAULT_PATH and named is None, faults)
        documents.append(document)
        for key, value in _known(document, str(file), faults, unknown):
            old = values.get(key)
            values[key] = (
                {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
            )
            origin[key] = str(file)
    variables = {
        name: text
        for name, text in environ.items()
        if name.startswith(PREFIX) and name != PATH_VARIABLE
    }
    for variable in sorted(variables):
        if variable in _VARIABLES:
            key = _VARIABLES[variable]
            values[key], origin[key] = _parse(key, environ[variable]), variable
        else:
            close = difflib.get_close_matches(variable, _VARIABLES, n=1)
            expected = (
                f"a known variable; did you mean {close[0]}?"
                if close
                else f"{PREFIX}<SECTION>__<KEY>"
            )
            unknown.append(
                ConfigFault(variable, _shown(variable, environ[variable]), expected, "environment")
            )
            faults.append(unknown[-1])
    if values.get("cloud.mode") == "bucket":
        faults += [
            ConfigFault(key, '""', 'a value, because cloud.mode = "bucket"', origin[key])
            for key in ("bucket.endpoint", "bucket.name")
            if values.get(key, "") == ""
        ]
    settings = _validated(values, origin, environ, faults)
    # Every unknown key is among the faults: more of them means that something else is wrong, too.
    if settings is None or len(faults) > len(unknown):
        raise ConfigError(faults)
    whole = merged(documents)
    names = [*unknown_keys(whole, _SECTIONS, KEYS), *sorted(set(variables) - set(_VARIABLES))]
    try:
        text = canonical(whole, variables)
    except RecursionError:
        fault = ConfigFault("", "", "has tables or lists that are nested too deeply", str(main))
        raise ConfigError([*faults, fault]) from None
    return Loaded(settings, origin, unknown, names, text)


def _read(file: Path, may_miss: bool, faults: list[ConfigFault]) -> Mapping[str, Any]:
    try:
        document: Mapping[str, Any] = tomllib.loads(file.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        if not may_miss:
            faults.append(ConfigFault("", "", "there is no such file", str(file)))
    except OSError as error:
        faults.append(ConfigFault("", "", f"can't be read: {error.strerror}", str(file)))
    except UnicodeDecodeError:
        faults.append(ConfigFault("", "", "is no UTF-8 text", str(file)))
    except (
        ValueError,
        RecursionError,
    ) as error:  # tomllib's own error is a ValueError, and not its only one
        line = re.search(r"at line (\d+)", str(error))
        faults.append(
            ConfigFault("", "", f"is no TOML: {error}", f"{file}:{line[1]}" if line else str(file))
        )
    else:
        return document
    return {}


def _known(
    document: Mapping[str, Any], origin: str, faults: list[ConfigFault], unknown: list[ConfigFault]
) -> Sequence[tuple[str, Any]]:
    """The document's settings by dotted key; whatever else it holds is a fault.

    A key or section that this version does not know goes to ``unknown``, too.
    """
    found = []
    for name, table in document.items():
        if name not in _SECTIONS:
            unknown.append(ConfigFault(name, "", _instead(name, _SECTIONS, "section"), origin))
            faults.append(unknown[-1])
        elif not isinstance(table, dict):
            faults.append(ConfigFault(name, _shown(name, table), f"a table [{name}]", origin))
        else:
            known = _SECTIONS[name].model_fields
            for key, value in table.items():
                if key in known:
                    found.append((f"{name}.{key}", value))
                else:
                    fault = ConfigFault(
                        f"{name}.{key}",
                        _shown(key, value),
                        _instead(key, known, f"key of [{name}]"),
                        origin,
                    )
                    unknown.append(fault)
                    faults.append(fault)
    return found


def _instead(name: str, known: Mapping[str, Any], what: str) -> str:
    strays = [key for key in KEYS if what == "section" and key.endswith(f".{name}")]
    if close := strays or difflib.get_close_matches(name, known, n=1):
        return f"a known {what}; did you mean {close[0]}?"
    return f"a known {what}: {', '.join(known)}"


def _parse(key: str, text: str) -> Any:
    """Text from the environment as TOML would have had it; what can't be parsed is judged as text."""
    section, _, name = key.partition(".")
    default = getattr(getattr(Settings(), section), name)
    with suppress(ValueError, RecursionError):
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}.get(
                text.strip().lower(), text
            )
        if isinstance(default, (int, float)):
            return float(text) if re.search(r"[.eE]", text) else int(text)
        if isinstance(default, (tuple, dict)):
            return json.loads(text)
    return text


def _validated(
    values: Mapping[str, Any],
    origin: Mapping[str, str],
    environ: Mapping[str, str],
    faults: list[ConfigFault],
) -> Settings | None:
    nested: dict[str, dict[str, Any]] = {}
    for dotted, value in values.items():
        section, _, key = dotted.partition(".")
        nested.setdefault(section, {})[key] = value
    try:
        return Settings.model_validate(nested, context={"home": _home(environ)})
    except ValidationError as error:
        told: set[str] = set()
        for fault in error.errors(include_url=False):
            section, key, *rest = (str(part) for part in fault["loc"])
            dotted = f"{section}.{key}"
            if dotted in told and not rest:
                continue  # a list that has a bad item is not short of items, too
            told.add(dotted)
            place = dotted + "".join(f"[{part}]" for part in rest if part != "[key]")
            value = fault["input"] if rest else values.get(dotted, fault["input"])
            expected = _expected(_SECTIONS[section].model_fields[key])
            faults.append(ConfigFault(place, _shown(key, value), expected, origin[dotted]))
    return None


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 - Path.home raises for a user without one


def _expected(field: Any) -> str:
    if field.description:
        return str(field.description)
    return "one of " + ", ".join(f'"{choice}"' for choice in field.annotation.__args__)


def _shown(key: str, value: Any) -> str:
    """``value`` as an operator may see it in a terminal and in a log."""
    if _SECRET.search(key):
        return '"***"'
    try:
        text = _toml(value)
    except (ValueError, RecursionError):
        text = f"(a {type(value).__name__})"
    text = USER_IN_URL.sub("://***@", text)
    if key == "proxy" and "@" in text:  # in a wrong one anything may stand anywhere
        text = f'"***@{text.rpartition("@")[2]}'
    return text if len(text) <= 80 else text[:77] + "..."


def to_toml(settings: Settings, origin: Mapping[str, str] | None = None) -> str:
    """``settings`` as a TOML file that loads to the same value, but for passwords, which are hidden.

    ``origin`` by dotted key goes into its comments.
    """
    sections = []
    for name, section in settings:
        lines = [f"{key} = {_toml(value)}" for key, value in section]
        if origin:
            lines = [
                f"{line}  # {origin[f'{name}.{key}']}"
                for line, (key, _) in zip(lines, section, strict=True)
            ]
        sections.append("\n".join([f"[{name}]", *lines]) + "\n")
    return "\n".join(sections)


def _toml(value: Any) -> str:
    if isinstance(value, (int, float)):
        return repr(value).lower()  # of True, too
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    text = "" if value is None else str(value).encode("utf-8", "replace").decode("utf-8")
    # JSON's escapes are TOML's, but TOML wants DEL escaped too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def profile_path(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Where the platform's device profiles are: as configured, else the first that exists, else below state_dir."""
    if settings.cloud.dp_config is not None:
        return settings.cloud.dp_config
    own = settings.agent.state_dir / "dp-config.json"
    places = [own, Path(_home(environ)) / ".archebase" / "config.json"]
    if environ.get("CREDENTIALS_DIRECTORY"):
        places.insert(0, Path(environ["CREDENTIALS_DIRECTORY"]) / "dp-config")
    return next((place for place in places if os.path.lexists(place)), own)
