"""Log records → console, a file for people and a file for programs, with everything secret taken out.

The rooms log through the standard library's ``logging``, with what belongs to a message in ``extra``; here loguru
takes it over, together with what the libraries have to say from WARNING on.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from loguru import logger

if TYPE_CHECKING:
    from loguru import Message, Record

HIDDEN = "***"
_SHORTEST_SECRET = 8  # shorter ones would black out ordinary words
_MOST_LASTING = 32
_MOST_SECRETS = 256  # storage keys change every few minutes, and old ones are worthless

_FIELD = (
    r"[\w-]{0,40}(?:secret|token|passw(?:or)?d|signature|(?<!Exchange)credential"
    r"|(?:api|access|private|secret)[_-]?key(?:[_-]?(?:id|secret))?)"
)
_SECRET_KEY = re.compile(rf"{_FIELD}|authorization", re.IGNORECASE)
_PATTERNS = tuple(  # group 1 stays, the rest goes
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(\bauthorization\\*[\"']?\s*[:=]\s*\\*[\"']?)[^\"'\\\r\n]+",
        r"(\bbearer\s+)[\w.~+/=%-]+",
        rf"(\b{_FIELD}[\"']?\s*[:=]\s*)(?:\"(?:\\.|[^\"\\])*\"?|'(?:\\.|[^'\\])*'?)",
        rf"(\b{_FIELD}\\+[\"']\s*:\s*\\+[\"']).*?(?=\\+[\"'])",  # JSON within a string
        rf"(\b{_FIELD}=)[^\s&\"',;)}}\]\\]+",
        rf"(\b{_FIELD}:\s*)[^\s&\"',;)}}\]\\]{{16,}}",  # without quotes only what is no word: prose has colons, too
        r"(://)[^/@\s\"']+(?=@)",
    )
)
_KEY_ID = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]+"
)  # AWS key ids, JSON web tokens
_CONTROLS = {
    code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0)]
}  # forged lines, terminal escapes
_CONTROLS_BUT_NEWLINE = {code: text for code, text in _CONTROLS.items() if chr(code) != "\n"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Redactor:
    """Knows what must never be read in a log: secrets it was told, and whatever looks like one."""

    def __init__(self) -> None:
        """Begin with the patterns alone."""
        self._lock = threading.Lock()
        self._secrets: OrderedDict[str, None] = OrderedDict()
        self._lasting: OrderedDict[str, None] = OrderedDict()
        self._forms: Sequence[str] = ()

    def hide(self, *values: str, lasting: bool = False) -> None:
        """Hide these secrets from now on, also as they look in JSON and in URLs.

        ``lasting`` ones are not forgotten when many others come: API keys and access tokens outlive storage keys.
        """
        with self._lock:
            kept, most = (
                (self._lasting, _MOST_LASTING) if lasting else (self._secrets, _MOST_SECRETS)
            )
            for value in values:
                if len(value) >= _SHORTEST_SECRET:
                    kept[value] = None
                    kept.move_to_end(value)
            while len(kept) > most:
                kept.popitem(last=False)
            # No regular expression: re would keep each one that it compiled.
            secrets = (*self._secrets, *self._lasting)
            forms = {
                form
                for value in secrets
                for form in (value, json.dumps(value)[1:-1], quote(value, safe=""))
            }
            self._forms = sorted(forms, key=len, reverse=True)

    def redact(self, text: str) -> str:
        """``text`` without secrets."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, HIDDEN)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\g<1>{HIDDEN}", text)
        return _KEY_ID.sub(HIDDEN, text)

    def clean(self, value: Any, key: str = "") -> Any:
        """``value`` as JSON can hold it, without secrets; ``key`` is the name it stands under."""
        if value is not None and _SECRET_KEY.fullmatch(key):
            return HIDDEN
        if isinstance(value, Mapping):
            return {
                self.redact(str(name)): self.clean(item, str(name)) for name, item in value.items()
            }
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.clean(item) for item in value]
        if (
            value is None
            or isinstance(value, (bool, int))
            or (isinstance(value, float) and abs(value) < float("inf"))
        ):
            return value
        return self.redact(str(value))


class _Intercept(logging.Handler):
    """Hands the standard library's records to loguru, and never raises into the program."""

    def __init__(self) -> None:
        super().__init__()
        self._failing = False

    def emit(self, record: logging.LogRecord) -> None:
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        extra.setdefault("event", record.name)
        try:
            message = record.getMessage()
            logger.bind(log=extra).opt(exception=record.exc_info).log(
                _level(record.levelno), "{}", message
            )
            self._failing = False
        except Exception as error:  # noqa: BLE001 - a full disk or a message that can't be formatted stops no upload
            if not self._failing:
                self._failing = True
                with suppress(OSError, ValueError):
                    print(  # noqa: T201 - nothing else is left to say it by
                        f"log files can't be written: {type(error).__name__}: {error}",
                        file=sys.stderr,
                    )


def start(
    level: str,
    directory: Path | None,
    max_mib: int,
    files: int,
    *,
    console: bool = True,
    redactor: Redactor | None = None,
) -> Redactor:
    """Begin to log, or begin anew with other settings; returns the redactor, to be told each secret.

    Args:
        level: DEBUG, INFO, WARNING or ERROR; libraries are heard from WARNING on.
        directory: where the files go; None for standard error alone. One that can't be written is said once there.
        max_mib: size at which a file is rotated.
        files: how many files of each log are kept, the current one included.
        console: whether standard error is written, too.
        redactor: the one of an earlier start, which knows the secrets.
    """
    redactor = redactor or Redactor()
    _end_sinks()
    problem = None
    if console or directory is None:
        _add_console(redactor)
    if directory is not None:
        try:
            _add_files(redactor, directory, max_mib, files)
        except OSError as error:
            problem = error
            logger.remove()
            _add_console(redactor)
    root = logging.getLogger()
    if (
        not _intercepts()
    ):  # else it stays: without one Python itself prints what is said meanwhile, secrets and all
        root.addHandler(_Intercept())
    root.setLevel(max(logging.WARNING, int(logging.getLevelName(level))))
    logging.getLogger("agent").setLevel(level)
    if problem:
        logging.getLogger(__name__).warning(
            "no log files, standard error only: %s", problem, extra={"event": "log_dir_unwritable"}
        )
    return redactor


def stop() -> None:
    """Write out what is left and let go of the files."""
    for handler in _intercepts():
        logging.getLogger().removeHandler(handler)
    _end_sinks()


def _intercepts() -> Sequence[logging.Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Intercept)]


def _end_sinks() -> None:
    with suppress(OSError):  # a full disk
        logger.remove()


def _level(number: int) -> str:
    """Loguru's name for a level of the standard library."""
    names = {
        logging.CRITICAL: "CRITICAL",
        logging.ERROR: "ERROR",
        logging.WARNING: "WARNING",
        logging.INFO: "INFO",
    }
    return next((name for least, name in names.items() if number >= least), "DEBUG")


def _add_console(redactor: Redactor) -> None:
    # Always before the files: when one of those fails, the handlers after it are not reached.
    line = _format("console", redactor, _short)
    logger.add(_to_stderr, format=line, level=0, catch=False, diagnose=False, backtrace=False)


def _add_files(redactor: Redactor, directory: Path, max_mib: int, files: int) -> None:
    # A folder for each: loguru's retention deletes whatever has the same stem.
    for name, path, line in (
        ("people", directory / "agent.log", _long),
        ("programs", directory / "json" / "agent.jsonl", _json),
    ):
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        logger.add(
            path,
            format=_format(name, redactor, line),
            level=0,
            rotation=max_mib * 1024 * 1024,
            retention=files - 1,
            watch=True,
            catch=False,  # loguru would print the record as it is, secrets and all
            diagnose=False,
            backtrace=False,
            encoding="utf-8",
            errors="backslashreplace",
            opener=_open,
        )


def _open(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o640)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        with suppress(PermissionError):  # somebody else's file, which may be written all the same
            os.fchmod(descriptor, 0o640)
    return descriptor


def _to_stderr(message: Message) -> None:
    with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
        sys.stderr.write(message)
        sys.stderr.flush()


def _format(
    name: str, redactor: Redactor, line: Callable[[Record, Redactor], str]
) -> Callable[[Record], str]:
    """A loguru format that is a finished line: so the text of exceptions is redacted like everything else."""

    def finished(record: Record) -> str:
        record["extra"][name] = line(record, redactor)
        return f"{{extra[{name}]}}\n"

    return finished


def _short(record: Record, redactor: Redactor) -> str:
    message = redactor.redact(record["message"]).translate(_CONTROLS)
    return (
        f"{record['time']:HH:mm:ss} {record['level'].name:<7} {message}{_trace(record, redactor)}"
    )


def _long(record: Record, redactor: Redactor) -> str:
    facts = redactor.clean(record["extra"]["log"])
    event = facts.pop("event")
    rest = "".join(f" {key}={_text(value)}" for key, value in facts.items())
    message = redactor.redact(record["message"])
    line = f"{record['time']:YYYY-MM-DD HH:mm:ss.SSSZZ} {record['level'].name:<7} {event}: {message}{rest}"
    return line.translate(_CONTROLS) + _trace(record, redactor)


def _json(record: Record, redactor: Redactor) -> str:
    facts = redactor.clean(record["extra"]["log"])
    line = {
        "time": record["time"]
        .astimezone(timezone.utc)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z"),
        "level": record["level"].name,
        "event": facts.pop("event"),
        "message": redactor.redact(record["message"]),
        "episode_id": facts.pop("episode_id", None),
    }
    if trace := _trace(record, redactor):
        facts["exception"] = trace.strip()
    return json.dumps({**line, **facts, **line}, ensure_ascii=False)


def _text(value: Any) -> str:
    return (
        value
        if isinstance(value, str) and " " not in value
        else json.dumps(value, ensure_ascii=False)
    )


def _trace(record: Record, redactor: Redactor) -> str:
    exception = record["exception"]
    if exception is None or exception.value is None:
        return ""
    lines = traceback.format_exception(exception.type, exception.value, exception.traceback)
    return "\n" + redactor.redact("".join(lines).rstrip()).translate(_CONTROLS_BUT_NEWLINE)
