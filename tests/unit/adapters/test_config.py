"""The configuration of an operator becomes Settings, or a list of all its faults."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.adapters.config import (
    KEYS,
    ConfigError,
    ConfigFault,
    Settings,
    load,
    loading,
    profile_path,
    to_toml,
)
from agent.adapters.config.kinds import newer_than
from tests.harness.paths import REPOSITORY

NOWHERE: Mapping[str, str] = {"HOME": "/home/robot"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "agent.toml"


def faults_of(path: Path | None, environ: Mapping[str, str] = NOWHERE) -> Mapping[str, ConfigFault]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    assert caught.value.code == "configuration"
    assert all(str(fault) in caught.value.message for fault in caught.value.faults)
    return {fault.key: fault for fault in caught.value.faults}


def variable(key: str) -> str:
    return "KEYSTONE_AGENT_" + key.upper().replace(".", "__")


def test_an_empty_file_gives_the_defaults(file: Path) -> None:
    file.write_text("")
    loaded = load(file, NOWHERE)
    assert loaded.settings == Settings()
    assert loaded.origin == dict.fromkeys(KEYS, "default")


def test_the_file_in_the_repository_has_every_key_with_its_default_and_a_comment() -> None:
    text = (REPOSITORY / "config" / "agent.toml").read_text()
    loaded = load(REPOSITORY / "config" / "agent.toml", NOWHERE)
    assert loaded.settings == Settings()
    assert "default" not in loaded.origin.values()
    lines = text.splitlines()
    settings = [
        number for number, line in enumerate(lines) if " = " in line and not line.startswith("#")
    ]
    assert len(settings) == len(KEYS)
    assert all(lines[number - 1].startswith("# ") for number in settings)


def test_the_defaults_are_those_promised() -> None:
    settings = Settings()
    assert settings.watch.exclude == (".*", "*.active", "*.tmp", "*.part")
    assert (
        settings.watch.settle_seconds,
        settings.watch.rescan_seconds,
        settings.watch.unfinished_minutes,
    ) == (
        2,
        60,
        10,
    )
    assert (
        settings.retry.base_seconds,
        settings.retry.max_seconds,
        settings.retry.jitter_seconds,
    ) == (30, 1800, 30)
    assert (
        settings.retry.max_attempts,
        settings.upload.max_concurrent,
        settings.upload.max_restarts,
    ) == (5, 2, 3)


def test_settings_never_change() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.watch.polling = "never"


def test_a_drop_in_wins_over_the_file_and_the_environment_over_both(file: Path) -> None:
    file.write_text('[watch]\nroots = ["/a"]\nrescan_seconds = 1\npolling = "never"\n')
    drop_ins = Path(f"{file}.d")
    drop_ins.mkdir()
    (drop_ins / "20-late.toml").write_text("[watch]\nrescan_seconds = 3\n")
    (drop_ins / "10-early.toml").write_text("[watch]\nrescan_seconds = 2\nsettle_seconds = 7\n")
    (drop_ins / ".20-late.toml.swp.toml").write_text("no settings at all")
    loaded = load(file, {**NOWHERE, variable("watch.settle_seconds"): "0.5"})
    watch = loaded.settings.watch
    assert (watch.roots, watch.rescan_seconds, watch.settle_seconds, watch.polling) == (
        (Path("/a"),),
        3,
        0.5,
        "never",
    )
    assert loaded.origin["watch.roots"] == str(file)
    assert loaded.origin["watch.rescan_seconds"] == str(drop_ins / "20-late.toml")
    assert loaded.origin["watch.settle_seconds"] == "KEYSTONE_AGENT_WATCH__SETTLE_SECONDS"
    assert loaded.origin["watch.sidecar"] == "default"


def test_a_drop_in_adds_robots_to_the_map(file: Path) -> None:
    file.write_text('[assets.map]\nr1 = "a1"\nr2 = "a2"\n')
    Path(f"{file}.d").mkdir()
    Path(f"{file}.d", "more.toml").write_text('[assets.map]\nr2 = ""\nr3 = "a3"\n')
    assert load(file, NOWHERE).settings.assets.map == {"r1": "a1", "r2": "", "r3": "a3"}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("watch.roots", '["/a", "~/b"]', (Path("/a"), Path("/home/robot/b"))),
        ("watch.roots", '["/a/../b/", "//c"]', (Path("/b"), Path("/c"))),
        ("watch.exclude", "[]", ()),
        ("watch.follow_symlinks", "true", True),
        ("watch.follow_symlinks", "0", False),
        ("watch.newer_than", "7d", "7d"),
        ("assets.map", '{"r": "a"}', {"r": "a"}),
        ("assets.default", "123", "123"),
        ("upload.max_concurrent", "4", 4),
        ("upload.bandwidth_mbit", "2.5", 2.5),
        ("upload.windows", '["22:00-06:00", "sat"]', ("22:00-06:00", "sat")),
        ("upload.interfaces", '["wl*"]', ("wl*",)),
        ("retry.jitter_seconds", "0", 0),
        ("log.level", "debug", "DEBUG"),
        ("log.dir", "", None),
        ("cloud.dp_config", "~/profiles.json", Path("/home/robot/profiles.json")),
    ],
)
def test_every_kind_of_value_can_come_from_the_environment(
    file: Path, key: str, text: str, value: Any
) -> None:
    file.write_text("")
    section, name = key.split(".")
    settings = load(file, {**NOWHERE, variable(key): text}).settings
    assert getattr(getattr(settings, section), name) == value


def test_the_environment_may_name_the_file_and_the_argument_wins(
    tmp_path: Path, file: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[agent]\ndevice_id = "other"\n')
    file.write_text('[agent]\ndevice_id = "argument"\n')
    environ = {**NOWHERE, "KEYSTONE_AGENT_CONFIG": str(other)}
    assert load(None, environ).settings.agent.device_id == "other"
    assert load(file, environ).settings.agent.device_id == "argument"


def test_only_the_file_at_the_default_path_may_be_missing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "DEFAULT_PATH", file)
    assert load(None, NOWHERE).settings == Settings()
    assert faults_of(file)[""].origin == str(file)
    assert "no such file" in str(
        faults_of(None, {"KEYSTONE_AGENT_CONFIG": "/nowhere/agent.toml"})[""]
    )


def test_all_faults_are_named_at_once_with_key_value_expectation_and_origin(file: Path) -> None:
    file.write_text(
        """
        roots = ["/a"]
        upload = 3
        [watch]
        roots = ["/ok", "relative"]
        include = []
        exclude = ["a/b"]
        settle_seconds = 0
        rescan_seconds = "60"
        sidecar = "maybe"
        newer_than = "sooner"
        folow_symlinks = true
        [retry]
        base_seconds = 60
        max_seconds = 59
        max_attempts = true
        [cloud]
        request_timeout_seconds = inf
        [assets.map]
        r = 7
        [plumbing]
        name = "b"
        """
    )
    faults = faults_of(
        file, {**NOWHERE, variable("log.files"): "ten", "KEYSTONE_AGENT_LOG_LEVEL": "INFO"}
    )
    assert set(faults) == {
        "roots", "upload", "watch.roots[1]", "watch.include", "watch.exclude[0]",
        "watch.settle_seconds", "watch.rescan_seconds", "watch.sidecar", "watch.newer_than",
        "watch.folow_symlinks", "retry.max_seconds", "retry.max_attempts",
        "cloud.request_timeout_seconds", "assets.map[r]", "plumbing", "log.files",
        "KEYSTONE_AGENT_LOG_LEVEL",
    }  # fmt: skip
    assert faults["watch.sidecar"] == ConfigFault(
        "watch.sidecar", '"maybe"', 'one of "optional", "required", "ignore"', str(file)
    )
    assert "did you mean watch.roots?" in faults["roots"].expected
    assert "did you mean follow_symlinks?" in faults["watch.folow_symlinks"].expected
    assert "agent, watch, cloud" in faults["plumbing"].expected
    assert (faults["log.files"].value, faults["log.files"].origin) == (
        '"ten"',
        "KEYSTONE_AGENT_LOG__FILES",
    )
    assert faults["KEYSTONE_AGENT_LOG_LEVEL"].origin == "environment"
    assert "KEYSTONE_AGENT_LOG__LEVEL" in faults["KEYSTONE_AGENT_LOG_LEVEL"].expected


def test_bucket_mode_needs_a_bucket_and_all_its_faults_are_named_with_the_others(
    file: Path,
) -> None:
    file.write_text(
        """
        [cloud]
        mode = "bucket"
        [bucket]
        key = "{device_id}/{robot}"
        addressing = "both"
        credentials = "magic"
        sts_endpoint = "https://sts/with/a/path"
        storage_class = "two words"
        [upload]
        part_size_mib = 4
        """
    )
    faults = faults_of(file)
    assert set(faults) == {
        "bucket.endpoint", "bucket.name", "bucket.key", "bucket.addressing", "bucket.credentials",
        "bucket.sts_endpoint", "bucket.storage_class", "upload.part_size_mib",
    }  # fmt: skip
    assert "{relpath}" in faults["bucket.key"].expected
    assert "cloud.mode" in faults["bucket.name"].expected


@pytest.mark.parametrize(
    "key", ["", "plain", "{name", "{name!r}", "{name:>5}", "{}", "{0}", "a\n{name}"]
)
def test_a_template_of_keys_has_known_placeholders_and_nothing_else(file: Path, key: str) -> None:
    file.write_text("")
    assert set(faults_of(file, {**NOWHERE, variable("bucket.key"): key})) == {"bucket.key"}


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("endpoint", "http://127.0.0.1:9000", "ftp://host"),
        ("endpoint", "s3.example.org", "https://user@host"),
        ("endpoint", "https://[::1]:9000/", "https://host/path"),
        ("name", "my-bucket.1", "My_Bucket"),
        ("role_arn", "arn:aws:iam::1:role/robot", "a role"),
    ],
)
def test_a_bucket_is_named_as_stores_know_it(file: Path, key: str, good: str, bad: str) -> None:
    file.write_text("")
    assert (
        getattr(load(file, {**NOWHERE, variable(f"bucket.{key}"): good}).settings.bucket, key)
        == good
    )
    assert set(faults_of(file, {**NOWHERE, variable(f"bucket.{key}"): bad})) == {f"bucket.{key}"}


def test_a_key_that_nothing_resembles_is_refused_with_the_known_ones(file: Path) -> None:
    file.write_text("[watch]\nzzz = false\n")
    assert "roots, include, exclude" in faults_of(file)["watch.zzz"].expected


def test_the_longest_wait_may_not_be_below_the_first_even_where_it_is_the_default(
    file: Path,
) -> None:
    file.write_text("[retry]\nbase_seconds = 4000\n")
    assert faults_of(file)["retry.max_seconds"].origin == "default"


def test_a_syntax_error_is_named_with_file_and_line_beside_all_other_faults(file: Path) -> None:
    file.write_text("[watch]\nrescan_seconds = 0\n")
    Path(f"{file}.d").mkdir()
    broken = Path(f"{file}.d", "broken.toml")
    broken.write_text("[log]\n\nlevel = oops\n")
    faults = faults_of(file)
    assert faults[""].origin == f"{broken}:3"
    assert "watch.rescan_seconds" in faults


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"x = " + b"[" * 5000, b"x = " + b"9" * 5000, b"\x00"]
)
def test_a_file_that_is_no_toml_is_a_fault(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert str(file) in faults_of(file)[""].origin


def test_a_folder_in_the_place_of_the_file_is_a_fault(tmp_path: Path) -> None:
    assert "can't be read" in faults_of(tmp_path)[""].expected


def test_what_may_be_a_secret_is_not_shown(file: Path) -> None:
    file.write_text('[cloud]\napi_key = "hunter2!"\ndp_config = "https://joe:hunter2!@host"\n')
    with pytest.raises(ConfigError) as caught:
        load(file, {**NOWHERE, "KEYSTONE_AGENT_CLOUD__TOKEN": "hunter2!"})
    assert len(caught.value.faults) == 3
    assert "hunter2!" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["", "http://proxy:3128", "http://proxy.lan:80/", "http://10.0.0.1:1", "http://[fd00::1]:8080"],
)
def test_a_proxy_is_a_host_and_a_port(file: Path, url: str) -> None:
    file.write_text(f'[cloud]\nproxy = "{url}"\n')
    settings = load(file, NOWHERE).settings
    assert settings.cloud.proxy.get_secret_value() == url
    assert settings.cloud.proxy.secrets() == []
    assert f'proxy = "{url}"' in to_toml(settings)


def test_the_user_of_a_proxy_is_not_shown(file: Path) -> None:
    file.write_text('[cloud]\nproxy = "http://joe:hunter%40!@proxy:3128"\n')
    settings = load(file, NOWHERE).settings
    assert settings.cloud.proxy.get_secret_value() == "http://joe:hunter%40!@proxy:3128"
    assert settings.cloud.proxy.secrets() == ["hunter%40!", "hunter@!"]
    for shown in (
        to_toml(settings),
        repr(settings),
        str(settings.model_dump()),
        settings.model_dump_json(),
    ):
        assert "http://***@proxy:3128" in shown
        assert "hunter" not in shown


@pytest.mark.parametrize(
    "url",
    [
        "proxy:3128", "http://proxy", "https://proxy:3128", "socks5://proxy:1080", "http://:3128",
        "http://proxy:0", "http://proxy:70000", "http://proxy:3128/path", "http://proxy:x",
        "http://[::1:3128", "http://pro xy:3128", "http://joe:hunter2!@proxy",
        "joe:hunter2!@proxy:3128", "http://joe:hunter2!@hunter2!@proxy:3128",
        "http://joe:hunter2!/hunter2!@proxy:3128", "http://joe:hunter2! hunter2!@proxy:3128",
    ],
)  # fmt: skip
def test_anything_else_is_no_proxy_and_its_password_is_not_shown(file: Path, url: str) -> None:
    file.write_text(f'[cloud]\nproxy = "{url}"\n')
    fault = faults_of(file)["cloud.proxy"]
    assert "http://HOST:PORT" in fault.expected
    assert "hunter2!" not in str(fault)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ('windows = ["22:00-06:00", "Saturday"]', "upload.windows[1]"),
        ('windows = ["25:00-06:00"]', "upload.windows[0]"),
        ('windows = "sat"', "upload.windows"),
        ('interfaces = ["wl/0"]', "upload.interfaces[0]"),
        ('metered = "never"', "upload.metered"),
        ("bandwidth_mbit = -1", "upload.bandwidth_mbit"),
        ("bandwidth_mbit = inf", "upload.bandwidth_mbit"),
    ],
)
def test_a_limit_that_is_none_is_a_fault(file: Path, setting: str, key: str) -> None:
    file.write_text(f"[upload]\n{setting}\n")
    assert list(faults_of(file)) == [key]


def test_a_date_of_toml_is_a_date(file: Path) -> None:
    file.write_text("[watch]\nnewer_than = 2025-06-30\n")
    assert load(file, NOWHERE).settings.watch.newer_than == "2025-06-30"


def test_newer_than_is_a_moment_an_age_or_nothing() -> None:
    assert newer_than("") is None
    assert newer_than("7d") == timedelta(days=7)
    assert newer_than("12h") == timedelta(hours=12)
    assert newer_than("2025-06-30T12:00:00Z") == datetime(2025, 6, 30, 12, tzinfo=timezone.utc)
    # A date without a time means midnight in local time.
    assert newer_than("2025-06-30") == datetime(2025, 6, 30).astimezone(timezone.utc)
    for text in (
        "d",
        "-7d",
        "7 d",
        "99999999999d",
        "999999999w",
        "0001-01-01T00:00:00+23:00",
        "soon",
    ):
        with pytest.raises(ValueError, match="no date and no age"):
            newer_than(text)


def test_settings_as_toml_load_to_the_same_settings(file: Path) -> None:
    file.write_text(
        '[watch]\nroots = ["/a \\"b\\"/~", "~/ü"]\nfollow_symlinks = true\nsettle_seconds = 0.25\n'
        '[assets.map]\n"robot 1.x" = "ä"\nr2 = ""\n[log]\ndir = ""\n'
    )
    settings = load(file, NOWHERE).settings
    file.write_text(to_toml(settings))
    assert load(file, {}).settings == settings


def test_the_profile_file_is_the_first_that_exists(tmp_path: Path, file: Path) -> None:
    state, home, credentials = (tmp_path / name for name in ("state", "home", "credentials"))
    file.write_text(f'[agent]\nstate_dir = "{state}"\n')
    settings = load(file, NOWHERE).settings
    environ = {"HOME": str(home), "CREDENTIALS_DIRECTORY": str(credentials)}
    assert profile_path(settings, environ) == state / "dp-config.json"
    for place in (
        home / ".archebase" / "config.json",
        state / "dp-config.json",
        credentials / "dp-config",
    ):
        place.parent.mkdir(parents=True)
        place.write_text("{}")
        assert profile_path(settings, environ) == place
    file.write_text('[cloud]\ndp_config = "/else/where.json"\n')
    assert profile_path(load(file, NOWHERE).settings, environ) == Path("/else/where.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
PLAUSIBLE = st.sampled_from(
    [
        "",
        "/a",
        "~/a",
        "7d",
        "auto",
        "INFO",
        "optional",
        1,
        0,
        -1,
        0.5,
        True,
        ["/a"],
        {"r": "a"},
        10**400,
        10**5000,
    ]
)


@given(st.dictionaries(st.sampled_from(KEYS), JSON | PLAUSIBLE, max_size=5))
def test_any_value_in_a_file_loads_or_is_a_fault_of_its_key(values: Mapping[str, Any]) -> None:
    lines = [f"{key} = {_as_toml(value)}\n" for key, value in values.items()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "agent.toml")
        path.write_text("".join(lines), encoding="utf-8")
        _loads_or_names(path, {}, values)


@given(st.dictionaries(st.sampled_from(KEYS), st.text() | JSON.map(json.dumps), max_size=5))
def test_any_text_in_the_environment_loads_or_is_a_fault_of_its_key(
    values: Mapping[str, str],
) -> None:
    with tempfile.NamedTemporaryFile() as empty:
        _loads_or_names(
            Path(empty.name), {variable(key): text for key, text in values.items()}, values
        )


def _loads_or_names(path: Path, environ: Mapping[str, str], values: Mapping[str, Any]) -> None:
    try:
        loaded = load(path, {**NOWHERE, **environ})
    except ConfigError as error:
        for fault in error.faults:
            assert fault.key.partition("[")[0] in values or fault.key == "retry.max_seconds"
            assert fault.expected
    else:
        assert {key for key, origin in loaded.origin.items() if origin != "default"} == set(values)
        path.write_text(to_toml(loaded.settings), encoding="utf-8")
        assert load(path, NOWHERE).settings == loaded.settings


def _as_toml(value: Any) -> str:
    if value is None:
        return '""'
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_toml, value)) + "]"
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{_as_toml(key)} = {_as_toml(item)}" for key, item in value.items())
            + "}"
        )
    if isinstance(value, str):
        return json.dumps(value.encode("utf-8", "replace").decode(), ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )
    if isinstance(value, int) and abs(value) > sys.maxsize:
        return hex(abs(value))
    return repr(value).lower()


def test_the_default_includes_both_cases_of_the_suffix() -> None:
    assert Settings().watch.include == ("*.mcap", "*.MCAP")
