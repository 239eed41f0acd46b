"""The log reaches people and programs, and never contains a secret."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters import logs
from agent.adapters.logs import HIDDEN, Redactor

SECRET = 'wJalrXUtn"FEMI/K7MDENG+bPx'  # noqa: S105 - the secret is not valid anywhere
log = logging.getLogger("agent.upload.test")


@pytest.fixture(autouse=True)
def _quiet_afterwards() -> Iterator[None]:
    root, agent = logging.getLogger(), logging.getLogger("agent")
    levels = root.level, agent.level
    yield
    logs.stop()
    root.setLevel(levels[0])
    agent.setLevel(levels[1])


def started(
    folder: Path | None, level: str = "INFO", *, max_mib: int = 1, files: int = 3
) -> Redactor:
    return logs.start(level, folder, max_mib, files, console=folder is None)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "json" / "agent.jsonl").read_text().splitlines()]


def test_one_message_is_a_line_for_people_and_an_object_for_programs(tmp_path: Path) -> None:
    started(tmp_path)
    log.info(
        "sent %s",
        "a.mcap",
        extra={"event": "part_sent", "episode_id": "ep-1", "part": 3, "path": Path("/d/a b")},
    )
    (line,) = lines(tmp_path)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "event": "part_sent",
        "message": "sent a.mcap",
        "episode_id": "ep-1",
        "part": 3,
        "path": "/d/a b",
    }
    text = (tmp_path / "agent.log").read_text()
    assert text.count("\n") == 1
    assert "INFO    part_sent: sent a.mcap episode_id=ep-1 part=3 path='/d/a b'" in text


def test_the_console_has_a_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    started(None)
    log.warning("the gate is closed", extra={"event": "gate_closed", "reason": "offline"})
    text = capsys.readouterr().err
    assert text.split(" ", 1)[1] == "WARNING the gate is closed\n"


def test_a_line_in_the_journal_has_its_priority_and_no_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "is_journal", lambda _: True)
    logs.start("INFO", None, 1, 3)
    log.info("a\nb")
    log.error("bad", exc_info=ValueError("one\ntwo"))
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["<6>INFO    a\\nb", "<3>ERROR   bad", "<3>ValueError: one", "<3>two"]


def test_the_agent_is_heard_from_its_level_on_and_libraries_from_warning_on(tmp_path: Path) -> None:
    started(tmp_path, "DEBUG")
    log.debug("detail")
    for name in (
        "urllib3.connectionpool",
        "apscheduler.executors.default",
        "watchdog.observers.inotify_c",
        "grpc._channel",
    ):
        logging.getLogger(name).info("chatter of %s", name)
        logging.getLogger(name).warning("warning of %s", name)
    assert [line["message"].split(" ")[0] for line in lines(tmp_path)] == [
        "detail",
        *["warning"] * 4,
    ]
    assert lines(tmp_path)[1]["event"] == "urllib3.connectionpool"
    started(tmp_path, "ERROR")
    log.warning("not this")
    logging.getLogger("urllib3").warning("nor this")
    assert len(lines(tmp_path)) == 5


def test_a_second_start_writes_nothing_twice_and_keeps_the_secrets(tmp_path: Path) -> None:
    redactor = started(tmp_path)
    redactor.hide(SECRET)
    again = logs.start("INFO", tmp_path, 1, 3, console=False, redactor=redactor)
    assert again is redactor
    log.info("once %s", SECRET)
    assert [line["message"] for line in lines(tmp_path)] == [f"once {HIDDEN}"]


def test_what_is_said_while_it_starts_anew_shows_no_secret(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    redactor = logs.start("INFO", tmp_path / "a", 10, 10)
    redactor.hide("the-key-of-this-robot")
    add_files = logs._add_files

    def slow(*arguments: Any) -> None:
        logging.getLogger("agent.upload").warning("refused: the-key-of-this-robot")
        add_files(*arguments)

    monkeypatch.setattr(logs, "_add_files", slow)
    logs.start("INFO", tmp_path / "b", 10, 10, redactor=redactor)
    said = capfd.readouterr().err
    assert "refused: ***" in said
    assert "the-key" not in said


def test_files_are_readable_for_the_group_and_nobody_else(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        started(tmp_path / "logs")
        log.info("hello")
    finally:
        os.umask(old)
    for file in (tmp_path / "logs" / "agent.log", tmp_path / "logs" / "json" / "agent.jsonl"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o750


def test_files_are_rotated_by_size_and_only_so_many_are_kept(tmp_path: Path) -> None:
    started(tmp_path, max_mib=1, files=3)
    for number in range(9):
        log.info("%d %s", number, "x" * 500_000)
    for folder, suffix in ((tmp_path, ".log"), (tmp_path / "json", ".jsonl")):
        files = [file for file in folder.iterdir() if file.suffix == suffix]
        assert len(files) == 3
        assert all(file.stat().st_size <= 1024 * 1024 for file in files)
        assert all(stat.S_IMODE(file.stat().st_mode) == 0o640 for file in files)
    assert lines(tmp_path)[-1]["message"].startswith("8 ")


def test_a_log_that_somebody_removed_is_begun_anew(tmp_path: Path) -> None:
    started(tmp_path)
    log.info("before")
    (tmp_path / "agent.log").unlink()
    log.info("after")
    assert "after" in (tmp_path / "agent.log").read_text()


def test_a_message_of_several_lines_forges_none(tmp_path: Path) -> None:
    started(tmp_path)
    log.info("a\nb\x1b[31m\udcff", extra={"event": "e", "path": "x\ny"})
    assert (tmp_path / "agent.log").read_text().count("\n") == 1
    assert "\x1b" not in (tmp_path / "agent.log").read_text()


def test_no_log_has_a_character_that_acts_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started(tmp_path)
    text = "\x1b[2J\x7f\x9b\u202e\u2066\u2028\udcff"
    extra = {"event": "e", "path": text, "list": [text], text: 1}
    log.error("%s", text, extra=extra, exc_info=ValueError(text))
    console = capsys.readouterr().err
    for file in ("agent.log", "json/agent.jsonl"):
        written = (tmp_path / file).read_text("utf-8")
        assert (written + console).replace("\n", "").isprintable()
    assert lines(tmp_path)[0]["path"] == text


def test_a_message_of_several_lines_is_one_object(tmp_path: Path) -> None:
    started(tmp_path)
    log.info("a\nb\x1b[31m\udcff", extra={"event": "e", "path": "x\ny"})
    assert lines(tmp_path)[0]["message"] == "a\nb\x1b[31m\udcff"


def test_markup_and_braces_are_taken_as_they_are(tmp_path: Path) -> None:
    started(tmp_path)
    log.info("<red>{0}</red> {extra} %s", "{}", extra={"event": "e", "what": "{x}<b>"})
    assert lines(tmp_path)[0]["message"] == "<red>{0}</red> {extra} {}"
    assert "<red>{0}</red> {extra} {} what={x}<b>" in (tmp_path / "agent.log").read_text()


def test_facts_that_json_does_not_know_are_written_as_text(tmp_path: Path) -> None:
    started(tmp_path)
    log.info(
        "odd", extra={"rate": float("nan"), "keys": {(1, 2): b"x"}, "level": "mine", "time": 0}
    )
    (line,) = lines(tmp_path)
    assert (line["rate"], line["keys"], line["level"]) == ("nan", {"(1, 2)": "b'x'"}, "INFO")


# The tests below cover secrets.


def test_a_known_secret_appears_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    redactor = logs.start("INFO", tmp_path, 1, 3)
    redactor.hide(SECRET)

    def fail(token: str) -> None:
        message = f"refused {token}"
        raise ValueError(message)

    try:
        fail(SECRET)
    except ValueError:
        log.exception(
            "with %s",
            SECRET,
            extra={"event": SECRET, "url": f"https://h/?x={SECRET}", "deep": [{"k": SECRET}]},
        )
    texts = [
        file.read_text() for file in (tmp_path / "agent.log", tmp_path / "json" / "agent.jsonl")
    ]
    texts.append(capsys.readouterr().err)
    for text in texts:
        assert "wJalrXUtn" not in text
        assert "FEMI/K7MDENG" not in text
        assert f"ValueError: refused {HIDDEN}" in text


@pytest.mark.parametrize("form", ["{}", "x={}&y", "{}{}", '"{}"'])
def test_a_known_secret_is_hidden_in_each_of_its_forms(form: str) -> None:
    redactor = Redactor()
    redactor.hide(SECRET)
    for shape in (SECRET, json.dumps(SECRET)[1:-1], "wJalrXUtn%22FEMI%2FK7MDENG%2BbPx"):
        assert redactor.redact(form.replace("{}", shape)) == form.replace("{}", HIDDEN)


def test_what_is_too_short_for_a_secret_hides_no_words() -> None:
    redactor = Redactor()
    redactor.hide("", "a", "secret")
    assert redactor.redact("a secret is kept") == "a secret is kept"


def test_old_secrets_are_forgotten_before_new_ones() -> None:
    redactor = Redactor()
    for number in range(1000):
        redactor.hide(f"secret-number-{number:04}")
    assert redactor.redact("secret-number-0999") == HIDDEN
    assert redactor.redact("secret-number-0000") == "secret-number-0000"


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer S3CR3T.S3CR3T-S3CR3T",
        "authorization: AWS4-HMAC-SHA256 Credential=S3CR3T/x, SignedHeaders=host, Signature=S3CR3T",
        "('authorization', 'Bearer S3CR3T')",
        '{"Authorization": "S3CR3T"}',
        "X-Amz-Security-Token: S3CR3TS3CR3TS3CR3T==",
        (
            "GET /b/k?uploadId=1&X-Amz-Signature=S3CR3T&X-Amz-Credential=S3CR3T%2F2025"
            "&X-Amz-Security-Token=S3CR3T"
        ),
        "Signature=S3CR3T, Credential=S3CR3T",
        '{"apiKey": "S3CR3T", "deviceId": "d"}',
        '{"apiKey": "S3\\"S3CR3T"}',
        (
            "{'sts_access_key_secret': 'S3CR3T', 'sts_security_token': 'S3CR3T', "
            "'sts_access_key_id': 'S3CR3T'}"
        ),
        '"answer: {\\"accessToken\\": \\"S3CR3T\\"}"',
        'sts_access_key_secret: "S3CR3T"',
        "CredentialLease(secret_access_key='S3CR3T', access_key_id='S3CR3T')",
        "password=S3CR3T secret=S3CR3T token=S3CR3T passwd=S3CR3T",
        "proxy http://user:S3CR3T@proxy:3128 is refused",
        "key AKIAS3CR3TS3CR3TS3CR",
        "eyJhbGciOiJIUzI1NiJ9.eyJS3CR3TS3CR3T.S3CR3T-S3CR3T",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    redacted = Redactor().redact(text)
    assert "S3CR3T" not in redacted
    assert HIDDEN in redacted


@pytest.mark.parametrize(
    "text",
    [
        "the access token: expired, a new one is fetched",
        "object_key=day/run.mcap etag=abc credential_refreshes=3 token_type=x",
        "credential: missing; secretly bearing",
        "https://gateway:443/path is unreachable",
        "CreateLogicalUpload: UNAUTHENTICATED: token is expired",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    assert Redactor().redact(text) == text


def test_a_fact_with_a_secret_name_is_hidden_whatever_it_is(tmp_path: Path) -> None:
    started(tmp_path)
    log.info(
        "x", extra={"token": "short", "profile": {"apiKey": "k", "tags": ["t"]}, "object_key": "k"}
    )
    (line,) = lines(tmp_path)
    assert (line["token"], line["profile"], line["object_key"]) == (
        HIDDEN,
        {"apiKey": HIDDEN, "tags": ["t"]},
        "k",
    )
    assert "short" not in (tmp_path / "agent.log").read_text()


@given(st.text(min_size=8), st.text(), st.text())
def test_a_hidden_secret_never_survives(secret: str, before: str, after: str) -> None:
    redactor = Redactor()
    redactor.hide(secret)
    shown = redactor.redact(f"{before}{secret}{after}")
    assert secret not in shown or secret in f"{before}{HIDDEN}{after}"


# The tests below cover failures while logging.


def test_without_a_writable_folder_there_is_standard_error_and_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    logs.start("INFO", tmp_path / "file" / "logs", 1, 3, console=False)
    log.info("hello")
    text = capsys.readouterr().err
    assert text.count("no log files") == 1
    assert text.count("hello") == 1


def test_a_closed_console_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs.start("INFO", tmp_path, 1, 3)
    monkeypatch.setattr(sys, "stderr", None)
    log.info("hello")
    assert lines(tmp_path)[0]["message"] == "hello"


def test_a_long_lived_secret_is_not_forgotten_when_many_others_come() -> None:
    redactor = logs.Redactor()
    redactor.hide("the-api-key-of-this-robot", lasting=True)
    for number in range(2000):
        redactor.hide(f"secret-number-{number:040}")
    assert redactor.redact("key the-api-key-of-this-robot") == f"key {HIDDEN}"


def test_the_name_of_a_call_is_no_secret() -> None:
    assert (
        logs.Redactor().redact("ExchangeCredential: RESOURCE_EXHAUSTED")
        == "ExchangeCredential: RESOURCE_EXHAUSTED"
    )


@pytest.mark.slow
def test_telling_thousands_of_secrets_costs_no_memory_that_stays() -> None:
    redactor = logs.Redactor()
    for number in range(300):
        redactor.hide(f"secret-number-{number:040}")
    tracemalloc.start()
    for number in range(2000):
        redactor.hide(f"secret-number-{number:040}")
        redactor.redact("a line of the log")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1024 * 1024
