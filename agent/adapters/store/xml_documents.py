"""Reads the XML documents that a store answers with, and writes the one that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

import urllib3

from agent.adapters.store.responses import is_html
from agent.model.errors import CloudError
from agent.model.transfer import SentPart

# The most digits of a number in an answer. The size of the largest object has 14.
_MAX_DIGITS = 18

# The most levels of elements in an answer. A store's answers have 5. Each level costs memory, and
# may cost a deeper stack.
_MAX_DEPTH = 50

# How often each of these bytes may stand in an answer. A page with 1,000 keys has about 30,000 of
# "<". Each of them makes the parser take memory: for an element, an attribute, or a piece of text.
_MEMORY_MARKS = (b"<", b"=", b"&", b"\n", b"\r")
_MAX_MARKS = 60_000

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class _Tree(ET.TreeBuilder):
    """Builds the elements of an answer, and refuses what no store sends.

    A document type with entities, or deep nesting, could use up this robot's memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def start(self, tag: str, attrs: dict[str, str]) -> ET.Element:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("the elements are nested too deeply")
        return super().start(tag, attrs)

    def end(self, tag: str) -> ET.Element:
        self._depth -= 1
        return super().end(tag)

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError(f"a document type: {name}, {public}, {system}")


def xml(answer: urllib3.BaseHTTPResponse, call: str) -> ET.Element:
    """Return the root element of the document in a success.

    Args:
        answer: The answer, read to its end.
        call: The S3 operation that was asked for.

    Raises:
        CloudError: The answer is no XML.
    """
    try:
        # The parser goes on after an error, and would take the memory for all that follows.
        if any(answer.data.count(mark) > _MAX_MARKS for mark in _MEMORY_MARKS):
            raise ValueError("it has too many elements")  # noqa: TRY301 - all faults are one
        return ET.fromstring(answer.data.strip(), ET.XMLParser(target=_Tree()))  # noqa: S314 - _Tree takes no entities
    # An encoding that Python does not know is a LookupError, and one that the parser does not know
    # is a ValueError.
    except (ET.ParseError, LookupError, ValueError):
        raise CloudError(
            call, "portal" if is_html(answer) else "InvalidResponse", "the answer is no XML"
        ) from None


def name_of(element: ET.Element) -> str:
    """Return the element's name without its namespace, because stores use different ones."""
    return str(element.tag).rpartition("}")[2]


def children(element: ET.Element, name: str) -> list[ET.Element]:
    """Return the elements of that name directly below ``element``."""
    return [child for child in element if name_of(child) == name]


def text_of(element: ET.Element, name: str) -> str:
    """Return the text of the first element of that name directly below; "" where there is none."""
    return next((child.text or "" for child in children(element, name)), "").strip()


def required(element: ET.Element, name: str, call: str) -> str:
    """Return the text of the first element of that name directly below.

    Raises:
        CloudError: There is no such text, so the answer is not the store's.
    """
    text = text_of(element, name)
    if not text:
        code = "portal" if name_of(element).lower() == "html" else "InvalidResponse"
        raise CloudError(call, code, f"the answer has no {name}")
    return text


def number_in(text: str, name: str, call: str) -> int:
    """Return the whole number that ``text`` is.

    Args:
        text: What the store sent.
        name: What the store calls the number.
        call: The S3 operation that was asked for.

    Raises:
        CloudError: ``text`` is no whole number of at most 18 digits.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
        raise CloudError(call, "InvalidResponse", f"{name} in the answer is no number")
    return int(text)


def decoded(page: ET.Element, text: str) -> str:
    """Return a key or a marker of a list, without the encoding that the page says it has."""
    return unquote_plus(text) if text_of(page, "EncodingType") == "url" else text


def completion_request(parts: Sequence[SentPart]) -> bytes:
    """Return the body of CompleteMultipartUpload for these parts.

    S3 wants each checksum repeated that was declared with a part.
    """
    root = ET.Element("CompleteMultipartUpload", xmlns=_NAMESPACE)
    for part in parts:
        entry = ET.SubElement(root, "Part")
        ET.SubElement(entry, "PartNumber").text = str(part.number)
        ET.SubElement(entry, "ETag").text = part.etag
        if part.checksum:
            ET.SubElement(entry, f"Checksum{part.algorithm}").text = part.checksum
    return ET.tostring(root)
