"""Writes log records to the console, a file for people and a file for programs, without secrets.

The other modules log through the standard library's ``logging``, and put the fields of a message
into ``extra``. Here loguru takes the records over, together with those of the libraries from
WARNING on.
"""

from __future__ import annotations

import json
import logging
import math
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

from agent.adapters.standard_error import is_journal, with_priority
from agent.model.printable import json_text, log_field, printable, printable_lines

if TYPE_CHECKING:
    from loguru import Message, Record

# What stands in the place of a secret.
HIDDEN = "***"

# Shorter secrets are not hidden: ordinary words would be hidden with them.
_SECRET_MIN_CHARACTERS = 8

# How many secrets are remembered. Storage keys change every few minutes, and the oldest of them
# no longer open anything.
_MAX_SECRETS = 256
_MAX_LASTING_SECRETS = 32

_FIELD = (
    r"[\w-]{0,40}(?:secret|token|passw(?:or)?d|signature|(?<!Exchange)credential"
    r"|(?:api|access|private|secret)[_-]?key(?:[_-]?(?:id|secret))?)"
)
_SECRET_KEY = re.compile(rf"{_FIELD}|authorization", re.IGNORECASE)

# Text that looks like a secret. Group 1 of each pattern stays, and the rest is hidden.
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # The header Authorization, and bearer tokens anywhere.
        r"(\bauthorization\\*[\"']?\s*[:=]\s*\\*[\"']?)[^\"'\\\r\n]+",
        r"(\bbearer\s+)[\w.~+/=%-]+",
        # Fields with a value in quotes.
        rf"(\b{_FIELD}[\"']?\s*[:=]\s*)(?:\"(?:\\.|[^\"\\])*\"?|'(?:\\.|[^'\\])*'?)",
        # Fields of a JSON text that stands inside another string.
        rf"(\b{_FIELD}\\+[\"']\s*:\s*\\+[\"']).*?(?=\\+[\"'])",
        # Fields without quotes. After a colon only long values are hidden, because prose has
        # colons, too.
        rf"(\b{_FIELD}=)[^\s&\"',;)}}\]\\]+",
        rf"(\b{_FIELD}:\s*)[^\s&\"',;)}}\]\\]{{16,}}",
        # User and password in an address.
        r"(://)[^/@\s\"']+(?=@)",
    )
)

# AWS key ids and JSON web tokens.
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b|\beyJ[\w-]{8,}\.[\w-]+\.[\w-]+")

# What every record has. All other attributes are the fields of a message.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Redactor:
    """Hides secrets in log texts: those it was given, and texts that look like a secret.

    It exists because errors of libraries may quote a request with its keys.

    Any thread may use it.
    """

    def __init__(self) -> None:
        """Begin with the patterns, and without any given secret."""
        self._lock = threading.Lock()
        self._secrets: OrderedDict[str, None] = OrderedDict()
        self._lasting: OrderedDict[str, None] = OrderedDict()
        # The given secrets in each form that they may have in a text, longest first.
        self._forms: Sequence[str] = ()

    def hide(self, *values: str, lasting: bool = False) -> None:
        """Hide these secrets from now on, also as they look in JSON and in URLs.

        Only so many secrets are remembered, the newest ones. ``lasting`` secrets are counted apart:
        API keys and access tokens are used much longer than storage keys.
        """
        with self._lock:
            kept = self._lasting if lasting else self._secrets
            most = _MAX_LASTING_SECRETS if lasting else _MAX_SECRETS
            for value in values:
                if len(value) >= _SECRET_MIN_CHARACTERS:
                    kept[value] = None
                    kept.move_to_end(value)
            while len(kept) > most:
                kept.popitem(last=False)
            # These are plain texts and no regular expression, because the module re would keep
            # each expression that it compiled, with the secrets in it.
            secrets = (*self._secrets, *self._lasting)
            forms = {
                form
                for value in secrets
                for form in (value, json.dumps(value)[1:-1], quote(value, safe=""))
            }
            self._forms = sorted(forms, key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Return ``text`` with its secrets hidden."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, HIDDEN)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\g<1>{HIDDEN}", text)
        return _KEY_ID.sub(HIDDEN, text)

    def clean(self, value: Any, key: str = "") -> Any:
        """Return ``value`` as JSON can hold it, with its secrets hidden.

        ``key`` is the name of the field that has the value. It may say that the value is a secret.
        """
        if value is not None and _SECRET_KEY.fullmatch(key):
            return HIDDEN
        if isinstance(value, Mapping):
            return {
                self.redact(str(name)): self.clean(item, str(name)) for name, item in value.items()
            }
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.clean(item) for item in value]
        if value is None or isinstance(value, (bool, int)):
            return value
        # JSON has neither infinity nor NaN.
        if isinstance(value, float) and math.isfinite(value):
            return value
        return self.redact(str(value))


class _Intercept(logging.Handler):
    """Hands the records of the standard library to loguru, and never raises into the program.

    Any thread may log through it.
    """

    def __init__(self) -> None:
        super().__init__()
        # Whether the last record could not be written. Only the first of many failures is said.
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
        # A full disk, or a message that can't be formatted, must not stop an upload.
        except Exception as error:  # noqa: BLE001 - logging stops no upload
            if not self._failing:
                self._failing = True
                text = f"log files can't be written: {type(error).__name__}: {error}"
                with suppress(OSError, ValueError):
                    print(printable(text), file=sys.stderr)  # noqa: T201 - logging is what has failed


def start(
    level: str,
    directory: Path | None,
    max_mib: int,
    files: int,
    *,
    console: bool = True,
    redactor: Redactor | None = None,
) -> Redactor:
    """Start logging, or start anew with other settings, and return the redactor.

    The caller gives each secret to the redactor.

    Args:
        level: DEBUG, INFO, WARNING or ERROR. Records of libraries are written from WARNING on.
        directory: The folder of the log files, or None for standard error alone. When it can't
            be written, one warning on standard error says so.
        max_mib: The size in MiB at which a file is rotated.
        files: How many files of each log are kept, the current one included.
        console: Whether to write to standard error, too.
        redactor: The redactor of an earlier start, which knows the secrets.
    """
    redactor = redactor or Redactor()
    _remove_sinks()
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
    # A handler of an earlier start stays. Without any handler Python would print the records
    # that come in between, with their secrets.
    if not _intercepts():
        root.addHandler(_Intercept())
    root.setLevel(max(logging.WARNING, int(logging.getLevelName(level))))
    logging.getLogger("agent").setLevel(level)
    if problem:
        logging.getLogger(__name__).warning(
            "no log files can be written, only standard error is: %s",
            problem,
            extra={"event": "log_dir_unwritable"},
        )
    return redactor


def stop() -> None:
    """Stop logging: write what is left, and close the files."""
    for handler in _intercepts():
        logging.getLogger().removeHandler(handler)
    _remove_sinks()


def _intercepts() -> Sequence[logging.Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Intercept)]


def _remove_sinks() -> None:
    # On a full disk the last lines can't be written.
    with suppress(OSError):
        logger.remove()


def _level(number: int) -> str:
    """Return loguru's name for a level of the standard library."""
    names = {
        logging.CRITICAL: "CRITICAL",
        logging.ERROR: "ERROR",
        logging.WARNING: "WARNING",
        logging.INFO: "INFO",
    }
    return next((name for least, name in names.items() if number >= least), "DEBUG")


def _add_console(redactor: Redactor) -> None:
    # The console comes before the files: when a file fails, loguru skips the sinks after it.
    line = _format("console", redactor, _for_journal if is_journal(os.environ) else _short)
    logger.add(_to_stderr, format=line, level=0, catch=False, diagnose=False, backtrace=False)


def _add_files(redactor: Redactor, directory: Path, max_mib: int, files: int) -> None:
    # Each file has a folder of its own, because loguru's retention deletes all files with the
    # same stem in a folder.
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
            # Loguru would print a record that it can't write, with its secrets.
            catch=False,
            diagnose=False,
            backtrace=False,
            encoding="utf-8",
            errors="backslashreplace",
            opener=_open,
        )


def _open(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o640)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        # The file may belong to another user and be writable nevertheless.
        with suppress(PermissionError):
            os.fchmod(descriptor, 0o640)
    return descriptor


def _to_stderr(message: Message) -> None:
    # Standard error may be closed, or missing altogether.
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(message)
        sys.stderr.flush()


def _format(
    name: str, redactor: Redactor, line: Callable[[Record, Redactor], str]
) -> Callable[[Record], str]:
    """Return a loguru format that is a finished line.

    So loguru adds nothing to it, and the text of exceptions is redacted like all else.
    """

    def finished(record: Record) -> str:
        record["extra"][name] = line(record, redactor)
        return f"{{extra[{name}]}}\n"

    return finished


def _short(record: Record, redactor: Redactor) -> str:
    """Return a record as the console shows it."""
    message = printable(redactor.redact(record["message"]))
    head = f"{record['time']:HH:mm:ss} {record['level'].name:<7}"
    return f"{head} {message}{_trace(record, redactor)}"


def _for_journal(record: Record, redactor: Redactor) -> str:
    """Return a record for systemd's journal, which has a time and a priority of its own."""
    message = printable(redactor.redact(record["message"]))
    line = f"{record['level'].name:<7} {message}{_trace(record, redactor)}"
    return with_priority(line, record["level"].no)


def _long(record: Record, redactor: Redactor) -> str:
    """Return a record as the file for people has it."""
    facts = redactor.clean(record["extra"]["log"])
    event = facts.pop("event")
    rest = "".join(f" {log_field(key, value)}" for key, value in facts.items())
    message = redactor.redact(record["message"])
    head = f"{record['time']:YYYY-MM-DD HH:mm:ss.SSSZZ} {record['level'].name:<7}"
    return f"{head} {printable(f'{event}: {message}')}{rest}{_trace(record, redactor)}"


def _json(record: Record, redactor: Redactor) -> str:
    """Return a record as the file for programs has it: one JSON object."""
    facts = redactor.clean(record["extra"]["log"])
    time = record["time"].astimezone(timezone.utc).isoformat(timespec="milliseconds")
    line = {
        "time": time.replace("+00:00", "Z"),
        "level": record["level"].name,
        "event": facts.pop("event"),
        "message": redactor.redact(record["message"]),
        "episode_id": facts.pop("episode_id", None),
    }
    if trace := _trace(record, redactor):
        facts["exception"] = trace.strip()
    # The fields of the line come first, and no field of a message takes their place.
    return json_text({**line, **facts, **line})


def _trace(record: Record, redactor: Redactor) -> str:
    """Return the traceback of a record, which begins with a new line, or "" when it has none."""
    exception = record["exception"]
    if exception is None or exception.value is None:
        return ""
    lines = traceback.format_exception(exception.type, exception.value, exception.traceback)
    return "\n" + printable_lines(redactor.redact("".join(lines).rstrip()))
