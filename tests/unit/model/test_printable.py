"""Tests that nothing that is shown can act on a terminal, a log or a shell."""

from __future__ import annotations

import json

import pytest

from agent.model.printable import (
    escaped_json,
    json_text,
    log_field,
    printable,
    printable_lines,
    shell_word,
)

# One of each kind: C0, DEL, C1, marks of direction, separators, a tag, a byte that is no UTF-8,
# half a surrogate pair.
ACTING = [
    *("\0", "\a", "\t", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9b"),
    *("\u061c", "\u200e", "\u202e", "\u2066", "\u2069", "\ufeff", "\u2028", "\u2029"),
    *("\U000e0001", "\udcff", "\ud800"),
]


@pytest.mark.parametrize("letter", ACTING)
def test_a_character_that_acts_is_shown_as_an_escape(letter: str) -> None:
    text = f"a{letter}b"
    shown = [printable(text), json_text([text]), log_field("name", text), shell_word(text)]
    assert [one for one in shown if not one.isprintable()] == []
    assert json.loads(json_text([text], indent=2)) == [text]
    assert printable_lines(text).replace("\n", "").isprintable()


def test_letters_of_all_languages_stay_as_they_are() -> None:
    text = "Prüfstand 録音 تسجيل 😀 \\"
    assert printable(text) == text
    assert json_text(text) == '"Prüfstand 録音 تسجيل 😀 \\\\"'


def test_a_json_document_keeps_its_lines_and_its_meaning() -> None:
    document = '{\n  "a": "\x9b\u202e"\n}'
    assert escaped_json(document) == '{\n  "a": "\\u009b\\u202e"\n}'
    assert json.loads(escaped_json(document)) == json.loads(document)


def test_a_path_in_a_log_line_can_be_pasted_and_other_fields_are_json() -> None:
    assert log_field("path", "/a b.mcap") == "path='/a b.mcap'"
    assert log_field("path", "/a.mcap") == "path=/a.mcap"
    assert log_field("what", "a b") == 'what="a b"'
    assert log_field("count", 3) == "count=3"
