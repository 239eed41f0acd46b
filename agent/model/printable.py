"""Quotes text from outside, so that nothing that is shown can act on a terminal, a log or a shell.

Names of files and texts of servers come from others. A control character in them could move the
cursor or begin a line of its own, and a mark for the direction of writing could reorder what is
read. So everything that Unicode does not call printable is shown as an escape: control characters
(C0, DEL and C1), marks of direction, separators of lines and paragraphs, and bytes that are no
UTF-8.
"""

from __future__ import annotations

import json
import shlex
from typing import Any


def printable(text: str) -> str:
    """Return ``text`` for one line that people read. Each other character is an escape."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def printable_lines(text: str) -> str:
    """Return ``text`` as :func:`printable` does, but leave its line breaks as they are."""
    return "\n".join(printable(line) for line in text.split("\n"))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return ``value`` as JSON that can be shown. A program that parses it gets ``value`` itself.

    Raises TypeError where JSON has no such value.
    """
    return escaped_json(json.dumps(value, ensure_ascii=False, indent=indent))


def escaped_json(document: str) -> str:
    """Return a JSON document with escapes for what is not printable. Its meaning stays the same."""
    if document.isprintable():
        return document
    # Between the values of a JSON document, a line break is the only such character.
    return "".join(
        letter if letter.isprintable() or letter == "\n" else _json_escape(letter)
        for letter in document
    )


def shell_word(text: str) -> str:
    """Return ``text`` as one word that can be pasted into a shell, and that is harmless to show.

    A plain text stays as it is, others are put in quotes. Characters that are not printable need
    ``$'…'``, which dash does not know.
    """
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_ansi_c_escape, text)) + "'"


def log_field(name: str, value: Any) -> str:
    """Return a field of a log line, ``NAME=VALUE``. A path can be pasted into a shell."""
    if isinstance(value, str):
        if name == "path":
            return f"path={shell_word(value)}"
        if " " not in value:
            return printable(f"{name}={value}")
    return printable(f"{name}=") + json_text(value)


def _json_escape(letter: str) -> str:
    # A character beyond the 16 bits of an escape becomes two of them, as JSON wants it.
    return json.dumps(letter)[1:-1]


def _ansi_c_escape(letter: str) -> str:
    if letter in "\\'":
        return "\\" + letter
    if letter.isprintable():
        return letter
    try:
        # Such a letter stands for a byte of a file's name that is no UTF-8.
        encoded = letter.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Half of any other surrogate pair is no character, and no file has it in its name.
        encoded = letter.encode("utf-8", "surrogatepass")
    # Octal escapes have three digits in each shell. A hexadecimal one has no end in some.
    return "".join(f"\\{byte:03o}" for byte in encoded)
