"""Reads the configuration: the file, the drop-ins beside it, and the environment variables."""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent.adapters.config.faults import PATH_VARIABLE, ConfigError, ConfigFault
from agent.adapters.config.merging import canonical, merged, unknown_keys
from agent.adapters.config.paths import home
from agent.adapters.config.rendering import shown_value
from agent.adapters.config.sections import KEYS, SECTIONS, Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore] # only on Python 3.10

DEFAULT_PATH = Path("/etc/keystone-agent/agent.toml")

# Environment variables with this prefix are settings.
PREFIX = "KEYSTONE_AGENT_"

_KEY_OF_VARIABLE = {f"{PREFIX}{key.upper().replace('.', '__')}": key for key in KEYS}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where they come from.

    ``origin`` says for each dotted key where its value comes from: "default", the path of a file,
    or the name of a variable.

    ``unknown`` is what this version of the agent does not know of the configuration, as faults.
    ``unknown_keys`` has the name of each such key.

    ``canonical`` has equal bytes for equal configurations, in any version. The bytes may hold
    secrets.
    """

    settings: Settings
    origin: Mapping[str, str]
    unknown: Sequence[ConfigFault] = ()
    unknown_keys: Sequence[str] = ()
    canonical: bytes = field(default=b"", repr=False)


def load(path: Path | None, environ: Mapping[str, str]) -> Loaded:
    """Read the configuration: the file, the drop-ins beside it, the environment.

    Each of them wins over the one before. Only the file at the default path may be missing.

    Args:
        path: The file that ``--config`` named, or None.
        environ: The environment variables.

    Raises:
        ConfigError: Something is wrong, or this version of the agent does not know a key. The
            error has all faults at once.
    """
    loaded = load_leniently(path, environ)
    if loaded.unknown:
        raise ConfigError(loaded.unknown)
    return loaded


def load_leniently(path: Path | None, environ: Mapping[str, str]) -> Loaded:
    """Read the configuration as :func:`load` does, but leave out keys that are unknown.

    The caller decides what an unknown key means.

    Raises:
        ConfigError: Anything else is wrong. The error then names the unknown keys, too.
    """
    named = path or (Path(environ[PATH_VARIABLE]) if environ.get(PATH_VARIABLE) else None)
    main = named or DEFAULT_PATH
    variables = {
        name: text
        for name, text in environ.items()
        if name.startswith(PREFIX) and name != PATH_VARIABLE
    }
    reading = _Reading()
    reading.add_file(main, may_be_missing=named is None)
    for file in sorted(Path(f"{main}.d").glob("*.toml")):
        if not file.name.startswith("."):
            reading.add_file(file, may_be_missing=False)
    reading.add_variables(variables)
    reading.check_bucket_mode()
    settings = reading.validated(home(environ))
    # Every unknown key is among the faults. More faults mean that something else is wrong, too.
    if settings is None or len(reading.faults) > len(reading.unknown):
        raise ConfigError(reading.faults)
    whole = merged(reading.documents)
    unknown_variables = sorted(set(variables) - set(_KEY_OF_VARIABLE))
    names = [*unknown_keys(whole, SECTIONS, KEYS), *unknown_variables]
    try:
        text = canonical(whole, variables)
    except RecursionError:
        fault = ConfigFault("", "", "has tables or lists that are nested too deeply", str(main))
        raise ConfigError([*reading.faults, fault]) from None
    return Loaded(settings, reading.origin, reading.unknown, names, text)


class _Reading:
    """What was read of a configuration so far, and what is wrong with it.

    It exists because all faults of all files are reported at once. Belongs to one call of
    :func:`load_leniently`.
    """

    def __init__(self) -> None:
        """Begin with all settings at their defaults."""
        # The value of each dotted key that a file or a variable sets.
        self.values: dict[str, Any] = {}
        # Where the value of each dotted key comes from.
        self.origin = dict.fromkeys(KEYS, "default")
        # The TOML documents of the files, in the order in which they were read.
        self.documents: list[Mapping[str, Any]] = []
        self.faults: list[ConfigFault] = []
        # Those of the faults that are unknown keys, sections or variables.
        self.unknown: list[ConfigFault] = []

    def add_file(self, file: Path, *, may_be_missing: bool) -> None:
        """Read a file. Its settings win over those that were read before."""
        document = self._read(file, may_be_missing)
        self.documents.append(document)
        for key, value in self._settings_of(document, str(file)):
            old = self.values.get(key)
            if isinstance(old, dict) and isinstance(value, dict):
                # A table such as assets.map is joined with the one of an earlier file.
                self.values[key] = {**old, **value}
            else:
                self.values[key] = value
            self.origin[key] = str(file)

    def add_variables(self, variables: Mapping[str, str]) -> None:
        """Take over the settings of environment variables. They win over those of files."""
        for variable, text in sorted(variables.items()):
            key = _KEY_OF_VARIABLE.get(variable)
            if key is None:
                close = difflib.get_close_matches(variable, _KEY_OF_VARIABLE, n=1)
                if close:
                    expected = f"a known variable; did you mean {close[0]}?"
                else:
                    expected = f"{PREFIX}<SECTION>__<KEY>"
                self._add_unknown(variable, shown_value(variable, text), expected, "environment")
            else:
                self.values[key] = _parsed_variable(key, text)
                self.origin[key] = variable

    def check_bucket_mode(self) -> None:
        """Note what is missing where recordings go to a bucket without a platform."""
        if self.values.get("cloud.mode") != "bucket":
            return
        for key in ("bucket.endpoint", "bucket.name"):
            if self.values.get(key, "") == "":
                expected = 'a value, because cloud.mode = "bucket"'
                self.faults.append(ConfigFault(key, '""', expected, self.origin[key]))

    def validated(self, home: str) -> Settings | None:
        """Return the settings, or None when a value is wrong. ``home`` is what ~ stands for."""
        nested: dict[str, dict[str, Any]] = {}
        for dotted, value in self.values.items():
            section, _, key = dotted.partition(".")
            nested.setdefault(section, {})[key] = value
        try:
            return Settings.model_validate(nested, context={"home": home})
        except ValidationError as error:
            self._add_invalid(error)
        return None

    def _add_invalid(self, error: ValidationError) -> None:
        reported: set[str] = set()
        for found in error.errors(include_url=False):
            section, key, *rest = (str(part) for part in found["loc"])
            dotted = f"{section}.{key}"
            # A list with a wrong item is reported by that item. It is not too short as well.
            if dotted in reported and not rest:
                continue
            reported.add(dotted)
            place = dotted + "".join(f"[{part}]" for part in rest if part != "[key]")
            value = found["input"] if rest else self.values.get(dotted, found["input"])
            expected = _expected(SECTIONS[section].model_fields[key])
            fault = ConfigFault(place, shown_value(key, value), expected, self.origin[dotted])
            self.faults.append(fault)

    def _read(self, file: Path, may_be_missing: bool) -> Mapping[str, Any]:
        """Return the TOML document of a file, or an empty one when the file can't be used."""
        origin = str(file)
        try:
            document: Mapping[str, Any] = tomllib.loads(file.read_bytes().decode("utf-8"))
        except FileNotFoundError:
            if may_be_missing:
                return {}
            expected = "there is no such file"
        except OSError as error:
            expected = f"can't be read: {error.strerror}"
        except UnicodeDecodeError:
            expected = "is no UTF-8 text"
        # The error of tomllib is a ValueError, but tomllib raises others as well.
        except (ValueError, RecursionError) as error:
            expected = f"is no TOML: {error}"
            line = re.search(r"at line (\d+)", str(error))
            if line:
                origin = f"{file}:{line[1]}"
        else:
            return document
        self.faults.append(ConfigFault("", "", expected, origin))
        return {}

    def _settings_of(self, document: Mapping[str, Any], origin: str) -> Sequence[tuple[str, Any]]:
        """Return the known settings of a document, by dotted key. All else is a fault."""
        found = []
        for name, table in document.items():
            if name not in SECTIONS:
                self._add_unknown(name, "", _expected_section(name), origin)
            elif not isinstance(table, dict):
                fault = ConfigFault(name, shown_value(name, table), f"a table [{name}]", origin)
                self.faults.append(fault)
            else:
                known = SECTIONS[name].model_fields
                for key, value in table.items():
                    dotted = f"{name}.{key}"
                    if key in known:
                        found.append((dotted, value))
                    else:
                        expected = _expected_name(key, known, f"key of [{name}]")
                        self._add_unknown(dotted, shown_value(key, value), expected, origin)
        return found

    def _add_unknown(self, key: str, value: str, expected: str, origin: str) -> None:
        fault = ConfigFault(key, value, expected, origin)
        self.unknown.append(fault)
        self.faults.append(fault)


def _expected_section(name: str) -> str:
    # The name may be that of a key whose table was forgotten.
    keys = [key for key in KEYS if key.endswith(f".{name}")]
    if keys:
        return f"a known section; did you mean {keys[0]}?"
    return _expected_name(name, SECTIONS, "section")


def _expected_name(name: str, known: Mapping[str, Any], what: str) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"a known {what}; did you mean {close[0]}?"
    return f"a known {what}: {', '.join(known)}"


def _expected(field: Any) -> str:
    """Return what the value of a setting may be, in words."""
    if field.description:
        return str(field.description)
    return "one of " + ", ".join(f'"{choice}"' for choice in field.annotation.__args__)


def _parsed_variable(key: str, text: str) -> Any:
    """Return the value of a variable as TOML would have it.

    A text that can't be parsed stays a text, and is refused by the type of its setting.
    """
    section, _, name = key.partition(".")
    default = getattr(getattr(Settings(), section), name)
    with suppress(ValueError, RecursionError):
        if isinstance(default, bool):
            return _BOOLEANS.get(text.strip().lower(), text)
        if isinstance(default, (int, float)):
            return float(text) if re.search(r"[.eE]", text) else int(text)
        if isinstance(default, (tuple, dict)):
            return json.loads(text)
    return text
